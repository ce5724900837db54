/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The shadow virtqueue under random traffic: every format of ring on each side, ends in mid-run and
 * another shadow that goes on, the dirty log, and what changes while buffers pass. Each buffer's
 * bytes, each length and each order is checked.
 */

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shadow_test.h"

#define STEPS	100000
#define STEPS_L 1000000

static void
format_name(uint64_t features, char *name, size_t size)
{
	snprintf(name, size, "%s%s%s%s", features & PACKED ? "packed" : "split",
		 features & INDIRECT ? " indirect" : "", features & EVENT_IDX ? " event" : "",
		 features & IN_ORDER ? " in-order" : "");
}

static uint32_t
any_num(struct shadow_test *t, uint64_t features)
{
	return features & PACKED ? 3 + rnd(t, NUM_MAX - 3) : 4u << rnd(t, 7);
}

static void
add_any(struct shadow_test *t, unsigned int longest_chain)
{
	for (unsigned int i = 1 + rnd(t, 8); i > 0; i--) {
		unsigned int max = rnd(t, 16) == 0 ? longest_chain : RTE_MIN(longest_chain, 4u);
		unsigned int n = 1 + rnd(t, max);

		if (guest_add(t, n, rnd(t, n + 1), n > 50 ? 100 : 600) == NUM_MAX)
			break;
	}
	guest_kick(t);
}

/* Whether a place can say which of the guest's chains the device has used: the oldest. */
static bool
is_in_order(const struct shadow_test *t)
{
	for (unsigned int i = 0; i < NUM_MAX; i++)
		if (t->chains[i].busy && !t->chains[i].done &&
		    t->chains[i].order < t->youngest_done)
			return false;
	return true;
}

struct counts {
	uint64_t chains, ends, busy_ends, resubmitted;
};

/* The device stops in mid-run, and another shadow goes on, with another ring. */
static void
stop_and_go_on(struct shadow_test *t, uint64_t features, uint32_t num, struct counts *n)
{
	bool known = is_in_order(t);
	unsigned int in_flight, left = 0, held = t->n_held;
	int rc = shadow_end(t, &in_flight);

	n->ends++;
	assert_in_range(in_flight, held, NUM_MAX);
	if (t->area != NULL) {
		assert_int_equal(rc, 0);
		n->resubmitted += in_flight;
	} else if (!t->zeroes) {
		assert_int_equal(rc, known ? 0 : -EBUSY);
	}
	if (rc < 0) {
		assert_int_equal(rc, -EBUSY);
		n->busy_ends++;
		guest_begin(t, t->guest_features, t->guest_num);
	} else {
		/* All that the device has used is with the guest, unless that one takes its chains
		 * in order. What is executed once more is what the guest has not got back. */
		while (vdpa_vring_has_used(t->driver) && guest_take(t) >= 0)
			;
		for (unsigned int i = 0; i < NUM_MAX; i++) {
			struct chain *c = &t->chains[i];

			left += c->busy && c->done;
			c->done = c->done && !c->busy;
		}
		if ((t->guest_features & IN_ORDER) == 0)
			assert_int_equal(left, 0);
		t->guest_awake = true;
	}
	shadow_begin(t, features, num);
}

static void
swap_kick(struct shadow_test *t)
{
	int old = t->kick_fd;

	t->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(vdpa_mover_set_kick(t->s, t->kick_fd), 0);
	close(old);
}

static void
swap_call(struct shadow_test *t)
{
	int old = t->call_fd;

	t->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vdpa_mover_set_call(t->s, t->call_fd);
	close(old);
	/* It may have been called by the old one. */
	t->guest_awake = true;
}

static void
swap_memory(struct shadow_test *t)
{
	t->more = !t->more;
	assert_int_equal(vdpa_mover_set_iotlb(t->s, t->more ? t->tlb_more : t->tlb), 0);
}

static void
switch_log(struct shadow_test *t)
{
	t->log_on = !t->log_on;
	t->epoch++;
	vdpa_mover_set_log(t->s, t->log_on ? &t->log : NULL, RING_IOVA + 2 * RING_OFFSETS);
}

/* A front end looks at the log. */
static void
harvest(struct shadow_test *t)
{
	t->harvests++;
	for (uint64_t page = 0; page < PAGES; page += 8) {
		uint8_t bits = __atomic_exchange_n(&t->bitmap[page / 8], 0, __ATOMIC_SEQ_CST);

		for (unsigned int i = 0; bits != 0; i++, bits >>= 1)
			if (bits & 1)
				t->collected[page + i] = t->harvests;
	}
}

static void
pause_for_a_while(struct shadow_test *t)
{
	struct vdpa_mover_stats before, after;

	vdpa_mover_pause(t->s, true);
	vdpa_mover_stats(t->s, &before);
	for (unsigned int i = 0; i < 4; i++) {
		device_step(t, 4);
		guest_step(t);
		usleep(20);
	}
	vdpa_mover_stats(t->s, &after);
	assert_int_equal(before.forwarded, after.forwarded);
	vdpa_mover_pause(t->s, false);
}

/* Requests that the device has are used when it says true; nobody runs the device meanwhile. */
static void
drain_at_once(struct shadow_test *t)
{
	bool drained = vdpa_shadow_drain(t->s, 0);

	for (unsigned int i = 0; drained && i < t->n_held; i++)
		assert_int_equal(t->held[i].chain.nout, 0);
	vdpa_mover_pause(t->s, false);
}

