/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The vhost-user front end: what rte_vhost calls, and what the core calls. Owns the devices, the
 * table of sessions by rte_vhost's connection number, and what is offered to a front end. One
 * connection at a time.
 */

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "vdpa_compat.h"
#include "vdpa_event.h"
#include "vdpa_log.h"
#include "vhost_user.h"
#include "vhost_user_priv.h"

#define SOCKET_MODE_DEFAULT 0600

/*
 * A front end keeps the control queue of a net device for itself (QEMU, virtio-user), so what hangs
 * on it is not offered. MQ and GUEST_ANNOUNCE are, as QEMU and virtio-user want the back end's word
 * for them too; they are between front end and guest, the device need not know.
 */
#define NET_FEATURES_MASKED                                                                        \
	(RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) | RTE_BIT64(VIRTIO_NET_F_CTRL_RX) |                       \
	 RTE_BIT64(VIRTIO_NET_F_CTRL_VLAN) | RTE_BIT64(VIRTIO_NET_F_CTRL_RX_EXTRA) |               \
	 RTE_BIT64(VIRTIO_NET_F_CTRL_MAC_ADDR) | RTE_BIT64(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))

/*
 * The devices, and the sessions by connection number. rte_vhost gives the number of a connection
 * that it drops for rte_vhost_driver_unregister() away before we hear of it, so each device has a
 * list of its sessions too, and an entry of the table may belong to somebody else by then.
 */
static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;
static TAILQ_HEAD(, vhu_device) devices = TAILQ_HEAD_INITIALIZER(devices);
static struct vhu_session *sessions[RTE_MAX_VHOST_DEVICE]; /* devices_lock */

static struct vhu_session *
session_of(int vid)
{
	struct vhu_session *s = NULL;

	if (vid >= 0 && vid < RTE_MAX_VHOST_DEVICE) {
		pthread_mutex_lock(&devices_lock);
		s = sessions[vid];
		pthread_mutex_unlock(&devices_lock);
	}
	return s;
}

/* rte_vhost names a connection by its socket. */
static struct vhu_device *
device_of(int vid)
{
	char path[PATH_MAX];
	struct vhu_device *dev;

	if (rte_vhost_get_ifname(vid, path, sizeof(path)) < 0)
		return NULL;
	pthread_mutex_lock(&devices_lock);
	TAILQ_FOREACH (dev, &devices, next)
		if (strcmp(dev->path, path) == 0)
			break;
	pthread_mutex_unlock(&devices_lock);
	return dev;
}

static void
publish(struct vhu_session *s)
{
	pthread_mutex_lock(&devices_lock);
	sessions[s->vid] = s;
	TAILQ_INSERT_TAIL(&s->dev->sessions, s, next);
	pthread_mutex_unlock(&devices_lock);
}

/* Under devices_lock. Whoever withdraws a session is the one to free it. */
static void
withdraw(struct vhu_session *s)
{
	TAILQ_REMOVE(&s->dev->sessions, s, next);
	if (sessions[s->vid] == s)
		sessions[s->vid] = NULL;
}

static bool
is_session_fd(const struct vhu_device *dev, int fd)
{
	const struct vhu_session *s;
	struct stat a, b;
	bool found = false;

	if (fstat(fd, &a) < 0)
		return true;
	pthread_mutex_lock(&devices_lock);
	TAILQ_FOREACH (s, &dev->sessions, next)
		found |= s->fd >= 0 && fstat(s->fd, &b) == 0 && a.st_ino == b.st_ino;
	pthread_mutex_unlock(&devices_lock);
	return found;
}

static bool
peer_is_gone(const struct vhu_session *s)
{
	struct pollfd p = {.fd = s->fd, .events = POLLRDHUP};

	return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0;
}

/* The core's loops no longer see the session. */
static void
detach(struct vhu_session *s)
{
	pthread_mutex_lock(&s->dev->lock);
	if (s->dev->session == s)
		s->dev->session = NULL;
	pthread_mutex_unlock(&s->dev->lock);
}

/* A session that a newer one has replaced holds no device any more: only rte_vhost does not know
 * yet. */
static void
replace_session(struct vhu_session *old)
{
	struct vhu_session *dead;

	dead = vdpa_vhu_session_new(old->dev, old->vid);
	pthread_mutex_lock(&devices_lock);
	withdraw(old);
	pthread_mutex_unlock(&devices_lock);
	if (dead != NULL) {
		dead->dead = true;
		dead->fd = old->fd;
		old->fd = -1;
		publish(dead);
	}
	detach(old);
	vdpa_vhu_session_free(old);
}

