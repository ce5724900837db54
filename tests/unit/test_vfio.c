/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What the kernel's VFIO can have against a function, over a tree of files that stands for sysfs
 * and /dev/vfio: each reason is one line with the command that mends it, and nothing is left open.
 * The calls of VFIO itself are tested in the laboratory (tests/vm).
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/capability.h>

#include <cmocka.h>

#include "sysfs_test.h"
#include "test_util.h"

#include "vdpa.h"
#include "vdpa_pci.h"

static void
refused(const char *name, int err, const char *message)
{
	unsigned int fds = count_fds();
	struct vdpa_pci *pci;

	assert_int_equal(vdpa_pci_open(name, NULL, &pci), -err);
	assert_string_equal(vdpa_error_message(), message);
	assert_int_equal(count_fds(), fds);
}

static void
a_function_that_is_not_there(void **state)
{
	refused("pci/" ADDRESS, ENODEV,
		"pci/0000:06:00.2: no such PCI function; ls /sys/bus/pci/devices lists them");
	/* Short names mean the same. */
	refused("6:0.2", ENODEV,
		"pci/0000:06:00.2: no such PCI function; ls /sys/bus/pci/devices lists them");
}

static void
no_iommu(void **state)
{
	make_function(ADDRESS, "virtio-pci", NULL);
	refused("pci/" ADDRESS, ENOTSUP,
		"pci/0000:06:00.2: in no IOMMU group, so that nothing would confine its DMA; "
		"enable "
		"VT-d or AMD-Vi in the firmware and, with VT-d, boot Linux with intel_iommu=on on "
		"its command line");
}

static void
no_group_before_it_is_bound(void **state)
{
	make_function(ADDRESS, NULL, NULL);
	make_dir("class/iommu/virtio0");
	make_dir("bus/pci/drivers/vfio-pci");
	refused("pci/" ADDRESS, ENODEV,
		"pci/0000:06:00.2: bound to no driver; bind it to vfio-pci: "
		"echo vfio-pci > /sys/bus/pci/devices/0000:06:00.2/driver_override; "
		"echo 0000:06:00.2 > /sys/bus/pci/drivers_probe");
}

static void
another_driver(void **state)
{
	make_function(ADDRESS, "virtio-pci", "7");
	refused("pci/" ADDRESS, EBUSY,
		"pci/0000:06:00.2: bound to virtio-pci; bind it to vfio-pci: modprobe vfio-pci; "
		"echo vfio-pci > /sys/bus/pci/devices/0000:06:00.2/driver_override; "
		"echo 0000:06:00.2 > /sys/bus/pci/devices/0000:06:00.2/driver/unbind; "
		"echo 0000:06:00.2 > /sys/bus/pci/drivers_probe");
	make_dir("bus/pci/drivers/vfio-pci");
	refused(ADDRESS, EBUSY,
		"pci/0000:06:00.2: bound to virtio-pci; bind it to vfio-pci: "
		"echo vfio-pci > /sys/bus/pci/devices/0000:06:00.2/driver_override; "
		"echo 0000:06:00.2 > /sys/bus/pci/devices/0000:06:00.2/driver/unbind; "
		"echo 0000:06:00.2 > /sys/bus/pci/drivers_probe");
}

static void
no_driver(void **state)
{
	make_function(ADDRESS, NULL, "7");
	make_dir("bus/pci/drivers/vfio-pci");
	refused("pci/" ADDRESS, ENODEV,
		"pci/0000:06:00.2: bound to no driver; bind it to vfio-pci: "
		"echo vfio-pci > /sys/bus/pci/devices/0000:06:00.2/driver_override; "
		"echo 0000:06:00.2 > /sys/bus/pci/drivers_probe");
}

static void
no_iommu_mode_is_refused(void **state)
{
	make_function(ADDRESS, "vfio-pci", "0");
	make_file("dev/noiommu-0", "");
	refused("pci/" ADDRESS, ENOTSUP,
		"pci/0000:06:00.2: its group is in no-IOMMU mode, in which the device can reach "
		"all memory; boot Linux with an IOMMU (intel_iommu=on)");
}

