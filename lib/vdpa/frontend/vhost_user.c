/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The vhost-user front end: the devices it serves, what is offered to those who connect, and what
 * the core calls. Owns the devices. One connection at a time.
 */

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "vdpa_event.h"
#include "vdpa_log.h"
#include "vhost_user.h"
#include "vhost_user_priv.h"

#define SOCKET_MODE_DEFAULT 0600

/* So that no two devices have one socket. */
static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;
static TAILQ_HEAD(, vhu_device) devices = TAILQ_HEAD_INITIALIZER(devices);

/* On return nothing of this device's connection runs or will; the socket is gone. */
static void
stop_serving(struct vhu_device *dev)
{
	pthread_mutex_lock(&dev->lock);
	dev->serving = false;
	pthread_mutex_unlock(&dev->lock);
	vdpa_vhu_socket_close(dev);
	vdpa_vhu_conn_close(dev);
}

static int
start_serving(struct vhu_device *dev)
{
	int rc;

	pthread_mutex_lock(&dev->lock);
	dev->serving = true;
	pthread_mutex_unlock(&dev->lock);
	rc = vdpa_vhu_socket_open(dev);
	if (rc < 0) {
		pthread_mutex_lock(&dev->lock);
		dev->serving = false;
		pthread_mutex_unlock(&dev->lock);
	}
	return rc;
}

