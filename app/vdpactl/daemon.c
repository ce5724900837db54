/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The verbs about the daemon itself: its configuration, its version, and its methods as they are.
 */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vdpactl.h"
#include "write_file.h"

/* What each step of an upgrade may take unless --timeout says otherwise. */
#define UPGRADE_SECONDS	  30u
/* Seconds that the new program may have for its answer to a check: daemon.upgrade_check's. */
#define CHECK_SECONDS_MAX 60u
/* JSON-RPC's code for a method that there is not. */
#define UNKNOWN_METHOD	  (-32601)

static int
no_words(int argc, char **argv)
{
	if (argc == 0)
		return 0;
	fprintf(stderr, "Unknown option \"%s\"\n", argv[0]);
	return -1;
}

/* With -j the answer as it is; takes it. */
static int
print_answer(struct ctl *ctl, json_t *answer)
{
	out_value(&ctl->out, NULL, answer);
	json_decref(answer);
	return 0;
}

static void
print_names(const char *what, const json_t *names)
{
	const json_t *name;
	size_t i;

	if (json_array_size(names) == 0)
		return;
	printf("%s:", what);
	json_array_foreach(names, i, name)
	{
		fputc(' ', stdout);
		print_value(stdout, name);
	}
	fputc('\n', stdout);
}

/* Devices of the file that could not be made or changed, on stderr; whether there are any. */
static bool
print_failed(const json_t *failed)
{
	const json_t *device;
	size_t i;

	json_array_foreach(failed, i, device)
	{
		const char *name = json_string_value(json_object_get(device, "name"));
		const char *error = json_string_value(json_object_get(device, "error"));

		fputs("uvdpa answers: ", stderr);
		print_safe(stderr, name != NULL ? name : "?");
		fputs(": ", stderr);
		print_safe(stderr, error != NULL ? error : "failed");
		fputc('\n', stderr);
	}
	return json_array_size(failed) > 0;
}

int
cmd_shutdown(struct ctl *ctl, int argc, char **argv)
{
	json_t *answer;

	if (no_words(argc, argv) < 0)
		return EXIT_FAILURE;
	answer = ctl_call(ctl, "daemon.shutdown", NULL);
	json_decref(answer);
	return answer != NULL ? 0 : EXIT_FAILURE;
}

/* The path of a program, from the root; *path is to be freed. */
static int
program_path(const char *given, char **path)
{
	char *folder = given[0] == '/' ? NULL : getcwd(NULL, 0);
	int len = -1;

	*path = NULL;
	if (given[0] == '/' || folder != NULL)
		len = asprintf(path, "%s%s%s", folder != NULL ? folder : "",
			       folder != NULL ? "/" : "", given);
	free(folder);
	if (len >= 0)
		return 0;
	*path = NULL;
	fprintf(stderr, "vdpactl: %s: no path of it\n", given);
	return -1;
}

/* What went over, what starts anew, and what is lost. */
static void
print_upgrade(const json_t *answer)
{
	json_int_t n = json_integer_value(json_object_get(answer, "devices"));

	printf("%" JSON_INTEGER_FORMAT " device%s went over to process %" JSON_INTEGER_FORMAT
	       ", version ",
	       n, n == 1 ? "" : "s", json_integer_value(json_object_get(answer, "pid")));
	print_value(stdout, json_object_get(answer, "version"));
	printf(", and stood still for %" JSON_INTEGER_FORMAT " ms\n",
	       json_integer_value(json_object_get(answer, "gap_ms")));
	print_names("start anew (the log says whether they did)", json_object_get(answer, "anew"));
	print_names("lost, as no configuration has them", json_object_get(answer, "lost"));
}

static bool
all_go_on(const json_t *answer)
{
	const json_t *device;
	size_t i;

	json_array_foreach(
		json_object_get(answer, "devices"), i,
		device) if (!json_is_true(json_object_get(device, "goes_on"))) return false;
	return true;
}

