/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Cases of the control queue of a net device (virtio 1.2, 5.1.6.5), where the device leaves it to
 * the guest: commands that it must obey, and those that make no sense.
 */

#include <stdio.h>
#include <string.h>

#include <linux/virtio_net.h>
#include <rte_byteorder.h>

#include <vdpa.h>

#include "traffic.h"

#define CTRL_MS	  2000u
/* Not an answer. */
#define UNTOUCHED 0xff
#define DATA_MAX  64u

/* Where a command is cut: bytes of each part, the last one takes the rest. */
struct cut {
	uint32_t header, data; /* 0: not cut */
};

/*
 * Make a command available, in a slot of the control queue, which is the last one, and wait until
 * it is used. Its answer, UNTOUCHED where none was written, or a negative verdict.
 */
static int
exchange(struct run *r, struct session *s, const struct ring_buf *bufs, unsigned int n,
	 const char *what)
{
	struct queue *q = &s->q[s->nq - 1];
	const uint8_t *ack = slot_va(s, q, 0) + SLOT_STATUS;
	uint64_t end = waited_ns() + run_ms(r, CTRL_MS) * 1000000;
	uint32_t got;
	uint16_t id;
	int rc = 0;

	r->step = what;
	if (ring_driver_post(&q->ring, bufs, n) < 0)
		return run_fail(r, "control queue: %s: no room in the ring", what);
	queue_kick(q);
	while (rc == 0 && waited_ns() < end) {
		rc = ring_driver_take(&q->ring, &id, &got);
		if (rc == 0)
			sleep_us(200);
	}
	if (rc < 0)
		return run_fail(r, "control queue: %s: %s", what, ring_driver_bad(&q->ring));
	if (rc == 0)
		return run_fail(r, "control queue: %s: it is not answered", what);
	return *ack;
}

/* A command, in parts as `cut` says (NULL: header and data in one part each). */
static int
command(struct run *r, struct session *s, uint8_t class, uint8_t cmd, const void *data,
	uint32_t len, const struct cut *cut, const char *what)
{
	struct queue *q = &s->q[s->nq - 1];
	uint64_t iova = slot_iova(s, q, 0);
	uint8_t *va = slot_va(s, q, 0);
	struct ring_buf bufs[SLOT_PARTS_MAX + 1];
	unsigned int n = 0;

	va[SLOT_HEADER] = class;
	va[SLOT_HEADER + 1] = cmd;
	va[SLOT_STATUS] = UNTOUCHED;
	if (len > 0)
		memcpy(va + SLOT_DATA, data, len);
	for (uint32_t at = 0; at < 2; n++) {
		uint32_t part = cut != NULL && cut->header != 0 ? cut->header : 2;

		bufs[n] = (struct ring_buf){.iova = iova + SLOT_HEADER + at, .len = part};
		at += part;
	}
	for (uint32_t at = 0; at < len; n++) {
		uint32_t part = cut != NULL && cut->data != 0 ? cut->data : len;

		part = part < len - at ? part : len - at;
		bufs[n] = (struct ring_buf){.iova = iova + SLOT_DATA + at, .len = part};
		at += part;
	}
	bufs[n++] = (struct ring_buf){.iova = iova + SLOT_STATUS, .len = 1, .write = true};
	return exchange(r, s, bufs, n, what);
}

/* 0 when the answer is what it must be. */
static int
expect(struct run *r, int answer, int wanted, const char *what)
{
	if (answer < 0 || answer == wanted)
		return answer < 0 ? answer : 0;
	return run_fail(r, "control queue: %s: the answer is %d%s, it must be %d", what, answer,
			answer == UNTOUCHED ? " (none was written)" : "", wanted);
}

/* A session with the control queue, with all of its queues. */
static int
begin(struct run *r, struct session *s, unsigned int flags)
{
	const struct session_params params = {.flags = SESSION_CTRL_VQ | SESSION_MQ | flags,
					      .n = r->t->nvqs};
	int rc;

	if (r->t->nvqs % 2 == 0)
		return run_skip(r, "the control queue is not the front end's");
	rc = run_need(r, SESSION_CTRL_VQ | flags);
	return rc == 0 ? run_start(r, s, &params) : rc;
}

static int
control_queue(struct run *r)
{
	const uint16_t too_many = rte_cpu_to_le_16(0x8001);
	const uint8_t on = 1;
	struct session s;
	int rc = begin(r, &s, 0);

	if (rc != 0)
		return rc;
	if (target_has(r->t, VIRTIO_NET_F_CTRL_RX)) {
		rc = command(r, &s, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1, NULL,
			     "promiscuous mode");
		rc = expect(r, rc, VIRTIO_NET_OK, "promiscuous mode");
	}
	if (rc == 0) {
		rc = command(r, &s, 0xee, 0, &on, 1, NULL, "an unknown class");
		rc = expect(r, rc, VIRTIO_NET_ERR, "an unknown class");
	}
	if (rc == 0 && target_has(r->t, VIRTIO_NET_F_MQ)) {
		rc = command(r, &s, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &too_many,
			     2, NULL, "0x8001 pairs");
		rc = expect(r, rc, VIRTIO_NET_ERR, "0x8001 pairs");
	}
	return run_finish(r, &s, rc);
}

