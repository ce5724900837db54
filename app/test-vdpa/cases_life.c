/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Cases of what happens to a device that runs: queues that come late, stop, go on and are reset,
 * memory that changes, a stop in the middle of traffic.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/virtio_ring.h>

#include <vdpa.h>

#include "traffic.h"
#include "virtio_compat.h"

/* How long a device is watched that must do nothing. */
#define QUIET_MS 100u

static int
queue_disable(struct run *r)
{
	const struct session_params params = {.n = target_lane_vqs(r->t)};
	struct session s;
	struct traffic x;
	struct queue *q;
	int rc = run_need_state(r, 0);

	if (rc == 0)
		rc = traffic_open(r, &s, &x, &params);
	if (rc != 0)
		return rc;
	q = x.lanes[0].tx;
	for (int i = 0; rc == 0 && i < 5; i++) {
		uint64_t was;

		rc = traffic_some(&x, 100);
		if (rc != 0)
			break;
		r->step = "disabling a queue";
		rc = r->t->ops->enable_vq(r->t, q->idx, false);
		if (rc < 0) {
			rc = run_failed_call(r, rc, "disabling a queue");
			break;
		}
		/* What was used before, and room for more to be posted. */
		while ((rc = traffic_step(&x)) > 0)
			;
		was = x.lanes[0].completed;
		for (unsigned int ms = 0; rc == 0 && ms < run_quiet_ms(r, QUIET_MS) / 5; ms++) {
			queue_kick_always(q);
			sleep_us(1000);
			rc = traffic_step(&x);
			rc = rc > 0 ? 0 : rc;
		}
		/* A device that does not keep the state of its queues may go on with what is kicked
		 * (vdpa_driver.h, set_vq_enable); by a socket nobody says whether it keeps it. */
		if (rc == 0 && x.lanes[0].completed != was &&
		    (r->t->can == NULL || (!r->t->can->suspend && !r->t->can->late_vqs))) {
			rc = run_skip(r, "the device goes on with a disabled queue that is kicked");
			break;
		}
		if (rc == 0 && x.lanes[0].completed != was)
			rc = run_fail(r, "queue %u: uses buffers while it is disabled", q->idx);
		if (rc != 0)
			break;
		r->step = "enabling a queue";
		rc = r->t->ops->enable_vq(r->t, q->idx, true);
		if (rc < 0)
			rc = run_failed_call(r, rc, "enabling the queue again");
		x.progress_at = waited_ns();
	}
	return traffic_close(r, &s, &x, rc);
}

static int
late_queue(struct run *r)
{
	const uint16_t per_lane = target_lane_vqs(r->t);
	const struct session_params params = {.flags = SESSION_MQ, .n = (uint16_t)(2 * per_lane)};
	const uint16_t late[] = {per_lane, (uint16_t)(per_lane + 1)};
	struct traffic x = {.units = UINT64_MAX}, both = {.units = 500};
	struct session s;
	int rc;

	if (target_data_vqs(r->t) < 2 * per_lane)
		return run_skip(r, "the device has one %s", per_lane == 2 ? "queue pair" : "queue");
	rc = traffic_probe_echo(r);
	if (rc != 0)
		return rc;
	rc = session_init(&s, r->t, &params);
	if (rc < 0)
		return run_failed_call(r, rc, "no session");
	rc = session_start_without(&s, late, per_lane);
	if (rc < 0)
		return run_finish(r, &s, run_failed_call(r, rc, "the device does not start"));
	x.nlanes = 1;
	rc = traffic_begin(r, &s, &x);
	if (rc != 0)
		return run_finish(r, &s, rc);
	rc = traffic_some(&x, 100);
	for (uint16_t i = 0; rc == 0 && i < per_lane; i++) {
		r->step = "starting a late queue";
		rc = session_start_vq(&s, late[i], NULL);
		if (rc < 0)
			rc = run_failed_call(r, rc, "a queue that comes late");
		else
			rc = traffic_some(&x, 100);
	}
	if (rc == 0)
		rc = traffic_drain(&x);
	traffic_end(&x);
	if (rc == 0) {
		both.first_lane = 1;
		rc = traffic_run(r, &s, &both);
	}
	return run_finish(r, &s, rc);
}

