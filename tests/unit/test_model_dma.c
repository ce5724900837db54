/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The table of DMA ranges of vdpa-model. */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "model_test.h"
#include "vdpa_foreign_fd.h"

/* DMA ranges. */

#define MB (1ull << 20)

static struct vfu_dma table;

static int
memory(void)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4 * MB), 0);
	return fd;
}

/* The memory as the device would have it now. */
static struct vdpa_iotlb *
iotlb(void)
{
	struct vdpa_iotlb *tlb;

	assert_int_equal(vdpa_vfus_dma_iotlb(&table, &tlb), 0);
	return tlb;
}

static void
ranges_come_and_go(void **state)
{
	unsigned int fds = count_fds();
	int fd = memory();

	assert_null(iotlb());
	assert_int_equal(vdpa_vfus_dma_map(&table, 2 * MB, MB, MB, fd), 0);
	assert_int_equal(vdpa_vfus_dma_map(&table, 0, MB, 0, fd), 0);
	assert_int_equal(vdpa_vfus_dma_map(&table, MB, MB, 0, -1), 0);
	assert_int_equal(table.n, 3);
	assert_int_equal(iotlb()->n, 2);
	assert_non_null(vdpa_iotlb_range(iotlb(), 3 * MB - 8, 8));
	assert_null(vdpa_iotlb_range(iotlb(), MB, 8));
	assert_int_equal(vdpa_vfus_dma_unmap(&table, 0, MB), 0);
	assert_null(vdpa_iotlb_range(iotlb(), 0, 8));
	/* One request may take several. */
	assert_int_equal(vdpa_vfus_dma_unmap(&table, 0, 3 * MB), 0);
	assert_int_equal(table.n, 0);
	assert_null(iotlb());
	assert_int_equal(vdpa_vfus_dma_map(&table, 0, MB, 0, fd), 0);
	assert_non_null(iotlb());
	vdpa_vfus_dma_clear(&table);
	assert_null(iotlb());
	close(fd);
	assert_int_equal(count_fds(), fds);
}

