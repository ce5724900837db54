/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The state of a device that moves: as a stream, as hostile bytes, and what a device takes. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "control_group.h"
#include "fake_device.h"
#include "saved_state.h"

#define V1	  RTE_BIT64(VIRTIO_F_VERSION_1)
#define PACKED	  RTE_BIT64(VIRTIO_F_RING_PACKED)
#define MUTATIONS 100000
#define HEADER	  16
#define RECORD	  8

static const uint8_t mac[6] = {0x52, 0x54, 0, 0, 0, 1};
static const char driver[] = "the driver's own";

static void
make_state(struct vdpa_saved_state *s)
{
	*s = (struct vdpa_saved_state){
		.device_id = VIRTIO_ID_NET,
		.features = V1,
		.config_size = 64,
		.has = VDPA_SAVED_MAC | VDPA_SAVED_PAIRS | VDPA_SAVED_MTU,
		.max_pairs = 2,
		.mtu = 1500,
		.data_vqs = FAKE_VQS,
		.driver = driver,
		.driver_len = sizeof(driver),
	};
	memcpy(s->mac, mac, sizeof(mac));
	s->vqs[0] = (struct vdpa_saved_vq){.known = true, .num = 64, .base = 7};
	s->vqs[3] = (struct vdpa_saved_vq){.known = true, .num = 256, .base = 65535};
}

/* The caller's to free. */
static uint8_t *
stream_of(const struct vdpa_saved_state *s, size_t *len)
{
	uint8_t *buf;

	*len = vdpa_saved_state_size(s);
	buf = malloc(*len);
	vdpa_saved_state_write(s, buf);
	return buf;
}

static void
assert_same(const struct vdpa_saved_state *a, const struct vdpa_saved_state *b)
{
	assert_int_equal(a->device_id, b->device_id);
	assert_true(a->features == b->features);
	assert_int_equal(a->config_size, b->config_size);
	assert_int_equal(a->has, b->has);
	assert_memory_equal(a->mac, b->mac, sizeof(a->mac));
	assert_int_equal(a->max_pairs, b->max_pairs);
	assert_int_equal(a->mtu, b->mtu);
	assert_true(a->capacity == b->capacity);
	assert_int_equal(a->blk_size, b->blk_size);
	assert_int_equal(a->data_vqs, b->data_vqs);
	for (unsigned int i = 0; i < RTE_DIM(a->vqs); i++) {
		assert_int_equal(a->vqs[i].known, b->vqs[i].known);
		assert_int_equal(a->vqs[i].num, b->vqs[i].num);
		assert_int_equal(a->vqs[i].base, b->vqs[i].base);
	}
	assert_int_equal(a->driver_len, b->driver_len);
	if (a->driver_len > 0)
		assert_memory_equal(a->driver, b->driver, a->driver_len);
}

static void
assert_error(int rc, int expected, const char *text)
{
	assert_int_equal(rc, expected);
	if (strstr(vdpa_error_message(), text) == NULL)
		fail_msg("'%s' is not in: %s", text, vdpa_error_message());
}

static void
what_is_written_is_read(void **state)
{
	struct vdpa_saved_state s, got;
	uint8_t *buf;
	size_t len;

	make_state(&s);
	for (unsigned int i = 0; i < 3; i++) {
		if (i == 1)
			s = (struct vdpa_saved_state){.device_id = VIRTIO_ID_BLOCK,
						      .has = VDPA_SAVED_CAPACITY |
							     VDPA_SAVED_BLK_SIZE,
						      .capacity = UINT64_C(1) << 40,
						      .blk_size = 4096,
						      .data_vqs = 1};
		if (i == 2)
			s = (struct vdpa_saved_state){.device_id = VIRTIO_ID_RNG};
		buf = stream_of(&s, &len);
		assert_int_equal(vdpa_saved_state_read(&got, buf, len), 0);
		assert_same(&s, &got);
		free(buf);
	}
}

static void
a_stream_that_is_cut_anywhere_is_refused(void **state)
{
	struct vdpa_saved_state s, got;
	uint8_t *buf, *cut;
	size_t len;

	make_state(&s);
	buf = stream_of(&s, &len);
	for (size_t at = 0; at < len; at++) {
		/* Memory of just that length: whatever is read behind it is seen. */
		cut = malloc(at + 1);
		memcpy(cut, buf, at);
		cut = realloc(cut, at > 0 ? at : 1);
		assert_error(vdpa_saved_state_read(&got, cut, at), -EPROTO, "ends after");
		free(cut);
	}
	buf = realloc(buf, len + 1);
	buf[len] = 0;
	assert_error(vdpa_saved_state_read(&got, buf, len + 1), -EPROTO, "ends after");
	free(buf);
	buf = calloc(1, VDPA_SAVED_MAX + 1);
	assert_error(vdpa_saved_state_read(&got, buf, VDPA_SAVED_MAX + 1), -EPROTO, "longer than");
	free(buf);
}

