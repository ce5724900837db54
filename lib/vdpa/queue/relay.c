/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The relay: how used buffers pass from the device's used ring to the guest's, and heads from the
 * guest's avail ring to the device's. When they pass is mover.c.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <linux/virtio_config.h>

#include <rte_common.h>

#include "error_priv.h"
#include "mover_priv.h"
#include "relay.h"
#include "vdpa_error.h"

#define BURST VDPA_MOVER_BURST

struct relay {
	struct vdpa_mover m;
	bool in_order;
	/* The last burst that was used: from `at` on it is not the guest's yet. */
	unsigned int n, at;
	uint16_t heads[BURST];
	uint32_t written[BURST];
};

/* What the device says to have written of a used chain. False: it cannot be handed over. */
static bool
check_used(struct vdpa_mover *m, uint16_t head, uint32_t *len)
{
	const bool all = *len == UINT32_MAX && ((struct relay *)m)->in_order;
	char why[96];
	uint32_t said = *len;
	int rc = *len == UINT32_MAX && !all
			 ? -EMSGSIZE
			 : vdpa_vq_passed_used(m->guest, head, len, !m->lengths_tell);

	if (likely(rc == 0))
		return true;
	if (rc == -EMSGSIZE) {
		snprintf(why, sizeof(why), "used id %u: %u bytes written, more than it holds", head,
			 said);
		vdpa_mover_fail_device(m, why);
	} else {
		vdpa_mover_fail_guest(m, -rc);
	}
	return false;
}

/* The next burst. False: there is none. */
static bool
take_used(struct relay *r)
{
	int got = vdpa_vring_take_burst(r->m.ring, r->heads, r->written, BURST);

	r->at = 0;
	r->n = got > 0 ? (unsigned int)got : 0;
	if (r->n == 0)
		return false;
	vdpa_vq_prefetch_used(r->m.guest, r->n);
	return true;
}

/* To walk a chain is the guest's to make long: a burst may end before all of it is done. */
static unsigned int
relay_complete(struct vdpa_mover *m, bool *more)
{
	struct relay *r = (struct relay *)m;
	const uint64_t begun = vdpa_vq_walked(m->guest);
	unsigned int i, first;

	if (likely(r->at == r->n) && !take_used(r))
		return 0;
	first = i = r->at;
	while (vdpa_vq_walked(m->guest) - begun <= VDPA_MOVER_DESCS) {
		i += vdpa_vq_push_passed(m->guest, &r->heads[i], &r->written[i], r->n - i,
					 !m->lengths_tell);
		if (likely(i == r->n))
			break;
		if (unlikely(!check_used(m, r->heads[i], &r->written[i])))
			break;
		vdpa_vq_push(m->guest, &(struct vdpa_vq_chain){.id = r->heads[i], .ndesc = 1},
			     r->written[i]);
		i++;
	}
	*more = i < r->n || r->n == BURST;
	r->at = i;
	return i - first;
}

static unsigned int
relay_forward(struct vdpa_mover *m, bool *more)
{
	uint16_t heads[BURST];
	int n = vdpa_vq_pass(m->guest, heads, BURST);

	if (unlikely(n < 0)) {
		vdpa_mover_fail_guest(m, -n);
		return 0;
	}
	if (unlikely(vdpa_vring_add_heads(m->ring, heads, (unsigned int)n) != (unsigned int)n)) {
		vdpa_mover_fail(m, EPROTO, "",
				"a descriptor chain that the device has was made available again");
		return 0;
	}
	*more = n == BURST;
	return (unsigned int)n;
}

static bool
relay_arm(struct vdpa_mover *m)
{
	return vdpa_vq_enable_kicks(m->guest);
}

static void
relay_free(struct vdpa_mover *m)
{
	free(m);
}

static const struct vdpa_mover_kind relay_kind = {
	.name = "relay",
	.complete = relay_complete,
	.forward = relay_forward,
	.arm = relay_arm,
	.free = relay_free,
};

int
vdpa_relay_create(const struct vdpa_mover_params *params, struct vdpa_mover **out)
{
	struct vdpa_mover_params own = *params;
	struct relay *r;
	int rc;

	if ((params->guest.features >> VIRTIO_F_RING_PACKED & 1) != 0 ||
	    params->guest.inflight.addr != NULL)
		return vdpa_error(EOPNOTSUPP,
				  "a relay has split rings without an inflight area only");
	r = calloc(1, sizeof(*r));
	if (r == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	r->in_order = (params->guest.features >> VIRTIO_F_IN_ORDER & 1) != 0;
	own.ring = (struct vdpa_vring_params){
		.features = params->guest.features,
		.num = params->guest.num,
		.driver = params->ring.driver,
		.device = params->ring.device,
		.place = params->guest.state,
	};
	rc = vdpa_mover_init(&r->m, &relay_kind, &own);
	if (rc < 0) {
		vdpa_mover_free(&r->m);
		return rc;
	}
	*out = &r->m;
	return 0;
}
