/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The administration virtqueue (virtio 1.4, 2.13): the device's side of it, one command after the
 * other. What commands do is admin_commands.c's. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <linux/virtio_config.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "admin_commands.h"
#include "model_admin.h"
#include "vdpa_log.h"
#include "vdpa_virtqueue.h"

#define SEGS	  64u
#define BYTES_MAX (256u << 10) /* of a request or an answer; what is behind does not count */

struct model_admin {
	struct vfu_device *dev;
	struct admin admin;
	struct vdpa_virtqueue *vq;
	struct vdpa_event kick; /* of the doorbell's eventfd */
	struct vdpa_work work;	/* what it posts */
	bool on;
	uint8_t in[BYTES_MAX], out[BYTES_MAX];
};

/* In jobs. */
static struct vfu_device *members[MODEL_MEMBERS_MAX + 1];

static struct vp_function *
member(void *arg, uint64_t number)
{
	return number >= 1 && number <= MODEL_MEMBERS_MAX && members[number] != NULL
		       ? &members[number]->vp
		       : NULL;
}

static void
execute(struct model_admin *a, const struct vdpa_vq_chain *chain)
{
	size_t in_len = 0, room = RTE_MIN(chain->in_len, BYTES_MAX), n, at = 0;

	for (uint16_t i = 0; i < chain->nout; i++) {
		size_t part = RTE_MIN(chain->iov[i].iov_len, BYTES_MAX - in_len);

		memcpy(a->in + in_len, chain->iov[i].iov_base, part);
		in_len += part;
	}
	n = admin_execute(&a->admin, a->in, in_len, a->out, room);
	for (uint16_t i = 0; i < chain->nin && at < n; i++) {
		const struct iovec *iov = &chain->iov[chain->nout + i];
		size_t part = RTE_MIN(iov->iov_len, n - at);

		memcpy(iov->iov_base, a->out + at, part);
		at += part;
	}
	vdpa_vq_push(a->vq, chain, (uint32_t)n);
	vdpa_vq_flush(a->vq);
	(void)vdpa_vq_notify(a->vq);
}

static void
process(struct model_admin *a)
{
	struct iovec iov[SEGS];
	struct vdpa_vq_chain chain = {.iov = iov, .iov_max = SEGS};
	int rc;

	do {
		while ((rc = vdpa_vq_pop(a->vq, &chain)) > 0)
			execute(a, &chain);
	} while (rc == 0 && vdpa_vq_enable_kicks(a->vq));
	if (rc < 0) {
		VDPA_LOG(ERR, "%s: vfio-user: administration queue: %s", a->dev->vdev->name,
			 vdpa_vq_error(a->vq));
		model_admin_stop(a->dev);
	}
}

static void
on_kick(struct vdpa_event *ev, uint32_t revents)
{
	struct model_admin *a = ev->arg;

	vdpa_work_post(a->dev->jobs, &a->work);
}

static void
run_kick(struct vdpa_work *work)
{
	struct model_admin *a = work->arg;
	bool kicked = vdpa_eventfd_take(a->kick.fd);

	vdpa_event_rearm(&a->kick);
	if (kicked && a->on && !a->dev->vp.suspended)
		process(a);
}

void
model_admin_resume(struct vfu_device *dev)
{
	if (model_of(dev)->admin != NULL && model_of(dev)->admin->on)
		process(model_of(dev)->admin);
}

