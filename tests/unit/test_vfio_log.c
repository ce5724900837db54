/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The DMA log of functions: what the kernel is asked by VFIO_DEVICE_FEATURE, whose side is played
 * here behind ioctl(), and what a vfio-user server is asked, one that answers as it should or not.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/vfio.h>

#include <cmocka.h>

#include <rte_common.h>

#include "vfu_test.h"

#include "vfio_priv.h"

#define DEVICE	 1234 /* a descriptor that only ioctl() sees */
#define PAGE	 UINT64_C(4096)
#define GIB	 (UINT64_C(1) << 30)
#define LOG_SIZE (16 * GIB / PAGE / 8)
#define GET	 VFIO_DEVICE_FEATURE_GET
#define SET	 VFIO_DEVICE_FEATURE_SET
#define PROBE	 VFIO_DEVICE_FEATURE_PROBE
#define START	 VFIO_DEVICE_FEATURE_DMA_LOGGING_START
#define STOP	 VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP
#define REPORT	 VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT

/* A kernel's driver of a device. */
static struct {
	uint32_t lacks; /* the number of a feature; 0: none */
	int err;	/* of what is not a probe */
	bool on;
	unsigned int calls;
	struct vfio_device_feature_dma_logging_range ranges[32];
	uint32_t n;
	uint64_t page_size;
	struct vfio_device_feature_dma_logging_report report;
} kernel;

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

static int
fails(int err)
{
	errno = err;
	return -1;
}

static int
start(const struct vfio_device_feature *f)
{
	struct vfio_device_feature_dma_logging_control control;

	assert_int_equal(f->argsz, sizeof(*f) + sizeof(control));
	memcpy(&control, f->data, sizeof(control));
	if (kernel.on)
		return fails(EINVAL);
	assert_in_range(control.num_ranges, 1, RTE_DIM(kernel.ranges));
	assert_int_equal(control.__reserved, 0);
	kernel.page_size = control.page_size;
	kernel.n = control.num_ranges;
	memcpy(kernel.ranges, (void *)(uintptr_t)control.ranges,
	       control.num_ranges * sizeof(kernel.ranges[0]));
	kernel.on = true;
	return 0;
}

/* It sets bits and clears none: the third page and the last. */
static int
report(const struct vfio_device_feature *f)
{
	uint8_t *bitmap;
	uint64_t last;

	assert_int_equal(f->argsz, sizeof(*f) + sizeof(kernel.report));
	memcpy(&kernel.report, f->data, sizeof(kernel.report));
	if (!kernel.on)
		return fails(EINVAL);
	last = kernel.report.length / kernel.report.page_size - 1;
	bitmap = (void *)(uintptr_t)kernel.report.bitmap;
	bitmap[0] |= 4;
	bitmap[last / 8] |= (uint8_t)(1u << last % 8);
	return 0;
}

int
__wrap_ioctl(int fd, unsigned long request, ...)
{
	const struct vfio_device_feature *f;
	uint32_t what;
	void *arg;
	va_list ap;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (fd != DEVICE)
		return __real_ioctl(fd, request, arg);
	assert_int_equal(request, VFIO_DEVICE_FEATURE);
	f = arg;
	what = f->flags & VFIO_DEVICE_FEATURE_MASK;
	kernel.calls++;
	if (what == kernel.lacks)
		return fails(ENOTTY);
	if ((f->flags & PROBE) != 0) {
		/* As the kernel has it: nothing but what can be asked for. */
		assert_int_equal(f->argsz, sizeof(*f));
		return (f->flags & ~(PROBE | VFIO_DEVICE_FEATURE_MASK)) ==
				       (what == REPORT ? GET : SET)
			       ? 0
			       : fails(EINVAL);
	}
	if (kernel.err != 0)
		return fails(kernel.err);
	switch (f->flags) {
	case SET | START:
		return start(f);
	case SET | STOP:
		assert_int_equal(f->argsz, sizeof(*f));
		kernel.on = false;
		return 0;
	case GET | REPORT:
		return report(f);
	default:
		return fails(EINVAL);
	}
}

static int
reset_kernel(void **state)
{
	memset(&kernel, 0, sizeof(kernel));
	return 0;
}

static void
the_kernel_is_asked_whether_it_has_all_of_it(void **state)
{
	static const uint32_t features[] = {START, STOP, REPORT};

	assert_true(vdpa_vfio_dma_log_probe(DEVICE));
	assert_int_equal(kernel.calls, 3);
	assert_false(kernel.on);
	for (unsigned int i = 0; i < RTE_DIM(features); i++) {
		kernel.lacks = features[i];
		assert_false(vdpa_vfio_dma_log_probe(DEVICE));
	}
}

