/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Registers of a PCI function: by (BAR, offset), within bounds. Each access is a call of the
 * transport; where the BAR is the function's own memory (vfio-pci) a driver can have parts of it
 * mapped, and an access there is one load or store. What is seen of a function that is gone is the
 * same either way. Owns the mappings (windows), which nobody else gets.
 */

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include <rte_byteorder.h>
#include <rte_common.h>
#include <rte_io.h>

#include "pci_device.h"
#include "vdpa_error.h"
#include "vdpa_log.h"

/* Most bytes of a window, whatever size a device gives a structure. */
#define WINDOW_MAX (64u << 10)

/* May this access be made? */
static bool
access_ok(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, size_t len)
{
	if (vdpa_pci_error(pci) != 0)
		return false;
	if (vdpa_pci_bar_has(pci, bar, offset, len) && offset % len == 0)
		return true;
	vdpa_pci_gone(pci, EFAULT,
		      "%s: access of %zu bytes at 0x%" PRIx64 " of BAR %u, which has 0x%" PRIx64
		      " bytes; the driver is at fault",
		      pci->name, len, offset, bar, vdpa_pci_bar_size(pci, bar));
	return false;
}

/* Where a register is mapped; NULL: it is read and written by calls of the transport. */
static volatile void *
mapped(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, size_t len)
{
	unsigned int n = __atomic_load_n(&pci->n_windows, __ATOMIC_ACQUIRE);

	/* A device need not take an access of 64 bits; the transport knows how to make one. */
	if (len > sizeof(uint32_t) || vdpa_pci_is_left_behind(pci))
		return NULL;
	for (unsigned int i = 0; i < n; i++) {
		const struct vdpa_pci_window *w = &pci->windows[i];

		if (w->bar == bar && offset >= w->offset && offset - w->offset < w->area.size &&
		    len <= w->area.size - (offset - w->offset))
			return (volatile uint8_t *)w->area.va + (offset - w->offset);
	}
	return NULL;
}

/*
 * After an access to a mapping: what is read where a mapping was taken away, or was replaced since
 * the function is gone, is not the function's.
 */
static bool
was_made(struct vdpa_pci *pci)
{
	return vdpa_pci_areas_present(pci) && vdpa_pci_error(pci) == 0;
}

static bool
read_mapped(struct vdpa_pci *pci, const volatile void *va, void *buf, size_t len)
{
	uint8_t v8;
	uint16_t v16;
	uint32_t v32;

	/* Each with a barrier behind it. */
	if (len == sizeof(v8)) {
		v8 = rte_read8(va);
		memcpy(buf, &v8, len);
	} else if (len == sizeof(v16)) {
		v16 = rte_read16(va);
		memcpy(buf, &v16, len);
	} else {
		v32 = rte_read32(va);
		memcpy(buf, &v32, len);
	}
	return was_made(pci);
}

static void
write_mapped(struct vdpa_pci *pci, volatile void *va, const void *buf, size_t len)
{
	uint8_t v8;
	uint16_t v16;
	uint32_t v32;

	/* Each with a barrier before it. */
	if (len == sizeof(v8)) {
		memcpy(&v8, buf, len);
		rte_write8(v8, va);
	} else if (len == sizeof(v16)) {
		memcpy(&v16, buf, len);
		rte_write16(v16, va);
	} else {
		memcpy(&v32, buf, len);
		rte_write32(v32, va);
	}
	(void)was_made(pci);
}

