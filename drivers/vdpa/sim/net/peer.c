/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Back end peer: two devices, each the other's wire. They share a worker, so a packet goes from one
 * guest's memory to the other's in one copy and without a lock. Either may be created first, and
 * go.
 */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"
#include "tree.h"

struct peer {
	struct net_device *nd;
	struct net_device *other;   /* the worker's; NULL: away */
	struct vdpa_worker *worker; /* of both */
	bool set_up;		    /* the device can be linked; the lock's */
	char other_name[VDPA_NAME_MAX];
};

/* Every device with this back end. Taken on control paths only, never on a worker. */
static pthread_mutex_t peers_lock = PTHREAD_MUTEX_INITIALIZER;

static int
compare_with_name(const void *name, const void *p)
{
	return strcmp(name, ((const struct peer *)p)->nd->dev->vdev.name);
}

static int
compare_peers(const void *a, const void *b)
{
	return compare_with_name(((const struct peer *)a)->nd->dev->vdev.name, b);
}

static struct vdpa_tree peers = {.compare = compare_peers};

/* Under the lock: the device that p names. */
static struct peer *
find_other(const struct peer *p)
{
	return vdpa_tree_find_by(&peers, p->other_name, compare_with_name);
}

static int
peer_init(struct net_device *nd, const struct vdpa_arg *arg, struct vdpa_worker **worker)
{
	struct peer *p = calloc(1, sizeof(*p)), *o;
	const char *name = nd->dev->vdev.name;
	int rc = 0;

	if (p == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	p->nd = nd;
	snprintf(p->other_name, sizeof(p->other_name), "%s", arg->str);
	if (strcmp(name, p->other_name) == 0)
		rc = vdpa_error(EINVAL, "backend peer '%s': a device cannot be its own peer", name);
	pthread_mutex_lock(&peers_lock);
	o = rc == 0 ? find_other(p) : NULL;
	if (o != NULL && strcmp(o->other_name, name) != 0)
		rc = vdpa_error(EBUSY, "backend peer '%s': it is the peer of '%s'", p->other_name,
				o->other_name);
	if (rc == 0) {
		/* Whoever is first chooses for both, also when both are made at once. */
		*worker = vdpa_worker_get(o != NULL ? o->worker : NULL);
		p->worker = *worker;
		rc = p->worker != NULL ? vdpa_tree_add(&peers, p) : -ENOMEM;
		if (rc == 0)
			nd->backend_priv = p;
		else if (p->worker != NULL)
			vdpa_worker_put(p->worker);
	}
	pthread_mutex_unlock(&peers_lock);
	if (rc < 0)
		free(p);
	return rc;
}

static int
work_link(void *arg)
{
	struct peer **pair = arg;

	pair[0]->other = pair[1]->nd;
	pair[1]->other = pair[0]->nd;
	return 0;
}

static int
work_unlink(void *arg)
{
	struct peer *p = arg;

	if (p->other != NULL) {
		struct peer *o = p->other->backend_priv;

		o->other = NULL;
		p->other = NULL;
	}
	return 0;
}

static int
peer_setup(struct net_device *nd)
{
	struct peer *p = nd->backend_priv, *o;

	/* Under one lock: of two that are set up at once the second links both. */
	pthread_mutex_lock(&peers_lock);
	p->set_up = true;
	o = find_other(p);
	if (o != NULL && o->set_up) {
		struct peer *pair[2] = {p, o};

		sim_call(nd->dev, work_link, pair);
	}
	pthread_mutex_unlock(&peers_lock);
	return 0;
}

static void
peer_teardown(struct net_device *nd)
{
	struct peer *p = nd->backend_priv;

	pthread_mutex_lock(&peers_lock);
	p->set_up = false;
	sim_call(nd->dev, work_unlink, p);
	pthread_mutex_unlock(&peers_lock);
}

static void
peer_fini(struct net_device *nd)
{
	struct peer *p = nd->backend_priv;

	pthread_mutex_lock(&peers_lock);
	vdpa_tree_del(&peers, p);
	pthread_mutex_unlock(&peers_lock);
	free(p);
}

/* A wire without an end drops what is sent: a misspelled name would show by that only. */
static void
peer_start(struct net_device *nd)
{
	const struct peer *p = nd->backend_priv;
	const char *name = nd->dev->vdev.name;

	if (p->other == NULL)
		VDPA_LOG(WARNING,
			 "%s: backend peer '%s': no device of that name has backend peer %s; "
			 "packets are dropped until one is added",
			 name, p->other_name, name);
}

static struct sim_queue *
peer_sink(struct net_device *nd, struct sim_queue *txq)
{
	const struct peer *p = nd->backend_priv;

	if (p->other == NULL || !p->other->link_up)
		return NULL;
	return net_rxq(p->other, txq->idx / 2);
}

static unsigned int
peer_tx(struct net_device *nd, struct sim_queue *txq, unsigned int budget)
{
	struct sim_queue *rxq = peer_sink(nd, txq);

	return net_forward(txq, rxq, NET_DROP_NO_PEER, budget);
}

static struct net_device *
peer_source(struct net_device *nd)
{
	const struct peer *p = nd->backend_priv;

	return p->other;
}

static void
peer_send(struct net_device *nd, const void *frame, uint32_t len)
{
	const struct peer *p = nd->backend_priv;
	struct iovec v = {.iov_base = (void *)(uintptr_t)frame, .iov_len = len};
	struct sim_queue *rxq = p->other != NULL && p->other->link_up ? net_rxq(p->other, 0) : NULL;

	if (rxq != NULL)
		net_deliver(rxq, &v, 1);
}

const struct net_backend net_peer = {
	.name = "peer",
	.init = peer_init,
	.setup = peer_setup,
	.teardown = peer_teardown,
	.fini = peer_fini,
	.start = peer_start,
	.tx = peer_tx,
	.sink = peer_sink,
	.source = peer_source,
	.send = peer_send,
};
