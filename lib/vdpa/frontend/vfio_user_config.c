/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Configuration space of a virtio-pci function: header, BARs, capabilities. Bytes, and beside each
 * the bits that a write changes; what a write means beyond that is in vdpa_vp_config_write().
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/pci_regs.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>
#include <rte_bitops.h>
#include <rte_byteorder.h>
#include <rte_common.h>

#include "le_bytes.h"
#include "vfio_user_function.h"
#include "vfio_user_function_priv.h"

#define VENDOR_VIRTIO	     0x1af4
#define DEVICE_MODERN	     0x1040 /* plus virtio's device id */
#define REVISION_MODERN	     1
#define SUBSYSTEM_MODERN     0x1100 /* as QEMU has it: nobody's legacy function */
#define CLASS_NETWORK	     0x020000
#define CLASS_STORAGE	     0x010000
#define CLASS_OTHER	     0xff0000
#define PCIE_CAP_LEN	     0x3c
#define MSIX_CAP_LEN	     12
#define CONFIG_HEADER_LEN    0x40
#define BAR_ALIGN_MIN	     VP_PAGE
#define MSIX_ENTRY_LEN	     16
#define VECTORS_PER_PBA_WORD 64

/* A BAR's own address, and which of its bits can be written: all above the size. */
static void
add_bar(struct vp_function *vp, unsigned int bar, uint64_t size, uint32_t flags)
{
	unsigned int at = PCI_BASE_ADDRESS_0 + 4 * bar;
	uint64_t mask = ~(size - 1);

	vp->bar_size[bar] = size;
	le_put32(vp->config + at, flags);
	le_put32(vp->wmask + at, (uint32_t)mask);
	if ((flags & PCI_BASE_ADDRESS_MEM_TYPE_64) != 0)
		le_put32(vp->wmask + at + 4, (uint32_t)(mask >> 32));
}

uint8_t
vdpa_vp_add_cap(uint8_t *space, uint8_t *end, uint8_t id, uint8_t len)
{
	uint8_t at = *end;

	space[at] = id;
	space[at + 1] = space[PCI_CAPABILITY_LIST];
	space[PCI_CAPABILITY_LIST] = at;
	*end = (uint8_t)RTE_ALIGN_CEIL(at + len, 4);
	return at;
}

static uint8_t
add_virtio_cap(uint8_t *space, uint8_t *end, uint8_t type, unsigned int bar, uint32_t offset,
	       uint32_t len, uint8_t cap_len)
{
	struct virtio_pci_cap cap;
	uint8_t at = vdpa_vp_add_cap(space, end, PCI_CAP_ID_VNDR, cap_len);

	memcpy(&cap, space + at, sizeof(cap));
	cap.cap_len = cap_len;
	cap.cfg_type = type;
	cap.bar = (uint8_t)bar;
	cap.offset = rte_cpu_to_le_32(offset);
	cap.length = rte_cpu_to_le_32(len);
	memcpy(space + at, &cap, sizeof(cap));
	return at;
}

uint8_t
vdpa_vp_add_virtio_caps(const struct vp_function *vp, uint8_t *space, uint8_t *end)
{
	const uint8_t len = sizeof(struct virtio_pci_cap);
	uint8_t at;

	at = add_virtio_cap(space, end, VIRTIO_PCI_CAP_NOTIFY_CFG, vp->bar, vp_notify_offset(vp),
			    (uint32_t)vp->notify_len, sizeof(struct virtio_pci_notify_cap));
	le_put32(space + at + VIRTIO_PCI_NOTIFY_CAP_MULT, vp->params.notify_mult);
	if (vp->device_len > 0)
		add_virtio_cap(space, end, VIRTIO_PCI_CAP_DEVICE_CFG, vp->bar,
			       vp->base + VP_DEVICE_OFFSET, vp->device_len, len);
	add_virtio_cap(space, end, VIRTIO_PCI_CAP_ISR_CFG, vp->bar, vp->base + VP_ISR_OFFSET, 1,
		       len);
	return add_virtio_cap(space, end, VIRTIO_PCI_CAP_COMMON_CFG, vp->bar,
			      vp->base + VP_COMMON_OFFSET, VP_COMMON_LEN, len);
}

void
vdpa_vp_spoil_cap(const struct vp_function *vp, uint8_t *space)
{
	if (!vp_does(vp, VFU_STEP_CAPABILITY))
		le_put32(space + vp->common_cap + VIRTIO_PCI_CAP_OFFSET,
			 (uint32_t)vp->bar_size[vp->bar]);
}

