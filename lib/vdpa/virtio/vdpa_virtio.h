/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_virtio.h
 * A vDPA device on a virtio-pci function, for drivers whose hardware is virtio with an addition.
 *
 * The service does what every such function needs: capabilities, features, queues, the ladder of
 * interrupts, a net device's control queue, waits, removal, words. A driver states its PCI ids, its
 * words and a struct vdpa_virtio_kind with what its functions do otherwise; from its pci_add it
 * calls vdpa_virtio_add():
 *
 *	static int
 *	acme_set_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state)
 *	{
 *		...registers of its own, or vdpa_virtio_ops()->set_vq_state(vdev, idx, state)
 *	}
 *
 *	static const struct vdpa_config_ops acme_ops = {.size = sizeof(acme_ops),
 *							.set_vq_state = acme_set_vq_state};
 *	static const struct vdpa_virtio_kind acme_kind = {.ops = &acme_ops};
 *
 * Ops run with the device's lock held, as those of every driver (vdpa_driver.h).
 *
 * An administration virtqueue (virtio 1.3, 2.13) of the function itself is left alone:
 * VIRTIO_F_ADMIN_VQ is neither offered nor accepted, and its queues lie behind num_queues, where
 *the service takes none. That of the function's owner (word `owner`) saves and loads its parts.
 */

#ifndef VDPA_VIRTIO_H
#define VDPA_VIRTIO_H

#include "vdpa_driver.h"
#include "vdpa_virtio_pci.h"

