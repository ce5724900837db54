/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A session of the front end rte_vdpa: what rte_vhost knows of the rings, the memory and the log of
 * one connection, brought to the device. Owns duplicates of the eventfds, a mapping of the dirty
 * log, and a reference to the memory table.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <rte_alarm.h>
#include <rte_bitops.h>
#include <rte_byteorder.h>
#include <rte_common.h>

#include "clock.h"
#include "rte_vdpa_priv.h"
#include "vdpa_event.h"
#include "vdpa_log.h"

/*
 * rte_vhost tells of a changed eventfd by "off" and "on" within one message, QEMU changes the call
 * one whenever a guest masks a vector, and some devices can pause a queue only by starting again.
 * So "off" is told to the device when it has lasted that long.
 */
#define SETTLE_US 10000

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* -1: there is none. rte_vhost takes whatever the front end sends; on a full pipe a signal would
 * wait, and whoever gives it serves others too. */
static int
dup_eventfd(int fd)
{
	char path[sizeof("/proc/self/fd/2147483647")], link[sizeof("anon_inode:[eventfd]")];
	ssize_t n;

	if (fd < 0)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, link, sizeof(link));
	if (n != (ssize_t)sizeof(link) - 1 ||
	    memcmp(link, "anon_inode:[eventfd]", sizeof(link) - 1) != 0) {
		errno = EINVAL;
		return -1;
	}
	return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static uint64_t
device_features(const struct vdpa_rte_device *dev, uint64_t negotiated)
{
	uint64_t own = vdpa_get_device_features(dev->vdev);

	/* Addresses reach the device through the core's translation, always. */
	return (negotiated & own) | (own & RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM));
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
make_iotlb(const struct rte_vhost_memory *mem, const struct vdpa_iotlb *old,
	   struct vdpa_iotlb **tlb)
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
	return vdpa_iotlb_create(old, specs, mem->nregions, tlb);
}

/* rte_vhost has translated the ring's addresses to its own mapping: take them back. */
static int
to_iova(const struct rte_vhost_memory *mem, const void *addr, uint64_t *iova)
{
	for (uint32_t i = 0; i < mem->nregions; i++) {
		const struct rte_vhost_mem_region *r = &mem->regions[i];
		uint64_t off = (uint64_t)(uintptr_t)addr - r->host_user_addr;

		if (addr != NULL && off < r->size) {
			*iova = r->guest_phys_addr + off;
			return 0;
		}
	}
	return -EFAULT;
}

static struct vdpa_vq_state
to_state(bool packed, uint16_t avail, uint16_t used)
{
	struct vdpa_vq_state state = {0};

	if (!packed) {
		state.split.avail_index = avail;
		return state;
	}
	state.packed.last_avail_idx = avail & 0x7fff;
	state.packed.last_avail_counter = (uint8_t)(avail >> 15);
	state.packed.last_used_idx = used & 0x7fff;
	state.packed.last_used_counter = (uint8_t)(used >> 15);
	return state;
}

/* Keep where the ring stands in rte_vhost, which tells the front end and us again. */
static void
save_state(struct vdpa_rte_device *dev, uint16_t idx, const struct vdpa_vq_state *state)
{
	uint16_t avail = state->split.avail_index, used = avail;

	if (dev->packed) {
		avail = (uint16_t)((state->packed.last_avail_idx & 0x7fff) |
				   state->packed.last_avail_counter << 15);
		used = (uint16_t)((state->packed.last_used_idx & 0x7fff) |
				  state->packed.last_used_counter << 15);
	}
	rte_vhost_set_vring_base(dev->vid, idx, avail, used);
}

/*
 * Where a queue stands that cannot say it, as well as it can be known: a split ring says itself how
 * far it was used, and what was taken and not used is done again. Of a packed ring nothing is known
 * but where it began.
 */
