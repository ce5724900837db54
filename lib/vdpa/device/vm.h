/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Virtual machines: which devices serve one guest, as the word `vm NAME` of `dev add` says. Nothing
 * is guessed from files or processes. A VM begins with the first device that names it and ends with
 * the last.
 *
 * Devices of one VM have front ends of one uid, since each of them reaches the memory that
 * another's front end has given, and memory tables that do not contradict each other. A region that
 * one of them has mapped in this process is mapped once for all.
 *
 * Two locks, both inside those of consumers and devices: that of the registry, for names, members
 * and uids, is held for a few instructions; that of a VM's tables over the mmap() of a region too.
 */

#ifndef VDPA_VM_H
#define VDPA_VM_H

#include "vdpa_memory.h"
#include "vdpa_peer.h"

/* A device of a VM. */
struct vdpa_vm_member;

/*
 * The device joins the VM of that name. 0; -EINVAL for a name that is none; -ENOMEM. From any
 * thread, as all of these.
 */
int vdpa_vm_join(const char *vm, const char *device, struct vdpa_vm_member **out);
/* The device is gone, and so are its front end and its table. NULL: no-op. */
void vdpa_vm_leave(struct vdpa_vm_member *m);

/* -EINVAL with a message for a name that no VM can have. */
int vdpa_vm_check_name(const char *vm);
const char *vdpa_vm_name(const struct vdpa_vm_member *m);
/* How many devices the VM has. */
unsigned int vdpa_vm_devices(const struct vdpa_vm_member *m);

/*
 * Whether the front end of this process may come to the device; notes nothing. -EACCES for one
 * whose user is not known, and, with a message that names the VM and both uids, while another
 * device of the VM has one of another user.
 */
int vdpa_vm_admit(struct vdpa_vm_member *m, const struct vdpa_peer *peer);
/* The same, and it is the device's from now on. */
int vdpa_vm_peer_comes(struct vdpa_vm_member *m, const struct vdpa_peer *peer);
/* It has gone, or none came. */
void vdpa_vm_peer_goes(struct vdpa_vm_member *m);

/* Its front end's connection has ended: its table goes as soon as the device has stopped. Waits for
 * nothing. */
void vdpa_vm_peer_leaves(struct vdpa_vm_member *m);

/*
 * vdpa_iotlb_create() and vdpa_iotlb_add() for a device of a VM: what another device of it has
 * mapped is shared. The table is the device's next until vdpa_vm_table_settle(). -EBUSY with a
 * message that names the other device for memory that contradicts its table; where only devices
 * whose front ends leave are in the way, they wait for them, VDPA_VM_LEAVE_MS at most. So not from
 * a thread that others need.
 */
#define VDPA_VM_LEAVE_MS 2000
int vdpa_vm_table_create(struct vdpa_vm_member *m, const struct vdpa_iotlb *old,
			 const struct vdpa_mem_region_spec *specs, unsigned int n,
			 struct vdpa_iotlb **out);
int vdpa_vm_table_add(struct vdpa_vm_member *m, const struct vdpa_iotlb *old,
		      const struct vdpa_mem_region_spec *spec, struct vdpa_iotlb **out);
/* The same without a proposal: a table that is only made, by steps that nobody is to hear of; */
int vdpa_vm_table_build(struct vdpa_vm_member *m, const struct vdpa_iotlb *old,
			const struct vdpa_mem_region_spec *specs, unsigned int n,
			struct vdpa_iotlb **out);
int vdpa_vm_table_grow(struct vdpa_vm_member *m, const struct vdpa_iotlb *old,
		       const struct vdpa_mem_region_spec *spec, struct vdpa_iotlb **out);
/* and the proposal, of one that was made so. -EBUSY as above. */
int vdpa_vm_table_propose(struct vdpa_vm_member *m, struct vdpa_iotlb *tlb);
/* The device's table from now on, be it the next one or the one before; NULL: none. */
void vdpa_vm_table_settle(struct vdpa_vm_member *m, struct vdpa_iotlb *tlb);

#endif /* VDPA_VM_H */
