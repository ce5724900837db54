/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What systemd is told of the daemon's life. The watchdog is fed by the main thread, but only after
 * the control loop has run a task since the last time: one that hangs, and with it every
 * connection, is as dead as a process that hangs. Nothing is sent from the loop itself, since a
 * send waits while systemd reads nothing.
 */

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <vdpa.h>
#include <vdpa_event.h>

#include "clock.h"
#include "log.h"
#include "notify.h"

#ifdef APP_SYSTEMD

#include <systemd/sd-daemon.h>

/* Calls in one period of the watchdog: what is late once is not dead yet. */
#define CALLS_PER_PERIOD 4
/* How long systemd may take to read what it was sent. */
#define BARRIER_US	 5000000

static struct {
	struct vdpa_task task;
	bool posted;
	bool answered; /* atomic */
	bool reported; /* that the loop does not answer */
	int64_t since_us;
} alive;

/* The status that was sent last. A reload, which has a thread of its own, sends one too. */
static pthread_mutex_t status_lock = PTHREAD_MUTEX_INITIALIZER;
static char sent_status[160];

/* "3 devices: 1 running, 2 idle" */
static void
describe(char *buf, size_t size)
{
	struct vdpa_dev_counts counts;
	const char *separator = ": ";
	size_t used;

	vdpa_dev_count(&counts);
	used = (size_t)snprintf(buf, size, "%u device%s", counts.devices,
				counts.devices == 1 ? "" : "s");
	for (unsigned int i = 0; i < sizeof(counts.states) / sizeof(counts.states[0]); i++) {
		if (counts.states[i] == 0 || used >= size)
			continue;
		used += (size_t)snprintf(buf + used, size - used, "%s%u %s", separator,
					 counts.states[i],
					 vdpa_device_state_name((enum vdpa_device_state)i));
		separator = ", ";
	}
}

void
app_notify_ready(void)
{
	pthread_mutex_lock(&status_lock);
	describe(sent_status, sizeof(sent_status));
	sd_notifyf(0, "READY=1\nSTATUS=%s", sent_status);
	pthread_mutex_unlock(&status_lock);
}

void
app_notify_reloading(void)
{
	/* systemd takes a READY=1 that is older for the end of the start. */
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRId64 "\nSTATUS=reloading", app_now_us());
}

void
app_notify_stopping(void)
{
	sd_notify(0, "STOPPING=1\nSTATUS=stopping");
}

void
app_notify_successor(pid_t pid)
{
	sd_notifyf(0, "MAINPID=%d", (int)pid);
	/* Until systemd has read it, what the new process says is not heard. */
	(void)sd_notify_barrier(0, BARRIER_US);
}

static void
answer(struct vdpa_task *task)
{
	__atomic_store_n(&alive.answered, true, __ATOMIC_RELEASE);
}

static void
send_alive(void)
{
	char status[sizeof(sent_status)];

	describe(status, sizeof(status));
	pthread_mutex_lock(&status_lock);
	if (strcmp(status, sent_status) == 0) {
		sd_notify(0, "WATCHDOG=1");
	} else {
		memcpy(sent_status, status, sizeof(status));
		sd_notifyf(0, "WATCHDOG=1\nSTATUS=%s", status);
	}
	pthread_mutex_unlock(&status_lock);
}

int64_t
app_notify_alive(void)
{
	uint64_t period_us;

	if (sd_watchdog_enabled(0, &period_us) <= 0)
		return -1;
	if (!alive.posted) {
		alive.posted = true;
	} else if (__atomic_load_n(&alive.answered, __ATOMIC_ACQUIRE)) {
		if (alive.reported)
			app_log(LOG_NOTICE, NULL, "the control loop turns again, after %.1f s",
				(double)(app_now_us() - alive.since_us) / 1e6);
		alive.reported = false;
		send_alive();
	} else {
		if (!alive.reported)
			app_log(LOG_ERR, NULL,
				"the control loop has not turned for %.1f s: systemd's watchdog is "
				"not fed",
				(double)(app_now_us() - alive.since_us) / 1e6);
		alive.reported = true;
		return (int64_t)(period_us / CALLS_PER_PERIOD);
	}
	alive.since_us = app_now_us();
	__atomic_store_n(&alive.answered, false, __ATOMIC_RELEASE);
	alive.task.run = answer;
	vdpa_task_post(vdpa_event_loop_control(), &alive.task);
	return (int64_t)(period_us / CALLS_PER_PERIOD);
}

void
app_notify_fini(void)
{
	if (alive.posted)
		vdpa_task_cancel(&alive.task);
	alive.posted = false;
}

#else

void
app_notify_successor(pid_t pid)
{
}

void
app_notify_ready(void)
{
}

void
app_notify_reloading(void)
{
}

void
app_notify_stopping(void)
{
}

int64_t
app_notify_alive(void)
{
	return -1;
}

void
app_notify_fini(void)
{
}

#endif
