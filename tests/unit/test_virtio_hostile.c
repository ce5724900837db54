/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Hostile functions: registers, capabilities and own memory with random contents, through the whole
 * life of a device of each driver. No crash, no leak, no call that lasts, and another device works
 * on. UVDPA_HOSTILE_SEED and UVDPA_HOSTILE_ROUNDS repeat one, or make it longer.
 */

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "virtio_test.h"

#define ROUNDS	 300
#define ROUND_MS 8000 /* a call that waits for a time-out of 3 ms some hundred times, and ASan */
#define PAIRS	 2
#define QUEUES	 (2 * PAIRS)
#define VECTORS	 32
#define ALL	 (UINT8_MAX + 1) /* numbers of queues that are told apart */

/* Where structures lie, in their BAR. */
enum { COMMON = 0x200, ISR = 0x280, CONFIG = 0x300, NOTIFY = 0x1000, BAR_SIZE = 0x4000 };

enum kind { PLAIN, IFCVF, OCTEP, KINDS };

static struct hostile {
	struct fake_pci pci;
	enum kind kind;
	unsigned int bar, lies; /* lies: one answer in so many; 0: none */
	uint8_t status;
	uint16_t queue, size[ALL], enable[ALL], vector[ALL], config_vector;
	uint64_t ring[ALL][3]; /* descriptors, driver's and device's area */
	uint32_t half;
	uint64_t features;
	bool is_block;
	unsigned int pause_us; /* of an answer */
} h;

static uint64_t prng;

static uint32_t
any(uint32_t below)
{
	prng ^= prng << 13;
	prng ^= prng >> 7;
	prng ^= prng << 17;
	return (uint32_t)(prng >> 16) % below;
}

static bool
once_in(uint32_t n)
{
	return n != 0 && any(n) == 0;
}

static uint64_t
common_value(uint64_t at)
{
	uint8_t q = (uint8_t)h.queue;

	switch (at) {
	case VIRTIO_PCI_COMMON_DFSELECT:
	case VIRTIO_PCI_COMMON_GFSELECT:
		return h.half;
	case VIRTIO_PCI_COMMON_DF:
		return h.features >> 32 * (h.half & 1) & UINT32_MAX;
	case VIRTIO_PCI_COMMON_MSIX:
		return h.config_vector;
	case VIRTIO_PCI_COMMON_NUMQ:
		return h.is_block ? QUEUES : QUEUES + 1;
	case VIRTIO_PCI_COMMON_STATUS:
		return h.status;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		return h.queue;
	case VIRTIO_PCI_COMMON_Q_SIZE:
		return h.size[q] != 0 ? h.size[q] : 256;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		return h.vector[q];
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return h.enable[q];
	case VIRTIO_PCI_COMMON_Q_NOFF:
		return h.queue;
	default:
		return 0;
	}
}

static void
common_written(uint64_t at, uint32_t value)
{
	uint8_t q = (uint8_t)h.queue;

	switch (at) {
	case VIRTIO_PCI_COMMON_DFSELECT:
	case VIRTIO_PCI_COMMON_GFSELECT:
		h.half = value & 0x7fff;
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		h.config_vector = (uint16_t)value;
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		h.status = (value & 0x80) != 0 ? 0 : (uint8_t)value;
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		h.queue = value & 0x7fff;
		break;
	case VIRTIO_PCI_COMMON_Q_SIZE:
		h.size[q] = (uint16_t)value;
		break;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		h.vector[q] = (uint16_t)value;
		break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		h.enable[q] = (uint16_t)value;
		break;
	default:
		if (at >= VIRTIO_PCI_COMMON_Q_DESCLO && at <= VIRTIO_PCI_COMMON_Q_USEDHI)
			memcpy((uint8_t *)h.ring[q] + (at - VIRTIO_PCI_COMMON_Q_DESCLO), &value,
			       sizeof(value));
	}
}

