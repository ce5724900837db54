/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * test-vdpa bench. One thread is the driver of all queues; nothing of what comes back is checked,
 * that is what conformance is for. Every figure is counted or timed, with its unit.
 */

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <rte_byteorder.h>

#include <vdpa.h>

#include "bench.h"
#include "report.h"
#include "traffic.h"

#define NET_SIZE    64u
#define BLOCK_SIZE  4096u
#define SECTOR	    512u
/* Alignment of a request's data, as a guest's page cache has it. */
#define PAGE	    4096u
#define NET_HEADER  sizeof(struct virtio_net_hdr_mrg_rxbuf)
#define SAMPLES_MAX 1000000u
#define CYCLES	    50u
#define LIFE_MEMORY (UINT64_C(64) << 20)
#define SWAPS	    1000u
#define TAKE_BURST  64u
/* An answer that takes longer is none. */
#define ANSWER_MS   2000
/* A device of which nothing comes for so long is asked whether it has failed. */
#define SILENCE_NS  100000000ull

struct bench {
	struct target *t;
	const struct cli_options *o;
	struct session s;
	bool net, echoes;
	bool timed; /* how long each unit takes is sampled */
	uint32_t size;
	unsigned int depth;
	uint16_t nlanes;
	uint64_t disk_places; /* units on the disk */
	uint64_t seq;
	uint64_t seen, seen_ns; /* units that had come back, and until when all was well */
	uint64_t *samples;	/* ns */
	unsigned int n;
	json_t *json;
	FILE *out;
};

static struct queue *
tx_queue(struct bench *b, uint16_t lane)
{
	return &b->s.q[b->net ? 2 * lane + 1 : lane];
}

static int
post_rx(struct bench *b, struct queue *q, uint32_t slot)
{
	const struct ring_buf buf = {.iova = slot_iova(&b->s, q, slot) + SLOT_DATA - NET_HEADER,
				     .len = (uint32_t)(NET_HEADER + b->s.room),
				     .write = true};
	int id = ring_driver_post(&q->ring, &buf, 1);

	if (id >= 0)
		q->slot_of[id] = slot;
	return id;
}

static int
post_frame(struct bench *b, struct queue *q, uint32_t slot)
{
	const struct ring_buf buf = {.iova = slot_iova(&b->s, q, slot) + SLOT_DATA - NET_HEADER,
				     .len = (uint32_t)NET_HEADER + b->size};

	return ring_driver_post(&q->ring, &buf, 1);
}

static int
post_request(struct bench *b, struct queue *q, uint32_t slot)
{
	const uint64_t iova = slot_iova(&b->s, q, slot);
	const struct ring_buf bufs[] = {
		{.iova = iova + SLOT_HEADER, .len = sizeof(struct virtio_blk_outhdr)},
		{.iova = (iova + SLOT_DATA + PAGE - 1) & ~(uint64_t)(PAGE - 1),
		 .len = b->size,
		 .write = !b->o->write},
		{.iova = iova + SLOT_STATUS, .len = 1, .write = true},
	};
	struct virtio_blk_outhdr *hdr = (void *)(slot_va(&b->s, q, slot) + SLOT_HEADER);

	hdr->type = rte_cpu_to_le_32(b->o->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN);
	/* Spread over the disk, the same in every run: a step that is odd meets every place. */
	hdr->sector = rte_cpu_to_le_64(b->seq++ * 7919 % b->disk_places * (b->size / SECTOR));
	return ring_driver_post(&q->ring, bufs, 3);
}

static int
post_unit(struct bench *b, struct queue *q, uint32_t slot)
{
	int id = b->net ? post_frame(b, q, slot) : post_request(b, q, slot);

	if (id >= 0)
		q->slot_of[id] = slot;
	return id;
}

/* Frames lie ready in every slot: only their descriptors are made again. */
static void
fill_slots(struct bench *b)
{
	static const uint8_t head[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02,
				       'v',  'd',  'p',	 'a',  0,    0x88, 0xb5};

	for (uint16_t lane = 0; lane < b->nlanes; lane++) {
		struct queue *q = tx_queue(b, lane);

		for (uint32_t slot = 0; slot < q->nslots; slot++) {
			uint8_t *va = slot_va(&b->s, q, slot);

			memset(va, 0, b->s.slot_size);
			memcpy(va + SLOT_DATA, head, sizeof(head));
		}
		if (b->net)
			for (uint32_t slot = 0; slot < b->s.q[2 * lane].nslots; slot++)
				post_rx(b, &b->s.q[2 * lane], slot);
	}
}

