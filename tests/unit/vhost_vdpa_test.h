/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The kernel's /dev/vhost-vdpa-0 as a test plays it, behind ioctl() and write(): a parent with the
 * rules of Linux 6.12, and what goes wrong with it. A program that includes this is linked with
 * --wrap of ioctl, write, mmap64 and vdpa_eventfd_signal. Include it after cmocka.h.
 */

#ifndef VHOST_VDPA_TEST_H
#define VHOST_VDPA_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>

#include <rte_bitops.h>
#include <rte_common.h>

#include "../../drivers/vdpa/vhost_vdpa/vhost_vdpa_compat.h"
#include "vdpa_vring.h"

/* The kernel's, which reaches users as ENOTTY. */
#define ENOIOCTLCMD ENOTTY

#define QUEUES	 5
#define MAPPINGS 32

struct fake_vring {
	unsigned int num, base;
	struct vhost_vring_addr addr;
	int kick, call;
	bool ready;
	uint32_t asid;
};

struct fake_map {
	uint32_t asid;
	uint64_t iova, size, va;
	uint8_t perm;
};

struct fake_maps {
	struct fake_map at[MAPPINGS];
	unsigned int n;
};

static struct {
	char folder[64], path[96];
	ino_t ino;
	uint64_t features, backend;
	uint32_t device_id, nvqs, config_size, n_asids;
	uint16_t num_max, vring_size; /* 0: the kernel has no such request */
	struct vhost_vdpa_iova_range range;
	uint8_t config[64];

	uint64_t acked, acked_backend;
	uint8_t status;
	bool owner, suspended;
	struct fake_vring vrings[QUEUES];
	int config_call;
	struct fake_maps maps, in_force; /* the kernel's table, and the parent's */
	bool batch;
	unsigned int batches, set_maps, commands;
	unsigned int class, command; /* the last */
	bool doorbells;
	uint8_t answer; /* to a command; 0xff: none comes */

	/* What goes wrong. */
	unsigned long fails; /* this request, with: */
	int err;
	uint8_t refused;	   /* status bits that are not kept */
	unsigned int map_fails_at; /* the message with this number from now on; 0: none */
	bool end_fails;
	bool forgets; /* the parent's table goes with a reset */
} k;

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);
ssize_t __real_write(int fd, const void *buf, size_t len);
ssize_t __wrap_write(int fd, const void *buf, size_t len);
void *__real_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
void __real_vdpa_eventfd_signal(int fd);
void __wrap_vdpa_eventfd_signal(int fd);

/* Locks are held here, which a failure of cmocka's would leave so. */
#define must(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			print_error("%s\n", #cond);                                                \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static inline bool
is_kernel(int fd)
{
	struct stat st;

	return k.ino != 0 && fstat(fd, &st) == 0 && st.st_ino == k.ino;
}

static inline int
refuse(int err)
{
	errno = err;
	return -1;
}

static inline int
fake_set_status(uint8_t status)
{
	if (status != 0 && (k.status & ~status) != 0)
		return refuse(EINVAL);
	k.status = status & (uint8_t)~k.refused;
	if (status != 0)
		return 0;
	for (unsigned int i = 0; i < QUEUES; i++) {
		k.vrings[i].ready = false;
		k.vrings[i].asid = 0;
	}
	k.suspended = false;
	k.acked = 0;
	if (k.forgets)
		k.in_force.n = 0;
	/* One that does not reset. */
	k.status = k.refused & 0x80 ? 4 : 0;
	return 0;
}

