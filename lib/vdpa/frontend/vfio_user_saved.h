/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What a function's driver has written, as records of a state that goes to another host. */

#ifndef VFIO_USER_SAVED_H
#define VFIO_USER_SAVED_H

#include "tlv.h"
#include "vfio_user_function.h"

/* Type of the record that has what is behind the registers, whose bytes are the consumer's. */
#define VFU_SAVED_DEVICE 6

/* Registers that were read, and checked. config, msix, seen and device point into the bytes. */
struct vp_saved {
	const uint8_t *config, *msix, *seen, *device;
	size_t device_len;
	uint32_t device_feature_select, driver_feature_select;
	uint64_t features;
	uint16_t config_vector, queue_select;
	uint8_t status, generation, isr;
	bool suspended;
	struct vp_queue *queues;
};

/* Bytes of the records of the registers. */
size_t vdpa_vp_saved_size(const struct vp_function *vp);
/* Add them. 0 or -ENOMEM. */
int vdpa_vp_save(const struct vp_function *vp, struct vdpa_tlv_buf *buf);

/*
 * Read records, of registers and what is behind them, that anybody may have made. 0; -EPROTO for
 * what is cut, doubled, missing or unknown; -EINVAL for a state of another function, or registers
 * that no driver can have written; -ENOMEM. Nothing is to be freed then.
 */
int vdpa_vp_saved_read(const struct vp_function *vp, const uint8_t *bytes, size_t len,
		       struct vp_saved *s);
void vdpa_vp_saved_free(struct vp_saved *s);
/* The registers have it from now on. */
void vdpa_vp_saved_apply(struct vp_function *vp, const struct vp_saved *s);

#endif /* VFIO_USER_SAVED_H */
