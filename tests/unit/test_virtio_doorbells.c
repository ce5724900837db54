/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The doorbells of the virtio driver: kicks, pages that are given away, notification data. */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "virtio_test.h"

/* Doorbells. */

static void
kicks_are_posted_where_the_doorbell_is_not_mapped(void **state)
{
	struct fixture *f = *state;
	unsigned int posts;

	add_net(f, 2, WORDS);
	start(f);
	posts = f->v.pci.posts;
	eventfd_write(f->guest.kick[3], 1);
	EVENTUALLY(f->v.vq[3].kicks == 1);
	assert_int_equal(f->v.pci.posts, posts + 1);
	assert_int_equal(device(f)->vqs[3].kicks, 1);
}

/* What the server of a function over vfio-user does for a page that may be given away. */
static void
seal_doorbells(struct fixture *f)
{
	assert_int_equal(fcntl(f->v.pci.bar[FAKE_VIRTIO_BAR].fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
}

/* Accesses that wait for the function's answer, in a start with so many queues. */
static unsigned int
answers_of_start(struct fixture *f, uint16_t queues)
{
	unsigned int answered = f->v.pci.answered;

	for (uint16_t i = 0; i < 4; i++)
		f->guest.vqs[i].ready = i < queues;
	start(f);
	answered = f->v.pci.answered - answered;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	return answered;
}

/* Size, vector and whether it is enabled are read back; what is written is not waited for. */
static void
queue_costs_three_answers_of_the_function(void **state)
{
	struct fixture *f = *state;

	add_net(f, 2, WORDS);
	/* The first one turns MSI-X on, too. */
	(void)answers_of_start(f, 4);
	assert_int_equal(answers_of_start(f, 4) - answers_of_start(f, 2), 2 * 3);
}

static void
kicks_are_written_where_the_doorbell_is_mapped(void **state)
{
	struct fixture *f = *state;
	struct vdpa_notification_area area;
	volatile uint16_t *bell, *given;
	unsigned int posts;

	fake_virtio_init_doorbells(&f->v, "v0", 1, 4096, true);
	seal_doorbells(f);
	f->v.features &= ~RTE_BIT64(VIRTIO_NET_F_CTRL_VQ);
	assert_int_equal(add(f, WORDS), 0);
	f->guest.start.nvqs = 2;
	f->guest.start.features = V1;
	f->guest.vqs[0].ready = f->guest.vqs[1].ready = true;
	bell = (volatile uint16_t *)(void *)&f->v.pci.bar[FAKE_VIRTIO_BAR]
		       .mem[FAKE_VIRTIO_NOTIFY + 4096];
	start(f);
	posts = f->v.pci.posts;
	*bell = 0xffff;
	eventfd_write(f->guest.kick[1], 1);
	EVENTUALLY(*bell == 1);
	assert_int_equal(f->v.pci.posts, posts);

	/* A page of its own can be given away. */
	assert_int_equal(vdpa_get_vq_notification(f->vdev, 1, &area), 0);
	assert_int_equal(area.size, 4096);
	assert_false(area.whole_device);
	given = mmap(NULL, area.size, PROT_READ | PROT_WRITE, MAP_SHARED, area.fd,
		     (off_t)area.offset);
	assert_ptr_not_equal(given, MAP_FAILED);
	*given = 0x5a5a;
	assert_int_equal(*bell, 0x5a5a);
	munmap((void *)(uintptr_t)given, area.size);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	end_binding(f);
	assert_null(device(f)->hw.doorbells.va);
}

/* To map them, and to touch the page first, is dear: once for all starts of a front end. */
static void
starts_of_one_binding_map_the_doorbells_once(void **state)
{
	struct fixture *f = *state;
	const volatile uint8_t *va;

	fake_virtio_init_doorbells(&f->v, "v0", 1, 4096, true);
	seal_doorbells(f);
	f->v.features &= ~RTE_BIT64(VIRTIO_NET_F_CTRL_VQ);
	assert_int_equal(add(f, WORDS), 0);
	f->guest.start.nvqs = 2;
	f->guest.start.features = V1;
	f->guest.vqs[0].ready = f->guest.vqs[1].ready = true;
	start(f);
	va = device(f)->hw.doorbells.va;
	assert_non_null(va);
	for (unsigned int i = 0; i < 10; i++) {
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		assert_ptr_equal(device(f)->hw.doorbells.va, va);
		start(f);
		assert_ptr_equal(device(f)->hw.doorbells.va, va);
	}
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	end_binding(f);
	assert_null(device(f)->hw.doorbells.va);
}

/* It may answer no more, and the page be touched in vain. */
static void
a_reset_that_fails_takes_the_doorbells(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init_doorbells(&f->v, "v0", 1, 4096, true);
	seal_doorbells(f);
	f->v.features &= ~RTE_BIT64(VIRTIO_NET_F_CTRL_VQ);
	assert_int_equal(add(f, WORDS), 0);
	f->guest.start.nvqs = 2;
	f->guest.start.features = V1;
	f->guest.vqs[0].ready = f->guest.vqs[1].ready = true;
	start(f);
	f->v.never_resets = true;
	assert_true(vdpa_device_stop(f->vdev) < 0);
	assert_null(device(f)->hw.doorbells.va);
}

static void
a_page_says_that_the_whole_device_goes_with_it(void **state)
{
	struct fixture *f = *state;
	struct vdpa_notification_area area;

	fake_virtio_init_doorbells(&f->v, "v0", 1, 4096, true);
	f->v.pci.bar[FAKE_VIRTIO_BAR].whole_device = true;
	seal_doorbells(f);
	f->v.features &= ~RTE_BIT64(VIRTIO_NET_F_CTRL_VQ);
	assert_int_equal(add(f, WORDS), 0);
	f->guest.start.nvqs = 2;
	f->guest.start.features = V1;
	f->guest.vqs[0].ready = f->guest.vqs[1].ready = true;
	start(f);
	assert_int_equal(vdpa_get_vq_notification(f->vdev, 1, &area), 0);
	assert_true(area.whole_device);
	assert_int_equal(area.offset, device(f)->hw.doorbells.fd_offset + 4096);
}

static void
a_doorbell_that_shares_its_page_is_not_given_away(void **state)
{
	struct fixture *f = *state;
	struct vdpa_notification_area area;

	fake_virtio_init_doorbells(&f->v, "v0", 1, 4, true);
	seal_doorbells(f);
	f->v.features &= ~RTE_BIT64(VIRTIO_NET_F_CTRL_VQ);
	assert_int_equal(add(f, WORDS), 0);
	f->guest.start.nvqs = 2;
	f->guest.start.features = V1;
	f->guest.vqs[0].ready = f->guest.vqs[1].ready = true;
	start(f);
	assert_non_null(device(f)->hw.doorbells.va);
	assert_int_equal(vdpa_get_vq_notification(f->vdev, 0, &area), -EOPNOTSUPP);
	assert_int_equal(vdpa_get_vq_notification(f->vdev, 1, &area), -EOPNOTSUPP);
}

/* The last doorbell's page is not all of the structure's: what follows may be anything. */
static void
a_page_that_the_structure_does_not_fill_is_not_given_away(void **state)
{
	struct fixture *f = *state;
	struct vdpa_notification_area area;
	uint8_t *cap;

	fake_virtio_init_doorbells(&f->v, "v0", 1, 4096, true);
	seal_doorbells(f);
	f->v.features &= ~RTE_BIT64(VIRTIO_NET_F_CTRL_VQ);
	cap = fake_virtio_cap(&f->v, VIRTIO_PCI_CAP_NOTIFY_CFG);
	cap[12] = 4; /* length 0x1004 */
	cap[13] = 0x10;
	assert_int_equal(add(f, WORDS), 0);
	f->guest.start.nvqs = 2;
	f->guest.start.features = V1;
	f->guest.vqs[0].ready = f->guest.vqs[1].ready = true;
	start(f);
	assert_int_equal(vdpa_get_vq_notification(f->vdev, 0, &area), 0);
	assert_int_equal(vdpa_get_vq_notification(f->vdev, 1, &area), -EOPNOTSUPP);
}

/* It would end the process that it was given to. */
static void
a_page_that_can_be_taken_away_is_not_given_away(void **state)
{
	struct fixture *f = *state;
	struct vdpa_notification_area area;

	fake_virtio_init_doorbells(&f->v, "v0", 1, 4096, true);
	f->v.features &= ~RTE_BIT64(VIRTIO_NET_F_CTRL_VQ);
	assert_int_equal(add(f, WORDS), 0);
	f->guest.start.nvqs = 2;
	f->guest.start.features = V1;
	f->guest.vqs[0].ready = f->guest.vqs[1].ready = true;
	start(f);
	assert_int_equal(vdpa_get_vq_notification(f->vdev, 1, &area), -EOPNOTSUPP);
	/* And when it is, the device fails at its next kick. cmocka has a SIGBUS handler of its own
	 * in a test. */
	vdpa_fault_fini();
	assert_int_equal(vdpa_fault_init(), 0);
	assert_int_equal(ftruncate(f->v.pci.bar[FAKE_VIRTIO_BAR].fd, FAKE_VIRTIO_NOTIFY), 0);
	eventfd_write(f->guest.kick[1], 1);
	EVENTUALLY(vdpa_pci_error(device(f)->hw.pci) == -ENODEV);
}

static void
a_kick_before_the_start_is_made_up_for(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	f->vdev->config->kick_vq(f->vdev, 0);
	assert_int_equal(f->v.vq[0].kicks, 0);
	assert_int_equal(vdpa_device_start(f->vdev, &f->guest.start), 0);
	assert_int_equal(f->v.vq[0].kicks, 1);
	assert_int_equal(f->v.vq[1].kicks, 1);
}

/* Notification data. */

/* The control queue's kicks are the driver's, which knows the position; fake_virtio.c checks it. Of
 * the others the consumer alone does. */
static void
only_the_control_queue_is_kicked_by_the_driver_where_kicks_carry_data(void **state)
{
	struct fixture *f = *state;

	add_net(f, 2, WORDS);
	f->guest.start.features = V1 | MQ | DATA;
	f->guest.vqs[2].ready = f->guest.vqs[3].ready = false;
	take_eventfds_away(f);
	assert_int_equal(vdpa_device_start(f->vdev, &f->guest.start), 0);
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->guest.vqs[2]), 0);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(f->v.vq[i].kicks, 0);
	assert_true(f->v.vq[f->v.ctrl_idx].kicks > 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	/* Without it, the next session has 16 bits again: the function looks. */
	f->guest.start.features = V1 | MQ;
	assert_int_equal(vdpa_device_start(f->vdev, &f->guest.start), 0);
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(f->v.vq[i].kicks, 1);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

/* Doorbells of two bytes, and one at the end of the structure: 32 bits would hit something else. */
static void
data_is_not_offered_without_room_for_it(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init_doorbells(&f->v, "v0", 1, 2, false);
	assert_int_equal(add(f, WORDS), 0);
	assert_int_equal(vdpa_get_device_features(f->vdev) & DATA, 0);
	assert_int_equal(vdpa_dev_del("v0"), 0);
	fake_virtio_fini(&f->v);

	fake_virtio_init(&f->v, "v0", 1);
	fake_virtio_cap(&f->v, VIRTIO_PCI_CAP_NOTIFY_CFG)[12] = 6;
	fake_virtio_cap(&f->v, VIRTIO_PCI_CAP_NOTIFY_CFG)[13] = 0;
	f->v.features &= ~RTE_BIT64(VIRTIO_NET_F_CTRL_VQ);
	assert_int_equal(add(f, WORDS), 0);
	assert_int_equal(vdpa_get_device_features(f->vdev) & DATA, 0);
}

static void
a_control_queue_without_room_for_data_is_refused(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	fake_virtio_cap(&f->v, VIRTIO_PCI_CAP_NOTIFY_CFG)[12] = 10;
	fake_virtio_cap(&f->v, VIRTIO_PCI_CAP_NOTIFY_CFG)[13] = 0;
	assert_int_equal(add(f, WORDS), 0);
	f->guest.start.nvqs = 2;
	f->guest.start.features = V1 | DATA;
	f->guest.vqs[0].ready = f->guest.vqs[1].ready = true;
	take_eventfds_away(f);
	assert_refused(vdpa_device_start(f->vdev, &f->guest.start), EPROTO, "no room for it");
	f->guest.start.features = V1;
	start(f);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(kicks_are_posted_where_the_doorbell_is_not_mapped),
		T(queue_costs_three_answers_of_the_function),
		T(kicks_are_written_where_the_doorbell_is_mapped),
		T(starts_of_one_binding_map_the_doorbells_once),
		T(a_reset_that_fails_takes_the_doorbells),
		T(a_page_says_that_the_whole_device_goes_with_it),
		T(a_doorbell_that_shares_its_page_is_not_given_away),
		T(a_page_that_the_structure_does_not_fill_is_not_given_away),
		T(a_page_that_can_be_taken_away_is_not_given_away),
		T(a_kick_before_the_start_is_made_up_for),
		T(only_the_control_queue_is_kicked_by_the_driver_where_kicks_carry_data),
		T(data_is_not_offered_without_room_for_it),
		T(a_control_queue_without_room_for_data_is_refused),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