/* Guest memory of one_region bytes, see struct session_params; nothing is started. */
static int
init(struct bench *b, unsigned int flags, uint64_t one_region)
{
	const struct session_params params = {
		.flags = flags | SESSION_MQ | (b->o->packed ? SESSION_PACKED : 0),
		.n = (uint16_t)(b->net ? 2 * b->nlanes : b->nlanes),
		.slots = b->depth > 256	 ? 256
			 : b->depth < 64 ? 64
					 : b->depth,
		.room = b->size < 2048 ? 2048 : b->size + (b->net ? 0 : PAGE),
		.one_region = one_region,
	};

	return session_init(&b->s, b->t, &params);
}

static int
start(struct bench *b, unsigned int flags)
{
	int rc = init(b, flags, 0);

	if (rc == 0)
		rc = session_start(&b->s);
	if (rc == 0)
		fill_slots(b);
	return rc;
}

/*
 * The end of a session. rc: 0, or what went wrong. Figures of a device that failed meanwhile, or
 * does not stop, are none: then this is an error, with the device's cause in place of another.
 */
static int
finish(struct bench *b, int rc)
{
	char text[512];
	int alive = 0, stopped;

	snprintf(text, sizeof(text), "%s", rc < 0 ? vdpa_error_message() : "");
	if (b->s.started && rc != -EOPNOTSUPP)
		alive = target_check_alive(b->t);
	if (alive < 0)
		snprintf(text, sizeof(text), "%s", vdpa_error_message());
	stopped = session_fini(&b->s);
	if (alive < 0) {
		rc = alive;
	} else if (rc == 0 && stopped < 0) {
		rc = stopped;
		snprintf(text, sizeof(text), "the device does not stop: %s", vdpa_error_message());
	}
	return rc < 0 ? vdpa_error(rc, "%s", text) : 0;
}

static int
broken_ring(const struct queue *q)
{
	return vdpa_error(EPROTO, "queue %u: %s", q->idx, ring_driver_bad(&q->ring));
}

static void
sample(struct bench *b, uint64_t ns)
{
	if (b->n < SAMPLES_MAX)
		b->samples[b->n++] = ns;
}

/* Units that came back on a queue; each slot is posted again at once (rx) or given back. */
static int
take(struct bench *b, struct queue *q, bool rx)
{
	unsigned int n = 0;
	uint32_t len;
	uint16_t id;
	int rc;

	while (n < TAKE_BURST && (rc = ring_driver_take(&q->ring, &id, &len)) != 0) {
		if (rc < 0)
			return broken_ring(q);
		n++;
		if (rx) {
			post_rx(b, q, q->slot_of[id]);
			continue;
		}
		if (!b->net && slot_va(&b->s, q, q->slot_of[id])[SLOT_STATUS] != VIRTIO_BLK_S_OK)
			return vdpa_error(EIO, "queue %u: a request was answered with status %u",
					  q->idx, slot_va(&b->s, q, q->slot_of[id])[SLOT_STATUS]);
		if (b->timed)
			sample(b, now_ns() - q->tag[q->slot_of[id]]);
		q->free[q->nfree++] = q->slot_of[id];
	}
	return (int)n;
}

static int
one_round(struct bench *b, uint64_t *done, uint64_t *returned, bool more)
{
	for (uint16_t lane = 0; lane < b->nlanes; lane++) {
		struct queue *q = tx_queue(b, lane);
		int n = take(b, q, false);

		if (n < 0)
			return n;
		*done += (unsigned int)n;
		while (more && q->nfree > q->nslots - b->depth) {
			if (post_unit(b, q, q->free[q->nfree - 1]) < 0)
				break;
			q->nfree--;
		}
		queue_kick(q);
		if (!b->net)
			continue;
		n = take(b, &b->s.q[2 * lane], true);
		if (n < 0)
			return n;
		*returned += (unsigned int)n;
		queue_kick(&b->s.q[2 * lane]);
	}
	return 0;
}

static void
put(struct bench *b, const char *name, double value, const char *unit)
{
	json_object_set_new(b->json, name, json_pack("{s:f, s:s}", "value", value, "unit", unit));
}

