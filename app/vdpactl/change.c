/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The verbs that change devices. iproute2's words may be abbreviated as there; from the first word
 * on that it does not have, all goes to the daemon as it stands, whose grammar decides.
 */

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "vdpactl.h"

/* iproute2's words of `dev add`; each has a value. In an order that decides abbreviations and
 * complaints as there. */
static const struct word {
	const char *name;
	bool whole;	     /* no abbreviation */
	bool hex;	     /* its value is hexadecimal with and without 0x */
	const char *missing; /* what iproute2 says where it is missing; NULL: it may be */
} words[] = {
	{.name = "mgmtdev", .missing = "management device handle not set."},
	{.name = "name", .missing = "device name is not set."},
	{.name = "mac", .whole = true},
	{.name = "mtu", .whole = true},
	{.name = "max_vqp"},
	{.name = "device_features", .whole = true, .hex = true},
};

#define N_WORDS (sizeof(words) / sizeof(words[0]))

/* Words for the daemon, with blanks between them. */
struct text {
	char *buf;
	size_t len, size;
};

/* Whether it could be added; else a line on stderr. */
static bool
add_word(struct text *text, const char *word)
{
	bool quote = word[0] == '\0' || strpbrk(word, " \t\r\n\v\f") != NULL;
	size_t need = strlen(word) + sizeof("\"\" ");
	char *bigger;

	if (strchr(word, '"') != NULL) {
		fprintf(stderr, "'%s': a word cannot hold a quotation mark\n", word);
		return false;
	}
	if (text->len + need > text->size) {
		text->size = 2 * text->size + need;
		bigger = realloc(text->buf, text->size);
		if (bigger == NULL) {
			fprintf(stderr, "Out of memory\n");
			return false;
		}
		text->buf = bigger;
	}
	text->len += (size_t)sprintf(text->buf + text->len, "%s%s%s%s", text->len > 0 ? " " : "",
				     quote ? "\"" : "", word, quote ? "\"" : "");
	return true;
}

static const struct word *
find_word(const char *word)
{
	for (size_t i = 0; i < N_WORDS; i++)
		if (words[i].whole ? strcmp(word, words[i].name) == 0 : ctl_is(word, words[i].name))
			return &words[i];
	return NULL;
}

static bool
is_hex(const char *value)
{
	size_t len = strlen(value);

	for (size_t i = 0; i < len; i++)
		if (!isxdigit((unsigned char)value[i]))
			return false;
	return len > 0 && len <= 16;
}

static bool
add_value(struct text *text, const struct word *word, const char *value)
{
	char hex[20];

	if (!word->hex || !is_hex(value))
		return add_word(text, value);
	snprintf(hex, sizeof(hex), "0x%s", value);
	return add_word(text, hex);
}

/* The words of a command line; all that iproute2 has must be there where it has no others. */
static bool
add_words(struct text *text, int argc, char **argv)
{
	bool found[N_WORDS] = {false};
	int i;

	for (i = 0; i < argc; i += 2) {
		const struct word *word = find_word(argv[i]);

		if (word == NULL)
			break;
		if (i + 1 == argc) {
			fprintf(stderr, "%s: its value is missing\n", word->name);
			return false;
		}
		if (!add_word(text, word->name) || !add_value(text, word, argv[i + 1]))
			return false;
		found[word - words] = true;
	}
	for (size_t w = 0; w < N_WORDS && i >= argc; w++)
		if (!found[w] && words[w].missing != NULL) {
			fprintf(stderr, "%s\n", words[w].missing);
			return false;
		}
	for (; i < argc; i++)
		if (!add_word(text, argv[i]))
			return false;
	return true;
}

/* Carry out a method that has nothing to say; takes params. */
static int
change(struct ctl *ctl, const char *method, json_t *params)
{
	json_t *answer;

	if (params == NULL) {
		fprintf(stderr, "A word is no UTF-8 text\n");
		return EXIT_FAILURE;
	}
	answer = ctl_call(ctl, method, params);
	json_decref(answer);
	return answer != NULL ? 0 : EXIT_FAILURE;
}