static void
save_used_index(struct vdpa_rte_device *dev, uint16_t idx)
{
	const uint16_t *used_idx;
	uint16_t at;

	if (dev->packed)
		return;
	used_idx = vdpa_iotlb_range(dev->iotlb, dev->rings[idx].used + 2, sizeof(*used_idx));
	if (used_idx == NULL)
		return;
	at = rte_le_to_cpu_16(__atomic_load_n(used_idx, __ATOMIC_RELAXED));
	rte_vhost_set_vring_base(dev->vid, idx, at, at);
}

/* What the core is to know of a ring; duplicates its eventfds. */
static int
ring_config(struct vdpa_rte_device *dev, const struct rte_vhost_memory *mem, uint16_t idx,
	    struct vdpa_vq_config *conf)
{
	struct vdpa_rte_ring *ring = &dev->rings[idx];
	struct rte_vhost_vring vring;
	uint16_t avail, used;

	if (rte_vhost_get_vhost_vring(dev->vid, idx, &vring) < 0 ||
	    rte_vhost_get_vring_base(dev->vid, idx, &avail, &used) < 0)
		return vdpa_error(EINVAL, "%s: queue %u: rte_vhost does not know it",
				  dev->vdev->name, idx);
	*conf = (struct vdpa_vq_config){.ready = true,
					.enabled = ring->ready || !vdpa_has_vq_enable(dev->vdev),
					.num = vring.size,
					.state = to_state(dev->packed, avail, used)};
	/* Split and packed are unions in there. */
	if (to_iova(mem, vring.desc, &conf->desc) < 0 ||
	    to_iova(mem, vring.avail, &conf->driver) < 0 ||
	    to_iova(mem, vring.used, &conf->device) < 0)
		return vdpa_error(EFAULT, "%s: queue %u: the ring does not lie in the memory table",
				  dev->vdev->name, idx);
	close_fd(&ring->kick_fd);
	close_fd(&ring->call_fd);
	ring->kick_fd = dup_eventfd(vring.kickfd);
	if (vring.kickfd < 0 || ring->kick_fd >= 0)
		ring->call_fd = dup_eventfd(vring.callfd);
	if ((vring.kickfd >= 0 && ring->kick_fd < 0) || (vring.callfd >= 0 && ring->call_fd < 0))
		return vdpa_error(errno, "%s: queue %u: eventfd: %s", dev->vdev->name, idx,
				  strerror(errno));
	ring->used = conf->device;
	conf->kick_fd = ring->kick_fd;
	conf->call_fd = ring->call_fd;
	return 0;
}

/*
 * Whether the device is to have a ring from its start on. One that takes no queue later gets all
 * that are set up, the ones that are not enabled yet too; where it has no notion of enabling, they
 * run.
 */
static bool
is_wanted(const struct vdpa_rte_device *dev, uint16_t idx)
{
	struct rte_vhost_vring vring;

	if (dev->rings[idx].ready)
		return true;
	if ((vdpa_get_backend_features(dev->vdev) &
	     RTE_BIT64(VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK)) != 0)
		return false;
	/* It has addresses once there was a kick eventfd. */
	return rte_vhost_get_vhost_vring(dev->vid, idx, &vring) == 0 && vring.size > 0 &&
	       vring.kickfd >= 0 && vring.desc != NULL && vring.avail != NULL && vring.used != NULL;
}

static void
forget_ring(struct vdpa_rte_ring *ring)
{
	ring->started = false;
	ring->disabled = false;
	close_fd(&ring->kick_fd);
	close_fd(&ring->call_fd);
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
	log->dirty = (struct vdpa_dirty_log){.bitmap = (uint8_t *)log->map + skip, .size = size};
	*out = log;
	return 0;

err_unmap:
	munmap(log->map, log->map_len);
err_free:
	free(log);
	return rc;
}

/*
 * The dirty log as the negotiated features want it, with the rings of now. Their log addresses come
 * after the features and without a word to us; they are the rings' own.
 */