int
model_admin_start(struct vfu_device *dev)
{
	struct model_admin *a = model_of(dev)->admin;
	struct vdpa_vq_params params;
	const struct vp_queue *q;
	struct vdpa_iotlb *tlb;
	int rc;

	if (a == NULL || a->on)
		return 0;
	q = &dev->vp.queues[dev->vp.params.nvqs];
	if (!q->enabled || !vdpa_vp_bus_master(&dev->vp))
		return 0;
	params = (struct vdpa_vq_params){.features = dev->vp.driver_features,
					 .num = q->size,
					 .desc = q->desc,
					 .driver = q->driver,
					 .device = q->device};
	if ((params.features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0)
		params.state.packed.last_avail_counter = params.state.packed.last_used_counter = 1;
	rc = vdpa_vfus_dma_iotlb(&dev->dma, &tlb);
	if (rc == 0 && tlb == NULL)
		rc = vdpa_error(EFAULT, "its ring is in no memory");
	if (rc == 0 && vdpa_vq_setup(a->vq, &params, tlb) < 0)
		rc = vdpa_error(EFAULT, "%s", vdpa_vq_error(a->vq));
	if (rc < 0) {
		VDPA_LOG(ERR, "%s: vfio-user: administration queue: %s", dev->vdev->name,
			 vdpa_error_message());
		return rc;
	}
	a->on = true;
	model_admin_route(dev);
	/* What was made available before. */
	process(a);
	return 0;
}

void
model_admin_stop(struct vfu_device *dev)
{
	if (model_of(dev)->admin == NULL || !model_of(dev)->admin->on)
		return;
	model_of(dev)->admin->on = false;
	vdpa_vq_teardown(model_of(dev)->admin->vq);
}

void
model_admin_update_memory(struct vfu_device *dev, struct vdpa_iotlb *tlb)
{
	if (model_of(dev)->admin == NULL || !model_of(dev)->admin->on)
		return;
	if (tlb != NULL && vdpa_vq_set_iotlb(model_of(dev)->admin->vq, tlb) == 0)
		return;
	VDPA_LOG(ERR, "%s: vfio-user: administration queue: its memory was unmapped",
		 dev->vdev->name);
	model_admin_stop(dev);
}

void
model_admin_route(struct vfu_device *dev)
{
	if (model_of(dev)->admin != NULL && model_of(dev)->admin->on)
		vdpa_vq_set_call(
			model_of(dev)->admin->vq,
			dev->irqs.msix_on
				? vdpa_vfus_irqs_fd(&dev->irqs,
						    dev->vp.queues[dev->vp.params.nvqs].vector)
				: dev->relay.fd);
}

void
model_admin_reset(struct vfu_device *dev)
{
	if (model_of(dev)->admin == NULL)
		return;
	model_admin_stop(dev);
	admin_reset(&model_of(dev)->admin->admin);
	for (unsigned int i = 1; i <= MODEL_MEMBERS_MAX; i++)
		if (members[i] != NULL)
			vp_set_stopped(&members[i]->vp, false);
}

uint64_t
model_admin_commands(const struct vfu_device *dev)
{
	return model_of(dev)->admin != NULL
		       ? __atomic_load_n(&model_of(dev)->admin->admin.commands, __ATOMIC_RELAXED)
		       : 0;
}

int
model_admin_init(struct vfu_device *dev)
{
	struct model_admin *a = calloc(1, sizeof(*a));

	if (a == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	model_of(dev)->admin = a;
	a->dev = dev;
	a->admin.member = member;
	a->kick.fd = -1;
	admin_reset(&a->admin);
	a->vq = vdpa_vq_alloc(-1);
	if (a->vq == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	a->kick = (struct vdpa_event){.fd = dev->doorbells.queues[dev->vp.params.nvqs].kick_fd,
				      .events = EPOLLIN | EPOLLONESHOT,
				      .handler = on_kick,
				      .arg = a};
	a->work = (struct vdpa_work){.run = run_kick, .arg = a};
	return vdpa_event_add(vdpa_event_loop_control(), &a->kick);
}

void
model_admin_quiesce(struct vfu_device *dev)
{
	if (model_of(dev)->admin == NULL)
		return;
	vdpa_event_del(&model_of(dev)->admin->kick);
	vdpa_work_cancel(&model_of(dev)->admin->work);
}

void
model_admin_fini(struct vfu_device *dev)
{
	if (model_of(dev)->admin == NULL)
		return;
	model_admin_quiesce(dev);
	vdpa_vq_free(model_of(dev)->admin->vq);
	free(model_of(dev)->admin);
	model_of(dev)->admin = NULL;
}

struct change {
	struct vfu_device *dev;
	unsigned int number; /* 0: none any more */
};

static int
change_member(void *arg)
{
	const struct change *c = arg;

	if (c->number != 0 && members[c->number] != NULL)
		return vdpa_error(EEXIST, "member %u: is %s", c->number,
				  members[c->number]->vdev->name);
	if (c->number != 0)
		members[c->number] = c->dev;
	for (unsigned int i = 1; c->number == 0 && i <= MODEL_MEMBERS_MAX; i++)
		if (members[i] == c->dev)
			members[i] = NULL;
	return 0;
}

int
model_member_add(struct vfu_device *dev, unsigned int number)
{
	struct change c = {dev, number};

	return model_call(change_member, &c);
}

void
model_member_remove(struct vfu_device *dev)
{
	struct change c = {dev, 0};

	(void)model_call(change_member, &c);
}
