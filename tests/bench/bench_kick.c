/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * How long a kick takes to reach the device: from the driver's write to the doorbell word in the
 * device's page. Three ways, alternating in rounds:
 *
 *   bare      an eventfd that a thread of ours waits for by epoll, which then writes a word: what a
 *             relay cannot be faster than
 *   relay     the queue's kick eventfd, that the daemon waits for and rings the doorbell
 *   doorbell  the word itself, seen by a thread on the other CPU (half of there and back)
 *
 * Both sides sleep before each kick of the first two, as a device does whose queue is idle. Who
 * makes the session hands in the eventfd and the page; the device must not be looking at it, or it
 * takes the rings away from us.
 *
 * usage: bench_kick KICK_FD PAGE_FD PAGE_OFFSET DRIVER_CPU DAEMON_CPU ROUNDS SAMPLES
 */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE	   4096
#define IDLE	   UINT32_MAX /* of a doorbell that nobody has rung */
#define PAUSE_NS   50000      /* until everybody sleeps again */
#define LIMIT_NS   1000000000 /* a kick that takes longer is lost */
#define ECHO_TURNS 1000

enum way { BARE, RELAY, DOORBELL, WAYS };

static const char *const way_names[WAYS] = {"bare", "relay", "doorbell"};

struct bench {
	int kick_fd;
	uint32_t *doorbell; /* the device's */
	int bare_fd;
	uint32_t *bare_word;
	/* The echo's, a cache line each. */
	uint32_t *there, *back;
	int echo_fd;
	int driver_cpu, daemon_cpu;
	unsigned int rounds, samples;
	uint64_t *ns;
};

static uint64_t
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void
fail(const char *what)
{
	fprintf(stderr, "bench_kick: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void
pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	errno = pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
	if (errno != 0)
		fail("affinity");
}

/* Write to a word whatever is written to the eventfd. */
static void *
bare_relay(void *arg)
{
	struct bench *b = arg;
	struct epoll_event ev = {.events = EPOLLIN};
	int ep = epoll_create1(EPOLL_CLOEXEC);

	pin(b->daemon_cpu);
	if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, b->bare_fd, &ev) < 0)
		fail("epoll");
	for (;;) {
		uint64_t value;

		if (epoll_wait(ep, &ev, 1, -1) != 1 ||
		    read(b->bare_fd, &value, sizeof(value)) != sizeof(value))
			continue;
		__atomic_store_n(b->bare_word, 0, __ATOMIC_RELEASE);
	}
	return NULL;
}

/* Answer each change of one word by the same one of another. */
static void *
echo(void *arg)
{
	struct bench *b = arg;

	pin(b->daemon_cpu);
	for (;;) {
		eventfd_t value;

		/* Asleep while the others are measured. */
		if (eventfd_read(b->echo_fd, &value) < 0)
			fail("eventfd");
		for (uint32_t i = 1; i <= ECHO_TURNS; i++) {
			while (__atomic_load_n(b->there, __ATOMIC_ACQUIRE) != i)
				;
			__atomic_store_n(b->back, i, __ATOMIC_RELEASE);
		}
	}
	return NULL;
}

static uint64_t
kick(int fd, uint32_t *word)
{
	const struct timespec pause = {.tv_nsec = PAUSE_NS};
	uint64_t from, ns;

	__atomic_store_n(word, IDLE, __ATOMIC_RELEASE);
	nanosleep(&pause, NULL);
	from = now();
	if (eventfd_write(fd, 1) < 0)
		fail("kick");
	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == IDLE)
		if (now() - from > LIMIT_NS) {
			errno = ETIMEDOUT;
			fail("a kick did not reach the doorbell");
		}
	ns = now() - from;
	__atomic_store_n(word, IDLE, __ATOMIC_RELEASE);
	return ns;
}

/* The mean of a burst: one alone is shorter than reading the clock. */
static uint64_t
ring(struct bench *b)
{
	uint64_t from;

	__atomic_store_n(b->there, 0, __ATOMIC_RELAXED);
	__atomic_store_n(b->back, 0, __ATOMIC_RELAXED);
	if (eventfd_write(b->echo_fd, 1) < 0)
		fail("eventfd");
	/* The first one waits for the other side to wake up. */
	from = now();
	for (uint32_t i = 1; i <= ECHO_TURNS; i++) {
		__atomic_store_n(b->there, i, __ATOMIC_RELEASE);
		while (__atomic_load_n(b->back, __ATOMIC_ACQUIRE) != i)
			;
		if (i == 1)
			from = now();
	}
	return (now() - from) / (ECHO_TURNS - 1) / 2;
}

static int
compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* One line of JSON a round and way. */
static void
measure(struct bench *b, unsigned int round, enum way way)
{
	unsigned int n = way == DOORBELL ? 1 + b->samples / ECHO_TURNS : b->samples;

	for (unsigned int i = 0; i < n; i++)
		b->ns[i] = way == BARE	  ? kick(b->bare_fd, b->bare_word)
			   : way == RELAY ? kick(b->kick_fd, b->doorbell)
					  : ring(b);
	qsort(b->ns, n, sizeof(b->ns[0]), compare);
	printf("{\"round\": %u, \"way\": \"%s\", \"samples\": %u, \"p50_ns\": %llu, "
	       "\"p99_ns\": %llu}\n",
	       round, way_names[way], n, (unsigned long long)b->ns[n / 2],
	       (unsigned long long)b->ns[n * 99 / 100]);
}

int
main(int argc, char **argv)
{
	struct bench b;
	pthread_t threads[2];
	uint8_t *page, *own;

	if (argc != 8) {
		fprintf(stderr, "usage: bench_kick KICK_FD PAGE_FD PAGE_OFFSET DRIVER_CPU "
				"DAEMON_CPU ROUNDS SAMPLES\n");
		return 2;
	}
	b.kick_fd = atoi(argv[1]);
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[2]), atoll(argv[3]));
	own = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED || own == MAP_FAILED)
		fail("mmap");
	b.doorbell = (uint32_t *)(void *)page;
	b.bare_word = (uint32_t *)(void *)own;
	b.there = (uint32_t *)(void *)(own + 128);
	b.back = (uint32_t *)(void *)(own + 256);
	b.driver_cpu = atoi(argv[4]);
	b.daemon_cpu = atoi(argv[5]);
	b.rounds = (unsigned int)atoi(argv[6]);
	b.samples = (unsigned int)atoi(argv[7]);
	b.ns = calloc(b.samples + 1, sizeof(b.ns[0]));
	b.bare_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	b.echo_fd = eventfd(0, EFD_CLOEXEC);
	if (b.ns == NULL || b.bare_fd < 0 || b.echo_fd < 0)
		fail("setup");
	if (pthread_create(&threads[0], NULL, bare_relay, &b) != 0 ||
	    pthread_create(&threads[1], NULL, echo, &b) != 0)
		fail("thread");
	pin(b.driver_cpu);
	for (unsigned int round = 0; round < b.rounds; round++)
		for (enum way way = BARE; way < WAYS; way++)
			measure(&b, round, way);
	return 0;
}
