/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_args.h
 * The one grammar of management: words with values, described by tables, checked before anybody
 * acts on them. Management devices and front ends each bring a table; `dev add`, `--help` and
 * error messages come from the same rows.
 */

#ifndef VDPA_ARGS_H
#define VDPA_ARGS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vdpa_error.h"

#ifdef __cplusplus
extern "C" {
#endif

enum vdpa_param_type {
	VDPA_PARAM_FLAG,   /**< the word alone */
	VDPA_PARAM_STRING, /**< one word, min .. max characters (max 0: 4095) */
	VDPA_PARAM_UINT,   /**< decimal or 0x..., min .. max */
	VDPA_PARAM_SIZE,   /**< bytes, with K, M, G or T (powers of 1024), min .. max */
	VDPA_PARAM_MODE,   /**< octal permissions, 0000 .. 0777 */
	VDPA_PARAM_MAC,	   /**< xx:xx:xx:xx:xx:xx, unicast, not all zero */
	VDPA_PARAM_CHOICE, /**< one of choices, some followed by a value of their own */
};

/** One value of a CHOICE, e.g. { "peer", "NAME", STRING }. */
struct vdpa_param_choice {
	const char *name;
	const char *metavar;	   /**< its own value's; NULL: it has none */
	enum vdpa_param_type type; /**< of that value: STRING, UINT or SIZE */
	uint64_t min, max;
	const char *help;
};

/** A word. A table of them ends with a NULL name. */
struct vdpa_param {
	const char *name;
	enum vdpa_param_type type;
	const char *metavar; /**< "SIZE", "PATH"; NULL for FLAG and CHOICE */
	uint64_t min, max;   /**< for UINT and SIZE, inclusive; STRING: characters */
	const struct vdpa_param_choice *choices; /**< ended by a NULL name */
	const char *help;			 /**< one line with unit and default */
	/** What it is where it is not given, as written; NULL: none, or none to be written. Of a
	 * word of dev set that dev add has too, so that leaving it out of the words of a device
	 * changes it back. */
	const char *dflt;
	bool unique; /**< of a STRING: no two devices may have the same */
};

#define VDPA_ARGS_MAX 64

/** A word that was given. */
struct vdpa_arg {
	const struct vdpa_param *param;
	const struct vdpa_param_choice *choice; /**< CHOICE */
	const char
		*str; /**< the value as written; for CHOICE its own value, NULL when it has none */
	uint64_t u64; /**< UINT, SIZE, MODE; for CHOICE its own value */
	uint8_t mac[6]; /**< MAC */
};

/** All words given to one table. */
struct vdpa_args {
	unsigned int n;
	struct vdpa_arg arg[VDPA_ARGS_MAX];
};

/** The argument of that word, NULL when it was not given. */
const struct vdpa_arg *vdpa_args_find(const struct vdpa_args *args, const char *word);
/** Its number, or dflt. */
uint64_t vdpa_args_u64(const struct vdpa_args *args, const char *word, uint64_t dflt);
/** Its text, or dflt. */
const char *vdpa_args_str(const struct vdpa_args *args, const char *word, const char *dflt);
/** Whether it was given. */
bool vdpa_args_has(const struct vdpa_args *args, const char *word);

/** Words of one text, at most. */
#define VDPA_WORDS_MAX 128

/** A text as words. */
struct vdpa_words {
	char *text; /**< what the words point into */
	unsigned int n;
	const char *word[VDPA_WORDS_MAX];
};

/**
 * Split a text into words, as all that is given in words is split: blanks separate them, "double
 * quotes" keep blanks together. A word fits a line: none has a control character.
 * @return 0; -EINVAL for a quotation mark that is not closed, a control character in a word and for
 *         more than VDPA_WORDS_MAX words; -ENOMEM. On failure nothing is to be freed.
 */
int vdpa_words_split(const char *text, struct vdpa_words *words);

/** Free what vdpa_words_split() has allocated. */
void vdpa_words_free(struct vdpa_words *words);

/**
 * The group of users that a word names, by its name or else its number. From any thread; it may
 * wait for the system's directory.
 * @return 0; -EINVAL with a message where there is none, or the directory does not say.
 */
int vdpa_group_find(const char *text, gid_t *gid);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_ARGS_H */
