/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * PCI functions over a transport: what is believed of a function, bounds, and that gone is gone.
 * The function is fake_pci's.
 */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "pci_test.h"
#include "test_util.h"

#include "fault.h"
#include "pci_priv.h"
#include "vdpa.h"
#include "vdpa_event.h"
#include "vdpa_pci.h"

#define COMMAND	   0x04
#define MEMORY	   0x2
#define BUS_MASTER 0x4

static void
refused(int err, const char *message)
{
	unsigned int fds = count_fds();
	struct vdpa_pci *pci;

	assert_int_equal(vdpa_pci_open("fake/a", NULL, &pci), -err);
	assert_string_equal(vdpa_error_message(), message);
	assert_null(fake.open);
	assert_int_equal(count_fds(), fds);
}

static uint16_t
command(void)
{
	return (uint16_t)(fake.config[COMMAND] | fake.config[COMMAND + 1] << 8);
}

static void
a_function_opens_decoding_memory_and_without_bus_master(void **state)
{
	const struct vdpa_pci_id *id;
	struct vdpa_pci *pci;

	fake.config[COMMAND] = BUS_MASTER;
	fake.config[COMMAND + 1] = 0x4;
	fake.numa_node = 1;
	pci = open_fake();
	assert_int_equal(command(), 0x400 | MEMORY);
	assert_string_equal(vdpa_pci_name(pci), "fake/a");
	id = vdpa_pci_get_id(pci);
	assert_int_equal(id->vendor, 0x1af4);
	assert_int_equal(id->device, 0x1041);
	assert_int_equal(id->subsystem_vendor, 0x1af4);
	assert_int_equal(id->subsystem, 0x1100);
	assert_int_equal(id->class_code, 0x020000);
	assert_int_equal(id->revision, 1);
	assert_int_equal(vdpa_pci_numa_node(pci), 1);
	assert_int_equal(vdpa_pci_error(pci), 0);
	assert_string_equal(vdpa_pci_error_text(pci), "");
	assert_true(vdpa_pci_present(pci));
	assert_ptr_equal(vdpa_pci_dma(pci), fake.dma);

	assert_int_equal(vdpa_pci_set_bus_master(pci, true), 0);
	assert_int_equal(command(), 0x400 | MEMORY | BUS_MASTER);
	vdpa_pci_close(pci);
	assert_int_equal(command() & BUS_MASTER, 0);
	assert_int_equal(fake.resets, 1);
	assert_null(fake.open);
	vdpa_pci_close(NULL);
}

static void
names_that_are_none_are_refused(void **state)
{
	static const char *const names[] = {"",
					    "pci",
					    "eth0",
					    "0000:06:00",
					    "0000:06:00.2x",
					    "0000:06:20.0",
					    "06:00.8",
					    " 06:00.0",
					    "0x00:06:00.1",
					    "vfio-user",
					    "0000:06:00.2\n",
					    "-6:00.0",
					    "06:00.0.0.0",
					    "100000000:06:00.0"};
	struct vdpa_pci *pci;

	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_int_equal(vdpa_pci_open(names[i], NULL, &pci), -EINVAL);
		assert_non_null(strstr(vdpa_error_message(), "pci/0000:06:00.2"));
	}
}

static void
a_function_that_does_not_answer_is_refused(void **state)
{
	fake.all_ones = true;
	refused(ENODEV, "fake/a: the device does not answer, its configuration space reads all "
			"ones; see that it has power and is plugged in");
	fake.all_ones = false;
	fake.io_err = ETIMEDOUT;
	refused(ETIMEDOUT, "fake/a: no answer");
	fake.io_err = 0;
	fake.open_err = EBUSY;
	refused(EBUSY, "fake/a: not opened");
}

static void
a_header_that_makes_no_sense_is_refused(void **state)
{
	fake.config[0x0e] = 0x81;
	refused(ENOTSUP, "fake/a: is a bridge (header type 1), not a device");
	fake.config[0x0e] = 0x80; /* one of several functions */
	vdpa_pci_close(open_fake());
	fake.config_size = 64;
	refused(EPROTO, "fake/a: configuration space of 64 bytes, at least 256");
}

