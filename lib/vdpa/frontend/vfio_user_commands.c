/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The commands of vfio-user, one row of a table each. A handler finds the message's payload, at
 * least as long as its row says, and writes the reply's; what it returns is 0 or a negative errno,
 * which becomes an error reply.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <rte_common.h>

#include "vdpa.h"
#include "vdpa_args.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_log.h"
#include "vfio_user_server_priv.h"

#define DEVICE_FLAGS (VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET)

#define UNMAP_FLAG_DIRTY_BITMAP 1u
#define UNMAP_FLAG_ALL		2u

/* A message that is being executed. */
struct call {
	struct vfu_server *s;
	const void *in; /* payload */
	size_t in_len;
	void *out; /* room for VFIO_USER_MSG_MAX less the header */
	size_t out_len;
};

/* "max_msg_fds" as we tell it: QEMU refuses a server that takes more than it has room for. */
#define FDS_TOLD 16

static int
do_version(struct call *c)
{
	/* QEMU takes no reply longer than its own request, of 214 bytes. */
	static const char json[] = "{\"capabilities\":{\"max_msg_fds\":" RTE_STR(FDS_TOLD) //
		",\"max_data_xfer_size\":" RTE_STR(VFIO_USER_XFER_MAX)			   //
		",\"max_dma_maps\":" RTE_STR(VFU_DMA_MAPS)				   //
		",\"pgsizes\":4096}}";
	const struct vfio_user_version *v = c->in;
	struct vfio_user_version *reply = c->out;

	_Static_assert(sizeof(struct vfio_user_header) + sizeof(*v) + sizeof(json) < 214, "QEMU");
	if (c->s->version_done)
		return vdpa_error(EINVAL, "VERSION a second time");
	if (v->major != VFIO_USER_MAJOR)
		return vdpa_error(EINVAL, "VERSION %u.%u: this is %u.%u", v->major, v->minor,
				  VFIO_USER_MAJOR, VFIO_USER_MINOR);
	/* What the client says of itself limits only what it would be sent: nothing comes near. */
	if (c->in_len > sizeof(*v) && ((const char *)c->in)[c->in_len - 1] != '\0')
		return vdpa_error(EINVAL, "VERSION: the text does not end");
	reply->major = VFIO_USER_MAJOR;
	reply->minor = RTE_MIN(v->minor, (uint16_t)VFIO_USER_MINOR);
	memcpy(reply + 1, json, sizeof(json));
	c->out_len = sizeof(*reply) + sizeof(json);
	c->s->version_done = true;
	return 0;
}

static int
do_dma_map(struct call *c)
{
	const struct vfio_user_dma_map *map = c->in;

	if ((map->flags & ~(VFIO_USER_DMA_READABLE | VFIO_USER_DMA_WRITABLE)) != 0)
		return vdpa_error(EINVAL, "DMA_MAP: flags 0x%x", map->flags);
	return c->s->params.ops->dma_map(c->s->params.arg, map,
					 c->s->n_fds > 0 ? c->s->fds[0] : -1);
}

static int
do_dma_unmap(struct call *c)
{
	const struct vfio_user_dma_unmap *unmap = c->in;

	if ((unmap->flags & UNMAP_FLAG_DIRTY_BITMAP) != 0)
		return vdpa_error(ENOTSUP, "DMA_UNMAP: there is no dirty log");
	if ((unmap->flags & ~UNMAP_FLAG_ALL) != 0)
		return vdpa_error(EINVAL, "DMA_UNMAP: flags 0x%x", unmap->flags);
	if (unmap->flags == UNMAP_FLAG_ALL && (unmap->address != 0 || unmap->size != 0))
		return vdpa_error(EINVAL, "DMA_UNMAP of all with an address or a size");
	memcpy(c->out, unmap, sizeof(*unmap));
	c->out_len = sizeof(*unmap);
	return c->s->params.ops->dma_unmap(c->s->params.arg, c->in);
}

