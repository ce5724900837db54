/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The device behind one vhost-user connection: what the front end has said of its rings, memory and
 * log, and from it, when the device starts, what changes while it runs, and when it stops.
 *
 * A ring starts when it has a size, addresses, a kick (or the word that we shall poll), is enabled,
 * and the driver is ready (DRIVER_OK, where the front end reports the status). The first one starts
 * the device, later ones join it; GET_VRING_BASE of the last one stops it. A device that takes all
 * its queues before DRIVER_OK starts when the front end has set up all that it has; see
 * all_rings_are_there().
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <rte_bitops.h>
#include <rte_byteorder.h>
#include <rte_common.h>

#include "error_priv.h"
#include "vdpa_compat.h"
#include "vdpa_event.h"
#include "vdpa_log.h"
#include "vhost_user_priv.h"

/* SET_VRING_BASE of a packed ring that has done nothing: indexes 0, both wrap counters 1. */
#define PACKED_BASE_INITIAL 0x80008000u

static bool
is_packed(const struct vhu_session *s)
{
	return (s->features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
}

/* What the device itself is to know of the negotiated features. */
static uint64_t
device_features(const struct vhu_session *s)
{
	uint64_t own = vdpa_get_device_features(s->dev->vdev);

	/* Ring addresses reach the device through the core's translation, always. */
	return (s->features & own) | (own & RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM));
}

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

const char *
vdpa_vhu_why(const struct vhu_device *dev, int64_t idx)
{
	return vdpa_error_cause(vdpa_error_message(), dev->vdev->name, idx);
}

struct vhu_session *
vdpa_vhu_session_new(struct vhu_device *dev, int vid)
{
	struct vhu_session *s = calloc(1, sizeof(*s) + dev->nvqs * sizeof(s->rings[0]));

	if (s == NULL)
		return NULL;
	s->dev = dev;
	s->vid = vid;
	s->fd = -1;
	s->backend_fd = -1;
	s->nrings = dev->nvqs;
	for (uint16_t i = 0; i < s->nrings; i++)
		s->rings[i].kick_fd = s->rings[i].call_fd = s->rings[i].err_fd = -1;
	return s;
}

static void
stop_device(struct vhu_session *s)
{
	int rc;

	if (!s->running && !s->failed)
		return;
	/* The log may be unmapped behind this; a device that fails to stop must not write to it. */
	if (s->logging)
		vdpa_device_set_log(s->dev->vdev, NULL, NULL);
	rc = vdpa_device_stop(s->dev->vdev);
	if (rc < 0 && rc != -ENODEV)
		VDPA_LOG(ERR, "%s: vhost-user: stop: %s", s->dev->vdev->name,
			 vdpa_vhu_why(s->dev, -1));
	s->running = false;
	s->failed = false;
	s->logging = false;
}

void
vdpa_vhu_session_free(struct vhu_session *s)
{
	/* A failed device is stopped already, and shows why until it is started again. */
	if (vdpa_device_get_state(s->dev->vdev) != VDPA_STATE_FAILED)
		stop_device(s);
	for (uint16_t i = 0; i < s->nrings; i++) {
		vdpa_vhu_take_doorbell(s, i);
		close_fd(&s->rings[i].kick_fd);
		close_fd(&s->rings[i].call_fd);
		close_fd(&s->rings[i].err_fd);
	}
	vdpa_iotlb_put(s->iotlb);
	vdpa_vhu_shm_unmap(s->log);
	vdpa_vhu_shm_unmap(s->inflight);
	/* A front end that comes back finds the account as it is then. */
	(void)vdpa_close_foreign(s->dev->fds, s->backend_fd);
	(void)vdpa_close_connection(s->dev->fds, s->fd);
	free(s);
}

/* Base as SET_VRING_BASE and GET_VRING_BASE have it: split, the avail index; packed, avail index
 * and wrap counter in the lower 16 bits, used ones in the upper. */
static struct vdpa_vq_state
base_to_state(const struct vhu_session *s, const struct vhu_ring *r)
{
	uint32_t base = r->base;
	struct vdpa_vq_state state = {0};

	if (!is_packed(s)) {
		state.split.avail_index = (uint16_t)base;
		return state;
	}
	if (!r->base_set)
		base = PACKED_BASE_INITIAL;
	/* Front ends that know of no upper half (virtio-user, and QEMU with what rte_vhost told it)
	 * leave it 0. A ring that was stopped has used what it has taken. */
	else if (base >> 16 == 0)
		base |= base << 16;
	state.packed.last_avail_idx = base & 0x7fff;
	state.packed.last_avail_counter = (base >> 15) & 1;
	state.packed.last_used_idx = (base >> 16) & 0x7fff;
	state.packed.last_used_counter = (uint8_t)(base >> 31);
	return state;
}

