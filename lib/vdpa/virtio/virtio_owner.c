/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Owners and their administration queues. One command at a time, polled with a bound: no interrupt,
 * no thread. An owner's answers are not believed further than their length.
 */

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include <rte_bitops.h>
#include <rte_byteorder.h>
#include <rte_common.h>

#include "clock.h"
#include "error_priv.h"
#include "pci_name.h"
#include "vdpa_log.h"
#include "vdpa_vring.h"
#include "virtio_admin.h"
#include "virtio_owner.h"
#include "virtio_priv.h"

#define RING_NUM   16u
#define RING_SIZE  4096u /* bytes for its three parts */
#define DRIVER_AT  1024u
#define DEVICE_AT  2048u
#define DATA_MAX   (VDPA_STATE_MAX + 64u) /* of a command, or of its result */
#define REQUEST_AT RING_SIZE
#define ANSWER_AT  (REQUEST_AT + sizeof(struct admin_request) + DATA_MAX)
#define MEM_SIZE   (ANSWER_AT + sizeof(struct admin_answer) + DATA_MAX)

/* Commands that are needed, of the owner's own and of its members'. */
#define SELF_COMMANDS                                                                              \
	(RTE_BIT64(ADMIN_LIST_QUERY) | RTE_BIT64(ADMIN_LIST_USE) |                                 \
	 RTE_BIT64(ADMIN_CAP_LIST_QUERY) | RTE_BIT64(ADMIN_DEVICE_CAP_GET) |                       \
	 RTE_BIT64(ADMIN_DRIVER_CAP_SET))
#define MEMBER_COMMANDS                                                                            \
	(RTE_BIT64(ADMIN_LIST_QUERY) | RTE_BIT64(ADMIN_LIST_USE) | RTE_BIT64(ADMIN_OBJ_CREATE) |   \
	 RTE_BIT64(ADMIN_OBJ_DESTROY) | RTE_BIT64(ADMIN_PARTS_METADATA_GET) |                      \
	 RTE_BIT64(ADMIN_PARTS_GET) | RTE_BIT64(ADMIN_PARTS_SET) | RTE_BIT64(ADMIN_MODE_SET))

struct virtio_owner {
	LIST_ENTRY(virtio_owner) next; /* (owners_lock) */
	unsigned int users;	       /* (owners_lock) */
	char *name;		       /* as vdpa_pci_name() has it */
	struct vdpa_pci *pci;
	struct vdpa_virtio_pci hw;
	struct vdpa_patience patience;
	pthread_mutex_t lock; /* commands */
	struct vdpa_dma_buf mem;
	struct vdpa_vring *ring;
	uint16_t idx;
	uint32_t doorbell;
	bool works; /* (lock) commands are executed */
};

static pthread_mutex_t owners_lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, virtio_owner) owners = LIST_HEAD_INITIALIZER(owners);

/* Commands. */

static const char *
command_name(uint16_t opcode)
{
	static const char *const names[] = {
		[ADMIN_LIST_QUERY] = "query of commands",
		[ADMIN_LIST_USE] = "list of commands",
		[ADMIN_CAP_LIST_QUERY] = "query of capabilities",
		[ADMIN_DEVICE_CAP_GET] = "get of a capability",
		[ADMIN_DRIVER_CAP_SET] = "set of a capability",
		[ADMIN_OBJ_CREATE] = "creation of an object",
		[ADMIN_OBJ_DESTROY] = "destruction of an object",
		[ADMIN_PARTS_METADATA_GET] = "query of device parts",
		[ADMIN_PARTS_GET] = "get of device parts",
		[ADMIN_PARTS_SET] = "set of device parts",
		[ADMIN_MODE_SET] = "stop or start",
	};

	return names[opcode];
}

/* Nobody knows what it still does with a command: no other follows. */
static int
broken(struct virtio_owner *o, int err, const char *what)
{
	o->works = false;
	if (vdpa_virtio_pci_check(&o->hw) < 0)
		return vdpa_virtio_pci_check(&o->hw);
	return vdpa_error(err, "%s: administration queue: %s", o->name, what);
}