/* Stop the request or transmit queue where it stands, and go on from there. */
static int
queue_resume(struct run *r, unsigned int flags)
{
	const struct session_params params = {.flags = flags, .n = target_lane_vqs(r->t)};
	struct session s;
	struct traffic x;
	int rc = run_need(r, flags);

	if (rc == 0)
		rc = run_need_state(r, flags);
	if (rc == 0)
		rc = traffic_open(r, &s, &x, &params);
	if (rc != 0)
		return rc;
	for (int i = 0; rc == 0 && i < 5; i++) {
		struct queue *q = x.lanes[0].tx;
		struct vdpa_vq_state state;

		rc = traffic_some(&x, 100);
		if (rc != 0)
			break;
		r->step = "stopping a queue";
		rc = session_stop_vq(&s, q->idx, &state);
		if (rc < 0) {
			rc = run_failed_call(r, rc, "a queue's state where it stopped");
			break;
		}
		if (q->ring.packed && state.packed.last_avail_idx >= q->ring.num) {
			rc = run_skip(r, "the device does not say where a packed queue stops");
			break;
		}
		/* No buffer may be taken and not given back. */
		q->running = true;
		while ((rc = traffic_step(&x)) > 0)
			;
		q->running = false;
		if (rc != 0)
			break;
		if (!q->ring.packed &&
		    state.split.avail_index != ring_driver_used_ring(&q->ring)->idx) {
			rc = run_fail(r, "queue %u: stopped at %u, but %u buffers are used", q->idx,
				      state.split.avail_index,
				      ring_driver_used_ring(&q->ring)->idx);
			break;
		}
		rc = session_start_vq(&s, q->idx, &state);
		if (rc < 0)
			rc = run_failed_call(r, rc, "starting a queue where it stopped");
		x.progress_at = waited_ns();
	}
	return traffic_close(r, &s, &x, rc);
}

static int
split_queue_resume(struct run *r)
{
	return queue_resume(r, 0);
}

static int
packed_queue_resume(struct run *r)
{
	return queue_resume(r, SESSION_PACKED);
}

/* In this process: whether the device stopped as a whole for the sake of a queue. By vhost-user the
 * back end starts it again, and nothing is seen of it. */
static bool
has_halted(const struct run *r)
{
	return !r->t->trusting && r->t->ops->get_status(r->t) == 0;
}

/* Stop and start anew all queues of the lane, so that both ends of its sequence begin anew. */
static int
reset_lane(struct run *r, struct session *s)
{
	const uint16_t n = s->params.n;
	char why[256] = "";

	for (uint16_t i = 0; i < n; i++) {
		struct vdpa_vq_state state;
		int rc;

		r->step = "resetting a queue";
		rc = session_stop_vq(s, i, &state);
		/* Where it stood is not asked, and a device that cannot tell may have stopped it.
		 */
		if (rc == -EOPNOTSUPP)
			snprintf(why, sizeof(why), "%s", vdpa_error_message());
		else if (rc < 0)
			return run_failed_call(r, rc, "resetting a queue");
	}
	if (has_halted(r) && !target_has(r->t, VIRTIO_F_RING_RESET))
		return run_skip(r, "the device does not offer RING_RESET, and stops as a whole");
	if (has_halted(r))
		return run_fail(r, "the device offers RING_RESET, and stops as a whole when its "
				   "queues are stopped");
	for (uint16_t i = 0; i < n; i++) {
		int rc = session_start_vq(s, i, NULL);

		if (rc < 0 && why[0] != '\0')
			return run_skip(r, "%s", why);
		if (rc < 0)
			return run_failed_call(r, rc, "starting a queue after its reset");
	}
	return 0;
}

static int
queue_reset(struct run *r)
{
	const struct session_params params = {.flags = SESSION_RING_RESET,
					      .n = target_lane_vqs(r->t)};
	struct traffic x = {.units = 200};
	struct session s;
	int rc = run_start(r, &s, &params);

	if (rc != 0)
		return rc;
	for (int i = 0; rc == 0 && i < 5; i++) {
		rc = traffic_run(r, &s, &x);
		if (rc == 0)
			rc = reset_lane(r, &s);
	}
	return run_finish(r, &s, rc == 0 ? traffic_run(r, &s, &x) : rc);
}

/* One region more, behind a gap. */
static int
add_region(struct ring_mem *mem, uint64_t size)
{
	unsigned int last = mem->n - 1, n = mem->n;
	int fd = memfd_create("ring_mem", MFD_CLOEXEC);
	void *va;

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		return -errno;
	va = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (va == MAP_FAILED)
		return -errno;
	mem->region[n].fd = fd;
	mem->region[n].va = va;
	mem->region[n].size = size;
	mem->region[n].iova = mem->region[last].iova + 2 * mem->region[last].size;
	mem->n++;
	return 0;
}

static int
make_table(const struct ring_mem *mem, unsigned int n, struct vdpa_iotlb **tlb)
{
	struct vdpa_mem_region_spec specs[RING_MEM_REGIONS_MAX];

	for (unsigned int i = 0; i < n; i++)
		specs[i] = (struct vdpa_mem_region_spec){
			.iova = mem->region[i].iova,
			.uaddr = RING_MEM_UADDR + (mem->region[i].iova - RING_MEM_IOVA),
			.size = mem->region[i].size,
			.fd = mem->region[i].fd,
		};
	return vdpa_iotlb_create(mem->tlb, specs, n, tlb);
}

