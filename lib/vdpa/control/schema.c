/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * JSON Schema (draft 2020-12), as much of it as params of methods need: what a call is checked by
 * is the very text that the method `methods` returns.
 */

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "schema.h"
#include "vdpa_error.h"

/* How a message calls a value: "params.events[1]". */
#define WHAT_MAX    128
/* Schemas are written by us, but not without end. */
#define NESTING_MAX 8

static bool
is_object(const json_t *value)
{
	return json_is_object(value);
}

static bool
is_array(const json_t *value)
{
	return json_is_array(value);
}

static bool
is_string(const json_t *value)
{
	return json_is_string(value);
}

static bool
is_integer(const json_t *value)
{
	return json_is_integer(value);
}

static bool
is_number(const json_t *value)
{
	return json_is_number(value);
}

static bool
is_boolean(const json_t *value)
{
	return json_is_boolean(value);
}

static bool
is_null(const json_t *value)
{
	return json_is_null(value);
}

struct kind {
	const char *name;
	bool (*is)(const json_t *value); /* NULL: of any kind */
};

static const struct kind types[] = {
	{"object", is_object},	 {"array", is_array},	{"string", is_string},
	{"integer", is_integer}, {"number", is_number}, {"boolean", is_boolean},
	{"null", is_null},
};

/* The words of a schema that are known, with the kind of value that each has. */
static const struct kind words[] = {
	{"type", NULL},
	{"properties", is_object},
	{"required", is_array},
	{"additionalProperties", NULL},
	{"items", is_object},
	{"enum", is_array},
	{"minimum", is_integer},
	{"maximum", is_integer},
	{"minLength", is_integer},
	{"maxLength", is_integer},
	{"minItems", is_integer},
	{"maxItems", is_integer},
	{"description", is_string},
	{"title", is_string},
};

static const struct kind *
find_type(const char *name)
{
	for (size_t i = 0; name != NULL && i < sizeof(types) / sizeof(types[0]); i++)
		if (strcmp(types[i].name, name) == 0)
			return &types[i];
	return NULL;
}

/* One name, or an array of them. */
static bool
has_type(const json_t *type, const json_t *value)
{
	json_t *each;
	size_t i;

	if (json_is_string(type))
		return find_type(json_string_value(type))->is(value);
	json_array_foreach(type, i,
			   each) if (find_type(json_string_value(each))->is(value)) return true;
	return false;
}

static bool
is_type(const json_t *type)
{
	json_t *each;
	size_t i;

	if (!json_is_array(type))
		return find_type(json_string_value(type)) != NULL;
	json_array_foreach(type, i,
			   each) if (find_type(json_string_value(each)) == NULL) return false;
	return json_array_size(type) > 0;
}

static bool
is_word(const char *name, const json_t *value)
{
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcmp(words[i].name, name) == 0)
			return words[i].is == NULL || words[i].is(value);
	return false;
}

static int
check(const json_t *schema, unsigned int depth)
{
	const json_t *more = json_object_get(schema, "additionalProperties");
	const json_t *type = json_object_get(schema, "type");
	json_t *value;
	const char *key;
	int rc = 0;
	size_t i;

	if (!json_is_object(schema) || depth == NESTING_MAX)
		return vdpa_error(EINVAL, "schema: an object is expected, at most %d deep",
				  NESTING_MAX);
	json_object_foreach((json_t *)(uintptr_t)schema, key, value) if (
		!is_word(key, value)) return vdpa_error(EINVAL,
							"schema: '%s' or its value is not known",
							key);
	if (more != NULL && !json_is_boolean(more) && !json_is_object(more))
		return vdpa_error(EINVAL, "schema: additionalProperties: a boolean or a schema");
	json_array_foreach(json_object_get(schema, "required"), i, value)
	{
		if (!json_is_string(value))
			return vdpa_error(EINVAL, "schema: required: names are expected");
	}
	if (type != NULL && !is_type(type))
		return vdpa_error(EINVAL, "schema: a type is not known");
	json_object_foreach(json_object_get(schema, "properties"), key, value)
	{
		rc = check(value, depth + 1);
		if (rc < 0)
			return rc;
	}
	if (json_is_object(more))
		rc = check(more, depth + 1);
	if (rc == 0 && json_object_get(schema, "items") != NULL)
		rc = check(json_object_get(schema, "items"), depth + 1);
	return rc;
}

int
control_schema_check(const json_t *schema)
{
	return check(schema, 0);
}

/* "a, b, c" of an object's keys or an array's strings. */
static void
list(const json_t *names, char *buf, size_t size)
{
	json_t *each = (json_t *)(uintptr_t)names, *value;
	const char *key;
	size_t used = 0, i;

	buf[0] = '\0';
	if (json_is_object(names))
		json_object_foreach(each, key, value)
		{
			if (used < size)
				used += (size_t)snprintf(buf + used, size - used, "%s%s",
							 used > 0 ? ", " : "", key);
		}
	json_array_foreach(each, i, value)
	{
		if (used < size)
			used += (size_t)snprintf(
				buf + used, size - used, "%s%s", used > 0 ? ", " : "",
				json_is_string(value) ? json_string_value(value) : "?");
	}
}

