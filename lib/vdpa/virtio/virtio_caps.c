/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Where the structures of a virtio-pci function lie: the capabilities that name them (virtio 1.2,
 * 4.1.4), in configuration space or in a list of the same shape inside a BAR, each checked against
 * the BAR before it is believed; and what type the function has.
 */

#include <errno.h>
#include <inttypes.h>

#include <linux/pci_regs.h>

#include <rte_byteorder.h>
#include <rte_common.h>

#include "virtio_pci_priv.h"

/* Device ids (4.1.2): of transitional devices up to the first of modern ones. */
#define PCI_DEVICE_LEGACY 0x1000
#define PCI_DEVICE_MODERN 0x1040
#define PCI_DEVICE_END	  0x1080

/* A list that is longer than its space has room for loops. */
#define CAPS_SPACE 256
#define CAPS_MAX   (CAPS_SPACE / 4)

struct cap {
	uint8_t vndr, next, len, type, bar, id, padding[2];
	uint32_t offset, length;
	uint32_t multiplier; /* VDPA_VIRTIO_CAP_NOTIFY only */
} __attribute__((packed));
_Static_assert(sizeof(struct cap) == 20, "struct virtio_pci_notify_cap of virtio 1.2, 4.1.4.4");

#define CAP_SIZE	offsetof(struct cap, multiplier)
#define NOTIFY_CAP_SIZE sizeof(struct cap)

/* The space that has the list. */
struct space {
	struct vdpa_virtio_pci *hw;
	bool in_bar; /* else it is the configuration space */
	unsigned int bar;
	uint32_t base;
};

static int
read_space(const struct space *space, unsigned int pos, void *buf, size_t len)
{
	struct vdpa_virtio_pci *hw = space->hw;

	if (!space->in_bar)
		return vdpa_pci_config_read(hw->pci, pos, buf, len);
	for (size_t i = 0; i < len; i++)
		((uint8_t *)buf)[i] =
			vdpa_pci_read8(hw->pci, space->bar, (uint64_t)space->base + pos + i);
	return vdpa_virtio_pci_check(hw);
}

/* What a structure must have at least, and how it is aligned (4.1.4). */
static const struct cap_rule {
	const char *name;
	uint32_t size, align;
} cap_rules[] = {
	[VDPA_VIRTIO_CAP_COMMON] = {"common configuration", VIRTIO_COMMON_SIZE, 4},
	[VDPA_VIRTIO_CAP_NOTIFY] = {"notification", VIRTIO_DOORBELL_SIZE, 2},
	[VDPA_VIRTIO_CAP_ISR] = {"ISR status", 1, 1},
	[VDPA_VIRTIO_CAP_DEVICE] = {"device configuration", 1, 4},
};

static struct vdpa_virtio_part *
part_of(struct vdpa_virtio_pci *hw, uint8_t type)
{
	switch (type) {
	case VDPA_VIRTIO_CAP_COMMON:
		return &hw->common;
	case VDPA_VIRTIO_CAP_NOTIFY:
		return &hw->notify;
	case VDPA_VIRTIO_CAP_ISR:
		return &hw->isr;
	case VDPA_VIRTIO_CAP_DEVICE:
		return &hw->config;
	default:
		return NULL;
	}
}

