/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What is known of the devices at no cost: how many there are, and whether one is there. */

#include <string.h>

#include "bus.h"
#include "device_priv.h"
#include "vdpa.h"

static bool
count_entry(const struct vdpa_bus_entry *e, void *arg)
{
	struct vdpa_dev_counts *counts = arg;
	unsigned int state;

	counts->devices++;
	if (e->vdev == NULL)
		return true;
	state = (unsigned int)vdpa_device_get_state(e->vdev);
	if (state < RTE_DIM(counts->states))
		counts->states[state]++;
	return true;
}

void
vdpa_dev_count(struct vdpa_dev_counts *counts)
{
	memset(counts, 0, sizeof(*counts));
	vdpa_bus_for_each(count_entry, counts);
}

bool
vdpa_dev_exists(const char *name)
{
	return vdpa_bus_has(name);
}
