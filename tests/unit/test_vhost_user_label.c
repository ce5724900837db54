/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The word label where there is SELinux: the kernel's is played by the test, by statfs() of its
 * file system and open() of the thread's attribute.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/magic.h>

#include "vhost_user_priv.h"

#define CONTEXT "system_u:object_r:container_file_t:s0"

static struct {
	bool mounted;
	int err;	   /* of a write of a context */
	int label_pipe[2]; /* what is written to fscreate */
} selinux;

int __wrap_statfs64(const char *path, struct statfs *fs);
int __real_statfs64(const char *path, struct statfs *fs);
int __wrap_open64(const char *path, int flags, ...);
int __real_open64(const char *path, int flags, ...);

int
__wrap_statfs64(const char *path, struct statfs *fs)
{
	if (strcmp(path, "/sys/fs/selinux") != 0)
		return __real_statfs64(path, fs);
	if (!selinux.mounted) {
		errno = ENOENT;
		return -1;
	}
	fs->f_type = SELINUX_MAGIC;
	return 0;
}

int
__wrap_open64(const char *path, int flags, ...)
{
	mode_t mode;
	va_list ap;

	va_start(ap, flags);
	mode = (flags & O_CREAT) != 0 ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	if (strcmp(path, "/proc/thread-self/attr/fscreate") != 0)
		return __real_open64(path, flags, mode);
	if (selinux.err != 0) {
		errno = selinux.err;
		return -1;
	}
	return dup(selinux.label_pipe[1]);
}

static int
setup(void **state)
{
	selinux.mounted = true;
	selinux.err = 0;
	return pipe2(selinux.label_pipe, O_NONBLOCK | O_CLOEXEC);
}

static int
teardown(void **state)
{
	close(selinux.label_pipe[0]);
	close(selinux.label_pipe[1]);
	return 0;
}

/* What the kernel was given since the last look; "" is no write or an empty one. */
static const char *
given(void)
{
	static char text[256];
	ssize_t n = read(selinux.label_pipe[0], text, sizeof(text) - 1);

	text[n < 0 ? 0 : n] = '\0';
	return text;
}

static void
is_refused_without_selinux(void **state)
{
	selinux.mounted = false;
	assert_int_equal(vdpa_vhu_label_check(CONTEXT), -EOPNOTSUPP);
	assert_non_null(strstr(vdpa_error_message(), CONTEXT));
	assert_non_null(strstr(vdpa_error_message(), "without SELinux"));
}

static void
is_allowed_with_selinux(void **state)
{
	assert_int_equal(vdpa_vhu_label_check(CONTEXT), 0);
}

static void
is_the_threads_between_begin_and_end(void **state)
{
	assert_int_equal(vdpa_vhu_label_begin(CONTEXT), 0);
	assert_string_equal(given(), CONTEXT);
	vdpa_vhu_label_end(CONTEXT);
	assert_string_equal(given(), "");
}

static void
without_the_word_nothing_is_written(void **state)
{
	selinux.err = EACCES;
	assert_int_equal(vdpa_vhu_label_begin(NULL), 0);
	vdpa_vhu_label_end(NULL);
}

static void
that_the_kernel_refuses_is_reported(void **state)
{
	selinux.err = EINVAL;
	assert_int_equal(vdpa_vhu_label_begin(CONTEXT), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), CONTEXT));
}

/* A device's socket and folder are made with it, and neither is left where it is refused. */
static void
folder_is_made_with_it_or_not_at_all(void **state)
{
	char dir[] = "/tmp/uvdpa-label.XXXXXX", path[64], folder[64];
	struct vhu_device dev = {.group = (gid_t)-1};
	struct stat st;

	assert_non_null(mkdtemp(dir));
	snprintf(folder, sizeof(folder), "%s/f", dir);
	snprintf(path, sizeof(path), "%s/f/s", dir);
	dev.path = path;
	dev.files = (struct vhu_files){
		.with_folder = true, .folder_mode = 0750, .label = strdup(CONTEXT)};
	assert_int_equal(vdpa_vhu_folder_make(&dev), 0);
	assert_string_equal(given(), CONTEXT);
	assert_int_equal(stat(folder, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0750);
	vdpa_vhu_folder_remove(&dev);
	assert_int_not_equal(stat(folder, &st), 0);

	selinux.err = EACCES;
	assert_int_equal(vdpa_vhu_folder_make(&dev), -EACCES);
	assert_int_not_equal(stat(folder, &st), 0);
	vdpa_vhu_files_free(&dev.files);
	assert_int_equal(rmdir(dir), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(is_refused_without_selinux, setup, teardown),
		cmocka_unit_test_setup_teardown(is_allowed_with_selinux, setup, teardown),
		cmocka_unit_test_setup_teardown(is_the_threads_between_begin_and_end, setup,
						teardown),
		cmocka_unit_test_setup_teardown(without_the_word_nothing_is_written, setup,
						teardown),
		cmocka_unit_test_setup_teardown(that_the_kernel_refuses_is_reported, setup,
						teardown),
		cmocka_unit_test_setup_teardown(folder_is_made_with_it_or_not_at_all, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
