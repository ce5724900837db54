/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The guest memory table: regions, versions, dirty log. */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "mem_table_test.h"

static unsigned int
mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	unsigned int n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f) != NULL)
		n += strstr(line, "test_mem_table") != NULL;
	fclose(f);
	return n;
}

/* What the table keeps of each file is none of the descriptors that are kept for management. */
static void
files_of_regions_leave_the_reserve_alone(void **state)
{
	int fd = file_of(MAP_SIZE), next = 0;
	struct vdpa_mem_region_spec s = spec(0x100000, MAP_SIZE, 0, fd);
	struct rlimit old, limit;
	struct vdpa_iotlb *tlb;
	int filled[40], n = 0;

	/* So many that an eighth of the limit is some. */
	while (next < 32)
		next = filled[n++] = dup(fd);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	limit = old;
	limit.rlim_cur = (rlim_t)next + 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(vdpa_iotlb_create(NULL, &s, 1, &tlb), -EMFILE);
	assert_non_null(strstr(vdpa_error_message(), "0x100000: no file descriptor"));
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(vdpa_iotlb_create(NULL, &s, 1, &tlb), 0);
	vdpa_iotlb_put(tlb);
	while (n > 0)
		close(filled[--n]);
	close(fd);
}

/* Memory of another generation is other memory, though its file and place are the same. */
static void
a_generation_ends_the_identity_of_a_region(void **state)
{
	int fd = file_of(2 * MAP_SIZE);
	struct vdpa_mem_region_spec s[] = {spec(0x100000, MAP_SIZE, 0, fd),
					   spec(0x200000, MAP_SIZE, MAP_SIZE, fd)};
	struct vdpa_iotlb *first, *same, *next;

	s[0].generation = s[1].generation = 1;
	assert_int_equal(vdpa_iotlb_create(NULL, s, 2, &first), 0);
	assert_int_equal(vdpa_iotlb_create(first, s, 2, &same), 0);
	assert_ptr_equal(same->regions[0], first->regions[0]);
	s[1].generation = 2;
	assert_int_equal(vdpa_iotlb_create(first, s, 2, &next), 0);
	assert_ptr_equal(next->regions[0], first->regions[0]);
	assert_ptr_not_equal(next->regions[1], first->regions[1]);
	assert_int_not_equal(next->regions[1]->fd, first->regions[1]->fd);
	vdpa_iotlb_put(first);
	vdpa_iotlb_put(same);
	vdpa_iotlb_put(next);
	close(fd);
}

/* What a kernel driver lends has no size that fstat(2) knows. */
static void
a_kernels_file_is_taken_by_its_word(void **state)
{
	int fd = file_of(0);
	struct vdpa_mem_region_spec s = spec(0x100000, MAP_SIZE, 0, fd);
	struct vdpa_iotlb *tlb;

	assert_int_equal(vdpa_iotlb_create(NULL, &s, 1, &tlb), -EINVAL);
	s.kernel_file = true;
	assert_int_equal(vdpa_iotlb_create(NULL, &s, 1, &tlb), 0);
	vdpa_iotlb_put(tlb);
	close(fd);
}

static void
a_table_is_sorted_and_translates(void **state)
{
	int fd = file_of(4 * MAP_SIZE);
	struct vdpa_mem_region_spec s[] = {spec(0x200000, MAP_SIZE, MAP_SIZE, fd),
					   spec(0x100000, MAP_SIZE, 0x18, fd)};
	struct vdpa_iotlb *tlb;
	uint64_t len = 100, iova;
	uint32_t *p;

	assert_int_equal(vdpa_iotlb_create(NULL, s, 2, &tlb), 0);
	assert_int_equal(tlb->n, 2);
	assert_int_equal(tlb->regions[0]->iova, 0x100000);
	p = vdpa_iotlb_translate(tlb, 0x200000, &len);
	assert_non_null(p);
	assert_int_equal(len, 100);
	*p = 0x12345678;
	uint32_t back = 0;
	assert_int_equal(pread(fd, &back, 4, MAP_SIZE), 4);
	assert_int_equal(back, 0x12345678);
	p = vdpa_iotlb_range(tlb, 0x100000, 4);
	*p = 0x9abcdef0;
	assert_int_equal(pread(fd, &back, 4, 0x18), 4);
	assert_int_equal(back, 0x9abcdef0);

	assert_non_null(vdpa_iotlb_translate(tlb, 0x100000 + MAP_SIZE - 8, &len));
	assert_int_equal(len, 8);
	assert_null(vdpa_iotlb_range(tlb, 0x100000 + MAP_SIZE - 8, 9));
	assert_null(vdpa_iotlb_range(tlb, 0x100000 + MAP_SIZE, 1));
	assert_null(vdpa_iotlb_range(tlb, 0xfffff, 1));

	assert_int_equal(vdpa_iotlb_uaddr_to_iova(tlb, 0x7000200010, 16, &iova), 0);
	assert_int_equal(iova, 0x200010);
	assert_int_equal(vdpa_iotlb_uaddr_to_iova(tlb, 0x7000200000, MAP_SIZE + 1, &iova), -EFAULT);
	assert_int_equal(vdpa_iotlb_uaddr_to_iova(tlb, 0x6fffffffff, 1, &iova), -EFAULT);
	vdpa_iotlb_put(tlb);
	close(fd);
}

