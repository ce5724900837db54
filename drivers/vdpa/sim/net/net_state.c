/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a driver has set by the control queue, for another host or process: its address, pairs and
 * receive filters, and whether it has yet to announce itself. Of a device whose front end keeps the
 * control queue there is none.
 *
 * As bytes: the head, the addresses of both tables, the VLAN filter.
 */

#include <string.h>

#include <rte_byteorder.h>

#include "net.h"

#define STATE_VERSION 1

struct state_head {
	uint16_t version;
	uint16_t pairs;
	uint8_t mac[RTE_ETHER_ADDR_LEN];
	uint16_t modes; /* a bit for each of modes_of(), and MODE_ANNOUNCE */
	uint16_t nuni, nmulti;
};
_Static_assert(sizeof(struct state_head) == 16, "part of what is saved");

static const struct rte_ether_addr *
mac_of(const struct state_head *head)
{
	return (const struct rte_ether_addr *)head->mac;
}

#define MODES	      8
/* It was asked to announce itself, and has not said that it did (NET_S_ANNOUNCE). */
#define MODE_ANNOUNCE (1u << MODES)

/* In the order of their bits. */
static void
modes_of(struct net_device *nd, bool *modes[MODES])
{
	bool *const all[MODES] = {&nd->promisc,	     &nd->allmulti,	 &nd->alluni,
				  &nd->nomulti,	     &nd->nouni,	 &nd->nobcast,
				  &nd->uni_overflow, &nd->multi_overflow};

	memcpy(modes, all, sizeof(all));
}

static bool
has_ctrl(const struct net_device *nd)
{
	return (nd->dev->features & SIM_BIT(NET_F_CTRL_VQ)) != 0;
}

static size_t
size_of(unsigned int addrs)
{
	return sizeof(struct state_head) + addrs * sizeof(struct rte_ether_addr) +
	       sizeof(((struct net_device *)NULL)->vlans);
}

int
net_save_state(struct sim_device *dev, void *buf, size_t room)
{
	struct net_device *nd = dev->priv;
	struct state_head head = {
		.version = rte_cpu_to_le_16(STATE_VERSION),
		.pairs = rte_cpu_to_le_16(nd->pairs),
		.nuni = rte_cpu_to_le_16(nd->nuni),
		.nmulti = rte_cpu_to_le_16(nd->nmulti),
	};
	size_t size = size_of((unsigned int)nd->nuni + nd->nmulti);
	bool *modes[MODES];
	uint8_t *p = buf;

	if (!has_ctrl(nd))
		return 0;
	if (room < size)
		return -ENOSPC;
	modes_of(nd, modes);
	for (unsigned int i = 0; i < MODES; i++)
		head.modes |= (uint16_t)(*modes[i] << i);
	if ((net_get_status(nd) & NET_S_ANNOUNCE) != 0)
		head.modes |= MODE_ANNOUNCE;
	head.modes = rte_cpu_to_le_16(head.modes);
	memcpy(head.mac, nd->mac.addr_bytes, sizeof(head.mac));
	p = (uint8_t *)memcpy(p, &head, sizeof(head)) + sizeof(head);
	memcpy(p, nd->uni, nd->nuni * sizeof(nd->uni[0]));
	p += nd->nuni * sizeof(nd->uni[0]);
	memcpy(p, nd->multi, nd->nmulti * sizeof(nd->multi[0]));
	p += nd->nmulti * sizeof(nd->multi[0]);
	memcpy(p, nd->vlans, sizeof(nd->vlans));
	return (int)size;
}

/* 0, or why not. */
static int
check(const struct net_device *nd, const struct state_head *head, size_t len)
{
	uint16_t version = rte_le_to_cpu_16(head->version), pairs = rte_le_to_cpu_16(head->pairs);
	uint16_t nuni = rte_le_to_cpu_16(head->nuni), nmulti = rte_le_to_cpu_16(head->nmulti);

	if (version != STATE_VERSION)
		return vdpa_error(EINVAL, "a state of version %u, this is %d", version,
				  STATE_VERSION);
	if (!has_ctrl(nd))
		return vdpa_error(EINVAL, "a state of a control queue, which was not negotiated");
	if (nuni > NET_MAC_TABLE || nmulti > NET_MAC_TABLE)
		return vdpa_error(EINVAL, "tables of %u and %u addresses, at most %d", nuni, nmulti,
				  NET_MAC_TABLE);
	if (len != size_of((unsigned int)nuni + nmulti))
		return vdpa_error(EINVAL, "a state of %zu bytes, expected %zu", len,
				  size_of((unsigned int)nuni + nmulti));
	if (pairs < 1 || pairs > nd->max_pairs)
		return vdpa_error(EINVAL, "%u queue pairs in use, the device has %u", pairs,
				  nd->max_pairs);
	if (!rte_is_valid_assigned_ether_addr(mac_of(head)))
		return vdpa_error(EINVAL, "an address that no device has");
	if ((rte_le_to_cpu_16(head->modes) & ~(2 * MODE_ANNOUNCE - 1)) != 0)
		return vdpa_error(EINVAL, "receive modes 0x%x, known are 0x%x",
				  rte_le_to_cpu_16(head->modes), 2 * MODE_ANNOUNCE - 1);
	return 0;
}

int
net_load_state(struct sim_device *dev, const void *buf, size_t len)
{
	struct net_device *nd = dev->priv;
	const uint8_t *p = buf;
	struct state_head head;
	bool *modes[MODES];
	int rc;

	if (len < sizeof(head))
		return vdpa_error(EINVAL, "a state of %zu bytes, its head has %zu", len,
				  sizeof(head));
	memcpy(&head, p, sizeof(head));
	p += sizeof(head);
	rc = check(nd, &head, len);
	if (rc < 0)
		return rc;
	nd->pairs = rte_le_to_cpu_16(head.pairs);
	nd->nuni = rte_le_to_cpu_16(head.nuni);
	nd->nmulti = rte_le_to_cpu_16(head.nmulti);
	modes_of(nd, modes);
	for (unsigned int i = 0; i < MODES; i++)
		*modes[i] = (rte_le_to_cpu_16(head.modes) >> i & 1) != 0;
	memcpy(nd->uni, p, nd->nuni * sizeof(nd->uni[0]));
	p += nd->nuni * sizeof(nd->uni[0]);
	memcpy(nd->multi, p, nd->nmulti * sizeof(nd->multi[0]));
	p += nd->nmulti * sizeof(nd->multi[0]);
	memcpy(nd->vlans, p, sizeof(nd->vlans));
	net_filter_update(nd);
	net_set_mac(nd, mac_of(&head));
	if ((rte_le_to_cpu_16(head.modes) & MODE_ANNOUNCE) != 0)
		net_set_status(nd, NET_S_ANNOUNCE, 0);
	return 0;
}
