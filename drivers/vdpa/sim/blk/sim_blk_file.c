/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Back end `file PATH`: opening an image, a regular file or a block device, and finding out what it
 * can do. Nothing is created and nothing in it is changed here. Its I/O is in sim_blk_uring.c.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>

#include <rte_common.h>

#include "sim_blk_file.h"
#include "vdpa_args.h"

/* The kernel does these ranges in one system call, off the worker. */
#define FILE_MAX_DISCARD    ((1u << 30) / SIM_BLK_SECTOR_SIZE)
#define FILE_MAX_WRITE_ZERO ((64u << 20) / SIM_BLK_SECTOR_SIZE)

static int
file_size(const struct file_backend *file, uint64_t *size)
{
	struct stat st;

	if (file->is_bdev)
		return ioctl(file->fd, BLKGETSIZE64, size) == 0 ? 0 : -errno;
	if (fstat(file->fd, &st) != 0)
		return -errno;
	*size = (uint64_t)st.st_size;
	return 0;
}

void
sim_blk_file_close(struct sim_blk_backend *be)
{
	struct file_backend *file = (struct file_backend *)be;

	close(file->fd);
	free(file->path);
	free(file);
}

/* Whether a read of one piece of that size goes through. */
static bool
direct_read_works(int fd, size_t len)
{
	void *buf;
	ssize_t n;

	if (posix_memalign(&buf, 4096, len) != 0)
		return false;
	n = pread(fd, buf, len, 0);
	free(buf);
	return n >= 0;
}

/* What O_DIRECT asks for, of memory and of offsets: known from the kernel from 6.1 on, tried before
 * that. */
static void
direct_alignment(const struct file_backend *file, uint32_t *mem_align, uint32_t *granularity)
{
	int logical = 0;

	*mem_align = SIM_BLK_SECTOR_SIZE;
	*granularity = SIM_BLK_SECTOR_SIZE;
#ifdef STATX_DIOALIGN
	struct statx stx;

	if (statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
	    (stx.stx_mask & STATX_DIOALIGN) != 0 && stx.stx_dio_offset_align != 0) {
		*mem_align = RTE_MAX(stx.stx_dio_mem_align, 1u);
		*granularity = RTE_MAX(stx.stx_dio_offset_align, SIM_BLK_SECTOR_SIZE);
		return;
	}
#endif
	if (file->is_bdev && ioctl(file->fd, BLKSSZGET, &logical) == 0 && logical > 512) {
		*granularity = (uint32_t)logical;
		*mem_align = (uint32_t)logical;
	} else if (!direct_read_works(file->fd, 512)) {
		*granularity = 4096;
		*mem_align = 4096;
	}
}

/*
 * Look at the image's size, and at what O_DIRECT asks for: the same whether a disk is made of it or
 * one that there is takes it anew, so that a disk that was accepted is accepted again.
 */
static int
look_at_image(const struct file_backend *file, uint64_t *size, uint32_t *mem_align,
	      uint32_t *granularity)
{
	int err = file_size(file, size);

	if (err != 0)
		return vdpa_error(err, "%s: %s: size: %s", file->device, file->path,
				  strerror(-err));
	if (*size == 0 || *size % file->blk_size != 0)
		return vdpa_error(EINVAL,
				  "%s: %s: size %" PRIu64 " is not %u bytes or a multiple of that",
				  file->device, file->path, *size, file->blk_size);
	*mem_align = 1;
	*granularity = SIM_BLK_SECTOR_SIZE;
	if (file->direct)
		direct_alignment(file, mem_align, granularity);
	if (*granularity > file->blk_size)
		return vdpa_error(EINVAL, "%s: %s: direct needs blk_size %u here", file->device,
				  file->path, *granularity);
	return 0;
}

int
sim_blk_file_resize(struct sim_blk_backend *be)
{
	struct file_backend *file = (struct file_backend *)be;
	uint32_t mem_align, granularity;
	uint64_t size = 0;
	int err = look_at_image(file, &size, &mem_align, &granularity);

	if (err != 0)
		return err;
	if (size < be->size)
		return vdpa_error(EINVAL,
				  "%s: %s: size %" PRIu64 " is below the disk's %" PRIu64
				  " bytes; a disk in use cannot shrink",
				  file->device, file->path, size, be->size);
	if (mem_align > file->mem_align || granularity > be->granularity)
		return vdpa_error(EINVAL,
				  "%s: %s: direct needs pieces of %u bytes now, memory aligned to "
				  "%u; delete the device and add it again",
				  file->device, file->path, granularity, mem_align);
	be->size = size;
	return 0;
}

