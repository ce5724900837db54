/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a device more costs, counted in instructions: those of the thread that adds one, with few
 * devices there and with many. A list that is walked shows, wherever it is.
 *
 * The work is done by a child process, which is stepped through the parts that are counted.
 */

#include <inttypes.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "event_loop_priv.h"
#include "mgmt.h"
#include "vdpa_fd.h"

#define FEW	10
#define MANY	600
/* The child's exit code where it may not be stepped. */
#define REFUSED 77

static char folder[] = "/tmp/uvdpa-test.XXXXXX";

/* The child, from here to child(). */

static void
check(int rc, const char *what)
{
	if (rc == 0)
		return;
	fprintf(stderr, "%s: %s\n", what, vdpa_error_message());
	_exit(1);
}

/* With each word by which devices could be compared with each other. */
static void
add(unsigned int i)
{
	char words[512];

	snprintf(words, sizeof(words),
		 "name dev%u mgmtdev sim_net vm vm%u backend peer other%u socket %s/d/%u.sock "
		 "folder 0700 device_info %s/%u.json",
		 i, i, i, folder, i, folder, i);
	check(vdpa_dev_add(words), words);
}

static void
del(unsigned int i)
{
	char name[16];

	snprintf(name, sizeof(name), "dev%u", i);
	check(vdpa_dev_del(name), name);
}

static void
add_counted(unsigned int there)
{
	/* The first one starts threads that others find. */
	add(there);
	del(there);
	raise(SIGUSR1);
	add(there);
	raise(SIGUSR2);
	del(there);
}

/* A step is a change from one process to the other: dear between two processors. */
static void
stay_on_one_cpu(void)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	CPU_ZERO(&set);
	CPU_SET(cpu >= 0 ? cpu : 0, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void
child(void)
{
	unsigned int i;

	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
		_exit(REFUSED);
	raise(SIGSTOP);
	vdpa_fd_raise_limit();
	check(vdpa_event_control_init(), "event loop");
	check(vdpa_mgmt_init(), "management");
	for (i = 0; i < FEW; i++)
		add(i);
	add_counted(FEW);
	for (; i < MANY; i++)
		add(i);
	add_counted(MANY);
	while (i > 0)
		del(--i);
	vdpa_mgmt_fini();
	vdpa_event_control_fini();
	_exit(0);
}

/* The test. */

/* Until the next signal that the child raises; how many instructions it took where they are
 * stepped. */
static uint64_t
until_signal(pid_t pid, bool step, int *status)
{
	uint64_t n = 0;
	int sig = 0;

	for (;;) {
		assert_int_equal(ptrace(step ? PTRACE_SINGLESTEP : PTRACE_CONT, pid, NULL, sig), 0);
		assert_int_equal(waitpid(pid, status, 0), pid);
		sig = WIFSTOPPED(*status) ? WSTOPSIG(*status) : SIGUSR1;
		if (sig == SIGUSR1 || sig == SIGUSR2)
			return n;
		if (sig == SIGTRAP)
			sig = 0;
		n++;
	}
}

/* What it takes with as many devices as there are now. */
static uint64_t
count(pid_t pid)
{
	uint64_t n;
	int status;

	until_signal(pid, false, &status);
	assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGUSR1);
	n = until_signal(pid, true, &status);
	assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGUSR2);
	return n;
}

static void
a_device_costs_the_same_however_many_there_are(void **state)
{
	uint64_t few, many;
	pid_t pid;
	int status;

	assert_non_null(mkdtemp(folder));
	stay_on_one_cpu();
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		child();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == REFUSED) {
		print_message("no instruction is counted: ptrace(2) is refused here\n");
		rmdir(folder);
		skip();
	}
	assert_true(WIFSTOPPED(status));
	assert_int_equal(ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_EXITKILL), 0);
	few = count(pid);
	many = count(pid);
	print_message("%" PRIu64 " instructions with %d devices, %" PRIu64 " with %d\n", few, FEW,
		      many, MANY);
	/* A tree of them has six more levels; a list would double it. */
	assert_in_range(many, 1, few + few / 4);
	until_signal(pid, false, &status);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_int_equal(rmdir(folder), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_device_costs_the_same_however_many_there_are),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
