/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A device behind a vhost-user socket: what QEMU or virtio-user would say to start, change and stop
 * it. The front end is trusted by the protocol to keep the order of status bits, so rules about
 * those are the back end's to refuse or not.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/vhost.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>

#include <vdpa.h>

#include "target.h"
#include "vhu_client.h"

#define S_ACKNOWLEDGE 0x01
#define S_DRIVER      0x02
#define S_DRIVER_OK   0x04
#define S_FEATURES_OK 0x08
#define S_NEEDS_RESET 0x40

#define BIT(n) (1ULL << (n))

/* What the protocol does not tell. */
#define NUM_MAX		256u
/* Between the user addresses of two sessions. */
#define UADDR_STEP	(1ULL << 42)
#define NET_CONFIG_SIZE 12u /* up to the MTU */
#define BLK_CONFIG_SIZE 60u /* up to write zeroes */
/* A host notifier comes by itself, once a queue runs. */
#define NOTIFIER_MS	200
/* No answer for so long at the beginning: is it a back end at all? */
#define FIRST_MS	1000

struct vhu_target {
	struct vhu_client client;
	char path[256];
	int answer_ms;	   /* of the client, but for the first connection */
	uint64_t protocol; /* protocol features to negotiate, if offered */
	uint64_t features; /* negotiated */
	struct vdpa_iotlb *tlb;
	/* Added to user addresses, another one for other memory: rte_vhost takes a table of the
	 * same addresses for the one that it has. */
	uint64_t uaddr_shift;
	uint64_t memory_ino; /* of the file of the last session's first region */
	bool started[VDPA_VQ_MAX];
	struct vhu_vring_addr
		addrs[VDPA_VQ_MAX]; /* of those, with where their used rings are logged */
};

static struct vhu_target *
priv(const struct target *t)
{
	return t->priv;
}

static int
set_u64(struct vhu_client *c, enum vhu_request request, uint64_t value)
{
	return vhu_client_send(c, request, &value, sizeof(value), NULL, 0);
}

static int
set_state(struct vhu_client *c, enum vhu_request request, uint16_t idx, uint32_t num)
{
	const struct vhu_vring_state state = {.index = idx, .num = num};

	return vhu_client_send(c, request, &state, sizeof(state), NULL, 0);
}

static int
set_file(struct vhu_client *c, enum vhu_request request, uint16_t idx, int fd)
{
	uint64_t payload = idx | (fd < 0 ? VHU_FILE_NOFD : 0);

	return vhu_client_send(c, request, &payload, sizeof(payload), &fd, fd < 0 ? 0 : 1);
}

/* Everything up to what a new connection begins with. */
static int
negotiate(struct target *t)
{
	struct vhu_client *c = &priv(t)->client;
	uint64_t features = 0, protocol = 0;
	int rc;

	rc = vhu_client_ask(c, VHU_GET_FEATURES, &features, 0, sizeof(features));
	c->answer_ms = priv(t)->answer_ms;
	if (rc == 0 && (features & BIT(VHU_F_PROTOCOL_FEATURES))) {
		rc = vhu_client_ask(c, VHU_GET_PROTOCOL_FEATURES, &c->offered, 0,
				    sizeof(c->offered));
		protocol = c->offered & priv(t)->protocol;
		if (rc == 0)
			rc = set_u64(c, VHU_SET_PROTOCOL_FEATURES, protocol);
		if (rc == 0)
			c->protocol = protocol;
	}
	if (rc == 0)
		rc = vhu_client_send(c, VHU_SET_OWNER, NULL, 0, NULL, 0);
	if (rc == 0 && vhu_client_has(c, VHU_P_BACKEND_REQ))
		rc = vhu_client_open_backend_channel(c);
	t->features = features & ~BIT(VHU_F_PROTOCOL_FEATURES);
	t->own_features = features & BIT(VHU_F_PROTOCOL_FEATURES);
	t->protocol = c->offered;
	return rc;
}

