/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A function like those of Marvell's Octeon DPUs, whose firmware emulates virtio in BAR 4 as far as
 * a public driver needs it; no silicon was seen.
 *
 *   0x0000 signature: 32 bits that say what it is, 32 bits that say that the firmware is ready
 *   0x0034 where the list of capabilities begins, which lies behind it; it has a capability of the
 *          vendor's that names the virtio device id. Configuration space names no structure.
 *   0x1000 common configuration; a selector is written with its bit 15 set, which the firmware
 *          clears when it has taken the value; until then registers are those of the one before.
 *          0x80 in the status resets, and nothing else does.
 *   0x2000 ISR status
 *   0x3000 device configuration, with a mailbox at 64
 *   0x4000 doorbells, each with 32 bits behind it that are set when the queue interrupts
 *
 * Firmware takes its time: each selector and each request of the mailbox is seen unfinished once,
 * so that a driver that does not look fails here. A queue is stopped by a 0 in queue_enable, which
 * is this model's assumption.
 */

#include <errno.h>
#include <string.h>
#include <time.h>

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <rte_bitops.h>
#include <rte_byteorder.h>
#include <rte_common.h>

#include "le_bytes.h"
#include "model_function.h"
#include "vdpa_args.h"
#include "vdpa_virtqueue.h"
#include "vfio_user_function_priv.h"

#define VENDOR_CAVIUM  0x177d
#define DEVICE_CN106K  0xb903 /* its virtual functions */
#define SIGNATURE_KIND 0xfeedfeedu
#define SIGNATURE_OK   0x3355ffaau
#define VECTORS_MAX    8
#define DOORBELL_STEP  8 /* a doorbell and its flag */

#define CAPS_LEN	256
#define CAP_VENDOR_LEN	16
#define CAP_VENDOR_ID	4 /* of the vendor, 16 bits */
#define CAP_VENDOR_WHAT 6 /* 0: the virtio device id is at the value */
#define CAP_VENDOR_VAL	8

#define SELECT_PENDING 0x8000u
#define STATUS_RESET   0x80

/* The mailbox. */
enum {
	MBOX = 64, /* in the device configuration */
	MBOX_ID = 2,
	MBOX_SIGNATURE = 6,
	MBOX_STATUS = 8,
	MBOX_DATA = 24, /* words: the queue, then its state */
	MBOX_LEN = MBOX_DATA + 3 * 4,
};
#define MBOX_SET_STATE 1u
#define MBOX_GET_STATE 2u
#define MBOX_REQUEST   0xdead
#define MBOX_RESPONSE  0xbeef
#define MBOX_DONE      1u
#define MBOX_ERROR(e)  ((uint32_t)(e) << 1 | MBOX_DONE)

#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S  UINT64_C(1000000000)

/* Something that the firmware has to do: seen unfinished `looks` times more, and not before due. */
struct job {
	bool pending;
	unsigned int looks;
	uint64_t due; /* nanoseconds, CLOCK_MONOTONIC */
};

struct selector {
	struct job job;
	uint16_t value; /* as it will be */
};

enum { DEVICE_FEATURES, DRIVER_FEATURES, QUEUE, N_SELECTORS };

static const struct {
	uint32_t at; /* in the common configuration */
	size_t len;
} selectors[N_SELECTORS] = {
	[DEVICE_FEATURES] = {VIRTIO_PCI_COMMON_DFSELECT, 4},
	[DRIVER_FEATURES] = {VIRTIO_PCI_COMMON_GFSELECT, 4},
	[QUEUE] = {VIRTIO_PCI_COMMON_Q_SELECT, 2},
};

struct octep {
	uint8_t caps[CAPS_LEN];
	struct selector selectors[N_SELECTORS];
	uint8_t mbox[MBOX_LEN];
	struct job request;
	bool counting;	/* ready_ms has begun */
	uint64_t ready; /* nanoseconds, CLOCK_MONOTONIC */
};

static uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void
begin(const struct vp_function *vp, struct job *job, bool late)
{
	uint64_t ms = 0;

	if (late)
		ms = __atomic_load_n(&model_function(vp)->delay_ms, __ATOMIC_RELAXED);
	*job = (struct job){.pending = true, .looks = 1, .due = now_ns() + ms * NS_PER_MS};
}

/* Whether it is over now: it was seen often enough, and its time has come. */
static bool
is_over(const struct vp_function *vp, struct job *job, uint32_t never)
{
	if (!job->pending || job->looks > 0 || vp_has_fault(vp, never) || now_ns() < job->due)
		return false;
	job->pending = false;
	return true;
}

static void
look(struct job *job)
{
	if (job->looks > 0)
		job->looks--;
}

/* The list of capabilities. */

static void
set_ids(uint32_t type, struct vp_ids *ids)
{
	*ids = (struct vp_ids){VENDOR_CAVIUM, DEVICE_CN106K, VENDOR_CAVIUM, DEVICE_CN106K};
}

static void
forget(struct octep *own)
{
	memset(own->selectors, 0, sizeof(own->selectors));
	memset(own->mbox, 0, sizeof(own->mbox));
	le_put32(own->mbox + MBOX_STATUS, MBOX_DONE);
	own->request = (struct job){0};
}

static int
init(struct vp_function *vp)
{
	struct octep *own = vp->own;
	uint8_t end = PCI_STD_HEADER_SIZEOF, at;

	if (vp->params.device_size > MBOX)
		return vdpa_error(EINVAL,
				  "octep: a device configuration of %zu bytes leaves no room for "
				  "the mailbox at %u",
				  vp->params.device_size, MBOX);
	if (vp->params.notify_mult < DOORBELL_STEP)
		return vdpa_error(EINVAL, "octep: doorbells with flags are %u bytes apart at least",
				  DOORBELL_STEP);
	at = vdpa_vp_add_cap(own->caps, &end, PCI_CAP_ID_VNDR, CAP_VENDOR_LEN);
	own->caps[at + VIRTIO_PCI_CAP_LEN] = CAP_VENDOR_LEN;
	own->caps[at + VIRTIO_PCI_CAP_CFG_TYPE] = 9;
	le_put16(own->caps + at + CAP_VENDOR_ID, VENDOR_CAVIUM);
	own->caps[at + CAP_VENDOR_WHAT] = 0;
	le_put32(own->caps + at + CAP_VENDOR_VAL, vp->params.device_id);
	vp->common_cap = vdpa_vp_add_virtio_caps(vp, own->caps, &end);
	forget(own);
	return 0;
}

/* The firmware starts with the function, and is looked for when somebody does. */
static void
reset(struct vp_function *vp, bool function)
{
	struct octep *own = vp->own;

	forget(own);
	if (function)
		own->counting = false;
}

static bool
is_ready(struct vp_function *vp)
{
	struct octep *own = vp->own;

	if (!own->counting) {
		own->counting = true;
		own->ready = now_ns() + model_function(vp)->ready_ms * NS_PER_MS;
	}
	return now_ns() >= own->ready;
}

static void
fill_caps(struct vp_function *vp, uint8_t caps[CAPS_LEN])
{
	const struct octep *own = vp->own;
	bool wrong = vp_has_fault(vp, MODEL_FAULT_BIT(WRONG_SIGNATURE));

	memcpy(caps, own->caps, CAPS_LEN);
	vdpa_vp_spoil_cap(vp, caps);
	le_put32(caps, wrong ? ~SIGNATURE_KIND : SIGNATURE_KIND);
	le_put32(caps + 4, is_ready(vp) ? SIGNATURE_OK : 0);
}

/* Selectors. */

static void
select_now(struct vp_function *vp, unsigned int which, uint16_t value)
{
	if (which == DEVICE_FEATURES)
		vp->device_feature_select = value;
	else if (which == DRIVER_FEATURES)
		vp->driver_feature_select = value;
	else
		vp->queue_select = value;
}

