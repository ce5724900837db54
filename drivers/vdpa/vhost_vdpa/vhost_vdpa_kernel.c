/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* An open /dev/vhost-vdpa-N: one function a request. */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <linux/virtio_config.h>

#include <rte_bitops.h>
#include <rte_common.h>

#include "vdpa_error.h"
#include "vhost_vdpa_compat.h"
#include "vhost_vdpa_kernel.h"

/* More than any type has; what is beyond is no configuration. */
#define CONFIG_MAX 4096u

/* Where a packed ring stands, in the halves of a vring base. */
#define BASE_WRAP 0x8000u
#define BASE_IDX  0x7fffu

/* Message types: the header has no name for the union's member. */
_Static_assert(sizeof(struct vhost_msg_v2) == 72, "linux/vhost_types.h");

static int
closed(const struct vv_kernel *k)
{
	return vdpa_error(ENODEV, "%s: the kernel has taken the device away", k->name);
}

static int
request(const struct vv_kernel *k, unsigned long number, void *arg, const char *what)
{
	if (k->fd < 0)
		return closed(k);
	if (ioctl(k->fd, number, arg) >= 0)
		return 0;
	return vdpa_error(errno, "%s: %s: %s", k->name, what, strerror(errno));
}

#define REQUEST(k, number, arg) request(k, number, arg, #number)

static int
request_vq(const struct vv_kernel *k, uint16_t idx, unsigned long number, void *arg,
	   const char *what)
{
	if (k->fd < 0)
		return closed(k);
	if (ioctl(k->fd, number, arg) >= 0)
		return 0;
	return vdpa_error(errno, "%s: queue %u: %s: %s", k->name, idx, what, strerror(errno));
}

#define REQUEST_VQ(k, idx, number, arg) request_vq(k, idx, number, arg, #number)

static int
open_error(const struct vv_kernel *k, int err)
{
	switch (err) {
	case EBUSY:
		return vdpa_error(EBUSY, "%s: another process, or device, has %s open", k->name,
				  k->path);
	case EACCES:
	case EPERM:
		return vdpa_error(EACCES,
				  "%s: %s may not be opened by this user: chown or chmod it, or by "
				  "a udev rule",
				  k->name, k->path);
	case ENOENT:
	case ENXIO:
	case ENODEV:
		if (!vdpa_bus_has_driver("vhost_vdpa"))
			return vdpa_error(err,
					  "%s: %s: %s, and the kernel has no driver vhost_vdpa: "
					  "modprobe vhost_vdpa",
					  k->name, k->path, strerror(err));
		/* fall through */
	default:
		return vdpa_error(err, "%s: %s: %s", k->name, k->path, strerror(err));
	}
}

/* What of the backend features is used here. ENABLE_AFTER_DRIVER_OK is the parent's word that a
 * queue that is set up can be enabled later; one that comes later cannot be set up. */
static int
agree(struct vv_kernel *k)
{
	const uint64_t use =
		RTE_BIT64(VHOST_BACKEND_F_IOTLB_MSG_V2) | RTE_BIT64(VHOST_BACKEND_F_IOTLB_BATCH) |
		RTE_BIT64(VHOST_BACKEND_F_IOTLB_ASID) | RTE_BIT64(VHOST_BACKEND_F_SUSPEND) |
		RTE_BIT64(VHOST_BACKEND_F_RESUME) |
		RTE_BIT64(VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK) |
		RTE_BIT64(VHOST_BACKEND_F_IOTLB_PERSIST);
	uint64_t have = 0;
	int rc = REQUEST(k, VHOST_GET_BACKEND_FEATURES, &have);

	if (rc < 0)
		return rc;
	have &= use;
	if ((have & RTE_BIT64(VHOST_BACKEND_F_IOTLB_MSG_V2)) == 0)
		return vdpa_error(ENOTSUP, "%s: the kernel does not have VHOST_IOTLB_MSG_V2",
				  k->name);
	k->backend = have;
	return REQUEST(k, VHOST_SET_BACKEND_FEATURES, &have);
}

