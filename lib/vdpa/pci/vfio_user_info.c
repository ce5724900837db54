/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a vfio-user server says of itself and of its device: version and capabilities, regions,
 * interrupts. Every figure is checked here, where it enters; what has a meaning in PCI is pci.c's.
 *
 * A region can be mapped where the server gives a file for it. The file has to be shared memory (a
 * page of a file in a file system of the server's own could keep us waiting in a page fault for
 * ever) of small pages (which are there as long as the file is) and as long as the server says.
 * Should it shrink later, that is a SIGBUS for whoever has mapped it, which vdpa_pci_map() guards
 * against.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <jansson.h>
#include <linux/magic.h>
#include <rte_common.h>

#include "vdpa_error.h"
#include "vdpa_event.h"
#include "vdpa_log.h"
#include "vfio_user_priv.h"

/* "max_data_xfer_size", "max_dma_maps" and "pgsizes" of a server that says nothing. */
#define XFER_DEFAULT	1048576
#define MAPS_DEFAULT	65535
#define PGSIZES_DEFAULT 4096
/* A register must be accessible at once. */
#define XFER_MIN	8
/* Room for the capabilities of a region; the sparse mmap one takes 16 bytes and 16 an area. */
#define REGION_INFO_MAX 4096

/* An optional integer of the capabilities, within [min, max]. */
static int
get_integer(struct vfu_conn *conn, json_t *caps, const char *key, int64_t min, int64_t max,
	    int64_t *value)
{
	json_t *v = json_object_get(caps, key);

	if (v == NULL)
		return 0;
	if (!json_is_integer(v))
		return vdpa_vfu_violation(conn, VFIO_USER_VERSION, "\"%s\" is no integer", key);
	*value = json_integer_value(v);
	if (*value < min || *value > max)
		return vdpa_vfu_violation(conn, VFIO_USER_VERSION,
					  "\"%s\" is %" PRId64 ", outside %" PRId64 " to %" PRId64,
					  key, *value, min, max);
	return 0;
}

static int
parse_caps(struct vfu_conn *conn, const char *json, size_t len, struct vfu_caps *out)
{
	int64_t fds = 1, xfer = XFER_DEFAULT, maps = MAPS_DEFAULT, pgsizes = PGSIZES_DEFAULT;
	json_t *root = NULL, *caps = NULL;
	json_error_t err;
	int rc = 0;

	if (len != 0) {
		if (memchr(json, '\0', len) != json + len - 1)
			return vdpa_vfu_violation(conn, VFIO_USER_VERSION,
						  "the capabilities do not end with a NUL");
		root = json_loadb(json, len - 1, JSON_REJECT_DUPLICATES, &err);
		if (root == NULL)
			return vdpa_vfu_violation(conn, VFIO_USER_VERSION,
						  "the capabilities are no JSON: %s", err.text);
		if (!json_is_object(root))
			rc = vdpa_vfu_violation(conn, VFIO_USER_VERSION,
						"the version data is no JSON object");
		caps = json_object_get(root, "capabilities");
		if (rc == 0 && caps != NULL && !json_is_object(caps))
			rc = vdpa_vfu_violation(conn, VFIO_USER_VERSION,
						"\"capabilities\" is no object");
	}
	if (rc == 0)
		rc = get_integer(conn, caps, "max_msg_fds", 0, INT32_MAX, &fds);
	if (rc == 0)
		rc = get_integer(conn, caps, "max_data_xfer_size", XFER_MIN, UINT32_MAX, &xfer);
	if (rc == 0)
		rc = get_integer(conn, caps, "max_dma_maps", 1, UINT32_MAX, &maps);
	if (rc == 0)
		rc = get_integer(conn, caps, "pgsizes", 1, INT64_MAX, &pgsizes);
	json_decref(root);
	if (rc < 0)
		return rc;
	out->max_fds = (unsigned int)RTE_MIN(fds, VFIO_USER_FDS_MAX);
	out->max_xfer = (uint32_t)RTE_MIN(xfer, VFIO_USER_XFER_MAX);
	out->max_maps = (unsigned int)maps;
	out->page_size = (uint64_t)(pgsizes & -pgsizes);
	return 0;
}

bool
vdpa_vfu_caps_ok(const struct vfu_caps *caps)
{
	return caps->max_fds >= 1 && caps->max_fds <= VFIO_USER_FDS_MAX &&
	       caps->max_xfer >= XFER_MIN && caps->max_xfer <= VFIO_USER_XFER_MAX &&
	       caps->max_maps >= 1 && caps->page_size != 0 &&
	       (caps->page_size & (caps->page_size - 1)) == 0;
}

