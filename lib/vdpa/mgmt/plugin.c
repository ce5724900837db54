/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Plugins: shared objects that bring drivers, loaded as EAL loads those of its -d, but by
 * ourselves, so that their words are known before there is an EAL. One that is loaded stays: its
 * drivers may have devices at any time.
 */

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error_priv.h"
#include "mgmt.h"
#include "vdpa_log.h"

/* Of the thread that loads one: how its constructors have fared. */
static __thread bool loading;
static __thread int load_result;
static __thread struct vdpa_error_saved load_error;

void
vdpa_plugin_add_driver(struct vdpa_driver *drv)
{
	int rc = vdpa_register_driver(drv);

	if (rc == 0)
		return;
	if (!loading) {
		/* By EAL's -d, or by an application: a constructor has nobody to report it to. */
		VDPA_LOG(ERR, "%s", vdpa_error_message());
	} else if (load_result == 0) {
		load_result = rc;
		vdpa_error_save(&load_error);
	}
}

/* A path without its last name: "/a" of "/a/b", "/" of "/a". */
static void
cut_name(char *path)
{
	char *slash = strrchr(path, '/');

	while (slash > path && slash[-1] == '/')
		slash--;
	slash[slash == path ? 1 : 0] = '\0';
}

/*
 * Nothing is run that everybody may write to, or put something in the place of: as EAL has it, but
 * for folders such as /tmp, where everybody can add something and move only what is his own. What
 * lies there is run if it is ours or root's. folder: the one that path lies in.
 */
static int
check_entry(const char *path, const char *folder)
{
	struct stat st, above, itself;

	/* itself: a link, where path is one. */
	if (stat(path, &st) < 0 || lstat(path, &itself) < 0 || stat(folder, &above) < 0)
		return vdpa_error(errno, "plugin '%s': %s", path, strerror(errno));
	if ((st.st_mode & S_IWOTH) != 0 && (!S_ISDIR(st.st_mode) || (st.st_mode & S_ISVTX) == 0))
		return vdpa_error(
			EPERM,
			"plugin: everybody may write to '%s', so that anybody's code could be run: "
			"chmod o-w %s, or put the plugin elsewhere",
			path, path);
	if ((above.st_mode & S_IWOTH) != 0 && itself.st_uid != 0 && itself.st_uid != geteuid())
		return vdpa_error(
			EPERM,
			"plugin: everybody may put something into '%s', and '%s' there is user "
			"%u's: put the plugin elsewhere",
			folder, path, itself.st_uid);
	return 0;
}

/* The file and every folder above it. path is an absolute one. */
static int
check_path(const char *path)
{
	char at[PATH_MAX], above[PATH_MAX];
	int rc;

	snprintf(at, sizeof(at), "%s", path);
	for (;;) {
		memcpy(above, at, sizeof(above));
		cut_name(above);
		rc = check_entry(at, above);
		if (rc < 0 || strcmp(at, "/") == 0)
			return rc;
		memcpy(at, above, sizeof(at));
	}
}

/* By the names that were given, links among them, and by those that they lead to. */
static int
check_file(const char *name, const char *path)
{
	char given[PATH_MAX] = "";
	int rc;

	if (name[0] != '/' && getcwd(given, sizeof(given)) == NULL)
		return vdpa_error(errno, "plugin '%s': %s", name, strerror(errno));
	if (strlen(given) + 1 + strlen(name) >= sizeof(given))
		return vdpa_error(ENAMETOOLONG, "plugin '%s': is too long", name);
	if (given[0] != '\0')
		strcat(given, "/");
	strcat(given, name);
	rc = check_path(given);
	return rc < 0 ? rc : check_path(path);
}

static int
open_object(const char *name)
{
	struct vdpa_error_saved error;
	void *handle;

	loading = true;
	load_result = 0;
	handle = dlopen(name, RTLD_NOW);
	loading = false;
	if (handle == NULL)
		return vdpa_error(ENOEXEC, "plugin %s", dlerror());
	if (load_result == 0)
		return 0;
	error = load_error;
	dlclose(handle);
	return vdpa_error(load_result, "plugin %s: %s", name, error.text);
}

static int
load_file(const char *name)
{
	char path[PATH_MAX];
	int rc;

	if (realpath(name, path) != NULL) {
		rc = check_file(name, path);
		return rc < 0 ? rc : open_object(path);
	}
	/* One that is no path is looked for where libraries are. */
	if (errno == ENOENT && strchr(name, '/') == NULL)
		return open_object(name);
	return vdpa_error(errno, "plugin '%s': %s", name, strerror(errno));
}

static int
is_object(const struct dirent *entry)
{
	size_t len = strlen(entry->d_name);

	return len > 3 && strcmp(&entry->d_name[len - 3], ".so") == 0;
}

static int
load_folder(const char *folder)
{
	struct dirent **names;
	char path[PATH_MAX];
	struct stat st;
	int n, rc = 0;

	n = scandir(folder, &names, is_object, alphasort);
	if (n < 0)
		return vdpa_error(errno, "plugins in '%s': %s", folder, strerror(errno));
	for (int i = 0; i < n; i++) {
		if (snprintf(path, sizeof(path), "%s/%s", folder, names[i]->d_name) >=
		    (int)sizeof(path))
			rc = rc < 0 ? rc : vdpa_error(ENAMETOOLONG, "'%s': is too long", folder);
		else if (rc == 0 && stat(path, &st) == 0 && S_ISREG(st.st_mode))
			rc = load_file(path);
		free(names[i]);
	}
	free(names);
	return rc;
}

int
vdpa_plugin_load(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? load_folder(path) : load_file(path);
}
