/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The control queue of a net device (virtio 1.2, 5.1.6.5). Front ends keep the guest's own control
 * queue to themselves, so the driver has this one, as lib/vdpa/virtio has it of a function: the
 * device learns by it how many queue pairs are in use and which MAC address it has, and that it is
 * to receive everything, for a guest that changes its address cannot tell us.
 *
 * Its memory lies in an address space of its own where the parent has one for the queue's group,
 * where no guest can name it. Else it is in the guest's, at IOVAs that no guest memory has; a guest
 * that names them in a descriptor of its own deceives nobody but itself.
 *
 * One command at a time, polled with a bound: no interrupt, no thread.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>

#include <rte_byteorder.h>
#include <rte_common.h>

#include "clock.h"
#include "vdpa_event.h"
#include "vdpa_log.h"
#include "vhost_vdpa.h"
#include "vhost_vdpa_compat.h"
#include "virtio_compat.h"
#include "virtio_type.h"

#define NUM_MAX	   16u
#define TIMEOUT_US 1000000 /* for the answer to a command */
#define NAP_NS	   50000
#define PAGE	   4096u
#define OWN_ASID   1u
#define ACK_NONE   0xff /* not the device's to write */
#define DATA_MAX   6u

/* What the device sees of us, in one page. */
struct ctrl_mem {
	uint8_t desc[1024], driver[1024], device[1024];
	struct virtio_net_ctrl_hdr hdr;
	uint8_t data[DATA_MAX];
	uint8_t ack;
};
_Static_assert(sizeof(struct ctrl_mem) <= PAGE, "in one page");

static struct ctrl_mem *
mem_of(const struct vv_ctrl *c)
{
	return c->mem.va;
}

uint64_t
vv_ctrl_features(const struct vhost_vdpa *dev)
{
	uint64_t hw = dev->info.features;
	uint64_t use = RTE_BIT64(VIRTIO_NET_F_CTRL_RX) | RTE_BIT64(VIRTIO_NET_F_CTRL_MAC_ADDR);

	if (dev->info.device_id != VIRTIO_ID_NET || !vv_has(hw, VIRTIO_NET_F_CTRL_VQ))
		return 0;
	if (dev->nvqs > 2)
		use |= RTE_BIT64(VIRTIO_NET_F_MQ);
	return (hw & use) != 0 ? (hw & use) | RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) : 0;
}

static int
broken(struct vhost_vdpa *dev, int err, const char *what)
{
	/* Nobody knows what it still does with the command: no other follows. */
	dev->ctrl.on = false;
	return vdpa_error(err, "%s: control queue: %s", dev->vdev.name, what);
}

static int
wait_used(struct vhost_vdpa *dev)
{
	const struct timespec nap = {.tv_nsec = NAP_NS};
	int64_t until_us = vdpa_now_us() + TIMEOUT_US;
	struct vv_ctrl *c = &dev->ctrl;
	uint32_t len;
	uint16_t id;
	int rc;

	while ((rc = vdpa_vring_take(c->ring, &id, &len)) == 0) {
		if (vdpa_now_us() > until_us)
			return broken(dev, ETIMEDOUT, "the device does not answer in time");
		nanosleep(&nap, NULL);
	}
	return rc < 0 ? broken(dev, EPROTO, vdpa_vring_error(c->ring)) : 0;
}

/*
 * Give a command and wait for its answer. -EPERM: the device refuses it and works on; any other
 * errno: it does not, and takes no more commands.
 */
static int
execute(struct vhost_vdpa *dev, uint8_t class, uint8_t command, const void *data, uint32_t len)
{
	struct vv_ctrl *c = &dev->ctrl;
	struct ctrl_mem *m = mem_of(c);
	const uint64_t hdr = c->mem.iova + offsetof(struct ctrl_mem, hdr);
	const struct vdpa_vring_seg segs[] = {
		{.iova = hdr, .len = (uint32_t)sizeof(m->hdr) + len},
		{.iova = c->mem.iova + offsetof(struct ctrl_mem, ack), .len = 1, .write = true},
	};
	uint8_t ack;
	int rc;

	m->hdr = (struct virtio_net_ctrl_hdr){.class = class, .cmd = command};
	memcpy(m->data, data, len);
	m->ack = ACK_NONE;
	vv_count(&c->commands);
	rc = vdpa_vring_add(c->ring, segs, RTE_DIM(segs));
	if (rc < 0)
		return broken(dev, EPROTO, "its ring has no room");
	vdpa_vring_publish(c->ring);
	vdpa_eventfd_signal(c->kick_fd);
	rc = wait_used(dev);
	if (rc < 0)
		return rc;
	ack = __atomic_load_n(&m->ack, __ATOMIC_RELAXED);
	if (ack == VIRTIO_NET_OK)
		return 0;
	if (ack != VIRTIO_NET_ERR)
		return broken(dev, EPROTO, "the device uses a command without answering it");
	return vdpa_error(EPERM, "%s: control queue: the device refuses command %u of class %u",
			  dev->vdev.name, command, class);
}

