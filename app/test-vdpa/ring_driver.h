/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file ring_driver.h
 * Guest memory in memfds, and a driver's side of a virtqueue, split or packed: what test-vdpa and
 * the unit tests drive devices with. Little-endian, as the machines they run on.
 *
 * The device is not trusted: ring_driver_take() checks all that it says, and names the first thing
 * that cannot be.
 */

#ifndef RING_DRIVER_H
#define RING_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "vdpa_virtqueue.h"

#define RING_FEATURE(bit) (1ULL << (bit))

#define RING_MEM_REGIONS_MAX 4
/** IOVA and front-end address of the first region; the others follow without a gap. */
#define RING_MEM_IOVA	     0x100000ULL
#define RING_MEM_UADDR	     0x7f0000000000ULL

/** Guest memory. Each region is a memfd of its own, mapped here as the guest sees it. */
struct ring_mem {
	unsigned int n;
	struct {
		int fd;
		uint64_t iova;
		uint64_t size;
		uint8_t *va;
	} region[RING_MEM_REGIONS_MAX];
	struct vdpa_iotlb *tlb;
};

/** Regions of the given sizes in bytes (whole pages). 0 or a negative errno. */
int ring_mem_init(struct ring_mem *mem, const uint64_t *sizes, unsigned int n);
void ring_mem_fini(struct ring_mem *mem);
/** The guest's view of an IOVA; NULL outside. */
void *ring_mem_va(const struct ring_mem *mem, uint64_t iova);

/** A buffer of a chain. */
struct ring_buf {
	uint64_t iova;
	uint32_t len;
	bool write;
};

struct ring_driver {
	struct ring_mem *mem;
	uint64_t features;
	bool packed;
	uint32_t num;
	uint64_t desc, drv, dev; /* IOVAs of the three areas */
	uint16_t avail;		 /* split: free-running; packed: position */
	uint16_t used;
	bool avail_wrap, used_wrap;
	uint32_t n_free;     /* descriptors */
	uint32_t n_ids;	     /* packed: free ids */
	uint16_t *free_list; /* split: descriptors; packed: ids; a stack */
	uint16_t *ndesc;     /* by id; 0: not under way */
	uint16_t *next;	     /* split: chain links of our own */
	uint32_t *room;	     /* by id: bytes that the device may write */
	uint32_t under_way;  /* chains */

	/* VIRTIO_F_IN_ORDER: descriptors (split) or ids (packed) are taken in turn, and a device
	 * may say one used entry for several chains. */
	bool in_order;
	uint16_t turn;	 /* next descriptor or id */
	uint16_t *order; /* ids under way, oldest at order_at */
	uint32_t order_at;
	uint32_t batch;	    /* chains that the last entry stands for, still to be taken */
	uint32_t batch_len; /* of the last of them */

	char bad[160]; /* what the device did that cannot be; "": nothing */
};

/** Bytes that a ring of this size takes from its IOVA on. */
uint64_t ring_driver_bytes(uint32_t num);

/** An empty ring whose areas lie from `iova` on (16-byte aligned, within one region). */
int ring_driver_init(struct ring_driver *d, struct ring_mem *mem, uint64_t features, uint32_t num,
		     uint64_t iova);
void ring_driver_fini(struct ring_driver *d);
/** Forget what was posted: as after a reset; the packed state is the initial one. */
void ring_driver_reset(struct ring_driver *d);

/**
 * Forget what was posted, as if the ring had come round to this place before: nothing is under way,
 * and what lies in the ring is what a lap leaves behind.
 */
void ring_driver_reset_at(struct ring_driver *d, const struct vdpa_vq_state *place);
/** Where a device stands that has used no more than what was taken: the place to start it at. */
void ring_driver_place(const struct ring_driver *d, struct vdpa_vq_state *place);

/** What vdpa_vq_setup() wants for it, in the initial state. */
void ring_driver_params(const struct ring_driver *d, struct vdpa_vq_params *params);

/** Post a chain and make it available. Its id, or -1 when the ring is full. */
int ring_driver_post(struct ring_driver *d, const struct ring_buf *bufs, unsigned int n);
/** The same through an indirect table at `table`, 16 bytes a buffer. */
int ring_driver_post_indirect(struct ring_driver *d, const struct ring_buf *bufs, unsigned int n,
			      uint64_t table);

/**
 * Take one used chain. 1; 0 when there is none; -EPROTO for a used index beyond what was made
 * available, an id that is not under way, more bytes than the chain's buffers hold: d->bad says
 * which, and it stays so until ring_driver_reset().
 */
int ring_driver_take(struct ring_driver *d, uint16_t *id, uint32_t *len);
/** The same for a device whose lengths are not looked at; aborts where the ring is bad. */
bool ring_driver_poll(struct ring_driver *d, uint16_t *id, uint32_t *len);

/** Driver's event suppression: no calls, all calls, or a call for used position `pos` (split:
 * free-running index). */
void ring_driver_no_calls(struct ring_driver *d);
void ring_driver_want_calls(struct ring_driver *d);
void ring_driver_want_call_at(struct ring_driver *d, uint16_t pos, bool wrap);
/** Whether the device wants a kick for the chain posted last. */
bool ring_driver_kick_wanted(const struct ring_driver *d, uint16_t before);
/** Whether it wants one for all that was posted since the position `avail`, `wrap` (those fields
 * then). */
bool ring_driver_kick_since(const struct ring_driver *d, uint16_t avail, bool wrap);

/** Parts of the ring in guest memory. */
struct vring_desc *ring_driver_desc(const struct ring_driver *d);
struct vring_packed_desc *ring_driver_packed(const struct ring_driver *d);
struct vring_avail *ring_driver_avail(const struct ring_driver *d);
struct vring_used *ring_driver_used_ring(const struct ring_driver *d);

#endif /* RING_DRIVER_H */
