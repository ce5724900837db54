/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Interrupts of a function as a vfio-user client asks for them: an eventfd for each MSI-X vector,
 * and one for the INTx line, which is masked each time it was signalled (as the kernel's VFIO does)
 * until the client unmasks it. Owns the eventfds. In the device's jobs.
 */

#ifndef VFIO_USER_INTERRUPT_H
#define VFIO_USER_INTERRUPT_H

#include <stdbool.h>
#include <stdint.h>

struct vfu_irqs {
	uint16_t n_vectors;
	bool msix_on;
	bool intx_masked, intx_level;
	int intx_fd;
	int *vector_fds; /* -1: none */
};

int vdpa_vfus_irqs_init(struct vfu_irqs *irqs, uint16_t n_vectors);
void vdpa_vfus_irqs_fini(struct vfu_irqs *irqs);
/* Forget what the client asked for: afterwards nothing of it is left. */
void vdpa_vfus_irqs_clear(struct vfu_irqs *irqs);

/* The eventfd of a vector; -1 where there is none, or no such vector. */
int vdpa_vfus_irqs_fd(const struct vfu_irqs *irqs, uint16_t vector);
/* Signal a vector. */
void vdpa_vfus_irqs_fire(const struct vfu_irqs *irqs, uint16_t vector);

/* The line goes up or down. */
void vdpa_vfus_irqs_set_intx(struct vfu_irqs *irqs, bool level);
void vdpa_vfus_irqs_mask_intx(struct vfu_irqs *irqs, bool mask);
/* Takes over fd; -1: none. */
void vdpa_vfus_irqs_set_intx_fd(struct vfu_irqs *irqs, int fd);

#endif /* VFIO_USER_INTERRUPT_H */