static void
bars_that_make_no_sense_are_refused(void **state)
{
	fake.bar[2].size = 0x3001;
	refused(EPROTO, "fake/a: BAR 2 has 0x3001 bytes, which is no power of two; the device is "
			"at fault");
	fake.bar[2].size = 0x4000;
	fake.bar[4].n_parts = 2;
	fake.bar[4].parts[0].size = PAGE;
	fake.bar[4].parts[1].offset = 2 * PAGE;
	fake.bar[4].parts[1].size = 2 * PAGE + 1;
	refused(EPROTO, "fake/a: BAR 4: mappable part at 0x2000 of 0x2001 bytes ends outside its "
			"0x4000; the device is at fault");
	fake.bar[4].parts[1].offset = -PAGE;
	fake.bar[4].parts[1].size = 2 * PAGE;
	refused(EPROTO, "fake/a: BAR 4: mappable part at 0xfffffffffffff000 of 0x2000 bytes ends "
			"outside its 0x4000; the device is at fault");
	fake.bar[4].parts[1].offset = PAGE;
	fake.bar[4].parts[1].size = -PAGE;
	refused(EPROTO, "fake/a: BAR 4: mappable part at 0x1000 of 0xfffffffffffff000 bytes ends "
			"outside its 0x4000; the device is at fault");
}

static void
io_ports_and_upper_halves_are_no_bars(void **state)
{
	struct vdpa_pci *pci;

	fake.bar[0].size = 32;
	fake.config[0x10] = 0x1; /* I/O ports */
	fake.bar[5].size = 4096; /* upper half of BAR 4 */
	pci = open_fake();
	assert_int_equal(vdpa_pci_bar_size(pci, 0), 0);
	assert_int_equal(vdpa_pci_bar_size(pci, 1), 0);
	assert_int_equal(vdpa_pci_bar_size(pci, 2), 0x4000);
	assert_int_equal(vdpa_pci_bar_size(pci, 4), 0x4000);
	assert_int_equal(vdpa_pci_bar_size(pci, 5), 0);
	assert_int_equal(vdpa_pci_bar_size(pci, 6), 0);
	assert_true(vdpa_pci_bar_has(pci, 2, 0x3fff, 1));
	assert_true(vdpa_pci_bar_has(pci, 2, 0, 0x4000));
	assert_false(vdpa_pci_bar_has(pci, 2, 0x4000, 0));
	assert_false(vdpa_pci_bar_has(pci, 2, 1, 0x4000));
	assert_false(vdpa_pci_bar_has(pci, 2, 1, UINT64_MAX));
	assert_false(vdpa_pci_bar_has(pci, 7, 0, 1));
	vdpa_pci_close(pci);
	fake.bar[0].size = fake.bar[5].size = 0;
}

static void
registers_are_little_endian_of_each_width(void **state)
{
	struct vdpa_pci *pci = open_fake();

	vdpa_pci_write64(pci, 2, 0x10, 0x1122334455667788ULL);
	assert_int_equal(fake.bar[2].mem[0x10], 0x88);
	assert_int_equal(fake.bar[2].mem[0x17], 0x11);
	assert_int_equal(vdpa_pci_read8(pci, 2, 0x11), 0x77);
	assert_int_equal(vdpa_pci_read16(pci, 2, 0x12), 0x5566);
	assert_int_equal(vdpa_pci_read32(pci, 2, 0x14), 0x11223344);
	assert_true(vdpa_pci_read64(pci, 2, 0x10) == 0x1122334455667788ULL);
	vdpa_pci_write8(pci, 2, 0x20, 0x12);
	vdpa_pci_write16(pci, 2, 0x22, 0x3456);
	vdpa_pci_write32(pci, 2, 0x24, 0x789abcde);
	assert_memory_equal(&fake.bar[2].mem[0x20], "\x12\0\x56\x34\xde\xbc\x9a\x78", 8);
	vdpa_pci_post16(pci, 2, 0x28, 7);
	vdpa_pci_post32(pci, 2, 0x2c, 0x80000001);
	assert_memory_equal(&fake.bar[2].mem[0x28], "\7\0\0\0\1\0\0\x80", 8);
	assert_int_equal(fake.posts, 2);
	vdpa_pci_close(pci);
}

