/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A vDPA device as a virtio-pci function: what the driver writes into registers (virtio_pci.c)
 * becomes calls of the core; its memory, and where its interrupts go. What the client asks for is
 * in vfio_user_client.c.
 *
 * All of it happens in jobs of the device's. Calls of the core from elsewhere (configuration
 * changed, device failed) post one.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <rte_bitops.h>
#include <rte_byteorder.h>
#include <rte_common.h>

#include "vdpa_consumer.h"
#include "vdpa_log.h"
#include "virtio_compat.h"
#include "vfio_user_device.h"

static bool
is_packed(const struct vfu_device *dev)
{
	return (dev->vp.driver_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
}

/* The administration queue, of an extension that has it. */

static int
admin_start(struct vfu_device *dev)
{
	return dev->ext->admin_start != NULL ? dev->ext->admin_start(dev) : 0;
}

static void
admin_route(struct vfu_device *dev)
{
	if (dev->ext->admin_route != NULL)
		dev->ext->admin_route(dev);
}

static void
moved(struct vfu_device *dev)
{
	if (dev->ext->moved != NULL)
		dev->ext->moved(dev);
}

/* Interrupts. */

/* Where a queue's interrupts go: to the client's eventfd without a detour, where there is MSI-X and
 * nothing to be set first. */
static int
call_fd_of(const struct vfu_device *dev, uint16_t idx)
{
	if (!vp_does(&dev->vp, VFU_STEP_INTERRUPT))
		return -1;
	if (dev->flags != NULL)
		return dev->flags[idx].ev.fd;
	if (!dev->irqs.msix_on)
		return dev->relay.fd;
	return vdpa_vfus_irqs_fd(&dev->irqs, dev->vp.queues[idx].vector);
}

void
vdpa_vfus_device_route_queue(struct vfu_device *dev, uint16_t idx)
{
	struct vfu_queue *q = &dev->queues[idx];
	int fd = call_fd_of(dev, idx), rc;

	if (!q->started || q->call_fd == fd)
		return;
	q->call_fd = fd;
	rc = vdpa_device_set_vq_call(dev->vdev, idx, fd);
	/* The device may keep the descriptor before, which is closed now: it must not use it. */
	if (rc < 0 && vdpa_device_get_state(dev->vdev) != VDPA_STATE_FAILED)
		vdpa_vfus_device_give_up(dev, rc, "an interrupt is routed elsewhere");
}

void
vdpa_vfus_device_route(struct vfu_device *dev)
{
	for (uint16_t i = 0; i < dev->vp.params.nvqs; i++)
		vdpa_vfus_device_route_queue(dev, i);
	admin_route(dev);
}

void
vdpa_vfus_device_update_intx(struct vfu_device *dev)
{
	vdpa_vfus_irqs_set_intx(&dev->irqs, vdpa_vp_intx_level(&dev->vp));
}

void
vdpa_vfus_config_interrupt(struct vfu_device *dev)
{
	vdpa_vp_raise_isr(&dev->vp, VIRTIO_PCI_ISR_CONFIG);
	if (dev->irqs.msix_on)
		vdpa_vfus_irqs_fire(&dev->irqs, dev->vp.config_vector);
}

/* A queue's interrupt without MSI-X. */
static void
on_relay(struct vdpa_event *ev, uint32_t revents)
{
	struct vfu_device *dev = ev->arg;

	vdpa_work_post(dev->jobs, &dev->relay_work);
}

static void
run_relay(struct vdpa_work *work)
{
	struct vfu_device *dev = work->arg;
	eventfd_t count;

	if (eventfd_read(dev->relay.fd, &count) == 0 && !dev->irqs.msix_on)
		vdpa_vp_raise_isr(&dev->vp, 1);
	vdpa_event_rearm(&dev->relay);
}

/* The device's life. */

static bool
may_run(const struct vfu_device *dev, uint16_t idx)
{
	return dev->vp.queues[idx].enabled && vp_does(&dev->vp, VFU_STEP_QUEUE);
}

static struct vdpa_vq_state
initial_state(const struct vfu_device *dev)
{
	struct vdpa_vq_state state = {0};

	if (is_packed(dev))
		state.packed.last_avail_counter = state.packed.last_used_counter = 1;
	return state;
}

/* A queue as the driver described it, from the beginning or from its place. */
static struct vdpa_vq_config
queue_config(struct vfu_device *dev, uint16_t idx)
{
	const struct vp_queue *q = &dev->vp.queues[idx];
	struct vfu_queue *mq = &dev->queues[idx];
	struct vdpa_vq_config conf = {
		.ready = true,
		.enabled = true,
		.num = q->size,
		.desc = q->desc,
		.driver = q->driver,
		.device = q->device,
		.state = mq->placed ? mq->state : initial_state(dev),
		.kick_fd = dev->doorbells.queues[idx].kick_fd,
		.call_fd = call_fd_of(dev, idx),
	};

	mq->call_fd = conf.call_fd;
	return conf;
}

/* What the device itself is to know of the negotiated features: addresses reach it through the
 * core's translation, always, and kicks by eventfd. */
static uint64_t
own_features(struct vfu_device *dev, uint64_t features)
{
	uint64_t own = vdpa_consumer_function_features(dev->vdev);

	return (features & own) | (own & RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM));
}

