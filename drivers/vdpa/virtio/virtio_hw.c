/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The registers of a modern virtio-pci function: capabilities, common configuration, doorbells. See
 * virtio_hw.h.
 */

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include <rte_branch_prediction.h>
#include <rte_byteorder.h>
#include <rte_common.h>
#include <rte_io.h>

#include "clock.h"
#include "virtio_hw.h"

/* Vendor and device ids (4.1.2). */
#define PCI_VENDOR	    0x1af4
#define PCI_DEVICE_LEGACY   0x1000
#define PCI_DEVICE_MODERN   0x1040
#define PCI_DEVICE_END	    0x1080
#define PCI_CAP_VENDOR	    0x09
#define PCI_CONFIG_STD_SIZE 256

/* Kinds of structures (4.1.4). */
enum {
	CAP_COMMON = 1,
	CAP_NOTIFY = 2,
	CAP_ISR = 3,
	CAP_DEVICE = 4,
};

struct cap {
	uint8_t vndr, next, len, type, bar, id, padding[2];
	uint32_t offset, length;
	uint32_t multiplier; /* CAP_NOTIFY only */
} __attribute__((packed));
_Static_assert(sizeof(struct cap) == 20, "struct virtio_pci_notify_cap of virtio 1.2, 4.1.4.4");

#define CAP_SIZE	offsetof(struct cap, multiplier)
#define NOTIFY_CAP_SIZE sizeof(struct cap)

/* Common configuration (4.1.4.3). */
enum {
	DEVICE_FEATURE_SELECT = 0,
	DEVICE_FEATURE = 4,
	DRIVER_FEATURE_SELECT = 8,
	DRIVER_FEATURE = 12,
	CONFIG_VECTOR = 16,
	NUM_QUEUES = 18,
	STATUS = 20,
	GENERATION = 21,
	QUEUE_SELECT = 22,
	QUEUE_SIZE = 24,
	QUEUE_VECTOR = 26,
	QUEUE_ENABLE = 28,
	QUEUE_NOTIFY_OFF = 30,
	QUEUE_DESC = 32,
	QUEUE_DRIVER = 40,
	QUEUE_DEVICE = 48,
	COMMON_SIZE = 56, /* what every device has */
	QUEUE_RESET = 58,
	COMMON_SIZE_RESET = 60, /* with VIRTIO_F_RING_RESET */
};

#define DOORBELL_SIZE	   sizeof(uint16_t)
#define DOORBELL_DATA_SIZE sizeof(uint32_t) /* with VIRTIO_F_NOTIFICATION_DATA (4.1.5.2) */

/* Sleep between two looks: soon at first, for most answers come at once. */
#define NAP_FIRST_US 10u
#define NAP_MAX_US   2000u

/* What a wait has free; see patience.h. */
#define WAIT_FREE_US 10000u

void
virtio_wait_start(struct virtio_wait *wait, struct virtio_hw *hw)
{
	int64_t limit_us = vdpa_patience_begin(&hw->patience, vdpa_now_us());

	*wait = (struct virtio_wait){
		.hw = hw, .ms = (unsigned int)(limit_us / 1000), .nap_us = NAP_FIRST_US};
}

bool
virtio_wait(struct virtio_wait *wait)
{
	int64_t waited_us = vdpa_patience_draw(&wait->hw->patience, vdpa_now_us());

	if (waited_us >= (int64_t)wait->ms * 1000)
		return false;
	usleep(wait->nap_us);
	wait->nap_us = RTE_MIN(2 * wait->nap_us, NAP_MAX_US);
	return true;
}

static inline uint8_t
read8(struct virtio_hw *hw, uint32_t reg)
{
	return vdpa_pci_read8(hw->pci, hw->common.bar, hw->common.offset + (uint64_t)reg);
}

static inline void
write8(struct virtio_hw *hw, uint32_t reg, uint8_t value)
{
	vdpa_pci_write8(hw->pci, hw->common.bar, hw->common.offset + (uint64_t)reg, value);
}

static inline uint16_t
read16(struct virtio_hw *hw, uint32_t reg)
{
	return vdpa_pci_read16(hw->pci, hw->common.bar, hw->common.offset + (uint64_t)reg);
}

static inline void
write16(struct virtio_hw *hw, uint32_t reg, uint16_t value)
{
	vdpa_pci_write16(hw->pci, hw->common.bar, hw->common.offset + (uint64_t)reg, value);
}