static void
an_access_outside_fails_the_function(void **state)
{
	static const struct {
		unsigned int bar;
		uint64_t offset;
	} bad[] = {{2, 0x4000}, {2, 0x3ffe}, {2, 2}, {0, 0}, {6, 0}, {2, UINT64_MAX - 3}, {7, 0}};

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct vdpa_pci *pci = open_fake();

		if (i % 2 == 0)
			assert_int_equal(vdpa_pci_read32(pci, bad[i].bar, bad[i].offset),
					 UINT32_MAX);
		else
			vdpa_pci_write32(pci, bad[i].bar, bad[i].offset, 0);
		assert_int_equal(vdpa_pci_error(pci), -EFAULT);
		assert_non_null(strstr(vdpa_pci_error_text(pci), "fake/a: access of 4 bytes at"));
		vdpa_pci_close(pci);
	}
}

static void
configuration_space_ends_at_its_size(void **state)
{
	struct vdpa_pci *pci;
	uint8_t b[300];

	pci = open_fake();
	assert_int_equal(vdpa_pci_config_read(pci, 0, b, 256), 0);
	assert_memory_equal(b, fake.config, 256);
	assert_int_equal(vdpa_pci_config_read(pci, 255, b, 2), -EINVAL);
	assert_int_equal(b[0], 0xff);
	assert_int_equal(vdpa_pci_config_read(pci, UINT32_MAX, b, 2), -EINVAL);
	assert_int_equal(vdpa_pci_config_read(pci, 0, b, 257), -EINVAL);
	assert_int_equal(vdpa_pci_config_write(pci, 255, b, 2), -EINVAL);
	assert_int_equal(vdpa_pci_error(pci), 0);
	vdpa_pci_close(pci);
	fake.config_size = 4096;
	pci = open_fake();
	assert_int_equal(vdpa_pci_config_read(pci, 4095, b, 1), 0);
	assert_int_equal(vdpa_pci_config_read(pci, 4096, b, 1), -EINVAL);
	vdpa_pci_close(pci);
}

static void
capabilities_are_found_in_order(void **state)
{
	uint8_t first = fake_pci_add_cap(&fake, (uint8_t[16]){0x09}, 16);
	uint8_t other = fake_pci_add_cap(&fake, (uint8_t[12]){0x05}, 12);
	uint8_t second = fake_pci_add_cap(&fake, (uint8_t[20]){0x09}, 20);
	struct vdpa_pci *pci = open_fake();

	assert_int_equal(vdpa_pci_find_cap(pci, 9, 0), first);
	assert_int_equal(vdpa_pci_find_cap(pci, 9, first), second);
	assert_int_equal(vdpa_pci_find_cap(pci, 9, second), -ENOENT);
	assert_int_equal(vdpa_pci_find_cap(pci, 5, 0), other);
	assert_int_equal(vdpa_pci_find_cap(pci, 0x10, 0), -ENOENT);
	/* The two low bits of a pointer are reserved. */
	fake.config[first + 1] |= 3;
	assert_int_equal(vdpa_pci_find_cap(pci, 5, 0), other);
	/* Without the status bit there is no list. */
	fake.config[6] = 0;
	assert_int_equal(vdpa_pci_find_cap(pci, 9, 0), -ENOENT);
	vdpa_pci_close(pci);
}

