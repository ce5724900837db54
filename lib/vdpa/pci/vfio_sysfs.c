/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Is a PCI function ready for VFIO, and if not, what mends it: its driver, its IOMMU group and the
 * others in it, as sysfs and /dev/vfio show them. Reads only, and words the messages; commands in
 * messages name the kernel's own paths.
 */

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/capability.h>

#include <rte_string_fns.h>

#include "vdpa_error.h"
#include "vfio_priv.h"

#define DRIVER_MAX   64
/* The file-name part of a symbolic link, at most. */
#define LINK_MAX_LEN 512

static const char *sysfs_root = "/sys";
static const char *dev_root = "/dev/vfio";

void
vdpa_vfio_set_roots(const char *sysfs, const char *dev)
{
	sysfs_root = sysfs != NULL ? sysfs : "/sys";
	dev_root = dev != NULL ? dev : "/dev/vfio";
}

const char *
vdpa_vfio_dev_root(void)
{
	return dev_root;
}

static void
function_path(char path[static VFIO_PATH_MAX], const char *address, const char *file)
{
	snprintf(path, VFIO_PATH_MAX, "%s/bus/pci/devices/%s/%s", sysfs_root, address, file);
}

static bool
exists(const char *path)
{
	return access(path, F_OK) == 0;
}

void
vdpa_vfio_functions_path(char path[static VFIO_PATH_MAX])
{
	snprintf(path, VFIO_PATH_MAX, "%s/bus/pci/devices", sysfs_root);
}

void
vdpa_vfio_read_link(const char *address, const char *link, char *out, size_t size)
{
	char path[VFIO_PATH_MAX], to[LINK_MAX_LEN];
	const char *last;
	ssize_t n;

	out[0] = '\0';
	function_path(path, address, link);
	n = readlink(path, to, sizeof(to) - 1);
	if (n < 0)
		return;
	to[n] = '\0';
	last = strrchr(to, '/');
	(void)rte_strscpy(out, last != NULL ? last + 1 : to, size);
}

long
vdpa_vfio_read_number(const char *address, const char *file, long dflt)
{
	char path[VFIO_PATH_MAX];
	long value;
	FILE *f;

	function_path(path, address, file);
	f = fopen(path, "re");
	if (f == NULL)
		return dflt;
	if (fscanf(f, "%li", &value) != 1)
		value = dflt;
	fclose(f);
	return value;
}

static bool
is_empty(const char *folder)
{
	char path[VFIO_PATH_MAX];
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/%s", sysfs_root, folder);
	dir = opendir(path);
	if (dir == NULL)
		return true;
	do
		e = readdir(dir);
	while (e != NULL && e->d_name[0] == '.');
	closedir(dir);
	return e == NULL;
}

/* vfio-pci, or a vendor's variant of it such as mlx5_vfio_pci. */
static bool
is_vfio_driver(const char *address, const char *driver)
{
	char path[VFIO_PATH_MAX];

	if (strcmp(driver, "vfio-pci") == 0)
		return true;
	function_path(path, address, "vfio-dev");
	return driver[0] != '\0' && exists(path);
}

/* Bound to nothing, or to another driver. */
static int
not_bound(const char *name, const char *address, const char *driver)
{
	char path[VFIO_PATH_MAX], bound[DRIVER_MAX + 16], unbind[VFIO_PATH_MAX];
	const char *load;

	snprintf(path, sizeof(path), "%s/bus/pci/drivers/vfio-pci", sysfs_root);
	load = exists(path) ? "" : "modprobe vfio-pci; ";
	snprintf(bound, sizeof(bound), driver[0] != '\0' ? "bound to %s" : "bound to no driver",
		 driver);
	unbind[0] = '\0';
	if (driver[0] != '\0')
		snprintf(unbind, sizeof(unbind),
			 "echo %s > /sys/bus/pci/devices/%s/driver/unbind; ", address, address);
	return vdpa_error(driver[0] != '\0' ? EBUSY : ENODEV,
			  "%s: %s; bind it to vfio-pci: %secho vfio-pci > "
			  "/sys/bus/pci/devices/%s/driver_override; %secho %s > "
			  "/sys/bus/pci/drivers_probe",
			  name, bound, load, address, unbind, address);
}

