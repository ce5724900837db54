/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <rte_common.h>

#include <linux/virtio_config.h>

#include "fake_device.h"

#define FAKE(vdev) ((struct fake_device *)(vdev))

/* Count a fallible op; -EIO when it is the one to fail. */
static int
op(struct vdpa_device *vdev, const char *name)
{
	struct fake_device *fake = FAKE(vdev);

	if (++fake->calls != fake->fail_at)
		return 0;
	fake->failed_op = name;
	return fake->sets_message ? vdpa_error(EIO, "the fan has stopped") : -EIO;
}

void
fake_write(struct fake_device *fake, unsigned int page)
{
	uint8_t *bytes = (uint8_t *)fake->hw_log;

	__atomic_fetch_or(&bytes[page / 8], (uint8_t)(1u << page % 8), __ATOMIC_SEQ_CST);
}

/* It stops, and has written until now. */
static void
write_late(struct vdpa_device *vdev)
{
	if (FAKE(vdev)->late_page != 0)
		fake_write(FAKE(vdev), FAKE(vdev)->late_page);
}

static int
fake_set_vq_address(struct vdpa_device *vdev, uint16_t idx, uint64_t desc, uint64_t driver,
		    uint64_t device)
{
	struct fake_vq *vq = &FAKE(vdev)->vq[idx];

	vq->desc = desc;
	vq->driver = driver;
	vq->device = device;
	return op(vdev, __func__);
}

static int
fake_set_vq_num(struct vdpa_device *vdev, uint16_t idx, uint32_t num)
{
	FAKE(vdev)->vq[idx].num = num;
	return op(vdev, __func__);
}

static void
fake_kick_vq(struct vdpa_device *vdev, uint16_t idx)
{
	__atomic_add_fetch(&FAKE(vdev)->vq[idx].kicks, 1, __ATOMIC_SEQ_CST);
}

static int
fake_get_vendor_vq_stats(struct vdpa_device *vdev, uint16_t idx, struct vdpa_stat *stats,
			 unsigned int n)
{
	const struct fake_device *fake = FAKE(vdev);

	for (unsigned int i = 0; i < RTE_MIN(n, fake->n_vq_stats); i++)
		stats[i] = fake->vq_stats[i];
	return (int)fake->n_vq_stats;
}

static int
fake_set_vq_cb(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	FAKE(vdev)->vq[idx].call_fd = fd;
	return op(vdev, __func__);
}

static int
fake_set_vq_kick(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	FAKE(vdev)->vq[idx].kick_fd = fd;
	return op(vdev, __func__);
}

static int
fake_set_vq_ready(struct vdpa_device *vdev, uint16_t idx, bool ready)
{
	FAKE(vdev)->vq[idx].ready = ready;
	if (!ready) {
		FAKE(vdev)->vq[idx].stopped = FAKE(vdev)->calls + 1;
		write_late(vdev);
		if (FAKE(vdev)->fails_as_it_stops)
			vdpa_device_fail(vdev, idx, -EIO, "it broke when it stopped");
	}
	return op(vdev, __func__);
}

static int
fake_set_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state)
{
	FAKE(vdev)->vq[idx].state = *state;
	return op(vdev, __func__);
}

static int
fake_get_vq_state(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	*state = FAKE(vdev)->vq[idx].state;
	return op(vdev, __func__);
}

static uint16_t
fake_get_vq_count(struct vdpa_device *vdev)
{
	return FAKE_VQS;
}

static uint16_t
fake_get_vq_num_max(struct vdpa_device *vdev)
{
	return 256;
}

static uint16_t
fake_get_vq_num_min(struct vdpa_device *vdev)
{
	return 4;
}

static uint64_t
fake_get_device_features(struct vdpa_device *vdev)
{
	return FAKE(vdev)->more_features |
	       (UINT64_C(1) << VIRTIO_F_VERSION_1 | UINT64_C(1) << VIRTIO_F_RING_PACKED |
		UINT64_C(1) << VIRTIO_F_NOTIFICATION_DATA);
}

static uint64_t
fake_get_backend_features(struct vdpa_device *vdev)
{
	return FAKE(vdev)->backend_features;
}

static int
fake_set_driver_features(struct vdpa_device *vdev, uint64_t features)
{
	FAKE(vdev)->features = features;
	return op(vdev, __func__);
}

static int
fake_set_config_cb(struct vdpa_device *vdev, int fd)
{
	FAKE(vdev)->config_fd = fd;
	return op(vdev, __func__);
}

static uint32_t
fake_get_device_id(struct vdpa_device *vdev)
{
	return 1;
}

static uint32_t
fake_get_vendor_id(struct vdpa_device *vdev)
{
	return 0x1af4;
}

static uint8_t
fake_get_status(struct vdpa_device *vdev)
{
	return FAKE(vdev)->sticky_status ? 0 : FAKE(vdev)->status;
}

