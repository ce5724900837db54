/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The memory of a VDUSE device: whose it is, what becomes of it when its user goes or an update
 * fails, and files that are not what they look like.
 */

#include "vduse_test.h"

/* Linux keeps the files of a user that has closed /dev/vhost-vdpa-N, until the next names its own.
 */
static void
the_next_user_of_addresses_does_not_have_the_last_ones_memory(void **state)
{
	int other = memfd_create("next user", MFD_CLOEXEC);
	uint64_t offset;
	ino_t ino;

	assert_int_equal(ftruncate(other, 2 * MEM_SIZE), 0);
	add(BLK);
	start_device("d0");
	assert_true(memory_at("d0", IOVA, &ino, &offset));
	assert_int_equal(ino, inode_of(kernel.mem));
	/* The user is gone, its files are not. */
	assert_int_equal(set_status(0), VDUSE_REQ_RESULT_OK);
	assert_false(memory_at("d0", IOVA, &ino, &offset));
	/* The next one uses the same addresses, and names no memory. */
	ready_ring(0);
	assert_int_equal(set_status(11), VDUSE_REQ_RESULT_OK);
	assert_int_equal(set_status(15), VDUSE_REQ_RESULT_OK);
	assert_int_equal(get_vq_state(0).result, VDUSE_REQ_RESULT_OK);
	assert_false(memory_at("d0", IOVA, &ino, &offset));
	assert_int_not_equal(state_of("d0"), VDPA_STATE_RUNNING);
	/* It names its own, at the same addresses: the device has that. */
	kernel.ranges[0].fd = other;
	kernel.ranges[0].offset = MEM_SIZE;
	assert_int_equal(update_iotlb(), VDUSE_REQ_RESULT_OK);
	kick(0);
	wait_for("d0", VDPA_STATE_RUNNING);
	assert_true(memory_at("d0", IOVA + 0x1000, &ino, &offset));
	assert_int_equal(ino, inode_of(other));
	assert_int_equal(offset, MEM_SIZE + 0x1000);
	assert_int_equal(vdpa_dev_del("d0"), 0);
	close(other);
}

/* What its owner may have taken back is in nobody's reach, though the kernel does not say what is
 * there now. */
static void
a_failed_update_takes_all_memory_away(void **state)
{
	uint64_t offset;
	ino_t ino;

	add(BLK);
	start_device("d0");
	kernel.iotlb_err = ENOMEM;
	assert_int_equal(update_iotlb(), VDUSE_REQ_RESULT_FAILED);
	assert_false(memory_at("d0", IOVA, &ino, &offset));
	kernel.iotlb_err = 0;
	/* A range that its file does not have fails it too. */
	start_device("d0");
	kernel.ranges[0].offset = MEM_SIZE;
	assert_int_equal(update_iotlb(), VDUSE_REQ_RESULT_FAILED);
	assert_false(memory_at("d0", IOVA, &ino, &offset));
	start_device("d0");
	assert_true(memory_at("d0", IOVA, &ino, &offset));
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

/* The file of a range is its user's. */
static void
a_file_of_a_user_is_never_taken_for_the_domains(void **state)
{
	uint64_t offset;
	ino_t ino;

	add(BLK);
	/* The kernel's own driver has the device: nothing is known of the file but what it is. */
	kernel.domain = kernel.mem;
	one_range();
	kernel.ranges[0].last = IOVA + 2 * MEM_SIZE - 1;
	assert_int_equal(update_iotlb(), VDUSE_REQ_RESULT_OK);
	assert_true(memory_at("d0", IOVA, &ino, &offset));
	/* vhost_vdpa has it, and whoever has that has mapped a file of a domain. */
	on_the_bus("d0", "vhost_vdpa");
	assert_int_equal(update_iotlb(), VDUSE_REQ_RESULT_FAILED);
	assert_false(memory_at("d0", IOVA, &ino, &offset));
	off_the_bus();
	kernel.domain = -1;
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

/* Domains have one inode between them: where devices share a DMA domain, this tells them apart. */
static void
no_two_domains_have_a_generation_in_common(void **state)
{
	uint64_t first;

	add(BLK);
	first = front_end_of("d0")->memory.generation;
	assert_int_not_equal(first, 0);
	assert_int_equal(vdpa_dev_del("d0"), 0);
	add(BLK);
	assert_int_not_equal(front_end_of("d0")->memory.generation, 0);
	assert_int_not_equal(front_end_of("d0")->memory.generation, first);
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

/* A pipe stands for a file of a file system that a process serves. */
static void
a_file_that_may_make_a_job_wait_is_asked_nothing(void **state)
{
	int pipes[2];

	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	add(BLK);
	start_device("d0");
	asked.stats_of_pipes = 0;
	kernel.ranges[0].fd = pipes[0];
	assert_int_equal(update_iotlb(), VDUSE_REQ_RESULT_FAILED);
	assert_int_equal(asked.stats_of_pipes, 0);
	kernel.ranges[0].fd = 0;
	assert_int_equal(update_iotlb(), VDUSE_REQ_RESULT_OK);
	assert_int_equal(vdpa_dev_del("d0"), 0);
	close(pipes[0]);
	close(pipes[1]);
}

static void
no_file_is_taken_while_others_wait_for_their_end(void **state)
{
	unsigned int before;

	add(BLK);
	start_device("d0");
	before = kernel.iotlb_asked;
	asked.account_full = true;
	assert_int_equal(update_iotlb(), VDUSE_REQ_RESULT_FAILED);
	assert_int_equal(kernel.iotlb_asked, before);
	asked.account_full = false;
	start_device("d0");
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_next_user_of_addresses_does_not_have_the_last_ones_memory),
		cmocka_unit_test(a_failed_update_takes_all_memory_away),
		cmocka_unit_test(a_file_of_a_user_is_never_taken_for_the_domains),
		cmocka_unit_test(no_two_domains_have_a_generation_in_common),
		cmocka_unit_test(a_file_that_may_make_a_job_wait_is_asked_nothing),
		cmocka_unit_test(no_file_is_taken_while_others_wait_for_their_end),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
