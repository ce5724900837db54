/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Who is given a doorbell page that carries the whole device, and who is served afterwards. Other
 * users are made up here: the laboratory (tests/vm) has real ones.
 */

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/virtio_config.h>

#include "control_group.h"
#include "device_priv.h"
#include "fake_device.h"
#include "page_holders.h"
#include "vdpa_consumer.h"

#define V1	 (UINT64_C(1) << VIRTIO_F_VERSION_1)
#define MEM_SIZE 0x100000

static const struct vdpa_peer alice = {.known = true, .uid = 1001, .pid = 77, .started = 5000},
			      alice2 = {.known = true, .uid = 1001, .pid = 78, .started = 5001},
			      /* The pid of a process that has ended. */
	again = {.known = true, .uid = 1001, .pid = 77, .started = 6000},
			      bob = {.known = true, .uid = 1002, .pid = 88, .started = 5002},
			      unknown = {.known = false};
static const struct vdpa_notification_area whole = {.size = 4096, .whole_device = true},
					   page = {.size = 4096};

struct fixture {
	struct vdpa_dma_domain *dma;
	struct fake_device *fake;
	struct vdpa_device *vdev;
	struct vdpa_iotlb *tlb;
	struct vdpa_start_config start;
	struct vdpa_vq_config vq;
};

static int
map_nothing(void *arg, const struct vdpa_dma_mapping *m)
{
	return 0;
}

static int
setup(void **state)
{
	static const struct vdpa_dma_ops ops = {.map = map_nothing, .unmap = map_nothing};
	const struct vdpa_dma_limits limits = {.page_size = 4096};
	struct vdpa_mem_region_spec spec = {.iova = 0x10000, .size = MEM_SIZE};
	struct fixture *f = calloc(1, sizeof(*f));

	assert_int_equal(vdpa_dma_domain_create("iommu", &ops, NULL, &limits, &f->dma), 0);
	f->fake = fake_hardware_new("v0", f->dma, false);
	f->vdev = &f->fake->vdev;
	assert_int_equal(vdpa_register_device(f->vdev), 0);
	spec.fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(spec.fd, MEM_SIZE), 0);
	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &f->tlb), 0);
	close(spec.fd);
	f->vq = (struct vdpa_vq_config){.ready = true,
					.num = 64,
					.desc = 0x10000,
					.driver = 0x11000,
					.device = 0x12000,
					.kick_fd = -1,
					.call_fd = -1};
	f->start = (struct vdpa_start_config){
		.features = V1, .iotlb = f->tlb, .vqs = &f->vq, .nvqs = 1};
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	vdpa_iotlb_put(f->tlb);
	vdpa_unregister_device(f->vdev);
	vdpa_put_device(f->vdev);
	vdpa_dma_domain_destroy(f->dma);
	free(f);
	return 0;
}

static void
give(struct fixture *f, const struct vdpa_peer *peer)
{
	assert_int_equal(vdpa_device_give_page(f->vdev, &whole, peer, peer), 0);
}

static int
start_for(struct fixture *f, const struct vdpa_peer *peer)
{
	int rc;

	f->start.peer = peer;
	rc = vdpa_device_start(f->vdev, &f->start);
	if (rc == 0)
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
	return rc;
}

/* Peers. */

static void
a_socket_says_whose_its_other_end_is(void **state)
{
	struct vdpa_peer self, peer;
	int fds[2];

	vdpa_peer_self(&self);
	assert_int_not_equal(self.started, 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(vdpa_peer_of_socket(fds[0], &peer), 0);
	assert_true(peer.known);
	assert_int_equal(peer.uid, geteuid());
	assert_int_equal(peer.pid, getpid());
	assert_true(vdpa_peer_same_process(&self, &peer));
	close(fds[0]);
	close(fds[1]);
}

static void
a_socket_without_another_end_has_no_peer(void **state)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct vdpa_peer peer = bob;

	assert_true(vdpa_peer_of_socket(fd, &peer) < 0);
	assert_false(peer.known);
	close(fd);
	assert_int_equal(vdpa_peer_of_socket(-1, &peer), -EBADF);
}

