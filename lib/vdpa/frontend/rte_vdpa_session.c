/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A session of the front end rte_vdpa: what rte_vhost knows of the rings, the memory and the log of
 * one connection, reported to the core, which decides. Owns a mapping of the dirty log.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "rte_vdpa_priv.h"
#include "vdpa_event.h"
#include "vdpa_fd.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_log.h"
#include "vhost_user_proto.h"

/* A duplicate; -1: there is none. rte_vhost takes whatever the front end sends; on a full pipe a
 * signal would wait, and whoever gives it serves others too. */
static int
dup_eventfd(int fd, int *dup_fd)
{
	*dup_fd = -1;
	if (fd < 0)
		return 0;
	if (!vdpa_fd_is_eventfd(fd))
		return vdpa_error(EINVAL, "a file descriptor that is no eventfd");
	*dup_fd = vdpa_fd_dup(fd, "an eventfd");
	return *dup_fd < 0 ? *dup_fd : 0;
}

/*
 * rte_vhost_get_mem_table() follows a null pointer when the last SET_MEM_TABLE failed half-way,
 * which a front end can bring about at will (up to 25.11). Nothing tells so but that what a ring's
 * address points to is then unmapped.
 */
static bool
is_mapped(const void *addr)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

	return addr != NULL && msync((void *)((uintptr_t)addr & ~(page - 1)), page, MS_ASYNC) == 0;
}

/* The memory table that the addresses of ring idx were translated with; free() it. */
static int
read_memory(int vid, uint16_t idx, struct rte_vhost_memory **mem)
{
	struct rte_vhost_vring vring;

	if (rte_vhost_get_vhost_vring(vid, idx, &vring) < 0 || !is_mapped(vring.desc) ||
	    rte_vhost_get_mem_table(vid, mem) < 0)
		return vdpa_error(EFAULT, "there is no memory table");
	return 0;
}

static int
report_memory(struct vdpa_rte_device *dev, const struct rte_vhost_memory *mem)
{
	enum { REGIONS_MAX = 64 }; /* rte_vhost's messages hold 8 */
	struct vdpa_mem_region_spec specs[REGIONS_MAX];

	if (mem->nregions > RTE_DIM(specs))
		return vdpa_error(E2BIG, "%u memory regions", mem->nregions);
	for (uint32_t i = 0; i < mem->nregions; i++) {
		const struct rte_vhost_mem_region *r = &mem->regions[i];

		specs[i] = (struct vdpa_mem_region_spec){
			.iova = r->guest_phys_addr,
			.uaddr = r->guest_user_addr,
			.size = r->size,
			/* rte_vhost maps a file from its beginning. */
			.offset = r->host_user_addr - (uint64_t)(uintptr_t)r->mmap_addr,
			.fd = r->fd,
		};
	}
	return vdpa_consumer_set_memory(dev->consumer, specs, mem->nregions);
}

/* rte_vhost has translated the ring's addresses to its own mapping: take them back. */
static const struct rte_vhost_mem_region *
region_of(const struct rte_vhost_memory *mem, const void *addr, uint64_t *off)
{
	for (uint32_t i = 0; addr != NULL && i < mem->nregions; i++) {
		*off = (uint64_t)(uintptr_t)addr - mem->regions[i].host_user_addr;
		if (*off < mem->regions[i].size)
			return &mem->regions[i];
	}
	return NULL;
}

static int
user_address(const struct rte_vhost_memory *mem, const void *addr, uint64_t *user)
{
	uint64_t off;
	const struct rte_vhost_mem_region *r = region_of(mem, addr, &off);

	if (r == NULL)
		return vdpa_error(EFAULT, "the ring does not lie in the memory table");
	*user = r->guest_user_addr + off;
	return 0;
}

/* Report the eventfds of a ring, as duplicates: rte_vhost closes its own while the device still
 * uses them. */
