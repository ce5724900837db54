/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Guest pages: those that the device was seen to write, and the dirty log in which it is to say so.
 * Both count pages from address 0 on, eight in a byte.
 */

#ifndef DIRTY_H
#define DIRTY_H

#include <stdbool.h>
#include <stdint.h>

#include "ring_driver.h"
#include "target.h"

struct page_set {
	uint8_t *bits;
	uint64_t n; /* pages */
};

/* As many as hold the guest's memory, and some behind it. 0 or -ENOMEM. */
int page_set_init(struct page_set *set, const struct ring_mem *mem);
void page_set_fini(struct page_set *set);
void page_set_clear(struct page_set *set);
/* The pages of [iova, iova + len), which lies in it. */
void page_set_add(struct page_set *set, uint64_t iova, uint64_t len);
bool page_set_has(const struct page_set *set, uint64_t page);

/* A log of the same pages, in a file of its own. 0 or a negative errno. */
int dirty_log_init(struct target_log *log, const struct page_set *set);
void dirty_log_fini(struct target_log *log);
/* As who reads it does: nothing that is set at the same time is lost. */
void dirty_log_clear(struct target_log *log);
bool dirty_log_has(const struct target_log *log, uint64_t page);

#endif /* DIRTY_H */
