/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * How many mappings of the process guest memory may take. Linux has a limit of them for each
 * process (vm.max_map_count), and one that is at it starts no thread, maps no device and allocates
 * little. A client that maps page by page, or a hostile one, would take all for itself.
 *
 * Owns the count for all tables. A quarter of the limit is left to the rest of the process. Of what
 * is left for guest memory a large table has at most two thirds of what the others leave it; a
 * small one, which has no more regions than a front end has memory slots, may take the last.
 */

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>

#include "mem_budget.h"
#include "vdpa_error.h"

#define LIMIT_DEFAULT 65530
#define LIMIT_PATH    "/proc/sys/vm/max_map_count"
/* Mappings of a table that may take the last. */
#define SMALL	      2048

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int64_t limit; /* of the process */
static int64_t used;  /* atomic */

static void
read_limit(void)
{
	FILE *f = fopen(LIMIT_PATH, "re");

	if (f == NULL || fscanf(f, "%" SCNd64, &limit) != 1 || limit <= 0)
		limit = LIMIT_DEFAULT;
	if (f != NULL)
		fclose(f);
}

int
mem_budget_take(uint64_t iova, unsigned int n, uint64_t mine)
{
	int64_t others, left;

	pthread_once(&once, read_limit);
	others = __atomic_add_fetch(&used, n, __ATOMIC_RELAXED) - n;
	left = limit - limit / 4 - others;
	if (left >= n && (mine + n <= SMALL || (int64_t)mine + n <= 2 * left))
		return 0;
	mem_budget_give(n);
	return vdpa_error(ENOSPC,
			  "memory region at 0x%" PRIx64 ": its table has %" PRIu64
			  " mappings, and %" PRId64 " of the process's %" PRId64
			  " are in use for guest memory: more are left to others; join ranges, or "
			  "raise vm.max_map_count (sysctl)",
			  iova, mine, others, limit);
}

void
mem_budget_give(unsigned int n)
{
	__atomic_sub_fetch(&used, n, __ATOMIC_RELAXED);
}
