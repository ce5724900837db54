/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The vfio-user client against a server whose replies are spoiled at random, over many connections:
 * bits flipped, sizes, ids and file descriptors wrong, messages cut, late, doubled, invented, the
 * region's file shrunk. After each connection: the client ended in bounded time and no file
 * descriptor is left. The same seed spoils the same replies, as long as the machine is fast enough.
 *
 * Client and server mostly wait: for each other, and for the time-out of a reply that never comes.
 * Therefore --jobs N has N processes take the connections in turn, each with a server of its own;
 * connection and seed decide what is spoiled, whichever process it falls to.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <rte_common.h>
#include <rte_log.h>

#include "event_loop_priv.h"
#include "fault.h"
#include "pci_priv.h"
#include "vdpa.h"
#include "vdpa_event.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_log.h"
#include "vfu_server.h"

/* Short, because so many replies never come; a good one that is late ends its connection too. */
#define TIMEOUT_MS    10
/* One connection, however bad: its waiting is bounded, this machine's load is not. */
#define ROUND_MAX_MS  5000
/* For the server to be done with a connection: it waits for nothing but a processor. */
#define SERVER_MAX_MS 60000
/* About what an open takes. */
#define OPEN_REPLIES  30
#define JOBS_MAX      64
#define PAGE	      4096

static struct vfu_server server;
static struct vdpa_iotlb *guest;
static int odd_fds[4]; /* of a kind that no reply may have */

/* How a connection ended, and how many did so. */
struct outcome {
	uint64_t rounds, opened, survived;
	uint64_t protocol, late, hungup, other;
	int64_t longest_ms;
};

/* In memory that all processes share. */
struct shared {
	uint64_t spoiled; /* replies so far, of all; __atomic */
	struct outcome outcomes[JOBS_MAX];
};

static struct shared *shared;

/* xorshift64*: the same everywhere. */
static uint64_t
next(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1d;
}

/* The state that a number stands for, never 0: splitmix64. */
static uint64_t
mix(uint64_t number)
{
	number += 0x9e3779b97f4a7c15;
	number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9;
	number = (number ^ (number >> 27)) * 0x94d049bb133111eb;
	number ^= number >> 31;
	return number != 0 ? number : 1;
}

static uint32_t
below(uint64_t *state, uint32_t n)
{
	return (uint32_t)((next(state) >> 32) % n);
}

static uint32_t
odd_value(uint64_t *rng, uint32_t near)
{
	static const uint32_t values[] = {0,	      1,	  15,	      16,	  17,
					  0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff, 4096,
					  8191,	      8192,	  8193,	      65536};

	if (below(rng, 3) == 0)
		return near - 4 + below(rng, 9);
	return values[below(rng, sizeof(values) / sizeof(values[0]))];
}

static void
flip(uint64_t *rng, void *data, size_t len)
{
	for (uint32_t n = 1 + below(rng, 4); n > 0 && len > 0; n--)
		((uint8_t *)data)[below(rng, (uint32_t)len)] ^= (uint8_t)(1u << below(rng, 8));
}

