/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The journal: records that survive a writer which is killed at any point. */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <rte_common.h>

#include "journal_test.h"

/* Bytes that pwrite(2) may still write before the process "is killed"; -1: it is not. */
static long bytes_left = -1;
static unsigned long bytes_written;

ssize_t __real_pwrite64(int fd, const void *buf, size_t len, off_t at);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t len, off_t at);

ssize_t
__wrap_pwrite64(int fd, const void *buf, size_t len, off_t at)
{
	ssize_t n;

	if (bytes_left >= 0 && len > (size_t)bytes_left) {
		if (bytes_left > 0)
			assert_int_equal(__real_pwrite64(fd, buf, (size_t)bytes_left, at),
					 bytes_left);
		bytes_left = 0;
		errno = EIO;
		return -1;
	}
	n = __real_pwrite64(fd, buf, len, at);
	if (bytes_left > 0)
		bytes_left -= n;
	bytes_written += (unsigned long)n;
	return n;
}

static void
a_reader_finds_what_was_written(void **state)
{
	struct vdpa_journal *j = make_journal(DEVICES, SLOT), *k;

	assert_string_equal(devices_of(j), "");
	put_text(j, "net0", "one");
	put_text(j, "blk0", "two");
	put_text(j, "net0", "three");
	put_text(j, "empty", "");
	k = reopen(vdpa_journal_fd(j));
	assert_int_not_equal(vdpa_journal_fd(k), vdpa_journal_fd(j));
	vdpa_journal_close(j);
	assert_string_equal(vdpa_journal_writer(k), UVDPA_VERSION);
	assert_int_equal(vdpa_journal_slot_size(k), SLOT);
	assert_string_equal(devices_of(k), "net0 blk0 empty ");
	assert_string_equal(get_text(k, "net0"), "three");
	assert_string_equal(get_text(k, "blk0"), "two");
	assert_string_equal(get_text(k, "empty"), "");
	assert_string_equal(get_text(k, "net1"), "none");

	/* It goes on where the other has ended. */
	put_text(k, "net0", "four");
	put_text(k, "net0", "five");
	j = reopen(vdpa_journal_fd(k));
	assert_string_equal(get_text(j, "net0"), "five");
	vdpa_journal_close(j);
	vdpa_journal_close(k);
}

static void
a_removed_device_makes_room(void **state)
{
	struct vdpa_journal *j = make_journal(2, SLOT), *k;

	assert_int_equal(vdpa_journal_remove(j, "net0"), 0);
	for (unsigned int i = 0; i < 7; i++) {
		put_text(j, "net0", "a");
		put_text(j, "blk0", "b");
		assert_int_equal(vdpa_journal_write(j, "net1", "c", 1), -ENOSPC);
		assert_int_equal(vdpa_journal_remove(j, "net0"), 0);
		assert_string_equal(get_text(j, "net0"), "none");
		k = reopen(vdpa_journal_fd(j));
		assert_string_equal(devices_of(k), "blk0 ");
		vdpa_journal_close(k);
		put_text(j, "net1", "c");
		k = reopen(vdpa_journal_fd(j));
		assert_string_equal(devices_of(k), "net1 blk0 ");
		assert_string_equal(get_text(k, "net1"), "c");
		vdpa_journal_close(k);
		assert_int_equal(vdpa_journal_remove(j, "net1"), 0);
	}
	vdpa_journal_close(j);
}

static int
remove_it(const char *device, void *arg)
{
	return vdpa_journal_remove(arg, device);
}

static int
stop_at_once(const char *device, void *arg)
{
	return 7;
}

static void
a_loop_over_devices_may_remove_them(void **state)
{
	struct vdpa_journal *j = make_journal(DEVICES, SLOT);

	put_text(j, "a", "1");
	put_text(j, "b", "2");
	put_text(j, "c", "3");
	assert_int_equal(vdpa_journal_for_each(j, stop_at_once, NULL), 7);
	assert_int_equal(vdpa_journal_for_each(j, remove_it, j), 0);
	assert_string_equal(devices_of(j), "");
	vdpa_journal_close(j);
}

