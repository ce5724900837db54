/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The transport `vfio-user/PATH`: a PCI function in another process, reached by messages over a
 * UNIX socket. Owns the files of its regions and the DMA domain.
 *
 * What it cannot do: take memory back. The kernel's VFIO unmaps memory from the IOMMU, whatever the
 * device thinks of it. A vfio-user server is given the files that hold a guest's memory, and one
 * that is dead, hostile or just slow keeps what it has mapped, and the file descriptor, however
 * often it is asked to unmap: after the unmap, after the device was deleted, until the server
 * exits. So a server must be trusted with the memory of the guests that it serves, all of it that
 * lies in those files; what it is not trusted with here is this process and everything else in it.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <rte_common.h>

#include "vdpa_error.h"
#include "vdpa_event.h"
#include "vfio_user_priv.h"

struct vfu_device {
	char *name;
	struct vfu_conn *conn;
	struct vfu_caps caps;
	struct vdpa_dma_domain *dma;
	int fds[VDPA_PCI_REGIONS];
};

static int
vfu_dma_map(void *arg, const struct vdpa_dma_mapping *m)
{
	struct vfu_device *dev = arg;
	const struct vfio_user_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_USER_DMA_READABLE | (m->readonly ? 0 : VFIO_USER_DMA_WRITABLE),
		.offset = m->offset,
		.address = m->iova,
		.size = m->size,
	};
	struct vfu_call call = {
		.command = VFIO_USER_DMA_MAP,
		.arg = &map,
		.arg_len = sizeof(map),
		.fds = &m->fd,
		.n_fds = 1,
	};

	return vdpa_vfu_call(dev->conn, &call);
}

static int
vfu_dma_unmap(void *arg, const struct vdpa_dma_mapping *m)
{
	struct vfu_device *dev = arg;
	const struct vfio_user_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.address = m->iova,
		.size = m->size,
	};
	struct vfio_user_dma_unmap reply;
	struct vfu_call call = {
		.command = VFIO_USER_DMA_UNMAP,
		.arg = &unmap,
		.arg_len = sizeof(unmap),
		.reply = &reply,
		.reply_min = sizeof(reply),
		.reply_max = sizeof(reply),
	};
	int rc = vdpa_vfu_call(dev->conn, &call);

	if (rc == 0 && (reply.address != m->iova || reply.size != m->size))
		vdpa_vfu_violation(dev->conn, call.command,
				   "answered is 0x%" PRIx64 " bytes at 0x%" PRIx64
				   ", asked 0x%" PRIx64 " at 0x%" PRIx64,
				   reply.size, reply.address, m->size, m->iova);
	/* With nobody there, nothing is mapped; but see above. */
	return vdpa_vfu_error(dev->conn) != 0 ? 0 : rc;
}

static const struct vdpa_dma_ops vfu_dma_ops = {
	.map = vfu_dma_map,
	.unmap = vfu_dma_unmap,
};

/*
 * What a server does for a mapping is to map a file, which takes the same time whatever the size.
 * It may serve other functions by the same thread, and each of their accesses waits for one
 * mapping: few, then, rather than small ones. But a server that pins what it maps is to answer in
 * time.
 */
#define MAPPING_MAX (64ull << 30)

static int
vfu_create_domain(struct vfu_device *dev)
{
	const struct vdpa_dma_limits limits = {
		.page_size = dev->caps.page_size,
		.max_mappings = dev->caps.max_maps,
		.chunk_size = MAPPING_MAX,
	};

	return vdpa_dma_domain_create(dev->name, &vfu_dma_ops, dev, &limits, &dev->dma);
}

static int
vfu_open(struct vdpa_pci *pci, const char *where, const struct vdpa_pci_params *params,
	 struct vdpa_pci_info *info, struct vdpa_dma_domain **dma, void **handle)
{
	struct vfu_device *dev = calloc(1, sizeof(*dev));
	unsigned int timeout_ms = VDPA_PCI_TIMEOUT_MS;
	int rc;

