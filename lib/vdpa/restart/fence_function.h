/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A function of VFIO that nobody drives any more is stopped before its descriptor is dropped:
 * somebody may have a doorbell page of it mapped, with which it goes on after the last close. By
 * the keeper, for a daemon that does not come back, and by a daemon, for a function that it does
 * not take over.
 */

#ifndef FENCE_FUNCTION_H
#define FENCE_FUNCTION_H

#include <stdbool.h>

/* How far the fence of a function has come. */
enum fence_step {
	FENCE_WAITS,
	FENCE_ASKS,   /* what the descriptor is */
	FENCE_STOPS,  /* bus master is cleared */
	FENCE_RESETS, /* VFIO_DEVICE_RESET; bus master is off */
	FENCE_CHECKS, /* bus master is read, and cleared where the reset has brought it back */
	FENCE_ENDS,   /* the outcome is known */
	FENCE_CLOSED,
};

struct fence_outcome {
	bool fenced; /* bus master was read and is off, or the function has left the bus */
	char text[160];
};

/*
 * Whether fd may be a function: the kernel has named it as it names those. Asks the file nothing
 * and never waits. From any thread.
 */
bool vdpa_fence_may_be_function(int fd);

/*
 * Stop a function: clear bus master, so that its DMA ends at once; reset it, where it has a reset;
 * and read back that bus master is off, since the kernel restores the command register after a
 * reset. What is no PCI function is not written to. *step is set as it goes on, with release order.
 * Waits for the function for as long as that takes.
 */
void vdpa_fence_function(int fd, enum fence_step *step, struct fence_outcome *outcome);

#endif /* FENCE_FUNCTION_H */
