/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Transport "pci/": a function that the kernel's vfio-pci gives to user space, by the file of its
 * device. How it came to be confined is vfio_iommu.c's; what the function means is pci.c's.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "pci_priv.h"
#include "fence_function.h"
#include "restart.h"
#include "vdpa_error.h"
#include "vdpa_log.h"
#include "vfio_priv.h"

/* Most bytes of an answer to VFIO_DEVICE_GET_REGION_INFO: a header and its capabilities. */
#define REGION_INFO_MAX (16u << 10)
/* The kernel tries a reset and says EAGAIN when somebody else has the function's lock. */
#define RESET_TRIES	5
#define RESET_PAUSE_US	10000
/* Vectors that the MSI-X capability can count. */
#define VECTORS_MAX	2048

struct vfio_device {
	const char *name;
	int fd;
	uint64_t offset[VDPA_PCI_REGIONS]; /* of a region in fd */
	struct vfio_attachment *at;
};

/* Parts of a region that can be mapped; what is too much is not. */
static void
sparse_parts(const struct vfio_device *d, const struct vfio_region_info *info,
	     struct vdpa_pci_region *r)
{
	const struct vfio_region_info_cap_sparse_mmap *cap;
	uint32_t n;

	cap = vdpa_vfio_find_cap(info, info->argsz,
				 (info->flags & VFIO_REGION_INFO_FLAG_CAPS) != 0 ? info->cap_offset
										 : 0,
				 VFIO_REGION_INFO_CAP_SPARSE_MMAP, sizeof(*cap));
	if (cap == NULL)
		return;
	n = cap->nr_areas;
	if (n > VDPA_PCI_SPARSE_MAX)
		n = VDPA_PCI_SPARSE_MAX;
	while (n > 0 && (const uint8_t *)&cap->areas[n] > (const uint8_t *)info + info->argsz)
		n--;
	if (n < cap->nr_areas)
		VDPA_LOG(NOTICE, "%s: BAR %u: %u of %u mappable parts are used", d->name,
			 info->index, n, cap->nr_areas);
	/* None at all: nothing can be mapped, not everything. */
	if (n == 0)
		r->flags &= ~VFIO_REGION_INFO_FLAG_MMAP;
	r->n_parts = n;
	for (uint32_t i = 0; i < n; i++)
		r->parts[i] = (struct vdpa_pci_mmap_part){.offset = cap->areas[i].offset,
							  .size = cap->areas[i].size};
}

static int
get_region(struct vfio_device *d, unsigned int index, struct vdpa_pci_region *r)
{
	struct vfio_region_info probe = {.argsz = sizeof(probe), .index = index}, *info;
	uint32_t size;
	int ret = 0;

	if (ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, &probe) < 0)
		/* The VGA region of what is no VGA. */
		return errno == EINVAL
			       ? 0
			       : vdpa_error(errno, "%s: VFIO, region %u: %m", d->name, index);
	/* The kernel says in argsz how much there is. */
	size = probe.argsz < sizeof(probe) ? (uint32_t)sizeof(probe) : probe.argsz;
	if (size > REGION_INFO_MAX)
		return vdpa_error(EPROTO, "%s: VFIO, region %u: %u bytes", d->name, index, size);
	info = calloc(1, size);
	if (info == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", d->name);
	info->argsz = size;
	info->index = index;
	if (ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, info) < 0) {
		ret = vdpa_error(errno, "%s: VFIO, region %u: %m", d->name, index);
		goto out;
	}
	if (info->argsz > size)
		info->argsz = size;
	d->offset[index] = info->offset;
	r->size = info->size;
	r->flags = info->flags;
	if ((info->flags & VFIO_REGION_INFO_FLAG_MMAP) != 0) {
		r->fd = d->fd;
		r->whole_device = r->is_device = true;
		r->fd_offset = info->offset;
		sparse_parts(d, info, r);
	}
out:
	free(info);
	return ret;
}

