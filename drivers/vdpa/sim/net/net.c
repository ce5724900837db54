/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The class sim_net: words, configuration space, link, counters, and which function executes which
 * virtqueue.
 */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <rte_arp.h>
#include <rte_byteorder.h>

#include "net.h"
#include "tree.h"

#define NET_FEATURES                                                                               \
	(SIM_RING_FEATURES | SIM_BIT(NET_F_MTU) | SIM_BIT(NET_F_MAC) | SIM_BIT(NET_F_MRG_RXBUF) |  \
	 SIM_BIT(NET_F_STATUS) | SIM_BIT(NET_F_CTRL_VQ) | SIM_BIT(NET_F_CTRL_RX) |                 \
	 SIM_BIT(NET_F_CTRL_VLAN) | SIM_BIT(NET_F_CTRL_RX_EXTRA) | SIM_BIT(NET_F_GUEST_ANNOUNCE) | \
	 SIM_BIT(NET_F_MQ) | SIM_BIT(NET_F_CTRL_MAC_ADDR))

static const struct net_backend *const backends[] = {&net_loopback, &net_echo, &net_peer,
						     &net_uplink};

static const struct vdpa_param_choice backend_choices[] = {
	{.name = "loopback", .help = "what is sent comes back on the same pair"},
	{.name = "echo", .help = "answers ARP, neighbour discovery and ping for any address"},
	{.name = "peer",
	 .metavar = "NAME",
	 .type = VDPA_PARAM_STRING,
	 .min = 1,
	 .max = VDPA_NAME_MAX - 1,
	 .help = "cross-connected with another sim_net device"},
	{.name = "uplink",
	 .metavar = "PORT",
	 .type = VDPA_PARAM_STRING,
	 .min = 1,
	 .max = 63,
	 .help = "a DPDK port such as net_tap0"},
	{0},
};

static const struct vdpa_param_choice link_choices[] = {
	{.name = "up", .help = "packets flow"},
	{.name = "down", .help = "packets are dropped"},
	{0},
};

#define LINK_PARAM                                                                                 \
	{                                                                                          \
		.name = "link", .type = VDPA_PARAM_CHOICE, .choices = link_choices,                \
		.help = "link state (default up)", .dflt = "up"                                    \
	}

static const struct vdpa_param net_params[] = {
	SIM_PARAMS,
	{.name = "mac",
	 .type = VDPA_PARAM_MAC,
	 .metavar = "MAC",
	 .help = "address (default: made from the name)"},
	{.name = "mtu",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "BYTES",
	 .min = 68,
	 .max = 65535,
	 .help = "largest packet without Ethernet header, offered to the driver (default: none)"},
	{.name = "max_vqp",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "N",
	 .min = 1,
	 .max = NET_MAX_PAIRS,
	 .help = "queue pairs (default 1)"},
	{.name = "workers",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "N",
	 .min = 1,
	 .max = SIM_LANES_MAX,
	 .help = "lcores that share its pairs, of those that poll (default 1)"},
	{.name = "backend",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = backend_choices,
	 .help = "the other end (default loopback)"},
	LINK_PARAM,
	{0},
};

static const struct vdpa_param net_attr_params[] = {LINK_PARAM, {0}};

static uint16_t
ctrl_idx(const struct net_device *nd)
{
	/* Behind the pairs that the driver knows of (virtio 1.2, 5.1.2). */
	if ((nd->dev->features & SIM_BIT(NET_F_CTRL_VQ)) == 0)
		return UINT16_MAX;
	return (nd->dev->features & SIM_BIT(NET_F_MQ)) != 0 ? (uint16_t)(2 * nd->max_pairs) : 2;
}

struct sim_queue *
net_rxq(struct net_device *nd, uint16_t pair)
{
	const struct sim_lane *lane;
	struct sim_queue *q;
	uint16_t n;

	/* A peer that does not run may be set up on another thread. */
	if (unlikely(!nd->dev->started))
		return NULL;
	/* Without a control queue the driver uses the pairs that run. */
	n = ctrl_idx(nd) != UINT16_MAX ? nd->pairs : nd->max_pairs;
	if (pair < n) {
		q = &nd->dev->vqs[2 * pair];
		if (likely(q->running))
			return q;
	}
	/* Another one, of those that the sender's lane executes. */
	lane = nd->dev->vqs[2 * pair + 1].lane;
	for (uint16_t i = 0; i < n; i++) {
		q = &nd->dev->vqs[2 * ((pair + i) % n)];
		if ((nd->dev->n_lanes == 1 || q->lane == lane) && q->running)
			return q;
	}
	return NULL;
}