static void
a_capability_list_that_loops_or_leaves_is_refused(void **state)
{
	uint8_t first = fake_pci_add_cap(&fake, (uint8_t[16]){0x09}, 16);
	uint8_t second = fake_pci_add_cap(&fake, (uint8_t[20]){0x09}, 20);
	struct vdpa_pci *pci = open_fake();
	int at, n = 0;

	fake.config[second + 1] = first;
	/* The way that a driver walks ends, though each is found. */
	for (at = 0; (at = vdpa_pci_find_cap(pci, 9, (unsigned int)at)) > 0;)
		n++;
	assert_int_equal(n, 2);
	assert_int_equal(at, -EPROTO);
	assert_string_equal(vdpa_error_message(),
			    "fake/a: the capability list loops at 0x4c; the device is at fault");
	fake.config[second + 1] = 0x3c;
	assert_int_equal(vdpa_pci_find_cap(pci, 9, second), -EPROTO);
	assert_string_equal(vdpa_error_message(),
			    "fake/a: the capability list leads to 0x3c, inside the header; the "
			    "device is at fault");
	vdpa_pci_close(pci);
	/* So does opening, which looks for MSI-X. */
	fake.config[0x34] = 0x10;
	refused(EPROTO, "fake/a: the capability list leads to 0x10, inside the header; the device "
			"is at fault");
}

static void
msix_outside_its_bar_is_refused(void **state)
{
	const uint8_t cap = 0x40;

	fake.config[cap + 5] = 0x3f; /* table at 0x3f00: 4 entries end at 0x3f40 */
	vdpa_pci_close(open_fake());
	fake.config[cap + 4] = 0xc8 | 2; /* at 0x3fc8: 8 bytes too far */
	refused(EPROTO, "fake/a: MSI-X table of 0x40 bytes at 0x3fc8 of BAR 2 lies outside the "
			"BAR's 0x4000; the device is at fault");
	fake.config[cap + 4] = 1;
	refused(EPROTO, "fake/a: MSI-X table of 0x40 bytes at 0x3f00 of BAR 1 lies outside the "
			"BAR's 0x0; the device is at fault");
	fake.config[cap + 4] = 2;
	fake.config[cap + 8] = 7;
	refused(EPROTO, "fake/a: MSI-X pending bits of 0x8 bytes at 0x2000 of BAR 7 lies outside "
			"the BAR's 0x0; the device is at fault");
}

static void
master_again(struct fake_pci *f)
{
	f->config[COMMAND] |= BUS_MASTER;
}

/* Of a function in another process each access is a trip there and back. */
static void
bus_master_is_one_access_where_it_changes(void **state)
{
	struct vdpa_pci *pci = open_fake();
	unsigned int answered = fake.answered;

	for (unsigned int i = 0; i < 10; i++) {
		assert_int_equal(vdpa_pci_set_bus_master(pci, false), 0);
		assert_int_equal(vdpa_pci_set_bus_master(pci, true), 0);
		assert_int_equal(command(), MEMORY | BUS_MASTER);
		assert_int_equal(vdpa_pci_set_bus_master(pci, true), 0);
	}
	assert_int_equal(fake.answered, answered + 19);
	vdpa_pci_close(pci);
}

static void
a_reset_leaves_it_as_after_open(void **state)
{
	struct vdpa_pci *pci = open_fake();

	assert_int_equal(vdpa_pci_msix_enable(pci, 2), 0);
	assert_int_equal(vdpa_pci_set_bus_master(pci, true), 0);
	assert_int_equal(vdpa_pci_reset(pci), 0);
	assert_int_equal(fake.resets, 1);
	assert_int_equal(command(), MEMORY);
	assert_false(fake.msix_on);
	/* What a reset leaves in the register is looked for there. */
	fake.on_reset = master_again;
	assert_int_equal(vdpa_pci_reset(pci), 0);
	assert_int_equal(command(), MEMORY);
	fake.on_reset = NULL;
	assert_int_equal(vdpa_pci_msix_enable(pci, 2), 0);
	fake.reset_err = EIO;
	assert_int_equal(vdpa_pci_reset(pci), -EIO);
	assert_string_equal(vdpa_error_message(), "fake/a: not reset");
	assert_int_equal(vdpa_pci_error(pci), 0);
	vdpa_pci_close(pci);
	fake.can_reset = false;
	pci = open_fake();
	assert_int_equal(vdpa_pci_reset(pci), -EOPNOTSUPP);
	vdpa_pci_close(pci);
}

