/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a log costs a session that runs, as it is counted; what the device keeps beside its rings
 * while queues change their paths; and a device that cannot keep the log itself after all.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "figures.h"
#include "paths_test.h"
#include "steps.h"
#include "vdpa_log.h"

static uint64_t
figure(struct fixture *f, const char *name)
{
	struct vdpa_stat stats[64];
	unsigned int n = vdpa_device_figures(f->vdev, stats, RTE_DIM(stats));

	assert_in_range(n, 1, RTE_DIM(stats) - 1);
	for (unsigned int i = 0; i < n; i++)
		if (strcmp(stats[i].name, name) == 0)
			return stats[i].value;
	fail_msg("no figure %s", name);
	return 0;
}

static void
figures_count_what_a_log_has_cost(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	for (enum kind kind = 0; kind < KINDS; kind++) {
		const char *by = loads_places(kind) ? "relay" : "shadow";
		uint64_t pages = figure(f, "log_pages"), starts = figure(f, "start_count");
		uint64_t switches = figure(f, "switch_count"), on = figure(f, "log_on_count");
		uint64_t off = figure(f, "log_off_count"), stops = figure(f, "stop_vq_count");
		uint64_t forwarded, completed, changes;
		char name[2][32];
		struct vdpa_vq_state place;

		snprintf(name[0], sizeof(name[0]), "%s_forwarded", by);
		snprintf(name[1], sizeof(name[1]), "%s_completed", by);
		forwarded = figure(f, name[0]);
		completed = figure(f, name[1]);
		begin(&p, state, kind);
		assert_int_equal(figure(f, "start_count") - starts, 1);
		assert_int_equal(start_log(&p), 0);
		assert_int_equal(figure(f, "log_on_count") - on, 1);
		/* A queue at a time, or all at once, which is a start. */
		changes = kind >= RESTARTS_TELLING ? 1 : 2;
		assert_int_equal(figure(f, "switch_count") - switches, changes);
		assert_int_equal(figure(f, "start_count") - starts,
				 kind >= RESTARTS_TELLING ? 2 : 1);
		assert_true(figure(f, "switch_max_us") >= figure(f, "switch_us"));
		assert_true(figure(f, "log_on_us") >= figure(f, "switch_us"));
		assert_int_equal(figure(f, "log_pages"), pages);
		post_buffer(&p, 0, STANDS_AT);
		EVENTUALLY(figure(f, "in_flight") == 1);
		assert_int_equal(figure(f, name[0]) - forwarded, 1);
		execute(&p, 0, 1);
		EVENTUALLY(figure(f, name[1]) - completed == 1);
		EVENTUALLY(figure(f, "in_flight") == 0);
		/* The buffer and the used ring. */
		EVENTUALLY(figure(f, "log_pages") - pages == 2);
		assert_int_equal(end_log(&p), 0);
		assert_int_equal(figure(f, "log_off_count") - off, 1);
		assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &place), 0);
		assert_int_equal(figure(f, "stop_vq_count") - stops,
				 vdpa_device_get_state(f->vdev) == VDPA_STATE_RUNNING ||
						 kind >= RESTARTS_TELLING
					 ? 1
					 : 0);
		if (vdpa_device_get_state(f->vdev) != VDPA_STATE_RUNNING)
			assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &place), 0);
		end(&p);
		/* What has ended stays counted. */
		assert_int_equal(figure(f, name[0]) - forwarded, 1);
		assert_int_equal(figure(f, name[1]) - completed, 1);
	}
}

static void
a_rate_is_of_the_time_since_the_last_look(void **state)
{
	struct fixture *f = *state;
	struct paths p;
	uint64_t rate;

	begin(&p, state, ONE_BY_ONE);
	assert_int_equal(start_log(&p), 0);
	usleep(110000);
	(void)figure(f, "relay_rate");
	assert_int_equal(figure(f, "relay_rate"), 0);
	for (uint16_t i = 0; i < 4; i++)
		post_buffer(&p, 0, STANDS_AT + i);
	execute(&p, 0, 4);
	EVENTUALLY(used_idx(&p, 0) == STANDS_AT + 4);
	usleep(110000);
	rate = figure(f, "relay_rate");
	/* 4 chains in 0.11 s, or in more where the machine is slow. */
	assert_in_range(rate, 1, 4 * 1000000 / 110000);
	assert_int_equal(figure(f, "shadow_rate"), 0);
	assert_int_equal(end_log(&p), 0);
	end(&p);
}

