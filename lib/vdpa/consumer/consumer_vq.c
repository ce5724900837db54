/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * One ring of a consumer: what the front end has said of it, what of that the device is given, and
 * where it stands. Owns its eventfds.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include <linux/virtio_ring.h>
#include <rte_byteorder.h>

#include "consumer_priv.h"
#include "ring_index.h"
#include "session_priv.h"
#include "steps.h"
#include "vdpa_log.h"

/* SET_VRING_BASE of a packed ring that has done nothing: indexes 0, both wrap counters 1. */
#define PACKED_BASE_INITIAL 0x80008000u

static void
close_fd(int *fd, int then)
{
	if (*fd >= 0)
		close(*fd);
	*fd = then;
}

void
consumer_vq_init(struct consumer_vq *vq)
{
	*vq = (struct consumer_vq){.user.desc = CONSUMER_NOT_SET,
				   .user.log = UINT64_MAX,
				   .base = CONSUMER_NOT_SET,
				   .kick_fd = CONSUMER_FD_NOT_SET,
				   .call_fd = -1,
				   .err_fd = -1};
}

void
consumer_vq_close(struct vdpa_consumer *c, uint16_t idx)
{
	struct consumer_vq *vq = &c->vqs[idx];

	close_fd(&vq->kick_fd, CONSUMER_FD_NOT_SET);
	close_fd(&vq->call_fd, -1);
	close_fd(&vq->err_fd, -1);
}

void
consumer_vq_forget(struct vdpa_consumer *c, uint16_t idx, bool keep_base)
{
	struct consumer_vq *vq = &c->vqs[idx], old = *vq;

	close_fd(&old.kick_fd, CONSUMER_FD_NOT_SET);
	pthread_mutex_lock(&c->err_lock);
	old.err_fd = vq->err_fd;
	consumer_vq_init(vq);
	vq->err_fd = old.err_fd;
	pthread_mutex_unlock(&c->err_lock);
	vq->call_fd = old.call_fd;
	if (keep_base) {
		vq->base = old.base;
		vq->place_num = old.num != 0 ? old.num : old.place_num;
	}
	if (old.state != CONSUMER_VQ_ABSENT)
		vq->state = CONSUMER_VQ_ANNOUNCED;
}

void
consumer_vq_update(struct vdpa_consumer *c, uint16_t idx)
{
	struct consumer_vq *vq = &c->vqs[idx];

	if (vq->state == CONSUMER_VQ_ABSENT)
		vq->state = CONSUMER_VQ_ANNOUNCED;
	if (vq->state == CONSUMER_VQ_ANNOUNCED && vq->num != 0 &&
	    vq->user.desc != CONSUMER_NOT_SET && vq->kick_fd != CONSUMER_FD_NOT_SET)
		vq->state = CONSUMER_VQ_SET_UP;
}

static bool
is_enabled(const struct vdpa_consumer *c, const struct consumer_vq *vq)
{
	return vq->enabled || !consumer_has(c, VHOST_USER_F_PROTOCOL_FEATURES);
}

bool
consumer_vq_is_ready(const struct vdpa_consumer *c, const struct consumer_vq *vq)
{
	return vq->state == CONSUMER_VQ_SET_UP && is_enabled(c, vq);
}

/* The address is one of the front end's own process: no line shows it to others. */
static int
translate(const struct vdpa_iotlb *tlb, const char *what, uint64_t user, uint64_t len,
	  uint64_t *iova)
{
	if (vdpa_iotlb_uaddr_to_iova(tlb, user, len, iova) < 0)
		return vdpa_error(EFAULT,
				  "the %s (%" PRIu64 " bytes) does not lie in one memory region",
				  what, len);
	return 0;
}

static int
check_iova(const struct vdpa_iotlb *tlb, const char *what, uint64_t iova, uint64_t len)
{
	if (vdpa_iotlb_range(tlb, iova, len) == NULL)
		return vdpa_error(EFAULT,
				  "the %s at 0x%" PRIx64 " (%" PRIu64
				  " bytes) does not lie in the memory",
				  what, iova, len);
	return 0;
}