static void
bad_regions_are_refused_and_leave_nothing(void **state)
{
	int fd = file_of(MAP_SIZE), pipes[2];
	unsigned int fds, maps = mappings();
	struct vdpa_iotlb *tlb = NULL;
	struct vdpa_mem_region_spec *s = calloc(VDPA_MEM_REGIONS_MAX + 1, sizeof(*s));

	assert_int_equal(pipe(pipes), 0);
	fds = count_fds();
#define REFUSED(err, n, ...)                                                                       \
	do {                                                                                       \
		struct vdpa_mem_region_spec bad[] = {__VA_ARGS__};                                 \
		assert_int_equal(vdpa_iotlb_create(NULL, bad, n, &tlb), -(err));                   \
		assert_string_not_equal(vdpa_error_message(), "");                                 \
	} while (0)
	REFUSED(EINVAL, 1, spec(0, 0, 0, fd));
	REFUSED(EINVAL, 1, spec(4, PAGE, 0, fd));
	REFUSED(EINVAL, 1, spec(0, PAGE + 1, 0, fd));
	REFUSED(EINVAL, 1, spec(0, PAGE, 4, fd));
	REFUSED(EINVAL, 1, spec(0, MAP_SIZE + 8, 0, fd));
	REFUSED(EINVAL, 1, spec(0, MAP_SIZE, 8, fd));
	REFUSED(EINVAL, 1, spec(0, PAGE, UINT64_MAX - PAGE + 1, fd));
	REFUSED(EINVAL, 1, spec(UINT64_MAX - PAGE + 1, PAGE, 0, fd));
	REFUSED(EINVAL, 1, spec(UINT64_MAX - 7, PAGE, 0, fd));
	REFUSED(EINVAL, 1, spec(0, UINT64_MAX - 7, 0, fd));
	REFUSED(EINVAL, 1, spec(0, PAGE, 0, pipes[0]));
	REFUSED(EBADF, 1, spec(0, PAGE, 0, -1));
	REFUSED(EBADF, 1, spec(0, PAGE, 0, 9999));
	REFUSED(EINVAL, 2, spec(0x1000, 2 * PAGE, 0, fd), spec(0x2000, PAGE, 0, fd));
	REFUSED(EINVAL, 2, spec(0x1000, PAGE, 0, fd), spec(0x1000, PAGE, PAGE, fd));
	/* Apart as IOVAs, not as front-end addresses. */
	struct vdpa_mem_region_spec twice[] = {spec(0x1000, PAGE, 0, fd),
					       spec(0x8000, PAGE, 0, fd)};
	twice[1].uaddr = twice[0].uaddr + 8;
	assert_int_equal(vdpa_iotlb_create(NULL, twice, 2, &tlb), -EINVAL);
	assert_string_equal(vdpa_error_message(), "memory regions at 0x1000 and 0x8000 overlap in "
						  "the front end's addresses");
	for (unsigned int i = 0; i <= VDPA_MEM_REGIONS_MAX; i++)
		s[i] = spec(i * PAGE, PAGE, 0, fd);
	assert_int_equal(vdpa_iotlb_create(NULL, s, VDPA_MEM_REGIONS_MAX + 1, &tlb), -E2BIG);
	/* The second cannot be mapped: the first goes away again. */
	int ro = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	REFUSED(EACCES, 2, spec(0, PAGE, 0, fd), spec(0x10000, PAGE, 0, ro));
	close(ro);
	assert_null(tlb);
	assert_int_equal(count_fds(), fds);
	assert_int_equal(mappings(), maps);
	free(s);
	assert_int_equal(count_fds(), fds);
	assert_int_equal(mappings(), maps);
	close(pipes[0]);
	close(pipes[1]);
	close(fd);
}

/* As many as a front end with memory slots has at most, and some. */
#define MANY 600

/* Region i of many: a page each with a hole behind it, by front-end address the other way round. */
static struct vdpa_mem_region_spec
many(uint32_t i, int fd)
{
	return (struct vdpa_mem_region_spec){.iova = 0x100000 + i * 2 * PAGE,
					     .uaddr = 0x7000000000 - i * 2 * PAGE,
					     .size = PAGE,
					     .offset = i * PAGE,
					     .fd = fd};
}