/* Ask the device itself, as its driver would. */
static int
set_features(void *arg, uint64_t features)
{
	struct vfu_device *dev = arg;
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	int rc;

	rc = vdpa_reset(dev->vdev);
	if (rc == 0)
		rc = vdpa_set_status(dev->vdev, status);
	if (rc == 0)
		rc = vdpa_set_driver_features(dev->vdev, own_features(dev, features));
	if (rc == 0)
		rc = vdpa_set_status(dev->vdev, status | VIRTIO_CONFIG_S_FEATURES_OK);
	if (rc < 0)
		VDPA_LOG_LIMITED(&dev->log.lines, NOTICE,
				 "%s: vfio-user: features 0x%" PRIx64 " refused: %s",
				 dev->vdev->name, features, vdpa_error_message());
	return rc;
}

void
vdpa_vfus_queues_forget(struct vfu_device *dev)
{
	for (uint16_t i = 0; i < dev->vp.params.nvqs; i++)
		dev->queues[i] = (struct vfu_queue){.call_fd = -1};
	dev->running = dev->config_held = false;
}

int
vdpa_vfus_queue_start(struct vfu_device *dev, uint16_t idx)
{
	struct vdpa_vq_config conf;
	int rc;

	if (idx >= dev->vp.params.nvqs)
		return dev->running ? admin_start(dev) : 0;
	if (!dev->running || dev->queues[idx].started || !may_run(dev, idx))
		return 0;
	if (!vfu_may_move(dev)) {
		dev->queues[idx].parked = true;
		return 0;
	}
	/* A log of its DMA has its used ring from the first buffer on. */
	if (dev->log.own != NULL)
		vdpa_vfus_log_update(dev, dev->dma.iotlb);
	conf = queue_config(dev, idx);
	rc = vdpa_device_start_vq(dev->vdev, idx, &conf);
	if (rc < 0) {
		VDPA_LOG_LIMITED(&dev->log.lines, ERR, "%s: vfio-user: queue %u: start: %s",
				 dev->vdev->name, idx, vdpa_error_message());
		return rc;
	}
	dev->queues[idx].started = true;
	dev->queues[idx].parked = false;
	return 0;
}

void
vdpa_vfus_queue_stop(struct vfu_device *dev, uint16_t idx)
{
	struct vfu_queue *q = &dev->queues[idx];
	int rc;

	if (idx >= dev->vp.params.nvqs) {
		if (dev->ext->admin_stop != NULL)
			dev->ext->admin_stop(dev);
		return;
	}
	q->parked = false;
	if (!q->started)
		return;
	q->started = false;
	q->placed = true;
	q->call_fd = -1;
	rc = vdpa_device_stop_vq(dev->vdev, idx, &q->state);
	if (rc < 0 && vdpa_device_get_state(dev->vdev) != VDPA_STATE_FAILED)
		VDPA_LOG_LIMITED(&dev->log.lines, ERR, "%s: vfio-user: queue %u: stop: %s",
				 dev->vdev->name, idx, vdpa_error_message());
}

/* What queues write is logged from the first buffer on: they start when the log runs. */
static int
start_logged(struct vfu_device *dev)
{
	int rc = 0;

	vdpa_vfus_log_update(dev, dev->dma.iotlb);
	for (uint16_t i = 0; rc == 0 && i < dev->vp.params.nvqs; i++)
		if (dev->queues[i].parked)
			rc = vdpa_vfus_queue_start(dev, i);
	return rc;
}

