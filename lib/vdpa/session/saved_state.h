/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The state of a device that moves to another host (vhost-user's DEVICE_STATE): what it is, how it
 * is written as bytes and read from bytes that anybody may have made, and whether a device can go
 * on from it. saved_state.c; the driver's own part is device_state.c.
 *
 * The stream, little endian: a header of 16 bytes (8 of magic, u32 version, u32 bytes that follow),
 * then records as in tlv.h. What is new in a later version is such a record; the version changes
 * only when an old reader would go wrong.
 */

#ifndef VDPA_SAVED_STATE_H
#define VDPA_SAVED_STATE_H

#include "vdpa_frontend.h"

#define VDPA_SAVED_VERSION 1
/* Bytes of a stream, at most. */
#define VDPA_SAVED_MAX	   ((size_t)1 << 20)

/* A queue that was set up: its size, and where it stands as SET_VRING_BASE has it. */
struct vdpa_saved_vq {
	bool known;
	uint32_t num;
	uint32_t base;
};

/* Which fields of the configuration a device has. */
enum vdpa_saved_field {
	VDPA_SAVED_MAC = 1 << 0,
	VDPA_SAVED_PAIRS = 1 << 1,
	VDPA_SAVED_MTU = 1 << 2,
	VDPA_SAVED_CAPACITY = 1 << 3,
	VDPA_SAVED_BLK_SIZE = 1 << 4,
};

struct vdpa_saved_state {
	uint32_t device_id;
	uint64_t features; /* negotiated, of virtio alone; 0: none yet */
	uint32_t config_size;
	unsigned int has; /* enum vdpa_saved_field */
	uint8_t mac[6];
	uint16_t max_pairs;
	uint16_t mtu;
	uint64_t capacity; /* sectors of 512 bytes */
	uint32_t blk_size;
	uint16_t data_vqs; /* that the device has, without a control queue */
	struct vdpa_saved_vq vqs[VDPA_VQ_MAX];
	const void *driver; /* the driver's own part, in somebody else's memory; NULL: none */
	size_t driver_len;
};

/* What of the state is the device's to say: all but features, queues and the driver's part, which
 * are 0. 0, or what reading the configuration says. From any thread; it may wait for the device. */
int vdpa_saved_state_of(struct vdpa_device *vdev, struct vdpa_saved_state *s);

/* Bytes that the stream has. */
size_t vdpa_saved_state_size(const struct vdpa_saved_state *s);
/* Write so many to buf. */
void vdpa_saved_state_write(const struct vdpa_saved_state *s, uint8_t *buf);

/*
 * Read a whole stream. s->driver points into buf. -EPROTO with vdpa_error_message() for one that is
 * cut, of another version, or not one of ours; s is undefined then.
 */
int vdpa_saved_state_read(struct vdpa_saved_state *s, const uint8_t *buf, size_t len);

/*
 * Whether a device can go on from s; its driver's part is not looked at. offered: the virtio
 * features that its front end is offered; nvqs: queues that this one may speak of. -EINVAL with a
 * message that has both values of the first thing that differs.
 */
int vdpa_saved_state_check(struct vdpa_device *vdev, uint64_t offered, uint16_t nvqs,
			   const struct vdpa_saved_state *s);

/* device_state.c: the driver's own part, as far as the device has any. */

/*
 * What the driver keeps beside rings and configuration (filters, device parts), of a device that
 * was started and whose queues are stopped, before a reset takes it away. *buf is the caller's to
 * free; NULL and 0: none. A negative errno with a message: there is some and it cannot be had.
 */
int vdpa_device_save_driver_state(struct vdpa_device *vdev, uint8_t **buf, size_t *len);
/*
 * Whether a device that is stopped takes it, with these features: by loading it, and a reset. A
 * start then loads it (vdpa_start_config.state). len 0: 0. -EOPNOTSUPP where the device takes none;
 * -EBUSY for one that is started; what the driver says.
 */
int vdpa_device_try_driver_state(struct vdpa_device *vdev, uint64_t features, const uint8_t *buf,
				 size_t len);

#endif /* VDPA_SAVED_STATE_H */