/* Set the number of pairs that the device uses. */
static int
set_pairs(struct run *r, struct session *s, unsigned int pairs, int wanted)
{
	const uint16_t n = rte_cpu_to_le_16((uint16_t)pairs);
	char what[32];
	int rc;

	snprintf(what, sizeof(what), "%u queue pairs", pairs);
	rc = command(r, s, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &n, sizeof(n), NULL,
		     "setting queue pairs");
	return expect(r, rc, wanted, what);
}

static int
move_on_pairs(struct run *r, struct session *s, uint16_t pairs)
{
	struct traffic x = {.units = 100, .nlanes = pairs};

	return traffic_run(r, s, &x);
}

/* Which pairs carry data is the command's to say, and what it cannot mean is refused. */
static int
control_pairs(struct run *r)
{
	const uint16_t max = target_data_vqs(r->t) / 2;
	struct session s;
	int rc = begin(r, &s, SESSION_MQ);

	if (rc != 0)
		return rc;
	/* The traffic's are the pairs, not the queue behind them. */
	s.params.n = (uint16_t)(2 * max);
	for (uint16_t n = 1; rc == 0 && n <= max; n = n < max && 2 * n > max ? max : 2 * n) {
		rc = set_pairs(r, &s, n, VIRTIO_NET_OK);
		if (rc == 0)
			rc = move_on_pairs(r, &s, n);
		/* A refused one changes nothing. */
		if (rc == 0)
			rc = set_pairs(r, &s, 0, VIRTIO_NET_ERR);
		if (rc == 0)
			rc = set_pairs(r, &s, max + 1, VIRTIO_NET_ERR);
		if (rc == 0)
			rc = move_on_pairs(r, &s, n);
	}
	/* And fewer again. */
	if (rc == 0)
		rc = set_pairs(r, &s, 1, VIRTIO_NET_OK);
	if (rc == 0)
		rc = move_on_pairs(r, &s, 1);
	return run_finish(r, &s, rc);
}

static int
check_mac(struct run *r, const uint8_t *mac, const char *when)
{
	uint8_t is[6];
	int rc = r->t->ops->get_config(r->t, 0, is, sizeof(is));

	if (rc < 0)
		return run_failed_call(r, rc, "the MAC address cannot be read");
	if (memcmp(is, mac, sizeof(is)) == 0)
		return 0;
	return run_fail(r,
			"%s the configuration has the MAC address %02x:%02x:%02x:%02x:%02x:%02x, "
			"not %02x:%02x:%02x:%02x:%02x:%02x",
			when, is[0], is[1], is[2], is[3], is[4], is[5], mac[0], mac[1], mac[2],
			mac[3], mac[4], mac[5]);
}

/* The address is obeyed and shows in the configuration (5.1.6.5.2). */
static int
control_mac(struct run *r)
{
	const uint8_t macs[][8] = {{0x02, 'v', 'd', 'p', 'a', 1}, {0x02, 'v', 'd', 'p', 'a', 2}};
	struct session s;
	int rc = begin(r, &s, 0);

	if (rc != 0)
		return rc;
	if (!target_has(r->t, VIRTIO_NET_F_CTRL_MAC_ADDR) || !target_has(r->t, VIRTIO_NET_F_MAC))
		return run_finish(r, &s, run_skip(r, "the device does not offer CTRL_MAC_ADDR"));
	for (unsigned int i = 0; rc == 0 && i < sizeof(macs) / sizeof(macs[0]); i++) {
		rc = command(r, &s, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, macs[i], 6,
			     NULL, "a MAC address");
		rc = expect(r, rc, VIRTIO_NET_OK, "a MAC address");
		if (rc == 0)
			rc = check_mac(r, macs[i], "after MAC_ADDR_SET");
		if (rc == 0) {
			rc = command(r, &s, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET,
				     macs[!i], 5, NULL, "a MAC address of 5 bytes");
			rc = expect(r, rc, VIRTIO_NET_ERR, "a MAC address of 5 bytes");
		}
		if (rc == 0)
			rc = check_mac(r, macs[i], "after an address of 5 bytes");
	}
	return run_finish(r, &s, rc);
}

