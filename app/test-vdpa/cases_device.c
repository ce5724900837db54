/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Cases of the control path: identity, configuration, features, status, reset, start and stop
 * (virtio 1.2, 2.1 to 2.5 and 3.1).
 */

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <rte_byteorder.h>

#include <vdpa.h>

#include "traffic.h"

#define S_ACKNOWLEDGE 0x01
#define S_DRIVER      0x02
#define S_DRIVER_OK   0x04
#define S_FEATURES_OK 0x08
#define S_KNOWN	      0xcf

#define CONFIG_READS 500
#define CYCLES	     100
#define RESETS	     20
#define REFUSALS     6
/* A reset of a device that has nothing to wait for. Drivers wait longer, and then try harder. */
#define RESET_MS     800u

#define BIT(n) (1ULL << (n))

static int
identity(struct run *r)
{
	const struct target *t = r->t;

	if (t->device_id == UINT32_MAX || t->vendor_id == UINT32_MAX ||
	    (t->features | t->own_features) == UINT64_MAX)
		return run_fail(r, "the device reads as all ones: it is gone or does not answer");
	if (t->nvqs == 0)
		return run_fail(r, "the device has no virtqueues");
	if (t->num_max == 0 || t->num_max > VDPA_VQ_NUM_MAX)
		return run_fail(r, "the largest virtqueue size is %u", t->num_max);
	if (t->device_id == TARGET_NET && t->nvqs < 2)
		return run_fail(r, "a net device with %u virtqueues", t->nvqs);
	if (t->device_id == 0 && t->pid != 0 && strcmp(t->how, "in-process") == 0)
		return run_fail(r, "device id 0 is reserved");
	return run_check_alive(r);
}

static int
check_net_config(struct run *r, const uint8_t *bytes, size_t len)
{
	struct virtio_net_config c = {0};

	memcpy(&c, bytes, len < sizeof(c) ? len : sizeof(c));
	if (target_has(r->t, VIRTIO_NET_F_MAC) && (c.mac[0] & 1))
		return run_fail(r, "the MAC address begins with %02x: a group address", c.mac[0]);
	if (target_has(r->t, VIRTIO_NET_F_MQ)) {
		unsigned int pairs = rte_le_to_cpu_16(c.max_virtqueue_pairs);

		if (pairs == 0 || pairs > 0x8000)
			return run_fail(r, "max_virtqueue_pairs is %u", pairs);
		if (pairs * 2u < target_data_vqs(r->t))
			return run_fail(r, "max_virtqueue_pairs is %u, but there are %u queues",
					pairs, target_data_vqs(r->t));
	}
	if (target_has(r->t, VIRTIO_NET_F_MTU) && rte_le_to_cpu_16(c.mtu) < 68)
		return run_fail(r, "the MTU is %u", rte_le_to_cpu_16(c.mtu));
	return 0;
}

static int
check_block_config(struct run *r, const uint8_t *bytes, size_t len)
{
	struct virtio_blk_config c = {0};

	memcpy(&c, bytes, len < sizeof(c) ? len : sizeof(c));
	if (target_has(r->t, VIRTIO_BLK_F_MQ) && rte_le_to_cpu_16(c.num_queues) < r->t->nvqs)
		return run_fail(r, "num_queues is %u, but there are %u",
				rte_le_to_cpu_16(c.num_queues), r->t->nvqs);
	if (rte_le_to_cpu_64(c.capacity) > UINT64_MAX / 512)
		return run_fail(r, "the capacity is 0x%llx sectors",
				(unsigned long long)rte_le_to_cpu_64(c.capacity));
	return 0;
}