/* A new connection, where the old one ended or there is no other way to a clean device. */
static int
reconnect(struct target *t)
{
	struct vhu_target *v = priv(t);
	int rc;

	vhu_client_close(&v->client);
	memset(v->started, 0, sizeof(v->started));
	rc = vhu_client_connect(&v->client, v->path, v->answer_ms);
	return rc < 0 ? rc : negotiate(t);
}

static void
vhu_close(struct target *t)
{
	struct vhu_target *v = priv(t);

	vhu_client_close(&v->client);
	vdpa_iotlb_put(v->tlb);
	free(v);
	t->priv = NULL;
}

static int
vhu_get_config(struct target *t, size_t offset, void *buf, size_t len)
{
	struct vhu_config config = {.offset = (uint32_t)offset, .size = (uint32_t)len};
	uint32_t size = (uint32_t)(VHU_CONFIG_HDR_SIZE + len);
	int rc;

	if (offset + len > t->config_size)
		return vdpa_error(EINVAL, "configuration %zu to %zu: it has %zu bytes", offset,
				  offset + len, t->config_size);
	rc = vhu_client_ask(&priv(t)->client, VHU_GET_CONFIG, &config, size, size);
	if (rc == 0)
		memcpy(buf, config.data, len);
	return rc;
}

static int
vhu_get_status(struct target *t)
{
	struct vhu_client *c = &priv(t)->client;
	uint64_t status = 0;
	int rc;

	if (c->fd >= 0 && !vhu_client_has(c, VHU_P_STATUS))
		return vdpa_error(EOPNOTSUPP, "the back end has no STATUS");
	rc = vhu_client_ask(c, VHU_GET_STATUS, &status, 0, sizeof(status));
	return rc < 0 ? rc : (int)(uint8_t)status;
}

/* Status 0 by the means that there are. */
static int
reset(struct target *t)
{
	struct vhu_target *v = priv(t);
	struct vhu_client *c = &v->client;

	memset(v->started, 0, sizeof(v->started));
	vdpa_iotlb_put(v->tlb);
	v->tlb = NULL;
	if (c->fd < 0)
		return reconnect(t);
	if (vhu_client_has(c, VHU_P_STATUS))
		return set_u64(c, VHU_SET_STATUS, 0);
	if (vhu_client_has(c, VHU_P_RESET_DEVICE))
		return vhu_client_send(c, VHU_RESET_DEVICE, NULL, 0, NULL, 0);
	return reconnect(t);
}

static int
vhu_set_status(struct target *t, uint8_t status)
{
	struct vhu_client *c = &priv(t)->client;

	if (status == 0)
		return reset(t);
	if (c->fd >= 0 && !vhu_client_has(c, VHU_P_STATUS))
		return vdpa_error(EOPNOTSUPP, "the back end has no STATUS");
	return set_u64(c, VHU_SET_STATUS, status);
}

static int
vhu_set_features(struct target *t, uint64_t features)
{
	return set_u64(&priv(t)->client, VHU_SET_FEATURES, features | t->own_features);
}

static bool
is_packed(const struct vhu_target *v)
{
	return (v->features & BIT(VIRTIO_F_RING_PACKED)) != 0;
}

static uint32_t
state_to_base(const struct vhu_target *v, const struct vdpa_vq_state *s)
{
	if (!is_packed(v))
		return s->split.avail_index;
	return (s->packed.last_avail_idx & 0x7fffu) | (uint32_t)s->packed.last_avail_counter << 15 |
	       (s->packed.last_used_idx & 0x7fffu) << 16 |
	       (uint32_t)s->packed.last_used_counter << 31;
}