/* One line where all devices go on, else a table of them. */
static void
print_check(const json_t *answer)
{
	const json_t *devices = json_object_get(answer, "devices"), *device;
	size_t n = json_array_size(devices), i;

	if (all_go_on(answer)) {
		printf("%s%zu device%s on, in version ", n > 1 ? "all " : "", n,
		       n == 1 ? " goes" : "s go");
		print_value(stdout, json_object_get(answer, "version"));
		fputs(" of ", stdout);
		print_value(stdout, json_object_get(answer, "program"));
		fputc('\n', stdout);
		return;
	}
	json_array_foreach(devices, i, device)
	{
		const char *name = json_string_value(json_object_get(device, "name"));
		const char *why = json_string_value(json_object_get(device, "why"));
		bool goes_on = json_is_true(json_object_get(device, "goes_on"));

		print_padded(stdout, name != NULL ? name : "?", -20);
		fputs(goes_on					      ? " goes on"
		      : json_is_true(json_object_get(device, "lost")) ? " lost         "
								      : " starts anew  ",
		      stdout);
		if (!goes_on)
			print_safe(stdout, why != NULL ? why : "");
		fputc('\n', stdout);
	}
}

int
cmd_upgrade(struct ctl *ctl, int argc, char **argv)
{
	unsigned int timeout = ctl->timeout != 0 ? ctl->timeout : UPGRADE_SECONDS;
	struct client_error err;
	json_t *params, *answer;
	const char *program;
	char *path = NULL;
	int status;

	if (ctl->check && timeout > CHECK_SECONDS_MAX) {
		fprintf(stderr, "--timeout '%u': not seconds from 1 to %u, as --check has it\n",
			timeout, CHECK_SECONDS_MAX);
		return EXIT_FAILURE;
	}
	if (ctl_one_name(argc, argv, &program) < 0 || ctl_connect(ctl) < 0)
		return EXIT_FAILURE;
	if (program != NULL && program_path(program, &path) < 0)
		return EXIT_FAILURE;
	params = json_pack("{s:i}", "timeout_s", (int)timeout);
	if (!ctl->check)
		json_object_set_new(params, "force", json_boolean(ctl->force));
	if (path != NULL)
		json_object_set_new(params, "program", json_string(path));
	free(path);
	/* Each of both steps has so long, and the way back may take a while. */
	client_set_timeout(ctl->client, 2 * timeout + CLIENT_CALL_SECONDS);
	answer = client_call(ctl->client, ctl->check ? "daemon.upgrade_check" : "daemon.upgrade",
			     params, &err);
	if (answer == NULL && err.code == UNKNOWN_METHOD) {
		fprintf(stderr, "uvdpa answers: this daemon is of a version that cannot %s\n",
			ctl->check ? "say what goes on in an upgrade"
				   : "hand its devices over: start the new one anew");
		return EXIT_FAILURE;
	}
	if (answer == NULL) {
		ctl_print_error(&err);
		return EXIT_FAILURE;
	}
	status = ctl->check && !all_go_on(answer) ? EXIT_FAILURE : 0;
	if (ctl->json) {
		print_answer(ctl, answer);
		return status;
	}
	if (ctl->check)
		print_check(answer);
	else
		print_upgrade(answer);
	json_decref(answer);
	return status;
}

int
cmd_reload(struct ctl *ctl, int argc, char **argv)
{
	json_t *answer;
	bool failed;

	if (no_words(argc, argv) < 0)
		return EXIT_FAILURE;
	answer = ctl_call(ctl, "config.reload", NULL);
	if (answer == NULL)
		return EXIT_FAILURE;
	failed = print_failed(json_object_get(answer, "failed"));
	if (ctl->json) {
		print_answer(ctl, answer);
		return failed ? EXIT_FAILURE : 0;
	}
	print_names("added", json_object_get(answer, "added"));
	print_names("removed", json_object_get(answer, "removed"));
	print_names("changed", json_object_get(answer, "changed"));
	printf("unchanged: %" JSON_INTEGER_FORMAT "\n",
	       json_integer_value(json_object_get(answer, "kept")));
	print_names("from the next start on", json_object_get(answer, "next_start"));
	json_decref(answer);
	return failed ? EXIT_FAILURE : 0;
}