	if (params != NULL && params->timeout_ms != 0)
		timeout_ms = params->timeout_ms;
	if (dev == NULL)
		return vdpa_error(ENOMEM, "vfio-user/%s: out of memory", where);
	if (asprintf(&dev->name, "vfio-user/%s", where) < 0) {
		rc = vdpa_error(ENOMEM, "vfio-user/%s: out of memory", where);
		goto err_device;
	}
	rc = vdpa_vfu_connect(dev->name, where, timeout_ms, &dev->conn);
	if (rc < 0)
		goto err_name;
	rc = vdpa_vfu_negotiate(dev->conn, dev->name, &dev->caps);
	if (rc < 0) {
		vdpa_vfu_disconnect(dev->conn);
		rc = vdpa_vfu_explain(dev->name, where, rc);
		goto err_name;
	}
	rc = vdpa_vfu_get_info(dev->conn, dev->name, info);
	for (unsigned int i = 0; i < VDPA_PCI_REGIONS; i++)
		dev->fds[i] = info->regions[i].fd;
	if (rc < 0)
		goto err_fds;
	rc = vfu_create_domain(dev);
	if (rc < 0)
		goto err_fds;
	rc = vdpa_vfu_watch(dev->conn, pci);
	if (rc < 0)
		goto err_domain;
	*dma = dev->dma;
	*handle = dev;
	return 0;

err_domain:
	vdpa_dma_domain_destroy(dev->dma);
err_fds:
	for (unsigned int i = 0; i < VDPA_PCI_REGIONS; i++)
		vdpa_vfu_close_file(dev->conn, dev->fds[i]);
	vdpa_vfu_disconnect(dev->conn);
err_name:
	free(dev->name);
err_device:
	free(dev);
	return rc;
}

static void
vfu_close(void *handle)
{
	struct vfu_device *dev = handle;

	vdpa_dma_domain_destroy(dev->dma);
	for (unsigned int i = 0; i < VDPA_PCI_REGIONS; i++)
		vdpa_vfu_close_file(dev->conn, dev->fds[i]);
	vdpa_vfu_disconnect(dev->conn);
	free(dev->name);
	free(dev);
}

/* Whether the reply is about what was asked. */
static int
vfu_check_access(struct vfu_device *dev, uint16_t command,
		 const struct vfio_user_region_access *asked,
		 const struct vfio_user_region_access *reply)
{
	if (memcmp(asked, reply, sizeof(*asked)) == 0)
		return 0;
	return vdpa_vfu_violation(dev->conn, command,
				  "answered is %u bytes at 0x%" PRIx64
				  " of region %u, asked %u at 0x%" PRIx64 " of region %u",
				  reply->count, reply->offset, reply->region, asked->count,
				  asked->offset, asked->region);
}

static int
vfu_read(void *handle, unsigned int region, uint64_t offset, void *buf, size_t len)
{
	struct vfu_device *dev = handle;
	uint8_t *to = buf;
	int rc;

	while (len != 0) {
		const struct vfio_user_region_access access = {
			.offset = offset,
			.region = region,
			.count = (uint32_t)RTE_MIN(len, dev->caps.max_xfer),
		};
		struct {
			struct vfio_user_region_access access;
			uint8_t data[VFIO_USER_XFER_MAX];
		} reply;
		struct vfu_call call = {
			.command = VFIO_USER_REGION_READ,
			.arg = &access,
			.arg_len = sizeof(access),
			.reply = &reply,
			.reply_min = sizeof(access) + access.count,
			.reply_max = sizeof(access) + access.count,
		};

		rc = vdpa_vfu_call(dev->conn, &call);
		if (rc == 0)
			rc = vfu_check_access(dev, call.command, &access, &reply.access);
		if (rc < 0)
			return rc;
		memcpy(to, reply.data, access.count);
		to += access.count;
		offset += access.count;
		len -= access.count;
	}
	return 0;
}

static int
vfu_write(void *handle, unsigned int region, uint64_t offset, const void *buf, size_t len)
{
	struct vfu_device *dev = handle;
	const uint8_t *from = buf;
	int rc;

	while (len != 0) {
		const struct vfio_user_region_access access = {
			.offset = offset,
			.region = region,
			.count = (uint32_t)RTE_MIN(len, dev->caps.max_xfer),
		};
		struct vfio_user_region_access reply;
		struct vfu_call call = {
			.command = VFIO_USER_REGION_WRITE,
			.arg = &access,
			.arg_len = sizeof(access),
			.data = from,
			.data_len = access.count,
			.reply = &reply,
			.reply_min = sizeof(reply),
			.reply_max = sizeof(reply),
		};

		rc = vdpa_vfu_call(dev->conn, &call);
		if (rc == 0)
			rc = vfu_check_access(dev, call.command, &access, &reply);
		if (rc < 0)
			return rc;
		from += access.count;
		offset += access.count;
		len -= access.count;
	}
	return 0;
}

