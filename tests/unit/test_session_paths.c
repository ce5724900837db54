/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Queues that change their paths while the device runs: to shadows when a log comes that the device
 * does not write, and back when it ends; one by one, or with the whole device; and devices that
 * fail in the middle of it.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "paths_test.h"
#include "vdpa_log.h"

static void
a_log_takes_the_queues_to_other_paths_and_back(void **state)
{
	struct paths p;
	struct fixture *f = *state;
	struct vdpa_vq_state place;

	for (enum kind kind = 0; kind < KINDS; kind++) {
		begin(&p, state, kind);
		for (unsigned int round = 0; round < 3; round++) {
			uint16_t at = (uint16_t)(STANDS_AT + round);

			memset(p.bitmap, 0, LOG_BYTES);
			assert_int_equal(start_log(&p), 0);
			assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
			assert_true(has_changed(f, 0, kind) && has_changed(f, 1, kind));
			assert_int_equal(n_marked(&p), 0);
			for (unsigned int i = 0; i < 2; i++) {
				post_buffer(&p, i, at);
				execute(&p, i, 1);
				EVENTUALLY(used_idx(&p, i) == at + 1);
				EVENTUALLY(is_marked(&p, p.used_iova[i]));
				assert_true(is_marked(&p, BUFFER + i * 0x1000));
			}
			/* The device has written no other page, and nobody else has. */
			assert_int_equal(n_marked(&p), 4);
			assert_int_equal(end_log(&p), 0);
			assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
			if (!loads_places(kind)) {
				/* Until a ring begins anew. */
				assert_true(is_on_shadow(f, 0) && is_on_shadow(f, 1));
				break;
			}
			for (uint16_t i = 0; i < 2; i++) {
				assert_false(is_on_shadow(f, i));
				assert_true(f->fake->vq[i].ready);
				assert_int_equal(f->fake->vq[i].state.split.avail_index, at + 1);
			}
			assert_true(LIST_EMPTY(&f->vdev->core->own));
			assert_int_equal(f->transport.n, 2);
		}
		assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &place), 0);
		assert_int_equal(place.split.avail_index, used_idx(&p, 0));
		if (vdpa_device_get_state(f->vdev) != VDPA_STATE_RUNNING)
			assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &place), 0);
		end(&p);
	}
}

static void
a_device_with_a_log_needs_no_shadow_unless_it_is_asked_for(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	begin(&p, state, RESTARTS_TELLING);
	vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_OFF);
	assert_int_equal(start_log(&p), -EOPNOTSUPP);
	assert_false(is_on_shadow(f, 0));
	vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_LOG);
	assert_int_equal(start_log(&p), -EOPNOTSUPP);
	assert_false(is_on_shadow(f, 0));
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_AUTO);
	end(&p);
}

/* A look at a fresh ring finds its beginning; right before the stop, a buffer that is in it twice.
 */
static void
what_does_not_change_its_path_goes_on(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	for (unsigned int i = 0; i < 2; i++) {
		begin(&p, state, i == 0 ? RESETS : RESTARTS);
		split_ring(f, 1, 2, 0);
		put16(f, f->vqs[1].driver + 4 + 2, 0);
		put16(f, f->vqs[1].device + 4 + 4, 0);
		assert_int_equal(start_log(&p), 0);
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
		assert_false(is_on_shadow(f, 1));
		EVENTUALLY(n_marked(&p) >= 2 * REGION_SIZE >> VDPA_DIRTY_PAGE_SHIFT);
		split_ring(f, 1, 2, 2);
		EVENTUALLY(f->vdev->core->vqs[1].path != &vdpa_path_direct);
		assert_int_equal(end_log(&p), 0);
		end(&p);
	}
}

