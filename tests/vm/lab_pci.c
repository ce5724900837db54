/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Runs inside the laboratory, see test_lab_pci.py: PCI functions over the kernel's vfio-pci, with
 * QEMU's teaching device "edu", whose registers, line and DMA engine need no driver, and with a
 * virtio function behind a root port, which can be reset and pulled out. What is where is given by
 * environment variables.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/capability.h>

#include <cmocka.h>

#include "../unit/test_util.h"

#include "fault.h"
#include "vdpa.h"
#include "vdpa_dma.h"
#include "vdpa_event.h"
#include "vdpa_memory.h"
#include "vdpa_pci.h"

/* Registers of edu, all in BAR 0, and the 4 KiB of memory that its DMA copies from and to. */
#define EDU_ID		0x00
#define EDU_INVERT	0x04
#define EDU_IRQ_STATUS	0x24
#define EDU_IRQ_RAISE	0x60
#define EDU_IRQ_ACK	0x64
#define EDU_DMA_FROM	0x80
#define EDU_DMA_TO	0x88
#define EDU_DMA_COUNT	0x90
#define EDU_DMA_COMMAND 0x98
#define EDU_DMA_RUN	0x1
#define EDU_DMA_TO_RAM	0x2
#define EDU_BUFFER	0x40000

#define IOVA	0x1000000ULL /* edu has 28 address bits */
#define SIZE	0x200000ULL
#define LINE_MS 1000 /* time for an interrupt */

/* Before any function of its IOMMU group is open. */
static unsigned int fds_before;

static const char *
address(const char *variable)
{
	const char *value = getenv(variable);

	if (value == NULL)
		fail_msg("%s is not set", variable);
	return value;
}

static struct vdpa_pci *
open_function(const char *variable)
{
	struct vdpa_pci *pci;

	if (vdpa_pci_open(address(variable), NULL, &pci) < 0)
		fail_msg("%s", vdpa_error_message());
	return pci;
}

static int
setup(void **state)
{
	fds_before = count_fds();
	return 0;
}

/* Nothing is left: no file, and no page that VFIO has locked. */
static int
teardown(void **state)
{
	char line[256];
	unsigned long kib = ~0ul;
	FILE *f = fopen("/proc/self/status", "r");

	while (fgets(line, sizeof(line), f) != NULL && sscanf(line, "VmLck: %lu", &kib) != 1)
		;
	fclose(f);
	assert_int_equal(kib, 0);
	assert_int_equal(count_fds(), fds_before);
	return 0;
}

static struct vdpa_iotlb *
memory(uint64_t iova, uint64_t size)
{
	struct vdpa_mem_region_spec spec = {.iova = iova, .uaddr = iova, .size = size};
	struct vdpa_iotlb *tlb;

	spec.fd = memfd_create("lab_pci", MFD_CLOEXEC);
	assert_true(spec.fd >= 0);
	assert_int_equal(ftruncate(spec.fd, (off_t)size), 0);
	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &tlb), 0);
	close(spec.fd);
	return tlb;
}

static bool
signalled(int fd, int timeout_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t n;

	return poll(&p, 1, timeout_ms) == 1 && read(fd, &n, sizeof(n)) == sizeof(n);
}

static void
edu_copy(struct vdpa_pci *edu, uint64_t from, uint64_t to, uint32_t size, uint32_t command)
{
	vdpa_pci_write32(edu, 0, EDU_DMA_FROM, (uint32_t)from);
	vdpa_pci_write32(edu, 0, EDU_DMA_TO, (uint32_t)to);
	vdpa_pci_write32(edu, 0, EDU_DMA_COUNT, size);
	vdpa_pci_write32(edu, 0, EDU_DMA_COMMAND, command | EDU_DMA_RUN);
	EVENTUALLY((vdpa_pci_read32(edu, 0, EDU_DMA_COMMAND) & EDU_DMA_RUN) == 0);
}

