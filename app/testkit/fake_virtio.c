/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The virtio-pci function in memory: registers behind fake_pci's callbacks. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/virtio_config.h>

#include <linux/virtio_pci.h>

#include "fake_virtio.h"

#define PCI_CAPABILITY_LIST 0x34
#define RING_PACKED	    (UINT64_C(1) << 34)
#define NOTIFICATION_DATA   (UINT64_C(1) << 38)
#define SUSPEND		    (UINT64_C(1) << 43)

/* Common configuration (virtio 1.4, 4.1.4.3). */
#define ADMIN_QUEUE_INDEX 60
#define ADMIN_QUEUE_NUM	  62

/* Device status (virtio 1.4, 2.1). */
#define S_DRIVER_OK   0x04
#define S_SUSPEND     0x10
#define S_NEEDS_RESET 0x40

#define DESC_NEXT  0x0001
#define DESC_WRITE 0x0002
#define DESC_AVAIL 0x0080
#define DESC_USED  0x8000

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t a, b; /* split: flags, next; packed: id, flags */
};

static struct fake_virtio *
of(struct fake_pci *f)
{
	return (struct fake_virtio *)f;
}

static void
reset_vq(struct fake_virtio_vq *q)
{
	*q = (struct fake_virtio_vq){.size_max = q->size_max,
				     .size = q->size_max,
				     .vector = FAKE_VIRTIO_NO_VECTOR,
				     .notify_off = q->notify_off,
				     .kicks = q->kicks};
}

static void
reset(struct fake_virtio *v)
{
	v->status = 0;
	v->driver_features = 0;
	v->config_vector = FAKE_VIRTIO_NO_VECTOR;
	v->isr = 0;
	v->ctrl_at = v->admin_at = 0;
	v->ctrl_wrap = true;
	v->pairs = 1;
	v->promisc = false;
	for (unsigned int i = 0; i < FAKE_VIRTIO_VQS; i++)
		reset_vq(&v->vq[i]);
}

static bool
is_suspended(const struct fake_virtio *v)
{
	return (v->status & (S_DRIVER_OK | S_SUSPEND)) == S_SUSPEND;
}

/* Not the reset. */
static void
set_status(struct fake_virtio *v, uint8_t value)
{
	bool can_suspend = (v->driver_features & SUSPEND) != 0;

	if (v->refuses_features)
		value &= (uint8_t)~8u;
	if (can_suspend && is_suspended(v) && (value & S_DRIVER_OK) != 0) {
		if (!v->never_resumes)
			v->status = value & (uint8_t)~S_SUSPEND;
		return;
	}
	if (!can_suspend)
		assert_int_equal(value & S_SUSPEND, 0);
	if ((value & S_SUSPEND) != 0 && (v->status & S_DRIVER_OK) != 0) {
		if (v->fails_to_suspend)
			value |= S_NEEDS_RESET;
		else if (!v->never_suspends)
			value &= (uint8_t)~S_DRIVER_OK;
	}
	v->status = value;
	v->was_suspended |= is_suspended(v);
}

/* The control queue. */

static uint8_t
execute(struct fake_virtio *v, const uint8_t *cmd, uint32_t len)
{
	v->commands++;
	if (v->ctrl == FAKE_CTRL_NEEDS_RESET)
		v->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	if (v->ctrl == FAKE_CTRL_NEEDS_RESET || v->ctrl == FAKE_CTRL_REFUSES || len < 2)
		return 1;
	if (cmd[0] == 0 && cmd[1] == 0 && len == 3)
		v->promisc = cmd[2] != 0;
	else if (cmd[0] == 1 && cmd[1] == 1 && len == 8)
		memcpy(v->mac, &cmd[2], sizeof(v->mac));
	else if (cmd[0] == 4 && cmd[1] == 0 && len == 4)
		memcpy(&v->pairs, &cmd[2], sizeof(v->pairs));
	else
		return 1;
	return 0;
}

/* Run the command in two descriptors, as this driver lays it out. */
static void
answer(struct fake_virtio *v, const struct desc *out, const struct desc *in)
{
	uint8_t *cmd = fake_pci_dma(&v->pci, out->addr, out->len);
	uint8_t *ack = fake_pci_dma(&v->pci, in->addr, in->len), result;

	assert_non_null(cmd);
	assert_non_null(ack);
	assert_int_equal(in->len, 1);
	result = execute(v, cmd, out->len);
	if (v->ctrl != FAKE_CTRL_NO_ACK)
		*ack = result;
}