/* A stream of one record more; how long it is. */
static size_t
append(uint8_t *buf, size_t len, uint16_t type, uint16_t flags, const void *data, uint32_t n)
{
	uint32_t follows = (uint32_t)(len - HEADER + RECORD + n);

	memcpy(buf + 12, &follows, 4);
	memcpy(buf + len, &type, 2);
	memcpy(buf + len + 2, &flags, 2);
	memcpy(buf + len + 4, &n, 4);
	if (n > 0)
		memcpy(buf + len + RECORD, data, n);
	return len + RECORD + n;
}

static void
records_are_known_whole_and_single(void **state)
{
	struct vdpa_saved_state s, got;
	uint8_t buf[1024], data[12] = {1};
	size_t len;

	make_state(&s);
	len = vdpa_saved_state_size(&s);
	vdpa_saved_state_write(&s, buf);
	/* What a later version adds. */
	assert_int_equal(vdpa_saved_state_read(&got, buf, append(buf, len, 77, 0, data, 3)), 0);
	assert_same(&s, &got);
	assert_error(vdpa_saved_state_read(&got, buf, append(buf, len, 77, 1, data, 3)), -EPROTO,
		     "record 77");
	assert_error(vdpa_saved_state_read(&got, buf, append(buf, len, 3, 1, mac, 6)), -EPROTO,
		     "'MAC' of the state comes twice");
	s.has = 0;
	s.driver_len = 0;
	len = vdpa_saved_state_size(&s);
	vdpa_saved_state_write(&s, buf);
	assert_error(vdpa_saved_state_read(&got, buf, append(buf, len, 3, 1, mac, 5)), -EPROTO,
		     "'MAC' of the state has 5 bytes, expected 6");
	/* The header alone is a stream without any record. */
	assert_error(vdpa_saved_state_read(&got, buf, append(buf, HEADER, 77, 0, data, 0)), -EPROTO,
		     "no record 'device'");
	len = append(buf, HEADER, 8, 1, data, 11);
	assert_error(vdpa_saved_state_read(&got, buf, len), -EPROTO, "no multiple");
	data[1] = 1; /* queue 257 */
	len = append(buf, HEADER, 8, 1, data, 12);
	assert_error(vdpa_saved_state_read(&got, buf, len), -EPROTO, "queue 257");
}

static void
another_version_is_named(void **state)
{
	struct vdpa_saved_state s, got;
	uint8_t *buf;
	size_t len;

	make_state(&s);
	buf = stream_of(&s, &len);
	buf[8] = 9;
	assert_error(vdpa_saved_state_read(&got, buf, len), -EPROTO,
		     "version 9, this build reads version 1");
	buf[8] = 1;
	buf[0] = 0;
	assert_error(vdpa_saved_state_read(&got, buf, len), -EPROTO, "none of this framework's");
	free(buf);
}

/* A net device of two pairs with every field. */
static struct fake_device *
make_device(void)
{
	struct fake_device *fake = fake_device_new("fake0", true);
	struct virtio_net_config *c = (void *)fake->config;

	fake->more_features = RTE_BIT64(VIRTIO_NET_F_MAC) | RTE_BIT64(VIRTIO_NET_F_MTU) |
			      RTE_BIT64(VIRTIO_NET_F_MQ);
	memcpy(c->mac, mac, sizeof(mac));
	c->max_virtqueue_pairs = 2;
	c->mtu = 1500;
	assert_int_equal(vdpa_register_device(&fake->vdev), 0);
	return fake;
}

static void
free_device(struct fake_device *fake)
{
	vdpa_unregister_device(&fake->vdev);
	vdpa_put_device(&fake->vdev);
}

