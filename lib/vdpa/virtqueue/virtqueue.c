/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Virtqueues as a device has them: life cycle, the parts of a chain, and dispatch to the layout.
 * Owns struct vdpa_virtqueue and its reference on the memory table. The layout is a flag tested at
 * each call, not a function pointer: the branch is predicted and the callee a tail call.
 */

#include <numa.h>
#include <stdlib.h>

#include <linux/virtio_config.h>

#include <rte_prefetch.h>

#include "counter.h"
#include "vdpa_event.h"
#include "virtqueue_priv.h"

struct vdpa_virtqueue *
vdpa_vq_alloc(int numa_node)
{
	bool from_numa = numa_node >= 0 && numa_available() >= 0 && numa_node <= numa_max_node();
	struct vdpa_virtqueue *vq;

	if (from_numa)
		vq = numa_alloc_onnode(sizeof(*vq), numa_node);
	else
		vq = aligned_alloc(_Alignof(struct vdpa_virtqueue), sizeof(*vq));
	if (vq == NULL)
		return NULL;
	memset(vq, 0, sizeof(*vq));
	vq->from_numa = from_numa;
	vq->call_fd = -1;
	vq->used_iova = UINT64_MAX;
	vq->reason = "";
	return vq;
}

void
vdpa_vq_free(struct vdpa_virtqueue *vq)
{
	if (vq == NULL)
		return;
	vdpa_vq_teardown(vq);
	if (vq->from_numa)
		numa_free(vq, sizeof(*vq));
	else
		free(vq);
}

/* Sizes and alignments: virtio 1.2, 2.7 and 2.8.10. */
static int
vq_check_params(struct vdpa_virtqueue *vq, const struct vdpa_vq_params *params)
{
	const bool packed = (params->features >> VIRTIO_F_RING_PACKED) & 1;

	if (params->num == 0 || params->num > VDPA_VQ_NUM_MAX)
		return vdpa_vq_bad(vq, EINVAL, "virtqueue size not within 1 to 32768");
	if (!packed && (params->num & (params->num - 1)) != 0)
		return vdpa_vq_bad(vq, EINVAL, "size of a split virtqueue not a power of two");
	if ((params->desc & 15) != 0)
		return vdpa_vq_bad(vq, EINVAL, "descriptor area not aligned to 16 bytes");
	if ((params->driver & (packed ? 3 : 1)) != 0)
		return vdpa_vq_bad(vq, EINVAL, "driver area not aligned");
	if ((params->device & 3) != 0)
		return vdpa_vq_bad(vq, EINVAL, "device area not aligned");
	return 0;
}

static int
vq_map(struct vdpa_virtqueue *vq, struct vdpa_iotlb *tlb)
{
	vq->fault_seen = vdpa_fault_seen();
	if (vdpa_iotlb_faulted(tlb))
		return vdpa_vq_bad(vq, EFAULT, "guest memory was taken away");
	vq->region.size = 0;
	return vq->packed ? vdpa_vq_packed_map(vq, tlb) : vdpa_vq_split_map(vq, tlb);
}

int
vdpa_vq_setup(struct vdpa_virtqueue *vq, const struct vdpa_vq_params *params,
	      struct vdpa_iotlb *tlb)
{
	struct vdpa_vq_state state = params->state;
	int ret;

	vdpa_vq_teardown(vq);
	ret = vq_check_params(vq, params);
	if (ret < 0)
		return ret;
	vq->packed = (params->features >> VIRTIO_F_RING_PACKED) & 1;
	vq->event_idx = (params->features >> VIRTIO_RING_F_EVENT_IDX) & 1;
	vq->indirect = (params->features >> VIRTIO_RING_F_INDIRECT_DESC) & 1;
	vq->by_iova = params->by_iova;
	vq->num = params->num;
	vq->desc_iova = params->desc;
	vq->driver_iova = params->driver;
	vq->device_iova = params->device;
	vq->pending = 0;
	vq->unsignalled = 0;
	vq->signalled_valid = false;
	vq->kicks_off = false;
	vq->abandoned = vq->counters.popped - vq->counters.pushed;

