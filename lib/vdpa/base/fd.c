/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * File descriptors when they are short: the reserve, and the message that names the limit. Owns
 * nothing: the limit is read each time, as prlimit(1) may change it.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "vdpa_args.h"
#include "vdpa_fd.h"

#define ROOM_MAX 16

static struct rlimit
fd_limit(void)
{
	struct rlimit limit;

	/* It does not fail for a resource that exists. */
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		limit = (struct rlimit){.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
	return limit;
}

static rlim_t
reserve_of(rlim_t limit)
{
	return limit / 8 < VDPA_FD_RESERVE ? limit / 8 : VDPA_FD_RESERVE;
}

bool
vdpa_fd_in_reserve(int fd)
{
	rlim_t limit = fd_limit().rlim_cur;

	return fd >= 0 && (rlim_t)fd >= limit - reserve_of(limit);
}

int
vdpa_fd_error(int err, const char *what)
{
	struct rlimit limit = fd_limit();
	rlim_t reserve = reserve_of(limit.rlim_cur);

	err = abs(err);
	if (err != EMFILE)
		return vdpa_error(err, "%s: %s", what, strerror(err));
	/* All numbers below the reserve are in use, or one there would have been given. */
	return vdpa_error(
		EMFILE,
		"%s: no file descriptor: RLIMIT_NOFILE is %llu, %llu in use, %llu kept "
		"for management; raise it: %s",
		what, (unsigned long long)limit.rlim_cur,
		(unsigned long long)(limit.rlim_cur - reserve), (unsigned long long)reserve,
		limit.rlim_cur < limit.rlim_max ? "ulimit -n" : "ulimit -Hn or LimitNOFILE=");
}

int
vdpa_fd_room(unsigned int n, const char *what)
{
	int probe[ROOM_MAX], rc = 0;
	unsigned int made = 0;

	while (rc == 0 && made < n && made < ROOM_MAX) {
		/* Standard input may be closed, so the first one is a new one. */
		probe[made] = made == 0 ? open("/dev/null", O_RDONLY | O_CLOEXEC)
					: fcntl(probe[0], F_DUPFD_CLOEXEC, 0);
		if (probe[made] < 0) {
			rc = errno == EMFILE ? -EMFILE : 0;
			break;
		}
		if (vdpa_fd_in_reserve(probe[made++]))
			rc = -EMFILE;
	}
	while (made > 0)
		close(probe[--made]);
	return rc < 0 ? vdpa_fd_error(EMFILE, what) : 0;
}

int
vdpa_fd_dup(int fd, const char *what)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	if (copy < 0)
		return vdpa_fd_error(errno, what);
	if (!vdpa_fd_in_reserve(copy))
		return copy;
	close(copy);
	return vdpa_fd_error(EMFILE, what);
}

void
vdpa_fd_raise_limit(void)
{
	struct rlimit limit = fd_limit();

	if (limit.rlim_cur == limit.rlim_max)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}
