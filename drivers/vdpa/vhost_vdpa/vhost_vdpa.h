/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A device of the kernel's vDPA bus as one of ours, and what the files of this folder share:
 *
 *   vhost_vdpa_kernel.c  the open /dev/vhost-vdpa-N; knows no vDPA device of ours
 *   vhost_vdpa_watch.c   which of those files the kernel takes away; likewise
 *   vhost_vdpa_dma.c     guest memory, by messages
 *   vhost_vdpa_ctrl.c    the control queue of a net device, which the driver keeps for itself
 *   vhost_vdpa_device.c  features, start, stop, virtqueues
 *   vhost_vdpa_ops.c     the config ops on top of these
 *   vhost_vdpa_add.c     how a device comes of a parent and its words, and goes
 *
 * Ops run with the device's lock held, and the file is used with it only. Without it: kicks, which
 * share what kick_lock guards, and statistics, which are atomics.
 */

#ifndef VHOST_VDPA_H
#define VHOST_VDPA_H

#include <pthread.h>
#include <sys/queue.h>
#include <sys/types.h>

#include <rte_bitops.h>

#include "vdpa_driver.h"
#include "vdpa_vring.h"
#include "vhost_vdpa_kernel.h"

/* A data queue. */
struct vv_queue {
	uint16_t size_max;
	uint32_t num;
	bool ready;		     /* enabled in the device */
	bool enabled;		     /* by the front end */
	bool ran;		     /* since the last reset */
	int kick_fd;		     /* the guest's; kick_lock */
	int own_kick;		     /* ours, where the guest has none; kick_lock */
	volatile uint16_t *doorbell; /* kick_lock; NULL: none */
	uint64_t call_swaps;	     /* atomic */
};

/* The control queue. */
struct vv_ctrl {
	bool on; /* set up, commands can be given */
	uint16_t idx;
	uint32_t asid;		 /* that its group is in: 0 is the guest's */
	bool mem_apart;		 /* mem lies in address space 1, not in the guest's */
	struct vdpa_dma_buf mem; /* ring and command; kept from start to start */
	struct vdpa_vring *ring;
	int kick_fd;
	uint16_t pairs;	   /* as the last command has set them */
	uint64_t commands; /* atomic */
};

/* A file that may be taken away. */
struct vv_watch {
	const char *path;
	int wd; /* -1: not watched */
	dev_t rdev;
	/* It is gone. On the control loop; may not end the watch. */
	void (*gone)(void *arg);
	void *arg;
	LIST_ENTRY(vv_watch) next;
};

struct vhost_vdpa {
	struct vdpa_device vdev;
	char *parent; /* its management device's name, for messages */
	struct vv_kernel kernel;
	struct vv_parent info;
	struct vdpa_dma_domain *dom;
	uint64_t offered;    /* to the front end */
	uint64_t features;   /* negotiated with the front end */
	uint64_t negotiated; /* with the device */
	uint32_t config_size;
	uint16_t nvqs;
	uint16_t num_max;
	uint16_t hw_pairs; /* net: max_virtqueue_pairs of the device */
	bool has_mac;	   /* word */
	uint8_t mac[6];
	bool running; /* DRIVER_OK */
	bool suspended;
	bool prepared;	/* a start has begun, until the reset */
	bool maps_lost; /* the reset may have taken the memory from the parent, not from the kernel
			 */
	bool gone;	/* the kernel takes it away; atomic */
	struct vv_queue *vqs;
	pthread_mutex_t kick_lock;
	struct vv_ctrl ctrl;
	struct vv_watch watch;
};

static inline struct vhost_vdpa *
vv_dev(struct vdpa_device *vdev)
{
	return (struct vhost_vdpa *)vdev;
}

static inline bool
vv_has(uint64_t features, unsigned int bit)
{
	return (features & RTE_BIT64(bit)) != 0;
}

static inline void
vv_count(uint64_t *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

static inline uint64_t
vv_counted(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* vhost_vdpa_watch.c: of an open file; the path stays the caller's. A failure is one line, and then
 * nobody notices. */
void vv_watch_add(struct vv_watch *w, int fd);
/* On return gone() runs no more. */
void vv_watch_del(struct vv_watch *w);

/* vhost_vdpa_dma.c */
int vv_dma_create(struct vhost_vdpa *dev);
/* The parent has what the kernel has, after a reset that may have taken it away. */
int vv_dma_renew(struct vhost_vdpa *dev);

/* vhost_vdpa_ctrl.c */

/* Features that the control queue is worth having for; 0: it is left alone. */
uint64_t vv_ctrl_features(const struct vhost_vdpa *dev);
/* Set it up, before DRIVER_OK. */
int vv_ctrl_setup(struct vhost_vdpa *dev);
/* What the device is to know at the start, after DRIVER_OK. */
int vv_ctrl_start(struct vhost_vdpa *dev);
void vv_ctrl_reset(struct vhost_vdpa *dev);
/* Free its memory. While the device is reset, or cannot reach it any more. */
void vv_ctrl_release(struct vhost_vdpa *dev);
/* Tell the device how many pairs are in use, where that has changed. */
int vv_ctrl_update_pairs(struct vhost_vdpa *dev);

/* vhost_vdpa_device.c */
int vv_device_set_features(struct vhost_vdpa *dev, uint64_t features);
int vv_device_set_status(struct vhost_vdpa *dev, uint8_t status);
int vv_device_reset(struct vhost_vdpa *dev);
int vv_device_suspend(struct vhost_vdpa *dev);
int vv_device_resume(struct vhost_vdpa *dev);
int vv_device_set_ready(struct vhost_vdpa *dev, uint16_t idx, bool ready);
int vv_device_set_enable(struct vhost_vdpa *dev, uint16_t idx, bool on);
int vv_device_set_state(struct vhost_vdpa *dev, uint16_t idx, const struct vdpa_vq_state *state);
int vv_device_get_state(struct vhost_vdpa *dev, uint16_t idx, struct vdpa_vq_state *state);
int vv_device_set_kick(struct vhost_vdpa *dev, uint16_t idx, int fd);
/* A kick of ours. Without the device's lock. */
void vv_device_kick(struct vhost_vdpa *dev, uint16_t idx);
int vv_device_read_config(struct vhost_vdpa *dev, size_t offset, void *buf, size_t len);

/* vhost_vdpa_ops.c: suspends says whether the parent can. */
struct vdpa_config_ops vv_ops(bool suspends);

/* vhost_vdpa_add.c */
void vv_free(struct vdpa_device *vdev);

#endif /* VHOST_VDPA_H */