static void
bar_read(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, void *buf, size_t len)
{
	static const uint8_t ones[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	unsigned int errors_before = vdpa_error_count();
	const volatile void *va;
	int ret;

	if (!access_ok(pci, bar, offset, len))
		goto gone;
	va = mapped(pci, bar, offset, len);
	if (va != NULL) {
		if (!read_mapped(pci, va, buf, len))
			goto gone;
	} else {
		ret = vdpa_pci_ops(pci)->read(pci->handle, bar, offset, buf, len);
		if (ret < 0) {
			vdpa_pci_transport_failed(pci, ret, errors_before);
			goto gone;
		}
	}
	/* A removed function is read as all ones; so may be a register. */
	if (memcmp(buf, ones, len) != 0 || vdpa_pci_present(pci))
		return;
gone:
	memset(buf, 0xff, len);
}

/* put: how the transport writes it, where it is not mapped. */
static void
bar_write(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, const void *buf, size_t len,
	  int (*put)(void *handle, unsigned int region, uint64_t offset, const void *buf,
		     size_t len))
{
	unsigned int errors_before = vdpa_error_count();
	volatile void *va;
	int ret;

	if (!access_ok(pci, bar, offset, len))
		return;
	va = mapped(pci, bar, offset, len);
	if (va != NULL) {
		write_mapped(pci, va, buf, len);
		return;
	}
	ret = put(pci->handle, bar, offset, buf, len);
	if (ret < 0)
		vdpa_pci_transport_failed(pci, ret, errors_before);
}

uint8_t
vdpa_pci_read8(struct vdpa_pci *pci, unsigned int bar, uint64_t offset)
{
	uint8_t value;

	bar_read(pci, bar, offset, &value, sizeof(value));
	return value;
}

uint16_t
vdpa_pci_read16(struct vdpa_pci *pci, unsigned int bar, uint64_t offset)
{
	rte_le16_t value;

	bar_read(pci, bar, offset, &value, sizeof(value));
	return rte_le_to_cpu_16(value);
}

uint32_t
vdpa_pci_read32(struct vdpa_pci *pci, unsigned int bar, uint64_t offset)
{
	rte_le32_t value;

	bar_read(pci, bar, offset, &value, sizeof(value));
	return rte_le_to_cpu_32(value);
}

uint64_t
vdpa_pci_read64(struct vdpa_pci *pci, unsigned int bar, uint64_t offset)
{
	rte_le64_t value;

	bar_read(pci, bar, offset, &value, sizeof(value));
	return rte_le_to_cpu_64(value);
}

void
vdpa_pci_write8(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint8_t value)
{
	bar_write(pci, bar, offset, &value, sizeof(value), vdpa_pci_ops(pci)->write);
}

void
vdpa_pci_write16(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint16_t value)
{
	rte_le16_t raw = rte_cpu_to_le_16(value);

	bar_write(pci, bar, offset, &raw, sizeof(raw), vdpa_pci_ops(pci)->write);
}

void
vdpa_pci_write32(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint32_t value)
{
	rte_le32_t raw = rte_cpu_to_le_32(value);

	bar_write(pci, bar, offset, &raw, sizeof(raw), vdpa_pci_ops(pci)->write);
}

void
vdpa_pci_write64(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint64_t value)
{
	rte_le64_t raw = rte_cpu_to_le_64(value);

	bar_write(pci, bar, offset, &raw, sizeof(raw), vdpa_pci_ops(pci)->write);
}

void
vdpa_pci_post16(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint16_t value)
{
	rte_le16_t raw = rte_cpu_to_le_16(value);

	bar_write(pci, bar, offset, &raw, sizeof(raw), vdpa_pci_ops(pci)->post);
}

void
vdpa_pci_post32(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint32_t value)
{
	rte_le32_t raw = rte_cpu_to_le_32(value);

	bar_write(pci, bar, offset, &raw, sizeof(raw), vdpa_pci_ops(pci)->post);
}

/* Windows. */

static bool
has_window(const struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint64_t size)
{
	for (unsigned int i = 0; i < pci->n_windows; i++) {
		const struct vdpa_pci_window *w = &pci->windows[i];

		if (w->bar == bar && w->offset == offset && w->area.size >= size)
			return true;
	}
	return false;
}

void
vdpa_pci_map_registers(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint64_t size)
{
	struct vdpa_pci_window *w;
	unsigned int n;

	if (bar >= VDPA_PCI_BARS || !pci->info.regions[bar].is_device)
		return;
	size = RTE_MIN(size, WINDOW_MAX);
	pthread_mutex_lock(&pci->lock);
	n = pci->n_windows;
	if (n < VDPA_PCI_WINDOWS && !has_window(pci, bar, offset, size)) {
		w = &pci->windows[n];
		if (vdpa_pci_map_ours(pci, bar, offset, size, &w->area) == 0) {
			w->bar = bar;
			w->offset = offset;
			__atomic_store_n(&pci->n_windows, n + 1, __ATOMIC_RELEASE);
		} else {
			VDPA_LOG(DEBUG, "%s; registers are read and written by calls",
				 vdpa_error_message());
		}
	}
	pthread_mutex_unlock(&pci->lock);
}

int
vdpa_pci_cut_windows(struct vdpa_pci *pci)
{
	int ret = 0;

	pthread_mutex_lock(&pci->lock);
	for (unsigned int i = 0; i < pci->n_windows; i++) {
		struct vdpa_pci_area *a = &pci->windows[i].area;

		/* In one step: threads may be at it. */
		if (mmap(a->map, a->map_len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
			ret = vdpa_error(errno, "%s: its registers stay mapped: %m", pci->name);
	}
	pthread_mutex_unlock(&pci->lock);
	return ret;
}

void
vdpa_pci_unmap_windows(struct vdpa_pci *pci)
{
	while (pci->n_windows > 0)
		vdpa_pci_unmap(pci, &pci->windows[--pci->n_windows].area);
}
