/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Records that outlive the program that wrote them: u16 type, u16 flags, u32 length and so many
 * bytes, little endian, one after the other without gaps. A later version adds types: a reader
 * skips one that it does not know, unless its flags say that it must be known. Nothing here owns
 * memory or waits.
 */

#ifndef VDPA_TLV_H
#define VDPA_TLV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Flag of a record: a reader that does not know its type must not go on. */
#define VDPA_TLV_CRITICAL 1

/* Bytes before those of a record. */
#define VDPA_TLV_HEADER 8

/* Number as bytes, little endian, bytes of them; the place behind them. */
uint8_t *vdpa_le_put(uint8_t *p, uint64_t value, unsigned int bytes);
uint64_t vdpa_le_get(const uint8_t *p, unsigned int bytes);

/* Where records are written to: size bytes of the caller's, of which len have been written. */
struct vdpa_tlv_buf {
	uint8_t *data;
	size_t size;
	size_t len;
	bool overflow; /* a record did not fit; set for good, so that one look at the end is enough
			*/
};

/*
 * Add a record. data may be NULL where len is 0. 0; -ENOBUFS with a message where it does not fit:
 * it is left out then, and so is each that follows.
 */
int vdpa_tlv_put(struct vdpa_tlv_buf *buf, uint16_t type, uint16_t flags, const void *data,
		 uint32_t len);
/* Add one whose value is a number of 1 to 8 bytes. */
int vdpa_tlv_put_number(struct vdpa_tlv_buf *buf, uint16_t type, uint16_t flags, uint64_t value,
			unsigned int bytes);

/* A record that was read; data points to where it lies. */
struct vdpa_tlv {
	uint16_t type;
	uint16_t flags;
	uint32_t len;
	const uint8_t *data;
};

/* Records that are read: those left, and what they are called in messages ("the state"). */
struct vdpa_tlv_reader {
	const uint8_t *data;
	size_t left;
	const char *what;
};

/*
 * The next record of bytes that anybody may have made. 1; 0 where none is left; -EPROTO with a
 * message for what is no record, or one that is longer than what is left.
 */
int vdpa_tlv_next(struct vdpa_tlv_reader *reader, struct vdpa_tlv *tlv);

/*
 * For a record whose type the reader does not know. 0: skip it; -EPROTO with a message: it must be
 * known. last: the highest type that this build knows, for the message.
 */
int vdpa_tlv_unknown(const struct vdpa_tlv_reader *reader, const struct vdpa_tlv *tlv,
		     uint16_t last);

#endif /* VDPA_TLV_H */
