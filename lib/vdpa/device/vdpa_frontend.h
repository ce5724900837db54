/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_frontend.h
 * For authors of front ends: registry, and the consumer's side of a device.
 *
 * A front end is bound to a device when the device is added, and never calls a driver's op itself.
 * One whose peer sets up rings (vhost-user) reports to a consumer (vdpa_consumer.h), which decides
 * when the device starts and stops, and calls what is below. One that decides by itself calls it
 * directly: vdpa_device_start(), vdpa_device_start_vq() for later virtqueues, vdpa_device_stop() at
 * the end. From any thread: each call takes the device's lock, checks the state rules of virtio 1.2
 * (2.1, 3.1) and calls the driver's ops.
 */

#ifndef VDPA_FRONTEND_H
#define VDPA_FRONTEND_H

#include "vdpa_driver.h"
#include "vdpa_peer.h"
#include "vdpa_work.h"

#ifdef __cplusplus
extern "C" {
#endif

struct vdpa_frontend_ops {
	/** Whether it can serve this device. Optional; NULL: any. */
	bool (*match)(const struct vdpa_device *vdev);
	/**
	 * Serve it: args are checked against params. Attach private data by vdpa_set_drvdata(). A
	 * negative errno with vdpa_error() on failure. The calls below come only once it has
	 * succeeded; then also for what happened meanwhile. It may be called for several devices at
	 * once, by several threads.
	 */
	int (*probe)(struct vdpa_device *vdev, const struct vdpa_args *args);
	/**
	 * Optional: the device is about to be removed and still runs: take it away from those who
	 * use it. `leave`: it is removed whatever is returned, as the process ends; one that is in
	 * use stays where it is then, for a successor. Otherwise a failure, with vdpa_error(),
	 * keeps it. May wait for a bounded time, without the device's lock.
	 */
	int (*withdraw)(struct vdpa_device *vdev, bool leave);
	/** Stop serving it; no call of this front end touches it afterwards. Without the device's
	 * lock. */
	void (*remove)(struct vdpa_device *vdev);
	/** Optional: the configuration changed. On the control loop, without the device's lock. */
	void (*config_changed)(struct vdpa_device *vdev);
	/** Optional: the device became FAILED, already stopped; a second time where it is gone
	 * after that. On a thread of the core, without the lock. */
	void (*failed)(struct vdpa_device *vdev, int qidx);
	/**
	 * Optional: link of a net device set by the administrator, so that a front end whose
	 * consumer does not read the configuration can show it in its own way. Without the lock.
	 */
	int (*set_link)(struct vdpa_device *vdev, bool up);
	/**
	 * Optional: one line for dev show, such as "socket /run/a.sock connected". From any thread,
	 * with locks of the core's held: it calls nothing of the core's and waits for nobody, above
	 * all not for the device or its consumer.
	 */
	void (*describe)(struct vdpa_device *vdev, char *buf, size_t len);
	/**
	 * Optional: whether vdpa_get_vq_notification() has a doorbell for queue qidx has changed:
	 * give it to the consumer, or take it back. It may have changed twice and be as before. On
	 * a thread of the core, without the device's lock.
	 */
	void (*doorbell_changed)(struct vdpa_device *vdev, uint16_t qidx);
	/**
	 * Optional: the path of the socket that it serves the device on, the front end's until the
	 * device is removed, and whether it connects to it rather than making it. NULL: none. Fixed
	 * for the device's life. As describe().
	 */
	const char *(*socket)(struct vdpa_device *vdev, bool *client);
	/**
	 * Optional: its words that are in force for the device, with defaults, for dev show: the
	 * name of the i-th, counted from 0, and its value as text; NULL from the number of them on.
	 * As describe().
	 */
	const char *(*word)(struct vdpa_device *vdev, unsigned int i, char *value, size_t len);
	/**
	 * Optional: what can be said of the words of dev add before there is a device, beyond
	 * params, such as a group that this machine does not have. A negative errno with
	 * vdpa_error(). From any thread, with the management lock held: it waits for nobody.
	 */
	int (*check)(const struct vdpa_args *args);
};

struct vdpa_frontend {
	const char *name; /**< value of the word `frontend` */
	const char *help;
	const struct vdpa_frontend_ops *ops;
	const struct vdpa_param *params; /**< its words, ended by a NULL name */
	/** A device whose words include this one gets this front end without `frontend`; NULL:
	 * never. */
	const char *implied_by;
	/** It reports the uid of each peer (vdpa_consumer_set_peer()): its devices may name a VM.
	 */
	bool tells_uid;
	TAILQ_ENTRY(vdpa_frontend) next; /**< the core's */
};

/** 0; -EEXIST for a name in use; -ENOSPC for more than 8 front ends. From any thread. */
int vdpa_register_frontend(struct vdpa_frontend *fe);
/** Delete the devices that it serves, and forget it. */
void vdpa_unregister_frontend(struct vdpa_frontend *fe);

/** The front end's private data of a device. */
void vdpa_set_drvdata(struct vdpa_device *vdev, void *data);
void *vdpa_get_drvdata(const struct vdpa_device *vdev);

/**
 * Where what a front end does for the device runs that may wait for it: never on the control loop.
 * Jobs of one device run one at a time, in order; a front end cancels its own in remove().
 */
struct vdpa_work_queue *vdpa_get_work_queue(struct vdpa_device *vdev);

/*
 * The device as a consumer sees it. From any thread but the device's own ops. Once the device is
 * unregistered, calls that return an int fail with -ENODEV, or -EPROTO where they need a started
 * one; the others go on saying what is fixed for the device's life, for whoever has a reference.
 */

uint32_t vdpa_get_device_id(struct vdpa_device *vdev);
uint32_t vdpa_get_vendor_id(struct vdpa_device *vdev);
uint16_t vdpa_get_vq_count(struct vdpa_device *vdev);
/** Largest size of any virtqueue. */
uint16_t vdpa_get_vq_num_max(struct vdpa_device *vdev);
/** Largest size of this virtqueue, of vdpa_get_vq_count(). */
uint16_t vdpa_get_vq_size_max(struct vdpa_device *vdev, uint16_t idx);
uint64_t vdpa_get_device_features(struct vdpa_device *vdev);
size_t vdpa_get_config_size(struct vdpa_device *vdev);

/**
 * What a device can do: found out once, when it is registered, from its ops and backend features,
 * and the same from then on.
 */
struct vdpa_capabilities {
	bool late_vqs;	/**< queues come and go one by one while it runs */
	bool suspend;	/**< it stops with its state kept, and goes on (suspend and resume) */
	bool vq_enable; /**< it enables and disables queues itself (set_vq_enable) */
	bool vq_reset;	/**< it may stop one queue by a reset of it (reset_vq) */
	bool log;	/**< dirty log */
	bool inflight;	/**< inflight areas */
	bool doorbells; /**< it may give doorbells away (get_vq_notification) */
};

const struct vdpa_capabilities *vdpa_get_capabilities(const struct vdpa_device *vdev);
uint8_t vdpa_get_status(struct vdpa_device *vdev);
/** Whether the device is gone for good and will never start again; vdpa_device_failure() says why.
 * A front end refuses new consumers then. Takes no lock. */
bool vdpa_device_is_gone(const struct vdpa_device *vdev);

/** By a front end that counts its connections: n more, 0 to begin with. From any thread. */
void vdpa_device_add_connections(struct vdpa_device *vdev, unsigned int n);
/** Before the doorbell of a queue is given to a guest: kicks that go there are not seen from now
 * on, and their number is not known. From any thread. */
void vdpa_device_doorbell_given(struct vdpa_device *vdev, uint16_t idx);

/** Up to n statistics of a queue; how many there are, 0 where the device has none. Without the
 * lock. -EINVAL for a queue that there is not. */
int vdpa_get_vq_stats(struct vdpa_device *vdev, uint16_t idx, struct vdpa_stat *stats,
		      unsigned int n);

/** Generation-safe read. -EINVAL when offset + len is past the configuration. */
int vdpa_get_config(struct vdpa_device *vdev, size_t offset, void *buf, size_t len);
/** -EINVAL as above; -EOPNOTSUPP where it is read-only. */
int vdpa_set_config(struct vdpa_device *vdev, size_t offset, const void *buf, size_t len);

/**
 * The step-by-step calls, checked (virtio 1.2, 2.1 and 3.1): each returns 0; -EBUSY or -EPROTO for
 * a step out of order (the message names it); -EINVAL for a queue, size or features
 * that the device does not have; -EFAULT for ring memory outside one region; -EIO when the device
 * has FAILED; -EOPNOTSUPP for what it cannot; or the errno of the driver's op.
 * vdpa_set_status() accepts only added bits; 0 is vdpa_reset().
 */
int vdpa_reset(struct vdpa_device *vdev);
int vdpa_set_status(struct vdpa_device *vdev, uint8_t status);
int vdpa_set_driver_features(struct vdpa_device *vdev, uint64_t features);
int vdpa_set_vq_num(struct vdpa_device *vdev, uint16_t idx, uint32_t num);
int vdpa_set_vq_address(struct vdpa_device *vdev, uint16_t idx, uint64_t desc, uint64_t driver,
			uint64_t device);
int vdpa_set_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state);
int vdpa_set_vq_ready(struct vdpa_device *vdev, uint16_t idx, bool ready);
int vdpa_suspend(struct vdpa_device *vdev);
int vdpa_resume(struct vdpa_device *vdev);