/* With buffers under way of which nobody knows which they are. */
static void
where_a_place_is_not_known_all_memory_counts_as_written(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	for (unsigned int i = 0; i < 2; i++) {
		begin(&p, state, i == 0 ? RESETS : RESTARTS);
		split_ring(f, 1, STANDS_AT + 2, STANDS_AT);
		f->fake->resets = 0;
		assert_int_equal(start_log(&p), 0);
		assert_false(is_on_shadow(f, 1));
		assert_int_equal(f->fake->resets, 0);
		EVENTUALLY(n_marked(&p) >= 2 * REGION_SIZE >> VDPA_DIRTY_PAGE_SHIFT);
		/* All of it is used by and by, and the next look at the log changes the path. */
		split_ring(f, 1, STANDS_AT + 2, STANDS_AT + 2);
		EVENTUALLY(f->vdev->core->vqs[1].path != &vdpa_path_direct);
		vdpa_device_lock(f->vdev);
		vdpa_device_unlock(f->vdev);
		assert_true(is_on_shadow(f, 0) && is_on_shadow(f, 1));
		/* Before the shadows sleep, they write to the used rings that they want kicks. */
		usleep(100000);
		memset(p.bitmap, 0, LOG_BYTES);
		usleep(250000);
		assert_int_equal(n_marked(&p), 0);
		assert_int_equal(end_log(&p), 0);
		end(&p);
	}
}

/* Queue 0 goes on at this place, of a device that begins at the beginning only. */
static void
begin_at(struct paths *p, void **state, uint16_t at)
{
	struct fixture *f = *state;

	begin(p, state, RESETS);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	split_ring(f, 0, at, at);
	split_ring(f, 1, 0, 0);
	f->vqs[0].state.split.avail_index = at;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_true(is_on_shadow(f, 0) && !is_on_shadow(f, 1));
}

static void
a_queue_leaves_its_shadow_where_its_ring_begins_anew(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	begin_at(&p, state, 65533);
	for (unsigned int i = 65533; i < 65536; i++)
		post_buffer(&p, 0, (uint16_t)i);
	f->fake->resets = 0;
	execute(&p, 0, 3);
	EVENTUALLY(used_idx(&p, 0) == 0);
	EVENTUALLY(__atomic_load_n(&f->vdev->core->vqs[0].path, __ATOMIC_ACQUIRE) ==
		   &vdpa_path_direct);
	vdpa_device_lock(f->vdev);
	vdpa_device_unlock(f->vdev);
	assert_false(is_on_shadow(f, 0));
	assert_true(f->fake->vq[0].ready && f->fake->vq[1].ready);
	assert_int_equal(f->fake->resets, 0);
	assert_true(LIST_EMPTY(&f->vdev->core->own));
	f->vqs[0].state.split.avail_index = 0;
	end(&p);
}

static int
log_start(struct vdpa_device *vdev, const struct vdpa_dirty_log *log, const uint64_t *used_iova)
{
	return 0;
}

static int
log_stop(struct vdpa_device *vdev)
{
	return 0;
}

/* A queue that rests at the beginning of its ring must not wait for the end of a migration. */
static void
a_queue_leaves_its_shadow_while_the_device_logs(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	f->vdev->core->ops.log_start = log_start;
	f->vdev->core->ops.log_stop = log_stop;
	f->vdev->core->can.log = true;
	begin_at(&p, state, 65535);
	assert_int_equal(start_log(&p), 0);
	assert_true(is_on_shadow(f, 0));
	post_buffer(&p, 0, 65535);
	execute(&p, 0, 1);
	EVENTUALLY(__atomic_load_n(&f->vdev->core->vqs[0].path, __ATOMIC_ACQUIRE) ==
		   &vdpa_path_direct);
	vdpa_device_lock(f->vdev);
	vdpa_device_unlock(f->vdev);
	assert_true(f->fake->vq[0].ready);
	assert_int_equal(end_log(&p), 0);
	f->vqs[0].state.split.avail_index = 0;
	end(&p);
}

