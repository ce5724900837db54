/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The BARs of a virtio-pci function: common configuration, ISR status, device configuration,
 * doorbells that are not shared memory. The rules are those of virtio 1.4, 2.1, 3.1, 3.4 and 4.1;
 * what a driver writes against them has no effect.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <rte_byteorder.h>
#include <rte_common.h>

#include "vdpa_args.h"
#include "vdpa_log.h"
#include "virtio_compat.h"
#include "vfio_user_function_priv.h"

#define MSIX_ENTRY_LEN	   16
#define MSIX_ENTRY_CONTROL 12 /* its lowest bit masks the vector */
#define DOORBELL_LEN	   4  /* with notification data */

#define STATUS_DRIVER_BITS                                                                         \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK |        \
	 VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED)

#define BIT64(n) (UINT64_C(1) << (n))

/* Common configuration as the driver reads it. */
struct vp_common {
	uint32_t device_feature_select, device_feature, driver_feature_select, driver_feature;
	uint16_t config_msix_vector, num_queues;
	uint8_t device_status, config_generation;
	uint16_t queue_select, queue_size, queue_msix_vector, queue_enable, queue_notify_off;
	uint64_t queue_desc, queue_driver, queue_device;
	uint16_t queue_notify_data, queue_reset, admin_queue_index, admin_queue_num;
} __attribute__((packed));
_Static_assert(sizeof(struct vp_common) == VP_COMMON_LEN, "virtio 1.2, 4.1.4.3");
_Static_assert(offsetof(struct vp_common, queue_desc) == VIRTIO_PCI_COMMON_Q_DESCLO, "");
_Static_assert(offsetof(struct vp_common, queue_reset) == VIRTIO_PCI_COMMON_Q_RESET, "");

static struct vp_queue *
selected(struct vp_function *vp)
{
	return vp->queue_select < vp_all_queues(&vp->params) ? &vp->queues[vp->queue_select] : NULL;
}

static void
queue_init(struct vp_function *vp, struct vp_queue *q)
{
	*q = (struct vp_queue){.size = vp_queue_size_max(vp, (uint16_t)(q - vp->queues)),
			       .vector = VP_NO_VECTOR};
}

static void
table_init(struct vp_function *vp)
{
	memset(vp->msix_table, 0, (size_t)vp->params.vectors * MSIX_ENTRY_LEN);
	for (unsigned int i = 0; i < vp->params.vectors; i++)
		vp->msix_table[i * MSIX_ENTRY_LEN + MSIX_ENTRY_CONTROL] = 1;
}

const struct vp_kind vdpa_vp_kind_virtio = {.name = "virtio", .bar = VP_BAR_VIRTIO};

static int
check_params(const struct vp_params *params, const struct vp_kind *kind)
{
	uint16_t vectors_max = kind->vectors_max != 0 ? kind->vectors_max : VP_VECTORS_MAX;

	if (params->nvqs == 0 || params->vectors == 0 || params->vectors > VP_VECTORS_MAX ||
	    params->device_size > VP_DEVICE_MAX)
		return vdpa_error(EINVAL,
				  "%u queues, %u vectors and %zu bytes of configuration: "
				  "no virtio-pci function has that",
				  params->nvqs, params->vectors, params->device_size);
	if (params->vectors > vectors_max)
		return vdpa_error(EINVAL, "vectors %u: %s has at most %u", params->vectors,
				  kind->name, vectors_max);
	return 0;
}

static int
check_queue(const struct vp_function *vp, uint16_t idx)
{
	uint16_t size = vp_queue_size_max(vp, idx);

	if (size < vp->kind->queue_size_min)
		return vdpa_error(EINVAL, "queue_size %u: queues of %s have at least %u", size,
				  vp->kind->name, vp->kind->queue_size_min);
	return 0;
}

