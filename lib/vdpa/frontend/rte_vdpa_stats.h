/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Statistics of queues as rte_vdpa numbers them: one list of names a device, in which every queue
 * has every entry (rte_vdpa.h: stats_names[i].name goes with stats[i].value, and stats[i].id is i).
 */

#ifndef RTE_VDPA_STATS_H
#define RTE_VDPA_STATS_H

#include "vdpa_driver.h"

/* Statistics of a queue at most, and different ones of all queues of a device. */
#define VDPA_RTE_STATS_MAX 32

struct vdpa_rte_stats {
	unsigned int n;
	const char *names[VDPA_RTE_STATS_MAX]; /* by id */
};

/*
 * Add what one queue has. rx_packets of one queue and tx_packets of another are one entry, packets:
 * a queue has one direction, and none shows the other's. Beyond VDPA_RTE_STATS_MAX names the rest
 * is left out.
 */
void vdpa_rte_stats_add(struct vdpa_rte_stats *s, const struct vdpa_stat *stats, unsigned int n);

/* A queue's values by id, s->n of them; 0 for a name that only other queues have. */
void vdpa_rte_stats_values(const struct vdpa_rte_stats *s, const struct vdpa_stat *stats,
			   unsigned int n, uint64_t *values);

#endif /* RTE_VDPA_STATS_H */
