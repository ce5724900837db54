/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A virtio function that a process hands over while it lives: until that one cannot have it back,
 * the next one neither stops it nor takes anything from it, whatever does not fit and however it
 * ends; and what it puts off then, it does.
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

#include "virtio_kept_test.h"

/* Up to here the former process may have the function back. */
static void
go(void)
{
	struct vdpa_restart_waiter *w = store.waiter;

	store.holds = false;
	store.waiter = NULL;
	if (w != NULL)
		w->go(w);
}

/* The new process ends; the former one is there again. */
static void
give_back(struct fixture *f)
{
	store.leaves = true;
	if (f->vdev != NULL)
		(void)vdpa_device_leave(f->vdev);
	vdpa_dev_del_all();
	store.leaves = store.holds = false;
	assert_null(f->v.pci.open);
	assert_null(store.waiter);
}

/* The function as it was left, under a process that may have it back. */
static struct snapshot
hand_over(struct fixture *f)
{
	leave(f);
	store.holds = true;
	f->vdev = NULL;
	return look(f);
}

static void
assert_untouched(struct fixture *f, const struct snapshot *before)
{
	assert_same(f, before);
	assert_int_equal(f->v.pci.n_mapped, 2);
	assert_true(f->v.pci.is_left);
}

static void
the_former_process_has_back_what_was_taken_over(void **state)
{
	struct fixture *f = *state;
	struct snapshot before;

	begin(f, 1, 0);
	for (unsigned int life = 0; life < 3; life++) {
		before = hand_over(f);
		come_back(f);
		assert_int_equal(start_again(f), 0);
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
		give_back(f);
		assert_untouched(f, &before);
		come_back(f);
		assert_int_equal(start_again(f), 0);
		assert_same(f, &before);
		assert_mapped(f);
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	}
}

static void
behind_go_it_is_as_any(void **state)
{
	struct fixture *f = *state;
	struct snapshot before;

	begin(f, 3, PACKED);
	before = hand_over(f);
	come_back(f);
	assert_int_equal(start_again(f), 0);
	assert_non_null(store.waiter);
	go();
	assert_same(f, &before);
	assert_mapped(f);
	assert_int_equal(vdpa_device_enable_vq(f->vdev, 2, false), 0);
	assert_int_equal(f->v.commands, before.commands + 1);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->v.status, 0);
	end_binding(f);
	start(f);
	assert_mapped(f);
	assert_int_equal(store.lost, 0);
}

