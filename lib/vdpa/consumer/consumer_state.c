/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The state of a consumer's device, which a front end takes to another host: saved and loaded while
 * the device is stopped. What the driver keeps goes with a reset, and the last queue's stop is one,
 * so it is taken before and kept until the next start. A guest that has come is announced.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/vhost.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>

#include "consumer_priv.h"
#include "notice.h"
#include "saved_state.h"
#include "vdpa_log.h"

void
vdpa_consumer_keep_state(struct vdpa_consumer *c, bool keep)
{
	CONSUMER_LOCKED(c);

	c->keeps_state = keep;
}

void
consumer_forget_driver_state(struct vdpa_consumer *c)
{
	free(c->driver_state);
	c->driver_state = NULL;
	c->driver_state_len = 0;
	c->driver_state_us = 0;
	c->driver_state_lost = c->driver_state_failed = false;
	c->driver_state_taken = c->driver_state_loaded = c->driver_state_kept = false;
}

void
consumer_lose_driver_state(struct vdpa_consumer *c)
{
	struct vdpa_error_saved error;

	if (!c->keeps_state || c->driver_state_lost)
		return;
	vdpa_error_save(&error);
	consumer_forget_driver_state(c);
	c->driver_state_taken = c->driver_state_lost = c->driver_state_failed = true;
	(void)consumer_check_alive(c);
	vdpa_error_save(&c->driver_state_error);
	vdpa_error_restore(&error);
}

void
consumer_take_driver_state(struct vdpa_consumer *c)
{
	int64_t begun_us;
	int rc;

	/* Where the first queue's stop is a reset, the second one's comes after it. */
	if (!c->keeps_state || c->driver_state_taken || !consumer_runs(c))
		return;
	consumer_forget_driver_state(c);
	c->driver_state_taken = true;
	begun_us = vdpa_now_us();
	rc = consumer_check_alive(c);
	c->driver_state_failed = rc < 0;
	if (rc == 0)
		rc = vdpa_device_save_driver_state(c->vdev, &c->driver_state, &c->driver_state_len);
	c->driver_state_us = vdpa_now_us() - begun_us;
	if (rc == 0)
		return;
	/* Said when somebody wants it: most stops are no migration. */
	c->driver_state_lost = true;
	vdpa_error_save(&c->driver_state_error);
}

bool
consumer_stops_as_a_whole(const struct vdpa_consumer *c)
{
	return !c->can->late_vqs && !c->can->suspend && !c->can->vq_reset;
}

static int
check_still(struct vdpa_consumer *c)
{
	bool runs = consumer_runs(c) || c->state == CONSUMER_SETTLING;

	/* A function's queues stand still. */
	if (c->function ? runs && !c->held : runs)
		return vdpa_error(EBUSY, "%s: the device runs; its queues must be stopped first",
				  c->vdev->name);
	return 0;
}

/* Where the queues stand, as GET_VRING_BASE has said or would say. */
static void
collect_places(const struct vdpa_consumer *c, struct vdpa_saved_state *s)
{
	for (uint16_t i = 0; i < c->nvqs; i++) {
		const struct consumer_vq *vq = &c->vqs[i];
		uint32_t num = vq->num != 0 ? vq->num : vq->place_num;

		s->vqs[i] = (struct vdpa_saved_vq){
			.known = vq->base != CONSUMER_NOT_SET && num != 0,
			.num = num,
			.base = (uint32_t)vq->base,
		};
	}
}

/* Of virtio alone; of a function, those of the device behind it. */
static uint64_t
saved_features(const struct vdpa_consumer *c)
{
	if (c->features == CONSUMER_NOT_SET)
		return 0;
	if (c->function)
		return c->features & vdpa_consumer_function_features(c->vdev);
	return c->features &
	       ~(RTE_BIT64(VHOST_F_LOG_ALL) | RTE_BIT64(VHOST_USER_F_PROTOCOL_FEATURES));
}

