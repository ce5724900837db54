/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Packets between virtqueues, and between a virtqueue and buffers of ours. One copy, one flush and
 * one signal for a burst. The header that a driver wrote is not looked at: no offload is offered,
 * so it says nothing.
 */

#include <string.h>

#include <rte_byteorder.h>
#include <rte_memcpy.h>
#include <rte_prefetch.h>

#include "net.h"

#define HDR sizeof(struct net_hdr)

/* Receive chains of a pass: taken from the ring, filled one by one and pushed together, the rest
 * given back. */
struct rx_cursor {
	struct sim_queue *q;
	struct vdpa_vq_chain *chains;
	uint32_t *written; /* of the first `next` chains */
	unsigned int n, next;
	unsigned int skipped; /* pushed without data */
	int err;
};

/* A position in a list of buffers. */
struct iov_cursor {
	const struct iovec *iov;
	uint32_t n;
	size_t off;
};

static void
bind_iov(struct vdpa_vq_chain *chains, struct iovec (*iov)[NET_IOV], unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		chains[i].iov = iov[i];
		chains[i].iov_max = NET_IOV;
	}
}

void
net_burst_init(struct net_burst *b)
{
	bind_iov(b->tx, b->tx_iov, NET_BURST);
	bind_iov(b->rx, b->rx_iov, NET_RX_CHAINS);
}

static inline void
rx_used(struct rx_cursor *rx, uint32_t written)
{
	rx->written[rx->next++] = written;
}

static void
rx_fill(struct rx_cursor *rx, unsigned int want)
{
	int ret;

	want = RTE_MIN(want, (unsigned int)NET_RX_CHAINS - rx->n);
	if (want == 0 || rx->err != 0)
		return;
	ret = vdpa_vq_pop_burst(rx->q->vq, &rx->chains[rx->n], want);
	if (likely(ret >= 0)) {
		rx->n += (unsigned int)ret;
		return;
	}
	if (ret == -EMSGSIZE) {
		if (rx->n == 0) {
			/* A buffer in too many pieces: back unused, once, the next pass goes on. */
			vdpa_vq_push(rx->q->vq, &rx->chains[0], 0);
			rx->skipped++;
		} else {
			vdpa_vq_rewind(rx->q->vq, &rx->chains[rx->n].taken);
		}
		return;
	}
	rx->err = ret;
}

static void
rx_begin(struct rx_cursor *rx, struct sim_queue *q, unsigned int want)
{
	struct net_burst *b = net_burst(q);

	*rx = (struct rx_cursor){.q = q, .chains = b->rx, .written = b->rx_written};
	vdpa_vq_disable_kicks(q->vq);
	rx_fill(rx, want);
}

static void
rx_end(struct rx_cursor *rx)
{
	if (rx->next < rx->n)
		vdpa_vq_rewind(rx->q->vq, &rx->chains[rx->next].taken);
	if (rx->next + rx->skipped > 0) {
		vdpa_vq_push_burst(rx->q->vq, rx->chains, rx->written, rx->next);
		vdpa_vq_flush(rx->q->vq);
		vdpa_vq_notify(rx->q->vq);
	}
	if (unlikely(rx->err != 0))
		sim_queue_fail(rx->q, rx->err);
}

static void
iov_read(struct iov_cursor *c, uint8_t *dst, size_t len)
{
	while (len > 0) {
		size_t part = RTE_MIN(len, c->iov->iov_len - c->off);

		if (dst != NULL) {
			rte_memcpy(dst, (const uint8_t *)c->iov->iov_base + c->off, part);
			dst += part;
		}
		len -= part;
		c->off += part;
		if (c->off == c->iov->iov_len) {
			c->iov++;
			c->off = 0;
		}
	}
}

