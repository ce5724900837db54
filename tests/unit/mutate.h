/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Records (tlv.h) that somebody has changed: tests of what reads them. One thread. */

#ifndef MUTATE_H
#define MUTATE_H

#include <stddef.h>
#include <stdint.h>

/* The numbers of a seed, which is not 0, come in the same order. */
void mutate_seed(uint64_t seed);
/* A number below n, which is not 0. */
uint64_t mutate_below(uint64_t n);
/* Change one thing of len bytes of records, with room for size; the bytes that there are then. */
size_t mutate(uint8_t *records, size_t len, size_t size);

#endif /* MUTATE_H */
