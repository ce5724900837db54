/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Faults that happen without the driver's doing: interrupts without cause and used entries that
 * were never made, again and again while the device runs; failing and hanging up, once, when asked
 * for at run time.
 */

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <rte_byteorder.h>
#include <rte_bitops.h>

#include "model_device.h"
#include "vdpa_log.h"

#define TICK_MS 5
#define TICKING                                                                                    \
	(MODEL_FAULT_BIT(WRONG_USED_INDEX) | MODEL_FAULT_BIT(SPURIOUS_INTERRUPTS) |                \
	 MODEL_FAULT_BIT(FLAG_STUCK))

#define PACKED_DESC_LEN	  16
#define PACKED_DESC_ID	  12 /* u16 id, u16 flags */
#define PACKED_DESC_AVAIL (1u << 7)
#define PACKED_DESC_USED  (1u << 15)
#define IMPOSSIBLE_ID	  0xfffe

/* More entries used than the queue has. */
static void
corrupt_split(struct vfu_device *dev, const struct vp_queue *q)
{
	uint16_t *idx = vdpa_iotlb_range(dev->dma.iotlb, q->device + 2, sizeof(*idx)), old;

	if (idx == NULL)
		return;
	old = rte_le_to_cpu_16(__atomic_load_n(idx, __ATOMIC_RELAXED));
	__atomic_store_n(idx, rte_cpu_to_le_16((uint16_t)(old + q->size + 1)), __ATOMIC_RELEASE);
}

/* Every descriptor used, with an id that nobody gave; as in one round of the ring and as in the
 * next, in turn, whichever the driver is in. */
static void
corrupt_packed(struct vfu_device *dev, const struct vp_queue *q)
{
	uint64_t len = (uint64_t)q->size * PACKED_DESC_LEN;
	uint8_t *ring = vdpa_iotlb_range(dev->dma.iotlb, q->desc, len);
	uint32_t flags =
		model_of(dev)->fault_round % 2 == 0 ? PACKED_DESC_AVAIL | PACKED_DESC_USED : 0;

	for (uint32_t i = 0; ring != NULL && i < q->size; i++)
		__atomic_store_n((uint32_t *)(void *)(ring + i * PACKED_DESC_LEN + PACKED_DESC_ID),
				 rte_cpu_to_le_32(flags << 16 | IMPOSSIBLE_ID), __ATOMIC_RELEASE);
}

static void
corrupt_queues(struct vfu_device *dev)
{
	bool packed = (dev->vp.driver_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;

	if (dev->dma.iotlb == NULL || dev->consumer == NULL)
		return;
	model_of(dev)->fault_round++;
	for (uint16_t i = 0; i < dev->vp.params.nvqs; i++) {
		if (!vdpa_consumer_has_vq(dev->consumer, i))
			continue;
		if (packed)
			corrupt_packed(dev, &dev->vp.queues[i]);
		else
			corrupt_split(dev, &dev->vp.queues[i]);
		if (dev->queues[i].call_fd >= 0)
			vdpa_eventfd_signal(dev->queues[i].call_fd);
	}
}

static void
on_tick(struct vdpa_event *ev, uint32_t revents)
{
	struct vfu_device *dev = ev->arg;
	uint64_t expired;

	if (read(ev->fd, &expired, sizeof(expired)) == sizeof(expired))
		vdpa_work_post(dev->jobs, &model_of(dev)->tick_work);
}

static void
run_tick(struct vdpa_work *work)
{
	struct vfu_device *dev = work->arg;
	uint32_t mask = __atomic_load_n(&model_of(dev)->function.fault, __ATOMIC_RELAXED);

	if (!vfu_runs(dev))
		return;
	if ((mask & MODEL_FAULT_BIT(WRONG_USED_INDEX)) != 0)
		corrupt_queues(dev);
	/* Where the client writes them in memory. */
	if ((mask & MODEL_FAULT_BIT(FLAG_STUCK)) != 0)
		vdpa_vfus_flags_set_all(dev);
	if ((mask & MODEL_FAULT_BIT(SPURIOUS_INTERRUPTS)) != 0) {
		for (uint16_t i = 0; i < dev->irqs.n_vectors; i++)
			vdpa_vfus_irqs_fire(&dev->irqs, i);
		if (!dev->irqs.msix_on && dev->irqs.intx_fd >= 0)
			vdpa_eventfd_signal(dev->irqs.intx_fd);
	}
}

void
model_faults_update(struct vfu_device *dev)
{
	bool on = vfu_runs(dev) && model_has_fault(&model_of(dev)->function, TICKING);
	const struct itimerspec when = {.it_interval.tv_nsec = on ? TICK_MS * 1000000L : 0,
					.it_value.tv_nsec = on ? TICK_MS * 1000000L : 0};

	timerfd_settime(model_of(dev)->tick.fd, 0, &when, NULL);
}

void
model_faults_change(struct vfu_device *dev, uint32_t mask)
{
	uint32_t old = __atomic_exchange_n(&model_of(dev)->function.fault, mask, __ATOMIC_RELAXED),
		 added = mask & ~old;

	vdpa_vfus_device_route(dev);
	model_faults_update(dev);
	if ((added & MODEL_FAULT_BIT(NEEDS_RESET)) != 0 && vfu_runs(dev))
		vdpa_device_fail(dev->vdev, -1, EIO, "fault needs_reset");
	if ((added & MODEL_FAULT_BIT(DISCONNECT)) != 0)
		vdpa_vfus_server_disconnect(dev->server);
}

int
model_faults_init(struct vfu_device *dev)
{
	struct model_device *m = model_of(dev);
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

	m->tick_work = (struct vdpa_work){.run = run_tick, .arg = dev};
	m->tick = (struct vdpa_event){.fd = fd, .events = EPOLLIN, .handler = on_tick, .arg = dev};
	if (fd < 0)
		return vdpa_error(errno, "timer: %s", strerror(errno));
	return vdpa_event_add(vdpa_event_loop_control(), &m->tick);
}

void
model_faults_quiesce(struct vfu_device *dev)
{
	vdpa_event_del(&model_of(dev)->tick);
	vdpa_work_cancel(&model_of(dev)->tick_work);
}

void
model_faults_fini(struct vfu_device *dev)
{
	struct model_device *m = model_of(dev);

	model_faults_quiesce(dev);
	/* Without init, there is none. */
	if (m->tick_work.run != NULL && m->tick.fd >= 0)
		close(m->tick.fd);
}
