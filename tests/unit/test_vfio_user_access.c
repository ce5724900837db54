/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The vfio-user client against a server that means well, but may be slow or busy: regions,
 * interrupts, memory and time. Tests of the transport call it directly; what a driver sees of it
 * goes through vdpa_pci_open().
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "vfu_test.h"

/* Good paths. */

static void
a_device_is_found_with_its_regions_and_interrupts(void **state)
{
	struct function f;

	start_and_open(&f);
	assert_true(f.info.can_reset);
	assert_int_equal(f.info.numa_node, -1);
	assert_int_equal(f.info.regions[CONFIG].size, 256);
	assert_int_equal(f.info.regions[CONFIG].fd, -1);
	assert_int_equal(f.info.regions[0].size, 0);
	assert_int_equal(f.info.regions[4].size, 16384);
	assert_true(f.info.regions[4].fd >= 0);
	assert_true(f.info.regions[4].flags & VFIO_REGION_INFO_FLAG_MMAP);
	assert_int_equal(f.info.regions[4].n_parts, 1);
	assert_int_equal(f.info.regions[4].parts[0].offset, 12288);
	assert_int_equal(f.info.regions[4].parts[0].size, 4096);
	/* It is not handed on to programs that we start. */
	assert_int_equal(fcntl(f.info.regions[4].fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(f.info.nr_irqs[VFIO_PCI_MSIX_IRQ_INDEX], 20);
	assert_int_equal(f.info.nr_irqs[VFIO_PCI_INTX_IRQ_INDEX], 1);
	assert_int_equal(f.info.nr_irqs[VFIO_PCI_MSI_IRQ_INDEX], 0);
	T->close(f.handle);
}

static void
registers_are_read_and_written(void **state)
{
	struct function f;
	uint32_t value = 0;

	start_and_open(&f);
	assert_int_equal(T->read(f.handle, CONFIG, 0, &value, 4), 0);
	assert_int_equal(value, 0x10411af4);
	value = 0xcafe;
	assert_int_equal(T->write(f.handle, 4, 20, &value, 2), 0);
	value = 0;
	assert_int_equal(T->read(f.handle, 4, 20, &value, 4), 0);
	assert_int_equal(value, 0xcafe);
	assert_int_equal(T->reset(f.handle), 0);
	T->close(f.handle);
}

/* How a thread waits for replies; while it is watched, poll() and sched_yield() are the test's. */
static __thread struct {
	bool watched;
	struct pollfd socket; /* at which it has looked */
	unsigned int sleeps;
} waiter;

int __real_poll(struct pollfd *fds, nfds_t n, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout);
int __real_sched_yield(void);
int __wrap_sched_yield(void);

int
__wrap_poll(struct pollfd *fds, nfds_t n, int timeout)
{
	waiter.sleeps += waiter.watched && timeout != 0;
	waiter.socket = fds[0];
	return __real_poll(fds, n, timeout);
}

/* The reply comes while others have the CPU. */
int
__wrap_sched_yield(void)
{
	return waiter.watched ? __real_poll(&waiter.socket, 1, 5000) : __real_sched_yield();
}

static void
a_reply_that_comes_at_once_is_not_slept_for(void **state)
{
	struct function f;
	uint32_t value;

	start_and_open(&f);
	waiter.watched = true;
	for (unsigned int i = 0; i < 100; i++)
		assert_int_equal(T->read(f.handle, CONFIG, 0, &value, 4), 0);
	waiter.watched = false;
	assert_int_equal(waiter.sleeps, 0);
	T->close(f.handle);
}

static void
an_access_is_split_as_the_server_needs_it(void **state)
{
	struct function f;
	uint8_t in[256], out[256];
	unsigned int before;

	server.json = "{\"capabilities\":{\"max_data_xfer_size\":24}}";
	start_and_open(&f);
	for (unsigned int i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(3 * i);
	before = LOAD(server.requests);
	assert_int_equal(T->write(f.handle, CONFIG, 0, in, sizeof(in)), 0);
	assert_int_equal(LOAD(server.requests), before + 11);
	assert_int_equal(server.writes[10].count, 16);
	assert_int_equal(T->read(f.handle, CONFIG, 0, out, sizeof(out)), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(LOAD(server.requests), before + 22);
	T->close(f.handle);
}

static void
assert_irqs(unsigned int i, uint32_t flags, uint32_t index, uint32_t start, uint32_t count,
	    unsigned int n_fds)
{
	const struct vfu_server_irqs *irqs = &server.irqs[i];

	assert_true(LOAD(server.n_irqs) > i);
	assert_int_equal(irqs->flags, flags);
	assert_int_equal(irqs->index, index);
	assert_int_equal(irqs->start, start);
	assert_int_equal(irqs->count, count);
	assert_int_equal(irqs->n_fds, n_fds);
}

#define EVENTFDS (VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER)

static void
vectors_are_set_in_chunks_and_gaps_are_released(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC), fds[16];
	struct function f;

	start_and_open(&f); /* max_msg_fds is 8 */
	for (unsigned int i = 0; i < 16; i++)
		fds[i] = i == 10 || i == 11 || i == 15 ? -1 : fd;
	assert_int_equal(T->set_irqs(f.handle, VFIO_PCI_MSIX_IRQ_INDEX, 2, 16, fds), 0);
	assert_int_equal(LOAD(server.n_irqs), 5);
	assert_irqs(0, EVENTFDS, VFIO_PCI_MSIX_IRQ_INDEX, 2, 8, 8);
	assert_irqs(1, EVENTFDS, VFIO_PCI_MSIX_IRQ_INDEX, 10, 2, 2);
	assert_irqs(2, EVENTFDS, VFIO_PCI_MSIX_IRQ_INDEX, 12, 2, 0);
	assert_irqs(3, EVENTFDS, VFIO_PCI_MSIX_IRQ_INDEX, 14, 3, 3);
	assert_irqs(4, EVENTFDS, VFIO_PCI_MSIX_IRQ_INDEX, 17, 1, 0);
	assert_int_equal(T->set_irqs(f.handle, VFIO_PCI_MSIX_IRQ_INDEX, 0, 0, NULL), 0);
	assert_irqs(5, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
		    VFIO_PCI_MSIX_IRQ_INDEX, 0, 0, 0);
	assert_int_equal(T->unmask_irq(f.handle, VFIO_PCI_INTX_IRQ_INDEX), 0);
	assert_irqs(6, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, VFIO_PCI_INTX_IRQ_INDEX,
		    0, 1, 0);
	T->close(f.handle);
	close(fd);
}

static void
a_server_that_says_nothing_gets_one_file_a_message(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC), fds[] = {fd, fd, fd};
	struct function f;

	server.json = NULL;
	start_and_open(&f);
	assert_int_equal(T->set_irqs(f.handle, VFIO_PCI_MSIX_IRQ_INDEX, 0, 3, fds), 0);
	assert_int_equal(LOAD(server.n_irqs), 3);
	for (unsigned int i = 0; i < 3; i++)
		assert_irqs(i, EVENTFDS, VFIO_PCI_MSIX_IRQ_INDEX, i, 1, 1);
	T->close(f.handle);
	close(fd);
}

static void
the_server_signals_the_eventfd_of_a_vector(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct function f;
	eventfd_t value = 0;

	start_and_open(&f);
	assert_int_equal(T->set_irqs(f.handle, VFIO_PCI_MSIX_IRQ_INDEX, 0, 1, &fd), 0);
	eventfd_write(server.vector0, 1);
	assert_int_equal(eventfd_read(fd, &value), 0);
	T->close(f.handle);
	close(fd);
}

static void
memory_that_is_read_only_is_so_to_the_server(void **state)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);
	const struct vdpa_mem_region_spec spec = {
		.iova = 0x100000, .uaddr = 0x100000, .size = 65536, .fd = fd, .readonly = true};
	struct vdpa_iotlb *tlb;
	struct function f;

	assert_int_equal(ftruncate(fd, 65536), 0);
	start_and_open(&f);
	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &tlb), 0);
	assert_int_equal(set_memory(&f, tlb), 0);
	assert_int_equal(server.dma[0].m.flags, 1);
	assert_int_equal(set_memory(&f, NULL), 0);
	vdpa_iotlb_put(tlb);
	T->close(f.handle);
	close(fd);
}

