/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Life cycle of a device: allocation, references, registration. What happens between registration
 * and unregistration is in status.c (single steps), session.c (start and stop) and calls.c (every
 * other call); a device that fails is failure.c's.
 */

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bus.h"
#include "device_dma.h"
#include "device_priv.h"
#include "failure.h"
#include "notice.h"
#include "op.h"
#include "snapshot.h"
#include "steps.h"
#include "vdpa_log.h"

/* Bytes; a page, wherever that is large. */
#define VQ_ALIGN_MAX 65536

static const char *
missing_op(const struct vdpa_config_ops *ops)
{
#define MANDATORY(op)                                                                              \
	if (ops->op == NULL)                                                                       \
	return #op
	MANDATORY(set_vq_address);
	MANDATORY(set_vq_num);
	MANDATORY(kick_vq);
	MANDATORY(set_vq_cb);
	MANDATORY(set_vq_ready);
	MANDATORY(set_vq_state);
	MANDATORY(get_vq_state);
	MANDATORY(get_vq_count);
	MANDATORY(get_vq_num_max);
	MANDATORY(get_device_features);
	MANDATORY(set_driver_features);
	MANDATORY(get_device_id);
	MANDATORY(get_vendor_id);
	MANDATORY(get_status);
	MANDATORY(set_status);
	MANDATORY(reset);
	MANDATORY(get_config_size);
	MANDATORY(get_config);
#undef MANDATORY
	return NULL;
}

/* Which ops are there, and which belong to them. */
static int
check_ops(const char *name, const struct vdpa_config_ops *ops)
{
	const char *missing = missing_op(ops);
	const struct {
		const char *has, *lacks;
		bool wrong;
	} pairs[] = {
#define NEEDS(a, b) {#a, #b, ops->a != NULL && ops->b == NULL}
		NEEDS(suspend, resume),	    NEEDS(resume, suspend),	NEEDS(dma_map, dma_unmap),
		NEEDS(dma_unmap, dma_map),  NEEDS(log_start, log_stop), NEEDS(log_stop, log_start),
		NEEDS(log_sync, log_start),
#undef NEEDS
	};

	if (missing != NULL)
		return vdpa_error(EINVAL, "%s: the driver lacks %s", name, missing);
	for (unsigned int i = 0; i < RTE_DIM(pairs); i++)
		if (pairs[i].wrong)
			return vdpa_error(EINVAL, "%s: the driver has %s and lacks %s", name,
					  pairs[i].has, pairs[i].lacks);
	if (ops->set_map != NULL && ops->dma_map != NULL)
		return vdpa_error(EINVAL,
				  "%s: the driver has set_map and dma_map: allowed is one of them",
				  name);
	return 0;
}

/* What the driver says of the device once and for all. */
static int
check_features(struct vdpa_device *vdev)
{
	const struct vdpa_config_ops *ops = vdev->config;
	uint64_t features = ops->get_device_features(vdev);
	uint64_t backend = ops->get_backend_features != NULL ? ops->get_backend_features(vdev) : 0;

	if ((features & RTE_BIT64(VIRTIO_F_VERSION_1)) == 0)
		return vdpa_error(EINVAL,
				  "%s: device features 0x%" PRIx64
				  " without VIRTIO_F_VERSION_1, which every device has here",
				  vdev->name, features);
	backend &= ~RTE_BIT64(VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK);
	if (backend != 0)
		return vdpa_error(EINVAL,
				  "%s: backend features 0x%" PRIx64
				  " are unknown: what they say is said by the ops that are there",
				  vdev->name, backend);
	return 0;
}

/* How large the queues may be, and how they are aligned; noted where it is checked later on. */
static int
note_limits(struct vdpa_device *vdev)
{
	const struct vdpa_config_ops *ops = vdev->config;
	struct vdpa_device_core *core = vdev->core;
	uint32_t max = ops->get_vq_num_max(vdev);
	uint32_t min = ops->get_vq_num_min != NULL ? ops->get_vq_num_min(vdev) : 1;

	core->vq_num_min = min;
	core->vq_align = ops->get_vq_align != NULL ? ops->get_vq_align(vdev) : 1;
	if (max == 0 || max > VDPA_VQ_NUM_MAX)
		return vdpa_error(EINVAL, "%s: queues of up to %u, allowed are 1 to %u", vdev->name,
				  max, VDPA_VQ_NUM_MAX);
	if (core->vq_align > VQ_ALIGN_MAX || !rte_is_power_of_2(core->vq_align))
		return vdpa_error(EINVAL,
				  "%s: queues aligned to %u, allowed are powers of two up to %u",
				  vdev->name, core->vq_align, VQ_ALIGN_MAX);
	for (uint16_t i = 0; i < core->nvqs; i++) {
		uint32_t size = ops->get_vq_size != NULL ? ops->get_vq_size(vdev, i) : max;

		if (min == 0 || size < min || size > max)
			return vdpa_error(EINVAL,
					  "%s: queue %u: of %u to %u, where the device's are of up "
					  "to %u",
					  vdev->name, i, min, size, max);
		core->vqs[i].num_max = size;
	}
	return 0;
}