/* Use all that is in the control queue's split ring, by accident the way it is to be used. */
static void
answer_commands(uint8_t q)
{
	uint16_t *avail = fake_pci_dma(&h.pci, h.ring[q][1], 4);
	uint16_t *used = fake_pci_dma(&h.pci, h.ring[q][2], 4);
	const uint64_t *desc = fake_pci_dma(&h.pci, h.ring[q][0], 32);
	uint8_t *ack = desc != NULL ? fake_pci_dma(&h.pci, desc[2], 1) : NULL;

	if (avail == NULL || used == NULL || ack == NULL)
		return;
	*ack = once_in(h.lies) ? (uint8_t)any(256) : 0;
	used[1] = once_in(h.lies) ? (uint16_t)any(65536) : avail[1];
}

static void
lie(uint8_t *buf, size_t len)
{
	switch (any(5)) {
	case 0:
		memset(buf, 0xff, len);
		break;
	case 1:
		memset(buf, 0, len);
		break;
	case 2:
		buf[any((uint32_t)len)] ^= (uint8_t)(1 << any(8));
		break;
	default:
		for (size_t i = 0; i < len; i++)
			buf[i] = (uint8_t)any(256);
	}
}

static void
on_read(struct fake_pci *f, unsigned int region, uint64_t offset, void *buf, size_t len)
{
	uint64_t value;

	if (h.pause_us != 0)
		usleep(h.pause_us);
	if (region == h.bar && offset >= COMMON && offset < COMMON + 64) {
		value = common_value(offset - COMMON);
		memcpy(buf, &value, RTE_MIN(len, sizeof(value)));
	} else if (h.kind == OCTEP && region == h.bar && offset == CONFIG + 64 + 8) {
		memset(buf, 0, len);
		*(uint8_t *)buf = 1; /* the mailbox is done, */
	} else if (h.kind == OCTEP && region == h.bar && offset == CONFIG + 64 + 6) {
		value = 0xbeef; /* and answers */
		memcpy(buf, &value, len);
	}
	/* What reads as all ones is looked for there. */
	if (region < VDPA_PCI_BARS && once_in(h.lies))
		lie(buf, len);
}

static void
on_write(struct fake_pci *f, unsigned int region, uint64_t offset, const void *buf, size_t len)
{
	uint32_t value = 0;

	memcpy(&value, buf, RTE_MIN(len, sizeof(value)));
	if (region == h.bar && offset >= COMMON && offset < COMMON + 64)
		common_written(offset - COMMON, value);
	if (region == h.bar && offset == NOTIFY + 8 * QUEUES)
		answer_commands(QUEUES);
}

/* Capabilities, in configuration space or in the BAR. */
static void
add_cap(uint8_t type, uint32_t offset, uint32_t length)
{
	static uint8_t at, last;
	struct virtio_pci_notify_cap cap = {
		.cap = {.cap_vndr = 0x09,
			.cap_len = type == VIRTIO_PCI_CAP_NOTIFY_CFG ? 20 : 16,
			.cfg_type = type,
			.bar = (uint8_t)h.bar,
			.offset = offset,
			.length = length},
		.notify_off_multiplier = 8,
	};
	uint8_t *mem = h.pci.bar[h.bar].mem;

	if (once_in(60))
		lie((uint8_t *)&cap + 2, sizeof(cap) - 2);
	if (h.kind != OCTEP) {
		fake_pci_add_cap(&h.pci, &cap, sizeof(cap));
		return;
	}
	if (type == VIRTIO_PCI_CAP_COMMON_CFG) {
		at = 0x40;
		last = 0x33;
	}
	memcpy(&mem[at], &cap, sizeof(cap));
	mem[last + 1] = at;
	mem[at + 1] = once_in(100) ? (uint8_t)any(256) : 0;
	last = at;
	at = (uint8_t)(at + 32);
}

/* Of an octep: a block device. */
static void
add_type(void)
{
	const uint8_t cap[12] = {0x09, 0, sizeof(cap), 9, 0, 0, 0, 0, 2};
	uint8_t *mem = h.pci.bar[h.bar].mem;

	mem[0x34 - 1 + 1] = 0xe0;
	memcpy(&mem[0xe0], cap, sizeof(cap));
	mem[0xe1] = 0x40;
}

static void
set16(unsigned int at, uint16_t value)
{
	memcpy(&h.pci.config[at], &value, sizeof(value));
}