static void
offer(struct vhu_device *dev)
{
	struct vdpa_device *vdev = dev->vdev;

	const struct vdpa_capabilities *can = vdpa_get_capabilities(vdev);

	dev->features = vdpa_consumer_offered_features(vdev, true);
	dev->protocol = RTE_BIT64(VHOST_USER_PROTOCOL_F_MQ) |
			RTE_BIT64(VHOST_USER_PROTOCOL_F_REPLY_ACK) |
			RTE_BIT64(VHOST_USER_PROTOCOL_F_BACKEND_REQ) |
			RTE_BIT64(VHOST_USER_PROTOCOL_F_CONFIG) |
			RTE_BIT64(VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD) |
			RTE_BIT64(VHOST_USER_PROTOCOL_F_RESET_DEVICE) |
			RTE_BIT64(VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) |
			RTE_BIT64(VHOST_USER_PROTOCOL_F_STATUS);
	if (vdpa_get_device_id(vdev) == VIRTIO_ID_NET)
		dev->protocol |= RTE_BIT64(VHOST_USER_PROTOCOL_F_RARP) |
				 RTE_BIT64(VHOST_USER_PROTOCOL_F_NET_MTU);
	if (can->doorbells && dev->doorbells != VDPA_DOORBELLS_NONE)
		dev->protocol |= RTE_BIT64(VHOST_USER_PROTOCOL_F_HOST_NOTIFIER);
	if (can->inflight)
		dev->protocol |= RTE_BIT64(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
	if (can->log)
		dev->protocol |= RTE_BIT64(VHOST_USER_PROTOCOL_F_LOG_SHMFD);
}

static const struct vdpa_param_choice doorbell_choices[] = {
	{.name = "uid",
	 .help = "to front ends of the first one's user, who are the only ones served"},
	{.name = "once", .help = "to the first process, which is the only one served"},
	{.name = NULL},
};

static int
parse_doorbells(struct vhu_device *dev, const struct vdpa_args *args)
{
	const struct vdpa_arg *arg = vdpa_args_find(args, "doorbells");
	bool none = vdpa_args_has(args, "no_doorbells");

	if (none && arg != NULL)
		return vdpa_error(EINVAL, "doorbells %s contradicts no_doorbells",
				  arg->choice->name);
	dev->doorbells = none ? VDPA_DOORBELLS_NONE
			 : arg != NULL && strcmp(arg->choice->name, "once") == 0
				 ? VDPA_DOORBELLS_ONCE
				 : VDPA_DOORBELLS_UID;
	return 0;
}

static int
parse(struct vhu_device *dev, const struct vdpa_args *args)
{
	const char *path = vdpa_args_str(args, "socket", NULL);
	const char *group = vdpa_args_str(args, "group", NULL);
	char *end;

	if (path == NULL)
		return vdpa_error(EINVAL, "the front end vhost-user needs socket PATH");
	dev->client = vdpa_args_has(args, "client");
	if (parse_doorbells(dev, args) < 0)
		return -EINVAL;
	if (dev->client && (vdpa_args_has(args, "mode") || group != NULL))
		return vdpa_error(EINVAL,
				  "mode and group are of a socket that is created, not with "
				  "client");
	dev->mode = (mode_t)vdpa_args_u64(args, "mode", SOCKET_MODE_DEFAULT);
	dev->group = (gid_t)-1;
	if (group != NULL) {
		const struct group *gr = getgrnam(group);
		unsigned long gid = strtoul(group, &end, 10);

		if (gr != NULL)
			dev->group = gr->gr_gid;
		else if (*group != '\0' && *end == '\0' && gid < UINT32_MAX)
			dev->group = (gid_t)gid;
		else
			return vdpa_error(EINVAL, "group '%s': there is none of that name", group);
	}
	dev->path = strdup(path);
	return dev->path == NULL ? vdpa_error(ENOMEM, "out of memory") : 0;
}

static int
vhost_user_probe(struct vdpa_device *vdev, const struct vdpa_args *args)
{
	struct vhu_device *dev = calloc(1, sizeof(*dev)), *other;
	int rc;

	if (dev == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	pthread_mutex_init(&dev->lock, NULL);
	vdpa_vhu_conn_init(dev);
	dev->socket.fd = -1;
	dev->vdev = vdev;
	dev->fds = vdpa_fd_account_create();
	rc = dev->fds == NULL ? vdpa_error(ENOMEM, "out of memory") : parse(dev, args);
	if (rc < 0)
		goto err_free;
	vdpa_device_set_doorbells(vdev, dev->doorbells);
	dev->nvqs = vdpa_consumer_vq_count(vdev);
	offer(dev);

	pthread_mutex_lock(&devices_lock);
	TAILQ_FOREACH (other, &devices, next)
		if (strcmp(other->path, dev->path) == 0)
			break;
	if (other == NULL)
		TAILQ_INSERT_TAIL(&devices, dev, next);
	else
		rc = vdpa_error(EEXIST, "socket '%s': is in use by %s", dev->path,
				other->vdev->name);
	pthread_mutex_unlock(&devices_lock);
	if (rc < 0)
		goto err_free;

	vdpa_set_drvdata(vdev, dev);
	rc = start_serving(dev);
	if (rc == 0)
		return 0;
	vdpa_set_drvdata(vdev, NULL);
	pthread_mutex_lock(&devices_lock);
	TAILQ_REMOVE(&devices, dev, next);
	pthread_mutex_unlock(&devices_lock);
err_free:
	vdpa_fd_account_destroy(dev->fds);
	pthread_mutex_destroy(&dev->lock);
	free(dev->path);
	free(dev);
	return rc;
}

static void
vhost_user_remove(struct vdpa_device *vdev)
{
	struct vhu_device *dev = vdpa_get_drvdata(vdev);

	if (dev == NULL)
		return;
	stop_serving(dev);
	vdpa_set_drvdata(vdev, NULL);
	pthread_mutex_lock(&devices_lock);
	TAILQ_REMOVE(&devices, dev, next);
	pthread_mutex_unlock(&devices_lock);
	vdpa_fd_account_destroy(dev->fds);
	pthread_mutex_destroy(&dev->lock);
	free(dev->path);
	free(dev);
}

static void
vhost_user_config_changed(struct vdpa_device *vdev)
{
	struct vhu_device *dev = vdpa_get_drvdata(vdev);

	if (dev != NULL)
		vdpa_vhu_tell_config(dev);
}

static void
vhost_user_failed(struct vdpa_device *vdev, int qidx)
{
	struct vhu_device *dev = vdpa_get_drvdata(vdev);

	if (dev == NULL)
		return;
	/* A function that was removed has no page any more: who touched it there would fault. */
	vdpa_vhu_take_doorbells(dev);
	pthread_mutex_lock(&dev->lock);
	if (dev->session != NULL)
		vdpa_consumer_signal_errors(dev->session->consumer, qidx);
	pthread_mutex_unlock(&dev->lock);
}

/*
 * A front end that takes configuration messages reads the link there. QEMU's vhost-user-net does
 * not: its guest's link is the connection. So a link that is down has no socket, and one that is up
 * has it again; QEMU comes back by the chardev's reconnect=.
 */
static int
vhost_user_set_link(struct vdpa_device *vdev, bool up)
{
	struct vhu_device *dev = vdpa_get_drvdata(vdev);
	bool notified;

	if (dev == NULL)
		return 0;
	if (up)
		return dev->serving ? 0 : start_serving(dev);
	pthread_mutex_lock(&dev->lock);
	notified = vdpa_vhu_wants_config(dev->session);
	pthread_mutex_unlock(&dev->lock);
	if (!notified)
		stop_serving(dev);
	return 0;
}

static void
vhost_user_describe(struct vdpa_device *vdev, char *buf, size_t len)
{
	struct vhu_device *dev = vdpa_get_drvdata(vdev);
	unsigned int doorbells;
	const char *state;

	if (dev == NULL) {
		snprintf(buf, len, "vhost-user");
		return;
	}
	pthread_mutex_lock(&dev->lock);
	state = dev->session != NULL ? "connected"
		: !dev->serving	     ? "link down"
		: dev->client	     ? "connecting"
				     : "listening";
	doorbells = vdpa_vhu_count_doorbells(dev->session);
	snprintf(buf, len, "socket %s %s", dev->path, state);
	if (doorbells > 0)
		snprintf(buf + strlen(buf), len - strlen(buf), ", %u doorbell%s given", doorbells,
			 doorbells == 1 ? "" : "s");
	pthread_mutex_unlock(&dev->lock);
}

static const struct vdpa_frontend_ops vhost_user_ops = {
	.probe = vhost_user_probe,
	.remove = vhost_user_remove,
	.config_changed = vhost_user_config_changed,
	.failed = vhost_user_failed,
	.set_link = vhost_user_set_link,
	.describe = vhost_user_describe,
};

static const struct vdpa_param vhost_user_params[] = {
	{.name = "socket",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "PATH",
	 .min = 1,
	 .max = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1,
	 .help = "unix socket that the front end (QEMU, virtio-user) connects to"},
	{.name = "client",
	 .type = VDPA_PARAM_FLAG,
	 .help = "connect to the socket, again and again, instead of creating it"},
	{.name = "mode",
	 .type = VDPA_PARAM_MODE,
	 .metavar = "MODE",
	 .help = "permissions of the socket, octal; default 0600"},
	{.name = "group",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "NAME",
	 .min = 1,
	 .max = 255,
	 .help = "group of the socket, by name or number; default: that of the process"},
	{.name = "doorbells",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = doorbell_choices,
	 .help = "who is given the doorbell pages of a function on vfio-pci; default uid"},
	{.name = "no_doorbells",
	 .type = VDPA_PARAM_FLAG,
	 .help = "keep the device's doorbells and its file descriptor from the front end"},
	{.name = NULL},
};

struct vdpa_frontend vdpa_vhost_user_frontend = {
	.name = "vhost-user",
	.help = "serves the device on a vhost-user socket",
	.ops = &vhost_user_ops,
	.params = vhost_user_params,
	.implied_by = "socket",
	.tells_uid = true,
};
