/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a driver has set by the control queue of a sim_net, in the next process, and files of it
 * that anybody may have made. The store is played by the test.
 *
 * UVDPA_TEST_LONG=1: 100,000 files; UVDPA_TEST_SEED: others.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <rte_hash_crc.h>

#include "device_priv.h"
#include "kept_state.h"
#include "mutate.h"
#include "restart.h"
#include "test_util.h"
#include "vdpa_consumer.h"

#define FEATURES                                                                                   \
	(RTE_BIT64(VIRTIO_F_VERSION_1) | RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) |                         \
	 RTE_BIT64(VIRTIO_NET_F_CTRL_RX))
#define STATUS                                                                                     \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |      \
	 VIRTIO_CONFIG_S_DRIVER_OK)
/* Of a state of sim_net without addresses: its head, and the VLANs. */
#define STATE_LEN (16 + 512)
#define STATE_MAC 4
#define SLOT	  (16 + VDPA_STATE_MAX)
/* Of a slot in the file. */
#define AT(seq)	  (8 + (seq) % 2 * SLOT)

static struct {
	int fd; /* -1: none */
	bool leaves, holds;
} store = {.fd = -1};

int __wrap_vdpa_restart_put(const char *device, const char *what, int fd);
int __wrap_vdpa_restart_take(const char *device, const char *what);
bool __wrap_vdpa_restart_leaves(void);
bool __wrap_vdpa_restart_holds(void);

int
__wrap_vdpa_restart_put(const char *device, const char *what, int fd)
{
	assert_string_equal(what, "state");
	if (store.fd >= 0)
		close(store.fd);
	store.fd = dup(fd);
	return 0;
}

int
__wrap_vdpa_restart_take(const char *device, const char *what)
{
	assert_string_equal(what, "state");
	return store.fd >= 0 ? dup(store.fd) : vdpa_error(ENOENT, "%s is not kept", what);
}

bool
__wrap_vdpa_restart_leaves(void)
{
	return store.leaves;
}

bool
__wrap_vdpa_restart_holds(void)
{
	return store.holds;
}

/* A process: the device, what it keeps, and its connection. */
struct process {
	struct vdpa_device *vdev;
	struct vdpa_consumer *c;
	struct vdpa_state_kept kept;
};

static void
begin(struct process *p, const char *words)
{
	char line[128];

	*p = (struct process){0};
	snprintf(line, sizeof(line), "name net0 mgmtdev sim_net mac 52:54:00:00:00:01 %s", words);
	if (vdpa_dev_add(line) < 0)
		fail_msg("dev add: %s", vdpa_error_message());
	p->vdev = vdpa_find_device("net0");
	p->c = vdpa_consumer_new_function(p->vdev);
	assert_non_null(p->c);
}

/* It is killed, as far as that is seen from outside: no stop of the device is noted. */
static void
end(struct process *p)
{
	vdpa_kept_state_drop(&p->kept);
	vdpa_consumer_reset(p->c);
	vdpa_consumer_free(p->c);
	vdpa_put_device(p->vdev);
	assert_int_equal(vdpa_dev_del("net0"), 0);
}

static void
run(struct process *p)
{
	vdpa_consumer_set_status(p->c, STATUS);
	vdpa_consumer_advance(p->c);
	assert_true(vdpa_consumer_is_running(p->c));
}

static void
begin_first(struct process *p)
{
	begin(p, "");
	assert_int_equal(vdpa_kept_state_make(&p->kept, p->vdev), 0);
	vdpa_kept_state_clear(&p->kept);
	assert_int_equal(vdpa_consumer_negotiate(p->c, FEATURES), 0);
	assert_null(vdpa_kept_state_why_cold(&p->kept, p->vdev, FEATURES));
	run(p);
}

/* What the front end does in the next process, up to the start. */
static int
begin_next(struct process *p, uint64_t features, bool has_run)
{
	begin(p, "");
	assert_int_equal(vdpa_kept_state_take(&p->kept, p->vdev), 0);
	assert_int_equal(vdpa_consumer_negotiate(p->c, features), 0);
	return vdpa_kept_state_apply(&p->kept, p->vdev, p->c, features, has_run);
}

