/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The record of a vfio-user connection: written after each message that has changed what is in it,
 * before its reply leaves; read by the next process, which brings function and consumer to it by
 * the calls that the messages were. So everything in it is checked as a client's words are, and
 * registers as those of a state that comes from another host.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "error_priv.h"
#include "restart.h"
#include "tlv.h"
#include "vdpa_args.h"
#include "vdpa_event.h"
#include "vdpa_fd.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_log.h"
#include "vfio_user_device.h"
#include "vfio_user_saved.h"
#include "vfio_user_server_priv.h"

/* Types of parts, behind restart.c's own. What a part says may grow at its end. */
enum {
	PART_LISTENER = 16,
	PART_CONNECTION,
	PART_COLD,
	PART_REGISTERS,
	PART_QUEUES,
	PART_INTERRUPTS,
	PART_FILES,
	PART_RANGES,
	PART_CONFIG,
	PART_STATE, /* what the control queue has set counts (kept_state.c) */
#ifdef UVDPA_EARLIER
	PART_LAST = PART_CONFIG, /* of a version before this one, which tests play */
#else
	PART_LAST = PART_STATE,
#endif
};

struct part_listener {
	uint64_t dev, ino;
};

struct part_connection {
	uint64_t serial, done;
	uint8_t version_done, padding[7];
};

#define QUEUE_RUNS 0x01u
#define QUEUE_BASE 0x02u

/* Of a queue that the device was told of. */
struct part_queue {
	uint16_t idx, flags;
	uint32_t base;
};

/* The ids of vectors' eventfds follow. */
struct part_interrupts {
	uint8_t msix_on, intx_masked, padding[6];
	uint64_t intx;
};

#define RANGE_READONLY 0x01u

struct part_range {
	uint64_t first, last, offset;
	uint32_t file, flags;
};

_Static_assert(sizeof(struct part_connection) == 24, "PART_CONNECTION");
_Static_assert(sizeof(struct part_queue) == 8, "PART_QUEUES");
_Static_assert(sizeof(struct part_interrupts) == 16, "PART_INTERRUPTS");
_Static_assert(sizeof(struct part_range) == 32, "PART_RANGES");

/* Write. */

static const char *
why_cold(const struct vfu_device *dev)
{
	const char *tie = vdpa_vfus_planned_is(&dev->kept) ? NULL : vdpa_device_find_tie(dev->vdev);
	const struct vp_function *vp = &dev->vp;

	if (tie != NULL)
		return tie;
	if (dev->kept.lost)
		return "its driver has written more of the configuration than is remembered";
	if (dev->migration.state != VFIO_DEVICE_STATE_RUNNING || dev->migration.loaded)
		return "its device's state is being moved";
	if (dev->log.asked || dev->log.on || dev->log.own != NULL)
		return "its memory is logged";
	if (dev->consumer != NULL && vdpa_consumer_has_requests(dev->consumer))
		return KEPT_REQUESTS;
	return (vp->status & VIRTIO_CONFIG_S_FEATURES_OK) != 0
		       ? vdpa_kept_state_why_cold(&dev->kept.state, dev->vdev, vp->driver_features)
		       : NULL;
}