static int
no_iommu(const char *name)
{
	return vdpa_error(ENOTSUP,
			  "%s: in no IOMMU group, so that nothing would confine its DMA; enable "
			  "VT-d or AMD-Vi in the firmware and, with VT-d, boot Linux with "
			  "intel_iommu=on on its command line",
			  name);
}

static int
no_function(const char *name)
{
	return vdpa_error(ENODEV, "%s: no such PCI function; ls /sys/bus/pci/devices lists them",
			  name);
}

int
vdpa_vfio_identify(const char *address, struct vdpa_pci_id *id)
{
	char name[VDPA_PCI_ADDRESS_MAX + 4];
	long vendor = vdpa_vfio_read_number(address, "vendor", -1);

	snprintf(name, sizeof(name), "pci/%s", address);
	if (vendor < 0)
		return no_function(name);
	*id = (struct vdpa_pci_id){
		.vendor = (uint16_t)vendor,
		.device = (uint16_t)vdpa_vfio_read_number(address, "device", 0),
		.subsystem_vendor = (uint16_t)vdpa_vfio_read_number(address, "subsystem_vendor", 0),
		.subsystem = (uint16_t)vdpa_vfio_read_number(address, "subsystem_device", 0),
		.class_code = (uint32_t)vdpa_vfio_read_number(address, "class", 0) & 0xffffff,
		.revision = (uint8_t)vdpa_vfio_read_number(address, "revision", 0),
	};
	return 0;
}

int
vdpa_vfio_find(const char *name, const char *address, struct vfio_function *fn)
{
	char path[VFIO_PATH_MAX], driver[DRIVER_MAX], group[16];
	char *end;

	memset(fn, 0, sizeof(*fn));
	fn->name = name;
	(void)rte_strscpy(fn->address, address, sizeof(fn->address));
	function_path(path, address, "");
	if (!exists(path))
		return no_function(name);
	vdpa_vfio_read_link(address, "driver", driver, sizeof(driver));
	vdpa_vfio_read_link(address, "iommu_group", group, sizeof(group));
	/*
	 * Before the driver: where no IOMMU is, vfio-pci does not bind. Where one is, some
	 * functions come into a group only when a driver takes them.
	 */
	if (group[0] == '\0' && (is_vfio_driver(address, driver) ||
				 (is_empty("class/iommu") && is_empty("kernel/iommu_groups"))))
		return no_iommu(name);
	if (!is_vfio_driver(address, driver))
		return not_bound(name, address, driver);
	fn->group = (int)strtol(group, &end, 10);
	if (*end != '\0' || fn->group < 0)
		return vdpa_error(ENOTSUP, "%s: IOMMU group \"%s\" has no number", name, group);
	fn->numa_node = (int)vdpa_vfio_read_number(address, "numa_node", -1);

	snprintf(path, sizeof(path), "%s/noiommu-%d", dev_root, fn->group);
	/* Guest addresses would mean nothing to the device, and it could reach all memory. */
	if (exists(path))
		return vdpa_error(
			ENOTSUP,
			"%s: its group is in no-IOMMU mode, in which the device can reach "
			"all memory; boot Linux with an IOMMU (intel_iommu=on)",
			name);
	return 0;
}

/* Drivers that leave a group viable: they do no DMA of the kernel's. */
static bool
is_harmless(const char *address, const char *driver)
{
	return driver[0] == '\0' || strcmp(driver, "pci-stub") == 0 ||
	       strcmp(driver, "pcieport") == 0 || is_vfio_driver(address, driver);
}

int
vdpa_vfio_check_group(const struct vfio_function *fn)
{
	char path[VFIO_PATH_MAX], other[VDPA_PCI_ADDRESS_MAX] = "", driver[DRIVER_MAX] = "";
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/kernel/iommu_groups/%d/devices", sysfs_root, fn->group);
	dir = opendir(path);
	while (dir != NULL && (e = readdir(dir)) != NULL) {
		char at[VDPA_PCI_ADDRESS_MAX], drv[DRIVER_MAX];

		if (e->d_name[0] == '.' || strlen(e->d_name) >= sizeof(at) ||
		    strcmp(e->d_name, fn->address) == 0)
			continue;
		(void)rte_strscpy(at, e->d_name, sizeof(at));
		vdpa_vfio_read_link(at, "driver", drv, sizeof(drv));
		/* The lowest, for the same message every time. */
		if (is_harmless(at, drv) || (other[0] != '\0' && strcmp(at, other) > 0))
			continue;
		memcpy(other, at, sizeof(other));
		memcpy(driver, drv, sizeof(driver));
	}
	if (dir != NULL)
		closedir(dir);
	if (other[0] == '\0')
		return 0;
	return vdpa_error(EBUSY,
			  "%s: IOMMU group %d is not viable: %s in it is bound to %s; take it from "
			  "that driver: echo %s > /sys/bus/pci/devices/%s/driver/unbind",
			  fn->name, fn->group, other, driver, other, other);
}

