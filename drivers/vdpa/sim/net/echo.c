/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Back end echo: a host that has every address. It answers ARP requests, IPv6 neighbour
 * solicitations and echo requests of IPv4 and IPv6, whatever address they are for, so that a guest
 * can ping it with nothing set up but an address of its own. Everything else is dropped and
 * counted.
 */

#include <netinet/ip6.h>
#include <netinet/ip_icmp.h>
#include <stdlib.h>
#include <string.h>

#include <rte_arp.h>
#include <rte_byteorder.h>
#include <rte_icmp.h>
#include <rte_ip.h>

#include "net.h"

#define ICMP6_ECHO_REQUEST  128
#define ICMP6_ECHO_REPLY    129
#define ICMP6_NEIGH_SOLICIT 135
#define ICMP6_NEIGH_ADVERT  136
#define ND_OPT_TARGET_LL    2
#define NA_SOLICITED	    0x40
#define NA_OVERRIDE	    0x20

/* Answers of one burst. */
#define STORE_SIZE (256 * 1024)

struct echo {
	struct rte_ether_addr mac;
	uint8_t store[STORE_SIZE];
};

/* Neighbour solicitation and advertisement with one link-layer address option (RFC 4861, 4.3, 4.4).
 */
struct neigh_msg {
	uint8_t type, code;
	uint16_t cksum;
	uint8_t flags;
	uint8_t reserved[3];
	uint8_t target[16];
	uint8_t opt_type, opt_len;
	uint8_t opt_addr[RTE_ETHER_ADDR_LEN];
} __attribute__((packed));
_Static_assert(sizeof(struct neigh_msg) == 32, "RFC 4861, 4.4");

