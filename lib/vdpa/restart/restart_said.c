/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Whether a device goes on in the next process, and what has been said of why not. What is shown of
 * it has a lock of its own beside the room's, which is held while the store is waited for: whoever
 * changes it holds both, whoever shows it the small one alone.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "restart.h"
#include "restart_priv.h"

/* What nobody has written a record of. */
#define OTHER_FRONT_END "devices of its front end start anew in this version"

void
restart_show_lock(void)
{
	pthread_mutex_lock(&restart_state.show_lock);
}

void
restart_show_unlock(void)
{
	pthread_mutex_unlock(&restart_state.show_lock);
}

void
restart_set_written(struct restart_device *d, bool written)
{
	restart_show_lock();
	d->written = written;
	restart_show_unlock();
}

const char *
restart_why_not(const struct restart_device *d)
{
	if (d->by_itself || (d->written && d->why == NULL))
		return NULL;
	return d->why != NULL ? d->why : OTHER_FRONT_END;
}

enum vdpa_restart_fate
vdpa_restart_look(const char *device, char *why, size_t size)
{
	enum vdpa_restart_fate fate = VDPA_RESTART_NOT_KEPT;
	const struct restart_device *d;
	const char *text = NULL;

	restart_show_lock();
	d = restart_state.keep != NULL ? restart_find(device) : NULL;
	if (d != NULL && d->by_itself) {
		fate = VDPA_RESTART_BY_ITSELF;
	} else if (restart_state.keep != NULL && restart_state.failed) {
		text = "the store has failed";
		fate = VDPA_RESTART_ENDS;
	} else if (d != NULL) {
		text = restart_why_not(d);
		fate = text == NULL ? VDPA_RESTART_GOES_ON : VDPA_RESTART_ENDS;
		if (text == NULL && d->kill != NULL) {
			text = d->kill;
			fate = VDPA_RESTART_GOES_ON_UNLESS_KILLED;
		}
	}
	snprintf(why, size, "%s", text != NULL ? text : "");
	restart_show_unlock();
	return fate;
}

/* Under the lock: *copy is said from now on, and becomes what was said before. */
static void
exchange(char **said, char **copy)
{
	char *old = *said;

	restart_show_lock();
	*said = *copy;
	restart_show_unlock();
	*copy = old;
}

/* Under the lock. */
static void
say(struct restart_device *d, const char *why)
{
	char *copy = why != NULL ? strdup(why) : NULL;

	if (!d->given_up)
		exchange(&d->why, &copy);
	free(copy);
}

void
vdpa_restart_says(const char *device, const char *why)
{
	struct restart_device *d;

	restart_lock();
	d = restart_find(device);
	if (d != NULL)
		say(d, why);
	restart_unlock();
}

void
vdpa_restart_says_of_kill(const char *device, const char *why)
{
	char *copy = strdup(why);
	struct restart_device *d;

	restart_lock();
	d = restart_find(device);
	if (d != NULL)
		exchange(&d->kill, &copy);
	restart_unlock();
	free(copy);
}

void
restart_give_up(struct restart_device *d, const char *why)
{
	say(d, why);
	d->given_up = true;
}

void
vdpa_restart_give_up(const char *device, const char *why)
{
	struct restart_device *d;

	restart_lock();
	d = restart_find(device);
	if (d != NULL)
		restart_give_up(d, why);
	restart_unlock();
	vdpa_restart_forget(device);
}

bool
vdpa_restart_is_given_up(const char *device)
{
	const struct restart_device *d;
	bool given_up;

	restart_lock();
	d = restart_find(device);
	given_up = d != NULL && d->given_up;
	restart_unlock();
	return given_up;
}

void
vdpa_restart_goes_by_itself(const char *device)
{
	struct restart_device *d;

	restart_lock();
	d = restart_find(device);
	if (d != NULL) {
		restart_show_lock();
		d->by_itself = true;
		restart_show_unlock();
	}
	restart_unlock();
}
