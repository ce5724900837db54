/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The simulator's execution: which virtqueues of a device run, how its worker polls them, sleeps
 * and is kicked awake, and how they come to a standstill. All of it is on the worker but
 * sim_standstill() and sim_queue_listen().
 */

#include <sys/epoll.h>
#include <time.h>

#include <rte_cycles.h>

#include "sim_priv.h"

static struct vdpa_event_loop *
lane_loop(const struct sim_lane *lane)
{
	return vdpa_worker_loop(lane->worker);
}

struct vdpa_event_loop *
sim_loop(const struct sim_device *dev)
{
	return lane_loop(&dev->lanes[0]);
}

int
sim_call(struct sim_device *dev, int (*fn)(void *arg), void *arg)
{
	struct vdpa_event_loop *loops[SIM_LANES_MAX];

	for (uint16_t i = 0; i < dev->n_lanes; i++)
		loops[i] = lane_loop(&dev->lanes[i]);
	return vdpa_event_loop_call_all(loops, dev->n_lanes, fn, arg);
}

void
sim_wake(struct sim_device *dev)
{
	for (uint16_t i = 0; i < dev->n_lanes; i++)
		vdpa_poller_wake(&dev->lanes[i].poller);
}

int
sim_on_worker(int (*fn)(void *arg), struct sim_work w)
{
	return w.dev->live ? sim_call(w.dev, fn, &w) : fn(&w);
}

unsigned int
sim_outstanding(struct sim_device *dev, struct sim_queue *only)
{
	unsigned int n = 0;

	if (dev->class->outstanding == NULL)
		return 0;
	if (only != NULL)
		return dev->class->outstanding(only);
	for (uint16_t i = 0; i < dev->nvqs; i++)
		n += dev->class->outstanding(&dev->vqs[i]);
	return n;
}

static void
queue_run(struct sim_queue *q)
{
	struct sim_device *dev = q->dev;
	struct sim_lane *lane = q->lane;

	if (!q->listed)
		lane->list[lane->nlisted++] = q->idx;
	q->listed = true;
	q->running = true;
	/* Whatever was made available before its kick could be seen. */
	vdpa_vq_disable_kicks(q->vq);
	if (dev->class->vq_start != NULL)
		dev->class->vq_start(q);
	vdpa_poller_wake(&lane->poller);
}

static void
unlist(struct sim_queue *q)
{
	struct sim_lane *lane = q->lane;
	uint16_t i = 0;

	while (lane->list[i] != q->idx)
		i++;
	memmove(&lane->list[i], &lane->list[i + 1],
		(size_t)(lane->nlisted - i - 1) * sizeof(lane->list[0]));
	lane->nlisted--;
	if (i < lane->next)
		lane->next--;
	q->listed = false;
}

static bool
under_way(struct sim_queue *q)
{
	return sim_outstanding(q->dev, q) > 0;
}

static void
queue_halt(struct sim_queue *q)
{
	q->running = false;
	if (q->dev->class->vq_stop != NULL)
		q->dev->class->vq_stop(q);
	if (!under_way(q))
		unlist(q);
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
		queue_run(q);
	else if (!run && q->running)
		queue_halt(q);
}

void
sim_lane_settle(struct sim_lane *lane)
{
	for (uint16_t i = lane->nlisted; i > 0; i--) {
		struct sim_queue *q = &lane->dev->vqs[lane->list[i - 1]];

		if (!q->running && !under_way(q))
			unlist(q);
	}
	if (!lane->dev->started && lane->nlisted == 0)
		vdpa_poller_del(&lane->poller);
}

void
sim_device_settle(struct sim_device *dev)
{
	for (uint16_t i = 0; i < dev->n_lanes; i++)
		sim_lane_settle(&dev->lanes[i]);
}

static void
lane_start(struct sim_lane *lane)
{
	lane->turn.cycles = rte_get_tsc_hz() / 1000000 * SIM_TURN_US;
	if (lane->poller.loop == NULL)
		vdpa_poller_add(lane_loop(lane), &lane->poller);
}

