/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A vDPA device on a virtio-pci function, and what the files of this folder share:
 *
 *   virtio_caps.c    where the function's structures lie; knows no vDPA, as the next
 *   virtio_pci.c     registers
 *   virtio_irq.c     which vector serves which queue
 *   virtio_ctrl.c    the control queue of a net device, which the service keeps for itself
 *   virtio_device.c  features, start, stop, virtqueues
 *   virtio_owner.c   functions that own others, and their administration queues; knows no vDPA
 *   virtio_parts.c   a device's state as its owner gives and takes it
 *   virtio_kept.c    what outlives the process, and how the next one takes it over
 *   virtio_log.c     the dirty log, where somebody logs the function's DMA
 *   virtio_ops.c     the config ops on top of these
 *   virtio_add.c     how a device comes of a function and its words, and goes
 *
 * Ops run with the device's lock held. Without it: kicks, statistics, and the handlers of
 * virtio_irq.c, which share what irq.lock guards and atomics, nothing else.
 */

#ifndef VIRTIO_PRIV_H
#define VIRTIO_PRIV_H

#include <pthread.h>

#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>

#include <rte_bitops.h>

#include "pci_kept.h"
#include "vdpa_event.h"
#include "vdpa_virtio.h"
#include "vdpa_work.h"
#include "virtio_pci_priv.h"

/* A data queue. */
struct virtio_queue {
	struct vdpa_virtio_vq_info info;
	struct vdpa_virtio_vq_conf conf; /* vector apart, which is virtio_irq.c's */
	bool ready;			 /* enabled in the device */
	bool enabled;			 /* by the front end */
	bool ran;			 /* since the last reset: nobody knows where it stands */
	int call_fd;			 /* irq.lock */
	uint64_t kicks, call_swaps;	 /* atomic */
	uint64_t interrupts;		 /* passed on by us; atomic */
	bool direct; /* has had a vector that goes straight to its call eventfd; atomic */
};

/* A vector of the function, 0 for changes of the configuration. */
struct virtio_vector {
	struct virtio_device *dev;
	struct vdpa_event ev; /* an eventfd of ours on the control loop; fd -1: a guest's instead */
	struct vdpa_work work; /* what reads registers for it */
};

struct virtio_irq {
	bool there;	       /* virtio_irq_init() was called */
	unsigned int limit;    /* word `vectors` */
	unsigned int n;	       /* vectors in use; 0: the INTx line, or none; read by atomic load */
	unsigned int n_logged; /* n of the last log line, where logged */
	bool logged;
	bool on;		       /* set up, by vectors or line */
	struct virtio_vector *vectors; /* n of them, at least 1 */
	struct vdpa_work_queue jobs;   /* of the vectors */
	pthread_mutex_t lock;
	int config_fd;	    /* (lock) */
	uint8_t generation; /* of the configuration, at the last notification; its job's */
	uint64_t relayed;   /* atomic */
};

/* The control queue. */
struct virtio_ctrl {
	bool on;    /* enabled, commands can be given */
	bool shown; /* the device knows mem, until it is reset */
	uint16_t idx;
	uint16_t num;
	uint32_t doorbell;
	struct vdpa_dma_buf mem; /* ring and command; kept from start to start */
	uint16_t next;		 /* split: avail and used index; packed: slot */
	bool wrap;		 /* packed */
	uint16_t pairs;		 /* as the last command has set them; 0: not known */
	bool busy;		 /* a command may be under way */
	bool started;		 /* the device knows what it is to know at the start */
	uint64_t commands;	 /* atomic */
};

/* The dirty log of a function whose DMA is logged. */
struct virtio_log {
	bool on;
	bool broken; /* it could not be begun again: nobody knows what is written */
	struct vdpa_dirty_log log;
	struct vdpa_dma_range ranges[VDPA_PCI_DMA_LOG_RANGES];
	unsigned int n;
};

struct virtio_owner;

