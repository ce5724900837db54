/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Where the sectors of a sim_blk device are: the contract between its request engine and a back
 * end. A back end is opened once for a device; each virtqueue then opens a channel of its own, used
 * by that queue's worker alone, so that no lock is needed between queues.
 *
 * An I/O has been checked when it comes here: its range lies within the back end's size and is a
 * multiple of its granularity, and its iovecs add up to its length.
 *
 * Whatever a back end does on the worker, it does in pieces, and charges them to the device's turn
 * (sim_turn.h). That includes the system call that submits: the kernel copies cached data in it.
 * I/Os that the turn had no room for are counted in `waiting` and go on by reap().
 */

#ifndef SIM_BLK_BACKEND_H
#define SIM_BLK_BACKEND_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "sim_turn.h"

/** Bytes of a sector, the unit of the protocol whatever blk_size says (virtio 1.2, 5.2.6). */
#define SIM_BLK_SECTOR_SIZE  512u
#define SIM_BLK_SECTOR_SHIFT 9

enum sim_blk_op {
	SIM_BLK_READ,
	SIM_BLK_WRITE,
	SIM_BLK_FLUSH,
	SIM_BLK_DISCARD,
	SIM_BLK_WRITE_ZEROES,
};
#define SIM_BLK_OPS (SIM_BLK_WRITE_ZEROES + 1)

/** One I/O. The request engine's; a back end owns it from submit() until it is done. */
struct sim_blk_io {
	enum sim_blk_op op;
	bool unmap;		 /**< WRITE_ZEROES: the range may be deallocated */
	bool durable;		 /**< WRITE, DISCARD, WRITE_ZEROES: done means on stable storage */
	uint64_t offset;	 /**< bytes */
	uint64_t len;		 /**< bytes */
	const struct iovec *iov; /**< READ, WRITE: guest memory */
	unsigned int niov;
	struct iovec *scratch; /**< room for as many, for a piece of it */
	int result;	       /**< once done: 0 or a negative errno */

	/* The back end's own, while it has the I/O. */
	uint8_t stage;
	uint8_t retries;
	bool bounced;
	uint8_t bounce_at, bounce_blocks;
	bool synced;	 /**< the last system call made all of it durable */
	int64_t due_us;	 /**< delay_ms: when the disk is given it */
	uint64_t lent;	 /**< bytes of it that a thread of the kernel moves */
	uint64_t left;	 /**< bytes not yet moved */
	unsigned int at; /**< the iovec that they begin in, and where */
	size_t skip;
	STAILQ_ENTRY(sim_blk_io) next;
};

struct sim_blk_backend_ops;

/** An open back end; first member of the back end's own struct. */
struct sim_blk_backend {
	const struct sim_blk_backend_ops *ops;
	uint64_t size; /**< bytes, a multiple of SIM_BLK_SECTOR_SIZE */
	uint32_t
		granularity; /**< bytes that offset and length of READ and WRITE are multiples of */
	bool can_discard;
	bool can_write_zeroes;
	bool may_unmap; /**< WRITE_ZEROES with unmap does deallocate */
	/** Why another process does not find the same sectors; NULL: it does, opened anew. */
	const char *ends;
	/** Why another process must not begin before all that this one has under way has ended;
	 * NULL: it may. */
	const char *shared;
	uint32_t max_discard;	 /**< sectors in one DISCARD */
	uint32_t max_write_zero; /**< sectors in one WRITE_ZEROES */
};

/** The virtqueue's access to a back end; first member of the back end's own struct. */
struct sim_blk_channel {
	struct sim_blk_backend *be;
	int fd; /**< readable when reap() finds something; -1: every I/O is done at once */
	unsigned int inflight; /**< I/Os the back end has */
	unsigned int waiting;  /**< those of them that wait for the device's next turn */
	unsigned int group;    /**< I/Os after which to kick() while there are more; 0: no matter */
	struct sim_turn *turn; /**< the device's; set by the request engine */
};

struct sim_blk_backend_ops {
	const char *name;
	bool in_order; /**< I/Os are done in the order of submit() */
	void (*close)(struct sim_blk_backend *be);
	/** depth: I/Os in flight at most. 0 or a negative errno with vdpa_error(). */
	int (*channel_open)(struct sim_blk_backend *be, unsigned int depth,
			    struct sim_blk_channel **ch);
	/** Not while it has I/Os in flight. */
	void (*channel_close)(struct sim_blk_channel *ch);
	/** Take an I/O, and begin it if the turn lets it. True when it is done, its result set. */
	bool (*submit)(struct sim_blk_channel *ch, struct sim_blk_io *io);
	/**
	 * Set going what was submitted since the last call; NULL where submit() does it all.
	 * @return 0; -EAGAIN when the kernel is short of something now: call again; another errno
	 *         when this channel is of no more use.
	 */
	int (*kick)(struct sim_blk_channel *ch);
	/** Go on with I/Os that wait; up to n that are done. Never blocks. */
	unsigned int (*reap)(struct sim_blk_channel *ch, struct sim_blk_io **ios, unsigned int n);
	/** Ask the kernel to give up on all that is in flight; they come out of reap() then, with
	 * -ECANCELED where that worked. */
	void (*cancel)(struct sim_blk_channel *ch);
	/** Look at the size again: it grew or is as before. 0; -EOPNOTSUPP; -EINVAL; ... */
	int (*resize)(struct sim_blk_backend *be);
};

/** How a back end is opened. */
struct sim_blk_backend_params {
	const char *device; /**< for messages */
	uint64_t size;	    /**< ram: bytes */
	const char *path;   /**< file */
	uint32_t blk_size;  /**< in the guest's configuration, bytes */
	bool read_only;
	bool direct;
	bool share_rw;
};

/** 0, or a negative errno with vdpa_error() that names the path or size. */
int sim_blk_ram_open(const struct sim_blk_backend_params *params, struct sim_blk_backend **be);
int sim_blk_file_open(const struct sim_blk_backend_params *params, struct sim_blk_backend **be);
/** Put a delay in front of an open back end: *be is the slow one then, and owns the other. -ENOMEM
 * with vdpa_error(), and *be as it was. */
int sim_blk_delay_open(unsigned int delay_ms, struct sim_blk_backend **be);

/**
 * Lock an image against other users, as QEMU does (its byte ranges are used, so QEMU and uvdpa
 * respect each other). The lock lives as long as the open file description.
 * @return 0; -EBUSY when another user's access forbids ours; the errno of fcntl(2).
 */
int sim_blk_image_lock(int fd, bool read_only, bool share_rw);

/** Before its first piece: all of the I/O is left. */
void sim_blk_io_begin(struct sim_blk_io *io);
/**
 * The iovecs of the next len bytes, at most io->left: the I/O's own where all of it is asked for,
 * else in scratch.
 */
const struct iovec *sim_blk_io_piece(struct sim_blk_io *io, uint64_t len, unsigned int *niov);
/** n bytes were moved. */
void sim_blk_io_advance(struct sim_blk_io *io, uint64_t n);

#endif /* SIM_BLK_BACKEND_H */