static int
get_info(struct vfio_device *d, struct vdpa_pci_info *info)
{
	struct vfio_device_info device = {.argsz = sizeof(device)};
	int ret;

	if (ioctl(d->fd, VFIO_DEVICE_GET_INFO, &device) < 0)
		return vdpa_error(errno, "%s: VFIO_DEVICE_GET_INFO: %m", d->name);
	if ((device.flags & VFIO_DEVICE_FLAGS_PCI) == 0)
		return vdpa_error(ENOTSUP, "%s: VFIO says that it is no PCI function", d->name);
	info->can_reset = (device.flags & VFIO_DEVICE_FLAGS_RESET) != 0;
	/* The kernel does, where it can, when the file is closed. */
	info->close_resets = true;
	for (unsigned int i = 0; i < VDPA_PCI_REGIONS && i < device.num_regions; i++) {
		ret = get_region(d, i, &info->regions[i]);
		if (ret < 0)
			return ret;
	}
	for (unsigned int i = 0; i < VFIO_PCI_NUM_IRQS && i < device.num_irqs; i++) {
		struct vfio_irq_info irq = {.argsz = sizeof(irq), .index = i};

		/* An error interrupt is of PCI Express only. */
		if (ioctl(d->fd, VFIO_DEVICE_GET_IRQ_INFO, &irq) == 0 &&
		    (irq.flags & VFIO_IRQ_INFO_EVENTFD) != 0)
			info->nr_irqs[i] = irq.count;
	}
	return 0;
}

static int
io_error(const struct vfio_device *d, const char *what, unsigned int region, uint64_t offset,
	 size_t len, ssize_t done)
{
	int err = done < 0 ? errno : EIO;

	return vdpa_error(err, "%s: %s of %zu bytes at 0x%" PRIx64 " of region %u: %s", d->name,
			  what, len, offset, region, strerror(err));
}

static int
vfio_read(void *handle, unsigned int region, uint64_t offset, void *buf, size_t len)
{
	struct vfio_device *d = handle;
	ssize_t n = pread(d->fd, buf, len, (off_t)(d->offset[region] + offset));

	return n == (ssize_t)len ? 0 : io_error(d, "read", region, offset, len, n);
}

static int
vfio_write(void *handle, unsigned int region, uint64_t offset, const void *buf, size_t len)
{
	struct vfio_device *d = handle;
	ssize_t n = pwrite(d->fd, buf, len, (off_t)(d->offset[region] + offset));

	return n == (ssize_t)len ? 0 : io_error(d, "write", region, offset, len, n);
}

static const char *
irq_name(unsigned int index)
{
	static const char *const names[VFIO_PCI_NUM_IRQS] = {
		[VFIO_PCI_INTX_IRQ_INDEX] = "INTx",	     [VFIO_PCI_MSI_IRQ_INDEX] = "MSI",
		[VFIO_PCI_MSIX_IRQ_INDEX] = "MSI-X",	     [VFIO_PCI_ERR_IRQ_INDEX] = "error",
		[VFIO_PCI_REQ_IRQ_INDEX] = "remove request",
	};

	return names[index];
}

static int
vfio_set_irqs(void *handle, unsigned int index, unsigned int start, unsigned int count,
	      const int *fds)
{
	struct vfio_device *d = handle;
	/* struct vfio_irq_set, and eventfds behind it. */
	uint32_t arg[sizeof(struct vfio_irq_set) / 4 + VECTORS_MAX];
	const struct vfio_irq_set set = {
		.argsz = (uint32_t)(sizeof(set) + count * sizeof(fds[0])),
		.flags = VFIO_IRQ_SET_ACTION_TRIGGER |
			 (count > 0 ? VFIO_IRQ_SET_DATA_EVENTFD : VFIO_IRQ_SET_DATA_NONE),
		.index = index,
		.start = start,
		.count = count,
	};
	int ret;

	if (count > VECTORS_MAX)
		return vdpa_error(EINVAL, "%s: %u interrupts", d->name, count);
	memcpy(arg, &set, sizeof(set));
	if (count > 0)
		memcpy((uint8_t *)arg + sizeof(set), fds, count * sizeof(fds[0]));
	ret = ioctl(d->fd, VFIO_DEVICE_SET_IRQS, arg);
	if (ret == 0)
		return 0;
	/* MSI-X only: the number that could be had. */
	if (ret > 0)
		return vdpa_error(
			ENOSPC,
			"%s: the system grants %d of %u MSI-X vectors; use fewer queues, or "
			"take vectors from other devices",
			d->name, ret, start + count);
	return vdpa_error(errno, "%s: %s interrupt %u: VFIO: %m", d->name, irq_name(index), start);
}

static int
vfio_unmask_irq(void *handle, unsigned int index)
{
	struct vfio_device *d = handle;
	struct vfio_irq_set set = {
		.argsz = sizeof(set),
		.flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK,
		.index = index,
		.count = 1,
	};

	if (ioctl(d->fd, VFIO_DEVICE_SET_IRQS, &set) < 0)
		return vdpa_error(errno, "%s: %s not unmasked: VFIO: %m", d->name, irq_name(index));
	return 0;
}

