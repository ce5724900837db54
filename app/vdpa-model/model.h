/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The model as its program has it. */

#ifndef MODEL_H
#define MODEL_H

#include <jansson.h>

/* Add the model's words to those of the front end "vfio-user"; before anything is registered. */
int model_extend(void);
/* Its methods and telemetry commands; after vdpa_init(), and before vdpa_cleanup(). */
int model_start(void);
void model_stop(void);

/* Counters of a device's doorbells, or of all devices keyed by name (NULL). NULL: none of that
 * name. */
json_t *model_stats(const char *name);
/* Change the faults of a device. 0; -ENODEV; -EINVAL for an unknown fault. */
int model_set_fault(const char *name, const char *faults);

/* Print the table of faults, for --help. */
void model_print_faults(void);
int model_telemetry_init(void);

/* Methods of the control socket: added before it is opened, taken away before what they use goes.
 */
int model_control_init(void);
void model_control_fini(void);

#endif /* MODEL_H */
