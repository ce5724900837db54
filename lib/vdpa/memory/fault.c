/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * SIGBUS in guest memory: a front end can shrink a memory file that is mapped here, and the next
 * access to a lost page raises SIGBUS in whatever thread makes it. The handler puts an anonymous
 * zero page there, marks the range as faulted and counts, so that the access completes and the
 * device that uses the range stops at its next burst. Faults elsewhere go to the handler that was
 * there before.
 *
 * Owns the handler and the table of guarded ranges, of any number. The handler reads the table in a
 * thread that was interrupted anywhere, so it takes no lock and allocates nothing: there are two
 * versions, each sorted by address, and one is in force. Whoever changes the table fills the other,
 * puts it in force and waits until no handler is inside the one before; so a handler never maps
 * over memory that was unguarded and reused meanwhile. A handler that comes later finds the new
 * version, so that wait ends however many faults there are.
 *
 * The versions share chunks of ranges, and a change replaces one: so its cost hardly grows with the
 * number of ranges.
 */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fault.h"
#include "vdpa_memory.h"

#define FAULT_CHUNK 128 /* ranges */

struct fault_range {
	uintptr_t start;
	size_t len;
	bool *faulted;
};

/* Not changed while a version that has it is in force. */
struct fault_chunk {
	size_t n; /* not 0 */
	struct fault_range ranges[FAULT_CHUNK];
};

struct fault_version {
	struct fault_chunk **chunks; /* ascending, as the ranges in each are */
	size_t n, room;
	uint32_t users; /* handlers inside, and some that only look whether it is in force */
};

uint64_t vdpa_fault_count;

static pthread_mutex_t fault_lock = PTHREAD_MUTEX_INITIALIZER; /* of changes */
static struct fault_version fault_versions[2];
static unsigned int fault_current;	/* the version in force; atomic */
static struct fault_chunk *fault_spare; /* there while a range is guarded: to unguard needs one */
static struct sigaction fault_previous;
static bool fault_installed;
static uintptr_t fault_page_size;