static void
send_raw(const void *data, size_t len)
{
	if (send(server.fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return; /* the client has hung up */
}

/* Requests of the server's own, good and bad. */
static void
send_requests(uint64_t *rng)
{
	for (uint32_t n = 1 + below(rng, 20); n > 0; n--) {
		uint8_t message[64] = {0};
		struct vfio_user_header *hdr = (struct vfio_user_header *)message;

		hdr->id = (uint16_t)next(rng);
		hdr->command = (uint16_t)below(rng, 20);
		hdr->size = 16 + below(rng, 49);
		hdr->flags = below(rng, 4) == 0 ? VFIO_USER_NO_REPLY : 0;
		send_raw(message, hdr->size);
	}
}

static void
change_fds(uint64_t *rng, struct vfu_reply *reply)
{
	switch (below(rng, 3)) {
	case 0:
		reply->n_fds = 0;
		break;
	case 1:
		reply->n_fds = 1;
		reply->fds[0] = odd_fds[below(rng, 4)];
		break;
	default:
		for (uint32_t n = 1 + below(rng, 4); n > 0 && reply->n_fds < 8; n--)
			reply->fds[reply->n_fds++] = odd_fds[below(rng, 4)];
	}
}

/* In pieces, as a stream may bring them: that is no fault. */
static void
send_in_pieces(uint64_t *rng, struct vfu_reply *reply)
{
	const uint8_t *at = (const uint8_t *)reply;
	size_t left = sizeof(reply->hdr) + reply->len;

	_Static_assert(offsetof(struct vfu_reply, data) == sizeof(struct vfio_user_header),
		       "header and data are contiguous");
	if (reply->n_fds != 0 || reply->drop)
		return;
	reply->drop = true;
	while (left > 0) {
		size_t n = 1 + below(rng, left < 12 ? (uint32_t)left : 12);

		if (n > left)
			n = left;
		send_raw(at, n);
		at += n;
		left -= n;
	}
}

struct spoiler {
	uint64_t rng;
	unsigned int spare; /* so many replies at first: to get behind the open too */
	uint32_t one_of;    /* so many replies is spoiled, after those */
};

static void
spoil(struct vfu_server *s, const struct vfio_user_header *request, struct vfu_reply *reply)
{
	struct spoiler *spoiler = s->arg;
	uint64_t *rng = &spoiler->rng;
	size_t words = reply->len / 4;

	if (reply->drop)
		return;
	if (spoiler->spare > 0) {
		spoiler->spare--;
		return;
	}
	if (below(rng, spoiler->one_of) != 0)
		return;
	__atomic_add_fetch(&shared->spoiled, 1, __ATOMIC_RELEASE);
	switch (below(rng, 22)) {
	case 0:
	case 1:
		flip(rng, &reply->hdr, sizeof(reply->hdr));
		break;
	case 2:
	case 3:
		flip(rng, reply->data, reply->len);
		break;
	case 4:
	case 5:
	case 6:
		if (words > 0) {
			uint8_t *word = reply->data + 4 * below(rng, (uint32_t)words);
			uint32_t value;

			memcpy(&value, word, 4);
			value = odd_value(rng, value);
			memcpy(word, &value, 4);
		}
		break;
	case 7:
		reply->hdr.size = odd_value(rng, reply->hdr.size);
		break;
	case 8:
		reply->hdr.id = (uint16_t)(reply->hdr.id + (below(rng, 2) ? 1 : next(rng)));
		break;
	case 9:
		reply->hdr.command = (uint16_t)below(rng, 20);
		break;
	case 10:
		reply->len = below(rng, (uint32_t)reply->len + 1);
		reply->hdr.size = (uint32_t)(sizeof(reply->hdr) + reply->len);
		break;
	case 11:
		reply->len +=
			1 + below(rng, below(rng, 2)
					       ? 100
					       : (uint32_t)(sizeof(reply->data) - reply->len));
		reply->hdr.size = (uint32_t)(sizeof(reply->hdr) + reply->len);
		break;
	case 12:
		reply->cut = below(rng, (uint32_t)(sizeof(reply->hdr) + reply->len));
		reply->hangup = below(rng, 2) == 0;
		break;
	case 13:
		change_fds(rng, reply);
		break;
	case 14:
		reply->drop = true;
		reply->hangup = below(rng, 2) == 0;
		break;
	case 15:
		reply->hangup = true;
		break;
	case 16:
		reply->hdr.flags |= VFIO_USER_ERROR;
		reply->hdr.error = below(rng, 2) ? below(rng, 140) : odd_value(rng, 0);
		if (below(rng, 4) != 0) {
			reply->len = reply->n_fds = 0;
			reply->hdr.size = sizeof(reply->hdr);
		}
		break;
	case 17:
		send_requests(rng);
		break;
	case 18:
		send_raw(&reply->hdr, sizeof(reply->hdr) + reply->len);
		break;
	case 19:
		reply->delay_us = below(rng, TIMEOUT_MS * 1500);
		break;
	case 20:
		send_in_pieces(rng, reply);
		break;
	default:
		if (s->regions[4].fd >= 0 &&
		    ftruncate(s->regions[4].fd, (off_t)below(rng, 5) * PAGE) < 0)
			abort();
	}
}

/* Doorbells of another thread. The server answers none, so they spoil no reply. */
struct ringer {
	struct vdpa_pci *pci;
	bool stop;
};

static void *
ring(void *arg)
{
	struct ringer *ringer = arg;

	while (!__atomic_load_n(&ringer->stop, __ATOMIC_ACQUIRE)) {
		vdpa_pci_post16(ringer->pci, 4, 12288, 1);
		usleep(50);
	}
	return NULL;
}

/* What a driver does, in some order. Errors are what is expected; that it returns is the test. */
static void
drive(struct vdpa_pci *pci, uint64_t *rng, int eventfd)
{
	struct vdpa_dma_buf buf = {.va = NULL};
	struct vdpa_pci_area area = {.map = NULL};
	struct vdpa_dma_user *user = NULL;
	uint8_t config[256];
	int cap = 0;

	for (uint32_t n = 10 + below(rng, 50); n > 0; n--) {
		unsigned int vectors = vdpa_pci_nr_vectors(pci);

		switch (below(rng, 14)) {
		case 0:
			vdpa_pci_config_read(pci, 0, config, sizeof(config));
			break;
		case 1:
			cap = vdpa_pci_find_cap(pci, 0x09, 0);
			while (cap > 0)
				cap = vdpa_pci_find_cap(pci, 0x09, (unsigned int)cap);
			break;
		case 2:
			vdpa_pci_read32(pci, 4, 4 * below(rng, 1024));
			break;
		case 3:
			vdpa_pci_write64(pci, 4, 8 * below(rng, 512), next(rng));
			break;
		case 4:
			for (uint32_t i = below(rng, 100); i > 0; i--)
				vdpa_pci_post16(pci, 4, 12288, (uint16_t)i);
			break;
		case 5:
			if (vectors > 0)
				vdpa_pci_msix_enable(pci, 1 + below(rng, vectors));
			break;
		case 6:
			vdpa_pci_msix_set(pci, 0, below(rng, 2) ? eventfd : -1);
			break;
		case 7:
			vdpa_pci_msix_disable(pci);
			break;
		case 8:
			if (user != NULL || vdpa_dma_join(vdpa_pci_dma(pci), "fuzz", &user) == 0)
				vdpa_dma_set(user, guest);
			break;
		case 9:
			if (user != NULL)
				vdpa_dma_set(user, NULL);
			break;
		case 10:
			if (buf.va == NULL &&
			    vdpa_dma_alloc(vdpa_pci_dma(pci), PAGE, NULL, &buf) < 0)
				buf.va = NULL;
			break;
		case 11:
			if (area.map == NULL && vdpa_pci_map(pci, 4, 12288, PAGE, &area) < 0)
				area.map = NULL;
			break;
		case 12:
			if (area.map != NULL)
				*(volatile uint16_t *)area.va = (uint16_t)n;
			vdpa_pci_present(pci);
			break;
		default:
			vdpa_pci_reset(pci);
		}
	}
	vdpa_dma_leave(user);
	if (buf.va != NULL)
		vdpa_dma_free(vdpa_pci_dma(pci), &buf);
	if (area.map != NULL)
		vdpa_pci_unmap(pci, &area);
}

static unsigned int
count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	if (dir == NULL)
		abort();
	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n;
}

static int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Whether there are n file descriptors again: the client closes apart what could keep it waiting.
 */
static bool
fds_return(unsigned int n)
{
	int64_t end = now_ms() + ROUND_MAX_MS;

	while (count_fds() != n) {
		if (now_ms() > end)
			return false;
		usleep(100);
	}
	return true;
}

static void
count_error(struct outcome *out, int err)
{
	if (err == -EPROTO)
		out->protocol++;
	else if (err == -ETIMEDOUT)
		out->late++;
	else if (err == -ENODEV)
		out->hungup++;
	else
		out->other++;
}

/* Whether the server has accepted a connection of each round that has ended, and has let go of the
 * last one: one that the client gave up early is accepted after its end. Of a round whose server
 * has hung up, or did not answer, there may be one more: the client asks whether the socket speaks
 * vhost-user. */
static bool
server_is_done(const struct outcome *out)
{
	uint64_t most = out->rounds + out->hungup + out->late, now;
	int64_t end = now_ms() + SERVER_MAX_MS;

	for (;;) {
		now = __atomic_load_n(&server.connections, __ATOMIC_SEQ_CST);
		if (now > most)
			return false;
		if (now >= out->rounds &&
		    __atomic_load_n(&server.open_connections, __ATOMIC_SEQ_CST) == 0)
			return true;
		if (now_ms() > end)
			return false;
		usleep(100);
	}
}

/* False when the server does not come to its end. */
static bool
one_round(const char *name, uint64_t seed, uint64_t round, int eventfd, struct outcome *out)
{
	/* Often one fault meets another, seldom a long life ends by a single one. */
	static const uint32_t rates[] = {2, 2, 6, 24};
	const struct vdpa_pci_params params = {.timeout_ms = TIMEOUT_MS};
	/* The server's thread looks at it: it outlives every connection. */
	static struct spoiler spoiler;
	uint64_t rng;
	struct ringer ringer = {.stop = false};
	pthread_t thread;
	int ret;

	spoiler = (struct spoiler){.rng = mix(seed + mix(round))};
	rng = mix(spoiler.rng);
	if (ftruncate(server.regions[4].fd, 4 * PAGE) < 0)
		abort();
	if (below(&rng, 2) != 0)
		spoiler.spare = OPEN_REPLIES + below(&rng, 20);
	spoiler.one_of = rates[below(&rng, RTE_DIM(rates))];
	vfu_server_set_hook(&server, spoil, &spoiler);
	ret = vdpa_pci_open(name, &params, &ringer.pci);
	if (ret == 0) {
		bool rings = round % 4 == 0 && pthread_create(&thread, NULL, ring, &ringer) == 0;

		out->opened++;
		drive(ringer.pci, &rng, eventfd);
		__atomic_store_n(&ringer.stop, true, __ATOMIC_RELEASE);
		if (rings)
			pthread_join(thread, NULL);
		ret = vdpa_pci_error(ringer.pci);
		vdpa_pci_close(ringer.pci);
	}
	if (ret == 0)
		out->survived++;
	else
		count_error(out, ret);
	out->rounds++;
	return server_is_done(out);
}

static bool
prepare(void)
{
	const struct vdpa_mem_region_spec spec = {
		.iova = 0x100000,
		.uaddr = 0x100000,
		.size = 65536,
		.fd = memfd_create("guest", MFD_CLOEXEC),
	};

	if (spec.fd < 0 || ftruncate(spec.fd, 65536) < 0 ||
	    vdpa_iotlb_create(NULL, &spec, 1, &guest) < 0)
		return false;
	close(spec.fd);
	odd_fds[0] = memfd_create("short", MFD_CLOEXEC);
	odd_fds[1] = eventfd(0, EFD_CLOEXEC);
	odd_fds[2] = open("/dev/null", O_RDWR | O_CLOEXEC);
	odd_fds[3] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	rte_log_set_level((uint32_t)vdpa_logtype, RTE_LOG_EMERG);
	vfu_server_init(&server);
	return vdpa_fault_init() == 0 && vdpa_event_control_init() == 0 &&
	       vfu_server_start(&server);
}

/* Rounds first, first + step and so on, until all processes together have spoiled count replies. */
static int
run(uint64_t seed, uint64_t count, unsigned int first, unsigned int step)
{
	struct outcome *out = &shared->outcomes[first];
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	unsigned int fds;
	int64_t start, took;
	char name[64];

	if (!prepare()) {
		perror("prepare");
		return 2;
	}
	/* The first signal of a process opens a file for good. */
	vdpa_eventfd_signal(fd);
	(void)vdpa_fd_is_eventfd(-1);
	snprintf(name, sizeof(name), "vfio-user/%s", server.path);
	fds = count_fds();
	for (uint64_t round = first; __atomic_load_n(&shared->spoiled, __ATOMIC_ACQUIRE) < count;
	     round += step) {
		start = now_ms();
		if (!one_round(name, seed, round, fd, out)) {
			printf("seed %" PRIu64 ", connection %" PRIu64
			       ": the server has accepted %u and "
			       "has not ended the last one for %d ms\n",
			       seed, round, server.connections, SERVER_MAX_MS);
			return 1;
		}
		took = now_ms() - start;
		if (took > out->longest_ms)
			out->longest_ms = took;
		if (took > ROUND_MAX_MS || !fds_return(fds)) {
			printf("seed %" PRIu64 ", connection %" PRIu64 ": took %" PRId64
			       " ms (at most %d), %u file descriptors (before: %u); %s\n",
			       seed, round, took, ROUND_MAX_MS, count_fds(), fds,
			       vdpa_error_message());
			return 1;
		}
	}
	vfu_server_stop(&server);
	vdpa_event_control_fini();
	vdpa_fault_fini();
	vdpa_iotlb_put(guest);
	close(fd);
	return 0;
}

/* Connections by so many processes; when one fails, the others end too. How many failed. */
static unsigned int
run_jobs(uint64_t seed, uint64_t count, unsigned int jobs)
{
	pid_t parent = getpid(), pids[JOBS_MAX];
	unsigned int failed = 0;
	int status;

	for (unsigned int i = 0; i < jobs; i++) {
		pids[i] = fork();
		if (pids[i] < 0)
			abort();
		if (pids[i] == 0) {
			if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
				_exit(2);
			/* By exit(), so that a sanitizer looks for leaks. */
			exit(run(seed, count, i, jobs));
		}
	}
	for (unsigned int i = 0; i < jobs; i++) {
		if (waitpid(pids[i], &status, 0) == pids[i] && status == 0)
			continue;
		printf("process %u of %u ended with status 0x%x\n", i, jobs, (unsigned int)status);
		/* The others shall come to their end too. */
		__atomic_store_n(&shared->spoiled, UINT64_MAX / 2, __ATOMIC_RELEASE);
		failed++;
	}
	return failed;
}

static struct outcome
add_up(unsigned int jobs)
{
	struct outcome sum = {0};

	for (unsigned int i = 0; i < jobs; i++) {
		const struct outcome *out = &shared->outcomes[i];

		sum.rounds += out->rounds;
		sum.opened += out->opened;
		sum.survived += out->survived;
		sum.protocol += out->protocol;
		sum.late += out->late;
		sum.hungup += out->hungup;
		sum.other += out->other;
		sum.longest_ms = RTE_MAX(sum.longest_ms, out->longest_ms);
	}
	return sum;
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {{"seed", required_argument, NULL, 's'},
						{"count", required_argument, NULL, 'c'},
						{"jobs", required_argument, NULL, 'j'},
						{NULL, 0, NULL, 0}};
	uint64_t seed = 1, count = 10000, jobs = 1;
	int64_t began = now_ms();
	struct outcome out;
	int opt;

	while ((opt = getopt_long(argc, argv, "s:c:j:", options, NULL)) != -1) {
		switch (opt) {
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			count = strtoull(optarg, NULL, 0);
			break;
		case 'j':
			jobs = strtoull(optarg, NULL, 0);
			break;
		default:
			jobs = 0;
		}
	}
	if (jobs < 1 || jobs > JOBS_MAX) {
		fprintf(stderr, "usage: %s [--seed N] [--count REPLIES] [--jobs 1..%d]\n", argv[0],
			JOBS_MAX);
		return 2;
	}
	printf("seed %" PRIu64 ", %" PRIu64 " replies\n", seed, count);
	fflush(stdout);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED) {
		perror("mmap");
		return 2;
	}
	if (run_jobs(seed, count, (unsigned int)jobs) != 0)
		return 1;
	out = add_up((unsigned int)jobs);
	printf("%" PRIu64 " replies spoiled in %" PRIu64 " connections and %" PRId64
	       " ms, the longest %" PRId64 " ms: %" PRIu64 " opened, %" PRIu64
	       " unharmed; ended by protocol %" PRIu64 ", time-out %" PRIu64 ", hang-up %" PRIu64
	       ", other %" PRIu64 "\n",
	       shared->spoiled, out.rounds, now_ms() - began, out.longest_ms, out.opened,
	       out.survived, out.protocol, out.late, out.hungup, out.other);
	/* A fuzz that never got in, or never hurt, has tested nothing. */
	if (count >= 1000 && (out.opened == 0 || out.protocol == 0 || out.late == 0 ||
			      out.hungup == 0 || out.survived == 0)) {
		printf("not all of these happened\n");
		return 1;
	}
	return 0;
}
