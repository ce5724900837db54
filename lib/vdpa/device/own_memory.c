/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Memory of the core's own in a device's reach: shadow rings. In a DMA domain, or where the driver
 * maps ranges (of which the core makes a domain), it is memory of that domain (vdpa_dma_alloc()). A
 * driver that takes whole tables gets it as one region more in each, at the highest IOVAs that the
 * device can reach and the guest has no memory at. No guest has a word for it: what a guest names
 * is looked up in the guest's table, which does not have it. What several queues need at once is
 * one area, and so one region.
 *
 * A region of the guest's that comes where our memory lies is refused, alone, with a line.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device_priv.h"
#include "error_priv.h"
#include "op.h"
#include "own_memory.h"

/* The highest IOVA that is used where the device names no limit: what 47 bits reach. */
#define IOVA_LAST  ((UINT64_C(1) << 47) - 1)
/* Where front-end addresses end, so that ours name none. */
#define UADDR_BASE (UINT64_C(1) << 62)
#define PAGE	   UINT64_C(4096)

static struct vdpa_dma_domain *
domain(const struct vdpa_device *vdev)
{
	return vdev->dma != NULL ? vdev->dma : vdev->core->dma_own;
}

static bool
overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return a < b + b_size && b < a + a_size;
}

/* Where size bytes fit, from the highest IOVA down. 0: nowhere. */
static uint64_t
find_hole(const struct vdpa_device *vdev, uint64_t size)
{
	struct vdpa_iova_range range = {.first = PAGE, .last = IOVA_LAST};
	const struct vdpa_iotlb *tlb = vdev->core->iotlb;
	const struct vdpa_own_area *own;
	uint64_t at;
	bool again;

	if (vdev->config->get_iova_range != NULL) {
		range = vdev->config->get_iova_range(vdev->core->vdev);
		range.last = RTE_MIN(range.last, IOVA_LAST);
	}
	if (range.last < size)
		return 0;
	at = RTE_ALIGN_FLOOR(range.last + 1 - size, PAGE);
	do {
		again = false;
		LIST_FOREACH (own, &vdev->core->own, next) {
			if (!overlaps(at, size, own->dma.iova, own->dma.size))
				continue;
			if (own->dma.iova < size)
				return 0;
			at = RTE_ALIGN_FLOOR(own->dma.iova - size, PAGE);
			again = true;
		}
		for (uint32_t i = tlb != NULL ? tlb->n : 0; i > 0; i--) {
			const struct vdpa_mem_region *r = tlb->regions[i - 1];

			if (!overlaps(at, size, r->iova, r->size))
				continue;
			if (r->iova < size)
				return 0;
			at = RTE_ALIGN_FLOOR(r->iova - size, PAGE);
			again = true;
		}
	} while (again);
	return at >= range.first ? at : 0;
}