/* Have the device copy 1 KiB from one IOVA to another, by its own memory. */
static void
edu_move(struct vdpa_pci *edu, uint64_t from, uint64_t to)
{
	edu_copy(edu, from, EDU_BUFFER, 1024, 0);
	edu_copy(edu, EDU_BUFFER, to, 1024, EDU_DMA_TO_RAM);
}

static void
registers_answer(void **state)
{
	struct vdpa_pci *edu = open_function("EDU");
	const struct vdpa_pci_id *id = vdpa_pci_get_id(edu);
	struct vdpa_pci_area area;

	assert_int_equal(id->vendor, 0x1234);
	assert_int_equal(id->device, 0x11e8);
	assert_int_equal(vdpa_pci_bar_size(edu, 0), 1 << 20);
	assert_int_equal(vdpa_pci_read32(edu, 0, EDU_ID), 0x010000ed);
	vdpa_pci_write32(edu, 0, EDU_INVERT, 0x12345678);
	assert_int_equal(vdpa_pci_read32(edu, 0, EDU_INVERT), 0xedcba987);
	assert_int_equal(vdpa_pci_map(edu, 0, EDU_INVERT, 4, &area), 0);
	*(volatile uint32_t *)area.va = 0x0f0f0f0f;
	assert_int_equal(*(volatile uint32_t *)area.va, 0xf0f0f0f0);
	vdpa_pci_unmap(edu, &area);
	/* A register that is all ones is none that is gone. */
	vdpa_pci_write32(edu, 0, EDU_INVERT, 0);
	assert_int_equal(vdpa_pci_read32(edu, 0, EDU_INVERT), UINT32_MAX);
	assert_int_equal(vdpa_pci_error(edu), 0);
	vdpa_pci_close(edu);
}

static void
the_line_signals_until_it_is_off(void **state)
{
	struct vdpa_pci *edu = open_function("EDU");
	int a = eventfd(0, EFD_NONBLOCK), b = eventfd(0, EFD_NONBLOCK);

	assert_int_equal(vdpa_pci_intx_set(edu, a), 0);
	vdpa_pci_write32(edu, 0, EDU_IRQ_RAISE, 1);
	assert_true(signalled(a, LINE_MS));
	assert_int_equal(vdpa_pci_read32(edu, 0, EDU_IRQ_STATUS), 1);
	/* Raised still, and masked. */
	assert_false(signalled(a, 50));
	assert_int_equal(vdpa_pci_intx_unmask(edu), 0);
	assert_true(signalled(a, LINE_MS));
	vdpa_pci_write32(edu, 0, EDU_IRQ_ACK, 1);
	assert_int_equal(vdpa_pci_intx_unmask(edu), 0);
	assert_false(signalled(a, 50));
	assert_int_equal(vdpa_pci_intx_set(edu, b), 0);
	vdpa_pci_write32(edu, 0, EDU_IRQ_RAISE, 1);
	assert_true(signalled(b, LINE_MS));
	assert_false(signalled(a, 0));
	vdpa_pci_write32(edu, 0, EDU_IRQ_ACK, 1);
	assert_int_equal(vdpa_pci_intx_set(edu, -1), 0);
	vdpa_pci_write32(edu, 0, EDU_IRQ_RAISE, 1);
	assert_false(signalled(b, 50));
	vdpa_pci_write32(edu, 0, EDU_IRQ_ACK, 1);
	vdpa_pci_close(edu);
	close(a);
	close(b);
}

static struct vdpa_dma_user *
join(struct vdpa_pci *pci, const char *name)
{
	struct vdpa_dma_user *user;

	assert_int_equal(vdpa_dma_join(vdpa_pci_dma(pci), name, &user), 0);
	return user;
}

