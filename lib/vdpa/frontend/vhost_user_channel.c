/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What we tell a front end on its back-end channel: that the configuration changed, and where a
 * queue's doorbell is. Each is said once and without an answer, as a front end may be waiting for
 * one of ours; one that does not read loses what does not fit, and nothing else.
 *
 * A doorbell that the front end maps into its guest (a host notifier) makes a kick one write to the
 * device. The kick eventfd is served beside it: before the front end has mapped the page, and by
 * front ends that cannot, the queue is kicked as ever.
 */

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <rte_bitops.h>

#include "vdpa_log.h"
#include "vhost_user_priv.h"

static bool
has_channel(const struct vhu_session *s, uint64_t features)
{
	features |= VHU_PROTOCOL(BACKEND_REQ);
	return s != NULL && s->backend_fd >= 0 && (s->protocol & features) == features;
}

/*
 * Under the device's lock. fd -1: none goes with it. False: the message was lost, which is logged
 * once until something is.
 */
static bool
tell(struct vhu_session *s, const struct vhu_msg *msg, int fd, const char *what)
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
vdpa_vhu_wants_config(const struct vhu_session *s)
{
	return has_channel(s, VHU_PROTOCOL(CONFIG));
}

void
vdpa_vhu_tell_config(struct vhu_device *dev)
{
	const struct vhu_msg msg = {.request = VHU_BACKEND_CONFIG_CHANGE_MSG,
				    .flags = VHU_FLAGS_VERSION};

	pthread_mutex_lock(&dev->lock);
	if (vdpa_vhu_wants_config(dev->session))
		tell(dev->session, &msg, -1, "configuration change");
	pthread_mutex_unlock(&dev->lock);
}

/* Under the device's lock. No area: take it back. */
static bool
tell_doorbell(struct vhu_session *s, uint16_t idx, const struct vdpa_notification_area *area)
{
	struct vhu_msg msg = {.request = VHU_BACKEND_VRING_HOST_NOTIFIER_MSG,
			      .flags = VHU_FLAGS_VERSION,
			      .size = sizeof(msg.payload.area),
			      .payload.area = {.u64 = idx | (area == NULL ? VHU_FILE_NOFD : 0),
					       .size = area != NULL ? area->size : 0,
					       .offset = area != NULL ? area->offset : 0}};

	return tell(s, &msg, area != NULL ? area->fd : -1, "doorbell");
}

/* Front ends map whole pages, and QEMU exactly one. */
static bool
is_one_page(const struct vdpa_notification_area *area)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	return area->size == page && (area->offset & (page - 1)) == 0;
}

/* Under the device's lock: whether the page may go out by the channel there is now. */
static bool
may_give(struct vhu_session *s, uint16_t idx, const struct vdpa_notification_area *area)
{
	if (vdpa_device_give_page(s->dev->vdev, area, &s->peer, &s->channel) == 0)
		return true;
	VDPA_LOG_LIMITED(
		&s->dev->log, WARNING,
		"%s: vhost-user: queue %u: the doorbell is not given, kicks are relayed: %s",
		s->dev->vdev->name, idx, vdpa_vhu_why(s->dev, idx));
	return false;
}

static void
give_doorbell(struct vhu_session *s, uint16_t idx)
{
	struct vhu_device *dev = s->dev;
	struct vdpa_notification_area area;
	bool given, has_page;
	int rc;

	rc = vdpa_get_vq_notification(dev->vdev, idx, &area);
	has_page = rc == 0 && is_one_page(&area);
	if (!has_page)
		VDPA_LOG(DEBUG, "%s: vhost-user: queue %u: the doorbell is not given: %s",
			 dev->vdev->name, idx,
			 rc < 0 ? vdpa_vhu_why(dev, idx) : "it is not a page of its own");
	pthread_mutex_lock(&dev->lock);
	/* A connection that ends gets no message: its doorbells were taken back already. */
	given = has_page && dev->session == s && may_give(s, idx, &area) &&
		tell_doorbell(s, idx, &area);
	s->doorbells[idx] = given ? VHU_DOORBELL_GIVEN : VHU_DOORBELL_NONE;
	pthread_mutex_unlock(&dev->lock);
	/* Who failed meanwhile had nothing to take back yet. */
	if (vdpa_device_get_state(dev->vdev) == VDPA_STATE_FAILED)
		vdpa_vhu_take_doorbell(s, idx);
}

static bool
is_asked(struct vhu_session *s, uint16_t idx)
{
	bool asked;

	pthread_mutex_lock(&s->dev->lock);
	asked = s->doorbells[idx] != VHU_DOORBELL_NOT_ASKED;
	pthread_mutex_unlock(&s->dev->lock);
	return asked;
}

void
vdpa_vhu_give_doorbells(struct vhu_session *s)
{
	if (!has_channel(s, VHU_PROTOCOL(HOST_NOTIFIER) | VHU_PROTOCOL(BACKEND_SEND_FD)))
		return;
	for (uint16_t i = 0; i < s->nrings; i++)
		if (!is_asked(s, i) && vdpa_consumer_has_vq(s->consumer, i))
			give_doorbell(s, i);
}

/* Under the device's lock. */
static void
take_doorbell(struct vhu_session *s, uint16_t idx)
{
	if (s->doorbells[idx] == VHU_DOORBELL_GIVEN)
		tell_doorbell(s, idx, NULL);
	s->doorbells[idx] = VHU_DOORBELL_NOT_ASKED;
}

void
vdpa_vhu_take_doorbell(struct vhu_session *s, uint16_t idx)
{
	pthread_mutex_lock(&s->dev->lock);
	take_doorbell(s, idx);
	pthread_mutex_unlock(&s->dev->lock);
}

void
vdpa_vhu_take_doorbells(struct vhu_device *dev)
{
	pthread_mutex_lock(&dev->lock);
	for (uint16_t i = 0; dev->session != NULL && i < dev->session->nrings; i++)
		take_doorbell(dev->session, i);
	pthread_mutex_unlock(&dev->lock);
}

unsigned int
vdpa_vhu_count_doorbells(const struct vhu_session *s)
{
	unsigned int n = 0;

	for (uint16_t i = 0; s != NULL && i < s->nrings; i++)
		n += s->doorbells[i] == VHU_DOORBELL_GIVEN;
	return n;
}
