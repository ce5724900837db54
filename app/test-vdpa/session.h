/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A driver's session with a device: guest memory, rings, eventfds and buffers of the queues asked
 * for, from start to stop. A buffer is a slot: room for a header, a status and an indirect table
 * beside its data, with guard bytes between and around; a copy of what the slot held when it was
 * posted tells afterwards what the device wrote.
 */

#ifndef SESSION_H
#define SESSION_H

#include "ring_driver.h"
#include "target.h"

/* A slot, by offset. */
#define SLOT_HEADER	64u  /* up to 64 bytes */
#define SLOT_STATUS	192u /* up to 64 bytes, behind a guard of 64 */
#define SLOT_TABLE	320u /* an indirect table of SLOT_PARTS_MAX entries */
#define SLOT_PARTS_MAX	16u
#define SLOT_DATA	640u
#define SLOT_GUARD	64u
#define SLOT_GUARD_BYTE 0xa5

/* Features that a session asks for where the device offers them. */
#define SESSION_PACKED		  (1u << 0)
#define SESSION_INDIRECT	  (1u << 1)
#define SESSION_EVENT_IDX	  (1u << 2)
#define SESSION_IN_ORDER	  (1u << 3)
#define SESSION_MQ		  (1u << 4)
#define SESSION_MERGEABLE	  (1u << 5)
#define SESSION_RING_RESET	  (1u << 6)
#define SESSION_CTRL_VQ		  (1u << 7)
#define SESSION_NOTIFICATION_DATA (1u << 8)

struct queue {
	struct ring_driver ring;
	uint16_t idx;
	bool used;    /* part of the session */
	bool running; /* the device has been given it */
	int kick_fd, call_fd;

	uint64_t slots; /* IOVA of the first */
	uint32_t nslots;
	uint32_t *free; /* a stack */
	uint32_t nfree;
	uint32_t *slot_of; /* by ring id */
	uint64_t *tag;	   /* by slot: the traffic's */
	uint32_t *noted;   /* by slot: the traffic's count of notes when it was posted */
	uint8_t *shadow;   /* nslots copies */

	volatile uint8_t *doorbell; /* NULL: kicks go by kick_fd */
	void *doorbell_map;
	size_t doorbell_len;

	uint64_t kicks; /* sent */
	uint64_t calls; /* received, in eventfd counts */
};

struct session_params {
	unsigned int flags; /* SESSION_* */
	uint16_t first;	    /* queues first .. first + n; n 0: from first to the last data queue */
	uint16_t n;
	uint32_t num;	/* ring size; 0: default */
	uint32_t slots; /* a queue; 0: as many as the ring has descriptors, at most 64 */
	uint32_t room;	/* bytes of data in a slot; 0: default */
	/* Bytes of guest memory in one region, as far as rings and slots need no more; 0: a region
	 * for the rings and one for the slots, of what they need. */
	uint64_t one_region;
};

struct session {
	struct target *t;
	struct session_params params;
	uint64_t features; /* to negotiate */
	uint32_t num;
	uint32_t room;
	uint32_t rx_room; /* net: of that, what a receive buffer takes; room after init */
	uint32_t slot_size;
	bool started;
	uint64_t start_ns, stop_ns; /* how long the last one took */
	struct ring_mem mem;
	uint16_t nq; /* entries of q: the device's queues */
	struct queue *q;
};

/* Memory and rings; nothing is started. 0 or a negative errno with vdpa_error_message(). */
int session_init(struct session *s, struct target *t, const struct session_params *params);
/* Stop it where it runs, and free all. 0 or what the stop says. */
int session_fini(struct session *s);

/* Start the device with fresh rings; every queue of the session but those in the list `late`. */
int session_start(struct session *s);
int session_start_without(struct session *s, const uint16_t *late, unsigned int n);
/* Start every queue as if it had been at this place before. */
int session_start_at(struct session *s, const struct vdpa_vq_state *place);
/* Start the stopped device again with every queue where it stood, by the number of the queue; what
 * was posted is still there. */
int session_start_again(struct session *s, const struct vdpa_vq_state *places);
/* Stop the device. */
int session_stop(struct session *s);
/* One queue more, with a fresh ring, or where it stands (state not NULL). */
int session_start_vq(struct session *s, uint16_t idx, const struct vdpa_vq_state *state);
int session_stop_vq(struct session *s, uint16_t idx, struct vdpa_vq_state *state);

/* The features that a session with these flags negotiates. */
uint64_t session_features(const struct target *t, unsigned int flags);

/* A queue as the device is told of it. */
void session_vq_config(const struct session *s, uint16_t idx, struct vdpa_vq_config *conf);

/* Kicks go by the doorbell page from now on. -EOPNOTSUPP where there is none. */
int session_use_doorbell(struct session *s, uint16_t idx);

/* Slots. */
uint64_t slot_iova(const struct session *s, const struct queue *q, uint32_t slot);
uint8_t *slot_va(const struct session *s, const struct queue *q, uint32_t slot);

/* A range of a slot. */
struct slot_range {
	uint32_t offset, len;
};
/* Keep a copy of the slot before it is posted. */
void slot_remember(struct session *s, struct queue *q, uint32_t slot);
/* Whether only the given ranges changed since; else the offset of the first byte that did. */
bool slot_unchanged_but(const struct session *s, const struct queue *q, uint32_t slot,
			const struct slot_range *ranges, unsigned int n, uint32_t *where);

/* Kick the device where it wants to be. */
void queue_kick(struct queue *q);
/* Kick it, wanted or not. */
void queue_kick_always(struct queue *q);
/* Take what the call eventfd counted. */
uint64_t queue_take_calls(struct queue *q);

#endif /* SESSION_H */