/* A function's addresses are IOVAs. */
static int
translate_iovas(const struct vdpa_iotlb *tlb, bool packed, const struct vdpa_ring_size *size,
		struct consumer_vq *vq)
{
	int rc;

	vq->desc = vq->user.desc;
	vq->driver = vq->user.driver;
	vq->device = vq->user.device;
	rc = check_iova(tlb, packed ? "descriptor ring" : "descriptor table", vq->desc, size->desc);
	if (rc == 0)
		rc = check_iova(tlb, packed ? "driver event structure" : "avail ring", vq->driver,
				size->driver);
	return rc < 0 ? rc
		      : check_iova(tlb, packed ? "device event structure" : "used ring", vq->device,
				   size->device);
}

int
consumer_vq_translate(const struct vdpa_consumer *c, const struct vdpa_iotlb *tlb,
		      struct consumer_vq *vq)
{
	bool packed = consumer_is_packed(c);
	struct vdpa_ring_size size = vdpa_ring_size(packed, vq->num);
	int rc;

	if (tlb == NULL)
		return vdpa_error(EFAULT, "there is no memory table");
	if (c->function)
		return translate_iovas(tlb, packed, &size, vq);
	rc = translate(tlb, packed ? "descriptor ring" : "descriptor table", vq->user.desc,
		       size.desc, &vq->desc);
	if (rc == 0)
		rc = translate(tlb, packed ? "driver event structure" : "avail ring",
			       vq->user.driver, size.driver, &vq->driver);
	if (rc == 0)
		rc = translate(tlb, packed ? "device event structure" : "used ring",
			       vq->user.device, size.device, &vq->device);
	return rc;
}

/*
 * User-mode Linux says 0 of a packed ring that has done nothing: a wrap counter of 0, which a ring
 * has at slot 0 only after a round with a counter of 1. The last buffer used in that round set the
 * USED bit of its slot, not always slot 0, and until the next is used there it stays set. So where
 * all are clear the ring is new.
 */
static bool
packed_is_unused(const struct vdpa_consumer *c, const struct consumer_vq *vq)
{
	const struct vring_packed_desc *desc =
		c->iotlb != NULL
			? vdpa_iotlb_range(c->iotlb, vq->desc, (uint64_t)vq->num * sizeof(*desc))
			: NULL;

	if (desc == NULL)
		return false;
	for (uint32_t i = 0; i < vq->num; i++)
		if ((rte_le_to_cpu_16(__atomic_load_n(&desc[i].flags, __ATOMIC_RELAXED)) &
		     1 << VRING_PACKED_DESC_F_USED) != 0)
			return false;
	return true;
}

static struct vdpa_vq_state
packed_state(uint32_t base)
{
	struct vdpa_vq_state state = {0};

	state.packed.last_avail_idx = base & 0x7fff;
	state.packed.last_avail_counter = (base >> 15) & 1;
	state.packed.last_used_idx = (base >> 16) & 0x7fff;
	state.packed.last_used_counter = (uint8_t)(base >> 31);
	return state;
}

/* Base as SET_VRING_BASE and GET_VRING_BASE have it: split, the avail index; packed, avail index
 * and wrap counter in the lower 16 bits, used ones in the upper. */
static struct vdpa_vq_state
base_to_state(const struct vdpa_consumer *c, const struct consumer_vq *vq)
{
	uint32_t base = (uint32_t)vq->base;
	struct vdpa_vq_state state = {0};

	if (!consumer_is_packed(c)) {
		state.split.avail_index = vq->base == CONSUMER_NOT_SET ? 0 : (uint16_t)base;
		return state;
	}
	if (vq->base == CONSUMER_NOT_SET || (base == 0 && packed_is_unused(c, vq)))
		base = PACKED_BASE_INITIAL;
	/* Front ends that know of no upper half (virtio-user, and QEMU with what rte_vhost gives
	 * it) leave it 0. A ring that was stopped has used what it has taken. */
	else if (base >> 16 == 0)
		base |= base << 16;
	return packed_state(base);
}

