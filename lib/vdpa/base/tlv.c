/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Records that outlive the program that wrote them (tlv.h). Owns nothing. */

#include <errno.h>
#include <string.h>

#include "tlv.h"
#include "vdpa_error.h"

uint8_t *
vdpa_le_put(uint8_t *p, uint64_t value, unsigned int bytes)
{
	for (unsigned int i = 0; i < bytes; i++)
		*p++ = (uint8_t)(value >> 8 * i);
	return p;
}

uint64_t
vdpa_le_get(const uint8_t *p, unsigned int bytes)
{
	uint64_t value = 0;

	for (unsigned int i = 0; i < bytes; i++)
		value |= (uint64_t)p[i] << 8 * i;
	return value;
}

int
vdpa_tlv_put(struct vdpa_tlv_buf *buf, uint16_t type, uint16_t flags, const void *data,
	     uint32_t len)
{
	size_t left = buf->size - buf->len;
	uint8_t *p = buf->data + buf->len;

	if (buf->overflow || left < VDPA_TLV_HEADER || left - VDPA_TLV_HEADER < len) {
		buf->overflow = true;
		return vdpa_error(ENOBUFS, "record %u of %u bytes: %zu of %zu are left", type, len,
				  left, buf->size);
	}
	p = vdpa_le_put(p, type, 2);
	p = vdpa_le_put(p, flags, 2);
	p = vdpa_le_put(p, len, 4);
	if (len > 0)
		memcpy(p, data, len);
	buf->len += VDPA_TLV_HEADER + len;
	return 0;
}

int
vdpa_tlv_put_number(struct vdpa_tlv_buf *buf, uint16_t type, uint16_t flags, uint64_t value,
		    unsigned int bytes)
{
	uint8_t data[sizeof(value)];

	vdpa_le_put(data, value, bytes);
	return vdpa_tlv_put(buf, type, flags, data, bytes);
}

int
vdpa_tlv_next(struct vdpa_tlv_reader *reader, struct vdpa_tlv *tlv)
{
	const uint8_t *p = reader->data;

	if (reader->left == 0)
		return 0;
	if (reader->left < VDPA_TLV_HEADER)
		return vdpa_error(EPROTO, "%s ends with %zu bytes that are no record", reader->what,
				  reader->left);
	tlv->type = (uint16_t)vdpa_le_get(p, 2);
	tlv->flags = (uint16_t)vdpa_le_get(p + 2, 2);
	tlv->len = (uint32_t)vdpa_le_get(p + 4, 4);
	tlv->data = p + VDPA_TLV_HEADER;
	reader->left -= VDPA_TLV_HEADER;
	if (tlv->len > reader->left)
		return vdpa_error(EPROTO, "record %u of %s has %u bytes, and %zu are left",
				  tlv->type, reader->what, tlv->len, reader->left);
	reader->data = tlv->data + tlv->len;
	reader->left -= tlv->len;
	return 1;
}

int
vdpa_tlv_unknown(const struct vdpa_tlv_reader *reader, const struct vdpa_tlv *tlv, uint16_t last)
{
	if ((tlv->flags & VDPA_TLV_CRITICAL) == 0)
		return 0;
	return vdpa_error(EPROTO,
			  "record %u of %s is of a later version and must be known; known are 1 "
			  "to %u",
			  tlv->type, reader->what, last);
}
