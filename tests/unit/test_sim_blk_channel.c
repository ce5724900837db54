/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The channel of sim_blk's back end `file` by itself, turn by turn: what it gives to the kernel at
 * once, and what it says of it.
 */

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <liburing.h>

#include "test_util.h"

#include "blk/sim_blk_backend.h"

#define BLOCK	  4096u
#define IOS	  32u
#define DISK_SIZE (4u << 20)
#define LARGE	  (1u << 20)

struct disk {
	char path[32];
	struct sim_blk_backend *be;
	struct sim_blk_channel *ch;
	struct sim_turn turn;
	struct sim_blk_io io[IOS];
	struct iovec iov[IOS], scratch[IOS];
	uint8_t *mem; /* LARGE and some more */
	unsigned int done;
};

/* Block n is full of the byte n. */
static bool
disk_open(struct disk *d, bool direct)
{
	struct sim_blk_backend_params params = {
		.device = "d0", .path = d->path, .blk_size = 512, .direct = direct};
	uint8_t block[BLOCK];
	struct io_uring ring;
	int fd;

	memset(d, 0, sizeof(*d));
	if (io_uring_queue_init(1, &ring, 0) < 0) {
		print_message("SKIPPED no io_uring\n");
		return false;
	}
	io_uring_queue_exit(&ring);
	strcpy(d->path, "/var/tmp/test_channel.XXXXXX");
	fd = mkstemp(d->path);
	assert_true(fd >= 0);
	for (unsigned int i = 0; i < DISK_SIZE / BLOCK; i++) {
		memset(block, (int)i, sizeof(block));
		assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
	}
	assert_int_equal(fsync(fd), 0);
	close(fd);
	if (sim_blk_file_open(&params, &d->be) < 0) {
		unlink(d->path);
		assert_true(direct);
		print_message("SKIPPED no O_DIRECT in /var/tmp\n");
		return false;
	}
	assert_int_equal(d->be->ops->channel_open(d->be, IOS, &d->ch), 0);
	d->ch->turn = &d->turn;
	assert_int_equal(posix_memalign((void **)&d->mem, BLOCK, LARGE + BLOCK), 0);
	sim_turn_begin(&d->turn, 0);
	return true;
}

static void
disk_close(struct disk *d)
{
	assert_int_equal(d->ch->inflight, 0);
	assert_int_equal(d->turn.lent, 0);
	d->be->ops->channel_close(d->ch);
	d->be->ops->close(d->be);
	free(d->mem);
	unlink(d->path);
}

static void
submit(struct disk *d, unsigned int i, enum sim_blk_op op, uint64_t block, void *mem, uint32_t len)
{
	d->iov[i] = (struct iovec){mem, len};
	d->io[i] = (struct sim_blk_io){.op = op,
				       .offset = block * BLOCK,
				       .len = len,
				       .iov = &d->iov[i],
				       .niov = 1,
				       .scratch = &d->scratch[i],
				       .result = 1};
	assert_false(d->be->ops->submit(d->ch, &d->io[i]));
}

/* Of what the kernel has been given, in a new turn. */
static unsigned int
reap(struct disk *d)
{
	struct sim_blk_io *ios[IOS];
	unsigned int n;

	sim_turn_begin(&d->turn, 0);
	n = d->be->ops->reap(d->ch, ios, IOS);
	for (unsigned int i = 0; i < n; i++)
		assert_int_equal(ios[i]->result, 0);
	d->done += n;
	return d->done;
}

static unsigned int
kick_and_reap(struct disk *d)
{
	assert_int_equal(d->be->ops->kick(d->ch), 0);
	return reap(d);
}

static void
small_requests_that_need_other_memory_are_under_way_together(void **state)
{
	struct disk d;

	if (!disk_open(&d, true))
		skip();
	/* Memory that no O_DIRECT takes: 64 bytes past a block each. */
	for (unsigned int i = 0; i < IOS; i++)
		submit(&d, i, SIM_BLK_READ, 3 * i, d.mem + i * (BLOCK + 64) + 64, BLOCK);
	assert_int_equal(d.be->ops->kick(d.ch), 0);
	/* All of them, by that one kick. */
	EVENTUALLY(reap(&d) == IOS);
	for (unsigned int i = 0; i < IOS; i++)
		for (unsigned int k = 0; k < BLOCK; k++)
			assert_int_equal(d.mem[i * (BLOCK + 64) + 64 + k], (uint8_t)(3 * i));
	disk_close(&d);
}

