/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Management devices of parents that somebody names: there as long as a device needs them. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "event_loop_priv.h"
#include "fake_device.h"
#include "mgmt.h"

#define PREFIX "fake-bus/"
#define PATH107                                                                                    \
	"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567" \
	"890123456789012345"                                                                       \
	"x"

static unsigned int probed, opened, released;
static int open_result;

static const struct vdpa_param params[] = {
	{.name = "depth", .type = VDPA_PARAM_UINT, .metavar = "N", .max = 9, .help = "how deep"},
	{.name = NULL},
};

static int
parent_dev_add(struct vdpa_mgmt_dev *mdev, const char *name, const struct vdpa_args *args)
{
	struct fake_device *fake;
	int rc;

	opened++;
	if (open_result < 0)
		return vdpa_error(open_result, "%s: nobody is at home", mdev->name);
	fake = fake_device_new(name, false);
	if (fake == NULL)
		return vdpa_error(EINVAL, "%s", vdpa_error_message());
	fake->vdev.mdev = mdev;
	rc = vdpa_register_device(&fake->vdev);
	if (rc < 0)
		vdpa_put_device(&fake->vdev);
	return rc;
}

static void
parent_dev_del(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdev)
{
	vdpa_unregister_device(vdev);
	vdpa_put_device(vdev);
}

static const struct vdpa_mgmt_dev_ops parent_ops = {.dev_add = parent_dev_add,
						    .dev_del = parent_dev_del};

static int
parent_probe(struct vdpa_driver *drv, const char *parent)
{
	struct vdpa_mgmt_dev *mdev;
	int rc;

	if (strcmp(parent, PREFIX "other") == 0)
		return -ENODEV;
	probed++;
	mdev = calloc(1, sizeof(*mdev));
	*mdev = (struct vdpa_mgmt_dev){
		.name = strdup(parent), .help = "a parent", .ops = &parent_ops, .params = params};
	rc = vdpa_mgmtdev_register(mdev);
	assert_int_equal(rc, 0);
	return rc;
}

static void
parent_release(struct vdpa_driver *drv, struct vdpa_mgmt_dev *mdev)
{
	released++;
	vdpa_mgmtdev_unregister(mdev);
	free((void *)(uintptr_t)mdev->name);
	free(mdev);
}

static int
collect_parent(struct vdpa_mgmt_dev *mdev, void *arg)
{
	*(struct vdpa_mgmt_dev **)arg = mdev;
	return mdev->ops == &parent_ops;
}

static struct vdpa_mgmt_dev *
any_parent(void)
{
	struct vdpa_mgmt_dev *mdev;

	return vdpa_mgmtdev_for_each(collect_parent, &mdev) != 0 ? mdev : NULL;
}

static void
parent_remove(struct vdpa_driver *drv)
{
	while (any_parent() != NULL)
		parent_release(drv, any_parent());
}

static const char *const matches[] = {PREFIX "*", NULL};
static struct vdpa_driver driver = {.name = "fake",
				    .match = matches,
				    .help = "a parent by its name",
				    .params = params,
				    .probe = parent_probe,
				    .release = parent_release,
				    .remove = parent_remove};

static int
setup(void **state)
{
	probed = opened = released = 0;
	open_result = 0;
	return vdpa_register_driver(&driver);
}

static int
teardown(void **state)
{
	vdpa_unregister_driver(&driver);
	assert_int_equal(probed, released);
	return 0;
}

static void
words_are_checked_without_opening_the_parent(void **state)
{
	assert_int_equal(vdpa_dev_check("name a mgmtdev " PREFIX "1 depth 3"), 0);
	assert_int_equal(vdpa_dev_check("name a mgmtdev " PREFIX "1 depth 10"), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "depth"));
	assert_int_equal(vdpa_dev_check("name a mgmtdev " PREFIX "1 width 3"), -EINVAL);
	assert_int_equal(probed, 3);
	assert_int_equal(opened, 0);
	assert_null(any_parent());
}

