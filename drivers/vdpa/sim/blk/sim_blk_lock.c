/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Image locking by QEMU's convention: an image's users state what they do and what they do not
 * tolerate by shared locks on single bytes far inside the file, at 100 + permission for what is
 * done and at 200 + permission for what is not shared. Open-file-description locks: they conflict
 * between two devices of one process too, and go with the last close of the description.
 */

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "sim_blk_backend.h"

#define LOCK_PERM_BASE	 100
#define LOCK_SHARED_BASE 200

/* QEMU's permission bits, as byte offsets. */
#define PERM_CONSISTENT_READ 0
#define PERM_WRITE	     1
#define PERM_RESIZE	     3

static int
lock_byte(int fd, off_t at)
{
	struct flock fl = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

	return fcntl(fd, F_OFD_SETLK, &fl) == 0 ? 0 : -errno;
}

/* -EBUSY when anybody else holds that byte. */
static int
check_byte(int fd, off_t at)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

	if (fcntl(fd, F_OFD_GETLK, &fl) != 0)
		return -errno;
	return fl.l_type == F_UNLCK ? 0 : -EBUSY;
}

int
sim_blk_image_lock(int fd, bool read_only, bool share_rw)
{
	static const off_t perms[] = {PERM_CONSISTENT_READ, PERM_WRITE, PERM_RESIZE};

	/* State first, look second: of two that come at once at least one sees the other. */
	for (int looking = 0; looking < 2; looking++) {
		for (unsigned int i = 0; i < sizeof(perms) / sizeof(perms[0]); i++) {
			bool write = perms[i] == PERM_WRITE;
			bool used = perms[i] == PERM_CONSISTENT_READ || (write && !read_only);
			bool unshared = perms[i] == PERM_RESIZE || (write && !share_rw);
			off_t done = LOCK_PERM_BASE + perms[i];
			off_t refused = LOCK_SHARED_BASE + perms[i];
			int err = 0;

			if (used)
				err = looking ? check_byte(fd, refused) : lock_byte(fd, done);
			if (err == 0 && unshared)
				err = looking ? check_byte(fd, done) : lock_byte(fd, refused);
			if (err != 0)
				return err == -EAGAIN || err == -EACCES ? -EBUSY : err;
		}
	}
	return 0;
}
