/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The fence (fence.h). Owns the descriptors of functions that are being fenced, and their threads.
 *
 * A job belongs to the thread that runs the fence and to its own thread; the one that lets go of it
 * last frees it. Its step and outcome are written by its own thread.
 */

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/queue.h>
#include <time.h>
#include <unistd.h>

#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "clock.h"
#include "fence.h"
#include "vdpa_keep.h"

#define STACK_SIZE     ((size_t)256 << 10)
/* The kernel refuses a reset while somebody else uses the function's lock. */
#define RESET_TRIES    5
#define RESET_PAUSE_MS 10

struct job {
	TAILQ_ENTRY(job) next;
	char name[VDPA_KEEP_NAME_MAX + 1];
	int fd;
	enum fence_step step; /* atomic */
	struct fence_outcome outcome;
	int64_t begun_us;
	bool reported;
	bool shared; /* both threads have it; under the lock */
};

TAILQ_HEAD(jobs, job);

struct fence {
	struct jobs waiting, running;
	unsigned int n; /* running */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t progress = PTHREAD_COND_INITIALIZER; /* a job ends, or is closed */

/* One function. */

bool
fence_may_be_function(int fd)
{
	/* By a group, and by a character device. Files have names that begin with a slash, so none
	 * is called like the first one; the second is what another file system may have. */
	static const char *const titles[] = {"anon_inode:[vfio-device]", "/dev/vfio/devices/"};
	char path[sizeof("/proc/self/fd/2147483647")], title[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, title, sizeof(title) - 1);
	title[n > 0 ? n : 0] = '\0';
	for (unsigned int i = 0; i < sizeof(titles) / sizeof(titles[0]); i++)
		if (strncmp(title, titles[i], strlen(titles[i])) == 0)
			return true;
	return false;
}

static void
set_step(enum fence_step *step, enum fence_step to)
{
	__atomic_store_n(step, to, __ATOMIC_RELEASE);
}

/* Whether fd is a PCI function whose configuration space can be read and written. */
static bool
ask(int fd, bool *can_reset, uint64_t *config)
{
	struct vfio_device_info device = {.argsz = sizeof(device)};
	struct vfio_region_info region = {
		.argsz = sizeof(region),
		.index = VFIO_PCI_CONFIG_REGION_INDEX,
	};
	const uint32_t rw = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;

	if (ioctl(fd, VFIO_DEVICE_GET_INFO, &device) < 0 ||
	    (device.flags & VFIO_DEVICE_FLAGS_PCI) == 0 ||
	    device.num_regions <= VFIO_PCI_CONFIG_REGION_INDEX)
		return false;
	if (ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &region) < 0 || (region.flags & rw) != rw ||
	    region.size < PCI_COMMAND + sizeof(uint16_t))
		return false;
	*can_reset = (device.flags & VFIO_DEVICE_FLAGS_RESET) != 0;
	*config = region.offset;
	return true;
}

static int
read_command(int fd, uint64_t config, uint16_t *command)
{
	uint16_t le;
	ssize_t n = pread64(fd, &le, sizeof(le), (off64_t)(config + PCI_COMMAND));

	if (n != sizeof(le))
		return n < 0 ? -errno : -EIO;
	*command = le16toh(le);
	return 0;
}

/* Clear bus master where it is on; *command: what the register reads afterwards. All ones: the
 * function has left the bus. */
static int
stop(int fd, uint64_t config, uint16_t *command)
{
	int rc = read_command(fd, config, command);
	uint16_t le;

	if (rc < 0 || *command == UINT16_MAX || (*command & PCI_COMMAND_MASTER) == 0)
		return rc;
	le = htole16(*command & (uint16_t)~PCI_COMMAND_MASTER);
	if (pwrite64(fd, &le, sizeof(le), (off64_t)(config + PCI_COMMAND)) < 0)
		return -errno;
	return read_command(fd, config, command);
}

static int
reset(int fd)
{
	for (unsigned int i = 0; i < RESET_TRIES; i++) {
		if (ioctl(fd, VFIO_DEVICE_RESET) == 0)
			return 0;
		if (errno != EAGAIN)
			break;
		poll(NULL, 0, RESET_PAUSE_MS);
	}
	return -errno;
}

void
fence_function(int fd, enum fence_step *step, struct fence_outcome *outcome)
{
	int64_t begun_us = vdpa_now_us();
	uint64_t config;
	uint16_t command;
	bool can_reset;
	char how[64];
	long long us;
	int rc;

	outcome->fenced = false;
	set_step(step, FENCE_ASKS);
	if (!ask(fd, &can_reset, &config)) {
		snprintf(outcome->text, sizeof(outcome->text),
			 "not fenced: the descriptor is no PCI function of VFIO");
		return;
	}
	set_step(step, FENCE_STOPS);
	rc = stop(fd, config, &command);
	set_step(step, FENCE_RESETS);
	if (!can_reset) {
		snprintf(how, sizeof(how), "bus master cleared, as it has no reset");
	} else {
		int failed = reset(fd);

		snprintf(how, sizeof(how), failed == 0 ? "reset" : "bus master cleared, reset: %s",
			 strerror(-failed));
	}
	set_step(step, FENCE_CHECKS);
	if (can_reset)
		rc = stop(fd, config, &command);
	us = (long long)(vdpa_now_us() - begun_us);
	if (rc < 0)
		snprintf(outcome->text, sizeof(outcome->text), "not fenced: command register: %s",
			 strerror(-rc));
	else if (command != UINT16_MAX && (command & PCI_COMMAND_MASTER) != 0)
		snprintf(outcome->text, sizeof(outcome->text), "not fenced: bus master stays on");
	else
		outcome->fenced = true;
	if (outcome->fenced && command == UINT16_MAX)
		snprintf(outcome->text, sizeof(outcome->text),
			 "fenced: the function has left the bus");
	else if (outcome->fenced)
		snprintf(outcome->text, sizeof(outcome->text),
			 "fenced: %s; bus master is off; %lld.%lld ms", how, us / 1000,
			 us % 1000 / 100);
}

