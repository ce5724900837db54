/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Frames of a net device (virtio 1.2, 5.1.6). A frame names its lane and number, and its payload
 * follows from them: what a loopback device returns is checked to the last byte and in order.
 */

#include <string.h>

#include <linux/virtio_net.h>
#include <rte_byteorder.h>

#include <vdpa.h>

#include "traffic.h"

#define HEADER_LEN  sizeof(struct virtio_net_hdr_mrg_rxbuf)
#define ETHER_LEN   14u
#define FRAME_MIN   60u
#define FRAME_MAX   1514u
/* IEEE Std 802, local experimental EtherType 1. */
#define ETHERTYPE   0x88b5
#define FRAME_MAGIC 0x76647061u
/* How long the first frame of a run has to come back. */
#define ECHO_MS	    500u

struct frame {
	uint8_t dst[6], src[6];
	uint16_t type; /* big-endian */
	uint16_t lane;
	uint32_t magic;
	uint32_t len;
	uint64_t seq;
} __attribute__((packed));

_Static_assert(sizeof(struct frame) == 32, "frame head");

static uint64_t
seed_of(const struct traffic *x, const struct lane *l, uint64_t seq)
{
	return x->r->seed ^ (uint64_t)l->number << 48 ^ seq;
}

static int
net_begin(struct traffic *x)
{
	const struct target *t = x->s->t;
	int rc;

	x->tag = (uint32_t)now_ns();
	memset(x->mac, 0xff, sizeof(x->mac));
	if (t->config_size < sizeof(x->mac) || !target_has(t, VIRTIO_NET_F_MAC))
		return 0;
	rc = t->ops->get_config(x->s->t, 0, x->mac, sizeof(x->mac));
	return rc < 0 ? run_failed_call(x->r, rc, "the MAC address cannot be read") : 0;
}

/* Cut [offset, offset + len) of a slot into n buffers. */
static unsigned int
cut(uint64_t iova, uint32_t len, unsigned int n, bool write, struct ring_buf *bufs)
{
	unsigned int made = 0;

	for (uint32_t at = 0; at < len; made++) {
		uint32_t part = made + 1 == n ? len - at : (len + n - 1) / n;

		if (part > len - at)
			part = len - at;
		bufs[made] = (struct ring_buf){.iova = iova + at, .len = part, .write = write};
		at += part;
	}
	return made;
}

static unsigned int
net_make(struct traffic *x, struct lane *l, uint32_t slot, uint64_t seq, struct ring_buf *bufs)
{
	uint64_t iova = slot_iova(x->s, l->tx, slot);
	uint8_t *va = slot_va(x->s, l->tx, slot);
	uint32_t len = x->size != 0
			       ? x->size
			       : FRAME_MIN + (uint32_t)(seq * 61 % (FRAME_MAX - FRAME_MIN + 1));
	unsigned int parts = x->parts != 0 ? x->parts : 1 + (unsigned int)(seq % 4);
	/* The header by itself, or in one piece with the frame. */
	bool apart = x->indirect || parts > 1 || seq % 8 >= 4;
	struct frame head = {.src = {0x02, 'v', 'd', 'p', 'a', (uint8_t)l->number},
			     .type = rte_cpu_to_be_16(ETHERTYPE),
			     .lane = l->number,
			     .magic = FRAME_MAGIC ^ x->tag,
			     .len = len,
			     .seq = seq};

	memset(va, SLOT_GUARD_BYTE, x->s->slot_size);
	memcpy(head.dst, x->mac, sizeof(head.dst));
	memcpy(va + SLOT_DATA, &head, sizeof(head));
	pattern_fill(va + SLOT_DATA + sizeof(head), len - (uint32_t)sizeof(head),
		     seed_of(x, l, seq));
	if (!apart) {
		memset(va + SLOT_DATA - HEADER_LEN, 0, HEADER_LEN);
		bufs[0] = (struct ring_buf){.iova = iova + SLOT_DATA - HEADER_LEN,
					    .len = (uint32_t)HEADER_LEN + len};
		return 1;
	}
	memset(va + SLOT_HEADER, 0, HEADER_LEN);
	bufs[0] = (struct ring_buf){.iova = iova + SLOT_HEADER, .len = HEADER_LEN};
	return 1 + cut(iova + SLOT_DATA, len, parts, false, bufs + 1);
}