static void
assert_many_translate(const struct vdpa_iotlb *tlb)
{
	for (uint32_t i = 0; i < tlb->n; i++) {
		const struct vdpa_mem_region_spec s = many(i, -1);
		uint64_t iova = 0;

		assert_ptr_equal(vdpa_iotlb_range(tlb, s.iova, PAGE), tlb->regions[i]->va);
		assert_null(vdpa_iotlb_range(tlb, s.iova - 1, 1));
		assert_null(vdpa_iotlb_range(tlb, s.iova + PAGE, 1));
		assert_int_equal(vdpa_iotlb_uaddr_to_iova(tlb, s.uaddr + 8, PAGE - 8, &iova), 0);
		assert_int_equal(iova, s.iova + 8);
		assert_int_equal(vdpa_iotlb_uaddr_to_iova(tlb, s.uaddr - 1, 1, &iova), -EFAULT);
		assert_int_equal(vdpa_iotlb_uaddr_to_iova(tlb, s.uaddr + PAGE, 1, &iova), -EFAULT);
	}
}

static void
hundreds_of_regions_are_found_and_share_a_descriptor(void **state)
{
	int fd = file_of(MANY * PAGE);
	unsigned int fds = count_fds(), maps = mappings();
	struct vdpa_mem_region_spec s[MANY];
	struct vdpa_iotlb *tlb, *again;

	/* In an order that is neither up nor down: 7 has no factor in common with MANY. */
	for (uint32_t i = 0; i < MANY; i++)
		s[i] = many(i * 7 % MANY, fd);
	assert_int_equal(vdpa_iotlb_create(NULL, s, MANY, &tlb), 0);
	assert_int_equal(tlb->n, MANY);
	assert_int_equal(tlb->size, MANY * PAGE);
	assert_int_equal(count_fds(), fds + 1);
	assert_many_translate(tlb);
	/* The same again maps nothing. */
	assert_int_equal(vdpa_iotlb_create(tlb, s, MANY, &again), 0);
	for (uint32_t i = 0; i < MANY; i++)
		assert_ptr_equal(again->regions[i], tlb->regions[i]);
	vdpa_iotlb_put(tlb);
	assert_many_translate(again);
	vdpa_iotlb_put(again);
	assert_int_equal(count_fds(), fds);
	assert_int_equal(mappings(), maps);
	close(fd);
}

static void
regions_come_one_by_one_and_go_again(void **state)
{
	int fd[2] = {file_of(MANY * PAGE), file_of(MANY * PAGE)};
	unsigned int fds = count_fds(), maps = mappings();
	struct vdpa_iotlb *tlb = NULL, *next;

	for (uint32_t i = 0; i < MANY; i++) {
		/* Every other first, then those between them. */
		const struct vdpa_mem_region_spec s =
			many(i < MANY / 2 ? 2 * i : 2 * (i - MANY / 2) + 1, fd[i % 2]);
		const struct vdpa_mem_region *first = tlb != NULL ? tlb->regions[0] : NULL;

		assert_int_equal(vdpa_iotlb_add(tlb, &s, &next), 0);
		assert_int_equal(next->n, i + 1);
		/* Neither old nor new regions are mapped twice. */
		if (first != NULL)
			assert_ptr_equal(next->regions[0], first);
		vdpa_iotlb_put(tlb);
		tlb = next;
	}
	assert_int_equal(count_fds(), fds + 2);
	assert_many_translate(tlb);
	for (uint32_t i = 0; i < MANY; i++) {
		const struct vdpa_mem_region_spec s = many(i * 7 % MANY, -1);

		assert_int_equal(vdpa_iotlb_remove(tlb, s.iova, s.uaddr, s.size, &next), 0);
		assert_int_equal(next->n, MANY - 1 - i);
		assert_int_equal(next->size, next->n * PAGE);
		assert_null(vdpa_iotlb_range(next, s.iova, 1));
		/* Whoever has the old version still has the region. */
		*(volatile uint8_t *)vdpa_iotlb_range(tlb, s.iova, 1) = 1;
		vdpa_iotlb_put(tlb);
		tlb = next;
	}
	assert_int_equal(tlb->n, 0);
	assert_null(vdpa_iotlb_range(tlb, 0x100000, 1));
	vdpa_iotlb_put(tlb);
	assert_int_equal(count_fds(), fds);
	assert_int_equal(mappings(), maps);
	close(fd[0]);
	close(fd[1]);
}

