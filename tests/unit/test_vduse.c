/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The front end vduse with a fake kernel: what is offered, what messages do, what a successor
 * finds, and messages and answers of ioctls that make no sense.
 */

#include "vduse_test.h"

static void
what_vduse_refuses_is_not_offered(void **state)
{
	add(BLK);
	assert_string_equal(config()->name, "d0");
	assert_int_equal(config()->device_id, 2);
	assert_true(config()->features & RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM));
	assert_false(config()->features & RTE_BIT64(VIRTIO_BLK_F_CONFIG_WCE));
	assert_int_equal(vdpa_dev_del("d0"), 0);
	assert_false(kernel.exists);
	add(NET);
	assert_int_equal(config()->vq_num, 2);
	assert_false(config()->features &
		     (RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) | RTE_BIT64(VIRTIO_NET_F_MQ) |
		      RTE_BIT64(VIRTIO_NET_F_GUEST_ANNOUNCE) | RTE_BIT64(40)));
	assert_int_equal(vdpa_dev_del("n0"), 0);
}

static void
a_device_runs_from_driver_ok_to_reset(void **state)
{
	add(BLK);
	start_device("d0");
	assert_int_equal(set_status(0), VDUSE_REQ_RESULT_OK);
	assert_int_equal(state_of("d0"), VDPA_STATE_IDLE);
	start_device("d0");
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

static void
features_that_were_not_offered_are_refused(void **state)
{
	add(BLK);
	kernel.features = UINT64_MAX;
	assert_int_equal(set_status(11), VDUSE_REQ_RESULT_FAILED);
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

static void
a_status_without_bits_it_had_is_refused(void **state)
{
	unsigned int fds;

	add(BLK);
	start_device("d0");
	fds = count_fds();
	for (unsigned int i = 0; i < 100; i++) {
		assert_int_equal(set_status(11), VDUSE_REQ_RESULT_FAILED);
		assert_int_equal(set_status(128), VDUSE_REQ_RESULT_FAILED);
		assert_int_equal(set_status(15), VDUSE_REQ_RESULT_OK);
	}
	assert_int_equal(count_fds(), fds);
	wait_for("d0", VDPA_STATE_RUNNING);
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

static void
a_ring_that_leaves_the_memory_stops_and_others_are_unharmed(void **state)
{
	add(BLK);
	start_device("d0");
	kernel.n_ranges = 0;
	assert_int_equal(update_iotlb(), VDUSE_REQ_RESULT_OK);
	assert_int_equal(get_vq_state(0).result, VDUSE_REQ_RESULT_OK);
	assert_int_equal(get_vq_state(77).result, VDUSE_REQ_RESULT_FAILED);
	start_device("d0");
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

/* The kernel's device is in use, so it stays; a successor goes on with it. */
static void
a_successor_goes_on_with_a_device_in_use(void **state)
{
	add(BLK);
	start_device("d0");
	kernel.refuses = true;
	/* As kill -9 leaves the record: it is there, with the status as it was answered. */
	{
		char from[96], to[96];

		snprintf(from, sizeof(from), "%s/vduse-d0", run_dir);
		snprintf(to, sizeof(to), "%s/kept", run_dir);
		assert_int_equal(link(from, to), 0);
		assert_int_equal(vdpa_dev_del("d0"), 0);
		assert_true(kernel.exists);
		assert_int_equal(rename(to, from), 0);
	}
	add(BLK);
	wait_for("d0", VDPA_STATE_RUNNING);
	kernel.refuses = false;
	assert_int_equal(vdpa_dev_del("d0"), 0);
	assert_false(kernel.exists);
}

static void
a_device_in_use_that_is_not_ours_is_refused(void **state)
{
	kernel.exists = kernel.refuses = true;
	assert_int_equal(vdpa_dev_add(BLK), -EEXIST);
	assert_non_null(strstr(vdpa_error_message(), "cannot be taken up"));
	kernel.exists = kernel.refuses = false;
}

/* The kernel's end of a device is shut, as where an answer came too late. */
static void
a_device_that_the_kernel_has_given_up_stops_and_is_not_taken_up(void **state)
{
	uint64_t offset;
	ino_t ino;

	on_the_bus("d0", "");
	add(BLK);
	start_device("d0");
	close(kernel.ours);
	kernel.ours = -1;
	wait_for("d0", VDPA_STATE_IDLE);
	/* By a job of its own, after which there is none. */
	for (unsigned int i = 0; i < ANSWER && memory_at("d0", IOVA, &ino, &offset); i++)
		usleep(1000);
	assert_false(memory_at("d0", IOVA, &ino, &offset));
	/* It goes, though the kernel has its own still. */
	kernel.refuses = true;
	assert_int_equal(vdpa_dev_del("d0"), 0);
	assert_true(kernel.exists);
	assert_int_equal(vdpa_dev_add(BLK), -EEXIST);
	assert_non_null(strstr(vdpa_error_message(), "dead to the kernel"));
	/* Taken off the bus, it is made anew. */
	off_the_bus();
	kernel.refuses = false;
	add(BLK);
	start_device("d0");
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

static void
a_mounted_disk_is_not_taken_for_another_mode(void **state)
{
	char path[256];

	on_the_bus("d0", "virtio_vdpa");
	snprintf(path, sizeof(path), "%s/bus/vdpa/devices/d0/virtio0", sysfs);
	assert_int_equal(mkdir(path, 0755), 0);
	strcat(path, "/block");
	assert_int_equal(mkdir(path, 0755), 0);
	strcat(path, "/vda");
	assert_int_equal(mkdir(path, 0755), 0);
	asked.held = "/nonexistent/vda";
	assert_int_equal(vdpa_dev_add("name d0 mgmtdev sim_blk backend ram 1M frontend vduse mode "
				      "vhost"),
			 -EBUSY);
	assert_non_null(
		strstr(vdpa_error_message(), "mode vhost takes the device from virtio_vdpa"));
	assert_non_null(strstr(vdpa_error_message(), "umount"));
	asked.held = NULL;
	off_the_bus();
	kernel.exists = false;
	assert_int_equal(unlink(strcat(strcpy(path, run_dir), "/vduse-d0")) == 0 || errno == ENOENT,
			 true);
}

/* Another process opens the node, closes it and opens it again. */
static void
a_node_that_is_opened_again_and_again_is_outlasted(void **state)
{
	add(BLK);
	kernel.busy = 3;
	assert_int_equal(vdpa_dev_del("d0"), 0);
	assert_false(kernel.exists);
	kernel.busy = 0;
}

static void
names_that_no_node_can_have_are_refused(void **state)
{
	assert_int_equal(vdpa_dev_add("name control mgmtdev sim_blk backend ram 1M frontend vduse "
				      "mode none"),
			 -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "/dev/vduse/NAME"));
	assert_int_equal(vdpa_dev_add("name .d0 mgmtdev sim_blk backend ram 1M frontend vduse mode "
				      "none"),
			 -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "begins with a dot"));
	assert_false(kernel.exists);
}

/* No message sends its reader to a front end that he does not mean. */
static void
a_word_of_several_front_ends_asks_for_one(void **state)
{
	const char *all = "mode: is a word of the front ends ",
		   *end = ": name one by frontend NAME";

	/* Read as another front end's, this is no value. */
	assert_int_equal(vdpa_dev_check("name d0 mgmtdev sim_blk backend ram 1M mode virtio"),
			 -EINVAL);
	assert_memory_equal(vdpa_error_message(), all, strlen(all));
	assert_non_null(strstr(vdpa_error_message(), "vduse"));
	assert_non_null(strstr(vdpa_error_message(), "vfio-user"));
	assert_non_null(strstr(vdpa_error_message(), "vhost-user"));
	assert_non_null(strstr(vdpa_error_message(), end));
	assert_int_equal(vdpa_dev_check("name d0 mgmtdev sim_blk backend ram 1M mode 0600"),
			 -EINVAL);
	assert_memory_equal(vdpa_error_message(), all, strlen(all));
	assert_int_equal(vdpa_dev_check("name d0 mgmtdev sim_blk backend ram 1M bounce 1M"),
			 -EINVAL);
	assert_string_equal(vdpa_error_message(),
			    "bounce: is a word of the front end vduse: name it by frontend NAME");
	assert_int_equal(vdpa_dev_check("name d0 mgmtdev sim_blk backend ram 1M frontend vduse "
					"group root"),
			 -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), ", not of vduse"));
}

static void
each_queue_is_offered_as_large_as_it_may_be(void **state)
{
	const struct vdpa_param_table table = {.params = vdpa_vduse_frontend.params};
	struct fake_device *f = fake_device_new("f0", false);
	struct vdpa_device *vdev = &f->vdev;
	struct vdpa_words words;
	struct vdpa_args args;

	assert_int_equal(vdpa_register_device(vdev), 0);
	vdev->core->vqs[1].num_max = 32;
	assert_int_equal(vdpa_words_split("mode none", &words), 0);
	assert_int_equal(vdpa_args_parse(&words, 0, &table, 1, &args), 0);
	assert_int_equal(vdpa_vduse_frontend.ops->probe(vdev, &args), 0);
	assert_int_equal(kernel.sizes[0], vdpa_get_vq_num_max(vdev));
	assert_int_equal(kernel.sizes[1], 32);
	vdpa_vduse_frontend.ops->remove(vdev);
	vdpa_words_free(&words);
	vdpa_unregister_device(vdev);
	vdpa_put_device(vdev);
}

/* 10^5 messages about a device whose kernel says what it likes. */
static void
nonsense_costs_its_own_device_only(void **state)
{
	unsigned int seed = 1, n = 100000;
	const char *fewer = getenv("UVDPA_TEST_MESSAGES");

	if (fewer != NULL)
		n = (unsigned int)atoi(fewer);
	add(BLK);
	kernel.features = RTE_BIT64(VIRTIO_F_VERSION_1);
	for (unsigned int i = 0; i < n; i++) {
		static const uint8_t statuses[] = {0, 1, 3, 11, 11, 15, 15, 15, 128, 255};
		struct vduse_dev_request req = {.type = (unsigned int)rand_r(&seed) % 4};
		struct vduse_dev_response resp;
		struct vduse_vq_info *vq = &kernel.vqs[(unsigned int)rand_r(&seed) % QUEUES];

		if (req.type == VDUSE_SET_STATUS)
			req.s.status = statuses[(unsigned int)rand_r(&seed) % sizeof(statuses)];
		else
			req.vq_state.index = (unsigned int)rand_r(&seed) % (QUEUES + 2);
		ready_ring((uint16_t)(vq - kernel.vqs));
		if (rand_r(&seed) % 4 == 0)
			vq->num = (uint32_t)rand_r(&seed);
		if (rand_r(&seed) % 4 == 0)
			vq->device_addr = (uint64_t)rand_r(&seed) << (rand_r(&seed) % 33);
		one_range();
		kernel.n_ranges = (unsigned int)rand_r(&seed) % 4;
		for (unsigned int r = 1; r < kernel.n_ranges; r++)
			kernel.ranges[r] = (struct range){.start = kernel.ranges[r - 1].last + 1,
							  .last = kernel.ranges[r - 1].last +
								  (uint64_t)rand_r(&seed),
							  .offset = (uint64_t)rand_r(&seed),
							  .perm = (uint8_t)rand_r(&seed)};
		kernel.features = RTE_BIT64(VIRTIO_F_VERSION_1) |
				  (rand_r(&seed) % 2 == 0 ? RTE_BIT64(VIRTIO_F_RING_PACKED) : 0);
		kernel.fuzz = &seed;
		(void)ask(&req, &resp);
		kernel.fuzz = NULL;
	}
	memset(kernel.vqs, 0, sizeof(kernel.vqs));
	start_device("d0");
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_vduse_refuses_is_not_offered),
		cmocka_unit_test(a_device_runs_from_driver_ok_to_reset),
		cmocka_unit_test(features_that_were_not_offered_are_refused),
		cmocka_unit_test(a_status_without_bits_it_had_is_refused),
		cmocka_unit_test(a_ring_that_leaves_the_memory_stops_and_others_are_unharmed),
		cmocka_unit_test(a_successor_goes_on_with_a_device_in_use),
		cmocka_unit_test(a_device_in_use_that_is_not_ours_is_refused),
		cmocka_unit_test(a_device_that_the_kernel_has_given_up_stops_and_is_not_taken_up),
		cmocka_unit_test(a_mounted_disk_is_not_taken_for_another_mode),
		cmocka_unit_test(a_node_that_is_opened_again_and_again_is_outlasted),
		cmocka_unit_test(names_that_no_node_can_have_are_refused),
		cmocka_unit_test(a_word_of_several_front_ends_asks_for_one),
		cmocka_unit_test(each_queue_is_offered_as_large_as_it_may_be),
		cmocka_unit_test(nonsense_costs_its_own_device_only),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
