/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Marvell Octeon DPUs: functions that are almost virtio. Their firmware keeps virtio's structures
 * in BAR 4, behind a signature, and acknowledges each selector; a mailbox in the device
 * configuration sets and gets the place of a queue; a flag behind each doorbell is the queue's
 * interrupt, for the driver to take back.
 *
 * What is known of them comes from a public driver; no silicon was seen. See doc/guide-octep.md.
 */

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>

#include <rte_bitops.h>
#include <rte_common.h>

#include "vdpa_virtio.h"

#define VENDOR_CAVIUM 0x177d

#ifndef VIRTIO_F_NOTIFICATION_DATA
#define VIRTIO_F_NOTIFICATION_DATA 38
#endif

#define CAPS_BAR 4

/* The first bytes of BAR 4, once the firmware is ready. */
#define SIGNATURE_KIND	0xfeedfeedu
#define SIGNATURE_READY 0x3355ffaau

/* A selector is written with this bit, which the firmware clears when it has taken the value. */
#define SELECT_PENDING 0x8000u

#define STATUS_RESET 0x80

/* A capability of the vendor's: {id, next, length, type}, vendor, what it is, BAR, value. */
#define VENDOR_CAP_WHAT	 6
#define VENDOR_CAP_VALUE 8
#define WHAT_VIRTIO_ID	 0

/* The mailbox, in the device configuration. */
enum {
	MBOX = 64,
	MBOX_ID = MBOX + 2, /* 16 bits */
	MBOX_SIGNATURE = MBOX + 6,
	MBOX_STATUS = MBOX + 8, /* 32 bits */
	MBOX_DATA = MBOX + 24,	/* words: the queue, then its state */
	MBOX_END = MBOX_DATA + 3 * 4,
};
#define MBOX_SET_STATE	   1
#define MBOX_GET_STATE	   2
#define MBOX_REQUEST	   0xdead
#define MBOX_RESPONSE	   0xbeef
#define MBOX_STATUS_DONE   0x0001u
#define MBOX_STATUS_ERRORS 0xfffeu

/* Words of a queue's state. A split ring's is the index in the first; a packed ring's are positions
 * with the wrap counter below, of the avail side in the lower half, of the used side above. */
#define STATE_WORDS 2

#define VECTORS_MAX 8
#define FLAG_OFFSET 4 /* of a queue's interrupt flag, behind its doorbell; 32 bits */

/* The function. */

static int
octep_find(struct vdpa_virtio_pci *hw)
{
	struct vdpa_virtio_wait wait;
	const struct vdpa_virtio_part *parts[] = {&hw->common, &hw->notify, &hw->isr, &hw->config};
	const char *name = vdpa_pci_name(hw->pci);
	uint32_t kind = 0;
	int rc;

	if (vdpa_pci_bar_has(hw->pci, CAPS_BAR, 0, 8))
		kind = vdpa_pci_read32(hw->pci, CAPS_BAR, 0);
	rc = vdpa_virtio_pci_check(hw);
	if (rc < 0)
		return rc;
	if (kind != SIGNATURE_KIND)
		return vdpa_error(ENODEV, "%s: BAR %u has no signature of an Octeon function", name,
				  CAPS_BAR);
	vdpa_virtio_wait_start(&wait, hw);
	while (vdpa_pci_read32(hw->pci, CAPS_BAR, 4) != SIGNATURE_READY) {
		rc = vdpa_virtio_pci_check(hw);
		if (rc < 0)
			return rc;
		if (!vdpa_virtio_wait(&wait))
			return vdpa_error(ETIMEDOUT,
					  "%s: the firmware is not ready within %u ms; is its "
					  "virtio application running on the DPU?",
					  name, wait.ms);
	}
	rc = vdpa_virtio_pci_bar_caps(hw, CAPS_BAR, 0);
	if (rc < 0)
		return rc;
	for (unsigned int i = 0; i < RTE_DIM(parts); i++)
		if (parts[i]->length == 0 || parts[i]->bar != CAPS_BAR)
			return vdpa_error(EPROTO,
					  "%s: structure %u of virtio is missing, or not in BAR %u",
					  name, i + 1, CAPS_BAR);
	/* Firmware without the capability that names the device id makes net devices. */
	if (hw->type == 0)
		hw->type = VIRTIO_ID_NET;
	return 0;
}

