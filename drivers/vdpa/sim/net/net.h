/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file net.h
 * Internal: the simulated network device (virtio 1.2, 5.1), and its back ends.
 *
 * Virtqueues: 2 i is the receive queue of pair i, 2 i + 1 its transmit queue, then the control
 * queue. A back end decides where transmitted packets go and where received ones come from.
 * Everything here runs on the device's worker unless said otherwise.
 */

#ifndef SIM_NET_H
#define SIM_NET_H

#include <rte_ether.h>

#include "../sim.h"

#define NET_F_MTU	     3
#define NET_F_MAC	     5
#define NET_F_MRG_RXBUF	     15
#define NET_F_STATUS	     16
#define NET_F_CTRL_VQ	     17
#define NET_F_CTRL_RX	     18
#define NET_F_CTRL_VLAN	     19
#define NET_F_CTRL_RX_EXTRA  20
#define NET_F_GUEST_ANNOUNCE 21
#define NET_F_MQ	     22
#define NET_F_CTRL_MAC_ADDR  23

#define NET_S_LINK_UP  1
#define NET_S_ANNOUNCE 2

#define NET_MAX_PAIRS 64
#define NET_BURST     32
/* Receive chains that one pass may hold: a burst, and what merging takes beyond it. */
#define NET_RX_CHAINS 64
/* Buffers of one chain; Linux sends at most 19. */
#define NET_IOV	      24
/* Without offloads: the largest IP packet and a tagged Ethernet header. */
#define NET_FRAME_MAX (65535 + 18)
#define NET_MAC_TABLE 64

/* virtio_net_hdr as it is since version 1. */
struct net_hdr {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
	uint16_t num_buffers;
} __attribute__((packed));
_Static_assert(sizeof(struct net_hdr) == 12, "virtio 1.2, 5.1.6");

/* virtio_net_config up to mtu. */
struct net_config {
	uint8_t mac[6];
	uint16_t status;
	uint16_t max_virtqueue_pairs;
	uint16_t mtu;
} __attribute__((packed));
_Static_assert(sizeof(struct net_config) == 12, "virtio 1.2, 5.1.4");

struct net_device;

/* Why a packet was not passed on. */
enum net_drop {
	NET_DROP_LINK_DOWN,
	NET_DROP_MALFORMED, /* no header, or longer than a packet can be */
	NET_DROP_NO_PEER,
	NET_DROP_NO_BUFFER, /* the receiver has none */
	NET_DROP_TOO_SMALL, /* the receiver's buffers are too small */
	NET_DROP_FILTERED,
	NET_DROP_OVER_MTU,
	NET_DROP_UNANSWERED, /* echo: nothing it answers */
	NET_DROP_PORT,	     /* uplink: the port took no more */
	NET_DROPS
};

/* Counters of a virtqueue: of what it sent, or of what it received. */
struct net_counters {
	uint64_t packets;
	uint64_t bytes;
	uint64_t drops[NET_DROPS];
};

/** What is at the other end. */
struct net_backend {
	const char *name;
	/** Take its value of the word backend; before queues and worker exist. */
	int (*init)(struct net_device *nd, const struct vdpa_arg *arg, struct vdpa_worker **worker);
	/** As in struct sim_class. Optional. */
	int (*setup)(struct net_device *nd);
	void (*teardown)(struct net_device *nd);
	void (*fini)(struct net_device *nd);
	void (*start)(struct net_device *nd);
	void (*stop)(struct net_device *nd);
	/** Take up to budget chains of a transmit queue; how many were done. */
	unsigned int (*tx)(struct net_device *nd, struct sim_queue *txq, unsigned int budget);
	unsigned int (*poll)(struct net_device *nd, unsigned int budget);
	/** Where packets of this transmit queue go, if that is a receive queue whose lack of
	 * buffers holds them back: armed with it. Optional. */
	struct sim_queue *(*sink)(struct net_device *nd, struct sim_queue *txq);
	/** Who may wait for buffers of a receive queue of nd. Optional. */
	struct net_device *(*source)(struct net_device *nd);
	/** Send a frame of our own. Optional. */
	void (*send)(struct net_device *nd, const void *frame, uint32_t len);
};

extern const struct net_backend net_loopback, net_echo, net_peer, net_uplink;