/* Who brings guest memory into the device's reach: the driver or, in a DMA domain, the core. */
static int
check_dma(const struct vdpa_device *vdev)
{
	bool own = vdev->config->set_map != NULL || vdev->config->dma_map != NULL;

	if (!own && vdev->dma == NULL)
		return vdpa_error(
			EINVAL,
			"%s: the driver has neither set_map nor dma_map and dma_unmap, and "
			"gives no DMA domain",
			vdev->name);
	if (own && vdev->dma != NULL)
		return vdpa_error(EINVAL,
				  "%s: the driver has %s and gives a DMA domain: allowed is one of "
				  "them",
				  vdev->name,
				  vdev->config->set_map != NULL ? "set_map" : "dma_map");
	return 0;
}

bool
vdpa_name_is_valid(const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || len >= VDPA_NAME_MAX)
		return false;
	for (; *name != '\0'; name++)
		if (!isalnum((unsigned char)*name) && strchr("._-", *name) == NULL)
			return false;
	return true;
}

static void
device_free(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;

	if (vdev->config->free != NULL)
		vdev->config->free(vdev);
	if (core->config_fd >= 0)
		close(core->config_fd);
	vdpa_iotlb_put(core->iotlb);
	vdpa_vm_leave(core->vm);
	pthread_mutex_destroy(&core->state_lock);
	pthread_mutex_destroy(&core->show_lock);
	pthread_mutex_destroy(&core->fail_lock);
	pthread_mutex_destroy(&core->lock);
	free(core->vqs);
	free(core);
	free(vdev);
}

static void
config_event(struct vdpa_event *ev, uint32_t revents)
{
	struct vdpa_device *vdev = ev->arg;
	struct vdpa_device_core *core = vdev->core;
	const struct vdpa_frontend *fe;
	eventfd_t count;

	if (eventfd_read(ev->fd, &count) < 0)
		return;
	pthread_mutex_lock(&core->show_lock);
	fe = core->fe;
	core->config_missed = fe == NULL;
	pthread_mutex_unlock(&core->show_lock);
	vdpa_snapshot_post(vdev);
	if (fe != NULL && fe->ops->config_changed != NULL)
		fe->ops->config_changed(vdev);
}

static struct vdpa_capabilities
find_capabilities(struct vdpa_device *vdev)
{
	const struct vdpa_config_ops *ops = vdev->config;
	uint64_t backend = ops->get_backend_features != NULL ? ops->get_backend_features(vdev) : 0;

	return (struct vdpa_capabilities){
		.late_vqs = (backend & RTE_BIT64(VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK)) != 0,
		.suspend = ops->suspend != NULL,
		.vq_enable = ops->set_vq_enable != NULL,
		.vq_reset = ops->reset_vq != NULL,
		.log = ops->log_start != NULL,
		.inflight = ops->set_vq_inflight != NULL,
		.doorbells = ops->get_vq_notification != NULL,
	};
}

void
vdpa_device_set_frontend(struct vdpa_device *vdev, struct vdpa_frontend *fe)
{
	struct vdpa_device_core *core = vdev->core;
	bool missed;

	pthread_mutex_lock(&core->show_lock);
	__atomic_store_n(&core->fe, fe, __ATOMIC_RELEASE);
	missed = core->config_missed;
	pthread_mutex_unlock(&core->show_lock);
	/* It had its chance. */
	if (fe != NULL)
		vdpa_device_drop_left(vdev);
	pthread_mutex_lock(&core->fail_lock);
	if (core->fail_state == VDPA_FAIL_STOPPED)
		vdpa_work_post(&core->work, &core->fail_work);
	pthread_mutex_unlock(&core->fail_lock);
	if (missed)
		eventfd_write(core->config_fd, 1);
}

static struct vdpa_device *
alloc_failed(struct vdpa_device *vdev, struct vdpa_device_core *core, int err)
{
	free(core);
	free(vdev);
	errno = -err;
	return NULL;
}

