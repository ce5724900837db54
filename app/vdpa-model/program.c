/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * vdpa-model as a program: vdpa-app's options, life and reports, with the front end "vfio-user".
 */

#include <stddef.h>

#include "model.h"
#include "program.h"

static json_t *
all_stats(void)
{
	return model_stats(NULL);
}

const struct app_program app_program = {
	.name = "vdpa-model",
	.summary = "Serve simulated devices as virtio-pci functions over vfio-user.",
	.example = "name m0 mgmtdev sim_net vfio_user /run/m0.sock max_vqp 4",
	.instance = "vdpa-model",
	.register_words = model_extend,
	.start = model_start,
	.stop = model_stop,
	.print_help = model_print_faults,
	.stats = all_stats,
	.stats_key = "vfio_user",
};
