/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A device of this process, made by `dev add` and driven by the calls for front ends. test-vdpa is
 * its front end: one that has no consumer behind it but the cases.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <linux/virtio_config.h>

#include <vdpa.h>

#include "target.h"

#define DEVICE_NAME "test-vdpa0"

/* One device at a time: the front end's callbacks find it here. */
struct core_target {
	struct vdpa_device *vdev;
	unsigned int config_changes; /* atomic: counted on the control loop */
};

static struct core_target the_target;

static struct vdpa_device *
device(const struct target *t)
{
	return ((struct core_target *)t->priv)->vdev;
}

static int
frontend_probe(struct vdpa_device *vdev, const struct vdpa_args *args)
{
	vdpa_get_device(vdev);
	the_target.vdev = vdev;
	return 0;
}

static void
frontend_remove(struct vdpa_device *vdev)
{
}

static void
frontend_config_changed(struct vdpa_device *vdev)
{
	__atomic_add_fetch(&the_target.config_changes, 1, __ATOMIC_RELAXED);
}

static const struct vdpa_frontend_ops frontend_ops = {
	.probe = frontend_probe,
	.remove = frontend_remove,
	.config_changed = frontend_config_changed,
};

static const struct vdpa_param frontend_params[] = {{.name = NULL}};

static struct vdpa_frontend frontend = {
	.name = "test-vdpa",
	.help = "the cases of test-vdpa",
	.ops = &frontend_ops,
	.params = frontend_params,
};

static void
core_close(struct target *t)
{
	vdpa_dev_del(DEVICE_NAME);
	vdpa_put_device(device(t));
	vdpa_unregister_frontend(&frontend);
	memset(&the_target, 0, sizeof(the_target));
}

static int
core_get_config(struct target *t, size_t offset, void *buf, size_t len)
{
	return vdpa_get_config(device(t), offset, buf, len);
}

static int
core_get_status(struct target *t)
{
	return vdpa_get_status(device(t));
}

static int
core_set_status(struct target *t, uint8_t status)
{
	return status == 0 ? vdpa_reset(device(t)) : vdpa_set_status(device(t), status);
}

static int
core_set_features(struct target *t, uint64_t features)
{
	return vdpa_set_driver_features(device(t), features);
}

static int
core_set_place(struct target *t, uint16_t idx, const struct vdpa_vq_state *place)
{
	return vdpa_set_vq_state(device(t), idx, place);
}

static int
core_suspend(struct target *t)
{
	return vdpa_suspend(device(t));
}

static int
core_resume(struct target *t)
{
	return vdpa_resume(device(t));
}

static int
core_start(struct target *t, const struct vdpa_start_config *conf)
{
	return vdpa_device_start(device(t), conf);
}

static int
core_stop(struct target *t)
{
	return vdpa_device_stop(device(t));
}

static int
core_start_vq(struct target *t, uint16_t idx, const struct vdpa_vq_config *conf)
{
	return vdpa_device_start_vq(device(t), idx, conf);
}

static int
core_stop_vq(struct target *t, uint16_t idx, struct vdpa_vq_state *state)
{
	return vdpa_device_stop_vq(device(t), idx, state);
}

static int
core_enable_vq(struct target *t, uint16_t idx, bool enable)
{
	return vdpa_device_enable_vq(device(t), idx, enable);
}

static int
core_set_call(struct target *t, uint16_t idx, int fd)
{
	return vdpa_device_set_vq_call(device(t), idx, fd);
}

static int
core_set_kick(struct target *t, uint16_t idx, int fd)
{
	return vdpa_device_set_vq_kick(device(t), idx, fd);
}

static int
core_set_memory(struct target *t, struct vdpa_iotlb *tlb)
{
	return vdpa_device_set_memory(device(t), tlb);
}

static int
core_set_log(struct target *t, const struct target_log *log, const uint64_t *used_iova)
{
	struct vdpa_dirty_log dirty;

	if (log == NULL)
		return vdpa_device_set_log(device(t), NULL, NULL);
	dirty = (struct vdpa_dirty_log){.bitmap = log->bitmap, .size = log->size, .fd = log->fd};
	return vdpa_device_set_log(device(t), &dirty, used_iova);
}

static int
core_doorbell(struct target *t, uint16_t idx, struct vdpa_notification_area *area)
{
	return vdpa_get_vq_notification(device(t), idx, area);
}

