/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * One vhost-user connection: the consumer that it is to the core, and what the front end has lent
 * us beside guest memory: its dirty log, its inflight area.
 */

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

struct vhu_session *
vdpa_vhu_session_new(struct vhu_device *dev, const struct vdpa_peer *peer)
{
	struct vhu_session *s = calloc(1, sizeof(*s) + dev->nvqs * sizeof(s->doorbells[0]));

	if (s == NULL)
		return NULL;
	s->calls = calloc(dev->nvqs, sizeof(*s->calls));
	s->consumer = s->calls != NULL ? vdpa_consumer_new(dev->vdev, &consumer_ops, s) : NULL;
	if (s->consumer == NULL) {
		free(s->calls);
		free(s);
		return NULL;
	}
	vdpa_consumer_set_peer(s->consumer, peer);
	s->dev = dev;
	s->peer = *peer;
	s->backend_fd = -1;
	s->nrings = dev->nvqs;
	return s;
}

void
vdpa_vhu_session_free(struct vhu_session *s)
{
	for (uint16_t i = 0; i < s->nrings; i++)
		vdpa_vhu_take_doorbell(s, i);
	vdpa_consumer_free(s->consumer);
	for (uint16_t i = 0; i < s->nrings; i++)
		vdpa_vhu_call_free(s->calls[i]);
	free(s->calls);
	vdpa_vhu_shm_unmap(s->log);
	vdpa_vhu_shm_unmap(s->inflight);
	(void)vdpa_close_foreign(s->dev->fds, s->backend_fd);
	free(s);
}

void
vdpa_vhu_session_advance(struct vhu_session *s)
{
	vdpa_consumer_advance(s->consumer);
	vdpa_vhu_give_doorbells(s);
}