/* A socket that outlives the process that made it names nobody whom another could be taken for. */
static void
a_process_that_has_ended_is_no_process(void **state)
{
	struct vdpa_peer peer;
	struct msghdr msg;
	int fds[2], theirs = -1;
	char data = 0, control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {.iov_base = &data, .iov_len = 1};
	pid_t pid;

	memset(control, 0, sizeof(control));
	msg = (struct msghdr){.msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control,
			      .msg_controllen = sizeof(control)};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	pid = fork();
	if (pid == 0) {
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		int made[2];

		if (socketpair(AF_UNIX, SOCK_STREAM, 0, made) < 0)
			_exit(1);
		*c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)),
				      .cmsg_level = SOL_SOCKET,
				      .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(c), &made[0], sizeof(int));
		_exit(sendmsg(fds[1], &msg, 0) == 1 ? 0 : 1);
	}
	assert_int_equal(recvmsg(fds[0], &msg, 0), 1);
	memcpy(&theirs, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(vdpa_peer_of_socket(theirs, &peer), 0);
	assert_int_equal(peer.pid, pid);
	assert_int_equal(peer.started, 0);
	assert_false(vdpa_peer_same_process(&peer, &peer));
	close(theirs);
	close(fds[0]);
	close(fds[1]);
}

static void
a_pid_that_is_used_again_is_another_process(void **state)
{
	assert_true(vdpa_peer_same_process(&alice, &alice));
	assert_false(vdpa_peer_same_process(&alice, &again));
	assert_true(vdpa_peer_same_user(&alice, &again));
}

static void
users_that_have_no_number_here_are_not_one_user(void **state)
{
	const struct vdpa_peer nobody = {.known = true, .uid = 65534, .pid = 5, .started = 1};

	assert_false(vdpa_peer_same_user(&nobody, &nobody));
	assert_false(vdpa_peer_same_user(&unknown, &unknown));
}

/* Who is served. */

static void
whoever_comes_is_served_while_nobody_has_a_page(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(start_for(f, &alice), 0);
	assert_int_equal(start_for(f, &bob), 0);
	assert_int_equal(start_for(f, &unknown), 0);
	assert_int_equal(start_for(f, NULL), 0);
}

static void
a_page_that_is_nothing_but_a_page_binds_nobody(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_device_give_page(f->vdev, &page, &alice, &alice), 0);
	assert_int_equal(start_for(f, &bob), 0);
}

static void
another_user_than_the_one_with_the_page_is_refused(void **state)
{
	struct fixture *f = *state;

	give(f, &alice);
	assert_int_equal(start_for(f, &alice2), 0);
	assert_int_equal(start_for(f, &bob), -EACCES);
	assert_string_equal(
		vdpa_error_message(),
		"v0: uid 1001 (pid 77) was given a doorbell page, with which the memory of every "
		"guest of the function can be reached: uid 1002 (pid 88) is refused until that is "
		"closed; then delete the device and add it again, with no_doorbells to give no "
		"page");
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_IDLE);
	assert_int_equal(start_for(f, &unknown), -EACCES);
	assert_non_null(strstr(vdpa_error_message(), "a front end of an unknown user is refused"));
	/* This process's own guest is one of its user's. */
	assert_int_equal(start_for(f, NULL), geteuid() == alice.uid ? 0 : -EACCES);
}

static void
another_user_is_not_given_a_page_either(void **state)
{
	struct fixture *f = *state;

	give(f, &alice);
	give(f, &alice2);
	assert_int_equal(vdpa_device_give_page(f->vdev, &whole, &bob, &bob), -EACCES);
	assert_int_equal(start_for(f, &alice), 0);
}

