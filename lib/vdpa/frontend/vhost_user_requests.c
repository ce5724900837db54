/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The requests of a vhost-user front end: a handler for each, and the table with a row for each
 * that we serve: its size, its file descriptors, what must have been negotiated. A handler finds
 * all of that checked; what it refuses has had no effect. One that keeps a file descriptor puts -1
 * in its place.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "vdpa_event.h"
#include "vhost_user_priv.h"

/* virtio 1.2, 5.1.4: the smallest MTU there is; the largest a u16 holds. */
#define MTU_MIN 68
#define MTU_MAX 65535

static int
reply_u64(struct vhu_received *req, uint64_t value)
{
	req->msg->payload.u64 = value;
	req->msg->size = sizeof(value);
	return 0;
}

static int
take_fd(struct vhu_received *req, unsigned int i)
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
	if (!vdpa_fd_is_eventfd(fd))
		return vdpa_error(EINVAL, "the file descriptor is no eventfd");
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return vdpa_error(errno, "fcntl: %m");
	return 0;
}

/* The eventfd of SET_VRING_KICK, CALL or ERR, taken over; -1: the front end gives none. */
static int
take_eventfd(struct vhu_received *req, int *fd)
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

static int
behind_iommu(void)
{
	return vdpa_error(
		EOPNOTSUPP,
		"VIRTIO_F_ACCESS_PLATFORM: addresses behind an IOMMU of the guest's are not "
		"translated; leave it out of the device: QEMU: iommu_platform=off; libvirt: "
		"<driver iommu='off'/>");
}

int
vdpa_vhu_not_served(uint32_t request)
{
	if (request == VHU_IOTLB_MSG)
		return behind_iommu();
	return vdpa_error(EOPNOTSUPP, "the request is unknown");
}

static int
get_features(struct vhu_received *req)
{
	return reply_u64(req, req->s->dev->features);
}

static int
set_features(struct vhu_received *req)
{
	uint64_t features = req->msg->payload.u64;

	if ((features & ~req->s->dev->features & RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM)) != 0)
		return behind_iommu();
	if ((features & ~req->s->dev->features) != 0)
		return vdpa_error(EINVAL, "features 0x%" PRIx64 " were not offered",
				  features & ~req->s->dev->features);
	return vdpa_consumer_set_features(req->s->consumer, features);
}

static int
set_owner(struct vhu_received *req)
{
	return 0;
}

/* The device stops: its doorbells are to be forgotten first. */
static void
take_doorbells(struct vhu_received *req)
{
	for (uint16_t i = 0; i < req->s->nrings; i++)
		vdpa_vhu_take_doorbell(req->s, i);
}

static int
reset_device(struct vhu_received *req)
{
	take_doorbells(req);
	vdpa_consumer_reset(req->s->consumer);
	return 0;
}

static int
region_spec(const struct vhu_mem_region *r, int fd, struct vdpa_mem_region_spec *spec)
{
	if (!vdpa_vhu_is_shm(fd))
		return vdpa_error(EINVAL, "memory region at 0x%" PRIx64 ": " VHU_NOT_SHM,
				  r->guest_addr);
	*spec = (struct vdpa_mem_region_spec){.iova = r->guest_addr,
					      .uaddr = r->user_addr,
					      .size = r->size,
					      .offset = r->mmap_offset,
					      .fd = fd};
	return 0;
}

static int
get_max_mem_slots(struct vhu_received *req)
{
	return reply_u64(req, VHU_MEM_SLOTS_MAX);
}

static int
add_mem_reg(struct vhu_received *req)
{
	struct vdpa_mem_region_spec spec;
	int rc;

	rc = region_spec(&req->msg->payload.slot.region, req->fds[0], &spec);
	if (rc == 0)
		rc = vdpa_consumer_add_memory(req->s->consumer, &spec);
	/* QEMU before 8.0 says so once for each queue pair. */
	return rc == -EEXIST ? 0 : rc;
}

/*
 * The offset says nothing here, nor does a file descriptor, which some front ends send. A region
 * that is not there any more was removed for another queue pair of the same front end.
 */
static int
rem_mem_reg(struct vhu_received *req)
{
	const struct vhu_mem_region *r = &req->msg->payload.slot.region;
	int rc;

	rc = vdpa_consumer_remove_memory(req->s->consumer, r->guest_addr, r->user_addr, r->size);
	return rc == -ENOENT ? 0 : rc;
}

