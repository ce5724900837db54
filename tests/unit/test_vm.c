/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Devices of one VM: who may be their front ends, which memory tables go together, what of them is
 * mapped once, and what becomes of the others when one does not stop.
 */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/virtio_config.h>

#include "consumer_priv.h"
#include "control_group.h"
#include "fake_device.h"

#define DEVICES	 8
#define REGIONS	 3
#define MEM_SIZE UINT64_C(0x100000)
#define IOVA(i)	 (MEM_SIZE * 2 * (uint64_t)(i))
#define UADDR(i) (UINT64_C(0x7f0000000000) + IOVA(i))
#define V1	 (UINT64_C(1) << VIRTIO_F_VERSION_1)
#define ENABLES	 (UINT64_C(1) << VHOST_USER_F_PROTOCOL_FEATURES)

struct fixture {
	struct vdpa_vm_member *members[DEVICES];
	struct fake_device *fakes[DEVICES];
	struct vdpa_consumer *c[DEVICES];
	int fds[REGIONS], other; /* files of guest memory, and of another guest's */
};

static int
memory_file(void)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)(2 * MEM_SIZE)), 0);
	return fd;
}

static struct vdpa_mem_region_spec
spec(const struct fixture *f, unsigned int i)
{
	return (struct vdpa_mem_region_spec){
		.iova = IOVA(i), .uaddr = UADDR(i), .size = MEM_SIZE, .fd = f->fds[i]};
}

/* Tell the consumer of regions 0 to n - 1. */
static int
tell(struct fixture *f, unsigned int who, unsigned int n)
{
	struct vdpa_mem_region_spec specs[REGIONS];

	for (unsigned int i = 0; i < n; i++)
		specs[i] = spec(f, i);
	return vdpa_consumer_set_memory(f->c[who], specs, n);
}

static const struct vdpa_mem_region *
region(const struct fixture *f, unsigned int who, unsigned int i)
{
	assert_true(i < f->c[who]->iotlb->n);
	return f->c[who]->iotlb->regions[i];
}

static void
connect_device(struct fixture *f, unsigned int i)
{
	f->c[i] = vdpa_consumer_new(&f->fakes[i]->vdev, NULL, NULL);
	assert_non_null(f->c[i]);
	assert_int_equal(vdpa_consumer_set_features(f->c[i], V1 | ENABLES), 0);
}

static void
disconnect_device(struct fixture *f, unsigned int i)
{
	vdpa_consumer_free(f->c[i]);
	f->c[i] = NULL;
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char name[16];

	for (unsigned int i = 0; i < REGIONS; i++)
		f->fds[i] = memory_file();
	f->other = memory_file();
	for (unsigned int i = 0; i < DEVICES; i++) {
		snprintf(name, sizeof(name), "dev%u", i);
		f->fakes[i] = fake_device_new(name, true);
		assert_non_null(f->fakes[i]);
		assert_int_equal(vdpa_vm_join("guest0", name, &f->fakes[i]->vdev.core->vm), 0);
		assert_int_equal(vdpa_register_device(&f->fakes[i]->vdev), 0);
		connect_device(f, i);
	}
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	for (unsigned int i = 0; i < DEVICES; i++) {
		vdpa_consumer_free(f->c[i]);
		vdpa_unregister_device(&f->fakes[i]->vdev);
		vdpa_put_device(&f->fakes[i]->vdev);
	}
	for (unsigned int i = 0; i < REGIONS; i++)
		close(f->fds[i]);
	close(f->other);
	free(f);
	return 0;
}

/* Memory. */

