/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Virtio functions whose DMA is logged by what they are reached through: the pages come into the
 * front end's log, memory that comes meanwhile is logged too, and what cannot be logged is either
 * logged by shadows or marked.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "virtio_test.h"

#define LOG_BYTES 0x1000
#define PAGE	  UINT64_C(4096)
/* Of the guest's memory, and memory that comes, behind. */
#define BUFFER	  (MEM_IOVA + 0x1f0000)
#define MORE	  UINT64_C(0x800000)
#define MORE_SIZE UINT64_C(0x10000)

struct log {
	uint8_t bits[LOG_BYTES];
	struct vdpa_dirty_log log;
	uint64_t used[VDPA_VQ_MAX];
};

static void
add_logged(struct fixture *f, const char *words)
{
	fake_virtio_init(&f->v, "v0", 1);
	f->v.pci.logs_dma = true;
	assert_int_equal(add(f, words), 0);
	f->guest.start.features = V1;
	fake_guest_set_queues(&f->guest, 2);
}

static int
log_on(struct fixture *f, struct log *log)
{
	memset(log, 0, sizeof(*log));
	log->log = (struct vdpa_dirty_log){.bitmap = log->bits, .size = LOG_BYTES, .fd = -1};
	for (unsigned int i = 0; i < VDPA_VQ_MAX; i++)
		log->used[i] = UINT64_MAX;
	return vdpa_device_set_log(f->vdev, &log->log, log->used);
}

static bool
is_marked(const struct log *log, uint64_t iova)
{
	return (__atomic_load_n(&log->bits[iova >> 15], __ATOMIC_ACQUIRE) >> (iova >> 12 & 7) &
		1) != 0;
}

static unsigned int
n_marked(const struct log *log)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < LOG_BYTES; i++)
		n += (unsigned int)__builtin_popcount(
			__atomic_load_n(&log->bits[i], __ATOMIC_ACQUIRE));
	return n;
}

static void
write_page(struct fixture *f, uint64_t iova)
{
	__atomic_store_n(&f->v.pci.written[0], iova, __ATOMIC_RELEASE);
}

static void
pages_that_a_function_writes_are_in_the_log(void **state)
{
	struct fixture *f = *state;
	struct log log;

	add_logged(f, WORDS);
	assert_true(vdpa_get_capabilities(f->vdev)->log);
	start(f);
	assert_int_equal(f->v.pci.log_starts, 0);
	assert_int_equal(log_on(f, &log), 0);
	/* The queues stay where they are. */
	assert_false(is_on_shadow(f, 0) || is_on_shadow(f, 1));
	assert_int_equal(f->v.pci.n_log_ranges, 1);
	assert_true(f->v.pci.log_ranges[0].first == MEM_IOVA &&
		    f->v.pci.log_ranges[0].last == MEM_IOVA + MEM_SIZE - 1);
	assert_int_equal(n_marked(&log), 0);
	write_page(f, BUFFER);
	EVENTUALLY(is_marked(&log, BUFFER));
	assert_int_equal(n_marked(&log), 1);
	/* Until the last moment. */
	write_page(f, BUFFER + PAGE);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_true(is_marked(&log, BUFFER + PAGE));
	assert_int_equal(f->v.pci.log_stops, 1);
	assert_false(f->v.pci.log_on);
	end_binding(f);
}

static void
a_session_within_a_migration_is_logged_from_its_start(void **state)
{
	struct fixture *f = *state;
	struct log log;

	add_logged(f, WORDS);
	start(f);
	assert_int_equal(log_on(f, &log), 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	f->guest.start.log = &log.log;
	f->guest.start.used_iova = log.used;
	start(f);
	assert_true(f->v.pci.log_on);
	assert_int_equal(f->v.pci.log_starts, 2);
	write_page(f, BUFFER);
	assert_int_equal(vdpa_device_set_log(f->vdev, NULL, NULL), 0);
	assert_true(is_marked(&log, BUFFER));
	assert_false(f->v.pci.log_on);
	f->guest.start.log = NULL;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->v.pci.log_stops, 2);
	end_binding(f);
}

/* The guest's table, and a region behind it. */
static struct vdpa_iotlb *
more_memory(struct fixture *f)
{
	struct vdpa_mem_region_spec spec = {.iova = MORE, .uaddr = MORE, .size = MORE_SIZE};
	struct vdpa_iotlb *tlb;

	spec.fd = memfd_create("more", MFD_CLOEXEC);
	assert_int_equal(ftruncate(spec.fd, MORE_SIZE), 0);
	assert_int_equal(vdpa_iotlb_add(f->guest.tlb, &spec, &tlb), 0);
	close(spec.fd);
	return tlb;
}

/* One log ends before the next begins: what is written in between nobody has logged. */
static void
memory_that_comes_meanwhile_is_logged_and_all_counts_as_written_once(void **state)
{
	struct fixture *f = *state;
	struct vdpa_iotlb *tlb = more_memory(f);
	struct log log;

	add_logged(f, WORDS);
	start(f);
	assert_int_equal(log_on(f, &log), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, tlb), 0);
	assert_int_equal(f->v.pci.log_starts, 2);
	assert_int_equal(f->v.pci.n_log_ranges, 2);
	assert_true(f->v.pci.log_ranges[1].first == MORE &&
		    f->v.pci.log_ranges[1].last == MORE + MORE_SIZE - 1);
	assert_int_equal(n_marked(&log), (MEM_SIZE + MORE_SIZE) / PAGE);
	memset(log.bits, 0, sizeof(log.bits));
	write_page(f, MORE + PAGE);
	EVENTUALLY(is_marked(&log, MORE + PAGE));
	/* Memory that goes changes nothing. */
	assert_int_equal(vdpa_device_set_memory(f->vdev, f->guest.tlb), 0);
	assert_int_equal(f->v.pci.log_starts, 2);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	end_binding(f);
	vdpa_iotlb_put(tlb);
}