void
consumer_vq_load_place(struct vdpa_consumer *c, uint16_t idx, bool packed)
{
	struct consumer_vq *vq = &c->vqs[idx];

	vq->placed = true;
	vq->place = (struct vdpa_vq_state){0};
	if (packed)
		vq->place = packed_state((uint32_t)vq->base);
	else
		vq->place.split.avail_index = (uint16_t)vq->base;
}

struct vdpa_vq_state
consumer_vq_place(const struct vdpa_consumer *c, const struct consumer_vq *vq)
{
	return vq->placed ? vq->place : base_to_state(c, vq);
}

static uint32_t
state_to_base(const struct vdpa_consumer *c, const struct vdpa_vq_state *state)
{
	if (!consumer_is_packed(c))
		return state->split.avail_index;
	return (state->packed.last_avail_idx & 0x7fffu) |
	       (uint32_t)(state->packed.last_avail_counter & 1) << 15 |
	       (state->packed.last_used_idx & 0x7fffu) << 16 |
	       (uint32_t)(state->packed.last_used_counter & 1) << 31;
}

void
consumer_vq_keep_place(struct vdpa_consumer *c, uint16_t idx, const struct vdpa_vq_state *state)
{
	struct consumer_vq *vq = &c->vqs[idx];

	vq->base = state_to_base(c, state);
	vq->placed = c->function;
	vq->place = *state;
}

/* Where the device has no notion of enabling, and its queues cannot be started one by one, a ring
 * that is set up runs. */
int
consumer_vq_config(struct vdpa_consumer *c, uint16_t idx, struct vdpa_vq_config *conf)
{
	struct consumer_vq *vq = &c->vqs[idx];
	int rc;

	rc = consumer_vq_translate(c, c->iotlb, vq);
	if (rc < 0) {
		char why[VDPA_ERROR_MAX];

		snprintf(why, sizeof(why), "%s", vdpa_error_message());
		return vdpa_error(rc, "%s: queue %u: %s", c->vdev->name, idx, why);
	}
	*conf = (struct vdpa_vq_config){
		.ready = true,
		.enabled = is_enabled(c, vq) || (!c->can->late_vqs && !c->can->vq_enable),
		.num = vq->num,
		.desc = vq->desc,
		.driver = vq->driver,
		.device = vq->device,
		.state = consumer_vq_place(c, vq),
		.kick_fd = vq->kick_fd,
		.call_fd = vq->call_fd,
	};
	if (idx < c->inflight_vqs) {
		conf->inflight.addr = c->inflight + idx * c->inflight_stride;
		conf->inflight.size = c->inflight_stride;
		conf->inflight.own = c->inflight_own;
	}
	return 0;
}

void
consumer_vq_signal_error(struct vdpa_consumer *c, uint16_t idx)
{
	pthread_mutex_lock(&c->err_lock);
	if (c->vqs[idx].err_fd >= 0)
		vdpa_eventfd_signal(c->vqs[idx].err_fd);
	pthread_mutex_unlock(&c->err_lock);
}

void
consumer_vq_signal_tracked(struct vdpa_consumer *c, uint16_t idx)
{
	const struct consumer_vq *vq = &c->vqs[idx];

	if (idx < c->inflight_vqs && consumer_runs(c) && vq->state == CONSUMER_VQ_STARTED &&
	    vq->call_fd >= 0)
		vdpa_eventfd_signal(vq->call_fd);
}

void
vdpa_consumer_signal_errors(struct vdpa_consumer *c, int qidx)
{
	for (uint16_t i = 0; i < c->nvqs; i++)
		if (qidx < 0 || qidx == i)
			consumer_vq_signal_error(c, i);
}