/* A good command, however it is cut into descriptors (2.7.4). */
static int
good_commands(struct run *r, struct session *s, const char *what)
{
	static const struct cut cuts[] = {{0, 0}, {1, 0}, {0, 1}, {1, 1}};
	const uint8_t mac[8] = {0x02, 'v', 'd', 'p', 'a', 3};
	const uint8_t on = 1;
	int rc = 0;

	for (unsigned int i = 0; rc == 0 && i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		if (target_has(r->t, VIRTIO_NET_F_CTRL_RX))
			rc = expect(r,
				    command(r, s, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC,
					    &on, 1, &cuts[i], what),
				    VIRTIO_NET_OK, what);
		if (rc == 0 && target_has(r->t, VIRTIO_NET_F_CTRL_MAC_ADDR))
			rc = expect(r,
				    command(r, s, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET,
					    mac, 6, &cuts[i], what),
				    VIRTIO_NET_OK, what);
	}
	return rc;
}

/* Chains that are no whole command: they come back, with an error where there is room for one. */
static int
broken_chains(struct run *r, struct session *s)
{
	struct queue *q = &s->q[s->nq - 1];
	uint64_t iova = slot_iova(s, q, 0);
	uint8_t *va = slot_va(s, q, 0);
	const struct ring_buf header = {.iova = iova + SLOT_HEADER, .len = 2};
	const struct ring_buf half = {.iova = iova + SLOT_HEADER, .len = 1};
	const struct ring_buf answer = {.iova = iova + SLOT_STATUS, .len = 1, .write = true};
	const struct {
		struct ring_buf bufs[2];
		unsigned int n;
		int wanted;
		const char *what;
	} chains[] = {
		{{half, answer}, 2, VIRTIO_NET_ERR, "a header of one byte"},
		{{header, answer}, 2, VIRTIO_NET_ERR, "a command without its data"},
		{{answer}, 1, VIRTIO_NET_ERR, "a command without a header"},
		{{header}, 1, UNTOUCHED, "a command without room for the answer"},
	};
	int rc = 0;

	for (unsigned int i = 0; rc == 0 && i < sizeof(chains) / sizeof(chains[0]); i++) {
		va[SLOT_HEADER] = VIRTIO_NET_CTRL_RX;
		va[SLOT_HEADER + 1] = VIRTIO_NET_CTRL_RX_PROMISC;
		va[SLOT_STATUS] = UNTOUCHED;
		rc = exchange(r, s, chains[i].bufs, chains[i].n, chains[i].what);
		rc = expect(r, rc, chains[i].wanted, chains[i].what);
	}
	return rc;
}

/* Commands that the device does not have, and lengths that they do not have. */
static int
bad_commands(struct run *r, struct session *s)
{
	static const struct {
		uint8_t class, cmd;
		uint32_t len;
		const char *what;
		bool any; /* the specification does not say which answer */
	} bad[] = {
		{VIRTIO_NET_CTRL_RX, 0xee, 1, "an unknown command of a known class", false},
		{VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, 1, "an address of 1 byte",
		 false},
		{VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, 3, "a table of 3 bytes",
		 false},
		{VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, DATA_MAX,
		 "a mode with too much data", true},
		{VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, DATA_MAX,
		 "an address with too much data", true},
	};
	/* As a table of addresses it counts more than there are. */
	uint8_t data[DATA_MAX];
	int rc = 0;

	memset(data, 2, sizeof(data));
	for (unsigned int i = 0; rc == 0 && i < sizeof(bad) / sizeof(bad[0]); i++) {
		rc = command(r, s, bad[i].class, bad[i].cmd, data, bad[i].len, NULL, bad[i].what);
		if (!bad[i].any || rc == UNTOUCHED)
			rc = expect(r, rc, VIRTIO_NET_ERR, bad[i].what);
		else
			rc = rc > 0 ? 0 : rc;
	}
	return rc;
}

static int
control_framing_of(struct run *r, unsigned int flags)
{
	struct session s;
	int rc = begin(r, &s, flags);

	if (rc != 0)
		return rc;
	rc = good_commands(r, &s, "a command cut into parts");
	if (rc == 0)
		rc = broken_chains(r, &s);
	if (rc == 0)
		rc = bad_commands(r, &s);
	if (rc == 0)
		rc = good_commands(r, &s, "a command after bad ones");
	return run_finish(r, &s, rc);
}

static int
control_framing_split(struct run *r)
{
	return control_framing_of(r, 0);
}

static int
control_framing_packed(struct run *r)
{
	return control_framing_of(r, SESSION_PACKED);
}

const struct run_case ctrl_cases[] = {
	{"net_control_queue", "control commands are answered, unknown ones with an error", 15000,
	 TARGET_NET, control_queue},
	{"net_control_pairs", "the pairs that are set carry data, and bad numbers are refused",
	 30000, TARGET_NET, control_pairs},
	{"net_control_mac", "an address that is set shows in the configuration", 15000, TARGET_NET,
	 control_mac},
	{"net_control_split", "commands in any parts, short and long ones, split ring", 15000,
	 TARGET_NET, control_framing_split},
	{"net_control_packed", "commands in any parts, short and long ones, packed ring", 15000,
	 TARGET_NET, control_framing_packed},
	{.name = NULL},
};
