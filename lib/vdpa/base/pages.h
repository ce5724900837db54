/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Arrays as large as the largest case needs, of which most cases use the beginning: pages of their
 * own, zeroed, which become resident when they are first written and go back to the kernel when
 * they are freed. calloc() gives that for an array that is new; where the heap has had such memory
 * before, it writes all of it. AddressSanitizer gets it from the heap, whose bounds it knows.
 */

#ifndef VDPA_PAGES_H
#define VDPA_PAGES_H

#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define VDPA_PAGES_ARE_HEAP 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define VDPA_PAGES_ARE_HEAP 1
#endif
#endif

/* n elements of so many bytes, neither of them 0; NULL: out of memory. From any thread. */
static inline void *
vdpa_pages_alloc(size_t n, size_t size)
{
#ifdef VDPA_PAGES_ARE_HEAP
	return calloc(n, size);
#else
	size_t bytes;
	void *p;

	if (__builtin_mul_overflow(n, size, &bytes))
		return NULL;
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		 -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	/* Not a large page for the first byte; a kernel without them says so. */
	madvise(p, bytes, MADV_NOHUGEPAGE);
	return p;
#endif
}

/* With what they were allocated with; NULL is let be. */
static inline void
vdpa_pages_free(void *p, size_t n, size_t size)
{
#ifdef VDPA_PAGES_ARE_HEAP
	free(p);
#else
	if (p != NULL)
		munmap(p, n * size);
#endif
}

#endif /* VDPA_PAGES_H */