static inline uint32_t
read32(struct virtio_hw *hw, uint32_t reg)
{
	return vdpa_pci_read32(hw->pci, hw->common.bar, hw->common.offset + (uint64_t)reg);
}

static inline void
write32(struct virtio_hw *hw, uint32_t reg, uint32_t value)
{
	vdpa_pci_write32(hw->pci, hw->common.bar, hw->common.offset + (uint64_t)reg, value);
}

/*
 * Queue registers are posted, as a processor's writes to a device are: a function in another
 * process answers the read that follows, and not each write. A read follows every group of them,
 * and no group writes the same twice.
 */
static inline void
post16(struct virtio_hw *hw, uint32_t reg, uint16_t value)
{
	vdpa_pci_post16(hw->pci, hw->common.bar, hw->common.offset + (uint64_t)reg, value);
}

/* Two halves: a device need not take an access of 64 bits (4.1.3.1). */
static void
post_address(struct virtio_hw *hw, uint32_t reg, uint64_t address)
{
	uint64_t at = hw->common.offset + (uint64_t)reg;

	vdpa_pci_post32(hw->pci, hw->common.bar, at, (uint32_t)address);
	vdpa_pci_post32(hw->pci, hw->common.bar, at + 4, (uint32_t)(address >> 32));
}

int
virtio_hw_check(const struct virtio_hw *hw)
{
	int err = vdpa_pci_error(hw->pci);

	return err < 0 ? vdpa_error(err, "%s", vdpa_pci_error_text(hw->pci)) : 0;
}

/* Capabilities. */

/* What a structure must have at least, and how it is aligned (4.1.4). */
static const struct cap_rule {
	const char *name;
	uint32_t size, align;
} cap_rules[] = {
	[CAP_COMMON] = {"common configuration", COMMON_SIZE, 4},
	[CAP_NOTIFY] = {"notification", DOORBELL_SIZE, 2},
	[CAP_ISR] = {"ISR status", 1, 1},
	[CAP_DEVICE] = {"device configuration", 1, 4},
};

static struct virtio_hw_part *
part_of(struct virtio_hw *hw, uint8_t type)
{
	switch (type) {
	case CAP_COMMON:
		return &hw->common;
	case CAP_NOTIFY:
		return &hw->notify;
	case CAP_ISR:
		return &hw->isr;
	case CAP_DEVICE:
		return &hw->config;
	default:
		return NULL;
	}
}

