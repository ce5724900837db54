/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * VFIO's type1 containers, each with the DMA domain that it is: one for all groups of a VM, where
 * one was named, else for each IOMMU group in use. Owns their list and their files. Under the lock
 * of vfio_iommu.c, but for the calls of a domain.
 *
 * Linux takes a group into a container only if nothing is mapped there at IOVAs that its IOMMU
 * reserves. One that is not taken gets a container of its own, in which the memory is pinned again.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vdpa_error.h"
#include "vdpa_log.h"
#include "vfio_container.h"

/* Most bytes of an answer to VFIO_IOMMU_GET_INFO: a header and its capabilities. */
#define INFO_MAX (64u << 10)

static TAILQ_HEAD(, vfio_container) containers = TAILQ_HEAD_INITIALIZER(containers);

const void *
vdpa_vfio_find_cap(const void *info, uint32_t size, uint32_t first, uint16_t id, uint32_t len)
{
	const struct vfio_info_cap_header *cap;
	uint32_t at = first;

	/* Each lies after the one before. */
	while (at >= 8 && at <= size && size - at >= sizeof(*cap)) {
		cap = (const void *)((const uint8_t *)info + at);
		if (cap->id == id)
			return size - at >= len ? cap : NULL;
		if (cap->next <= at)
			break;
		at = cap->next;
	}
	return NULL;
}

/* DMA by type1. */

static int
type1_map(void *arg, const struct vdpa_dma_mapping *m)
{
	struct vfio_container *c = arg;
	struct vfio_iommu_type1_dma_map map = {.argsz = sizeof(map),
					       .flags = VFIO_DMA_MAP_FLAG_READ,
					       .vaddr = (uintptr_t)m->va,
					       .iova = m->iova,
					       .size = m->size};

	if (!m->readonly)
		map.flags |= VFIO_DMA_MAP_FLAG_WRITE;
	if (ioctl(c->fd, VFIO_IOMMU_MAP_DMA, &map) < 0)
		return vdpa_vfio_map_error(c->name, m, errno);
	return 0;
}

static int
type1_unmap(void *arg, const struct vdpa_dma_mapping *m)
{
	struct vfio_container *c = arg;
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap), .iova = m->iova, .size = m->size};

	if (c->is_left)
		return 0;
	if (ioctl(c->fd, VFIO_IOMMU_UNMAP_DMA, &unmap) < 0)
		return vdpa_error(errno,
				  "%s: IOVA 0x%" PRIx64 " of 0x%" PRIx64
				  " bytes not unmapped: VFIO: %m",
				  c->name, m->iova, m->size);
	if (unmap.size != m->size)
		return vdpa_error(EIO,
				  "%s: IOVA 0x%" PRIx64 ": VFIO unmapped 0x%" PRIx64
				  " bytes of 0x%" PRIx64,
				  c->name, m->iova, (uint64_t)unmap.size, m->size);
	return 0;
}

/*
 * The kernel has each mapping under the address space of the process that made it, and charges its
 * locked memory to that. It is told that the address is another, one mapping at a time; DMA goes on
 * meanwhile. Its pages are the same, so what fails here takes nothing from the device.
 */
int
vdpa_vfio_adopt(void *arg, const struct vdpa_dma_mapping *m)
{
	struct vfio_container *c = arg;
	struct vfio_iommu_type1_dma_unmap old = {.argsz = sizeof(old),
						 .flags = VFIO_DMA_UNMAP_FLAG_VADDR,
						 .iova = m->iova,
						 .size = m->size};
	struct vfio_iommu_type1_dma_map now = {.argsz = sizeof(now),
					       .flags = VFIO_DMA_MAP_FLAG_VADDR,
					       .vaddr = (uintptr_t)m->va,
					       .iova = m->iova,
					       .size = m->size};

	/* EINVAL: it has no address, as a process has ended between the two calls. What else fails
	 * here, the next call finds out. */
	(void)ioctl(c->fd, VFIO_IOMMU_UNMAP_DMA, &old);
	if (ioctl(c->fd, VFIO_IOMMU_MAP_DMA, &now) == 0)
		return 0;
	return vdpa_error(errno, "%s: IOVA 0x%" PRIx64 " not taken over: VFIO: %m%s", c->name,
			  m->iova, errno == ENOMEM ? "; raise RLIMIT_MEMLOCK" : "");
}

static int
type1_check(void *arg, uint64_t bytes)
{
	const struct vfio_container *c = arg;

	return vdpa_vfio_check_locked(c->name, bytes);
}

static const struct vdpa_dma_ops type1_ops = {
	.map = type1_map, .unmap = type1_unmap, .check = type1_check};

/* Usable IOVAs, page size and number of mappings. The ranges are the caller's to free. */
static int
type1_limits(const struct vfio_container *c, struct vdpa_dma_limits *limits,
	     struct vdpa_dma_range **ranges)
{
	const struct vfio_iommu_type1_info_cap_iova_range *range;
	const struct vfio_iommu_type1_info_dma_avail *avail;
	struct vfio_iommu_type1_info probe = {.argsz = sizeof(probe)}, *info;
	uint64_t page_sizes = 0;
	uint32_t size, caps = 0;
	int ret = 0;

