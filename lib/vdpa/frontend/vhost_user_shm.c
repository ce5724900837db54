/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Files of a front end that are not guest memory: dirty log and inflight area. Mapped whole pages,
 * checked against the size of the file, guarded by the SIGBUS handler.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <rte_common.h>

#include "vhost_user_priv.h"

bool
vdpa_vhu_is_shm(int fd)
{
	/* Only these three have seals. */
	return fcntl(fd, F_GET_SEALS) >= 0;
}

int
vdpa_vhu_shm_map(struct vhu_shm **out, int fd, uint64_t offset, uint64_t len)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), skip, size;
	struct vhu_shm *shm;
	struct statfs fs;
	struct stat st;
	int rc;

	if (!vdpa_vhu_is_shm(fd))
		return vdpa_error(EINVAL, VHU_NOT_SHM);
	if (fstat(fd, &st) < 0)
		return vdpa_error(errno, "the file: %m");
	size = (uint64_t)st.st_size;
	if (len == 0 || offset > size || len > size - offset)
		return vdpa_error(EINVAL,
				  "%" PRIu64 " bytes at offset %" PRIu64
				  " do not lie in a file of %" PRIu64,
				  len, offset, size);
	shm = calloc(1, sizeof(*shm));
	if (shm == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	/* hugetlbfs maps whole pages of its own size, whatever it is asked for, and unmaps no less.
	 */
	if (fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC && fs.f_bsize > 0)
		page = (uint64_t)fs.f_bsize;
	skip = offset & (page - 1);
	shm->map_len = RTE_ALIGN_CEIL(skip + len, page);
	shm->map = mmap(NULL, shm->map_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			(off_t)(offset - skip));
	if (shm->map == MAP_FAILED) {
		rc = vdpa_error(errno, "mmap: %m");
		goto err_free;
	}
	shm->addr = (uint8_t *)shm->map + skip;
	shm->len = len;
	shm->dirty = (struct vdpa_dirty_log){.bitmap = shm->addr, .size = len, .fd = -1};
	rc = vdpa_fault_guard(shm->map, shm->map_len, &shm->faulted);
	if (rc < 0) {
		vdpa_error(rc, "out of memory");
		goto err_unmap;
	}
	*out = shm;
	return 0;

err_unmap:
	munmap(shm->map, shm->map_len);
err_free:
	free(shm);
	return rc;
}

void
vdpa_vhu_shm_unmap(struct vhu_shm *shm)
{
	if (shm == NULL)
		return;
	vdpa_fault_unguard(shm->map);
	munmap(shm->map, shm->map_len);
	/* A file in memory: closing it waits for nobody. */
	if (shm->dirty.fd >= 0)
		close(shm->dirty.fd);
	free(shm);
}

/*
 * The stride between queues is the back end's to choose, but the area outlives it: it is what
 * rte_vhost has, so that a front end may change from one to the other.
 */
size_t
vdpa_vhu_inflight_stride(bool packed, uint16_t queue_size)
{
	enum { SPLIT_HEAD = 16, SPLIT_DESC = 16, PACKED_HEAD = 29, PACKED_DESC = 32, ALIGN = 64 };
	size_t bytes = packed ? PACKED_HEAD + (size_t)PACKED_DESC * queue_size
			      : SPLIT_HEAD + (size_t)SPLIT_DESC * queue_size;

	return RTE_ALIGN_MUL_CEIL(bytes, (size_t)ALIGN);
}
