/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Failure of a device: its first report since the last reset, that it is gone for good, and the job
 * that stops it and notifies its front end.
 */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device_priv.h"
#include "error_priv.h"
#include "failure.h"
#include "notice.h"
#include "steps.h"
#include "vdpa_log.h"

/* One report's text: queue, cause, errno. */
#define REPORT_MAX (VDPA_ERROR_MAX + 48)

void
vdpa_failure_notice(struct vdpa_device *vdev)
{
	char text[VDPA_FAILURE_MAX];

	vdpa_device_failure(vdev, text, sizeof(text));
	/* One that does not even reset has an error, and no report. */
	vdpa_notice(VDPA_NOTICE_FAILED, vdev->name,
		    text[0] != '\0' ? text
				    : vdpa_error_cause(vdpa_error_message(), vdev->name, -1));
}

bool
vdpa_device_stop_failed(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;
	bool failed = core->state == VDPA_STATE_FAILED, stop;

	pthread_mutex_lock(&core->fail_lock);
	/* A reset since the report has forgotten it: the session that failed is gone already. */
	stop = core->fail_state == VDPA_FAIL_REPORTED;
	if (stop)
		core->fail_state = VDPA_FAIL_STOPPED;
	pthread_mutex_unlock(&core->fail_lock);
	if (stop) {
		/* The cause is often the one that was just reported. */
		if (vdpa_step_quiesce(vdev) < 0 &&
		    strstr(core->failure, vdpa_error_cause(vdpa_error_message(), vdev->name, -1)) ==
			    NULL)
			VDPA_LOG(ERR, "%s", vdpa_error_message());
		/* Now it is gone, too. */
		if (failed)
			vdpa_failure_notice(vdev);
		vdpa_device_set_state(vdev, VDPA_STATE_FAILED);
	}
	return stop;
}

/* A job of the device's: stop it, since it reported a failure, and tell its front end. */
static void
fail_work_run(struct vdpa_work *work)
{
	struct vdpa_device *vdev = work->arg;
	struct vdpa_device_core *core = vdev->core;
	const struct vdpa_frontend *fe;
	bool tell;
	int qidx;

	vdpa_device_lock(vdev);
	vdpa_device_stop_failed(vdev);
	pthread_mutex_lock(&core->fail_lock);
	/* Without a front end yet it is kept for the one to come. */
	fe = __atomic_load_n(&core->fe, __ATOMIC_ACQUIRE);
	tell = core->fail_state == VDPA_FAIL_STOPPED && fe != NULL;
	if (tell)
		core->fail_state = VDPA_FAIL_NOTIFIED;
	qidx = core->fail_qidx;
	pthread_mutex_unlock(&core->fail_lock);
	vdpa_device_unlock(vdev);

	if (tell && fe->ops->failed != NULL)
		fe->ops->failed(vdev, qidx);
}

void
vdpa_failure_init(struct vdpa_device *vdev)
{
	vdev->core->fail_work = (struct vdpa_work){.run = fail_work_run, .arg = vdev};
}

/* "queue 1: CAUSE (ENAME)", whole: what is longer than any message ends in "...". */
static void
failure_text(char *text, size_t size, int qidx, int err, const char *fmt, va_list ap)
{
	const char *ename = strerrorname_np(abs(err));
	char cause[VDPA_ERROR_MAX], queue[sizeof("queue -2147483648: ")] = "";

	if (vsnprintf(cause, sizeof(cause), fmt, ap) >= (int)sizeof(cause))
		memcpy(cause + sizeof(cause) - sizeof("..."), "...", sizeof("..."));
	if (qidx >= 0)
		snprintf(queue, sizeof(queue), "queue %d: ", qidx);
	snprintf(text, size, "%s%s (%s)", queue, cause, ename != NULL ? ename : "?");
}

/* Under the fail lock: a report that counts. */
static void
report(struct vdpa_device *vdev, int qidx, const char *text)
{
	struct vdpa_device_core *core = vdev->core;

	if (core->fail_state == VDPA_FAIL_NONE)
		vdpa_count(&core->counts.failures);
	if (qidx >= 0 && qidx < core->nvqs)
		vdpa_count(&core->vqs[qidx].counts.failures);
	core->fail_state = VDPA_FAIL_REPORTED;
	core->fail_qidx = qidx;
	snprintf(core->failure, sizeof(core->failure), "%s", text);
	vdpa_work_post(&core->work, &core->fail_work);
}

void
vdpa_device_fail(struct vdpa_device *vdev, int qidx, int err, const char *fmt, ...)
{
	struct vdpa_device_core *core = vdev->core;
	char text[REPORT_MAX];
	va_list ap;

	va_start(ap, fmt);
	failure_text(text, sizeof(text), qidx, err, fmt, ap);
	va_end(ap);

	pthread_mutex_lock(&core->fail_lock);
	if (core->fail_open && core->fail_state == VDPA_FAIL_NONE) {
		report(vdev, qidx, text);
		VDPA_LOG_LIMITED(&core->log, ERR, "%s: %s; the device is stopped", vdev->name,
				 text);
	}
	pthread_mutex_unlock(&core->fail_lock);
}

void
vdpa_device_gone(struct vdpa_device *vdev, int err, const char *fmt, ...)
{
	struct vdpa_device_core *core = vdev->core;
	char text[REPORT_MAX], both[VDPA_FAILURE_MAX];
	va_list ap;

	va_start(ap, fmt);
	failure_text(text, sizeof(text), -1, err, fmt, ap);
	va_end(ap);

	pthread_mutex_lock(&core->fail_lock);
	if (core->fail_open && !core->gone) {
		__atomic_store_n(&core->gone, true, __ATOMIC_RELEASE);
		VDPA_LOG(ERR, "%s: %s; the device is gone", vdev->name, text);
		if (core->failure[0] != '\0' && strstr(text, core->failure) == NULL) {
			snprintf(both, sizeof(both), "%s; before that: %.*s", text, REPORT_MAX - 1,
				 core->failure);
			report(vdev, -1, both);
		} else {
			report(vdev, -1, text);
		}
	}
	pthread_mutex_unlock(&core->fail_lock);
}

bool
vdpa_device_is_gone(const struct vdpa_device *vdev)
{
	return __atomic_load_n(&vdev->core->gone, __ATOMIC_ACQUIRE);
}

void
vdpa_device_failure(struct vdpa_device *vdev, char *buf, size_t len)
{
	pthread_mutex_lock(&vdev->core->fail_lock);
	snprintf(buf, len, "%s", vdev->core->failure);
	pthread_mutex_unlock(&vdev->core->fail_lock);
}
