/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Faults in the memory of the guest memory table, and ranges that are guarded against them. */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "mem_table_test.h"

static void
a_lost_page_is_repaired_and_reported(void **state)
{
	int fd = file_of(MAP_SIZE), fd2 = file_of(MAP_SIZE);
	struct vdpa_mem_region_spec s = spec(0x100000, MAP_SIZE, 0, fd);
	struct vdpa_mem_region_spec s2 = spec(0x100000, MAP_SIZE, 0, fd2);
	struct vdpa_iotlb *tlb, *other, *next;

	assert_int_equal(vdpa_fault_init(), 0);
	assert_int_equal(vdpa_fault_init(), -EALREADY);
	assert_int_equal(vdpa_iotlb_create(NULL, &s, 1, &tlb), 0);
	assert_int_equal(vdpa_iotlb_create(NULL, &s2, 1, &other), 0);
	memset(tlb->regions[0]->va, 0x55, MAP_SIZE);
	assert_false(vdpa_iotlb_faulted(tlb));
	assert_int_equal(ftruncate(fd, 4 * PAGE), 0);
	assert_int_equal(*(volatile uint8_t *)(tlb->regions[0]->va + 5 * PAGE + 7), 0);
	*(volatile uint8_t *)(tlb->regions[0]->va + 9 * PAGE) = 1;
	assert_int_equal(*(volatile uint8_t *)(tlb->regions[0]->va + 3 * PAGE), 0x55);
	assert_true(vdpa_iotlb_faulted(tlb));
	assert_false(vdpa_iotlb_faulted(other));
	/* A table without a fault is looked through once for each fault elsewhere. */
	assert_int_equal(other->fault_seen, vdpa_fault_seen());
	assert_true(tlb->fault_seen < vdpa_fault_seen());
	assert_true(vdpa_iotlb_faulted(tlb));
	assert_int_equal(ftruncate(fd2, 0), 0);
	assert_int_equal(*(volatile uint8_t *)other->regions[0]->va, 0);
	assert_true(vdpa_iotlb_faulted(other));

	/* The file is whole again: a new version maps it anew. */
	assert_int_equal(ftruncate(fd, MAP_SIZE), 0);
	assert_int_equal(vdpa_iotlb_create(tlb, &s, 1, &next), 0);
	assert_ptr_not_equal(next->regions[0], tlb->regions[0]);
	assert_false(vdpa_iotlb_faulted(next));
	vdpa_iotlb_put(next);
	vdpa_iotlb_put(other);
	vdpa_iotlb_put(tlb);
	vdpa_fault_fini();
	close(fd);
	close(fd2);
}

static sigjmp_buf jump;

static void
previous_handler(int sig)
{
	siglongjmp(jump, 1);
}

static void
a_fault_elsewhere_goes_to_the_handler_before(void **state)
{
	struct sigaction sa = {.sa_handler = previous_handler}, before, after;
	int fd = file_of(PAGE);
	volatile uint8_t *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	volatile bool came = false;

	assert_ptr_not_equal((void *)p, MAP_FAILED);
	assert_int_equal(sigaction(SIGBUS, &sa, &before), 0);
	assert_int_equal(vdpa_fault_init(), 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	if (sigsetjmp(jump, 1) == 0)
		(void)p[0];
	else
		came = true;
	assert_true(came);
	vdpa_fault_fini();
	assert_int_equal(sigaction(SIGBUS, &before, &after), 0);
	assert_ptr_equal((void *)after.sa_handler, (void *)previous_handler);
	munmap((void *)(uintptr_t)p, PAGE);
	close(fd);
}

static void
a_fault_elsewhere_kills_when_nobody_handles_it(void **state)
{
	int status = 0;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		int fd = memfd_create("x", MFD_CLOEXEC);
		volatile uint8_t *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);

		signal(SIGBUS, SIG_DFL);
		if (vdpa_fault_init() == 0)
			(void)p[0];
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGBUS);
}

static bool stop;