static void
all_ones_are_removal_only_when_the_class_says_so(void **state)
{
	struct vdpa_pci *pci = open_fake();
	int remove = eventfd(0, EFD_NONBLOCK), error = eventfd(0, EFD_NONBLOCK);
	uint64_t n;
	uint16_t word;

	assert_int_equal(vdpa_pci_event_set(pci, VDPA_PCI_EVENT_REMOVE, remove), 0);
	assert_int_equal(vdpa_pci_event_set(pci, VDPA_PCI_EVENT_ERROR, error), 0);
	assert_int_equal(fake.req, remove);
	assert_int_equal(fake.err, error);
	memset(fake.bar[2].mem, 0xff, 8);
	assert_int_equal(vdpa_pci_read16(pci, 2, 0), 0xffff);
	assert_int_equal(vdpa_pci_error(pci), 0);

	fake.all_ones = true;
	assert_int_equal(vdpa_pci_read32(pci, 2, 0x10), UINT32_MAX);
	assert_int_equal(vdpa_pci_error(pci), -ENODEV);
	assert_string_equal(vdpa_pci_error_text(pci),
			    "fake/a: the device is gone: its configuration space reads all ones");
	assert_int_equal(read(remove, &n, 8), 8);
	assert_int_equal(read(error, &n, 8), -1);

	/* For good, and without asking again. */
	fake.all_ones = false;
	fake.io_err = EIO;
	assert_false(vdpa_pci_present(pci));
	assert_int_equal(vdpa_pci_read8(pci, 2, 0x10), 0xff);
	vdpa_pci_write8(pci, 2, 0x10, 1);
	assert_int_equal(vdpa_pci_config_read(pci, 0, &word, 2), -ENODEV);
	assert_int_equal(word, 0xffff);
	assert_int_equal(vdpa_pci_config_write(pci, 4, &word, 2), -ENODEV);
	assert_int_equal(vdpa_pci_find_cap(pci, 9, 0), -ENODEV);
	assert_int_equal(vdpa_pci_msix_enable(pci, 1), -ENODEV);
	assert_int_equal(vdpa_pci_set_bus_master(pci, true), -ENODEV);
	assert_int_equal(vdpa_pci_reset(pci), -ENODEV);
	assert_string_equal(vdpa_error_message(), vdpa_pci_error_text(pci));
	assert_int_equal(vdpa_pci_error(pci), -ENODEV);
	/* Who comes late hears it too. */
	assert_int_equal(vdpa_pci_event_set(pci, VDPA_PCI_EVENT_REMOVE, remove), 0);
	assert_int_equal(read(remove, &n, 8), 8);
	vdpa_pci_close(pci);
	close(remove);
	close(error);
}

static void
an_access_that_fails_is_the_end_of_the_function(void **state)
{
	struct vdpa_pci *pci;
	int error = eventfd(0, EFD_NONBLOCK);
	uint64_t n;

	fake.nr_irqs[VFIO_PCI_ERR_IRQ_INDEX] = 0;
	pci = open_fake();
	assert_int_equal(vdpa_pci_event_set(pci, VDPA_PCI_EVENT_ERROR, error), 0);
	assert_int_equal(vdpa_pci_set_bus_master(pci, true), 0);
	fake.io_err = ETIMEDOUT;
	vdpa_pci_post16(pci, 2, 0, 1);
	assert_int_equal(vdpa_pci_error(pci), -ETIMEDOUT);
	assert_string_equal(vdpa_pci_error_text(pci), "fake/a: no answer");
	assert_int_equal(read(error, &n, 8), 8);
	vdpa_pci_close(pci);
	/* Nothing was asked of it at close. */
	assert_int_equal(fake.resets, 0);
	close(error);
}

