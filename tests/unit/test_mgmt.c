/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Management: parents that somebody names are there as long as a device needs them, what is done
 * with one device holds up no other, and costs the same however many there are.
 */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include "test_util.h"

#include "bus.h"
#include "device_priv.h"
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

/* What is done with the device "slow" waits here while the gate is closed. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t opened;
	bool closed;
	unsigned int waiting;
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER};

static void
pass_gate(void *arg)
{
	pthread_mutex_lock(&gate.lock);
	gate.waiting++;
	while (gate.closed)
		pthread_cond_wait(&gate.opened, &gate.lock);
	gate.waiting--;
	pthread_mutex_unlock(&gate.lock);
}

static void
set_gate(bool closed)
{
	pthread_mutex_lock(&gate.lock);
	gate.closed = closed;
	pthread_cond_broadcast(&gate.opened);
	pthread_mutex_unlock(&gate.lock);
}

static bool
somebody_waits(void)
{
	unsigned int n;

	pthread_mutex_lock(&gate.lock);
	n = gate.waiting;
	pthread_mutex_unlock(&gate.lock);
	return n > 0;
}

/* A call in a thread of its own. */
struct call {
	pthread_t thread;
	int (*fn)(const char *text);
	const char *text;
	int rc;
	bool done; /* atomic */
};

static void *
run_call(void *arg)
{
	struct call *call = arg;

	call->rc = call->fn(call->text);
	__atomic_store_n(&call->done, true, __ATOMIC_SEQ_CST);
	return NULL;
}

static void
begin(int (*fn)(const char *text), const char *text, struct call *call)
{
	*call = (struct call){.fn = fn, .text = text};
	assert_int_equal(pthread_create(&call->thread, NULL, run_call, call), 0);
}

static int
end(struct call *call)
{
	assert_int_equal(pthread_join(call->thread, NULL), 0);
	return call->rc;
}

/* Counted: comparisons of names, and devices that are taken up. */
static unsigned int compared, taken;

int __real_strcmp(const char *a, const char *b);
int __wrap_strcmp(const char *a, const char *b);
void __real_vdpa_get_device(struct vdpa_device *vdev);
void __wrap_vdpa_get_device(struct vdpa_device *vdev);

int
__wrap_strcmp(const char *a, const char *b)
{
	__atomic_add_fetch(&compared, 1, __ATOMIC_RELAXED);
	return __real_strcmp(a, b);
}

void
__wrap_vdpa_get_device(struct vdpa_device *vdev)
{
	__atomic_add_fetch(&taken, 1, __ATOMIC_RELAXED);
	__real_vdpa_get_device(vdev);
}

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
	if (strcmp(name, "slow") == 0)
		pass_gate(NULL);
	if (open_result < 0)
		return vdpa_error(open_result, "%s: nobody is at home", mdev->name);
	fake = fake_device_new(name, false);
	if (fake == NULL)
		return vdpa_error(EINVAL, "%s", vdpa_error_message());
	fake->vdev.mdev = mdev;
	rc = vdpa_register_device(&fake->vdev);
	if (strcmp(name, "slow") == 0)
		fake->on_reset = pass_gate;
	if (rc < 0)
		vdpa_put_device(&fake->vdev);
	return rc;
}

static void
parent_dev_del(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdev)
{
	if (strcmp(vdev->name, "slow") == 0)
		pass_gate(NULL);
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

static bool
shows(const char *name, const char *what)
{
	char *text = vdpa_dev_show(name);
	bool found = text != NULL && strstr(text, what) != NULL;

	free(text);
	return found;
}

/* Everything that can be done while something goes on with "slow". */
static void
others_keep_working(void)
{
	assert_int_equal(vdpa_dev_check("name other mgmtdev " PREFIX "1 depth 3"), 0);
	assert_int_equal(vdpa_dev_add("name other mgmtdev " PREFIX "1"), 0);
	assert_int_equal(vdpa_dev_add("name another mgmtdev " PREFIX "2"), 0);
	assert_int_equal(vdpa_dev_add("name net mgmtdev sim_net"), 0);
	assert_int_equal(vdpa_dev_set("net link down"), 0);
	assert_true(shows("net", "\"link\":\"down\""));
	assert_true(shows("other", "\"state\":\"idle\""));
	assert_true(shows(NULL, "\"another\":{"));
	assert_true(shows(NULL, "\"slow\":{"));
	assert_int_equal(vdpa_dev_del("net"), 0);
	assert_int_equal(vdpa_dev_del("another"), 0);
	assert_int_equal(vdpa_dev_del("other"), 0);
	assert_non_null(any_parent());
}

static void
is_busy(const char *what)
{
	assert_int_equal(vdpa_dev_add("name slow mgmtdev " PREFIX "1"), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), what));
	assert_int_equal(vdpa_dev_del("slow"), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), what));
	assert_int_equal(vdpa_dev_set("slow link up"), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), what));
}

