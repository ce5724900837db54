/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Doorbells of a function: a word of memory for each queue, which a client may map and write
 * without a message, and an eventfd for each queue, which is what the device waits for.
 *
 * Looking at the words of all functions is a watch's: one timer on a loop of its own. A function is
 * looked at again after its poll_us while there are rings, and more and more seldom while there are
 * none; idle ones share the timer's wake-ups. Functions that trap doorbells are not watched.
 *
 * A function may have flags: a word behind each doorbell's, which the device sets when the queue
 * interrupts, and the client clears. They are in the same memory, trapped or not.
 */

#ifndef VFIO_USER_DOORBELL_H
#define VFIO_USER_DOORBELL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "vdpa_event.h"

/* Longest time between two looks at doorbells that do not ring, microseconds. */
#define DOORBELL_IDLE_US_MAX 1000u

struct vfu_bell {
	int kick_fd;
	/* Counters; atomic. */
	uint64_t by_memory, by_message;
	uint16_t position; /* as told last, where notification data was negotiated; atomic */
};

struct vfu_bells {
	uint16_t n;
	uint32_t mult;
	int fd; /* the words' memory file */
	uint8_t *mem;
	size_t len, offset;
	struct vfu_bell *queues;

	bool poll; /* else trapped */
	bool flags;
	unsigned int poll_us;
	struct vfu_watch *watch;

	/* The watch's, on its loop. */
	bool watched;
	unsigned int wait_us;
	uint64_t due; /* nanoseconds, CLOCK_MONOTONIC */
	TAILQ_ENTRY(vfu_bells) next;
};

struct vfu_watch {
	struct vdpa_event_loop *loop;
	struct vdpa_event timer;
	TAILQ_HEAD(, vfu_bells) watched;
};

/* 0 or a negative errno with vdpa_error(). Fini only when nothing is watched; after a failure too.
 */
int vdpa_vfus_watch_init(struct vfu_watch *w);
void vdpa_vfus_watch_fini(struct vfu_watch *w);

/*
 * mult is the distance of words in bytes, with flags 8 at least; they lie in len bytes, whole
 * pages, of the file at offset. poll_us 0: trap. 0 or a negative errno with vdpa_error(), then
 * nothing is left.
 */
int vdpa_vfus_bells_init(struct vfu_bells *d, struct vfu_watch *watch, uint16_t n, uint32_t mult,
			 size_t offset, size_t len, unsigned int poll_us, bool flags);
void vdpa_vfus_bells_fini(struct vfu_bells *d);

/* Look from now on; rings that came before are seen at once. Not on the watch's loop. */
void vdpa_vfus_bells_start(struct vfu_bells *d);
/* Look no longer, and forget what has rung. Not on the watch's loop. */
void vdpa_vfus_bells_stop(struct vfu_bells *d);
/* Other memory for the words: a client that has gone may have kept what it had mapped. Stopped. */
void vdpa_vfus_bells_renew(struct vfu_bells *d);

/* The memory of a former process, whose client has it mapped, in the place of that of a function
 * that was made just now: fd is taken over. -EPROTO for a file that is none, and fd is still the
 * caller's. */
int vdpa_vfus_bells_adopt(struct vfu_bells *d, int fd);

/* A queue's flag, with flags: the client writes it at any time. Any thread. */
uint32_t vdpa_vfus_bells_get_flag(const struct vfu_bells *d, uint16_t idx);
void vdpa_vfus_bells_set_flag(struct vfu_bells *d, uint16_t idx, uint32_t value);

/* A ring that came by message. */
void vdpa_vfus_bells_ring(struct vfu_bells *d, uint16_t idx, uint32_t data);

#endif /* VFIO_USER_DOORBELL_H */
