/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Between the files of the simulator core: sim_device.c, sim_fault.c, sim_log.c, sim_ops.c,
 * sim_run.c and sim_state.c. */

#ifndef SIM_PRIV_H
#define SIM_PRIV_H

#include "sim.h"

#define S_DRIVER_OK 0x04
#define S_FAILED    0x80

/* Arguments of a function on the worker. */
struct sim_work {
	struct sim_device *dev;
	struct sim_queue *q;
	int fd;
	bool on;
	uint8_t status;
	struct vdpa_iotlb *tlb;
	const struct vdpa_dirty_log *log;
	const uint64_t *used_iova;
	const uint8_t *buf;
	size_t offset, len;
	void *to;
	int (*stop)(void *arg);
	int (*then)(void *arg);
};

/*
 * Run fn with w on the device's worker and wait, see sim_call(); here and now while the device is
 * not live.
 */
int sim_on_worker(int (*fn)(void *arg), struct sim_work w);

/* sim_run.c; on the worker. */

/* Bring a virtqueue to what readiness, enabling and the device's state ask for. */
void sim_queue_update(struct sim_queue *q);
/* Bring the device and its virtqueues to what status, suspension and readiness ask for. */
void sim_device_update(struct sim_device *dev);
/* Take stopped virtqueues that nothing is under way of out of a lane's list, and with the last one
 * the poller out of its loop. */
void sim_lane_settle(struct sim_lane *lane);
/* The same for each lane. */
void sim_device_settle(struct sim_device *dev);

/* sim_run.c; on any thread. */

/* How much of q (NULL: of any virtqueue) is under way in the class. */
unsigned int sim_outstanding(struct sim_device *dev, struct sim_queue *q);

/* sim_run.c; on the caller's thread. */

/* Poller and task of a lane that has its worker. */
void sim_lane_init(struct sim_device *dev, struct sim_lane *lane);
/* A kick that came by the op. From any thread. */
void sim_queue_kick(struct sim_queue *q);
/* Be woken by kicks of fd; -1: no longer. */
int sim_queue_listen(struct sim_queue *q, int fd);
/*
 * Run w.stop on the worker, wait, bounded, until nothing of w.q (NULL: of any virtqueue) is under
 * way in the class, and run w.then (NULL: nothing) there: one trip to the worker where nothing is
 * under way. -ETIMEDOUT when the wait was in vain: then w.then was not run; else what it returned.
 */
int sim_standstill(struct sim_work w);

/* sim_log.c: the ops. */
int sim_log_start(struct vdpa_device *vdev, const struct vdpa_dirty_log *log, const uint64_t *used);
int sim_log_stop(struct vdpa_device *vdev);

/* sim_state.c: the ops. */
int sim_save_state(struct vdpa_device *vdev, void *buf, size_t *len);
int sim_load_state(struct vdpa_device *vdev, const void *buf, size_t len);

/* sim_fault.c */

/* By the word `broken`; SIM_FAULT_NONE without it. */
enum sim_fault sim_fault_of(const struct vdpa_args *args);
/* What a broken device makes of the place that a queue is to start at, and of the one that it says.
 */
void sim_fault_load(const struct sim_device *dev, struct vdpa_vq_state *state);
void sim_fault_report(const struct sim_device *dev, struct vdpa_vq_state *state);

/* sim_ops.c */
extern const struct vdpa_config_ops sim_ops;

/* sim_device.c: the op `free`. */
void sim_free(struct vdpa_device *vdev);

#endif /* SIM_PRIV_H */
