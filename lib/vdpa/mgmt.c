/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Management: the registries of drivers, management devices and front ends, and the calls that
 * create, change and delete devices by words. One recursive lock (probing registers management
 * devices, deleting one deletes its devices) guards all of it.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_ids.h>

#include "args_priv.h"
#include "device_priv.h"
#include "mgmt.h"
#include "vdpa_fd.h"
#include "vdpa_log.h"
#include "vdpa_priv.h"
#include "vhost_user.h"

#define FRONTENDS_MAX 8
/* Descriptors that a device and its front end take before anybody connects, at most. */
#define DEVICE_FDS    8

static struct vdpa_driver *const builtin_drivers[] = {&vdpa_sim_driver, &vdpa_virtio_driver, NULL};
static struct vdpa_frontend *const builtin_frontends[] = {&vdpa_vhost_user_frontend, NULL};

static pthread_mutex_t mgmt_lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static bool builtins_registered;
static TAILQ_HEAD(, vdpa_driver) drivers = TAILQ_HEAD_INITIALIZER(drivers);
static TAILQ_HEAD(, vdpa_mgmt_dev) mgmt_devs = TAILQ_HEAD_INITIALIZER(mgmt_devs);
static TAILQ_HEAD(, vdpa_frontend) frontends = TAILQ_HEAD_INITIALIZER(frontends);

/* Words that every device takes. */
static const struct vdpa_param common_params[] = {
	{.name = "name",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "NAME",
	 .max = VDPA_NAME_MAX - 1,
	 .help = "the device's name, A-Z a-z 0-9 . _ -"},
	{.name = "mgmtdev",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "MGMTDEV",
	 .max = VDPA_MGMTDEV_NAME_MAX - 1,
	 .help = "what makes it, see the list of management devices"},
	{.name = "frontend",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "FRONTEND",
	 .max = VDPA_NAME_MAX - 1,
	 .help = "who serves it; default: the front end whose words are given, else none"},
	{.name = NULL},
};

void
vdpa_mgmt_lock(void)
{
	pthread_mutex_lock(&mgmt_lock);
}

void
vdpa_mgmt_unlock(void)
{
	pthread_mutex_unlock(&mgmt_lock);
}

static struct vdpa_mgmt_dev *
find_mgmtdev(const char *name)
{
	struct vdpa_mgmt_dev *mdev;

	TAILQ_FOREACH (mdev, &mgmt_devs, next)
		if (strcmp(mdev->name, name) == 0)
			return mdev;
	return NULL;
}

/* A pattern of a driver: a name, or a prefix with an asterisk. */
static bool
is_prefix(const char *pattern)
{
	size_t len = strlen(pattern);

	return len > 0 && pattern[len - 1] == '*';
}

static bool
pattern_matches(const char *pattern, const char *name)
{
	return is_prefix(pattern) ? strncmp(pattern, name, strlen(pattern) - 1) == 0
				  : strcmp(pattern, name) == 0;
}

static bool
driver_matches(const struct vdpa_driver *drv, const char *name)
{
	for (const char *const *m = drv->match; *m != NULL; m++)
		if (pattern_matches(*m, name))
			return true;
	return false;
}

static void __attribute__((format(printf, 4, 5)))
append(char *buf, size_t size, size_t *used, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (*used < size)
		*used += (size_t)vsnprintf(buf + *used, size - *used, fmt, ap);
	va_end(ap);
}

/* Names that can be given for a management device: "sim_net, sim_blk, pci/..., vfio-user/...". */
static void
known_mgmtdevs(char *buf, size_t size)
{
	const struct vdpa_mgmt_dev *mdev;
	const struct vdpa_driver *drv;
	size_t used = 0;

	buf[0] = '\0';
	TAILQ_FOREACH (mdev, &mgmt_devs, next)
		if (mdev->drv == NULL)
			append(buf, size, &used, "%s%s", used > 0 ? ", " : "", mdev->name);
	TAILQ_FOREACH (drv, &drivers, next)
		for (const char *const *m = drv->match; *m != NULL; m++)
			if (is_prefix(*m))
				append(buf, size, &used, "%s%.*s...", used > 0 ? ", " : "",
				       (int)strlen(*m) - 1, *m);
}

/*
 * The management device of that name, asking the drivers that match it when there is none yet. One
 * that comes of a pattern is released by put_mgmtdev().
 */
