/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The vfio-user client against a server that answers wrongly, not at all, or goes away. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "event_loop_priv.h"
#include "fault.h"
#include "vfu_test.h"

/* Replies that are wrong. */

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
			rc = set_memory(&f, tlb);
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
	assert_int_equal(set_memory(&f, tlb), -EPERM);
	assert_message("DMA_MAP: the server answers: Operation not permitted");
	assert_int_equal(set_memory(&f, tlb), 0);
	spoil = (struct spoil){.command = VFIO_USER_DMA_UNMAP, .change = refused};
	assert_int_equal(set_memory(&f, NULL), -EPERM);
	assert_int_equal(set_memory(&f, NULL), 0);
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
		assert_int_equal(open_function(&f, SHORT_MS), 0);
		assert_int_equal(set_memory(&f, tlb), 0);
		assert_int_equal(set_memory(&f, NULL), 0);
		assert_true(T->read(f.handle, CONFIG, 0, &value, 4) < 0);
		T->close(f.handle);
		EVENTUALLY(LOAD(server.open_connections) == 0);
	}
	vdpa_iotlb_put(tlb);
}

static void
an_answer_that_does_not_come_costs_one_time_out(void **state)
{
	static const struct wrong wrong[] = {
		{"dropped", 0, 0, dropped, 0, "REGION_READ: no answer in 1000 ms"},
		{"20_bytes", 0, 0, cut_to_20_bytes, 0, "only 20 of 36 bytes of an answer in 1000"},
		{"7_bytes", 0, 0, cut_to_7_bytes, 0, "REGION_READ: no answer in 1000 ms"},
	};
	struct function f;

	assert_true(vfu_server_start(&server));
	for (unsigned int i = 0; i < 3; i++) {
		struct spoil spoil = {.command = VFIO_USER_REGION_READ, .change = wrong[i].change};
		uint32_t value;
		int64_t start;

		vfu_server_set_hook(&server, spoil_hook, &spoil);
		assert_int_equal(open_function(&f, SHORT_MS), 0);
		start = now_ms();
		assert_int_equal(T->read(f.handle, 4, 0, &value, 4), -ETIMEDOUT);
		assert_message(wrong[i].says);
		assert_true(now_ms() - start >= SHORT_MS - 1);
		/* From then on nothing waits. */
		start = now_ms();
		for (unsigned int j = 0; j < 20; j++)
			assert_int_equal(T->read(f.handle, 4, 0, &value, 4), -ETIMEDOUT);
		assert_true(now_ms() - start < 10 * SHORT_MS);
		T->close(f.handle);
		EVENTUALLY(LOAD(server.open_connections) == 0);
	}
}

/* The other direction. */

struct asker {
	unsigned int n;	      /* requests before the next reply */
	unsigned int refused; /* answered as they must be */
};

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
	const struct vfio_user_header refusal = {
		.id = 77,
		.command = VFIO_USER_DMA_READ,
		.size = sizeof(refusal),
		.flags = VFIO_USER_TYPE_REPLY | VFIO_USER_ERROR,
		.error = ENOTSUP,
	};
	struct asker *asker = s->arg;

	if (request->command != VFIO_USER_REGION_READ)
		return;
	for (unsigned int i = 0; i < asker->n; i++) {
		struct vfio_user_header answer;

		/* The client may have had enough. */
		if (send(s->fd, &ask, sizeof(ask), MSG_NOSIGNAL) != sizeof(ask) ||
		    recv(s->fd, &answer, sizeof(answer), MSG_WAITALL) != sizeof(answer))
			break;
		if (memcmp(&answer, &refusal, sizeof(answer)) == 0)
			__atomic_add_fetch(&asker->refused, 1, __ATOMIC_RELEASE);
	}
}

static void
requests_of_the_server_are_refused(void **state)
{
	struct asker asker = {.n = 3};
	struct function f;
	uint32_t value;

	start_and_open(&f);
	vfu_server_set_hook(&server, ask_hook, &asker);
	assert_int_equal(T->read(f.handle, CONFIG, 0, &value, 4), 0);
	assert_int_equal(value, 0x10411af4);
	assert_int_equal(LOAD(asker.refused), 3);
	asker.n = 100;
	assert_int_equal(T->read(f.handle, CONFIG, 0, &value, 4), -EPROTO);
	assert_message("without end");
	T->close(f.handle);
	EVENTUALLY(LOAD(server.open_connections) == 0);
	assert_true(LOAD(asker.refused) < 30);
}

