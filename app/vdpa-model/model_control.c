/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Methods of the control socket that are the model's: faults at run time, and its counters. They
 * own nothing.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <rte_common.h>
#include <vdpa_control.h>

#include "model.h"
#include "model_fault.h"

/* To text for the caller; -ENOMEM. Takes root over. */
static int
give(json_t *root, char **result)
{
	*result = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;
	json_decref(root);
	return *result != NULL ? 0 : vdpa_error(ENOMEM, "out of memory");
}

static int
call_fault(const char *params, char **result, void *arg)
{
	json_t *root = json_loads(params, 0, NULL);
	int rc;

	/* The schema has both. */
	rc = root == NULL ? vdpa_error(ENOMEM, "out of memory")
			  : model_set_fault(json_string_value(json_object_get(root, "name")),
					    json_string_value(json_object_get(root, "fault")));
	json_decref(root);
	return rc;
}

static int
call_faults(const char *params, char **result, void *arg)
{
	json_t *faults = json_object();

	for (unsigned int i = 0; i < MODEL_FAULT_COUNT; i++)
		json_object_set_new(faults, model_fault_name(i), json_string(model_fault_help(i)));
	return give(json_pack("{s:o}", "faults", faults), result);
}

static int
call_stats(const char *params, char **result, void *arg)
{
	json_t *root = json_loads(params, 0, NULL), *stats, *all;
	const char *name = json_string_value(json_object_get(root, "name"));
	int rc;

	stats = model_stats(name);
	if (stats == NULL) {
		rc = vdpa_error(ENODEV, "%s: the front end vfio-user serves no such device", name);
	} else {
		all = name != NULL ? json_pack("{s:o}", name, stats) : stats;
		rc = give(json_pack("{s:o}", "stats", all), result);
	}
	json_decref(root);
	return rc;
}

#define NAME "{\"type\":\"string\",\"minLength\":1,\"maxLength\":63}"

static const struct vdpa_control_method methods[] = {
	{
		.name = "model.fault",
		.help = "set the faults of a function: NAME[,NAME...], or none",
		.params = "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":"
			  "{\"name\":" NAME ",\"fault\":{\"type\":\"string\",\"minLength\":1,"
			  "\"maxLength\":1024}},\"required\":[\"name\",\"fault\"]}",
		.changes = true,
		.call = call_fault,
	},
	{
		.name = "model.faults",
		.help = "the faults that there are, each with what it does",
		.result = "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":"
			  "{\"faults\":{\"type\":\"object\",\"additionalProperties\":"
			  "{\"type\":\"string\"}}},\"required\":[\"faults\"]}",
		.call = call_faults,
	},
	{
		.name = "model.stats",
		.help = "client, faults, DMA requests and rings of a function, or of all",
		.params = "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":"
			  "{\"name\":" NAME "}}",
		.result = "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":"
			  "{\"stats\":{\"type\":\"object\",\"additionalProperties\":"
			  "{\"type\":\"object\"}}},\"required\":[\"stats\"]}",
		.call = call_stats,
	},
};

int
model_control_init(void)
{
	int rc = 0;

	for (unsigned int i = 0; rc == 0 && i < RTE_DIM(methods); i++)
		rc = vdpa_control_add_method(&methods[i]);
	return rc;
}

void
model_control_fini(void)
{
	for (unsigned int i = 0; i < RTE_DIM(methods); i++)
		vdpa_control_remove_method(methods[i].name);
}
