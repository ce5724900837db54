/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a virtio device type means, one row a type: its names, how large its configuration is, how
 * its queues are counted, and which of its feature bits belong to whom. Front ends, drivers and
 * `show` ask here and keep no list of their own.
 */

#ifndef VIRTIO_TYPE_H
#define VIRTIO_TYPE_H

#include <stdbool.h>
#include <stdint.h>

struct virtio_type {
	const char *name;     /* in `show`, as virtio 1.2, 5, calls it */
	const char *class;    /* of a management device, as iproute2's vdpa has it */
	uint16_t config_size; /* bytes of configuration that the type has at most (virtio 1.3, 5) */
	bool pairs;	      /* queues are pairs, and a control queue may follow them */
	/* Features that are commands of the control queue; they belong to whoever has it. */
	uint64_t ctrl;
	/* Features that a front end can have only where the device has a control queue (5.1.3.1),
	 * but which it serves by itself: between front end and guest. */
	uint64_t ctrl_dependent;
	/* Features that a driver which keeps the control queue or has no standby must hide. */
	uint64_t hidden;
};

/* The row of a type; one of unknown types for the rest. Never NULL. */
const struct virtio_type *virtio_type(uint32_t device_id);

/* What a front end is offered of the features of a device whose control queue a driver keeps, and
 * of whose queues it has so many: no bits of the transport but what concerns rings and doorbells,
 * no commands, nothing hidden. */
uint64_t virtio_type_guest_features(uint32_t device_id, uint64_t features, uint16_t data_vqs);

/* Whether all buffers of a queue come back by themselves, as requests do; else some may wait for
 * what comes from outside, as receive buffers do. */
bool virtio_type_vq_drains(uint32_t device_id, uint16_t idx);

/* Queues that carry data, of n that a device has: without the control queue. */
uint16_t virtio_type_data_vqs(const struct virtio_type *type, uint16_t n);

/* Which queue the control queue is (5.1.2); pairs: as the device has them. Only with CTRL_VQ. */
uint16_t virtio_type_ctrl_vq(uint64_t features, uint16_t pairs);

#endif /* VIRTIO_TYPE_H */
