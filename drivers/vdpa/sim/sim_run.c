/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The simulator's execution: which virtqueues of a device run, how its worker polls them, sleeps
 * and is kicked awake, and how they come to a standstill. All of it is on the worker but
 * sim_drain().
 */

#include <sys/epoll.h>
#include <time.h>

#include <rte_cycles.h>

#include "sim_priv.h"

#define S_DRIVER_OK 0x04
#define S_FAILED    0x80

struct vdpa_event_loop *
sim_loop(const struct sim_device *dev)
{
	return sim_worker_loop(dev->worker);
}

int
sim_call(struct sim_device *dev, int (*fn)(void *arg), void *arg)
{
	return vdpa_event_loop_call(sim_loop(dev), fn, arg);
}

void
sim_wake(struct sim_device *dev)
{
	vdpa_poller_wake(&dev->poller);
}

int
sim_on_worker(int (*fn)(void *arg), struct sim_work w)
{
	return sim_call(w.dev, fn, &w);
}

static void
running_add(struct sim_queue *q)
{
	struct sim_device *dev = q->dev;

	dev->running[dev->nrunning++] = q->idx;
	q->running = true;
	/* Whatever was made available before its kick could be seen. */
	vdpa_vq_disable_kicks(q->vq);
	if (dev->class->vq_start != NULL)
		dev->class->vq_start(q);
	sim_wake(dev);
}

static void
running_del(struct sim_queue *q)
{
	struct sim_device *dev = q->dev;
	uint16_t i = 0;

	while (dev->running[i] != q->idx)
		i++;
	memmove(&dev->running[i], &dev->running[i + 1],
		(size_t)(dev->nrunning - i - 1) * sizeof(dev->running[0]));
	dev->nrunning--;
	q->running = false;
	if (dev->class->vq_stop != NULL)
		dev->class->vq_stop(q);
}

static bool
device_may_run(const struct sim_device *dev)
{
	return (dev->status & (S_DRIVER_OK | S_FAILED)) == S_DRIVER_OK && !dev->suspended;
}

void
sim_queue_update(struct sim_queue *q)
{
	bool run =
		q->ready && q->enabled && !q->failed && !q->dev->paused && device_may_run(q->dev);

	if (run && !q->running)
		running_add(q);
	else if (!run && q->running)
		running_del(q);
}

void
sim_device_update(struct sim_device *dev)
{
	bool run = device_may_run(dev);

	if (run && !dev->started) {
		dev->started = true;
		vdpa_poller_add(sim_loop(dev), &dev->poller);
		if (dev->class->start != NULL)
			dev->class->start(dev);
	}
	for (uint16_t i = 0; i < dev->nvqs; i++)
		sim_queue_update(&dev->vqs[i]);
	if (!run && dev->started) {
		if (dev->class->stop != NULL)
			dev->class->stop(dev);
		vdpa_poller_del(&dev->poller);
		dev->started = false;
	}
}

void
sim_queue_fail(struct sim_queue *q, int err)
{
	const char *reason = vdpa_vq_error(q->vq);

	if (q->failed)
		return;
	q->failed = true;
	sim_queue_update(q);
	vdpa_device_fail(&q->dev->vdev, q->idx, err, "%s",
			 reason[0] != '\0' ? reason : "the request cannot be executed");
}

static unsigned int
sim_poll(struct vdpa_poller *poller)
{
	struct sim_device *dev = poller->arg;
	const struct sim_class *class = dev->class;
	uint64_t start = rte_rdtsc();
	unsigned int work_done = 0;

	if (unlikely(dev->armed)) {
		dev->armed = false;
		for (uint16_t i = 0; i < dev->nrunning; i++) {
			struct sim_queue *q = &dev->vqs[dev->running[i]];

			if (!q->own_kicks)
				vdpa_vq_disable_kicks(q->vq);
		}
	}
	for (uint16_t i = 0; i < dev->nrunning;) {
		struct sim_queue *q = &dev->vqs[dev->running[i]];

		work_done += class->process(q, SIM_BUDGET);
		/* An error has taken it out of the list: the next one stands here now. */
		if (likely(i < dev->nrunning && dev->running[i] == q->idx))
			i++;
	}
	if (class->poll != NULL)
		work_done += class->poll(dev, SIM_BUDGET);
	if (work_done != 0)
		sim_count(&dev->busy_cycles, rte_rdtsc() - start);
	return work_done;
}

