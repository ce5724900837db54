/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Tables of several devices that serve one guest, as the core makes them. */

#ifndef MEM_SHARED_H
#define MEM_SHARED_H

#include "vdpa_memory.h"

/*
 * vdpa_iotlb_create() and vdpa_iotlb_add(), which share a region that one of n_others other tables
 * has mapped: same IOVA, front-end address, size, file and offset, and not asked for in order.
 */
int vdpa_iotlb_create_shared(const struct vdpa_iotlb *old, const struct vdpa_iotlb *const *others,
			     unsigned int n_others, const struct vdpa_mem_region_spec *specs,
			     unsigned int n, struct vdpa_iotlb **out);
int vdpa_iotlb_add_shared(const struct vdpa_iotlb *old, const struct vdpa_iotlb *const *others,
			  unsigned int n_others, const struct vdpa_mem_region_spec *spec,
			  struct vdpa_iotlb **out);

#endif /* MEM_SHARED_H */
