/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The words that a device is made of: kept as they were given, changed by what is set, and compared
 * by what they mean.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bus.h"
#include "event_loop_priv.h"
#include "fake_device.h"
#include "mgmt.h"
#include "vdpa.h"

#define MGMTDEV "fake"

static const struct vdpa_param_choice links[] = {{.name = "up"}, {.name = "down"}, {.name = NULL}};
static const struct vdpa_param_choice ends[] = {
	{.name = "none"},
	{.name = "ram", .metavar = "SIZE", .type = VDPA_PARAM_SIZE, .min = 1, .max = UINT64_MAX},
	{.name = "file", .metavar = "PATH", .type = VDPA_PARAM_STRING},
	{.name = NULL},
};

/* clang-format off */
#define DEPTH {.name = "depth", .type = VDPA_PARAM_UINT, .metavar = "N", .max = 99}
#define LINK {.name = "link", .type = VDPA_PARAM_CHOICE, .choices = links, .dflt = "up"}
/* clang-format on */

static const struct vdpa_param params[] = {
	DEPTH,
	LINK,
	{.name = "hwaddr", .type = VDPA_PARAM_MAC, .metavar = "MAC"},
	{.name = "end", .type = VDPA_PARAM_CHOICE, .choices = ends},
	{.name = "label", .type = VDPA_PARAM_STRING, .metavar = "TEXT"},
	{.name = "plain", .type = VDPA_PARAM_FLAG},
	{.name = NULL},
};
static const struct vdpa_param attr_params[] = {
	DEPTH,
	LINK,
	{.name = "poke", .type = VDPA_PARAM_FLAG},
	{.name = NULL},
};

static int set_result;

static int
fake_add(struct vdpa_mgmt_dev *mdev, const char *name, const struct vdpa_args *args)
{
	struct fake_device *fake = fake_device_new(name, false);
	int rc;

	assert_non_null(fake);
	fake->vdev.mdev = mdev;
	rc = vdpa_register_device(&fake->vdev);
	if (rc < 0)
		vdpa_put_device(&fake->vdev);
	return rc;
}

static void
fake_del(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdev)
{
	vdpa_unregister_device(vdev);
	vdpa_put_device(vdev);
}

static int
fake_set(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdev, const struct vdpa_args *args)
{
	return set_result < 0 ? vdpa_error(set_result, "%s: will not", vdev->name) : 0;
}

static const struct vdpa_mgmt_dev_ops ops = {
	.dev_add = fake_add, .dev_del = fake_del, .dev_set_attr = fake_set};
static struct vdpa_mgmt_dev mgmtdev = {
	.name = MGMTDEV, .help = "", .ops = &ops, .params = params, .attr_params = attr_params};

static void
assert_words(const char *name, const char *words)
{
	char *text = vdpa_dev_words(name, NULL);

	assert_non_null(text);
	assert_string_equal(text, words);
	free(text);
}

static void
words_are_kept_as_they_were_given(void **state)
{
	static const char words[] =
		"mgmtdev fake name a end ram 64K hwaddr 52:54:00:aB:00:01 plain depth 0x7 "
		"label \"two  words\"";

	assert_int_equal(vdpa_dev_add(words), 0);
	assert_words("a", words);
	assert_int_equal(vdpa_dev_add(" name  b\tmgmtdev \"fake\"  link down end file \"/a b\" "),
			 0);
	assert_words("b", "name b mgmtdev fake link down end file \"/a b\"");
	assert_int_equal(vdpa_dev_del("b"), 0);
	assert_int_equal(vdpa_dev_del("a"), 0);
}

static void
what_is_set_is_kept_and_what_is_done_is_not(void **state)
{
	assert_int_equal(vdpa_dev_add("name a mgmtdev fake depth 3 plain"), 0);
	assert_int_equal(vdpa_dev_set("a depth 9 poke"), 0);
	assert_words("a", "name a mgmtdev fake depth 9 plain");
	assert_int_equal(vdpa_dev_set("a link down"), 0);
	assert_words("a", "name a mgmtdev fake depth 9 plain link down");
	/* What fails changes nothing. */
	set_result = -EIO;
	assert_int_equal(vdpa_dev_set("a link up depth 4"), -EIO);
	set_result = 0;
	assert_int_equal(vdpa_dev_set("a depth 100"), -EINVAL);
	assert_words("a", "name a mgmtdev fake depth 9 plain link down");
	assert_int_equal(vdpa_dev_del("a"), 0);
}

