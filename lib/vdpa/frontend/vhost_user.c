/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The vhost-user front end: the devices it serves, what is offered to those who connect, and what
 * the core calls. Owns the devices. One connection at a time.
 */

#include <errno.h>
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

#include "error_priv.h"
#include "listen.h"
#include "socket_words.h"
#include "tree.h"
#include "vdpa_event.h"
#include "vdpa_log.h"
#include "vhost_user.h"
#include "vhost_user_priv.h"

static int
compare_paths(const void *a, const void *b)
{
	return strcmp(((const struct vhu_device *)a)->path, ((const struct vhu_device *)b)->path);
}

static int
compare_infos(const void *a, const void *b)
{
	const struct vhu_device *one = a, *other = b;

	return strcmp(one->files.info, other->files.info);
}

/* So that no two devices have one socket, or one device-info file. */
static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;
static struct vdpa_tree by_path = {.compare = compare_paths};
static struct vdpa_tree by_info = {.compare = compare_infos}; /* those that have one */

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

/* The same for the reason that the error message has, which stays. */
static void
stop_for_error(struct vhu_device *dev)
{
	struct vdpa_error_saved error;

	vdpa_error_save(&error);
	stop_serving(dev);
	vdpa_error_restore(&error);
}

static int
start_serving(struct vhu_device *dev)
{
	int rc;

	pthread_mutex_lock(&dev->lock);
	dev->serving = true;
	pthread_mutex_unlock(&dev->lock);
	rc = vdpa_vhu_socket_open(dev);
	/* A connection of a former process may go on already. */
	if (rc < 0)
		stop_for_error(dev);
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
	if (vdpa_get_device_id(vdev) == VIRTIO_ID_NET) {
		dev->protocol |= RTE_BIT64(VHOST_USER_PROTOCOL_F_NET_MTU);
		if (vdpa_device_can_announce(vdev))
			dev->protocol |= RTE_BIT64(VHOST_USER_PROTOCOL_F_RARP);
	}
	if (can->doorbells && dev->doorbells != VDPA_DOORBELLS_NONE)
		dev->protocol |= RTE_BIT64(VHOST_USER_PROTOCOL_F_HOST_NOTIFIER);
	if (vdpa_device_tracks_inflight(vdev) ? dev->inflight != VHU_INFLIGHT_OFF
					      : dev->inflight == VHU_INFLIGHT_ON)
		dev->protocol |= RTE_BIT64(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) |
				 RTE_BIT64(VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT) |
				 RTE_BIT64(VHOST_USER_PROTOCOL_F_GET_VRING_BASE_SKIP_DRAIN);
	if (dev->device_state)
		dev->protocol |= RTE_BIT64(VHOST_USER_PROTOCOL_F_DEVICE_STATE);
	if (vdpa_device_can_migrate(vdev))
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

/* In the order of enum vhu_tracking. */
static const struct vdpa_param_choice inflight_choices[] = {
	{.name = "auto", .help = "where the device tracks its requests itself (the default)"},
	{.name = "on",
	 .help = "by any device: one that does not track them runs on shadow virtqueues"},
	{.name = "off", .help = "never"},
	{.name = NULL},
};

static const struct vdpa_param_choice device_state_choices[] = {
	{.name = "on", .help = "the front end can take it along"},
	{.name = "off", .help = "it sees to that itself"},
	{.name = NULL},
};

static int
vhost_user_check(const struct vdpa_args *args)
{
	gid_t gid;

	return socket_words_group(args, &gid);
}

/* The word device_info. */
static int
parse_info(struct vhu_device *dev, const char *info)
{
	dev->files.info = strdup(info);
	return dev->files.info == NULL ? vdpa_error(ENOMEM, "out of memory") : 0;
}

/* The words of what is created: socket, folder and device-info file. */
static int
parse_files(struct vhu_device *dev, const struct vdpa_args *args)
{
	const char *group = vdpa_args_str(args, "group", NULL);
	const char *label = vdpa_args_str(args, "label", NULL);
	const char *info = vdpa_args_str(args, "device_info", NULL);

	dev->files.with_folder = vdpa_args_has(args, "folder");
	dev->files.folder_mode = (mode_t)vdpa_args_u64(args, "folder", 0);
	if (dev->client && vdpa_args_has(args, "mode"))
		return vdpa_error(EINVAL, "mode is of a socket that is created, not with client");
	if (dev->client && !dev->files.with_folder && (group != NULL || label != NULL))
		return vdpa_error(EINVAL, "%s is of what is created: with client, needs folder",
				  group != NULL ? "group" : "label");
	dev->mode = socket_words_mode(args);
	if (socket_words_group(args, &dev->group) < 0)
		return -EINVAL;
	if (label != NULL) {
		int rc = vdpa_vhu_label_check(label);

		if (rc < 0)
			return rc;
		dev->files.label = strdup(label);
		if (dev->files.label == NULL)
			return vdpa_error(ENOMEM, "out of memory");
	}
	return info != NULL ? parse_info(dev, info) : 0;
}

static int
parse(struct vhu_device *dev, const struct vdpa_args *args)
{
	const struct vdpa_arg *inflight = vdpa_args_find(args, "inflight");
	const struct vdpa_arg *state = vdpa_args_find(args, "device_state");
	const char *path = vdpa_args_str(args, "socket", NULL);
	int rc;

	if (path == NULL)
		return vdpa_error(EINVAL, "the front end vhost-user needs socket PATH");
	dev->client = vdpa_args_has(args, "client");
	dev->inflight = inflight != NULL ? (enum vhu_tracking)(inflight->choice - inflight_choices)
					 : VHU_INFLIGHT_AUTO;
	/* QEMU carries it for net alone; what is offered without a taker only breaks a move to a
	 * daemon that does not. */
	dev->device_state = state != NULL ? strcmp(state->choice->name, "on") == 0
					  : vdpa_get_device_id(dev->vdev) == VIRTIO_ID_NET;
	if (parse_doorbells(dev, args) < 0)
		return -EINVAL;
	rc = vdpa_socket_path("socket", path, &dev->path);
	return rc == 0 ? parse_files(dev, args) : rc;
}

/* Under the lock. What and path name the key, for the message. */
static int
enter(struct vdpa_tree *tree, struct vhu_device *dev, const char *what, const char *path)
{
	const struct vhu_device *other;
	int rc = vdpa_tree_add(tree, dev);

	if (rc == 0)
		return 0;
	other = rc == -EEXIST ? vdpa_tree_find(tree, dev) : NULL;
	return other != NULL ? vdpa_error(EEXIST, "%s '%s': is in use by %s", what, path,
					  other->vdev->name)
			     : vdpa_error(ENOMEM, "out of memory");
}

static int
add_device(struct vhu_device *dev)
{
	int rc;

	pthread_mutex_lock(&devices_lock);
	rc = enter(&by_path, dev, "socket", dev->path);
	if (rc == 0 && dev->files.info != NULL) {
		rc = enter(&by_info, dev, "device_info", dev->files.info);
		if (rc < 0)
			vdpa_tree_del(&by_path, dev);
	}
	pthread_mutex_unlock(&devices_lock);
	return rc;
}

static void
remove_device(struct vhu_device *dev)
{
	pthread_mutex_lock(&devices_lock);
	vdpa_tree_del(&by_path, dev);
	if (dev->files.info != NULL)
		vdpa_tree_del(&by_info, dev);
	pthread_mutex_unlock(&devices_lock);
	vdpa_vhu_folder_remove(dev);
}

static void
free_device(struct vhu_device *dev)
{
	vdpa_vhu_kept_fini(dev);
	vdpa_vhu_stream_close(dev->stream);
	vdpa_fd_account_destroy(dev->fds);
	pthread_mutex_destroy(&dev->lock);
	vdpa_vhu_files_free(&dev->files);
	free(dev->path);
	free(dev);
}

/* The folder, the socket in it, and the file that says that it is there. */
static int
appear(struct vhu_device *dev)
{
	int rc;

	rc = vdpa_vhu_folder_make(dev);
	if (rc == 0)
		rc = start_serving(dev);
	if (rc < 0)
		return rc;
	rc = vdpa_vhu_info_write(dev);
	if (rc < 0)
		stop_for_error(dev);
	return rc;
}

static int
vhost_user_probe(struct vdpa_device *vdev, const struct vdpa_args *args)
{
	struct vhu_device *dev = calloc(1, sizeof(*dev));
	int rc;

	if (dev == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	pthread_mutex_init(&dev->lock, NULL);
	vdpa_vhu_conn_init(dev);
	dev->socket.listen.fd = -1;
	dev->vdev = vdev;
	dev->fds = vdpa_fd_account_create();
	rc = dev->fds == NULL ? vdpa_error(ENOMEM, "out of memory") : parse(dev, args);
	if (rc < 0)
		goto err_free;
	vdpa_device_set_doorbells(vdev, dev->doorbells);
	vdpa_device_add_connections(vdev, 0);
	dev->nvqs = vdpa_consumer_vq_count(vdev);
	offer(dev);

	rc = add_device(dev);
	if (rc < 0)
		goto err_free;
	vdpa_set_drvdata(vdev, dev);
	rc = vdpa_vhu_kept_init(dev);
	if (rc == 0)
		rc = appear(dev);
	if (rc == 0)
		return 0;
	vdpa_vhu_kept_end(dev);
	vdpa_set_drvdata(vdev, NULL);
	remove_device(dev);
err_free:
	free_device(dev);
	return rc;
}

/* A device that works while no process lives is let go of before anything stops it. */
static int
vhost_user_withdraw(struct vdpa_device *vdev, bool leave)
{
	struct vhu_device *dev = vdpa_get_drvdata(vdev);

	if (dev != NULL && vdpa_vhu_kept_leaves(dev))
		vdpa_vhu_conn_leave(dev);
	return 0;
}

static void
vhost_user_remove(struct vdpa_device *vdev)
{
	struct vhu_device *dev = vdpa_get_drvdata(vdev);
	bool leaves;

	if (dev == NULL)
		return;
	leaves = vdpa_vhu_kept_is_others(dev);
	/* Whoever reads the file may connect. */
	if (!leaves)
		vdpa_vhu_info_remove(dev);
	stop_serving(dev);
	vdpa_vhu_kept_end(dev);
	vdpa_set_drvdata(vdev, NULL);
	remove_device(dev);
	free_device(dev);
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

static void
vhost_user_doorbell_changed(struct vdpa_device *vdev, uint16_t qidx)
{
	struct vhu_device *dev = vdpa_get_drvdata(vdev);

	if (dev != NULL)
		vdpa_vhu_doorbell_changed(dev, qidx);
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
	bool notified, held;

	if (dev == NULL)
		return 0;
	held = vdpa_vhu_socket_is_held(dev);
	if (up && !held)
		return dev->serving ? 0 : start_serving(dev);
	pthread_mutex_lock(&dev->lock);
	notified = up || vdpa_vhu_wants_config(dev->session);
	if (held)
		dev->serving = notified;
	pthread_mutex_unlock(&dev->lock);
	if (!notified && !held)
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

static const char *
vhost_user_socket(struct vdpa_device *vdev, bool *client)
{
	const struct vhu_device *dev = vdpa_get_drvdata(vdev);

	if (dev == NULL)
		return NULL;
	*client = dev->client;
	return dev->path;
}

static const struct vdpa_frontend_ops vhost_user_ops = {
	.probe = vhost_user_probe,
	.withdraw = vhost_user_withdraw,
	.remove = vhost_user_remove,
	.config_changed = vhost_user_config_changed,
	.failed = vhost_user_failed,
	.set_link = vhost_user_set_link,
	.describe = vhost_user_describe,
	.doorbell_changed = vhost_user_doorbell_changed,
	.socket = vhost_user_socket,
	.check = vhost_user_check,
};

static const struct vdpa_param vhost_user_params[] = {
	{.name = "socket",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "PATH",
	 .min = 1,
	 .max = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1,
	 .unique = true,
	 .help = "unix socket that the front end (QEMU, virtio-user) connects to"},
	{.name = "client",
	 .type = VDPA_PARAM_FLAG,
	 .help = "connect to the socket, again and again, instead of creating it"},
	SOCKET_WORDS,
	{.name = "folder",
	 .type = VDPA_PARAM_MODE,
	 .metavar = "MODE",
	 .help = "create the folder of the socket, too, with these permissions (octal) and the "
		 "group, and remove it with the last device in it"},
	{.name = "label",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "CONTEXT",
	 .min = 1,
	 .max = 255,
	 .help = "SELinux context of the socket and of a folder that is created; default: the "
		 "policy's"},
	{.name = "device_info",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "FILE",
	 .min = 1,
	 .max = 4000,
	 .help = "write a device-info file for Kubernetes' network plugins, and remove it with "
		 "the device"},
	{.name = "doorbells",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = doorbell_choices,
	 .help = "who is given the doorbell pages of a function on vfio-pci; default uid"},
	{.name = "inflight",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = inflight_choices,
	 .help = "whether the front end keeps account of requests under way, so that they outlive "
		 "this process:"},
	{.name = "device_state",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = device_state_choices,
	 .help = "offer to save and load the device's state in a migration; default on for net, "
		 "off for others"},
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