/* Page i of a client that maps every other page, which keep their order. */
static struct vdpa_mem_region_spec
scattered(uint32_t i, int fd)
{
	return (struct vdpa_mem_region_spec){.iova = i * 2 * PAGE,
					     .uaddr = i * 2 * PAGE,
					     .size = PAGE,
					     .offset = i % 2 * PAGE,
					     .fd = fd,
					     .in_order = true};
}

/* The most regions that a table gets of those scattered ones. */
static struct vdpa_iotlb *
take_all(struct vdpa_mem_region_spec *s, int fd)
{
	struct vdpa_iotlb *tlb = NULL, *now;

	for (uint32_t n = 1000;; n += 1000) {
		for (uint32_t i = 0; i < n; i++)
			s[i] = scattered(i, fd);
		if (n > VDPA_MEM_REGIONS_MAX || vdpa_iotlb_create(tlb, s, n, &now) < 0)
			return tlb;
		vdpa_iotlb_put(tlb);
		tlb = now;
	}
}

static void
two_clients_that_map_all_they_can_leave_some_to_others(void **state)
{
	struct vdpa_mem_region_spec *s = calloc(VDPA_MEM_REGIONS_MAX + 1, sizeof(*s)), few[MANY];
	int fd = file_of(MANY * PAGE);
	unsigned int maps = mappings();
	struct vdpa_iotlb *hostile[2], *other;
	uint8_t *own;

	assert_non_null(s);
	hostile[0] = take_all(s, fd);
	assert_non_null(strstr(vdpa_error_message(), "vm.max_map_count"));
	hostile[1] = take_all(s, fd);
	assert_non_null(hostile[0]);
	assert_non_null(hostile[1]);
	/* A device with memory slots, and 5000 mappings of whatever else. */
	for (uint32_t i = 0; i < MANY; i++)
		few[i] = many(i, fd);
	assert_int_equal(vdpa_iotlb_create(NULL, few, MANY, &other), 0);
	own = mmap(NULL, 10000 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		   0);
	assert_ptr_not_equal(own, MAP_FAILED);
	for (uint32_t i = 0; i < 10000; i += 2)
		assert_int_equal(mprotect(own + i * PAGE, PAGE, PROT_READ), 0);
	munmap(own, 10000 * PAGE);
	vdpa_iotlb_put(other);
	vdpa_iotlb_put(hostile[1]);
	/* What one gives back the next has. */
	hostile[1] = take_all(s, fd);
	assert_non_null(hostile[1]);
	vdpa_iotlb_put(hostile[1]);
	vdpa_iotlb_put(hostile[0]);
	assert_int_equal(mappings(), maps);
	free(s);
	close(fd);
}

static void
a_region_that_cannot_be_added_or_removed_is_said(void **state)
{
	int fd = file_of(4 * MAP_SIZE);
	struct vdpa_mem_region_spec s[] = {spec(0x100000, MAP_SIZE, 0, fd),
					   spec(0x200000, MAP_SIZE, MAP_SIZE, fd)};
	struct vdpa_mem_region_spec x;
	struct vdpa_iotlb *tlb, *next = NULL;
	unsigned int fds, maps;

	s[1].uaddr = 0x6000000000;
	assert_int_equal(vdpa_iotlb_create(NULL, s, 2, &tlb), 0);
	fds = count_fds();
	maps = mappings();
#define NOT_ADDED(err, ...)                                                                        \
	do {                                                                                       \
		x = (struct vdpa_mem_region_spec){__VA_ARGS__, false, false, false, 0};            \
		assert_int_equal(vdpa_iotlb_add(tlb, &x, &next), -(err));                          \
		assert_string_not_equal(vdpa_error_message(), "");                                 \
	} while (0)
	NOT_ADDED(EEXIST, s[0].iova, s[0].uaddr, MAP_SIZE, 0, fd);
	NOT_ADDED(EINVAL, s[0].iova, s[0].uaddr, MAP_SIZE, MAP_SIZE, fd);
	NOT_ADDED(EINVAL, s[0].iova, s[0].uaddr, PAGE, 0, fd);
	NOT_ADDED(EINVAL, s[0].iova - PAGE, 0x1000, 2 * PAGE, 0, fd);
	NOT_ADDED(EINVAL, s[0].iova + MAP_SIZE - 8, 0x1000, PAGE, 0, fd);
	NOT_ADDED(EINVAL, s[1].iova - PAGE, 0x1000, 2 * PAGE, 0, fd);
	NOT_ADDED(EINVAL, s[1].iova + PAGE, 0x1000, PAGE, 0, fd);
	NOT_ADDED(EINVAL, 0x400000, s[0].uaddr - 8, PAGE, 0, fd);
	NOT_ADDED(EINVAL, 0x400000, s[0].uaddr + MAP_SIZE - 8, PAGE, 0, fd);
	NOT_ADDED(EINVAL, 0x400000, s[1].uaddr - 8, PAGE, 0, fd);
	NOT_ADDED(EINVAL, 0x400000, s[1].uaddr + 8, PAGE, 0, fd);
	NOT_ADDED(EINVAL, 0x400000, 0x1000, 0, 0, fd);
	NOT_ADDED(EINVAL, 0x400000, 0x1000, 8 * MAP_SIZE, 0, fd);
	NOT_ADDED(EBADF, 0x400000, 0x1000, PAGE, 0, -1);
	assert_int_equal(vdpa_iotlb_remove(tlb, s[0].iova, s[1].uaddr, MAP_SIZE, &next), -EINVAL);
	assert_int_equal(vdpa_iotlb_remove(tlb, s[0].iova, s[0].uaddr, PAGE, &next), -EINVAL);
	assert_int_equal(vdpa_iotlb_remove(tlb, s[0].iova + 8, s[0].uaddr, MAP_SIZE, &next),
			 -EINVAL);
	assert_int_equal(vdpa_iotlb_remove(tlb, 0, s[0].uaddr, MAP_SIZE, &next), -ENOENT);
	assert_int_equal(vdpa_iotlb_remove(NULL, 0, 0, PAGE, &next), -ENOENT);
	assert_null(next);
	assert_int_equal(tlb->n, 2);
	assert_int_equal(count_fds(), fds);
	assert_int_equal(mappings(), maps);
	/* What fits between them is added. */
	x = spec(0x100000 + MAP_SIZE, 0x100000 - MAP_SIZE, 0, file_of(MB));
	x.uaddr = 0x6000000000 + MAP_SIZE;
	assert_int_equal(vdpa_iotlb_add(tlb, &x, &next), 0);
	assert_ptr_equal(next->regions[0], tlb->regions[0]);
	assert_ptr_equal(next->regions[2], tlb->regions[1]);
	close(x.fd);
	vdpa_iotlb_put(next);
	vdpa_iotlb_put(tlb);
	close(fd);
}