static int
start_device(void *arg)
{
	struct vfu_device *dev = arg;
	uint16_t nvqs = dev->vp.params.nvqs;
	struct vdpa_vq_config vqs[VDPA_VQ_MAX];
	struct vdpa_start_config conf = {
		.peer = &dev->peer,
		.features = own_features(dev, dev->vp.driver_features),
		.vqs = vqs,
		.nvqs = nvqs,
	};
	int rc;

	if (!vp_does(&dev->vp, VFU_STEP_START))
		return -EIO;
	rc = vdpa_vfus_dma_iotlb(&dev->dma, &conf.iotlb);
	if (rc < 0) {
		VDPA_LOG_LIMITED(&dev->log.lines, ERR, "%s: vfio-user: start: %s", dev->vdev->name,
				 vdpa_error_message());
		return rc;
	}
	for (uint16_t i = 0; i < nvqs; i++) {
		vqs[i] = (struct vdpa_vq_config){.kick_fd = -1, .call_fd = -1};
		if (!may_run(dev, i))
			continue;
		if (vfu_may_move(dev) && !dev->log.asked)
			vqs[i] = queue_config(dev, i);
		else
			dev->queues[i].parked = true;
	}
	if (!vdpa_vp_bus_master(&dev->vp))
		VDPA_LOG_LIMITED(
			&dev->log.lines, WARNING,
			"%s: vfio-user: started without bus master: its queues stand still until "
			"the driver sets it",
			dev->vdev->name);
	rc = vdpa_device_start(dev->vdev, &conf);
	if (rc < 0) {
		VDPA_LOG_LIMITED(&dev->log.lines, ERR, "%s: vfio-user: start: %s", dev->vdev->name,
				 vdpa_error_message());
		return rc;
	}
	for (uint16_t i = 0; i < nvqs; i++)
		dev->queues[i].started = vqs[i].ready;
	dev->running = true;
	rc = dev->log.asked ? start_logged(dev) : 0;
	if (rc == 0)
		rc = admin_start(dev);
	if (rc < 0) {
		vdpa_vfus_queues_forget(dev);
		(void)vdpa_device_stop(dev->vdev);
		vdpa_vfus_log_forget(dev);
		return rc;
	}
	/* What was routed meanwhile may have changed since queue_config(). */
	vdpa_vfus_device_route(dev);
	vdpa_vfus_bells_start(&dev->doorbells);
	moved(dev);
	if (!vp_does(&dev->vp, VFU_STEP_STARTED))
		vdpa_work_post(dev->jobs, &dev->disconnect_work);
	return 0;
}

static void
reset_device(void *arg)
{
	struct vfu_device *dev = arg;
	int rc = vdpa_device_stop(dev->vdev);

	if (rc < 0 && rc != -ENODEV)
		VDPA_LOG_LIMITED(&dev->log.lines, ERR, "%s: vfio-user: reset: %s", dev->vdev->name,
				 vdpa_error_message());
	vdpa_vfus_queues_forget(dev);
	vdpa_vfus_log_forget(dev);
	if (dev->ext->admin_reset != NULL)
		dev->ext->admin_reset(dev);
	vdpa_vfus_bells_stop(&dev->doorbells);
	moved(dev);
}

static int
start_queue(void *arg, uint16_t idx)
{
	return vdpa_vfus_queue_start(arg, idx);
}

static void
stop_queue(void *arg, uint16_t idx)
{
	vdpa_vfus_queue_stop(arg, idx);
}

/* Where queues stand then, those that go on begin. What a net device has taken to transmit may come
 * back by the queue before: that one stops after it. */
static int
suspend_device(void *arg)
{
	struct vfu_device *dev = arg;

	for (uint16_t i = dev->vp.params.nvqs; i-- > 0;) {
		bool goes_on = dev->queues[i].started || dev->queues[i].parked;

		vdpa_vfus_queue_stop(dev, i);
		dev->queues[i].parked = goes_on;
	}
	if (vdpa_device_get_state(dev->vdev) == VDPA_STATE_FAILED)
		return -EIO;
	__atomic_add_fetch(&dev->suspensions, 1, __ATOMIC_RELAXED);
	return 0;
}