/* It is us who cannot take it: no reproach to the server. */
static void
a_process_without_free_file_descriptors_is_told_so(void **state)
{
	const rlim_t n = 64;
	struct rlimit old, few = {.rlim_cur = n};
	int taken[64], n_taken = 0;
	struct function f;
	int rc;

	assert_true(vfu_server_start(&server));
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	few.rlim_max = old.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	while (n_taken < (int)n && (taken[n_taken] = dup(0)) >= 0)
		n_taken++;
	/* The server's end of the connection, and two of ours. */
	for (unsigned int i = 0; i < 3; i++)
		close(taken[--n_taken]);
	rc = open_function(&f, 0);
	while (n_taken > 0)
		close(taken[--n_taken]);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(rc, -EMFILE);
	assert_message("GET_REGION_INFO: the server's file descriptor could not be received");
	EVENTUALLY(LOAD(server.open_connections) == 0);
}

/* Gone, as a driver sees it. */

static struct vdpa_pci *
start_and_open_pci(void)
{
	const struct vdpa_pci_params params = {.timeout_ms = PATIENT_MS};
	struct vdpa_pci *pci;
	char name[64];

	assert_true(vfu_server_start(&server));
	snprintf(name, sizeof(name), "vfio-user/%s", server.path);
	assert_int_equal(vdpa_pci_open(name, &params, &pci), 0);
	return pci;
}

static void
a_server_that_hangs_up_is_noticed_without_traffic(void **state)
{
	int error = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int removed = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct pollfd told = {.fd = removed, .events = POLLIN};
	struct vdpa_pci *pci;
	eventfd_t value;
	int64_t start;

	assert_int_equal(vdpa_event_control_init(), 0);
	pci = start_and_open_pci();
	assert_int_equal(vdpa_pci_event_set(pci, VDPA_PCI_EVENT_ERROR, error), 0);
	assert_int_equal(vdpa_pci_event_set(pci, VDPA_PCI_EVENT_REMOVE, removed), 0);
	vfu_server_hangup(&server);
	EVENTUALLY(vdpa_pci_error(pci) != 0);
	assert_int_equal(vdpa_pci_error(pci), -ENODEV);
	assert_int_equal(poll(&told, 1, 5000), 1);
	assert_int_equal(eventfd_read(removed, &value), 0);
	assert_int_equal(value, 1);
	assert_non_null(strstr(vdpa_pci_error_text(pci), "/s: the server hung up"));
	assert_int_equal(eventfd_read(error, &value), -1);
	start = now_ms();
	assert_int_equal(vdpa_pci_read32(pci, 4, 0), UINT32_MAX);
	vdpa_pci_write32(pci, 4, 0, 1);
	vdpa_pci_post16(pci, 4, 12288, 1);
	assert_true(now_ms() - start < PATIENT_MS);
	vdpa_pci_close(pci);
	assert_int_equal(eventfd_read(removed, &value), -1);
	vdpa_event_control_fini();
	close(removed);
	close(error);
}

/* Answers to doorbells, all at once: they come faster than they are taken. */
static void
flood_hook(struct vfu_server *s, const struct vfio_user_header *request, struct vfu_reply *reply)
{
	enum { FLOOD = 4000 };
	static struct vfio_user_header answers[FLOOD];
	unsigned int *left = s->arg;

	if (request->command != VFIO_USER_REGION_READ)
		return;
	for (int i = 0; i < FLOOD; i++)
		answers[i] = (struct vfio_user_header){.id = 0x8001,
						       .command = VFIO_USER_REGION_WRITE,
						       .size = sizeof(answers[i]),
						       .flags = VFIO_USER_TYPE_REPLY};
	for (; *left >= FLOOD; *left -= FLOOD)
		if (send(s->fd, answers, sizeof(answers), MSG_NOSIGNAL) < 0)
			break;
	reply->drop = true;
}