static int
save_state(struct vdpa_consumer *c, uint8_t **buf, size_t *len)
{
	struct vdpa_saved_state s;
	int rc = check_still(c);

	/* One that has been held since its start. */
	if (rc == 0 && c->function)
		consumer_take_driver_state(c);
	if (rc == 0 && c->driver_state_lost) {
		vdpa_error_restore(&c->driver_state_error);
		rc = -EIO;
	}
	if (rc == 0)
		rc = vdpa_saved_state_of(c->vdev, &s);
	if (rc < 0)
		return rc;
	s.features = saved_features(c);
	collect_places(c, &s);
	s.driver = c->driver_state;
	s.driver_len = c->driver_state_len;
	*len = vdpa_saved_state_size(&s);
	*buf = malloc(*len);
	if (*buf == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	vdpa_saved_state_write(&s, *buf);
	vdpa_notice(VDPA_NOTICE_MIGRATION, c->vdev->name, "saved");
	return 0;
}

int
vdpa_consumer_save_state(struct vdpa_consumer *c, uint8_t **buf, size_t *len)
{
	CONSUMER_LOCKED(c);
	/* The driver's part was taken at the stop. */
	int64_t begun_us = vdpa_now_us() - c->driver_state_us;
	int rc = save_state(c, buf, len);

	vdpa_phase_end(c->vdev, VDPA_PHASE_SAVE, begun_us);
	return rc;
}

/* What a front end then says by SET_VRING_BASE counts, as ever. */
static void
apply_places(struct vdpa_consumer *c, const struct vdpa_saved_state *s)
{
	bool packed = (s->features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;

	for (uint16_t i = 0; i < c->nvqs; i++) {
		if (!s->vqs[i].known)
			continue;
		c->vqs[i].base = s->vqs[i].base;
		c->vqs[i].placed = false;
		if (c->function)
			consumer_vq_load_place(c, i, packed);
		c->vqs[i].place_num = s->vqs[i].num;
	}
}

/* The next start is to load it. Nothing fails behind the copy. */
static int
copy_driver_state(const uint8_t *buf, size_t len, uint8_t **copy)
{
	*copy = NULL;
	if (len == 0)
		return 0;
	*copy = malloc(len);
	if (*copy == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	memcpy(*copy, buf, len);
	return 0;
}

static void
load_driver_state(struct vdpa_consumer *c, uint8_t *copy, size_t len)
{
	consumer_forget_driver_state(c);
	if (copy == NULL)
		return;
	c->driver_state = copy;
	c->driver_state_len = len;
	c->driver_state_loaded = true;
}

static int
load_state(struct vdpa_consumer *c, const uint8_t *buf, size_t len)
{
	struct vdpa_saved_state s;
	uint8_t *driver = NULL;
	int rc = check_still(c);

	if (rc == 0)
		rc = vdpa_saved_state_read(&s, buf, len);
	if (rc == 0)
		rc = vdpa_saved_state_check(c->vdev,
					    c->function
						    ? vdpa_consumer_function_features(c->vdev)
						    : vdpa_consumer_offered_features(c->vdev, true),
					    c->nvqs, &s);
	if (rc == 0)
		rc = vdpa_device_try_driver_state(c->vdev, consumer_device_features(c, s.features),
						  s.driver, s.driver_len);
	if (rc == 0)
		rc = copy_driver_state(s.driver, s.driver_len, &driver);
	if (rc < 0)
		return rc;
	/* Nothing fails any more. */
	apply_places(c, &s);
	vdpa_notice(VDPA_NOTICE_MIGRATION, c->vdev->name, "loaded");
	c->arrived = true;
	load_driver_state(c, driver, s.driver_len);
	return 0;
}

int
vdpa_consumer_load_state(struct vdpa_consumer *c, const uint8_t *buf, size_t len)
{
	CONSUMER_LOCKED(c);
	int64_t begun_us = vdpa_now_us();
	int rc = load_state(c, buf, len);

	vdpa_phase_end(c->vdev, VDPA_PHASE_LOAD, begun_us);
	return rc;
}

int
vdpa_consumer_resume_state(struct vdpa_consumer *c, const uint8_t *buf, size_t len)
{
	CONSUMER_LOCKED(c);
	uint8_t *driver = NULL;
	int rc = check_still(c);

	if (rc == 0)
		rc = vdpa_device_try_driver_state(c->vdev, consumer_device_features(c, c->features),
						  buf, len);
	if (rc == 0)
		rc = copy_driver_state(buf, len, &driver);
	if (rc < 0)
		return rc;
	load_driver_state(c, driver, len);
	c->driver_state_kept = true;
	return 0;
}

bool
vdpa_consumer_holds_state(struct vdpa_consumer *c)
{
	CONSUMER_LOCKED(c);

	return !consumer_runs(c) && !c->driver_state_kept &&
	       (c->driver_state != NULL || (c->driver_state_lost && !c->driver_state_failed));
}

/* On arrival. */

static int
announce(struct vdpa_consumer *c, const uint8_t mac[6])
{
	int rc = vdpa_device_announce(c->vdev, mac);

	if (rc < 0 && rc != -EOPNOTSUPP)
		VDPA_LOG_LIMITED(&c->vdev->core->log, WARNING, "%s: the guest is not announced: %s",
				 c->vdev->name,
				 vdpa_error_cause(vdpa_error_message(), c->vdev->name, -1));
	return rc;
}

/*
 * A front end that keeps the control queue has its guest announce itself, or says by which address
 * it is to be done. Of one that leaves it to the device, the device asks the guest, and it alone
 * has the guest's address.
 */
void
consumer_announce_arrival(struct vdpa_consumer *c)
{
	bool own = c->arrived && vdpa_get_device_id(c->vdev) == VIRTIO_ID_NET &&
		   consumer_has(c, VIRTIO_NET_F_CTRL_VQ);

	if (c->announces)
		(void)announce(c, c->announced_mac);
	else if (own && vdpa_get_config(c->vdev, offsetof(struct virtio_net_config, mac),
					c->announced_mac, sizeof(c->announced_mac)) == 0)
		(void)announce(c, c->announced_mac);
	c->arrived = c->announces = false;
}

int
vdpa_consumer_announce(struct vdpa_consumer *c, const uint8_t mac[6])
{
	CONSUMER_LOCKED(c);

	if (consumer_runs(c))
		return announce(c, mac);
	c->announces = true;
	memcpy(c->announced_mac, mac, sizeof(c->announced_mac));
	return 0;
}