	ret = tlb != NULL ? vq_map(vq, tlb) : vdpa_vq_bad(vq, EFAULT, "no memory table");
	if (ret < 0)
		return ret;
	if (params->inflight.addr != NULL) {
		ret = vdpa_vq_tracker_create(vq, &params->inflight, &state);
		if (ret < 0)
			return ret;
	}
	ret = vq->packed ? vdpa_vq_packed_setup(vq, &state) : vdpa_vq_split_setup(vq, &state);
	if (ret < 0) {
		vdpa_vq_tracker_free(vq->tracker);
		vq->tracker = NULL;
		return ret;
	}
	vq->tlb = vdpa_iotlb_get(tlb);
	vq->reason = "";
	vq->status = VDPA_VQ_RUNNING;
	return 0;
}

void
vdpa_vq_teardown(struct vdpa_virtqueue *vq)
{
	vq->status = VDPA_VQ_IDLE;
	vdpa_vq_tracker_free(vq->tracker);
	vq->tracker = NULL;
	vdpa_iotlb_put(vq->tlb);
	vq->tlb = NULL;
}

int
vdpa_vq_set_iotlb(struct vdpa_virtqueue *vq, struct vdpa_iotlb *tlb)
{
	int ret;

	if (vq->status != VDPA_VQ_RUNNING)
		return vq->status;
	ret = tlb != NULL ? vq_map(vq, tlb) : vdpa_vq_bad(vq, EFAULT, "no memory table");
	if (ret < 0) {
		vq->status = ret;
		return ret;
	}
	vdpa_iotlb_get(tlb);
	vdpa_iotlb_put(vq->tlb);
	vq->tlb = tlb;
	return 0;
}

bool
vdpa_vq_is_ready(const struct vdpa_virtqueue *vq)
{
	return vq->status == VDPA_VQ_RUNNING;
}

int
vdpa_vq_get_state(const struct vdpa_virtqueue *vq, struct vdpa_vq_state *state)
{
	if (vq->num == 0)
		return -EINVAL;
	if (vdpa_vq_outstanding(vq) != 0 && vq->tracker == NULL)
		return -EBUSY;
	memset(state, 0, sizeof(*state));
	if (vq->packed) {
		state->packed.last_avail_idx = vq->last_avail;
		state->packed.last_avail_counter = vq->avail_wrap;
		state->packed.last_used_idx = vq->last_used;
		state->packed.last_used_counter = vq->used_wrap;
	} else {
		state->split.avail_index = vq->last_avail;
	}
	return 0;
}

const char *
vdpa_vq_error(const struct vdpa_virtqueue *vq)
{
	return vq->status == VDPA_VQ_RUNNING ? "" : vq->reason;
}

void
vdpa_vq_set_call(struct vdpa_virtqueue *vq, int fd)
{
	vq->call_fd = fd;
}

void
vdpa_vq_set_log(struct vdpa_virtqueue *vq, const struct vdpa_dirty_log *log, uint64_t used_iova)
{
	vq->log = log;
	vq->used_iova = used_iova;
}

int
vdpa_vq_check_fault_slow(struct vdpa_virtqueue *vq)
{
	uint64_t seen = vdpa_fault_seen();

	if (vdpa_iotlb_faulted(vq->tlb))
		return vdpa_vq_bad(vq, EFAULT, "guest memory was taken away");
	vq->fault_seen = seen;
	return 0;
}

/* Our address of iova, cutting *len at the end of its region. NULL when there is none, or none to
 * write to. */
static void *
vq_translate(struct vdpa_virtqueue *vq, uint64_t iova, uint64_t *len, bool write)
{
	uint64_t off = iova - vq->region.iova;

	if (unlikely(off >= vq->region.size)) {
		const struct vdpa_iotlb *tlb = vq->tlb;
		const struct vdpa_mem_region *r;

		if (tlb->n == 0)
			return NULL;
		r = tlb->regions[vdpa_iotlb_index(tlb, iova)];
		off = iova - r->iova;
		if (off >= r->size || (write && r->readonly))
			return NULL;
		/* What is found without a search may be written to. */
		if (r->readonly) {
			*len = RTE_MIN(*len, r->size - off);
			return r->va + off;
		}
		vq->region.iova = r->iova;
		vq->region.size = r->size;
		vq->region.va = r->va;
		vq->region.base = vq->by_iova ? (uint8_t *)(uintptr_t)r->iova : r->va;
	}
	*len = RTE_MIN(*len, vq->region.size - off);
	return vq->region.va + off;
}

