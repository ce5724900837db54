/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A driver's table of ops, built against this version of the header, an older or a later one. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device_priv.h"
#include "fake_device.h"
#include "op.h"

/* Three versions of a table. */
struct first {
	size_t size;
	void *a;
};

struct second {
	size_t size;
	void *a, *b;
};

struct third {
	size_t size;
	void *a, *b, *c;
};

static int a, b, c;

static int
copy(struct second *to, const void *from)
{
	memset(to, 0xee, sizeof(*to));
	return vdpa_ops_copy(to, sizeof(*to), from, sizeof(struct first), "net0");
}

static void
an_older_table_lacks_what_came_later(void **state)
{
	const struct first old = {.size = sizeof(old), .a = &a};
	const struct second same = {.size = sizeof(same), .a = &a, .b = &b};
	struct second got;

	assert_int_equal(copy(&got, &old), 0);
	assert_ptr_equal(got.a, &a);
	assert_null(got.b);
	assert_int_equal(got.size, sizeof(got));
	assert_int_equal(copy(&got, &same), 0);
	assert_ptr_equal(got.b, &b);
}

static void
a_later_table_is_taken_where_it_needs_nothing_later(void **state)
{
	struct third later = {.size = sizeof(later), .a = &a, .b = &b};
	struct second got;

	assert_int_equal(copy(&got, &later), 0);
	assert_ptr_equal(got.b, &b);
	later.c = &c;
	assert_int_equal(copy(&got, &later), -E2BIG);
	assert_string_equal(vdpa_error_message(),
			    "net0: the driver has ops of a later version, behind byte 24 of 32: "
			    "install the libuvdpa that it was built for");
}

static void
a_table_without_its_size_is_refused(void **state)
{
	static const size_t sizes[] = {0, sizeof(size_t), sizeof(struct first) - 1};
	struct first bad = {.a = &a};
	struct second got;

	for (unsigned int i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		bad.size = sizes[i];
		assert_int_equal(copy(&got, &bad), -EINVAL);
		assert_non_null(strstr(vdpa_error_message(), "set its size to sizeof"));
	}
}

static void
refused(const struct vdpa_config_ops *ops, int err, const char *text)
{
	errno = 0;
	assert_null(vdpa_alloc_device_size(sizeof(struct fake_device), "dev0", ops));
	assert_int_equal(errno, err);
	if (strstr(vdpa_error_message(), text) == NULL)
		fail_msg("'%s' does not say '%s'", vdpa_error_message(), text);
}

static void
a_device_keeps_a_copy_of_its_ops(void **state)
{
	struct fake_device *fake = fake_device_new("dev0", true);
	struct {
		struct vdpa_config_ops ops;
		void *later;
	} table = {.ops = *fake->vdev.config};
	struct vdpa_device *vdev;

	assert_ptr_equal(fake->vdev.config, &fake->vdev.core->ops);
	table.ops.free = NULL;
	table.ops.size = sizeof(table);
	vdev = vdpa_alloc_device_size(sizeof(struct fake_device), "dev1", &table.ops);
	assert_non_null(vdev);
	table.ops.set_vq_kick = NULL;
	assert_non_null(vdev->config->set_vq_kick);
	vdpa_put_device(vdev);
	vdpa_put_device(&fake->vdev);

	table.later = &table;
	refused(&table.ops, E2BIG, "dev0: the driver has ops of a later version");
	table.ops.size = 0;
	refused(&table.ops, EINVAL, "dev0: the driver's table of ops has a size of 0 bytes");
	/* The first version had all ops up to this one. */
	table.ops.size = offsetof(struct vdpa_config_ops, free);
	refused(&table.ops, EINVAL, "dev0: the driver's table of ops has a size of");
	table.ops.size = sizeof(table.ops);
	table.ops.reset = NULL;
	refused(&table.ops, EINVAL, "dev0: the driver lacks reset");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_older_table_lacks_what_came_later),
		cmocka_unit_test(a_later_table_is_taken_where_it_needs_nothing_later),
		cmocka_unit_test(a_table_without_its_size_is_refused),
		cmocka_unit_test(a_device_keeps_a_copy_of_its_ops),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
