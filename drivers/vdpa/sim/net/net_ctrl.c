/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The control queue of the simulated network device (virtio 1.2, 5.1.6.5) and the receive filters
 * that it sets.
 */

#include <string.h>

#include <rte_byteorder.h>

#include "net.h"

enum {
	CTRL_RX = 0,
	CTRL_MAC = 1,
	CTRL_VLAN = 2,
	CTRL_ANNOUNCE = 3,
	CTRL_MQ = 4,
};

/* Longest command that is understood: two tables of addresses as Linux may send them. */
#define CTRL_MAX 8192
#define CTRL_OK	 0
#define CTRL_ERR 1

struct ctrl_cmd {
	uint8_t class;
	uint8_t cmd;
	const uint8_t *data;
	uint32_t len;
};

static bool
has(const struct net_device *nd, unsigned int feature)
{
	return (nd->dev->features & SIM_BIT(feature)) != 0;
}

/* Whether every frame passes is looked at once a change, not once a frame. */
void
net_filter_update(struct net_device *nd)
{
	nd->filtering =
		!nd->promisc || nd->vlan_filtering || nd->nomulti || nd->nouni || nd->nobcast;
}

void
net_filter_reset(struct net_device *nd)
{
	/* A driver without receive control gets everything. */
	nd->promisc = true;
	nd->allmulti = nd->alluni = nd->nomulti = nd->nouni = nd->nobcast = false;
	nd->uni_overflow = nd->multi_overflow = false;
	nd->vlan_filtering = false;
	nd->nuni = nd->nmulti = 0;
	memset(nd->vlans, 0, sizeof(nd->vlans));
	net_filter_update(nd);
}

void
net_set_mac(struct net_device *nd, const struct rte_ether_addr *mac)
{
	nd->mac = *mac;
	sim_config_write(nd->dev, offsetof(struct net_config, mac), mac, sizeof(*mac), false);
}

static bool
in_table(const struct rte_ether_addr *table, uint16_t n, const struct rte_ether_addr *addr)
{
	for (uint16_t i = 0; i < n; i++)
		if (rte_is_same_ether_addr(&table[i], addr))
			return true;
	return false;
}

bool
net_filter_pass(const struct net_device *nd, const uint8_t *frame, uint32_t len)
{
	struct rte_ether_addr dst;

	if (len < RTE_ETHER_HDR_LEN)
		return nd->promisc;
	if (nd->vlan_filtering && len >= RTE_ETHER_HDR_LEN + 4 && frame[12] == 0x81 &&
	    frame[13] == 0x00) {
		unsigned int vid = (unsigned int)(frame[14] & 0x0f) << 8 | frame[15];

		if ((nd->vlans[vid / 8] & 1u << vid % 8) == 0)
			return false;
	}
	if (nd->promisc)
		return true;
	memcpy(&dst, frame, sizeof(dst));
	if (rte_is_broadcast_ether_addr(&dst))
		return !nd->nobcast;
	if (rte_is_multicast_ether_addr(&dst))
		return !nd->nomulti && (nd->allmulti || nd->multi_overflow ||
					in_table(nd->multi, nd->nmulti, &dst));
	return !nd->nouni &&
	       (nd->alluni || nd->uni_overflow || rte_is_same_ether_addr(&nd->mac, &dst) ||
		in_table(nd->uni, nd->nuni, &dst));
}

static uint8_t
ctrl_rx(struct net_device *nd, const struct ctrl_cmd *c)
{
	bool *const modes[] = {&nd->promisc, &nd->allmulti, &nd->alluni,
			       &nd->nomulti, &nd->nouni,    &nd->nobcast};
	unsigned int n = has(nd, NET_F_CTRL_RX_EXTRA) ? 6 : 2;

	if (!has(nd, NET_F_CTRL_RX) || c->len != 1 || c->cmd >= n)
		return CTRL_ERR;
	*modes[c->cmd] = c->data[0] != 0;
	net_filter_update(nd);
	return CTRL_OK;
}

/* One table: a count and so many addresses. Returns bytes read, 0 when they do not fit. */
static uint32_t
read_table(const uint8_t *data, uint32_t len, struct rte_ether_addr *table, uint16_t *n,
	   bool *overflow)
{
	uint32_t count;

	if (len < sizeof(count))
		return 0;
	memcpy(&count, data, sizeof(count));
	count = rte_le_to_cpu_32(count);
	if (count > (len - sizeof(count)) / sizeof(*table))
		return 0;
	*overflow = count > NET_MAC_TABLE;
	*n = *overflow ? 0 : (uint16_t)count;
	memcpy(table, data + sizeof(count), *n * sizeof(*table));
	return (uint32_t)(sizeof(count) + count * sizeof(*table));
}

