/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Reading one block request (virtio 1.2, 5.2.6) out of a descriptor chain of any layout: header and
 * data may be cut into iovecs anywhere, the status is the last byte that the device may write.
 * Everything the guest says is copied once and checked here.
 */

#include <errno.h>
#include <string.h>

#include <rte_branch_prediction.h>
#include <rte_byteorder.h>
#include <rte_common.h>

#include "sim_blk.h"

/* Copy the first n bytes out of iovecs that hold at least as many. */
static void
gather(void *to, const struct iovec *iov, size_t skip, size_t n)
{
	uint8_t *p = to;

	for (; n > 0; iov++) {
		size_t part;

		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		part = RTE_MIN(n, iov->iov_len - skip);
		memcpy(p, (const uint8_t *)iov->iov_base + skip, part);
		p += part;
		n -= part;
		skip = 0;
	}
}

/*
 * Make the request's iovecs the range [skip, skip + len) of others. In the usual layout that is
 * whole iovecs, which are used where they are; the chain's own are never changed, for its push
 * needs them.
 */
static void
slice(struct sim_blk_request *req, struct iovec *iov, uint64_t skip, uint64_t len)
{
	struct sim_blk_io *io = &req->io;
	unsigned int n = 0;
	bool whole = true;

	for (; len > 0 && skip >= iov->iov_len; iov++)
		skip -= iov->iov_len;
	whole = skip == 0;
	for (uint64_t left = len, at = skip; left > 0; n++, at = 0) {
		uint64_t part = iov[n].iov_len - at;

		if (part > left)
			whole = false;
		part = RTE_MIN(part, left);
		req->split[n].iov_base = (uint8_t *)iov[n].iov_base + at;
		req->split[n].iov_len = part;
		left -= part;
	}
	io->iov = whole ? iov : req->split;
	io->niov = n;
}

static enum sim_blk_verdict
done(struct sim_blk_request *req, int result)
{
	req->io.result = result;
	return SIM_BLK_DONE;
}

static bool
in_capacity(const struct sim_blk_limits *limits, uint64_t sector, uint64_t len)
{
	uint64_t capacity = limits->size >> SIM_BLK_SECTOR_SHIFT;

	return sector <= capacity && len <= (capacity - sector) << SIM_BLK_SECTOR_SHIFT;
}

static enum sim_blk_verdict
read_transfer(struct sim_blk_request *req, const struct sim_blk_limits *limits, uint64_t sector,
	      bool write)
{
	struct vdpa_vq_chain *c = &req->chain;
	uint64_t len = write ? c->out_len - sizeof(struct virtio_blk_outhdr) : c->in_len - 1;
	uint64_t mask = limits->granularity - 1;

	if (write && limits->read_only)
		return done(req, -EROFS);
	if (len > SIM_BLK_DATA_MAX || !in_capacity(limits, sector, len))
		return done(req, -EINVAL);
	if ((len & mask) != 0 || ((sector << SIM_BLK_SECTOR_SHIFT) & mask) != 0)
		return done(req, -EINVAL);
	if (len == 0)
		return done(req, 0);
	req->io.op = write ? SIM_BLK_WRITE : SIM_BLK_READ;
	req->io.durable = write && limits->durable;
	req->io.offset = sector << SIM_BLK_SECTOR_SHIFT;
	req->io.len = len;
	if (write)
		slice(req, c->iov, sizeof(struct virtio_blk_outhdr), len);
	else
		slice(req, c->iov + c->nout, 0, len);
	return SIM_BLK_SUBMIT;
}

/* DISCARD and WRITE_ZEROES: a list of ranges, all of them checked before the first is touched. */
static enum sim_blk_verdict
read_ranges(struct sim_blk_request *req, const struct sim_blk_limits *limits, bool discard)
{
	struct virtio_blk_discard_write_zeroes segs[SIM_BLK_DISCARD_SEGS];
	uint64_t len = req->chain.out_len - sizeof(struct virtio_blk_outhdr);
	uint32_t max_sectors = discard ? limits->max_discard : limits->max_write_zero;
	uint32_t max_segs = discard ? SIM_BLK_DISCARD_SEGS : SIM_BLK_WZ_SEGS;
	uint32_t known = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

	if (!(discard ? limits->discard : limits->write_zeroes))
		return done(req, -EOPNOTSUPP);
	if (limits->read_only)
		return done(req, -EROFS);
	if (len == 0 || len % sizeof(segs[0]) != 0 || len / sizeof(segs[0]) > max_segs)
		return done(req, -EINVAL);
	gather(segs, req->chain.iov, sizeof(struct virtio_blk_outhdr), len);
	req->nranges = 0;
	req->range = 0;
	for (unsigned int i = 0; i < len / sizeof(segs[0]); i++) {
		uint64_t sector = rte_le_to_cpu_64(segs[i].sector);
		uint32_t sectors = rte_le_to_cpu_32(segs[i].num_sectors);
		uint32_t flags = rte_le_to_cpu_32(segs[i].flags);
		uint64_t bytes = (uint64_t)sectors << SIM_BLK_SECTOR_SHIFT;
		uint64_t mask = limits->granularity - 1;

		if ((flags & ~known) != 0)
			return done(req, -EOPNOTSUPP);
		if (sectors > max_sectors || !in_capacity(limits, sector, bytes))
			return done(req, -EINVAL);
		if ((bytes & mask) != 0 || ((sector << SIM_BLK_SECTOR_SHIFT) & mask) != 0)
			return done(req, -EINVAL);
		if (sectors == 0)
			continue;
		req->ranges[req->nranges++] = (struct sim_blk_range){
			.offset = sector << SIM_BLK_SECTOR_SHIFT,
			.len = bytes,
			.unmap = (flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) != 0,
		};
	}
	req->io.op = discard ? SIM_BLK_DISCARD : SIM_BLK_WRITE_ZEROES;
	req->io.durable = limits->durable;
	return sim_blk_request_next_range(req) ? SIM_BLK_SUBMIT : done(req, 0);
}

