/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Requests to the block class: data, ranges, layouts, and those that are malformed or mutated. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "sim_blk_test.h"

static void
run_data(struct fixture *f)
{
	static uint8_t out[65536], in[65536];

	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i * 7 + i / 511);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 8, out, sizeof(out)), VIRTIO_BLK_S_OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 8, in, sizeof(in)), VIRTIO_BLK_S_OK);
	assert_memory_equal(in, out, sizeof(out));
	/* The last sector, and what was never written. */
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, DISK_SIZE / 512 - 1, out, 512), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, DISK_SIZE / 512 - 1, in, 512), 0);
	assert_memory_equal(in, out, 512);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 4096, in, 4096), 0);
	assert_true(all_bytes(in, 0, 4096));
	assert_int_equal(vq_stat(f, "reads"), 3);
	assert_int_equal(vq_stat(f, "read_bytes"), sizeof(in) + 512 + 4096);
	assert_int_equal(vq_stat(f, "writes"), 2);
	assert_int_equal(vq_stat(f, "flushes"), 1);
	assert_int_equal(vq_stat(f, "inflight"), 0);
	if (f->file) {
		assert_int_equal(pread(f->image_fd, in, sizeof(in), 4096), sizeof(in));
		assert_memory_equal(in, out, sizeof(out));
	}
}

static void
reads_back_what_was_written(void **state)
{
	each(run_data);
}

static void
run_ranges(struct fixture *f)
{
	static uint8_t ones[32768], in[32768];

	memset(ones, 0xff, sizeof(ones));
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, ones, sizeof(ones)), 0);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_WRITE_ZEROES, 1, 30, 0), 0);
	assert_int_equal(
		ranges(f, VIRTIO_BLK_T_WRITE_ZEROES, 33, 20, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
		0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, in, sizeof(in)), 0);
	assert_true(all_bytes(in, 0xff, 512));
	assert_true(all_bytes(in + 512, 0, 30 * 512));
	assert_true(all_bytes(in + 31 * 512, 0xff, 2 * 512));
	assert_true(all_bytes(in + 33 * 512, 0, 20 * 512));
	assert_true(all_bytes(in + 53 * 512, 0xff, 11 * 512));

	struct virtio_blk_discard_write_zeroes segs[2] = {{0, 8, 0}, {53, 1, 0}};

	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, segs, sizeof(segs)), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, in, sizeof(in)), 0);
	assert_true(all_bytes(in, 0, 4096));
	assert_true(all_bytes(in + 53 * 512, 0, 512));
	assert_true(all_bytes(in + 54 * 512, 0xff, 10 * 512));
	assert_int_equal(vq_stat(f, "discards"), 1);
	assert_int_equal(vq_stat(f, "write_zeroes"), 2);
}

static void
discards_and_zeroes_exactly_the_ranges(void **state)
{
	each(run_ranges);
}

static void
run_refusals(struct fixture *f)
{
	uint64_t last = DISK_SIZE / 512;
	uint8_t b[1024] = {0};
	struct virtio_blk_discard_write_zeroes many[SIM_BLK_DISCARD_SEGS + 1] = {{0, 1, 0}};

	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, b, 511), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, last, b, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, last - 1, b, 1024), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, UINT64_MAX, b, 512), VIRTIO_BLK_S_IOERR);
	/* A sector whose byte offset wraps to 0. */
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, UINT64_C(1) << 55, b, 512),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_DISCARD, last - 1, 2, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_DISCARD, UINT64_MAX, 2, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_DISCARD, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_DISCARD, 0, 1, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 2), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, many, 15), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, many, sizeof(many)),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, NULL, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_SECURE_ERASE, 0, NULL, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(request(f, 0x80000001, 0, NULL, 0), VIRTIO_BLK_S_UNSUPP);
	f->dev.features &= ~SIM_BIT(VIRTIO_BLK_F_DISCARD);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_DISCARD, 0, 1, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(vq_stat(f, "unsupported"), 5);
	assert_int_equal(vq_stat(f, "io_errors"), 11);
	assert_int_equal(f->failed, 0);
}

static void
refuses_what_lies_outside_or_is_unknown(void **state)
{
	each(run_refusals);
}

