/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file virtqueue_priv.h
 * Internal: the virtqueue itself, and what split.c, packed.c and inflight.c share.
 */

#ifndef VDPA_VIRTQUEUE_PRIV_H
#define VDPA_VIRTQUEUE_PRIV_H

#include <errno.h>
#include <string.h>
#include <linux/virtio_ring.h>

#include <rte_branch_prediction.h>
#include <rte_byteorder.h>
#include <rte_common.h>

#include "fault.h"
#include "vdpa_virtqueue.h"

/**
 * A descriptor of either layout as two words, so that each is one load: addr, and
 * split: len (bits 0 to 31), flags (32 to 47), next (48 to 63);
 * packed: len (bits 0 to 31), id (32 to 47), flags (48 to 63).
 */
struct vdpa_vq_desc {
	uint64_t addr;
	uint64_t word;
};
_Static_assert(sizeof(struct vdpa_vq_desc) == 16, "virtio 1.2, 2.7.5 and 2.8.13");

/** Read from guest memory: addr and word in CPU order. */
static inline struct vdpa_vq_desc
vdpa_vq_desc_read(const struct vdpa_vq_desc *p)
{
	return (struct vdpa_vq_desc){
		.addr = rte_le_to_cpu_64(__atomic_load_n(&p->addr, __ATOMIC_RELAXED)),
		.word = rte_le_to_cpu_64(__atomic_load_n(&p->word, __ATOMIC_RELAXED)),
	};
}

enum vdpa_vq_status {
	VDPA_VQ_IDLE = 0,    /* not set up */
	VDPA_VQ_RUNNING = 1, /* a negative value: broken, that errno */
};

struct vdpa_vq_tracker; /* inflight.c */

struct vdpa_virtqueue {
	/* Read by every burst. */
	int status;
	bool packed;
	bool event_idx;
	bool indirect;
	bool kicks_off;
	uint32_t num;
	struct vdpa_vq_desc *desc;
	union {
		struct vring_avail *avail; /* split */
		uint32_t *driver_event;	   /* packed: off_wrap, flags << 16 */
	};
	union {
		struct vring_used *used;
		uint32_t *device_event;
	};
	/* The region that the last buffer lay in. */
	uint64_t region_iova;
	uint64_t region_size;
	uint8_t *region_va;

	/* Progress, written by every burst. */
	struct {
		uint16_t last_avail;   /* split: free-running; packed: position */
		uint16_t shadow_avail; /* split: the driver's index as last read */
		uint16_t last_used;    /* with what is pushed and not flushed */
		uint16_t pending;      /* pushed, not flushed: chains */
		uint16_t pending_pos;  /* packed: position of the first pending */
		uint16_t avail_want;   /* packed: flag bits of an available descriptor */
		bool avail_wrap;       /* packed */
		bool used_wrap;	       /* packed, goes with last_used */
		bool pending_wrap;     /* packed, goes with pending_pos */
		bool signalled_valid;  /* a signal was decided since set-up */
		uint32_t unsignalled;  /* split: chains, packed: slots flushed since */
		uint64_t pending_word; /* packed: second word of the first pending, held back */
	};
	struct vdpa_vq_counters counters;
	uint64_t abandoned;  /* chains popped and never pushed in former lives */
	uint64_t fault_seen; /* vdpa_fault_count when the table was last looked through */

	/* Seldom. */
	struct vdpa_iotlb *tlb;
	const struct vdpa_dirty_log *log;
	uint64_t used_iova; /* log address of the device area; UINT64_MAX: not logged */
	struct vdpa_vq_tracker *tracker;
	uint64_t desc_iova, driver_iova, device_iova;
	const char *reason;
	int call_fd;
	bool from_numa;
} __rte_cache_aligned;

/** Chains popped in this life and not flushed yet. */
static inline uint32_t
vdpa_vq_outstanding(const struct vdpa_virtqueue *vq)
{
	return (uint32_t)(vq->counters.popped - vq->counters.pushed - vq->abandoned) + vq->pending;
}