static void
dma_reaches_what_is_mapped_and_nothing_else(void **state)
{
	struct vdpa_pci *edu = open_function("EDU");
	struct vdpa_iotlb *tlb = memory(IOVA, SIZE);
	const struct vdpa_mem_region *r = tlb->regions[0];
	struct vdpa_dma_user *user = join(edu, "edu");
	struct vdpa_dma_stats stats;

	assert_int_equal(vdpa_dma_set(user, tlb), 0);
	memset(r->va, 0x5a, 1024);
	/* No bus master, no DMA. */
	edu_move(edu, IOVA, IOVA + 0x1000);
	assert_int_equal(r->va[0x1000], 0);
	assert_int_equal(vdpa_pci_set_bus_master(edu, true), 0);
	edu_move(edu, IOVA, IOVA + 0x1000);
	assert_memory_equal(r->va, r->va + 0x1000, 1024);

	/* Past the end: the IOMMU stops it, and what the device reads is not ours. */
	edu_move(edu, IOVA, IOVA + SIZE);
	memset(r->va, 0x77, 1024);
	edu_move(edu, IOVA + SIZE, IOVA);
	assert_int_not_equal(r->va[0], 0x5a);

	assert_int_equal(vdpa_dma_set(user, NULL), 0);
	memset(r->va, 0, SIZE);
	edu_copy(edu, EDU_BUFFER, IOVA, 1024, EDU_DMA_TO_RAM);
	for (unsigned int i = 0; i < 1024; i++)
		assert_int_equal(r->va[i], 0);
	vdpa_dma_get_stats(vdpa_pci_dma(edu), &stats);
	assert_int_equal(stats.mappings, 0);
	vdpa_dma_leave(user);
	vdpa_pci_close(edu);
	vdpa_iotlb_put(tlb);
}

static void
its_own_memory_is_above_the_guests(void **state)
{
	struct vdpa_pci *edu = open_function("EDU");
	struct vdpa_dma_buf buf;

	assert_int_equal(vdpa_dma_alloc(vdpa_pci_dma(edu), 8192, NULL, &buf), 0);
	assert_true(buf.iova >= 1ULL << 32);
	vdpa_dma_free(vdpa_pci_dma(edu), &buf);
	vdpa_pci_close(edu);
}

static void
iovas_that_the_iommu_reserves_are_named(void **state)
{
	struct vdpa_pci *edu = open_function("EDU");
	struct vdpa_iotlb *tlb = memory(0xfe000000, 16 << 20);
	struct vdpa_dma_user *user = join(edu, "edu");

	/* Where x86 has its interrupts. */
	assert_int_equal(vdpa_dma_set(user, tlb), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(),
			       "memory at IOVA 0xfe000000-0xfeffffff overlaps "
			       "0xfee00000-0xfeefffff, which the IOMMU reserves"));
	vdpa_dma_leave(user);
	vdpa_iotlb_put(tlb);
	vdpa_pci_close(edu);
}

static void
functions_of_a_group_share_a_domain(void **state)
{
	struct vdpa_pci *a = open_function("GROUP_A"), *b = open_function("GROUP_B");
	struct vdpa_iotlb *tlb = memory(IOVA, SIZE), *other = memory(IOVA, SIZE);
	const struct vdpa_mem_region *r = tlb->regions[0];
	struct vdpa_dma_user *users[] = {join(a, "a"), join(b, "b")};

	assert_ptr_equal(vdpa_pci_dma(b), vdpa_pci_dma(a));
	assert_int_equal(vdpa_dma_set(users[0], tlb), 0);
	/* One guest for all of them. */
	assert_int_equal(vdpa_dma_set(users[1], other), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), "devices of one IOMMU group serve one"));
	assert_int_equal(vdpa_dma_set(users[1], tlb), 0);
	assert_int_equal(vdpa_pci_set_bus_master(b, true), 0);
	vdpa_dma_leave(users[0]);
	vdpa_pci_close(a);
	/* What goes leaves the other alone. */
	memset(r->va, 0x33, 1024);
	edu_move(b, IOVA, IOVA + 0x2000);
	assert_memory_equal(r->va, r->va + 0x2000, 1024);
	vdpa_dma_leave(users[1]);
	vdpa_pci_close(b);
	vdpa_iotlb_put(tlb);
	vdpa_iotlb_put(other);
}

