/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* See vfu_server.h. Owns its socket, its folder and the files of its regions. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vfu_server.h"

#define PAGE 4096

static const char default_json[] =
	"{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":1048576,"
	"\"pgsizes\":4096,\"max_dma_maps\":65535}}";

struct request {
	struct vfio_user_header hdr;
	uint8_t data[VFIO_USER_MSG_MAX];
	size_t len;
	int fds[VFIO_USER_FDS_MAX];
	unsigned int n_fds;
};

void
vfu_server_init(struct vfu_server *s)
{
	memset(s, 0, sizeof(*s));
	s->major = VFIO_USER_MAJOR;
	s->minor = VFIO_USER_MINOR;
	s->json = default_json;
	s->device_flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
	s->num_regions = VFU_REGIONS;
	s->num_irqs = VFIO_PCI_NUM_IRQS;
	s->log_max = VFU_LOG_RANGES;
	s->nr_irqs[VFIO_PCI_INTX_IRQ_INDEX] = 1;
	s->nr_irqs[VFIO_PCI_MSIX_IRQ_INDEX] = 20;
	s->nr_irqs[VFIO_PCI_ERR_IRQ_INDEX] = 1;
	s->nr_irqs[VFIO_PCI_REQ_IRQ_INDEX] = 1;
	for (unsigned int i = 0; i < VFU_REGIONS; i++)
		s->regions[i].fd = -1;
	s->regions[VFIO_PCI_CONFIG_REGION_INDEX].size = 256;
	s->regions[VFIO_PCI_CONFIG_REGION_INDEX].flags =
		VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	s->regions[4].size = 4 * PAGE;
	s->regions[4].flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
			      VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS;
	s->regions[4].sparse = true;
	s->regions[4].n_areas = 1;
	s->regions[4].areas[0].offset = 3 * PAGE;
	s->regions[4].areas[0].size = PAGE;
	s->regions[4].fd = memfd_create("region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (s->regions[4].fd < 0 || ftruncate(s->regions[4].fd, 4 * PAGE) < 0)
		abort();
	/* virtio, a network device; a 64-bit memory BAR 4; MSI-X with 20 vectors in BAR 1. */
	memcpy(s->memory[VFIO_PCI_CONFIG_REGION_INDEX],
	       (const uint8_t[]){0xf4, 0x1a, 0x41, 0x10, 0, 0, 0x10, 0, 1, 0, 0, 2}, 12);
	s->memory[VFIO_PCI_CONFIG_REGION_INDEX][0x20] = 0x4;
	s->memory[VFIO_PCI_CONFIG_REGION_INDEX][0x34] = 0x40;
	s->memory[VFIO_PCI_CONFIG_REGION_INDEX][0x40] = 0x11;
	s->memory[VFIO_PCI_CONFIG_REGION_INDEX][0x42] = 19;
	s->memory[VFIO_PCI_CONFIG_REGION_INDEX][0x44] = 1;
	s->memory[VFIO_PCI_CONFIG_REGION_INDEX][0x48] = 1;
	s->memory[VFIO_PCI_CONFIG_REGION_INDEX][0x49] = 8;
	s->regions[1].size = PAGE;
	s->regions[1].flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	s->listen_fd = s->stop_fd = s->fd = s->vector0 = -1;
}

void
vfu_server_set_hook(struct vfu_server *s, vfu_hook hook, void *arg)
{
	s->arg = arg;
	__atomic_store_n(&s->hook, hook, __ATOMIC_RELEASE);
}

void
vfu_server_hangup(struct vfu_server *s)
{
	shutdown(s->fd, SHUT_RDWR);
}

/* Wait until fd is readable; false when the server shall stop. */
static bool
readable(struct vfu_server *s, int fd)
{
	struct pollfd pfd[] = {{.fd = s->stop_fd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};

	while (poll(pfd, 2, -1) < 0 && errno == EINTR)
		;
	return !(pfd[0].revents & POLLIN);
}

/* Whole bytes, and the file descriptors that come with them. */
static bool
read_all(struct vfu_server *s, void *buf, size_t len, struct request *req)
{
	size_t got = 0;

	while (got < len) {
		union {
			char buf[CMSG_SPACE(VFIO_USER_FDS_MAX * sizeof(int))];
			struct cmsghdr align;
		} control;
		struct iovec iov = {(uint8_t *)buf + got, len - got};
		struct msghdr msg = {.msg_iov = &iov,
				     .msg_iovlen = 1,
				     .msg_control = control.buf,
				     .msg_controllen = sizeof(control.buf)};
		struct cmsghdr *cmsg;
		ssize_t n;

		n = recvmsg(s->fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN) {
			if (!readable(s, s->fd))
				return false;
			continue;
		}
		if (n <= 0)
			return false;
		for (cmsg = CMSG_FIRSTHDR(&msg); cmsg != NULL; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
			unsigned int fds =
				(unsigned int)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));

			memcpy(req->fds + req->n_fds, CMSG_DATA(cmsg), fds * sizeof(int));
			req->n_fds += fds;
		}
		got += (size_t)n;
	}
	return true;
}