static void *
read_until_it_is_gone(void *arg)
{
	struct vdpa_pci *pci = arg;
	uint32_t value;

	do
		value = vdpa_pci_read32(pci, 2, 0x10);
	while (vdpa_pci_error(pci) == 0);
	/* The text is whole as soon as the error is there. */
	return (void *)(uintptr_t)(strcmp(vdpa_pci_error_text(pci), "fake/a: pulled by the test") !=
					   0 ||
				   (value != 0 && value != UINT32_MAX));
}

static void
every_thread_sees_that_it_is_gone(void **state)
{
	struct vdpa_pci *pci = open_fake();
	int remove = eventfd(0, EFD_NONBLOCK);
	pthread_t threads[3];
	uint64_t n = 0;
	void *wrong;

	assert_int_equal(vdpa_pci_event_set(pci, VDPA_PCI_EVENT_REMOVE, remove), 0);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_until_it_is_gone, pci), 0);
	usleep(2000);
	vdpa_pci_gone(pci, ENODEV, "fake/a: pulled by the test");
	vdpa_pci_gone(pci, EPROTO, "fake/a: and what followed from it");
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(pthread_join(threads[i], &wrong), 0);
		assert_null(wrong);
	}
	/* Once. */
	assert_int_equal(read(remove, &n, 8), 8);
	assert_int_equal(n, 1);
	vdpa_pci_close(pci);
	close(remove);
}

static void
an_area_reaches_the_device(void **state)
{
	struct vdpa_pci *pci = open_fake();
	struct vdpa_pci_area a;

	assert_int_equal(vdpa_pci_map(pci, 4, PAGE + 0x20, 4, &a), 0);
	*(volatile uint16_t *)a.va = 0x1234;
	assert_memory_equal(&fake.bar[4].mem[PAGE + 0x20], "\x34\x12", 2);
	assert_int_equal(a.size, 4);
	assert_int_equal(a.fd, fake.bar[4].fd);
	assert_int_equal(a.fd_offset, PAGE + 0x20);
	vdpa_pci_unmap(pci, &a);
	vdpa_pci_unmap(pci, &a);
	assert_int_equal(vdpa_pci_map(pci, 4, 3 * PAGE, PAGE + 1, &a), -EFAULT);
	assert_int_equal(vdpa_pci_map(pci, 4, 0, 0, &a), -EFAULT);
	assert_int_equal(vdpa_pci_map(pci, 2, 0, PAGE, &a), -EOPNOTSUPP);
	vdpa_pci_close(pci);
}

/* By the file of the device, where there is none of the part alone that can be mapped. */
static void
an_area_is_given_away_by_a_file_of_its_own_where_there_is_one(void **state)
{
	unsigned int fds = count_fds();
	struct vdpa_pci_area a;
	struct vdpa_pci *pci;

	fake.bar[4].whole_device = true;
	pci = open_fake();
	assert_int_equal(vdpa_pci_map(pci, 4, PAGE, 2 * PAGE, &a), 0);
	assert_true(a.whole_device);
	assert_int_equal(a.fd, fake.bar[4].fd);
	vdpa_pci_unmap(pci, &a);

	/* Linux 6.19: there is a file, which cannot be mapped. */
	fake.part_fd = eventfd(0, 0);
	assert_int_equal(vdpa_pci_map(pci, 4, PAGE, 2 * PAGE, &a), 0);
	assert_true(a.whole_device);
	assert_int_equal(a.fd, fake.bar[4].fd);
	assert_int_equal(a.fd_offset, PAGE);
	vdpa_pci_unmap(pci, &a);
	close(fake.part_fd);

	fake.part_fd = memfd_create("part", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fake.part_fd, 2 * PAGE), 0);
	assert_int_equal(vdpa_pci_map(pci, 4, PAGE, 2 * PAGE, &a), 0);
	assert_false(a.whole_device);
	assert_int_not_equal(a.fd, fake.bar[4].fd);
	assert_int_equal(a.fd_offset, 0);
	/* Our own kicks go the way they went. */
	*(volatile uint16_t *)a.va = 0x1234;
	assert_memory_equal(&fake.bar[4].mem[PAGE], "\x34\x12", 2);
	vdpa_pci_unmap(pci, &a);
	/* A file has whole pages: of one that begins within a page there is none. */
	assert_int_equal(vdpa_pci_map(pci, 4, PAGE + 4, PAGE, &a), 0);
	assert_true(a.whole_device);
	vdpa_pci_unmap(pci, &a);
	close(fake.part_fd);
	fake.part_fd = -1;
	vdpa_pci_close(pci);
	assert_int_equal(count_fds(), fds);
}

