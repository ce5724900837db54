/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A function's state on its way to another host: MIG_DEVICE_STATE, MIG_DATA_READ and
 * MIG_DATA_WRITE, as linux/vfio.h has the states (enum vfio_device_mig_state), without PRE_COPY and
 * peer to peer.
 *
 *   RUNNING <----> STOP <----> STOP_COPY     ERROR, from any, until the client resets the device
 *                   ^
 *                   +--------> RESUMING
 *
 * While it does not run no queue moves, and its registers are answered. The stream is made when
 * STOP_COPY begins and taken as a whole when RESUMING ends: a header of 16 bytes (8 of magic, u32
 * version, u32 bytes that follow), then records. What is loaded starts with RUNNING, when the
 * client has mapped its memory.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/vfio.h>
#include <linux/virtio_config.h>

#include "error_priv.h"
#include "vdpa_args.h"
#include "vdpa_fd.h"
#include "vdpa_log.h"
#include "vfio_user_device.h"
#include "vfio_user_saved.h"

#define STREAM_VERSION 1
#define STREAM_HEADER  16
/* Bytes of a stream, at most: the device's own part may have 1 MiB. */
#define STREAM_MAX     ((size_t)2 << 20)
#define STREAM_GROWTH  ((size_t)64 << 10)

static const uint8_t magic[8] = {'u', 'v', 'd', 'p', 'a', 'f', 'u', 'n'};

static void
end_stream(struct vfu_migration *m)
{
	free(m->buf);
	m->buf = NULL;
	m->len = m->room = m->at = 0;
}

void
vdpa_vfus_migration_reset(struct vfu_device *dev)
{
	end_stream(&dev->migration);
	dev->migration.state = VFIO_DEVICE_STATE_RUNNING;
	dev->migration.loaded = false;
}

/* Saving. */

static int
save(struct vfu_device *dev)
{
	struct vfu_migration *m = &dev->migration;
	struct vdpa_tlv_buf buf;
	uint8_t *device;
	size_t len;
	int rc = vdpa_consumer_save_state(dev->consumer, &device, &len);

	if (rc < 0)
		return rc;
	buf = (struct vdpa_tlv_buf){.size = vdpa_vp_saved_size(&dev->vp) + VDPA_TLV_HEADER + len};
	m->len = STREAM_HEADER + buf.size;
	m->buf = malloc(m->len);
	if (m->buf == NULL) {
		rc = vdpa_error(ENOMEM, "out of memory");
	} else {
		memcpy(m->buf, magic, sizeof(magic));
		vdpa_le_put(m->buf + 8, STREAM_VERSION, 4);
		vdpa_le_put(m->buf + 12, buf.size, 4);
		buf.data = m->buf + STREAM_HEADER;
		rc = vdpa_vp_save(&dev->vp, &buf);
	}
	if (rc == 0)
		rc = vdpa_tlv_put(&buf, VFU_SAVED_DEVICE, VDPA_TLV_CRITICAL, device, (uint32_t)len);
	free(device);
	return rc;
}

/* Loading. */

static int
read_stream(struct vfu_device *dev, struct vp_saved *s)
{
	const struct vfu_migration *m = &dev->migration;

	if (m->len < STREAM_HEADER || memcmp(m->buf, magic, sizeof(magic)) != 0)
		return vdpa_error(EPROTO, "the state of %zu bytes is none of this framework's",
				  m->len);
	if (vdpa_le_get(m->buf + 8, 4) != STREAM_VERSION)
		return vdpa_error(EPROTO, "the state has version %u, this build reads version %d",
				  (unsigned int)vdpa_le_get(m->buf + 8, 4), STREAM_VERSION);
	if (vdpa_le_get(m->buf + 12, 4) != m->len - STREAM_HEADER)
		return vdpa_error(EPROTO, "the state ends after %zu bytes, it was written with %zu",
				  m->len, (size_t)vdpa_le_get(m->buf + 12, 4) + STREAM_HEADER);
	return vdpa_vp_saved_read(&dev->vp, m->buf + STREAM_HEADER, m->len - STREAM_HEADER, s);
}

static int
load(struct vfu_device *dev)
{
	struct vp_saved s;
	int rc = read_stream(dev, &s);

	if (rc < 0)
		return rc;
	vdpa_vp_device_reset(&dev->vp);
	rc = vdpa_consumer_load_state(dev->consumer, s.device, s.device_len);
	if (rc == 0) {
		vdpa_vp_saved_apply(&dev->vp, &s);
		dev->migration.loaded = true;
		vdpa_vfus_device_update_intx(dev);
	}
	if (rc == 0 && (s.status & VIRTIO_CONFIG_S_FEATURES_OK) != 0)
		rc = vdpa_consumer_negotiate(dev->consumer, s.features);
	vdpa_vp_saved_free(&s);
	if (rc < 0)
		vdpa_vp_device_reset(&dev->vp);
	return rc;
}