static void
eight_devices_map_a_region_once(void **state)
{
	static const unsigned int order[] = {3, 0, 7, 5, 1, 6, 2};
	struct fixture *f = *state;
	const struct vdpa_mem_region *first;

	for (unsigned int i = 0; i < DEVICES; i++)
		assert_int_equal(tell(f, i, 2), 0);
	first = region(f, 0, 0);
	for (unsigned int i = 1; i < DEVICES; i++) {
		assert_ptr_equal(region(f, i, 0), first);
		assert_ptr_equal(region(f, i, 1), region(f, 0, 1));
	}
	assert_int_equal(vdpa_vm_devices(f->c[0]->vm), DEVICES);
	/* All but one leave: to the last nothing has changed. */
	first->va[0] = 0x5a;
	for (unsigned int i = 0; i < DEVICES - 1; i++)
		disconnect_device(f, order[i]);
	assert_ptr_equal(region(f, 4, 0), first);
	assert_int_equal(first->va[0], 0x5a);
	assert_int_equal(first->refcnt, 1);
}

static void
a_region_that_comes_later_is_mapped_once_too(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mem_region_spec more = spec(f, 2);

	assert_int_equal(tell(f, 0, 2), 0);
	assert_int_equal(tell(f, 1, 2), 0);
	assert_int_equal(vdpa_consumer_add_memory(f->c[0], &more), 0);
	/* The second one's own table stays, and so does the place of what it has. */
	assert_int_equal(vdpa_consumer_add_memory(f->c[1], &more), 0);
	assert_ptr_equal(region(f, 1, 2), region(f, 0, 2));
	assert_ptr_equal(region(f, 1, 0), region(f, 0, 0));
	assert_int_equal(vdpa_consumer_remove_memory(f->c[0], more.iova, more.uaddr, more.size), 0);
	assert_int_equal(f->c[0]->iotlb->n, 2);
	assert_int_equal(region(f, 1, 2)->va[0], 0);
}

static void
another_vm_shares_nothing(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vm_member *alone;
	struct vdpa_mem_region_spec wrong = spec(f, 0);
	struct vdpa_iotlb *tlb;

	assert_int_equal(tell(f, 0, 1), 0);
	assert_int_equal(vdpa_vm_join("guest1", "alone", &alone), 0);
	assert_int_equal(vdpa_vm_devices(alone), 1);
	assert_int_equal(vdpa_vm_table_create(alone, NULL, &wrong, 1, &tlb), 0);
	assert_ptr_not_equal(tlb->regions[0], region(f, 0, 0));
	vdpa_iotlb_put(tlb);
	/* And another guest's memory at the same place is no contradiction. */
	wrong.fd = f->other;
	assert_int_equal(vdpa_vm_table_create(alone, NULL, &wrong, 1, &tlb), 0);
	vdpa_iotlb_put(tlb);
	vdpa_vm_leave(alone);
}

static void
a_table_that_contradicts_another_is_refused(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mem_region_spec wrong = spec(f, 0);

	assert_int_equal(tell(f, 0, 2), 0);
	assert_int_equal(tell(f, 1, 1), 0);
	wrong.fd = f->other;
	assert_int_equal(vdpa_consumer_set_memory(f->c[2], &wrong, 1), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), "memory at IOVA 0x0-0xfffff (file "));
	assert_non_null(strstr(vdpa_error_message(), "contradicts that of dev0 at 0x0-0xfffff"));
	assert_non_null(strstr(vdpa_error_message(), "both are of VM guest0"));
	assert_null(f->c[2]->iotlb);
	/* The same file elsewhere is other memory. */
	wrong = spec(f, 0);
	wrong.offset = 4096;
	assert_int_equal(vdpa_consumer_set_memory(f->c[2], &wrong, 1), -EBUSY);
	/* As a region that comes later. */
	assert_int_equal(tell(f, 2, 1), 0);
	wrong = spec(f, 1);
	wrong.fd = f->other;
	assert_int_equal(vdpa_consumer_add_memory(f->c[2], &wrong), -EBUSY);
	assert_int_equal(f->c[2]->iotlb->n, 1);
	/* When whoever has it has gone, it contradicts nobody. */
	disconnect_device(f, 0);
	assert_int_equal(vdpa_consumer_add_memory(f->c[2], &wrong), 0);
	assert_int_equal(region(f, 1, 0)->va[0], 0);
}

