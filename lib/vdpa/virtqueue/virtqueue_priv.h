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

/** A burst ends with the chain that takes it over so many descriptors. */
#define VDPA_VQ_BURST_DESCS 4096

enum vdpa_vq_status {
	VDPA_VQ_IDLE = 0,    /* not set up */
	VDPA_VQ_RUNNING = 1, /* a negative value: broken, that errno */
};

struct vdpa_vq_tracker; /* inflight.c */

/** Memory that may be written to. A burst has a copy of it, which stays in registers. */
struct vdpa_vq_region {
	uint64_t iova, size;
	uint8_t *va;
	uint8_t *base; /**< what a buffer at iova is given as */
};

struct vdpa_virtqueue {
	/* Read by every burst. */
	int status;
	bool packed;
	bool event_idx;
	bool indirect;
	bool kicks_off;
	bool by_iova;
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
	struct vdpa_vq_region region; /* that the last buffer lay in */

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
		uint64_t walked;       /* descriptors of chains that were not one plain buffer */
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

/** What is to be kept of a chain, as one word, so that it is copied by one load. */
#if RTE_BYTE_ORDER == RTE_LITTLE_ENDIAN
#define VDPA_VQ_NOTE(id, ndesc, slot, seq)                                                         \
	((uint64_t)(id) | (uint64_t)(ndesc) << 16 | (uint64_t)(slot) << 32 | (uint64_t)(seq) << 48)
#else
#define VDPA_VQ_NOTE(id, ndesc, slot, seq)                                                         \
	((uint64_t)(seq) | (uint64_t)(slot) << 16 | (uint64_t)(ndesc) << 32 | (uint64_t)(id) << 48)
#endif

static inline void
vdpa_vq_note(struct vdpa_vq_chain *chain, uint16_t id, uint16_t ndesc, uint16_t slot, uint16_t seq)
{
	chain->taken.word = VDPA_VQ_NOTE(id, ndesc, slot, seq);
}

/** How many of n chains can be noted by adding VDPA_VQ_NOTE(0, 0, 1, 1): neither number wraps. */
static inline unsigned int
vdpa_vq_note_max(unsigned int n, uint16_t slot, uint16_t seq)
{
	n = RTE_MIN(n, (unsigned int)UINT16_MAX - slot);
	return RTE_MIN(n, (unsigned int)UINT16_MAX - seq);
}

/** Whether a burst that began with so many has walked enough. */
static inline bool
vdpa_vq_burst_ends(const struct vdpa_virtqueue *vq, uint64_t begun)
{
	return vq->walked - begun > VDPA_VQ_BURST_DESCS;
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
	uint64_t to_log; /* bytes of the writable part to log as they are added */
	bool in_seen;	 /* a writable descriptor: readable ones are over */
	bool too_many;	 /* more parts than max: lengths and checks only */
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

/** A chain of one plain descriptor within the region; false: take the long way. */
static inline bool
vdpa_vq_single(const struct vdpa_vq_region *region, struct vdpa_vq_chain *chain, uint64_t iova,
	       uint32_t len, bool write)
{
	const uint64_t off = iova - region->iova;
	struct iovec *v = chain->iov;

	/* No bytes are as many as there cannot be. */
	if (unlikely(off >= region->size || (uint64_t)len - 1 >= region->size - off ||
		     chain->iov_max == 0))
		return false;
	v->iov_base = region->base + off;
	v->iov_len = len;
	chain->in_iova = iova;
	/* A branch, as a queue has buffers of one kind mostly. */
	if (write) {
		chain->nout = 0;
		chain->nin = 1;
		chain->out_len = 0;
		chain->in_len = len;
	} else {
		chain->nout = 1;
		chain->nin = 0;
		chain->out_len = len;
		chain->in_len = 0;
	}
	return true;
}

/** The same for one that is given by its IOVA: what of it is its length and direction. */
static inline bool
vdpa_vq_is_inside(const struct vdpa_vq_region *region, uint64_t iova, uint32_t len)
{
	const uint64_t off = iova - region->iova;

	/* No bytes are as many as there cannot be. */
	return off < region->size && (uint64_t)len - 1 < region->size - off;
}

/** inflight.c: the chain was taken from the ring, and is not counted yet. */
void vdpa_vq_tracker_popped(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain);

/** Account for a chain that was taken from the ring when `popped` were before it. */
static inline void
vdpa_vq_took(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain, uint16_t id, uint16_t ndesc,
	     uint16_t slot, uint64_t popped)
{
	vdpa_vq_note(chain, id, ndesc, slot, (uint16_t)popped);
	if (unlikely(vq->tracker != NULL))
		vdpa_vq_tracker_popped(vq, chain);
	__atomic_store_n(&vq->counters.popped, popped + 1, __ATOMIC_RELAXED);
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
unsigned int vdpa_vq_split_pop_plain(struct vdpa_virtqueue *vq, struct vdpa_vq_plain *chains,
				     unsigned int n, bool *other);
int vdpa_vq_split_pop(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chains, unsigned int n);
/** A chain again whose head an inflight area has. */
int vdpa_vq_split_parse(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain, uint16_t head);
int vdpa_vq_split_pass(struct vdpa_virtqueue *vq, uint16_t *heads, unsigned int n);
/** The parts of a chain, into p as it was set up. 0 or a negative errno. */
int vdpa_vq_split_walk(struct vdpa_virtqueue *vq, struct vdpa_vq_parts *p, uint16_t head);
unsigned int vdpa_vq_split_avail(struct vdpa_virtqueue *vq);
void vdpa_vq_split_push(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chains,
			const uint32_t *written, unsigned int n);
void vdpa_vq_split_push_taken(struct vdpa_virtqueue *vq, const struct vdpa_vq_taken *taken,
			      const uint16_t *at, const uint32_t *written, unsigned int n);
/** Of n chains that were passed and used, log and push those that are plain, up to the first that
 * is not, or is none for so many bytes. How many. */
unsigned int vdpa_vq_split_push_passed(struct vdpa_virtqueue *vq, const uint16_t *heads,
				       const uint32_t *written, unsigned int n, bool whole);
void vdpa_vq_split_prefetch_used(const struct vdpa_virtqueue *vq, unsigned int n);
void vdpa_vq_split_flush(struct vdpa_virtqueue *vq);
bool vdpa_vq_split_wants_call(struct vdpa_virtqueue *vq);
bool vdpa_vq_split_enable_kicks(struct vdpa_virtqueue *vq);
void vdpa_vq_split_disable_kicks(struct vdpa_virtqueue *vq);

int vdpa_vq_packed_setup(struct vdpa_virtqueue *vq, const struct vdpa_vq_state *state);
int vdpa_vq_packed_map(struct vdpa_virtqueue *vq, struct vdpa_iotlb *tlb);
unsigned int vdpa_vq_packed_pop_plain(struct vdpa_virtqueue *vq, struct vdpa_vq_plain *chains,
				      unsigned int n, bool *other);
int vdpa_vq_packed_pop(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chains, unsigned int n);
/** Add one ring descriptor of a chain. 0 or a negative errno. */
int vdpa_vq_packed_add(struct vdpa_virtqueue *vq, struct vdpa_vq_parts *p, struct vdpa_vq_desc d);
unsigned int vdpa_vq_packed_avail(struct vdpa_virtqueue *vq);
void vdpa_vq_packed_push(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chains,
			 const uint32_t *written, unsigned int n);
void vdpa_vq_packed_push_taken(struct vdpa_virtqueue *vq, const struct vdpa_vq_taken *taken,
			       const uint16_t *at, const uint32_t *written, unsigned int n);
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
void vdpa_vq_tracker_pushed(struct vdpa_virtqueue *vq, uint16_t entry);
/** Before the used index or flags are written, and after. */
void vdpa_vq_tracker_flush_begin(struct vdpa_virtqueue *vq);
void vdpa_vq_tracker_flush_end(struct vdpa_virtqueue *vq);
/**
 * The last n chains popped go back. Returns whether the oldest came from the area: then the ring
 * position was set too.
 */
bool vdpa_vq_tracker_rewind(struct vdpa_virtqueue *vq, uint16_t n);

#endif /* VDPA_VIRTQUEUE_PRIV_H */