static int
do_get_info(struct call *c)
{
	struct vfio_user_device_info *info = c->out;

	*info = (struct vfio_user_device_info){.argsz = sizeof(*info),
					       .flags = DEVICE_FLAGS,
					       .num_regions = VFIO_PCI_NUM_REGIONS,
					       .num_irqs = VFIO_PCI_NUM_IRQS};
	c->out_len = sizeof(*info);
	return 0;
}

/* Region information and the one area of it that can be mapped. */
struct region_reply {
	struct vfio_user_region_info info;
	struct {
		uint16_t id, version;
		uint32_t next;
		uint32_t nr_areas, reserved;
		uint64_t offset, size;
	} sparse;
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_region_info_cap_sparse_mmap) +
			       sizeof(struct vfio_region_sparse_mmap_area) ==
		       sizeof(((struct region_reply *)0)->sparse),
	       "linux/vfio.h");

static int
do_region_info(struct call *c)
{
	const struct vfio_user_region_info *asked = c->in;
	struct vfu_region region = {.fd = -1};
	struct region_reply *r = c->out;

	if (asked->index >= VFIO_PCI_NUM_REGIONS)
		return vdpa_error(EINVAL, "region %u", asked->index);
	if (asked->argsz < sizeof(r->info))
		return vdpa_error(EINVAL, "GET_REGION_INFO: argsz %u", asked->argsz);
	c->s->params.ops->region_info(c->s->params.arg, asked->index, &region);
	memset(r, 0, sizeof(*r));
	r->info.argsz = sizeof(r->info);
	r->info.index = asked->index;
	r->info.flags = region.flags;
	r->info.size = region.size;
	c->out_len = sizeof(r->info);
	if ((region.flags & VFIO_REGION_INFO_FLAG_MMAP) == 0)
		return 0;
	/* A client with too little room is told how much it takes, and asks again. QEMU wants to
	 * know even then where the capability will be. */
	r->info.argsz = sizeof(*r);
	r->info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
	r->info.cap_offset = offsetof(struct region_reply, sparse);
	r->info.offset = region.fd_offset;
	if (asked->argsz < sizeof(*r))
		return 0;
	r->sparse.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
	r->sparse.version = 1;
	r->sparse.nr_areas = 1;
	r->sparse.offset = region.map_offset;
	r->sparse.size = region.map_size;
	c->out_len = sizeof(*r);
	c->s->out_fd = region.fd;
	return 0;
}

static int
do_irq_info(struct call *c)
{
	const struct vfio_user_irq_info *asked = c->in;
	struct vfio_user_irq_info *info = c->out;
	uint32_t index = asked->index;

	if (index >= VFIO_PCI_NUM_IRQS)
		return vdpa_error(EINVAL, "interrupt index %u", index);
	*info = (struct vfio_user_irq_info){.argsz = sizeof(*info), .index = index};
	info->count = c->s->params.ops->irq_count(c->s->params.arg, index);
	if (info->count > 0)
		info->flags = VFIO_IRQ_INFO_EVENTFD;
	if (info->count > 0 && index == VFIO_PCI_INTX_IRQ_INDEX)
		info->flags |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
	c->out_len = sizeof(*info);
	return 0;
}

/* The device writes to them from where it must not wait: on a full pipe it would. */
static int
check_eventfds(const struct vfu_server *s)
{
	for (unsigned int i = 0; i < s->n_fds; i++) {
		int flags = fcntl(s->fds[i], F_GETFL);

		if (!vdpa_fd_is_eventfd(s->fds[i]))
			return vdpa_error(EINVAL, "SET_IRQS: a file descriptor that is no eventfd");
		if (flags < 0 || fcntl(s->fds[i], F_SETFL, flags | O_NONBLOCK) < 0)
			return vdpa_error(errno, "SET_IRQS: an eventfd: %s", strerror(errno));
	}
	return 0;
}

