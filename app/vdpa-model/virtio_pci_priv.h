/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Between virtio_pci.c, the BARs, virtio_pci_config.c, the configuration space, and function_*.c,
 * the kinds. */

#ifndef MODEL_VIRTIO_PCI_PRIV_H
#define MODEL_VIRTIO_PCI_PRIV_H

#include "virtio_pci.h"

/* Add the capabilities of virtio's structures to the list of a space of 256 bytes, from *end on;
 * where that of the common configuration is. */
uint8_t vp_add_virtio_caps(const struct vp_function *vp, uint8_t *space, uint8_t *end);
/* A capability, first in that list, with id and next filled in; where it is. */
uint8_t vp_add_cap(uint8_t *space, uint8_t *end, uint8_t id, uint8_t len);
/* The common configuration's capability in that space, as the fault bad_capability has it. */
void vp_spoil_cap(const struct vp_function *vp, uint8_t *space);

/*
 * The part of [offset, offset + len) that lies in a block of registers: where in the block, and
 * where in the buffer. false: none does.
 */
bool vp_part_of(uint64_t offset, size_t len, uint64_t block, uint64_t block_len, uint64_t *in_block,
		size_t *in_buf, size_t *n);
/* What of a register block that is kept as bytes lies in an access, copied out of it or into it;
 * false: nothing does. */
bool vp_read_block(uint64_t offset, uint8_t *buf, size_t len, uint64_t block, const void *bytes,
		   uint64_t block_len);
bool vp_write_block(uint64_t offset, const uint8_t *buf, size_t len, uint64_t block, void *bytes,
		    uint64_t block_len);

/* Lay out header, BARs and capabilities; params and notify_len are set. */
void vp_config_init(struct vp_function *vp);
/* Everything that can be written, as at power-on. */
void vp_config_reset(struct vp_function *vp);

#endif /* MODEL_VIRTIO_PCI_PRIV_H */
