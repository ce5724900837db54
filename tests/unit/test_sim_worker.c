/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What simulated devices ask of the worker that they share, in counts: how much one of them moves
 * between two turns of its neighbour, how many trips to the worker a start and a stop are, and when
 * the worker polls rather than sleeps.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/virtio_blk.h>

#include "test_util.h"

#include <rte_cycles.h>
#include <rte_lcore.h>

#include "../../drivers/vdpa/sim/sim.h"
#include "ring_driver.h"
#include "vdpa_frontend.h"
#include "work_poller.h"

#define QUEUES_MAX 16
#define NUM	   512
#define RING_SPACE 0x10000
#define BUFS	   (RING_MEM_IOVA + QUEUES_MAX * RING_SPACE)

/* The largest request: 31.5 MiB in the most segments. */
#define SEGS	 126
#define SEG_SIZE (256u << 10)
#define REQUEST	 ((uint64_t)SEGS * SEG_SIZE)
#define REQUESTS 4

/* A device under test: the front end and the driver of as many rings as a test wants. */
struct guest {
	struct vdpa_device *vdev;
	struct ring_mem mem;
	struct ring_driver ring[QUEUES_MAX];
	struct vdpa_vq_config vqs[QUEUES_MAX];
	struct vdpa_start_config start;
};

static bool
guest_open(struct guest *g, const char *words, uint64_t features, uint16_t nvqs, uint64_t mem_size)
{
	char line[512];

	memset(g, 0, sizeof(*g));
	snprintf(line, sizeof(line), "name g0 mgmtdev %s", words);
	if (vdpa_dev_add(line) < 0) {
		if (strstr(vdpa_error_message(), "io_uring") == NULL)
			fail_msg("dev add: %s", vdpa_error_message());
		print_message("SKIPPED %s\n", vdpa_error_message());
		return false;
	}
	g->vdev = vdpa_find_device("g0");
	assert_int_equal(ring_mem_init(&g->mem, &mem_size, 1), 0);
	g->start = (struct vdpa_start_config){.features = features | SIM_BIT(SIM_F_VERSION_1),
					      .iotlb = g->mem.tlb,
					      .vqs = g->vqs,
					      .nvqs = nvqs};
	for (uint16_t i = 0; i < nvqs; i++) {
		struct ring_driver *r = &g->ring[i];

		assert_int_equal(ring_driver_init(r, &g->mem, g->start.features, NUM,
						  RING_MEM_IOVA + (uint64_t)i * RING_SPACE),
				 0);
		g->vqs[i] = (struct vdpa_vq_config){.ready = true,
						    .enabled = true,
						    .num = NUM,
						    .desc = r->desc,
						    .driver = r->drv,
						    .device = r->dev,
						    .kick_fd = eventfd(0, EFD_NONBLOCK),
						    .call_fd = eventfd(0, EFD_NONBLOCK)};
	}
	return true;
}

static void
guest_close(struct guest *g)
{
	vdpa_put_device(g->vdev);
	assert_int_equal(vdpa_dev_del("g0"), 0);
	for (uint16_t i = 0; i < g->start.nvqs; i++) {
		close(g->vqs[i].kick_fd);
		close(g->vqs[i].call_fd);
		ring_driver_fini(&g->ring[i]);
	}
	ring_mem_fini(&g->mem);
}

/* Trips to the worker: the tasks it ran. */
static uint64_t
trips(const struct guest *g)
{
	struct vdpa_event_loop_stats s;

	vdpa_event_loop_stats(sim_loop(sim_dev(g->vdev)), &s);
	return s.tasks;
}