int
vv_kernel_open(struct vv_kernel *k, const char *name)
{
	int rc;

	k->name = name;
	k->fd = open(k->path, O_RDWR | O_CLOEXEC);
	if (k->fd < 0)
		return open_error(k, errno);
	rc = REQUEST(k, VHOST_SET_OWNER, NULL);
	if (rc == 0)
		rc = agree(k);
	if (rc < 0)
		vv_kernel_close(k);
	return rc;
}

void
vv_kernel_close(struct vv_kernel *k)
{
	if (k->fd >= 0)
		close(k->fd);
	k->fd = -1;
}

bool
vv_kernel_has(const struct vv_kernel *k, unsigned int backend_bit)
{
	return (k->backend & RTE_BIT64(backend_bit)) != 0;
}

int
vv_kernel_ask_parent(const struct vv_kernel *k, struct vv_parent *p)
{
	struct vhost_vdpa_iova_range range = {.last = UINT64_MAX};
	int rc;

	*p = (struct vv_parent){.n_asids = 1};
	rc = REQUEST(k, VHOST_VDPA_GET_DEVICE_ID, &p->device_id);
	if (rc == 0)
		rc = REQUEST(k, VHOST_GET_FEATURES, &p->features);
	if (rc == 0)
		rc = REQUEST(k, VHOST_VDPA_GET_VQS_COUNT, &p->nvqs);
	if (rc == 0)
		rc = REQUEST(k, VHOST_VDPA_GET_VRING_NUM, &p->num_max);
	if (rc == 0)
		rc = REQUEST(k, VHOST_VDPA_GET_CONFIG_SIZE, &p->config_size);
	if (rc == 0)
		rc = REQUEST(k, VHOST_VDPA_GET_IOVA_RANGE, &range);
	if (rc == 0 && vv_kernel_has(k, VHOST_BACKEND_F_IOTLB_ASID))
		rc = REQUEST(k, VHOST_VDPA_GET_AS_NUM, &p->n_asids);
	if (rc < 0)
		return rc;
	p->iova_first = range.first;
	p->iova_last = range.last;
	if (p->nvqs == 0 || p->nvqs > UINT16_MAX)
		return vdpa_error(EPROTO, "%s: the parent says that it has %u queues", k->name,
				  p->nvqs);
	if (p->num_max == 0)
		return vdpa_error(EPROTO, "%s: the parent says that its queues have no room",
				  k->name);
	if (p->config_size > CONFIG_MAX)
		return vdpa_error(EPROTO, "%s: the parent's configuration has %u bytes", k->name,
				  p->config_size);
	if (range.first > range.last)
		return vdpa_error(EPROTO, "%s: the parent reaches IOVA 0x%" PRIx64 " to 0x%" PRIx64,
				  k->name, (uint64_t)range.first, (uint64_t)range.last);
	return 0;
}

/* Status. */

uint8_t
vv_kernel_get_status(const struct vv_kernel *k)
{
	uint8_t status = 0;

	return REQUEST(k, VHOST_VDPA_GET_STATUS, &status) == 0 ? status : 0;
}

int
vv_kernel_set_status(const struct vv_kernel *k, uint8_t status)
{
	int rc = REQUEST(k, VHOST_VDPA_SET_STATUS, &status);
	uint8_t now;

	if (rc == 0)
		rc = REQUEST(k, VHOST_VDPA_GET_STATUS, &now);
	if (rc < 0)
		return rc;
	if (status == 0 && now != 0)
		return vdpa_error(EIO, "%s: the device does not reset: its status stays 0x%02x",
				  k->name, now);
	/* That it refuses the features is the core's to see. */
	if ((now & VIRTIO_CONFIG_S_NEEDS_RESET) != 0 ||
	    (status & VIRTIO_CONFIG_S_DRIVER_OK & ~now) != 0)
		return vdpa_error(EIO,
				  "%s: the device does not start: status 0x%02x becomes 0x%02x",
				  k->name, status, now);
	return 0;
}

int
vv_kernel_set_features(const struct vv_kernel *k, uint64_t features)
{
	return REQUEST(k, VHOST_SET_FEATURES, &features);
}