static void *
churn(void *arg)
{
	int fd = file_of(MAP_SIZE);
	struct vdpa_mem_region_spec s = spec(0x100000, MAP_SIZE, 0, fd);

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		struct vdpa_iotlb *tlb;

		if (vdpa_iotlb_create(NULL, &s, 1, &tlb) != 0)
			abort();
		tlb->regions[0]->va[0] = 1;
		vdpa_iotlb_put(tlb);
	}
	close(fd);
	return NULL;
}

static void
ranges_come_and_go_while_others_fault(void **state)
{
	pthread_t threads[2];
	uint64_t before;

	assert_int_equal(vdpa_fault_init(), 0);
	before = vdpa_fault_seen();
	stop = false;
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn, NULL), 0);
	for (int i = 0; i < 200; i++) {
		int fd = file_of(MAP_SIZE);
		struct vdpa_mem_region_spec s = spec(0x100000, MAP_SIZE, 0, fd);
		struct vdpa_iotlb *tlb;

		assert_int_equal(vdpa_iotlb_create(NULL, &s, 1, &tlb), 0);
		assert_int_equal(ftruncate(fd, 0), 0);
		for (uint64_t k = 0; k < MAP_SIZE; k += PAGE)
			assert_int_equal(*(volatile uint8_t *)(tlb->regions[0]->va + k), 0);
		assert_true(vdpa_iotlb_faulted(tlb));
		vdpa_iotlb_put(tlb);
		close(fd);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(vdpa_fault_seen() - before, 200 * 16);
	vdpa_fault_fini();
}

/* More than any fixed table had. */
#define RANGES 10000

