/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The grammar of management: what is taken, and that each refusal names the word and what is
 * allowed. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "args_priv.h"
#include "vdpa.h"

static const struct vdpa_param_choice backends[] = {
	{.name = "loopback"},
	{.name = "peer", .metavar = "NAME", .type = VDPA_PARAM_STRING, .max = 8},
	{.name = "ram", .metavar = "SIZE", .type = VDPA_PARAM_SIZE, .min = 512, .max = 1 << 30},
	{.name = NULL},
};

static const struct vdpa_param params[] = {
	{.name = "client", .type = VDPA_PARAM_FLAG},
	{.name = "serial", .type = VDPA_PARAM_STRING, .metavar = "TEXT", .max = 4},
	{.name = "mtu", .type = VDPA_PARAM_UINT, .metavar = "BYTES", .min = 68, .max = 65535},
	{.name = "features", .type = VDPA_PARAM_UINT, .metavar = "MASK", .max = UINT64_MAX},
	{.name = "size", .type = VDPA_PARAM_SIZE, .metavar = "SIZE", .max = UINT64_MAX},
	{.name = "mode", .type = VDPA_PARAM_MODE, .metavar = "MODE"},
	{.name = "mac", .type = VDPA_PARAM_MAC, .metavar = "MAC"},
	{.name = "backend", .type = VDPA_PARAM_CHOICE, .choices = backends},
	{.name = NULL},
};

static struct vdpa_words words;
static struct vdpa_args args;

static int
parse(const char *text)
{
	const struct vdpa_param_table table = {.params = params};
	int rc;

	vdpa_words_free(&words);
	rc = vdpa_words_split(text, &words);
	return rc < 0 ? rc : vdpa_args_parse(&words, 0, &table, 1, &args);
}

static void
values_of_every_type_are_taken(void **state)
{
	static const uint8_t mac[6] = {0x52, 0x54, 0, 0xAb, 0, 1};

	assert_int_equal(parse("client serial \"a b\" mtu 1500 features 0x100000000 size 3G "
			       "mode 0660 mac 52:54:00:aB:00:01 backend ram 64K"),
			 0);
	assert_true(vdpa_args_has(&args, "client"));
	assert_string_equal(vdpa_args_str(&args, "serial", ""), "a b");
	assert_int_equal(vdpa_args_u64(&args, "mtu", 0), 1500);
	assert_int_equal(vdpa_args_u64(&args, "features", 0), UINT64_C(1) << 32);
	assert_int_equal(vdpa_args_u64(&args, "size", 0), UINT64_C(3) << 30);
	assert_int_equal(vdpa_args_u64(&args, "mode", 0), 0660);
	assert_memory_equal(vdpa_args_find(&args, "mac")->mac, mac, 6);
	assert_string_equal(vdpa_args_find(&args, "backend")->choice->name, "ram");
	assert_int_equal(vdpa_args_u64(&args, "backend", 0), 65536);
	assert_int_equal(vdpa_args_u64(&args, "other", 7), 7);
}

/* As the words of front ends: each has its own `mode`. */
static void
a_word_of_two_tables_is_listed_once(void **state)
{
	static const struct vdpa_param others[] = {
		{.name = "mode", .type = VDPA_PARAM_MODE, .metavar = "MODE"},
		{.name = "label", .type = VDPA_PARAM_STRING, .metavar = "TEXT"},
		{.name = "client", .type = VDPA_PARAM_FLAG},
		{.name = NULL},
	};
	const struct vdpa_param_table tables[] = {{.params = params}, {.params = others}};

	vdpa_words_free(&words);
	assert_int_equal(vdpa_words_split("colour red", &words), 0);
	assert_int_equal(vdpa_args_parse(&words, 0, tables, 2, &args), -EINVAL);
	assert_string_equal(vdpa_error_message(),
			    "unknown word 'colour': allowed are client, serial, mtu, features, "
			    "size, mode, mac, backend, label");
}

static void
every_refusal_names_the_word_and_what_is_allowed(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{"colour red", "unknown word 'colour': allowed are client, serial, mtu"},
		{"mtu", "mtu: BYTES is missing"},
		{"mtu 67", "mtu '67': not a number from 68 to 65535"},
		{"mtu 65536", "from 68 to 65535"},
		{"mtu -1", "mtu '-1'"},
		{"mtu 1500x", "mtu '1500x'"},
		{"mtu 99999999999999999999", "mtu '99999999999999999999'"},
		{"mtu 1500 mtu 1500", "mtu is given twice"},
		{"serial abcde", "5 characters, allowed are 1 to 4"},
		{"serial \"\"", "0 characters"},
		{"serial \"abc", "quotation mark"},
		{"size 1KB", "not a size"},
		{"size 17179869184G", "not a size"},
		{"mode 888", "octal"},
		{"mode 1777", "octal"},
		{"mac 52:54:00:00:00", "unicast address such as"},
		{"mac 52:54:00:00:00:01:02", "unicast"},
		{"mac 01:00:5e:00:00:01", "unicast"},
		{"mac 00:00:00:00:00:00", "unicast"},
		{"mac 52-54-00-00-00-01", "unicast"},
		{"backend", "backend: loopback, peer NAME, ram SIZE is missing"},
		{"backend disk", "backend 'disk': allowed are loopback, peer NAME, ram SIZE"},
		{"backend peer", "backend peer: NAME is missing"},
		{"backend ram 1", "backend ram '1': not a size from 512 to 1073741824"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(parse(bad[i].text), -EINVAL);
		if (strstr(vdpa_error_message(), bad[i].says) == NULL)
			fail_msg("'%s' says: %s", bad[i].text, vdpa_error_message());
		assert_null(strchr(vdpa_error_message(), '\n'));
	}
}

static void
random_text_never_upsets_the_parser(void **state)
{
	static const char alphabet[] = "mtu size\"\" backend ram peer 0x9KM:\t\n\\-client";
	char text[200];

	srand(1);
	for (unsigned int i = 0; i < 20000; i++) {
		size_t len = (size_t)rand() % sizeof(text);

		for (size_t j = 0; j < len; j++)
			text[j] = alphabet[(size_t)rand() % (sizeof(alphabet) - 1)];
		text[len > 0 ? len - 1 : 0] = '\0';
		parse(text);
	}
	vdpa_words_free(&words);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values_of_every_type_are_taken),
		cmocka_unit_test(a_word_of_two_tables_is_listed_once),
		cmocka_unit_test(every_refusal_names_the_word_and_what_is_allowed),
		cmocka_unit_test(random_text_never_upsets_the_parser),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