int
vdpa_vq_parts_add(struct vdpa_virtqueue *vq, struct vdpa_vq_parts *p, uint64_t iova, uint32_t len,
		  bool write)
{
	uint64_t left = len;

	if (write)
		p->in_seen = true;
	else if (unlikely(p->in_seen))
		return vdpa_vq_bad(vq, EPROTO, "readable descriptor after a writable one");
	if (unlikely(p->out_len + p->in_len + left > UINT32_MAX))
		return vdpa_vq_bad(vq, EPROTO, "chain of 4 GiB or more");
	if (write && p->in_len == 0)
		p->in_iova = iova;
	*(write ? &p->in_len : &p->out_len) += left;
	while (left > 0) {
		uint64_t got = left;
		void *va = vq_translate(vq, iova, &got, write);

		if (unlikely(va == NULL))
			return vdpa_vq_bad(vq, EFAULT, "descriptor outside memory");
		if (unlikely(write && p->to_log > 0)) {
			vdpa_dirty_log_mark(vq->log, iova, RTE_MIN(p->to_log, got));
			p->to_log -= RTE_MIN(p->to_log, got);
		}
		if (likely(p->nout + p->nin < p->max)) {
			p->iov[p->nout + p->nin].iov_base =
				vq->by_iova ? (void *)(uintptr_t)iova : va;
			p->iov[p->nout + p->nin].iov_len = got;
			*(write ? &p->nin : &p->nout) += 1;
		} else {
			p->too_many = true;
		}
		iova += got;
		left -= got;
	}
	return 0;
}

/* One entry of an indirect table, which may be unaligned and cross regions: read it only once. */
static int
vq_read_indirect(struct vdpa_virtqueue *vq, uint64_t iova, struct vdpa_vq_desc *d)
{
	uint8_t raw[sizeof(*d)];
	uint64_t got = sizeof(*d);
	const volatile uint8_t *p = vq_translate(vq, iova, &got, false);

	if (likely(p != NULL && got == sizeof(*d) && ((uintptr_t)p & 7) == 0)) {
		*d = vdpa_vq_desc_read((const struct vdpa_vq_desc *)(uintptr_t)p);
		return 0;
	}
	for (size_t i = 0; i < sizeof(raw); i++) {
		got = 1;
		p = vq_translate(vq, iova + i, &got, false);
		if (p == NULL)
			return vdpa_vq_bad(vq, EFAULT, "indirect table outside memory");
		raw[i] = *p;
	}
	memcpy(d, raw, sizeof(*d));
	d->addr = rte_le_to_cpu_64(d->addr);
	d->word = rte_le_to_cpu_64(d->word);
	return 0;
}

int
vdpa_vq_parts_add_indirect(struct vdpa_virtqueue *vq, struct vdpa_vq_parts *p, uint64_t iova,
			   uint32_t len)
{
	const uint32_t n = len / sizeof(struct vdpa_vq_desc);
	const unsigned int flags_shift = vq->packed ? 48 : 32;
	uint32_t i = 0;

	if (!vq->indirect)
		return vdpa_vq_bad(vq, EPROTO, "indirect descriptor without the feature");
	if (n == 0 || len % sizeof(struct vdpa_vq_desc) != 0)
		return vdpa_vq_bad(vq, EPROTO, "indirect table of a bad length");
	if (n > VDPA_VQ_NUM_MAX)
		return vdpa_vq_bad(vq, EPROTO, "indirect table too long");
	for (uint32_t left = n; left > 0; left--) {
		struct vdpa_vq_desc d;
		uint16_t flags;
		int ret = vq_read_indirect(vq, iova + (uint64_t)i * sizeof(d), &d);

		if (ret < 0)
			return ret;
		flags = (uint16_t)(d.word >> flags_shift);
		if (flags & VRING_DESC_F_INDIRECT)
			return vdpa_vq_bad(vq, EPROTO, "indirect table within an indirect table");
		ret = vdpa_vq_parts_add(vq, p, d.addr, (uint32_t)d.word,
					flags & VRING_DESC_F_WRITE);
		if (ret < 0)
			return ret;
		if (vq->packed) {
			/* All entries, in order; next has no meaning (virtio 1.2, 2.8.7). */
			i++;
			continue;
		}
		if (!(flags & VRING_DESC_F_NEXT)) {
			vq->walked += n - left + 1;
			return 0;
		}
		i = (uint32_t)(d.word >> 48);
		if (i >= n)
			return vdpa_vq_bad(vq, EPROTO, "descriptor index outside indirect table");
	}
	vq->walked += n;
	return vq->packed ? 0 : vdpa_vq_bad(vq, EPROTO, "descriptor loop in an indirect table");
}

