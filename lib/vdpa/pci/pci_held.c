/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A function that a process hands over while it lives, and may have back: until vdpa_restart_go()
 * this one does nothing to it that the other one could not go on behind. Registers are read, the
 * interrupts get eventfds in place, and mappings become this process' one by one; the other one
 * does the same again. What would stop the function, a reset, interrupts off, bus master off, an
 * unmap, is not done: instead this process reaches it no more (vdpa_pci_let_be()), and the
 * hand-over fails. Owns whether it is so.
 */

#include <errno.h>
#include <stdlib.h>

#include "pci_device.h"
#include "pci_kept.h"
#include "restart.h"
#include "vdpa_error.h"
#include "vdpa_log.h"

/* The other process is gone, and this one has left the function behind: nobody drives it, and its
 * mappings are not known any more. */
static void
stop_unwanted(struct vdpa_pci *pci)
{
	pci->own_ops->stop(pci->handle);
	vdpa_pci_gone(pci, EIO,
		      "%s: has failed while it was taken over, and was stopped; delete the device "
		      "and add it again",
		      pci->name);
}

static void
it_goes(struct vdpa_restart_waiter *w)
{
	struct vdpa_pci *pci = w->arg;

	pthread_mutex_lock(&pci->held_lock);
	__atomic_store_n(&pci->is_held, false, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&pci->held_lock);
	if (vdpa_pci_is_left_behind(pci)) {
		stop_unwanted(pci);
		return;
	}
	/* What has failed meanwhile was not stopped. */
	if (vdpa_pci_error(pci) != 0)
		pci->ops->stop(pci->handle);
	vdpa_pci_kept_goes(pci);
}

int
vdpa_pci_hold(struct vdpa_pci *pci)
{
	/* To let it be must not fail. */
	pci->left_ops = malloc(sizeof(*pci->left_ops));
	if (pci->left_ops == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", pci->name);
	pci->waiter = (struct vdpa_restart_waiter){.go = it_goes, .arg = pci};
	__atomic_store_n(&pci->is_held, true, __ATOMIC_RELEASE);
	if (!vdpa_restart_when_it_goes(&pci->waiter))
		__atomic_store_n(&pci->is_held, false, __ATOMIC_RELEASE);
	return 0;
}

bool
vdpa_pci_waits(const struct vdpa_pci *pci)
{
	return __atomic_load_n(&pci->is_held, __ATOMIC_ACQUIRE);
}

bool
vdpa_pci_is_held(const struct vdpa_pci *pci)
{
	return vdpa_pci_waits(pci) && !pci->is_idle && !vdpa_pci_is_left_behind(pci);
}

int
vdpa_pci_held_error(const struct vdpa_pci *pci)
{
	return vdpa_error(EBUSY,
			  "%s: the process that has handed it over may go on with it, so it is not "
			  "stopped",
			  pci->name);
}

bool
vdpa_pci_let_be(struct vdpa_pci *pci)
{
	bool held;

	pthread_mutex_lock(&pci->held_lock);
	held = vdpa_pci_is_held(pci);
	if (held) {
		(void)vdpa_pci_kept_leave(pci);
		VDPA_LOG(WARNING, "%s: is not taken over: the other process may go on with it",
			 pci->name);
	}
	pthread_mutex_unlock(&pci->held_lock);
	return held;
}

void
vdpa_pci_hold_ends(struct vdpa_pci *pci)
{
	(void)vdpa_pci_let_be(pci);
	vdpa_restart_waits_no_more(&pci->waiter);
}
