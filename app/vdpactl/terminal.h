/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A terminal that shows one page and gives single keys, by ANSI sequences alone. It is given back
 * as it was, by whatever the program ends short of SIGKILL, and while the program is stopped.
 */

#ifndef TERMINAL_H
#define TERMINAL_H

#include <stdbool.h>
#include <stddef.h>

enum key {
	KEY_NONE = 0, /* the time is over, or the page is another size */
	KEY_END = -1, /* a signal that ends the program, or no more input */
	KEY_UP = 256,
	KEY_DOWN,
	KEY_PAGE_UP,
	KEY_PAGE_DOWN,
	KEY_HOME,
	KEY_BOTTOM,
	KEY_OTHER, /* a sequence that means nothing here */
};

/* Take the terminal of stdin and stdout. Returns 0, or -1 and a line on stderr. */
int terminal_open(void);

/* Give it back. No-op when it is not taken. */
void terminal_close(void);

/* Its size; 80 and 24 where it does not say. */
void terminal_size(int *columns, int *lines);

/* Show a page, lines separated by '\n': what was there goes. */
void terminal_show(const char *page, size_t len);

/* A character or a KEY_*; waits up to timeout_ms. */
int terminal_key(int timeout_ms);

#endif /* TERMINAL_H */
