/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The config ops of a simulated device, with the device's lock held. What touches a virtqueue that
 * may run is moved to the device's worker: functions that run there are named work_*() and get a
 * struct sim_work. Until DRIVER_OK they run on the caller's thread, so that a start is one trip to
 * the worker, and each op makes one at most, unless it has to wait for requests. When a virtqueue
 * runs, and how, is in sim_run.c.
 */

#include <string.h>
#include <sys/eventfd.h>

#include "sim_priv.h"

/* Virtqueues, under the device's lock. */

static int
sim_set_vq_address(struct vdpa_device *vdev, uint16_t idx, uint64_t desc, uint64_t driver,
		   uint64_t device)
{
	struct sim_queue *q = &sim_dev(vdev)->vqs[idx];

	q->desc = desc;
	q->driver = driver;
	q->device = device;
	return 0;
}

static int
sim_set_vq_num(struct vdpa_device *vdev, uint16_t idx, uint32_t num)
{
	sim_dev(vdev)->vqs[idx].num = num;
	return 0;
}

static void
sim_kick_vq(struct vdpa_device *vdev, uint16_t idx)
{
	sim_queue_kick(&sim_dev(vdev)->vqs[idx]);
}

static int
sim_set_vq_kick(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	return sim_queue_listen(&sim_dev(vdev)->vqs[idx], fd);
}

/* As sim_on_worker(), for what leaves a virtqueue alone that cannot run. */
static int
on_queue(struct sim_queue *q, int (*fn)(void *arg), int fd)
{
	struct sim_work w = {.dev = q->dev, .q = q, .fd = fd};

	return q->ready && !q->dev->suspended ? sim_on_worker(fn, w) : fn(&w);
}

static int
work_set_cb(void *arg)
{
	struct sim_work *w = arg;

	w->q->call_fd = w->fd;
	vdpa_vq_set_call(w->q->vq, w->fd);
	return 0;
}

static int
sim_set_vq_cb(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	return on_queue(&sim_dev(vdev)->vqs[idx], work_set_cb, fd);
}

static int
queue_setup(struct sim_queue *q)
{
	const struct vdpa_vq_params params = {
		.features = q->dev->features,
		.num = q->num,
		.desc = q->desc,
		.driver = q->driver,
		.device = q->device,
		.state = q->state,
		.inflight = q->inflight,
	};
	int rc = vdpa_vq_setup(q->vq, &params, q->dev->tlb);

	if (rc < 0)
		return rc;
	vdpa_vq_set_call(q->vq, q->call_fd);
	vdpa_vq_set_log(q->vq, q->dev->log, q->log_used_iova);
	return 0;
}

static int
work_ready(void *arg)
{
	struct sim_work *w = arg;
	int rc = queue_setup(w->q);

	if (rc < 0)
		return rc;
	w->q->ready = true;
	w->q->enabled = true;
	sim_queue_update(w->q);
	return 0;
}

static int
work_stop(void *arg)
{
	struct sim_work *w = arg;
	struct sim_queue *q = w->q;
	bool halted = !q->running;

	q->enabled = false;
	sim_queue_update(q);
	/* One that was disabled before has yet to hear that its requests are handed over. */
	if (halted && q->ready && q->inflight.hand_over && w->dev->class->vq_stop != NULL)
		w->dev->class->vq_stop(q);
	return 0;
}

static int
work_teardown(void *arg)
{
	struct sim_work *w = arg;

	sim_device_settle(w->dev);
	w->q->ready = false;
	/* One that an error broke has no state to keep: it stays what it was started with. */
	vdpa_vq_get_state(w->q->vq, &w->q->state);
	vdpa_vq_teardown(w->q->vq);
	w->q->inflight.hand_over = false;
	return 0;
}

