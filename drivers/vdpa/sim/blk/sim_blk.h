/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * sim_blk, internally: the device (sim_blk.c), its virtqueues (sim_blk_queue.c), and the reading of
 * one request (sim_blk_request.c).
 */

#ifndef SIM_BLK_H
#define SIM_BLK_H

#include <linux/virtio_blk.h>

#include "log_limit.h"
#include "sim_blk_backend.h"
#include "sim.h"

/** Data segments of a request, as the configuration has them; header and status come on top. */
#define SIM_BLK_SEG_MAX	     126
/** Bytes of a segment, as the configuration has them. */
#define SIM_BLK_SIZE_MAX     (256u << 10)
/** Bytes of data in a request: what both allow together; more is an error of the driver. */
#define SIM_BLK_DATA_MAX     ((uint64_t)SIM_BLK_SEG_MAX * SIM_BLK_SIZE_MAX)
/** iovecs of a chain: header, segments, status, and room for parts that memory regions split. */
#define SIM_BLK_IOV_MAX	     (SIM_BLK_SEG_MAX + 10)
/** Ranges of one discard and of one write-zeroes request. */
#define SIM_BLK_DISCARD_SEGS 16
#define SIM_BLK_WZ_SEGS	     1
/** Requests a virtqueue has under way, at most. */
#define SIM_BLK_DEPTH_MAX    1024

/** What a device allows at the time a request is read. */
struct sim_blk_limits {
	uint64_t size; /**< bytes */
	uint32_t granularity;
	bool read_only;
	bool durable; /**< no write cache */
	bool discard; /**< negotiated */
	bool write_zeroes;
	uint32_t max_discard; /**< sectors */
	uint32_t max_write_zero;
};

/** A range of a discard or write-zeroes request, checked. */
struct sim_blk_range {
	uint64_t offset, len; /**< bytes */
	bool unmap;
};

/** One request, from its pop to its push. */
struct sim_blk_request {
	struct sim_blk_io io;
	struct vdpa_vq_chain chain;
	struct sim_blk_queue *queue;
	uint8_t *status;     /**< guest memory */
	struct iovec *split; /**< SIM_BLK_IOV_MAX, for data that shares an iovec with other parts */
	struct sim_blk_range ranges[SIM_BLK_DISCARD_SEGS];
	uint8_t nranges;
	uint8_t range; /**< the one under way */
	STAILQ_ENTRY(sim_blk_request) next;
};

enum sim_blk_verdict {
	SIM_BLK_SUBMIT,	   /**< io is filled in: a back end's */
	SIM_BLK_DONE,	   /**< answered: io.result is its status */
	SIM_BLK_MALFORMED, /**< no byte to put a status into */
};

/**
 * Read a popped chain: header, layout, limits. What is in guest memory is copied once. On
 * SIM_BLK_SUBMIT io is ready for the first (or only) range; on SIM_BLK_DONE io.result is 0,
 * -EOPNOTSUPP (VIRTIO_BLK_S_UNSUPP) or another errno (VIRTIO_BLK_S_IOERR).
 *
 * @param serial  what GET_ID answers, padded with zeroes.
 * @param type    receives the request's type, for statistics.
 */
enum sim_blk_verdict sim_blk_request_read(struct sim_blk_request *req,
					  const struct sim_blk_limits *limits,
					  const char serial[VIRTIO_BLK_ID_BYTES], uint32_t *type);

/** Make io the request's next range. False when there is none. */
bool sim_blk_request_next_range(struct sim_blk_request *req);

/** Counters, the worker's; read from any thread. */
struct sim_blk_stats {
	uint64_t requests[SIM_BLK_OPS];
	uint64_t bytes[SIM_BLK_OPS];
	uint64_t io_errors;   /**< answered VIRTIO_BLK_S_IOERR */
	uint64_t unsupported; /**< answered VIRTIO_BLK_S_UNSUPP */
	uint64_t malformed;   /**< no header or no status byte */
	uint64_t inflight;
};

/** A virtqueue's part of the device; sim_queue.priv. */
struct sim_blk_queue {
	struct sim_queue *q;
	struct sim_blk *blk;
	struct sim_blk_channel *ch;
	STAILQ_HEAD(, sim_blk_request) free;
	unsigned int nfree;
	bool starved;		  /**< chains may wait for a free request */
	bool resubmit;		  /**< the kernel took less than all: kick the channel again */
	bool error_logged;	  /**< one line for the first error since it was started */
	bool cancelled;		  /**< worker's: since it was stopped */
	bool handing_over;	  /**< stopped: what is cancelled stays in the inflight area */
	unsigned int handed_over; /**< requests, since it was stopped */
	uint64_t stopped_at;	  /**< milliseconds, monotonic */
	struct vdpa_event event;  /**< the channel's completions */
	struct sim_blk_stats stats;

	unsigned int depth;
	struct sim_blk_request *requests;
	struct iovec *iovs; /**< three arrays a request: chain, split, scratch */
};

/** The device; sim_device.priv. */
struct sim_blk {
	struct sim_device *dev;
	struct sim_blk_backend *be;
	uint32_t blk_size;
	bool read_only;
	bool write_cache; /**< atomic: configuration's wce */
	char serial[VIRTIO_BLK_ID_BYTES];
	struct sim_blk_queue *queues;
	struct vdpa_log_limit log; /**< a guest can start its queues, and fail, at will */
};

/* The queue's hooks; see struct sim_class. */
int sim_blk_queue_open(struct sim_blk_queue *bq, struct sim_blk *blk, struct sim_queue *q);
void sim_blk_queue_close(struct sim_blk_queue *bq);
unsigned int sim_blk_process(struct sim_queue *q, unsigned int budget);
bool sim_blk_arm(struct sim_queue *q);
void sim_blk_vq_start(struct sim_queue *q);
void sim_blk_vq_stop(struct sim_queue *q);
unsigned int sim_blk_outstanding(struct sim_queue *q);

#endif /* SIM_BLK_H */