static int
fake_set_status(struct vdpa_device *vdev, uint8_t status)
{
	struct fake_device *fake = FAKE(vdev);

	fake->status = status;
	if ((status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && fake->early_page != 0 && fake->log != NULL)
		fake_write(fake, fake->early_page);
	return op(vdev, __func__);
}

static int
fake_reset(struct vdpa_device *vdev)
{
	struct fake_device *fake = FAKE(vdev);

	fake->resets++;
	write_late(vdev);
	if (fake->on_reset != NULL)
		fake->on_reset(fake->on_reset_arg);
	if (fake->fail_reset)
		return -ETIMEDOUT;
	memset(fake->vq, 0, sizeof(fake->vq));
	for (unsigned int i = 0; i < FAKE_VQS; i++)
		fake->vq[i].call_fd = fake->vq[i].kick_fd = -1;
	fake->features = 0;
	fake->status = 0;
	fake->config_fd = -1;
	fake->suspended = false;
	return 0;
}

static int
fake_suspend(struct vdpa_device *vdev)
{
	if (FAKE(vdev)->no_suspend)
		return vdpa_error(EOPNOTSUPP, "the firmware is too old");
	write_late(vdev);
	FAKE(vdev)->suspended = true;
	return op(vdev, __func__);
}

static int
fake_resume(struct vdpa_device *vdev)
{
	FAKE(vdev)->suspended = false;
	return op(vdev, __func__);
}

static size_t
fake_get_config_size(struct vdpa_device *vdev)
{
	return sizeof(FAKE(vdev)->config);
}

static int
fake_get_config(struct vdpa_device *vdev, size_t offset, void *buf, size_t len)
{
	FAKE(vdev)->config_reads++;
	usleep(FAKE(vdev)->config_us);
	memcpy(buf, FAKE(vdev)->config + offset, len);
	if (FAKE(vdev)->keeps_changing)
		FAKE(vdev)->generation++;
	return 0;
}

static uint32_t
fake_get_generation(struct vdpa_device *vdev)
{
	return FAKE(vdev)->generation;
}

static int
fake_set_map(struct vdpa_device *vdev, uint32_t asid, struct vdpa_iotlb *tlb)
{
	struct fake_device *fake = FAKE(vdev);
	int rc = op(vdev, __func__);

	fake->set_maps++;
	if (rc == 0) {
		vdpa_iotlb_get(tlb);
		vdpa_iotlb_put(fake->tlb);
		fake->tlb = tlb;
	}
	return rc;
}

static void
fake_free(struct vdpa_device *vdev)
{
	vdpa_iotlb_put(FAKE(vdev)->tlb);
	if (FAKE(vdev)->freed != NULL)
		(*FAKE(vdev)->freed)++;
}

#define FAKE_OPS                                                                                   \
	.size = sizeof(struct vdpa_config_ops), .set_vq_address = fake_set_vq_address,             \
	.set_vq_num = fake_set_vq_num, .kick_vq = fake_kick_vq, .set_vq_cb = fake_set_vq_cb,       \
	.get_vq_count = fake_get_vq_count, .get_vq_num_max = fake_get_vq_num_max,                  \
	.get_vq_num_min = fake_get_vq_num_min, .get_device_features = fake_get_device_features,    \
	.get_backend_features = fake_get_backend_features,                                         \
	.set_driver_features = fake_set_driver_features, .set_config_cb = fake_set_config_cb,      \
	.get_device_id = fake_get_device_id, .get_vendor_id = fake_get_vendor_id,                  \
	.get_status = fake_get_status, .set_status = fake_set_status, .reset = fake_reset,         \
	.get_config_size = fake_get_config_size, .get_config = fake_get_config,                    \
	.get_generation = fake_get_generation, .free = fake_free,                                  \
	.get_vendor_vq_stats = fake_get_vendor_vq_stats

#define SOFTWARE_OPS                                                                               \
	.set_vq_ready = fake_set_vq_ready, .set_vq_state = fake_set_vq_state,                      \
	.get_vq_state = fake_get_vq_state, .suspend = fake_suspend, .resume = fake_resume,         \
	.set_map = fake_set_map

static const struct vdpa_config_ops relayed_ops = {FAKE_OPS, SOFTWARE_OPS};
static const struct vdpa_config_ops own_kick_ops = {FAKE_OPS, SOFTWARE_OPS,
						    .set_vq_kick = fake_set_vq_kick};

static int
hw_set_vq_ready(struct vdpa_device *vdev, uint16_t idx, bool ready)
{
	return ready || FAKE(vdev)->stops_vqs ? fake_set_vq_ready(vdev, idx, ready) : -EOPNOTSUPP;
}

static int
hw_reset_vq(struct vdpa_device *vdev, uint16_t idx)
{
	if (!FAKE(vdev)->resets_vqs)
		return -EOPNOTSUPP;
	FAKE(vdev)->vq[idx].ready = false;
	write_late(vdev);
	return op(vdev, __func__);
}

static int
hw_set_vq_enable(struct vdpa_device *vdev, uint16_t idx, bool enable)
{
	FAKE(vdev)->vq[idx].disabled = !enable;
	return op(vdev, __func__);
}

static int
hw_set_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state)
{
	bool packed = (FAKE(vdev)->features & UINT64_C(1) << VIRTIO_F_RING_PACKED) != 0;

	if (FAKE(vdev)->tells_places)
		return fake_set_vq_state(vdev, idx, state);
	/* By field: of the union's other bytes nothing is said. */
	if (packed ? state->packed.last_avail_idx != 0 || state->packed.last_used_idx != 0 ||
			     state->packed.last_avail_counter != 1 ||
			     state->packed.last_used_counter != 1
		   : state->split.avail_index != 0)
		return vdpa_error(EOPNOTSUPP, "starts at the beginning of a ring only");
	return op(vdev, __func__);
}

