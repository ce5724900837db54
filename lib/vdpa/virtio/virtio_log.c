/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The dirty log of a function whose DMA somebody below it logs: the kernel's driver of the device,
 * or a vfio-user server (vdpa_pci_logs_dma()). It logs whatever the function writes, its rings too,
 * within ranges that are fixed while it runs.
 */

#include <errno.h>
#include <string.h>

#include <rte_common.h>

#include "error_priv.h"
#include "virtio_priv.h"

/* Join the two neighbours with the least between them. */
static unsigned int
join_nearest(struct vdpa_dma_range *r, unsigned int n)
{
	unsigned int at = 0;

	for (unsigned int i = 1; i + 1 < n; i++)
		if (r[i + 1].first - r[i].last < r[at + 1].first - r[at].last)
			at = i;
	r[at].last = r[at + 1].last;
	memmove(&r[at + 1], &r[at + 2], (n - at - 2) * sizeof(r[0]));
	return n - 1;
}

/* The guest's memory in as many ranges as a log can have: what lies between costs nothing but room
 * in the device. */
static unsigned int
ranges_of(const struct vdpa_iotlb *tlb, struct vdpa_dma_range *r)
{
	const uint64_t page = VDPA_PCI_DMA_LOG_PAGE;
	struct vdpa_dma_range all[VDPA_PCI_DMA_LOG_RANGES + 1];
	unsigned int n = 0;

	for (uint32_t i = 0; tlb != NULL && i < tlb->n; i++) {
		const struct vdpa_mem_region *m = tlb->regions[i];
		uint64_t first = RTE_ALIGN_FLOOR(m->iova, page);
		uint64_t last = (m->iova + m->size - 1) | (page - 1);

		if (n > 0 && first <= all[n - 1].last + 1) {
			all[n - 1].last = RTE_MAX(all[n - 1].last, last);
			continue;
		}
		all[n++] = (struct vdpa_dma_range){first, last};
		if (n > VDPA_PCI_DMA_LOG_RANGES)
			n = join_nearest(all, n);
	}
	memcpy(r, all, n * sizeof(r[0]));
	return n;
}

/* What a device has no room for is not to fail it: there are other ways to know what it writes. */
static int
begin(struct virtio_device *dev, const struct vdpa_dma_range *ranges, unsigned int n)
{
	int rc = vdpa_pci_dma_log_start(dev->hw.pci, ranges, n);
	struct vdpa_error_saved error;

	if (rc == 0 || vdpa_pci_error(dev->hw.pci) != 0)
		return rc;
	vdpa_error_save(&error);
	return vdpa_error(EOPNOTSUPP, "%s", error.text);
}

/* Whether each of the ranges is within one of the log that runs. */
static bool
are_logged(const struct virtio_log *log, const struct vdpa_dma_range *r, unsigned int n)
{
	for (unsigned int i = 0, j = 0; i < n; i++) {
		while (j < log->n && log->ranges[j].last < r[i].first)
			j++;
		if (j == log->n || r[i].first < log->ranges[j].first ||
		    r[i].last > log->ranges[j].last)
			return false;
	}
	return true;
}

/*
 * Other ranges: one log ends before another begins, and what the function writes in between nobody
 * logs. So all memory counts as written, once; a migration that is longer by that.
 */
static int
replace_ranges(struct virtio_device *dev, const struct vdpa_dma_range *ranges, unsigned int n)
{
	struct virtio_log *log = &dev->log;
	struct vdpa_error_saved error;
	int rc = vdpa_pci_dma_log_stop(dev->hw.pci);

	if (rc < 0)
		return rc;
	rc = vdpa_pci_dma_log_start(dev->hw.pci, ranges, n);
	if (rc == 0)
		return 0;
	vdpa_error_save(&error);
	if (vdpa_pci_dma_log_start(dev->hw.pci, log->ranges, log->n) < 0)
		log->broken = true;
	vdpa_error_restore(&error);
	return rc;
}

int
virtio_log_start(struct virtio_device *dev, const struct vdpa_dirty_log *log)
{
	struct vdpa_dma_range ranges[VDPA_PCI_DMA_LOG_RANGES];
	unsigned int n = ranges_of(log->tlb, ranges);
	bool changes = dev->log.on && !are_logged(&dev->log, ranges, n);
	int rc = 0;

	if (changes)
		rc = replace_ranges(dev, ranges, n);
	else if (!dev->log.on)
		rc = begin(dev, ranges, n);
	if (changes)
		vdpa_dirty_log_mark_all(rc < 0 ? &dev->log.log : log, log->tlb);
	if (rc < 0)
		return rc;
	if (changes || !dev->log.on) {
		memcpy(dev->log.ranges, ranges, n * sizeof(ranges[0]));
		dev->log.n = n;
		dev->log.broken = false;
	}
	dev->log.on = true;
	dev->log.log = *log;
	return 0;
}

int
virtio_log_sync(struct virtio_device *dev)
{
	int rc = 0;

	if (dev->log.broken)
		return vdpa_error(EIO, "its DMA is not logged any more");
	for (unsigned int i = 0; rc == 0 && i < dev->log.n; i++)
		rc = vdpa_pci_dma_log_report(dev->hw.pci, &dev->log.ranges[i], &dev->log.log);
	return rc;
}

int
virtio_log_stop(struct virtio_device *dev)
{
	bool broken = dev->log.broken;

	dev->log = (struct virtio_log){0};
	return broken ? 0 : vdpa_pci_dma_log_stop(dev->hw.pci);
}
