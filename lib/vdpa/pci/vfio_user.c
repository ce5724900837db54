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
 *
 * A function outlives the process by its connection (vfio_user_conn.c): the server sees no end of
 * it, and so changes nothing. The next process asks anew what the server answers twice; what was
 * agreed on when the connection began is recorded.
 */

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_common.h>

#include "clock.h"
#include "restart.h"
#include "vdpa_error.h"
#include "vdpa_event.h"
#include "vdpa_log.h"
#include "vfio_user_priv.h"

/* The connection's name in the store. It is no function of VFIO's, and nobody may take it for one.
 */
#define KEPT_SOCKET "vfio-user"

/* A server serves one client, and a former process' connection is open until the store has closed
 * it, which takes its time. So long is waited for all servers together: one that hangs up always
 * does not hold the devices of others up, one by one. */
#define BUSY_US	      10000000
#define BUSY_PAUSE_US 20000
/* Behind so long a wait is another one. */
#define BUSY_AGAIN_US 60000000

/* PART_TRANSPORT of the function's record. */
struct kept_conn {
	uint32_t max_fds, max_xfer, max_maps, padding;
	uint64_t page_size;
	struct vfu_peer peer;
};

_Static_assert(sizeof(struct kept_conn) == 136, "record of a connection");

struct vfu_device {
	char *name;
	struct vdpa_pci *pci;
	bool in_vm;
	bool is_left; /* to the next process */
	struct vfu_conn *conn;
	struct vfu_caps caps;
	struct vdpa_dma_domain *dma;
	int fds[VDPA_PCI_REGIONS];
};

