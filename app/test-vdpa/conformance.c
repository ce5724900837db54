/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The runner: each case in turn, with its time-out, its verdict in TAP and JSON. A case that does
 * not come back is reported by a watchdog, which then ends the program: whatever call it hangs in
 * cannot be ended otherwise.
 */

#include <errno.h>
#include <fnmatch.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include <vdpa.h>

#include "conformance.h"
#include "report.h"
#include "traffic.h"

/* Beyond a case's time-out, before it is taken for hanging. */
#define HANG_GRACE_MS	 10000u
#define WATCHDOG_TICK_US 100000u

static const struct run_case *const tables[] = {
	device_cases, data_cases,     notify_cases, life_cases, suspend_cases, place_cases,
	log_cases,    bad_ring_cases, net_cases,    ctrl_cases, block_cases,
};

#define FOR_EACH_CASE(c)                                                                           \
	for (size_t t_ = 0; t_ < sizeof(tables) / sizeof(tables[0]); t_++)                         \
		for (const struct run_case *c = tables[t_]; c->name != NULL; c++)

struct outcome {
	unsigned int number, passed, failed, skipped;
	FILE *tap;
	json_t *cases;
};

static bool
wanted(const struct conformance_options *opts, const char *name)
{
	for (unsigned int i = 0; i < opts->n_globs; i++)
		if (fnmatch(opts->globs[i], name, 0) == 0)
			return true;
	return opts->n_globs == 0;
}

void
conformance_list(FILE *out)
{
	FOR_EACH_CASE(c)
	{
		fprintf(out, "%-26s %s\n", c->name, c->about);
	}
}

bool
conformance_knows(const char *glob)
{
	FOR_EACH_CASE(c)
	{
		if (fnmatch(glob, c->name, 0) == 0)
			return true;
	}
	return false;
}

static void
tell(struct outcome *o, const char *name, int verdict, const char *reason, uint64_t ms)
{
	static const char *const names[] = {"fail", "pass", "skip"};
	json_t *entry;

	o->number++;
	if (verdict == RUN_FAILED) {
		o->failed++;
		fprintf(o->tap, "not ok %u - %s # %s\n", o->number, name, reason);
	} else if (verdict == RUN_SKIPPED) {
		o->skipped++;
		fprintf(o->tap, "ok %u - %s # SKIP %s\n", o->number, name, reason);
	} else {
		o->passed++;
		fprintf(o->tap, "ok %u - %s\n", o->number, name);
	}
	fflush(o->tap);
	entry = json_pack("{s:s, s:s, s:I}", "name", name, "result", names[verdict + 1], "ms",
			  (json_int_t)ms);
	if (verdict != 0)
		json_object_set_new(entry, "reason", json_string(reason));
	json_array_append_new(o->cases, entry);
}

struct watch {
	struct run *r;
	struct outcome *out;
};

static void *
watchdog(void *arg)
{
	struct watch *w = arg;
	struct run *r = w->r;

	for (;;) {
		uint64_t deadline;

		sleep_us(WATCHDOG_TICK_US);
		deadline = __atomic_load_n(&r->deadline, __ATOMIC_ACQUIRE);
		if (deadline == 0)
			return NULL;
		if (now_ns() < deadline + run_ms(r, HANG_GRACE_MS) * 1000000)
			continue;
		fprintf(w->out->tap, "not ok %u - %s # it hangs: %s\nBail out! %s hangs: %s\n",
			w->out->number + 1, r->name, r->step, r->name, r->step);
		fflush(w->out->tap);
		_exit(1);
	}
}

static void
run_one(struct run *r, const struct run_case *c, struct outcome *o)
{
	uint64_t start = now_ns(), ms;
	int rc;

	r->name = c->name;
	r->step = "";
	r->verdict = 0;
	r->reason[0] = '\0';
	__atomic_store_n(&r->deadline, start + run_ms(r, c->timeout_ms) * 1000000,
			 __ATOMIC_RELEASE);
	rc = c->run(r);
	/* Whatever it left: the next one begins with a device at status 0. */
	r->step = "resetting the device";
	if (r->t->ops->stop(r->t) < 0 && rc != RUN_FAILED)
		rc = run_fail(r, "the device does not reset after the case: %s",
			      vdpa_error_message());
	ms = (now_ns() - start) / 1000000;
	if (rc == 0 && ms > run_ms(r, c->timeout_ms))
		rc = run_fail(r, "it took %llu ms, its time-out is %llu ms", (unsigned long long)ms,
			      (unsigned long long)run_ms(r, c->timeout_ms));
	tell(o, c->name, rc, r->reason, ms);
}

static int
finish(struct outcome *o, const struct conformance_options *opts, json_t *device)
{
	json_t *all;
	int rc = 0;

	fprintf(o->tap, "1..%u\n# %u passed, %u failed, %u skipped\n", o->number, o->passed,
		o->failed, o->skipped);
	fflush(o->tap);
	all = json_pack("{s:o, s:o, s:i, s:i, s:i}", "device", device, "cases", o->cases, "passed",
			(int)o->passed, "failed", (int)o->failed, "skipped", (int)o->skipped);
	if (opts->json != NULL)
		rc = report_write_json(all, opts->json);
	json_decref(all);
	return rc < 0 || o->failed > 0 ? 1 : 0;
}

static void
begin(struct outcome *o, const struct conformance_options *opts)
{
	bool json_out = opts->json != NULL && strcmp(opts->json, "-") == 0;

	*o = (struct outcome){.tap = json_out ? stderr : stdout, .cases = json_array()};
	fprintf(o->tap, "TAP version 13\n");
}

int
conformance_run(struct run *r, const struct conformance_options *opts)
{
	struct outcome o;
	struct watch watch = {.r = r, .out = &o};
	pthread_t thread;

	begin(&o, opts);
	fprintf(o.tap, "# %s, %s: %u virtqueues, device id %u\n", r->t->where, r->t->how,
		r->t->nvqs, r->t->device_id);
	tell(&o, "open", 0, "", 0);
	r->name = "";
	r->step = "";
	r->deadline = UINT64_MAX / 2;
	if (pthread_create(&thread, NULL, watchdog, &watch) != 0) {
		fprintf(stderr, "test-vdpa: no thread for the watchdog\n");
		json_decref(o.cases);
		return 1;
	}
	FOR_EACH_CASE(c)
	{
		/* Those of another device type do not count at all. */
		if (wanted(opts, c->name) && (c->device_id == 0 || c->device_id == r->t->device_id))
			run_one(r, c, &o);
	}
	__atomic_store_n(&r->deadline, 0, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	return finish(&o, opts, report_device(r->t));
}

int
conformance_no_device(const struct conformance_options *opts, const char *where, const char *why)
{
	struct outcome o;
	char text[RUN_REASON_MAX];

	snprintf(text, sizeof(text), "%s: %s", where, why);
	begin(&o, opts);
	tell(&o, "open", RUN_FAILED, text, 0);
	return finish(&o, opts, json_pack("{s:s}", "where", where));
}
