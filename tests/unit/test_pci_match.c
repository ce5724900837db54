/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Which driver makes the device of a PCI function: by ids, whatever the order of registration, by
 * the word driver, and after another one has refused; whose words are taken; and a driver that
 * goes while it is asked.
 */

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "pci_match_test.h"

/* Of each two of them, in both orders of registration. */
static void
the_most_specific_driver_wins_whatever_the_order(void **state)
{
	struct probe less, more;

	for (unsigned int i = 0; i < N_SPECIFIC; i++)
		for (unsigned int j = i + 1; j < N_SPECIFIC; j++)
			for (unsigned int order = 0; order < 2; order++) {
				probe_init(&less, "less", &specific[i]);
				probe_init(&more, "more", &specific[j]);
				assert_int_equal(
					vdpa_register_driver(order == 0 ? &less.drv : &more.drv),
					0);
				assert_int_equal(
					vdpa_register_driver(order == 0 ? &more.drv : &less.drv),
					0);
				added(WORDS);
				if (more.asked != 1 || less.asked != 0)
					fail_msg("row %u has the function of row %u", i, j);
				assert_int_equal(vdpa_dev_del("d0"), 0);
				vdpa_unregister_driver(&less.drv);
				vdpa_unregister_driver(&more.drv);
			}
}

static void
what_does_not_match_is_not_asked(void **state)
{
	static const struct vdpa_pci_match others[] = {
		{VDPA_PCI_DEVICE(VENDOR + 1, DEVICE)},
		{VDPA_PCI_DEVICE(VENDOR, DEVICE + 1)},
		{VDPA_PCI_DEVICES(VENDOR, DEVICE + 1, DEVICE + 9)},
		{VDPA_PCI_DEVICES(VENDOR, DEVICE - 9, DEVICE - 1)},
		{VENDOR, DEVICE, 0, SUBVEN, SUBSYS + 1, 0, 0},
		{VENDOR, DEVICE, 0, SUBVEN + 1, ANY, 0, 0},
		{VENDOR, DEVICE, 0, ANY, ANY, 0x010000, 0xff0000},
	};
	struct probe p;

	for (unsigned int i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		probe_init(&p, "other", &others[i]);
		assert_int_equal(vdpa_register_driver(&p.drv), 0);
		refused(WORDS, ENODEV,
			"fake/f0: no driver serves 1ab4:0042 (subsystem 1ab5:0007, class 020000); "
			"there are virtio, ");
		assert_non_null(strstr(vdpa_error_message(), ", other: load another by -d FILE"));
		assert_int_equal(p.asked, 0);
		vdpa_unregister_driver(&p.drv);
	}
}

/* Where its ids can be seen it is not opened for that. */
static void
a_listed_function_without_a_driver_is_not_opened(void **state)
{
	function.listed = true;
	refused(WORDS, ENODEV, "no driver serves 1ab4:0042");
	assert_int_equal(function.opens, 0);
	function.listed = false;
	refused(WORDS, ENODEV, "no driver serves 1ab4:0042");
	assert_int_equal(function.opens, 1);
	/* Nor is it the words' fault. */
	assert_int_equal(vdpa_dev_check(WORDS), 0);
}

static void
of_equal_ones_the_first_registered_is_asked_first(void **state)
{
	struct probe first, second;

	probe_init(&first, "zebra", &this_device);
	probe_init(&second, "ant", &this_device);
	assert_int_equal(vdpa_register_driver(&first.drv), 0);
	assert_int_equal(vdpa_register_driver(&second.drv), 0);
	added(WORDS);
	assert_int_equal(first.asked, 1);
	assert_int_equal(second.asked, 0);
	vdpa_unregister_driver(&first.drv);
	vdpa_unregister_driver(&second.drv);
}

