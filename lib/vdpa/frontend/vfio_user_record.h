/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The record of a vfio-user connection in the journal: the function's registers, what its client
 * has mapped and asked for, and where queues began, as of the last message that changed any of it.
 * vfio_user_record.c.
 */

#ifndef VFIO_USER_RECORD_H
#define VFIO_USER_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kept_wire.h"
#include "vdpa_consumer.h"
#include "vfio_user_dma.h"

struct vfu_device;

/* Writes of different places of the configuration that are remembered, and their bytes. */
#define VFU_KEPT_CONFIGS    4
#define VFU_KEPT_CONFIG_MAX 64

struct vfu_kept_config {
	uint32_t offset, len;
	uint8_t data[VFU_KEPT_CONFIG_MAX];
};

/* A queue that the device has been told of. */
struct vfu_record_queue {
	bool told;
	bool runs;     /* else it stands still, where base says */
	bool has_base; /* else it began at the beginning */
	uint32_t base; /* as vdpa_consumer_set_vq_base() has it */
};

/* A record, as it was read: checked for its form. */
struct vfu_record {
	uint8_t *bytes;
	bool has_listener, has_connection, version_done;
	struct {
		uint64_t dev, ino;
	} listener;
	char cold[256]; /* why the connection does not go on; "": it does */
	uint64_t serial, done;
	const uint8_t *registers; /* in bytes */
	size_t registers_len;
	struct vfu_record_queue queues[VDPA_VQ_MAX];
	bool msix_on, intx_masked;
	vdpa_wire_id intx;
	const uint8_t *vectors; /* in bytes: n_vectors ids */
	unsigned int n_vectors;
	vdpa_wire_id files[VFU_DMA_FILES_MAX];
	unsigned int n_files;
	const uint8_t *ranges; /* in bytes */
	unsigned int n_ranges;
	struct vfu_kept_config configs[VFU_KEPT_CONFIGS];
	unsigned int n_configs;
};

/* Errors are negative, with vdpa_error_message(). */

/* Write the device's record: of its connection, where there is one. */
int vdpa_vfus_record_write(struct vfu_device *dev);
/* Whether registers, interrupts or queues are others than those in the last one that was written.
 */
bool vdpa_vfus_record_is_old(struct vfu_device *dev);

/* What a former process has written, to be freed by the second. -ENOENT: nothing. NULL: no-op. */
int vdpa_vfus_record_read(struct vfu_device *dev, struct vfu_record **record);
void vdpa_vfus_record_free(struct vfu_record *record);
/* Bring a function whose client has just connected to what a record says; then start it, if it ran.
 */
int vdpa_vfus_record_apply(struct vfu_device *dev, const struct vfu_record *record);
int vdpa_vfus_record_start(struct vfu_device *dev);

#endif /* VFIO_USER_RECORD_H */