static int
octep_vendor_cap(struct vdpa_virtio_pci *hw, unsigned int pos)
{
	if (vdpa_pci_bar_has(hw->pci, CAPS_BAR, pos, VENDOR_CAP_VALUE + 4) &&
	    vdpa_pci_read8(hw->pci, CAPS_BAR, pos + VENDOR_CAP_WHAT) == WHAT_VIRTIO_ID)
		hw->type = vdpa_pci_read8(hw->pci, CAPS_BAR, pos + VENDOR_CAP_VALUE);
	return vdpa_virtio_pci_check(hw);
}

static bool
octep_select(struct vdpa_virtio_pci *hw, enum vdpa_virtio_selector selector, uint16_t value)
{
	uint64_t at = (uint64_t)hw->common.offset + selector;
	bool is_queue = selector == VDPA_VIRTIO_SELECT_QUEUE;
	struct vdpa_virtio_wait wait;
	uint32_t now;

	/* It would look like one that is taken. */
	if ((value & SELECT_PENDING) != 0)
		return false;
	if (is_queue)
		vdpa_pci_write16(hw->pci, CAPS_BAR, at, (uint16_t)(value | SELECT_PENDING));
	else
		vdpa_pci_write32(hw->pci, CAPS_BAR, at, value | SELECT_PENDING);
	vdpa_virtio_wait_start(&wait, hw);
	for (;;) {
		now = is_queue ? vdpa_pci_read16(hw->pci, CAPS_BAR, at)
			       : vdpa_pci_read32(hw->pci, CAPS_BAR, at);
		if (now == value)
			return true;
		if (vdpa_pci_error(hw->pci) < 0 || !vdpa_virtio_wait(&wait))
			return false;
	}
}

static const struct vdpa_virtio_pci_ops octep_pci = {
	.find = octep_find,
	.vendor_cap = octep_vendor_cap,
	.select = octep_select,
	.reset_status = STATUS_RESET,
};

/* The mailbox. */

static uint64_t
config_at(const struct vdpa_virtio_pci *hw, uint32_t offset)
{
	return (uint64_t)hw->config.offset + offset;
}

static int
wait_mbox(struct vdpa_virtio_pci *hw, const char *what)
{
	uint64_t at = config_at(hw, MBOX_STATUS);
	struct vdpa_virtio_wait wait;
	int rc;

	vdpa_virtio_wait_start(&wait, hw);
	while ((vdpa_pci_read32(hw->pci, CAPS_BAR, at) & MBOX_STATUS_DONE) == 0) {
		rc = vdpa_virtio_pci_check(hw);
		if (rc < 0)
			return rc;
		if (!vdpa_virtio_wait(&wait))
			return vdpa_error(ETIMEDOUT, "%s: the mailbox %s within %u ms",
					  vdpa_pci_name(hw->pci), what, wait.ms);
	}
	return vdpa_virtio_pci_check(hw);
}

/* Whatever was asked before: a reset may have lost it. */
static void
free_mbox(struct vdpa_virtio_pci *hw)
{
	vdpa_pci_write32(hw->pci, CAPS_BAR, config_at(hw, MBOX_STATUS), MBOX_STATUS_DONE);
}

static int
octep_reset(struct vdpa_device *vdev)
{
	int rc = vdpa_virtio_ops()->reset(vdev);

	if (rc == 0)
		free_mbox(vdpa_virtio_device(vdev)->hw);
	return rc;
}

