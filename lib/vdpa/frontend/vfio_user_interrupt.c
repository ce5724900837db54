/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * MSI-X eventfds and the INTx line of a function.
 */

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "vfio_user_interrupt.h"
#include "vdpa_args.h"
#include "vdpa_event.h"

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

int
vdpa_vfus_irqs_init(struct vfu_irqs *irqs, uint16_t n_vectors)
{
	*irqs = (struct vfu_irqs){.n_vectors = n_vectors, .intx_fd = -1};
	irqs->vector_fds = malloc(n_vectors * sizeof(*irqs->vector_fds));
	if (irqs->vector_fds == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	for (uint16_t i = 0; i < n_vectors; i++)
		irqs->vector_fds[i] = -1;
	return 0;
}

void
vdpa_vfus_irqs_clear(struct vfu_irqs *irqs)
{
	for (uint16_t i = 0; i < irqs->n_vectors; i++)
		close_fd(&irqs->vector_fds[i]);
	close_fd(&irqs->intx_fd);
	irqs->msix_on = false;
	irqs->intx_masked = false;
}

void
vdpa_vfus_irqs_fini(struct vfu_irqs *irqs)
{
	if (irqs->vector_fds == NULL)
		return;
	vdpa_vfus_irqs_clear(irqs);
	free(irqs->vector_fds);
	irqs->vector_fds = NULL;
}

int
vdpa_vfus_irqs_fd(const struct vfu_irqs *irqs, uint16_t vector)
{
	return vector < irqs->n_vectors ? irqs->vector_fds[vector] : -1;
}

void
vdpa_vfus_irqs_fire(const struct vfu_irqs *irqs, uint16_t vector)
{
	int fd = vdpa_vfus_irqs_fd(irqs, vector);

	if (fd >= 0)
		vdpa_eventfd_signal(fd);
}

static void
signal_intx(struct vfu_irqs *irqs)
{
	if (!irqs->intx_level || irqs->intx_masked || irqs->intx_fd < 0)
		return;
	irqs->intx_masked = true;
	vdpa_eventfd_signal(irqs->intx_fd);
}

void
vdpa_vfus_irqs_set_intx(struct vfu_irqs *irqs, bool level)
{
	irqs->intx_level = level && !irqs->msix_on;
	signal_intx(irqs);
}

void
vdpa_vfus_irqs_mask_intx(struct vfu_irqs *irqs, bool mask)
{
	irqs->intx_masked = mask;
	signal_intx(irqs);
}

void
vdpa_vfus_irqs_set_intx_fd(struct vfu_irqs *irqs, int fd)
{
	close_fd(&irqs->intx_fd);
	irqs->intx_fd = fd;
	irqs->intx_masked = false;
	signal_intx(irqs);
}
