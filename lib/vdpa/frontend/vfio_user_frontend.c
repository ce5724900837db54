/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The front end "vfio-user": any device as a virtio-pci function on a UNIX socket, for a virtual
 * machine monitor or a driver in user space. Its words, what becomes of a device that gets it, what
 * the core calls, and the list of its devices.
 *
 * Owns the thread that looks at doorbells, as long as there is a device whose doorbells are polled.
 * The list's lock is taken neither there nor in jobs.
 */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include <linux/virtio_config.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "error_priv.h"
#include "listen.h"
#include "socket_words.h"
#include "vdpa_consumer.h"
#include "vdpa_log.h"
#include "vfio_user.h"
#include "vfio_user_device.h"
#include "virtio_compat.h"

#define POLL_US_DEFAULT 20u
#define POLL_US_MAX	100000u
#define NOTIFY_SHARED	4u /* bytes between doorbells of one page */

static const struct vfu_extension no_extension;
static const struct vfu_extension *extension = &no_extension;

static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;
static TAILQ_HEAD(, vfu_device) devices = TAILQ_HEAD_INITIALIZER(devices);

static pthread_mutex_t watch_lock = PTHREAD_MUTEX_INITIALIZER;
static struct vfu_watch watch = {.timer.fd = -1};
static unsigned int watch_users;

static int
watch_get(void)
{
	int rc = 0;

	pthread_mutex_lock(&watch_lock);
	if (watch_users == 0)
		rc = vdpa_vfus_watch_init(&watch);
	if (rc == 0)
		watch_users++;
	else
		vdpa_vfus_watch_fini(&watch);
	pthread_mutex_unlock(&watch_lock);
	return rc;
}

static void
watch_put(void)
{
	pthread_mutex_lock(&watch_lock);
	if (--watch_users == 0)
		vdpa_vfus_watch_fini(&watch);
	pthread_mutex_unlock(&watch_lock);
}

static bool
choice_is(const struct vdpa_args *args, const char *word, const char *value)
{
	const struct vdpa_arg *arg = vdpa_args_find(args, word);

	return arg != NULL && strcmp(arg->choice->name, value) == 0;
}

static int
init_function(struct vfu_device *dev, const struct vdpa_args *args)
{
	uint16_t nvqs = vdpa_get_vq_count(dev->vdev);
	uint32_t vectors = nvqs + 1u;
	struct vp_params params = {
		.kind = &vdpa_vp_kind_virtio,
		.device_id = vdpa_get_device_id(dev->vdev),
		/* DMA is to addresses that the client has mapped, not to physical ones. */
		.features = vdpa_consumer_function_features(dev->vdev) |
			    RTE_BIT64(VIRTIO_F_VERSION_1) | RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM),
		.nvqs = nvqs,
		.queue_size_max = vdpa_get_vq_num_max(dev->vdev),
		.notify_mult = VP_PAGE,
		.device_size = RTE_MIN(vdpa_get_config_size(dev->vdev), (size_t)VP_DEVICE_MAX),
		.ops = &vdpa_vfus_vp_ops,
		.arg = dev,
	};
	int rc;

	dev->dma_logging = choice_is(args, "dma_logging", "on");
	dev->moves = choice_is(args, "device_state", "on");
	dev->passes = choice_is(args, "doorbell", "pass");
	/* The driver may say more with a kick than the device hears, unless the device hears it. */
	if (!dev->passes)
		params.features |=
			vdpa_get_device_features(dev->vdev) & RTE_BIT64(VIRTIO_F_NOTIFICATION_DATA);
	if (choice_is(args, "suspend", "on"))
		params.features |= RTE_BIT64(VIRTIO_F_SUSPEND);
	rc = dev->ext->parse != NULL ? dev->ext->parse(dev, args, &params) : 0;
	/* What a kind has of its own is not saved. */
	if (rc == 0 && dev->moves && (params.kind != &vdpa_vp_kind_virtio || params.admin))
		rc = vdpa_error(EINVAL, "device_state on is of the function virtio, without an "
					"administration queue");
	if (rc < 0)
		return rc;
	if (params.kind->vectors_max != 0)
		vectors = RTE_MIN(vectors, (uint32_t)params.kind->vectors_max);
	/* A word of an extension. */
	params.vectors = (uint16_t)vdpa_args_u64(args, "vectors", vectors);
	if (choice_is(args, "notify", "shared"))
		params.notify_mult = RTE_MAX(NOTIFY_SHARED, params.kind->notify_shared);
	return vdpa_vp_init(&dev->vp, &params);
}

/* The device's own doorbells, where they lie as the function's do: a page each, one behind the
 * other in one file. */