static void *
end_connection(void *arg)
{
	usleep(50000);
	disconnect_device(arg, 1);
	return NULL;
}

/* The next guest has the first device before the last one's has let go of the second. */
static void
a_table_waits_for_one_that_is_about_to_go(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mem_region_spec next = spec(f, 0);
	pthread_t thread;

	next.fd = f->other;
	assert_int_equal(tell(f, 1, 2), 0);
	assert_int_equal(vdpa_consumer_set_memory(f->c[0], &next, 1), -EBUSY);
	vdpa_consumer_leaves(f->c[1]);
	assert_int_equal(pthread_create(&thread, NULL, end_connection, f), 0);
	assert_int_equal(vdpa_consumer_set_memory(f->c[0], &next, 1), 0);
	pthread_join(thread, NULL);
	/* One that does not go holds the others up for a time only. */
	connect_device(f, 1);
	next.fd = f->fds[0];
	vdpa_consumer_leaves(f->c[0]);
	assert_int_equal(vdpa_consumer_set_memory(f->c[1], &next, 1), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), "contradicts that of dev0"));
}

static void
the_same_memory_in_other_pieces_contradicts_nothing(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mem_region_spec whole = spec(f, 0), half = spec(f, 0), rest;

	half.size = MEM_SIZE / 2;
	rest = half;
	rest.iova += half.size;
	rest.uaddr += half.size;
	rest.offset += half.size;
	assert_int_equal(vdpa_consumer_set_memory(f->c[0], &whole, 1), 0);
	assert_int_equal(
		vdpa_consumer_set_memory(f->c[1], (struct vdpa_mem_region_spec[]){half, rest}, 2),
		0);
	rest.offset -= 4096;
	assert_int_equal(
		vdpa_consumer_set_memory(f->c[2], (struct vdpa_mem_region_spec[]){half, rest}, 2),
		-EBUSY);
}

/* Front ends. */

static struct vdpa_peer
user(uid_t uid)
{
	return (struct vdpa_peer){.known = true, .uid = uid, .pid = 1, .started = 1};
}

static void
front_ends_have_one_user(void **state)
{
	struct fixture *f = *state;
	struct vdpa_peer one = user(1000), another = user(1001), nobody = {.known = false};

	assert_int_equal(vdpa_consumer_set_peer(f->c[0], &one), 0);
	assert_int_equal(vdpa_consumer_set_peer(f->c[1], &one), 0);
	assert_int_equal(vdpa_consumer_set_peer(f->c[2], &another), -EACCES);
	assert_string_equal(vdpa_error_message(),
			    "dev2: the front end has uid 1001, and that of dev0, of the same VM "
			    "guest0, has uid 1000: run both as one user, or add one of the devices "
			    "with another vm");
	assert_int_equal(vdpa_consumer_set_peer(f->c[2], &nobody), -EACCES);
	/* Once the others' have gone, it is another guest's turn. */
	disconnect_device(f, 0);
	assert_int_equal(vdpa_consumer_set_peer(f->c[2], &another), -EACCES);
	disconnect_device(f, 1);
	assert_int_equal(vdpa_consumer_set_peer(f->c[2], &another), 0);
	connect_device(f, 0);
	assert_int_equal(vdpa_consumer_set_peer(f->c[0], &one), -EACCES);
}

static void
names_of_vms(void **state)
{
	char too_long[VDPA_NAME_MAX + 1];
	const char *const bad[] = {"", "a b", "a/b", too_long};

	memset(too_long, 'v', sizeof(too_long) - 1);
	too_long[sizeof(too_long) - 1] = '\0';
	assert_int_equal(vdpa_vm_check_name("guest_0.a-1"), 0);
	for (unsigned int i = 0; i < RTE_DIM(bad); i++)
		assert_int_equal(vdpa_vm_check_name(bad[i]), -EINVAL);
}

