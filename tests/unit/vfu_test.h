/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What the tests of the vfio-user client share. Include it after cmocka.h. */

#ifndef VFU_TEST_H
#define VFU_TEST_H

#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>

#include "test_util.h"

#include "pci_priv.h"
#include "vdpa.h"
#include "vdpa_event.h"
#include "vdpa_foreign_fd.h"
#include "vfu_server.h"

#define T	(&vdpa_pci_vfio_user)
#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define CONFIG	VFIO_PCI_CONFIG_REGION_INDEX

/* Of functions that answer: no machine is so slow. */
#define PATIENT_MS 10000
/* Of cases that wait it out, and need some answers in it before. */
#define SHORT_MS   1000

static struct vfu_server server;
static unsigned int fds_before;

/* An open function, without pci.c. */
struct function {
	struct vdpa_pci_info info;
	struct vdpa_dma_domain *dma;
	struct vdpa_dma_user *user; /* set_memory() */
	void *handle;
};

static inline int
setup(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC);

	/* The first signal of a process and its first look at a descriptor open a file for good. */
	vdpa_eventfd_signal(fd);
	(void)vdpa_fd_is_eventfd(-1);
	close(fd);
	fds_before = count_fds();
	vfu_server_init(&server);
	return 0;
}

/* No file descriptor is left, here or in the server, whatever the test did. Those of others are
 * closed by a thread of their own, some time. */
static inline int
teardown(void **state)
{
	vfu_server_stop(&server);
	EVENTUALLY(count_fds() <= fds_before);
	return 0;
}

/* timeout_ms: 0 for PATIENT_MS. */
static inline int
open_function(struct function *f, unsigned int timeout_ms)
{
	const struct vdpa_pci_params params = {.timeout_ms =
						       timeout_ms != 0 ? timeout_ms : PATIENT_MS};

	memset(f, 0, sizeof(*f));
	return T->open(NULL, server.path, &params, &f->info, &f->dma, &f->handle);
}

/* Have this memory in the function's domain, NULL: none. It is no user while it has none. */
static inline int
set_memory(struct function *f, struct vdpa_iotlb *tlb)
{
	int rc;

	if (f->user == NULL)
		assert_int_equal(vdpa_dma_join(f->dma, "user", &f->user), 0);
	rc = vdpa_dma_set(f->user, tlb);
	if ((tlb == NULL) == (rc == 0)) {
		vdpa_dma_leave(f->user);
		f->user = NULL;
	}
	return rc;
}

static inline void
start_and_open(struct function *f)
{
	assert_true(vfu_server_start(&server));
	assert_int_equal(open_function(f, 0), 0);
}

static inline int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static inline void
assert_message(const char *part)
{
	if (strstr(vdpa_error_message(), part) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", vdpa_error_message(), part);
}

/* A table of one region of memory at 1 MiB. */
static inline struct vdpa_iotlb *
guest_memory(uint64_t size, uint64_t offset)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);
	const struct vdpa_mem_region_spec spec = {
		.iova = 0x100000, .uaddr = 0x100000, .size = size, .offset = offset, .fd = fd};
	struct vdpa_iotlb *tlb;

	assert_int_equal(ftruncate(fd, (off_t)(size + offset)), 0);
	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &tlb), 0);
	close(fd);
	return tlb;
}

/* Change the reply to one request, and leave the others. */
struct spoil {
	uint16_t command;
	unsigned int skip; /* so many of them first */
	void (*change)(struct vfu_reply *reply);
	unsigned int count; /* of them so far */
};

static inline void
spoil_hook(struct vfu_server *s, const struct vfio_user_header *request, struct vfu_reply *reply)
{
	struct spoil *spoil = s->arg;

	if (request->command == spoil->command && spoil->count++ == spoil->skip)
		spoil->change(reply);
}

/* A thread that reads a register, and how that ended. */
struct reader {
	struct function *f;
	int rc;
	bool done;
};

#endif /* VFU_TEST_H */
