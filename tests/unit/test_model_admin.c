/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Group administration commands of vdpa-model and the parts of its functions (virtio 1.4, 2.12 and
 * 2.14), as bytes. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "admin_commands.h"
#include "model_test.h"
#include "virtio_compat.h"

#define MEMBER	3
#define S_RUNS	(S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK)
#define ROOM	4096
#define PARTS_N (8 + 2 * NVQS)

static struct admin admin;
static uint8_t out[ROOM];
static size_t out_len;

static struct vp_function *
member(void *arg, uint64_t number)
{
	return number == MEMBER ? arg : NULL;
}

static int
setup_admin(void **state)
{
	int rc = setup(state);
	struct owner *o = *state;

	admin = (struct admin){.member = member, .arg = &o->vp};
	admin_reset(&admin);
	return rc;
}

/* The status; the result lies behind struct admin_answer in out. */
static unsigned int
give_to(uint16_t group, uint64_t to, uint16_t opcode, const void *data, size_t len, size_t room)
{
	const struct admin_request req = {.opcode = opcode, .group_type = group, .member = to};
	uint8_t in[ROOM];
	struct admin_answer answer;

	assert_true(sizeof(req) + len <= sizeof(in));
	memcpy(in, &req, sizeof(req));
	if (len > 0)
		memcpy(in + sizeof(req), data, len);
	memset(out, 0xee, sizeof(out));
	out_len = admin_execute(&admin, in, sizeof(req) + len, out, room);
	assert_true(out_len <= room);
	memcpy(&answer, out, sizeof(answer));
	return answer.status;
}

static unsigned int
give(uint16_t opcode, const void *data, size_t len)
{
	uint16_t group = opcode >= ADMIN_CAP_LIST_QUERY && opcode <= ADMIN_DRIVER_CAP_SET
				 ? ADMIN_GROUP_SELF
				 : ADMIN_GROUP_SRIOV;

	return give_to(group, group == ADMIN_GROUP_SRIOV ? MEMBER : 0, opcode, data, len, ROOM);
}

static unsigned int
qualifier(void)
{
	return ((struct admin_answer *)(void *)out)->qualifier;
}

static const uint8_t *
result(void)
{
	return out + sizeof(struct admin_answer);
}

/* As a driver begins: the commands of both groups, and how many objects. */
static void
begin(void)
{
	const uint8_t cap[] = {ADMIN_CAP_PARTS, 0, 0, 0, 0, 0, 0, 0, 2, 2};

	for (uint16_t group = 0; group < 2; group++) {
		uint64_t list;

		assert_int_equal(give_to(group, 0, ADMIN_LIST_QUERY, NULL, 0, ROOM), ADMIN_OK);
		assert_int_equal(out_len, sizeof(struct admin_answer) + sizeof(list));
		memcpy(&list, result(), sizeof(list));
		assert_int_equal(give_to(group, 0, ADMIN_LIST_USE, &list, sizeof(list), ROOM),
				 ADMIN_OK);
	}
	assert_int_equal(give(ADMIN_DRIVER_CAP_SET, cap, sizeof(cap)), ADMIN_OK);
}

static unsigned int
create(uint32_t id, uint8_t type)
{
	const struct admin_obj_create c = {.obj = {.id = id}, .parts_type = type};

	return give(ADMIN_OBJ_CREATE, &c, sizeof(c));
}

static size_t
get_parts(uint8_t *parts)
{
	const struct admin_parts_query query = {.type = ADMIN_GET_ALL};

	assert_int_equal(give(ADMIN_PARTS_GET, &query, sizeof(query)), ADMIN_OK);
	memcpy(parts, result(), out_len - sizeof(struct admin_answer));
	return out_len - sizeof(struct admin_answer);
}

static unsigned int
set_parts(uint32_t id, const void *parts, size_t len)
{
	const struct admin_obj obj = {.id = id};
	uint8_t data[ROOM / 2];

	assert_true(sizeof(obj) + len <= sizeof(data));
	memcpy(data, &obj, sizeof(obj));
	memcpy(data + sizeof(obj), parts, len);
	return give(ADMIN_PARTS_SET, data, sizeof(obj) + len);
}

static void
set_mode(uint8_t mode)
{
	assert_int_equal(give(ADMIN_MODE_SET, &mode, 1), ADMIN_OK);
}

