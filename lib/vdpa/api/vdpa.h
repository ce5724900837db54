/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa.h
 * uvdpa for applications: initialise the library, create vDPA devices, look at them, remove them.
 *
 * A device is created by a management device (`sim_net`, `sim_blk`, ...) from the words of one
 * grammar, iproute2's `vdpa dev add` with a few of our own; see vdpa_dev_add(). It is consumed by a
 * front end, usually a vhost-user socket that QEMU or virtio-user connects to.
 *
 * Errors: a function that can fail returns 0 or a positive count on success and a negative errno on
 * failure; vdpa_error_message() then returns one readable line about it for the calling thread.
 *
 * Threads: every function here may be called from any thread that is not an EAL data-path lcore
 * loop of yours with a deadline: they take locks and may block for a bounded time. None may be
 * called from inside a uvdpa callback except where its comment says so.
 */

#ifndef VDPA_H
#define VDPA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vdpa_error.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Longest device or front-end name, with its NUL. */
#define VDPA_NAME_MAX	      64
/** Longest name of a management device, with its NUL: `vfio-user/` and the path of a socket. */
#define VDPA_MGMTDEV_NAME_MAX 118
/** Largest number of virtqueues of one device. */
#define VDPA_VQ_MAX	      256

struct vdpa_device;

/** How vdpa_init() sets the library up. Zero-initialise it; a zero field is the default. */
struct vdpa_init_params {
	/** lcores that run simulated devices by polling, never sleeping; none: event-driven. */
	const unsigned int *poll_lcores;
	unsigned int n_poll_lcores;
	/**
	 * Adaptive polling of the event-driven worker, in microseconds: how long, at most, it goes
	 * on looking for work after the last it found, before it sleeps. It learns how long that
	 * finds the next work, and does not look at all where that comes later. 0: the default
	 * (VDPA_POLL_US_DEFAULT); VDPA_POLL_US_NONE: sleep at once.
	 */
	unsigned int poll_us;
	/**
	 * Leave SIGBUS alone. By default uvdpa handles it, so that a front end that truncates its
	 * memory file under us costs its own device and not the process; faults elsewhere go to the
	 * handler that was there before.
	 */
	bool no_sigbus_handler;
};

#define VDPA_POLL_US_DEFAULT 50u
#define VDPA_POLL_US_NONE    UINT32_MAX

/**
 * Initialise uvdpa, after rte_eal_init(): event loop, built-in drivers and front ends.
 *
 * @param params  NULL for the defaults.
 * @return 0; -EALREADY when initialised; -EINVAL on a bad parameter; -ENOMEM or what a thread or
 *         eventfd could not be had for.
 */
int vdpa_init(const struct vdpa_init_params *params);

/** Remove every device, stop every thread. Before rte_eal_cleanup(). No-op when not initialised. */
void vdpa_cleanup(void);

/** One state of a device; what each allows is in doc/design.md. */
enum vdpa_device_state {
	VDPA_STATE_ALLOCATED = 0, /**< allocated, not yet registered */
	VDPA_STATE_IDLE,	  /**< registered, status 0 */
	VDPA_STATE_CONFIGURING,	  /**< ACKNOWLEDGE up to FEATURES_OK */
	VDPA_STATE_RUNNING,	  /**< DRIVER_OK */
	VDPA_STATE_SUSPENDED,	  /**< DRIVER_OK, virtqueues stopped with their state kept */
	VDPA_STATE_FAILED,	  /**< stopped by an error, until reset */
	VDPA_STATE_REMOVED,	  /**< unregistered, waiting for its last reference */
};

/** The state's name in lower case, "unknown" for another value. */
const char *vdpa_device_state_name(enum vdpa_device_state state);

/**
 * Create a device from words: `name NAME mgmtdev MGMTDEV [WORD [VALUE ...]] ...`. Words of every
 * management device: `name`, `mgmtdev`, `frontend`; the others are the management device's and the
 * front end's own, listed by vdpa_words_help().
 *
 * @param words  the words, separated by blanks; "double quotes" keep blanks together.
 * @return 0; -EINVAL for a word or value that is not allowed, the message names it and what is
 *         allowed; -EEXIST for a name or socket in use; -EBUSY for a name with which another
 *         thread does something, the message says what; -ENODEV for an unknown management device;
 *         -ESHUTDOWN during vdpa_cleanup(); another negative errno from the driver or front end. On
 *         failure nothing is left. It takes as long as the device does; no other device waits.
 */
