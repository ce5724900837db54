/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A function behind vfio-user that one process leaves and the next one opens as it is, by the
 * connection that was kept: what was under way on it when the process was killed, what the server
 * is asked, and that whatever does not fit, in the record or of the socket, ends in a connection of
 * its own. The store is played here, the server is vfu_server.h's.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "vfu_test.h"

#include "kept_store_test.h"
#include "pci_kept.h"

#define IOVA 0x100000
#define SIZE 0x10000

/* The function, as a device has it. */
struct life {
	struct vdpa_pci *pci;
	struct vdpa_dma_user *user;
};

static struct vdpa_iotlb *guest;

static int
setup_store(void **state)
{
	int rc = setup(state);

	store.on = true;
	assert_true(vfu_server_start(&server));
	guest = guest_memory(SIZE, 0);
	return rc;
}

static int
teardown_store(void **state)
{
	if (store.fd >= 0)
		close(store.fd);
	store.fd = -1;
	store.len = -ENOENT;
	store.on = false;
	vdpa_iotlb_put(guest);
	return teardown(state);
}

static void
open_anyhow(struct life *l)
{
	const struct vdpa_pci_params params = {.timeout_ms = SHORT_MS};
	char name[80];

	*l = (struct life){0};
	snprintf(name, sizeof(name), "vfio-user/%s", server.path);
	if (vdpa_pci_open_for(name, &params, "v0", &l->pci) < 0)
		fail_msg("%s", vdpa_error_message());
}

static void
map_guest(struct life *l)
{
	assert_int_equal(vdpa_dma_join(vdpa_pci_dma(l->pci), "v0", &l->user), 0);
	assert_int_equal(vdpa_dma_set(l->user, guest), 0);
}

/* A process that has the function running. */
static void
begin(struct life *l)
{
	int fd = eventfd(0, EFD_CLOEXEC);

	open_anyhow(l);
	assert_false(vdpa_pci_is_left(l->pci));
	assert_int_equal(vdpa_pci_keep(l->pci), 0);
	map_guest(l);
	assert_int_equal(vdpa_pci_msix_enable(l->pci, 2), 0);
	assert_int_equal(vdpa_pci_msix_set(l->pci, 0, fd), 0);
	assert_int_equal(vdpa_pci_set_bus_master(l->pci, true), 0);
	vdpa_pci_keep_record(l->pci, "driver", 6);
	close(fd);
}

/* It ends, and the function goes on. */
static void
leave(struct life *l)
{
	assert_int_equal(vdpa_pci_leave(l->pci), 0);
	if (l->user != NULL) {
		assert_int_equal(vdpa_dma_set(l->user, NULL), 0);
		vdpa_dma_leave(l->user);
	}
	vdpa_pci_close(l->pci);
	*l = (struct life){0};
}

static void
end(struct life *l)
{
	if (l->user != NULL) {
		assert_int_equal(vdpa_dma_set(l->user, NULL), 0);
		vdpa_dma_leave(l->user);
	}
	vdpa_pci_close(l->pci);
	EVENTUALLY(LOAD(server.open_connections) == 0);
	assert_int_equal(store.fd, -1);
}

/* Of all requests from number `first` on, these are of the command. */
static unsigned int
dma_since(unsigned int first, bool map)
{
	unsigned int n = 0;

	for (unsigned int i = first; i < LOAD(server.n_dma); i++)
		n += server.dma[i].map == map;
	return n;
}

static void
answers(struct life *l)
{
	uint8_t config[2];

	assert_int_equal(vdpa_pci_config_read(l->pci, 0, config, sizeof(config)), 0);
	assert_int_equal(config[0] | config[1] << 8, 0x1af4);
}

/* The next process has the function as it was left, and is as any other. */
static void
takes_over(struct life *l)
{
	open_anyhow(l);
	assert_true(vdpa_pci_is_left(l->pci));
	assert_int_equal(LOAD(server.connections), 1);
	assert_int_equal(vdpa_pci_keep(l->pci), 0);
	answers(l);
}

