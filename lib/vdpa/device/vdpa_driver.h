/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_driver.h
 * For authors of vDPA drivers: config ops, devices, management devices, driver registry.
 *
 * A driver implements struct vdpa_config_ops, the kernel's by name and meaning. The core calls ops
 * with the device's lock held, so ops of one device do not run at the same time; an op must not
 * call back into the core except where a function's comment allows it. Without the lock, from any
 * thread and at any time, it calls the kicks, the statistics, and what is the same from
 * registration on: get_vq_count, get_vq_num_max, get_vq_num_min, get_vq_size, get_vq_align,
 * get_device_features, get_backend_features, get_device_id, get_vendor_id and get_config_size.
 *
 * Ops that can fail return 0 or a negative errno; one that sets a message (vdpa_error()) is quoted,
 * of another the core says its name and the errno. A NULL optional op says that the device lacks
 * the capability.
 */

#ifndef VDPA_DRIVER_H
#define VDPA_DRIVER_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "vdpa.h"
#include "vdpa_args.h"
#include "vdpa_dma.h"
#include "vdpa_memory.h"
#include "vdpa_virtqueue.h"

#ifdef __cplusplus
extern "C" {
#endif

struct vdpa_pci;

/** A doorbell as a resource that can be given away: map offset .. offset + size of fd and write. */
struct vdpa_notification_area {
	int fd;		 /**< the device's; dup it to keep it */
	uint64_t offset; /**< bytes, page-aligned when the doorbell fills a page of its own */
	uint64_t size;	 /**< bytes */
	/** fd reaches all of the device, and cannot be taken back: whoever has it can make the
	 * device read and write the memory of any later guest. The core keeps account of them. */
	bool whole_device;
};

struct vdpa_iova_range {
	uint64_t first;
	uint64_t last; /**< inclusive */
};

/** One statistic: a counter with its name, e.g. { "rx_packets", 12 }. */
struct vdpa_stat {
	const char *name; /**< static */
	uint64_t value;
};

/**
 * Bit of get_backend_features(), numbered as the kernel's VHOST_BACKEND_F_*: queues come and go
 * while the device runs. What the kernel has further bits for (suspend, resume) is said by the op
 * that is there, and only so: a device with such a bit is not registered.
 */
#define VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK 6

/**
 * What a device can do. Order of calls of a start, kept by the core (virtio 1.2, 3.1.1):
 * reset, set_status(ACKNOWLEDGE), (DRIVER), get_device_features, set_driver_features,
 * set_status(FEATURES_OK), set_map or dma_map where the memory is another than before, for each
 * virtqueue set_vq_num, set_vq_address, set_vq_state, set_vq_inflight, set_vq_cb, set_vq_kick,
 * set_vq_ready(true), set_vq_enable(false) for one that starts disabled; set_config_cb;
 * set_status(DRIVER_OK). A stop is reset; where a log runs, log_sync and log_stop follow it, when
 * the device writes no more and the log is still there.
 *
 * A table carries its size, so that a driver built against another version of this header works:
 * what it lacks counts as NULL. New ops stand behind the last one here.
 */
struct vdpa_config_ops {
	/** sizeof(struct vdpa_config_ops), as the driver was built with it. */
	size_t size;

	/* Virtqueues. idx is below get_vq_count(). */

	/** IOVAs of descriptor table, driver area and device area, aligned to get_vq_align. Not
	 * while the queue is ready. */
	int (*set_vq_address)(struct vdpa_device *vdev, uint16_t idx, uint64_t desc,
			      uint64_t driver, uint64_t device);
	/** Size, within get_vq_num_min .. get_vq_size. Not while the queue is ready. */
	int (*set_vq_num)(struct vdpa_device *vdev, uint16_t idx, uint32_t num);
	/**
	 * A kick by software. Data path: without the device's lock, on the control loop. Never
	 * called where VIRTIO_F_NOTIFICATION_DATA is negotiated and set_vq_kick is NULL: the
	 * consumer then writes the doorbells itself.
	 */
	void (*kick_vq)(struct vdpa_device *vdev, uint16_t idx);
	/** Optional: the device waits for the kick eventfd itself (-1: no longer) and needs no
	 * relay. */
	int (*set_vq_kick)(struct vdpa_device *vdev, uint16_t idx, int fd);
	/** eventfd the device signals for used buffers; -1: none. May change while running. */
	int (*set_vq_cb)(struct vdpa_device *vdev, uint16_t idx, int fd);
	int (*set_vq_ready)(struct vdpa_device *vdev, uint16_t idx, bool ready);
	/**
	 * Optional: vhost-user's SET_VRING_ENABLE on a ready queue; a disabled one keeps its state
	 * and moves no data, but for requests under way of one with an inflight area: they are not
	 * waited for, as the stop may hand them over. A device that could stop a queue only by
	 * losing its state uses it no more of its own accord (a net device has fewer pairs set),
	 * and goes on with what the guest still kicks. NULL: the core uses set_vq_ready, with the
	 * queue's state kept by get_vq_state and set_vq_state; a device that cannot keep it leaves
	 * the queue as it is. Queues are enabled when they become ready.
	 */
	int (*set_vq_enable)(struct vdpa_device *vdev, uint16_t idx, bool enable);
	/** Where to start. -EOPNOTSUPP for a state the device cannot load; a standard virtio device
	 * loads the initial one only. */
	int (*set_vq_state)(struct vdpa_device *vdev, uint16_t idx,
			    const struct vdpa_vq_state *state);
	/**
	 * Where it stopped: while suspended, or not ready; and before a reset that stops all
	 * queues, after set_vq_ready(false) where the device can do that, else while it runs: what
	 * a split ring shows to be used since is added then. -EOPNOTSUPP: the device does not know,
	 * and the core looks at the rings. One that answers loads such a state, too.
	 */
	int (*get_vq_state)(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state);
	/**
	 * Optional: software block devices. Before ready; addr NULL: none. While the queue is ready
	 * with the same area once more, where hand_over alone may differ: the next stop then
	 * cancels what is under way and leaves in the area what was not carried out. On return of
	 * that stop nothing of it reads or writes guest memory or storage any more.
	 */
	int (*set_vq_inflight)(struct vdpa_device *vdev, uint16_t idx,
			       const struct vdpa_vq_inflight *inflight);
	/**
	 * Optional: reset one queue that is ready, as VIRTIO_F_RING_RESET has it (virtio 1.2,
	 * 2.6.1). It is not ready then and may be set up again while the device runs. Used where
	 * suspend is NULL and queues do not come and go; without it, and when it returns
	 * -EOPNOTSUPP, the whole device is reset to stop one queue.
	 */
	int (*reset_vq)(struct vdpa_device *vdev, uint16_t idx);
	/** Optional: up to n statistics of a queue. Returns how many there are. Any thread. */
	int (*get_vendor_vq_stats)(struct vdpa_device *vdev, uint16_t idx, struct vdpa_stat *stats,
				   unsigned int n);
	/** Optional: the doorbell. -EOPNOTSUPP where it shares its page. */
	int (*get_vq_notification)(struct vdpa_device *vdev, uint16_t idx,
				   struct vdpa_notification_area *area);

	/* The device. */

	/** Queues as the front end sees them (without a driver-owned control queue). */
	uint16_t (*get_vq_count)(struct vdpa_device *vdev);
	/** Largest size of any queue, 1 to VDPA_VQ_NUM_MAX. */
	uint16_t (*get_vq_num_max)(struct vdpa_device *vdev);
	/** Optional: smallest size of each queue, not above the largest of any; NULL: 1. */
	uint16_t (*get_vq_num_min)(struct vdpa_device *vdev);
	/** Optional: largest size of this queue, not above get_vq_num_max; NULL: get_vq_num_max. */
	uint16_t (*get_vq_size)(struct vdpa_device *vdev, uint16_t idx);
	/** Optional: what the IOVAs of each queue's descriptor area and device area are multiples
	 * of, bytes, a power of two up to 65536; NULL: as virtio 1.2 (2.7, 2.8) has it. */
	uint32_t (*get_vq_align)(struct vdpa_device *vdev);
	/** VIRTIO_F_VERSION_1 is among them. */
	uint64_t (*get_device_features)(struct vdpa_device *vdev);
	/** Optional: VDPA_BACKEND_F_* bits, and no others. */
	uint64_t (*get_backend_features)(struct vdpa_device *vdev);
	/** Before FEATURES_OK; a subset of the device's features. -EINVAL for a set it cannot run.
	 */
	int (*set_driver_features)(struct vdpa_device *vdev, uint64_t features);
	/** Optional: eventfd the device signals for a configuration change; -1: none. */
	int (*set_config_cb)(struct vdpa_device *vdev, int fd);
	/** Virtio device id: 1 net, 2 block, ... */
	uint32_t (*get_device_id)(struct vdpa_device *vdev);
	uint32_t (*get_vendor_id)(struct vdpa_device *vdev);
	uint8_t (*get_status)(struct vdpa_device *vdev);
	/** Never 0 (that is reset) and never fewer bits than before. */
	int (*set_status)(struct vdpa_device *vdev, uint8_t status);
	/**
	 * Back to the state after registration: status 0, nothing ready, no fd, no callback. What
	 * set_map or dma_map mapped stays, for the next start. On return the device neither reads
	 * nor writes guest memory; where it cannot be sure of that within a bounded time it returns
	 * -EIO or -ETIMEDOUT: the device is FAILED until another reset succeeds, after which the
	 * core takes the memory away by set_map(NULL) or dma_unmap; but for a DMA domain, from
	 * which the core takes the guest's memory at once. Eventfds and inflight areas must be
	 * released in either case: they are closed and unmapped behind it. A dirty log runs on,
	 * with what was written until now: log_sync and log_stop follow.
	 */
	int (*reset)(struct vdpa_device *vdev);
	/**
	 * Optional, for a device in a DMA domain with others: its reset has failed, and memory
	 * that they have in the domain is in its reach. Keep it out by other means, such as
	 * vdpa_pci_cut_off(), after which it may be gone for good. 0, or a negative errno where it
	 * may still reach the memory.
	 */
	int (*cut_off)(struct vdpa_device *vdev);
	/**
	 * Optional: stop all queues, keep their state; get_vq_state is valid on return.
	 * -EOPNOTSUPP: it cannot, as if it were NULL, and nothing was done.
	 */
	int (*suspend)(struct vdpa_device *vdev);
	/** With suspend, and only then: go on after it. */
	int (*resume)(struct vdpa_device *vdev);
	size_t (*get_config_size)(struct vdpa_device *vdev);
	/** offset + len is within get_config_size(). */
	int (*get_config)(struct vdpa_device *vdev, size_t offset, void *buf, size_t len);
	int (*set_config)(struct vdpa_device *vdev, size_t offset, const void *buf, size_t len);
	/** Optional: changes with the configuration. */
	uint32_t (*get_generation)(struct vdpa_device *vdev);
	/** Optional: IOVAs the device can reach. */
	struct vdpa_iova_range (*get_iova_range)(struct vdpa_device *vdev);
	/** Optional: up to n statistics of the device. Returns how many there are. Any thread. */
	int (*get_stats)(struct vdpa_device *vdev, struct vdpa_stat *stats, unsigned int n);
	/** Optional: announce the guest (vhost-user SEND_RARP) by this MAC address. */
	int (*announce)(struct vdpa_device *vdev, const uint8_t mac[6]);

	/* DMA: set_map, or dma_map and dma_unmap, or neither and struct vdpa_device.dma. */

	/**
	 * Optional: the whole table; asid is 0. On return the device no longer uses the
	 * table before; on failure it still uses that one and not the new one. Take a reference to
	 * keep it (vdpa_iotlb_get()); NULL: no memory. May be called while running.
	 */
	int (*set_map)(struct vdpa_device *vdev, uint32_t asid, struct vdpa_iotlb *tlb);
	/**
	 * Optional: a piece of memory more, one less: the difference of two tables by IOVA, file
	 * and offset, however they are cut into regions. While running too. A piece is of one
	 * region, of 1 GiB at most, and valid during the call. An unmap names IOVA and size of an
	 * earlier map and nothing else; a piece of which a part goes is kept until all of it does,
	 * or other memory comes there: then it is unmapped, and what stays is mapped anew. A change
	 * that fails half-way is taken back by the opposite calls. Reset takes all memory away
	 * without a call. A piece that is read-only the device must not be able to write to.
	 */
	int (*dma_map)(struct vdpa_device *vdev, uint32_t asid,
		       const struct vdpa_mem_region *region);
	int (*dma_unmap)(struct vdpa_device *vdev, uint32_t asid,
			 const struct vdpa_mem_region *region);

	/**
	 * Optional: free what the driver keeps from one start to the next, memory in the DMA domain
	 * (vdpa_dma_alloc()), interrupt vectors or mapped doorbells. The device is reset, and the
	 * guest's memory has left the domain.
	 */
	void (*release_dma)(struct vdpa_device *vdev);

	/* Dirty log: log_start and log_stop, or none of them. */

	/**
	 * Log writes to guest memory from now on: while the device runs, or before DRIVER_OK with
	 * queues and memory set up, so that the first buffer is in the log.
	 *
	 * Without log_sync the device, in software, sets the bits of log->bitmap as it writes, for
	 * its rings too: used_iova[idx] is the log address of each queue's used ring, UINT64_MAX
	 * for one that is not to be logged. With log_sync the hardware logs what it writes to
	 * buffers; the rings are the core's to mark, and used_iova is NULL. It writes the front
	 * end's bitmap by DMA (vdpa_dma_map_log()), which its writes must leave right while others
	 * set and clear bits of it; or one of the driver's own (vdpa_dma_alloc(), log->size bytes),
	 * which log_sync brings over (vdpa_dirty_log_merge()).
	 *
	 * Called again with another log, or other addresses, while one runs: it replaces that one,
	 * which the driver uses no more on return. What was written and is not in the old one yet
	 * belongs in the new one. On failure the old one, if any, stays.
	 *
	 * @param log  valid until log_stop returns, or log_start with another. Its size covers the
	 * guest's memory, and it may be called with a larger one where that grows.
	 * @return 0; a negative errno: the front end's request is refused.
	 */
	int (*log_start)(struct vdpa_device *vdev, const struct vdpa_dirty_log *log,
			 const uint64_t *used_iova);
	/**
	 * Optional, for hardware that logs: on return all that was written before the call is in
	 * log->bitmap. Called while the log runs, every 100 ms; when the last queue has stopped, be
	 * it by suspend, set_vq_ready or reset_vq; after reset; and before log_stop. A negative
	 * errno: the core marks all of the guest's memory.
	 */
	int (*log_sync)(struct vdpa_device *vdev);
	/**
	 * The log ends: on return the device no longer writes to it, and nothing of it is mapped,
	 * be it with an error. Called while the device runs, or after reset, also one that failed.
	 */
	int (*log_stop)(struct vdpa_device *vdev);

	/** The last reference is gone: free the driver's own (the core frees the device itself). */
	void (*free)(struct vdpa_device *vdev);

	/* State of the device beside its queues' places: save_state and load_state, or none. */

	/**
	 * Optional: what a device of the same kind on another host needs to go on as this one, such
	 * as filters; not where queues stand. While suspended, or while no queue is ready; of a
	 * device that can stop as a whole only, by its reset, right before that. The driver's own
	 * bytes, which name their version; nothing else looks into them.
	 * @param buf  room for *len bytes; *len becomes how many the state has, VDPA_STATE_MAX at
	 * most.
	 * @return 0; -ENOSPC where *len was too small, and is what it takes; another negative
	 * errno.
	 */
	int (*save_state)(struct vdpa_device *vdev, void *buf, size_t *len);
	/**
	 * With save_state: what it gave there, all or nothing. While suspended, or set up and not
	 * running; a reset takes it away. The bytes come from another host and are not to be
	 * trusted. -EINVAL for a version, a kind of device or features that it cannot take.
	 */
	int (*load_state)(struct vdpa_device *vdev, const void *buf, size_t len);

	/**
	 * Optional: whether another process goes on with the device, once this one was killed, from
	 * the front end's rings, memory and inflight areas, and from what the driver has said by
	 * vdpa_device_state_changed(), alone: all else that the device is must follow from its
	 * words. Constant from the registration on. 0; a negative errno with a message. NULL: it
	 * does not. Of a driver without set_vq_inflight that is so with `migration shadow` alone,
	 * where the shadows keep the areas.
	 */
	int (*can_restart)(struct vdpa_device *vdev);

	/* A device that goes on while no process lives: adopt and leave, or none of them. Then
	 * can_restart also begins to keep what the driver has: it is called once, and not with
	 * `migration shadow`, where the device ends with the process. */

	/**
	 * Optional: whether a former process has left the device running. Called at registration,
	 * in place of the first reset. 0: it runs, and is let alone until the first start, which
	 * begins without a reset: its steps are those of any start, and the driver does not tell
	 * the device but compares, and fails what differs; set_status(DRIVER_OK) ends that. Or
	 * until reset, where nobody goes on with it. Any other: it is reset.
	 */
	int (*adopt)(struct vdpa_device *vdev);
	/**
	 * The process ends, and the next one goes on with the device, which runs: reset,
	 * release_dma and free follow, which free what is the process' and leave the device as it
	 * is. 0; -EOPNOTSUPP and the like: then they are what they always are.
	 */
	int (*leave)(struct vdpa_device *vdev);

	/**
	 * Optional: why another process does not go on with the device even where this one has
	 * stopped it and says where its queues stand: it holds what is this process' own, such as a
	 * disk in its memory. Static, constant from the registration on. NULL, or no op: it can.
	 */
	const char *(*get_tie)(struct vdpa_device *vdev);
};

/** Bytes that save_state gives, at most. */
#define VDPA_STATE_MAX 65536u

struct vdpa_mgmt_dev;
struct vdpa_device_core;

/** A device, first member of the driver's own struct. Fields are the core's; drivers read them. */
struct vdpa_device {
	char name[VDPA_NAME_MAX];
	const struct vdpa_config_ops *config;
	struct vdpa_mgmt_dev *mdev; /**< what made it; NULL when an application did */
	/**
	 * Set by a driver without set_map and dma_map before it registers, and only by such a one:
	 * the core maps guest memory into this domain as the table changes, and out of it when the
	 * front end's connection ends or a reset fails. Outlives the registration.
	 */
	struct vdpa_dma_domain *dma;
	/** The device as a user of its domain, while it is registered. */
	struct vdpa_dma_user *dma_user;
	struct vdpa_device_core *core;
};

/**
 * Allocate a device; it is the driver's alone until it is registered.
 *
 * @param size  bytes of the driver's struct, whose first member is struct vdpa_device; zeroed.
 * @param name  1 to VDPA_NAME_MAX - 1 characters of [A-Za-z0-9._-].
 * @param ops   copied; vdev->config is the core's copy.
 * @return the device with one reference, the caller's; NULL with vdpa_error_message() and errno
 * set: EINVAL for a bad name, a mandatory op that is NULL, an op without those that belong to it
 * (suspend and resume, dma_map and dma_unmap, log_start and log_stop, log_sync with these; set_map
 * without dma_map), or ops->size that is 0 or less than any version had; E2BIG for ops of a later
 * version that this library does not have; ENOMEM. From any thread.
 */
struct vdpa_device *vdpa_alloc_device_size(size_t size, const char *name,
					   const struct vdpa_config_ops *ops);
#define vdpa_alloc_device(type, member, name, ops)                                                 \
	((type *)(void *)vdpa_alloc_device_size(                                                   \
		sizeof(type) + 0 * sizeof(char[offsetof(type, member) == 0 ? 1 : -1]), name, ops))

/** Drop a reference; the last one calls ops->free and frees the device. From any thread. */
void vdpa_put_device(struct vdpa_device *vdev);
/** Take a reference; the caller has one, or the device still on the bus. From any thread. */
void vdpa_get_device(struct vdpa_device *vdev);

/**
 * Reset it and put it on the bus, IDLE; the bus has a reference of its own.
 * @return 0; -EBUSY when it is registered already; -EINVAL for a number of virtqueues other than 1
 * to VDPA_VQ_MAX, sizes or an alignment of queues out of their bounds, device features without
 * VIRTIO_F_VERSION_1, backend features that are none of VDPA_BACKEND_F_*, and when neither or both
 * of map ops and a DMA domain are there; -EEXIST for a name in use; -ENOMEM; what the device's
 * reset or eventfd(2) says.
 */
int vdpa_register_device(struct vdpa_device *vdev);

/**
 * Take it off the bus: the device is reset and refuses every further call, its front end is
 * removed, the bus' reference dropped. A second time: no-op. Not from an op, a front end's callback
 * or a loop that serves it.
 */
void vdpa_unregister_device(struct vdpa_device *vdev);

/** A registered device by name, with a reference for the caller; NULL when there is none. */
struct vdpa_device *vdpa_find_device(const char *name);

/**
 * Report that the device cannot go on: it is stopped (reset), becomes FAILED, and its front end is
 * notified. One log line is written: "vdpa: net0: queue 1: descriptor loop (-EPROTO)". From any
 * thread, from inside ops too; returns at once, the stop happens on a thread of the core. The first
 * report counts until the device is reset.
 *
 * @param qidx   queue, or -1 for the device itself.
 * @param err    errno, positive or negative.
 */
void vdpa_device_fail(struct vdpa_device *vdev, int qidx, int err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/**
 * Report that the device is gone for good: no reset brings it back. As vdpa_device_fail(), but also
 * of a device that has failed before: what it failed of stands beside it. From then on it stays
 * FAILED, every reset and start returns -ENODEV at the latest after the driver's own, and it can
 * only be deleted.
 */
void vdpa_device_gone(struct vdpa_device *vdev, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/** The first failure's text since the last reset; "" for none. The device's lock is not needed. */
void vdpa_device_failure(struct vdpa_device *vdev, char *buf, size_t len);

/**
 * Report that what save_state would give is another now, such as by a command of a control queue:
 * where devices outlive the process, the next one loads this by load_state before it starts the
 * device. A command must have been reported before its used entry can be seen: where the process is
 * killed in between, the next one executes it once more. The core itself notes what a start has
 * loaded, and forgets all of it when the front end's driver stops the device.
 *
 * Between DRIVER_OK and the return of reset; one call at a time of a device. From any thread, from
 * inside ops too: it waits for nothing, and copies.
 *
 * @param state  len bytes, VDPA_STATE_MAX at most: what save_state gives. More: it cannot be said,
 * and is not read; the connection does not go on in another process.
 */
void vdpa_device_state_changed(struct vdpa_device *vdev, const void *state, size_t len);

/** State now; it may change at once unless the caller holds the device still. From any thread. */
enum vdpa_device_state vdpa_device_get_state(const struct vdpa_device *vdev);

/* Management devices. */

/**
 * Each may take as long as the device does: no lock is held that another device needs, and other
 * threads call them for other devices of the same management device meanwhile. Of one name there is
 * one call at a time, and mdev stays until it returns.
 */
struct vdpa_mgmt_dev_ops {
	/**
	 * Make and register a device, with vdev->mdev set to mdev. args are checked against params
	 * and hold at least the name. A negative errno with vdpa_error() on failure.
	 */
	int (*dev_add)(struct vdpa_mgmt_dev *mdev, const char *name, const struct vdpa_args *args);
	/** Unregister the device and drop the reference that dev_add kept, if it kept one. */
	void (*dev_del)(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdev);
	/**
	 * Optional: change attributes; args are checked against attr_params. With the device's lock
	 * held, so that no op runs at the same time.
	 */
	int (*dev_set_attr)(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdev,
			    const struct vdpa_args *args);
};

/** Something that makes devices: `sim_net`, `pci/0000:06:00.2`, ... The owner's; static or
 * embedded. */
struct vdpa_mgmt_dev {
	const char *name; /**< shorter than VDPA_MGMTDEV_NAME_MAX */
	const char *help; /**< one line */
	const struct vdpa_mgmt_dev_ops *ops;
	/** Virtio device id it makes; 0: not known before there is one. Then the core takes it, the
	 * features and the queues from the first. */
	uint32_t device_id;
	uint64_t supported_features;
	uint16_t max_supported_vqs;
	const struct vdpa_param *params;      /**< words of dev add, ended by a NULL name */
	const struct vdpa_param *attr_params; /**< words of dev set; NULL: none */
	void *priv;
	bool named;		 /**< the core's: made for a parent that somebody named */
	struct vdpa_driver *drv; /**< the core's: what made it; NULL: the core or an application */
	unsigned int users;	 /**< the core's: names of devices, being added or there */
	uint64_t id;		 /**< the core's: in the order of registration */
	TAILQ_ENTRY(vdpa_mgmt_dev) next; /**< the core's */
};

/**
 * Take mdev, which stays the caller's memory, into the list. 0; -EEXIST for a name in use; -EINVAL
 * for one that is too long.
 */
int vdpa_mgmtdev_register(struct vdpa_mgmt_dev *mdev);
/**
 * Take it out; on return its devices are deleted. Outside of driver callbacks other than remove,
 * and release, where there are none.
 */
void vdpa_mgmtdev_unregister(struct vdpa_mgmt_dev *mdev);

/* Drivers. */

/** For a field of struct vdpa_pci_match: any id. */
#define VDPA_PCI_ANY_ID UINT32_MAX

/**
 * Ids of PCI functions. Of two entries that match a function the more specific one wins: one with a
 * subsystem before one without, then one device before a range of them, a range before every device
 * of a vendor, a vendor before none; at last the one with more bits in class_mask. Of two that are
 * alike it is the driver that was registered first.
 */
struct vdpa_pci_match {
	uint32_t vendor; /**< VDPA_PCI_ANY_ID: any, as the three below */
	uint32_t device;
	uint32_t device_last; /**< of a range that begins at device; 0: just that device */
	uint32_t subsystem_vendor, subsystem;
	uint32_t class_code, class_mask; /**< 24 bits; mask 0: any class */
};

/** A row that matches one device of a vendor, whatever its subsystem and class. */
#define VDPA_PCI_DEVICE(vendor_id, device_id)                                                      \
	.vendor = (vendor_id), .device = (device_id), .subsystem_vendor = VDPA_PCI_ANY_ID,         \
	.subsystem = VDPA_PCI_ANY_ID
/** A row that matches the devices first .. last of a vendor, likewise. */
#define VDPA_PCI_DEVICES(vendor_id, first, last)                                                   \
	VDPA_PCI_DEVICE(vendor_id, first), .device_last = (last)

/**
 * A driver. Of PCI functions it states the ids that it serves: the core makes their management
 * devices (`pci/0000:06:00.2`, `vfio-user/PATH`), finds the driver, opens the function and asks the
 * driver for a device on it. For other parents it makes management devices itself, by their names.
 * It has pci_ids and pci_add, or match, probe and remove, or both.
 */
struct vdpa_driver {
	/** 1 to VDPA_NAME_MAX - 1 characters of [A-Za-z0-9._-]; what the word `driver` names. */
	const char *name;
	/**
	 * Parents that are no PCI functions: patterns, ended by NULL; NULL: none. A plain name
	 * ("sim_net") is probed when the driver is registered, one that ends in an asterisk when
	 * somebody names such a parent.
	 */
	const char *const *match;
	/** What `--help` says of its PCI functions, and of parents of a pattern with an asterisk.
	 * One line; optional. */
	const char *help;
	/** Words of dev add on these, ended by a NULL name; NULL: none. */
	const struct vdpa_param *params;
	/**
	 * With match: register the management device of a parent. -ENODEV: not mine, ask the next
	 * driver. For a pattern with an asterisk it looks at no more than the name: words are
	 * checked before there is a device, or an EAL, and the management lock is held. dev_add
	 * opens the parent.
	 */
	int (*probe)(struct vdpa_driver *drv, const char *parent);
	/**
	 * Unregister and free a management device that was probed by a pattern with an asterisk.
	 * Called when it has no device any more, and when none came of it (words that were only
	 * checked, a dev_add that failed): there are never more of them than devices. Mandatory
	 * with such a pattern. With the management lock held, as probe: what both of them keep
	 * needs no other lock.
	 */
	void (*release)(struct vdpa_driver *drv, struct vdpa_mgmt_dev *mdev);
	/** With match: unregister the management devices it made; those that were named are gone
	 * already. */
	void (*remove)(struct vdpa_driver *drv);

	/** PCI functions that it serves, ended by an entry of zeroes; NULL: none. */
	const struct vdpa_pci_match *pci_ids;
	/**
	 * With pci_ids: make and register a device on a function, with vdev->mdev set to mdev. No
	 * lock is held; of one function there is one call at a time, and drv and mdev stay until it
	 * returns and the device is gone. The word `driver` brings functions here that pci_ids does
	 * not match: the driver looks whether it can drive them.
	 *
	 * @param pci   open, with the words `vm` and `timeout_ms` in force (vdpa_pci_timeout_ms()).
	 *              On success it belongs to the device, whose free op closes it; on failure it
	 *              stays the caller's, with interrupts and bus master off, areas unmapped and
	 *              no event set.
	 * @param args  checked against params, with the words of every device and of every PCI
	 *              function beside them.
	 * @return 0; -ENODEV with vdpa_error(): not a function of this driver, ask the next one
	 * that matches; another negative errno with vdpa_error(): it is, and does not work.
	 */
	int (*pci_add)(struct vdpa_driver *drv, struct vdpa_mgmt_dev *mdev, struct vdpa_pci *pci,
		       const char *name, const struct vdpa_args *args);

	uint64_t id;		       /**< the core's: in the order of registration, 0: not */
	TAILQ_ENTRY(vdpa_driver) next; /**< the core's */
};

/**
 * Register a driver and probe the parents it names plainly. It stays registered until
 * vdpa_unregister_driver(), also from one vdpa_init() to the next. From any thread, and before
 * vdpa_init() too.
 *
 * @return 0; -EEXIST when it, or another of its name, is registered; -EINVAL for a name that is not
 * allowed, for members that belong together and are not all there, and for a pattern that PCI
 * functions have (`pci/`, `vfio-user/`: pci_ids is for them); the first errno of a probe but
 * -ENODEV. On failure it is not registered.
 */
int vdpa_register_driver(struct vdpa_driver *drv);
/**
 * Delete its devices, also one that is being added, and forget it; no-op for one that is not
 * registered. Not from an op, a front end's callback or a loop that serves its devices.
 */
void vdpa_unregister_driver(struct vdpa_driver *drv);

/** What VDPA_REGISTER_DRIVER() calls: register; a failure is logged, and makes
 * vdpa_plugin_load() fail. */
void vdpa_plugin_add_driver(struct vdpa_driver *drv);

/**
 * Make a shared object a plugin that brings a driver (a struct vdpa_driver of static storage): it
 * is registered when the object is loaded (`-d FILE`, vdpa_plugin_load(), EAL's own `-d`) and
 * unregistered when it is unloaded. Once for each driver, at file scope.
 */
#define VDPA_REGISTER_DRIVER(drv)                                                                  \
	static void __attribute__((constructor, used)) vdpa_driver_load_##drv(void)                \
	{                                                                                          \
		vdpa_plugin_add_driver(&(drv));                                                    \
	}                                                                                          \
	static void __attribute__((destructor, used)) vdpa_driver_unload_##drv(void)               \
	{                                                                                          \
		vdpa_unregister_driver(&(drv));                                                    \
	}                                                                                          \
	struct vdpa_driver

#ifdef __cplusplus
}
#endif

#endif /* VDPA_DRIVER_H */