/* A log that comes in between does not keep it there when it has ended. */
static void
a_queue_leaves_its_shadow_after_a_log_that_could_not_be_kept(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	begin_at(&p, state, 65535);
	split_ring(f, 1, STANDS_AT + 2, STANDS_AT);
	assert_int_equal(start_log(&p), 0);
	assert_false(is_on_shadow(f, 1));
	assert_int_equal(end_log(&p), 0);
	post_buffer(&p, 0, 65535);
	execute(&p, 0, 1);
	EVENTUALLY(__atomic_load_n(&f->vdev->core->vqs[0].path, __ATOMIC_ACQUIRE) ==
		   &vdpa_path_direct);
	f->vqs[0].state.split.avail_index = 0;
	end(&p);
}

static uint32_t
block_id(struct vdpa_device *vdev)
{
	return 2;
}

/* Requests may end in any order, and where a queue stands does not say which have. */
static void
requests_that_a_device_had_are_given_to_it_again(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_chain chains[3];
	struct iovec iov[3];
	struct vdpa_virtqueue *vq;
	struct vdpa_vq_state place;
	struct paths p;

	f->vdev->core->ops.get_device_id = block_id;
	begin_at(&p, state, 20);
	for (uint16_t i = 20; i < 23; i++)
		post_buffer(&p, 0, i);
	vq = open_ring(&p, 0);
	for (unsigned int i = 0; i < 3; i++)
		take(vq, &chains[i], &iov[i]);
	use(vq, &chains[1]);
	vdpa_vq_free(vq);
	EVENTUALLY(used_idx(&p, 0) == 21);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &place), 0);
	f->vqs[0].state = place;
	assert_int_equal(vdpa_device_start_vq(f->vdev, 0, &f->vqs[0]), 0);
	assert_true(is_on_shadow(f, 0));
	/* Two of them, and no third. */
	vq = open_ring(&p, 0);
	for (unsigned int i = 0; i < 2; i++) {
		take(vq, &chains[i], &iov[i]);
		use(vq, &chains[i]);
	}
	EVENTUALLY(used_idx(&p, 0) == 23);
	usleep(1000);
	assert_int_equal(vdpa_vq_avail(vq), 0);
	vdpa_vq_free(vq);
	f->vqs[0].state.split.avail_index = 0;
	end(&p);
}

static void
requests_of_a_ring_that_begins_anew_are_forgotten(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_chain chains[3];
	struct iovec iov[3];
	struct vdpa_virtqueue *vq;
	struct vdpa_vq_state place;
	struct paths p;

	f->vdev->core->ops.get_device_id = block_id;
	begin_at(&p, state, 65533);
	vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_SHADOW);
	for (unsigned int i = 65533; i < 65536; i++)
		post_buffer(&p, 0, (uint16_t)i);
	vq = open_ring(&p, 0);
	for (unsigned int i = 0; i < 3; i++)
		take(vq, &chains[i], &iov[i]);
	use(vq, &chains[1]);
	vdpa_vq_free(vq);
	EVENTUALLY(used_idx(&p, 0) == 65534);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &place), 0);
	assert_int_equal(place.split.avail_index, 0);
	/* Another driver, at the same place as by chance. */
	split_ring(f, 0, 0, 0);
	f->vqs[0].state = place;
	assert_int_equal(vdpa_device_start_vq(f->vdev, 0, &f->vqs[0]), 0);
	assert_true(is_on_shadow(f, 0));
	usleep(10000);
	vq = open_ring(&p, 0);
	assert_int_equal(vdpa_vq_avail(vq), 0);
	post_buffer(&p, 0, 0);
	take(vq, &chains[0], &iov[0]);
	use(vq, &chains[0]);
	vdpa_vq_free(vq);
	EVENTUALLY(used_idx(&p, 0) == 1);
	end(&p);
}

/* The front end does not know of the area, and goes on by the ring alone: what was overtaken there
 * waits here. */
