/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* sim_net and the simulator core, driven as a front end and a guest's driver drive them. */

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../drivers/vdpa/sim/net/net.h"
#include "ring_driver.h"
#include "test_util.h"
#include "vdpa_frontend.h"

#define MEM_SIZE (4u << 20)
#define NUM	 64
#define QUEUES	 3
#define HDR	 12
#define BUFS	 (RING_MEM_IOVA + 0x100000)
#define BASE	 (SIM_BIT(SIM_F_VERSION_1) | SIM_BIT(SIM_F_INDIRECT_DESC))

struct guest {
	struct vdpa_device *vdev;
	struct ring_mem mem;
	struct ring_driver ring[QUEUES];
	struct vdpa_vq_config vqs[QUEUES];
	uint64_t next_buf;
};

static void
guest_start(struct guest *g, const char *name, const char *words, uint64_t features,
	    unsigned int nqueues)
{
	const uint64_t size = MEM_SIZE;
	struct vdpa_start_config start = {
		.features = features | BASE, .vqs = g->vqs, .nvqs = (uint16_t)nqueues};
	char line[256];

	memset(g, 0, sizeof(*g));
	snprintf(line, sizeof(line), "name %s mgmtdev sim_net mac 52:54:00:00:00:01 %s", name,
		 words);
	if (vdpa_dev_add(line) < 0)
		fail_msg("dev add: %s", vdpa_error_message());
	g->vdev = vdpa_find_device(name);
	assert_non_null(g->vdev);
	assert_int_equal(ring_mem_init(&g->mem, &size, 1), 0);
	g->next_buf = BUFS;
	start.iotlb = g->mem.tlb;
	for (unsigned int i = 0; i < nqueues; i++) {
		struct ring_driver *r = &g->ring[i];

		assert_int_equal(ring_driver_init(r, &g->mem, start.features, NUM,
						  RING_MEM_IOVA + 0x10000 * i),
				 0);
		g->vqs[i] = (struct vdpa_vq_config){.ready = true,
						    .enabled = true,
						    .num = NUM,
						    .desc = r->desc,
						    .driver = r->drv,
						    .device = r->dev,
						    .kick_fd = eventfd(0, EFD_NONBLOCK),
						    .call_fd = eventfd(0, EFD_NONBLOCK)};
		if (r->packed) {
			g->vqs[i].state.packed.last_avail_counter = 1;
			g->vqs[i].state.packed.last_used_counter = 1;
		}
	}
	if (vdpa_device_start(g->vdev, &start) < 0)
		fail_msg("start: %s", vdpa_error_message());
}

static void
guest_end(struct guest *g)
{
	char name[VDPA_NAME_MAX];

	snprintf(name, sizeof(name), "%s", g->vdev->name);
	vdpa_put_device(g->vdev);
	assert_int_equal(vdpa_dev_del(name), 0);
	for (unsigned int i = 0; i < QUEUES; i++)
		if (g->vqs[i].ready) {
			close(g->vqs[i].kick_fd);
			close(g->vqs[i].call_fd);
			ring_driver_fini(&g->ring[i]);
		}
	ring_mem_fini(&g->mem);
}

static uint64_t
new_buf(struct guest *g)
{
	uint64_t iova = g->next_buf;

	g->next_buf += 2048;
	return iova;
}

static uint64_t
post_rx(struct guest *g, uint32_t len)
{
	struct ring_buf b = {.iova = new_buf(g), .len = len, .write = true};

	assert_true(ring_driver_post(&g->ring[0], &b, 1) >= 0);
	eventfd_write(g->vqs[0].kick_fd, 1);
	return b.iova;
}

static void
send_frame(struct guest *g, const void *frame, uint32_t len)
{
	struct ring_buf b = {.iova = new_buf(g), .len = HDR + len};
	uint8_t *va = ring_mem_va(&g->mem, b.iova);

	memset(va, 0xee, HDR);
	memcpy(va + HDR, frame, len);
	assert_true(ring_driver_post(&g->ring[1], &b, 1) >= 0);
	eventfd_write(g->vqs[1].kick_fd, 1);
}

