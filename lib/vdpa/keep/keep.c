/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Where file descriptors outlive the process (vdpa_keep.h): what the stores have in common. Owns
 * the names that a former life has left, and the lock by which one call runs at a time.
 */

#include <errno.h>
#include <pthread.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "control_path.h"
#include "keep_priv.h"
#include "tree.h"
#include "vdpa_error.h"
#include "vdpa_fd.h"
#include "vdpa_log.h"

#define UNIX_PREFIX "unix:"

struct left {
	char name[VDPA_KEEP_NAME_MAX + 1];
};

/* What was put or dropped while another process may still go on with the store as it is. */
struct held {
	char name[VDPA_KEEP_NAME_MAX + 1];
	int fd; /* -1: dropped */
	TAILQ_ENTRY(held) next;
};

struct vdpa_keep {
	pthread_mutex_t lock;
	const struct keep_ops *ops;
	void *store;
	bool gone;   /* the store has not answered, or is not there any more */
	bool handed; /* to another process: nothing but vdpa_keep_reopen() is allowed */
	bool holds;  /* changes wait for vdpa_keep_go() */
	TAILQ_HEAD(, held) held;
	struct vdpa_tree left; /* of struct left: by a former life, not put or dropped since */
	unsigned int n_left;
};

static int
compare_left(const void *a, const void *b)
{
	return strcmp(((const struct left *)a)->name, ((const struct left *)b)->name);
}

bool
keep_is_name(const char *name)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789._:-";
	size_t len = strnlen(name, VDPA_KEEP_NAME_MAX + 1);

	return len > 0 && len <= VDPA_KEEP_NAME_MAX && strspn(name, allowed) == len;
}

static int
check_name(const char *name)
{
	return keep_is_name(name)
		       ? 0
		       : vdpa_error(
				 EINVAL,
				 "keep: '%.128s': a name has 1 to %d letters, digits and . _ : -",
				 name, VDPA_KEEP_NAME_MAX);
}

bool
vdpa_keep_is_gone(int rc)
{
	return rc == -EPIPE || rc == -ETIMEDOUT;
}

int
vdpa_keep_default_path(char *buf, size_t size)
{
	return vdpa_runtime_path(NULL, "keeper.sock", buf, size);
}

int
keep_add_left(struct vdpa_keep *k, const char *name)
{
	struct left *left;
	int rc;

	if (!keep_is_name(name))
		return vdpa_error(EPROTO,
				  "keep: what a former process left has a name that is none");
	left = calloc(1, sizeof(*left));
	if (left == NULL)
		return vdpa_error(ENOMEM, "keep: out of memory");
	strcpy(left->name, name);
	rc = vdpa_tree_add(&k->left, left);
	if (rc == 0) {
		k->n_left++;
		return 0;
	}
	free(left);
	return rc == -EEXIST ? vdpa_error(EPROTO, "keep: '%s' is there twice", name)
			     : vdpa_error(ENOMEM, "keep: out of memory");
}

static struct left *
find_left(struct vdpa_keep *k, const char *name)
{
	struct left like;

	strcpy(like.name, name);
	return vdpa_tree_find(&k->left, &like);
}

static void
drop_left(struct vdpa_keep *k, const char *name)
{
	struct left *left = find_left(k, name);

	if (left == NULL)
		return;
	vdpa_tree_del(&k->left, left);
	free(left);
	k->n_left--;
}

static int
open_default(struct vdpa_keep *k, int sock)
{
	char path[128];
	int rc = keep_systemd_open(k, sock, &k->ops, &k->store);

	/* A service without a store may have a keeper. */
	if (rc != -ENOENT && rc != -ENOSPC)
		return rc;
	if (vdpa_keep_default_path(path, sizeof(path)) < 0)
		return rc;
	return keep_unix_open(k, path, &k->ops, &k->store);
}

