/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The images of the block class: durable, shrunk, resized, direct, and those that cannot be used.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "sim_blk_test.h"

static bool
uring_or_skip(void)
{
	if (have_uring())
		return true;
	print_message("SKIPPED backend file: io_uring is not permitted here\n");
	skip();
	return false;
}

static void
durable_requests_complete_without_a_cache(void **state)
{
	uint8_t b[4096];
	struct fixture *f;

	if (!uring_or_skip())
		return;
	f = open_device(true, true, NULL);
	memset(b, 3, sizeof(b));
	((struct sim_blk *)f->dev.priv)->write_cache = false;
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, b, sizeof(b)), 0);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 4, 0), 0);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_DISCARD, 4, 2, 0), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, b, sizeof(b)), 0);
	assert_true(all_bytes(b, 0, 6 * 512));
	assert_true(all_bytes(b + 6 * 512, 3, 2 * 512));
	close_device(f);
}

static void
file_that_shrinks_costs_only_the_requests_past_its_end(void **state)
{
	uint8_t b[4096];
	struct fixture *f;

	if (!uring_or_skip())
		return;
	f = open_device(false, true, NULL);
	assert_int_equal(ftruncate(f->image_fd, 8192 + 1000), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, b, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 16, b, 4096), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 1024, b, 4096), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, b, 4096), VIRTIO_BLK_S_OK);
	close_device(f);
}

static void
resize_grows_and_never_shrinks(void **state)
{
	struct vdpa_args args = {.n = 1, .arg = {{.param = sim_blk_class.attr_params}}};
	uint8_t b[512];
	struct fixture *f;

	if (!uring_or_skip())
		return;
	f = open_device(false, true, NULL);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, DISK_SIZE / 512, b, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ftruncate(f->image_fd, 2 * DISK_SIZE), 0);
	assert_int_equal(sim_blk_class.set_attr(&f->dev, &args), 0);
	assert_int_equal(f->config_irqs, 1);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, DISK_SIZE / 512, b, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(ftruncate(f->image_fd, DISK_SIZE), 0);
	assert_int_equal(sim_blk_class.set_attr(&f->dev, &args), -EINVAL);
	close_device(f);
}

/* What is refused when a disk is made is refused when it is changed, and changes nothing. */
static void
resize_refuses_what_a_new_disk_would_be_refused(void **state)
{
	struct vdpa_args args = {.n = 1, .arg = {{.param = sim_blk_class.attr_params}}};
	struct sim_blk_backend_params p = {.device = "b", .blk_size = 4096, .read_only = true};
	struct sim_blk_backend *be;
	struct fixture *f;
	struct sim_blk *blk;

	if (!uring_or_skip())
		return;
	f = open_device(false, true, "blk_size");
	blk = f->dev.priv;
	assert_int_equal(blk->blk_size, 4096);
	assert_int_equal(ftruncate(f->image_fd, DISK_SIZE + 512), 0);
	assert_int_equal(sim_blk_class.set_attr(&f->dev, &args), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "is not 4096 bytes or a multiple of that"));
	assert_int_equal(blk->be->size, DISK_SIZE);
	assert_int_equal(f->config_irqs, 0);
	p.path = f->image;
	p.share_rw = true;
	assert_int_equal(sim_blk_file_open(&p, &be), -EINVAL);
	/* It can be undone, and grow properly. */
	assert_int_equal(ftruncate(f->image_fd, DISK_SIZE), 0);
	assert_int_equal(sim_blk_class.set_attr(&f->dev, &args), 0);
	assert_int_equal(ftruncate(f->image_fd, DISK_SIZE + 4096), 0);
	assert_int_equal(sim_blk_class.set_attr(&f->dev, &args), 0);
	assert_int_equal(f->config_irqs, 1);
	/* As a loop device is told a larger block while it is in use. */
	((struct file_backend *)blk->be)->direct = true;
	((struct file_backend *)blk->be)->mem_align = 0;
	assert_int_equal(sim_blk_class.set_attr(&f->dev, &args), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "direct needs"));
	((struct file_backend *)blk->be)->direct = false;
	close_device(f);
}

static void
direct_image_takes_unaligned_guest_memory(void **state)
{
	static uint8_t in[8192];
	struct fixture *f;
	uint64_t m = slot_mem(0);
	uint32_t len = 0;
	int fd;

	if (!uring_or_skip())
		return;
	fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_DIRECT, 0600);
	if (fd < 0) {
		print_message("SKIPPED direct: no O_DIRECT in /var/tmp\n");
		skip();
	}
	close(fd);
	f = open_device(false, true, "direct");

	struct part out[] = {{m, 16, false}, {m + 0x1001, 8192, false}, {m + 0x100, 1, true}};
	struct part inp[] = {{m, 16, false}, {m + 0x4003, 8192, true}, {m + 0x100, 1, true}};

	put_header(f, 0, VIRTIO_BLK_T_OUT, 8);
	memset(f->mem + m + 0x1001, 0x77, 8192);
	add_chain(f, 0, out, 3);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_OK);
	put_header(f, 0, VIRTIO_BLK_T_IN, 8);
	add_chain(f, 0, inp, 3);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_OK);
	assert_true(all_bytes(f->mem + m + 0x4003, 0x77, 8192));
	assert_int_equal(pread(f->image_fd, in, sizeof(in), 4096), sizeof(in));
	assert_true(all_bytes(in, 0x77, sizeof(in)));
	close_device(f);
}