/** A virtqueue as a front end starts it. fds stay the front end's, open until the queue is stopped.
 */
struct vdpa_vq_config {
	bool ready;   /**< start it; else the entry is skipped */
	bool enabled; /**< SET_VRING_ENABLE */
	uint32_t num;
	uint64_t desc, driver, device; /**< IOVAs */
	struct vdpa_vq_state state;
	int kick_fd; /**< -1: none (the driver polls) */
	int call_fd; /**< -1: none */
	struct vdpa_vq_inflight inflight;
};

struct vdpa_start_config {
	/** Whose guest it is; NULL: this process's own. See vdpa_device_admit(). */
	const struct vdpa_peer *peer;
	uint64_t features; /**< negotiated virtio features */
	/** As of vdpa_device_set_memory(); what is in force costs nothing. */
	struct vdpa_iotlb *iotlb;
	const struct vdpa_vq_config *vqs;
	uint16_t nvqs; /**< entries of vqs */
	/** Dirty log from the first buffer on, as of vdpa_device_set_log(); NULL: none. */
	const struct vdpa_dirty_log *log;
	const uint64_t *used_iova; /**< log address of each queue's used ring */
	/** What save_state gave on another host, loaded before DRIVER_OK; NULL: none. */
	const void *state;
	size_t state_len; /**< bytes of it */
};