static int
vq_resubmit(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chains, unsigned int n)
{
	const uint64_t begun = vq->walked;
	unsigned int i;

	for (i = 0; i < n && vdpa_vq_tracker_left(vq) > 0 && !vdpa_vq_burst_ends(vq, begun); i++) {
		int ret = vdpa_vq_tracker_resubmit(vq, &chains[i]);

		if (ret == -EMSGSIZE && i > 0) {
			vdpa_vq_rewind(vq, &chains[i].taken);
			break;
		}
		if (ret < 0)
			return i > 0 ? (int)i : ret;
	}
	return (int)i;
}

int
vdpa_vq_pop_burst(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chains, unsigned int n)
{
	int ret, err;

	if (unlikely(vq->status != VDPA_VQ_RUNNING || n == 0))
		return n == 0 ? 0 : vq->status;
	if (unlikely(vq->tracker != NULL && vdpa_vq_tracker_left(vq) > 0))
		ret = vq_resubmit(vq, chains, n);
	else if (vq->packed)
		ret = vdpa_vq_packed_pop(vq, chains, n);
	else
		ret = vdpa_vq_split_pop(vq, chains, n);
	/* After the reads: what came from a page that was lost is zeroes, not the driver's. */
	err = vdpa_vq_check_fault(vq);
	if (unlikely(err < 0))
		ret = err;
	if (unlikely(ret < 0 && ret != -EMSGSIZE))
		vq->status = ret;
	return ret;
}

unsigned int
vdpa_vq_pop_plain(struct vdpa_virtqueue *vq, struct vdpa_vq_plain *chains, unsigned int n,
		  bool *other)
{
	int err;

	*other = true;
	if (unlikely(vq->status != VDPA_VQ_RUNNING || vq->tracker != NULL || n == 0))
		return 0;
	n = vq->packed ? vdpa_vq_packed_pop_plain(vq, chains, n, other)
		       : vdpa_vq_split_pop_plain(vq, chains, n, other);
	err = vdpa_vq_check_fault(vq);
	if (likely(err == 0))
		return n;
	vq->status = err;
	*other = true;
	return 0;
}

int
vdpa_vq_pop(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain)
{
	return vdpa_vq_pop_burst(vq, chain, 1);
}

int
vdpa_vq_pass(struct vdpa_virtqueue *vq, uint16_t *heads, unsigned int n)
{
	int ret, err;

	if (unlikely(vq->status != VDPA_VQ_RUNNING))
		return vq->status;
	ret = vq->packed ? vdpa_vq_bad(vq, EPROTO, "a packed ring's chains cannot be passed unread")
			 : vdpa_vq_split_pass(vq, heads, n);
	err = vdpa_vq_check_fault(vq);
	if (unlikely(err < 0))
		ret = err;
	if (unlikely(ret < 0))
		vq->status = ret;
	return ret;
}

int
vdpa_vq_passed_used(struct vdpa_virtqueue *vq, uint16_t head, uint32_t *written, bool whole)
{
	struct vdpa_vq_parts p = {0};
	int ret, err;

	if (unlikely(vq->status != VDPA_VQ_RUNNING))
		return vq->status;
	if (vq->log != NULL)
		p.to_log = whole ? UINT64_MAX : *written;
	ret = vdpa_vq_split_walk(vq, &p, head);
	err = vdpa_vq_check_fault(vq);
	if (unlikely(err < 0))
		ret = err;
	if (unlikely(ret < 0)) {
		vq->status = ret;
		return ret;
	}
	if (*written == UINT32_MAX)
		*written = (uint32_t)p.in_len;
	return *written <= p.in_len ? 0 : -EMSGSIZE;
}

uint32_t
vdpa_vq_to_beginning(const struct vdpa_virtqueue *vq)
{
	uint32_t left = vq->num - vq->last_avail;

	if (!vq->packed)
		return (uint16_t)-vq->last_avail;
	if (!vq->avail_wrap)
		return left;
	return vq->last_avail == 0 ? 0 : left + vq->num;
}

uint16_t
vdpa_vq_popped_since(const struct vdpa_virtqueue *vq, const struct vdpa_vq_taken *from)
{
	return (uint16_t)((uint16_t)vq->counters.popped - from->seq);
}

