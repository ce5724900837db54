/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Memory of our own in DMA domains: where it is placed, and that it gives way. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "iommu_test.h"

static void
own_memory_takes_the_highest_hole(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct user u = join(dom, "v0");
	const uint64_t top = 1ULL << 39;
	struct vdpa_mem_region r = region(top - 4 * PAGE, PAGE, 5);
	struct vdpa_dma_buf a, b, c;
	unsigned int fds = count_fds();

	assert_int_equal(set(&u, &r, 1), 0);
	assert_int_equal(vdpa_dma_alloc(dom, 2 * PAGE, NULL, &a), 0);
	assert_int_equal(a.iova, top - 2 * PAGE);
	/* One page is left above the guest's memory, too few for two. */
	assert_int_equal(vdpa_dma_alloc(dom, PAGE + 1, NULL, &b), 0);
	assert_int_equal(b.size, 2 * PAGE);
	assert_int_equal(b.iova, top - 6 * PAGE);
	assert_int_equal(vdpa_dma_alloc(dom, 100, NULL, &c), 0);
	assert_int_equal(c.size, PAGE);
	assert_int_equal(c.iova, top - 3 * PAGE);
	for (unsigned int i = 0; i < b.size; i++)
		assert_int_equal(((uint8_t *)b.va)[i], 0);
	memset(b.va, 0x5a, b.size);
	/* Nobody who gets the file takes pages away under us. */
	assert_true(ftruncate(b.fd, 0) < 0);

	r = region(b.iova, PAGE, 9);
	assert_int_equal(set(&u, &r, 1), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), "the driver's own memory"));

	vdpa_dma_free(dom, &b);
	assert_null(b.va);
	vdpa_dma_free(dom, &b);
	assert_int_equal(vdpa_dma_alloc(dom, 2 * PAGE, NULL, &b), 0);
	assert_int_equal(b.iova, top - 6 * PAGE);
	vdpa_dma_free(dom, &a);
	vdpa_dma_free(dom, &b);
	vdpa_dma_free(dom, &c);
	assert_int_equal(f.n, 1);
	assert_int_equal(count_fds(), fds);
	leave(&u);
	vdpa_dma_domain_destroy(dom);
	assert_int_equal(f.n, 0);
}

static void
own_memory_skips_reserved_iovas(void **state)
{
	static const struct vdpa_dma_range two[] = {{0x1000, 0x3fff}, {0x6000, 0x6fff}};
	const struct vdpa_dma_limits limits = {.ranges = two, .n_ranges = 2, .page_size = PAGE};
	struct fake_iommu f = {.n = 0};
	struct vdpa_dma_domain *dom;
	struct vdpa_dma_buf a, b, c;

	assert_int_equal(vdpa_dma_domain_create("fake/1", &ops, &f, &limits, &dom), 0);
	assert_int_equal(vdpa_dma_alloc(dom, 2 * PAGE, NULL, &a), 0);
	assert_int_equal(a.iova, 0x2000);
	assert_int_equal(vdpa_dma_alloc(dom, 2 * PAGE, NULL, &b), -ENOSPC);
	assert_int_equal(vdpa_dma_alloc(dom, PAGE, NULL, &b), 0);
	assert_int_equal(b.iova, 0x6000);
	assert_int_equal(vdpa_dma_alloc(dom, PAGE, NULL, &c), 0);
	assert_int_equal(c.iova, 0x1000);
	vdpa_dma_free(dom, &a);
	vdpa_dma_free(dom, &b);
	vdpa_dma_free(dom, &c);
	vdpa_dma_domain_destroy(dom);
}

static void
own_memory_is_aligned_to_large_iommu_pages(void **state)
{
	const uint64_t large = 1 << 20;
	const struct vdpa_dma_limits limits = {.page_size = large};
	struct fake_iommu f = {.n = 0};
	struct vdpa_dma_domain *dom;
	struct vdpa_dma_buf buf[4];

	assert_int_equal(vdpa_dma_domain_create("fake/2", &ops, &f, &limits, &dom), 0);
	for (unsigned int i = 0; i < 4; i++) {
		assert_int_equal(vdpa_dma_alloc(dom, 3 * PAGE, NULL, &buf[i]), 0);
		assert_int_equal(buf[i].size, large);
		assert_int_equal((uintptr_t)buf[i].va % large, 0);
		assert_int_equal(buf[i].iova % large, 0);
		/* No address past it is 2^64. */
		assert_true(buf[i].iova + buf[i].size != 0);
		memset(buf[i].va, 1, buf[i].size);
	}
	for (unsigned int i = 0; i < 4; i++)
		vdpa_dma_free(dom, &buf[i]);
	vdpa_dma_domain_destroy(dom);
}