static int
net_check(struct traffic *x, struct lane *l, uint32_t slot, uint32_t len)
{
	uint32_t where;

	if (!slot_unchanged_but(x->s, l->tx, slot, NULL, 0, &where))
		return run_fail(x->r,
				"queue %u: the device wrote into a frame to send, at byte %u "
				"of its buffer",
				l->tx->idx, where);
	return 0;
}

/* Even slots take header and frame in one buffer, odd ones the header apart. */
static bool
header_apart(uint32_t slot)
{
	return slot % 2 == 1;
}

static unsigned int
net_make_rx(struct traffic *x, struct lane *l, uint32_t slot, struct ring_buf *bufs)
{
	uint64_t iova = slot_iova(x->s, l->rx, slot);

	memset(slot_va(x->s, l->rx, slot), SLOT_GUARD_BYTE, x->s->slot_size);
	if (!header_apart(slot)) {
		bufs[0] = (struct ring_buf){.iova = iova + SLOT_DATA - HEADER_LEN,
					    .len = (uint32_t)HEADER_LEN + x->s->rx_room,
					    .write = true};
		return 1;
	}
	bufs[0] = (struct ring_buf){.iova = iova + SLOT_HEADER, .len = HEADER_LEN, .write = true};
	bufs[1] = (struct ring_buf){.iova = iova + SLOT_DATA, .len = x->s->rx_room, .write = true};
	return 2;
}

/* The frame is complete in l->frame. */
static int
check_frame(struct traffic *x, struct lane *l)
{
	uint32_t len = l->frame_len, at;
	struct frame head;

	if (len < ETHER_LEN)
		return run_fail(x->r, "queue %u: a frame of %u bytes", l->rx->idx, len);
	memcpy(&head, l->frame, sizeof(head));
	if (len < sizeof(head) || head.type != rte_cpu_to_be_16(ETHERTYPE) ||
	    head.magic != (FRAME_MAGIC ^ x->tag)) {
		l->foreign++;
		return 0;
	}
	if (!x->echo && head.lane != l->number) {
		l->foreign++;
		return 0;
	}
	if (head.lane != l->number)
		return run_fail(x->r, "queue %u: frame %llu of pair %u came on pair %u", l->rx->idx,
				(unsigned long long)head.seq, head.lane, l->number);
	/* Where frames need not all come back some may be missing, and none comes twice. */
	if (!x->echo && head.seq > l->received)
		l->received = head.seq;
	if (head.seq != l->received)
		return run_fail(x->r, "queue %u: frame %llu came, expected is %llu: %s", l->rx->idx,
				(unsigned long long)head.seq, (unsigned long long)l->received,
				head.seq < l->received ? "sent twice or late" : "one is lost");
	if (head.len != len)
		return run_fail(x->r, "queue %u: frame %llu of %u bytes came back with %u",
				l->rx->idx, (unsigned long long)head.seq, head.len, len);
	at = pattern_check(l->frame + sizeof(head), len - (uint32_t)sizeof(head),
			   seed_of(x, l, head.seq));
	if (at != len - sizeof(head))
		return run_fail(x->r, "queue %u: frame %llu of %u bytes: byte %u is wrong",
				l->rx->idx, (unsigned long long)head.seq, len,
				at + (uint32_t)sizeof(head));
	l->received++;
	return 0;
}

