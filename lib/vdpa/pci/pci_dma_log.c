/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The DMA log of a function, as its transport has it: which pages it has written. What is checked
 * of ranges, and how what is reported comes into a front end's log, is here, once for all
 * transports.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <rte_common.h>

#include "pci_device.h"
#include "vdpa_error.h"

/* Bytes of IOVAs that are asked for at once. */
#define REPORT_SIZE  (UINT64_C(1) << 30)
#define REPORT_WORDS (REPORT_SIZE / VDPA_PCI_DMA_LOG_PAGE / 64)

bool
vdpa_pci_logs_dma(struct vdpa_pci *pci)
{
	const struct vdpa_pci_transport *ops = vdpa_pci_ops(pci);
	struct vdpa_error_saved error;
	bool logs;

	if (ops->dma_log_probe == NULL || ops->dma_log_start == NULL ||
	    ops->dma_log_report == NULL || ops->dma_log_stop == NULL || vdpa_pci_error(pci) != 0)
		return false;
	/* That it has none is no error. */
	vdpa_error_save(&error);
	logs = ops->dma_log_probe(pci->handle);
	vdpa_error_restore(&error);
	return logs;
}

static bool
is_page(uint64_t first, uint64_t last)
{
	return first % VDPA_PCI_DMA_LOG_PAGE == 0 && last > first &&
	       (last + 1) % VDPA_PCI_DMA_LOG_PAGE == 0;
}

static int
check_ranges(const struct vdpa_pci *pci, const struct vdpa_dma_range *ranges, unsigned int n)
{
	if (n == 0 || n > VDPA_PCI_DMA_LOG_RANGES)
		return vdpa_error(EINVAL, "%s: a DMA log of %u ranges, allowed are 1 to %d",
				  pci->name, n, VDPA_PCI_DMA_LOG_RANGES);
	for (unsigned int i = 0; i < n; i++)
		if (!is_page(ranges[i].first, ranges[i].last) ||
		    (i > 0 && ranges[i].first <= ranges[i - 1].last))
			return vdpa_error(EINVAL,
					  "%s: a DMA log of 0x%" PRIx64 "-0x%" PRIx64
					  ", expected are whole pages, in order",
					  pci->name, ranges[i].first, ranges[i].last);
	return 0;
}

static int
failed(struct vdpa_pci *pci, const char *what, int rc)
{
	if (vdpa_pci_error(pci) != 0)
		return vdpa_pci_gone_error(pci);
	return vdpa_error(rc, "%s: DMA log: %s: %s", pci->name, what, strerror(-rc));
}

int
vdpa_pci_dma_log_start(struct vdpa_pci *pci, const struct vdpa_dma_range *ranges, unsigned int n)
{
	int rc = check_ranges(pci, ranges, n);

	if (rc < 0)
		return rc;
	if (vdpa_pci_error(pci) != 0)
		return vdpa_pci_gone_error(pci);
	if (vdpa_pci_ops(pci)->dma_log_start == NULL)
		return vdpa_error(EOPNOTSUPP, "%s: has no DMA log", pci->name);
	rc = vdpa_pci_ops(pci)->dma_log_start(pci->handle, ranges, n);
	return rc < 0 ? failed(pci, "it does not begin", rc) : 0;
}

int
vdpa_pci_dma_log_report(struct vdpa_pci *pci, const struct vdpa_dma_range *range,
			const struct vdpa_dirty_log *log)
{
	uint64_t at = range->first, *bitmap;
	int rc = 0;

	if (!is_page(range->first, range->last))
		return vdpa_error(EINVAL, "%s: DMA log: 0x%" PRIx64 "-0x%" PRIx64 " are no pages",
				  pci->name, range->first, range->last);
	if (vdpa_pci_error(pci) != 0)
		return vdpa_pci_gone_error(pci);
	if (vdpa_pci_ops(pci)->dma_log_report == NULL)
		return vdpa_error(EOPNOTSUPP, "%s: has no DMA log", pci->name);
	bitmap = calloc(REPORT_WORDS, sizeof(*bitmap));
	if (bitmap == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", pci->name);
	while (rc == 0) {
		uint64_t size = RTE_MIN(range->last - at, REPORT_SIZE - 1) + 1;

		rc = vdpa_pci_ops(pci)->dma_log_report(pci->handle, at, size, bitmap);
		if (rc < 0)
			break;
		vdpa_dirty_log_mark_bits(log, at, bitmap, size / VDPA_PCI_DMA_LOG_PAGE);
		if (range->last - at < size)
			break;
		at += size;
	}
	free(bitmap);
	return rc < 0 ? failed(pci, "it is not reported", rc) : 0;
}

int
vdpa_pci_dma_log_stop(struct vdpa_pci *pci)
{
	int rc;

	if (vdpa_pci_error(pci) != 0)
		return vdpa_pci_gone_error(pci);
	if (vdpa_pci_ops(pci)->dma_log_stop == NULL)
		return vdpa_error(EOPNOTSUPP, "%s: has no DMA log", pci->name);
	rc = vdpa_pci_ops(pci)->dma_log_stop(pci->handle);
	return rc < 0 ? failed(pci, "it does not end", rc) : 0;
}