/* A state that its driver could have: an address. */
static void
make_state(uint8_t state[STATE_LEN], uint8_t mac)
{
	memset(state, 0, STATE_LEN);
	state[0] = state[2] = 1; /* version, pairs */
	memcpy(state + STATE_MAC, (const uint8_t[6]){0x52, 0x54, 0, 0, 0, mac}, 6);
}

static void
say(struct process *p, uint8_t mac)
{
	uint8_t state[STATE_LEN];

	make_state(state, mac);
	vdpa_device_state_changed(p->vdev, state, sizeof(state));
}

/* The last byte of the address that the driver reads. */
static uint8_t
mac_of(struct process *p)
{
	uint8_t mac[6];

	assert_int_equal(vdpa_get_config(p->vdev, 0, mac, sizeof(mac)), 0);
	return mac[5];
}

static void
expect_next(uint8_t mac)
{
	struct process p;

	assert_int_equal(begin_next(&p, FEATURES, true), 0);
	run(&p);
	assert_int_equal(mac_of(&p), mac);
	end(&p);
}

static void
expect_refused(int rc, const char *why)
{
	struct process p;

	assert_int_equal(begin_next(&p, FEATURES, true), rc);
	assert_non_null(strstr(vdpa_error_message(), why));
	/* What it starts with then is what it was added with. */
	run(&p);
	assert_int_equal(mac_of(&p), 1);
	end(&p);
}