static void
memory_is_mapped_with_its_file_and_unmapped(void **state)
{
	struct vdpa_iotlb *tlb = guest_memory(65536, 4096);
	struct function f;

	start_and_open(&f);
	assert_int_equal(set_memory(&f, tlb), 0);
	assert_int_equal(LOAD(server.n_dma), 1);
	assert_true(server.dma[0].map);
	assert_int_equal(server.dma[0].n_fds, 1);
	assert_int_equal(server.dma[0].m.argsz, 32);
	assert_int_equal(server.dma[0].m.flags, 3);
	assert_int_equal(server.dma[0].m.offset, 4096);
	assert_int_equal(server.dma[0].m.address, 0x100000);
	assert_int_equal(server.dma[0].m.size, 65536);
	assert_int_equal(set_memory(&f, NULL), 0);
	assert_int_equal(LOAD(server.n_dma), 2);
	assert_false(server.dma[1].map);
	assert_int_equal(server.dma[1].m.address, 0x100000);
	assert_int_equal(server.dma[1].m.size, 65536);
	T->close(f.handle);
	vdpa_iotlb_put(tlb);
}

/* As many as a vhost-user front end has memory slots, in one file. */
static void
hundreds_of_regions_are_mapped_and_unmapped(void **state)
{
	enum { N = 509 };
	int fd = memfd_create("guest", MFD_CLOEXEC);
	struct vdpa_mem_region_spec specs[N];
	struct vdpa_iotlb *tlb;
	struct function f;
	unsigned int fds;

	assert_int_equal(ftruncate(fd, N * 4096), 0);
	for (unsigned int i = 0; i < N; i++)
		specs[i] = (struct vdpa_mem_region_spec){.iova = i * 8192u,
							 .uaddr = i * 8192u,
							 .size = 4096,
							 .offset = i * 4096u,
							 .fd = fd};
	start_and_open(&f);
	fds = count_fds();
	assert_int_equal(vdpa_iotlb_create(NULL, specs, N, &tlb), 0);
	assert_int_equal(set_memory(&f, tlb), 0);
	assert_int_equal(LOAD(server.n_dma), N);
	assert_int_equal(set_memory(&f, NULL), 0);
	assert_int_equal(LOAD(server.n_dma), 2 * N);
	vdpa_iotlb_put(tlb);
	assert_int_equal(count_fds(), fds);
	T->close(f.handle);
	close(fd);
}

