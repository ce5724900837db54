/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The memory of a VDUSE device. The kernel has a table of IOVA ranges, each a place in a file, and
 * gives a descriptor of one at a time (VDUSE_IOTLB_GET_FD).
 *
 * Where a driver of the kernel's own uses the device, the file is the domain's: rings lie there at
 * their IOVAs, and buffers in its first bytes, the bounce range, which the kernel copies to and
 * from. Pages of the bounce range are ours: a sealed memory file that is registered once, stays
 * mapped over resets, and can be mapped by VFIO or a vfio-user server too. The range appears when
 * the driver maps its first buffer, of which nothing tells but the first kick. Rings are freed at a
 * reset, and others may lie at the same place then, in a file with the same inode, which the
 * domains of all devices have: a generation tells them apart.
 *
 * Where /dev/vhost-vdpa-N is used the files are its user's, as of a vhost-user front end, and their
 * inodes are the identity of memory that stays.
 *
 * Owns the bounce pages.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <rte_common.h>

#include "error_priv.h"
#include "shm_file.h"
#include "vdpa_error.h"
#include "vdpa_log.h"
#include "vdpa_memory.h"
#include "vduse_priv.h"

#define TOO_MANY_WAIT                                                                              \
	"files of the device's user wait for their end: no more are taken until they have it"

/* The table as it is read, with a descriptor for each file. */
struct walk {
	struct vdpa_mem_region_spec *specs;
	unsigned int n;
	struct {
		int fd;
		dev_t dev;
		ino_t ino;
		bool domain;
	} files[VDUSE_FILES_MAX];
	unsigned int nfiles;
	bool domain; /* a driver of the kernel's has it */
	bool bounce; /* and has mapped a buffer */
};

static int
too_many(const struct vduse_device *dev)
{
	return vdpa_error(E2BIG, "%s: more than %d ranges of memory, or %d files", dev->vdev->name,
			  VDUSE_REGIONS_MAX, VDUSE_FILES_MAX);
}

/* Close a file of the device's user; no more of them are taken where too many wait for their end.
 */
static int
close_file(struct vduse_device *dev, int fd)
{
	return vdpa_close_foreign(dev->fds, fd) == 0
		       ? 0
		       : vdpa_error(EBUSY, "%s: " TOO_MANY_WAIT, dev->vdev->name);
}

/* Close a file that is refused, vdpa_error() having said why. */
static int
refuse_file(struct vduse_device *dev, int fd, int rc)
{
	struct vdpa_error_saved why;

	vdpa_error_save(&why);
	if (vdpa_close_foreign(dev->fds, fd) == 0)
		vdpa_error_restore(&why);
	else
		rc = vdpa_error(EBUSY, "%s: " TOO_MANY_WAIT, dev->vdev->name);
	return rc;
}

/*
 * Whether a file is the domain's own, which the kernel gives where a driver of its own has the
 * device. With vhost_vdpa every file is one that its user has mapped, whatever it looks like.
 */
static bool
is_domain(const struct vduse_device *dev, int fd)
{
	return vdpa_vduse_kernel->is_domain(fd) && !vdpa_vduse_bus_is_vhost(dev);
}

/* The file of a range, fd taken over: one that the walk has, or a new one. Negative: an errno. */
static int
file_of(struct vduse_device *dev, struct walk *w, int fd)
{
	/* Before its file system is asked anything: a process may be that, which does not answer.
	 */
	bool domain = is_domain(dev, fd);
	struct stat st;
	unsigned int i;
	int rc;

	if (!domain && !vdpa_vhu_is_shm(fd))
		return refuse_file(dev, fd,
				   vdpa_error(EINVAL, "%s: " VHU_NOT_SHM, dev->vdev->name));
	if (fstat(fd, &st) < 0)
		return refuse_file(dev, fd,
				   vdpa_error(errno, "%s: file of memory: %m", dev->vdev->name));
	for (i = 0; i < w->nfiles; i++)
		if (w->files[i].domain == domain && w->files[i].dev == st.st_dev &&
		    w->files[i].ino == st.st_ino)
			break;
	if (i < w->nfiles) {
		rc = close_file(dev, fd);
		return rc < 0 ? rc : (int)i;
	}
	if (i == VDUSE_FILES_MAX)
		return refuse_file(dev, fd, too_many(dev));
	w->files[i].fd = fd;
	w->files[i].dev = st.st_dev;
	w->files[i].ino = st.st_ino;
	w->files[i].domain = domain;
	w->nfiles++;
	return (int)i;
}