/* The own memory of a test, that moves or says why not. */
struct own {
	struct vdpa_dma_domain *dom;
	struct vdpa_dma_buf buf;
	struct vdpa_dma_owner owner;
	unsigned int moves;
	bool stays;
};

static int
own_move(void *arg)
{
	struct own *own = arg;
	struct vdpa_dma_buf to;
	int rc;

	if (own->stays)
		return vdpa_error(EBUSY, "its queue is in use");
	own->moves++;
	rc = vdpa_dma_alloc(own->dom, own->buf.size, &own->owner, &to);
	if (rc < 0)
		return rc;
	vdpa_dma_free(own->dom, &own->buf);
	own->buf = to;
	return 0;
}

static void
own_memory_gives_way_at_every_boundary(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct user u = join(dom, "v0"), other = join(dom, "v1");
	struct own own = {.dom = dom, .owner = {.user = u.user, .move = own_move, .arg = &own}};
	const uint64_t at = (1ULL << 39) - 2 * PAGE;
	/* Where a region begins and ends, in pages from where the memory begins; two are its own.
	 */
	static const struct {
		int first, last;
		bool hits;
	} cases[] = {{-2, -1, false}, {-1, -1, false}, {-1, 0, true}, {0, 0, true},
		     {0, 1, true},    {1, 1, true},    {-1, 1, true}, {-9, 1, true}};

	for (unsigned int i = 0; i < 8; i++) {
		struct vdpa_mem_region r =
			region(at + (uint64_t)cases[i].first * PAGE,
			       (uint64_t)(cases[i].last - cases[i].first + 1) * PAGE, 5);

		assert_int_equal(vdpa_dma_alloc(dom, 2 * PAGE, &own.owner, &own.buf), 0);
		assert_int_equal(own.buf.iova, at);
		own.moves = 0;
		/* In use, it stays, and the region is refused by name. */
		own.stays = true;
		assert_int_equal(set(&u, &r, 1), cases[i].hits ? -EBUSY : 0);
		if (cases[i].hits) {
			char expect[256];

			snprintf(expect, sizeof(expect),
				 "fake/0: memory of v0 at IOVA 0x%llx-0x%llx overlaps "
				 "0x7fffffe000-0x7fffffffff, which is the driver's own memory and "
				 "cannot be moved: its queue is in use",
				 (unsigned long long)r.iova,
				 (unsigned long long)(r.iova + r.size - 1));
			assert_string_equal(vdpa_error_message(), expect);
		}
		assert_int_equal(f.n, cases[i].hits ? 1 : 2);
		/* Another device's change does not reach into this one. */
		own.stays = false;
		assert_int_equal(set(&u, NULL, 0), 0);
		assert_int_equal(set(&other, &r, 1), cases[i].hits ? -EBUSY : 0);
		assert_int_equal(set(&other, NULL, 0), 0);
		assert_int_equal(own.moves, 0);
		assert_int_equal(set(&u, &r, 1), 0);
		assert_int_equal(own.moves, cases[i].hits);
		assert_true(own.buf.iova + own.buf.size <= r.iova ||
			    own.buf.iova > r.iova + r.size - 1);
		assert_int_equal(f.n, 2);
		vdpa_dma_free(dom, &own.buf);
		assert_int_equal(set(&u, NULL, 0), 0);
		assert_int_equal(f.n, 0);
	}
	leave(&u);
	leave(&other);
	vdpa_dma_domain_destroy(dom);
}

/* A front end's log at an offset in its file, as vhost_user_shm.c maps it. */
struct test_log {
	struct vdpa_dirty_log log;
	uint8_t *map;
	size_t size; /* of the file */
};

static struct test_log
make_log(uint64_t offset, uint64_t size)
{
	struct test_log t = {.size = (offset + size + PAGE - 1) & ~(PAGE - 1)};
	int fd = memfd_create("log", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, (off_t)t.size), 0);
	t.map = mmap(NULL, t.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(t.map, MAP_FAILED);
	t.log = (struct vdpa_dirty_log){
		.bitmap = t.map + offset, .size = size, .fd = fd, .offset = offset};
	return t;
}

static void
free_log(struct test_log *t)
{
	munmap(t->map, t->size);
	close(t->log.fd);
}