static void
commands_come_after_the_list_of_them(void **state)
{
	const uint64_t other = RTE_BIT64(0x2);

	assert_int_equal(create(0, ADMIN_OBJ_PARTS_GET), ADMIN_EINVAL);
	assert_int_equal(qualifier(), ADMIN_Q_INVALID_OPCODE);
	assert_int_equal(give_to(1, 0, ADMIN_LIST_USE, &other, sizeof(other), ROOM), ADMIN_EINVAL);
	assert_int_equal(qualifier(), ADMIN_Q_INVALID_FIELD);
	assert_int_equal(give_to(2, 0, ADMIN_LIST_QUERY, NULL, 0, ROOM), ADMIN_EINVAL);
	assert_int_equal(qualifier(), ADMIN_Q_INVALID_GROUP);
	begin();
	assert_int_equal(give_to(1, MEMBER, 0x3f, NULL, 0, ROOM), ADMIN_EINVAL);
	assert_int_equal(give_to(1, MEMBER + 1, ADMIN_MODE_SET, NULL, 0, ROOM), ADMIN_EINVAL);
	assert_int_equal(qualifier(), ADMIN_Q_INVALID_MEMBER);
	/* Of the other group. */
	assert_int_equal(give_to(0, 0, ADMIN_MODE_SET, NULL, 0, ROOM), ADMIN_EINVAL);
}

static void
objects_are_as_many_as_the_driver_has_said(void **state)
{
	const struct admin_obj second = {.id = 1}, third = {.id = 2};
	const uint8_t cap[] = {ADMIN_CAP_PARTS, 0, 0, 0, 0, 0, 0, 0, 1, 1};

	begin();
	assert_int_equal(create(2, ADMIN_OBJ_PARTS_GET), ADMIN_ENOSPC);
	assert_int_equal(create(0, 2), ADMIN_EINVAL);
	assert_int_equal(create(0, ADMIN_OBJ_PARTS_GET), ADMIN_OK);
	assert_int_equal(create(0, ADMIN_OBJ_PARTS_SET), ADMIN_EEXIST);
	assert_int_equal(create(1, ADMIN_OBJ_PARTS_SET), ADMIN_OK);
	assert_int_equal(give(ADMIN_DRIVER_CAP_SET, cap, sizeof(cap)), ADMIN_EBUSY);
	assert_int_equal(give(ADMIN_OBJ_DESTROY, &third, sizeof(third)), ADMIN_ENXIO);
	assert_int_equal(give(ADMIN_OBJ_DESTROY, &second, sizeof(second)), ADMIN_OK);
	assert_int_equal(give(ADMIN_OBJ_DESTROY, &second, sizeof(second)), ADMIN_ENXIO);
	assert_int_equal(create(1, ADMIN_OBJ_PARTS_GET), ADMIN_OK);
	/* A reset of the owner ends them, and what the driver has said. */
	admin_reset(&admin);
	assert_int_equal(create(0, ADMIN_OBJ_PARTS_GET), ADMIN_EINVAL);
}

static void
metadata_say_what_there_is(void **state)
{
	struct owner *o = *state;
	struct admin_parts_query query = {.type = ADMIN_METADATA_SIZE};
	struct admin_parts_count count;
	uint8_t parts[ROOM];

	begin();
	assert_int_equal(give(ADMIN_PARTS_METADATA_GET, &query, sizeof(query)), ADMIN_ENXIO);
	assert_int_equal(create(0, ADMIN_OBJ_PARTS_GET), ADMIN_OK);
	assert_int_equal(give(ADMIN_PARTS_METADATA_GET, &query, sizeof(query)), ADMIN_OK);
	memcpy(&count, result(), sizeof(count));
	assert_int_equal(count.value, get_parts(parts));
	assert_int_equal(count.value, vp_parts_size(&o->vp));
	query.type = ADMIN_METADATA_COUNT;
	assert_int_equal(give(ADMIN_PARTS_METADATA_GET, &query, sizeof(query)), ADMIN_OK);
	memcpy(&count, result(), sizeof(count));
	assert_int_equal(count.value, PARTS_N);
	query.type = ADMIN_METADATA_LIST;
	assert_int_equal(give(ADMIN_PARTS_METADATA_GET, &query, sizeof(query)), ADMIN_OK);
	assert_int_equal(out_len, sizeof(struct admin_answer) + sizeof(count) +
					  PARTS_N * sizeof(struct part_hdr));
	/* Too little room is an error here, and nowhere else. */
	assert_int_equal(give_to(1, MEMBER, ADMIN_PARTS_METADATA_GET, &query, sizeof(query), 64),
			 ADMIN_ENOMEM);
	assert_int_equal(out_len, sizeof(struct admin_answer));
	assert_int_equal(give_to(1, 0, ADMIN_LIST_QUERY, NULL, 0, 12), ADMIN_OK);
	assert_int_equal(out_len, 12);
}

