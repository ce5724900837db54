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

#include "model_fault.h"
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
corrupt_split(struct model_device *md, const struct vp_queue *q)
{
	uint16_t *idx = vdpa_iotlb_range(md->dma.iotlb, q->device + 2, sizeof(*idx)), old;

	if (idx == NULL)
		return;
	old = rte_le_to_cpu_16(__atomic_load_n(idx, __ATOMIC_RELAXED));
	__atomic_store_n(idx, rte_cpu_to_le_16((uint16_t)(old + q->size + 1)), __ATOMIC_RELEASE);
}

/* Every descriptor used, with an id that nobody gave; as in one round of the ring and as in the
 * next, in turn, whichever the driver is in. */
static void
corrupt_packed(struct model_device *md, const struct vp_queue *q)
{
	uint64_t len = (uint64_t)q->size * PACKED_DESC_LEN;
	uint8_t *ring = vdpa_iotlb_range(md->dma.iotlb, q->desc, len);
	uint32_t flags = md->fault_round % 2 == 0 ? PACKED_DESC_AVAIL | PACKED_DESC_USED : 0;

	for (uint32_t i = 0; ring != NULL && i < q->size; i++)
		__atomic_store_n((uint32_t *)(void *)(ring + i * PACKED_DESC_LEN + PACKED_DESC_ID),
				 rte_cpu_to_le_32(flags << 16 | IMPOSSIBLE_ID), __ATOMIC_RELEASE);
}

static void
corrupt_queues(struct model_device *md)
{
	bool packed = (md->vp.driver_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;

	if (md->dma.iotlb == NULL)
		return;
	md->fault_round++;
	for (uint16_t i = 0; i < md->vp.params.nvqs; i++) {
		if (!md->queues[i].started)
			continue;
		if (packed)
			corrupt_packed(md, &md->vp.queues[i]);
		else
			corrupt_split(md, &md->vp.queues[i]);
		if (md->queues[i].call_fd >= 0)
			vdpa_eventfd_signal(md->queues[i].call_fd);
	}
}

static void
on_tick(struct vdpa_event *ev, uint32_t revents)
{
	struct model_device *md = ev->arg;
	uint32_t mask = __atomic_load_n(&md->fault, __ATOMIC_RELAXED);
	uint64_t expired;

	if (read(ev->fd, &expired, sizeof(expired)) < 0 || !md->running)
		return;
	if ((mask & MODEL_FAULT_BIT(WRONG_USED_INDEX)) != 0)
		corrupt_queues(md);
	/* Where the client writes them in memory. */
	if ((mask & MODEL_FAULT_BIT(FLAG_STUCK)) != 0)
		model_flags_set_all(md);
	if ((mask & MODEL_FAULT_BIT(SPURIOUS_INTERRUPTS)) != 0) {
		for (uint16_t i = 0; i < md->irqs.n_vectors; i++)
			model_interrupts_fire(&md->irqs, i);
		if (!md->irqs.msix_on && md->irqs.intx_fd >= 0)
			vdpa_eventfd_signal(md->irqs.intx_fd);
	}
}

void
model_faults_update(struct model_device *md)
{
	bool on = md->running && (__atomic_load_n(&md->fault, __ATOMIC_RELAXED) & TICKING) != 0;
	const struct itimerspec when = {.it_interval.tv_nsec = on ? TICK_MS * 1000000L : 0,
					.it_value.tv_nsec = on ? TICK_MS * 1000000L : 0};

	timerfd_settime(md->tick.fd, 0, &when, NULL);
}

void
model_faults_change(struct model_device *md, uint32_t mask)
{
	uint32_t old = __atomic_exchange_n(&md->fault, mask, __ATOMIC_RELAXED), added = mask & ~old;

	model_device_route(md);
	model_faults_update(md);
	if ((added & MODEL_FAULT_BIT(NEEDS_RESET)) != 0 && md->running)
		vdpa_device_fail(md->vdev, -1, EIO, "fault needs_reset");
	if ((added & MODEL_FAULT_BIT(DISCONNECT)) != 0)
		vfu_server_disconnect(md->server);
}

int
model_faults_init(struct model_device *md)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

	md->tick = (struct vdpa_event){.fd = fd, .events = EPOLLIN, .handler = on_tick, .arg = md};
	if (fd < 0)
		return vdpa_error(errno, "timer: %s", strerror(errno));
	return vdpa_event_add(md->loop, &md->tick);
}

void
model_faults_fini(struct model_device *md)
{
	vdpa_event_del(&md->tick);
	if (md->tick.fd >= 0)
		close(md->tick.fd);
}
