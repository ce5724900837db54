/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The kernel's side: an open /dev/vhost-vdpa-N and what can be asked of it. Knows no vDPA device of
 * ours. What the kernel, or the parent behind it, answers is checked here, once.
 *
 * A request lasts as long as the parent's driver does: Linux has no time-out for them, and none can
 * be interrupted. VDUSE's end after its own, 30 s unless msg_timeout says otherwise.
 *
 * Every function that can fail returns a negative errno with a message that names the parent;
 * -ENODEV once the file is closed.
 */

#ifndef VHOST_VDPA_KERNEL_H
#define VHOST_VDPA_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vdpa_bus.h"
#include "vdpa_virtqueue.h"

struct vv_kernel {
	const char *name; /* of the parent, for messages: the management device's */
	char path[VDPA_BUS_PATH_MAX];
	int fd;		  /* -1: closed */
	uint64_t backend; /* VHOST_BACKEND_F_* that both sides have */
};

/* What a parent is. */
struct vv_parent {
	uint32_t device_id;
	uint64_t features;
	uint32_t nvqs; /* a control queue is one of them */
	uint16_t num_max;
	uint32_t config_size;
	uint64_t iova_first, iova_last;
	uint32_t n_asids; /* 1 where it knows no others */
};

/* Open k->path and own it: -EBUSY where another process has it. The parent is reset. */
int vv_kernel_open(struct vv_kernel *k, const char *name);
void vv_kernel_close(struct vv_kernel *k);
bool vv_kernel_has(const struct vv_kernel *k, unsigned int backend_bit);
int vv_kernel_ask_parent(const struct vv_kernel *k, struct vv_parent *parent);

/* 0 where it cannot be read. */
uint8_t vv_kernel_get_status(const struct vv_kernel *k);
/* -EIO where the parent does not take a bit, or asks for a reset. 0 resets: -EIO where the status
 * does not become 0. */
int vv_kernel_set_status(const struct vv_kernel *k, uint8_t status);
int vv_kernel_set_features(const struct vv_kernel *k, uint64_t features);
int vv_kernel_suspend(const struct vv_kernel *k);
int vv_kernel_resume(const struct vv_kernel *k);

/* The configuration; offset + len is within it. */
int vv_kernel_get_config(const struct vv_kernel *k, size_t offset, void *buf, size_t len);
int vv_kernel_set_config(const struct vv_kernel *k, size_t offset, const void *buf, size_t len);
/* fd -1: none. */
int vv_kernel_set_config_call(const struct vv_kernel *k, int fd);

/* Virtqueues. */

/* How large it may be, at most num_max. */
int vv_kernel_vq_size(const struct vv_kernel *k, uint16_t idx, uint16_t num_max, uint16_t *size);
/* -EINVAL for a size that is no power of two, which Linux takes for no ring. */
int vv_kernel_set_vq_num(const struct vv_kernel *k, uint16_t idx, uint32_t num);
int vv_kernel_set_vq_address(const struct vv_kernel *k, uint16_t idx, uint64_t desc,
			     uint64_t driver, uint64_t device);
/* -EOPNOTSUPP for a place that the parent cannot load. */
int vv_kernel_set_vq_state(const struct vv_kernel *k, uint16_t idx, bool packed,
			   const struct vdpa_vq_state *state);
/* num: its size, beyond which no place lies. */
int vv_kernel_get_vq_state(const struct vv_kernel *k, uint16_t idx, bool packed, uint32_t num,
			   struct vdpa_vq_state *state);
int vv_kernel_set_vq_ready(const struct vv_kernel *k, uint16_t idx, bool ready);
/* fd -1: none. */
int vv_kernel_set_vq_kick(const struct vv_kernel *k, uint16_t idx, int fd);
int vv_kernel_set_vq_call(const struct vv_kernel *k, uint16_t idx, int fd);
/* The queue's doorbell, a page of which Linux lets nobody read; NULL: there is none. */
volatile uint16_t *vv_kernel_map_doorbell(const struct vv_kernel *k, uint16_t idx);
void vv_kernel_unmap_doorbell(volatile uint16_t *doorbell);

/* Groups of queues and address spaces, with VHOST_BACKEND_F_IOTLB_ASID. */

int vv_kernel_vq_group(const struct vv_kernel *k, uint16_t idx, uint32_t *group);
int vv_kernel_set_group_asid(const struct vv_kernel *k, uint32_t group, uint32_t asid);

/* IOTLB. asid 0 unless VHOST_BACKEND_F_IOTLB_ASID is there. */

/* Readable by the device, and writable unless it is read-only, from now on or from the end of the
 * batch. -ENOMEM, with RLIMIT_MEMLOCK in the message where that is it. */
int vv_kernel_map(const struct vv_kernel *k, uint32_t asid, uint64_t iova, uint64_t size,
		  const void *va, bool readonly);
int vv_kernel_unmap(const struct vv_kernel *k, uint32_t asid, uint64_t iova, uint64_t size);
/* No-ops without VHOST_BACKEND_F_IOTLB_BATCH. */
int vv_kernel_batch_begin(const struct vv_kernel *k, uint32_t asid);
int vv_kernel_batch_end(const struct vv_kernel *k, uint32_t asid);

#endif /* VHOST_VDPA_KERNEL_H */