static int
add(struct vduse_device *dev, struct walk *w, const struct vduse_iotlb_entry *e, int fd)
{
	uint64_t size = e->last - e->start + 1, page = (uint64_t)sysconf(_SC_PAGESIZE);
	int file = file_of(dev, w, fd);

	if (file < 0)
		return file;
	if (!w->files[file].domain && !dev->memory.named)
		return 0;
	if (w->n == VDUSE_REGIONS_MAX)
		return too_many(dev);
	/* A ring has its pages for itself, though the range is as long as the ring. */
	if (w->files[file].domain && size <= UINT64_MAX - page)
		size = RTE_ALIGN_CEIL(size, page);
	w->specs[w->n++] = (struct vdpa_mem_region_spec){
		.iova = e->start,
		.uaddr = e->start,
		.size = size,
		.offset = e->offset,
		.fd = w->files[file].fd,
		.in_order = !w->files[file].domain,
		.readonly = e->perm == VDUSE_ACCESS_RO,
		.kernel_file = w->files[file].domain,
		.generation = w->files[file].domain ? dev->memory.generation : 0,
	};
	w->domain |= w->files[file].domain;
	return 0;
}

static int
walk(struct vduse_device *dev, struct walk *w)
{
	uint64_t pos = 0;
	int rc = 0;

	while (rc == 0) {
		struct vduse_iotlb_entry e = {.start = pos, .last = UINT64_MAX};
		int fd = vdpa_vduse_kernel->ioctl(dev->fd, VDUSE_IOTLB_GET_FD, &e);

		if (fd < 0 && errno == EINVAL)
			break;
		if (fd < 0)
			return vdpa_error(errno, "%s: ranges of memory: %m", dev->vdev->name);
		if (e.last < e.start || e.last < pos)
			return refuse_file(dev, fd,
					   vdpa_error(EPROTO,
						      "%s: ranges of memory without an order",
						      dev->vdev->name));
		rc = add(dev, w, &e, fd);
		if (e.last == UINT64_MAX)
			break;
		pos = e.last + 1;
	}
	return rc;
}

/* Registered pages count as locked; the kernel asks for no capability. */
static void
raise_memlock(uint64_t more)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
		return;
	limit.rlim_cur += more;
	limit.rlim_max = RTE_MAX(limit.rlim_max, limit.rlim_cur);
	(void)setrlimit(RLIMIT_MEMLOCK, &limit);
}