/* What may change by an access to registers. */
static int
put_registers(struct vfu_device *dev, struct vdpa_tlv_buf *buf)
{
	const struct vfu_irqs *irqs = &dev->irqs;
	uint16_t nvqs = dev->vp.params.nvqs, n = 0;
	size_t size = vdpa_vp_saved_size(&dev->vp) + VDPA_TLV_HEADER;
	struct part_queue *queues = calloc(nvqs, sizeof(*queues));
	struct vdpa_tlv_buf registers = {.data = malloc(size), .size = size};
	struct {
		struct part_interrupts irqs;
		uint64_t vectors[VP_VECTORS_MAX];
	} *part = calloc(1, sizeof(*part));
	int rc = queues == NULL || registers.data == NULL || part == NULL
			 ? vdpa_error(ENOMEM, "out of memory")
			 : vdpa_vp_save(&dev->vp, &registers);

	/* Nothing is behind the registers but what has parts of its own. */
	if (rc == 0)
		rc = vdpa_tlv_put(&registers, VFU_SAVED_DEVICE, VDPA_TLV_CRITICAL, NULL, 0);
	for (uint16_t i = 0; rc == 0 && i < nvqs; i++) {
		struct vdpa_consumer_vq_facts f;

		if (!dev->queues[i].told)
			continue;
		vdpa_consumer_get_vq_facts(dev->consumer, i, &f);
		queues[n++] = (struct part_queue){
			.idx = i,
			.flags = (f.runs ? QUEUE_RUNS : 0) | (f.has_base ? QUEUE_BASE : 0),
			.base = f.has_base ? f.base : 0,
		};
	}
	if (rc == 0) {
		part->irqs = (struct part_interrupts){.msix_on = irqs->msix_on,
						      .intx_masked = irqs->intx_masked,
						      .intx = dev->kept.intx};
		memcpy(part->vectors, dev->kept.vectors, irqs->n_vectors * sizeof(uint64_t));
		(void)vdpa_tlv_put(buf, PART_REGISTERS, VDPA_TLV_CRITICAL, registers.data,
				   (uint32_t)registers.len);
		(void)vdpa_tlv_put(buf, PART_QUEUES, VDPA_TLV_CRITICAL, queues,
				   (uint32_t)(n * sizeof(queues[0])));
		(void)vdpa_tlv_put(
			buf, PART_INTERRUPTS, VDPA_TLV_CRITICAL, part,
			(uint32_t)(sizeof(part->irqs) + irqs->n_vectors * sizeof(uint64_t)));
	}
	free(queues);
	free(registers.data);
	free(part);
	return rc;
}

struct ranges {
	struct part_range *at;
	unsigned int n;
};

static void
put_range(const struct vfu_dma_view *v, void *arg)
{
	struct ranges *r = arg;

	r->at[r->n++] = (struct part_range){.first = v->first,
					    .last = v->last,
					    .offset = v->offset,
					    .file = v->file < 0 ? UINT32_MAX : (uint32_t)v->file,
					    .flags = v->readonly ? RANGE_READONLY : 0};
}