static int
do_set_irqs(struct call *c)
{
	const struct vfio_user_irq_set *set = c->in;
	uint32_t data = set->flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
	uint32_t action = set->flags & VFIO_IRQ_SET_ACTION_TYPE_MASK, count;
	int rc;

	if (set->index >= VFIO_PCI_NUM_IRQS)
		return vdpa_error(EINVAL, "interrupt index %u", set->index);
	count = c->s->params.ops->irq_count(c->s->params.arg, set->index);
	if (set->start > count || set->count > count - set->start)
		return vdpa_error(EINVAL, "interrupts %u to %u of index %u: there are %u",
				  set->start, set->start + set->count, set->index, count);
	if (__builtin_popcount(data) != 1 || __builtin_popcount(action) != 1 ||
	    (set->flags & ~(data | action)) != 0)
		return vdpa_error(EINVAL, "SET_IRQS: flags 0x%x", set->flags);
	if (data == VFIO_IRQ_SET_DATA_BOOL && c->in_len < sizeof(*set) + set->count)
		return vdpa_error(EINVAL, "SET_IRQS: %u bytes of data are missing", set->count);
	if (c->s->n_fds > 0 && (data != VFIO_IRQ_SET_DATA_EVENTFD || c->s->n_fds != set->count))
		return vdpa_error(EINVAL, "SET_IRQS: %u file descriptors for %u interrupts",
				  c->s->n_fds, set->count);
	rc = check_eventfds(c->s);
	if (rc < 0)
		return rc;
	return c->s->params.ops->set_irqs(c->s->params.arg, set, (const uint8_t *)(set + 1),
					  c->s->fds, c->s->n_fds);
}

/* Whether an access lies within its region. */
static int
check_access(struct call *c, const struct vfio_user_region_access *a)
{
	uint64_t size;

	if (a->count == 0 || a->count > VFIO_USER_XFER_MAX)
		return vdpa_error(EINVAL, "an access of %u bytes", a->count);
	if (a->region >= VFIO_PCI_NUM_REGIONS)
		return vdpa_error(EINVAL, "region %u", a->region);
	size = c->s->params.ops->region_size(c->s->params.arg, a->region);
	if (a->offset > size || a->count > size - a->offset)
		return vdpa_error(
			EINVAL, "an access to 0x%" PRIx64 " of %u bytes in region %u of 0x%" PRIx64,
			a->offset, a->count, a->region, size);
	return 0;
}

static int
do_region_read(struct call *c)
{
	const struct vfio_user_region_access *a = c->in;
	struct vfio_user_region_access *reply = c->out;
	int rc = check_access(c, a);

	if (rc < 0)
		return rc;
	*reply = *a;
	c->s->params.ops->region_read(c->s->params.arg, a->region, a->offset, reply + 1, a->count);
	c->out_len = sizeof(*reply) + reply->count;
	return 0;
}

static int
do_region_write(struct call *c)
{
	const struct vfio_user_region_access *a = c->in;
	struct vfio_user_region_access *reply = c->out;
	int rc = check_access(c, a);

	if (rc < 0)
		return rc;
	if (c->in_len - sizeof(*a) < a->count)
		return vdpa_error(EINVAL, "a write of %u bytes with %zu", a->count,
				  c->in_len - sizeof(*a));
	*reply = *a;
	c->out_len = sizeof(*reply);
	c->s->params.ops->region_write(c->s->params.arg, a->region, a->offset, a + 1, a->count);
	return 0;
}

static int
do_reset(struct call *c)
{
	c->s->params.ops->reset(c->s->params.arg);
	return 0;
}

/* DEVICE_FEATURE: the log of DMA, the state that moves, and nothing else. */

#define LOG_PAGE 4096u

static int
start_dma_log(struct call *c, const void *data, size_t len)
{
	const struct vfio_user_dma_log_control *control = data;
	const struct vfio_user_dma_log_range *ranges = (const void *)(control + 1);

	if (len < sizeof(*control) ||
	    (len - sizeof(*control)) / sizeof(ranges[0]) < control->num_ranges)
		return vdpa_error(EINVAL, "DMA_LOGGING_START of %zu bytes", len);
	return c->s->params.ops->dma_log_start(c->s->params.arg, ranges, control->num_ranges);
}