static int
net_check_rx(struct traffic *x, struct lane *l, uint32_t slot, uint32_t len)
{
	const bool apart = header_apart(slot);
	const struct slot_range written[] = {
		{apart ? SLOT_HEADER : SLOT_DATA - (uint32_t)HEADER_LEN, HEADER_LEN},
		{SLOT_DATA, x->s->rx_room},
	};
	const uint8_t *va = slot_va(x->s, l->rx, slot);
	struct virtio_net_hdr_mrg_rxbuf hdr;
	uint32_t where, skip = 0;

	if (!slot_unchanged_but(x->s, l->rx, slot, written, 2, &where))
		return run_fail(x->r,
				"queue %u: the device wrote outside the buffer it was given, %d "
				"bytes from its start",
				l->rx->idx, (int)where - (int)SLOT_DATA);
	if (l->merge_left == 0) {
		if (len < HEADER_LEN)
			return run_fail(x->r, "queue %u: %u bytes received, less than a header",
					l->rx->idx, len);
		memcpy(&hdr, va + written[0].offset, sizeof(hdr));
		if (hdr.hdr.flags != 0 || hdr.hdr.gso_type != VIRTIO_NET_HDR_GSO_NONE)
			return run_fail(x->r,
					"queue %u: header with flags 0x%x and gso type %u, "
					"which were not negotiated",
					l->rx->idx, hdr.hdr.flags, hdr.hdr.gso_type);
		l->merge_left = 1;
		if (x->s->params.flags & SESSION_MERGEABLE)
			l->merge_left = rte_le_to_cpu_16(hdr.num_buffers);
		if (l->merge_left == 0)
			return run_fail(x->r, "queue %u: header with num_buffers 0", l->rx->idx);
		l->frame_len = 0;
		skip = HEADER_LEN;
	}
	/* What is in the buffer, in the order of its descriptors. */
	for (uint32_t at = skip; at < len;) {
		uint32_t from = at < HEADER_LEN ? written[0].offset + at
						: SLOT_DATA + (at - (uint32_t)HEADER_LEN);
		uint32_t n = at < HEADER_LEN ? (uint32_t)HEADER_LEN - at : len - at;

		if (n > len - at)
			n = len - at;
		if (l->frame_len + n > sizeof(l->frame))
			return run_fail(x->r, "queue %u: a frame of more than %zu bytes",
					l->rx->idx, sizeof(l->frame));
		memcpy(l->frame + l->frame_len, va + from, n);
		l->frame_len += n;
		at += n;
	}
	return --l->merge_left == 0 ? check_frame(x, l) : 0;
}

const struct traffic_kind traffic_net = {
	.begin = net_begin,
	.make = net_make,
	.check = net_check,
	.make_rx = net_make_rx,
	.check_rx = net_check_rx,
};

int
traffic_probe_echo(struct run *r)
{
	const struct session_params params = {.n = 2};
	struct traffic x = {.units = 1, .depth = 1};
	struct session s;
	uint64_t end;
	int rc;

	if (r->echo_known || r->t->device_id != TARGET_NET)
		return 0;
	if (r->echo_expected) {
		r->echo_known = r->echoes = true;
		return 0;
	}
	/* Sent, and taken by the device; then it may take a while. */
	r->echo_known = true;
	r->echoes = false;
	rc = run_start(r, &s, &params);
	if (rc != 0)
		goto out;
	rc = traffic_begin(r, &s, &x);
	end = waited_ns() + run_ms(r, ECHO_MS) * 1000000;
	while (rc == 0 && x.lanes[0].received == 0 && waited_ns() < end) {
		rc = traffic_step(&x);
		if (rc == 0)
			traffic_wait(&x);
		rc = rc > 0 ? 0 : rc;
	}
	r->echoes = rc == 0 && x.lanes[0].received > 0;
	traffic_end(&x);
	rc = run_finish(r, &s, rc);
out:
	/* Found out nothing: the next case tries again. */
	if (rc != 0)
		r->echo_known = false;
	return rc;
}