/* Bounded: a second at most. */
static bool
wait_used(struct guest *g, unsigned int q, uint32_t *len)
{
	uint16_t id;

	for (unsigned int i = 0; i < 10000; i++) {
		if (ring_driver_poll(&g->ring[q], &id, len))
			return true;
		usleep(100);
	}
	return false;
}

static uint64_t
queue_stat(struct guest *g, uint16_t q, const char *name)
{
	struct vdpa_stat s[32];
	int n = g->vdev->config->get_vendor_vq_stats(g->vdev, q, s, 32);

	for (int i = 0; i < n; i++)
		if (strcmp(s[i].name, name) == 0)
			return s[i].value;
	fail_msg("no statistic %s", name);
	return 0;
}

static void
make_frame(uint8_t frame[64], const uint8_t dst[6])
{
	for (unsigned int i = 0; i < 64; i++)
		frame[i] = (uint8_t)(i * 7);
	memcpy(frame, dst, 6);
	frame[12] = 0x88;
	frame[13] = 0xb5;
}

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 0, 0, 1};
static const uint8_t other_mac[6] = {0x52, 0x54, 0, 0, 0, 9};

static void
loops_back(uint64_t features)
{
	uint8_t frame[64], *got;
	struct guest g;
	uint64_t rx;
	uint32_t len;

	make_frame(frame, other_mac);
	guest_start(&g, "lo0", "", features, 2);
	for (unsigned int i = 0; i < 3 * NUM; i++) {
		g.next_buf = BUFS;
		rx = post_rx(&g, 1536);
		frame[20] = (uint8_t)i;
		send_frame(&g, frame, 64);
		assert_true(wait_used(&g, 0, &len));
		assert_int_equal(len, HDR + 64);
		got = ring_mem_va(&g.mem, rx);
		assert_int_equal(got[0], 0);
		assert_int_equal(got[10] | got[11] << 8, 1);
		assert_memory_equal(got + HDR, frame, 64);
		assert_true(wait_used(&g, 1, &len));
		assert_int_equal(len, 0);
	}
	assert_int_equal(queue_stat(&g, 0, "packets"), 3 * NUM);
	assert_int_equal(queue_stat(&g, 1, "packets"), 3 * NUM);
	assert_int_equal(queue_stat(&g, 1, "bytes"), 3 * NUM * 64);
	guest_end(&g);
}

static void
loopback_returns_what_was_sent_split(void **state)
{
	loops_back(0);
	loops_back(SIM_BIT(SIM_F_EVENT_IDX) | SIM_BIT(SIM_F_IN_ORDER));
}

static void
loopback_returns_what_was_sent_packed(void **state)
{
	loops_back(SIM_BIT(SIM_F_RING_PACKED));
	loops_back(SIM_BIT(SIM_F_RING_PACKED) | SIM_BIT(SIM_F_EVENT_IDX));
}

static void
packets_wait_for_receive_buffers_without_loss(void **state)
{
	uint8_t frame[64];
	struct guest g;
	uint32_t len;

	make_frame(frame, other_mac);
	guest_start(&g, "lo0", "", 0, 2);
	for (unsigned int i = 0; i < 10; i++)
		send_frame(&g, frame, 64);
	usleep(20000);
	assert_int_equal(queue_stat(&g, 1, "packets"), 0);
	for (unsigned int i = 0; i < 10; i++) {
		post_rx(&g, 1536);
		assert_true(wait_used(&g, 0, &len));
		assert_true(wait_used(&g, 1, &len));
	}
	assert_int_equal(queue_stat(&g, 0, "packets"), 10);
	guest_end(&g);
}

