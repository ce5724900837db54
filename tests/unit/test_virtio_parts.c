/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A device's state by its owner (words owner and member): an owner that is vdpa-model's, with parts
 * of a net device's type beside the common ones; owners that answer as they should not; and states
 * that are not for this device.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "admin_commands.h"
#include "virtio_test.h"

#define MEMBER 2
#define OWNED  WORDS "owner fake/pf member 2"
#define NVQS   5

/* How the owner misbehaves, from when a test sets it. */
enum wrong {
	WELL,
	SILENT,	     /* never uses a command */
	SHORT,	     /* uses it without a whole answer */
	LONG,	     /* says that it wrote more than there was room for */
	REFUSES_SET, /* answers that it does not set parts */
	REFUSES_GO,  /* nor lets the member go on */
	HUGE_PARTS,  /* parts of more than a state may have */
	GROWING,     /* more parts than it said */
	CUT_PARTS,   /* a list that ends in the middle of a part */
	NO_COMMANDS, /* has none for device parts */
	NO_OBJECTS,  /* nor objects */
};

/* Parts of a net device's type: a table of MAC addresses, and two that the service gives itself. */
#define CVQ_PART(class, command, n)                                                                \
	{                                                                                          \
		.type = 0x200, .selector.raw = {class, command}, .length = (n)                     \
	}

struct group {
	struct fake_virtio pf;
	struct admin admin;
	struct vp_function vp;
	enum wrong wrong;
	struct {
		struct part_hdr vlan;
		uint8_t vlan_id[2];
		struct part_hdr pairs;
		uint8_t pairs_n[2];
		struct part_hdr promisc;
		uint8_t promisc_on[1];
	} __attribute__((packed)) type_parts;
	uint8_t set[VDPA_STATE_MAX]; /* as it was given, behind the object */
	size_t set_len;
	unsigned int sets, modes[2];
	uint64_t requests[0x12]; /* by opcode */
};

static struct group g;

static int
set_features(void *arg, uint64_t features)
{
	return 0;
}

static int
nothing(void *arg)
{
	return 0;
}

static void
do_nothing(void *arg)
{
}

static void
no_queue(void *arg, uint16_t idx)
{
}

static const struct vp_ops vp_ops = {
	.set_features = set_features,
	.start = nothing,
	.suspend = nothing,
	.resume = nothing,
	.reset = do_nothing,
	.intx = do_nothing,
	.place_by_ring = no_queue,
};

static struct vp_function *
member(void *arg, uint64_t number)
{
	return number == MEMBER ? &g.vp : NULL;
}

/* What lies behind the answer's head of a command that has succeeded. */
static int
with_type_parts(const struct admin_request *req, uint8_t *out, int n)
{
	uint8_t *result = out + sizeof(struct admin_answer);
	struct admin_parts_count size;

	if (((struct admin_answer *)(void *)out)->status != ADMIN_OK)
		return n;
	if (req->opcode == ADMIN_PARTS_METADATA_GET) {
		memcpy(&size, result, sizeof(size));
		size.value += (uint32_t)sizeof(g.type_parts);
		if (g.wrong == HUGE_PARTS)
			size.value = VDPA_STATE_MAX + 1;
		if (g.wrong == GROWING)
			size.value = 16;
		memcpy(result, &size, sizeof(size));
	} else if (req->opcode == ADMIN_PARTS_GET) {
		memcpy(out + n, &g.type_parts, sizeof(g.type_parts));
		n += (int)sizeof(g.type_parts) - (g.wrong == CUT_PARTS);
	}
	return n;
}

static int
answer(uint8_t *out, uint16_t status)
{
	const struct admin_answer a = {.status = status};

	memcpy(out, &a, sizeof(a));
	return (int)sizeof(a);
}

