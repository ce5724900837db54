/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * One vhost-user connection: the consumer that it is to the core, and what the front end has lent
 * us beside guest memory: its dirty log, its inflight area.
 */

#include <errno.h>
#include <stdlib.h>

#include "error_priv.h"
#include "vdpa_event.h"
#include "vhost_user_priv.h"

const char *
vdpa_vhu_why(const struct vhu_device *dev, int64_t idx)
{
	return vdpa_error_cause(vdpa_error_message(), dev->vdev->name, idx);
}

static void
started(void *arg)
{
	vdpa_vhu_give_doorbells(arg);
}

static const struct vdpa_consumer_ops consumer_ops = {.started = started};

static struct vhu_session *
alloc_session(struct vhu_device *dev)
{
	struct vhu_session *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->dev = dev;
	s->backend_fd = -1;
	s->nrings = dev->nvqs;
	s->calls = calloc(dev->nvqs, sizeof(*s->calls));
	if (dev->kept.on)
		s->kept = vdpa_vhu_kept_session_new(dev->nvqs);
	if (vdpa_vhu_doorbells_init(s) == 0 && s->calls != NULL &&
	    (s->kept != NULL || !dev->kept.on))
		s->consumer = vdpa_consumer_new(dev->vdev, &consumer_ops, s);
	return s;
}

/* And without a consumer. */
static void
free_session(struct vhu_session *s)
{
	if (s == NULL)
		return;
	vdpa_vhu_kept_session_free(s->kept);
	free(s->doorbells);
	free(s->doorbell_changed);
	free(s->calls);
	free(s);
}

struct vhu_session *
vdpa_vhu_session_new(struct vhu_device *dev, const struct vdpa_peer *peer)
{
	struct vhu_session *s = alloc_session(dev);

	if (s == NULL || s->consumer == NULL) {
		vdpa_error(ENOMEM, "%s: out of memory", dev->vdev->name);
		free_session(s);
		return NULL;
	}
	if (vdpa_consumer_set_peer(s->consumer, peer) < 0) {
		vdpa_consumer_free(s->consumer);
		free_session(s);
		return NULL;
	}
	vdpa_consumer_limit_memory(s->consumer, VHU_MEM_SLOTS_MAX);
	s->peer = *peer;
	if (s->kept != NULL && !vdpa_device_runs_alone(dev->vdev) && !vdpa_vhu_planned_is(dev))
		(void)vdpa_consumer_set_inflight(s->consumer, dev->kept.areas->addr,
						 dev->kept.stride, dev->nvqs, true);
	return s;
}

void
vdpa_vhu_session_free(struct vhu_session *s)
{
	vdpa_vhu_doorbells_end(s);
	if (s->dev->stream != NULL)
		vdpa_vhu_stream_abandon(s->dev->stream);
	vdpa_consumer_free(s->consumer);
	for (uint16_t i = 0; i < s->nrings; i++)
		vdpa_vhu_call_free(s->calls[i]);
	vdpa_vhu_shm_unmap(s->log);
	vdpa_vhu_shm_unmap(s->inflight);
	(void)vdpa_close_foreign(s->dev->fds, s->backend_fd);
	free_session(s);
}

void
vdpa_vhu_session_advance(struct vhu_session *s)
{
	vdpa_consumer_advance(s->consumer);
	vdpa_vhu_give_doorbells(s);
}
