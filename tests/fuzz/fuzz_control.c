/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The control socket against requests that are spoiled at random: those of a life of devices in any
 * order, with bytes, words, numbers and structure changed, cut anywhere, on connections that end at
 * any point. After each connection the socket answers a good request in bounded time; at the end no
 * device, file descriptor or connection is left. The same seed sends the same requests.
 *
 * --uvdpad does the same to the socket of that protocol.
 *
 * --jobs N has N processes share the requests, each with a library and a socket of its own.
 */

#include <errno.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>
#include <rte_common.h>
#include <rte_log.h>

#include "vdpa.h"
#include "vdpa_control.h"
#include "vdpa_log.h"
#include "vdpa_uvdpad.h"

/* What a connection sends, at most. */
#define REQUESTS_MAX 40
#define LINE_MAX_LEN 70000
/* A good request, however bad those before it: this machine's load is not bounded. */
#define ANSWER_MS    60000
#define JOBS_MAX     64

struct outcome {
	uint64_t sent, connections, hung_up;
	uint64_t results, errors[8]; /* by kind: see count() */
};

static char folder[64], path[108];
static uint64_t rng;
static struct outcome out;

/* xorshift64*: the same everywhere. */
static uint64_t
next(void)
{
	rng ^= rng >> 12;
	rng ^= rng << 25;
	rng ^= rng >> 27;
	return rng * UINT64_C(2685821657736338717);
}

static uint32_t
below(uint32_t n)
{
	return (uint32_t)((next() >> 32) % n);
}

static int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void
die(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	fflush(stdout);
	abort();
}

/* Requests that may be right; %d: a small number. No path has a slash: all files are in here. */
static const char *const good[] = {
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"version\"}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"methods\"}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"mgmtdev.show\",\"params\":{\"name\":\"sim_"
	"net\"}}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"dev.list\",\"params\":{\"after\":\"n%d\","
	"\"limit\":%d}}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"dev.show\",\"params\":{\"name\":\"n%d\"}}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"dev.show\"}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"dev.config\",\"params\":{\"name\":\"n%d\"}}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"dev.stats\",\"params\":{\"name\":\"n%d\"}}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"dev.vstats\",\"params\":{\"name\":\"n%d\","
	"\"qidx\":%d}}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"dev.add\",\"params\":{\"words\":"
	"\"name n%d mgmtdev sim_net max_vqp %d backend loopback\"}}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"dev.add\",\"params\":{\"words\":"
	"\"name n%d mgmtdev sim_net mac 52:54:00:00:00:0%d mtu 1500 socket n.sock\"}}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"dev.add\",\"params\":{\"words\":"
	"\"name n%d mgmtdev sim_blk backend ram 1M queues %d\"}}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"dev.del\",\"params\":{\"name\":\"n%d\"}}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"dev.del\",\"params\":{\"name\":\"n%d\"}}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"dev.set\",\"params\":{\"name\":\"n%d\","
	"\"words\":"
	"\"link down\"}}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"dev.set\",\"params\":{\"name\":\"n%d\","
	"\"words\":"
	"\"resize %dM\"}}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"words.help\"}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"events.subscribe\",\"params\":{\"events\":"
	"[\"device.added\",\"device.removed\"]}}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"events.subscribe\"}",
	"{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"events.unsubscribe\"}",
	"{\"jsonrpc\":\"2.0\",\"method\":\"dev.del\",\"params\":{\"name\":\"n%d\"}}",
};