static inline void
vdpa_vq_count(uint64_t *counter, uint64_t n)
{
	/* One writer; a reader in another thread gets whole values. */
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/** Say why; the caller breaks the virtqueue or goes back. Returns -err. */
static inline int
vdpa_vq_bad(struct vdpa_virtqueue *vq, int err, const char *reason)
{
	vq->reason = reason;
	return -err;
}

/** A fault since the last look: whether it is in our table. */
int vdpa_vq_check_fault_slow(struct vdpa_virtqueue *vq);

static inline int
vdpa_vq_check_fault(struct vdpa_virtqueue *vq)
{
	if (likely(vdpa_fault_seen() == vq->fault_seen))
		return 0;
	return vdpa_vq_check_fault_slow(vq);
}

/** What of a chain is parsed so far. */
struct vdpa_vq_parts {
	struct iovec *iov;
	uint32_t max;
	uint32_t nout;
	uint32_t nin;
	uint64_t out_len;
	uint64_t in_len;
	uint64_t in_iova;
	bool in_seen;  /* a writable descriptor: readable ones are over */
	bool too_many; /* more parts than max: lengths and checks only */
};

static inline void
vdpa_vq_parts_init(struct vdpa_vq_parts *p, const struct vdpa_vq_chain *chain)
{
	memset(p, 0, sizeof(*p));
	p->iov = chain->iov;
	p->max = chain->iov_max;
}

/** Add one buffer. 0 or a negative errno. */
int vdpa_vq_parts_add(struct vdpa_virtqueue *vq, struct vdpa_vq_parts *p, uint64_t iova,
		      uint32_t len, bool write);

/** Add the buffers of an indirect table. 0 or a negative errno. */
int vdpa_vq_parts_add_indirect(struct vdpa_virtqueue *vq, struct vdpa_vq_parts *p, uint64_t iova,
			       uint32_t len);

/** To the chain: 1 or -EMSGSIZE. */
static inline int
vdpa_vq_parts_done(const struct vdpa_vq_parts *p, struct vdpa_vq_chain *chain)
{
	chain->out_len = (uint32_t)p->out_len;
	chain->in_len = (uint32_t)p->in_len;
	chain->in_iova = p->in_iova;
	if (unlikely(p->too_many)) {
		chain->nout = 0;
		chain->nin = 0;
		return -EMSGSIZE;
	}
	chain->nout = (uint16_t)p->nout;
	chain->nin = (uint16_t)p->nin;
	return 1;
}

/** A chain of one plain descriptor within the last region; false: take the long way. */
static inline bool
vdpa_vq_single(const struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain, uint64_t iova,
	       uint32_t len, bool write)
{
	uint64_t off = iova - vq->region_iova;

	if (unlikely(off >= vq->region_size || len > vq->region_size - off || len == 0 ||
		     chain->iov_max == 0))
		return false;
	chain->iov[0].iov_base = vq->region_va + off;
	chain->iov[0].iov_len = len;
	chain->nout = !write;
	chain->nin = write;
	chain->out_len = write ? 0 : len;
	chain->in_len = write ? len : 0;
	chain->in_iova = iova;
	return true;
}

/** Log the written part of a chain. */
void vdpa_vq_log_chain(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chain,
		       uint32_t written);

/** Log a write to the ring itself: at `offset` of the area whose log address is `iova`. */
static inline void
vdpa_vq_log_ring(struct vdpa_virtqueue *vq, uint64_t iova, uint64_t offset, uint64_t len)
{
	if (vq->used_iova != UINT64_MAX)
		vdpa_dirty_log_mark(vq->log, iova + offset, len);
}

/* split.c and packed.c; vq->status is RUNNING. */

int vdpa_vq_split_setup(struct vdpa_virtqueue *vq, const struct vdpa_vq_state *state);
int vdpa_vq_split_map(struct vdpa_virtqueue *vq, struct vdpa_iotlb *tlb);
int vdpa_vq_split_pop(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chains, unsigned int n);
/** A chain again whose head an inflight area has. */
int vdpa_vq_split_parse(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain, uint16_t head);
unsigned int vdpa_vq_split_avail(struct vdpa_virtqueue *vq);
void vdpa_vq_split_push(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chains,
			const uint32_t *written, unsigned int n);
void vdpa_vq_split_prefetch_used(const struct vdpa_virtqueue *vq, unsigned int n);
void vdpa_vq_split_flush(struct vdpa_virtqueue *vq);
bool vdpa_vq_split_wants_call(struct vdpa_virtqueue *vq);
bool vdpa_vq_split_enable_kicks(struct vdpa_virtqueue *vq);
void vdpa_vq_split_disable_kicks(struct vdpa_virtqueue *vq);

int vdpa_vq_packed_setup(struct vdpa_virtqueue *vq, const struct vdpa_vq_state *state);
int vdpa_vq_packed_map(struct vdpa_virtqueue *vq, struct vdpa_iotlb *tlb);
int vdpa_vq_packed_pop(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chains, unsigned int n);
/** Add one ring descriptor of a chain. 0 or a negative errno. */
int vdpa_vq_packed_add(struct vdpa_virtqueue *vq, struct vdpa_vq_parts *p, struct vdpa_vq_desc d);
unsigned int vdpa_vq_packed_avail(struct vdpa_virtqueue *vq);
void vdpa_vq_packed_push(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chains,
			 const uint32_t *written, unsigned int n);
void vdpa_vq_packed_prefetch_used(const struct vdpa_virtqueue *vq, unsigned int n);
void vdpa_vq_packed_flush(struct vdpa_virtqueue *vq);
bool vdpa_vq_packed_wants_call(struct vdpa_virtqueue *vq);
bool vdpa_vq_packed_enable_kicks(struct vdpa_virtqueue *vq);
void vdpa_vq_packed_disable_kicks(struct vdpa_virtqueue *vq);
void vdpa_vq_packed_set_avail(struct vdpa_virtqueue *vq, uint16_t pos, bool wrap);

/* inflight.c: only with vq->tracker. */

/**
 * Recover what the area says, or initialise it, and correct the state: where the next chain is
 * fetched. The ring is mapped. 0 or a negative errno.
 */
int vdpa_vq_tracker_create(struct vdpa_virtqueue *vq, const struct vdpa_vq_inflight *inflight,
			   struct vdpa_vq_state *state);
void vdpa_vq_tracker_free(struct vdpa_vq_tracker *t);
/** The next chain to submit again; as vdpa_vq_pop(), 0 when there is none left. */
int vdpa_vq_tracker_resubmit(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain);
unsigned int vdpa_vq_tracker_left(const struct vdpa_virtqueue *vq);
/** Packed: keep the n-th descriptor of the chain that is being parsed. 0 or a negative errno. */
int vdpa_vq_tracker_keep(struct vdpa_virtqueue *vq, uint16_t n, struct vdpa_vq_desc d);
/** The chain was taken from the ring. */
void vdpa_vq_tracker_popped(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain);
void vdpa_vq_tracker_pushed(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chain);
/** Before the used index or flags are written, and after. */
void vdpa_vq_tracker_flush_begin(struct vdpa_virtqueue *vq);
void vdpa_vq_tracker_flush_end(struct vdpa_virtqueue *vq);
/**
 * The last n chains popped go back. Returns whether the oldest came from the area: then the ring
 * position was set too.
 */
bool vdpa_vq_tracker_rewind(struct vdpa_virtqueue *vq, uint16_t n);

#endif /* VDPA_VIRTQUEUE_PRIV_H */
