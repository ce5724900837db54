/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Who may do what with the control socket, and what a schema allows. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "right.h"
#include "schema.h"
#include "vdpa_error.h"

#define OWNER	    1000
#define STRANGER    1001
#define GROUP	    2000
#define READ_GROUP  2001
#define OTHER_GROUP 2002
#define NO_GROUP    ((gid_t)-1)

static const struct control_policy policy = {
	.owner = OWNER, .group = GROUP, .read_group = READ_GROUP};

static enum control_right
right_of(uid_t uid, gid_t gid, gid_t supplementary)
{
	struct control_cred cred = {
		.uid = uid, .gid = gid, .groups = &supplementary, .n_groups = 1};

	return control_right(&policy, &cred);
}

static void
root_and_the_owner_may_do_everything(void **state)
{
	assert_int_equal(right_of(0, 0, OTHER_GROUP), CONTROL_RIGHT_FULL);
	assert_int_equal(right_of(OWNER, OTHER_GROUP, OTHER_GROUP), CONTROL_RIGHT_FULL);
}

static void
a_member_may_do_what_its_group_may_by_whichever_of_its_groups(void **state)
{
	assert_int_equal(right_of(STRANGER, GROUP, OTHER_GROUP), CONTROL_RIGHT_FULL);
	assert_int_equal(right_of(STRANGER, OTHER_GROUP, GROUP), CONTROL_RIGHT_FULL);
	assert_int_equal(right_of(STRANGER, READ_GROUP, OTHER_GROUP), CONTROL_RIGHT_READ);
	assert_int_equal(right_of(STRANGER, OTHER_GROUP, READ_GROUP), CONTROL_RIGHT_READ);
	/* Of both: the most. */
	assert_int_equal(right_of(STRANGER, READ_GROUP, GROUP), CONTROL_RIGHT_FULL);
}

static void
nobody_else_may_do_anything(void **state)
{
	const struct control_policy alone = {
		.owner = OWNER, .group = NO_GROUP, .read_group = NO_GROUP};
	struct control_cred cred = {.uid = STRANGER, .gid = NO_GROUP};

	assert_int_equal(right_of(STRANGER, OTHER_GROUP, OTHER_GROUP), CONTROL_RIGHT_NONE);
	/* The group of root is no right of its own. */
	assert_int_equal(right_of(STRANGER, 0, 0), CONTROL_RIGHT_NONE);
	assert_int_equal(control_right(&alone, &cred), CONTROL_RIGHT_NONE);
}

static void
the_user_that_stands_for_those_of_other_namespaces_is_nobody(void **state)
{
	const struct control_policy overflow = {
		.owner = 65534, .group = NO_GROUP, .read_group = NO_GROUP};
	struct control_cred cred = {.uid = 65534, .gid = 65534};

	assert_int_equal(control_right(&overflow, &cred), CONTROL_RIGHT_NONE);
}

static void
the_kernel_says_who_is_connected(void **state)
{
	struct control_cred cred;
	gid_t groups[256];
	int fds[2], n = getgroups(256, groups);

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(control_cred_get(fds[0], &cred), 0);
	assert_int_equal(cred.uid, geteuid());
	assert_int_equal(cred.gid, getegid());
	assert_int_equal(cred.pid, getpid());
	assert_int_equal(cred.n_groups, n);
	control_cred_free(&cred);
	close(fds[0]);
	close(fds[1]);
	assert_true(control_cred_get(fds[0], &cred) < 0);
}

static json_t *
json(const char *text)
{
	json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);

	assert_non_null(value);
	return value;
}

static int
match(const char *schema_text, const char *value_text)
{
	json_t *schema = json(schema_text), *value = json(value_text);
	int rc;

	assert_int_equal(control_schema_check(schema), 0);
	rc = control_schema_match(schema, value, "params");
	json_decref(schema);
	json_decref(value);
	return rc;
}

static void
says(const char *schema, const char *value, const char *message)
{
	assert_int_equal(match(schema, value), -EINVAL);
	assert_string_equal(vdpa_error_message(), message);
}

static void
a_value_is_checked_by_every_word_of_its_schema(void **state)
{
	const char *object = "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":"
			     "{\"name\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":3},"
			     "\"n\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":5}},"
			     "\"required\":[\"name\"]}";

	assert_int_equal(match(object, "{\"name\":\"abc\",\"n\":5}"), 0);
	says(object, "{}", "params: member 'name' is missing");
	says(object, "{\"nme\":1}", "params: member 'nme' is not known: allowed are name, n");
	says(object, "{\"name\":7}", "params.name: the type must be string");
	says(object, "{\"name\":\"\"}", "params.name: 0 characters, allowed are 1 to 3");
	says(object, "{\"name\":\"abcd\"}", "params.name: 4 characters, allowed are 1 to 3");
	says(object, "{\"name\":\"a\",\"n\":6}", "params.n: 6, allowed are 0 to 5");
	says(object, "{\"name\":\"a\",\"n\":1.5}", "params.n: the type must be integer");
	says(object, "[]", "params: the type must be object");
	says("{\"type\":\"object\",\"additionalProperties\":false}", "{\"x\":1}",
	     "params: member 'x' is not known: there is none");
}

static void
items_and_choices_are_checked_too(void **state)
{
	const char *list = "{\"type\":\"array\",\"maxItems\":2,\"items\":{\"type\":\"string\","
			   "\"enum\":[\"a\",\"b\"]}}";

	assert_int_equal(match(list, "[\"a\",\"b\"]"), 0);
	says(list, "[\"a\",\"c\"]", "params[1] 'c': allowed are a, b");
	says(list, "[\"a\",\"a\",\"a\"]", "params: 3 items, allowed are up to 2");
	assert_int_equal(match("{\"type\":[\"string\",\"null\"]}", "null"), 0);
	says("{\"type\":[\"string\",\"null\"]}", "1", "params: the type must be string, null");
	assert_int_equal(match("{\"type\":\"object\",\"additionalProperties\":{\"type\":"
			       "\"integer\"}}",
			       "{\"a\":1}"),
			 0);
	says("{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}",
	     "{\"a\":\"b\"}", "params.a: the type must be integer");
}

static void
a_schema_that_would_not_be_obeyed_is_refused(void **state)
{
	static const char *const bad[] = {
		"{\"type\":\"text\"}",
		"{\"type\":[]}",
		"{\"pattern\":\"a\"}",
		"{\"minimum\":\"1\"}",
		"{\"properties\":{\"a\":{\"oneOf\":[]}}}",
		"{\"items\":{\"format\":\"x\"}}",
		"{\"additionalProperties\":{\"not\":{}}}",
		"{\"additionalProperties\":\"no\"}",
		"{\"required\":[1]}",
		"[]",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json_t *schema = json(bad[i]);

		assert_int_equal(control_schema_check(schema), -EINVAL);
		json_decref(schema);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(root_and_the_owner_may_do_everything),
		cmocka_unit_test(a_member_may_do_what_its_group_may_by_whichever_of_its_groups),
		cmocka_unit_test(nobody_else_may_do_anything),
		cmocka_unit_test(the_user_that_stands_for_those_of_other_namespaces_is_nobody),
		cmocka_unit_test(the_kernel_says_who_is_connected),
		cmocka_unit_test(a_value_is_checked_by_every_word_of_its_schema),
		cmocka_unit_test(items_and_choices_are_checked_too),
		cmocka_unit_test(a_schema_that_would_not_be_obeyed_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