static void
a_region_may_end_within_the_last_page_of_its_file(void **state)
{
	/* libblkio has one of 30,240 bytes. */
	int fd = file_of(30240);
	struct vdpa_mem_region_spec s = spec(0x100000, 30240, 0, fd);
	struct vdpa_iotlb *tlb;
	uint8_t *va;

	assert_int_equal(vdpa_iotlb_create(NULL, &s, 1, &tlb), 0);
	assert_int_equal(tlb->regions[0]->map_len, 8 * PAGE);
	vdpa_iotlb_put(tlb);
	/* A DMA domain rounds up to the page, so that others see all of it. */
	s.size = 8 * PAGE;
	assert_int_equal(vdpa_iotlb_create(NULL, &s, 1, &tlb), 0);
	va = vdpa_iotlb_range(tlb, 0x100000, 8 * PAGE);
	assert_non_null(va);
	va[8 * PAGE - 1] = 1;
	vdpa_iotlb_put(tlb);
	s.size = 8 * PAGE + 8;
	assert_int_equal(vdpa_iotlb_create(NULL, &s, 1, &tlb), -EINVAL);
	close(fd);
}

struct diff_log {
	char text[128];
	int fail_at; /* call that fails; -1: none */
	int calls;
};

static int
log_call(struct diff_log *log, char what, const struct vdpa_mem_region *r)
{
	size_t n = strlen(log->text);

	if (log->calls++ == log->fail_at)
		return -EIO;
	snprintf(log->text + n, sizeof(log->text) - n, "%c%x", what, (unsigned int)(r->iova >> 20));
	return 0;
}

static int
log_diff(const struct vdpa_mem_region *r, bool in_now, void *arg)
{
	return log_call(arg, in_now ? '+' : '-', r);
}