/* The same for uvdpad; @ is the folder. */
static const char *const good_uvdpad[] = {
	"{\"method\":\"version\",\"jsonrpc\":\"2.0\",\"id\":%d}",
	"{\"method\":\"list-interfaces\",\"jsonrpc\":\"2.0\",\"id\":%d}",
	"{\"method\":\"create-interface\",\"params\":{\"device-id\":\"s%2$d\",\"socket-path\":"
	"\"@u%2$d\",\"socket-mode\":\"server\"},\"jsonrpc\":\"2.0\",\"id\":%1$d}",
	"{\"method\":\"create-interface\",\"params\":{\"device-id\":\"s%2$d\",\"socket-path\":"
	"\"@u%3$d\",\"socket-mode\":\"client\"},\"jsonrpc\":\"2.0\",\"id\":%1$d}",
	"{\"method\":\"create-interface\",\"params\":{\"device-id\":\"ffff:%2$d:%3$d.0\","
	"\"socket-path\":\"@u\",\"socket-mode\":\"server\"},\"jsonrpc\":\"2.0\",\"id\":%1$d}",
	"{\"method\":\"destroy-interface\",\"params\":{\"device-id\":\"s%2$d\"},"
	"\"jsonrpc\":\"2.0\",\"id\":%1$d}",
};
static const char *const uvdpad_map[] = {"s0 mgmtdev sim_net backend loopback",
					 "s1 mgmtdev sim_blk backend ram 1M",
					 "s2 mgmtdev sim_net max_vqp 2", "s3 mgmtdev sim_net"};
static bool uvdpad;

/* What may stand in place of something else. */
static const char *const pieces[] = {
	"{",
	"}",
	"[",
	"]",
	",",
	":",
	"\"",
	"\\",
	"\\u0000",
	"\\ud800",
	"null",
	"true",
	"-1",
	"0",
	"1e999",
	"99999999999999999999",
	"\xff",
	"\xc3",
	"\n",
	"\r\n",
	" ",
	"\t",
	"\"jsonrpc\":\"2.0\"",
	"\"id\":{}",
	"\"params\":[]",
	"\"name\":7",
	"name",
	"mgmtdev",
	"sim_net",
	"sim_blk",
	"dev.show",
	"dev.add",
	"frontend",
	"vhost-user",
	"max_vqp",
	"65536",
	"[[[[[[[[[[[[[[[[",
	"{\"a\":{\"a\":",
	"n0",
	"n1",
	"\x01",
	"\x7f",
	"%s%n",
};

/* Put text in place of n bytes at a place. */
static size_t
replace(char *line, size_t len, size_t at, size_t n, const char *text, size_t text_len)
{
	if (len - n + text_len >= LINE_MAX_LEN)
		return len;
	memmove(line + at + text_len, line + at + n, len - at - n);
	memcpy(line + at, text, text_len);
	return len - n + text_len;
}

/* 0 to 3 changes. */
static size_t
spoil(char *line, size_t len)
{
	for (uint32_t i = below(4); i > 0 && len > 0; i--) {
		const char *piece = pieces[below(RTE_DIM(pieces))];
		size_t at = below((uint32_t)len), n = below(8);
		char c = (char)below(256);

		n = RTE_MIN(n, len - at);
		switch (below(9)) {
		case 0:
			line[at] = (char)(line[at] ^ 1 << below(8));
			break;
		case 1:
			len = replace(line, len, at, 0, &c, 1);
			break;
		case 2:
			len = replace(line, len, at, n, "", 0);
			break;
		case 3:
			len = at;
			break;
		case 4:
			len = replace(line, len, at, n, piece, strlen(piece));
			break;
		case 5:
			len = replace(line, len, at, 0, piece, strlen(piece));
			break;
		case 6:
			len = replace(line, len, at, 0, line, RTE_MIN(at, (size_t)64));
			break;
		case 7:
			if (below(50) == 0) {
				memset(line + len, ' ', LINE_MAX_LEN - len - 2);
				len = LINE_MAX_LEN - 2;
			}
			break;
		default:
			break;
		}
	}
	/* Nothing outside of this folder is made or opened. */
	for (size_t i = 0; i < len; i++)
		if (line[i] == '/')
			line[i] = '_';
	for (size_t i = 0; uvdpad && i < len; i++) {
		char here[sizeof(folder) + 1];

		snprintf(here, sizeof(here), "%s/", folder);
		if (line[i] == '@')
			len = replace(line, len, i, 1, here, strlen(here));
	}
	return len;
}

static const char *
good_request(void)
{
	return uvdpad ? good_uvdpad[below(RTE_DIM(good_uvdpad))] : good[below(RTE_DIM(good))];
}

static int
dial(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0)
		die("connect");
	return fd;
}

