/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A consumer inside. consumer.c decides about the device, consumer_vq.c keeps what was said of a
 * ring, consumer_function.c has what differs for a function, consumer_state.c saves and loads what
 * moves to another host. Everything is under the consumer's lock, but for the error eventfds, which
 * have one of their own: a device that fails is reported while another call may wait for it.
 */

#ifndef CONSUMER_PRIV_H
#define CONSUMER_PRIV_H

#include "device_priv.h"
#include "vdpa_consumer.h"
#include "vdpa_timer.h"
#include "virtio_compat.h"

/* clang-format off */
/*
 * A ring, from the first word about it on.
 *
 *   ABSENT ----> ANNOUNCED ----> SET_UP ----> STARTED <----> PARKED
 *                  ^  ^            |  |         |              ^ |
 *                  |  |            |  +---------|--------------+ |
 *                  |  |            +-> REFUSED <+                |
 *                  |  |                   |     |                |
 *                  |  +-------------------+     |                |
 *                  +----------------------------+----------------+
 *
 *   ABSENT to ANNOUNCED     any fact about it
 *   ANNOUNCED to SET_UP     it has a size, addresses and a kick descriptor, or the word for none
 *   SET_UP to STARTED       the device has it; as long as the front end may believe it running, be
 *                           the device failed or not
 *   SET_UP to REFUSED       the device runs and does not take it
 *   STARTED to REFUSED      its rings have left the memory, and the others go on
 *   to PARKED               of a function: its rings are not in the memory, or all queues are held
 *   PARKED to STARTED       they are in the memory, and no queue is held
 *   back to ANNOUNCED       GET_VRING_BASE, a stop, reset
 */
/* clang-format on */
enum consumer_vq_state {
	CONSUMER_VQ_ABSENT,
	CONSUMER_VQ_ANNOUNCED,
	CONSUMER_VQ_SET_UP,
	CONSUMER_VQ_STARTED,
	CONSUMER_VQ_REFUSED,
	CONSUMER_VQ_PARKED,
};

/* The protocol's feature bit; linux/vhost.h has the ioctls' only. */
#ifndef VHOST_USER_F_PROTOCOL_FEATURES
#define VHOST_USER_F_PROTOCOL_FEATURES 30
#endif

/* What stands where the front end has not set a fact. */
#define CONSUMER_NOT_SET    UINT64_MAX
#define CONSUMER_FD_NOT_SET (-2)

struct consumer_vq {
	enum consumer_vq_state state;
	bool enabled;
	uint32_t num;			   /* 0: not set */
	struct vdpa_consumer_vq_addr user; /* desc: or not set */
	uint64_t base;			   /* as SET_VRING_BASE has it, or not set */
	uint32_t place_num;		   /* size of the ring that base is a place of */
	bool placed;			   /* of a function: it starts at place, not at base */
	struct vdpa_vq_state place;
	int kick_fd; /* -1: there is none, the driver expects us to poll; or not set */
	int call_fd;
	int err_fd;		       /* err_lock */
	uint64_t desc, driver, device; /* IOVAs of the addresses */
};

/* clang-format off */
/*
 * The device.
 *
 *   STOPPED ----> SETTLING ----> RUNNING ----> FAILED
 *    ^ ^ |                        ^  |           |
 *    | | +------------------------+  |           |
 *    | +-----------------------------+           |
 *    +-------------------------------------------+
 *
 *   STOPPED to SETTLING     a queue is ready, and others that were announced are not
 *   SETTLING to RUNNING     all are, or none has become ready for VDPA_CONSUMER_SETTLE_MS
 *   STOPPED to RUNNING      it may start at once, by the rule in vdpa_consumer.h
 *   to FAILED               the start fails, or the device does while it runs
 *   back to STOPPED         GET_VRING_BASE of the last queue, reset
 */
/* clang-format on */
enum consumer_state {
	CONSUMER_STOPPED,
	CONSUMER_SETTLING,
	CONSUMER_RUNNING,
	CONSUMER_FAILED,
};

