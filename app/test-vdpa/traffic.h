/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Patterned traffic of a session, made and checked: frames of a net device, requests of a block
 * device. A lane is what carries one sequence: a queue pair, or a request queue.
 *
 * Everything that comes back is checked: the used ring, what was written where, the pattern, the
 * order of frames. The wait is for the ring, not for interrupts, unless asked otherwise: so a lost
 * interrupt fails the case that is about interrupts and no other.
 */

#ifndef TRAFFIC_H
#define TRAFFIC_H

#include "dirty.h"
#include "run.h"

/* No progress for so long is a failure. */
#define TRAFFIC_STALL_MS 3000u

#define TRAFFIC_FRAME_MAX 4096u
#define TRAFFIC_PLACES	  64u

struct lane {
	struct queue *tx; /* or the request queue */
	struct queue *rx; /* net only */
	uint16_t number;
	uint64_t sent, completed, received;

	/* Net: the frame that is received, in one buffer or several. */
	uint64_t foreign; /* frames of somebody else, or of earlier traffic */
	uint16_t merge_left;
	uint32_t frame_len;
	uint8_t frame[TRAFFIC_FRAME_MAX];

	/* Block: the places of the disk that the lane uses in turn. */
	bool busy[TRAFFIC_PLACES];
	uint64_t sum[TRAFFIC_PLACES]; /* of what was read there before */
};

struct traffic {
	/* What is wanted; zero-initialise, then set. */
	uint64_t units;	    /* of each lane; UINT64_MAX: until told to stop */
	unsigned int depth; /* under way in a lane; 0: half of its slots */
	uint32_t size;	    /* bytes of a unit; 0: varied */
	unsigned int parts; /* descriptors of its data; 0: varied */
	bool indirect;
	bool wait_calls;	     /* wait for interrupts, never look at the ring without one */
	bool no_arming;		     /* leave the event index for interrupts as it is */
	uint16_t first_lane, nlanes; /* nlanes 0: all of the session */
	struct page_set *wrote;	     /* NULL, or: note pages that the device is seen to write */
	uint32_t notes;		     /* how often those were forgotten with frames under way */

	/* How it stands. */
	struct run *r;
	struct session *s;
	struct lane *lanes;
	uint64_t progress_at; /* by waited_ns() */
	uint64_t steps;
	bool echo;	   /* net: frames come back */
	uint32_t tag;	   /* net: of these frames; earlier ones may still be on the wire */
	uint8_t mac[6];	   /* net: of the device */
	uint32_t blk_size; /* block: bytes */
	uint32_t places;   /* block: of each lane */
	unsigned int parts_max;
};

/* What makes units of a device id. */
struct traffic_kind {
	/* Read what the device's configuration says. 0, RUN_FAILED or RUN_SKIPPED. */
	int (*begin)(struct traffic *x);
	/* Make unit `seq` of a lane in a free slot of its queue; the buffers of the chain, 0:
	 * none now. */
	unsigned int (*make)(struct traffic *x, struct lane *l, uint32_t slot, uint64_t seq,
			     struct ring_buf *bufs);
	/* Optional: it was posted. */
	void (*made)(struct traffic *x, struct lane *l, uint64_t seq);
	/* Look at what came back in it. 0 or RUN_FAILED. */
	int (*check)(struct traffic *x, struct lane *l, uint32_t slot, uint32_t len);
	/* Net: a buffer to receive into, and what was received in it. */
	unsigned int (*make_rx)(struct traffic *x, struct lane *l, uint32_t slot,
				struct ring_buf *bufs);
	int (*check_rx)(struct traffic *x, struct lane *l, uint32_t slot, uint32_t len);
};

extern const struct traffic_kind traffic_net, traffic_block;

/* Begin on a started session. Skipped for device ids whose traffic is not known. */
int traffic_begin(struct run *r, struct session *s, struct traffic *x);
/* One round over the lanes: post, kick, take, check. Returns what came back, or RUN_FAILED. */
int traffic_step(struct traffic *x);
/* Whether every lane has sent, and got back, its units. */
bool traffic_done(const struct traffic *x);
/* Make no more; then traffic_finish() waits for what is under way. */
void traffic_stop(struct traffic *x);
/* Steps until it is done, stalls or the case's time is over. */
int traffic_finish(struct traffic *x);
/* Sleep until something may have come, at most 1 ms. */
void traffic_wait(struct traffic *x);
void traffic_end(struct traffic *x);
/* Begin, finish, end. */
int traffic_run(struct run *r, struct session *s, struct traffic *x);

/* Endless traffic, for cases of what happens meanwhile. */

/* A session with it; x is set up here. The case's verdict where there is none, and nothing is left.
 */
int traffic_open(struct run *r, struct session *s, struct traffic *x,
		 const struct session_params *params);
/* The same on a session that is started. On failure it is finished. */
int traffic_open_on(struct run *r, struct session *s, struct traffic *x);
/* Some of it: n buffers taken back in the first lane. 0 or RUN_FAILED. */
int traffic_some(struct traffic *x, uint64_t n);
/* What is under way comes to its end; then it may go on. 0 or RUN_FAILED. */
int traffic_drain(struct traffic *x);
/*
 * After a drain: note anew which pages the device writes. What counts from now on was written from
 * now on: of frames that need not come back nobody knows whether one is still under way, so what
 * the device wrote to a receive buffer that it had before this call does not count.
 */
void traffic_note_anew(struct traffic *x);
/* Take and check what is used, of stopped queues too, until nothing comes any more. 0 or
 * RUN_FAILED.
 */
int traffic_take_rest(struct traffic *x);
/* In the middle of it: stop all queues, those that send first, and take what is used. places: where
 * they stand, by queue. 0, RUN_FAILED, or RUN_SKIPPED for a device that cannot tell. */
int traffic_stop_queues(struct traffic *x, struct vdpa_vq_state *places);
/* Drain it unless rc is not 0, and finish the session. The verdict. */
int traffic_close(struct run *r, struct session *s, struct traffic *x, int rc);

/* Net: find out whether frames sent come back; once a run. */
int traffic_probe_echo(struct run *r);

/* Bytes that depend on a seed, and the offset of the first that does not (len: none). */
void pattern_fill(void *buf, uint32_t len, uint64_t seed);
uint32_t pattern_check(const void *buf, uint32_t len, uint64_t seed);

/* Post a chain in a slot; its id or -1 when the ring is full. Takes the slot. */
int traffic_post(struct traffic *x, struct queue *q, uint32_t slot, const struct ring_buf *bufs,
		 unsigned int n);

#endif /* TRAFFIC_H */
