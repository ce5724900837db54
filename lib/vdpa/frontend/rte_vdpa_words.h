/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* How words of dev add are spelled in DPDK's device arguments. */

#ifndef RTE_VDPA_WORDS_H
#define RTE_VDPA_WORDS_H

/*
 * "mgmtdev=sim_net,backend=peer net1" and the name "uvdpa0" to "name uvdpa0 mgmtdev sim_net backend
 * peer net1 frontend rte_vdpa": items are separated by commas, word and value by the item's first
 * equals sign. Between double quotes, both are as any other character.
 * @return text to free(); NULL with vdpa_error() and errno set: EINVAL for an item without a word,
 * a value that is missing or a quotation mark that is not closed; ENOMEM.
 */
char *vdpa_rte_words(const char *name, const char *devargs);

/*
 * One item is no word of the device's, but of the process: "control=PATH", where the control socket
 * is made. vdpa_rte_words() leaves it out; this is its path.
 * @param path  text to free(), without quotation marks; NULL: there is no such item.
 * @return 0; -EINVAL where PATH is missing or the item is there twice; -ENOMEM.
 */
int vdpa_rte_control(const char *devargs, char **path);

#endif /* RTE_VDPA_WORDS_H */