/* Take one capability over into hw, or pass it by. */
static int
take_cap(const struct space *space, unsigned int pos)
{
	struct vdpa_virtio_pci *hw = space->hw;
	const char *name = vdpa_pci_name(hw->pci);
	const struct cap_rule *rule;
	struct vdpa_virtio_part *part;
	struct cap cap = {0};
	uint32_t offset, length, multiplier;
	int rc;

	if (pos + CAP_SIZE > CAPS_SPACE)
		return vdpa_error(EPROTO, "%s: the capability at 0x%02x is cut off", name, pos);
	rc = read_space(space, pos, &cap, CAP_SIZE);
	if (rc < 0)
		return rc;
	if (cap.bar < VDPA_PCI_BARS && cap.type != VDPA_VIRTIO_CAP_VENDOR)
		hw->cap_bars |= 1u << cap.bar;
	if (cap.type == VDPA_VIRTIO_CAP_VENDOR && hw->ops->vendor_cap != NULL)
		return hw->ops->vendor_cap(hw, pos);
	part = part_of(hw, cap.type);
	/* Others are not ours to use; of one kind the first that we can use counts (4.1.4.1). */
	if (part == NULL || part->length > 0)
		return 0;
	rule = &cap_rules[cap.type];
	if (cap.len < (cap.type == VDPA_VIRTIO_CAP_NOTIFY ? NOTIFY_CAP_SIZE : CAP_SIZE))
		return vdpa_error(EPROTO, "%s: the %s capability at 0x%02x has %u bytes", name,
				  rule->name, pos, cap.len);
	/* Reserved BARs must be passed by; ones that are I/O ports we cannot reach. */
	if (cap.bar >= VDPA_PCI_BARS || vdpa_pci_bar_size(hw->pci, cap.bar) == 0)
		return 0;
	if (cap.type == VDPA_VIRTIO_CAP_NOTIFY) {
		if (pos + NOTIFY_CAP_SIZE > CAPS_SPACE)
			return vdpa_error(EPROTO, "%s: the capability at 0x%02x is cut off", name,
					  pos);
		rc = read_space(space, pos + (unsigned int)CAP_SIZE, &cap.multiplier,
				sizeof(cap.multiplier));
		if (rc < 0)
			return rc;
		multiplier = rte_le_to_cpu_32(cap.multiplier);
		/* 0 or an even power of two (4.1.4.4). */
		if (multiplier == 1 || (multiplier & (multiplier - 1)) != 0)
			return vdpa_error(EPROTO,
					  "%s: the notification multiplier %u is not even "
					  "or no power of two",
					  name, multiplier);
		hw->multiplier = multiplier;
	}
	offset = rte_le_to_cpu_32(cap.offset);
	length = rte_le_to_cpu_32(cap.length);
	if (!vdpa_pci_bar_has(hw->pci, cap.bar, offset, length))
		return vdpa_error(EPROTO,
				  "%s: the %s capability at 0x%02x points outside of BAR %u: 0x%x "
				  "bytes at 0x%x, the BAR has 0x%" PRIx64,
				  name, rule->name, pos, cap.bar, length, offset,
				  vdpa_pci_bar_size(hw->pci, cap.bar));
	if (length < rule->size)
		return vdpa_error(EPROTO, "%s: the %s structure has %u bytes, it needs %u", name,
				  rule->name, length, rule->size);
	if (offset % rule->align != 0)
		return vdpa_error(EPROTO, "%s: the %s structure at 0x%x is not aligned to %u", name,
				  rule->name, offset, rule->align);
	*part = (struct vdpa_virtio_part){.bar = cap.bar, .offset = offset, .length = length};
	return 0;
}

/* What must be there is there. */
static int
check_parts(const struct vdpa_virtio_pci *hw)
{
	const char *name = vdpa_pci_name(hw->pci);
	bool no_notify = hw->notify.length == 0;

	if (hw->common.length == 0)
		return vdpa_error(
			ENOTSUP,
			"%s: a legacy-only virtio device: it has no common configuration "
			"capability in a memory BAR; where the host makes it, let it offer "
			"the modern interface (QEMU: disable-modern=off)",
			name);
	if (no_notify || hw->isr.length == 0)
		return vdpa_error(
			EPROTO, "%s: the device has no %s capability", name,
			cap_rules[no_notify ? VDPA_VIRTIO_CAP_NOTIFY : VDPA_VIRTIO_CAP_ISR].name);
	return 0;
}

int
vdpa_virtio_pci_find(struct vdpa_virtio_pci *hw)
{
	const struct vdpa_pci_id *id = vdpa_pci_get_id(hw->pci);
	const struct space space = {.hw = hw};
	int pos = 0, rc;

	if (id->device < PCI_DEVICE_LEGACY || id->device >= PCI_DEVICE_END)
		return vdpa_error(ENODEV, "%s: %04x:%04x is not a virtio device",
				  vdpa_pci_name(hw->pci), id->vendor, id->device);
	hw->type = id->device >= PCI_DEVICE_MODERN ? (uint16_t)(id->device - PCI_DEVICE_MODERN)
						   : id->subsystem;
	for (;;) {
		pos = vdpa_pci_find_cap(hw->pci, PCI_CAP_ID_VNDR, (unsigned int)pos);
		if (pos == -ENOENT)
			return check_parts(hw);
		if (pos < 0)
			return pos;
		rc = take_cap(&space, (unsigned int)pos);
		if (rc < 0)
			return rc;
	}
}

int
vdpa_virtio_pci_bar_caps(struct vdpa_virtio_pci *hw, unsigned int bar, uint32_t base)
{
	const struct space space = {.hw = hw, .in_bar = true, .bar = bar, .base = base};
	uint8_t pos, id_next[2];
	int rc;

	if (!vdpa_pci_bar_has(hw->pci, bar, base, CAPS_SPACE))
		return vdpa_error(EPROTO, "%s: BAR %u has no room for capabilities at 0x%x",
				  vdpa_pci_name(hw->pci), bar, base);
	rc = read_space(&space, PCI_CAPABILITY_LIST, &pos, sizeof(pos));
	for (unsigned int n = 0; rc == 0 && pos != 0; n++) {
		if (n == CAPS_MAX || pos < PCI_STD_HEADER_SIZEOF || pos % 4 != 0)
			return vdpa_error(EPROTO,
					  "%s: the capability list in BAR %u loops or leaves it",
					  vdpa_pci_name(hw->pci), bar);
		rc = read_space(&space, pos, id_next, sizeof(id_next));
		if (rc == 0 && id_next[0] == PCI_CAP_ID_VNDR)
			rc = take_cap(&space, pos);
		pos = id_next[1];
	}
	return rc < 0 ? rc : check_parts(hw);
}