/* Give the owner the command that lies in memory, and wait. The bytes that it has written. */
static int
exchange(struct virtio_owner *o, size_t len, uint32_t *written)
{
	const struct vdpa_vring_seg segs[] = {
		{.iova = o->mem.iova + REQUEST_AT,
		 .len = (uint32_t)(sizeof(struct admin_request) + len)},
		{.iova = o->mem.iova + ANSWER_AT,
		 .len = sizeof(struct admin_answer) + DATA_MAX,
		 .write = true},
	};
	struct vdpa_virtio_wait wait;
	uint16_t id;
	int rc;

	rc = vdpa_vring_add(o->ring, segs, RTE_DIM(segs));
	if (rc < 0)
		return broken(o, -rc, vdpa_vring_error(o->ring));
	vdpa_vring_publish(o->ring);
	if (vdpa_vring_wants_kick(o->ring))
		virtio_pci_kick(&o->hw, o->doorbell, o->idx);
	vdpa_virtio_wait_start(&wait, &o->hw);
	while ((rc = vdpa_vring_take(o->ring, &id, written)) == 0)
		if (!vdpa_virtio_wait(&wait))
			return broken(o, ETIMEDOUT, "the device does not answer in time");
	return rc < 0 ? broken(o, -rc, vdpa_vring_error(o->ring)) : 0;
}

/*
 * Execute a command, with the owner's lock. result: *result_len bytes at most; how many the owner
 * has given, which may be more. -EIO: the owner refuses it, and works on.
 */
static int
execute(struct virtio_owner *o, uint16_t group, uint64_t member, uint16_t opcode, const void *data,
	size_t len, void *result, size_t *result_len)
{
	uint8_t *request = (uint8_t *)o->mem.va + REQUEST_AT;
	uint8_t *answer_at = (uint8_t *)o->mem.va + ANSWER_AT;
	const struct admin_request req = {.opcode = rte_cpu_to_le_16(opcode),
					  .group_type = rte_cpu_to_le_16(group),
					  .member = rte_cpu_to_le_64(member)};
	/* Both parts are multiples of 64 bits. */
	size_t padded = RTE_ALIGN_CEIL(len, sizeof(uint64_t)), n;
	struct admin_answer answer;
	uint32_t written = 0;
	int rc;

	if (!o->works)
		return vdpa_error(EIO, "%s: the administration queue works no more", o->name);
	memcpy(request, &req, sizeof(req));
	memset(request + sizeof(req), 0, padded);
	if (len > 0)
		memcpy(request + sizeof(req), data, len);
	memset(answer_at, 0xff, sizeof(answer));
	rc = exchange(o, padded, &written);
	if (rc < 0)
		return rc;
	if (written < sizeof(answer))
		return broken(o, EPROTO, "the device uses a command without answering it");
	memcpy(&answer, answer_at, sizeof(answer));
	if (answer.status != ADMIN_OK)
		return vdpa_error(EIO, "%s: member %" PRIu64 ": the %s is refused (status %u, %u)",
				  o->name, member, command_name(opcode),
				  rte_le_to_cpu_16(answer.status),
				  rte_le_to_cpu_16(answer.qualifier));
	if (result_len == NULL)
		return 0;
	n = written - sizeof(answer);
	memcpy(result, answer_at + sizeof(answer), RTE_MIN(n, *result_len));
	*result_len = n;
	return 0;
}

static int
give(struct virtio_owner *o, uint64_t member, uint16_t opcode, const void *data, size_t len)
{
	return execute(o, ADMIN_GROUP_SRIOV, member, opcode, data, len, NULL, NULL);
}

/* The commands of a group that are to be used; what is needed is there. */
static int
use_commands(struct virtio_owner *o, uint16_t group, uint64_t needed)
{
	uint64_t list = 0, use = rte_cpu_to_le_64(needed);
	size_t len = sizeof(list);
	int rc = execute(o, group, 0, ADMIN_LIST_QUERY, NULL, 0, &list, &len);

	if (rc < 0)
		return rc;
	if ((rte_le_to_cpu_64(list) & needed) != needed)
		return vdpa_error(
			ENOTSUP,
			"%s: the administration queue lacks commands of group type %u: it "
			"has 0x%" PRIx64 ", device parts need 0x%" PRIx64,
			o->name, group, rte_le_to_cpu_64(list), needed);
	return execute(o, group, 0, ADMIN_LIST_USE, &use, sizeof(use), NULL, NULL);
}

