/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_vring.h
 * A virtqueue as the driver has it, split and packed (virtio 1.2, 2.7 and 2.8): whoever makes
 * buffers available to a device and takes back what it used. Shadow virtqueues and test-vdpa use
 * it.
 *
 * Written for a hostile device: whatever the device can write is read once and checked where it is
 * read, and nothing is decided by what lies in the ring's memory but by copies that the device
 * cannot reach. An error leaves the vring broken: every later take returns it until the next
 * set-up.
 *
 * One thread uses a vring at a time. No function allocates but vdpa_vring_setup(), none locks or
 * makes a system call.
 *
 * Life of a burst: vdpa_vring_add() chains, vdpa_vring_publish() once, kick the device if
 * vdpa_vring_wants_kick(); vdpa_vring_take() what it has used. What moves many chains adds and
 * takes them by bursts.
 */

#ifndef VDPA_VRING_H
#define VDPA_VRING_H

#include "vdpa_virtqueue.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A buffer of a chain. */
struct vdpa_vring_seg {
	uint64_t iova;
	uint32_t len; /**< bytes, not 0 */
	bool write;   /**< the device writes it; those that it reads come first */
};

/** What vdpa_vring_setup() needs. The memory stays the caller's and mapped until the teardown. */
struct vdpa_vring_params {
	uint64_t features; /**< negotiated with the device; the ring's bits are looked at */
	uint32_t num;	   /**< size; split: a power of two; at most VDPA_VQ_NUM_MAX */
	/** Our addresses of the three parts, of vdpa_ring_size() bytes each, aligned as the
	 * specification has it. desc NULL (split): the descriptors are another's, who has written
	 * them; chains are added by vdpa_vring_add_head() alone. */
	void *desc, *driver, *device;
	/**
	 * Memory for indirect tables, which the device reaches at tables_iova: 16 bytes an entry,
	 * aligned to 16; NULL: none. With VIRTIO_RING_F_INDIRECT_DESC a chain of several buffers
	 * gets a table while there is room for it, else ring descriptors. A table takes a power of
	 * two of entries, at least 4, at a multiple of its size: only with a power of two here can
	 * one chain have all.
	 */
	void *tables;
	uint64_t tables_iova;
	uint32_t tables_entries;
	/** Where the ring begins, with nothing in flight: of a packed one both positions are the
	 * same. */
	struct vdpa_vq_state place;
};

struct vdpa_vring;

/** A vring, not set up; NULL when there is no memory. */
struct vdpa_vring *vdpa_vring_alloc(void);
/** NULL: no-op. The ring's memory is the caller's. */
void vdpa_vring_free(struct vdpa_vring *r);

/**
 * Set it up and write the ring's memory as a device expects it at that place: empty, as former laps
 * have left it. Calls are wanted.
 * @return 0; -EINVAL for a size or place that the specification forbids; -ENOMEM.
 */
int vdpa_vring_setup(struct vdpa_vring *r, const struct vdpa_vring_params *params);

/**
 * Add a chain, which the device sees after vdpa_vring_publish().
 * @return its id, 0 to size - 1, until it is taken; -ENOSPC while there is no room for it;
 * -EMSGSIZE for one that has no room in an empty ring, or of no buffer; -EPROTO when the vring is
 * broken.
 */
int vdpa_vring_add(struct vdpa_vring *r, const struct vdpa_vring_seg *segs, unsigned int n);
/**
 * Add chains as vdpa_vq_pop_burst() gives them of a virtqueue that is by_iova, in this order, up to
 * the first that has not exactly one buffer or has no room now: vdpa_vring_add() says what that
 * gets. kept: where chains[].taken goes, by the id of each. Of a ring that is used in order none is
 * added.
 * @return how many were added, 0 to n.
 */
unsigned int vdpa_vring_add_burst(struct vdpa_vring *r, const struct vdpa_vq_chain *chains,
				  unsigned int n, struct vdpa_vq_taken *kept);
/** How many ring descriptors are free: so many chains of one buffer can be added. */
unsigned int vdpa_vring_room(const struct vdpa_vring *r);
/**
 * Add n chains as vdpa_vq_pop_plain() gives them, no more than vdpa_vring_room(), to a ring that is
 * not used in order. kept[].word: as above.
 */
void vdpa_vring_add_plain(struct vdpa_vring *r, const struct vdpa_vq_plain *chains, unsigned int n,
			  struct vdpa_vq_taken *kept);
