/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The device behind a vhost-user connection, without the connection. */

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>

#include "control_group.h"
#include "device_priv.h"
#include "fake_device.h"
#include "test_util.h"
#include "vhost_user_priv.h"
#include "vhost_user_test.h"

/* A line of the log names the device and the queue once. */
static void
what_a_line_begins_with_is_not_said_again(void **state)
{
	struct fixture *f = *state;

	vdpa_error(EIO, "fake0: queue 1: it is stuck");
	assert_string_equal(vdpa_vhu_why(&f->dev, 1), "it is stuck");
	assert_string_equal(vdpa_vhu_why(&f->dev, 0), "queue 1: it is stuck");
	assert_string_equal(vdpa_vhu_why(&f->dev, -1), "queue 1: it is stuck");
	vdpa_error(EIO, "fake01: queue 1");
	assert_string_equal(vdpa_vhu_why(&f->dev, 1), "fake01: queue 1");
}

#define TEST(fn, setup) cmocka_unit_test_setup_teardown(fn, setup, teardown)

static int
setup_logging(void **state)
{
	static const struct vdpa_dma_ops ops = {.map = map_nothing, .unmap = map_nothing};
	struct vdpa_dma_limits limits = {.page_size = 4096};
	struct fixture *f = calloc(1, sizeof(*f));

	assert_int_equal(vdpa_dma_domain_create("iommu", &ops, NULL, &limits, &f->dma), 0);
	f->fake = fake_logging_new("fake0", f->dma);
	make_session(f);
	f->s->protocol = RTE_BIT64(VHOST_USER_PROTOCOL_F_LOG_SHMFD);
	*state = f;
	return 0;
}

static enum vhu_verdict
set_log_base(struct fixture *f, uint64_t offset)
{
	struct vhu_msg msg = {.request = VHU_SET_LOG_BASE,
			      .flags = VHU_FLAGS_VERSION,
			      .size = sizeof(msg.payload.log),
			      .payload.log = {.mmap_size = 4096, .mmap_offset = offset}};
	struct vhu_received req = {.s = f->s, .msg = &msg, .nfds = 1, .reply_fd = -1};

	req.fds[0] = memfd_create("log", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(req.fds[0], 0x10000), 0);
	return vdpa_vhu_handle(&req);
}

/* Of its files, the descriptors that are open: others may still be closing a test's before. */
static unsigned int
count_logs(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	assert_non_null(dir);
	for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
		char target[64] = "";

		if (readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1) > 0)
			n += strncmp(target, "/memfd:log", strlen("/memfd:log")) == 0;
	}
	closedir(dir);
	return n;
}

/* The driver can map the file by DMA, as long as it is the log. */
static void
a_log_comes_with_its_file(void **state)
{
	struct fixture *f = *state;
	struct vdpa_dma_log map = {.size = 0};

	set_up_ring(f, 0);
	enable_ring(f, 0);
	assert_int_equal(set_log_base(f, 0x2000), VHU_VERDICT_REPLY);
	assert_int_equal(vdpa_consumer_set_features(f->s->consumer,
						    V1 | RTE_BIT64(VHOST_USER_F_PROTOCOL_FEATURES) |
							    RTE_BIT64(VHOST_F_LOG_ALL)),
			 0);
	for (unsigned int i = 0; i < 2; i++) {
		assert_non_null(f->fake->log);
		assert_int_equal(f->fake->log->offset, 0x2000 + i * 0x3000);
		assert_int_equal(lseek(f->fake->log->fd, 0, SEEK_END), 0x10000);
		assert_int_equal(vdpa_dma_map_log(f->dma, f->fake->log, NULL, &map), 0);
		vdpa_dma_unmap_log(f->dma, &map);
		/* The one before goes with its file. */
		assert_int_equal(count_logs(), 1);
		assert_int_equal(set_log_base(f, 0x5000), VHU_VERDICT_REPLY);
	}
	/* One that is refused is not kept. */
	f->fake->fail_log_start = true;
	assert_int_equal(set_log_base(f, 0x1000), VHU_VERDICT_CLOSE);
	assert_int_equal(count_logs(), 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_a_line_begins_with_is_not_said_again, setup),
		TEST(a_log_comes_with_its_file, setup_logging),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