static void
a_group_with_the_kernels_function_is_not_viable(void **state)
{
	char expect[256];
	struct vdpa_pci *pci;

	snprintf(expect, sizeof(expect),
		 "is not viable: %s in it is bound to virtio-pci; take it from that driver: "
		 "echo %s > /sys/bus/pci/devices/%s/driver/unbind",
		 address("KERNELS"), address("KERNELS"), address("KERNELS"));
	assert_int_equal(vdpa_pci_open(address("BESIDE_KERNELS"), NULL, &pci), -EBUSY);
	if (strstr(vdpa_error_message(), expect) == NULL)
		fail_msg("%s", vdpa_error_message());
	assert_int_equal(vdpa_pci_open(address("KERNELS"), NULL, &pci), -EBUSY);
	if (strstr(vdpa_error_message(), "bound to virtio-pci; bind it to vfio-pci: echo") == NULL)
		fail_msg("%s", vdpa_error_message());
}

static void
a_group_has_one_process(void **state)
{
	char expect[256];
	struct vdpa_pci *pci;
	int ready[2], done[2], status;
	char c = 0;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(done), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int ret = vdpa_pci_open(address("EDU"), NULL, &pci);

		if (write(ready[1], &c, 1) != 1 || read(done[0], &c, 1) != 1)
			_exit(2);
		if (ret == 0)
			vdpa_pci_close(pci);
		_exit(ret == 0 ? 0 : 1);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(vdpa_pci_open(address("EDU"), NULL, &pci), -EBUSY);
	snprintf(expect, sizeof(expect), "is open in another process; fuser -v /dev/vfio/");
	if (strstr(vdpa_error_message(), expect) == NULL)
		fail_msg("%s", vdpa_error_message());
	assert_int_equal(write(done[1], &c, 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	for (unsigned int i = 0; i < 2; i++) {
		close(ready[i]);
		close(done[i]);
	}
	pci = open_function("EDU");
	assert_int_equal(vdpa_pci_open(address("EDU"), NULL, &pci), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), "is open in this process already"));
	vdpa_pci_close(pci);
}

static void
a_limit_of_locked_memory_is_named(void **state)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];
	struct vdpa_pci *edu = open_function("EDU");
	struct vdpa_iotlb *tlb = memory(IOVA, SIZE);
	struct vdpa_dma_user *user = join(edu, "edu");
	struct rlimit before;
	uint32_t caps;

	assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &before), 0);
	assert_int_equal(syscall(SYS_capget, &header, data), 0);
	caps = data[0].effective;
	data[0].effective &= ~(1u << CAP_IPC_LOCK);
	assert_int_equal(syscall(SYS_capset, &header, data), 0);
	assert_int_equal(
		prlimit(0, RLIMIT_MEMLOCK, &(struct rlimit){1 << 20, before.rlim_max}, NULL), 0);
	assert_int_equal(vdpa_dma_set(user, tlb), -ENOMEM);
	if (strstr(vdpa_error_message(),
		   "2048 KiB of memory for DMA cannot be locked: 0 of 1024 KiB "
		   "that RLIMIT_MEMLOCK allows are in use; ulimit -l unlimited") == NULL)
		fail_msg("%s", vdpa_error_message());
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &before), 0);
	data[0].effective = caps;
	assert_int_equal(syscall(SYS_capset, &header, data), 0);
	assert_int_equal(vdpa_dma_set(user, tlb), 0);
	vdpa_dma_leave(user);
	vdpa_pci_close(edu);
	vdpa_iotlb_put(tlb);
}

/* The common configuration of a virtio function: BAR and offset. */
static void
virtio_common(struct vdpa_pci *pci, uint8_t *bar, uint32_t *offset)
{
	uint8_t cap[16];
	int at = 0;

	while ((at = vdpa_pci_find_cap(pci, 0x09, (unsigned int)at)) > 0) {
		assert_int_equal(vdpa_pci_config_read(pci, (unsigned int)at, cap, sizeof(cap)), 0);
		if (cap[3] == 1) {
			*bar = cap[4];
			memcpy(offset, &cap[8], sizeof(*offset));
			return;
		}
	}
	fail_msg("no common configuration");
}

