/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Management: the registries of drivers, management devices and front ends, and the calls that
 * create, change and delete devices by words.
 *
 * The management lock guards the registries and nothing else: it is held while words are parsed and
 * while a named parent's management device comes or goes, for which nobody looks further than at
 * the name. It is never held over a device: who adds, changes or deletes one has its name
 * meanwhile (bus.h), and the management device and the front end last as long as a name is theirs.
 * Recursive, because a probe registers management devices.
 */

#include <errno.h>
#include <search.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_ids.h>

#include "args_priv.h"
#include "bus.h"
#include "device_priv.h"
#include "mgmt.h"
#include "vdpa_fd.h"
#include "vdpa_log.h"

#define FRONTENDS_MAX 8
/* Descriptors that a device and its front end take before anybody connects, at most. */
#define DEVICE_FDS    8

static pthread_mutex_t mgmt_lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static bool builtins_registered;
static bool closing; /* devices are no longer added */
static TAILQ_HEAD(, vdpa_driver) drivers = TAILQ_HEAD_INITIALIZER(drivers);
static TAILQ_HEAD(, vdpa_mgmt_dev) mgmt_devs = TAILQ_HEAD_INITIALIZER(mgmt_devs);
static void *mgmt_dev_tree; /* the same by name */
static uint64_t last_mgmt_dev;
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

static int
compare_mgmtdevs(const void *a, const void *b)
{
	const struct vdpa_mgmt_dev *one = a, *other = b;

	return strcmp(one->name, other->name);
}

