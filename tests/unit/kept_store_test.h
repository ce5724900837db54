/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The store of a function's test: what restart.h keeps of the device v0, its descriptor that was
 * put last and the part of its record that is its function's. Link with --wrap of these calls, and
 * include it after cmocka.h.
 */

#ifndef KEPT_STORE_TEST_H
#define KEPT_STORE_TEST_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "restart.h"
#include "vdpa_error.h"

static struct {
	bool on, leaves;
	char what[64]; /* of fd */
	int fd;	       /* -1: none */
	uint8_t record[VDPA_RESTART_RECORD_MAX];
	int len; /* negative: none */
	unsigned int writes;
	int write_err;
	bool given_up;
	/* Another process lives, and may have back what it has handed over. */
	bool holds;
	struct vdpa_restart_waiter *waiter;
	unsigned int lost;
} store = {.fd = -1, .len = -ENOENT};

bool __wrap_vdpa_restart_is_on(void);
bool __wrap_vdpa_restart_leaves(void);
int __wrap_vdpa_restart_change_begins(void);
void __wrap_vdpa_restart_change_ends(void);
int __wrap_vdpa_restart_put(const char *device, const char *what, int fd);
void __wrap_vdpa_restart_del(const char *device, const char *what);
int __wrap_vdpa_restart_take(const char *device, const char *what);
int __wrap_vdpa_restart_write_part(const char *device, const char *part, const void *record,
				   size_t len);
int __wrap_vdpa_restart_read_part(const char *device, const char *part, void *buf, size_t size);
void __wrap_vdpa_restart_remove_part(const char *device, const char *part);
void __wrap_vdpa_restart_give_up(const char *device, const char *why);
bool __wrap_vdpa_restart_is_given_up(const char *device);
bool __wrap_vdpa_restart_holds(void);
bool __wrap_vdpa_restart_when_it_goes(struct vdpa_restart_waiter *w);
void __wrap_vdpa_restart_waits_no_more(struct vdpa_restart_waiter *w);
void __wrap_vdpa_restart_lost(const char *device);

bool
__wrap_vdpa_restart_is_on(void)
{
	return store.on;
}

bool
__wrap_vdpa_restart_leaves(void)
{
	return store.leaves;
}

int
__wrap_vdpa_restart_change_begins(void)
{
	return store.leaves ? -EBUSY : 0;
}

void
__wrap_vdpa_restart_change_ends(void)
{
}

void
__wrap_vdpa_restart_del(const char *device, const char *what)
{
	if (strcmp(store.what, what) == 0 && store.fd >= 0) {
		close(store.fd);
		store.fd = -1;
	}
}

int
__wrap_vdpa_restart_put(const char *device, const char *what, int fd)
{
	assert_string_equal(device, "v0");
	if (store.fd >= 0)
		close(store.fd);
	snprintf(store.what, sizeof(store.what), "%s", what);
	store.fd = dup(fd);
	return 0;
}

int
__wrap_vdpa_restart_take(const char *device, const char *what)
{
	if (store.fd < 0 || strcmp(store.what, what) != 0)
		return vdpa_error(ENOENT, "nothing is left as %s", what);
	return dup(store.fd);
}

int
__wrap_vdpa_restart_write_part(const char *device, const char *part, const void *record, size_t len)
{
	assert_string_equal(part, "function");
	if (store.given_up)
		return vdpa_error(ECANCELED, "given up");
	if (store.write_err != 0)
		return vdpa_error(store.write_err, "no room");
	memcpy(store.record, record, len);
	store.len = (int)len;
	store.writes++;
	return 0;
}

int
__wrap_vdpa_restart_read_part(const char *device, const char *part, void *buf, size_t size)
{
	if (store.len < 0)
		return vdpa_error(ENOENT, "no record");
	assert_true((size_t)store.len <= size);
	memcpy(buf, store.record, (size_t)store.len);
	return store.len;
}

void
__wrap_vdpa_restart_remove_part(const char *device, const char *part)
{
	store.len = -ENOENT;
}

void
__wrap_vdpa_restart_give_up(const char *device, const char *why)
{
	assert_string_equal(device, "v0");
	assert_non_null(strstr(why, "no room"));
	store.given_up = true;
	store.len = -ENOENT;
}

bool
__wrap_vdpa_restart_is_given_up(const char *device)
{
	return store.given_up;
}

bool
__wrap_vdpa_restart_holds(void)
{
	return store.holds;
}

bool
__wrap_vdpa_restart_when_it_goes(struct vdpa_restart_waiter *w)
{
	if (store.holds)
		store.waiter = w;
	return store.holds;
}

void
__wrap_vdpa_restart_waits_no_more(struct vdpa_restart_waiter *w)
{
	if (store.waiter == w)
		store.waiter = NULL;
}

void
__wrap_vdpa_restart_lost(const char *device)
{
	store.lost++;
}

#endif /* KEPT_STORE_TEST_H */