static int
report_dma_log(struct call *c, const void *data, size_t len)
{
	const struct vfio_user_dma_log_report *asked = data;
	struct {
		struct vfio_user_device_feature feature;
		struct vfio_user_dma_log_report report;
		uint64_t bitmap[];
	} *reply = c->out;
	size_t bytes;

	if (len < sizeof(*asked) || asked->page_size != LOG_PAGE || asked->iova % LOG_PAGE != 0 ||
	    asked->length % LOG_PAGE != 0)
		return vdpa_error(EINVAL, "DMA_LOGGING_REPORT: whole pages of %u are reported",
				  LOG_PAGE);
	if (asked->length / LOG_PAGE > VFIO_USER_XFER_MAX * 8)
		return vdpa_error(EINVAL,
				  "DMA_LOGGING_REPORT of 0x%" PRIx64
				  " bytes: a bitmap has %u at most",
				  asked->length, VFIO_USER_XFER_MAX);
	bytes = RTE_ALIGN_CEIL(asked->length / LOG_PAGE, UINT64_C(64)) / 8;
	memcpy(&reply->feature, c->in, sizeof(reply->feature));
	reply->feature.argsz = (uint32_t)(sizeof(*reply) + bytes);
	reply->report = *asked;
	memset(reply->bitmap, 0, bytes);
	c->out_len = sizeof(*reply) + bytes;
	return c->s->params.ops->dma_log_report(c->s->params.arg, asked, reply->bitmap);
}

static int
do_dma_log(struct call *c, uint32_t index)
{
	const struct vfio_user_device_feature *f = c->in;

	if (index == VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP)
		return c->s->params.ops->dma_log_stop(c->s->params.arg);
	if (index == VFIO_DEVICE_FEATURE_DMA_LOGGING_START)
		return start_dma_log(c, f + 1, c->in_len - sizeof(*f));
	return report_dma_log(c, f + 1, c->in_len - sizeof(*f));
}

static int
do_migration(struct call *c)
{
	struct {
		struct vfio_user_device_feature feature;
		uint64_t flags;
	} __attribute__((packed)) *reply = c->out;

	reply->feature.argsz = sizeof(*reply);
	reply->flags = VFIO_MIGRATION_STOP_COPY;
	c->out_len = sizeof(*reply);
	return 0;
}

static int
do_device_state(struct call *c)
{
	const struct vfio_user_device_feature *f = c->in;
	const struct vfu_ops *ops = c->s->params.ops;
	struct {
		struct vfio_user_device_feature feature;
		struct vfio_user_mig_state state;
	} __attribute__((packed)) *reply = c->out;

	c->out_len = sizeof(*reply);
	if ((f->flags & VFIO_DEVICE_FEATURE_SET) != 0) {
		if (c->in_len < sizeof(*reply))
			return vdpa_error(EINVAL, "MIG_DEVICE_STATE of %zu bytes", c->in_len);
		memcpy(&reply->state, f + 1, sizeof(reply->state));
		return ops->set_state(c->s->params.arg, reply->state.device_state);
	}
	reply->feature.argsz = sizeof(*reply);
	reply->state = (struct vfio_user_mig_state){
		.device_state = ops->get_state(c->s->params.arg), .data_fd = UINT32_MAX};
	return 0;
}

/* What of a feature there is: VFIO_DEVICE_FEATURE_GET and _SET. */
static uint32_t
feature_methods(const struct call *c, uint32_t index)
{
	const struct vfu_ops *ops = c->s->params.ops;
	bool logs = ops->logs_dma(c->s->params.arg), moves = ops->moves(c->s->params.arg);

	switch (index) {
	case VFIO_DEVICE_FEATURE_MIGRATION:
		return moves ? VFIO_DEVICE_FEATURE_GET : 0;
	case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
		return moves ? VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET : 0;
	case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
	case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
		return logs ? VFIO_DEVICE_FEATURE_SET : 0;
	case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
		return logs ? VFIO_DEVICE_FEATURE_GET : 0;
	default:
		return 0;
	}
}

