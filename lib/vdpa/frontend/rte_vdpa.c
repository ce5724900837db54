/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The front end rte_vdpa as a plugin of DPDK's EAL (-d): devices of the vdev bus whose name begins
 * with "uvdpa" become vDPA devices that a DPDK application finds by rte_vdpa_find_device_by_name().
 * Owns these devices and, from the first device to the last, the control socket that one of them
 * asks for and, unless the application has initialised uvdpa itself, the library.
 */

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_ids.h>
#include <rte_common.h>
#include <rte_devargs.h>
#include <rte_eal.h>
#include <rte_version.h>

#include "rte_vdpa_priv.h"
#include "rte_vdpa_words.h"
#include "vdpa_control.h"
#include "vdpa_log.h"

pthread_mutex_t vdpa_rte_lock = PTHREAD_MUTEX_INITIALIZER;
static TAILQ_HEAD(, vdpa_rte_device) devices = TAILQ_HEAD_INITIALIZER(devices);

bool vdpa_rte_aborts;

/* Of the thread that probes: what its call of vdpa_dev_add() is for. */
static __thread struct rte_device *probing;
/* Where the control socket is that was opened here; NULL: there is none. The bus, as below. */
static char *control_path;
/* vdpa_init() was ours; the bus calls probe and remove one at a time. */
static bool own_library;

struct vdpa_rte_device *
vdpa_rte_find(const struct rte_vdpa_device *registered)
{
	struct vdpa_rte_device *dev;
	const struct rte_device *rte =
		rte_vdpa_get_rte_device((struct rte_vdpa_device *)(uintptr_t)registered);

	TAILQ_FOREACH (dev, &devices, next)
		if (rte != NULL && dev->rte == rte)
			return dev;
	return NULL;
}

struct vdpa_rte_device *
vdpa_rte_find_vid(int vid)
{
	return vdpa_rte_find(rte_vhost_get_vdpa_device(vid));
}

static struct vdpa_rte_release
running_dpdk(void)
{
	/* The application's, not one that was loaded beside it for us to link with. */
	unsigned int (*year)(void) =
		(unsigned int (*)(void))dlsym(RTLD_DEFAULT, "rte_version_year");
	unsigned int (*month)(void) =
		(unsigned int (*)(void))dlsym(RTLD_DEFAULT, "rte_version_month");

	return (struct vdpa_rte_release){.year = (year != NULL ? year : rte_version_year)(),
					 .month = (month != NULL ? month : rte_version_month)()};
}

static bool
frontend_match(const struct vdpa_device *vdev)
{
	uint32_t type;

	return probing != NULL && vdpa_rte_type_of((struct vdpa_device *)(uintptr_t)vdev, &type);
}

