/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file sim.h
 * The simulator core and its device classes.
 *
 * The core (sim_ops.c, sim_run.c, sim_device.c) is a complete struct vdpa_config_ops for a device
 * whose virtqueues are executed in software: features, status, configuration space, memory, kicks,
 * calls, suspend and resume, dirty log, inflight areas, statistics. A class is a struct sim_class:
 * what the device is (net, block) and one function that executes a virtqueue.
 *
 * Threads. A device belongs to one worker (worker.c), an event loop that may serve many devices,
 * unless its class spreads its virtqueues over several ("lanes"): then what is said here of the
 * worker holds for each lane and its virtqueues, and all lanes stand still for whatever else runs
 * on the worker: sim_call(), start, stop, reset, vq_start, vq_stop, set_config. On
 * it run: process, poll, arm, kicked, vq_start, vq_stop, start, stop, reset, set_config, and
 * handlers of events and tasks that the class adds to sim_loop(dev). They may touch every running
 * virtqueue of their device, and of other devices of the same worker, without a lock, and must
 * neither block nor take a device's lock. The other hooks, and the config ops, run on the caller's
 * thread with the device's lock held. The worker knows nothing of a virtqueue that does not run:
 * until DRIVER_OK the core sets all of them up on the caller's thread. A start is one call to the
 * worker, and so is a stop when no request is under way.
 *
 * A virtqueue runs while it is ready and enabled, the status has DRIVER_OK, the device is not
 * suspended and no error has stopped it. process() is called for running virtqueues, and for
 * stopped ones that requests are under way of.
 *
 * Turns. Devices of a worker take turns, bounded in bytes and time (sim_turn.h): what process() and
 * poll() move is charged to the lane's turn, and what is larger than the turn goes on in the next
 * one.
 */

#ifndef SIM_H
#define SIM_H

#include <inttypes.h>

#include <rte_branch_prediction.h>
#include <rte_common.h>
#include <rte_spinlock.h>

#include "counter.h"
#include "sim_turn.h"
#include "vdpa_driver.h"
#include "vdpa_event.h"
#include "vdpa_log.h"
#include "vdpa_stats.h"
#include "vdpa_worker.h"

/** Largest configuration space of a class, bytes. */
#define SIM_CONFIG_MAX	     256
/** Chains that process() may take from one virtqueue before others get their turn. */
#define SIM_BUDGET	     64
/** Bytes of a class' own state, at most. */
#define SIM_STATE_MAX	     4096
/** Sizes a virtqueue may have; the word queue_size changes the upper one. */
#define SIM_VQ_NUM_DFLT	     1024
#define SIM_VQ_NUM_MAX	     32768
/** Longest wait for the requests of a class that are under way when a virtqueue must stand still.
 */
#define SIM_DRAIN_TIMEOUT_MS 10000

/* Feature bits of the ring and transport (virtio 1.2, 6). */
#define SIM_F_INDIRECT_DESC	28
#define SIM_F_EVENT_IDX		29
#define SIM_F_VERSION_1		32
#define SIM_F_RING_PACKED	34
#define SIM_F_IN_ORDER		35
#define SIM_F_NOTIFICATION_DATA 38
#define SIM_F_RING_RESET	40
#define SIM_BIT(n)		(UINT64_C(1) << (n))

/** What the core implements for every class. A class that completes out of order drops IN_ORDER. */
#define SIM_RING_FEATURES                                                                          \
	(SIM_BIT(SIM_F_INDIRECT_DESC) | SIM_BIT(SIM_F_EVENT_IDX) | SIM_BIT(SIM_F_VERSION_1) |      \
	 SIM_BIT(SIM_F_RING_PACKED) | SIM_BIT(SIM_F_IN_ORDER) | SIM_BIT(SIM_F_NOTIFICATION_DATA) | \
	 SIM_BIT(SIM_F_RING_RESET))

/** Workers that one device's virtqueues may be spread over. */
#define SIM_LANES_MAX 16

struct sim_device;