static int
vfio_reset(void *handle)
{
	struct vfio_device *d = handle;

	for (unsigned int i = 0; i < RESET_TRIES; i++) {
		if (ioctl(d->fd, VFIO_DEVICE_RESET) == 0)
			return 0;
		if (errno != EAGAIN)
			break;
		usleep(RESET_PAUSE_US);
	}
	return vdpa_error(errno, "%s: reset: VFIO: %m", d->name);
}

/* Somebody else may have the function open: then the kernel does not reset it for us, as it does
 * the first time. What fails here is found out by the function's answers. */
static void
take_over(struct vfio_device *d)
{
	for (unsigned int i = 0; i < VFIO_PCI_NUM_IRQS; i++)
		(void)vfio_set_irqs(d, i, 0, 0, NULL);
	(void)vfio_reset(d);
}

/* Names of a function's files in the store. The last one is what it is stopped by. */
#define KEPT_CONTAINER "vfio-container"
#define KEPT_GROUP     "vfio-group"
#define KEPT_DEVICE    VDPA_RESTART_FUNCTION

/* A function that a former process had is open until the store has closed it, which takes its
 * time. */
#define BUSY_TRIES    100
#define BUSY_PAUSE_US 20000

static int
vfio_keep(void *handle, const char *device, bool on)
{
	const struct vfio_device *d = handle;
	struct vfio_left files;
	int ret;

	if (!on) {
		vdpa_restart_del(device, KEPT_DEVICE);
		vdpa_restart_del(device, KEPT_GROUP);
		vdpa_restart_del(device, KEPT_CONTAINER);
		return 0;
	}
	ret = vdpa_vfio_keep(d->at, device, &files);
	if (ret == 0)
		ret = vdpa_restart_put(device, KEPT_CONTAINER, files.container);
	if (ret == 0)
		ret = vdpa_restart_put(device, KEPT_GROUP, files.group);
	if (ret == 0)
		ret = vdpa_restart_put(device, KEPT_DEVICE, d->fd);
	return ret;
}

static void
vfio_leave(void *handle)
{
	struct vfio_device *d = handle;

	vdpa_vfio_leave(d->at);
}

static void
vfio_stop(void *handle)
{
	const struct vfio_device *d = handle;
	enum fence_step step = FENCE_WAITS;
	struct fence_outcome outcome;

	vdpa_fence_function(d->fd, &step, &outcome);
	if (outcome.fenced)
		VDPA_LOG(WARNING, "%s: %s", d->name, outcome.text);
	else
		VDPA_LOG(ERR, "%s: %s", d->name, outcome.text);
}

static void
close_left(struct vfio_left *left, int device_fd)
{
	if (left->container >= 0)
		close(left->container);
	if (left->group >= 0)
		close(left->group);
	if (device_fd >= 0)
		close(device_fd);
}

/*
 * By the files that a former process has left. The function's own is opened anew, by its group and
 * its address, so that it is the one that was asked for; the one in the store, which has kept it
 * going, must be there.
 */
static int
attach_left(struct vfio_function *fn, struct vfio_device *d, const char *device,
	    struct vdpa_dma_domain **dma)
{
	struct vfio_left left = {.container = vdpa_restart_take(device, KEPT_CONTAINER),
				 .group = vdpa_restart_take(device, KEPT_GROUP)};
	int fd = vdpa_restart_take(device, KEPT_DEVICE), ret;

	if (left.container < 0 || left.group < 0 || fd < 0) {
		ret = vdpa_error(ENOENT, "its files are not in the store");
	} else {
		fn->left = &left;
		ret = vdpa_vfio_attach(fn, &d->at, &d->fd, dma);
		fn->left = NULL;
	}
	close_left(&left, fd);
	return ret;
}

static int
attach_anew(struct vfio_function *fn, struct vfio_device *d, struct vdpa_dma_domain **dma)
{
	int ret = vdpa_vfio_attach(fn, &d->at, &d->fd, dma);

	for (unsigned int i = 0; ret == -EBUSY && i < BUSY_TRIES && vdpa_restart_is_on(); i++) {
		usleep(BUSY_PAUSE_US);
		ret = vdpa_vfio_attach(fn, &d->at, &d->fd, dma);
	}
	return ret;
}

/* is_left: as a former process has left it. */
static int
attach(struct vfio_function *fn, struct vfio_device *d, const char *device,
       struct vdpa_dma_domain **dma, bool *is_left)
{
	int ret;

