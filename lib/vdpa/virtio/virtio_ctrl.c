/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The control queue of a net device (virtio 1.2, 5.1.6.5). Front ends keep the guest's own control
 * queue to themselves, so the driver has this one: it tells the device how many queue pairs are in
 * use, which MAC address it has, and to receive everything, for a guest that changes its address
 * cannot tell us.
 *
 * One command at a time, two descriptors, polled with a bound: no interrupt, no thread. The ring
 * lies at an IOVA that no guest memory has, but a guest can name it in a descriptor of its own and
 * have the device write there: indexes and answers read from it are checked, and a guest that
 * forges them deceives nobody but itself.
 */

#include <errno.h>
#include <string.h>

#include <rte_atomic.h>
#include <rte_bitops.h>
#include <rte_byteorder.h>
#include <rte_common.h>

#include "dma_kept.h"
#include "vdpa_log.h"
#include "virtio_priv.h"
#include "virtio_type.h"

/* Commands, by class. */
enum {
	CTRL_RX = 0,
	CTRL_RX_PROMISC = 0,
	CTRL_MAC = 1,
	CTRL_MAC_ADDR_SET = 1,
	CTRL_MQ = 4,
	CTRL_MQ_PAIRS_SET = 0,
};

#define ACK_OK	    VIRTIO_NET_OK
#define ACK_REFUSED VIRTIO_NET_ERR
#define ACK_NONE    0xff /* not the device's to write */

struct split_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
} __attribute__((packed));
_Static_assert(sizeof(struct split_desc) == 16, "virtio 1.2, 2.7.5");

struct packed_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t id;
	uint16_t flags;
} __attribute__((packed, aligned(16)));
_Static_assert(sizeof(struct packed_desc) == 16, "virtio 1.2, 2.8.13");

#define DESC_F_NEXT  0x0001
#define DESC_F_WRITE 0x0002
#define DESC_F_AVAIL 0x0080
#define DESC_F_USED  0x8000

#define AVAIL_F_NO_INTERRUPT 1
#define EVENT_F_DISABLE	     1

/* A command takes two descriptors: what the device reads, and its answer. */
#define CTRL_DESCS 2
#define CTRL_NUM   64
/* Its memory in the store. */
#define CTRL_FILE  "control-queue"
#define DATA_MAX   6

struct split_ring {
	struct split_desc desc[CTRL_NUM];
	struct {
		uint16_t flags, idx, ring[CTRL_NUM], used_event;
	} avail;
	struct {
		uint16_t flags, idx;
		struct {
			uint32_t id, len;
		} ring[CTRL_NUM];
		uint16_t avail_event;
	} used __attribute__((aligned(4)));
};

struct packed_ring {
	struct packed_desc desc[CTRL_NUM];
	struct {
		uint16_t off_wrap, flags;
	} driver, device;
};

struct command {
	uint8_t class, command, data[DATA_MAX];
	uint8_t ack;
};

/* What the device sees of us. */
struct ctrl_mem {
	union {
		struct split_ring split;
		struct packed_ring packed;
	};
	struct command cmd;
};

static struct ctrl_mem *
mem_of(struct virtio_ctrl *c)
{
	return c->mem.va;
}

static bool
is_packed(const struct virtio_device *dev)
{
	return virtio_has(dev->negotiated, VIRTIO_F_RING_PACKED);
}

static uint64_t
iova_of(const struct virtio_ctrl *c, size_t offset)
{
	return c->mem.iova + offset;
}

uint64_t
virtio_ctrl_features(const struct virtio_device *dev)
{
	uint64_t hw = dev->hw_features;
	uint64_t use = RTE_BIT64(VIRTIO_NET_F_CTRL_RX) | RTE_BIT64(VIRTIO_NET_F_CTRL_MAC_ADDR);

	if (dev->hw.type != VIRTIO_ID_NET || !virtio_has(hw, VIRTIO_NET_F_CTRL_VQ))
		return 0;
	if (dev->nvqs > 2)
		use |= RTE_BIT64(VIRTIO_NET_F_MQ);
	return (hw & use) != 0 ? (hw & use) | RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) : 0;
}

