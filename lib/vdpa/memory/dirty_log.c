/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Dirty log of a migration. The bitmap is shared with the front end, which reads and clears it
 * while we set bits. Owns nothing.
 */

#include <string.h>

#include <rte_common.h>

#include "vdpa_memory.h"

static void
count_past(const struct vdpa_dirty_log *log, uint64_t n)
{
	if (log->past != NULL)
		__atomic_fetch_add(log->past, n, __ATOMIC_RELAXED);
}

/* Mark pages of one byte. How many of them were not marked. */
static unsigned int
mark_byte(uint8_t *byte, uint8_t bits)
{
	/*
	 * Always a full atomic, also for bits that look set: the data was stored before, and a
	 * front end that clears the bit after this must see it in the page.
	 */
	uint8_t old = __atomic_fetch_or(byte, bits, __ATOMIC_SEQ_CST);

	return (unsigned int)__builtin_popcount(bits & ~old);
}

static void
count_pages(const struct vdpa_dirty_log *log, uint64_t n)
{
	if (n > 0 && log->pages != NULL)
		__atomic_fetch_add(log->pages, n, __ATOMIC_RELAXED);
}

void
vdpa_dirty_log_mark(const struct vdpa_dirty_log *log, uint64_t iova, uint64_t len)
{
	uint64_t first, last, pages, marked = 0;

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
		marked += mark_byte(&log->bitmap[first >> 3], bits);
		first = end + 1;
	}
	count_pages(log, marked);
}

/* Length of the run of ones that begins at bit i, n at most. */
static uint64_t
run_at(const uint64_t *bits, uint64_t i, uint64_t n)
{
	uint64_t end = i;

	while (end < n && (bits[end / 64] >> end % 64 & 1) != 0)
		end++;
	return end - i;
}

void
vdpa_dirty_log_mark_bits(const struct vdpa_dirty_log *log, uint64_t iova, uint64_t *bits,
			 uint64_t n)
{
	for (uint64_t i = 0; i < n;) {
		uint64_t rest = bits[i / 64] >> i % 64, run;

		if (rest == 0) {
			i = (i / 64 + 1) * 64;
			continue;
		}
		i += (uint64_t)__builtin_ctzll(rest);
		run = run_at(bits, i, n);
		/* Bits past the end are nobody's. */
		if (run > 0)
			vdpa_dirty_log_mark(log, iova + (i << VDPA_DIRTY_PAGE_SHIFT),
					    run << VDPA_DIRTY_PAGE_SHIFT);
		i += RTE_MAX(run, UINT64_C(1));
	}
	memset(bits, 0, (n + 63) / 64 * sizeof(*bits));
}

uint64_t
vdpa_dirty_log_bytes(const struct vdpa_iotlb *tlb)
{
	const struct vdpa_mem_region *last;

	if (tlb == NULL || tlb->n == 0)
		return sizeof(uint64_t);
	last = tlb->regions[tlb->n - 1];
	return RTE_ALIGN_CEIL(((last->iova + last->size - 1) >> VDPA_DIRTY_PAGE_SHIFT >> 3) + 1,
			      sizeof(uint64_t));
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
	uint64_t marked = 0;

	for (uint64_t at = 0; at < size && at < log->size; at += sizeof(bytes), words++) {
		uint64_t word;

		if (__atomic_load_n(words, __ATOMIC_RELAXED) == 0)
			continue;
		word = __atomic_exchange_n(words, 0, __ATOMIC_SEQ_CST);
		memcpy(bytes, &word, sizeof(bytes));
		/* By bytes: the log need not be aligned, nor a multiple of words. */
		for (unsigned int i = 0; i < sizeof(bytes) && at + i < log->size; i++)
			if (bytes[i] != 0)
				marked += mark_byte(&log->bitmap[at + i], bytes[i]);
	}
	count_pages(log, marked);
}
