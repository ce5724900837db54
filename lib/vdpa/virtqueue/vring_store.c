/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Where a chain of several buffers has its copy and its indirect table. Owns the tables and classes
 * of struct vdpa_vring. Both are taken and given back in any order, in a time that does not depend
 * on how much is taken.
 *
 * A table is a block of a power of two entries; its copy has the same place in an array beside the
 * tables' memory. A chain without a table takes as many ring descriptors as it has buffers, so that
 * of a class not more than num / (smallest chain of the class) copies are needed at a time: these
 * never run out.
 */

#include <stdlib.h>
#include <string.h>

#include "vring_priv.h"

#define BLOCK_NONE UINT32_MAX
#define BLOCK_FREE 0x80

static uint8_t
order_of(uint32_t n)
{
	uint32_t blocks = (n + VRING_BLOCK - 1) / VRING_BLOCK;

	return blocks <= 1 ? 0 : (uint8_t)(32 - __builtin_clz(blocks - 1));
}

static uint8_t
class_of(uint32_t n)
{
	return n <= 1 ? 0 : (uint8_t)(32 - __builtin_clz(n - 1));
}

static void
block_put(struct vring_tables *t, uint32_t b, uint8_t order)
{
	uint32_t next = t->head[order];

	t->block[b] = (struct vring_block){.prev = BLOCK_NONE, .next = next};
	if (next != BLOCK_NONE)
		t->block[next].prev = b;
	t->head[order] = b;
	t->orders |= 1u << order;
	t->state[b] = BLOCK_FREE | order;
}

static void
block_remove(struct vring_tables *t, uint32_t b, uint8_t order)
{
	const struct vring_block *k = &t->block[b];

	if (k->next != BLOCK_NONE)
		t->block[k->next].prev = k->prev;
	if (k->prev != BLOCK_NONE)
		t->block[k->prev].next = k->next;
	else
		t->head[order] = k->next;
	if (t->head[order] == BLOCK_NONE)
		t->orders &= ~(1u << order);
	t->state[b] = order;
}

static int
tables_init(struct vring_tables *t, const struct vdpa_vring_params *params)
{
	const uint32_t n = params->tables_entries / VRING_BLOCK;
	uint32_t b = 0;

	t->mem = params->tables;
	t->iova = params->tables_iova;
	t->n_blocks = n;
	if (n == 0)
		return 0;
	for (unsigned int i = 0; i < VRING_ORDERS; i++)
		t->head[i] = BLOCK_NONE;
	t->segs = malloc((size_t)n * VRING_BLOCK * sizeof(*t->segs));
	t->block = malloc((size_t)n * sizeof(*t->block));
	t->state = calloc(n, 1);
	if (t->segs == NULL || t->block == NULL || t->state == NULL)
		return -ENOMEM;
	/* The largest first: each then lies at a multiple of its size. */
	for (int order = VRING_ORDERS - 1; order >= 0; order--) {
		if (n & 1u << order) {
			block_put(t, b, (uint8_t)order);
			b += 1u << order;
		}
	}
	t->max = VRING_BLOCK << (31 - __builtin_clz(n));
	return 0;
}

static int
class_init(struct vring_class *c, unsigned int k, uint32_t num)
{
	/* So many chains of more than 2^(k - 1) buffers have room in the ring. */
	const uint32_t items = num / ((1u << (k - 1)) + 1);

	if (items == 0)
		return 0;
	c->segs = malloc(((size_t)items << k) * sizeof(*c->segs));
	c->free_list = malloc(items * sizeof(*c->free_list));
	return c->segs != NULL && c->free_list != NULL ? 0 : -ENOMEM;
}

int
vring_store_init(struct vdpa_vring *r, const struct vdpa_vring_params *params)
{
	int rc = 0;

	if (r->indirect && params->tables != NULL)
		rc = tables_init(&r->tables, params);
	for (unsigned int k = 1; k < VRING_CLASSES && rc == 0; k++)
		rc = class_init(&r->class_[k], k, r->num);
	return rc;
}

void
vring_store_fini(struct vdpa_vring *r)
{
	free(r->tables.segs);
	free(r->tables.block);
	free(r->tables.state);
	memset(&r->tables, 0, sizeof(r->tables));
	for (unsigned int k = 0; k < VRING_CLASSES; k++) {
		free(r->class_[k].segs);
		free(r->class_[k].free_list);
	}
	memset(r->class_, 0, sizeof(r->class_));
}

static bool
table_take(struct vdpa_vring *r, struct vring_chain *c, uint32_t n)
{
	struct vring_tables *t = &r->tables;
	uint8_t order = order_of(n), from;
	uint32_t fitting = t->orders >> order, b;

	if (fitting == 0)
		return false;
	from = (uint8_t)(order + __builtin_ctz(fitting));
	b = t->head[from];
	block_remove(t, b, from);
	while (from > order) {
		from--;
		block_put(t, b + (1u << from), from);
	}
	t->state[b] = order;
	c->many.table = true;
	c->many.at = b;
	c->many.segs = &t->segs[(size_t)b * VRING_BLOCK];
	return true;
}

struct vring_two_words *
vring_table_of(const struct vdpa_vring *r, const struct vring_chain *c, uint64_t *iova)
{
	const size_t first = (size_t)c->many.at * VRING_BLOCK;

	*iova = r->tables.iova + first * sizeof(struct vring_two_words);
	return &r->tables.mem[first];
}

static void
table_give(struct vring_tables *t, uint32_t b)
{
	uint8_t order = t->state[b];
	uint32_t other;

	for (;; order++) {
		other = b ^ 1u << order;
		if (other >= t->n_blocks || t->state[other] != (BLOCK_FREE | order))
			break;
		block_remove(t, other, order);
		b &= ~(1u << order);
	}
	block_put(t, b, order);
}

static void
copy_take(struct vdpa_vring *r, struct vring_chain *c, uint32_t n)
{
	const uint8_t k = class_of(n);
	struct vring_class *from = &r->class_[k];

	c->many.table = false;
	c->many.class_ = k;
	c->many.at = from->n_free > 0 ? from->free_list[--from->n_free] : from->n_fresh++;
	c->many.segs = &from->segs[(size_t)c->many.at << k];
}

bool
vring_store_copy(struct vdpa_vring *r, struct vring_chain *c, const struct vdpa_vring_seg *segs,
		 uint32_t n)
{
	struct vdpa_vring_seg *to;
	uint64_t room = 0;

	if (n > r->tables.max || !table_take(r, c, n)) {
		if (n > r->at.n_free)
			return false;
		copy_take(r, c, n);
	}
	to = c->many.segs;
	for (uint32_t i = 0; i < n; i++) {
		vring_copy_seg(&to[i], &segs[i]);
		room += segs[i].write ? segs[i].len : 0;
	}
	c->room = (uint32_t)RTE_MIN(room, (uint64_t)UINT32_MAX);
	c->n = (uint16_t)n;
	return true;
}

void
vring_store_give(struct vdpa_vring *r, struct vring_chain *c)
{
	struct vring_class *to;

	if (c->many.table) {
		table_give(&r->tables, c->many.at);
		return;
	}
	to = &r->class_[c->many.class_];
	to->free_list[to->n_free++] = (uint16_t)c->many.at;
}