/* One object to get parts with, and one to set them. */
static int
use_objects(struct virtio_owner *o)
{
	const struct {
		struct admin_cap cap;
		struct admin_cap_parts limits;
	} __attribute__((packed)) set = {
		.cap.id = RTE_LE16(ADMIN_CAP_PARTS),
		.limits = {1, 1},
	};
	struct admin_cap_parts has = {0};
	size_t len = sizeof(has);
	uint64_t caps = 0;
	size_t caps_len = sizeof(caps);
	int rc = execute(o, ADMIN_GROUP_SELF, 0, ADMIN_CAP_LIST_QUERY, NULL, 0, &caps, &caps_len);

	if (rc < 0)
		return rc;
	if ((rte_le_to_cpu_64(caps) & RTE_BIT64(ADMIN_CAP_PARTS)) != 0)
		rc = execute(o, ADMIN_GROUP_SELF, 0, ADMIN_DEVICE_CAP_GET, &set.cap,
			     sizeof(set.cap), &has, &len);
	if (rc < 0)
		return rc;
	if (has.get_limit == 0 || has.set_limit == 0)
		return vdpa_error(ENOTSUP, "%s: has no objects for device parts", o->name);
	return execute(o, ADMIN_GROUP_SELF, 0, ADMIN_DRIVER_CAP_SET, &set, sizeof(set), NULL, NULL);
}

/* Opening and closing. */

static int
set_up_ring(struct virtio_owner *o)
{
	struct vdpa_virtio_vq_info info;
	struct vdpa_virtio_vq_conf conf;
	struct vdpa_vring_params params = {.features = RTE_BIT64(VIRTIO_F_VERSION_1)};
	uint16_t num = 0;
	int rc;

	rc = virtio_pci_admin_queue(&o->hw, &o->idx, &num);
	if (rc == 0 && num == 0)
		rc = vdpa_error(ENOTSUP, "%s: has no administration queue", o->name);
	if (rc == 0)
		rc = virtio_pci_vq_info(&o->hw, o->idx, &info);
	if (rc < 0)
		return rc;
	if (info.num_max < 2)
		return vdpa_error(EPROTO, "%s: administration queue %u: its size is %u", o->name,
				  o->idx, info.num_max);
	o->doorbell = info.doorbell;
	params.num = rte_align32prevpow2(RTE_MIN(info.num_max, (uint16_t)RING_NUM));
	rc = vdpa_dma_alloc(vdpa_pci_dma(o->pci), MEM_SIZE, NULL, &o->mem);
	if (rc < 0)
		return rc;
	params.desc = o->mem.va;
	params.driver = (uint8_t *)o->mem.va + DRIVER_AT;
	params.device = (uint8_t *)o->mem.va + DEVICE_AT;
	o->ring = vdpa_vring_alloc();
	rc = o->ring != NULL ? vdpa_vring_setup(o->ring, &params) : -ENOMEM;
	if (rc < 0)
		return vdpa_error(rc, "%s: administration queue: %s", o->name, strerror(-rc));
	vdpa_vring_disable_calls(o->ring);
	conf = (struct vdpa_virtio_vq_conf){.num = (uint16_t)params.num,
					    .vector = VDPA_VIRTIO_NO_VECTOR,
					    .desc = o->mem.iova,
					    .driver = o->mem.iova + DRIVER_AT,
					    .device = o->mem.iova + DEVICE_AT};
	rc = vdpa_pci_set_bus_master(o->pci, true);
	return rc < 0 ? rc : virtio_pci_vq_enable(&o->hw, o->idx, &conf);
}

static int
negotiate(struct virtio_owner *o)
{
	uint64_t need = RTE_BIT64(VIRTIO_F_VERSION_1) | RTE_BIT64(VIRTIO_F_ADMIN_VQ);
	uint64_t has = virtio_pci_get_features(&o->hw);
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	if (vdpa_virtio_pci_check(&o->hw) < 0)
		return vdpa_virtio_pci_check(&o->hw);
	if ((has & need) != need)
		return vdpa_error(ENOTSUP,
				  "%s: does not offer VIRTIO_F_ADMIN_VQ, and owns no devices",
				  o->name);
	vdpa_virtio_pci_set_status(&o->hw, status);
	virtio_pci_set_features(&o->hw, need | (has & RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM)));
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	vdpa_virtio_pci_set_status(&o->hw, status);
	if ((vdpa_virtio_pci_get_status(&o->hw) & VIRTIO_CONFIG_S_FEATURES_OK) == 0)
		return vdpa_virtio_pci_check(&o->hw) < 0
			       ? vdpa_virtio_pci_check(&o->hw)
			       : vdpa_error(EIO, "%s: refuses VIRTIO_F_ADMIN_VQ", o->name);
	return 0;
}