static void
no_file_of_the_group(void **state)
{
	char expect[256];

	make_function(ADDRESS, "vfio-pci", "7");
	snprintf(expect, sizeof(expect),
		 "pci/0000:06:00.2: %s/7 is not there; load VFIO: modprobe vfio-pci", dev);
	refused("pci/" ADDRESS, ENODEV, expect);
	/* A vendor's driver for VFIO is as good. */
	make_function(ADDRESS, "mlx5_vfio_pci", "7");
	make_dir("bus/pci/devices/" ADDRESS "/vfio-dev");
	refused("pci/" ADDRESS, ENODEV, expect);
}

static void
what_the_function_is_is_read(void **state)
{
	struct vfio_function fn;

	make_function(ADDRESS, "vfio-pci", "12");
	make_file("bus/pci/devices/" ADDRESS "/numa_node", "1\n");
	assert_int_equal(vdpa_vfio_find("pci/" ADDRESS, ADDRESS, &fn), 0);
	assert_int_equal(fn.group, 12);
	assert_int_equal(fn.numa_node, 1);
	assert_string_equal(fn.address, ADDRESS);
	make_function(ADDRESS, "vfio-pci", "1x");
	assert_int_equal(vdpa_vfio_find("pci/" ADDRESS, ADDRESS, &fn), -ENOTSUP);
}

static void
the_function_in_the_way_is_named(void **state)
{
	struct vfio_function fn = {.name = "pci/" ADDRESS, .address = ADDRESS, .group = 7};

	make_function(ADDRESS, "vfio-pci", "7");
	make_function("0000:06:00.0", "pcieport", "7");
	make_function("0000:06:00.1", "pci-stub", "7");
	make_function("0000:06:00.3", NULL, "7");
	make_function("0000:06:00.4", "vfio-pci", "7");
	/* Nobody that sysfs knows. */
	assert_int_equal(vdpa_vfio_not_viable(&fn), -EBUSY);
	assert_string_equal(
		vdpa_error_message(),
		"pci/0000:06:00.2: IOMMU group 7 is not viable: another driver uses it; "
		"ls /sys/kernel/iommu_groups/7/devices lists its functions");
	/* Many, for whatever order the folder has. */
	for (unsigned int i = 0; i < 8; i++) {
		char other[] = "0000:07:00.0";

		other[11] = (char)('0' + i);
		make_function(other, "nvme", "7");
	}
	make_function("0000:06:00.5", "e1000e", "7");
	assert_int_equal(vdpa_vfio_not_viable(&fn), -EBUSY);
	assert_string_equal(
		vdpa_error_message(),
		"pci/0000:06:00.2: IOMMU group 7 is not viable: 0000:06:00.5 in it is bound to "
		"e1000e; take it from that driver: "
		"echo 0000:06:00.5 > /sys/bus/pci/devices/0000:06:00.5/driver/unbind");
}

static void
files_that_do_not_open(void **state)
{
	const struct vfio_function fn = {.name = "pci/x", .group = 7};
	char expect[256];

	assert_int_equal(vdpa_vfio_open_error(&fn, "/dev/vfio/7", EACCES), -EACCES);
	snprintf(expect, sizeof(expect),
		 "pci/x: no permission for /dev/vfio/7; as root: chown %d /dev/vfio/7",
		 (int)geteuid());
	assert_string_equal(vdpa_error_message(), expect);
	assert_int_equal(vdpa_vfio_open_error(&fn, "/dev/vfio/7", EBUSY), -EBUSY);
	assert_string_equal(vdpa_error_message(),
			    "pci/x: IOMMU group 7 is open in another process; fuser -v /dev/vfio/7 "
			    "says which");
	assert_int_equal(vdpa_vfio_open_error(&fn, "/dev/vfio/7", EMFILE), -EMFILE);
	assert_string_equal(vdpa_error_message(), "pci/x: /dev/vfio/7: Too many open files");
}