static void
ctrl_split(struct fake_virtio *v, const struct fake_virtio_vq *q)
{
	const struct desc *table = fake_pci_dma(&v->pci, q->desc, 16u * q->size);
	const uint16_t *avail = fake_pci_dma(&v->pci, q->driver, 4 + 2u * q->size);
	uint16_t *used = fake_pci_dma(&v->pci, q->device, 4 + 8u * q->size), head;

	assert_non_null(table);
	assert_non_null(avail);
	assert_non_null(used);
	while (v->ctrl_at != avail[1]) {
		head = avail[2 + v->ctrl_at % q->size];
		assert_int_equal(table[head].a, DESC_NEXT);
		assert_int_equal(table[table[head].b].a, DESC_WRITE);
		answer(v, &table[head], &table[table[head].b]);
		*(uint32_t *)(void *)&used[2 + 4 * (v->ctrl_at % q->size)] =
			v->ctrl == FAKE_CTRL_WRONG_ID ? 7 : head;
		v->ctrl_at++;
		used[1] = (uint16_t)(v->ctrl_at + (v->ctrl == FAKE_CTRL_JUMPS ? 3 : 0));
	}
}

static void
ctrl_packed(struct fake_virtio *v, const struct fake_virtio_vq *q)
{
	struct desc *ring = fake_pci_dma(&v->pci, q->desc, 16u * q->size);

	assert_non_null(ring);
	for (;;) {
		struct desc *head = &ring[v->ctrl_at], *tail = head + 1;
		bool avail = (head->b & DESC_AVAIL) != 0, used = (head->b & DESC_USED) != 0;

		if (avail != v->ctrl_wrap || used == v->ctrl_wrap)
			return;
		assert_true((head->b & DESC_NEXT) != 0 && v->ctrl_at + 1 < q->size);
		assert_true((tail->b & DESC_WRITE) != 0);
		answer(v, head, tail);
		head->a = v->ctrl == FAKE_CTRL_WRONG_ID ? 99 : tail->a;
		head->b = v->ctrl_wrap ? DESC_AVAIL | DESC_USED : 0;
		v->ctrl_at = (uint16_t)(v->ctrl_at + 2);
		if (v->ctrl_at >= q->size) {
			v->ctrl_at = 0;
			v->ctrl_wrap = !v->ctrl_wrap;
		}
	}
}

/* A command in two descriptors, as this driver lays it out. */
static void
run_admin(struct fake_virtio *v)
{
	const struct fake_virtio_vq *q = &v->vq[v->admin_idx];
	const struct desc *table = fake_pci_dma(&v->pci, q->desc, 16u * q->size), *out, *in;
	const uint16_t *avail = fake_pci_dma(&v->pci, q->driver, 4 + 2u * q->size);
	uint16_t *used = fake_pci_dma(&v->pci, q->device, 4 + 8u * q->size), head;
	int n;

	assert_non_null(table);
	assert_non_null(avail);
	assert_non_null(used);
	while (v->admin_at != avail[1]) {
		uint32_t *elem = (uint32_t *)(void *)&used[2 + 4 * (v->admin_at % q->size)];

		head = avail[2 + v->admin_at % q->size];
		out = &table[head];
		assert_int_equal(out->a, DESC_NEXT);
		in = &table[out->b];
		assert_int_equal(in->a, DESC_WRITE);
		/* Both are multiples of 64 bits. */
		assert_int_equal((out->len | in->len) % 8, 0);
		n = v->on_admin(v->admin_arg, fake_pci_dma(&v->pci, out->addr, out->len), out->len,
				fake_pci_dma(&v->pci, in->addr, in->len), in->len);
		if (n < 0)
			return;
		elem[0] = head;
		elem[1] = (uint32_t)n;
		used[1] = ++v->admin_at;
	}
}

static void
kicked(struct fake_virtio *v, uint16_t idx)
{
	bool mq = (v->driver_features & (UINT64_C(1) << 22)) != 0;

	assert_in_range(idx, 0, FAKE_VIRTIO_VQS - 1);
	assert_false(is_suspended(v));
	v->vq[idx].kicks++;
	if (v->admin_num > 0 && idx == v->admin_idx && (v->status & S_DRIVER_OK) != 0) {
		run_admin(v);
		return;
	}
	if (idx != (mq ? v->ctrl_idx : 2) || (v->driver_features & (UINT64_C(1) << 17)) == 0 ||
	    v->ctrl == FAKE_CTRL_SILENT || v->vq[idx].enable == 0)
		return;
	if ((v->driver_features & RING_PACKED) != 0)
		ctrl_packed(v, &v->vq[idx]);
	else
		ctrl_split(v, &v->vq[idx]);
	/* Data says where the ring ends, which is how far it was executed. */
	if ((v->driver_features & NOTIFICATION_DATA) != 0 && v->ctrl == FAKE_CTRL_ANSWERS)
		assert_int_equal(v->vq[idx].position,
				 (v->driver_features & RING_PACKED) != 0
					 ? v->ctrl_at | (unsigned int)v->ctrl_wrap << 15
					 : v->ctrl_at);
}

