/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The record of a connection: written after each message, before the device acts on it and before
 * its reply leaves; read by the next process, which acts on it in vhost_user_apply.c. So everything
 * in it is checked as a front end's words are.
 *
 * A ring that is set up may run from the next moment on, and no later record says so: the next
 * process looks at the ring itself for where it stands. Its inflight area is cleared before the
 * first record that has it set up, so that what stands there is of this ring.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_common.h>

#include "error_priv.h"
#include "restart.h"
#include "tlv.h"
#include "vdpa_error.h"
#include "vdpa_log.h"
#include "vhost_user_priv.h"

/* Types of parts, behind restart.c's own. What a part says may grow at its end. */
enum {
	PART_LISTENER = 16,
	PART_CONNECTION,
	PART_COLD,
	PART_REPLY,
	PART_REGION,
	PART_RING,
	PART_LOG,
	PART_INFLIGHT,
	PART_CHANNEL,
	PART_CONFIG,
	PART_STATE,  /* what the control queue has set counts (kept_state.c) */
	PART_FOLDER, /* the socket's folder is to be removed with the last device in it */
#ifdef UVDPA_NEXT
	PART_NEXT, /* of the version after this one, which tests play */
	PART_LAST = PART_NEXT,
#elif defined(UVDPA_EARLIER)
	PART_LAST = PART_CONFIG, /* of a version before this one, which tests play */
#else
	PART_LAST = PART_FOLDER,
#endif
};

struct part_listener {
	uint64_t dev, ino;
};

struct part_connection {
	uint64_t serial, done, protocol, features;
	uint32_t refusals;
	uint8_t status, has_features, padding[2];
};

struct part_reply {
	uint64_t fd;
	struct vhu_msg msg; /* as far as it goes */
} __attribute__((packed));

struct part_region {
	struct vhu_mem_region region;
	uint64_t id;
};

#define RING_ANNOUNCED 0x01u
#define RING_RUNS      0x02u
#define RING_REFUSED   0x04u
#define RING_ENABLED   0x08u
#define RING_ADDR      0x10u
#define RING_BASE      0x20u
#define RING_KICK      0x40u
#define RING_STOPPED   0x80u

struct part_ring {
	uint16_t idx, flags;
	uint32_t num;
	uint32_t base, padding;
	uint64_t desc, driver, device, log;
	uint64_t kick, call, err;
};

struct part_log {
	struct vhu_log area;
	uint64_t id;
};

struct part_inflight {
	struct vhu_inflight area;
	uint64_t id;
};

struct part_channel {
	uint64_t id;
};

_Static_assert(sizeof(struct part_connection) == 40, "PART_CONNECTION");
_Static_assert(sizeof(struct part_region) == 40, "PART_REGION");
_Static_assert(sizeof(struct part_ring) == 72, "PART_RING");
_Static_assert(sizeof(struct part_log) == 24, "PART_LOG");
_Static_assert(sizeof(struct part_inflight) == 32, "PART_INFLIGHT");

struct vhu_kept_session *
vdpa_vhu_kept_session_new(uint16_t nrings)
{
	struct vhu_kept_session *k = calloc(1, sizeof(*k) + nrings * sizeof(k->rings[0]));

	if (k != NULL)
		k->nrings = nrings;
	return k;
}

void
vdpa_vhu_kept_session_free(struct vhu_kept_session *k)
{
	if (k == NULL)
		return;
	free(k->live.live);
	free(k);
}

/* What messages say. */

static bool
is_region(const struct vhu_mem_region *a, const struct vhu_mem_region *b)
{
	return a->guest_addr == b->guest_addr && a->user_addr == b->user_addr && a->size == b->size;
}

static void
note_region(struct vhu_kept_session *k, const struct vhu_mem_region *region, vhu_kept_id id)
{
	for (unsigned int i = 0; i < k->nregions; i++)
		if (is_region(&k->regions[i].region, region))
			return;
	if (k->nregions == VHU_MEM_SLOTS_MAX)
		k->lost = true;
	else
		k->regions[k->nregions++] = (struct vhu_kept_region){.region = *region, .id = id};
}

static void
note_no_region(struct vhu_kept_session *k, const struct vhu_mem_region *region)
{
	for (unsigned int i = 0; i < k->nregions; i++) {
		if (!is_region(&k->regions[i].region, region))
			continue;
		k->nregions--;
		memmove(&k->regions[i], &k->regions[i + 1],
			(k->nregions - i) * sizeof(k->regions[0]));
		return;
	}
}