static void
count_trips(const char *words, uint16_t nvqs)
{
	struct vdpa_mem_region_spec more = {
		.iova = UINT64_C(1) << 40, .uaddr = UINT64_C(1) << 40, .size = 4096};
	struct vdpa_vq_state state;
	struct vdpa_iotlb *tlb;
	struct guest g;
	uint64_t before;

	assert_true(guest_open(&g, words, 0, nvqs, 4u << 20));
	for (unsigned int round = 0; round < 3; round++) {
		before = trips(&g);
		assert_int_equal(vdpa_device_start(g.vdev, &g.start), 0);
		assert_int_equal(trips(&g) - before, 1);
		before = trips(&g);
		assert_int_equal(vdpa_device_stop(g.vdev), 0);
		assert_int_equal(trips(&g) - before, 1);
	}
	/* Ring by ring, as GET_VRING_BASE does: one each, and the reset. */
	assert_int_equal(vdpa_device_start(g.vdev, &g.start), 0);
	before = trips(&g);
	for (uint16_t i = 0; i < nvqs; i++)
		assert_int_equal(vdpa_device_stop_vq(g.vdev, i, &state), 0);
	assert_int_equal(vdpa_device_stop(g.vdev), 0);
	assert_int_equal(trips(&g) - before, nvqs + 1);
	/* A late queue, and the eventfds and the memory of those that run. */
	g.vqs[nvqs - 1].ready = false;
	assert_int_equal(vdpa_device_start(g.vdev, &g.start), 0);
	g.vqs[nvqs - 1].ready = true;
	before = trips(&g);
	assert_int_equal(vdpa_device_start_vq(g.vdev, nvqs - 1, &g.vqs[nvqs - 1]), 0);
	assert_int_equal(trips(&g) - before, 1);
	assert_int_equal(vdpa_device_set_vq_call(g.vdev, 0, g.vqs[0].call_fd), 0);
	assert_int_equal(trips(&g) - before, 2);
	/* The same memory again is none. */
	assert_int_equal(vdpa_device_set_memory(g.vdev, g.mem.tlb), 0);
	assert_int_equal(trips(&g) - before, 2);
	more.fd = memfd_create("more", MFD_CLOEXEC);
	assert_int_equal(ftruncate(more.fd, 4096), 0);
	assert_int_equal(vdpa_iotlb_add(g.mem.tlb, &more, &tlb), 0);
	assert_int_equal(vdpa_device_set_memory(g.vdev, tlb), 0);
	assert_int_equal(trips(&g) - before, 3);
	vdpa_iotlb_put(tlb);
	close(more.fd);
	/* A suspension, with the states of all queues. */
	before = trips(&g);
	assert_int_equal(vdpa_suspend(g.vdev), 0);
	for (uint16_t i = 0; i < nvqs; i++)
		assert_int_equal(g.vdev->config->get_vq_state(g.vdev, i, &state), 0);
	assert_int_equal(trips(&g) - before, 1);
	guest_close(&g);
}

static void
a_start_and_a_stop_are_one_trip_each(void **state)
{
	count_trips("sim_blk backend ram 1M", 1);
	count_trips("sim_blk backend ram 1M queues 16", 16);
	count_trips("sim_net max_vqp 8", 16);
}

/*
 * The neighbour: a device of the same worker that always wants its turn. In each it looks how much
 * has come into the guest's memory since its last one.
 */
struct watch {
	struct guest *g;
	unsigned int requests;	 /* that are expected */
	uint64_t seen[REQUESTS]; /* bytes of each at its last turn */
	uint64_t arrived;	 /* atomic: their sum */
	uint64_t charged;
	uint64_t longest, longest_charge; /* between two turns */
	uint64_t turns;
};

static struct watch watch;

/* Where the data of a request goes; in front of the first are headers, 64 bytes each. */
static uint64_t
data_of(unsigned int request)
{
	return BUFS + RING_SPACE + request * REQUEST;
}

/* Segments of a request come one after another, and each changes its first byte. */
static uint64_t
look(struct watch *w)
{
	uint64_t sum = 0;

	for (unsigned int r = 0; r < w->requests; r++) {
		const volatile uint8_t *p = ring_mem_va(&w->g->mem, data_of(r));

		while (w->seen[r] < REQUEST && p[w->seen[r]] == 0)
			w->seen[r] += SEG_SIZE;
		sum += w->seen[r];
	}
	return sum;
}

static int
watch_init(struct sim_device *dev, const struct vdpa_args *args, struct vdpa_worker **worker)
{
	dev->nvqs = 1;
	dev->device_features = SIM_RING_FEATURES;
	return 0;
}

static void
watch_fini(struct sim_device *dev)
{
}

