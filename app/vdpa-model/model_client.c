/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a vfio-user client asks of a function: accesses to its regions, eventfds for its interrupts,
 * memory for its DMA. When the client goes, the function is as it was before.
 */

#include <errno.h>
#include <unistd.h>

#include <rte_common.h>

#include "model_device.h"

_Static_assert(DMA_RANGES_MAX >= VFU_DMA_MAPS, "what a client is told");

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
	doorbells_renew(&md->doorbells);
	model_interrupts_clear(&md->irqs);
	(void)vdpa_device_set_memory(md->vdev, NULL);
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
	if (index == md->vp.bar && md->doorbells.poll &&
	    region->size >= vp_notify_offset(&md->vp) + md->vp.notify_len) {
		region->flags |= VFIO_REGION_INFO_FLAG_MMAP;
		region->fd = md->doorbells.fd;
		region->map_offset = vp_notify_offset(&md->vp);
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
				model_device_route_queue(md, q);
		if (old >= 0)
			close(old);
	}
	/* The first vector takes the others off the relay. */
	model_device_route(md);
	model_device_update_intx(md);
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
	model_device_update_intx(md);
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

static void
count_request(uint64_t *requests, uint64_t *bytes, uint64_t size)
{
	__atomic_fetch_add(requests, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(bytes, size, __ATOMIC_RELAXED);
}

static int
do_dma_map(struct model_device *md, const struct vfio_user_dma_map *map, int fd)
{
	const uint32_t both = VFIO_USER_DMA_READABLE | VFIO_USER_DMA_WRITABLE;
	int rc;

	/* A guest's IOMMU lets a function only read what its driver only sends, such as an indirect
	 * table. A ROM may be of a file that we cannot map; nobody has rings or buffers there. */
	if (map->flags != both) {
		rc = dma_table_map_readonly(&md->dma, map->address, map->size, map->offset, fd);
	} else {
		rc = dma_table_map(&md->dma, map->address, map->size, map->offset, fd);
	}
	if (rc < 0 && rc != -EEXIST && fd >= 0 && map->flags != both) {
		fd = -1;
		rc = dma_table_map(&md->dma, map->address, map->size, map->offset, fd);
	}
	if (rc < 0 || fd < 0)
		return rc;
	rc = model_device_update_memory(md);
	if (rc < 0)
		dma_table_unmap(&md->dma, map->address, map->size);
	return rc;
}

static int
dma_map(void *arg, const struct vfio_user_dma_map *map, int fd)
{
	struct model_device *md = arg;
	struct model_dma_counts *c = &md->dma_counts;
	uint64_t before = md->dma.mapped_size;
	int rc = do_dma_map(md, map, fd);

	if (rc == 0)
		count_request(&c->maps, &c->bytes_mapped, md->dma.mapped_size - before);
	return rc;
}

static int
dma_unmap(void *arg, const struct vfio_user_dma_unmap *unmap)
{
	struct model_device *md = arg;
	struct model_dma_counts *c = &md->dma_counts;
	uint64_t before = md->dma.mapped_size;
	int rc = 0;

	if ((unmap->flags & VFIO_DMA_UNMAP_FLAG_ALL) != 0)
		dma_table_unmap_all(&md->dma);
	else
		rc = dma_table_unmap(&md->dma, unmap->address, unmap->size);
	if (rc < 0)
		return rc;
	count_request(&c->unmaps, &c->bytes_unmapped, before - md->dma.mapped_size);
	/* On return the client takes the memory for its own: there is no refusing. */
	rc = model_device_update_memory(md);
	if (rc < 0)
		model_device_give_up(md, rc);
	if (!md->running)
		dma_table_drop_iotlb(&md->dma);
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
