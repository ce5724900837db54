/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Between vfio_user_function.c, the BARs, vfio_user_config.c, the configuration space, and the
 * kinds. */

#ifndef VFIO_USER_FUNCTION_PRIV_H
#define VFIO_USER_FUNCTION_PRIV_H

#include "vfio_user_function.h"

/* Add the capabilities of virtio's structures to the list of a space of 256 bytes, from *end on;
 * where that of the common configuration is. */
uint8_t vdpa_vp_add_virtio_caps(const struct vp_function *vp, uint8_t *space, uint8_t *end);
/* A capability, first in that list, with id and next filled in; where it is. */
uint8_t vdpa_vp_add_cap(uint8_t *space, uint8_t *end, uint8_t id, uint8_t len);
/* The common configuration's capability in that space, as VFU_STEP_CAPABILITY has it. */
void vdpa_vp_spoil_cap(const struct vp_function *vp, uint8_t *space);

/*
 * The part of [offset, offset + len) that lies in a block of registers: where in the block, and
 * where in the buffer. false: none does.
 */
bool vdpa_vp_part_of(uint64_t offset, size_t len, uint64_t block, uint64_t block_len,
		     uint64_t *in_block, size_t *in_buf, size_t *n);
/* What of a register block that is kept as bytes lies in an access, copied out of it or into it;
 * false: nothing does. */
bool vdpa_vp_read_block(uint64_t offset, uint8_t *buf, size_t len, uint64_t block,
			const void *bytes, uint64_t block_len);
bool vdpa_vp_write_block(uint64_t offset, const uint8_t *buf, size_t len, uint64_t block,
			 void *bytes, uint64_t block_len);

/* Lay out header, BARs and capabilities; params and notify_len are set. */
void vdpa_vp_config_init(struct vp_function *vp);
/* Everything that can be written, as at power-on. */
void vdpa_vp_config_reset(struct vp_function *vp);

#endif /* VFIO_USER_FUNCTION_PRIV_H */