static void
a_packet_fills_several_mergeable_buffers(void **state)
{
	uint8_t frame[64];
	struct guest g;
	uint64_t rx[3];
	uint32_t len[3];

	make_frame(frame, other_mac);
	guest_start(&g, "lo0", "", SIM_BIT(NET_F_MRG_RXBUF), 2);
	for (unsigned int i = 0; i < 3; i++)
		rx[i] = post_rx(&g, 30);
	send_frame(&g, frame, 64);
	for (unsigned int i = 0; i < 3; i++)
		assert_true(wait_used(&g, 0, &len[i]));
	assert_int_equal(len[0], 30);
	assert_int_equal(len[1], 30);
	assert_int_equal(len[2], HDR + 64 - 60);
	assert_int_equal(((uint8_t *)ring_mem_va(&g.mem, rx[0]))[10], 3);
	assert_memory_equal((uint8_t *)ring_mem_va(&g.mem, rx[0]) + HDR, frame, 18);
	assert_memory_equal(ring_mem_va(&g.mem, rx[1]), frame + 18, 30);
	assert_memory_equal(ring_mem_va(&g.mem, rx[2]), frame + 48, 16);
	guest_end(&g);
}

static void
a_packet_too_long_for_one_buffer_is_dropped_and_counted(void **state)
{
	uint8_t frame[64];
	struct guest g;
	uint32_t len;

	make_frame(frame, other_mac);
	guest_start(&g, "lo0", "", 0, 2);
	post_rx(&g, 30);
	send_frame(&g, frame, 64);
	assert_true(wait_used(&g, 1, &len));
	assert_int_equal(queue_stat(&g, 0, "drop_too_small"), 1);
	guest_end(&g);
}

static void
peers_exchange_packets_and_may_be_away(void **state)
{
	uint8_t frame[64];
	struct guest a, b;
	uint32_t len;

	make_frame(frame, other_mac);
	guest_start(&a, "pa", "backend peer pb", 0, 2);
	send_frame(&a, frame, 64);
	assert_true(wait_used(&a, 1, &len));
	assert_int_equal(queue_stat(&a, 1, "drop_no_peer"), 1);

	guest_start(&b, "pb", "backend peer pa", SIM_BIT(SIM_F_RING_PACKED), 2);
	assert_int_equal(vdpa_dev_add("name pc mgmtdev sim_net backend peer pa"), -EBUSY);
	send_frame(&a, frame, 64);
	usleep(10000);
	assert_int_equal(queue_stat(&a, 1, "packets"), 0);
	post_rx(&b, 1536);
	assert_true(wait_used(&b, 0, &len));
	assert_int_equal(len, HDR + 64);
	assert_true(wait_used(&a, 1, &len));
	post_rx(&a, 1536);
	send_frame(&b, frame, 64);
	assert_true(wait_used(&a, 0, &len));
	assert_int_equal(queue_stat(&b, 1, "packets"), queue_stat(&a, 0, "packets"));

	guest_end(&b);
	send_frame(&a, frame, 64);
	assert_true(wait_used(&a, 1, &len));
	assert_int_equal(queue_stat(&a, 1, "drop_no_peer"), 2);
	guest_end(&a);
}

/* The sender sleeps for want of buffers; the receiver's device wakes for something else meanwhile.
 */
static void
a_sender_that_waits_for_its_peer_is_woken_by_new_buffers(void **state)
{
	uint8_t frame[64];
	struct guest a, b;
	uint32_t len;

	make_frame(frame, other_mac);
	guest_start(&a, "pa", "backend peer pb", 0, 2);
	guest_start(&b, "pb", "backend peer pa", 0, 2);
	send_frame(&a, frame, 64);
	usleep(20000);
	post_rx(&a, 1536);
	send_frame(&b, frame, 64);
	assert_true(wait_used(&a, 0, &len));
	usleep(20000);
	(void)ring_driver_kick_wanted(&b.ring[0]);
	assert_true(ring_driver_post(
			    &b.ring[0],
			    &(struct ring_buf){.iova = new_buf(&b), .len = 1536, .write = true},
			    1) >= 0);
	if (ring_driver_kick_wanted(&b.ring[0]))
		eventfd_write(b.vqs[0].kick_fd, 1);
	assert_true(wait_used(&b, 0, &len));
	guest_end(&b);
	guest_end(&a);
}

