/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The PCI function in memory: a transport whose other end is a struct fake_pci. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <rte_byteorder.h>

#include "fake_pci.h"

#include <vdpa_error.h>
#include <vdpa_event.h>

#define FAKE_CAPS_START 0x40
#define CONFIG		VDPA_PCI_REGION_CONFIG

static struct fake_pci *functions;

static void
put16(struct fake_pci *f, unsigned int at, uint16_t value)
{
	value = rte_cpu_to_le_16(value);
	memcpy(&f->config[at], &value, sizeof(value));
}

static void
put32(uint8_t *to, uint32_t value)
{
	value = rte_cpu_to_le_32(value);
	memcpy(to, &value, sizeof(value));
}

/* DMA: a list of what is mapped. */

static int
fake_dma_map(void *arg, const struct vdpa_dma_mapping *m)
{
	struct fake_pci *f = arg;

	if (f->map_err != 0)
		return vdpa_error(f->map_err, "fake/%s: DMA not mapped", f->name);
	assert_in_range(f->n_mapped, 0, 63);
	for (unsigned int i = 0; i < f->n_mapped; i++)
		if (m->iova <= f->mapped[i].iova + (f->mapped[i].size - 1) &&
		    f->mapped[i].iova <= m->iova + (m->size - 1))
			return vdpa_error(EEXIST, "fake/%s: IOVA 0x%lx is mapped", f->name,
					  (unsigned long)m->iova);
	f->mapped[f->n_mapped++] = *m;
	return 0;
}

static int
fake_dma_unmap(void *arg, const struct vdpa_dma_mapping *m)
{
	struct fake_pci *f = arg;

	if (f->is_left)
		return 0;
	if (f->unmap_err != 0)
		return vdpa_error(f->unmap_err, "fake/%s: DMA not unmapped", f->name);
	for (unsigned int i = 0; i < f->n_mapped; i++) {
		if (f->mapped[i].iova == m->iova && f->mapped[i].size == m->size) {
			f->mapped[i] = f->mapped[--f->n_mapped];
			return 0;
		}
	}
	fail_msg("fake/%s: IOVA 0x%lx was not mapped", f->name, (unsigned long)m->iova);
	return -ENOENT;
}

void *
fake_pci_dma(const struct fake_pci *f, uint64_t iova, uint64_t len)
{
	for (unsigned int i = 0; i < f->n_mapped; i++) {
		const struct vdpa_dma_mapping *m = &f->mapped[i];

		if (iova - m->iova < m->size && len <= m->size - (iova - m->iova))
			return (uint8_t *)m->va + (iova - m->iova);
	}
	return NULL;
}

/* The transport. */

static struct fake_pci *
find(const char *name)
{
	struct fake_pci *f = functions;

	while (f != NULL && strcmp(f->name, name) != 0)
		f = f->next;
	return f;
}

static uint16_t
get16(const struct fake_pci *f, unsigned int at)
{
	return (uint16_t)(f->config[at] | f->config[at + 1] << 8);
}

static int
fake_identify(const char *where, struct vdpa_pci_id *id)
{
	const struct fake_pci *f = find(where);

	if (f == NULL)
		return vdpa_error(ENODEV, "fake/%s: no such function", where);
	if (!f->listed)
		return -EOPNOTSUPP;
	*id = (struct vdpa_pci_id){
		.vendor = get16(f, 0x00),
		.device = get16(f, 0x02),
		.subsystem_vendor = get16(f, 0x2c),
		.subsystem = get16(f, 0x2e),
		.class_code = get16(f, 0x0a) << 8 | f->config[0x09],
	};
	return 0;
}

static int
fake_open(struct vdpa_pci *pci, const char *where, const struct vdpa_pci_params *params,
	  struct vdpa_pci_info *info, struct vdpa_dma_domain **dma, void **handle)
{
	static const struct vdpa_dma_ops ops = {.map = fake_dma_map, .unmap = fake_dma_unmap};
	const struct vdpa_dma_limits limits = {.page_size = (uint64_t)sysconf(_SC_PAGESIZE)};
	struct fake_pci *f = find(where);
	int ret;

	if (f == NULL)
		return vdpa_error(ENODEV, "fake/%s: no such function", where);
	if (f->open_err != 0)
		return vdpa_error(f->open_err, "fake/%s: not opened", where);
	if (f->open != NULL)
		return vdpa_error(EBUSY, "fake/%s: is open", where);
	ret = vdpa_dma_domain_create(vdpa_pci_name(pci), &ops, f, &limits, &f->dma);
	if (ret < 0)
		return ret;

