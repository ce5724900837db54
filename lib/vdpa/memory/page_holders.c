/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The account of who may hold a file of a domain's devices, and who is admitted beside them. */

#include <errno.h>
#include <stdio.h>

#include "page_holders.h"
#include "vdpa_error.h"

void
vdpa_page_holders_init(struct vdpa_page_holders *h)
{
	/* With default attributes it cannot fail. */
	(void)pthread_mutex_init(&h->lock, NULL);
	(void)pthread_mutex_init(&h->noting, NULL);
	h->any = h->several = false;
	h->noted = NULL;
}

void
vdpa_page_holders_restore(struct vdpa_page_holders *h, const struct vdpa_peer *first, bool several)
{
	pthread_mutex_lock(&h->lock);
	h->any = true;
	h->several = several;
	h->first = *first;
	pthread_mutex_unlock(&h->lock);
}

void
vdpa_page_holders_note(struct vdpa_page_holders *h, void (*noted)(void *arg), void *arg)
{
	pthread_mutex_lock(&h->noting);
	h->noted = noted;
	h->noted_arg = arg;
	pthread_mutex_unlock(&h->noting);
}

void
vdpa_page_holders_fini(struct vdpa_page_holders *h)
{
	pthread_mutex_destroy(&h->noting);
	pthread_mutex_destroy(&h->lock);
}

/* "uid 1001 (pid 77)", for messages. */
static const char *
name_of(const struct vdpa_peer *peer, const char *others, char *buf, size_t len)
{
	if (!peer->known)
		snprintf(buf, len, "a front end of an unknown user");
	else
		snprintf(buf, len, "uid %u (pid %d%s)", (unsigned int)peer->uid, (int)peer->pid,
			 others);
	return buf;
}

/* Under the lock. */
static int
admit(const struct vdpa_page_holders *h, const char *name, const struct vdpa_peer *peer, bool once)
{
	char holder[64], other[64];
	bool same = once ? !h->several && vdpa_peer_same_process(&h->first, peer)
			 : vdpa_peer_same_user(&h->first, peer);

	if (!h->any || same)
		return 0;
	name_of(&h->first, h->several ? " and others" : "", holder, sizeof(holder));
	name_of(peer, "", other, sizeof(other));
	return vdpa_error(
		EACCES,
		"%s: %s was given a doorbell page, with which the memory of every guest of the "
		"function can be reached: %s is refused%s until that is closed; then delete the "
		"device and add it again, with no_doorbells to give no page",
		name, holder, other,
		once && vdpa_peer_same_user(&h->first, peer) ? " (doorbells once)" : "");
}

int
vdpa_page_holders_admit(struct vdpa_page_holders *h, const char *name, const struct vdpa_peer *peer,
			bool once)
{
	int rc;

	pthread_mutex_lock(&h->lock);
	rc = admit(h, name, peer, once);
	pthread_mutex_unlock(&h->lock);
	return rc;
}

int
vdpa_page_holders_add(struct vdpa_page_holders *h, const char *name, const struct vdpa_peer *peer,
		      bool once)
{
	int rc;

	pthread_mutex_lock(&h->noting);
	pthread_mutex_lock(&h->lock);
	rc = admit(h, name, peer, once);
	if (rc == 0 && !h->any)
		h->first = *peer;
	else if (rc == 0 && !vdpa_peer_same_process(&h->first, peer))
		h->several = true;
	if (rc == 0)
		h->any = true;
	pthread_mutex_unlock(&h->lock);
	if (rc == 0 && h->noted != NULL)
		h->noted(h->noted_arg);
	pthread_mutex_unlock(&h->noting);
	return rc;
}

struct vdpa_page_holders
vdpa_page_holders_look(struct vdpa_page_holders *h)
{
	struct vdpa_page_holders copy = {.any = false};

	pthread_mutex_lock(&h->lock);
	copy.any = h->any;
	copy.several = h->several;
	copy.first = h->first;
	pthread_mutex_unlock(&h->lock);
	return copy;
}