	if (device == NULL)
		return attach_anew(fn, d, dma);
	ret = attach_left(fn, d, device, dma);
	*is_left = ret == 0;
	/* The process that has handed it over goes on with it. */
	if (ret == 0 || vdpa_restart_holds())
		return ret;
	VDPA_LOG(WARNING, "%s: %s: starts anew: %s", device, fn->name, vdpa_error_message());
	(void)vfio_keep(NULL, device, false);
	return attach_anew(fn, d, dma);
}

static int
vfio_open(struct vdpa_pci *pci, const char *where, const struct vdpa_pci_params *params,
	  struct vdpa_pci_info *info, struct vdpa_dma_domain **dma, void **handle)
{
	struct vfio_function fn;
	struct vfio_device *d;
	int ret;

	ret = vdpa_vfio_find(vdpa_pci_name(pci), where, &fn);
	if (ret < 0)
		return ret;
	d = calloc(1, sizeof(*d));
	if (d == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", fn.name);
	d->name = vdpa_pci_name(pci);
	fn.vm = params->vm;
	fn.left = NULL;
	ret = attach(&fn, d, vdpa_pci_left_device(pci), dma, &info->is_left);
	if (ret < 0)
		goto err_free;
	ret = get_info(d, info);
	if (ret < 0)
		goto err_detach;
	/* A process that was killed before another one had its record back may have mapped. */
	if (info->is_left && vdpa_pci_left_unmapped(pci))
		vdpa_vfio_unmap_all(d->at);
	if (vdpa_vfio_is_held(d->at) && !info->is_left)
		take_over(d);
	info->numa_node = fn.numa_node;
	info->maps_are_more = info->is_left;
	*handle = d;
	return 0;

err_detach:
	close(d->fd);
	vdpa_vfio_detach(d->at);
err_free:
	free(d);
	return ret;
}

static void
vfio_close(void *handle)
{
	struct vfio_device *d = handle;

	close(d->fd);
	vdpa_vfio_detach(d->at);
	free(d);
}

/*
 * Linux takes a group out of a container when no file of its devices is open any more. Threads may
 * be inside a call by our descriptor: it is made one of /dev/null, which answers nothing.
 */
static int
vfio_cut_off(void *handle)
{
	struct vfio_device *d = handle;
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC), ret = 0;

	if (fd < 0 || dup3(fd, d->fd, O_CLOEXEC) < 0)
		ret = vdpa_error(errno, "%s: /dev/null: %m", d->name);
	if (fd >= 0)
		close(fd);
	return ret < 0 ? ret : vdpa_vfio_cut_off(d->at);
}

static int
vfio_export_part(void *handle, unsigned int region, uint64_t offset, uint64_t size)
{
	struct vfio_device *d = handle;

	return vdpa_vfio_export_part(d->fd, region, offset, size);
}

static bool
vfio_dma_log_probe(void *handle)
{
	struct vfio_device *d = handle;

	return vdpa_vfio_dma_log_probe(d->fd);
}

static int
vfio_dma_log_start(void *handle, const struct vdpa_dma_range *ranges, unsigned int n)
{
	struct vfio_device *d = handle;

	return vdpa_vfio_dma_log_start(d->fd, ranges, n);
}

static int
vfio_dma_log_report(void *handle, uint64_t iova, uint64_t size, uint64_t *bitmap)
{
	struct vfio_device *d = handle;

	return vdpa_vfio_dma_log_report(d->fd, iova, size, bitmap);
}

static int
vfio_dma_log_stop(void *handle)
{
	struct vfio_device *d = handle;

	return vdpa_vfio_dma_log_stop(d->fd);
}

const struct vdpa_pci_transport vdpa_pci_vfio = {
	.size = sizeof(vdpa_pci_vfio),
	.prefix = "pci/",
	.open = vfio_open,
	.close = vfio_close,
	.identify = vdpa_vfio_identify,
	.read = vfio_read,
	.write = vfio_write,
	.post = vfio_write,
	.set_irqs = vfio_set_irqs,
	.unmask_irq = vfio_unmask_irq,
	.reset = vfio_reset,
	.cut_off = vfio_cut_off,
	.export_part = vfio_export_part,
	.dma_log_probe = vfio_dma_log_probe,
	.dma_log_start = vfio_dma_log_start,
	.dma_log_report = vfio_dma_log_report,
	.dma_log_stop = vfio_dma_log_stop,
	.keep = vfio_keep,
	.adopt = vdpa_vfio_adopt,
	.leave = vfio_leave,
	.stop = vfio_stop,
};
