/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * One run of cases against one device: what the user asked for, and the verdict of the case that
 * runs now. Functions of cases return 0 (go on), RUN_FAILED or RUN_SKIPPED, with the reason kept
 * here; the first reason counts.
 */

#ifndef RUN_H
#define RUN_H

#include "clock.h"
#include "session.h"

#define RUN_FAILED  (-1)
#define RUN_SKIPPED 1

#define RUN_REASON_MAX 768

struct run {
	struct target *t;
	bool overwrite;		 /* the disk's content may be destroyed */
	bool echo_expected;	 /* net: frames must come back */
	bool echo_known, echoes; /* net: whether they do, as was seen */
	/* A queue can start where another stopped; by layout, split and packed. */
	bool state_known[2], keeps_state[2];
	unsigned int scale; /* of every time, percent */
	uint64_t seed;

	/* The case that runs. */
	const char *name;
	const char *volatile step; /* what it is about, for one that hangs */
	uint64_t deadline;	   /* monotonic, ns */
	int verdict;
	char reason[RUN_REASON_MAX];
};

/* The case fails, for this reason. */
int run_fail(struct run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* It does not apply, for this reason. */
int run_skip(struct run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A call of the target or session failed: skipped for -EOPNOTSUPP, else failed. */
int run_failed_call(struct run *r, int rc, const char *what);

/* Milliseconds of a wait, stretched as the user asked. */
uint64_t run_ms(const struct run *r, unsigned int ms);
/* A time for which nothing is to happen: a scale above 100 % makes none of these longer. */
uint64_t run_quiet_ms(const struct run *r, unsigned int ms);
bool run_expired(const struct run *r);

/* A case: what every test program of this kind calls one test. */
struct run_case {
	const char *name;
	const char *about;	 /* one line */
	unsigned int timeout_ms; /* of the whole case */
	uint32_t device_id;	 /* 0: any */
	int (*run)(struct run *r);
};

/* Tables, each ended by a NULL name, in the order in which they run. */
extern const struct run_case device_cases[];
extern const struct run_case data_cases[];
extern const struct run_case notify_cases[];
extern const struct run_case life_cases[];
extern const struct run_case suspend_cases[];
extern const struct run_case place_cases[];
extern const struct run_case log_cases[];
extern const struct run_case bad_ring_cases[];
extern const struct run_case net_cases[];
extern const struct run_case ctrl_cases[];
extern const struct run_case block_cases[];

/* Sessions of cases. */

/* Init and start; on failure nothing is left and the case has its verdict. */
int run_start(struct run *r, struct session *s, const struct session_params *params);
/* Stop and free. rc: the case's so far; what it returns is the case's verdict. */
int run_finish(struct run *r, struct session *s, int rc);
/* Skip unless all these features (SESSION_* flags) are offered. */
int run_need(struct run *r, unsigned int flags);
/* Skip for a net device whose frames do not come back. */
int run_need_echo(struct run *r);
/* Skip for a device whose queues of this layout (SESSION_PACKED or not) cannot stop and go on where
 * they stood. */
int run_need_state(struct run *r, unsigned int flags);
/* Whether the device itself loads the place where a queue of this layout begins: asked up to
 * FEATURES_OK, and reset after it. False where that is not known, as behind vhost-user. */
bool run_loads_place(struct run *r, unsigned int flags);
/* Skip for a device without a dirty log. */
int run_need_log(struct run *r);
/* Failed when the device says that it failed or needs a reset. */
int run_check_alive(struct run *r);

#endif /* RUN_H */
