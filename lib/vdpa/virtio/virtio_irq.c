/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Interrupts: which vector of the function serves which queue, and what it signals.
 *
 * The ladder. Vector 0 tells of the configuration; the queues share the n - 1 others, queue i has
 * number 1 + i mod (n - 1). With as many as there are queues each has its own, and the guest's call
 * eventfd goes straight to the function: no interrupt wakes us. A vector of several queues signals
 * an eventfd of ours, and the control loop passes the signal on to each of them (an interrupt too
 * many is harmless, virtio 1.2, 2.7.7). One vector serves all and the configuration; without any,
 * the INTx line does, and the ISR status says which of the two it was. Each rung is taken only when
 * the system and the device grant all of it.
 *
 * From one start of a binding to the next the vectors are parked: on, but without an eventfd.
 *
 * A function whose interrupts have to be taken back (struct vdpa_virtio_kind) has every vector
 * relayed, and only the queues that it says are signalled.
 *
 * Handlers of our own eventfds run on the control loop and pass a signal on. What reads registers
 * may have to wait for the answer, and the device decides when it is called: that is left to a job
 * on a work queue which the device's interrupts have for themselves, so that a slow device delays
 * neither a kick nor an interrupt of another, nor its own interrupts a request of its front end.
 * Handlers and jobs take irq.lock and never the device's lock.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <rte_common.h>

#include "vdpa_log.h"
#include "virtio_priv.h"

/* By how much the number of vectors falls with each rung that is not granted. */
#define RUNG_FACTOR 2

uint16_t
virtio_irq_vector(const struct virtio_device *dev, uint16_t idx)
{
	if (dev->irq.n == 0)
		return VDPA_VIRTIO_NO_VECTOR;
	return dev->irq.n == 1 ? 0 : (uint16_t)(1 + idx % (dev->irq.n - 1));
}

/* Whether a vector's signal is passed on by us. */
static bool
is_relayed(const struct virtio_device *dev, unsigned int vector)
{
	return dev->irq.vectors[vector].ev.fd >= 0;
}

/* By one handler, or by one job of the device, at a time. */
static void
signal_queues(struct virtio_device *dev, unsigned int vector)
{
	bool (*take)(struct vdpa_virtio_device *, uint16_t) = dev->pub->kind->take_interrupt;
	struct virtio_irq *irq = &dev->irq;
	bool raised[VDPA_VQ_MAX];

	virtio_count(&irq->relayed);
	/* Also of a queue that nobody listens to: a flag that stays may be the last interrupt. And
	 * without the lock: the function decides when it answers. */
	for (uint16_t i = 0; i < dev->nvqs; i++)
		raised[i] = (irq->n <= 1 || virtio_irq_vector(dev, i) == vector) &&
			    (take == NULL || take(dev->pub, i));
	pthread_mutex_lock(&irq->lock);
	for (uint16_t i = 0; i < dev->nvqs; i++)
		if (raised[i] && dev->vqs[i].call_fd >= 0) {
			virtio_count(&dev->vqs[i].interrupts);
			vdpa_eventfd_signal(dev->vqs[i].call_fd);
		}
	pthread_mutex_unlock(&irq->lock);
}

