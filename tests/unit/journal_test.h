/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Journals with texts as records. Include it after cmocka.h. */

#ifndef JOURNAL_TEST_H
#define JOURNAL_TEST_H

#include <errno.h>
#include <string.h>

#include "vdpa_error.h"
#include "vdpa_journal.h"

/* Bytes of a record, and devices. */
#define SLOT	    200
#define DEVICES	    4
#define SLOT_HEADER 160

static inline struct vdpa_journal *
make_journal(unsigned int devices, uint32_t slot_size)
{
	struct vdpa_journal *j = NULL;

	assert_int_equal(vdpa_journal_create(devices, slot_size, &j), 0);
	return j;
}

static inline struct vdpa_journal *
reopen(int fd)
{
	struct vdpa_journal *j = NULL;

	if (vdpa_journal_open(fd, &j) < 0)
		fail_msg("%s", vdpa_error_message());
	return j;
}

static inline void
put_text(struct vdpa_journal *j, const char *device, const char *text)
{
	if (vdpa_journal_write(j, device, text, strlen(text)) < 0)
		fail_msg("%s", vdpa_error_message());
}

static const char *
get_text(struct vdpa_journal *j, const char *device)
{
	static char text[SLOT + 1];
	int len = vdpa_journal_read(j, device, text, SLOT);

	if (len < 0)
		return len == -ENOENT ? "none" : "error";
	text[len] = '\0';
	return text;
}

static inline int
join(const char *device, void *arg)
{
	char *list = arg;

	strcat(list, device);
	strcat(list, " ");
	return 0;
}

static const char *
devices_of(struct vdpa_journal *j)
{
	static char list[1024];

	list[0] = '\0';
	assert_int_equal(vdpa_journal_for_each(j, join, list), 0);
	return list;
}

#endif /* JOURNAL_TEST_H */
