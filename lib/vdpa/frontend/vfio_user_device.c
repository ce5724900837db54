/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A vDPA device as a virtio-pci function: what the driver writes into registers
 * (vfio_user_function.c) is reported to the consumer, which decides when the device starts and
 * which queues move; its memory, and where its interrupts go. What the client asks for is in
 * vfio_user_client.c.
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

#include "ring_index.h"
#include "vdpa_fd.h"
#include "vdpa_log.h"
#include "virtio_compat.h"
#include "vfio_user_device.h"

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

static int
give_call(struct vfu_device *dev, uint16_t idx, int fd)
{
	int own = fd < 0 ? -1 : vdpa_fd_dup(fd, dev->vdev->name);

	dev->queues[idx].call_fd = fd;
	return fd >= 0 && own < 0 ? own : vdpa_consumer_set_vq_call(dev->consumer, idx, own);
}

void
vdpa_vfus_device_route_queue(struct vfu_device *dev, uint16_t idx)
{
	struct vfu_queue *q = &dev->queues[idx];
	int fd = call_fd_of(dev, idx), rc;

	if (!q->told || q->call_fd == fd)
		return;
	rc = give_call(dev, idx, fd);
	/* The device may keep the descriptor before, which the client has taken away. */
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
vdpa_vfus_device_signal_queues(struct vfu_device *dev)
{
	for (uint16_t i = 0; i < dev->vp.params.nvqs; i++) {
		if (!dev->queues[i].told)
			continue;
		/* Also of one that stands still: what rang may have been read where it was. */
		vdpa_eventfd_signal(dev->doorbells.queues[i].kick_fd);
		if (dev->queues[i].call_fd >= 0)
			vdpa_eventfd_signal(dev->queues[i].call_fd);
	}
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

static void
forget_queues(struct vfu_device *dev)
{
	for (uint16_t i = 0; i < dev->vp.params.nvqs; i++)
		dev->queues[i] = (struct vfu_queue){.call_fd = -1};
	dev->config_held = false;
}

/* A queue as the driver described it: ready from now on. */
static int
tell_queue(struct vfu_device *dev, uint16_t idx)
{
	const struct vp_queue *q = &dev->vp.queues[idx];
	const struct vdpa_consumer_vq_addr addr = {
		.desc = q->desc, .driver = q->driver, .device = q->device, .log = UINT64_MAX};
	int rc = vdpa_consumer_set_vq_num(dev->consumer, idx, q->size), kick;

	if (rc == 0)
		rc = vdpa_consumer_set_vq_addr(dev->consumer, idx, &addr);
	if (rc == 0)
		rc = vdpa_vfus_kept_start_queue(dev, idx);
	if (rc == 0)
		rc = give_call(dev, idx, call_fd_of(dev, idx));
	if (rc < 0)
		return rc;
	kick = vdpa_fd_dup(dev->doorbells.queues[idx].kick_fd, dev->vdev->name);
	rc = kick < 0 ? kick : vdpa_consumer_set_vq_kick(dev->consumer, idx, kick);
	dev->queues[idx].told = rc == 0;
	return rc;
}

/* Ask the device itself, as its driver would. */
static int
set_features(void *arg, uint64_t features)
{
	struct vfu_device *dev = arg;
	int rc = dev->consumer != NULL ? vdpa_consumer_negotiate(dev->consumer, features)
				       : vdpa_error(ENOTCONN, "no client is connected");

	if (rc < 0)
		VDPA_LOG_LIMITED(&dev->log.lines, NOTICE,
				 "%s: vfio-user: features 0x%" PRIx64 " refused: %s",
				 dev->vdev->name, features, vdpa_error_message());
	return rc;
}

/* A queue is taken from the device, and keeps its place. */
static void
stop_queue(void *arg, uint16_t idx)
{
	struct vfu_device *dev = arg;

	if (idx >= dev->vp.params.nvqs) {
		if (dev->ext->admin_stop != NULL)
			dev->ext->admin_stop(dev);
		return;
	}
	dev->queues[idx] = (struct vfu_queue){.call_fd = -1};
	if (dev->consumer != NULL)
		vdpa_consumer_stop_vq(dev->consumer, idx);
}

/* One that the device does not take is not enabled. */
static int
start_queue(void *arg, uint16_t idx)
{
	struct vfu_device *dev = arg;
	struct vdpa_consumer_vq_facts facts;
	int rc;

	if (idx >= dev->vp.params.nvqs)
		return vfu_runs(dev) ? admin_start(dev) : 0;
	if (!vfu_runs(dev) || dev->queues[idx].told || !may_run(dev, idx))
		return 0;
	rc = tell_queue(dev, idx);
	if (rc < 0) {
		VDPA_LOG_LIMITED(&dev->log.lines, ERR, "%s: vfio-user: queue %u: start: %s",
				 dev->vdev->name, idx, vdpa_error_message());
		return rc;
	}
	vdpa_consumer_advance(dev->consumer);
	vdpa_consumer_get_vq_facts(dev->consumer, idx, &facts);
	if (!facts.refused && vfu_runs(dev))
		return 0;
	stop_queue(dev, idx);
	return -EIO;
}

static void
forget_device(struct vfu_device *dev)
{
	if (dev->consumer != NULL)
		vdpa_consumer_reset(dev->consumer);
	forget_queues(dev);
	vdpa_vfus_log_forget(dev);
}

/* What the consumer is told before the driver's DRIVER_OK. */
static int
tell_device(struct vfu_device *dev)
{
	struct vdpa_iotlb *tlb;
	int rc = vdpa_vfus_dma_iotlb(&dev->dma, &tlb);

	if (rc == 0)
		rc = vdpa_consumer_use_memory(dev->consumer, tlb);
	if (rc == 0)
		vdpa_vfus_log_update(dev, tlb);
	for (uint16_t i = 0; rc == 0 && i < dev->vp.params.nvqs; i++)
		if (may_run(dev, i))
			rc = tell_queue(dev, i);
	if (rc < 0)
		VDPA_LOG_LIMITED(&dev->log.lines, ERR, "%s: vfio-user: start: %s", dev->vdev->name,
				 vdpa_error_message());
	return rc;
}

static int
start_device(void *arg)
{
	struct vfu_device *dev = arg;
	int rc;

	if (!vp_does(&dev->vp, VFU_STEP_START) || dev->consumer == NULL)
		return -EIO;
	rc = tell_device(dev);
	if (rc < 0)
		return rc;
	if (!vdpa_vp_bus_master(&dev->vp))
		VDPA_LOG_LIMITED(
			&dev->log.lines, WARNING,
			"%s: vfio-user: started without bus master: its queues stand still until "
			"the driver sets it",
			dev->vdev->name);
	/* What a former process had may stand still for want of its memory. */
	vdpa_consumer_hold(dev->consumer, !vfu_may_move(dev) || dev->kept.resumed != NULL);
	vdpa_consumer_set_status(dev->consumer, VIRTIO_CONFIG_S_DRIVER_OK);
	vdpa_consumer_advance(dev->consumer);
	if (!vfu_runs(dev))
		return -EIO;
	rc = admin_start(dev);
	if (rc < 0) {
		forget_device(dev);
		return rc;
	}
	/* What was routed meanwhile may have changed since tell_queue(). */
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

	dev->migration.loaded = false;
	forget_device(dev);
	if (dev->ext->admin_reset != NULL)
		dev->ext->admin_reset(dev);
	vdpa_vfus_bells_stop(&dev->doorbells);
	moved(dev);
}

int
vdpa_vfus_device_stand_still(struct vfu_device *dev)
{
	if (dev->consumer == NULL)
		return vdpa_device_get_state(dev->vdev) == VDPA_STATE_FAILED ? -EIO : 0;
	vdpa_consumer_hold(dev->consumer, true);
	return vdpa_consumer_check_alive(dev->consumer);
}

static int
suspend_device(void *arg)
{
	struct vfu_device *dev = arg;
	int rc = vdpa_vfus_device_stand_still(dev);

	if (rc == 0)
		__atomic_add_fetch(&dev->suspensions, 1, __ATOMIC_RELAXED);
	return rc;
}

static void
place_queue(void *arg, uint16_t idx, const struct vdpa_vq_state *state)
{
	struct vfu_device *dev = arg;

	if (idx < dev->vp.params.nvqs && dev->consumer != NULL)
		vdpa_consumer_place_vq(dev->consumer, idx, state);
}

static int
queue_place(void *arg, uint16_t idx, struct vdpa_vq_state *state)
{
	struct vfu_device *dev = arg;

	return dev->consumer != NULL ? vdpa_consumer_get_vq_place(dev->consumer, idx, state)
				     : -ENOTCONN;
}

/* Of a packed ring nothing is known: it begins at its beginning. */
static void
place_by_ring(void *arg, uint16_t idx)
{
	struct vfu_device *dev = arg;
	struct vdpa_vq_state state = {0};
	struct vdpa_iotlb *tlb;

	if ((dev->vp.driver_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) == 0 &&
	    vdpa_vfus_dma_iotlb(&dev->dma, &tlb) == 0 &&
	    vdpa_ring_used_idx(tlb, dev->vp.queues[idx].device, &state.split.avail_index))
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

	if (rc == 0)
		vdpa_vfus_kept_note_config(&dev->kept, offset, buf, len);
	/* The register has no way to say so. */
	if (rc < 0)
		VDPA_LOG_LIMITED(&dev->log.lines, INFO, "%s: vfio-user: configuration: %s",
				 dev->vdev->name, vdpa_error_message());
	return rc;
}

int
vdpa_vfus_device_go_on(struct vfu_device *dev)
{
	if (dev->consumer != NULL)
		vdpa_consumer_hold(dev->consumer, !vfu_may_move(dev));
	if (vfu_is_still(dev))
		return 0;
	if (dev->ext->admin_resume != NULL)
		dev->ext->admin_resume(dev);
	if (dev->config_held)
		vdpa_vfus_config_interrupt(dev);
	dev->config_held = false;
	return vdpa_device_get_state(dev->vdev) == VDPA_STATE_FAILED ? -EIO : 0;
}

static int
resume_device(void *arg)
{
	return vdpa_vfus_device_go_on(arg);
}

/* Without it a function neither reads nor writes memory. */
static void
bus_master(void *arg)
{
	struct vfu_device *dev = arg;

	if (vfu_runs(dev) && !vdpa_vp_bus_master(&dev->vp))
		VDPA_LOG_LIMITED(&dev->log.lines, INFO,
				 "%s: vfio-user: its queues stand still: no bus master",
				 dev->vdev->name);
	if (dev->consumer != NULL)
		vdpa_consumer_hold(dev->consumer, !vfu_may_move(dev));
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

/* Memory. */

int
vdpa_vfus_device_update_memory(struct vfu_device *dev)
{
	struct vdpa_iotlb *tlb;
	int rc;

	/* One that is started later takes what there is by then; until then it has none, and the
	 * table of a client that maps much before is not made. */
	if (!vfu_runs(dev))
		return vdpa_consumer_drop_memory(dev->consumer);
	rc = vdpa_vfus_dma_iotlb(&dev->dma, &tlb);
	if (rc < 0)
		return rc;
	if (dev->ext->admin_update_memory != NULL)
		dev->ext->admin_update_memory(dev, tlb);
	vdpa_vfus_log_update(dev, tlb);
	return vdpa_consumer_use_memory(dev->consumer, tlb);
}

void
vdpa_vfus_device_give_up(struct vfu_device *dev, int err, const char *what)
{
	vdpa_consumer_give_up(dev->consumer, err, what);
	if (vdpa_vp_needs_reset(&dev->vp))
		vdpa_vfus_config_interrupt(dev);
}

/* Told from elsewhere. */

static void
run_config(struct vdpa_work *work)
{
	struct vfu_device *dev = work->arg;

	if (vfu_runs(dev) && vfu_is_still(dev))
		dev->config_held = true;
	else if (vfu_runs(dev))
		vdpa_vfus_config_interrupt(dev);
}

static void
run_failed(struct vdpa_work *work)
{
	struct vfu_device *dev = work->arg;

	/* The driver may have reset it since. */
	if (dev->consumer == NULL || vdpa_device_get_state(dev->vdev) != VDPA_STATE_FAILED ||
	    (vdpa_consumer_get_status(dev->consumer) & VIRTIO_CONFIG_S_NEEDS_RESET) == 0)
		return;
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
	forget_queues(dev);
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