/**
 * The guest's memory from now on, in any state. Only what differs from the table in force is mapped
 * or unmapped, and a session's end changes nothing of it. NULL: none; a front end says so when its
 * connection ends, once the device is stopped, and nothing of its memory is in the device's reach
 * on return, unless a reset has failed: in a DMA domain it was taken away then, elsewhere it goes
 * with the next reset that succeeds, before which no start does.
 *
 * Rings of a session that runs must be in the table. A queue whose rings are not is stopped first,
 * with a line in the log, and the others go on (vdpa_device_vq_is_lost()); where the device cannot
 * stop one queue it fails.
 *
 * @param tlb  the core takes its own reference.
 * @return 0; -ENODEV once the device is unregistered; -EIO after a reset that failed; -EINVAL for
 * IOVAs out of the device's reach; what mapping says. The table before is in force then. Where
 * memory cannot be unmapped for NULL, the device is FAILED until it can.
 */
int vdpa_device_set_memory(struct vdpa_device *vdev, struct vdpa_iotlb *tlb);

/**
 * From IDLE or FAILED (which is reset first) to RUNNING, through every step in order. A failing
 * step is unwound: the device is reset, nothing of the session but the memory is left, the state is
 * IDLE or FAILED, and the error returned says which step, queue and cause.
 * @return 0; -EBUSY when it is started; -EACCES for a peer that is not admitted
 * (vdpa_device_admit()); -EINVAL for features or rings the device does not have; -EFAULT for rings
 * outside of the memory; -ENODEV once it is unregistered; the op's errno.
 */
int vdpa_device_start(struct vdpa_device *vdev, const struct vdpa_start_config *conf);