static int
set_mem_table(struct vhu_received *req)
{
	const struct vhu_memory *memory = &req->msg->payload.memory;
	struct vdpa_mem_region_spec specs[VHU_MEM_REGIONS_MAX];
	uint32_t n = memory->nregions;
	int rc = 0;

	if (n == 0 || n > VHU_MEM_REGIONS_MAX)
		return vdpa_error(EINVAL, "%u memory regions, allowed are 1 to %d", n,
				  VHU_MEM_REGIONS_MAX);
	/* User-mode Linux sends room for more regions behind the last one. */
	if (req->msg->size < offsetof(struct vhu_memory, regions) + n * sizeof(memory->regions[0]))
		return vdpa_error(EINVAL, "%u bytes do not hold %u memory regions", req->msg->size,
				  n);
	if (req->nfds != n)
		return vdpa_error(EINVAL, "%u file descriptors for %u memory regions", req->nfds,
				  n);
	for (uint32_t i = 0; i < n && rc == 0; i++)
		rc = region_spec(&memory->regions[i], req->fds[i], &specs[i]);
	return rc < 0 ? rc : vdpa_consumer_set_memory(req->s->consumer, specs, n);
}

static int
set_log_base(struct vhu_received *req)
{
	struct vhu_session *s = req->s;
	struct vhu_shm *log, *old = s->log;
	int rc;

	rc = vdpa_vhu_shm_map(&log, req->fds[0], req->msg->payload.log.mmap_offset,
			      req->msg->payload.log.mmap_size);
	if (rc < 0)
		return rc;
	/* For a device that logs by DMA. */
	log->dirty.fd = take_fd(req, 0);
	log->dirty.offset = req->msg->payload.log.mmap_offset;
	rc = vdpa_consumer_set_log(s->consumer, &log->dirty);
	if (rc < 0) {
		vdpa_vhu_shm_unmap(log);
		return rc;
	}
	s->log = log;
	vdpa_vhu_shm_unmap(old);
	req->msg->size = 0;
	return 0;
}

/* The eventfd would say that the log was written; nobody waits for it. */
static int
set_log_fd(struct vhu_received *req)
{
	return 0;
}

static int
set_vring_num(struct vhu_received *req)
{
	return vdpa_consumer_set_vq_num(req->s->consumer, req->idx, req->msg->payload.state.num);
}

static int
set_vring_addr(struct vhu_received *req)
{
	const struct vhu_vring_addr *addr = &req->msg->payload.addr;
	bool log = (addr->flags & VHU_VRING_F_LOG) != 0;
	const struct vdpa_consumer_vq_addr user = {.desc = addr->desc,
						   .driver = addr->avail,
						   .device = addr->used,
						   .log = log ? addr->log : UINT64_MAX};

	if ((addr->flags & ~VHU_VRING_F_LOG) != 0)
		return vdpa_error(EINVAL, "flags 0x%x are unknown", addr->flags);
	return vdpa_consumer_set_vq_addr(req->s->consumer, req->idx, &user);
}

static int
set_vring_base(struct vhu_received *req)
{
	return vdpa_consumer_set_vq_base(req->s->consumer, req->idx, req->msg->payload.state.num);
}

/* Two requests: the first comes by either protocol feature's rules, the second says it itself. */
static int
get_vring_base(struct vhu_received *req)
{
	bool hand_over = req->msg->request == VHU_GET_VRING_BASE_SKIP_DRAIN ||
			 ((req->s->protocol & VHU_PROTOCOL(GET_VRING_BASE_INFLIGHT)) != 0 &&
			  (req->s->protocol & VHU_PROTOCOL(GET_VRING_BASE_SKIP_DRAIN)) == 0);

	vdpa_vhu_take_doorbell(req->s, req->idx);
	vdpa_vhu_kept_drain(req->s, req->idx, false);
	req->msg->payload.state.num =
		vdpa_consumer_get_vq_base(req->s->consumer, req->idx, hand_over);
	req->msg->size = sizeof(req->msg->payload.state);
	return 0;
}

static int
set_vring_kick(struct vhu_received *req)
{
	int fd, rc = take_eventfd(req, &fd);

	return rc < 0 ? rc : vdpa_consumer_set_vq_kick(req->s->consumer, req->idx, fd);
}