	info->regions[CONFIG].size = f->config_size;
	info->regions[CONFIG].flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	for (unsigned int i = 0; i < VDPA_PCI_BARS; i++) {
		const struct fake_pci_bar *b = &f->bar[i];
		struct vdpa_pci_region *r = &info->regions[i];

		r->size = b->size;
		if (b->size == 0)
			continue;
		r->flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
		if (!b->mappable)
			continue;
		r->flags |= VFIO_REGION_INFO_FLAG_MMAP;
		r->fd = b->fd;
		r->whole_device = b->whole_device;
		r->is_device = b->is_device;
		r->n_parts = b->n_parts;
		for (unsigned int j = 0; j < b->n_parts; j++)
			r->parts[j] = (struct vdpa_pci_mmap_part){.offset = b->parts[j].offset,
								  .size = b->parts[j].size};
	}
	memcpy(info->nr_irqs, f->nr_irqs, sizeof(f->nr_irqs));
	info->can_reset = f->can_reset;
	info->numa_node = f->numa_node;
	info->is_left = f->is_left;
	f->is_left = f->is_kept = false;
	f->open = pci;
	f->opens++;
	*dma = f->dma;
	*handle = f;
	return 0;
}

static void
fake_close(void *handle)
{
	struct fake_pci *f = handle;

	vdpa_dma_domain_destroy(f->dma);
	f->dma = NULL;
	f->open = NULL;
}

static uint8_t *
memory(struct fake_pci *f, unsigned int region, uint64_t offset, size_t len)
{
	if (region == CONFIG) {
		assert_true(offset + len <= f->config_size);
		return &f->config[offset];
	}
	assert_in_range(region, 0, VDPA_PCI_BARS - 1);
	assert_true(offset + len <= f->bar[region].size);
	assert_true(len == 1 || len == 2 || len == 4 || len == 8);
	return &f->bar[region].mem[offset];
}

static int
fake_read(void *handle, unsigned int region, uint64_t offset, void *buf, size_t len)
{
	struct fake_pci *f = handle;

	f->answered++;
	if (f->io_err != 0)
		return vdpa_error(f->io_err, "fake/%s: no answer", f->name);
	if (f->all_ones) {
		memset(buf, 0xff, len);
		return 0;
	}
	memcpy(buf, memory(f, region, offset, len), len);
	if (f->on_read != NULL)
		f->on_read(f, region, offset, buf, len);
	return 0;
}

/* Of the header only the command register can be written; see f->on_write for more. */
static int
put(struct fake_pci *f, unsigned int region, uint64_t offset, const void *buf, size_t len)
{
	uint8_t *to = memory(f, region, offset, len);

	if (f->io_err != 0)
		return vdpa_error(f->io_err, "fake/%s: no answer", f->name);
	if (f->all_ones)
		return 0;
	if (region != CONFIG || offset >= FAKE_CAPS_START || (offset == 4 && len == 2))
		memcpy(to, buf, len);
	if (f->on_write != NULL)
		f->on_write(f, region, offset, buf, len);
	return 0;
}

static int
fake_write(void *handle, unsigned int region, uint64_t offset, const void *buf, size_t len)
{
	struct fake_pci *f = handle;

	f->answered++;
	return put(f, region, offset, buf, len);
}

static int
fake_post(void *handle, unsigned int region, uint64_t offset, const void *buf, size_t len)
{
	struct fake_pci *f = handle;

	f->posts++;
	if (f->on_post == NULL)
		return put(f, region, offset, buf, len);
	if (f->io_err != 0)
		return vdpa_error(f->io_err, "fake/%s: no answer", f->name);
	if (!f->all_ones)
		f->on_post(f, region, offset, buf, len);
	return 0;
}

static int
fake_set_irqs(void *handle, unsigned int index, unsigned int start, unsigned int count,
	      const int *fds)
{
	struct fake_pci *f = handle;

	f->irq_calls++;
	if (f->irq_err != 0)
		return vdpa_error(f->irq_err, "fake/%s: interrupt not set", f->name);
	assert_in_range(index, 0, VFIO_PCI_NUM_IRQS - 1);
	assert_true(f->nr_irqs[index] > 0);
	assert_true((fds == NULL) == (count == 0));
	assert_true(start + count <= f->nr_irqs[index]);
	if (index == VFIO_PCI_MSIX_IRQ_INDEX) {
		assert_true(start + count <= FAKE_PCI_VECTORS);
		if (count == 0) {
			f->msix_on = false;
			f->n_msix = 0;
			return 0;
		}
		if (!f->msix_on) {
			f->msix_on = true;
			f->n_msix = start + count;
		}
		assert_true(start + count <= f->n_msix);
		memcpy(&f->msix[start], fds, count * sizeof(fds[0]));
		return 0;
	}
	if (index == VFIO_PCI_INTX_IRQ_INDEX) {
		f->intx = count > 0 ? fds[0] : -1;
		f->intx_masked = false;
	} else if (index == VFIO_PCI_ERR_IRQ_INDEX) {
		f->err = count > 0 ? fds[0] : -1;
	} else if (index == VFIO_PCI_REQ_IRQ_INDEX) {
		f->req = count > 0 ? fds[0] : -1;
	}
	return 0;
}