static int
vfu_post(void *handle, unsigned int region, uint64_t offset, const void *buf, size_t len)
{
	struct vfu_device *dev = handle;

	return vdpa_vfu_post(dev->conn, region, offset, buf, len);
}

static int
vfu_send_irqs(struct vfu_device *dev, uint32_t flags, unsigned int index, unsigned int start,
	      unsigned int count, const int *fds, unsigned int n_fds)
{
	const struct vfio_user_irq_set set = {
		.argsz = sizeof(set),
		.flags = flags,
		.index = index,
		.start = start,
		.count = count,
	};
	struct vfu_call call = {
		.command = VFIO_USER_DEVICE_SET_IRQS,
		.arg = &set,
		.arg_len = sizeof(set),
		.fds = fds,
		.n_fds = n_fds,
	};

	return vdpa_vfu_call(dev->conn, &call);
}

static int
vfu_set_irqs(void *handle, unsigned int index, unsigned int start, unsigned int count,
	     const int *fds)
{
	const uint32_t eventfds = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
	struct vfu_device *dev = handle;
	unsigned int n, i = 0;
	int rc;

	if (count == 0)
		return vfu_send_irqs(dev, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
				     index, 0, 0, NULL, 0);
	/* A message has an eventfd for each, or none at all. */
	while (i < count) {
		if (fds[i] >= 0) {
			for (n = 1; i + n < count && n < dev->caps.max_fds && fds[i + n] >= 0;)
				n++;
			rc = vfu_send_irqs(dev, eventfds, index, start + i, n, &fds[i], n);
		} else {
			for (n = 1; i + n < count && fds[i + n] < 0;)
				n++;
			rc = vfu_send_irqs(dev, eventfds, index, start + i, n, NULL, 0);
		}
		if (rc < 0)
			return rc;
		i += n;
	}
	return 0;
}

static int
vfu_unmask_irq(void *handle, unsigned int index)
{
	return vfu_send_irqs(handle, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, index, 0,
			     1, NULL, 0);
}

static int
vfu_reset(void *handle)
{
	struct vfu_device *dev = handle;
	struct vfu_call call = {.command = VFIO_USER_DEVICE_RESET};

	return vdpa_vfu_call(dev->conn, &call);
}

static bool
vfu_dma_log_probe(void *handle)
{
	struct vfu_device *dev = handle;

	return vdpa_vfu_dma_log_probe(dev->conn);
}

static int
vfu_dma_log_start(void *handle, const struct vdpa_dma_range *ranges, unsigned int n)
{
	struct vfu_device *dev = handle;

	return vdpa_vfu_dma_log_start(dev->conn, ranges, n);
}

static int
vfu_dma_log_report(void *handle, uint64_t iova, uint64_t size, uint64_t *bitmap)
{
	struct vfu_device *dev = handle;

	return vdpa_vfu_dma_log_report(dev->conn, iova, size, bitmap);
}

static int
vfu_dma_log_stop(void *handle)
{
	struct vfu_device *dev = handle;

	return vdpa_vfu_dma_log_stop(dev->conn);
}

const struct vdpa_pci_transport vdpa_pci_vfio_user = {
	.size = sizeof(vdpa_pci_vfio_user),
	.prefix = "vfio-user/",
	.open = vfu_open,
	.close = vfu_close,
	.read = vfu_read,
	.write = vfu_write,
	.post = vfu_post,
	.set_irqs = vfu_set_irqs,
	.unmask_irq = vfu_unmask_irq,
	.reset = vfu_reset,
	.dma_log_probe = vfu_dma_log_probe,
	.dma_log_start = vfu_dma_log_start,
	.dma_log_report = vfu_dma_log_report,
	.dma_log_stop = vfu_dma_log_stop,
};