static void
an_unchanged_region_keeps_its_mapping(void **state)
{
	int fd = file_of(4 * MAP_SIZE), fd2 = file_of(4 * MAP_SIZE), again = dup(fd);
	unsigned int maps = mappings();
	struct vdpa_mem_region_spec a[] = {spec(0x100000, MAP_SIZE, 0, fd),
					   spec(0x200000, MAP_SIZE, MAP_SIZE, fd),
					   spec(0x300000, MAP_SIZE, 0, fd2)};
	struct vdpa_mem_region_spec b[] = {spec(0x400000, MAP_SIZE, 0, fd2),
					   spec(0x100000, MAP_SIZE, 0, again),
					   spec(0x200000, MAP_SIZE, 2 * MAP_SIZE, fd)};
	struct vdpa_iotlb *old, *new;
	struct diff_log log = {.fail_at = -1};
	uint8_t *va;

	assert_int_equal(vdpa_iotlb_create(NULL, a, 3, &old), 0);
	va = old->regions[0]->va;
	assert_int_equal(vdpa_iotlb_create(old, b, 3, &new), 0);
	assert_ptr_equal(new->regions[0], old->regions[0]);
	assert_ptr_not_equal(new->regions[1], old->regions[1]);

	assert_int_equal(vdpa_iotlb_diff(old, new, log_diff, &log), 0);
	assert_string_equal(log.text, "-2+2-3+4");
	for (int k = 0; k < 4; k++) {
		static const char *const until[] = {"", "-2", "-2+2", "-2+2-3"};
		struct diff_log f = {.fail_at = k};

		assert_int_equal(vdpa_iotlb_diff(old, new, log_diff, &f), -EIO);
		assert_string_equal(f.text, until[k]);
	}
	log = (struct diff_log){.fail_at = -1};
	assert_int_equal(vdpa_iotlb_diff(NULL, new, log_diff, &log), 0);
	assert_int_equal(vdpa_iotlb_diff(new, NULL, log_diff, &log), 0);
	assert_string_equal(log.text, "+1+2+4-1-2-4");

	vdpa_iotlb_put(old);
	va[0] = 1; /* still mapped */
	assert_int_equal(mappings(), maps + 3);
	vdpa_iotlb_get(new);
	vdpa_iotlb_put(new);
	va[0] = 2;
	vdpa_iotlb_put(new);
	assert_int_equal(mappings(), maps);
	vdpa_iotlb_put(NULL);
	assert_null(vdpa_iotlb_get(NULL));
	close(fd);
	close(fd2);
	close(again);
}

static void
the_dirty_log_marks_every_page_touched(void **state)
{
	uint8_t bits[5] = {0, 0, 0, 0, 0xff};
	struct vdpa_dirty_log log = {.bitmap = bits, .size = 4};

	vdpa_dirty_log_mark(&log, 0x1000, 0);
	assert_int_equal(bits[0], 0);
	vdpa_dirty_log_mark(&log, 0x1fff, 1);
	assert_int_equal(bits[0], 0x02);
	vdpa_dirty_log_mark(&log, 0x2fff, 2);
	assert_int_equal(bits[0], 0x0e);
	vdpa_dirty_log_mark(&log, 7 * PAGE + 5, 9 * PAGE);
	assert_int_equal(bits[0], 0x8e);
	assert_int_equal(bits[1], 0xff);
	assert_int_equal(bits[2], 0x01);
	vdpa_dirty_log_mark(&log, 31 * PAGE, UINT64_MAX);
	assert_int_equal(bits[3], 0x80);
	bits[4] = 0;
	vdpa_dirty_log_mark(&log, 32 * PAGE, 8 * PAGE);
	vdpa_dirty_log_mark(&log, UINT64_MAX, 1);
	assert_int_equal(bits[4], 0);
}

static void
the_dirty_log_counts_pages_past_its_end(void **state)
{
	uint8_t bits[4] = {0};
	uint64_t past = 0;
	struct vdpa_dirty_log log = {.bitmap = bits, .size = sizeof(bits), .fd = -1, .past = &past};

	vdpa_dirty_log_mark(&log, 0, 32 * PAGE);
	assert_int_equal(past, 0);
	vdpa_dirty_log_mark(&log, 31 * PAGE, PAGE + 1);
	assert_int_equal(past, 1);
	vdpa_dirty_log_mark(&log, 40 * PAGE, 3 * PAGE);
	assert_int_equal(past, 4);
}