static void
a_function_that_reports_no_more_has_all_memory_marked(void **state)
{
	struct fixture *f = *state;
	struct log log;

	add_logged(f, WORDS);
	start(f);
	assert_int_equal(log_on(f, &log), 0);
	f->v.pci.log_report_err = EIO;
	EVENTUALLY(n_marked(&log) == MEM_SIZE / PAGE);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	f->v.pci.log_report_err = 0;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	end_binding(f);
}

static void
a_function_without_room_for_the_memory_has_its_queues_on_shadows(void **state)
{
	struct fixture *f = *state;
	struct log log;

	add_logged(f, WORDS);
	start(f);
	f->v.pci.log_start_err = ENOMEM;
	assert_int_equal(log_on(f, &log), 0);
	assert_true(is_on_shadow(f, 0) && is_on_shadow(f, 1));
	assert_int_equal(f->v.pci.log_stops, 0);
	assert_int_equal(vdpa_device_set_log(f->vdev, NULL, NULL), 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	end_binding(f);
}

/* And where a shadow is not allowed the log is refused, and the guest stays. */
static void
by_the_word_the_log_is_the_functions_or_none(void **state)
{
	struct fixture *f = *state;
	struct log log;

	add_logged(f, WORDS "migration log");
	start(f);
	f->v.pci.log_start_err = ENOMEM;
	assert_int_equal(log_on(f, &log), -EOPNOTSUPP);
	assert_false(is_on_shadow(f, 0));
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	end_binding(f);
}

static void
the_word_for_it_is_refused_where_there_is_no_log(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	assert_refused(add(f, WORDS "migration log"), EOPNOTSUPP,
		       "v0: migration log: the device has no dirty log");
	assert_null(vdpa_find_device("v0"));
}

static void
a_function_that_is_gone_is_asked_no_more(void **state)
{
	struct fixture *f = *state;
	struct log log;

	add_logged(f, WORDS);
	start(f);
	assert_int_equal(log_on(f, &log), 0);
	f->v.pci.all_ones = true;
	(void)vdpa_pci_present(device(f)->hw.pci);
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	/* What it has written, or writes yet, nobody knows. */
	EVENTUALLY(n_marked(&log) == MEM_SIZE / PAGE);
	f->v.pci.log_reports = 0;
	usleep(150000);
	assert_int_equal(f->v.pci.log_reports, 0);
	f->v.pci.all_ones = false;
}

/* As many ranges as there may be, by joining those with the least between them. */
static void
a_table_of_many_regions_is_logged_in_few_ranges(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mem_region_spec spec = {.size = PAGE};
	struct vdpa_iotlb *tlb = vdpa_iotlb_get(f->guest.tlb), *next;
	uint64_t last = 0;
	struct log log;

	spec.fd = memfd_create("more", MFD_CLOEXEC);
	assert_int_equal(ftruncate(spec.fd, PAGE), 0);
	for (unsigned int i = 0; i < 2 * VDPA_PCI_DMA_LOG_RANGES; i++) {
		/* In pairs with a page between, and 16 from one to the next. */
		spec.iova = spec.uaddr = MORE + (i / 2) * 16 * PAGE + i % 2 * 2 * PAGE;
		assert_int_equal(vdpa_iotlb_add(tlb, &spec, &next), 0);
		vdpa_iotlb_put(tlb);
		tlb = next;
	}
	close(spec.fd);
	add_logged(f, WORDS);
	f->guest.start.iotlb = tlb;
	start(f);
	assert_int_equal(log_on(f, &log), 0);
	assert_int_equal(f->v.pci.n_log_ranges, VDPA_PCI_DMA_LOG_RANGES);
	assert_int_equal(f->v.pci.log_ranges[0].last, MEM_IOVA + MEM_SIZE - 1);
	for (unsigned int i = 0; i < tlb->n; i++) {
		const struct vdpa_mem_region *r = tlb->regions[i];
		bool in = false;

		for (unsigned int j = 0; j < f->v.pci.n_log_ranges; j++)
			in |= r->iova >= f->v.pci.log_ranges[j].first &&
			      r->iova + r->size - 1 <= f->v.pci.log_ranges[j].last;
		assert_true(in);
	}
	for (unsigned int j = 0; j < f->v.pci.n_log_ranges; j++) {
		assert_true(f->v.pci.log_ranges[j].first >= last);
		last = f->v.pci.log_ranges[j].last;
	}
	write_page(f, MORE + 18 * PAGE);
	EVENTUALLY(is_marked(&log, MORE + 18 * PAGE));
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	end_binding(f);
	f->guest.start.iotlb = f->guest.tlb;
	vdpa_iotlb_put(tlb);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(pages_that_a_function_writes_are_in_the_log),
		T(a_session_within_a_migration_is_logged_from_its_start),
		T(memory_that_comes_meanwhile_is_logged_and_all_counts_as_written_once),
		T(a_function_that_reports_no_more_has_all_memory_marked),
		T(a_function_without_room_for_the_memory_has_its_queues_on_shadows),
		T(by_the_word_the_log_is_the_functions_or_none),
		T(the_word_for_it_is_refused_where_there_is_no_log),
		T(a_function_that_is_gone_is_asked_no_more),
		T(a_table_of_many_regions_is_logged_in_few_ranges),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
