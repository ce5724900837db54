/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * One vhost-user message: a table with a row for each request we serve (its size, its file
 * descriptors, what must have been negotiated), the checks that follow from the row, and the
 * handlers. A message that fails a check or its handler is refused: one log line with device, queue
 * and cause; the reply carries the error where the front end asked for one (REPLY_ACK), else the
 * connection ends. It has had no effect then.
 *
 * Who owns a file descriptor: all of a message's are taken over here, whatever becomes of it. A
 * handler that keeps one puts -1 in its place; the rest is closed at the end.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "vdpa_compat.h"
#include "vdpa_log.h"
#include "vhost_user_priv.h"

#ifndef VIRTIO_F_RING_PACKED
#define VIRTIO_F_RING_PACKED 34
#endif

/* virtio 1.2, 5.1.4: the smallest MTU there is; the largest a u16 holds. */
#define MTU_MIN 68
#define MTU_MAX 65535

struct request {
	struct vhu_session *s;
	struct vhu_msg *msg;
	const struct row *row;
	int fds[VHU_MSG_FDS_MAX];
	unsigned int nfds;
	uint16_t idx; /* of the queue it is about */
};

/* Where a message says which queue it is about. */
enum index_kind { INDEX_NONE, INDEX_STATE, INDEX_ADDR, INDEX_FILE };

/* What follows from a message that was carried out. */
enum effect {
	EFFECT_REPLY = 1 << 0,	 /* it has a reply of its own: the handler leaves it in msg */
	EFFECT_ADVANCE = 1 << 1, /* a queue may have become ready */
};

struct row {
	const char *name;
	/* 0 or a negative errno with vdpa_error_message(). */
	int (*handle)(struct request *req);
	uint32_t size_min, size_max; /* of the payload, in bytes */
	uint8_t fds_min, fds_max;
	enum index_kind index;
	unsigned int effect;
	uint64_t protocol; /* protocol features of which one must have been negotiated; 0: none */
};

static int
reply_u64(struct request *req, uint64_t value)
{
	req->msg->payload.u64 = value;
	req->msg->size = sizeof(value);
	return 0;
}

static int
take_fd(struct request *req, unsigned int i)
{
	int fd = req->fds[i];

	req->fds[i] = -1;
	return fd;
}

/* Kick, call and error descriptors are eventfds. Made non-blocking: a full counter or one that was
 * read by somebody else must not hold up a thread of ours. */
static int
check_eventfd(int fd)
{
	char link[32], path[32];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return vdpa_error(errno, "%s: %m", path);
	link[n] = '\0';
	if (strcmp(link, "anon_inode:[eventfd]") != 0)
		return vdpa_error(EINVAL, "the file descriptor is no eventfd (%s)", link);
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return vdpa_error(errno, "fcntl: %m");
	return 0;
}

/* The eventfd of SET_VRING_KICK, CALL or ERR, taken over; -1: the front end gives none. */
static int
take_eventfd(struct request *req, int *fd)
{
	uint64_t value = req->msg->payload.u64;
	bool none = (value & VHU_FILE_NOFD) != 0;
	int rc;

	if ((value & ~(uint64_t)(VHU_FILE_INDEX_MASK | VHU_FILE_NOFD)) != 0)
		return vdpa_error(EINVAL, "reserved bits are set (0x%" PRIx64 ")", value);
	if (req->nfds != (none ? 0 : 1))
		return vdpa_error(EINVAL, "%u file descriptors, expected %d", req->nfds, !none);
	*fd = -1;
	if (none)
		return 0;
	rc = check_eventfd(req->fds[0]);
	if (rc == 0)
		*fd = take_fd(req, 0);
	return rc;
}

static struct vhu_ring *
ring_of(struct request *req)
{
	return &req->s->rings[req->idx];
}

static int
check_not_running(struct request *req)
{
	if (ring_of(req)->started)
		return vdpa_error(EBUSY, "the queue runs");
	return 0;
}

static int
get_features(struct request *req)
{
	return reply_u64(req, req->s->dev->features);
}