static int
config_readable(struct run *r)
{
	static const size_t widths[] = {1, 2, 4, 8};
	size_t size = r->t->config_size;
	uint8_t all[256] = {0}, part[8];
	bool ones = true;
	int rc;

	if (size == 0)
		return run_skip(r, "the device has no configuration, or it cannot be read here");
	if (size > sizeof(all))
		size = sizeof(all);
	r->step = "reading the configuration";
	rc = r->t->ops->get_config(r->t, 0, all, size);
	if (rc < 0)
		return run_failed_call(r, rc, "reading the configuration");
	for (size_t i = 0; i < size; i++)
		ones &= all[i] == 0xff;
	if (ones)
		return run_fail(r, "the configuration reads as all ones");
	for (size_t w = 0; w < 4; w++)
		for (size_t at = 0; at + widths[w] <= size; at += widths[w]) {
			rc = r->t->ops->get_config(r->t, at, part, widths[w]);
			if (rc < 0)
				return run_failed_call(r, rc,
						       "reading a part of the configuration");
			if (memcmp(part, all + at, widths[w]) != 0)
				return run_fail(r,
						"configuration byte %zu, read %zu at a time, "
						"differs from the whole",
						at, widths[w]);
		}
	if (!r->t->trusting && r->t->ops->get_config(r->t, r->t->config_size, part, 1) == 0)
		return run_fail(r, "byte %zu, past the end of the configuration, can be read",
				r->t->config_size);
	if (r->t->device_id == TARGET_NET)
		return check_net_config(r, all, size);
	return r->t->device_id == TARGET_BLOCK ? check_block_config(r, all, size) : 0;
}

static int
config_stable(struct run *r)
{
	size_t size = r->t->config_size < 256 ? r->t->config_size : 256;
	uint8_t first[256], now[256];
	int rc;

	if (size == 0)
		return run_skip(r, "the device has no configuration, or it cannot be read here");
	r->step = "reading the configuration again and again";
	rc = r->t->ops->get_config(r->t, 0, first, size);
	for (int i = 0; rc == 0 && i < CONFIG_READS && !run_expired(r); i++) {
		rc = r->t->ops->get_config(r->t, 0, now, size);
		if (rc == 0 && memcmp(first, now, size) != 0)
			return run_fail(r, "the configuration differs in read %d", i);
	}
	return rc < 0 ? run_failed_call(r, rc, "the configuration cannot be read") : 0;
}

static int
features_sane(struct run *r)
{
	/* Each bit and one that it needs (virtio 1.2, 5.1.3.1). */
	static const struct {
		unsigned int bit, needs;
		const char *what;
	} net[] = {
		{VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM, "GUEST_TSO4 needs GUEST_CSUM"},
		{VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM, "GUEST_TSO6 needs GUEST_CSUM"},
		{VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM, "HOST_TSO4 needs CSUM"},
		{VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM, "HOST_TSO6 needs CSUM"},
		{VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ, "CTRL_RX needs CTRL_VQ"},
		{VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ, "CTRL_VLAN needs CTRL_VQ"},
		{VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ, "CTRL_MAC_ADDR needs CTRL_VQ"},
	};
	const struct target *t = r->t;

	if ((t->features | t->own_features) == UINT64_MAX)
		return run_fail(r, "the features read as all ones");
	if (!target_has(t, VIRTIO_F_VERSION_1))
		return run_fail(r, "features 0x%llx: VIRTIO_F_VERSION_1 is not offered",
				(unsigned long long)t->features);
	/* A control queue that the front end's consumer keeps to itself is not offered here. */
	for (size_t i = 0;
	     t->device_id == TARGET_NET && target_has(t, VIRTIO_NET_F_CTRL_VQ) && i < RTE_DIM(net);
	     i++)
		if (target_has(t, net[i].bit) && !target_has(t, net[i].needs))
			return run_fail(r, "features 0x%llx: %s", (unsigned long long)t->features,
					net[i].what);
	return 0;
}

/* ACKNOWLEDGE and DRIVER, from any state. */
static int
to_driver(struct run *r)
{
	int rc = r->t->ops->set_status(r->t, 0);

	if (rc == 0)
		rc = r->t->ops->set_status(r->t, S_ACKNOWLEDGE);
	if (rc == 0)
		rc = r->t->ops->set_status(r->t, S_ACKNOWLEDGE | S_DRIVER);
	return rc < 0 ? run_failed_call(r, rc, "reset, ACKNOWLEDGE, DRIVER") : 0;
}