static int
hw_get_vq_state(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	return FAKE(vdev)->tells_places ? fake_get_vq_state(vdev, idx, state) : -EOPNOTSUPP;
}

static int
hw_get_vq_notification(struct vdpa_device *vdev, uint16_t idx, struct vdpa_notification_area *area)
{
	*area = FAKE(vdev)->doorbell;
	area->offset += idx * area->size;
	return area->size == 0 ? -EOPNOTSUPP : 0;
}

static int
hw_cut_off(struct vdpa_device *vdev)
{
	FAKE(vdev)->cuts++;
	return 0;
}

static void
hw_release_dma(struct vdpa_device *vdev)
{
	FAKE(vdev)->dma_releases++;
}

#define HARDWARE_OPS                                                                               \
	.set_vq_ready = hw_set_vq_ready, .set_vq_state = hw_set_vq_state,                          \
	.get_vq_state = hw_get_vq_state, .reset_vq = hw_reset_vq,                                  \
	.get_vq_notification = hw_get_vq_notification, .cut_off = hw_cut_off,                      \
	.release_dma = hw_release_dma

static const struct vdpa_config_ops hardware_ops = {FAKE_OPS, HARDWARE_OPS};
static const struct vdpa_config_ops enabling_ops = {FAKE_OPS, HARDWARE_OPS,
						    .set_vq_enable = hw_set_vq_enable};

/* Bits go to a log that is there, or the test has shown that it was not. */
static int
fake_log_start(struct vdpa_device *vdev, const struct vdpa_dirty_log *log,
	       const uint64_t *used_iova)
{
	struct fake_device *fake = FAKE(vdev);

	fake->log_starts++;
	if (fake->fail_log_start || used_iova != NULL)
		return -EINVAL;
	fake->log = log;
	return 0;
}

static int
fake_log_sync(struct vdpa_device *vdev)
{
	struct fake_device *fake = FAKE(vdev);

	__atomic_add_fetch(&fake->log_syncs, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&fake->fail_log_sync, __ATOMIC_SEQ_CST) || fake->log == NULL)
		return -EIO;
	vdpa_dirty_log_merge(fake->log, fake->hw_log, sizeof(fake->hw_log));
	return 0;
}

static int
fake_log_stop(struct vdpa_device *vdev)
{
	FAKE(vdev)->log_stops++;
	if (FAKE(vdev)->on_log_stop != NULL)
		FAKE(vdev)->on_log_stop(FAKE(vdev)->on_log_stop_arg);
	FAKE(vdev)->log = NULL;
	return 0;
}

#define LOG_OPS .log_start = fake_log_start, .log_sync = fake_log_sync, .log_stop = fake_log_stop

static const struct vdpa_config_ops logging_ops = {FAKE_OPS, SOFTWARE_OPS, LOG_OPS};
static const struct vdpa_config_ops logging_hw_ops = {FAKE_OPS, HARDWARE_OPS, LOG_OPS};

struct fake_device *
fake_logging_new(const char *name, struct vdpa_dma_domain *dma)
{
	struct fake_device *fake = vdpa_alloc_device(struct fake_device, vdev, name,
						     dma != NULL ? &logging_hw_ops : &logging_ops);

	if (fake != NULL)
		fake->vdev.dma = dma;
	return fake;
}

struct fake_device *
fake_hardware_new(const char *name, struct vdpa_dma_domain *dma, bool enables)
{
	struct fake_device *fake = vdpa_alloc_device(struct fake_device, vdev, name,
						     enables ? &enabling_ops : &hardware_ops);

	if (fake != NULL)
		fake->vdev.dma = dma;
	return fake;
}

struct fake_device *
fake_device_new(const char *name, bool own_kick)
{
	return vdpa_alloc_device(struct fake_device, vdev, name,
				 own_kick ? &own_kick_ops : &relayed_ops);
}