static struct vdpa_mgmt_dev *
find_mgmtdev(const char *name)
{
	const struct vdpa_mgmt_dev key = {.name = name};
	void *node = tfind(&key, &mgmt_dev_tree, compare_mgmtdevs);

	return node != NULL ? *(struct vdpa_mgmt_dev **)node : NULL;
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

/* A named parent's management device is there for its devices only. Keeps the error message. Under
 * the management lock. */
static void
put_mgmtdev(struct vdpa_mgmt_dev *mdev)
{
	struct vdpa_error_saved error;

	if (mdev == NULL || mdev->drv == NULL || vdpa_bus_uses(mdev))
		return;
	vdpa_error_save(&error);
	mdev->drv->release(mdev->drv, mdev);
	vdpa_error_restore(&error);
}

/* The end of a reservation or a claim, and of the management device where it was the last. */
static void
release_entry(struct vdpa_bus_entry *e)
{
	struct vdpa_mgmt_dev *mdev = e->mdev;

	pthread_mutex_lock(&mgmt_lock);
	vdpa_bus_release(e);
	put_mgmtdev(mdev);
	pthread_mutex_unlock(&mgmt_lock);
}

/* A device that is claimed, by what made it; by ourselves where an application did. */
static void
remove_device(struct vdpa_bus_entry *e, struct vdpa_device *vdev)
{
	if (vdev->mdev != NULL)
		vdev->mdev->ops->dev_del(vdev->mdev, vdev);
	else
		vdpa_unregister_device(vdev);
	vdpa_put_device(vdev);
	release_entry(e);
}

/* Remove each device for which matches() says so. Without the management lock. */
static void
remove_all(bool (*matches)(const struct vdpa_bus_entry *e, const void *arg), const void *arg)
{
	struct vdpa_bus_entry *e;
	struct vdpa_device *vdev;

	while (vdpa_bus_claim_next(matches, arg, &e, &vdev))
		remove_device(e, vdev);
}

static bool
any_entry(const struct vdpa_bus_entry *e, const void *arg)
{
	return true;
}

static bool
made_by(const struct vdpa_bus_entry *e, const void *mdev)
{
	return e->mdev == mdev;
}

static bool
served_by(const struct vdpa_bus_entry *e, const void *fe)
{
	return e->fe == fe;
}

static bool
of_driver(const struct vdpa_bus_entry *e, const void *drv)
{
	return e->mdev != NULL && e->mdev->drv == drv;
}

int
vdpa_mgmtdev_register(struct vdpa_mgmt_dev *mdev)
{
	int rc = 0;

	if (strlen(mdev->name) >= VDPA_MGMTDEV_NAME_MAX)
		return vdpa_error(EINVAL, "mgmtdev '%s': the name is too long", mdev->name);
	pthread_mutex_lock(&mgmt_lock);
	mdev->drv = NULL;
	mdev->users = 0;
	if (find_mgmtdev(mdev->name) != NULL) {
		rc = vdpa_error(EEXIST, "mgmtdev '%s': is registered", mdev->name);
	} else if (tsearch(mdev, &mgmt_dev_tree, compare_mgmtdevs) == NULL) {
		rc = vdpa_error(ENOMEM, "mgmtdev '%s': out of memory", mdev->name);
	} else {
		mdev->id = ++last_mgmt_dev;
		TAILQ_INSERT_TAIL(&mgmt_devs, mdev, next);
	}
	pthread_mutex_unlock(&mgmt_lock);
	return rc;
}

void
vdpa_mgmtdev_unregister(struct vdpa_mgmt_dev *mdev)
{
	/* First, so that nobody adds another device to it. */
	pthread_mutex_lock(&mgmt_lock);
	tdelete(mdev, &mgmt_dev_tree, compare_mgmtdevs);
	TAILQ_REMOVE(&mgmt_devs, mdev, next);
	mdev->drv = NULL;
	pthread_mutex_unlock(&mgmt_lock);
	remove_all(made_by, mdev);
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
vdpa_mgmtdev_look(const char *name, void (*fn)(const struct vdpa_mgmt_dev *mdev, void *arg),
		  void *arg)
{
	struct vdpa_mgmt_dev *mdev;
	int rc = 0;

	pthread_mutex_lock(&mgmt_lock);
	mdev = find_mgmtdev(name);
	if (mdev != NULL)
		fn(mdev, arg);
	else
		rc = vdpa_error(ENODEV, "mgmtdev '%s': there is none of that name", name);
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
	TAILQ_REMOVE(&drivers, drv, next);
	pthread_mutex_unlock(&mgmt_lock);
	/* Named parents go with their last devices. */
	remove_all(of_driver, drv);
	drv->remove(drv);
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

void
vdpa_unregister_frontend(struct vdpa_frontend *fe)
{
	pthread_mutex_lock(&mgmt_lock);
	TAILQ_REMOVE(&frontends, fe, next);
	pthread_mutex_unlock(&mgmt_lock);
	remove_all(served_by, fe);
}

void
vdpa_mgmt_fini(void)
{
	struct vdpa_frontend *fe;
	struct vdpa_driver *drv;

	pthread_mutex_lock(&mgmt_lock);
	closing = true;
	pthread_mutex_unlock(&mgmt_lock);
	remove_all(any_entry, NULL);
	while ((drv = TAILQ_FIRST(&drivers)) != NULL)
		vdpa_unregister_driver(drv);
	while ((fe = TAILQ_FIRST(&frontends)) != NULL)
		vdpa_unregister_frontend(fe);
	pthread_mutex_lock(&mgmt_lock);
	builtins_registered = closing = false;
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
	for (unsigned int i = 0; rc == 0 && vdpa_builtin_frontends[i] != NULL; i++)
		rc = vdpa_register_frontend(vdpa_builtin_frontends[i]);
	for (unsigned int i = 0; rc == 0 && vdpa_builtin_drivers[i] != NULL; i++)
		rc = vdpa_register_driver(vdpa_builtin_drivers[i]);
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
	struct vdpa_frontend *fe;     /* NULL: none */
	struct vdpa_bus_entry *entry; /* the name, once it is ours */
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

/* Parse the words and take the name. */
static int
reserve(const char *words, struct add_request *req)
{
	int rc;

	pthread_mutex_lock(&mgmt_lock);
	if (vdpa_event_loop_control() == NULL)
		rc = vdpa_error(EPROTO, "uvdpa is not initialised");
	else if (closing)
		rc = vdpa_error(ESHUTDOWN, "uvdpa is being cleaned up");
	else
		rc = parse_add(words, req);
	if (rc == 0) {
		rc = vdpa_bus_reserve(req->name, req->mdev, req->fe, &req->entry);
		if (rc < 0) {
			put_mgmtdev(req->mdev);
			vdpa_words_free(&req->words);
		}
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
	rc = fe->ops->probe(vdev, args);
	if (rc == 0)
		vdpa_device_set_frontend(vdev, fe);
	return rc;
}

/* What a named parent makes is known when it has made one. */
static void
describe_parent(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdev)
{
	pthread_mutex_lock(&mgmt_lock);
	if (mdev->drv != NULL && mdev->device_id == 0) {
		mdev->device_id = vdpa_get_device_id(vdev);
		mdev->supported_features = vdpa_get_device_features(vdev);
		mdev->max_supported_vqs = vdpa_get_vq_count(vdev);
	}
	pthread_mutex_unlock(&mgmt_lock);
}

/* Make the device and have it served. The name is ours; no lock is held. */
static int
make_device(const struct add_request *req)
{
	struct vdpa_device *vdev;
	int rc;

	rc = vdpa_fd_room(DEVICE_FDS, req->name);
	if (rc == 0)
		rc = req->mdev->ops->dev_add(req->mdev, req->name, &req->args);
	if (rc < 0)
		return rc;
	vdev = vdpa_find_device(req->name);
	if (vdev == NULL)
		return vdpa_error(ENODEV, "%s: %s did not register it", req->name, req->mdev->name);
	describe_parent(req->mdev, vdev);
	if (req->fe != NULL)
		rc = bind_frontend(vdev, req->fe, &req->args);
	if (rc < 0) {
		struct vdpa_error_saved error;

		vdpa_error_save(&error);
		req->mdev->ops->dev_del(req->mdev, vdev);
		vdpa_error_restore(&error);
	}
	vdpa_put_device(vdev);
	return rc;
}

int
vdpa_dev_add(const char *words)
{
	struct add_request req;
	int rc;

	rc = reserve(words, &req);
	if (rc < 0)
		return rc;
	rc = make_device(&req);
	release_entry(req.entry);
	vdpa_words_free(&req.words);
	return rc;
}

int
vdpa_dev_del(const char *name)
{
	struct vdpa_bus_entry *e;
	struct vdpa_device *vdev;
	int rc;

	rc = vdpa_bus_claim(name, VDPA_BUS_REMOVING, &e, &vdev);
	if (rc == 0)
		remove_device(e, vdev);
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
	if (rc == 0)
		vdpa_snapshot_refresh(vdev);
	link = vdpa_args_find(&args, "link");
	if (rc == 0 && link != NULL && link->choice != NULL && fe != NULL &&
	    fe->ops->set_link != NULL)
		rc = fe->ops->set_link(vdev, strcmp(link->choice->name, "up") == 0);
	return rc;
}

int
vdpa_dev_set(const char *text)
{
	struct vdpa_bus_entry *e;
	struct vdpa_device *vdev;
	struct vdpa_words words;
	int rc;

	rc = vdpa_words_split(text, &words);
	if (rc < 0)
		return rc;
	rc = vdpa_bus_claim(words.n > 0 ? words.word[0] : "", VDPA_BUS_CHANGING, &e, &vdev);
	if (rc == 0) {
		rc = set_attr(vdev, &words);
		vdpa_put_device(vdev);
		release_entry(e);
	}
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
