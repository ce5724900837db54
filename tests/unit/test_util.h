/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What several unit tests need. Include it after cmocka.h. */

#ifndef TEST_UTIL_H
#define TEST_UTIL_H

#include <dirent.h>
#include <stdbool.h>
#include <unistd.h>

/* Wait for what another thread does. A busy machine may not run it for seconds. What has been seen
 * once is not looked at again: the other thread may go on. */
#define EVENTUALLY(cond)                                                                           \
	do {                                                                                       \
		bool seen_ = (cond);                                                               \
		for (unsigned int i_ = 0; i_ < 30000 && !seen_; i_++) {                            \
			usleep(1000);                                                              \
			seen_ = (cond);                                                            \
		}                                                                                  \
		if (!seen_)                                                                        \
			fail_msg("never: %s", #cond);                                              \
	} while (0)

/* Open file descriptors of this process, the same few too many each time. A thread that begins has
 * one more for a moment, so that a count before may be too high: ask for no more than that. */
static inline unsigned int
count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	assert_non_null(dir);
	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n;
}

#endif /* TEST_UTIL_H */
