/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What the model has of a function beside the front end: its faults, and the words of its kind. */

#ifndef MODEL_FUNCTION_H
#define MODEL_FUNCTION_H

#include "model_fault.h"
#include "vfio_user_function.h"

/* Registers of the live-migration block of ring state (function_ifcvf.c). */
enum model_ring_state {
	MODEL_RING_STATE_BY_ID, /* as the PCI ids have it */
	MODEL_RING_STATE_PAIR,	/* 32 bits each, 0x40 bytes for a pair of queues */
	MODEL_RING_STATE_QUEUE, /* 16 bits each, 4 bytes apart */
};

/* vp_params.own of the model's functions. */
struct model_function {
	uint32_t fault;	       /* mask of MODEL_FAULT_*, read at every access; atomic */
	unsigned int delay_ms; /* of faults that answer late; atomic */
	unsigned int ready_ms; /* a kind's firmware takes so long after a reset of the function */
	enum model_ring_state ring_state;
};

/* Kinds (function_*.c). */
extern const struct vp_kind vp_kind_ifcvf, vp_kind_octep;

/* vp_params.ask: what the faults make of a step. own: struct model_function. */
enum vfu_verdict model_ask(const void *own, enum vfu_step step);

static inline const struct model_function *
model_function(const struct vp_function *vp)
{
	return vp->params.own;
}

static inline bool
model_has_fault(const struct model_function *f, uint32_t bit)
{
	return (__atomic_load_n(&f->fault, __ATOMIC_RELAXED) & bit) != 0;
}

static inline bool
vp_has_fault(const struct vp_function *vp, uint32_t bit)
{
	return model_has_fault(model_function(vp), bit);
}

#endif /* MODEL_FUNCTION_H */
