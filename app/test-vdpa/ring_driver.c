/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A driver's side of a virtqueue (virtio 1.2, 2.7 and 2.8), and guest memory for it.
 */

#include <errno.h>
#include <stdarg.h>
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

static volatile struct vring_packed_desc_event *
driver_event(const struct ring_driver *d)
{
	return ring_mem_va(d->mem, d->drv);
}

void
ring_driver_reset(struct ring_driver *d)
{
	memset(ring_mem_va(d->mem, d->desc), 0, ring_driver_bytes(d->num));
	d->avail = 0;
	d->used = 0;
	d->avail_wrap = true;
	d->used_wrap = true;
	d->n_free = d->num;
	d->n_ids = d->num;
	for (uint32_t i = 0; i < d->num; i++)
		d->free_list[i] = (uint16_t)(d->num - 1 - i);
	memset(d->ndesc, 0, d->num * sizeof(*d->ndesc));
	d->under_way = 0;
	d->turn = 0;
	d->order_at = 0;
	d->batch = 0;
	d->bad[0] = '\0';
}

/* Descriptors as two laps have left them: this one's up to pos, the former one's behind. */
static void
lay_used(struct ring_driver *d, uint32_t pos, bool wrap)
{
	const uint16_t both = 1 << VRING_PACKED_DESC_F_AVAIL | 1 << VRING_PACKED_DESC_F_USED;
	struct vring_packed_desc *ring = ring_driver_packed(d);

	for (uint32_t i = 0; i < d->num; i++)
		ring[i].flags = (i < pos) == wrap ? both : 0;
}

void
ring_driver_reset_at(struct ring_driver *d, const struct vdpa_vq_state *place)
{
	ring_driver_reset(d);
	if (d->packed) {
		d->avail = d->used = place->packed.last_avail_idx;
		d->avail_wrap = d->used_wrap = place->packed.last_avail_counter != 0;
		lay_used(d, d->used, d->used_wrap);
	} else {
		d->avail = d->used = place->split.avail_index;
		ring_driver_avail(d)->idx = d->avail;
		ring_driver_used_ring(d)->idx = d->used;
	}
}

void
ring_driver_place(const struct ring_driver *d, struct vdpa_vq_state *place)
{
	memset(place, 0, sizeof(*place));
	if (d->packed) {
		place->packed.last_avail_idx = place->packed.last_used_idx = d->used;
		place->packed.last_avail_counter = place->packed.last_used_counter = d->used_wrap;
	} else {
		place->split.avail_index = d->used;
	}
}

int
ring_driver_init(struct ring_driver *d, struct ring_mem *mem, uint64_t features, uint32_t num,
		 uint64_t iova)
{
	memset(d, 0, sizeof(*d));
	d->mem = mem;
	d->features = features;
	d->packed = (features & RING_FEATURE(VIRTIO_F_RING_PACKED)) != 0;
	d->in_order = (features & RING_FEATURE(VIRTIO_F_IN_ORDER)) != 0;
	d->num = num;
	d->desc = iova;
	d->drv = iova + 16 * (uint64_t)num;
	d->dev = (d->drv + 6 + 2 * (uint64_t)num + 15) & ~15ULL;
	d->room = calloc((size_t)num, sizeof(uint32_t) + 4 * sizeof(uint16_t));
	if (d->room == NULL)
		return -ENOMEM;
	d->free_list = (uint16_t *)(void *)(d->room + num);
	d->ndesc = d->free_list + num;
	d->next = d->ndesc + num;
	d->order = d->next + num;
	ring_driver_reset(d);
	return 0;
}