static int
find_pages(struct vfu_device *dev)
{
	struct vdpa_notification_area first = {.fd = -1}, area;
	int rc = 0;

	if (dev->vp.params.notify_mult != VP_PAGE || dev->vp.params.admin || dev->vp.kind->flags)
		return vdpa_error(EINVAL, "doorbell pass: needs doorbells of a page each");
	for (uint16_t i = 0; rc == 0 && i < dev->vp.params.nvqs; i++) {
		rc = vdpa_get_fixed_notification(dev->vdev, i, &area);
		if (rc == 0 && i == 0)
			first = area;
		if (rc == 0 && (area.size != VP_PAGE || area.fd != first.fd ||
				area.offset != first.offset + (uint64_t)i * VP_PAGE))
			rc = vdpa_error(EOPNOTSUPP,
					"doorbell pass: those of %s do not lie in pages one behind "
					"the other",
					dev->vdev->name);
	}
	if (rc == 0 && first.offset < vp_notify_offset(&dev->vp))
		rc = vdpa_error(EOPNOTSUPP,
				"doorbell pass: those of %s lie before where the function has them",
				dev->vdev->name);
	return rc;
}

static int
init_doorbells(struct vfu_device *dev, const struct vdpa_args *args)
{
	bool trap = choice_is(args, "doorbell", "trap") || dev->passes;
	unsigned int poll_us = (unsigned int)vdpa_args_u64(args, "poll_us", POLL_US_DEFAULT);
	int rc;

	if (trap && vdpa_args_has(args, "poll_us"))
		return vdpa_error(EINVAL, "poll_us is of doorbells that are polled");
	rc = dev->passes ? find_pages(dev) : 0;
	if (rc == 0)
		rc = watch_get();
	if (rc < 0)
		return rc;
	rc = vdpa_vfus_bells_init(&dev->doorbells, &watch, vp_all_queues(&dev->vp.params),
				  dev->vp.params.notify_mult, vp_notify_offset(&dev->vp),
				  dev->vp.notify_len, trap ? 0 : poll_us, dev->vp.kind->flags);
	if (rc < 0)
		watch_put();
	return rc;
}

/* Its path first, so that no two devices have one. */
static int
add_device(struct vfu_device *dev)
{
	struct vfu_device *other;
	int rc = 0;

	pthread_mutex_lock(&devices_lock);
	TAILQ_FOREACH (other, &devices, next)
		if (strcmp(other->path, dev->path) == 0)
			rc = vdpa_error(EEXIST, "vfio_user '%s': is in use by %s", dev->path,
					other->vdev->name);
	if (rc == 0)
		TAILQ_INSERT_TAIL(&devices, dev, next);
	pthread_mutex_unlock(&devices_lock);
	return rc;
}

static void
remove_device(struct vfu_device *dev)
{
	pthread_mutex_lock(&devices_lock);
	TAILQ_REMOVE(&devices, dev, next);
	pthread_mutex_unlock(&devices_lock);
}

unsigned int
vdpa_vfus_for_each(const char *name, void (*fn)(struct vfu_device *dev, void *arg), void *arg)
{
	struct vfu_device *dev;
	unsigned int n = 0;

	pthread_mutex_lock(&devices_lock);
	TAILQ_FOREACH (dev, &devices, next) {
		if (name != NULL && strcmp(dev->vdev->name, name) != 0)
			continue;
		fn(dev, arg);
		n++;
	}
	pthread_mutex_unlock(&devices_lock);
	return n;
}

/* No job runs any more, and nothing but the client's end is left to be done. */
static void
end_device(struct vfu_device *dev)
{
	vdpa_set_drvdata(dev->vdev, NULL);
	if (dev->server != NULL) {
		vdpa_vfus_server_stop(dev->server);
		vdpa_vfus_server_unlisten(dev->server);
	}
	if (dev->ext->quiesce != NULL)
		dev->ext->quiesce(dev);
	vdpa_vfus_device_quiesce(dev);
	if (dev->server != NULL)
		vdpa_vfus_server_end(dev->server);
	/* What the end of its client has posted. */
	vdpa_vfus_device_quiesce(dev);
	if (dev->ext->fini != NULL)
		dev->ext->fini(dev);
	vdpa_vfus_device_fini(dev);
	vdpa_vfus_server_destroy(dev->server);
	vdpa_vfus_kept_end(dev);
	vdpa_vfus_kept_fini(dev);
	vdpa_vfus_bells_fini(&dev->doorbells);
	watch_put();
}

static void
free_device(struct vfu_device *dev)
{
	free(dev->own);
	free(dev->path);
	free(dev);
}

