/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A simulated device that is broken on purpose, by the word `broken`: for tests of what drives
 * devices, test-vdpa above all. What a fault does to the log is in sim_log.c, to the control queue
 * in net/net_ctrl.c.
 */

#include <string.h>

#include "sim_priv.h"

#define AT(fault) ((fault)-SIM_FAULT_NONE - 1)

const struct vdpa_param_choice sim_fault_choices[] = {
	[AT(SIM_FAULT_PLACE_FORGOTTEN)] =
		{.name = "place_forgotten",
		 .help = "a queue starts at its beginning, wherever it was "
			 "told to start"},
	[AT(SIM_FAULT_PLACE_WRONG)] = {.name = "place_wrong",
				       .help = "a queue says another place than where it stopped"},
	[AT(SIM_FAULT_LOG_MISSES_BUFFERS)] =
		{.name = "log_misses_buffers",
		 .help = "the dirty log lacks what is written to buffers"},
	[AT(SIM_FAULT_LOG_MISSES_RINGS)] = {.name = "log_misses_rings",
					    .help = "the dirty log lacks the used rings"},
	[AT(SIM_FAULT_LOG_BEYOND)] = {.name = "log_beyond",
				      .help = "the dirty log has a page that is no memory"},
	[AT(SIM_FAULT_LOG_NOT_REPLACED)] =
		{.name = "log_not_replaced",
		 .help = "a new dirty log in place of another stays empty"},
	[AT(SIM_FAULT_LOG_GOES_ON)] =
		{.name = "log_goes_on",
		 .help = "the dirty log is written after its end, until the next "
			 "reset"},
	[AT(SIM_FAULT_CTRL_OK_ALWAYS)] =
		{.name = "ctrl_ok_always",
		 .help = "a net device answers OK to control commands, and "
			 "does nothing"},
	[AT(SIM_FAULT_COUNT)] = {0},
};

enum sim_fault
sim_fault_of(const struct vdpa_args *args)
{
	const struct vdpa_arg *arg = vdpa_args_find(args, "broken");

	return arg == NULL ? SIM_FAULT_NONE
			   : (enum sim_fault)(arg->choice - sim_fault_choices + SIM_FAULT_NONE + 1);
}

static bool
is_packed(const struct sim_device *dev)
{
	return (dev->features & SIM_BIT(SIM_F_RING_PACKED)) != 0;
}

void
sim_fault_load(const struct sim_device *dev, struct vdpa_vq_state *state)
{
	if (!sim_has_fault(dev, SIM_FAULT_PLACE_FORGOTTEN))
		return;
	memset(state, 0, sizeof(*state));
	if (is_packed(dev))
		state->packed.last_avail_counter = state->packed.last_used_counter = 1;
}

void
sim_fault_report(const struct sim_device *dev, struct vdpa_vq_state *state)
{
	if (!sim_has_fault(dev, SIM_FAULT_PLACE_WRONG))
		return;
	if (is_packed(dev))
		state->packed.last_used_counter ^= 1;
	else
		state->split.avail_index++;
}