static void
echo_answers_arp_for_any_address(void **state)
{
	uint8_t arp[42] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0,	 0, 0, 1, 8, 6,	 0,
			   1,	 8,    0,    6,	   4,	 0,    1,    0x52, 0x54, 0, 0, 0, 1, 10, 0,
			   0,	 1,    0,    0,	   0,	 0,    0,    0,	   10,	 0, 0, 77};
	const uint8_t *got;
	struct guest g;
	uint64_t rx;
	uint32_t len;

	guest_start(&g, "ec0", "backend echo", 0, 2);
	rx = post_rx(&g, 1536);
	send_frame(&g, arp, sizeof(arp));
	assert_true(wait_used(&g, 0, &len));
	got = ring_mem_va(&g.mem, rx);
	got += HDR;
	assert_memory_equal(got, guest_mac, 6);
	assert_memory_not_equal(got + 6, guest_mac, 6);
	assert_int_equal(got[21], 2);
	assert_memory_equal(got + 28, arp + 38, 4);
	assert_memory_equal(got + 38, arp + 28, 4);
	guest_end(&g);
}

static uint32_t
sum16(const uint8_t *p, uint32_t len, uint32_t sum)
{
	for (uint32_t i = 0; i < len; i++)
		sum += (uint32_t)p[i] << (i % 2 == 0 ? 8 : 0);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static void
put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void
echo_answers_ping_with_good_checksums(void **state)
{
	uint8_t v4[14 + 20 + 8 + 33] = {0x02, 0, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 1, 8, 0, 0x45};
	uint8_t v6[14 + 40 + 8 + 33] = {0x02, 0, 0, 0, 0,    1,	   0x52, 0x54,
					0,    0, 0, 1, 0x86, 0xdd, 0x60};
	const uint8_t *got;
	struct guest g;
	uint64_t rx;
	uint32_t len;

	put16(v4 + 16, sizeof(v4) - 14);
	v4[22] = 3;
	v4[23] = 1;
	memcpy(v4 + 26, (uint8_t[]){10, 0, 0, 1, 10, 0, 0, 7}, 8);
	put16(v4 + 24, ~sum16(v4 + 14, 20, 0));
	v4[34] = 8;
	for (unsigned int i = 38; i < sizeof(v4); i++)
		v4[i] = (uint8_t)i;
	put16(v4 + 36, ~sum16(v4 + 34, sizeof(v4) - 34, 0));
	guest_start(&g, "ec0", "backend echo", 0, 2);
	rx = post_rx(&g, 1536);
	send_frame(&g, v4, sizeof(v4));
	assert_true(wait_used(&g, 0, &len));
	assert_int_equal(len, HDR + sizeof(v4));
	got = ring_mem_va(&g.mem, rx);
	got += HDR;
	assert_int_equal(got[34], 0);
	assert_int_equal(sum16(got + 14, 20, 0), 0xffff);
	assert_int_equal(sum16(got + 34, sizeof(v4) - 34, 0), 0xffff);
	assert_memory_equal(got + 26, v4 + 30, 4);
	assert_memory_equal(got + 30, v4 + 26, 4);
	assert_memory_equal(got + 38, v4 + 38, sizeof(v4) - 38);

	put16(v6 + 18, sizeof(v6) - 54);
	v6[20] = 58;
	v6[21] = 255;
	v6[22] = v6[38] = 0xfd;
	v6[37] = 1;
	v6[53] = 7;
	v6[54] = 128;
	for (unsigned int i = 58; i < sizeof(v6); i++)
		v6[i] = (uint8_t)i;
	put16(v6 + 56, ~sum16(v6 + 54, sizeof(v6) - 54, sum16(v6 + 22, 32, 58 + sizeof(v6) - 54)));
	rx = post_rx(&g, 1536);
	send_frame(&g, v6, sizeof(v6));
	assert_true(wait_used(&g, 0, &len));
	assert_int_equal(len, HDR + sizeof(v6));
	got = ring_mem_va(&g.mem, rx);
	got += HDR;
	assert_int_equal(got[54], 129);
	assert_int_equal(got[53], 1);
	assert_int_equal(
		sum16(got + 54, sizeof(v6) - 54, sum16(got + 22, 32, 58 + sizeof(v6) - 54)),
		0xffff);
	/* A damaged request gets no answer. */
	v4[60] ^= 1;
	post_rx(&g, 1536);
	assert_true(wait_used(&g, 1, &len) && wait_used(&g, 1, &len));
	send_frame(&g, v4, sizeof(v4));
	assert_true(wait_used(&g, 1, &len));
	assert_int_equal(queue_stat(&g, 1, "drop_unanswered"), 1);
	guest_end(&g);
}

static uint8_t
control(struct guest *g, const uint8_t *cmd, uint32_t len)
{
	struct ring_buf b[2] = {{.iova = new_buf(g), .len = len},
				{.iova = new_buf(g), .len = 1, .write = true}};
	uint8_t *ack = ring_mem_va(&g->mem, b[1].iova);
	uint32_t used;

	memcpy(ring_mem_va(&g->mem, b[0].iova), cmd, len);
	*ack = 0xff;
	assert_true(ring_driver_post(&g->ring[2], b, 2) >= 0);
	eventfd_write(g->vqs[2].kick_fd, 1);
	assert_true(wait_used(g, 2, &used));
	return *ack;
}

static void
receive_filters_follow_the_control_queue(void **state)
{
	const uint8_t promisc_off[] = {0, 0, 0}, allmulti[] = {0, 1, 1}, bad[] = {9, 0, 0};
	const uint8_t group[6] = {0x01, 0, 0x5e, 0, 0, 1};
	const uint8_t set_mac[] = {1, 1, 0x52, 0x54, 0, 0, 0, 9};
	uint8_t frame[64], mac[6];
	struct guest g;
	uint32_t len;

	guest_start(&g, "lo0", "",
		    SIM_BIT(NET_F_CTRL_VQ) | SIM_BIT(NET_F_CTRL_RX) | SIM_BIT(NET_F_CTRL_MAC_ADDR),
		    3);
	for (unsigned int i = 0; i < 8; i++)
		post_rx(&g, 1536);
	assert_int_equal(control(&g, bad, sizeof(bad)), 1);
	assert_int_equal(control(&g, promisc_off, sizeof(promisc_off)), 0);
	make_frame(frame, other_mac);
	send_frame(&g, frame, 64);
	assert_true(wait_used(&g, 1, &len));
	assert_int_equal(queue_stat(&g, 0, "drop_filtered"), 1);
	make_frame(frame, guest_mac);
	send_frame(&g, frame, 64);
	assert_true(wait_used(&g, 0, &len));
	make_frame(frame, group);
	send_frame(&g, frame, 64);
	assert_true(wait_used(&g, 1, &len) && wait_used(&g, 1, &len));
	assert_int_equal(queue_stat(&g, 0, "drop_filtered"), 2);
	assert_int_equal(control(&g, allmulti, sizeof(allmulti)), 0);
	send_frame(&g, frame, 64);
	assert_true(wait_used(&g, 0, &len));
	assert_int_equal(control(&g, set_mac, sizeof(set_mac)), 0);
	make_frame(frame, other_mac);
	send_frame(&g, frame, 64);
	assert_true(wait_used(&g, 0, &len));
	assert_int_equal(vdpa_get_config(g.vdev, 0, mac, 6), 0);
	assert_memory_equal(mac, other_mac, 6);
	assert_int_equal(vdpa_device_stop(g.vdev), 0);
	assert_int_equal(vdpa_get_config(g.vdev, 0, mac, 6), 0);
	assert_memory_equal(mac, guest_mac, 6);
	guest_end(&g);
}

static void
nothing_flows_while_the_link_is_down(void **state)
{
	uint8_t frame[64];
	uint16_t status;
	struct guest g;
	uint32_t len;

	make_frame(frame, other_mac);
	guest_start(&g, "lo0", "", SIM_BIT(NET_F_STATUS), 2);
	post_rx(&g, 1536);
	assert_int_equal(vdpa_dev_set("lo0 link down"), 0);
	assert_int_equal(vdpa_get_config(g.vdev, 6, &status, 2), 0);
	assert_int_equal(status, 0);
	send_frame(&g, frame, 64);
	assert_true(wait_used(&g, 1, &len));
	assert_int_equal(queue_stat(&g, 1, "drop_link_down"), 1);
	assert_int_equal(vdpa_dev_set("lo0 link up"), 0);
	send_frame(&g, frame, 64);
	assert_true(wait_used(&g, 0, &len));
	guest_end(&g);
}

static void
a_bad_descriptor_fails_its_device_only(void **state)
{
	struct ring_buf bad = {.iova = 0xdead0000000, .len = 64};
	uint8_t frame[64];
	struct guest a, b;
	char why[256];
	uint32_t len;

	make_frame(frame, other_mac);
	guest_start(&a, "bad0", "", 0, 2);
	guest_start(&b, "good0", "", 0, 2);
	assert_true(ring_driver_post(&a.ring[1], &bad, 1) >= 0);
	eventfd_write(a.vqs[1].kick_fd, 1);
	EVENTUALLY(vdpa_device_get_state(a.vdev) == VDPA_STATE_FAILED);
	vdpa_device_failure(a.vdev, why, sizeof(why));
	assert_non_null(strstr(why, "queue 1: descriptor outside memory"));
	post_rx(&b, 1536);
	send_frame(&b, frame, 64);
	assert_true(wait_used(&b, 0, &len));
	guest_end(&a);
	guest_end(&b);
}

static void
a_stopped_queue_goes_on_where_it_was(void **state)
{
	uint8_t frame[64];
	struct guest g;
	uint32_t len;

	make_frame(frame, other_mac);
	guest_start(&g, "lo0", "", 0, 2);
	for (unsigned int i = 0; i < 5; i++) {
		post_rx(&g, 1536);
		send_frame(&g, frame, 64);
		assert_true(wait_used(&g, 0, &len) && wait_used(&g, 1, &len));
	}
	assert_int_equal(vdpa_device_stop_vq(g.vdev, 1, &g.vqs[1].state), 0);
	assert_int_equal(g.vqs[1].state.split.avail_index, 5);
	post_rx(&g, 1536);
	send_frame(&g, frame, 64);
	assert_int_equal(vdpa_device_start_vq(g.vdev, 1, &g.vqs[1]), 0);
	assert_true(wait_used(&g, 0, &len));
	assert_int_equal(queue_stat(&g, 0, "packets"), 6);
	guest_end(&g);
}

static void
several_workers_need_pairs_lcores_and_the_loopback(void **state)
{
	assert_int_equal(vdpa_dev_add("name w mgmtdev sim_net workers 2"), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "max_vqp"));
	assert_int_equal(vdpa_dev_add("name w mgmtdev sim_net max_vqp 2 workers 2 backend echo"),
			 -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "loopback"));
	assert_int_equal(vdpa_dev_add("name w mgmtdev sim_net max_vqp 2 workers 2"), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "--poll-lcores"));
	assert_int_equal(vdpa_dev_add("name w mgmtdev sim_net max_vqp 2 workers 1"), 0);
	assert_int_equal(vdpa_dev_del("w"), 0);
}

