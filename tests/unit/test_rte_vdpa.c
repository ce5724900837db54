/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The front end rte_vdpa where it needs no DPDK application: devargs, and which DPDK it accepts. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <rte_common.h>

#include "rte_vdpa_dpdk.h"
#include "rte_vdpa_stats.h"
#include "rte_vdpa_words.h"
#include "vdpa.h"

static void
assert_words(const char *devargs, const char *expected)
{
	char *words = vdpa_rte_words("uvdpa0", devargs);

	assert_non_null(words);
	assert_string_equal(words, expected);
	free(words);
}

static void
assert_refused(const char *devargs, const char *why)
{
	errno = 0;
	assert_null(vdpa_rte_words("uvdpa0", devargs));
	assert_int_equal(errno, EINVAL);
	assert_non_null(strstr(vdpa_error_message(), why));
}

static void
items_become_words_with_values(void **state)
{
	assert_words("mgmtdev=sim_net,backend=loopback,max_vqp=4",
		     "name uvdpa0 mgmtdev sim_net backend loopback max_vqp 4 frontend rte_vdpa");
	assert_words("mgmtdev=sim_blk,read-only",
		     "name uvdpa0 mgmtdev sim_blk read-only frontend rte_vdpa");
	assert_words("mgmtdev=sim_net,mac=52:54:00:00:00:01",
		     "name uvdpa0 mgmtdev sim_net mac 52:54:00:00:00:01 frontend rte_vdpa");
}

static void
a_blank_separates_a_choice_from_its_own_value(void **state)
{
	assert_words("mgmtdev=sim_blk,backend=ram 1M",
		     "name uvdpa0 mgmtdev sim_blk backend ram 1M frontend rte_vdpa");
}

static void
only_the_first_equals_sign_of_an_item_separates(void **state)
{
	assert_words("mgmtdev=vfio-user/run/a=b.sock",
		     "name uvdpa0 mgmtdev vfio-user/run/a=b.sock frontend rte_vdpa");
}

static void
quotes_keep_commas_and_equals_signs(void **state)
{
	assert_words("mgmtdev=\"vfio-user/run/a,b = c\",max_vqp=2",
		     "name uvdpa0 mgmtdev \"vfio-user/run/a,b = c\" max_vqp 2 frontend rte_vdpa");
}

static void
no_arguments_leave_the_name(void **state)
{
	assert_words("", "name uvdpa0 frontend rte_vdpa");
	assert_words(NULL, "name uvdpa0 frontend rte_vdpa");
}

static void
malformed_arguments_are_refused(void **state)
{
	assert_refused("mgmtdev=,max_vqp=2", "value is missing");
	assert_refused("mgmtdev=", "value is missing");
	assert_refused("=sim_net", "does not begin with a word");
	assert_refused("mgmtdev=sim_net,,max_vqp=2", "does not begin with a word");
	assert_refused("mgmtdev=\"sim_net", "quotation mark");
}

static void
assert_control(const char *devargs, const char *expected)
{
	char *path;

	assert_int_equal(vdpa_rte_control(devargs, &path), 0);
	if (expected == NULL)
		assert_null(path);
	else
		assert_string_equal(path, expected);
	free(path);
}

static void
the_control_socket_is_no_word_of_the_device(void **state)
{
	char *path;

	assert_words("control=/run/c.sock,mgmtdev=sim_net",
		     "name uvdpa0 mgmtdev sim_net frontend rte_vdpa");
	assert_words("mgmtdev=sim_net,control=\"/run/a,b\",max_vqp=2",
		     "name uvdpa0 mgmtdev sim_net max_vqp 2 frontend rte_vdpa");
	assert_control("control=/run/c.sock,mgmtdev=sim_net", "/run/c.sock");
	assert_control("mgmtdev=sim_net,control=\"/run/a,b\",max_vqp=2", "/run/a,b");
	assert_control("mgmtdev=sim_net,control=\"/run/a b\"", "/run/a b");
	assert_control("mgmtdev=\"x,control=y\"", NULL);
	assert_control("controls=/run/c.sock", NULL);
	assert_control("", NULL);
	assert_control(NULL, NULL);
	assert_int_equal(vdpa_rte_control("control=", &path), -EINVAL);
	assert_int_equal(vdpa_rte_control("control,mgmtdev=sim_net", &path), -EINVAL);
	assert_int_equal(vdpa_rte_control("control=a,control=b", &path), -EINVAL);
	assert_null(path);
}

/* Every word, once it is split again, passes the grammar as the same words of --dev would. */
static void
what_comes_out_is_the_grammar_of_dev_add(void **state)
{
	char *words = vdpa_rte_words("uvdpa0", "mgmtdev=sim_net,max_vqp=4,mtu=9000");
	char *end = strstr(words, " frontend");

	*end = '\0';
	assert_int_equal(vdpa_dev_check(words), 0);
	free(words);
}

static void
known_releases_are_accepted(void **state)
{
	static const struct vdpa_rte_release known[] = {{22, 11}, {23, 3}, {23, 7},  {23, 11},
							{24, 3},  {24, 7}, {24, 11}, {25, 3},
							{25, 7},  {25, 11}};

	for (unsigned int i = 0; i < RTE_DIM(known); i++)
		assert_int_equal(vdpa_rte_check_dpdk(known[i], known[i]), 0);
}