/* One request: MBOX_SET_STATE sends the state, MBOX_GET_STATE fills it in. */
static int
call_mbox(struct vdpa_device *vdev, uint16_t id, uint16_t idx, uint32_t state[STATE_WORDS])
{
	struct vdpa_virtio_pci *hw = vdpa_virtio_device(vdev)->hw;
	uint64_t data = config_at(hw, MBOX_DATA);
	struct vdpa_pci *pci = hw->pci;
	uint32_t status;
	int rc = wait_mbox(hw, "is not free");

	if (rc < 0)
		return rc;
	vdpa_pci_write32(pci, CAPS_BAR, data, idx);
	for (unsigned int i = 0; id == MBOX_SET_STATE && i < STATE_WORDS; i++)
		vdpa_pci_write32(pci, CAPS_BAR, data + 4 * (i + 1), state[i]);
	vdpa_pci_write32(pci, CAPS_BAR, config_at(hw, MBOX_STATUS), 0);
	vdpa_pci_write16(pci, CAPS_BAR, config_at(hw, MBOX_ID), id);
	vdpa_pci_write16(pci, CAPS_BAR, config_at(hw, MBOX_SIGNATURE), MBOX_REQUEST);
	rc = wait_mbox(hw, "does not answer");
	if (rc < 0)
		return rc;
	if (vdpa_pci_read16(pci, CAPS_BAR, config_at(hw, MBOX_SIGNATURE)) != MBOX_RESPONSE)
		return vdpa_error(EPROTO, "%s: the mailbox answers without the signature of one",
				  vdpa_pci_name(pci));
	status = vdpa_pci_read32(pci, CAPS_BAR, config_at(hw, MBOX_STATUS));
	if ((status & MBOX_STATUS_ERRORS) != 0)
		return vdpa_error(EIO, "%s: queue %u: the mailbox refuses request %u with error %u",
				  vdpa_pci_name(pci), idx, id, (status & MBOX_STATUS_ERRORS) >> 1);
	for (unsigned int i = 0; id == MBOX_GET_STATE && i < STATE_WORDS; i++)
		state[i] = vdpa_pci_read32(pci, CAPS_BAR, data + 4 * (i + 1));
	return vdpa_virtio_pci_check(hw);
}

static int
octep_set_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state)
{
	uint32_t words[STATE_WORDS] = {state->split.avail_index};

	if (vdpa_virtio_is_packed(vdev))
		words[0] = (state->packed.last_avail_counter & 1u) |
			   (uint32_t)state->packed.last_avail_idx << 1 |
			   (state->packed.last_used_counter & 1u) << 16 |
			   (uint32_t)state->packed.last_used_idx << 17;
	return call_mbox(vdev, MBOX_SET_STATE, idx, words);
}

static int
octep_get_vq_state(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	uint32_t words[STATE_WORDS];
	int rc;

	if (vdpa_virtio_vq_runs(vdpa_virtio_device(vdev), idx))
		return vdpa_error(EOPNOTSUPP, "queue %u runs: its place changes", idx);
	rc = call_mbox(vdev, MBOX_GET_STATE, idx, words);
	if (rc < 0)
		return rc;
	*state = (struct vdpa_vq_state){0};
	if (vdpa_virtio_is_packed(vdev)) {
		state->packed.last_avail_counter = words[0] & 1;
		state->packed.last_avail_idx = words[0] >> 1 & 0x7fff;
		state->packed.last_used_counter = words[0] >> 16 & 1;
		state->packed.last_used_idx = (uint16_t)(words[0] >> 17);
	} else {
		state->split.avail_index = (uint16_t)words[0];
	}
	return 0;
}

/* Interrupts. */

static uint64_t
flag_at(const struct vdpa_virtio_device *dev, uint16_t idx)
{
	return (uint64_t)dev->hw->notify.offset + vdpa_virtio_vq_info(dev, idx)->doorbell +
	       FLAG_OFFSET;
}

static bool
octep_take_interrupt(struct vdpa_virtio_device *dev, uint16_t idx)
{
	uint64_t at = flag_at(dev, idx);

	if (vdpa_pci_read32(dev->hw->pci, CAPS_BAR, at) == 0)
		return false;
	vdpa_pci_write32(dev->hw->pci, CAPS_BAR, at, 0);
	return true;
}

