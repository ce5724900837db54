/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The names of faults, and which step of a function each keeps from being done. What the others do
 * is where it happens: look for MODEL_FAULT_BIT(NAME).
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_common.h>

#include "model_function.h"
#include "vdpa_args.h"

static const struct {
	const char *name, *help;
} faults[MODEL_FAULT_COUNT] = {
	[MODEL_FAULT_QUEUE_NEVER_ENABLES] = {"queue_never_enables",
					     "queue_enable reads 0, and no queue runs"},
	[MODEL_FAULT_RESET_NEVER_COMPLETES] = {"reset_never_completes",
					       "after a reset the status keeps its bits, and "
					       "queue_reset reads 1"},
	[MODEL_FAULT_NEEDS_RESET] = {"needs_reset",
				     "the device fails when it is started; at run time: at once"},
	[MODEL_FAULT_ALL_ONES] = {"all_ones",
				  "registers and configuration space read all ones, as of a "
				  "function that is gone"},
	[MODEL_FAULT_TRUNCATED_REPLY] = {"truncated_reply", "replies lack their second half"},
	[MODEL_FAULT_DELAYED_REPLY] = {"delayed_reply", "replies come late, by delay_ms"},
	[MODEL_FAULT_NO_REPLY] = {"no_reply", "requests are executed and not answered"},
	[MODEL_FAULT_WRONG_USED_INDEX] = {"wrong_used_index",
					  "running queues claim buffers that were never theirs"},
	[MODEL_FAULT_SPURIOUS_INTERRUPTS] = {"spurious_interrupts",
					     "every vector fires again and again without cause"},
	[MODEL_FAULT_LOST_INTERRUPTS] = {"lost_interrupts", "no queue interrupts"},
	[MODEL_FAULT_DISCONNECT] = {"disconnect",
				    "hangs up when the driver sets DRIVER_OK; at run time: at "
				    "once"},
	[MODEL_FAULT_FEATURES_REFUSED] = {"features_refused", "FEATURES_OK never stays set"},
	[MODEL_FAULT_UNSTABLE_GENERATION] = {"unstable_generation",
					     "the configuration's generation differs at every "
					     "read"},
	[MODEL_FAULT_BAD_CAPABILITY] = {"bad_capability",
					"the common configuration's capability points past its "
					"BAR"},
	[MODEL_FAULT_SMALL_BAR] = {"small_bar", "BAR 4 ends before the device configuration"},
	[MODEL_FAULT_NO_VECTOR] = {"no_vector", "every MSI-X vector is refused"},
	[MODEL_FAULT_SUSPEND_NEVER_COMPLETES] = {"suspend_never_completes",
						 "a device that is suspended runs on, and "
						 "DRIVER_OK stays"},
	[MODEL_FAULT_SUSPEND_FAILS] = {"suspend_fails",
				       "a device that is suspended needs a reset instead"},
	[MODEL_FAULT_RESUME_NEVER_COMPLETES] = {"resume_never_completes",
						"a suspended device stays suspended"},
	[MODEL_FAULT_WRONG_SIGNATURE] = {"wrong_signature",
					 "octep: BAR 4 begins with another signature"},
	[MODEL_FAULT_SELECTOR_NEVER] = {"selector_never",
					"octep: a selector is never acknowledged"},
	[MODEL_FAULT_SELECTOR_LATE] = {"selector_late",
				       "octep: a selector is acknowledged after delay_ms"},
	[MODEL_FAULT_MAILBOX_NEVER] = {"mailbox_never", "octep: the mailbox never answers"},
	[MODEL_FAULT_MAILBOX_LATE] = {"mailbox_late", "octep: the mailbox answers after delay_ms"},
	[MODEL_FAULT_MAILBOX_ERROR] = {"mailbox_error",
				       "octep: the mailbox answers every request with error 5"},
	[MODEL_FAULT_FLAG_STUCK] = {"flag_stuck",
				    "octep: interrupt flags are set again when they are cleared"},
};

const char *
model_fault_name(enum model_fault fault)
{
	return faults[fault].name;
}

const char *
model_fault_help(enum model_fault fault)
{
	return faults[fault].help;
}