int
vv_kernel_suspend(const struct vv_kernel *k)
{
	return REQUEST(k, VHOST_VDPA_SUSPEND, NULL);
}

int
vv_kernel_resume(const struct vv_kernel *k)
{
	return REQUEST(k, VHOST_VDPA_RESUME, NULL);
}

/* Configuration. */

static struct vhost_vdpa_config *
new_config(size_t offset, const void *buf, size_t len)
{
	struct vhost_vdpa_config *c = calloc(1, sizeof(*c) + len);

	if (c == NULL)
		return NULL;
	c->off = (uint32_t)offset;
	c->len = (uint32_t)len;
	if (buf != NULL)
		memcpy(c->buf, buf, len);
	return c;
}

int
vv_kernel_get_config(const struct vv_kernel *k, size_t offset, void *buf, size_t len)
{
	struct vhost_vdpa_config *c;
	int rc;

	if (len == 0)
		return 0;
	c = new_config(offset, NULL, len);
	if (c == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", k->name);
	rc = REQUEST(k, VHOST_VDPA_GET_CONFIG, c);
	if (rc == 0)
		memcpy(buf, c->buf, len);
	free(c);
	return rc;
}

int
vv_kernel_set_config(const struct vv_kernel *k, size_t offset, const void *buf, size_t len)
{
	struct vhost_vdpa_config *c;
	int rc;

	if (len == 0)
		return 0;
	c = new_config(offset, buf, len);
	if (c == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", k->name);
	rc = REQUEST(k, VHOST_VDPA_SET_CONFIG, c);
	free(c);
	return rc;
}

int
vv_kernel_set_config_call(const struct vv_kernel *k, int fd)
{
	return REQUEST(k, VHOST_VDPA_SET_CONFIG_CALL, &fd);
}

/* Virtqueues. */

int
vv_kernel_vq_size(const struct vv_kernel *k, uint16_t idx, uint16_t num_max, uint16_t *size)
{
	struct vhost_vring_state s = {.index = idx};

	if (k->fd < 0)
		return closed(k);
	*size = num_max;
	/* Kernels before 6.9 do not know the request, for which they have several errors. */
	if (ioctl(k->fd, VHOST_VDPA_GET_VRING_SIZE, &s) < 0)
		return 0;
	if (s.num == 0 || s.num > UINT16_MAX)
		return vdpa_error(EPROTO, "%s: queue %u: the parent gives its size as %u", k->name,
				  idx, s.num);
	*size = (uint16_t)RTE_MIN(s.num, (unsigned int)num_max);
	return 0;
}

int
vv_kernel_set_vq_num(const struct vv_kernel *k, uint16_t idx, uint32_t num)
{
	struct vhost_vring_state s = {.index = idx, .num = num};

	if (!rte_is_power_of_2(num))
		return vdpa_error(EINVAL, "%s: queue %u: size %u: Linux takes powers of two only",
				  k->name, idx, num);
	return REQUEST_VQ(k, idx, VHOST_SET_VRING_NUM, &s);
}

int
vv_kernel_set_vq_address(const struct vv_kernel *k, uint16_t idx, uint64_t desc, uint64_t driver,
			 uint64_t device)
{
	struct vhost_vring_addr a = {.index = idx,
				     .desc_user_addr = desc,
				     .avail_user_addr = driver,
				     .used_user_addr = device};

	return REQUEST_VQ(k, idx, VHOST_SET_VRING_ADDR, &a);
}

static uint32_t
packed_half(uint16_t idx, uint8_t wrap)
{
	return (idx & BASE_IDX) | (wrap != 0 ? BASE_WRAP : 0);
}

static bool
is_initial(const struct vdpa_vq_state *state)
{
	return state->packed.last_avail_idx == 0 && state->packed.last_used_idx == 0 &&
	       state->packed.last_avail_counter == 1 && state->packed.last_used_counter == 1;
}

int
vv_kernel_set_vq_state(const struct vv_kernel *k, uint16_t idx, bool packed,
		       const struct vdpa_vq_state *state)
{
	struct vhost_vring_state s = {.index = idx, .num = state->split.avail_index};
	int rc;

	if (packed)
		s.num = packed_half(state->packed.last_avail_idx,
				    state->packed.last_avail_counter) |
			packed_half(state->packed.last_used_idx, state->packed.last_used_counter)
				<< 16;
	rc = REQUEST_VQ(k, idx, VHOST_SET_VRING_BASE, &s);
	/* Kernels before 6.5 know no place in a packed ring but its beginning. */
	return rc == -EINVAL && packed && is_initial(state) ? 0 : rc;
}

int
vv_kernel_get_vq_state(const struct vv_kernel *k, uint16_t idx, bool packed, uint32_t num,
		       struct vdpa_vq_state *state)
{
	struct vhost_vring_state s = {.index = idx};
	uint16_t avail, used;
	int rc = REQUEST_VQ(k, idx, VHOST_GET_VRING_BASE, &s);

	if (rc < 0)
		return rc;
	avail = s.num & BASE_IDX;
	used = s.num >> 16 & BASE_IDX;
	if (packed ? avail >= num || used >= num : s.num > UINT16_MAX)
		return vdpa_error(EPROTO,
				  "%s: queue %u of %u: the parent says that it stands at 0x%x",
				  k->name, idx, num, s.num);
	*state = (struct vdpa_vq_state){0};
	if (!packed) {
		state->split.avail_index = (uint16_t)s.num;
		return 0;
	}
	state->packed.last_avail_idx = avail;
	state->packed.last_avail_counter = (s.num & BASE_WRAP) != 0;
	state->packed.last_used_idx = used;
	state->packed.last_used_counter = (s.num >> 16 & BASE_WRAP) != 0;
	return 0;
}

int
vv_kernel_set_vq_ready(const struct vv_kernel *k, uint16_t idx, bool ready)
{
	struct vhost_vring_state s = {.index = idx, .num = ready};

	return REQUEST_VQ(k, idx, VHOST_VDPA_SET_VRING_ENABLE, &s);
}

int
vv_kernel_set_vq_kick(const struct vv_kernel *k, uint16_t idx, int fd)
{
	struct vhost_vring_file f = {.index = idx, .fd = fd};

	return REQUEST_VQ(k, idx, VHOST_SET_VRING_KICK, &f);
}

int
vv_kernel_set_vq_call(const struct vv_kernel *k, uint16_t idx, int fd)
{
	struct vhost_vring_file f = {.index = idx, .fd = fd};

	return REQUEST_VQ(k, idx, VHOST_SET_VRING_CALL, &f);
}

volatile uint16_t *
vv_kernel_map_doorbell(const struct vv_kernel *k, uint16_t idx)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *map;

	if (k->fd < 0)
		return NULL;
	map = mmap(NULL, page, PROT_WRITE, MAP_SHARED, k->fd, (off_t)(idx * page));
	return map != MAP_FAILED ? map : NULL;
}

void
vv_kernel_unmap_doorbell(volatile uint16_t *doorbell)
{
	if (doorbell != NULL)
		munmap((void *)(uintptr_t)doorbell, (size_t)sysconf(_SC_PAGESIZE));
}

/* Groups and address spaces. */

int
vv_kernel_vq_group(const struct vv_kernel *k, uint16_t idx, uint32_t *group)
{
	struct vhost_vring_state s = {.index = idx};
	int rc = REQUEST_VQ(k, idx, VHOST_VDPA_GET_VRING_GROUP, &s);

	if (rc == 0)
		*group = s.num;
	return rc;
}

int
vv_kernel_set_group_asid(const struct vv_kernel *k, uint32_t group, uint32_t asid)
{
	struct vhost_vring_state s = {.index = group, .num = asid};

	return REQUEST(k, VHOST_VDPA_SET_GROUP_ASID, &s);
}

/* IOTLB. */

/* 0 or a negative errno, without a message. */
static int
send_msg(const struct vv_kernel *k, uint32_t asid, const struct vhost_iotlb_msg *iotlb)
{
	struct vhost_msg_v2 msg;
	ssize_t n;

	/* Padding goes to the kernel too. */
	memset(&msg, 0, sizeof(msg));
	msg.type = VHOST_IOTLB_MSG_V2;
	msg.asid = asid;
	msg.iotlb = *iotlb;
	n = write(k->fd, &msg, sizeof(msg));
	if (n == (ssize_t)sizeof(msg))
		return 0;
	return n < 0 ? -errno : -EPROTO;
}

/* Kilobytes of the process that are pinned. */
static uint64_t
pinned_kib(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long long kib = 0, value;
	char line[256];

	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		if (sscanf(line, "VmPin: %llu", &value) == 1)
			kib = value;
	if (f != NULL)
		fclose(f);
	return kib;
}

/* Most kernels have one errno for whatever is wrong with a message. */
static int
map_error(const struct vv_kernel *k, uint32_t asid, uint64_t iova, uint64_t size, int rc)
{
	struct rlimit limit = {.rlim_cur = RLIM_INFINITY};
	uint64_t pinned = pinned_kib();

	(void)getrlimit(RLIMIT_MEMLOCK, &limit);
	if ((rc == -EFAULT || rc == -ENOMEM) && limit.rlim_cur != RLIM_INFINITY &&
	    pinned + (size >> 10) > (limit.rlim_cur >> 10))
		return vdpa_error(ENOMEM,
				  "%s: %" PRIu64 " KiB of memory cannot be pinned: %" PRIu64
				  " of %" PRIu64
				  " KiB that RLIMIT_MEMLOCK allows are in use; ulimit -l "
				  "unlimited, or LimitMEMLOCK=infinity of a systemd unit",
				  k->name, size >> 10, pinned, (uint64_t)limit.rlim_cur >> 10);
	return vdpa_error(rc,
			  "%s: the kernel does not map IOVA 0x%" PRIx64 "-0x%" PRIx64
			  " of address space %u: %s",
			  k->name, iova, iova + size - 1, asid, strerror(-rc));
}

int
vv_kernel_map(const struct vv_kernel *k, uint32_t asid, uint64_t iova, uint64_t size,
	      const void *va, bool readonly)
{
	const struct vhost_iotlb_msg msg = {.iova = iova,
					    .size = size,
					    .uaddr = (uintptr_t)va,
					    .perm = readonly ? VHOST_ACCESS_RO : VHOST_ACCESS_RW,
					    .type = VHOST_IOTLB_UPDATE};
	int rc;

	if (k->fd < 0)
		return closed(k);
	rc = send_msg(k, asid, &msg);
	return rc < 0 ? map_error(k, asid, iova, size, rc) : 0;
}

int
vv_kernel_unmap(const struct vv_kernel *k, uint32_t asid, uint64_t iova, uint64_t size)
{
	const struct vhost_iotlb_msg msg = {
		.iova = iova, .size = size, .type = VHOST_IOTLB_INVALIDATE};
	int rc;

	/* Closing the file has unmapped all. */
	if (k->fd < 0)
		return 0;
	rc = send_msg(k, asid, &msg);
	return rc < 0 ? vdpa_error(rc,
				   "%s: the kernel does not unmap IOVA 0x%" PRIx64 "-0x%" PRIx64
				   " of address space %u: %s",
				   k->name, iova, iova + size - 1, asid, strerror(-rc))
		      : 0;
}

static int
batch(const struct vv_kernel *k, uint32_t asid, uint8_t type, const char *what)
{
	const struct vhost_iotlb_msg msg = {.type = type};
	int rc;

	if (k->fd < 0 || !vv_kernel_has(k, VHOST_BACKEND_F_IOTLB_BATCH))
		return 0;
	rc = send_msg(k, asid, &msg);
	return rc < 0 ? vdpa_error(rc, "%s: %s of address space %u: %s", k->name, what, asid,
				   strerror(-rc))
		      : 0;
}

int
vv_kernel_batch_begin(const struct vv_kernel *k, uint32_t asid)
{
	return batch(k, asid, VHOST_IOTLB_BATCH_BEGIN, "VHOST_IOTLB_BATCH_BEGIN");
}

int
vv_kernel_batch_end(const struct vv_kernel *k, uint32_t asid)
{
	return batch(k, asid, VHOST_IOTLB_BATCH_END, "VHOST_IOTLB_BATCH_END");
}