static inline int
fake_vring(unsigned long request, void *arg)
{
	struct vhost_vring_state *s = arg;
	struct vhost_vring_file *f = arg;
	struct fake_vring *v;

	if (s->index >= k.nvqs)
		return refuse(ENOBUFS);
	v = &k.vrings[s->index];
	switch (request) {
	case VHOST_SET_VRING_NUM:
		if (!rte_is_power_of_2(s->num))
			return refuse(EINVAL);
		v->num = s->num;
		return 0;
	case VHOST_SET_VRING_ADDR:
		v->addr = *(struct vhost_vring_addr *)arg;
		return (k.status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && !k.suspended ? refuse(EINVAL)
										   : 0;
	case VHOST_SET_VRING_BASE:
		v->base = s->num;
		return 0;
	case VHOST_GET_VRING_BASE:
		s->num = v->base;
		return 0;
	case VHOST_SET_VRING_KICK:
		v->kick = f->fd;
		return 0;
	case VHOST_SET_VRING_CALL:
		v->call = f->fd;
		return 0;
	case VHOST_VDPA_SET_VRING_ENABLE:
		v->ready = s->num;
		return 0;
	case VHOST_VDPA_GET_VRING_SIZE:
		if (k.vring_size == 0)
			return refuse(ENOIOCTLCMD);
		s->num = k.vring_size;
		return 0;
	case VHOST_VDPA_GET_VRING_GROUP:
		s->num = s->index == k.nvqs - 1 && (k.nvqs & 1) != 0;
		return 0;
	case VHOST_VDPA_SET_GROUP_ASID:
		if (s->num >= k.n_asids)
			return refuse(EINVAL);
		k.vrings[k.nvqs - 1].asid = s->num;
		return 0;
	default:
		return refuse(ENOTTY);
	}
}

int
__wrap_ioctl(int fd, unsigned long request, void *arg)
{
	struct vhost_vdpa_config *c = arg;

	if (!is_kernel(fd))
		return __real_ioctl(fd, request, arg);
	if (request == k.fails)
		return refuse(k.err);
	switch (request) {
	case VHOST_SET_OWNER:
		k.owner = true;
		return 0;
	case VHOST_GET_BACKEND_FEATURES:
		*(uint64_t *)arg = k.backend;
		return 0;
	case VHOST_SET_BACKEND_FEATURES:
		k.acked_backend = *(uint64_t *)arg;
		return (k.acked_backend & ~k.backend) != 0 ? refuse(EOPNOTSUPP) : 0;
	case VHOST_VDPA_GET_DEVICE_ID:
		*(uint32_t *)arg = k.device_id;
		return 0;
	case VHOST_GET_FEATURES:
		*(uint64_t *)arg = k.features;
		return 0;
	case VHOST_SET_FEATURES:
		k.acked = *(uint64_t *)arg;
		return (k.acked & ~k.features) != 0 ? refuse(EINVAL) : 0;
	case VHOST_VDPA_GET_VQS_COUNT:
		*(uint32_t *)arg = k.nvqs;
		return 0;
	case VHOST_VDPA_GET_VRING_NUM:
		*(uint16_t *)arg = k.num_max;
		return 0;
	case VHOST_VDPA_GET_CONFIG_SIZE:
		*(uint32_t *)arg = k.config_size;
		return 0;
	case VHOST_VDPA_GET_IOVA_RANGE:
		*(struct vhost_vdpa_iova_range *)arg = k.range;
		return 0;
	case VHOST_VDPA_GET_AS_NUM:
		*(uint32_t *)arg = k.n_asids;
		return 0;
	case VHOST_VDPA_GET_STATUS:
		*(uint8_t *)arg = k.status;
		return 0;
	case VHOST_VDPA_SET_STATUS:
		return fake_set_status(*(uint8_t *)arg);
	case VHOST_VDPA_GET_CONFIG:
		if (c->len > k.config_size || c->off > k.config_size - c->len)
			return refuse(E2BIG);
		memcpy(c->buf, k.config + c->off, c->len);
		return 0;
	case VHOST_VDPA_SET_CONFIG:
		memcpy(k.config + c->off, c->buf, c->len);
		return 0;
	case VHOST_VDPA_SET_CONFIG_CALL:
		k.config_call = *(int *)arg;
		return 0;
	case VHOST_VDPA_SUSPEND:
		k.suspended = true;
		return 0;
	case VHOST_VDPA_RESUME:
		k.suspended = false;
		return 0;
	default:
		return k.owner ? fake_vring(request, arg) : refuse(EPERM);
	}
}

static inline struct fake_map *
find_map(uint32_t asid, uint64_t iova)
{
	for (unsigned int i = 0; i < k.maps.n; i++)
		if (k.maps.at[i].asid == asid && k.maps.at[i].iova == iova)
			return &k.maps.at[i];
	return NULL;
}

static inline int
fake_iotlb(uint32_t asid, const struct vhost_iotlb_msg *m)
{
	struct fake_map *map = find_map(asid, m->iova);

	if (asid >= k.n_asids)
		return refuse(EINVAL);
	if (k.map_fails_at > 0 && --k.map_fails_at == 0)
		return refuse(EFAULT);
	switch (m->type) {
	case VHOST_IOTLB_UPDATE:
		if (map != NULL)
			return refuse(EEXIST);
		must(k.maps.n < MAPPINGS);
		k.maps.at[k.maps.n++] =
			(struct fake_map){asid, m->iova, m->size, m->uaddr, m->perm};
		break;
	case VHOST_IOTLB_INVALIDATE:
		if (map == NULL)
			return refuse(ENOENT);
		must(map->size == m->size);
		*map = k.maps.at[--k.maps.n];
		break;
	case VHOST_IOTLB_BATCH_BEGIN:
		must(!k.batch);
		k.batch = true;
		k.batches++;
		return 0;
	case VHOST_IOTLB_BATCH_END:
		must(k.batch);
		k.batch = false;
		if (k.end_fails) {
			k.end_fails = false;
			return refuse(EFAULT);
		}
		break;
	default:
		return refuse(EINVAL);
	}
	if (!k.batch) {
		k.in_force = k.maps;
		k.set_maps++;
	}
	return 0;
}

/* Where the device reaches an IOVA. */
static inline void *
fake_at(const struct fake_map *m, uint64_t iova)
{
	return (void *)(uintptr_t)(m->va + (iova - m->iova));
}

/* A kick of the control queue: the device answers, by its own view of the ring (split). */
static inline void
answer_command(const struct fake_vring *v)
{
	const struct fake_map *m = NULL;
	uint16_t *avail, *used;
	const uint8_t *desc;

	for (unsigned int i = 0; i < k.in_force.n; i++)
		if (k.in_force.at[i].asid == v->asid &&
		    v->addr.desc_user_addr >= k.in_force.at[i].iova &&
		    v->addr.desc_user_addr < k.in_force.at[i].iova + k.in_force.at[i].size)
			m = &k.in_force.at[i];
	must(m != NULL);
	desc = fake_at(m, v->addr.desc_user_addr);
	avail = fake_at(m, v->addr.avail_user_addr);
	used = fake_at(m, v->addr.used_user_addr);
	while (used[1] != avail[1]) {
		uint32_t head = avail[2 + used[1] % v->num];
		uint64_t hdr, ack;
		uint16_t next;

		memcpy(&hdr, desc + 16 * head, sizeof(hdr));
		memcpy(&next, desc + 16 * head + 14, sizeof(next));
		memcpy(&ack, desc + 16 * next, sizeof(ack));
		k.class = *(uint8_t *)fake_at(m, hdr);
		k.command = *(uint8_t *)fake_at(m, hdr + 1);
		*(uint8_t *)fake_at(m, ack) = k.answer;
		memcpy(&used[2 + 4 * (used[1] % v->num)], &head, sizeof(head));
		used[2 + 4 * (used[1] % v->num) + 2] = 1;
		k.commands++;
		used[1]++;
	}
}

ssize_t
__wrap_write(int fd, const void *buf, size_t len)
{
	const struct vhost_msg_v2 *msg = buf;

	if (!is_kernel(fd))
		return __real_write(fd, buf, len);
	if (len != sizeof(*msg) || msg->type != VHOST_IOTLB_MSG_V2)
		return refuse(EINVAL);
	return fake_iotlb(msg->asid, &msg->iotlb) < 0 ? -1 : (ssize_t)len;
}

/* The file is the doorbells, a page each. */
void *
__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	if (fd >= 0 && is_kernel(fd) && (!k.doorbells || prot != PROT_WRITE || len != 4096)) {
		errno = k.doorbells ? EINVAL : EOPNOTSUPP;
		return MAP_FAILED;
	}
	return __real_mmap64(addr, len, prot, flags, fd, offset);
}