/* A driver's state, of which the device has one at a time; a reset takes it away. */
static struct {
	char device[16], loaded[16];
	unsigned int saves, loads;
	int save_rc;
} kept;

static int
save_state(struct vdpa_device *vdev, void *buf, size_t *len)
{
	kept.saves++;
	if (kept.save_rc < 0)
		return vdpa_error(-kept.save_rc, "the owner does not answer");
	assert_true(*len >= sizeof(kept.device));
	memcpy(buf, kept.device, sizeof(kept.device));
	*len = sizeof(kept.device);
	return 0;
}

static int
load_state(struct vdpa_device *vdev, const void *buf, size_t len)
{
	kept.loads++;
	assert_int_equal(len, sizeof(kept.device));
	memcpy(kept.device, buf, len);
	return 0;
}

static void
forget(void *arg)
{
	memset(kept.device, 0, sizeof(kept.device));
}

static void
keeps_state(struct fixture *f)
{
	memset(&kept, 0, sizeof(kept));
	strcpy(kept.device, "filters");
	f->vdev->core->ops.save_state = save_state;
	f->vdev->core->ops.load_state = load_state;
	f->fake->on_reset = forget;
}

static void
keeps_state_no_more(struct fixture *f)
{
	f->vdev->core->ops.save_state = NULL;
	f->vdev->core->ops.load_state = NULL;
	f->fake->on_reset = NULL;
}

/* The guest has set its filters, and knows nothing of a reset. */
static void
a_change_by_a_restart_keeps_what_the_guest_has_set(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	for (enum kind kind = 0; kind < KINDS; kind++) {
		begin(&p, state, kind);
		keeps_state(f);
		f->fake->resets = 0;
		assert_int_equal(start_log(&p), 0);
		assert_int_equal(f->fake->resets > 0, kind >= RESTARTS_TELLING);
		assert_int_equal(kept.saves, f->fake->resets > 0);
		assert_int_equal(kept.loads, f->fake->resets > 0);
		assert_string_equal(kept.device, "filters");
		assert_int_equal(end_log(&p), 0);
		assert_string_equal(kept.device, "filters");
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
		keeps_state_no_more(f);
		end(&p);
	}
}

/* Then all memory counts as written, and it is tried again. */
static void
a_device_whose_state_cannot_be_had_is_not_restarted(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	for (enum kind kind = RESTARTS_TELLING; kind < KINDS; kind++) {
		begin(&p, state, kind);
		keeps_state(f);
		kept.save_rc = -ETIMEDOUT;
		f->fake->resets = 0;
		assert_int_equal(start_log(&p), 0);
		assert_int_equal(f->fake->resets, 0);
		assert_string_equal(kept.device, "filters");
		assert_true(f->vdev->core->dirty.blind);
		assert_string_equal(vdpa_log_logger(f->vdev), "all memory");
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
		vdpa_device_lock(f->vdev);
		kept.save_rc = 0;
		vdpa_device_unlock(f->vdev);
		EVENTUALLY(__atomic_load_n(&f->vdev->core->vqs[1].path, __ATOMIC_ACQUIRE) !=
			   &vdpa_path_direct);
		vdpa_device_lock(f->vdev);
		assert_false(f->vdev->core->dirty.blind);
		assert_string_equal(vdpa_log_logger(f->vdev), "queues");
		assert_string_equal(kept.device, "filters");
		vdpa_device_unlock(f->vdev);
		assert_int_equal(end_log(&p), 0);
		keeps_state_no_more(f);
		end(&p);
	}
}

/* A log of the device's, which is refused as often as this says. */
static struct {
	int refuse, error;
	unsigned int starts, stops;
} device_log;