/*
 * Where nothing comes back any more of what is under way, the device is asked whether it has
 * failed: the measurement need not go on. One that is idle is left alone, as that may be what is
 * measured.
 */
static int
look_for_failure(struct bench *b, uint64_t done)
{
	uint64_t now = now_ns();
	bool idle = true;

	for (uint16_t lane = 0; lane < b->nlanes; lane++)
		idle = idle && tx_queue(b, lane)->nfree == tx_queue(b, lane)->nslots;
	if (idle || done != b->seen) {
		b->seen = done;
		b->seen_ns = now;
	}
	if (now - b->seen_ns < SILENCE_NS)
		return 0;
	b->seen_ns = now;
	return target_check_alive(b->t);
}

static int
throughput(struct bench *b)
{
	uint64_t done = 0, returned = 0, from, end;
	double seconds;
	int rc = start(b, 0);

	/* The rings are looked at all the time. */
	if (rc == 0)
		for (uint16_t i = 0; i < b->s.nq; i++)
			if (b->s.q[i].running)
				ring_driver_no_calls(&b->s.q[i].ring);
	from = now_ns();
	end = from + (uint64_t)b->o->duration_ms * 1000000;
	b->seen = 0;
	b->seen_ns = from;
	while (rc == 0 && now_ns() < end) {
		for (unsigned int i = 0; rc == 0 && i < 16; i++)
			rc = one_round(b, &done, &returned, true);
		if (rc == 0)
			rc = look_for_failure(b, done);
	}
	seconds = (double)(now_ns() - from) / 1e9;
	rc = finish(b, rc);
	if (rc < 0)
		return rc;
	if (done == 0)
		return vdpa_error(EIO, "the device used no buffer in %.1f s", seconds);
	if (b->net) {
		put(b, "sent", (double)done / seconds / 1e6, "Mpps");
		put(b, "returned", (double)returned / seconds / 1e6, "Mpps");
		fprintf(b->out,
			"sent            %10.3f Mpps   frames of %u bytes\n"
			"returned        %10.3f Mpps\n",
			(double)done / seconds / 1e6, b->size, (double)returned / seconds / 1e6);
	} else {
		put(b, b->o->write ? "writes" : "reads", (double)done / seconds / 1e3, "kIOPS");
		fprintf(b->out, "%-15s %10.3f kIOPS  of %u bytes, %.1f MB/s\n",
			b->o->write ? "writes" : "reads", (double)done / seconds / 1e3, b->size,
			(double)done / seconds * b->size / 1e6);
	}
	return 0;
}

static int
compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The samples as percentiles in microseconds. */
static void
percentiles(struct bench *b, const char *name, const char *about)
{
	static const struct {
		const char *name;
		double at;
	} points[] = {{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}};
	json_t *entry = json_pack("{s:s, s:i}", "unit", "us", "samples", (int)b->n);

	qsort(b->samples, b->n, sizeof(b->samples[0]), compare_u64);
	fprintf(b->out, "%-15s", name);
	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		unsigned int at = (unsigned int)((double)(b->n - 1) * points[i].at);
		double us = (double)b->samples[at] / 1000;

		fprintf(b->out, " %s %.1f", points[i].name, us);
		json_object_set_new(entry, points[i].name, json_real(us));
	}
	fprintf(b->out, " us (%u samples), %s\n", b->n, about);
	json_object_set_new(b->json, name, entry);
}

