/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What is asked of a device in the same way, however it is reached. */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <vdpa.h>

#include "clock.h"
#include "target.h"

#define STATUS_NEEDS_RESET 0x40
#define CAUSE_MS	   200u

int
target_check_alive(struct target *t)
{
	char why[256] = "";
	int status;

	t->ops->failure(t, why, sizeof(why));
	if (why[0] != '\0')
		return vdpa_error(EIO, "the device failed: %s", why);
	status = t->ops->get_status(t);
	if (status == -EOPNOTSUPP)
		return 0;
	if (status < 0) {
		snprintf(why, sizeof(why), "%s", vdpa_error_message());
		return vdpa_error(status, "the status cannot be read: %s (%s)", why,
				  strerrorname_np(-status));
	}
	if (!(status & STATUS_NEEDS_RESET))
		return 0;
	/* The bit is seen at once, its cause is found out a little later. */
	for (unsigned int i = 0; i < CAUSE_MS && why[0] == '\0'; i++) {
		sleep_us(1000);
		t->ops->failure(t, why, sizeof(why));
	}
	return vdpa_error(EIO, "status 0x%02x: the device says DEVICE_NEEDS_RESET%s%s", status,
			  why[0] != '\0' ? ": " : "", why);
}