static void
the_kernel_logs_ranges_and_reports_them(void **state)
{
	const struct vdpa_dma_range ranges[] = {{0, GIB - 1}, {4 * GIB, 5 * GIB + PAGE - 1}};
	uint64_t bitmap[GIB / PAGE / 64] = {UINT64_C(1) << 7};

	assert_int_equal(vdpa_vfio_dma_log_start(DEVICE, ranges, 2), 0);
	assert_int_equal(kernel.page_size, PAGE);
	assert_int_equal(kernel.n, 2);
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(kernel.ranges[i].iova, ranges[i].first);
		assert_int_equal(kernel.ranges[i].length, ranges[i].last - ranges[i].first + 1);
	}
	assert_int_equal(vdpa_vfio_dma_log_start(DEVICE, ranges, 2), -EINVAL);
	assert_int_equal(vdpa_vfio_dma_log_report(DEVICE, 4 * GIB, GIB, bitmap), 0);
	assert_int_equal(kernel.report.iova, 4 * GIB);
	assert_int_equal(kernel.report.length, GIB);
	assert_int_equal(kernel.report.page_size, PAGE);
	/* What was there stays. */
	assert_true(bitmap[0] == (4 | 1 << 7));
	assert_true(bitmap[GIB / PAGE / 64 - 1] == UINT64_C(1) << 63);
	assert_int_equal(vdpa_vfio_dma_log_stop(DEVICE), 0);
	assert_false(kernel.on);
	assert_int_equal(vdpa_vfio_dma_log_report(DEVICE, 0, PAGE, bitmap), -EINVAL);
}

static void
what_the_kernel_refuses_is_told_by_its_errno(void **state)
{
	const struct vdpa_dma_range range = {0, PAGE - 1};
	uint64_t bitmap[1] = {0};

	kernel.err = ENOMEM;
	assert_int_equal(vdpa_vfio_dma_log_start(DEVICE, &range, 1), -ENOMEM);
	kernel.err = EIO;
	assert_int_equal(vdpa_vfio_dma_log_report(DEVICE, 0, PAGE, bitmap), -EIO);
	assert_int_equal(vdpa_vfio_dma_log_stop(DEVICE), -EIO);
}

/* A vfio-user server. */

struct logged {
	struct vdpa_pci *pci;
	struct vdpa_dirty_log log;
};

static void
open_logged(struct logged *l)
{
	char name[64];

	assert_true(vfu_server_start(&server));
	snprintf(name, sizeof(name), "vfio-user/%s", server.path);
	assert_int_equal(vdpa_pci_open(name, NULL, &l->pci), 0);
	l->log = (struct vdpa_dirty_log){.bitmap = calloc(1, LOG_SIZE), .size = LOG_SIZE, .fd = -1};
	assert_non_null(l->log.bitmap);
}

static void
close_logged(struct logged *l)
{
	vdpa_pci_close(l->pci);
	free(l->log.bitmap);
}

static uint64_t
n_marked(const struct logged *l)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < LOG_SIZE; i++)
		n += (uint64_t)__builtin_popcount(l->log.bitmap[i]);
	return n;
}

static bool
is_marked(const struct logged *l, uint64_t iova)
{
	return (l->log.bitmap[iova / PAGE / 8] >> iova / PAGE % 8 & 1) != 0;
}

static void
a_server_without_a_log_says_so(void **state)
{
	const struct vdpa_dma_range range = {0, PAGE - 1};
	struct logged l;

	open_logged(&l);
	vdpa_error(EIO, "what was said before");
	assert_false(vdpa_pci_logs_dma(l.pci));
	assert_string_equal(vdpa_error_message(), "what was said before");
	assert_int_equal(vdpa_pci_dma_log_start(l.pci, &range, 1), -ENOTTY);
	assert_message("DMA log: it does not begin");
	assert_int_equal(vdpa_pci_error(l.pci), 0);
	close_logged(&l);
}

/* By as many messages as it takes. */
static void
a_server_logs_ranges_and_reports_them(void **state)
{
	const struct vdpa_dma_range ranges[] = {{0, 2 * GIB - 1},
						{4 * GIB, 4 * GIB + 3 * PAGE - 1}};
	struct logged l;

	server.logs_dma = true;
	open_logged(&l);
	assert_true(vdpa_pci_logs_dma(l.pci));
	assert_int_equal(vdpa_pci_dma_log_start(l.pci, ranges, 2), 0);
	assert_int_equal(LOAD(server.log_starts), 1);
	assert_int_equal(server.n_log_ranges, 2);
	assert_int_equal(server.log_ranges[1].iova, 4 * GIB);
	assert_int_equal(server.log_ranges[1].length, 3 * PAGE);
	server.written[0] = PAGE;
	server.written[1] = GIB - PAGE;
	server.written[2] = 2 * GIB - PAGE;
	server.written[3] = 4 * GIB + 2 * PAGE;
	assert_int_equal(vdpa_pci_dma_log_report(l.pci, &ranges[0], &l.log), 0);
	/* Of 128 MiB at most. */
	assert_int_equal(LOAD(server.log_reports), 16);
	assert_true(is_marked(&l, PAGE) && is_marked(&l, GIB - PAGE) &&
		    is_marked(&l, 2 * GIB - PAGE));
	assert_int_equal(n_marked(&l), 3);
	assert_int_equal(vdpa_pci_dma_log_report(l.pci, &ranges[1], &l.log), 0);
	assert_true(is_marked(&l, 4 * GIB + 2 * PAGE));
	assert_int_equal(n_marked(&l), 4);
	/* It has forgotten them. */
	memset(l.log.bitmap, 0, LOG_SIZE);
	assert_int_equal(vdpa_pci_dma_log_report(l.pci, &ranges[0], &l.log), 0);
	assert_int_equal(n_marked(&l), 0);
	assert_int_equal(vdpa_pci_dma_log_stop(l.pci), 0);
	assert_int_equal(LOAD(server.log_stops), 1);
	close_logged(&l);
}

