/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A function like Intel's ifcvf: virtio, whose structures lie in BAR 0, and in BAR 4 a block of
 * registers for live migration. Where the block lies and what its registers are called is known
 * from public drivers; no silicon was seen. What is this model's own is said here and in
 * doc/guide-model.dev:
 *
 *   0x00 control      bit 0: the function logs. Writing it takes log start and end over.
 *   0x08 status       bit 0: what control asks for is not in effect, for want of such memory
 *   0x10 log start    64 bits, the IOVA of a bitmap: bit n of it is the page of 4 KiB at n << 12
 *   0x18 log end      64 bits, the IOVA behind it; pages past that are not logged
 *   0x20 ring state   where a queue begins, written while it stands still; and where it stands
 *
 * The ring state has two layouts, by PCI ids. Of 32 bits a queue, the lower half is the next avail
 * entry and the upper half the used index, which is written by drivers and looked up in the ring by
 * the function; of 16 bits, the avail index. The index of a running queue is how far its ring was
 * used. A queue is stopped by a 0 in queue_enable. Packed rings have no room there: they are not
 * offered, and neither is VIRTIO_F_RING_RESET, which those functions are older than.
 */

#include <errno.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <rte_bitops.h>
#include <rte_byteorder.h>
#include <rte_common.h>

#include "vdpa_virtqueue.h"
#include "model_function.h"
#include "vfio_user_function_priv.h"

#define VENDOR_VIRTIO 0x1af4
#define VENDOR_INTEL  0x8086
#define QUEUE_MIN     64

#define LM_BAR 4u
enum {
	LM_CONTROL = 0x00,
	LM_STATUS = 0x08,
	LM_LOG = 0x10, /* start and end */
	LM_RING_STATE = 0x20,
};
#define CONTROL_LOG    1u
#define STATUS_PENDING 1u

/* The registers that are kept. */
struct ifcvf {
	uint32_t control;
	uint64_t log[2]; /* start, end; little endian */
	bool pairs;	 /* the layout of the ring state */
};

/* What the ids of public drivers have. */
static const struct {
	struct vp_ids ids;
	uint32_t type;
	bool pairs;
} functions[] = {
	{{VENDOR_VIRTIO, 0x1041, VENDOR_INTEL, 0x001a}, VIRTIO_ID_NET, true},
	{{VENDOR_VIRTIO, 0x1000, VENDOR_INTEL, 0x0001}, VIRTIO_ID_NET, false},
	{{VENDOR_VIRTIO, 0x1001, VENDOR_INTEL, 0x0002}, VIRTIO_ID_BLOCK, false},
};

static void
set_ids(uint32_t type, struct vp_ids *ids)
{
	for (unsigned int i = 0; i < RTE_DIM(functions); i++)
		if (functions[i].type == type) {
			*ids = functions[i].ids;
			return;
		}
	ids->sub_vendor = VENDOR_INTEL;
}

/* Where a queue's register is, and its width. */
static uint64_t
state_at(bool pairs, uint16_t idx)
{
	return LM_RING_STATE + (pairs ? idx / 2u * 0x40u + idx % 2u * 4u : idx * 4u);
}

static size_t
state_len(bool pairs)
{
	return pairs ? sizeof(uint32_t) : sizeof(uint16_t);
}

static uint64_t
bar_size(const struct vp_function *vp)
{
	uint16_t last = (uint16_t)(vp->params.nvqs - 1);

	return RTE_MAX(state_at(true, last), state_at(false, last)) + sizeof(uint32_t);
}

static int
init(struct vp_function *vp)
{
	struct ifcvf *own = vp->own;

	own->pairs = model_function(vp)->ring_state != MODEL_RING_STATE_QUEUE;
	if (model_function(vp)->ring_state != MODEL_RING_STATE_BY_ID)
		return 0;
	for (unsigned int i = 0; i < RTE_DIM(functions); i++)
		if (functions[i].ids.device == vp->ids.device)
			own->pairs = functions[i].pairs;
	return 0;
}