static int
fake_unmask_irq(void *handle, unsigned int index)
{
	struct fake_pci *f = handle;

	if (f->irq_err != 0)
		return vdpa_error(f->irq_err, "fake/%s: interrupt not unmasked", f->name);
	assert_int_equal(index, VFIO_PCI_INTX_IRQ_INDEX);
	f->intx_masked = false;
	return 0;
}

static int
fake_reset(void *handle)
{
	struct fake_pci *f = handle;

	if (f->reset_err != 0)
		return vdpa_error(f->reset_err, "fake/%s: not reset", f->name);
	f->resets++;
	put16(f, 4, 0);
	f->msix_on = false;
	f->n_msix = 0;
	if (f->on_reset != NULL)
		f->on_reset(f);
	return 0;
}

static int
fake_export_part(void *handle, unsigned int region, uint64_t offset, uint64_t size)
{
	struct fake_pci *f = handle;

	return f->part_fd < 0 ? -EOPNOTSUPP : dup(f->part_fd);
}

static bool
fake_dma_log_probe(void *handle)
{
	struct fake_pci *f = handle;

	return f->logs_dma;
}

static int
fake_dma_log_start(void *handle, const struct vdpa_dma_range *ranges, unsigned int n)
{
	struct fake_pci *f = handle;

	f->log_starts++;
	if (f->log_start_err != 0)
		return -f->log_start_err;
	/* As the kernel has it. */
	if (f->log_on)
		return -EBUSY;
	memcpy(f->log_ranges, ranges, n * sizeof(ranges[0]));
	f->n_log_ranges = n;
	f->log_on = true;
	return 0;
}

static int
fake_dma_log_report(void *handle, uint64_t iova, uint64_t size, uint64_t *bitmap)
{
	struct fake_pci *f = handle;
	bool within = false;

	f->log_reports++;
	if (f->log_report_err != 0 || !f->log_on)
		return f->log_report_err != 0 ? -f->log_report_err : -EINVAL;
	for (unsigned int i = 0; i < f->n_log_ranges; i++)
		within |= iova >= f->log_ranges[i].first &&
			  iova + (size - 1) <= f->log_ranges[i].last;
	if (!within)
		return -EINVAL;
	for (unsigned int i = 0; i < RTE_DIM(f->written); i++) {
		uint64_t at = __atomic_load_n(&f->written[i], __ATOMIC_ACQUIRE);

		if (at == 0 || at < iova || at - iova >= size)
			continue;
		at = (at - iova) / VDPA_PCI_DMA_LOG_PAGE;
		bitmap[at / 64] |= UINT64_C(1) << at % 64;
		__atomic_store_n(&f->written[i], 0, __ATOMIC_RELEASE);
	}
	return 0;
}

static int
fake_dma_log_stop(void *handle)
{
	struct fake_pci *f = handle;

	f->log_stops++;
	if (!f->log_on)
		return -EINVAL;
	f->log_on = false;
	return 0;
}

static int
fake_keep(void *handle, const char *device, bool on)
{
	struct fake_pci *f = handle;

	if (f == NULL)
		return 0;
	if (on && !f->keeps)
		return vdpa_error(EOPNOTSUPP, "fake/%s: cannot be kept", f->name);
	f->is_kept = on;
	return 0;
}

static int
fake_adopt(void *arg, const struct vdpa_dma_mapping *m)
{
	struct fake_pci *f = arg;

	for (unsigned int i = 0; i < f->n_mapped; i++) {
		if (f->mapped[i].iova == m->iova && f->mapped[i].size == m->size) {
			f->mapped[i].va = m->va;
			f->adoptions++;
			return 0;
		}
	}
	return vdpa_error(ENOENT, "fake/%s: IOVA 0x%lx is not mapped", f->name,
			  (unsigned long)m->iova);
}

static void
fake_leave(void *handle)
{
	struct fake_pci *f = handle;

	f->is_left = true;
}

static void
fake_stop(void *handle)
{
	(void)fake_reset(handle);
}

