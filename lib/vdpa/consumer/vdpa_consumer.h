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
 * A front end that shows its peer the device as a whole, as the registers of a function, has a
 * consumer of another kind (vdpa_consumer_new_function()): all queues are the driver's, addresses
 * are IOVAs, the memory is a table that changes by ranges, and a queue whose memory goes stands
 * still until it is back.
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
/**
 * Virtio features of a front end that shows its peer the device as a whole, with the control queue
 * where the device has one, and whose kicks come by eventfd, which carries no data: those of the
 * device and of its queues' paths.
 */
uint64_t vdpa_consumer_function_features(struct vdpa_device *vdev);
/** Virtqueues that a front end may speak of, with a control queue to give. */
uint16_t vdpa_consumer_vq_count(struct vdpa_device *vdev);
/** The same without. */
uint16_t vdpa_consumer_data_vqs(struct vdpa_device *vdev);
/** GET_QUEUE_NUM: queue pairs of a net device, queues of another; a control queue is not counted.
 */
uint16_t vdpa_consumer_queue_num(struct vdpa_device *vdev);

/**
 * Whether a connection of this process would be served: vdpa_device_admit(), and the rule of
 * vdpa_consumer_set_peer(). Before there is a consumer; from any thread, it waits for nothing.
 * @return 0; -EACCES with a message.
 */
int vdpa_consumer_admit(struct vdpa_device *vdev, const struct vdpa_peer *peer);
/** A new connection, which has said nothing yet. NULL: out of memory. */
struct vdpa_consumer *vdpa_consumer_new(struct vdpa_device *vdev,
					const struct vdpa_consumer_ops *ops, void *arg);
/** The connection has ended, and vdpa_consumer_free() follows: other devices of its VM wait for
 * that where its memory is in their way. From any thread; it waits for nothing. */
void vdpa_consumer_leaves(struct vdpa_consumer *c);
/**
 * The connection is gone: the device is stopped, unless it has failed, and shows why; its memory is
 * taken out of the device's reach, if there was some; descriptors are closed. Not from inside ops.
 * NULL: no-op.
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
 * While the device runs, also what vdpa_device_set_memory() returns, and -EINVAL for memory that
 * the dirty log in use has no bits for; what can be known is checked before a queue stops. A device
 * that does not run keeps the table that it has, and another is refused, for -EINVAL (IOVAs that it
 * cannot have), -EBUSY and -ENOSPC; where it has none, or fails otherwise, the table that it cannot
 * map fails its start. -EBUSY when it contradicts that of another device of the same VM.
 */
int vdpa_consumer_set_memory(struct vdpa_consumer *c, const struct vdpa_mem_region_spec *specs,
			     unsigned int n);
/** One region more; as vdpa_iotlb_add(), -EBUSY as above, and -E2BIG beyond
 * vdpa_consumer_limit_memory(). -EEXIST for one that is there already, however many there are. */
int vdpa_consumer_add_memory(struct vdpa_consumer *c, const struct vdpa_mem_region_spec *spec);
/** One region less; as vdpa_iotlb_remove(). */
int vdpa_consumer_remove_memory(struct vdpa_consumer *c, uint64_t iova, uint64_t uaddr,
				uint64_t size);
/** How many regions there may be at most when one is added; VDPA_MEM_REGIONS_MAX at first. */
void vdpa_consumer_limit_memory(struct vdpa_consumer *c, unsigned int n);
/** How many regions there are. */
unsigned int vdpa_consumer_count_memory(struct vdpa_consumer *c);
/** Where dirty pages are to be marked while VHOST_F_LOG_ALL is negotiated; the front end's to keep
 * until there is another, or the connection ends. */
int vdpa_consumer_set_log(struct vdpa_consumer *c, const struct vdpa_dirty_log *log);
/** Inflight areas of n queues, stride bytes each. own: the front end does not know of them
 * (vdpa_vq_inflight.own). -EBUSY when a queue runs. */
int vdpa_consumer_set_inflight(struct vdpa_consumer *c, uint8_t *addr, size_t stride, uint16_t n,
			       bool own);

/*
 * The state of the device, for another host. Both are for a device that is stopped, its queues by
 * vdpa_consumer_get_vq_base(), and fail with -EBUSY for one that runs.
 */

/** Whether state may be wanted: what the driver keeps is then taken at each stop, since a reset
 * takes it away. Not so until it is said. */
void vdpa_consumer_keep_state(struct vdpa_consumer *c, bool keep);
/** The state of the last stop. *buf is the caller's to free. -EIO and the like when the driver's
 * part could not be had; -ENOMEM. */
int vdpa_consumer_save_state(struct vdpa_consumer *c, uint8_t **buf, size_t *len);
/**
 * Go on from a state, with the next start. Where a queue stands is in it, and counts until the
 * front end says otherwise (vdpa_consumer_set_vq_base()). -EPROTO for bytes that are no whole state
 * of a version known here; -EINVAL for one of another device, with both values of the first thing
 * that differs; -EOPNOTSUPP for a driver's part that the driver here does not take.
 */
