/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Who may hold a file of a device in a DMA domain: the processes that were given a doorbell page
 * with it. Such a file cannot be taken back, and its holder can have the device reach all memory in
 * the domain. So the account belongs to the domain, and lasts as long: the transport keeps a domain
 * until nobody has a file of its devices.
 */

#ifndef PAGE_HOLDERS_H
#define PAGE_HOLDERS_H

#include <pthread.h>

#include "vdpa_dma.h"
#include "vdpa_peer.h"

/* All but the last two under the lock, which is innermost. */
struct vdpa_page_holders {
	pthread_mutex_t lock;
	bool any, several;	/* processes */
	struct vdpa_peer first; /* all others have its uid */
	pthread_mutex_t noting; /* outside of the lock, and around the call */
	void (*noted)(void *arg);
	void *noted_arg;
};

void vdpa_page_holders_init(struct vdpa_page_holders *h);
void vdpa_page_holders_fini(struct vdpa_page_holders *h);

/* dma_domain.c: those of a domain, which lives as long. */
struct vdpa_page_holders *vdpa_dma_page_holders(struct vdpa_dma_domain *dom);

/*
 * Whether the guest of a process may use the domain: yes where nobody holds a page, else for the
 * uid of the holders, or (once) for their process alone. -EACCES with a message that begins with
 * name.
 */
int vdpa_page_holders_admit(struct vdpa_page_holders *h, const char *name,
			    const struct vdpa_peer *peer, bool once);

/* One more holder, if it is admitted; else -EACCES. */
int vdpa_page_holders_add(struct vdpa_page_holders *h, const char *name,
			  const struct vdpa_peer *peer, bool once);

/* Those that a former process has known, before there are others. */
void vdpa_page_holders_restore(struct vdpa_page_holders *h, const struct vdpa_peer *first,
			       bool several);
/* Call noted(arg) for each that is added, before its page is given; NULL: no longer, and none is
 * under way. Not from the call. */
void vdpa_page_holders_note(struct vdpa_page_holders *h, void (*noted)(void *arg), void *arg);

/* A copy without a lock to look at; any is false where there is none. */
struct vdpa_page_holders vdpa_page_holders_look(struct vdpa_page_holders *h);

#endif /* PAGE_HOLDERS_H */