static int
log_start(struct vdpa_device *vdev, const struct vdpa_dirty_log *log, const uint64_t *used_iova)
{
	device_log.starts++;
	assert_non_null(log->tlb);
	return device_log.refuse-- > 0 ? vdpa_error(-device_log.error, "too much memory") : 0;
}

static int
log_stop(struct vdpa_device *vdev)
{
	device_log.stops++;
	return 0;
}

static void
set_device_log(struct fixture *f, int refuse, int error)
{
	memset(&device_log, 0, sizeof(device_log));
	device_log.refuse = refuse;
	device_log.error = error;
	f->vdev->core->ops.log_start = log_start;
	f->vdev->core->ops.log_stop = log_stop;
	f->vdev->core->can.log = true;
}

static void
no_device_log(struct fixture *f)
{
	f->vdev->core->ops.log_start = NULL;
	f->vdev->core->ops.log_stop = NULL;
	f->vdev->core->can.log = false;
}

static void
queues_change_where_the_device_cannot_log_this_memory(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	for (enum kind kind = 0; kind < KINDS; kind++) {
		begin(&p, state, kind);
		set_device_log(f, 1, -EOPNOTSUPP);
		assert_int_equal(start_log(&p), 0);
		assert_true(has_changed(f, 0, kind) && has_changed(f, 1, kind));
		assert_int_equal(device_log.starts, 1);
		post_buffer(&p, 0, STANDS_AT);
		execute(&p, 0, 1);
		EVENTUALLY(is_marked(&p, BUFFER));
		assert_int_equal(end_log(&p), 0);
		assert_int_equal(device_log.stops, 0);
		/* The next one may have room. */
		if (loads_places(kind)) {
			assert_false(is_relayed(f, 0));
			assert_int_equal(start_log(&p), 0);
			assert_int_equal(device_log.starts, 2);
			assert_false(is_relayed(f, 0));
			assert_int_equal(end_log(&p), 0);
			assert_int_equal(device_log.stops, 1);
		}
		end(&p);
		no_device_log(f);
	}
}

static void
a_session_that_begins_with_such_a_log_has_its_queues_on_other_paths(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	begin(&p, state, RESETS_TELLING);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	set_device_log(f, 1, -EOPNOTSUPP);
	f->start.log = &p.log;
	f->start.used_iova = p.used_iova;
	for (unsigned int i = 0; i < 2; i++)
		f->vqs[i].state.split.avail_index = STANDS_AT;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_true(is_relayed(f, 0) && is_relayed(f, 1));
	assert_int_equal(device_log.starts, 1);
	f->start.log = NULL;
	for (unsigned int i = 0; i < 2; i++)
		f->vqs[i].state.split.avail_index = 0;
	end(&p);
	no_device_log(f);
}

/* The front end goes on without: its queues are not to be left on paths for a log that did not
 * come. */
static void
a_log_that_fails_otherwise_leaves_the_queues_where_they_were(void **state)
{
	struct fixture *f = *state;
	struct paths p;

	for (enum kind kind = 0; kind < KINDS; kind++) {
		begin(&p, state, kind);
		set_device_log(f, 1, -EIO);
		assert_int_equal(start_log(&p), -EIO);
		assert_false(f->vdev->core->needs_shadows);
		for (uint16_t i = 0; i < 2; i++)
			assert_ptr_equal(f->vdev->core->vqs[i].path, &vdpa_path_direct);
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
		end(&p);
		no_device_log(f);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(figures_count_what_a_log_has_cost),
		TEST(a_rate_is_of_the_time_since_the_last_look),
		TEST(a_change_by_a_restart_keeps_what_the_guest_has_set),
		TEST(a_device_whose_state_cannot_be_had_is_not_restarted),
		TEST(queues_change_where_the_device_cannot_log_this_memory),
		TEST(a_session_that_begins_with_such_a_log_has_its_queues_on_other_paths),
		TEST(a_log_that_fails_otherwise_leaves_the_queues_where_they_were),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
