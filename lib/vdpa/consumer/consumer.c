/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The consumer: from what a front end has said, when its device starts, what changes while it runs,
 * and when it stops. The one place that decides so for every front end; see vdpa_consumer.h.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/vhost.h>
#include <linux/virtio_net.h>

#include "clock.h"
#include "consumer_priv.h"
#include "notice.h"
#include "paths.h"
#include "session_priv.h"
#include "vdpa_log.h"
#include "virtio_type.h"

/* What is offered. */

/* Whether the device has a control queue of its own that a front end can have. vhost-user's
 * messages carry no queue number above 255, so there are 127 pairs at most beside it. */
static bool
gives_ctrl_vq(struct vdpa_device *vdev)
{
	return virtio_type(vdpa_get_device_id(vdev))->pairs &&
	       (vdpa_get_device_features(vdev) & RTE_BIT64(VIRTIO_NET_F_CTRL_VQ)) != 0 &&
	       vdev->core->nvqs % 2 == 1 && vdev->core->nvqs < VDPA_VQ_MAX;
}

/*
 * MQ and GUEST_ANNOUNCE are between front end and guest for a front end that keeps the control
 * queue (QEMU, virtio-user), which wants the back end's word for them; to one that leaves the
 * control queue to its back end they are worth nothing without CTRL_VQ (virtio 1.2, 5.1.3.1). So a
 * device without a control queue to give offers MQ where it has pairs for it, and GUEST_ANNOUNCE
 * where its guest can migrate, which is what that is for.
 */
uint64_t
vdpa_consumer_offered_features(struct vdpa_device *vdev, bool ctrl_vq)
{
	const struct virtio_type *type = virtio_type(vdpa_get_device_id(vdev));
	uint64_t features = vdpa_path_offered_features(vdev, vdpa_get_device_features(vdev));

	/* Addresses reach us as guest physical ones; no front end serves IOTLB messages. The first
	 * kicks come by eventfd, which carries no data. */
	features &= ~(RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM) | RTE_BIT64(VIRTIO_F_NOTIFICATION_DATA));
	if (!ctrl_vq || !gives_ctrl_vq(vdev))
		features &= ~type->ctrl;
	features &= ~type->ctrl_dependent;
	if (type->pairs && vdpa_consumer_data_vqs(vdev) > 2)
		features |= RTE_BIT64(VIRTIO_NET_F_MQ);
	if (type->pairs && (gives_ctrl_vq(vdev) || vdpa_device_can_migrate(vdev)))
		features |= RTE_BIT64(VIRTIO_NET_F_GUEST_ANNOUNCE);
	if (vdpa_device_can_migrate(vdev))
		features |= RTE_BIT64(VHOST_F_LOG_ALL);
	return features | RTE_BIT64(VHOST_USER_F_PROTOCOL_FEATURES);
}

uint64_t
vdpa_consumer_function_features(struct vdpa_device *vdev)
{
	return vdpa_path_offered_features(vdev, vdpa_get_device_features(vdev)) &
	       ~RTE_BIT64(VIRTIO_F_NOTIFICATION_DATA);
}

uint16_t
vdpa_consumer_data_vqs(struct vdpa_device *vdev)
{
	return virtio_type_data_vqs(virtio_type(vdpa_get_device_id(vdev)), vdpa_get_vq_count(vdev));
}

uint16_t
vdpa_consumer_vq_count(struct vdpa_device *vdev)
{
	return (uint16_t)(vdpa_consumer_data_vqs(vdev) + gives_ctrl_vq(vdev));
}

uint16_t
vdpa_consumer_queue_num(struct vdpa_device *vdev)
{
	uint16_t n = vdpa_consumer_data_vqs(vdev);

	return virtio_type(vdpa_get_device_id(vdev))->pairs ? n / 2 : n;
}

/* SET_FEATURES decides whose the control queue is: the device has it when the front end has
 * acknowledged CTRL_VQ, and else is not shown what hangs on it. */
static uint16_t
usable_vqs(const struct vdpa_consumer *c)
{
	return c->function || c->features == CONSUMER_NOT_SET ||
			       consumer_has(c, VIRTIO_NET_F_CTRL_VQ)
		       ? c->nvqs
		       : vdpa_consumer_data_vqs(c->vdev);
}