static void
ranges_that_no_log_has_are_refused(void **state)
{
	const struct vdpa_dma_range wrong[][2] = {
		{{0, PAGE}}, {{1, PAGE - 1}}, {{PAGE, 0}}, {{0, PAGE - 1}, {0, PAGE - 1}}};
	struct vdpa_dma_range many[VDPA_PCI_DMA_LOG_RANGES + 1];
	struct logged l;

	server.logs_dma = true;
	server.log_max = 2;
	open_logged(&l);
	for (unsigned int i = 0; i < RTE_DIM(wrong); i++)
		assert_int_equal(vdpa_pci_dma_log_start(l.pci, wrong[i], i == 3 ? 2 : 1), -EINVAL);
	for (unsigned int i = 0; i < RTE_DIM(many); i++)
		many[i] = (struct vdpa_dma_range){i * 2 * PAGE, i * 2 * PAGE + PAGE - 1};
	assert_int_equal(vdpa_pci_dma_log_start(l.pci, many, 0), -EINVAL);
	assert_int_equal(vdpa_pci_dma_log_start(l.pci, many, RTE_DIM(many)), -EINVAL);
	assert_int_equal(LOAD(server.log_starts), 0);
	/* Too many for the server: it goes on without. */
	assert_int_equal(vdpa_pci_dma_log_start(l.pci, many, 3), -ENOMEM);
	assert_int_equal(vdpa_pci_error(l.pci), 0);
	assert_int_equal(vdpa_pci_dma_log_start(l.pci, many, 2), 0);
	close_logged(&l);
}

static void
shorten(struct vfu_reply *reply)
{
	reply->len -= 8;
	reply->hdr.size -= 8;
}

static void
lengthen(struct vfu_reply *reply)
{
	reply->len += 8;
	reply->hdr.size += 8;
}

static void
of_elsewhere(struct vfu_reply *reply)
{
	reply->data[sizeof(struct vfio_user_device_feature)] ^= 0x10;
}

/* A page that is not marked is lost to the guest: such a server is believed nothing any more. */
static void
a_report_that_is_none_ends_the_connection(void **state)
{
	void (*const wrong[])(struct vfu_reply * reply) = {shorten, lengthen, of_elsewhere};
	const struct vdpa_dma_range range = {0, GIB - 1};
	struct spoil spoil = {.command = VFIO_USER_DEVICE_FEATURE};
	struct logged l;

	server.logs_dma = true;
	open_logged(&l);
	for (unsigned int i = 0; i < RTE_DIM(wrong); i++) {
		char name[64];

		if (i > 0) {
			vdpa_pci_close(l.pci);
			snprintf(name, sizeof(name), "vfio-user/%s", server.path);
			assert_int_equal(vdpa_pci_open(name, NULL, &l.pci), 0);
		}
		assert_int_equal(vdpa_pci_dma_log_start(l.pci, &range, 1), 0);
		spoil.change = wrong[i];
		spoil.count = 0;
		spoil.skip = 1;
		vfu_server_set_hook(&server, spoil_hook, &spoil);
		assert_int_equal(vdpa_pci_dma_log_report(l.pci, &range, &l.log), -EPROTO);
		assert_int_equal(vdpa_pci_error(l.pci), -EPROTO);
		assert_int_equal(vdpa_pci_dma_log_stop(l.pci), -EPROTO);
		vfu_server_set_hook(&server, NULL, NULL);
	}
	close_logged(&l);
}

int
main(void)
{
#define KERNEL(name) cmocka_unit_test_setup(name, reset_kernel)
#define SERVER(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		KERNEL(the_kernel_is_asked_whether_it_has_all_of_it),
		KERNEL(the_kernel_logs_ranges_and_reports_them),
		KERNEL(what_the_kernel_refuses_is_told_by_its_errno),
		SERVER(a_server_without_a_log_says_so),
		SERVER(a_server_logs_ranges_and_reports_them),
		SERVER(ranges_that_no_log_has_are_refused),
		SERVER(a_report_that_is_none_ends_the_connection),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