static void
a_device_that_is_added_again_is_another(void **state)
{
	uint64_t first = 0, set = 0, second = 0;

	assert_int_equal(vdpa_dev_add("name a mgmtdev fake"), 0);
	free(vdpa_dev_words("a", &first));
	assert_int_equal(vdpa_dev_set("a depth 1"), 0);
	free(vdpa_dev_words("a", &set));
	assert_int_equal(first, set);
	assert_int_equal(vdpa_dev_del("a"), 0);
	assert_null(vdpa_dev_words("a", &first));
	assert_int_equal(errno, ENODEV);
	assert_int_equal(vdpa_dev_add("name a mgmtdev fake"), 0);
	free(vdpa_dev_words("a", &second));
	assert_int_not_equal(first, second);
	assert_int_equal(vdpa_dev_del("a"), 0);
}

static int
collect(const char *name, uint64_t id, const char *words, void *arg)
{
	strcat(strcat(arg, words), ";");
	/* No lock is held. */
	return strcmp(name, "b") == 0 ? vdpa_dev_del("c") : 0;
}

static void
devices_are_listed_in_their_order_and_may_change_meanwhile(void **state)
{
	char all[256] = "";
	struct vdpa_dev_counts counts;

	assert_int_equal(vdpa_dev_add("name b mgmtdev fake"), 0);
	assert_int_equal(vdpa_dev_add("name c mgmtdev fake"), 0);
	assert_int_equal(vdpa_dev_add("name a mgmtdev fake"), 0);
	vdpa_dev_count(&counts);
	assert_int_equal(counts.devices, 3);
	assert_int_equal(counts.states[VDPA_STATE_IDLE], 3);
	assert_int_equal(vdpa_dev_words_each(collect, all), 0);
	assert_string_equal(all, "name b mgmtdev fake;name a mgmtdev fake;");
	assert_true(vdpa_dev_exists("a"));
	assert_false(vdpa_dev_exists("c"));
	assert_int_equal(vdpa_dev_del("a"), 0);
	assert_int_equal(vdpa_dev_del("b"), 0);
}

static bool
look_from_inside(const struct vdpa_bus_entry *e, void *arg)
{
	/* The bus lock is held, as where a line of the log is written. */
	*(bool *)arg = vdpa_dev_exists(e->name) && !vdpa_dev_exists("other");
	return true;
}

static void
a_name_is_looked_up_with_the_bus_locked(void **state)
{
	bool found = false;

	assert_int_equal(vdpa_dev_add("name a mgmtdev fake"), 0);
	vdpa_bus_for_each(look_from_inside, &found);
	assert_true(found);
	assert_int_equal(vdpa_dev_del("a"), 0);
}

static void
the_device_of_an_application_has_no_words(void **state)
{
	struct fake_device *fake = fake_device_new("a", false);

	assert_int_equal(vdpa_register_device(&fake->vdev), 0);
	assert_null(vdpa_dev_words("a", NULL));
	assert_int_equal(errno, EOPNOTSUPP);
	vdpa_unregister_device(&fake->vdev);
	vdpa_put_device(&fake->vdev);
}

#define A "name a mgmtdev fake "

static void
words_that_mean_the_same_are_the_same(void **state)
{
	static const char *const same[][2] = {
		{A, A},
		{A "depth 7 plain", A "plain depth 0x7"},
		{A "end ram 64K", "mgmtdev fake name a end ram 65536"},
		{A "hwaddr 52:54:00:ab:00:01", A "hwaddr 52:54:00:AB:00:01"},
		{A "label \"x\"", A "label x"},
		{A "link up", A},
		{A "socket /a", A "frontend vhost-user socket /a"},
		{A "socket /a mode 0600", A "socket /a mode 600"},
	};

	for (unsigned int i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
		assert_int_equal(vdpa_words_compare(same[i][0], same[i][1], NULL), VDPA_WORDS_SAME);
		assert_int_equal(vdpa_words_compare(same[i][1], same[i][0], NULL), VDPA_WORDS_SAME);
	}
}

