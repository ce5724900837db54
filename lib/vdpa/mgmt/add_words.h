/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The words of dev add, parsed and checked: add_words.c. */

#ifndef VDPA_ADD_WORDS_H
#define VDPA_ADD_WORDS_H

#include "args_priv.h"
#include "bus.h"
#include "mgmt.h"
#include "vdpa_frontend.h"

/* What dev_add acts on, parsed and checked. */
struct vdpa_add_request {
	struct vdpa_words words;
	struct vdpa_args args;
	const char *name;
	struct vdpa_mgmt_dev *mdev;
	struct vdpa_driver *drv;      /* whose words args has, of a PCI function; NULL: none */
	struct vdpa_frontend *fe;     /* NULL: none */
	struct vdpa_bus_entry *entry; /* the name, once it is ours */
};

/*
 * Under the management lock: parse text. On success the caller gives back req->mdev, with
 * vdpa_registry_put(), and req->words.
 */
int vdpa_words_parse_add(const char *text, struct vdpa_add_request *req);

/*
 * Under the management lock: parse req->words by the words of every device, of its management
 * device, of the n tables of more (NULL ones are empty) and of the front ends; req->args and
 * req->fe are what they mean. -EINVAL with the word and what is allowed; req->args has what stands
 * before it then.
 */
int vdpa_words_parse(struct vdpa_add_request *req, const struct vdpa_param *const *more,
		     unsigned int n);

/* What the word `migration` says. */
enum vdpa_migration vdpa_words_migration(const struct vdpa_args *args);
/* The value of that word that means it. */
const char *vdpa_words_migration_name(enum vdpa_migration mode);

#endif /* VDPA_ADD_WORDS_H */
