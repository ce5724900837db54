/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A virtio function that one process leaves running and the next one takes over: that nothing is
 * written to it on the way, and that whatever does not fit, in the record or in the function, ends
 * in a reset and a device that starts anew. The store is played here: descriptors by name, and the
 * part of the record that is the function's.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "virtio_test.h"

#include "page_holders.h"
#include "vdpa_consumer.h"
#include "virtio_kept_test.h"

static void
is_taken_over(struct fixture *f, uint16_t pairs, uint64_t features)
{
	struct snapshot before;
	uint64_t count;

	begin(f, pairs, features);
	for (unsigned int life = 0; life < 3; life++) {
		leave(f);
		before = look(f);
		for (uint16_t i = 0; i < 2 * pairs; i++)
			f->v.vq[i].kicks = 0;
		come_back(f);
		assert_same(f, &before);
		f->v.pci.adoptions = 0;
		assert_int_equal(start_again(f), 0);
		assert_same(f, &before);
		assert_mapped(f);
		assert_int_equal(f->v.pci.adoptions, 2);
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
		/* Each queue is kicked, and its interrupts reach its guest. */
		for (uint16_t i = 0; i < 2 * pairs; i++) {
			assert_true(f->v.vq[i].kicks > 0);
			while (read(f->guest.call[i], &count, sizeof(count)) > 0)
				;
			assert_true(fake_virtio_interrupt(&f->v, i));
			assert_int_equal(read(f->guest.call[i], &count, sizeof(count)), 8);
		}
	}
	/* From then on it is as any. */
	if (pairs > 1)
		assert_int_equal(vdpa_device_enable_vq(f->vdev, 2, false), 0);
	assert_int_equal(f->v.commands, before.commands + (pairs > 1));
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->v.status, 0);
	end_binding(f);
	start(f);
	assert_mapped(f);
}

static void
the_next_process_takes_over_a_function_without_a_write(void **state)
{
	is_taken_over(*state, 1, 0);
}

static void
so_it_does_with_packed_rings_and_several_pairs(void **state)
{
	is_taken_over(*state, 3, PACKED);
}

/* Nobody goes on with it: then it does not go on. */
static void
what_nobody_takes_over_is_reset(void **state)
{
	struct fixture *f = *state;

	begin(f, 1, 0);
	leave(f);
	/* As after a kill while its memory was logged. */
	f->v.pci.logs_dma = f->v.pci.log_on = true;
	come_back(f);
	assert_int_equal(f->v.status, 0x0f);
	assert_true(vdpa_device_is_left(f->vdev));
	vdpa_device_drop_left(f->vdev);
	assert_false(f->v.pci.log_on);
	assert_int_equal(f->v.status, 0);
	assert_false(bus_master(f));
	assert_false(f->v.pci.msix_on);
	assert_int_equal(f->v.pci.n_mapped, 0);
	start(f);
	assert_mapped(f);
}

/* The start fails, or there was nothing to take over: the device is reset, and starts anew. */
static void
assert_starts_anew(struct fixture *f)
{
	bool was_left = vdpa_device_is_left(f->vdev);

	if (was_left) {
		assert_true(start_again(f) < 0);
		assert_int_equal(f->v.status, 0);
		assert_false(bus_master(f));
		fake_guest_leave(f->vdev);
	}
	assert_false(f->v.pci.msix_on);
	assert_int_equal(f->v.pci.n_mapped, 0);
	start(f);
	assert_mapped(f);
}

/* What may have happened to a function while no process lived. */
static void
stops(struct fixture *f)
{
	f->v.status = 0;
}

static void
needs_reset(struct fixture *f)
{
	f->v.status |= 0x40;
}

static void
loses_bus_master(struct fixture *f)
{
	f->v.pci.config[4] &= (uint8_t)~BUS_MASTER;
}

static void
has_other_features(struct fixture *f)
{
	f->v.driver_features ^= RTE_BIT64(VIRTIO_F_RING_RESET);
}

static void
has_a_ring_elsewhere(struct fixture *f)
{
	f->v.vq[1].driver += 64;
}