/* Mappings of VFIO devices in this process. */
static unsigned int
bar_mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];
	unsigned int n = 0;

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps) != NULL)
		n += strstr(line, "vfio-device") != NULL;
	fclose(maps);
	return n;
}

/* By calls, and by registers that are mapped. */
static void
a_function_level_reset_resets(void **state)
{
	struct vdpa_pci *pci = open_function("VIRTIO");
	uint32_t offset = 0;
	uint16_t command;
	uint8_t bar = 0;

	virtio_common(pci, &bar, &offset);
	for (unsigned int round = 0; round < 2; round++) {
		assert_int_equal(bar_mappings(), round);
		assert_int_equal(vdpa_pci_set_bus_master(pci, true), 0);
		vdpa_pci_write8(pci, bar, offset + 20, 3); /* ACKNOWLEDGE, DRIVER */
		assert_int_equal(vdpa_pci_read8(pci, bar, offset + 20), 3);
		assert_int_equal(vdpa_pci_reset(pci), 0);
		assert_int_equal(vdpa_pci_read8(pci, bar, offset + 20), 0);
		assert_int_equal(vdpa_pci_read16(pci, bar, offset + 26), 0xffff); /* vector */
		vdpa_pci_map_registers(pci, bar, offset, 56);
	}
	assert_int_equal(vdpa_pci_config_read(pci, 4, &command, 2), 0);
	assert_int_equal(command & 6, 2); /* memory, no bus master */
	assert_int_equal(vdpa_pci_error(pci), 0);
	vdpa_pci_close(pci);
	assert_int_equal(bar_mappings(), 0);
}

static void
vectors_are_enabled_swapped_and_disabled(void **state)
{
	struct vdpa_pci *pci = open_function("VIRTIO");
	int a = eventfd(0, EFD_NONBLOCK), b = eventfd(0, EFD_NONBLOCK);
	unsigned int n = vdpa_pci_nr_vectors(pci);

	assert_int_equal(n, 4);
	for (unsigned int round = 0; round < 3; round++) {
		assert_int_equal(vdpa_pci_msix_enable(pci, n), 0);
		for (unsigned int i = 0; i < n; i++)
			assert_int_equal(vdpa_pci_msix_set(pci, i, a), 0);
		assert_int_equal(vdpa_pci_msix_set(pci, 1, b), 0);
		assert_int_equal(vdpa_pci_msix_set(pci, 2, -1), 0);
		assert_int_equal(vdpa_pci_intx_set(pci, a), -EBUSY);
		if (round == 1)
			assert_int_equal(vdpa_pci_reset(pci), 0);
		else
			vdpa_pci_msix_park(pci);
	}
	assert_int_equal(vdpa_pci_event_set(pci, VDPA_PCI_EVENT_ERROR, a), 0);
	assert_int_equal(vdpa_pci_event_set(pci, VDPA_PCI_EVENT_REMOVE, b), 0);
	assert_int_equal(vdpa_pci_event_set(pci, VDPA_PCI_EVENT_REMOVE, -1), 0);
	assert_int_equal(vdpa_pci_event_set(pci, VDPA_PCI_EVENT_REMOVE, -1), 0);
	vdpa_pci_close(pci);
	close(a);
	close(b);
}

/* Ask the host for something and wait for its answer. */
static void
host(const char *what)
{
	FILE *port = fopen("/dev/ttyS1", "r+");
	char answer[256];

	assert_non_null(port);
	fprintf(port, "@@host %s\n", what);
	fflush(port);
	assert_non_null(fgets(answer, sizeof(answer), port));
	if (strncmp(answer, "error", 5) == 0)
		fail_msg("%s: %s", what, answer);
	fclose(port);
}

