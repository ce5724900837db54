/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Access to a PCI function: configuration space, capabilities, mapped areas of BARs; and that gone
 * is gone for good. Trusts neither the function nor its driver. Registers are pci_registers.c's.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <rte_branch_prediction.h>
#include <rte_byteorder.h>

#include "pci_device.h"
#include "vdpa_error.h"
#include "vdpa_event.h"
#include "vdpa_log.h"

/* Gone for good. */

int
vdpa_pci_error(const struct vdpa_pci *pci)
{
	return __atomic_load_n(&pci->error, __ATOMIC_ACQUIRE);
}

const char *
vdpa_pci_error_text(const struct vdpa_pci *pci)
{
	return vdpa_pci_error(pci) != 0 ? pci->error_text : "";
}

void
vdpa_pci_gone(struct vdpa_pci *pci, int err, const char *fmt, ...)
{
	va_list ap;
	int fd;

	pthread_mutex_lock(&pci->gone_lock);
	if (pci->error == 0) {
		va_start(ap, fmt);
		vsnprintf(pci->error_text, sizeof(pci->error_text), fmt, ap);
		va_end(ap);
		__atomic_store_n(&pci->error, -abs(err), __ATOMIC_RELEASE);
		/* What ends an open is reported by its result. */
		if (pci->opened)
			VDPA_LOG(ERR, "%s", pci->error_text);
		fd = pci->event_fd[vdpa_pci_event_of(pci->error)];
		if (fd >= 0)
			vdpa_eventfd_signal(fd);
	}
	pthread_mutex_unlock(&pci->gone_lock);
}

void
vdpa_pci_transport_failed(struct vdpa_pci *pci, int err, unsigned int errors_before)
{
	if (vdpa_error_count() != errors_before)
		vdpa_pci_gone(pci, err, "%s", vdpa_error_message());
	else
		vdpa_pci_gone(pci, err, "%s: %s", pci->name, strerror(abs(err)));
}

int
vdpa_pci_gone_error(const struct vdpa_pci *pci)
{
	return vdpa_error(vdpa_pci_error(pci), "%s", pci->error_text);
}

/* Configuration space. */

int
vdpa_pci_config_read(struct vdpa_pci *pci, unsigned int offset, void *buf, size_t len)
{
	unsigned int errors_before = vdpa_error_count();
	int ret;

	memset(buf, 0xff, len);
	if (vdpa_pci_error(pci) != 0)
		return vdpa_pci_gone_error(pci);
	if (offset > pci->config_size || len > pci->config_size - offset)
		return vdpa_error(EINVAL, "%s: configuration space has %u bytes, not %u to %zu",
				  pci->name, pci->config_size, offset, offset + len);
	ret = vdpa_pci_ops(pci)->read(pci->handle, VDPA_PCI_REGION_CONFIG, offset, buf, len);
	if (ret < 0) {
		memset(buf, 0xff, len);
		vdpa_pci_transport_failed(pci, ret, errors_before);
		return vdpa_pci_gone_error(pci);
	}
	return 0;
}

int
vdpa_pci_config_write(struct vdpa_pci *pci, unsigned int offset, const void *buf, size_t len)
{
	unsigned int errors_before = vdpa_error_count();
	int ret;

	if (vdpa_pci_error(pci) != 0)
		return vdpa_pci_gone_error(pci);
	if (offset > pci->config_size || len > pci->config_size - offset)
		return vdpa_error(EINVAL, "%s: configuration space has %u bytes, not %u to %zu",
				  pci->name, pci->config_size, offset, offset + len);
	ret = vdpa_pci_ops(pci)->write(pci->handle, VDPA_PCI_REGION_CONFIG, offset, buf, len);
	if (ret < 0) {
		vdpa_pci_transport_failed(pci, ret, errors_before);
		return vdpa_pci_gone_error(pci);
	}
	return 0;
}

int
vdpa_pci_config_read16(struct vdpa_pci *pci, unsigned int offset, uint16_t *value)
{
	rte_le16_t raw;
	int ret = vdpa_pci_config_read(pci, offset, &raw, sizeof(raw));

	*value = rte_le_to_cpu_16(raw);
	return ret;
}

