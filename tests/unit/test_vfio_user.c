/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The vfio-user client against a server that answers well, badly, late or not at all. Tests of the
 * transport call it directly; what a driver sees of it goes through vdpa_pci_open().
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "test_util.h"

#include "event_loop_priv.h"
#include "pci_priv.h"
#include "vdpa.h"
#include "vdpa_event.h"
#include "vfu_server.h"

#define T	(&vdpa_pci_vfio_user)
#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define CONFIG	VFIO_PCI_CONFIG_REGION_INDEX

static struct vfu_server server;
static unsigned int fds_before;

/* An open function, without pci.c. */
struct function {
	struct vdpa_pci_info info;
	struct vdpa_dma_domain *dma;
	void *handle;
};

static int
setup(void **state)
{
	fds_before = count_fds();
	vfu_server_init(&server);
	return 0;
}

/* No file descriptor is left, here or in the server, whatever the test did. */
static int
teardown(void **state)
{
	vfu_server_stop(&server);
	assert_int_equal(count_fds(), fds_before);
	return 0;
}

static int
open_function(struct function *f, unsigned int timeout_ms)
{
	const struct vdpa_pci_params params = {.timeout_ms = timeout_ms};

	memset(f, 0, sizeof(*f));
	return T->open(NULL, server.path, &params, &f->info, &f->dma, &f->handle);
}

/* With the default time-out: this machine may be slow. */
static void
start_and_open(struct function *f)
{
	assert_true(vfu_server_start(&server));
	assert_int_equal(open_function(f, 0), 0);
}