static void
bad_ranges_change_nothing(void **state)
{
	int fd = memory(), sealed = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING), ro;
	/* A file of the kernel's that is no VDUSE domain. */
	int event = eventfd(0, EFD_CLOEXEC);
	char path[32];
	unsigned int fds;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(ro >= 0);
	assert_int_equal(ftruncate(sealed, MB), 0);
	assert_int_equal(fcntl(sealed, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
	assert_int_equal(vdpa_vfus_dma_map(&table, MB, 2 * MB, 0, fd), 0);
	fds = count_fds();
	assert_int_equal(vdpa_vfus_dma_map(&table, 0, 0, 0, fd), -EINVAL);
	assert_int_equal(vdpa_vfus_dma_map(&table, UINT64_MAX - 1, 3, 0, fd), -EINVAL);
	assert_int_equal(vdpa_vfus_dma_map(&table, 0, MB + 1, 0, fd), -EEXIST);
	assert_int_equal(vdpa_vfus_dma_map(&table, 2 * MB, 4096, 0, -1), -EEXIST);
	assert_int_equal(vdpa_vfus_dma_map(&table, 3 * MB - 1, MB, 0, -1), -EEXIST);
	/* Past the end of the file, or of all addresses. */
	assert_int_equal(vdpa_vfus_dma_map(&table, 8 * MB, 8 * MB, 0, fd), -EINVAL);
	assert_int_equal(vdpa_vfus_dma_map(&table, 8 * MB, MB, UINT64_MAX - 4095, fd), -EINVAL);
	assert_int_equal(vdpa_vfus_dma_map(&table, UINT64_MAX - 4095, 4096, 0, fd), -EINVAL);
	/* Part of a page. */
	assert_int_equal(vdpa_vfus_dma_map(&table, 8 * MB + 8, 4096, 0, fd), -EINVAL);
	assert_int_equal(vdpa_vfus_dma_map(&table, 8 * MB, 4088, 0, fd), -EINVAL);
	assert_int_equal(vdpa_vfus_dma_map(&table, 8 * MB, 4096, 8, fd), -EINVAL);
	/* What the core could not map, or not write. */
	assert_int_equal(vdpa_vfus_dma_map(&table, 8 * MB, 4096, 0, ro), -EACCES);
	assert_int_equal(vdpa_vfus_dma_map(&table, 8 * MB, 4096, 0, 99), -EINVAL);
	assert_int_equal(vdpa_vfus_dma_map(&table, 8 * MB, 4096, 0, event), -EINVAL);
	assert_int_equal(vdpa_vfus_dma_map(&table, 8 * MB, 4096, 0, sealed), -EACCES);
	assert_int_equal(vdpa_vfus_dma_unmap(&table, 2 * MB + 8, MB), -EINVAL);
	assert_int_equal(vdpa_vfus_dma_unmap(&table, MB, 8), -EINVAL);
	assert_int_equal(vdpa_vfus_dma_unmap(&table, 8 * MB, MB), -ENOENT);
	assert_int_equal(vdpa_vfus_dma_unmap(&table, 0, 0), -EINVAL);
	assert_int_equal(vdpa_vfus_dma_unmap(&table, 2, UINT64_MAX), -EINVAL);
	assert_int_equal(table.n, 1);
	assert_int_equal(table.mapped_size, 2 * MB);
	assert_int_equal(count_fds(), fds);
	/* Up to the last byte there is. */
	assert_int_equal(vdpa_vfus_dma_map(&table, UINT64_MAX - 4095, 4096, 0, -1), 0);
	assert_int_equal(vdpa_vfus_dma_unmap(&table, UINT64_MAX - 4095, 4096), 0);
	vdpa_vfus_dma_clear(&table);
	close(ro);
	close(event);
	close(sealed);
	close(fd);
}

/* As a client with an IOMMU of its guest maps: page by page, in the order of need. */
#define PAGES 10000

static void
shuffle(unsigned int *order, unsigned int n)
{
	uint64_t random = 1;

	for (unsigned int i = 0; i < n; i++)
		order[i] = i;
	for (unsigned int i = n; i > 1; i--) {
		unsigned int j, swapped = order[i - 1];

		random = random * 6364136223846793005u + 1442695040888963407u;
		j = (unsigned int)(random >> 33) % i;
		order[i - 1] = order[j];
		order[j] = swapped;
	}
}

static void
pages_in_any_order_become_few_ranges(void **state)
{
	static unsigned int order[PAGES];
	unsigned int fds = count_fds(), most = 0;
	uint64_t steps, worst = 0;
	int fd = memory();

	assert_int_equal(ftruncate(fd, PAGES * 4096), 0);
	shuffle(order, PAGES);
	for (unsigned int i = 0; i < PAGES; i++) {
		/* Four blocks, which do not follow each other in the file. */
		uint64_t page = order[i], block = page / (PAGES / 4);
		uint64_t offset = (page + PAGES - block * (PAGES / 2)) % PAGES * 4096;

		steps = table.steps;
		assert_int_equal(vdpa_vfus_dma_map(&table, page * 4096, 4096, offset, fd), 0);
		worst = table.steps - steps > worst ? table.steps - steps : worst;
		most = table.n > most ? table.n : most;
	}
	assert_int_equal(table.n, 4);
	assert_int_equal(table.mapped_size, PAGES * 4096);
	/* No request looked at more than a few paths through the tree, of 2 log2(n) ranges. */
	print_message("%u ranges at most, %" PRIu64 " looked at for one page at most\n", most,
		      worst);
	assert_true(most > 1000);
	assert_true(worst <= 5 * 2 * 12);
	/* And nothing was mapped for it, but one descriptor kept. */
	assert_null(table.iotlb);
	assert_int_equal(count_fds(), fds + 2);
	assert_int_equal(iotlb()->n, 4);
	assert_non_null(vdpa_iotlb_range(iotlb(), 4096, 1000 * 4096));

	/* The other way: every page by itself again, in another order. */
	worst = 0;
	for (unsigned int i = PAGES; i-- > 0;) {
		steps = table.steps;
		assert_int_equal(vdpa_vfus_dma_unmap(&table, order[i] * 4096ull, 4096), 0);
		worst = table.steps - steps > worst ? table.steps - steps : worst;
	}
	assert_true(worst <= 5 * 2 * 12);
	assert_int_equal(table.n, 0);
	assert_int_equal(table.mapped_size, 0);
	assert_null(iotlb());
	close(fd);
	assert_int_equal(count_fds(), fds);
	vdpa_vfus_dma_clear(&table);
}

/* The device runs: it is told of every page, and of nothing but that page. */
static void
memory_in_use_follows_page_by_page(void **state)
{
	static unsigned int order[1000];
	const struct vdpa_mem_region *other;
	uint64_t builds = table.builds;
	int fd = memory();

	shuffle(order, 1000);
	assert_int_equal(vdpa_vfus_dma_map(&table, 1024 * MB, MB, 0, fd), 0);
	other = iotlb()->regions[0];
	for (unsigned int i = 0; i < 1000; i++) {
		uint64_t at = order[i] * 4096ull;

		assert_int_equal(vdpa_vfus_dma_map(&table, at, 4096, at % (2 * MB), fd), 0);
		assert_non_null(vdpa_iotlb_range(iotlb(), at, 4096));
		assert_ptr_equal(iotlb()->regions[iotlb()->n - 1], other);
	}
	assert_int_equal(table.n, 3);
	assert_int_equal(iotlb()->n, 3);
	for (unsigned int i = 1000; i-- > 0;) {
		uint64_t at = order[i] * 4096ull;

		assert_int_equal(vdpa_vfus_dma_unmap(&table, at, 4096), 0);
		assert_null(vdpa_iotlb_range(iotlb(), at, 8));
		assert_int_equal(iotlb()->n, table.n);
	}
	assert_ptr_equal(iotlb()->regions[0], other);
	assert_int_equal(vdpa_vfus_dma_unmap(&table, 1024 * MB, MB), 0);
	assert_null(iotlb());
	/* Made of all once, not with each of 2,001 changes. */
	assert_int_equal(table.builds - builds, 1);
	vdpa_vfus_dma_clear(&table);
	close(fd);
}

static void
ranges_join_only_where_memory_goes_on(void **state)
{
	int fd = memory(), other = memory(), same = dup(fd);

	assert_int_equal(vdpa_vfus_dma_map(&table, MB, 4096, MB, fd), 0);
	/* Another place of the file, another file, none. */
	assert_int_equal(vdpa_vfus_dma_map(&table, MB + 4096, 4096, MB, fd), 0);
	assert_int_equal(vdpa_vfus_dma_map(&table, MB - 4096, 4096, MB - 4096, other), 0);
	assert_int_equal(vdpa_vfus_dma_map(&table, MB - 8192, 4096, 0, -1), 0);
	assert_int_equal(table.n, 4);
	/* The same file by another descriptor. */
	assert_int_equal(vdpa_vfus_dma_unmap(&table, MB + 4096, 4096), 0);
	assert_int_equal(vdpa_vfus_dma_map(&table, MB + 4096, 4096, MB + 4096, same), 0);
	assert_int_equal(table.n, 3);
	assert_int_equal(vdpa_vfus_dma_map(&table, MB - 12288, 4096, 0, -1), 0);
	assert_int_equal(table.n, 3);
	vdpa_vfus_dma_clear(&table);
	close(same);
	close(other);
	close(fd);
}

static void
unmapping_splits_a_range(void **state)
{
	int fd = memory();
	uint8_t *va;

	assert_null(iotlb());
	assert_int_equal(vdpa_vfus_dma_map(&table, MB, MB, 0, fd), 0);
	va = vdpa_iotlb_range(iotlb(), MB, MB);
	assert_non_null(va);
	va[0] = 1;
	va[MB / 2 + 4096] = 2;
	assert_int_equal(vdpa_vfus_dma_unmap(&table, MB + MB / 2, 4096), 0);
	assert_int_equal(table.n, 2);
	assert_int_equal(table.mapped_size, MB - 4096);
	assert_int_equal(iotlb()->n, 2);
	assert_null(vdpa_iotlb_range(iotlb(), MB + MB / 2, 8));
	assert_non_null(vdpa_iotlb_range(iotlb(), MB, MB / 2));
	assert_int_equal(*(uint8_t *)vdpa_iotlb_range(iotlb(), MB, 1), 1);
	assert_int_equal(*(uint8_t *)vdpa_iotlb_range(iotlb(), MB + MB / 2 + 4096, 1), 2);
	/* The ends of both, over the hole. */
	assert_int_equal(vdpa_vfus_dma_unmap(&table, MB + MB / 2 - 4096, 3 * 4096), 0);
	assert_int_equal(table.n, 2);
	assert_int_equal(table.mapped_size, MB - 3 * 4096);
	/* Back again, and whole. */
	assert_int_equal(vdpa_vfus_dma_map(&table, MB + MB / 2 - 4096, 3 * 4096, MB / 2 - 4096, fd),
			 0);
	assert_int_equal(table.n, 1);
	assert_int_equal(table.mapped_size, MB);
	assert_int_equal(*(uint8_t *)vdpa_iotlb_range(iotlb(), MB + MB / 2 + 4096, 1), 2);
	vdpa_vfus_dma_clear(&table);
	close(fd);
}

/* Pages of a ring: up in addresses, down in the file but for two, told of while the device has the
 * pages before. */
static void
pages_that_do_not_join_are_one_ring(void **state)
{
	static const uint64_t offsets[] = {10 * 4096, 8 * 4096, 9 * 4096, 7 * 4096};
	struct vdpa_iotlb *used[4];
	int fd = memory();

	assert_null(iotlb());
	for (unsigned int i = 0; i < 4; i++) {
		unsigned int k = (i + 1) % 4;

		assert_int_equal(
			vdpa_vfus_dma_map(&table, 0xffffc000 + k * 4096, 4096, offsets[k], fd), 0);
		used[i] = vdpa_iotlb_get(iotlb());
	}
	assert_int_equal(table.n, 3);
	assert_non_null(vdpa_iotlb_range(iotlb(), 0xffffc000, 16384));
	for (unsigned int i = 0; i < 4; i++)
		vdpa_iotlb_put(used[i]);
	memset(vdpa_iotlb_range(iotlb(), 0xffffc000, 16384), 1, 16384);
	/* Taken away and back; then everything, told of at once. */
	assert_int_equal(vdpa_vfus_dma_unmap(&table, 0xffffd000, 4096), 0);
	assert_null(vdpa_iotlb_range(iotlb(), 0xffffc000, 16384));
	assert_int_equal(vdpa_vfus_dma_map(&table, 0xffffd000, 4096, 8 * 4096, fd), 0);
	assert_non_null(vdpa_iotlb_range(iotlb(), 0xffffc000, 16384));
	vdpa_vfus_dma_drop_iotlb(&table);
	assert_non_null(vdpa_iotlb_range(iotlb(), 0xffffc000, 16384));
	/* Memory at the end of a window joins what does not keep its order, and only that. */
	assert_int_equal(vdpa_vfus_dma_map(&table, 2 * VDPA_MEM_WINDOW - 4096, 4096, 0, fd), 0);
	assert_int_equal(vdpa_vfus_dma_map(&table, 2 * VDPA_MEM_WINDOW, 4096, 4096, fd), 0);
	assert_int_equal(table.n, 5);
	vdpa_vfus_dma_clear(&table);
	close(fd);
}

/* As a guest's IOMMU maps what its driver only sends. */
static void
memory_for_reading_is_read_and_joins_its_kind(void **state)
{
	int fd = memory();

	assert_int_equal(vdpa_vfus_dma_map(&table, MB, 4096, MB, fd), 0);
	assert_int_equal(vdpa_vfus_dma_map_readonly(&table, MB + 4096, 4096, MB + 4096, fd), 0);
	assert_int_equal(vdpa_vfus_dma_map_readonly(&table, MB + 8192, 4096, MB + 8192, fd), 0);
	assert_int_equal(table.n, 2);
	assert_int_equal(iotlb()->n, 2);
	assert_false(iotlb()->regions[0]->readonly);
	assert_true(iotlb()->regions[1]->readonly);
	assert_non_null(vdpa_iotlb_range(iotlb(), MB + 4096, 8192));
	vdpa_vfus_dma_clear(&table);
	close(fd);
}

static void
too_many_ranges_are_refused(void **state)
{
	int fd = memory();
	uint64_t i;

	for (i = 0; i < VFU_DMA_RANGES_MAX - 1; i++)
		assert_int_equal(vdpa_vfus_dma_map(&table, i * 2 * MB, 4096, i % 512 * 4096, fd),
				 0);
	assert_int_equal(vdpa_vfus_dma_map(&table, i * 2 * MB, 2 * 4096, 0, -1), 0);
	assert_int_equal(table.n, VFU_DMA_RANGES_MAX);
	assert_int_equal(vdpa_vfus_dma_map(&table, (i + 1) * 2 * MB, 4096, 0, fd), -ENOSPC);
	assert_non_null(strstr(vdpa_error_message(), "more than 65536 DMA ranges"));
	assert_int_equal(vdpa_vfus_dma_map(&table, (i + 1) * 2 * MB, 4096, 0, -1), -ENOSPC);
	/* One that joins is none more, one that is split is. */
	assert_int_equal(vdpa_vfus_dma_map(&table, 4096, 4096, 4096, fd), 0);
	assert_int_equal(vdpa_vfus_dma_map(&table, 8192, 4096, 8192, fd), 0);
	assert_int_equal(vdpa_vfus_dma_unmap(&table, 4096, 4096), -ENOSPC);
	assert_int_equal(table.n, VFU_DMA_RANGES_MAX);
	vdpa_vfus_dma_clear(&table);
	for (i = 0; i <= VFU_DMA_FILES_MAX; i++) {
		int one = memory();

		assert_int_equal(vdpa_vfus_dma_map(&table, i * 2 * MB, 4096, 0, one),
				 i < VFU_DMA_FILES_MAX ? 0 : -ENOSPC);
		close(one);
	}
	vdpa_vfus_dma_clear(&table);
	close(fd);
}

int
main(void)
{
#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ranges_come_and_go),
		cmocka_unit_test(bad_ranges_change_nothing),
		cmocka_unit_test(pages_in_any_order_become_few_ranges),
		cmocka_unit_test(memory_in_use_follows_page_by_page),
		cmocka_unit_test(ranges_join_only_where_memory_goes_on),
		cmocka_unit_test(unmapping_splits_a_range),
		cmocka_unit_test(pages_that_do_not_join_are_one_ring),
		cmocka_unit_test(memory_for_reading_is_read_and_joins_its_kind),
		cmocka_unit_test(too_many_ranges_are_refused),
	};

	/* What that keeps open is not a range's. */
	(void)vdpa_fd_is_vduse_domain(0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
