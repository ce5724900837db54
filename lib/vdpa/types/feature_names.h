/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The names of feature bits. */

#ifndef FEATURE_NAMES_H
#define FEATURE_NAMES_H

#include <stdint.h>

/* The name of a feature bit of a device id; NULL where there is none. */
const char *feature_name(uint32_t device_id, unsigned int bit);

/*
 * The same as iproute2 6.1's `vdpa` prints it, in `dev_features` and `negotiated_features`: it
 * knows those of net devices (a management device that makes none: device id 0) and of the ring,
 * and prints the number of any other bit, which is NULL here.
 */
const char *feature_name_iproute2(uint32_t device_id, unsigned int bit);

#endif /* FEATURE_NAMES_H */