static void
what_is_out_of_bounds_is_refused(void **state)
{
	char name[VDPA_JOURNAL_NAME_MAX + 2], record[SLOT + 1] = "";
	struct vdpa_journal *j;

	assert_int_equal(vdpa_journal_create(0, SLOT, &j), -EINVAL);
	assert_int_equal(vdpa_journal_create(1, 0, &j), -EINVAL);
	assert_int_equal(vdpa_journal_create(VDPA_JOURNAL_DEVICES_MAX + 1, SLOT, &j), -EINVAL);
	assert_int_equal(vdpa_journal_create(1, VDPA_JOURNAL_SLOT_MAX + 1, &j), -EINVAL);
	assert_null(j);
	j = make_journal(VDPA_JOURNAL_DEVICES_MAX, VDPA_JOURNAL_SLOT_MAX);
	put_text(j, "net0", "a large one takes memory for what is written only");
	vdpa_journal_close(j);

	j = make_journal(DEVICES, SLOT);
	assert_int_equal(vdpa_journal_write(j, "", "x", 1), -EINVAL);
	assert_int_equal(vdpa_journal_write(j, "a b", "x", 1), -EINVAL);
	assert_int_equal(vdpa_journal_write(j, "a\n", "x", 1), -EINVAL);
	assert_int_equal(vdpa_journal_write(j, "\xc3\xa4", "x", 1), -EINVAL);
	assert_int_equal(vdpa_journal_read(j, "", record, SLOT), -EINVAL);
	assert_int_equal(vdpa_journal_remove(j, ""), -EINVAL);
	memset(name, 'x', sizeof(name));
	name[VDPA_JOURNAL_NAME_MAX + 1] = '\0';
	assert_int_equal(vdpa_journal_write(j, name, "x", 1), -EINVAL);
	name[VDPA_JOURNAL_NAME_MAX] = '\0';
	put_text(j, name, "the longest name");
	assert_string_equal(get_text(j, name), "the longest name");
	assert_int_equal(vdpa_journal_write(j, "net0", record, SLOT + 1), -EMSGSIZE);
	assert_string_equal(get_text(j, "net0"), "none");
	assert_int_equal(vdpa_journal_write(j, "net0", record, SLOT), 0);
	assert_int_equal(vdpa_journal_read(j, "net0", record, SLOT - 1), -ENOBUFS);
	assert_int_equal(vdpa_journal_read(j, "net0", record, SLOT), SLOT);
	vdpa_journal_close(j);
}

/* What is done to a journal when the writer is killed, and what then may be found. */
struct act {
	const char *name;
	void (*before)(struct vdpa_journal *j);
	int (*act)(struct vdpa_journal *j);
	const char *from, *to;
};

static void
one_record(struct vdpa_journal *j)
{
	put_text(j, "other", "other");
	put_text(j, "net0", "from before");
}

static void
two_records(struct vdpa_journal *j)
{
	one_record(j);
	put_text(j, "net0", "an older and longer record that lies in the other slot");
	put_text(j, "net0", "from before");
}

static void
a_free_entry(struct vdpa_journal *j)
{
	put_text(j, "gone", "with a record");
	put_text(j, "other", "other");
	assert_int_equal(vdpa_journal_remove(j, "gone"), 0);
}

static void
nothing_of_it(struct vdpa_journal *j)
{
	put_text(j, "other", "other");
}

static int
write_it(struct vdpa_journal *j)
{
	return vdpa_journal_write(j, "net0", "a new record, a little longer", 29);
}

static int
write_nothing(struct vdpa_journal *j)
{
	return vdpa_journal_write(j, "net0", NULL, 0);
}

static int
forget_it(struct vdpa_journal *j)
{
	return vdpa_journal_remove(j, "net0");
}

static const struct act acts[] = {
	{"a second record", one_record, write_it, "from before", "a new record, a little longer"},
	{"a third record", two_records, write_it, "from before", "a new record, a little longer"},
	{"an empty record", two_records, write_nothing, "from before", ""},
	{"a first record", nothing_of_it, write_it, "none", "a new record, a little longer"},
	{"a free entry", a_free_entry, write_it, "none", "a new record, a little longer"},
	{"the end", two_records, forget_it, "from before", "none"},
};

