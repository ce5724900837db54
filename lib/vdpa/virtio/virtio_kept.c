/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A device that goes on without the process: what the service records of it (pci_kept.h), and how
 * the next process comes to drive it.
 *
 * The next process takes the steps of a start, with the front end's words as the former one heard
 * them. While it does (hw.adopts), a register that a step would write is read instead, and must
 * have what would be written: so the device is left alone, and the driver knows it as after any
 * start. A step that finds another value fails, and with it the start; the reset that follows is a
 * real one. The record has what registers do not tell, and nothing else.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <rte_bitops.h>
#include <rte_common.h>

#include "vdpa_log.h"
#include "virtio_priv.h"

#define KEPT_VERSION 1

struct kept_device {
	uint32_t version;
	uint16_t type, nvqs;
	uint64_t features, negotiated;
	struct {
		uint64_t iova;
		uint32_t doorbell;
		uint16_t idx, num, next, pairs;
		uint8_t on, wrap, busy, started;
	} ctrl;
};

/* What a queue was before it was set up: its registers do not tell that any more. */
struct kept_queue {
	uint32_t doorbell;
	uint16_t num_max;
	uint8_t takes_data, padding;
};

_Static_assert(sizeof(struct kept_device) == 48, "record of a device");
_Static_assert(sizeof(struct kept_queue) == 8, "record of a queue");

/* A driver that has nothing of its own: the service knows all of the device. */
bool
virtio_kept_can(const struct vdpa_virtio_kind *kind)
{
	return kind->pci == NULL && kind->ops == NULL && kind->variant == NULL &&
	       kind->init == NULL && kind->take_interrupt == NULL && !kind->queue_enable_stops;
}

int
virtio_kept_begin(struct virtio_device *dev)
{
	int rc;

	if (dev->owner != NULL)
		return vdpa_error(EOPNOTSUPP, "functions with an owner are not left running");
	rc = vdpa_pci_keep(dev->hw.pci);
	dev->is_kept = rc == 0;
	return rc;
}

void
virtio_kept_write(struct virtio_device *dev)
{
	const struct virtio_ctrl *c = &dev->ctrl;
	struct kept_device *record;
	struct kept_queue *q;
	size_t len = sizeof(*record) + dev->nvqs * sizeof(*q);

	if (!dev->is_kept)
		return;
	record = calloc(1, len);
	if (record == NULL) {
		/* The last one holds as long as it fits what the next process finds. */
		VDPA_LOG(ERR, "%s: out of memory: its record is not written", dev->vdev->name);
		return;
	}
	*record = (struct kept_device){.version = KEPT_VERSION,
				       .type = dev->hw.type,
				       .nvqs = dev->nvqs,
				       .features = dev->features,
				       .negotiated = dev->negotiated,
				       .ctrl = {.iova = c->mem.iova,
						.doorbell = c->doorbell,
						.idx = c->idx,
						.num = c->num,
						.next = c->next,
						.pairs = c->pairs,
						.on = c->on,
						.wrap = c->wrap,
						.busy = c->busy,
						.started = c->started}};
	q = (struct kept_queue *)(record + 1);
	for (uint16_t i = 0; i < dev->nvqs; i++)
		q[i] = (struct kept_queue){.doorbell = dev->vqs[i].info.doorbell,
					   .num_max = dev->vqs[i].info.num_max,
					   .takes_data = dev->vqs[i].info.takes_data};
	vdpa_pci_keep_record(dev->hw.pci, record, len);
	free(record);
}

/* The next process. */

static int
check_record(const struct virtio_device *dev, const struct kept_device *record, size_t len)
{
	uint64_t own = RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM) | RTE_BIT64(VIRTIO_F_RING_RESET) |
		       RTE_BIT64(VIRTIO_F_SUSPEND);

	if (record == NULL || len < sizeof(*record) || record->version != KEPT_VERSION)
		return vdpa_error(EPROTO, "its record is of another version");
	if (len != sizeof(*record) + record->nvqs * sizeof(struct kept_queue) ||
	    record->nvqs == 0 || record->nvqs > VDPA_VQ_MAX || record->type != dev->hw.type)
		return vdpa_error(EPROTO, "its record is not one of this device");
	if ((record->negotiated & ~dev->hw_features) != 0 ||
	    (record->features & ~(record->negotiated | own)) != 0 ||
	    !virtio_has(record->features, VIRTIO_F_VERSION_1))
		return vdpa_error(EPROTO,
				  "its record has the features 0x%" PRIx64 " and 0x%" PRIx64
				  ", the function 0x%" PRIx64,
				  record->features, record->negotiated, dev->hw_features);
	return 0;
}

static int
check_function(struct virtio_device *dev, const struct kept_device *record)
{
	const uint8_t runs = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
			     VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
	uint8_t status = vdpa_virtio_pci_get_status(&dev->hw);

	if (vdpa_virtio_pci_check(&dev->hw) < 0)
		return vdpa_virtio_pci_check(&dev->hw);
	if (status == 0)
		return vdpa_error(ESHUTDOWN, "the function was stopped");
	if (status != runs)
		return vdpa_error(ENOENT, "the function does not run, its status is 0x%02x",
				  status);
	if (!vdpa_pci_left_is_master(dev->hw.pci))
		return vdpa_error(ENOENT, "the function has been stopped: bus master is off");
	if (vdpa_pci_left_vectors(dev->hw.pci) == 0)
		return vdpa_error(EOPNOTSUPP, "it has no MSI-X vectors");
	return virtio_pci_check_features(&dev->hw, record->negotiated);
}