int
vdpa_vfu_negotiate(struct vfu_conn *conn, const char *name, struct vfu_caps *caps)
{
	static const char json[] =
		"{\"capabilities\":{\"max_msg_fds\":" RTE_STR(VFIO_USER_FDS_MAX) //
		",\"max_data_xfer_size\":" RTE_STR(VFIO_USER_XFER_MAX) "}}";
	const struct vfio_user_version ours = {VFIO_USER_MAJOR, VFIO_USER_MINOR};
	struct {
		struct vfio_user_version version;
		char json[VFIO_USER_XFER_MAX];
	} reply;
	struct vfu_call call = {
		.command = VFIO_USER_VERSION,
		.arg = &ours,
		.arg_len = sizeof(ours),
		.data = json,
		.data_len = sizeof(json),
		.reply = &reply,
		.reply_min = sizeof(reply.version),
		.reply_max = sizeof(reply),
	};
	int rc = vdpa_vfu_call(conn, &call);
	char why[VDPA_ERROR_MAX];

	if (rc == -ENODEV) {
		snprintf(why, sizeof(why), "%s", vdpa_error_message());
		return vdpa_error(ENODEV,
				  "%s; servers take one client at a time: is there another?", why);
	}
	if (rc < 0)
		return rc;
	if (reply.version.major != VFIO_USER_MAJOR || reply.version.minor > VFIO_USER_MINOR)
		return vdpa_vfu_violation(conn, VFIO_USER_VERSION,
					  "the server speaks version %u.%u, offered was %u.%u",
					  reply.version.major, reply.version.minor, VFIO_USER_MAJOR,
					  VFIO_USER_MINOR);
	rc = parse_caps(conn, reply.json, call.reply_len - sizeof(reply.version), caps);
	if (rc < 0)
		return rc;
	/* Neither interrupts nor memory of the guest then. */
	if (caps->max_fds == 0)
		return vdpa_error(ENOTSUP, "%s: the server takes no file descriptors", name);
	return 0;
}

static int
get_device_info(struct vfu_conn *conn, const char *name, struct vfio_user_device_info *info)
{
	const struct vfio_user_device_info arg = {.argsz = sizeof(arg)};
	struct vfu_call call = {
		.command = VFIO_USER_DEVICE_GET_INFO,
		.arg = &arg,
		.arg_len = sizeof(arg),
		.reply = info,
		.reply_min = sizeof(*info),
		.reply_max = sizeof(*info),
	};
	int rc = vdpa_vfu_call(conn, &call);

	if (rc < 0)
		return rc;
	/* More than that would be capabilities of the device, of which there are none for us. */
	if (info->argsz < sizeof(*info))
		return vdpa_vfu_violation(conn, call.command, "argsz is %u", info->argsz);
	if (!(info->flags & VFIO_DEVICE_FLAGS_PCI))
		return vdpa_error(ENOTSUP, "%s: is no PCI function (flags 0x%x)", name,
				  info->flags);
	if (info->num_regions <= VDPA_PCI_REGION_CONFIG)
		return vdpa_vfu_violation(conn, call.command,
					  "%u regions: no configuration space is among them",
					  info->num_regions);
	return 0;
}

