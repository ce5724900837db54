/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A relay of used buffers, a mover (mover.h): the device executes the guest's chains where they
 * lie, by the guest's own descriptors, and writes what it has used into a used ring of ours, from
 * where it goes to the guest's. So what the device has written is known before the guest sees it,
 * at 10 bytes a chain. Split rings only, of a device that can begin at the place where the guest's
 * ring stands: heads and indexes are the same on both sides, and so is the place at any moment.
 *
 * The avail ring that the device reads is ours too, though its entries are the guest's. Avail and
 * used ring carry each side's wish for notifications besides their entries. A device that read the
 * guest's would raise no interrupt while the guest polls its used ring, which is filled by us: we
 * would sleep on used buffers, and the guest on an interrupt. A guest that read in its used ring
 * what the device wished some time ago would leave out a kick. With two rings each side is asked
 * for what we need, and gets what the other needs, as the specification has it for two parties.
 *
 * Neither side is trusted: heads are checked before the device gets them, and what the device uses
 * against what is in flight (vdpa_vring.h). Lengths are checked, and written pages found, by the
 * guest's descriptors once a chain is used, each word read once. A guest that changes them
 * meanwhile changes what is known of its own pages, and no one else's.
 */

#ifndef VDPA_RELAY_H
#define VDPA_RELAY_H

#include "mover.h"

/*
 * Set up both sides; nothing moves yet. guest: split, without an inflight area. ring: the addresses
 * of avail and used ring alone are looked at (driver, device), of vdpa_ring_size() of the guest's
 * size; the device begins at the guest's place.
 * 0; -EINVAL or -EFAULT with vdpa_error_message() for a ring that cannot be (vdpa_vq_setup()),
 * -EOPNOTSUPP for a packed one or an inflight area; -ENOMEM.
 *
 * It ends by vdpa_mover_end(). Then the guest's ring stands where the device says that its own
 * does.
 */
int vdpa_relay_create(const struct vdpa_mover_params *params, struct vdpa_mover **out);

#endif /* VDPA_RELAY_H */