static void
what_an_area_of_ours_has_goes_back_to_the_ring_or_waits(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_chain chains[3];
	struct iovec iov[3];
	struct vdpa_virtqueue *vq;
	struct vdpa_vq_state place;
	struct paths p;

	f->vdev->core->ops.get_device_id = block_id;
	for (unsigned int overtaken = 0; overtaken < 2; overtaken++) {
		_Alignas(16) uint8_t bytes[4096] = {0};
		const struct vdpa_vq_inflight area = {
			.addr = bytes, .size = sizeof(bytes), .own = true};

		begin_at(&p, state, 20);
		assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &place), 0);
		vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_SHADOW);
		f->vqs[0].state = place;
		f->vqs[0].inflight = area;
		assert_int_equal(vdpa_device_start_vq(f->vdev, 0, &f->vqs[0]), 0);
		for (uint16_t i = 20; i < 23; i++)
			post_buffer(&p, 0, i);
		vq = open_ring(&p, 0);
		for (unsigned int i = 0; i < 3; i++)
			take(vq, &chains[i], &iov[i]);
		use(vq, &chains[overtaken]);
		vdpa_vq_free(vq);
		EVENTUALLY(used_idx(&p, 0) == 21);
		assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &place), 0);
		assert_int_equal(place.split.avail_index, overtaken ? 23 : 21);
		assert_int_equal(
			vdpa_vq_inflight_count(&area, false, f->vqs[0].num, UINT64_MAX, NULL),
			overtaken ? 2 : 0);
		/* As a front end's next start has it. */
		memset(bytes, 0, sizeof(bytes));
		f->vqs[0].state = place;
		assert_int_equal(vdpa_device_start_vq(f->vdev, 0, &f->vqs[0]), 0);
		vq = open_ring(&p, 0);
		for (unsigned int i = 0; i < 2; i++) {
			take(vq, &chains[i], &iov[i]);
			use(vq, &chains[i]);
		}
		EVENTUALLY(used_idx(&p, 0) == 23);
		usleep(1000);
		assert_int_equal(vdpa_vq_avail(vq), 0);
		vdpa_vq_free(vq);
		f->vqs[0].state.split.avail_index = 0;
		f->vqs[0].inflight = (struct vdpa_vq_inflight){0};
		end(&p);
		vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_AUTO);
	}
}

static unsigned int asked;

static int
goes_on(struct vdpa_device *vdev)
{
	asked++;
	return 0;
}

static void
how_a_device_goes_on_follows_from_its_driver_and_its_word(void **state)
{
	static const struct {
		bool can, adopts, tracks;
		enum vdpa_migration mode;
		enum vdpa_survival survival;
		bool is_asked;
	} rows[] = {
		{false, false, true, VDPA_MIGRATION_SHADOW, VDPA_SURVIVAL_NONE, false},
		{true, false, true, VDPA_MIGRATION_AUTO, VDPA_SURVIVAL_ACCOUNTS, true},
		{true, false, true, VDPA_MIGRATION_SHADOW, VDPA_SURVIVAL_ACCOUNTS, true},
		{true, false, true, VDPA_MIGRATION_RELAY, VDPA_SURVIVAL_NONE, false},
		{true, false, false, VDPA_MIGRATION_AUTO, VDPA_SURVIVAL_NONE, false},
		{true, false, false, VDPA_MIGRATION_SHADOW, VDPA_SURVIVAL_ACCOUNTS, true},
		{true, true, false, VDPA_MIGRATION_AUTO, VDPA_SURVIVAL_ALONE, true},
		{true, true, false, VDPA_MIGRATION_OFF, VDPA_SURVIVAL_ALONE, true},
		/* Nothing of it is kept. */
		{true, true, false, VDPA_MIGRATION_SHADOW, VDPA_SURVIVAL_ACCOUNTS, false},
		{true, true, false, VDPA_MIGRATION_RELAY, VDPA_SURVIVAL_NONE, false},
	};
	struct fixture *f = *state;
	struct vdpa_device_core *core = f->vdev->core;
	const struct vdpa_config_ops ops = core->ops;
	const bool tracks = core->can.inflight;

	for (unsigned int i = 0; i < RTE_DIM(rows); i++) {
		enum vdpa_survival survival = rows[i].survival;

		core->ops.can_restart = rows[i].can ? goes_on : NULL;
		core->ops.adopt = rows[i].adopts ? goes_on : NULL;
		core->can.inflight = rows[i].tracks;
		vdpa_device_set_migration(f->vdev, rows[i].mode);
		asked = 0;
		assert_int_equal(vdpa_device_survival(f->vdev), survival);
		assert_int_equal(vdpa_device_runs_alone(f->vdev), survival == VDPA_SURVIVAL_ALONE);
		assert_int_equal(vdpa_device_can_restart(f->vdev),
				 survival == VDPA_SURVIVAL_NONE ? -EOPNOTSUPP : 0);
		assert_int_equal(asked, rows[i].is_asked);
	}
	core->ops = ops;
	core->can.inflight = tracks;
	vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_AUTO);
}