static void
note_table(struct vhu_kept_session *k, const struct vhu_received *req)
{
	const struct vhu_memory *memory = &req->msg->payload.memory;

	k->nregions = 0;
	for (unsigned int i = 0; i < memory->nregions; i++)
		note_region(k, &memory->regions[i], req->ids[i]);
}

/* The last word for each place counts. */
static void
note_config(struct vhu_kept_session *k, const struct vhu_config *config)
{
	unsigned int i = 0;

	while (i < k->nconfigs &&
	       (k->configs[i].offset != config->offset || k->configs[i].size != config->size))
		i++;
	if (i == VHU_KEPT_CONFIGS) {
		k->lost = true;
		return;
	}
	k->configs[i] = *config;
	k->nconfigs = RTE_MAX(k->nconfigs, i + 1);
}

void
vdpa_vhu_record_note(struct vhu_received *req)
{
	struct vhu_session *s = req->s;
	struct vhu_kept_session *k = s->kept;
	const struct vhu_msg *msg = req->msg;
	vhu_kept_id id = req->nfds > 0 ? req->ids[0] : 0;

	switch (msg->request) {
	case VHU_SET_MEM_TABLE:
		note_table(k, req);
		break;
	case VHU_ADD_MEM_REG:
		note_region(k, &msg->payload.slot.region, id);
		break;
	case VHU_REM_MEM_REG:
		note_no_region(k, &msg->payload.slot.region);
		break;
	case VHU_SET_VRING_KICK:
		k->rings[req->idx].kick = id;
		break;
	case VHU_SET_VRING_CALL:
		k->rings[req->idx].call = id;
		break;
	case VHU_SET_VRING_ERR:
		k->rings[req->idx].err = id;
		break;
	case VHU_SET_LOG_BASE:
		k->log = id;
		k->log_area = msg->payload.log;
		break;
	case VHU_SET_BACKEND_REQ_FD:
		k->channel = id;
		break;
	case VHU_SET_CONFIG:
		note_config(k, &msg->payload.config);
		break;
	case VHU_SET_INFLIGHT_FD:
		k->inflight = id;
		k->inflight_area = msg->payload.inflight;
		break;
	case VHU_GET_INFLIGHT_FD:
		if (vdpa_vhu_kept_own_fd(s->dev, req->reply_fd, &k->inflight) < 0)
			vdpa_vhu_kept_stop(s->dev, vdpa_vhu_why(s->dev, -1));
		req->reply_id = k->inflight;
		k->inflight_area = msg->payload.inflight;
		break;
	default:
		break;
	}
}

/* Write. */

static const char *
why_cold(const struct vhu_session *s)
{
	struct vdpa_device *vdev = s->dev->vdev;
	const char *tie = vdpa_vhu_planned_is(s->dev) ? NULL : vdpa_device_find_tie(vdev);
	uint64_t features;

	if (tie != NULL)
		return tie;
	if (s->kept->lost)
		return "it has said more than is remembered";
	if (s->move != VHU_MOVE_NONE)
		return "its device's state is being moved";
	for (uint16_t i = 0; i < s->nrings; i++)
		if (s->calls[i] != NULL)
			return "its calls come by a socket, as User-mode Linux has it";
	if (!vdpa_consumer_has_features(s->consumer, &features))
		return NULL;
	if (vdpa_consumer_has_requests(s->consumer))
		return KEPT_REQUESTS;
	if (vdpa_consumer_holds_state(s->consumer))
		return "its device is stopped, and has a state that ends with the process";
	return vdpa_kept_state_why_cold(&s->dev->kept.state, vdev, features);
}

/* The same, of a kill alone. */
static const char *
why_crash(const struct vhu_session *s)
{
	bool stopped = s->nrings > 0 && s->kept->rings[0].stopped;

	return vdpa_vhu_planned_is(s->dev) && !stopped ? s->dev->kept.planned.crash : NULL;
}

