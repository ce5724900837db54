/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What several unit tests need. Include it after cmocka.h. */

#ifndef TEST_UTIL_H
#define TEST_UTIL_H

#include <dirent.h>
#include <unistd.h>

/* Wait, at most some 5 s, for what another thread does. */
#define EVENTUALLY(cond)                                                                           \
	do {                                                                                       \
		for (unsigned int i_ = 0; i_ < 5000 && !(cond); i_++)                              \
			usleep(1000);                                                              \
		assert_true(cond);                                                                 \
	} while (0)

/* Open file descriptors of this process, the same few too many each time. */
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
