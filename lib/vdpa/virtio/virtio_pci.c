/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The registers of a modern virtio-pci function: common configuration, device configuration,
 * doorbells. See vdpa_virtio_pci.h and virtio_pci_priv.h.
 */

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include <rte_bitops.h>
#include <rte_branch_prediction.h>
#include <rte_byteorder.h>
#include <rte_common.h>
#include <rte_io.h>

#include "clock.h"
#include "virtio_pci_priv.h"

/* Common configuration (4.1.4.3), beside enum vdpa_virtio_selector. */
enum {
	DEVICE_FEATURE = 4,
	DRIVER_FEATURE = 12,
	CONFIG_VECTOR = 16,
	NUM_QUEUES = 18,
	STATUS = 20,
	GENERATION = 21,
	QUEUE_SIZE = 24,
	QUEUE_VECTOR = 26,
	QUEUE_ENABLE = 28,
	QUEUE_NOTIFY_OFF = 30,
	QUEUE_DESC = 32,
	QUEUE_DRIVER = 40,
	QUEUE_DEVICE = 48,
	QUEUE_RESET = 58,
	COMMON_SIZE_RESET = 60, /* with VIRTIO_F_RING_RESET */
	ADMIN_QUEUE_INDEX = 60,
	ADMIN_QUEUE_NUM = 62,
	COMMON_SIZE_ADMIN = 64, /* with VIRTIO_F_ADMIN_VQ */
};

#define DOORBELL_DATA_SIZE sizeof(uint32_t) /* with VIRTIO_F_NOTIFICATION_DATA (4.1.5.2) */

/* Sleep between two looks: soon at first, for most answers come at once. */
#define NAP_FIRST_US 10u
#define NAP_MAX_US   2000u

void
vdpa_virtio_wait_start(struct vdpa_virtio_wait *wait, struct vdpa_virtio_pci *hw)
{
	int64_t limit_us = vdpa_patience_begin(hw->patience, vdpa_now_us());

	*wait = (struct vdpa_virtio_wait){
		.hw = hw, .ms = (unsigned int)(limit_us / 1000), .nap_us = NAP_FIRST_US};
}

bool
vdpa_virtio_wait(struct vdpa_virtio_wait *wait)
{
	int64_t now_us = vdpa_now_us();
	int64_t waited_us = vdpa_patience_draw(wait->hw->patience, now_us);

	if (waited_us >= (int64_t)wait->ms * 1000)
		return false;
	usleep(wait->nap_us);
	vdpa_patience_slept(wait->hw->patience, wait->nap_us, vdpa_now_us() - now_us);
	wait->nap_us = RTE_MIN(2 * wait->nap_us, NAP_MAX_US);
	return true;
}

static inline uint8_t
read8(struct vdpa_virtio_pci *hw, uint32_t reg)
{
	return vdpa_pci_read8(hw->pci, hw->common.bar, hw->common.offset + (uint64_t)reg);
}

static inline void
write8(struct vdpa_virtio_pci *hw, uint32_t reg, uint8_t value)
{
	vdpa_pci_write8(hw->pci, hw->common.bar, hw->common.offset + (uint64_t)reg, value);
}

static inline uint16_t
read16(struct vdpa_virtio_pci *hw, uint32_t reg)
{
	return vdpa_pci_read16(hw->pci, hw->common.bar, hw->common.offset + (uint64_t)reg);
}

static inline void
write16(struct vdpa_virtio_pci *hw, uint32_t reg, uint16_t value)
{
	vdpa_pci_write16(hw->pci, hw->common.bar, hw->common.offset + (uint64_t)reg, value);
}

static inline uint32_t
read32(struct vdpa_virtio_pci *hw, uint32_t reg)
{
	return vdpa_pci_read32(hw->pci, hw->common.bar, hw->common.offset + (uint64_t)reg);
}

static inline void
write32(struct vdpa_virtio_pci *hw, uint32_t reg, uint32_t value)
{
	vdpa_pci_write32(hw->pci, hw->common.bar, hw->common.offset + (uint64_t)reg, value);
}

/*
 * Queue registers are posted, as a processor's writes to a device are: a function in another
 * process answers the read that follows, and not each write. A read follows every group of them,
 * and no group writes the same twice.
 */
