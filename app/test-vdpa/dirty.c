/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Guest pages and their dirty log; see dirty.h. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vdpa_memory.h>

#include "dirty.h"

/* Pages behind the guest's memory that a log has room for: nobody writes there. */
#define BEHIND 64u

int
page_set_init(struct page_set *set, const struct ring_mem *mem)
{
	uint64_t end = 0;

	for (unsigned int i = 0; i < mem->n; i++)
		if (mem->region[i].iova + mem->region[i].size > end)
			end = mem->region[i].iova + mem->region[i].size;
	set->n = ((end >> VDPA_DIRTY_PAGE_SHIFT) + BEHIND + 63) & ~63ULL;
	set->bits = calloc(1, set->n / 8);
	return set->bits != NULL ? 0 : -ENOMEM;
}

void
page_set_fini(struct page_set *set)
{
	free(set->bits);
	memset(set, 0, sizeof(*set));
}

void
page_set_clear(struct page_set *set)
{
	memset(set->bits, 0, set->n / 8);
}

void
page_set_add(struct page_set *set, uint64_t iova, uint64_t len)
{
	uint64_t last = (iova + len - 1) >> VDPA_DIRTY_PAGE_SHIFT;

	for (uint64_t page = iova >> VDPA_DIRTY_PAGE_SHIFT; page <= last && page < set->n; page++)
		set->bits[page / 8] |= (uint8_t)(1u << page % 8);
}

bool
page_set_has(const struct page_set *set, uint64_t page)
{
	return (set->bits[page / 8] >> page % 8) & 1;
}

int
dirty_log_init(struct target_log *log, const struct page_set *set)
{
	log->size = set->n / 8;
	log->bitmap = NULL;
	log->fd = memfd_create("dirty_log", MFD_CLOEXEC);
	if (log->fd < 0 || ftruncate(log->fd, (off_t)log->size) < 0)
		return -errno;
	log->bitmap = mmap(NULL, log->size, PROT_READ | PROT_WRITE, MAP_SHARED, log->fd, 0);
	if (log->bitmap != MAP_FAILED)
		return 0;
	log->bitmap = NULL;
	return -errno;
}

void
dirty_log_fini(struct target_log *log)
{
	if (log->bitmap != NULL)
		munmap(log->bitmap, log->size);
	if (log->fd >= 0)
		close(log->fd);
	*log = (struct target_log){.fd = -1};
}

void
dirty_log_clear(struct target_log *log)
{
	for (size_t i = 0; i < log->size; i++)
		__atomic_store_n(&log->bitmap[i], 0, __ATOMIC_SEQ_CST);
}

bool
dirty_log_has(const struct target_log *log, uint64_t page)
{
	return (__atomic_load_n(&log->bitmap[page / 8], __ATOMIC_ACQUIRE) >> page % 8) & 1;
}
