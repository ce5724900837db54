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
	/** A stop leaves requests that are under way in the area instead of waiting for them. */
	bool hand_over;
	/** The front end does not know of the area: where a queue stops, what is under way is given
	 * back to its ring where that can be, so that whoever goes on finds it without the area. */
	bool own;
};

/** Bytes of the area of one virtqueue; the specification's structures. */
size_t vdpa_vq_inflight_size(bool packed, uint32_t num);

/**
 * Write an area that says of a split virtqueue: these chains were taken and not returned, in this
 * order, by whoever set it up before. The next set-up with it submits them again.
 * @param used   index of the used ring.
 * @param heads  n head descriptors, each below num.
 * @return 0; -EINVAL for an area that is too small.
 */
int vdpa_vq_inflight_store(const struct vdpa_vq_inflight *inflight, uint32_t num, uint16_t used,
			   const uint16_t *heads, unsigned int n);

/**
 * How many chains an area of num entries says to be taken and not returned, of those that were
 * taken before the one with the number `below` (UINT64_MAX: of all). From any thread, also while
 * the virtqueue runs.
 * @param next  receives the number that the next chain is to have; NULL: nobody asks.
 */
unsigned int vdpa_vq_inflight_count(const struct vdpa_vq_inflight *inflight, bool packed,
				    uint32_t num, uint64_t below, uint64_t *next);

/** What vdpa_vq_setup() needs. */
struct vdpa_vq_params {
	uint64_t features; /**< negotiated; the ring's bits are looked at, others ignored */
	uint32_t num;	   /**< size; split: a power of two; at most VDPA_VQ_NUM_MAX */
	uint64_t desc;	   /**< IOVA of the descriptor table or ring */
	uint64_t driver;   /**< IOVA of the avail ring or the driver event suppression structure */
	uint64_t device;   /**< IOVA of the used ring or the device event suppression structure */
	struct vdpa_vq_state state;
	struct vdpa_vq_inflight inflight;
	/** Buffers are checked against the memory table and given by their IOVAs (in iov_base), for
	 * whoever has a device execute them: vdpa_vq_push() does not log them then, the caller
	 * does. */
	bool by_iova;
};

/** What is to be kept of a chain for its push where its buffers are not looked at meanwhile. */
struct vdpa_vq_taken {
	union {
		struct {
			uint16_t id;	/**< split: head descriptor; packed: buffer id */
			uint16_t ndesc; /**< ring slots taken: split 1, packed the chain's length */
			uint16_t slot;	/**< private: where it was taken, for vdpa_vq_rewind() */
			uint16_t seq;	/**< private: number of the pop, for vdpa_vq_rewind() */
		};
		uint64_t word; /**< all of these, to be copied by one load and one store */
	};
	uint16_t entry; /**< private: its entry of the inflight area, where there is one */
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
	union {
		struct {
			uint16_t id, ndesc, slot, seq, entry; /**< as in struct vdpa_vq_taken */
		};
		struct vdpa_vq_taken taken;
	};
	uint32_t out_len; /**< bytes in the first, in the second part */
	uint32_t in_len;
	uint64_t in_iova; /**< private: IOVA of the first writable buffer, for dirty logging */
};

/** A chain of one buffer in one descriptor, as almost all are, by its IOVA. */
struct vdpa_vq_plain {
	uint64_t iova;
	uint64_t len_write; /**< its length, and 1 << 32 where the device writes it */
	uint64_t taken;	    /**< word of its struct vdpa_vq_taken; it has no entry */
};

/** Of struct vdpa_vq_plain: the device writes the buffer. */
#define VDPA_VQ_PLAIN_WRITE (UINT64_C(1) << 32)

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
 * before it are returned first, and the next call returns the error. A burst is fewer, too, where
 * its chains have many descriptors, so that it takes no longer than one chain can: more may be
 * there.
 * @return how many were taken; or, with none taken, what vdpa_vq_pop() returns (for -EMSGSIZE
 * chains[0] is the one to skip).
 */
int vdpa_vq_pop_burst(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chains, unsigned int n);

/**
 * The same of a virtqueue that is by_iova and without an inflight area, for chains of one buffer in
 * one descriptor: up to the first that is none or cannot be popped, which vdpa_vq_pop_burst() has
 * to say.
 * @param other  true where there is such a one next.
 * @return how many were taken, 0 to n.
 */