static void
what_dev_set_can_change_is_told_with_the_words_for_it(void **state)
{
	static const char *const settable[][3] = {
		{A "depth 1", A "depth 2", "a depth 2"},
		{A, A "depth 2", "a depth 2"},
		{A, A "link down", "a link down"},
		/* The default is written out. */
		{A "link down", A, "a link up"},
		{A "plain link down depth 1", A "link up depth 0x1 plain", "a link up"},
		{A "depth 1 link up", A "link down depth 2", "a link down depth 2"},
	};

	for (unsigned int i = 0; i < sizeof(settable) / sizeof(settable[0]); i++) {
		char *set = NULL;

		assert_int_equal(vdpa_words_compare(settable[i][0], settable[i][1], &set),
				 VDPA_WORDS_SETTABLE);
		assert_string_equal(set, settable[i][2]);
		free(set);
	}
}

static void
what_it_cannot_change_needs_another_device(void **state)
{
	static const char *const other[][2] = {
		{A "hwaddr 52:54:00:ab:00:01", A "hwaddr 52:54:00:ab:00:02"},
		{A "end ram 64K", A "end ram 64M"},
		{A "end none", A "end file none"},
		{A "plain", A},
		{A, A "plain"},
		/* Without a default there is nothing to set it back to. */
		{A "depth 1", A},
		{A, A "socket /a"},
		{A "socket /a", A "socket /b"},
		{A "label x", A "label X"},
		{A, "name a mgmtdev sim_net"},
		{A, "name b mgmtdev fake"},
		{A "depth 1 plain", A "depth 2"},
	};
	char *set = NULL;

	for (unsigned int i = 0; i < sizeof(other) / sizeof(other[0]); i++)
		assert_int_equal(vdpa_words_compare(other[i][0], other[i][1], &set),
				 VDPA_WORDS_OTHER);
	assert_null(set);
}

static void
words_that_are_wrong_are_refused_as_by_a_check(void **state)
{
	char name[VDPA_NAME_MAX];

	assert_int_equal(vdpa_words_compare(A, A "depth 100", NULL), -EINVAL);
	assert_int_equal(vdpa_words_compare(A "colour red", A, NULL), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "colour"));
	assert_int_equal(vdpa_words_compare(A, "name a mgmtdev none", NULL), -ENODEV);
	assert_int_equal(vdpa_dev_check_name(A "depth 9", name, sizeof(name)), 0);
	assert_string_equal(name, "a");
	assert_int_equal(vdpa_dev_check_name(A "depth 100", name, sizeof(name)), -EINVAL);
	/* They are to fit a line of a file. */
	assert_int_equal(vdpa_dev_check(A "label \"a\nb\""), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "control character 0x0a"));
}

static int
list_unique(const char *word, const char *value, void *arg)
{
	strcat(strcat(strcat(strcat(arg, word), "="), value), ";");
	return 0;
}

static void
what_no_second_device_may_have_is_listed(void **state)
{
	char all[256] = "";

	assert_int_equal(
		vdpa_words_unique(A "depth 1 label x socket \"/a b\" mode 0600", list_unique, all),
		0);
	assert_string_equal(all, "socket=/a b;");
	assert_int_equal(vdpa_words_unique(A "colour red", list_unique, all), -EINVAL);
}

static int
group_setup(void **state)
{
	int rc = vdpa_event_control_init();

	if (rc == 0)
		rc = vdpa_mgmt_init();
	return rc < 0 ? rc : vdpa_mgmtdev_register(&mgmtdev);
}

static int
group_teardown(void **state)
{
	vdpa_mgmtdev_unregister(&mgmtdev);
	vdpa_mgmt_fini();
	vdpa_event_control_fini();
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_are_kept_as_they_were_given),
		cmocka_unit_test(what_is_set_is_kept_and_what_is_done_is_not),
		cmocka_unit_test(a_device_that_is_added_again_is_another),
		cmocka_unit_test(devices_are_listed_in_their_order_and_may_change_meanwhile),
		cmocka_unit_test(a_name_is_looked_up_with_the_bus_locked),
		cmocka_unit_test(the_device_of_an_application_has_no_words),
		cmocka_unit_test(words_that_mean_the_same_are_the_same),
		cmocka_unit_test(what_dev_set_can_change_is_told_with_the_words_for_it),
		cmocka_unit_test(what_it_cannot_change_needs_another_device),
		cmocka_unit_test(what_no_second_device_may_have_is_listed),
		cmocka_unit_test(words_that_are_wrong_are_refused_as_by_a_check),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