/* Copy from src to the writable part of a chain, from its byte `at` on. */
static void
chain_write(const struct vdpa_vq_chain *chain, size_t at, struct iov_cursor *src, size_t len)
{
	const struct iovec *v = &chain->iov[chain->nout];

	while (at >= v->iov_len) {
		at -= v->iov_len;
		v++;
	}
	while (len > 0) {
		size_t part = RTE_MIN(len, v->iov_len - at);

		iov_read(src, (uint8_t *)v->iov_base + at, part);
		len -= part;
		at = 0;
		v++;
	}
}

static void
chain_write_hdr(const struct vdpa_vq_chain *chain, const struct net_hdr *hdr)
{
	struct iovec v = {.iov_base = (void *)(uintptr_t)hdr, .iov_len = sizeof(*hdr)};
	struct iov_cursor src = {.iov = &v, .n = 1};

	chain_write(chain, 0, &src, sizeof(*hdr));
}

enum rx_result {
	RX_DONE,
	RX_WAIT, /* no buffers now */
	RX_DROP, /* never, for *why */
	RX_MALFORMED,
};

/* The general case: fragments on either side, and packets that take several receive chains. */
static __rte_noinline enum rx_result
rx_put(struct rx_cursor *rx, const struct iov_cursor *from, uint32_t len, enum net_drop *why)
{
	const struct net_device *nd = net_of(rx->q);
	struct iov_cursor src = *from;
	struct net_hdr hdr = {0};
	unsigned int k = 0;
	uint64_t room = 0;

	for (;;) {
		const struct vdpa_vq_chain *c;

		if (rx->next + k == rx->n) {
			unsigned int had = rx->n;

			rx_fill(rx, NET_BURST);
			if (rx->n == had) {
				*why = NET_DROP_TOO_SMALL;
				/* All that one pass or the whole ring can hold was too small. */
				return rx->next == 0 && (k == NET_RX_CHAINS || k == rx->q->num)
					       ? RX_DROP
					       : RX_WAIT;
			}
		}
		c = &rx->chains[rx->next + k];
		if (unlikely(k == 0 && c->in_len < HDR)) {
			rx_used(rx, 0);
			continue;
		}
		room += c->in_len;
		k++;
		if (room >= len + HDR)
			break;
		if (!nd->mrg) {
			*why = NET_DROP_TOO_SMALL;
			return RX_DROP;
		}
	}
	hdr.num_buffers = rte_cpu_to_le_16((uint16_t)k);
	chain_write_hdr(&rx->chains[rx->next], &hdr);
	for (unsigned int i = 0; i < k; i++) {
		const struct vdpa_vq_chain *c = &rx->chains[rx->next];
		uint32_t at = i == 0 ? HDR : 0;
		uint32_t part = RTE_MIN(len, c->in_len - at);

		if (part > 0)
			chain_write(c, at, &src, part);
		rx_used(rx, at + part);
		len -= part;
	}
	return RX_DONE;
}

/* Header and frame to the next chain, if that has them in one piece. */
static inline bool
rx_put_linear(struct rx_cursor *rx, const uint8_t *frame, uint32_t len)
{
	const struct vdpa_vq_chain *c = &rx->chains[rx->next];
	const uint32_t one = rte_cpu_to_le_32(1u << 16);
	const uint64_t zero = 0;
	uint8_t *dst;

	if (unlikely(rx->next >= rx->n || c->nin != 1 || c->in_len < len + HDR))
		return false;
	dst = c->iov[c->nout].iov_base;
	memcpy(dst, &zero, sizeof(zero));
	memcpy(dst + 8, &one, sizeof(one));
	rte_memcpy(dst + HDR, frame, len);
	rx_used(rx, len + HDR);
	return true;
}

/* The start of a frame for the filters, read once. */
static inline bool
wanted(const struct net_device *to, const struct iov_cursor *src, uint32_t len, enum net_drop *why)
{
	struct iov_cursor from;
	uint8_t head[18];

	if (len > to->frame_max) {
		*why = NET_DROP_OVER_MTU;
		return false;
	}
	if (likely(!to->filtering))
		return true;
	from = *src;
	iov_read(&from, head, RTE_MIN(len, (uint32_t)sizeof(head)));
	*why = NET_DROP_FILTERED;
	return net_filter_pass(to, head, len);
}

