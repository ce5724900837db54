/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Group administration commands: a table with a row for each. */

#include <errno.h>
#include <stdlib.h>

#include <rte_bitops.h>
#include <rte_common.h>

#include "admin_commands.h"

/* A command on its way. */
struct call {
	struct admin *admin;
	struct admin_request req;
	const uint8_t *data; /* behind the request */
	size_t len;
	struct vp_function *member; /* of the SR-IOV group's commands */
	uint8_t *result;	    /* malloc, or NULL */
	size_t result_len;
	bool whole; /* a result that does not fit is an error */
	uint16_t qualifier;
};

/* The data, or their first bytes; what lacks is zero. */
static void
take(const struct call *c, void *to, size_t len)
{
	memset(to, 0, len);
	memcpy(to, c->data, RTE_MIN(len, c->len));
}

/* Room for a result, zeroed. */
static void *
give(struct call *c, size_t len)
{
	c->result = calloc(1, RTE_MAX(len, (size_t)1));
	c->result_len = c->result != NULL ? len : 0;
	return c->result;
}

static uint16_t
invalid(struct call *c, uint16_t qualifier)
{
	c->qualifier = qualifier;
	return ADMIN_EINVAL;
}

static uint64_t
commands_of(uint16_t group)
{
	const uint64_t list = RTE_BIT64(ADMIN_LIST_QUERY) | RTE_BIT64(ADMIN_LIST_USE);

	if (group == ADMIN_GROUP_SELF)
		return list | RTE_BIT64(ADMIN_CAP_LIST_QUERY) | RTE_BIT64(ADMIN_DEVICE_CAP_GET) |
		       RTE_BIT64(ADMIN_DRIVER_CAP_SET);
	return list | RTE_BIT64(ADMIN_OBJ_CREATE) | RTE_BIT64(ADMIN_OBJ_DESTROY) |
	       RTE_BIT64(ADMIN_PARTS_METADATA_GET) | RTE_BIT64(ADMIN_PARTS_GET) |
	       RTE_BIT64(ADMIN_PARTS_SET) | RTE_BIT64(ADMIN_MODE_SET);
}

static uint16_t
list_query(struct call *c)
{
	uint64_t list = rte_cpu_to_le_64(commands_of(rte_le_to_cpu_16(c->req.group_type)));
	void *result = give(c, sizeof(list));

	if (result == NULL)
		return ADMIN_ENOMEM;
	memcpy(result, &list, sizeof(list));
	return ADMIN_OK;
}

static uint16_t
list_use(struct call *c)
{
	uint16_t group = rte_le_to_cpu_16(c->req.group_type);
	uint64_t list;

	take(c, &list, sizeof(list));
	list = rte_le_to_cpu_64(list);
	if ((list & ~commands_of(group)) != 0)
		return invalid(c, ADMIN_Q_INVALID_FIELD);
	c->admin->used[group] = list;
	return ADMIN_OK;
}

static uint16_t
cap_list_query(struct call *c)
{
	uint64_t list = RTE_LE64(1u << ADMIN_CAP_PARTS);
	void *result = give(c, sizeof(list));

	if (result == NULL)
		return ADMIN_ENOMEM;
	memcpy(result, &list, sizeof(list));
	return ADMIN_OK;
}

static uint16_t
device_cap_get(struct call *c)
{
	const struct admin_cap_parts limits = {ADMIN_OBJECTS, ADMIN_OBJECTS};
	struct admin_cap cap;
	void *result;

	take(c, &cap, sizeof(cap));
	if (rte_le_to_cpu_16(cap.id) != ADMIN_CAP_PARTS)
		return ADMIN_ENXIO;
	result = give(c, sizeof(limits));
	if (result == NULL)
		return ADMIN_ENOMEM;
	memcpy(result, &limits, sizeof(limits));
	return ADMIN_OK;
}

static bool
any_object(const struct admin *admin)
{
	for (unsigned int i = 0; i < RTE_DIM(admin->objects); i++)
		if (admin->objects[i].there)
			return true;
	return false;
}

static uint16_t
driver_cap_set(struct call *c)
{
	struct {
		struct admin_cap cap;
		struct admin_cap_parts limits;
	} __attribute__((packed)) set;

	take(c, &set, sizeof(set));
	if (rte_le_to_cpu_16(set.cap.id) != ADMIN_CAP_PARTS)
		return ADMIN_ENXIO;
	if (set.limits.get_limit > ADMIN_OBJECTS || set.limits.set_limit > ADMIN_OBJECTS)
		return invalid(c, ADMIN_Q_INVALID_FIELD);
	if (any_object(c->admin))
		return ADMIN_EBUSY;
	c->admin->limits = set.limits;
	return ADMIN_OK;
}

static struct admin_object *
find_object(struct admin *admin, uint64_t member, uint32_t id)
{
	for (unsigned int i = 0; i < RTE_DIM(admin->objects); i++) {
		struct admin_object *o = &admin->objects[i];

		if (o->there && o->member == member && o->id == id)
			return o;
	}
	return NULL;
}