int vdpa_dev_add(const char *words);

/**
 * Stop and remove a device. No other device waits for it.
 * @return 0; -ENODEV when there is none of that name; -EBUSY while another thread adds, changes or
 *         removes it.
 */
int vdpa_dev_del(const char *name);

/** Stop and remove all devices, the last one first, as vdpa_cleanup() does. One that another thread
 * is adding, changing or removing is waited for. */
void vdpa_dev_del_all(void);

/**
 * Change attributes of a device while it exists, e.g. "net0 link down".
 * @param words  the device's name, then words and values.
 * @return 0; -ENODEV and -EBUSY as vdpa_dev_del(); -EINVAL for a bad word or value, and for what a
 *         device would not be made with; -EOPNOTSUPP where the device has none.
 */
int vdpa_dev_set(const char *words);

/**
 * Look only at what vdpa_dev_add() would refuse of the words themselves; creates nothing. Works
 * before vdpa_init() and without EAL, as vdpa_words_help() does.
 */
int vdpa_dev_check(const char *words);

/**
 * vdpa_dev_check(), and the name that the words give.
 * @param name  receives it; NULL: nobody asks.
 * @param size  bytes of name: VDPA_NAME_MAX are enough.
 */
int vdpa_dev_check_name(const char *words, char *name, size_t size);

/**
 * The words with which a device would be made as it is now: those of vdpa_dev_add() in their order,
 * where vdpa_dev_set() has changed one with the value that was set last. They fit one line.
 *
 * @param id  receives the number of this device in the life of the process: one that is deleted
 *            and added again has another. NULL: nobody asks.
 * @return text to free(); NULL on failure, with in errno ENODEV for no device of that name, EBUSY
 *         for one that is being added or removed, EOPNOTSUPP for one that an application made
 *         without words, ENOMEM.
 */
char *vdpa_dev_words(const char *name, uint64_t *id);

/**
 * Call fn with vdpa_dev_words() of each device in the order in which they were added, while it
 * returns 0. No lock is held: fn may add, change and delete devices. Those that are being added or
 * removed meanwhile, and those without words, are left out.
 * @return 0; what fn returned; -ENOMEM.
 */
int vdpa_dev_words_each(int (*fn)(const char *name, uint64_t id, const char *words, void *arg),
			void *arg);

/**
 * Call fn with each word of a device whose value no second device may have, such as the path of its
 * socket, while it returns 0: what is to be looked at before several devices are made. Creates
 * nothing; works before vdpa_init() and without EAL.
 * @param words  of vdpa_dev_add().
 * @return 0; what fn returned; what vdpa_dev_check() says of words that are not allowed.
 */
int vdpa_words_unique(const char *words, int (*fn)(const char *word, const char *value, void *arg),
		      void *arg);

/** What vdpa_words_compare() finds. */
enum vdpa_words_difference {
	VDPA_WORDS_SAME = 0, /**< both make the same device */
	VDPA_WORDS_SETTABLE, /**< vdpa_dev_set() makes the one out of the other */
	VDPA_WORDS_OTHER,    /**< the device has to be made anew */
};

/**
 * Compare the words of two devices by what they mean: order, spelling of numbers and names, and
 * defaults that are written out make no difference. Creates nothing; works before vdpa_init() and
 * without EAL.
 *
 * @param have, want  words of vdpa_dev_add().
 * @param set  receives, for VDPA_WORDS_SETTABLE, what vdpa_dev_set() is to be called with, for the
 *             name in want; free() it. NULL: nobody asks.
 * @return one of enum vdpa_words_difference; what vdpa_dev_check() says of words that are not
 *         allowed; -ENOMEM.
 */
int vdpa_words_compare(const char *have, const char *want, char **set);

/** Devices by what they do. */
struct vdpa_dev_counts {
	unsigned int devices; /**< all, those that are being added and removed among them */
	unsigned int states[VDPA_STATE_REMOVED + 1]; /**< by enum vdpa_device_state */
};

