/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Intel's ifcvf functions (net and block): virtio, and in BAR 4 a block of registers for live
 * migration, by which a queue starts anywhere and says where it stopped, and the function logs the
 * pages of buffers that it writes.
 *
 * What is known of the block comes from public drivers; no silicon was seen. It has no version and
 * no signature: BAR 4 is taken for it where no structure of virtio or MSI-X lies in the BAR. Else
 * the function is driven without it. See doc/guide-ifcvf.md.
 */

#include <errno.h>
#include <inttypes.h>

#include <linux/virtio_config.h>

#include <rte_bitops.h>
#include <rte_common.h>

#include "vdpa_log.h"
#include "vdpa_virtio.h"

#define VENDOR_VIRTIO 0x1af4
#define VENDOR_INTEL  0x8086

#define NUM_MIN 64

/* The live-migration block, and its registers; bytes. */
#define LM_BAR 4
enum {
	LM_CONTROL = 0x00,
	LM_STATUS = 0x08,
	LM_LOG_START = 0x10, /* IOVA of the bitmap: a bit a page of 4 KiB, from IOVA 0 */
	LM_LOG_END = 0x18,   /* IOVA behind it */
	LM_RING_STATE = 0x20,
};
#define LM_CONTROL_LOG 1u

/* Two layouts of the ring state, by device id. */
struct layout {
	uint16_t device;      /* 0: all others */
	uint32_t pair, queue; /* bytes from one pair, and one queue, to the next */
	bool wide;	      /* avail index below, used index above; else the avail index alone */
};

static const struct layout layouts[] = {
	{.device = 0x1041, .pair = 0x40, .queue = 4, .wide = true},
	{.device = 0, .pair = 8, .queue = 4},
};

struct ifcvf {
	struct vdpa_virtio_device virtio;
	const struct layout *layout;
	struct vdpa_dirty_log log;   /* of the front end; bitmap NULL: none runs */
	struct vdpa_dma_buf written; /* the function's own, brought over by log_sync */
};

static struct ifcvf *
ifcvf(struct vdpa_device *vdev)
{
	return (struct ifcvf *)(void *)vdev;
}

static struct vdpa_pci *
pci_of(struct vdpa_device *vdev)
{
	return vdpa_virtio_device(vdev)->hw->pci;
}

/* Ring state. */

static uint32_t
state_at(const struct layout *layout, uint16_t idx)
{
	return LM_RING_STATE + idx / 2 * layout->pair + idx % 2 * layout->queue;
}

static int
ifcvf_set_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state)
{
	const struct layout *layout = ifcvf(vdev)->layout;
	uint16_t at = state->split.avail_index;

	/* The registers have no room for a packed ring's state. */
	if (vdpa_virtio_is_packed(vdev))
		return vdpa_virtio_ops()->set_vq_state(vdev, idx, state);
	/* Nothing is in flight: what was taken has been used. */
	if (layout->wide)
		vdpa_pci_write32(pci_of(vdev), LM_BAR, state_at(layout, idx),
				 at | (uint32_t)at << 16);
	else
		vdpa_pci_write16(pci_of(vdev), LM_BAR, state_at(layout, idx), at);
	return vdpa_virtio_pci_check(vdpa_virtio_device(vdev)->hw);
}

static int
ifcvf_get_vq_state(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	struct vdpa_virtio_device *dev = vdpa_virtio_device(vdev);
	const struct layout *layout = ifcvf(vdev)->layout;
	uint32_t at = state_at(layout, idx);

	if (vdpa_virtio_is_packed(vdev))
		return vdpa_virtio_ops()->get_vq_state(vdev, idx, state);
	if (vdpa_virtio_vq_runs(dev, idx))
		return vdpa_error(EOPNOTSUPP, "queue %u runs: its place changes", idx);
	*state = (struct vdpa_vq_state){0};
	/* Of what was taken and not used, nothing was written: it is to be taken again. */
	if (layout->wide)
		state->split.avail_index =
			(uint16_t)(vdpa_pci_read32(dev->hw->pci, LM_BAR, at) >> 16);
	else
		state->split.avail_index = vdpa_pci_read16(dev->hw->pci, LM_BAR, at);
	return vdpa_virtio_pci_check(dev->hw);
}

static int
ifcvf_suspend(struct vdpa_device *vdev)
{
	if (vdpa_virtio_is_packed(vdev))
		return vdpa_error(EOPNOTSUPP, "the function keeps no place in a packed ring");
	return vdpa_virtio_ops()->suspend(vdev);
}

/* The dirty log. */