/**
 * The same as vdpa_vring_add() for an indirect table that the caller has written, of len bytes at
 * iova; room: how many bytes the device may write to its buffers. The copy of the chain is the
 * table as one buffer. Whether the feature was negotiated and the table is a good one is the
 * caller's to see to.
 */
int vdpa_vring_add_table(struct vdpa_vring *r, uint64_t iova, uint32_t len, uint32_t room);
/**
 * Add a chain of a ring whose descriptors are another's: its head descriptor is its id. How much
 * there is to write the vring does not know: a length is for the caller to check, and is UINT32_MAX
 * of chains that one entry stands for (VIRTIO_F_IN_ORDER).
 * @return 0; -EEXIST for one that is in flight already; -EINVAL for a head outside the ring;
 * -ENOSPC when as many are in flight as the ring has; -EPROTO when the vring is broken.
 */
int vdpa_vring_add_head(struct vdpa_vring *r, uint16_t head);
/** The same for n heads in this order, up to the first of which vdpa_vring_add_head() has an error
 * to say. How many were added. */
unsigned int vdpa_vring_add_heads(struct vdpa_vring *r, const uint16_t *heads, unsigned int n);
/** Make what was added visible to the device. */
void vdpa_vring_publish(struct vdpa_vring *r);
/** Whether the device wants a kick for what was published since this was asked last. */
bool vdpa_vring_wants_kick(struct vdpa_vring *r);
/**
 * The upper half of what a doorbell of VIRTIO_F_NOTIFICATION_DATA takes (virtio 1.2, 4.1.5.2):
 * where the next chain will be published.
 */
uint16_t vdpa_vring_next(const struct vdpa_vring *r);

/**
 * Take the next chain that the device has used.
 * @param len  bytes that it says it has written, not more than the chain's buffers hold. Where
 * VIRTIO_F_IN_ORDER lets it say one entry for several chains, those before the last have their
 * buffers' size.
 * @return 1; 0 when there is none; -EPROTO for what the specification forbids: a used index beyond
 * what was made available, an id that is not in flight or out of order, more bytes than there is
 * room for. vdpa_vring_error() says which.
 */
int vdpa_vring_take(struct vdpa_vring *r, uint16_t *id, uint32_t *len);
/**
 * Take up to n chains at once, into ids and lens. An error that is behind some of them breaks the
 * vring too, and those are returned.
 * @return how many; or, with none taken, what vdpa_vring_take() returns.
 */
int vdpa_vring_take_burst(struct vdpa_vring *r, uint16_t *ids, uint32_t *lens, unsigned int n);
/** Whether it is set up and not broken. */
bool vdpa_vring_is_ready(const struct vdpa_vring *r);
/** Chains that were used and wait to be taken: whether there is one. Reads one word. */
bool vdpa_vring_has_used(const struct vdpa_vring *r);

/** The cause of the last error, a phrase with its figures; "" for none. */
const char *vdpa_vring_error(const struct vdpa_vring *r);

/** The buffers of a chain that is in flight, or that was taken and nothing was added since: our
 * copy. n: how many. */
const struct vdpa_vring_seg *vdpa_vring_segs(const struct vdpa_vring *r, uint16_t id,
					     unsigned int *n);

/** Chains that were added and not taken. */
unsigned int vdpa_vring_in_flight(const struct vdpa_vring *r);
/** Of these, how many have something that the device reads; of another's descriptors that is not
 * known. Looks at each id, as the next two do: not for a data path. */
unsigned int vdpa_vring_reading(const struct vdpa_vring *r);
/** The chains in flight in the order in which they were added: the oldest, and the one after id; -1
 * for none. */
int vdpa_vring_oldest(const struct vdpa_vring *r);
int vdpa_vring_younger(const struct vdpa_vring *r, uint16_t id);

/**
 * Ask the device for calls, from the next used chain on (with an event index: for that one).
 * @return true when one is there already: take it.
 */
bool vdpa_vring_enable_calls(struct vdpa_vring *r);
/** Say that calls are not needed. */
void vdpa_vring_disable_calls(struct vdpa_vring *r);

/** Where a device stands that has used all that was taken, and no more. */
void vdpa_vring_place(const struct vdpa_vring *r, struct vdpa_vq_state *place);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_VRING_H */