static int
update_log(struct vdpa_rte_device *dev)
{
	uint64_t features = 0, used[VDPA_VQ_MAX];
	struct vdpa_rte_log *log = NULL;
	bool on;
	int rc = 0;

	if (rte_vhost_get_negotiated_features(dev->vid, &features) < 0)
		return 0;
	on = (features & RTE_BIT64(VHOST_F_LOG_ALL)) != 0;
	if (!on && dev->log == NULL)
		return 0;
	for (uint16_t i = 0; i < RTE_DIM(used); i++)
		used[i] =
			i < dev->nrings && dev->rings[i].started ? dev->rings[i].used : UINT64_MAX;
	if (on)
		rc = map_log(dev, &log);
	if (rc == 0)
		rc = vdpa_device_set_log(dev->vdev, on ? &log->dirty : NULL, used);
	if (rc == 0) {
		unmap_log(dev, dev->log);
		dev->log = log;
		return 0;
	}
	/* Nobody would tell the front end, which would miss pages: rather no device than that. */
	unmap_log(dev, log);
	vdpa_device_fail(dev->vdev, -1, rc, "dirty log: %s", vdpa_error_message());
	return rc;
}

int
vdpa_rte_session_features(struct vdpa_rte_device *dev)
{
	return dev->running ? update_log(dev) : 0;
}

/* Pause what has been off for long enough. On EAL's interrupt thread. */
static void
settle(void *arg)
{
	struct vdpa_rte_device *dev = arg;
	int64_t now = vdpa_now_us();

	pthread_mutex_lock(&vdpa_rte_lock);
	dev->settling = false;
	for (uint16_t i = 0; dev->running && i < dev->nrings; i++) {
		struct vdpa_rte_ring *ring = &dev->rings[i];

		if (!ring->started || ring->ready || ring->disabled)
			continue;
		if (now - ring->off_us < SETTLE_US)
			dev->settling = true;
		else if (vdpa_device_enable_vq(dev->vdev, i, false) < 0)
			VDPA_LOG(WARNING, "%s: rte_vdpa: disable: %s", dev->vdev->name,
				 vdpa_error_message());
		else
			ring->disabled = true;
	}
	if (dev->settling)
		dev->settling = rte_eal_alarm_set(SETTLE_US, settle, dev) == 0;
	pthread_mutex_unlock(&vdpa_rte_lock);
}

void
vdpa_rte_session_cancel(struct vdpa_rte_device *dev)
{
	rte_eal_alarm_cancel(settle, dev);
}

/* A ring that the device has is ready again: with other eventfds, perhaps. */
static int
go_on(struct vdpa_rte_device *dev, uint16_t idx)
{
	struct vdpa_rte_ring *ring = &dev->rings[idx];
	struct rte_vhost_vring vring;
	int kick, call, rc;

	if (rte_vhost_get_vhost_vring(dev->vid, idx, &vring) < 0)
		return vdpa_error(EINVAL, "%s: queue %u: rte_vhost does not know it",
				  dev->vdev->name, idx);
	kick = dup_eventfd(vring.kickfd);
	call = dup_eventfd(vring.callfd);
	if ((vring.kickfd >= 0 && kick < 0) || (vring.callfd >= 0 && call < 0))
		rc = vdpa_error(EINVAL, "%s: queue %u: a file descriptor that is no eventfd",
				dev->vdev->name, idx);
	else
		rc = vdpa_device_set_vq_call(dev->vdev, idx, call);
	if (rc == 0) {
		RTE_SWAP(call, ring->call_fd);
		rc = vdpa_device_set_vq_kick(dev->vdev, idx, kick);
	}
	if (rc == 0) {
		RTE_SWAP(kick, ring->kick_fd);
		rc = ring->disabled ? vdpa_device_enable_vq(dev->vdev, idx, true) : 0;
	}
	if (rc == 0)
		ring->disabled = false;
	/* rte_vhost has acknowledged the message before we hear of it: an interrupt may have gone
	 * to the old eventfd when nobody waited for it any more. One too many does no harm. */
	if (ring->call_fd >= 0)
		vdpa_eventfd_signal(ring->call_fd);
	close_fd(&kick);
	close_fd(&call);
	return rc;
}