/* Take one capability over into hw, or pass it by. */
static int
take_cap(struct virtio_hw *hw, unsigned int pos)
{
	const char *name = vdpa_pci_name(hw->pci);
	const struct cap_rule *rule;
	struct virtio_hw_part *part;
	struct cap cap = {0};
	uint32_t offset, length, multiplier;
	int rc;

	if (pos + CAP_SIZE > PCI_CONFIG_STD_SIZE)
		return vdpa_error(EPROTO, "%s: the capability at 0x%02x is cut off", name, pos);
	rc = vdpa_pci_config_read(hw->pci, pos, &cap, CAP_SIZE);
	if (rc < 0)
		return rc;
	part = part_of(hw, cap.type);
	/* Others are not ours to use; of one kind the first that we can use counts (4.1.4.1). */
	if (part == NULL || part->length > 0)
		return 0;
	rule = &cap_rules[cap.type];
	if (cap.len < (cap.type == CAP_NOTIFY ? NOTIFY_CAP_SIZE : CAP_SIZE))
		return vdpa_error(EPROTO, "%s: the %s capability at 0x%02x has %u bytes", name,
				  rule->name, pos, cap.len);
	/* Reserved BARs must be passed by; ones that are I/O ports we cannot reach. */
	if (cap.bar >= VDPA_PCI_BARS || vdpa_pci_bar_size(hw->pci, cap.bar) == 0)
		return 0;
	if (cap.type == CAP_NOTIFY) {
		if (pos + NOTIFY_CAP_SIZE > PCI_CONFIG_STD_SIZE)
			return vdpa_error(EPROTO, "%s: the capability at 0x%02x is cut off", name,
					  pos);
		rc = vdpa_pci_config_read(hw->pci, pos + (unsigned int)CAP_SIZE, &cap.multiplier,
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
	*part = (struct virtio_hw_part){.bar = cap.bar, .offset = offset, .length = length};
	return 0;
}

static int
find_parts(struct virtio_hw *hw)
{
	const char *name = vdpa_pci_name(hw->pci);
	int pos = 0, rc;

	for (;;) {
		pos = vdpa_pci_find_cap(hw->pci, PCI_CAP_VENDOR, (unsigned int)pos);
		if (pos == -ENOENT)
			break;
		if (pos < 0)
			return pos;
		rc = take_cap(hw, (unsigned int)pos);
		if (rc < 0)
			return rc;
	}
	if (hw->common.length == 0)
		return vdpa_error(
			ENOTSUP,
			"%s: a legacy-only virtio device: it has no common configuration "
			"capability in a memory BAR; where the host makes it, let it offer "
			"the modern interface (QEMU: disable-modern=off)",
			name);
	if (hw->notify.length == 0 || hw->isr.length == 0)
		return vdpa_error(EPROTO, "%s: the device has no %s capability", name,
				  cap_rules[hw->notify.length == 0 ? CAP_NOTIFY : CAP_ISR].name);
	return 0;
}

static int
identify(struct virtio_hw *hw)
{
	const struct vdpa_pci_id *id = vdpa_pci_get_id(hw->pci);

	if (id->vendor != PCI_VENDOR || id->device < PCI_DEVICE_LEGACY ||
	    id->device >= PCI_DEVICE_END)
		return vdpa_error(ENOTSUP, "%s: %04x:%04x is not a virtio device",
				  vdpa_pci_name(hw->pci), id->vendor, id->device);
	hw->type = id->device >= PCI_DEVICE_MODERN ? (uint16_t)(id->device - PCI_DEVICE_MODERN)
						   : id->subsystem;
	return 0;
}

int
virtio_hw_open(struct virtio_hw *hw, struct vdpa_pci *pci)
{
	int rc;

	memset(hw, 0, sizeof(*hw));
	hw->pci = pci;
	vdpa_patience_init(&hw->patience, vdpa_pci_timeout_ms(pci), WAIT_FREE_US, vdpa_now_us());
	rc = identify(hw);
	if (rc == 0)
		rc = find_parts(hw);
	if (rc == 0)
		rc = virtio_hw_reset(hw);
	return rc;
}

void
virtio_hw_close(struct virtio_hw *hw, bool close)
{
	if (hw->pci == NULL)
		return;
	virtio_hw_unmap_doorbells(hw);
	if (close)
		vdpa_pci_close(hw->pci);
	hw->pci = NULL;
}

/* The device as a whole. */

uint8_t
virtio_hw_get_status(struct virtio_hw *hw)
{
	return read8(hw, STATUS);
}

void
virtio_hw_set_status(struct virtio_hw *hw, uint8_t status)
{
	write8(hw, STATUS, status);
}

/* *ms: how long it has waited, at most. */
static bool
wait_status_zero(struct virtio_hw *hw, unsigned int *ms)
{
	struct virtio_wait wait;
	uint8_t status;

	write8(hw, STATUS, 0);
	virtio_wait_start(&wait, hw);
	*ms = wait.ms;
	for (;;) {
		status = read8(hw, STATUS);
		if (status == 0)
			return true;
		if (status == VIRTIO_STATUS_GONE && !vdpa_pci_present(hw->pci))
			return false;
		if (!virtio_wait(&wait))
			return false;
	}
}

int
virtio_hw_reset(struct virtio_hw *hw)
{
	unsigned int ms, more_ms;

	if (wait_status_zero(hw, &ms))
		return 0;
	if (virtio_hw_check(hw) < 0)
		return virtio_hw_check(hw);
	/* The harder way. What it cannot be made to stop must at least not write any more. */
	if (vdpa_pci_reset(hw->pci) == 0 && wait_status_zero(hw, &more_ms))
		return 0;
	vdpa_pci_set_bus_master(hw->pci, false);
	return vdpa_error(ETIMEDOUT, "%s: the device does not reset within %u ms",
			  vdpa_pci_name(hw->pci), ms);
}

uint64_t
virtio_hw_get_features(struct virtio_hw *hw)
{
	uint64_t low, high;

	write32(hw, DEVICE_FEATURE_SELECT, 0);
	low = read32(hw, DEVICE_FEATURE);
	write32(hw, DEVICE_FEATURE_SELECT, 1);
	high = read32(hw, DEVICE_FEATURE);
	return low | high << 32;
}

void
virtio_hw_set_features(struct virtio_hw *hw, uint64_t features)
{
	write32(hw, DRIVER_FEATURE_SELECT, 0);
	write32(hw, DRIVER_FEATURE, (uint32_t)features);
	write32(hw, DRIVER_FEATURE_SELECT, 1);
	write32(hw, DRIVER_FEATURE, (uint32_t)(features >> 32));
	hw->notification_data = (features & VIRTIO_BIT(VIRTIO_F_NOTIFICATION_DATA)) != 0;
}

/*
 * Byte by byte: what a field is, and so how wide the access to it is to be (4.1.3.1), is the
 * guest's to know. A device must take narrower accesses than the field.
 */
int
virtio_hw_read_config(struct virtio_hw *hw, uint32_t offset, void *buf, uint32_t len)
{
	uint64_t at = (uint64_t)hw->config.offset + offset;

	for (uint32_t i = 0; i < len; i++)
		((uint8_t *)buf)[i] = vdpa_pci_read8(hw->pci, hw->config.bar, at + i);
	return virtio_hw_check(hw);
}

int
virtio_hw_write_config(struct virtio_hw *hw, uint32_t offset, const void *buf, uint32_t len)
{
	uint64_t at = (uint64_t)hw->config.offset + offset;

	for (uint32_t i = 0; i < len; i++)
		vdpa_pci_write8(hw->pci, hw->config.bar, at + i, ((const uint8_t *)buf)[i]);
	return virtio_hw_check(hw);
}

uint8_t
virtio_hw_get_generation(struct virtio_hw *hw)
{
	return read8(hw, GENERATION);
}

/* Queues. */

uint16_t
virtio_hw_num_queues(struct virtio_hw *hw)
{
	return read16(hw, NUM_QUEUES);
}

int
virtio_hw_vq_info(struct virtio_hw *hw, uint16_t idx, struct virtio_hw_vq_info *info)
{
	uint64_t doorbell;

	post16(hw, QUEUE_SELECT, idx);
	info->num_max = read16(hw, QUEUE_SIZE);
	doorbell = (uint64_t)read16(hw, QUEUE_NOTIFY_OFF) * hw->multiplier;
	if (virtio_hw_check(hw) < 0)
		return virtio_hw_check(hw);
	if (info->num_max == 0)
		return 0;
	if (doorbell + DOORBELL_SIZE > hw->notify.length)
		return vdpa_error(EPROTO,
				  "%s: queue %u: the doorbell at 0x%" PRIx64
				  " is outside of the notification structure of 0x%x bytes",
				  vdpa_pci_name(hw->pci), idx, doorbell, hw->notify.length);
	info->doorbell = (uint32_t)doorbell;
	/* A wider write than there is room for would hit something else; one that is not aligned
	 * may be a fault of ours. */
	info->takes_data = doorbell + DOORBELL_DATA_SIZE <= hw->notify.length &&
			   (hw->notify.offset + doorbell) % DOORBELL_DATA_SIZE == 0;
	hw->doorbell_last = RTE_MAX(hw->doorbell_last, info->doorbell);
	return 0;
}

int
virtio_hw_vq_enable(struct virtio_hw *hw, uint16_t idx, const struct virtio_hw_vq *vq)
{
	const char *name = vdpa_pci_name(hw->pci);
	uint16_t num;
	int rc;

	post16(hw, QUEUE_SELECT, idx);
	post16(hw, QUEUE_SIZE, vq->num);
	num = read16(hw, QUEUE_SIZE);
	rc = virtio_hw_check(hw);
	if (rc < 0)
		return rc;
	if (num != vq->num)
		return vdpa_error(EIO, "%s: the device gives queue %u the size %u, not %u", name,
				  idx, num, vq->num);
	post_address(hw, QUEUE_DESC, vq->desc);
	post_address(hw, QUEUE_DRIVER, vq->driver);
	post_address(hw, QUEUE_DEVICE, vq->device);
	rc = virtio_hw_vq_vector(hw, idx, vq->vector);
	if (rc < 0)
		return rc;
	post16(hw, QUEUE_ENABLE, 1);
	if (read16(hw, QUEUE_ENABLE) != 1) {
		rc = virtio_hw_check(hw);
		return rc < 0 ? rc
			      : vdpa_error(EIO, "%s: the device does not enable queue %u", name,
					   idx);
	}
	return virtio_hw_check(hw);
}

bool
virtio_hw_has_vq_reset(const struct virtio_hw *hw)
{
	return hw->common.length >= COMMON_SIZE_RESET;
}

int
virtio_hw_vq_reset(struct virtio_hw *hw, uint16_t idx)
{
	struct virtio_wait wait;
	int rc;

	post16(hw, QUEUE_SELECT, idx);
	post16(hw, QUEUE_RESET, 1);
	virtio_wait_start(&wait, hw);
	while (read16(hw, QUEUE_RESET) != 0) {
		rc = virtio_hw_check(hw);
		if (rc < 0)
			return rc;
		if (!virtio_wait(&wait))
			return vdpa_error(ETIMEDOUT,
					  "%s: the device does not reset queue %u within %u ms",
					  vdpa_pci_name(hw->pci), idx, wait.ms);
	}
	return virtio_hw_check(hw);
}

/* Interrupts. */

static int
vector_granted(struct virtio_hw *hw, uint16_t got, uint16_t vector)
{
	int rc = virtio_hw_check(hw);

	/* Without MSI-X the field need not hold even "none". */
	if (rc < 0 || got == vector || vector == VIRTIO_NO_VECTOR)
		return rc;
	return -ENOSPC;
}

int
virtio_hw_vq_vector(struct virtio_hw *hw, uint16_t idx, uint16_t vector)
{
	int rc;

	post16(hw, QUEUE_SELECT, idx);
	post16(hw, QUEUE_VECTOR, vector);
	rc = vector_granted(hw, read16(hw, QUEUE_VECTOR), vector);
	return rc == -ENOSPC ? vdpa_error(rc, "%s: the device does not grant queue %u vector %u",
					  vdpa_pci_name(hw->pci), idx, vector)
			     : rc;
}

int
virtio_hw_config_vector(struct virtio_hw *hw, uint16_t vector)
{
	int rc;

	write16(hw, CONFIG_VECTOR, vector);
	rc = vector_granted(hw, read16(hw, CONFIG_VECTOR), vector);
	return rc == -ENOSPC ? vdpa_error(rc,
					  "%s: the device does not grant vector %u for changes of "
					  "its configuration",
					  vdpa_pci_name(hw->pci), vector)
			     : rc;
}

uint8_t
virtio_hw_isr(struct virtio_hw *hw)
{
	return vdpa_pci_read8(hw->pci, hw->isr.bar, hw->isr.offset);
}

/* Doorbells. */

void
virtio_hw_map_doorbells(struct virtio_hw *hw)
{
	/* The last one with its page, where that is in the structure: it may be given away. */
	uint64_t want = (uint64_t)hw->doorbell_last + (uint64_t)sysconf(_SC_PAGESIZE);

	if (hw->doorbells.va == NULL &&
	    vdpa_pci_map(hw->pci, hw->notify.bar, hw->notify.offset,
			 RTE_MIN(want, (uint64_t)hw->notify.length), &hw->doorbells) < 0)
		hw->doorbells.va = NULL;
}

void
virtio_hw_unmap_doorbells(struct virtio_hw *hw)
{
	if (hw->doorbells.va != NULL)
		vdpa_pci_unmap(hw->pci, &hw->doorbells);
	hw->doorbells.va = NULL;
}

void
virtio_hw_kick(struct virtio_hw *hw, uint32_t doorbell, uint32_t data)
{
	uint64_t at = hw->notify.offset + (uint64_t)doorbell;
	volatile uint8_t *va = hw->doorbells.va;

	/* The mapping reaches beyond every doorbell that virtio_hw_vq_info() has found. */
	if (likely(va != NULL)) {
		if (hw->notification_data)
			rte_write32(rte_cpu_to_le_32(data), va + doorbell);
		else
			rte_write16(rte_cpu_to_le_16((uint16_t)data), va + doorbell);
		(void)vdpa_pci_areas_present(hw->pci);
	} else if (hw->notification_data) {
		vdpa_pci_post32(hw->pci, hw->notify.bar, at, data);
	} else {
		vdpa_pci_post16(hw->pci, hw->notify.bar, at, (uint16_t)data);
	}
}

int
virtio_hw_doorbell_page(const struct virtio_hw *hw, uint32_t doorbell,
			struct vdpa_notification_area *area)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t at = hw->doorbells.fd_offset + doorbell;

	/* Nothing else may lie in the page: not another queue's doorbell, which begins a multiplier
	 * further on, and not what follows the structure. Nor may it be taken away again. */
	if (hw->doorbells.va == NULL || hw->doorbells.shrinkable || hw->multiplier < page ||
	    at % page != 0 || doorbell + page > hw->notify.length)
		return -EOPNOTSUPP;
	*area = (struct vdpa_notification_area){.fd = hw->doorbells.fd,
						.offset = at,
						.size = page,
						.whole_device = hw->doorbells.whole_device};
	return 0;
}