static inline void
post16(struct vdpa_virtio_pci *hw, uint32_t reg, uint16_t value)
{
	vdpa_pci_post16(hw->pci, hw->common.bar, hw->common.offset + (uint64_t)reg, value);
}

/* Two halves: a device need not take an access of 64 bits (4.1.3.1). */
static void
post_address(struct vdpa_virtio_pci *hw, uint32_t reg, uint64_t address)
{
	uint64_t at = hw->common.offset + (uint64_t)reg;

	vdpa_pci_post32(hw->pci, hw->common.bar, at, (uint32_t)address);
	vdpa_pci_post32(hw->pci, hw->common.bar, at + 4, (uint32_t)(address >> 32));
}

int
vdpa_virtio_pci_check(const struct vdpa_virtio_pci *hw)
{
	int err = vdpa_pci_error(hw->pci);

	if (err < 0)
		return vdpa_error(err, "%s", vdpa_pci_error_text(hw->pci));
	if (hw->stuck)
		return vdpa_error(ETIMEDOUT, "%s: the device did not take a selector in time",
				  vdpa_pci_name(hw->pci));
	return 0;
}

/* What a selector selects must not be accessed where this returns false. */
static bool
select_to(struct vdpa_virtio_pci *hw, enum vdpa_virtio_selector selector, uint16_t value)
{
	if (hw->stuck)
		return false;
	if (hw->ops->select != NULL)
		hw->stuck = !hw->ops->select(hw, selector, value);
	else if (selector == VDPA_VIRTIO_SELECT_QUEUE)
		post16(hw, selector, value);
	else
		write32(hw, selector, value);
	return !hw->stuck;
}

static void
map_registers(struct vdpa_virtio_pci *hw, const struct vdpa_virtio_part *part)
{
	if (part->length > 0)
		vdpa_pci_map_registers(hw->pci, part->bar, part->offset, part->length);
}

int
virtio_pci_open(struct vdpa_virtio_pci *hw, struct vdpa_pci *pci,
		const struct vdpa_virtio_pci_ops *ops, struct vdpa_patience *patience)
{
	static const struct vdpa_virtio_pci_ops plain;
	int rc;

	*hw = (struct vdpa_virtio_pci){
		.pci = pci, .ops = ops != NULL ? ops : &plain, .patience = patience};
	rc = hw->ops->find != NULL ? hw->ops->find(hw) : vdpa_virtio_pci_find(hw);
	if (rc < 0)
		return rc;
	map_registers(hw, &hw->common);
	map_registers(hw, &hw->isr);
	map_registers(hw, &hw->config);
	return 0;
}

/* Of a device that is taken over: what it has in place of what a step writes. */
static int
differs(const struct vdpa_virtio_pci *hw, const char *what, uint64_t has, uint64_t value)
{
	int rc = vdpa_virtio_pci_check(hw);

	if (rc < 0)
		return rc;
	return vdpa_error(EPROTO,
			  "%s: the device runs with 0x%" PRIx64 " as its %s, and not 0x%" PRIx64
			  ": it is not taken over",
			  vdpa_pci_name(hw->pci), has, what, value);
}

/* The device as a whole. */

uint8_t
vdpa_virtio_pci_get_status(struct vdpa_virtio_pci *hw)
{
	return read8(hw, STATUS);
}

void
vdpa_virtio_pci_set_status(struct vdpa_virtio_pci *hw, uint8_t status)
{
	/* It has all that a start sets. */
	if (!hw->adopts)
		write8(hw, STATUS, status);
}

/* *ms: how long it has waited, at most. */
static bool
wait_status_zero(struct vdpa_virtio_pci *hw, unsigned int *ms)
{
	struct vdpa_virtio_wait wait;
	uint8_t status;

	hw->stuck = false;
	write8(hw, STATUS, hw->ops->reset_status);
	vdpa_virtio_wait_start(&wait, hw);
	*ms = wait.ms;
	for (;;) {
		status = read8(hw, STATUS);
		if (status == 0)
			return true;
		if (status == VIRTIO_STATUS_GONE && !vdpa_pci_present(hw->pci))
			return false;
		if (!vdpa_virtio_wait(&wait))
			return false;
	}
}