static void
a_device_takes_the_state_of_one_like_it_only(void **state)
{
	struct fake_device *fake = make_device();
	const uint64_t offered = V1 | PACKED;
	struct vdpa_saved_state s;

#define REFUSES(change, text)                                                                      \
	do {                                                                                       \
		make_state(&s);                                                                    \
		change;                                                                            \
		assert_error(vdpa_saved_state_check(&fake->vdev, offered, FAKE_VQS, &s), -EINVAL,  \
			     text);                                                                \
	} while (0)
	make_state(&s);
	assert_int_equal(vdpa_saved_state_check(&fake->vdev, offered, FAKE_VQS, &s), 0);
	/* A field that only one of them has is none that a guest is shown. */
	s.has = VDPA_SAVED_CAPACITY;
	assert_int_equal(vdpa_saved_state_check(&fake->vdev, offered, FAKE_VQS, &s), 0);
	REFUSES(s.device_id = VIRTIO_ID_BLOCK, "class: block (2) in the state, network (1) here");
	REFUSES(s.features |= 1, "features: 0x100000001 in the state, of 0x500000000 here");
	REFUSES(s.mac[5] = 2, "52:54:00:00:00:02 in the state, 52:54:00:00:00:01 here");
	REFUSES(s.max_pairs = 8, "queue pairs: 8 in the state, 2 here");
	REFUSES(s.mtu = 9000, "MTU: 9000 in the state, 1500 here");
	REFUSES(s.data_vqs = 2, "queues: 2 in the state, 4 here");
	REFUSES(s.vqs[4].known = true, "queue 4 of the state: there are 4 here");
	REFUSES(s.vqs[1] = s.vqs[0]; s.vqs[1].num = 48, "size 48 of a split ring");
	REFUSES(s.vqs[0].num = 0, "size 0, allowed are");
	REFUSES(s.vqs[0].base = 65536, "place 0x10000 in the state is none of a split ring of 64");
	REFUSES(s.features |= PACKED; s.vqs[0].base = 64, "place 0x40 in the state is none of a "
							  "packed ring of 64");
#undef REFUSES
	free_device(fake);
}

static uint64_t seed = 1;

static uint32_t
draw(uint32_t below)
{
	seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (uint32_t)(seed >> 33) % below;
}

/* Change a stream in some places, and perhaps its length, which its header then says. */
static size_t
mutate(uint8_t *buf, size_t len, size_t room)
{
	static const uint8_t odd[] = {0, 1, 2, 7, 8, 9, 10, 0x7f, 0x80, 0xff};
	uint32_t follows;

	for (unsigned int n = 1 + draw(4); n > 0; n--) {
		size_t at = draw((uint32_t)len), part = 1 + draw(32);

		switch (draw(4)) {
		case 0:
			buf[at] ^= (uint8_t)(1u << draw(8));
			break;
		case 1:
			buf[at] = odd[draw(RTE_DIM(odd))];
			break;
		case 2: /* a part less */
			part = RTE_MIN(part, len - at);
			memmove(buf + at, buf + at + part, len - at - part);
			len = RTE_MAX(len - part, (size_t)HEADER);
			break;
		case 3: /* a part twice */
			part = RTE_MIN(part, len - at);
			if (len + part > room)
				break;
			memmove(buf + at + part, buf + at, len - at);
			len += part;
			break;
		}
	}
	follows = (uint32_t)(len - HEADER);
	if (draw(8) != 0)
		memcpy(buf + 12, &follows, 4);
	return len;
}

static void
no_bytes_do_harm(void **state)
{
	struct fake_device *fake = make_device();
	struct vdpa_saved_state s, got, again;
	unsigned int readable = 0, taken = 0;
	uint8_t *stream, *buf, *copy;
	size_t len, n;

	make_state(&s);
	stream = stream_of(&s, &len);
	for (unsigned int i = 0; i < MUTATIONS; i++) {
		uint8_t work[512];

		memcpy(work, stream, len);
		n = mutate(work, len, sizeof(work));
		/* Of just that length, for a sanitizer to see what is read behind it. */
		buf = malloc(n);
		memcpy(buf, work, n);
		if (vdpa_saved_state_read(&got, buf, n) == 0) {
			size_t rewritten;

			readable++;
			taken += vdpa_saved_state_check(&fake->vdev, V1 | PACKED, FAKE_VQS, &got) ==
				 0;
			copy = stream_of(&got, &rewritten);
			assert_int_equal(vdpa_saved_state_read(&again, copy, rewritten), 0);
			assert_same(&got, &again);
			free(copy);
		}
		free(buf);
	}
	/* The mutations reach everything. */
	assert_true(readable > MUTATIONS / 100);
	assert_true(taken > 0 && taken < readable);
	free(stream);
	free_device(fake);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(a_stream_that_is_cut_anywhere_is_refused),
		cmocka_unit_test(records_are_known_whole_and_single),
		cmocka_unit_test(another_version_is_named),
		cmocka_unit_test(a_device_takes_the_state_of_one_like_it_only),
		cmocka_unit_test(no_bytes_do_harm),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