static void
parts_come_in_their_order_and_as_the_registers_are(void **state)
{
	static const uint16_t order[] = {PART_DEV_FEATURES, PART_DRV_FEATURES, PART_PCI_COMMON,
					 PART_STATUS,	    PART_VQ_CFG,       PART_VQ_NOTIFY_CFG};
	struct owner *o = *state;
	struct part_vq_cfg cfg;
	uint8_t parts[ROOM];
	unsigned int n = 0, stage = 0;
	size_t len, at = 0;
	struct part part;

	begin();
	run(o);
	wr(o, VIRTIO_PCI_COMMON_Q_SELECT, 2, 2);
	wr(o, VIRTIO_PCI_COMMON_Q_SIZE, 2, 32);
	wr(o, VIRTIO_PCI_COMMON_Q_DESCLO, 4, 0x7000);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(create(0, ADMIN_OBJ_PARTS_GET), ADMIN_OK);
	len = get_parts(parts);
	while (part_next(parts, len, &at, &part) > 0) {
		while (part.type != order[stage])
			assert_true(++stage < RTE_DIM(order));
		assert_int_equal(part.hdr.flags, part.type == PART_DEV_FEATURES);
		if (part.type == PART_STATUS)
			assert_int_equal(part.value[0], S_RUNS);
		if (part.type == PART_VQ_CFG && part.hdr.selector.vq.index == 2) {
			assert_int_equal(part.length, sizeof(cfg));
			memcpy(&cfg, part.value, sizeof(cfg));
			assert_int_equal(cfg.size, 32);
			assert_int_equal(cfg.enabled, 1);
			assert_int_equal(cfg.desc, 0x7000);
		}
		n++;
	}
	assert_int_equal(n, PARTS_N);
	assert_int_equal(at, len);
}

static void
selected_parts_come_alone(void **state)
{
	struct {
		struct admin_parts_query query;
		struct part_hdr want[3];
	} __attribute__((packed)) select = {
		.query = {.type = ADMIN_GET_SELECTED},
		.want = {{.type = PART_VQ_CFG, .selector.vq.index = 1},
			 {.type = PART_STATUS},
			 /* It is not there, and skipped. */
			 {.type = PART_VQ_CFG, .selector.vq.index = NVQS}},
	};

	begin();
	assert_int_equal(create(0, ADMIN_OBJ_PARTS_GET), ADMIN_OK);
	assert_int_equal(give(ADMIN_PARTS_GET, &select, sizeof(select)), ADMIN_OK);
	assert_int_equal(out_len, sizeof(struct admin_answer) + 2 * sizeof(struct part_hdr) + 1 +
					  sizeof(struct part_vq_cfg));
}

static void
a_stopped_function_stands_still(void **state)
{
	struct owner *o = *state;

	begin();
	run(o);
	set_mode(ADMIN_MODE_STOPPED);
	assert_int_equal(o->suspends, 1);
	/* The status does not show it. */
	assert_int_equal(status(o), S_RUNS);
	set_mode(ADMIN_MODE_STOPPED);
	assert_int_equal(o->suspends, 1);
	set_mode(0);
	assert_int_equal(o->resumes, 1);
	assert_int_equal(o->resets, 1);
}