static void
idle_devices_share_one_thread_that_sleeps(void **state)
{
	struct vdpa_event_loop_stats before, after;
	struct guest g[8];
	char name[8];

	for (unsigned int i = 0; i < 8; i++) {
		snprintf(name, sizeof(name), "id%u", i);
		guest_start(&g[i], name, "", 0, 2);
		post_rx(&g[i], 1536);
		assert_ptr_equal(sim_loop(sim_dev(g[i].vdev)), sim_loop(sim_dev(g[0].vdev)));
	}
	usleep(50000);
	vdpa_event_loop_stats(sim_loop(sim_dev(g[0].vdev)), &before);
	usleep(200000);
	vdpa_event_loop_stats(sim_loop(sim_dev(g[0].vdev)), &after);
	assert_int_equal(after.wakeups, before.wakeups);
	assert_int_equal(after.polls, before.polls);
	for (unsigned int i = 0; i < 8; i++)
		guest_end(&g[i]);
}

static pthread_barrier_t both_set_up;

/* Neither is told that it is set up before the other is, too. */
static int
setup_with_the_other(struct sim_device *dev)
{
	int rc = sim_net_class.setup(dev);

	pthread_barrier_wait(&both_set_up);
	return rc;
}

struct peer_words {
	const char *name, *other;
	struct sim_device *dev;
};

