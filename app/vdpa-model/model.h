/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The front end "vfio-user": any vDPA device of this process as a virtio-pci function on a
 * vfio-user socket.
 */

#ifndef MODEL_H
#define MODEL_H

#include <jansson.h>

/* Make the front end's words known; before vdpa_init(). */
int model_frontend_register(void);
/* Its threads and telemetry commands; after vdpa_init(). */
int model_frontend_start(void);
/* Delete its devices and end its threads; before vdpa_cleanup(). No-op when not registered. */
void model_frontend_stop(void);

/* Counters of a device's doorbells, or of all devices keyed by name (NULL). NULL: none of that
 * name. */
json_t *model_stats(const char *name);
/* Change the faults of a device. 0; -ENODEV; -EINVAL for an unknown fault. */
int model_set_fault(const char *name, const char *faults);

/* Print the table of faults, for --help. */
void model_print_faults(void);
int model_telemetry_init(void);

#endif /* MODEL_H */
