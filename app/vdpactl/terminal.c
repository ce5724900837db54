/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The terminal of `top`. Signals are blocked but while terminal_key() waits, so none comes between
 * a look at the flags and the wait.
 */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "terminal.h"

/* Another screen, no cursor, no wrapping at the margin; and back. */
#define ENTER "\033[?1049h\033[?25l\033[?7l\033[H\033[2J"
#define LEAVE "\033[?7h\033[?25h\033[?1049l"

static struct termios saved;
static bool taken;
static sigset_t outside; /* signals that were blocked before */
static volatile sig_atomic_t ending, stopping, resized;

static void
on_signal(int signum)
{
	if (signum == SIGWINCH)
		resized = 1;
	else if (signum == SIGTSTP)
		stopping = 1;
	else if (signum != SIGCONT)
		ending = 1;
}

static void
put(const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = write(STDOUT_FILENO, text, len);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd pfd = {.fd = STDOUT_FILENO, .events = POLLOUT};

			poll(&pfd, 1, 1000);
		} else if (n < 0 && errno != EINTR) {
			ending = 1;
			return;
		}
		if (n > 0) {
			text += n;
			len -= (size_t)n;
		}
	}
}

static int
take(void)
{
	struct termios raw = saved;

	/* Signals of keys stay. */
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	raw.c_cc[VMIN] = 0;
	raw.c_cc[VTIME] = 0;
	if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) < 0)
		return -1;
	put(ENTER, sizeof(ENTER) - 1);
	taken = true;
	return 0;
}

void
terminal_close(void)
{
	if (!taken)
		return;
	put(LEAVE, sizeof(LEAVE) - 1);
	tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
	taken = false;
}

int
terminal_open(void)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH};
	struct sigaction action = {.sa_handler = on_signal};
	sigset_t block;

	sigemptyset(&block);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		sigaddset(&block, signals[i]);
		sigaction(signals[i], &action, NULL);
	}
	sigprocmask(SIG_BLOCK, &block, &outside);
	if (tcgetattr(STDIN_FILENO, &saved) < 0 || take() < 0) {
		fprintf(stderr, "vdpactl: the terminal cannot be set: %s\n", strerror(errno));
		return -1;
	}
	atexit(terminal_close);
	return 0;
}

/* As the shell's user expects of ^Z: the terminal is as it was while we stand still. */
static void
stop(void)
{
	stopping = 0;
	terminal_close();
	raise(SIGSTOP);
	take();
	resized = 1;
}

void
terminal_size(int *columns, int *lines)
{
	struct winsize size;

	*columns = 80;
	*lines = 24;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0)
		return;
	if (size.ws_col > 0)
		*columns = size.ws_col;
	if (size.ws_row > 0)
		*lines = size.ws_row;
}

void
terminal_show(const char *page, size_t len)
{
	char *text = NULL;
	size_t size = 0;
	FILE *file = open_memstream(&text, &size);

	if (file == NULL)
		return;
	fputs("\033[H", file);
	for (size_t i = 0; i < len; i++)
		if (page[i] == '\n')
			fputs("\033[K\r\n", file);
		else
			fputc(page[i], file);
	fputs("\033[K\033[J", file);
	if (fclose(file) == 0)
		put(text, size);
	free(text);
}

/* Up to size bytes that are there. */
static ssize_t
get(char *buf, size_t size)
{
	ssize_t n;

	do
		n = read(STDIN_FILENO, buf, size);
	while (n < 0 && errno == EINTR);
	return n;
}

static int
sequence_key(const char *text, size_t len)
{
	static const struct {
		const char *text;
		int key;
	} sequences[] = {
		{"[A", KEY_UP},		{"OA", KEY_UP},	    {"[B", KEY_DOWN},	{"OB", KEY_DOWN},
		{"[5~", KEY_PAGE_UP},	{"[H", KEY_HOME},   {"OH", KEY_HOME},	{"[1~", KEY_HOME},
		{"[6~", KEY_PAGE_DOWN}, {"[F", KEY_BOTTOM}, {"OF", KEY_BOTTOM}, {"[4~", KEY_BOTTOM},
	};

	for (size_t i = 0; i < sizeof(sequences) / sizeof(sequences[0]); i++)
		if (strlen(sequences[i].text) == len && memcmp(sequences[i].text, text, len) == 0)
			return sequences[i].key;
	return KEY_OTHER;
}

/* One key; what a terminal sends of one key comes at once. */
static int
read_key(void)
{
	char c, rest[8];
	size_t n = 0;
	ssize_t got = get(&c, 1);

	if (got <= 0)
		return got == 0 || errno != EAGAIN ? KEY_END : KEY_NONE;
	if (c != '\033')
		return (unsigned char)c;
	/* Up to the letter or '~' that ends it. */
	while (n < sizeof(rest) && get(&rest[n], 1) == 1) {
		n++;
		if (n > 1 && ((rest[n - 1] >= '@' && rest[n - 1] <= '~')))
			break;
	}
	return sequence_key(rest, n);
}

int
terminal_key(int timeout_ms)
{
	struct pollfd pfd = {.fd = STDIN_FILENO, .events = POLLIN};
	struct timespec t = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
	int n;

	for (;;) {
		if (ending)
			return KEY_END;
		if (stopping)
			stop();
		if (resized) {
			resized = 0;
			return KEY_NONE;
		}
		n = ppoll(&pfd, 1, &t, &outside);
		if (n == 0)
			return KEY_NONE;
		if (n > 0)
			return read_key();
		if (errno != EINTR)
			return KEY_END;
	}
}