unsigned int vdpa_vq_pop_plain(struct vdpa_virtqueue *vq, struct vdpa_vq_plain *chains,
			       unsigned int n, bool *other);

/** Give back the chains popped last, `from` being the oldest of them; none of them was pushed. */
void vdpa_vq_rewind(struct vdpa_virtqueue *vq, const struct vdpa_vq_taken *from);

/** How many chains of the inflight area are still to be taken again; 0 without one. */
unsigned int vdpa_vq_left(const struct vdpa_virtqueue *vq);

/**
 * Of a virtqueue with an inflight area, at its end: give back all chains that were taken and not
 * returned, those that are still to be taken again, too. That can be where the ring has them in
 * the order in which they were taken, which is so as long as none was returned before an older one:
 * whoever goes on at *state begins with the oldest. Each leaves the area, the newest first, so
 * that a process that is killed meanwhile leaves those before it.
 * @return 0; -EBUSY where the ring has them no more, and nothing was changed; -EINVAL without an
 * area, or broken; -ENOMEM.
 */
int vdpa_vq_put_back(struct vdpa_virtqueue *vq, struct vdpa_vq_state *state);

/** How many ring slots (split: chains) are to be taken until the next one is the first of a ring
 * that begins anew; 0: it is. */
uint32_t vdpa_vq_to_beginning(const struct vdpa_virtqueue *vq);

/** How many chains were popped since this one, which was not pushed, it included; up to 65535. */
uint16_t vdpa_vq_popped_since(const struct vdpa_virtqueue *vq, const struct vdpa_vq_taken *from);

/**
 * For whoever has another execute a split ring's chains where they lie: take up to n of them
 * unread, by their head descriptors, and return each by vdpa_vq_push() with that as its id. The
 * virtqueue is by_iova. They
 * count as popped.
 * @return how many were taken; -EPROTO, -EFAULT as vdpa_vq_pop(), also for a packed ring: then it
 * is broken.
 */
int vdpa_vq_pass(struct vdpa_virtqueue *vq, uint16_t *heads, unsigned int n);

/**
 * A chain that was passed has been used by the other, who says to have written *written bytes of
 * it (UINT32_MAX: all that there is to write, which is set). Log them, or with `whole` all of its
 * writable buffers. Call it before the push, which does not.
 * @return 0; -EMSGSIZE for more bytes than there is room for; -EPROTO, -EFAULT for descriptors that
 * the driver has spoiled meanwhile: then it is broken.
 */
int vdpa_vq_passed_used(struct vdpa_virtqueue *vq, uint16_t head, uint32_t *written, bool whole);

/**
 * vdpa_vq_passed_used() and vdpa_vq_push() of n chains in this order, up to the first that has not
 * one plain buffer or of which vdpa_vq_passed_used() has an error to say: look at that one by
 * itself. A chain of which nothing was written is not looked at, but with `whole`.
 * @return how many were pushed, 0 to n.
 */
unsigned int vdpa_vq_push_passed(struct vdpa_virtqueue *vq, const uint16_t *heads,
				 const uint32_t *written, unsigned int n, bool whole);

/** How many descriptors were looked at, since it was allocated, of chains that are not one plain
 * buffer: what the caller's time went to. */
uint64_t vdpa_vq_walked(const struct vdpa_virtqueue *vq);

/** How many chains could be popped, at least; 0 when empty. May read one index. For batching. */
unsigned int vdpa_vq_avail(struct vdpa_virtqueue *vq);

/** Return a chain with `written` bytes of its device-writable part filled. Visible after a flush.
 */
void vdpa_vq_push(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chain, uint32_t written);

/** vdpa_vq_push() of n chains in this order; `written` has a length for each, NULL: 0 each. */
void vdpa_vq_push_burst(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chains,
			const uint32_t *written, unsigned int n);

/** The same for what was kept of chains of a virtqueue that is by_iova: taken[at[0]] to
 * taken[at[n - 1]]. */
void vdpa_vq_push_taken(struct vdpa_virtqueue *vq, const struct vdpa_vq_taken *taken,
			const uint16_t *at, const uint32_t *written, unsigned int n);

/** Fetch what the next pop looks at first, which the driver's CPU has written. A hint. */
void vdpa_vq_prefetch_avail(const struct vdpa_virtqueue *vq);

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