/* The object that a command names, of the member that it is for; NULL with the status. */
static struct admin_object *
named_object(struct call *c, const struct admin_obj *obj, bool sets, uint16_t *status)
{
	struct admin_object *o =
		find_object(c->admin, rte_le_to_cpu_64(c->req.member), rte_le_to_cpu_32(obj->id));

	if (rte_le_to_cpu_16(obj->type) != ADMIN_OBJ_PARTS || o == NULL) {
		*status = ADMIN_ENXIO;
		return NULL;
	}
	if (o->sets != sets) {
		*status = invalid(c, ADMIN_Q_INVALID_FIELD);
		return NULL;
	}
	return o;
}

static uint16_t
obj_create(struct call *c)
{
	struct admin *admin = c->admin;
	uint64_t member = rte_le_to_cpu_64(c->req.member);
	struct admin_object *free_one = NULL;
	struct admin_obj_create create;
	unsigned int n = 0, limit;
	bool sets;

	take(c, &create, sizeof(create));
	sets = create.parts_type == ADMIN_OBJ_PARTS_SET;
	if (rte_le_to_cpu_16(create.obj.type) != ADMIN_OBJ_PARTS || create.flags != 0 ||
	    create.parts_type > ADMIN_OBJ_PARTS_SET)
		return invalid(c, ADMIN_Q_INVALID_FIELD);
	limit = sets ? admin->limits.set_limit : admin->limits.get_limit;
	if (rte_le_to_cpu_32(create.obj.id) >= limit)
		return ADMIN_ENOSPC;
	if (find_object(admin, member, rte_le_to_cpu_32(create.obj.id)) != NULL)
		return ADMIN_EEXIST;
	for (unsigned int i = 0; i < RTE_DIM(admin->objects); i++) {
		n += admin->objects[i].there && admin->objects[i].sets == sets;
		if (!admin->objects[i].there)
			free_one = &admin->objects[i];
	}
	if (n >= limit || free_one == NULL)
		return ADMIN_ENOSPC;
	*free_one = (struct admin_object){.there = true,
					  .sets = sets,
					  .member = member,
					  .id = rte_le_to_cpu_32(create.obj.id)};
	return ADMIN_OK;
}

static uint16_t
obj_destroy(struct call *c)
{
	struct admin_object *o;
	struct admin_obj obj;

	take(c, &obj, sizeof(obj));
	o = find_object(c->admin, rte_le_to_cpu_64(c->req.member), rte_le_to_cpu_32(obj.id));
	if (rte_le_to_cpu_16(obj.type) != ADMIN_OBJ_PARTS || o == NULL)
		return ADMIN_ENXIO;
	o->there = false;
	return ADMIN_OK;
}

/* A count of parts or bytes; of the list, their headers behind it. */
static uint16_t
metadata_get(struct call *c)
{
	uint32_t n = vp_parts_count(c->member);
	struct admin_parts_query query;
	struct admin_parts_count count = {0};
	uint8_t value[PARTS_VALUE_MAX];
	struct part_hdr hdr;
	uint16_t status;
	uint8_t *result;
	bool list;

	take(c, &query, sizeof(query));
	if (named_object(c, &query.obj, false, &status) == NULL)
		return status;
	if (query.type > ADMIN_METADATA_LIST)
		return invalid(c, ADMIN_Q_INVALID_FIELD);
	list = query.type == ADMIN_METADATA_LIST;
	c->whole = true;
	count.value = query.type == ADMIN_METADATA_SIZE ? (uint32_t)vp_parts_size(c->member) : n;
	count.value = rte_cpu_to_le_32(count.value);
	result = give(c, sizeof(count) + (list ? n * sizeof(hdr) : 0));
	if (result == NULL)
		return ADMIN_ENOMEM;
	memcpy(result, &count, sizeof(count));
	for (uint32_t i = 0; list && vp_part_at(c->member, i, &hdr, value); i++)
		memcpy(result + sizeof(count) + i * sizeof(hdr), &hdr, sizeof(hdr));
	return ADMIN_OK;
}

/* Whether a part is one of those that were selected. */
static bool
is_selected(const struct call *c, const struct part_hdr *hdr)
{
	for (size_t at = sizeof(struct admin_parts_query); at + sizeof(*hdr) <= c->len;
	     at += sizeof(*hdr)) {
		struct part_hdr want;

		memcpy(&want, c->data + at, sizeof(want));
		if (want.type == hdr->type &&
		    memcmp(&want.selector, &hdr->selector, sizeof(hdr->selector)) == 0)
			return true;
	}
	return false;
}