/* What is in a domain can be reached by all of its devices. */
static uint32_t
mappings_for(struct fixture *f, const struct vdpa_peer *peer)
{
	struct vdpa_consumer *c = vdpa_consumer_new(f->vdev, NULL, NULL);
	struct vdpa_mem_region_spec spec = {
		.iova = 0x10000, .size = MEM_SIZE, .fd = f->tlb->regions[0]->fd};
	struct vdpa_dma_stats stats;

	assert_non_null(c);
	assert_int_equal(vdpa_consumer_set_peer(c, peer), 0);
	assert_int_equal(vdpa_consumer_set_memory(c, &spec, 1), 0);
	vdpa_dma_get_stats(f->dma, &stats);
	vdpa_consumer_free(c);
	return stats.mappings;
}

static void
memory_of_another_user_does_not_come_into_reach_before_its_start_is_refused(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(mappings_for(f, &bob), 1);
	give(f, &alice);
	assert_int_equal(mappings_for(f, &bob), 0);
	assert_int_equal(mappings_for(f, &alice2), 1);
}

static void
the_page_of_one_device_binds_all_of_its_domain(void **state)
{
	struct fixture *f = *state;
	struct fake_device *other = fake_hardware_new("v1", f->dma, false);

	assert_int_equal(vdpa_register_device(&other->vdev), 0);
	give(f, &alice);
	f->start.peer = &bob;
	assert_int_equal(vdpa_device_start(&other->vdev, &f->start), -EACCES);
	f->start.peer = &alice;
	assert_int_equal(vdpa_device_start(&other->vdev, &f->start), 0);
	vdpa_unregister_device(&other->vdev);
	vdpa_put_device(&other->vdev);
}

static void
a_device_that_is_added_again_finds_who_has_its_page(void **state)
{
	struct fixture *f = *state;

	give(f, &alice);
	vdpa_unregister_device(f->vdev);
	vdpa_put_device(f->vdev);
	f->fake = fake_hardware_new("v0", f->dma, false);
	f->vdev = &f->fake->vdev;
	assert_int_equal(vdpa_register_device(f->vdev), 0);
	/* Whatever its word: the page is out. */
	vdpa_device_set_doorbells(f->vdev, VDPA_DOORBELLS_NONE);
	assert_int_equal(start_for(f, &bob), -EACCES);
	assert_int_equal(start_for(f, &alice), 0);
}

/* Who is given a page. */

static void
nobody_is_given_a_page_by_way_of_another(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_device_give_page(f->vdev, &whole, &alice, &bob), -EACCES);
	assert_string_equal(vdpa_error_message(),
			    "v0: the page would go to another user (uid 1002, pid 88) than the one "
			    "connected (uid 1001, pid 77)");
	assert_int_equal(vdpa_device_give_page(f->vdev, &whole, &alice, &unknown), -EACCES);
	assert_int_equal(vdpa_device_give_page(f->vdev, &whole, &unknown, &unknown), -EACCES);
	assert_string_equal(vdpa_error_message(), "v0: the user of the front end is not known");
	assert_int_equal(start_for(f, &bob), 0);
	/* One process of a user may pass it on to another: both are the user's. */
	assert_int_equal(vdpa_device_give_page(f->vdev, &whole, &alice, &alice2), 0);
}

static void
no_doorbells_gives_none(void **state)
{
	struct fixture *f = *state;

	vdpa_device_set_doorbells(f->vdev, VDPA_DOORBELLS_NONE);
	assert_int_equal(vdpa_device_give_page(f->vdev, &whole, &alice, &alice), -EACCES);
	assert_int_equal(vdpa_device_give_page(f->vdev, &page, &alice, &alice), -EACCES);
	assert_int_equal(start_for(f, &bob), 0);
}