static int
core_change_config(struct target *t, bool back)
{
	int rc;

	if (t->device_id != TARGET_NET)
		return vdpa_error(EOPNOTSUPP,
				  "nothing in a configuration of device id %u is known "
				  "to change on demand",
				  t->device_id);
	rc = vdpa_dev_set(back ? DEVICE_NAME " link up" : DEVICE_NAME " link down");
	return rc == -EINVAL ? -EOPNOTSUPP : rc;
}

static unsigned int
core_config_changes(struct target *t)
{
	return __atomic_load_n(&the_target.config_changes, __ATOMIC_RELAXED);
}

static void
core_failure(struct target *t, char *buf, size_t len)
{
	vdpa_device_failure(device(t), buf, len);
	if (buf[0] == '\0' && vdpa_device_get_state(device(t)) == VDPA_STATE_FAILED)
		snprintf(buf, len, "the device does not reset");
}

static const struct target_ops core_ops = {
	.close = core_close,
	.get_config = core_get_config,
	.get_status = core_get_status,
	.set_status = core_set_status,
	.set_features = core_set_features,
	.set_place = core_set_place,
	.suspend = core_suspend,
	.resume = core_resume,
	.start = core_start,
	.stop = core_stop,
	.start_vq = core_start_vq,
	.stop_vq = core_stop_vq,
	.enable_vq = core_enable_vq,
	.set_call = core_set_call,
	.set_kick = core_set_kick,
	.set_memory = core_set_memory,
	.set_log = core_set_log,
	.doorbell = core_doorbell,
	.change_config = core_change_config,
	.config_changes = core_config_changes,
	.failure = core_failure,
};

/* What the words say of the simulated devices' back ends; of others nothing is known. */
static void
look_at_words(struct target *t, const char *words)
{
	if (strstr(words, "mgmtdev sim_net") != NULL)
		t->echoes = strstr(words, "backend") == NULL ||
			    strstr(words, "backend loopback") != NULL;
	t->keeps_disk =
		strstr(words, "mgmtdev sim_blk") == NULL || strstr(words, "backend ram") == NULL;
}

int
target_core_open(struct target *t, const char *words)
{
	char text[TARGET_WORDS_MAX];
	struct vdpa_device *vdev;
	int rc;

	memset(t, 0, sizeof(*t));
	if (strncmp(words, "name ", 5) == 0)
		return vdpa_error(EINVAL,
				  "--dev: name is not given here: the device's name is " DEVICE_NAME
				  "; leave out 'name NAME'");
	if (snprintf(text, sizeof(text), "name " DEVICE_NAME " %s frontend test-vdpa", words) >=
	    (int)sizeof(text))
		return vdpa_error(EINVAL, "--dev: longer than %d characters", TARGET_WORDS_MAX);
	rc = vdpa_register_frontend(&frontend);
	if (rc < 0)
		return rc;
	rc = vdpa_dev_add(text);
	if (rc < 0) {
		vdpa_unregister_frontend(&frontend);
		if (the_target.vdev != NULL)
			vdpa_put_device(the_target.vdev);
		memset(&the_target, 0, sizeof(the_target));
		return rc;
	}
	vdev = the_target.vdev;
	t->ops = &core_ops;
	t->how = "in-process";
	t->priv = &the_target;
	snprintf(t->where, sizeof(t->where), "%s", words);
	t->device_id = vdpa_get_device_id(vdev);
	/* The same from registration on: these ops may be called without the device's lock. */
	t->vendor_id = vdev->config->get_vendor_id(vdev);
	t->num_max = vdev->config->get_vq_num_max(vdev);
	t->features = vdpa_get_device_features(vdev);
	t->must =
		t->features & (1ULL << VIRTIO_F_ACCESS_PLATFORM | 1ULL << VIRTIO_F_ORDER_PLATFORM);
	t->can = vdpa_get_capabilities(vdev);
	t->nvqs = vdpa_get_vq_count(vdev);
	t->config_size = vdpa_get_config_size(vdev);
	t->dma = vdev->dma != NULL		 ? "the core's domain"
		 : vdev->config->set_map != NULL ? "the driver, whole tables"
		 : vdev->config->dma_map != NULL ? "the driver, region by region"
						 : "none";
	t->pid = getpid();
	look_at_words(t, words);
	return 0;
}
