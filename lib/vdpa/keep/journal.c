/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The journal (vdpa_journal.h). Owns its memory file and what it has learnt of it: which device an
 * entry is of, and which of its slots is the record.
 *
 * The file is read and written by pread(2) and pwrite(2), never mapped: what was checked is then a
 * copy that nobody else can change, a file that lacks memory is an error and no signal, and looking
 * at what was never written takes no memory.
 *
 * A device that is removed has a slot without a record that says so, newer than its last record. So
 * an entry is free if its newer slot says so, or if neither slot was ever written; and a write into
 * a free entry that is not finished leaves it free.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <rte_byteorder.h>
#include <rte_common.h>
#include <rte_hash_crc.h>

#include "pages.h"
#include "tree.h"
#include "vdpa_error.h"
#include "vdpa_fd.h"
#include "vdpa_journal.h"
#include "vdpa_log.h"

#define SEALS	    (F_SEAL_SHRINK | F_SEAL_GROW)
/* The header has a page of its own, and slots begin at multiples of 64 bytes. */
#define HEADER_SIZE 4096u
#define SLOT_ALIGN  64u
#define CRC_INIT    0xffffffffu

static const uint8_t magic[8] = {'u', 'v', 'd', 'p', 'a', 'j', 'n', 'l'};

/* The file begins with it; the rest of its page is 0. */
struct journal_header {
	uint8_t magic[8];
	rte_le32_t version;
	rte_le32_t header_size;
	rte_le32_t max_devices;
	rte_le32_t slot_size; /* bytes of a record, at most */
	char writer[64];
	uint8_t reserved[36];
	rte_le32_t crc; /* of all before it */
} __attribute__((packed));
_Static_assert(sizeof(struct journal_header) == 128, "the header's format");

/* Flag of a slot: the device was removed. */
#define SLOT_REMOVED 1

/* A slot begins with it; the record follows. All 0: never written. */
struct slot_header {
	rte_le32_t crc; /* of all behind it, with the record */
	rte_le32_t len; /* of the record */
	rte_le64_t seq; /* from 1 */
	rte_le16_t flags;
	uint8_t reserved[6];
	char device[136]; /* with its end */
} __attribute__((packed));
_Static_assert(sizeof(struct slot_header) == 160, "the slots' format");
_Static_assert(VDPA_JOURNAL_NAME_MAX < sizeof(((struct slot_header *)NULL)->device), "a name fits");

struct journal_entry {
	char device[VDPA_JOURNAL_NAME_MAX + 1]; /* empty: the entry is free */
	uint64_t seq;				/* of the slot that checks; 0: neither does */
	unsigned int slot;			/* the one that checks */
};

struct vdpa_journal {
	pthread_mutex_t lock;
	int fd;
	uint32_t max_devices, slot_size;
	char writer[sizeof(((struct journal_header *)NULL)->writer)];
	struct vdpa_tree names;	       /* entries that are not free */
	struct journal_entry *entries; /* max_devices */
	unsigned int n;		       /* entries from here on were never written */
	unsigned int first_free;       /* none before it is free */
	uint8_t *buf;		       /* of a slot */
};

static int
compare_entries(const void *a, const void *b)
{
	return strcmp(((const struct journal_entry *)a)->device,
		      ((const struct journal_entry *)b)->device);
}

/* CRC32C. p need not be aligned. */
static uint32_t
crc_of(const void *data, size_t len, uint32_t crc)
{
	const uint8_t *p = data;
	uint64_t word;

	for (; len >= sizeof(word); len -= sizeof(word), p += sizeof(word)) {
		memcpy(&word, p, sizeof(word));
		crc = rte_hash_crc_8byte(word, crc);
	}
	for (; len > 0; len--)
		crc = rte_hash_crc_1byte(*p++, crc);
	return crc;
}

static uint64_t
slot_stride(uint32_t slot_size)
{
	return RTE_ALIGN_CEIL(sizeof(struct slot_header) + (uint64_t)slot_size, SLOT_ALIGN);
}