static int
register_bounce(struct vduse_device *dev, uint64_t size)
{
	struct vduse_memory *m = &dev->memory;
	struct vduse_iova_umem umem = {.iova = 0, .size = size};
	int fd = memfd_create("vduse-bounce", MFD_CLOEXEC | MFD_ALLOW_SEALING), rc;
	void *va = MAP_FAILED;

	if (fd < 0)
		return vdpa_error(errno, "%s: bounce pages: %m", dev->vdev->name);
	if (ftruncate(fd, (off_t)size) == 0 &&
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
		va = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (va == MAP_FAILED)
		goto err;
	umem.uaddr = (uint64_t)(uintptr_t)va;
	rc = vdpa_vduse_kernel->ioctl(dev->fd, VDUSE_IOTLB_REG_UMEM, &umem);
	if (rc < 0 && errno == ENOMEM) {
		raise_memlock(size);
		rc = vdpa_vduse_kernel->ioctl(dev->fd, VDUSE_IOTLB_REG_UMEM, &umem);
	}
	if (rc < 0)
		goto err;
	m->bounce_fd = fd;
	m->bounce_va = va;
	m->bounce = size;
	return 0;

err:
	rc = vdpa_error(errno, "%s: bounce pages, %" PRIu64 " MiB: %m%s", dev->vdev->name,
			size >> 20,
			errno == ENOMEM ? "; raise the limit of locked memory (LimitMEMLOCK)" : "");
	if (va != MAP_FAILED)
		munmap(va, size);
	close(fd);
	return rc;
}

/* The bounce range lies in pages of ours. */
static int
use_bounce(struct vduse_device *dev, struct walk *w)
{
	struct vduse_memory *m = &dev->memory;

	for (unsigned int i = 0; i < w->n; i++) {
		struct vdpa_mem_region_spec *s = &w->specs[i];
		int rc;

		if (!s->kernel_file || s->iova != 0 || s->offset != 0)
			continue;
		w->bounce = true;
		rc = m->bounce_fd < 0 ? register_bounce(dev, s->size) : 0;
		if (rc < 0)
			return rc;
		if (m->bounce != s->size)
			return vdpa_error(EPROTO, "%s: the bounce range has changed its size",
					  dev->vdev->name);
		s->fd = m->bounce_fd;
		s->kernel_file = false;
		s->generation = 0;
	}
	return 0;
}

void
vdpa_vduse_memory_renew(struct vduse_device *dev)
{
	/* The inode of all domains is one: this alone tells one's memory from another's, also where
	 * two devices have one DMA domain. */
	dev->memory.generation = vdpa_mem_generation_new();
}

int
vdpa_vduse_memory_load(struct vduse_device *dev, bool *complete)
{
	struct walk *w;
	int rc;

	*complete = false;
	if (vdpa_fd_account_full(dev->fds))
		return vdpa_error(EBUSY, "%s: " TOO_MANY_WAIT, dev->vdev->name);
	w = calloc(1, sizeof(*w));
	if (w != NULL)
		w->specs = calloc(VDUSE_REGIONS_MAX, sizeof(*w->specs));
	if (w == NULL || w->specs == NULL) {
		free(w);
		return vdpa_error(ENOMEM, "%s: out of memory", dev->vdev->name);
	}
	rc = walk(dev, w);
	if (rc == 0)
		rc = use_bounce(dev, w);
	if (rc == 0)
		rc = vdpa_consumer_set_memory(dev->consumer, w->specs, w->n);
	*complete = rc == 0 && (w->domain ? w->bounce : w->n > 0);
	for (unsigned int i = 0; i < w->nfiles; i++)
		(void)vdpa_close_foreign(dev->fds, w->files[i].fd);
	free(w->specs);
	free(w);
	return rc;
}

void
vdpa_vduse_memory_forget(struct vduse_device *dev)
{
	struct vdpa_error_saved error;

	vdpa_error_save(&error);
	if (vdpa_consumer_set_memory(dev->consumer, NULL, 0) < 0) {
		VDPA_LOG(ERR, "%s: vduse: %s; the device is stopped", dev->vdev->name,
			 vdpa_error_cause(vdpa_error_message(), dev->vdev->name, -1));
		vdpa_vduse_stop(dev);
		if (vdpa_consumer_set_memory(dev->consumer, NULL, 0) < 0)
			VDPA_LOG(ERR, "%s: vduse: %s", dev->vdev->name,
				 vdpa_error_cause(vdpa_error_message(), dev->vdev->name, -1));
	}
	vdpa_error_restore(&error);
}

void
vdpa_vduse_memory_free(struct vduse_device *dev)
{
	struct vduse_memory *m = &dev->memory;

	/* The kernel lets go of the pages when the device's descriptor is closed. */
	if (m->bounce_fd < 0)
		return;
	munmap(m->bounce_va, m->bounce);
	close(m->bounce_fd);
	m->bounce_fd = -1;
}