/**
 * To IDLE from any state; what stop_vq did not ask for is forgotten. The memory stays mapped for
 * the next start, until vdpa_device_set_memory() takes it away. What the driver's reset returns
 * when that fails: the device is FAILED then, and its memory leaves its reach: at once in a DMA
 * domain, where the IOMMU keeps the device out, elsewhere when it does reset or is freed.
 */
int vdpa_device_stop(struct vdpa_device *vdev);

/** Whether a queue was stopped since its rings left the memory. vdpa_device_stop_vq() says where it
 * stood, and it may be started anew; until then what is said of it has no effect. */
bool vdpa_device_vq_is_lost(struct vdpa_device *vdev, uint16_t idx);

/*
 * The calls below are about a running device. Beside what each names they return -EPROTO when it is
 * not started, those about one queue -EIO when it has FAILED, -ENODEV once it is unregistered and
 * -EINVAL for a queue that there is not, or else the errno of the driver's op.
 */

/**
 * One more virtqueue of a running device. Where the device cannot enable a queue after DRIVER_OK
 * (struct vdpa_capabilities.late_vqs) the core stops and starts it again with all queues,
 * keeping their states; where it neither suspends nor tells them, only as long as no queue has used
 * a buffer. -EOPNOTSUPP afterwards, and the others go on: give such a device all queues at its
 * start. -EBUSY for a queue that is started.
 */
int vdpa_device_start_vq(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_config *conf);

/**
 * Stop one virtqueue and say where it stopped. A device that stops as a whole only is suspended for
 * it and resumed when others still run. One that cannot suspend is reset by the first of these
 * calls, unless it can reset one queue: the other queues stand still then, take what changes
 * without effect, and each call says where another stood. It is asked for that before. What such a
 * device cannot tell the rings do: a split one how far it was used, which is the place only if
 * nothing was in flight; the device can start from the beginning of a ring only, so it does not
 * start from a wrong place. -EPROTO for a queue or device that is not started; -EIO for a device
 * that has failed; else the op's errno. A queue that does not stop fails the device; of one that
 * does not tell its place the queue is gone nevertheless.
 */
int vdpa_device_stop_vq(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state);

/**
 * The next vdpa_device_stop_vq() of a started queue does not wait for its requests: those that were
 * not carried out stay in its inflight area, and a start with that area does each again.
 * -EOPNOTSUPP for a queue without one.
 */
int vdpa_device_hand_over_vq(struct vdpa_device *vdev, uint16_t idx);

/**
 * SET_VRING_ENABLE of a started queue; it keeps its state. A device that can do it neither by
 * set_vq_enable nor while it runs is stopped and started again for it; one that could not go on
 * afterwards leaves the queue as it is.
 */
int vdpa_device_enable_vq(struct vdpa_device *vdev, uint16_t idx, bool enable);
/** Swap the call eventfd of a running queue; the queue does not stop. */
int vdpa_device_set_vq_call(struct vdpa_device *vdev, uint16_t idx, int fd);
/** Swap the kick eventfd; a kick pending in neither is lost: the queue is kicked once. */
int vdpa_device_set_vq_kick(struct vdpa_device *vdev, uint16_t idx, int fd);

/**
 * Dirty log on, or another than before, or off (log NULL); see vdpa_config_ops.log_start. It goes
 * off with the session, however that ends: on return of the call that ends it, and of this one for
 * the log before, all that the device wrote is marked, and the bitmap is no longer used.
 *
 * @param log        *log is copied; its bitmap and fd stay as long as it is on.
 * @param used_iova  log address of each queue's used ring, UINT64_MAX: it is not logged; as many as
 * vdpa_get_vq_count().
 * @return 0, also for off where none is on; -EOPNOTSUPP for a device that has none; -EINVAL for a
 * log that is larger than any guest's memory needs.
 */
int vdpa_device_set_log(struct vdpa_device *vdev, const struct vdpa_dirty_log *log,
			const uint64_t *used_iova);

/** SEND_RARP. -EOPNOTSUPP where the device has no announce. */
int vdpa_device_announce(struct vdpa_device *vdev, const uint8_t mac[6]);
/** Whether it has; the same for its whole life. */
bool vdpa_device_can_announce(const struct vdpa_device *vdev);

