/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a guest's driver has set by the control queue of a device, such as MAC filters, VLANs and
 * the number of pairs, for the next process: a file in memory of two slots, of which one is in
 * force. The driver of the device says what it has on its own thread, after a command took effect
 * and before the command's used entry (vdpa_device_state_changed()). It writes the other slot, and
 * then the word that puts it in force: memory that is mapped, so that nobody waits for the store or
 * for its lock, and whenever the process is killed one whole state is in force. A command that was
 * noted and not used is executed once more, and sets what is set.
 *
 * What is in force is the device's state since its front end's driver has stopped it last: a stop
 * empties it, and so does a new connection. The next process loads it before it starts the device.
 * It is not believed: the file is checked here, and its bytes by the driver of the device.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <rte_bitops.h>
#include <rte_hash_crc.h>

#include "error_priv.h"
#include "kept_state.h"
#include "kept_wire.h"
#include "restart.h"
#include "vdpa_args.h"
#include "vdpa_consumer.h"
#include "vhost_user_priv.h"

#define STATE	 "state"
/* The length of a state that was too long. */
#define LOST	 UINT32_MAX
#define CRC_INIT 0xffffffffu

struct kept_state_slot {
	uint64_t seq;
	uint32_t len;
	uint32_t crc; /* of the two, and the state */
	uint8_t state[VDPA_STATE_MAX];
};

struct kept_state_file {
	/* The one in force is slot[current % 2], whose number it is. 0: there was none yet. */
	uint64_t current;
	struct kept_state_slot slot[2];
};

static bool
has_ctrl_vq(struct vdpa_device *vdev, uint64_t features)
{
	return vdpa_get_device_id(vdev) == VIRTIO_ID_NET &&
	       (features & RTE_BIT64(VIRTIO_NET_F_CTRL_VQ)) != 0;
}

/* By a driver that executes the commands in this process, and says what they have changed: a
 * function has it by itself, and its driver does not hear of it. */
static bool
can_be_kept(struct vdpa_device *vdev)
{
	return has_ctrl_vq(vdev, vdpa_get_device_features(vdev)) &&
	       vdev->config->save_state != NULL && vdev->config->load_state != NULL &&
	       vdev->config->can_restart != NULL && vdpa_device_tracks_inflight(vdev);
}

static uint32_t
crc_of(uint64_t seq, uint32_t len, const uint8_t *state)
{
	uint32_t crc = rte_hash_crc_8byte(seq, CRC_INIT);

	crc = rte_hash_crc_4byte(len, crc);
	return len <= VDPA_STATE_MAX ? rte_hash_crc(state, len, crc) : crc;
}

/* One at a time: the keeper's caller has a lock, and elsewhere no device runs. */
static void
put_in_force(struct vdpa_state_kept *k, const void *state, uint32_t len)
{
	struct kept_state_slot *slot = &k->file->slot[(k->seq + 1) % 2];

	slot->seq = ++k->seq;
	slot->len = len;
	if (len > 0 && len <= VDPA_STATE_MAX)
		memcpy(slot->state, state, len);
	slot->crc = crc_of(slot->seq, len, slot->state);
	VDPA_KEPT_SET(k->file->current, k->seq);
}

static void
keep(struct vdpa_state_keeper *keeper, const void *state, size_t len)
{
	struct vdpa_state_kept *k = RTE_PTR_SUB(keeper, offsetof(struct vdpa_state_kept, keeper));
	bool lost = len > VDPA_STATE_MAX;

	/* A stop at the end of the process is not the driver's. */
	if (state == NULL && (vdpa_restart_leaves() || vdpa_restart_holds()))
		return;
	__atomic_store_n(&k->lost, lost, __ATOMIC_RELAXED);
	put_in_force(k, state, lost ? LOST : (uint32_t)len);
}

static void
begin(struct vdpa_state_kept *k)
{
	k->file = (struct kept_state_file *)(void *)k->shm->addr;
	k->seq = __atomic_load_n(&k->file->current, __ATOMIC_ACQUIRE);
	k->keeper.keep = keep;
	vdpa_device_set_state_keeper(k->vdev, &k->keeper);
}

