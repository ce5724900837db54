/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Back end uplink: an ethdev port of this process, such as net_tap0. The port is configured with
 * one queue each way, started and stopped with the device's session. Where the port has receive
 * interrupts they wake the worker; where it has none (net_pcap) it is looked at every millisecond
 * while the session lasts.
 */

#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <rte_ethdev.h>
#include <rte_ip.h>
#include <rte_jhash.h>
#include <rte_mbuf.h>

#include "net.h"

#define RING_SIZE  512
#define POOL_SIZE  4095
#define TICK_NS	   1000000
/* Longest frame that one mbuf holds: no scattering. */
#define FRAME_ROOM 9216

struct uplink {
	struct net_device *nd;
	uint16_t port;
	char name[RTE_ETH_NAME_MAX_LEN];
	struct rte_mempool *pool; /* the port's, see port_pool() */
	uint64_t owner;		  /* of the port; RTE_ETH_DEV_NO_OWNER: it is not ours */
	struct vdpa_event wake;	  /* receive interrupt or timer */
	bool has_intr, configured, started;
	int timer;
};

/* Whoever names a port that DPDK does not have usually means an interface of the kernel's. */
static int
no_port(const char *name)
{
	if (if_nametoindex(name) != 0)
		return vdpa_error(
			ENODEV,
			"backend uplink '%s': an interface of the kernel, not a port of "
			"DPDK; give EAL --vdev net_af_packet0,iface=%s before the --, and "
			"backend uplink net_af_packet0",
			name, name);
	return vdpa_error(ENODEV,
			  "backend uplink '%s': DPDK has no port of that name; give EAL --vdev "
			  "%s,... for a virtual one or -a ADDRESS for a PCI one, before the --",
			  name, name);
}