int vdpa_consumer_load_state(struct vdpa_consumer *c, const uint8_t *buf, size_t len);
/** Go on, with the next start, from what a former process' driver has said that its state is
 * (vdpa_device_state_changed()): the features are set, and it is loaded once to see whether it can
 * be. -EBUSY for a device that runs; -EOPNOTSUPP for a driver that takes none; what load_state
 * says; -ENOMEM. */
int vdpa_consumer_resume_state(struct vdpa_consumer *c, const uint8_t *buf, size_t len);
/** Whether the state of a device that is stopped is here alone: it was taken at the stop for
 * another host, or has come from one, and ends with the process. */
bool vdpa_consumer_holds_state(struct vdpa_consumer *c);

/**
 * SEND_RARP: announce the guest by this address; of a device that does not run yet at its start, as
 * QEMU may say so before the guest goes on. What vdpa_device_announce() says. A guest whose state
 * was loaded and whose control queue is the device's needs no such word: its front end has none.
 */
int vdpa_consumer_announce(struct vdpa_consumer *c, const uint8_t mac[6]);

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
/**
 * Where it is to start, of a ring that another process has begun and not stopped: one that was
 * killed. A split ring goes on where it was used; what was taken and not used is done again, by its
 * inflight area where it has one. A packed one says nothing, so its area does.
 *
 * @param base  where it stood at its first start, for one that has done nothing since.
 * @param any_order  go on also where requests may have been done in another order than they came,
 * and nobody knows which: a front end that cannot be told otherwise, as a kernel's driver, which
 * gives an area where that matters.
 * @return 0; -EBUSY while it runs; -EINVAL before its addresses; -EFAULT outside of the memory;
 * -EOPNOTSUPP for a packed ring that has been used, without an area, and for a split one of a
 * device that runs alone (vdpa_device_runs_alone()) and has been stopped, but for any_order. Of one
 * that runs still (vdpa_device_is_left()) nothing is asked.
 */
int vdpa_consumer_resume_vq(struct vdpa_consumer *c, uint16_t idx, uint32_t base, bool any_order);
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
 *
 * @param hand_over  do not wait for requests that are under way, where the queue has an inflight
 * area: they stay in there, as vdpa_device_hand_over_vq() has it.
 */
uint32_t vdpa_consumer_get_vq_base(struct vdpa_consumer *c, uint16_t idx, bool hand_over);
/** What is known of a ring, for a process that is to go on with it. */
struct vdpa_consumer_vq_facts {
	bool announced; /**< the front end has spoken of it */
	bool runs;	/**< the device has it, or may have it from an advance on: it is set up */
	bool refused;	/**< the device did not take it, or has lost its memory */
	bool enabled;	/**< vdpa_consumer_enable_vq() */
	bool has_addr;	/**< vdpa_consumer_set_vq_addr() */
	bool has_base;	/**< vdpa_consumer_set_vq_base(), or it has stopped there */
	bool has_kick;	/**< vdpa_consumer_set_vq_kick(), be it without a descriptor */
	uint32_t num;	/**< 0: not set */
	uint32_t base;
	struct vdpa_consumer_vq_addr addr;
	int kick_fd; /**< the consumer's; -1: none */
	int call_fd;
};
void vdpa_consumer_get_vq_facts(struct vdpa_consumer *c, uint16_t idx,
				struct vdpa_consumer_vq_facts *facts);
/** Whether a queue was stopped where no other process can start it, as of one with requests under
 * way that end with this process, or of which nobody knows which they are. */
bool vdpa_consumer_has_requests(struct vdpa_consumer *c);
/**
 * The process ends as it was planned, and another one is to start the device where it stands: stop
 * it as vdpa_consumer_get_vq_base() of each queue does; those of a function stand still, as by
 * vdpa_consumer_hold(). The connection is to end next.
 * @param facts  of each queue below vdpa_consumer_vq_count() what was known of it before, and where
 * it stands.
 * @return 0; -EIO where the place of a queue is not known, or the device has failed; another
 * negative errno of a queue that does not stop. Then no other process can go on with it.
 */
int vdpa_consumer_leave(struct vdpa_consumer *c, struct vdpa_consumer_vq_facts *facts);
/** Features, as vdpa_consumer_set_features() has them. False: not set. */
bool vdpa_consumer_has_features(struct vdpa_consumer *c, uint64_t *features);
/** The status that the front end has set, without what the device adds. */
uint8_t vdpa_consumer_driver_status(struct vdpa_consumer *c);
/**
 * Whether a device that was started has failed since, or has reported a failure that the core has
 * yet to act on.
 *
 * @return
 *   0: neither; -EIO, with the cause as message.
 */
