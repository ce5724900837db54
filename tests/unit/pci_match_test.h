/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Drivers that match a function of the test kit, and refuse it or make devices; for
 * test_pci_match.c. Include it after cmocka.h. */

#ifndef PCI_MATCH_TEST_H
#define PCI_MATCH_TEST_H

#include <semaphore.h>

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

#endif /* PCI_MATCH_TEST_H */