static int
get_mgmtdev(const char *name, struct vdpa_mgmt_dev **out)
{
	struct vdpa_mgmt_dev *mdev = find_mgmtdev(name);
	struct vdpa_driver *drv;
	char known[256];
	int rc;

	if (strlen(name) >= VDPA_MGMTDEV_NAME_MAX)
		return vdpa_error(EINVAL, "mgmtdev '%s': %zu characters, allowed are up to %d",
				  name, strlen(name), VDPA_MGMTDEV_NAME_MAX - 1);
	TAILQ_FOREACH (drv, &drivers, next) {
		if (mdev != NULL)
			break;
		if (!driver_matches(drv, name))
			continue;
		rc = drv->probe(drv, name);
		if (rc < 0 && rc != -ENODEV)
			return rc;
		mdev = find_mgmtdev(name);
		if (mdev != NULL)
			mdev->drv = drv;
	}
	if (mdev != NULL) {
		*out = mdev;
		return 0;
	}
	known_mgmtdevs(known, sizeof(known));
	return vdpa_error(ENODEV, "mgmtdev '%s': there is none of that name, there are %s", name,
			  known);
}

static int
is_of(struct vdpa_device *vdev, void *arg)
{
	return vdev->mdev == arg;
}

/* A named parent's management device is there for its devices only. Keeps the error message. */
static void
put_mgmtdev(struct vdpa_mgmt_dev *mdev)
{
	char why[VDPA_ERROR_MAX];

	if (mdev == NULL || mdev->drv == NULL || vdpa_bus_for_each(is_of, mdev) != 0)
		return;
	snprintf(why, sizeof(why), "%s", vdpa_error_message());
	mdev->drv->release(mdev->drv, mdev);
	vdpa_error(0, "%s", why);
}

int
vdpa_mgmtdev_register(struct vdpa_mgmt_dev *mdev)
{
	int rc = 0;

	if (strlen(mdev->name) >= VDPA_MGMTDEV_NAME_MAX)
		return vdpa_error(EINVAL, "mgmtdev '%s': the name is too long", mdev->name);
	pthread_mutex_lock(&mgmt_lock);
	mdev->drv = NULL;
	if (find_mgmtdev(mdev->name) != NULL)
		rc = vdpa_error(EEXIST, "mgmtdev '%s': is registered", mdev->name);
	else
		TAILQ_INSERT_TAIL(&mgmt_devs, mdev, next);
	pthread_mutex_unlock(&mgmt_lock);
	return rc;
}

/* By what made it; by ourselves where an application did. */
static int
delete_device(struct vdpa_device *vdev, void *arg)
{
	if (vdev->mdev != NULL)
		vdev->mdev->ops->dev_del(vdev->mdev, vdev);
	else
		vdpa_unregister_device(vdev);
	return 0;
}

static int
delete_if_of(struct vdpa_device *vdev, void *arg)
{
	return vdev->mdev == arg ? delete_device(vdev, NULL) : 0;
}

void
vdpa_mgmtdev_unregister(struct vdpa_mgmt_dev *mdev)
{
	pthread_mutex_lock(&mgmt_lock);
	vdpa_bus_for_each(delete_if_of, mdev);
	TAILQ_REMOVE(&mgmt_devs, mdev, next);
	pthread_mutex_unlock(&mgmt_lock);
}

int
vdpa_mgmtdev_for_each(int (*fn)(struct vdpa_mgmt_dev *mdev, void *arg), void *arg)
{
	struct vdpa_mgmt_dev *mdev;
	int rc = 0;

	pthread_mutex_lock(&mgmt_lock);
	TAILQ_FOREACH (mdev, &mgmt_devs, next) {
		rc = fn(mdev, arg);
		if (rc != 0)
			break;
	}
	pthread_mutex_unlock(&mgmt_lock);
	return rc;
}

int
vdpa_register_driver(struct vdpa_driver *drv)
{
	int rc = 0;

	for (const char *const *m = drv->match; *m != NULL; m++)
		if (is_prefix(*m) && drv->release == NULL)
			return vdpa_error(EINVAL, "driver '%s': parents like %s need a release",
					  drv->name, *m);
	pthread_mutex_lock(&mgmt_lock);
	TAILQ_INSERT_TAIL(&drivers, drv, next);
	for (const char *const *m = drv->match; rc == 0 && *m != NULL; m++)
		if (!is_prefix(*m)) {
			rc = drv->probe(drv, *m);
			if (rc == -ENODEV)
				rc = 0;
		}
	if (rc < 0) {
		drv->remove(drv);
		TAILQ_REMOVE(&drivers, drv, next);
	}
	pthread_mutex_unlock(&mgmt_lock);
	return rc;
}