static int
pre_message(int vid, void *ctx)
{
	size_t offset = vdpa_compat_vhost_fds_offset();
	struct vhu_session *s = session_of(vid);
	struct vhu_device *dev = s != NULL ? s->dev : device_of(vid);
	int *fds = (int *)(void *)((char *)ctx + offset);
	struct vhu_msg *msg = ctx;

	if (s == NULL || s->dead) {
		msg->flags &= ~VHU_FLAGS_NEED_REPLY;
		for (int i = 0; i < fds[VHU_MSG_FDS_MAX] && i < VHU_MSG_FDS_MAX; i++)
			if (dev != NULL)
				(void)vdpa_close_foreign(dev->fds, fds[i]);
		return RTE_VHOST_MSG_RESULT_ERR;
	}
	return vdpa_vhu_handle(s, msg, fds, &fds[VHU_MSG_FDS_MAX]);
}

/* The reply was sent: what was sent with it is the front end's now. */
static int
post_message(int vid, void *ctx)
{
	int *fds = (int *)(void *)((char *)ctx + vdpa_compat_vhost_fds_offset());
	int *nfds = &fds[VHU_MSG_FDS_MAX];

	for (int i = 0; i < *nfds; i++)
		close(fds[i]);
	*nfds = 0;
	return RTE_VHOST_MSG_RESULT_OK;
}

static const struct rte_vhost_user_extern_ops extern_ops = {
	.pre_msg_handle = pre_message,
	.post_msg_handle = post_message,
};

static int
new_connection(int vid)
{
	struct vhu_device *dev = device_of(vid);
	struct vhu_session *s, *old;
	int fd;

	if (dev == NULL)
		return -1;
	pthread_mutex_lock(&dev->lock);
	old = dev->session;
	pthread_mutex_unlock(&dev->lock);
	if (old != NULL && !peer_is_gone(old)) {
		VDPA_LOG(ERR,
			 "%s: vhost-user: second connection to %s refused: the device has a front "
			 "end",
			 dev->vdev->name, dev->path);
		return -1;
	}
	if (vid < 0 || vid >= RTE_MAX_VHOST_DEVICE)
		return -1;
	if (vdpa_fd_account_full(dev->fds)) {
		VDPA_LOG(ERR,
			 "%s: vhost-user: connection to %s refused: %u file descriptors that front "
			 "ends have sent do not close",
			 dev->vdev->name, dev->path, vdpa_fd_account_waiting(dev->fds));
		return -1;
	}
	fd = vdpa_vhu_socket_claim(dev, is_session_fd);
	if (fd < 0) {
		VDPA_LOG(ERR, "%s: vhost-user: connection refused: no time-out can be set on it",
			 dev->vdev->name);
		return -1;
	}
	/* A front end that came back before rte_vhost has noticed its end. */
	if (old != NULL)
		replace_session(old);
	s = vdpa_vhu_session_new(dev, vid);
	if (s == NULL || rte_vhost_extern_callback_register(vid, &extern_ops, NULL) < 0) {
		VDPA_LOG(ERR, "%s: vhost-user: connection refused: out of memory", dev->vdev->name);
		free(s);
		close(fd);
		return -1;
	}
	s->fd = fd;
	publish(s);
	pthread_mutex_lock(&dev->lock);
	dev->session = s;
	pthread_mutex_unlock(&dev->lock);
	VDPA_LOG(INFO, "%s: vhost-user: connected", dev->vdev->name);
	return 0;
}

static void
destroy_connection(int vid)
{
	struct vhu_session *s = session_of(vid);

	if (s == NULL)
		return;
	pthread_mutex_lock(&devices_lock);
	withdraw(s);
	pthread_mutex_unlock(&devices_lock);
	detach(s);
	if (!s->dead) {
		/* rte_vhost ends a connection by itself for a message that never came to us. */
		if (!s->refused && !peer_is_gone(s))
			VDPA_LOG(ERR,
				 "%s: vhost-user: message refused: truncated, too large or for a "
				 "queue that cannot be",
				 s->dev->vdev->name);
		VDPA_LOG(INFO, "%s: vhost-user: disconnected", s->dev->vdev->name);
	}
	vdpa_vhu_session_free(s);
}

/* rte_vhost never believes a device of ours to be ready; it wants these all the same. */
static int
new_device(int vid)
{
	return 0;
}

static void
destroy_device(int vid)
{
}

static const struct rte_vhost_device_ops device_ops = {
	.new_device = new_device,
	.destroy_device = destroy_device,
	.new_connection = new_connection,
	.destroy_connection = destroy_connection,
};