static int
sim_set_vq_ready(struct vdpa_device *vdev, uint16_t idx, bool ready)
{
	struct sim_device *dev = sim_dev(vdev);
	struct sim_queue *q = &dev->vqs[idx];
	const struct sim_work w = {.dev = dev, .q = q, .stop = work_stop, .then = work_teardown};
	int rc;

	if (q->ready == ready)
		return 0;
	if (ready) {
		rc = sim_on_worker(work_ready, w);
		return rc < 0 ? vdpa_error(rc, "%s: queue %u: %s", vdev->name, idx,
					   vdpa_vq_error(q->vq))
			      : 0;
	}
	rc = sim_standstill(w);
	/* Its requests still use it: ready, though it does not run, until a reset. */
	if (rc < 0)
		vdpa_device_fail(vdev, idx, rc, "%s", vdpa_error_message());
	return rc;
}

static int
work_enable(void *arg)
{
	struct sim_work *w = arg;

	w->q->enabled = w->on;
	sim_queue_update(w->q);
	return 0;
}

static int
sim_set_vq_enable(struct vdpa_device *vdev, uint16_t idx, bool enable)
{
	struct sim_device *dev = sim_dev(vdev);
	struct sim_work w = {.dev = dev, .q = &dev->vqs[idx], .on = enable, .stop = work_enable};
	int rc;

	/* Requests with an account of them are not waited for: QEMU disables a queue before it has
	 * them handed over, and the stop that follows waits where nobody wants them so. */
	if (enable || w.q->inflight.addr != NULL)
		return sim_on_worker(work_enable, w);
	rc = sim_standstill(w);
	w.on = true;
	if (rc < 0)
		sim_on_worker(work_enable, w);
	return rc;
}

static int
work_reload(void *arg)
{
	struct sim_work *w = arg;

	return queue_setup(w->q);
}

static int
sim_set_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state)
{
	struct sim_queue *q = &sim_dev(vdev)->vqs[idx];

	q->state = *state;
	sim_fault_load(q->dev, &q->state);
	return q->ready ? on_queue(q, work_reload, -1) : 0;
}

static int
work_get_state(void *arg)
{
	struct sim_work *w = arg;

	return vdpa_vq_get_state(w->q->vq, &w->q->state);
}

static int
sim_get_vq_state(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	struct sim_queue *q = &sim_dev(vdev)->vqs[idx];
	int rc = q->ready ? on_queue(q, work_get_state, -1) : 0;

	*state = q->state;
	sim_fault_report(q->dev, state);
	return rc;
}

static int
sim_set_vq_inflight(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_inflight *inflight)
{
	sim_dev(vdev)->vqs[idx].inflight = *inflight;
	return 0;
}

/* What the driver said about a virtqueue is forgotten; it is not ready. */
static void
queue_forget(struct sim_queue *q)
{
	q->enabled = false;
	q->failed = false;
	q->num = 0;
	q->desc = q->driver = q->device = 0;
	memset(&q->state, 0, sizeof(q->state));
	q->inflight = (struct vdpa_vq_inflight){0};
	q->log_used_iova = UINT64_MAX;
}

static int
sim_reset_vq(struct vdpa_device *vdev, uint16_t idx)
{
	int rc = sim_set_vq_ready(vdev, idx, false);

	if (rc == 0)
		queue_forget(&sim_dev(vdev)->vqs[idx]);
	return rc;
}

static int
sim_get_vendor_vq_stats(struct vdpa_device *vdev, uint16_t idx, struct vdpa_stat *stats,
			unsigned int n)
{
	struct sim_device *dev = sim_dev(vdev);
	struct sim_queue *q = &dev->vqs[idx];
	struct vdpa_vq_counters c;
	uint64_t kicks = __atomic_load_n(&q->kicks, __ATOMIC_RELAXED) +
			 __atomic_load_n(&q->sw_kicks, __ATOMIC_RELAXED);
	int i = 0;

	vdpa_vq_counters(q->vq, &c);
	i = sim_stat(stats, n, i, VDPA_QSTAT_RECEIVED_DESC, &c.popped);
	i = sim_stat(stats, n, i, VDPA_QSTAT_COMPLETED_DESC, &c.pushed);
	i = sim_stat(stats, n, i, VDPA_QSTAT_KICKS, &kicks);
	i = sim_stat(stats, n, i, VDPA_QSTAT_INTERRUPTS, &c.calls);
	if (dev->class->vq_stats != NULL)
		i += dev->class->vq_stats(q, (unsigned int)i < n ? stats + i : NULL,
					  (unsigned int)i < n ? n - (unsigned int)i : 0);
	return i;
}