/*
 * Whether holes can be punched. Asked by a hole past the end: of a regular file that changes
 * nothing, but is refused where the file system has no holes. A block device is not asked: the
 * kernel says so at the first request, which is taken account of there.
 */
static bool
can_punch(const struct file_backend *file)
{
	if (file->is_bdev)
		return true;
	return fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)file->be.size,
			 SIM_BLK_SECTOR_SIZE) == 0;
}

/* Say at creation, not at the first guest, that there is no io_uring. */
static int
check_uring(const char *device)
{
	struct io_uring ring;
	int err = io_uring_queue_init(1, &ring, 0);

	if (err < 0)
		return sim_blk_uring_error(device, err);
	io_uring_queue_exit(&ring);
	return 0;
}

static int
open_image(struct file_backend *file, const struct sim_blk_backend_params *params)
{
	struct stat st;
	int err;

	/* O_NONBLOCK: a fifo must not hold us up before it is refused. */
	file->fd = open(params->path, (params->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC |
					      O_NONBLOCK | (params->direct ? O_DIRECT : 0));
	if (file->fd < 0) {
		err = errno;
		if (err == EINVAL && params->direct)
			return vdpa_error(err,
					  "%s: %s: O_DIRECT is not possible here, leave `direct` "
					  "out",
					  params->device, params->path);
		return vdpa_error(err, "%s: cannot open %s: %s%s", params->device, params->path,
				  strerror(err),
				  !params->read_only && (err == EROFS || err == EACCES)
					  ? " (for a device that only reads, say read-only)"
					  : "");
	}
	if (fstat(file->fd, &st) != 0)
		return vdpa_error(errno, "%s: %s: %s", params->device, params->path,
				  strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return vdpa_error(EINVAL, "%s: %s is neither a regular file nor a block device",
				  params->device, params->path);
	file->is_bdev = S_ISBLK(st.st_mode);
	return 0;
}

static int
check_image(struct file_backend *file, const struct sim_blk_backend_params *params)
{
	int err = look_at_image(file, &file->be.size, &file->mem_align, &file->be.granularity);

	if (err != 0)
		return err;
	err = sim_blk_image_lock(file->fd, params->read_only, params->share_rw);
	if (err == -EBUSY)
		return vdpa_error(err,
				  "%s: %s is in use by another process or device that does not "
				  "share it (share-rw on both allows it)",
				  params->device, params->path);
	if (err != 0)
		return vdpa_error(err, "%s: cannot lock %s: %s", params->device, params->path,
				  strerror(-err));
	return 0;
}

int
sim_blk_file_open(const struct sim_blk_backend_params *params, struct sim_blk_backend **be)
{
	struct file_backend *file = calloc(1, sizeof(*file));
	int err;

	if (file == NULL)
		return vdpa_error(ENOMEM, "%s: no memory for the back end", params->device);
	file->fd = -1;
	file->direct = params->direct;
	file->blk_size = params->blk_size;
	snprintf(file->device, sizeof(file->device), "%s", params->device);
	file->path = strdup(params->path);
	if (file->path == NULL) {
		err = vdpa_error(ENOMEM, "%s: no memory for the back end", params->device);
		goto free_file;
	}
	err = open_image(file, params);
	if (err != 0)
		goto close_file;
	err = check_image(file, params);
	if (err != 0)
		goto close_file;
	err = check_uring(params->device);
	if (err != 0)
		goto close_file;

	file->be.ops = &sim_blk_file_ops;
	/* Without the lock an old process' last writes may come after the new one's first. */
	file->be.shared = params->share_rw ? "others may write to its file (share-rw)" : NULL;
	file->be.max_discard = FILE_MAX_DISCARD;
	file->be.max_write_zero = FILE_MAX_WRITE_ZERO;
	if (!params->read_only) {
		file->can_punch = can_punch(file);
		file->be.can_discard = file->can_punch;
		file->be.may_unmap = file->can_punch;
		file->be.can_write_zeroes = true;
	}
	*be = &file->be;
	return 0;

close_file:
	if (file->fd >= 0)
		close(file->fd);
	free(file->path);
free_file:
	free(file);
	return err;
}