static int
do_feature(struct call *c)
{
	const struct vfio_user_device_feature *f = c->in;
	const uint32_t both = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
	const uint32_t known = VFIO_DEVICE_FEATURE_MASK | both | VFIO_DEVICE_FEATURE_PROBE;
	uint32_t index = f->flags & VFIO_DEVICE_FEATURE_MASK, what = f->flags & both;
	uint32_t has = feature_methods(c, index);

	if (has == 0 || (what & ~has) != 0 || (f->flags & ~known) != 0)
		return vdpa_error(ENOTTY, "DEVICE_FEATURE 0x%x", f->flags);
	memcpy(c->out, f, sizeof(*f));
	c->out_len = sizeof(*f);
	if ((f->flags & VFIO_DEVICE_FEATURE_PROBE) != 0)
		return 0;
	if (what == 0 || what == both)
		return vdpa_error(EINVAL, "DEVICE_FEATURE 0x%x", f->flags);
	switch (index) {
	case VFIO_DEVICE_FEATURE_MIGRATION:
		return do_migration(c);
	case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
		return do_device_state(c);
	default:
		return do_dma_log(c, index);
	}
}

/* The state's bytes. */

static int
check_data(const struct call *c, const struct vfio_user_mig_data *data)
{
	if (!c->s->params.ops->moves(c->s->params.arg))
		return vdpa_error(ENOTSUP, "MIG_DATA: the state stays here (device_state off)");
	if (data->size > VFIO_USER_XFER_MAX)
		return vdpa_error(EINVAL, "MIG_DATA of %u bytes, allowed are %u", data->size,
				  VFIO_USER_XFER_MAX);
	return 0;
}

static int
do_data_read(struct call *c)
{
	const struct vfio_user_mig_data *asked = c->in;
	struct vfio_user_mig_data *reply = c->out;
	uint32_t n = 0;
	int rc = check_data(c, asked);

	if (rc == 0)
		rc = c->s->params.ops->read_state(c->s->params.arg, reply + 1, asked->size, &n);
	reply->size = n;
	reply->argsz = (uint32_t)sizeof(*reply) + n;
	c->out_len = reply->argsz;
	return rc;
}

static int
do_data_write(struct call *c)
{
	const struct vfio_user_mig_data *data = c->in;
	int rc = check_data(c, data);

	if (rc == 0 && c->in_len - sizeof(*data) < data->size)
		rc = vdpa_error(EINVAL, "MIG_DATA_WRITE of %u bytes with %zu", data->size,
				c->in_len - sizeof(*data));
	return rc < 0 ? rc : c->s->params.ops->write_state(c->s->params.arg, data + 1, data->size);
}