/* The device. */

static uint16_t
sim_get_vq_count(struct vdpa_device *vdev)
{
	return sim_dev(vdev)->nvqs;
}

static uint16_t
sim_get_vq_num_max(struct vdpa_device *vdev)
{
	return sim_dev(vdev)->vq_num_max;
}

static uint64_t
sim_get_device_features(struct vdpa_device *vdev)
{
	return sim_dev(vdev)->device_features;
}

static uint64_t
sim_get_backend_features(struct vdpa_device *vdev)
{
	return SIM_BIT(VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK);
}

static int
sim_set_driver_features(struct vdpa_device *vdev, uint64_t features)
{
	struct sim_device *dev = sim_dev(vdev);
	int rc;

	if ((features & SIM_BIT(SIM_F_VERSION_1)) == 0)
		return vdpa_error(EINVAL, "%s: a driver without VIRTIO_F_VERSION_1 is not served",
				  vdev->name);
	if ((features & ~dev->device_features) != 0)
		return -EINVAL;
	if (dev->class->check_features != NULL) {
		rc = dev->class->check_features(dev, features);
		if (rc < 0)
			return rc;
	}
	dev->features = features;
	for (uint16_t i = 0; i < dev->nvqs && dev->class->lane != NULL; i++)
		dev->vqs[i].lane = &dev->lanes[dev->class->lane(&dev->vqs[i])];
	return 0;
}

static int
sim_set_config_cb(struct vdpa_device *vdev, int fd)
{
	struct sim_device *dev = sim_dev(vdev);

	rte_spinlock_lock(&dev->config_lock);
	dev->config_fd = fd;
	rte_spinlock_unlock(&dev->config_lock);
	return 0;
}

static uint32_t
sim_get_device_id(struct vdpa_device *vdev)
{
	return sim_dev(vdev)->class->device_id;
}

static uint32_t
sim_get_vendor_id(struct vdpa_device *vdev)
{
	return 0;
}

static uint8_t
sim_get_status(struct vdpa_device *vdev)
{
	return sim_dev(vdev)->status;
}

static int
work_set_status(void *arg)
{
	struct sim_work *w = arg;

	w->dev->status = w->status;
	sim_device_update(w->dev);
	return 0;
}

static int
sim_set_status(struct vdpa_device *vdev, uint8_t status)
{
	struct sim_device *dev = sim_dev(vdev);

	if ((status & S_DRIVER_OK) != 0)
		dev->live = true;
	return sim_on_worker(work_set_status, (struct sim_work){.dev = dev, .status = status});
}

static int
work_quiesce(void *arg)
{
	struct sim_work *w = arg;
	struct sim_device *dev = w->dev;

	dev->status = 0;
	dev->suspended = false;
	for (uint16_t i = 0; i < dev->nvqs; i++)
		dev->vqs[i].ready = false;
	sim_device_update(dev);
	return 0;
}

/* Let go of what is the front end's: rings, call eventfds, dirty log, inflight areas. */
static int
work_detach(void *arg)
{
	struct sim_work *w = arg;
	struct sim_device *dev = w->dev;

	for (uint16_t i = 0; i < dev->nvqs; i++) {
		struct sim_queue *q = &dev->vqs[i];

		vdpa_vq_teardown(q->vq);
		vdpa_vq_set_call(q->vq, -1);
		vdpa_vq_set_log(q->vq, NULL, UINT64_MAX);
		q->call_fd = -1;
		queue_forget(q);
	}
	dev->log = NULL;
	return 0;
}

static int
work_reset(void *arg)
{
	struct sim_work *w = arg;
	struct sim_device *dev = w->dev;

	sim_device_settle(dev);
	work_detach(w);
	dev->features = 0;
	/* A driver changes what is the class's from DRIVER_OK on only; a state before. */
	if ((dev->live || dev->loaded) && dev->class->reset != NULL)
		dev->class->reset(dev);
	dev->loaded = false;
	return 0;
}