static void
answers_that_were_saved_up_do_not_stretch_a_time_out(void **state)
{
	enum { POSTS = 1000000, TIMEOUT_MS = 200, TRIES = 10 };
	unsigned int left = POSTS;
	uint16_t queue = 1;
	struct function f;
	uint32_t value;

	assert_true(vfu_server_start(&server));
	/* On a busy machine a time-out so short may end before the flood begins. */
	for (unsigned int try = 0; try < TRIES && left == POSTS; try++) {
		vfu_server_set_hook(&server, NULL, NULL);
		if (open_function(&f, TIMEOUT_MS) < 0)
			continue;
		for (unsigned int i = 0; i < POSTS; i++)
			(void)T->post(f.handle, 4, 12288, &queue, 2);
		vfu_server_set_hook(&server, flood_hook, &left);
		assert_int_equal(T->read(f.handle, CONFIG, 0, &value, 4), -ETIMEDOUT);
		T->close(f.handle);
		EVENTUALLY(LOAD(server.open_connections) == 0);
	}
	/* It was given up in the midst of the flood, which takes longer on any machine. */
	assert_true(left < POSTS);
	assert_true(left > 0);
}

static void
a_protocol_failure_is_told_once_as_an_error(void **state)
{
	struct spoil spoil = {.command = VFIO_USER_REGION_READ, .change = wrong_id};
	int error = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct vdpa_pci *pci;
	eventfd_t value;

	assert_int_equal(vdpa_event_control_init(), 0);
	pci = start_and_open_pci();
	assert_int_equal(vdpa_pci_event_set(pci, VDPA_PCI_EVENT_ERROR, error), 0);
	vfu_server_set_hook(&server, spoil_hook, &spoil);
	assert_int_equal(vdpa_pci_read32(pci, 4, 0), UINT32_MAX);
	assert_int_equal(vdpa_pci_error(pci), -EPROTO);
	assert_non_null(strstr(vdpa_pci_error_text(pci), "/s: REGION_READ: reply"));
	assert_int_equal(eventfd_read(error, &value), 0);
	assert_int_equal(value, 1);
	assert_int_equal(vdpa_pci_read32(pci, 4, 0), UINT32_MAX);
	EVENTUALLY(LOAD(server.open_connections) == 0);
	assert_int_equal(vdpa_pci_error(pci), -EPROTO);
	assert_int_equal(eventfd_read(error, &value), -1);
	vdpa_pci_close(pci);
	vdpa_event_control_fini();
	close(error);
}

static void
a_region_that_shrinks_costs_only_its_function(void **state)
{
	struct vdpa_pci_area area;
	struct vdpa_pci *pci;

	assert_int_equal(vdpa_fault_init(), 0);
	pci = start_and_open_pci();
	assert_int_equal(vdpa_pci_map(pci, 4, 12288, 4096, &area), 0);
	assert_true(area.shrinkable);
	*(volatile uint16_t *)area.va = 1;
	assert_true(vdpa_pci_areas_present(pci));
	assert_int_equal(ftruncate(server.regions[4].fd, 0), 0);
	*(volatile uint16_t *)area.va = 2;
	assert_false(vdpa_pci_areas_present(pci));
	assert_int_equal(vdpa_pci_error(pci), -ENODEV);
	vdpa_pci_unmap(pci, &area);
	vdpa_pci_close(pci);
	vdpa_fault_fini();
}

static void
a_region_that_cannot_shrink_may_be_given_away(void **state)
{
	struct vdpa_pci_area area;
	struct vdpa_pci *pci;

	assert_int_equal(fcntl(server.regions[4].fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	pci = start_and_open_pci();
	assert_int_equal(vdpa_pci_map(pci, 4, 12288, 4096, &area), 0);
	assert_false(area.shrinkable);
	vdpa_pci_unmap(pci, &area);
	vdpa_pci_close(pci);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_wrong_answer_ends_the_open),
		TEST(a_senseless_answer_ends_the_open),
		TEST(a_wrong_answer_ends_the_function),
		TEST(what_the_server_refuses_is_refused_and_no_more),
		TEST(unmapping_succeeds_when_the_server_is_gone_or_lies),
		TEST(an_answer_that_does_not_come_costs_one_time_out),
		TEST(requests_of_the_server_are_refused),
		TEST(a_process_without_free_file_descriptors_is_told_so),
		TEST(a_server_that_hangs_up_is_noticed_without_traffic),
		TEST(answers_that_were_saved_up_do_not_stretch_a_time_out),
		TEST(a_protocol_failure_is_told_once_as_an_error),
		TEST(a_region_that_shrinks_costs_only_its_function),
		TEST(a_region_that_cannot_shrink_may_be_given_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