void
ring_driver_fini(struct ring_driver *d)
{
	free(d->room);
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

/* The next descriptor (split) or id (packed) to use. */
static uint16_t
next_free(struct ring_driver *d, uint32_t *n_free)
{
	uint16_t k = d->turn;

	--*n_free;
	if (!d->in_order)
		return d->free_list[*n_free];
	d->turn = (uint16_t)(k + 1u == d->num ? 0 : k + 1u);
	return k;
}

static void
note_posted(struct ring_driver *d, uint16_t id, unsigned int ndesc, uint32_t room)
{
	d->ndesc[id] = (uint16_t)ndesc;
	d->room[id] = room;
	d->order[(d->order_at + d->under_way) % d->num] = id;
	d->under_way++;
}

static int
post_split(struct ring_driver *d, const struct vring_desc *descs, unsigned int n, uint32_t room)
{
	struct vring_desc *table = ring_driver_desc(d);
	struct vring_avail *avail = ring_driver_avail(d);
	uint16_t head = 0, prev = 0;

	if (n > d->n_free)
		return -1;
	for (unsigned int i = 0; i < n; i++) {
		uint16_t k = next_free(d, &d->n_free);

		table[k] = descs[i];
		if (i == 0) {
			head = k;
		} else {
			table[prev].flags |= VRING_DESC_F_NEXT;
			table[prev].next = k;
			d->next[prev] = k;
		}
		prev = k;
	}
	note_posted(d, head, n, room);
	avail->ring[d->avail & (d->num - 1)] = head;
	d->avail++;
	__atomic_store_n(&avail->idx, d->avail, __ATOMIC_RELEASE);
	return head;
}

static int
post_packed(struct ring_driver *d, const struct vring_desc *descs, unsigned int n, uint32_t room)
{
	struct vring_packed_desc *ring = ring_driver_packed(d);
	uint32_t pos = d->avail;
	uint16_t id, head_flags = 0;

	if (n > d->n_free || d->n_ids == 0)
		return -1;
	id = next_free(d, &d->n_ids);
	d->n_free -= n;
	note_posted(d, id, n, room);
	for (unsigned int i = 0; i < n; i++) {
		uint16_t flags = descs[i].flags;

		if (i + 1 < n)
			flags |= VRING_DESC_F_NEXT;
		flags |= d->avail_wrap ? 1 << VRING_PACKED_DESC_F_AVAIL
				       : 1 << VRING_PACKED_DESC_F_USED;
		ring[pos].addr = descs[i].addr;
		ring[pos].len = descs[i].len;
		ring[pos].id = id;
		if (i == 0)
			head_flags = flags;
		else
			ring[pos].flags = flags;
		if (++pos == d->num) {
			pos = 0;
			d->avail_wrap = !d->avail_wrap;
		}
	}
	__atomic_store_n(&ring[d->avail].flags, head_flags, __ATOMIC_RELEASE);
	d->avail = (uint16_t)pos;
	return id;
}

static int
post(struct ring_driver *d, const struct vring_desc *descs, unsigned int n, uint32_t room)
{
	return d->packed ? post_packed(d, descs, n, room) : post_split(d, descs, n, room);
}

static uint32_t
writable(const struct ring_buf *bufs, unsigned int n)
{
	uint32_t room = 0;

	for (unsigned int i = 0; i < n; i++)
		room += bufs[i].write ? bufs[i].len : 0;
	return room;
}

int
ring_driver_post(struct ring_driver *d, const struct ring_buf *bufs, unsigned int n)
{
	struct vring_desc descs[256];

	if (n == 0 || n > sizeof(descs) / sizeof(descs[0]))
		return -1;
	for (unsigned int i = 0; i < n; i++)
		descs[i] = (struct vring_desc){.addr = bufs[i].iova,
					       .len = bufs[i].len,
					       .flags = bufs[i].write ? VRING_DESC_F_WRITE : 0};
	return post(d, descs, n, writable(bufs, n));
}

int
ring_driver_post_indirect(struct ring_driver *d, const struct ring_buf *bufs, unsigned int n,
			  uint64_t table)
{
	struct vring_desc head = {.addr = table, .len = n * 16, .flags = VRING_DESC_F_INDIRECT};

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
	}
	return post(d, &head, 1, writable(bufs, n));
}