static void
what_is_added_holds_up_nobody(void **state)
{
	struct call add;

	set_gate(true);
	begin(vdpa_dev_add, "name slow mgmtdev " PREFIX "1", &add);
	EVENTUALLY(somebody_waits());
	assert_true(shows("slow", "\"state\":\"adding\""));
	assert_true(shows("slow", "\"mgmtdev\":\"" PREFIX "1\""));
	is_busy("device 'slow': is being added");
	others_keep_working();
	assert_false(__atomic_load_n(&add.done, __ATOMIC_SEQ_CST));
	set_gate(false);
	assert_int_equal(end(&add), 0);
	assert_true(shows("slow", "\"state\":\"idle\""));
	assert_int_equal(vdpa_dev_add("name slow mgmtdev " PREFIX "1"), -EEXIST);
	assert_int_equal(vdpa_dev_del("slow"), 0);
	assert_null(any_parent());
}

static void
what_is_removed_holds_up_nobody(void **state)
{
	struct call del;

	assert_int_equal(vdpa_dev_add("name slow mgmtdev " PREFIX "1"), 0);
	set_gate(true);
	begin(vdpa_dev_del, "slow", &del);
	EVENTUALLY(somebody_waits());
	assert_true(shows("slow", "\"state\":\"removing\""));
	is_busy("device 'slow': is being removed");
	others_keep_working();
	set_gate(false);
	assert_int_equal(end(&del), 0);
	assert_int_equal(vdpa_dev_del("slow"), -ENODEV);
	assert_null(any_parent());
}

static int
reset_device(const char *name)
{
	struct vdpa_device *vdev = vdpa_find_device(name);
	int rc = vdpa_reset(vdev);

	vdpa_put_device(vdev);
	return rc;
}

/* An op waits for its device, with the device's lock held. */
static void
a_device_that_is_stuck_holds_up_nobody(void **state)
{
	struct fake_device *fake;
	struct call reset;
	unsigned int reads;

	assert_int_equal(vdpa_dev_add("name slow mgmtdev " PREFIX "1"), 0);
	fake = (struct fake_device *)vdpa_find_device("slow");
	set_gate(true);
	begin(reset_device, "slow", &reset);
	EVENTUALLY(somebody_waits());
	reads = fake->config_reads;
	for (unsigned int i = 0; i < 100; i++)
		assert_true(shows("slow", "\"state\":\"idle\""));
	assert_int_equal(fake->config_reads, reads);
	others_keep_working();
	assert_false(__atomic_load_n(&reset.done, __ATOMIC_SEQ_CST));
	set_gate(false);
	assert_int_equal(end(&reset), 0);
	vdpa_put_device(&fake->vdev);
	assert_int_equal(vdpa_dev_del("slow"), 0);
}

/* Front ends. */

static unsigned int served, unserved;
static int serve_result;

static int
serve(struct vdpa_device *vdev, const struct vdpa_args *args)
{
	assert_null(vdev->core->fe);
	pass_gate(NULL);
	assert_null(vdev->core->fe);
	served += serve_result == 0;
	return serve_result < 0 ? vdpa_error(serve_result, "%s: cannot be served", vdev->name) : 0;
}

static void
unserve(struct vdpa_device *vdev)
{
	unserved++;
}

static const struct vdpa_frontend_ops serve_ops = {.probe = serve, .remove = unserve};
static struct vdpa_frontend server = {
	.name = "server", .help = "a front end", .ops = &serve_ops, .params = params + 1};

static void
a_front_end_is_the_devices_once_it_serves_it(void **state)
{
	struct call add;

	served = unserved = 0;
	serve_result = 0;
	assert_int_equal(vdpa_register_frontend(&server), 0);
	set_gate(true);
	begin(vdpa_dev_add, "name a mgmtdev " PREFIX "1 frontend server", &add);
	EVENTUALLY(somebody_waits());
	assert_true(shows("a", "\"state\":\"adding\""));
	assert_true(shows("a", "\"frontend\":\"server\""));
	set_gate(false);
	assert_int_equal(end(&add), 0);
	assert_int_equal(vdpa_dev_del("a"), 0);
	assert_int_equal(served, 1);
	assert_int_equal(unserved, 1);
	/* One that does not take it is not asked to give it back. */
	serve_result = -EPERM;
	assert_int_equal(vdpa_dev_add("name a mgmtdev " PREFIX "1 frontend server"), -EPERM);
	assert_string_equal(vdpa_error_message(), "a: cannot be served");
	assert_int_equal(unserved, 1);
	vdpa_unregister_frontend(&server);
	assert_null(any_parent());
}