static int
match_enum(const json_t *allowed, const json_t *value, const char *what)
{
	char names[256];
	json_t *each;
	size_t i;

	if (allowed == NULL)
		return 0;
	json_array_foreach(allowed, i, each) if (json_equal(each, value)) return 0;
	list(allowed, names, sizeof(names));
	if (json_is_string(value))
		return vdpa_error(EINVAL, "%s '%.64s': allowed are %s", what,
				  json_string_value(value), names);
	return vdpa_error(EINVAL, "%s: allowed are %s", what, names);
}

/* Bounds of a number, of a text's length, of how many items there are. */
static int
match_bounds(const json_t *schema, const char *min, const char *max, json_int_t value,
	     const char *what, const char *unit)
{
	const json_t *low = json_object_get(schema, min), *high = json_object_get(schema, max);
	char from[24] = "", to[28] = "";

	if ((low == NULL || value >= json_integer_value(low)) &&
	    (high == NULL || value <= json_integer_value(high)))
		return 0;
	if (low != NULL)
		snprintf(from, sizeof(from), "%" JSON_INTEGER_FORMAT, json_integer_value(low));
	if (high != NULL)
		snprintf(to, sizeof(to), "%s%" JSON_INTEGER_FORMAT, low != NULL ? " to " : "up to ",
			 json_integer_value(high));
	return vdpa_error(EINVAL, "%s: %" JSON_INTEGER_FORMAT "%s, allowed are %s%s", what, value,
			  unit, from, high != NULL ? to : " and more");
}

static int match(const json_t *schema, const json_t *value, const char *what);

static int
match_object(const json_t *schema, const json_t *value, const char *what)
{
	const json_t *properties = json_object_get(schema, "properties");
	const json_t *more = json_object_get(schema, "additionalProperties"), *one;
	char member[WHAT_MAX], names[256];
	const char *key;
	json_t *each;
	size_t i;
	int rc;

	json_object_foreach((json_t *)(uintptr_t)value, key, each)
	{
		one = json_object_get(properties, key);
		if (one == NULL && json_is_false(more)) {
			list(properties, names, sizeof(names));
			return vdpa_error(EINVAL, "%s: member '%.64s' is not known: %s%s", what,
					  key, names[0] != '\0' ? "allowed are " : "there is none",
					  names);
		}
		if (one == NULL && json_is_object(more))
			one = more;
		snprintf(member, sizeof(member), "%s.%.64s", what, key);
		rc = one != NULL ? match(one, each, member) : 0;
		if (rc < 0)
			return rc;
	}
	json_array_foreach(json_object_get(schema, "required"), i, each)
	{
		if (json_object_get(value, json_string_value(each)) == NULL)
			return vdpa_error(EINVAL, "%s: member '%s' is missing", what,
					  json_string_value(each));
	}
	return 0;
}

static int
match_array(const json_t *schema, const json_t *value, const char *what)
{
	const json_t *items = json_object_get(schema, "items");
	char member[WHAT_MAX];
	json_t *each;
	size_t i;
	int rc;

	rc = match_bounds(schema, "minItems", "maxItems", (json_int_t)json_array_size(value), what,
			  " items");
	if (rc < 0 || items == NULL)
		return rc;
	json_array_foreach(value, i, each)
	{
		snprintf(member, sizeof(member), "%.100s[%zu]", what, i);
		rc = match(items, each, member);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* As deep as the schema at most, which was checked. */
static int
match(const json_t *schema, const json_t *value, const char *what)
{
	const json_t *type = json_object_get(schema, "type");
	char names[64];
	int rc;

	if (type != NULL && !has_type(type, value)) {
		list(type, names, sizeof(names));
		return vdpa_error(EINVAL, "%s: the type must be %s", what,
				  json_is_string(type) ? json_string_value(type) : names);
	}
	rc = match_enum(json_object_get(schema, "enum"), value, what);
	if (rc < 0)
		return rc;
	switch (json_typeof(value)) {
	case JSON_INTEGER:
		return match_bounds(schema, "minimum", "maximum", json_integer_value(value), what,
				    "");
	case JSON_STRING:
		return match_bounds(schema, "minLength", "maxLength",
				    (json_int_t)json_string_length(value), what, " characters");
	case JSON_OBJECT:
		return match_object(schema, value, what);
	case JSON_ARRAY:
		return match_array(schema, value, what);
	default:
		return 0;
	}
}

int
control_schema_match(const json_t *schema, const json_t *value, const char *what)
{
	return match(schema, value, what);
}