/* Registers. */

/* As QEMU has it: a net device has a pair and its control queue until MQ is negotiated. */
static uint16_t
num_queues(const struct fake_virtio *v)
{
	bool mq = (v->driver_features & (UINT64_C(1) << 22)) != 0;

	return !v->is_net || mq || v->num_queues < 3 ? v->num_queues : 3;
}

static struct fake_virtio_vq *
selected(struct fake_virtio *v)
{
	v->none = (struct fake_virtio_vq){.vector = FAKE_VIRTIO_NO_VECTOR};
	if (v->admin_num > 0 && v->queue_select == v->admin_idx)
		return &v->vq[v->queue_select];
	return v->queue_select < num_queues(v) ? &v->vq[v->queue_select] : &v->none;
}

static uint64_t
common_read(struct fake_virtio *v, uint64_t at)
{
	const struct fake_virtio_vq *q = selected(v);

	switch (at) {
	case VIRTIO_PCI_COMMON_DF:
		return (uint32_t)(v->device_select < 2 ? v->features >> 32 * v->device_select : 0);
	case VIRTIO_PCI_COMMON_GF:
		return (uint32_t)(v->driver_select < 2 ? v->driver_features >> 32 * v->driver_select
						       : 0);
	case VIRTIO_PCI_COMMON_MSIX:
		return v->config_vector;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
		return (uint32_t)q->desc;
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		return q->desc >> 32;
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
		return (uint32_t)q->driver;
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		return q->driver >> 32;
	case VIRTIO_PCI_COMMON_Q_USEDLO:
		return (uint32_t)q->device;
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		return q->device >> 32;
	case VIRTIO_PCI_COMMON_NUMQ:
		return num_queues(v);
	case VIRTIO_PCI_COMMON_STATUS:
		/* Twice as long as EVENTUALLY() waits. */
		for (unsigned int i = 0;
		     i < 10000 && __atomic_load_n(&v->hold_status, __ATOMIC_ACQUIRE); i++) {
			__atomic_store_n(&v->holding_status, true, __ATOMIC_RELEASE);
			usleep(1000);
		}
		return v->status;
	case VIRTIO_PCI_COMMON_CFGGENERATION:
		return v->generation;
	case VIRTIO_PCI_COMMON_Q_SIZE:
		return q->size;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		return q->vector;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return q->enable;
	case VIRTIO_PCI_COMMON_Q_NOFF:
		return q->notify_off;
	case VIRTIO_PCI_COMMON_Q_RESET:
		return q->reset;
	case ADMIN_QUEUE_INDEX:
		return v->admin_idx;
	case ADMIN_QUEUE_NUM:
		return v->admin_num;
	default:
		fail_msg("read of the common configuration at %d", (int)at);
		return 0;
	}
}

static void
set_half(uint64_t *to, bool high, uint32_t value)
{
	*to = high ? (*to & UINT32_MAX) | (uint64_t)value << 32
		   : (*to & ~UINT64_C(0xffffffff)) | value;
}

static uint16_t
grant(const struct fake_virtio *v, uint16_t vector)
{
	return vector < v->vectors_granted ? vector : FAKE_VIRTIO_NO_VECTOR;
}

static void
common_write(struct fake_virtio *v, uint64_t at, uint32_t value)
{
	struct fake_virtio_vq *q = selected(v);

	switch (at) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		v->device_select = value;
		break;
	case VIRTIO_PCI_COMMON_GFSELECT:
		v->driver_select = value;
		break;
	case VIRTIO_PCI_COMMON_GF:
		set_half(&v->driver_features, v->driver_select == 1, value);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		v->config_vector = grant(v, (uint16_t)value);
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		if (value == 0 && !v->never_resets)
			reset(v);
		else if (value != 0)
			set_status(v, (uint8_t)value);
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		v->queue_select = (uint16_t)value;
		break;
	case VIRTIO_PCI_COMMON_Q_SIZE:
		q->size = (uint16_t)value;
		break;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		q->vector = grant(v, (uint16_t)value);
		break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		/* Features first (3.1.1). */
		assert_true((v->status & 8) != 0);
		q->enable = !v->never_enables && value == 1;
		break;
	case VIRTIO_PCI_COMMON_Q_RESET:
		assert_true((v->driver_features & (UINT64_C(1) << 40)) != 0);
		if (value == 1 && !v->never_resets_vq)
			reset_vq(q);
		else
			q->reset = 1;
		if (v->queue_select == v->ctrl_idx) {
			v->ctrl_at = 0;
			v->ctrl_wrap = true;
		}
		break;
	default:
		assert_in_range(at, VIRTIO_PCI_COMMON_Q_DESCLO, VIRTIO_PCI_COMMON_Q_USEDHI);
		set_half(at < VIRTIO_PCI_COMMON_Q_AVAILLO  ? &q->desc
			 : at < VIRTIO_PCI_COMMON_Q_USEDLO ? &q->driver
							   : &q->device,
			 (at & 4) != 0, value);
	}
}