static int
set_features(struct request *req)
{
	struct vhu_session *s = req->s;
	uint64_t features = req->msg->payload.u64, old = s->features;
	int rc;

	if ((features & ~s->dev->features) != 0)
		return vdpa_error(EINVAL, "features 0x%" PRIx64 " were not offered",
				  features & ~s->dev->features);
	if ((s->running || s->failed) && ((features ^ old) & ~RTE_BIT64(VHOST_F_LOG_ALL)) != 0)
		return vdpa_error(EBUSY, "features 0x%" PRIx64 " change while the device runs",
				  features ^ old);
	s->features = features;
	s->features_set = true;
	rc = vdpa_vhu_session_update_log(s);
	if (rc < 0)
		s->features = old;
	return rc;
}

static int
set_owner(struct request *req)
{
	return 0;
}

static int
reset_device(struct request *req)
{
	vdpa_vhu_session_reset(req->s, false);
	return 0;
}

static int
set_mem_table(struct request *req)
{
	const struct vhu_memory *memory = &req->msg->payload.memory;
	struct vdpa_mem_region_spec specs[VHU_MEM_REGIONS_MAX];
	uint32_t n = memory->nregions;

	if (n == 0 || n > VHU_MEM_REGIONS_MAX)
		return vdpa_error(EINVAL, "%u memory regions, allowed are 1 to %d", n,
				  VHU_MEM_REGIONS_MAX);
	if (req->msg->size != offsetof(struct vhu_memory, regions) + n * sizeof(memory->regions[0]))
		return vdpa_error(EINVAL, "%u bytes do not hold %u memory regions", req->msg->size,
				  n);
	if (req->nfds != n)
		return vdpa_error(EINVAL, "%u file descriptors for %u memory regions", req->nfds,
				  n);
	for (uint32_t i = 0; i < n; i++) {
		const struct vhu_mem_region *r = &memory->regions[i];

		if (!vdpa_vhu_is_shm(req->fds[i]))
			return vdpa_error(EINVAL,
					  "memory region at 0x%" PRIx64
					  ": the file is not a shared memory file",
					  r->guest_addr);
		specs[i] = (struct vdpa_mem_region_spec){.iova = r->guest_addr,
							 .uaddr = r->user_addr,
							 .size = r->size,
							 .offset = r->mmap_offset,
							 .fd = req->fds[i]};
	}
	return vdpa_vhu_session_set_memory(req->s, specs, n);
}

static int
set_log_base(struct request *req)
{
	struct vhu_session *s = req->s;
	struct vhu_shm *log, *old = s->log;
	int rc;

	rc = vdpa_vhu_shm_map(&log, req->fds[0], req->msg->payload.log.mmap_offset,
			      req->msg->payload.log.mmap_size);
	if (rc < 0)
		return rc;
	s->log = log;
	rc = vdpa_vhu_session_update_log(s);
	if (rc < 0) {
		s->log = old;
		vdpa_vhu_shm_unmap(log);
		return rc;
	}
	vdpa_vhu_shm_unmap(old);
	req->msg->size = 0;
	return 0;
}

/* The eventfd would say that the log was written; nobody waits for it. */
static int
set_log_fd(struct request *req)
{
	return 0;
}

