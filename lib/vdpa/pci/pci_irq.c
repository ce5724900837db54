/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Interrupts of a PCI function: MSI-X vectors, the INTx line, and the events that it tells out of
 * band. Knows which are on; eventfds stay the caller's.
 */

#include <errno.h>
#include <inttypes.h>

#include "pci_device.h"
#include "pci_kept.h"
#include "vdpa_error.h"
#include "vdpa_event.h"
#include "vdpa_log.h"

#define MSIX_ENTRY_SIZE PCI_MSIX_ENTRY_SIZE

/* The table, or the array of pending bits, lies in a BAR. */
static int
msix_check(struct vdpa_pci *pci, const char *what, unsigned int at, uint64_t size)
{
	uint32_t where;
	int ret;

	ret = vdpa_pci_config_read32(pci, at, &where);
	if (ret < 0)
		return ret;
	if (!vdpa_pci_bar_has(pci, where & PCI_MSIX_TABLE_BIR, where & PCI_MSIX_TABLE_OFFSET, size))
		return vdpa_error(EPROTO,
				  "%s: MSI-X %s of 0x%" PRIx64
				  " bytes at 0x%x of BAR %u lies outside the BAR's 0x%" PRIx64
				  "; the device is at fault",
				  pci->name, what, size, where & PCI_MSIX_TABLE_OFFSET,
				  where & PCI_MSIX_TABLE_BIR,
				  vdpa_pci_bar_size(pci, where & PCI_MSIX_TABLE_BIR));
	pci->msix_bars |= 1u << (where & PCI_MSIX_TABLE_BIR);
	return 0;
}

int
vdpa_pci_msix_init(struct vdpa_pci *pci)
{
	unsigned int granted = pci->info.nr_irqs[VFIO_PCI_MSIX_IRQ_INDEX], n;
	uint16_t flags;
	int cap, ret;

	cap = vdpa_pci_find_cap(pci, PCI_CAP_ID_MSIX, 0);
	if (cap == -ENOENT)
		return 0;
	if (cap < 0)
		return cap;
	if ((unsigned int)cap + PCI_CAP_MSIX_SIZEOF > PCI_CFG_SPACE_SIZE)
		return vdpa_error(EPROTO,
				  "%s: the MSI-X capability at 0x%x has no room; the device is at "
				  "fault",
				  pci->name, cap);
	ret = vdpa_pci_config_read16(pci, (unsigned int)cap + PCI_MSIX_FLAGS, &flags);
	if (ret < 0)
		return ret;
	n = (flags & PCI_MSIX_FLAGS_QSIZE) + 1u;
	ret = msix_check(pci, "table", (unsigned int)cap + PCI_MSIX_TABLE,
			 (uint64_t)n * MSIX_ENTRY_SIZE);
	if (ret == 0)
		ret = msix_check(pci, "pending bits", (unsigned int)cap + PCI_MSIX_PBA,
				 (n + 63) / 64 * 8);
	if (ret < 0)
		return ret;
	if (granted < n)
		VDPA_LOG(INFO, "%s: %u of %u MSI-X vectors can be used", pci->name, granted, n);
	pci->msix_cap = (unsigned int)cap;
	pci->nr_vectors = granted < n ? granted : n;
	return 0;
}

unsigned int
vdpa_pci_nr_vectors(const struct vdpa_pci *pci)
{
	return pci->nr_vectors;
}

unsigned int
vdpa_pci_msix_bars(const struct vdpa_pci *pci)
{
	return pci->msix_bars;
}

/*
 * The enable bit, for functions whose configuration space is their own (vfio-user); the kernel
 * keeps it for those that it drives, and drops the write.
 */