/* Where the frame of a chain begins; its length, 0 for what is none. */
static inline uint32_t
tx_frame(const struct vdpa_vq_chain *c, struct iov_cursor *src)
{
	size_t skip = HDR;

	if (unlikely(c->nout == 0 || c->out_len <= HDR || c->out_len - HDR > NET_FRAME_MAX))
		return 0;
	src->iov = c->iov;
	src->n = c->nout;
	while (skip >= src->iov->iov_len) {
		skip -= src->iov->iov_len;
		src->iov++;
		src->n--;
	}
	src->off = skip;
	return c->out_len - HDR;
}

unsigned int
net_tx_pop(struct sim_queue *txq, unsigned int n)
{
	struct net_burst *b = net_burst(txq);
	int ret;

	n = RTE_MIN(n, (unsigned int)NET_BURST);
	ret = vdpa_vq_pop_burst(txq->vq, b->tx, n);
	if (likely(ret >= 0))
		return (unsigned int)ret;
	if (ret == -EMSGSIZE) {
		/* To be returned like the others; with no buffers it is malformed. */
		b->tx[0].nout = 0;
		b->tx[0].nin = 0;
		return 1;
	}
	sim_queue_fail(txq, ret);
	return 0;
}

uint32_t
net_tx_copy(const struct vdpa_vq_chain *chain, uint8_t *buf, uint32_t room)
{
	struct iov_cursor src = {0};
	uint32_t len = tx_frame(chain, &src);

	if (len > room)
		return 0;
	iov_read(&src, buf, len);
	return len;
}

void
net_tx_done(struct sim_queue *txq, unsigned int n)
{
	const struct vdpa_vq_chain *tx = net_burst(txq)->tx;
	uint64_t bytes = 0;

	for (unsigned int i = 0; i < n; i++)
		bytes += tx[i].out_len;
	vdpa_vq_push_burst(txq->vq, tx, NULL, n);
	sim_turn_charge(&txq->lane->turn, bytes);
	vdpa_vq_flush(txq->vq);
	vdpa_vq_notify(txq->vq);
}

unsigned int
net_tx_discard(struct sim_queue *txq, enum net_drop why, unsigned int budget)
{
	unsigned int n = net_tx_pop(txq, budget);

	if (n > 0) {
		net_drop(txq, why, n);
		net_tx_done(txq, n);
	}
	return n;
}

/* What a burst will touch in lines that the driver's CPU has: the frames, the buffers and the used
 * descriptors. Asked for at once, so that the transfers overlap. */
static inline void
prefetch_burst(const struct net_burst *b, unsigned int n, const struct rx_cursor *rx)
{
	/* The header says nothing: the frame begins behind it. */
	for (unsigned int i = 0; i < n; i++)
		rte_prefetch0((const uint8_t *)b->tx[i].iov[0].iov_base + HDR);
	for (unsigned int i = 0; i < rx->n; i++) {
		uint8_t *dst = rx->chains[i].iov[0].iov_base;

		rte_prefetch0_write(dst);
		rte_prefetch0_write(dst + RTE_CACHE_LINE_SIZE);
	}
}

/* The frame of a chain to the receiver; whether *why is why it was dropped. */
static inline enum rx_result
forward(const struct vdpa_vq_chain *c, struct rx_cursor *rx, const struct net_device *to,
	uint32_t *len, enum net_drop *why)
{
	struct iov_cursor src = {0};

	if (likely(c->nout == 1 && c->out_len > HDR && c->out_len - HDR <= to->frame_max &&
		   !to->filtering)) {
		*len = c->out_len - HDR;
		if (likely(rx_put_linear(rx, (const uint8_t *)c->iov[0].iov_base + HDR, *len)))
			return RX_DONE;
	}
	*len = tx_frame(c, &src);
	*why = NET_DROP_MALFORMED;
	if (unlikely(*len == 0))
		return RX_MALFORMED;
	if (unlikely(!wanted(to, &src, *len, why)))
		return RX_DROP;
	return rx_put(rx, &src, *len, why);
}