static void
a_parent_is_there_as_long_as_it_has_devices(void **state)
{
	char *text;

	assert_int_equal(vdpa_dev_add("name a mgmtdev " PREFIX "1"), 0);
	assert_int_equal(vdpa_dev_add("name b mgmtdev " PREFIX "1"), 0);
	assert_int_equal(probed, 1);
	text = vdpa_mgmtdev_show();
	assert_non_null(strstr(text, "\"" PREFIX "1\""));
	free(text);
	/* Checking words, and a name in use, do not take it away. */
	assert_int_equal(vdpa_dev_check("name c mgmtdev " PREFIX "1"), 0);
	assert_int_equal(vdpa_dev_add("name a mgmtdev " PREFIX "1"), -EEXIST);
	assert_int_equal(vdpa_dev_del("a"), 0);
	assert_non_null(any_parent());
	assert_int_equal(vdpa_dev_del("b"), 0);
	assert_null(any_parent());
}

static void
a_failed_add_leaves_no_parent_and_says_why(void **state)
{
	open_result = -ECONNREFUSED;
	for (unsigned int i = 0; i < 100; i++) {
		assert_int_equal(vdpa_dev_add("name a mgmtdev " PREFIX "1"), -ECONNREFUSED);
		assert_string_equal(vdpa_error_message(), PREFIX "1: nobody is at home");
		assert_null(any_parent());
	}
	open_result = 0;
	/* The front end refuses it: the folder is not there. */
	assert_int_not_equal(
		vdpa_dev_add("name a mgmtdev " PREFIX "1 socket /nonexistent/folder/a.sock"), 0);
	assert_null(any_parent());
	assert_null(vdpa_find_device("a"));
}

static void
parents_have_names_as_long_as_a_socket_path(void **state)
{
	assert_int_equal(strlen(PATH107), 107);
	assert_int_equal(vdpa_dev_add("name a mgmtdev " PREFIX PATH107 "y"), 0);
	assert_int_equal(strlen(any_parent()->name), VDPA_MGMTDEV_NAME_MAX - 1);
	assert_int_equal(vdpa_dev_del("a"), 0);
	assert_int_equal(vdpa_dev_check("name a mgmtdev " PREFIX PATH107 "yz"), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "up to 117"));
}

static void
an_unknown_parent_is_told_what_there_is(void **state)
{
	assert_int_equal(vdpa_dev_check("name a mgmtdev " PREFIX "other"), -ENODEV);
	assert_non_null(strstr(vdpa_error_message(), "sim_net"));
	assert_non_null(strstr(vdpa_error_message(), PREFIX "..."));
}

static void
help_tells_the_words_of_parents(void **state)
{
	char *text = vdpa_words_help();

	assert_non_null(strstr(text, "Management devices " PREFIX "...: a parent by its name"));
	assert_non_null(strstr(text, "how deep"));
	free(text);
}

static void
a_driver_that_keeps_its_parents_is_refused(void **state)
{
	struct vdpa_driver keeps = driver;

	keeps.release = NULL;
	assert_int_equal(vdpa_register_driver(&keeps), -EINVAL);
}

static int
group_setup(void **state)
{
	int rc = vdpa_event_control_init();

	return rc < 0 ? rc : vdpa_mgmt_init();
}

static int
group_teardown(void **state)
{
	vdpa_mgmt_fini();
	vdpa_event_control_fini();
	return 0;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(words_are_checked_without_opening_the_parent),
		TEST(a_parent_is_there_as_long_as_it_has_devices),
		TEST(a_failed_add_leaves_no_parent_and_says_why),
		TEST(parents_have_names_as_long_as_a_socket_path),
		TEST(an_unknown_parent_is_told_what_there_is),
		TEST(help_tells_the_words_of_parents),
		TEST(a_driver_that_keeps_its_parents_is_refused),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