/* A reply of the socket's is JSON-RPC, whatever it was asked. Its id, -1: another one or none. */
static json_int_t
count(const char *line, size_t len)
{
	json_t *reply = json_loadb(line, len, 0, NULL), *id, *error;
	json_int_t code, number;

	if (!json_is_object(reply))
		die("a reply is no JSON object");
	id = json_object_get(reply, "id");
	error = json_object_get(reply, "error");
	code = json_integer_value(json_object_get(error, "code"));
	number = json_is_integer(id) ? json_integer_value(id) : -1;
	if (json_object_get(reply, "method") == NULL) {
		if ((json_object_get(reply, "result") != NULL) == (error != NULL))
			die("a reply is neither a result nor an error");
		out.results += error == NULL;
		out.errors[0] += code == -32700;
		out.errors[1] += code == -32600;
		out.errors[2] += code == -32601;
		out.errors[3] += code == -32602;
		out.errors[4] += code == -32002;
		out.errors[5] += code == -32003;
		out.errors[6] += code == -32006;
		out.errors[7] += code == -32603;
	}
	json_decref(reply);
	return number;
}

/* Read until a reply has this id; false: hung up. */
static bool
read_to(int fd, json_int_t id)
{
	static char buf[8u << 20];
	int64_t until_ms = now_ms() + ANSWER_MS;
	size_t len = 0;

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		char *newline;
		ssize_t n;

		if (now_ms() > until_ms || poll(&p, 1, ANSWER_MS) != 1)
			die("no answer");
		n = recv(fd, buf + len, sizeof(buf) - len, 0);
		if (n <= 0)
			return false;
		len += (size_t)n;
		while ((newline = memchr(buf, '\n', len)) != NULL) {
			size_t line = (size_t)(newline - buf);

			if (count(buf, line) == id)
				return true;
			len -= line + 1;
			memmove(buf, newline + 1, len);
		}
	}
}

/* One connection's requests, in pieces. */
static void
one_round(uint64_t round)
{
	static char line[LINE_MAX_LEN + 128];
	json_int_t last = (json_int_t)(1000000 + round);
	int fd = dial();
	bool open = true;

	out.connections++;
	for (uint32_t i = 1 + below(uvdpad ? 6 : REQUESTS_MAX); i > 0 && open; i--) {
		size_t len, sent = 0;

		len = (size_t)snprintf(line, sizeof(line), good_request(), (int)below(100),
				       (int)below(4), (int)below(9));
		len = spoil(line, len);
		line[len++] = '\n';
		while (sent < len && open) {
			size_t n = below(3) != 0 ? len - sent : 1 + below((uint32_t)(len - sent));
			ssize_t done = send(fd, line + sent, n, MSG_NOSIGNAL);

			open = done >= 0;
			sent += open ? (size_t)done : 0;
		}
		out.sent++;
	}
	/* One in ten ends without a word. */
	if (open && below(10) != 0) {
		int len = snprintf(line, sizeof(line),
				   "{\"jsonrpc\":\"2.0\",\"id\":%" JSON_INTEGER_FORMAT
				   ",\"method\":\"version\"}\n",
				   last);

		open = send(fd, line, (size_t)len, MSG_NOSIGNAL) == len;
		if (!open || !read_to(fd, last))
			out.hung_up++;
	}
	close(fd);
}

/* A good request on a connection of its own. */
static void
ask(const char *line, json_int_t id)
{
	int fd = dial();

	if (send(fd, line, strlen(line), MSG_NOSIGNAL) < 0 || !read_to(fd, id))
		die("a good request is not answered");
	close(fd);
}

static int
remove_one(const char *name, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(name);
}

/* Devices of any name are made; all go. */
static void
delete_all(void)
{
	char *text = vdpa_dev_show(NULL);
	json_t *all = json_loads(text, 0, NULL), *value;
	const char *name;

	free(text);
	json_object_foreach(all, name, value)
	{
		/* Another connection's job may be at it still. */
		while (vdpa_dev_del(name) == -EBUSY)
			usleep(1000);
	}
	json_decref(all);
}