static void
once_serves_the_first_process_alone(void **state)
{
	struct fixture *f = *state;

	vdpa_device_set_doorbells(f->vdev, VDPA_DOORBELLS_ONCE);
	assert_int_equal(vdpa_device_give_page(f->vdev, &whole, &alice, &alice2), -EACCES);
	give(f, &alice);
	give(f, &alice);
	assert_int_equal(start_for(f, &alice), 0);
	assert_int_equal(start_for(f, &again), -EACCES);
	assert_int_equal(start_for(f, &bob), -EACCES);
	assert_null(strstr(vdpa_error_message(), "doorbells once"));
	assert_int_equal(start_for(f, &alice2), -EACCES);
	assert_non_null(
		strstr(vdpa_error_message(), "uid 1001 (pid 78) is refused (doorbells once)"));
}

static void
once_gives_no_page_to_a_process_that_it_would_not_know_again(void **state)
{
	struct fixture *f = *state;
	const struct vdpa_peer ended = {.known = true, .uid = 1001, .pid = 77},
			       outside = {.known = true, .uid = 1001, .started = 5};

	vdpa_device_set_doorbells(f->vdev, VDPA_DOORBELLS_ONCE);
	assert_int_equal(vdpa_device_give_page(f->vdev, &whole, &ended, &ended), -EACCES);
	assert_int_equal(vdpa_device_give_page(f->vdev, &whole, &outside, &outside), -EACCES);
	assert_int_equal(start_for(f, &bob), 0);
}

static void
once_admits_nobody_when_several_processes_have_pages(void **state)
{
	struct fixture *f = *state;

	give(f, &alice);
	give(f, &alice2);
	vdpa_device_set_doorbells(f->vdev, VDPA_DOORBELLS_ONCE);
	assert_int_equal(start_for(f, &alice), -EACCES);
	assert_non_null(strstr(vdpa_error_message(), "uid 1001 (pid 77 and others) was given"));
	vdpa_device_set_doorbells(f->vdev, VDPA_DOORBELLS_UID);
	assert_int_equal(start_for(f, &alice), 0);
}

static void
dev_show_says_who_may_have_a_page(void **state)
{
	struct fixture *f = *state;
	char *text;

	text = vdpa_dev_show("v0");
	assert_non_null(strstr(text, "\"doorbells\":\"uid\""));
	assert_null(strstr(text, "page_holder"));
	free(text);
	vdpa_device_set_doorbells(f->vdev, VDPA_DOORBELLS_ONCE);
	give(f, &alice);
	text = vdpa_dev_show("v0");
	assert_non_null(strstr(text, "\"doorbells\":\"once\""));
	assert_non_null(strstr(text, "\"page_holder\":{\"uid\":1001,\"pid\":77,\"others\":false}"));
	free(text);
}

int
main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_socket_says_whose_its_other_end_is),
		cmocka_unit_test(a_socket_without_another_end_has_no_peer),
		cmocka_unit_test(a_process_that_has_ended_is_no_process),
		cmocka_unit_test(a_pid_that_is_used_again_is_another_process),
		cmocka_unit_test(users_that_have_no_number_here_are_not_one_user),
		CASE(whoever_comes_is_served_while_nobody_has_a_page),
		CASE(a_page_that_is_nothing_but_a_page_binds_nobody),
		CASE(another_user_than_the_one_with_the_page_is_refused),
		CASE(another_user_is_not_given_a_page_either),
		CASE(memory_of_another_user_does_not_come_into_reach_before_its_start_is_refused),
		CASE(the_page_of_one_device_binds_all_of_its_domain),
		CASE(a_device_that_is_added_again_finds_who_has_its_page),
		CASE(nobody_is_given_a_page_by_way_of_another),
		CASE(no_doorbells_gives_none),
		CASE(once_serves_the_first_process_alone),
		CASE(once_gives_no_page_to_a_process_that_it_would_not_know_again),
		CASE(once_admits_nobody_when_several_processes_have_pages),
		CASE(dev_show_says_who_may_have_a_page),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