static uint16_t
parts_get(struct call *c)
{
	struct admin_parts_query query;
	uint8_t value[PARTS_VALUE_MAX];
	struct part_hdr hdr;
	uint16_t status;
	uint8_t *result;
	size_t at = 0;

	take(c, &query, sizeof(query));
	if (named_object(c, &query.obj, false, &status) == NULL)
		return status;
	if (query.type > ADMIN_GET_ALL)
		return invalid(c, ADMIN_Q_INVALID_FIELD);
	result = give(c, vp_parts_size(c->member));
	if (result == NULL)
		return ADMIN_ENOMEM;
	if (query.type == ADMIN_GET_ALL) {
		vp_parts_get(c->member, result);
		return ADMIN_OK;
	}
	for (uint32_t i = 0; vp_part_at(c->member, i, &hdr, value); i++) {
		uint32_t len = rte_le_to_cpu_32(hdr.length);

		if (!is_selected(c, &hdr))
			continue;
		memcpy(result + at, &hdr, sizeof(hdr));
		memcpy(result + at + sizeof(hdr), value, len);
		at += sizeof(hdr) + len;
	}
	c->result_len = at;
	return ADMIN_OK;
}

static uint16_t
parts_set(struct call *c)
{
	struct admin_obj obj;
	uint16_t status;
	size_t at = RTE_MIN(sizeof(obj), c->len);
	int rc;

	take(c, &obj, sizeof(obj));
	if (named_object(c, &obj, true, &status) == NULL)
		return status;
	rc = vp_parts_set(c->member, c->data + at, c->len - at);
	if (rc == -EINVAL)
		return invalid(c, ADMIN_Q_INVALID_FIELD);
	return (uint16_t)-rc;
}

static uint16_t
mode_set(struct call *c)
{
	uint8_t flags;

	take(c, &flags, sizeof(flags));
	if ((flags & ~ADMIN_MODE_STOPPED) != 0)
		return invalid(c, ADMIN_Q_INVALID_FIELD);
	vp_set_stopped(c->member, (flags & ADMIN_MODE_STOPPED) != 0);
	return ADMIN_OK;
}

static uint16_t (*const handlers[])(struct call *) = {
	[ADMIN_LIST_QUERY] = list_query,
	[ADMIN_LIST_USE] = list_use,
	[ADMIN_CAP_LIST_QUERY] = cap_list_query,
	[ADMIN_DEVICE_CAP_GET] = device_cap_get,
	[ADMIN_DRIVER_CAP_SET] = driver_cap_set,
	[ADMIN_OBJ_CREATE] = obj_create,
	[ADMIN_OBJ_DESTROY] = obj_destroy,
	[ADMIN_PARTS_METADATA_GET] = metadata_get,
	[ADMIN_PARTS_GET] = parts_get,
	[ADMIN_PARTS_SET] = parts_set,
	[ADMIN_MODE_SET] = mode_set,
};

static uint16_t
dispatch(struct call *c)
{
	uint16_t opcode = rte_le_to_cpu_16(c->req.opcode);
	uint16_t group = rte_le_to_cpu_16(c->req.group_type);

	if (group > ADMIN_GROUP_SRIOV)
		return invalid(c, ADMIN_Q_INVALID_GROUP);
	if (opcode >= RTE_DIM(handlers) || (c->admin->used[group] & RTE_BIT64(opcode)) == 0)
		return invalid(c, ADMIN_Q_INVALID_OPCODE);
	if (opcode > ADMIN_LIST_USE && group == ADMIN_GROUP_SRIOV) {
		c->member = c->admin->member(c->admin->arg, rte_le_to_cpu_64(c->req.member));
		if (c->member == NULL)
			return invalid(c, ADMIN_Q_INVALID_MEMBER);
	}
	return handlers[opcode](c);
}

void
admin_reset(struct admin *admin)
{
	const uint64_t first = RTE_BIT64(ADMIN_LIST_QUERY) | RTE_BIT64(ADMIN_LIST_USE);

	admin->used[ADMIN_GROUP_SELF] = admin->used[ADMIN_GROUP_SRIOV] = first;
	admin->limits = (struct admin_cap_parts){0};
	memset(admin->objects, 0, sizeof(admin->objects));
}

size_t
admin_execute(struct admin *admin, const uint8_t *in, size_t in_len, uint8_t *out, size_t room)
{
	struct call c = {.admin = admin, .data = in, .len = in_len};
	struct admin_answer answer = {0};
	size_t n;

	take(&c, &c.req, sizeof(c.req));
	c.data = in + RTE_MIN(in_len, sizeof(c.req));
	c.len = in_len - RTE_MIN(in_len, sizeof(c.req));
	answer.status = dispatch(&c);
	n = RTE_MIN(room, sizeof(answer));
	if (c.whole && c.result_len > room - n)
		answer.status = ADMIN_ENOMEM;
	c.result_len = answer.status == ADMIN_OK ? RTE_MIN(c.result_len, room - n) : 0;
	if (answer.status == ADMIN_EINVAL && c.qualifier == ADMIN_Q_OK)
		c.qualifier = ADMIN_Q_INVALID_CMD;
	answer.qualifier = rte_cpu_to_le_16(c.qualifier);
	answer.status = rte_cpu_to_le_16(answer.status);
	memcpy(out, &answer, n);
	if (c.result_len > 0)
		memcpy(out + n, c.result, c.result_len);
	free(c.result);
	__atomic_add_fetch(&admin->commands, 1, __ATOMIC_RELAXED);
	return n + c.result_len;
}