struct vdpa_consumer {
	struct vdpa_device *vdev;
	struct vdpa_vm_member *vm; /* NULL: the device names none */
	const struct vdpa_capabilities *can;
	const struct vdpa_consumer_ops *ops;
	void *arg;

	bool function; /* it is one of vdpa_consumer_new_function() */
	bool held;     /* no queue of it moves */

	pthread_mutex_t lock;
	struct vdpa_peer peer;
	enum consumer_state state;
	uint64_t features; /* SET_FEATURES, or not set */
	bool reports_status;
	uint8_t status;
	struct vdpa_iotlb *iotlb; /* NULL: not set */
	bool in_force;		  /* the device has it; false: not yet, or it could not be mapped */
	uint32_t max_regions;	  /* that one by one are added to it */
	bool gave_memory;	  /* the device may have some of this connection's */
	const struct vdpa_dirty_log *log;
	bool logs_rings; /* of a function: their addresses in the log are their own */
	bool logging;
	uint8_t *inflight;
	size_t inflight_stride;
	uint16_t inflight_vqs;
	bool inflight_own; /* the front end does not know of it */

	bool arrived;	/* a state was loaded, and the device has not been started since */
	bool announces; /* the start is to be announced, by */
	uint8_t announced_mac[6];

	bool keeps_state; /* the front end may want it: what the driver keeps is taken at a stop */
	uint8_t *driver_state; /* of the last stop, until the next start; NULL: none */
	size_t driver_state_len;
	int64_t driver_state_us;  /* that it took to take it */
	bool driver_state_taken;  /* since the start */
	bool driver_state_loaded; /* it came from elsewhere: the start is to load it */
	bool driver_state_kept;	  /* it is a former process', and others have it, too */
	bool driver_state_lost;	  /* it could not be taken; driver_state_error says why */
	bool driver_state_failed; /* since the device has: there is none to keep */
	struct vdpa_error_saved driver_state_error;

	unsigned int nready;	  /* queues, at the last look before the start */
	int64_t ready_us;	  /* when one became ready last */
	struct vdpa_timer settle; /* has that been long ago? */
	struct vdpa_work settled; /* then, on the device's work queue */

	pthread_mutex_t err_lock; /* innermost */
	uint16_t nvqs;
	struct consumer_vq vqs[];
};

static inline pthread_mutex_t *
consumer_lock(struct vdpa_consumer *c)
{
	pthread_mutex_lock(&c->lock);
	return &c->lock;
}

static inline void
consumer_unlock(pthread_mutex_t **lock)
{
	pthread_mutex_unlock(*lock);
}

/* Hold the consumer's lock to the end of the block. */
#define CONSUMER_LOCKED(c)                                                                         \
	pthread_mutex_t *locked_ __attribute__((cleanup(consumer_unlock), unused)) =               \
		consumer_lock(c)

static inline bool
consumer_has(const struct vdpa_consumer *c, unsigned int bit)
{
	return c->features != CONSUMER_NOT_SET && (c->features & RTE_BIT64(bit)) != 0;
}

static inline bool
consumer_is_packed(const struct vdpa_consumer *c)
{
	return consumer_has(c, VIRTIO_F_RING_PACKED);
}

/* consumer.c: of the front end's features those that the device itself is to know. */
uint64_t consumer_device_features(const struct vdpa_consumer *c, uint64_t features);
/* Stop the device if it runs or has failed. */
void consumer_stop(struct vdpa_consumer *c);
/* -EINVAL for a log (NULL: none) that has no bit for a page of tlb: it would be missed at the other
 * end. */
int consumer_check_log(const struct vdpa_consumer *c, const struct vdpa_dirty_log *log,
		       const struct vdpa_iotlb *tlb);