/**
 * Kick a queue as its guest does, by its kick eventfd where it has one: a kick may have come by a
 * doorbell that was taken back. No-op where the queue is not started, or kicks carry data. From any
 * thread.
 */
void vdpa_device_kick_vq(struct vdpa_device *vdev, uint16_t idx);

/** The notification area of a queue; see get_vq_notification. -EOPNOTSUPP where there is none; that
 * may change while the queue runs (vdpa_frontend_ops.doorbell_changed). */
int vdpa_get_vq_notification(struct vdpa_device *vdev, uint16_t idx,
			     struct vdpa_notification_area *area);

/**
 * The same for a front end that gives doorbells before the device runs and cannot take them back:
 * -EOPNOTSUPP with a message also where the queue may come to run by rings of ours, which is with
 * any word `migration` but off and log. The same until the device is unregistered. From any thread.
 */
int vdpa_get_fixed_notification(struct vdpa_device *vdev, uint16_t idx,
				struct vdpa_notification_area *area);

/*
 * Doorbell pages that carry the whole device (struct vdpa_notification_area.whole_device). A device
 * whose page was given away serves guests of that user only, until nobody has the page's file:
 * until then the account of who has it is kept, also when the device is deleted and added again.
 */

/** Who is given pages, and served afterwards. */
enum vdpa_doorbells {
	VDPA_DOORBELLS_UID,  /**< the default: front ends of the first one's uid */
	VDPA_DOORBELLS_ONCE, /**< the first process alone, however often it connects */
	VDPA_DOORBELLS_NONE, /**< nobody is given one */
};

/** By a front end's probe, before anybody connects. */
void vdpa_device_set_doorbells(struct vdpa_device *vdev, enum vdpa_doorbells rule);

/** How a device is made to say what it writes, while a migration asks for that, and to begin
 * elsewhere than at the beginning of a ring. */
enum vdpa_migration {
	/** The default: rings are the device's own; it logs where it can, else its queues change to
	 * relays or shadows for as long as a log is wanted, to shadows where they begin elsewhere.
	 */
	VDPA_MIGRATION_AUTO,
	VDPA_MIGRATION_SHADOW, /**< every queue runs on a shadow, always */
	VDPA_MIGRATION_RELAY,  /**< the used buffers of every queue are relayed, always */
	VDPA_MIGRATION_LOG,    /**< the device's log or none: never a shadow */
	VDPA_MIGRATION_OFF,    /**< no log is offered, and no shadow used */
};

/** By whoever makes the device, before its front end serves. */
void vdpa_device_set_migration(struct vdpa_device *vdev, enum vdpa_migration mode);

/** Whether it can be known what the device writes, by its own log or by its queues' paths: a front
 * end offers a dirty log where it can. */
bool vdpa_device_can_migrate(const struct vdpa_device *vdev);

/** Whether the device keeps an inflight area up to date by itself. Where its used buffers are
 * relayed it cannot: what it has used the guest may not have seen. */
bool vdpa_device_tracks_inflight(const struct vdpa_device *vdev);

/** How a device goes on in another process once this one was killed. */
enum vdpa_survival {
	VDPA_SURVIVAL_NONE, /**< not at all: it starts anew */
	/** It ends with the process, which keeps account of what is under way in the inflight area
	 * of each queue: its own account, or that of a shadow. The next process opens it as ever,
	 * begins at the guest's used index, and executes what was under way again. */
	VDPA_SURVIVAL_ACCOUNTS,
	/** It executes its rings while no process lives, and the next one finds it so. */
	VDPA_SURVIVAL_ALONE,
};

/** By its driver's ops and the word `migration`. The driver may refuse it for a reason of its own
 * (vdpa_device_can_restart()). */
enum vdpa_survival vdpa_device_survival(const struct vdpa_device *vdev);
/** Whether another process can go on with the device where this one was killed
 * (vdpa_device_survival(), vdpa_config_ops.can_restart). 0; -EOPNOTSUPP or another negative errno,
 * with a message. */
int vdpa_device_can_restart(struct vdpa_device *vdev);
/** Whether another process can go on with the device where this one has stopped it, and said where
 * its queues stand. 0; -EOPNOTSUPP with a message. */