/* A socket in place of an eventfd is User-mode Linux': see vhost_user_call.c. */
static int
set_vring_call(struct vhu_received *req)
{
	struct vhu_call *old = req->s->calls[req->idx], *call = NULL;
	int fd, rc;

	if (req->nfds == 1 && req->msg->payload.u64 == req->idx && vdpa_vhu_is_stream(req->fds[0]))
		rc = vdpa_vhu_call_new(req->s->dev->fds, take_fd(req, 0), &call, &fd);
	else
		rc = take_eventfd(req, &fd);
	if (rc == 0)
		rc = vdpa_consumer_set_vq_call(req->s->consumer, req->idx, fd);
	if (rc < 0) {
		vdpa_vhu_call_free(call);
		return rc;
	}
	req->s->calls[req->idx] = call;
	vdpa_vhu_call_free(old);
	return 0;
}

static int
set_vring_err(struct vhu_received *req)
{
	int fd, rc = take_eventfd(req, &fd);

	if (rc == 0)
		vdpa_consumer_set_vq_err(req->s->consumer, req->idx, fd);
	return rc;
}

static int
set_vring_enable(struct vhu_received *req)
{
	uint32_t enable = req->msg->payload.state.num;
	int rc;

	if (enable > 1)
		return vdpa_error(EINVAL, "enable %u, allowed are 0 and 1", enable);
	if (enable == 0)
		vdpa_vhu_kept_drain(req->s, req->idx, false);
	rc = vdpa_consumer_enable_vq(req->s->consumer, req->idx, enable != 0);
	/* So that the next process finds nothing under way in a ring that does not move. */
	if (rc == 0 && enable == 0)
		vdpa_vhu_kept_drain(req->s, req->idx, true);
	return rc;
}

static int
get_protocol_features(struct vhu_received *req)
{
	return reply_u64(req, req->s->dev->protocol);
}

/* What is worth nothing without another, by the specification. */
static int
check_protocol_features(uint64_t protocol)
{
	static const struct {
		uint64_t feature, needs;
		const char *message;
	} rules[] = {
		{VHU_PROTOCOL(GET_VRING_BASE_INFLIGHT), VHU_PROTOCOL(INFLIGHT_SHMFD),
		 "GET_VRING_BASE_INFLIGHT without INFLIGHT_SHMFD"},
		{VHU_PROTOCOL(GET_VRING_BASE_SKIP_DRAIN), VHU_PROTOCOL(GET_VRING_BASE_INFLIGHT),
		 "GET_VRING_BASE_SKIP_DRAIN without GET_VRING_BASE_INFLIGHT"},
	};

	for (unsigned int i = 0; i < RTE_DIM(rules); i++)
		if ((protocol & rules[i].feature) != 0 && (protocol & rules[i].needs) == 0)
			return vdpa_error(EINVAL, "%s", rules[i].message);
	return 0;
}

static int
set_protocol_features(struct vhu_received *req)
{
	uint64_t protocol = req->msg->payload.u64;
	int rc;

	if ((protocol & ~req->s->dev->protocol) != 0)
		return vdpa_error(EINVAL, "protocol features 0x%" PRIx64 " were not offered",
				  protocol & ~req->s->dev->protocol);
	rc = check_protocol_features(protocol);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&req->s->dev->lock);
	req->s->protocol = protocol;
	pthread_mutex_unlock(&req->s->dev->lock);
	vdpa_consumer_report_status(req->s->consumer, (protocol & VHU_PROTOCOL(STATUS)) != 0);
	vdpa_consumer_keep_state(req->s->consumer, (protocol & VHU_PROTOCOL(DEVICE_STATE)) != 0);
	return 0;
}

static int
get_queue_num(struct vhu_received *req)
{
	return reply_u64(req, vdpa_consumer_queue_num(req->s->dev->vdev));
}

static int
send_rarp(struct vhu_received *req)
{
	uint8_t mac[6];

	memcpy(mac, &req->msg->payload.u64, sizeof(mac));
	return vdpa_consumer_announce(req->s->consumer, mac);
}

/* The MTU that the front end shows its guest; what we offer is what the device has. */
static int
net_set_mtu(struct vhu_received *req)
{
	uint64_t mtu = req->msg->payload.u64;

	if (mtu < MTU_MIN || mtu > MTU_MAX)
		return vdpa_error(EINVAL, "MTU %" PRIu64 ", allowed are %d to %d", mtu, MTU_MIN,
				  MTU_MAX);
	return 0;
}

