/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Back end `ram SIZE`: sectors in anonymous memory, sparse: a page is allocated by its first write
 * and given back by a discard. Every I/O is a copy and done at once. Gone with the device.
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

/*
 * Bounds of what one segment can cost the worker, which serves other devices too: clearing or
 * giving back 16 MiB takes a few milliseconds.
 */
#define RAM_MAX_SECTORS ((16u << 20) / SIM_BLK_SECTOR_SIZE)

struct ram_backend {
	struct sim_blk_backend be;
	uint8_t *mem;
	size_t page;
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
	struct sim_blk_channel *ch = calloc(1, sizeof(*ch));

	if (ch == NULL)
		return vdpa_error(ENOMEM, "no memory for a channel");
	ch->be = be;
	ch->fd = -1;
	*out = ch;
	return 0;
}

static void
ram_channel_close(struct sim_blk_channel *ch)
{
	free(ch);
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

static bool
ram_submit(struct sim_blk_channel *ch, struct sim_blk_io *io)
{
	struct ram_backend *ram = (struct ram_backend *)ch->be;
	uint8_t *p = ram->mem + io->offset;

	io->result = 0;
	switch (io->op) {
	case SIM_BLK_READ:
		for (unsigned int i = 0; i < io->niov; p += io->iov[i++].iov_len)
			memcpy(io->iov[i].iov_base, p, io->iov[i].iov_len);
		break;
	case SIM_BLK_WRITE:
		for (unsigned int i = 0; i < io->niov; p += io->iov[i++].iov_len)
			memcpy(p, io->iov[i].iov_base, io->iov[i].iov_len);
		break;
	case SIM_BLK_WRITE_ZEROES:
		if (!io->unmap) {
			memset(p, 0, io->len);
			break;
		}
		/* fallthrough */
	case SIM_BLK_DISCARD:
		io->result = ram_punch(ram, io->offset, io->len);
		break;
	case SIM_BLK_FLUSH:
		break;
	}
	return true;
}

static const struct sim_blk_backend_ops ram_ops = {
	.name = "ram",
	.close = ram_close,
	.channel_open = ram_channel_open,
	.channel_close = ram_channel_close,
	.submit = ram_submit,
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