static void
place_queue(void *arg, uint16_t idx, const struct vdpa_vq_state *state)
{
	struct vfu_device *dev = arg;
	struct vfu_queue *q = &dev->queues[idx];

	if (idx >= dev->vp.params.nvqs || q->started)
		return;
	q->placed = state != NULL;
	if (state != NULL)
		q->state = *state;
}

/* How far a split ring was used; false: it is not in the memory. */
static bool
read_used(const struct vfu_device *dev, uint16_t idx, struct vdpa_vq_state *state)
{
	const uint16_t *used = NULL;

	if (dev->dma.iotlb != NULL)
		used = vdpa_iotlb_range(dev->dma.iotlb, dev->vp.queues[idx].device + 2,
					sizeof(*used));
	if (used == NULL)
		return false;
	*state = (struct vdpa_vq_state){0};
	state->split.avail_index = rte_le_to_cpu_16(__atomic_load_n(used, __ATOMIC_ACQUIRE));
	return true;
}

/* A packed ring does not say by itself: the queue stops, and goes on. */
static int
queue_place(void *arg, uint16_t idx, struct vdpa_vq_state *state)
{
	struct vfu_device *dev = arg;
	struct vfu_queue *q = &dev->queues[idx];
	int rc = 0;

	if (q->started && !is_packed(dev))
		return read_used(dev, idx, state) ? 0 : -EFAULT;
	if (q->started) {
		vdpa_vfus_queue_stop(dev, idx);
		rc = vdpa_vfus_queue_start(dev, idx);
		if (rc < 0)
			vdpa_device_fail(dev->vdev, idx, rc, "it does not start again");
	}
	*state = q->placed ? q->state : initial_state(dev);
	return rc;
}

/* Of a packed ring nothing is known: it begins at its beginning. */
static void
place_by_ring(void *arg, uint16_t idx)
{
	struct vfu_device *dev = arg;
	struct vdpa_vq_state state;
	struct vdpa_iotlb *tlb;

	if (!is_packed(dev) && vdpa_vfus_dma_iotlb(&dev->dma, &tlb) == 0 &&
	    read_used(dev, idx, &state))
		place_queue(dev, idx, &state);
}

static void
set_log(void *arg, bool on, uint64_t start, uint64_t end)
{
	vdpa_vfus_log_set(arg, on, start, end);
}

static bool
log_is_pending(void *arg)
{
	return vdpa_vfus_log_is_pending(arg);
}

static uint32_t
read_flag(void *arg, uint16_t idx)
{
	struct vfu_device *dev = arg;

	return vdpa_vfus_bells_get_flag(&dev->doorbells, idx);
}

static void
write_flag(void *arg, uint16_t idx, uint32_t value)
{
	struct vfu_device *dev = arg;

	vdpa_vfus_bells_set_flag(&dev->doorbells, idx,
				 vp_does(&dev->vp, VFU_STEP_CLEAR_FLAG) ? value : 1);
}

static void
notify(void *arg, uint16_t idx, uint32_t data)
{
	struct vfu_device *dev = arg;

	vdpa_vfus_bells_ring(&dev->doorbells, idx, data);
}

static int
read_device(void *arg, size_t offset, void *buf, size_t len)
{
	struct vfu_device *dev = arg;

	return vdpa_get_config(dev->vdev, offset, buf, len);
}

static int
write_device(void *arg, size_t offset, const void *buf, size_t len)
{
	struct vfu_device *dev = arg;
	int rc = vdpa_set_config(dev->vdev, offset, buf, len);

	/* The register has no way to say so. */
	if (rc < 0)
		VDPA_LOG_LIMITED(&dev->log.lines, INFO, "%s: vfio-user: configuration: %s",
				 dev->vdev->name, vdpa_error_message());
	return rc;
}

static int
resume_device(void *arg)
{
	struct vfu_device *dev = arg;

	vdpa_vfus_queues_resume(dev);
	if (dev->ext->admin_resume != NULL)
		dev->ext->admin_resume(dev);
	if (dev->config_held)
		vdpa_vfus_config_interrupt(dev);
	dev->config_held = false;
	return vdpa_device_get_state(dev->vdev) == VDPA_STATE_FAILED ? -EIO : 0;
}

/* Without it a function neither reads nor writes memory. */
static void
bus_master(void *arg)
{
	struct vfu_device *dev = arg;

	vdpa_vfus_queues_park(dev, dev->dma.iotlb);
	vdpa_vfus_queues_resume(dev);
}