static int
echo_init(struct net_device *nd, const struct vdpa_arg *arg, struct vdpa_worker **worker)
{
	struct echo *e = malloc(sizeof(*e));

	if (e == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	/* Locally administered, unlike the guest's, the same for each start. */
	e->mac = nd->own_mac;
	e->mac.addr_bytes[0] = (uint8_t)((e->mac.addr_bytes[0] | 0x02) & 0xfe);
	e->mac.addr_bytes[5] ^= 0x80;
	nd->backend_priv = e;
	return 0;
}

static void
echo_fini(struct net_device *nd)
{
	free(nd->backend_priv);
}

/* The Internet checksum of len bytes on top of sum (RFC 1071). */
static uint32_t
sum16(const void *data, size_t len, uint32_t sum)
{
	const uint8_t *p = data;

	for (; len > 1; len -= 2, p += 2)
		sum += (uint32_t)p[0] << 8 | p[1];
	if (len > 0)
		sum += (uint32_t)p[0] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static void
answer_to(struct rte_ether_hdr *eth, const struct rte_ether_addr *from)
{
	eth->dst_addr = eth->src_addr;
	eth->src_addr = *from;
}

/* Each answer_*() turns a frame into the answer to it in place; its length, 0 for none. */

static uint32_t
answer_arp(const struct echo *e, uint8_t *frame, uint32_t l2, uint32_t len)
{
	struct rte_arp_hdr *arp = (void *)(frame + l2);
	uint32_t ip;

	if (len < l2 + sizeof(*arp) || arp->arp_hardware != RTE_BE16(RTE_ARP_HRD_ETHER) ||
	    arp->arp_protocol != RTE_BE16(RTE_ETHER_TYPE_IPV4) ||
	    arp->arp_hlen != RTE_ETHER_ADDR_LEN || arp->arp_plen != 4 ||
	    arp->arp_opcode != RTE_BE16(RTE_ARP_OP_REQUEST))
		return 0;
	ip = arp->arp_data.arp_tip;
	/* A probe or announcement of the guest's own address is no question to us (RFC 5227). */
	if (arp->arp_data.arp_sip == 0 || arp->arp_data.arp_sip == ip)
		return 0;
	arp->arp_opcode = RTE_BE16(RTE_ARP_OP_REPLY);
	arp->arp_data.arp_tha = arp->arp_data.arp_sha;
	arp->arp_data.arp_tip = arp->arp_data.arp_sip;
	arp->arp_data.arp_sha = e->mac;
	arp->arp_data.arp_sip = ip;
	answer_to((void *)frame, &e->mac);
	return len;
}

static uint32_t
answer_ipv4(const struct echo *e, uint8_t *frame, uint32_t l2, uint32_t len)
{
	struct rte_ipv4_hdr *ip = (void *)(frame + l2);
	struct rte_icmp_hdr *icmp;
	uint32_t hlen, total, addr, sum;

	if (len < l2 + sizeof(*ip) || ip->version_ihl >> 4 != 4)
		return 0;
	hlen = (ip->version_ihl & 0x0fu) * 4;
	total = rte_be_to_cpu_16(ip->total_length);
	/* Fragments are not put together. */
	if (hlen < sizeof(*ip) || total > len - l2 || total < hlen + sizeof(*icmp) ||
	    ip->next_proto_id != IPPROTO_ICMP ||
	    (ip->fragment_offset & RTE_BE16(RTE_IPV4_HDR_MF_FLAG | RTE_IPV4_HDR_OFFSET_MASK)) != 0)
		return 0;
	icmp = (void *)(frame + l2 + hlen);
	if (icmp->icmp_type != ICMP_ECHO || icmp->icmp_code != 0 ||
	    sum16(icmp, total - hlen, 0) != 0xffff)
		return 0;
	/* Not to a group: nobody there would answer by that address. */
	if ((rte_be_to_cpu_32(ip->dst_addr) >> 28) >= 14)
		return 0;
	addr = ip->src_addr;
	ip->src_addr = ip->dst_addr;
	ip->dst_addr = addr;
	ip->time_to_live = 64;
	ip->hdr_checksum = 0;
	ip->hdr_checksum = rte_cpu_to_be_16((uint16_t)~sum16(ip, hlen, 0));
	icmp->icmp_type = ICMP_ECHOREPLY;
	icmp->icmp_cksum = 0;
	sum = sum16(icmp, total - hlen, 0);
	icmp->icmp_cksum = rte_cpu_to_be_16((uint16_t)~sum);
	answer_to((void *)frame, &e->mac);
	return l2 + total;
}

static uint16_t
icmp6_cksum(const struct ip6_hdr *ip, const void *msg, uint32_t len)
{
	/* Addresses, length and next header (RFC 8200, 8.1). */
	return (uint16_t)~sum16(msg, len, sum16(&ip->ip6_src, 32, len + IPPROTO_ICMPV6));
}

static uint32_t
answer_neigh(const struct echo *e, uint8_t *frame, uint32_t l2, uint32_t len)
{
	struct ip6_hdr *ip = (void *)(frame + l2);
	struct neigh_msg *msg = (void *)(ip + 1);
	static const uint8_t unspecified[16];
	const uint32_t total = l2 + sizeof(*ip) + sizeof(*msg);

	if (rte_be_to_cpu_16(ip->ip6_plen) < offsetof(struct neigh_msg, opt_type) ||
	    msg->target[0] == 0xff || ip->ip6_hlim != 255)
		return 0;
	/* Duplicate address detection: the address is the guest's, to say otherwise would take it.
	 */
	if (memcmp(ip->ip6_src.s6_addr, unspecified, 16) == 0 ||
	    memcmp(ip->ip6_src.s6_addr, msg->target, 16) == 0)
		return 0;
	memcpy(ip->ip6_dst.s6_addr, ip->ip6_src.s6_addr, 16);
	memcpy(ip->ip6_src.s6_addr, msg->target, 16);
	ip->ip6_plen = rte_cpu_to_be_16(sizeof(*msg));
	msg->type = ICMP6_NEIGH_ADVERT;
	msg->code = 0;
	msg->cksum = 0;
	msg->flags = NA_SOLICITED | NA_OVERRIDE;
	memset(msg->reserved, 0, sizeof(msg->reserved));
	msg->opt_type = ND_OPT_TARGET_LL;
	msg->opt_len = 1;
	memcpy(msg->opt_addr, &e->mac, sizeof(msg->opt_addr));
	msg->cksum = rte_cpu_to_be_16(icmp6_cksum(ip, msg, sizeof(*msg)));
	answer_to((void *)frame, &e->mac);
	return total;
}

static uint32_t
answer_ipv6(const struct echo *e, uint8_t *frame, uint32_t l2, uint32_t len)
{
	struct ip6_hdr *ip = (void *)(frame + l2);
	uint8_t *msg = (uint8_t *)(ip + 1), addr[16];
	uint32_t plen;
	uint16_t cksum;

	if (len < l2 + sizeof(*ip) + 8 || frame[l2] >> 4 != 6 || ip->ip6_nxt != IPPROTO_ICMPV6)
		return 0;
	plen = rte_be_to_cpu_16(ip->ip6_plen);
	if (plen < 8 || plen > len - l2 - sizeof(*ip) || icmp6_cksum(ip, msg, plen) != 0)
		return 0;
	if (msg[0] == ICMP6_NEIGH_SOLICIT)
		return answer_neigh(e, frame, l2, len);
	if (msg[0] != ICMP6_ECHO_REQUEST || msg[1] != 0 || ip->ip6_dst.s6_addr[0] == 0xff)
		return 0;
	memcpy(addr, ip->ip6_src.s6_addr, 16);
	memcpy(ip->ip6_src.s6_addr, ip->ip6_dst.s6_addr, 16);
	memcpy(ip->ip6_dst.s6_addr, addr, 16);
	ip->ip6_hlim = 64;
	msg[0] = ICMP6_ECHO_REPLY;
	msg[2] = msg[3] = 0;
	cksum = rte_cpu_to_be_16(icmp6_cksum(ip, msg, plen));
	memcpy(msg + 2, &cksum, sizeof(cksum));
	answer_to((void *)frame, &e->mac);
	return l2 + (uint32_t)sizeof(*ip) + plen;
}

/* frame has room for an option more than len. */
static uint32_t
answer(const struct echo *e, uint8_t *frame, uint32_t len)
{
	uint32_t l2 = RTE_ETHER_HDR_LEN;
	uint16_t type;

	if (len < l2 + 4)
		return 0;
	type = (uint16_t)(frame[12] << 8 | frame[13]);
	if (type == RTE_ETHER_TYPE_VLAN) {
		type = (uint16_t)(frame[16] << 8 | frame[17]);
		l2 += 4;
	}
	switch (type) {
	case RTE_ETHER_TYPE_ARP:
		return answer_arp(e, frame, l2, len);
	case RTE_ETHER_TYPE_IPV4:
		return answer_ipv4(e, frame, l2, len);
	case RTE_ETHER_TYPE_IPV6:
		return answer_ipv6(e, frame, l2, len);
	default:
		return 0;
	}
}

static unsigned int
echo_tx(struct net_device *nd, struct sim_queue *txq, unsigned int budget)
{
	struct echo *e = nd->backend_priv;
	struct sim_queue *rxq = net_rxq(nd, txq->idx / 2);
	struct net_counters *c = net_counters(txq);
	struct iovec frames[NET_BURST];
	unsigned int n, nframes = 0, room;
	uint32_t used = 0, bytes;

	/* So many that the longest frames fit the store. */
	room = STORE_SIZE / (NET_FRAME_MAX + 32);
	n = net_tx_pop(txq, RTE_MIN(budget, room));
	if (n == 0)
		return 0;
	for (unsigned int i = 0; i < n; i++) {
		uint8_t *frame = e->store + used;
		uint32_t len = net_tx_copy(&net_burst(txq)->tx[i], frame, NET_FRAME_MAX);

		if (len == 0) {
			net_drop(txq, NET_DROP_MALFORMED, 1);
			continue;
		}
		bytes = len;
		len = answer(e, frame, len);
		if (len == 0) {
			net_drop(txq, NET_DROP_UNANSWERED, 1);
			continue;
		}
		if (rxq != NULL) {
			sim_count(&c->packets, 1);
			sim_count(&c->bytes, bytes);
		}
		frames[nframes++] = (struct iovec){.iov_base = frame, .iov_len = len};
		used += RTE_ALIGN_CEIL(len, 16u);
	}
	net_tx_done(txq, n);
	if (nframes == 0)
		return n;
	if (rxq != NULL)
		net_deliver(rxq, frames, nframes);
	else
		net_drop(txq, NET_DROP_NO_BUFFER, nframes);
	return n;
}

const struct net_backend net_echo = {
	.name = "echo",
	.init = echo_init,
	.fini = echo_fini,
	.tx = echo_tx,
};