static int __attribute__((format(printf, 2, 3)))
bad_ring(struct ring_driver *d, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(d->bad, sizeof(d->bad), fmt, ap);
	va_end(ap);
	return -EPROTO;
}

static int
check_id(struct ring_driver *d, uint32_t id)
{
	if (id >= d->num)
		return bad_ring(d, "used entry %u: id %u of a ring of %u", d->used, id, d->num);
	if (d->ndesc[id] == 0)
		return bad_ring(d, "used entry %u: id %u is not under way", d->used, id);
	return 1;
}

static int
next_split(struct ring_driver *d, uint16_t *id, uint32_t *len)
{
	struct vring_used *used = ring_driver_used_ring(d);
	uint16_t idx = __atomic_load_n(&used->idx, __ATOMIC_ACQUIRE);
	uint16_t ready = (uint16_t)(idx - d->used);
	const struct vring_used_elem *e;
	int rc;

	if (ready == 0)
		return 0;
	if (ready > d->under_way)
		return bad_ring(d,
				"used index %u is %u beyond what was taken (%u), with %u buffers "
				"under way",
				idx, ready, d->used, d->under_way);
	e = &used->ring[d->used & (d->num - 1)];
	rc = check_id(d, e->id);
	if (rc < 0)
		return rc;
	*id = (uint16_t)e->id;
	*len = e->len;
	return 1;
}

static int
next_packed(struct ring_driver *d, uint16_t *id, uint32_t *len)
{
	const struct vring_packed_desc *p = &ring_driver_packed(d)[d->used];
	uint16_t flags = __atomic_load_n(&p->flags, __ATOMIC_ACQUIRE);
	bool avail = (flags >> VRING_PACKED_DESC_F_AVAIL) & 1;
	bool used = (flags >> VRING_PACKED_DESC_F_USED) & 1;
	int rc;

	if (avail != used || used != d->used_wrap)
		return 0;
	if (d->under_way == 0)
		return bad_ring(d, "used descriptor at %u with no buffer under way", d->used);
	rc = check_id(d, p->id);
	if (rc < 0)
		return rc;
	*id = p->id;
	*len = p->len;
	return 1;
}

/* The chain's descriptors are ours again, and the next used entry is looked for behind it. */
static void
give_back(struct ring_driver *d, uint16_t id)
{
	uint32_t n = d->ndesc[id], pos;

	if (d->packed) {
		pos = d->used + n;
		if (pos >= d->num) {
			pos -= d->num;
			d->used_wrap = !d->used_wrap;
		}
		d->used = (uint16_t)pos;
		d->n_free += n;
		d->free_list[d->n_ids++] = id;
	} else {
		for (uint32_t k = id, i = 0; i < n; i++, k = d->next[k])
			d->free_list[d->n_free++] = (uint16_t)k;
		d->used++;
	}
	d->ndesc[id] = 0;
	d->under_way--;
}

/* How many chains the used entry of `id` stands for: all up to it (virtio 1.2, 2.7.9 and 2.8.12).
 */
static uint32_t
batch_of(const struct ring_driver *d, uint16_t id)
{
	uint32_t n = 0;

	while (d->order[(d->order_at + n) % d->num] != id)
		n++;
	return n + 1;
}

static int
take(struct ring_driver *d, uint16_t *id, uint32_t *len)
{
	int rc;

	if (d->bad[0] != '\0')
		return -EPROTO;
	if (!d->in_order) {
		rc = d->packed ? next_packed(d, id, len) : next_split(d, id, len);
		if (rc > 0)
			give_back(d, *id);
		return rc;
	}
	if (d->batch == 0) {
		rc = d->packed ? next_packed(d, id, len) : next_split(d, id, len);
		if (rc <= 0)
			return rc;
		d->batch = batch_of(d, *id);
		d->batch_len = *len;
		if (!d->packed) {
			uint16_t ready = (uint16_t)(__atomic_load_n(&ring_driver_used_ring(d)->idx,
								    __ATOMIC_ACQUIRE) -
						    d->used);

			if (d->batch > ready)
				return bad_ring(d, "used entry %u: id %u is out of order", d->used,
						*id);
		}
	}
	/* Of those before the last the length is not told: their buffers are full. */
	*id = d->order[d->order_at];
	*len = d->batch == 1 ? d->batch_len : d->room[*id];
	d->order_at = (d->order_at + 1) % d->num;
	d->batch--;
	give_back(d, *id);
	return 1;
}