static uint64_t
file_size(uint32_t max_devices, uint32_t slot_size)
{
	return HEADER_SIZE + 2 * slot_stride(slot_size) * max_devices;
}

static off_t
slot_offset(const struct vdpa_journal *j, unsigned int idx, unsigned int slot)
{
	return (off_t)(HEADER_SIZE + slot_stride(j->slot_size) * (2 * (uint64_t)idx + slot));
}

static bool
is_name(const char *name)
{
	size_t len = strnlen(name, VDPA_JOURNAL_NAME_MAX + 1);

	for (size_t i = 0; i < len; i++)
		if (name[i] <= ' ' || name[i] > '~')
			return false;
	return len > 0 && len <= VDPA_JOURNAL_NAME_MAX;
}

static int
check_name(const char *name)
{
	return is_name(name) ? 0
			     : vdpa_error(EINVAL,
					  "journal: device '%.128s': a name has 1 to %d printable "
					  "characters without blanks",
					  name, VDPA_JOURNAL_NAME_MAX);
}

/* All of len bytes. 0, or a negative errno without a message; -EPROTO: the file ends before. */
static int
read_all(int fd, void *buf, size_t len, off_t at)
{
	uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = pread(fd, p, len, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EPROTO;
		p += n;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

static int
write_all(int fd, const void *buf, size_t len, off_t at)
{
	const uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = pwrite(fd, p, len, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENOSPC;
		p += n;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Making and opening. */

static int
journal_alloc(uint32_t max_devices, uint32_t slot_size, struct vdpa_journal **out)
{
	struct vdpa_journal *j = calloc(1, sizeof(*j));

	if (j == NULL)
		return vdpa_error(ENOMEM, "journal: out of memory");
	j->fd = -1;
	j->max_devices = max_devices;
	j->slot_size = slot_size;
	j->names.compare = compare_entries;
	j->entries = vdpa_pages_alloc(max_devices, sizeof(*j->entries));
	j->buf = calloc(1, slot_stride(slot_size));
	pthread_mutex_init(&j->lock, NULL);
	if (j->entries == NULL || j->buf == NULL) {
		vdpa_journal_close(j);
		return vdpa_error(ENOMEM, "journal: out of memory");
	}
	*out = j;
	return 0;
}

static int
write_header(struct vdpa_journal *j)
{
	struct journal_header h = {
		.version = rte_cpu_to_le_32(VDPA_JOURNAL_VERSION),
		.header_size = rte_cpu_to_le_32(HEADER_SIZE),
		.max_devices = rte_cpu_to_le_32(j->max_devices),
		.slot_size = rte_cpu_to_le_32(j->slot_size),
	};

	memcpy(h.magic, magic, sizeof(magic));
	snprintf(h.writer, sizeof(h.writer), "%s", UVDPA_VERSION);
	snprintf(j->writer, sizeof(j->writer), "%s", UVDPA_VERSION);
	h.crc = rte_cpu_to_le_32(crc_of(&h, offsetof(struct journal_header, crc), CRC_INIT));
	return write_all(j->fd, &h, sizeof(h), 0);
}

int
vdpa_journal_create(unsigned int max_devices, uint32_t slot_size, struct vdpa_journal **out)
{
	struct vdpa_journal *j;
	int rc;

	*out = NULL;
	if (max_devices == 0 || max_devices > VDPA_JOURNAL_DEVICES_MAX || slot_size == 0 ||
	    slot_size > VDPA_JOURNAL_SLOT_MAX)
		return vdpa_error(EINVAL,
				  "journal: %u devices with records of %u bytes: allowed are 1 to "
				  "%u and 1 to %u",
				  max_devices, slot_size, VDPA_JOURNAL_DEVICES_MAX,
				  VDPA_JOURNAL_SLOT_MAX);
	rc = journal_alloc(max_devices, slot_size, &j);
	if (rc < 0)
		return rc;
	j->fd = memfd_create("uvdpa-journal", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (j->fd < 0) {
		rc = vdpa_fd_error(errno, "journal");
		goto err_close;
	}
	if (ftruncate(j->fd, (off_t)file_size(max_devices, slot_size)) < 0)
		rc = -errno;
	if (rc == 0)
		rc = write_header(j);
	if (rc == 0 && fcntl(j->fd, F_ADD_SEALS, SEALS | F_SEAL_SEAL) < 0)
		rc = -errno;
	if (rc < 0) {
		vdpa_error(rc, "journal: %s", strerror(-rc));
		goto err_close;
	}
	*out = j;
	return 0;
err_close:
	vdpa_journal_close(j);
	return rc;
}

/* What a slot says, after its checksum was found right. */
static int
check_slot(const struct vdpa_journal *j, unsigned int idx, const struct slot_header *h)
{
	bool removed = (rte_le_to_cpu_16(h->flags) & SLOT_REMOVED) != 0;

	if (memchr(h->device, '\0', sizeof(h->device)) == NULL || !is_name(h->device))
		return vdpa_error(EPROTO, "entry %u has no name", idx);
	if (rte_le_to_cpu_64(h->seq) == 0 || rte_le_to_cpu_64(h->seq) == UINT64_MAX)
		return vdpa_error(EPROTO, "entry %u has a sequence number of no record", idx);
	if (removed && h->len != 0)
		return vdpa_error(EPROTO, "entry %u was removed and has a record", idx);
	return 0;
}

enum slot_state {
	SLOT_EMPTY, /* was never written */
	SLOT_TORN,  /* does not check */
	SLOT_CHECKS,
};

/*
 * Read a slot's header to h, and its record to `record` where that has room for a whole one; its
 * checksum is of what was read. A slot_state, or a negative errno without a message.
 */
static int
read_slot(const struct vdpa_journal *j, unsigned int idx, unsigned int slot, struct slot_header *h,
	  uint8_t *record)
{
	static const struct slot_header empty;
	off_t at = slot_offset(j, idx, slot);
	int rc = read_all(j->fd, h, sizeof(*h), at);
	uint32_t len, crc;

	if (rc < 0)
		return rc;
	if (memcmp(h, &empty, sizeof(empty)) == 0)
		return SLOT_EMPTY;
	len = rte_le_to_cpu_32(h->len);
	if (len > j->slot_size)
		return SLOT_TORN;
	rc = read_all(j->fd, record, len, at + (off_t)sizeof(*h));
	if (rc < 0)
		return rc;
	crc = crc_of(&h->len, sizeof(*h) - offsetof(struct slot_header, len), CRC_INIT);
	crc = crc_of(record, len, crc);
	return crc == rte_le_to_cpu_32(h->crc) ? SLOT_CHECKS : SLOT_TORN;
}

static int
read_entry(struct vdpa_journal *j, unsigned int idx)
{
	struct slot_header h[2];
	struct journal_entry *e = &j->entries[idx];
	unsigned int newer, slot;
	int state[2], rc;

	for (slot = 0; slot < 2; slot++) {
		state[slot] = read_slot(j, idx, slot, &h[slot], j->buf);
		if (state[slot] < 0)
			return vdpa_error(state[slot], "entry %u: %s", idx, strerror(-state[slot]));
		rc = state[slot] == SLOT_CHECKS ? check_slot(j, idx, &h[slot]) : 0;
		if (rc < 0)
			return rc;
	}
	if (state[0] == SLOT_EMPTY && state[1] == SLOT_EMPTY)
		return 0;
	if (state[0] == SLOT_CHECKS && state[1] == SLOT_CHECKS && h[0].seq == h[1].seq)
		return vdpa_error(EPROTO, "entry %u has the sequence number %" PRIu64 " twice", idx,
				  rte_le_to_cpu_64(h[0].seq));
	j->n = idx + 1;
	if (state[0] != SLOT_CHECKS && state[1] != SLOT_CHECKS) {
		/* A first write that was not finished leaves the other slot empty. */
		if (state[0] == SLOT_TORN && state[1] == SLOT_TORN)
			VDPA_LOG(WARNING,
				 "journal: entry %u: neither of its slots checks: its device is "
				 "lost",
				 idx);
		return 0;
	}
	newer = state[1] == SLOT_CHECKS &&
		(state[0] != SLOT_CHECKS ||
		 rte_le_to_cpu_64(h[1].seq) > rte_le_to_cpu_64(h[0].seq));
	e->slot = newer;
	e->seq = rte_le_to_cpu_64(h[newer].seq);
	if ((rte_le_to_cpu_16(h[newer].flags) & SLOT_REMOVED) != 0)
		return 0;
	memcpy(e->device, h[newer].device, strlen(h[newer].device) + 1);
	rc = vdpa_tree_add(&j->names, e);
	if (rc == 0)
		return 0;
	e->device[0] = '\0';
	return rc == -EEXIST ? vdpa_error(EPROTO, "device '%s' has two entries", h[newer].device)
			     : vdpa_error(ENOMEM, "journal: out of memory");
}

/* Entries that were never written are holes of the file. */
static int
read_entries(struct vdpa_journal *j)
{
	uint64_t stride = 2 * slot_stride(j->slot_size);
	unsigned int idx = 0;
	int rc = 0;

	while (rc == 0 && idx < j->max_devices) {
		off_t data = lseek(j->fd, slot_offset(j, idx, 0), SEEK_DATA);

		if (data < 0)
			return errno == ENXIO ? 0 : vdpa_error(errno, "%m");
		idx = RTE_MAX(idx, (unsigned int)(((uint64_t)data - HEADER_SIZE) / stride));
		if (idx < j->max_devices)
			rc = read_entry(j, idx++);
	}
	return rc;
}

/* The file, from its outside. */
static int
check_file(int fd, struct stat *st)
{
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0)
		return errno == EINVAL ? vdpa_error(EPROTO, "it is no memory file")
				       : vdpa_error(errno, "%m");
	if ((seals & SEALS) != SEALS)
		return vdpa_error(EPROTO, "its size is not sealed");
	if ((seals & F_SEAL_WRITE) != 0)
		return vdpa_error(EPROTO, "it is sealed against writes");
	if (fstat(fd, st) < 0)
		return vdpa_error(errno, "%m");
	if ((fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR)
		return vdpa_error(EPROTO, "it is not open for reading and writing");
	return 0;
}

static int
read_header(int fd, struct journal_header *h)
{
	uint32_t version, header_size, max_devices, slot_size;
	struct stat st;
	int rc = check_file(fd, &st);

	if (rc < 0)
		return rc;
	if (read_all(fd, h, sizeof(*h), 0) < 0)
		return vdpa_error(EPROTO, "it is shorter than its header");
	if (memcmp(h->magic, magic, sizeof(magic)) != 0)
		return vdpa_error(EPROTO, "it is no journal of this framework's");
	/* Before the checksum, which a later version may have elsewhere. */
	version = rte_le_to_cpu_32(h->version);
	if (version != VDPA_JOURNAL_VERSION)
		return vdpa_error(EPROTO, "it has version %u, this build reads version %d", version,
				  VDPA_JOURNAL_VERSION);
	if (crc_of(h, offsetof(struct journal_header, crc), CRC_INIT) != rte_le_to_cpu_32(h->crc))
		return vdpa_error(EPROTO, "its header does not check");
	header_size = rte_le_to_cpu_32(h->header_size);
	max_devices = rte_le_to_cpu_32(h->max_devices);
	slot_size = rte_le_to_cpu_32(h->slot_size);
	if (header_size != HEADER_SIZE || max_devices == 0 ||
	    max_devices > VDPA_JOURNAL_DEVICES_MAX || slot_size == 0 ||
	    slot_size > VDPA_JOURNAL_SLOT_MAX || memchr(h->writer, '\0', sizeof(h->writer)) == NULL)
		return vdpa_error(EPROTO,
				  "its header is out of bounds: %u bytes of header, %u devices, "
				  "%u bytes a record",
				  header_size, max_devices, slot_size);
	if ((uint64_t)st.st_size != file_size(max_devices, slot_size))
		return vdpa_error(EPROTO, "it has %lld bytes, and %llu by its header",
				  (long long)st.st_size,
				  (unsigned long long)file_size(max_devices, slot_size));
	return 0;
}

int
vdpa_journal_open(int fd, struct vdpa_journal **out)
{
	struct vdpa_journal *j = NULL;
	struct journal_header h;
	int rc = read_header(fd, &h);

	*out = NULL;
	if (rc == 0)
		rc = journal_alloc(rte_le_to_cpu_32(h.max_devices), rte_le_to_cpu_32(h.slot_size),
				   &j);
	if (rc < 0)
		goto err_log;
	snprintf(j->writer, sizeof(j->writer), "%s", h.writer);
	j->fd = vdpa_fd_dup(fd, "journal");
	rc = j->fd < 0 ? j->fd : read_entries(j);
	if (rc == 0) {
		*out = j;
		return 0;
	}
err_log:
	VDPA_LOG(ERR, "journal: %s", vdpa_error_message());
	vdpa_journal_close(j);
	return rc;
}

int
vdpa_journal_fd(const struct vdpa_journal *j)
{
	return j->fd;
}

const char *
vdpa_journal_writer(const struct vdpa_journal *j)
{
	return j->writer;
}

uint32_t
vdpa_journal_slot_size(const struct vdpa_journal *j)
{
	return j->slot_size;
}

/* Records. */

static struct journal_entry *
find_entry(const struct vdpa_journal *j, const char *device)
{
	struct journal_entry like;

	snprintf(like.device, sizeof(like.device), "%s", device);
	return vdpa_tree_find(&j->names, &like);
}

/* An entry for a device that has none; it is free until its first record is written. */
static int
take_free(struct vdpa_journal *j, const char *device, struct journal_entry **out)
{
	unsigned int i = j->first_free;
	struct journal_entry *e;

	while (i < j->n && j->entries[i].device[0] != '\0')
		i++;
	j->first_free = i;
	if (i == j->max_devices)
		return vdpa_error(ENOSPC, "journal: device '%s': all %u entries are taken", device,
				  j->max_devices);
	e = &j->entries[i];
	snprintf(e->device, sizeof(e->device), "%s", device);
	if (vdpa_tree_add(&j->names, e) < 0) {
		e->device[0] = '\0';
		return vdpa_error(ENOMEM, "journal: out of memory");
	}
	j->n = RTE_MAX(j->n, i + 1);
	*out = e;
	return 0;
}

static void
give_back(struct vdpa_journal *j, struct journal_entry *e)
{
	vdpa_tree_del(&j->names, e);
	e->device[0] = '\0';
	j->first_free = RTE_MIN(j->first_free, (unsigned int)(e - j->entries));
}

/* Write the slot of an entry that is not its record, by one call: what is cut does not check. */
static int
write_slot(struct vdpa_journal *j, struct journal_entry *e, uint16_t flags, const void *record,
	   size_t len)
{
	unsigned int slot = e->seq == 0 ? 0 : 1 - e->slot;
	struct slot_header h = {
		.len = rte_cpu_to_le_32((uint32_t)len),
		.seq = rte_cpu_to_le_64(e->seq + 1),
		.flags = rte_cpu_to_le_16(flags),
	};
	uint32_t crc;
	int rc;

	memcpy(h.device, e->device, strlen(e->device) + 1);
	crc = crc_of(&h.len, sizeof(h) - offsetof(struct slot_header, len), CRC_INIT);
	h.crc = rte_cpu_to_le_32(crc_of(record, len, crc));
	memcpy(j->buf, &h, sizeof(h));
	if (len > 0)
		memcpy(j->buf + sizeof(h), record, len);
	rc = write_all(j->fd, j->buf, sizeof(h) + len,
		       slot_offset(j, (unsigned int)(e - j->entries), slot));
	if (rc < 0)
		return vdpa_error(rc, "journal: device '%s': %s", e->device, strerror(-rc));
	e->slot = slot;
	e->seq++;
	return 0;
}

int
vdpa_journal_write(struct vdpa_journal *j, const char *device, const void *tlv, size_t len)
{
	struct journal_entry *e;
	bool is_new;
	int rc = check_name(device);

	if (rc < 0)
		return rc;
	if (len > j->slot_size)
		return vdpa_error(EMSGSIZE,
				  "journal: device '%s': its record has %zu bytes, a slot %u",
				  device, len, j->slot_size);
	pthread_mutex_lock(&j->lock);
	e = find_entry(j, device);
	is_new = e == NULL;
	if (is_new)
		rc = take_free(j, device, &e);
	if (rc == 0) {
		rc = write_slot(j, e, 0, tlv, len);
		if (rc < 0 && is_new)
			give_back(j, e);
	}
	pthread_mutex_unlock(&j->lock);
	return rc;
}

int
vdpa_journal_remove(struct vdpa_journal *j, const char *device)
{
	struct journal_entry *e;
	int rc = check_name(device);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&j->lock);
	e = find_entry(j, device);
	if (e != NULL) {
		rc = write_slot(j, e, SLOT_REMOVED, NULL, 0);
		if (rc == 0)
			give_back(j, e);
	}
	pthread_mutex_unlock(&j->lock);
	return rc;
}

/* The record in j->buf, and its length. */
static int
read_record(struct vdpa_journal *j, const struct journal_entry *e)
{
	struct slot_header h;
	int state = read_slot(j, (unsigned int)(e - j->entries), e->slot, &h, j->buf);

	if (state != SLOT_CHECKS || rte_le_to_cpu_64(h.seq) != e->seq ||
	    strncmp(h.device, e->device, sizeof(h.device)) != 0)
		return vdpa_error(EPROTO,
				  "journal: device '%s': its record is not the one that was "
				  "written or found: another process writes to the file",
				  e->device);
	return (int)rte_le_to_cpu_32(h.len);
}

int
vdpa_journal_read(struct vdpa_journal *j, const char *device, void *buf, size_t size)
{
	struct journal_entry *e;
	int rc = check_name(device);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&j->lock);
	e = find_entry(j, device);
	rc = e == NULL ? vdpa_error(ENOENT, "journal: no device '%s'", device) : read_record(j, e);
	if (rc >= 0 && (size_t)rc > size)
		rc = vdpa_error(ENOBUFS,
				"journal: device '%s': its record has %d bytes, there is room for "
				"%zu",
				device, rc, size);
	if (rc > 0)
		memcpy(buf, j->buf, (size_t)rc);
	pthread_mutex_unlock(&j->lock);
	return rc;
}

/* The name of the first device of an entry from *idx on, which moves behind it. */
static bool
next_device(struct vdpa_journal *j, unsigned int *idx, char *device)
{
	bool found = false;

	pthread_mutex_lock(&j->lock);
	while (*idx < j->n && !found) {
		const struct journal_entry *e = &j->entries[(*idx)++];

		found = e->device[0] != '\0';
		memcpy(device, e->device, sizeof(e->device));
	}
	pthread_mutex_unlock(&j->lock);
	return found;
}

int
vdpa_journal_for_each(struct vdpa_journal *j, int (*fn)(const char *device, void *arg), void *arg)
{
	char device[VDPA_JOURNAL_NAME_MAX + 1];
	unsigned int idx = 0;
	int rc = 0;

	while (rc == 0 && next_device(j, &idx, device))
		rc = fn(device, arg);
	return rc;
}

static void
keep_node(void *node)
{
}

void
vdpa_journal_close(struct vdpa_journal *j)
{
	if (j == NULL)
		return;
	tdestroy(j->names.root, keep_node);
	if (j->fd >= 0)
		close(j->fd);
	pthread_mutex_destroy(&j->lock);
	vdpa_pages_free(j->entries, j->max_devices, sizeof(*j->entries));
	free(j->buf);
	free(j);
}
