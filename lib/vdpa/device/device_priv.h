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

#include "counts.h"
#include "error_priv.h"
#include "figures.h"
#include "log_limit.h"
#include "own_memory.h"
#include "path.h"
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
	struct vdpa_vq_config conf;   /* (L) as the guest has it, started last */
	const struct vdpa_path *path; /* (L) and show lock; never NULL */
	void *path_data;	      /* (L) and show lock: the path's */
	void *held;		      /* (L) what a path keeps until the binding ends; malloc */
	struct vdpa_moved moved;      /* show lock: what of its path is in the figures */
	bool at_rest;		      /* atomic: its path has come where it can be left */
	bool hands_over;	      /* (L) its stop leaves requests in the inflight area */
	enum vdpa_own_parts own;      /* (L) what it is set up with that is ours */
	bool guessed;		      /* (L) where it stopped last is not known: guess */
	bool placed;		      /* (L) stopped by a reset; its path says where: state */
	bool ready;		      /* (L) set_vq_ready(true) was called and not undone */
	bool was_reset;		      /* (L) by itself, and may be set up again */
	bool halted;		      /* (L) stopped with the whole device; state says where */
	bool lost;		      /* (L) stopped when its rings left the memory; likewise */
	uint64_t log_iova;	      /* (L) of its used ring in the dirty log; UINT64_MAX: none */
	struct vdpa_vq_state state;   /* (L) */
	struct vdpa_vq_state guess;   /* (L) what was said of where it stopped */
	uint32_t num_max;	      /* fixed at registration */
	struct vdpa_event relay;      /* kick eventfd to the device, on the control loop */
	bool doorbell_changed;	      /* the front end has yet to hear of it; atomic */
	bool without_doorbell;	      /* (L) its path had none when it ran last */
	struct vdpa_vq_counts counts;
	struct vdpa_device *vdev;
};

/* The dirty log of a session: log_steps.c. */
struct vdpa_device_log {
	bool on;			/* shown by atomic load */
	bool by_device;			/* the device logs: log_start was called */
	bool blind;			/* nobody can log: all memory is marked */
	bool behind;			/* the device may have written since the last log_sync */
	const char *logger;		/* what vdpa_log_logger() says; atomic; NULL: not yet */
	struct vdpa_dirty_log whole;	/* as the front end gave it */
	struct vdpa_dirty_log given[2]; /* what of it the driver has, and had before */
	unsigned int given_idx;		/* which of them it has */
	struct vdpa_iotlb *covers;	/* the memory that this one was given for; NULL: none */
	struct vdpa_dirty_log paths[2]; /* the same for the queues' paths */
	unsigned int paths_idx;
	struct vdpa_timer timer; /* to the next log_sync */
	struct vdpa_work work;	 /* which is done on the device's work queue */
};

/* Of the first report since the last reset. */
enum vdpa_fail_state {
	VDPA_FAIL_NONE,
	VDPA_FAIL_REPORTED, /* the stop is still to come */
	VDPA_FAIL_STOPPED,  /* the front end has yet to be notified */
	VDPA_FAIL_NOTIFIED,
};

/* Whether the device says where its queues stand. */
enum vdpa_tells {
	VDPA_TELLS_NOT_ASKED,
	VDPA_TELLS,
	VDPA_TELLS_NOT,
};

struct vdpa_device_core {
	struct vdpa_config_ops ops; /* the driver's, what it does not know NULL */
	pthread_mutex_t lock;
	enum vdpa_device_state state; /* written under (L); read by atomic load */
	uint32_t refcnt;	      /* atomic */

	/* Written under (L), by atomic store; shown by atomic load. */
	uint8_t status;			 /* what the driver has set */
	uint64_t features;		 /* negotiated with the device */
	uint64_t guest_features;	 /* (L) the guest's; the ring's bits may differ */
	bool features_set;		 /* (L) set_driver_features succeeded since reset */
	struct vdpa_iotlb *iotlb;	 /* (L) memory in force, from one session to the next */
	bool memory_ends;		 /* (L) the next reset that succeeds takes it away */
	struct vdpa_dma_domain *dma_own; /* dma.c: of a driver with dma_map; registered */
	LIST_HEAD(, vdpa_own_area) own;	 /* (L) memory of ours in the device's reach */
	bool own_changing;		 /* (L) between begin and end of a change of paths */
	struct vdpa_work path_work;	 /* queues that can change their paths now do */
	enum vdpa_tells tells;		 /* (L) in this session */
	bool does_not_drain;		 /* (L) a stop of this session has waited in vain */
	bool needs_shadows; /* (L) a log is on, or comes, that the device does not write */
	bool log_refused;   /* (L) the device cannot log this guest's memory */
	bool is_left;	    /* (L) a former process has left it running, nobody has it yet */
	enum vdpa_migration migration; /* set before the front end serves */
	struct vdpa_core_vq *vqs;      /* (L) */
	uint16_t nvqs;		       /* fixed at registration */
	uint32_t vq_num_min, vq_align; /* likewise */
	struct vdpa_capabilities can;  /* likewise */
	int config_fd;		       /* eventfd that the device signals; from registration on */
	struct vdpa_event config_ev;
	struct vdpa_device_log dirty;	/* (L) */
	struct vdpa_figures figures;	/* of its whole life */
	enum vdpa_doorbells doorbells;	/* set before the front end serves */
	struct vdpa_work doorbell_work; /* the front end hears of doorbells that come and go */

	struct vdpa_device_counts counts;

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

	/* Who keeps the driver's state for another process: state_keeper.c. */
	pthread_mutex_t state_lock;		/* innermost; held for a copy only */
	struct vdpa_state_keeper *state_keeper; /* NULL: nobody; state lock */

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
/* doorbell.c */
void vdpa_doorbell_init(struct vdpa_device *vdev);
/* Whether vdpa_get_vq_notification() has a doorbell for a queue that was started has changed: the
 * front end hears of it soon. From any thread, the device's lock held or not. */
void vdpa_device_doorbell_changed(struct vdpa_device *vdev, uint16_t qidx);

/* Under the device's lock. */
void vdpa_device_set_state(struct vdpa_device *vdev, enum vdpa_device_state state);
static inline bool
vdpa_device_started(const struct vdpa_device *vdev)
{
	return vdev->core->state == VDPA_STATE_RUNNING || vdev->core->state == VDPA_STATE_SUSPENDED;
}

/* state_keeper.c: the device was stopped for its front end, and its driver's state with it. From
 * any thread. */
void vdpa_device_state_ends(struct vdpa_device *vdev);

/* device.c: whether it is a name that a device, or a VM, can have. */
bool vdpa_name_is_valid(const char *name);

/*
 * device.c: the front end serves the device from now on. A failure and a change of the
 * configuration that came before are reported to it now.
 */
void vdpa_device_set_frontend(struct vdpa_device *vdev, struct vdpa_frontend *fe);

#endif /* VDPA_DEVICE_PRIV_H */