static int
sim_reset(struct vdpa_device *vdev)
{
	struct sim_device *dev = sim_dev(vdev);
	const struct sim_work w = {.dev = dev, .stop = work_quiesce, .then = work_reset};
	int rc;

	sim_set_config_cb(vdev, -1);
	for (uint16_t i = 0; i < dev->nvqs; i++)
		sim_queue_listen(&dev->vqs[i], -1);
	rc = sim_standstill(w);
	/*
	 * Requests may still read and write guest memory: it stays mapped, here and, as the reset
	 * fails, in the core. All else goes: the front end takes it back now.
	 */
	if (rc < 0)
		sim_on_worker(work_detach, w);
	else
		dev->live = false;
	return rc;
}

static int
work_suspend(void *arg)
{
	struct sim_work *w = arg;

	w->dev->suspended = w->on;
	sim_device_update(w->dev);
	return 0;
}

static int
sim_suspend(struct vdpa_device *vdev)
{
	struct sim_work w = {.dev = sim_dev(vdev), .on = true, .stop = work_suspend};
	int rc = sim_standstill(w);

	w.on = false;
	if (rc < 0)
		sim_on_worker(work_suspend, w);
	return rc;
}

static int
sim_resume(struct vdpa_device *vdev)
{
	return sim_on_worker(work_suspend, (struct sim_work){.dev = sim_dev(vdev), .on = false});
}

/* Configuration space. */

static size_t
sim_get_config_size(struct vdpa_device *vdev)
{
	return sim_dev(vdev)->class->config_size;
}

static int
sim_get_config(struct vdpa_device *vdev, size_t offset, void *buf, size_t len)
{
	struct sim_device *dev = sim_dev(vdev);

	rte_spinlock_lock(&dev->config_lock);
	memcpy(buf, dev->config + offset, len);
	rte_spinlock_unlock(&dev->config_lock);
	return 0;
}

static int
work_set_config(void *arg)
{
	struct sim_work *w = arg;

	return w->dev->class->set_config(w->dev, w->offset, w->buf, w->len);
}

static int
sim_set_config(struct vdpa_device *vdev, size_t offset, const void *buf, size_t len)
{
	struct sim_device *dev = sim_dev(vdev);

	if (dev->class->set_config == NULL)
		return -EOPNOTSUPP;
	return sim_call(dev, work_set_config,
			&(struct sim_work){.dev = dev, .buf = buf, .offset = offset, .len = len});
}

static uint32_t
sim_get_generation(struct vdpa_device *vdev)
{
	return __atomic_load_n(&sim_dev(vdev)->generation, __ATOMIC_ACQUIRE);
}

void
sim_config_write(struct sim_device *dev, size_t offset, const void *buf, size_t len, bool notify)
{
	rte_spinlock_lock(&dev->config_lock);
	/* The same once more, as at a reset, is no change. */
	if (memcmp(dev->config + offset, buf, len) != 0) {
		memcpy(dev->config + offset, buf, len);
		__atomic_add_fetch(&dev->generation, 1, __ATOMIC_RELEASE);
		if (notify && dev->config_fd >= 0)
			eventfd_write(dev->config_fd, 1);
	}
	rte_spinlock_unlock(&dev->config_lock);
}

static int
sim_get_stats(struct vdpa_device *vdev, struct vdpa_stat *stats, unsigned int n)
{
	struct sim_device *dev = sim_dev(vdev);
	int i = dev->class->stats != NULL ? dev->class->stats(dev, stats, n) : 0;
	uint64_t busy = 0, cut = 0;

	for (uint16_t k = 0; k < dev->n_lanes; k++) {
		busy += __atomic_load_n(&dev->lanes[k].busy_cycles, __ATOMIC_RELAXED);
		cut += __atomic_load_n(&dev->lanes[k].turn.cut, __ATOMIC_RELAXED);
	}
	i = sim_stat(stats, n, i, "busy_cycles", &busy);
	return sim_stat(stats, n, i, "turns_cut", &cut);
}

static int
work_announce(void *arg)
{
	struct sim_work *w = arg;

	return w->dev->class->announce(w->dev, w->buf);
}

