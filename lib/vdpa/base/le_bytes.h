/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Little-endian numbers in bytes that need not be aligned, as registers and configuration spaces
 * have them. */

#ifndef LE_BYTES_H
#define LE_BYTES_H

#include <stdint.h>
#include <string.h>

#include <rte_byteorder.h>

static inline void
le_put16(uint8_t *p, uint16_t value)
{
	value = rte_cpu_to_le_16(value);
	memcpy(p, &value, sizeof(value));
}

static inline void
le_put32(uint8_t *p, uint32_t value)
{
	value = rte_cpu_to_le_32(value);
	memcpy(p, &value, sizeof(value));
}

static inline uint16_t
le_get16(const uint8_t *p)
{
	uint16_t value;

	memcpy(&value, p, sizeof(value));
	return rte_le_to_cpu_16(value);
}

static inline uint32_t
le_get32(const uint8_t *p)
{
	uint32_t value;

	memcpy(&value, p, sizeof(value));
	return rte_le_to_cpu_32(value);
}

#endif /* LE_BYTES_H */