/* Other functions of the server wait for each. */
static void
a_large_sparse_region_is_mapped_by_few_messages(void **state)
{
	const uint64_t size = 512ull << 30;
	int fd = memfd_create("guest", MFD_CLOEXEC);
	struct vdpa_mem_region_spec spec = {.size = size, .fd = fd};
	struct vdpa_iotlb *tlb;
	struct function f;

	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	start_and_open(&f);
	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &tlb), 0);
	assert_int_equal(set_memory(&f, tlb), 0);
	assert_int_equal(LOAD(server.n_dma), 8);
	assert_int_equal(server.dma[7].m.address, size - (64ull << 30));
	assert_int_equal(server.dma[7].m.size, 64ull << 30);
	assert_int_equal(set_memory(&f, NULL), 0);
	vdpa_iotlb_put(tlb);
	T->close(f.handle);
	close(fd);
}

static void
a_region_that_ends_within_a_page_is_sent_as_whole_pages(void **state)
{
	struct vdpa_iotlb *tlb = guest_memory(30240, 0);
	struct function f;

	start_and_open(&f);
	assert_int_equal(set_memory(&f, tlb), 0);
	assert_int_equal(server.dma[0].m.size, 32768);
	assert_int_equal(set_memory(&f, NULL), 0);
	assert_int_equal(server.dma[1].m.size, 32768);
	T->close(f.handle);
	vdpa_iotlb_put(tlb);
}

static void
the_limits_of_the_server_are_the_domains(void **state)
{
	struct vdpa_iotlb *tlb = guest_memory(65536, 0);
	struct vdpa_dma_buf buf;
	struct function f;

	server.json = "{\"capabilities\":{\"max_dma_maps\":1,\"pgsizes\":2097152}}";
	start_and_open(&f);
	assert_int_equal(set_memory(&f, tlb), -EINVAL);
	assert_int_equal(vdpa_dma_alloc(f.dma, 4096, NULL, &buf), 0);
	assert_int_equal(buf.size, 2097152);
	vdpa_dma_free(f.dma, &buf);
	assert_int_equal(LOAD(server.n_dma), 2);
	T->close(f.handle);
	vdpa_iotlb_put(tlb);
}