void
vdpa_unregister_driver(struct vdpa_driver *drv)
{
	pthread_mutex_lock(&mgmt_lock);
	drv->remove(drv);
	TAILQ_REMOVE(&drivers, drv, next);
	pthread_mutex_unlock(&mgmt_lock);
}

int
vdpa_register_frontend(struct vdpa_frontend *fe)
{
	struct vdpa_frontend *other;
	unsigned int n = 0;
	int rc = 0;

	pthread_mutex_lock(&mgmt_lock);
	TAILQ_FOREACH (other, &frontends, next) {
		n++;
		if (strcmp(other->name, fe->name) == 0)
			rc = vdpa_error(EEXIST, "frontend '%s': is registered", fe->name);
	}
	if (rc == 0 && n == FRONTENDS_MAX)
		rc = vdpa_error(ENOSPC, "frontend '%s': there are %u already", fe->name, n);
	if (rc == 0)
		TAILQ_INSERT_TAIL(&frontends, fe, next);
	pthread_mutex_unlock(&mgmt_lock);
	return rc;
}

static int
delete_if_served_by(struct vdpa_device *vdev, void *arg)
{
	struct vdpa_mgmt_dev *mdev = vdev->mdev;

	if (vdev->core->fe == arg) {
		delete_device(vdev, NULL);
		put_mgmtdev(mdev);
	}
	return 0;
}

void
vdpa_unregister_frontend(struct vdpa_frontend *fe)
{
	pthread_mutex_lock(&mgmt_lock);
	vdpa_bus_for_each(delete_if_served_by, fe);
	TAILQ_REMOVE(&frontends, fe, next);
	pthread_mutex_unlock(&mgmt_lock);
}

void
vdpa_mgmt_fini(void)
{
	pthread_mutex_lock(&mgmt_lock);
	vdpa_bus_for_each(delete_device, NULL);
	while (!TAILQ_EMPTY(&drivers))
		vdpa_unregister_driver(TAILQ_FIRST(&drivers));
	while (!TAILQ_EMPTY(&frontends))
		vdpa_unregister_frontend(TAILQ_FIRST(&frontends));
	builtins_registered = false;
	pthread_mutex_unlock(&mgmt_lock);
}

/* Register what is built in, once. Under the management lock. */
static int
register_builtins(void)
{
	int rc = 0;

	if (builtins_registered)
		return 0;
	builtins_registered = true;
	for (unsigned int i = 0; rc == 0 && builtin_frontends[i] != NULL; i++)
		rc = vdpa_register_frontend(builtin_frontends[i]);
	for (unsigned int i = 0; rc == 0 && builtin_drivers[i] != NULL; i++)
		rc = vdpa_register_driver(builtin_drivers[i]);
	if (rc < 0)
		vdpa_mgmt_fini();
	return rc;
}

int
vdpa_mgmt_init(void)
{
	int rc;

	pthread_mutex_lock(&mgmt_lock);
	rc = register_builtins();
	pthread_mutex_unlock(&mgmt_lock);
	return rc;
}

/* What dev_add acts on, parsed and checked. */
struct add_request {
	struct vdpa_words words;
	struct vdpa_args args;
	const char *name;
	struct vdpa_mgmt_dev *mdev;
	struct vdpa_frontend *fe; /* NULL: none */
};

/* The front end that was named, or whose words were given. */
static int
choose_frontend(struct add_request *req, struct vdpa_frontend *const *fes, const char *const *used,
		unsigned int n)
{
	const char *named = vdpa_args_str(&req->args, "frontend", NULL);
	char known[128] = "";
	size_t len = 0;

	for (unsigned int i = 0; i < n; i++) {
		if (named != NULL ? strcmp(fes[i]->name, named) == 0
				  : fes[i]->implied_by != NULL &&
					    vdpa_args_has(&req->args, fes[i]->implied_by))
			req->fe = fes[i];
		if (len < sizeof(known))
			len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s",
						len > 0 ? ", " : "", fes[i]->name);
	}
	if (named != NULL && req->fe == NULL)
		return vdpa_error(EINVAL, "frontend '%s': allowed are %s", named, known);
	for (unsigned int i = 0; i < n; i++)
		if (used[i] != NULL && fes[i] != req->fe)
			return vdpa_error(EINVAL, "%s: is a word of the front end %s%s%s", used[i],
					  fes[i]->name,
					  fes[i]->implied_by != NULL ? ", which needs " : "",
					  fes[i]->implied_by != NULL ? fes[i]->implied_by : "");
	return 0;
}