static int
start(struct virtio_owner *o)
{
	uint8_t status;
	int rc = virtio_pci_open(&o->hw, o->pci, NULL, &o->patience);

	if (rc == 0)
		rc = virtio_pci_reset(&o->hw);
	if (rc == 0)
		rc = negotiate(o);
	if (rc == 0)
		rc = set_up_ring(o);
	if (rc < 0)
		return rc;
	status = vdpa_virtio_pci_get_status(&o->hw);
	vdpa_virtio_pci_set_status(&o->hw, status | VIRTIO_CONFIG_S_DRIVER_OK);
	if ((vdpa_virtio_pci_get_status(&o->hw) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0)
		return vdpa_virtio_pci_check(&o->hw) < 0
			       ? vdpa_virtio_pci_check(&o->hw)
			       : vdpa_error(EIO, "%s: %s", o->name, VIRTIO_NEEDS_RESET_TEXT);
	o->works = true;
	rc = use_commands(o, ADMIN_GROUP_SELF, SELF_COMMANDS);
	if (rc == 0)
		rc = use_commands(o, ADMIN_GROUP_SRIOV, MEMBER_COMMANDS);
	return rc < 0 ? rc : use_objects(o);
}

static void
destroy(struct virtio_owner *o)
{
	if (o->pci != NULL && o->hw.pci != NULL)
		(void)virtio_pci_reset(&o->hw);
	if (o->pci != NULL) {
		/* It loses its reach before the memory, also where it did not reset. */
		(void)vdpa_pci_set_bus_master(o->pci, false);
		vdpa_dma_free(vdpa_pci_dma(o->pci), &o->mem);
	}
	vdpa_pci_close(o->pci);
	vdpa_vring_free(o->ring);
	pthread_mutex_destroy(&o->lock);
	free(o->name);
	free(o);
}

/* name is the owner's from then on. */
static int
create(char *name, unsigned int timeout_ms, struct virtio_owner **out)
{
	const struct vdpa_pci_params params = {.timeout_ms = timeout_ms};
	struct virtio_owner *o = calloc(1, sizeof(*o));
	struct vdpa_error_saved error;
	int rc;

	if (o == NULL) {
		free(name);
		return vdpa_error(ENOMEM, "out of memory");
	}
	o->name = name;
	o->users = 1;
	(void)pthread_mutex_init(&o->lock, NULL);
	vdpa_patience_init(&o->patience, timeout_ms, vdpa_now_us());
	rc = vdpa_pci_open(name, &params, &o->pci);
	if (rc == 0)
		rc = start(o);
	if (rc == 0) {
		*out = o;
		return 0;
	}
	vdpa_error_save(&error);
	destroy(o);
	vdpa_error_restore(&error);
	return rc;
}

int
virtio_owner_get(const char *name, unsigned int timeout_ms, struct virtio_owner **out)
{
	struct virtio_owner *o;
	char *full;
	int rc = vdpa_pci_full_name(name, &full);

	if (rc < 0)
		return rc;
	/* Others who want an owner wait here as long as this one takes to open it. */
	pthread_mutex_lock(&owners_lock);
	LIST_FOREACH (o, &owners, next)
		if (strcmp(o->name, full) == 0)
			break;
	if (o != NULL) {
		o->users++;
		free(full);
		*out = o;
	} else {
		rc = create(full, timeout_ms, out);
		if (rc == 0)
			LIST_INSERT_HEAD(&owners, *out, next);
	}
	pthread_mutex_unlock(&owners_lock);
	return rc;
}

void
virtio_owner_put(struct virtio_owner *o)
{
	bool last;

	if (o == NULL)
		return;
	pthread_mutex_lock(&owners_lock);
	last = --o->users == 0;
	if (last)
		LIST_REMOVE(o, next);
	pthread_mutex_unlock(&owners_lock);
	if (last)
		destroy(o);
}

/* Parts. With the owner's lock. */

static int
create_object(struct virtio_owner *o, uint64_t member, uint8_t type)
{
	const struct admin_obj_create create_data = {.obj.type = RTE_LE16(ADMIN_OBJ_PARTS),
						     .parts_type = type};

	return give(o, member, ADMIN_OBJ_CREATE, &create_data, sizeof(create_data));
}

/* Also after a command that failed, whose error stays. */
static void
destroy_object(struct virtio_owner *o, uint64_t member)
{
	const struct admin_obj obj = {.type = RTE_LE16(ADMIN_OBJ_PARTS)};
	struct vdpa_error_saved error;

	vdpa_error_save(&error);
	if (o->works && give(o, member, ADMIN_OBJ_DESTROY, &obj, sizeof(obj)) < 0)
		VDPA_LOG(WARNING, "%s", vdpa_error_message());
	vdpa_error_restore(&error);
}

static int
get_parts(struct virtio_owner *o, uint64_t member, void *buf, size_t *len)
{
	struct admin_parts_query query = {.obj.type = RTE_LE16(ADMIN_OBJ_PARTS),
					  .type = ADMIN_METADATA_SIZE};
	struct admin_parts_count size = {0};
	size_t size_len = sizeof(size), room = *len;
	int rc;

	rc = execute(o, ADMIN_GROUP_SRIOV, member, ADMIN_PARTS_METADATA_GET, &query, sizeof(query),
		     &size, &size_len);
	if (rc < 0)
		return rc;
	*len = rte_le_to_cpu_32(size.value);
	if (*len > VDPA_STATE_MAX)
		return vdpa_error(E2BIG,
				  "%s: member %" PRIu64 ": its parts take %zu bytes, more than %u",
				  o->name, member, *len, VDPA_STATE_MAX);
	if (*len > room)
		return vdpa_error(ENOSPC, "%s: member %" PRIu64 ": its parts take %zu bytes",
				  o->name, member, *len);
	query.type = ADMIN_GET_ALL;
	*len = room;
	rc = execute(o, ADMIN_GROUP_SRIOV, member, ADMIN_PARTS_GET, &query, sizeof(query), buf,
		     len);
	/* What was cut is no state, wherever it ends. */
	return rc == 0 && *len > room
		       ? vdpa_error(EPROTO,
				    "%s: member %" PRIu64 ": gives more parts than it has said",
				    o->name, member)
		       : rc;
}

int
virtio_owner_get_parts(struct virtio_owner *o, uint64_t member, void *buf, size_t *len)
{
	int rc;

	pthread_mutex_lock(&o->lock);
	rc = create_object(o, member, ADMIN_OBJ_PARTS_GET);
	if (rc == 0) {
		rc = get_parts(o, member, buf, len);
		destroy_object(o, member);
	}
	pthread_mutex_unlock(&o->lock);
	return rc;
}

static int
set_parts(struct virtio_owner *o, uint64_t member, const void *parts, size_t len)
{
	const struct admin_obj obj = {.type = RTE_LE16(ADMIN_OBJ_PARTS)};
	uint8_t *data = malloc(sizeof(obj) + len);
	int rc;

	if (data == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	memcpy(data, &obj, sizeof(obj));
	memcpy(data + sizeof(obj), parts, len);
	rc = give(o, member, ADMIN_PARTS_SET, data, sizeof(obj) + len);
	free(data);
	return rc;
}

static int
set_mode(struct virtio_owner *o, uint64_t member, uint8_t mode)
{
	return give(o, member, ADMIN_MODE_SET, &mode, sizeof(mode));
}

int
virtio_owner_set_parts(struct virtio_owner *o, uint64_t member, const void *parts, size_t len,
		       bool *stuck)
{
	struct vdpa_error_saved error;
	int rc;

	*stuck = false;
	if (len > VDPA_STATE_MAX)
		return vdpa_error(E2BIG, "%s: member %" PRIu64 ": %zu bytes of parts", o->name,
				  member, len);
	pthread_mutex_lock(&o->lock);
	rc = create_object(o, member, ADMIN_OBJ_PARTS_SET);
	if (rc < 0)
		goto out;
	rc = set_mode(o, member, ADMIN_MODE_STOPPED);
	if (rc == 0) {
		rc = set_parts(o, member, parts, len);
		vdpa_error_save(&error);
		*stuck = set_mode(o, member, 0) < 0;
		if (rc < 0)
			vdpa_error_restore(&error);
		else if (*stuck)
			rc = -EIO;
	} else {
		/* It may stop at any later time. */
		*stuck = !o->works;
	}
	destroy_object(o, member);
out:
	pthread_mutex_unlock(&o->lock);
	return rc;
}