static int
make_memory(struct vdpa_dma_buf *buf, size_t size)
{
	buf->fd = memfd_create("vdpa-own", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (buf->fd < 0)
		return vdpa_error(errno, "memfd_create: %s", strerror(errno));
	/* Nobody who gets the file takes pages away under us. */
	if (ftruncate(buf->fd, (off_t)size) < 0 ||
	    fcntl(buf->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		int err = errno;

		close(buf->fd);
		return vdpa_error(err, "memory of %zu bytes: %s", size, strerror(err));
	}
	buf->va = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, buf->fd, 0);
	if (buf->va == MAP_FAILED) {
		close(buf->fd);
		return vdpa_error(ENOMEM, "mmap: %s", strerror(errno));
	}
	buf->size = size;
	return 0;
}

static void
drop_memory(struct vdpa_dma_buf *buf)
{
	munmap(buf->va, buf->size);
	close(buf->fd);
}

int
vdpa_own_compose(struct vdpa_device *vdev, struct vdpa_iotlb *tlb, struct vdpa_iotlb **out)
{
	struct vdpa_iotlb *now = vdpa_iotlb_get(tlb), *next;
	const struct vdpa_own_area *own;
	int rc;

	LIST_FOREACH (own, &vdev->core->own, next) {
		if (own->retired)
			continue;
		struct vdpa_mem_region_spec spec = {.iova = own->dma.iova,
						    .uaddr = UADDR_BASE + own->dma.iova,
						    .size = own->dma.size,
						    .fd = own->dma.fd};

		for (uint32_t i = 0; tlb != NULL && i < tlb->n; i++)
			if (overlaps(own->dma.iova, own->dma.size, tlb->regions[i]->iova,
				     tlb->regions[i]->size)) {
				vdpa_iotlb_put(now);
				return vdpa_error(EBUSY,
						  "%s: memory 0x%" PRIx64 "-0x%" PRIx64
						  ": shadow rings lie at 0x%" PRIx64,
						  vdev->name, tlb->regions[i]->iova,
						  tlb->regions[i]->iova + tlb->regions[i]->size - 1,
						  own->dma.iova);
			}
		rc = vdpa_iotlb_add(now, &spec, &next);
		vdpa_iotlb_put(now);
		if (rc < 0)
			return rc;
		now = next;
	}
	*out = now;
	return 0;
}

/* The device's table is to have what is in the list. */
static int
remap(struct vdpa_device *vdev)
{
	struct vdpa_iotlb *tlb;
	int rc = vdpa_own_compose(vdev, vdev->core->iotlb, &tlb);

	if (rc == 0) {
		rc = VDPA_OP(vdev, -1, "set_map", vdev->config->set_map(vdev, 0, tlb));
		vdpa_iotlb_put(tlb);
	}
	return rc;
}

static int
map_in_table(struct vdpa_device *vdev, struct vdpa_own_area *area, size_t size)
{
	int rc = make_memory(&area->dma, size);

	if (rc < 0)
		return rc;
	area->dma.iova = find_hole(vdev, size);
	if (area->dma.iova == 0)
		rc = vdpa_error(ENOSPC,
				"%s: no room for %zu bytes of shadow rings beside the "
				"guest's memory",
				vdev->name, size);
	if (rc == 0) {
		LIST_INSERT_HEAD(&vdev->core->own, area, next);
		rc = remap(vdev);
		if (rc < 0)
			LIST_REMOVE(area, next);
	}
	if (rc < 0)
		drop_memory(&area->dma);
	return rc;
}

static struct vdpa_own_area *
map(struct vdpa_device *vdev, size_t size)
{
	struct vdpa_own_area *area = calloc(1, sizeof(*area));
	int rc;

	if (area == NULL) {
		rc = vdpa_error(ENOMEM, "out of memory");
	} else if (domain(vdev) != NULL) {
		rc = vdpa_dma_alloc(domain(vdev), size, NULL, &area->dma);
		if (rc == 0)
			LIST_INSERT_HEAD(&vdev->core->own, area, next);
	} else {
		rc = map_in_table(vdev, area, size);
	}
	if (rc < 0) {
		free(area);
		errno = -rc;
		return NULL;
	}
	return area;
}

static void
unmap(struct vdpa_device *vdev, struct vdpa_own_area *area)
{
	struct vdpa_own_buf *buf;

	while ((buf = LIST_FIRST(&area->freed)) != NULL) {
		LIST_REMOVE(buf, next);
		free(buf);
	}
	LIST_REMOVE(area, next);
	if (domain(vdev) != NULL)
		vdpa_dma_free(domain(vdev), &area->dma);
	else
		drop_memory(&area->dma);
	free(area);
}

/* One with so many bytes that nobody has had; NULL: none. */
static struct vdpa_own_area *
find_room(const struct vdpa_device *vdev, size_t size)
{
	struct vdpa_own_area *area;

	LIST_FOREACH (area, &vdev->core->own, next)
		if (!area->retired && size <= area->dma.size - area->taken)
			return area;
	return NULL;
}

/* A piece that was freed, of this size or (0) of any; NULL: none. */
static struct vdpa_own_buf *
find_freed(const struct vdpa_device *vdev, size_t size)
{
	struct vdpa_own_area *area;
	struct vdpa_own_buf *buf;

	LIST_FOREACH (area, &vdev->core->own, next)
		LIST_FOREACH (buf, &area->freed, next)
			if (!area->retired && (size == 0 || buf->size == size))
				return buf;
	return NULL;
}

/* The last piece of it was freed. */
static void
retire(struct vdpa_device *vdev, struct vdpa_own_area *area)
{
	if (vdev->core->own_changing)
		return;
	if (domain(vdev) == NULL) {
		/* Out of the device's table first; where that fails it may be used still. */
		LIST_REMOVE(area, next);
		area->retired = area->reachable || remap(vdev) < 0;
		LIST_INSERT_HEAD(&vdev->core->own, area, next);
	}
	/* From a domain it is unmapped whatever the device does. */
	if (!area->retired)
		unmap(vdev, area);
}

size_t
vdpa_own_size(size_t size)
{
	return RTE_ALIGN_CEIL(size, PAGE);
}

/* A piece that nobody has had, of an area that has room or is mapped for it. */
static struct vdpa_own_buf *
cut(struct vdpa_device *vdev, size_t size, size_t more)
{
	struct vdpa_own_buf *buf = calloc(1, sizeof(*buf));
	struct vdpa_own_area *area;

	if (buf == NULL) {
		vdpa_error(ENOMEM, "out of memory");
		errno = ENOMEM;
		return NULL;
	}
	area = find_room(vdev, size);
	if (area == NULL && more > 0)
		area = map(vdev, size + vdpa_own_size(more));
	if (area == NULL)
		area = map(vdev, size);
	if (area == NULL) {
		free(buf);
		return NULL;
	}
	*buf = (struct vdpa_own_buf){.va = (uint8_t *)area->dma.va + area->taken,
				     .iova = area->dma.iova + area->taken,
				     .size = size,
				     .area = area};
	area->taken += size;
	return buf;
}

struct vdpa_own_buf *
vdpa_own_alloc(struct vdpa_device *vdev, size_t size, size_t more)
{
	struct vdpa_own_buf *buf;

	size = vdpa_own_size(size);
	buf = find_freed(vdev, size);
	if (buf != NULL) {
		LIST_REMOVE(buf, next);
		memset(buf->va, 0, buf->size);
	} else {
		buf = cut(vdev, size, find_freed(vdev, 0) == NULL ? more : 0);
	}
	if (buf != NULL)
		buf->area->pieces++;
	return buf;
}

void
vdpa_own_free(struct vdpa_device *vdev, struct vdpa_own_buf *buf, bool reachable)
{
	struct vdpa_own_area *area;

	if (buf == NULL)
		return;
	area = buf->area;
	area->reachable = area->reachable || reachable;
	if (reachable)
		free(buf);
	else
		LIST_INSERT_HEAD(&area->freed, buf, next);
	if (--area->pieces == 0)
		retire(vdev, area);
}

void
vdpa_own_settle(struct vdpa_device *vdev)
{
	struct vdpa_own_area *area, *next;
	bool any = false;

	if (vdev->core->own_changing)
		return;

	LIST_FOREACH (area, &vdev->core->own, next)
		any = any || area->retired;
	/* Of a device that keeps them in its table they stay ours. */
	if (!any || (domain(vdev) == NULL && vdev->core->iotlb != NULL && remap(vdev) < 0))
		return;
	for (area = LIST_FIRST(&vdev->core->own); area != NULL; area = next) {
		next = LIST_NEXT(area, next);
		if (area->retired)
			unmap(vdev, area);
	}
}

void
vdpa_own_begin_change(struct vdpa_device *vdev)
{
	vdev->core->own_changing = true;
}

int
vdpa_own_reserve(struct vdpa_device *vdev, size_t size)
{
	struct vdpa_own_area *area;

	if (size == 0)
		return 0;
	area = map(vdev, size);
	return area != NULL ? 0 : -errno;
}

/* What was reserved and not taken goes like what was freed. A start or a change has stopped or
 * reset the queues before, so that the device reaches none of it. */
static void
retire_unused(struct vdpa_device *vdev)
{
	struct vdpa_own_area *area;

	LIST_FOREACH (area, &vdev->core->own, next)
		area->retired = area->pieces == 0;
	vdev->core->own_changing = false;
}

void
vdpa_own_end_change(struct vdpa_device *vdev)
{
	struct vdpa_error_saved error;

	/* The caller may be on its way to report something else. */
	vdpa_error_save(&error);
	retire_unused(vdev);
	vdpa_own_settle(vdev);
	vdpa_error_restore(&error);
}

void
vdpa_own_abandon_change(struct vdpa_device *vdev)
{
	retire_unused(vdev);
	/* The domain may go; of a table they are freed when it has gone. */
	if (domain(vdev) != NULL)
		vdpa_own_settle(vdev);
}
