/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file ring_driver.h
 * Guest memory in memfds, and a vring in it: what test-vdpa and the unit tests drive devices with.
 * Little-endian, as the machines they run on.
 */

#ifndef RING_DRIVER_H
#define RING_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "vdpa_vring.h"

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
	struct vdpa_vring *ring;
	uint64_t features;
	bool packed;
	uint32_t num;
	uint64_t desc, drv, dev; /* IOVAs of the three areas */
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

/** Post a chain of at most 256 buffers and make it available. Its id, or -1 when the ring is full.
 */
int ring_driver_post(struct ring_driver *d, const struct ring_buf *bufs, unsigned int n);
/** The same through an indirect table at `table`, 16 bytes a buffer. */
int ring_driver_post_indirect(struct ring_driver *d, const struct ring_buf *bufs, unsigned int n,
			      uint64_t table);

/**
 * Take one used chain. 1; 0 when there is none; -EPROTO where the device did what cannot be:
 * ring_driver_bad() says what, and it stays so until ring_driver_reset().
 */
int ring_driver_take(struct ring_driver *d, uint16_t *id, uint32_t *len);
/** What the device did that cannot be; "": nothing. */
const char *ring_driver_bad(const struct ring_driver *d);
/** The same as take; aborts where the ring is bad. */
bool ring_driver_poll(struct ring_driver *d, uint16_t *id, uint32_t *len);
/** Split: the free-running index of the next chain to take; packed: its position, and its wrap
 * counter where wrap is not NULL. */
uint16_t ring_driver_used_pos(const struct ring_driver *d, bool *wrap);

/** Driver's event suppression: no calls, calls (with an event index: the next), or a call for used
 * position `pos` (split: free-running index). */
void ring_driver_no_calls(struct ring_driver *d);
void ring_driver_want_calls(struct ring_driver *d);
void ring_driver_want_call_at(struct ring_driver *d, uint16_t pos, bool wrap);
/** Whether the device wants a kick for what was posted since this was asked last. */
bool ring_driver_kick_wanted(struct ring_driver *d);

/** Parts of the ring in guest memory. */
struct vring_desc *ring_driver_desc(const struct ring_driver *d);
struct vring_packed_desc *ring_driver_packed(const struct ring_driver *d);
struct vring_avail *ring_driver_avail(const struct ring_driver *d);
struct vring_used *ring_driver_used_ring(const struct ring_driver *d);

#endif /* RING_DRIVER_H */