static int
frontend_probe(struct vdpa_device *vdev, const struct vdpa_args *args)
{
	uint16_t nvqs = vdpa_consumer_data_vqs(vdev);
	struct vdpa_rte_device *dev = calloc(1, sizeof(*dev) + nvqs * sizeof(dev->enabled[0]));
	int rc;

	RTE_SET_USED(args);
	if (dev == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	dev->vdev = vdev;
	dev->rte = probing;
	dev->vid = VDPA_RTE_NO_VID;
	TAILQ_INIT(&dev->waiting);
	dev->is_net = vdpa_get_device_id(vdev) == VIRTIO_ID_NET;
	dev->nrings = nvqs;
	rc = vdpa_rte_stats_init(dev);
	if (rc < 0)
		goto err_free;

	pthread_mutex_lock(&vdpa_rte_lock);
	TAILQ_INSERT_TAIL(&devices, dev, next);
	pthread_mutex_unlock(&vdpa_rte_lock);
	vdpa_set_drvdata(vdev, dev);
	/* See vdpa_rte_ops: none. And rte_vhost does not say who is connected, so that a function
	 * is refused here whose page went out by another front end of this process. */
	vdpa_device_set_doorbells(vdev, VDPA_DOORBELLS_NONE);
	/* It asks for the type at once, so the device is in the list. */
	dev->registered = rte_vdpa_register_device(dev->rte, &vdpa_rte_ops);
	if (dev->registered == NULL) {
		rc = vdpa_error(EEXIST, "%s: rte_vdpa does not register it", vdev->name);
		goto err_list;
	}
	return 0;

err_list:
	vdpa_set_drvdata(vdev, NULL);
	pthread_mutex_lock(&vdpa_rte_lock);
	TAILQ_REMOVE(&devices, dev, next);
	pthread_mutex_unlock(&vdpa_rte_lock);
	free(dev->stat_zero);
err_free:
	free(dev);
	return rc;
}

static void
frontend_remove(struct vdpa_device *vdev)
{
	struct vdpa_rte_device *dev = vdpa_get_drvdata(vdev);

	if (dev == NULL)
		return;
	vdpa_set_drvdata(vdev, NULL);
	rte_vdpa_unregister_device(dev->registered);
	pthread_mutex_lock(&vdpa_rte_lock);
	TAILQ_REMOVE(&devices, dev, next);
	pthread_mutex_unlock(&vdpa_rte_lock);
	vdpa_rte_session_end(dev);
	vdpa_rte_wait_end(dev);
	free(dev->stat_zero);
	free(dev);
}

static void
frontend_describe(struct vdpa_device *vdev, char *buf, size_t len)
{
	struct vdpa_rte_device *dev = vdpa_get_drvdata(vdev);
	/* The lock may be held over what the device does. */
	bool connected =
		dev != NULL && __atomic_load_n(&dev->vid, __ATOMIC_RELAXED) != VDPA_RTE_NO_VID;

	snprintf(buf, len, "rte_vdpa %s", connected ? "connected" : "registered");
}

static const struct vdpa_frontend_ops frontend_ops = {
	.match = frontend_match,
	.probe = frontend_probe,
	.remove = frontend_remove,
	.describe = frontend_describe,
};

static const struct vdpa_param frontend_params[] = {{.name = NULL}};

static struct vdpa_frontend frontend = {
	.name = "rte_vdpa",
	.help = "gives the device to a DPDK application by name (--vdev uvdpa...)",
	.ops = &frontend_ops,
	.params = frontend_params,
};

static int
library_init(void)
{
	int rc = vdpa_init(NULL);

	if (rc < 0 && rc != -EALREADY)
		return rc;
	own_library |= rc == 0;
	rc = vdpa_register_frontend(&frontend);
	return rc == -EEXIST ? 0 : rc;
}

/* The control socket that a device's arguments ask for: one of the process, however many ask. Takes
 * path over. */
static int
open_control(char *path)
{
	const struct vdpa_control_params params = {
		.path = path, .program = "rte_vdpa", .version = UVDPA_VERSION};
	int rc;

	if (path == NULL || (control_path != NULL && strcmp(path, control_path) == 0)) {
		free(path);
		return 0;
	}
	rc = control_path != NULL
		     ? vdpa_error(EALREADY, "control=%s: the process has a control socket, %s",
				  path, control_path)
		     : vdpa_control_start(&params);
	if (rc == 0)
		control_path = path;
	else
		free(path);
	return rc;
}

/* The end of the library, when the last device is gone, or none came. */
static void
library_cleanup(void)
{
	bool none;

	pthread_mutex_lock(&vdpa_rte_lock);
	none = TAILQ_EMPTY(&devices);
	pthread_mutex_unlock(&vdpa_rte_lock);
	if (!none)
		return;
	if (control_path != NULL)
		vdpa_control_stop();
	free(control_path);
	control_path = NULL;
	if (!own_library)
		return;
	own_library = false;
	vdpa_cleanup();
}

static int
probe(struct rte_vdev_device *vdev)
{
	struct rte_device *rte = vdpa_rte_device_of(vdev);
	const struct rte_devargs *devargs = rte_dev_devargs(rte);
	const char *name = rte_dev_name(rte);
	char *words, *control = NULL;
	int rc;

	if (rte_eal_process_type() != RTE_PROC_PRIMARY) {
		VDPA_LOG(NOTICE, "%s: belongs to the primary process", name);
		return 0;
	}
	words = vdpa_rte_words(name, devargs != NULL ? devargs->args : NULL);
	rc = words == NULL ? -errno : library_init();
	if (rc == 0)
		rc = vdpa_rte_control(devargs != NULL ? devargs->args : NULL, &control);
	if (rc == 0)
		rc = open_control(control);
	if (rc == 0) {
		probing = rte;
		rc = vdpa_dev_add(words);
		probing = NULL;
	}
	free(words);
	if (rc < 0) {
		VDPA_LOG(ERR, "%s: %s", name, vdpa_error_message());
		library_cleanup();
		return rc;
	}
	if (vdpa_rte_aborts)
		VDPA_LOG(WARNING,
			 "%s: rte_vhost of this DPDK (24.03 and later) aborts the process for some "
			 "messages to a configured vDPA device; to avoid it the device is left "
			 "unconfigured in its eyes: its errors \"failed to configure vDPA device\" "
			 "mean nothing. Without them: vdpa-app, or DPDK 22.11 to 23.11",
			 name);
	return 0;
}

/* Whether rte_vhost has a connection to the device, and would go on using it. */
static bool
is_in_use(const struct rte_device *rte)
{
	struct vdpa_rte_device *dev;
	bool used = false;

	pthread_mutex_lock(&vdpa_rte_lock);
	TAILQ_FOREACH (dev, &devices, next)
		used |= dev->rte == rte &&
			(dev->vid != VDPA_RTE_NO_VID || !TAILQ_EMPTY(&dev->waiting));
	pthread_mutex_unlock(&vdpa_rte_lock);
	return used;
}

static int
remove_device(struct rte_vdev_device *vdev)
{
	struct rte_device *rte = vdpa_rte_device_of(vdev);
	int rc;

	if (rte_eal_process_type() != RTE_PROC_PRIMARY)
		return 0;
	if (is_in_use(rte)) {
		VDPA_LOG(ERR,
			 "%s: not removed: it has a front end; call rte_vhost_driver_unregister() "
			 "for its socket first",
			 rte_dev_name(rte));
		return -EBUSY;
	}
	rc = vdpa_dev_del(rte_dev_name(rte));
	library_cleanup();
	/* One that was deleted otherwise is gone, which is what was asked for. */
	return rc == -ENODEV ? 0 : rc;
}

static struct rte_vdev_driver driver = {
	.driver = {.name = "uvdpa"},
	.probe = probe,
	.remove = remove_device,
};

RTE_INIT(vdpa_rte_plugin_load)
{
	const struct vdpa_rte_release built = {RTE_VER_YEAR, RTE_VER_MONTH};

	if (vdpa_rte_check_dpdk(built, running_dpdk()) < 0) {
		VDPA_LOG(ERR, "rte_vdpa: %s", vdpa_error_message());
		return;
	}
	vdpa_rte_aborts = vdpa_rte_dpdk_aborts(running_dpdk());
	rte_vdev_register(&driver);
}