bool
virtio_ctrl_gives(const struct virtio_device *dev, uint8_t class, uint8_t command)
{
	switch (class) {
	case CTRL_RX:
		return command == CTRL_RX_PROMISC;
	case CTRL_MAC:
		return command == CTRL_MAC_ADDR_SET && dev->has_mac;
	case CTRL_MQ:
		return command == CTRL_MQ_PAIRS_SET;
	default:
		return false;
	}
}

static int
broken(struct virtio_device *dev, int err, const char *what)
{
	uint8_t status = vdpa_virtio_pci_get_status(&dev->hw);

	/* Nobody knows what it still does with the command: no other follows. */
	dev->ctrl.on = false;
	if (vdpa_virtio_pci_check(&dev->hw) < 0)
		return vdpa_virtio_pci_check(&dev->hw);
	if ((status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0)
		return vdpa_error(EIO, "%s: %s", dev->vdev->name, VIRTIO_NEEDS_RESET_TEXT);
	return vdpa_error(err, "%s: control queue: %s", dev->vdev->name, what);
}

/* position: behind what was made available, for a device that wants it (virtio 1.2, 2.9). */
static void
kick(struct virtio_device *dev, uint16_t position)
{
	virtio_pci_kick(&dev->hw, dev->ctrl.doorbell, dev->ctrl.idx | (uint32_t)position << 16);
}

/* A command is in the ring: wait until the device has used it. */
static int
wait_split(struct virtio_device *dev)
{
	struct virtio_ctrl *c = &dev->ctrl;
	struct split_ring *ring = &mem_of(c)->split;
	struct vdpa_virtio_wait wait;
	uint16_t used, id;

	vdpa_virtio_wait_start(&wait, &dev->hw);
	for (;;) {
		used = rte_le_to_cpu_16(__atomic_load_n(&ring->used.idx, __ATOMIC_ACQUIRE));
		if (used != c->next)
			break;
		if (!vdpa_virtio_wait(&wait))
			return broken(dev, ETIMEDOUT, "the device does not answer in time");
	}
	if (used != (uint16_t)(c->next + 1))
		return broken(dev, EPROTO, "the device uses what it was not given");
	id = (uint16_t)rte_le_to_cpu_32(ring->used.ring[c->next % c->num].id);
	if (id != 0)
		return broken(dev, EPROTO, "the device uses a descriptor it was not given");
	c->next++;
	return 0;
}

/* Put the command's two parts into the ring and wait until the device has used them. */
static int
execute_split(struct virtio_device *dev, const uint64_t *addr, const uint32_t *len)
{
	struct virtio_ctrl *c = &dev->ctrl;
	struct split_ring *ring = &mem_of(c)->split;

	/* All of it again each time: what was there may not be ours any more. */
	ring->desc[0] = (struct split_desc){.addr = rte_cpu_to_le_64(addr[0]),
					    .len = rte_cpu_to_le_32(len[0]),
					    .flags = RTE_LE16(DESC_F_NEXT),
					    .next = RTE_LE16(1)};
	ring->desc[1] = (struct split_desc){.addr = rte_cpu_to_le_64(addr[1]),
					    .len = rte_cpu_to_le_32(len[1]),
					    .flags = RTE_LE16(DESC_F_WRITE)};
	ring->avail.ring[c->next % c->num] = 0;
	__atomic_store_n(&ring->avail.idx, rte_cpu_to_le_16((uint16_t)(c->next + 1)),
			 __ATOMIC_RELEASE);
	rte_mb();
	kick(dev, (uint16_t)(c->next + 1));
	return wait_split(dev);
}

/* The place behind a command; the ring's size is a power of two: none lies across its end. */
static uint16_t
behind_packed(const struct virtio_ctrl *c, bool *wrap)
{
	uint16_t next = (uint16_t)(c->next + CTRL_DESCS);

	*wrap = c->wrap;
	if (next != c->num)
		return next;
	*wrap = !*wrap;
	return 0;
}

static void
kick_packed(struct virtio_device *dev)
{
	bool wrap;
	uint16_t next = behind_packed(&dev->ctrl, &wrap);

	kick(dev, (uint16_t)(next | (unsigned int)wrap << 15));
}

static int
wait_packed(struct virtio_device *dev)
{
	struct virtio_ctrl *c = &dev->ctrl;
	struct packed_desc *head = &mem_of(c)->packed.desc[c->next];
	uint16_t used = c->wrap ? DESC_F_AVAIL | DESC_F_USED : 0, flags, next;
	struct vdpa_virtio_wait wait;
	bool wrap;

	vdpa_virtio_wait_start(&wait, &dev->hw);
	for (;;) {
		flags = rte_le_to_cpu_16(__atomic_load_n(&head->flags, __ATOMIC_ACQUIRE));
		if ((flags & (DESC_F_AVAIL | DESC_F_USED)) == used)
			break;
		if (!vdpa_virtio_wait(&wait))
			return broken(dev, ETIMEDOUT, "the device does not answer in time");
	}
	if (rte_le_to_cpu_16(head->id) != c->next)
		return broken(dev, EPROTO, "the device uses a descriptor it was not given");
	next = behind_packed(c, &wrap);
	c->next = next;
	c->wrap = wrap;
	return 0;
}

static int
execute_packed(struct virtio_device *dev, const uint64_t *addr, const uint32_t *len)
{
	struct virtio_ctrl *c = &dev->ctrl;
	struct packed_ring *ring = &mem_of(c)->packed;
	struct packed_desc *head = &ring->desc[c->next], *tail = &ring->desc[c->next + 1];
	uint16_t avail = c->wrap ? DESC_F_AVAIL : DESC_F_USED;

	*tail = (struct packed_desc){.addr = rte_cpu_to_le_64(addr[1]),
				     .len = rte_cpu_to_le_32(len[1]),
				     .id = rte_cpu_to_le_16(c->next),
				     .flags = rte_cpu_to_le_16(avail | DESC_F_WRITE)};
	head->addr = rte_cpu_to_le_64(addr[0]);
	head->len = rte_cpu_to_le_32(len[0]);
	head->id = rte_cpu_to_le_16(c->next);
	__atomic_store_n(&head->flags, rte_cpu_to_le_16(avail | DESC_F_NEXT), __ATOMIC_RELEASE);
	rte_mb();
	kick_packed(dev);
	return wait_packed(dev);
}

/* A former process was killed around a command: whether that is in the ring, and if it is, until
 * the device has used it. It may have been killed before its kick. */
static int
finish_command(struct virtio_device *dev)
{
	struct virtio_ctrl *c = &dev->ctrl;
	uint16_t before = c->wrap ? 0 : DESC_F_AVAIL | DESC_F_USED, flags, avail;

	if (is_packed(dev)) {
		flags = rte_le_to_cpu_16(mem_of(c)->packed.desc[c->next].flags);
		if ((flags & (DESC_F_AVAIL | DESC_F_USED)) == before)
			return 0;
		kick_packed(dev);
		return wait_packed(dev);
	}
	avail = rte_le_to_cpu_16(mem_of(c)->split.avail.idx);
	if (avail == c->next)
		return 0;
	kick(dev, avail);
	return wait_split(dev);
}

/*
 * Give a command and wait for its answer, within the device's time-out. -EPERM: the device refuses
 * it and works on; any other errno: it does not, or cannot be reached, and takes no more commands.
 */
static int
execute(struct virtio_device *dev, uint8_t class, uint8_t command, const void *data, size_t len)
{
	struct virtio_ctrl *c = &dev->ctrl;
	struct command *cmd = &mem_of(c)->cmd;
	const uint64_t addr[CTRL_DESCS] = {
		iova_of(c, offsetof(struct ctrl_mem, cmd)),
		iova_of(c, offsetof(struct ctrl_mem, cmd) + offsetof(struct command, ack)),
	};
	const uint32_t lens[CTRL_DESCS] = {
		(uint32_t)(offsetof(struct command, data) + len),
		sizeof(cmd->ack),
	};
	uint8_t ack;
	int rc;

	if (vdpa_pci_is_held(dev->hw.pci))
		return vdpa_error(EBUSY,
				  "%s: control queue: the process that has handed the device over "
				  "may go on with it",
				  dev->vdev->name);
	c->busy = true;
	virtio_kept_write(dev);
	cmd->class = class;
	cmd->command = command;
	memcpy(cmd->data, data, len);
	cmd->ack = ACK_NONE;
	virtio_count(&c->commands);
	rc = is_packed(dev) ? execute_packed(dev, addr, lens) : execute_split(dev, addr, lens);
	if (rc < 0)
		return rc;
	c->busy = false;
	ack = __atomic_load_n(&cmd->ack, __ATOMIC_RELAXED);
	if (ack == ACK_OK)
		return 0;
	/* An answer is the device's word only as long as the device works. */
	if (ack != ACK_REFUSED || vdpa_virtio_pci_check(&dev->hw) < 0 ||
	    (vdpa_virtio_pci_get_status(&dev->hw) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0)
		return broken(dev, EPROTO, "the device uses a command without answering it");
	return vdpa_error(EPERM, "%s: control queue: the device refuses command %u of class %u",
			  dev->vdev->name, command, class);
}

/* Have the device use the ring in c->mem, from its beginning; or where it is, of a device that is
 * taken over. */
static int
enable(struct virtio_device *dev)
{
	struct virtio_ctrl *c = &dev->ctrl;
	bool packed = is_packed(dev);
	struct vdpa_virtio_vq_conf vq;
	int rc;

	if (!dev->hw.adopts) {
		c->next = 0;
		c->wrap = true;
		c->busy = c->started = false;
	}
	if (packed)
		mem_of(c)->packed.driver.flags = RTE_LE16(EVENT_F_DISABLE);
	else if (!virtio_has(dev->negotiated, VIRTIO_RING_F_EVENT_IDX))
		mem_of(c)->split.avail.flags = RTE_LE16(AVAIL_F_NO_INTERRUPT);
	vq = (struct vdpa_virtio_vq_conf){
		.num = c->num,
		.vector = VDPA_VIRTIO_NO_VECTOR,
		.desc = iova_of(c, 0),
		.driver = iova_of(c, packed ? offsetof(struct ctrl_mem, packed.driver)
					    : offsetof(struct ctrl_mem, split.avail)),
		.device = iova_of(c, packed ? offsetof(struct ctrl_mem, packed.device)
					    : offsetof(struct ctrl_mem, split.used)),
	};
	rc = virtio_pci_vq_enable(&dev->hw, c->idx, &vq);
	c->on = rc == 0;
	return rc;
}

static int move(void *arg);

static int
alloc_mem(struct virtio_device *dev, struct vdpa_dma_buf *mem)
{
	const struct vdpa_dma_owner owner = {.user = dev->vdev->dma_user, .move = move, .arg = dev};

	int rc = vdpa_dma_alloc(dev->vdev->dma, sizeof(struct ctrl_mem), &owner, mem);

	if (rc == 0)
		vdpa_pci_keep_file(dev->hw.pci, CTRL_FILE, mem->fd);
	return rc;
}

/* The ring as a former process has left it. */
static int
take_mem(struct virtio_device *dev)
{
	const struct vdpa_dma_owner owner = {.user = dev->vdev->dma_user, .move = move, .arg = dev};
	struct virtio_ctrl *c = &dev->ctrl;
	uint64_t iova = c->mem.iova;
	int fd = vdpa_pci_left_file(dev->hw.pci, CTRL_FILE), rc;

	c->mem = (struct vdpa_dma_buf){0};
	if (fd < 0)
		return fd;
	rc = vdpa_dma_kept_own(dev->vdev->dma, iova, fd, &owner, &c->mem);
	if (rc == 0 && c->mem.size < sizeof(struct ctrl_mem))
		rc = vdpa_error(EPROTO, "%s: its control queue has %zu bytes", dev->vdev->name,
				c->mem.size);
	return rc;
}

/* The control queue of a device that runs: nothing is written but what a command may need. */
static int
take_over(struct virtio_device *dev)
{
	struct virtio_ctrl *c = &dev->ctrl;
	struct vdpa_virtio_vq_info info = {0};
	bool was_on = virtio_kept_ctrl(dev, c);
	int rc;

	if (!was_on || c->idx != virtio_type_ctrl_vq(dev->negotiated, dev->hw_pairs) ||
	    c->num < CTRL_DESCS || c->num > CTRL_NUM || !rte_is_power_of_2(c->num) ||
	    (is_packed(dev) && c->next + CTRL_DESCS > c->num) || c->next % (is_packed(dev) ? 2 : 1))
		return vdpa_error(EPROTO, "%s: its control queue is not one that was recorded",
				  dev->vdev->name);
	rc = virtio_pci_vq_info(&dev->hw, c->idx, &info);
	if (rc == 0 && info.doorbell != c->doorbell)
		rc = vdpa_error(EPROTO, "%s: its control queue has another doorbell",
				dev->vdev->name);
	if (rc == 0 && dev->hw.notification_data && !info.takes_data)
		rc = vdpa_error(EPROTO, "%s: its control queue has no room for data",
				dev->vdev->name);
	if (rc == 0)
		rc = take_mem(dev);
	if (rc < 0)
		return rc;
	c->shown = true;
	return enable(dev);
}

/*
 * Guest memory comes where the ring is. No command is under way: those are given, and memory is
 * changed, with the device's lock.
 */
static int
move(void *arg)
{
	struct virtio_device *dev = arg;
	struct virtio_ctrl *c = &dev->ctrl;
	struct vdpa_dma_buf mem;
	int rc;

	/* Kept for the next start, which takes another. */
	if (!c->shown) {
		vdpa_dma_free(dev->vdev->dma, &c->mem);
		return 0;
	}
	if (!c->on || !virtio_has(dev->negotiated, VIRTIO_F_RING_RESET))
		return vdpa_error(EBUSY,
				  "control queue %u is in use, and the device cannot reset it",
				  c->idx);
	rc = alloc_mem(dev, &mem);
	if (rc < 0)
		return rc;
	c->on = false;
	rc = virtio_pci_vq_reset(&dev->hw, c->idx);
	if (rc < 0) {
		/* It may still use the memory that it had. */
		vdpa_dma_free(dev->vdev->dma, &mem);
	} else {
		vdpa_dma_free(dev->vdev->dma, &c->mem);
		c->mem = mem;
		rc = enable(dev);
		c->started = rc == 0;
		virtio_kept_write(dev);
	}
	if (rc < 0)
		vdpa_device_fail(dev->vdev, -1, rc, "control queue %u is lost: %s", c->idx,
				 vdpa_error_message());
	return rc;
}

int
virtio_ctrl_setup(struct virtio_device *dev)
{
	struct virtio_ctrl *c = &dev->ctrl;
	struct vdpa_virtio_vq_info info;
	int rc;

	c->on = false;
	if (!virtio_has(dev->negotiated, VIRTIO_NET_F_CTRL_VQ))
		return 0;
	if (dev->hw.adopts)
		return take_over(dev);
	/* Behind the pairs that the device knows of us to know (5.1.2). */
	c->idx = virtio_type_ctrl_vq(dev->negotiated, dev->hw_pairs);
	rc = virtio_pci_vq_info(&dev->hw, c->idx, &info);
	if (rc < 0)
		return rc;
	if (info.num_max < CTRL_DESCS)
		return vdpa_error(EPROTO, "%s: control queue %u: its size is %u", dev->vdev->name,
				  c->idx, info.num_max);
	if (dev->hw.notification_data && !info.takes_data)
		return vdpa_error(EPROTO,
				  "%s: control queue %u: the device offers notification data, and "
				  "its doorbell has no room for it",
				  dev->vdev->name, c->idx);
	c->num = (uint16_t)rte_align32prevpow2(RTE_MIN(info.num_max, (uint16_t)CTRL_NUM));
	c->doorbell = info.doorbell;
	c->pairs = 1;
	/* What the last guest had the device write there is not for this one to read. */
	if (c->mem.va != NULL)
		memset(c->mem.va, 0, c->mem.size);
	else
		rc = alloc_mem(dev, &c->mem);
	if (rc < 0)
		return rc;
	c->shown = true;
	return enable(dev);
}

/* Pairs from the first on that are ready and enabled; the device steers packets to that many. */
static uint16_t
pairs_in_use(const struct virtio_device *dev)
{
	const struct virtio_queue *q = dev->vqs;
	uint16_t n = 0;

	while (2 * n + 1 < dev->nvqs && q[2 * n].ready && q[2 * n].enabled && q[2 * n + 1].ready &&
	       q[2 * n + 1].enabled)
		n++;
	return RTE_MAX(n, (uint16_t)1);
}

int
virtio_ctrl_update_pairs(struct virtio_device *dev)
{
	struct virtio_ctrl *c = &dev->ctrl;
	uint16_t pairs = pairs_in_use(dev), le = rte_cpu_to_le_16(pairs);
	int rc;

	if (!c->on || !virtio_has(dev->negotiated, VIRTIO_NET_F_MQ) || pairs == c->pairs)
		return 0;
	rc = execute(dev, CTRL_MQ, CTRL_MQ_PAIRS_SET, &le, sizeof(le));
	if (rc == 0) {
		c->pairs = pairs;
		virtio_kept_write(dev);
	}
	return rc;
}

/* What the device is to know at the start. */
static int
begin(struct virtio_device *dev)
{
	const uint8_t on = 1;
	int rc = 0;

	if (dev->has_mac)
		rc = execute(dev, CTRL_MAC, CTRL_MAC_ADDR_SET, dev->mac, sizeof(dev->mac));
	if (rc == 0)
		rc = virtio_ctrl_update_pairs(dev);
	if (rc < 0 || !virtio_has(dev->negotiated, VIRTIO_NET_F_CTRL_RX))
		return rc;
	rc = execute(dev, CTRL_RX, CTRL_RX_PROMISC, &on, sizeof(on));
	if (rc == -EPERM) {
		/* Some functions may not: they deliver what is for their own address. */
		VDPA_LOG(WARNING,
			 "%s: not promiscuous: a guest that changes its MAC address gets "
			 "no packets (%s)",
			 dev->vdev->name, vdpa_error_message());
		rc = 0;
	}
	return rc;
}

int
virtio_ctrl_start(struct virtio_device *dev)
{
	struct virtio_ctrl *c = &dev->ctrl;
	int rc = 0;

	if (!c->on)
		return 0;
	/* A command changes the ring, of which the other process has written down the place. */
	if (vdpa_pci_is_held(dev->hw.pci) && (c->busy || !c->started))
		return vdpa_error(EBUSY, "%s: a command of its control queue is under way",
				  dev->vdev->name);
	/* One that is taken over knows all of it, but for what a kill has cut short. */
	if (c->busy)
		rc = finish_command(dev);
	if (c->busy || !c->started) {
		c->busy = c->started = false;
		/* It may have any number of them. */
		if (dev->hw.adopts)
			c->pairs = 0;
		if (rc == 0)
			rc = begin(dev);
	} else {
		rc = virtio_ctrl_update_pairs(dev);
	}
	c->started = rc == 0;
	if (rc == 0)
		virtio_kept_write(dev);
	return rc;
}

void
virtio_ctrl_reset(struct virtio_device *dev)
{
	dev->ctrl.on = dev->ctrl.shown = false;
	dev->ctrl.busy = dev->ctrl.started = false;
}

void
virtio_ctrl_release(struct virtio_device *dev)
{
	vdpa_dma_free(dev->vdev->dma, &dev->ctrl.mem);
	dev->ctrl.mem = (struct vdpa_dma_buf){0};
}