int
vdpa_kept_state_make(struct vdpa_state_kept *k, struct vdpa_device *vdev)
{
	int rc;

	k->vdev = vdev;
	if (!can_be_kept(vdev))
		return 0;
	rc = vdpa_kept_file_make(vdev->name, STATE, sizeof(*k->file), &k->shm);
	if (rc == 0)
		begin(k);
	return rc;
}

int
vdpa_kept_state_take(struct vdpa_state_kept *k, struct vdpa_device *vdev)
{
	int rc;

	k->vdev = vdev;
	if (!can_be_kept(vdev))
		return 0;
	rc = vdpa_kept_file_take(vdev->name, STATE, sizeof(*k->file), &k->shm);
	if (rc == -ENOENT) {
		k->missing = true;
		return vdpa_kept_state_make(k, vdev);
	}
	if (rc == 0)
		begin(k);
	return rc;
}

void
vdpa_kept_state_drop(struct vdpa_state_kept *k)
{
	if (k->shm != NULL)
		vdpa_device_set_state_keeper(k->vdev, NULL);
	vdpa_vhu_shm_unmap(k->shm);
	*k = (struct vdpa_state_kept){0};
}

const char *
vdpa_kept_state_why_cold(const struct vdpa_state_kept *k, struct vdpa_device *vdev,
			 uint64_t features)
{
	if (!has_ctrl_vq(vdev, features))
		return NULL;
	if (k->shm == NULL)
		return "the device has its control queue, and what was set by that ends with the "
		       "process";
	return __atomic_load_n(&k->lost, __ATOMIC_RELAXED)
		       ? "what was set by its control queue is too long to be kept"
		       : NULL;
}

bool
vdpa_kept_state_counts(const struct vdpa_state_kept *k, struct vdpa_device *vdev, uint64_t features)
{
	return k->shm != NULL && has_ctrl_vq(vdev, features);
}

void
vdpa_kept_state_clear(struct vdpa_state_kept *k)
{
	if (k->shm == NULL)
		return;
	__atomic_store_n(&k->lost, false, __ATOMIC_RELAXED);
	put_in_force(k, NULL, 0);
	k->missing = false;
}

/* A copy of what is in force, which nobody else can change. */
static int
read_state(const struct vdpa_state_kept *k, uint8_t state[VDPA_STATE_MAX], size_t *len)
{
	uint64_t current = __atomic_load_n(&k->file->current, __ATOMIC_ACQUIRE);
	const struct kept_state_slot *slot = &k->file->slot[current % 2];
	uint32_t n = __atomic_load_n(&slot->len, __ATOMIC_RELAXED);

	*len = 0;
	if (current == 0)
		return 0;
	if (n == LOST)
		return vdpa_error(EPROTO,
				  "what was set by its control queue was too long to be kept");
	if (n <= VDPA_STATE_MAX)
		memcpy(state, slot->state, n);
	if (n > VDPA_STATE_MAX || slot->seq != current || slot->crc != crc_of(current, n, state))
		return vdpa_error(EPROTO, "what was kept of its control queue does not check");
	*len = n;
	return 0;
}

static int
load(struct vdpa_state_kept *k, struct vdpa_consumer *c)
{
	uint8_t *state = malloc(VDPA_STATE_MAX);
	char why[VDPA_ERROR_MAX];
	size_t len = 0;
	int rc = state == NULL ? vdpa_error(ENOMEM, "out of memory") : read_state(k, state, &len);

	if (rc == 0 && len > 0) {
		rc = vdpa_consumer_resume_state(c, state, len);
		if (rc < 0) {
			snprintf(why, sizeof(why), "%s",
				 vdpa_error_cause(vdpa_error_message(), k->vdev->name, -1));
			rc = vdpa_error(rc, "what was set by its control queue does not load: %s",
					why);
		}
	}
	free(state);
	return rc;
}

int
vdpa_kept_state_apply(struct vdpa_state_kept *k, struct vdpa_device *vdev, struct vdpa_consumer *c,
		      uint64_t features, bool has_run)
{
	if (k->shm == NULL && has_run && has_ctrl_vq(vdev, features))
		return vdpa_error(EPROTO, "what was set by its control queue cannot be kept here");
	if (k->shm == NULL)
		return 0;
	if (!has_run || !has_ctrl_vq(k->vdev, features)) {
		vdpa_kept_state_clear(k);
		return 0;
	}
	if (k->missing)
		return vdpa_error(EPROTO, "what was set by its control queue was not kept");
	return load(k, c);
}
