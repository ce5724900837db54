/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file fault.h
 * Internal: SIGBUS in guest memory. See fault.c.
 */

#ifndef VDPA_FAULT_H
#define VDPA_FAULT_H

#include <stdint.h>

/**
 * Install the SIGBUS handler. Threads that touch guest memory must not block SIGBUS: the kernel
 * kills the process for a blocked one.
 * @return 0; -EALREADY when it is installed; the errno of sigaction(2).
 */
int vdpa_fault_init(void);

/** Put the handler that was there before back, unless somebody replaced ours since. */
void vdpa_fault_fini(void);

/** Faults repaired in this process; only grows. */
extern uint64_t vdpa_fault_count;

/** A caller that remembers the count knows by one load that nothing happened since. */
static inline uint64_t
vdpa_fault_seen(void)
{
	return __atomic_load_n(&vdpa_fault_count, __ATOMIC_ACQUIRE);
}

#endif /* VDPA_FAULT_H */
