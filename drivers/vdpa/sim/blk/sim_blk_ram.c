/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Back end `ram SIZE`: sectors in anonymous memory, sparse: a page is allocated by its first write
 * and given back by a discard. Every I/O is a copy, done at once as far as the device's turn
 * reaches, and in order. Gone with the device.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <rte_common.h>

#include "sim_blk_backend.h"
#include "vdpa_args.h"

/* Bytes of a discard or of zeroes in one segment. */
#define RAM_MAX_SECTORS ((16u << 20) / SIM_BLK_SECTOR_SIZE)

struct ram_backend {
	struct sim_blk_backend be;
	uint8_t *mem;
	size_t page;
};

struct ram_channel {
	struct sim_blk_channel ch;
	struct sim_blk_io *current; /* under way; the request engine submits none behind it */
};

static void
ram_close(struct sim_blk_backend *be)
{
	struct ram_backend *ram = (struct ram_backend *)be;

	munmap(ram->mem, ram->be.size);
	free(ram);
}

static int
ram_channel_open(struct sim_blk_backend *be, unsigned int depth, struct sim_blk_channel **out)
{
	struct ram_channel *rc = calloc(1, sizeof(*rc));

	if (rc == NULL)
		return vdpa_error(ENOMEM, "no memory for a channel");
	rc->ch.be = be;
	rc->ch.fd = -1;
	*out = &rc->ch;
	return 0;
}

static void
ram_channel_close(struct sim_blk_channel *ch)
{
	free((struct ram_channel *)ch);
}

/* Give back the whole pages of a range, clear the rest of it. */
static int
ram_punch(struct ram_backend *ram, uint64_t offset, uint64_t len)
{
	uint64_t first = RTE_ALIGN_CEIL(offset, ram->page);
	uint64_t last = RTE_ALIGN_FLOOR(offset + len, ram->page);

	if (first >= last) {
		memset(ram->mem + offset, 0, len);
		return 0;
	}
	memset(ram->mem + offset, 0, first - offset);
	memset(ram->mem + last, 0, offset + len - last);
	if (madvise(ram->mem + first, last - first, MADV_DONTNEED) != 0)
		return -errno;
	return 0;
}

static void
ram_copy(struct ram_backend *ram, struct sim_blk_io *io, uint64_t len)
{
	uint8_t *p = ram->mem + io->offset + io->len - io->left;
	unsigned int n;
	const struct iovec *iov = sim_blk_io_piece(io, len, &n);

	for (unsigned int i = 0; i < n; p += iov[i++].iov_len)
		if (io->op == SIM_BLK_READ)
			memcpy(iov[i].iov_base, p, iov[i].iov_len);
		else
			memcpy(p, iov[i].iov_base, iov[i].iov_len);
	sim_blk_io_advance(io, len);
}

/* Pieces as the turn lets them be. False: it goes on in the next one. */
static bool
ram_continue(struct sim_blk_channel *ch, struct sim_blk_io *io)
{
	struct ram_backend *ram = (struct ram_backend *)ch->be;
	uint64_t offset, len;

	while (io->left > 0 && io->result == 0) {
		if (!sim_turn_left(ch->turn))
			return false;
		/* Pieces end where pages do, so that none is cleared by halves. */
		offset = io->offset + io->len - io->left;
		len = RTE_MIN(io->left, SIM_PIECE - offset % SIM_PIECE);
		sim_turn_charge(ch->turn, len);
		if (io->op == SIM_BLK_READ || io->op == SIM_BLK_WRITE) {
			ram_copy(ram, io, len);
			continue;
		}
		if (io->op == SIM_BLK_WRITE_ZEROES && !io->unmap)
			memset(ram->mem + offset, 0, len);
		else
			io->result = ram_punch(ram, offset, len);
		io->left -= len;
	}
	return true;
}

static bool
ram_submit(struct sim_blk_channel *ch, struct sim_blk_io *io)
{
	struct ram_channel *rc = (struct ram_channel *)ch;

	io->result = 0;
	sim_blk_io_begin(io);
	if (ram_continue(ch, io))
		return true;
	rc->current = io;
	ch->inflight = ch->waiting = 1;
	return false;
}

static unsigned int
ram_reap(struct sim_blk_channel *ch, struct sim_blk_io **ios, unsigned int n)
{
	struct ram_channel *rc = (struct ram_channel *)ch;

	if (rc->current == NULL || !ram_continue(ch, rc->current))
		return 0;
	ios[0] = rc->current;
	rc->current = NULL;
	ch->inflight = ch->waiting = 0;
	return 1;
}

/* What is left of it would end soon; but whoever cancels does not wait. */
static void
ram_cancel(struct sim_blk_channel *ch)
{
	struct ram_channel *rc = (struct ram_channel *)ch;

	if (rc->current != NULL)
		rc->current->result = -ECANCELED;
}

static const struct sim_blk_backend_ops ram_ops = {
	.name = "ram",
	.in_order = true,
	.close = ram_close,
	.channel_open = ram_channel_open,
	.channel_close = ram_channel_close,
	.submit = ram_submit,
	.reap = ram_reap,
	.cancel = ram_cancel,
};

int
sim_blk_ram_open(const struct sim_blk_backend_params *params, struct sim_blk_backend **be)
{
	struct ram_backend *ram;
	int err;

	if (params->size == 0 || params->size % params->blk_size != 0)
		return vdpa_error(EINVAL, "%s: ram size %" PRIu64 " is not a multiple of %u bytes",
				  params->device, params->size, params->blk_size);
	ram = calloc(1, sizeof(*ram));
	if (ram == NULL)
		return vdpa_error(ENOMEM, "%s: no memory for the back end", params->device);
	ram->page = (size_t)sysconf(_SC_PAGESIZE);
	ram->mem = mmap(NULL, params->size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ram->mem == MAP_FAILED) {
		err = errno;
		free(ram);
		return vdpa_error(err, "%s: cannot map %" PRIu64 " bytes for ram: %s",
				  params->device, params->size, strerror(err));
	}
	/* A guest's disk has no place in our core dump. */
	madvise(ram->mem, params->size, MADV_DONTDUMP);
	ram->be = (struct sim_blk_backend){
		.ends = "the disk of backend ram ends with the process",
		.ops = &ram_ops,
		.size = params->size,
		.granularity = SIM_BLK_SECTOR_SIZE,
		.can_discard = true,
		.can_write_zeroes = true,
		.may_unmap = true,
		.max_discard = RAM_MAX_SECTORS,
		.max_write_zero = RAM_MAX_SECTORS,
	};
	*be = &ram->be;
	return 0;
}