static uint16_t
net_lane(const struct sim_queue *q)
{
	/* A pair stays together; the control queue is where a call for all lanes may begin. */
	return q->idx == ctrl_idx(net_of(q)) ? 0 : q->idx / 2 % q->dev->n_lanes;
}

uint16_t
net_get_status(struct net_device *nd)
{
	uint16_t status;

	memcpy(&status, nd->dev->config + offsetof(struct net_config, status), sizeof(status));
	return rte_le_to_cpu_16(status);
}

void
net_set_status(struct net_device *nd, uint16_t set, uint16_t clear)
{
	uint16_t old = net_get_status(nd), new = (uint16_t)((old & ~clear) | set);
	uint16_t le = rte_cpu_to_le_16(new);

	if (new == old)
		return;
	/* The driver's own acknowledgement is no news to it. */
	sim_config_write(nd->dev, offsetof(struct net_config, status), &le, sizeof(le),
			 clear != NET_S_ANNOUNCE);
}

/* Without the word mac: locally administered, the same for a name each time. */
static void
default_mac(const char *name, struct rte_ether_addr *mac)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	for (; *name != '\0'; name++)
		hash = (hash ^ (uint8_t)*name) * UINT64_C(0x100000001b3);
	memcpy(mac, &hash, sizeof(*mac));
	mac->addr_bytes[0] = 0x52;
}

static void
write_config(struct net_device *nd)
{
	struct net_config *c = (void *)nd->dev->config;

	memcpy(c->mac, &nd->mac, sizeof(c->mac));
	c->status = rte_cpu_to_le_16(nd->link_up ? NET_S_LINK_UP : 0);
	c->max_virtqueue_pairs = rte_cpu_to_le_16(nd->max_pairs);
	c->mtu = rte_cpu_to_le_16(nd->mtu != 0 ? nd->mtu : 1500);
}

/* Every device that is set up. Taken on control paths only. */
static pthread_mutex_t nets_lock = PTHREAD_MUTEX_INITIALIZER;

static int
compare_macs(const void *a, const void *b)
{
	const struct net_device *one = a, *other = b;

	return memcmp(&one->own_mac, &other->own_mac, sizeof(one->own_mac));
}

/* Several may have one address. */
static int
compare_nets(const void *a, const void *b)
{
	int mac = compare_macs(a, b);

	return mac != 0 ? mac : ((uintptr_t)a > (uintptr_t)b) - ((uintptr_t)a < (uintptr_t)b);
}

static struct vdpa_tree nets = {.compare = compare_nets};

/* Two guests of one network with one address lose each other's packets; of two networks they do
 * not, so this is no error. */
static int
nets_add(struct net_device *nd)
{
	const struct net_device *o;
	int rc;

	pthread_mutex_lock(&nets_lock);
	o = vdpa_tree_find_by(&nets, nd, compare_macs);
	rc = vdpa_tree_add(&nets, nd);
	if (rc == 0 && o != NULL)
		VDPA_LOG(WARNING,
			 "%s: has the mac of %s; in one network give each its own, or "
			 "leave the word mac out and one is made from the name",
			 nd->dev->vdev.name, o->dev->vdev.name);
	pthread_mutex_unlock(&nets_lock);
	return rc < 0 ? vdpa_error(ENOMEM, "out of memory") : 0;
}

static void
net_free(struct net_device *nd)
{
	free(nd->counters);
	free(nd->bursts);
	free(nd);
}