/* Storage of one burst; per lane, so that a burst finds its own in cache. */
struct net_burst {
	struct vdpa_vq_chain tx[NET_BURST];
	struct vdpa_vq_chain rx[NET_RX_CHAINS];
	struct iovec tx_iov[NET_BURST][NET_IOV];
	struct iovec rx_iov[NET_RX_CHAINS][NET_IOV];
	uint32_t rx_written[NET_RX_CHAINS];
};

struct net_device {
	struct sim_device *dev;
	const struct net_backend *backend;
	void *backend_priv;
	struct net_counters *counters; /* by virtqueue */
	struct net_burst *bursts;      /* by lane */
	bool link_up;
	bool filtering; /* some packet may be refused by the filters below */
	bool mrg;	/* mergeable buffers */
	uint16_t pairs; /* in use by the driver, with a control queue */
	uint16_t max_pairs;
	uint16_t mtu;
	uint32_t frame_max; /* to the driver */

	/* Receive filters (5.1.6.5.1 to 5.1.6.5.3). */
	bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
	bool uni_overflow, multi_overflow; /* more addresses than the table holds: all */
	bool vlan_filtering;
	uint16_t nuni, nmulti;
	struct rte_ether_addr uni[NET_MAC_TABLE], multi[NET_MAC_TABLE];
	uint8_t vlans[4096 / 8];

	struct rte_ether_addr mac;     /* in force; the driver can change it */
	struct rte_ether_addr own_mac; /* as configured */
	uint64_t ctrl_commands, ctrl_errors, announces;
};

static inline struct net_device *
net_of(const struct sim_queue *q)
{
	return q->dev->priv;
}

static inline struct net_counters *
net_counters(const struct sim_queue *q)
{
	return &net_of(q)->counters[q->idx];
}

/** The storage for a burst of this virtqueue's lane. */
static inline struct net_burst *
net_burst(const struct sim_queue *q)
{
	return &net_of(q)->bursts[q->lane - q->dev->lanes];
}

static inline void
net_drop(const struct sim_queue *q, enum net_drop why, uint64_t n)
{
	sim_count(&net_counters(q)->drops[why], n);
}

/** The receive queue of nd that gets what comes from pair `pair`; NULL when none runs. */
struct sim_queue *net_rxq(struct net_device *nd, uint16_t pair);

/* net_forward.c */

/** Give the chains of a burst their iovecs, once. */
void net_burst_init(struct net_burst *b);
/**
 * Pass packets from txq to rxq (NULL: dropped for `why`), one copy, guest memory to guest memory.
 * Packets stay in txq when rxq has no buffers. Returns chains done.
 */
unsigned int net_forward(struct sim_queue *txq, struct sim_queue *rxq, enum net_drop why,
			 unsigned int budget);
/** Copy frames that we have to a receive queue, one signal for all. Returns how many fitted. */
unsigned int net_deliver(struct sim_queue *rxq, const struct iovec *frames, unsigned int n);
/** Take up to n transmitted frames; net_burst(txq)->tx holds them. 0: none. Errors are handled. */
unsigned int net_tx_pop(struct sim_queue *txq, unsigned int n);
/** The frame of a chain into buf (NET_FRAME_MAX bytes); its length, 0: malformed. */
uint32_t net_tx_copy(const struct vdpa_vq_chain *chain, uint8_t *buf, uint32_t room);
/** Return n chains of net_burst(txq)->tx in one batch. */
void net_tx_done(struct sim_queue *txq, unsigned int n);
/** Drop all that is there of a transmit queue. */
unsigned int net_tx_discard(struct sim_queue *txq, enum net_drop why, unsigned int budget);

/* net_ctrl.c */

/** Execute the control queue. */
unsigned int net_ctrl_process(struct sim_queue *q, unsigned int budget);
/** Filters as after reset. */
void net_filter_reset(struct net_device *nd);
/** Whether the driver wants the frame; at least the first RTE_MIN(len, 18) bytes are there. */
bool net_filter_pass(const struct net_device *nd, const uint8_t *frame, uint32_t len);

/** A filter has changed. */
void net_filter_update(struct net_device *nd);
/** The address in force, in the configuration too. */
void net_set_mac(struct net_device *nd, const struct rte_ether_addr *mac);

/* net_state.c: of struct sim_class. */
int net_save_state(struct sim_device *dev, void *buf, size_t room);
int net_load_state(struct sim_device *dev, const void *buf, size_t len);

/* net.c: change the status field and tell the driver. */
void net_set_status(struct net_device *nd, uint16_t set, uint16_t clear);
uint16_t net_get_status(struct net_device *nd);

#endif /* SIM_NET_H */