/* Requests until all that are this process's are sent. */
static int
run(uint64_t seed, uint64_t todo)
{
	struct vdpa_control_params params = {.path = path, .rate = 10000000};

	rng = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	snprintf(folder, sizeof(folder), "/tmp/uvdpa-fuzz.XXXXXX");
	if (mkdtemp(folder) == NULL || chdir(folder) < 0)
		die(folder);
	snprintf(path, sizeof(path), "%s/control", folder);
	rte_log_set_level((uint32_t)vdpa_logtype, RTE_LOG_EMERG);
	/* An object that is not closed takes what follows it for its own, until it is slow. */
	if (uvdpad)
		params.request_ms = 2;
	if (vdpa_init(NULL) < 0 ||
	    (uvdpad ? vdpa_uvdpad_start(&params, uvdpad_map, RTE_DIM(uvdpad_map))
		    : vdpa_control_start(&params)) < 0)
		die(vdpa_error_message());
	for (uint64_t round = 0; out.sent < todo; round++) {
		one_round(round);
		if (round % 16 == 0) {
			ask(uvdpad ? "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":"
				     "\"list-interfaces\"}\n"
				   : "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"dev.list\"}\n",
			    7);
			delete_all();
		}
	}
	vdpa_control_stop();
	vdpa_uvdpad_stop();
	delete_all();
	vdpa_cleanup();
	if (chdir("/") < 0 || nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS) < 0)
		die(folder);
	printf("%" PRIu64 " requests on %" PRIu64 " connections, %" PRIu64 " hung up: %" PRIu64
	       " results; parse %" PRIu64 ", request %" PRIu64 ", method %" PRIu64
	       ", params %" PRIu64 ", no object %" PRIu64 ", exists %" PRIu64 ", words %" PRIu64
	       ", internal %" PRIu64 "\n",
	       out.sent, out.connections, out.hung_up, out.results, out.errors[0], out.errors[1],
	       out.errors[2], out.errors[3], out.errors[4], out.errors[5], out.errors[6],
	       out.errors[7]);
	/* A fuzz that hurt nothing, or was never let in, has tested nothing. */
	for (unsigned int i = 0; todo >= 5000 && i < 7; i++)
		if (out.errors[i] == 0 || out.results == 0 || out.hung_up == 0) {
			printf("not all of these happened\n");
			return 1;
		}
	return out.errors[7] != 0;
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {{"seed", required_argument, NULL, 's'},
						{"count", required_argument, NULL, 'c'},
						{"jobs", required_argument, NULL, 'j'},
						{"uvdpad", no_argument, NULL, 'u'},
						{NULL, 0, NULL, 0}};
	const char *more = getenv("UVDPA_TEST_LONG");
	uint64_t seed = 1, todo = 20000;
	unsigned int jobs = 1, failed = 0;
	int opt, status;

	if (more != NULL && more[0] != '\0' && strcmp(more, "0") != 0)
		todo = 1000000;
	while ((opt = getopt_long(argc, argv, "s:c:j:u", options, NULL)) != -1) {
		switch (opt) {
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			todo = strtoull(optarg, NULL, 0);
			break;
		case 'j':
			jobs = (unsigned int)strtoul(optarg, NULL, 0);
			break;
		case 'u':
			uvdpad = true;
			break;
		default:
			jobs = 0;
		}
	}
	if (jobs < 1 || jobs > JOBS_MAX) {
		fprintf(stderr,
			"usage: %s [--uvdpad] [--seed N] [--count REQUESTS] [--jobs 1..%d]\n",
			argv[0], JOBS_MAX);
		return 2;
	}
	printf("seed %" PRIu64 ", %" PRIu64 " requests\n", seed, todo);
	fflush(stdout);
	if (jobs == 1)
		return run(seed, todo);
	for (unsigned int i = 0; i < jobs; i++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		/* By exit(), so that a sanitizer looks for leaks. */
		if (pid == 0)
			exit(run(seed * JOBS_MAX + i, (todo + jobs - 1) / jobs));
	}
	for (unsigned int i = 0; i < jobs; i++)
		failed += wait(&status) < 0 || status != 0;
	return failed != 0;
}