static int
msix_set_enable(struct vdpa_pci *pci, bool on)
{
	uint16_t flags;
	int ret;

	ret = vdpa_pci_config_read16(pci, pci->msix_cap + PCI_MSIX_FLAGS, &flags);
	if (ret < 0)
		return ret;
	flags &= (uint16_t) ~(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	if (on)
		flags |= PCI_MSIX_FLAGS_ENABLE;
	return vdpa_pci_config_write16(pci, pci->msix_cap + PCI_MSIX_FLAGS, flags);
}

/* With the lock. What fails here leaves interrupts that nobody hears. */
static void
msix_off(struct vdpa_pci *pci)
{
	if ((pci->msix_enabled == 0 && pci->msix_parked == 0) || vdpa_pci_is_held(pci))
		return;
	pci->msix_enabled = pci->msix_parked = 0;
	if (vdpa_pci_error(pci) != 0)
		return;
	if (msix_set_enable(pci, false) < 0 ||
	    vdpa_pci_ops(pci)->set_irqs(pci->handle, VFIO_PCI_MSIX_IRQ_INDEX, 0, 0, NULL) < 0)
		VDPA_LOG(WARNING, "%s; MSI-X may still be on", vdpa_error_message());
}

static void
intx_off(struct vdpa_pci *pci)
{
	if (!pci->intx_on)
		return;
	pci->intx_on = false;
	if (vdpa_pci_error(pci) == 0 &&
	    vdpa_pci_ops(pci)->set_irqs(pci->handle, VFIO_PCI_INTX_IRQ_INDEX, 0, 0, NULL) < 0)
		VDPA_LOG(WARNING, "%s; INTx may still be on", vdpa_error_message());
}

void
vdpa_pci_irqs_off(struct vdpa_pci *pci)
{
	pthread_mutex_lock(&pci->lock);
	msix_off(pci);
	intx_off(pci);
	pthread_mutex_unlock(&pci->lock);
}

/* Vectors 0 .. n - 1 without an eventfd; MSI-X is on then. */
static int
msix_set_none(struct vdpa_pci *pci, unsigned int n)
{
	int none[PCI_MSIX_FLAGS_QSIZE + 1];

	for (unsigned int i = 0; i < n; i++)
		none[i] = -1;
	return vdpa_pci_ops(pci)->set_irqs(pci->handle, VFIO_PCI_MSIX_IRQ_INDEX, 0, n, none);
}

int
vdpa_pci_msix_enable(struct vdpa_pci *pci, unsigned int n)
{
	int ret;

	if (n == 0 || n > pci->nr_vectors)
		return vdpa_error(EINVAL, "%s: %u MSI-X vectors asked for, it has %u", pci->name, n,
				  pci->nr_vectors);
	pthread_mutex_lock(&pci->lock);
	if (vdpa_pci_error(pci) != 0) {
		ret = vdpa_pci_gone_error(pci);
	} else if (pci->msix_enabled > 0 || pci->intx_on) {
		ret = vdpa_error(EBUSY, "%s: %s is on", pci->name, pci->intx_on ? "INTx" : "MSI-X");
	} else if (pci->msix_parked == n) {
		pci->msix_parked = 0;
		pci->msix_enabled = n;
		ret = 0;
	} else if (vdpa_pci_is_held(pci)) {
		ret = vdpa_pci_held_error(pci);
	} else {
		msix_off(pci);
		ret = msix_set_none(pci, n);
		if (ret == 0) {
			pci->msix_enabled = n;
			ret = msix_set_enable(pci, true);
			if (ret < 0)
				msix_off(pci);
		}
	}
	pthread_mutex_unlock(&pci->lock);
	return ret;
}

void
vdpa_pci_msix_disable(struct vdpa_pci *pci)
{
	pthread_mutex_lock(&pci->lock);
	msix_off(pci);
	pthread_mutex_unlock(&pci->lock);
}

void
vdpa_pci_msix_park(struct vdpa_pci *pci)
{
	unsigned int n;

	pthread_mutex_lock(&pci->lock);
	n = vdpa_pci_is_held(pci) ? 0 : pci->msix_enabled;
	/* The eventfds are to be released, one way or the other. */
	if (n > 0 && (vdpa_pci_error(pci) != 0 || msix_set_none(pci, n) < 0)) {
		msix_off(pci);
	} else if (n > 0) {
		pci->msix_enabled = 0;
		pci->msix_parked = n;
	}
	pthread_mutex_unlock(&pci->lock);
}

int
vdpa_pci_msix_set(struct vdpa_pci *pci, unsigned int vector, int fd)
{
	int ret;

	pthread_mutex_lock(&pci->lock);
	if (vdpa_pci_error(pci) != 0)
		ret = vdpa_pci_gone_error(pci);
	else if (vector >= pci->msix_enabled)
		ret = vdpa_error(EINVAL, "%s: MSI-X vector %u, %u are enabled", pci->name, vector,
				 pci->msix_enabled);
	else
		ret = vdpa_pci_ops(pci)->set_irqs(pci->handle, VFIO_PCI_MSIX_IRQ_INDEX, vector, 1,
						  &fd);
	pthread_mutex_unlock(&pci->lock);
	return ret;
}

int
vdpa_pci_intx_set(struct vdpa_pci *pci, int fd)
{
	int ret = 0;

	if (pci->info.nr_irqs[VFIO_PCI_INTX_IRQ_INDEX] == 0)
		return vdpa_error(EOPNOTSUPP, "%s: has no INTx line", pci->name);
	pthread_mutex_lock(&pci->lock);
	if (fd < 0) {
		intx_off(pci);
	} else if (vdpa_pci_error(pci) != 0) {
		ret = vdpa_pci_gone_error(pci);
	} else if (pci->msix_enabled > 0) {
		ret = vdpa_error(EBUSY, "%s: MSI-X is on", pci->name);
	} else if (vdpa_pci_is_held(pci)) {
		ret = vdpa_pci_held_error(pci);
	} else {
		msix_off(pci);
		ret = vdpa_pci_ops(pci)->set_irqs(pci->handle, VFIO_PCI_INTX_IRQ_INDEX, 0, 1, &fd);
		if (ret == 0)
			pci->intx_on = true;
	}
	pthread_mutex_unlock(&pci->lock);
	return ret;
}

int
vdpa_pci_intx_unmask(struct vdpa_pci *pci)
{
	int ret;

	pthread_mutex_lock(&pci->lock);
	if (vdpa_pci_error(pci) != 0)
		ret = vdpa_pci_gone_error(pci);
	else if (!pci->intx_on)
		ret = vdpa_error(EINVAL, "%s: INTx is off", pci->name);
	else
		ret = vdpa_pci_ops(pci)->unmask_irq(pci->handle, VFIO_PCI_INTX_IRQ_INDEX);
	pthread_mutex_unlock(&pci->lock);
	return ret;
}

enum vdpa_pci_event
vdpa_pci_event_of(int error)
{
	return error == -ENODEV ? VDPA_PCI_EVENT_REMOVE : VDPA_PCI_EVENT_ERROR;
}

int
vdpa_pci_event_set(struct vdpa_pci *pci, enum vdpa_pci_event event, int fd)
{
	unsigned int index =
		event == VDPA_PCI_EVENT_REMOVE ? VFIO_PCI_REQ_IRQ_INDEX : VFIO_PCI_ERR_IRQ_INDEX;
	bool gone;
	int ret = 0;

	pthread_mutex_lock(&pci->lock);
	pthread_mutex_lock(&pci->gone_lock);
	gone = pci->error != 0;
	pci->event_fd[event] = fd;
	if (gone && fd >= 0 && vdpa_pci_event_of(pci->error) == event)
		vdpa_eventfd_signal(fd);
	pthread_mutex_unlock(&pci->gone_lock);
	/* A failure from here on signals fd by vdpa_pci_gone(). */
	if (!gone && pci->info.nr_irqs[index] > 0 && (fd >= 0 || pci->event_on[event])) {
		ret = fd >= 0 ? vdpa_pci_ops(pci)->set_irqs(pci->handle, index, 0, 1, &fd)
			      : vdpa_pci_ops(pci)->set_irqs(pci->handle, index, 0, 0, NULL);
		if (ret == 0) {
			pci->event_on[event] = fd >= 0;
		} else if (fd >= 0) {
			pthread_mutex_lock(&pci->gone_lock);
			pci->event_fd[event] = -1;
			pthread_mutex_unlock(&pci->gone_lock);
		}
	}
	pthread_mutex_unlock(&pci->lock);
	return ret;
}
