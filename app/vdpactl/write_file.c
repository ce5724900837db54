/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A file in place of another: written beside it, under a name that the node exporter does not read,
 * and renamed once it is on the disk.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "write_file.h"

static bool
write_all(int fd, const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return false;
		text += n;
		len -= (size_t)n;
	}
	return true;
}

int
write_file(const char *path, const char *text, size_t len)
{
	char tmp[PATH_MAX];
	int fd, err;

	if (snprintf(tmp, sizeof(tmp), "%s.%ld.tmp", path, (long)getpid()) >= (int)sizeof(tmp)) {
		fprintf(stderr, "vdpactl: %s: the name is too long\n", path);
		return -1;
	}
	/* What is there is of a process that is gone. */
	unlink(tmp);
	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
	if (fd < 0)
		goto failed;
	if (!write_all(fd, text, len) || fsync(fd) < 0 || rename(tmp, path) < 0) {
		err = errno;
		close(fd);
		unlink(tmp);
		errno = err;
		goto failed;
	}
	close(fd);
	return 0;

failed:
	fprintf(stderr, "vdpactl: cannot write %s: %s\n", path, strerror(errno));
	return -1;
}