static int
parse_add(const char *text, struct add_request *req)
{
	struct vdpa_param_table tables[2 + FRONTENDS_MAX];
	struct vdpa_frontend *fes[FRONTENDS_MAX], *fe;
	const char *used[FRONTENDS_MAX] = {NULL};
	unsigned int n = 0;
	const char *mgmtdev = NULL;
	int rc;

	memset(req, 0, sizeof(*req));
	rc = vdpa_words_split(text, &req->words);
	if (rc < 0)
		return rc;
	/* The management device decides which other words there are: name and mgmtdev come first.
	 */
	for (unsigned int i = 0; i + 1 < req->words.n && i < 4; i += 2) {
		if (strcmp(req->words.word[i], "name") == 0)
			req->name = req->words.word[i + 1];
		else if (strcmp(req->words.word[i], "mgmtdev") == 0)
			mgmtdev = req->words.word[i + 1];
	}
	if (req->name == NULL || mgmtdev == NULL) {
		rc = vdpa_error(EINVAL, "device '%s': must begin with name NAME mgmtdev MGMTDEV",
				text);
		goto err;
	}
	rc = get_mgmtdev(mgmtdev, &req->mdev);
	if (rc < 0)
		goto err;

	tables[0] = (struct vdpa_param_table){.params = common_params};
	tables[1] = (struct vdpa_param_table){.params = req->mdev->params};
	TAILQ_FOREACH (fe, &frontends, next) {
		fes[n] = fe;
		tables[2 + n] = (struct vdpa_param_table){.params = fe->params, .used = &used[n]};
		n++;
	}
	rc = vdpa_args_parse(&req->words, 0, tables, 2 + n, &req->args);
	if (rc == 0)
		rc = choose_frontend(req, fes, used, n);
	if (rc == 0)
		return 0;
	put_mgmtdev(req->mdev);
err:
	vdpa_words_free(&req->words);
	return rc;
}

int
vdpa_dev_check(const char *words)
{
	struct add_request req;
	int rc;

	pthread_mutex_lock(&mgmt_lock);
	rc = register_builtins();
	if (rc == 0)
		rc = parse_add(words, &req);
	if (rc == 0) {
		put_mgmtdev(req.mdev);
		vdpa_words_free(&req.words);
	}
	pthread_mutex_unlock(&mgmt_lock);
	return rc;
}

static int
bind_frontend(struct vdpa_device *vdev, struct vdpa_frontend *fe, const struct vdpa_args *args)
{
	int rc;

	if (fe->ops->match != NULL && !fe->ops->match(vdev))
		return vdpa_error(ENOTSUP, "%s: the front end %s cannot serve this device",
				  vdev->name, fe->name);
	__atomic_store_n(&vdev->core->fe, fe, __ATOMIC_RELEASE);
	rc = fe->ops->probe(vdev, args);
	if (rc < 0)
		__atomic_store_n(&vdev->core->fe, NULL, __ATOMIC_RELEASE);
	return rc;
}

int
vdpa_dev_add(const char *words)
{
	struct vdpa_device *vdev;
	struct add_request req;
	int rc;

	pthread_mutex_lock(&mgmt_lock);
	if (vdpa_event_loop_control() == NULL) {
		rc = vdpa_error(EPROTO, "uvdpa is not initialised");
		goto out;
	}
	rc = parse_add(words, &req);
	if (rc < 0)
		goto out;
	rc = vdpa_fd_room(DEVICE_FDS, req.name);
	if (rc == 0)
		rc = req.mdev->ops->dev_add(req.mdev, req.name, &req.args);
	if (rc < 0)
		goto out_words;
	vdev = vdpa_find_device(req.name);
	if (vdev == NULL) {
		rc = vdpa_error(ENODEV, "%s: %s did not register it", req.name, req.mdev->name);
		goto out_words;
	}
	if (req.fe != NULL)
		rc = bind_frontend(vdev, req.fe, &req.args);
	if (rc < 0) {
		char why[VDPA_ERROR_MAX];

		snprintf(why, sizeof(why), "%s", vdpa_error_message());
		req.mdev->ops->dev_del(req.mdev, vdev);
		vdpa_error(rc, "%s", why);
	}
	vdpa_put_device(vdev);
out_words:
	put_mgmtdev(req.mdev);
	vdpa_words_free(&req.words);
out:
	pthread_mutex_unlock(&mgmt_lock);
	return rc;
}