int vdpa_consumer_check_alive(struct vdpa_consumer *c);
/** Whether the device runs; whether it runs and has the queue. */
bool vdpa_consumer_is_running(struct vdpa_consumer *c);
bool vdpa_consumer_has_vq(struct vdpa_consumer *c, uint16_t idx);

/** The device has failed (vdpa_frontend_ops.failed): signal the error eventfds of queue qidx, or of
 * all (-1). Never waits. */
void vdpa_consumer_signal_errors(struct vdpa_consumer *c, int qidx);

/*
 * Of a function. It reports the status: the device starts at DRIVER_OK, with the queues that are
 * ready, be it none, and others join. Of vdpa_consumer_set_vq_addr() the addresses are IOVAs, `log`
 * counts for nothing, and nothing is checked before the queue starts. A queue that does not start
 * then is refused; at DRIVER_OK the start fails for it. A queue stands still, and goes on by itself
 * where it stood, while it may not move: all of them by vdpa_consumer_hold(), one while its rings
 * are not in the memory. Where one does not go on, the device fails.
 *
 * These are for such a consumer only. For it there is none of set_features, set_memory, add_memory,
 * remove_memory, set_log and get_vq_base; set_vq_base and resume_vq are for queues of another
 * process, before they start; vdpa_consumer_reset() is the driver's reset, which ends what was said
 * of all queues, and comes before vdpa_consumer_free().
 */

/** A new connection, as vdpa_consumer_new(), with vdpa_get_vq_count() queues. */
struct vdpa_consumer *vdpa_consumer_new_function(struct vdpa_device *vdev);
/** FEATURES_OK: ask the device itself, as its driver would. 0; -EBUSY once it was started; what
 * vdpa_set_driver_features() says, and there are no features then. */
int vdpa_consumer_negotiate(struct vdpa_consumer *c, uint64_t features);
/** No queue moves from now on, or those that stood still for it go on. A stop of all queues is none
 * of the device. */
void vdpa_consumer_hold(struct vdpa_consumer *c, bool held);
/** A queue stops where it runs, and is ready no more; it keeps its place. */
void vdpa_consumer_stop_vq(struct vdpa_consumer *c, uint16_t idx);
/** Where a queue is to start; NULL: at the beginning. Without effect on one that runs. */
void vdpa_consumer_place_vq(struct vdpa_consumer *c, uint16_t idx,
			    const struct vdpa_vq_state *state);
/** Where a queue stands, or is to start. One that runs goes on. 0; -EFAULT where its used ring is
 * not in the memory; the error of a queue that did not go on, and the device has failed. */
int vdpa_consumer_get_vq_place(struct vdpa_consumer *c, uint16_t idx, struct vdpa_vq_state *state);
/**
 * The memory from now on, and the queues that it lets go on; of a device that does not run, with
 * its next start. NULL: none.
 * @return 0; -EBUSY when it contradicts that of another device of the same VM, and all is as it
 * was; or what vdpa_device_set_memory() says: queues whose rings were not to be in it stand
 * still, and the next call lets them go on.
 */
int vdpa_consumer_use_memory(struct vdpa_consumer *c, struct vdpa_iotlb *tlb);
/** Whether the device is one of a VM, which has one memory for all: regions are then shared with
 * its other devices, but for those that are asked for in order. c NULL: not so. */
bool vdpa_consumer_shares_memory(const struct vdpa_consumer *c);
/** vdpa_iotlb_create() and vdpa_iotlb_add(), of a table for vdpa_consumer_use_memory(). c NULL: as
 * these. */
int vdpa_consumer_build_table(struct vdpa_consumer *c, const struct vdpa_iotlb *old,
			      const struct vdpa_mem_region_spec *specs, unsigned int n,
			      struct vdpa_iotlb **out);
int vdpa_consumer_grow_table(struct vdpa_consumer *c, const struct vdpa_iotlb *old,
			     const struct vdpa_mem_region_spec *spec, struct vdpa_iotlb **out);
/** A device that does not run has none, not even what stayed in its reach since it ran. What
 * vdpa_device_set_memory() returns. */
int vdpa_consumer_drop_memory(struct vdpa_consumer *c);
/**
 * Where dirty pages are to be marked from now on and after each start; NULL: nowhere. The log is of
 * any size, and the front end's to keep until there is another.
 * @param rings  used rings are marked too, at their own addresses.
 */
int vdpa_consumer_set_function_log(struct vdpa_consumer *c, const struct vdpa_dirty_log *log,
				   bool rings);
/** The device does not let go of memory, or of a descriptor: it is failed with that cause, stopped,
 * and left without memory. The driver's reset follows. what: what was under way. */
void vdpa_consumer_give_up(struct vdpa_consumer *c, int err, const char *what);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_CONSUMER_H */
