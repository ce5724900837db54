/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Interrupts of a function as a vfio-user client asks for them: an eventfd for each MSI-X vector,
 * and one for the INTx line, which is masked each time it was signalled (as the kernel's VFIO does)
 * until the client unmasks it. Owns the eventfds. On the server's thread.
 */

#ifndef MODEL_INTERRUPT_H
#define MODEL_INTERRUPT_H

#include <stdbool.h>
#include <stdint.h>

struct model_interrupts {
	uint16_t n_vectors;
	bool msix_on;
	bool intx_masked, intx_level;
	int intx_fd;
	int *vector_fds; /* -1: none */
};

int model_interrupts_init(struct model_interrupts *irqs, uint16_t n_vectors);
void model_interrupts_fini(struct model_interrupts *irqs);
/* Forget what the client asked for: afterwards nothing of it is left. */
void model_interrupts_clear(struct model_interrupts *irqs);

/* The eventfd of a vector; -1 where there is none, or no such vector. */
int model_interrupts_fd(const struct model_interrupts *irqs, uint16_t vector);
/* Signal a vector. */
void model_interrupts_fire(const struct model_interrupts *irqs, uint16_t vector);

/* The line goes up or down. */
void model_interrupts_set_intx(struct model_interrupts *irqs, bool level);
void model_interrupts_mask_intx(struct model_interrupts *irqs, bool mask);
/* Takes over fd; -1: none. */
void model_interrupts_set_intx_fd(struct model_interrupts *irqs, int fd);

#endif /* MODEL_INTERRUPT_H */