void
vdpa_vq_rewind(struct vdpa_virtqueue *vq, const struct vdpa_vq_taken *from)
{
	uint16_t n = vdpa_vq_popped_since(vq, from);

	if (vq->status != VDPA_VQ_RUNNING || n == 0)
		return;
	if (vq->tracker == NULL || !vdpa_vq_tracker_rewind(vq, n)) {
		if (vq->packed)
			vdpa_vq_packed_set_avail(vq, from->slot & 0x7fff, from->slot >> 15);
		else
			vq->last_avail = from->slot;
	}
	__atomic_store_n(&vq->counters.popped, vq->counters.popped - n, __ATOMIC_RELAXED);
}

uint64_t
vdpa_vq_walked(const struct vdpa_virtqueue *vq)
{
	return vq->walked;
}

unsigned int
vdpa_vq_avail(struct vdpa_virtqueue *vq)
{
	if (vq->status != VDPA_VQ_RUNNING)
		return 0;
	if (unlikely(vq->tracker != NULL && vdpa_vq_tracker_left(vq) > 0))
		return vdpa_vq_tracker_left(vq);
	return vq->packed ? vdpa_vq_packed_avail(vq) : vdpa_vq_split_avail(vq);
}

void
vdpa_vq_log_chain(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chain, uint32_t written)
{
	uint64_t left = written;

	for (uint16_t i = 0; i < chain->nin && left > 0; i++) {
		const struct iovec *v = &chain->iov[chain->nout + i];
		uint64_t len = RTE_MIN((uint64_t)v->iov_len, left);
		const uint8_t *va = v->iov_base;

		/* Only the first buffer's IOVA is kept; the table knows the others. */
		for (uint32_t j = 0; i > 0 && j < vq->tlb->n; j++) {
			const struct vdpa_mem_region *r = vq->tlb->regions[j];

			if ((uintptr_t)va - (uintptr_t)r->va < r->size)
				vdpa_dirty_log_mark(vq->log, r->iova + (uint64_t)(va - r->va), len);
		}
		if (i == 0)
			vdpa_dirty_log_mark(vq->log, chain->in_iova, len);
		left -= len;
	}
}

static void
vq_push(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chains, const uint32_t *written,
	unsigned int n)
{
	if (vq->packed)
		vdpa_vq_packed_push(vq, chains, written, n);
	else
		vdpa_vq_split_push(vq, chains, written, n);
	vdpa_vq_count(&vq->counters.pushed, n);
}

/* A push that is logged or tracked. */
static void
vq_push_noted(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chain, uint32_t written)
{
	if (vq->log != NULL && !vq->by_iova)
		vdpa_vq_log_chain(vq, chain, written);
	if (vq->tracker != NULL) {
		/*
		 * A packed batch leaves used descriptors in the ring behind its first one. A kill
		 * before that one is published would have them resubmitted and seen as used too.
		 */
		if (vq->packed)
			vdpa_vq_flush(vq);
		vdpa_vq_tracker_pushed(vq, chain->entry);
	}
	vq_push(vq, chain, &written, 1);
}

void
vdpa_vq_push_burst(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chains,
		   const uint32_t *written, unsigned int n)
{
	if (unlikely(vq->status != VDPA_VQ_RUNNING || n == 0))
		return;
	if (likely(vq->log == NULL && vq->tracker == NULL)) {
		vq_push(vq, chains, written, n);
		return;
	}
	for (unsigned int i = 0; i < n; i++)
		vq_push_noted(vq, &chains[i], written != NULL ? written[i] : 0);
}

void
vdpa_vq_push_taken(struct vdpa_virtqueue *vq, const struct vdpa_vq_taken *taken, const uint16_t *at,
		   const uint32_t *written, unsigned int n)
{
	/* Of a packed ring with a tracker one by one: see vq_push_noted(). */
	const unsigned int step = vq->tracker != NULL ? 1 : n;

	if (unlikely(vq->status != VDPA_VQ_RUNNING))
		return;
	for (; n > 0; n -= step, at += step, written += step) {
		if (unlikely(vq->tracker != NULL)) {
			if (vq->packed)
				vdpa_vq_flush(vq);
			vdpa_vq_tracker_pushed(vq, taken[at[0]].entry);
		}
		if (vq->packed)
			vdpa_vq_packed_push_taken(vq, taken, at, written, step);
		else
			vdpa_vq_split_push_taken(vq, taken, at, written, step);
		vdpa_vq_count(&vq->counters.pushed, step);
	}
}

