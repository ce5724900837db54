/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The PCI functions of a machine that a driver serves, over a tree of files that stands for sysfs:
 * which driver, why one cannot be used, virtual functions under their physical one.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>

#include "sysfs_test.h"

#include "pci_name.h"
#include "vdpa.h"
#include "vdpa_driver.h"

static const struct vdpa_pci_match ids[] = {
	{VDPA_PCI_DEVICE(0x1ab4, 0x0100)}, {VDPA_PCI_DEVICE(0x1ab4, 0x0101)}, {0}};

static int
pci_add(struct vdpa_driver *drv, struct vdpa_mgmt_dev *mdev, struct vdpa_pci *pci, const char *name,
	const struct vdpa_args *args)
{
	return vdpa_error(EIO, "is not asked");
}

static struct vdpa_driver vendor = {.name = "vendor", .pci_ids = ids, .pci_add = pci_add};

static void
put(const char *address, const char *file, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "bus/pci/devices/%s/%s", address, file);
	make_file(path, text);
}

/* A function with its ids; pf: whose virtual function it is. */
static void
add(const char *address, const char *vendor_id, const char *device, const char *driver,
    const char *group, const char *pf)
{
	char path[128], to[64];

	make_function(address, driver, group);
	put(address, "vendor", vendor_id);
	put(address, "device", device);
	put(address, "subsystem_vendor", "0x1ab5\n");
	put(address, "subsystem_device", "0x0007\n");
	put(address, "class", "0x020000\n");
	put(address, "revision", "0x01\n");
	put(address, "numa_node", "1\n");
	if (pf == NULL)
		return;
	snprintf(path, sizeof(path), "bus/pci/devices/%s/physfn", address);
	snprintf(to, sizeof(to), "../%s", pf);
	make_link(to, path);
}

static json_t *
show(void)
{
	char *text = vdpa_function_show();
	json_t *all;

	assert_non_null(text);
	all = json_loads(text, 0, NULL);
	free(text);
	assert_non_null(all);
	return all;
}