static int
put_memory(struct vfu_device *dev, struct vdpa_tlv_buf *buf)
{
	struct vfu_dma *dma = &dev->dma;
	struct ranges ranges = {.n = 0};

	if (dma->n == 0)
		return 0;
	if (dma->n > VDPA_RESTART_RECORD_MAX / sizeof(ranges.at[0]))
		return vdpa_error(EMSGSIZE, "its client has mapped %u ranges: too many", dma->n);
	ranges.at = calloc(dma->n, sizeof(ranges.at[0]));
	if (ranges.at == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	vdpa_vfus_dma_for_each(dma, put_range, &ranges);
	(void)vdpa_tlv_put(buf, PART_FILES, VDPA_TLV_CRITICAL, dev->kept.files,
			   sizeof(dev->kept.files));
	(void)vdpa_tlv_put(buf, PART_RANGES, VDPA_TLV_CRITICAL, ranges.at,
			   (uint32_t)(ranges.n * sizeof(ranges.at[0])));
	free(ranges.at);
	return 0;
}

static int
put_connection(struct vfu_device *dev, struct vdpa_tlv_buf *buf)
{
	const struct vfu_kept *k = &dev->kept;
	const struct part_connection part = {.serial = k->wire.serial,
					     .done = k->done,
					     .version_done = dev->server->version_done};
	size_t at;
	int rc;

	(void)vdpa_tlv_put(buf, PART_CONNECTION, VDPA_TLV_CRITICAL, &part, sizeof(part));
	at = buf->len;
	rc = put_registers(dev, buf);
	if (rc == 0 && !buf->overflow) {
		free(dev->kept.last);
		dev->kept.last_len = buf->len - at;
		dev->kept.last = malloc(dev->kept.last_len);
		if (dev->kept.last == NULL)
			dev->kept.last_len = 0;
		else
			memcpy(dev->kept.last, buf->data + at, dev->kept.last_len);
	}
	if (rc == 0)
		rc = put_memory(dev, buf);
	if ((dev->vp.status & VIRTIO_CONFIG_S_FEATURES_OK) != 0 &&
	    vdpa_kept_state_counts(&k->state, dev->vdev, dev->vp.driver_features))
		(void)vdpa_tlv_put(buf, PART_STATE, VDPA_TLV_CRITICAL, NULL, 0);
	for (unsigned int i = 0; i < k->n_configs; i++)
		(void)vdpa_tlv_put(
			buf, PART_CONFIG, VDPA_TLV_CRITICAL, &k->configs[i],
			(uint32_t)(offsetof(struct vfu_kept_config, data) + k->configs[i].len));
	return rc;
}

bool
vdpa_vfus_record_is_old(struct vfu_device *dev)
{
	const struct vfu_kept *k = &dev->kept;
	struct vdpa_tlv_buf buf = {.size = VDPA_RESTART_RECORD_MAX};
	bool old = true;

	if (k->said != (why_cold(dev) != NULL) || k->last == NULL)
		return true;
	buf.data = malloc(buf.size);
	if (buf.data != NULL && put_registers(dev, &buf) == 0)
		old = buf.len != k->last_len || memcmp(buf.data, k->last, buf.len) != 0;
	free(buf.data);
	return old;
}

int
vdpa_vfus_record_write(struct vfu_device *dev)
{
	const struct vdpa_listen *l = &dev->server->listen;
	const struct part_listener listener = {.dev = l->dev, .ino = l->ino};
	struct vdpa_tlv_buf buf = {.size = VDPA_RESTART_RECORD_MAX};
	const char *cold = dev->consumer != NULL ? why_cold(dev) : NULL, *crash = cold;
	int rc;

	/* Of a kill alone. */
	if (cold == NULL && dev->consumer != NULL && vdpa_vfus_planned_is(&dev->kept) &&
	    !dev->kept.stopped)
		crash = dev->kept.planned.crash;
	buf.data = malloc(buf.size);
	if (buf.data == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	(void)vdpa_tlv_put(&buf, PART_LISTENER, 0, &listener, sizeof(listener));
	rc = dev->consumer != NULL ? put_connection(dev, &buf) : 0;
	if (crash != NULL)
		(void)vdpa_tlv_put(&buf, PART_COLD, 0, crash, (uint32_t)strlen(crash));
	if (cold != NULL && !dev->kept.said)
		VDPA_LOG_LIMITED(&dev->log.lines, NOTICE,
				 "%s: vfio-user: this connection ends with the process: %s",
				 dev->vdev->name, cold);
	if (dev->kept.said != (cold != NULL))
		vdpa_restart_says(dev->vdev->name, cold);
	dev->kept.said = cold != NULL;
	if (rc == 0)
		rc = buf.overflow ? vdpa_error(EMSGSIZE, "its state is too long to be kept")
				  : vdpa_restart_write(dev->vdev->name, buf.data, buf.len);
	free(buf.data);
	return rc;
}

/* Read. */

/* The beginning of a part: one that is too short is no such part; what a later version has added
 * is not looked at. */
static bool
get(const struct vdpa_tlv *tlv, void *part, size_t size)
{
	if (tlv->len < size)
		return false;
	memcpy(part, tlv->data, size);
	return true;
}

static bool
read_connection(struct vfu_record *r, const struct vdpa_tlv *tlv)
{
	struct part_connection part;

	if (r->has_connection || !get(tlv, &part, sizeof(part)))
		return false;
	r->has_connection = true;
	r->serial = part.serial;
	r->done = part.done;
	r->version_done = part.version_done != 0;
	return true;
}

static bool
read_queues(struct vfu_record *r, const struct vdpa_tlv *tlv)
{
	for (uint32_t at = 0; at + sizeof(struct part_queue) <= tlv->len;
	     at += sizeof(struct part_queue)) {
		struct part_queue part;

		memcpy(&part, tlv->data + at, sizeof(part));
		if (part.idx >= RTE_DIM(r->queues) || r->queues[part.idx].told)
			return false;
		r->queues[part.idx] =
			(struct vfu_record_queue){.told = true,
						  .runs = (part.flags & QUEUE_RUNS) != 0,
						  .has_base = (part.flags & QUEUE_BASE) != 0,
						  .base = part.base};
	}
	return tlv->len % sizeof(struct part_queue) == 0;
}

static bool
read_interrupts(struct vfu_record *r, const struct vdpa_tlv *tlv)
{
	struct part_interrupts part;

	if (r->vectors != NULL || !get(tlv, &part, sizeof(part)))
		return false;
	r->msix_on = part.msix_on != 0;
	r->intx_masked = part.intx_masked != 0;
	r->intx = part.intx;
	r->vectors = tlv->data + sizeof(part);
	r->n_vectors = (unsigned int)((tlv->len - sizeof(part)) / sizeof(uint64_t));
	return true;
}

static bool
read_config(struct vfu_record *r, const struct vdpa_tlv *tlv)
{
	const size_t head = offsetof(struct vfu_kept_config, data);
	struct vfu_kept_config *config = &r->configs[r->n_configs];

	if (r->n_configs == RTE_DIM(r->configs) || tlv->len < head || tlv->len > sizeof(*config))
		return false;
	memcpy(config, tlv->data, tlv->len);
	r->n_configs++;
	return config->len == tlv->len - head;
}

static bool
read_part(struct vfu_record *r, const struct vdpa_tlv *tlv)
{
	struct part_listener listener;

	switch (tlv->type) {
	case PART_LISTENER:
		if (!get(tlv, &listener, sizeof(listener)))
			return false;
		r->has_listener = true;
		r->listener.dev = listener.dev;
		r->listener.ino = listener.ino;
		return true;
	case PART_CONNECTION:
		return read_connection(r, tlv);
	case PART_COLD:
		snprintf(r->cold, sizeof(r->cold), "%.*s", (int)RTE_MIN(tlv->len, 255u),
			 (const char *)tlv->data);
		return tlv->len > 0;
	case PART_REGISTERS:
		if (r->registers != NULL)
			return false;
		r->registers = tlv->data;
		r->registers_len = tlv->len;
		return true;
	case PART_QUEUES:
		return read_queues(r, tlv);
	case PART_INTERRUPTS:
		return read_interrupts(r, tlv);
	case PART_FILES:
		if (tlv->len > sizeof(r->files) || tlv->len % sizeof(r->files[0]) != 0)
			return false;
		memcpy(r->files, tlv->data, tlv->len);
		r->n_files = tlv->len / sizeof(r->files[0]);
		return true;
	case PART_RANGES:
		if (r->ranges != NULL || tlv->len % sizeof(struct part_range) != 0)
			return false;
		r->ranges = tlv->data;
		r->n_ranges = tlv->len / sizeof(struct part_range);
		return true;
	case PART_STATE:
		return tlv->len == 0;
	default:
		return read_config(r, tlv);
	}
}

static int
read_parts(struct vfu_record *r, size_t len)
{
	struct vdpa_tlv_reader reader = {.data = r->bytes, .left = len, .what = "its record"};
	struct vdpa_tlv tlv;
	int rc;

	while ((rc = vdpa_tlv_next(&reader, &tlv)) == 1) {
		if (tlv.type < PART_LISTENER || tlv.type > PART_LAST)
			rc = vdpa_tlv_unknown(&reader, &tlv, PART_LAST);
		else if (!read_part(r, &tlv))
			rc = vdpa_error(EPROTO, "part %u of its record is not one", tlv.type);
		if (rc < 0)
			return rc;
	}
	if (rc == 0 && r->has_connection && (r->registers == NULL || r->vectors == NULL))
		rc = vdpa_error(EPROTO, "its record has no registers");
	return rc;
}

void
vdpa_vfus_record_free(struct vfu_record *r)
{
	if (r == NULL)
		return;
	free(r->bytes);
	free(r);
}

int
vdpa_vfus_record_read(struct vfu_device *dev, struct vfu_record **record)
{
	struct vfu_record *r = calloc(1, sizeof(*r));
	int rc;

	if (r == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	r->bytes = malloc(VDPA_RESTART_RECORD_MAX);
	rc = r->bytes == NULL
		     ? vdpa_error(ENOMEM, "out of memory")
		     : vdpa_restart_read(dev->vdev->name, r->bytes, VDPA_RESTART_RECORD_MAX);
	if (rc >= 0)
		rc = read_parts(r, (size_t)rc);
	if (rc < 0)
		vdpa_vfus_record_free(r);
	else
		*record = r;
	return rc < 0 ? rc : 0;
}

/* Apply. */

/* The files of ranges, -1 for none. */
static int
take_files(struct vfu_device *dev, const struct vfu_record *r, int fds[VFU_DMA_FILES_MAX])
{
	for (unsigned int i = 0; i < VFU_DMA_FILES_MAX; i++)
		fds[i] = -1;
	for (unsigned int i = 0; i < r->n_files; i++) {
		if (r->files[i] == 0)
			continue;
		fds[i] = vdpa_wire_take_fd(&dev->kept.wire, r->files[i]);
		if (fds[i] < 0)
			return fds[i];
	}
	return 0;
}

static int
apply_range(struct vfu_device *dev, const struct vfu_record *r, const struct part_range *part,
	    const int *fds)
{
	uint64_t size = part->last - part->first + 1;
	int fd = -1, rc;

	if (part->file != UINT32_MAX) {
		if (part->file >= r->n_files || fds[part->file] < 0)
			return vdpa_error(EPROTO,
					  "DMA range 0x%" PRIx64 " is of a file that was not kept",
					  part->first);
		fd = fds[part->file];
	}
	rc = (part->flags & RANGE_READONLY) != 0
		     ? vdpa_vfus_dma_map_readonly(&dev->dma, part->first, size, part->offset, fd)
		     : vdpa_vfus_dma_map(&dev->dma, part->first, size, part->offset, fd);
	if (rc < 0 || fd < 0)
		return rc;
	/* The table may have it in another place. */
	for (unsigned int i = 0; i < VFU_DMA_FILES_MAX; i++)
		if (dev->dma.files[i].ranges > 0 && dev->kept.files[i] == 0)
			dev->kept.files[i] = r->files[part->file];
	return 0;
}

static int
apply_memory(struct vfu_device *dev, const struct vfu_record *r)
{
	int fds[VFU_DMA_FILES_MAX];
	int rc = take_files(dev, r, fds);

	for (unsigned int i = 0; rc == 0 && i < r->n_ranges; i++) {
		struct part_range part;

		memcpy(&part, r->ranges + i * sizeof(part), sizeof(part));
		rc = apply_range(dev, r, &part, fds);
	}
	for (unsigned int i = 0; i < VFU_DMA_FILES_MAX; i++)
		(void)vdpa_close_foreign(dev->server->account, fds[i]);
	return rc;
}

static int
take_eventfd(struct vfu_device *dev, vdpa_wire_id id, int *fd)
{
	int rc, flags;

	*fd = -1;
	if (id == 0)
		return 0;
	rc = vdpa_wire_take_fd(&dev->kept.wire, id);
	if (rc < 0)
		return rc;
	flags = vdpa_fd_is_eventfd(rc) ? fcntl(rc, F_GETFL) : -1;
	if (flags < 0 || fcntl(rc, F_SETFL, flags | O_NONBLOCK) < 0) {
		(void)vdpa_close_foreign(dev->server->account, rc);
		return vdpa_error(EPROTO, "what was kept of an interrupt is no eventfd");
	}
	*fd = rc;
	return 0;
}

static int
apply_interrupts(struct vfu_device *dev, const struct vfu_record *r)
{
	struct vfu_irqs *irqs = &dev->irqs;
	int rc = r->n_vectors <= irqs->n_vectors
			 ? take_eventfd(dev, r->intx, &irqs->intx_fd)
			 : vdpa_error(EPROTO, "its record has %u interrupts", r->n_vectors);

	dev->kept.intx = r->intx;
	for (unsigned int i = 0; rc == 0 && i < r->n_vectors; i++) {
		uint64_t id;

		memcpy(&id, r->vectors + i * sizeof(id), sizeof(id));
		rc = take_eventfd(dev, id, &irqs->vector_fds[i]);
		dev->kept.vectors[i] = id;
	}
	irqs->msix_on = r->msix_on;
	irqs->intx_masked = r->intx_masked;
	return rc;
}

static int
apply_registers(struct vfu_device *dev, const struct vfu_record *r)
{
	struct vp_saved s;
	bool negotiated;
	int rc = vdpa_vp_saved_read(&dev->vp, r->registers, r->registers_len, &s);

	if (rc < 0)
		return rc;
	vdpa_vp_saved_apply(&dev->vp, &s);
	negotiated = (s.status & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
	if (negotiated)
		rc = vdpa_consumer_negotiate(dev->consumer, s.features);
	/* A start that no record knows of may have been carried out. */
	if (rc == 0)
		rc = vdpa_kept_state_apply(&dev->kept.state, dev->vdev, dev->consumer, s.features,
					   negotiated);
	vdpa_vp_saved_free(&s);
	return rc;
}

static int
apply_config(struct vfu_device *dev, const struct vfu_record *r)
{
	size_t size = dev->vp.params.device_size;
	int rc = 0;

	for (unsigned int i = 0; i < r->n_configs && rc == 0; i++) {
		const struct vfu_kept_config *c = &r->configs[i];

		if (c->offset > size || c->len > size - c->offset)
			return vdpa_error(EPROTO, "its record has no configuration of this device");
		vdpa_vfus_kept_note_config(&dev->kept, c->offset, c->data, c->len);
		rc = vdpa_set_config(dev->vdev, c->offset, c->data, c->len);
	}
	return rc;
}

int
vdpa_vfus_record_apply(struct vfu_device *dev, const struct vfu_record *r)
{
	int rc = apply_memory(dev, r);

	if (rc == 0)
		rc = apply_interrupts(dev, r);
	if (rc == 0)
		rc = apply_registers(dev, r);
	return rc < 0 ? rc : apply_config(dev, r);
}

/* What nobody knows to have reached the other side is said once more: a kick of each queue, an
 * interrupt of each, and a configuration that the driver has not seen. */
static void
signal_driver(struct vfu_device *dev)
{
	uint8_t now[VP_DEVICE_MAX];
	size_t len = dev->vp.params.device_size;

	vdpa_vfus_device_signal_queues(dev);
	if (len > 0 && vdpa_get_config(dev->vdev, 0, now, len) == 0 &&
	    memcmp(now, dev->vp.device_config, len) != 0)
		vdpa_vfus_config_interrupt(dev);
}

int
vdpa_vfus_record_start(struct vfu_device *dev)
{
	uint8_t status = dev->vp.status;
	int rc;

	if ((status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0 ||
	    ((status & VIRTIO_CONFIG_S_DRIVER_OK) == 0 && !dev->vp.suspended)) {
		vdpa_vfus_device_update_intx(dev);
		return 0;
	}
	rc = dev->vp.params.ops->start(dev);
	if (rc == 0)
		rc = vdpa_vfus_device_go_on(dev);
	/* The device's own job says so, too, but later. */
	if (dev->consumer != NULL && vdpa_consumer_check_alive(dev->consumer) < 0)
		return -EIO;
	if (rc < 0)
		return vdpa_error(EIO, "the device does not start");
	signal_driver(dev);
	vdpa_vfus_device_update_intx(dev);
	return 0;
}