static int
use_table(struct run *r, struct session *s, unsigned int n, const char *what)
{
	struct vdpa_iotlb *tlb;
	int rc = make_table(&s->mem, n, &tlb);

	if (rc < 0)
		return run_fail(r, "memory table: %s", vdpa_error_message());
	rc = r->t->ops->set_memory(r->t, tlb);
	if (rc < 0) {
		vdpa_iotlb_put(tlb);
		return run_failed_call(r, rc, what);
	}
	vdpa_iotlb_put(s->mem.tlb);
	s->mem.tlb = tlb;
	return 0;
}

static int
memory_change(struct run *r)
{
	const struct session_params params = {.n = target_lane_vqs(r->t)};
	struct session s;
	struct traffic x;
	struct queue *q;
	uint64_t home;
	int rc = traffic_open(r, &s, &x, &params);

	if (rc != 0)
		return rc;
	q = x.lanes[0].tx;
	home = q->slots;
	if (add_region(&s.mem, s.mem.region[1].size) < 0)
		return traffic_close(r, &s, &x, run_fail(r, "no memory for one region more"));
	for (int i = 0; rc == 0 && i < 10; i++) {
		rc = traffic_some(&x, 50);
		r->step = "adding memory";
		if (rc == 0)
			rc = use_table(r, &s, 3, "adding memory while running");
		if (rc == 0)
			rc = traffic_some(&x, 50);
		/* And through the new memory. */
		if (rc == 0)
			rc = traffic_drain(&x);
		if (rc != 0)
			break;
		q->slots = s.mem.region[2].iova;
		rc = traffic_some(&x, 50);
		if (rc == 0)
			rc = traffic_drain(&x);
		q->slots = home;
		/* With traffic in what stays, the rest goes away. */
		if (rc == 0)
			rc = traffic_some(&x, 50);
		r->step = "removing memory";
		if (rc == 0)
			rc = use_table(r, &s, 2, "removing memory while running");
	}
	return traffic_close(r, &s, &x, rc);
}

/* A copy of all guest memory. */
static uint8_t *
copy_memory(const struct ring_mem *mem, const uint8_t *compare)
{
	size_t size = 0, at = 0;
	uint8_t *copy;

	for (unsigned int i = 0; i < mem->n; i++)
		size += mem->region[i].size;
	if (compare != NULL) {
		for (unsigned int i = 0; i < mem->n; at += mem->region[i++].size)
			if (memcmp(compare + at, mem->region[i].va, mem->region[i].size) != 0)
				return NULL;
		return (uint8_t *)(uintptr_t)compare;
	}
	copy = malloc(size);
	for (unsigned int i = 0; copy != NULL && i < mem->n; at += mem->region[i++].size)
		memcpy(copy + at, mem->region[i].va, mem->region[i].size);
	return copy;
}

static int
stop_during_traffic(struct run *r)
{
	const struct session_params params = {.flags = SESSION_MQ};
	struct traffic again = {.units = 200};
	int rc = 0;

	for (int i = 0; rc == 0 && i < 5; i++) {
		struct session s;
		struct traffic x;
		uint8_t *memory;

		rc = traffic_open(r, &s, &x, &params);
		if (rc != 0)
			return rc;
		rc = traffic_some(&x, 100);
		/* A full ring to stop in. */
		if (rc == 0) {
			rc = traffic_step(&x);
			rc = rc > 0 ? 0 : rc;
		}
		traffic_end(&x);
		if (rc != 0)
			return run_finish(r, &s, rc);
		r->step = "stopping in the middle of traffic";
		if (session_stop(&s) < 0)
			return run_finish(
				r, &s,
				run_fail(r, "stop during traffic: %s", vdpa_error_message()));
		memory = copy_memory(&s.mem, NULL);
		if (memory == NULL)
			return run_finish(r, &s, run_fail(r, "out of memory"));
		sleep_us((unsigned int)run_quiet_ms(r, QUIET_MS) * 1000);
		if (copy_memory(&s.mem, memory) == NULL)
			rc = run_fail(r, "guest memory changed after the device was stopped");
		free(memory);
		r->step = "starting again";
		if (rc == 0 && session_start(&s) < 0)
			rc = run_fail(r, "start after a stop during traffic: %s",
				      vdpa_error_message());
		if (rc == 0)
			rc = traffic_run(r, &s, &again);
		rc = run_finish(r, &s, rc);
	}
	return rc;
}

const struct run_case life_cases[] = {
	{"queue_disable", "a disabled queue moves nothing, an enabled one goes on", 30000, 0,
	 queue_disable},
	{"late_queue", "a queue that joins a running device", 30000, 0, late_queue},
	{"split_queue_resume", "a split queue stopped and started where it stood", 30000, 0,
	 split_queue_resume},
	{"packed_queue_resume", "a packed queue stopped and started where it stood", 30000, 0,
	 packed_queue_resume},
	{"queue_reset", "one queue reset and started anew while the device runs", 30000, 0,
	 queue_reset},
	{"memory_change", "memory comes and goes while data moves", 30000, 0, memory_change},
	{"stop_during_traffic", "no write after a stop; then it starts again", 30000, 0,
	 stop_during_traffic},
	{.name = NULL},
};