static int
set_vring_num(struct request *req)
{
	uint32_t num = req->msg->payload.state.num;
	bool packed = (req->s->features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	int rc = check_not_running(req);

	if (rc < 0)
		return rc;
	if (num == 0 || num > VHU_VRING_NUM_MAX)
		return vdpa_error(EINVAL, "size %u, allowed are 1 to %d", num, VHU_VRING_NUM_MAX);
	if (!packed && (num & (num - 1)) != 0)
		return vdpa_error(EINVAL, "size %u is not a power of two", num);
	ring_of(req)->num = num;
	return 0;
}

static int
set_vring_addr(struct request *req)
{
	const struct vhu_vring_addr *addr = &req->msg->payload.addr;
	struct vhu_ring *r = ring_of(req), old = *r;
	int rc;

	if ((addr->flags & ~VHU_VRING_F_LOG) != 0)
		return vdpa_error(EINVAL, "flags 0x%x are unknown", addr->flags);
	if (r->num == 0)
		return vdpa_error(EINVAL, "the size is not set");
	/* While it runs only the log address may change: a migration begins or ends so. */
	if (r->started && (addr->desc != r->desc_user || addr->avail != r->driver_user ||
			   addr->used != r->device_user))
		return vdpa_error(EBUSY, "the queue runs");
	r->desc_user = addr->desc;
	r->driver_user = addr->avail;
	r->device_user = addr->used;
	r->log = (addr->flags & VHU_VRING_F_LOG) != 0;
	r->log_addr = addr->log;
	r->addr_set = true;
	rc = vdpa_vhu_ring_translate(req->s, r);
	if (rc == 0 && r->started)
		rc = vdpa_vhu_session_update_log(req->s);
	if (rc < 0)
		*r = old;
	return rc;
}

static int
set_vring_base(struct request *req)
{
	struct vhu_ring *r = ring_of(req);
	int rc = check_not_running(req);

	if (rc < 0)
		return rc;
	r->base = req->msg->payload.state.num;
	r->base_set = true;
	return 0;
}

static int
get_vring_base(struct request *req)
{
	uint32_t base;

	vdpa_vhu_ring_stop(req->s, req->idx, &base);
	req->msg->payload.state.num = base;
	req->msg->size = sizeof(req->msg->payload.state);
	return 0;
}

static int
set_vring_kick(struct request *req)
{
	int fd, rc = take_eventfd(req, &fd);

	return rc < 0 ? rc : vdpa_vhu_ring_set_kick(req->s, req->idx, fd);
}

static int
set_vring_call(struct request *req)
{
	int fd, rc = take_eventfd(req, &fd);

	return rc < 0 ? rc : vdpa_vhu_ring_set_call(req->s, req->idx, fd);
}

static int
set_vring_err(struct request *req)
{
	int fd, rc = take_eventfd(req, &fd);

	if (rc == 0)
		vdpa_vhu_ring_set_err(req->s, req->idx, fd);
	return rc;
}

static int
set_vring_enable(struct request *req)
{
	uint32_t enable = req->msg->payload.state.num;

	if (enable > 1)
		return vdpa_error(EINVAL, "enable %u, allowed are 0 and 1", enable);
	return vdpa_vhu_ring_enable(req->s, req->idx, enable != 0);
}

static int
get_protocol_features(struct request *req)
{
	return reply_u64(req, req->s->dev->protocol);
}

static int
set_protocol_features(struct request *req)
{
	uint64_t protocol = req->msg->payload.u64;

	if ((protocol & ~req->s->dev->protocol) != 0)
		return vdpa_error(EINVAL, "protocol features 0x%" PRIx64 " were not offered",
				  protocol & ~req->s->dev->protocol);
	pthread_mutex_lock(&req->s->dev->lock);
	req->s->protocol = protocol;
	pthread_mutex_unlock(&req->s->dev->lock);
	return 0;
}

/* Front ends count a net device's queue pairs. */
static int
get_queue_num(struct request *req)
{
	const struct vhu_device *dev = req->s->dev;

	return reply_u64(req, dev->is_net ? dev->nvqs / 2u : dev->nvqs);
}

static int
send_rarp(struct request *req)
{
	uint8_t mac[6];
	int rc;

	memcpy(mac, &req->msg->payload.u64, sizeof(mac));
	rc = vdpa_device_announce(req->s->dev->vdev, mac);
	/* Where the device does not announce, the guest's first packets must do. */
	return rc == -EOPNOTSUPP || !req->s->running ? 0 : rc;
}

/* The MTU that the front end shows its guest; what we offer is what the device has. */
static int
net_set_mtu(struct request *req)
{
	uint64_t mtu = req->msg->payload.u64;

	if (mtu < MTU_MIN || mtu > MTU_MAX)
		return vdpa_error(EINVAL, "MTU %" PRIu64 ", allowed are %d to %d", mtu, MTU_MIN,
				  MTU_MAX);
	return 0;
}

static int
set_backend_req_fd(struct request *req)
{
	struct vhu_session *s = req->s;
	socklen_t dlen = sizeof(int), tlen = sizeof(int);
	int fd, domain, type;

	/* Other families do not all keep to MSG_DONTWAIT. */
	if (getsockopt(req->fds[0], SOL_SOCKET, SO_DOMAIN, &domain, &dlen) < 0 ||
	    getsockopt(req->fds[0], SOL_SOCKET, SO_TYPE, &type, &tlen) < 0 || domain != AF_UNIX ||
	    type != SOCK_STREAM)
		return vdpa_error(EINVAL,
				  "the file descriptor is no socket of AF_UNIX and SOCK_STREAM");
	fd = take_fd(req, 0);
	pthread_mutex_lock(&s->dev->lock);
	if (s->backend_fd >= 0)
		close(s->backend_fd);
	s->backend_fd = fd;
	pthread_mutex_unlock(&s->dev->lock);
	return 0;
}

static int
check_config(struct request *req)
{
	const struct vhu_config *config = &req->msg->payload.config;

	if (config->size > VHU_CONFIG_SIZE_MAX || config->offset > VHU_CONFIG_SIZE_MAX ||
	    config->offset + config->size > VHU_CONFIG_SIZE_MAX)
		return vdpa_error(EINVAL, "%u bytes at offset %u, allowed is up to %d",
				  config->size, config->offset, VHU_CONFIG_SIZE_MAX);
	if (req->msg->size != VHU_CONFIG_HDR_SIZE + config->size)
		return vdpa_error(EINVAL, "%u bytes of configuration in a payload of %u",
				  config->size, req->msg->size);
	return 0;
}

/* A front end may know a longer configuration than the device has: the rest reads as 0. */
static int
get_config(struct request *req)
{
	struct vdpa_device *vdev = req->s->dev->vdev;
	struct vhu_config *config = &req->msg->payload.config;
	size_t have = vdpa_get_config_size(vdev), len = 0;
	int rc = check_config(req);

	if (rc < 0)
		return rc;
	memset(config->data, 0, config->size);
	if (config->offset < have)
		len = RTE_MIN((size_t)config->size, have - config->offset);
	if (len > 0)
		rc = vdpa_get_config(vdev, config->offset, config->data, len);
	return rc;
}

static int
set_config(struct request *req)
{
	const struct vhu_config *config = &req->msg->payload.config;
	int rc = check_config(req);

	if (rc < 0)
		return rc;
	return vdpa_set_config(req->s->dev->vdev, config->offset, config->data, config->size);
}

/* Queues and size of an inflight area, checked. */
static int
check_inflight(struct request *req)
{
	const struct vhu_inflight *inflight = &req->msg->payload.inflight;

	if (inflight->num_queues == 0 || inflight->num_queues > req->s->nrings)
		return vdpa_error(EINVAL, "%u queues, the device has %u", inflight->num_queues,
				  req->s->nrings);
	if (inflight->queue_size == 0 || inflight->queue_size > VHU_VRING_NUM_MAX)
		return vdpa_error(EINVAL, "queue size %u, allowed are 1 to %d",
				  inflight->queue_size, VHU_VRING_NUM_MAX);
	for (uint16_t i = 0; i < req->s->nrings; i++)
		if (req->s->rings[i].started)
			return vdpa_error(EBUSY, "queue %u runs", i);
	return 0;
}

static size_t
inflight_stride(const struct request *req)
{
	return vdpa_vhu_inflight_stride((req->s->features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0,
					req->msg->payload.inflight.queue_size);
}

static void
keep_inflight(struct request *req, struct vhu_shm *area)
{
	struct vhu_session *s = req->s;

	vdpa_vhu_shm_unmap(s->inflight);
	s->inflight = area;
	s->inflight_queues = req->msg->payload.inflight.num_queues;
	s->inflight_stride = inflight_stride(req);
}

/* An area of zeroes: its version 0 says that the device is to initialise it. */
static int
get_inflight_fd(struct request *req)
{
	struct vhu_inflight *inflight = &req->msg->payload.inflight;
	struct vhu_shm *area;
	uint64_t size;
	int fd, rc;

	rc = check_inflight(req);
	if (rc < 0)
		return rc;
	size = inflight_stride(req) * inflight->num_queues;
	fd = memfd_create("vhost-user-inflight", MFD_CLOEXEC);
	if (fd < 0)
		return vdpa_error(errno, "memfd: %m");
	rc = ftruncate(fd, (off_t)size) < 0 ? vdpa_error(errno, "memfd: %m")
					    : vdpa_vhu_shm_map(&area, fd, 0, size);
	if (rc < 0) {
		close(fd);
		return rc;
	}
	keep_inflight(req, area);
	inflight->mmap_size = size;
	inflight->mmap_offset = 0;
	/* Closed behind the reply. */
	req->fds[0] = fd;
	req->nfds = 1;
	return 0;
}

static int
set_inflight_fd(struct request *req)
{
	const struct vhu_inflight *inflight = &req->msg->payload.inflight;
	struct vhu_shm *area;
	int rc = check_inflight(req);

	if (rc < 0)
		return rc;
	if (inflight->mmap_size < inflight_stride(req) * inflight->num_queues)
		return vdpa_error(EINVAL, "%" PRIu64 " bytes do not hold %u queues of %u entries",
				  inflight->mmap_size, inflight->num_queues, inflight->queue_size);
	rc = vdpa_vhu_shm_map(&area, req->fds[0], inflight->mmap_offset, inflight->mmap_size);
	if (rc == 0)
		keep_inflight(req, area);
	return rc;
}

static int
set_status(struct request *req)
{
	struct vhu_session *s = req->s;

	if (req->msg->payload.u64 > UINT8_MAX)
		return vdpa_error(EINVAL, "status 0x%" PRIx64 " is more than 8 bits",
				  req->msg->payload.u64);
	s->status_used = true;
	/* QEMU 7.2 to 8.0 stops a device by status 0 first and asks where its queues stand after.
	 */
	if (req->msg->payload.u64 == 0)
		vdpa_vhu_session_reset(s, true);
	s->status = (uint8_t)req->msg->payload.u64;
	return 0;
}

static int
get_status(struct request *req)
{
	const struct vhu_session *s = req->s;

	return reply_u64(req, s->status | (s->failed ? VIRTIO_CONFIG_S_NEEDS_RESET : 0));
}

#define PROTOCOL(feature) RTE_BIT64(VHOST_USER_PROTOCOL_F_##feature)
#define MEM_SIZE(n)	  (offsetof(struct vhu_memory, regions) + (n) * sizeof(struct vhu_mem_region))

/* name, handler, payload size, fds, queue, effect, protocol features */
static const struct row table[VHU_REQUEST_MAX] = {
#define ROW(request, handler, smin, smax, fmin, fmax, index, effect, protocol)                     \
	[VHU_##request] = {#request, handler, smin, smax, fmin, fmax, index, effect, protocol}
	ROW(GET_FEATURES, get_features, 0, 0, 0, 0, INDEX_NONE, EFFECT_REPLY, 0),
	ROW(SET_FEATURES, set_features, 8, 8, 0, 0, INDEX_NONE, EFFECT_ADVANCE, 0),
	ROW(SET_OWNER, set_owner, 0, 0, 0, 0, INDEX_NONE, 0, 0),
	ROW(RESET_OWNER, reset_device, 0, 0, 0, 0, INDEX_NONE, 0, 0),
	ROW(SET_MEM_TABLE, set_mem_table, MEM_SIZE(1), MEM_SIZE(VHU_MEM_REGIONS_MAX), 1,
	    VHU_MEM_REGIONS_MAX, INDEX_NONE, EFFECT_ADVANCE, 0),
	ROW(SET_LOG_BASE, set_log_base, 16, 16, 1, 1, INDEX_NONE, EFFECT_REPLY,
	    PROTOCOL(LOG_SHMFD)),
	ROW(SET_LOG_FD, set_log_fd, 0, 8, 1, 1, INDEX_NONE, 0, 0),
	ROW(SET_VRING_NUM, set_vring_num, 8, 8, 0, 0, INDEX_STATE, EFFECT_ADVANCE, 0),
	ROW(SET_VRING_ADDR, set_vring_addr, 40, 40, 0, 0, INDEX_ADDR, EFFECT_ADVANCE, 0),
	ROW(SET_VRING_BASE, set_vring_base, 8, 8, 0, 0, INDEX_STATE, 0, 0),
	ROW(GET_VRING_BASE, get_vring_base, 8, 8, 0, 0, INDEX_STATE, EFFECT_REPLY, 0),
	ROW(SET_VRING_KICK, set_vring_kick, 8, 8, 0, 1, INDEX_FILE, EFFECT_ADVANCE, 0),
	ROW(SET_VRING_CALL, set_vring_call, 8, 8, 0, 1, INDEX_FILE, 0, 0),
	ROW(SET_VRING_ERR, set_vring_err, 8, 8, 0, 1, INDEX_FILE, 0, 0),
	ROW(GET_PROTOCOL_FEATURES, get_protocol_features, 0, 0, 0, 0, INDEX_NONE, EFFECT_REPLY, 0),
	ROW(SET_PROTOCOL_FEATURES, set_protocol_features, 8, 8, 0, 0, INDEX_NONE, 0, 0),
	ROW(GET_QUEUE_NUM, get_queue_num, 0, 0, 0, 0, INDEX_NONE, EFFECT_REPLY, PROTOCOL(MQ)),
	ROW(SET_VRING_ENABLE, set_vring_enable, 8, 8, 0, 0, INDEX_STATE, EFFECT_ADVANCE, 0),
	ROW(SEND_RARP, send_rarp, 8, 8, 0, 0, INDEX_NONE, 0, PROTOCOL(RARP)),
	ROW(NET_SET_MTU, net_set_mtu, 8, 8, 0, 0, INDEX_NONE, 0, PROTOCOL(NET_MTU)),
	ROW(SET_BACKEND_REQ_FD, set_backend_req_fd, 0, 8, 1, 1, INDEX_NONE, 0,
	    PROTOCOL(BACKEND_REQ)),
	ROW(GET_CONFIG, get_config, VHU_CONFIG_HDR_SIZE, sizeof(struct vhu_config), 0, 0,
	    INDEX_NONE, EFFECT_REPLY, PROTOCOL(CONFIG)),
	ROW(SET_CONFIG, set_config, VHU_CONFIG_HDR_SIZE, sizeof(struct vhu_config), 0, 0,
	    INDEX_NONE, 0, PROTOCOL(CONFIG)),
	ROW(GET_INFLIGHT_FD, get_inflight_fd, VHU_INFLIGHT_SIZE_MIN, sizeof(struct vhu_inflight), 0,
	    0, INDEX_NONE, EFFECT_REPLY, PROTOCOL(INFLIGHT_SHMFD)),
	ROW(SET_INFLIGHT_FD, set_inflight_fd, VHU_INFLIGHT_SIZE_MIN, sizeof(struct vhu_inflight), 1,
	    1, INDEX_NONE, 0, PROTOCOL(INFLIGHT_SHMFD)),
	ROW(RESET_DEVICE, reset_device, 0, 0, 0, 0, INDEX_NONE, 0, PROTOCOL(RESET_DEVICE)),
	ROW(SET_STATUS, set_status, 8, 8, 0, 0, INDEX_NONE, EFFECT_ADVANCE, PROTOCOL(STATUS)),
	ROW(GET_STATUS, get_status, 0, 0, 0, 0, INDEX_NONE, EFFECT_REPLY, PROTOCOL(STATUS)),
#undef ROW
};

static int
take_index(struct request *req, int64_t *shown)
{
	const struct vhu_msg *msg = req->msg;
	uint32_t idx;

	switch (req->row->index) {
	case INDEX_STATE:
		idx = msg->payload.state.index;
		break;
	case INDEX_ADDR:
		idx = msg->payload.addr.index;
		break;
	case INDEX_FILE:
		idx = msg->payload.u64 & VHU_FILE_INDEX_MASK;
		break;
	default:
		return 0;
	}
	*shown = idx;
	if (idx >= req->s->nrings)
		return vdpa_error(EINVAL, "the device has %u queues", req->s->nrings);
	req->idx = (uint16_t)idx;
	return 0;
}

/* What the row says, before anybody looks into the payload. */
static int
check_row(struct request *req, int64_t *shown)
{
	const struct vhu_msg *msg = req->msg;
	const struct row *row = req->row;
	uint32_t flags = msg->flags;
	struct pollfd out = {.fd = req->s->fd, .events = POLLOUT};

	if (row == NULL || row->handle == NULL)
		return vdpa_error(EOPNOTSUPP, "the request is unknown");
	if ((flags & ~(VHU_FLAGS_VERSION_MASK | VHU_FLAGS_NEED_REPLY)) != 0 ||
	    (flags & VHU_FLAGS_VERSION_MASK) != VHU_FLAGS_VERSION)
		return vdpa_error(EPROTO, "flags 0x%x", flags);
	if (msg->size < row->size_min || msg->size > row->size_max)
		return row->size_min == row->size_max
			       ? vdpa_error(EPROTO, "payload of %u bytes, expected %u", msg->size,
					    row->size_min)
			       : vdpa_error(EPROTO, "payload of %u bytes, expected %u to %u",
					    msg->size, row->size_min, row->size_max);
	if (req->nfds < row->fds_min || req->nfds > row->fds_max)
		return vdpa_error(EPROTO, "%u file descriptors, expected %u to %u", req->nfds,
				  row->fds_min, row->fds_max);
	if (row->protocol != 0 && (req->s->protocol & row->protocol) == 0)
		return vdpa_error(EPROTO, "its protocol feature was not negotiated");
	/* A front end that asks and does not read the answers would hold up everybody's messages.
	 */
	if (((row->effect & EFFECT_REPLY) != 0 || (flags & VHU_FLAGS_NEED_REPLY) != 0) &&
	    poll(&out, 1, 0) != 1)
		return vdpa_error(EAGAIN, "the front end does not read its replies");
	return take_index(req, shown);
}

/*
 * Refuse it. A reply of type u64 is understood only for requests that have none of their own, and
 * a connection that is not read, or does nothing but offend, is not worth keeping.
 */
static int
refuse(struct request *req, int rc, int64_t idx)
{
	struct vhu_session *s = req->s;
	const char *device = s->dev->vdev->name, *why = vdpa_vhu_why(s->dev, idx);
	bool known = req->row != NULL && req->row->handle != NULL;
	char name[sizeof("request 4294967295")];

	snprintf(name, sizeof(name), "request %u", req->msg->request);
	if (idx >= 0)
		VDPA_LOG(ERR, "%s: vhost-user: queue %" PRId64 ": %s refused: %s", device, idx,
			 known ? req->row->name : name, why);
	else
		VDPA_LOG(ERR, "%s: vhost-user: %s refused: %s", device,
			 known ? req->row->name : name, why);
	if (++s->refusals == VHU_REFUSALS_MAX)
		VDPA_LOG(ERR, "%s: vhost-user: %u messages refused, closing the connection", device,
			 s->refusals);
	if (!known || (req->row->effect & EFFECT_REPLY) != 0 || rc == -EAGAIN || rc == -EPROTO ||
	    s->refusals >= VHU_REFUSALS_MAX)
		req->msg->flags &= ~VHU_FLAGS_NEED_REPLY;
	if ((req->msg->flags & VHU_FLAGS_NEED_REPLY) == 0)
		s->refused = true;
	return RTE_VHOST_MSG_RESULT_ERR;
}

/*
 * Take over the message's file descriptors. Where rte_vhost keeps them is known by version only, so
 * what lies there is believed only when it looks as rte_vhost leaves it: a number, that many open
 * descriptors, and -1 in the rest.
 */
static int
take_fds(struct request *req, int *fds, int *nfds)
{
	int n = *nfds;

	if (n < 0 || n > VHU_MSG_FDS_MAX)
		goto bad;
	for (int i = 0; i < VHU_MSG_FDS_MAX; i++)
		if (i < n ? fds[i] < 0 || fcntl(fds[i], F_SETFD, FD_CLOEXEC) < 0 : fds[i] != -1)
			goto bad;
	for (int i = 0; i < n; i++) {
		req->fds[i] = fds[i];
		fds[i] = -1;
	}
	req->nfds = (unsigned int)n;
	*nfds = 0;
	return 0;

bad:
	return vdpa_error(EPROTO, "the file descriptors are not where this DPDK should have them");
}

static void
close_fds(struct request *req)
{
	for (unsigned int i = 0; i < req->nfds; i++)
		if (req->fds[i] >= 0)
			close(req->fds[i]);
}

int
vdpa_vhu_handle(struct vhu_session *s, struct vhu_msg *msg, int *fds, int *nfds)
{
	struct request req = {.s = s, .msg = msg};
	bool reply;
	int64_t idx = -1;
	int rc;

	if (msg->request < RTE_DIM(table))
		req.row = &table[msg->request];
	if ((s->protocol & PROTOCOL(REPLY_ACK)) == 0)
		msg->flags &= ~VHU_FLAGS_NEED_REPLY;
	rc = take_fds(&req, fds, nfds);
	if (rc == 0)
		rc = check_row(&req, &idx);
	if (rc == 0) {
		vdpa_vhu_session_poll_failure(s);
		rc = req.row->handle(&req);
	}
	if (rc < 0) {
		rc = refuse(&req, rc, idx);
		close_fds(&req);
		return rc;
	}
	VDPA_LOG(DEBUG, "%s: vhost-user: %s", s->dev->vdev->name, req.row->name);
	reply = (req.row->effect & EFFECT_REPLY) != 0;
	if (reply && req.nfds > 0) {
		fds[0] = req.fds[0];
		*nfds = 1;
		return RTE_VHOST_MSG_RESULT_REPLY;
	}
	close_fds(&req);
	if ((req.row->effect & EFFECT_ADVANCE) != 0)
		vdpa_vhu_session_advance(s);
	return reply ? RTE_VHOST_MSG_RESULT_REPLY : RTE_VHOST_MSG_RESULT_OK;
}