/* One unit at a time: from the kick to the interrupt. */
static int
kick_to_call(struct bench *b, bool doorbell)
{
	struct queue *q;
	uint64_t done = 0, returned = 0, end;
	uint16_t nlanes = b->nlanes;
	int rc;

	b->nlanes = 1;
	b->n = 0;
	rc = start(b, 0);
	if (rc < 0)
		goto out;
	q = tx_queue(b, 0);
	if (doorbell)
		rc = session_use_doorbell(&b->s, q->idx);
	if (rc == 0 && b->net) {
		ring_driver_no_calls(&b->s.q[0].ring);
		queue_kick(&b->s.q[0]);
	}
	end = now_ns() + (uint64_t)b->o->duration_ms * 1000000;
	while (rc == 0 && now_ns() < end) {
		struct pollfd pfd = {.fd = q->call_fd, .events = POLLIN};
		uint32_t slot = q->free[q->nfree - 1];
		uint64_t from;

		queue_take_calls(q);
		if (post_unit(b, q, slot) < 0) {
			rc = vdpa_error(EIO, "queue %u: no room in an empty ring", q->idx);
			break;
		}
		q->nfree--;
		from = now_ns();
		queue_kick_always(q);
		if (poll(&pfd, 1, ANSWER_MS) <= 0) {
			rc = vdpa_error(ETIMEDOUT, "queue %u: no interrupt within %d ms of a kick",
					q->idx, ANSWER_MS);
			break;
		}
		sample(b, now_ns() - from);
		/* The next one meets a device that sleeps, as a guest's mostly does. */
		rc = one_round(b, &done, &returned, false);
	}
out:
	rc = finish(b, rc);
	b->nlanes = nlanes;
	if (rc == 0)
		percentiles(b, doorbell ? "kick_doorbell" : "kick_relay",
			    doorbell ? "from the doorbell write to the interrupt"
				     : "from the kick eventfd to the interrupt");
	return rc;
}

/* A unit, unless as many as the depth allows are under way: then it is left out. */
static void
post_timed(struct bench *b, struct queue *q)
{
	uint32_t slot;

	if (q->nfree <= q->nslots - b->depth)
		return;
	slot = q->free[q->nfree - 1];
	if (post_unit(b, q, slot) < 0)
		return;
	q->nfree--;
	q->tag[slot] = now_ns();
}

/* Units at a rate. The rings are looked at all the time, and ask for interrupts all the same. */
static int
paced(struct bench *b)
{
	uint64_t done = 0, returned = 0, units = 0, from, ns = 0;
	const uint64_t length = (uint64_t)b->o->duration_ms * 1000000;
	int rc;

	b->nlanes = 1;
	b->n = 0;
	b->timed = true;
	rc = start(b, 0);
	b->seen = 0;
	for (from = b->seen_ns = now_ns(); rc == 0 && ns < length; ns = now_ns() - from) {
		if (ns >= units * 1000000000 / RTE_MAX(b->o->rate, 1u) && b->o->rate != 0) {
			post_timed(b, tx_queue(b, 0));
			units++;
		}
		rc = one_round(b, &done, &returned, false);
		if (rc == 0)
			rc = look_for_failure(b, done);
	}
	rc = finish(b, rc);
	b->timed = false;
	if (rc < 0)
		return rc;
	put(b, "rate", (double)done * 1e9 / (double)ns, "1/s");
	fprintf(b->out, "rate            %10.0f a second\n", (double)done * 1e9 / (double)ns);
	if (b->n > 0)
		percentiles(b, "took", "from the kick until it was seen");
	return 0;
}

static int
start_and_stop(struct bench *b)
{
	uint64_t stops[CYCLES];
	int rc = init(b, 0, LIFE_MEMORY);

	/* A guest keeps its memory when it boots again or loads its driver anew. */
	b->n = 0;
	for (unsigned int i = 0; rc == 0 && i < CYCLES; i++) {
		rc = session_start(&b->s);
		if (rc == 0) {
			sample(b, b->s.start_ns);
			rc = target_check_alive(b->t);
		}
		if (rc == 0) {
			rc = session_stop(&b->s);
			stops[i] = b->s.stop_ns;
		}
	}
	rc = finish(b, rc);
	if (rc < 0)
		return rc;
	percentiles(b, "start", "status 0 to DRIVER_OK");
	memcpy(b->samples, stops, sizeof(stops));
	percentiles(b, "stop", "DRIVER_OK to status 0");
	return 0;
}

static int
swap_calls(struct bench *b)
{
	int rc = start(b, 0), fds[2] = {-1, -1};

	b->n = 0;
	for (int i = 0; rc == 0 && i < 2; i++) {
		fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (fds[i] < 0)
			rc = vdpa_error(errno, "eventfd: %s", strerror(errno));
	}
	for (unsigned int i = 0; rc == 0 && i < SWAPS; i++) {
		uint64_t from = now_ns();

		rc = b->t->ops->set_call(b->t, 0, fds[i % 2]);
		sample(b, now_ns() - from);
	}
	rc = finish(b, rc);
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (rc == 0)
		percentiles(b, "call_swap", "another call eventfd of a running queue");
	return rc;
}

