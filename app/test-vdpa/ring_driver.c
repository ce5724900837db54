/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Guest memory, and vrings in it whose layout and events a test sets as it likes.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "ring_driver.h"

int
ring_mem_init(struct ring_mem *mem, const uint64_t *sizes, unsigned int n)
{
	struct vdpa_mem_region_spec specs[RING_MEM_REGIONS_MAX];
	uint64_t iova = RING_MEM_IOVA, uaddr = RING_MEM_UADDR;

	memset(mem, 0, sizeof(*mem));
	for (mem->n = 0; mem->n < n; mem->n++) {
		unsigned int i = mem->n;
		int fd = memfd_create("ring_mem", MFD_CLOEXEC);
		void *va;

		if (fd < 0 || ftruncate(fd, (off_t)sizes[i]) < 0)
			return -errno;
		va = mmap(NULL, sizes[i], PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (va == MAP_FAILED)
			return -errno;
		mem->region[i].fd = fd;
		mem->region[i].iova = iova;
		mem->region[i].size = sizes[i];
		mem->region[i].va = va;
		specs[i] = (struct vdpa_mem_region_spec){
			.iova = iova, .uaddr = uaddr, .size = sizes[i], .fd = fd};
		iova += sizes[i];
		uaddr += sizes[i];
	}
	return vdpa_iotlb_create(NULL, specs, n, &mem->tlb);
}

void
ring_mem_fini(struct ring_mem *mem)
{
	vdpa_iotlb_put(mem->tlb);
	for (unsigned int i = 0; i < mem->n; i++) {
		munmap(mem->region[i].va, mem->region[i].size);
		close(mem->region[i].fd);
	}
	memset(mem, 0, sizeof(*mem));
}

void *
ring_mem_va(const struct ring_mem *mem, uint64_t iova)
{
	for (unsigned int i = 0; i < mem->n; i++) {
		if (iova - mem->region[i].iova < mem->region[i].size)
			return mem->region[i].va + (iova - mem->region[i].iova);
	}
	return NULL;
}

uint64_t
ring_driver_bytes(uint32_t num)
{
	return (16 * (uint64_t)num + 6 + 2 * (uint64_t)num + 15 + 6 + 8 * (uint64_t)num + 63) &
	       ~63ULL;
}

struct vring_desc *
ring_driver_desc(const struct ring_driver *d)
{
	return ring_mem_va(d->mem, d->desc);
}

struct vring_packed_desc *
ring_driver_packed(const struct ring_driver *d)
{
	return ring_mem_va(d->mem, d->desc);
}

struct vring_avail *
ring_driver_avail(const struct ring_driver *d)
{
	return ring_mem_va(d->mem, d->drv);
}

struct vring_used *
ring_driver_used_ring(const struct ring_driver *d)
{
	return ring_mem_va(d->mem, d->dev);
}

void
ring_driver_reset_at(struct ring_driver *d, const struct vdpa_vq_state *place)
{
	struct vdpa_vring_params params = {
		.features = d->features,
		.num = d->num,
		.desc = ring_mem_va(d->mem, d->desc),
		.driver = ring_mem_va(d->mem, d->drv),
		.device = ring_mem_va(d->mem, d->dev),
		.place = *place,
	};

	/* Of a device that was stopped with chains to use: they are forgotten. */
	if (d->packed) {
		params.place.packed.last_used_idx = place->packed.last_avail_idx;
		params.place.packed.last_used_counter = place->packed.last_avail_counter;
	}
	if (vdpa_vring_setup(d->ring, &params) < 0) {
		fprintf(stderr, "%s\n", vdpa_vring_error(d->ring));
		abort();
	}
}

void
ring_driver_reset(struct ring_driver *d)
{
	struct vdpa_vq_params params;

	ring_driver_params(d, &params);
	ring_driver_reset_at(d, &params.state);
}

void
ring_driver_place(const struct ring_driver *d, struct vdpa_vq_state *place)
{
	vdpa_vring_place(d->ring, place);
}

int
ring_driver_init(struct ring_driver *d, struct ring_mem *mem, uint64_t features, uint32_t num,
		 uint64_t iova)
{
	memset(d, 0, sizeof(*d));
	d->mem = mem;
	d->features = features;
	d->packed = (features & RING_FEATURE(VIRTIO_F_RING_PACKED)) != 0;
	d->num = num;
	d->desc = iova;
	d->drv = iova + 16 * (uint64_t)num;
	d->dev = (d->drv + 6 + 2 * (uint64_t)num + 15) & ~15ULL;
	d->ring = vdpa_vring_alloc();
	if (d->ring == NULL)
		return -ENOMEM;
	ring_driver_reset(d);
	return 0;
}

void
ring_driver_fini(struct ring_driver *d)
{
	vdpa_vring_free(d->ring);
	memset(d, 0, sizeof(*d));
}

void
ring_driver_params(const struct ring_driver *d, struct vdpa_vq_params *params)
{
	memset(params, 0, sizeof(*params));
	params->features = d->features;
	params->num = d->num;
	params->desc = d->desc;
	params->driver = d->drv;
	params->device = d->dev;
	if (d->packed) {
		params->state.packed.last_avail_counter = 1;
		params->state.packed.last_used_counter = 1;
	}
}

static int
publish(struct ring_driver *d, int id)
{
	if (id < 0)
		return -1;
	vdpa_vring_publish(d->ring);
	return id;
}

int
ring_driver_post(struct ring_driver *d, const struct ring_buf *bufs, unsigned int n)
{
	struct vdpa_vring_seg segs[256];

	if (n > sizeof(segs) / sizeof(segs[0]))
		return -1;
	for (unsigned int i = 0; i < n; i++)
		segs[i] = (struct vdpa_vring_seg){bufs[i].iova, bufs[i].len, bufs[i].write};
	return publish(d, vdpa_vring_add(d->ring, segs, n));
}

int
ring_driver_post_indirect(struct ring_driver *d, const struct ring_buf *bufs, unsigned int n,
			  uint64_t table)
{
	uint32_t room = 0;

	for (unsigned int i = 0; i < n; i++) {
		uint16_t flags = bufs[i].write ? VRING_DESC_F_WRITE : 0;
		struct vring_desc s = {.addr = bufs[i].iova, .len = bufs[i].len};
		struct vring_packed_desc p = {
			.addr = bufs[i].iova, .len = bufs[i].len, .flags = flags};
		const uint8_t *bytes = (const uint8_t *)(d->packed ? (void *)&p : (void *)&s);

		s.flags = flags | (i + 1 < n ? VRING_DESC_F_NEXT : 0);
		s.next = (uint16_t)(i + 1);
		/* By the byte: the table may cross regions. */
		for (unsigned int b = 0; b < 16; b++)
			*(uint8_t *)ring_mem_va(d->mem, table + 16 * (uint64_t)i + b) = bytes[b];
		room += bufs[i].write ? bufs[i].len : 0;
	}
	return publish(d, vdpa_vring_add_table(d->ring, table, 16 * n, room));
}

int
ring_driver_take(struct ring_driver *d, uint16_t *id, uint32_t *len)
{
	return vdpa_vring_take(d->ring, id, len);
}

const char *
ring_driver_bad(const struct ring_driver *d)
{
	return vdpa_vring_error(d->ring);
}

bool
ring_driver_poll(struct ring_driver *d, uint16_t *id, uint32_t *len)
{
	int rc = vdpa_vring_take(d->ring, id, len);

	if (rc < 0) {
		fprintf(stderr, "%s\n", ring_driver_bad(d));
		abort();
	}
	return rc > 0;
}

uint16_t
ring_driver_used_pos(const struct ring_driver *d, bool *wrap)
{
	struct vdpa_vq_state place;

	vdpa_vring_place(d->ring, &place);
	if (!d->packed)
		return place.split.avail_index;
	if (wrap != NULL)
		*wrap = place.packed.last_used_counter;
	return place.packed.last_used_idx;
}

void
ring_driver_no_calls(struct ring_driver *d)
{
	vdpa_vring_disable_calls(d->ring);
}

void
ring_driver_want_calls(struct ring_driver *d)
{
	vdpa_vring_enable_calls(d->ring);
}

void
ring_driver_want_call_at(struct ring_driver *d, uint16_t pos, bool wrap)
{
	/* The vring asks for the next; the test for another. */
	vdpa_vring_enable_calls(d->ring);
	if (d->packed) {
		volatile struct vring_packed_desc_event *e = ring_mem_va(d->mem, d->drv);

		e->off_wrap = (uint16_t)(pos | wrap << VRING_PACKED_EVENT_F_WRAP_CTR);
	} else {
		ring_driver_avail(d)->ring[d->num] = pos;
	}
}

bool
ring_driver_kick_wanted(struct ring_driver *d)
{
	return vdpa_vring_wants_kick(d->ring);
}