static unsigned int
watch_process(struct sim_queue *q, unsigned int budget)
{
	return 0;
}

static unsigned int
watch_poll(struct sim_device *dev, unsigned int budget)
{
	uint64_t arrived = look(&watch), charged;

	charged = __atomic_load_n(&sim_dev(watch.g->vdev)->lanes[0].turn.charged, __ATOMIC_RELAXED);
	if (charged != watch.charged)
		watch.turns++;
	watch.longest = RTE_MAX(watch.longest, arrived - watch.arrived);
	watch.longest_charge = RTE_MAX(watch.longest_charge, charged - watch.charged);
	watch.charged = charged;
	__atomic_store_n(&watch.arrived, arrived, __ATOMIC_RELEASE);
	return 1;
}

static const struct sim_class watch_class = {
	.name = "watch",
	.device_id = 2,
	.config_size = 8,
	.max_vqs = 1,
	.init = watch_init,
	.fini = watch_fini,
	.process = watch_process,
	.poll = watch_poll,
};

static struct sim_device *
watch_start(struct guest *g, unsigned int requests)
{
	static const struct vdpa_args no_words;
	struct vdpa_start_config start = {.features = SIM_BIT(SIM_F_VERSION_1)};
	struct sim_device *dev;

	watch = (struct watch){.g = g, .requests = requests};
	watch.charged = sim_dev(g->vdev)->lanes[0].turn.charged;
	assert_int_equal(sim_device_create(&watch_class, NULL, "watch0", &no_words, &dev), 0);
	assert_int_equal(vdpa_register_device(&dev->vdev), 0);
	assert_int_equal(vdpa_device_start(&dev->vdev, &start), 0);
	return dev;
}

static void
watch_stop(struct sim_device *dev)
{
	vdpa_unregister_device(&dev->vdev);
	vdpa_put_device(&dev->vdev);
}

static void
post_read(struct guest *g, uint16_t q, unsigned int request)
{
	const struct virtio_blk_outhdr hdr = {.type = VIRTIO_BLK_T_IN};
	struct ring_buf bufs[SEGS + 2] = {{.iova = BUFS + 64 * request, .len = sizeof(hdr)}};

	memcpy(ring_mem_va(&g->mem, bufs[0].iova), &hdr, sizeof(hdr));
	for (unsigned int i = 0; i < SEGS; i++)
		bufs[i + 1] = (struct ring_buf){data_of(request) + i * SEG_SIZE, SEG_SIZE, true};
	bufs[SEGS + 1] = (struct ring_buf){bufs[0].iova + 32, 1, true};
	*(uint8_t *)ring_mem_va(&g->mem, bufs[SEGS + 1].iova) = 0xee;
	assert_true(ring_driver_post(&g->ring[q], bufs, SEGS + 2) >= 0);
}

static unsigned int
take(struct guest *g)
{
	unsigned int n = 0;
	uint32_t len;
	uint16_t id;

	for (uint16_t q = 0; q < g->start.nvqs; q++)
		while (ring_driver_poll(&g->ring[q], &id, &len)) {
			assert_int_equal(len, REQUEST + 1);
			n++;
		}
	return n;
}

static void
check_data(struct guest *g, unsigned int requests)
{
	for (unsigned int r = 0; r < requests; r++) {
		const uint8_t *p = ring_mem_va(&g->mem, data_of(r));

		assert_int_equal(*(uint8_t *)ring_mem_va(&g->mem, BUFS + 64 * r + 32), 0);
		for (uint64_t i = 0; i < REQUEST; i += 512)
			assert_int_equal(p[i], 0);
	}
}

