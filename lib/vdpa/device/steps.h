/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The steps of a device's set-up, under the device's lock. Each checks the rules and calls the op.
 */

#ifndef VDPA_STEPS_H
#define VDPA_STEPS_H

#include "vdpa_frontend.h"

/* status.c */

/* The device is registered and has not failed. */
int vdpa_step_check_alive(struct vdpa_device *vdev);
int vdpa_step_reset(struct vdpa_device *vdev);
/* Stop whatever runs: reset, forget queues; memory stays. The state is IDLE, or FAILED when the
 * reset fails. */
int vdpa_step_stop(struct vdpa_device *vdev);
/* The reset without its end: the device stops, what failed is remembered, the state is the caller's
 * to set. */
int vdpa_step_quiesce(struct vdpa_device *vdev);
int vdpa_step_suspend(struct vdpa_device *vdev);
int vdpa_step_resume(struct vdpa_device *vdev);
int vdpa_step_status(struct vdpa_device *vdev, uint8_t status);
int vdpa_step_features(struct vdpa_device *vdev, uint64_t features);
/* Memory in force from now on. Rings that are ready lie in it, which the caller has seen to. */
/* What vdpa_step_map() would refuse, as far as that can be known; changes nothing. NULL: 0. */
int vdpa_step_check_map(struct vdpa_device *vdev, struct vdpa_iotlb *tlb);
int vdpa_step_map(struct vdpa_device *vdev, struct vdpa_iotlb *tlb);
int vdpa_step_end_memory(struct vdpa_device *vdev, int rc);

/* queue_steps.c */

/*
 * What a queue may be like, in any state of the device: its size, and the alignment of its parts,
 * which virtio 1.2 (2.7, 2.8) and the device ask for.
 */
int vdpa_check_vq_num(const struct vdpa_device *vdev, uint16_t idx, bool packed, uint32_t num);
int vdpa_check_vq_align(const struct vdpa_device *vdev, uint16_t idx, bool packed, uint64_t desc,
			uint64_t driver, uint64_t device);
/* The ring of queue idx as the device is to have it: aligned, and what of it is not ours lies in
 * tlb (NULL: no memory). */
int vdpa_step_check_rings(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_config *conf,
			  const struct vdpa_iotlb *tlb);
/* The ring of queue idx as its guest has set it up lies in tlb (NULL: no memory). */
int vdpa_step_check_guest_rings(struct vdpa_device *vdev, uint16_t idx,
				const struct vdpa_iotlb *tlb);
int vdpa_step_vq_num(struct vdpa_device *vdev, uint16_t idx, uint32_t num);
int vdpa_step_vq_address(struct vdpa_device *vdev, uint16_t idx, uint64_t desc, uint64_t driver,
			 uint64_t device);
int vdpa_step_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state);
int vdpa_step_vq_ready(struct vdpa_device *vdev, uint16_t idx, bool ready);

/* path.c */

/* How long a stop waits for requests that the device has under way, milliseconds. */
#define VDPA_DRAIN_MS 1000

/* Queue idx is to stop, or all (-1): their paths give the device no more, and what it has under way
 * is waited for, for ms in all, and only once in a session where it does not end. */
void vdpa_step_path_drain(struct vdpa_device *vdev, int idx, unsigned int ms);
/* The path of queue idx, or all (-1), stands still with the device, or goes on with it: after a
 * drain too, where the stop that it was for does not come. A disabled queue stays still. */
void vdpa_step_path_enable(struct vdpa_device *vdev, int idx, bool enable);

/* The queue's path ends: the device executes the queue no more, unless it is reachable (its reset
 * has failed). Where a path of our own has moved its buffers, state and placed say where it stands.
 */
void vdpa_step_path_stop(struct vdpa_device *vdev, uint16_t idx, bool reachable);

/* log_steps.c */

void vdpa_log_init(struct vdpa_device *vdev);
/* Who keeps the dirty log now, a static word as `show` says it: "none", "device", "queues" (their
 * paths), "all memory" (nobody). Without the device's lock. */
const char *vdpa_log_logger(const struct vdpa_device *vdev);
/* Whether the device logs by itself; else its queues' paths do. */
bool vdpa_step_device_logs(const struct vdpa_device *vdev);
/* Log to this one from now on: the first, or in place of another, which is brought up to date
 * before; used_iova: log address of each used ring. On failure it stays as it was. */
int vdpa_step_log_start(struct vdpa_device *vdev, const struct vdpa_dirty_log *log,
			const uint64_t *used_iova);
/* Log no more; what was written until now is in the log. */
int vdpa_step_log_stop(struct vdpa_device *vdev);
/* The log covers this table too, which comes next. */
int vdpa_step_log_cover(struct vdpa_device *vdev, struct vdpa_iotlb *tlb);
/* A queue may write from now on. */
void vdpa_step_log_vq_runs(struct vdpa_device *vdev);
/* Queue idx has stopped, its configuration is still there: its rings are marked, and if it was the
 * last to write, what the device wrote. */
void vdpa_step_log_vq_stopped(struct vdpa_device *vdev, uint16_t idx);
/* Queues have changed their paths: whether the log is still blind. */
void vdpa_step_log_paths_changed(struct vdpa_device *vdev);
/* All queues stand still: bring the log up to date. */
void vdpa_step_log_sync(struct vdpa_device *vdev);
/* After a reset (rc: what it returned), while it is still known where the rings are: all that the
 * device has written is in the log. */
void vdpa_step_log_reset(struct vdpa_device *vdev, int rc);
/* And then, once the device is out of the memory if it can be: the driver is done with the log.
 * tlb: memory of the session. */
void vdpa_step_log_end(struct vdpa_device *vdev, int rc, const struct vdpa_iotlb *tlb);

#endif /* VDPA_STEPS_H */
