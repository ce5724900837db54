/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The journal: what a process knows of each device, in a memory file that outlives it
 * (vdpa_keep.h). One record a device, written as a whole; a process that is killed at any point of
 * a write leaves the record from before it or the one from after it. Private to the library.
 * journal.c.
 *
 * The file has a header and, for each device, two slots that are written in turn: a slot has its
 * length, its sequence number, the device's name and a CRC32C over all of it. The newer slot that
 * checks is the record. The file cannot change its size (F_SEAL_SHRINK, F_SEAL_GROW).
 *
 * What a record means is its writer's; tlv.h has the means to write one that later versions can add
 * to. The format of the journal itself changes its version only when an older reader would go
 * wrong.
 *
 * Each function may be called from any thread; none waits.
 */

#ifndef VDPA_JOURNAL_H
#define VDPA_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

/* Of the format; a journal of another one is refused. */
#define VDPA_JOURNAL_VERSION	 1
/* Characters of a device's name, at most. */
#define VDPA_JOURNAL_NAME_MAX	 128
/* Bounds of a journal: devices, and bytes of a record. */
#define VDPA_JOURNAL_DEVICES_MAX (1u << 17)
#define VDPA_JOURNAL_SLOT_MAX	 (1u << 20)

struct vdpa_journal;

/*
 * Make an empty journal for so many devices, with records of slot_size bytes at most. It takes
 * memory for what is written only. Returns 0, or a negative errno with a message: -EINVAL for a
 * number out of bounds (0 is one), -ENOMEM, -EMFILE, or what memfd_create(2) says.
 */
int vdpa_journal_create(unsigned int max_devices, uint32_t slot_size, struct vdpa_journal **j);

/*
 * Read the journal that a former life has left. fd stays the caller's. Nothing in it is believed:
 * each length, name, number and checksum is checked.
 *
 * Returns 0, or a negative errno with a message, also logged: -EPROTO for a file that is no
 * memory file of fixed size, no journal, of another version, or that says what no crash of a writer
 * leaves behind (a device twice, two slots of one sequence number); -EMFILE, -ENOMEM. A device of
 * which neither slot checks costs that device alone: one line says so, and it is as if it were not
 * there.
 */
int vdpa_journal_open(int fd, struct vdpa_journal **j);

/* Its memory file, for vdpa_keep_put(). It remains the journal's. */
int vdpa_journal_fd(const struct vdpa_journal *j);
/* The version of uvdpa that made it. */
const char *vdpa_journal_writer(const struct vdpa_journal *j);
/* Bytes of a record, at most. */
uint32_t vdpa_journal_slot_size(const struct vdpa_journal *j);

/*
 * Write a device's record in place of the one it has, if any. device: 1 to VDPA_JOURNAL_NAME_MAX
 * printable characters of ASCII. tlv may be NULL where len is 0. Returns 0, or a negative errno
 * with a message, and the record is the one from before: -EINVAL for a name, -EMSGSIZE for a record
 * that is longer than a slot, -ENOSPC where all entries are taken or there is no memory, -EPERM for
 * a file that is sealed against writes.
 */
int vdpa_journal_write(struct vdpa_journal *j, const char *device, const void *tlv, size_t len);

/*
 * A device's record: its length, or a negative errno with a message: -ENOENT, -ENOBUFS where buf is
 * shorter than the record, -EPROTO where it does not check any more, since somebody else has
 * written to the file. buf is undefined then.
 */
int vdpa_journal_read(struct vdpa_journal *j, const char *device, void *buf, size_t size);

/* Forget a device; one that is not there is no failure. 0, or as vdpa_journal_write(). */
int vdpa_journal_remove(struct vdpa_journal *j, const char *device);

/*
 * Call fn for each device that has a record, in the order of their entries, until it returns
 * anything but 0, which is then returned. fn may call any of these functions but close.
 */
int vdpa_journal_for_each(struct vdpa_journal *j, int (*fn)(const char *device, void *arg),
			  void *arg);

/* The file remains with whoever else has it. NULL: no-op. */
void vdpa_journal_close(struct vdpa_journal *j);

#endif /* VDPA_JOURNAL_H */
