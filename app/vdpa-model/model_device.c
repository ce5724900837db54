/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A vDPA device as a virtio-pci function: what the driver writes into registers (virtio_pci.c)
 * becomes calls of the core; its memory, and where its interrupts go. What the client asks for is
 * in model_client.c.
 *
 * All of it happens on one loop, whose thread never waits for a client. Calls of the core from
 * elsewhere (configuration changed, device failed) are posted to it.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <rte_bitops.h>
#include <rte_byteorder.h>
#include <rte_common.h>

#include "model_fault.h"
#include "model_device.h"
#include "vdpa_log.h"

static bool
is_packed(const struct model_device *md)
{
	return (md->vp.driver_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
}

static bool
has_fault(const struct model_device *md, uint32_t bit)
{
	return (__atomic_load_n(&md->fault, __ATOMIC_RELAXED) & bit) != 0;
}

/* Interrupts. */

/* Where a queue's interrupts go: to the client's eventfd without a detour, where there is MSI-X and
 * nothing to be set first. */
static int
call_fd_of(const struct model_device *md, uint16_t idx)
{
	if (has_fault(md, MODEL_FAULT_BIT(LOST_INTERRUPTS)))
		return -1;
	if (md->flags != NULL)
		return md->flags[idx].ev.fd;
	if (!md->irqs.msix_on)
		return md->relay.fd;
	return model_interrupts_fd(&md->irqs, md->vp.queues[idx].vector);
}

void
model_device_route_queue(struct model_device *md, uint16_t idx)
{
	struct model_queue *q = &md->queues[idx];
	int fd = call_fd_of(md, idx), rc;

	if (!q->started || q->call_fd == fd)
		return;
	q->call_fd = fd;
	rc = vdpa_device_set_vq_call(md->vdev, idx, fd);
	if (rc < 0 && vdpa_device_get_state(md->vdev) != VDPA_STATE_FAILED)
		VDPA_LOG(ERR, "%s: vfio-user: queue %u: %s", md->vdev->name, idx,
			 vdpa_error_message());
}

void
model_device_route(struct model_device *md)
{
	for (uint16_t i = 0; i < md->vp.params.nvqs; i++)
		model_device_route_queue(md, i);
}

void
model_device_update_intx(struct model_device *md)
{
	model_interrupts_set_intx(&md->irqs, vp_intx_level(&md->vp));
}

static void
config_interrupt(struct model_device *md)
{
	vp_raise_isr(&md->vp, VIRTIO_PCI_ISR_CONFIG);
	if (md->irqs.msix_on)
		model_interrupts_fire(&md->irqs, md->vp.config_vector);
}

/* A queue's interrupt without MSI-X. */
static void
on_relay(struct vdpa_event *ev, uint32_t revents)
{
	struct model_device *md = ev->arg;
	eventfd_t count;

	if (eventfd_read(ev->fd, &count) == 0 && !md->irqs.msix_on)
		vp_raise_isr(&md->vp, 1);
}

/* The device's life. */

static bool
rings_are_in(const struct model_device *md, const struct vp_queue *q, const struct vdpa_iotlb *tlb)
{
	struct vdpa_ring_size size = vdpa_ring_size(is_packed(md), q->size);

	return tlb != NULL && vdpa_iotlb_range(tlb, q->desc, size.desc) != NULL &&
	       vdpa_iotlb_range(tlb, q->driver, size.driver) != NULL &&
	       vdpa_iotlb_range(tlb, q->device, size.device) != NULL;
}

static bool
may_run(const struct model_device *md, uint16_t idx)
{
	return md->vp.queues[idx].enabled && !has_fault(md, MODEL_FAULT_BIT(QUEUE_NEVER_ENABLES));
}

static struct vdpa_vq_state
initial_state(const struct model_device *md)
{
	struct vdpa_vq_state state = {0};

	if (is_packed(md))
		state.packed.last_avail_counter = state.packed.last_used_counter = 1;
	return state;
}

/* A queue as the driver described it, from the beginning or from its place. */
static struct vdpa_vq_config
queue_config(struct model_device *md, uint16_t idx)
{
	const struct vp_queue *q = &md->vp.queues[idx];
	struct model_queue *mq = &md->queues[idx];
	struct vdpa_vq_config conf = {
		.ready = true,
		.enabled = true,
		.num = q->size,
		.desc = q->desc,
		.driver = q->driver,
		.device = q->device,
		.state = mq->placed ? mq->state : initial_state(md),
		.kick_fd = md->doorbells.queues[idx].kick_fd,
		.call_fd = call_fd_of(md, idx),
	};

	mq->call_fd = conf.call_fd;
	return conf;
}

/* What the device itself is to know of the negotiated features: addresses reach it through the
 * core's translation, always. */
static uint64_t
own_features(struct model_device *md, uint64_t features)
{
	return features & vdpa_get_device_features(md->vdev);
}

/* Ask the device itself, as its driver would. */
static int
set_features(void *arg, uint64_t features)
{
	struct model_device *md = arg;
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	int rc;

	rc = vdpa_reset(md->vdev);
	if (rc == 0)
		rc = vdpa_set_status(md->vdev, status);
	if (rc == 0)
		rc = vdpa_set_driver_features(md->vdev, own_features(md, features));
	if (rc == 0)
		rc = vdpa_set_status(md->vdev, status | VIRTIO_CONFIG_S_FEATURES_OK);
	if (rc < 0)
		VDPA_LOG(NOTICE, "%s: vfio-user: features 0x%" PRIx64 " refused: %s",
			 md->vdev->name, features, vdpa_error_message());
	return rc;
}

static void
forget_queues(struct model_device *md)
{
	for (uint16_t i = 0; i < md->vp.params.nvqs; i++)
		md->queues[i] = (struct model_queue){.call_fd = -1};
	md->running = false;
}

static int
start_queue(void *arg, uint16_t idx)
{
	struct model_device *md = arg;
	struct vdpa_vq_config conf;
	int rc;

	if (!md->running || md->queues[idx].started || !may_run(md, idx))
		return 0;
	if (!vp_bus_master(&md->vp)) {
		md->queues[idx].parked = true;
		return 0;
	}
	conf = queue_config(md, idx);
	rc = vdpa_device_start_vq(md->vdev, idx, &conf);
	if (rc < 0) {
		VDPA_LOG(ERR, "%s: vfio-user: queue %u: start: %s", md->vdev->name, idx,
			 vdpa_error_message());
		return rc;
	}
	md->queues[idx].started = true;
	md->queues[idx].parked = false;
	return 0;
}

static void
stop_queue(void *arg, uint16_t idx)
{
	struct model_device *md = arg;
	struct model_queue *q = &md->queues[idx];
	int rc;

	q->parked = false;
	if (!q->started)
		return;
	q->started = false;
	q->placed = true;
	q->call_fd = -1;
	rc = vdpa_device_stop_vq(md->vdev, idx, &q->state);
	if (rc < 0 && vdpa_device_get_state(md->vdev) != VDPA_STATE_FAILED)
		VDPA_LOG(ERR, "%s: vfio-user: queue %u: stop: %s", md->vdev->name, idx,
			 vdpa_error_message());
}

/* What queues write is logged from the first buffer on: they start when the log runs. */
static int
start_logged(struct model_device *md)
{
	int rc = 0;

	model_log_update(md, md->dma.iotlb);
	for (uint16_t i = 0; rc == 0 && i < md->vp.params.nvqs; i++)
		if (md->queues[i].parked)
			rc = start_queue(md, i);
	return rc;
}

static int
start_device(void *arg)
{
	struct model_device *md = arg;
	uint16_t nvqs = md->vp.params.nvqs;
	struct vdpa_vq_config vqs[VDPA_VQ_MAX];
	struct vdpa_start_config conf = {
		.features = own_features(md, md->vp.driver_features),
		.vqs = vqs,
		.nvqs = nvqs,
	};
	int rc;

	if (has_fault(md, MODEL_FAULT_BIT(NEEDS_RESET))) {
		VDPA_LOG(NOTICE, "%s: vfio-user: start: fault needs_reset", md->vdev->name);
		return -EIO;
	}
	rc = dma_table_iotlb(&md->dma, &conf.iotlb);
	if (rc < 0) {
		VDPA_LOG(ERR, "%s: vfio-user: start: %s", md->vdev->name, vdpa_error_message());
		return rc;
	}
	for (uint16_t i = 0; i < nvqs; i++) {
		vqs[i] = (struct vdpa_vq_config){.kick_fd = -1, .call_fd = -1};
		if (!may_run(md, i))
			continue;
		if (vp_bus_master(&md->vp) && !md->log.asked)
			vqs[i] = queue_config(md, i);
		else
			md->queues[i].parked = true;
	}
	if (!vp_bus_master(&md->vp))
		VDPA_LOG(WARNING,
			 "%s: vfio-user: started without bus master: its queues stand still until "
			 "the driver sets it",
			 md->vdev->name);
	rc = vdpa_device_start(md->vdev, &conf);
	if (rc < 0) {
		VDPA_LOG(ERR, "%s: vfio-user: start: %s", md->vdev->name, vdpa_error_message());
		return rc;
	}
	for (uint16_t i = 0; i < nvqs; i++)
		md->queues[i].started = vqs[i].ready;
	md->running = true;
	rc = md->log.asked ? start_logged(md) : 0;
	if (rc < 0) {
		forget_queues(md);
		(void)vdpa_device_stop(md->vdev);
		model_log_forget(md);
		return rc;
	}
	/* What was routed meanwhile may have changed since queue_config(). */
	model_device_route(md);
	doorbells_start(&md->doorbells);
	model_faults_update(md);
	if (has_fault(md, MODEL_FAULT_BIT(DISCONNECT)))
		vdpa_task_post(md->loop, &md->disconnect_task);
	return 0;
}

static void
reset_device(void *arg)
{
	struct model_device *md = arg;
	int rc = vdpa_device_stop(md->vdev);

	if (rc < 0 && rc != -ENODEV)
		VDPA_LOG(ERR, "%s: vfio-user: reset: %s", md->vdev->name, vdpa_error_message());
	forget_queues(md);
	model_log_forget(md);
	doorbells_stop(&md->doorbells);
	model_faults_update(md);
}

static void
place_queue(void *arg, uint16_t idx, const struct vdpa_vq_state *state)
{
	struct model_device *md = arg;
	struct model_queue *q = &md->queues[idx];

	if (q->started)
		return;
	q->placed = state != NULL;
	if (state != NULL)
		q->state = *state;
}

/* How far a split ring was used; false: it is not in the memory. */
static bool
read_used(const struct model_device *md, uint16_t idx, struct vdpa_vq_state *state)
{
	const uint16_t *used = NULL;

	if (md->dma.iotlb != NULL)
		used = vdpa_iotlb_range(md->dma.iotlb, md->vp.queues[idx].device + 2,
					sizeof(*used));
	if (used == NULL)
		return false;
	*state = (struct vdpa_vq_state){0};
	state->split.avail_index = rte_le_to_cpu_16(__atomic_load_n(used, __ATOMIC_ACQUIRE));
	return true;
}

/* A packed ring does not say by itself: the queue stops, and goes on. */
static int
queue_place(void *arg, uint16_t idx, struct vdpa_vq_state *state)
{
	struct model_device *md = arg;
	struct model_queue *q = &md->queues[idx];
	int rc = 0;

	if (q->started && !is_packed(md))
		return read_used(md, idx, state) ? 0 : -EFAULT;
	if (q->started) {
		stop_queue(md, idx);
		rc = start_queue(md, idx);
		if (rc < 0)
			vdpa_device_fail(md->vdev, idx, rc, "it does not start again");
	}
	*state = q->placed ? q->state : initial_state(md);
	return rc;
}

static void
set_log(void *arg, bool on, uint64_t start, uint64_t end)
{
	model_log_set(arg, on, start, end);
}

static bool
log_is_pending(void *arg)
{
	return model_log_is_pending(arg);
}

static uint32_t
read_flag(void *arg, uint16_t idx)
{
	struct model_device *md = arg;

	return doorbells_get_flag(&md->doorbells, idx);
}

static void
write_flag(void *arg, uint16_t idx, uint32_t value)
{
	struct model_device *md = arg;

	model_flags_write(md, idx, value, has_fault(md, MODEL_FAULT_BIT(FLAG_STUCK)));
}

static void
notify(void *arg, uint16_t idx, uint32_t data)
{
	struct model_device *md = arg;

	doorbells_ring(&md->doorbells, idx, data);
}

static int
read_device(void *arg, size_t offset, void *buf, size_t len)
{
	struct model_device *md = arg;

	return vdpa_get_config(md->vdev, offset, buf, len);
}

static int
write_device(void *arg, size_t offset, const void *buf, size_t len)
{
	struct model_device *md = arg;
	int rc = vdpa_set_config(md->vdev, offset, buf, len);

	/* The register has no way to say so. */
	if (rc < 0)
		VDPA_LOG(INFO, "%s: vfio-user: configuration: %s", md->vdev->name,
			 vdpa_error_message());
	return rc;
}

/* Memory. */

/* Queues whose rings are not in the memory, or without bus master all, stand still until they may
 * go on. QEMU takes memory away and gives it back whenever its layout changes. */
static void
park_queues(struct model_device *md, const struct vdpa_iotlb *tlb)
{
	bool master = vp_bus_master(&md->vp);

	for (uint16_t i = 0; i < md->vp.params.nvqs; i++) {
		struct model_queue *q = &md->queues[i];

		if (!q->started || (master && rings_are_in(md, &md->vp.queues[i], tlb)))
			continue;
		VDPA_LOG(INFO, "%s: vfio-user: queue %u: stands still: %s", md->vdev->name, i,
			 master ? "its memory was unmapped" : "no bus master");
		stop_queue(md, i);
		q->parked = true;
	}
}

/* Queues that stood still go on, if their memory is in the table again. */
static void
resume_queues(struct model_device *md)
{
	for (uint16_t i = 0; i < md->vp.params.nvqs && vp_bus_master(&md->vp); i++)
		if (md->queues[i].parked && rings_are_in(md, &md->vp.queues[i], md->dma.iotlb) &&
		    start_queue(md, i) < 0)
			vdpa_device_fail(md->vdev, i, EFAULT, "it does not start again");
}

int
model_device_update_memory(struct model_device *md)
{
	struct vdpa_iotlb *tlb;
	int rc;

	/* One that is started later takes what there is by then; until then it has none. */
	if (!md->running || vdpa_device_get_state(md->vdev) == VDPA_STATE_FAILED)
		return vdpa_device_set_memory(md->vdev, NULL);
	rc = dma_table_iotlb(&md->dma, &tlb);
	if (rc < 0)
		return rc;
	park_queues(md, tlb);
	model_log_update(md, tlb);
	rc = vdpa_device_set_memory(md->vdev, tlb);
	if (rc == 0)
		resume_queues(md);
	return rc;
}

void
model_device_give_up(struct model_device *md, int err)
{
	vdpa_device_fail(md->vdev, -1, err, "memory is taken away: %s", vdpa_error_message());
	forget_queues(md);
	if (vdpa_device_stop(md->vdev) < 0)
		VDPA_LOG(ERR, "%s: vfio-user: stop: %s", md->vdev->name, vdpa_error_message());
	(void)vdpa_device_set_memory(md->vdev, NULL);
	if (vp_needs_reset(&md->vp))
		config_interrupt(md);
}

static void
route_queue(void *arg, uint16_t idx)
{
	model_device_route_queue(arg, idx);
}

static void
update_intx(void *arg)
{
	model_device_update_intx(arg);
}

/* Without it a function neither reads nor writes memory. */
static void
bus_master(void *arg)
{
	struct model_device *md = arg;

	park_queues(md, md->dma.iotlb);
	resume_queues(md);
}

const struct vp_ops model_vp_ops = {
	.set_features = set_features,
	.start = start_device,
	.reset = reset_device,
	.start_queue = start_queue,
	.stop_queue = stop_queue,
	.place_queue = place_queue,
	.queue_place = queue_place,
	.route_queue = route_queue,
	.intx = update_intx,
	.bus_master = bus_master,
	.notify = notify,
	.read_device = read_device,
	.write_device = write_device,
	.set_log = set_log,
	.log_is_pending = log_is_pending,
	.read_flag = read_flag,
	.write_flag = write_flag,
};

/* Told from elsewhere. */

static void
config_task(struct vdpa_task *task)
{
	struct model_device *md = task->arg;

	if (md->running)
		config_interrupt(md);
}

static void
failed_task(struct vdpa_task *task)
{
	struct model_device *md = task->arg;

	/* The driver may have reset it since. */
	if (!md->running || vdpa_device_get_state(md->vdev) != VDPA_STATE_FAILED)
		return;
	forget_queues(md);
	if (vp_needs_reset(&md->vp))
		config_interrupt(md);
	model_faults_update(md);
}

static void
disconnect_task(struct vdpa_task *task)
{
	struct model_device *md = task->arg;

	vfu_server_disconnect(md->server);
}

int
model_device_init(struct model_device *md)
{
	uint16_t nvqs = md->vp.params.nvqs;
	int rc;

	md->queues = calloc(nvqs, sizeof(*md->queues));
	if (md->queues == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	forget_queues(md);
	md->config_task = (struct vdpa_task){.run = config_task, .arg = md};
	md->failed_task = (struct vdpa_task){.run = failed_task, .arg = md};
	md->disconnect_task = (struct vdpa_task){.run = disconnect_task, .arg = md};
	md->relay = (struct vdpa_event){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
					.events = EPOLLIN,
					.handler = on_relay,
					.arg = md};
	if (md->relay.fd < 0)
		return vdpa_error(errno, "eventfd: %s", strerror(errno));
	rc = vdpa_event_add(md->loop, &md->relay);
	if (rc == 0)
		rc = model_flags_init(md);
	return rc < 0 ? rc : model_interrupts_init(&md->irqs, md->vp.params.vectors);
}

void
model_device_fini(struct model_device *md)
{
	vdpa_task_cancel(&md->config_task);
	vdpa_task_cancel(&md->failed_task);
	vdpa_task_cancel(&md->disconnect_task);
	vdpa_event_del(&md->relay);
	if (md->relay.fd >= 0)
		close(md->relay.fd);
	model_flags_fini(md);
	model_interrupts_fini(&md->irqs);
	free(md->queues);
}