/* Size and number of what moves. 0 or a negative errno with vdpa_error_message(). */
static int
set_up(struct bench *b)
{
	uint16_t most = target_data_vqs(b->t) / (b->net ? 2 : 1);
	struct virtio_blk_config config = {0};
	uint64_t bytes;
	int rc;

	b->size = b->o->size != 0 ? b->o->size : b->net ? NET_SIZE : BLOCK_SIZE;
	b->depth = b->o->depth;
	if (b->o->queues > most)
		return vdpa_error(EINVAL, "--queues %u: the device has %u", b->o->queues, most);
	b->nlanes = b->o->queues != 0 ? (uint16_t)b->o->queues : most;
	if (b->net) {
		if (b->size > 1514)
			return vdpa_error(EINVAL, "--size %u: a frame has at most 1514 bytes",
					  b->size);
		return 0;
	}
	if (b->size % SECTOR != 0)
		return vdpa_error(EINVAL, "--size %u: no multiple of 512", b->size);
	rc = b->t->ops->get_config(b->t, 0, &config,
				   b->t->config_size < sizeof(config) ? b->t->config_size
								      : sizeof(config));
	if (rc < 0)
		return rc;
	bytes = rte_le_to_cpu_64(config.capacity) * SECTOR;
	b->disk_places = bytes / b->size;
	return b->disk_places > 0 ? 0
				  : vdpa_error(EINVAL, "--size %u: the disk has %llu bytes",
					       b->size, (unsigned long long)bytes);
}

static bool
wanted(const struct bench *b, enum cli_measure what)
{
	return b->o->measure == CLI_MEASURE_ALL || b->o->measure == what;
}

static int
measure(struct bench *b)
{
	int rc = set_up(b);

	if (rc < 0)
		return rc;
	json_object_set_new(b->json, "device", report_device(b->t));
	json_object_set_new(b->json, "setup",
			    json_pack("{s:i, s:i, s:i, s:s}", "queues", (int)b->nlanes, "depth",
				      (int)b->depth, "size", (int)b->size, "ring",
				      b->o->packed ? "packed" : "split"));
	fprintf(b->out, "# %s, %s: %u %s, %s ring, %u under way\n", b->t->where, b->t->how,
		b->nlanes, b->net ? "queue pairs" : "queues", b->o->packed ? "packed" : "split",
		b->depth);
	if (b->o->paced)
		return paced(b);
	if (wanted(b, CLI_MEASURE_THROUGHPUT))
		rc = throughput(b);
	if (rc == 0 && wanted(b, CLI_MEASURE_KICKS))
		rc = kick_to_call(b, false);
	if (rc == 0 && wanted(b, CLI_MEASURE_KICKS)) {
		rc = kick_to_call(b, true);
		if (rc == -EOPNOTSUPP) {
			fprintf(b->out, "kick_doorbell   not measured: %s\n", vdpa_error_message());
			rc = 0;
		}
	}
	if (rc == 0 && wanted(b, CLI_MEASURE_LIFE))
		rc = start_and_stop(b);
	if (rc == 0 && wanted(b, CLI_MEASURE_LIFE))
		rc = swap_calls(b);
	return rc;
}

int
bench_run(struct target *t, const struct cli_options *o)
{
	struct bench b = {.t = t, .o = o, .net = t->device_id == TARGET_NET};
	int rc;

	if (t->device_id != TARGET_NET && t->device_id != TARGET_BLOCK) {
		fprintf(stderr, "test-vdpa: bench: no traffic is known for device id %u\n",
			t->device_id);
		return 1;
	}
	/* Where JSON goes to standard output, the lines for people do not. */
	b.out = o->json != NULL && strcmp(o->json, "-") == 0 ? stderr : stdout;
	b.json = json_object();
	b.samples = calloc(SAMPLES_MAX, sizeof(b.samples[0]));
	rc = b.samples != NULL ? measure(&b) : vdpa_error(ENOMEM, "out of memory");
	if (rc < 0)
		fprintf(stderr, "test-vdpa: bench: %s\n", vdpa_error_message());
	else if (o->json != NULL)
		rc = report_write_json(b.json, o->json);
	free(b.samples);
	json_decref(b.json);
	return rc < 0 ? rc == -EINVAL ? 2 : 1 : 0;
}
