/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What is allocated from the heap. */

#ifndef HEAP_H
#define HEAP_H

#include <malloc.h>

/* Bytes; those of the sanitizers' allocators are not among them. */
static inline size_t
heap_used(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

#endif /* HEAP_H */