static void
unknown_releases_are_refused_by_number(void **state)
{
	static const struct vdpa_rte_release unknown[] = {
		{21, 11}, {22, 7}, {26, 3}, {26, 7}, {27, 11}};
	char name[8];

	for (unsigned int i = 0; i < RTE_DIM(unknown); i++) {
		assert_int_equal(vdpa_rte_check_dpdk(unknown[i], unknown[i]), -ENOTSUP);
		snprintf(name, sizeof(name), "%u.%02u", unknown[i].year, unknown[i].month);
		assert_non_null(strstr(vdpa_error_message(), name));
	}
}

static void
another_abi_than_it_was_built_for_is_refused(void **state)
{
	const struct vdpa_rte_release built = {22, 11}, same_abi = {23, 7}, other_abi = {23, 11};

	assert_int_equal(vdpa_rte_check_dpdk(built, same_abi), 0);
	assert_int_equal(vdpa_rte_check_dpdk(built, other_abi), -ENOTSUP);
	assert_non_null(strstr(vdpa_error_message(), "build uvdpa again"));
}

static void
releases_whose_rte_vhost_aborts_are_told_apart(void **state)
{
	assert_false(vdpa_rte_dpdk_aborts((struct vdpa_rte_release){22, 11}));
	assert_false(vdpa_rte_dpdk_aborts((struct vdpa_rte_release){23, 11}));
	assert_true(vdpa_rte_dpdk_aborts((struct vdpa_rte_release){24, 3}));
	assert_true(vdpa_rte_dpdk_aborts((struct vdpa_rte_release){25, 11}));
}

/* As a net device's queues have them: each its own direction. */
static const struct vdpa_stat receive_queue[] = {{"kicks", 1}, {"rx_packets", 2}, {"rx_bytes", 3}};
static const struct vdpa_stat send_queue[] = {{"kicks", 4}, {"tx_packets", 5}, {"tx_bytes", 6}};

static void
a_queue_shows_no_name_of_the_other_direction(void **state)
{
	static const char *const names[] = {"kicks", "packets", "bytes"};
	struct vdpa_rte_stats s = {0};

	vdpa_rte_stats_add(&s, receive_queue, RTE_DIM(receive_queue));
	vdpa_rte_stats_add(&s, send_queue, RTE_DIM(send_queue));
	assert_int_equal(s.n, RTE_DIM(names));
	for (unsigned int i = 0; i < s.n; i++)
		assert_string_equal(s.names[i], names[i]);
}

static void
every_queue_has_its_values_by_id(void **state)
{
	static const struct vdpa_stat more[] = {{"tx_bytes", 9}, {"errors", 8}};
	uint64_t values[VDPA_RTE_STATS_MAX];
	struct vdpa_rte_stats s = {0};

	vdpa_rte_stats_add(&s, receive_queue, RTE_DIM(receive_queue));
	vdpa_rte_stats_add(&s, more, RTE_DIM(more));
	vdpa_rte_stats_values(&s, send_queue, RTE_DIM(send_queue), values);
	assert_int_equal(values[0], 4);
	assert_int_equal(values[1], 5);
	assert_int_equal(values[2], 6);
	/* It has no errors, but the number stands for them everywhere. */
	assert_int_equal(values[3], 0);
	vdpa_rte_stats_values(&s, more, RTE_DIM(more), values);
	assert_int_equal(values[0], 0);
	assert_int_equal(values[2], 9);
	assert_int_equal(values[3], 8);
}

static void
names_beyond_what_there_is_room_for_are_left_out(void **state)
{
	static char names[VDPA_RTE_STATS_MAX + 1][8];
	struct vdpa_stat many[VDPA_RTE_STATS_MAX + 1];
	uint64_t values[VDPA_RTE_STATS_MAX + 1];
	struct vdpa_rte_stats s = {0};

	for (unsigned int i = 0; i < RTE_DIM(many); i++) {
		snprintf(names[i], sizeof(names[i]), "s%u", i);
		many[i] = (struct vdpa_stat){names[i], i};
	}
	vdpa_rte_stats_add(&s, many, RTE_DIM(many));
	assert_int_equal(s.n, VDPA_RTE_STATS_MAX);
	values[VDPA_RTE_STATS_MAX] = 77;
	vdpa_rte_stats_values(&s, many, RTE_DIM(many), values);
	assert_int_equal(values[VDPA_RTE_STATS_MAX - 1], VDPA_RTE_STATS_MAX - 1);
	assert_int_equal(values[VDPA_RTE_STATS_MAX], 77);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(items_become_words_with_values),
		cmocka_unit_test(the_control_socket_is_no_word_of_the_device),
		cmocka_unit_test(a_blank_separates_a_choice_from_its_own_value),
		cmocka_unit_test(only_the_first_equals_sign_of_an_item_separates),
		cmocka_unit_test(quotes_keep_commas_and_equals_signs),
		cmocka_unit_test(no_arguments_leave_the_name),
		cmocka_unit_test(malformed_arguments_are_refused),
		cmocka_unit_test(what_comes_out_is_the_grammar_of_dev_add),
		cmocka_unit_test(known_releases_are_accepted),
		cmocka_unit_test(unknown_releases_are_refused_by_number),
		cmocka_unit_test(another_abi_than_it_was_built_for_is_refused),
		cmocka_unit_test(releases_whose_rte_vhost_aborts_are_told_apart),
		cmocka_unit_test(a_queue_shows_no_name_of_the_other_direction),
		cmocka_unit_test(every_queue_has_its_values_by_id),
		cmocka_unit_test(names_beyond_what_there_is_room_for_are_left_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
