/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Where a request ends in a stream of objects, and what a device-id of uvdpad stands for. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "frame.h"
#include "uvdpad_id.h"

/* As they come, n bytes at a time: how long the first request is. */
static size_t
first_of(const char *text, size_t n)
{
	struct control_scan scan = {.seen = 0};
	size_t len = strlen(text), at, found = 0;

	for (at = n < len ? n : len; found == 0; at += n) {
		if (at > len)
			at = len;
		found = control_frame_objects(text, at, &scan);
		if (at == len)
			break;
	}
	return found;
}

static void
object_ends_with_its_bracket(void **state)
{
	static const struct {
		const char *text;
		size_t len; /* 0: it is not whole */
	} cases[] = {
		{"{}", 2},
		{"{} {}", 2},
		{"{\"a\":{\"b\":[1,{}]}}x", 18},
		{"{\"}\":\"]\"}{", 9},
		{"{\"\\\"}\":1}", 9},
		{"{\"\\\\\":1}}", 8},
		{"{", 0},
		{"{\"}", 0},
		{"{\"\\\"}", 0},
		{"{[}", 0},
		/* No JSON, and none of this function's business. */
		{"{]", 2},
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (size_t n = 1; n <= strlen(cases[i].text); n++)
			assert_int_equal(first_of(cases[i].text, n), cases[i].len);
}

static void
what_begins_no_object_ends_with_its_line(void **state)
{
	assert_int_equal(first_of("hello\n{}", 8), 6);
	assert_int_equal(first_of("[]\n", 3), 3);
	assert_int_equal(first_of("hello", 5), 5);
	assert_int_equal(first_of("}\n", 2), 2);
	assert_int_equal(first_of("", 1), 0);
}

static void
blanks_are_a_request_by_themselves(void **state)
{
	assert_int_equal(first_of("\n", 1), 1);
	assert_int_equal(first_of(" \r\n\t{}", 6), 4);
}

/* One that has to wait is looked for again. */
static void
request_is_found_again(void **state)
{
	struct control_scan scan = {.seen = 0};
	const char *text = "{\"a\":[{}]}{}";

	assert_int_equal(control_frame_objects(text, strlen(text), &scan), 10);
	assert_int_equal(control_frame_objects(text, strlen(text), &scan), 10);
}

/* The bytes of a long one are looked at once, however many reads it takes. */
static void
bytes_are_looked_at_once(void **state)
{
	struct control_scan scan = {.seen = 0};
	char text[1024];

	memset(text, '{', sizeof(text));
	for (size_t i = 1; i <= sizeof(text); i++) {
		assert_int_equal(control_frame_objects(text, i, &scan), 0);
		assert_int_equal(scan.seen, i);
	}
}

static void
line_ends_with_its_newline(void **state)
{
	struct control_scan scan = {.seen = 0};

	assert_int_equal(control_frame_lines("{}", 2, &scan), 0);
	assert_int_equal(control_frame_lines("{}\n{}\n", 6, &scan), 3);
}

static struct uvdpad_map map;

static int
parse(const char *const *texts, unsigned int n)
{
	return uvdpad_map_parse(&map, texts, n);
}

static int
teardown(void **state)
{
	uvdpad_map_free(&map);
	return 0;
}

static void
assert_resolves(const char *id, const char *full, const char *name, const char *words)
{
	struct uvdpad_entry e;

	assert_int_equal(uvdpad_resolve(&map, id, &e), 0);
	assert_string_equal(e.id, full);
	assert_string_equal(e.name, name);
	assert_string_equal(e.words, words);
	free(e.words);
}

static void
address_is_a_pci_function(void **state)
{
	assert_int_equal(parse(NULL, 0), 0);
	assert_resolves("0000:06:00.2", "0000:06:00.2", "uvdpad-0000-06-00.2",
			"mgmtdev pci/0000:06:00.2 ");
	assert_resolves("6:0.2", "0000:06:00.2", "uvdpad-0000-06-00.2",
			"mgmtdev pci/0000:06:00.2 ");
}

static void
address_has_its_words_or_those_of_all(void **state)
{
	const char *const texts[] = {"pci mode 0660", "6:0.2 max_vqp 2",
				     "\tsim0  mgmtdev sim_net backend echo"};

	assert_int_equal(parse(texts, 3), 0);
	assert_resolves("0000:06:00.2", "0000:06:00.2", "uvdpad-0000-06-00.2",
			"mgmtdev pci/0000:06:00.2 max_vqp 2");
	assert_resolves("0000:06:00.3", "0000:06:00.3", "uvdpad-0000-06-00.3",
			"mgmtdev pci/0000:06:00.3 mode 0660");
	assert_resolves("sim0", "sim0", "uvdpad-sim0", "mgmtdev sim_net backend echo");
}

static void
other_ids_are_refused_with_those_that_there_are(void **state)
{
	const char *const texts[] = {"pci mode 0660", "sim0 mgmtdev sim_net"};
	const char *const wrong[] = {"",
				     "sim1",
				     "pci",
				     "0000:06:00.9",
				     "a b",
				     "\"",
				     "0000:06:00.2 client",
				     "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"};
	struct uvdpad_entry e;

	assert_int_equal(parse(texts, 2), 0);
	for (unsigned int i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(uvdpad_resolve(&map, wrong[i], &e), -EINVAL);
		assert_non_null(strstr(vdpa_error_message(), ", sim0"));
	}
}

static void
id_is_that_of_the_name_or_the_function(void **state)
{
	const char *const texts[] = {"a:b mgmtdev sim_net"};
	char id[VDPA_UVDPAD_ID_MAX + 1];

	assert_int_equal(parse(texts, 1), 0);
	assert_true(uvdpad_id_of(&map, "uvdpad-a-b", "sim_net", id));
	assert_string_equal(id, "a:b");
	assert_true(uvdpad_id_of(&map, "net0", "pci/0000:06:00.2", id));
	assert_string_equal(id, "0000:06:00.2");
	assert_false(uvdpad_id_of(&map, "net0", "sim_net", id));
	assert_false(uvdpad_id_of(&map, "uvdpad-c", "sim_net", id));
	assert_false(uvdpad_id_of(&map, "net0", "vfio-user/run/pci/a", id));
}

/* Nothing is left of a map with a mistake: a leak would be the sanitizer's. */
static void
map_with_a_mistake_is_refused(void **state)
{
	const char *const texts[] = {"sim0 mgmtdev sim_net", "sim1 mgmtdev nosuch"};

	assert_int_equal(parse(texts, 2), -ENODEV);
	assert_non_null(strstr(vdpa_error_message(), "device-id 'sim1'"));
	assert_int_equal(map.n, 0);
	assert_int_equal(vdpa_uvdpad_check("sim0 mgmtdev sim_net mode 0660"), 0);
	assert_int_equal(vdpa_uvdpad_check("sim0 mgmtdev sim_net mode 9"), -EINVAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(object_ends_with_its_bracket),
		cmocka_unit_test(what_begins_no_object_ends_with_its_line),
		cmocka_unit_test(blanks_are_a_request_by_themselves),
		cmocka_unit_test(request_is_found_again),
		cmocka_unit_test(bytes_are_looked_at_once),
		cmocka_unit_test(line_ends_with_its_newline),
		cmocka_unit_test_teardown(address_is_a_pci_function, teardown),
		cmocka_unit_test_teardown(address_has_its_words_or_those_of_all, teardown),
		cmocka_unit_test_teardown(other_ids_are_refused_with_those_that_there_are,
					  teardown),
		cmocka_unit_test_teardown(id_is_that_of_the_name_or_the_function, teardown),
		cmocka_unit_test_teardown(map_with_a_mistake_is_refused, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
