/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What the daemon reports. In a service of systemd's, stderr is the journal: there a line is an
 * entry of its own, in the journal's protocol, and DPDK's log is given a stream that makes entries
 * of its lines. Otherwise nothing is changed: DPDK writes to stderr itself.
 *
 * Owns that stream. What a line says is the same in both forms.
 */

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <rte_log.h>

#include <vdpa.h>
#include <vdpa_log.h>

#include "log.h"
#include "program.h"

#ifdef APP_SYSTEMD

/* The place is the line's own, not that of the call that sends it. */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#define JOURNAL_SOCKET "/run/systemd/journal/socket"
#define LINE_MAX_BYTES 8192
#define FIELDS_MAX     8

static FILE *stream; /* DPDK's; NULL: text */

/* Where a line comes from and what it is about. */
struct entry {
	const char *file, *func;
	unsigned int line;
	int level;
	const char *device; /* NULL: none */
	size_t device_len;
	const char *queue; /* digits; NULL: none */
	size_t queue_len;
};

struct fields {
	struct iovec iov[FIELDS_MAX];
	char text[FIELDS_MAX][160];
	int n;
};

static void __attribute__((format(printf, 2, 3))) add_field(struct fields *f, const char *fmt, ...)
{
	char *text = f->text[f->n];
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(text, sizeof(f->text[0]), fmt, ap);
	va_end(ap);
	if (len >= (int)sizeof(f->text[0]))
		len = sizeof(f->text[0]) - 1;
	f->iov[f->n++] = (struct iovec){.iov_base = text, .iov_len = (size_t)len};
}

/* What the journal does not take as an entry, it is given as text, with the level in front. */
static void
send_entry(const struct entry *e, const char *text, size_t len)
{
	char message[sizeof("MESSAGE=") + LINE_MAX_BYTES];
	struct fields f = {.n = 0};
	int n;

	n = snprintf(message, sizeof(message), "MESSAGE=%.*s", (int)len, text);
	if (n >= (int)sizeof(message))
		n = sizeof(message) - 1;
	f.iov[f.n++] = (struct iovec){.iov_base = message, .iov_len = (size_t)n};
	add_field(&f, "PRIORITY=%d", e->level);
	add_field(&f, "SYSLOG_IDENTIFIER=%s", app_program.name);
	if (e->device != NULL)
		add_field(&f, "UVDPA_DEVICE=%.*s", (int)e->device_len, e->device);
	if (e->queue != NULL)
		add_field(&f, "UVDPA_QUEUE=%.*s", (int)e->queue_len, e->queue);
	if (e->file != NULL) {
		add_field(&f, "CODE_FILE=%s", e->file);
		add_field(&f, "CODE_LINE=%u", e->line);
		add_field(&f, "CODE_FUNC=%s", e->func);
	}
	if (sd_journal_sendv(f.iov, f.n) < 0)
		dprintf(STDERR_FILENO, "<%d>%.*s\n", e->level, (int)len, text);
}

/* The compiler is started in the build folder. */
static const char *
source_path(const char *file)
{
	while (strncmp(file, "../", 3) == 0)
		file += 3;
	return file;
}

/* "NAME: queue 3: ...", where there is a device of that name. */
static void
find_device(struct entry *e, const char *text, size_t len)
{
	static const char queue[] = "queue ";
	const char *end = memmem(text, len, ": ", 2), *next;
	char name[VDPA_NAME_MAX];
	size_t n;

	if (end == NULL || end - text >= (ptrdiff_t)sizeof(name))
		return;
	snprintf(name, sizeof(name), "%.*s", (int)(end - text), text);
	if (!vdpa_dev_exists(name))
		return;
	e->device = text;
	e->device_len = (size_t)(end - text);
	next = end + 2;
	if ((size_t)(text + len - next) <= sizeof(queue) - 1 ||
	    memcmp(next, queue, sizeof(queue) - 1) != 0)
		return;
	next += sizeof(queue) - 1;
	for (n = 0; next + n < text + len && next[n] >= '0' && next[n] <= '9'; n++)
		;
	if (n > 0 && next + n < text + len && next[n] == ':') {
		e->queue = next;
		e->queue_len = n;
	}
}