/* What is at an offset of the BAR, as an offset in the common configuration. */
static bool
in_common(const struct vp_function *vp, uint64_t offset, size_t len, uint64_t *at)
{
	uint64_t first = (uint64_t)vp->base + VP_COMMON_OFFSET;

	*at = offset - first;
	return offset >= first && *at + len <= VP_COMMON_LEN;
}

static bool
write_selector(struct vp_function *vp, uint64_t offset, const uint8_t *buf, size_t len)
{
	struct octep *own = vp->own;
	uint64_t at;

	if (!in_common(vp, offset, len, &at))
		return false;
	for (unsigned int i = 0; i < N_SELECTORS; i++) {
		uint16_t value;

		if (at != selectors[i].at || len != selectors[i].len)
			continue;
		value = le_get16(buf);
		/* Without the bit nothing tells the firmware of it. */
		if ((value & SELECT_PENDING) == 0)
			return true;
		own->selectors[i].value = (uint16_t)(value & ~SELECT_PENDING);
		begin(vp, &own->selectors[i].job, vp_has_fault(vp, MODEL_FAULT_BIT(SELECTOR_LATE)));
		return true;
	}
	return false;
}

static void
read_selectors(struct vp_function *vp, uint64_t offset, uint8_t *buf, size_t len)
{
	struct octep *own = vp->own;

	for (unsigned int i = 0; i < N_SELECTORS; i++) {
		struct selector *s = &own->selectors[i];
		uint32_t value = rte_cpu_to_le_32(s->value | SELECT_PENDING);
		uint64_t at = (uint64_t)vp->base + VP_COMMON_OFFSET + selectors[i].at;

		if (s->job.pending &&
		    vdpa_vp_read_block(offset, buf, len, at, &value, selectors[i].len))
			look(&s->job);
	}
}

/* The mailbox. */

/* A state as words: a split ring's index; of a packed one two positions, each with its wrap counter
 * in the lowest bit. */
static uint32_t
word_of(const struct vp_function *vp, const struct vdpa_vq_state *s)
{
	if ((vp->driver_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) == 0)
		return s->split.avail_index;
	return s->packed.last_avail_counter | (uint32_t)s->packed.last_avail_idx << 1 |
	       (uint32_t)s->packed.last_used_counter << 16 |
	       (uint32_t)s->packed.last_used_idx << 17;
}

static struct vdpa_vq_state
state_of(const struct vp_function *vp, uint32_t word)
{
	struct vdpa_vq_state s = {0};

	if ((vp->driver_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) == 0) {
		s.split.avail_index = (uint16_t)word;
		return s;
	}
	s.packed.last_avail_counter = word & 1;
	s.packed.last_avail_idx = word >> 1 & 0x7fff;
	s.packed.last_used_counter = word >> 16 & 1;
	s.packed.last_used_idx = (uint16_t)(word >> 17);
	return s;
}