static void
base_to_state(const struct vhu_target *v, uint32_t base, struct vdpa_vq_state *s)
{
	memset(s, 0, sizeof(*s));
	if (!is_packed(v)) {
		s->split.avail_index = (uint16_t)base;
		return;
	}
	s->packed.last_avail_idx = base & 0x7fff;
	s->packed.last_avail_counter = (base >> 15) & 1;
	s->packed.last_used_idx = (base >> 16) & 0x7fff;
	s->packed.last_used_counter = (uint8_t)(base >> 31);
}

static uint64_t
to_uaddr(const struct vhu_target *v, uint64_t iova)
{
	const struct vdpa_iotlb *tlb = v->tlb;

	for (uint32_t i = 0; i < tlb->n; i++)
		if (iova - tlb->regions[i]->iova < tlb->regions[i]->size)
			return tlb->regions[i]->uaddr + v->uaddr_shift +
			       (iova - tlb->regions[i]->iova);
	return 0;
}

static int
send_memory(struct target *t, struct vdpa_iotlb *tlb)
{
	struct vhu_memory memory = {.nregions = tlb->n};
	int fds[VHU_MEM_REGIONS_MAX];

	if (tlb->n > VHU_MEM_REGIONS_MAX)
		return vdpa_error(E2BIG, "%u memory regions, vhost-user takes %d", tlb->n,
				  VHU_MEM_REGIONS_MAX);
	for (uint32_t i = 0; i < tlb->n; i++) {
		const struct vdpa_mem_region *r = tlb->regions[i];

		memory.regions[i] =
			(struct vhu_mem_region){.guest_addr = r->iova,
						.size = r->size,
						.user_addr = r->uaddr + priv(t)->uaddr_shift,
						.mmap_offset = r->offset};
		fds[i] = r->fd;
	}
	return vhu_client_send(&priv(t)->client, VHU_SET_MEM_TABLE, &memory,
			       (uint32_t)(offsetof(struct vhu_memory, regions) +
					  tlb->n * sizeof(memory.regions[0])),
			       fds, tlb->n);
}

static int
send_addr(struct vhu_client *c, const struct vhu_vring_addr *addr)
{
	return vhu_client_send(c, VHU_SET_VRING_ADDR, addr, sizeof(*addr), NULL, 0);
}

static int
start_ring(struct target *t, uint16_t idx, const struct vdpa_vq_config *conf)
{
	struct vhu_target *v = priv(t);
	struct vhu_client *c = &v->client;
	int rc;

	v->addrs[idx] = (struct vhu_vring_addr){
		.index = idx,
		.desc = to_uaddr(v, conf->desc),
		.avail = to_uaddr(v, conf->driver),
		.used = to_uaddr(v, conf->device),
	};

	rc = set_state(c, VHU_SET_VRING_NUM, idx, conf->num);
	if (rc == 0)
		rc = set_state(c, VHU_SET_VRING_BASE, idx, state_to_base(v, &conf->state));
	if (rc == 0)
		rc = send_addr(c, &v->addrs[idx]);
	if (rc == 0)
		rc = set_file(c, VHU_SET_VRING_CALL, idx, conf->call_fd);
	if (rc == 0)
		rc = set_file(c, VHU_SET_VRING_KICK, idx, conf->kick_fd);
	if (rc == 0 && (v->features & BIT(VHU_F_PROTOCOL_FEATURES)))
		rc = set_state(c, VHU_SET_VRING_ENABLE, idx, conf->enabled);
	v->started[idx] = rc == 0;
	return rc;
}

/* What a back end that cannot start says: nothing, but in the status. */
static int
check_started(struct target *t)
{
	int status;

	if (!vhu_client_has(&priv(t)->client, VHU_P_STATUS))
		return 0;
	status = vhu_get_status(t);
	if (status < 0)
		return status;
	if (status & S_NEEDS_RESET)
		return vdpa_error(EIO,
				  "status 0x%02x: the device says DEVICE_NEEDS_RESET; the back "
				  "end's log has the cause",
				  status);
	return 0;
}

