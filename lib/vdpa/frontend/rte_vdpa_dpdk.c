/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Which DPDK releases the front end rte_vdpa knows. Pure functions.
 */

#include <errno.h>

#include <rte_common.h>

#include "rte_vdpa_dpdk.h"
#include "vdpa_args.h"

/* The releases whose driver interface is the one in rte_vdpa_dpdk.h: read in each of them. */
static const struct vdpa_rte_release first_known = {22, 11}, last_known = {25, 11};
/* Its virtqueue lock asserts do not hold for configured vDPA devices. */
static const struct vdpa_rte_release first_aborting = {24, 3};

static unsigned int
number(struct vdpa_rte_release r)
{
	return 100 * r.year + r.month;
}

/* DPDK's ABI changes with its November release and is named after the year that follows. */
static unsigned int
abi(struct vdpa_rte_release r)
{
	return r.month >= 11 ? r.year + 1 : r.year;
}

int
vdpa_rte_check_dpdk(struct vdpa_rte_release built, struct vdpa_rte_release runs)
{
	if (number(runs) < number(first_known) || number(runs) > number(last_known))
		return vdpa_error(
			ENOTSUP,
			"DPDK %02u.%02u: its interface for vDPA drivers is not known to "
			"this uvdpa, those of %02u.%02u to %02u.%02u are; use one of them, "
			"or serve the device by vdpa-app",
			runs.year, runs.month, first_known.year, first_known.month, last_known.year,
			last_known.month);
	if (abi(built) != abi(runs))
		return vdpa_error(
			ENOTSUP,
			"DPDK %02u.%02u: uvdpa was built for %02u.%02u, which has another "
			"ABI (%u, not %u); build uvdpa again with the DPDK that you use",
			runs.year, runs.month, built.year, built.month, abi(built), abi(runs));
	return 0;
}

bool
vdpa_rte_dpdk_aborts(struct vdpa_rte_release runs)
{
	return number(runs) >= number(first_aborting);
}