static void
thousands_of_ranges_are_guarded(void **state)
{
	static bool faulted[RANGES];
	int fd = file_of(RANGES * PAGE);
	uint8_t *p = mmap(NULL, RANGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint64_t before;

	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(vdpa_fault_init(), 0);
	before = vdpa_fault_seen();
	/* In an order that is neither up nor down; some go at once, and come again later. */
	for (unsigned int i = 0; i < RANGES; i++) {
		unsigned int k = i * 7 % RANGES;

		assert_int_equal(vdpa_fault_guard(p + k * PAGE, PAGE, &faulted[k]), 0);
		if (k % 3 != 0)
			vdpa_fault_unguard(p + k * PAGE);
		if (k % 3 == 2)
			assert_int_equal(vdpa_fault_guard(p + k * PAGE, PAGE, &faulted[k]), 0);
	}
	for (unsigned int k = 1; k < RANGES; k += 3)
		assert_int_equal(vdpa_fault_guard(p + k * PAGE, PAGE, &faulted[k]), 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	for (unsigned int i = 0; i < RANGES; i += 100) {
		assert_int_equal(*(volatile uint8_t *)(p + i * PAGE + 5), 0);
		for (unsigned int k = i; k < i + 100; k++)
			assert_true(faulted[k] == (k == i));
	}
	/* Without their neighbours, from the middle. */
	for (unsigned int i = 0; i < RANGES; i++) {
		unsigned int k = (i + RANGES / 2) % RANGES;

		if (k % 100 != 1)
			vdpa_fault_unguard(p + k * PAGE);
	}
	for (unsigned int i = 1; i < RANGES; i += 100) {
		assert_int_equal(*(volatile uint8_t *)(p + i * PAGE), 0);
		assert_true(faulted[i]);
		vdpa_fault_unguard(p + i * PAGE);
	}
	assert_int_equal(vdpa_fault_seen() - before, 2 * RANGES / 100);
	vdpa_fault_unguard(p);
	vdpa_fault_fini();
	munmap(p, RANGES * PAGE);
	close(fd);
}

static void
a_foreign_mapping_is_guarded_too(void **state)
{
	int fd = file_of(2 * PAGE);
	uint8_t *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	bool faulted = false;

	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(vdpa_fault_init(), 0);
	assert_int_equal(vdpa_fault_guard(p, 2 * PAGE, &faulted), 0);
	assert_int_equal(ftruncate(fd, PAGE), 0);
	*(volatile uint8_t *)p = 3;
	assert_false(faulted);
	*(volatile uint8_t *)(p + PAGE) = 3;
	assert_true(__atomic_load_n(&faulted, __ATOMIC_ACQUIRE));
	vdpa_fault_unguard(p);
	vdpa_fault_fini();
	munmap(p, 2 * PAGE);
	close(fd);
}

static void
huge_pages_are_mapped_and_repaired_whole(void **state)
{
	const uint64_t huge = 2 << 20;
	int fd = memfd_create("test_mem_table", MFD_CLOEXEC | MFD_HUGETLB | 21u << 26);
	struct vdpa_mem_region_spec s = spec(0x100000, PAGE, PAGE, fd);
	struct vdpa_iotlb *tlb = NULL;

	if (fd < 0 || ftruncate(fd, (off_t)huge) < 0 || vdpa_iotlb_create(NULL, &s, 1, &tlb) < 0) {
		if (fd >= 0)
			close(fd);
		skip(); /* no huge pages reserved */
	}
	assert_int_equal(tlb->regions[0]->map_len, huge);
	tlb->regions[0]->va[0] = 1;
	assert_int_equal(vdpa_fault_init(), 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(*(volatile uint8_t *)tlb->regions[0]->va, 0);
	assert_true(vdpa_iotlb_faulted(tlb));
	vdpa_iotlb_put(tlb);
	vdpa_fault_fini();
	close(fd);
}

static void
a_page_lost_among_regions_in_order_is_repaired(void **state)
{
	int fd = file_of(2 * PAGE);
	struct vdpa_mem_region_spec s[2] = {page_in_order(RING_IOVA, PAGE, fd),
					    page_in_order(RING_IOVA + PAGE, 0, fd)};
	struct vdpa_iotlb *tlb, *next;
	volatile uint8_t *va;

	assert_int_equal(vdpa_fault_init(), 0);
	assert_int_equal(vdpa_iotlb_create(NULL, s, 2, &tlb), 0);
	va = vdpa_iotlb_range(tlb, RING_IOVA, 2 * PAGE);
	va[0] = 1;
	va[PAGE] = 2;
	assert_int_equal(ftruncate(fd, PAGE), 0);
	assert_false(vdpa_iotlb_faulted(tlb));
	assert_int_equal(va[0], 0);
	assert_int_equal(va[PAGE], 2);
	assert_true(vdpa_iotlb_faulted(tlb));
	/* The next version has it whole, beside the one before. */
	assert_int_equal(ftruncate(fd, 2 * PAGE), 0);
	assert_int_equal(vdpa_iotlb_create(tlb, s, 2, &next), 0);
	assert_false(vdpa_iotlb_faulted(next));
	assert_true(vdpa_iotlb_range(next, RING_IOVA, 2 * PAGE) != (void *)(uintptr_t)va);
	vdpa_iotlb_put(tlb);
	assert_int_equal(*((uint8_t *)vdpa_iotlb_range(next, RING_IOVA, 2 * PAGE) + PAGE), 2);
	vdpa_iotlb_put(next);
	vdpa_fault_fini();
	close(fd);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_lost_page_is_repaired_and_reported),
		cmocka_unit_test(a_fault_elsewhere_goes_to_the_handler_before),
		cmocka_unit_test(a_fault_elsewhere_kills_when_nobody_handles_it),
		cmocka_unit_test(ranges_come_and_go_while_others_fault),
		cmocka_unit_test(thousands_of_ranges_are_guarded),
		cmocka_unit_test(a_foreign_mapping_is_guarded_too),
		cmocka_unit_test(huge_pages_are_mapped_and_repaired_whole),
		cmocka_unit_test(a_page_lost_among_regions_in_order_is_repaired),
	};

	return cmocka_run_group_tests_name("mem_table_faults", tests, NULL, NULL);
}