static void
init_ids(void)
{
	switch (h.kind) {
	case IFCVF:
		set16(0x02, h.is_block ? 0x1001 : once_in(2) ? 0x1041 : 0x1000);
		set16(0x2c, 0x8086);
		set16(0x2e, h.is_block ? 0x0002 : h.pci.config[0x02] == 0x41 ? 0x001a : 0x0001);
		break;
	case OCTEP:
		set16(0x00, 0x177d);
		set16(0x02, 0xb903);
		break;
	default:
		set16(0x02, h.is_block ? 0x1042 : 0x1041);
	}
}

static void
init_hostile(unsigned int seed)
{
	static const uint32_t signature[] = {0xfeedfeed, 0x3355ffaa};
	static const unsigned int lies[] = {0, 0, 1000, 200, 50, 10};
	unsigned int msix = 0;
	uint8_t *mem;

	memset(&h, 0, sizeof(h));
	prng = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	h.kind = any(KINDS);
	h.is_block = once_in(2);
	fake_pci_init(&h.pci, "v0");
	h.bar = h.kind == OCTEP ? 4 : 2;
	h.pci.can_reset = once_in(2);
	init_ids();
	fake_pci_add_bar(&h.pci, msix, 0x2000, false);
	fake_pci_add_bar(&h.pci, h.bar, BAR_SIZE, once_in(2));
	if (h.kind == IFCVF)
		fake_pci_add_bar(&h.pci, 4, 0x1000, false);
	mem = h.pci.bar[h.bar].mem;
	for (unsigned int i = 0; i < 256; i++)
		mem[CONFIG + i] = (uint8_t)any(256);
	mem[CONFIG + 8] = PAIRS;
	mem[CONFIG + 9] = 0;
	if (h.kind == OCTEP)
		memcpy(mem, signature, sizeof(signature));
	fake_pci_add_msix(&h.pci, VECTORS, msix, 0, 0x1000);
	h.pci.nr_irqs[VFIO_PCI_INTX_IRQ_INDEX] = 1;
	h.pci.nr_irqs[VFIO_PCI_ERR_IRQ_INDEX] = 1;
	h.pci.nr_irqs[VFIO_PCI_REQ_IRQ_INDEX] = 1;
	add_cap(VIRTIO_PCI_CAP_COMMON_CFG, COMMON, 64);
	add_cap(VIRTIO_PCI_CAP_ISR_CFG, ISR, 4);
	add_cap(VIRTIO_PCI_CAP_DEVICE_CFG, CONFIG, 256);
	add_cap(VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY, BAR_SIZE - NOTIFY);
	if (h.kind == OCTEP && h.is_block)
		add_type();
	h.features = V1 | PACKED | DATA | RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM) |
		     RTE_BIT64(VIRTIO_NET_F_MAC);
	if (!h.is_block && once_in(2))
		h.features |=
			MQ | RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) | RTE_BIT64(VIRTIO_NET_F_CTRL_RX);
	for (unsigned int i = any(6); i > 0; i--)
		h.features |= RTE_BIT64(any(64));
	h.lies = lies[any(RTE_DIM(lies))];
	h.pause_us = once_in(8) ? any(300) : 0;
	h.pci.on_read = on_read;
	h.pci.on_write = on_write;
}

/* What the function does by itself. */
static void
act(struct fixture *f)
{
	uint64_t start, size;
	uint8_t *bits;

	switch (any(16)) {
	case 0:
	case 1:
	case 2:
	case 3:
		for (unsigned int i = 0; i < VECTORS; i++)
			fake_pci_raise(&h.pci, i);
		fake_pci_raise_intx(&h.pci);
		break;
	case 4:
	case 5:
	case 6:
		/* Its own bitmap, flags of interrupts and whatever else is there. */
		for (unsigned int i = 0; i < 64; i++)
			h.pci.bar[h.bar].mem[NOTIFY + any(256)] = (uint8_t)any(256);
		if (h.kind != IFCVF || h.pci.bar[4].mem == NULL)
			break;
		for (unsigned int i = 0x20; i < 0x200; i++)
			h.pci.bar[4].mem[i] = (uint8_t)any(256);
		memcpy(&start, &h.pci.bar[4].mem[0x10], sizeof(start));
		memcpy(&size, &h.pci.bar[4].mem[0x18], sizeof(size));
		size -= start;
		/* A job may stop it at any time, which unmaps that. */
		vdpa_device_lock(f->vdev);
		bits = size < MEM_SIZE ? fake_pci_dma(&h.pci, start, size) : NULL;
		for (uint64_t i = 0; bits != NULL && i < size; i++)
			bits[i] = (uint8_t)any(256);
		vdpa_device_unlock(f->vdev);
		break;
	case 7:
		h.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
		break;
	case 8:
		h.lies = once_in(3) ? 2 + any(100) : h.lies;
		break;
	case 9:
		h.pci.all_ones = once_in(6);
		break;
	case 10:
		if (once_in(6))
			h.pci.io_err = EIO;
		break;
	case 11:
		if (once_in(4))
			vdpa_eventfd_signal(once_in(2) && h.pci.req >= 0 ? h.pci.req : f->spare);
		break;
	default:
		break;
	}
}

