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

#include "fake_device.h"
#include "fake_pci.h"
#include "test_util.h"

#include "vdpa.h"
#include "vdpa_driver.h"

#define VENDOR 0x1ab4
#define DEVICE 0x0042
#define SUBVEN 0x1ab5
#define SUBSYS 0x0007

static struct fake_pci function;

/* A driver that makes devices, or refuses. */
struct probe {
	struct vdpa_driver drv;
	struct vdpa_pci_match ids[2];
	struct vdpa_param params[2];
	int refuses;	    /* errno; 0: no */
	bool silent;	    /* it refuses without a message */
	bool leaves_dma_on; /* when it refuses */
	bool pulls_out;	    /* the function is pulled out while it looks */
	bool dma_was_on;    /* when it was asked */
	unsigned int asked, depth;
	sem_t *entered, *leave; /* where it waits; NULL: nowhere */
};

/* The function goes with the device. */
struct made {
	struct vdpa_device vdev;
	struct vdpa_pci *pci;
};

static uint16_t
one_vq(struct vdpa_device *vdev)
{
	return 1;
}

static int
set_u64s(struct vdpa_device *vdev, uint16_t idx, uint64_t a, uint64_t b, uint64_t c)
{
	return 0;
}

static int
set_u32(struct vdpa_device *vdev, uint16_t idx, uint32_t value)
{
	return 0;
}

static void
kick(struct vdpa_device *vdev, uint16_t idx)
{
}

static int
set_fd(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	return 0;
}

static int
set_bool(struct vdpa_device *vdev, uint16_t idx, bool value)
{
	return 0;
}

static int
set_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state)
{
	return 0;
}

static int
get_state(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	return -EOPNOTSUPP;
}

static uint64_t
get_features(struct vdpa_device *vdev)
{
	return UINT64_C(1) << VIRTIO_F_VERSION_1;
}

static int
set_features(struct vdpa_device *vdev, uint64_t features)
{
	return 0;
}

static uint32_t
get_u32(struct vdpa_device *vdev)
{
	return 1;
}

static uint8_t
get_status(struct vdpa_device *vdev)
{
	return 0;
}

static int
set_status(struct vdpa_device *vdev, uint8_t status)
{
	return 0;
}

static int
reset(struct vdpa_device *vdev)
{
	return 0;
}

static size_t
config_size(struct vdpa_device *vdev)
{
	return 0;
}

static int
get_config(struct vdpa_device *vdev, size_t offset, void *buf, size_t len)
{
	return 0;
}

static void
made_free(struct vdpa_device *vdev)
{
	vdpa_pci_close(((struct made *)(void *)vdev)->pci);
}

static const struct vdpa_config_ops ops = {
	.size = sizeof(ops),
	.set_vq_address = set_u64s,
	.set_vq_num = set_u32,
	.kick_vq = kick,
	.set_vq_cb = set_fd,
	.set_vq_ready = set_bool,
	.set_vq_state = set_state,
	.get_vq_state = get_state,
	.get_vq_count = one_vq,
	.get_vq_num_max = one_vq,
	.get_device_features = get_features,
	.set_driver_features = set_features,
	.get_device_id = get_u32,
	.get_vendor_id = get_u32,
	.get_status = get_status,
	.set_status = set_status,
	.reset = reset,
	.get_config_size = config_size,
	.get_config = get_config,
	.free = made_free,
};

