/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A vDPA device as a virtio-pci function on a vfio-user socket: what the driver writes into
 * registers (virtio_pci.c) becomes calls of the core, what the client asks for (vfio_user_server.c)
 * becomes memory and interrupts of the device.
 *
 * All of it happens on one loop, whose thread never waits for a client. Calls of the core from
 * elsewhere (configuration changed, device failed) are posted to it.
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
#include <rte_common.h>

#include "model_fault.h"
#include "model_device.h"
#include "vdpa_log.h"

#ifndef VIRTIO_F_RING_PACKED
#define VIRTIO_F_RING_PACKED 34
#endif

static bool
is_packed(const struct model_device *md)
{
	return (md->vp.driver_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
}

static bool
has_fault(const struct model_device *md, uint32_t bit)
{
	return (__atomic_load_n(&md->fault, __ATOMIC_RELAXED) & bit) != 0;
}

/* Interrupts. */

/* Where a queue's interrupts go: to the client's eventfd without a detour, where there is MSI-X. */
static int
call_fd_of(const struct model_device *md, uint16_t idx)
{
	if (has_fault(md, MODEL_FAULT_BIT(LOST_INTERRUPTS)))
		return -1;
	if (!md->irqs.msix_on)
		return md->relay.fd;
	return model_interrupts_fd(&md->irqs, md->vp.queues[idx].vector);
}

static void
route_queue(void *arg, uint16_t idx)
{
	struct model_device *md = arg;
	struct model_queue *q = &md->queues[idx];
	int fd = call_fd_of(md, idx), rc;

	if (!q->started || q->call_fd == fd)
		return;
	q->call_fd = fd;
	rc = vdpa_device_set_vq_call(md->vdev, idx, fd);
	if (rc < 0 && vdpa_device_get_state(md->vdev) != VDPA_STATE_FAILED)
		VDPA_LOG(ERR, "%s: vfio-user: queue %u: %s", md->vdev->name, idx,
			 vdpa_error_message());
}

void
model_device_route(struct model_device *md)
{
	for (uint16_t i = 0; i < md->vp.params.nvqs; i++)
		route_queue(md, i);
}

static void
update_intx(void *arg)
{
	struct model_device *md = arg;

	model_interrupts_set_intx(&md->irqs, vp_intx_level(&md->vp));
}

static void
config_interrupt(struct model_device *md)
{
	vp_raise_isr(&md->vp, VIRTIO_PCI_ISR_CONFIG);
	if (md->irqs.msix_on)
		model_interrupts_fire(&md->irqs, md->vp.config_vector);
}

/* A queue's interrupt without MSI-X. */
static void
on_relay(struct vdpa_event *ev, uint32_t revents)
{
	struct model_device *md = ev->arg;
	eventfd_t count;

	if (eventfd_read(ev->fd, &count) == 0 && !md->irqs.msix_on)
		vp_raise_isr(&md->vp, 1);
}

/* The device's life. */

static bool
rings_are_in(const struct model_device *md, const struct vp_queue *q, const struct vdpa_iotlb *tlb)
{
	uint64_t num = q->size;
	bool packed = is_packed(md);

	return tlb != NULL && vdpa_iotlb_range(tlb, q->desc, 16 * num) != NULL &&
	       vdpa_iotlb_range(tlb, q->driver, packed ? 4 : 6 + 2 * num) != NULL &&
	       vdpa_iotlb_range(tlb, q->device, packed ? 4 : 6 + 8 * num) != NULL;
}

static bool
may_run(const struct model_device *md, uint16_t idx)
{
	return md->vp.queues[idx].enabled && !has_fault(md, MODEL_FAULT_BIT(QUEUE_NEVER_ENABLES));
}

/* A queue as the driver described it, from the beginning or from where it was parked. */
static struct vdpa_vq_config
queue_config(struct model_device *md, uint16_t idx)
{
	const struct vp_queue *q = &md->vp.queues[idx];
	struct model_queue *mq = &md->queues[idx];
	struct vdpa_vq_config conf = {
		.ready = true,
		.enabled = true,
		.num = q->size,
		.desc = q->desc,
		.driver = q->driver,
		.device = q->device,
		.kick_fd = md->doorbells.queues[idx].kick_fd,
		.call_fd = call_fd_of(md, idx),
	};

	if (mq->parked)
		conf.state = mq->state;
	else if (is_packed(md))
		conf.state.packed.last_avail_counter = conf.state.packed.last_used_counter = 1;
	mq->call_fd = conf.call_fd;
	return conf;
}

/* What the device itself is to know of the negotiated features: addresses reach it through the
 * core's translation, always. */
static uint64_t
own_features(struct model_device *md, uint64_t features)
{
	return features & vdpa_get_device_features(md->vdev);
}

/* Ask the device itself, as its driver would. */
static int
set_features(void *arg, uint64_t features)
{
	struct model_device *md = arg;
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	int rc;

	rc = vdpa_reset(md->vdev);
	if (rc == 0)
		rc = vdpa_set_status(md->vdev, status);
	if (rc == 0)
		rc = vdpa_set_driver_features(md->vdev, own_features(md, features));
	if (rc == 0)
		rc = vdpa_set_status(md->vdev, status | VIRTIO_CONFIG_S_FEATURES_OK);
	if (rc < 0)
		VDPA_LOG(NOTICE, "%s: vfio-user: features 0x%" PRIx64 " refused: %s",
			 md->vdev->name, features, vdpa_error_message());
	return rc;
}

static int
start_device(void *arg)
{
	struct model_device *md = arg;
	uint16_t nvqs = md->vp.params.nvqs;
	struct vdpa_vq_config vqs[VDPA_VQ_MAX];
	const struct vdpa_start_config conf = {
		.features = own_features(md, md->vp.driver_features),
		.iotlb = md->dma.iotlb,
		.vqs = vqs,
		.nvqs = nvqs,
	};
	int rc;

	if (has_fault(md, MODEL_FAULT_BIT(NEEDS_RESET))) {
		VDPA_LOG(NOTICE, "%s: vfio-user: start: fault needs_reset", md->vdev->name);
		return -EIO;
	}
	for (uint16_t i = 0; i < nvqs; i++) {
		vqs[i] = (struct vdpa_vq_config){.kick_fd = -1, .call_fd = -1};
		if (may_run(md, i))
			vqs[i] = queue_config(md, i);
	}
	rc = vdpa_device_start(md->vdev, &conf);
	if (rc < 0) {
		VDPA_LOG(ERR, "%s: vfio-user: start: %s", md->vdev->name, vdpa_error_message());
		return rc;
	}
	for (uint16_t i = 0; i < nvqs; i++)
		md->queues[i].started = vqs[i].ready;
	md->running = true;
	/* What was routed meanwhile may have changed since queue_config(). */
	model_device_route(md);
	doorbells_start(&md->doorbells);
	model_faults_update(md);
	if (has_fault(md, MODEL_FAULT_BIT(DISCONNECT)))
		vdpa_task_post(md->loop, &md->disconnect_task);
	return 0;
}

static void
forget_queues(struct model_device *md)
{
	for (uint16_t i = 0; i < md->vp.params.nvqs; i++)
		md->queues[i] = (struct model_queue){.call_fd = -1};
	md->running = false;
}

static void
reset_device(void *arg)
{
	struct model_device *md = arg;
	int rc = vdpa_device_stop(md->vdev);

	if (rc < 0 && rc != -ENODEV)
		VDPA_LOG(ERR, "%s: vfio-user: reset: %s", md->vdev->name, vdpa_error_message());
	forget_queues(md);
	doorbells_stop(&md->doorbells);
	model_faults_update(md);
}

static int
start_queue(void *arg, uint16_t idx)
{
	struct model_device *md = arg;
	struct vdpa_vq_config conf;
	int rc;

	if (!md->running || md->queues[idx].started || !may_run(md, idx))
		return 0;
	conf = queue_config(md, idx);
	rc = vdpa_device_start_vq(md->vdev, idx, &conf);
	if (rc < 0) {
		VDPA_LOG(ERR, "%s: vfio-user: queue %u: start: %s", md->vdev->name, idx,
			 vdpa_error_message());
		return rc;
	}
	md->queues[idx].started = true;
	md->queues[idx].parked = false;
	return 0;
}

static void
stop_queue(void *arg, uint16_t idx)
{
	struct model_device *md = arg;
	struct model_queue *q = &md->queues[idx];
	int rc;

	q->parked = false;
	if (!q->started)
		return;
	q->started = false;
	q->call_fd = -1;
	rc = vdpa_device_stop_vq(md->vdev, idx, &q->state);
	if (rc < 0 && vdpa_device_get_state(md->vdev) != VDPA_STATE_FAILED)
		VDPA_LOG(ERR, "%s: vfio-user: queue %u: stop: %s", md->vdev->name, idx,
			 vdpa_error_message());
}

static void
notify(void *arg, uint16_t idx, uint32_t data)
{
	struct model_device *md = arg;

	doorbells_ring(&md->doorbells, idx);
}

static int
read_device(void *arg, size_t offset, void *buf, size_t len)
{
	struct model_device *md = arg;

	return vdpa_get_config(md->vdev, offset, buf, len);
}

static int
write_device(void *arg, size_t offset, const void *buf, size_t len)
{
	struct model_device *md = arg;
	int rc = vdpa_set_config(md->vdev, offset, buf, len);

	/* The register has no way to say so. */
	if (rc < 0)
		VDPA_LOG(INFO, "%s: vfio-user: configuration: %s", md->vdev->name,
			 vdpa_error_message());
	return rc;
}

const struct vp_ops model_vp_ops = {
	.set_features = set_features,
	.start = start_device,
	.reset = reset_device,
	.start_queue = start_queue,
	.stop_queue = stop_queue,
	.route_queue = route_queue,
	.intx = update_intx,
	.notify = notify,
	.read_device = read_device,
	.write_device = write_device,
};

/* What the client asks for. */

static void
connected(void *arg)
{
	struct model_device *md = arg;

	__atomic_store_n(&md->connected, true, __ATOMIC_RELAXED);
}

static void
disconnected(void *arg)
{
	struct model_device *md = arg;

	vp_function_reset(&md->vp);
	model_interrupts_clear(&md->irqs);
	dma_table_clear(&md->dma);
	__atomic_store_n(&md->connected, false, __ATOMIC_RELAXED);
}

static void
region_info(void *arg, uint32_t index, struct vfu_region *region)
{
	struct model_device *md = arg;

	if (index == VFIO_PCI_CONFIG_REGION_INDEX)
		region->size = VP_CONFIG_SIZE;
	else if (index < RTE_DIM(md->vp.bar_size))
		region->size = vp_bar_shown(&md->vp, index);
	if (region->size == 0)
		return;
	region->flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	if (index == VP_BAR_VIRTIO && md->doorbells.poll &&
	    region->size >= VP_NOTIFY_OFFSET + md->vp.notify_len) {
		region->flags |= VFIO_REGION_INFO_FLAG_MMAP;
		region->fd = md->doorbells.fd;
		region->map_offset = VP_NOTIFY_OFFSET;
		region->map_size = md->vp.notify_len;
	}
}

static void
region_read(void *arg, uint32_t index, uint64_t offset, void *buf, size_t len)
{
	struct model_device *md = arg;

	if (index == VFIO_PCI_CONFIG_REGION_INDEX)
		vp_config_read(&md->vp, offset, buf, len);
	else
		vp_bar_read(&md->vp, index, offset, buf, len);
}

static void
region_write(void *arg, uint32_t index, uint64_t offset, const void *buf, size_t len)
{
	struct model_device *md = arg;

	if (index == VFIO_PCI_CONFIG_REGION_INDEX)
		vp_config_write(&md->vp, offset, buf, len);
	else
		vp_bar_write(&md->vp, index, offset, buf, len);
}

static uint32_t
irq_count(void *arg, uint32_t index)
{
	struct model_device *md = arg;

	if (index == VFIO_PCI_INTX_IRQ_INDEX)
		return 1;
	return index == VFIO_PCI_MSIX_IRQ_INDEX ? md->irqs.n_vectors : 0;
}

/* Whether the i-th interrupt of the set is meant. */
static bool
is_meant(const struct vfio_user_irq_set *set, const uint8_t *data, uint32_t i)
{
	return (set->flags & VFIO_IRQ_SET_DATA_BOOL) == 0 || data[i] != 0;
}

static int
set_intx(struct model_device *md, const struct vfio_user_irq_set *set, const uint8_t *data,
	 int *fds, unsigned int n_fds)
{
	bool eventfd = (set->flags & VFIO_IRQ_SET_DATA_EVENTFD) != 0;
	bool meant = set->count > 0 && !eventfd && is_meant(set, data, 0);

	switch (set->flags & VFIO_IRQ_SET_ACTION_TYPE_MASK) {
	case VFIO_IRQ_SET_ACTION_TRIGGER:
		if (eventfd || set->count == 0) {
			model_interrupts_set_intx_fd(&md->irqs, n_fds > 0 ? fds[0] : -1);
			if (n_fds > 0)
				fds[0] = -1;
		} else if (meant && md->irqs.intx_fd >= 0) {
			vdpa_eventfd_signal(md->irqs.intx_fd);
		}
		return 0;
	default:
		if (eventfd)
			return vdpa_error(ENOTSUP, "INTx masked by eventfd");
		if (meant)
			model_interrupts_mask_intx(&md->irqs,
						   (set->flags & VFIO_IRQ_SET_ACTION_MASK) != 0);
		return 0;
	}
}

/* Swap the eventfds of vectors; the device lets go of the old ones before they are closed. */
static void
swap_vectors(struct model_device *md, uint32_t start, uint32_t count, int *fds, unsigned int n_fds)
{
	int *vectors = md->irqs.vector_fds + start, old;

	md->irqs.msix_on = true;
	for (uint32_t i = 0; i < count; i++) {
		old = vectors[i];
		vectors[i] = i < n_fds ? fds[i] : -1;
		if (i < n_fds)
			fds[i] = -1;
		for (uint16_t q = 0; q < md->vp.params.nvqs; q++)
			if (md->vp.queues[q].vector == start + i)
				route_queue(md, q);
		if (old >= 0)
			close(old);
	}
	/* The first vector takes the others off the relay. */
	model_device_route(md);
	update_intx(md);
}

static void
disable_msix(struct model_device *md)
{
	md->irqs.msix_on = false;
	model_device_route(md);
	for (uint16_t i = 0; i < md->irqs.n_vectors; i++) {
		if (md->irqs.vector_fds[i] >= 0)
			close(md->irqs.vector_fds[i]);
		md->irqs.vector_fds[i] = -1;
	}
	update_intx(md);
}

static int
set_irqs(void *arg, const struct vfio_user_irq_set *set, const uint8_t *data, int *fds,
	 unsigned int n_fds)
{
	struct model_device *md = arg;

	if (set->index == VFIO_PCI_INTX_IRQ_INDEX)
		return set_intx(md, set, data, fds, n_fds);
	/* Other indexes have no interrupts: nothing to be set, and to be let go of at once. */
	if (set->index != VFIO_PCI_MSIX_IRQ_INDEX)
		return 0;
	if ((set->flags & VFIO_IRQ_SET_ACTION_TRIGGER) == 0)
		return vdpa_error(ENOTSUP, "MSI-X vectors are masked by taking their eventfd");
	if ((set->flags & VFIO_IRQ_SET_DATA_EVENTFD) != 0 && set->count > 0) {
		swap_vectors(md, set->start, set->count, fds, n_fds);
		return 0;
	}
	if (set->count == 0)
		disable_msix(md);
	for (uint32_t i = 0; i < set->count; i++)
		if (is_meant(set, data, i))
			model_interrupts_fire(&md->irqs, (uint16_t)(set->start + i));
	return 0;
}

/* A device must not use memory that is gone: queues whose rings were in it wait until it is back.
 * QEMU takes memory away and gives it back whenever its layout changes. */
static void
park_queues(struct model_device *md, const struct vdpa_iotlb *tlb)
{
	for (uint16_t i = 0; i < md->vp.params.nvqs; i++) {
		struct model_queue *q = &md->queues[i];

		if (!q->started || rings_are_in(md, &md->vp.queues[i], tlb))
			continue;
		VDPA_LOG(INFO, "%s: vfio-user: queue %u: stands still: its memory was unmapped",
			 md->vdev->name, i);
		stop_queue(md, i);
		q->parked = true;
	}
}

static void
resume_queues(struct model_device *md)
{
	for (uint16_t i = 0; i < md->vp.params.nvqs; i++)
		if (md->queues[i].parked && rings_are_in(md, &md->vp.queues[i], md->dma.iotlb) &&
		    start_queue(md, i) < 0)
			vdpa_device_fail(md->vdev, i, EFAULT, "it does not start again");
}

static int
use_memory(struct model_device *md, struct vdpa_iotlb *tlb)
{
	if (!md->running || vdpa_device_get_state(md->vdev) == VDPA_STATE_FAILED)
		return 0;
	return vdpa_device_set_iotlb(md->vdev, tlb);
}

static int
dma_map(void *arg, const struct vfio_user_dma_map *map, int fd)
{
	const uint32_t both = VFIO_USER_DMA_READABLE | VFIO_USER_DMA_WRITABLE;
	struct model_device *md = arg;
	struct vdpa_iotlb *after;
	int rc;

	/* The core's memory is read and written; of a ROM nobody has rings or buffers. */
	if (map->flags != both)
		fd = -1;
	rc = dma_table_map(&md->dma, map->address, map->size, map->offset, fd);
	if (rc < 0 || fd < 0)
		return rc;
	rc = use_memory(md, md->dma.iotlb);
	if (rc < 0) {
		if (dma_table_without(&md->dma, map->address, map->size, &after) == 0)
			dma_table_unmap(&md->dma, map->address, map->size, after);
		return rc;
	}
	resume_queues(md);
	return 0;
}

static int
dma_unmap(void *arg, const struct vfio_user_dma_unmap *unmap)
{
	bool all = (unmap->flags & VFIO_DMA_UNMAP_FLAG_ALL) != 0;
	struct vdpa_iotlb *after = NULL;
	struct model_device *md = arg;
	int rc = 0;

	if (!all)
		rc = dma_table_without(&md->dma, unmap->address, unmap->size, &after);
	if (rc < 0)
		return rc;
	park_queues(md, after);
	rc = use_memory(md, after);
	if (rc < 0) {
		/* It may use the memory still: nothing but a stop lets go of it. */
		vdpa_device_fail(md->vdev, -1, rc, "memory is taken away: %s",
				 vdpa_error_message());
		forget_queues(md);
		if (vdpa_device_stop(md->vdev) < 0)
			VDPA_LOG(ERR, "%s: vfio-user: stop: %s", md->vdev->name,
				 vdpa_error_message());
		if (vp_needs_reset(&md->vp))
			config_interrupt(md);
	}
	if (all)
		dma_table_clear(&md->dma);
	else
		dma_table_unmap(&md->dma, unmap->address, unmap->size, after);
	return 0;
}

static void
reset_function(void *arg)
{
	struct model_device *md = arg;

	vp_function_reset(&md->vp);
}

const struct vfu_ops model_vfu_ops = {
	.connected = connected,
	.disconnected = disconnected,
	.region_info = region_info,
	.region_read = region_read,
	.region_write = region_write,
	.irq_count = irq_count,
	.set_irqs = set_irqs,
	.dma_map = dma_map,
	.dma_unmap = dma_unmap,
	.reset = reset_function,
};

/* Told from elsewhere. */

static void
config_task(struct vdpa_task *task)
{
	struct model_device *md = task->arg;

	if (md->running)
		config_interrupt(md);
}

static void
failed_task(struct vdpa_task *task)
{
	struct model_device *md = task->arg;

	/* The driver may have reset it since. */
	if (!md->running || vdpa_device_get_state(md->vdev) != VDPA_STATE_FAILED)
		return;
	forget_queues(md);
	if (vp_needs_reset(&md->vp))
		config_interrupt(md);
	model_faults_update(md);
}

static void
disconnect_task(struct vdpa_task *task)
{
	struct model_device *md = task->arg;

	vfu_server_disconnect(md->server);
}

int
model_device_init(struct model_device *md)
{
	uint16_t nvqs = md->vp.params.nvqs;
	int rc;

	md->queues = calloc(nvqs, sizeof(*md->queues));
	if (md->queues == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	forget_queues(md);
	md->config_task = (struct vdpa_task){.run = config_task, .arg = md};
	md->failed_task = (struct vdpa_task){.run = failed_task, .arg = md};
	md->disconnect_task = (struct vdpa_task){.run = disconnect_task, .arg = md};
	md->relay = (struct vdpa_event){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
					.events = EPOLLIN,
					.handler = on_relay,
					.arg = md};
	if (md->relay.fd < 0)
		return vdpa_error(errno, "eventfd: %s", strerror(errno));
	rc = vdpa_event_add(md->loop, &md->relay);
	return rc < 0 ? rc : model_interrupts_init(&md->irqs, md->vp.params.vectors);
}

void
model_device_fini(struct model_device *md)
{
	vdpa_task_cancel(&md->config_task);
	vdpa_task_cancel(&md->failed_task);
	vdpa_task_cancel(&md->disconnect_task);
	vdpa_event_del(&md->relay);
	if (md->relay.fd >= 0)
		close(md->relay.fd);
	model_interrupts_fini(&md->irqs);
	free(md->queues);
}