static int
no_such_device(const char *name)
{
	return vdpa_error(ENODEV, "device '%s': there is none of that name", name);
}

int
vdpa_dev_del(const char *name)
{
	struct vdpa_mgmt_dev *mdev;
	struct vdpa_device *vdev;
	int rc = 0;

	pthread_mutex_lock(&mgmt_lock);
	vdev = vdpa_find_device(name);
	if (vdev == NULL) {
		rc = no_such_device(name);
	} else {
		mdev = vdev->mdev;
		delete_device(vdev, NULL);
		vdpa_put_device(vdev);
		put_mgmtdev(mdev);
	}
	pthread_mutex_unlock(&mgmt_lock);
	return rc;
}

static int
set_attr(struct vdpa_device *vdev, const struct vdpa_words *words)
{
	struct vdpa_mgmt_dev *mdev = vdev->mdev;
	struct vdpa_param_table table = {.params = mdev != NULL ? mdev->attr_params : NULL};
	const struct vdpa_frontend *fe = vdev->core->fe;
	const struct vdpa_arg *link;
	struct vdpa_args args;
	int rc;

	if (table.params == NULL || mdev->ops->dev_set_attr == NULL)
		return vdpa_error(EOPNOTSUPP, "%s: has no attributes to set", vdev->name);
	rc = vdpa_args_parse(words, 1, &table, 1, &args);
	if (rc < 0)
		return rc;
	if (args.n == 0)
		return vdpa_error(EINVAL, "%s: no attribute is given", vdev->name);
	vdpa_device_lock(vdev);
	rc = mdev->ops->dev_set_attr(mdev, vdev, &args);
	vdpa_device_unlock(vdev);
	link = vdpa_args_find(&args, "link");
	if (rc == 0 && link != NULL && link->choice != NULL && fe != NULL &&
	    fe->ops->set_link != NULL)
		rc = fe->ops->set_link(vdev, strcmp(link->choice->name, "up") == 0);
	return rc;
}

int
vdpa_dev_set(const char *text)
{
	struct vdpa_device *vdev;
	struct vdpa_words words;
	int rc;

	rc = vdpa_words_split(text, &words);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&mgmt_lock);
	vdev = words.n > 0 ? vdpa_find_device(words.word[0]) : NULL;
	if (vdev == NULL) {
		rc = no_such_device(words.n > 0 ? words.word[0] : "");
	} else {
		rc = set_attr(vdev, &words);
		vdpa_put_device(vdev);
	}
	pthread_mutex_unlock(&mgmt_lock);
	vdpa_words_free(&words);
	return rc;
}

/* What a driver makes of parents that somebody names. */
static void
print_parents_help(FILE *out, const struct vdpa_driver *drv)
{
	const char *separator = "\nManagement devices";

	for (const char *const *m = drv->match; *m != NULL; m++)
		if (is_prefix(*m)) {
			fprintf(out, "%s %.*s...", separator, (int)strlen(*m) - 1, *m);
			separator = ",";
		}
	if (*separator != ',')
		return;
	fprintf(out, ": %s\n", drv->help != NULL ? drv->help : drv->name);
	if (drv->params != NULL)
		vdpa_params_print(out, drv->params);
}

char *
vdpa_words_help(void)
{
	struct vdpa_mgmt_dev *mdev;
	struct vdpa_driver *drv;
	struct vdpa_frontend *fe;
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (out == NULL)
		return NULL;
	fprintf(out, "Words of every device:\n");
	vdpa_params_print(out, common_params);
	pthread_mutex_lock(&mgmt_lock);
	register_builtins();
	TAILQ_FOREACH (mdev, &mgmt_devs, next) {
		if (mdev->drv != NULL)
			continue;
		fprintf(out, "\nManagement device %s: %s\n", mdev->name, mdev->help);
		vdpa_params_print(out, mdev->params);
		if (mdev->attr_params != NULL) {
			fprintf(out, "  While it exists (dev set):\n");
			vdpa_params_print(out, mdev->attr_params);
		}
	}
	TAILQ_FOREACH (drv, &drivers, next)
		print_parents_help(out, drv);
	TAILQ_FOREACH (fe, &frontends, next) {
		fprintf(out, "\nFront end %s: %s\n", fe->name, fe->help);
		vdpa_params_print(out, fe->params);
	}
	pthread_mutex_unlock(&mgmt_lock);
	if (fclose(out) != 0) {
		free(text);
		return NULL;
	}
	return text;
}