static void
a_driver_that_refuses_leaves_it_to_the_next(void **state)
{
	struct probe a, b, c;
	char *text;

	probe_init(&a, "a", &specific[10]);
	probe_init(&b, "b", &this_device);
	probe_init(&c, "c", &specific[3]);
	a.refuses = b.refuses = c.refuses = ENODEV;
	a.leaves_dma_on = true;
	assert_int_equal(vdpa_register_driver(&c.drv), 0);
	assert_int_equal(vdpa_register_driver(&a.drv), 0);
	assert_int_equal(vdpa_register_driver(&b.drv), 0);
	refused(WORDS, ENODEV,
		"fake/f0: c does not want it; every driver that matches was asked: a, b, c");
	/* Opened once for all of them. */
	assert_int_equal(function.opens, 1);
	b.refuses = 0;
	added(WORDS);
	assert_int_equal(a.asked, 2);
	assert_int_equal(b.asked, 2);
	assert_int_equal(c.asked, 1);
	assert_int_equal(function.opens, 2);
	/* What a has left on is off for b. */
	assert_false(b.dma_was_on);
	text = vdpa_dev_show("d0");
	assert_non_null(strstr(text, "\"driver\":\"b\""));
	free(text);
	assert_int_equal(vdpa_dev_del("d0"), 0);
	/* Another error is the answer. */
	b.refuses = EIO;
	refused(WORDS, EIO, "fake/f0: b does not want it");
	b.silent = true;
	refused(WORDS, EIO, "fake/f0: the driver b: Input/output error");
	assert_int_equal(c.asked, 1);
	vdpa_unregister_driver(&a.drv);
	vdpa_unregister_driver(&b.drv);
	vdpa_unregister_driver(&c.drv);
}

static void
what_goes_while_a_driver_looks_is_not_the_next_ones(void **state)
{
	struct probe a, b;

	probe_init(&a, "a", &this_device);
	probe_init(&b, "b", &specific[3]);
	a.pulls_out = true;
	assert_int_equal(vdpa_register_driver(&a.drv), 0);
	assert_int_equal(vdpa_register_driver(&b.drv), 0);
	refused(WORDS, ENODEV, "fake/f0: no answer");
	assert_null(strstr(vdpa_error_message(), "asked"));
	assert_int_equal(a.asked, 1);
	assert_int_equal(b.asked, 0);
	vdpa_unregister_driver(&a.drv);
	vdpa_unregister_driver(&b.drv);
}

static void
the_word_driver_overrules_and_is_final(void **state)
{
	static const struct vdpa_pci_match other = {VDPA_PCI_DEVICE(VENDOR + 1, 1)};
	struct probe best, stranger;

	probe_init(&best, "best", &this_device);
	probe_init(&stranger, "stranger", &other);
	assert_int_equal(vdpa_register_driver(&best.drv), 0);
	assert_int_equal(vdpa_register_driver(&stranger.drv), 0);
	for (unsigned int listed = 0; listed < 2; listed++) {
		function.listed = listed != 0;
		added(WORDS " driver stranger");
		assert_int_equal(stranger.asked, 1);
		assert_int_equal(vdpa_dev_del("d0"), 0);
		stranger.refuses = ENODEV;
		refused(WORDS " driver stranger", ENODEV, "fake/f0: stranger does not want it");
		assert_null(strstr(vdpa_error_message(), "asked"));
		assert_int_equal(best.asked, 0);
		refused(WORDS " driver nobody", EINVAL,
			"driver 'nobody': there is none of that name for PCI functions, there are "
			"virtio, ");
		assert_non_null(strstr(vdpa_error_message(), ", best, stranger; -d FILE"));
		assert_int_equal(vdpa_dev_check(WORDS " driver nobody"), -EINVAL);
		stranger.refuses = 0;
		stranger.asked = 0;
	}
	vdpa_unregister_driver(&best.drv);
	vdpa_unregister_driver(&stranger.drv);
	refused(WORDS " driver best", EINVAL, "driver 'best': there is none of that name");
}

/* Words. */