/* The configuration has changed, or the device gives up, which it tells in the same way. */
static void
config_changed(struct virtio_device *dev)
{
	uint8_t status = vdpa_virtio_pci_get_status(&dev->hw);

	if (status == VIRTIO_STATUS_GONE && !vdpa_pci_present(dev->hw.pci)) {
		vdpa_device_gone(dev->vdev, vdpa_pci_error(dev->hw.pci), "%s",
				 vdpa_pci_error_text(dev->hw.pci));
		return;
	}
	if ((status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0) {
		vdpa_device_fail(dev->vdev, -1, EIO, VIRTIO_NEEDS_RESET_TEXT);
		return;
	}
	pthread_mutex_lock(&dev->irq.lock);
	if (dev->irq.config_fd >= 0)
		vdpa_eventfd_signal(dev->irq.config_fd);
	pthread_mutex_unlock(&dev->irq.lock);
}

static void
config_job(struct vdpa_work *work)
{
	struct virtio_vector *vector = work->arg;

	config_changed(vector->dev);
}

static void
on_config_vector(struct vdpa_event *ev, uint32_t revents)
{
	struct virtio_vector *vector = ev->arg;

	if (vdpa_eventfd_take(ev->fd))
		vdpa_work_post(&vector->dev->irq.jobs, &vector->work);
}

static void
on_shared_vector(struct vdpa_event *ev, uint32_t revents)
{
	struct virtio_vector *vector = ev->arg;
	struct virtio_device *dev = vector->dev;

	if (vdpa_eventfd_take(ev->fd))
		signal_queues(dev, (unsigned int)(vector - dev->irq.vectors));
}

/* The same where that reads registers. */
static void
taken_vector_job(struct vdpa_work *work)
{
	struct virtio_vector *vector = work->arg;
	struct virtio_device *dev = vector->dev;

	signal_queues(dev, (unsigned int)(vector - dev->irq.vectors));
}

static void
on_taken_vector(struct vdpa_event *ev, uint32_t revents)
{
	struct virtio_vector *vector = ev->arg;

	if (vdpa_eventfd_take(ev->fd))
		vdpa_work_post(&vector->dev->irq.jobs, &vector->work);
}

/* One vector for all: only the generation and the status tell about the configuration. */
static void
only_vector_job(struct vdpa_work *work)
{
	struct virtio_vector *vector = work->arg;
	struct virtio_device *dev = vector->dev;
	uint8_t generation = virtio_pci_get_generation(&dev->hw);

	if (dev->pub->kind->take_interrupt != NULL)
		signal_queues(dev, 0);
	if (generation != dev->irq.generation ||
	    (vdpa_virtio_pci_get_status(&dev->hw) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0) {
		dev->irq.generation = generation;
		config_changed(dev);
	}
}

static void
on_only_vector(struct vdpa_event *ev, uint32_t revents)
{
	struct virtio_vector *vector = ev->arg;

	if (!vdpa_eventfd_take(ev->fd))
		return;
	if (vector->dev->pub->kind->take_interrupt == NULL)
		signal_queues(vector->dev, 0);
	vdpa_work_post(&vector->dev->irq.jobs, &vector->work);
}

static void
line_job(struct vdpa_work *work)
{
	struct virtio_vector *vector = work->arg;
	struct virtio_device *dev = vector->dev;
	uint8_t isr = virtio_pci_isr(&dev->hw);
	int rc;

	if ((isr & VIRTIO_ISR_QUEUE) != 0)
		signal_queues(dev, 0);
	if ((isr & VIRTIO_ISR_CONFIG) != 0)
		config_changed(dev);
	rc = vdpa_pci_intx_unmask(dev->hw.pci);
	/* A reset of the function has turned it off meanwhile. */
	if (rc < 0 && rc != -EINVAL)
		vdpa_device_fail(dev->vdev, -1, rc, "the interrupt line is not unmasked: %s",
				 strerror(-rc));
}

static void
on_line(struct vdpa_event *ev, uint32_t revents)
{
	struct virtio_vector *vector = ev->arg;

	if (vdpa_eventfd_take(ev->fd))
		vdpa_work_post(&vector->dev->irq.jobs, &vector->work);
}

static int
add_event(struct virtio_device *dev, unsigned int vector,
	  void (*handler)(struct vdpa_event *ev, uint32_t revents),
	  void (*job)(struct vdpa_work *work))
{
	struct virtio_vector *v = &dev->irq.vectors[vector];
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), rc;

	if (fd < 0)
		return vdpa_error(errno, "%s: eventfd: %s", dev->vdev->name, strerror(errno));
	v->ev = (struct vdpa_event){.fd = fd, .events = EPOLLIN, .handler = handler, .arg = v};
	v->work = (struct vdpa_work){.run = job, .arg = v};
	rc = vdpa_event_add(vdpa_event_loop_control(), &v->ev);
	if (rc < 0) {
		v->ev.fd = -1;
		close(fd);
		return vdpa_error(rc, "%s: event loop: %s", dev->vdev->name, strerror(-rc));
	}
	return 0;
}

void
virtio_irq_end_handlers(struct virtio_device *dev)
{
	struct virtio_irq *irq = &dev->irq;

	for (unsigned int i = 0; irq->vectors != NULL && i < RTE_MAX(irq->n, 1u); i++) {
		vdpa_event_del(&irq->vectors[i].ev);
		vdpa_work_cancel(&irq->vectors[i].work);
	}
}

void
virtio_irq_signal_own(struct virtio_device *dev)
{
	const struct virtio_irq *irq = &dev->irq;

	for (unsigned int i = 0; irq->vectors != NULL && i < irq->n; i++)
		if (is_relayed(dev, i))
			vdpa_eventfd_signal(irq->vectors[i].ev.fd);
}

/* Nothing is signalled any more when this returns. park: the next start may have the vectors. */
static void
release_vectors(struct virtio_device *dev, bool park)
{
	struct virtio_irq *irq = &dev->irq;
	unsigned int n = RTE_MAX(irq->n, 1u);

	if (irq->vectors == NULL)
		return;
	/* Handlers first: they expect what they serve to be on. */
	virtio_irq_end_handlers(dev);
	if (irq->n > 0 && park)
		vdpa_pci_msix_park(dev->hw.pci);
	else if (irq->n > 0)
		vdpa_pci_msix_disable(dev->hw.pci);
	else if (irq->on)
		vdpa_pci_intx_set(dev->hw.pci, -1);
	for (unsigned int i = 0; i < n; i++)
		if (irq->vectors[i].ev.fd >= 0)
			close(irq->vectors[i].ev.fd);
	free(irq->vectors);
	irq->vectors = NULL;
	__atomic_store_n(&irq->n, 0, __ATOMIC_RELAXED);
	irq->on = false;
}

static int
alloc_vectors(struct virtio_device *dev, unsigned int n)
{
	struct virtio_irq *irq = &dev->irq;

	irq->vectors = calloc(RTE_MAX(n, 1u), sizeof(irq->vectors[0]));
	if (irq->vectors == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", dev->vdev->name);
	for (unsigned int i = 0; i < RTE_MAX(n, 1u); i++) {
		irq->vectors[i].dev = dev;
		irq->vectors[i].ev.fd = -1;
	}
	__atomic_store_n(&irq->n, n, __ATOMIC_RELAXED);
	return 0;
}

/* Ask the device for all of them now, when another rung can still be taken. */
static int
program_vectors(struct virtio_device *dev)
{
	int rc = virtio_pci_config_vector(&dev->hw, 0);

	for (uint16_t i = 0; rc == 0 && i < virtio_device_queues(dev); i++)
		rc = virtio_pci_vq_vector(&dev->hw, i, virtio_irq_vector(dev, i));
	return rc;
}

/* A rung of n vectors; with less than all it needs it is not taken. */
static int
try_vectors(struct virtio_device *dev, unsigned int n)
{
	struct virtio_irq *irq = &dev->irq;
	int rc;

	rc = vdpa_pci_msix_enable(dev->hw.pci, n);
	if (rc < 0)
		return rc;
	rc = alloc_vectors(dev, n);
	if (rc < 0) {
		vdpa_pci_msix_disable(dev->hw.pci);
		return rc;
	}
	rc = program_vectors(dev);
	if (rc == 0)
		rc = n == 1 ? add_event(dev, 0, on_only_vector, only_vector_job)
			    : add_event(dev, 0, on_config_vector, config_job);
	/* Vector v serves the queues v - 1, v - 1 + (n - 1), ... */
	for (unsigned int v = 1; rc == 0 && v < n; v++) {
		if (dev->pub->kind->take_interrupt != NULL)
			rc = add_event(dev, v, on_taken_vector, taken_vector_job);
		else if (v - 1 + (n - 1) < virtio_device_queues(dev))
			rc = add_event(dev, v, on_shared_vector, NULL);
	}
	for (unsigned int v = 0; rc == 0 && v < n && is_relayed(dev, v); v++)
		rc = vdpa_pci_msix_set(dev->hw.pci, v, irq->vectors[v].ev.fd);
	if (rc < 0)
		release_vectors(dev, false);
	return rc;
}

static int
try_line(struct virtio_device *dev)
{
	int rc = alloc_vectors(dev, 0);

	if (rc == 0)
		rc = add_event(dev, 0, on_line, line_job);
	if (rc == 0) {
		rc = vdpa_pci_intx_set(dev->hw.pci, dev->irq.vectors[0].ev.fd);
		if (rc == -EOPNOTSUPP)
			rc = vdpa_error(ENOSPC,
					"%s: %s: has neither vectors enough nor an interrupt line",
					dev->vdev->name, vdpa_pci_name(dev->hw.pci));
	}
	if (rc < 0)
		release_vectors(dev, false);
	return rc;
}

/* That interrupts wake this process is worth a line, but not with each start. */
static void
tell_rung(struct virtio_device *dev, unsigned int all)
{
	struct virtio_irq *irq = &dev->irq;

	if (irq->logged && irq->n_logged == irq->n)
		return;
	irq->logged = true;
	irq->n_logged = irq->n;
	if (irq->n > 0 && dev->pub->kind->take_interrupt != NULL)
		VDPA_LOG(INFO, "%s: %u MSI-X vectors: all interrupts go by way of this process",
			 dev->vdev->name, irq->n);
	else if (irq->n == 0)
		VDPA_LOG(NOTICE,
			 "%s: no MSI-X vectors: the interrupt line serves all queues, by way of "
			 "this process",
			 dev->vdev->name);
	else if (irq->n < all)
		VDPA_LOG(NOTICE,
			 "%s: %u of %u MSI-X vectors: interrupts of queues that share one go by "
			 "way of this process",
			 dev->vdev->name, irq->n, all);
}

int
virtio_irq_setup(struct virtio_device *dev)
{
	struct virtio_irq *irq = &dev->irq;
	unsigned int all = virtio_device_queues(dev) + 1u, n;
	int rc = -ENOSPC;

	n = RTE_MIN(vdpa_pci_nr_vectors(dev->hw.pci), irq->limit);
	n = RTE_MIN(n, all);
	if (dev->pub->kind->max_vectors > 0)
		n = RTE_MIN(n, dev->pub->kind->max_vectors);
	/* Those that are on, and no others. */
	if (dev->hw.adopts) {
		n = vdpa_pci_left_vectors(dev->hw.pci);
		rc = n <= all ? try_vectors(dev, n)
			      : vdpa_error(EPROTO, "it has %u vectors for %u", n, all);
		if (rc == -ENOSPC)
			rc = -EPROTO;
	}
	for (; n > 0 && rc == -ENOSPC; n /= RUNG_FACTOR) {
		rc = try_vectors(dev, n);
		if (rc == 0)
			break;
		if (rc == -ENOSPC)
			VDPA_LOG(INFO, "%s: %u vectors are not to be had: %s", dev->vdev->name, n,
				 vdpa_error_message());
	}
	if (rc == -ENOSPC)
		rc = try_line(dev);
	if (rc < 0)
		return rc;
	irq->on = true;
	irq->generation = virtio_pci_get_generation(&dev->hw);
	tell_rung(dev, all);
	return 0;
}

void
virtio_irq_teardown(struct virtio_device *dev, bool park)
{
	struct virtio_irq *irq = &dev->irq;

	release_vectors(dev, park);
	pthread_mutex_lock(&irq->lock);
	irq->config_fd = -1;
	for (uint16_t i = 0; i < dev->nvqs; i++)
		dev->vqs[i].call_fd = -1;
	pthread_mutex_unlock(&irq->lock);
}

void
virtio_irq_release(struct virtio_device *dev)
{
	vdpa_pci_msix_disable(dev->hw.pci);
}

int
virtio_irq_set_call(struct virtio_device *dev, uint16_t idx, int fd)
{
	struct virtio_queue *q = &dev->vqs[idx];
	unsigned int vector = virtio_irq_vector(dev, idx);
	int rc;

	/* One that is not there has no vector to take from another; it will not be enabled. */
	if (idx >= virtio_device_queues(dev))
		return 0;
	/* The function first: the old one is closed once this returns without an error. */
	if (dev->irq.n > 0 && !is_relayed(dev, vector)) {
		if (fd >= 0)
			__atomic_store_n(&q->direct, true, __ATOMIC_RELAXED);
		rc = vdpa_pci_msix_set(dev->hw.pci, vector, fd);
		if (rc < 0)
			return rc;
	}
	pthread_mutex_lock(&dev->irq.lock);
	q->call_fd = fd;
	pthread_mutex_unlock(&dev->irq.lock);
	if (q->ran && q->ready) {
		virtio_count(&q->call_swaps);
		/* One that came in between reached neither. */
		if (fd >= 0)
			vdpa_eventfd_signal(fd);
	}
	return 0;
}

void
virtio_irq_set_config(struct virtio_device *dev, int fd)
{
	pthread_mutex_lock(&dev->irq.lock);
	dev->irq.config_fd = fd;
	pthread_mutex_unlock(&dev->irq.lock);
}

void
virtio_irq_init(struct virtio_device *dev)
{
	dev->irq.config_fd = -1;
	vdpa_work_queue_init(&dev->irq.jobs);
	/* With default attributes it cannot fail. */
	(void)pthread_mutex_init(&dev->irq.lock, NULL);
	dev->irq.there = true;
}

void
virtio_irq_free(struct virtio_device *dev)
{
	if (!dev->irq.there)
		return;
	release_vectors(dev, false);
	virtio_irq_release(dev);
	pthread_mutex_destroy(&dev->irq.lock);
}