/* The owner has stopped logging. */
static void
reset(struct vp_function *vp, bool function)
{
	struct ifcvf *own = vp->own;

	own->control = 0;
	memset(own->log, 0, sizeof(own->log));
}

static uint32_t
ring_state(struct vp_function *vp, uint16_t idx)
{
	struct vdpa_vq_state state = {0};

	if (vp->params.ops->queue_place(vp->params.arg, idx, &state) < 0)
		return 0;
	/* What was taken was used: nothing is in flight in a queue that stands still. */
	return state.split.avail_index | (uint32_t)state.split.avail_index << 16;
}

static void
own_read(struct vp_function *vp, unsigned int bar, uint64_t offset, uint8_t *buf, size_t len)
{
	const struct ifcvf *own = vp->own;
	uint32_t control = rte_cpu_to_le_32(own->control), status;

	if (bar != LM_BAR)
		return;
	status = vp->params.ops->log_is_pending(vp->params.arg) ? STATUS_PENDING : 0;
	status = rte_cpu_to_le_32(status);
	vdpa_vp_read_block(offset, buf, len, LM_CONTROL, &control, sizeof(control));
	vdpa_vp_read_block(offset, buf, len, LM_STATUS, &status, sizeof(status));
	vdpa_vp_read_block(offset, buf, len, LM_LOG, own->log, sizeof(own->log));
	for (uint16_t i = 0; i < vp->params.nvqs && state_at(own->pairs, i) < offset + len; i++) {
		uint64_t at = state_at(own->pairs, i), n = state_len(own->pairs);
		uint32_t state;

		if (at + n <= offset)
			continue;
		state = rte_cpu_to_le_32(ring_state(vp, i));
		vdpa_vp_read_block(offset, buf, len, at, &state, n);
	}
}

/* A register of a queue is written as a whole, or of a wide one the avail index alone. */
static void
write_state(struct vp_function *vp, uint64_t offset, const uint8_t *buf, size_t len)
{
	const struct ifcvf *own = vp->own;
	struct vdpa_vq_state state = {0};
	uint16_t value;

	if (len != sizeof(value) && len != state_len(own->pairs))
		return;
	memcpy(&value, buf, sizeof(value));
	state.split.avail_index = rte_le_to_cpu_16(value);
	for (uint16_t i = 0; i < vp->params.nvqs; i++)
		if (state_at(own->pairs, i) == offset)
			vp->params.ops->place_queue(vp->params.arg, i, &state);
}

static bool
own_write(struct vp_function *vp, unsigned int bar, uint64_t offset, const uint8_t *buf, size_t len)
{
	struct ifcvf *own = vp->own;
	uint32_t control = rte_cpu_to_le_32(own->control);

	if (bar != LM_BAR)
		return false;
	vdpa_vp_write_block(offset, buf, len, LM_LOG, own->log, sizeof(own->log));
	if (vdpa_vp_write_block(offset, buf, len, LM_CONTROL, &control, sizeof(control))) {
		own->control = rte_le_to_cpu_32(control);
		vp->params.ops->set_log(vp->params.arg, (own->control & CONTROL_LOG) != 0,
					rte_le_to_cpu_64(own->log[0]),
					rte_le_to_cpu_64(own->log[1]));
	}
	if (offset >= LM_RING_STATE)
		write_state(vp, offset, buf, len);
	return true;
}

const struct vp_kind vp_kind_ifcvf = {
	.name = "ifcvf",
	.ids = set_ids,
	.bar = 0,
	.features_off = RTE_BIT64(VIRTIO_F_RING_PACKED) | RTE_BIT64(VIRTIO_F_RING_RESET),
	.features_on = RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM),
	.features_needed = RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM),
	.queue_size_min = QUEUE_MIN,
	.enable_stops = true,
	.own_bar = LM_BAR,
	.own_bar_size = bar_size,
	.own_size = sizeof(struct ifcvf),
	.init = init,
	.reset = reset,
	.own_read = own_read,
	.own_write = own_write,
};