static void
memory_left_mapped_is_unmapped_on_close(void **state)
{
	struct vdpa_dma_buf buf;
	struct function f;

	start_and_open(&f);
	assert_int_equal(vdpa_dma_alloc(f.dma, 65536, NULL, &buf), 0);
	T->close(f.handle);
	assert_int_equal(LOAD(server.n_dma), 2);
	assert_false(server.dma[1].map);
	munmap(buf.va, buf.size);
	close(buf.fd);
}

/* Names and sockets. */

static void
a_socket_where_nobody_listens_is_refused(void **state)
{
	struct function f;
	char path[sizeof(server.path)], dir[sizeof(server.dir)];
	char longer[200];

	assert_true(vfu_server_start(&server));
	strcpy(path, server.path);
	strcpy(dir, server.dir);
	strcat(server.path, "x");
	assert_int_equal(open_function(&f, 0), -ENOENT);
	assert_message("vfio-user/");
	strcpy(server.path, path);
	memset(longer, 'a', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(T->open(NULL, longer, NULL, &f.info, &f.dma, &f.handle), -EINVAL);
	assert_int_equal(T->open(NULL, "", NULL, &f.info, &f.dma, &f.handle), -EINVAL);
	/* A socket that is bound and not listened to. */
	{
		struct sockaddr_un un = {.sun_family = AF_UNIX};
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);

		snprintf(un.sun_path, sizeof(un.sun_path), "%s/t", dir);
		assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
		assert_int_equal(T->open(NULL, un.sun_path, NULL, &f.info, &f.dma, &f.handle),
				 -ECONNREFUSED);
		close(fd);
		unlink(un.sun_path);
	}
}

static void
a_server_that_does_not_accept_costs_one_time_out(void **state)
{
	const struct vdpa_pci_params params = {.timeout_ms = 50};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), waiting[8];
	struct function f;
	int64_t start;

	assert_true(vfu_server_start(&server));
	snprintf(un.sun_path, sizeof(un.sun_path), "%s/t", server.dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	assert_int_equal(listen(fd, 0), 0);
	for (unsigned int i = 0; i < 8; i++) {
		waiting[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		connect(waiting[i], (struct sockaddr *)&un, sizeof(un));
	}
	start = now_ms();
	assert_int_equal(T->open(NULL, un.sun_path, &params, &f.info, &f.dma, &f.handle),
			 -ETIMEDOUT);
	assert_true(now_ms() - start < 5000);
	for (unsigned int i = 0; i < 8; i++)
		close(waiting[i]);
	close(fd);
	unlink(un.sun_path);
}

/* Regions. */

static void
a_region_may_have_many_areas_and_other_capabilities(void **state)
{
	struct function f;

	server.regions[4].n_areas = VFU_AREAS_MAX;
	for (unsigned int i = 0; i < VFU_AREAS_MAX; i++) {
		server.regions[4].areas[i].offset = 4096 * (i % 4);
		server.regions[4].areas[i].size = i == 2 ? 0 : 4096;
	}
	start_and_open(&f);
	assert_int_equal(f.info.regions[4].n_parts, VDPA_PCI_SPARSE_MAX);
	/* One of no size is none. */
	assert_int_equal(f.info.regions[4].parts[2].offset, 3 * 4096);
	T->close(f.handle);
}

static void
a_region_that_cannot_be_mapped_is_not(void **state)
{
	struct function f;
	int file;

	/* A list of no areas; then a file that is no memory, then no file. */
	server.regions[4].n_areas = 0;
	start_and_open(&f);
	assert_int_equal(f.info.regions[4].fd, -1);
	assert_int_equal(f.info.regions[4].flags & VFIO_REGION_INFO_FLAG_MMAP, 0);
	assert_int_equal(f.info.regions[4].size, 16384);
	T->close(f.handle);
	EVENTUALLY(LOAD(server.open_connections) == 0);

	close(server.regions[4].fd);
	file = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	server.regions[4].fd = file;
	server.regions[4].n_areas = 1;
	assert_int_equal(open_function(&f, 0), 0);
	assert_int_equal(f.info.regions[4].fd, -1);
	T->close(f.handle);
	EVENTUALLY(LOAD(server.open_connections) == 0);

	/* Huge pages: sealed or not, one that is punched out may be gone for good. */
	close(file);
	file = memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
	if (file >= 0) {
		assert_int_equal(ftruncate(file, 1 << 30), 0);
		assert_int_equal(fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK), 0);
		server.regions[4].fd = file;
		assert_int_equal(open_function(&f, 0), 0);
		assert_int_equal(f.info.regions[4].fd, -1);
		T->close(f.handle);
		EVENTUALLY(LOAD(server.open_connections) == 0);
		close(file);
	}

	server.regions[4].fd = -1;
	assert_int_equal(open_function(&f, 0), 0);
	assert_int_equal(f.info.regions[4].fd, -1);
	assert_int_equal(f.info.regions[4].flags & VFIO_REGION_INFO_FLAG_MMAP, 0);
	T->close(f.handle);
}