/* The words that the daemon knows, its plugins' too. */
static int
print_words(struct ctl *ctl)
{
	json_t *answer = ctl_call(ctl, "words.help", NULL);
	const char *text = json_string_value(json_object_get(answer, "text"));

	if (answer == NULL)
		return EXIT_FAILURE;
	if (ctl->json)
		out_value(&ctl->out, NULL, answer);
	else
		print_safe_lines(stdout, text != NULL ? text : "");
	json_decref(answer);
	return 0;
}

static void
print_line(const char *line, size_t len)
{
	char *text = strndup(line, len);

	print_safe(stdout, text != NULL ? text : "?");
	fputc('\n', stdout);
	free(text);
}

/* Those parts of words.help that are of `dev set`, each below the line that says of what it is;
 * whether there are any. */
static bool
print_set_parts(const char *text)
{
	const char *head = NULL, *line, *next;
	size_t head_len = 0, len, indent;
	bool of_set = false, any = false;

	for (line = text; *line != '\0'; line = next) {
		len = strcspn(line, "\n");
		next = line + len + (line[len] == '\n');
		indent = strspn(line, " ");
		if (indent == 0) {
			head = line;
			head_len = len;
		}
		if (indent < 4) {
			of_set = indent > 0 && memmem(line, len, "(dev set):", 10) != NULL;
			if (of_set && head != NULL)
				print_line(head, head_len);
			any |= of_set;
		} else if (of_set) {
			print_line(line, len);
		}
	}
	return any;
}

/* The words of a change: the daemon's, or those that are known here. */
static int
print_set_words(struct ctl *ctl)
{
	bool json = ctl->json;
	json_t *answer = ctl_call(ctl, "words.help", NULL);
	const char *text = json_string_value(json_object_get(answer, "text"));

	if (json && answer != NULL)
		out_value(&ctl->out, NULL, answer);
	else if (!json && !print_set_parts(text != NULL ? text : ""))
		fputs("link up|down: network devices\nresize: block devices, whose file has "
		      "another size now\n",
		      stdout);
	json_decref(answer);
	return answer != NULL ? 0 : EXIT_FAILURE;
}

int
cmd_dev_add(struct ctl *ctl, int argc, char **argv)
{
	struct text text = {.buf = NULL};
	int status = EXIT_FAILURE;

	if (argc == 1 && strcmp(argv[0], "help") == 0)
		return print_words(ctl);
	if (add_words(&text, argc, argv))
		status = change(ctl, "dev.add", json_pack("{s:s}", "words", text.buf));
	free(text.buf);
	return status;
}

int
cmd_dev_del(struct ctl *ctl, int argc, char **argv)
{
	const char *name;

	if (ctl_one_name(argc, argv, &name) < 0)
		return EXIT_FAILURE;
	if (name == NULL) {
		fprintf(stderr, "String parameter expected\n");
		return EXIT_FAILURE;
	}
	return change(ctl, "dev.del", json_pack("{s:s}", "name", name));
}

/* "set name DEV mac ..." is how newer versions of iproute2 have it, "set DEV ..." is ours. */
int
cmd_dev_set(struct ctl *ctl, int argc, char **argv)
{
	struct text text = {.buf = NULL};
	int status = EXIT_FAILURE;
	bool named = argc > 0 && strcmp(argv[0], "name") == 0;
	int first = named ? 2 : 1;

	if (argc == 1 && strcmp(argv[0], "help") == 0)
		return print_set_words(ctl);
	if (argc <= first) {
		fprintf(stderr, "Usage: vdpactl dev set [ name ] DEV WORD [ VALUE ]...\n");
		return EXIT_FAILURE;
	}
	for (int i = first; i < argc; i++)
		if (!add_word(&text, argv[i]))
			goto out;
	status = change(ctl, "dev.set",
			json_pack("{s:s, s:s}", "name", argv[first - 1], "words", text.buf));
out:
	free(text.buf);
	return status;
}
