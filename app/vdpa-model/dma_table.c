/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The table of DMA ranges of a client. A range without a file, or of one that we may not map for
 * reading and writing, is remembered and cannot be reached: QEMU maps its ROMs so.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "dma_table.h"
#include "vdpa_args.h"

static bool
is_within(const struct dma_range *r, uint64_t address, uint64_t size)
{
	return r->address >= address && r->address - address <= size &&
	       r->size <= size - (r->address - address);
}

static bool
overlaps(const struct dma_range *r, uint64_t address, uint64_t size)
{
	return address <= r->address + (r->size - 1) && r->address <= address + (size - 1);
}

/* The iotlb of all ranges but those in [address, address + size); size 0: of all. */
static int
make_iotlb(const struct dma_table *t, uint64_t address, uint64_t size, struct vdpa_iotlb **out)
{
	struct vdpa_mem_region_spec specs[DMA_RANGES_MAX];
	unsigned int n = 0;

	*out = NULL;
	for (unsigned int i = 0; i < t->n; i++) {
		const struct dma_range *r = &t->ranges[i];

		if (r->fd < 0 || (size != 0 && is_within(r, address, size)))
			continue;
		specs[n++] = (struct vdpa_mem_region_spec){
			.iova = r->address,
			.uaddr = r->address,
			.size = r->size,
			.offset = r->offset,
			.fd = r->fd,
		};
	}
	return n > 0 ? vdpa_iotlb_create(t->iotlb, specs, n, out) : 0;
}

int
dma_table_map(struct dma_table *t, uint64_t address, uint64_t size, uint64_t offset, int fd)
{
	struct dma_range range = {.address = address, .size = size, .offset = offset, .fd = -1};
	struct vdpa_iotlb *iotlb;
	unsigned int at = 0;
	int rc;

	if (size == 0 || address + (size - 1) < address)
		return vdpa_error(EINVAL, "DMA range 0x%" PRIx64 " of 0x%" PRIx64 " bytes", address,
				  size);
	for (unsigned int i = 0; i < t->n; i++) {
		if (overlaps(&t->ranges[i], address, size))
			return vdpa_error(EEXIST,
					  "DMA range 0x%" PRIx64 " of 0x%" PRIx64
					  " bytes overlaps 0x%" PRIx64,
					  address, size, t->ranges[i].address);
		if (t->ranges[i].address < address)
			at = i + 1;
	}
	if (t->n == DMA_RANGES_MAX)
		return vdpa_error(ENOSPC, "more than %u DMA ranges", DMA_RANGES_MAX);
	/* An access to a file of another kind waits for whoever serves it. Only memory files have
	 * seals. */
	if (fd >= 0 && fcntl(fd, F_GET_SEALS) < 0)
		return vdpa_error(EINVAL,
				  "DMA range 0x%" PRIx64 ": the file is not a shared memory file",
				  address);
	if (fd >= 0) {
		range.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (range.fd < 0)
			return vdpa_error(errno, "dup: %s", strerror(errno));
	}
	memmove(&t->ranges[at + 1], &t->ranges[at], (t->n - at) * sizeof(range));
	t->ranges[at] = range;
	t->n++;
	if (fd < 0)
		return 0;
	rc = make_iotlb(t, 0, 0, &iotlb);
	if (rc < 0) {
		close(range.fd);
		t->n--;
		memmove(&t->ranges[at], &t->ranges[at + 1], (t->n - at) * sizeof(range));
		return rc;
	}
	vdpa_iotlb_put(t->iotlb);
	t->iotlb = iotlb;
	return 0;
}

int
dma_table_without(const struct dma_table *t, uint64_t address, uint64_t size,
		  struct vdpa_iotlb **after)
{
	unsigned int n = 0;

	if (size == 0 || address + (size - 1) < address)
		return vdpa_error(EINVAL, "DMA range 0x%" PRIx64 " of 0x%" PRIx64 " bytes", address,
				  size);
	for (unsigned int i = 0; i < t->n; i++) {
		const struct dma_range *r = &t->ranges[i];

		if (is_within(r, address, size))
			n++;
		else if (overlaps(r, address, size))
			return vdpa_error(EINVAL,
					  "DMA range 0x%" PRIx64 " of 0x%" PRIx64
					  " bytes cuts the one at 0x%" PRIx64,
					  address, size, r->address);
	}
	if (n == 0)
		return vdpa_error(ENOENT, "no DMA range in 0x%" PRIx64 " of 0x%" PRIx64 " bytes",
				  address, size);
	return make_iotlb(t, address, size, after);
}

void
dma_table_unmap(struct dma_table *t, uint64_t address, uint64_t size, struct vdpa_iotlb *after)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < t->n; i++) {
		if (!is_within(&t->ranges[i], address, size))
			t->ranges[n++] = t->ranges[i];
		else if (t->ranges[i].fd >= 0)
			close(t->ranges[i].fd);
	}
	t->n = n;
	vdpa_iotlb_put(t->iotlb);
	t->iotlb = after;
}

void
dma_table_clear(struct dma_table *t)
{
	for (unsigned int i = 0; i < t->n; i++)
		if (t->ranges[i].fd >= 0)
			close(t->ranges[i].fd);
	t->n = 0;
	vdpa_iotlb_put(t->iotlb);
	t->iotlb = NULL;
}