/* Facts. */

static int
check_stopped(const struct consumer_vq *vq)
{
	return vq->state == CONSUMER_VQ_STARTED ? vdpa_error(EBUSY, "the queue runs") : 0;
}

int
vdpa_consumer_set_vq_num(struct vdpa_consumer *c, uint16_t idx, uint32_t num)
{
	CONSUMER_LOCKED(c);
	int rc = check_stopped(&c->vqs[idx]);

	if (rc == 0)
		rc = vdpa_check_vq_num(c->vdev, idx, consumer_is_packed(c), num);
	if (rc < 0)
		return rc;
	c->vqs[idx].num = num;
	consumer_vq_update(c, idx);
	return 0;
}

int
vdpa_consumer_set_vq_addr(struct vdpa_consumer *c, uint16_t idx,
			  const struct vdpa_consumer_vq_addr *addr)
{
	CONSUMER_LOCKED(c);
	struct consumer_vq *vq = &c->vqs[idx], now = *vq;
	struct vdpa_consumer_vq_addr old = vq->user;
	int rc = 0;

	if (vq->num == 0)
		return vdpa_error(EINVAL, "the size is not set");
	now.user = *addr;
	/* While it runs only the log address may change: a migration begins or ends so. */
	if (addr->desc != old.desc || addr->driver != old.driver || addr->device != old.device)
		rc = check_stopped(vq);
	/* What of a function's is at fault its start says: its memory may come later. */
	if (rc == 0 && !c->function)
		rc = consumer_vq_translate(c, c->iotlb, &now);
	if (rc == 0 && !c->function)
		rc = vdpa_check_vq_align(c->vdev, idx, consumer_is_packed(c), now.desc, now.driver,
					 now.device);
	if (rc < 0)
		return rc;
	vq->user = *addr;
	rc = vq->state == CONSUMER_VQ_STARTED ? consumer_update_log(c) : 0;
	if (rc < 0)
		vq->user = old;
	else
		consumer_vq_update(c, idx);
	return rc;
}

int
vdpa_consumer_set_vq_base(struct vdpa_consumer *c, uint16_t idx, uint32_t base)
{
	CONSUMER_LOCKED(c);
	int rc = check_stopped(&c->vqs[idx]);

	if (rc < 0)
		return rc;
	c->vqs[idx].base = base;
	c->vqs[idx].placed = false;
	consumer_vq_update(c, idx);
	return 0;
}

int
vdpa_consumer_resume_vq(struct vdpa_consumer *c, uint16_t idx, uint32_t base, bool any_order)
{
	CONSUMER_LOCKED(c);
	struct consumer_vq *vq = &c->vqs[idx], now = *vq;
	int rc = check_stopped(vq);
	uint16_t used;

	if (rc == 0 && (vq->num == 0 || vq->user.desc == CONSUMER_NOT_SET))
		rc = vdpa_error(EINVAL, "the addresses are not set");
	if (rc == 0)
		rc = consumer_vq_translate(c, c->iotlb, &now);
	if (rc < 0)
		return rc;
	/* It has not stood still: where it began is not where it is, and is not asked. */
	if (vdpa_device_is_left(c->vdev)) {
		vq->base = base;
		consumer_vq_update(c, idx);
		return 0;
	}
	if (!consumer_is_packed(c)) {
		if (!vdpa_ring_used_idx(c->iotlb, now.device, &used))
			return vdpa_error(EFAULT, "the used ring is not in the memory");
		/* It may have used what came later first. */
		if (!any_order && vdpa_device_runs_alone(c->vdev) && idx >= c->inflight_vqs &&
		    used != 0)
			return vdpa_error(EOPNOTSUPP,
					  "the function has stopped meanwhile, and nobody knows "
					  "which requests were under way");
		base = used;
	} else if (idx >= c->inflight_vqs && !packed_is_unused(c, &now)) {
		return vdpa_error(EOPNOTSUPP,
				  "where a packed ring stood is not known without an inflight "
				  "area (`inflight on`); the driver has to reset the device");
	}
	vq->base = base;
	consumer_vq_update(c, idx);
	return 0;
}

