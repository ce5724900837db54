/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Statistics of queues as rte_vdpa numbers them; see rte_vdpa_stats.h. Touches no device. */

#include <string.h>

#include "rte_vdpa_stats.h"

/* A queue's statistic without its direction. */
static const char *
queue_name(const char *name)
{
	return strncmp(name, "rx_", 3) == 0 || strncmp(name, "tx_", 3) == 0 ? name + 3 : name;
}

/* s->n when it is not in the list. */
static unsigned int
id_of(const struct vdpa_rte_stats *s, const char *name)
{
	unsigned int id = 0;

	while (id < s->n && strcmp(s->names[id], queue_name(name)) != 0)
		id++;
	return id;
}

void
vdpa_rte_stats_add(struct vdpa_rte_stats *s, const struct vdpa_stat *stats, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		if (id_of(s, stats[i].name) == s->n && s->n < VDPA_RTE_STATS_MAX)
			s->names[s->n++] = queue_name(stats[i].name);
}

void
vdpa_rte_stats_values(const struct vdpa_rte_stats *s, const struct vdpa_stat *stats, unsigned int n,
		      uint64_t *values)
{
	memset(values, 0, s->n * sizeof(*values));
	for (unsigned int i = 0; i < n; i++) {
		unsigned int id = id_of(s, stats[i].name);

		if (id < s->n)
			values[id] += stats[i].value;
	}
}