static int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void
assert_message(const char *part)
{
	if (strstr(vdpa_error_message(), part) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", vdpa_error_message(), part);
}

/* Good paths. */

static void
a_device_is_found_with_its_regions_and_interrupts(void **state)
{
	struct function f;

	start_and_open(&f);
	assert_true(f.info.can_reset);
	assert_int_equal(f.info.numa_node, -1);
	assert_int_equal(f.info.regions[CONFIG].size, 256);
	assert_int_equal(f.info.regions[CONFIG].fd, -1);
	assert_int_equal(f.info.regions[0].size, 0);
	assert_int_equal(f.info.regions[4].size, 16384);
	assert_true(f.info.regions[4].fd >= 0);
	assert_true(f.info.regions[4].flags & VFIO_REGION_INFO_FLAG_MMAP);
	assert_int_equal(f.info.regions[4].n_parts, 1);
	assert_int_equal(f.info.regions[4].parts[0].offset, 12288);
	assert_int_equal(f.info.regions[4].parts[0].size, 4096);
	/* It is not handed on to programs that we start. */
	assert_int_equal(fcntl(f.info.regions[4].fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(f.info.nr_irqs[VFIO_PCI_MSIX_IRQ_INDEX], 20);
	assert_int_equal(f.info.nr_irqs[VFIO_PCI_INTX_IRQ_INDEX], 1);
	assert_int_equal(f.info.nr_irqs[VFIO_PCI_MSI_IRQ_INDEX], 0);
	T->close(f.handle);
}

static void
registers_are_read_and_written(void **state)
{
	struct function f;
	uint32_t value = 0;

	start_and_open(&f);
	assert_int_equal(T->read(f.handle, CONFIG, 0, &value, 4), 0);
	assert_int_equal(value, 0x10411af4);
	value = 0xcafe;
	assert_int_equal(T->write(f.handle, 4, 20, &value, 2), 0);
	value = 0;
	assert_int_equal(T->read(f.handle, 4, 20, &value, 4), 0);
	assert_int_equal(value, 0xcafe);
	assert_int_equal(T->reset(f.handle), 0);
	T->close(f.handle);
}

static void
an_access_is_split_as_the_server_needs_it(void **state)
{
	struct function f;
	uint8_t in[256], out[256];
	unsigned int before;

	server.json = "{\"capabilities\":{\"max_data_xfer_size\":24}}";
	start_and_open(&f);
	for (unsigned int i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(3 * i);
	before = LOAD(server.requests);
	assert_int_equal(T->write(f.handle, CONFIG, 0, in, sizeof(in)), 0);
	assert_int_equal(LOAD(server.requests), before + 11);
	assert_int_equal(server.writes[10].count, 16);
	assert_int_equal(T->read(f.handle, CONFIG, 0, out, sizeof(out)), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(LOAD(server.requests), before + 22);
	T->close(f.handle);
}

static void
assert_irqs(unsigned int i, uint32_t flags, uint32_t index, uint32_t start, uint32_t count,
	    unsigned int n_fds)
{
	const struct vfu_server_irqs *irqs = &server.irqs[i];

	assert_true(LOAD(server.n_irqs) > i);
	assert_int_equal(irqs->flags, flags);
	assert_int_equal(irqs->index, index);
	assert_int_equal(irqs->start, start);
	assert_int_equal(irqs->count, count);
	assert_int_equal(irqs->n_fds, n_fds);
}

#define EVENTFDS (VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER)

static void
vectors_are_set_in_chunks_and_gaps_are_let_go(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC), fds[16];
	struct function f;

	start_and_open(&f); /* max_msg_fds is 8 */
	for (unsigned int i = 0; i < 16; i++)
		fds[i] = i == 10 || i == 11 || i == 15 ? -1 : fd;
	assert_int_equal(T->set_irqs(f.handle, VFIO_PCI_MSIX_IRQ_INDEX, 2, 16, fds), 0);
	assert_int_equal(LOAD(server.n_irqs), 5);
	assert_irqs(0, EVENTFDS, VFIO_PCI_MSIX_IRQ_INDEX, 2, 8, 8);
	assert_irqs(1, EVENTFDS, VFIO_PCI_MSIX_IRQ_INDEX, 10, 2, 2);
	assert_irqs(2, EVENTFDS, VFIO_PCI_MSIX_IRQ_INDEX, 12, 2, 0);
	assert_irqs(3, EVENTFDS, VFIO_PCI_MSIX_IRQ_INDEX, 14, 3, 3);
	assert_irqs(4, EVENTFDS, VFIO_PCI_MSIX_IRQ_INDEX, 17, 1, 0);
	assert_int_equal(T->set_irqs(f.handle, VFIO_PCI_MSIX_IRQ_INDEX, 0, 0, NULL), 0);
	assert_irqs(5, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
		    VFIO_PCI_MSIX_IRQ_INDEX, 0, 0, 0);
	assert_int_equal(T->unmask_irq(f.handle, VFIO_PCI_INTX_IRQ_INDEX), 0);
	assert_irqs(6, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, VFIO_PCI_INTX_IRQ_INDEX,
		    0, 1, 0);
	T->close(f.handle);
	close(fd);
}

static void
a_server_that_says_nothing_gets_one_file_a_message(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC), fds[] = {fd, fd, fd};
	struct function f;

	server.json = NULL;
	start_and_open(&f);
	assert_int_equal(T->set_irqs(f.handle, VFIO_PCI_MSIX_IRQ_INDEX, 0, 3, fds), 0);
	assert_int_equal(LOAD(server.n_irqs), 3);
	for (unsigned int i = 0; i < 3; i++)
		assert_irqs(i, EVENTFDS, VFIO_PCI_MSIX_IRQ_INDEX, i, 1, 1);
	T->close(f.handle);
	close(fd);
}

static void
the_server_signals_the_eventfd_of_a_vector(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct function f;
	eventfd_t value = 0;

	start_and_open(&f);
	assert_int_equal(T->set_irqs(f.handle, VFIO_PCI_MSIX_IRQ_INDEX, 0, 1, &fd), 0);
	eventfd_write(server.vector0, 1);
	assert_int_equal(eventfd_read(fd, &value), 0);
	T->close(f.handle);
	close(fd);
}

/* A table of one region of memory at 1 MiB. */
static struct vdpa_iotlb *
guest_memory(uint64_t size, uint64_t offset)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);
	struct vdpa_iotlb *tlb;

	assert_int_equal(ftruncate(fd, (off_t)(size + offset)), 0);
	assert_int_equal(vdpa_iotlb_create(NULL,
					   &(struct vdpa_mem_region_spec){.iova = 0x100000,
									  .uaddr = 0x100000,
									  .size = size,
									  .offset = offset,
									  .fd = fd},
					   1, &tlb),
			 0);
	close(fd);
	return tlb;
}

static void
memory_is_mapped_with_its_file_and_unmapped(void **state)
{
	struct vdpa_iotlb *tlb = guest_memory(65536, 4096);
	struct function f;

	start_and_open(&f);
	assert_int_equal(vdpa_dma_map(f.dma, tlb->regions[0]), 0);
	assert_int_equal(LOAD(server.n_dma), 1);
	assert_true(server.dma[0].map);
	assert_int_equal(server.dma[0].n_fds, 1);
	assert_int_equal(server.dma[0].m.argsz, 32);
	assert_int_equal(server.dma[0].m.flags, 3);
	assert_int_equal(server.dma[0].m.offset, 4096);
	assert_int_equal(server.dma[0].m.address, 0x100000);
	assert_int_equal(server.dma[0].m.size, 65536);
	assert_int_equal(vdpa_dma_unmap(f.dma, tlb->regions[0]), 0);
	assert_int_equal(LOAD(server.n_dma), 2);
	assert_false(server.dma[1].map);
	assert_int_equal(server.dma[1].m.address, 0x100000);
	assert_int_equal(server.dma[1].m.size, 65536);
	T->close(f.handle);
	vdpa_iotlb_put(tlb);
}

static void
the_limits_of_the_server_are_the_domains(void **state)
{
	struct vdpa_iotlb *tlb = guest_memory(65536, 0);
	struct vdpa_dma_buf buf;
	struct function f;

	server.json = "{\"capabilities\":{\"max_dma_maps\":1,\"pgsizes\":2097152}}";
	start_and_open(&f);
	assert_int_equal(vdpa_dma_map(f.dma, tlb->regions[0]), -EINVAL);
	assert_int_equal(vdpa_dma_alloc(f.dma, 4096, &buf), 0);
	assert_int_equal(buf.size, 2097152);
	vdpa_dma_free(f.dma, &buf);
	assert_int_equal(LOAD(server.n_dma), 2);
	T->close(f.handle);
	vdpa_iotlb_put(tlb);
}

static void
memory_left_mapped_is_unmapped_on_close(void **state)
{
	struct vdpa_iotlb *tlb = guest_memory(65536, 0);
	struct function f;

	start_and_open(&f);
	assert_int_equal(vdpa_dma_map(f.dma, tlb->regions[0]), 0);
	T->close(f.handle);
	assert_int_equal(LOAD(server.n_dma), 2);
	assert_false(server.dma[1].map);
	vdpa_iotlb_put(tlb);
}

/* Names and sockets. */

static void
a_socket_where_nobody_listens_is_refused(void **state)
{
	struct function f;
	char path[sizeof(server.path)], dir[sizeof(server.dir)];
	char longer[200];

	assert_true(vfu_server_start(&server));
	strcpy(path, server.path);
	strcpy(dir, server.dir);
	strcat(server.path, "x");
	assert_int_equal(open_function(&f, 0), -ENOENT);
	assert_message("vfio-user/");
	strcpy(server.path, path);
	memset(longer, 'a', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(T->open(NULL, longer, NULL, &f.info, &f.dma, &f.handle), -EINVAL);
	assert_int_equal(T->open(NULL, "", NULL, &f.info, &f.dma, &f.handle), -EINVAL);
	/* A socket that is bound and not listened to. */
	{
		struct sockaddr_un un = {.sun_family = AF_UNIX};
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);

		snprintf(un.sun_path, sizeof(un.sun_path), "%s/t", dir);
		assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
		assert_int_equal(T->open(NULL, un.sun_path, NULL, &f.info, &f.dma, &f.handle),
				 -ECONNREFUSED);
		close(fd);
		unlink(un.sun_path);
	}
}

static void
a_server_that_does_not_accept_costs_one_time_out(void **state)
{
	const struct vdpa_pci_params params = {.timeout_ms = 50};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), waiting[8];
	struct function f;
	int64_t start;

	assert_true(vfu_server_start(&server));
	snprintf(un.sun_path, sizeof(un.sun_path), "%s/t", server.dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	assert_int_equal(listen(fd, 0), 0);
	for (unsigned int i = 0; i < 8; i++) {
		waiting[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		connect(waiting[i], (struct sockaddr *)&un, sizeof(un));
	}
	start = now_ms();
	assert_int_equal(T->open(NULL, un.sun_path, &params, &f.info, &f.dma, &f.handle),
			 -ETIMEDOUT);
	assert_true(now_ms() - start < 1000);
	for (unsigned int i = 0; i < 8; i++)
		close(waiting[i]);
	close(fd);
	unlink(un.sun_path);
}

/* Replies that are wrong. A case changes the nth reply to a command. */

struct spoil {
	uint16_t command;
	unsigned int skip;
	void (*change)(struct vfu_reply *reply);
	unsigned int count; /* of it so far */
};

static void
spoil_hook(struct vfu_server *s, const struct vfio_user_header *request, struct vfu_reply *reply)
{
	struct spoil *spoil = s->arg;

	if (request->command == spoil->command && spoil->count++ == spoil->skip)
		spoil->change(reply);
}

static void
wrong_id(struct vfu_reply *r)
{
	r->hdr.id++;
}

static void
posts_id(struct vfu_reply *r)
{
	r->hdr.id = 0x8001;
	r->hdr.command = VFIO_USER_REGION_WRITE;
}

static void
wrong_command(struct vfu_reply *r)
{
	r->hdr.command++;
}

static void
wrong_type(struct vfu_reply *r)
{
	r->hdr.flags = 3;
}

static void
unknown_flag(struct vfu_reply *r)
{
	r->hdr.flags |= 0x100;
}

static void
size_too_small(struct vfu_reply *r)
{
	r->hdr.size = 15;
}

static void
size_zero(struct vfu_reply *r)
{
	r->hdr.size = 0;
}

static void
size_huge(struct vfu_reply *r)
{
	r->hdr.size = UINT32_MAX;
}

static void
header_only(struct vfu_reply *r)
{
	r->hdr.size = 16;
	r->len = 0;
}

static void
one_byte_more(struct vfu_reply *r)
{
	r->data[r->len++] = 0;
	r->hdr.size++;
}

static void
one_byte_less(struct vfu_reply *r)
{
	r->len--;
	r->hdr.size--;
}

static void
one_fd_more(struct vfu_reply *r)
{
	r->fds[r->n_fds++] = 0;
}

static void
eight_fds(struct vfu_reply *r)
{
	while (r->n_fds < 8)
		r->fds[r->n_fds++] = 0;
}

static void
error_with_data(struct vfu_reply *r)
{
	r->hdr.flags |= VFIO_USER_ERROR;
	r->hdr.error = EPERM;
}

static void
refused(struct vfu_reply *r)
{
	header_only(r);
	r->n_fds = 0;
	r->hdr.flags |= VFIO_USER_ERROR;
	r->hdr.error = EPERM;
}

static void
refused_without_errno(struct vfu_reply *r)
{
	refused(r);
	r->hdr.error = 0;
}

static void
refused_with_no_errno(struct vfu_reply *r)
{
	refused(r);
	r->hdr.error = 0x80000000;
}

static void
refused_with_fd(struct vfu_reply *r)
{
	refused(r);
	one_fd_more(r);
}

static void
hangup(struct vfu_reply *r)
{
	r->drop = r->hangup = true;
}

static void
hangup_after_20_bytes(struct vfu_reply *r)
{
	r->cut = 20;
	r->hangup = true;
}

static void
hangup_after_7_bytes(struct vfu_reply *r)
{
	r->cut = 7;
	r->hangup = true;
}

static void
dropped(struct vfu_reply *r)
{
	r->drop = true;
}

static void
cut_to_20_bytes(struct vfu_reply *r)
{
	r->cut = 20;
}

static void
cut_to_7_bytes(struct vfu_reply *r)
{
	r->cut = 7;
}

#define DATA(type) ((struct type *)r->data)
#define CHANGE(name, code)                                                                         \
	static void name(struct vfu_reply *r)                                                      \
	{                                                                                          \
		code;                                                                              \
	}

static void
set_json(struct vfu_reply *r, const char *json)
{
	strcpy((char *)r->data + 4, json);
	r->len = 4 + strlen(json) + 1;
	r->hdr.size = (uint32_t)(16 + r->len);
}

CHANGE(other_major, DATA(vfio_user_version)->major = 1)
CHANGE(newer_minor, DATA(vfio_user_version)->minor = 9)
CHANGE(json_without_end, r->len--; r->hdr.size--)
CHANGE(json_with_nul, r->data[20] = 0)
CHANGE(json_garbage, set_json(r, "{capabilities"))
CHANGE(json_no_object, set_json(r, "[]"))
CHANGE(json_caps_no_object, set_json(r, "{\"capabilities\":7}"))
CHANGE(json_fds_text, set_json(r, "{\"capabilities\":{\"max_msg_fds\":\"8\"}}"))
CHANGE(json_fds_real, set_json(r, "{\"capabilities\":{\"max_msg_fds\":1e30}}"))
CHANGE(json_fds_negative, set_json(r, "{\"capabilities\":{\"max_msg_fds\":-1}}"))
CHANGE(json_fds_zero, set_json(r, "{\"capabilities\":{\"max_msg_fds\":0}}"))
CHANGE(json_xfer_small, set_json(r, "{\"capabilities\":{\"max_data_xfer_size\":7}}"))
CHANGE(json_maps_zero, set_json(r, "{\"capabilities\":{\"max_dma_maps\":0}}"))
CHANGE(json_pgsizes_zero, set_json(r, "{\"capabilities\":{\"pgsizes\":0}}"))

static void
json_deep(struct vfu_reply *r)
{
	char json[4000];

	memset(json, '[', sizeof(json) - 1);
	json[sizeof(json) - 1] = '\0';
	set_json(r, json);
}

CHANGE(info_argsz, DATA(vfio_user_device_info)->argsz = 15)
CHANGE(info_no_pci, DATA(vfio_user_device_info)->flags = 0)
CHANGE(info_few_regions, DATA(vfio_user_device_info)->num_regions = 7)

#define INFO  DATA(vfio_user_region_info)
#define CAP   ((struct vfio_region_info_cap_sparse_mmap *)(r->data + 32))
#define AREAS CAP->areas
CHANGE(region_argsz_small, INFO->argsz = 31)
CHANGE(region_argsz_less, INFO->argsz = (uint32_t)r->len - 1)
CHANGE(region_index, INFO->index++)
CHANGE(cap_in_header, INFO->cap_offset = 24)
CHANGE(cap_odd, INFO->cap_offset = 33)
CHANGE(cap_outside, INFO->cap_offset = 0xfffffff8)
CHANGE(cap_at_end, INFO->cap_offset = (uint32_t)r->len)
CHANGE(cap_loops, CAP->header.next = 32)
CHANGE(cap_next_outside, CAP->header.next = 0x7ffffff8)
CHANGE(cap_version, CAP->header.version = 2)
CHANGE(areas_many, CAP->nr_areas = UINT32_MAX)
CHANGE(area_past_end, AREAS[0].size++)
CHANGE(area_wraps, AREAS[0].offset = UINT64_MAX - 4095)
CHANGE(offset_past_file, INFO->offset = 1)
CHANGE(offset_wraps, INFO->offset = UINT64_MAX - 4095)
CHANGE(size_past_file, INFO->size = 8 * 4096; AREAS[0].offset = 4096 * 4)

CHANGE(irq_index, DATA(vfio_user_irq_info)->index++)
CHANGE(irq_argsz, DATA(vfio_user_irq_info)->argsz = 0)

CHANGE(access_offset, DATA(vfio_user_region_access)->offset ^= 4)
CHANGE(access_region, DATA(vfio_user_region_access)->region++)
CHANGE(access_count, DATA(vfio_user_region_access)->count--)

CHANGE(unmap_address, DATA(vfio_user_dma_unmap)->address++)
CHANGE(unmap_size, DATA(vfio_user_dma_unmap)->size--)

struct wrong {
	const char *name;
	uint16_t command;
	unsigned int skip;
	void (*change)(struct vfu_reply *reply);
	int rc;
	const char *says;
};

/* Every request of an open, with what no reply may be. */
static void
a_wrong_answer_ends_the_open(void **state)
{
	static const struct wrong generic[] = {
		{"wrong_id", 0, 0, wrong_id, -EPROTO, "reply "},
		{"posts_id", 0, 0, posts_id, -EPROTO, "reply 32769 to command 10"},
		{"wrong_command", 0, 0, wrong_command, -EPROTO, "reply "},
		{"wrong_type", 0, 0, wrong_type, -EPROTO, "flags 0x3"},
		{"unknown_flag", 0, 0, unknown_flag, -EPROTO, "flags 0x101"},
		{"size_too_small", 0, 0, size_too_small, -EPROTO, "a message of 15 bytes"},
		{"size_zero", 0, 0, size_zero, -EPROTO, "a message of 0 bytes"},
		{"size_huge", 0, 0, size_huge, -EPROTO, "a message of 4294967295 bytes"},
		{"header_only", 0, 0, header_only, -EPROTO, "a reply with 0 bytes of data"},
		{"two_fds_more", 0, 0, eight_fds, -EPROTO, "file descriptor"},
		{"error_with_data", 0, 0, error_with_data, -EPROTO, NULL},
		{"refused", 0, 0, refused, -EPERM, "the server answers: Operation not permitted"},
		{"no_errno", 0, 0, refused_without_errno, -EIO, "the server answers"},
		{"bad_errno", 0, 0, refused_with_no_errno, -EIO, "the server answers"},
		{"refused_with_fd", 0, 0, refused_with_fd, -EPROTO, "was not asked for"},
		{"hangup", 0, 0, hangup, -ENODEV, "the server hung up"},
		{"hangup_20", 0, 0, hangup_after_20_bytes, -ENODEV, "in the middle of a message"},
		{"hangup_7", 0, 0, hangup_after_7_bytes, -ENODEV, "in the middle of a message"},
	};
	static const uint16_t commands[] = {VFIO_USER_VERSION, VFIO_USER_DEVICE_GET_INFO,
					    VFIO_USER_DEVICE_GET_REGION_INFO,
					    VFIO_USER_DEVICE_GET_IRQ_INFO};
	struct function f;

	assert_true(vfu_server_start(&server));
	for (unsigned int c = 0; c < 4; c++) {
		for (unsigned int i = 0; i < sizeof(generic) / sizeof(generic[0]); i++) {
			struct spoil spoil = {.command = commands[c], .change = generic[i].change};
			int rc;

			vfu_server_set_hook(&server, spoil_hook, &spoil);
			rc = open_function(&f, 0);
			if (rc != generic[i].rc)
				fail_msg("%s of command %u: %d, %s", generic[i].name, commands[c],
					 rc, vdpa_error_message());
			assert_message(server.path);
			if (generic[i].says != NULL)
				assert_message(generic[i].says);
			EVENTUALLY(LOAD(server.open_connections) == 0);
		}
	}
}

static void
a_senseless_answer_ends_the_open(void **state)
{
	static const struct wrong wrong[] = {
		{"one_fd", VFIO_USER_VERSION, 0, one_fd_more, -EPROTO, "was not asked for"},
		{"major", VFIO_USER_VERSION, 0, other_major, -EPROTO, "version 1.1"},
		{"minor", VFIO_USER_VERSION, 0, newer_minor, -EPROTO, "version 0.9"},
		{"no_end", VFIO_USER_VERSION, 0, json_without_end, -EPROTO, "NUL"},
		{"nul", VFIO_USER_VERSION, 0, json_with_nul, -EPROTO, "NUL"},
		{"garbage", VFIO_USER_VERSION, 0, json_garbage, -EPROTO, "no JSON"},
		{"deep", VFIO_USER_VERSION, 0, json_deep, -EPROTO, "no JSON"},
		{"array", VFIO_USER_VERSION, 0, json_no_object, -EPROTO, "no JSON object"},
		{"caps", VFIO_USER_VERSION, 0, json_caps_no_object, -EPROTO, "no object"},
		{"fds_text", VFIO_USER_VERSION, 0, json_fds_text, -EPROTO, "no integer"},
		{"fds_real", VFIO_USER_VERSION, 0, json_fds_real, -EPROTO, "no integer"},
		{"fds_negative", VFIO_USER_VERSION, 0, json_fds_negative, -EPROTO, "is -1"},
		{"fds_zero", VFIO_USER_VERSION, 0, json_fds_zero, -ENOTSUP, "no file desc"},
		{"xfer", VFIO_USER_VERSION, 0, json_xfer_small, -EPROTO, "is 7, outside 8"},
		{"maps", VFIO_USER_VERSION, 0, json_maps_zero, -EPROTO, "max_dma_maps"},
		{"pgsizes", VFIO_USER_VERSION, 0, json_pgsizes_zero, -EPROTO, "pgsizes"},

		{"one_fd", VFIO_USER_DEVICE_GET_INFO, 0, one_fd_more, -EPROTO, "not asked for"},
		{"long", VFIO_USER_DEVICE_GET_INFO, 0, one_byte_more, -EPROTO, "17 bytes"},
		{"short", VFIO_USER_DEVICE_GET_INFO, 0, one_byte_less, -EPROTO, "15 bytes"},
		{"argsz", VFIO_USER_DEVICE_GET_INFO, 0, info_argsz, -EPROTO, "argsz is 15"},
		{"no_pci", VFIO_USER_DEVICE_GET_INFO, 0, info_no_pci, -ENOTSUP, "no PCI"},
		{"regions", VFIO_USER_DEVICE_GET_INFO, 0, info_few_regions, -EPROTO, "7 regions"},

#define REGION VFIO_USER_DEVICE_GET_REGION_INFO
		{"two_fds", REGION, 4, one_fd_more, -EPROTO, "more file descriptors"},
		{"argsz_small", REGION, 4, region_argsz_small, -EPROTO, "argsz 31"},
		{"argsz_less", REGION, 4, region_argsz_less, -EPROTO, "argsz"},
		{"index", REGION, 4, region_index, -EPROTO, "answered is region 5"},
		{"cap_in_header", REGION, 4, cap_in_header, -EPROTO, "capability at 24"},
		{"cap_odd", REGION, 4, cap_odd, -EPROTO, "capability at 33"},
		{"cap_outside", REGION, 4, cap_outside, -EPROTO, "capability at 4294967288"},
		{"cap_at_end", REGION, 4, cap_at_end, -EPROTO, "capability at 64"},
		{"cap_loops", REGION, 4, cap_loops, -EPROTO, "capability at 32"},
		{"cap_next", REGION, 4, cap_next_outside, -EPROTO, "capability at 2147483640"},
		{"cap_version", REGION, 4, cap_version, -EPROTO, "version 2"},
		{"areas_many", REGION, 4, areas_many, -EPROTO, "4294967295 sparse areas"},
		{"area_past_end", REGION, 4, area_past_end, -EPROTO, "4097 bytes at 12288"},
		{"area_wraps", REGION, 4, area_wraps, -EPROTO, "of 16384"},
		{"offset", REGION, 4, offset_past_file, -EPROTO, "of a file of 16384"},
		{"offset_wraps", REGION, 4, offset_wraps, -EPROTO, "of a file of 16384"},
		{"size", REGION, 4, size_past_file, -EPROTO, "of a file of 16384"},

		{"irq_index", VFIO_USER_DEVICE_GET_IRQ_INFO, 2, irq_index, -EPROTO,
		 "answered is 3"},
		{"irq_argsz", VFIO_USER_DEVICE_GET_IRQ_INFO, 2, irq_argsz, -EPROTO, "argsz 0"},
		{"irq_fd", VFIO_USER_DEVICE_GET_IRQ_INFO, 2, one_fd_more, -EPROTO, "not asked for"},
	};
	struct function f;

	assert_true(vfu_server_start(&server));
	for (unsigned int i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct spoil spoil = {.command = wrong[i].command,
				      .skip = wrong[i].skip,
				      .change = wrong[i].change};
		int rc;

		vfu_server_set_hook(&server, spoil_hook, &spoil);
		rc = open_function(&f, 0);
		if (rc != wrong[i].rc || strstr(vdpa_error_message(), wrong[i].says) == NULL)
			fail_msg("%s of command %u: %d, %s", wrong[i].name, wrong[i].command, rc,
				 vdpa_error_message());
		EVENTUALLY(LOAD(server.open_connections) == 0);
	}
}

/* Each of these ends the connection: what comes after fails at once with the same cause. */
static void
a_wrong_answer_ends_the_function(void **state)
{
	static const struct wrong wrong[] = {
		{"read_id", VFIO_USER_REGION_READ, 0, wrong_id, -EPROTO, "REGION_READ: reply"},
		{"read_short", VFIO_USER_REGION_READ, 0, one_byte_less, -EPROTO, "19 bytes"},
		{"read_long", VFIO_USER_REGION_READ, 0, one_byte_more, -EPROTO, "21 bytes"},
		{"read_offset", VFIO_USER_REGION_READ, 0, access_offset, -EPROTO, "answered is"},
		{"read_region", VFIO_USER_REGION_READ, 0, access_region, -EPROTO, "answered is"},
		{"read_count", VFIO_USER_REGION_READ, 0, access_count, -EPROTO, "answered is 3"},
		{"read_fd", VFIO_USER_REGION_READ, 0, one_fd_more, -EPROTO, "not asked for"},
		{"read_hangup", VFIO_USER_REGION_READ, 0, hangup, -ENODEV, "REGION_READ: the serv"},
		{"write_short", VFIO_USER_REGION_WRITE, 0, one_byte_less, -EPROTO, "15 bytes"},
		{"write_offset", VFIO_USER_REGION_WRITE, 0, access_offset, -EPROTO, "answered is"},
		{"write_count", VFIO_USER_REGION_WRITE, 0, access_count, -EPROTO, "answered is 3"},
		{"write_hangup", VFIO_USER_REGION_WRITE, 0, hangup, -ENODEV, "hung up"},
		{"irqs_long", VFIO_USER_DEVICE_SET_IRQS, 0, one_byte_more, -EPROTO, "1 bytes"},
		{"reset_long", VFIO_USER_DEVICE_RESET, 0, one_byte_more, -EPROTO, "1 bytes"},
		{"map_long", VFIO_USER_DMA_MAP, 0, one_byte_more, -EPROTO, "1 bytes"},
	};
	struct vdpa_iotlb *tlb = guest_memory(65536, 0);
	struct function f;
	uint32_t value = 0;

	assert_true(vfu_server_start(&server));
	for (unsigned int i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct spoil spoil = {.command = wrong[i].command, .change = wrong[i].change};
		char message[256];
		int rc;

		vfu_server_set_hook(&server, NULL, NULL);
		assert_int_equal(open_function(&f, 0), 0);
		vfu_server_set_hook(&server, spoil_hook, &spoil);
		switch (wrong[i].command) {
		case VFIO_USER_REGION_READ:
			rc = T->read(f.handle, 4, 8, &value, 4);
			break;
		case VFIO_USER_REGION_WRITE:
			rc = T->write(f.handle, 4, 8, &value, 4);
			break;
		case VFIO_USER_DEVICE_SET_IRQS:
			rc = T->unmask_irq(f.handle, 0);
			break;
		case VFIO_USER_DEVICE_RESET:
			rc = T->reset(f.handle);
			break;
		default:
			rc = vdpa_dma_map(f.dma, tlb->regions[0]);
		}
		if (rc != wrong[i].rc || strstr(vdpa_error_message(), wrong[i].says) == NULL)
			fail_msg("%s: %d, %s", wrong[i].name, rc, vdpa_error_message());
		snprintf(message, sizeof(message), "%s", vdpa_error_message());
		assert_int_equal(T->read(f.handle, 4, 0, &value, 4), wrong[i].rc);
		assert_string_equal(vdpa_error_message(), message);
		assert_int_equal(T->post(f.handle, 4, 12288, &value, 2), wrong[i].rc);
		T->close(f.handle);
		EVENTUALLY(LOAD(server.open_connections) == 0);
	}
	vdpa_iotlb_put(tlb);
}

static void
what_the_server_refuses_is_refused_and_no_more(void **state)
{
	struct vdpa_iotlb *tlb = guest_memory(65536, 0);
	struct spoil spoil = {.command = VFIO_USER_DMA_MAP, .change = refused};
	struct function f;
	uint32_t value = 0;

	start_and_open(&f);
	vfu_server_set_hook(&server, spoil_hook, &spoil);
	assert_int_equal(vdpa_dma_map(f.dma, tlb->regions[0]), -EPERM);
	assert_message("DMA_MAP: the server answers: Operation not permitted");
	assert_int_equal(vdpa_dma_map(f.dma, tlb->regions[0]), 0);
	spoil = (struct spoil){.command = VFIO_USER_DMA_UNMAP, .change = refused};
	assert_int_equal(vdpa_dma_unmap(f.dma, tlb->regions[0]), -EPERM);
	assert_int_equal(vdpa_dma_unmap(f.dma, tlb->regions[0]), 0);
	assert_int_equal(T->read(f.handle, CONFIG, 0, &value, 4), 0);
	T->close(f.handle);
	vdpa_iotlb_put(tlb);
}

/* Nothing is left to unmap where nobody is. */
static void
unmapping_succeeds_when_the_server_is_gone_or_lies(void **state)
{
	static void (*const changes[])(struct vfu_reply *) = {hangup, unmap_address, unmap_size,
							      wrong_id, dropped};
	struct vdpa_iotlb *tlb = guest_memory(65536, 0);
	struct function f;

	assert_true(vfu_server_start(&server));
	for (unsigned int i = 0; i < 5; i++) {
		struct spoil spoil = {.command = VFIO_USER_DMA_UNMAP, .change = changes[i]};
		uint32_t value;

		vfu_server_set_hook(&server, spoil_hook, &spoil);
		assert_int_equal(open_function(&f, 200), 0);
		assert_int_equal(vdpa_dma_map(f.dma, tlb->regions[0]), 0);
		assert_int_equal(vdpa_dma_unmap(f.dma, tlb->regions[0]), 0);
		assert_true(T->read(f.handle, CONFIG, 0, &value, 4) < 0);
		T->close(f.handle);
		EVENTUALLY(LOAD(server.open_connections) == 0);
	}
	vdpa_iotlb_put(tlb);
}

/* Regions. */

static void
a_region_may_have_many_areas_and_other_capabilities(void **state)
{
	struct function f;

	server.regions[4].n_areas = VFU_AREAS_MAX;
	for (unsigned int i = 0; i < VFU_AREAS_MAX; i++) {
		server.regions[4].areas[i].offset = 4096 * (i % 4);
		server.regions[4].areas[i].size = i == 2 ? 0 : 4096;
	}
	start_and_open(&f);
	assert_int_equal(f.info.regions[4].n_parts, VDPA_PCI_SPARSE_MAX);
	/* One of no size is none. */
	assert_int_equal(f.info.regions[4].parts[2].offset, 3 * 4096);
	T->close(f.handle);
}

static void
a_region_that_cannot_be_mapped_is_not(void **state)
{
	struct function f;
	int file;

	/* A list of no areas; then a file that is no memory, then no file. */
	server.regions[4].n_areas = 0;
	start_and_open(&f);
	assert_int_equal(f.info.regions[4].fd, -1);
	assert_int_equal(f.info.regions[4].flags & VFIO_REGION_INFO_FLAG_MMAP, 0);
	assert_int_equal(f.info.regions[4].size, 16384);
	T->close(f.handle);
	EVENTUALLY(LOAD(server.open_connections) == 0);

	close(server.regions[4].fd);
	file = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	server.regions[4].fd = file;
	server.regions[4].n_areas = 1;
	assert_int_equal(open_function(&f, 0), 0);
	assert_int_equal(f.info.regions[4].fd, -1);
	T->close(f.handle);
	EVENTUALLY(LOAD(server.open_connections) == 0);

	close(file);
	server.regions[4].fd = -1;
	assert_int_equal(open_function(&f, 0), 0);
	assert_int_equal(f.info.regions[4].fd, -1);
	assert_int_equal(f.info.regions[4].flags & VFIO_REGION_INFO_FLAG_MMAP, 0);
	T->close(f.handle);
}

/* Time. */

static void
an_answer_that_does_not_come_costs_one_time_out(void **state)
{
	static const struct wrong wrong[] = {
		{"dropped", 0, 0, dropped, 0, "REGION_READ: no answer in 100 ms"},
		{"20_bytes", 0, 0, cut_to_20_bytes, 0, "only 20 of 36 bytes of an answer in 100"},
		{"7_bytes", 0, 0, cut_to_7_bytes, 0, "REGION_READ: no answer in 100 ms"},
	};
	struct function f;

	assert_true(vfu_server_start(&server));
	for (unsigned int i = 0; i < 3; i++) {
		struct spoil spoil = {.command = VFIO_USER_REGION_READ, .change = wrong[i].change};
		uint32_t value;
		int64_t start;

		vfu_server_set_hook(&server, spoil_hook, &spoil);
		assert_int_equal(open_function(&f, 100), 0);
		start = now_ms();
		assert_int_equal(T->read(f.handle, 4, 0, &value, 4), -ETIMEDOUT);
		assert_message(wrong[i].says);
		assert_true(now_ms() - start >= 99);
		/* From then on nothing waits. */
		start = now_ms();
		for (unsigned int j = 0; j < 100; j++)
			assert_int_equal(T->read(f.handle, 4, 0, &value, 4), -ETIMEDOUT);
		assert_true(now_ms() - start < 100);
		T->close(f.handle);
		EVENTUALLY(LOAD(server.open_connections) == 0);
	}
}

static void
late_hook(struct vfu_server *s, const struct vfio_user_header *request, struct vfu_reply *reply)
{
	reply->delay_us = *(unsigned int *)s->arg;
}

static void
an_answer_that_is_late_but_in_time_is_taken(void **state)
{
	unsigned int delay_us = 100000;
	struct function f;
	uint32_t value;

	start_and_open(&f);
	vfu_server_set_hook(&server, late_hook, &delay_us);
	assert_int_equal(T->read(f.handle, CONFIG, 0, &value, 4), 0);
	assert_int_equal(value, 0x10411af4);
	T->close(f.handle);
}

static void
answers_just_in_time_exhaust_the_patience(void **state)
{
	unsigned int delay_us = 60000;
	struct function f;
	uint32_t value;
	int64_t start;
	int rc;

	assert_true(vfu_server_start(&server));
	assert_int_equal(open_function(&f, 200), 0);
	vfu_server_set_hook(&server, late_hook, &delay_us);
	start = now_ms();
	do
		rc = T->read(f.handle, CONFIG, 0, &value, 4);
	while (rc == 0 && now_ms() - start < 10000);
	assert_int_equal(rc, -ETIMEDOUT);
	assert_message("after answers that came late");
	/* 3 time-outs of patience, 50 - 60/8 ms less each time; the machine may be slow. */
	assert_true(now_ms() - start > 400);
	T->close(f.handle);
}

/* The other direction. */

static void
ask_hook(struct vfu_server *s, const struct vfio_user_header *request, struct vfu_reply *reply)
{
	const struct {
		struct vfio_user_header hdr;
		uint64_t address, count;
	} ask = {
		.hdr = {.id = 77,
			.command = VFIO_USER_DMA_READ,
			.size = sizeof(ask),
			.flags = VFIO_USER_TYPE_CMD},
		.count = 4,
	};
	unsigned int n = *(unsigned int *)s->arg;

	if (request->command != VFIO_USER_REGION_READ)
		return;
	*(unsigned int *)s->arg = 0;
	for (unsigned int i = 0; i < n; i++) {
		struct vfio_user_header answer;

		assert_int_equal(send(s->fd, &ask, sizeof(ask), MSG_NOSIGNAL), sizeof(ask));
		if (n > 16)
			continue;
		assert_int_equal(recv(s->fd, &answer, sizeof(answer), MSG_WAITALL), sizeof(answer));
		assert_int_equal(answer.id, 77);
		assert_int_equal(answer.command, VFIO_USER_DMA_READ);
		assert_int_equal(answer.size, 16);
		assert_int_equal(answer.flags, VFIO_USER_TYPE_REPLY | VFIO_USER_ERROR);
		assert_int_equal(answer.error, ENOTSUP);
	}
}

static void
requests_of_the_server_are_refused(void **state)
{
	unsigned int n = 3;
	struct function f;
	uint32_t value;

	start_and_open(&f);
	vfu_server_set_hook(&server, ask_hook, &n);
	assert_int_equal(T->read(f.handle, CONFIG, 0, &value, 4), 0);
	assert_int_equal(value, 0x10411af4);
	n = 100;
	assert_int_equal(T->read(f.handle, CONFIG, 0, &value, 4), -EPROTO);
	assert_message("without end");
	T->close(f.handle);
}

/* Doorbells. */

static void
a_post_is_a_write_that_asks_for_no_reply(void **state)
{
	struct function f;
	uint32_t value = 0x12345678;

	start_and_open(&f);
	assert_int_equal(T->post(f.handle, 4, 12292, &value, 4), 0);
	value = 7;
	assert_int_equal(T->post(f.handle, 4, 12288, &value, 2), 0);
	/* In order: what is answered comes after what is not. */
	assert_int_equal(T->read(f.handle, 4, 12292, &value, 4), 0);
	assert_int_equal(value, 0x12345678);
	assert_int_equal(LOAD(server.n_writes), 2);
	assert_int_equal(server.writes[0].flags, VFIO_USER_NO_REPLY);
	assert_int_equal(server.writes[0].count, 4);
	assert_int_equal(server.writes[1].offset, 12288);
	assert_int_equal(server.writes[1].value, 7);
	assert_int_equal(T->post(f.handle, 4, 0, &value, 9), -EINVAL);
	T->close(f.handle);
}

struct reader {
	struct function *f;
	int rc;
	bool done;
};

static void *
read_slowly(void *arg)
{
	struct reader *r = arg;
	uint32_t value;

	r->rc = T->read(r->f->handle, CONFIG, 0, &value, 4);
	__atomic_store_n(&r->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void
a_post_does_not_wait_behind_a_slow_request(void **state)
{
	unsigned int delay_us = 500000, before;
	struct function f;
	struct reader reader = {.f = &f};
	pthread_t thread;
	uint16_t value = 1;

	start_and_open(&f);
	before = LOAD(server.requests);
	vfu_server_set_hook(&server, late_hook, &delay_us);
	assert_int_equal(pthread_create(&thread, NULL, read_slowly, &reader), 0);
	EVENTUALLY(LOAD(server.requests) > before);
	for (unsigned int i = 0; i < 100; i++)
		assert_int_equal(T->post(f.handle, 4, 12288, &value, 2), 0);
	assert_false(LOAD(reader.done));
	delay_us = 0;
	pthread_join(thread, NULL);
	assert_int_equal(reader.rc, 0);
	EVENTUALLY(LOAD(server.n_writes) == 100);
	T->close(f.handle);
}

static void
doorbells_wait_for_room_in_the_socket_and_none_is_lost(void **state)
{
	bool seen[16] = {false};
	struct function f;
	uint32_t n;

	assert_int_equal(vdpa_event_control_init(), 0);
	start_and_open(&f);
	__atomic_store_n(&server.paused, true, __ATOMIC_RELEASE);
	/* Far more than fit, of 16 queues. */
	for (uint16_t i = 0; i < 10000; i++) {
		uint16_t queue = i < 9000 ? i % 8 : i % 16;

		assert_int_equal(T->post(f.handle, 4, 12288 + 4 * queue, &queue, 2), 0);
	}
	__atomic_store_n(&server.paused, false, __ATOMIC_RELEASE);
	/* Queues 8 to 15 were not among what fitted: the control loop sends what waits. */
	EVENTUALLY(server.memory[4][12288 + 4 * 15] == 15);
	n = LOAD(server.n_writes);
	assert_true(n < 2000);
	for (uint32_t i = n > VFU_LOG_MAX ? n - VFU_LOG_MAX : 0; i < n; i++)
		seen[server.writes[i % VFU_LOG_MAX].value % 16] = true;
	for (unsigned int i = 0; i < 16; i++)
		assert_true(seen[i]);
	T->close(f.handle);
	vdpa_event_control_fini();
}

static void
a_request_goes_after_the_doorbells_that_wait(void **state)
{
	struct function f;
	struct reader reader = {.f = &f};
	pthread_t thread;
	uint32_t value;

	start_and_open(&f); /* without a control loop */
	__atomic_store_n(&server.paused, true, __ATOMIC_RELEASE);
	for (uint32_t i = 0; i < 400; i++) {
		value = i;
		assert_int_equal(T->post(f.handle, 4, 12288, &value, 4), 0);
	}
	assert_int_equal(pthread_create(&thread, NULL, read_slowly, &reader), 0);
	usleep(20000);
	__atomic_store_n(&server.paused, false, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	assert_int_equal(reader.rc, 0);
	assert_int_equal(LOAD(server.n_writes), 400);
	assert_int_equal(server.writes[399 % VFU_LOG_MAX].value, 399);
	T->close(f.handle);
}

static void
a_server_that_takes_no_doorbells_is_given_up(void **state)
{
	struct function f;
	uint32_t value;
	int64_t start = now_ms();
	int rc = 0;

	/* The backlog is full of different ones. */
	start_and_open(&f);
	__atomic_store_n(&server.paused, true, __ATOMIC_RELEASE);
	for (value = 0; rc == 0 && value < 10000; value++)
		rc = T->post(f.handle, 4, 12288, &value, 4);
	assert_int_equal(rc, -ETIMEDOUT);
	assert_true(now_ms() - start < 5000);
	T->close(f.handle);
	__atomic_store_n(&server.paused, false, __ATOMIC_RELEASE);
	EVENTUALLY(LOAD(server.open_connections) == 0);

	/* One has waited too long. */
	assert_int_equal(open_function(&f, 50), 0);
	__atomic_store_n(&server.paused, true, __ATOMIC_RELEASE);
	value = 0;
	for (unsigned int i = 0; i < 1000; i++)
		assert_int_equal(T->post(f.handle, 4, 12288, &value, 4), 0);
	usleep(60000);
	assert_int_equal(T->post(f.handle, 4, 12288, &value, 4), -ETIMEDOUT);
	assert_int_equal(T->read(f.handle, 4, 0, &value, 4), -ETIMEDOUT);
	assert_message("has not taken a doorbell for 50 ms");
	T->close(f.handle);
	__atomic_store_n(&server.paused, false, __ATOMIC_RELEASE);
}

static void
answer_all_hook(struct vfu_server *s, const struct vfio_user_header *request,
		struct vfu_reply *reply)
{
	reply->drop = false;
}

static void
a_server_that_answers_posts_is_borne_with(void **state)
{
	struct function f;
	uint32_t value;

	start_and_open(&f);
	vfu_server_set_hook(&server, answer_all_hook, NULL);
	for (uint32_t i = 0; i < 2000; i++) {
		unsigned int before = LOAD(server.n_writes);

		value = i;
		assert_int_equal(T->post(f.handle, 4, 12288, &value, 4), 0);
		EVENTUALLY(LOAD(server.n_writes) > before);
	}
	assert_int_equal(T->read(f.handle, 4, 12288, &value, 4), 0);
	assert_int_equal(value, 1999);
	T->close(f.handle);
}

/* Several at once. */

static void *
read_often(void *arg)
{
	struct reader *r = arg;
	uint16_t value, out = 3;

	for (unsigned int i = 0; i < 200 && r->rc == 0; i++) {
		r->rc = T->read(r->f->handle, CONFIG, 2, &value, 2);
		if (r->rc == 0 && value != 0x1041)
			r->rc = -EINVAL;
		T->post(r->f->handle, 4, 12288, &out, 2);
	}
	return NULL;
}

static void
threads_may_share_a_function(void **state)
{
	struct function f;
	struct reader readers[4];
	pthread_t threads[4];

	start_and_open(&f);
	for (unsigned int i = 0; i < 4; i++) {
		readers[i] = (struct reader){.f = &f};
		assert_int_equal(pthread_create(&threads[i], NULL, read_often, &readers[i]), 0);
	}
	for (unsigned int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(readers[i].rc, 0);
	}
	EVENTUALLY(LOAD(server.n_writes) == 800);
	T->close(f.handle);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_device_is_found_with_its_regions_and_interrupts),
		TEST(registers_are_read_and_written),
		TEST(an_access_is_split_as_the_server_needs_it),
		TEST(vectors_are_set_in_chunks_and_gaps_are_let_go),
		TEST(a_server_that_says_nothing_gets_one_file_a_message),
		TEST(the_server_signals_the_eventfd_of_a_vector),
		TEST(memory_is_mapped_with_its_file_and_unmapped),
		TEST(the_limits_of_the_server_are_the_domains),
		TEST(memory_left_mapped_is_unmapped_on_close),
		TEST(a_socket_where_nobody_listens_is_refused),
		TEST(a_server_that_does_not_accept_costs_one_time_out),
		TEST(a_wrong_answer_ends_the_open),
		TEST(a_senseless_answer_ends_the_open),
		TEST(a_wrong_answer_ends_the_function),
		TEST(what_the_server_refuses_is_refused_and_no_more),
		TEST(unmapping_succeeds_when_the_server_is_gone_or_lies),
		TEST(a_region_may_have_many_areas_and_other_capabilities),
		TEST(a_region_that_cannot_be_mapped_is_not),
		TEST(an_answer_that_does_not_come_costs_one_time_out),
		TEST(an_answer_that_is_late_but_in_time_is_taken),
		TEST(answers_just_in_time_exhaust_the_patience),
		TEST(requests_of_the_server_are_refused),
		TEST(a_post_is_a_write_that_asks_for_no_reply),
		TEST(a_post_does_not_wait_behind_a_slow_request),
		TEST(doorbells_wait_for_room_in_the_socket_and_none_is_lost),
		TEST(a_request_goes_after_the_doorbells_that_wait),
		TEST(a_server_that_takes_no_doorbells_is_given_up),
		TEST(a_server_that_answers_posts_is_borne_with),
		TEST(threads_may_share_a_function),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