static void
put_ring(struct vdpa_tlv_buf *buf, struct vhu_session *s, uint16_t idx)
{
	struct vhu_kept_ring *ring = &s->kept->rings[idx];
	struct vdpa_consumer_vq_facts f;
	struct part_ring part;

	if (ring->stopped)
		f = ring->facts;
	else
		vdpa_consumer_get_vq_facts(s->consumer, idx, &f);
	/* What the consumer has closed is nobody's any more. */
	if (f.kick_fd < 0)
		ring->kick = 0;
	if (f.call_fd < 0)
		ring->call = 0;
	if (f.runs && !ring->ran && s->inflight == NULL)
		memset(s->dev->kept.areas->addr + idx * s->dev->kept.stride, 0,
		       s->dev->kept.stride);
	ring->ran = f.runs;
	if (!f.announced && !f.has_base && ring->call == 0 && ring->err == 0)
		return;
	part = (struct part_ring){
		.idx = idx,
		.flags = (f.announced ? RING_ANNOUNCED : 0) | (f.runs ? RING_RUNS : 0) |
			 (f.refused ? RING_REFUSED : 0) | (f.enabled ? RING_ENABLED : 0) |
			 (f.has_addr ? RING_ADDR : 0) | (f.has_base ? RING_BASE : 0) |
			 (f.has_kick ? RING_KICK : 0) | (ring->stopped ? RING_STOPPED : 0),
		.num = f.num,
		.base = f.base,
		.desc = f.addr.desc,
		.driver = f.addr.driver,
		.device = f.addr.device,
		.log = f.addr.log,
		.kick = ring->kick,
		.call = ring->call,
		.err = ring->err,
	};
	(void)vdpa_tlv_put(buf, PART_RING, 0, &part, sizeof(part));
}

static void
put_connection(struct vdpa_tlv_buf *buf, struct vhu_session *s, const struct vhu_msg *reply,
	       vhu_kept_id fd)
{
	struct vhu_kept_session *k = s->kept;
	struct part_connection part = {
		.serial = s->dev->kept.wire.serial,
		.done = k->done,
		.protocol = s->protocol,
		.refusals = s->refusals,
		.status = vdpa_consumer_driver_status(s->consumer),
	};
	const struct part_log log = {.area = k->log_area, .id = k->log};
	const struct part_inflight inflight = {.area = k->inflight_area, .id = k->inflight};

	part.has_features = vdpa_consumer_has_features(s->consumer, &part.features);
	(void)vdpa_tlv_put(buf, PART_CONNECTION, VDPA_TLV_CRITICAL, &part, sizeof(part));
	if (reply != NULL) {
		struct part_reply r = {.fd = fd};

		memcpy(&r.msg, reply, VHU_HDR_SIZE + reply->size);
		(void)vdpa_tlv_put(buf, PART_REPLY, VDPA_TLV_CRITICAL, &r,
				   (uint32_t)(sizeof(r.fd) + VHU_HDR_SIZE + reply->size));
	}
	for (unsigned int i = 0; i < k->nregions; i++) {
		const struct part_region region = {.region = k->regions[i].region,
						   .id = k->regions[i].id};

		(void)vdpa_tlv_put(buf, PART_REGION, VDPA_TLV_CRITICAL, &region, sizeof(region));
	}
	for (uint16_t i = 0; i < s->nrings; i++)
		put_ring(buf, s, i);
	if (k->log != 0)
		(void)vdpa_tlv_put(buf, PART_LOG, VDPA_TLV_CRITICAL, &log, sizeof(log));
	if (k->inflight != 0)
		(void)vdpa_tlv_put(buf, PART_INFLIGHT, VDPA_TLV_CRITICAL, &inflight,
				   sizeof(inflight));
	if (k->channel != 0)
		(void)vdpa_tlv_put(buf, PART_CHANNEL, VDPA_TLV_CRITICAL, &k->channel,
				   sizeof(k->channel));
	if (part.has_features &&
	    vdpa_kept_state_counts(&s->dev->kept.state, s->dev->vdev, part.features))
		(void)vdpa_tlv_put(buf, PART_STATE, VDPA_TLV_CRITICAL, NULL, 0);
	for (unsigned int i = 0; i < k->nconfigs; i++)
		(void)vdpa_tlv_put(buf, PART_CONFIG, VDPA_TLV_CRITICAL, &k->configs[i],
				   (uint32_t)(VHU_CONFIG_HDR_SIZE + k->configs[i].size));
}

/* What the record that was written names. */
static bool
names(vhu_kept_id id, void *arg)
{
	const struct vhu_kept_session *k = arg;

	if (id == k->log || id == k->inflight || id == k->channel)
		return true;
	for (unsigned int i = 0; i < k->nregions; i++)
		if (k->regions[i].id == id)
			return true;
	for (uint16_t i = 0; i < k->nrings; i++)
		if (k->rings[i].kick == id || k->rings[i].call == id || k->rings[i].err == id)
			return true;
	return false;
}

