/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Registers of a PCI function that are mapped: that accesses there mean what calls of the transport
 * mean, also of a function that is gone, and that nothing but the function's own memory is taken
 * for registers.
 */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "pci_test.h"
#include "test_util.h"

#include "fault.h"

#define BAR    4
#define WINDOW (PAGE + 0x100) /* an offset that is no page's */
#define SIZE   0x80ULL

/* The BAR is the function's, and WINDOW of it is mapped for registers. */
static struct vdpa_pci *
open_mapped(void)
{
	struct vdpa_pci *pci;

	fake.bar[BAR].is_device = true;
	pci = open_fake();
	vdpa_pci_map_registers(pci, BAR, WINDOW, SIZE);
	return pci;
}

/* Mappings of a fake BAR in this process. */
static unsigned int
mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];
	unsigned int n = 0;

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps) != NULL)
		n += strstr(line, "memfd:fake_pci") != NULL;
	fclose(maps);
	return n;
}

static void
mapped_registers_need_no_call(void **state)
{
	struct vdpa_pci *pci = open_mapped();
	uint8_t *mem = &fake.bar[BAR].mem[WINDOW];
	unsigned int answered = fake.answered, posts = fake.posts;

	vdpa_pci_write32(pci, BAR, WINDOW, 0x11223344);
	assert_memory_equal(mem, "\x44\x33\x22\x11", 4);
	assert_int_equal(vdpa_pci_read32(pci, BAR, WINDOW), 0x11223344);
	assert_int_equal(vdpa_pci_read16(pci, BAR, WINDOW + 2), 0x1122);
	assert_int_equal(vdpa_pci_read8(pci, BAR, WINDOW + 3), 0x11);
	vdpa_pci_write16(pci, BAR, WINDOW + 4, 0xaabb);
	vdpa_pci_write8(pci, BAR, WINDOW + 6, 0xcc);
	vdpa_pci_post16(pci, BAR, WINDOW + 8, 0x0102);
	vdpa_pci_post32(pci, BAR, WINDOW + SIZE - 4, 0x03040506);
	assert_memory_equal(mem + 4, "\xbb\xaa\xcc\x00\x02\x01", 6);
	assert_memory_equal(mem + SIZE - 4, "\x06\x05\x04\x03", 4);
	assert_int_equal(fake.answered, answered);
	assert_int_equal(fake.posts, posts);
	vdpa_pci_close(pci);
}

static void
what_is_beside_the_window_or_wider_goes_by_calls(void **state)
{
	struct vdpa_pci *pci = open_mapped();
	unsigned int answered = fake.answered;

	vdpa_pci_write32(pci, BAR, WINDOW - 4, 1);
	vdpa_pci_write32(pci, BAR, WINDOW + SIZE, 2);
	assert_int_equal(vdpa_pci_read32(pci, 2, 0x100), 0);
	vdpa_pci_write64(pci, BAR, WINDOW, 3);
	assert_int_equal(vdpa_pci_read64(pci, BAR, WINDOW), 3);
	assert_int_equal(fake.answered, answered + 5);
	/* What is no access of the BAR is none by a mapping either. */
	assert_int_equal(vdpa_pci_read32(pci, BAR, WINDOW + 2), UINT32_MAX);
	assert_int_equal(vdpa_pci_error(pci), -EFAULT);
	vdpa_pci_close(pci);
}

/* The memory of a server: it would see no access, and could answer what it likes later. */
static void
a_file_of_another_process_is_not_taken_for_registers(void **state)
{
	struct vdpa_pci *pci = open_fake();
	unsigned int answered = fake.answered, before = mappings();

	vdpa_pci_map_registers(pci, BAR, WINDOW, SIZE);
	assert_int_equal(mappings(), before);
	vdpa_pci_write32(pci, BAR, WINDOW, 1);
	assert_int_equal(fake.answered, answered + 1);
	vdpa_pci_close(pci);
}

static void
where_nothing_can_be_mapped_calls_are_made(void **state)
{
	struct vdpa_pci *pci;
	unsigned int answered;

	fake.bar[BAR].n_parts = 1;
	fake.bar[BAR].parts[0].offset = 2 * PAGE;
	fake.bar[BAR].parts[0].size = PAGE;
	fake.bar[2].is_device = true;
	pci = open_mapped();
	vdpa_pci_map_registers(pci, 2, 0, SIZE);
	vdpa_pci_map_registers(pci, 9, 0, SIZE);
	vdpa_pci_map_registers(pci, BAR, 1 << 20, SIZE);
	answered = fake.answered;
	vdpa_pci_write32(pci, BAR, WINDOW, 1);
	vdpa_pci_write32(pci, 2, 0, 1);
	assert_int_equal(fake.answered, answered + 2);
	assert_int_equal(vdpa_pci_error(pci), 0);
	vdpa_pci_close(pci);
}

