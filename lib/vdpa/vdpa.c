/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The library as a whole: initialisation, parameters in force, end.
 */

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <rte_common.h>
#include <rte_lcore.h>

#include "event_loop_priv.h"
#include "fault.h"
#include "mgmt.h"
#include "settings.h"
#include "telemetry.h"
#include "vdpa_control.h"
#include "vdpa_event.h"
#include "vdpa_log.h"
#include "vdpa_uvdpad.h"
#include "vfio_priv.h"

static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;
static bool initialised;

static int
take_params(const struct vdpa_init_params *params)
{
	static const struct vdpa_init_params defaults;

	if (params == NULL)
		params = &defaults;
	if (params->n_poll_lcores > RTE_DIM(vdpa_settings.poll_lcores))
		return vdpa_error(EINVAL, "%u poll lcores: allowed are up to %u",
				  params->n_poll_lcores, RTE_MAX_LCORE);
	memset(&vdpa_settings, 0, sizeof(vdpa_settings));
	for (unsigned int i = 0; i < params->n_poll_lcores; i++) {
		unsigned int lcore = params->poll_lcores[i];

		if (!rte_lcore_is_enabled(lcore) || lcore == rte_get_main_lcore())
			return vdpa_error(EINVAL, "poll lcore %u: must be an enabled worker lcore",
					  lcore);
		for (unsigned int j = 0; j < i; j++)
			if (vdpa_settings.poll_lcores[j] == lcore)
				return vdpa_error(EINVAL, "poll lcore %u: is given twice", lcore);
		vdpa_settings.poll_lcores[i] = lcore;
	}
	vdpa_settings.n_poll_lcores = params->n_poll_lcores;
	vdpa_settings.poll_us = params->poll_us == 0		       ? VDPA_POLL_US_DEFAULT
				: params->poll_us == VDPA_POLL_US_NONE ? 0
								       : params->poll_us;
	return 0;
}

int
vdpa_init(const struct vdpa_init_params *params)
{
	int rc;

	pthread_mutex_lock(&init_lock);
	if (initialised) {
		rc = vdpa_error(EALREADY, "uvdpa is initialised");
		goto out;
	}
	rc = take_params(params);
	if (rc < 0)
		goto out;
	if (params == NULL || !params->no_sigbus_handler) {
		rc = vdpa_fault_init();
		if (rc < 0)
			goto out;
	}
	rc = vdpa_event_control_init();
	if (rc < 0) {
		vdpa_error(rc, "event loops: %s", strerror(-rc));
		goto err_fault;
	}
	rc = vdpa_mgmt_init();
	if (rc < 0)
		goto err_loop;
	/* A convenience: devices work without it. */
	if (vdpa_telemetry_init() < 0)
		VDPA_LOG(WARNING, "%s", vdpa_error_message());
	initialised = true;
	goto out;

err_loop:
	vdpa_event_control_fini();
err_fault:
	vdpa_fault_fini();
out:
	pthread_mutex_unlock(&init_lock);
	return rc;
}

void
vdpa_cleanup(void)
{
	pthread_mutex_lock(&init_lock);
	if (initialised) {
		/* First, so that nobody asks for a device while they go. */
		vdpa_uvdpad_stop();
		vdpa_control_stop();
		vdpa_mgmt_fini();
		vdpa_vfio_fini();
		vdpa_event_control_fini();
		vdpa_fault_fini();
		initialised = false;
	}
	pthread_mutex_unlock(&init_lock);
}