static void *
make_peer(void *arg)
{
	struct vdpa_args args = {.n = 1};
	struct sim_class class = sim_net_class;
	struct peer_words *words = arg;
	const struct vdpa_param *p = class.params;
	const struct vdpa_param_choice *c;

	while (strcmp(p->name, "backend") != 0)
		p++;
	for (c = p->choices; strcmp(c->name, "peer") != 0;)
		c++;
	args.arg[0] = (struct vdpa_arg){.param = p, .choice = c, .str = words->other};
	class.setup = setup_with_the_other;
	if (sim_device_create(&class, NULL, words->name, &args, &words->dev) < 0)
		words->dev = NULL;
	else
		words->dev->class = &sim_net_class;
	return NULL;
}

/* Two that are made at the same time find each other, whoever is first. */
static void
peers_that_are_made_at_once_are_linked(void **state)
{
	struct peer_words words[2] = {{.name = "a", .other = "b"}, {.name = "b", .other = "a"}};
	pthread_t threads[2];

	pthread_barrier_init(&both_set_up, NULL, 2);
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, make_peer, &words[i]), 0);
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	for (unsigned int i = 0; i < 2; i++) {
		struct net_device *nd;

		assert_non_null(words[i].dev);
		nd = words[i].dev->priv;
		assert_non_null(nd->backend->source(nd));
	}
	for (unsigned int i = 0; i < 2; i++)
		vdpa_put_device(&words[i].dev->vdev);
	pthread_barrier_destroy(&both_set_up);
}

