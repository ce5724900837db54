/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A guest without a virtual machine, for unit tests of drivers: memory, rings in it, eventfds, and
 * what vdpa_device_start() is given. Nobody fills the rings. Include it after cmocka.h.
 */

#ifndef FAKE_GUEST_H
#define FAKE_GUEST_H

#include "vdpa_frontend.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FAKE_GUEST_VQS	   12
#define FAKE_GUEST_IOVA	   UINT64_C(0x100000) /* where its memory begins */
#define FAKE_GUEST_SIZE	   UINT64_C(0x200000) /* bytes of it */
#define FAKE_GUEST_VQ_STEP UINT64_C(0x4000)   /* bytes from one queue's rings to the next's */
#define FAKE_GUEST_VQ_NUM  64

struct fake_guest {
	int mem_fd;
	struct vdpa_iotlb *tlb;
	int call[FAKE_GUEST_VQS], kick[FAKE_GUEST_VQS];
	struct vdpa_vq_config vqs[FAKE_GUEST_VQS];
	struct vdpa_start_config start; /* points to tlb and vqs; nvqs is 0 */
};

/* Memory, and queues of 64 entries set up in it, none of them ready; VIRTIO_F_VERSION_1 is to be
 * negotiated. */
void fake_guest_init(struct fake_guest *g);
/* Close and free what init made. No device has the memory any more. */
void fake_guest_fini(struct fake_guest *g);

/* The next start has this many queues. */
void fake_guest_set_queues(struct fake_guest *g, uint16_t nvqs);
/* Start the device as g->start says, packed rings with wrap counters of 1. It must succeed. */
void fake_guest_start(struct fake_guest *g, struct vdpa_device *vdev);
/* Take the memory away from a device that stands still, as the end of a connection does. */
void fake_guest_leave(struct vdpa_device *vdev);

#ifdef __cplusplus
}
#endif

#endif /* FAKE_GUEST_H */