static int
run(struct vfu_device *dev)
{
	uint8_t status = dev->vp.status;
	bool starts = dev->migration.loaded && (status & VIRTIO_CONFIG_S_NEEDS_RESET) == 0 &&
		      ((status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 || dev->vp.suspended);
	int rc;

	dev->migration.state = VFIO_DEVICE_STATE_RUNNING;
	dev->migration.loaded = false;
	rc = starts ? dev->vp.params.ops->start(dev) : 0;
	if (rc < 0) {
		(void)vdpa_vp_needs_reset(&dev->vp);
		return vdpa_error(rc, "the device does not start here");
	}
	if (starts)
		vdpa_vfus_device_signal_queues(dev);
	return vdpa_vfus_device_go_on(dev);
}

/* Of a device that has failed, be it now, the registers say so, and they are its state. */
static void
stop(struct vfu_device *dev)
{
	if (vdpa_vfus_device_stand_still(dev) < 0)
		(void)vdpa_vp_needs_reset(&dev->vp);
}

/* The state machine: one arc, of a state and STOP. */
static int
take_arc(struct vfu_device *dev, uint32_t to)
{
	struct vfu_migration *m = &dev->migration;
	uint32_t from = m->state;
	int rc = 0;

	m->state = to;
	if (from == VFIO_DEVICE_STATE_RUNNING)
		stop(dev);
	else if (from == VFIO_DEVICE_STATE_RESUMING)
		rc = load(dev);
	else if (to == VFIO_DEVICE_STATE_RUNNING)
		rc = run(dev);
	else if (to == VFIO_DEVICE_STATE_STOP_COPY)
		rc = save(dev);
	if (to == VFIO_DEVICE_STATE_STOP || rc < 0)
		end_stream(m);
	if (rc < 0 && to == VFIO_DEVICE_STATE_STOP_COPY)
		/* It stands still, and may go on. */
		m->state = from;
	else if (rc < 0)
		m->state = VFIO_DEVICE_STATE_ERROR;
	return rc;
}

static bool
is_state(uint32_t state)
{
	return state == VFIO_DEVICE_STATE_STOP || state == VFIO_DEVICE_STATE_RUNNING ||
	       state == VFIO_DEVICE_STATE_STOP_COPY || state == VFIO_DEVICE_STATE_RESUMING;
}

int
vdpa_vfus_migration_set(struct vfu_device *dev, uint32_t state)
{
	struct vfu_migration *m = &dev->migration;
	uint32_t from = m->state;
	int rc = 0;

	if (!is_state(state) || from == VFIO_DEVICE_STATE_ERROR)
		return vdpa_error(EINVAL, "MIG_DEVICE_STATE: %u to %u", from, state);
	if (from == state)
		return 0;
	if (from != VFIO_DEVICE_STATE_STOP)
		rc = take_arc(dev, VFIO_DEVICE_STATE_STOP);
	if (rc == 0 && state != VFIO_DEVICE_STATE_STOP)
		rc = take_arc(dev, state);
	if (rc < 0)
		VDPA_LOG_LIMITED(&dev->log.lines, ERR, "%s: vfio-user: state %u to %u: %s",
				 dev->vdev->name, from, state,
				 vdpa_error_cause(vdpa_error_message(), dev->vdev->name, -1));
	else if (state == VFIO_DEVICE_STATE_STOP_COPY || from == VFIO_DEVICE_STATE_RESUMING)
		VDPA_LOG_LIMITED(&dev->log.lines, NOTICE, "%s: vfio-user: state %s",
				 dev->vdev->name,
				 from == VFIO_DEVICE_STATE_RESUMING ? "loaded" : "saved");
	return rc;
}

/* The stream. */

int
vdpa_vfus_migration_read(struct vfu_device *dev, void *buf, uint32_t size, uint32_t *n)
{
	struct vfu_migration *m = &dev->migration;

	if (m->state != VFIO_DEVICE_STATE_STOP_COPY)
		return vdpa_error(EINVAL, "MIG_DATA_READ in state %u", m->state);
	*n = size < m->len - m->at ? size : (uint32_t)(m->len - m->at);
	memcpy(buf, m->buf + m->at, *n);
	m->at += *n;
	return 0;
}

int
vdpa_vfus_migration_write(struct vfu_device *dev, const void *buf, uint32_t size)
{
	struct vfu_migration *m = &dev->migration;
	uint8_t *more;

	if (m->state != VFIO_DEVICE_STATE_RESUMING)
		return vdpa_error(EINVAL, "MIG_DATA_WRITE in state %u", m->state);
	if (size > STREAM_MAX - m->len)
		return vdpa_error(E2BIG, "MIG_DATA_WRITE: a state of more than %zu bytes",
				  STREAM_MAX);
	if (size > m->room - m->len) {
		more = realloc(m->buf, m->room + STREAM_GROWTH);
		if (more == NULL)
			return vdpa_error(ENOMEM, "out of memory");
		m->buf = more;
		m->room += STREAM_GROWTH;
	}
	memcpy(m->buf + m->len, buf, size);
	m->len += size;
	return 0;
}
