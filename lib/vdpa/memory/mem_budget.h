/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The mappings of the process that guest memory may take. From any thread. */

#ifndef MEM_BUDGET_H
#define MEM_BUDGET_H

#include <stdint.h>

/* Mappings of a region by itself; and of one in a window, which parts what is reserved there. */
#define MEM_BUDGET_REGION 1
#define MEM_BUDGET_WINDOW 2

/*
 * Take n mappings for the region at iova, whose table has `mine` already. 0; -ENOSPC with
 * vdpa_error() where they are left to others.
 */
int mem_budget_take(uint64_t iova, unsigned int n, uint64_t mine);
/* Give n mappings back. */
void mem_budget_give(unsigned int n);

#endif /* MEM_BUDGET_H */