/* Time. */

static void
late_hook(struct vfu_server *s, const struct vfio_user_header *request, struct vfu_reply *reply)
{
	reply->delay_us = LOAD(*(unsigned int *)s->arg);
}

static void
an_answer_that_is_late_but_in_time_is_taken(void **state)
{
	unsigned int delay_us = 100000;
	struct function f;
	uint32_t value;

	start_and_open(&f);
	vfu_server_set_hook(&server, late_hook, &delay_us);
	assert_int_equal(T->read(f.handle, CONFIG, 0, &value, 4), 0);
	assert_int_equal(value, 0x10411af4);
	T->close(f.handle);
}

static void
answers_just_in_time_exhaust_the_patience(void **state)
{
	unsigned int delay_us = 250000;
	struct function f;
	uint32_t value;
	int64_t start;
	int rc;

	assert_true(vfu_server_start(&server));
	assert_int_equal(open_function(&f, SHORT_MS), 0);
	vfu_server_set_hook(&server, late_hook, &delay_us);
	start = now_ms();
	do
		rc = T->read(f.handle, CONFIG, 0, &value, 4);
	while (rc == 0 && now_ms() - start < 30000);
	assert_int_equal(rc, -ETIMEDOUT);
	assert_message("REGION_READ: no answer in ");
	assert_message(" ms, and earlier answers were late: all together by ");
	assert_message(" ms, counted from 50 ms after each request, where 3000 ms (3 times "
		       "timeout_ms 1000) are the limit; the connection is ended");
	/* 3 time-outs of patience, and less each time by 250 ms without a twentieth of a time-out,
	 * with an eighth of what has passed. */
	assert_true(now_ms() - start > 2 * SHORT_MS);
	T->close(f.handle);
}

/* Each is soon enough by itself; a start takes hundreds of them, on a thread that is shared. */
static void
answers_that_are_all_a_little_late_exhaust_it_too(void **state)
{
	unsigned int delay_us = 60000;
	struct function f;
	uint32_t value;
	int64_t start;
	int rc;

	assert_true(vfu_server_start(&server));
	assert_int_equal(open_function(&f, 600), 0);
	vfu_server_set_hook(&server, late_hook, &delay_us);
	start = now_ms();
	do
		rc = T->read(f.handle, CONFIG, 0, &value, 4);
	while (rc == 0 && now_ms() - start < 30000);
	assert_int_equal(rc, -ETIMEDOUT);
	assert_message("earlier answers were late");
	T->close(f.handle);
}

/* Several at once. */

static void *
read_often(void *arg)
{
	struct reader *r = arg;
	uint16_t value, out = 3;

	for (unsigned int i = 0; i < 200 && r->rc == 0; i++) {
		r->rc = T->read(r->f->handle, CONFIG, 2, &value, 2);
		if (r->rc == 0 && value != 0x1041)
			r->rc = -EINVAL;
		T->post(r->f->handle, 4, 12288, &out, 2);
	}
	return NULL;
}