/* Traffic of so many steps between two formats. */
static void
traffic(struct shadow_test *t, uint64_t guest, uint64_t device, unsigned int steps,
	struct counts *counts)
{
	uint32_t guest_num = any_num(t, guest), device_num = any_num(t, device);
	unsigned int longest_chain;

	loop_begin(t, rnd(t, 2) == 0 ? 20 : 0);
	guest_track(t, rnd(t, 2) == 0);
	t->zeroes = rnd(t, 4) == 0;
	t->lengths_tell = rnd(t, 2) == 0;
	guest_begin(t, guest, guest_num);
	/* Room for a chain that lies across two regions. */
	device_num = RTE_MAX(device_num, 4u);
	longest_chain = RTE_MIN(longest(guest, guest_num), longest(device, device_num) - 1);
	shadow_begin(t, device, device_num);
	for (unsigned int i = 0; i < steps; i++) {
		uint32_t what = rnd(t, 1000);

		if (what < 350) {
			add_any(t, longest_chain);
		} else if (what < 650) {
			device_step(t, rnd(t, 12));
		} else if (what < 950) {
			guest_step(t);
		} else if (what < 960) {
			harvest(t);
		} else if (what < 963) {
			switch_log(t);
		} else if (what < 967) {
			swap_kick(t);
		} else if (what < 971) {
			swap_call(t);
		} else if (what < 975) {
			swap_memory(t);
		} else if (what < 978) {
			pause_for_a_while(t);
		} else if (what < 981) {
			drain_at_once(t);
		} else if (what < 985) {
			stop_and_go_on(t, device, device_num, counts);
		} else {
			usleep(rnd(t, 30));
		}
		if (failures(t) > 0)
			fail_msg("the shadow: %s", t->why);
	}
	settle(t);
	counts->chains += t->taken;
	{
		unsigned int in_flight;

		assert_int_equal(shadow_end(t, &in_flight), 0);
		assert_int_equal(in_flight, 0);
	}
	if (t->log_on) {
		harvest(t);
		t->log_on = false;
	}
}

static void
random_traffic_passes_between_all_formats(void **state)
{
	const char *more = getenv("UVDPA_TEST_LONG"), *seed = getenv("UVDPA_TEST_SEED");
	bool is_long = more != NULL && more[0] != '\0' && strcmp(more, "0") != 0;
	unsigned int steps = (is_long ? STEPS_L : STEPS) / (FORMATS * FORMATS);
	uint64_t first = seed != NULL ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
	struct shadow_test *t = *state;
	struct counts counts = {0};

	for (unsigned int i = 0; i < FORMATS * FORMATS; i++) {
		uint64_t guest = format(i % FORMATS), device = format(i / FORMATS);
		char names[2][64];

		t->seed = (first + i + 1) * UINT64_C(0x9e3779b97f4a7c15);
		format_name(guest, names[0], sizeof(names[0]));
		format_name(device, names[1], sizeof(names[1]));
		if (getenv("UVDPA_TEST_VERBOSE") != NULL)
			printf("%u: guest %s, device %s\n", i, names[0], names[1]);
		traffic(t, guest, device, steps, &counts);
	}
	printf("FIGURE: %u steps of %u formats, seed %llu: %llu chains, %llu ends, of which %llu "
	       "where no place says what is used; %llu chains were in flight and tracked\n",
	       steps * FORMATS * FORMATS, FORMATS * FORMATS, (unsigned long long)first,
	       (unsigned long long)counts.chains, (unsigned long long)counts.ends,
	       (unsigned long long)counts.busy_ends, (unsigned long long)counts.resubmitted);
}

static void *
busy_device(void *arg)
{
	struct shadow_test *t = arg;

	while (!__atomic_load_n(&t->device_stops, __ATOMIC_ACQUIRE))
		if (device_step(t, 8) == 0)
			usleep(10);
	return NULL;
}

/* Where guest, shadow and device run at the same time. */
static void
a_device_on_a_thread_of_its_own(void **state)
{
	struct shadow_test *t = *state;

	for (unsigned int i = 0; i < FORMATS; i++) {
		pthread_t thread;
		unsigned int in_flight;
		uint64_t until;

		t->device_stops = false;
		guest_begin(t, format(i), 64);
		shadow_begin(t, format((i * 7 + 5) % FORMATS), 64);
		assert_int_equal(pthread_create(&thread, NULL, busy_device, t), 0);
		for (unsigned int n = 0; n < 500; n++) {
			add_any(t, 30);
			guest_step(t);
			if (n % 50 == 0)
				swap_kick(t);
			if (n % 70 == 0)
				swap_call(t);
			if (n % 90 == 0)
				swap_memory(t);
		}
		for (until = now_ms() + PATIENCE_MS; t->busy > 0;)
			if (guest_step(t) == 0 && now_ms() > until)
				fail_msg("%u chains do not come back", t->busy);
		__atomic_store_n(&t->device_stops, true, __ATOMIC_RELEASE);
		pthread_join(thread, NULL);
		assert_int_equal(failures(t), 0);
		assert_int_equal(shadow_end(t, &in_flight), 0);
		assert_int_equal(in_flight, 0);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_device_on_a_thread_of_its_own),
		T(random_traffic_passes_between_all_formats),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