/* The back end's kick(), which looks at what it is given. */
static int (*channel_kick)(struct sim_blk_channel *ch);
static unsigned int kicks, kicked, largest;

static int
count_kick(struct sim_blk_channel *ch)
{
	if (ch->inflight != kicked) {
		largest = RTE_MAX(largest, ch->inflight - kicked);
		kicks++;
	}
	kicked = ch->inflight;
	return channel_kick(ch);
}

static void
direct_requests_are_submitted_as_they_are_read(void **state)
{
	struct sim_blk_backend_ops ops;
	struct sim_blk_queue *bq;
	struct fixture *f;
	uint32_t len = 0;

	if (!uring_or_skip())
		return;
	f = open_device(false, true, NULL);
	bq = f->q->priv;
	ops = *bq->ch->be->ops;
	channel_kick = ops.kick;
	ops.kick = count_kick;
	for (unsigned int group = 0; group <= 8; group += 8) {
		kicks = kicked = largest = 0;
		bq->ch->group = group;
		bq->ch->be->ops = &ops;
		for (unsigned int s = 0; s < SLOTS; s++) {
			uint64_t m = slot_mem(s);
			struct part p[] = {
				{m, 16, false}, {m + 0x1000, 4096, true}, {m + 0x100, 1, true}};

			put_header(f, s, VIRTIO_BLK_T_IN, s * 8);
			add_chain(f, s, p, 3);
		}
		on_loop(f, do_process);
		bq->ch->be->ops = &sim_blk_file_ops;
		assert_int_equal(kicks, group == 0 ? 1 : SLOTS / group);
		assert_int_equal(largest, group == 0 ? SLOTS : group);
		for (unsigned int s = 0; s < SLOTS; s++)
			assert_in_range(wait_used(f, &len), 0, SLOTS - 1);
	}
	close_device(f);
}

static void
refuses_images_that_cannot_be_used(void **state)
{
	struct sim_blk_backend_params p = {.device = "b", .blk_size = 512};
	struct sim_blk_backend *be, *other;
	struct fixture f = {.image_fd = -1};

	if (!uring_or_skip())
		return;
	p.path = "/nonexistent/image";
	assert_int_equal(sim_blk_file_open(&p, &be), -ENOENT);
	assert_non_null(strstr(vdpa_error_message(), p.path));
	p.path = "/var/tmp";
	assert_true(sim_blk_file_open(&p, &be) < 0);
	make_image(&f, 1000);
	p.path = f.image;
	assert_int_equal(sim_blk_file_open(&p, &be), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), f.image));
	assert_int_equal(ftruncate(f.image_fd, 0), 0);
	assert_int_equal(sim_blk_file_open(&p, &be), -EINVAL);

	assert_int_equal(ftruncate(f.image_fd, 8192), 0);
	assert_int_equal(sim_blk_file_open(&p, &be), 0);
	assert_int_equal(sim_blk_file_open(&p, &other), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), f.image));
	p.read_only = true;
	assert_int_equal(sim_blk_file_open(&p, &other), -EBUSY);
	be->ops->close(be);

	/* Readers share; so do writers that both say so. */
	assert_int_equal(sim_blk_file_open(&p, &be), 0);
	assert_int_equal(sim_blk_file_open(&p, &other), 0);
	other->ops->close(other);
	be->ops->close(be);
	p.read_only = false;
	p.share_rw = true;
	assert_int_equal(sim_blk_file_open(&p, &be), 0);
	assert_int_equal(sim_blk_file_open(&p, &other), 0);
	other->ops->close(other);
	be->ops->close(be);
	close(f.image_fd);
	unlink(f.image);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(durable_requests_complete_without_a_cache),
		cmocka_unit_test(file_that_shrinks_costs_only_the_requests_past_its_end),
		cmocka_unit_test(resize_grows_and_never_shrinks),
		cmocka_unit_test(resize_refuses_what_a_new_disk_would_be_refused),
		cmocka_unit_test(direct_image_takes_unaligned_guest_memory),
		cmocka_unit_test(direct_requests_are_submitted_as_they_are_read),
		cmocka_unit_test(refuses_images_that_cannot_be_used),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
