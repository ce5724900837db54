/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Between the two files of systemd's store: its calls (keep_systemd.c), and what a process finds in
 * it and hands over (keep_systemd_left.c). Calls come one at a time, as for struct keep_ops; they
 * return 0 or a negative errno with a message. */

#ifndef KEEP_SYSTEMD_H
#define KEEP_SYSTEMD_H

#include <stdbool.h>
#include <stdint.h>

#include "tree.h"
#include "vdpa_keep.h"

struct vdpa_fd_account;
struct vdpa_journal;

#define PREFIX		"uvdpa-"
#define TABLE_NAME	PREFIX "names"
#define NAMES_MAX	65536
/* Bytes of the table's records: a number. */
#define NUMBER_SIZE	8
#define NUMBER_MAX	(UINT64_MAX >> 1)
/* A name of systemd's, at most: prefix, number, name. */
#define STORE_NAME_SIZE (sizeof(PREFIX) + 20 + 1 + VDPA_KEEP_NAME_MAX + 1)

/* A descriptor that is stored. */
struct stored {
	int fd;
	uint64_t number;
	unsigned int names;
	char name[STORE_NAME_SIZE]; /* as systemd has it */
};

/* A name, and what it is of. */
struct named {
	char name[VDPA_KEEP_NAME_MAX + 1];
	struct stored *stored;
};

struct systemd {
	int sock;
	uint64_t next; /* number */
	struct vdpa_journal *table;
	struct vdpa_tree files;	       /* of struct stored, by the file they are of */
	struct vdpa_tree names;	       /* of struct named */
	struct vdpa_fd_account *ended; /* what was stored may take its time to close */
};

/* A descriptor of ours among those that systemd has handed over. */
struct handed {
	const char *name; /* as systemd has it */
	int fd;
	struct stored *stored;
};

struct handed_list {
	char *names;	/* what `name` points into */
	bool own_names; /* each of them is the list's */
	struct handed *fds;
	unsigned int n;
};

/* Words to systemd. -ETIMEDOUT, -EPIPE: it reads nothing, or is not there. */
int keep_systemd_send_store(const struct systemd *s, const char *store_name, int fd);
int keep_systemd_send_removal(const struct systemd *s, const char *store_name);

/* The name, made without a descriptor unless it is there. -ENOMEM. */
int keep_systemd_find_or_add_name(struct systemd *s, const char *name, struct named **out);

/* Those of LISTEN_FDS whose names are of ours; they are the store's from now on. -ENOMEM. */
int keep_systemd_read_listen(struct handed_list *list);

/* Receive what the process that has the store hands over, with names that are the list's to free.
 * -EPIPE, -EPROTO, -EMFILE, -ENOMEM; what has come until then is in the list. */
int keep_systemd_receive(int sock, struct handed_list *list);

/* Take the descriptors of the list for what is stored, by the table among them, and say each name
 * with keep_add_left(). reopens: the table may have names of a process that has failed. */
int keep_systemd_adopt(struct systemd *s, struct vdpa_keep *k, struct handed_list *list,
		       bool reopens);

/* After a failure: close what was not adopted. */
void keep_systemd_close_rest(struct systemd *s, struct handed_list *list);
void keep_systemd_free_list(struct handed_list *list);

/* List all that is stored but the table; names stay those of s. take: the descriptors become the
 * list's. -ENOMEM. */
int keep_systemd_collect(struct systemd *s, struct handed_list *list, bool take);

/* struct keep_ops, hand_over. */
int keep_systemd_hand_over(void *store, int sock);

#endif /* KEEP_SYSTEMD_H */
