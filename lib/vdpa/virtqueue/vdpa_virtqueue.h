/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_virtqueue.h
 * Virtqueue access as a device has it, split and packed (virtio 1.2, 2.7 and 2.8), for any device
 * that executes rings in software.
 *
 * Written for a hostile driver: a descriptor, index or flag in guest memory is read once and
 * checked where it is read; chains are bounded; every address is translated and bounded by the
 * memory table. An error leaves the virtqueue broken: every later pop returns the same error until
 * it is set up again, and pushes are ignored.
 *
 * A descriptor of length 0, which the specification neither forbids nor explains, adds no iovec and
 * its address is not looked at. An indirect table may be longer than the virtqueue, as Linux makes
 * them, up to VDPA_VQ_NUM_MAX entries. A buffer that crosses memory regions is several iovecs.
 *
 * One thread uses a virtqueue at a time; the owner sees to that. No function allocates, locks or
 * makes a system call, except vdpa_vq_notify() (one eventfd write).
 *
 * Life of a burst: vdpa_vq_pop() chains, use their memory, vdpa_vq_push() each (any order, unless
 * VIRTIO_F_IN_ORDER), vdpa_vq_flush() once to make them visible, vdpa_vq_notify() once.
 */

#ifndef VDPA_VIRTQUEUE_H
#define VDPA_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vdpa_memory.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Largest virtqueue size (virtio 1.2, 2.7). */
#define VDPA_VQ_NUM_MAX 32768

/** Bytes of the three parts of a ring. */
struct vdpa_ring_size {
	uint64_t desc;	 /**< descriptor table or ring */
	uint64_t driver; /**< avail ring or driver event suppression structure */
	uint64_t device; /**< used ring or device event suppression structure */
};

/**
 * How much memory a ring of num entries takes: by virtio 1.2, 2.7, a split ring ends with the event
 * fields (6 + 2 n and 6 + 8 n bytes) whether or not VIRTIO_RING_F_EVENT_IDX was negotiated; a
 * packed one (2.8) has two structures of 4 bytes behind its descriptors. The only place that says
 * so.
 */
static inline struct vdpa_ring_size
vdpa_ring_size(bool packed, uint32_t num)
{
	uint64_t n = num;

	return packed ? (struct vdpa_ring_size){16 * n, 4, 4}
		      : (struct vdpa_ring_size){16 * n, 6 + 2 * n, 6 + 8 * n};
}

/**
 * Where a virtqueue stands: the kernel's vdpa_vq_state, split or packed as was negotiated.
 * Initially all zero but the wrap counters, which are 1.
 */
struct vdpa_vq_state {
	union {
		struct {
			uint16_t avail_index; /**< next avail entry to fetch, free-running */
		} split;
		struct {
			uint16_t last_avail_idx; /**< 0 .. size - 1 */
			uint16_t last_used_idx;
			uint8_t last_avail_counter; /**< wrap counter, 0 or 1; 1 initially */
			uint8_t last_used_counter;
		} packed;
	};
};

/**
 * Inflight area (vhost-user, "Inflight I/O tracking"): memory shared with the front end that
 * outlives this process, in the split or packed layout of the specification.
 */
struct vdpa_vq_inflight {
	void *addr;  /**< NULL: not tracked */
	size_t size; /**< bytes; checked against the virtqueue size at set-up */
};

/** What vdpa_vq_setup() needs. */
struct vdpa_vq_params {
	uint64_t features; /**< negotiated; the ring's bits are looked at, others ignored */
	uint32_t num;	   /**< size; split: a power of two; at most VDPA_VQ_NUM_MAX */
	uint64_t desc;	   /**< IOVA of the descriptor table or ring */
	uint64_t driver;   /**< IOVA of the avail ring or the driver event suppression structure */
	uint64_t device;   /**< IOVA of the used ring or the device event suppression structure */
	struct vdpa_vq_state state;
	struct vdpa_vq_inflight inflight;
};

/**
 * A descriptor chain that was taken from a virtqueue. The iovecs, of the device-writable part too,
 * stay as they are until the chain is pushed: dirty logging reads them.
 */
struct vdpa_vq_chain {
	struct iovec *iov; /**< caller's: the iovecs the device reads, then those it writes */
	uint16_t iov_max;  /**< caller's: room in iov, more is -EMSGSIZE */
	uint16_t nout;	   /**< iov[0 .. nout) the device reads */
	uint16_t nin;	   /**< iov[nout .. nout + nin) the device writes */
	uint16_t id;	   /**< split: head descriptor; packed: buffer id */
	uint16_t ndesc;	   /**< ring slots taken: split 1, packed the chain's length */
	uint16_t slot;	   /**< private: where it was taken, for vdpa_vq_rewind() */
	uint16_t seq;	   /**< private: number of the pop, for vdpa_vq_rewind() */
	uint16_t entry;	   /**< private: its entry of the inflight area */
	uint32_t out_len;  /**< bytes in the first, in the second part */
	uint32_t in_len;
	uint64_t in_iova; /**< private: IOVA of the first writable buffer, for dirty logging */
};

