/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Journals that anybody may have made. */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <rte_common.h>
#include <rte_hash_crc.h>

#include "journal_test.h"
#include "tlv.h"

#define MUTATIONS  100000
/* The format, as bytes. */
#define HEADER	   4096
#define HEADER_CRC 124
#define STRIDE	   384
#define SEQ	   8
#define FLAGS	   16
#define DEVICE	   24

/* Files. */

static uint32_t
crc_of(const uint8_t *p, size_t len)
{
	uint32_t crc = 0xffffffff;

	while (len-- > 0)
		crc = rte_hash_crc_1byte(*p++, crc);
	return crc;
}

struct image {
	size_t size;
	uint8_t *data;
};

/* The bytes of a journal; the caller's to free. */
static struct image
image_of(struct vdpa_journal *j)
{
	struct image image;
	struct stat st;

	assert_int_equal(fstat(vdpa_journal_fd(j), &st), 0);
	image.size = (size_t)st.st_size;
	image.data = malloc(image.size);
	assert_non_null(image.data);
	assert_int_equal(pread(vdpa_journal_fd(j), image.data, image.size, 0), (ssize_t)image.size);
	return image;
}

static uint8_t *
slot_of(const struct image *image, unsigned int idx, unsigned int slot)
{
	return image->data + HEADER + STRIDE * (2 * idx + slot);
}

static void
mend_header(const struct image *image)
{
	vdpa_le_put(image->data + HEADER_CRC, crc_of(image->data, HEADER_CRC), 4);
}

static void
mend_slot(uint8_t *slot)
{
	uint32_t len = (uint32_t)vdpa_le_get(slot + 4, 4);

	if (len <= SLOT)
		vdpa_le_put(slot, crc_of(slot + 4, SLOT_HEADER - 4 + len), 4);
}

static int
file_of(const struct image *image, unsigned int seals)
{
	int fd = memfd_create("test", MFD_ALLOW_SEALING | MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, image->data, image->size), (ssize_t)image->size);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

/* A journal of these bytes is refused, with this in the message. */
static void
assert_refused(const struct image *image, const char *why)
{
	int fd = file_of(image, F_SEAL_SHRINK | F_SEAL_GROW);
	struct vdpa_journal *j;

	assert_int_equal(vdpa_journal_open(fd, &j), -EPROTO);
	assert_null(j);
	if (strstr(vdpa_error_message(), why) == NULL)
		fail_msg("expected '%s': %s", why, vdpa_error_message());
	close(fd);
}

static struct image
good_image(void)
{
	struct vdpa_journal *j = make_journal(DEVICES, SLOT);
	struct image image;

	put_text(j, "net0", "older");
	put_text(j, "net0", "newer");
	put_text(j, "blk0", "block");
	put_text(j, "gone", "was here");
	assert_int_equal(vdpa_journal_remove(j, "gone"), 0);
	image = image_of(j);
	assert_int_equal(image.size, HEADER + STRIDE * 2 * DEVICES);
	vdpa_journal_close(j);
	return image;
}

