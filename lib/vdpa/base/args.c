/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The grammar of management: splits text into words, checks them against parameter tables, prints
 * the tables. Owns no state.
 */

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args_priv.h"

#define STRING_MAX_DEFAULT 4095

int
vdpa_words_split(const char *text, struct vdpa_words *words)
{
	const char *in = text;
	char *out;
	int rc;

	memset(words, 0, sizeof(*words));
	words->text = malloc(strlen(text) + 1);
	if (words->text == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	out = words->text;

	for (;;) {
		bool quoted = false;

		while (isspace((unsigned char)*in))
			in++;
		if (*in == '\0')
			return 0;
		if (words->n == VDPA_WORDS_MAX) {
			rc = vdpa_error(EINVAL, "more than %u words", VDPA_WORDS_MAX);
			goto err;
		}
		words->word[words->n++] = out;
		while (*in != '\0' && (quoted || !isspace((unsigned char)*in))) {
			if (iscntrl((unsigned char)*in)) {
				rc = vdpa_error(EINVAL, "a word has the control character 0x%02x",
						(unsigned char)*in);
				goto err;
			}
			if (*in == '"')
				quoted = !quoted;
			else
				*out++ = *in;
			in++;
		}
		if (quoted) {
			rc = vdpa_error(EINVAL, "a quotation mark is not closed");
			goto err;
		}
		if (*in != '\0')
			in++;
		*out++ = '\0';
	}
err:
	vdpa_words_free(words);
	return rc;
}

void
vdpa_words_free(struct vdpa_words *words)
{
	free(words->text);
	memset(words, 0, sizeof(*words));
}

static int
parse_uint(const char *str, bool suffixes, uint64_t *value)
{
	static const char units[] = "KMGT";
	unsigned long long v;
	const char *unit;
	char *end;

	if (!isdigit((unsigned char)*str))
		return -EINVAL;
	errno = 0;
	v = strtoull(str, &end, strncmp(str, "0x", 2) == 0 ? 16 : 10);
	if (errno != 0)
		return -ERANGE;
	if (suffixes && *end != '\0') {
		unit = strchr(units, toupper((unsigned char)*end));
		if (unit == NULL || end[1] != '\0')
			return -EINVAL;
		unsigned int shift = 10 * (unsigned int)(unit - units + 1);

		if (v > UINT64_MAX >> shift)
			return -ERANGE;
		v <<= shift;
		end++;
	}
	if (*end != '\0')
		return -EINVAL;
	*value = v;
	return 0;
}

static int
parse_mac(const char *str, uint8_t mac[6])
{
	unsigned int any = 0;

	for (unsigned int i = 0; i < 6; i++) {
		if (!isxdigit((unsigned char)str[0]) || !isxdigit((unsigned char)str[1]))
			return -EINVAL;
		mac[i] = (uint8_t)strtoul((const char[]){str[0], str[1], '\0'}, NULL, 16);
		any |= mac[i];
		if (str[2] != (i == 5 ? '\0' : ':'))
			return -EINVAL;
		str += 3;
	}
	return any == 0 || (mac[0] & 1) != 0 ? -EINVAL : 0;
}

/* Parse one value for `word` into arg; the message says what is allowed. */
static int
parse_value(const char *word, enum vdpa_param_type type, uint64_t min, uint64_t max,
	    const char *str, struct vdpa_arg *arg)
{
	size_t len;
	char *end;
	int rc;

	arg->str = str;
	switch (type) {
	case VDPA_PARAM_STRING:
		len = strlen(str);
		if (max == 0)
			max = STRING_MAX_DEFAULT;
		if (len < (min == 0 ? 1 : min) || len > max)
			return vdpa_error(EINVAL,
					  "%s '%s': %zu characters, allowed are %llu to %llu", word,
					  str, len, (unsigned long long)(min == 0 ? 1 : min),
					  (unsigned long long)max);
		return 0;
	case VDPA_PARAM_UINT:
	case VDPA_PARAM_SIZE:
		rc = parse_uint(str, type == VDPA_PARAM_SIZE, &arg->u64);
		if (rc == 0 && (arg->u64 < min || arg->u64 > max))
			rc = -ERANGE;
		if (rc == 0)
			return 0;
		if (type == VDPA_PARAM_SIZE)
			return vdpa_error(EINVAL,
					  "%s '%s': not a size from %llu to %llu bytes "
					  "(a number, K, M, G or T may follow)",
					  word, str, (unsigned long long)min,
					  (unsigned long long)max);
		if (max >= UINT32_MAX)
			return vdpa_error(EINVAL, "%s '%s': not a number from %llu to 0x%llx", word,
					  str, (unsigned long long)min, (unsigned long long)max);
		return vdpa_error(EINVAL, "%s '%s': not a number from %llu to %llu", word, str,
				  (unsigned long long)min, (unsigned long long)max);
	case VDPA_PARAM_MODE:
		arg->u64 = isdigit((unsigned char)*str) ? strtoull(str, &end, 8) : UINT64_MAX;
		if (arg->u64 > 0777 || *end != '\0')
			return vdpa_error(EINVAL, "%s '%s': not octal permissions from 0 to 0777",
					  word, str);
		return 0;
	case VDPA_PARAM_MAC:
		if (parse_mac(str, arg->mac) < 0)
			return vdpa_error(
				EINVAL, "%s '%s': not a unicast address such as 52:54:00:00:00:01",
				word, str);
		return 0;
	case VDPA_PARAM_FLAG:
	case VDPA_PARAM_CHOICE:
		break;
	}
	return vdpa_error(EINVAL, "%s: the parameter table is wrong", word);
}

static void
list_choices(const struct vdpa_param *param, char *buf, size_t len)
{
	size_t used = 0;

	buf[0] = '\0';
	for (const struct vdpa_param_choice *c = param->choices; c->name != NULL && used < len; c++)
		used += (size_t)snprintf(buf + used, len - used, "%s%s%s%s", used ? ", " : "",
					 c->name, c->metavar ? " " : "",
					 c->metavar ? c->metavar : "");
}

static const struct vdpa_param *
find_param(const struct vdpa_param_table *tables, unsigned int n, const char *word,
	   unsigned int *table)
{
	for (unsigned int t = 0; t < n; t++)
		for (const struct vdpa_param *p = tables[t].params; p != NULL && p->name != NULL;
		     p++)
			if (strcmp(p->name, word) == 0) {
				*table = t;
				return p;
			}
	return NULL;
}

/* A word of several tables once, as it is found. */
static void
list_words(const struct vdpa_param_table *tables, unsigned int n, char *buf, size_t len)
{
	unsigned int first;
	size_t used = 0;

	buf[0] = '\0';
	for (unsigned int t = 0; t < n; t++)
		for (const struct vdpa_param *p = tables[t].params; p && p->name && used < len; p++)
			if (find_param(tables, n, p->name, &first) == p)
				used += (size_t)snprintf(buf + used, len - used, "%s%s",
							 used ? ", " : "", p->name);
}

/* Parse a CHOICE: its name, and its own value where it has one. Returns the words used. */
static int
parse_choice(const struct vdpa_param *param, const struct vdpa_words *words, unsigned int i,
	     struct vdpa_arg *arg)
{
	const struct vdpa_param_choice *c;
	char allowed[256], what[128];
	int rc;

	for (c = param->choices; c->name != NULL; c++)
		if (strcmp(c->name, words->word[i]) == 0)
			break;
	if (c->name == NULL) {
		list_choices(param, allowed, sizeof(allowed));
		return vdpa_error(EINVAL, "%s '%s': allowed are %s", param->name, words->word[i],
				  allowed);
	}
	arg->choice = c;
	if (c->metavar == NULL)
		return 1;
	snprintf(what, sizeof(what), "%s %s", param->name, c->name);
	if (i + 1 >= words->n)
		return vdpa_error(EINVAL, "%s: %s is missing", what, c->metavar);
	rc = parse_value(what, c->type, c->min, c->max, words->word[i + 1], arg);
	return rc < 0 ? rc : 2;
}

int
vdpa_args_parse(const struct vdpa_words *words, unsigned int first,
		const struct vdpa_param_table *tables, unsigned int ntables, struct vdpa_args *args)
{
	char allowed[512];

	args->n = 0;
	for (unsigned int i = first; i < words->n;) {
		const char *word = words->word[i++];
		const struct vdpa_param *param;
		struct vdpa_arg *arg;
		unsigned int t;
		int rc;

		param = find_param(tables, ntables, word, &t);
		if (param == NULL) {
			list_words(tables, ntables, allowed, sizeof(allowed));
			return vdpa_error(EINVAL, "unknown word '%s': allowed are %s", word,
					  allowed);
		}
		if (vdpa_args_has(args, word))
			return vdpa_error(EINVAL, "%s is given twice", word);
		if (args->n == VDPA_ARGS_MAX)
			return vdpa_error(EINVAL, "more than %u words", VDPA_ARGS_MAX);
		arg = &args->arg[args->n];
		memset(arg, 0, sizeof(*arg));
		arg->param = param;
		if (param->type != VDPA_PARAM_FLAG) {
			if (i >= words->n) {
				if (param->type == VDPA_PARAM_CHOICE)
					list_choices(param, allowed, sizeof(allowed));
				return vdpa_error(EINVAL, "%s: %s is missing", word,
						  param->type == VDPA_PARAM_CHOICE ? allowed
						  : param->metavar		   ? param->metavar
										   : "its value");
			}
			if (param->type == VDPA_PARAM_CHOICE) {
				rc = parse_choice(param, words, i, arg);
			} else {
				rc = parse_value(word, param->type, param->min, param->max,
						 words->word[i], arg);
				if (rc == 0)
					rc = 1;
			}
			if (rc < 0)
				return rc;
			i += (unsigned int)rc;
		}
		if (tables[t].used != NULL)
			*tables[t].used = word;
		args->n++;
	}
	return 0;
}

const struct vdpa_arg *
vdpa_args_find(const struct vdpa_args *args, const char *word)
{
	for (unsigned int i = 0; i < args->n; i++)
		if (strcmp(args->arg[i].param->name, word) == 0)
			return &args->arg[i];
	return NULL;
}

uint64_t
vdpa_args_u64(const struct vdpa_args *args, const char *word, uint64_t dflt)
{
	const struct vdpa_arg *arg = vdpa_args_find(args, word);

	return arg != NULL ? arg->u64 : dflt;
}

const char *
vdpa_args_str(const struct vdpa_args *args, const char *word, const char *dflt)
{
	const struct vdpa_arg *arg = vdpa_args_find(args, word);

	return arg != NULL && arg->str != NULL ? arg->str : dflt;
}

bool
vdpa_args_has(const struct vdpa_args *args, const char *word)
{
	return vdpa_args_find(args, word) != NULL;
}

static void
print_choice_values(FILE *out, const struct vdpa_param *param)
{
	for (const struct vdpa_param_choice *c = param->choices; c->name != NULL; c++)
		fprintf(out, "%s%s%s%s", c == param->choices ? "" : " | ", c->name,
			c->metavar != NULL ? " " : "", c->metavar != NULL ? c->metavar : "");
}

/* Of a number; one that may have any value, such as a mask, has none. */
static void
print_limits(FILE *out, enum vdpa_param_type type, uint64_t min, uint64_t max)
{
	if ((type == VDPA_PARAM_UINT || type == VDPA_PARAM_SIZE) && max <= UINT32_MAX)
		fprintf(out, " (%llu to %llu)", (unsigned long long)min, (unsigned long long)max);
}

void
vdpa_params_print(FILE *out, const struct vdpa_param *params)
{
	for (const struct vdpa_param *p = params; p != NULL && p->name != NULL; p++) {
		fprintf(out, "    %s", p->name);
		if (p->type == VDPA_PARAM_CHOICE || p->metavar != NULL)
			fputc(' ', out);
		if (p->type == VDPA_PARAM_CHOICE)
			print_choice_values(out, p);
		else if (p->metavar != NULL)
			fprintf(out, "%s", p->metavar);
		print_limits(out, p->type, p->min, p->max);
		fprintf(out, "\n        %s\n", p->help != NULL ? p->help : "");
		if (p->type != VDPA_PARAM_CHOICE)
			continue;
		for (const struct vdpa_param_choice *c = p->choices; c->name != NULL; c++)
			if (c->help != NULL)
				fprintf(out, "          %s: %s\n", c->name, c->help);
	}
}