/** Count the devices. Asks none, and waits for none. */
void vdpa_dev_count(struct vdpa_dev_counts *counts);

/**
 * Whether there is a device of that name, or one is being added or removed. From any thread, with
 * any lock held, also from inside a uvdpa callback and where DPDK's log is written.
 */
bool vdpa_dev_exists(const char *name);

/**
 * One device as JSON text, in the fields of `vdpa -j dev show` and ours (state, frontend, ...).
 * From what the core knows: no device is asked, and none that hangs is waited for. The state of one
 * that is being added or removed is "adding" or "removing", and what is not known of it is left
 * out.
 * @param name  NULL for all, as an object keyed by name.
 * @return text to free(); NULL on failure (-ENODEV, -ENOMEM in errno).
 */
char *vdpa_dev_show(const char *name);

/**
 * Statistics of a device and of each virtqueue as JSON text, {"device": {...}, "queues": [{...}],
 * "migration": {...}}; as vdpa_dev_show(). Names, units and what null means: vdpa_stats.h,
 * doc/statistics.md.
 */
char *vdpa_dev_stats(const char *name);

/**
 * The configuration of a network device as JSON text, in the fields of `vdpa -j dev config show`:
 * mac, "link ", "link_announce ", max_vq_pairs, mtu as far as its features have them, and
 * negotiated_features once they are. Nothing, {}, for another type; else as vdpa_dev_show().
 */
char *vdpa_dev_config(const char *name);

/**
 * Descriptors of a network device's virtqueue as JSON text, in the fields of `vdpa -j dev vstats
 * show`: queue_type ("rx", "tx", "control_vq"), received_desc, completed_desc. From any thread.
 * @param qidx  index of the virtqueue.
 * @return text to free(); NULL on failure, with in errno ENODEV where there is no such device,
 *         EAGAIN while its features are not negotiated, EOPNOTSUPP for one that is no network
 *         device or does not count descriptors, ERANGE for an index that no device has, EINVAL for
 *         one that this device has not, ENOMEM.
 */
char *vdpa_dev_vstats(const char *name, unsigned int qidx);

/** Management devices as JSON text in the fields of `vdpa -j mgmtdev show`, and ours: features as a
 * number, help; free() it. */
char *vdpa_mgmtdev_show(void);

/**
 * PCI functions of this machine that a driver serves, as JSON text, an object keyed by the name of
 * the management device (`pci/0000:06:00.2`); free() it. Of each: `ids`, `subsystem` and `class` in
 * hexadecimal, `numa_node`, `kernel_driver` that it is bound to (null: none), `driver` that serves
 * it, `usable` and else the `reason`, one line with what mends it, `device` that it is already.
 * Virtual functions stand in their physical function's `vfs`, keyed likewise; one that no driver
 * serves is there for their sake, with `driver` null. Nothing is opened. Works before vdpa_init().
 * @return NULL on failure (-ENOMEM in errno).
 */
char *vdpa_function_show(void);

/**
 * Load a plugin, a shared object that brings drivers (VDPA_REGISTER_DRIVER() in vdpa_driver.h), or
 * each `.so` in a folder: what EAL does of its `-d`, but before there is an EAL, so that
 * vdpa_dev_check() and vdpa_words_help() know their words. EAL may load the same file again: that
 * registers nothing twice. It stays loaded. Before vdpa_init(), after it, and without.
 *
 * @param path  file or folder; a name without a slash that is no file is looked for where
 *              libraries are.
 * @return 0; -ENOENT where there is none; -EPERM for one that everybody may write to, or replace,
 * as EAL has it, and for one (or a link to it) that is neither root's nor the process's user's in a
 * folder where everybody may add something, such as /tmp; -ENOEXEC for what is no shared object or
 * lacks a symbol, the message says which; -EEXIST where a driver of the same name is registered;
 * what else vdpa_register_driver() says. On failure nothing of that file is left; those of a folder
 * before it stay.
 */
int vdpa_plugin_load(const char *path);

/** Every management device, driver and front end with its words, for `--help`; free() it. */
char *vdpa_words_help(void);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_H */