int
vdpa_vhu_set_channel(struct vhu_session *s, int fd)
{
	struct vdpa_peer made_by;
	int old;

	/* Other families do not all keep to MSG_DONTWAIT. */
	if (!vdpa_vhu_is_stream(fd)) {
		(void)vdpa_close_foreign(s->dev->fds, fd);
		return vdpa_error(EINVAL,
				  "the file descriptor is no socket of AF_UNIX and SOCK_STREAM");
	}
	/* One of an unknown process carries all but doorbells. */
	(void)vdpa_peer_of_socket(fd, &made_by);
	pthread_mutex_lock(&s->dev->lock);
	old = s->backend_fd;
	s->channel = made_by;
	s->backend_fd = fd;
	pthread_mutex_unlock(&s->dev->lock);
	(void)vdpa_close_foreign(s->dev->fds, old);
	return 0;
}

static int
set_backend_req_fd(struct vhu_received *req)
{
	return vdpa_vhu_set_channel(req->s, take_fd(req, 0));
}

static int
check_config(struct vhu_received *req)
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
get_config(struct vhu_received *req)
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
set_config(struct vhu_received *req)
{
	const struct vhu_config *config = &req->msg->payload.config;
	int rc = check_config(req);

	if (rc < 0)
		return rc;
	return vdpa_set_config(req->s->dev->vdev, config->offset, config->data, config->size);
}

/* Queues and size of an inflight area, checked. */
static int
check_inflight(const struct vhu_session *s, const struct vhu_inflight *inflight)
{
	if (inflight->num_queues == 0 || inflight->num_queues > s->nrings)
		return vdpa_error(EINVAL, "%u queues, the device has %u", inflight->num_queues,
				  s->nrings);
	if (inflight->queue_size == 0 || inflight->queue_size > VHU_VRING_NUM_MAX)
		return vdpa_error(EINVAL, "queue size %u, allowed are 1 to %d",
				  inflight->queue_size, VHU_VRING_NUM_MAX);
	return 0;
}

