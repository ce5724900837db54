/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A transport of a DMA domain that takes the calls of a change together: what it has in force after
 * each change, and after one whose end fails.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dma_test.h"
#include "vdpa_error.h"

#define MAPS 16

struct maps {
	uint64_t iova[MAPS];
	unsigned int n;
};

/* The transport: what it was asked to map, and what the device can reach. */
static struct {
	struct maps asked, in_force;
	bool open;
	unsigned int begins, ends;
	int begin_fails, end_fails; /* so many times from now on */
	int map_fails;
} t;

static int
fails(int *times)
{
	if (*times == 0)
		return 0;
	(*times)--;
	return vdpa_error(EIO, "as the test has it");
}

static int
map(void *arg, const struct vdpa_dma_mapping *m)
{
	int rc = fails(&t.map_fails);

	if (rc < 0)
		return rc;
	assert_true(t.asked.n < MAPS);
	t.asked.iova[t.asked.n++] = m->iova;
	if (!t.open)
		t.in_force = t.asked;
	return 0;
}

static int
unmap(void *arg, const struct vdpa_dma_mapping *m)
{
	for (unsigned int i = 0; i < t.asked.n; i++)
		if (t.asked.iova[i] == m->iova) {
			t.asked.iova[i] = t.asked.iova[--t.asked.n];
			if (!t.open)
				t.in_force = t.asked;
			return 0;
		}
	fail_msg("0x%lx is not mapped", (unsigned long)m->iova);
	return -ENOENT;
}

static int
begin(void *arg)
{
	int rc = fails(&t.begin_fails);

	assert_false(t.open);
	if (rc < 0)
		return rc;
	t.open = true;
	t.begins++;
	return 0;
}

static int
end(void *arg)
{
	int rc = fails(&t.end_fails);

	assert_true(t.open);
	t.open = false;
	t.ends++;
	if (rc == 0)
		t.in_force = t.asked;
	return rc;
}

static const struct vdpa_dma_ops ops = {.map = map, .unmap = unmap};
static const struct vdpa_dma_batch batch = {.begin = begin, .end = end};
static struct vdpa_dma_domain *dom;
static struct user user;

static int
setup(void **state)
{
	const struct vdpa_dma_limits limits = {.page_size = PAGE};

	memset(&t, 0, sizeof(t));
	assert_int_equal(vdpa_dma_domain_create("d", &ops, NULL, &limits, &dom), 0);
	vdpa_dma_domain_set_batch(dom, &batch);
	user = join(dom, "net0");
	return 0;
}

static int
teardown(void **state)
{
	leave(&user);
	assert_int_equal(t.asked.n, 0);
	assert_int_equal(t.in_force.n, 0);
	assert_false(t.open);
	vdpa_dma_domain_destroy(dom);
	return 0;
}

static bool
reaches(uint64_t iova)
{
	for (unsigned int i = 0; i < t.in_force.n; i++)
		if (t.in_force.iova[i] == iova)
			return true;
	return false;
}

#define A region(1 * PAGE, PAGE, 1)
#define B region(2 * PAGE, PAGE, 2)
#define C region(3 * PAGE, PAGE, 3)

static int
set_two(struct vdpa_mem_region one, struct vdpa_mem_region two)
{
	const struct vdpa_mem_region both[] = {one, two};

	return set(&user, both, 2);
}

static void
a_change_is_one_batch(void **state)
{
	assert_int_equal(set_two(A, B), 0);
	assert_int_equal(t.begins, 1);
	assert_int_equal(t.ends, 1);
	assert_int_equal(t.in_force.n, 2);
	assert_int_equal(set_two(B, C), 0);
	assert_int_equal(t.begins, 2);
	assert_true(reaches(2 * PAGE) && reaches(3 * PAGE) && !reaches(PAGE));
	/* The same memory is no change. */
	assert_int_equal(set_two(B, C), 0);
	assert_int_equal(t.begins, 2);
	assert_int_equal(set(&user, NULL, 0), 0);
	assert_int_equal(t.begins, 3);
	assert_int_equal(t.in_force.n, 0);
}

static void
an_end_that_fails_takes_the_change_back(void **state)
{
	assert_int_equal(set_two(A, B), 0);
	t.end_fails = 1;
	assert_int_equal(set_two(B, C), -EIO);
	assert_string_equal(vdpa_error_message(), "as the test has it");
	assert_false(vdpa_dma_is_broken(user.user));
	assert_int_equal(t.in_force.n, 2);
	assert_true(reaches(PAGE) && reaches(2 * PAGE));
	assert_int_equal(t.begins, t.ends);
	assert_int_equal(set_two(B, C), 0);
	assert_true(reaches(2 * PAGE) && reaches(3 * PAGE));
}

static void
a_map_that_fails_ends_the_batch(void **state)
{
	assert_int_equal(set_two(A, B), 0);
	t.map_fails = 1;
	assert_int_equal(set_two(B, C), -EIO);
	assert_int_equal(t.in_force.n, 2);
	assert_true(reaches(PAGE) && reaches(2 * PAGE));
	assert_false(vdpa_dma_is_broken(user.user));
}

static void
what_cannot_be_taken_back_is_put_in_force_later(void **state)
{
	assert_int_equal(set_two(A, B), 0);
	t.end_fails = 2;
	assert_int_equal(set_two(B, C), -EIO);
	assert_true(vdpa_dma_is_broken(user.user));
	/* Before the device runs again. */
	t.end_fails = 1;
	assert_int_equal(vdpa_dma_set_running(user.user, true), -EIO);
	assert_int_equal(vdpa_dma_set_running(user.user, true), 0);
	assert_false(vdpa_dma_is_broken(user.user));
	assert_true(reaches(PAGE) && reaches(2 * PAGE) && t.in_force.n == 2);
}

static void
no_memory_is_tried_again_before_other_memory_comes(void **state)
{
	assert_int_equal(set_two(A, B), 0);
	t.end_fails = 2;
	assert_int_equal(set(&user, NULL, 0), -EIO);
	assert_int_equal(t.in_force.n, 2);
	/* The next guest's would come beside the last one's. */
	assert_int_equal(set_two(B, C), -EIO);
	assert_int_equal(t.in_force.n, 2);
	assert_int_equal(set_two(B, C), 0);
	assert_true(reaches(2 * PAGE) && reaches(3 * PAGE) && t.in_force.n == 2);
	/* A transport that begins nothing unmaps all the same. */
	t.begin_fails = 1;
	assert_int_equal(set_two(A, B), -EIO);
	t.begin_fails = 1;
	assert_int_equal(set(&user, NULL, 0), 0);
	assert_int_equal(t.in_force.n, 0);
}

int
main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		test(a_change_is_one_batch),
		test(an_end_that_fails_takes_the_change_back),
		test(a_map_that_fails_ends_the_batch),
		test(what_cannot_be_taken_back_is_put_in_force_later),
		test(no_memory_is_tried_again_before_other_memory_comes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