/* Lines of /proc/self/maps. */
static unsigned int
all_mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned int n = 0;
	int c;

	assert_non_null(f);
	while ((c = fgetc(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}

static void
a_range_may_lie_in_regions_that_keep_their_order(void **state)
{
	int fd = file_of(MAP_SIZE);
	unsigned int fds = count_fds(), maps = mappings(), all = all_mappings();
	struct vdpa_iotlb *tlb = NULL, *next;
	struct vdpa_mem_region_spec s;
	uint64_t got = 4 * PAGE;
	uint8_t *va;

	for (unsigned int i = 0; i < 4; i++) {
		/* Neither first nor last comes first. */
		unsigned int k = (i + 2) % 4;

		s = page_in_order(RING_IOVA + k * PAGE, (3 - k) * PAGE, fd);
		assert_int_equal(vdpa_iotlb_add(tlb, &s, &next), 0);
		vdpa_iotlb_put(tlb);
		tlb = next;
	}
	assert_int_equal(mappings(), maps + 4);
	va = vdpa_iotlb_range(tlb, RING_IOVA, 4 * PAGE);
	assert_non_null(va);
	for (uint8_t k = 0; k < 4; k++) {
		uint8_t back = 0xff;

		memset(va + k * PAGE, k + 1, PAGE);
		assert_int_equal(pread(fd, &back, 1, (off_t)((3 - k) * PAGE)), 1);
		assert_int_equal(back, k + 1);
	}
	assert_ptr_equal(vdpa_iotlb_range(tlb, RING_IOVA + PAGE - 8, 2 * PAGE), va + PAGE - 8);
	assert_null(vdpa_iotlb_range(tlb, RING_IOVA, 4 * PAGE + 1));
	assert_null(vdpa_iotlb_range(tlb, RING_IOVA + 8, UINT64_MAX));
	/* Buffers are still cut where regions end. */
	assert_ptr_equal(vdpa_iotlb_translate(tlb, RING_IOVA, &got), va);
	assert_int_equal(got, PAGE);

	/* Without one in the middle, and with it again, for those who keep nothing of before. */
	assert_int_equal(vdpa_iotlb_remove(tlb, s.iova, s.uaddr, s.size, &next), 0);
	vdpa_iotlb_put(tlb);
	assert_int_equal(mappings(), maps + 3);
	assert_null(vdpa_iotlb_range(next, RING_IOVA, 4 * PAGE));
	assert_ptr_equal(vdpa_iotlb_range(next, RING_IOVA + 2 * PAGE, 2 * PAGE), va + 2 * PAGE);
	/* Its place is kept. */
	assert_ptr_not_equal(mmap(va + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
			     va + PAGE);
	s.offset = 8 * PAGE;
	assert_int_equal(vdpa_iotlb_add(next, &s, &tlb), 0);
	vdpa_iotlb_put(next);
	assert_ptr_equal(vdpa_iotlb_range(tlb, RING_IOVA, 4 * PAGE), va);
	assert_int_equal(va[0], 1);
	assert_int_equal(va[PAGE], 0);
	vdpa_iotlb_put(tlb);
	assert_int_equal(mappings(), maps);
	/* The window is gone too: what is left is the page mapped above, or less. */
	assert_true(all_mappings() <= all + 1);
	close(fd);
	assert_int_equal(count_fds(), fds - 1);
}

static void
others_keep_what_they_have(void **state)
{
	int fd = file_of(MAP_SIZE);
	struct vdpa_mem_region_spec s[2] = {spec(RING_IOVA, PAGE, 0, fd),
					    spec(RING_IOVA + PAGE, PAGE, PAGE, fd)};
	struct vdpa_iotlb *tlb;

	assert_int_equal(vdpa_iotlb_create(NULL, s, 2, &tlb), 0);
	assert_null(vdpa_iotlb_range(tlb, RING_IOVA, 2 * PAGE));
	vdpa_iotlb_put(tlb);
	/* One at each side of the end of a window. */
	s[0] = page_in_order(VDPA_MEM_WINDOW - PAGE, 0, fd);
	s[1] = page_in_order(VDPA_MEM_WINDOW, PAGE, fd);
	assert_int_equal(vdpa_iotlb_create(NULL, s, 2, &tlb), 0);
	assert_non_null(vdpa_iotlb_range(tlb, s[0].iova, PAGE));
	assert_null(vdpa_iotlb_range(tlb, s[0].iova, 2 * PAGE));
	vdpa_iotlb_put(tlb);
	close(fd);
}

/* A region that grows, while somebody uses it as it was; and another in its place. */
static void
versions_share_a_place_only_for_the_same_memory(void **state)
{
	int fd = file_of(MAP_SIZE);
	struct vdpa_mem_region_spec s = page_in_order(RING_IOVA, 0, fd);
	struct vdpa_iotlb *small, *large, *other;
	unsigned int maps = mappings();
	uint8_t *va;

	assert_int_equal(vdpa_iotlb_create(NULL, &s, 1, &small), 0);
	va = vdpa_iotlb_range(small, RING_IOVA, PAGE);
	va[0] = 1;
	s.size = 3 * PAGE;
	assert_int_equal(vdpa_iotlb_create(small, &s, 1, &large), 0);
	assert_ptr_equal(vdpa_iotlb_range(large, RING_IOVA, 3 * PAGE), va);
	assert_int_equal(va[0], 1);
	va[2 * PAGE] = 3;
	/* Smaller again: what both had stays. */
	vdpa_iotlb_put(large);
	assert_int_equal(va[0], 1);
	s = page_in_order(RING_IOVA, 5 * PAGE, fd);
	assert_int_equal(vdpa_iotlb_create(small, &s, 1, &other), 0);
	assert_ptr_not_equal(vdpa_iotlb_range(other, RING_IOVA, PAGE), va);
	*(uint8_t *)vdpa_iotlb_range(other, RING_IOVA, PAGE) = 5;
	assert_int_equal(va[0], 1);
	vdpa_iotlb_put(small);
	vdpa_iotlb_put(other);
	assert_int_equal(mappings(), maps);
	close(fd);
}

static void
a_log_of_the_drivers_own_is_merged_and_cleared(void **state)
{
	uint8_t bits[32] = {0}, *odd = bits + 3;
	struct vdpa_dirty_log log = {.bitmap = odd, .size = 21, .fd = -1};
	uint64_t own[4] = {0};
	uint8_t *bytes = (uint8_t *)own;

	bytes[0] = 0x81;
	bytes[9] = 0x10;
	bytes[20] = 0x80;
	bytes[21] = 0xff; /* past the end */
	bytes[31] = 0xff;
	odd[9] = 0x01;
	vdpa_dirty_log_merge(&log, own, sizeof(own));
	assert_int_equal(odd[0], 0x81);
	assert_int_equal(odd[9], 0x11);
	assert_int_equal(odd[20], 0x80);
	for (unsigned int i = 21; i < sizeof(bits) - 3; i++)
		assert_int_equal(odd[i], 0);
	assert_true(own[0] == 0 && own[1] == 0 && own[2] == 0);
	/* And of less memory than the log could hold. */
	bytes[0] = 2;
	bytes[8] = 4;
	vdpa_dirty_log_merge(&log, own, 8);
	assert_int_equal(odd[0], 0x83);
	assert_int_equal(bytes[8], 4);
}

enum { MERGE_ROUNDS = 20000 };

struct merging {
	uint64_t own;
	unsigned int begun, done; /* rounds */
};

/* Each bit once a round. */
static void *
set_bits(void *arg)
{
	struct merging *m = arg;

	for (unsigned int round = 1; round <= MERGE_ROUNDS; round++) {
		while (__atomic_load_n(&m->begun, __ATOMIC_SEQ_CST) != round)
			sched_yield();
		for (unsigned int bit = 0; bit < 64; bit++)
			__atomic_fetch_or((uint8_t *)&m->own + bit / 8, (uint8_t)(1u << bit % 8),
					  __ATOMIC_SEQ_CST);
		__atomic_store_n(&m->done, round, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void
no_bit_is_lost_that_is_set_while_a_log_is_merged(void **state)
{
	uint64_t bits;
	struct vdpa_dirty_log log = {.bitmap = (uint8_t *)&bits, .size = sizeof(bits), .fd = -1};
	struct merging m = {.own = 0};
	pthread_t device;

	assert_int_equal(pthread_create(&device, NULL, set_bits, &m), 0);
	for (unsigned int round = 1; round <= MERGE_ROUNDS; round++) {
		bits = 0;
		__atomic_store_n(&m.begun, round, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&m.done, __ATOMIC_SEQ_CST) != round)
			vdpa_dirty_log_merge(&log, &m.own, sizeof(m.own));
		vdpa_dirty_log_merge(&log, &m.own, sizeof(m.own));
		assert_true(bits == UINT64_MAX);
	}
	pthread_join(device, NULL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files_of_regions_leave_the_reserve_alone),
		cmocka_unit_test(a_generation_ends_the_identity_of_a_region),
		cmocka_unit_test(a_kernels_file_is_taken_by_its_word),
		cmocka_unit_test(a_table_is_sorted_and_translates),
		cmocka_unit_test(bad_regions_are_refused_and_leave_nothing),
		cmocka_unit_test(hundreds_of_regions_are_found_and_share_a_descriptor),
		cmocka_unit_test(regions_come_one_by_one_and_go_again),
		cmocka_unit_test(two_clients_that_map_all_they_can_leave_some_to_others),
		cmocka_unit_test(a_region_that_cannot_be_added_or_removed_is_said),
		cmocka_unit_test(a_region_may_end_within_the_last_page_of_its_file),
		cmocka_unit_test(an_unchanged_region_keeps_its_mapping),
		cmocka_unit_test(a_range_may_lie_in_regions_that_keep_their_order),
		cmocka_unit_test(others_keep_what_they_have),
		cmocka_unit_test(versions_share_a_place_only_for_the_same_memory),
		cmocka_unit_test(the_dirty_log_marks_every_page_touched),
		cmocka_unit_test(the_dirty_log_counts_pages_past_its_end),
		cmocka_unit_test(a_log_of_the_drivers_own_is_merged_and_cleared),
		cmocka_unit_test(no_bit_is_lost_that_is_set_while_a_log_is_merged),
	};

	return cmocka_run_group_tests_name("mem_table_regions", tests, NULL, NULL);
}
