/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A device's turn on its worker: how many bytes it may move, and for how long, before the worker
 * serves its other devices and its control calls. One budget for all virtqueues of a device, so
 * that neither many virtqueues nor large requests buy a larger share. A class charges what it
 * moves, in pieces of SIM_PIECE at most, and goes on in the device's next turn once the budget is
 * used up. The worker's alone.
 */

#ifndef SIM_TURN_H
#define SIM_TURN_H

#include <stdbool.h>
#include <stdint.h>

#include <rte_cycles.h>

/** Bytes that a device may move in a turn. The last piece may exceed it. */
#define SIM_TURN_BYTES (1 << 20)
/** Bytes that are moved without looking at the budget, at most. */
#define SIM_PIECE      (256u << 10)
/** Microseconds after which a turn begins no further work. */
#define SIM_TURN_US    200
/** Bytes lent up to which the worker gives way to the threads that move them: a turn's. */
#define SIM_LENT_BYTES SIM_TURN_BYTES

struct sim_turn {
	int64_t bytes;	  /**< left of the budget; at most a piece below 0 */
	uint64_t end;	  /**< TSC */
	uint64_t cycles;  /**< SIM_TURN_US; 0, without EAL: no limit */
	uint64_t charged; /**< bytes, of all turns */
	uint64_t cut;	  /**< turns that ended with work left */
	uint64_t lent;	  /**< bytes that threads of the kernel move for the device now */
};

static inline void
sim_turn_begin(struct sim_turn *turn, uint64_t now)
{
	turn->bytes = SIM_TURN_BYTES;
	turn->end = turn->cycles != 0 ? now + turn->cycles : UINT64_MAX;
}

/** Whether the turn may begin another piece of work. */
static inline bool
sim_turn_left(const struct sim_turn *turn)
{
	return turn->bytes > 0 && rte_rdtsc() < turn->end;
}

static inline void
sim_turn_charge(struct sim_turn *turn, uint64_t bytes)
{
	turn->bytes -= (int64_t)bytes;
	__atomic_store_n(&turn->charged, turn->charged + bytes, __ATOMIC_RELAXED);
}

/** Whether the worker should let those threads run that move what was lent: not for long. */
static inline bool
sim_turn_gives_way(const struct sim_turn *turn)
{
	return turn->lent > 0 && turn->lent <= SIM_LENT_BYTES;
}

#endif /* SIM_TURN_H */