int
virtio_kept_queue_info(struct virtio_device *dev, uint16_t idx, struct vdpa_virtio_vq_info *info)
{
	const struct kept_device *record = (const void *)dev->left;
	const struct kept_queue *q = (const struct kept_queue *)(record + 1) + idx;
	int rc;

	if (idx >= record->nvqs)
		return vdpa_error(EPROTO, "its record has %u queues", record->nvqs);
	/* Of the queues that it runs without, the function says nothing. */
	rc = idx < virtio_pci_num_queues(&dev->hw) ? virtio_pci_vq_info(&dev->hw, idx, info) : 0;
	if (rc < 0)
		return rc;
	if ((idx < virtio_pci_num_queues(&dev->hw) && info->doorbell != q->doorbell) ||
	    q->num_max < info->num_max || q->num_max == 0 || q->num_max > VDPA_VQ_NUM_MAX)
		return vdpa_error(EPROTO, "queue %u is not the one that was recorded", idx);
	*info = (struct vdpa_virtio_vq_info){
		.num_max = q->num_max, .doorbell = q->doorbell, .takes_data = q->takes_data != 0};
	return virtio_pci_check_doorbell(&dev->hw, idx, info);
}

static int
take_record(struct virtio_device *dev, const void *bytes, size_t len)
{
	const struct kept_device *record = bytes;
	struct vdpa_virtio_vq_info info;
	int rc = check_record(dev, record, len);

	if (rc == 0)
		rc = check_function(dev, record);
	if (rc < 0)
		return rc;
	dev->left = malloc(len);
	if (dev->left == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	memcpy(dev->left, bytes, len);
	dev->hw.adopts = true;
	for (uint16_t i = 0; rc == 0 && i < record->nvqs; i++)
		rc = virtio_kept_queue_info(dev, i, &info);
	if (rc < 0) {
		dev->hw.adopts = false;
		free(dev->left);
		dev->left = NULL;
	}
	return rc;
}

int
virtio_kept_find(struct virtio_device *dev, const struct vdpa_virtio_kind *kind, const char *name)
{
	const void *record;
	size_t len;
	bool idle;
	int rc;

	record = vdpa_pci_left_record(dev->hw.pci, &len);
	rc = record == NULL	     ? vdpa_error(ENOENT, "it was never started")
	     : virtio_kept_can(kind) ? take_record(dev, record, len)
				     : vdpa_error(EOPNOTSUPP, "another driver drives it now");
	if (rc == 0)
		return 0;
	/* One that nobody has used, or that was stopped, has nothing to lose. */
	idle = record == NULL || rc == -ESHUTDOWN;
	if (idle && vdpa_virtio_pci_get_status(&dev->hw) == 0)
		vdpa_pci_left_idle(dev->hw.pci);
	else if (vdpa_pci_is_held(dev->hw.pci))
		return rc;
	if (!idle)
		VDPA_LOG(WARNING, "%s: %s: starts anew: %s", name, vdpa_pci_name(dev->hw.pci),
			 vdpa_error_message());
	vdpa_pci_settle(dev->hw.pci, false);
	return 1;
}

void
virtio_kept_let_be(struct virtio_device *dev)
{
	if (!vdpa_pci_is_held(dev->hw.pci))
		return;
	__atomic_store_n(&dev->running, false, __ATOMIC_SEQ_CST);
	virtio_irq_end_handlers(dev);
	if (!vdpa_pci_let_be(dev->hw.pci))
		return;
	dev->is_left = true;
	dev->is_kept = false;
	dev->hw.adopts = false;
}

uint64_t
virtio_kept_features(const struct virtio_device *dev, uint64_t *negotiated)
{
	const struct kept_device *record = (const void *)dev->left;

	*negotiated = record->negotiated;
	return record->features;
}

bool
virtio_kept_ctrl(const struct virtio_device *dev, struct virtio_ctrl *c)
{
	const struct kept_device *record = (const void *)dev->left;

	c->idx = record->ctrl.idx;
	c->num = record->ctrl.num;
	c->doorbell = record->ctrl.doorbell;
	c->mem.iova = record->ctrl.iova;
	c->next = record->ctrl.next;
	c->wrap = record->ctrl.wrap != 0;
	c->pairs = record->ctrl.pairs;
	c->busy = record->ctrl.busy != 0;
	c->started = record->ctrl.started != 0;
	return record->ctrl.on != 0;
}

/* All steps were taken: no ring is left that nobody has set up. */
int
virtio_kept_check_queues(struct virtio_device *dev)
{
	for (uint16_t i = 0; i < virtio_device_queues(dev); i++) {
		int enabled = virtio_pci_vq_is_enabled(&dev->hw, i);

		if (enabled < 0)
			return enabled;
		if (enabled != dev->vqs[i].ready)
			return vdpa_error(EPROTO, "the function %s queue %u, the front end %s",
					  enabled ? "has" : "does not have", i,
					  enabled ? "does not" : "does");
	}
	return 0;
}

void
virtio_kept_settle(struct virtio_device *dev, bool taken_over)
{
	dev->hw.adopts = false;
	free(dev->left);
	dev->left = NULL;
	vdpa_pci_settle(dev->hw.pci, taken_over);
}

int
virtio_device_leave(struct virtio_device *dev)
{
	int rc;

	if (!dev->is_kept)
		return vdpa_error(EOPNOTSUPP, "it is not kept");
	/* Kicks and interrupts that came to us come to the next process, which makes up for one
	 * that is lost between. */
	__atomic_store_n(&dev->running, false, __ATOMIC_SEQ_CST);
	virtio_irq_end_handlers(dev);
	rc = vdpa_pci_leave(dev->hw.pci);
	dev->is_left = rc == 0;
	dev->is_kept = false;
	return rc;
}