static bool
sim_sleep(struct vdpa_poller *poller)
{
	struct sim_device *dev = poller->arg;
	const struct sim_class *class = dev->class;
	bool busy = false;

	dev->armed = true;
	for (uint16_t i = 0; i < dev->nrunning && !busy; i++) {
		struct sim_queue *q = &dev->vqs[dev->running[i]];

		busy = class->arm != NULL ? class->arm(q) : vdpa_vq_enable_kicks(q->vq);
	}
	if (!busy && class->arm_device != NULL)
		busy = class->arm_device(dev);
	return !busy;
}

static void
queue_kicked(struct sim_queue *q)
{
	sim_count(&q->kicks, 1);
	sim_wake(q->dev);
	if (q->running && q->dev->class->kicked != NULL)
		q->dev->class->kicked(q);
}

/*
 * The eventfd is not read: edge-triggered, every write of the driver's is an event, a read would be
 * a system call more for each, and one that blocks when a front end takes the count away first.
 */
static void
kick_event(struct vdpa_event *ev, uint32_t revents)
{
	struct sim_queue *q = ev->arg;

	if (revents & EPOLLIN) {
		queue_kicked(q);
		return;
	}
	if (revents & (EPOLLERR | EPOLLHUP))
		vdpa_event_del(ev);
}

int
sim_queue_listen(struct sim_queue *q, int fd)
{
	vdpa_event_del(&q->kick);
	if (fd < 0)
		return 0;
	q->kick = (struct vdpa_event){
		.fd = fd, .events = EPOLLIN | EPOLLET, .handler = kick_event, .arg = q};
	return vdpa_event_add(sim_loop(q->dev), &q->kick);
}

static void
kick_task(struct vdpa_task *task)
{
	struct sim_device *dev = task->arg;

	/* Which queue it was for does not matter: all are looked at. */
	for (uint16_t i = 0; i < dev->nrunning; i++) {
		struct sim_queue *q = &dev->vqs[dev->running[i]];

		if (dev->class->kicked != NULL)
			dev->class->kicked(q);
	}
	sim_wake(dev);
}

void
sim_run_init(struct sim_device *dev)
{
	dev->poller = (struct vdpa_poller){.poll = sim_poll, .sleep = sim_sleep, .arg = dev};
	dev->kick_task = (struct vdpa_task){.run = kick_task, .arg = dev};
}

unsigned int
sim_outstanding(struct sim_device *dev, const struct sim_queue *only)
{
	unsigned int n = 0;

	for (uint16_t i = 0; i < dev->nvqs; i++)
		if (only == NULL || only == &dev->vqs[i])
			n += dev->class->outstanding(&dev->vqs[i]);
	return n;
}

static int
work_outstanding(void *arg)
{
	struct sim_work *w = arg;

	return (int)sim_outstanding(w->dev, w->q);
}

int
sim_drain(struct sim_device *dev, struct sim_queue *q)
{
	struct timespec nap = {.tv_nsec = 50000};
	uint64_t waited = 0;

	if (dev->class->outstanding == NULL)
		return 0;
	while (sim_on_worker(work_outstanding, (struct sim_work){.dev = dev, .q = q}) > 0) {
		if (waited > (uint64_t)dev->drain_timeout_ms * 1000000)
			return vdpa_error(ETIMEDOUT, "requests do not end within %u ms",
					  dev->drain_timeout_ms);
		nanosleep(&nap, NULL);
		waited += (uint64_t)nap.tv_nsec;
		nap.tv_nsec = RTE_MIN(nap.tv_nsec * 2, 1000000L);
	}
	return 0;
}
