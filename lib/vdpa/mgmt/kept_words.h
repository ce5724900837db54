/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The words that a device is made of, kept while it is there: kept_words.c. */

#ifndef VDPA_KEPT_WORDS_H
#define VDPA_KEPT_WORDS_H

#include "add_words.h"

/* The words of a request as text, in their order; free() it. NULL: no memory, with vdpa_error(). */
char *vdpa_kept_words_text(const struct vdpa_args *args);

/*
 * Without the management lock, by whoever has claimed the device: its words as they are once those
 * of args, words of dev set, have been carried out. A word of dev set that dev add has too is kept,
 * the last value that was set; one that dev add has not, such as resize, is an act and leaves
 * nothing to keep. *out is to be given to vdpa_bus_set_words() or free(); NULL where the device has
 * no words. 0, -ENOMEM.
 */
int vdpa_kept_words_merge(const struct vdpa_bus_entry *e, const struct vdpa_args *args, char **out);

#endif /* VDPA_KEPT_WORDS_H */