/* A disk of zeroes, in the page cache. */
static void
make_image(char path[32])
{
	static const uint8_t zeroes[SEG_SIZE];
	int fd;

	strcpy(path, "/var/tmp/test_sim_worker.XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	for (unsigned int i = 0; i < SEGS; i++)
		assert_int_equal(write(fd, zeroes, sizeof(zeroes)), sizeof(zeroes));
	close(fd);
}

/* Requests of all queues, to be begun together. */
static bool
reads_begin(struct guest *g, const char *backend, uint16_t nvqs)
{
	char words[256];

	snprintf(words, sizeof(words), "sim_blk backend %s queues %u", backend, nvqs);
	if (!guest_open(g, words, 0, nvqs, data_of(REQUESTS) - RING_MEM_IOVA))
		return false;
	memset(ring_mem_va(&g->mem, BUFS), 0xee, data_of(REQUESTS) - BUFS);
	for (unsigned int r = 0; r < REQUESTS; r++)
		post_read(g, (uint16_t)(r % nvqs), r);
	return true;
}

static void
reads_in_turns(const char *backend, uint16_t nvqs)
{
	unsigned int done = 0;
	struct sim_device *dev;
	struct guest g;

	if (!reads_begin(&g, backend, nvqs))
		return;
	dev = watch_start(&g, REQUESTS);
	assert_int_equal(vdpa_device_start(g.vdev, &g.start), 0);
	EVENTUALLY((done += take(&g)) == REQUESTS);
	check_data(&g, REQUESTS);
	watch_stop(dev);
	assert_in_range(watch.longest, 1, SIM_TURN_BYTES + SIM_PIECE);
	assert_in_range(watch.longest_charge, 1, SIM_TURN_BYTES + SIM_PIECE);
	assert_true(watch.turns >= REQUESTS * REQUEST / (SIM_TURN_BYTES + SIM_PIECE));
	assert_int_equal(watch.charged, REQUESTS * REQUEST);
	guest_close(&g);
}

static void
the_largest_reads_leave_the_neighbour_its_turns(void **state)
{
	char path[32], backend[64];

	make_image(path);
	snprintf(backend, sizeof(backend), "file %s", path);
	reads_in_turns(backend, 1);
	reads_in_turns(backend, REQUESTS);
	reads_in_turns("ram 32M", 1);
	reads_in_turns("ram 32M", REQUESTS);
	unlink(path);
}

/* A stop waits for what was taken, which goes on in turns; what was not taken is still there. */
static void
stop_amid_reads(const char *backend)
{
	struct vdpa_vq_state state;
	unsigned int done;
	struct sim_device *dev;
	struct guest g;

	if (!reads_begin(&g, backend, 1))
		return;
	dev = watch_start(&g, REQUESTS);
	assert_int_equal(vdpa_device_start(g.vdev, &g.start), 0);
	while (__atomic_load_n(&watch.arrived, __ATOMIC_ACQUIRE) == 0)
		;
	assert_int_equal(vdpa_device_stop_vq(g.vdev, 0, &state), 0);
	done = take(&g);
	assert_int_equal(state.split.avail_index, done);
	check_data(&g, done);
	g.vqs[0].state = state;
	assert_int_equal(vdpa_device_start_vq(g.vdev, 0, &g.vqs[0]), 0);
	EVENTUALLY((done += take(&g)) == REQUESTS);
	check_data(&g, REQUESTS);
	watch_stop(dev);
	assert_in_range(watch.longest, 1, SIM_TURN_BYTES + SIM_PIECE);
	guest_close(&g);
}

static void
a_stop_amid_large_reads_keeps_the_turns_and_loses_nothing(void **state)
{
	char path[32], backend[64];

	make_image(path);
	snprintf(backend, sizeof(backend), "file %s", path);
	stop_amid_reads(backend);
	stop_amid_reads("ram 32M");
	unlink(path);
}

/* Sixteen ranges of the largest size, of a disk in memory. */
static void
discards_and_zeroes_leave_the_neighbour_its_turns(void **state)
{
	const uint64_t features =
		SIM_BIT(VIRTIO_BLK_F_DISCARD) | SIM_BIT(VIRTIO_BLK_F_WRITE_ZEROES);
	const uint32_t sectors = (16u << 20) / 512;
	struct ring_buf bufs[3] = {{BUFS, 16, false}, {BUFS + 64, 0, false}, {BUFS + 32, 1, true}};
	struct virtio_blk_discard_write_zeroes *r;
	struct virtio_blk_outhdr *hdr;
	struct sim_device *dev;
	unsigned int done = 0;
	struct guest g;
	uint32_t len;
	uint16_t id;

	assert_true(guest_open(&g, "sim_blk backend ram 256M", features, 1, 4u << 20));
	dev = watch_start(&g, 0);
	hdr = ring_mem_va(&g.mem, BUFS);
	r = ring_mem_va(&g.mem, BUFS + 64);
	assert_int_equal(vdpa_device_start(g.vdev, &g.start), 0);
	for (unsigned int zeroes = 0; zeroes < 2; zeroes++) {
		unsigned int n = zeroes ? 1 : 16;

		*hdr = (struct virtio_blk_outhdr){.type = zeroes ? VIRTIO_BLK_T_WRITE_ZEROES
								 : VIRTIO_BLK_T_DISCARD};
		for (unsigned int i = 0; i < n; i++)
			r[i] = (struct virtio_blk_discard_write_zeroes){
				.sector = (uint64_t)i * sectors, .num_sectors = sectors};
		bufs[1].len = (uint32_t)(n * sizeof(*r));
		assert_true(ring_driver_post(&g.ring[0], bufs, 3) >= 0);
		eventfd_write(g.vqs[0].kick_fd, 1);
		EVENTUALLY((done += ring_driver_poll(&g.ring[0], &id, &len)) == zeroes + 1);
		assert_int_equal(*(uint8_t *)ring_mem_va(&g.mem, BUFS + 32), 0);
	}
	/* The worker charges the last piece when it has given the request back. */
	EVENTUALLY(__atomic_load_n(&watch.charged, __ATOMIC_SEQ_CST) == 17 * (16u << 20));
	watch_stop(dev);
	assert_in_range(watch.longest_charge, 1, SIM_TURN_BYTES + SIM_PIECE);
	guest_close(&g);
}

/* Frames as long as can be, over several pairs. */
static void
long_frames_leave_the_neighbour_its_turns(void **state)
{
	const uint32_t size = 65536 - 16;
	const unsigned int pairs = 4, frames = 32;
	unsigned int done = 0;
	struct sim_device *dev;
	struct guest g;
	uint32_t len;
	uint16_t id;

	assert_true(guest_open(&g, "sim_net max_vqp 4", 0, 8, 64u << 20));
	for (unsigned int i = 0; i < pairs * frames; i++) {
		unsigned int pair = i % pairs;
		struct ring_buf b = {BUFS + (uint64_t)i * 2 * 65536, 65536, true};

		assert_true(ring_driver_post(&g.ring[2 * pair], &b, 1) >= 0);
		b = (struct ring_buf){b.iova + 65536, size, false};
		assert_true(ring_driver_post(&g.ring[2 * pair + 1], &b, 1) >= 0);
	}
	dev = watch_start(&g, 0);
	assert_int_equal(vdpa_device_start(g.vdev, &g.start), 0);
	for (unsigned int pair = 0; pair < pairs; pair++)
		EVENTUALLY((done += ring_driver_poll(&g.ring[2 * pair], &id, &len)) ==
			   (pair + 1) * frames);
	watch_stop(dev);
	assert_int_equal(watch.charged, (uint64_t)pairs * frames * size);
	assert_in_range(watch.longest_charge, 1, SIM_TURN_BYTES + 65536);
	guest_close(&g);
}

/*
 * In place of EAL's, which is not initialised here: 0 as there, so that nothing polls or ends a
 * turn by time, but where a test measures it.
 */
static uint64_t tsc_hz;

uint64_t
rte_get_tsc_hz(void)
{
	return tsc_hz;
}

static void
measure_tsc(void)
{
	struct timespec from, to;
	uint64_t cycles, ns;

	clock_gettime(CLOCK_MONOTONIC, &from);
	cycles = rte_rdtsc();
	usleep(20000);
	cycles = rte_rdtsc() - cycles;
	clock_gettime(CLOCK_MONOTONIC, &to);
	ns = (uint64_t)(to.tv_sec - from.tv_sec) * 1000000000 + (uint64_t)to.tv_nsec -
	     (uint64_t)from.tv_nsec;
	tsc_hz = cycles * 1000 / (ns / 1000000);
}

/* A loop with a poller of `w`. */
static struct vdpa_event_loop *
work_loop(struct work *w, unsigned int poll_us)
{
	const struct vdpa_event_loop_params params = {
		.name = "test-work", .lcore_id = LCORE_ID_ANY, .poll_us = poll_us};
	struct vdpa_event_loop *loop;

	measure_tsc();
	assert_int_equal(vdpa_event_loop_create(&params, &loop), 0);
	tsc_hz = 0;
	memset(w, 0, sizeof(*w));
	w->poller = (struct vdpa_poller){.poll = work_poll, .sleep = work_sleep, .arg = w};
	w->kick = (struct vdpa_event){
		.fd = eventfd(0, EFD_NONBLOCK), .events = EPOLLIN, .handler = work_kick, .arg = w};
	assert_int_equal(vdpa_event_add(loop, &w->kick), 0);
	assert_int_equal(vdpa_poller_add(loop, &w->poller), 0);
	return loop;
}

static void
work_end(struct vdpa_event_loop *loop, struct work *w)
{
	vdpa_poller_del(&w->poller);
	vdpa_event_del(&w->kick);
	close(w->kick.fd);
	vdpa_event_loop_destroy(loop);
}

static void
produce_after(struct work *w, unsigned int us)
{
	usleep(us);
	INC(w->produced);
	if (LOAD(w->armed) != 0)
		eventfd_write(w->kick.fd, 1);
	while (LOAD(w->consumed) != w->produced)
		;
}

static void
a_loop_polls_where_it_catches_work_only(void **state)
{
	struct work w;
	struct vdpa_event_loop *loop = work_loop(&w, 20000);
	unsigned int polls, sleeps, in_a_row = 0;

	/* Far apart: polling ends. Each piece of work costs a poll that finds it and one that does
	 * not; polling for 20 ms would be thousands. */
	for (unsigned int i = 0; i < 6; i++)
		produce_after(&w, 40000);
	polls = LOAD(w.polls);
	for (unsigned int i = 0; i < 10; i++)
		produce_after(&w, 40000);
	assert_in_range(LOAD(w.polls) - polls, 10, 500);
	/* Close together: the loop ceases to sleep. */
	for (unsigned int i = 0; i < 5000 && in_a_row < 50; i++) {
		sleeps = LOAD(w.sleeps);
		produce_after(&w, 500);
		in_a_row = LOAD(w.sleeps) == sleeps ? in_a_row + 1 : 0;
	}
	assert_int_equal(in_a_row, 50);
	work_end(loop, &w);
}

static uint64_t
yields(struct vdpa_event_loop *loop)
{
	struct vdpa_event_loop_stats s;

	vdpa_event_loop_stats(loop, &s);
	return s.yields;
}

static void
a_loop_gives_way_where_nobody_else_waits(void **state)
{
	struct work w, other;
	struct vdpa_event_loop *loop = work_loop(&w, 60000000);

	memset(&other, 0, sizeof(other));
	other.poller = (struct vdpa_poller){.poll = work_poll, .sleep = work_sleep, .arg = &other};
	EVENTUALLY(LOAD(w.polls) > 100);
	assert_int_equal(yields(loop), 0);
	assert_int_equal(vdpa_poller_add(loop, &other.poller), 0);
	w.poller.gives_way = true;
	EVENTUALLY(LOAD(other.polls) > 100);
	assert_int_equal(yields(loop), 0);
	vdpa_poller_del(&other.poller);
	EVENTUALLY(yields(loop) > 100);
	work_end(loop, &w);
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
		cmocka_unit_test(a_start_and_a_stop_are_one_trip_each),
		cmocka_unit_test(the_largest_reads_leave_the_neighbour_its_turns),
		cmocka_unit_test(a_stop_amid_large_reads_keeps_the_turns_and_loses_nothing),
		cmocka_unit_test(discards_and_zeroes_leave_the_neighbour_its_turns),
		cmocka_unit_test(long_frames_leave_the_neighbour_its_turns),
		cmocka_unit_test(a_loop_polls_where_it_catches_work_only),
		cmocka_unit_test(a_loop_gives_way_where_nobody_else_waits),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