struct virtio_device {
	struct vdpa_virtio_device *pub; /* the driver's; its kind */
	struct vdpa_device *vdev;	/* the same */
	struct vdpa_config_ops ops;	/* the service's, and over them the driver's */
	struct vdpa_virtio_pci hw;
	struct vdpa_patience patience;
	bool has_pci;	      /* hw.pci is ours to close */
	bool kind_init;	      /* the kind's init was called, and its free is to be */
	uint64_t hw_features; /* offered by the device */
	uint64_t offered;     /* to the front end */
	uint64_t features;    /* negotiated with the front end */
	uint64_t negotiated;  /* with the device */
	uint32_t config_size;
	uint16_t nvqs;
	uint16_t num_max;
	uint16_t hw_pairs;     /* net: max_virtqueue_pairs of the device */
	bool has_mac, has_mtu; /* words */
	uint8_t mac[6];
	uint16_t mtu;
	bool running;	/* DRIVER_OK; atomic: kicks look at it */
	bool suspended; /* atomic: kicks look at it */
	bool prepared;	/* a start has begun, until the reset */
	struct virtio_queue *vqs;
	struct virtio_irq irq;
	struct virtio_ctrl ctrl;
	struct virtio_log log;
	struct virtio_owner *owner; /* NULL: none */
	uint64_t member;	    /* of its group */
	struct vdpa_event gone[2];  /* VDPA_PCI_EVENT_*; control loop */
	bool is_kept;		    /* its record is written: virtio_kept.c */
	bool is_left;		    /* to the next process: nothing reaches the function */
	void *left;		    /* the record of a former process, while hw.adopts; malloc */
};

static inline struct virtio_device *
virtio_dev(struct vdpa_device *vdev)
{
	return vdpa_virtio_device(vdev)->core;
}

static inline bool
virtio_has(uint64_t features, unsigned int bit)
{
	return (features & RTE_BIT64(bit)) != 0;
}