/* Failures. */

static unsigned int
lines_of(const char *text, const char *what)
{
	unsigned int n = 0;

	for (const char *s = strstr(text, what); s != NULL; s = strstr(s + 1, what))
		n++;
	return n;
}

/*
 * Fail the n-th op of what is done to a device that runs, one after the other, until none is left
 * to fail. The device fails with one line, or has done without the op and is where it was to be.
 */
static void
fail_each_op(void **state, enum kind kind, int (*fn)(struct paths *p), bool logs_before)
{
	struct fixture *f = *state;
	unsigned int n = 0, n_failed = 0, fds = 0;

	for (bool failed = true; failed;) {
		char *text = NULL;
		size_t size = 0;
		struct paths p;
		FILE *out;
		bool reported;
		int rc;

		begin(&p, state, kind);
		if (logs_before)
			assert_int_equal(start_log(&p), 0);
		out = open_memstream(&text, &size);
		assert_int_equal(rte_openlog_stream(out), 0);
		f->fake->fail_at = f->fake->calls + ++n;
		f->fake->failed_op = NULL;
		rc = fn(&p);
		failed = f->fake->failed_op != NULL;
		/* A report is acted upon by the device's work queue. */
		reported = f->vdev->core->fail_state != VDPA_FAIL_NONE;
		if (reported)
			EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
		rte_openlog_stream(NULL);
		fclose(out);
		if (getenv("UVDPA_TEST_VERBOSE") != NULL)
			printf("kind %u: op %u, %s: %d\n", kind, n,
			       failed ? f->fake->failed_op : "none", rc);
		if (!reported) {
			if (rc < 0)
				fail_msg("kind %u: %s failed (%d), and the device goes on: %s",
					 kind, f->fake->failed_op, rc, text);
			assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
			for (uint16_t i = 0; i < 2; i++)
				assert_int_equal(has_changed(f, i, kind), !logs_before);
			assert_in_range(lines_of(text, "\n"), 0, failed);
		} else {
			if (lines_of(text, "the device is stopped\n") != 1 ||
			    lines_of(text, "\n") != 1)
				fail_msg("kind %u: %s failed: %s", kind, f->fake->failed_op, text);
			assert_true(LIST_EMPTY(&f->vdev->core->own));
			assert_int_equal(f->fake->status, 0);
			n_failed++;
		}
		free(text);
		f->fake->fail_at = 0;
		end(&p);
		fds = n == 1 ? count_fds() : fds;
		assert_int_equal(count_fds(), fds);
	}
	/* Each queue is set up at least. */
	assert_in_range(n_failed, 10, 100);
}

static void
a_device_that_fails_on_the_way_there_is_stopped_with_a_line(void **state)
{
	for (enum kind kind = 0; kind < KINDS; kind++)
		fail_each_op(state, kind, start_log, false);
}

static unsigned int changes, changes_standing;