	if (ioctl(c->fd, VFIO_IOMMU_GET_INFO, &probe) < 0)
		return vdpa_error(errno, "%s: VFIO_IOMMU_GET_INFO: %m", c->name);
	/* The kernel says in argsz how much there is. */
	size = probe.argsz < sizeof(probe) ? (uint32_t)sizeof(probe) : probe.argsz;
	if (size > INFO_MAX)
		return vdpa_error(EPROTO, "%s: VFIO_IOMMU_GET_INFO: %u bytes", c->name, size);
	info = calloc(1, size);
	if (info == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", c->name);
	info->argsz = size;
	if (ioctl(c->fd, VFIO_IOMMU_GET_INFO, info) < 0) {
		ret = vdpa_error(errno, "%s: VFIO_IOMMU_GET_INFO: %m", c->name);
		goto out;
	}
	if ((info->flags & VFIO_IOMMU_INFO_PGSIZES) != 0)
		page_sizes = info->iova_pgsizes;
	if ((info->flags & VFIO_IOMMU_INFO_CAPS) != 0)
		caps = info->cap_offset;
	limits->page_size =
		page_sizes != 0 ? page_sizes & -page_sizes : (uint64_t)sysconf(_SC_PAGESIZE);

	range = vdpa_vfio_find_cap(info, size, caps, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
				   sizeof(*range));
	if (range != NULL && range->nr_iovas > 0 &&
	    range->nr_iovas <= size / sizeof(range->iova_ranges[0]) &&
	    vdpa_vfio_find_cap(
		    info, size, caps, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
		    (uint32_t)(sizeof(*range) + range->nr_iovas * sizeof(range->iova_ranges[0])))) {
		*ranges = calloc(range->nr_iovas, sizeof(**ranges));
		if (*ranges == NULL) {
			ret = vdpa_error(ENOMEM, "%s: out of memory", c->name);
			goto out;
		}
		for (uint32_t i = 0; i < range->nr_iovas; i++)
			(*ranges)[i] = (struct vdpa_dma_range){.first = range->iova_ranges[i].start,
							       .last = range->iova_ranges[i].end};
		limits->ranges = *ranges;
		limits->n_ranges = range->nr_iovas;
	}
	avail = vdpa_vfio_find_cap(info, size, caps, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
				   sizeof(*avail));
	if (avail != NULL)
		limits->max_mappings = avail->avail;
out:
	free(info);
	return ret;
}

/* Containers. */

bool
vfio_is_file(int fd, const char *name)
{
	char path[VFIO_PATH_MAX];
	struct stat has, is;

	snprintf(path, sizeof(path), "%s/%s", vdpa_vfio_dev_root(), name);
	if (fstat(fd, &has) < 0 || stat(path, &is) < 0 ||
	    (has.st_mode & S_IFMT) != (is.st_mode & S_IFMT))
		return false;
	return S_ISCHR(is.st_mode) ? has.st_rdev == is.st_rdev
				   : has.st_dev == is.st_dev && has.st_ino == is.st_ino;
}

static int
open_container(const struct vfio_function *fn)
{
	char path[VFIO_PATH_MAX];
	int fd, version;

	snprintf(path, sizeof(path), "%s/vfio", vdpa_vfio_dev_root());
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return vdpa_vfio_open_error(fn, path, errno);
	version = ioctl(fd, VFIO_GET_API_VERSION);
	if (version != VFIO_API_VERSION) {
		close(fd);
		return vdpa_error(ENOTSUP, "%s: %s speaks version %d of VFIO, not %d", fn->name,
				  path, version, VFIO_API_VERSION);
	}
	return fd;
}

/* That of a former process. */
static int
take_container(const struct vfio_function *fn)
{
	int fd = fcntl(fn->left->container, F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		return vdpa_error(errno, "%s: container: %m", fn->name);
	if (!vfio_is_file(fd, "vfio") || ioctl(fd, VFIO_GET_API_VERSION) != VFIO_API_VERSION) {
		close(fd);
		return vdpa_error(EPROTO, "%s: what was kept is no container of VFIO", fn->name);
	}
	return fd;
}

/* The container gets the group and its kind of IOMMU. */
static int
set_iommu(const struct vfio_function *fn, int container, int group)
{
	unsigned long type;

	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) < 0)
		return errno == EPERM
			       ? vdpa_vfio_not_viable(fn)
			       : vdpa_error(errno, "%s: VFIO_GROUP_SET_CONTAINER: %m", fn->name);
	if (ioctl(container, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) > 0)
		type = VFIO_TYPE1v2_IOMMU;
	else if (ioctl(container, VFIO_CHECK_EXTENSION, VFIO_TYPE1_IOMMU) > 0)
		type = VFIO_TYPE1_IOMMU;
	else
		return vdpa_error(ENOTSUP,
				  "%s: VFIO has no type1 IOMMU here; modprobe vfio_iommu_type1",
				  fn->name);
	if (ioctl(container, VFIO_SET_IOMMU, type) == 0)
		return 0;
	if (errno == EPERM)
		return vdpa_error(
			ENOTSUP,
			"%s: the IOMMU does not remap interrupts, so a device could forge "
			"them; enable it in the firmware (x2APIC), or accept that: echo 1 > "
			"/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
			fn->name);
	return vdpa_error(errno, "%s: VFIO_SET_IOMMU: %m", fn->name);
}