static void
set_log(struct fixture *f)
{
	static uint8_t bits[2][0x2000 + 3];
	const uint64_t used[VDPA_VQ_MAX] = {MEM_IOVA, UINT64_MAX, any(UINT32_MAX), UINT64_MAX - 5};
	const struct vdpa_dirty_log log = {
		.bitmap = &bits[any(2)][any(3)], .size = 1 + any(0x2000), .fd = -1};

	(void)vdpa_device_set_log(f->vdev, once_in(4) ? NULL : &log, used);
}

static void
try_start(struct fixture *f)
{
	bool packed = once_in(4);

	f->guest.start.nvqs = RTE_MIN(f->vdev->config->get_vq_count(f->vdev), FAKE_VIRTIO_VQS);
	f->guest.start.features = V1 | (h.features & MQ) | (packed ? PACKED : 0);
	for (uint16_t i = 0; i < FAKE_VIRTIO_VQS; i++) {
		struct vdpa_vq_config *vq = &f->guest.vqs[i];

		vq->ready = !once_in(9);
		vq->state = (struct vdpa_vq_state){0};
		if (packed && h.kind == OCTEP) {
			vq->state.packed.last_avail_counter = 1;
			vq->state.packed.last_used_counter = 1;
			vq->state.packed.last_avail_idx = vq->state.packed.last_used_idx = any(64);
		} else if (packed) {
			vq->state.packed.last_avail_counter = vq->state.packed.last_used_counter =
				1;
		} else if (h.kind != PLAIN) {
			vq->state.split.avail_index = (uint16_t)any(65536);
		}
	}
	(void)vdpa_device_start(f->vdev, &f->guest.start);
}

/* What a front end asks for, in any order. */
static void
ask(struct fixture *f)
{
	uint16_t idx = (uint16_t)any(QUEUES);
	struct vdpa_stat stats[16];
	struct vdpa_vq_state state;
	uint8_t config[64];

	switch (any(16)) {
	case 0:
		(void)vdpa_device_stop(f->vdev);
		break;
	case 1:
		(void)vdpa_suspend(f->vdev);
		break;
	case 2:
		(void)vdpa_resume(f->vdev);
		break;
	case 3:
	case 4:
		set_log(f);
		break;
	case 5:
		(void)vdpa_device_stop_vq(f->vdev, idx, &state);
		break;
	case 6:
		(void)vdpa_device_set_vq_call(f->vdev, idx, once_in(3) ? -1 : f->guest.call[idx]);
		break;
	case 7:
		(void)vdpa_device_set_memory(f->vdev, once_in(4) ? NULL : f->guest.tlb);
		break;
	case 8:
		(void)vdpa_get_config(f->vdev, any(32), config, any(sizeof(config)));
		break;
	case 9:
		(void)vdpa_get_vq_stats(f->vdev, idx, stats, RTE_DIM(stats));
		break;
	case 10:
		vdpa_eventfd_signal(f->guest.kick[idx]);
		break;
	case 11:
		(void)vdpa_device_start_vq(f->vdev, idx, &f->guest.vqs[idx]);
		break;
	case 12:
		(void)vdpa_device_enable_vq(f->vdev, idx, once_in(2));
		break;
	default:
		try_start(f);
	}
}