static void
a_file_that_is_no_journal_is_refused(void **state)
{
	struct image image = good_image();
	char path[] = "/tmp/uvdpa-test.XXXXXX", link[64];
	struct vdpa_journal *j;
	int fd, rd;

	fd = mkstemp(path);
	unlink(path);
	assert_int_equal(vdpa_journal_open(fd, &j), -EPROTO);
	assert_non_null(strstr(vdpa_error_message(), "no memory file"));
	close(fd);
	assert_true(vdpa_journal_open(fd, &j) < 0);
	assert_true(vdpa_journal_open(-1, &j) < 0);

	fd = file_of(&image, 0);
	assert_int_equal(vdpa_journal_open(fd, &j), -EPROTO);
	assert_non_null(strstr(vdpa_error_message(), "not sealed"));
	close(fd);
	fd = file_of(&image, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	assert_int_equal(vdpa_journal_open(fd, &j), -EPROTO);
	assert_non_null(strstr(vdpa_error_message(), "against writes"));
	close(fd);
	fd = file_of(&image, F_SEAL_SHRINK | F_SEAL_GROW);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	rd = open(link, O_RDONLY);
	assert_int_equal(vdpa_journal_open(rd, &j), -EPROTO);
	assert_non_null(strstr(vdpa_error_message(), "reading and writing"));
	close(rd);
	close(fd);

	image.size = 0;
	assert_refused(&image, "shorter than its header");
	image.size = 127;
	assert_refused(&image, "shorter than its header");
	image.size = HEADER + STRIDE * 2 * DEVICES - 1;
	assert_refused(&image, "by its header");
	image.size++;
	image.data[0] ^= 1;
	mend_header(&image);
	assert_refused(&image, "no journal");
	free(image.data);
}

static void
a_journal_of_another_version_is_refused(void **state)
{
	struct image image = good_image();

	vdpa_le_put(image.data + 8, 0, 4);
	mend_header(&image);
	assert_refused(&image, "it has version 0, this build reads version 1");
	/* A later one may have its checksum elsewhere. */
	vdpa_le_put(image.data + 8, 2, 4);
	assert_refused(&image, "it has version 2, this build reads version 1");
	free(image.data);
}

static void
a_header_that_is_wrong_is_refused(void **state)
{
	static const struct {
		unsigned int at, bytes;
		uint64_t value;
		const char *why;
	} wrong[] = {
		{12, 4, 8192, "out of bounds"},	      {16, 4, 0, "out of bounds"},
		{16, 4, 0xffffffff, "out of bounds"}, {16, 4, DEVICES + 1, "by its header"},
		{20, 4, 0, "out of bounds"},	      {20, 4, 0xffffffff, "out of bounds"},
		{20, 4, 1 << 20, "by its header"},    {20, 4, (1 << 20) + 1, "out of bounds"},
	};
	struct image image = good_image();

	for (unsigned int i = 0; i < RTE_DIM(wrong); i++) {
		uint64_t right = vdpa_le_get(image.data + wrong[i].at, wrong[i].bytes);

		vdpa_le_put(image.data + wrong[i].at, wrong[i].value, wrong[i].bytes);
		assert_refused(&image, "does not check");
		mend_header(&image);
		assert_refused(&image, wrong[i].why);
		vdpa_le_put(image.data + wrong[i].at, right, wrong[i].bytes);
		mend_header(&image);
	}
	memset(image.data + 24, 'x', 64);
	mend_header(&image);
	assert_refused(&image, "out of bounds");
	free(image.data);
}

static void
what_no_crash_leaves_behind_is_refused(void **state)
{
	struct image image = good_image();
	uint8_t *slot = slot_of(&image, 1, 0);

	/* Entry 1 is blk0; entry 0 has net0 in both slots. */
	memcpy(slot + DEVICE, "net0", 5);
	mend_slot(slot);
	assert_refused(&image, "device 'net0' has two entries");
	memcpy(slot + DEVICE, "blk0", 5);
	mend_slot(slot);

	slot = slot_of(&image, 0, 0);
	vdpa_le_put(slot + SEQ, 2, 8);
	mend_slot(slot);
	assert_refused(&image, "sequence number 2 twice");
	vdpa_le_put(slot + SEQ, 0, 8);
	mend_slot(slot);
	assert_refused(&image, "no record");
	vdpa_le_put(slot + SEQ, UINT64_MAX, 8);
	mend_slot(slot);
	assert_refused(&image, "no record");
	vdpa_le_put(slot + SEQ, 3, 8);
	vdpa_le_put(slot + FLAGS, 1, 2);
	mend_slot(slot);
	assert_refused(&image, "removed and has a record");
	vdpa_le_put(slot + FLAGS, 0, 2);
	slot[DEVICE] = '\0';
	mend_slot(slot);
	assert_refused(&image, "no name");
	memset(slot + DEVICE, 'x', 136);
	mend_slot(slot);
	assert_refused(&image, "no name");
	free(image.data);
}

static void
a_device_without_a_good_slot_is_lost_alone(void **state)
{
	struct image image = good_image();
	struct vdpa_journal *j;
	int fd;

	slot_of(&image, 0, 0)[SLOT_HEADER] ^= 1;
	fd = file_of(&image, F_SEAL_SHRINK | F_SEAL_GROW);
	j = reopen(fd);
	assert_string_equal(get_text(j, "net0"), "newer");
	vdpa_journal_close(j);
	close(fd);

	slot_of(&image, 0, 0)[SLOT_HEADER] ^= 1;
	slot_of(&image, 0, 1)[SLOT_HEADER] ^= 1;
	fd = file_of(&image, F_SEAL_SHRINK | F_SEAL_GROW);
	j = reopen(fd);
	assert_string_equal(get_text(j, "net0"), "older");
	vdpa_journal_close(j);
	close(fd);

	slot_of(&image, 0, 0)[SLOT_HEADER] ^= 1;
	fd = file_of(&image, F_SEAL_SHRINK | F_SEAL_GROW);
	j = reopen(fd);
	assert_string_equal(devices_of(j), "blk0 ");
	put_text(j, "net1", "takes its entry");
	put_text(j, "net2", "takes the free one");
	put_text(j, "net3", "takes the last one");
	assert_int_equal(vdpa_journal_write(j, "net4", "x", 1), -ENOSPC);
	vdpa_journal_close(j);
	j = reopen(fd);
	assert_string_equal(devices_of(j), "net1 blk0 net2 net3 ");
	vdpa_journal_close(j);
	close(fd);
	free(image.data);
}

static void
a_record_that_another_process_changes_is_not_read(void **state)
{
	struct vdpa_journal *j = make_journal(DEVICES, SLOT), *k;

	put_text(j, "net0", "mine");
	k = reopen(vdpa_journal_fd(j));
	put_text(k, "net0", "theirs");
	put_text(k, "net0", "theirs again");
	assert_string_equal(get_text(j, "net0"), "error");
	assert_non_null(strstr(vdpa_error_message(), "another process"));
	vdpa_journal_close(k);
	vdpa_journal_close(j);
}

/* Bytes that anybody may have made. */

static uint64_t rng = 0x9e3779b97f4a7c15;

static uint32_t
below(uint32_t n)
{
	rng ^= rng >> 12;
	rng ^= rng << 25;
	rng ^= rng >> 27;
	return (uint32_t)((rng * UINT64_C(2685821657736338717) >> 32) % n);
}

/* Where something is written most of the time: fields. */
static size_t
place(const struct image *image)
{
	switch (below(4)) {
	case 0:
		return below(128);
	case 1:
		return below((uint32_t)image->size);
	default:
		return HEADER + STRIDE * below(2 * DEVICES) + below(SLOT_HEADER + 16);
	}
}

static void
mutate(struct image *image, bool *mended)
{
	static const uint64_t values[] = {0,	      1,	  2,	      0x7f,
					  0x80,	      0xff,	  SLOT,	      SLOT + 1,
					  0x7fffffff, 0x80000000, 0xffffffff, UINT64_MAX};
	unsigned int n = 1 + below(4);

	while (n-- > 0) {
		size_t at = place(image), from = place(image);
		unsigned int bytes = 1u << below(4);

		if (at + bytes > image->size || from + bytes > image->size)
			continue;
		switch (below(4)) {
		case 0:
			image->data[at] ^= (uint8_t)(1u << below(8));
			break;
		case 1:
			vdpa_le_put(image->data + at, values[below(RTE_DIM(values))], bytes);
			break;
		case 2:
			memmove(image->data + at, image->data + from, bytes);
			break;
		default:
			/* A slot in another's place. */
			memmove(slot_of(image, below(DEVICES), below(2)),
				slot_of(image, below(DEVICES), below(2)), STRIDE);
		}
	}
	*mended = below(2) == 0;
	if (!*mended)
		return;
	mend_header(image);
	for (unsigned int i = 0; i < 2 * DEVICES; i++)
		if (vdpa_le_get(slot_of(image, 0, i), 4) != 0)
			mend_slot(slot_of(image, 0, i));
}

struct found {
	struct vdpa_journal *j;
	bool mended;
	unsigned int n;
};

/* A record is one that was written for this device, unless its checksum was made right. */
static int
check_found(const char *device, void *arg)
{
	struct found *found = arg;
	uint8_t record[SLOT];
	int len = vdpa_journal_read(found->j, device, record, sizeof(record));
	const char *text = (const char *)record;

	assert_in_range(strlen(device), 1, VDPA_JOURNAL_NAME_MAX);
	assert_in_range(len, 0, SLOT);
	found->n++;
	if (found->mended)
		return 0;
	if (strcmp(device, "net0") == 0)
		assert_true(len == 5 &&
			    (memcmp(text, "older", 5) == 0 || memcmp(text, "newer", 5) == 0));
	else if (strcmp(device, "blk0") == 0)
		assert_true(len == 5 && memcmp(text, "block", 5) == 0);
	else
		assert_true(strcmp(device, "gone") == 0 && len == 8 &&
			    memcmp(text, "was here", 8) == 0);
	return 0;
}

static void
no_bytes_do_harm(void **state)
{
	struct image good = good_image(), image = good;
	unsigned int opened = 0, refused = 0, records = 0;
	int fd = file_of(&good, F_SEAL_SHRINK | F_SEAL_GROW), saved = dup(2), null;

	/* Each refusal is a line. */
	null = open("/dev/null", O_WRONLY);
	dup2(null, 2);
	image.data = malloc(good.size);
	assert_non_null(image.data);
	for (unsigned int i = 0; i < MUTATIONS; i++) {
		struct found found = {.n = 0};
		int rc;

		memcpy(image.data, good.data, good.size);
		mutate(&image, &found.mended);
		assert_int_equal(pwrite(fd, image.data, image.size, 0), (ssize_t)image.size);
		rc = vdpa_journal_open(fd, &found.j);
		if (rc < 0) {
			assert_int_equal(rc, -EPROTO);
			refused++;
			continue;
		}
		assert_int_equal(vdpa_journal_for_each(found.j, check_found, &found), 0);
		assert_in_range(found.n, 0, DEVICES);
		records += found.n;
		opened++;
		if (found.n < DEVICES || vdpa_journal_remove(found.j, "net0") == 0) {
			rc = vdpa_journal_write(found.j, "new", "record", 6);
			assert_true(rc == 0 || rc == -ENOSPC);
			if (rc == 0)
				assert_string_equal(get_text(found.j, "new"), "record");
		}
		vdpa_journal_close(found.j);
	}
	dup2(saved, 2);
	close(saved);
	close(null);
	print_message("%u journals opened with %u records, %u refused\n", opened, records, refused);
	assert_true(opened > MUTATIONS / 10 && refused > MUTATIONS / 10);
	close(fd);
	free(image.data);
	free(good.data);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_that_is_no_journal_is_refused),
		cmocka_unit_test(a_journal_of_another_version_is_refused),
		cmocka_unit_test(a_header_that_is_wrong_is_refused),
		cmocka_unit_test(what_no_crash_leaves_behind_is_refused),
		cmocka_unit_test(a_device_without_a_good_slot_is_lost_alone),
		cmocka_unit_test(a_record_that_another_process_changes_is_not_read),
		cmocka_unit_test(no_bytes_do_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
