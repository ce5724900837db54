/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A device as the core keeps it. One lock serialises its control path; what it guards is marked
 * (L).
 *
 * Lock order: device lock, bus lock, show lock, fail lock. The management lock (mgmt.c) is outside
 * of the bus lock and never held with the device's. The control loop's handlers do not take the
 * device lock; jobs of its work queue do, and nobody waits for one with that lock held.
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
	struct vdpa_vq_state state; /* (L) */
	struct vdpa_event relay;    /* kick eventfd to the device, on the control loop */
	struct vdpa_device *vdev;
};

/* Of the first report since the last reset. */
enum vdpa_fail_state {
	VDPA_FAIL_NONE,
	VDPA_FAIL_REPORTED, /* the stop is still to come */
	VDPA_FAIL_STOPPED,  /* the front end has yet to be notified */
	VDPA_FAIL_NOTIFIED,
};

struct vdpa_device_core {
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
	struct vdpa_capabilities can;	 /* likewise */
	int config_fd;			 /* eventfd that the device signals; from registration on */
	struct vdpa_event config_ev;
	bool logging;		       /* (L) */
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

/*
 * Under the device's lock: stop the device if it has reported a failure that nobody has acted on;
 * returns whether it had. The job that is posted for a failure calls this, and so does a stop that
 * comes before the job: any other call to a failed device would cost one time-out after the other.
 */
bool vdpa_device_stop_failed(struct vdpa_device *vdev);

/* doorbell.c: for messages and to be shown. */
const char *vdpa_doorbells_name(enum vdpa_doorbells rule);

/* Under the device's lock. */
void vdpa_device_set_state(struct vdpa_device *vdev, enum vdpa_device_state state);
static inline bool
vdpa_device_started(const struct vdpa_device *vdev)
{
	return vdev->core->state == VDPA_STATE_RUNNING || vdev->core->state == VDPA_STATE_SUSPENDED;
}

/*
 * status.c: an op of the driver failed (errors: vdpa_error_count() before it). Keeps the message
 * that it set, which knows more, else says which op it was; names device and queue (-1: the
 * device).
 */
int vdpa_op_failed(struct vdpa_device *vdev, int qidx, const char *op, int rc, unsigned int errors);

/* Call an op: its result, with a message where it fails. */
#define VDPA_OP(vdev, qidx, op, call)                                                              \
	({                                                                                         \
		unsigned int errors_ = vdpa_error_count();                                         \
		int rc_ = (call);                                                                  \
		rc_ < 0 ? vdpa_op_failed(vdev, qidx, op, rc_, errors_) : rc_;                      \
	})

/*
 * dma.c: the memory of a device that has no set_map: by dma_map and dma_unmap or in its DMA domain.
 * Attached while it is registered. No-ops for a device with set_map.
 */
int vdpa_dma_attach(struct vdpa_device *vdev);
void vdpa_dma_detach(struct vdpa_device *vdev);
/* Whether the device may access its memory from now on. An errno where it lacks some of it. */
int vdpa_dma_set_runs(struct vdpa_device *vdev, bool runs);
/*
 * Under the device's lock. Go from the table in force to tlb; on failure that one stays, and the
 * device fails where not even that can be had.
 */
int vdpa_dma_change(struct vdpa_device *vdev, struct vdpa_iotlb *tlb);
/*
 * After a reset (rc: what it returned): bring all memory out of the device's reach, where the core
 * can, and forget it. What is left in its reach stays in core->iotlb, and the errno says so.
 */
int vdpa_dma_end(struct vdpa_device *vdev, int rc);

/* device.c: whether it is a name that a device, or a VM, can have. */
bool vdpa_name_is_valid(const char *name);

/* status.c: the steps, under the device's lock. Each checks the rules and calls the op. */
int vdpa_step_reset(struct vdpa_device *vdev);
/* Stop whatever runs: reset, forget queues; memory stays. The state is IDLE, or FAILED when the
 * reset fails. */
int vdpa_step_stop(struct vdpa_device *vdev);
/* The reset without its end: the device stops, what failed is remembered, the state is the caller's
 * to set. */
int vdpa_step_quiesce(struct vdpa_device *vdev);
int vdpa_step_status(struct vdpa_device *vdev, uint8_t status);
int vdpa_step_features(struct vdpa_device *vdev, uint64_t features);
/* Memory in force from now on. Rings that are ready lie in it, which the caller has seen to. */
int vdpa_step_map(struct vdpa_device *vdev, struct vdpa_iotlb *tlb);
int vdpa_step_end_memory(struct vdpa_device *vdev, int rc);
/* The rings of queue idx as conf has them are aligned and lie in tlb (NULL: no memory). */
int vdpa_step_check_rings(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_config *conf,
			  const struct vdpa_iotlb *tlb);
int vdpa_step_vq_num(struct vdpa_device *vdev, uint16_t idx, uint32_t num);
int vdpa_step_vq_address(struct vdpa_device *vdev, uint16_t idx, uint64_t desc, uint64_t driver,
			 uint64_t device);
int vdpa_step_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state);
int vdpa_step_vq_ready(struct vdpa_device *vdev, uint16_t idx, bool ready);
int vdpa_step_suspend(struct vdpa_device *vdev);
int vdpa_step_resume(struct vdpa_device *vdev);

/*
 * device.c: the front end serves the device from now on. A failure and a change of the
 * configuration that came before are reported to it now.
 */
void vdpa_device_set_frontend(struct vdpa_device *vdev, struct vdpa_frontend *fe);

/*
 * snapshot.c: the configuration as it was read last. Whoever reads it notes it, under the device's
 * lock; it is read anew when the device tells of a change, when management has made one, and at a
 * start when the generation is another.
 */
void vdpa_snapshot_init(struct vdpa_device *vdev);
void vdpa_snapshot_note(struct vdpa_device *vdev, size_t offset, const void *buf, size_t len,
			uint32_t generation);
void vdpa_snapshot_refresh(struct vdpa_device *vdev);
/* Have it read by a job of the device's. Never waits. */
void vdpa_snapshot_post(struct vdpa_device *vdev);
/* At a start, under the device's lock. */
void vdpa_snapshot_check(struct vdpa_device *vdev);
/* Its first len bytes, what is missing as zeroes; false where it could not be read. */
bool vdpa_snapshot_get(struct vdpa_device *vdev, void *buf, size_t len);

#endif /* VDPA_DEVICE_PRIV_H */