static void
words_of_a_listed_function_are_its_drivers(void **state)
{
	struct probe a, b;

	function.listed = true;
	probe_init(&a, "a", &this_device);
	probe_word(&a, "depth", 4);
	probe_init(&b, "b", &specific[3]);
	probe_word(&b, "depth", 9);
	assert_int_equal(vdpa_register_driver(&b.drv), 0);
	assert_int_equal(vdpa_register_driver(&a.drv), 0);
	assert_int_equal(vdpa_dev_check(WORDS " depth 3"), 0);
	assert_int_equal(vdpa_dev_check(WORDS " depth 5"), -EINVAL);
	assert_string_equal(vdpa_error_message(), "depth '5': not a number from 0 to 4");
	assert_int_equal(vdpa_dev_check(WORDS " driver b depth 5"), 0);
	assert_int_equal(vdpa_dev_check(WORDS " depth 5 driver b"), 0);
	assert_int_equal(vdpa_dev_check(WORDS " driver b depth 10"), -EINVAL);
	added(WORDS " depth 5 driver b");
	assert_int_equal(b.depth, 5);
	assert_int_equal(function.opens, 1);
	vdpa_unregister_driver(&a.drv);
	vdpa_unregister_driver(&b.drv);
}

/* Over vfio-user: what any driver takes passes, and is checked again once the function is open. */
static void
words_of_another_function_are_checked_twice(void **state)
{
	struct probe a, b;
	char early[256];

	probe_init(&a, "a", &this_device);
	probe_word(&a, "depth", 4);
	probe_init(&b, "b", &specific[3]);
	probe_word(&b, "width", 9);
	assert_int_equal(vdpa_register_driver(&b.drv), 0);
	assert_int_equal(vdpa_register_driver(&a.drv), 0);
	assert_int_equal(vdpa_dev_check(WORDS " depth 3"), 0);
	assert_int_equal(vdpa_dev_check(WORDS " width 9"), 0);
	/* Of nobody, or of no one driver together. */
	assert_int_equal(vdpa_dev_check(WORDS " height 9"), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "unknown word 'height': allowed are"));
	assert_non_null(strstr(vdpa_error_message(), "depth"));
	assert_int_equal(vdpa_dev_check(WORDS " depth 3 width 9"), -EINVAL);
	assert_int_equal(vdpa_dev_check(WORDS " depth 5"), -EINVAL);
	/* With a driver's name that is the only check. */
	assert_int_equal(vdpa_dev_check(WORDS " width 9 driver a"), -EINVAL);
	snprintf(early, sizeof(early), "%s", vdpa_error_message());
	assert_non_null(strstr(early, "unknown word 'width': allowed are"));
	assert_int_equal(function.opens, 0);
	refused(WORDS " width 9", EINVAL, early);
	assert_int_equal(function.opens, 1);
	assert_int_equal(a.asked, 0);
	added(WORDS " depth 3");
	assert_int_equal(a.depth, 3);
	vdpa_unregister_driver(&a.drv);
	vdpa_unregister_driver(&b.drv);
}

static void
help_has_the_words_of_every_driver(void **state)
{
	struct probe a;
	char *text;

	probe_init(&a, "a", &this_device);
	probe_word(&a, "depth", 4);
	assert_int_equal(vdpa_register_driver(&a.drv), 0);
	text = vdpa_words_help();
	assert_non_null(strstr(text, "Management devices pci/..., vfio-user/..."));
	assert_non_null(strstr(text, "  Driver virtio: modern"));
	assert_non_null(strstr(text, "  Driver a: a\n    depth N (0 to 4)"));
	assert_non_null(strstr(text, "    driver NAME"));
	free(text);
	vdpa_unregister_driver(&a.drv);
}

/* Registration. */

