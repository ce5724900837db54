/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What cases share: verdicts, time, sessions. */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <linux/vhost.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>

#include <rte_common.h>

#include <vdpa.h>

#include "traffic.h"
#include "vhost_user_proto.h"
#include "virtio_compat.h"

static void
set_verdict(struct run *r, int verdict, const char *fmt, va_list ap)
{
	/* A failure says more than a skip; of two the first is the cause. */
	if (r->verdict == RUN_FAILED || (r->verdict != 0 && verdict != RUN_FAILED))
		return;
	r->verdict = verdict;
	vsnprintf(r->reason, sizeof(r->reason), fmt, ap);
	for (char *c = r->reason; *c != '\0'; c++)
		if (*c == '\n')
			*c = ' ';
}

int
run_fail(struct run *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_verdict(r, RUN_FAILED, fmt, ap);
	va_end(ap);
	return RUN_FAILED;
}

int
run_skip(struct run *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_verdict(r, RUN_SKIPPED, fmt, ap);
	va_end(ap);
	return RUN_SKIPPED;
}

int
run_failed_call(struct run *r, int rc, const char *what)
{
	const char *why = vdpa_error_message();

	if (rc == -EOPNOTSUPP)
		return run_skip(r, "%s: %s", what, why);
	return run_fail(r, "%s: %s (%s)", what, why, strerrorname_np(-rc));
}

uint64_t
run_ms(const struct run *r, unsigned int ms)
{
	return (uint64_t)ms * r->scale / 100;
}

uint64_t
run_quiet_ms(const struct run *r, unsigned int ms)
{
	return RTE_MIN(run_ms(r, ms), (uint64_t)ms);
}

bool
run_expired(const struct run *r)
{
	return now_ns() > r->deadline;
}

int
run_check_alive(struct run *r)
{
	r->step = "reading the status";
	return target_check_alive(r->t) < 0 ? run_fail(r, "%s", vdpa_error_message()) : 0;
}

int
run_start(struct run *r, struct session *s, const struct session_params *params)
{
	int rc = traffic_probe_echo(r);

	if (rc != 0)
		return rc;

	r->step = "starting the device";
	rc = session_init(s, r->t, params);
	if (rc < 0)
		return run_failed_call(r, rc, "no session");
	rc = session_start(s);
	if (rc == 0)
		return 0;
	run_fail(r, "the device does not start: %s", vdpa_error_message());
	session_fini(s);
	return RUN_FAILED;
}

int
run_finish(struct run *r, struct session *s, int rc)
{
	int stopped;

	/* A device that fails says so here, whatever the case was about. */
	if (rc == 0 && s->started)
		rc = run_check_alive(r);
	r->step = "stopping the device";
	stopped = session_fini(s);
	if (stopped < 0 && rc != RUN_FAILED)
		rc = run_fail(r, "the device does not stop: %s", vdpa_error_message());
	return rc;
}

int
run_need_echo(struct run *r)
{
	int rc = traffic_probe_echo(r);

	if (rc == 0 && r->t->device_id == TARGET_NET && !r->echoes)
		rc = run_skip(r, "the device's back end does not return frames");
	return rc;
}

/* A place in the middle of a ring. */
static struct vdpa_vq_state
any_place(bool packed)
{
	if (!packed)
		return (struct vdpa_vq_state){.split.avail_index = 5};
	return (struct vdpa_vq_state){.packed = {.last_avail_idx = 5,
						 .last_used_idx = 5,
						 .last_avail_counter = 1,
						 .last_used_counter = 1}};
}