static void
add_msix(struct vp_function *vp, uint8_t *end)
{
	uint8_t at = vdpa_vp_add_cap(vp->config, end, PCI_CAP_ID_MSIX, MSIX_CAP_LEN);

	vp->msix_cap = at;
	le_put16(vp->config + at + PCI_MSIX_FLAGS, (uint16_t)(vp->params.vectors - 1));
	le_put32(vp->config + at + PCI_MSIX_TABLE, VP_BAR_MSIX);
	le_put32(vp->config + at + PCI_MSIX_PBA, VP_BAR_PBA);
	le_put16(vp->wmask + at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
}

static void
add_pcie(struct vp_function *vp, uint8_t *end)
{
	uint8_t at = vdpa_vp_add_cap(vp->config, end, PCI_CAP_ID_EXP, PCIE_CAP_LEN);

	vp->pcie_cap = at;
	le_put16(vp->config + at + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_ENDPOINT << 4);
	le_put32(vp->config + at + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_RBER | PCI_EXP_DEVCAP_FLR);
	le_put16(vp->wmask + at + PCI_EXP_DEVCTL, 0x7fff);
	/* One lane at 2.5 GT/s: the least that is valid. */
	le_put32(vp->config + at + PCI_EXP_LNKCAP, PCI_EXP_LNKCAP_SLS_2_5GB | 1 << 4);
	le_put16(vp->config + at + PCI_EXP_LNKSTA, PCI_EXP_LNKSTA_CLS_2_5GB | 1 << 4);
}

static uint32_t
class_code(uint32_t device_id)
{
	switch (device_id) {
	case VIRTIO_ID_NET:
		return CLASS_NETWORK;
	case VIRTIO_ID_BLOCK:
		return CLASS_STORAGE;
	default:
		return CLASS_OTHER;
	}
}

static void
add_bars(struct vp_function *vp)
{
	const struct vp_kind *kind = vp->kind;
	uint64_t table =
		RTE_MAX((uint64_t)vp->params.vectors * MSIX_ENTRY_LEN, (uint64_t)BAR_ALIGN_MIN);
	uint64_t own = kind->own_bar_size != NULL ? kind->own_bar_size(vp) : 0;
	/* The last BARs but one have room for 64 bits, the first has a neighbour. */
	bool wide = vp->bar == VP_BAR_VIRTIO;

	add_bar(vp, VP_BAR_MSIX, rte_align64pow2(table), 0);
	add_bar(vp, VP_BAR_PBA, BAR_ALIGN_MIN, 0);
	add_bar(vp, vp->bar, rte_align64pow2(vp_notify_offset(vp) + vp->notify_len),
		wide ? PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH : 0);
	if (own > 0)
		add_bar(vp, kind->own_bar, RTE_MAX(rte_align64pow2(own), (uint64_t)BAR_ALIGN_MIN),
			0);
}

/* The capability that reaches BARs through configuration space (4.1.4.9). */
static void
add_access_cap(struct vp_function *vp, uint8_t *end)
{
	uint8_t at = add_virtio_cap(vp->config, end, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0,
				    sizeof(struct virtio_pci_cfg_cap));
	uint8_t *w = vp->wmask + at;

	vp->access_cap = at;
	w[VIRTIO_PCI_CAP_BAR] = 0xff;
	le_put32(w + VIRTIO_PCI_CAP_OFFSET, UINT32_MAX);
	le_put32(w + VIRTIO_PCI_CAP_LENGTH, UINT32_MAX);
	le_put32(w + sizeof(struct virtio_pci_cap), UINT32_MAX);
}

static void
set_ids(struct vp_function *vp)
{
	const struct vp_params *p = &vp->params;
	struct vp_ids *ids = &vp->ids;

	*ids = (struct vp_ids){VENDOR_VIRTIO, (uint16_t)(DEVICE_MODERN + p->device_id),
			       VENDOR_VIRTIO, SUBSYSTEM_MODERN};
	if (vp->kind->ids != NULL)
		vp->kind->ids(p->device_id, ids);
	if (p->pci_id != 0) {
		ids->vendor = (uint16_t)(p->pci_id >> 16);
		ids->device = (uint16_t)p->pci_id;
	}
	if (p->pci_sub != 0) {
		ids->sub_vendor = (uint16_t)(p->pci_sub >> 16);
		ids->sub_device = (uint16_t)p->pci_sub;
	}
}

void
vdpa_vp_config_init(struct vp_function *vp)
{
	uint8_t end = CONFIG_HEADER_LEN;
	uint8_t *c = vp->config, *w = vp->wmask;

	set_ids(vp);
	le_put16(c + PCI_VENDOR_ID, vp->ids.vendor);
	le_put16(c + PCI_DEVICE_ID, vp->ids.device);
	le_put16(c + PCI_STATUS, PCI_STATUS_CAP_LIST);
	le_put32(c + PCI_CLASS_REVISION, class_code(vp->params.device_id) << 8 | REVISION_MODERN);
	le_put16(c + PCI_SUBSYSTEM_VENDOR_ID, vp->ids.sub_vendor);
	le_put16(c + PCI_SUBSYSTEM_ID, vp->ids.sub_device);
	c[PCI_INTERRUPT_PIN] = 1;
	le_put16(w + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY |
					  PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
	w[PCI_CACHE_LINE_SIZE] = 0xff;
	w[PCI_INTERRUPT_LINE] = 0xff;

	add_bars(vp);
	/* The list has them in the opposite order. */
	add_pcie(vp, &end);
	if (!vp->kind->caps_in_bar) {
		add_access_cap(vp, &end);
		vp->common_cap = vdpa_vp_add_virtio_caps(vp, vp->config, &end);
	}
	add_msix(vp, &end);
}

void
vdpa_vp_config_reset(struct vp_function *vp)
{
	for (unsigned int i = 0; i < sizeof(vp->config); i++)
		vp->config[i] &= (uint8_t)~vp->wmask[i];
}

uint64_t
vdpa_vp_bar_shown(const struct vp_function *vp, unsigned int bar)
{
	if (bar == vp->bar && !vp_does(vp, VFU_STEP_BAR))
		return vp->base + VP_DEVICE_OFFSET;
	return vp->bar_size[bar];
}

/* The BAR and range that the PCI configuration access capability (4.1.4.9) selects. */
static bool
access_target(const struct vp_function *vp, unsigned int *bar, uint32_t *offset, uint32_t *len)
{
	const uint8_t *cap = vp->config + vp->access_cap;

	if (vp->access_cap == 0)
		return false;
	*bar = cap[VIRTIO_PCI_CAP_BAR];
	*offset = le_get32(cap + VIRTIO_PCI_CAP_OFFSET);
	*len = le_get32(cap + VIRTIO_PCI_CAP_LENGTH);
	return *bar < RTE_DIM(vp->bar_size) && (*len == 1 || *len == 2 || *len == 4) &&
	       *offset % *len == 0 && *offset < vp->bar_size[*bar];
}

static bool
touches(uint64_t offset, size_t len, unsigned int first, unsigned int n)
{
	return offset < first + n && offset + len > first;
}

void
vdpa_vp_config_read(struct vp_function *vp, uint64_t offset, void *buf, size_t len)
{
	unsigned int data = vp->access_cap + (unsigned int)sizeof(struct virtio_pci_cap), bar;
	uint8_t config[sizeof(vp->config)], *out = buf;
	uint32_t at, n;

	if (!vp_does(vp, VFU_STEP_ANSWER)) {
		memset(buf, 0xff, len);
		return;
	}
	if (touches(offset, len, data, 4) && access_target(vp, &bar, &at, &n))
		vdpa_vp_bar_read(vp, bar, at, vp->config + data, n);
	memcpy(config, vp->config, sizeof(config));
	if (vp->isr != 0)
		config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
	if (!vp->kind->caps_in_bar)
		vdpa_vp_spoil_cap(vp, config);
	for (size_t i = 0; i < len; i++) {
		if (offset + i < sizeof(config))
			out[i] = config[offset + i];
		else
			out[i] = offset + i < VP_CONFIG_SIZE ? 0 : 0xff;
	}
}

void
vdpa_vp_config_write(struct vp_function *vp, uint64_t offset, const void *buf, size_t len)
{
	unsigned int data = vp->access_cap + (unsigned int)sizeof(struct virtio_pci_cap), bar;
	const uint8_t *in = buf;
	bool flr = false;
	uint32_t at, n;

	if (!vp_does(vp, VFU_STEP_ANSWER))
		return;
	for (size_t i = 0; i < len && offset + i < sizeof(vp->config); i++) {
		uint8_t mask = vp->wmask[offset + i], *c = &vp->config[offset + i];

		*c = (uint8_t)((*c & ~mask) | (in[i] & mask));
		if (offset + i == vp->pcie_cap + PCI_EXP_DEVCTL + 1u)
			flr = (in[i] & PCI_EXP_DEVCTL_BCR_FLR >> 8) != 0;
	}
	if (flr) {
		vdpa_vp_function_reset(vp);
		return;
	}
	if (touches(offset, len, data, 4) && access_target(vp, &bar, &at, &n))
		vdpa_vp_bar_write(vp, bar, at, vp->config + data, n);
	if (touches(offset, len, PCI_COMMAND, 2)) {
		vp->params.ops->bus_master(vp->params.arg);
		vp->params.ops->intx(vp->params.arg);
	}
}

bool
vdpa_vp_bus_master(const struct vp_function *vp)
{
	return (vp->config[PCI_COMMAND] & PCI_COMMAND_MASTER) != 0;
}

bool
vdpa_vp_intx_level(const struct vp_function *vp)
{
	return vp->isr != 0 && (vp->config[PCI_COMMAND + 1] & PCI_COMMAND_INTX_DISABLE >> 8) == 0;
}