/* On return no callback of this device runs or will; the socket is gone. */
static void
stop_serving(struct vhu_device *dev)
{
	if (!dev->serving)
		return;
	rte_vhost_driver_unregister(dev->path);
	dev->serving = false;
	/* rte_vhost closes the connections without a word. */
	for (;;) {
		struct vhu_session *s;

		pthread_mutex_lock(&devices_lock);
		s = TAILQ_FIRST(&dev->sessions);
		if (s != NULL)
			withdraw(s);
		pthread_mutex_unlock(&devices_lock);
		if (s == NULL)
			return;
		detach(s);
		vdpa_vhu_session_free(s);
	}
}

static int
start_serving(struct vhu_device *dev)
{
	const char *path = dev->path;
	int rc;

	if (!dev->client) {
		rc = vdpa_vhu_socket_clear(path);
		if (rc < 0)
			return rc;
	}
	if (rte_vhost_driver_register(path, dev->client ? RTE_VHOST_USER_CLIENT : 0) < 0)
		return vdpa_error(EIO, "socket '%s': rte_vhost_driver_register failed", path);
	if (rte_vhost_driver_set_features(path, dev->features) < 0 ||
	    rte_vhost_driver_set_protocol_features(path, dev->protocol) < 0 ||
	    rte_vhost_driver_callback_register(path, &device_ops) < 0) {
		rc = vdpa_error(EIO, "socket '%s': rte_vhost refuses the device", path);
		goto err;
	}
	rc = vdpa_vhu_socket_start(dev);
	if (rc < 0)
		goto err;
	dev->serving = true;
	return 0;

err:
	/* Somebody may be connected already. */
	dev->serving = true;
	stop_serving(dev);
	return rc;
}

static void
offer(struct vhu_device *dev)
{
	struct vdpa_device *vdev = dev->vdev;

	dev->features = vdpa_get_device_features(vdev);
	/* Addresses reach us as guest physical ones; we serve no IOTLB messages. */
	dev->features &= ~RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM);
	dev->protocol = RTE_BIT64(VHOST_USER_PROTOCOL_F_MQ) |
			RTE_BIT64(VHOST_USER_PROTOCOL_F_REPLY_ACK) |
			RTE_BIT64(VHOST_USER_PROTOCOL_F_BACKEND_REQ) |
			RTE_BIT64(VHOST_USER_PROTOCOL_F_CONFIG) |
			RTE_BIT64(VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD) |
			RTE_BIT64(VHOST_USER_PROTOCOL_F_RESET_DEVICE) |
			RTE_BIT64(VHOST_USER_PROTOCOL_F_STATUS);
	if (dev->is_net) {
		dev->features &= ~NET_FEATURES_MASKED;
		dev->features |= RTE_BIT64(VIRTIO_NET_F_GUEST_ANNOUNCE);
		if (dev->nvqs > 2)
			dev->features |= RTE_BIT64(VIRTIO_NET_F_MQ);
		dev->protocol |= RTE_BIT64(VHOST_USER_PROTOCOL_F_RARP) |
				 RTE_BIT64(VHOST_USER_PROTOCOL_F_NET_MTU);
	}
	if (vdpa_has_vq_notification(vdev) && !dev->no_doorbells)
		dev->protocol |= RTE_BIT64(VHOST_USER_PROTOCOL_F_HOST_NOTIFIER);
	if (vdpa_has_inflight(vdev))
		dev->protocol |= RTE_BIT64(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
	dev->features |= RTE_BIT64(VHOST_USER_F_PROTOCOL_FEATURES);
	if (vdpa_has_log(vdev)) {
		dev->features |= RTE_BIT64(VHOST_F_LOG_ALL);
		dev->protocol |= RTE_BIT64(VHOST_USER_PROTOCOL_F_LOG_SHMFD);
	}
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
	dev->no_doorbells = vdpa_args_has(args, "no_doorbells");
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
	TAILQ_INIT(&dev->sessions);
	dev->vdev = vdev;
	dev->fds = vdpa_fd_account_create();
	rc = dev->fds == NULL ? vdpa_error(ENOMEM, "out of memory") : parse(dev, args);
	if (rc < 0)
		goto err_free;
	dev->is_net = vdpa_get_device_id(vdev) == VIRTIO_ID_NET;
	dev->nvqs = vdpa_get_vq_count(vdev);
	/* The control queue comes behind the pairs. */
	if (dev->is_net)
		dev->nvqs &= (uint16_t)~1u;
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
	for (uint16_t i = 0; dev->session != NULL && i < dev->session->nrings; i++)
		if (dev->session->rings[i].err_fd >= 0 && (qidx < 0 || qidx == i))
			vdpa_eventfd_signal(dev->session->rings[i].err_fd);
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
	bool told;

	if (dev == NULL)
		return 0;
	if (up)
		return dev->serving ? 0 : start_serving(dev);
	pthread_mutex_lock(&dev->lock);
	told = vdpa_vhu_wants_config(dev->session);
	pthread_mutex_unlock(&dev->lock);
	if (!told)
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
};