static int
report_eventfds(struct vdpa_rte_device *dev, uint16_t idx, const struct rte_vhost_vring *vring)
{
	int kick, call, rc;

	rc = dup_eventfd(vring->kickfd, &kick);
	if (rc < 0)
		return rc;
	rc = dup_eventfd(vring->callfd, &call);
	if (rc == 0)
		rc = vdpa_consumer_set_vq_call(dev->consumer, idx, call);
	/* rte_vhost has acknowledged the message before we hear of it: an interrupt may have gone
	 * to the old eventfd when nobody waited for it any more. One too many does no harm. */
	if (rc == 0 && call >= 0)
		vdpa_eventfd_signal(call);
	if (rc == 0)
		return vdpa_consumer_set_vq_kick(dev->consumer, idx, kick);
	if (kick >= 0)
		close(kick);
	return rc;
}

/* Report a ring that is set up; it has addresses once there was a kick eventfd. */
static int
report_ring(struct vdpa_rte_device *dev, const struct rte_vhost_memory *mem, uint16_t idx)
{
	struct vdpa_consumer_vq_addr user = {.log = UINT64_MAX};
	struct rte_vhost_vring vring;
	uint16_t avail, used;
	uint64_t off;
	int rc;

	if (rte_vhost_get_vhost_vring(dev->vid, idx, &vring) < 0 || vring.size == 0 ||
	    vring.desc == NULL || vring.avail == NULL || vring.used == NULL ||
	    rte_vhost_get_vring_base(dev->vid, idx, &avail, &used) < 0)
		return 0;
	/* Split and packed are unions in there. */
	rc = user_address(mem, vring.desc, &user.desc);
	if (rc == 0)
		rc = user_address(mem, vring.avail, &user.driver);
	if (rc == 0)
		rc = user_address(mem, vring.used, &user.device);
	if (rc < 0)
		return rc;
	/* The log address comes without a word to us; it is the used ring's own. */
	user.log = region_of(mem, vring.used, &off)->guest_phys_addr + off;
	rc = vdpa_consumer_set_vq_num(dev->consumer, idx, vring.size);
	if (rc == 0)
		rc = vdpa_consumer_set_vq_addr(dev->consumer, idx, &user);
	if (rc == 0)
		rc = vdpa_consumer_set_vq_base(dev->consumer, idx,
					       dev->packed ? avail | (uint32_t)used << 16 : avail);
	/* Without a kick eventfd it is set up when rte_vhost says so, by its being ready. */
	return rc < 0 || vring.kickfd < 0 ? rc : report_eventfds(dev, idx, &vring);
}

static void
unmap_log(struct vdpa_rte_device *dev, struct vdpa_rte_log *log)
{
	if (log == NULL)
		return;
	vdpa_fault_unguard(log->map);
	munmap(log->map, log->map_len);
	if (log->faulted)
		VDPA_LOG(WARNING, "%s: rte_vdpa: the dirty log's file was cut while in use",
			 dev->vdev->name);
	free(log);
}

static int
map_log(struct vdpa_rte_device *dev, struct vdpa_rte_log **out)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), base = 0, size = 0, skip;
	struct vdpa_rte_log *log;
	int rc;

	if (rte_vhost_get_log_base(dev->vid, &base, &size) < 0 || base == 0 || size == 0)
		return vdpa_error(EPROTO, "the front end has given none");
	log = calloc(1, sizeof(*log));
	if (log == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	skip = base & (page - 1);
	log->map_len = RTE_ALIGN_CEIL(skip + size, page);
	/* Old size 0: a second mapping of the same shared pages, mremap(2). */
	log->map = mremap((void *)(uintptr_t)(base - skip), 0, log->map_len, MREMAP_MAYMOVE);
	if (log->map == MAP_FAILED) {
		rc = vdpa_error(errno, "it cannot be mapped: %s", strerror(errno));
		goto err_free;
	}
	rc = vdpa_fault_guard(log->map, log->map_len, &log->faulted);
	if (rc < 0) {
		vdpa_error(rc, "out of memory");
		goto err_unmap;
	}
	/* rte_vhost has closed the file. */
	log->dirty = (struct vdpa_dirty_log){
		.bitmap = (uint8_t *)log->map + skip, .size = size, .fd = -1};
	*out = log;
	return 0;

err_unmap:
	munmap(log->map, log->map_len);
err_free:
	free(log);
	return rc;
}