static void
write_address(struct vdpa_pci *pci, uint32_t reg, uint64_t iova)
{
	vdpa_pci_write32(pci, LM_BAR, reg, (uint32_t)iova);
	vdpa_pci_write32(pci, LM_BAR, reg + 4, (uint32_t)(iova >> 32));
}

/* Reading a register brings in what the function has written before. */
static void
log_to(struct vdpa_pci *pci, const struct vdpa_dma_buf *to)
{
	vdpa_pci_write32(pci, LM_BAR, LM_CONTROL, 0);
	if (to != NULL) {
		write_address(pci, LM_LOG_START, to->iova);
		write_address(pci, LM_LOG_END, to->iova + to->size);
		vdpa_pci_write32(pci, LM_BAR, LM_CONTROL, LM_CONTROL_LOG);
	}
	(void)vdpa_pci_read32(pci, LM_BAR, LM_STATUS);
}

static bool
any_runs(struct vdpa_device *vdev)
{
	for (uint16_t i = 0; i < vdev->config->get_vq_count(vdev); i++)
		if (vdpa_virtio_vq_runs(vdpa_virtio_device(vdev), i))
			return true;
	return false;
}

/* Another bitmap of the function's own: while its queues stand still, so that no page is missed. */
static int
change_bitmap(struct vdpa_device *vdev, const struct vdpa_dma_buf *bitmap)
{
	struct ifcvf *dev = ifcvf(vdev);
	bool pause = dev->written.va != NULL && any_runs(vdev);
	int rc = pause ? vdpa_virtio_ops()->suspend(vdev) : 0;

	if (rc < 0)
		return rc;
	log_to(pci_of(vdev), bitmap);
	rc = pause ? vdpa_virtio_ops()->resume(vdev) : vdpa_virtio_pci_check(dev->virtio.hw);
	if (rc < 0)
		log_to(pci_of(vdev), dev->written.va != NULL ? &dev->written : NULL);
	/* The front end has its log refused, and does not know that the queues stand still. */
	if (rc < 0 && pause)
		vdpa_device_fail(vdev, -1, rc, "it does not go on with another dirty log: %s",
				 vdpa_error_message());
	return rc;
}

static int
ifcvf_log_start(struct vdpa_device *vdev, const struct vdpa_dirty_log *log,
		const uint64_t *used_iova)
{
	const struct vdpa_dma_owner owner = {.user = vdev->dma_user};
	size_t size = RTE_ALIGN_CEIL(log->size, sizeof(uint64_t));
	struct ifcvf *dev = ifcvf(vdev);
	struct vdpa_dma_buf bitmap, old = dev->written;
	int rc;

	/* What is not brought over yet comes into the new log. */
	if (old.va == NULL || old.size < size) {
		rc = vdpa_dma_alloc(vdev->dma, size, &owner, &bitmap);
		if (rc < 0)
			return rc;
		rc = change_bitmap(vdev, &bitmap);
		if (rc < 0) {
			vdpa_dma_free(vdev->dma, &bitmap);
			return rc;
		}
		dev->written = bitmap;
		if (old.va != NULL) {
			vdpa_dirty_log_merge(log, old.va, old.size);
			vdpa_dma_free(vdev->dma, &old);
		}
	}
	dev->log = *log;
	return 0;
}

static int
ifcvf_log_sync(struct vdpa_device *vdev)
{
	struct ifcvf *dev = ifcvf(vdev);

	(void)vdpa_pci_read32(pci_of(vdev), LM_BAR, LM_STATUS);
	vdpa_dirty_log_merge(&dev->log, dev->written.va, dev->written.size);
	return vdpa_virtio_pci_check(dev->virtio.hw);
}

static int
ifcvf_log_stop(struct vdpa_device *vdev)
{
	struct ifcvf *dev = ifcvf(vdev);

	log_to(pci_of(vdev), NULL);
	vdpa_dma_free(vdev->dma, &dev->written);
	dev->written = (struct vdpa_dma_buf){0};
	dev->log = (struct vdpa_dirty_log){0};
	return vdpa_virtio_pci_check(dev->virtio.hw);
}

/* The device. */

static uint16_t
ifcvf_get_vq_num_min(struct vdpa_device *vdev)
{
	return NUM_MIN;
}

static uint32_t
ifcvf_get_vendor_id(struct vdpa_device *vdev)
{
	return vdpa_pci_get_id(pci_of(vdev))->subsystem_vendor;
}