static void
drivers_that_cannot_be_are_refused(void **state)
{
	static const char *const pci_names[] = {"pci/*", NULL}, *const plain[] = {"thing", NULL};
	static const struct {
		struct vdpa_pci_match match;
		const char *text;
	} rows[] = {
		{{.vendor = VENDOR, .device = DEVICE}, "has a vendor 0"},
		{{.device = 1, .subsystem_vendor = ANY}, "has a vendor 0"},
		{{VDPA_PCI_DEVICE(0x12345, 1)}, "16 bits"},
		{{VDPA_PCI_DEVICE(VENDOR, 1), .class_mask = 0xff000000}, "a class 24"},
		{{VDPA_PCI_DEVICES(VENDOR, 9, 8)}, "ends before it begins"},
	};
	struct probe p, q;

	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		probe_init(&p, "p", &rows[i].match);
		assert_int_equal(vdpa_register_driver(&p.drv), -EINVAL);
		if (strstr(vdpa_error_message(), rows[i].text) == NULL)
			fail_msg("'%s' does not say '%s'", vdpa_error_message(), rows[i].text);
	}
	probe_init(&p, "p", &this_device);
	p.drv.pci_add = NULL;
	assert_int_equal(vdpa_register_driver(&p.drv), -EINVAL);
	p.drv.pci_ids = NULL;
	assert_int_equal(vdpa_register_driver(&p.drv), -EINVAL);
	probe_init(&p, "p", &this_device);
	p.drv.match = plain;
	assert_int_equal(vdpa_register_driver(&p.drv), -EINVAL);
	p.drv.match = pci_names;
	p.drv.probe = (int (*)(struct vdpa_driver *, const char *))(void *)abort;
	p.drv.remove = (void (*)(struct vdpa_driver *))(void *)abort;
	assert_int_equal(vdpa_register_driver(&p.drv), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "state its ids in pci_ids"));
	probe_init(&p, "no/name", &this_device);
	assert_int_equal(vdpa_register_driver(&p.drv), -EINVAL);

	/* Twice, and two of a name. */
	probe_init(&p, "p", &this_device);
	probe_init(&q, "p", &this_device);
	assert_int_equal(vdpa_register_driver(&p.drv), 0);
	assert_int_equal(vdpa_register_driver(&p.drv), -EEXIST);
	assert_int_equal(vdpa_register_driver(&q.drv), -EEXIST);
	q.drv.name = "virtio";
	assert_int_equal(vdpa_register_driver(&q.drv), -EEXIST);
	/* One that is not registered takes nobody else away, and nothing is asked of it. */
	q.drv.match = plain;
	q.drv.remove = (void (*)(struct vdpa_driver *))(void *)abort;
	vdpa_unregister_driver(&q.drv);
	added(WORDS " driver p");
	assert_int_equal(vdpa_dev_del("d0"), 0);
	vdpa_unregister_driver(&p.drv);
	vdpa_unregister_driver(&p.drv);
}

/* Registered before vdpa_init(), by a constructor as a plugin's. */
static struct probe early;
static struct vdpa_driver early_driver = {
	.name = "early", .pci_ids = early.ids, .pci_add = pci_add};
VDPA_REGISTER_DRIVER(early_driver);

static bool
help_begins_with(const char *first, const char *second)
{
	char *text = vdpa_words_help();
	const char *a = strstr(text, first), *b = strstr(text, second);
	bool right = a != NULL && b != NULL && a < b;

	free(text);
	return right;
}

static void
a_driver_of_a_constructor_is_there_behind_those_built_in(void **state)
{
	struct probe p;

	assert_true(help_begins_with("  Driver virtio", "  Driver early"));
	vdpa_cleanup();
	/* Nobody takes the name of one that is built in. */
	probe_init(&p, "sim", &this_device);
	assert_int_equal(vdpa_register_driver(&p.drv), -EEXIST);
	/* Without the library too, and in its next life. */
	assert_true(help_begins_with("  Driver virtio", "  Driver early"));
	assert_int_equal(vdpa_init(NULL), 0);
	assert_true(help_begins_with("  Driver virtio", "  Driver early"));
	assert_int_equal(vdpa_register_driver(&early_driver), -EEXIST);
}

static void
a_driver_serves_after_the_next_init(void **state)
{
	struct probe p;

	probe_init(&p, "p", &this_device);
	assert_int_equal(vdpa_register_driver(&p.drv), 0);
	added(WORDS);
	vdpa_cleanup();
	assert_null(function.open);
	assert_int_equal(vdpa_init(NULL), 0);
	added(WORDS);
	assert_int_equal(p.asked, 2);
	vdpa_unregister_driver(&p.drv);
	/* Its device with it. */
	assert_null(function.open);
	assert_null(vdpa_find_device("d0"));
}

static void *
unregister(void *drv)
{
	vdpa_unregister_driver(drv);
	return NULL;
}

static void *
add_in_thread(void *words)
{
	return (void *)(intptr_t)vdpa_dev_add(words);
}