/* Nobody would tell the front end, which would miss pages: rather no device than that. */
static int
log_failed(struct vdpa_rte_device *dev, int rc)
{
	vdpa_device_fail(dev->vdev, -1, rc, "dirty log: %s", vdpa_error_message());
	return rc;
}

int
vdpa_rte_session_features(struct vdpa_rte_device *dev)
{
	struct vdpa_rte_log *log = NULL;
	uint64_t features = 0;
	int rc = 0;

	if (rte_vhost_get_negotiated_features(dev->vid, &features) < 0)
		return vdpa_error(ENODEV, "the connection is gone");
	dev->packed = (features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	if ((features & RTE_BIT64(VHOST_F_LOG_ALL)) != 0) {
		rc = map_log(dev, &log);
		if (rc < 0)
			return log_failed(dev, rc);
	}
	/* A ring is enabled when rte_vhost says that it is ready, whatever was negotiated. */
	features |= RTE_BIT64(VHOST_USER_F_PROTOCOL_FEATURES);
	if (log != NULL)
		rc = vdpa_consumer_set_log(dev->consumer, &log->dirty);
	if (rc == 0)
		rc = vdpa_consumer_set_features(dev->consumer, features);
	if (rc == 0 && log == NULL)
		rc = vdpa_consumer_set_log(dev->consumer, NULL);
	if (rc == 0)
		RTE_SWAP(log, dev->log);
	unmap_log(dev, log);
	return rc < 0 ? log_failed(dev, rc) : 0;
}

/*
 * The front end has given another log in place of the one in use. It has its answer already and
 * reads the old log one last time, perhaps before the device has changed over: what the old one has
 * is in the new one too.
 */
static void
replace_log(struct vdpa_rte_device *dev)
{
	struct vdpa_rte_log *log;
	int rc = map_log(dev, &log);

	if (rc == 0) {
		rc = vdpa_consumer_set_log(dev->consumer, &log->dirty);
		for (uint64_t i = 0; rc == 0 && i < RTE_MIN(dev->log->dirty.size, log->dirty.size);
		     i++)
			if (dev->log->dirty.bitmap[i] != 0)
				__atomic_fetch_or(&log->dirty.bitmap[i], dev->log->dirty.bitmap[i],
						  __ATOMIC_SEQ_CST);
		if (rc == 0)
			RTE_SWAP(log, dev->log);
		unmap_log(dev, log);
	}
	if (rc < 0)
		(void)log_failed(dev, rc);
}

/* All that rte_vhost knows, of rings that the device does not have; idx: one that is ready. */
static int
report_all(struct vdpa_rte_device *dev, uint16_t idx)
{
	uint16_t n = RTE_MIN(rte_vhost_get_vring_num(dev->vid), dev->nrings);
	struct rte_vhost_memory *mem;
	uint64_t protocol = 0;
	int rc;

	/* The failure was reported, and lasts until the front end stops the rings. */
	if ((vdpa_consumer_get_status(dev->consumer) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0)
		return vdpa_error(EAGAIN, "the device has failed");
	rc = vdpa_rte_session_features(dev);
	if (rc == 0)
		rc = read_memory(dev->vid, idx, &mem);
	if (rc < 0)
		return rc;
	/* A block device's status is not offered, see get_protocol_features(). */
	rte_vhost_get_negotiated_protocol_features(dev->vid, &protocol);
	vdpa_consumer_report_status(dev->consumer,
				    (protocol & RTE_BIT64(VHOST_USER_PROTOCOL_F_STATUS)) != 0);
	rc = report_memory(dev, mem);
	for (uint16_t i = 0; rc == 0 && i < n; i++) {
		/* rte_vhost has a ring that the front end has spoken of. */
		vdpa_consumer_announce_vq(dev->consumer, i);
		if (!vdpa_consumer_has_vq(dev->consumer, i))
			rc = report_ring(dev, mem, i);
	}
	free(mem);
	return rc;
}

static uint16_t
first_enabled(const struct vdpa_rte_device *dev)
{
	uint16_t i = 0;

	while (i < dev->nrings - 1 && !dev->enabled[i])
		i++;
	return i;
}

int
vdpa_rte_session_conf(struct vdpa_rte_device *dev)
{
	int rc;

	if (vdpa_consumer_is_running(dev->consumer))
		return vdpa_rte_session_memory(dev);
	rc = report_all(dev, first_enabled(dev));
	if (rc < 0)
		return rc;
	/* rte_vhost waits for it where it is reported. */
	vdpa_consumer_set_status(dev->consumer, VIRTIO_CONFIG_S_DRIVER_OK);
	vdpa_consumer_advance(dev->consumer);
	return vdpa_consumer_is_running(dev->consumer)
		       ? 0
		       : vdpa_error(EAGAIN, "it does not start yet");
}

/* rte_vhost's word that a ring is set up and enabled; with other eventfds than before, perhaps. */
int
vdpa_rte_session_ring_ready(struct vdpa_rte_device *dev, uint16_t idx)
{
	struct rte_vhost_vring vring;
	int rc = 0;

	if (!vdpa_consumer_has_vq(dev->consumer, idx))
		rc = report_all(dev, idx);
	if (rc == 0 && rte_vhost_get_vhost_vring(dev->vid, idx, &vring) < 0)
		rc = vdpa_error(EINVAL, "rte_vhost does not know it");
	if (rc == 0)
		rc = report_eventfds(dev, idx, &vring);
	if (rc == 0)
		rc = vdpa_consumer_enable_vq(dev->consumer, idx, true);
	if (rc < 0)
		return rc;
	dev->enabled[idx] = true;
	vdpa_consumer_advance(dev->consumer);
	return 0;
}

int
vdpa_rte_session_memory(struct vdpa_rte_device *dev)
{
	struct rte_vhost_memory *mem;
	int rc;

	rc = read_memory(dev->vid, first_enabled(dev), &mem);
	if (rc < 0)
		return rc;
	rc = report_memory(dev, mem);
	free(mem);
	return rc;
}

/* Keep where the rings stand in rte_vhost, which tells the front end and us again. */
static void
stop_ring(struct vdpa_rte_device *dev, uint16_t idx)
{
	uint32_t base = vdpa_consumer_get_vq_base(dev->consumer, idx, false);

	rte_vhost_set_vring_base(dev->vid, idx, (uint16_t)base,
				 dev->packed ? (uint16_t)(base >> 16) : (uint16_t)base);
}

void
vdpa_rte_session_stop(struct vdpa_rte_device *dev)
{
	/* Last first: of a net device what sends before what receives, so that nothing is sent to a
	 * queue that has stopped. */
	for (uint16_t n = dev->nrings; n > 0; n--)
		if (dev->enabled[n - 1] || vdpa_consumer_has_vq(dev->consumer, n - 1))
			stop_ring(dev, n - 1);
}

static void
ring_stops(struct vdpa_rte_device *dev, uint16_t idx)
{
	if (dev->enabled[idx] || vdpa_consumer_has_vq(dev->consumer, idx))
		stop_ring(dev, idx);
	dev->enabled[idx] = false;
}

/* One that the device has; before the front end hears that it is so. */
static void
ring_is_enabled(struct vdpa_rte_device *dev, uint16_t idx, bool enable)
{
	if (vdpa_consumer_has_vq(dev->consumer, idx) &&
	    vdpa_consumer_enable_vq(dev->consumer, idx, enable) < 0)
		VDPA_LOG(WARNING, "%s: rte_vdpa: enable: %s", dev->vdev->name,
			 vdpa_error_message());
}

/*
 * rte_vhost tells of a ring that is ready, and of its end only for a device all of whose rings
 * were, and after it has answered GET_VRING_BASE. What stops a ring is seen in the messages
 * themselves; other changes of a ring's readiness are its eventfds being swapped.
 */
static enum rte_vhost_msg_result
before_message(int vid, void *ctx)
{
	const struct vhu_msg *msg = ctx;
	struct vdpa_rte_device *dev;
	uint32_t idx;

	if (msg->request != VHU_GET_VRING_BASE && msg->request != VHU_SET_VRING_ENABLE)
		return RTE_VHOST_MSG_RESULT_NOT_HANDLED;
	idx = msg->payload.state.index;
	pthread_mutex_lock(&vdpa_rte_lock);
	dev = vdpa_rte_find_vid(vid);
	if (dev != NULL && idx < dev->nrings && msg->size == sizeof(msg->payload.state)) {
		bool stops = msg->request == VHU_GET_VRING_BASE;

		if (dev->vid == vid && stops)
			ring_stops(dev, (uint16_t)idx);
		else if (dev->vid == vid)
			ring_is_enabled(dev, (uint16_t)idx, msg->payload.state.num != 0);
		else if (stops || msg->payload.state.num == 0)
			(void)vdpa_rte_wait_ring(dev, vid, (uint16_t)idx, false);
	}
	pthread_mutex_unlock(&vdpa_rte_lock);
	return RTE_VHOST_MSG_RESULT_NOT_HANDLED;
}

/* The table that rte_vhost has just taken: there is one, wherever the rings lie. */
static int
report_table(struct vdpa_rte_device *dev)
{
	struct rte_vhost_memory *mem;
	int rc;

	if (rte_vhost_get_mem_table(dev->vid, &mem) < 0)
		return vdpa_error(EFAULT, "there is no memory table");
	rc = report_memory(dev, mem);
	free(mem);
	return rc;
}

/* It must not go on with memory that the front end has taken back. */
static void
table_failed(struct vdpa_rte_device *dev)
{
	VDPA_LOG(ERR, "%s: rte_vdpa: memory table: %s", dev->vdev->name, vdpa_error_message());
	if (vdpa_consumer_is_running(dev->consumer))
		vdpa_rte_session_stop(dev);
	(void)vdpa_consumer_set_memory(dev->consumer, NULL, 0);
}

/* rte_vhost has unmapped the old table or log, and mapped the new one; it calls only where it has.
 * A device that stands still has memory too. */
static enum rte_vhost_msg_result
after_message(int vid, void *ctx)
{
	const struct vhu_msg *msg = ctx;
	struct vdpa_rte_device *dev;

	if (msg->request != VHU_SET_MEM_TABLE && msg->request != VHU_SET_LOG_BASE)
		return RTE_VHOST_MSG_RESULT_NOT_HANDLED;
	pthread_mutex_lock(&vdpa_rte_lock);
	dev = vdpa_rte_find_vid(vid);
	if (dev != NULL && dev->vid == vid && msg->request == VHU_SET_MEM_TABLE) {
		if (report_table(dev) < 0)
			table_failed(dev);
	} else if (dev != NULL && dev->vid == vid && dev->log != NULL) {
		replace_log(dev);
	}
	pthread_mutex_unlock(&vdpa_rte_lock);
	return RTE_VHOST_MSG_RESULT_NOT_HANDLED;
}

static const struct rte_vhost_user_extern_ops extern_ops = {
	.pre_msg_handle = before_message,
	.post_msg_handle = after_message,
};

int
vdpa_rte_session_hear(int vid)
{
	return rte_vhost_extern_callback_register(vid, &extern_ops, NULL) < 0
		       ? vdpa_error(ENODEV, "the connection is gone")
		       : 0;
}

int
vdpa_rte_session_begin(struct vdpa_rte_device *dev, int vid)
{
	if (dev->vid == vid)
		return 0;
	dev->consumer = vdpa_consumer_new(dev->vdev, NULL, NULL);
	if (dev->consumer == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	dev->vid = vid;
	vdpa_rte_wait_over(dev, vid, dev->enabled);
	/* What was ready before this connection had the device; from now on the front end decides.
	 */
	for (uint16_t i = 0; i < dev->nrings; i++)
		if (dev->enabled[i])
			(void)vdpa_consumer_enable_vq(dev->consumer, i, true);
	return vdpa_rte_session_hear(vid);
}

void
vdpa_rte_session_end(struct vdpa_rte_device *dev)
{
	if (dev->vid == VDPA_RTE_NO_VID)
		return;
	vdpa_consumer_free(dev->consumer);
	dev->consumer = NULL;
	unmap_log(dev, dev->log);
	dev->log = NULL;
	memset(dev->enabled, 0, dev->nrings * sizeof(dev->enabled[0]));
	dev->vid = VDPA_RTE_NO_VID;
}
