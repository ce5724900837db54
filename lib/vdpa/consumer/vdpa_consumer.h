/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_consumer.h
 * The consumer of a device: one connection of a front end, as the core sees it.
 *
 * A front end reports facts as it hears them (features, memory, a ring's size, addresses and
 * descriptors, the status) and then calls vdpa_consumer_advance(). The core alone decides from them
 * when the device starts, how a queue joins that is ready later, when it starts again or stops, and
 * what is said of where a queue stands.
 *
 * When a device starts. A queue is ready when it has a size, addresses, a kick descriptor (or the
 * word that there is none) and is enabled. Where the front end reports the status, the device
 * starts at DRIVER_OK, with the queues that are ready. Elsewhere a device that takes late queues
 * starts with the first ready one, and the others join it. Another starts when all queues that the
 * front end has spoken of are ready, or when none has become ready for VDPA_CONSUMER_SETTLE_MS.
 *
 * Each call takes the consumer's lock, which is outside the device's. From any thread; a call may
 * wait for the device as long as its ops do. Calls that return an int return 0 or a negative errno
 * with vdpa_error_message(), and have had no effect then.
 */

#ifndef VDPA_CONSUMER_H
#define VDPA_CONSUMER_H

#include "vdpa_frontend.h"

#ifdef __cplusplus
extern "C" {
#endif

/** How long a device that takes no late queues waits for one more, where nobody tells the end. */
#define VDPA_CONSUMER_SETTLE_MS 20

struct vdpa_consumer;

struct vdpa_consumer_ops {
	/** Optional: queues have started otherwise than in a call of the front end. On a thread for
	 * the device's work, without a lock. */
	void (*started)(void *arg);
};

/* What is offered to a front end that speaks vhost-user, whatever carries it. */

/**
 * Virtio features, with those of vhost-user (VHOST_F_LOG_ALL, VHOST_USER_F_PROTOCOL_FEATURES).
 *
 * @param ctrl_vq  whether the front end's peer can have the control queue of a net device that has
 * one to give: VIRTIO_NET_F_CTRL_VQ and what hangs on it are offered then. A peer that acknowledges
 * it leaves the control queue to the device, as queue 2 without VIRTIO_NET_F_MQ, else behind all
 * pairs (virtio 1.2, 5.1.2); of one that does not, the device learns nothing of it.
 */
uint64_t vdpa_consumer_offered_features(struct vdpa_device *vdev, bool ctrl_vq);
/** Virtqueues that a front end may speak of, with a control queue to give. */
uint16_t vdpa_consumer_vq_count(struct vdpa_device *vdev);
/** The same without. */
uint16_t vdpa_consumer_data_vqs(struct vdpa_device *vdev);
/** GET_QUEUE_NUM: queue pairs of a net device, queues of another; a control queue is not counted.
 */
uint16_t vdpa_consumer_queue_num(struct vdpa_device *vdev);

/** A new connection, which has said nothing yet. NULL: out of memory. */
struct vdpa_consumer *vdpa_consumer_new(struct vdpa_device *vdev,
					const struct vdpa_consumer_ops *ops, void *arg);
/**
 * The connection is gone: the device is stopped, unless it has failed, and shows why; its memory is
 * taken out of the device's reach; descriptors are closed. Not from inside ops. NULL: no-op.
 */
void vdpa_consumer_free(struct vdpa_consumer *c);

/* Facts about the connection. */

/** The process that is connected, whose guest the device is to serve; unknown until it is said, and
 * that is refused where others have a page of the device (vdpa_device_admit()). Before the first
 * vdpa_consumer_advance(). -EACCES with a message for one that may not be served: the device is one
 * of a VM, and the user is not known, or another device of it has a front end of another user. */
int vdpa_consumer_set_peer(struct vdpa_consumer *c, const struct vdpa_peer *peer);

/** Negotiated features. -EBUSY when others than VHOST_F_LOG_ALL change under a device that runs. */
int vdpa_consumer_set_features(struct vdpa_consumer *c, uint64_t features);
uint64_t vdpa_consumer_get_features(struct vdpa_consumer *c);
/** Virtqueues of this connection: without the control queue when it was not acknowledged. */
uint16_t vdpa_consumer_usable_vqs(struct vdpa_consumer *c);
/** Whether the front end reports the status; not so until it says so. */
void vdpa_consumer_report_status(struct vdpa_consumer *c, bool reports);
/** The status. 0 stops the device and forgets the rings, but for where they stopped. */
void vdpa_consumer_set_status(struct vdpa_consumer *c, uint8_t status);
/** The same with NEEDS_RESET where the device has failed. */
uint8_t vdpa_consumer_get_status(struct vdpa_consumer *c);
/** Stop the device and forget the rings, and where they stopped. */
void vdpa_consumer_reset(struct vdpa_consumer *c);
/**
 * The whole memory table; as vdpa_iotlb_create(). It is in force at once, and stays so over starts
 * and stops: the same again maps nothing. A ring that runs and does not lie in it any more, or
 * elsewhere, is stopped, with a line in the log and its error eventfd signalled; the others go on.
 * While the device runs, also what vdpa_device_set_memory() returns; a table that a device which
 * does not run cannot map fails its start. -EBUSY when it contradicts that of another device of the
 * same VM.
 */
int vdpa_consumer_set_memory(struct vdpa_consumer *c, const struct vdpa_mem_region_spec *specs,
			     unsigned int n);
/** One region more; as vdpa_iotlb_add(), and -EBUSY as above. */
int vdpa_consumer_add_memory(struct vdpa_consumer *c, const struct vdpa_mem_region_spec *spec);
/** One region less; as vdpa_iotlb_remove(). */
int vdpa_consumer_remove_memory(struct vdpa_consumer *c, uint64_t iova, uint64_t uaddr,
				uint64_t size);
/** How many regions there are. */
unsigned int vdpa_consumer_count_memory(struct vdpa_consumer *c);
/** Where dirty pages are to be marked while VHOST_F_LOG_ALL is negotiated; the front end's to keep
 * until there is another, or the connection ends. */
int vdpa_consumer_set_log(struct vdpa_consumer *c, const struct vdpa_dirty_log *log);
/** Inflight areas of n queues, stride bytes each. -EBUSY when a queue runs. */
int vdpa_consumer_set_inflight(struct vdpa_consumer *c, uint8_t *addr, size_t stride, uint16_t n);

/* Facts about ring idx, below vdpa_consumer_vq_count(). */

/** -EBUSY while it runs; -EINVAL for a size that its format or the device does not allow. */
int vdpa_consumer_set_vq_num(struct vdpa_consumer *c, uint16_t idx, uint32_t num);

/** Addresses of a ring in the front end's own address space. */
struct vdpa_consumer_vq_addr {
	uint64_t desc, driver, device;
	uint64_t log; /**< of the used ring in the dirty log; UINT64_MAX: it is not logged */
};

/** -EBUSY when others than the log address change while it runs; -EFAULT outside of the memory;
 * -EINVAL before the size, and for parts that are not aligned. */
int vdpa_consumer_set_vq_addr(struct vdpa_consumer *c, uint16_t idx,
			      const struct vdpa_consumer_vq_addr *addr);
/** Where it is to start, as SET_VRING_BASE has it. -EBUSY while it runs. */
int vdpa_consumer_set_vq_base(struct vdpa_consumer *c, uint16_t idx, uint32_t base);
/** Descriptors are taken over, on failure too; -1: none. */
int vdpa_consumer_set_vq_kick(struct vdpa_consumer *c, uint16_t idx, int fd);
int vdpa_consumer_set_vq_call(struct vdpa_consumer *c, uint16_t idx, int fd);
void vdpa_consumer_set_vq_err(struct vdpa_consumer *c, uint16_t idx, int fd);
int vdpa_consumer_enable_vq(struct vdpa_consumer *c, uint16_t idx, bool enable);
/** The front end has such a queue; every other fact says so too. */
void vdpa_consumer_announce_vq(struct vdpa_consumer *c, uint16_t idx);

/** Start what has become ready. */
void vdpa_consumer_advance(struct vdpa_consumer *c);

/* Questions. */

/**
 * GET_VRING_BASE: stop the queue if it runs, the device with the last one, and say where it stands.
 * Of a queue whose device has failed a split ring says how far it was used, and what was taken and
 * not used is done again; a packed one says nothing, so it is where it began.
 */
uint32_t vdpa_consumer_get_vq_base(struct vdpa_consumer *c, uint16_t idx);
/** Whether the device runs; whether it runs and has the queue. */
bool vdpa_consumer_is_running(struct vdpa_consumer *c);
bool vdpa_consumer_has_vq(struct vdpa_consumer *c, uint16_t idx);

/** The device has failed (vdpa_frontend_ops.failed): signal the error eventfds of queue qidx, or of
 * all (-1). Never waits. */
void vdpa_consumer_signal_errors(struct vdpa_consumer *c, int qidx);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_CONSUMER_H */