/* The address space of the queue's memory: one of its own where its group is no data queue's. */
static int
choose_asid(struct vhost_vdpa *dev)
{
	struct vv_ctrl *c = &dev->ctrl;
	uint32_t group, other;
	int rc;

	c->asid = 0;
	if (dev->info.n_asids < 2)
		return 0;
	rc = vv_kernel_vq_group(&dev->kernel, c->idx, &group);
	for (uint16_t i = 0; rc == 0 && i < dev->nvqs; i++) {
		/* Where the guest has no VIRTIO_NET_F_MQ it comes before the other pairs. */
		if (i == c->idx)
			continue;
		rc = vv_kernel_vq_group(&dev->kernel, i, &other);
		if (rc == 0 && other == group)
			return 0;
	}
	/* A parent without groups. */
	if (rc == -EOPNOTSUPP)
		return 0;
	if (rc == 0)
		rc = vv_kernel_set_group_asid(&dev->kernel, group, OWN_ASID);
	if (rc == 0)
		c->asid = OWN_ASID;
	return rc;
}

/* A page that nobody shares, at an IOVA of its own address space. */
static int
alloc_apart(struct vhost_vdpa *dev)
{
	struct vdpa_dma_buf *mem = &dev->ctrl.mem;
	struct vdpa_dma_buf new = {.size = PAGE, .fd = memfd_create("uvdpa-ctrl", MFD_CLOEXEC)};
	int rc;

	/* Not 0, which means nothing to some. */
	new.iova = RTE_ALIGN_CEIL(RTE_MAX(dev->info.iova_first, (uint64_t)PAGE), PAGE);
	if (new.fd < 0 || ftruncate(new.fd, PAGE) < 0) {
		rc = vdpa_error(errno, "memfd_create: %s", strerror(errno));
		goto err;
	}
	new.va = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, new.fd, 0);
	if (new.va == MAP_FAILED) {
		rc = vdpa_error(errno, "mmap: %s", strerror(errno));
		goto err;
	}
	rc = vv_kernel_map(&dev->kernel, dev->ctrl.asid, new.iova, PAGE, new.va, false);
	if (rc < 0) {
		munmap(new.va, PAGE);
		goto err;
	}
	*mem = new;
	return 0;

err:
	if (new.fd >= 0)
		close(new.fd);
	return rc;
}

static void
free_mem(struct vhost_vdpa *dev)
{
	struct vv_ctrl *c = &dev->ctrl;

	if (c->mem.va != NULL && c->mem_apart) {
		if (vv_kernel_unmap(&dev->kernel, OWN_ASID, c->mem.iova, c->mem.size) < 0)
			VDPA_LOG(ERR, "%s", vdpa_error_message());
		munmap(c->mem.va, c->mem.size);
		close(c->mem.fd);
	} else {
		vdpa_dma_free(dev->dom, &c->mem);
	}
	c->mem = (struct vdpa_dma_buf){0};
}

static int
alloc_mem(struct vhost_vdpa *dev)
{
	struct vv_ctrl *c = &dev->ctrl;
	int rc;

	/* A queue with another place may be in another group. */
	if (c->mem.va != NULL && c->mem_apart != (c->asid == OWN_ASID))
		free_mem(dev);
	/* What the last guest had the device write there is not for this one to read. */
	if (c->mem.va != NULL) {
		memset(c->mem.va, 0, c->mem.size);
		return 0;
	}
	rc = c->asid == OWN_ASID ? alloc_apart(dev)
				 : vdpa_dma_alloc(dev->dom, sizeof(struct ctrl_mem), NULL, &c->mem);
	c->mem_apart = rc == 0 && c->asid == OWN_ASID;
	return rc;
}