/* What nobody claims is unmapped, and not before. */
static void
memory_that_nobody_claims_goes_behind_go(void **state)
{
	struct vdpa_mem_region_spec specs[2] = {
		{.iova = MEM_IOVA, .uaddr = MEM_IOVA, .size = MEM_SIZE},
		{.iova = MEM_IOVA << 4, .uaddr = MEM_IOVA << 4, .size = MEM_SIZE}};
	struct fixture *f = *state;
	struct vdpa_iotlb *more;

	begin(f, 1, 0);
	specs[0].fd = f->guest.mem_fd;
	specs[1].fd = memfd_create("more", MFD_CLOEXEC);
	assert_int_equal(ftruncate(specs[1].fd, (off_t)MEM_SIZE), 0);
	assert_int_equal(vdpa_iotlb_create(NULL, specs, 2, &more), 0);
	close(specs[1].fd);
	assert_int_equal(vdpa_device_set_memory(f->vdev, more), 0);
	vdpa_iotlb_put(more);
	end_process(f);
	store.holds = true;
	assert_int_equal(f->v.pci.n_mapped, 3);
	come_back(f);
	assert_int_equal(start_again(f), 0);
	assert_int_equal(f->v.pci.n_mapped, 3);
	go();
	assert_int_equal(f->v.pci.n_mapped, 2);
	assert_mapped(f);
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
has_another_vector(struct fixture *f)
{
	f->v.vq[0].vector = 0;
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
is_no_function_of_ours(struct fixture *f)
{
	f->v.pci.config[0x0e] = 1;
}

static void
has_none_of_its_mappings(struct fixture *f)
{
	for (unsigned int i = 0; i < f->v.pci.n_mapped; i++)
		f->v.pci.mapped[i].iova += 1ull << 36;
}

static void
has_another_record(struct fixture *f)
{
	/* The name of the function. */
	store.record[8 + 12] ^= 1;
}

static void
has_lost_the_control_queue_s_memory(struct fixture *f)
{
	__wrap_vdpa_restart_del("v0", store.what);
}

static void
a_function_that_does_not_fit_is_let_be(void **state)
{
	static void (*const changes[])(struct fixture * f) = {
		needs_reset,
		loses_bus_master,
		has_other_features,
		has_a_ring_elsewhere,
		has_another_vector,
		has_its_control_queue_elsewhere,
		is_another_function,
		is_no_function_of_ours,
		has_none_of_its_mappings,
		has_another_record,
		has_lost_the_control_queue_s_memory,
	};
	struct fixture *f = *state;
	struct snapshot before;

	begin(f, 1, 0);
	for (unsigned int i = 0; i < RTE_DIM(changes); i++) {
		(void)hand_over(f);
		changes[i](f);
		before = look(f);
		if (add(f, WORDS) == 0) {
			(void)vdpa_device_can_restart(f->vdev);
			assert_true(vdpa_device_is_left(f->vdev));
			assert_true(start_again(f) < 0);
			assert_same(f, &before);
			assert_int_equal(store.lost, 1);
		}
		give_back(f);
		assert_untouched(f, &before);
		store.lost = 0;
		/* To the former process it is what it is to any. */
		if (changes[i] == is_no_function_of_ours)
			f->v.pci.config[0x0e] = 0;
		else if (changes[i] == has_none_of_its_mappings)
			f->v.pci.n_mapped = 0;
		else if (changes[i] == has_another_record)
			has_another_record(f);
		come_back(f);
		if (vdpa_device_is_left(f->vdev)) {
			if (start_again(f) == 0)
				continue;
			end_binding(f);
		}
		start(f);
	}
}

/* The record was written around a command: the place in the ring is the former process' to know. */
static void
no_command_is_given_to_a_function_that_may_go_back(void **state)
{
	struct fixture *f = *state;
	struct snapshot before;

	begin(f, 1, 0);
	device(f)->ctrl.busy = true;
	virtio_kept_write(device(f));
	before = hand_over(f);
	come_back(f);
	assert_true(start_again(f) < 0);
	assert_same(f, &before);
	give_back(f);
	assert_untouched(f, &before);
	come_back(f);
	assert_int_equal(start_again(f), 0);
	assert_true(f->v.commands > before.commands);
	assert_mapped(f);
}

/* It fails in the new process: as long as the former one may go on, that is not known to be the
 * function's fault. Nobody goes on: then it is stopped. */
static void
one_that_fails_before_go_is_stopped_behind_it(void **state)
{
	struct fixture *f = *state;
	struct snapshot before;

	begin(f, 1, 0);
	before = hand_over(f);
	come_back(f);
	assert_int_equal(start_again(f), 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_untouched(f, &before);
	assert_int_equal(store.lost, 1);
	go();
	assert_false(bus_master(f));
	assert_false(f->v.pci.msix_on);
	/* Whoever asks is told so. */
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	assert_non_null(strstr(vdpa_pci_error_text(f->v.pci.open), "add it again"));
	vdpa_dev_del("v0");
	store.len = -ENOENT;
	f->v.pci.n_mapped = 0;
	f->v.status = 0;
	f->v.pci.is_left = false;
	assert_int_equal(add(f, WORDS), 0);
	start(f);
}

/* It has nothing to lose. */
static void
an_idle_function_begins_anew_before_go(void **state)
{
	struct fixture *f = *state;

	begin(f, 1, 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	end_binding(f);
	end_process(f);
	store.holds = true;
	come_back(f);
	assert_false(vdpa_device_is_left(f->vdev));
	go();
	start(f);
	assert_mapped(f);
}

#define S(test) cmocka_unit_test_setup_teardown(test, setup_store, teardown_store)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		S(the_former_process_has_back_what_was_taken_over),
		S(behind_go_it_is_as_any),
		S(memory_that_nobody_claims_goes_behind_go),
		S(a_function_that_does_not_fit_is_let_be),
		S(no_command_is_given_to_a_function_that_may_go_back),
		S(one_that_fails_before_go_is_stopped_behind_it),
		S(an_idle_function_begins_anew_before_go),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
