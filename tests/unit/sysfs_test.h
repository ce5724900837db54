/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A tree of files that stands for sysfs and /dev/vfio, for tests of what is read there. Include it
 * after cmocka.h. */

#ifndef SYSFS_TEST_H
#define SYSFS_TEST_H

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vfio_priv.h"

#define ADDRESS "0000:06:00.2"

static char root[64], dev[80];

static inline void
make_dir(const char *path)
{
	char at[512];

	for (const char *p = path; p != NULL;) {
		p = strchr(p + 1, '/');
		snprintf(at, sizeof(at), "%s/%.*s", root,
			 (int)(p != NULL ? p - path : (ptrdiff_t)strlen(path)), path);
		assert_true(mkdir(at, 0755) == 0 || errno == EEXIST);
	}
}

static inline void
make_link(const char *to, const char *path)
{
	char at[512];

	snprintf(at, sizeof(at), "%s/%s", root, path);
	(void)unlink(at);
	assert_int_equal(symlink(to, at), 0);
}

static inline void
make_file(const char *path, const char *text)
{
	char at[512];
	FILE *f;

	snprintf(at, sizeof(at), "%s/%s", root, path);
	f = fopen(at, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	fclose(f);
}

/* A function, its driver and its group; NULL: none. */
static inline void
make_function(const char *address, const char *driver, const char *group)
{
	char path[256], to[256];

	snprintf(path, sizeof(path), "bus/pci/devices/%s", address);
	make_dir(path);
	if (driver != NULL) {
		snprintf(to, sizeof(to), "../../../bus/pci/drivers/%s", driver);
		snprintf(path, sizeof(path), "bus/pci/devices/%s/driver", address);
		make_link(to, path);
		make_dir(to + strlen("../../../"));
	}
	if (group != NULL) {
		snprintf(to, sizeof(to), "../../../kernel/iommu_groups/%s", group);
		snprintf(path, sizeof(path), "bus/pci/devices/%s/iommu_group", address);
		make_link(to, path);
		snprintf(path, sizeof(path), "kernel/iommu_groups/%s/devices/%s", group, address);
		make_dir(path);
	}
}

static inline int
setup(void **state)
{
	snprintf(root, sizeof(root), "/tmp/uvdpa-test-vfio.XXXXXX");
	assert_non_null(mkdtemp(root));
	snprintf(dev, sizeof(dev), "%s/dev", root);
	make_dir("dev");
	vdpa_vfio_set_roots(root, dev);
	return 0;
}

static inline int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static inline int
teardown(void **state)
{
	vdpa_vfio_set_roots(NULL, NULL);
	return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif /* SYSFS_TEST_H */