/* How many chunks begin at addr or below. */
static size_t
fault_find_chunk(const struct fault_version *v, uintptr_t addr)
{
	size_t low = 0, high = v->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (v->chunks[mid]->ranges[0].start <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* How many ranges of a chunk begin at addr or below. */
static size_t
fault_find_range(const struct fault_chunk *c, uintptr_t addr)
{
	size_t low = 0, high = c->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (c->ranges[mid].start <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* Put the spare version in force. With the lock. On return nobody reads the one before. */
static void
fault_publish(void)
{
	unsigned int old = fault_current;

	__atomic_store_n(&fault_current, 1 - old, __ATOMIC_SEQ_CST);
	/* A handler is inside for one mmap() and never waits for us. */
	while (__atomic_load_n(&fault_versions[old].users, __ATOMIC_SEQ_CST) != 0)
		sched_yield();
}

/* Fill the spare version: the one in force, with n chunks of `by` in the place of chunk `at` (or
 * before all where there is none), and put it in force. With the lock. */
static void
fault_replace(size_t at, struct fault_chunk *const *by, size_t n)
{
	const struct fault_version *now = &fault_versions[fault_current];
	struct fault_version *next = &fault_versions[1 - fault_current];
	size_t done = 0;

	for (size_t i = 0; i < at; i++)
		next->chunks[done++] = now->chunks[i];
	for (size_t i = 0; i < n; i++)
		next->chunks[done++] = by[i];
	for (size_t i = at + 1; i < now->n; i++)
		next->chunks[done++] = now->chunks[i];
	next->n = done;
	fault_publish();
}

/* Room in the spare version for one chunk more than there are. With the lock. */
static int
fault_grow(void)
{
	size_t n = fault_versions[fault_current].n;
	struct fault_version *next = &fault_versions[1 - fault_current];
	struct fault_chunk **grown;

	if (next->room > n)
		return 0;
	grown = malloc((2 * n + 16) * sizeof(struct fault_chunk *));
	if (grown == NULL)
		return -ENOMEM;
	free(next->chunks);
	next->chunks = grown;
	next->room = 2 * n + 16;
	return 0;
}

/*
 * What one range more needs: a spare chunk, another where one is to be split, and room in both
 * versions, so that it can be unguarded whatever happens. With the lock.
 */
static int
fault_reserve(bool split, struct fault_chunk **more)
{
	const struct fault_version *now;
	int ret = fault_grow();

	now = &fault_versions[fault_current];
	if (ret == 0 && now->room <= now->n) {
		/* The one in force is grown when the other is. */
		fault_replace(now->n, NULL, 0);
		ret = fault_grow();
	}
	if (ret < 0)
		return ret;
	if (fault_spare == NULL)
		fault_spare = malloc(sizeof(*fault_spare));
	*more = split ? malloc(sizeof(**more)) : NULL;
	if (fault_spare == NULL || (split && *more == NULL)) {
		free(*more);
		return -ENOMEM;
	}
	return 0;
}

static void
fault_insert(struct fault_chunk *c, const struct fault_range *range)
{
	size_t at = fault_find_range(c, range->start);

	memmove(&c->ranges[at + 1], &c->ranges[at], (c->n - at) * sizeof(*range));
	c->ranges[at] = *range;
	c->n++;
}

int
vdpa_fault_guard(void *addr, size_t len, bool *faulted)
{
	const struct fault_range range = {(uintptr_t)addr, len, faulted};
	struct fault_chunk *old = NULL, *by[2];
	const struct fault_version *now;
	bool split;
	size_t at;
	int ret;

	pthread_mutex_lock(&fault_lock);
	now = &fault_versions[fault_current];
	at = fault_find_chunk(now, range.start);
	if (at > 0)
		at--;
	if (now->n > 0)
		old = now->chunks[at];
	/* The first needs a chunk, and one to spare. */
	split = old == NULL || old->n == FAULT_CHUNK;
	ret = fault_reserve(split, &by[1]);
	if (ret < 0)
		goto out;
	by[0] = fault_spare;
	if (old == NULL) {
		by[0]->n = 0;
		fault_insert(by[0], &range);
		fault_spare = by[1];
		fault_replace(0, by, 1);
		goto out;
	}
	memcpy(by[0], old, sizeof(*old));
	if (split) {
		by[0]->n = FAULT_CHUNK / 2;
		by[1]->n = FAULT_CHUNK - by[0]->n;
		memcpy(by[1]->ranges, &old->ranges[by[0]->n], by[1]->n * sizeof(range));
	}
	fault_insert(split && by[1]->ranges[0].start <= range.start ? by[1] : by[0], &range);
	fault_replace(at, by, split ? 2 : 1);
	fault_spare = old;
out:
	pthread_mutex_unlock(&fault_lock);
	return ret;
}

void
vdpa_fault_unguard(void *addr)
{
	struct fault_chunk *old, *by;
	size_t at, i = 0;

	pthread_mutex_lock(&fault_lock);
	at = fault_find_chunk(&fault_versions[fault_current], (uintptr_t)addr);
	if (at == 0)
		goto out;
	old = fault_versions[fault_current].chunks[--at];
	i = fault_find_range(old, (uintptr_t)addr) - 1;
	if (old->ranges[i].start != (uintptr_t)addr)
		goto out;
	if (old->n == 1) {
		fault_replace(at, NULL, 0);
		free(old);
		goto out;
	}
	by = fault_spare;
	by->n = old->n - 1;
	memcpy(by->ranges, old->ranges, i * sizeof(old->ranges[0]));
	memcpy(&by->ranges[i], &old->ranges[i + 1], (by->n - i) * sizeof(old->ranges[0]));
	fault_replace(at, &by, 1);
	fault_spare = old;
out:
	pthread_mutex_unlock(&fault_lock);
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

/* Enter the version in force; a change meanwhile is seen, and the new one entered. */
static struct fault_version *
fault_enter(void)
{
	for (;;) {
		unsigned int i = __atomic_load_n(&fault_current, __ATOMIC_SEQ_CST);
		struct fault_version *v = &fault_versions[i];

		__atomic_fetch_add(&v->users, 1, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(&fault_current, __ATOMIC_SEQ_CST) == i)
			return v;
		__atomic_fetch_sub(&v->users, 1, __ATOMIC_SEQ_CST);
	}
}

static bool
fault_handle(uintptr_t addr)
{
	struct fault_version *v = fault_enter();
	size_t at = fault_find_chunk(v, addr);
	const struct fault_range *r = NULL;
	bool repaired = false;

	if (at > 0)
		r = &v->chunks[at - 1]->ranges[fault_find_range(v->chunks[at - 1], addr) - 1];
	if (r != NULL && addr - r->start < r->len && fault_repair(addr, r->start, r->len)) {
		__atomic_store_n(r->faulted, true, __ATOMIC_RELEASE);
		__atomic_fetch_add(&vdpa_fault_count, 1, __ATOMIC_RELEASE);
		repaired = true;
	}
	__atomic_fetch_sub(&v->users, 1, __ATOMIC_SEQ_CST);
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
