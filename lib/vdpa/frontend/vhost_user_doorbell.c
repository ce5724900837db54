/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Doorbells of a front end. Owns what a session knows of who has which.
 *
 * A doorbell that the front end maps into its guest (a host notifier) makes a kick one write to the
 * device. The kick eventfd is served beside it: before the front end has mapped the page, and by
 * front ends that cannot, the queue is kicked as ever.
 *
 * A page is given when its queue starts, and taken back by a message when the queue stops. While
 * the queue runs the core may put something of ours between its ring and the device; then the page
 * is taken back, and given again when that ends. What the guest writes to the page meanwhile is
 * not heard by anybody. The front end does not say when it has unmapped the page, and it may be
 * waiting for us just then: so the queue is kicked at intervals, first short, then longer, for as
 * long as the message has not been read, and a while after that. Nobody waits for it.
 */

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <rte_common.h>

#include "clock.h"
#include "vdpa_log.h"
#include "vhost_user_priv.h"

/* Between two kicks of a queue whose page is being taken back: the first interval, which doubles up
 * to the longest. */
#define KICK_MS	     1
#define KICK_MS_MAX  1024
/* After a kick this long after the message was read, or more, the front end has unmapped the page,
 * and what its guest's CPUs were about to write has been written. */
#define SETTLED_MS   256
/* When a line says that a front end does not read. */
#define SAY_AFTER_US 5000000

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

	return vdpa_vhu_tell(s, &msg, area != NULL ? area->fd : -1, "doorbell");
}

/* Front ends map whole pages, and QEMU exactly one. */
static bool
is_one_page(const struct vdpa_notification_area *area)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	return area->size == page && (area->offset & (page - 1)) == 0;
}