static void
live(struct fixture *f)
{
	char words[128];
	const char *more[] = {"", "", "vectors 0", "vectors 1", "vectors 3", "queue_size 128"};

	snprintf(words, sizeof(words), "name v0 mgmtdev fake/v0 timeout_ms 3 %s",
		 more[any(RTE_DIM(more))]);
	if (add(f, words) < 0)
		return;
	for (unsigned int i = any(40); i > 0; i--) {
		act(f);
		ask(f);
	}
	act(f);
	assert_int_equal(vdpa_dev_del("v0"), 0);
}

/* Of so many pairs that the control queue's number looks like a selector not yet taken. */
static void
a_queue_that_octep_cannot_select_is_refused(void **state)
{
	struct fixture *f = *state;
	unsigned int seed = 0;
	uint8_t *config;

	do {
		if (seed != 0)
			fake_pci_fini(&h.pci);
		init_hostile(++seed);
	} while (h.kind != OCTEP || h.is_block);
	h.lies = 0;
	h.pause_us = 0;
	h.features = V1 | PACKED | DATA | MQ | RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM) |
		     RTE_BIT64(VIRTIO_NET_F_CTRL_VQ);
	config = &h.pci.bar[h.bar].mem[CONFIG];
	config[9] = 0x40;
	assert_int_equal(add(f, WORDS "max_vqp 2"), 0);
	f->guest.start.nvqs = QUEUES;
	f->guest.start.features = V1 | MQ;
	assert_refused(vdpa_device_start(f->vdev, &f->guest.start), ETIMEDOUT,
		       "did not take a selector");
	/* Nor is the one meant that has the number without that bit. */
	assert_int_not_equal(h.queue, QUEUES);
	assert_int_equal(vdpa_dev_del("v0"), 0);
	fake_pci_fini(&h.pci);
}

/* Another device, which the first must not harm: its interrupts come by way of this process. */
static struct fixture other;

static void
start_other(void)
{
	prepare(&other);
	fake_virtio_init(&other.v, "v1", PAIRS);
	assert_int_equal(vdpa_dev_add("name v1 mgmtdev fake/v1 vectors 1"), 0);
	other.vdev = vdpa_find_device("v1");
	other.guest.start.nvqs = QUEUES;
	for (uint16_t i = 0; i < QUEUES; i++)
		other.guest.vqs[i].ready = true;
	start(&other);
}

static void
check_other(void)
{
	struct pollfd p = {.fd = other.guest.call[1], .events = POLLIN};

	assert_true(fake_virtio_interrupt(&other.v, 1));
	assert_int_equal(poll(&p, 1, 5000), 1);
	assert_true(vdpa_eventfd_take(other.guest.call[1]));
}

static void
stop_other(void)
{
	vdpa_put_device(other.vdev);
	assert_int_equal(vdpa_dev_del("v1"), 0);
	fake_virtio_fini(&other.v);
	fake_guest_fini(&other.guest);
	close(other.spare);
}

static void
a_life_with_hostile_functions(void **state)
{
	const char *seed_text = getenv("UVDPA_HOSTILE_SEED"), *n = getenv("UVDPA_HOSTILE_ROUNDS");
	unsigned int seed = seed_text != NULL ? (unsigned int)atoi(seed_text) : 1;
	unsigned int rounds = n != NULL ? (unsigned int)atoi(n) : ROUNDS;
	unsigned int added = 0;
	struct fixture *f = *state;
	uint64_t begin;

	start_other();
	for (; rounds > 0; rounds--, seed++) {
		begin = now_ms();
		init_hostile(seed);
		live(f);
		added += h.pci.opens;
		if (h.pci.open != NULL || h.pci.n_mapped != 0 || now_ms() - begin > ROUND_MS)
			fail_msg("seed %u: %s, %u mappings, %u ms", seed,
				 h.pci.open != NULL ? "open" : "closed", h.pci.n_mapped,
				 (unsigned int)(now_ms() - begin));
		fake_pci_fini(&h.pci);
		check_other();
	}
	stop_other();
	assert_true(added > 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_queue_that_octep_cannot_select_is_refused),
		T(a_life_with_hostile_functions),
	};

	return cmocka_run_group_tests_name("virtio_hostile", tests, group_setup, group_teardown);
}