static uint32_t
state_to_base(const struct vhu_session *s, const struct vdpa_vq_state *state)
{
	if (!is_packed(s))
		return state->split.avail_index;
	return (state->packed.last_avail_idx & 0x7fffu) |
	       (uint32_t)(state->packed.last_avail_counter & 1) << 15 |
	       (state->packed.last_used_idx & 0x7fffu) << 16 |
	       (uint32_t)(state->packed.last_used_counter & 1) << 31;
}

static int
translate(const struct vdpa_iotlb *tlb, const char *what, uint64_t user, uint64_t len,
	  uint64_t *iova)
{
	if (vdpa_iotlb_uaddr_to_iova(tlb, user, len, iova) < 0)
		return vdpa_error(EFAULT,
				  "the %s at 0x%" PRIx64 " (%" PRIu64
				  " bytes) does not lie in one memory region",
				  what, user, len);
	return 0;
}

static int
translate_in(const struct vhu_session *s, const struct vdpa_iotlb *tlb, const struct vhu_ring *r,
	     uint64_t *desc, uint64_t *driver, uint64_t *device)
{
	uint64_t event = (s->features & RTE_BIT64(VIRTIO_RING_F_EVENT_IDX)) != 0 ? 2 : 0;
	uint64_t num = r->num;
	int rc;

	if (tlb == NULL)
		return vdpa_error(EFAULT, "there is no memory table");
	rc = translate(tlb, is_packed(s) ? "descriptor ring" : "descriptor table", r->desc_user,
		       16 * num, desc);
	if (rc == 0)
		rc = is_packed(s)
			     ? translate(tlb, "driver event structure", r->driver_user, 4, driver)
			     : translate(tlb, "avail ring", r->driver_user, 4 + 2 * num + event,
					 driver);
	if (rc == 0)
		rc = is_packed(s)
			     ? translate(tlb, "device event structure", r->device_user, 4, device)
			     : translate(tlb, "used ring", r->device_user, 4 + 8 * num + event,
					 device);
	return rc;
}

int
vdpa_vhu_ring_translate(struct vhu_session *s, struct vhu_ring *r)
{
	return translate_in(s, s->iotlb, r, &r->desc, &r->driver, &r->device);
}

/* Whether queues may join the device while it runs. */
static bool
takes_late_rings(const struct vhu_session *s)
{
	return (vdpa_get_backend_features(s->dev->vdev) &
		RTE_BIT64(VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK)) != 0;
}

static bool
ring_is_set_up(const struct vhu_session *s, const struct vhu_ring *r)
{
	return s->features_set && s->iotlb != NULL && r->num != 0 && r->addr_set && r->kicked;
}

static bool
ring_is_enabled(const struct vhu_session *s, const struct vhu_ring *r)
{
	return r->enabled || (s->features & RTE_BIT64(VHOST_USER_F_PROTOCOL_FEATURES)) == 0;
}