static int
vhu_start(struct target *t, const struct vdpa_start_config *conf)
{
	struct vhu_target *v = priv(t);
	struct vhu_client *c = &v->client;
	uint8_t status = S_ACKNOWLEDGE;
	bool has_status;
	int rc = c->fd < 0 ? reconnect(t) : 0;

	if (rc < 0)
		return rc;
	has_status = vhu_client_has(c, VHU_P_STATUS);
	v->features = conf->features | t->own_features;
	v->tlb = vdpa_iotlb_get(conf->iotlb);
	if (v->tlb->n > 0 && v->memory_ino != (uint64_t)v->tlb->regions[0]->ino) {
		v->uaddr_shift = (v->uaddr_shift + UADDR_STEP) % (16 * UADDR_STEP);
		v->memory_ino = (uint64_t)v->tlb->regions[0]->ino;
	}
	if (has_status) {
		rc = set_u64(c, VHU_SET_STATUS, status);
		if (rc == 0)
			rc = set_u64(c, VHU_SET_STATUS, status |= S_DRIVER);
	}
	if (rc == 0)
		rc = vhu_set_features(t, conf->features);
	if (rc == 0 && has_status)
		rc = set_u64(c, VHU_SET_STATUS, status |= S_FEATURES_OK);
	if (rc == 0)
		rc = send_memory(t, conf->iotlb);
	for (uint16_t i = 0; rc == 0 && i < conf->nvqs; i++)
		if (conf->vqs[i].ready)
			rc = start_ring(t, i, &conf->vqs[i]);
	if (rc == 0 && has_status)
		rc = set_u64(c, VHU_SET_STATUS, status | S_DRIVER_OK);
	if (rc == 0)
		rc = check_started(t);
	if (rc < 0) {
		char why[256];

		snprintf(why, sizeof(why), "%s", vdpa_error_message());
		reset(t);
		vdpa_error(-rc, "%s", why);
	}
	return rc;
}

static int
get_base(struct target *t, uint16_t idx, struct vdpa_vq_state *state)
{
	struct vhu_vring_state base = {.index = idx};
	struct vhu_target *v = priv(t);
	int rc;

	v->started[idx] = false;
	rc = vhu_client_ask(&v->client, VHU_GET_VRING_BASE, &base, sizeof(base), sizeof(base));
	if (rc == 0)
		base_to_state(v, base.num, state);
	return rc;
}

static int
vhu_stop(struct target *t)
{
	struct vhu_target *v = priv(t);
	struct vdpa_vq_state state;
	int rc = 0;

	for (uint16_t i = 0; rc == 0 && i < t->nvqs; i++)
		if (v->started[i])
			rc = get_base(t, i, &state);
	/* Also after a connection that ended: the device is clean when a new one says so. */
	return reset(t);
}

static int
vhu_start_vq(struct target *t, uint16_t idx, const struct vdpa_vq_config *conf)
{
	int rc = start_ring(t, idx, conf);

	return rc < 0 ? rc : check_started(t);
}

static int
vhu_enable_vq(struct target *t, uint16_t idx, bool enable)
{
	int rc;

	if (!(priv(t)->features & BIT(VHU_F_PROTOCOL_FEATURES)))
		return vdpa_error(EOPNOTSUPP, "the back end has no PROTOCOL_FEATURES");
	rc = set_state(&priv(t)->client, VHU_SET_VRING_ENABLE, idx, enable);
	return rc < 0 ? rc : check_started(t);
}

static int
vhu_set_call(struct target *t, uint16_t idx, int fd)
{
	return set_file(&priv(t)->client, VHU_SET_VRING_CALL, idx, fd);
}

static int
vhu_set_kick(struct target *t, uint16_t idx, int fd)
{
	return set_file(&priv(t)->client, VHU_SET_VRING_KICK, idx, fd);
}