bool
run_loads_place(struct run *r, unsigned int flags)
{
	const uint8_t driver = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	const bool packed = (flags & SESSION_PACKED) != 0;
	const struct vdpa_vq_state place = any_place(packed);
	const struct target_ops *ops = r->t->ops;
	uint64_t features = r->t->must | RING_FEATURE(VIRTIO_F_VERSION_1) |
			    (packed ? RING_FEATURE(VIRTIO_F_RING_PACKED) : 0);
	bool loads;

	if (ops->set_place == NULL)
		return false;
	loads = ops->set_status(r->t, 0) == 0 &&
		ops->set_status(r->t, VIRTIO_CONFIG_S_ACKNOWLEDGE) == 0 &&
		ops->set_status(r->t, driver) == 0 && ops->set_features(r->t, features) == 0 &&
		ops->set_status(r->t, driver | VIRTIO_CONFIG_S_FEATURES_OK) == 0 &&
		ops->set_place(r->t, 0, &place) == 0;
	(void)ops->set_status(r->t, 0);
	return loads;
}

/* The device's word, where it is asked in this process; by vhost-user a start is the only way to
 * find out. One that suspends need not load a place. */
static int
probe_state(struct run *r, unsigned int flags)
{
	const bool packed = (flags & SESSION_PACKED) != 0;
	const struct session_params params = {.flags = flags & SESSION_PACKED,
					      .n = target_lane_vqs(r->t)};
	const struct vdpa_vq_state place = any_place(packed);
	struct session s;
	int rc;

	if (!r->t->trusting) {
		r->keeps_state[packed] =
			r->t->can != NULL && r->t->can->suspend && run_loads_place(r, flags);
		return 0;
	}
	r->step = "starting a queue elsewhere than at its beginning";
	rc = session_init(&s, r->t, &params);
	if (rc < 0)
		return run_failed_call(r, rc, "no session");
	r->keeps_state[packed] = session_start_at(&s, &place) == 0;
	session_fini(&s);
	return 0;
}

int
run_need_state(struct run *r, unsigned int flags)
{
	const bool packed = (flags & SESSION_PACKED) != 0;
	int rc = r->state_known[packed] ? 0 : probe_state(r, flags);

	r->state_known[packed] = true;
	if (rc == 0 && !r->keeps_state[packed])
		rc = run_skip(r, "the device cannot start a %s queue where it stopped",
			      packed ? "packed" : "split");
	return rc;
}

int
run_need_log(struct run *r)
{
	const struct target *t = r->t;

	if (!t->trusting)
		return t->can != NULL && t->can->log ? 0
						     : run_skip(r, "the device has no dirty log");
	if (!target_has(t, VHOST_F_LOG_ALL) ||
	    !(t->protocol & RING_FEATURE(VHOST_USER_PROTOCOL_F_LOG_SHMFD)))
		return run_skip(r, "the back end does not offer LOG_ALL and LOG_SHMFD");
	return 0;
}

int
run_need(struct run *r, unsigned int flags)
{
	static const struct {
		unsigned int flag, bit;
		const char *name;
		uint32_t device_id;
	} features[] = {
		{SESSION_PACKED, VIRTIO_F_RING_PACKED, "RING_PACKED", 0},
		{SESSION_INDIRECT, VIRTIO_RING_F_INDIRECT_DESC, "INDIRECT_DESC", 0},
		{SESSION_EVENT_IDX, VIRTIO_RING_F_EVENT_IDX, "EVENT_IDX", 0},
		{SESSION_IN_ORDER, VIRTIO_F_IN_ORDER, "IN_ORDER", 0},
		{SESSION_RING_RESET, VIRTIO_F_RING_RESET, "RING_RESET", 0},
		{SESSION_NOTIFICATION_DATA, VIRTIO_F_NOTIFICATION_DATA, "NOTIFICATION_DATA", 0},
		{SESSION_MQ, VIRTIO_NET_F_MQ, "MQ", TARGET_NET},
		{SESSION_MERGEABLE, VIRTIO_NET_F_MRG_RXBUF, "MRG_RXBUF", TARGET_NET},
		{SESSION_CTRL_VQ, VIRTIO_NET_F_CTRL_VQ, "CTRL_VQ", TARGET_NET},
	};

	for (unsigned int i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
		if (!(flags & features[i].flag) || target_has(r->t, features[i].bit))
			continue;
		if (features[i].device_id == 0 || features[i].device_id == r->t->device_id)
			return run_skip(r, "the device does not offer %s", features[i].name);
	}
	return 0;
}
