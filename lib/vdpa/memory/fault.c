/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * SIGBUS in guest memory: a front end can shrink a memory file that is mapped here, and the next
 * access to a lost page raises SIGBUS in whatever thread makes it. The handler puts an anonymous
 * zero page there, marks the range as faulted and counts, so that the access completes and the
 * device that uses the range stops at its next burst. Faults elsewhere go to the handler that was
 * there before.
 *
 * Owns the handler and the table of guarded ranges. The table is fixed-size and lock-free, because
 * the handler reads it in a thread that was interrupted anywhere. A slot's owner changes it only
 * while `start` is 0 and no handler is inside the slot (`users`); so a handler that holds the slot
 * never maps over memory that was unguarded and reused meanwhile.
 */

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fault.h"
#include "vdpa_memory.h"

/* Ranges: VDPA_MEM_REGIONS_MAX each for 64 devices and for rte_vhost's own maps of them. */
#define FAULT_RANGES_MAX 8192

struct fault_range {
	bool taken;	 /* has an owner */
	uint32_t users;	 /* handlers inside */
	uintptr_t start; /* 0: no range; published last */
	size_t len;
	bool *faulted;
};

uint64_t vdpa_fault_count;

static struct fault_range fault_ranges[FAULT_RANGES_MAX];
static uint32_t fault_ranges_used; /* slots that were ever taken: where a search ends */
static struct sigaction fault_previous;
static bool fault_installed;
static uintptr_t fault_page_size;

int
vdpa_fault_guard(void *addr, size_t len, bool *faulted)
{
	for (uint32_t i = 0; i < FAULT_RANGES_MAX; i++) {
		struct fault_range *r = &fault_ranges[i];
		uint32_t used = __atomic_load_n(&fault_ranges_used, __ATOMIC_RELAXED);

		if (__atomic_load_n(&r->taken, __ATOMIC_RELAXED) ||
		    __atomic_test_and_set(&r->taken, __ATOMIC_ACQUIRE))
			continue;
		while (used < i + 1 &&
		       !__atomic_compare_exchange_n(&fault_ranges_used, &used, i + 1, true,
						    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			;
		__atomic_store_n(&r->len, len, __ATOMIC_RELAXED);
		__atomic_store_n(&r->faulted, faulted, __ATOMIC_RELAXED);
		__atomic_store_n(&r->start, (uintptr_t)addr, __ATOMIC_SEQ_CST);
		return 0;
	}
	return -ENOSPC;
}

void
vdpa_fault_unguard(void *addr)
{
	uint32_t used = __atomic_load_n(&fault_ranges_used, __ATOMIC_RELAXED);

	for (uint32_t i = 0; i < used; i++) {
		struct fault_range *r = &fault_ranges[i];

		if (__atomic_load_n(&r->start, __ATOMIC_RELAXED) != (uintptr_t)addr)
			continue;
		__atomic_store_n(&r->start, 0, __ATOMIC_SEQ_CST);
		/* A handler holds a slot for one mmap() and never waits for us. */
		while (__atomic_load_n(&r->users, __ATOMIC_SEQ_CST) != 0)
			sched_yield();
		__atomic_clear(&r->taken, __ATOMIC_RELEASE);
		return;
	}
}

/*
 * Map zeroes over the page of addr. A hugetlb mapping can only be split at its own page size, which
 * is not known for a foreign mapping: mmap() refuses the smaller sizes without any effect. When
 * no page can be had (vm.max_map_count) the whole range goes, which needs no new mapping.
 */
static bool
fault_repair(uintptr_t addr, uintptr_t start, size_t len)
{
	static const size_t huge_sizes[] = {
		(size_t)64 << 10,  (size_t)2 << 20, (size_t)16 << 20, (size_t)32 << 20,
		(size_t)512 << 20, (size_t)1 << 30, (size_t)16 << 30,
	};
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
	size_t size = fault_page_size;
	unsigned int i = 0;

	for (;;) {
		void *page = (void *)(addr & ~((uintptr_t)size - 1));

		if (mmap(page, size, PROT_READ | PROT_WRITE, flags, -1, 0) == page)
			return true;
		if (errno != EINVAL || i == sizeof(huge_sizes) / sizeof(huge_sizes[0]))
			break;
		size = huge_sizes[i++];
		/* A page that is not all guarded may be somebody else's memory. */
		if ((addr & ~((uintptr_t)size - 1)) < start ||
		    (addr | ((uintptr_t)size - 1)) - start >= len)
			break;
	}
	return mmap((void *)start, len, PROT_READ | PROT_WRITE, flags, -1, 0) == (void *)start;
}

static bool
fault_handle(uintptr_t addr)
{
	uint32_t used = __atomic_load_n(&fault_ranges_used, __ATOMIC_RELAXED);
	bool repaired = false;

	for (uint32_t i = 0; i < used && !repaired; i++) {
		struct fault_range *r = &fault_ranges[i];
		uintptr_t start = __atomic_load_n(&r->start, __ATOMIC_ACQUIRE);

		if (start == 0 || addr - start >= __atomic_load_n(&r->len, __ATOMIC_RELAXED))
			continue;
		__atomic_fetch_add(&r->users, 1, __ATOMIC_SEQ_CST);
		start = __atomic_load_n(&r->start, __ATOMIC_SEQ_CST);
		if (start != 0 && addr - start < r->len && fault_repair(addr, start, r->len)) {
			__atomic_store_n(r->faulted, true, __ATOMIC_RELEASE);
			__atomic_fetch_add(&vdpa_fault_count, 1, __ATOMIC_RELEASE);
			repaired = true;
		}
		__atomic_fetch_sub(&r->users, 1, __ATOMIC_SEQ_CST);
	}
	return repaired;
}

static void
fault_chain(int sig, siginfo_t *info, void *context)
{
	const struct sigaction *prev = &fault_previous;

	if (prev->sa_flags & SA_SIGINFO) {
		prev->sa_sigaction(sig, info, context);
	} else if (prev->sa_handler != SIG_DFL && prev->sa_handler != SIG_IGN) {
		prev->sa_handler(sig);
	} else if (info->si_code > 0 || prev->sa_handler == SIG_DFL) {
		/* Die of it: on return the access faults again; a sent signal is sent again. */
		signal(SIGBUS, SIG_DFL);
		if (info->si_code <= 0)
			raise(SIGBUS);
	}
}

static void
fault_signal(int sig, siginfo_t *info, void *context)
{
	int saved = errno;

	/* si_code > 0: raised by the kernel for an access, not sent by a process. */
	if (info->si_code <= 0 || !fault_handle((uintptr_t)info->si_addr))
		fault_chain(sig, info, context);
	errno = saved;
}

int
vdpa_fault_init(void)
{
	struct sigaction sa;

	if (fault_installed)
		return -EALREADY;
	fault_page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
	/* Before ours is in force: it may run at once. */
	if (sigaction(SIGBUS, NULL, &fault_previous) < 0)
		return -errno;
	memset(&sa, 0, sizeof(sa));
	sa.sa_sigaction = fault_signal;
	sa.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
	sigemptyset(&sa.sa_mask);
	if (sigaction(SIGBUS, &sa, NULL) < 0)
		return -errno;
	fault_installed = true;
	return 0;
}

void
vdpa_fault_fini(void)
{
	struct sigaction now;

	if (!fault_installed)
		return;
	if (sigaction(SIGBUS, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) &&
	    now.sa_sigaction == fault_signal)
		sigaction(SIGBUS, &fault_previous, NULL);
	fault_installed = false;
}
