/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A file that others read at any time: there is always the old one or the new one, never a part. */

#ifndef WRITE_FILE_H
#define WRITE_FILE_H

#include <stddef.h>

/*
 * Put text at path, in place of what is there, with permissions 0666 less the umask. Returns 0, or
 * -1 and a line on stderr; then what was there is as it was.
 */
int write_file(const char *path, const char *text, size_t len);

#endif /* WRITE_FILE_H */
