/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Mutations of records: lengths, types, order, and numbers in them. */

#include <string.h>

#include <rte_common.h>

#include "mutate.h"
#include "tlv.h"

static uint64_t seed = 1;

void
mutate_seed(uint64_t value)
{
	seed = value;
}

static uint64_t
next_random(void)
{
	/* xorshift64* */
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return seed * UINT64_C(2685821657736338717);
}

uint64_t
mutate_below(uint64_t n)
{
	return next_random() % n;
}

/* A number that is near another one, or near where numbers end. */
static uint64_t
near_number(uint64_t was)
{
	static const uint64_t ends[] = {
		0,	    1,		0xff,
		0x100,	    0x7fff,	0xffff,
		0x7fffffff, 0xffffffff, 0x100000,
		0x200000,   1 << 31,	UINT64_C(0x7f0000000000),
		INT64_MAX,  UINT64_MAX, UINT64_MAX - 0xfff,
	};

	switch (mutate_below(4)) {
	case 0:
		return was + mutate_below(17) - 8;
	case 1:
		return was ^ (UINT64_C(1) << mutate_below(64));
	case 2:
		return next_random();
	default:
		return ends[mutate_below(RTE_DIM(ends))] - mutate_below(2);
	}
}

/* A part as it lies in the record. */
struct place {
	size_t at, len;
};

static unsigned int
find_parts(const uint8_t *records, size_t size, struct place *parts, unsigned int max)
{
	size_t at = 0;
	unsigned int n = 0;

	while (at + VDPA_TLV_HEADER <= size && n < max) {
		size_t len = VDPA_TLV_HEADER + vdpa_le_get(records + at + 4, 4);

		if (len > size - at)
			break;
		parts[n++] = (struct place){.at = at, .len = len};
		at += len;
	}
	return n;
}

size_t
mutate(uint8_t *records, size_t len, size_t size)
{
	struct place parts[32], p, q;
	unsigned int n = find_parts(records, len, parts, RTE_DIM(parts));
	unsigned int bytes = 1u << mutate_below(4);
	uint8_t copy[4096];
	size_t at;

	if (n == 0)
		return len;
	p = parts[mutate_below(n)];
	q = parts[mutate_below(n)];
	switch (mutate_below(8)) {
	case 0: /* a part that is shorter or longer than it says */
		vdpa_le_put(records + p.at + 4, near_number(p.len - VDPA_TLV_HEADER), 4);
		break;
	case 1: /* its type, its flags */
		vdpa_le_put(records + p.at + 2 * mutate_below(2), near_number(16), 2);
		break;
	case 2: /* twice; what follows is overwritten or moved */
		if (p.len > sizeof(copy) || len + p.len > size)
			break;
		memcpy(copy, records + p.at, p.len);
		memmove(records + q.at + p.len, records + q.at, len - q.at);
		memcpy(records + q.at, copy, p.len);
		return len + p.len;
	case 3: /* left out */
		memmove(records + p.at, records + p.at + p.len, len - p.at - p.len);
		return len - p.len;
	case 4:
		if (mutate_below(16) == 0)
			return mutate_below(len + 1);
		break;
	default: /* a number in it */
		if (p.len < VDPA_TLV_HEADER + bytes)
			break;
		at = p.at + VDPA_TLV_HEADER +
		     mutate_below((p.len - VDPA_TLV_HEADER) / bytes) * bytes;
		vdpa_le_put(records + at, near_number(vdpa_le_get(records + at, bytes)), bytes);
		break;
	}
	return len;
}