static void
the_next_process_goes_on_by_the_connection(void **state)
{
	unsigned int writes, irqs, dma;
	struct life l;
	size_t len;

	begin(&l);
	for (unsigned int i = 0; i < 3; i++) {
		writes = LOAD(server.n_writes);
		irqs = LOAD(server.n_irqs);
		dma = LOAD(server.n_dma);
		leave(&l);
		assert_int_equal(LOAD(server.open_connections), 1);
		takes_over(&l);
		assert_memory_equal(vdpa_pci_left_record(l.pci, &len), "driver", 6);
		assert_int_equal(vdpa_pci_left_vectors(l.pci), 2);
		assert_true(vdpa_pci_left_is_master(l.pci));
		vdpa_pci_keep_record(l.pci, "driver", 6);
		/* Neither written nor unmapped, and no interrupt off. */
		map_guest(&l);
		assert_int_equal(vdpa_pci_msix_enable(l.pci, 2), 0);
		vdpa_pci_settle(l.pci, true);
		assert_int_equal(vdpa_pci_set_bus_master(l.pci, true), 0);
		assert_int_equal(LOAD(server.n_writes), writes);
		assert_int_equal(LOAD(server.n_irqs), irqs);
		/* What is mapped was asked for. */
		assert_int_equal(dma_since(dma, true), 1);
		assert_int_equal(dma_since(dma, false), 0);
		assert_int_equal(server.dma[dma].m.address, IOVA);
		assert_int_equal(server.dma[dma].m.size, SIZE);
		assert_int_equal(server.dma[dma].n_fds, 1);
	}
	/* It is let go of as any. */
	dma = LOAD(server.n_dma);
	end(&l);
	assert_int_equal(dma_since(dma, false), 1);
}

static void
what_nobody_claims_is_unmapped(void **state)
{
	struct life l;
	unsigned int dma;

	begin(&l);
	leave(&l);
	takes_over(&l);
	dma = LOAD(server.n_dma);
	vdpa_pci_settle(l.pci, true);
	assert_int_equal(dma_since(dma, false), 1);
	end(&l);
}

static void
refuses_to_map(struct vfu_server *s, const struct vfio_user_header *request,
	       struct vfu_reply *reply)
{
	if (request->command != VFIO_USER_DMA_MAP)
		return;
	reply->hdr.flags |= VFIO_USER_ERROR;
	reply->hdr.error = EEXIST;
}

static void
other_memory_than_was_recorded_is_not_used(void **state)
{
	struct life l;
	unsigned int dma;

	begin(&l);
	leave(&l);
	takes_over(&l);
	vfu_server_set_hook(&server, refuses_to_map, NULL);
	assert_int_equal(vdpa_dma_join(vdpa_pci_dma(l.pci), "v0", &l.user), 0);
	assert_int_equal(vdpa_dma_set(l.user, guest), -EPROTO);
	assert_message("what is mapped at IOVA 0x100000 is not known");
	vfu_server_set_hook(&server, NULL, NULL);
	/* The start has failed: reset, and what is mapped there goes. */
	dma = LOAD(server.n_dma);
	vdpa_pci_settle(l.pci, false);
	assert_int_equal(dma_since(dma, false), 1);
	assert_int_equal(vdpa_dma_set(l.user, guest), 0);
	assert_int_equal(dma_since(dma, true), 1);
	end(&l);
}

static void
has_nothing_to_unmap(struct vfu_server *s, const struct vfio_user_header *request,
		     struct vfu_reply *reply)
{
	if (request->command != VFIO_USER_DMA_UNMAP)
		return;
	reply->hdr.flags |= VFIO_USER_ERROR;
	reply->hdr.error = ENOENT;
	reply->len = 0;
	reply->hdr.size = sizeof(reply->hdr);
}

/* The process was killed between an unmapping and its record. */
static void
what_was_unmapped_before_the_kill_is_no_failure(void **state)
{
	struct life l;

	begin(&l);
	leave(&l);
	takes_over(&l);
	vfu_server_set_hook(&server, has_nothing_to_unmap, NULL);
	vdpa_pci_settle(l.pci, true);
	assert_false(vdpa_dma_is_in_use(vdpa_pci_dma(l.pci)));
	vfu_server_set_hook(&server, NULL, NULL);
	end(&l);
}

/* What a process that was killed may have left on the connection. */

static void
ask(uint16_t id, uint16_t command, const void *arg, size_t len)
{
	const struct vfio_user_header hdr = {
		.id = id, .command = command, .size = (uint32_t)(sizeof(hdr) + len)};
	uint8_t bytes[64];

	memcpy(bytes, &hdr, sizeof(hdr));
	memcpy(bytes + sizeof(hdr), arg, len);
	assert_int_equal(send(store.fd, bytes, sizeof(hdr) + len, 0), sizeof(hdr) + len);
}

static void
replies_that_nobody_has_read_are_dropped(void **state)
{
	const struct vfio_user_region_access access = {.region = CONFIG, .count = 4};
	const struct vfio_user_region_info region = {.argsz = 4096, .index = 4};
	struct life l;

	begin(&l);
	leave(&l);
	/* One that comes with a file, which is closed. */
	ask(0x1234, VFIO_USER_REGION_READ, &access, sizeof(access));
	ask(7, VFIO_USER_DEVICE_GET_REGION_INFO, &region, sizeof(region));
	takes_over(&l);
	/* Those of several processes that were killed one after the other are a few. */
	vdpa_pci_settle(l.pci, true);
	end(&l);
}