int
vdpa_vfio_not_viable(const struct vfio_function *fn)
{
	int rc = vdpa_vfio_check_group(fn);

	return rc < 0 ? rc
		      : vdpa_error(EBUSY,
				   "%s: IOMMU group %d is not viable: another driver uses it; "
				   "ls /sys/kernel/iommu_groups/%d/devices lists its functions",
				   fn->name, fn->group, fn->group);
}

int
vdpa_vfio_open_error(const struct vfio_function *fn, const char *path, int err)
{
	switch (err) {
	case ENOENT:
	case ENODEV:
		return vdpa_error(ENODEV, "%s: %s is not there; load VFIO: modprobe vfio-pci",
				  fn->name, path);
	case EACCES:
		return vdpa_error(EACCES, "%s: no permission for %s; as root: chown %d %s",
				  fn->name, path, (int)geteuid(), path);
	case EBUSY:
		return vdpa_error(EBUSY,
				  "%s: IOMMU group %d is open in another process; fuser -v %s says "
				  "which",
				  fn->name, fn->group, path);
	default:
		return vdpa_error(err, "%s: %s: %s", fn->name, path, strerror(err));
	}
}

/* Whether no limit of locked memory holds for this thread. */
static bool
may_lock_all(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];

	return syscall(SYS_capget, &header, caps) == 0 &&
	       (caps[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK)) != 0;
}

/* Locked memory of this process in bytes. To read it takes as long as to start a device. */
static uint64_t
locked_memory(void)
{
	unsigned long long kib = 0, value;
	char line[256];
	FILE *f;

	f = fopen("/proc/self/status", "re");
	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		if (sscanf(line, "VmLck: %llu", &value) == 1)
			kib = value;
	if (f != NULL)
		fclose(f);
	return kib << 10;
}

int
vdpa_vfio_check_locked(const char *name, uint64_t bytes)
{
	struct rlimit limit = {.rlim_cur = RLIM_INFINITY};
	uint64_t locked;

	(void)getrlimit(RLIMIT_MEMLOCK, &limit);
	if (limit.rlim_cur == RLIM_INFINITY || may_lock_all())
		return 0;
	locked = locked_memory();
	if (locked < limit.rlim_cur && bytes <= limit.rlim_cur - locked)
		return 0;
	return vdpa_error(ENOMEM,
			  "%s: %" PRIu64 " KiB of memory for DMA cannot be locked: "
			  "%" PRIu64 " of %" PRIu64
			  " KiB that RLIMIT_MEMLOCK allows are in use; ulimit -l "
			  "unlimited, or LimitMEMLOCK=infinity of a systemd unit",
			  name, bytes >> 10, locked >> 10, (uint64_t)limit.rlim_cur >> 10);
}

int
vdpa_vfio_map_error(const char *name, const struct vdpa_dma_mapping *m, int err)
{
	int rc;

	switch (err) {
	case ENOMEM:
		rc = vdpa_vfio_check_locked(name, m->size);
		if (rc < 0)
			return rc;
		return vdpa_error(ENOMEM,
				  "%s: the kernel has no memory to map %" PRIu64
				  " KiB at IOVA 0x%" PRIx64,
				  name, m->size >> 10, m->iova);
	case ENOSPC:
		return vdpa_error(ENOSPC,
				  "%s: the kernel maps no more regions; raise "
				  "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
				  name);
	case EFAULT:
		return vdpa_error(EFAULT,
				  "%s: memory at IOVA 0x%" PRIx64 " of 0x%" PRIx64
				  " bytes cannot be pinned; is its file that long?",
				  name, m->iova, m->size);
	default:
		return vdpa_error(err, "%s: IOVA 0x%" PRIx64 " of 0x%" PRIx64 " bytes: VFIO: %s",
				  name, m->iova, m->size, strerror(err));
	}
}