/* Unregister it. Whether that waits for somebody. */
static bool
begin_unregister(struct probe *p, pthread_t *goes)
{
	assert_int_equal(pthread_create(goes, NULL, unregister, &p->drv), 0);
	usleep(50000);
	return pthread_tryjoin_np(*goes, NULL) == EBUSY;
}

static sem_t opening, go_on;

static void
hold_open(struct fake_pci *f, unsigned int region, uint64_t offset, void *buf, size_t len)
{
	f->on_read = NULL;
	sem_post(&opening);
	sem_wait(&go_on);
}

static void
a_driver_whose_words_are_given_stays_until_it_is_asked(void **state)
{
	pthread_t adds, goes;
	struct probe p;
	void *result;
	bool waits;

	probe_init(&p, "p", &this_device);
	probe_word(&p, "depth", 4);
	assert_int_equal(vdpa_register_driver(&p.drv), 0);
	sem_init(&opening, 0, 0);
	sem_init(&go_on, 0, 0);
	function.on_read = hold_open;
	assert_int_equal(pthread_create(&adds, NULL, add_in_thread, (void *)WORDS " depth 3"), 0);
	sem_wait(&opening);
	waits = begin_unregister(&p, &goes);
	sem_post(&go_on);
	pthread_join(adds, &result);
	assert_true(waits && pthread_join(goes, NULL) == 0 && (intptr_t)result == -ENODEV);
	assert_null(function.open);
}

static void
a_driver_that_is_asked_stays_until_it_has_answered(void **state)
{
	pthread_t adds, goes;
	sem_t entered, leave;
	struct probe p, q;
	void *result;
	bool waits;

	probe_init(&p, "p", &this_device);
	probe_init(&q, "q", &specific[3]);
	sem_init(&entered, 0, 0);
	sem_init(&leave, 0, 0);
	p.entered = &entered;
	p.leave = &leave;
	for (unsigned int refuses = 0; refuses < 2; refuses++) {
		p.refuses = refuses != 0 ? ENODEV : 0;
		assert_int_equal(vdpa_register_driver(&p.drv), 0);
		assert_int_equal(vdpa_register_driver(&q.drv), 0);
		assert_int_equal(pthread_create(&adds, NULL, add_in_thread, (void *)WORDS), 0);
		sem_wait(&entered);
		waits = begin_unregister(&p, &goes);
		sem_post(&leave);
		pthread_join(adds, &result);
		assert_true(waits && pthread_join(goes, NULL) == 0);
		/* The one that it made is gone with it; the one that another made stays. */
		assert_int_equal((intptr_t)result, 0);
		assert_int_equal(q.asked, refuses);
		assert_int_equal(function.open != NULL, refuses != 0);
		vdpa_unregister_driver(&q.drv);
		assert_null(function.open);
	}
	sem_destroy(&entered);
	sem_destroy(&leave);
}

static int
group_setup(void **state)
{
	early.ids[0] = (struct vdpa_pci_match){VDPA_PCI_DEVICE(0x1ab0, 1)};
	return vdpa_init(NULL);
}

static int
group_teardown(void **state)
{
	vdpa_cleanup();
	return 0;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_most_specific_driver_wins_whatever_the_order),
		TEST(what_does_not_match_is_not_asked),
		TEST(a_listed_function_without_a_driver_is_not_opened),
		TEST(of_equal_ones_the_first_registered_is_asked_first),
		TEST(a_driver_that_refuses_leaves_it_to_the_next),
		TEST(what_goes_while_a_driver_looks_is_not_the_next_ones),
		TEST(the_word_driver_overrules_and_is_final),
		TEST(words_of_a_listed_function_are_its_drivers),
		TEST(words_of_another_function_are_checked_twice),
		TEST(help_has_the_words_of_every_driver),
		TEST(drivers_that_cannot_be_are_refused),
		TEST(a_driver_of_a_constructor_is_there_behind_those_built_in),
		TEST(a_driver_serves_after_the_next_init),
		TEST(a_driver_whose_words_are_given_stays_until_it_is_asked),
		TEST(a_driver_that_is_asked_stays_until_it_has_answered),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