/** How a device may be broken on purpose, for tests of what drives it (sim_fault.c). */
enum sim_fault {
	SIM_FAULT_NONE,
	SIM_FAULT_PLACE_FORGOTTEN,
	SIM_FAULT_PLACE_WRONG,
	SIM_FAULT_LOG_MISSES_BUFFERS,
	SIM_FAULT_LOG_MISSES_RINGS,
	SIM_FAULT_LOG_BEYOND,
	SIM_FAULT_LOG_NOT_REPLACED,
	SIM_FAULT_LOG_GOES_ON,
	SIM_FAULT_CTRL_OK_ALWAYS,
	SIM_FAULT_COUNT,
};
/** From SIM_FAULT_NONE + 1 on. */
extern const struct vdpa_param_choice sim_fault_choices[];

/** The virtqueues of a device that one worker executes; all of it is that worker's. */
struct sim_lane {
	struct sim_device *dev;
	struct vdpa_worker *worker;
	struct vdpa_poller poller;  /**< in the loop while the device is started */
	struct vdpa_task kick_task; /**< a kick that came by the op, or a wait for requests */
	struct sim_turn turn;
	uint16_t *list;	      /**< indexes of the virtqueues to process */
	uint16_t nlisted;     /**< entries of list */
	uint16_t next;	      /**< entry that the next turn begins with */
	bool armed;	      /**< kicks were asked for */
	uint64_t busy_cycles; /**< TSC cycles of rounds that found work */
} __rte_cache_aligned;

/** One virtqueue. */
struct sim_queue {
	/* The worker's, read for every burst. */
	struct vdpa_virtqueue *vq;
	struct sim_device *dev;
	struct sim_lane *lane; /**< fixed from the features to the next reset */
	void *priv;	       /**< the class's */
	uint16_t idx;
	bool running; /**< process() may take chains; see above */
	bool listed;  /**< in the device's list: running, or requests are under way */
	bool ready;
	bool enabled;
	bool own_kicks; /**< the class's: it asks for kicks itself, the core leaves them alone */
	bool failed;	/**< stopped by an error until the device is reset */

	/* Set up by the config ops, taken over when the queue becomes ready. */
	uint32_t num;
	uint64_t desc, driver, device;
	struct vdpa_vq_state state;
	struct vdpa_vq_inflight inflight;
	int call_fd;
	uint64_t log_used_iova;
	struct vdpa_event kick;

	uint64_t kicks;	   /**< kicks received by eventfd */
	uint64_t sw_kicks; /**< by the op; atomic */
} __rte_cache_aligned;

/** A simulated device; a class's own data hangs off priv. */
struct sim_device {
	struct vdpa_device vdev;
	const struct sim_class *class;
	void *priv;
	uint16_t nvqs;
	uint16_t vq_num_max;
	unsigned int drain_timeout_ms; /**< SIM_DRAIN_TIMEOUT_MS; a test has less patience */
	uint64_t device_features;
	uint64_t features; /**< negotiated */
	uint8_t status;
	bool live;   /**< from DRIVER_OK to the reset: the worker knows the device */
	bool loaded; /**< a state was loaded since the reset */
	bool suspended;
	bool started; /**< class->start was called, worker's */
	struct vdpa_iotlb *tlb;
	const struct vdpa_dirty_log *log; /**< NULL: none */
	enum sim_fault fault;
	struct vdpa_dirty_log cut_log; /**< a broken device's view of it */
	struct sim_queue *vqs;	       /**< nvqs of them */

	struct sim_lane *lanes; /**< n_lanes, by ascending worker */
	uint16_t n_lanes;
	bool paused; /**< worker's: queues stand still for a change of memory */
	bool set_up; /**< class->setup succeeded */

	rte_spinlock_t config_lock; /**< of the three below, held for a copy only */
	uint32_t generation;
	int config_fd;
	uint8_t config[SIM_CONFIG_MAX]; /**< as the driver reads it, little endian */
};

/** A class of simulated devices. */
struct sim_class {
	const char *name; /**< of its management device: "sim_net" */
	const char *help;
	uint32_t device_id;
	size_t config_size;
	uint64_t supported_features; /**< all it could ever offer, for mgmtdev show */
	uint16_t max_vqs;
	const struct vdpa_param *params; /**< words of dev add: SIM_PARAMS and its own */
	const struct vdpa_param *attr_params;

