/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Cases of the dirty log: what a device writes while a guest moves away, buffers and used rings, is
 * in the log by its pages. A device may mark more than it wrote, but nothing outside the memory.
 */

#include <stdlib.h>

#include <vdpa.h>
#include <vdpa_memory.h>

#include "traffic.h"

#define ROUNDS	   5
/* Buffers taken back: more than the receive buffers that a device may have from before. */
#define UNITS	   200
/* A log that hardware keeps is fetched now and then while the device runs. */
#define LOG_MS	   3000u
/* How long nothing must be logged. */
#define SILENCE_MS 100u

struct log_case {
	struct session s;
	struct traffic x;
	struct page_set wrote;
	struct target_log logs[2];
	uint64_t *used; /* where each used ring is logged */
};

static void
release(struct log_case *c)
{
	dirty_log_fini(&c->logs[0]);
	dirty_log_fini(&c->logs[1]);
	page_set_fini(&c->wrote);
	free(c->used);
}

/* Traffic that notes what is written, on n queues (0: all), and logs that are not in use yet. The
 * verdict where it does not come about; nothing is left then. */
static int
begin(struct run *r, struct log_case *c, unsigned int flags, uint16_t n)
{
	const struct session_params params = {.flags = flags | SESSION_MQ, .n = n};
	int rc = run_need_log(r);

	*c = (struct log_case){.logs = {{.fd = -1}, {.fd = -1}}};
	if (rc == 0)
		rc = run_need(r, flags);
	if (rc == 0)
		rc = traffic_open(r, &c->s, &c->x, &params);
	/* Queues of a device without a log change their paths, one after another: a frame that
	 * comes meanwhile is dropped, or comes on another pair. */
	if (r->t->can == NULL || !r->t->can->log)
		c->x.echo = false;
	if (rc != 0)
		return rc;
	c->used = calloc(c->s.nq, sizeof(*c->used));
	if (c->used == NULL || page_set_init(&c->wrote, &c->s.mem) < 0 ||
	    dirty_log_init(&c->logs[0], &c->wrote) < 0 ||
	    dirty_log_init(&c->logs[1], &c->wrote) < 0) {
		rc = traffic_close(r, &c->s, &c->x, run_fail(r, "no memory for a dirty log"));
		release(c);
		return rc;
	}
	c->x.wrote = &c->wrote;
	for (uint16_t i = 0; i < c->s.nq; i++)
		c->used[i] = c->s.q[i].used ? c->s.q[i].ring.dev : UINT64_MAX;
	return 0;
}

static int
set_log(struct run *r, struct log_case *c, struct target_log *log)
{
	int rc;

	r->step = log != NULL ? "starting the dirty log" : "ending the dirty log";
	rc = r->t->ops->set_log(r->t, log, c->used);
	return rc < 0 ? run_failed_call(r, rc, r->step) : 0;
}

static bool
is_memory(const struct ring_mem *mem, uint64_t page)
{
	for (unsigned int i = 0; i < mem->n; i++)
		if ((page << VDPA_DIRTY_PAGE_SHIFT) - mem->region[i].iova < mem->region[i].size)
			return true;
	return false;
}

/* What lies in a page, for messages. */
static const char *
what_is_in(const struct session *s, uint64_t page, uint16_t *queue)
{
	uint64_t iova = page << VDPA_DIRTY_PAGE_SHIFT, end = iova + (1u << VDPA_DIRTY_PAGE_SHIFT);

	for (uint16_t i = 0; i < s->nq; i++) {
		const struct queue *q = &s->q[i];
		uint64_t slots = (uint64_t)q->nslots * s->slot_size;

		*queue = i;
		if (q->used && q->ring.desc < end &&
		    q->ring.desc + ring_driver_bytes(q->ring.num) > iova)
			return "ring";
		if (q->used && q->slots < end && q->slots + slots > iova)
			return "buffers";
	}
	return "memory";
}

/* The first page that was written and is in none of the logs. */
static bool
find_missing(const struct log_case *c, const struct target_log *a, const struct target_log *b,
	     uint64_t *page)
{
	for (*page = 0; *page < c->wrote.n; ++*page)
		if (page_set_has(&c->wrote, *page) && !dirty_log_has(a, *page) &&
		    !dirty_log_has(b, *page))
			return true;
	return false;
}

/* Whether the logs together (the same one twice, for one) have all that was written, at the latest
 * after so long, and nothing else than memory. */
static int
check_logs(struct run *r, const struct log_case *c, const struct target_log *a,
	   const struct target_log *b, unsigned int ms)
{
	uint64_t end = waited_ns() + run_ms(r, ms) * 1000000, page;
	uint16_t queue = 0;

	r->step = "comparing the dirty log";
	while (find_missing(c, a, b, &page)) {
		const char *what = what_is_in(&c->s, page, &queue);

		if (waited_ns() < end) {
			sleep_us(1000);
			continue;
		}
		return run_fail(
			r,
			"queue %u: the device wrote to its %s, page 0x%llx, which is not in the "
			"dirty log%s",
			queue, what, (unsigned long long)page,
			ms > 0 ? ", nor comes there" : " when it has stopped");
	}
	for (page = 0; page < c->wrote.n; page++)
		if ((dirty_log_has(a, page) || dirty_log_has(b, page)) &&
		    !is_memory(&c->s.mem, page))
			return run_fail(r,
					"page 0x%llx is in the dirty log, and is no guest memory",
					(unsigned long long)page);
	return 0;
}