#ifdef __cplusplus
extern "C" {
#endif

struct vdpa_virtio_kind;
struct virtio_device;

/** A device, first member of the driver's own struct where it has one. Drivers read it. */
struct vdpa_virtio_device {
	struct vdpa_device vdev;
	const struct vdpa_virtio_kind *kind;
	struct vdpa_virtio_pci *hw; /**< its function */
	struct virtio_device *core; /**< the service's */
};

/** Where the functions of a driver differ from plain virtio. All zeroes: nowhere. */
struct vdpa_virtio_kind {
	/** Bytes of the driver's struct, which struct vdpa_virtio_device begins; 0: it has none. */
	size_t size;
	/** How registers are found and selected, where not as virtio does it; NULL: as it does. */
	const struct vdpa_virtio_pci_ops *pci;
	/** Ops that the driver replaces, with .size set; what is NULL there is the service's. */
	const struct vdpa_config_ops *ops;
	/**
	 * Optional: called once the structures of a function are found; returns the kind that
	 * holds for it from then on, but for pci, which has been used. Static, never NULL.
	 */
	const struct vdpa_virtio_kind *(*variant)(const struct vdpa_virtio_pci *hw);
	/**
	 * Optional: set up what is the driver's own, before the device is registered. Features,
	 * queues and words are known; the function is reset. 0, or a negative errno with the
	 * message: -ENODEV asks the next driver that matches.
	 */
	int (*init)(struct vdpa_virtio_device *dev, const struct vdpa_args *args);
	/** Optional: free what init has set up. The device is reset for the last time, the function
	 * is open still. Called after an init that failed, too. */
	void (*free)(struct vdpa_virtio_device *dev);
	/**
	 * A 0 in queue_enable stops a queue: the function finishes what it took and no longer uses
	 * the rings, and a 1 makes it continue from there. Then queues come and go, are disabled
	 * and enabled without VIRTIO_F_RING_RESET, and the device can suspend and resume, by which
	 * VIRTIO_F_SUSPEND is not used.
	 */
	bool queue_enable_stops;
	/**
	 * Optional: take a queue's interrupt back from the function, and say whether there was one.
	 * Then no eventfd of a guest is given to the function: each interrupt comes to this
	 * process, is taken back, and passed on. On a work queue of the device, without its lock:
	 * beside ops, so that it selects no queue, and does not wait (vdpa_virtio_wait()).
	 */
	bool (*take_interrupt)(struct vdpa_virtio_device *dev, uint16_t idx);
	unsigned int max_vectors; /**< MSI-X vectors it serves at most; 0: as many as it has */
};

/** The words of every such device, for the params of a driver, before its own and the empty entry.
 */
#define VDPA_VIRTIO_PARAMS                                                                         \
	{.name = "mac",                                                                            \
	 .type = VDPA_PARAM_MAC,                                                                   \
	 .metavar = "MAC",                                                                         \
	 .help = "net: address, set by the control queue (default: the device's)"},                \
		{.name = "mtu",                                                                    \
		 .type = VDPA_PARAM_UINT,                                                          \
		 .metavar = "BYTES",                                                               \
		 .min = 68,                                                                        \
		 .max = 65535,                                                                     \
		 .help = "net: MTU shown to the driver, at most the device's (default: the "       \
			 "device's)"},                                                             \
		{.name = "max_vqp",                                                                \
		 .type = VDPA_PARAM_UINT,                                                          \
		 .metavar = "N",                                                                   \
		 .min = 1,                                                                         \
		 .max = VDPA_VQ_MAX / 2,                                                           \
		 .help = "net: queue pairs (default: all that the device has)"},                   \
		{.name = "queue_size",                                                             \
		 .type = VDPA_PARAM_UINT,                                                          \
		 .metavar = "N",                                                                   \
		 .min = 1,                                                                         \
		 .max = VDPA_VQ_NUM_MAX,                                                           \
		 .help = "largest virtqueue size offered (default: the device's)"},                \
		{.name = "device_features",                                                        \
		 .type = VDPA_PARAM_UINT,                                                          \
		 .metavar = "MASK",                                                                \
		 .max = UINT64_MAX,                                                                \
		 .help = "virtio features offered, a subset of the device's (default: all)"},      \
		{.name = "owner",                                                                  \
		 .type = VDPA_PARAM_STRING,                                                        \
		 .metavar = "NAME",                                                                \
		 .min = 1,                                                                         \
		 .max = 255,                                                                       \
		 .help = "function whose administration queue saves and loads the device's "       \
			 "state, "                                                                 \
			 "such as vfio-user/PATH; sysfs: its physical function (default: none)"},  \
		{.name = "member",                                                                 \
		 .type = VDPA_PARAM_UINT,                                                          \
		 .metavar = "N",                                                                   \
		 .min = 1,                                                                         \
		 .max = 65535,                                                                     \
		 .help = "which device of the owner's group it is (default: the number of the "    \
			 "virtual function)"},                                                     \
	{                                                                                          \
		.name = "vectors", .type = VDPA_PARAM_UINT, .metavar = "N", .max = 2048,           \
		.help = "MSI-X vectors used at most; 0: the interrupt line (default: one a queue " \
			"and one)"                                                                 \
	}

/**
 * Make a device of a function and register it: what a driver's pci_add does.
 *
 * @param kind  static.
 * @param pci   open; the device's on success, the caller's on failure.
 * @param args  checked against the driver's params, with VDPA_VIRTIO_PARAMS among them.
 * @return 0; a negative errno with one line that names the function and the fact: -ENODEV for what
 * is not a virtio function; -ENOTSUP for a legacy-only one, or one without VIRTIO_F_VERSION_1;
 * -EPROTO for what cannot be; -EINVAL, -EOPNOTSUPP for a word that the device does not follow;
 * -ETIMEDOUT when it does not reset; what kind->init, vdpa_alloc_device_size() (of kind->ops) and
 * vdpa_register_device() return. Any thread, with no lock that another device needs.
 */
int vdpa_virtio_add(const struct vdpa_virtio_kind *kind, struct vdpa_mgmt_dev *mdev,
		    struct vdpa_pci *pci, const char *name, const struct vdpa_args *args);

/** The service's ops, for a replaced op to call through; suspend and resume are for a kind with
 * queue_enable_stops, and for functions that offer VIRTIO_F_SUSPEND; the log's for functions whose
 * DMA is logged (vdpa_pci_logs_dma()). What no virtio function has is NULL. */
const struct vdpa_config_ops *vdpa_virtio_ops(void);

static inline struct vdpa_virtio_device *
vdpa_virtio_device(struct vdpa_device *vdev)
{
	return (struct vdpa_virtio_device *)(void *)vdev;
}

/** Features that the function offers, those of the transport included. */
uint64_t vdpa_virtio_hw_features(const struct vdpa_virtio_device *dev);
/** Features negotiated with the function, 0 before. In ops. */
uint64_t vdpa_virtio_features(const struct vdpa_virtio_device *dev);
/** Whether the rings are packed (2.8), as negotiated. In ops. */
bool vdpa_virtio_is_packed(const struct vdpa_device *vdev);
/** What a queue is; idx below get_vq_count(). */
const struct vdpa_virtio_vq_info *vdpa_virtio_vq_info(const struct vdpa_virtio_device *dev,
						      uint16_t idx);
/** What a queue is set to. In ops. */
const struct vdpa_virtio_vq_conf *vdpa_virtio_vq_conf(const struct vdpa_virtio_device *dev,
						      uint16_t idx);
/** Whether the function may be moving the queue's place: it is ready after DRIVER_OK, and neither
 * disabled nor suspended where that stops a queue (queue_enable_stops). In ops. */
bool vdpa_virtio_vq_runs(const struct vdpa_virtio_device *dev, uint16_t idx);

/**
 * The device parts of a function with an owner (virtio 1.4, 2.14), as the owner gives them, checked
 * to be a list of parts. In ops, of a device that is suspended or does not run.
 *
 * @param buf  room for *len bytes; *len becomes how many there are.
 * @return 0; -EOPNOTSUPP without an owner; -ENOSPC where *len was too small, and is what it takes;
 * -E2BIG for more than VDPA_STATE_MAX; -EINVAL for what is no list of parts; -EIO for what the
 * owner refuses; -ETIMEDOUT, -EPROTO of an owner that executes no more commands.
 */
int vdpa_virtio_save_parts(struct vdpa_virtio_device *dev, void *buf, size_t *len);
/**
 * Load such parts. Common ones are checked, as they are this host's to set; those of the device's
 * type are set, all or none, while the owner holds the function. -EINVAL for parts of other
 * features than were negotiated; else as above. A function that does not go on afterwards has
 * failed.
 */
int vdpa_virtio_load_parts(struct vdpa_virtio_device *dev, const void *parts, size_t len);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_VIRTIO_H */
