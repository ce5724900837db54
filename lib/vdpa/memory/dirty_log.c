/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Dirty log of a migration. The bitmap is shared with the front end, which reads and clears it
 * while we set bits. Owns nothing.
 */

#include <string.h>

#include "vdpa_memory.h"

static void
count_past(const struct vdpa_dirty_log *log, uint64_t n)
{
	if (log->past != NULL)
		__atomic_fetch_add(log->past, n, __ATOMIC_RELAXED);
}

void
vdpa_dirty_log_mark(const struct vdpa_dirty_log *log, uint64_t iova, uint64_t len)
{
	uint64_t first, last, pages;

	if (len == 0 || log->bitmap == NULL)
		return;
	pages = log->size > UINT64_MAX / 8 ? UINT64_MAX : log->size * 8;
	first = iova >> VDPA_DIRTY_PAGE_SHIFT;
	last = (iova + len - 1 < iova ? UINT64_MAX : iova + len - 1) >> VDPA_DIRTY_PAGE_SHIFT;
	if (first >= pages) {
		count_past(log, last - first + 1);
		return;
	}
	if (last >= pages) {
		count_past(log, last - pages + 1);
		last = pages - 1;
	}
	while (first <= last) {
		uint64_t end = first | 7; /* last page of this byte */
		uint8_t bits = (uint8_t)(0xff << (first & 7));

		if (end > last) {
			bits &= (uint8_t)(0xff >> (7 - (last & 7)));
			end = last;
		}
		/*
		 * Always a full atomic, also for bits that look set: the data was stored before,
		 * and a front end that clears the bit after this must see it in the page.
		 */
		__atomic_fetch_or(&log->bitmap[first >> 3], bits, __ATOMIC_SEQ_CST);
		first = end + 1;
	}
}

void
vdpa_dirty_log_mark_all(const struct vdpa_dirty_log *log, const struct vdpa_iotlb *tlb)
{
	for (uint32_t i = 0; tlb != NULL && i < tlb->n; i++)
		vdpa_dirty_log_mark(log, tlb->regions[i]->iova, tlb->regions[i]->size);
}

void
vdpa_dirty_log_merge(const struct vdpa_dirty_log *log, void *own, uint64_t size)
{
	uint64_t *words = own;
	uint8_t bytes[sizeof(*words)];

	for (uint64_t at = 0; at < size && at < log->size; at += sizeof(bytes), words++) {
		uint64_t word;

		if (__atomic_load_n(words, __ATOMIC_RELAXED) == 0)
			continue;
		word = __atomic_exchange_n(words, 0, __ATOMIC_SEQ_CST);
		memcpy(bytes, &word, sizeof(bytes));
		/* By bytes: the log need not be aligned, nor a multiple of words. */
		for (unsigned int i = 0; i < sizeof(bytes) && at + i < log->size; i++)
			if (bytes[i] != 0)
				__atomic_fetch_or(&log->bitmap[at + i], bytes[i], __ATOMIC_SEQ_CST);
	}
}