int vdpa_device_can_move(struct vdpa_device *vdev);
/** Why another process cannot start a queue that was stopped at this place, static; NULL: it can.
 * Nobody knows what was under way, requests were left undone behind others that were done, or the
 * device begins at the beginning of its rings only and may have no shadow. packed: its ring. */
const char *vdpa_device_find_vq_tie(struct vdpa_device *vdev, uint16_t idx, bool packed,
				    const struct vdpa_vq_state *state);
/** Whether it is VDPA_SURVIVAL_ALONE: its rings need no inflight areas. */
bool vdpa_device_runs_alone(const struct vdpa_device *vdev);
/** Whether a stop of its queues puts what is under way back into the guest's ring by itself, so
 * that nobody waits for that before (vdpa_vq_inflight.own). */
bool vdpa_device_puts_back(const struct vdpa_device *vdev);
/**
 * Who keeps the state of the device's driver for another process: keep() gets what
 * vdpa_device_state_changed() was called with, and what a start has loaded, from any thread, one
 * call at a time; it must neither wait nor call the core. state NULL: the device was stopped by
 * vdpa_device_stop(), and has none. Embedded in the keeper's own struct.
 */
struct vdpa_state_keeper {
	void (*keep)(struct vdpa_state_keeper *keeper, const void *state, size_t len);
};
/** One, in the place of the one before; NULL: none, and on return none is called. From any thread.
 */
void vdpa_device_set_state_keeper(struct vdpa_device *vdev, struct vdpa_state_keeper *keeper);
/** Whether a former process has left it running, and the next start finds it so: that one is to say
 * what was said before. */
bool vdpa_device_is_left(struct vdpa_device *vdev);
/** Nobody goes on with what a former process has left: it is reset. No-op for another. */
void vdpa_device_drop_left(struct vdpa_device *vdev);
/** What of a device that runs alone ends with the process as it is now, static: a queue that is not
 * on the direct path, or a dirty log. NULL: nothing, or it does not run alone; nor does one whose
 * queues are all on shadows that fill the front end's inflight area: what a former process has left
 * of it is reset (vdpa_device_drop_left()), and it goes on by that area. It changes by itself
 * with the paths of queues (vdpa_frontend_ops.doorbell_changed). */
const char *vdpa_device_find_tie(struct vdpa_device *vdev);
/** The process ends, and leaves a device that runs alone to the next one: it is not stopped by what
 * follows. 0, also for another; a negative errno, with a message, where it cannot be left: it was
 * reset, and nothing of it goes on. */
int vdpa_device_leave(struct vdpa_device *vdev);

/**
 * The path of a queue now, a static word: "direct", "relay", "shadow".
 * @param stats  receives up to *n statistics of the path; *n becomes how many there are.
 * From any thread; without the device's lock.
 */
const char *vdpa_device_vq_path(struct vdpa_device *vdev, uint16_t idx, struct vdpa_stat *stats,
				unsigned int *n);

/**
 * Whether the device may serve a guest of this process; vdpa_device_start() asks too. From any
 * thread; it waits for nothing.
 * @param peer  NULL: this process's own guest; an unknown peer is admitted while nobody has a page.
 * @return 0; -EACCES with a message that says who has a page, and what mends it.
 */
int vdpa_device_admit(struct vdpa_device *vdev, const struct vdpa_peer *peer);

/**
 * Before a page is sent: whether it may be, and note who gets it. A page that does not carry the
 * whole device may always be sent, and is not noted. From any thread; it waits for nothing.
 * @param peer  whose guest the device serves.
 * @param to    at the other end of the socket by which the page would go.
 * @return 0: send it; -EACCES with a message: keep it, by VDPA_DOORBELLS_NONE, or for a peer that
 * is not admitted, that is not known well enough to be recognised, or that is not `to`; -EOPNOTSUPP
 * for a device without a DMA domain, for which no account is kept.
 */
int vdpa_device_give_page(struct vdpa_device *vdev, const struct vdpa_notification_area *area,
			  const struct vdpa_peer *peer, const struct vdpa_peer *to);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_FRONTEND_H */