void
sim_device_update(struct sim_device *dev)
{
	bool run = device_may_run(dev);

	if (run && !dev->started) {
		dev->started = true;
		for (uint16_t i = 0; i < dev->n_lanes; i++)
			lane_start(&dev->lanes[i]);
		if (dev->class->start != NULL)
			dev->class->start(dev);
	}
	for (uint16_t i = 0; i < dev->nvqs; i++)
		sim_queue_update(&dev->vqs[i]);
	if (!run && dev->started) {
		if (dev->class->stop != NULL)
			dev->class->stop(dev);
		dev->started = false;
		sim_device_settle(dev);
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

/* Kicks that were asked for before sleeping are no longer needed. */
static void
disarm(struct sim_lane *lane)
{
	lane->armed = false;
	for (uint16_t i = 0; i < lane->nlisted; i++) {
		struct sim_queue *q = &lane->dev->vqs[lane->list[i]];

		if (q->running && !q->own_kicks)
			vdpa_vq_disable_kicks(q->vq);
	}
}

static unsigned int
process(struct sim_queue *q)
{
	const struct sim_class *class = q->dev->class;
	unsigned int n;

	if (likely(q->running)) {
		n = class->process(q, SIM_BUDGET);
	} else {
		n = class->process(q, 0);
		sim_lane_settle(q->lane);
	}
	/* An error or its end has taken it out of the list: the next one stands here now. */
	if (likely(q->listed))
		q->lane->next++;
	return n;
}

/*
 * A turn: each virtqueue of the list once, and, in the first lane, the class's own work, from where
 * the last turn was cut.
 */
static unsigned int
sim_poll(struct vdpa_poller *poller)
{
	struct sim_lane *lane = poller->arg;
	struct sim_device *dev = lane->dev;
	bool polled = dev->class->poll != NULL && lane == &dev->lanes[0];
	uint64_t start = rte_rdtsc();
	unsigned int work_done = 0, n;

	if (unlikely(lane->armed))
		disarm(lane);
	sim_turn_begin(&lane->turn, start);
	for (unsigned int left = lane->nlisted + 1u; left > 0; left--) {
		if (lane->next < lane->nlisted) {
			n = process(&dev->vqs[lane->list[lane->next]]);
		} else {
			lane->next = 0;
			n = polled && dev->started ? dev->class->poll(dev, SIM_BUDGET) : 0;
		}
		work_done += n;
		if (unlikely(!sim_turn_left(&lane->turn))) {
			/* Whatever was done: there may be more, also where nobody has looked. */
			sim_count(&lane->turn.cut, 1);
			work_done++;
			break;
		}
	}
	poller->gives_way = sim_turn_gives_way(&lane->turn);
	if (work_done != 0)
		sim_count(&lane->busy_cycles, rte_rdtsc() - start);
	return work_done;
}

static bool
sim_sleep(struct vdpa_poller *poller)
{
	struct sim_lane *lane = poller->arg;
	struct sim_device *dev = lane->dev;
	const struct sim_class *class = dev->class;
	bool busy = false;

	lane->armed = true;
	for (uint16_t i = 0; i < lane->nlisted && !busy; i++) {
		struct sim_queue *q = &dev->vqs[lane->list[i]];

		/* Of a stopped one a completion comes next, not a kick. */
		if (q->running)
			busy = class->arm != NULL ? class->arm(q) : vdpa_vq_enable_kicks(q->vq);
	}
	if (!busy && class->arm_device != NULL && lane == &dev->lanes[0])
		busy = class->arm_device(dev);
	return !busy;
}

static void
queue_kicked(struct sim_queue *q)
{
	sim_count(&q->kicks, 1);
	vdpa_poller_wake(&q->lane->poller);
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
	return vdpa_event_add(lane_loop(q->lane), &q->kick);
}

static void
kick_task(struct vdpa_task *task)
{
	struct sim_lane *lane = task->arg;
	struct sim_device *dev = lane->dev;

	/* Which queue it was for does not matter: all are looked at. */
	for (uint16_t i = 0; i < lane->nlisted; i++) {
		struct sim_queue *q = &dev->vqs[lane->list[i]];

		if (q->running && dev->class->kicked != NULL)
			dev->class->kicked(q);
	}
	vdpa_poller_wake(&lane->poller);
}

static void
lane_kick(struct sim_lane *lane)
{
	vdpa_task_post(lane_loop(lane), &lane->kick_task);
}

void
sim_queue_kick(struct sim_queue *q)
{
	__atomic_add_fetch(&q->sw_kicks, 1, __ATOMIC_RELAXED);
	lane_kick(q->lane);
}

void
sim_lane_init(struct sim_device *dev, struct sim_lane *lane)
{
	lane->dev = dev;
	lane->poller = (struct vdpa_poller){.poll = sim_poll, .sleep = sim_sleep, .arg = lane};
	lane->kick_task = (struct vdpa_task){.run = kick_task, .arg = lane};
}

static int
work_standstill(void *arg)
{
	struct sim_work *w = arg;
	unsigned int n;

	w->stop(w);
	n = sim_outstanding(w->dev, w->q);
	if (n > 0)
		return (int)n;
	return w->then != NULL ? w->then(w) : 0;
}

/* Wait until nothing of q (NULL: of any virtqueue) is under way. */
static int
drain(struct sim_device *dev, struct sim_queue *q)
{
	struct timespec nap = {.tv_nsec = 50000};
	uint64_t waited = 0;

	while (sim_outstanding(dev, q) > 0) {
		if (waited > (uint64_t)dev->drain_timeout_ms * 1000000)
			return vdpa_error(ETIMEDOUT, "requests do not end within %u ms",
					  dev->drain_timeout_ms);
		/* The class looks at what does not end, while somebody waits for it. */
		for (uint16_t i = 0; i < dev->n_lanes; i++)
			lane_kick(&dev->lanes[i]);
		nanosleep(&nap, NULL);
		waited += (uint64_t)nap.tv_nsec;
		nap.tv_nsec = RTE_MIN(nap.tv_nsec * 2, 1000000L);
	}
	return 0;
}

int
sim_standstill(struct sim_work w)
{
	int rc = sim_on_worker(work_standstill, w);

	if (rc <= 0)
		return rc;
	rc = drain(w.dev, w.q);
	return rc == 0 && w.then != NULL ? sim_on_worker(w.then, w) : rc;
}