/* Take over fd in the place of *old, which a device that runs has let go of when asked. */
static int
swap_fd(struct vdpa_consumer *c, uint16_t idx, int *old, int fd,
	int (*tell)(struct vdpa_device *vdev, uint16_t idx, int fd))
{
	int rc = 0;

	if (consumer_runs(c) && c->vqs[idx].state == CONSUMER_VQ_STARTED)
		rc = tell(c->vdev, idx, fd);
	close_fd(rc < 0 ? &fd : old, fd);
	if (rc == 0)
		consumer_vq_update(c, idx);
	return rc;
}

int
vdpa_consumer_set_vq_kick(struct vdpa_consumer *c, uint16_t idx, int fd)
{
	CONSUMER_LOCKED(c);

	return swap_fd(c, idx, &c->vqs[idx].kick_fd, fd, vdpa_device_set_vq_kick);
}

int
vdpa_consumer_set_vq_call(struct vdpa_consumer *c, uint16_t idx, int fd)
{
	CONSUMER_LOCKED(c);
	int rc = swap_fd(c, idx, &c->vqs[idx].call_fd, fd, vdpa_device_set_vq_call);

	if (rc == 0)
		consumer_vq_signal_tracked(c, idx);
	return rc;
}

void
vdpa_consumer_set_vq_err(struct vdpa_consumer *c, uint16_t idx, int fd)
{
	CONSUMER_LOCKED(c);

	pthread_mutex_lock(&c->err_lock);
	close_fd(&c->vqs[idx].err_fd, fd);
	pthread_mutex_unlock(&c->err_lock);
	consumer_vq_update(c, idx);
}

int
vdpa_consumer_enable_vq(struct vdpa_consumer *c, uint16_t idx, bool enable)
{
	CONSUMER_LOCKED(c);
	struct consumer_vq *vq = &c->vqs[idx];
	int rc = 0;

	if (consumer_runs(c) && vq->state == CONSUMER_VQ_STARTED)
		rc = vdpa_device_enable_vq(c->vdev, idx, enable);
	if (rc == 0)
		vq->enabled = enable;
	return rc;
}

void
vdpa_consumer_announce_vq(struct vdpa_consumer *c, uint16_t idx)
{
	CONSUMER_LOCKED(c);

	consumer_vq_update(c, idx);
}

void
consumer_vq_facts(const struct vdpa_consumer *c, uint16_t idx, struct vdpa_consumer_vq_facts *facts)
{
	const struct consumer_vq *vq = &c->vqs[idx];

	*facts = (struct vdpa_consumer_vq_facts){
		.announced = vq->state != CONSUMER_VQ_ABSENT,
		.runs = vq->state == CONSUMER_VQ_STARTED || vq->state == CONSUMER_VQ_SET_UP,
		.refused = vq->state == CONSUMER_VQ_REFUSED,
		.enabled = vq->enabled,
		.has_addr = vq->user.desc != CONSUMER_NOT_SET,
		.has_base = vq->base != CONSUMER_NOT_SET,
		.has_kick = vq->kick_fd != CONSUMER_FD_NOT_SET,
		.num = vq->num,
		.base = (uint32_t)vq->base,
		.addr = vq->user,
		.kick_fd = vq->kick_fd == CONSUMER_FD_NOT_SET ? -1 : vq->kick_fd,
		.call_fd = vq->call_fd,
	};
}

void
vdpa_consumer_get_vq_facts(struct vdpa_consumer *c, uint16_t idx,
			   struct vdpa_consumer_vq_facts *facts)
{
	CONSUMER_LOCKED(c);

	consumer_vq_facts(c, idx, facts);
}

/* The end. */