static void
more_of_them_than_processes_leave_are_not(void **state)
{
	const struct vfio_user_region_access access = {.region = CONFIG, .count = 4};
	struct life l;

	begin(&l);
	leave(&l);
	for (uint16_t i = 0; i < 20; i++)
		ask(i, VFIO_USER_REGION_READ, &access, sizeof(access));
	open_anyhow(&l);
	assert_false(vdpa_pci_is_left(l.pci));
	assert_int_equal(LOAD(server.connections), 2);
	answers(&l);
	end(&l);
}

static void
half_a_request_costs_the_connection(void **state)
{
	const struct vfio_user_header hdr = {.command = VFIO_USER_REGION_READ,
					     .size = sizeof(hdr) + 16};
	struct life l;

	begin(&l);
	leave(&l);
	assert_int_equal(send(store.fd, &hdr, sizeof(hdr), 0), sizeof(hdr));
	open_anyhow(&l);
	assert_false(vdpa_pci_is_left(l.pci));
	answers(&l);
	end(&l);
}

static void
half_a_reply_costs_the_connection(void **state)
{
	const struct vfio_user_region_access access = {.region = CONFIG, .count = 4};
	struct pollfd readable = {.events = POLLIN};
	struct vfio_user_header hdr;
	struct life l;

	begin(&l);
	leave(&l);
	readable.fd = store.fd;
	ask(1, VFIO_USER_REGION_READ, &access, sizeof(access));
	/* The socket does not wait. */
	assert_int_equal(poll(&readable, 1, PATIENT_MS), 1);
	assert_int_equal(recv(store.fd, &hdr, sizeof(hdr), 0), sizeof(hdr));
	open_anyhow(&l);
	assert_false(vdpa_pci_is_left(l.pci));
	answers(&l);
	end(&l);
}

static void
a_server_that_has_hung_up_meanwhile_is_asked_anew(void **state)
{
	struct life l;

	begin(&l);
	leave(&l);
	vfu_server_hangup(&server);
	EVENTUALLY(LOAD(server.open_connections) == 0);
	open_anyhow(&l);
	assert_false(vdpa_pci_is_left(l.pci));
	assert_int_equal(LOAD(server.connections), 2);
	answers(&l);
	end(&l);
}

/* A busy process, which is killed at any moment. */
__attribute__((noreturn)) static void
works(struct vdpa_pci *pci)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	uint8_t config[64];

	for (unsigned int i = 0;; i++) {
		(void)vdpa_pci_config_read(pci, 0, config, sizeof(config));
		vdpa_pci_post16(pci, 4, 0, (uint16_t)i);
		(void)vdpa_pci_msix_set(pci, i % 2, fd);
	}
}

