/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Back end loopback: what a pair transmits it receives. A wire without loss: with no receive
 * buffers, packets wait in the transmit queue.
 */

#include "net.h"

static struct sim_queue *
loopback_sink(struct net_device *nd, struct sim_queue *txq)
{
	return net_rxq(nd, txq->idx / 2);
}

static unsigned int
loopback_tx(struct net_device *nd, struct sim_queue *txq, unsigned int budget)
{
	return net_forward(txq, loopback_sink(nd, txq), NET_DROP_NO_BUFFER, budget);
}

static struct net_device *
loopback_source(struct net_device *nd)
{
	return nd;
}

const struct net_backend net_loopback = {
	.name = "loopback",
	.tx = loopback_tx,
	.sink = loopback_sink,
	.source = loopback_source,
};