static bool
ring_is_ready(const struct vhu_session *s, const struct vhu_ring *r)
{
	if (!ring_is_set_up(s, r) || !ring_is_enabled(s, r))
		return false;
	return !s->status_used || (s->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
}

/*
 * Whether the front end has set up all the queues that it will, for a device that takes none later.
 * DRIVER_OK says so where the status is reported. Elsewhere nothing does, and it is concluded: the
 * front end has spoken of each of its queues before the first is set up (QEMU and virtio-user send
 * a call eventfd for each at first); of a net device without MQ the guest uses one pair; and a
 * queue of another device that is enabled without having been set up, after others were, is one
 * that the guest does not use (QEMU enables all at the end).
 */
static bool
all_rings_are_there(const struct vhu_session *s)
{
	bool enables = vdpa_has_vq_enable(s->dev->vdev);
	uint16_t n = s->nrings;

	if (s->status_used || (s->protocol & RTE_BIT64(VHOST_USER_PROTOCOL_F_STATUS)) != 0)
		return (s->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
	if (s->dev->is_net && (s->features & RTE_BIT64(VIRTIO_NET_F_MQ)) == 0)
		n = RTE_MIN(n, 2);
	for (uint16_t i = 0; i < n; i++) {
		const struct vhu_ring *r = &s->rings[i];

		if (!r->known)
			continue;
		if (!ring_is_set_up(s, r)) {
			if (!r->unused || s->dev->is_net)
				return false;
		} else if (!enables && !ring_is_enabled(s, r)) {
			return false;
		}
	}
	return true;
}

/* What the core is to know of a ring. Where the device has no notion of enabling, and its queues
 * cannot be started one by one, a ring that is set up runs. */
static int
ring_config(struct vhu_session *s, uint16_t idx, struct vdpa_vq_config *conf)
{
	struct vhu_ring *r = &s->rings[idx];
	int rc;

	rc = vdpa_vhu_ring_translate(s, r);
	if (rc < 0) {
		char why[128];

		snprintf(why, sizeof(why), "%s", vdpa_error_message());
		return vdpa_error(rc, "%s: queue %u: %s", s->dev->vdev->name, idx, why);
	}
	*conf = (struct vdpa_vq_config){
		.ready = true,
		.enabled = ring_is_enabled(s, r) ||
			   (!takes_late_rings(s) && !vdpa_has_vq_enable(s->dev->vdev)),
		.num = r->num,
		.desc = r->desc,
		.driver = r->driver,
		.device = r->device,
		.state = base_to_state(s, r),
		.kick_fd = r->kick_fd,
		.call_fd = r->call_fd,
	};
	if (s->inflight != NULL && idx < s->inflight_queues) {
		conf->inflight.addr = s->inflight->addr + idx * s->inflight_stride;
		conf->inflight.size = s->inflight_stride;
	}
	return 0;
}

/* The device cannot be started as the front end wants it: told in the log, by the vring error
 * eventfds and by NEEDS_RESET in the status, all of which follow from a failed device. */
static void
start_failed(struct vhu_session *s, int rc)
{
	if (rc == -ENODEV)
		return;
	s->failed = true;
	s->running = false;
	/* The report names the device itself. */
	vdpa_device_fail(s->dev->vdev, -1, rc, "start: %s", vdpa_vhu_why(s->dev, -1));
	/* The core stops it, perhaps later; and eventfds, log and inflight area are the front end's
	 * to take away from now on. */
	for (uint16_t i = 0; i < s->nrings; i++) {
		struct vdpa_vq_state state;

		if (s->rings[i].started)
			(void)vdpa_device_stop_vq(s->dev->vdev, i, &state);
	}
}

static void
start_device(struct vhu_session *s)
{
	struct vdpa_vq_config *vqs = calloc(s->nrings, sizeof(*vqs));
	struct vdpa_start_config conf = {
		.features = device_features(s), .iotlb = s->iotlb, .vqs = vqs, .nvqs = s->nrings};
	bool late = takes_late_rings(s);
	/* Before DRIVER_OK is the best time for a queue, even where there is another. */
	bool takes_disabled = !late || vdpa_has_vq_enable(s->dev->vdev);
	unsigned int n = 0;
	int rc = 0;

	for (uint16_t i = 0; i < s->nrings; i++)
		n += ring_is_ready(s, &s->rings[i]);
	if (n == 0 || (!late && !all_rings_are_there(s))) {
		free(vqs);
		return;
	}
	if (vqs == NULL) {
		start_failed(s, vdpa_error(ENOMEM, "out of memory"));
		return;
	}
	for (uint16_t i = 0; i < s->nrings; i++) {
		const struct vhu_ring *r = &s->rings[i];

		vqs[i].kick_fd = vqs[i].call_fd = -1;
		if (takes_disabled ? !ring_is_set_up(s, r) : !ring_is_ready(s, r))
			continue;
		s->rings[i].started = true;
		if (rc == 0)
			rc = ring_config(s, i, &vqs[i]);
	}
	if (rc == 0)
		rc = vdpa_device_start(s->dev->vdev, &conf);
	if (rc < 0)
		start_failed(s, rc);
	else
		s->running = true;
	free(vqs);
}

/* A device that runs and did not take one more queue goes on with the others. */
static void
ring_is_late(struct vhu_session *s, uint16_t idx)
{
	struct vhu_ring *r = &s->rings[idx];

	r->started = false;
	r->late = true;
	VDPA_LOG(ERR, "%s: vhost-user: queue %u: does not start: %s", s->dev->vdev->name, idx,
		 vdpa_vhu_why(s->dev, idx));
	pthread_mutex_lock(&s->dev->lock);
	if (r->err_fd >= 0)
		vdpa_eventfd_signal(r->err_fd);
	pthread_mutex_unlock(&s->dev->lock);
}

void
vdpa_vhu_session_advance(struct vhu_session *s)
{
	struct vdpa_vq_config conf;
	bool changed = false;
	int rc;

	if (s->failed)
		return;
	if (!s->running) {
		start_device(s);
		changed = s->running;
	}
	for (uint16_t i = 0; s->running && i < s->nrings; i++) {
		struct vhu_ring *r = &s->rings[i];

		if (r->started || r->late || !ring_is_ready(s, r))
			continue;
		r->started = true;
		rc = ring_config(s, i, &conf);
		if (rc == 0)
			rc = vdpa_device_start_vq(s->dev->vdev, i, &conf);
		if (rc == -EOPNOTSUPP && vdpa_device_get_state(s->dev->vdev) == VDPA_STATE_RUNNING)
			ring_is_late(s, i);
		else if (rc < 0)
			start_failed(s, rc);
		changed = true;
	}
	if (s->running && changed && vdpa_vhu_session_update_log(s) < 0)
		start_failed(s, -EIO);
	vdpa_vhu_give_doorbells(s);
}

void
vdpa_vhu_session_poll_failure(struct vhu_session *s)
{
	if (s->running && vdpa_device_get_state(s->dev->vdev) == VDPA_STATE_FAILED) {
		s->running = false;
		s->failed = true;
		s->logging = false;
	}
}

int
vdpa_vhu_session_update_log(struct vhu_session *s)
{
	bool on = s->log != NULL && (s->features & RTE_BIT64(VHOST_F_LOG_ALL)) != 0;
	uint64_t used[VDPA_VQ_MAX];
	int rc;

	if (!s->running || (!on && !s->logging))
		return 0;
	for (uint16_t i = 0; i < s->nrings; i++)
		used[i] = s->rings[i].log ? s->rings[i].log_addr : UINT64_MAX;
	rc = vdpa_device_set_log(s->dev->vdev, on ? &s->log->dirty : NULL, used);
	if (rc == 0)
		s->logging = on;
	return rc;
}

int
vdpa_vhu_session_set_memory(struct vhu_session *s, const struct vdpa_mem_region_spec *specs,
			    unsigned int n)
{
	struct vdpa_iotlb *tlb;
	int rc;

	rc = vdpa_iotlb_create(s->iotlb, specs, n, &tlb);
	if (rc < 0)
		return rc;
	/* What runs on a ring cannot follow it elsewhere. */
	for (uint16_t i = 0; s->running && i < s->nrings; i++) {
		const struct vhu_ring *r = &s->rings[i];
		uint64_t desc, driver, device;

		if (!r->started)
			continue;
		rc = translate_in(s, tlb, r, &desc, &driver, &device);
		if (rc == 0 && (desc != r->desc || driver != r->driver || device != r->device))
			rc = vdpa_error(EBUSY, "it moves the rings of queue %u, which runs", i);
		if (rc < 0)
			goto err;
	}
	if (s->running) {
		rc = vdpa_device_set_iotlb(s->dev->vdev, tlb);
		if (rc < 0)
			goto err;
	}
	vdpa_iotlb_put(s->iotlb);
	s->iotlb = tlb;
	return 0;

err:
	vdpa_iotlb_put(tlb);
	return rc;
}

/*
 * Where a failed queue stands, as well as it can be known: a split ring says itself how far it was
 * used, and what was taken and not used is done again.
 */
static uint32_t
failed_base(const struct vhu_session *s, const struct vhu_ring *r)
{
	const uint16_t *used_idx;

	if (is_packed(s) || s->iotlb == NULL)
		return r->base;
	used_idx = vdpa_iotlb_range(s->iotlb, r->device + 2, sizeof(*used_idx));
	if (used_idx == NULL)
		return r->base;
	return rte_le_to_cpu_16(__atomic_load_n(used_idx, __ATOMIC_RELAXED));
}

void
vdpa_vhu_ring_stop(struct vhu_session *s, uint16_t idx, uint32_t *base)
{
	struct vhu_ring *r = &s->rings[idx];
	struct vdpa_vq_state state;
	bool last = true;
	int rc;

	vdpa_vhu_take_doorbell(s, idx);
	if (r->started && s->running) {
		rc = vdpa_device_stop_vq(s->dev->vdev, idx, &state);
		if (rc == 0) {
			r->base = state_to_base(s, &state);
		} else {
			VDPA_LOG(ERR, "%s: vhost-user: queue %u: stop: %s", s->dev->vdev->name, idx,
				 vdpa_vhu_why(s->dev, idx));
			r->base = failed_base(s, r);
		}
		r->base_set = true;
	} else if (r->started && s->failed) {
		r->base = failed_base(s, r);
		r->base_set = true;
	}
	*base = r->base_set || !is_packed(s) ? r->base : PACKED_BASE_INITIAL;
	r->started = r->kicked = r->unused = r->late = r->doorbell_asked = false;
	for (uint16_t i = 0; i < s->nrings; i++)
		last &= !s->rings[i].started;
	if (last)
		stop_device(s);
	close_fd(&r->kick_fd);
	close_fd(&r->call_fd);
}

void
vdpa_vhu_session_reset(struct vhu_session *s, bool keep_bases)
{
	uint32_t base;

	if (keep_bases)
		for (uint16_t i = 0; i < s->nrings; i++)
			if (s->rings[i].started)
				vdpa_vhu_ring_stop(s, i, &base);
	stop_device(s);
	for (uint16_t i = 0; i < s->nrings; i++) {
		struct vhu_ring *r = &s->rings[i], old;

		vdpa_vhu_take_doorbell(s, i);
		close_fd(&r->kick_fd);
		pthread_mutex_lock(&s->dev->lock);
		old = *r;
		/* call and err stay: QEMU sets them once, before the first reset. */
		*r = (struct vhu_ring){.kick_fd = -1,
				       .call_fd = old.call_fd,
				       .err_fd = old.err_fd,
				       .known = old.known};
		pthread_mutex_unlock(&s->dev->lock);
		if (keep_bases) {
			r->base = old.base;
			r->base_set = old.base_set;
		}
	}
	s->status = 0;
}

void
vdpa_vhu_ring_note(struct vhu_session *s, uint16_t idx)
{
	s->rings[idx].known = true;
}

int
vdpa_vhu_ring_enable(struct vhu_session *s, uint16_t idx, bool enable)
{
	struct vhu_ring *r = &s->rings[idx];
	int rc = 0;

	r->unused = false;
	for (uint16_t i = 0; enable && !ring_is_set_up(s, r) && i < s->nrings; i++)
		r->unused |= ring_is_set_up(s, &s->rings[i]);
	if (r->started && s->running)
		rc = vdpa_device_enable_vq(s->dev->vdev, idx, enable);
	if (rc == 0)
		r->enabled = enable;
	return rc;
}

/* Take over fd in the place of *old, which a running device has let go of when told. */
static int
swap_fd(struct vhu_session *s, uint16_t idx, int *old, int fd,
	int (*tell)(struct vdpa_device *vdev, uint16_t idx, int fd))
{
	int rc = 0;

	if (s->rings[idx].started && s->running)
		rc = tell(s->dev->vdev, idx, fd);
	if (rc < 0) {
		close_fd(&fd);
		return rc;
	}
	close_fd(old);
	*old = fd;
	return 0;
}

int
vdpa_vhu_ring_set_kick(struct vhu_session *s, uint16_t idx, int fd)
{
	struct vhu_ring *r = &s->rings[idx];
	int rc = swap_fd(s, idx, &r->kick_fd, fd, vdpa_device_set_vq_kick);

	if (rc == 0)
		r->kicked = true;
	return rc;
}

int
vdpa_vhu_ring_set_call(struct vhu_session *s, uint16_t idx, int fd)
{
	return swap_fd(s, idx, &s->rings[idx].call_fd, fd, vdpa_device_set_vq_call);
}

void
vdpa_vhu_ring_set_err(struct vhu_session *s, uint16_t idx, int fd)
{
	pthread_mutex_lock(&s->dev->lock);
	close_fd(&s->rings[idx].err_fd);
	s->rings[idx].err_fd = fd;
	pthread_mutex_unlock(&s->dev->lock);
}