/* The areas of a sparse mmap capability at offset at of the reply; areas is what follows it. */
static int
parse_sparse(struct vfu_conn *conn, const char *name, const uint8_t *reply, size_t len, size_t at,
	     unsigned int index, struct vdpa_pci_region *region)
{
	const uint16_t command = VFIO_USER_DEVICE_GET_REGION_INFO;
	struct vfio_region_info_cap_sparse_mmap cap;
	struct vfio_region_sparse_mmap_area area;

	if (len - at < sizeof(cap))
		return vdpa_vfu_violation(conn, command, "region %u: sparse mmap is cut off",
					  index);
	memcpy(&cap, reply + at, sizeof(cap));
	at += sizeof(cap);
	if (cap.header.version != 1)
		return vdpa_vfu_violation(conn, command, "region %u: sparse mmap version %u", index,
					  cap.header.version);
	if (cap.nr_areas > (len - at) / sizeof(area))
		return vdpa_vfu_violation(conn, command, "region %u: %u sparse areas in %zu bytes",
					  index, cap.nr_areas, len - at);
	if (cap.nr_areas > VDPA_PCI_SPARSE_MAX)
		VDPA_LOG(NOTICE, "%s: region %u: of %u areas that can be mapped %u are", name,
			 index, cap.nr_areas, VDPA_PCI_SPARSE_MAX);
	for (unsigned int i = 0; i < cap.nr_areas; i++, at += sizeof(area)) {
		memcpy(&area, reply + at, sizeof(area));
		if (area.offset > region->size || area.size > region->size - area.offset)
			return vdpa_vfu_violation(
				conn, command,
				"region %u: area %" PRIu64 " bytes at %" PRIu64 " of %" PRIu64,
				index, (uint64_t)area.size, (uint64_t)area.offset, region->size);
		if (area.size == 0 || region->n_parts == VDPA_PCI_SPARSE_MAX)
			continue;
		region->parts[region->n_parts].offset = area.offset;
		region->parts[region->n_parts++].size = area.size;
	}
	/* No area is not all of it. */
	if (region->n_parts == 0)
		region->flags &= ~(uint32_t)VFIO_REGION_INFO_FLAG_MMAP;
	return 0;
}