/* Requests of every size together: there is not room for all of them, and each gets its own data.
 */
static void
requests_that_need_other_memory_wait_for_room(void **state)
{
	static const uint32_t blocks[] = {1, 64, 3, 96, 1, 7, 31, 1};
	uint8_t *p[RTE_DIM(blocks)];
	struct disk d;

	if (!disk_open(&d, true))
		skip();
	for (unsigned int round = 0; round < 2; round++) {
		unsigned int n = 0, first = 0;

		for (unsigned int i = 0; i < RTE_DIM(blocks); first += blocks[i++]) {
			p[i] = d.mem + 64 + n;
			n += blocks[i] * BLOCK;
			assert_in_range(n, 0, LARGE);
			/* Written in reverse, as 0x80 and the request, then read. */
			if (round == 0)
				memset(p[i], (int)(0x80 + i), blocks[i] * BLOCK);
			else
				memset(p[i], 0xee, blocks[i] * BLOCK);
			submit(&d, i, round == 0 ? SIM_BLK_WRITE : SIM_BLK_READ, first, p[i],
			       blocks[i] * BLOCK);
		}
		d.done = 0;
		EVENTUALLY(kick_and_reap(&d) == RTE_DIM(blocks));
		for (unsigned int i = 0; i < RTE_DIM(blocks); i++)
			for (unsigned int k = 0; k < blocks[i] * BLOCK; k++)
				assert_int_equal(p[i][k], 0x80 + i);
	}
	disk_close(&d);
}

static void
cached_writes_are_lent_until_they_are_done(void **state)
{
	struct disk d;

	if (!disk_open(&d, false))
		skip();
	assert_false(sim_turn_gives_way(&d.turn));
	for (unsigned int i = 0; i < 8; i++)
		submit(&d, i, SIM_BLK_WRITE, i, d.mem + i * BLOCK, BLOCK);
	assert_int_equal(d.turn.lent, 8 * BLOCK);
	assert_true(sim_turn_gives_way(&d.turn));
	EVENTUALLY(kick_and_reap(&d) == 8);
	assert_int_equal(d.turn.lent, 0);
	/* Of large ones as much as is written by one system call each, and as the turn lets be. */
	for (unsigned int i = 0; i < 5; i++)
		submit(&d, i, SIM_BLK_WRITE, 0, d.mem, LARGE);
	assert_int_equal(d.turn.lent, SIM_TURN_BYTES);
	assert_true(sim_turn_gives_way(&d.turn));
	/* They would take long with what the next turn adds. */
	sim_turn_begin(&d.turn, 0);
	submit(&d, 5, SIM_BLK_WRITE, 0, d.mem, BLOCK);
	assert_int_equal(d.turn.lent, SIM_TURN_BYTES + SIM_PIECE + BLOCK);
	assert_false(sim_turn_gives_way(&d.turn));
	d.done = 0;
	EVENTUALLY(kick_and_reap(&d) == 6);
	/* Reads are the worker's own. */
	submit(&d, 0, SIM_BLK_READ, 0, d.mem, BLOCK);
	assert_int_equal(d.turn.lent, 0);
	d.done = 0;
	EVENTUALLY(kick_and_reap(&d) == 1);
	disk_close(&d);
}

static void
direct_writes_are_not_lent(void **state)
{
	struct disk d;

	if (!disk_open(&d, true))
		skip();
	submit(&d, 0, SIM_BLK_WRITE, 0, d.mem, BLOCK);
	assert_int_equal(d.turn.lent, 0);
	EVENTUALLY(kick_and_reap(&d) == 1);
	disk_close(&d);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(small_requests_that_need_other_memory_are_under_way_together),
		cmocka_unit_test(requests_that_need_other_memory_wait_for_room),
		cmocka_unit_test(cached_writes_are_lent_until_they_are_done),
		cmocka_unit_test(direct_writes_are_not_lent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