int
vdpa_vp_init(struct vp_function *vp, const struct vp_params *params)
{
	const struct vp_kind *kind = params->kind != NULL ? params->kind : &vdpa_vp_kind_virtio;
	uint64_t doorbells = (uint64_t)params->notify_mult * vp_all_queues(params);
	int rc = check_params(params, kind);

	memset(vp, 0, sizeof(*vp));
	if (rc < 0)
		return rc;
	vp->params = *params;
	vp->kind = kind;
	vp->bar = kind->bar;
	vp->base = kind->base;
	vp->params.features = (params->features & ~kind->features_off) | kind->features_on;
	vp->device_len = RTE_MAX((uint32_t)params->device_size, kind->device_len);
	vp->notify_len = RTE_ALIGN_CEIL(doorbells, (uint64_t)VP_PAGE);
	vp->queues = calloc(vp_all_queues(params), sizeof(*vp->queues));
	vp->msix_table = malloc((size_t)params->vectors * MSIX_ENTRY_LEN);
	vp->own = kind->own_size > 0 ? calloc(1, kind->own_size) : NULL;
	if (vp->queues == NULL || vp->msix_table == NULL ||
	    (vp->own == NULL && kind->own_size > 0)) {
		vdpa_vp_fini(vp);
		return vdpa_error(ENOMEM, "out of memory");
	}
	table_init(vp);
	for (uint16_t i = 0; rc == 0 && i < vp_all_queues(params); i++) {
		queue_init(vp, &vp->queues[i]);
		rc = check_queue(vp, i);
	}
	vp->config_vector = VP_NO_VECTOR;
	vdpa_vp_config_init(vp);
	if (rc == 0 && kind->init != NULL)
		rc = kind->init(vp);
	if (rc < 0)
		vdpa_vp_fini(vp);
	return rc;
}

void
vdpa_vp_fini(struct vp_function *vp)
{
	free(vp->queues);
	free(vp->msix_table);
	free(vp->own);
	vp->queues = NULL;
	vp->msix_table = NULL;
	vp->own = NULL;
}

static void
reset_own(struct vp_function *vp, bool function)
{
	if (vp->kind->reset != NULL)
		vp->kind->reset(vp, function);
}

void
vdpa_vp_device_reset(struct vp_function *vp)
{
	vp->params.ops->reset(vp->params.arg);
	reset_own(vp, false);
	vp->status = 0;
	vp->device_feature_select = vp->driver_feature_select = 0;
	vp->driver_features = 0;
	vp->queue_select = 0;
	vp->isr = 0;
	vp->queue_reset_stuck = false;
	vp->suspended = vp->loaded = false;
	vp->config_vector = VP_NO_VECTOR;
	for (uint16_t i = 0; i < vp_all_queues(&vp->params); i++)
		queue_init(vp, &vp->queues[i]);
	vp->params.ops->intx(vp->params.arg);
}

void
vdpa_vp_function_reset(struct vp_function *vp)
{
	vp->stopped = false;
	vdpa_vp_device_reset(vp);
	vdpa_vp_config_reset(vp);
	table_init(vp);
	reset_own(vp, true);
}