/* 0 or a positive errno. */
static int
serve(struct vp_function *vp, uint8_t *mbox)
{
	const struct vp_ops *ops = vp->params.ops;
	uint32_t idx = le_get32(mbox + MBOX_DATA);
	uint8_t *word = mbox + MBOX_DATA + 4;
	struct vdpa_vq_state state = {0};
	int rc;

	if (vp_has_fault(vp, MODEL_FAULT_BIT(MAILBOX_ERROR)))
		return EIO;
	if (idx >= vp->params.nvqs)
		return EINVAL;
	switch (le_get16(mbox + MBOX_ID)) {
	case MBOX_SET_STATE:
		if (vp->queues[idx].enabled && (vp->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0)
			return EBUSY;
		state = state_of(vp, le_get32(word));
		ops->place_queue(vp->params.arg, (uint16_t)idx, &state);
		return 0;
	case MBOX_GET_STATE:
		rc = ops->queue_place(vp->params.arg, (uint16_t)idx, &state);
		le_put32(word, word_of(vp, &state));
		le_put32(word + 4, 0);
		return -rc;
	default:
		return EOPNOTSUPP;
	}
}

static void
settle(struct vp_function *vp)
{
	struct octep *own = vp->own;

	for (unsigned int i = 0; i < N_SELECTORS; i++)
		if (is_over(vp, &own->selectors[i].job, MODEL_FAULT_BIT(SELECTOR_NEVER)))
			select_now(vp, i, own->selectors[i].value);
	if (!is_over(vp, &own->request, MODEL_FAULT_BIT(MAILBOX_NEVER)))
		return;
	le_put32(own->mbox + MBOX_STATUS, MBOX_ERROR(serve(vp, own->mbox)));
	le_put16(own->mbox + MBOX_SIGNATURE, MBOX_RESPONSE);
}

static bool
write_mbox(struct vp_function *vp, uint64_t offset, const uint8_t *buf, size_t len)
{
	uint64_t mbox_at = (uint64_t)vp->base + VP_DEVICE_OFFSET + MBOX, at;
	struct octep *own = vp->own;
	size_t pos, n;

	if (!vdpa_vp_part_of(offset, len, mbox_at, MBOX_LEN, &at, &pos, &n))
		return false;
	memcpy(own->mbox + at, buf + pos, n);
	/* Free: what was asked before is forgotten, and a signature asks for nothing. */
	if ((le_get32(own->mbox + MBOX_STATUS) & MBOX_DONE) != 0) {
		own->request.pending = false;
		return true;
	}
	if (at < MBOX_SIGNATURE + sizeof(uint16_t) && at + n > MBOX_SIGNATURE &&
	    le_get16(own->mbox + MBOX_SIGNATURE) == MBOX_REQUEST && !own->request.pending)
		begin(vp, &own->request, vp_has_fault(vp, MODEL_FAULT_BIT(MAILBOX_LATE)));
	return true;
}

static void
own_read(struct vp_function *vp, unsigned int bar, uint64_t offset, uint8_t *buf, size_t len)
{
	uint64_t mbox_at = (uint64_t)vp->base + VP_DEVICE_OFFSET + MBOX;
	struct octep *own = vp->own;
	uint8_t caps[CAPS_LEN];

	if (bar != vp->bar)
		return;
	if (offset < CAPS_LEN) {
		fill_caps(vp, caps);
		vdpa_vp_read_block(offset, buf, len, 0, caps, sizeof(caps));
	}
	read_selectors(vp, offset, buf, len);
	if (vdpa_vp_read_block(offset, buf, len, mbox_at, own->mbox, sizeof(own->mbox)))
		look(&own->request);
}

static bool
own_write(struct vp_function *vp, unsigned int bar, uint64_t offset, const uint8_t *buf, size_t len)
{
	uint64_t at;

	if (bar != vp->bar)
		return false;
	/* Ignored as a reset that virtio has. */
	if (in_common(vp, offset, len, &at) && at == VIRTIO_PCI_COMMON_STATUS && len == 1 &&
	    buf[0] == 0)
		return true;
	return write_selector(vp, offset, buf, len) || write_mbox(vp, offset, buf, len);
}

const struct vp_kind vp_kind_octep = {
	.name = "octep",
	.ids = set_ids,
	.bar = VP_BAR_VIRTIO,
	.base = VP_PAGE,
	.caps_in_bar = true,
	.device_len = MBOX + MBOX_LEN,
	.features_on = RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM),
	.enable_stops = true,
	.reset_status = STATUS_RESET,
	.flags = true,
	.notify_shared = DOORBELL_STEP,
	.vectors_max = VECTORS_MAX,
	.own_size = sizeof(struct octep),
	.init = init,
	.reset = reset,
	.settle = settle,
	.own_read = own_read,
	.own_write = own_write,
};
