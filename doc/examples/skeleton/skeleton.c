/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A driver to begin with: virtio functions of a vendor, with one thing beside virtio. Everything
 * that virtio has is the service's (vdpa_virtio.h); here stands what is the vendor's own.
 *
 * The function is made up. It is virtio, and BAR 4 has the ring state: 16 bits a queue, by which a
 * queue starts at any place and says where it stopped. A 0 in queue_enable stops a queue.
 * vdpa-model plays it:
 *
 *	vdpa-model --dev "name m0 mgmtdev sim_net function ifcvf ring_state queue
 *		pci_id 1af4:1041 pci_sub 1234:0001 vfio_user /tmp/m0.sock"
 *
 * Build it with make, or by hand; then give it to a program by -d:
 *
 *	cc -O2 -Wall -shared -fPIC skeleton.c -o skeleton.so $(pkg-config --cflags --libs uvdpa)
 *	test-vdpa conformance -d ./skeleton.so --dev "mgmtdev vfio-user//tmp/m0.sock"
 */

#include <errno.h>
#include <string.h>

#include <linux/virtio_config.h>

#include <vdpa_virtio.h>

/* Ids. These are an example: put yours. */
#define VENDOR_VIRTIO  0x1af4
#define VENDOR_EXAMPLE 0x1234

#define STATE_BAR   4u
#define STATE_START 0x20u /* the first queue's register, bytes */
#define STATE_STEP  4u	  /* bytes to the next queue's */

/* A device. What is here beside the service's device is the driver's; leave it out, and .size in
 * the kind, where there is nothing. */
struct skeleton {
	struct vdpa_virtio_device virtio; /* first */
	uint64_t places;		  /* ring states loaded, for the statistics; __atomic */
};

static struct skeleton *
skeleton(struct vdpa_device *vdev)
{
	return (struct skeleton *)(void *)vdev;
}

static bool
is_packed(struct vdpa_device *vdev)
{
	return (vdpa_virtio_features(vdpa_virtio_device(vdev)) >> VIRTIO_F_RING_PACKED & 1) != 0;
}

/*
 * Ops that the function has otherwise than virtio. Each is called with the device's lock held
 * (vdpa_driver.h says which are not), so one at a time; each may call through to the service's.
 */

static uint64_t
state_at(uint16_t idx)
{
	return STATE_START + (uint64_t)idx * STATE_STEP;
}

/* Before the queue is ready. The core has checked that there is such a queue. */
static int
skeleton_set_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state)
{
	struct vdpa_virtio_pci *hw = vdpa_virtio_device(vdev)->hw;

	/* The register has no room for a packed ring's state. The service's op knows what virtio
	 * does: it loads the beginning, and refuses every other place. */
	if (is_packed(vdev))
		return vdpa_virtio_ops()->set_vq_state(vdev, idx, state);
	vdpa_pci_write16(hw->pci, STATE_BAR, state_at(idx), state->split.avail_index);
	__atomic_fetch_add(&skeleton(vdev)->places, 1, __ATOMIC_RELAXED);
	/* Writes do not fail one by one: ask once, at the end, whether the function still answers.
	 */
	return vdpa_virtio_pci_check(hw);
}

/* -EOPNOTSUPP where the function cannot say: the core looks at the ring then. Never guess. */
static int
skeleton_get_vq_state(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	struct vdpa_virtio_device *dev = vdpa_virtio_device(vdev);

	if (is_packed(vdev))
		return vdpa_virtio_ops()->get_vq_state(vdev, idx, state);
	if (vdpa_virtio_vq_runs(dev, idx))
		return vdpa_error(EOPNOTSUPP, "queue %u runs: its place changes", idx);
	memset(state, 0, sizeof(*state));
	state->split.avail_index = vdpa_pci_read16(dev->hw->pci, STATE_BAR, state_at(idx));
	return vdpa_virtio_pci_check(dev->hw);
}

/* The service suspends by queue_enable, since the kind says that it stops queues. */
static int
skeleton_suspend(struct vdpa_device *vdev)
{
	if (is_packed(vdev))
		return vdpa_error(EOPNOTSUPP, "the function keeps no place in a packed ring");
	return vdpa_virtio_ops()->suspend(vdev);
}

