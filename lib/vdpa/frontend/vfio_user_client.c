/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a vfio-user client asks of a function: accesses to its regions, eventfds for its interrupts,
 * memory for its DMA. When the client goes, the function is as it was before.
 */

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#include <rte_common.h>

#include "vdpa.h"
#include "vdpa_log.h"
#include "vfio_user_device.h"

_Static_assert(VFU_DMA_RANGES_MAX >= VFU_DMA_MAPS, "what a client is told");

static int
connected(void *arg, const struct vdpa_peer *peer)
{
	struct vfu_device *dev = arg;
	char why[512];
	int rc;

	if (vdpa_device_is_gone(dev->vdev)) {
		vdpa_device_failure(dev->vdev, why, sizeof(why));
		return vdpa_error(ENODEV, "%s", why);
	}
	rc = vdpa_consumer_admit(dev->vdev, peer);
	if (rc < 0)
		return rc;
	dev->consumer = vdpa_consumer_new_function(dev->vdev);
	if (dev->consumer == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	rc = vdpa_consumer_set_peer(dev->consumer, peer);
	if (rc < 0) {
		vdpa_consumer_free(dev->consumer);
		dev->consumer = NULL;
		return rc;
	}
	vdpa_consumer_keep_state(dev->consumer, dev->moves);
	if (dev->kept.on && !vdpa_vfus_planned_is(&dev->kept))
		(void)vdpa_consumer_set_inflight(dev->consumer, dev->kept.areas, dev->kept.stride,
						 dev->vp.params.nvqs, true);
	dev->dma.consumer = dev->consumer;
	dev->peer = *peer;
	vdpa_device_add_connections(dev->vdev, 1);
	__atomic_store_n(&dev->connected, true, __ATOMIC_RELAXED);
	return 0;
}

static void
disconnected(void *arg)
{
	struct vfu_device *dev = arg;

	vdpa_consumer_leaves(dev->consumer);
	vdpa_vfus_migration_reset(dev);
	vdpa_vp_function_reset(&dev->vp);
	if (dev->log.own != NULL)
		(void)vdpa_vfus_dma_log_stop(dev);
	vdpa_vfus_bells_renew(&dev->doorbells);
	vdpa_vfus_irqs_clear(&dev->irqs);
	vdpa_consumer_free(dev->consumer);
	dev->consumer = dev->dma.consumer = NULL;
	/* The last descriptor of its memory frees it, which may take long: it is not the store's.
	 */
	vdpa_vfus_kept_disconnected(&dev->kept);
	vdpa_vfus_dma_clear(&dev->dma);
	dev->peer = (struct vdpa_peer){0};
	__atomic_store_n(&dev->connected, false, __ATOMIC_RELAXED);
}

/*
 * The device's own doorbells, in the place of ours. Their pages cannot be taken back: the core
 * keeps account of who has those that carry the whole device. Who may not have them rings by
 * messages.
 */
static void
pass_doorbells(struct vfu_device *dev, struct vfu_region *region)
{
	struct vdpa_notification_area area;
	int rc = vdpa_get_fixed_notification(dev->vdev, 0, &area);

	if (rc == 0)
		rc = vdpa_device_give_page(dev->vdev, &area, &dev->peer, &dev->peer);
	if (rc < 0) {
		VDPA_LOG_LIMITED(&dev->log.lines, NOTICE,
				 "%s: vfio-user: doorbells ring by messages: %s", dev->vdev->name,
				 vdpa_error_message());
		return;
	}
	for (uint16_t i = 0; i < dev->vp.params.nvqs; i++)
		vdpa_device_doorbell_given(dev->vdev, i);
	region->flags |= VFIO_REGION_INFO_FLAG_MMAP;
	region->fd = area.fd;
	region->fd_offset = area.offset - vp_notify_offset(&dev->vp);
	region->map_offset = vp_notify_offset(&dev->vp);
	region->map_size = dev->vp.notify_len;
}

static uint64_t
region_size(void *arg, uint32_t index)
{
	struct vfu_device *dev = arg;

	if (index == VFIO_PCI_CONFIG_REGION_INDEX)
		return VP_CONFIG_SIZE;
	return index < RTE_DIM(dev->vp.bar_size) ? vdpa_vp_bar_shown(&dev->vp, index) : 0;
}

static void
region_info(void *arg, uint32_t index, struct vfu_region *region)
{
	struct vfu_device *dev = arg;

	region->size = region_size(arg, index);
	if (region->size == 0)
		return;
	region->flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	if (index == dev->vp.bar && dev->passes) {
		pass_doorbells(dev, region);
		return;
	}
	if (index == dev->vp.bar && dev->doorbells.poll &&
	    region->size >= vp_notify_offset(&dev->vp) + dev->vp.notify_len) {
		region->flags |= VFIO_REGION_INFO_FLAG_MMAP;
		region->fd = dev->doorbells.fd;
		region->map_offset = vp_notify_offset(&dev->vp);
		region->map_size = dev->vp.notify_len;
	}
}

static void
region_read(void *arg, uint32_t index, uint64_t offset, void *buf, size_t len)
{
	struct vfu_device *dev = arg;

	if (index == VFIO_PCI_CONFIG_REGION_INDEX)
		vdpa_vp_config_read(&dev->vp, offset, buf, len);
	else
		vdpa_vp_bar_read(&dev->vp, index, offset, buf, len);
}

static void
region_write(void *arg, uint32_t index, uint64_t offset, const void *buf, size_t len)
{
	struct vfu_device *dev = arg;

	if (index == VFIO_PCI_CONFIG_REGION_INDEX)
		vdpa_vp_config_write(&dev->vp, offset, buf, len);
	else
		vdpa_vp_bar_write(&dev->vp, index, offset, buf, len);
}

static uint32_t
irq_count(void *arg, uint32_t index)
{
	struct vfu_device *dev = arg;

	if (index == VFIO_PCI_INTX_IRQ_INDEX)
		return 1;
	return index == VFIO_PCI_MSIX_IRQ_INDEX ? dev->irqs.n_vectors : 0;
}

/* Whether the i-th interrupt of the set is meant. */
static bool
is_meant(const struct vfio_user_irq_set *set, const uint8_t *data, uint32_t i)
{
	return (set->flags & VFIO_IRQ_SET_DATA_BOOL) == 0 || data[i] != 0;
}

static int
set_intx(struct vfu_device *dev, const struct vfio_user_irq_set *set, const uint8_t *data, int *fds,
	 unsigned int n_fds)
{
	bool eventfd = (set->flags & VFIO_IRQ_SET_DATA_EVENTFD) != 0;
	bool meant = set->count > 0 && !eventfd && is_meant(set, data, 0);

	switch (set->flags & VFIO_IRQ_SET_ACTION_TYPE_MASK) {
	case VFIO_IRQ_SET_ACTION_TRIGGER:
		if (eventfd || set->count == 0) {
			vdpa_vfus_irqs_set_intx_fd(&dev->irqs, n_fds > 0 ? fds[0] : -1);
			if (n_fds > 0)
				fds[0] = -1;
		} else if (meant && dev->irqs.intx_fd >= 0) {
			vdpa_eventfd_signal(dev->irqs.intx_fd);
		}
		return 0;
	default:
		if (eventfd)
			return vdpa_error(ENOTSUP, "INTx masked by eventfd");
		if (meant)
			vdpa_vfus_irqs_mask_intx(&dev->irqs,
						 (set->flags & VFIO_IRQ_SET_ACTION_MASK) != 0);
		return 0;
	}
}

/* Swap the eventfds of vectors; the device lets go of the old ones before they are closed. */
static void
swap_vectors(struct vfu_device *dev, uint32_t start, uint32_t count, int *fds, unsigned int n_fds)
{
	int *vectors = dev->irqs.vector_fds + start, old;

	dev->irqs.msix_on = true;
	for (uint32_t i = 0; i < count; i++) {
		old = vectors[i];
		vectors[i] = i < n_fds ? fds[i] : -1;
		if (i < n_fds)
			fds[i] = -1;
		for (uint16_t q = 0; q < dev->vp.params.nvqs; q++)
			if (dev->vp.queues[q].vector == start + i)
				vdpa_vfus_device_route_queue(dev, q);
		if (old >= 0)
			close(old);
	}
	/* The first vector takes the others off the relay. */
	vdpa_vfus_device_route(dev);
	vdpa_vfus_device_update_intx(dev);
}

static void
disable_msix(struct vfu_device *dev)
{
	dev->irqs.msix_on = false;
	vdpa_vfus_device_route(dev);
	for (uint16_t i = 0; i < dev->irqs.n_vectors; i++) {
		if (dev->irqs.vector_fds[i] >= 0)
			close(dev->irqs.vector_fds[i]);
		dev->irqs.vector_fds[i] = -1;
	}
	vdpa_vfus_device_update_intx(dev);
}

static int
set_irqs(void *arg, const struct vfio_user_irq_set *set, const uint8_t *data, int *fds,
	 unsigned int n_fds)
{
	struct vfu_device *dev = arg;

	if (set->index == VFIO_PCI_INTX_IRQ_INDEX)
		return set_intx(dev, set, data, fds, n_fds);
	/* Other indexes have no interrupts: nothing to be set, and to be let go of at once. */
	if (set->index != VFIO_PCI_MSIX_IRQ_INDEX)
		return 0;
	if ((set->flags & VFIO_IRQ_SET_ACTION_TRIGGER) == 0)
		return vdpa_error(ENOTSUP, "MSI-X vectors are masked by taking their eventfd");
	if ((set->flags & VFIO_IRQ_SET_DATA_EVENTFD) != 0 && set->count > 0) {
		swap_vectors(dev, set->start, set->count, fds, n_fds);
		return 0;
	}
	if (set->count == 0)
		disable_msix(dev);
	for (uint32_t i = 0; i < set->count; i++)
		if (is_meant(set, data, i))
			vdpa_vfus_irqs_fire(&dev->irqs, (uint16_t)(set->start + i));
	return 0;
}

static void
count_request(uint64_t *requests, uint64_t *bytes, uint64_t size)
{
	__atomic_fetch_add(requests, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(bytes, size, __ATOMIC_RELAXED);
}

static int
do_dma_map(struct vfu_device *dev, const struct vfio_user_dma_map *map, int fd)
{
	const uint32_t both = VFIO_USER_DMA_READABLE | VFIO_USER_DMA_WRITABLE;
	int rc;

	if (vdpa_vfus_dma_has(&dev->dma, map->address, map->size, map->offset, fd,
			      map->flags != both))
		return 0;
	/* A guest's IOMMU lets a function only read what its driver only sends, such as an indirect
	 * table. A ROM may be of a file that we cannot map; nobody has rings or buffers there. */
	if (map->flags != both) {
		rc = vdpa_vfus_dma_map_readonly(&dev->dma, map->address, map->size, map->offset,
						fd);
	} else {
		rc = vdpa_vfus_dma_map(&dev->dma, map->address, map->size, map->offset, fd);
	}
	if (rc < 0 && rc != -EEXIST && fd >= 0 && map->flags != both) {
		fd = -1;
		rc = vdpa_vfus_dma_map(&dev->dma, map->address, map->size, map->offset, fd);
	}
	if (rc < 0 || fd < 0)
		return rc;
	rc = vdpa_vfus_device_update_memory(dev);
	if (rc < 0)
		vdpa_vfus_dma_unmap(&dev->dma, map->address, map->size);
	return rc;
}

static int
dma_map(void *arg, const struct vfio_user_dma_map *map, int fd)
{
	struct vfu_device *dev = arg;
	struct vfu_dma_counts *c = &dev->dma_counts;
	uint64_t before = dev->dma.mapped_size;
	int rc = do_dma_map(dev, map, fd);

	if (rc == 0)
		count_request(&c->maps, &c->bytes_mapped, dev->dma.mapped_size - before);
	return rc;
}

static int
dma_unmap(void *arg, const struct vfio_user_dma_unmap *unmap)
{
	struct vfu_device *dev = arg;
	struct vfu_dma_counts *c = &dev->dma_counts;
	uint64_t before = dev->dma.mapped_size;
	int rc = 0;

	if ((unmap->flags & VFIO_DMA_UNMAP_FLAG_ALL) != 0)
		vdpa_vfus_dma_unmap_all(&dev->dma);
	else
		rc = vdpa_vfus_dma_unmap(&dev->dma, unmap->address, unmap->size);
	if (rc < 0)
		return rc;
	count_request(&c->unmaps, &c->bytes_unmapped, before - dev->dma.mapped_size);
	/* On return the client takes the memory for its own: there is no refusing. */
	rc = vdpa_vfus_device_update_memory(dev);
	if (rc < 0)
		vdpa_vfus_device_give_up(dev, rc, "memory is taken away");
	if (!vfu_runs(dev))
		vdpa_vfus_dma_drop_iotlb(&dev->dma);
	return 0;
}

static void
reset_function(void *arg)
{
	struct vfu_device *dev = arg;

	vdpa_vfus_migration_reset(dev);
	vdpa_vp_function_reset(&dev->vp);
}

static size_t
reply(void *arg, uint8_t *msg, size_t len, unsigned int *delay_ms)
{
	struct vfu_device *dev = arg;

	return dev->ext->reply != NULL ? dev->ext->reply(dev, msg, len, delay_ms) : len;
}

static bool
logs_dma(void *arg)
{
	const struct vfu_device *dev = arg;

	return dev->dma_logging;
}

static int
dma_log_start(void *arg, const struct vfio_user_dma_log_range *ranges, unsigned int n)
{
	return vdpa_vfus_dma_log_start(arg, ranges, n);
}

static int
dma_log_report(void *arg, const struct vfio_user_dma_log_report *report, uint64_t *bitmap)
{
	return vdpa_vfus_dma_log_report(arg, report, bitmap);
}

static int
dma_log_stop(void *arg)
{
	return vdpa_vfus_dma_log_stop(arg);
}

static bool
moves(void *arg)
{
	const struct vfu_device *dev = arg;

	return dev->moves;
}

static uint32_t
get_state(void *arg)
{
	const struct vfu_device *dev = arg;

	return dev->migration.state;
}

static int
set_state(void *arg, uint32_t state)
{
	return vdpa_vfus_migration_set(arg, state);
}

static int
read_state(void *arg, void *buf, uint32_t size, uint32_t *n)
{
	return vdpa_vfus_migration_read(arg, buf, size, n);
}

static int
write_state(void *arg, const void *buf, uint32_t size)
{
	return vdpa_vfus_migration_write(arg, buf, size);
}

const struct vfu_ops vdpa_vfus_client_ops = {
	.connected = connected,
	.disconnected = disconnected,
	.region_size = region_size,
	.region_info = region_info,
	.region_read = region_read,
	.region_write = region_write,
	.irq_count = irq_count,
	.set_irqs = set_irqs,
	.dma_map = dma_map,
	.dma_unmap = dma_unmap,
	.reset = reset_function,
	.logs_dma = logs_dma,
	.dma_log_start = dma_log_start,
	.dma_log_report = dma_log_report,
	.dma_log_stop = dma_log_stop,
	.moves = moves,
	.get_state = get_state,
	.set_state = set_state,
	.read_state = read_state,
	.write_state = write_state,
	.reply = reply,
};
