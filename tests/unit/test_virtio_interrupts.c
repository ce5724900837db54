/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The interrupts of the virtio driver: the ladder of vectors, and changes of the configuration. */

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "virtio_test.h"

static uint64_t
signals(int fd)
{
	eventfd_t n;

	return eventfd_read(fd, &n) == 0 ? n : 0;
}

/* Once, and soon. */
static void
assert_signalled(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, 5000), 1);
	assert_int_equal(signals(fd), 1);
}

/* The function has none of the guest's eventfds, and reaches nobody. */
static void
assert_parked(struct fixture *f, unsigned int n)
{
	assert_true(f->v.pci.msix_on);
	assert_int_equal(f->v.pci.n_msix, n);
	for (unsigned int i = 0; i < n; i++) {
		assert_int_equal(f->v.pci.msix[i], -1);
		assert_false(fake_pci_raise(&f->v.pci, i));
	}
	for (unsigned int i = 0; i < f->guest.start.nvqs; i++)
		assert_int_equal(signals(f->guest.call[i]), 0);
}

/* The ladder. */

static void
each_queue_has_a_vector_that_signals_the_guest(void **state)
{
	struct fixture *f = *state;
	int other = f->spare;
	uint64_t relayed;

	add_net(f, 2, WORDS);
	start(f);
	assert_int_equal(f->v.pci.n_msix, 5);
	assert_int_equal(f->v.config_vector, 0);
	for (unsigned int i = 0; i < 4; i++) {
		assert_int_equal(f->v.vq[i].vector, 1 + i);
		assert_int_equal(f->v.pci.msix[1 + i], f->guest.call[i]);
	}
	relayed = device(f)->irq.relayed;
	assert_true(fake_virtio_interrupt(&f->v, 2));
	assert_int_equal(signals(f->guest.call[2]), 1);
	assert_int_equal(device(f)->irq.relayed, relayed);

	/* Swapped while it runs: the new one hears of what may have come in between, others do
	 * not, and the queue is not touched. */
	assert_int_equal(vdpa_device_set_vq_call(f->vdev, 2, other), 0);
	assert_int_equal(f->v.pci.msix[3], other);
	assert_int_equal(signals(other), 1);
	assert_int_equal(signals(f->guest.call[1]) + signals(f->guest.call[2]) +
				 signals(f->guest.call[3]),
			 0);
	assert_int_equal(f->v.vq[2].enable, 1);
	assert_int_equal(vdpa_device_set_vq_call(f->vdev, 2, -1), 0);
	assert_int_equal(f->v.pci.msix[3], -1);
	assert_false(fake_virtio_interrupt(&f->v, 2));
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

static void
queues_share_vectors_when_there_are_few(void **state)
{
	struct fixture *f = *state;

	add_net(f, 2, WORDS "vectors 3");
	start(f);
	assert_int_equal(f->v.pci.n_msix, 3);
	for (unsigned int i = 0; i < 4; i++)
		assert_int_equal(f->v.vq[i].vector, 1 + i % 2);
	assert_true(fake_virtio_interrupt(&f->v, 1));
	assert_signalled(f->guest.call[3]);
	assert_int_equal(signals(f->guest.call[1]), 1);
	assert_int_equal(signals(f->guest.call[0]) + signals(f->guest.call[2]), 0);
	assert_int_equal(device(f)->irq.relayed, 1);
}

/* Three queues with two vectors: the first is shared, the second is not. */
static void
a_vector_of_one_queue_is_not_relayed_beside_shared_ones(void **state)
{
	struct fixture *f = *state;

	add_net(f, 2, WORDS "vectors 4");
	start(f);
	assert_int_equal(f->v.vq[0].vector, 1);
	assert_int_equal(f->v.vq[3].vector, 1);
	assert_int_equal(f->v.pci.msix[2], f->guest.call[1]);
	assert_int_equal(f->v.pci.msix[3], f->guest.call[2]);
	assert_true(fake_virtio_interrupt(&f->v, 3));
	assert_signalled(f->guest.call[3]);
	assert_int_equal(signals(f->guest.call[0]), 1);
}

static void
one_vector_serves_all(void **state)
{
	struct fixture *f = *state;
	int config = f->spare;

	add_net(f, 2, WORDS "vectors 1");
	start(f);
	assert_int_equal(f->vdev->config->set_config_cb(f->vdev, config), 0);
	assert_int_equal(f->v.pci.n_msix, 1);
	assert_true(fake_virtio_interrupt(&f->v, 1));
	for (unsigned int i = 0; i < 4; i++)
		assert_signalled(f->guest.call[i]);
	/* The generation tells whether it was the configuration. */
	usleep(20000);
	assert_int_equal(signals(config), 0);
	fake_virtio_change_config(&f->v, 0);
	assert_signalled(config);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

static void
the_line_serves_where_there_are_no_vectors(void **state)
{
	struct fixture *f = *state;
	int config = f->spare;

	add_net(f, 2, WORDS "vectors 0");
	start(f);
	assert_int_equal(f->vdev->config->set_config_cb(f->vdev, config), 0);
	assert_false(f->v.pci.msix_on);
	assert_int_equal(f->v.vq[0].vector, FAKE_VIRTIO_NO_VECTOR);
	for (unsigned int round = 0; round < 3; round++) {
		assert_true(fake_virtio_interrupt(&f->v, 1));
		for (unsigned int i = 0; i < 4; i++)
			assert_signalled(f->guest.call[i]);
		assert_int_equal(signals(config), 0);
		EVENTUALLY(!f->v.pci.intx_masked);
		fake_virtio_change_config(&f->v, 0);
		assert_signalled(config);
		assert_int_equal(signals(f->guest.call[0]), 0);
		EVENTUALLY(!f->v.pci.intx_masked);
	}
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->v.pci.intx, -1);
}

static void
a_vector_that_is_not_granted_leads_down_the_ladder(void **state)
{
	struct fixture *f = *state;

	add_net(f, 4, WORDS);
	f->v.vectors_granted = 4;
	start(f);
	assert_int_equal(f->v.pci.n_msix, 4);
	assert_int_equal(f->v.vq[7].vector, 2);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	f->v.vectors_granted = 0;
	start(f);
	assert_false(f->v.pci.msix_on);
	assert_true(f->v.pci.intx >= 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	f->v.pci.nr_irqs[VFIO_PCI_INTX_IRQ_INDEX] = 0;
}

static void
a_device_without_interrupts_does_not_start(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	f->v.pci.nr_irqs[VFIO_PCI_INTX_IRQ_INDEX] = 0;
	assert_int_equal(add(f, WORDS "vectors 0"), 0);
	f->guest.start.nvqs = 2;
	f->guest.start.features = V1;
	f->guest.vqs[0].ready = f->guest.vqs[1].ready = true;
	assert_refused(vdpa_device_start(f->vdev, &f->guest.start), ENOSPC, "interrupt line");
}

static void
a_change_of_the_configuration_reaches_the_front_end(void **state)
{
	struct fixture *f = *state;
	int config = f->spare;

	add_net(f, 1, WORDS);
	start(f);
	assert_int_equal(f->vdev->config->set_config_cb(f->vdev, config), 0);
	fake_virtio_change_config(&f->v, 0);
	assert_signalled(config);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

static void
a_slow_answer_delays_no_kick(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	start(f);
	__atomic_store_n(&f->v.hold_status, true, __ATOMIC_RELEASE);
	fake_virtio_change_config(&f->v, 0);
	EVENTUALLY(__atomic_load_n(&f->v.holding_status, __ATOMIC_ACQUIRE));
	eventfd_write(f->guest.kick[1], 1);
	EVENTUALLY(__atomic_load_n(&f->v.vq[1].kicks, __ATOMIC_SEQ_CST) == 1);
	__atomic_store_n(&f->v.hold_status, false, __ATOMIC_RELEASE);
}

static void
vectors_stay_with_the_function_between_starts_and_wake_nobody(void **state)
{
	struct fixture *f = *state;
	unsigned int idle, calls;

	add_net(f, 2, WORDS);
	idle = count_fds();
	start(f);
	for (unsigned int i = 0; i < 5; i++) {
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		assert_int_equal(count_fds(), idle + 1); /* the memory's */
		assert_parked(f, 5);
		calls = f->v.pci.irq_calls;
		start(f);
		/* An eventfd for each queue and the configuration, and no more. */
		assert_int_equal(f->v.pci.irq_calls, calls + 5);
		assert_true(fake_virtio_interrupt(&f->v, 2));
		assert_int_equal(signals(f->guest.call[2]), 1);
	}
	/* Another number of queues. */
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	f->guest.start.nvqs = 2;
	f->guest.start.features = V1;
	start(f);
	assert_int_equal(f->v.pci.n_msix, 3);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_parked(f, 3);
	end_binding(f);
	assert_false(f->v.pci.msix_on);
	assert_int_equal(count_fds(), idle);
}

/* Its interrupts would be of the start before. */
static void
vectors_of_a_device_that_does_not_reset_are_off(void **state)
{
	struct fixture *f = *state;

	add_net(f, 2, WORDS);
	start(f);
	f->v.never_resets = true;
	f->v.pci.can_reset = false;
	assert_int_equal(vdpa_device_stop(f->vdev), -ETIMEDOUT);
	assert_false(f->v.pci.msix_on);
	f->v.never_resets = false;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(each_queue_has_a_vector_that_signals_the_guest),
		T(queues_share_vectors_when_there_are_few),
		T(a_vector_of_one_queue_is_not_relayed_beside_shared_ones),
		T(one_vector_serves_all),
		T(the_line_serves_where_there_are_no_vectors),
		T(a_vector_that_is_not_granted_leads_down_the_ladder),
		T(a_device_without_interrupts_does_not_start),
		T(a_change_of_the_configuration_reaches_the_front_end),
		T(a_slow_answer_delays_no_kick),
		T(vectors_stay_with_the_function_between_starts_and_wake_nobody),
		T(vectors_of_a_device_that_does_not_reset_are_off),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