static void
windows_are_bounded_and_go_with_the_close(void **state)
{
	unsigned int before = mappings(), with;
	struct vdpa_pci *pci = open_mapped();

	assert_int_equal(mappings(), before + 1);
	for (unsigned int i = 0; i < 20; i++) {
		vdpa_pci_map_registers(pci, BAR, WINDOW, SIZE);
		vdpa_pci_map_registers(pci, BAR, 0x10 * i, 0x10);
	}
	with = mappings();
	assert_in_range(with, before + 2, before + 4);
	vdpa_pci_close(pci);
	assert_int_equal(mappings(), before);
}

static void
a_mapped_register_may_be_all_ones_and_a_removed_function_is(void **state)
{
	struct vdpa_pci *pci = open_mapped();

	memset(&fake.bar[BAR].mem[WINDOW], 0xff, SIZE);
	assert_int_equal(vdpa_pci_read16(pci, BAR, WINDOW), 0xffff);
	assert_int_equal(vdpa_pci_error(pci), 0);
	/* As the bus reads without the function. */
	fake.all_ones = true;
	assert_int_equal(vdpa_pci_read16(pci, BAR, WINDOW), 0xffff);
	assert_int_equal(vdpa_pci_error(pci), -ENODEV);
	memset(&fake.bar[BAR].mem[WINDOW], 0, SIZE);
	assert_int_equal(vdpa_pci_read16(pci, BAR, WINDOW), 0xffff);
	vdpa_pci_write16(pci, BAR, WINDOW, 1);
	assert_int_equal(fake.bar[BAR].mem[WINDOW], 0);
	vdpa_pci_close(pci);
}

/* As when the function decodes no memory any more. */
static void
registers_that_are_taken_away_end_the_function_not_the_process(void **state)
{
	assert_int_equal(vdpa_fault_init(), 0);
	for (unsigned int i = 0; i < 2; i++) {
		struct vdpa_pci *pci = open_mapped();

		vdpa_pci_write32(pci, BAR, WINDOW, 7);
		assert_int_equal(ftruncate(fake.bar[BAR].fd, 0), 0);
		if (i == 0)
			assert_int_equal(vdpa_pci_read32(pci, BAR, WINDOW), UINT32_MAX);
		else
			vdpa_pci_write32(pci, BAR, WINDOW, 8);
		assert_int_equal(vdpa_pci_error(pci), -ENODEV);
		assert_int_equal(vdpa_pci_read32(pci, BAR, WINDOW), UINT32_MAX);
		vdpa_pci_close(pci);
		assert_int_equal(ftruncate(fake.bar[BAR].fd, (off_t)fake.bar[BAR].size), 0);
	}
	vdpa_fault_fini();
}

static bool reading;

/* What the function had, or all ones; never what stands in its place. */
static void *
read_on(void *arg)
{
	struct vdpa_pci *pci = arg;
	uintptr_t wrong = 0;

	__atomic_store_n(&reading, true, __ATOMIC_RELEASE);
	for (;;) {
		uint32_t value = vdpa_pci_read32(pci, BAR, WINDOW);

		if (value == UINT32_MAX)
			return (void *)wrong;
		wrong |= value != 0x5a5a5a5a;
	}
}

static void
a_function_that_is_cut_off_has_no_mapping_left(void **state)
{
	for (unsigned int i = 0; i < 50; i++) {
		unsigned int before = mappings();
		struct vdpa_pci *pci = open_mapped();
		pthread_t thread;
		void *wrong;

		vdpa_pci_write32(pci, BAR, WINDOW, 0x5a5a5a5a);
		__atomic_store_n(&reading, false, __ATOMIC_RELEASE);
		assert_int_equal(pthread_create(&thread, NULL, read_on, pci), 0);
		while (!__atomic_load_n(&reading, __ATOMIC_ACQUIRE))
			;
		/* The fake cannot; its file is free before it is asked. */
		assert_int_equal(vdpa_pci_cut_off(pci), -EOPNOTSUPP);
		assert_int_equal(mappings(), before);
		assert_int_equal(pthread_join(thread, &wrong), 0);
		assert_null(wrong);
		vdpa_pci_write32(pci, BAR, WINDOW, 1);
		assert_int_equal(vdpa_pci_read32(pci, BAR, WINDOW), UINT32_MAX);
		vdpa_pci_close(pci);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(mapped_registers_need_no_call),
		test(what_is_beside_the_window_or_wider_goes_by_calls),
		test(a_file_of_another_process_is_not_taken_for_registers),
		test(where_nothing_can_be_mapped_calls_are_made),
		test(windows_are_bounded_and_go_with_the_close),
		test(a_mapped_register_may_be_all_ones_and_a_removed_function_is),
		test(registers_that_are_taken_away_end_the_function_not_the_process),
		test(a_function_that_is_cut_off_has_no_mapping_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