int
vdpa_pci_config_write16(struct vdpa_pci *pci, unsigned int offset, uint16_t value)
{
	rte_le16_t raw = rte_cpu_to_le_16(value);

	return vdpa_pci_config_write(pci, offset, &raw, sizeof(raw));
}

int
vdpa_pci_config_read32(struct vdpa_pci *pci, unsigned int offset, uint32_t *value)
{
	rte_le32_t raw;
	int ret = vdpa_pci_config_read(pci, offset, &raw, sizeof(raw));

	*value = rte_le_to_cpu_32(raw);
	return ret;
}

/*
 * The whole list is walked each time, so that one that loops is seen however often the caller goes
 * on from what it got.
 */
int
vdpa_pci_find_cap(struct vdpa_pci *pci, uint8_t id, unsigned int after)
{
	bool passed = after == 0;
	uint64_t seen = 0; /* by dword */
	uint16_t status;
	uint8_t at, cap[2]; /* id, next */
	int ret;

	ret = vdpa_pci_config_read16(pci, PCI_STATUS, &status);
	if (ret < 0)
		return ret;
	if ((status & PCI_STATUS_CAP_LIST) == 0)
		return -ENOENT;
	ret = vdpa_pci_config_read(pci, PCI_CAPABILITY_LIST, &at, sizeof(at));
	if (ret < 0)
		return ret;
	for (;;) {
		at &= ~3u;
		if (at == 0)
			return -ENOENT;
		if (at < PCI_STD_HEADER_SIZEOF)
			return vdpa_error(EPROTO,
					  "%s: the capability list leads to 0x%x, inside the "
					  "header; the device is at fault",
					  pci->name, at);
		if ((seen & (1ULL << (at / 4))) != 0)
			return vdpa_error(EPROTO,
					  "%s: the capability list loops at 0x%x; the device is at "
					  "fault",
					  pci->name, at);
		seen |= 1ULL << (at / 4);
		ret = vdpa_pci_config_read(pci, at, cap, sizeof(cap));
		if (ret < 0)
			return ret;
		if (passed && cap[0] == id)
			return at;
		if (at == after)
			passed = true;
		at = cap[1];
	}
}

bool
vdpa_pci_areas_present(struct vdpa_pci *pci)
{
	if (likely(!__atomic_load_n(&pci->map_faulted, __ATOMIC_RELAXED)))
		return true;
	vdpa_pci_gone(pci, ENODEV,
		      "%s: a mapped part of a BAR is gone: the device was removed or its server "
		      "has shrunk the file",
		      pci->name);
	return false;
}

bool
vdpa_pci_present(struct vdpa_pci *pci)
{
	uint32_t class_revision;

	(void)vdpa_pci_areas_present(pci);
	if (vdpa_pci_config_read32(pci, PCI_CLASS_REVISION, &class_revision) == 0 &&
	    class_revision == UINT32_MAX)
		vdpa_pci_gone(pci, ENODEV,
			      "%s: the device is gone: its configuration space reads all ones",
			      pci->name);
	return vdpa_pci_error(pci) == 0;
}

/* BARs. */

uint64_t
vdpa_pci_bar_size(const struct vdpa_pci *pci, unsigned int bar)
{
	return bar < VDPA_PCI_BARS ? pci->info.regions[bar].size : 0;
}

bool
vdpa_pci_bar_has(const struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint64_t len)
{
	uint64_t size = vdpa_pci_bar_size(pci, bar);

	return offset < size && len <= size - offset;
}

/* Areas. */

/* Whether the function lets [offset, offset + size) be mapped, whole pages around it included. */
static bool
region_maps(const struct vdpa_pci_region *r, uint64_t offset, uint64_t size, uint64_t page)
{
	if ((r->flags & VFIO_REGION_INFO_FLAG_MMAP) == 0 || r->fd < 0)
		return false;
	if (r->n_parts == 0)
		return true;
	for (unsigned int i = 0; i < r->n_parts; i++) {
		const struct vdpa_pci_mmap_part *p = &r->parts[i];

		if (offset >= p->offset && offset - p->offset < p->size &&
		    size <= p->size - (offset - p->offset))
			return (p->offset & (page - 1)) == 0;
	}
	return false;
}