/* Whether the queue has a doorbell to give. */
static bool
find_page(const struct vhu_device *dev, uint16_t idx, struct vdpa_notification_area *area)
{
	int rc = vdpa_get_vq_notification(dev->vdev, idx, area);
	bool found = rc == 0 && is_one_page(area);

	if (!found)
		VDPA_LOG(DEBUG, "%s: vhost-user: queue %u: the doorbell is not given: %s",
			 dev->vdev->name, idx,
			 rc < 0 ? vdpa_vhu_why(dev, idx) : "it is not a page of its own");
	return found;
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

/* Under the device's lock. A connection that ends gets no message: its doorbells were taken back
 * already. */
static bool
give(struct vhu_session *s, uint16_t idx, const struct vdpa_notification_area *area)
{
	if (s->dev->session != s || !may_give(s, idx, area))
		return false;
	vdpa_device_doorbell_given(s->dev->vdev, idx);
	return tell_doorbell(s, idx, area);
}

static void
give_doorbell(struct vhu_session *s, uint16_t idx)
{
	struct vhu_device *dev = s->dev;
	struct vdpa_notification_area area;
	bool found = find_page(dev, idx, &area);

	pthread_mutex_lock(&dev->lock);
	s->doorbells[idx] = found && give(s, idx, &area) ? VHU_DOORBELL_GIVEN : VHU_DOORBELL_NONE;
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
	if (!vdpa_vhu_has_channel(s, VHU_DOORBELL_PROTOCOL))
		return;
	for (uint16_t i = 0; i < s->nrings; i++)
		if (!is_asked(s, i) && vdpa_consumer_has_vq(s->consumer, i))
			give_doorbell(s, i);
}

/* Under the device's lock. */
static void
take_doorbell(struct vhu_session *s, uint16_t idx)
{
	if (s->doorbells[idx] == VHU_DOORBELL_GIVEN || s->doorbells[idx] == VHU_DOORBELL_TO_TAKE)
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

void
vdpa_vhu_leave_doorbells(struct vhu_session *s)
{
	pthread_mutex_lock(&s->dev->lock);
	for (uint16_t i = 0; i < s->nrings; i++)
		s->doorbells[i] = VHU_DOORBELL_NOT_ASKED;
	pthread_mutex_unlock(&s->dev->lock);
}

unsigned int
vdpa_vhu_count_doorbells(const struct vhu_session *s)
{
	unsigned int n = 0;

	for (uint16_t i = 0; s != NULL && i < s->nrings; i++)
		n += s->doorbells[i] == VHU_DOORBELL_GIVEN;
	return n;
}

/* What follows is the job's: while its queues run, doorbells come and go. */

static bool
take_change(struct vhu_session *s, uint16_t idx)
{
	bool changed;

	pthread_mutex_lock(&s->dev->lock);
	changed = s->doorbell_changed[idx];
	s->doorbell_changed[idx] = false;
	/* Of one that has stopped nothing is known until it starts. */
	changed = changed && s->doorbells[idx] != VHU_DOORBELL_NOT_ASKED;
	pthread_mutex_unlock(&s->dev->lock);
	return changed;
}

/* Under the device's lock: the message that takes the page back is sent by the next look. */
static void
begin_to_take(struct vhu_session *s, uint16_t idx)
{
	s->doorbells[idx] = VHU_DOORBELL_TO_TAKE;
	s->taking = (struct vhu_taking){.interval_ms = KICK_MS, .begun_us = vdpa_now_us()};
}

static void
settle_change(struct vhu_session *s, uint16_t idx)
{
	struct vdpa_notification_area area;
	bool found = find_page(s->dev, idx, &area);
	enum vhu_doorbell *doorbell = &s->doorbells[idx];

	pthread_mutex_lock(&s->dev->lock);
	/* It may have stopped meanwhile. */
	if (found && *doorbell != VHU_DOORBELL_NOT_ASKED && *doorbell != VHU_DOORBELL_GIVEN &&
	    give(s, idx, &area))
		*doorbell = VHU_DOORBELL_GIVEN;
	else if (!found && *doorbell == VHU_DOORBELL_GIVEN)
		begin_to_take(s, idx);
	pthread_mutex_unlock(&s->dev->lock);
	/* One that went and came between two looks leaves no trace but kicks that nobody heard. */
	if (found)
		vdpa_device_kick_vq(s->dev->vdev, idx);
}

/* Under the device's lock: send what is to be sent. How many queues have pages on their way back.
 */
static unsigned int
take_back(struct vhu_session *s, bool *sent)
{
	unsigned int n = 0;

	*sent = true;
	for (uint16_t i = 0; i < s->nrings; i++) {
		if (s->doorbells[i] == VHU_DOORBELL_TO_TAKE && tell_doorbell(s, i, NULL))
			s->doorbells[i] = VHU_DOORBELL_TAKEN;
		*sent = *sent && s->doorbells[i] != VHU_DOORBELL_TO_TAKE;
		n += s->doorbells[i] == VHU_DOORBELL_TO_TAKE ||
		     s->doorbells[i] == VHU_DOORBELL_TAKEN;
	}
	return n;
}

/* Under the device's lock. */
static void
say_unread(struct vhu_session *s)
{
	struct vhu_taking *taking = &s->taking;

	if (taking->said || taking->read || vdpa_now_us() - taking->begun_us < SAY_AFTER_US)
		return;
	taking->said = true;
	VDPA_LOG_LIMITED(&s->dev->log, WARNING,
			 "%s: vhost-user: the front end does not read that doorbells are taken "
			 "back: kicks of its guest are up to %d ms late",
			 s->dev->vdev->name, KICK_MS_MAX);
}

/* Under the device's lock: when is the next look. False: there is nothing more to look for. */
static bool
plan_look(struct vhu_session *s, unsigned int taking_n, bool sent)
{
	struct vhu_taking *taking = &s->taking;

	if (taking_n == 0)
		return false;
	if (!taking->read && sent && vdpa_vhu_all_is_read(s)) {
		taking->read = true;
		taking->interval_ms = KICK_MS;
	}
	if (taking->read && taking->interval_ms > SETTLED_MS)
		return false;
	say_unread(s);
	vdpa_timer_start(&s->doorbell_timer, taking->interval_ms);
	taking->interval_ms = RTE_MIN(2 * taking->interval_ms, (unsigned int)KICK_MS_MAX);
	return true;
}

/* Send what is to be sent, and kick the queues whose pages may still be written to. */
static void
look(struct vhu_session *s)
{
	bool kick[VDPA_VQ_MAX], sent, more;
	unsigned int n;

	pthread_mutex_lock(&s->dev->lock);
	if (s->ended) {
		pthread_mutex_unlock(&s->dev->lock);
		return;
	}
	n = take_back(s, &sent);
	more = plan_look(s, n, sent);
	for (uint16_t i = 0; i < s->nrings; i++) {
		kick[i] = s->doorbells[i] == VHU_DOORBELL_TO_TAKE ||
			  s->doorbells[i] == VHU_DOORBELL_TAKEN;
		if (kick[i] && !more)
			s->doorbells[i] = VHU_DOORBELL_NONE;
	}
	pthread_mutex_unlock(&s->dev->lock);
	for (uint16_t i = 0; i < s->nrings; i++)
		if (kick[i])
			vdpa_device_kick_vq(s->dev->vdev, i);
}

static void
doorbell_run(struct vdpa_work *work)
{
	struct vhu_session *s = work->arg;

	for (uint16_t i = 0; i < s->nrings; i++)
		if (take_change(s, i))
			settle_change(s, i);
	look(s);
	/* A queue has changed its path. */
	vdpa_vhu_record_look(s->dev);
}

static void
doorbell_expired(struct vdpa_timer *timer)
{
	struct vhu_session *s = timer->arg;

	vdpa_work_post(vdpa_get_work_queue(s->dev->vdev), &s->doorbell_work);
}

void
vdpa_vhu_doorbell_changed(struct vhu_device *dev, uint16_t idx)
{
	struct vhu_session *s;

	pthread_mutex_lock(&dev->lock);
	s = dev->session;
	if (s != NULL && !s->ended && idx < s->nrings) {
		s->doorbell_changed[idx] = true;
		vdpa_work_post(vdpa_get_work_queue(dev->vdev), &s->doorbell_work);
	}
	pthread_mutex_unlock(&dev->lock);
}

int
vdpa_vhu_doorbells_init(struct vhu_session *s)
{
	s->doorbells = calloc(s->nrings, sizeof(*s->doorbells));
	s->doorbell_changed = calloc(s->nrings, sizeof(*s->doorbell_changed));
	s->doorbell_work = (struct vdpa_work){.run = doorbell_run, .arg = s};
	s->doorbell_timer = (struct vdpa_timer){.expired = doorbell_expired, .arg = s};
	return s->doorbells == NULL || s->doorbell_changed == NULL ? -ENOMEM : 0;
}

void
vdpa_vhu_doorbells_stop(struct vhu_session *s)
{
	pthread_mutex_lock(&s->dev->lock);
	s->ended = true;
	pthread_mutex_unlock(&s->dev->lock);
	/* The timer posts the job, which no longer starts the timer. */
	vdpa_timer_stop(&s->doorbell_timer);
	vdpa_work_cancel(&s->doorbell_work);
}

void
vdpa_vhu_doorbells_end(struct vhu_session *s)
{
	for (uint16_t i = 0; i < s->nrings; i++)
		vdpa_vhu_take_doorbell(s, i);
	vdpa_vhu_doorbells_stop(s);
}