static int
group_setup(void **state)
{
	return vdpa_init(NULL);
}

static int
group_teardown(void **state)
{
	vdpa_cleanup();
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loopback_returns_what_was_sent_split),
		cmocka_unit_test(loopback_returns_what_was_sent_packed),
		cmocka_unit_test(packets_wait_for_receive_buffers_without_loss),
		cmocka_unit_test(a_packet_fills_several_mergeable_buffers),
		cmocka_unit_test(a_packet_too_long_for_one_buffer_is_dropped_and_counted),
		cmocka_unit_test(peers_exchange_packets_and_may_be_away),
		cmocka_unit_test(peers_that_are_made_at_once_are_linked),
		cmocka_unit_test(a_sender_that_waits_for_its_peer_is_woken_by_new_buffers),
		cmocka_unit_test(echo_answers_arp_for_any_address),
		cmocka_unit_test(echo_answers_ping_with_good_checksums),
		cmocka_unit_test(receive_filters_follow_the_control_queue),
		cmocka_unit_test(nothing_flows_while_the_link_is_down),
		cmocka_unit_test(a_bad_descriptor_fails_its_device_only),
		cmocka_unit_test(a_stopped_queue_goes_on_where_it_was),
		cmocka_unit_test(several_workers_need_pairs_lcores_and_the_loopback),
		cmocka_unit_test(idle_devices_share_one_thread_that_sleeps),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