/* The flag lies in the doorbell's page: not for a guest to write. */
static int
octep_get_vq_notification(struct vdpa_device *vdev, uint16_t idx,
			  struct vdpa_notification_area *area)
{
	return -EOPNOTSUPP;
}

static uint32_t
octep_get_vendor_id(struct vdpa_device *vdev)
{
	return VENDOR_CAVIUM;
}

/* The device. */

static int
octep_init(struct vdpa_virtio_device *dev, const struct vdpa_args *args)
{
	uint64_t needed = RTE_BIT64(VIRTIO_F_VERSION_1) | RTE_BIT64(VIRTIO_F_NOTIFICATION_DATA) |
			  RTE_BIT64(VIRTIO_F_RING_PACKED);
	uint64_t missing = needed & ~vdpa_virtio_hw_features(dev);
	const char *name = vdpa_pci_name(dev->hw->pci);

	if (missing != 0)
		return vdpa_error(EPROTO, "%s: the firmware does not offer the features 0x%" PRIx64,
				  name, missing);
	if (dev->hw->config.length < MBOX_END)
		return vdpa_error(EPROTO,
				  "%s: the device configuration of 0x%x bytes has no mailbox", name,
				  dev->hw->config.length);
	for (uint16_t i = 0; i < dev->vdev.config->get_vq_count(&dev->vdev); i++)
		if (vdpa_virtio_vq_info(dev, i)->doorbell + 2 * FLAG_OFFSET >
			    dev->hw->notify.length ||
		    flag_at(dev, i) % 4 != 0)
			return vdpa_error(EPROTO,
					  "%s: queue %u: the interrupt flag behind its doorbell is "
					  "not in the notification structure",
					  name, i);
	/* A process before this one may have left a request unanswered: the mailbox is free. */
	free_mbox(dev->hw);
	return vdpa_virtio_pci_check(dev->hw);
}

static const struct vdpa_config_ops ops = {
	.size = sizeof(ops),
	.set_vq_state = octep_set_vq_state,
	.get_vq_state = octep_get_vq_state,
	.get_vq_notification = octep_get_vq_notification,
	.reset = octep_reset,
	.get_vendor_id = octep_get_vendor_id,
};

static int
octep_add(struct vdpa_driver *drv, struct vdpa_mgmt_dev *mdev, struct vdpa_pci *pci,
	  const char *name, const struct vdpa_args *args)
{
	static const struct vdpa_virtio_kind kind = {
		.pci = &octep_pci,
		.ops = &ops,
		.init = octep_init,
		.queue_enable_stops = true,
		.take_interrupt = octep_take_interrupt,
		.max_vectors = VECTORS_MAX,
	};

	return vdpa_virtio_add(&kind, mdev, pci, name, args);
}

static const struct vdpa_param params[] = {VDPA_VIRTIO_PARAMS, {0}};

static const struct vdpa_pci_match ids[] = {
	{VDPA_PCI_DEVICE(VENDOR_CAVIUM, 0xb903)}, /* VF of CN106K */
	{VDPA_PCI_DEVICE(VENDOR_CAVIUM, 0xba03)}, /* VF of CN105K */
	{VDPA_PCI_DEVICE(VENDOR_CAVIUM, 0xbd03)}, /* VF of CN103K */
	{VDPA_PCI_DEVICE(VENDOR_CAVIUM, 0xb900)}, /* their PFs */
	{VDPA_PCI_DEVICE(VENDOR_CAVIUM, 0xba00)}, {VDPA_PCI_DEVICE(VENDOR_CAVIUM, 0xbd00)}, {0},
};

struct vdpa_driver vdpa_octep_driver = {
	.name = "octep",
	.help = "Marvell Octeon DPU function, with ring state",
	.params = params,
	.pci_ids = ids,
	.pci_add = octep_add,
};