static const struct command {
	const char *name;
	int (*handler)(struct call *c);
	size_t payload;	  /* bytes, at least */
	unsigned int fds; /* at most */
} commands[] = {
	[VFIO_USER_VERSION] = {"VERSION", do_version, sizeof(struct vfio_user_version), 0},
	[VFIO_USER_DMA_MAP] = {"DMA_MAP", do_dma_map, sizeof(struct vfio_user_dma_map), 1},
	[VFIO_USER_DMA_UNMAP] = {"DMA_UNMAP", do_dma_unmap, sizeof(struct vfio_user_dma_unmap), 0},
	[VFIO_USER_DEVICE_GET_INFO] = {"GET_INFO", do_get_info,
				       sizeof(struct vfio_user_device_info), 0},
	[VFIO_USER_DEVICE_GET_REGION_INFO] = {"GET_REGION_INFO", do_region_info,
					      sizeof(struct vfio_user_region_info), 0},
	[VFIO_USER_DEVICE_GET_IRQ_INFO] = {"GET_IRQ_INFO", do_irq_info,
					   sizeof(struct vfio_user_irq_info), 0},
	[VFIO_USER_DEVICE_SET_IRQS] = {"SET_IRQS", do_set_irqs, sizeof(struct vfio_user_irq_set),
				       VFIO_USER_FDS_MAX},
	[VFIO_USER_REGION_READ] = {"REGION_READ", do_region_read,
				   sizeof(struct vfio_user_region_access), 0},
	[VFIO_USER_REGION_WRITE] = {"REGION_WRITE", do_region_write,
				    sizeof(struct vfio_user_region_access), 0},
	[VFIO_USER_DEVICE_RESET] = {"RESET", do_reset, 0, 0},
	[VFIO_USER_DEVICE_FEATURE] = {"DEVICE_FEATURE", do_feature,
				      sizeof(struct vfio_user_device_feature), 0},
	[VFIO_USER_MIG_DATA_READ] = {"MIG_DATA_READ", do_data_read,
				     sizeof(struct vfio_user_mig_data), 0},
	[VFIO_USER_MIG_DATA_WRITE] = {"MIG_DATA_WRITE", do_data_write,
				      sizeof(struct vfio_user_mig_data), 0},
};

static int
execute(struct call *c, const struct vfio_user_header *hdr)
{
	const struct command *cmd =
		hdr->command < RTE_DIM(commands) ? &commands[hdr->command] : NULL;

	if ((hdr->flags & VFIO_USER_TYPE_MASK) != VFIO_USER_TYPE_CMD)
		return vdpa_error(EINVAL, "a reply that nobody waits for");
	if (cmd == NULL || cmd->handler == NULL)
		return vdpa_error(ENOTSUP, "command %u", hdr->command);
	if (!c->s->version_done && hdr->command != VFIO_USER_VERSION)
		return vdpa_error(EINVAL, "%s before VERSION", cmd->name);
	if (c->in_len < cmd->payload)
		return vdpa_error(EINVAL, "%s of %zu bytes", cmd->name, c->in_len);
	if (c->s->n_fds > cmd->fds)
		return vdpa_error(EINVAL, "%s with %u file descriptors", cmd->name, c->s->n_fds);
	return cmd->handler(c);
}

/* A client tries what a server may lack; but without its memory nothing works. */
static void
log_refusal(struct vfu_server *s, const struct vfio_user_header *hdr)
{
	if (hdr->command == VFIO_USER_DMA_MAP)
		VDPA_LOG_LIMITED(&s->lines, WARNING, "%s: vfio-user: DMA_MAP refused: %s",
				 s->params.name, vdpa_error_message());
	else
		VDPA_LOG_LIMITED(&s->lines, INFO, "%s: vfio-user: refused: %s", s->params.name,
				 vdpa_error_message());
}

void
vdpa_vfus_command(struct vfu_server *s)
{
	const struct vfio_user_header *hdr = (const void *)s->in;
	struct vfio_user_header *reply = (void *)s->out;
	struct call c = {
		.s = s, .in = hdr + 1, .in_len = hdr->size - sizeof(*hdr), .out = reply + 1};
	int rc = execute(&c, hdr);

	if (rc < 0)
		log_refusal(s, hdr);
	if ((hdr->flags & VFIO_USER_NO_REPLY) != 0 ||
	    (hdr->flags & VFIO_USER_TYPE_MASK) != VFIO_USER_TYPE_CMD) {
		s->out_fd = -1;
		return;
	}
	*reply = (struct vfio_user_header){
		.id = hdr->id, .command = hdr->command, .flags = VFIO_USER_TYPE_REPLY};
	if (rc < 0) {
		reply->flags |= VFIO_USER_ERROR;
		reply->error = (uint32_t)-rc;
		c.out_len = 0;
	}
	s->out_len = sizeof(*reply) + c.out_len;
	reply->size = (uint32_t)s->out_len;
}
