/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Errors: the calling thread's last readable message, and the log type. Owns nothing else.
 */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "vdpa_args.h"
#include "vdpa_log.h"
#include "vdpa.h"

#define ERROR_MESSAGE_MAX 512

static __thread char error_message[ERROR_MESSAGE_MAX];

RTE_LOG_REGISTER(vdpa_logtype, lib.uvdpa, NOTICE);

int
vdpa_error(int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error_message, sizeof(error_message), fmt, ap);
	va_end(ap);
	return -abs(err);
}

const char *
vdpa_error_message(void)
{
	return error_message;
}