static unsigned int
forward_burst(struct sim_queue *txq, struct sim_queue *rxq, unsigned int budget)
{
	struct net_device *to = net_of(rxq);
	struct net_burst *b = net_burst(txq);
	const int64_t limit = txq->lane->turn.bytes;
	uint64_t packets = 0, bytes = 0, lost = 0, lost_bytes = 0;
	unsigned int n, i;
	struct rx_cursor rx;

	n = net_tx_pop(txq, budget);
	if (n == 0)
		return 0;
	rx_begin(&rx, rxq, n);
	prefetch_burst(b, n, &rx);
	vdpa_vq_prefetch_used(rxq->vq, rx.n);
	vdpa_vq_prefetch_used(txq->vq, n);

	for (i = 0; i < n; i++) {
		enum net_drop why;
		enum rx_result res;
		uint32_t len;

		/* The turn is over; the rest stays in the ring. */
		if (unlikely(i > 0 && (int64_t)bytes >= limit))
			break;
		res = forward(&b->tx[i], &rx, to, &len, &why);
		if (likely(res == RX_DONE)) {
			packets++;
			bytes += len;
		} else if (res == RX_WAIT) {
			break;
		} else if (res == RX_MALFORMED) {
			net_drop(txq, why, 1);
		} else {
			/* Sent all the same: it is the receiver that has not taken it. */
			net_drop(rxq, why, 1);
			lost++;
			lost_bytes += len;
		}
	}
	/* Counted first: who sees the packet finds it counted. */
	if (packets + lost > 0) {
		sim_count(&net_counters(txq)->packets, packets + lost);
		sim_count(&net_counters(txq)->bytes, bytes + lost_bytes);
		sim_count(&net_counters(rxq)->packets, packets);
		sim_count(&net_counters(rxq)->bytes, bytes);
	}
	rx_end(&rx);
	if (i < n)
		vdpa_vq_rewind(txq->vq, &b->tx[i].taken);
	if (i > 0)
		net_tx_done(txq, i);
	/* A buffer that was skipped is progress too: the next pass finds the one after it. */
	return i + rx.skipped;
}

unsigned int
net_forward(struct sim_queue *txq, struct sim_queue *rxq, enum net_drop why, unsigned int budget)
{
	unsigned int done = 0, n;

	do {
		n = rxq != NULL ? forward_burst(txq, rxq, budget - done)
				: net_tx_discard(txq, why, budget - done);
		done += n;
	} while (n >= NET_BURST && done < budget && txq->running && (rxq == NULL || rxq->running) &&
		 sim_turn_left(&txq->lane->turn));
	return done;
}

unsigned int
net_deliver(struct sim_queue *rxq, const struct iovec *frames, unsigned int n)
{
	struct net_device *nd = net_of(rxq);
	uint64_t packets = 0, bytes = 0;
	struct rx_cursor rx;

	rx_begin(&rx, rxq, n);
	for (unsigned int i = 0; i < n; i++) {
		const struct iov_cursor src = {.iov = &frames[i], .n = 1};
		uint32_t len = (uint32_t)frames[i].iov_len;
		enum net_drop why = NET_DROP_NO_BUFFER;
		enum rx_result res;

		if (!wanted(nd, &src, len, &why)) {
			net_drop(rxq, why, 1);
			continue;
		}
		res = rx_put_linear(&rx, frames[i].iov_base, len) ? RX_DONE
								  : rx_put(&rx, &src, len, &why);
		if (res != RX_DONE) {
			net_drop(rxq, res == RX_WAIT ? NET_DROP_NO_BUFFER : why, 1);
			continue;
		}
		packets++;
		bytes += len;
	}
	sim_count(&net_counters(rxq)->packets, packets);
	sim_count(&net_counters(rxq)->bytes, bytes);
	sim_turn_charge(&rxq->lane->turn, bytes);
	rx_end(&rx);
	return (unsigned int)packets;
}
