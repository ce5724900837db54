/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * DPDK's interface for vDPA drivers on the vdev bus, as its shared libraries export it (version
 * INTERNAL). Distributions ship the libraries without the headers that declare it (vdpa_driver.h,
 * bus_vdev_driver.h, dev_driver.h), so it is declared here, once, and only what is used. The same
 * from 22.11 to 25.11; 26.03 changed the vdev bus. vdpa_rte_check_dpdk() must have agreed to the
 * DPDK that runs before anything of this is called.
 */

#ifndef RTE_VDPA_DPDK_H
#define RTE_VDPA_DPDK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include <rte_dev.h>
#include <rte_vdpa.h>
#include <rte_vhost.h>

/* What rte_vhost calls, the session being named by its number. 0 or negative. */
struct rte_vdpa_dev_ops {
	int (*get_queue_num)(struct rte_vdpa_device *dev, uint32_t *queue_num);
	int (*get_features)(struct rte_vdpa_device *dev, uint64_t *features);
	int (*get_protocol_features)(struct rte_vdpa_device *dev, uint64_t *protocol_features);
	int (*dev_conf)(int vid);
	int (*dev_close)(int vid);
	int (*dev_cleanup)(int vid);
	int (*set_vring_state)(int vid, int vring, int state);
	int (*set_features)(int vid);
	int (*migration_done)(int vid);
	int (*get_vfio_group_fd)(int vid);
	int (*get_vfio_device_fd)(int vid);
	int (*get_notify_area)(int vid, int qid, uint64_t *offset, uint64_t *size);
	int (*get_stats_names)(struct rte_vdpa_device *dev, struct rte_vdpa_stat_name *names,
			       unsigned int size);
	int (*get_stats)(struct rte_vdpa_device *dev, int qid, struct rte_vdpa_stat *stats,
			 unsigned int n);
	int (*reset_stats)(struct rte_vdpa_device *dev, int qid);
	int (*get_config)(int vid, uint8_t *config, uint32_t size);
	int (*set_config)(int vid, uint8_t *config, uint32_t offset, uint32_t size, uint32_t flags);
	int (*get_dev_type)(struct rte_vdpa_device *dev, uint32_t *type);
};

_Static_assert(sizeof(struct rte_vdpa_dev_ops) == 18 * sizeof(void *),
	       "18 functions from 22.11 to 25.11");

/* NULL when the name is taken, or out of memory. dev and ops stay the caller's. */
struct rte_vdpa_device *rte_vdpa_register_device(struct rte_device *dev,
						 struct rte_vdpa_dev_ops *ops);
int rte_vdpa_unregister_device(struct rte_vdpa_device *dev);

struct rte_driver {
	TAILQ_ENTRY(rte_driver) next;
	const char *name;
	const char *alias;
};

/* The generic device follows the list entry; what of it is of interest, rte_dev.h has functions
 * for. */
struct rte_vdev_device {
	TAILQ_ENTRY(rte_vdev_device) next;
	char device[];
};

static inline struct rte_device *
vdpa_rte_device_of(struct rte_vdev_device *vdev)
{
	return (struct rte_device *)(void *)vdev->device;
}

struct rte_vdev_driver {
	TAILQ_ENTRY(rte_vdev_driver) next;
	struct rte_driver driver;
	int (*probe)(struct rte_vdev_device *dev);
	int (*remove)(struct rte_vdev_device *dev);
	int (*dma_map)(struct rte_vdev_device *dev, void *addr, uint64_t iova, size_t len);
	int (*dma_unmap)(struct rte_vdev_device *dev, void *addr, uint64_t iova, size_t len);
	uint32_t drv_flags;
};

_Static_assert(offsetof(struct rte_vdev_device, device) == 2 * sizeof(void *), "a list entry");
_Static_assert(offsetof(struct rte_vdev_driver, probe) == 6 * sizeof(void *),
	       "a list entry and a driver");

/* Devices whose name begins with the driver's are given to its probe. */
void rte_vdev_register(struct rte_vdev_driver *driver);
void rte_vdev_unregister(struct rte_vdev_driver *driver);

/* A release of DPDK, e.g. 22 and 11. */
struct vdpa_rte_release {
	unsigned int year, month;
};

/*
 * Whether what is declared here holds for the DPDK that runs, and what was built against `built`
 * may run with it. 0, or -ENOTSUP with vdpa_error().
 */
int vdpa_rte_check_dpdk(struct vdpa_rte_release built, struct vdpa_rte_release runs);

/* Whether its rte_vhost aborts the process when a front end changes the memory table or a kick of
 * a vDPA device that is configured. */
bool vdpa_rte_dpdk_aborts(struct vdpa_rte_release runs);

#endif /* RTE_VDPA_DPDK_H */