static int
uplink_init(struct net_device *nd, const struct vdpa_arg *arg, struct vdpa_worker **worker)
{
	struct uplink *u;
	uint16_t port;

	if (rte_eth_dev_get_port_by_name(arg->str, &port) != 0)
		return no_port(arg->str);
	u = calloc(1, sizeof(*u));
	if (u == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	u->nd = nd;
	u->port = port;
	u->timer = -1;
	u->owner = RTE_ETH_DEV_NO_OWNER;
	u->wake.fd = -1;
	snprintf(u->name, sizeof(u->name), "%s", arg->str);
	nd->backend_priv = u;
	return 0;
}

/* One device a port: DPDK keeps who has it. */
static int
port_take(struct uplink *u)
{
	struct rte_eth_dev_owner owner;
	int rc = rte_eth_dev_owner_new(&owner.id);

	if (rc < 0)
		return vdpa_error(rc, "backend uplink '%s': %s", u->name, rte_strerror(-rc));
	snprintf(owner.name, sizeof(owner.name), "uvdpa");
	rc = rte_eth_dev_owner_set(u->port, &owner);
	if (rc < 0)
		return vdpa_error(rc == -EPERM ? EBUSY : rc, "backend uplink '%s': %s", u->name,
				  rc == -EPERM ? "the port is in use" : rte_strerror(-rc));
	u->owner = owner.id;
	return 0;
}

/*
 * Packet buffers of the port. A port that is stopped still has some, until it is closed or set up
 * anew: they live as long as the process, and the next device with this port finds them.
 */
static int
port_pool(struct uplink *u)
{
	char name[RTE_MEMPOOL_NAMESIZE];

	snprintf(name, sizeof(name), "uvdpa-uplink-%u", u->port);
	u->pool = rte_mempool_lookup(name);
	if (u->pool == NULL)
		u->pool = rte_pktmbuf_pool_create(name, POOL_SIZE, 0, 0,
						  FRAME_ROOM + RTE_PKTMBUF_HEADROOM, SOCKET_ID_ANY);
	if (u->pool == NULL)
		return vdpa_error(rte_errno, "backend uplink '%s': packet buffers: %s", u->name,
				  rte_strerror(rte_errno));
	return 0;
}

static int
port_configure(struct uplink *u)
{
	struct rte_eth_conf conf = {.intr_conf.rxq = 1};
	int socket = rte_eth_dev_socket_id(u->port), rc;
	uint16_t nrx = RING_SIZE, ntx = RING_SIZE;
	struct rte_eth_dev_info info;

	if (socket < 0)
		socket = SOCKET_ID_ANY;
	rc = rte_eth_dev_info_get(u->port, &info);
	if (rc < 0)
		return rc;
	rc = rte_eth_dev_configure(u->port, 1, 1, &conf);
	u->has_intr = rc == 0;
	if (rc < 0) {
		conf.intr_conf.rxq = 0;
		rc = rte_eth_dev_configure(u->port, 1, 1, &conf);
	}
	if (rc == 0)
		rc = rte_eth_dev_adjust_nb_rx_tx_desc(u->port, &nrx, &ntx);
	if (rc == 0)
		rc = rte_eth_rx_queue_setup(u->port, 0, nrx, (unsigned int)socket, NULL, u->pool);
	if (rc == 0)
		rc = rte_eth_tx_queue_setup(u->port, 0, ntx, (unsigned int)socket, NULL);
	return rc;
}

static void
uplink_event(struct vdpa_event *ev, uint32_t revents)
{
	struct uplink *u = ev->arg;
	uint64_t ticks;

	if (ev->fd == u->timer)
		(void)!read(ev->fd, &ticks, sizeof(ticks));
	sim_wake(u->nd->dev);
}

static void
uplink_teardown(struct net_device *nd)
{
	struct uplink *u = nd->backend_priv;

	vdpa_event_del(&u->wake);
	if (u->started)
		rte_eth_dev_stop(u->port);
	u->started = false;
	if (u->timer >= 0)
		close(u->timer);
	u->timer = -1;
	if (u->owner != RTE_ETH_DEV_NO_OWNER)
		rte_eth_dev_owner_unset(u->port, u->owner);
	u->owner = RTE_ETH_DEV_NO_OWNER;
}

static int
uplink_setup(struct net_device *nd)
{
	struct uplink *u = nd->backend_priv;
	int rc;

	rc = port_take(u);
	if (rc == 0)
		rc = port_pool(u);
	if (rc < 0)
		goto err;
	rc = port_configure(u);
	if (rc == 0)
		rc = rte_eth_dev_start(u->port);
	if (rc < 0) {
		vdpa_error(rc, "backend uplink '%s': %s", u->name, rte_strerror(-rc));
		goto err;
	}
	u->started = true;
	/* It serves a guest with addresses of its own. A port that cannot is reported in the log.
	 */
	if (rte_eth_promiscuous_enable(u->port) < 0)
		VDPA_LOG(WARNING, "%s: uplink '%s' has no promiscuous mode", nd->dev->vdev.name,
			 u->name);
	u->wake =
		(struct vdpa_event){.fd = -1, .events = EPOLLIN, .handler = uplink_event, .arg = u};
	if (u->has_intr)
		u->wake.fd = rte_eth_dev_rx_intr_ctl_q_get_fd(u->port, 0);
	if (u->wake.fd < 0) {
		u->has_intr = false;
		u->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
		u->wake.fd = u->timer;
		if (u->timer < 0) {
			rc = vdpa_error(errno, "timerfd: %s", strerror(errno));
			goto err;
		}
	}
	return 0;

err:
	uplink_teardown(nd);
	return rc;
}

static void
uplink_fini(struct net_device *nd)
{
	free(nd->backend_priv);
}

static void
uplink_start(struct net_device *nd)
{
	struct uplink *u = nd->backend_priv;
	const struct itimerspec tick = {.it_interval.tv_nsec = TICK_NS,
					.it_value.tv_nsec = TICK_NS};
	int rc;

	if (u->timer >= 0)
		timerfd_settime(u->timer, 0, &tick, NULL);
	else
		rte_eth_dev_rx_intr_enable(u->port, 0);
	rc = vdpa_event_add(sim_loop(nd->dev), &u->wake);
	if (rc < 0)
		vdpa_device_fail(&nd->dev->vdev, -1, rc, "uplink '%s': cannot wait for it",
				 u->name);
}

static void
uplink_stop(struct net_device *nd)
{
	struct uplink *u = nd->backend_priv;
	const struct itimerspec off = {0};

	vdpa_event_del(&u->wake);
	if (u->timer >= 0)
		timerfd_settime(u->timer, 0, &off, NULL);
	else
		rte_eth_dev_rx_intr_disable(u->port, 0);
}

static unsigned int
uplink_tx(struct net_device *nd, struct sim_queue *txq, unsigned int budget)
{
	struct uplink *u = nd->backend_priv;
	struct net_counters *c = net_counters(txq);
	struct rte_mbuf *out[NET_BURST];
	unsigned int n = net_tx_pop(txq, budget), nout = 0;
	uint64_t bytes = 0;
	uint16_t sent;

	if (n == 0)
		return 0;
	for (unsigned int i = 0; i < n; i++) {
		struct rte_mbuf *m = rte_pktmbuf_alloc(u->pool);
		uint32_t len;

		if (m == NULL) {
			net_drop(txq, NET_DROP_PORT, 1);
			continue;
		}
		len = net_tx_copy(&net_burst(txq)->tx[i], rte_pktmbuf_mtod(m, uint8_t *),
				  rte_pktmbuf_tailroom(m));
		if (len == 0) {
			net_drop(txq, NET_DROP_MALFORMED, 1);
			rte_pktmbuf_free(m);
			continue;
		}
		m->data_len = (uint16_t)len;
		m->pkt_len = len;
		out[nout++] = m;
	}
	net_tx_done(txq, n);
	for (unsigned int i = 0; i < nout; i++)
		bytes += out[i]->pkt_len;
	sent = rte_eth_tx_burst(u->port, 0, out, (uint16_t)nout);
	for (unsigned int i = sent; i < nout; i++) {
		bytes -= out[i]->pkt_len;
		rte_pktmbuf_free(out[i]);
	}
	sim_count(&c->packets, sent);
	sim_count(&c->bytes, bytes);
	if (sent < nout)
		net_drop(txq, NET_DROP_PORT, nout - sent);
	return n;
}

/* The pair that gets a frame: those of one flow stay together. */
static uint16_t
steer(const struct net_device *nd, const uint8_t *frame, size_t len)
{
	uint16_t type;

	if (nd->max_pairs == 1 || len < 14 + 40)
		return 0;
	type = (uint16_t)(frame[12] << 8 | frame[13]);
	if (type == RTE_ETHER_TYPE_IPV4)
		return (uint16_t)(rte_jhash(frame + 14 + 12, 8, 0) & 0x7fff);
	if (type == RTE_ETHER_TYPE_IPV6)
		return (uint16_t)(rte_jhash(frame + 14 + 8, 32, 0) & 0x7fff);
	return 0;
}

static unsigned int
uplink_poll(struct net_device *nd, unsigned int budget)
{
	struct uplink *u = nd->backend_priv;
	struct rte_mbuf *in[NET_BURST];
	struct iovec frames[NET_BURST];
	struct sim_queue *to[NET_BURST];
	uint16_t n = rte_eth_rx_burst(u->port, 0, in, NET_BURST);

	for (uint16_t i = 0; i < n; i++) {
		frames[i].iov_base = rte_pktmbuf_mtod(in[i], void *);
		frames[i].iov_len = in[i]->data_len;
		to[i] = NULL;
		if (nd->link_up && in[i]->nb_segs == 1)
			to[i] = net_rxq(nd, steer(nd, frames[i].iov_base, frames[i].iov_len));
		if (to[i] == NULL)
			sim_count(&nd->counters[0].drops[nd->link_up ? NET_DROP_NO_BUFFER
								     : NET_DROP_LINK_DOWN],
				  1);
	}
	for (uint16_t i = 0, j; i < n; i = j) {
		for (j = i + 1; j < n && to[j] == to[i]; j++)
			;
		if (to[i] != NULL && to[i]->running)
			net_deliver(to[i], &frames[i], j - i);
	}
	rte_pktmbuf_free_bulk(in, n);
	return n;
}

static void
uplink_send(struct net_device *nd, const void *frame, uint32_t len)
{
	struct uplink *u = nd->backend_priv;
	struct rte_mbuf *m = rte_pktmbuf_alloc(u->pool);

	if (m == NULL)
		return;
	memcpy(rte_pktmbuf_append(m, (uint16_t)len), frame, len);
	if (rte_eth_tx_burst(u->port, 0, &m, 1) != 1)
		rte_pktmbuf_free(m);
}

const struct net_backend net_uplink = {
	.name = "uplink",
	.init = uplink_init,
	.setup = uplink_setup,
	.teardown = uplink_teardown,
	.fini = uplink_fini,
	.start = uplink_start,
	.stop = uplink_stop,
	.tx = uplink_tx,
	.poll = uplink_poll,
	.send = uplink_send,
};