static int
send_dma_map(struct vfu_device *dev, const struct vdpa_dma_mapping *m)
{
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
vfu_dma_map(void *arg, const struct vdpa_dma_mapping *m)
{
	return send_dma_map(arg, m);
}

/*
 * The server has the memory mapped itself, so nothing is to be made ours. But nobody can ask it
 * what it has mapped, and a record is not believed: it is given the same mapping again, which does
 * nothing where it has just that, as a server compares the range, the file and the place in it. Any
 * error means that something else may be there: the function is reset then, since memory cannot be
 * taken from a device that works, and mapped anew, without a moment in which it is not there.
 */
static int
vfu_adopt(void *arg, const struct vdpa_dma_mapping *m)
{
	struct vfu_device *dev = arg;
	char why[VDPA_ERROR_MAX];

	if (m->fd < 0 || send_dma_map(dev, m) == 0)
		return 0;
	snprintf(why, sizeof(why), "%s", vdpa_error_message());
	return vdpa_error(EPROTO, "%s; what is mapped at IOVA 0x%" PRIx64 " is not known", why,
			  m->iova);
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
	int rc;

	if (dev->is_left)
		return 0;
	rc = vdpa_vfu_call(dev->conn, &call);
	if (rc == 0 && (reply.address != m->iova || reply.size != m->size))
		vdpa_vfu_violation(dev->conn, call.command,
				   "answered is 0x%" PRIx64 " bytes at 0x%" PRIx64
				   ", asked 0x%" PRIx64 " at 0x%" PRIx64,
				   reply.size, reply.address, m->size, m->iova);
	/* With nobody there, nothing is mapped; but see above. Nor is it where a former process has
	 * ended before the record of its unmapping. */
	return vdpa_vfu_error(dev->conn) != 0 || rc == -ENOENT ? 0 : rc;
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
connect_once(struct vfu_device *dev, const char *where, unsigned int timeout_ms)
{
	int rc = vdpa_vfu_connect(dev->name, where, timeout_ms, &dev->conn);

	if (rc < 0)
		return rc;
	rc = vdpa_vfu_negotiate(dev->conn, dev->name, &dev->caps);
	if (rc < 0)
		vdpa_vfu_disconnect(dev->conn);
	return rc;
}

/* Until when a server that has another client is tried. */
static int64_t
busy_until(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static int64_t until_us;
	int64_t now = vdpa_now_us(), until;

	pthread_mutex_lock(&lock);
	if (until_us == 0 || now > until_us + BUSY_AGAIN_US)
		until_us = now + BUSY_US;
	until = until_us;
	pthread_mutex_unlock(&lock);
	return until;
}

static int
connect_anew(struct vfu_device *dev, const char *where, unsigned int timeout_ms)
{
	int rc = connect_once(dev, where, timeout_ms);
	int64_t until_us;

	/* It has hung up at once. */
	until_us = rc == -ENODEV && vdpa_restart_is_on() ? busy_until() : 0;
	while (rc == -ENODEV && vdpa_now_us() < until_us) {
		usleep(BUSY_PAUSE_US);
		rc = connect_once(dev, where, timeout_ms);
	}
	return vdpa_vfu_explain(dev->name, where, rc);
}

/* What a former process has agreed on with the server; as parse_caps() has them. */
static int
read_record(const struct vfu_device *dev, struct kept_conn *record, struct vfu_caps *caps)
{
	size_t len;
	const void *bytes = vdpa_pci_left_transport(dev->pci, &len);

	if (bytes == NULL || len != sizeof(*record))
		return vdpa_error(EPROTO, "%s: no connection is recorded", dev->name);
	memcpy(record, bytes, sizeof(*record));
	*caps = (struct vfu_caps){.max_fds = record->max_fds,
				  .max_xfer = record->max_xfer,
				  .max_maps = record->max_maps,
				  .page_size = record->page_size};
	if (!vdpa_vfu_caps_ok(caps))
		return vdpa_error(EPROTO, "%s: what is recorded of its connection is not possible",
				  dev->name);
	return 0;
}

/* Of the server at the other end; without an answer the connection ends. */
static int
get_info(struct vfu_device *dev, struct vdpa_pci_info *info)
{
	int rc = vdpa_vfu_get_info(dev->conn, dev->name, info);

	if (rc < 0) {
		vdpa_vfu_close_regions(dev->conn, info);
		vdpa_vfu_disconnect(dev->conn);
	}
	return rc;
}

/* The connection that a former process of the device has had. */
static int
connect_left(struct vfu_device *dev, const char *device, unsigned int timeout_ms,
	     struct vdpa_pci_info *info)
{
	struct kept_conn record;
	int rc = read_record(dev, &record, &dev->caps), fd;

	if (rc < 0)
		return rc;
	fd = vdpa_restart_take(device, KEPT_SOCKET);
	if (fd < 0)
		return vdpa_error(ENOENT, "%s: its connection is not in the store", dev->name);
	rc = vdpa_vfu_adopt(dev->name, fd, &record.peer, timeout_ms, &dev->conn);
	if (rc < 0)
		return rc;
	/* Whether it still stands. */
	rc = get_info(dev, info);
	info->is_left = rc == 0;
	return rc;
}

static int
vfu_keep(void *handle, const char *device, bool on)
{
	struct vfu_device *dev = handle;
	struct kept_conn record;
	int rc;

	if (!on) {
		vdpa_restart_del(device, KEPT_SOCKET);
		return 0;
	}
	if (dev->in_vm)
		return vdpa_error(EOPNOTSUPP, "%s: functions of a `vm` are not left running",
				  dev->name);
	record = (struct kept_conn){.max_fds = dev->caps.max_fds,
				    .max_xfer = dev->caps.max_xfer,
				    .max_maps = dev->caps.max_maps,
				    .page_size = dev->caps.page_size};
	rc = vdpa_vfu_peer(dev->conn, &record.peer);
	if (rc == 0)
		rc = vdpa_pci_keep_transport(dev->pci, &record, sizeof(record));
	if (rc == 0)
		rc = vdpa_restart_put(device, KEPT_SOCKET, vdpa_vfu_socket(dev->conn));
	return rc;
}

static void
vfu_leave(void *handle)
{
	struct vfu_device *dev = handle;

	dev->is_left = true;
	vdpa_vfu_leave(dev->conn);
}

/* Connected, and info filled. */
static int
attach(struct vfu_device *dev, const char *where, unsigned int timeout_ms,
       struct vdpa_pci_info *info)
{
	const char *device = dev->pci != NULL ? vdpa_pci_left_device(dev->pci) : NULL;
	int rc = -ENOENT;

	if (device != NULL) {
		rc = connect_left(dev, device, timeout_ms, info);
		/* The process that has handed it over goes on with it. */
		if (rc == 0 || vdpa_restart_holds())
			return rc;
		VDPA_LOG(WARNING, "%s: %s: starts anew: %s", device, dev->name,
			 vdpa_error_message());
		(void)vfu_keep(NULL, device, false);
	}
	rc = connect_anew(dev, where, timeout_ms);
	return rc < 0 ? rc : get_info(dev, info);
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
	dev->pci = pci;
	dev->in_vm = params != NULL && params->vm != NULL;
	if (asprintf(&dev->name, "vfio-user/%s", where) < 0) {
		rc = vdpa_error(ENOMEM, "vfio-user/%s: out of memory", where);
		goto err_device;
	}
	rc = attach(dev, where, timeout_ms, info);
	if (rc < 0)
		goto err_name;
	for (unsigned int i = 0; i < VDPA_PCI_REGIONS; i++)
		dev->fds[i] = info->regions[i].fd;
	rc = vfu_create_domain(dev);
	if (rc < 0)
		goto err_conn;
	rc = vdpa_vfu_watch(dev->conn, pci);
	if (rc < 0)
		goto err_domain;
	*dma = dev->dma;
	*handle = dev;
	return 0;

err_domain:
	vdpa_dma_domain_destroy(dev->dma);
err_conn:
	vdpa_vfu_close_regions(dev->conn, info);
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

static void
vfu_stop(void *handle)
{
	struct vfu_device *dev = handle;

	dev->is_left = false;
	if (vdpa_vfu_error(dev->conn) == 0)
		(void)vfu_reset(dev);
	VDPA_LOG(WARNING, "%s: is hung up on, so that the server stops the function", dev->name);
	vdpa_vfu_hang_up(dev->conn);
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
	.keep = vfu_keep,
	.adopt = vfu_adopt,
	.leave = vfu_leave,
	.stop = vfu_stop,
};
