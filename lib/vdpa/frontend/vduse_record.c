/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What outlives this process: the kernel keeps a VDUSE device and its rings, and says neither how
 * far it was set up nor which requests were under way. Both stand in a file of the runtime folder,
 * vduse-NAME: the status as it was answered last, and an inflight area for each queue. The file is
 * mapped, so what was stored is there after a kill -9; it goes with the device, and with a reboot.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <rte_common.h>

#include "control_path.h"
#include "vdpa_error.h"
#include "vdpa_virtqueue.h"
#include "vduse_priv.h"

#define RECORD_MAGIC   UINT64_C(0x6573756476647675) /* "uvdvduse" */
#define RECORD_VERSION 1
#define HEAD_SIZE      4096

struct vduse_record_head {
	uint64_t magic;
	uint32_t version;
	uint32_t device_id;
	uint64_t features;
	uint32_t config_size;
	uint32_t nvqs;
	uint64_t stride; /* bytes of an inflight area; 0: none */
	uint8_t status;
	uint8_t broken; /* the kernel has given it up */
};

_Static_assert(sizeof(struct vduse_record_head) <= HEAD_SIZE, "one page");

static struct vduse_record_head
expected(const struct vduse_device *dev)
{
	uint32_t num = vdpa_get_vq_num_max(dev->vdev);
	size_t stride =
		RTE_MAX(vdpa_vq_inflight_size(false, num), vdpa_vq_inflight_size(true, num));

	return (struct vduse_record_head){
		.magic = RECORD_MAGIC,
		.version = RECORD_VERSION,
		.device_id = vdpa_get_device_id(dev->vdev),
		.features = dev->features,
		.config_size = (uint32_t)vdpa_get_config_size(dev->vdev),
		.nvqs = dev->nvqs,
		.stride = dev->tracks ? RTE_ALIGN_CEIL(stride, (size_t)64) : 0,
	};
}

static int
record_path(struct vduse_device *dev)
{
	struct vduse_record *r = &dev->record;
	char folder[192];
	int rc, len;

	if (vdpa_vduse_kernel->run_dir != NULL) {
		snprintf(folder, sizeof(folder), "%s", vdpa_vduse_kernel->run_dir);
	} else {
		rc = vdpa_control_default_path(NULL, folder, sizeof(folder));
		if (rc < 0)
			return vdpa_error(rc, "%s: no runtime folder: is XDG_RUNTIME_DIR set?",
					  dev->vdev->name);
		*strrchr(folder, '/') = '\0';
	}
	if (mkdir(folder, 0755) < 0 && errno != EEXIST)
		return vdpa_error(errno, "%s: %s: %m", dev->vdev->name, folder);
	len = snprintf(r->path, sizeof(r->path), "%s/vduse-%s", folder, dev->vdev->name);
	return len >= (int)sizeof(r->path)
		       ? vdpa_error(ENAMETOOLONG, "%s: %s: too long", dev->vdev->name, folder)
		       : 0;
}

/* Whether the file is of a device like this one. */
static int
check(struct vduse_device *dev, const struct vduse_record_head *want)
{
	struct vduse_record_head have = {0};
	struct stat st;

	if (fstat(dev->record.fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    (size_t)st.st_size != dev->record.size ||
	    pread(dev->record.fd, &have, sizeof(have), 0) != (ssize_t)sizeof(have))
		return vdpa_error(ENOENT, "%s: %s is of another device", dev->vdev->name,
				  dev->record.path);
	have.status = want->status;
	if (have.magic != want->magic || have.version != want->version ||
	    have.device_id != want->device_id || have.features != want->features ||
	    have.config_size != want->config_size || have.nvqs != want->nvqs ||
	    have.stride != want->stride)
		return vdpa_error(ENOENT,
				  "%s: %s is of a device with other words: features 0x%" PRIx64
				  ", here 0x%" PRIx64,
				  dev->vdev->name, dev->record.path, have.features, want->features);
	if (have.broken != 0)
		return vdpa_error(EIO, "%s: it is dead to the kernel", dev->vdev->name);
	return 0;
}

/* All of it, as a store to what a full file system has no room for ends the process. */
static int
allocate(const struct vduse_device *dev)
{
	const struct vduse_record *r = &dev->record;
	int err = posix_fallocate(r->fd, 0, (off_t)r->size);

	return err == 0 ? 0
			: vdpa_error(err, "%s: %s, %zu bytes: %s", dev->vdev->name, r->path,
				     r->size, strerror(err));
}

int
vdpa_vduse_record_open(struct vduse_device *dev, bool anew)
{
	struct vduse_record_head want = expected(dev);
	struct vduse_record *r = &dev->record;
	int rc = record_path(dev);

	if (rc < 0)
		return rc;
	r->size = HEAD_SIZE + want.stride * dev->nvqs;
	r->fd = open(r->path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | (anew ? O_CREAT : 0), 0600);
	if (r->fd < 0)
		return vdpa_error(errno, "%s: %s: %m", dev->vdev->name, r->path);
	if (!anew)
		rc = check(dev, &want);
	else if (ftruncate(r->fd, 0) < 0)
		rc = vdpa_error(errno, "%s: %s: %m", dev->vdev->name, r->path);
	else
		rc = allocate(dev);
	if (rc == 0) {
		void *map = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);

		if (map == MAP_FAILED)
			rc = vdpa_error(errno, "%s: %s: %m", dev->vdev->name, r->path);
		else
			r->head = map;
	}
	if (rc < 0) {
		close(r->fd);
		r->fd = -1;
	} else if (anew) {
		*r->head = want;
	}
	return rc;
}

void
vdpa_vduse_record_close(struct vduse_device *dev, bool keep)
{
	struct vduse_record *r = &dev->record;

	if (r->head == NULL)
		return;
	munmap(r->head, r->size);
	r->head = NULL;
	if (!keep)
		(void)unlink(r->path);
	close(r->fd);
	r->fd = -1;
}

void
vdpa_vduse_record_status(struct vduse_device *dev, uint8_t status)
{
	__atomic_store_n(&dev->record.head->status, status, __ATOMIC_RELEASE);
}

void
vdpa_vduse_record_break(struct vduse_device *dev)
{
	__atomic_store_n(&dev->record.head->broken, 1, __ATOMIC_RELEASE);
}

uint8_t
vdpa_vduse_record_get_status(const struct vduse_device *dev)
{
	return __atomic_load_n(&dev->record.head->status, __ATOMIC_ACQUIRE);
}

void
vdpa_vduse_record_reset(struct vduse_device *dev)
{
	memset((uint8_t *)dev->record.head + HEAD_SIZE, 0, dev->record.size - HEAD_SIZE);
}

uint8_t *
vdpa_vduse_record_areas(const struct vduse_device *dev, size_t *stride)
{
	*stride = dev->record.head->stride;
	return *stride != 0 ? (uint8_t *)dev->record.head + HEAD_SIZE : NULL;
}