static int
on_admin(void *arg, const uint8_t *in, size_t in_len, uint8_t *out, size_t room)
{
	const size_t data = sizeof(struct admin_request);
	struct admin_request req;
	int n;

	assert_true(in_len >= sizeof(req));
	memcpy(&req, in, sizeof(req));
	assert_true(req.opcode < RTE_DIM(g.requests));
	g.requests[req.opcode]++;
	if (g.wrong == SILENT)
		return -1;
	if (g.wrong == SHORT)
		return (int)sizeof(struct admin_answer) - 1;
	if (g.wrong == LONG)
		return (int)room + 1;
	if (req.opcode == ADMIN_MODE_SET)
		g.modes[in[data] & 1]++;
	if (req.opcode == ADMIN_MODE_SET && g.wrong == REFUSES_GO && in[data] == 0)
		return answer(out, ADMIN_EBUSY);
	if (req.opcode == ADMIN_PARTS_SET) {
		g.sets++;
		g.set_len = in_len - data - sizeof(struct admin_obj);
		memcpy(g.set, in + data + sizeof(struct admin_obj), g.set_len);
		assert_true(g.vp.stopped);
		return answer(out, g.wrong == REFUSES_SET ? ADMIN_EINVAL : ADMIN_OK);
	}
	if (req.opcode == ADMIN_LIST_QUERY && g.wrong == NO_COMMANDS && req.group_type == 1) {
		n = answer(out, ADMIN_OK);
		memset(out + n, 3, sizeof(uint64_t));
		return n + (int)sizeof(uint64_t);
	}
	n = (int)admin_execute(&g.admin, in, in_len, out, room);
	if (req.opcode == ADMIN_DEVICE_CAP_GET && g.wrong == NO_OBJECTS)
		memset(out + sizeof(struct admin_answer), 0, 2);
	return with_type_parts(&req, out, n);
}

static int
group_of_one(void **state)
{
	const struct vp_params params = {
		.device_id = 1,
		.features = V1 | RTE_BIT64(VIRTIO_NET_F_MQ) | RTE_BIT64(VIRTIO_NET_F_CTRL_VQ),
		.nvqs = NVQS,
		.queue_size_max = 256,
		.vectors = NVQS + 1,
		.notify_mult = 4,
		.ops = &vp_ops,
	};

	memset(&g, 0, sizeof(g));
	if (vdpa_vp_init(&g.vp, &params) < 0)
		return -1;
	g.admin.member = member;
	admin_reset(&g.admin);
	g.type_parts.vlan = (struct part_hdr)CVQ_PART(2, 0, 2);
	g.type_parts.vlan_id[0] = 7;
	g.type_parts.pairs = (struct part_hdr)CVQ_PART(4, 0, 2);
	g.type_parts.pairs_n[0] = 2;
	g.type_parts.promisc = (struct part_hdr)CVQ_PART(0, 0, 1);
	fake_virtio_init_owner(&g.pf, "pf", on_admin, NULL);
	return setup(state);
}

static int
group_ends(void **state)
{
	int rc = teardown(state);

	/* With the last of its members. */
	assert_null(g.pf.pci.open);
	assert_int_equal(g.pf.pci.n_mapped, 0);
	fake_virtio_fini(&g.pf);
	vdpa_vp_fini(&g.vp);
	return rc;
}

static void
add_owned(struct fixture *f)
{
	add_net(f, 2, OWNED);
	start(f);
	/* What the function's registers hold is what a start has written; the model of the member
	 * knows the features alone. */
	g.vp.driver_features = f->v.driver_features & g.vp.params.features;
}

static int
save(struct fixture *f, void *buf, size_t *len)
{
	return f->vdev->config->save_state(f->vdev, buf, len);
}

static int
load(struct fixture *f, const void *buf, size_t len)
{
	return f->vdev->config->load_state(f->vdev, buf, len);
}

static size_t
save_all(struct fixture *f, uint8_t *buf)
{
	size_t len = VDPA_STATE_MAX;

	if (save(f, buf, &len) < 0)
		fail_msg("%s", vdpa_error_message());
	return len;
}

static uint8_t buf[VDPA_STATE_MAX];

static void
a_device_without_an_owner_has_no_state(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	assert_null(f->vdev->config->save_state);
	assert_null(f->vdev->config->load_state);
	assert_null(g.pf.pci.open);
}

static void
what_was_saved_is_loaded(void **state)
{
	struct fixture *f = *state;
	const size_t hdr = 16;
	size_t len, n;

	add_owned(f);
	assert_int_equal(g.pf.status, 0x0f);
	/* No more features than it needs. */
	assert_int_equal(g.pf.driver_features,
			 V1 | RTE_BIT64(VIRTIO_F_ADMIN_VQ) | RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM));
	len = save_all(f, buf);
	assert_int_equal(len, hdr + vp_parts_size(&g.vp) + sizeof(g.type_parts));
	assert_int_equal(load(f, buf, len), 0);
	/* Of the type's parts the one that the service does not give itself; it stood still. */
	assert_int_equal(g.sets, 1);
	n = sizeof(g.type_parts.vlan) + sizeof(g.type_parts.vlan_id);
	assert_true(g.set_len >= n && g.set_len < n + 8);
	assert_memory_equal(g.set, &g.type_parts, n);
	assert_int_equal(g.modes[1], 1);
	assert_int_equal(g.modes[0], 1);
	assert_false(g.vp.stopped);
	/* Objects are gone, and again it works. */
	for (unsigned int i = 0; i < 20; i++) {
		assert_int_equal(save_all(f, buf), len);
		assert_int_equal(load(f, buf, len), 0);
	}
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
}