void
__wrap_vdpa_eventfd_signal(int fd)
{
	const struct fake_vring *v = &k.vrings[QUEUES - 1];

	if (k.nvqs == QUEUES && v->ready && fd == v->kick && k.answer != 0xff)
		answer_command(v);
	__real_vdpa_eventfd_signal(fd);
}

/* A network device of two pairs with a control queue in a group of its own. */
static inline void
fake_kernel_open(void)
{
	struct stat st;
	int fd;

	memset(&k, 0, sizeof(k));
	snprintf(k.folder, sizeof(k.folder), "/tmp/uvdpa-test-vhost.XXXXXX");
	assert_non_null(mkdtemp(k.folder));
	snprintf(k.path, sizeof(k.path), "%s/vhost-vdpa-0", k.folder);
	fd = open(k.path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	k.ino = st.st_ino;
	k.device_id = VIRTIO_ID_NET;
	k.features = RTE_BIT64(VIRTIO_F_VERSION_1) | RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM) |
		     RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) | RTE_BIT64(VIRTIO_NET_F_MQ) |
		     RTE_BIT64(VIRTIO_NET_F_MAC) | RTE_BIT64(VIRTIO_NET_F_CTRL_MAC_ADDR);
	k.backend = 0x1fe;
	k.nvqs = 5;
	k.num_max = 256;
	k.vring_size = 128;
	k.config_size = sizeof(struct virtio_net_config);
	k.config[offsetof(struct virtio_net_config, max_virtqueue_pairs)] = 2;
	k.n_asids = 2;
	k.range = (struct vhost_vdpa_iova_range){0, UINT64_MAX};
	k.config_call = -1;
	for (unsigned int i = 0; i < QUEUES; i++)
		k.vrings[i].kick = k.vrings[i].call = -1;
}

static inline void
fake_kernel_close(void)
{
	(void)unlink(k.path);
	assert_int_equal(rmdir(k.folder), 0);
	k.ino = 0;
}

#endif /* VHOST_VDPA_TEST_H */