static int
serve(struct vfu_device *dev, const struct vdpa_args *args)
{
	struct vfu_params server = {
		.name = dev->vdev->name,
		.path = dev->path,
		.mode = socket_words_mode(args),
		.queue = dev->jobs,
		.kept = &dev->kept,
		.ops = &vdpa_vfus_client_ops,
		.arg = dev,
	};
	int rc = socket_words_group(args, &server.group);

	if (rc == 0)
		rc = vdpa_vfus_kept_init(dev);
	return rc < 0 ? rc : vdpa_vfus_server_create(&server, &dev->server);
}

static int
vfio_user_probe(struct vdpa_device *vdev, const struct vdpa_args *args)
{
	const char *path = vdpa_args_str(args, "vfio_user", NULL);
	struct vfu_device *dev;
	struct vdpa_error_saved error;
	int rc;

	if (path == NULL)
		return vdpa_error(EINVAL, "the front end vfio-user needs vfio_user PATH");
	dev = calloc(1, sizeof(*dev));
	if (dev == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	dev->vdev = vdev;
	dev->migration.state = VFIO_DEVICE_STATE_RUNNING;
	dev->ext = extension;
	dev->jobs = dev->ext->queue != NULL ? dev->ext->queue : vdpa_get_work_queue(vdev);
	dev->own = calloc(1, dev->ext->own_size + 1);
	rc = dev->own != NULL ? vdpa_socket_path("vfio_user", path, &dev->path)
			      : vdpa_error(ENOMEM, "out of memory");
	if (rc == 0)
		rc = init_function(dev, args);
	if (rc < 0)
		goto err_free;
	rc = init_doorbells(dev, args);
	if (rc < 0)
		goto err_function;
	rc = add_device(dev);
	if (rc < 0)
		goto err_bells;
	vdpa_device_add_connections(vdev, 0);
	rc = vdpa_vfus_device_init(dev);
	if (rc == 0 && dev->ext->init != NULL)
		rc = dev->ext->init(dev, args);
	if (rc == 0) {
		/* Clients may come from now on. */
		vdpa_set_drvdata(vdev, dev);
		rc = serve(dev, args);
	}
	if (rc == 0)
		return 0;
	vdpa_error_save(&error);
	remove_device(dev);
	end_device(dev);
	vdpa_vp_fini(&dev->vp);
	free_device(dev);
	vdpa_error_restore(&error);
	return rc;

err_bells:
	vdpa_vfus_bells_fini(&dev->doorbells);
	watch_put();
err_function:
	vdpa_vp_fini(&dev->vp);
err_free:
	free_device(dev);
	return rc;
}

/* What comes from a client that the next process has waits for that: nothing is carried out, or
 * answered, on a device that is being stopped. */
static int
vfio_user_withdraw(struct vdpa_device *vdev, bool leave)
{
	struct vfu_device *dev = vdpa_get_drvdata(vdev);

	if (dev == NULL || !vdpa_vfus_kept_leaves(&dev->kept))
		return 0;
	vdpa_vfus_server_stop(dev->server);
	if (dev->ext->quiesce != NULL)
		dev->ext->quiesce(dev);
	vdpa_vfus_device_quiesce(dev);
	if (vdpa_vfus_planned_is(&dev->kept))
		vdpa_vfus_planned_leave(dev);
	return 0;
}

static void
vfio_user_remove(struct vdpa_device *vdev)
{
	struct vfu_device *dev = vdpa_get_drvdata(vdev);

	if (dev == NULL)
		return;
	remove_device(dev);
	end_device(dev);
	vdpa_vp_fini(&dev->vp);
	free_device(dev);
}

static void
vfio_user_config_changed(struct vdpa_device *vdev)
{
	struct vfu_device *dev = vdpa_get_drvdata(vdev);

	if (dev != NULL)
		vdpa_work_post(dev->jobs, &dev->config_work);
}

static void
vfio_user_failed(struct vdpa_device *vdev, int qidx)
{
	struct vfu_device *dev = vdpa_get_drvdata(vdev);

	if (dev != NULL)
		vdpa_work_post(dev->jobs, &dev->failed_work);
}

static void
vfio_user_describe(struct vdpa_device *vdev, char *buf, size_t len)
{
	const struct vfu_device *dev = vdpa_get_drvdata(vdev);

	if (dev == NULL)
		snprintf(buf, len, "vfio-user");
	else
		snprintf(buf, len, "vfio-user %s %s", dev->path,
			 __atomic_load_n(&dev->connected, __ATOMIC_RELAXED) ? "connected"
									    : "waiting");
}

static const char *
vfio_user_socket(struct vdpa_device *vdev, bool *client)
{
	const struct vfu_device *dev = vdpa_get_drvdata(vdev);

	*client = false;
	return dev != NULL ? dev->path : NULL;
}

static const char *
on_or_off(bool on)
{
	return on ? "on" : "off";
}

static const char *
vfio_user_word(struct vdpa_device *vdev, unsigned int i, char *value, size_t len)
{
	const struct vfu_device *dev = vdpa_get_drvdata(vdev);
	const struct vp_params *params = dev != NULL ? &dev->vp.params : NULL;
	const unsigned int poll_us = dev != NULL ? dev->doorbells.poll_us : 0;

	if (dev == NULL)
		return NULL;
	switch (i) {
	case 0:
		snprintf(value, len, "%s",
			 on_or_off((params->features & RTE_BIT64(VIRTIO_F_SUSPEND)) != 0));
		return "suspend";
	case 1:
		snprintf(value, len, "%s", on_or_off(dev->dma_logging));
		return "dma_logging";
	case 2:
		snprintf(value, len, "%s", on_or_off(dev->moves));
		return "device_state";
	case 3:
		snprintf(value, len, "%s", dev->passes ? "pass" : poll_us != 0 ? "poll" : "trap");
		return "doorbell";
	case 4:
		snprintf(value, len, "%s", params->notify_mult == VP_PAGE ? "page" : "shared");
		return "notify";
	case 5:
		snprintf(value, len, "%u", poll_us);
		return poll_us != 0 ? "poll_us" : NULL;
	default:
		return NULL;
	}
}

static const struct vdpa_frontend_ops vfio_user_ops = {
	.probe = vfio_user_probe,
	.withdraw = vfio_user_withdraw,
	.remove = vfio_user_remove,
	.config_changed = vfio_user_config_changed,
	.failed = vfio_user_failed,
	.describe = vfio_user_describe,
	.socket = vfio_user_socket,
	.word = vfio_user_word,
};

static const struct vdpa_param_choice doorbell_choices[] = {
	{.name = "poll", .help = "clients map them and ring by memory, without a message"},
	{.name = "trap", .help = "clients send a message; nothing is polled"},
	{.name = "pass",
	 .help = "clients map those of the device itself, which must have a page for each queue, "
		 "and never run by rings of ours (migration off or log)"},
	{0},
};

static const struct vdpa_param_choice notify_choices[] = {
	{.name = "page", .help = "a page for each queue, which can be given to a guest"},
	{.name = "shared", .help = "one page for all, 4 bytes each"},
	{0},
};

static const struct vdpa_param_choice suspend_choices[] = {
	{.name = "on", .help = "the function offers VIRTIO_F_SUSPEND"},
	{.name = "off"},
	{0},
};

static const struct vdpa_param_choice dma_logging_choices[] = {
	{.name = "on", .help = "its client can have the pages logged that it writes"},
	{.name = "off"},
	{0},
};

static const struct vdpa_param_choice device_state_choices[] = {
	{.name = "on", .help = "its client can take the device's state to another host"},
	{.name = "off"},
	{0},
};

static const struct vdpa_param vfio_user_params[] = {
	{.name = "vfio_user",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "PATH",
	 .min = 1,
	 .max = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1,
	 .unique = true,
	 .help = "UNIX socket to serve a virtio-pci function on; created"},
	SOCKET_WORDS,
	{.name = "suspend",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = suspend_choices,
	 .help = "whether it suspends by its status (default off)"},
	{.name = "dma_logging",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = dma_logging_choices,
	 .help = "whether its DMA is logged for its client, by DMA_LOGGING_* (default off)"},
	{.name = "device_state",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = device_state_choices,
	 .help = "whether its state can be saved and loaded, by MIG_DEVICE_STATE (default off)"},
	{.name = "doorbell",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = doorbell_choices,
	 .help = "how doorbells ring (default poll)"},
	{.name = "notify",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = notify_choices,
	 .help = "where doorbells lie (default page)"},
	{.name = "poll_us",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "N",
	 .min = 1,
	 .max = POLL_US_MAX,
	 .help = "microseconds between looks at doorbells that ring, up to 1000 while they do not "
		 "(default 20)"},
	{.name = NULL},
};

struct vdpa_frontend vdpa_vfio_user_frontend = {
	.name = "vfio-user",
	.help = "serves the device as a virtio-pci function on a vfio-user socket",
	.ops = &vfio_user_ops,
	.params = vfio_user_params,
	.implied_by = "vfio_user",
	.tells_uid = true,
};

int
vdpa_vfus_extend(const struct vfu_extension *ext)
{
	unsigned int n = RTE_DIM(vfio_user_params) - 1, more = 0;
	struct vdpa_param *params;

	while (ext->params != NULL && ext->params[more].name != NULL)
		more++;
	/* As long as the front end. */
	params = calloc(n + more + 1, sizeof(*params));
	if (params == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	memcpy(params, vfio_user_params, n * sizeof(*params));
	if (more > 0)
		memcpy(params + n, ext->params, more * sizeof(*params));
	vdpa_vfio_user_frontend.params = params;
	extension = ext;
	return 0;
}