uint64_t
consumer_device_features(const struct vdpa_consumer *c, uint64_t features)
{
	uint64_t own = c->function ? vdpa_consumer_function_features(c->vdev)
				   : vdpa_path_offered_features(c->vdev,
								vdpa_get_device_features(c->vdev));

	if (!c->function && (features & RTE_BIT64(VIRTIO_NET_F_CTRL_VQ)) == 0)
		own &= ~virtio_type(vdpa_get_device_id(c->vdev))->ctrl;
	/* Ring addresses reach the device through the core's translation, always. */
	return (features & own) | (own & RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM));
}

void
consumer_set_failed(struct vdpa_consumer *c)
{
	c->state = CONSUMER_FAILED;
	c->logging = false;
}

bool
consumer_runs(struct vdpa_consumer *c)
{
	if (c->state == CONSUMER_RUNNING && vdpa_device_get_state(c->vdev) == VDPA_STATE_FAILED) {
		consumer_set_failed(c);
		consumer_lose_driver_state(c);
	}
	return c->state == CONSUMER_RUNNING;
}

int
consumer_check_alive(struct vdpa_consumer *c)
{
	char why[VDPA_FAILURE_MAX] = "";
	bool runs = consumer_runs(c);

	if (runs || c->state == CONSUMER_FAILED)
		vdpa_device_failure(c->vdev, why, sizeof(why));
	if (c->state != CONSUMER_FAILED && why[0] == '\0')
		return 0;
	return vdpa_error(EIO, "the device has failed%s%s", why[0] != '\0' ? ": " : "", why);
}

/* The log that the device is to have, NULL for none, and where it logs the used rings. */
static const struct vdpa_dirty_log *
wanted_log(const struct vdpa_consumer *c, uint64_t used[VDPA_VQ_MAX])
{
	for (uint16_t i = 0; i < VDPA_VQ_MAX; i++)
		used[i] = i < c->nvqs ? c->vqs[i].user.log : UINT64_MAX;
	for (uint16_t i = 0; c->logs_rings && i < c->nvqs; i++)
		if (c->vqs[i].user.desc != CONSUMER_NOT_SET)
			used[i] = c->vqs[i].user.device;
	return c->function || consumer_has(c, VHOST_F_LOG_ALL) ? c->log : NULL;
}

/* A page that the front end's log has no bit for would be missed at the other end. */
int
consumer_check_log(const struct vdpa_consumer *c, const struct vdpa_dirty_log *log,
		   const struct vdpa_iotlb *tlb)
{
	uint64_t need = vdpa_dirty_log_bytes(tlb);

	/* The size of a function's log is its driver's to choose. */
	if (log == NULL || c->function || RTE_ALIGN_CEIL(log->size, UINT64_C(8)) >= need)
		return 0;
	return vdpa_error(EINVAL, "%s: a dirty log of %" PRIu64 " bytes, the memory needs %" PRIu64,
			  c->vdev->name, log->size, need);
}

int
consumer_update_log(struct vdpa_consumer *c)
{
	uint64_t used[VDPA_VQ_MAX];
	const struct vdpa_dirty_log *log = wanted_log(c, used);
	int rc;

	/* The core may not have stopped a device that failed yet: it is to leave the log before the
	 * front end takes that away. */
	if (!consumer_runs(c) && c->state == CONSUMER_FAILED)
		return vdpa_device_set_log(c->vdev, NULL, NULL);
	if (c->state != CONSUMER_RUNNING || (log == NULL && !c->logging))
		return 0;
	rc = consumer_check_log(c, log, c->iotlb);
	if (rc == 0)
		rc = vdpa_device_set_log(c->vdev, log, used);
	if (rc == 0)
		c->logging = log != NULL;
	return rc;
}

/* The stop resets the device, which forgets a failure that it has reported, and the core has not
 * acted on. */
static void
note_failure(struct vdpa_consumer *c)
{
	struct vdpa_error_saved error;

	vdpa_error_save(&error);
	if (consumer_runs(c) && consumer_check_alive(c) < 0) {
		consumer_lose_driver_state(c);
		for (uint16_t i = 0; i < c->nvqs; i++)
			consumer_vq_signal_error(c, i);
	}
	vdpa_error_restore(&error);
}