/* A line of DPDK's log, on the thread that writes it. */
static void
send_line(const char *text, size_t len)
{
	static const char prefix[] = "vdpa: "; /* of the library's lines: the identifier says it */
	const struct vdpa_log_place *place = vdpa_log_place();
	/* RTE_LOG_EMERG is 1, LOG_EMERG 0. */
	struct entry e = {.level = rte_log_cur_msg_loglevel() - 1};

	if (len == 0)
		return;
	if (e.level < LOG_EMERG || e.level > LOG_DEBUG)
		e.level = LOG_INFO;
	if (place != NULL) {
		e.file = source_path(place->file);
		e.line = place->line;
		e.func = place->func;
	}
	if (len > sizeof(prefix) - 1 && memcmp(text, prefix, sizeof(prefix) - 1) == 0) {
		text += sizeof(prefix) - 1;
		len -= sizeof(prefix) - 1;
	}
	find_device(&e, text, len);
	send_entry(&e, text, len);
}

/* The stream's lock is held, and the stream is written line by line: what comes is of one thread. A
 * line that is longer than the stream's buffer comes in parts. */
static ssize_t
write_lines(void *cookie, const char *buf, size_t size)
{
	const char *pos = buf, *end = buf + size, *newline;

	while (pos < end) {
		newline = memchr(pos, '\n', (size_t)(end - pos));
		if (newline == NULL)
			newline = end;
		send_line(pos, (size_t)(newline - pos));
		pos = newline + 1;
	}
	return (ssize_t)size;
}

/* systemd says which socket it has connected us to, since a descriptor may have been redirected
 * since. */
static bool
is_journal(int fd)
{
	const char *known = getenv("JOURNAL_STREAM");
	char own[64];
	struct stat st;

	if (known == NULL || fstat(fd, &st) < 0)
		return false;
	snprintf(own, sizeof(own), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
	return strcmp(known, own) == 0;
}

void
app_log_init(void)
{
	static const cookie_io_functions_t functions = {.write = write_lines};

	/* Where a sandbox hides its socket, the stream is all there is. */
	if (!is_journal(STDERR_FILENO) || access(JOURNAL_SOCKET, W_OK) < 0)
		return;
	stream = fopencookie(NULL, "w", functions);
	if (stream == NULL)
		return;
	setvbuf(stream, NULL, _IOLBF, LINE_MAX_BYTES);
	/* EAL takes syslog and stderr else, and the journal would have each line twice. */
	if (rte_openlog_stream(stream) < 0) {
		fclose(stream);
		stream = NULL;
	}
}

void
app_log_fini(void)
{
	if (stream == NULL)
		return;
	rte_openlog_stream(NULL);
	fclose(stream);
	stream = NULL;
}

static bool
send_own(const char *file, unsigned int line, const char *func, int level, const char *device,
	 const char *text)
{
	const struct entry e = {
		.file = source_path(file),
		.line = line,
		.func = func,
		.level = level,
		.device = device,
		.device_len = device != NULL ? strlen(device) : 0,
	};

	if (stream == NULL)
		return false;
	send_entry(&e, text, strlen(text));
	return true;
}

#else

void
app_log_init(void)
{
}

void
app_log_fini(void)
{
}

static bool
send_own(const char *file, unsigned int line, const char *func, int level, const char *device,
	 const char *text)
{
	return false;
}

#endif

void
app_log_at(const char *file, unsigned int line, const char *func, int level, const char *device,
	   const char *fmt, ...)
{
	char *text;
	va_list ap;
	int rc;

	va_start(ap, fmt);
	rc = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (rc < 0)
		return;
	if (!send_own(file, line, func, level, device, text)) {
		if (level <= LOG_WARNING)
			fprintf(stderr, "%s: %s\n", app_program.name, text);
		else
			printf("%s\n", text);
	}
	free(text);
}