/* Of what is mapped; the transport is the fixture's first member. */
static void
note_change(struct transport *t)
{
	const struct fixture *f = (const struct fixture *)(const void *)t;

	changes++;
	changes_standing += !f->fake->vq[0].ready || !f->fake->vq[1].ready;
}

static void
no_memory_is_mapped_or_unmapped_while_a_queue_stands_still(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	for (enum kind kind = 0; kind < KINDS; kind++) {
		begin(&p, state, kind);
		changes = changes_standing = 0;
		f->transport.on_change = note_change;
		assert_int_equal(start_log(&p), 0);
		assert_true(has_changed(f, 0, kind) && has_changed(f, 1, kind));
		assert_int_equal(changes, 1);
		assert_int_equal(end_log(&p), 0);
		assert_int_equal(changes, loads_places(kind) ? 2 : 1);
		assert_int_equal(changes_standing, 0);
		f->transport.on_change = NULL;
		end(&p);
	}
}

/* For the first queue, and for the second one. */
static void
a_queue_for_which_there_is_no_memory_is_not_stopped(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	for (enum kind kind = 0; kind < KINDS; kind++) {
		unsigned int resets;

		begin(&p, state, kind);
		resets = f->fake->resets;
		f->transport.fail_map = f->transport.maps + 1;
		assert_int_equal(start_log(&p), -ENOSPC);
		assert_non_null(strstr(vdpa_error_message(), "the IOMMU is full"));
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
		assert_int_equal(f->fake->resets, resets);
		for (uint16_t i = 0; i < 2; i++) {
			assert_true(f->fake->vq[i].ready);
			assert_false(has_changed(f, i, kind));
		}
		assert_true(LIST_EMPTY(&f->vdev->core->own));
		/* And with memory it is as ever. */
		f->transport.fail_map = 0;
		assert_int_equal(start_log(&p), 0);
		assert_true(has_changed(f, 0, kind) && has_changed(f, 1, kind));
		end(&p);
	}
}

static void
a_device_that_fails_on_the_way_back_is_stopped_with_a_line(void **state)
{
	for (enum kind kind = 0; kind < KINDS; kind++)
		if (loads_places(kind))
			fail_each_op(state, kind, end_log, true);
}

/* The worst: it does not even reset. */
static void
a_device_that_neither_changes_nor_resets_has_no_memory_left(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	for (enum kind kind = 0; kind < KINDS; kind++) {
		begin(&p, state, kind);
		f->fake->fail_reset = true;
		if (kind < RESTARTS_TELLING)
			f->fake->fail_at = f->fake->calls + 7;
		(void)start_log(&p);
		EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
		/* Out of the guest's memory and out of ours, which is unmapped whatever it does. */
		assert_int_equal(f->transport.n, 0);
		assert_true(LIST_EMPTY(&f->vdev->core->own));
		f->fake->fail_reset = false;
		f->fake->fail_at = 0;
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		for (unsigned int i = 0; i < 2; i++) {
			split_ring(f, i, 0, 0);
			f->vqs[i].kick_fd = f->vqs[i].call_fd = -1;
			close(p.kick[i]);
			close(p.call[i]);
		}
	}
}