void
consumer_stop(struct vdpa_consumer *c)
{
	int rc;

	vdpa_timer_stop(&c->settle);
	note_failure(c);
	c->nready = 0;
	/* The driver of a function has had the device asked for features before its start. */
	if (c->state == CONSUMER_RUNNING || c->state == CONSUMER_FAILED || c->function) {
		/* The dirty log ends with it: not before, as the device writes until then. */
		rc = vdpa_device_stop(c->vdev);
		if (rc < 0 && rc != -ENODEV)
			VDPA_LOG_LIMITED(&c->vdev->core->log, ERR, "%s: stop: %s", c->vdev->name,
					 vdpa_error_cause(vdpa_error_message(), c->vdev->name, -1));
	}
	c->logging = false;
	c->state = CONSUMER_STOPPED;
}

/*
 * The device cannot be started as the front end wants it: reported in the log, by the error
 * eventfds and by NEEDS_RESET in the status, all of which follow from a failed device.
 */
static void
start_failed(struct vdpa_consumer *c, int rc)
{
	struct vdpa_vq_state state;

	if (rc == -ENODEV)
		return;
	consumer_set_failed(c);
	/* The report names the device itself. */
	vdpa_device_fail(c->vdev, -1, rc, "start: %s",
			 vdpa_error_cause(vdpa_error_message(), c->vdev->name, -1));
	/* The core stops it, perhaps later; and eventfds, log and inflight area are the front end's
	 * to take away from now on. */
	for (uint16_t i = 0; i < c->nvqs; i++)
		if (c->vqs[i].state == CONSUMER_VQ_STARTED)
			(void)vdpa_device_stop_vq(c->vdev, i, &state);
}

static void
start(struct vdpa_consumer *c)
{
	struct vdpa_vq_config *vqs = calloc(c->nvqs, sizeof(*vqs));
	uint64_t used[VDPA_VQ_MAX];
	struct vdpa_start_config conf = {.peer = &c->peer,
					 .features = consumer_device_features(c, c->features),
					 .iotlb = c->iotlb,
					 .vqs = vqs,
					 .nvqs = usable_vqs(c),
					 .log = wanted_log(c, used),
					 .used_iova = used,
					 .state = c->driver_state_loaded ? c->driver_state : NULL,
					 .state_len = c->driver_state_len};
	/* Before DRIVER_OK is the best time for a queue, even where there is another. */
	bool takes_disabled = !c->can->late_vqs || c->can->vq_enable;
	int rc = vqs == NULL ? vdpa_error(ENOMEM, "out of memory")
			     : consumer_check_log(c, conf.log, c->iotlb);

	vdpa_timer_stop(&c->settle);
	for (uint16_t i = 0; vqs != NULL && i < conf.nvqs; i++) {
		struct consumer_vq *vq = &c->vqs[i];

		vqs[i].kick_fd = vqs[i].call_fd = -1;
		if (takes_disabled ? vq->state != CONSUMER_VQ_SET_UP : !consumer_vq_is_ready(c, vq))
			continue;
		vq->state = c->held ? CONSUMER_VQ_PARKED : CONSUMER_VQ_STARTED;
		if (rc == 0 && !c->held)
			rc = consumer_vq_config(c, i, &vqs[i]);
	}
	if (rc == 0)
		rc = vdpa_device_start(c->vdev, &conf);
	if (rc == 0) {
		c->state = CONSUMER_RUNNING;
		c->in_force = true;
		c->logging = conf.log != NULL;
		for (uint16_t i = 0; i < conf.nvqs; i++)
			consumer_vq_signal_tracked(c, i);
		consumer_forget_driver_state(c);
		consumer_announce_arrival(c);
	} else {
		start_failed(c, rc);
	}
	free(vqs);
}