static void
route_queue(void *arg, uint16_t idx)
{
	struct vfu_device *dev = arg;

	if (idx < dev->vp.params.nvqs)
		vdpa_vfus_device_route_queue(dev, idx);
	else
		admin_route(dev);
}

static void
update_intx(void *arg)
{
	vdpa_vfus_device_update_intx(arg);
}

static uint16_t
queue_size_max(void *arg, uint16_t idx)
{
	const struct vfu_device *dev = arg;

	return vdpa_get_vq_size_max(dev->vdev, idx);
}

const struct vp_ops vdpa_vfus_vp_ops = {
	.queue_size_max = queue_size_max,
	.set_features = set_features,
	.start = start_device,
	.suspend = suspend_device,
	.resume = resume_device,
	.reset = reset_device,
	.start_queue = start_queue,
	.stop_queue = stop_queue,
	.place_queue = place_queue,
	.queue_place = queue_place,
	.place_by_ring = place_by_ring,
	.route_queue = route_queue,
	.intx = update_intx,
	.bus_master = bus_master,
	.notify = notify,
	.read_device = read_device,
	.write_device = write_device,
	.set_log = set_log,
	.log_is_pending = log_is_pending,
	.read_flag = read_flag,
	.write_flag = write_flag,
};

/* Told from elsewhere. */

static void
run_config(struct vdpa_work *work)
{
	struct vfu_device *dev = work->arg;

	if (dev->running && (dev->vp.suspended || dev->vp.stopped))
		dev->config_held = true;
	else if (dev->running)
		vdpa_vfus_config_interrupt(dev);
}

static void
run_failed(struct vdpa_work *work)
{
	struct vfu_device *dev = work->arg;

	/* The driver may have reset it since. */
	if (!dev->running || vdpa_device_get_state(dev->vdev) != VDPA_STATE_FAILED)
		return;
	vdpa_vfus_queues_forget(dev);
	if (vdpa_vp_needs_reset(&dev->vp))
		vdpa_vfus_config_interrupt(dev);
	moved(dev);
}

static void
run_disconnect(struct vdpa_work *work)
{
	struct vfu_device *dev = work->arg;

	vdpa_vfus_server_disconnect(dev->server);
}

int
vdpa_vfus_device_init(struct vfu_device *dev)
{
	uint16_t nvqs = dev->vp.params.nvqs;
	int rc;

	dev->queues = calloc(nvqs, sizeof(*dev->queues));
	if (dev->queues == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	vdpa_vfus_queues_forget(dev);
	dev->relay_work = (struct vdpa_work){.run = run_relay, .arg = dev};
	dev->config_work = (struct vdpa_work){.run = run_config, .arg = dev};
	dev->failed_work = (struct vdpa_work){.run = run_failed, .arg = dev};
	dev->disconnect_work = (struct vdpa_work){.run = run_disconnect, .arg = dev};
	dev->relay = (struct vdpa_event){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
					 .events = EPOLLIN | EPOLLONESHOT,
					 .handler = on_relay,
					 .arg = dev};
	if (dev->relay.fd < 0)
		return vdpa_error(errno, "eventfd: %s", strerror(errno));
	rc = vdpa_event_add(vdpa_event_loop_control(), &dev->relay);
	if (rc == 0)
		rc = vdpa_vfus_flags_init(dev);
	return rc < 0 ? rc : vdpa_vfus_irqs_init(&dev->irqs, dev->vp.params.vectors);
}

void
vdpa_vfus_device_quiesce(struct vfu_device *dev)
{
	vdpa_event_del(&dev->relay);
	vdpa_work_cancel(&dev->relay_work);
	vdpa_work_cancel(&dev->config_work);
	vdpa_work_cancel(&dev->failed_work);
	vdpa_work_cancel(&dev->disconnect_work);
	vdpa_vfus_flags_quiesce(dev);
}

void
vdpa_vfus_device_fini(struct vfu_device *dev)
{
	vdpa_vfus_device_quiesce(dev);
	if (dev->relay.fd >= 0)
		close(dev->relay.fd);
	vdpa_vfus_flags_fini(dev);
	vdpa_vfus_irqs_fini(&dev->irqs);
	free(dev->queues);
}