static int
parse_region_caps(struct vfu_conn *conn, const char *name, const uint8_t *reply, size_t len,
		  size_t at, unsigned int index, struct vdpa_pci_region *region)
{
	const uint16_t command = VFIO_USER_DEVICE_GET_REGION_INFO;
	struct vfio_info_cap_header cap;
	bool sparse = false;
	size_t min = sizeof(struct vfio_user_region_info);
	int rc;

	/* Each one behind the last: so the list ends. */
	for (; at != 0; at = cap.next) {
		if (at < min || at % 8 != 0 || len < sizeof(cap) || at > len - sizeof(cap))
			return vdpa_vfu_violation(conn, command,
						  "region %u: capability at %zu of %zu bytes",
						  index, at, len);
		min = at + sizeof(cap);
		memcpy(&cap, reply + at, sizeof(cap));
		if (cap.id != VFIO_REGION_INFO_CAP_SPARSE_MMAP)
			continue;
		if (sparse)
			return vdpa_vfu_violation(conn, command,
						  "region %u: two lists of areas to map", index);
		sparse = true;
		rc = parse_sparse(conn, name, reply, len, at, index, region);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Whether the file holds what the region's mappable parts need. */
static int
check_file(struct vfu_conn *conn, const char *name, unsigned int index,
	   struct vdpa_pci_region *region)
{
	uint64_t end = region->n_parts == 0 ? region->size : 0;
	struct statfs fs;
	struct stat st;

	for (unsigned int i = 0; i < region->n_parts; i++)
		end = RTE_MAX(end, region->parts[i].offset + region->parts[i].size);
	/* Only memory files have seals. Huge pages may not come back once the server has taken one
	 * out, which no seal forbids. */
	if (fcntl(region->fd, F_GET_SEALS) < 0 || fstat(region->fd, &st) < 0 ||
	    fstatfs(region->fd, &fs) < 0 || fs.f_type == HUGETLBFS_MAGIC) {
		VDPA_LOG(
			NOTICE,
			"%s: region %u: is not mapped: its file is no shared memory of small pages",
			name, index);
		region->flags &= ~(uint32_t)VFIO_REGION_INFO_FLAG_MMAP;
		return 0;
	}
	if (region->fd_offset > (uint64_t)st.st_size ||
	    end > (uint64_t)st.st_size - region->fd_offset)
		return vdpa_vfu_violation(conn, VFIO_USER_DEVICE_GET_REGION_INFO,
					  "region %u: %" PRIu64 " bytes at %" PRIu64
					  " of a file of %" PRIu64,
					  index, end, region->fd_offset, (uint64_t)st.st_size);
	return 0;
}

static int
get_region(struct vfu_conn *conn, const char *name, unsigned int index,
	   struct vdpa_pci_region *region)
{
	const struct vfio_user_region_info arg = {.argsz = REGION_INFO_MAX, .index = index};
	union {
		struct vfio_user_region_info info;
		uint8_t bytes[REGION_INFO_MAX];
	} reply;
	struct vfu_call call = {
		.command = VFIO_USER_DEVICE_GET_REGION_INFO,
		.arg = &arg,
		.arg_len = sizeof(arg),
		.reply = &reply,
		.reply_min = sizeof(reply.info),
		.reply_max = sizeof(reply),
		.reply_fd = &region->fd,
	};
	int rc = vdpa_vfu_call(conn, &call);

	if (rc < 0)
		return rc;
	if (reply.info.index != index)
		return vdpa_vfu_violation(conn, call.command, "region %u: answered is region %u",
					  index, reply.info.index);
	/* argsz is what all of it would need. */
	if (reply.info.argsz < sizeof(reply.info) || call.reply_len > reply.info.argsz)
		return vdpa_vfu_violation(conn, call.command, "region %u: argsz %u of %zu bytes",
					  index, reply.info.argsz, call.reply_len);
	region->size = reply.info.size;
	region->flags = reply.info.flags;
	region->fd_offset = reply.info.offset;
	if (reply.info.flags & VFIO_REGION_INFO_FLAG_CAPS) {
		rc = parse_region_caps(conn, name, reply.bytes, call.reply_len,
				       reply.info.cap_offset, index, region);
		if (rc < 0)
			return rc;
	} else if (reply.info.argsz > call.reply_len) {
		/* What may be mapped was left out: nothing then. */
		VDPA_LOG(NOTICE, "%s: region %u: is not mapped: its capabilities need %u bytes",
			 name, index, reply.info.argsz);
		region->flags &= ~(uint32_t)VFIO_REGION_INFO_FLAG_MMAP;
	}
	if (region->fd >= 0 && (region->flags & VFIO_REGION_INFO_FLAG_MMAP) && region->size != 0) {
		rc = check_file(conn, name, index, region);
		if (rc < 0)
			return rc;
	}
	if (region->fd < 0 || region->size == 0)
		region->flags &= ~(uint32_t)VFIO_REGION_INFO_FLAG_MMAP;
	if (region->fd >= 0 && !(region->flags & VFIO_REGION_INFO_FLAG_MMAP)) {
		vdpa_vfu_close_file(conn, region->fd);
		region->fd = -1;
	}
	if (region->fd < 0)
		region->n_parts = 0;
	return 0;
}

static int
get_irq(struct vfu_conn *conn, unsigned int index, unsigned int *count)
{
	const struct vfio_user_irq_info arg = {.argsz = sizeof(arg), .index = index};
	struct vfio_user_irq_info reply;
	struct vfu_call call = {
		.command = VFIO_USER_DEVICE_GET_IRQ_INFO,
		.arg = &arg,
		.arg_len = sizeof(arg),
		.reply = &reply,
		.reply_min = sizeof(reply),
		.reply_max = sizeof(reply),
	};
	int rc = vdpa_vfu_call(conn, &call);

	if (rc < 0)
		return rc;
	if (reply.index != index || reply.argsz < sizeof(reply))
		return vdpa_vfu_violation(conn, call.command,
					  "interrupt %u: answered is %u, with argsz %u", index,
					  reply.index, reply.argsz);
	/* Without eventfds it is of no use. */
	*count = reply.flags & VFIO_IRQ_INFO_EVENTFD ? reply.count : 0;
	return 0;
}

void
vdpa_vfu_close_regions(struct vfu_conn *conn, struct vdpa_pci_info *info)
{
	for (unsigned int i = 0; i < VDPA_PCI_REGIONS; i++) {
		vdpa_vfu_close_file(conn, info->regions[i].fd);
		info->regions[i].fd = -1;
	}
}

int
vdpa_vfu_get_info(struct vfu_conn *conn, const char *name, struct vdpa_pci_info *info)
{
	struct vfio_user_device_info device;
	int rc;

	memset(info, 0, sizeof(*info));
	for (unsigned int i = 0; i < VDPA_PCI_REGIONS; i++)
		info->regions[i].fd = -1;
	info->numa_node = -1;
	rc = get_device_info(conn, name, &device);
	if (rc < 0)
		return rc;
	info->can_reset = (device.flags & VFIO_DEVICE_FLAGS_RESET) != 0;
	for (unsigned int i = 0; i < RTE_MIN(device.num_regions, (unsigned int)VDPA_PCI_REGIONS);
	     i++) {
		rc = get_region(conn, name, i, &info->regions[i]);
		if (rc < 0)
			return rc;
	}
	for (unsigned int i = 0; i < RTE_MIN(device.num_irqs, (unsigned int)VFIO_PCI_NUM_IRQS);
	     i++) {
		rc = get_irq(conn, i, &info->nr_irqs[i]);
		if (rc < 0)
			return rc;
	}
	return 0;
}