static void
room_that_lacks_is_told(void **state)
{
	struct fixture *f = *state;
	size_t len, need;

	add_owned(f);
	need = save_all(f, buf);
	for (size_t room = 0; room < 40; room++) {
		len = room;
		assert_refused(save(f, buf, &len), ENOSPC, "take");
		assert_int_equal(len, need);
	}
	len = need - 1;
	assert_refused(save(f, buf, &len), ENOSPC, "take");
	len = need;
	assert_int_equal(save(f, buf, &len), 0);
}

/* Change a byte of a state, and see that it is refused and nothing set. */
static void
refuse(struct fixture *f, size_t len, size_t at, uint8_t value, const char *text)
{
	uint8_t was = buf[at];

	buf[at] = value;
	assert_refused(load(f, buf, len), EINVAL, text);
	buf[at] = was;
	assert_int_equal(g.sets, 0);
	assert_int_equal(g.modes[1], 0);
}

static void
a_state_that_is_not_for_the_device_is_refused(void **state)
{
	const size_t hdr = 16, first = sizeof(struct part_hdr) + 8;
	struct fixture *f = *state;
	size_t len;

	add_owned(f);
	len = save_all(f, buf);
	refuse(f, len, 0, 0, "not one of a virtio device");
	refuse(f, len, 4, 2, "of version 2, this is 1");
	refuse(f, len, 6, 2, "of a device of type 2");
	refuse(f, len, 8, (uint8_t)(buf[8] + 1), "bytes, and has");
	/* DRV_FEATURES, the second part: another feature of the type; MQ is there. */
	refuse(f, len, hdr + first + sizeof(struct part_hdr) + 2, 0, "with the features");
	/* Its length, its type. */
	refuse(f, len, hdr + first + 12, 7, "is no set of features");
	refuse(f, len, hdr + first, 0xff, "stands where none of its type can");
	assert_refused(load(f, buf, 15), EINVAL, "no state of a virtio device");
	for (size_t cut = hdr; cut < len; cut++)
		assert_int_equal(load(f, buf, cut), -EINVAL);
	assert_int_equal(g.sets, 0);
	assert_int_equal(load(f, buf, len), 0);
}

static void
common_parts_alone_stop_nothing(void **state)
{
	struct fixture *f = *state;
	size_t len;
	uint32_t n;

	add_owned(f);
	len = save_all(f, buf) - sizeof(g.type_parts);
	n = (uint32_t)len - 16;
	memcpy(buf + 8, &n, sizeof(n));
	assert_int_equal(load(f, buf, len), 0);
	assert_int_equal(g.requests[ADMIN_MODE_SET], 0);
}

static void
an_owner_that_refuses_costs_the_state_only(void **state)
{
	struct fixture *f = *state;
	size_t len;

	add_owned(f);
	len = save_all(f, buf);
	g.wrong = REFUSES_SET;
	assert_refused(load(f, buf, len), EIO, "the set of device parts is refused (status 22");
	assert_false(g.vp.stopped);
	g.wrong = HUGE_PARTS;
	len = VDPA_STATE_MAX;
	assert_refused(save(f, buf, &len), E2BIG, "more than 65536");
	g.wrong = CUT_PARTS;
	len = VDPA_STATE_MAX;
	assert_refused(save(f, buf, &len), EINVAL, "end in the middle of one");
	g.wrong = GROWING;
	/* It would end between two parts. */
	len = 64;
	assert_refused(save(f, buf, &len), EPROTO, "more parts than it has said");
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	g.wrong = WELL;
	(void)save_all(f, buf);
}

static void
a_member_that_is_not_let_go_on_has_failed(void **state)
{
	struct fixture *f = *state;
	size_t len;

	add_owned(f);
	len = save_all(f, buf);
	g.wrong = REFUSES_GO;
	assert_true(load(f, buf, len) < 0);
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
}