static void
a_function_that_is_pulled_out_says_so(void **state)
{
	struct vdpa_pci *pci = open_function("VIRTIO");
	int fd = eventfd(0, EFD_NONBLOCK);

	assert_int_equal(vdpa_pci_event_set(pci, VDPA_PCI_EVENT_REMOVE, fd), 0);
	host("remove");
	/* The kernel waits 5 s for somebody to press the button again. */
	assert_true(signalled(fd, 20000));
	vdpa_pci_close(pci);
	close(fd);
	/* For a moment it is there without a driver. */
	EVENTUALLY(vdpa_pci_open(address("VIRTIO"), NULL, &pci) == -ENODEV &&
		   strstr(vdpa_error_message(), "no such PCI function") != NULL);
}

/* Switch a slot's power off with the function in it, which tears it out. */
static void
slot_power_off(const char *port)
{
	const uint16_t off = 0x07c0; /* power controller and indicators: off */
	char path[128];
	uint8_t at, cap[2];
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", port);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &at, 1, 0x34), 1);
	while (pread(fd, cap, 2, at) == 2 && cap[0] != 0x10 && cap[1] != 0)
		at = cap[1];
	assert_int_equal(cap[0], 0x10);
	assert_int_equal(pwrite(fd, &off, 2, at + 0x18), 2); /* slot control */
	close(fd);
}

static void
a_function_that_is_torn_out_is_gone_not_the_process(void **state)
{
	struct vdpa_pci *pci = open_function("TORN");
	int fd = eventfd(0, EFD_NONBLOCK);
	struct vdpa_pci_area area;
	uint32_t offset = 0;
	uint8_t bar = 0;

	assert_int_equal(vdpa_fault_init(), 0);
	virtio_common(pci, &bar, &offset);
	vdpa_pci_map_registers(pci, bar, offset, 56);
	assert_int_not_equal(vdpa_pci_read8(pci, bar, offset + 20), 0xff);
	assert_int_equal(vdpa_pci_map(pci, bar, 0x3000, 0x1000, &area), 0);
	assert_int_equal(vdpa_pci_event_set(pci, VDPA_PCI_EVENT_REMOVE, fd), 0);
	assert_int_equal(vdpa_pci_msix_enable(pci, 2), 0);
	slot_power_off(address("TORN_PORT"));
	/* A kick that comes too late, and a register, for which QEMU gives 0 and a bus all ones. */
	*(volatile uint16_t *)area.va = 0;
	assert_int_equal(vdpa_pci_read8(pci, bar, offset + 20), 0);
	/* The kernel has not seen it: vfio-pci gives its copy of the vendor id still. */
	assert_false(vdpa_pci_present(pci));
	assert_int_equal(vdpa_pci_error(pci), -ENODEV);
	assert_true(signalled(fd, LINE_MS));
	assert_int_equal(vdpa_pci_read8(pci, bar, offset + 20), 0xff);
	vdpa_pci_unmap(pci, &area);
	vdpa_pci_close(pci);
	vdpa_fault_fini();
	close(fd);
	assert_int_equal(vdpa_pci_open(address("TORN"), NULL, &pci), -ENODEV);
	if (strstr(vdpa_error_message(), "does not answer, its configuration space reads") == NULL)
		fail_msg("%s", vdpa_error_message());
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(registers_answer),
		test(the_line_signals_until_it_is_off),
		test(dma_reaches_what_is_mapped_and_nothing_else),
		test(its_own_memory_is_above_the_guests),
		test(iovas_that_the_iommu_reserves_are_named),
		test(functions_of_a_group_share_a_domain),
		test(a_group_with_the_kernels_function_is_not_viable),
		test(a_group_has_one_process),
		test(a_limit_of_locked_memory_is_named),
		test(a_function_level_reset_resets),
		test(vectors_are_enabled_swapped_and_disabled),
		test(a_function_that_is_torn_out_is_gone_not_the_process),
		test(a_function_that_is_pulled_out_says_so),
	};

	int fd = eventfd(0, EFD_NONBLOCK);

	/* The first signal opens what the process keeps. */
	vdpa_eventfd_signal(fd);
	close(fd);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