static void
signals_are_the_guests_whatever_path_a_queue_is_on(void **state)
{
	struct fixture *f = *state;
	struct vdpa_queue_stats s;
	struct vdpa_stat device[] = {{VDPA_QSTAT_INTERRUPTS, 100}};
	uint64_t relayed;
	struct paths p;

	f->fake->vq_stats = device;
	f->fake->n_vq_stats = RTE_DIM(device);
	begin(&p, state, ONE_BY_ONE);
	vdpa_device_get_vq_stats(f->vdev, 0, &s);
	assert_string_equal(s.path, "direct");
	relayed = s.value[VDPA_QUEUE_STAT_KICKS_RELAYED];
	for (unsigned int round = 0; round < 3; round++) {
		assert_int_equal(start_log(&p), 0);
		/* Between the relay and the device. */
		device[0].value += 50;
		post_buffer(&p, 0, (uint16_t)(STANDS_AT + round));
		execute(&p, 0, 1);
		EVENTUALLY(used_idx(&p, 0) == STANDS_AT + round + 1);
		EVENTUALLY((vdpa_device_get_vq_stats(f->vdev, 0, &s),
			    s.value[VDPA_QUEUE_STAT_INTERRUPTS] == 100 + 2 * round + 1));
		assert_string_equal(s.path, "relay");
		assert_true(s.value[VDPA_QUEUE_STAT_KICKS_RELAYED] > relayed);
		relayed = s.value[VDPA_QUEUE_STAT_KICKS_RELAYED];
		assert_int_equal(end_log(&p), 0);
		/* And the guest's. */
		device[0].value += 1;
		vdpa_device_get_vq_stats(f->vdev, 0, &s);
		assert_string_equal(s.path, "direct");
		assert_int_equal(s.value[VDPA_QUEUE_STAT_INTERRUPTS], 100 + 2 * round + 2);
		assert_true(s.known[VDPA_QUEUE_STAT_INTERRUPTS] && s.known[VDPA_QUEUE_STAT_KICKS]);
		assert_true(s.value[VDPA_QUEUE_STAT_KICKS_RELAYED] >= relayed);
		assert_int_equal(s.value[VDPA_QUEUE_STAT_KICKS],
				 s.value[VDPA_QUEUE_STAT_KICKS_RELAYED]);
	}
	end(&p);
}

static void
interrupts_are_known_where_every_queue_has_run_on_a_shadow_alone(void **state)
{
	struct fixture *f = *state;
	struct vdpa_queue_stats s;
	struct paths p;

	vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_SHADOW);
	begin(&p, state, RESTARTS);
	vdpa_device_get_vq_stats(f->vdev, 0, &s);
	assert_string_equal(s.path, "shadow");
	assert_true(s.known[VDPA_QUEUE_STAT_INTERRUPTS]);
	assert_true(s.known[VDPA_QUEUE_STAT_KICKS]);
	vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_AUTO);
	end(&p);
	/* And never again, once it has run without. */
	begin(&p, state, RESTARTS);
	vdpa_device_get_vq_stats(f->vdev, 0, &s);
	assert_string_equal(s.path, "direct");
	assert_false(s.known[VDPA_QUEUE_STAT_INTERRUPTS]);
	assert_true(s.known[VDPA_QUEUE_STAT_KICKS]);
	end(&p);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_log_takes_the_queues_to_other_paths_and_back),
		TEST(a_device_with_a_log_needs_no_shadow_unless_it_is_asked_for),
		TEST(what_does_not_change_its_path_goes_on),
		TEST(where_a_place_is_not_known_all_memory_counts_as_written),
		TEST(a_queue_leaves_its_shadow_where_its_ring_begins_anew),
		TEST(a_queue_leaves_its_shadow_while_the_device_logs),
		TEST(a_queue_leaves_its_shadow_after_a_log_that_could_not_be_kept),
		TEST(requests_that_a_device_had_are_given_to_it_again),
		TEST(requests_of_a_ring_that_begins_anew_are_forgotten),
		TEST(what_an_area_of_ours_has_goes_back_to_the_ring_or_waits),
		TEST(how_a_device_goes_on_follows_from_its_driver_and_its_word),
		TEST(a_device_that_fails_on_the_way_there_is_stopped_with_a_line),
		TEST(no_memory_is_mapped_or_unmapped_while_a_queue_stands_still),
		TEST(a_queue_for_which_there_is_no_memory_is_not_stopped),
		TEST(a_device_that_fails_on_the_way_back_is_stopped_with_a_line),
		TEST(a_device_that_neither_changes_nor_resets_has_no_memory_left),
		TEST(signals_are_the_guests_whatever_path_a_queue_is_on),
		TEST(interrupts_are_known_where_every_queue_has_run_on_a_shadow_alone),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
