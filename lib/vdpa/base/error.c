/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Errors: the calling thread's last readable message. Owns nothing else.
 */

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error_priv.h"
#include "vdpa_error.h"

static __thread char error_message[VDPA_ERROR_MAX];
static __thread unsigned int error_count;

int
vdpa_error(int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (vsnprintf(error_message, sizeof(error_message), fmt, ap) >= VDPA_ERROR_MAX)
		strcpy(error_message + VDPA_ERROR_MAX - sizeof("..."), "...");
	va_end(ap);
	error_count++;
	return -abs(err);
}

unsigned int
vdpa_error_count(void)
{
	return error_count;
}

const char *
vdpa_error_message(void)
{
	return error_message;
}

void
vdpa_error_save(struct vdpa_error_saved *saved)
{
	snprintf(saved->text, sizeof(saved->text), "%s", error_message);
}

void
vdpa_error_restore(const struct vdpa_error_saved *saved)
{
	vdpa_error(0, "%s", saved->text);
}

static const char *
skip_prefix(const char *text, const char *prefix)
{
	size_t len = strlen(prefix);

	return strncmp(text, prefix, len) == 0 ? text + len : text;
}

const char *
vdpa_error_cause(const char *message, const char *name, int64_t qidx)
{
	char queue[sizeof("queue -9223372036854775808: ")];
	size_t len = strlen(name);

	snprintf(queue, sizeof(queue), "queue %" PRId64 ": ", qidx);
	if (strncmp(message, name, len) == 0 && strncmp(message + len, ": ", 2) == 0)
		message += len + 2;
	return qidx >= 0 ? skip_prefix(message, queue) : message;
}