static int
start_late(struct vdpa_rte_device *dev, uint16_t idx)
{
	struct rte_vhost_memory *mem;
	struct vdpa_vq_config conf;
	int rc;

	rc = read_memory(dev->vid, idx, &mem);
	if (rc < 0)
		return vdpa_error(rc, "%s: queue %u: there is no memory table", dev->vdev->name,
				  idx);
	rc = ring_config(dev, mem, idx, &conf);
	free(mem);
	if (rc == 0)
		rc = vdpa_device_start_vq(dev->vdev, idx, &conf);
	if (rc < 0) {
		forget_ring(&dev->rings[idx]);
		return rc;
	}
	dev->rings[idx].started = true;
	return dev->log != NULL ? update_log(dev) : 0;
}

int
vdpa_rte_session_start(struct vdpa_rte_device *dev)
{
	struct vdpa_vq_config *vqs = calloc(dev->nrings, sizeof(*vqs));
	struct vdpa_start_config conf = {.vqs = vqs, .nvqs = dev->nrings};
	struct rte_vhost_memory *mem = NULL;
	struct vdpa_iotlb *tlb = NULL;
	uint64_t features = 0;
	uint16_t first = 0;
	int rc;

	if (vqs == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	while (first < dev->nrings - 1 && !dev->rings[first].ready)
		first++;
	rc = rte_vhost_get_negotiated_features(dev->vid, &features) < 0
		     ? vdpa_error(ENODEV, "the connection is gone")
		     : read_memory(dev->vid, first, &mem);
	if (rc == 0)
		rc = make_iotlb(mem, dev->iotlb, &tlb);
	if (rc < 0)
		goto out;
	vdpa_iotlb_put(dev->iotlb);
	dev->iotlb = tlb;
	dev->packed = (features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	conf.features = device_features(dev, features);
	conf.iotlb = tlb;
	for (uint16_t i = 0; i < dev->nrings; i++) {
		vqs[i].kick_fd = vqs[i].call_fd = -1;
		if (!is_wanted(dev, i))
			continue;
		rc = ring_config(dev, mem, i, &vqs[i]);
		if (rc < 0)
			goto err_rings;
	}
	rc = vdpa_device_start(dev->vdev, &conf);
	if (rc < 0)
		goto err_rings;
	for (uint16_t i = 0; i < dev->nrings; i++) {
		dev->rings[i].started = vqs[i].ready;
		dev->rings[i].disabled = vqs[i].ready && !vqs[i].enabled;
	}
	dev->running = true;
	/* A device that is configured anew in the middle of a migration. */
	rc = update_log(dev);
	if (rc < 0)
		vdpa_rte_session_stop(dev);
	goto out;

err_rings:
	for (uint16_t i = 0; i < dev->nrings; i++)
		forget_ring(&dev->rings[i]);
out:
	free(mem);
	free(vqs);
	return rc;
}

/* All rings that rte_vhost has: what it takes a device that is not its own for ready by. */
static bool
all_are_ready(const struct vdpa_rte_device *dev)
{
	uint16_t n = rte_vhost_get_vring_num(dev->vid);

	for (uint16_t i = 0; i < n && i < dev->nrings; i++)
		if (!dev->rings[i].ready)
			return false;
	return n > 0;
}

/*
 * A net device starts at dev_conf. For a block device rte_vhost calls that at the call eventfd of
 * the last ring and never else, which QEMU has sent before the device is ready; so it starts when
 * all its rings are ready.
 */
int
vdpa_rte_session_ring(struct vdpa_rte_device *dev, uint16_t idx, bool ready)
{
	struct vdpa_rte_ring *ring = &dev->rings[idx];
	int rc = 0;

	ring->ready = ready;
	ring->off_us = ready ? 0 : vdpa_now_us();
	if (!dev->running) {
		if (!ready || dev->is_net || !all_are_ready(dev))
			return 0;
		rc = vdpa_rte_session_start(dev);
	} else if (ready) {
		rc = ring->started ? go_on(dev, idx) : start_late(dev, idx);
	} else if (ring->started && !ring->disabled && !dev->settling) {
		dev->settling = rte_eal_alarm_set(SETTLE_US, settle, dev) == 0;
	}
	if (rc < 0)
		VDPA_LOG(ERR, "%s: rte_vdpa: %s", dev->vdev->name, vdpa_error_message());
	return rc;
}

static uint16_t
first_started(const struct vdpa_rte_device *dev)
{
	uint16_t i = 0;

	while (i < dev->nrings - 1 && !dev->rings[i].started)
		i++;
	return i;
}

int
vdpa_rte_session_memory(struct vdpa_rte_device *dev)
{
	struct rte_vhost_memory *mem;
	struct vdpa_iotlb *tlb;
	int rc;

	rc = read_memory(dev->vid, first_started(dev), &mem);
	if (rc < 0)
		return rc;
	rc = make_iotlb(mem, dev->iotlb, &tlb);
	free(mem);
	if (rc < 0)
		return rc;
	/* What did not change is shared. */
	if (tlb->n == dev->iotlb->n &&
	    memcmp(tlb->regions, dev->iotlb->regions, tlb->n * sizeof(tlb->regions[0])) == 0) {
		vdpa_iotlb_put(tlb);
		return 0;
	}
	rc = vdpa_device_set_iotlb(dev->vdev, tlb);
	if (rc < 0) {
		vdpa_iotlb_put(tlb);
		return rc;
	}
	vdpa_iotlb_put(dev->iotlb);
	dev->iotlb = tlb;
	return 0;
}

void
vdpa_rte_session_stop(struct vdpa_rte_device *dev)
{
	struct vdpa_vq_state state;
	int rc;

	if (!dev->running)
		return;
	/* Last first: of a net device what sends before what receives, so that nothing is sent to a
	 * queue that has stopped. */
	for (uint16_t n = dev->nrings; n > 0; n--) {
		uint16_t i = n - 1;

		if (!dev->rings[i].started)
			continue;
		rc = vdpa_device_stop_vq(dev->vdev, i, &state);
		if (rc == 0) {
			save_state(dev, i, &state);
			continue;
		}
		/* One that failed or is gone has said so. */
		if (rc != -EIO && rc != -ENODEV)
			VDPA_LOG(WARNING, "%s: rte_vdpa: stop: %s", dev->vdev->name,
				 vdpa_error_message());
		save_used_index(dev, i);
	}
	if (dev->log != NULL)
		vdpa_device_set_log(dev->vdev, NULL, NULL);
	/* A failed device is stopped already, and shows why until it is started again. */
	if (vdpa_device_get_state(dev->vdev) != VDPA_STATE_FAILED &&
	    vdpa_device_stop(dev->vdev) < 0)
		VDPA_LOG(ERR, "%s: rte_vdpa: stop: %s", dev->vdev->name, vdpa_error_message());
	dev->running = false;
	for (uint16_t i = 0; i < dev->nrings; i++)
		forget_ring(&dev->rings[i]);
	unmap_log(dev, dev->log);
	dev->log = NULL;
}

void
vdpa_rte_session_end(struct vdpa_rte_device *dev)
{
	vdpa_rte_session_stop(dev);
	for (uint16_t i = 0; i < dev->nrings; i++)
		dev->rings[i].ready = false;
	vdpa_iotlb_put(dev->iotlb);
	dev->iotlb = NULL;
	dev->vid = VDPA_RTE_NO_VID;
}