static void
only_parts_that_can_be_mapped_are(void **state)
{
	struct vdpa_pci_area a;
	struct vdpa_pci *pci;

	fake.bar[4].n_parts = 3;
	fake.bar[4].parts[0].offset = PAGE;
	fake.bar[4].parts[0].size = PAGE;
	fake.bar[4].parts[1].offset = 3 * PAGE;
	fake.bar[4].parts[1].size = PAGE;
	/* Its first page begins in what is trapped. */
	fake.bar[4].parts[2].offset = 0x100;
	fake.bar[4].parts[2].size = 0x100;
	pci = open_fake();
	assert_int_equal(vdpa_pci_map(pci, 4, PAGE, PAGE, &a), 0);
	vdpa_pci_unmap(pci, &a);
	assert_int_equal(vdpa_pci_map(pci, 4, 4 * PAGE - 4, 4, &a), 0);
	vdpa_pci_unmap(pci, &a);
	assert_int_equal(vdpa_pci_map(pci, 4, 0, 4, &a), -EOPNOTSUPP);
	assert_int_equal(vdpa_pci_map(pci, 4, 0x100, 4, &a), -EOPNOTSUPP);
	assert_int_equal(vdpa_pci_map(pci, 4, 2 * PAGE, 4, &a), -EOPNOTSUPP);
	assert_int_equal(vdpa_pci_map(pci, 4, PAGE, PAGE + 4, &a), -EOPNOTSUPP);
	vdpa_pci_close(pci);
}

static void
an_area_that_is_taken_away_ends_the_function_not_the_process(void **state)
{
	struct vdpa_pci *pci = open_fake();
	struct vdpa_pci_area a, b;

	assert_int_equal(vdpa_fault_init(), 0);
	assert_int_equal(vdpa_pci_map(pci, 4, 3 * PAGE, PAGE, &a), 0);
	assert_int_equal(ftruncate(fake.bar[4].fd, (off_t)PAGE), 0);
	*(volatile uint16_t *)a.va = 1;
	assert_false(vdpa_pci_present(pci));
	assert_int_equal(vdpa_pci_error(pci), -ENODEV);
	assert_non_null(strstr(vdpa_pci_error_text(pci), "a mapped part of a BAR is gone"));
	vdpa_pci_unmap(pci, &a);
	vdpa_pci_close(pci);

	/* A file too short from the start. */
	pci = open_fake();
	assert_int_equal(vdpa_pci_map(pci, 4, 3 * PAGE, PAGE, &b), -EPROTO);
	assert_string_equal(vdpa_error_message(),
			    "fake/a: BAR 4: the file to map has 4096 bytes, not 16384");
	assert_int_equal(vdpa_pci_map(pci, 4, 0, PAGE, &b), 0);
	vdpa_pci_unmap(pci, &b);
	vdpa_pci_close(pci);
	vdpa_fault_fini();
}