static int
sim_announce(struct vdpa_device *vdev, const uint8_t mac[6])
{
	struct sim_device *dev = sim_dev(vdev);

	if (dev->class->announce == NULL)
		return -EOPNOTSUPP;
	return sim_on_worker(work_announce, (struct sim_work){.dev = dev, .buf = mac});
}

static int
sim_can_restart(struct vdpa_device *vdev)
{
	struct sim_device *dev = sim_dev(vdev);

	return dev->class->can_restart != NULL ? dev->class->can_restart(dev) : -EOPNOTSUPP;
}

static const char *
sim_get_tie(struct vdpa_device *vdev)
{
	struct sim_device *dev = sim_dev(vdev);

	return dev->class->get_tie != NULL ? dev->class->get_tie(dev) : NULL;
}

/* Memory. */

/* A class that completes later holds addresses of the old table: let it come to an end. */
static int
work_pause(void *arg)
{
	struct sim_work *w = arg;

	w->dev->paused = w->dev->class->outstanding != NULL;
	sim_device_update(w->dev);
	return 0;
}

static int
work_continue(void *arg)
{
	struct sim_work *w = arg;

	w->dev->paused = false;
	sim_device_update(w->dev);
	return 0;
}

static int
set_iotlb(struct sim_device *dev, struct vdpa_iotlb *tlb)
{
	for (uint16_t i = 0; i < dev->nvqs; i++) {
		struct sim_queue *q = &dev->vqs[i];
		int rc;

		if (!q->ready || q->failed)
			continue;
		rc = vdpa_vq_set_iotlb(q->vq, tlb);
		if (rc < 0)
			sim_queue_fail(q, rc);
	}
	vdpa_iotlb_put(dev->tlb);
	dev->tlb = vdpa_iotlb_get(tlb);
	return 0;
}

static int
work_set_map(void *arg)
{
	struct sim_work *w = arg;
	int rc = set_iotlb(w->dev, w->tlb);

	work_continue(w);
	return rc;
}

static int
sim_set_map(struct vdpa_device *vdev, uint32_t asid, struct vdpa_iotlb *tlb)
{
	const struct sim_work w = {
		.dev = sim_dev(vdev), .tlb = tlb, .stop = work_pause, .then = work_set_map};
	int rc = sim_standstill(w);

	if (rc == -ETIMEDOUT)
		sim_on_worker(work_continue, w);
	return rc;
}

const struct vdpa_config_ops sim_ops = {
	.size = sizeof(struct vdpa_config_ops),
	.set_vq_address = sim_set_vq_address,
	.set_vq_num = sim_set_vq_num,
	.kick_vq = sim_kick_vq,
	.set_vq_kick = sim_set_vq_kick,
	.set_vq_cb = sim_set_vq_cb,
	.set_vq_ready = sim_set_vq_ready,
	.set_vq_enable = sim_set_vq_enable,
	.set_vq_state = sim_set_vq_state,
	.get_vq_state = sim_get_vq_state,
	.set_vq_inflight = sim_set_vq_inflight,
	.reset_vq = sim_reset_vq,
	.get_vendor_vq_stats = sim_get_vendor_vq_stats,
	.get_vq_count = sim_get_vq_count,
	.get_vq_num_max = sim_get_vq_num_max,
	.get_device_features = sim_get_device_features,
	.get_backend_features = sim_get_backend_features,
	.set_driver_features = sim_set_driver_features,
	.set_config_cb = sim_set_config_cb,
	.get_device_id = sim_get_device_id,
	.get_vendor_id = sim_get_vendor_id,
	.get_status = sim_get_status,
	.set_status = sim_set_status,
	.reset = sim_reset,
	.suspend = sim_suspend,
	.resume = sim_resume,
	.get_config_size = sim_get_config_size,
	.get_config = sim_get_config,
	.set_config = sim_set_config,
	.get_generation = sim_get_generation,
	.get_stats = sim_get_stats,
	.announce = sim_announce,
	.set_map = sim_set_map,
	.log_start = sim_log_start,
	.log_stop = sim_log_stop,
	.save_state = sim_save_state,
	.load_state = sim_load_state,
	.can_restart = sim_can_restart,
	.get_tie = sim_get_tie,
	.free = sim_free,
};
