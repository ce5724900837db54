/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A device as the core keeps it, and its lock. What is done with it is declared by concept: op.h,
 * steps.h, failure.h, device_dma.h, snapshot.h. One lock serialises its control path; what it
 * guards is marked (L).
 *
 * Lock order: device lock, bus lock, show lock, fail lock. The management lock (registry.c) is
 * outside of the bus lock and never held with the device's. The control loop's handlers do not take
 * the device lock; jobs of its work queue do, and nobody waits for one with that lock held.
 */

#ifndef VDPA_DEVICE_PRIV_H
#define VDPA_DEVICE_PRIV_H

#include <pthread.h>

#include <linux/virtio_config.h>

#include <rte_bitops.h>
#include <rte_common.h>

#include "error_priv.h"
#include "log_limit.h"
#include "vdpa_driver.h"
#include "vdpa_event.h"
#include "vdpa_frontend.h"
#include "vdpa_timer.h"
#include "vdpa_work.h"
#include "vm.h"

/* Two errors' texts, the first one's and that the device is gone, with what is said around them. */
#define VDPA_FAILURE_MAX (2 * (VDPA_ERROR_MAX + 64))

/* Bytes of a device's configuration that are kept to be shown. */
#define VDPA_SNAPSHOT_MAX 64

/* A virtqueue of a session. */
struct vdpa_core_vq {
	struct vdpa_vq_config conf; /* (L) as started last */
	bool ready;		    /* (L) set_vq_ready(true) was called and not undone */
	bool was_reset;		    /* (L) by itself, and may be set up again */
	bool halted;		    /* (L) stopped with the whole device; state says where */
	bool lost;		    /* (L) stopped when its rings left the memory; likewise */
	uint64_t log_iova;	    /* (L) of its used ring in the dirty log; UINT64_MAX: none */
	struct vdpa_vq_state state; /* (L) */
	uint32_t num_max;	    /* fixed at registration */
	struct vdpa_event relay;    /* kick eventfd to the device, on the control loop */
	struct vdpa_device *vdev;
};

/* The dirty log of a session: log_steps.c. */
struct vdpa_device_log {
	bool on;
	bool behind;			/* the device may have written since the last log_sync */
	struct vdpa_dirty_log whole;	/* as the front end gave it */
	struct vdpa_dirty_log given[2]; /* what of it the driver has, and had before */
	unsigned int given_idx;		/* which of them it has */
	struct vdpa_timer timer;	/* to the next log_sync */
	struct vdpa_work work;		/* which is done on the device's work queue */
};

/* Of the first report since the last reset. */
enum vdpa_fail_state {
	VDPA_FAIL_NONE,
	VDPA_FAIL_REPORTED, /* the stop is still to come */
	VDPA_FAIL_STOPPED,  /* the front end has yet to be notified */
	VDPA_FAIL_NOTIFIED,
};

struct vdpa_device_core {
	struct vdpa_config_ops ops; /* the driver's, what it does not know NULL */
	pthread_mutex_t lock;
	enum vdpa_device_state state; /* written under (L); read by atomic load */
	uint32_t refcnt;	      /* atomic */

	/* Written under (L), by atomic store; shown by atomic load. */
	uint8_t status;			 /* what the driver has set */
	uint64_t features;		 /* negotiated */
	bool features_set;		 /* (L) set_driver_features succeeded since reset */
	struct vdpa_iotlb *iotlb;	 /* (L) memory in force, from one session to the next */
	bool memory_ends;		 /* (L) the next reset that succeeds takes it away */
	struct vdpa_dma_domain *dma_own; /* dma.c: of a driver with dma_map; registered */
	struct vdpa_core_vq *vqs;	 /* (L) */
	uint16_t nvqs;			 /* fixed at registration */
	uint32_t vq_num_min, vq_align;	 /* likewise */
	struct vdpa_capabilities can;	 /* likewise */
	int config_fd;			 /* eventfd that the device signals; from registration on */
	struct vdpa_event config_ev;
	struct vdpa_device_log dirty;  /* (L) */
	enum vdpa_doorbells doorbells; /* set before the front end serves */

	struct vdpa_log_limit log;   /* for lines that guest, device or front end can cause */
	struct vdpa_work_queue work; /* what may wait for the device, in order */

	struct vdpa_vm_member *vm; /* which it serves; NULL: none was named; atomic, until freed */
	struct vdpa_frontend *fe;  /* set once its probe has succeeded; show lock, and by atomics */
	void *drvdata;

	/* What is shown without asking the device: snapshot.c. */
	pthread_mutex_t show_lock; /* also keeps the front end while it describes its part */
	bool config_missed;	   /* a change came before the front end; show lock */
	uint8_t snapshot[VDPA_SNAPSHOT_MAX]; /* the configuration as it was read last */
	size_t snapshot_len;		     /* 0: not read yet */
	uint32_t snapshot_generation;
	struct vdpa_work snapshot_work;

	/* Failure: the first report since the last reset, and that the device is gone. */
	pthread_mutex_t fail_lock;
	enum vdpa_fail_state fail_state;
	bool gone;	/* for good; atomic */
	bool fail_open; /* registered: reports are taken */
	int fail_qidx;
	char failure[VDPA_FAILURE_MAX];
	struct vdpa_work fail_work;

	struct vdpa_device *vdev;
};

static inline void
vdpa_device_lock(struct vdpa_device *vdev)
{
	pthread_mutex_lock(&vdev->core->lock);
}

static inline void
vdpa_device_unlock(struct vdpa_device *vdev)
{
	pthread_mutex_unlock(&vdev->core->lock);
}

/* doorbell.c: for messages and to be shown. */
const char *vdpa_doorbells_name(enum vdpa_doorbells rule);

/* Under the device's lock. */
void vdpa_device_set_state(struct vdpa_device *vdev, enum vdpa_device_state state);
static inline bool
vdpa_device_started(const struct vdpa_device *vdev)
{
	return vdev->core->state == VDPA_STATE_RUNNING || vdev->core->state == VDPA_STATE_SUSPENDED;
}

/* device.c: whether it is a name that a device, or a VM, can have. */
bool vdpa_name_is_valid(const char *name);

/*
 * device.c: the front end serves the device from now on. A failure and a change of the
 * configuration that came before are reported to it now.
 */
void vdpa_device_set_frontend(struct vdpa_device *vdev, struct vdpa_frontend *fe);

#endif /* VDPA_DEVICE_PRIV_H */