const struct vdpa_pci_transport fake_pci_transport = {
	.size = sizeof(fake_pci_transport),
	.prefix = "fake/",
	.open = fake_open,
	.close = fake_close,
	.identify = fake_identify,
	.read = fake_read,
	.write = fake_write,
	.post = fake_post,
	.set_irqs = fake_set_irqs,
	.unmask_irq = fake_unmask_irq,
	.reset = fake_reset,
	.export_part = fake_export_part,
	.dma_log_probe = fake_dma_log_probe,
	.dma_log_start = fake_dma_log_start,
	.dma_log_report = fake_dma_log_report,
	.dma_log_stop = fake_dma_log_stop,
	.keep = fake_keep,
	.adopt = fake_adopt,
	.leave = fake_leave,
	.stop = fake_stop,
};

/* The test's side. */

void
fake_pci_set_ids(struct fake_pci *f, uint16_t vendor, uint16_t device, uint16_t subsystem_vendor,
		 uint16_t subsystem)
{
	put16(f, 0x00, vendor);
	put16(f, 0x02, device);
	put16(f, 0x2c, subsystem_vendor);
	put16(f, 0x2e, subsystem);
}

void
fake_pci_init(struct fake_pci *f, const char *name)
{
	memset(f, 0, sizeof(*f));
	f->name = name;
	f->config_size = 256;
	f->numa_node = -1;
	f->part_fd = -1;
	f->can_reset = true;
	f->intx = f->err = f->req = -1;
	for (unsigned int i = 0; i < FAKE_PCI_VECTORS; i++)
		f->msix[i] = -1;
	for (unsigned int i = 0; i < VDPA_PCI_BARS; i++)
		f->bar[i].fd = -1;
	f->next_cap = FAKE_CAPS_START;
	fake_pci_set_ids(f, 0x1af4, 0x1041, 0x1af4, 0x1100);
	f->config[0x08] = 1;
	f->config[0x0b] = 0x02; /* network controller */
	if (functions == NULL && vdpa_pci_register_transport(&fake_pci_transport) < 0)
		fail_msg("%s", vdpa_error_message());
	f->next = functions;
	functions = f;
}

void
fake_pci_fini(struct fake_pci *f)
{
	struct fake_pci **at = &functions;

	assert_null(f->open);
	while (*at != f)
		at = &(*at)->next;
	*at = f->next;
	for (unsigned int i = 0; i < VDPA_PCI_BARS; i++) {
		if (f->bar[i].fd < 0)
			continue;
		munmap(f->bar[i].mem, f->bar[i].size);
		close(f->bar[i].fd);
	}
	if (functions == NULL)
		vdpa_pci_unregister_transport(fake_pci_transport.prefix);
}

void
fake_pci_add_bar(struct fake_pci *f, unsigned int bar, uint64_t size, bool mappable)
{
	struct fake_pci_bar *b = &f->bar[bar];

	b->size = size;
	b->mappable = mappable;
	b->fd = memfd_create("fake_pci", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(b->fd >= 0);
	assert_int_equal(ftruncate(b->fd, (off_t)size), 0);
	b->mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd, 0);
	assert_ptr_not_equal(b->mem, MAP_FAILED);
	put32(&f->config[0x10 + 4 * bar], 0x4); /* memory, 64 bits */
}

uint8_t
fake_pci_add_cap(struct fake_pci *f, const void *body, size_t len)
{
	uint8_t at = f->next_cap;

	assert_true(at + len <= 256);
	memcpy(&f->config[at], body, len);
	f->config[at + 1] = 0;
	f->config[f->last_cap != 0 ? f->last_cap + 1 : 0x34] = at;
	f->config[0x06] |= 1 << 4; /* has a capability list */
	f->last_cap = at;
	f->next_cap = (uint8_t)((at + len + 3) & ~3u);
	return at;
}

void
fake_pci_add_msix(struct fake_pci *f, unsigned int n, unsigned int bar, uint32_t table,
		  uint32_t pba)
{
	uint8_t cap[12] = {0x11};

	cap[2] = (uint8_t)(n - 1);
	cap[3] = (uint8_t)((n - 1) >> 8);
	put32(&cap[4], table | bar);
	put32(&cap[8], pba | bar);
	fake_pci_add_cap(f, cap, sizeof(cap));
	f->nr_irqs[VFIO_PCI_MSIX_IRQ_INDEX] = n;
}

bool
fake_pci_raise(struct fake_pci *f, unsigned int vector)
{
	if (!f->msix_on || vector >= f->n_msix || f->msix[vector] < 0)
		return false;
	vdpa_eventfd_signal(f->msix[vector]);
	return true;
}

bool
fake_pci_raise_intx(struct fake_pci *f)
{
	if (f->intx < 0 || f->intx_masked)
		return false;
	f->intx_masked = true;
	vdpa_eventfd_signal(f->intx);
	return true;
}