	/**
	 * Read the words: allocate dev->priv, set dev->nvqs, dev->device_features and dev->config.
	 * May set *worker (vdpa_worker_get()) to share another device's, or dev->n_lanes for as
	 * many workers. Virtqueues do not exist yet. vdpa_error() on failure, with nothing left.
	 * Words of SIM_PARAMS are the core's.
	 */
	int (*init)(struct sim_device *dev, const struct vdpa_args *args,
		    struct vdpa_worker **worker);
	/** Optional: the lane of a virtqueue, by its index and the features. NULL: the first. */
	uint16_t (*lane)(const struct sim_queue *q);
	/** Optional: virtqueues and worker exist, the device is not yet on the bus. */
	int (*setup)(struct sim_device *dev);
	/**
	 * Optional: undo setup(), off the bus, nothing runs. The worker still exists. Requests
	 * that outstanding() still counts never ended: their memory must be left alone, as the core
	 * leaves the guest's.
	 */
	void (*teardown)(struct sim_device *dev);
	/** Undo init(). */
	void (*fini)(struct sim_device *dev);
	/** Optional: attribute words of dev set. With the device's lock; vdpa_error() on failure.
	 */
	int (*set_attr)(struct sim_device *dev, const struct vdpa_args *args);
	/** Optional: -EINVAL with vdpa_error() for a set of features it cannot run. */
	int (*check_features)(struct sim_device *dev, uint64_t features);

	/**
	 * Execute a virtqueue: take at most `budget` chains, return how many units of work were
	 * done; 0 lets the worker go to sleep. Ends early when the device's turn is over. An error
	 * of the queue: sim_queue_fail(). With a budget of 0 the queue has stopped and
	 * outstanding() was not 0: go on with its requests.
	 */
	unsigned int (*process)(struct sim_queue *q, unsigned int budget);
	/** Optional: work of the device that is not a virtqueue's (a port's input). As process().
	 */
	unsigned int (*poll)(struct sim_device *dev, unsigned int budget);
	/**
	 * Optional: before the worker sleeps, ask for a wake-up on this running queue. True: there
	 * is work now. NULL: vdpa_vq_enable_kicks(). After it returned false for all, kicks lead to
	 * kicked().
	 */
	bool (*arm)(struct sim_queue *q);
	/** Optional: the same for poll(). */
	bool (*arm_device)(struct sim_device *dev);
	/** Optional: a kick came for this queue, its device is being woken: who else waits for it?
	 */
	void (*kicked)(struct sim_queue *q);

	/** Optional: a virtqueue begins or ceases to run. vq_stop() takes no new chains from now
	 * on; a second time for one that was disabled, where its requests are to be handed over. */
	void (*vq_start)(struct sim_queue *q);
	void (*vq_stop)(struct sim_queue *q);
	/**
	 * Optional, for classes that complete later, any thread: chains popped and not yet pushed.
	 * After vq_stop() the core waits, bounded, off the worker until it is 0, before it takes
	 * state or memory away. The class pushes, flushes and notifies completions of a stopped
	 * virtqueue as usual; when the wait was in vain these calls have no effect any more, but
	 * guest memory is still there.
	 */
	unsigned int (*outstanding)(struct sim_queue *q);
	/** Optional: DRIVER_OK was set (or the device resumed); it ends (reset, suspend). */
	void (*start)(struct sim_device *dev);
	void (*stop)(struct sim_device *dev);
	/** Optional: back to the state after init: what the driver changed since DRIVER_OK is
	 * forgotten. */
	void (*reset)(struct sim_device *dev);

	/** Optional: a write to configuration space; bounds are checked. NULL: read-only. */
	int (*set_config)(struct sim_device *dev, size_t offset, const void *buf, size_t len);
	/** Optional, any thread: up to n statistics; return how many there are. Of a virtqueue what
	 * vdpa_stats.h has, but for descriptors, kicks and interrupts, and the class's own. */
	int (*vq_stats)(struct sim_queue *q, struct vdpa_stat *stats, unsigned int n);
	int (*stats)(struct sim_device *dev, struct vdpa_stat *stats, unsigned int n);
	/** Optional: vdpa_config_ops.announce, on the worker. */
	int (*announce)(struct sim_device *dev, const uint8_t mac[6]);
	/** Optional, on the worker: vdpa_config_ops.save_state, with room bytes at buf; how many
	 * there are, SIM_STATE_MAX at most, or -ENOSPC. */
	int (*save_state)(struct sim_device *dev, void *buf, size_t room);
	/** With it: vdpa_config_ops.load_state, before start(). reset() forgets it. */
	int (*load_state)(struct sim_device *dev, const void *buf, size_t len);
	/** vdpa_config_ops.can_restart. Of a class with save_state, whenever it has changed the
	 * state it calls sim_state_changed(). */
	int (*can_restart)(struct sim_device *dev);
	/** Optional: vdpa_config_ops.get_tie. */
	const char *(*get_tie)(struct sim_device *dev);
};