static int
open_store(const char *where, int sock, struct vdpa_keep **out)
{
	struct vdpa_keep *k = calloc(1, sizeof(*k));
	int rc;

	*out = NULL;
	if (k == NULL)
		return vdpa_error(ENOMEM, "keep: out of memory");
	pthread_mutex_init(&k->lock, NULL);
	TAILQ_INIT(&k->held);
	k->left.compare = compare_left;
	k->holds = sock >= 0;
	if (where == NULL)
		rc = open_default(k, sock);
	else if (strcmp(where, "systemd") == 0)
		rc = keep_systemd_open(k, sock, &k->ops, &k->store);
	else if (strncmp(where, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0)
		rc = keep_unix_open(k, where + strlen(UNIX_PREFIX), &k->ops, &k->store);
	else
		rc = vdpa_error(EINVAL, "keep: '%.128s' is neither systemd nor unix:PATH", where);
	if (rc < 0) {
		vdpa_keep_close(k);
		return rc;
	}
	*out = k;
	return 0;
}

int
vdpa_keep_open(const char *where, struct vdpa_keep **k)
{
	return open_store(where, -1, k);
}

int
vdpa_keep_open_handed(const char *where, int sock, struct vdpa_keep **k)
{
	return open_store(where, sock, k);
}

/* With the lock held, before the store is asked. */
static int
check_store(struct vdpa_keep *k)
{
	if (k->handed)
		return vdpa_error(EPIPE, "keep: another process has the store");
	return k->gone ? vdpa_error(EPIPE, "keep: the store was given up") : 0;
}

/* With the lock held: a change waits. */
static int
hold(struct vdpa_keep *k, const char *name, int fd)
{
	struct held *held = calloc(1, sizeof(*held));

	if (held == NULL)
		return vdpa_error(ENOMEM, "keep: out of memory");
	held->fd = fd < 0 ? -1 : vdpa_fd_dup(fd, name);
	if (fd >= 0 && held->fd < 0) {
		int rc = held->fd;

		free(held);
		return rc;
	}
	strcpy(held->name, name);
	TAILQ_INSERT_TAIL(&k->held, held, next);
	return 0;
}

static void
drop_held(struct vdpa_keep *k)
{
	struct held *held;

	while ((held = TAILQ_FIRST(&k->held)) != NULL) {
		TAILQ_REMOVE(&k->held, held, next);
		if (held->fd >= 0)
			close(held->fd);
		free(held);
	}
}

/* With the lock held, after the store has answered. */
static int
judge(struct vdpa_keep *k, int rc)
{
	if (!vdpa_keep_is_gone(rc))
		return rc;
	k->gone = true;
	VDPA_LOG(ERR, "%s: from now on nothing outlives this process", vdpa_error_message());
	return rc;
}

int
vdpa_keep_put(struct vdpa_keep *k, const char *name, int fd)
{
	int rc = check_name(name);

	if (rc < 0)
		return rc;
	if (fd < 0)
		return vdpa_error(EBADF, "keep: '%s': no descriptor", name);
	pthread_mutex_lock(&k->lock);
	rc = check_store(k);
	if (rc == 0)
		rc = k->holds ? hold(k, name, fd) : judge(k, k->ops->put(k->store, name, fd));
	if (rc == 0)
		drop_left(k, name);
	pthread_mutex_unlock(&k->lock);
	return rc;
}

int
vdpa_keep_del(struct vdpa_keep *k, const char *name)
{
	int rc = check_name(name);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&k->lock);
	rc = check_store(k);
	if (rc == 0)
		rc = k->holds ? hold(k, name, -1) : judge(k, k->ops->del(k->store, name));
	if (rc == 0)
		drop_left(k, name);
	pthread_mutex_unlock(&k->lock);
	return rc;
}

int
vdpa_keep_take(struct vdpa_keep *k, const char *name)
{
	int rc = check_name(name);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&k->lock);
	rc = check_store(k);
	if (rc == 0 && find_left(k, name) == NULL)
		rc = vdpa_error(ENOENT, "keep: a former process has left nothing as '%s'", name);
	if (rc == 0)
		rc = judge(k, k->ops->take(k->store, name));
	pthread_mutex_unlock(&k->lock);
	return rc;
}

