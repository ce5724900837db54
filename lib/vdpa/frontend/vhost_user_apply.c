/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What the record of a connection says, carried out in the next process: a new session and its
 * consumer are brought to it by the calls that the messages were, and what ran is started.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error_priv.h"
#include "vdpa_error.h"
#include "vdpa_event.h"
#include "vhost_user_priv.h"

static int
apply_features(struct vhu_device *dev, struct vhu_session *s, const struct vhu_record *r)
{
	uint64_t protocol = r->connection.protocol;

	if ((protocol & ~dev->protocol) != 0 ||
	    (r->has_features && (r->connection.features & ~dev->features) != 0))
		return vdpa_error(EOPNOTSUPP,
				  "features 0x%" PRIx64 ", protocol features 0x%" PRIx64
				  " are no longer offered",
				  r->has_features ? r->connection.features & ~dev->features : 0,
				  protocol & ~dev->protocol);
	pthread_mutex_lock(&dev->lock);
	s->protocol = protocol;
	pthread_mutex_unlock(&dev->lock);
	s->refusals = r->connection.refusals;
	vdpa_consumer_report_status(s->consumer, (protocol & VHU_PROTOCOL(STATUS)) != 0);
	vdpa_consumer_keep_state(s->consumer, (protocol & VHU_PROTOCOL(DEVICE_STATE)) != 0);
	return r->has_features ? vdpa_consumer_set_features(s->consumer, r->connection.features)
			       : 0;
}

/* Once the features are known. */
static int
apply_state(struct vhu_device *dev, struct vhu_session *s, const struct vhu_record *r)
{
	bool runs = false;

	for (unsigned int i = 0; i < r->nrings; i++)
		runs |= r->rings[i].facts.runs;
	return vdpa_kept_state_apply(&dev->kept.state, dev->vdev, s->consumer,
				     r->connection.features, r->has_features && runs);
}

static int
apply_memory(struct vhu_device *dev, struct vhu_session *s, const struct vhu_record *r)
{
	struct vdpa_mem_region_spec *specs = calloc(r->nregions + 1, sizeof(*specs));
	unsigned int n = 0;
	int rc = specs == NULL ? vdpa_error(ENOMEM, "out of memory") : 0;

	while (rc == 0 && n < r->nregions) {
		const struct vhu_mem_region *region = &r->regions[n].region;
		int fd = vdpa_wire_take_fd(&dev->kept.wire, r->regions[n].id);

		if (fd < 0) {
			rc = fd;
			break;
		}
		specs[n++] = (struct vdpa_mem_region_spec){.iova = region->guest_addr,
							   .uaddr = region->user_addr,
							   .size = region->size,
							   .offset = region->mmap_offset,
							   .fd = fd};
		if (!vdpa_vhu_is_shm(fd))
			rc = vdpa_error(EINVAL, "memory region at 0x%" PRIx64 ": " VHU_NOT_SHM,
					region->guest_addr);
	}
	if (rc == 0 && n > 0)
		rc = vdpa_consumer_set_memory(s->consumer, specs, n);
	for (unsigned int i = 0; i < n; i++)
		(void)vdpa_close_foreign(dev->fds, specs[i].fd);
	free(specs);
	s->kept->nregions = r->nregions;
	memcpy(s->kept->regions, r->regions, r->nregions * sizeof(r->regions[0]));
	return rc;
}

static int
apply_log(struct vhu_device *dev, struct vhu_session *s, const struct vhu_record *r)
{
	int fd, rc;

	if (r->log == 0)
		return 0;
	fd = vdpa_wire_take_fd(&dev->kept.wire, r->log);
	rc = fd < 0 ? fd
		    : vdpa_vhu_shm_map(&s->log, fd, r->log_area.mmap_offset, r->log_area.mmap_size);
	if (rc < 0) {
		(void)vdpa_close_foreign(dev->fds, fd);
		return rc;
	}
	s->log->dirty.fd = fd;
	s->log->dirty.offset = r->log_area.mmap_offset;
	s->kept->log = r->log;
	s->kept->log_area = r->log_area;
	return vdpa_consumer_set_log(s->consumer, &s->log->dirty);
}

static int
apply_inflight(struct vhu_device *dev, struct vhu_session *s, const struct vhu_record *r)
{
	const struct vhu_inflight *area = &r->inflight_area;
	int fd, rc;

	if (r->inflight == 0)
		return 0;
	fd = vdpa_wire_take_fd(&dev->kept.wire, r->inflight);
	rc = fd < 0 ? fd : vdpa_vhu_set_inflight(s, fd, area);
	(void)vdpa_close_foreign(dev->fds, fd);
	s->kept->inflight = r->inflight;
	s->kept->inflight_area = *area;
	return rc;
}

static int
apply_channel(struct vhu_device *dev, struct vhu_session *s, const struct vhu_record *r)
{
	int fd;

	if (r->channel == 0)
		return 0;
	fd = vdpa_wire_take_fd(&dev->kept.wire, r->channel);
	if (fd < 0)
		return fd;
	s->kept->channel = r->channel;
	return vdpa_vhu_set_channel(s, fd);
}

static int
take_eventfd(struct vhu_device *dev, vhu_kept_id id, int *fd)
{
	int rc;

	*fd = -1;
	if (id == 0)
		return 0;
	rc = vdpa_wire_take_fd(&dev->kept.wire, id);
	if (rc < 0)
		return rc;
	if (!vdpa_fd_is_eventfd(rc)) {
		(void)vdpa_close_foreign(dev->fds, rc);
		return vdpa_error(EPROTO, "what was kept is no eventfd");
	}
	*fd = rc;
	return 0;
}