static int
accept_features(struct run *r, uint64_t features, const char *what)
{
	int rc = to_driver(r), status;

	if (rc != 0)
		return rc;
	rc = r->t->ops->set_features(r->t, features);
	if (rc < 0)
		return run_fail(r, "features 0x%llx (%s) are refused: %s",
				(unsigned long long)features, what, vdpa_error_message());
	rc = r->t->ops->set_status(r->t, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
	if (rc < 0)
		return run_fail(r, "features 0x%llx (%s): FEATURES_OK: %s",
				(unsigned long long)features, what, vdpa_error_message());
	status = r->t->ops->get_status(r->t);
	if (status < 0)
		return run_failed_call(r, status, "the status cannot be read");
	if (!(status & S_FEATURES_OK))
		return run_fail(r,
				"features 0x%llx (%s): FEATURES_OK does not stick, status 0x%02x",
				(unsigned long long)features, what, status);
	return 0;
}

static int
features_accepted(struct run *r)
{
	static const struct {
		unsigned int flags;
		const char *what;
	} sets[] = {
		{0, "the least"},
		{SESSION_INDIRECT | SESSION_EVENT_IDX | SESSION_MQ, "split ring"},
		{SESSION_PACKED, "packed ring"},
		{SESSION_PACKED | SESSION_INDIRECT | SESSION_EVENT_IDX | SESSION_MQ |
			 SESSION_IN_ORDER | SESSION_RING_RESET,
		 "packed ring and all about rings"},
	};
	int rc = 0;

	if (r->t->ops->get_status(r->t) == -EOPNOTSUPP)
		return run_skip(r, "%s", vdpa_error_message());
	r->step = "negotiating features";
	for (size_t i = 0; rc == 0 && i < RTE_DIM(sets); i++)
		rc = accept_features(r, session_features(r->t, sets[i].flags), sets[i].what);
	return rc;
}

static int
features_refused(struct run *r)
{
	uint64_t base = session_features(r->t, 0);
	uint64_t missing = ~(r->t->features | r->t->own_features);
	unsigned int tried = 0;
	int rc;

	if (r->t->ops->get_status(r->t) == -EOPNOTSUPP)
		return run_skip(r, "%s", vdpa_error_message());
	r->step = "negotiating features that are not offered";
	for (unsigned int bit = 0; bit < 64; bit++) {
		if (!(missing & BIT(bit)) || bit == VIRTIO_F_VERSION_1)
			continue;
		/* A back end may take many refusals for an attack: a few bits say enough. */
		if (r->t->trusting && tried >= REFUSALS)
			break;
		if (run_expired(r))
			return run_fail(r, "the case's time is over after %u resets", tried);
		rc = to_driver(r);
		if (rc != 0)
			return rc;
		tried++;
		/* Either the set is refused or FEATURES_OK does not stick. */
		if (r->t->ops->set_features(r->t, base | BIT(bit)) < 0)
			continue;
		if (r->t->ops->set_status(r->t, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK) < 0)
			continue;
		if (r->t->ops->get_status(r->t) & S_FEATURES_OK)
			return run_fail(r, "feature bit %u is not offered and is accepted", bit);
	}
	if (tried == 0)
		return run_skip(r, "every feature bit is offered");
	rc = accept_features(r, base, "the least, after refused ones");
	if (rc != 0)
		return rc;
	/* By vhost-user features do change while a device runs: with the dirty log. */
	if (!r->t->trusting && r->t->ops->set_features(r->t, base) == 0)
		return run_fail(r, "features can be set after FEATURES_OK");
	return 0;
}

static int
status_transitions(struct run *r)
{
	const uint8_t up = S_ACKNOWLEDGE | S_DRIVER;
	int rc, status;

	if (r->t->trusting)
		return run_skip(r, "the protocol leaves the order of status bits to the front end");
	r->step = "trying status changes that are not allowed";
	rc = r->t->ops->set_status(r->t, 0);
	if (rc < 0)
		return run_failed_call(r, rc, "reset");
	status = r->t->ops->get_status(r->t);
	if (status != 0)
		return run_fail(r, "status 0x%02x after a reset", status);
	if (r->t->ops->set_status(r->t, up | S_FEATURES_OK | S_DRIVER_OK) == 0)
		return run_fail(r, "status 0 to DRIVER_OK in one step is accepted");
	rc = to_driver(r);
	if (rc != 0)
		return rc;
	if (r->t->ops->set_status(r->t, up | S_DRIVER_OK) == 0)
		return run_fail(r, "DRIVER_OK before FEATURES_OK is accepted");
	rc = to_driver(r);
	if (rc != 0)
		return rc;
	status = r->t->ops->get_status(r->t);
	if (status != up)
		return run_fail(r, "status 0x%02x was set and reads 0x%02x", up, status);
	if (r->t->ops->set_status(r->t, S_ACKNOWLEDGE) == 0)
		return run_fail(r, "a status bit can be removed without a reset");
	rc = r->t->ops->set_status(r->t, 0);
	if (rc < 0)
		return run_failed_call(r, rc, "reset");
	status = r->t->ops->get_status(r->t);
	return status == 0 ? 0 : run_fail(r, "status 0x%02x after a reset", status);
}

static int
timed_reset(struct run *r, const char *when)
{
	uint64_t start = now_ns(), ms;
	int rc = r->t->ops->set_status(r->t, 0), status;

	if (rc < 0)
		return run_failed_call(r, rc, when);
	ms = (now_ns() - start) / 1000000;
	status = r->t->ops->get_status(r->t);
	if (status != 0)
		return run_fail(r, "%s: status 0x%02x", when, status);
	if (ms > run_ms(r, RESET_MS))
		return run_fail(r, "%s: it took %llu ms", when, (unsigned long long)ms);
	if (run_expired(r))
		return run_fail(r, "%s: the case's time is over", when);
	return 0;
}

static int
reset_completes(struct run *r)
{
	const struct session_params params = {.flags = SESSION_MQ};
	struct session s;
	int rc = 0;

	r->step = "resetting the device";
	for (int i = 0; rc == 0 && i < RESETS; i++)
		rc = timed_reset(r, "reset of an idle device");
	if (rc == 0)
		rc = accept_features(r, session_features(r->t, 0), "the least");
	if (rc == 0)
		rc = timed_reset(r, "reset at FEATURES_OK");
	for (int i = 0; rc == 0 && i < RESETS; i++) {
		rc = run_start(r, &s, &params);
		if (rc != 0)
			break;
		rc = timed_reset(r, "reset of a running device");
		rc = run_finish(r, &s, rc);
	}
	return rc;
}

/* After a start a queue must be taken; the start itself reads back that it is. */
static int
queue_enable(struct run *r)
{
	const uint16_t step = target_lane_vqs(r->t);
	int rc = 0;

	for (uint16_t i = 0; rc == 0 && i < target_data_vqs(r->t); i = (uint16_t)(i + step)) {
		const struct session_params params = {.flags = SESSION_MQ,
						      .n = (uint16_t)(i + step)};
		struct session s;

		if (run_expired(r))
			return run_fail(r, "the case's time is over at queue %u", i);
		rc = run_start(r, &s, &params);
		if (rc == 0)
			rc = run_finish(r, &s, 0);
	}
	return rc;
}

/* Every queue has to be started; an enable that is lost shows as data that does not move. */
static int
queue_enable_alone(struct run *r)
{
	const struct session_params params = {.n = target_lane_vqs(r->t)};
	struct traffic x = {.units = 32};
	struct session s;
	int rc = run_start(r, &s, &params);

	if (rc != 0)
		return rc;
	return run_finish(r, &s, traffic_run(r, &s, &x));
}

static int
count_fds(pid_t pid)
{
	char path[64];
	DIR *dir;
	int n = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	if (dir == NULL)
		return -1;
	for (const struct dirent *e = readdir(dir); e != NULL; e = readdir(dir))
		n += e->d_name[0] != '.';
	closedir(dir);
	return n;
}

static int
start_stop_cycles(struct run *r)
{
	const struct session_params params = {.flags = SESSION_MQ | SESSION_EVENT_IDX};
	int before = -1, after, rc = 0;
	struct session s;

	r->step = "starting and stopping";
	rc = traffic_probe_echo(r);
	if (rc != 0)
		return rc;
	rc = session_init(&s, r->t, &params);
	if (rc < 0)
		return run_failed_call(r, rc, "no session");
	for (int i = 0; rc == 0 && i < CYCLES; i++) {
		/* What is allocated once is there after the first. */
		if (i == 1)
			before = r->t->pid != 0 ? count_fds(r->t->pid) : -1;
		if (session_start(&s) < 0)
			rc = run_fail(r, "start %d of %d: %s", i + 1, CYCLES, vdpa_error_message());
		else if (session_stop(&s) < 0)
			rc = run_fail(r, "stop %d of %d: %s", i + 1, CYCLES, vdpa_error_message());
		if (rc == 0 && run_expired(r))
			rc = run_fail(r, "only %d of %d starts within the case's time", i, CYCLES);
	}
	after = before >= 0 ? count_fds(r->t->pid) : -1;
	if (rc == 0 && after != before)
		rc = run_fail(r, "%d file descriptors before, %d after %d starts and stops", before,
			      after, CYCLES - 1);
	return run_finish(r, &s, rc);
}

static int
needs_reset(struct run *r)
{
	enum { LOOKS = 20, LOOK_US = 10000 };
	const struct session_params params = {.flags = SESSION_MQ};
	struct traffic x = {.units = UINT64_MAX};
	struct session s;
	int rc = run_start(r, &s, &params);

	if (rc != 0)
		return rc;
	rc = traffic_begin(r, &s, &x);
	for (int i = 0; rc >= 0 && rc != RUN_SKIPPED && i < LOOKS; i++) {
		uint64_t end = now_ns() + LOOK_US * 1000;

		while (rc == 0 && now_ns() < end) {
			rc = traffic_step(&x);
			if (rc == 0)
				traffic_wait(&x);
			rc = rc > 0 ? 0 : rc;
		}
		if (rc == 0)
			rc = run_check_alive(r);
		if (rc != 0)
			break;
	}
	traffic_end(&x);
	return run_finish(r, &s, rc == RUN_SKIPPED ? run_check_alive(r) : rc);
}

const struct run_case device_cases[] = {
	{"identity", "type, number and size of virtqueues make sense", 5000, 0, identity},
	{"config_readable", "the configuration reads the same in parts of every width", 10000, 0,
	 config_readable},
	{"config_stable", "the configuration and its generation stand still", 10000, 0,
	 config_stable},
	{"features_sane", "VERSION_1 is offered, and no feature without what it needs", 5000, 0,
	 features_sane},
	{"features_accepted", "FEATURES_OK sticks for subsets of what is offered", 10000, 0,
	 features_accepted},
	{"features_refused", "features not offered are refused, as changes after FEATURES_OK",
	 10000, 0, features_refused},
	{"status_transitions", "status bits come in order and leave by reset only", 10000, 0,
	 status_transitions},
	{"reset_completes", "a reset completes in every state, again and again", 30000, 0,
	 reset_completes},
	{"queue_enable", "every queue is taken at a start, with 1, 2, ... of them", 60000, 0,
	 queue_enable},
	{"queue_enable_moves", "the first queue moves data when it is the only one", 15000, 0,
	 queue_enable_alone},
	{"start_stop_cycles", "100 starts and stops leave no file descriptor", 60000, 0,
	 start_stop_cycles},
	{"needs_reset", "DEVICE_NEEDS_RESET is not set while data moves", 15000, 0, needs_reset},
	{.name = NULL},
};