static int
unknown(const char *name, size_t len)
{
	char known[MODEL_FAULT_TEXT_MAX] = "";
	size_t n = 0;

	for (unsigned int i = 0; i < MODEL_FAULT_COUNT && n < sizeof(known); i++)
		n += (size_t)snprintf(known + n, sizeof(known) - n, ", %s", faults[i].name);
	return vdpa_error(EINVAL, "fault '%.*s': allowed are none%s", (int)RTE_MIN(len, (size_t)64),
			  name, known);
}

int
model_fault_parse(const char *text, uint32_t *mask)
{
	*mask = 0;
	if (strcmp(text, "none") == 0)
		return 0;
	for (;;) {
		size_t len = strcspn(text, ",");
		unsigned int i;

		for (i = 0; i < MODEL_FAULT_COUNT; i++)
			if (strlen(faults[i].name) == len && memcmp(faults[i].name, text, len) == 0)
				break;
		if (i == MODEL_FAULT_COUNT)
			return unknown(text, len);
		*mask |= UINT32_C(1) << i;
		if (text[len] == '\0')
			return 0;
		text += len + 1;
	}
}

void
model_fault_format(uint32_t mask, char *buf, size_t len)
{
	size_t n = 0;

	snprintf(buf, len, "%s", mask == 0 ? "none" : "");
	for (unsigned int i = 0; i < MODEL_FAULT_COUNT && n < len; i++)
		if ((mask & (UINT32_C(1) << i)) != 0)
			n += (size_t)snprintf(buf + n, len - n, "%s%s", n > 0 ? "," : "",
					      faults[i].name);
}

enum vfu_verdict
model_ask(const void *own, enum vfu_step step)
{
	static const struct {
		uint32_t skip, fail; /* masks */
	} table[] = {
		[VFU_STEP_ANSWER] = {.skip = MODEL_FAULT_BIT(ALL_ONES)},
		[VFU_STEP_SHOW_ENABLE] = {.skip = MODEL_FAULT_BIT(QUEUE_NEVER_ENABLES)},
		[VFU_STEP_FEATURES] = {.skip = MODEL_FAULT_BIT(FEATURES_REFUSED)},
		[VFU_STEP_RESET] = {.skip = MODEL_FAULT_BIT(RESET_NEVER_COMPLETES)},
		[VFU_STEP_SUSPEND] = {.skip = MODEL_FAULT_BIT(SUSPEND_NEVER_COMPLETES),
				      .fail = MODEL_FAULT_BIT(SUSPEND_FAILS)},
		[VFU_STEP_RESUME] = {.skip = MODEL_FAULT_BIT(RESUME_NEVER_COMPLETES)},
		[VFU_STEP_VECTOR] = {.skip = MODEL_FAULT_BIT(NO_VECTOR)},
		[VFU_STEP_GENERATION] = {.skip = MODEL_FAULT_BIT(UNSTABLE_GENERATION)},
		[VFU_STEP_CAPABILITY] = {.skip = MODEL_FAULT_BIT(BAD_CAPABILITY)},
		[VFU_STEP_BAR] = {.skip = MODEL_FAULT_BIT(SMALL_BAR)},
		[VFU_STEP_QUEUE] = {.skip = MODEL_FAULT_BIT(QUEUE_NEVER_ENABLES)},
		[VFU_STEP_START] = {.fail = MODEL_FAULT_BIT(NEEDS_RESET)},
		[VFU_STEP_STARTED] = {.skip = MODEL_FAULT_BIT(DISCONNECT)},
		[VFU_STEP_INTERRUPT] = {.skip = MODEL_FAULT_BIT(LOST_INTERRUPTS)},
		[VFU_STEP_CLEAR_FLAG] = {.skip = MODEL_FAULT_BIT(FLAG_STUCK)},
	};
	uint32_t mask =
		__atomic_load_n(&((const struct model_function *)own)->fault, __ATOMIC_RELAXED);

	if ((mask & table[step].skip) != 0)
		return VFU_SKIP;
	return (mask & table[step].fail) != 0 ? VFU_FAIL : VFU_DO;
}