/* A device that does not stop. */

static int
map_nothing(void *arg, const struct vdpa_dma_mapping *m)
{
	return 0;
}

static void
start(struct fake_device *fake, struct vdpa_iotlb *tlb)
{
	const struct vdpa_start_config conf = {.features = V1, .iotlb = tlb};

	assert_int_equal(vdpa_device_start(&fake->vdev, &conf), 0);
}

/* As a front end that tries again and again, on the control loop. */
static void
a_front_end_that_is_refused_has_nothing_taken_from_the_device(void **state)
{
	static const struct vdpa_dma_ops ops = {.map = map_nothing, .unmap = map_nothing};
	const struct vdpa_dma_limits limits = {.page_size = 4096};
	struct vdpa_peer one = user(1000), another = user(1001);
	struct fixture *f = *state;
	struct vdpa_dma_domain *dom;
	struct vdpa_consumer *c;
	struct fake_device *hw;

	assert_int_equal(vdpa_dma_domain_create("vm guest0", &ops, NULL, &limits, &dom), 0);
	hw = fake_hardware_new("hw0", dom, false);
	assert_non_null(hw);
	assert_int_equal(vdpa_vm_join("guest0", "hw0", &hw->vdev.core->vm), 0);
	assert_int_equal(vdpa_register_device(&hw->vdev), 0);
	assert_int_equal(vdpa_consumer_admit(&hw->vdev, &another), 0);
	assert_int_equal(vdpa_consumer_set_peer(f->c[0], &one), 0);
	assert_int_equal(vdpa_consumer_admit(&hw->vdev, &one), 0);
	assert_int_equal(vdpa_consumer_admit(&hw->vdev, &another), -EACCES);
	assert_non_null(strstr(vdpa_error_message(), "of the same VM guest0, has uid 1000"));
	c = vdpa_consumer_new(&hw->vdev, NULL, NULL);
	assert_int_equal(vdpa_consumer_set_peer(c, &another), -EACCES);
	vdpa_consumer_free(c);
	assert_int_equal(hw->dma_releases, 0);
	/* One that has given memory has it taken back. */
	c = vdpa_consumer_new(&hw->vdev, NULL, NULL);
	assert_int_equal(vdpa_consumer_set_peer(c, &one), 0);
	assert_int_equal(vdpa_consumer_set_memory(c, NULL, 0), 0);
	vdpa_consumer_free(c);
	assert_int_equal(hw->dma_releases, 1);
	vdpa_unregister_device(&hw->vdev);
	vdpa_put_device(&hw->vdev);
	vdpa_dma_domain_destroy(dom);
}

static void
one_that_does_not_reset_is_cut_off_from_what_others_use(void **state)
{
	static const struct vdpa_dma_ops ops = {.map = map_nothing, .unmap = map_nothing};
	const struct vdpa_dma_limits limits = {.page_size = 4096};
	struct fixture *f = *state;
	struct vdpa_mem_region_spec memory = spec(f, 0);
	struct vdpa_dma_domain *dom;
	struct vdpa_dma_stats stats;
	struct fake_device *hw[2];
	struct vdpa_iotlb *tlb;

	assert_int_equal(vdpa_dma_domain_create("vm guest0", &ops, NULL, &limits, &dom), 0);
	assert_int_equal(vdpa_iotlb_create(NULL, &memory, 1, &tlb), 0);
	for (unsigned int i = 0; i < 2; i++) {
		hw[i] = fake_hardware_new(i == 0 ? "hw0" : "hw1", dom, false);
		assert_non_null(hw[i]);
		assert_int_equal(vdpa_vm_join("guest0", hw[i]->vdev.name, &hw[i]->vdev.core->vm),
				 0);
		assert_int_equal(vdpa_register_device(&hw[i]->vdev), 0);
		start(hw[i], tlb);
	}
	hw[0]->fail_reset = true;
	assert_int_equal(vdpa_device_stop(&hw[0]->vdev), -ETIMEDOUT);
	assert_int_equal(hw[0]->cuts, 1);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.mappings, 1);
	assert_int_equal(stats.unmaps, 0);
	assert_int_equal(vdpa_device_get_state(&hw[1]->vdev), VDPA_STATE_RUNNING);
	/* Where nobody else has memory there, unmapping is enough. */
	hw[1]->fail_reset = true;
	assert_int_equal(vdpa_device_stop(&hw[1]->vdev), -ETIMEDOUT);
	assert_int_equal(hw[1]->cuts, 0);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.mappings, 0);
	for (unsigned int i = 0; i < 2; i++) {
		hw[i]->fail_reset = false;
		vdpa_unregister_device(&hw[i]->vdev);
		vdpa_put_device(&hw[i]->vdev);
	}
	vdpa_iotlb_put(tlb);
	vdpa_dma_domain_destroy(dom);
}