static enum sim_blk_verdict
answer_id(struct sim_blk_request *req, const char serial[VIRTIO_BLK_ID_BYTES])
{
	uint64_t len = RTE_MIN(req->chain.in_len - 1u, (uint32_t)VIRTIO_BLK_ID_BYTES);
	const char *p = serial;

	slice(req, req->chain.iov + req->chain.nout, 0, len);
	for (unsigned int i = 0; i < req->io.niov; p += req->io.iov[i++].iov_len)
		memcpy(req->io.iov[i].iov_base, p, req->io.iov[i].iov_len);
	return done(req, 0);
}

bool
sim_blk_request_next_range(struct sim_blk_request *req)
{
	const struct sim_blk_range *r = &req->ranges[req->range];

	if (req->range == req->nranges)
		return false;
	req->range++;
	req->io.offset = r->offset;
	req->io.len = r->len;
	req->io.unmap = r->unmap;
	return true;
}

enum sim_blk_verdict
sim_blk_request_read(struct sim_blk_request *req, const struct sim_blk_limits *limits,
		     const char serial[VIRTIO_BLK_ID_BYTES], uint32_t *type)
{
	struct vdpa_vq_chain *c = &req->chain;
	struct virtio_blk_outhdr hdr;
	const struct iovec *last;
	uint64_t sector;

	*type = UINT32_MAX;
	req->nranges = 0;
	req->range = 0;
	req->status = NULL;
	req->io.result = 0;
	for (unsigned int i = c->nin; i > 0 && req->status == NULL; i--) {
		last = &c->iov[c->nout + i - 1];
		if (last->iov_len > 0)
			req->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	}
	if (req->status == NULL)
		return SIM_BLK_MALFORMED;
	if (c->out_len < sizeof(hdr))
		return done(req, -EINVAL);
	gather(&hdr, c->iov, 0, sizeof(hdr));
	*type = rte_le_to_cpu_32(hdr.type);
	sector = rte_le_to_cpu_64(hdr.sector);

	switch (*type) {
	case VIRTIO_BLK_T_IN:
		return read_transfer(req, limits, sector, false);
	case VIRTIO_BLK_T_OUT:
		return read_transfer(req, limits, sector, true);
	case VIRTIO_BLK_T_FLUSH:
		req->io.op = SIM_BLK_FLUSH;
		req->io.durable = false;
		req->io.offset = 0;
		req->io.len = 0;
		return SIM_BLK_SUBMIT;
	case VIRTIO_BLK_T_GET_ID:
		return answer_id(req, serial);
	case VIRTIO_BLK_T_DISCARD:
		return read_ranges(req, limits, true);
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return read_ranges(req, limits, false);
	default:
		return done(req, -EOPNOTSUPP);
	}
}

void
sim_blk_io_begin(struct sim_blk_io *io)
{
	io->left = io->len;
	io->at = 0;
	io->skip = 0;
}

const struct iovec *
sim_blk_io_piece(struct sim_blk_io *io, uint64_t len, unsigned int *niov)
{
	size_t skip = io->skip;
	unsigned int n = 0;

	if (likely(len == io->len)) {
		*niov = io->niov;
		return io->iov;
	}
	for (unsigned int i = io->at; len > 0; i++, skip = 0) {
		size_t part = RTE_MIN(len, io->iov[i].iov_len - skip);

		if (part == 0)
			continue;
		io->scratch[n].iov_base = (uint8_t *)io->iov[i].iov_base + skip;
		io->scratch[n++].iov_len = part;
		len -= part;
	}
	*niov = n;
	return io->scratch;
}

void
sim_blk_io_advance(struct sim_blk_io *io, uint64_t n)
{
	io->left -= n;
	while (n > 0) {
		size_t part = RTE_MIN(n, io->iov[io->at].iov_len - io->skip);

		n -= part;
		io->skip += part;
		if (io->skip == io->iov[io->at].iov_len) {
			io->at++;
			io->skip = 0;
		}
	}
}