static int
init_domain(struct vfio_container *c)
{
	struct vdpa_dma_limits limits = {.page_size = (uint64_t)sysconf(_SC_PAGESIZE)};
	struct vdpa_dma_range *ranges = NULL;
	int ret = type1_limits(c, &limits, &ranges);

	limits.one_guest = c->vm != NULL;
	if (ret == 0)
		ret = vdpa_dma_domain_create(c->name, &type1_ops, c, &limits, &c->dma);
	c->page = limits.page_size;
	free(ranges);
	return ret;
}

/* A new container with the function's group in it. */
static int
container_open(const struct vfio_function *fn, int group, struct vfio_container **out)
{
	struct vfio_container *c = calloc(1, sizeof(*c));
	int ret;

	if (c == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", fn->name);
	if (fn->vm != NULL &&
	    ((c->vm = strdup(fn->vm)) == NULL || asprintf(&c->name, "vm %s", fn->vm) < 0))
		c->name = NULL;
	else if (fn->vm == NULL)
		c->name = strdup(fn->name);
	ret = c->name == NULL	 ? vdpa_error(ENOMEM, "%s: out of memory", fn->name)
	      : fn->left != NULL ? take_container(fn)
				 : open_container(fn);
	if (ret < 0)
		goto err_free;
	c->fd = ret;
	/* One that was left has its group, and its IOMMU. */
	ret = fn->left != NULL ? 0 : set_iommu(fn, c->fd, group);
	if (ret == 0)
		ret = init_domain(c);
	if (ret < 0)
		goto err_close;
	TAILQ_INSERT_TAIL(&containers, c, next);
	*out = c;
	return 0;

err_close:
	close(c->fd);
err_free:
	free(c->name);
	free(c->vm);
	free(c);
	return ret;
}

/* Its IOMMUs have become more or fewer: what they translate, and reserve, is another. */
static int
container_refresh(struct vfio_container *c)
{
	struct vdpa_dma_limits limits = {.page_size = c->page};
	struct vdpa_dma_range *ranges = NULL;
	int ret = type1_limits(c, &limits, &ranges);

	if (ret == 0 && limits.page_size > c->page)
		ret = vdpa_error(EINVAL, "%s: its IOMMU has pages of 0x%" PRIx64 ", not 0x%" PRIx64,
				 c->name, limits.page_size, c->page);
	if (ret == 0)
		ret = vdpa_dma_domain_set_ranges(c->dma, limits.ranges, limits.n_ranges);
	free(ranges);
	return ret;
}

/*
 * Take the group into the container of another of its VM's. -EINVAL when Linux does not, since
 * something is mapped there that its IOMMU cannot translate.
 */
static int
container_join(struct vfio_container *c, const struct vfio_function *fn, int group)
{
	int ret;

	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &c->fd) < 0)
		return vdpa_error(errno, "%s: VFIO_GROUP_SET_CONTAINER, %s: %m", fn->name, c->name);
	ret = container_refresh(c);
	if (ret < 0)
		(void)ioctl(group, VFIO_GROUP_UNSET_CONTAINER);
	return ret;
}

/* The container for a group that is opened: its VM's, or a new one. */
int
vfio_container_get(const struct vfio_function *fn, int group, struct vfio_container **out)
{
	struct vfio_container *c, *refused = NULL;
	int ret;

	TAILQ_FOREACH (c, &containers, next) {
		if (fn->vm == NULL || c->vm == NULL || strcmp(c->vm, fn->vm) != 0)
			continue;
		ret = container_join(c, fn, group);
		if (ret == 0) {
			*out = c;
			return 0;
		}
		if (ret != -EINVAL)
			return ret;
		refused = c;
	}
	ret = container_open(fn, group, out);
	if (ret == 0 && refused != NULL)
		VDPA_LOG(
			WARNING,
			"%s: IOMMU group %d gets a container of its own: memory of %s is mapped "
			"where its IOMMU cannot translate or reserves "
			"(/sys/kernel/iommu_groups/%d/reserved_regions); the memory is pinned once "
			"more for it",
			fn->name, fn->group, refused->name, fn->group);
	return ret;
}

/* One group less, which is out of it already, or goes with its file. */
void
vfio_container_put(struct vfio_container *c)
{
	if (--c->groups > 0) {
		if (container_refresh(c) < 0)
			VDPA_LOG(WARNING, "%s", vdpa_error_message());
		return;
	}
	TAILQ_REMOVE(&containers, c, next);
	close(c->fd);
	free(c->name);
	free(c->vm);
	free(c);
}