static uint8_t *
map_file(size_t *size)
{
	struct stat st;
	uint8_t *p;

	assert_int_equal(fstat(store.fd, &st), 0);
	*size = (size_t)st.st_size;
	p = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED, store.fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static int
forget_store(void **state)
{
	if (store.fd >= 0)
		close(store.fd);
	store.fd = -1;
	store.leaves = store.holds = false;
	return 0;
}

/* Tests. */

static void
the_next_process_starts_with_what_was_said_last(void **state)
{
	struct process p;

	begin_first(&p);
	end(&p);
	expect_next(1);
	begin_first(&p);
	for (uint8_t mac = 2; mac < 7; mac++)
		say(&p, mac);
	end(&p);
	expect_next(6);
	/* And the one behind that. */
	expect_next(6);
}

static void
a_stop_of_the_front_end_forgets_it_and_the_end_of_the_process_does_not(void **state)
{
	struct process p;

	begin_first(&p);
	say(&p, 2);
	store.leaves = true;
	vdpa_consumer_reset(p.c);
	store.leaves = false;
	end(&p);
	expect_next(2);
	/* Nor does one that may yet go back to the process before. */
	assert_int_equal(begin_next(&p, FEATURES, true), 0);
	run(&p);
	store.holds = true;
	vdpa_consumer_reset(p.c);
	store.holds = false;
	end(&p);
	expect_next(2);
	assert_int_equal(begin_next(&p, FEATURES, true), 0);
	run(&p);
	vdpa_consumer_reset(p.c);
	assert_int_equal(vdpa_consumer_negotiate(p.c, FEATURES), 0);
	run(&p);
	assert_int_equal(mac_of(&p), 1);
	end(&p);
	expect_next(1);
}

static void
a_record_without_a_run_or_without_a_control_queue_empties_it(void **state)
{
	struct process p;

	for (unsigned int i = 0; i < 2; i++) {
		begin_first(&p);
		say(&p, 2);
		end(&p);
		assert_int_equal(
			begin_next(&p, i == 0 ? FEATURES : RTE_BIT64(VIRTIO_F_VERSION_1), i != 0),
			0);
		end(&p);
		expect_next(1);
		forget_store(NULL);
	}
}

static void
what_was_loaded_by_a_start_is_kept(void **state)
{
	uint8_t bytes[STATE_LEN];
	struct process p;

	begin(&p, "");
	assert_int_equal(vdpa_kept_state_make(&p.kept, p.vdev), 0);
	assert_int_equal(vdpa_consumer_negotiate(p.c, FEATURES), 0);
	make_state(bytes, 9);
	assert_int_equal(vdpa_consumer_resume_state(p.c, bytes, sizeof(bytes)), 0);
	assert_false(vdpa_consumer_holds_state(p.c));
	run(&p);
	end(&p);
	expect_next(9);
}

static void
a_write_that_was_cut_leaves_the_one_before_in_force(void **state)
{
	struct process p;
	uint64_t current;
	uint8_t *file;
	size_t size;

	begin_first(&p);
	say(&p, 2);
	end(&p);
	file = map_file(&size);
	memcpy(&current, file, sizeof(current));
	memset(file + AT(current + 1), 0xee, SLOT);
	expect_next(2);
	munmap(file, size);
}

static void
what_does_not_check_or_load_is_refused(void **state)
{
	static const struct {
		size_t at; /* of the slot in force */
		uint8_t value;
		bool crc; /* is made right */
		int rc;
		const char *why;
	} cases[] = {
		{16 + STATE_MAC, 0x50, false, -EPROTO, "does not check"},
		{0, 0x77, false, -EPROTO, "does not check"},
		{0, 0x77, true, -EPROTO, "does not check"},
		{8, 0xff, false, -EPROTO, "does not check"},
		{9, 0, true, -EINVAL, "does not load: a state of 16 bytes, expected 528"},
		{10, 0x7f, false, -EPROTO, "does not check"},
		{16, 9, true, -EINVAL, "does not load: a state of version 9"},
		{18, 3, true, -EINVAL, "does not load: 3 queue pairs"},
	};
	struct process p;
	uint64_t current, seq;
	uint32_t len, crc;
	uint8_t *file, *slot;
	size_t size;

	for (unsigned int i = 0; i < RTE_DIM(cases); i++) {
		begin_first(&p);
		say(&p, 2);
		end(&p);
		file = map_file(&size);
		memcpy(&current, file, sizeof(current));
		slot = file + AT(current);
		assert_int_not_equal(slot[cases[i].at], cases[i].value);
		slot[cases[i].at] = cases[i].value;
		memcpy(&seq, slot, sizeof(seq));
		memcpy(&len, slot + 8, sizeof(len));
		if (cases[i].crc) {
			crc = rte_hash_crc_4byte(len, rte_hash_crc_8byte(seq, 0xffffffffu));
			crc = rte_hash_crc(slot + 16, len, crc);
			memcpy(slot + 12, &crc, sizeof(crc));
		}
		munmap(file, size);
		expect_refused(cases[i].rc, cases[i].why);
		forget_store(NULL);
	}
}

static void
one_that_is_too_long_says_so_until_there_is_another(void **state)
{
	uint8_t *bytes = calloc(1, VDPA_STATE_MAX + 1);
	struct process p;

	begin_first(&p);
	vdpa_device_state_changed(p.vdev, bytes, VDPA_STATE_MAX + 1);
	assert_non_null(strstr(vdpa_kept_state_why_cold(&p.kept, p.vdev, FEATURES), "too long"));
	end(&p);
	expect_refused(-EPROTO, "too long");
	begin_first(&p);
	vdpa_device_state_changed(p.vdev, bytes, VDPA_STATE_MAX + 1);
	say(&p, 3);
	assert_null(vdpa_kept_state_why_cold(&p.kept, p.vdev, FEATURES));
	end(&p);
	expect_next(3);
	free(bytes);
}

static void
a_process_that_kept_none_leaves_none(void **state)
{
	struct process p;

	expect_refused(-EPROTO, "was not kept");
	forget_store(NULL);
	/* One that had no control queue goes on, and keeps it from its next connection on. */
	assert_int_equal(begin_next(&p, RTE_BIT64(VIRTIO_F_VERSION_1), true), 0);
	end(&p);
	expect_next(1);
}

static void
a_device_that_cannot_save_it_ends_with_the_process(void **state)
{
	struct process p;

	begin(&p, "");
	p.vdev->core->ops.save_state = NULL;
	assert_int_equal(vdpa_kept_state_make(&p.kept, p.vdev), 0);
	assert_int_equal(store.fd, -1);
	assert_non_null(strstr(vdpa_kept_state_why_cold(&p.kept, p.vdev, FEATURES),
			       "has its control queue"));
	assert_null(vdpa_kept_state_why_cold(&p.kept, p.vdev, RTE_BIT64(VIRTIO_F_VERSION_1)));
	say(&p, 2);
	end(&p);
	/* One without a control queue has no file. */
	begin(&p, "device_features 0x100000020");
	assert_int_equal(vdpa_kept_state_make(&p.kept, p.vdev), 0);
	assert_int_equal(store.fd, -1);
	end(&p);
}

static void
files_that_anybody_may_have_made_are_loaded_or_refused(void **state)
{
	unsigned int n = getenv("UVDPA_TEST_LONG") != NULL ? 100000 : 1500, loaded = 0;
	const char *seed = getenv("UVDPA_TEST_SEED");
	uint64_t current, seq;
	uint32_t len, crc;
	struct process p;
	uint8_t *file, *slot;
	size_t size;

	mutate_seed(seed != NULL ? strtoull(seed, NULL, 0) : 1);
	begin_first(&p);
	end(&p);
	file = map_file(&size);
	assert_int_equal(begin_next(&p, FEATURES, true), 0);
	for (unsigned int i = 0; i < n; i++) {
		current = 2 + mutate_below(2);
		slot = file + AT(current);
		seq = mutate_below(16) == 0 ? mutate_below(4) : current;
		len = mutate_below(4) == 0 ? (uint32_t)mutate_below(UINT32_MAX)
					   : (uint32_t)mutate_below(2 * STATE_LEN);
		make_state(slot + 16, 2);
		for (uint64_t changes = mutate_below(4); changes > 0; changes--)
			slot[16 + mutate_below(mutate_below(4) == 0 ? STATE_LEN : 16)] =
				(uint8_t)mutate_below(256);
		/* As many addresses as it says. */
		if (mutate_below(2) == 0)
			len = STATE_LEN + 6 * (slot[16 + 12] + slot[16 + 14]);
		memcpy(slot, &seq, sizeof(seq));
		memcpy(slot + 8, &len, sizeof(len));
		crc = rte_hash_crc_4byte(len, rte_hash_crc_8byte(seq, 0xffffffffu));
		if (len <= VDPA_STATE_MAX && mutate_below(8) != 0)
			crc = rte_hash_crc(slot + 16, len, crc);
		memcpy(slot + 12, &crc, sizeof(crc));
		memcpy(file, &current, sizeof(current));
		if (vdpa_kept_state_apply(&p.kept, p.vdev, p.c, FEATURES, true) < 0)
			continue;
		run(&p);
		loaded++;
		vdpa_consumer_reset(p.c);
		assert_int_equal(vdpa_consumer_negotiate(p.c, FEATURES), 0);
		assert_int_equal(mac_of(&p), 1);
	}
	end(&p);
	munmap(file, size);
	printf("%u of %u loaded\n", loaded, n);
	assert_true(loaded > n / 100 && loaded < n);
}

static int
group_setup(void **state)
{
	return vdpa_init(NULL);
}

static int
group_teardown(void **state)
{
	vdpa_cleanup();
	return 0;
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, forget_store)
	const struct CMUnitTest tests[] = {
		TEST(the_next_process_starts_with_what_was_said_last),
		TEST(a_stop_of_the_front_end_forgets_it_and_the_end_of_the_process_does_not),
		TEST(a_record_without_a_run_or_without_a_control_queue_empties_it),
		TEST(what_was_loaded_by_a_start_is_kept),
		TEST(a_write_that_was_cut_leaves_the_one_before_in_force),
		TEST(what_does_not_check_or_load_is_refused),
		TEST(one_that_is_too_long_says_so_until_there_is_another),
		TEST(a_process_that_kept_none_leaves_none),
		TEST(a_device_that_cannot_save_it_ends_with_the_process),
		TEST(files_that_anybody_may_have_made_are_loaded_or_refused),
	};
#undef TEST

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