static void
threads_may_share_a_function(void **state)
{
	struct function f;
	struct reader readers[4];
	pthread_t threads[4];

	start_and_open(&f);
	for (unsigned int i = 0; i < 4; i++) {
		readers[i] = (struct reader){.f = &f};
		assert_int_equal(pthread_create(&threads[i], NULL, read_often, &readers[i]), 0);
	}
	for (unsigned int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(readers[i].rc, 0);
	}
	EVENTUALLY(LOAD(server.n_writes) == 800);
	T->close(f.handle);
}

/* What a driver sees. */

static void
a_driver_reaches_the_function_by_its_name(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct vdpa_pci_area area;
	struct vdpa_pci *pci;
	uint16_t *page;
	char name[64];

	assert_true(vfu_server_start(&server));
	snprintf(name, sizeof(name), "vfio-user/%s", server.path);
	assert_int_equal(vdpa_pci_open(name, NULL, &pci), 0);
	assert_string_equal(vdpa_pci_name(pci), name);
	assert_int_equal(vdpa_pci_get_id(pci)->vendor, 0x1af4);
	assert_int_equal(vdpa_pci_get_id(pci)->device, 0x1041);
	assert_int_equal(vdpa_pci_bar_size(pci, 4), 16384);
	assert_int_equal(vdpa_pci_nr_vectors(pci), 20);
	vdpa_pci_write64(pci, 4, 32, 0x1122334455667788);
	assert_int_equal(vdpa_pci_read32(pci, 4, 36), 0x11223344);
	/* The doorbell page is shared memory, the others are not. */
	assert_int_equal(vdpa_pci_map(pci, 4, 0, 4096, &area), -EOPNOTSUPP);
	assert_int_equal(vdpa_pci_map(pci, 4, 12288, 4096, &area), 0);
	page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, server.regions[4].fd, 12288);
	assert_ptr_not_equal(page, MAP_FAILED);
	*(volatile uint16_t *)area.va = 5;
	assert_int_equal(page[0], 5);
	munmap(page, 4096);
	vdpa_pci_unmap(pci, &area);

	assert_int_equal(vdpa_pci_msix_enable(pci, 3), 0);
	assert_int_equal(vdpa_pci_msix_set(pci, 0, fd), 0);
	eventfd_write(server.vector0, 1);
	assert_int_equal(eventfd_read(fd, &(eventfd_t){0}), 0);
	vdpa_pci_msix_disable(pci);
	assert_int_equal(server.irqs[server.n_irqs - 1].count, 0);
	assert_int_equal(vdpa_pci_set_bus_master(pci, true), 0);
	assert_int_equal(server.memory[CONFIG][4] & 6, 6);
	vdpa_pci_close(pci);
	assert_int_equal(server.memory[CONFIG][4] & 4, 0);
	close(fd);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_device_is_found_with_its_regions_and_interrupts),
		TEST(registers_are_read_and_written),
		TEST(a_reply_that_comes_at_once_is_not_slept_for),
		TEST(an_access_is_split_as_the_server_needs_it),
		TEST(vectors_are_set_in_chunks_and_gaps_are_released),
		TEST(a_server_that_says_nothing_gets_one_file_a_message),
		TEST(the_server_signals_the_eventfd_of_a_vector),
		TEST(memory_that_is_read_only_is_so_to_the_server),
		TEST(memory_is_mapped_with_its_file_and_unmapped),
		TEST(hundreds_of_regions_are_mapped_and_unmapped),
		TEST(a_large_sparse_region_is_mapped_by_few_messages),
		TEST(a_region_that_ends_within_a_page_is_sent_as_whole_pages),
		TEST(the_limits_of_the_server_are_the_domains),
		TEST(memory_left_mapped_is_unmapped_on_close),
		TEST(a_socket_where_nobody_listens_is_refused),
		TEST(a_server_that_does_not_accept_costs_one_time_out),
		TEST(a_region_may_have_many_areas_and_other_capabilities),
		TEST(a_region_that_cannot_be_mapped_is_not),
		TEST(an_answer_that_is_late_but_in_time_is_taken),
		TEST(answers_just_in_time_exhaust_the_patience),
		TEST(answers_that_are_all_a_little_late_exhaust_it_too),
		TEST(threads_may_share_a_function),
		TEST(a_driver_reaches_the_function_by_its_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