/* Where a queue stands whose device has failed, as well as it can be known. */
static void
keep_failed_base(struct vdpa_consumer *c, struct consumer_vq *vq)
{
	uint16_t used;

	if (!consumer_is_packed(c) && c->iotlb != NULL &&
	    vdpa_ring_used_idx(c->iotlb, vq->device, &used)) {
		vq->base = used;
		vq->placed = false;
	}
}

int
consumer_vq_halt(struct vdpa_consumer *c, uint16_t idx)
{
	struct vdpa_vq_state state;
	bool runs = consumer_runs(c);
	int rc = runs ? vdpa_device_stop_vq(c->vdev, idx, &state)
		      : vdpa_error(EIO, "%s: has failed", c->vdev->name);

	if (runs && rc < 0)
		VDPA_LOG_LIMITED(&c->vdev->core->log, ERR, "%s: queue %u: stop: %s", c->vdev->name,
				 idx, vdpa_error_cause(vdpa_error_message(), c->vdev->name, idx));
	if (rc < 0)
		keep_failed_base(c, &c->vqs[idx]);
	else
		consumer_vq_keep_place(c, idx, &state);
	return rc;
}

void
consumer_vq_stop(struct vdpa_consumer *c, uint16_t idx)
{
	struct consumer_vq *vq = &c->vqs[idx];

	if (vq->state == CONSUMER_VQ_STARTED)
		(void)consumer_vq_halt(c, idx);
	/* A start wants a kick again. */
	close_fd(&vq->kick_fd, CONSUMER_FD_NOT_SET);
	if (vq->state != CONSUMER_VQ_ABSENT)
		vq->state = CONSUMER_VQ_ANNOUNCED;
}

void
consumer_vq_stop_lost(struct vdpa_consumer *c, uint16_t idx)
{
	struct consumer_vq *vq = &c->vqs[idx];
	struct vdpa_vq_state state;

	if (vdpa_device_stop_vq(c->vdev, idx, &state) == 0)
		consumer_vq_keep_place(c, idx, &state);
	vq->state = CONSUMER_VQ_REFUSED;
}

/* A stop that is to leave requests undone, and cannot, waits for them: that is no failure. */
static void
hand_over_requests(struct vdpa_consumer *c, uint16_t idx)
{
	/* Nobody else would find them in an area of ours. */
	if (idx < c->inflight_vqs && !c->inflight_own && consumer_runs(c) &&
	    c->vqs[idx].state == CONSUMER_VQ_STARTED && vdpa_device_hand_over_vq(c->vdev, idx) < 0)
		VDPA_LOG_LIMITED(&c->vdev->core->log, WARNING,
				 "%s: queue %u: stops when its requests have ended: %s",
				 c->vdev->name, idx,
				 vdpa_error_cause(vdpa_error_message(), c->vdev->name, idx));
}

uint32_t
vdpa_consumer_get_vq_base(struct vdpa_consumer *c, uint16_t idx, bool hand_over)
{
	CONSUMER_LOCKED(c);
	struct consumer_vq *vq = &c->vqs[idx];
	bool last = true;

	if (hand_over)
		hand_over_requests(c, idx);
	if (vq->state == CONSUMER_VQ_STARTED && consumer_stops_as_a_whole(c))
		consumer_take_driver_state(c);
	consumer_vq_stop(c, idx);
	for (uint16_t i = 0; i < c->nvqs; i++)
		last &= c->vqs[i].state != CONSUMER_VQ_STARTED;
	if (last && !consumer_stops_as_a_whole(c))
		consumer_take_driver_state(c);
	if (last)
		consumer_stop(c);
	/* Not before: a device that has stopped with its last queue has let go of them all. */
	close_fd(&vq->call_fd, -1);
	if (vq->base != CONSUMER_NOT_SET)
		return (uint32_t)vq->base;
	return consumer_is_packed(c) ? PACKED_BASE_INITIAL : 0;
}