static void
parts_of_one_function_make_another_like_it(void **state)
{
	struct owner *o = *state;
	uint8_t parts[ROOM], again[ROOM];
	size_t len;

	begin();
	run(o);
	wr(o, VIRTIO_PCI_COMMON_MSIX, 2, 2);
	wr(o, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	wr(o, VIRTIO_PCI_COMMON_Q_SIZE, 2, 64);
	wr(o, VIRTIO_PCI_COMMON_Q_MSIX, 2, 3);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(create(0, ADMIN_OBJ_PARTS_GET), ADMIN_OK);
	assert_int_equal(create(1, ADMIN_OBJ_PARTS_SET), ADMIN_OK);
	len = get_parts(parts);
	vdpa_vp_function_reset(&o->vp);
	assert_int_equal(set_parts(1, parts, len), ADMIN_EBUSY);
	set_mode(ADMIN_MODE_STOPPED);
	assert_int_equal(set_parts(0, parts, len), ADMIN_EINVAL);
	assert_int_equal(set_parts(1, parts, len), ADMIN_OK);
	/* Not in force yet. */
	assert_int_equal(o->starts, 1);
	set_mode(0);
	assert_int_equal(o->starts, 2);
	assert_int_equal(status(o), S_RUNS);
	assert_int_equal(o->features, FEATURES);
	assert_int_equal(o->placed_by_ring, 1u << 1);
	assert_int_equal(get_parts(again), len);
	assert_memory_equal(parts, again, len);
	/* A reset takes them away. */
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	(void)get_parts(again);
	assert_memory_not_equal(parts, again, len);
}

/* Change a byte of the first part of a type, and see that nothing is set. */
static void
refuse(struct owner *o, const uint8_t *parts, size_t len, uint16_t type, size_t byte, uint8_t value)
{
	struct part part = {0};
	uint8_t bad[ROOM];
	size_t at = 0;

	memcpy(bad, parts, len);
	do
		assert_int_equal(part_next(bad, len, &at, &part), 1);
	while (part.type != type);
	bad[(size_t)(part.value - bad) - sizeof(part.hdr) + byte] = value;
	assert_int_equal(set_parts(1, bad, len), ADMIN_EINVAL);
	assert_int_equal(status(o), 0);
	assert_false(o->vp.loaded);
}

static void
parts_that_cannot_be_are_refused_whole(void **state)
{
	const size_t hdr = sizeof(struct part_hdr);
	const struct part_hdr unknown = {.type = 0x200}, optional = {.type = 0x201, .flags = 1};
	struct owner *o = *state;
	uint8_t parts[ROOM];
	size_t len;

	begin();
	run(o);
	assert_int_equal(create(0, ADMIN_OBJ_PARTS_GET), ADMIN_OK);
	assert_int_equal(create(1, ADMIN_OBJ_PARTS_SET), ADMIN_OK);
	len = get_parts(parts);
	vdpa_vp_function_reset(&o->vp);
	set_mode(ADMIN_MODE_STOPPED);
	for (size_t cut = 1; cut < len; cut++) {
		struct part part;
		size_t at = 0;
		int rc;

		while ((rc = part_next(parts, cut, &at, &part)) > 0)
			;
		assert_int_equal(set_parts(1, parts, cut), rc == 0 ? ADMIN_OK : ADMIN_EINVAL);
		/* What ends between two parts is a list; it is taken back here. */
		vdpa_vp_device_reset(&o->vp);
	}
	refuse(o, parts, len, PART_DEV_FEATURES, hdr, 0xff);
	refuse(o, parts, len, PART_DRV_FEATURES, hdr + 7, 0x80);
	refuse(o, parts, len, PART_PCI_COMMON, 4, 1);
	refuse(o, parts, len, PART_STATUS, hdr, 0x20);
	refuse(o, parts, len, PART_VQ_CFG, 4, NVQS);
	refuse(o, parts, len, PART_VQ_CFG, hdr, 3);
	refuse(o, parts, len, PART_VQ_CFG, hdr + 2, VECTORS);
	refuse(o, parts, len, PART_VQ_CFG, hdr + 4, 2);
	refuse(o, parts, len, PART_VQ_NOTIFY_CFG, hdr, 9);
	assert_int_equal(set_parts(1, &unknown, sizeof(unknown)), ADMIN_EINVAL);
	assert_int_equal(set_parts(1, &optional, sizeof(optional)), ADMIN_OK);
}

/* Requests of every length and any content: an answer, and nothing else happens. */
static void
any_bytes_are_answered(void **state)
{
	uint8_t in[96];
	uint32_t seed = 1;

	begin();
	for (unsigned int i = 0; i < 200000; i++) {
		size_t len = i % (sizeof(in) + 1), room = i % 61;

		for (size_t at = 0; at < len; at++) {
			seed = seed * 1664525u + 1013904223u;
			in[at] = (uint8_t)(seed >> 28 != 0 && at > 2 ? 0 : seed >> 24);
		}
		if (len > 2) {
			in[0] %= 20;
			in[1] = 0;
			in[2] %= 3;
		}
		if (len > 16)
			in[16] = MEMBER;
		assert_true(admin_execute(&admin, in, len, out, room) <= room);
	}
}

int
main(void)
{
#define WITH(test) cmocka_unit_test_setup_teardown(test, setup_admin, teardown)
	const struct CMUnitTest tests[] = {
		WITH(commands_come_after_the_list_of_them),
		WITH(objects_are_as_many_as_the_driver_has_said),
		WITH(metadata_say_what_there_is),
		WITH(parts_come_in_their_order_and_as_the_registers_are),
		WITH(selected_parts_come_alone),
		WITH(a_stopped_function_stands_still),
		WITH(parts_of_one_function_make_another_like_it),
		WITH(parts_that_cannot_be_are_refused_whole),
		WITH(any_bytes_are_answered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
