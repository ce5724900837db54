/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What goes to a front end on its back-end channel: that the configuration changed, and where a
 * queue's doorbell is (vhost_user_doorbell.c). Each is said once and without an answer, as a front
 * end may be waiting for one of ours; one that does not read loses what does not fit, and nothing
 * else. Nothing is read here: a front end could send the other end of its connection, and its end
 * would never be seen. Whether a message has been read the kernel says.
 */

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/sockios.h>

#include "vdpa_log.h"
#include "vhost_user_priv.h"

bool
vdpa_vhu_has_channel(const struct vhu_session *s, uint64_t features)
{
	features |= VHU_PROTOCOL(BACKEND_REQ);
	return s != NULL && s->backend_fd >= 0 && (s->protocol & features) == features;
}

bool
vdpa_vhu_tell(struct vhu_session *s, const struct vhu_msg *msg, int fd, const char *what)
{
	if (vdpa_vhu_send(s->backend_fd, msg, fd) == (ssize_t)(VHU_HDR_SIZE + msg->size)) {
		s->message_lost = false;
		return true;
	}
	/* A front end that has disconnected needs no message. */
	if (!s->message_lost && errno != EPIPE && errno != ECONNRESET)
		VDPA_LOG_LIMITED(&s->dev->log, WARNING,
				 "%s: vhost-user: %s not sent on the back-end channel: %s",
				 s->dev->vdev->name, what, strerror(errno));
	s->message_lost = true;
	return false;
}

bool
vdpa_vhu_all_is_read(const struct vhu_session *s)
{
	int unread;

	return s->backend_fd >= 0 && ioctl(s->backend_fd, SIOCOUTQ, &unread) == 0 && unread == 0;
}

bool
vdpa_vhu_wants_config(const struct vhu_session *s)
{
	return vdpa_vhu_has_channel(s, VHU_PROTOCOL(CONFIG));
}

void
vdpa_vhu_tell_config(struct vhu_device *dev)
{
	const struct vhu_msg msg = {.request = VHU_BACKEND_CONFIG_CHANGE_MSG,
				    .flags = VHU_FLAGS_VERSION};

	pthread_mutex_lock(&dev->lock);
	if (vdpa_vhu_wants_config(dev->session))
		vdpa_vhu_tell(dev->session, &msg, -1, "configuration change");
	pthread_mutex_unlock(&dev->lock);
}