/* Nobody needs it cut off when it fails; the next guest does. */
static void
the_next_guest_waits_for_one_that_has_not_reset(void **state)
{
	static const struct vdpa_dma_ops ops = {.map = map_nothing, .unmap = map_nothing};
	const struct vdpa_dma_limits limits = {.page_size = 4096, .one_guest = true};
	struct fixture *f = *state;
	struct vdpa_mem_region_spec memory = spec(f, 0);
	struct vdpa_start_config conf = {.features = V1};
	struct vdpa_dma_domain *dom;
	struct fake_device *hw[2];

	assert_int_equal(vdpa_dma_domain_create("vm guest0", &ops, NULL, &limits, &dom), 0);
	assert_int_equal(vdpa_iotlb_create(NULL, &memory, 1, &conf.iotlb), 0);
	for (unsigned int i = 0; i < 2; i++) {
		hw[i] = fake_hardware_new(i == 0 ? "hw0" : "hw1", dom, false);
		assert_non_null(hw[i]);
		assert_int_equal(vdpa_register_device(&hw[i]->vdev), 0);
		start(hw[i], conf.iotlb);
	}
	assert_int_equal(vdpa_device_stop(&hw[0]->vdev), 0);
	assert_int_equal(vdpa_device_set_memory(&hw[0]->vdev, NULL), 0);
	hw[1]->fail_reset = true;
	assert_int_equal(vdpa_device_stop(&hw[1]->vdev), -ETIMEDOUT);
	assert_int_equal(hw[1]->cuts, 0);
	assert_int_equal(vdpa_device_start(&hw[0]->vdev, &conf), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), "hw1 did not reset"));
	hw[1]->fail_reset = false;
	assert_int_equal(vdpa_device_stop(&hw[1]->vdev), 0);
	assert_int_equal(vdpa_device_start(&hw[0]->vdev, &conf), 0);
	for (unsigned int i = 0; i < 2; i++) {
		vdpa_unregister_device(&hw[i]->vdev);
		vdpa_put_device(&hw[i]->vdev);
	}
	vdpa_iotlb_put(conf.iotlb);
	vdpa_dma_domain_destroy(dom);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(eight_devices_map_a_region_once),
		test(a_region_that_comes_later_is_mapped_once_too),
		test(another_vm_shares_nothing),
		test(a_table_that_contradicts_another_is_refused),
		test(a_table_waits_for_one_that_is_about_to_go),
		test(the_same_memory_in_other_pieces_contradicts_nothing),
		test(front_ends_have_one_user),
		cmocka_unit_test(names_of_vms),
		test(a_front_end_that_is_refused_has_nothing_taken_from_the_device),
		test(the_next_guest_waits_for_one_that_has_not_reset),
		test(one_that_does_not_reset_is_cut_off_from_what_others_use),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