static void
on_read(struct fake_pci *f, unsigned int region, uint64_t offset, void *buf, size_t len)
{
	struct fake_virtio *v = of(f);
	uint64_t value;

	if (region != v->bar)
		return;
	if (offset < FAKE_VIRTIO_ISR) {
		value = common_read(v, offset);
		memcpy(buf, &value, len);
	} else if (offset == FAKE_VIRTIO_ISR) {
		*(uint8_t *)buf = v->isr;
		v->isr = 0;
	}
}

static void
on_write(struct fake_pci *f, unsigned int region, uint64_t offset, const void *buf, size_t len)
{
	struct fake_virtio *v = of(f);
	uint32_t value = 0;

	if (region != v->bar)
		return;
	assert_true(len <= sizeof(value));
	memcpy(&value, buf, len);
	if (offset < FAKE_VIRTIO_ISR) {
		common_write(v, offset, value);
	} else if (offset >= FAKE_VIRTIO_NOTIFY) {
		uint16_t idx = (uint16_t)value;

		/* With VIRTIO_F_NOTIFICATION_DATA, 32 bits. */
		assert_int_equal(len, (v->driver_features & NOTIFICATION_DATA) != 0 ? 4 : 2);
		assert_in_range(idx, 0, FAKE_VIRTIO_VQS - 1);
		assert_int_equal(offset - FAKE_VIRTIO_NOTIFY,
				 v->vq[idx].notify_off * v->multiplier);
		v->vq[idx].position = (uint16_t)(value >> 16);
		kicked(v, idx);
	}
}

static void
on_reset(struct fake_pci *f)
{
	if (!of(f)->never_resets || of(f)->resets_by_function)
		reset(of(f));
	if (of(f)->resets_by_function)
		of(f)->never_resets = false;
}

/* The test's side. */

static void
add_cap(struct fake_virtio *v, uint8_t type, uint32_t offset, uint32_t length)
{
	struct virtio_pci_notify_cap cap = {
		.cap = {.cap_vndr = 0x09,
			.cap_len = type == VIRTIO_PCI_CAP_NOTIFY_CFG ? 20 : 16,
			.cfg_type = type,
			.bar = (uint8_t)v->bar,
			.offset = offset,
			.length = length},
		.notify_off_multiplier = v->multiplier,
	};

	fake_pci_add_cap(&v->pci, &cap, cap.cap.cap_len);
}

uint8_t *
fake_virtio_cap(struct fake_virtio *v, uint8_t type)
{
	uint8_t at = v->pci.config[PCI_CAPABILITY_LIST];

	while (at != 0 && (v->pci.config[at] != 0x09 || v->pci.config[at + 3] != type))
		at = v->pci.config[at + 1];
	assert_int_not_equal(at, 0);
	return &v->pci.config[at];
}

