/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The kernel's vDPA bus over a tree of files that stands for sysfs and /dev: which device is there,
 * what has it, and what is written to have another driver have it.
 */

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernel_call.h"
#include "vdpa_bus.h"
#include "vdpa_error.h"

#define DEVICE "bus/vdpa/devices/net0"

static char root[64], dev[80];
static char held[128]; /* what another has open so that nobody else can; "" for nothing */

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);

int
__wrap_open64(const char *path, int flags, ...)
{
	if (held[0] != '\0' && strcmp(path, held) == 0) {
		errno = EBUSY;
		return -1;
	}
	return __real_open64(path, flags, 0600);
}

static const char *
at(const char *path)
{
	static char full[512];

	snprintf(full, sizeof(full), "%s/%s", root, path);
	return full;
}

static void
make_dir(const char *path)
{
	char part[256];

	for (const char *p = path; p != NULL;) {
		p = strchr(p + 1, '/');
		snprintf(part, sizeof(part), "%.*s",
			 (int)(p != NULL ? p - path : (ptrdiff_t)strlen(path)), path);
		assert_true(mkdir(at(part), 0755) == 0 || errno == EEXIST);
	}
}

static void
make_file(const char *path, const char *text)
{
	FILE *f = fopen(at(path), "w");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	fclose(f);
}