static int
vhu_set_memory(struct target *t, struct vdpa_iotlb *tlb)
{
	struct vhu_target *v = priv(t);
	int rc = send_memory(t, tlb);

	if (rc < 0)
		return rc;
	vdpa_iotlb_get(tlb);
	vdpa_iotlb_put(v->tlb);
	v->tlb = tlb;
	return check_started(t);
}

/* As QEMU begins and ends a migration: the log, the feature, then each ring's address once more. */
static int
vhu_set_log(struct target *t, const struct target_log *log, const uint64_t *used_iova)
{
	struct vhu_target *v = priv(t);
	uint64_t features = v->features & ~BIT(VHOST_F_LOG_ALL);
	int rc = 0;

	if (log != NULL) {
		features |= BIT(VHOST_F_LOG_ALL);
		rc = vhu_client_set_log(&v->client, log->fd, log->size);
	}
	if (rc < 0 || features == v->features)
		return rc;
	rc = vhu_set_features(t, features);
	for (uint16_t i = 0; rc == 0 && i < t->nvqs; i++) {
		struct vhu_vring_addr *addr = &v->addrs[i];

		if (!v->started[i])
			continue;
		addr->flags = log != NULL && used_iova[i] != UINT64_MAX ? VHU_VRING_F_LOG : 0;
		addr->log = addr->flags != 0 ? used_iova[i] : 0;
		rc = send_addr(&v->client, addr);
	}
	if (rc == 0)
		v->features = features;
	return rc < 0 ? rc : check_started(t);
}

static int
vhu_doorbell(struct target *t, uint16_t idx, struct vdpa_notification_area *area)
{
	struct vhu_client *c = &priv(t)->client;
	const struct vhu_notifier *n = &c->notifiers[idx];

	if (!vhu_client_has(c, VHU_P_HOST_NOTIFIER))
		return vdpa_error(EOPNOTSUPP, "the back end has no HOST_NOTIFIER");
	for (int i = 0; i < 10 && n->fd < 0; i++)
		vhu_client_serve(c, NOTIFIER_MS / 10);
	if (n->fd < 0)
		return vdpa_error(EOPNOTSUPP, "queue %u: the back end gave no host notifier", idx);
	*area = (struct vdpa_notification_area){.fd = n->fd, .offset = n->offset, .size = n->size};
	return 0;
}

static int
vhu_change_config(struct target *t, bool back)
{
	return vdpa_error(EOPNOTSUPP, "a front end cannot make the configuration change");
}

static unsigned int
vhu_config_changes(struct target *t)
{
	vhu_client_serve(&priv(t)->client, 0);
	return priv(t)->client.config_changes;
}

static void
vhu_failure(struct target *t, char *buf, size_t len)
{
	struct vhu_client *c = &priv(t)->client;
	int status;

	buf[0] = '\0';
	/* Nothing else says so where there is no status to ask for. */
	if (c->fd < 0 || vhu_client_is_closed(c)) {
		snprintf(buf, len, "the connection has ended");
		return;
	}
	status = vhu_client_has(c, VHU_P_STATUS) ? vhu_get_status(t) : 0;
	if (status < 0)
		snprintf(buf, len, "%s", vdpa_error_message());
	else if (status & S_NEEDS_RESET)
		snprintf(buf, len,
			 "status 0x%02x: DEVICE_NEEDS_RESET; the back end's log has the cause",
			 status);
}

static const struct target_ops vhu_ops = {
	.close = vhu_close,
	.get_config = vhu_get_config,
	.get_status = vhu_get_status,
	.set_status = vhu_set_status,
	.set_features = vhu_set_features,
	.start = vhu_start,
	.stop = vhu_stop,
	.start_vq = vhu_start_vq,
	.stop_vq = get_base,
	.enable_vq = vhu_enable_vq,
	.set_call = vhu_set_call,
	.set_kick = vhu_set_kick,
	.set_memory = vhu_set_memory,
	.set_log = vhu_set_log,
	.doorbell = vhu_doorbell,
	.change_config = vhu_change_config,
	.config_changes = vhu_config_changes,
	.failure = vhu_failure,
};