static int
apply_ring_fds(struct vhu_device *dev, struct vhu_session *s, const struct vhu_record_ring *ring)
{
	struct vhu_kept_ring *kept = &s->kept->rings[ring->idx];
	int fd, rc = take_eventfd(dev, ring->err, &fd);

	kept->err = ring->err;
	kept->call = ring->call;
	kept->kick = ring->kick;
	if (rc == 0 && fd >= 0)
		vdpa_consumer_set_vq_err(s->consumer, ring->idx, fd);
	if (rc == 0)
		rc = take_eventfd(dev, ring->call, &fd);
	if (rc == 0 && fd >= 0)
		rc = vdpa_consumer_set_vq_call(s->consumer, ring->idx, fd);
	/* One that the device did not take stays in the store, for the record. */
	if (rc < 0 || !ring->facts.has_kick || ring->facts.refused)
		return rc;
	rc = take_eventfd(dev, ring->kick, &fd);
	return rc < 0 ? rc : vdpa_consumer_set_vq_kick(s->consumer, ring->idx, fd);
}

/* Size and addresses. What does not hold any more of a ring that does not run is left out, such as
 * addresses in memory that was removed since: the front end sets it again before a start. */
static int
apply_ring_memory(struct vhu_device *dev, struct vdpa_consumer *c,
		  const struct vhu_record_ring *ring)
{
	const struct vdpa_consumer_vq_facts *f = &ring->facts;
	int rc = f->num != 0 ? vdpa_consumer_set_vq_num(c, ring->idx, f->num) : 0;

	if (rc == 0 && f->has_addr)
		rc = vdpa_consumer_set_vq_addr(c, ring->idx, &f->addr);
	if (rc == 0 || f->runs)
		return rc;
	VDPA_LOG(INFO, "%s: vhost-user: queue %u, which does not run, has to be set up anew: %s",
		 dev->vdev->name, ring->idx, vdpa_vhu_why(dev, ring->idx));
	return 0;
}

static int
apply_ring(struct vhu_device *dev, struct vhu_session *s, const struct vhu_record_ring *ring)
{
	const struct vdpa_consumer_vq_facts *f = &ring->facts;
	struct vdpa_consumer *c = s->consumer;
	uint16_t idx = ring->idx;
	int rc;

	if (idx >= vdpa_consumer_usable_vqs(c))
		return vdpa_error(EPROTO, "the device has no such queue");
	if (f->announced)
		vdpa_consumer_announce_vq(c, idx);
	rc = apply_ring_memory(dev, c, ring);
	if (rc == 0 && f->has_base)
		rc = vdpa_consumer_set_vq_base(c, idx, f->base);
	if (rc == 0 && f->runs && !ring->stopped)
		rc = vdpa_consumer_resume_vq(c, idx, f->base, false);
	if (rc == 0)
		rc = vdpa_consumer_enable_vq(c, idx, f->enabled);
	/* Its area is in use: no record clears it. */
	s->kept->rings[idx].ran = f->runs;
	return rc < 0 ? rc : apply_ring_fds(dev, s, ring);
}

static int
apply_config(struct vhu_device *dev, struct vhu_session *s, const struct vhu_record *r)
{
	int rc = 0;

	for (unsigned int i = 0; i < r->nconfigs && rc == 0; i++) {
		const struct vhu_config *config = &r->configs[i];

		s->kept->configs[s->kept->nconfigs++] = *config;
		rc = vdpa_set_config(dev->vdev, config->offset, config->data, config->size);
	}
	return rc;
}

/* What nobody knows to have reached the other side is said once more: a kick of each queue, and a
 * call. */
static void
signal_rings(struct vhu_session *s)
{
	for (uint16_t i = 0; i < s->nrings; i++) {
		struct vdpa_consumer_vq_facts f;

		vdpa_consumer_get_vq_facts(s->consumer, i, &f);
		if (!f.runs)
			continue;
		if (f.kick_fd >= 0)
			vdpa_eventfd_signal(f.kick_fd);
		if (f.call_fd >= 0)
			vdpa_eventfd_signal(f.call_fd);
	}
}

int
vdpa_vhu_record_apply(struct vhu_device *dev, struct vhu_session *s, const struct vhu_record *r)
{
	int rc = apply_features(dev, s, r);

	s->kept->done = r->connection.done;
	if (rc == 0)
		rc = apply_state(dev, s, r);
	if (rc == 0)
		rc = apply_memory(dev, s, r);
	if (rc == 0)
		rc = apply_config(dev, s, r);
	if (rc == 0)
		rc = apply_log(dev, s, r);
	if (rc == 0)
		rc = apply_inflight(dev, s, r);
	if (rc == 0)
		rc = apply_channel(dev, s, r);
	for (unsigned int i = 0; rc == 0 && i < r->nrings; i++) {
		rc = apply_ring(dev, s, &r->rings[i]);
		if (rc < 0) {
			char why[VDPA_ERROR_MAX];

			snprintf(why, sizeof(why), "%s", vdpa_vhu_why(dev, r->rings[i].idx));
			rc = vdpa_error(rc, "queue %u: %s", r->rings[i].idx, why);
		}
	}
	/* It is part of the next record, whether the device starts at once or later. */
	if (rc == 0 && r->connection.status != 0)
		vdpa_consumer_set_status(s->consumer, r->connection.status);
	return rc;
}

int
vdpa_vhu_record_start(struct vhu_device *dev, struct vhu_session *s)
{
	int rc;

	vdpa_vhu_session_advance(s);
	/* Of the device itself a job says so, later. */
	rc = vdpa_consumer_check_alive(s->consumer);
	if (rc == 0)
		signal_rings(s);
	return rc;
}