static uint8_t
ctrl_mac(struct net_device *nd, const struct ctrl_cmd *c)
{
	struct rte_ether_addr uni[NET_MAC_TABLE], multi[NET_MAC_TABLE];
	bool uni_over = false, multi_over = false;
	uint16_t nuni = 0, nmulti = 0;
	uint32_t used;

	if (c->cmd == 1) {
		struct rte_ether_addr mac;

		if (!has(nd, NET_F_CTRL_MAC_ADDR) || c->len != sizeof(mac))
			return CTRL_ERR;
		memcpy(&mac, c->data, sizeof(mac));
		if (!rte_is_valid_assigned_ether_addr(&mac))
			return CTRL_ERR;
		net_set_mac(nd, &mac);
		return CTRL_OK;
	}
	if (c->cmd != 0 || !has(nd, NET_F_CTRL_RX))
		return CTRL_ERR;
	used = read_table(c->data, c->len, uni, &nuni, &uni_over);
	if (used == 0 ||
	    read_table(c->data + used, c->len - used, multi, &nmulti, &multi_over) != c->len - used)
		return CTRL_ERR;
	memcpy(nd->uni, uni, nuni * sizeof(uni[0]));
	memcpy(nd->multi, multi, nmulti * sizeof(multi[0]));
	nd->nuni = nuni;
	nd->nmulti = nmulti;
	nd->uni_overflow = uni_over;
	nd->multi_overflow = multi_over;
	return CTRL_OK;
}

static uint16_t
read16(const uint8_t *data)
{
	return (uint16_t)(data[0] | data[1] << 8);
}

static uint8_t
ctrl_vlan(struct net_device *nd, const struct ctrl_cmd *c)
{
	uint16_t vid;

	if (!has(nd, NET_F_CTRL_VLAN) || c->len != 2 || c->cmd > 1)
		return CTRL_ERR;
	vid = read16(c->data);
	if (vid >= 4096)
		return CTRL_ERR;
	if (c->cmd == 0)
		nd->vlans[vid / 8] |= (uint8_t)(1u << vid % 8);
	else
		nd->vlans[vid / 8] &= (uint8_t) ~(1u << vid % 8);
	return CTRL_OK;
}

static uint8_t
ctrl_announce(struct net_device *nd, const struct ctrl_cmd *c)
{
	if (!has(nd, NET_F_GUEST_ANNOUNCE) || c->cmd != 0)
		return CTRL_ERR;
	net_set_status(nd, 0, NET_S_ANNOUNCE);
	return CTRL_OK;
}

static uint8_t
ctrl_mq(struct net_device *nd, const struct ctrl_cmd *c)
{
	uint16_t pairs;

	if (!has(nd, NET_F_MQ) || c->cmd != 0 || c->len != 2)
		return CTRL_ERR;
	pairs = read16(c->data);
	if (pairs < 1 || pairs > nd->max_pairs)
		return CTRL_ERR;
	nd->pairs = pairs;
	return CTRL_OK;
}

static uint8_t
execute(struct net_device *nd, const uint8_t *buf, uint32_t len)
{
	const struct ctrl_cmd c = {.class = buf[0], .cmd = buf[1], .data = buf + 2, .len = len - 2};

	switch (c.class) {
	case CTRL_RX:
		return ctrl_rx(nd, &c);
	case CTRL_MAC:
		return ctrl_mac(nd, &c);
	case CTRL_VLAN:
		return ctrl_vlan(nd, &c);
	case CTRL_ANNOUNCE:
		return ctrl_announce(nd, &c);
	case CTRL_MQ:
		return ctrl_mq(nd, &c);
	default:
		return CTRL_ERR;
	}
}

/* One command, while all lanes stand still. How many were there. */
static int
work_command(void *arg)
{
	struct sim_queue *q = arg;
	struct net_device *nd = net_of(q);
	struct iovec iov[32];
	struct vdpa_vq_chain chain = {.iov = iov, .iov_max = RTE_DIM(iov)};
	uint8_t buf[CTRL_MAX];
	int ret;

	ret = vdpa_vq_pop(q->vq, &chain);
	if (ret == 0)
		return 0;
	if (ret < 0 && ret != -EMSGSIZE) {
		sim_queue_fail(q, ret);
		return 0;
	}
	sim_count(&nd->ctrl_commands, 1);
	if (ret == 1 && chain.nin > 0 && chain.out_len >= 2 && chain.out_len <= sizeof(buf)) {
		uint32_t len = 0;
		uint8_t ack;

		for (uint16_t i = 0; i < chain.nout; i++) {
			memcpy(buf + len, iov[i].iov_base, iov[i].iov_len);
			len += (uint32_t)iov[i].iov_len;
		}
		ack = sim_has_fault(q->dev, SIM_FAULT_CTRL_OK_ALWAYS) ? CTRL_OK
								      : execute(nd, buf, len);
		if (ack != CTRL_OK)
			sim_count(&nd->ctrl_errors, 1);
		else
			sim_state_changed(q->dev);
		*(uint8_t *)iov[chain.nout].iov_base = ack;
		vdpa_vq_push(q->vq, &chain, 1);
	} else {
		if (ret == 1 && chain.nin > 0) {
			*(uint8_t *)iov[chain.nout].iov_base = CTRL_ERR;
			vdpa_vq_push(q->vq, &chain, 1);
		} else {
			vdpa_vq_push(q->vq, &chain, 0);
		}
		sim_count(&nd->ctrl_errors, 1);
	}
	vdpa_vq_flush(q->vq);
	vdpa_vq_notify(q->vq);
	return 1;
}

unsigned int
net_ctrl_process(struct sim_queue *q, unsigned int budget)
{
	/* An empty queue is no reason to stop the other lanes. */
	return vdpa_vq_avail(q->vq) > 0 ? (unsigned int)sim_call(q->dev, work_command, q) : 0;
}
