/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Doorbells to a vfio-user server that shares no page for them: REGION_WRITEs with No_reply, which
 * the specification allows for every command. They never wait.
 *
 * When the socket is full they wait in a backlog, in order, without one that waits there already (a
 * doorbell rung twice before it is heard is rung once), and go out when there is room. A server
 * that answers them against the specification is borne with: its answers are read and dropped.
 */

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "vfio_user_conn.h"

int
vdpa_vfu_flush_locked(struct vfu_conn *c)
{
	while (c->backlog_n != 0) {
		struct vfu_post *post = &c->backlog[c->backlog_first];
		struct iovec iov = {post, post->hdr.size};
		int rc = vdpa_vfu_send_locked(c, &iov, 1, NULL, 0);

		if (c->error != 0)
			return -c->error;
		if (rc < 0) {
			if (vdpa_now_us() - c->backlog_since_us > (int64_t)c->timeout_ms * 1000)
				return vdpa_vfu_end_locked(c, ETIMEDOUT, NULL,
							   "has not taken a doorbell for %u ms",
							   c->timeout_ms);
			return -EAGAIN;
		}
		c->backlog_first = (c->backlog_first + 1) % VFU_BACKLOG_MAX;
		c->backlog_n--;
		c->backlog_since_us = vdpa_now_us();
	}
	return 0;
}

void
vdpa_vfu_room_handler(struct vdpa_event *ev, uint32_t revents)
{
	struct vfu_conn *c = ev->arg;

	pthread_mutex_lock(&c->send);
	vdpa_vfu_flush_locked(c);
	pthread_mutex_unlock(&c->send);
	vdpa_vfu_tell(c);
	/* The last that it does: a disconnect need not wait for it once it is deleted. */
	pthread_mutex_lock(&c->send);
	if (c->backlog_n == 0) {
		c->room_awaited = false;
		vdpa_event_del(ev);
	}
	pthread_mutex_unlock(&c->send);
}

static int
put_backlog_locked(struct vfu_conn *c, const struct vfu_post *post)
{
	struct vdpa_event_loop *loop = vdpa_event_loop_control();

	for (unsigned int i = 0; i < c->backlog_n; i++) {
		const struct vfu_post *p = &c->backlog[(c->backlog_first + i) % VFU_BACKLOG_MAX];

		/* But for the id. */
		if (p->hdr.size == post->hdr.size &&
		    memcmp(&p->access, &post->access,
			   post->hdr.size - offsetof(struct vfu_post, access)) == 0)
			return 0;
	}
	if (c->backlog_n == VFU_BACKLOG_MAX)
		return vdpa_vfu_end_locked(c, ETIMEDOUT, NULL,
					   "does not take doorbells: %u wait for it",
					   VFU_BACKLOG_MAX);
	if (c->backlog_n == 0)
		c->backlog_since_us = vdpa_now_us();
	c->backlog[(c->backlog_first + c->backlog_n++) % VFU_BACKLOG_MAX] = *post;
	/* Without a loop, or when this fails, the next doorbell or request sends it. */
	if (!c->room_awaited && c->watched && loop != NULL && vdpa_event_add(loop, &c->room) == 0)
		c->room_awaited = true;
	return 0;
}

int
vdpa_vfu_post(struct vfu_conn *c, uint32_t region, uint64_t offset, const void *buf, size_t len)
{
	struct vfu_post post = {
		.hdr = {.command = VFIO_USER_REGION_WRITE,
			.size = (uint32_t)(offsetof(struct vfu_post, data) + len),
			.flags = VFIO_USER_TYPE_CMD | VFIO_USER_NO_REPLY},
		.access = {.offset = offset, .region = region, .count = (uint32_t)len},
	};
	struct iovec iov = {&post, post.hdr.size};
	uint64_t posts;
	int rc;

	if (len > sizeof(post.data))
		return -EINVAL;
	memcpy(post.data, buf, len);
	pthread_mutex_lock(&c->send);
	posts = c->posts + 1;
	__atomic_store_n(&c->posts, posts, __ATOMIC_RELAXED);
	post.hdr.id = (uint16_t)(posts | VFU_POST_ID);
	rc = vdpa_vfu_flush_locked(c);
	if (rc == 0)
		rc = vdpa_vfu_send_locked(c, &iov, 1, NULL, 0);
	if (rc < 0 && c->error == 0)
		rc = put_backlog_locked(c, &post);
	pthread_mutex_unlock(&c->send);
	if (rc == 0 && posts % VFU_DRAIN_EVERY == 0)
		vdpa_vfu_drain(c);
	vdpa_vfu_tell(c);
	return vdpa_vfu_error(c);
}