static size_t
inflight_stride(const struct vhu_session *s, const struct vhu_inflight *inflight)
{
	uint64_t features = vdpa_consumer_get_features(s->consumer);

	return vdpa_vhu_inflight_stride((features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0,
					inflight->queue_size);
}

/* Use the area from now on, or unmap it. */
static int
keep_inflight(struct vhu_session *s, const struct vhu_inflight *inflight, struct vhu_shm *area)
{
	int rc = vdpa_consumer_set_inflight(s->consumer, area->addr, inflight_stride(s, inflight),
					    inflight->num_queues, false);

	if (rc < 0) {
		vdpa_vhu_shm_unmap(area);
		return rc;
	}
	vdpa_vhu_shm_unmap(s->inflight);
	s->inflight = area;
	return 0;
}

/* An area of zeroes: its version 0 says that the device is to initialise it. */
static int
get_inflight_fd(struct vhu_received *req)
{
	struct vhu_inflight *inflight = &req->msg->payload.inflight;
	struct vhu_shm *area;
	uint64_t size;
	int fd, rc;

	rc = check_inflight(req->s, inflight);
	if (rc < 0)
		return rc;
	size = inflight_stride(req->s, inflight) * inflight->num_queues;
	fd = memfd_create("vhost-user-inflight", MFD_CLOEXEC);
	if (fd < 0)
		return vdpa_error(errno, "memfd: %m");
	rc = ftruncate(fd, (off_t)size) < 0 ? vdpa_error(errno, "memfd: %m")
					    : vdpa_vhu_shm_map(&area, fd, 0, size);
	if (rc == 0)
		rc = keep_inflight(req->s, inflight, area);
	if (rc < 0) {
		close(fd);
		return rc;
	}
	inflight->mmap_size = size;
	inflight->mmap_offset = 0;
	req->reply_fd = fd;
	return 0;
}

int
vdpa_vhu_set_inflight(struct vhu_session *s, int fd, const struct vhu_inflight *inflight)
{
	struct vhu_shm *area;
	int rc = check_inflight(s, inflight);

	if (rc < 0)
		return rc;
	if (inflight->mmap_size < inflight_stride(s, inflight) * inflight->num_queues)
		return vdpa_error(EINVAL, "%" PRIu64 " bytes do not hold %u queues of %u entries",
				  inflight->mmap_size, inflight->num_queues, inflight->queue_size);
	rc = vdpa_vhu_shm_map(&area, fd, inflight->mmap_offset, inflight->mmap_size);
	return rc < 0 ? rc : keep_inflight(s, inflight, area);
}

static int
set_inflight_fd(struct vhu_received *req)
{
	return vdpa_vhu_set_inflight(req->s, req->fds[0], &req->msg->payload.inflight);
}

static int
set_status(struct vhu_received *req)
{
	if (req->msg->payload.u64 > UINT8_MAX)
		return vdpa_error(EINVAL, "status 0x%" PRIx64 " is more than 8 bits",
				  req->msg->payload.u64);
	if (req->msg->payload.u64 == 0) {
		take_doorbells(req);
		vdpa_vhu_kept_drain_all(req->s);
	}
	vdpa_consumer_set_status(req->s->consumer, (uint8_t)req->msg->payload.u64);
	/* A start or a stop is complete. */
	req->rests = req->msg->payload.u64 == 0 ||
		     (req->msg->payload.u64 & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
	return 0;
}

static int
get_status(struct vhu_received *req)
{
	return reply_u64(req, vdpa_consumer_get_status(req->s->consumer));
}

#define MEM_SIZE(n) (offsetof(struct vhu_memory, regions) + (n) * sizeof(struct vhu_mem_region))

/* name, handler, payload size, fds, queue, effect, protocol features */
static const struct vhu_row table[VHU_REQUEST_MAX] = {
#define ROW(request, handler, smin, smax, fmin, fmax, index, effect, protocol)                     \
	[VHU_##request] = {#request, handler, smin, smax, fmin, fmax, VHU_##index, effect, protocol}
	ROW(GET_FEATURES, get_features, 0, 0, 0, 0, INDEX_NONE, VHU_EFFECT_REPLY, 0),
	ROW(SET_FEATURES, set_features, 8, 8, 0, 0, INDEX_NONE, VHU_EFFECT_ADVANCE, 0),
	ROW(SET_OWNER, set_owner, 0, 0, 0, 0, INDEX_NONE, 0, 0),
	ROW(RESET_OWNER, reset_device, 0, 0, 0, 0, INDEX_NONE, 0, 0),
	ROW(SET_MEM_TABLE, set_mem_table, MEM_SIZE(1), MEM_SIZE(VHU_MEM_REGIONS_MAX), 1,
	    VHU_MEM_REGIONS_MAX, INDEX_NONE, VHU_EFFECT_ADVANCE, 0),
	ROW(GET_MAX_MEM_SLOTS, get_max_mem_slots, 0, 0, 0, 0, INDEX_NONE, VHU_EFFECT_REPLY,
	    VHU_PROTOCOL(CONFIGURE_MEM_SLOTS)),
	ROW(ADD_MEM_REG, add_mem_reg, 40, 40, 1, 1, INDEX_NONE, VHU_EFFECT_ADVANCE,
	    VHU_PROTOCOL(CONFIGURE_MEM_SLOTS)),
	ROW(REM_MEM_REG, rem_mem_reg, 40, 40, 0, 1, INDEX_NONE, 0,
	    VHU_PROTOCOL(CONFIGURE_MEM_SLOTS)),
	ROW(SET_LOG_BASE, set_log_base, 16, 16, 1, 1, INDEX_NONE, VHU_EFFECT_REPLY,
	    VHU_PROTOCOL(LOG_SHMFD)),
	ROW(SET_LOG_FD, set_log_fd, 0, 8, 1, 1, INDEX_NONE, 0, 0),
	ROW(SET_VRING_NUM, set_vring_num, 8, 8, 0, 0, INDEX_STATE, VHU_EFFECT_ADVANCE, 0),
	ROW(SET_VRING_ADDR, set_vring_addr, 40, 40, 0, 0, INDEX_ADDR, VHU_EFFECT_ADVANCE, 0),
	ROW(SET_VRING_BASE, set_vring_base, 8, 8, 0, 0, INDEX_STATE, 0, 0),
	ROW(GET_VRING_BASE, get_vring_base, 8, 8, 0, 0, INDEX_STATE, VHU_EFFECT_REPLY, 0),
	ROW(GET_VRING_BASE_SKIP_DRAIN, get_vring_base, 8, 8, 0, 0, INDEX_STATE, VHU_EFFECT_REPLY,
	    VHU_PROTOCOL(GET_VRING_BASE_SKIP_DRAIN)),
	ROW(SET_VRING_KICK, set_vring_kick, 8, 8, 0, 1, INDEX_FILE, VHU_EFFECT_ADVANCE, 0),
	ROW(SET_VRING_CALL, set_vring_call, 8, 8, 0, 1, INDEX_FILE, 0, 0),
	ROW(SET_VRING_ERR, set_vring_err, 8, 8, 0, 1, INDEX_FILE, 0, 0),
	ROW(GET_PROTOCOL_FEATURES, get_protocol_features, 0, 0, 0, 0, INDEX_NONE, VHU_EFFECT_REPLY,
	    0),
	ROW(SET_PROTOCOL_FEATURES, set_protocol_features, 8, 8, 0, 0, INDEX_NONE, 0, 0),
	ROW(GET_QUEUE_NUM, get_queue_num, 0, 0, 0, 0, INDEX_NONE, VHU_EFFECT_REPLY,
	    VHU_PROTOCOL(MQ)),
	ROW(SET_VRING_ENABLE, set_vring_enable, 8, 8, 0, 0, INDEX_STATE, VHU_EFFECT_ADVANCE, 0),
	ROW(SEND_RARP, send_rarp, 8, 8, 0, 0, INDEX_NONE, 0, VHU_PROTOCOL(RARP)),
	ROW(NET_SET_MTU, net_set_mtu, 8, 8, 0, 0, INDEX_NONE, 0, VHU_PROTOCOL(NET_MTU)),
	ROW(SET_BACKEND_REQ_FD, set_backend_req_fd, 0, 8, 1, 1, INDEX_NONE, VHU_EFFECT_ADVANCE,
	    VHU_PROTOCOL(BACKEND_REQ)),
	ROW(GET_CONFIG, get_config, VHU_CONFIG_HDR_SIZE, sizeof(struct vhu_config), 0, 0,
	    INDEX_NONE, VHU_EFFECT_REPLY, VHU_PROTOCOL(CONFIG)),
	ROW(SET_CONFIG, set_config, VHU_CONFIG_HDR_SIZE, sizeof(struct vhu_config), 0, 0,
	    INDEX_NONE, 0, VHU_PROTOCOL(CONFIG)),
	ROW(GET_INFLIGHT_FD, get_inflight_fd, VHU_INFLIGHT_SIZE_MIN, sizeof(struct vhu_inflight), 0,
	    0, INDEX_NONE, VHU_EFFECT_REPLY, VHU_PROTOCOL(INFLIGHT_SHMFD)),
	ROW(SET_INFLIGHT_FD, set_inflight_fd, VHU_INFLIGHT_SIZE_MIN, sizeof(struct vhu_inflight), 1,
	    1, INDEX_NONE, 0, VHU_PROTOCOL(INFLIGHT_SHMFD)),
	ROW(RESET_DEVICE, reset_device, 0, 0, 0, 0, INDEX_NONE, 0, VHU_PROTOCOL(RESET_DEVICE)),
	ROW(SET_STATUS, set_status, 8, 8, 0, 0, INDEX_NONE, VHU_EFFECT_ADVANCE,
	    VHU_PROTOCOL(STATUS)),
	ROW(GET_STATUS, get_status, 0, 0, 0, 0, INDEX_NONE, VHU_EFFECT_REPLY, VHU_PROTOCOL(STATUS)),
	ROW(SET_DEVICE_STATE_FD, vdpa_vhu_set_device_state_fd, 8, 8, 1, 1, INDEX_NONE,
	    VHU_EFFECT_REPLY, VHU_PROTOCOL(DEVICE_STATE)),
	ROW(CHECK_DEVICE_STATE, vdpa_vhu_check_device_state, 0, 0, 0, 0, INDEX_NONE,
	    VHU_EFFECT_REPLY, VHU_PROTOCOL(DEVICE_STATE)),
#undef ROW
};

const struct vhu_row *
vdpa_vhu_row(uint32_t request)
{
	return request < RTE_DIM(table) && table[request].handle != NULL ? &table[request] : NULL;
}
