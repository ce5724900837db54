/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Telemetry commands of the model: its counters and the faults that there are. They read only, and
 * own nothing; faults are set over the control socket (model_control.c).
 */

#include <stdio.h>
#include <string.h>

#include <rte_common.h>
#include <rte_telemetry.h>
#include <rte_version.h>

#include "model_fault.h"
#include "model.h"
#include "vdpa.h"
#include "vdpa_args.h"

#if RTE_VERSION < RTE_VERSION_NUM(23, 3, 0, 0)
#define tel_add_dict_uint rte_tel_data_add_dict_u64
#else
#define tel_add_dict_uint rte_tel_data_add_dict_uint
#endif

/* Telemetry takes strings of 127 characters; what is longer goes on in NAME_2 and so on. */
static void
add_text(struct rte_tel_data *d, const char *name, const char *text)
{
	char piece[RTE_TEL_MAX_STRING_LEN], key[RTE_TEL_MAX_STRING_LEN];
	unsigned int part = 1;
	size_t len;

	snprintf(key, sizeof(key), "%s", name);
	do {
		len = strnlen(text, sizeof(piece));
		if (len == sizeof(piece))
			for (len--; len > sizeof(piece) / 2 && text[len - 1] != ' ';)
				len--;
		snprintf(piece, sizeof(piece), "%.*s", (int)len, text);
		rte_tel_data_add_dict_string(d, key, piece);
		snprintf(key, sizeof(key), "%.32s_%u", name, ++part);
		text += len;
	} while (*text != '\0');
}

static int
reply_error(struct rte_tel_data *d, const char *text)
{
	rte_tel_data_start_dict(d);
	add_text(d, "error", text);
	return 0;
}

static int
handle_faults(const char *cmd, const char *params, struct rte_tel_data *d)
{
	rte_tel_data_start_dict(d);
	for (unsigned int i = 0; i < MODEL_FAULT_COUNT; i++)
		add_text(d, model_fault_name(i), model_fault_help(i));
	return 0;
}

/* What set faults here once: who asks is not known on this socket. */
static int
handle_fault(const char *cmd, const char *params, struct rte_tel_data *d)
{
	return reply_error(d,
			   "telemetry only reads: use vdpactl call model.fault, or that method of "
			   "the control socket");
}

/* An object of numbers, by this name. */
static void
add_numbers(struct rte_tel_data *d, const char *name, json_t *numbers)
{
	struct rte_tel_data *inner = rte_tel_data_alloc();
	const char *key;
	json_t *value;

	if (inner == NULL)
		return;
	rte_tel_data_start_dict(inner);
	json_object_foreach(numbers, key, value)
		tel_add_dict_uint(inner, key, (uint64_t)json_integer_value(value));
	rte_tel_data_add_dict_container(d, name, inner, 0);
}

static int
handle_stats(const char *cmd, const char *params, struct rte_tel_data *d)
{
	json_t *stats, *queues, *queue;
	struct rte_tel_data *list;
	char name[24];
	size_t i;

	stats = params != NULL ? model_stats(params) : NULL;
	if (stats == NULL)
		return reply_error(d, "the front end vfio-user serves no such device");
	rte_tel_data_start_dict(d);
	add_text(d, "socket", json_string_value(json_object_get(stats, "socket")));
	add_text(d, "connected",
		 json_is_true(json_object_get(stats, "connected")) ? "true" : "false");
	add_text(d, "fault", json_string_value(json_object_get(stats, "fault")));
	add_numbers(d, "dma", json_object_get(stats, "dma"));
	tel_add_dict_uint(d, "suspensions",
			  (uint64_t)json_integer_value(json_object_get(stats, "suspensions")));
	tel_add_dict_uint(d, "admin_commands",
			  (uint64_t)json_integer_value(json_object_get(stats, "admin_commands")));
	add_numbers(d, "log", json_object_get(stats, "log"));
	queues = json_object_get(stats, "queues");
	list = rte_tel_data_alloc();
	if (list != NULL) {
		rte_tel_data_start_dict(list);
		json_array_foreach(queues, i, queue)
		{
			snprintf(name, sizeof(name), "%zu", i);
			add_numbers(list, name, queue);
		}
		rte_tel_data_add_dict_container(d, "queues", list, 0);
	}
	json_decref(stats);
	return 0;
}

int
model_telemetry_init(void)
{
	static const struct {
		const char *name;
		telemetry_cb handler;
		const char *help;
	} commands[] = {
		{"/model/stats", handle_stats,
		 "Returns client, faults, DMA requests and rings of a function. Parameters: "
		 "DEVICE"},
		{"/model/faults", handle_faults,
		 "Returns the faults that there are. No parameters"},
		{"/model/fault", handle_fault, "Refused: use vdpactl call model.fault"},
	};

	for (unsigned int i = 0; i < RTE_DIM(commands); i++) {
		int rc = rte_telemetry_register_cmd(commands[i].name, commands[i].handler,
						    commands[i].help);

		if (rc < 0)
			return vdpa_error(rc, "telemetry command %s: %s", commands[i].name,
					  strerror(-rc));
	}
	return 0;
}