struct names {
	struct left *names;
	unsigned int n;
};

static void
collect(const void *node, VISIT visit, void *arg)
{
	struct names *names = arg;

	if (visit == postorder || visit == leaf)
		names->names[names->n++] = **(struct left *const *)node;
}

int
vdpa_keep_for_each(struct vdpa_keep *k, int (*fn)(const char *name, void *arg), void *arg)
{
	struct names names = {.n = 0};
	int rc = 0;

	pthread_mutex_lock(&k->lock);
	names.names = calloc(k->n_left + 1, sizeof(*names.names));
	if (names.names != NULL)
		twalk_r(k->left.root, collect, &names);
	pthread_mutex_unlock(&k->lock);
	if (names.names == NULL)
		return vdpa_error(ENOMEM, "keep: out of memory");
	for (unsigned int i = 0; i < names.n && rc == 0; i++) {
		bool left;

		pthread_mutex_lock(&k->lock);
		left = find_left(k, names.names[i].name) != NULL;
		pthread_mutex_unlock(&k->lock);
		if (left)
			rc = fn(names.names[i].name, arg);
	}
	free(names.names);
	return rc;
}

int
vdpa_keep_barrier(struct vdpa_keep *k, int timeout_ms)
{
	int rc;

	pthread_mutex_lock(&k->lock);
	rc = check_store(k);
	if (rc == 0 && !k->holds)
		rc = judge(k, k->ops->barrier(k->store,
					      timeout_ms > 0 ? timeout_ms : KEEP_PATIENCE_MS));
	pthread_mutex_unlock(&k->lock);
	return rc;
}

/* With the lock held. */
static int
execute(struct vdpa_keep *k, const struct held *held)
{
	return judge(k, held->fd < 0 ? k->ops->del(k->store, held->name)
				     : k->ops->put(k->store, held->name, held->fd));
}

int
vdpa_keep_go(struct vdpa_keep *k, void (*refused)(const char *name, void *arg), void *arg)
{
	struct held *held;
	int rc;

	pthread_mutex_lock(&k->lock);
	rc = check_store(k);
	TAILQ_FOREACH (held, &k->held, next) {
		if (rc < 0)
			break;
		rc = execute(k, held);
		if (vdpa_keep_is_gone(rc))
			break;
		if (rc < 0 && held->fd >= 0)
			refused(held->name, arg);
		rc = 0;
	}
	if (rc == 0)
		rc = judge(k, k->ops->barrier(k->store, KEEP_PATIENCE_MS));
	k->holds = false;
	drop_held(k);
	pthread_mutex_unlock(&k->lock);
	return rc;
}

int
vdpa_keep_hand_over(struct vdpa_keep *k, int sock)
{
	int rc;

	pthread_mutex_lock(&k->lock);
	rc = check_store(k);
	if (rc == 0)
		rc = judge(k, k->ops->barrier(k->store, KEEP_PATIENCE_MS));
	k->handed = rc == 0;
	if (rc == 0)
		rc = k->ops->hand_over(k->store, sock);
	pthread_mutex_unlock(&k->lock);
	return rc;
}

int
vdpa_keep_reopen(struct vdpa_keep *former, struct vdpa_keep **out)
{
	struct vdpa_keep *k = calloc(1, sizeof(*k));
	int rc;

	*out = NULL;
	if (k == NULL)
		return vdpa_error(ENOMEM, "keep: out of memory");
	pthread_mutex_init(&k->lock, NULL);
	TAILQ_INIT(&k->held);
	k->left.compare = compare_left;
	rc = former->ops->reopen(former->store, k, &k->ops, &k->store);
	if (rc < 0) {
		vdpa_keep_close(k);
		return rc;
	}
	*out = k;
	return 0;
}

void
vdpa_keep_close(struct vdpa_keep *k)
{
	if (k == NULL)
		return;
	drop_held(k);
	if (k->ops != NULL)
		k->ops->close(k->store);
	tdestroy(k->left.root, free);
	pthread_mutex_destroy(&k->lock);
	free(k);
}