/** Words that every class has: put these rows in front of its own. The core reads them. */
#define SIM_PARAMS                                                                                 \
	{.name = "queue_size",                                                                     \
	 .type = VDPA_PARAM_UINT,                                                                  \
	 .metavar = "N",                                                                           \
	 .min = 8,                                                                                 \
	 .max = SIM_VQ_NUM_MAX,                                                                    \
	 .help = "largest virtqueue size, a power of two (default 1024)"},                         \
		{.name = "broken",                                                                 \
		 .type = VDPA_PARAM_CHOICE,                                                        \
		 .choices = sim_fault_choices,                                                     \
		 .help = "break it on purpose, for tests of what drives it"},                      \
		{.name = "no_log",                                                                 \
		 .type = VDPA_PARAM_FLAG,                                                          \
		 .help = "without a dirty log of its own, as most hardware"},                      \
	{                                                                                          \
		.name = "device_features", .type = VDPA_PARAM_UINT, .metavar = "MASK",             \
		.max = UINT64_MAX, .help = "offer only these virtio features (default all)"        \
	}

/** The device of a vdpa_device that a class of the simulator made. */
static inline struct sim_device *
sim_dev(struct vdpa_device *vdev)
{
	return RTE_PTR_SUB(vdev, offsetof(struct sim_device, vdev));
}

static inline bool
sim_has_fault(const struct sim_device *dev, enum sim_fault fault)
{
	return dev->fault == fault;
}

/* Calls for classes. */

/** The loop of the first lane, to add events and tasks to. */
struct vdpa_event_loop *sim_loop(const struct sim_device *dev);

/** Look for work soon: process() of each running virtqueue, poll(). On the worker, all lanes
 * standing still where there are several. */
void sim_wake(struct sim_device *dev);

/** Run fn(arg) on the worker, while other lanes stand still, and wait; see vdpa_event_loop_call().
 */
int sim_call(struct sim_device *dev, int (*fn)(void *arg), void *arg);

/**
 * An error of the virtqueue (vdpa_vq_pop() and the like): stop it now, report the device as failed
 * with vdpa_vq_error() as the cause. On the worker.
 */
void sim_queue_fail(struct sim_queue *q, int err);

/** Change configuration space and its generation; interrupt the driver when notify. Any thread. */
void sim_config_write(struct sim_device *dev, size_t offset, const void *buf, size_t len,
		      bool notify);

/** Append a statistic if there is room: `i = sim_stat(stats, n, i, "kicks", v)`. */
static inline int
sim_stat(struct vdpa_stat *stats, unsigned int n, int i, const char *name, const uint64_t *value)
{
	if ((unsigned int)i < n)
		stats[i] = (struct vdpa_stat){name, __atomic_load_n(value, __ATOMIC_RELAXED)};
	return i + 1;
}

/** A counter that one thread adds to and any thread reads. */
static inline void
sim_count(uint64_t *counter, uint64_t n)
{
	vdpa_counter_add(counter, n);
}

/** On the worker, of a class with save_state: its state is another now. Before a command that has
 * changed it is used. */
void sim_state_changed(struct sim_device *dev);

/* Management (sim_driver.c). */

/** A device of the simulator by name while it exists; NULL otherwise. A reference for the caller.
 */
struct sim_device *sim_find(const struct sim_class *class, const char *name);

/** Make a device of a class from its words, not registered. */
int sim_device_create(const struct sim_class *class, struct vdpa_mgmt_dev *mdev, const char *name,
		      const struct vdpa_args *args, struct sim_device **out);

/** The classes, one file or folder each. */
extern const struct sim_class sim_net_class;
extern const struct sim_class sim_blk_class;

#endif /* SIM_H */