static const char *
string(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static void
assert_reason(const json_t *f, const char *reason)
{
	assert_non_null(f);
	if (reason == NULL) {
		assert_true(json_is_true(json_object_get(f, "usable")));
		assert_null(json_object_get(f, "reason"));
		return;
	}
	assert_true(json_is_false(json_object_get(f, "usable")));
	if (strstr(string(f, "reason"), reason) != string(f, "reason"))
		fail_msg("'%s' does not begin with '%s'", string(f, "reason"), reason);
}

static void
a_machine_without_pci_has_none(void **state)
{
	json_t *all = show();

	assert_int_equal(json_object_size(all), 0);
	json_decref(all);
}

static void
functions_are_listed_with_driver_and_reason(void **state)
{
	json_t *all, *f;

	make_dir("bus/pci/drivers/vfio-pci");
	add("0000:06:00.0", "0x1af4\n", "0x1041\n", "vfio-pci", "7", NULL);
	make_file("dev/7", "");
	add("0000:05:00.0", "0x1ab4\n", "0x0100\n", "mlx5_core", "8", NULL);
	add("0000:04:00.0", "0x1ab4\n", "0x0101\n", "vfio-pci", NULL, NULL);
	add("0000:03:00.0", "0x8086\n", "0x1572\n", "i40e", "9", NULL);
	add("10000:02:00.0", "0x1ab4\n", "0x0101\n", "vfio-pci", "11", NULL);
	add("10000:02:00.1", "0x8086\n", "0x1572\n", "i40e", "11", NULL);
	add("10000:02:00.2", "0x1ab4\n", "0x0101\n", "vfio-pci", "12", NULL);
	all = show();
	assert_int_equal(json_object_size(all), 5);

	f = json_object_get(all, "pci/0000:06:00.0");
	assert_reason(f, NULL);
	assert_string_equal(string(f, "driver"), "virtio");
	assert_string_equal(string(f, "kernel_driver"), "vfio-pci");
	assert_string_equal(string(f, "ids"), "1af4:1041");
	assert_string_equal(string(f, "subsystem"), "1ab5:0007");
	assert_string_equal(string(f, "class"), "020000");
	assert_int_equal(json_integer_value(json_object_get(f, "numa_node")), 1);
	assert_null(json_object_get(f, "vfs"));

	f = json_object_get(all, "pci/0000:05:00.0");
	assert_string_equal(string(f, "driver"), "vendor");
	assert_reason(f, "bound to mlx5_core; bind it to vfio-pci: echo");
	assert_reason(json_object_get(all, "pci/0000:04:00.0"), "in no IOMMU group");
	assert_reason(json_object_get(all, "pci/10000:02:00.0"),
		      "IOMMU group 11 is not viable: 10000:02:00.1 in it is bound to i40e");
	/* There is no file of the group. */
	assert_reason(json_object_get(all, "pci/10000:02:00.2"), root);
	json_decref(all);
}

static void
virtual_functions_stand_under_their_physical_one(void **state)
{
	json_t *all, *pf, *vfs;

	make_dir("bus/pci/drivers/vfio-pci");
	/* One that a driver serves, one that none does, and one that is not this machine's. */
	add("0000:05:00.0", "0x1ab4\n", "0x0100\n", "vfio-pci", "5", NULL);
	make_file("dev/5", "");
	add("0000:05:00.1", "0x1ab4\n", "0x0101\n", "vfio-pci", "6", "0000:05:00.0");
	make_file("dev/6", "");
	add("0000:05:00.2", "0x1ab4\n", "0x0101\n", NULL, "7", "0000:05:00.0");
	add("0000:08:00.0", "0x1ab4\n", "0x0fff\n", "mlx5_core", "8", NULL);
	add("0000:08:00.1", "0x1ab4\n", "0x0101\n", "mlx5_core", "9", "0000:08:00.0");
	add("0000:09:00.0", "0x1ab4\n", "0x0101\n", "vfio-pci", "10", "0000:ff:00.0");
	make_file("dev/10", "");
	/* And one whose virtual function is nobody's. */
	add("0000:0a:00.0", "0x1ab4\n", "0x0fff\n", "i40e", "11", NULL);
	add("0000:0a:00.1", "0x1ab4\n", "0x0ffe\n", "iavf", "12", "0000:0a:00.0");
	all = show();
	assert_int_equal(json_object_size(all), 3);

	pf = json_object_get(all, "pci/0000:05:00.0");
	assert_reason(pf, NULL);
	vfs = json_object_get(pf, "vfs");
	assert_int_equal(json_object_size(vfs), 2);
	assert_reason(json_object_get(vfs, "pci/0000:05:00.1"), NULL);
	assert_reason(json_object_get(vfs, "pci/0000:05:00.2"), "bound to no driver");

	pf = json_object_get(all, "pci/0000:08:00.0");
	assert_true(json_is_null(json_object_get(pf, "driver")));
	assert_reason(pf, "no driver serves it");
	vfs = json_object_get(pf, "vfs");
	assert_int_equal(json_object_size(vfs), 1);
	assert_reason(json_object_get(vfs, "pci/0000:08:00.1"), "bound to mlx5_core");

	assert_reason(json_object_get(all, "pci/0000:09:00.0"), NULL);
	json_decref(all);
}

/* Words are its driver's at once; one that is not there is refused when it is to be opened. */
static void
words_are_those_of_the_driver_that_sysfs_finds(void **state)
{
	make_dir("bus/pci/drivers/vfio-pci");
	add("0000:05:00.0", "0x1ab4\n", "0x0100\n", "mlx5_core", "5", NULL);
	add("0000:05:00.1", "0x1ab4\n", "0x0fff\n", "mlx5_core", "5", NULL);
	assert_int_equal(vdpa_dev_check("name a mgmtdev pci/0000:05:00.0 vectors 3"), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "unknown word 'vectors'"));
	assert_int_equal(vdpa_dev_check("name a mgmtdev pci/5:0.0 driver virtio vectors 3"), 0);
	assert_int_equal(vdpa_dev_check("name a mgmtdev pci/0000:77:00.0 vectors 3"), 0);
	assert_int_equal(vdpa_dev_check("name a mgmtdev pci/0000:05:00.1 vectors 3"), 0);
	assert_int_equal(vdpa_dev_check("name a mgmtdev pci/nonsense"), -EINVAL);

	assert_int_equal(vdpa_init(NULL), 0);
	assert_int_equal(vdpa_dev_add("name a mgmtdev pci/77:0.0"), -ENODEV);
	assert_non_null(strstr(vdpa_error_message(), "pci/0000:77:00.0: no such PCI function"));
	/* Nobody need take it from its driver for that. */
	assert_int_equal(vdpa_dev_add("name a mgmtdev pci/5:0.1"), -ENODEV);
	assert_non_null(strstr(vdpa_error_message(),
			       "pci/0000:05:00.1: no driver serves 1ab4:0fff (subsystem "
			       "1ab5:0007, class 020000); there are virtio"));
	assert_int_equal(vdpa_dev_add("name a mgmtdev pci/5:0.0"), -EBUSY);
	vdpa_cleanup();
}

static int
group_setup(void **state)
{
	return vdpa_register_driver(&vendor);
}

static int
group_teardown(void **state)
{
	vdpa_unregister_driver(&vendor);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(a_machine_without_pci_has_none),
		test(functions_are_listed_with_driver_and_reason),
		test(virtual_functions_stand_under_their_physical_one),
		test(words_are_those_of_the_driver_that_sysfs_finds),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