static void
an_owner_that_breaks_is_asked_no_more(void **state)
{
	static const struct {
		enum wrong wrong;
		int err;
		const char *text;
	} ways[] = {
		{SILENT, ETIMEDOUT, "does not answer in time"},
		{SHORT, EPROTO, "without answering it"},
		{LONG, EPROTO, "administration queue"},
	};
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	for (unsigned int i = 0; i < RTE_DIM(ways); i++) {
		size_t len = VDPA_STATE_MAX;
		uint64_t asked, began = now_ms();

		assert_int_equal(add(f, OWNED), 0);
		g.wrong = ways[i].wrong;
		assert_refused(save(f, buf, &len), ways[i].err, ways[i].text);
		g.wrong = WELL;
		asked = g.requests[ADMIN_OBJ_CREATE];
		assert_refused(save(f, buf, &len), EIO, "works no more");
		assert_int_equal(g.requests[ADMIN_OBJ_CREATE], asked);
		assert_true(now_ms() - began < 5000);
		/* Opened again, it is another one. */
		assert_int_equal(vdpa_dev_del("v0"), 0);
		assert_null(g.pf.pci.open);
		admin_reset(&g.admin);
	}
}

static void
an_owner_that_cannot_is_refused_with_the_device(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	g.wrong = NO_COMMANDS;
	assert_refused(add(f, OWNED), ENOTSUP, "lacks commands of group type 1");
	g.wrong = NO_OBJECTS;
	assert_refused(add(f, OWNED), ENOTSUP, "has no objects for device parts");
	g.wrong = SILENT;
	assert_refused(add(f, OWNED), ETIMEDOUT, "does not answer in time");
	g.wrong = WELL;
	g.pf.admin_num = 0;
	assert_refused(add(f, OWNED), ENOTSUP, "has no administration queue");
	g.pf.admin_num = 1;
	g.pf.admin_idx = 1;
	assert_refused(add(f, OWNED), EPROTO, "says that queue 1 is an administration queue");
	g.pf.features &= ~RTE_BIT64(VIRTIO_F_ADMIN_VQ);
	assert_refused(add(f, OWNED), ENOTSUP, "does not offer VIRTIO_F_ADMIN_VQ");
	assert_null(g.pf.pci.open);
	assert_null(f->v.pci.open);
	assert_refused(add(f, WORDS "member 2"), EINVAL, "an owner, which is not named");
	assert_refused(add(f, WORDS "owner fake/pf"), EINVAL, "member N is missing");
	assert_refused(add(f, WORDS "owner sysfs"), EINVAL, "no virtual function of this machine");
	assert_true(add(f, WORDS "owner fake/none member 1") < 0);
}

/* Opened once; its members are asked for one by one. */
static void
an_owner_is_shared_by_its_members(void **state)
{
	struct fixture *f = *state;
	struct fake_virtio other;

	add_owned(f);
	fake_virtio_init(&other, "v1", 1);
	assert_int_equal(
		vdpa_dev_add("name v1 mgmtdev fake/v1 timeout_ms 60 owner fake/pf member 9"), 0);
	assert_int_equal(g.requests[ADMIN_DRIVER_CAP_SET], 1);
	/* And it is nobody else's. */
	assert_true(vdpa_dev_add("name p0 mgmtdev fake/pf timeout_ms 60") < 0);
	assert_int_equal(vdpa_dev_del("v1"), 0);
	assert_non_null(g.pf.pci.open);
	fake_virtio_fini(&other);
	(void)save_all(f, buf);
}

#define P(test) cmocka_unit_test_setup_teardown(test, group_of_one, group_ends)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		P(a_device_without_an_owner_has_no_state),
		P(what_was_saved_is_loaded),
		P(room_that_lacks_is_told),
		P(a_state_that_is_not_for_the_device_is_refused),
		P(common_parts_alone_stop_nothing),
		P(an_owner_that_refuses_costs_the_state_only),
		P(a_member_that_is_not_let_go_on_has_failed),
		P(an_owner_that_breaks_is_asked_no_more),
		P(an_owner_that_cannot_is_refused_with_the_device),
		P(an_owner_is_shared_by_its_members),
	};

	return cmocka_run_group_tests_name("virtio_parts", tests, group_setup, group_teardown);
}
