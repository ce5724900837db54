/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The clock of waits, which one file begins and another one ends: all have the same. */

#include "clock.h"

#define LOOK_NS 20000000u

uint64_t
waited_ns(void)
{
	static _Thread_local uint64_t looked_at, waited;
	uint64_t now = now_ns(), passed = now - looked_at;

	waited += passed < LOOK_NS ? passed : LOOK_NS;
	looked_at = now;
	return waited;
}