static int
net_init(struct sim_device *dev, const struct vdpa_args *args, struct vdpa_worker **worker)
{
	const struct vdpa_arg *backend = vdpa_args_find(args, "backend");
	const struct vdpa_arg *mac = vdpa_args_find(args, "mac");
	const struct vdpa_arg *link = vdpa_args_find(args, "link");
	struct net_device *nd = calloc(1, sizeof(*nd));
	int rc;

	if (nd == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	nd->dev = dev;
	nd->max_pairs = (uint16_t)vdpa_args_u64(args, "max_vqp", 1);
	nd->pairs = 1;
	nd->mtu = (uint16_t)vdpa_args_u64(args, "mtu", 0);
	nd->link_up = link == NULL || strcmp(link->choice->name, "up") == 0;
	if (mac != NULL)
		memcpy(&nd->own_mac, mac->mac, sizeof(nd->own_mac));
	else
		default_mac(dev->vdev.name, &nd->own_mac);
	nd->mac = nd->own_mac;
	dev->nvqs = (uint16_t)(2 * nd->max_pairs + 1);
	dev->n_lanes = (uint16_t)vdpa_args_u64(args, "workers", 1);
	dev->device_features = NET_FEATURES;
	if (nd->mtu == 0)
		dev->device_features &= ~SIM_BIT(NET_F_MTU);
	if (nd->max_pairs == 1)
		dev->device_features &= ~SIM_BIT(NET_F_MQ);
	nd->counters = calloc(dev->nvqs, sizeof(*nd->counters));
	nd->bursts = calloc(dev->n_lanes, sizeof(*nd->bursts));
	if (nd->counters == NULL || nd->bursts == NULL) {
		rc = vdpa_error(ENOMEM, "out of memory");
		goto err;
	}
	for (uint16_t i = 0; i < dev->n_lanes; i++)
		net_burst_init(&nd->bursts[i]);
	dev->priv = nd;
	nd->backend = &net_loopback;
	for (unsigned int i = 0; backend != NULL && i < RTE_DIM(backends); i++)
		if (strcmp(backends[i]->name, backend->choice->name) == 0)
			nd->backend = backends[i];
	if (dev->n_lanes > nd->max_pairs || (dev->n_lanes > 1 && nd->backend != &net_loopback)) {
		rc = vdpa_error(EINVAL,
				"workers %u: with backend loopback only, and one for each of the "
				"%u queue pairs (max_vqp) at most",
				dev->n_lanes, nd->max_pairs);
		goto err;
	}
	if (nd->backend->init != NULL) {
		rc = nd->backend->init(nd, backend, worker);
		if (rc < 0)
			goto err;
	}
	nd->frame_max = UINT32_MAX;
	net_filter_reset(nd);
	write_config(nd);
	return 0;

err:
	net_free(nd);
	return rc;
}

static int
net_setup(struct sim_device *dev)
{
	struct net_device *nd = dev->priv;
	int rc = nd->backend->setup != NULL ? nd->backend->setup(nd) : 0;

	if (rc < 0)
		return rc;
	rc = nets_add(nd);
	if (rc < 0 && nd->backend->teardown != NULL)
		nd->backend->teardown(nd);
	return rc;
}

static void
net_teardown(struct sim_device *dev)
{
	struct net_device *nd = dev->priv;

	pthread_mutex_lock(&nets_lock);
	vdpa_tree_del(&nets, nd);
	pthread_mutex_unlock(&nets_lock);
	if (nd->backend->teardown != NULL)
		nd->backend->teardown(nd);
}

static void
net_fini(struct sim_device *dev)
{
	struct net_device *nd = dev->priv;

	if (nd->backend->fini != NULL)
		nd->backend->fini(nd);
	net_free(nd);
}

struct link_change {
	struct net_device *nd;
	bool up;
};

static int
work_set_link(void *arg)
{
	struct link_change *c = arg;
	struct net_device *nd = c->nd, *from;

	nd->link_up = c->up;
	net_set_status(nd, c->up ? NET_S_LINK_UP : 0, c->up ? 0 : NET_S_LINK_UP);
	/* Packets that waited for buffers here can be dropped now. */
	from = nd->backend->source != NULL ? nd->backend->source(nd) : NULL;
	if (from != NULL)
		sim_wake(from->dev);
	return 0;
}

static int
net_set_attr(struct sim_device *dev, const struct vdpa_args *args)
{
	const struct vdpa_arg *link = vdpa_args_find(args, "link");
	struct link_change c = {.nd = dev->priv};

	if (link == NULL)
		return 0;
	c.up = strcmp(link->choice->name, "up") == 0;
	return sim_call(dev, work_set_link, &c);
}

/* Execution, on the worker. */

static unsigned int
net_process(struct sim_queue *q, unsigned int budget)
{
	struct net_device *nd = q->dev->priv;

	if (q->idx == ctrl_idx(nd))
		return net_ctrl_process(q, budget);
	if ((q->idx & 1) == 0)
		return 0;
	if (unlikely(!nd->link_up))
		return net_tx_discard(q, NET_DROP_LINK_DOWN, budget);
	return nd->backend->tx(nd, q, budget);
}

static unsigned int
net_poll(struct sim_device *dev, unsigned int budget)
{
	struct net_device *nd = dev->priv;

	return nd->backend->poll != NULL ? nd->backend->poll(nd, budget) : 0;
}

static bool
net_arm(struct sim_queue *q)
{
	struct net_device *nd = q->dev->priv;
	struct sim_queue *sink;

	if (q->idx != ctrl_idx(nd) && (q->idx & 1) == 0)
		return false;
	if (!vdpa_vq_enable_kicks(q->vq))
		return false;
	/* Packets are there. They wait only where the receiver has no buffers. */
	if (q->idx == ctrl_idx(nd) || !nd->link_up || nd->backend->sink == NULL)
		return true;
	sink = nd->backend->sink(nd, q);
	if (sink == NULL)
		return true;
	return vdpa_vq_enable_kicks(sink->vq) || vdpa_vq_avail(sink->vq) > 0;
}

static void
net_kicked(struct sim_queue *q)
{
	struct net_device *nd = q->dev->priv, *from;

	if ((q->idx & 1) != 0 || nd->backend->source == NULL)
		return;
	from = nd->backend->source(nd);
	if (from != NULL && from != nd)
		sim_wake(from->dev);
}

/*
 * A receive queue comes or goes: who sends to it looks again. Its kicks are the sender's to ask for
 * (net_arm()), which may be another device: this one waking up must not turn them off.
 */
static void
net_vq_change(struct sim_queue *q)
{
	q->own_kicks = (q->idx & 1) == 0 && q->idx != ctrl_idx(net_of(q));
	if ((q->idx & 1) == 0)
		net_kicked(q);
}

static void
net_start(struct sim_device *dev)
{
	struct net_device *nd = dev->priv;

	nd->mrg = (dev->features & SIM_BIT(NET_F_MRG_RXBUF)) != 0;
	nd->frame_max = (dev->features & SIM_BIT(NET_F_MTU)) != 0
				? (uint32_t)nd->mtu + RTE_ETHER_HDR_LEN + RTE_VLAN_HLEN
				: UINT32_MAX;
	/* A driver that can set VLANs has none until it does (virtio 1.2, 5.1.6.5.3). */
	nd->vlan_filtering = (dev->features & SIM_BIT(NET_F_CTRL_VLAN)) != 0;
	net_filter_update(nd);
	if (nd->backend->start != NULL)
		nd->backend->start(nd);
}

static void
net_stop(struct sim_device *dev)
{
	struct net_device *nd = dev->priv;

	if (nd->backend->stop != NULL)
		nd->backend->stop(nd);
}

static void
net_reset(struct sim_device *dev)
{
	struct net_device *nd = dev->priv;

	nd->pairs = 1;
	net_filter_reset(nd);
	net_set_mac(nd, &nd->own_mac);
	net_set_status(nd, 0, NET_S_ANNOUNCE);
}

/* The guest moved here: tell the other end's switches (a RARP request, as QEMU sends it). */
static int
net_announce(struct sim_device *dev, const uint8_t mac[6])
{
	struct net_device *nd = dev->priv;
	struct {
		struct rte_ether_hdr eth;
		struct rte_arp_hdr arp;
		uint8_t pad[18];
	} frame = {
		.eth.ether_type = RTE_BE16(RTE_ETHER_TYPE_RARP),
		.arp = {.arp_hardware = RTE_BE16(RTE_ARP_HRD_ETHER),
			.arp_protocol = RTE_BE16(RTE_ETHER_TYPE_IPV4),
			.arp_hlen = RTE_ETHER_ADDR_LEN,
			.arp_plen = 4,
			.arp_opcode = RTE_BE16(RTE_ARP_OP_REVREQUEST)},
	};

	sim_count(&nd->announces, 1);
	memset(&frame.eth.dst_addr, 0xff, sizeof(frame.eth.dst_addr));
	memcpy(&frame.eth.src_addr, mac, 6);
	memcpy(&frame.arp.arp_data.arp_sha, mac, 6);
	memcpy(&frame.arp.arp_data.arp_tha, mac, 6);
	if (nd->link_up && nd->backend->send != NULL)
		nd->backend->send(nd, &frame, sizeof(frame));
	/* A driver that can does it better: it knows its addresses. */
	if (ctrl_idx(nd) != UINT16_MAX && (dev->features & SIM_BIT(NET_F_GUEST_ANNOUNCE)) != 0) {
		net_set_status(nd, NET_S_ANNOUNCE, 0);
		sim_state_changed(dev);
	}
	return 0;
}

static uint64_t
counted(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static int
net_vq_stats(struct sim_queue *q, struct vdpa_stat *stats, unsigned int n)
{
	static const char *const drops[NET_DROPS] = {
		[NET_DROP_LINK_DOWN] = "drop_link_down", [NET_DROP_MALFORMED] = "drop_malformed",
		[NET_DROP_NO_PEER] = "drop_no_peer",	 [NET_DROP_NO_BUFFER] = "drop_no_buffer",
		[NET_DROP_TOO_SMALL] = "drop_too_small", [NET_DROP_FILTERED] = "drop_filtered",
		[NET_DROP_OVER_MTU] = "drop_over_mtu",	 [NET_DROP_UNANSWERED] = "drop_unanswered",
		[NET_DROP_PORT] = "drop_port",
	};
	const struct net_counters *c = net_counters(q);
	uint64_t errors = counted(&c->drops[NET_DROP_MALFORMED]), dropped = 0;
	int i = 0;

	if (q->idx == q->dev->nvqs - 1)
		return sim_stat(stats, n, i, VDPA_QSTAT_ERRORS, &net_of(q)->ctrl_errors);
	for (unsigned int d = 0; d < NET_DROPS; d++)
		dropped += d != NET_DROP_MALFORMED ? counted(&c->drops[d]) : 0;
	i = sim_stat(stats, n, i, VDPA_QSTAT_PACKETS, &c->packets);
	i = sim_stat(stats, n, i, VDPA_QSTAT_BYTES, &c->bytes);
	i = sim_stat(stats, n, i, VDPA_QSTAT_ERRORS, &errors);
	i = sim_stat(stats, n, i, VDPA_QSTAT_DROPPED, &dropped);
	for (unsigned int d = 0; d < NET_DROPS; d++)
		i = sim_stat(stats, n, i, drops[d], &c->drops[d]);
	return i;
}

static int
net_stats(struct sim_device *dev, struct vdpa_stat *stats, unsigned int n)
{
	const struct net_device *nd = dev->priv;
	uint64_t packets[2] = {0}, bytes[2] = {0}, drops[2] = {0};
	int i = 0;

	for (uint16_t q = 0; q < 2 * nd->max_pairs; q++) {
		const struct net_counters *c = &nd->counters[q];

		packets[q & 1] += counted(&c->packets);
		bytes[q & 1] += counted(&c->bytes);
		for (unsigned int d = 0; d < NET_DROPS; d++)
			drops[q & 1] += counted(&c->drops[d]);
	}
	i = sim_stat(stats, n, i, "rx_packets", &packets[0]);
	i = sim_stat(stats, n, i, "tx_packets", &packets[1]);
	i = sim_stat(stats, n, i, "rx_bytes", &bytes[0]);
	i = sim_stat(stats, n, i, "tx_bytes", &bytes[1]);
	i = sim_stat(stats, n, i, "rx_drops", &drops[0]);
	i = sim_stat(stats, n, i, "tx_drops", &drops[1]);
	i = sim_stat(stats, n, i, "ctrl_commands", &nd->ctrl_commands);
	i = sim_stat(stats, n, i, "ctrl_errors", &nd->ctrl_errors);
	return sim_stat(stats, n, i, "announces", &nd->announces);
}

/* All of the device is in its words, but for what the guest sets by the control queue: that is in
 * its state (net_state.c). */
static int
net_can_restart(struct sim_device *dev)
{
	return 0;
}

const struct sim_class sim_net_class = {
	.name = "sim_net",
	.help = "simulated network device",
	.device_id = 1,
	.config_size = sizeof(struct net_config),
	.supported_features = NET_FEATURES,
	.max_vqs = 2 * NET_MAX_PAIRS + 1,
	.params = net_params,
	.attr_params = net_attr_params,
	.init = net_init,
	.lane = net_lane,
	.setup = net_setup,
	.teardown = net_teardown,
	.fini = net_fini,
	.set_attr = net_set_attr,
	.process = net_process,
	.poll = net_poll,
	.arm = net_arm,
	.kicked = net_kicked,
	.vq_start = net_vq_change,
	.vq_stop = net_vq_change,
	.start = net_start,
	.stop = net_stop,
	.reset = net_reset,
	.vq_stats = net_vq_stats,
	.stats = net_stats,
	.announce = net_announce,
	.save_state = net_save_state,
	.load_state = net_load_state,
	.can_restart = net_can_restart,
};