int
virtio_pci_reset(struct vdpa_virtio_pci *hw)
{
	unsigned int ms, more_ms;

	if (wait_status_zero(hw, &ms))
		return 0;
	if (vdpa_virtio_pci_check(hw) < 0)
		return vdpa_virtio_pci_check(hw);
	/* The harder way. What it cannot be made to stop must at least not write any more. */
	if (vdpa_pci_reset(hw->pci) == 0 && wait_status_zero(hw, &more_ms))
		return 0;
	vdpa_pci_set_bus_master(hw->pci, false);
	return vdpa_error(ETIMEDOUT, "%s: the device does not reset within %u ms",
			  vdpa_pci_name(hw->pci), ms);
}

/* Of DRIVER_OK and SUSPEND the device sets one and clears the other; the driver only sets (2.1.1).
 */
static int
change_status(struct vdpa_virtio_pci *hw, uint8_t set, uint8_t cleared, const char *what)
{
	struct vdpa_virtio_wait wait;
	uint8_t status = read8(hw, STATUS);
	int rc = vdpa_virtio_pci_check(hw);

	if (rc < 0)
		return rc;
	write8(hw, STATUS, status | set);
	vdpa_virtio_wait_start(&wait, hw);
	for (;;) {
		status = read8(hw, STATUS);
		rc = vdpa_virtio_pci_check(hw);
		if (rc < 0)
			return rc;
		if ((status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0)
			return vdpa_error(EIO, "%s: the device does not %s: it needs a reset",
					  vdpa_pci_name(hw->pci), what);
		if ((status & (set | cleared)) == set)
			return 0;
		if (!vdpa_virtio_wait(&wait))
			return vdpa_error(ETIMEDOUT, "%s: the device does not %s within %u ms",
					  vdpa_pci_name(hw->pci), what, wait.ms);
	}
}

int
virtio_pci_suspend(struct vdpa_virtio_pci *hw)
{
	return change_status(hw, VIRTIO_CONFIG_S_SUSPEND, VIRTIO_CONFIG_S_DRIVER_OK, "suspend");
}

int
virtio_pci_resume(struct vdpa_virtio_pci *hw)
{
	return change_status(hw, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_SUSPEND, "resume");
}

uint64_t
virtio_pci_get_features(struct vdpa_virtio_pci *hw)
{
	uint64_t features = 0;

	for (unsigned int half = 0; half < 2; half++)
		if (select_to(hw, VDPA_VIRTIO_SELECT_DEVICE_FEATURE, (uint16_t)half))
			features |= (uint64_t)read32(hw, DEVICE_FEATURE) << (32 * half);
	return features;
}

int
virtio_pci_check_features(struct vdpa_virtio_pci *hw, uint64_t features)
{
	uint64_t has = 0;

	for (unsigned int half = 0; half < 2; half++)
		if (select_to(hw, VDPA_VIRTIO_SELECT_DRIVER_FEATURE, (uint16_t)half))
			has |= (uint64_t)read32(hw, DRIVER_FEATURE) << (32 * half);
	return has == features ? vdpa_virtio_pci_check(hw) : differs(hw, "features", has, features);
}

void
virtio_pci_set_features(struct vdpa_virtio_pci *hw, uint64_t features)
{
	for (unsigned int half = 0; half < 2 && !hw->adopts; half++)
		if (select_to(hw, VDPA_VIRTIO_SELECT_DRIVER_FEATURE, (uint16_t)half))
			write32(hw, DRIVER_FEATURE, (uint32_t)(features >> (32 * half)));
	hw->notification_data = (features & RTE_BIT64(VIRTIO_F_NOTIFICATION_DATA)) != 0;
}

/*
 * Byte by byte: what a field is, and so how wide the access to it is to be (4.1.3.1), is the
 * guest's to know. A device must take narrower accesses than the field.
 */
int
vdpa_virtio_pci_read_config(struct vdpa_virtio_pci *hw, uint32_t offset, void *buf, uint32_t len)
{
	uint64_t at = (uint64_t)hw->config.offset + offset;

	for (uint32_t i = 0; i < len; i++)
		((uint8_t *)buf)[i] = vdpa_pci_read8(hw->pci, hw->config.bar, at + i);
	return vdpa_virtio_pci_check(hw);
}

int
vdpa_virtio_pci_write_config(struct vdpa_virtio_pci *hw, uint32_t offset, const void *buf,
			     uint32_t len)
{
	uint64_t at = (uint64_t)hw->config.offset + offset;

	for (uint32_t i = 0; i < len; i++)
		vdpa_pci_write8(hw->pci, hw->config.bar, at + i, ((const uint8_t *)buf)[i]);
	return vdpa_virtio_pci_check(hw);
}

uint8_t
virtio_pci_get_generation(struct vdpa_virtio_pci *hw)
{
	return read8(hw, GENERATION);
}

/* Queues. */

uint16_t
virtio_pci_num_queues(struct vdpa_virtio_pci *hw)
{
	return read16(hw, NUM_QUEUES);
}

int
virtio_pci_check_doorbell(struct vdpa_virtio_pci *hw, uint16_t idx,
			  struct vdpa_virtio_vq_info *info)
{
	uint64_t doorbell = info->doorbell;

	if (hw->adopts && (hw->notify.offset + doorbell) % VIRTIO_DOORBELL_SIZE != 0)
		return vdpa_error(EPROTO, "%s: queue %u: no doorbell is at 0x%" PRIx64,
				  vdpa_pci_name(hw->pci), idx, doorbell);
	if (doorbell + VIRTIO_DOORBELL_SIZE > hw->notify.length)
		return vdpa_error(EPROTO,
				  "%s: queue %u: the doorbell at 0x%" PRIx64
				  " is outside of the notification structure of 0x%x bytes",
				  vdpa_pci_name(hw->pci), idx, doorbell, hw->notify.length);
	/* A wider write than there is room for would hit something else; one that is not aligned
	 * may be a fault of ours. */
	info->takes_data = doorbell + DOORBELL_DATA_SIZE <= hw->notify.length &&
			   (hw->notify.offset + doorbell) % DOORBELL_DATA_SIZE == 0;
	hw->doorbell_last = RTE_MAX(hw->doorbell_last, info->doorbell);
	return 0;
}

int
virtio_pci_vq_info(struct vdpa_virtio_pci *hw, uint16_t idx, struct vdpa_virtio_vq_info *info)
{
	uint64_t doorbell;

	if (!select_to(hw, VDPA_VIRTIO_SELECT_QUEUE, idx))
		return vdpa_virtio_pci_check(hw);
	info->num_max = read16(hw, QUEUE_SIZE);
	doorbell = (uint64_t)read16(hw, QUEUE_NOTIFY_OFF) * hw->multiplier;
	if (vdpa_virtio_pci_check(hw) < 0)
		return vdpa_virtio_pci_check(hw);
	if (info->num_max == 0)
		return 0;
	/* It may be more than the field has room for. */
	info->doorbell = (uint32_t)RTE_MIN(doorbell, (uint64_t)UINT32_MAX);
	return virtio_pci_check_doorbell(hw, idx, info);
}

/* Of the queue that is selected. */
static int
set_enable(struct vdpa_virtio_pci *hw, uint16_t idx, bool enable)
{
	const char *name = vdpa_pci_name(hw->pci);
	struct vdpa_virtio_wait wait;
	int rc;

	post16(hw, QUEUE_ENABLE, enable);
	if (read16(hw, QUEUE_ENABLE) == enable)
		return vdpa_virtio_pci_check(hw);
	rc = vdpa_virtio_pci_check(hw);
	if (rc < 0)
		return rc;
	if (enable)
		return vdpa_error(EIO, "%s: the device does not enable queue %u", name, idx);
	vdpa_virtio_wait_start(&wait, hw);
	while (read16(hw, QUEUE_ENABLE) != 0) {
		rc = vdpa_virtio_pci_check(hw);
		if (rc < 0)
			return rc;
		if (!vdpa_virtio_wait(&wait))
			return vdpa_error(ETIMEDOUT,
					  "%s: the device does not disable queue %u within %u ms",
					  name, idx, wait.ms);
	}
	return vdpa_virtio_pci_check(hw);
}

int
virtio_pci_vq_is_enabled(struct vdpa_virtio_pci *hw, uint16_t idx)
{
	uint16_t enable;
	int rc;

	if (!select_to(hw, VDPA_VIRTIO_SELECT_QUEUE, idx))
		return vdpa_virtio_pci_check(hw);
	enable = read16(hw, QUEUE_ENABLE);
	rc = vdpa_virtio_pci_check(hw);
	return rc < 0 ? rc : enable != 0;
}

static uint64_t
read_address(struct vdpa_virtio_pci *hw, uint32_t reg)
{
	uint64_t low = read32(hw, reg);

	return low | (uint64_t)read32(hw, reg + 4) << 32;
}

/* Of the queue that is selected: whether it runs with what it would be enabled with. */
static int
check_vq(struct vdpa_virtio_pci *hw, const struct vdpa_virtio_vq_conf *vq)
{
	const struct {
		const char *what;
		uint64_t has, value;
	} fields[] = {
		{"queue size", read16(hw, QUEUE_SIZE), vq->num},
		{"descriptor area", read_address(hw, QUEUE_DESC), vq->desc},
		{"driver area", read_address(hw, QUEUE_DRIVER), vq->driver},
		{"device area", read_address(hw, QUEUE_DEVICE), vq->device},
		{"queue vector", read16(hw, QUEUE_VECTOR), vq->vector},
		{"queue enable", read16(hw, QUEUE_ENABLE), 1},
	};

	for (unsigned int i = 0; i < RTE_DIM(fields); i++)
		if (fields[i].has != fields[i].value)
			return differs(hw, fields[i].what, fields[i].has, fields[i].value);
	return vdpa_virtio_pci_check(hw);
}

int
virtio_pci_vq_enable(struct vdpa_virtio_pci *hw, uint16_t idx, const struct vdpa_virtio_vq_conf *vq)
{
	const char *name = vdpa_pci_name(hw->pci);
	uint16_t num;
	int rc;

	if (!select_to(hw, VDPA_VIRTIO_SELECT_QUEUE, idx))
		return vdpa_virtio_pci_check(hw);
	if (hw->adopts)
		return check_vq(hw, vq);
	post16(hw, QUEUE_SIZE, vq->num);
	num = read16(hw, QUEUE_SIZE);
	rc = vdpa_virtio_pci_check(hw);
	if (rc < 0)
		return rc;
	if (num != vq->num)
		return vdpa_error(EIO, "%s: the device gives queue %u the size %u, not %u", name,
				  idx, num, vq->num);
	post_address(hw, QUEUE_DESC, vq->desc);
	post_address(hw, QUEUE_DRIVER, vq->driver);
	post_address(hw, QUEUE_DEVICE, vq->device);
	rc = virtio_pci_vq_vector(hw, idx, vq->vector);
	if (rc < 0)
		return rc;
	return set_enable(hw, idx, true);
}

int
vdpa_virtio_pci_vq_set_enable(struct vdpa_virtio_pci *hw, uint16_t idx, bool enable)
{
	if (!select_to(hw, VDPA_VIRTIO_SELECT_QUEUE, idx))
		return vdpa_virtio_pci_check(hw);
	return set_enable(hw, idx, enable);
}

bool
virtio_pci_has_vq_reset(const struct vdpa_virtio_pci *hw)
{
	return hw->common.length >= COMMON_SIZE_RESET;
}

int
virtio_pci_vq_reset(struct vdpa_virtio_pci *hw, uint16_t idx)
{
	struct vdpa_virtio_wait wait;
	int rc;

	if (!select_to(hw, VDPA_VIRTIO_SELECT_QUEUE, idx))
		return vdpa_virtio_pci_check(hw);
	post16(hw, QUEUE_RESET, 1);
	vdpa_virtio_wait_start(&wait, hw);
	while (read16(hw, QUEUE_RESET) != 0) {
		rc = vdpa_virtio_pci_check(hw);
		if (rc < 0)
			return rc;
		if (!vdpa_virtio_wait(&wait))
			return vdpa_error(ETIMEDOUT,
					  "%s: the device does not reset queue %u within %u ms",
					  vdpa_pci_name(hw->pci), idx, wait.ms);
	}
	return vdpa_virtio_pci_check(hw);
}

int
virtio_pci_admin_queue(struct vdpa_virtio_pci *hw, uint16_t *idx, uint16_t *num)
{
	*num = 0;
	if (hw->common.length < COMMON_SIZE_ADMIN)
		return 0;
	*idx = read16(hw, ADMIN_QUEUE_INDEX);
	*num = read16(hw, ADMIN_QUEUE_NUM);
	if (vdpa_virtio_pci_check(hw) < 0)
		return vdpa_virtio_pci_check(hw);
	if (*num > 0 && *idx < virtio_pci_num_queues(hw))
		return vdpa_error(EPROTO,
				  "%s: the device says that queue %u is an administration queue",
				  vdpa_pci_name(hw->pci), *idx);
	return 0;
}

/* Interrupts. */

static int
vector_granted(struct vdpa_virtio_pci *hw, uint16_t got, uint16_t vector)
{
	int rc = vdpa_virtio_pci_check(hw);

	/* Without MSI-X the field need not hold even "none". */
	if (rc < 0 || got == vector || vector == VDPA_VIRTIO_NO_VECTOR)
		return rc;
	return -ENOSPC;
}

int
virtio_pci_vq_vector(struct vdpa_virtio_pci *hw, uint16_t idx, uint16_t vector)
{
	int rc;

	if (!select_to(hw, VDPA_VIRTIO_SELECT_QUEUE, idx))
		return vdpa_virtio_pci_check(hw);
	if (!hw->adopts)
		post16(hw, QUEUE_VECTOR, vector);
	rc = vector_granted(hw, read16(hw, QUEUE_VECTOR), vector);
	return rc == -ENOSPC ? vdpa_error(rc, "%s: the device does not grant queue %u vector %u",
					  vdpa_pci_name(hw->pci), idx, vector)
			     : rc;
}

int
virtio_pci_config_vector(struct vdpa_virtio_pci *hw, uint16_t vector)
{
	int rc;

	if (!hw->adopts)
		write16(hw, CONFIG_VECTOR, vector);
	rc = vector_granted(hw, read16(hw, CONFIG_VECTOR), vector);
	return rc == -ENOSPC ? vdpa_error(rc,
					  "%s: the device does not grant vector %u for changes of "
					  "its configuration",
					  vdpa_pci_name(hw->pci), vector)
			     : rc;
}

uint8_t
virtio_pci_isr(struct vdpa_virtio_pci *hw)
{
	return vdpa_pci_read8(hw->pci, hw->isr.bar, hw->isr.offset);
}

/* Doorbells. */

void
virtio_pci_unmap_doorbells(struct vdpa_virtio_pci *hw)
{
	if (hw->doorbells.va != NULL)
		vdpa_pci_unmap(hw->pci, &hw->doorbells);
	hw->doorbells.va = NULL;
}

void
virtio_pci_map_doorbells(struct vdpa_virtio_pci *hw)
{
	/* The last one with its page, where that is in the structure: it may be given away. */
	uint64_t want = (uint64_t)hw->doorbell_last + (uint64_t)sysconf(_SC_PAGESIZE);

	want = RTE_MIN(want, (uint64_t)hw->notify.length);
	if (hw->doorbells.va != NULL && hw->doorbells.size >= want)
		return;
	virtio_pci_unmap_doorbells(hw);
	if (vdpa_pci_map(hw->pci, hw->notify.bar, hw->notify.offset, want, &hw->doorbells) < 0)
		hw->doorbells.va = NULL;
}

void
virtio_pci_kick(struct vdpa_virtio_pci *hw, uint32_t doorbell, uint32_t data)
{
	uint64_t at = hw->notify.offset + (uint64_t)doorbell;
	volatile uint8_t *va = hw->doorbells.va;

	/* The mapping reaches beyond every doorbell that virtio_pci_vq_info() has found. */
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
virtio_pci_doorbell_page(const struct vdpa_virtio_pci *hw, uint32_t doorbell,
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