static int
pci_add(struct vdpa_driver *drv, struct vdpa_mgmt_dev *mdev, struct vdpa_pci *pci, const char *name,
	const struct vdpa_args *args)
{
	struct probe *p = (struct probe *)(void *)drv;
	struct made *made;
	int rc;

	p->asked++;
	p->dma_was_on |= (function.config[4] & 4) != 0;
	assert_int_equal(vdpa_pci_set_bus_master(pci, true), 0);
	if (p->entered != NULL) {
		sem_post(p->entered);
		sem_wait(p->leave);
	}
	if (p->pulls_out) {
		function.io_err = ENODEV;
		(void)vdpa_pci_present(pci);
		return vdpa_error(vdpa_pci_error(pci), "%s", vdpa_pci_error_text(pci));
	}
	if (!p->leaves_dma_on)
		assert_int_equal(vdpa_pci_set_bus_master(pci, false), 0);
	if (p->refuses != 0)
		return p->silent ? -p->refuses
				 : vdpa_error(p->refuses, "%s: %s does not want it",
					      vdpa_pci_name(pci), drv->name);
	if (p->params[0].name != NULL)
		p->depth = (unsigned int)vdpa_args_u64(args, p->params[0].name, 0);
	made = vdpa_alloc_device(struct made, vdev, name, &ops);
	assert_non_null(made);
	made->vdev.mdev = mdev;
	made->vdev.dma = vdpa_pci_dma(pci);
	made->pci = pci;
	rc = vdpa_register_device(&made->vdev);
	assert_int_equal(rc, 0);
	vdpa_put_device(&made->vdev);
	return 0;
}

static void
probe_init(struct probe *p, const char *name, const struct vdpa_pci_match *match)
{
	memset(p, 0, sizeof(*p));
	p->ids[0] = *match;
	p->drv = (struct vdpa_driver){.name = name,
				      .help = name,
				      .params = p->params,
				      .pci_ids = p->ids,
				      .pci_add = pci_add};
}

static void
probe_word(struct probe *p, const char *word, unsigned int max)
{
	p->params[0] = (struct vdpa_param){.name = word,
					   .type = VDPA_PARAM_UINT,
					   .metavar = "N",
					   .max = max,
					   .help = "a number"};
}

#define ANY VDPA_PCI_ANY_ID
/* From the least specific one on. */
static const struct vdpa_pci_match specific[] = {
	{.vendor = ANY, .device = ANY, .subsystem_vendor = ANY, .subsystem = ANY},
	{ANY, ANY, 0, ANY, ANY, 0x020000, 0xff0000},
	{ANY, ANY, 0, ANY, ANY, 0x020000, 0xffff00},
	{VENDOR, ANY, 0, ANY, ANY, 0, 0},
	{VENDOR, ANY, 0, ANY, ANY, 0x020000, 0xff0000},
	{VENDOR, DEVICE - 1, DEVICE, ANY, ANY, 0, 0},
	{VDPA_PCI_DEVICE(VENDOR, DEVICE)},
	{VENDOR, ANY, 0, SUBVEN, ANY, 0, 0},
	{VENDOR, DEVICE, 0, SUBVEN, ANY, 0, 0},
	{VENDOR, ANY, 0, SUBVEN, SUBSYS, 0, 0},
	{VENDOR, DEVICE, 0, SUBVEN, SUBSYS, 0, 0},
};
#define N_SPECIFIC (sizeof(specific) / sizeof(specific[0]))

static const struct vdpa_pci_match this_device = {VDPA_PCI_DEVICE(VENDOR, DEVICE)};

static void
put16(unsigned int at, unsigned int value)
{
	function.config[at] = (uint8_t)value;
	function.config[at + 1] = (uint8_t)(value >> 8);
}

static int
setup(void **state)
{
	fake_pci_init(&function, "f0");
	put16(0x00, VENDOR);
	put16(0x02, DEVICE);
	put16(0x2c, SUBVEN);
	put16(0x2e, SUBSYS);
	return 0;
}

static int
teardown(void **state)
{
	vdpa_dev_del("d0");
	assert_null(function.open);
	fake_pci_fini(&function);
	return 0;
}

#define WORDS "name d0 mgmtdev fake/f0"

static void
refused(const char *words, int err, const char *text)
{
	assert_int_equal(vdpa_dev_add(words), -err);
	if (strstr(vdpa_error_message(), text) == NULL)
		fail_msg("'%s' does not say '%s'", vdpa_error_message(), text);
	assert_null(function.open);
}

static void
added(const char *words)
{
	if (vdpa_dev_add(words) < 0)
		fail_msg("%s", vdpa_error_message());
}

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