/* Traffic from a device that stands still to one that does again, and what it wrote. */
static int
write_and_check(struct run *r, struct log_case *c, struct target_log *log)
{
	int rc;

	/* What came until now may have been written before there was a log, but is memory. */
	traffic_note_anew(&c->x);
	rc = check_logs(r, c, log, log, 0);
	dirty_log_clear(log);
	if (rc == 0)
		rc = traffic_some(&c->x, UNITS);
	if (rc == 0)
		rc = traffic_drain(&c->x);
	return rc == 0 ? check_logs(r, c, log, log, LOG_MS) : rc;
}

/* Whether a log stays empty while data move. */
static int
check_silent(struct run *r, struct log_case *c, struct target_log *log, const char *when)
{
	int rc;

	dirty_log_clear(log);
	rc = traffic_some(&c->x, UNITS);
	if (rc == 0)
		rc = traffic_drain(&c->x);
	if (rc == 0)
		sleep_us((unsigned int)run_quiet_ms(r, SILENCE_MS) * 1000);
	for (uint64_t page = 0; rc == 0 && page < c->wrote.n; page++)
		if (dirty_log_has(log, page))
			rc = run_fail(r, "page 0x%llx is set in the dirty log %s",
				      (unsigned long long)page, when);
	return rc;
}

static int
pages_of(struct run *r, unsigned int flags)
{
	struct log_case c;
	int rc = begin(r, &c, flags, 0);

	if (rc != 0)
		return rc;
	rc = traffic_some(&c.x, UNITS);
	/* On while data move, so that some are written before and some after. */
	if (rc == 0)
		rc = set_log(r, &c, &c.logs[0]);
	if (rc == 0)
		rc = traffic_drain(&c.x);
	for (int i = 0; rc == 0 && i < ROUNDS; i++)
		rc = write_and_check(r, &c, &c.logs[0]);
	rc = traffic_close(r, &c.s, &c.x, rc);
	release(&c);
	return rc;
}

static int
split_pages(struct run *r)
{
	return pages_of(r, 0);
}

static int
packed_pages(struct run *r)
{
	return pages_of(r, SESSION_PACKED);
}

/* Another log while data move: nothing between the two is lost, and the old one is left alone. */
static int
replaced(struct run *r)
{
	struct log_case c;
	int rc = begin(r, &c, 0, 0);

	if (rc != 0)
		return rc;
	rc = set_log(r, &c, &c.logs[0]);
	for (int i = 0; rc == 0 && i < ROUNDS; i++) {
		struct target_log *old = &c.logs[i % 2], *new = &c.logs[(i + 1) % 2];

		rc = traffic_drain(&c.x);
		traffic_note_anew(&c.x);
		dirty_log_clear(old);
		dirty_log_clear(new);
		if (rc == 0)
			rc = traffic_some(&c.x, UNITS);
		if (rc == 0)
			rc = set_log(r, &c, new);
		if (rc == 0)
			rc = traffic_some(&c.x, UNITS);
		if (rc == 0)
			rc = traffic_drain(&c.x);
		if (rc == 0)
			rc = check_logs(r, &c, old, new, LOG_MS);
		if (rc == 0)
			rc = write_and_check(r, &c, new);
		if (rc == 0)
			rc = check_silent(r, &c, old, "after another one replaced it");
	}
	rc = traffic_close(r, &c.s, &c.x, rc);
	release(&c);
	return rc;
}

/* Off and on again, as after a migration that was given up. */
static int
ended(struct run *r)
{
	struct log_case c;
	int rc = begin(r, &c, 0, 0);

	if (rc != 0)
		return rc;
	for (int i = 0; rc == 0 && i < ROUNDS; i++) {
		rc = set_log(r, &c, &c.logs[0]);
		if (rc == 0)
			rc = traffic_drain(&c.x);
		if (rc == 0)
			rc = write_and_check(r, &c, &c.logs[0]);
		if (rc == 0)
			rc = traffic_some(&c.x, 20);
		if (rc == 0)
			rc = set_log(r, &c, NULL);
		if (rc == 0)
			rc = check_silent(r, &c, &c.logs[0], "after its end");
	}
	rc = traffic_close(r, &c.s, &c.x, rc);
	release(&c);
	return rc;
}

/* Queues stopped in the middle of traffic: the log is complete when the last one has. */
static int
at_stop(struct run *r)
{
	/* Frames of a pair may come by another while queues stop one by one. */
	const uint16_t n = r->t->device_id == TARGET_NET ? target_lane_vqs(r->t) : 0;
	int rc = 0;

	for (int i = 0; rc == 0 && i < ROUNDS; i++) {
		struct vdpa_vq_state places[VDPA_VQ_MAX];
		struct log_case c;

		rc = begin(r, &c, 0, n);
		if (rc != 0)
			return rc;
		rc = set_log(r, &c, &c.logs[0]);
		if (rc == 0)
			rc = traffic_drain(&c.x);
		if (rc == 0)
			rc = write_and_check(r, &c, &c.logs[0]);
		traffic_note_anew(&c.x);
		dirty_log_clear(&c.logs[0]);
		if (rc == 0)
			rc = traffic_some(&c.x, UNITS);
		if (rc == 0)
			rc = traffic_stop_queues(&c.x, places);
		if (rc == 0)
			rc = check_logs(r, &c, &c.logs[0], &c.logs[0], 0);
		traffic_end(&c.x);
		rc = run_finish(r, &c.s, rc);
		release(&c);
	}
	return rc;
}

const struct run_case log_cases[] = {
	{"log_split", "pages that the device writes are in the dirty log, split ring", 30000, 0,
	 split_pages},
	{"log_packed", "pages that the device writes are in the dirty log, packed ring", 30000, 0,
	 packed_pages},
	{"log_replaced", "another dirty log while data move", 30000, 0, replaced},
	{"log_ended", "no write to a dirty log after its end, and on again", 30000, 0, ended},
	{"log_at_stop", "the dirty log is complete when the queues have stopped", 30000, 0,
	 at_stop},
	{.name = NULL},
};