static void
run_layouts(struct fixture *f)
{
	uint64_t m = slot_mem(0);
	uint32_t len = 0;
	uint8_t in[1024];

	/* Header in two parts, the second with the first bytes of data; status behind the data. */
	struct part out[] = {{m, 7, false},
			     {m + 7, 9 + 100, false},
			     {m + 0x2000, 924, false},
			     {m + 0x100, 1, true}};

	put_header(f, 0, VIRTIO_BLK_T_OUT, 3);
	memset(f->mem + m + 16, 0x5a, 100);
	memset(f->mem + m + 0x2000, 0xa5, 924);
	add_chain(f, 0, out, 4);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_OK);

	struct part inp[] = {{m, 16, false},
			     {m + 0x3000, 1, true},
			     {m + 0x3001, 1000, true},
			     {m + 0x33e9, 24, true}};

	put_header(f, 0, VIRTIO_BLK_T_IN, 3);
	memset(f->mem + m + 0x3000, 0xee, 2048);
	add_chain(f, 0, inp, 4);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(len, 1025);
	memcpy(in, f->mem + m + 0x3000, 1024);
	assert_int_equal(f->mem[m + 0x3400], VIRTIO_BLK_S_OK);
	assert_int_equal(f->mem[m + 0x3401], 0xee);
	assert_true(all_bytes(in, 0x5a, 100));
	assert_true(all_bytes(in + 100, 0xa5, 924));
}

static void
accepts_any_layout_of_header_data_and_status(void **state)
{
	each(run_layouts);
}

static void
run_malformed(struct fixture *f)
{
	uint64_t m = slot_mem(0);
	struct part no_status[] = {{m, 16, false}, {m + 0x1000, 512, false}};
	struct part short_header[] = {{m, 15, false}, {m + 0x100, 1, true}};
	struct part no_header[] = {{m + 0x100, 1, true}};
	uint32_t len = 77;

	put_header(f, 0, VIRTIO_BLK_T_OUT, 0);
	add_chain(f, 0, no_status, 2);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(len, 0);
	add_chain(f, 0, short_header, 2);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_IOERR);
	f->mem[m + 0x100] = 0xee;
	add_chain(f, 0, no_header, 1);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_IOERR);
	assert_int_equal(vq_stat(f, "malformed"), 1);
	/* It goes on. */
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
}

static void
answers_malformed_requests_and_goes_on(void **state)
{
	each(run_malformed);
}

static void
run_id(struct fixture *f)
{
	char id[VIRTIO_BLK_ID_BYTES];

	memset(id, 'x', sizeof(id));
	assert_int_equal(request(f, VIRTIO_BLK_T_GET_ID, 0, id, sizeof(id)), 0);
	assert_memory_equal(id, "SN-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", sizeof(id));
}

static void
tells_its_serial_padded_with_zeroes(void **state)
{
	each(run_id);
}

/* Writes of several pieces, durable by one flush at their end, and what they wrote. */
static void
run_pieces(struct fixture *f)
{
	uint64_t m = slot_mem(0);
	struct part out[SLOT_DESC] = {[0] = {m, 16, false}, [SLOT_DESC - 1] = {m + 0x100, 1, true}};
	uint32_t len = 0;
	uint8_t b[4096];

	((struct sim_blk *)f->dev.priv)->write_cache = false;
	/* Parts of odd lengths, so that pieces end within them. */
	for (unsigned int i = 1; i < SLOT_DESC - 1; i++)
		out[i] = (struct part){m + 0x1000, i % 2 ? 0x1e201 : 0x1ddff, false};
	for (unsigned int i = 0; i < 0x1e201; i++)
		f->mem[m + 0x1000 + i] = (uint8_t)(i / 512 + i);
	put_header(f, 0, VIRTIO_BLK_T_OUT, 8);
	add_chain(f, 0, out, SLOT_DESC);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_OK);
	/* Where the fifth part begins on the disk. */
	for (uint64_t at = 4096, end = 4096 + 2 * 0x3c000; at < end; at += sizeof(b)) {
		uint64_t off = (at - 4096) % 0x3c000;

		assert_int_equal(request(f, VIRTIO_BLK_T_IN, at / 512, b, sizeof(b)), 0);
		for (unsigned int i = 0; i < sizeof(b); i++, off++) {
			uint64_t in = off < 0x1e201 ? off : off - 0x1e201;

			if (off < 0x3c000)
				assert_int_equal(b[i], (uint8_t)(in / 512 + in));
		}
	}
}