struct vdpa_device *
vdpa_alloc_device_size(size_t size, const char *name, const struct vdpa_config_ops *ops)
{
	struct vdpa_device_core *core = calloc(1, sizeof(*core));
	struct vdpa_device *vdev = calloc(1, size);
	int rc;

	if (vdev == NULL || core == NULL)
		return alloc_failed(vdev, core, vdpa_error(ENOMEM, "%s: out of memory", name));
	rc = vdpa_ops_copy(&core->ops, sizeof(core->ops), ops, VDPA_OPS_SIZE_MIN, name);
	if (rc < 0)
		return alloc_failed(vdev, core, rc);
	rc = check_ops(name, &core->ops);
	if (rc < 0)
		return alloc_failed(vdev, core, rc);
	if (!vdpa_name_is_valid(name))
		return alloc_failed(
			vdev, core,
			vdpa_error(EINVAL, "name '%s': allowed are 1 to %d of A-Z a-z 0-9 . _ -",
				   name, VDPA_NAME_MAX - 1));
	snprintf(vdev->name, sizeof(vdev->name), "%s", name);
	vdev->config = &core->ops;
	vdev->core = core;
	core->vdev = vdev;
	pthread_mutex_init(&core->lock, NULL);
	pthread_mutex_init(&core->fail_lock, NULL);
	pthread_mutex_init(&core->show_lock, NULL);
	pthread_mutex_init(&core->state_lock, NULL);
	core->refcnt = 1;
	core->config_fd = -1;
	vdpa_work_queue_init(&core->work);
	vdpa_failure_init(vdev);
	vdpa_doorbell_init(vdev);
	vdpa_log_init(vdev);
	vdpa_snapshot_init(vdev);
	return vdev;
}

void
vdpa_get_device(struct vdpa_device *vdev)
{
	__atomic_add_fetch(&vdev->core->refcnt, 1, __ATOMIC_RELAXED);
}

void
vdpa_put_device(struct vdpa_device *vdev)
{
	if (__atomic_sub_fetch(&vdev->core->refcnt, 1, __ATOMIC_ACQ_REL) == 0)
		device_free(vdev);
}