bool
vdpa_vp_needs_reset(struct vp_function *vp)
{
	bool running = (vp->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;

	if (vp->status == 0)
		return false;
	vp->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	return running;
}

void
vdpa_vp_raise_isr(struct vp_function *vp, uint8_t bits)
{
	vp->isr |= bits;
	vp->params.ops->intx(vp->params.arg);
}

/* What the driver can tell from the generation must not be told by a read before it. */
static void
look_at_device_config(struct vp_function *vp)
{
	uint8_t now[VP_DEVICE_MAX];
	size_t len = vp->params.device_size;

	if (len == 0 || vp->params.ops->read_device(vp->params.arg, 0, now, len) < 0)
		return;
	if (memcmp(now, vp->device_config, len) != 0) {
		memcpy(vp->device_config, now, len);
		vp->generation++;
	}
}

static uint32_t
feature_word(uint64_t features, uint32_t select)
{
	return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

static void
fill_common(struct vp_function *vp, struct vp_common *c)
{
	const struct vp_queue *q = selected(vp);

	memset(c, 0, sizeof(*c));
	c->device_feature_select = rte_cpu_to_le_32(vp->device_feature_select);
	c->device_feature =
		rte_cpu_to_le_32(feature_word(vp->params.features, vp->device_feature_select));
	c->driver_feature_select = rte_cpu_to_le_32(vp->driver_feature_select);
	c->driver_feature =
		rte_cpu_to_le_32(feature_word(vp->driver_features, vp->driver_feature_select));
	c->config_msix_vector = rte_cpu_to_le_16(vp->config_vector);
	c->num_queues = rte_cpu_to_le_16(vp->params.nvqs);
	c->admin_queue_index = rte_cpu_to_le_16(vp->params.admin ? vp->params.nvqs : 0);
	c->admin_queue_num = rte_cpu_to_le_16(vp->params.admin);
	c->device_status = vp->status;
	c->config_generation = vp->generation;
	c->queue_select = rte_cpu_to_le_16(vp->queue_select);
	if (q == NULL) {
		c->queue_msix_vector = rte_cpu_to_le_16(VP_NO_VECTOR);
		return;
	}
	c->queue_size = rte_cpu_to_le_16(q->size);
	c->queue_msix_vector = rte_cpu_to_le_16(q->vector);
	c->queue_enable = rte_cpu_to_le_16(q->enabled && vp_does(vp, VFU_STEP_SHOW_ENABLE));
	c->queue_notify_off = rte_cpu_to_le_16(vp->queue_select);
	c->queue_desc = rte_cpu_to_le_64(q->desc);
	c->queue_driver = rte_cpu_to_le_64(q->driver);
	c->queue_device = rte_cpu_to_le_64(q->device);
	c->queue_notify_data = rte_cpu_to_le_16(vp->queue_select);
	c->queue_reset = rte_cpu_to_le_16(vp->queue_reset_stuck);
}

static void
write_features(struct vp_function *vp, uint32_t value)
{
	unsigned int shift = 32 * vp->driver_feature_select;

	if (vp->driver_feature_select > 1 || (vp->status & VIRTIO_CONFIG_S_FEATURES_OK) != 0)
		return;
	vp->driver_features &= ~((uint64_t)UINT32_MAX << shift);
	vp->driver_features |= (uint64_t)value << shift;
}

static bool
features_are_good(struct vp_function *vp)
{
	uint64_t extra = vp->driver_features & ~vp->params.features;

	if (!vp_does(vp, VFU_STEP_FEATURES))
		return false;
	if (extra != 0 || (vp->driver_features & BIT64(VIRTIO_F_VERSION_1)) == 0 ||
	    (vp->driver_features & vp->kind->features_needed) != vp->kind->features_needed)
		return false;
	return vp->params.ops->set_features(vp->params.arg, vp->driver_features) == 0;
}

static void
reset_by_driver(struct vp_function *vp)
{
	uint8_t old = vp->status;

	vdpa_vp_device_reset(vp);
	if (!vp_does(vp, VFU_STEP_RESET))
		vp->status = old;
}

static bool
has_feature(const struct vp_function *vp, unsigned int bit)
{
	return (vp->status & VIRTIO_CONFIG_S_FEATURES_OK) != 0 &&
	       (vp->driver_features & BIT64(bit)) != 0;
}

/* DRIVER_OK of a suspended device: the status says when it goes on (virtio 1.4, 3.4). */
static void
resume(struct vp_function *vp)
{
	if (!vp_does(vp, VFU_STEP_RESUME))
		return;
	vp->suspended = false;
	vp->status &= (uint8_t)~VIRTIO_CONFIG_S_SUSPEND;
	vp->status |= VIRTIO_CONFIG_S_DRIVER_OK;
	if (vp->params.ops->resume(vp->params.arg) < 0)
		vp->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
}

static void
suspend(struct vp_function *vp)
{
	enum vfu_verdict verdict;

	vp->status |= VIRTIO_CONFIG_S_SUSPEND;
	verdict = vp_ask(vp, VFU_STEP_SUSPEND);
	if (verdict == VFU_SKIP)
		return;
	if (verdict == VFU_FAIL) {
		vp->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
		return;
	}
	vp->suspended = true;
	if (vp->params.ops->suspend(vp->params.arg) < 0)
		vp->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	else
		vp->status &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
}

static void
write_status(struct vp_function *vp, uint8_t value)
{
	bool ran = (vp->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
	bool failed = (vp->status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
	uint8_t added = (uint8_t)(value & STATUS_DRIVER_BITS & ~vp->status);

	if (value == vp->kind->reset_status) {
		reset_by_driver(vp);
		return;
	}
	/* Bits come in order (3.1.1), and do not go but by reset. */
	vp->status |= added & (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
			       VIRTIO_CONFIG_S_FAILED);
	if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0 &&
	    (vp->status & VIRTIO_CONFIG_S_DRIVER) != 0 && features_are_good(vp))
		vp->status |= VIRTIO_CONFIG_S_FEATURES_OK;
	if (vp->suspended) {
		if ((added & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && !failed)
			resume(vp);
		return;
	}
	if (ran && !failed && (value & VIRTIO_CONFIG_S_SUSPEND) != 0 &&
	    has_feature(vp, VIRTIO_F_SUSPEND)) {
		suspend(vp);
		return;
	}
	if ((added & VIRTIO_CONFIG_S_DRIVER_OK) != 0 &&
	    (vp->status & VIRTIO_CONFIG_S_FEATURES_OK) != 0) {
		vp->status |= VIRTIO_CONFIG_S_DRIVER_OK;
		if (vp->params.ops->start(vp->params.arg) < 0)
			vp->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	}
}

/* A vector that the function does not have reads back as none (4.1.5.1.2). */
static uint16_t
grant_vector(const struct vp_function *vp, uint16_t vector)
{
	if (vector >= vp->params.vectors || !vp_does(vp, VFU_STEP_VECTOR))
		return VP_NO_VECTOR;
	return vector;
}

static void
enable_queue(struct vp_function *vp, struct vp_queue *q)
{
	if (q->enabled || q->size == 0 || q->size < vp->kind->queue_size_min || vp->suspended)
		return;
	q->enabled = true;
	if ((vp->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 &&
	    (vp->status & VIRTIO_CONFIG_S_NEEDS_RESET) == 0 &&
	    vp->params.ops->start_queue(vp->params.arg, vp->queue_select) < 0)
		q->enabled = false;
}

/* A function that takes a 0 there: virtio's need not (4.1.4.3.2). */
static void
disable_queue(struct vp_function *vp, struct vp_queue *q)
{
	if (!vp->kind->enable_stops || !q->enabled)
		return;
	vp->params.ops->stop_queue(vp->params.arg, vp->queue_select);
	q->enabled = false;
}

static void
reset_queue(struct vp_function *vp, struct vp_queue *q)
{
	if (!has_feature(vp, VIRTIO_F_RING_RESET))
		return;
	if (q->enabled)
		vp->params.ops->stop_queue(vp->params.arg, vp->queue_select);
	vp->params.ops->place_queue(vp->params.arg, vp->queue_select, NULL);
	queue_init(vp, q);
	vp->params.ops->route_queue(vp->params.arg, vp->queue_select);
	vp->queue_reset_stuck = !vp_does(vp, VFU_STEP_RESET);
}

static void
set_half(uint64_t *address, unsigned int half, uint64_t value)
{
	*address &= half == 0 ? ~(uint64_t)UINT32_MAX : UINT32_MAX;
	*address |= (value & UINT32_MAX) << (32 * half);
}

/* An address of the selected queue, at once or by halves; it is fixed while the queue is enabled.
 */
static void
write_address(struct vp_function *vp, uint32_t offset, size_t len, uint64_t value)
{
	struct vp_queue *q = selected(vp);
	uint64_t *address;

	if (q == NULL || q->enabled)
		return;
	if (offset < VIRTIO_PCI_COMMON_Q_AVAILLO)
		address = &q->desc;
	else if (offset < VIRTIO_PCI_COMMON_Q_USEDLO)
		address = &q->driver;
	else
		address = &q->device;
	if (len == 8 && offset % 8 == 0)
		*address = value;
	else if (len == 4)
		set_half(address, offset % 8 / 4, value);
}

static void
write_queue(struct vp_function *vp, uint32_t offset, uint16_t value)
{
	struct vp_queue *q = selected(vp);

	if (q == NULL)
		return;
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		if (!q->enabled && value != 0 && value <= vp_queue_size_max(vp, vp->queue_select))
			q->size = value;
		break;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		q->vector = grant_vector(vp, value);
		vp->params.ops->route_queue(vp->params.arg, vp->queue_select);
		break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		if (value == 1)
			enable_queue(vp, q);
		else if (value == 0)
			disable_queue(vp, q);
		break;
	case VIRTIO_PCI_COMMON_Q_RESET:
		if (value == 1)
			reset_queue(vp, q);
		break;
	default:
		break;
	}
}

static void
write_common(struct vp_function *vp, uint32_t offset, size_t len, uint64_t value)
{
	if (offset >= VIRTIO_PCI_COMMON_Q_DESCLO && offset < VIRTIO_PCI_COMMON_Q_NDATA) {
		write_address(vp, offset, len, value);
		return;
	}
	if (len == 4 && offset == VIRTIO_PCI_COMMON_DFSELECT)
		vp->device_feature_select = (uint32_t)value;
	else if (len == 4 && offset == VIRTIO_PCI_COMMON_GFSELECT)
		vp->driver_feature_select = (uint32_t)value;
	else if (len == 4 && offset == VIRTIO_PCI_COMMON_GF)
		write_features(vp, (uint32_t)value);
	else if (len == 2 && offset == VIRTIO_PCI_COMMON_MSIX)
		vp->config_vector = grant_vector(vp, (uint16_t)value);
	else if (len == 1 && offset == VIRTIO_PCI_COMMON_STATUS)
		write_status(vp, (uint8_t)value);
	else if (len == 2 && offset == VIRTIO_PCI_COMMON_Q_SELECT)
		vp->queue_select = (uint16_t)value;
	else if (len == 2)
		write_queue(vp, offset, (uint16_t)value);
}

bool
vdpa_vp_part_of(uint64_t offset, size_t len, uint64_t block, uint64_t block_len, uint64_t *in_block,
		size_t *in_buf, size_t *n)
{
	uint64_t first = RTE_MAX(offset, block), last = RTE_MIN(offset + len, block + block_len);

	if (first >= last)
		return false;
	*in_block = first - block;
	*in_buf = (size_t)(first - offset);
	*n = (size_t)(last - first);
	return true;
}

bool
vdpa_vp_read_block(uint64_t offset, uint8_t *buf, size_t len, uint64_t block, const void *bytes,
		   uint64_t block_len)
{
	uint64_t at;
	size_t pos, n;

	if (!vdpa_vp_part_of(offset, len, block, block_len, &at, &pos, &n))
		return false;
	memcpy(buf + pos, (const uint8_t *)bytes + at, n);
	return true;
}

bool
vdpa_vp_write_block(uint64_t offset, const uint8_t *buf, size_t len, uint64_t block, void *bytes,
		    uint64_t block_len)
{
	uint64_t at;
	size_t pos, n;

	if (!vdpa_vp_part_of(offset, len, block, block_len, &at, &pos, &n))
		return false;
	memcpy((uint8_t *)bytes + at, buf + pos, n);
	return true;
}

/* The flags behind doorbells. */
static void
read_flags(struct vp_function *vp, uint64_t offset, uint8_t *buf, size_t len)
{
	uint64_t mult = vp->params.notify_mult, first = offset / mult;

	for (uint64_t i = first; i < vp->params.nvqs && i * mult < offset + len; i++) {
		uint32_t flag =
			rte_cpu_to_le_32(vp->params.ops->read_flag(vp->params.arg, (uint16_t)i));

		vdpa_vp_read_block(offset, buf, len, i * mult + DOORBELL_LEN, &flag, sizeof(flag));
	}
}

/* offset is from the beginning of virtio's structures. */
static void
read_virtio(struct vp_function *vp, uint64_t offset, uint8_t *buf, size_t len)
{
	struct vp_common common;
	uint64_t at;
	size_t pos, n;

	if (vdpa_vp_part_of(offset, len, VP_COMMON_OFFSET, VP_COMMON_LEN, &at, &pos, &n)) {
		if (at <= VIRTIO_PCI_COMMON_CFGGENERATION &&
		    at + n > VIRTIO_PCI_COMMON_CFGGENERATION) {
			look_at_device_config(vp);
			if (!vp_does(vp, VFU_STEP_GENERATION))
				vp->generation++;
		}
		fill_common(vp, &common);
		memcpy(buf + pos, (const uint8_t *)&common + at, n);
	}
	if (vdpa_vp_part_of(offset, len, VP_ISR_OFFSET, 1, &at, &pos, &n)) {
		/* Reading acknowledges (4.1.4.5). */
		buf[pos] = vp->isr;
		vp->isr = 0;
		vp->params.ops->intx(vp->params.arg);
	}
	if (vdpa_vp_part_of(offset, len, VP_DEVICE_OFFSET, vp->params.device_size, &at, &pos, &n)) {
		look_at_device_config(vp);
		memcpy(buf + pos, vp->device_config + at, n);
	}
	if (vp->kind->flags &&
	    vdpa_vp_part_of(offset, len, VP_NOTIFY_OFFSET, vp->notify_len, &at, &pos, &n))
		read_flags(vp, at, buf + pos, n);
}

/* The doorbell of a queue; data names the queue too where notification data was negotiated. */
static void
write_doorbell(struct vp_function *vp, uint64_t at, size_t len, uint64_t value)
{
	uint64_t idx = at / vp->params.notify_mult, in = at % vp->params.notify_mult;

	if (idx >= vp_all_queues(&vp->params))
		return;
	if (in == 0 && (len == 2 || len == 4))
		vp->params.ops->notify(vp->params.arg, (uint16_t)idx, (uint32_t)value);
	else if (vp->kind->flags && in == DOORBELL_LEN && len == 4)
		vp->params.ops->write_flag(vp->params.arg, (uint16_t)idx, (uint32_t)value);
}

static void
write_virtio(struct vp_function *vp, uint64_t offset, const uint8_t *buf, size_t len)
{
	uint64_t value = 0, at;
	size_t pos, n;

	if (len <= sizeof(value))
		memcpy(&value, buf, len);
	value = rte_le_to_cpu_64(value);
	/* A register is written by itself (4.1.3.1). */
	if (offset >= VP_NOTIFY_OFFSET) {
		write_doorbell(vp, offset - VP_NOTIFY_OFFSET, len, value);
	} else if (offset + len <= VP_COMMON_LEN && len <= sizeof(value)) {
		write_common(vp, (uint32_t)offset, len, value);
	} else if (vdpa_vp_part_of(offset, len, VP_DEVICE_OFFSET, vp->params.device_size, &at, &pos,
				   &n) &&
		   !vp->suspended) {
		vp->params.ops->write_device(vp->params.arg, (size_t)at, buf + pos, n);
	}
}

/* Whether an access can be answered. */
static bool
is_there(const struct vp_function *vp, unsigned int bar, uint64_t offset, size_t len)
{
	return bar < RTE_DIM(vp->bar_size) && offset <= vp->bar_size[bar] &&
	       len <= vp->bar_size[bar] - offset && vp_does(vp, VFU_STEP_ANSWER);
}

void
vdpa_vp_bar_read(struct vp_function *vp, unsigned int bar, uint64_t offset, void *buf, size_t len)
{
	size_t table = (size_t)vp->params.vectors * MSIX_ENTRY_LEN;

	if (!is_there(vp, bar, offset, len)) {
		memset(buf, 0xff, len);
		return;
	}
	if (vp->kind->settle != NULL)
		vp->kind->settle(vp);
	/* Of pending bits none is set: an interrupt is delivered or it is not, masking is the
	 * client's. */
	memset(buf, 0, len);
	if (bar == vp->bar && offset >= vp->base)
		read_virtio(vp, offset - vp->base, buf, len);
	else if (bar == VP_BAR_MSIX)
		vdpa_vp_read_block(offset, buf, len, 0, vp->msix_table, table);
	if (vp->kind->own_read != NULL)
		vp->kind->own_read(vp, bar, offset, buf, len);
}

void
vdpa_vp_bar_write(struct vp_function *vp, unsigned int bar, uint64_t offset, const void *buf,
		  size_t len)
{
	size_t table = (size_t)vp->params.vectors * MSIX_ENTRY_LEN;

	if (!is_there(vp, bar, offset, len))
		return;
	if (vp->kind->settle != NULL)
		vp->kind->settle(vp);
	if (vp->kind->own_write != NULL && vp->kind->own_write(vp, bar, offset, buf, len))
		return;
	if (bar == vp->bar && offset >= vp->base)
		write_virtio(vp, offset - vp->base, buf, len);
	else if (bar == VP_BAR_MSIX)
		vdpa_vp_write_block(offset, buf, len, 0, vp->msix_table, table);
}