/* With the block and without it. */
static int
check_function(struct vdpa_virtio_device *dev, const struct vdpa_args *args)
{
	const char *name = vdpa_pci_name(dev->hw->pci);
	uint16_t num = dev->vdev.config->get_vq_num_max(&dev->vdev);

	if ((vdpa_virtio_hw_features(dev) & RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM)) == 0)
		return vdpa_error(ENOTSUP,
				  "%s: the device does not offer VIRTIO_F_ACCESS_PLATFORM, which "
				  "ifcvf needs (QEMU: iommu_platform=on)",
				  name);
	if (num < NUM_MIN)
		return vdpa_error(EINVAL, "%s: queues of %u entries, ifcvf needs %u", name, num,
				  NUM_MIN);
	return 0;
}

static int
ifcvf_init(struct vdpa_virtio_device *dev, const struct vdpa_args *args)
{
	struct vdpa_pci *pci = dev->hw->pci;
	uint16_t n = dev->vdev.config->get_vq_count(&dev->vdev), i = 0;
	int rc = check_function(dev, args);

	if (rc < 0)
		return rc;
	while (layouts[i].device != 0 && layouts[i].device != vdpa_pci_get_id(pci)->device)
		i++;
	ifcvf(&dev->vdev)->layout = &layouts[i];
	if (!vdpa_pci_bar_has(pci, LM_BAR, state_at(&layouts[i], n - 1), sizeof(uint32_t)))
		return vdpa_error(EPROTO,
				  "%s: BAR %u has 0x%" PRIx64
				  " bytes, too few for the ring state of %u queues",
				  vdpa_pci_name(pci), LM_BAR, vdpa_pci_bar_size(pci, LM_BAR), n);
	/* A process before this one may have left it on. */
	log_to(pci, NULL);
	return vdpa_virtio_pci_check(dev->hw);
}

static const struct vdpa_config_ops lm_ops = {
	.size = sizeof(lm_ops),
	.get_vq_num_min = ifcvf_get_vq_num_min,
	.get_vendor_id = ifcvf_get_vendor_id,
	.set_vq_state = ifcvf_set_vq_state,
	.get_vq_state = ifcvf_get_vq_state,
	.suspend = ifcvf_suspend,
	.log_start = ifcvf_log_start,
	.log_sync = ifcvf_log_sync,
	.log_stop = ifcvf_log_stop,
};

static const struct vdpa_config_ops plain_ops = {
	.size = sizeof(plain_ops),
	.get_vq_num_min = ifcvf_get_vq_num_min,
	.get_vendor_id = ifcvf_get_vendor_id,
};

static const struct vdpa_virtio_kind plain = {.ops = &plain_ops, .init = check_function};

static const struct vdpa_virtio_kind with_lm = {.size = sizeof(struct ifcvf),
						.ops = &lm_ops,
						.init = ifcvf_init,
						.queue_enable_stops = true};

static const struct vdpa_virtio_kind *
variant(const struct vdpa_virtio_pci *hw)
{
	unsigned int others = hw->cap_bars | vdpa_pci_msix_bars(hw->pci);

	if (vdpa_pci_bar_size(hw->pci, LM_BAR) > LM_RING_STATE && (others & 1u << LM_BAR) == 0)
		return &with_lm;
	VDPA_LOG(NOTICE,
		 "%s: BAR %u is no live-migration block: it %s; the device runs without ring state "
		 "and dirty log",
		 vdpa_pci_name(hw->pci), LM_BAR,
		 vdpa_pci_bar_size(hw->pci, LM_BAR) > LM_RING_STATE
			 ? "has structures of virtio or MSI-X"
			 : "is not there");
	return &plain;
}

static int
ifcvf_add(struct vdpa_driver *drv, struct vdpa_mgmt_dev *mdev, struct vdpa_pci *pci,
	  const char *name, const struct vdpa_args *args)
{
	static const struct vdpa_virtio_kind kind = {.variant = variant};

	return vdpa_virtio_add(&kind, mdev, pci, name, args);
}

static const struct vdpa_param params[] = {VDPA_VIRTIO_PARAMS, {0}};

static const struct vdpa_pci_match ids[] = {
	{VENDOR_VIRTIO, 0x1041, 0, VENDOR_INTEL, 0x001a, 0, 0},
	{VENDOR_VIRTIO, 0x1000, 0, VENDOR_INTEL, 0x0001, 0, 0},
	{VENDOR_VIRTIO, 0x1001, 0, VENDOR_INTEL, 0x0002, 0, 0},
	{0},
};

struct vdpa_driver vdpa_ifcvf_driver = {
	.name = "ifcvf",
	.help = "Intel ifcvf function (net or block), with ring state and dirty log",
	.params = params,
	.pci_ids = ids,
	.pci_add = ifcvf_add,
};