/* In a process that may lock 1 MiB: the message for so much, in *text. */
static void
map_error_limited(uint64_t size, char text[static 512])
{
	const struct rlimit limit = {.rlim_cur = 1 << 20, .rlim_max = 1 << 20};
	const struct vdpa_dma_mapping m = {.iova = 0x100000, .size = size};
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];
	int fd[2], status;
	pid_t pid;

	memset(text, 0, 512);
	assert_int_equal(pipe(fd), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		/* To root no limit applies but without the capability. */
		if (setrlimit(RLIMIT_MEMLOCK, &limit) < 0 || syscall(SYS_capget, &header, data) < 0)
			_exit(2);
		data[0].effective &= ~(1u << CAP_IPC_LOCK);
		if (syscall(SYS_capset, &header, data) < 0)
			_exit(3);
		/* What is refused beforehand is what the kernel would refuse. */
		if ((vdpa_vfio_check_locked("pci/x", size) < 0) != (size > limit.rlim_cur) ||
		    vdpa_vfio_map_error("pci/x", &m, ENOMEM) != -ENOMEM ||
		    write(fd[1], vdpa_error_message(), strlen(vdpa_error_message())) < 0)
			_exit(4);
		_exit(0);
	}
	close(fd[1]);
	assert_true(read(fd[0], text, 511) > 0);
	close(fd[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void
memory_that_cannot_be_mapped(void **state)
{
	const struct vdpa_dma_mapping m = {.iova = 0x100000, .size = 0x2000};
	char text[512];

	map_error_limited(256 << 20, text);
	assert_string_equal(text, "pci/x: 262144 KiB of memory for DMA cannot be locked: 0 of 1024 "
				  "KiB that RLIMIT_MEMLOCK allows are in use; ulimit -l unlimited, "
				  "or LimitMEMLOCK=infinity of a systemd unit");
	/* Where the limit is not reached it is the kernel's own memory. */
	map_error_limited(0x2000, text);
	assert_string_equal(text, "pci/x: the kernel has no memory to map 8 KiB at IOVA 0x100000");
	assert_int_equal(vdpa_vfio_map_error("pci/x", &m, ENOSPC), -ENOSPC);
	assert_string_equal(vdpa_error_message(),
			    "pci/x: the kernel maps no more regions; raise "
			    "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit");
	assert_int_equal(vdpa_vfio_map_error("pci/x", &m, EFAULT), -EFAULT);
	assert_string_equal(vdpa_error_message(),
			    "pci/x: memory at IOVA 0x100000 of 0x2000 bytes cannot be pinned; is "
			    "its file that long?");
	assert_int_equal(vdpa_vfio_map_error("pci/x", &m, EEXIST), -EEXIST);
	assert_string_equal(vdpa_error_message(),
			    "pci/x: IOVA 0x100000 of 0x2000 bytes: VFIO: File exists");
}

static void
a_chain_of_capabilities_stays_in_its_answer(void **state)
{
	uint32_t info[16] = {0};
	struct vfio_info_cap_header *a = (void *)&info[4], *b = (void *)&info[8];

	*a = (struct vfio_info_cap_header){.id = 1, .version = 1, .next = 32};
	*b = (struct vfio_info_cap_header){.id = 3, .version = 1};
	assert_ptr_equal(vdpa_vfio_find_cap(info, 64, 16, 1, 16), a);
	assert_ptr_equal(vdpa_vfio_find_cap(info, 64, 16, 3, 32), b);
	/* Longer than what is left; none of the id; no chain; one that begins outside. */
	assert_null(vdpa_vfio_find_cap(info, 64, 16, 3, 33));
	assert_null(vdpa_vfio_find_cap(info, 64, 16, 2, 8));
	assert_null(vdpa_vfio_find_cap(info, 64, 0, 1, 8));
	assert_null(vdpa_vfio_find_cap(info, 64, 60, 1, 8));
	assert_null(vdpa_vfio_find_cap(info, 64, UINT32_MAX, 1, 8));
	/* One that goes round, and one that leads outside. */
	b->next = 16;
	assert_null(vdpa_vfio_find_cap(info, 64, 16, 2, 8));
	b->next = 60;
	assert_null(vdpa_vfio_find_cap(info, 64, 16, 2, 8));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(a_function_that_is_not_there),
		test(no_iommu),
		test(no_group_before_it_is_bound),
		test(another_driver),
		test(no_driver),
		test(no_iommu_mode_is_refused),
		test(no_file_of_the_group),
		test(what_the_function_is_is_read),
		test(the_function_in_the_way_is_named),
		test(files_that_do_not_open),
		test(memory_that_cannot_be_mapped),
		test(a_chain_of_capabilities_stays_in_its_answer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