static void
init(struct fake_virtio *v, const char *name, uint16_t pairs, unsigned int bar, uint32_t multiplier,
     bool mappable)
{
	const uint8_t mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};
	const uint16_t mtu = 1500;
	uint8_t *config;

	memset(v, 0, sizeof(*v));
	v->bar = bar;
	fake_pci_init(&v->pci, name);
	v->multiplier = multiplier;
	v->pci.on_read = on_read;
	v->pci.on_write = on_write;
	v->pci.on_reset = on_reset;
	fake_pci_add_bar(&v->pci, 0, 0x2000, false);
	fake_pci_add_bar(&v->pci, bar, FAKE_VIRTIO_BAR_SIZE, mappable);
	v->pci.bar[bar].n_parts = 1;
	v->pci.bar[bar].parts[0].offset = FAKE_VIRTIO_NOTIFY;
	v->pci.bar[bar].parts[0].size = FAKE_VIRTIO_BAR_SIZE - FAKE_VIRTIO_NOTIFY;
	fake_pci_add_msix(&v->pci, 64, 0, 0, 0x1000);
	v->pci.nr_irqs[VFIO_PCI_INTX_IRQ_INDEX] = 1;
	v->pci.nr_irqs[VFIO_PCI_ERR_IRQ_INDEX] = 1;
	v->pci.nr_irqs[VFIO_PCI_REQ_IRQ_INDEX] = 1;
	v->vectors_granted = UINT16_MAX;
	add_cap(v, VIRTIO_PCI_CAP_COMMON_CFG, 0, 64);
	add_cap(v, VIRTIO_PCI_CAP_ISR_CFG, FAKE_VIRTIO_ISR, 4);
	add_cap(v, VIRTIO_PCI_CAP_DEVICE_CFG, FAKE_VIRTIO_CONFIG, 64);
	add_cap(v, VIRTIO_PCI_CAP_NOTIFY_CFG, FAKE_VIRTIO_NOTIFY,
		FAKE_VIRTIO_BAR_SIZE - FAKE_VIRTIO_NOTIFY);

	/* Rings, VERSION_1, ACCESS_PLATFORM, PACKED, RING_RESET, NOTIFICATION_DATA, SR_IOV; net:
	 * MTU, MAC, STATUS, CTRL_VQ, CTRL_RX, GUEST_ANNOUNCE, MQ, CTRL_MAC_ADDR, RSS. */
	v->features = UINT64_C(1) << 28 | UINT64_C(1) << 29 | UINT64_C(1) << 32 |
		      UINT64_C(1) << 33 | RING_PACKED | UINT64_C(1) << 37 | NOTIFICATION_DATA |
		      UINT64_C(1) << 40 | 1 << 3 | 1 << 5 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 21 |
		      1 << 22 | 1 << 23 | UINT64_C(1) << 60;
	v->is_net = true;
	v->num_queues = v->ctrl_idx = (uint16_t)(2 * pairs);
	v->num_queues++;
	assert_in_range(v->num_queues, 0, FAKE_VIRTIO_VQS);
	for (uint16_t i = 0; i < FAKE_VIRTIO_VQS; i++) {
		v->vq[i].size_max = i == v->ctrl_idx ? 16 : 256;
		v->vq[i].notify_off = i;
	}
	config = &v->pci.bar[bar].mem[FAKE_VIRTIO_CONFIG];
	memcpy(config, mac, sizeof(mac));
	memcpy(config + 8, &pairs, sizeof(pairs));
	memcpy(config + 10, &mtu, sizeof(mtu));
	reset(v);
}

void
fake_virtio_init(struct fake_virtio *v, const char *name, uint16_t pairs)
{
	init(v, name, pairs, FAKE_VIRTIO_BAR, 4, false);
}

void
fake_virtio_init_doorbells(struct fake_virtio *v, const char *name, uint16_t pairs,
			   uint32_t multiplier, bool mappable)
{
	init(v, name, pairs, FAKE_VIRTIO_BAR, multiplier, mappable);
}

void
fake_virtio_init_bar(struct fake_virtio *v, const char *name, uint16_t pairs, unsigned int bar)
{
	init(v, name, pairs, bar, 4, false);
}

void
fake_virtio_init_owner(struct fake_virtio *v, const char *name,
		       int (*on_admin)(void *arg, const uint8_t *in, size_t in_len, uint8_t *out,
				       size_t room),
		       void *arg)
{
	init(v, name, 1, FAKE_VIRTIO_BAR, 4, false);
	v->features = UINT64_C(1) << 32 | UINT64_C(1) << 33 | UINT64_C(1) << 41;
	v->admin_idx = v->num_queues;
	v->admin_num = 1;
	v->on_admin = on_admin;
	v->admin_arg = arg;
}

void
fake_virtio_fini(struct fake_virtio *v)
{
	fake_pci_fini(&v->pci);
}

void
fake_virtio_change_config(struct fake_virtio *v, uint8_t status)
{
	v->generation++;
	v->status |= status;
	v->isr |= 2;
	if (v->config_vector != FAKE_VIRTIO_NO_VECTOR)
		fake_pci_raise(&v->pci, v->config_vector);
	else
		fake_pci_raise_intx(&v->pci);
}

bool
fake_virtio_interrupt(struct fake_virtio *v, uint16_t idx)
{
	v->isr |= 1;
	if (v->pci.msix_on)
		return fake_pci_raise(&v->pci, v->vq[idx].vector);
	return fake_pci_raise_intx(&v->pci);
}