int
vdpa_vhu_record_write(struct vhu_device *dev, const struct vhu_msg *reply, vhu_kept_id fd)
{
	const struct vdpa_listen *l = &dev->socket.listen;
	const struct part_listener listener = {.dev = l->dev, .ino = l->ino};
	struct vhu_session *s = dev->session;
	struct vdpa_tlv_buf buf = {.size = VDPA_RESTART_RECORD_MAX};
	const char *cold = s != NULL ? why_cold(s) : NULL, *crash;
	int rc;

	buf.data = malloc(buf.size);
	if (buf.data == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	if (l->fd >= 0)
		(void)vdpa_tlv_put(&buf, PART_LISTENER, 0, &listener, sizeof(listener));
	if (vdpa_vhu_folder_is_made(dev))
		(void)vdpa_tlv_put(&buf, PART_FOLDER, 0, NULL, 0);
	if (s != NULL)
		put_connection(&buf, s, reply, fd);
	crash = cold == NULL && s != NULL ? why_crash(s) : cold;
	if (crash != NULL)
		(void)vdpa_tlv_put(&buf, PART_COLD, 0, crash, (uint32_t)strlen(crash));
#ifdef UVDPA_NEXT
	(void)vdpa_tlv_put(&buf, PART_NEXT, UVDPA_NEXT, "next", 4);
#endif
	if (cold != NULL && !dev->kept.said)
		VDPA_LOG_LIMITED(&dev->log, NOTICE,
				 "%s: vhost-user: this connection ends with the process: %s",
				 dev->vdev->name, cold);
	if (dev->kept.said != (cold != NULL))
		vdpa_restart_says(dev->vdev->name, cold);
	dev->kept.said = cold != NULL;
	rc = buf.overflow ? vdpa_error(EMSGSIZE, "its state is too long to be kept")
			  : vdpa_restart_write(dev->vdev->name, buf.data, buf.len);
	free(buf.data);
	if (rc == 0 && s != NULL) {
		s->kept->has_reply = reply != NULL;
		if (reply != NULL)
			s->kept->reply = *reply;
		s->kept->reply_fd = fd;
		vdpa_wire_drop(&dev->kept.wire, &s->kept->live, s->kept->done, names, s->kept);
	}
	return rc;
}

void
vdpa_vhu_record_look(struct vhu_device *dev)
{
	const struct vhu_session *s = dev->session;
	const struct vhu_kept_session *k = s != NULL ? s->kept : NULL;

	if (k == NULL || !dev->kept.on || dev->kept.said == (why_cold(s) != NULL))
		return;
	if (vdpa_vhu_record_write(dev, k->has_reply ? &k->reply : NULL, k->reply_fd) < 0)
		vdpa_vhu_kept_stop(dev, vdpa_vhu_why(dev, -1));
}

/* Read. */

/* The beginning of a part: one that is too short is no such part; what a later version has added
 * is not looked at. */
static bool
get(const struct vdpa_tlv *tlv, void *part, size_t size)
{
	if (tlv->len < size)
		return false;
	memcpy(part, tlv->data, size);
	return true;
}

static bool
read_connection(struct vhu_record *r, const struct vdpa_tlv *tlv)
{
	struct part_connection part;

	if (r->has_connection || !get(tlv, &part, sizeof(part)))
		return false;
	r->has_connection = true;
	r->has_features = part.has_features != 0;
	r->connection.serial = part.serial;
	r->connection.done = part.done;
	r->connection.protocol = part.protocol;
	r->connection.features = part.features;
	r->connection.refusals = part.refusals;
	r->connection.status = part.status;
	return true;
}

static bool
read_reply(struct vhu_record *r, const struct vdpa_tlv *tlv)
{
	const size_t head = sizeof(uint64_t) + VHU_HDR_SIZE;

	if (r->has_reply || tlv->len < head || tlv->len > sizeof(uint64_t) + sizeof(r->reply))
		return false;
	memcpy(&r->reply_fd, tlv->data, sizeof(uint64_t));
	memcpy(&r->reply, tlv->data + sizeof(uint64_t), tlv->len - sizeof(uint64_t));
	r->has_reply = true;
	return r->reply.size == tlv->len - head;
}

static bool
read_ring(struct vhu_record *r, const struct vdpa_tlv *tlv)
{
	struct vhu_record_ring *ring = &r->rings[r->nrings];
	struct part_ring part;

	if (r->nrings == RTE_DIM(r->rings) || !get(tlv, &part, sizeof(part)) ||
	    part.idx >= RTE_DIM(r->rings) ||
	    (r->nrings > 0 && part.idx <= r->rings[r->nrings - 1].idx))
		return false;
	*ring = (struct vhu_record_ring){
		.idx = part.idx,
		.facts = {.announced = (part.flags & RING_ANNOUNCED) != 0,
			  .runs = (part.flags & RING_RUNS) != 0,
			  .refused = (part.flags & RING_REFUSED) != 0,
			  .enabled = (part.flags & RING_ENABLED) != 0,
			  .has_addr = (part.flags & RING_ADDR) != 0,
			  .has_base = (part.flags & RING_BASE) != 0,
			  .has_kick = (part.flags & RING_KICK) != 0,
			  .num = part.num,
			  .base = part.base,
			  .addr = {.desc = part.desc,
				   .driver = part.driver,
				   .device = part.device,
				   .log = part.log},
			  .kick_fd = -1,
			  .call_fd = -1},
		.stopped = (part.flags & RING_STOPPED) != 0,
		.kick = part.kick,
		.call = part.call,
		.err = part.err,
	};
	r->nrings++;
	return true;
}

static bool
read_region(struct vhu_record *r, const struct vdpa_tlv *tlv)
{
	struct part_region part;

	if (r->nregions == RTE_DIM(r->regions) || !get(tlv, &part, sizeof(part)))
		return false;
	r->regions[r->nregions++] = (struct vhu_kept_region){.region = part.region, .id = part.id};
	return true;
}

static bool
read_config(struct vhu_record *r, const struct vdpa_tlv *tlv)
{
	struct vhu_config *config = &r->configs[r->nconfigs];

	if (r->nconfigs == RTE_DIM(r->configs) || tlv->len < VHU_CONFIG_HDR_SIZE ||
	    tlv->len > sizeof(*config))
		return false;
	memcpy(config, tlv->data, tlv->len);
	r->nconfigs++;
	return config->size == tlv->len - VHU_CONFIG_HDR_SIZE;
}

static bool
read_part(struct vhu_record *r, const struct vdpa_tlv *tlv)
{
	struct part_listener listener;
	struct part_log log;
	struct part_inflight inflight;

	switch (tlv->type) {
	case PART_LISTENER:
		if (!get(tlv, &listener, sizeof(listener)))
			return false;
		r->has_listener = true;
		r->listener.dev = listener.dev;
		r->listener.ino = listener.ino;
		return true;
	case PART_CONNECTION:
		return read_connection(r, tlv);
	case PART_COLD:
		snprintf(r->cold, sizeof(r->cold), "%.*s", (int)RTE_MIN(tlv->len, 255u),
			 (const char *)tlv->data);
		return tlv->len > 0;
#ifdef UVDPA_NEXT
	case PART_NEXT:
		VDPA_LOG(NOTICE, "the next version's field is there");
		return tlv->len == 4 && memcmp(tlv->data, "next", 4) == 0;
#endif
	case PART_REPLY:
		return read_reply(r, tlv);
	case PART_REGION:
		return read_region(r, tlv);
	case PART_RING:
		return read_ring(r, tlv);
	case PART_LOG:
		if (!get(tlv, &log, sizeof(log)))
			return false;
		r->log_area = log.area;
		r->log = log.id;
		return true;
	case PART_INFLIGHT:
		if (!get(tlv, &inflight, sizeof(inflight)))
			return false;
		r->inflight_area = inflight.area;
		r->inflight = inflight.id;
		return true;
	case PART_STATE:
		return tlv->len == 0;
	case PART_FOLDER:
		r->folder_made = true;
		return true;
	case PART_CHANNEL:
		return get(tlv, &r->channel, sizeof(r->channel));
	default:
		return read_config(r, tlv);
	}
}

static int
read_parts(struct vhu_record *r, const uint8_t *bytes, size_t len)
{
	struct vdpa_tlv_reader reader = {.data = bytes, .left = len, .what = "the record"};
	struct vdpa_tlv tlv;
	int rc;

	while ((rc = vdpa_tlv_next(&reader, &tlv)) == 1) {
		if (tlv.type < PART_LISTENER || tlv.type > PART_LAST)
			rc = vdpa_tlv_unknown(&reader, &tlv, PART_LAST);
		else if (!read_part(r, &tlv))
			rc = vdpa_error(EPROTO, "part %u of its record is not one", tlv.type);
		if (rc < 0)
			return rc;
	}
	return rc;
}

int
vdpa_vhu_record_read(struct vhu_device *dev, struct vhu_record **record)
{
	uint8_t *bytes = malloc(VDPA_RESTART_RECORD_MAX);
	struct vhu_record *r = calloc(1, sizeof(*r));
	int rc = bytes == NULL || r == NULL
			 ? vdpa_error(ENOMEM, "out of memory")
			 : vdpa_restart_read(dev->vdev->name, bytes, VDPA_RESTART_RECORD_MAX);

	if (rc >= 0)
		rc = read_parts(r, bytes, (size_t)rc);
	free(bytes);
	if (rc < 0)
		free(r);
	else
		*record = r;
	return rc < 0 ? rc : 0;
}
