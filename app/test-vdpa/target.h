/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A vDPA device as test-vdpa reaches it: in this process through uvdpa's core (target_core.c), or
 * as a vhost-user front end on a socket (target_vhu.c). One table of functions; cases and
 * benchmarks know neither.
 *
 * Functions that can fail return 0 or a negative errno with vdpa_error_message(). -EOPNOTSUPP: this
 * way of reaching a device, or this device, does not have it, and the message says which. Every one
 * returns within a bounded time.
 */

#ifndef TARGET_H
#define TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <vdpa_frontend.h>

/* Virtio device ids with cases of their own (virtio 1.2, 5). */
#define TARGET_NET   1
#define TARGET_BLOCK 2

#define TARGET_WORDS_MAX 4096

struct target;

/* A dirty log: one bit for each 4 KiB page from address 0 on, in a file and mapped here. */
struct target_log {
	int fd;
	uint8_t *bitmap;
	size_t size; /* bytes */
};

struct target_ops {
	void (*close)(struct target *t);
	int (*get_config)(struct target *t, size_t offset, void *buf, size_t len);
	/* The status byte. */
	int (*get_status)(struct target *t);
	/* Step by step; 0 is a reset. */
	int (*set_status)(struct target *t, uint8_t status);
	int (*set_features)(struct target *t, uint64_t features);
	/* After FEATURES_OK: where a queue is to start. */
	int (*set_place)(struct target *t, uint16_t idx, const struct vdpa_vq_state *place);
	/* A whole start, up to DRIVER_OK; what failed is undone. */
	int (*start)(struct target *t, const struct vdpa_start_config *conf);
	/* Back to status 0 from anywhere; the device lets go of memory and eventfds. */
	int (*stop)(struct target *t);
	int (*start_vq)(struct target *t, uint16_t idx, const struct vdpa_vq_config *conf);
	int (*stop_vq)(struct target *t, uint16_t idx, struct vdpa_vq_state *state);
	int (*enable_vq)(struct target *t, uint16_t idx, bool enable);
	/* All queues of a running device stand still, with what they took finished; or go on. */
	int (*suspend)(struct target *t);
	int (*resume)(struct target *t);
	int (*set_call)(struct target *t, uint16_t idx, int fd);
	int (*set_kick)(struct target *t, uint16_t idx, int fd);
	int (*set_memory)(struct target *t, struct vdpa_iotlb *tlb);
	/* Log what the running device writes; NULL: no longer. used_iova: of each queue's used
	 * ring, UINT64_MAX for a queue that there is not. The log stays where it is until another
	 * one, or none, is set, or the device is stopped. */
	int (*set_log)(struct target *t, const struct target_log *log, const uint64_t *used_iova);
	/* The doorbell page of a started queue; its fd stays the target's. */
	int (*doorbell)(struct target *t, uint16_t idx, struct vdpa_notification_area *area);
	/* Make the configuration change, or change back. */
	int (*change_config)(struct target *t, bool back);
	/* Configuration changes that were told of so far. */
	unsigned int (*config_changes)(struct target *t);
	/* Why the device failed, "" when it did not. */
	void (*failure)(struct target *t, char *buf, size_t len);
};

struct target {
	const struct target_ops *ops;
	const char *how;    /* "in-process", "vhost-user" */
	char where[256];    /* words or path, for output */
	uint32_t device_id; /* 0: not known */
	uint32_t vendor_id; /* 0 likewise */
	uint64_t features;  /* offered */
	uint64_t
		own_features; /* of the way it is reached (vhost-user's bit 30), not the device's */
	uint64_t must;	      /* those without which the device must not be driven */
	uint64_t protocol;    /* vhost-user: protocol features of the back end */
	const struct vdpa_capabilities *can; /* in-process; else NULL */
	uint16_t nvqs;			     /* virtqueues, with a control queue where it is ours */
	uint16_t num_max;		     /* largest size of one */
	size_t config_size;		     /* bytes; 0: not readable */
	const char *dma;		     /* who translates: "core domain", "driver", "peer" */
	pid_t pid;	 /* process that serves it, to count its file descriptors; 0: none */
	bool echoes;	 /* words say that frames sent come back */
	bool keeps_disk; /* words say that what is on its disk does not outlive it */
	bool trusting;	 /* status and features are taken on the front end's word */
	void *priv;
};

/* A device of this process: words of dev add without name. After vdpa_init(). */
int target_core_open(struct target *t, const char *words);
/* A device behind a vhost-user socket. device_id: 0 to guess it from what is offered; status:
 * whether to negotiate STATUS; scale: percent of how long an answer may take. */
int target_vhu_open(struct target *t, const char *path, uint32_t device_id, bool status,
		    unsigned int scale);

/* 0, or a negative errno with vdpa_error_message(): the device says that it failed or needs a
 * reset, or cannot be asked any more. */
int target_check_alive(struct target *t);

static inline bool
target_has(const struct target *t, unsigned int bit)
{
	return (t->features >> bit) & 1;
}

/* Queues of what carries one sequence: a pair of a net device, else one. */
static inline uint16_t
target_lane_vqs(const struct target *t)
{
	return t->device_id == TARGET_NET ? 2 : 1;
}

/* Queues that carry data: of a net device whole pairs, the control queue is none. */
static inline uint16_t
target_data_vqs(const struct target *t)
{
	return t->device_id == TARGET_NET ? t->nvqs & (uint16_t)~1u : t->nvqs;
}

#endif /* TARGET_H */