/* The dirty log as features and rings want it now. */
int consumer_update_log(struct vdpa_consumer *c);
/* Whether the device runs, after a look whether it has failed meanwhile. */
bool consumer_runs(struct vdpa_consumer *c);
/* -EIO, with the cause as message: it has failed, or has reported so, which the core acts on later.
 * A look of consumer_runs() alone does not see that, and one right behind it may. */
int consumer_check_alive(struct vdpa_consumer *c);
/* To FAILED; the core stops it, perhaps later. */
void consumer_set_failed(struct vdpa_consumer *c);

/* consumer.c, under the lock. Start what has become ready. */
void consumer_advance(struct vdpa_consumer *c);
/* Stop the device and forget the rings; keep_bases: but for where they stopped. */
void consumer_reset(struct vdpa_consumer *c, bool keep_bases);

/* consumer_function.c, under the lock. Queues that stood still go on where they may. */
void consumer_resume_parked(struct vdpa_consumer *c);

/* consumer_state.c, under the lock. The device runs and stops next: take what its driver keeps. */
void consumer_take_driver_state(struct vdpa_consumer *c);
void consumer_forget_driver_state(struct vdpa_consumer *c);
/* It cannot be taken any more, since the device has failed. */
void consumer_lose_driver_state(struct vdpa_consumer *c);
/* The device has started: announce a guest that has come. */
void consumer_announce_arrival(struct vdpa_consumer *c);
/* Whether the stop of any queue stops the device, by a reset. */
bool consumer_stops_as_a_whole(const struct vdpa_consumer *c);

/* consumer_vq.c, under the lock. */
void consumer_vq_init(struct consumer_vq *vq);
void consumer_vq_close(struct vdpa_consumer *c, uint16_t idx);
/* Forget what was said, but for call and error eventfds: QEMU sets them once, before a reset. */
void consumer_vq_forget(struct vdpa_consumer *c, uint16_t idx, bool keep_base);
/* A fact has changed: ANNOUNCED, SET_UP. */
void consumer_vq_update(struct vdpa_consumer *c, uint16_t idx);
bool consumer_vq_is_ready(const struct vdpa_consumer *c, const struct consumer_vq *vq);
/* The IOVAs of its addresses in tlb. -EFAULT where a part does not lie in one region. */
int consumer_vq_translate(const struct vdpa_consumer *c, const struct vdpa_iotlb *tlb,
			  struct consumer_vq *vq);
/* What the device is to know of it. */
int consumer_vq_config(struct vdpa_consumer *c, uint16_t idx, struct vdpa_vq_config *conf);
/* Keep where it stands; of a function: as the device says it. */
void consumer_vq_keep_place(struct vdpa_consumer *c, uint16_t idx,
			    const struct vdpa_vq_state *state);
/* Its base, of a ring of that format, is where it starts as it is: both halves were saved. */
void consumer_vq_load_place(struct vdpa_consumer *c, uint16_t idx, bool packed);
/* Where it starts. */
struct vdpa_vq_state consumer_vq_place(const struct vdpa_consumer *c, const struct consumer_vq *vq);
/* vdpa_consumer_get_vq_facts(). */
void consumer_vq_facts(const struct vdpa_consumer *c, uint16_t idx,
		       struct vdpa_consumer_vq_facts *facts);
/* Take it from the device, keep where it stands. What was said of it stays. A negative errno, with
 * a message: it was not the device that said where. */
int consumer_vq_halt(struct vdpa_consumer *c, uint16_t idx);
/* The same, and it wants a kick descriptor again. */
void consumer_vq_stop(struct vdpa_consumer *c, uint16_t idx);
/* The device has stopped it by itself: keep where it stood. */
void consumer_vq_stop_lost(struct vdpa_consumer *c, uint16_t idx);
void consumer_vq_signal_error(struct vdpa_consumer *c, uint16_t idx);
/* A queue with an inflight area has started, or has another call eventfd: signal it, since a device
 * that was killed may have used buffers without a word. One signal too many does no harm. */
void consumer_vq_signal_tracked(struct vdpa_consumer *c, uint16_t idx);

#endif /* CONSUMER_PRIV_H */