/* The protocol does not tell the device's type; what is offered mostly does. */
static uint32_t
guess_type(const struct target *t, const struct vhu_client *c)
{
	if (c->offered & (BIT(VHU_P_MTU) | BIT(VHU_P_RARP)))
		return TARGET_NET;
	if (target_has(t, VIRTIO_BLK_F_SEG_MAX) && target_has(t, VIRTIO_BLK_F_BLK_SIZE))
		return TARGET_BLOCK;
	return 0;
}

static int
look_at_device(struct target *t, uint32_t device_id)
{
	struct vhu_client *c = &priv(t)->client;
	uint64_t queues = 1;
	struct ucred peer;
	socklen_t len = sizeof(peer);
	int rc = 0;

	t->device_id = device_id != 0 ? device_id : guess_type(t, c);
	if (vhu_client_has(c, VHU_P_MQ))
		rc = vhu_client_ask(c, VHU_GET_QUEUE_NUM, &queues, 0, sizeof(queues));
	if (rc < 0)
		return rc;
	/* Of a net device they are pairs. */
	if (t->device_id == TARGET_NET)
		queues *= 2;
	if (queues == 0 || queues > VDPA_VQ_MAX)
		return vdpa_error(EPROTO, "vhost-user: the back end has %llu virtqueues",
				  (unsigned long long)queues);
	t->nvqs = (uint16_t)queues;
	t->num_max = NUM_MAX;
	if (vhu_client_has(c, VHU_P_CONFIG))
		t->config_size = t->device_id == TARGET_NET	? NET_CONFIG_SIZE
				 : t->device_id == TARGET_BLOCK ? BLK_CONFIG_SIZE
								: 0;
	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
		t->pid = peer.pid;
	return 0;
}

/* The first connection, where something else than a back end may listen. */
static int
greet(struct target *t)
{
	struct vhu_target *v = priv(t);
	int rc = vhu_client_connect(&v->client, v->path, FIRST_MS);

	if (rc < 0)
		return rc;
	rc = negotiate(t);
	if (rc != -ETIMEDOUT)
		return rc;
	if (vhu_client_is_vfio_user(v->path))
		return vdpa_error(EPROTO,
				  "this is a vfio-user socket, which serves a PCI function: give "
				  "--dev \"mgmtdev vfio-user/%s\" instead of --socket",
				  v->path);
	/* A busy back end then. */
	return reconnect(t);
}

int
target_vhu_open(struct target *t, const char *path, uint32_t device_id, bool status,
		unsigned int scale)
{
	struct vhu_target *v = calloc(1, sizeof(*v));
	int rc;

	memset(t, 0, sizeof(*t));
	if (v == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	t->priv = v;
	t->ops = &vhu_ops;
	t->how = "vhost-user";
	t->dma = "the back end";
	t->keeps_disk = true;
	t->trusting = true;
	snprintf(t->where, sizeof(t->where), "%s", path);
	snprintf(v->path, sizeof(v->path), "%s", path);
	v->answer_ms = (int)(VHU_ANSWER_MS * scale / 100);
	v->protocol = BIT(VHU_P_MQ) | BIT(VHU_P_LOG_SHMFD) | BIT(VHU_P_REPLY_ACK) |
		      BIT(VHU_P_BACKEND_REQ) | BIT(VHU_P_CONFIG) | BIT(VHU_P_BACKEND_SEND_FD) |
		      BIT(VHU_P_HOST_NOTIFIER) | BIT(VHU_P_RESET_DEVICE) |
		      (status ? BIT(VHU_P_STATUS) : 0);
	rc = greet(t);
	if (rc == 0)
		rc = look_at_device(t, device_id);
	if (rc < 0)
		vhu_close(t);
	return rc;
}