static int
set_up_ring(struct vhost_vdpa *dev, uint16_t size)
{
	struct vv_ctrl *c = &dev->ctrl;
	const struct vv_kernel *k = &dev->kernel;
	bool packed = vv_has(dev->negotiated, VIRTIO_F_RING_PACKED);
	struct vdpa_vring_params params = {
		.features = dev->negotiated,
		.num = rte_align32prevpow2(RTE_MIN(size, NUM_MAX)),
		.desc = mem_of(c)->desc,
		.driver = mem_of(c)->driver,
		.device = mem_of(c)->device,
	};
	int rc;

	if (packed)
		params.place.packed.last_avail_counter = params.place.packed.last_used_counter = 1;
	if (c->ring == NULL)
		c->ring = vdpa_vring_alloc();
	if (c->kick_fd < 0)
		c->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->ring == NULL || c->kick_fd < 0)
		return vdpa_error(ENOMEM, "%s: control queue: out of memory or files",
				  dev->vdev.name);
	rc = vdpa_vring_setup(c->ring, &params);
	if (rc < 0)
		return vdpa_error(rc, "%s: control queue of %u", dev->vdev.name, params.num);
	vdpa_vring_disable_calls(c->ring);
	rc = vv_kernel_set_vq_num(k, c->idx, params.num);
	if (rc == 0)
		rc = vv_kernel_set_vq_address(k, c->idx,
					      c->mem.iova + offsetof(struct ctrl_mem, desc),
					      c->mem.iova + offsetof(struct ctrl_mem, driver),
					      c->mem.iova + offsetof(struct ctrl_mem, device));
	if (rc == 0)
		rc = vv_kernel_set_vq_state(k, c->idx, packed, &params.place);
	if (rc == 0)
		rc = vv_kernel_set_vq_call(k, c->idx, -1);
	if (rc == 0)
		rc = vv_kernel_set_vq_kick(k, c->idx, c->kick_fd);
	if (rc == 0)
		rc = vv_kernel_set_vq_ready(k, c->idx, true);
	return rc;
}

int
vv_ctrl_setup(struct vhost_vdpa *dev)
{
	struct vv_ctrl *c = &dev->ctrl;
	uint16_t size;
	int rc;

	c->on = false;
	if (!vv_has(dev->negotiated, VIRTIO_NET_F_CTRL_VQ))
		return 0;
	/* Behind the pairs that the device knows of us to know (5.1.2). */
	c->idx = virtio_type_ctrl_vq(dev->negotiated, dev->hw_pairs);
	if (c->idx >= dev->info.nvqs)
		return vdpa_error(EPROTO, "%s: control queue %u: the device has %u queues",
				  dev->vdev.name, c->idx, dev->info.nvqs);
	rc = vv_kernel_vq_size(&dev->kernel, c->idx, dev->info.num_max, &size);
	if (rc == 0 && size < 2)
		rc = vdpa_error(EPROTO, "%s: control queue %u: its size is %u", dev->vdev.name,
				c->idx, size);
	if (rc == 0)
		rc = choose_asid(dev);
	if (rc == 0)
		rc = alloc_mem(dev);
	if (rc == 0)
		rc = set_up_ring(dev, size);
	c->pairs = 1;
	c->on = rc == 0;
	return rc;
}

/* Pairs from the first on that are ready and enabled; the device steers packets to that many. */
static uint16_t
pairs_in_use(const struct vhost_vdpa *dev)
{
	const struct vv_queue *q = dev->vqs;
	uint16_t n = 0;

	while (2 * n + 1 < dev->nvqs && q[2 * n].ready && q[2 * n].enabled && q[2 * n + 1].ready &&
	       q[2 * n + 1].enabled)
		n++;
	return RTE_MAX(n, (uint16_t)1);
}

int
vv_ctrl_update_pairs(struct vhost_vdpa *dev)
{
	struct vv_ctrl *c = &dev->ctrl;
	uint16_t pairs = pairs_in_use(dev), le = rte_cpu_to_le_16(pairs);
	int rc;

	if (!c->on || !vv_has(dev->negotiated, VIRTIO_NET_F_MQ) || pairs == c->pairs)
		return 0;
	rc = execute(dev, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &le, sizeof(le));
	if (rc == 0)
		c->pairs = pairs;
	return rc;
}

int
vv_ctrl_start(struct vhost_vdpa *dev)
{
	const uint8_t on = 1;
	int rc = 0;

	if (!dev->ctrl.on)
		return 0;
	if (dev->has_mac)
		rc = execute(dev, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, dev->mac,
			     sizeof(dev->mac));
	if (rc == 0)
		rc = vv_ctrl_update_pairs(dev);
	if (rc < 0 || !vv_has(dev->negotiated, VIRTIO_NET_F_CTRL_RX))
		return rc;
	rc = execute(dev, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, sizeof(on));
	if (rc == -EPERM) {
		/* Some may not: they deliver what is for their own address. */
		VDPA_LOG(WARNING,
			 "%s: not promiscuous: a guest that changes its MAC address gets "
			 "no packets (%s)",
			 dev->vdev.name, vdpa_error_message());
		rc = 0;
	}
	return rc;
}

void
vv_ctrl_reset(struct vhost_vdpa *dev)
{
	struct vv_ctrl *c = &dev->ctrl;

	if (c->on)
		(void)vv_kernel_set_vq_kick(&dev->kernel, c->idx, -1);
	c->on = false;
}

void
vv_ctrl_release(struct vhost_vdpa *dev)
{
	struct vv_ctrl *c = &dev->ctrl;

	free_mem(dev);
	vdpa_vring_free(c->ring);
	c->ring = NULL;
	if (c->kick_fd >= 0)
		close(c->kick_fd);
	c->kick_fd = -1;
}
