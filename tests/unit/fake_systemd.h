/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * systemd's store of descriptors, played by a thread: it stores what a daemon sends to
 * NOTIFY_SOCKET by systemd's rules (a file once, nothing when full, removal by name) and hands it
 * to the next one by LISTEN_FDS, in reverse order. A daemon is the test's program itself, with the
 * name of what it does as its first word. Include it after cmocka.h.
 */

#ifndef FAKE_SYSTEMD_H
#define FAKE_SYSTEMD_H

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/kcmp.h>

#define STORE_MAX  256
#define WORDS_MAX  4096
#define NAME_SIZE  256
#define LISTEN_FDS 3

static struct {
	char dir[64], path[100];
	int sock, stop;
	pthread_t thread;
	bool deaf; /* reads nothing */
	unsigned int max, n;
	struct {
		int fd;
		char name[NAME_SIZE];
	} store[STORE_MAX];
	unsigned int broken; /* words that systemd would not take */
} systemd;

static inline bool
is_same_file(int a, int b)
{
	return syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b) == 0;
}

static inline bool
is_store_name(const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < len; i++)
		if (name[i] < ' ' || name[i] >= 127 || name[i] == ':')
			return false;
	return len > 0 && len < NAME_SIZE;
}

static inline void
store(int fd, const char *name)
{
	bool twice = false;

	for (unsigned int i = 0; i < systemd.n; i++)
		twice |= is_same_file(systemd.store[i].fd, fd);
	if (twice || systemd.n >= systemd.max) {
		close(fd);
		return;
	}
	systemd.store[systemd.n].fd = fd;
	/* It is a name of the store. */
	memcpy(systemd.store[systemd.n++].name, name, strlen(name) + 1);
}

static inline void
forget(const char *name)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < systemd.n; i++) {
		if (strcmp(systemd.store[i].name, name) == 0)
			close(systemd.store[i].fd);
		else
			systemd.store[n++] = systemd.store[i];
	}
	systemd.n = n;
}

static inline void
hear(char *words, int fd)
{
	bool store_it = false, forget_it = false, barrier = false, poll_off = false;
	char *save = NULL;
	const char *name = "stored";

	for (char *w = strtok_r(words, "\n", &save); w != NULL; w = strtok_r(NULL, "\n", &save)) {
		store_it |= strcmp(w, "FDSTORE=1") == 0;
		forget_it |= strcmp(w, "FDSTOREREMOVE=1") == 0;
		barrier |= strcmp(w, "BARRIER=1") == 0;
		poll_off |= strcmp(w, "FDPOLL=0") == 0;
		if (strncmp(w, "FDNAME=", 7) == 0)
			name = w + 7;
	}
	if (!is_store_name(name) || (store_it && (fd < 0 || !poll_off)) || (barrier && fd < 0) ||
	    store_it + forget_it + barrier != 1) {
		systemd.broken++;
	} else if (store_it) {
		store(fd, name);
		fd = -1;
	} else if (forget_it) {
		forget(name);
	}
	if (fd >= 0)
		close(fd);
}

static inline bool
hear_one(void)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	char words[WORDS_MAX];
	struct iovec iov = {words, sizeof(words) - 1};
	struct msghdr mh = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	ssize_t n = recvmsg(systemd.sock, &mh, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	struct cmsghdr *cmsg;
	int fd = -1;

	if (n < 0)
		return false;
	words[n] = '\0';
	cmsg = CMSG_FIRSTHDR(&mh);
	if (cmsg != NULL && cmsg->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
	hear(words, fd);
	return true;
}

static inline void *
run_systemd(void *arg)
{
	for (;;) {
		struct pollfd p[] = {{.fd = systemd.stop, .events = POLLIN},
				     {.fd = systemd.deaf ? -1 : systemd.sock, .events = POLLIN}};

		poll(p, 2, -1);
		if (p[1].revents != 0)
			while (hear_one())
				;
		if (p[0].revents != 0)
			return NULL;
	}
}

static inline void
start_systemd(void)
{
	systemd.stop = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(pthread_create(&systemd.thread, NULL, run_systemd, NULL), 0);
}

/* Hear what has been said, and stop: the store is the test's then. */
static inline void
stop_systemd(void)
{
	eventfd_write(systemd.stop, 1);
	pthread_join(systemd.thread, NULL);
	if (!systemd.deaf)
		while (hear_one())
			;
	close(systemd.stop);
}

static inline int
group_start(void **state)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};

	strcpy(systemd.dir, "/tmp/uvdpa-test.XXXXXX");
	if (mkdtemp(systemd.dir) == NULL)
		return -1;
	snprintf(systemd.path, sizeof(systemd.path), "%s/notify", systemd.dir);
	strcpy(un.sun_path, systemd.path);
	systemd.sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return bind(systemd.sock, (struct sockaddr *)&un, sizeof(un));
}

static inline int
group_end(void **state)
{
	unlink(systemd.path);
	return rmdir(systemd.dir);
}

static inline int
begin(void **state)
{
	systemd.max = STORE_MAX;
	systemd.broken = 0;
	systemd.deaf = false;
	return 0;
}

static inline int
end(void **state)
{
	while (systemd.n > 0)
		close(systemd.store[--systemd.n].fd);
	return systemd.broken == 0 ? 0 : -1;
}

/* In the child: the store at 3 and on, in reverse order, as systemd has it. */
static inline void
hand_over(void)
{
	char names[STORE_MAX * NAME_SIZE] = "", number[16];
	int high[STORE_MAX];

	for (unsigned int i = 0; i < systemd.n; i++)
		high[i] = fcntl(systemd.store[i].fd, F_DUPFD_CLOEXEC, 1000);
	for (unsigned int i = 0; i < systemd.n; i++) {
		unsigned int from = systemd.n - 1 - i;

		dup2(high[from], LISTEN_FDS + (int)i);
		if (i > 0)
			strcat(names, ":");
		strcat(names, systemd.store[from].name);
	}
	setenv("NOTIFY_SOCKET", systemd.path, 1);
	if (systemd.n == 0)
		return;
	snprintf(number, sizeof(number), "%u", systemd.n);
	setenv("LISTEN_FDS", number, 1);
	setenv("LISTEN_FDNAMES", names, 1);
	snprintf(number, sizeof(number), "%d", (int)getpid());
	setenv("LISTEN_PID", number, 1);
}

/* Have a daemon do what has this name, killed before its step `steps` (0: not). Its exit code, -1
 * when it was killed. */
static inline int
run_life(const char *what, unsigned int steps)
{
	char number[16];
	int status;
	pid_t pid;

	pid = fork();
	if (pid == 0) {
		hand_over();
		snprintf(number, sizeof(number), "%u", steps);
		execl("/proc/self/exe", "test_keep_systemd", what, number, NULL);
		_exit(99);
	}
	start_systemd();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	stop_systemd();
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return -1;
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

#endif /* FAKE_SYSTEMD_H */
