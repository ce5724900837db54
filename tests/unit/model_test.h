/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The register file of vdpa-model with an owner that notes what it is asked for, for tests. Include
 * it after cmocka.h.
 */

#ifndef MODEL_TEST_H
#define MODEL_TEST_H

#include <string.h>

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <rte_bitops.h>

#include "test_util.h"

#include "model_function.h"
#include "vdpa.h"
#include "vdpa_virtqueue.h"
#include "vfio_user_dma.h"
#include "vfio_user_function.h"
#include "vfio_user_interrupt.h"

#define NVQS	  5
#define QUEUE_MAX 256
#define VECTORS	  6
#define DEV_LEN	  10
#define FEATURES  (RTE_BIT64(VIRTIO_F_VERSION_1) | RTE_BIT64(VIRTIO_F_RING_RESET) | 0x21)
#define S_DRIVER  (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)

/* The owner: what it was asked for, and what it answers. */
struct owner {
	struct vp_function vp;
	struct model_function model;
	uint64_t features;
	unsigned int starts, resets, routes, intx_calls, master_calls, suspends, resumes;
	int set_features_rc, start_rc, start_queue_rc, suspend_rc, resume_rc;
	int started_queue, stopped_queue, rung_queue;
	uint32_t rung_data;
	uint8_t config[DEV_LEN];
	/* Of kinds. */
	struct vdpa_vq_state places[NVQS];
	unsigned int placed, placed_by_ring; /* masks of queues */
	unsigned int logs;		     /* calls */
	bool log_on, log_pending;
	uint64_t log_start, log_end;
	uint32_t flags[NVQS];
};

static inline int
own_set_features(void *arg, uint64_t features)
{
	struct owner *o = arg;

	o->features = features;
	return o->set_features_rc;
}

static inline int
own_start(void *arg)
{
	struct owner *o = arg;

	o->starts++;
	return o->start_rc;
}

static inline int
own_suspend(void *arg)
{
	struct owner *o = arg;

	o->suspends++;
	return o->suspend_rc;
}

static inline int
own_resume(void *arg)
{
	struct owner *o = arg;

	o->resumes++;
	return o->resume_rc;
}

static inline void
own_reset(void *arg)
{
	struct owner *o = arg;

	o->resets++;
}

static inline int
own_start_queue(void *arg, uint16_t idx)
{
	struct owner *o = arg;

	o->started_queue = idx;
	return o->start_queue_rc;
}

static inline void
own_stop_queue(void *arg, uint16_t idx)
{
	struct owner *o = arg;

	o->stopped_queue = idx;
}

static inline void
own_place_queue(void *arg, uint16_t idx, const struct vdpa_vq_state *state)
{
	struct owner *o = arg;

	assert_true(idx < NVQS);
	o->places[idx] = state != NULL ? *state : (struct vdpa_vq_state){0};
	o->placed = state != NULL ? o->placed | 1u << idx : o->placed & ~(1u << idx);
}

static inline int
own_queue_place(void *arg, uint16_t idx, struct vdpa_vq_state *state)
{
	struct owner *o = arg;

	assert_true(idx < NVQS);
	*state = o->places[idx];
	return 0;
}

static inline void
own_place_by_ring(void *arg, uint16_t idx)
{
	struct owner *o = arg;

	assert_true(idx < NVQS);
	o->placed_by_ring |= 1u << idx;
}

static inline void
own_set_log(void *arg, bool on, uint64_t start, uint64_t end)
{
	struct owner *o = arg;

	o->logs++;
	o->log_on = on;
	o->log_start = start;
	o->log_end = end;
}

static inline bool
own_log_is_pending(void *arg)
{
	struct owner *o = arg;

	return o->log_pending;
}

static inline uint32_t
own_read_flag(void *arg, uint16_t idx)
{
	struct owner *o = arg;

	assert_true(idx < NVQS);
	return o->flags[idx];
}

static inline void
own_write_flag(void *arg, uint16_t idx, uint32_t value)
{
	struct owner *o = arg;

	assert_true(idx < NVQS);
	o->flags[idx] = value;
}

static inline void
own_route(void *arg, uint16_t idx)
{
	struct owner *o = arg;

	o->routes++;
}

static inline void
own_intx(void *arg)
{
	struct owner *o = arg;

	o->intx_calls++;
}

static inline void
own_bus_master(void *arg)
{
	struct owner *o = arg;

	o->master_calls++;
}

static inline void
own_notify(void *arg, uint16_t idx, uint32_t data)
{
	struct owner *o = arg;

	o->rung_queue = idx;
	o->rung_data = data;
}