int
vdpa_register_device(struct vdpa_device *vdev)
{
	const struct vdpa_config_ops *ops = vdev->config;
	struct vdpa_device_core *core = vdev->core;
	uint16_t nvqs = ops->get_vq_count(vdev);
	int rc;

	if (core->state != VDPA_STATE_ALLOCATED)
		return vdpa_error(EBUSY, "%s: is registered", vdev->name);
	if (nvqs == 0 || nvqs > VDPA_VQ_MAX)
		return vdpa_error(EINVAL, "%s: %u virtqueues, allowed are 1 to %u", vdev->name,
				  nvqs, VDPA_VQ_MAX);
	rc = check_dma(vdev);
	if (rc == 0)
		rc = check_features(vdev);
	if (rc < 0)
		return rc;
	core->vqs = calloc(nvqs, sizeof(*core->vqs));
	if (core->vqs == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", vdev->name);
	core->nvqs = nvqs;
	core->can = find_capabilities(vdev);
	for (uint16_t i = 0; i < nvqs; i++)
		core->vqs[i] = (struct vdpa_core_vq){.vdev = vdev, .path = &vdpa_path_direct};
	rc = note_limits(vdev);
	if (rc < 0)
		goto err_vqs;

	core->config_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (core->config_fd < 0) {
		rc = vdpa_error(errno, "%s: eventfd: %s", vdev->name, strerror(errno));
		goto err_vqs;
	}
	core->config_ev = (struct vdpa_event){
		.fd = core->config_fd, .events = EPOLLIN, .handler = config_event, .arg = vdev};
	rc = vdpa_dma_attach(vdev);
	if (rc < 0)
		goto err_fd;
	core->is_left = ops->adopt != NULL && ops->adopt(vdev) == 0;
	rc = core->is_left ? 0 : VDPA_OP(vdev, -1, "the device does not reset", ops->reset(vdev));
	if (rc < 0)
		goto err_dma;
	core->fail_open = true;
	vdpa_device_set_state(vdev, VDPA_STATE_IDLE);
	rc = vdpa_event_add(vdpa_event_loop_control(), &core->config_ev);
	if (rc < 0) {
		vdpa_error(rc, "%s: event loop: %s", vdev->name, strerror(-rc));
		goto err_state;
	}
	vdpa_snapshot_refresh(vdev);
	/* Before anybody can find it, and delete it. */
	vdpa_get_device(vdev);
	rc = vdpa_bus_add(vdev);
	if (rc == 0)
		return 0;
	vdpa_put_device(vdev);
	vdpa_event_del(&core->config_ev);
	vdpa_work_cancel(&core->snapshot_work);
err_state:
	core->fail_open = false;
	vdpa_device_set_state(vdev, VDPA_STATE_ALLOCATED);
err_dma:
	vdpa_dma_detach(vdev);
err_fd:
	close(core->config_fd);
	core->config_fd = -1;
err_vqs:
	free(core->vqs);
	core->vqs = NULL;
	return rc;
}

void
vdpa_unregister_device(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_frontend *fe;

	vdpa_device_lock(vdev);
	if (core->state == VDPA_STATE_ALLOCATED || core->state == VDPA_STATE_REMOVED) {
		vdpa_device_unlock(vdev);
		return;
	}
	if (vdpa_step_stop(vdev) < 0)
		VDPA_LOG(ERR, "%s", vdpa_error_message());
	else
		/* What stays in its reach is reported by the call that tries. */
		(void)vdpa_step_end_memory(vdev, 0);
	vdpa_dma_detach(vdev);
	vdpa_device_set_state(vdev, VDPA_STATE_REMOVED);
	pthread_mutex_lock(&core->fail_lock);
	core->fail_open = false;
	core->fail_state = VDPA_FAIL_NONE;
	pthread_mutex_unlock(&core->fail_lock);
	vdpa_device_unlock(vdev);

	/* From here on no loop calls anything of the front end's. */
	vdpa_event_del(&core->config_ev);
	vdpa_work_cancel(&core->snapshot_work);
	vdpa_work_cancel(&core->fail_work);
	vdpa_work_cancel(&core->dirty.work);
	vdpa_work_cancel(&core->path_work);
	vdpa_work_cancel(&core->doorbell_work);
	vdpa_bus_del(vdev);
	pthread_mutex_lock(&core->show_lock);
	fe = __atomic_exchange_n(&core->fe, NULL, __ATOMIC_ACQ_REL);
	pthread_mutex_unlock(&core->show_lock);
	if (fe != NULL)
		fe->ops->remove(vdev);
	vdpa_put_device(vdev);
}

enum vdpa_device_state
vdpa_device_get_state(const struct vdpa_device *vdev)
{
	return __atomic_load_n(&vdev->core->state, __ATOMIC_ACQUIRE);
}

/* What of a change of state is of interest outside. */
static void
notice_state(struct vdpa_device *vdev, enum vdpa_device_state old)
{
	enum vdpa_device_state state = vdev->core->state;
	bool ran = old == VDPA_STATE_RUNNING || old == VDPA_STATE_SUSPENDED;

	if (state == VDPA_STATE_FAILED)
		vdpa_failure_notice(vdev);
	else if (!ran && state == VDPA_STATE_RUNNING)
		vdpa_notice(VDPA_NOTICE_STARTED, vdev->name, NULL);
	else if (ran && !vdpa_device_started(vdev))
		vdpa_notice(VDPA_NOTICE_STOPPED, vdev->name, NULL);
}

void
vdpa_device_set_state(struct vdpa_device *vdev, enum vdpa_device_state state)
{
	enum vdpa_device_state old = vdev->core->state;

	if (old == state)
		return;
	__atomic_store_n(&vdev->core->state, state, __ATOMIC_RELEASE);
	vdpa_counts_state(vdev, old, state);
	VDPA_LOG_LIMITED(&vdev->core->log, INFO, "%s: %s -> %s", vdev->name,
			 vdpa_device_state_name(old), vdpa_device_state_name(state));
	notice_state(vdev, old);
}

const char *
vdpa_device_state_name(enum vdpa_device_state state)
{
	static const char *const names[] = {
		[VDPA_STATE_ALLOCATED] = "allocated",	  [VDPA_STATE_IDLE] = "idle",
		[VDPA_STATE_CONFIGURING] = "configuring", [VDPA_STATE_RUNNING] = "running",
		[VDPA_STATE_SUSPENDED] = "suspended",	  [VDPA_STATE_FAILED] = "failed",
		[VDPA_STATE_REMOVED] = "removed",
	};

	return (unsigned int)state < RTE_DIM(names) ? names[state] : "unknown";
}

void
vdpa_set_drvdata(struct vdpa_device *vdev, void *data)
{
	vdev->core->drvdata = data;
}

void *
vdpa_get_drvdata(const struct vdpa_device *vdev)
{
	return vdev->core->drvdata;
}

struct vdpa_work_queue *
vdpa_get_work_queue(struct vdpa_device *vdev)
{
	return &vdev->core->work;
}