static void *
unregister_server(void *arg)
{
	vdpa_unregister_frontend(&server);
	return NULL;
}

/* It cannot go while a device is being given to it. */
static void
a_front_end_that_goes_waits_for_what_is_added(void **state)
{
	struct call add;
	pthread_t thread;

	served = unserved = 0;
	serve_result = 0;
	assert_int_equal(vdpa_register_frontend(&server), 0);
	set_gate(true);
	begin(vdpa_dev_add, "name a mgmtdev " PREFIX "1 frontend server", &add);
	EVENTUALLY(somebody_waits());
	assert_int_equal(pthread_create(&thread, NULL, unregister_server, NULL), 0);
	EVENTUALLY(vdpa_dev_check("name b mgmtdev sim_net frontend server") == -EINVAL);
	set_gate(false);
	assert_int_equal(end(&add), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(served, 1);
	assert_int_equal(unserved, 1);
	assert_int_equal(vdpa_dev_del("a"), -ENODEV);
}

static void *
finish(void *arg)
{
	vdpa_mgmt_fini();
	return NULL;
}

static void
the_end_waits_for_what_is_added_and_removed(void **state)
{
	struct call add, del;
	pthread_t thread;

	assert_int_equal(vdpa_dev_add("name gone mgmtdev sim_net"), 0);
	set_gate(true);
	begin(vdpa_dev_add, "name slow mgmtdev " PREFIX "1", &add);
	EVENTUALLY(somebody_waits());
	assert_int_equal(pthread_create(&thread, NULL, finish, NULL), 0);
	/* Once it has begun nothing more is added. */
	EVENTUALLY(vdpa_dev_add("name late mgmtdev sim_net") == -ESHUTDOWN);
	set_gate(false);
	assert_int_equal(end(&add), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_null(vdpa_find_device("slow"));
	assert_null(vdpa_find_device("gone"));
	assert_int_equal(vdpa_mgmt_init(), 0);
	/* Its driver stays registered. */
	assert_int_equal(vdpa_register_driver(&driver), -EEXIST);
	assert_int_equal(vdpa_dev_add("name slow mgmtdev " PREFIX "1"), 0);
	set_gate(true);
	begin(vdpa_dev_del, "slow", &del);
	EVENTUALLY(somebody_waits());
	assert_int_equal(pthread_create(&thread, NULL, finish, NULL), 0);
	set_gate(false);
	assert_int_equal(end(&del), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(vdpa_mgmt_init(), 0);
}

/* Costs. */

static void
add_and_count(unsigned int i, unsigned int *n_compared, unsigned int *n_taken)
{
	char words[128];

	snprintf(words, sizeof(words), "name dev%u mgmtdev " PREFIX "%u", i, i);
	compared = taken = 0;
	assert_int_equal(vdpa_dev_add(words), 0);
	*n_compared = compared;
	*n_taken = taken;
}

/* One more device is found, made and shown with some comparisons more for twice as many of them. */
static void
a_device_costs_the_same_however_many_there_are(void **state)
{
	/* Some eight times a name is looked for, in a tree of 2 to the 9th. */
	enum { DEVICES = 500, MORE = 8 * 12 };

	unsigned int first[2], last[2];
	char name[16];

	add_and_count(0, &first[0], &first[1]);
	for (unsigned int i = 1; i < DEVICES; i++)
		add_and_count(i, &last[0], &last[1]);
	assert_in_range(last[0], 1, first[0] + MORE);
	assert_int_equal(last[1], first[1]);
	snprintf(name, sizeof(name), "dev%u", DEVICES - 1);
	compared = taken = 0;
	assert_true(shows(name, "idle"));
	assert_in_range(compared, 1, MORE);
	compared = taken = 0;
	assert_int_equal(vdpa_dev_del(name), 0);
	assert_in_range(compared, 1, MORE);
	assert_in_range(taken, 1, 1);
	for (unsigned int i = 0; i < DEVICES - 1; i++) {
		snprintf(name, sizeof(name), "dev%u", i);
		assert_int_equal(vdpa_dev_del(name), 0);
	}
	assert_null(any_parent());
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
		TEST(what_is_added_holds_up_nobody),
		TEST(what_is_removed_holds_up_nobody),
		TEST(a_device_that_is_stuck_holds_up_nobody),
		TEST(a_front_end_is_the_devices_once_it_serves_it),
		TEST(a_front_end_that_goes_waits_for_what_is_added),
		TEST(the_end_waits_for_what_is_added_and_removed),
		TEST(a_device_costs_the_same_however_many_there_are),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