static const char *
text_of(const char *path)
{
	static char text[128];
	FILE *f = fopen(at(path), "r");
	size_t n;

	assert_non_null(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = '\0';
	fclose(f);
	return text;
}

static void
bound_to(const char *driver)
{
	char path[256];

	(void)unlink(at(DEVICE "/driver"));
	snprintf(path, sizeof(path), "bus/vdpa/drivers/%s", driver);
	make_dir(path);
	snprintf(path, sizeof(path), "../../drivers/%s", driver);
	assert_int_equal(symlink(path, at(DEVICE "/driver")), 0);
	snprintf(path, sizeof(path), "bus/vdpa/drivers/%s/bind", driver);
	make_file(path, "");
	snprintf(path, sizeof(path), "bus/vdpa/drivers/%s/unbind", driver);
	make_file(path, "");
}

static int
setup(void **state)
{
	snprintf(root, sizeof(root), "/tmp/uvdpa-test-bus.XXXXXX");
	assert_non_null(mkdtemp(root));
	snprintf(dev, sizeof(dev), "%s/dev", root);
	make_dir("dev");
	vdpa_bus_set_roots(root, dev);
	make_dir(DEVICE);
	return 0;
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int
teardown(void **state)
{
	vdpa_bus_set_roots(NULL, NULL);
	return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void
a_device_is_found_by_its_name(void **state)
{
	char path[VDPA_BUS_PATH_MAX], want[VDPA_BUS_PATH_MAX], driver[VDPA_BUS_NAME_MAX];

	assert_int_equal(vdpa_bus_driver("net0", driver, sizeof(driver)), 0);
	assert_string_equal(driver, "");
	bound_to("vhost_vdpa");
	assert_int_equal(vdpa_bus_driver("net0", driver, sizeof(driver)), 0);
	assert_string_equal(driver, "vhost_vdpa");
	make_dir(DEVICE "/vhost-vdpa-3");
	make_file("dev/vhost-vdpa-3", "");
	assert_int_equal(vdpa_bus_char_path("net0", path, sizeof(path)), 0);
	snprintf(want, sizeof(want), "%s/vhost-vdpa-3", dev);
	assert_string_equal(path, want);
	assert_int_equal(vdpa_bus_char_path("net0", path, 8), -ENAMETOOLONG);
}

static void
what_is_not_there_or_no_name_is_refused(void **state)
{
	static const char *const names[] = {"", ".", "..", "../net0", "a/b", ".hidden"};
	char path[VDPA_BUS_PATH_MAX], name[100];

	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(vdpa_bus_driver(name, path, sizeof(path)), -EINVAL);
	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_int_equal(vdpa_bus_driver(names[i], path, sizeof(path)), -EINVAL);
		assert_int_equal(vdpa_bus_bind("net0", names[i]), -EINVAL);
	}
	assert_int_equal(vdpa_bus_driver("net1", path, sizeof(path)), -ENODEV);
	assert_int_equal(vdpa_bus_char_path("net1", path, sizeof(path)), -ENODEV);
	/* Bound to another driver. */
	bound_to("virtio_vdpa");
	assert_int_equal(vdpa_bus_char_path("net0", path, sizeof(path)), -ENXIO);
	assert_non_null(strstr(vdpa_error_message(), "bound to virtio_vdpa"));
	/* Bound, and no node comes. */
	bound_to("vhost_vdpa");
	assert_int_equal(vdpa_bus_char_path("net0", path, sizeof(path)), -ENOENT);
}

static void
binding_writes_what_the_kernel_reads(void **state)
{
	bound_to("vhost_vdpa");
	bound_to("virtio_vdpa");
	assert_int_equal(vdpa_bus_bind("net0", "virtio_vdpa"), 0);
	assert_string_equal(text_of("bus/vdpa/drivers/virtio_vdpa/unbind"), "");
	assert_int_equal(vdpa_bus_bind("net0", "vhost_vdpa"), 0);
	assert_string_equal(text_of("bus/vdpa/drivers/virtio_vdpa/unbind"), "net0");
	assert_string_equal(text_of("bus/vdpa/drivers/vhost_vdpa/bind"), "net0");
	/* An override for another driver is changed, one for this one and none are left. */
	make_file(DEVICE "/driver_override", "(null)\n");
	assert_int_equal(vdpa_bus_bind("net0", "vhost_vdpa"), 0);
	assert_string_equal(text_of(DEVICE "/driver_override"), "(null)\n");
	make_file(DEVICE "/driver_override", "virtio_vdpa\n");
	assert_int_equal(vdpa_bus_bind("net0", "vhost_vdpa"), 0);
	/* A file in the place of an attribute keeps the end of what was longer. */
	assert_memory_equal(text_of(DEVICE "/driver_override"), "vhost_vdpa", 10);
}

static void
a_driver_that_is_not_loaded_is_named(void **state)
{
	bound_to("virtio_vdpa");
	assert_int_equal(vdpa_bus_bind("net0", "vhost_vdpa"), -ENOENT);
	assert_non_null(strstr(vdpa_error_message(), "modprobe vhost_vdpa"));
	/* It has the device still. */
	assert_string_equal(text_of("bus/vdpa/drivers/virtio_vdpa/unbind"), "");
}

static void
one_that_does_not_bind_goes_back(void **state)
{
	bound_to("vhost_vdpa");
	assert_int_equal(unlink(at("bus/vdpa/drivers/vhost_vdpa/bind")), 0);
	bound_to("virtio_vdpa");
	assert_int_equal(vdpa_bus_bind("net0", "vhost_vdpa"), -ENOENT);
	assert_non_null(strstr(vdpa_error_message(), "does not come to vhost_vdpa"));
	assert_string_equal(text_of("bus/vdpa/drivers/virtio_vdpa/bind"), "net0");
}

/* A pipe without a reader is opened as long as a probe may take. */
static void
a_probe_that_does_not_return_costs_its_caller_a_bound(void **state)
{
	const char *bind = "bus/vdpa/drivers/vhost_vdpa/bind";
	int fd, rc = -EBUSY;

	bound_to("vhost_vdpa");
	assert_int_equal(unlink(at(DEVICE "/driver")), 0);
	assert_int_equal(unlink(at(bind)), 0);
	assert_int_equal(mkfifo(at(bind), 0600), 0);
	vdpa_kernel_call_set_wait(100);
	assert_int_equal(vdpa_bus_bind("net0", "vhost_vdpa"), -ETIMEDOUT);
	assert_non_null(strstr(vdpa_error_message(), "the kernel is still at it"));
	vdpa_kernel_call_set_wait(0);
	/* There is no second one, which would wait behind it. */
	assert_int_equal(vdpa_bus_bind("net0", "vhost_vdpa"), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), "still at an earlier bind"));
	/* It comes to an end, and so does the refusal. */
	fd = __real_open64(at(bind), O_RDWR | O_NONBLOCK | O_CLOEXEC);
	assert_true(fd >= 0);
	for (unsigned int i = 0; i < 60000 && rc == -EBUSY; i++) {
		rc = vdpa_bus_bind("net0", "vhost_vdpa");
		usleep(1000);
	}
	assert_int_equal(rc, 0);
	close(fd);
}