static void
has_a_shorter_ring(struct fixture *f)
{
	f->v.vq[0].size = 32;
}

static void
has_another_vector(struct fixture *f)
{
	f->v.vq[0].vector = 0;
}

static void
has_no_vector_for_its_configuration(struct fixture *f)
{
	f->v.config_vector = FAKE_VIRTIO_NO_VECTOR;
}

static void
has_lost_a_queue(struct fixture *f)
{
	f->v.vq[1].enable = 0;
}

static void
has_its_control_queue_elsewhere(struct fixture *f)
{
	f->v.vq[2].desc += 4096;
}

static void
is_another_function(struct fixture *f)
{
	f->v.pci.config[0x2e] ^= 1;
}

static void
has_lost_the_control_queue_s_memory(struct fixture *f)
{
	__wrap_vdpa_restart_del("v0", store.what);
}

static void
has_its_files_swapped(struct fixture *f)
{
	int fd = memfd_create("another", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_int_equal(ftruncate(fd, 8192), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	assert_int_equal(dup2(fd, store.fd), store.fd);
	close(fd);
}

static void
a_function_that_does_not_fit_starts_anew(void **state)
{
	static void (*const changes[])(struct fixture * f) = {
		stops,
		needs_reset,
		loses_bus_master,
		has_other_features,
		has_a_ring_elsewhere,
		has_a_shorter_ring,
		has_another_vector,
		has_no_vector_for_its_configuration,
		has_lost_a_queue,
		has_its_control_queue_elsewhere,
		is_another_function,
		has_lost_the_control_queue_s_memory,
		has_its_files_swapped,
	};
	struct fixture *f = *state;

	begin(f, 1, 0);
	for (unsigned int i = 0; i < RTE_DIM(changes); i++) {
		leave(f);
		changes[i](f);
		come_back(f);
		assert_starts_anew(f);
	}
}

/* It cannot even be opened: it does not go on with nobody to drive it. */
static void
a_function_that_is_not_opened_is_stopped(void **state)
{
	struct fixture *f = *state;

	begin(f, 1, 0);
	leave(f);
	f->v.pci.config[0x0e] = 1;
	assert_int_equal(add(f, WORDS), -ENOTSUP);
	assert_false(bus_master(f));
	assert_false(f->v.pci.msix_on);
	assert_int_equal(f->v.pci.n_mapped, 0);
	f->v.pci.config[0x0e] = 0;
}

/* A front end's words that are not those that the device was started with. */
static void
a_start_that_says_something_else_fails(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_config was;

	begin(f, 1, 0);
	was = f->guest.vqs[1];
	for (unsigned int i = 0; i < 4; i++) {
		leave(f);
		come_back(f);
		if (i == 0)
			f->guest.vqs[1].num /= 2;
		else if (i == 1)
			f->guest.vqs[1].driver += 64;
		else if (i == 2)
			f->guest.vqs[1].ready = false;
		else
			f->guest.start.features |= PACKED;
		assert_true(vdpa_device_is_left(f->vdev));
		assert_true(start_again(f) < 0);
		assert_int_equal(f->v.status, 0);
		assert_false(bus_master(f));
		f->guest.vqs[1] = was;
		f->guest.start.features &= ~PACKED;
		end_binding(f);
		start(f);
		assert_mapped(f);
	}
}

/* Killed before the memory was mapped, or after it was unmapped: the record has it, the kernel does
 * not. */
static void
memory_that_is_recorded_and_not_mapped_is_mapped(void **state)
{
	struct fixture *f = *state;

	begin(f, 1, 0);
	leave(f);
	for (unsigned int i = 0; i < f->v.pci.n_mapped; i++)
		if (f->v.pci.mapped[i].iova == MEM_IOVA)
			f->v.pci.mapped[i] = f->v.pci.mapped[--f->v.pci.n_mapped];
	assert_int_equal(f->v.pci.n_mapped, 1);
	come_back(f);
	assert_int_equal(start_again(f), 0);
	assert_int_equal(f->v.status, 0x0f);
	assert_mapped(f);
	/* And where nobody wants it. */
	leave(f);
	f->v.pci.n_mapped = 0;
	come_back(f);
	assert_starts_anew(f);
}

/* None of it is there: these are not the files of its domain, and what else is mapped by them
 * nobody knows. The function is opened by new ones. */
static void
files_without_any_recorded_mapping_are_not_used(void **state)
{
	struct fixture *f = *state;
	unsigned int opens;

	begin(f, 1, 0);
	leave(f);
	f->v.pci.n_mapped = 0;
	opens = f->v.pci.opens;
	come_back(f);
	assert_int_equal(f->v.pci.opens, opens + 2);
	assert_false(vdpa_device_is_left(f->vdev));
	assert_int_equal(f->v.status, 0);
	start(f);
	assert_mapped(f);
}

/* Killed around a command: whether the device has it, or knows of it, shows in the ring. */
static void
a_command_that_was_cut_short_is_given_again(void **state)
{
	struct fixture *f = *state;
	unsigned int commands;

	begin(f, 1, 0);
	device(f)->ctrl.busy = true;
	virtio_kept_write(device(f));
	commands = f->v.commands;
	leave(f);
	f->v.promisc = false;
	come_back(f);
	assert_int_equal(start_again(f), 0);
	assert_true(f->v.commands > commands);
	assert_true(f->v.promisc);
	assert_mapped(f);
	/* Once is enough. */
	commands = f->v.commands;
	leave(f);
	come_back(f);
	assert_int_equal(start_again(f), 0);
	assert_int_equal(f->v.commands, commands);
}

/* Killed between the command and its kick: the device has not heard of it. */
static void
a_command_that_was_not_kicked_is_kicked(void **state)
{
	struct fixture *f = *state;
	unsigned int commands;
	uint16_t *avail;

	begin(f, 1, 0);
	avail = fake_pci_dma(&f->v.pci, f->v.vq[2].driver, 4);
	assert_non_null(avail);
	device(f)->ctrl.busy = true;
	virtio_kept_write(device(f));
	assert_int_equal(avail[1], device(f)->ctrl.next);
	/* The last one once more. */
	avail[1]++;
	commands = f->v.commands;
	leave(f);
	come_back(f);
	if (start_again(f) < 0)
		fail_msg("%s", vdpa_error_message());
	assert_true(f->v.commands > commands + 1);
	assert_true(f->v.promisc);
	assert_mapped(f);
}

/* The pages that a former front end may have are not forgotten. */
static void
holders_of_a_page_are_known_to_the_next_process(void **state)
{
	const struct vdpa_peer alice = {.known = true, .uid = 1001, .pid = 77, .started = 5};
	const struct vdpa_peer bob = {.known = true, .uid = 1002, .pid = 78, .started = 6};
	struct fixture *f = *state;

	begin(f, 1, 0);
	assert_int_equal(
		vdpa_page_holders_add(vdpa_dma_page_holders(f->vdev->dma), "v0", &alice, false), 0);
	leave(f);
	come_back(f);
	assert_int_equal(vdpa_device_admit(f->vdev, &alice), 0);
	assert_refused(vdpa_device_admit(f->vdev, &bob), EACCES, "uid 1001");
}

static void
a_record_that_cannot_be_written_ends_it(void **state)
{
	struct fixture *f = *state;

	begin(f, 1, 0);
	assert_true(store.writes > 0);
	store.write_err = ENOSPC;
	virtio_kept_write(device(f));
	assert_true(store.given_up);
	assert_int_equal(store.len, -ENOENT);
	assert_false(f->v.pci.is_kept);
	/* Then it is stopped as ever. */
	assert_true(vdpa_device_leave(f->vdev) < 0);
	vdpa_dev_del("v0");
	assert_int_equal(f->v.status, 0);
	assert_int_equal(f->v.pci.n_mapped, 0);
}

/* A log of the guest's memory is on: by the function, or by queues on shadows. Neither goes on in
 * the next process, so the function is stopped while this one can bring its rings to an end. */
static void
a_function_whose_memory_is_logged_is_not_left(void **state)
{
	static uint8_t bits[0x1000];
	const struct vdpa_dirty_log log = {.bitmap = bits, .size = sizeof(bits), .fd = -1};
	uint64_t used[VDPA_VQ_MAX];
	struct fixture *f = *state;

	memset(used, 0xff, sizeof(used));
	for (unsigned int by_device = 0; by_device < 2; by_device++) {
		fake_virtio_init(&f->v, "v0", 1);
		f->v.pci.keeps = true;
		f->v.pci.logs_dma = by_device != 0;
		assert_int_equal(add(f, WORDS), 0);
		f->guest.start.features = V1;
		fake_guest_set_queues(&f->guest, 2);
		assert_int_equal(vdpa_device_can_restart(f->vdev), 0);
		start(f);
		assert_null(vdpa_device_find_tie(f->vdev));
		assert_int_equal(vdpa_device_set_log(f->vdev, &log, used), 0);
		assert_int_equal(is_on_shadow(f, 0), by_device == 0);
		assert_non_null(vdpa_device_find_tie(f->vdev));
		store.leaves = true;
		assert_refused(vdpa_device_leave(f->vdev), EOPNOTSUPP, "is logged");
		assert_int_equal(f->v.status, 0);
		assert_false(bus_master(f));
		/* So its front end gives it up, and its end writes nothing for the next process. */
		store.given_up = true;
		store.len = -ENOENT;
		vdpa_dev_del_all();
		store.leaves = store.given_up = false;
		assert_int_equal(store.len, -ENOENT);
		assert_false(f->v.pci.is_kept);
		assert_int_equal(f->v.status, 0);
		assert_int_equal(f->v.pci.n_mapped, 0);
		__wrap_vdpa_restart_del("v0", store.what);
		fake_virtio_fini(&f->v);
	}
	fake_virtio_init(&f->v, "v0", 1);
}

/* What a front end's record says of queue 0, up to where it is to go on. */
static int
resume_ring(struct fixture *f, bool any_order)
{
	const struct vdpa_mem_region_spec memory = {
		.iova = MEM_IOVA, .uaddr = MEM_IOVA, .size = MEM_SIZE, .fd = f->guest.mem_fd};
	const struct vdpa_vq_config *vq = &f->guest.vqs[0];
	const struct vdpa_consumer_vq_addr addr = {
		.desc = vq->desc, .driver = vq->driver, .device = vq->device, .log = UINT64_MAX};
	struct vdpa_consumer *c = vdpa_consumer_new(f->vdev, NULL, NULL);
	int rc;

	assert_non_null(c);
	assert_int_equal(vdpa_consumer_set_features(c, V1), 0);
	assert_int_equal(vdpa_consumer_set_memory(c, &memory, 1), 0);
	assert_int_equal(vdpa_consumer_set_vq_num(c, 0, vq->num), 0);
	assert_int_equal(vdpa_consumer_set_vq_addr(c, 0, &addr), 0);
	rc = vdpa_consumer_resume_vq(c, 0, 0, any_order);
	vdpa_consumer_free(c);
	return rc;
}

/* It has used some of what it was given, which need not be what came first. */
static void
a_ring_goes_on_with_its_function_alone(void **state)
{
	struct fixture *f = *state;
	const uint16_t used = 5;

	begin(f, 1, 0);
	memcpy(vdpa_iotlb_range(f->guest.tlb, f->guest.vqs[0].device + 2, 2), &used, 2);
	leave(f);
	come_back(f);
	assert_int_equal(resume_ring(f, false), 0);
	vdpa_device_drop_left(f->vdev);
	start(f);
	leave(f);
	f->v.status = 0;
	come_back(f);
	assert_refused(resume_ring(f, false), EOPNOTSUPP, "which requests were under way");
	/* A front end that cannot be told so goes on where it was used. */
	assert_int_equal(resume_ring(f, true), 0);
	start(f);
}

/* The process leaves its devices, and this one has nothing to do. */
static void
an_idle_function_is_opened_by_its_files(void **state)
{
	struct fixture *f = *state;

	begin(f, 1, 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	end_binding(f);
	end_process(f);
	assert_int_equal(f->v.status, 0);
	assert_true(f->v.pci.is_kept);
	assert_true(store.len > 0);
	assert_true(f->v.pci.is_left);
	come_back(f);
	assert_false(vdpa_device_is_left(f->vdev));
	start(f);
	assert_mapped(f);
}

/* A device that is deleted leaves nothing, and one that is not kept at all is stopped. */
static void
a_tear_down_stops_the_function(void **state)
{
	struct fixture *f = *state;

	begin(f, 1, 0);
	vdpa_dev_del("v0");
	assert_int_equal(f->v.status, 0);
	assert_false(f->v.pci.is_left);
	assert_false(f->v.pci.is_kept);
	assert_int_equal(store.len, -ENOENT);
	assert_false(f->v.pci.msix_on);
	assert_int_equal(f->v.pci.n_mapped, 0);
}

/* Whatever stands in the record: the device is taken over as it is, or begins anew. */
static void
come_back_with(struct fixture *f, const uint8_t *record, int len)
{
	struct snapshot before = look(f);

	memcpy(store.record, record, (size_t)len);
	store.len = len;
	come_back(f);
	if (vdpa_device_is_left(f->vdev) && start_again(f) == 0) {
		assert_int_equal(f->v.status, before.status);
		assert_int_equal(f->v.pci.resets, before.resets);
		assert_memory_equal(look(f).vq, before.vq, sizeof(before.vq));
		assert_mapped(f);
		return;
	}
	/* As a front end does, whose connection ends. */
	vdpa_device_drop_left(f->vdev);
	if (f->vdev->core->iotlb != NULL)
		fake_guest_leave(f->vdev);
	assert_int_equal(f->v.status, 0);
	assert_false(bus_master(f));
	/* What the record does not name nobody can know of: the kernel refuses to map there. */
	f->v.pci.n_mapped = 0;
	start(f);
	assert_mapped(f);
}

static void
mutated_records_are_refused_or_harmless(void **state)
{
	static const uint8_t flips[] = {0x01, 0x80, 0xff};
	static uint8_t good[VDPA_RESTART_RECORD_MAX];
	struct fixture *f = *state;

	begin(f, 1, 0);
	for (int at = 0; at < store.len; at++) {
		for (unsigned int i = 0; i < RTE_DIM(flips); i++) {
			int len;

			/* Of the name, which is mostly nothing, some places will do. */
			if (at > 64 && at < 276 && at % 16 != 0)
				continue;
			leave(f);
			len = store.len;
			memcpy(good, store.record, (size_t)len);
			good[at] ^= flips[i];
			come_back_with(f, good, len);
		}
	}
	for (int cut = 0; cut < store.len; cut++) {
		leave(f);
		memcpy(good, store.record, (size_t)cut);
		come_back_with(f, good, cut);
	}
}

#define S(test) cmocka_unit_test_setup_teardown(test, setup_store, teardown_store)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		S(the_next_process_takes_over_a_function_without_a_write),
		S(so_it_does_with_packed_rings_and_several_pairs),
		S(what_nobody_takes_over_is_reset),
		S(a_function_that_does_not_fit_starts_anew),
		S(a_function_that_is_not_opened_is_stopped),
		S(a_start_that_says_something_else_fails),
		S(memory_that_is_recorded_and_not_mapped_is_mapped),
		S(files_without_any_recorded_mapping_are_not_used),
		S(a_command_that_was_cut_short_is_given_again),
		S(a_command_that_was_not_kicked_is_kicked),
		S(holders_of_a_page_are_known_to_the_next_process),
		S(a_record_that_cannot_be_written_ends_it),
		S(a_function_whose_memory_is_logged_is_not_left),
		S(a_ring_goes_on_with_its_function_alone),
		S(an_idle_function_is_opened_by_its_files),
		S(a_tear_down_stops_the_function),
		S(mutated_records_are_refused_or_harmless),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