/*
 * Have a file of the area's pages alone in place of the whole device's, where the transport makes
 * one and it can be mapped: only that is what the area is given away for.
 */
static void
export_area(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, struct vdpa_pci_area *a)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), len = a->size & ~(page - 1);
	void *va;
	int fd;

	if (!a->whole_device || vdpa_pci_ops(pci)->export_part == NULL ||
	    (offset & (page - 1)) != 0 || len == 0)
		return;
	fd = vdpa_pci_ops(pci)->export_part(pci->handle, bar, offset, len);
	if (fd < 0)
		return;
	va = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (va == MAP_FAILED) {
		close(fd);
		return;
	}
	munmap(va, len);
	a->fd = fd;
	a->fd_offset = 0;
	a->own_fd = true;
	a->whole_device = false;
}

int
vdpa_pci_map_ours(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint64_t size,
		  struct vdpa_pci_area *area)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), skip = offset & (page - 1);
	struct vdpa_pci_area a = {.size = size};
	const struct vdpa_pci_region *r;
	struct stat st;
	int ret;

	if (vdpa_pci_error(pci) != 0)
		return vdpa_pci_gone_error(pci);
	if (size == 0 || !vdpa_pci_bar_has(pci, bar, offset, size))
		return vdpa_error(EFAULT,
				  "%s: 0x%" PRIx64 " bytes at 0x%" PRIx64
				  " are not in BAR %u, which has 0x%" PRIx64,
				  pci->name, size, offset, bar, vdpa_pci_bar_size(pci, bar));
	r = &pci->info.regions[bar];
	if (!region_maps(r, offset, size, page))
		return vdpa_error(EOPNOTSUPP,
				  "%s: 0x%" PRIx64 " bytes at 0x%" PRIx64
				  " of BAR %u cannot be mapped",
				  pci->name, size, offset, bar);
	a.fd = r->fd;
	a.fd_offset = r->fd_offset + offset;
	a.whole_device = r->whole_device;
	/* Another process's file may be shorter than it says: the access would raise SIGBUS. */
	a.shrinkable = fstat(r->fd, &st) == 0 && S_ISREG(st.st_mode);
	if (a.shrinkable && (uint64_t)st.st_size < a.fd_offset + size)
		return vdpa_error(EPROTO,
				  "%s: BAR %u: the file to map has %" PRIu64 " bytes, not %" PRIu64,
				  pci->name, bar, (uint64_t)st.st_size, a.fd_offset + size);
	if (a.shrinkable) {
		int seals = fcntl(r->fd, F_GET_SEALS);

		a.shrinkable = seals < 0 || (seals & F_SEAL_SHRINK) == 0;
	}
	a.map_len = (size + skip + page - 1) & ~(page - 1);
	a.map = mmap(NULL, a.map_len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
		     (off_t)(a.fd_offset - skip));
	if (a.map == MAP_FAILED)
		return vdpa_error(errno,
				  "%s: BAR %u, 0x%" PRIx64 " bytes at 0x%" PRIx64 ": mmap: %m",
				  pci->name, bar, size, offset);
	/* A device that is pulled out, or a file that is shrunk, must not end the process. */
	ret = vdpa_fault_guard(a.map, a.map_len, &pci->map_faulted);
	if (ret < 0) {
		munmap(a.map, a.map_len);
		return vdpa_error(ret, "%s: BAR %u: out of memory", pci->name, bar);
	}
	a.va = (uint8_t *)a.map + skip;
	*area = a;
	return 0;
}

int
vdpa_pci_map(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint64_t size,
	     struct vdpa_pci_area *area)
{
	int ret = vdpa_pci_map_ours(pci, bar, offset, size, area);

	if (ret == 0)
		export_area(pci, bar, offset, area);
	return ret;
}

void
vdpa_pci_unmap(struct vdpa_pci *pci, struct vdpa_pci_area *area)
{
	if (area->map == NULL)
		return;
	vdpa_fault_unguard(area->map);
	munmap(area->map, area->map_len);
	if (area->own_fd)
		close(area->fd);
	memset(area, 0, sizeof(*area));
	area->fd = -1;
}