int
cmd_save(struct ctl *ctl, int argc, char **argv)
{
	const char *path, *text;
	json_t *answer;
	int status = 0;

	if (ctl_one_name(argc, argv, &path) < 0)
		return EXIT_FAILURE;
	answer = ctl_call(ctl, "config.save", NULL);
	if (answer == NULL)
		return EXIT_FAILURE;
	text = json_string_value(json_object_get(answer, "text"));
	if (text == NULL) {
		fprintf(stderr, "vdpactl: the daemon's answer has no text\n");
		status = EXIT_FAILURE;
	} else if (path != NULL) {
		status = write_file(path, text, strlen(text)) < 0 ? EXIT_FAILURE : 0;
	} else if (ctl->json) {
		out_value(&ctl->out, NULL, answer);
	} else {
		print_safe_lines(stdout, text);
	}
	json_decref(answer);
	return status;
}

int
cmd_version(struct ctl *ctl, int argc, char **argv)
{
	json_t *answer;

	if (no_words(argc, argv) < 0)
		return EXIT_FAILURE;
	answer = ctl_call(ctl, "version", NULL);
	if (answer == NULL)
		return EXIT_FAILURE;
	if (ctl->json)
		return print_answer(ctl, answer);
	printf("vdpactl %s\n", APP_VERSION);
	print_value(stdout, json_object_get(answer, "program"));
	fputc(' ', stdout);
	print_value(stdout, json_object_get(answer, "version"));
	json_object_del(answer, "program");
	json_object_del(answer, "version");

	const char *key;
	json_t *value;

	json_object_foreach(answer, key, value)
	{
		fputs(", ", stdout);
		print_safe(stdout, key);
		fputc(' ', stdout);
		print_value(stdout, value);
	}
	fputc('\n', stdout);
	json_decref(answer);
	return 0;
}

int
cmd_methods(struct ctl *ctl, int argc, char **argv)
{
	json_t *answer, *method;
	size_t i;

	if (no_words(argc, argv) < 0)
		return EXIT_FAILURE;
	answer = ctl_call(ctl, "methods", NULL);
	if (answer == NULL)
		return EXIT_FAILURE;
	if (ctl->json)
		return print_answer(ctl, answer);
	json_array_foreach(json_object_get(answer, "methods"), i, method)
	{
		const char *name = json_string_value(json_object_get(method, "name"));
		const char *help = json_string_value(json_object_get(method, "help"));

		print_padded(stdout, name != NULL ? name : "?", -20);
		fputs(json_is_true(json_object_get(method, "changes")) ? " changes  "
								       : " reads    ",
		      stdout);
		print_safe(stdout, help != NULL ? help : "");
		fputc('\n', stdout);
	}
	json_decref(answer);
	return 0;
}

/* Its answer is JSON, with and without -j. */
int
cmd_call(struct ctl *ctl, int argc, char **argv)
{
	json_t *params = NULL, *answer;
	json_error_t where;

	if (argc < 1 || argc > 2) {
		fprintf(stderr, "Usage: vdpactl call METHOD [ PARAMS ]\n");
		return EXIT_FAILURE;
	}
	if (argc == 2) {
		params = json_loads(argv[1], 0, &where);
		if (!json_is_object(params)) {
			fprintf(stderr, "PARAMS is no JSON object%s%s\n",
				params == NULL ? ": " : "", params == NULL ? where.text : "");
			json_decref(params);
			return EXIT_FAILURE;
		}
	}
	answer = ctl_call(ctl, argv[0], params);
	if (answer == NULL)
		return EXIT_FAILURE;
	print_answer(ctl, answer);
	if (!ctl->json)
		fputc('\n', stdout);
	return 0;
}