static void
a_process_may_be_killed_at_any_moment(void **state)
{
	unsigned int kills = getenv("UVDPA_TEST_LONG") != NULL ? 5000 : 200, unread = 0;
	struct life l;

	begin(&l);
	for (unsigned int i = 0; i < kills; i++) {
		pid_t pid = fork();
		int status;

		assert_true(pid >= 0);
		if (pid == 0)
			works(l.pci);
		usleep(1000 + i * 37 % 1000);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(WTERMSIG(status), SIGKILL);
		leave(&l);
		unread += recv(store.fd, &(char){0}, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
		takes_over(&l);
		map_guest(&l);
		assert_int_equal(vdpa_pci_msix_enable(l.pci, 2), 0);
		vdpa_pci_settle(l.pci, true);
		vdpa_pci_keep_record(l.pci, "driver", 6);
	}
	print_message("%u kills, %u left a reply unread\n", kills, unread);
	end(&l);
}

/* A store that has something else. */

static int
listener_at(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(un.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	assert_int_equal(listen(fd, 1), 0);
	return fd;
}

static int
connected_to(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(un.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	return fd;
}

static void
put(int fd)
{
	close(store.fd);
	store.fd = fd;
}

static void
starts_anew(struct life *l)
{
	open_anyhow(l);
	assert_false(vdpa_pci_is_left(l->pci));
	assert_int_equal(LOAD(server.connections), 2);
	answers(l);
	end(l);
}

static void
the_connection_of_another_function_is_left_alone(void **state)
{
	char path[80];
	struct life l;
	int listener, fd;

	begin(&l);
	leave(&l);
	snprintf(path, sizeof(path), "%s.other", server.path);
	listener = listener_at(path);
	put(connected_to(path));
	fd = dup(store.fd);
	starts_anew(&l);
	/* It goes on. */
	assert_int_equal(recv(fd, path, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
	close(fd);
	close(listener);
}

static void
what_is_no_connection_is_not_used(void **state)
{
	for (unsigned int i = 0; i < 5; i++) {
		int pair[2];
		struct life l;

		begin(&l);
		leave(&l);
		assert_int_equal(socketpair(AF_UNIX, i == 0 ? SOCK_STREAM : SOCK_DGRAM, 0, pair),
				 0);
		if (i == 2) {
			close(pair[0]);
			pair[0] = eventfd(0, EFD_CLOEXEC);
		} else if (i == 3) {
			close(pair[0]);
			pair[0] = socket(AF_INET, SOCK_STREAM, 0);
		} else if (i == 4) {
			close(pair[0]);
			pair[0] = -1;
		}
		put(pair[0]);
		starts_anew(&l);
		close(pair[1]);
		server.connections = 0;
		if (store.fd >= 0)
			close(store.fd);
		store.fd = -1;
		store.len = -ENOENT;
	}
}

/* Of the record's last part. */
static uint8_t *
recorded_path(void)
{
	uint8_t *at = store.record, *found = NULL;

	while ((at = memmem(at, (size_t)(store.record + store.len - at), server.path,
			    strlen(server.path))) != NULL)
		found = at++;
	assert_non_null(found);
	return found;
}

static void
what_cannot_have_been_agreed_on_is_not_believed(void **state)
{
	/* Before the path: what is agreed on, and the path's length. */
	static const struct {
		int at;
		uint32_t value;
	} wrong[] = {
		{-28, 0}, {-28, 1000}, {-24, 7},  {-24, 1u << 30},  {-20, 0}, {-12, 4095},
		{-12, 0}, {-4, 3},     {-4, 109}, {-4, UINT32_MAX}, {0, 'x'},
	};

	for (unsigned int i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct life l;

		begin(&l);
		leave(&l);
		memcpy(recorded_path() + wrong[i].at, &wrong[i].value, sizeof(uint32_t));
		starts_anew(&l);
		server.connections = 0;
		store.len = -ENOENT;
	}
}

static void
mutated_records_are_refused_or_harmless(void **state)
{
	static uint8_t good[VDPA_RESTART_RECORD_MAX];
	struct life l;
	int len;

	begin(&l);
	leave(&l);
	len = store.len;
	memcpy(good, store.record, (size_t)len);
	for (int at = 0; at < len; at++) {
		bool is_left;

		/* Of a name, which is mostly nothing, some places will do. */
		if (good[at] == 0 && at % 16 != 0)
			continue;
		store.record[at] ^= 0x80;
		open_anyhow(&l);
		assert_int_equal(vdpa_pci_keep(l.pci), 0);
		is_left = vdpa_pci_is_left(l.pci);
		answers(&l);
		vdpa_pci_settle(l.pci, is_left);
		end(&l);
		store.len = -ENOENT;
		server.connections = 0;
		begin(&l);
		leave(&l);
		assert_int_equal(store.len, len);
		memcpy(good, store.record, (size_t)len);
	}
	takes_over(&l);
	end(&l);
}

static void
functions_of_a_vm_are_not_kept(void **state)
{
	const struct vdpa_pci_params params = {.vm = "one"};
	char name[80];
	struct life l = {0};

	snprintf(name, sizeof(name), "vfio-user/%s", server.path);
	assert_int_equal(vdpa_pci_open_for(name, &params, "v0", &l.pci), 0);
	assert_int_equal(vdpa_pci_keep(l.pci), -EOPNOTSUPP);
	end(&l);
}

#define S(test) cmocka_unit_test_setup_teardown(test, setup_store, teardown_store)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		S(the_next_process_goes_on_by_the_connection),
		S(what_nobody_claims_is_unmapped),
		S(other_memory_than_was_recorded_is_not_used),
		S(what_was_unmapped_before_the_kill_is_no_failure),
		S(replies_that_nobody_has_read_are_dropped),
		S(more_of_them_than_processes_leave_are_not),
		S(half_a_request_costs_the_connection),
		S(half_a_reply_costs_the_connection),
		S(a_server_that_has_hung_up_meanwhile_is_asked_anew),
		S(a_process_may_be_killed_at_any_moment),
		S(the_connection_of_another_function_is_left_alone),
		S(what_is_no_connection_is_not_used),
		S(what_cannot_have_been_agreed_on_is_not_believed),
		S(mutated_records_are_refused_or_harmless),
		S(functions_of_a_vm_are_not_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