static inline int
own_read_device(void *arg, size_t offset, void *buf, size_t len)
{
	struct owner *o = arg;

	assert_true(offset + len <= DEV_LEN);
	memcpy(buf, o->config + offset, len);
	return 0;
}

static inline int
own_write_device(void *arg, size_t offset, const void *buf, size_t len)
{
	struct owner *o = arg;

	assert_true(offset + len <= DEV_LEN);
	memcpy(o->config + offset, buf, len);
	return 0;
}

static const struct vp_ops own_ops = {
	.set_features = own_set_features,
	.start = own_start,
	.suspend = own_suspend,
	.resume = own_resume,
	.reset = own_reset,
	.start_queue = own_start_queue,
	.stop_queue = own_stop_queue,
	.place_queue = own_place_queue,
	.queue_place = own_queue_place,
	.place_by_ring = own_place_by_ring,
	.route_queue = own_route,
	.intx = own_intx,
	.bus_master = own_bus_master,
	.notify = own_notify,
	.read_device = own_read_device,
	.write_device = own_write_device,
	.set_log = own_set_log,
	.log_is_pending = own_log_is_pending,
	.read_flag = own_read_flag,
	.write_flag = own_write_flag,
};

/* A function of a kind; change: of its parameters, may be NULL. */
static inline int
setup_kind(void **state, const struct vp_kind *kind, uint32_t mult,
	   void (*change)(struct vp_params *params))
{
	struct owner *o = test_calloc(1, sizeof(*o));
	struct vp_params params = {
		.kind = kind,
		.device_id = 1,
		.features = FEATURES,
		.nvqs = NVQS,
		.queue_size_max = QUEUE_MAX,
		.vectors = VECTORS,
		.notify_mult = mult,
		.device_size = DEV_LEN,
		.ask = model_ask,
		.own = &o->model,
		.ops = &own_ops,
		.arg = o,
	};

	o->started_queue = o->stopped_queue = o->rung_queue = -1;
	*state = o;
	if (change != NULL)
		change(&params);
	return vdpa_vp_init(&o->vp, &params);
}

static inline int
setup_with(void **state, uint32_t mult)
{
	return setup_kind(state, NULL, mult, NULL);
}

static inline int
setup(void **state)
{
	return setup_with(state, VP_PAGE);
}

static inline int
teardown(void **state)
{
	struct owner *o = *state;

	vdpa_vp_fini(&o->vp);
	test_free(o);
	return 0;
}

/* Registers of virtio's structures. Little endian host: the tests run where the packages do. */
static inline uint64_t
rd(struct owner *o, uint64_t offset, size_t len)
{
	uint64_t value = 0;

	vdpa_vp_bar_read(&o->vp, o->vp.bar, o->vp.base + offset, &value, len);
	return value;
}

static inline void
wr(struct owner *o, uint64_t offset, size_t len, uint64_t value)
{
	vdpa_vp_bar_write(&o->vp, o->vp.bar, o->vp.base + offset, &value, len);
}

static inline uint32_t
cfg(struct owner *o, uint64_t offset, size_t len)
{
	uint32_t value = 0;

	vdpa_vp_config_read(&o->vp, offset, &value, len);
	return value;
}

static inline void
cfg_write(struct owner *o, uint64_t offset, size_t len, uint32_t value)
{
	vdpa_vp_config_write(&o->vp, offset, &value, len);
}

static inline void
negotiate(struct owner *o, uint64_t features)
{
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, S_DRIVER);
	for (unsigned int i = 0; i < 2; i++) {
		wr(o, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		wr(o, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)(features >> (32 * i)));
	}
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
}

static inline uint8_t
status(struct owner *o)
{
	return (uint8_t)rd(o, VIRTIO_PCI_COMMON_STATUS, 1);
}

static inline void
run(struct owner *o)
{
	negotiate(o, FEATURES);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1,
	   S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* Configuration space. */

static inline uint8_t
find_cap(struct owner *o, uint8_t id, uint8_t type)
{
	unsigned int n = 0;

	for (uint32_t at = cfg(o, PCI_CAPABILITY_LIST, 1); at != 0; at = cfg(o, at + 1, 1)) {
		assert_true(at >= 0x40 && at % 4 == 0 && n++ < 48);
		if (cfg(o, at, 1) == id && (id != PCI_CAP_ID_VNDR || cfg(o, at + 3, 1) == type))
			return (uint8_t)at;
	}
	return 0;
}

#endif /* MODEL_TEST_H */