unsigned int
vdpa_vq_push_passed(struct vdpa_virtqueue *vq, const uint16_t *heads, const uint32_t *written,
		    unsigned int n, bool whole)
{
	int err;

	if (unlikely(vq->status != VDPA_VQ_RUNNING || vq->packed))
		return 0;
	n = vdpa_vq_split_push_passed(vq, heads, written, n, whole);
	vdpa_vq_count(&vq->counters.pushed, n);
	/* What was pushed is never flushed then, and the caller learns of it by the next call. */
	err = vdpa_vq_check_fault(vq);
	if (unlikely(err < 0))
		vq->status = err;
	return n;
}

void
vdpa_vq_push(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chain, uint32_t written)
{
	vdpa_vq_push_burst(vq, chain, &written, 1);
}

void
vdpa_vq_prefetch_avail(const struct vdpa_virtqueue *vq)
{
	if (unlikely(vq->status != VDPA_VQ_RUNNING))
		return;
	if (vq->packed) {
		rte_prefetch0(&vq->desc[vq->last_avail]);
	} else {
		rte_prefetch0(vq->avail);
		rte_prefetch0(&vq->avail->ring[vq->last_avail & (vq->num - 1)]);
	}
}

void
vdpa_vq_prefetch_used(const struct vdpa_virtqueue *vq, unsigned int n)
{
	if (unlikely(vq->status != VDPA_VQ_RUNNING || n == 0))
		return;
	if (vq->packed)
		vdpa_vq_packed_prefetch_used(vq, n);
	else
		vdpa_vq_split_prefetch_used(vq, n);
}

void
vdpa_vq_flush(struct vdpa_virtqueue *vq)
{
	if (vq->status != VDPA_VQ_RUNNING || vq->pending == 0)
		return;
	if (unlikely(vq->tracker != NULL))
		vdpa_vq_tracker_flush_begin(vq);
	if (vq->packed)
		vdpa_vq_packed_flush(vq);
	else
		vdpa_vq_split_flush(vq);
	if (unlikely(vq->tracker != NULL))
		vdpa_vq_tracker_flush_end(vq);
	vq->pending = 0;
}

bool
vdpa_vq_notify(struct vdpa_virtqueue *vq)
{
	bool wanted;

	if (vq->status != VDPA_VQ_RUNNING || vq->unsignalled == 0)
		return false;
	if (vq->call_fd < 0) {
		/* Kept for an fd that comes later; so much always means a signal. */
		vq->unsignalled = RTE_MIN(vq->unsignalled, (uint32_t)UINT16_MAX + 1);
		return false;
	}
	wanted = vq->packed ? vdpa_vq_packed_wants_call(vq) : vdpa_vq_split_wants_call(vq);
	vq->unsignalled = 0;
	vq->signalled_valid = true;
	if (!wanted)
		return false;
	vdpa_eventfd_signal(vq->call_fd);
	vdpa_counter_add(&vq->counters.calls, 1);
	return true;
}

bool
vdpa_vq_enable_kicks(struct vdpa_virtqueue *vq)
{
	if (vq->status != VDPA_VQ_RUNNING)
		return false;
	vq->kicks_off = false;
	if (unlikely(vq->tracker != NULL && vdpa_vq_tracker_left(vq) > 0))
		return true;
	return vq->packed ? vdpa_vq_packed_enable_kicks(vq) : vdpa_vq_split_enable_kicks(vq);
}

void
vdpa_vq_disable_kicks(struct vdpa_virtqueue *vq)
{
	/* The device area is the driver's cache line too: write it only for a change. */
	if (vq->status != VDPA_VQ_RUNNING || vq->kicks_off)
		return;
	vq->kicks_off = true;
	if (vq->packed)
		vdpa_vq_packed_disable_kicks(vq);
	else
		vdpa_vq_split_disable_kicks(vq);
}

void
vdpa_vq_counters(const struct vdpa_virtqueue *vq, struct vdpa_vq_counters *c)
{
	c->popped = __atomic_load_n(&vq->counters.popped, __ATOMIC_RELAXED);
	c->pushed = __atomic_load_n(&vq->counters.pushed, __ATOMIC_RELAXED);
	c->calls = __atomic_load_n(&vq->counters.calls, __ATOMIC_RELAXED);
}
