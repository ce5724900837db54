/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Faults that the model shows on request, so that a driver's and a client's handling of broken
 * devices can be tested. One table of names; a set of them is a bit mask.
 */

#ifndef MODEL_FAULT_H
#define MODEL_FAULT_H

#include <stddef.h>
#include <stdint.h>

enum model_fault {
	MODEL_FAULT_QUEUE_NEVER_ENABLES,
	MODEL_FAULT_RESET_NEVER_COMPLETES,
	MODEL_FAULT_NEEDS_RESET,
	MODEL_FAULT_ALL_ONES,
	MODEL_FAULT_TRUNCATED_REPLY,
	MODEL_FAULT_DELAYED_REPLY,
	MODEL_FAULT_NO_REPLY,
	MODEL_FAULT_WRONG_USED_INDEX,
	MODEL_FAULT_SPURIOUS_INTERRUPTS,
	MODEL_FAULT_LOST_INTERRUPTS,
	MODEL_FAULT_DISCONNECT,
	MODEL_FAULT_FEATURES_REFUSED,
	MODEL_FAULT_UNSTABLE_GENERATION,
	MODEL_FAULT_BAD_CAPABILITY,
	MODEL_FAULT_SMALL_BAR,
	MODEL_FAULT_NO_VECTOR,
	MODEL_FAULT_SUSPEND_NEVER_COMPLETES,
	MODEL_FAULT_SUSPEND_FAILS,
	MODEL_FAULT_RESUME_NEVER_COMPLETES,
	/* Of the function octep. */
	MODEL_FAULT_WRONG_SIGNATURE,
	MODEL_FAULT_SELECTOR_NEVER,
	MODEL_FAULT_SELECTOR_LATE,
	MODEL_FAULT_MAILBOX_NEVER,
	MODEL_FAULT_MAILBOX_LATE,
	MODEL_FAULT_MAILBOX_ERROR,
	MODEL_FAULT_FLAG_STUCK,
	MODEL_FAULT_COUNT
};

/* Room for the names of all. */
#define MODEL_FAULT_TEXT_MAX 1024

#define MODEL_FAULT_BIT(f) (UINT32_C(1) << MODEL_FAULT_##f)

/* The name and the one line about a fault. */
const char *model_fault_name(enum model_fault fault);
const char *model_fault_help(enum model_fault fault);

/* "NAME,NAME" or "none" to a mask. 0; -EINVAL with vdpa_error(), which names what is allowed. */
int model_fault_parse(const char *text, uint32_t *mask);
/* The names in a mask, separated by commas; "none". */
void model_fault_format(uint32_t mask, char *buf, size_t len);

#endif /* MODEL_FAULT_H */