/* Whether the act was done before the process was killed after so many bytes. */
static bool
killed_after(const struct act *act, long bytes)
{
	struct vdpa_journal *j = make_journal(DEVICES, SLOT), *k;
	bool done;

	act->before(j);
	bytes_left = bytes;
	done = act->act(j) == 0;
	bytes_left = -1;
	/* What another process finds. */
	k = reopen(vdpa_journal_fd(j));
	/* What is left to write may be there already. */
	if (strcmp(get_text(k, "net0"), act->to) != 0 &&
	    (done || strcmp(get_text(k, "net0"), act->from) != 0))
		fail_msg("%s: killed after %ld bytes: '%s'", act->name, bytes, get_text(k, "net0"));
	assert_string_equal(get_text(k, "other"), "other");
	assert_string_equal(get_text(k, "gone"), "none");
	/* It can be written to as if nothing had been. */
	put_text(k, "net0", "next");
	put_text(k, "gone", "again");
	vdpa_journal_close(j);
	j = reopen(vdpa_journal_fd(k));
	assert_string_equal(get_text(j, "net0"), "next");
	assert_string_equal(get_text(j, "gone"), "again");
	assert_string_equal(get_text(j, "other"), "other");
	vdpa_journal_close(j);
	vdpa_journal_close(k);
	return done;
}

static void
a_writer_killed_at_any_byte_leaves_one_record_or_the_other(void **state)
{
	for (unsigned int i = 0; i < RTE_DIM(acts); i++) {
		long bytes = 0;

		while (!killed_after(&acts[i], bytes))
			bytes++;
		/* Each byte of the slot's header was one of them. */
		assert_in_range(bytes, SLOT_HEADER, SLOT_HEADER + SLOT);
	}
}

static void
a_writer_that_fails_has_its_record_from_before(void **state)
{
	struct vdpa_journal *j = make_journal(DEVICES, SLOT);

	two_records(j);
	bytes_left = 170;
	assert_int_equal(write_it(j), -EIO);
	assert_string_equal(get_text(j, "net0"), "from before");
	assert_int_equal(forget_it(j), -EIO);
	assert_string_equal(get_text(j, "net0"), "from before");
	assert_int_equal(vdpa_journal_write(j, "net1", "x", 1), -EIO);
	assert_string_equal(get_text(j, "net1"), "none");
	bytes_left = -1;
	assert_int_equal(write_it(j), 0);
	assert_string_equal(get_text(j, "net0"), "a new record, a little longer");
	vdpa_journal_close(j);
}

static void *
write_many(void *arg)
{
	struct vdpa_journal *j = *(struct vdpa_journal **)arg;
	static unsigned int next;
	char device[16], text[32];
	unsigned int id = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);

	snprintf(device, sizeof(device), "net%u", id);
	for (unsigned int i = 0; i < 2000; i++) {
		snprintf(text, sizeof(text), "%u of %u", i, id);
		if (vdpa_journal_write(j, device, text, strlen(text)) < 0)
			return j;
		if (i % 500 == 0 && vdpa_journal_remove(j, device) < 0)
			return j;
	}
	return NULL;
}

static void
threads_write_their_devices_at_once(void **state)
{
	struct vdpa_journal *j = make_journal(8, SLOT), *k;
	pthread_t threads[8];

	for (unsigned int i = 0; i < RTE_DIM(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_many, &j), 0);
	for (unsigned int i = 0; i < RTE_DIM(threads); i++) {
		void *failed;

		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	k = reopen(vdpa_journal_fd(j));
	for (unsigned int i = 0; i < RTE_DIM(threads); i++) {
		char device[16], text[32];

		snprintf(device, sizeof(device), "net%u", i);
		snprintf(text, sizeof(text), "1999 of %u", i);
		assert_string_equal(get_text(k, device), text);
	}
	vdpa_journal_close(k);
	vdpa_journal_close(j);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_reader_finds_what_was_written),
		cmocka_unit_test(a_removed_device_makes_room),
		cmocka_unit_test(a_loop_over_devices_may_remove_them),
		cmocka_unit_test(what_is_out_of_bounds_is_refused),
		cmocka_unit_test(a_writer_killed_at_any_byte_leaves_one_record_or_the_other),
		cmocka_unit_test(a_writer_that_fails_has_its_record_from_before),
		cmocka_unit_test(threads_write_their_devices_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