int
ring_driver_take(struct ring_driver *d, uint16_t *id, uint32_t *len)
{
	int rc = take(d, id, len);

	if (rc > 0 && *len > d->room[*id])
		return bad_ring(d, "used id %u: %u bytes written, its buffers hold %u", *id, *len,
				d->room[*id]);
	return rc;
}

bool
ring_driver_poll(struct ring_driver *d, uint16_t *id, uint32_t *len)
{
	int rc = take(d, id, len);

	if (rc < 0) {
		fprintf(stderr, "%s\n", d->bad);
		abort();
	}
	return rc > 0;
}

void
ring_driver_no_calls(struct ring_driver *d)
{
	if (d->packed)
		driver_event(d)->flags = VRING_PACKED_EVENT_FLAG_DISABLE;
	else
		ring_driver_avail(d)->flags = VRING_AVAIL_F_NO_INTERRUPT;
}

void
ring_driver_want_calls(struct ring_driver *d)
{
	if (d->packed)
		driver_event(d)->flags = VRING_PACKED_EVENT_FLAG_ENABLE;
	else
		ring_driver_avail(d)->flags = 0;
}

void
ring_driver_want_call_at(struct ring_driver *d, uint16_t pos, bool wrap)
{
	if (d->packed) {
		driver_event(d)->off_wrap = (uint16_t)(pos | wrap << VRING_PACKED_EVENT_F_WRAP_CTR);
		driver_event(d)->flags = VRING_PACKED_EVENT_FLAG_DESC;
	} else {
		ring_driver_avail(d)->ring[d->num] = pos;
	}
}

bool
ring_driver_kick_wanted(const struct ring_driver *d, uint16_t before)
{
	if (d->packed) {
		const volatile struct vring_packed_desc_event *e = ring_mem_va(d->mem, d->dev);

		if (e->flags != VRING_PACKED_EVENT_FLAG_DESC)
			return e->flags != VRING_PACKED_EVENT_FLAG_DISABLE;
		return (e->off_wrap & 0x7fff) == before;
	}
	if (d->features & RING_FEATURE(VIRTIO_RING_F_EVENT_IDX)) {
		const struct vring_used *used = ring_driver_used_ring(d);
		const void *event = &used->ring[d->num];

		return vring_need_event(*(const uint16_t *)event, d->avail, before);
	}
	return !(ring_driver_used_ring(d)->flags & VRING_USED_F_NO_NOTIFY);
}

bool
ring_driver_kick_since(const struct ring_driver *d, uint16_t avail, bool wrap)
{
	/* What was posted is visible before the device's wish is read (virtio 1.2, 2.7.13.4.1). */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (d->packed) {
		const volatile struct vring_packed_desc_event *e = ring_mem_va(d->mem, d->dev);
		uint16_t flags = e->flags, off_wrap = e->off_wrap, event = off_wrap & 0x7fff;

		if (flags != VRING_PACKED_EVENT_FLAG_DESC)
			return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
		/* Positions as one free-running number: those of the lap before lie below. */
		if ((off_wrap >> VRING_PACKED_EVENT_F_WRAP_CTR) != d->avail_wrap)
			event = (uint16_t)(event - d->num);
		if (wrap != d->avail_wrap)
			avail = (uint16_t)(avail - d->num);
		return vring_need_event(event, d->avail, avail);
	}
	return ring_driver_kick_wanted(d, avail);
}
