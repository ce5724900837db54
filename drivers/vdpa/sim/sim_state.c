/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The ops by which a class' own state goes to another host, and how another process hears of it.
 * Until DRIVER_OK the worker does not know the device, so a state that is loaded is taken on the
 * caller's thread, and a reset forgets it as it forgets what a driver has set.
 */

#include "sim_priv.h"

static int
work_save(void *arg)
{
	struct sim_work *w = arg;

	return w->dev->class->save_state(w->dev, w->to, w->len);
}

int
sim_save_state(struct vdpa_device *vdev, void *buf, size_t *len)
{
	struct sim_device *dev = sim_dev(vdev);
	int n = dev->class->save_state == NULL
			? 0
			: sim_on_worker(work_save,
					(struct sim_work){.dev = dev, .to = buf, .len = *len});

	*len = n < 0 ? SIM_STATE_MAX : (size_t)n;
	return n < 0 ? n : 0;
}

static int
work_load(void *arg)
{
	struct sim_work *w = arg;

	return w->dev->class->load_state(w->dev, w->buf, w->len);
}

int
sim_load_state(struct vdpa_device *vdev, const void *buf, size_t len)
{
	struct sim_device *dev = sim_dev(vdev);

	if (dev->class->load_state == NULL)
		return vdpa_error(EINVAL, "%zu bytes of state, which a %s has not", len,
				  dev->class->name);
	dev->loaded = true;
	return sim_on_worker(work_load, (struct sim_work){.dev = dev, .buf = buf, .len = len});
}

void
sim_state_changed(struct sim_device *dev)
{
	uint8_t state[SIM_STATE_MAX];
	int n = dev->class->save_state(dev, state, sizeof(state));

	/* One that cannot be said is one that is lost. */
	vdpa_device_state_changed(&dev->vdev, state, n >= 0 ? (size_t)n : VDPA_STATE_MAX + 1);
}