static inline void
virtio_count(uint64_t *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

static inline uint64_t
virtio_counted(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* virtio_irq.c */

/* Before anything else of this file; virtio_irq_free() ends it. */
void virtio_irq_init(struct virtio_device *dev);
void virtio_irq_free(struct virtio_device *dev);
/*
 * Vectors for every data queue and the configuration, after FEATURES_OK: as many as there are, down
 * to the INTx line. -ENOSPC when there is not even that.
 */
int virtio_irq_setup(struct virtio_device *dev);
/* Every eventfd released, and all vectors off; park: until the next setup or virtio_irq_release()
 * they stay with the function, masked. */
void virtio_irq_teardown(struct virtio_device *dev, bool park);
/* Vectors that are parked off, while nothing is set up. */
void virtio_irq_release(struct virtio_device *dev);
/* The vector of a queue, for the device. */
uint16_t virtio_irq_vector(const struct virtio_device *dev, uint16_t idx);
/* From now on the queue's interrupts reach fd; -1: nobody. */
int virtio_irq_set_call(struct virtio_device *dev, uint16_t idx, int fd);
void virtio_irq_set_config(struct virtio_device *dev, int fd);

/* No handler of an interrupt runs any more; the vectors stay as they are. */
void virtio_irq_end_handlers(struct virtio_device *dev);
/* After a start that has found the vectors in use: what came before us was nobody's to hear. */
void virtio_irq_signal_own(struct virtio_device *dev);

/* virtio_kept.c */

/* Whether devices of this kind can go on without the process. */
bool virtio_kept_can(const struct vdpa_virtio_kind *kind);
/* Keep it from now on. 0; a negative errno with why it is not. */
int virtio_kept_begin(struct virtio_device *dev);
/* Record what the device is to be told next. No-op of one that is not kept. */
void virtio_kept_write(struct virtio_device *dev);
/* How a former process has left the function. 0: running, to be taken over by the steps of a start
 * (hw.adopts); 1: otherwise, and it begins anew, with one line if anything is lost by that; a
 * negative errno where it cannot be taken over, and that process lives and may have it back. */
int virtio_kept_find(struct virtio_device *dev, const struct vdpa_virtio_kind *kind,
		     const char *name);
/* What would stop a function that another process may have back, ends that this one reaches it
 * (vdpa_pci_let_be()). No-op of any other. */
void virtio_kept_let_be(struct virtio_device *dev);
/* The end of that: every step has found what it was to write, or not. No-op otherwise. */
void virtio_kept_settle(struct virtio_device *dev, bool taken_over);
/* From the record: virtio_pci_vq_info(), features, and the control queue (false: it was not set
 * up). */
int virtio_kept_queue_info(struct virtio_device *dev, uint16_t idx,
			   struct vdpa_virtio_vq_info *info);
uint64_t virtio_kept_features(const struct virtio_device *dev, uint64_t *negotiated);
bool virtio_kept_ctrl(const struct virtio_device *dev, struct virtio_ctrl *c);
/* The function uses the queues that are set up, and no other. */
int virtio_kept_check_queues(struct virtio_device *dev);
/* vdpa_config_ops.leave. */
int virtio_device_leave(struct virtio_device *dev);

/* virtio_ctrl.c */

/* What can be asked of the device by the control queue is worth having one. */
uint64_t virtio_ctrl_features(const struct virtio_device *dev);
/* Set the queue up, before DRIVER_OK. */
int virtio_ctrl_setup(struct virtio_device *dev);
/* What the device is to know at the start, after DRIVER_OK. */
int virtio_ctrl_start(struct virtio_device *dev);
/* Once the device is reset; the memory stays for the next start. */
void virtio_ctrl_reset(struct virtio_device *dev);
/* Free the memory. While the device is reset, or cannot reach it any more. */
void virtio_ctrl_release(struct virtio_device *dev);
/* Tell the device how many pairs are in use, where that has changed. */
int virtio_ctrl_update_pairs(struct virtio_device *dev);

/* Whether the service gives a net device that command itself. */
bool virtio_ctrl_gives(const struct virtio_device *dev, uint8_t class, uint8_t command);

/* virtio_parts.c: save_state and load_state. */

int virtio_parts_save(struct virtio_device *dev, void *buf, size_t *len);
int virtio_parts_load(struct virtio_device *dev, const void *buf, size_t len);

/* virtio_log.c: log_start, log_sync and log_stop. */

int virtio_log_start(struct virtio_device *dev, const struct vdpa_dirty_log *log);
int virtio_log_sync(struct virtio_device *dev);
int virtio_log_stop(struct virtio_device *dev);

/* virtio_device.c */

int virtio_device_set_features(struct virtio_device *dev, uint64_t features);
int virtio_device_set_status(struct virtio_device *dev, uint8_t status);
int virtio_device_reset(struct virtio_device *dev);
/* Whether the device suspends as a whole, by its status (VIRTIO_F_SUSPEND). */
bool virtio_device_suspends(const struct virtio_device *dev);
/* By its status, or by its queues where queue_enable stops them. -EOPNOTSUPP: by neither. A device
 * that does not do it has failed. */
int virtio_device_suspend(struct virtio_device *dev);
int virtio_device_resume(struct virtio_device *dev);
/* How many of the data queues there are with the features negotiated. */
uint16_t virtio_device_queues(const struct virtio_device *dev);
/* Whether single queues can be stopped, with these features of the function. */
bool virtio_device_stops_queues(const struct virtio_device *dev, uint64_t features);
int virtio_device_set_ready(struct virtio_device *dev, uint16_t idx, bool ready);
int virtio_device_set_enable(struct virtio_device *dev, uint16_t idx, bool on);
int virtio_device_check_state(const struct virtio_device *dev, const struct vdpa_vq_state *state);
int virtio_device_get_state(struct virtio_device *dev, uint16_t idx, struct vdpa_vq_state *state);
/* Data path: a kick that came to us, for virtio_pci_kick(). Without the device's lock. */
void virtio_device_kick(struct virtio_device *dev, uint16_t idx);
/* As get_vendor_vq_stats and get_stats. */
int virtio_device_vq_stats(struct virtio_device *dev, uint16_t idx, struct vdpa_stat *stats,
			   unsigned int n);
int virtio_device_stats(struct virtio_device *dev, struct vdpa_stat *stats, unsigned int n);
int virtio_device_read_config(struct virtio_device *dev, size_t offset, void *buf, size_t len);

/* virtio_add.c */

void virtio_device_free(struct vdpa_device *vdev);

#endif /* VIRTIO_PRIV_H */
