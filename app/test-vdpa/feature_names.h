/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The names of feature bits. */

#ifndef FEATURE_NAMES_H
#define FEATURE_NAMES_H

#include <stdint.h>

/* The name of a feature bit of a device id; NULL where there is none. */
const char *feature_name(uint32_t device_id, unsigned int bit);

#endif /* FEATURE_NAMES_H */