/* Many. */

struct fence *
fence_create(void)
{
	struct fence *f = calloc(1, sizeof(*f));

	if (f == NULL)
		return NULL;
	TAILQ_INIT(&f->waiting);
	TAILQ_INIT(&f->running);
	return f;
}

int
fence_add(struct fence *f, const char *name, int fd)
{
	struct job *job = calloc(1, sizeof(*job));

	if (job == NULL)
		return -ENOMEM;
	snprintf(job->name, sizeof(job->name), "%s", name);
	job->fd = fd;
	TAILQ_INSERT_TAIL(&f->waiting, job, next);
	return 0;
}

/* Under the lock: one of both threads has done with it. */
static void
let_go(struct job *job)
{
	if (!job->shared)
		free(job);
	else
		job->shared = false;
}

static void *
run(void *arg)
{
	struct job *job = arg;

	fence_function(job->fd, &job->step, &job->outcome);
	pthread_mutex_lock(&lock);
	set_step(&job->step, FENCE_ENDS);
	pthread_cond_broadcast(&progress);
	pthread_mutex_unlock(&lock);
	/* The last one resets the function again, where nobody has a part of it mapped. */
	close(job->fd);
	pthread_mutex_lock(&lock);
	set_step(&job->step, FENCE_CLOSED);
	pthread_cond_broadcast(&progress);
	let_go(job);
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void
start(struct fence *f)
{
	struct job *job = TAILQ_FIRST(&f->waiting);
	pthread_attr_t attr;
	pthread_t thread;
	int rc;

	TAILQ_REMOVE(&f->waiting, job, next);
	TAILQ_INSERT_TAIL(&f->running, job, next);
	f->n++;
	job->begun_us = vdpa_now_us();
	job->shared = true;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	rc = pthread_create(&thread, &attr, run, job);
	pthread_attr_destroy(&attr);
	if (rc != 0)
		run(job);
}

/* Under the lock. */
static void
report_slow(struct job *job, fence_report *report, void *arg)
{
	static const char *const at[] = {
		[FENCE_WAITS] = "it has not begun",
		[FENCE_ASKS] = "VFIO_DEVICE_GET_INFO has not ended",
		[FENCE_STOPS] = "its command register does not answer",
		[FENCE_RESETS] = "its reset has not ended",
		[FENCE_CHECKS] = "its command register does not answer after the reset",
	};
	struct fence_outcome slow = {0};

	snprintf(slow.text, sizeof(slow.text), "not fenced within %d ms: %s", FENCE_PATIENCE_MS,
		 at[__atomic_load_n(&job->step, __ATOMIC_ACQUIRE)]);
	report(arg, job->name, &slow);
}

/* Under the lock: report jobs that have ended, and let go of those that are closed or overdue. When
 * the first of the others is overdue; INT64_MAX: there is none. */
static int64_t
sweep(struct fence *f, fence_report *report, void *arg)
{
	int64_t first_us = INT64_MAX, now_us = vdpa_now_us();
	struct job *job = TAILQ_FIRST(&f->running), *next;

	for (; job != NULL; job = next) {
		enum fence_step step = __atomic_load_n(&job->step, __ATOMIC_ACQUIRE);
		int64_t until_us = job->begun_us + FENCE_PATIENCE_MS * INT64_C(1000);

		next = TAILQ_NEXT(job, next);
		if (step >= FENCE_ENDS && !job->reported) {
			report(arg, job->name, &job->outcome);
			job->reported = true;
		}
		if (step != FENCE_CLOSED && now_us < until_us) {
			first_us = until_us < first_us ? until_us : first_us;
			continue;
		}
		if (!job->reported)
			report_slow(job, report, arg);
		TAILQ_REMOVE(&f->running, job, next);
		f->n--;
		let_go(job);
	}
	return first_us;
}

void
fence_run(struct fence *f, fence_report *report, void *arg)
{
	int64_t until_us;

	do {
		while (f->n < FENCE_THREADS && !TAILQ_EMPTY(&f->waiting))
			start(f);
		pthread_mutex_lock(&lock);
		until_us = sweep(f, report, arg);
		if (f->n > 0 && (f->n == FENCE_THREADS || TAILQ_EMPTY(&f->waiting))) {
			struct timespec until = {.tv_sec = until_us / 1000000,
						 .tv_nsec = until_us % 1000000 * 1000};

			pthread_cond_clockwait(&progress, &lock, CLOCK_MONOTONIC, &until);
		}
		pthread_mutex_unlock(&lock);
	} while (f->n > 0 || !TAILQ_EMPTY(&f->waiting));
}

void
fence_destroy(struct fence *f)
{
	free(f);
}