static void
its_domain_reaches_memory_for_dma(void **state)
{
	struct vdpa_pci *pci = open_fake();
	struct vdpa_dma_buf buf;

	assert_int_equal(vdpa_dma_alloc(vdpa_pci_dma(pci), 100, NULL, &buf), 0);
	assert_ptr_equal(fake_pci_dma(&fake, buf.iova + 8, 8), (uint8_t *)buf.va + 8);
	assert_null(fake_pci_dma(&fake, buf.iova, buf.size + 1));
	vdpa_dma_free(vdpa_pci_dma(pci), &buf);
	assert_int_equal(fake.n_mapped, 0);
	vdpa_pci_close(pci);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void
transports_are_refused_that_cannot_work(void **state)
{
	struct {
		struct vdpa_pci_transport ops;
		void *more;
	} later = {.ops = fake_pci_transport};
	struct vdpa_pci_transport ops = fake_pci_transport;

	ops.prefix = "pci/";
	assert_int_equal(vdpa_pci_register_transport(&ops), -EEXIST);
	ops.prefix = "fake/";
	assert_int_equal(vdpa_pci_register_transport(&ops), -EEXIST);
	assert_string_equal(vdpa_error_message(),
			    "PCI transport fake/: there is one of that prefix");
	ops.prefix = "other";
	assert_int_equal(vdpa_pci_register_transport(&ops), -EINVAL);
	ops.prefix = "other/";
	ops.set_irqs = NULL;
	assert_int_equal(vdpa_pci_register_transport(&ops), -EINVAL);
	ops.set_irqs = fake_pci_transport.set_irqs;
	/* The first version's table ended with that. */
	ops.size = offsetof(struct vdpa_pci_transport, export_part);
	assert_int_equal(vdpa_pci_register_transport(&ops), -EINVAL);
	later.ops.prefix = "other/";
	later.ops.size = sizeof(later);
	later.more = &later;
	assert_int_equal(vdpa_pci_register_transport(&later.ops), -E2BIG);
}

/* As one that was built for a later version is, and uses nothing of it. */
static void
a_registered_transport_is_a_copy(void **state)
{
	struct {
		struct vdpa_pci_transport ops;
		void *more;
	} later = {.ops = fake_pci_transport};
	struct vdpa_pci *pci;

	later.ops.prefix = "other/";
	later.ops.size = sizeof(later);
	assert_int_equal(vdpa_pci_register_transport(&later.ops), 0);
	later.ops.open = NULL;
	assert_int_equal(vdpa_pci_open("other/a", NULL, &pci), 0);
	assert_string_equal(vdpa_pci_name(pci), "other/a");
	vdpa_pci_close(pci);
	vdpa_pci_unregister_transport("other/");
	vdpa_pci_unregister_transport("other/");
	assert_int_equal(vdpa_pci_open("other/a", NULL, &pci), -EINVAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(a_function_opens_decoding_memory_and_without_bus_master),
		test(names_that_are_none_are_refused),
		test(a_function_that_does_not_answer_is_refused),
		test(a_header_that_makes_no_sense_is_refused),
		test(bars_that_make_no_sense_are_refused),
		test(io_ports_and_upper_halves_are_no_bars),
		test(registers_are_little_endian_of_each_width),
		test(an_access_outside_fails_the_function),
		test(configuration_space_ends_at_its_size),
		test(capabilities_are_found_in_order),
		test(a_capability_list_that_loops_or_leaves_is_refused),
		test(msix_outside_its_bar_is_refused),
		test(bus_master_is_one_access_where_it_changes),
		test(a_reset_leaves_it_as_after_open),
		test(all_ones_are_removal_only_when_the_class_says_so),
		test(an_access_that_fails_is_the_end_of_the_function),
		test(every_thread_sees_that_it_is_gone),
		test(an_area_reaches_the_device),
		test(an_area_is_given_away_by_a_file_of_its_own_where_there_is_one),
		test(only_parts_that_can_be_mapped_are),
		test(an_area_that_is_taken_away_ends_the_function_not_the_process),
		test(its_domain_reaches_memory_for_dma),
		test(transports_are_refused_that_cannot_work),
		test(a_registered_transport_is_a_copy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