static void
moves_large_requests_in_pieces(void **state)
{
	each(run_pieces);
}

static uint32_t
rnd(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*seed >> 33);
}

static void
run_mutations(struct fixture *f)
{
	static const uint32_t types[] = {0, 1, 4, 8, 11, 13, 14, 2, 0x80000001, UINT32_MAX};
	static const uint32_t lens[] = {0, 1, 15, 16, 17, 511, 512, 513, 4096, 4097, 65536};
	uint64_t seed = 42, answered = 0;

	for (int i = 0; i < 2500; i++) {
		unsigned int n = 1 + rnd(&seed) % 6, nw = rnd(&seed) % (n + 1);
		uint64_t m = slot_mem(0);
		struct part parts[6];
		uint32_t len = 0;

		put_header(f, 0, types[rnd(&seed) % RTE_DIM(types)],
			   rnd(&seed) % 4 ? rnd(&seed) % (DISK_SIZE / 512 + 8)
					  : (uint64_t)rnd(&seed) << (rnd(&seed) % 34));
		for (unsigned int b = 0; b < 64; b++)
			if (rnd(&seed) % 8 == 0)
				f->mem[m + 16 + b] = (uint8_t)rnd(&seed);
		for (unsigned int p = 0; p < n; p++)
			parts[p] = (struct part){
				.off = m + (p == 0 ? 0 : rnd(&seed) % 0x8000),
				.len = p == 0 && rnd(&seed) % 4
					       ? 16 + 16 * (rnd(&seed) % 4)
					       : lens[1 + rnd(&seed) % (RTE_DIM(lens) - 1)],
				.write = p >= n - nw,
			};
		add_chain(f, 0, parts, n);
		if (wait_used(f, &len) != 0)
			fail_msg("mutation %d: no answer", i);
		answered++;
	}
	assert_int_equal(answered, 2500);
	assert_int_equal(f->failed, 0);
	assert_int_equal(vq_stat(f, "inflight"), 0);
	assert_true(vq_stat(f, "io_errors") > 0);
	assert_true(vq_stat(f, "malformed") > 0);
	assert_true(vq_stat(f, "unsupported") > 0);
}

/* 4 x 2500 */
static void
survives_ten_thousand_mutated_requests(void **state)
{
	each(run_mutations);
}

static void
read_only_device_refuses_writes(void **state)
{
	struct fixture *f = open_device(false, false, "read-only");
	uint8_t b[512] = {1};

	assert_true((f->dev.device_features & SIM_BIT(VIRTIO_BLK_F_RO)) != 0);
	assert_false((f->dev.device_features & SIM_BIT(VIRTIO_BLK_F_DISCARD)) != 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, b, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, b, 512), VIRTIO_BLK_S_OK);
	assert_true(all_bytes(b, 0, 512));
	close_device(f);
}

static void
write_cache_mode_is_the_only_writable_field(void **state)
{
	struct fixture *f = open_device(false, false, NULL);
	size_t wce = offsetof(struct virtio_blk_config, wce);
	struct sim_blk *blk = f->dev.priv;
	uint8_t v = 0;

	assert_int_equal(f->dev.config[wce], 1);
	assert_int_equal(sim_blk_class.set_config(&f->dev, wce, &v, 1), 0);
	assert_int_equal(f->dev.config[wce], 0);
	assert_false(blk->write_cache);
	v = 2;
	assert_int_equal(sim_blk_class.set_config(&f->dev, wce, &v, 1), -EINVAL);
	assert_int_equal(sim_blk_class.set_config(&f->dev, 0, &v, 1), -EINVAL);
	assert_int_equal(f->dev.config[wce], 0);
	close_device(f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_back_what_was_written),
		cmocka_unit_test(discards_and_zeroes_exactly_the_ranges),
		cmocka_unit_test(refuses_what_lies_outside_or_is_unknown),
		cmocka_unit_test(accepts_any_layout_of_header_data_and_status),
		cmocka_unit_test(answers_malformed_requests_and_goes_on),
		cmocka_unit_test(tells_its_serial_padded_with_zeroes),
		cmocka_unit_test(moves_large_requests_in_pieces),
		cmocka_unit_test(survives_ten_thousand_mutated_requests),
		cmocka_unit_test(read_only_device_refuses_writes),
		cmocka_unit_test(write_cache_mode_is_the_only_writable_field),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