/* Whether the device may start now; else, where it only waits for more queues, the timer runs. */
static bool
may_start(struct vdpa_consumer *c)
{
	unsigned int ready = 0, announced = 0;

	for (uint16_t i = 0; i < usable_vqs(c); i++) {
		announced += c->vqs[i].state != CONSUMER_VQ_ABSENT;
		ready += consumer_vq_is_ready(c, &c->vqs[i]);
	}
	/* Its driver may enable queues, and map memory, later. */
	if (c->function)
		return c->features != CONSUMER_NOT_SET &&
		       (c->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
	if (c->features == CONSUMER_NOT_SET || c->iotlb == NULL || ready == 0) {
		c->state = CONSUMER_STOPPED;
		c->nready = 0;
		return false;
	}
	if (c->reports_status) {
		c->state = CONSUMER_STOPPED;
		return (c->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
	}
	/* One that runs already has the queues that it has. */
	if (c->can->late_vqs || ready == announced || vdpa_device_is_left(c->vdev))
		return true;
	if (ready != c->nready) {
		c->ready_us = vdpa_now_us();
		c->state = CONSUMER_SETTLING;
		vdpa_timer_start(&c->settle, VDPA_CONSUMER_SETTLE_MS);
	}
	c->nready = ready;
	return false;
}

/* A queue that has become ready later. A device that does not take it goes on with the others. */
static void
join(struct vdpa_consumer *c, uint16_t idx)
{
	struct consumer_vq *vq = &c->vqs[idx];
	struct vdpa_vq_config conf;
	int rc;

	if (c->held) {
		vq->state = CONSUMER_VQ_PARKED;
		return;
	}
	vq->state = CONSUMER_VQ_STARTED;
	rc = consumer_vq_config(c, idx, &conf);
	/* The log knows its used ring before it writes there. */
	if (rc == 0 && consumer_update_log(c) < 0)
		rc = -EIO;
	if (rc == 0)
		rc = vdpa_device_start_vq(c->vdev, idx, &conf);
	/* A function's queue whose rings are nonsense is its driver's fault. */
	if ((rc == -EOPNOTSUPP || (rc < 0 && c->function)) &&
	    vdpa_device_get_state(c->vdev) == VDPA_STATE_RUNNING) {
		vq->state = CONSUMER_VQ_REFUSED;
		VDPA_LOG_LIMITED(&c->vdev->core->log, ERR, "%s: queue %u: does not start: %s",
				 c->vdev->name, idx,
				 vdpa_error_cause(vdpa_error_message(), c->vdev->name, idx));
		consumer_vq_signal_error(c, idx);
	} else if (rc < 0) {
		start_failed(c, rc);
	} else {
		consumer_vq_signal_tracked(c, idx);
	}
}

static bool
has_settled(const struct vdpa_consumer *c)
{
	return c->state == CONSUMER_SETTLING &&
	       vdpa_now_us() - c->ready_us >= VDPA_CONSUMER_SETTLE_MS * 1000;
}

void
consumer_advance(struct vdpa_consumer *c)
{
	consumer_runs(c);
	if (c->state == CONSUMER_STOPPED || c->state == CONSUMER_SETTLING) {
		if (!may_start(c) && !has_settled(c))
			return;
		start(c);
	}
	for (uint16_t i = 0; c->state == CONSUMER_RUNNING && i < usable_vqs(c); i++)
		if (consumer_vq_is_ready(c, &c->vqs[i]))
			join(c, i);
	if (c->function)
		consumer_resume_parked(c);
}

void
vdpa_consumer_advance(struct vdpa_consumer *c)
{
	CONSUMER_LOCKED(c);

	consumer_advance(c);
}

/* On the control loop. */
static void
settle_expired(struct vdpa_timer *timer)
{
	struct vdpa_consumer *c = timer->arg;

	vdpa_work_post(&c->vdev->core->work, &c->settled);
}

static void
settled_run(struct vdpa_work *work)
{
	struct vdpa_consumer *c = work->arg;
	bool started;

	pthread_mutex_lock(&c->lock);
	consumer_advance(c);
	started = c->state == CONSUMER_RUNNING;
	pthread_mutex_unlock(&c->lock);
	if (started && c->ops != NULL && c->ops->started != NULL)
		c->ops->started(c->arg);
}

/* The connection. */

static struct vdpa_consumer *
consumer_new(struct vdpa_device *vdev, uint16_t n, const struct vdpa_consumer_ops *ops, void *arg)
{
	struct vdpa_consumer *c = calloc(1, sizeof(*c) + n * sizeof(c->vqs[0]));

	if (c == NULL)
		return NULL;
	c->vdev = vdev;
	c->vm = __atomic_load_n(&vdev->core->vm, __ATOMIC_ACQUIRE);
	c->can = vdpa_get_capabilities(vdev);
	c->ops = ops;
	c->arg = arg;
	c->features = CONSUMER_NOT_SET;
	c->max_regions = VDPA_MEM_REGIONS_MAX;
	c->settle = (struct vdpa_timer){.expired = settle_expired, .arg = c};
	c->settled = (struct vdpa_work){.run = settled_run, .arg = c};
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->err_lock, NULL);
	c->nvqs = n;
	for (uint16_t i = 0; i < n; i++)
		consumer_vq_init(&c->vqs[i]);
	vdpa_notice(VDPA_NOTICE_CONNECTED, vdev->name, NULL);
	return c;
}

struct vdpa_consumer *
vdpa_consumer_new(struct vdpa_device *vdev, const struct vdpa_consumer_ops *ops, void *arg)
{
	return consumer_new(vdev, vdpa_consumer_vq_count(vdev), ops, arg);
}

struct vdpa_consumer *
vdpa_consumer_new_function(struct vdpa_device *vdev)
{
	struct vdpa_consumer *c = consumer_new(vdev, vdpa_get_vq_count(vdev), NULL, NULL);

	if (c != NULL)
		c->function = c->reports_status = true;
	return c;
}

int
vdpa_consumer_admit(struct vdpa_device *vdev, const struct vdpa_peer *peer)
{
	struct vdpa_vm_member *vm = __atomic_load_n(&vdev->core->vm, __ATOMIC_ACQUIRE);
	int rc = vdpa_device_admit(vdev, peer);

	return rc == 0 && vm != NULL ? vdpa_vm_admit(vm, peer) : rc;
}

int
vdpa_consumer_set_peer(struct vdpa_consumer *c, const struct vdpa_peer *peer)
{
	CONSUMER_LOCKED(c);
	int rc = c->vm != NULL ? vdpa_vm_peer_comes(c->vm, peer) : 0;

	if (rc == 0)
		c->peer = *peer;
	return rc;
}

void
vdpa_consumer_leaves(struct vdpa_consumer *c)
{
	if (c->vm != NULL)
		vdpa_vm_peer_leaves(c->vm);
}

void
vdpa_consumer_free(struct vdpa_consumer *c)
{
	if (c == NULL)
		return;
	vdpa_consumer_leaves(c);
	vdpa_timer_stop(&c->settle);
	vdpa_work_cancel(&c->settled);
	/* A failed device is stopped already, and shows why until it is started again. */
	if (vdpa_device_get_state(c->vdev) != VDPA_STATE_FAILED &&
	    !(c->function && c->state == CONSUMER_STOPPED))
		consumer_stop(c);
	/* The next front end finds nothing of this one's. Where this one had nothing to give, as
	 * one that is refused, nobody waits for the device and its domain. */
	if (c->gave_memory)
		(void)vdpa_device_set_memory(c->vdev, NULL);
	vdpa_notice(VDPA_NOTICE_DISCONNECTED, c->vdev->name, NULL);
	for (uint16_t i = 0; i < c->nvqs; i++)
		consumer_vq_close(c, i);
	if (c->vm != NULL) {
		vdpa_vm_table_settle(c->vm, NULL);
		vdpa_vm_peer_goes(c->vm);
	}
	vdpa_iotlb_put(c->iotlb);
	consumer_forget_driver_state(c);
	pthread_mutex_destroy(&c->err_lock);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

int
vdpa_consumer_set_features(struct vdpa_consumer *c, uint64_t features)
{
	CONSUMER_LOCKED(c);
	uint64_t old = c->features;
	int rc;

	if ((c->state == CONSUMER_RUNNING || c->state == CONSUMER_FAILED) &&
	    ((features ^ old) & ~RTE_BIT64(VHOST_F_LOG_ALL)) != 0)
		return vdpa_error(EBUSY, "features 0x%" PRIx64 " change while the device runs",
				  features ^ old);
	c->features = features;
	rc = consumer_update_log(c);
	if (rc < 0)
		c->features = old;
	return rc;
}

uint64_t
vdpa_consumer_get_features(struct vdpa_consumer *c)
{
	CONSUMER_LOCKED(c);

	return c->features == CONSUMER_NOT_SET ? 0 : c->features;
}

bool
vdpa_consumer_has_features(struct vdpa_consumer *c, uint64_t *features)
{
	CONSUMER_LOCKED(c);

	*features = c->features;
	return c->features != CONSUMER_NOT_SET;
}

uint8_t
vdpa_consumer_driver_status(struct vdpa_consumer *c)
{
	CONSUMER_LOCKED(c);

	return c->status;
}

uint16_t
vdpa_consumer_usable_vqs(struct vdpa_consumer *c)
{
	CONSUMER_LOCKED(c);

	return usable_vqs(c);
}

void
consumer_reset(struct vdpa_consumer *c, bool keep_bases)
{
	if (keep_bases && consumer_stops_as_a_whole(c))
		consumer_take_driver_state(c);
	for (uint16_t i = 0; keep_bases && i < c->nvqs; i++)
		if (c->vqs[i].state == CONSUMER_VQ_STARTED)
			consumer_vq_stop(c, i);
	if (keep_bases && !consumer_stops_as_a_whole(c))
		consumer_take_driver_state(c);
	consumer_stop(c);
	for (uint16_t i = 0; i < c->nvqs; i++) {
		/* The driver of a function routes its interrupts anew. */
		if (c->function)
			consumer_vq_close(c, i);
		consumer_vq_forget(c, i, keep_bases);
	}
	if (c->function)
		c->features = CONSUMER_NOT_SET;
	if (!keep_bases) {
		consumer_forget_driver_state(c);
		c->arrived = c->announces = false;
	}
	c->status = 0;
}

void
vdpa_consumer_reset(struct vdpa_consumer *c)
{
	CONSUMER_LOCKED(c);

	consumer_reset(c, false);
}

void
vdpa_consumer_report_status(struct vdpa_consumer *c, bool reports)
{
	CONSUMER_LOCKED(c);

	c->reports_status = reports;
}

void
vdpa_consumer_set_status(struct vdpa_consumer *c, uint8_t status)
{
	CONSUMER_LOCKED(c);

	/* QEMU 7.2 to 8.0 stops a device by status 0 first and asks where its queues stand after.
	 */
	if (status == 0)
		consumer_reset(c, true);
	c->status = status;
}

uint8_t
vdpa_consumer_get_status(struct vdpa_consumer *c)
{
	CONSUMER_LOCKED(c);

	consumer_runs(c);
	return c->status | (c->state == CONSUMER_FAILED ? VIRTIO_CONFIG_S_NEEDS_RESET : 0);
}

int
vdpa_consumer_set_log(struct vdpa_consumer *c, const struct vdpa_dirty_log *log)
{
	CONSUMER_LOCKED(c);
	const struct vdpa_dirty_log *old = c->log;
	int rc;

	c->log = log;
	rc = consumer_update_log(c);
	if (rc < 0)
		c->log = old;
	return rc;
}

int
vdpa_consumer_set_inflight(struct vdpa_consumer *c, uint8_t *addr, size_t stride, uint16_t n,
			   bool own)
{
	CONSUMER_LOCKED(c);

	for (uint16_t i = 0; i < c->nvqs; i++)
		if (c->vqs[i].state == CONSUMER_VQ_STARTED)
			return vdpa_error(EBUSY, "queue %u runs", i);
	c->inflight = addr;
	c->inflight_stride = stride;
	c->inflight_vqs = n;
	c->inflight_own = own;
	return 0;
}

int
vdpa_consumer_check_alive(struct vdpa_consumer *c)
{
	CONSUMER_LOCKED(c);

	return consumer_check_alive(c);
}

bool
vdpa_consumer_is_running(struct vdpa_consumer *c)
{
	CONSUMER_LOCKED(c);

	return consumer_runs(c);
}

bool
vdpa_consumer_has_vq(struct vdpa_consumer *c, uint16_t idx)
{
	CONSUMER_LOCKED(c);

	return consumer_runs(c) && c->vqs[idx].state == CONSUMER_VQ_STARTED;
}