static void
what_is_in_use_is_not_taken_from_its_driver(void **state)
{
	bound_to("vhost_vdpa");
	bound_to("virtio_vdpa");
	make_dir(DEVICE "/virtio3/block/vda");
	snprintf(held, sizeof(held), "%s/vda", dev);
	assert_int_equal(vdpa_bus_bind("net0", "vhost_vdpa"), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), "/vda is in use (mounted?): umount it"));
	assert_string_equal(text_of("bus/vdpa/drivers/virtio_vdpa/unbind"), "");
	held[0] = '\0';
	assert_int_equal(vdpa_bus_bind("net0", "vhost_vdpa"), 0);
	assert_string_equal(text_of("bus/vdpa/drivers/virtio_vdpa/unbind"), "net0");
}

static void
a_netdev_that_is_up_is_in_use(void **state)
{
	bound_to("vhost_vdpa");
	bound_to("virtio_vdpa");
	make_dir(DEVICE "/virtio3/net/eth7");
	make_dir("class/net/eth7");
	make_file("class/net/eth7/flags", "0x1003\n");
	assert_int_equal(vdpa_bus_check_unused("net0", false), 0);
	assert_int_equal(vdpa_bus_bind("net0", "vhost_vdpa"), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), "ip link set eth7 down"));
	assert_string_equal(text_of("bus/vdpa/drivers/virtio_vdpa/unbind"), "");
	make_file("class/net/eth7/flags", "0x1002\n");
	assert_int_equal(vdpa_bus_bind("net0", "vhost_vdpa"), 0);
}

static void
who_has_a_character_device_open_is_named(void **state)
{
	char path[128], who[64];
	int pipes[2];
	pid_t pid;
	char c;

	bound_to("virtio_vdpa");
	bound_to("vhost_vdpa");
	make_dir(DEVICE "/vhost-vdpa-3");
	make_file("dev/vhost-vdpa-3", "");
	snprintf(path, sizeof(path), "%s/vhost-vdpa-3", dev);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || __real_open64(path, O_RDWR) < 0 ||
		    write(pipes[1], "", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	assert_int_equal(read(pipes[0], &c, 1), 1);
	snprintf(held, sizeof(held), "%s", path);
	assert_int_equal(vdpa_bus_bind("net0", "virtio_vdpa"), -EBUSY);
	snprintf(who, sizeof(who), "/vhost-vdpa-3 is open in process %d (test_vdpa_bus)", (int)pid);
	assert_non_null(strstr(vdpa_error_message(), who));
	assert_string_equal(text_of("bus/vdpa/drivers/vhost_vdpa/unbind"), "");
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	held[0] = '\0';
	assert_int_equal(vdpa_bus_bind("net0", "virtio_vdpa"), 0);
	close(pipes[0]);
	close(pipes[1]);
}

static void
a_kernel_without_the_bus_is_told_what_to_load(void **state)
{
	char driver[VDPA_BUS_NAME_MAX];

	assert_int_equal(vdpa_bus_driver("net1", driver, sizeof(driver)), -ENODEV);
	assert_null(strstr(vdpa_error_message(), "modprobe"));
	vdpa_bus_set_roots("/nonexistent", NULL);
	assert_int_equal(vdpa_bus_driver("net0", driver, sizeof(driver)), -ENODEV);
	assert_non_null(strstr(vdpa_error_message(), "modprobe vhost_vdpa"));
}

static int
note(const char *name, void *arg)
{
	unsigned int *n = arg;

	assert_string_equal(name, "net0");
	(*n)++;
	return *n == 2 ? 7 : 0;
}

static void
names_are_listed(void **state)
{
	unsigned int n = 0;

	assert_int_equal(vdpa_bus_each_name(note, &n), 0);
	assert_int_equal(vdpa_bus_each_name(note, &n), 7);
	vdpa_bus_set_roots("/nonexistent", NULL);
	assert_int_equal(vdpa_bus_each_name(note, &n), -ENODEV);
	assert_int_equal(n, 2);
}

int
main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		test(a_device_is_found_by_its_name),
		test(what_is_not_there_or_no_name_is_refused),
		test(binding_writes_what_the_kernel_reads),
		test(a_driver_that_is_not_loaded_is_named),
		test(one_that_does_not_bind_goes_back),
		test(a_probe_that_does_not_return_costs_its_caller_a_bound),
		test(what_is_in_use_is_not_taken_from_its_driver),
		test(a_netdev_that_is_up_is_in_use),
		test(who_has_a_character_device_open_is_named),
		test(a_kernel_without_the_bus_is_told_what_to_load),
		test(names_are_listed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