/* From any thread, without the lock. */
static int
skeleton_get_stats(struct vdpa_device *vdev, struct vdpa_stat *stats, unsigned int n)
{
	int count = vdpa_virtio_ops()->get_stats(vdev, stats, n);

	if (count < 0)
		return count;
	if ((unsigned int)count < n)
		stats[count] = (struct vdpa_stat){
			"places", __atomic_load_n(&skeleton(vdev)->places, __ATOMIC_RELAXED)};
	return count + 1;
}

/*
 * The device is found and reset, and not on the bus yet. The function is not trusted: what it is
 * said to have is looked for before anything is read or written there. A message names the
 * function, the fact, and what to do.
 */
static int
skeleton_init(struct vdpa_virtio_device *dev, const struct vdpa_args *args)
{
	struct vdpa_pci *pci = dev->hw->pci;
	uint16_t n = dev->vdev.config->get_vq_count(&dev->vdev);

	if (((dev->hw->cap_bars | vdpa_pci_msix_bars(pci)) & 1u << STATE_BAR) != 0)
		return vdpa_error(ENOTSUP,
				  "%s: BAR %u has structures of virtio or MSI-X, and no ring "
				  "state: give ring_state off",
				  vdpa_pci_name(pci), STATE_BAR);
	if (!vdpa_pci_bar_has(pci, STATE_BAR, state_at((uint16_t)(n - 1)), sizeof(uint16_t)))
		return vdpa_error(EPROTO,
				  "%s: BAR %u is too small for the ring state of %u queues: give "
				  "ring_state off",
				  vdpa_pci_name(pci), STATE_BAR, n);
	return 0;
}

/* What is NULL here is the service's. */
static const struct vdpa_config_ops ops = {
	.size = sizeof(ops),
	.set_vq_state = skeleton_set_vq_state,
	.get_vq_state = skeleton_get_vq_state,
	.suspend = skeleton_suspend,
	.get_stats = skeleton_get_stats,
};

static const struct vdpa_virtio_kind with_ring_state = {
	.size = sizeof(struct skeleton),
	.ops = &ops,
	.init = skeleton_init,
	.queue_enable_stops = true,
};

/* Virtio as it is. */
static const struct vdpa_virtio_kind plain;

/* The words have been checked against the table below. */
static int
skeleton_add(struct vdpa_driver *drv, struct vdpa_mgmt_dev *mdev, struct vdpa_pci *pci,
	     const char *name, const struct vdpa_args *args)
{
	const struct vdpa_arg *arg = vdpa_args_find(args, "ring_state");
	bool off = arg != NULL && strcmp(arg->choice->name, "off") == 0;

	return vdpa_virtio_add(off ? &plain : &with_ring_state, mdev, pci, name, args);
}

static const struct vdpa_param_choice on_off[] = {
	{.name = "on", .help = "a queue starts at any place and says where it stopped"},
	{.name = "off", .help = "as virtio has it; nothing is written to BAR 4"},
	{0},
};

/* Checked, and shown by --help, before there is a device. */
static const struct vdpa_param params[] = {
	VDPA_VIRTIO_PARAMS,
	{.name = "ring_state",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = on_off,
	 .help = "the function's ring state (default: on)"},
	{0},
};

/* A row with a subsystem is more specific than those of the driver virtio: it wins. */
static const struct vdpa_pci_match ids[] = {
	{.vendor = VENDOR_VIRTIO,
	 .device = 0x1041,
	 .subsystem_vendor = VENDOR_EXAMPLE,
	 .subsystem = 0x0001},
	{.vendor = VENDOR_VIRTIO,
	 .device = 0x1042,
	 .subsystem_vendor = VENDOR_EXAMPLE,
	 .subsystem = 0x0002},
	{0},
};

static struct vdpa_driver skeleton_driver = {
	.name = "skeleton",
	.help = "example function (net or block), with ring state",
	.params = params,
	.pci_ids = ids,
	.pci_add = skeleton_add,
};
VDPA_REGISTER_DRIVER(skeleton_driver);