static void
a_log_is_mapped_by_whole_pages_of_its_file(void **state)
{
	static const struct {
		uint64_t offset, size, pages;
	} cases[] = {{0, 4096, 1}, {0, 1, 1}, {8, 4096, 2}, {8200, 4088, 1}, {4096, 3 * PAGE, 3}};
	const uint64_t top = 1ULL << 39;

	for (unsigned int i = 0; i < 5; i++) {
		struct test_log t = make_log(cases[i].offset, cases[i].size);
		struct fake_iommu f;
		struct vdpa_dma_domain *dom = domain(&f);
		struct vdpa_dma_log map = {.size = 0};
		uint64_t skip = cases[i].offset % PAGE;

		assert_int_equal(vdpa_dma_map_log(dom, &t.log, NULL, &map), 0);
		assert_int_equal(map.size, cases[i].pages * PAGE);
		assert_int_equal(map.first, top - map.size);
		assert_int_equal(map.iova, map.first + skip);
		assert_int_equal(f.n, 1);
		assert_int_equal(f.at[0].fd, t.log.fd);
		assert_int_equal(f.at[0].offset, cases[i].offset - skip);
		assert_ptr_equal(f.at[0].va, t.log.bitmap - skip);
		vdpa_dma_unmap_log(dom, &map);
		assert_int_equal(f.n, 0);
		vdpa_dma_unmap_log(dom, &map);
		vdpa_dma_domain_destroy(dom);
		free_log(&t);
	}
}

static void
a_log_that_cannot_be_mapped_is_refused(void **state)
{
	const struct vdpa_dma_limits large = {.page_size = 1 << 20};
	struct test_log t = make_log(0, 4096);
	struct vdpa_dirty_log log = t.log;
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f), *other;
	struct vdpa_dma_log map = {.size = 0};

	log.fd = -1;
	assert_int_equal(vdpa_dma_map_log(dom, &log, NULL, &map), -EOPNOTSUPP);
	assert_non_null(strstr(vdpa_error_message(), "file is not known"));
	log = t.log;
	log.offset = 8;
	assert_int_equal(vdpa_dma_map_log(dom, &log, NULL, &map), -EOPNOTSUPP);
	assert_non_null(strstr(vdpa_error_message(), "cannot be mapped by pages"));
	log = t.log;
	log.size = 0;
	assert_int_equal(vdpa_dma_map_log(dom, &log, NULL, &map), -EINVAL);
	assert_int_equal(vdpa_dma_domain_create("fake/1", &ops, &f, &large, &other), 0);
	assert_int_equal(vdpa_dma_map_log(other, &t.log, NULL, &map), -EOPNOTSUPP);
	vdpa_dma_domain_destroy(other);
	assert_int_equal(f.n, 0);
	vdpa_dma_unmap_log(dom, &map);
	vdpa_dma_domain_destroy(dom);
	free_log(&t);
}

/* A log that a device writes, and is told of another place. */
struct logging {
	struct vdpa_dma_domain *dom;
	const struct vdpa_dirty_log *log;
	struct vdpa_dma_owner owner;
	struct vdpa_dma_log map;
};

static int
log_move(void *arg)
{
	struct logging *l = arg;
	struct vdpa_dma_log to;
	int rc = vdpa_dma_map_log(l->dom, l->log, &l->owner, &to);

	if (rc < 0)
		return rc;
	vdpa_dma_unmap_log(l->dom, &l->map);
	l->map = to;
	return 0;
}

static void
a_mapped_log_gives_way(void **state)
{
	struct test_log t = make_log(0, 2 * PAGE);
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct user u = join(dom, "v0");
	struct logging l = {.dom = dom, .log = &t.log};
	struct vdpa_mem_region r;

	l.owner = (struct vdpa_dma_owner){.user = u.user, .move = log_move, .arg = &l};
	assert_int_equal(vdpa_dma_map_log(dom, &t.log, NULL, &l.map), 0);
	r = region(l.map.first, PAGE, 5);
	assert_int_equal(set(&u, &r, 1), -EBUSY);
	vdpa_dma_unmap_log(dom, &l.map);
	assert_int_equal(vdpa_dma_map_log(dom, &t.log, &l.owner, &l.map), 0);
	assert_int_equal(set(&u, &r, 1), 0);
	assert_int_equal(l.map.first, r.iova - 2 * PAGE);
	assert_int_equal(f.n, 2);
	vdpa_dma_unmap_log(dom, &l.map);
	leave(&u);
	vdpa_dma_domain_destroy(dom);
	free_log(&t);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(own_memory_takes_the_highest_hole),
		cmocka_unit_test(own_memory_skips_reserved_iovas),
		cmocka_unit_test(own_memory_is_aligned_to_large_iommu_pages),
		cmocka_unit_test(own_memory_gives_way_at_every_boundary),
		cmocka_unit_test(a_log_is_mapped_by_whole_pages_of_its_file),
		cmocka_unit_test(a_log_that_cannot_be_mapped_is_refused),
		cmocka_unit_test(a_mapped_log_gives_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