static void
send_reply(struct vfu_server *s, struct vfu_reply *reply)
{
	union {
		char buf[CMSG_SPACE(sizeof(reply->fds))];
		struct cmsghdr align;
	} control;
	size_t len = sizeof(reply->hdr) + reply->len;
	struct iovec iov[2];
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};

	if (reply->delay_us != 0)
		usleep(reply->delay_us);
	if (len > reply->cut)
		len = reply->cut;
	iov[0].iov_base = &reply->hdr;
	iov[0].iov_len = len < sizeof(reply->hdr) ? len : sizeof(reply->hdr);
	iov[1].iov_base = reply->data;
	iov[1].iov_len = len - iov[0].iov_len;
	if (reply->n_fds != 0) {
		struct cmsghdr *cmsg;

		memset(&control, 0, sizeof(control));
		msg.msg_control = control.buf;
		msg.msg_controllen = CMSG_SPACE(reply->n_fds * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(reply->n_fds * sizeof(int));
		memcpy(CMSG_DATA(cmsg), reply->fds, reply->n_fds * sizeof(int));
	}
	if (len != 0)
		sendmsg(s->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void
answer_region_info(struct vfu_server *s, struct request *req, struct vfu_reply *reply)
{
	struct vfio_user_region_info *info = (struct vfio_user_region_info *)reply->data;
	struct vfio_region_info_cap_sparse_mmap *cap =
		(struct vfio_region_info_cap_sparse_mmap *)(reply->data + sizeof(*info));
	uint32_t index = ((struct vfio_user_region_info *)req->data)->index;

	reply->len = sizeof(*info);
	*info = (struct vfio_user_region_info){.index = index};
	if (index < VFU_REGIONS) {
		info->flags = s->regions[index].flags;
		info->size = s->regions[index].size;
		info->offset = s->regions[index].fd_offset;
		if (s->regions[index].fd >= 0) {
			reply->fds[0] = s->regions[index].fd;
			reply->n_fds = 1;
		}
		if (s->regions[index].sparse) {
			info->cap_offset = sizeof(*info);
			cap->header.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
			cap->header.version = 1;
			cap->header.next = 0;
			cap->nr_areas = s->regions[index].n_areas;
			cap->reserved = 0;
			for (unsigned int i = 0; i < cap->nr_areas; i++) {
				cap->areas[i].offset = s->regions[index].areas[i].offset;
				cap->areas[i].size = s->regions[index].areas[i].size;
			}
			reply->len += sizeof(*cap) + cap->nr_areas * sizeof(cap->areas[0]);
		}
	}
	info->argsz = (uint32_t)reply->len;
}

/* Returns the errno of the reply. */
static uint32_t
access_region(struct vfu_server *s, struct request *req, struct vfu_reply *reply)
{
	struct vfio_user_region_access *access = (struct vfio_user_region_access *)req->data;
	uint8_t *data = req->data + sizeof(*access);
	bool write = req->hdr.command == VFIO_USER_REGION_WRITE;

	if (access->region >= VFU_REGIONS || access->count > VFIO_USER_XFER_MAX ||
	    access->offset > VFU_REGION_MAX || access->count > VFU_REGION_MAX - access->offset)
		return EINVAL;
	memcpy(reply->data, access, sizeof(*access));
	reply->len = sizeof(*access);
	if (write) {
		struct vfu_server_write *w = &s->writes[s->n_writes % VFU_LOG_MAX];

		*w = (struct vfu_server_write){.region = access->region,
					       .count = access->count,
					       .flags = req->hdr.flags,
					       .offset = access->offset};
		memcpy(&w->value, data, access->count < 8 ? access->count : 8);
		memcpy(s->memory[access->region] + access->offset, data, access->count);
		__atomic_add_fetch(&s->n_writes, 1, __ATOMIC_RELEASE);
	} else {
		memcpy(reply->data + sizeof(*access), s->memory[access->region] + access->offset,
		       access->count);
		reply->len += access->count;
	}
	return 0;
}

static void
set_irqs(struct vfu_server *s, struct request *req)
{
	const struct vfio_user_irq_set *set = (const struct vfio_user_irq_set *)req->data;

	s->irqs[s->n_irqs % VFU_LOG_MAX] = (struct vfu_server_irqs){.flags = set->flags,
								    .index = set->index,
								    .start = set->start,
								    .count = set->count,
								    .n_fds = req->n_fds};
	if (set->index == VFIO_PCI_MSIX_IRQ_INDEX && set->start == 0) {
		if (s->vector0 >= 0)
			close(s->vector0);
		s->vector0 = -1;
		if (req->n_fds != 0) {
			s->vector0 = req->fds[0];
			req->fds[0] = -1;
		}
	}
	__atomic_add_fetch(&s->n_irqs, 1, __ATOMIC_RELEASE);
}

static void
log_dma(struct vfu_server *s, struct request *req)
{
	struct vfu_server_dma *dma = &s->dma[s->n_dma % VFU_LOG_MAX];

	*dma = (struct vfu_server_dma){.map = req->hdr.command == VFIO_USER_DMA_MAP,
				       .n_fds = req->n_fds};
	if (dma->map) {
		memcpy(&dma->m, req->data, sizeof(dma->m));
	} else {
		struct vfio_user_dma_unmap unmap;

		memcpy(&unmap, req->data, sizeof(unmap));
		dma->m.address = unmap.address;
		dma->m.size = unmap.size;
	}
	__atomic_add_fetch(&s->n_dma, 1, __ATOMIC_RELEASE);
}

static uint32_t
start_log(struct vfu_server *s, const struct request *req)
{
	const struct vfio_user_dma_log_control *control =
		(const void *)(req->data + sizeof(struct vfio_user_device_feature));

	if (control->page_size != PAGE || control->num_ranges > s->log_max ||
	    control->num_ranges > VFU_LOG_RANGES)
		return ENOMEM;
	memcpy(s->log_ranges, control + 1, control->num_ranges * sizeof(s->log_ranges[0]));
	s->n_log_ranges = control->num_ranges;
	__atomic_add_fetch(&s->log_starts, 1, __ATOMIC_RELEASE);
	return 0;
}

static uint32_t
report_log(struct vfu_server *s, const struct request *req, struct vfu_reply *reply)
{
	const struct vfio_user_dma_log_report *asked =
		(const void *)(req->data + sizeof(struct vfio_user_device_feature));
	size_t head = sizeof(struct vfio_user_device_feature) + sizeof(*asked);
	uint64_t pages = asked->length / PAGE;
	size_t bytes = (pages + 63) / 64 * 8;

	if (head + bytes > sizeof(reply->data))
		return EINVAL;
	memcpy(reply->data, req->data, head);
	memset(reply->data + head, 0, bytes);
	for (unsigned int i = 0; i < VFU_WRITTEN; i++) {
		uint64_t at = __atomic_load_n(&s->written[i], __ATOMIC_ACQUIRE);

		if (at == 0 || at < asked->iova || at - asked->iova >= asked->length)
			continue;
		at = (at - asked->iova) / PAGE;
		reply->data[head + at / 8] |= (uint8_t)(1u << at % 8);
		__atomic_store_n(&s->written[i], 0, __ATOMIC_RELEASE);
	}
	reply->len = head + bytes;
	__atomic_add_fetch(&s->log_reports, 1, __ATOMIC_RELEASE);
	return 0;
}

static uint32_t
answer_feature(struct vfu_server *s, const struct request *req, struct vfu_reply *reply)
{
	const struct vfio_user_device_feature *f = (const void *)req->data;

	if (!s->logs_dma)
		return ENOTTY;
	memcpy(reply->data, f, sizeof(*f));
	reply->len = sizeof(*f);
	if (f->flags & VFIO_DEVICE_FEATURE_PROBE)
		return 0;
	switch (f->flags & VFIO_DEVICE_FEATURE_MASK) {
	case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
		return start_log(s, req);
	case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
		return report_log(s, req, reply);
	case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
		__atomic_add_fetch(&s->log_stops, 1, __ATOMIC_RELEASE);
		return 0;
	default:
		return ENOTTY;
	}
}

static uint32_t
answer(struct vfu_server *s, struct request *req, struct vfu_reply *reply)
{
	switch (req->hdr.command) {
	case VFIO_USER_VERSION:
		memcpy(reply->data, &(struct vfio_user_version){s->major, s->minor},
		       sizeof(struct vfio_user_version));
		reply->len = sizeof(struct vfio_user_version);
		if (s->json != NULL) {
			strcpy((char *)reply->data + reply->len, s->json);
			reply->len += strlen(s->json) + 1;
		}
		return 0;
	case VFIO_USER_DEVICE_GET_INFO:
		memcpy(reply->data,
		       &(struct vfio_user_device_info){sizeof(struct vfio_user_device_info),
						       s->device_flags, s->num_regions,
						       s->num_irqs},
		       sizeof(struct vfio_user_device_info));
		reply->len = sizeof(struct vfio_user_device_info);
		return 0;
	case VFIO_USER_DEVICE_GET_REGION_INFO:
		answer_region_info(s, req, reply);
		return 0;
	case VFIO_USER_DEVICE_GET_IRQ_INFO: {
		struct vfio_user_irq_info *info = (struct vfio_user_irq_info *)reply->data;

		memcpy(info, req->data, sizeof(*info));
		info->flags = VFIO_IRQ_INFO_EVENTFD;
		info->count = info->index < VFIO_PCI_NUM_IRQS ? s->nr_irqs[info->index] : 0;
		reply->len = sizeof(*info);
		return 0;
	}
	case VFIO_USER_DEVICE_SET_IRQS:
		set_irqs(s, req);
		return 0;
	case VFIO_USER_REGION_READ:
	case VFIO_USER_REGION_WRITE:
		return access_region(s, req, reply);
	case VFIO_USER_DMA_MAP:
		log_dma(s, req);
		return 0;
	case VFIO_USER_DMA_UNMAP:
		log_dma(s, req);
		memcpy(reply->data, req->data, sizeof(struct vfio_user_dma_unmap));
		reply->len = sizeof(struct vfio_user_dma_unmap);
		return 0;
	case VFIO_USER_DEVICE_RESET:
		return 0;
	case VFIO_USER_DEVICE_FEATURE:
		return answer_feature(s, req, reply);
	default:
		return ENOTSUP;
	}
}

/* One request and its reply. False: hang up. */
static bool
serve(struct vfu_server *s)
{
	struct request req = {.n_fds = 0};
	struct vfu_reply reply = {.cut = SIZE_MAX};
	bool connected = false;
	vfu_hook hook;

	if (!read_all(s, &req.hdr, sizeof(req.hdr), &req))
		goto out;
	req.len = req.hdr.size - sizeof(req.hdr);
	if (req.len > sizeof(req.data) || !read_all(s, req.data, req.len, &req))
		goto out;
	__atomic_add_fetch(&s->requests, 1, __ATOMIC_RELEASE);
	reply.hdr = req.hdr;
	reply.hdr.flags = VFIO_USER_TYPE_REPLY;
	reply.hdr.error = answer(s, &req, &reply);
	if (reply.hdr.error != 0) {
		reply.hdr.flags |= VFIO_USER_ERROR;
		reply.len = 0;
	}
	reply.hdr.size = (uint32_t)(sizeof(reply.hdr) + reply.len);
	reply.drop = (req.hdr.flags & VFIO_USER_NO_REPLY) != 0;
	hook = __atomic_load_n(&s->hook, __ATOMIC_ACQUIRE);
	if (hook != NULL)
		hook(s, &req.hdr, &reply);
	if (!reply.drop)
		send_reply(s, &reply);
	connected = !reply.hangup;
out:
	for (unsigned int i = 0; i < req.n_fds; i++)
		if (req.fds[i] >= 0)
			close(req.fds[i]);
	return connected;
}

static void *
server_main(void *arg)
{
	struct vfu_server *s = arg;

	while (readable(s, s->listen_fd)) {
		s->fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (s->fd < 0)
			continue;
		__atomic_store_n(&s->open_connections, 1, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&s->connections, 1, __ATOMIC_SEQ_CST);
		do {
			struct pollfd pfd = {.fd = s->stop_fd, .events = POLLIN};

			while (__atomic_load_n(&s->paused, __ATOMIC_ACQUIRE) &&
			       poll(&pfd, 1, 1) == 0)
				__atomic_store_n(&s->pausing, true, __ATOMIC_RELEASE);
			__atomic_store_n(&s->pausing, false, __ATOMIC_RELEASE);
		} while (serve(s));
		close(s->fd);
		s->fd = -1;
		if (s->vector0 >= 0)
			close(s->vector0);
		s->vector0 = -1;
		__atomic_store_n(&s->open_connections, 0, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

bool
vfu_server_start(struct vfu_server *s)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};

	strcpy(s->dir, "/tmp/vfu-test-XXXXXX");
	if (mkdtemp(s->dir) == NULL)
		return false;
	snprintf(s->path, sizeof(s->path), "%s/s", s->dir);
	strcpy(un.sun_path, s->path);
	s->stop_fd = eventfd(0, EFD_CLOEXEC);
	s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return s->stop_fd >= 0 && s->listen_fd >= 0 &&
	       bind(s->listen_fd, (struct sockaddr *)&un, sizeof(un)) == 0 &&
	       listen(s->listen_fd, 8) == 0 &&
	       pthread_create(&s->thread, NULL, server_main, s) == 0;
}

/* With what a test that failed has left in it. */
static void
remove_dir(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;

	if (dir == NULL)
		return;
	while ((entry = readdir(dir)) != NULL)
		unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
	rmdir(path);
}

void
vfu_server_stop(struct vfu_server *s)
{
	eventfd_write(s->stop_fd, 1);
	pthread_join(s->thread, NULL);
	close(s->listen_fd);
	close(s->stop_fd);
	for (unsigned int i = 0; i < VFU_REGIONS; i++)
		if (s->regions[i].fd >= 0)
			close(s->regions[i].fd);
	remove_dir(s->dir);
}