struct vdpa_virtqueue;

/** A virtqueue, not set up, in memory of that NUMA node (-1: any); NULL when there is none. */
struct vdpa_virtqueue *vdpa_vq_alloc(int numa_node);
/** Tear it down and free it. NULL: no-op. */
void vdpa_vq_free(struct vdpa_virtqueue *vq);

/**
 * Set a virtqueue up: check and translate its ring memory, take a reference on the table.
 * @return 0; -EINVAL for a size, alignment or state that the specification forbids; -EFAULT for
 * ring memory outside one region. vdpa_vq_error() says which.
 */
int vdpa_vq_setup(struct vdpa_virtqueue *vq, const struct vdpa_vq_params *params,
		  struct vdpa_iotlb *tlb);

/** Undo vdpa_vq_setup(): drop the table; pops return 0. */
void vdpa_vq_teardown(struct vdpa_virtqueue *vq);

/** Switch to another version of the memory; -EFAULT when the ring is not in it: then it is broken.
 */
int vdpa_vq_set_iotlb(struct vdpa_virtqueue *vq, struct vdpa_iotlb *tlb);

/** Whether it is set up and not broken. */
bool vdpa_vq_is_ready(const struct vdpa_virtqueue *vq);

/**
 * Where it stands: flushed progress only. -EBUSY while chains are outstanding (popped, and neither
 * flushed nor rewound), except with an inflight area, which has them: the next set-up with the same
 * area finds them there.
 */
int vdpa_vq_get_state(const struct vdpa_virtqueue *vq, struct vdpa_vq_state *state);

/** The cause of the last error, a phrase such as "descriptor loop"; "" for none. */
const char *vdpa_vq_error(const struct vdpa_virtqueue *vq);

/**
 * eventfd that vdpa_vq_notify() signals; -1 for none. The caller keeps it open while set. Kept
 * across set-ups.
 */
void vdpa_vq_set_call(struct vdpa_virtqueue *vq, int fd);

/** Log writes to guest memory (buffers pushed with their written length, and the used ring whose
 * log address is used_iova) from now on; NULL to stop. The caller keeps it while set. */
void vdpa_vq_set_log(struct vdpa_virtqueue *vq, const struct vdpa_dirty_log *log,
		     uint64_t used_iova);

/**
 * Take the next chain.
 * @return 1 when one was taken; 0 when there is none; -EMSGSIZE when it has more than iov_max parts
 *         (chain->id and ndesc are set: push it with length 0 to skip it); another negative errno
 * when the virtqueue is broken by it: -EPROTO for what the specification forbids, -EFAULT for
 * memory outside the table or a faulted region.
 */
int vdpa_vq_pop(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain);

/**
 * Take up to n chains, each with its own iov and iov_max. An error is returned by itself: chains
 * before it are returned first, and the next call returns the error.
 * @return how many were taken; or, with none taken, what vdpa_vq_pop() returns (for -EMSGSIZE
 * chains[0] is the one to skip).
 */
int vdpa_vq_pop_burst(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chains, unsigned int n);

/** Give back the chains popped last, `from` being the oldest of them; none of them was pushed. */
void vdpa_vq_rewind(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *from);

/** How many chains could be popped, at least; 0 when empty. May read one index. For batching. */
unsigned int vdpa_vq_avail(struct vdpa_virtqueue *vq);

/** Return a chain with `written` bytes of its device-writable part filled. Visible after a flush.
 */
void vdpa_vq_push(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chain, uint32_t written);

/** vdpa_vq_push() of n chains in this order; `written` has a length for each, NULL: 0 each. */
void vdpa_vq_push_burst(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chains,
			const uint32_t *written, unsigned int n);

/** Fetch for writing what the next n pushes write, while the caller works on the buffers: the
 * driver's CPU has it. A hint. */
void vdpa_vq_prefetch_used(const struct vdpa_virtqueue *vq, unsigned int n);

/** Make what was pushed visible to the driver. */
void vdpa_vq_flush(struct vdpa_virtqueue *vq);

/**
 * Signal the driver if it wants one for what was flushed since the last signal (flags or event
 * index).
 * @return true when the call eventfd was written.
 */
bool vdpa_vq_notify(struct vdpa_virtqueue *vq);

/** Ask the driver for kicks. Returns true when a chain is there already: poll again. */
bool vdpa_vq_enable_kicks(struct vdpa_virtqueue *vq);
/** Tell the driver that kicks are not needed. */
void vdpa_vq_disable_kicks(struct vdpa_virtqueue *vq);

/** Counters of the ring since it was allocated. */
struct vdpa_vq_counters {
	uint64_t popped; /**< chains taken */
	uint64_t pushed; /**< chains returned */
	uint64_t calls;	 /**< eventfd writes to the driver */
};
void vdpa_vq_counters(const struct vdpa_virtqueue *vq, struct vdpa_vq_counters *c);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_VIRTQUEUE_H */
