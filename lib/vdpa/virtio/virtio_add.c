/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * How a device comes of a function and goes: what the function has, what the words make of it, and
 * the watch for its error and removal.
 */

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <rte_byteorder.h>
#include <rte_common.h>

#include "clock.h"
#include "error_priv.h"
#include "op.h"
#include "vdpa_log.h"
#include "pci_name.h"
#include "virtio_owner.h"
#include "virtio_priv.h"
#include "virtio_type.h"

/* Where a field of a net device's configuration is (5.1.4). */
#define NET_CONFIG(field) offsetof(struct virtio_net_config, field)

/* Error and removal, signalled by the transport; on the control loop. */
static void
on_gone(struct vdpa_event *ev, uint32_t revents)
{
	struct virtio_device *dev = ev->arg;
	int err;

	if (!vdpa_eventfd_take(ev->fd))
		return;
	/* After the signal, which comes when the cause is known. */
	err = vdpa_pci_error(dev->hw.pci);
	if (err < 0)
		vdpa_device_gone(dev->vdev, err, "%s", vdpa_pci_error_text(dev->hw.pci));
	else if (ev == &dev->gone[VDPA_PCI_EVENT_REMOVE])
		vdpa_device_gone(dev->vdev, ENODEV,
				 "the system asks for %s back: delete the device",
				 vdpa_pci_name(dev->hw.pci));
	else
		vdpa_device_fail(dev->vdev, -1, EIO, "%s has an uncorrectable error",
				 vdpa_pci_name(dev->hw.pci));
}

static int
watch(struct virtio_device *dev, enum vdpa_pci_event event)
{
	struct vdpa_event *ev = &dev->gone[event];
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), rc;

	if (fd < 0)
		return vdpa_error(errno, "%s: eventfd: %s", dev->vdev->name, strerror(errno));
	*ev = (struct vdpa_event){.fd = fd, .events = EPOLLIN, .handler = on_gone, .arg = dev};
	rc = vdpa_event_add(vdpa_event_loop_control(), ev);
	if (rc < 0)
		return vdpa_error(rc, "%s: event loop: %s", dev->vdev->name, strerror(-rc));
	rc = vdpa_pci_event_set(dev->hw.pci, event, fd);
	/* One that cannot tell is found out by its answers. */
	return rc == -EOPNOTSUPP ? 0 : rc;
}

static void
unwatch(struct virtio_device *dev, enum vdpa_pci_event event)
{
	struct vdpa_event *ev = &dev->gone[event];

	if (ev->fd < 0)
		return;
	vdpa_pci_event_set(dev->hw.pci, event, -1);
	vdpa_event_del(ev);
	close(ev->fd);
	ev->fd = -1;
}

static void
destroy(struct virtio_device *dev)
{
	if (dev->kind_init && dev->pub->kind->free != NULL)
		dev->pub->kind->free(dev->pub);
	virtio_kept_let_be(dev);
	unwatch(dev, VDPA_PCI_EVENT_ERROR);
	unwatch(dev, VDPA_PCI_EVENT_REMOVE);
	/* A device that did not reset loses its reach before the memory. */
	vdpa_pci_set_bus_master(dev->hw.pci, false);
	virtio_irq_free(dev);
	if (dev->vdev != NULL)
		virtio_ctrl_release(dev);
	virtio_pci_unmap_doorbells(&dev->hw);
	virtio_kept_settle(dev, false);
	virtio_owner_put(dev->owner);
	if (dev->has_pci)
		vdpa_pci_close(dev->hw.pci);
	free(dev->vqs);
	free(dev);
}

void
virtio_device_free(struct vdpa_device *vdev)
{
	if (virtio_dev(vdev) != NULL)
		destroy(virtio_dev(vdev));
}

static int
read_config16(struct virtio_device *dev, uint32_t at, uint16_t *value)
{
	int rc = vdpa_virtio_pci_read_config(&dev->hw, at, value, sizeof(*value));

	*value = rte_le_to_cpu_16(*value);
	return rc;
}

/* Pairs of a net device: as many as it has, or as the word says. */
static int
count_pairs(struct virtio_device *dev, const struct vdpa_args *args)
{
	const struct vdpa_arg *word = vdpa_args_find(args, "max_vqp");
	uint64_t mq = RTE_BIT64(VIRTIO_NET_F_MQ) | RTE_BIT64(VIRTIO_NET_F_CTRL_VQ);
	uint64_t pairs;
	int rc;

	dev->hw_pairs = 1;
	if ((dev->hw_features & mq) == mq &&
	    dev->config_size >= NET_CONFIG(max_virtqueue_pairs) + sizeof(uint16_t)) {
		rc = read_config16(dev, NET_CONFIG(max_virtqueue_pairs), &dev->hw_pairs);
		if (rc < 0)
			return rc;
		/* Between 1 and 0x8000 (5.1.4.1); each has two queues, and the control queue's
		 * number must be one. */
		if (dev->hw_pairs < 1 || dev->hw_pairs >= UINT16_MAX / 2)
			return vdpa_error(EPROTO, "%s: the device says that it has %u queue pairs",
					  vdpa_pci_name(dev->hw.pci), dev->hw_pairs);
	}
	pairs = RTE_MIN(dev->hw_pairs, VDPA_VQ_MAX / 2);
	if (word != NULL && word->u64 > pairs)
		return vdpa_error(EINVAL, "max_vqp %" PRIu64 ": the device has %" PRIu64, word->u64,
				  pairs);
	dev->nvqs = (uint16_t)(2 * (word != NULL ? word->u64 : pairs));
	return 0;
}

static int
find_queues(struct virtio_device *dev, const struct vdpa_args *args)
{
	const char *name = vdpa_pci_name(dev->hw.pci);
	uint16_t have = virtio_pci_num_queues(&dev->hw);
	bool net = dev->hw.type == VIRTIO_ID_NET;
	uint64_t limit;
	int rc;

	if (net) {
		rc = count_pairs(dev, args);
		if (rc < 0)
			return rc;
		/* Of one that runs without MQ the others do not show. */
		if (have < dev->nvqs && !dev->hw.adopts)
			return vdpa_error(EPROTO,
					  "%s: the device has %u queues, its %u pairs need "
					  "%u",
					  name, have, dev->nvqs / 2, dev->nvqs);
	} else {
		dev->nvqs = RTE_MIN(have, VDPA_VQ_MAX);
	}
	if (dev->nvqs == 0)
		return vdpa_error(EPROTO, "%s: the device has no queues", name);
	dev->vqs = calloc(dev->nvqs, sizeof(dev->vqs[0]));
	if (dev->vqs == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	for (uint16_t i = 0; i < dev->nvqs; i++) {
		dev->vqs[i].call_fd = -1;
		rc = dev->hw.adopts ? virtio_kept_queue_info(dev, i, &dev->vqs[i].info)
				    : virtio_pci_vq_info(&dev->hw, i, &dev->vqs[i].info);
		if (rc < 0)
			return rc;
		if (dev->vqs[i].info.num_max == 0 || dev->vqs[i].info.num_max > VDPA_VQ_NUM_MAX)
			return vdpa_error(EPROTO,
					  "%s: queue %u of %u: the device gives its size "
					  "as %u",
					  name, i, dev->nvqs, dev->vqs[i].info.num_max);
		if (!dev->vqs[i].info.takes_data)
			dev->hw_features &= ~RTE_BIT64(VIRTIO_F_NOTIFICATION_DATA);
		dev->num_max = RTE_MAX(dev->num_max, dev->vqs[i].info.num_max);
	}
	limit = vdpa_args_u64(args, "queue_size", dev->num_max);
	if (limit > dev->num_max)
		return vdpa_error(EINVAL, "queue_size %" PRIu64 ": the device has %u", limit,
				  dev->num_max);
	dev->num_max = (uint16_t)limit;
	return 0;
}

static int
choose_features(struct virtio_device *dev, const struct vdpa_args *args)
{
	const struct vdpa_arg *mask = vdpa_args_find(args, "device_features");

	/* The control queue is not the guest's (see virtio_ctrl.c). */
	dev->offered = virtio_type_guest_features(dev->hw.type, dev->hw_features, dev->nvqs);
	if (mask == NULL)
		return 0;
	if ((mask->u64 & ~dev->offered) != 0)
		return vdpa_error(EINVAL,
				  "device_features 0x%" PRIx64 ": the device has 0x%" PRIx64,
				  mask->u64, dev->offered);
	dev->offered = mask->u64 | RTE_BIT64(VIRTIO_F_VERSION_1);
	return 0;
}

/* mac and mtu: what the device cannot be brought to is refused, not pretended. */
static int
take_net_words(struct virtio_device *dev, const struct vdpa_args *args)
{
	uint64_t set_mac = RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) | RTE_BIT64(VIRTIO_NET_F_CTRL_MAC_ADDR);
	const struct vdpa_arg *mac = vdpa_args_find(args, "mac");
	const struct vdpa_arg *mtu = vdpa_args_find(args, "mtu");
	uint16_t hw_mtu = 0;
	int rc;

	if (mac != NULL) {
		if ((dev->hw_features & set_mac) != set_mac ||
		    dev->config_size < NET_CONFIG(mac) + sizeof(dev->mac))
			return vdpa_error(EOPNOTSUPP,
					  "mac: the device does not let its address be set");
		dev->has_mac = true;
		memcpy(dev->mac, mac->mac, sizeof(dev->mac));
	}
	if (mtu == NULL)
		return 0;
	if (!virtio_has(dev->hw_features, VIRTIO_NET_F_MTU) ||
	    dev->config_size < NET_CONFIG(mtu) + sizeof(uint16_t))
		return vdpa_error(EOPNOTSUPP, "mtu: the device has none of its own");
	rc = read_config16(dev, NET_CONFIG(mtu), &hw_mtu);
	if (rc < 0)
		return rc;
	if (mtu->u64 > hw_mtu)
		return vdpa_error(EINVAL, "mtu %" PRIu64 ": the device has %u", mtu->u64, hw_mtu);
	dev->has_mtu = true;
	dev->mtu = (uint16_t)mtu->u64;
	return 0;
}

static int
take_words(struct virtio_device *dev, const struct vdpa_args *args)
{
	static const char *const net_words[] = {"mac", "mtu", "max_vqp"};

	dev->irq.limit = (unsigned int)vdpa_args_u64(args, "vectors", UINT_MAX);
	if (dev->hw.type == VIRTIO_ID_NET)
		return take_net_words(dev, args);
	for (unsigned int i = 0; i < RTE_DIM(net_words); i++)
		if (vdpa_args_has(args, net_words[i]))
			return vdpa_error(EINVAL,
					  "%s: is a word of net devices; this one has type "
					  "%u",
					  net_words[i], dev->hw.type);
	return 0;
}

/*
 * A device may show the queues of more pairs only once it has accepted VIRTIO_NET_F_MQ (QEMU's
 * does: until then num_queues is 3, the control queue behind the first pair).
 */
static int
look_at_queues(struct virtio_device *dev, const struct vdpa_args *args)
{
	uint64_t wanted = RTE_BIT64(VIRTIO_F_VERSION_1) | RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM) |
			  RTE_BIT64(VIRTIO_NET_F_MQ) | RTE_BIT64(VIRTIO_NET_F_CTRL_VQ);
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	int rc, err;

	if (dev->hw.type != VIRTIO_ID_NET || !virtio_has(dev->hw_features, VIRTIO_NET_F_MQ) ||
	    dev->hw.adopts)
		return find_queues(dev, args);
	wanted &= dev->hw_features;
	vdpa_virtio_pci_set_status(&dev->hw, status);
	virtio_pci_set_features(&dev->hw, wanted);
	vdpa_virtio_pci_set_status(&dev->hw, status | VIRTIO_CONFIG_S_FEATURES_OK);
	if ((vdpa_virtio_pci_get_status(&dev->hw) & VIRTIO_CONFIG_S_FEATURES_OK) == 0)
		return vdpa_virtio_pci_check(&dev->hw) < 0
			       ? vdpa_virtio_pci_check(&dev->hw)
			       : vdpa_error(EIO, "%s: the device refuses the features 0x%" PRIx64,
					    vdpa_pci_name(dev->hw.pci), wanted);
	rc = find_queues(dev, args);
	err = virtio_pci_reset(&dev->hw);
	return rc < 0 ? rc : err;
}

static int
look_at_device(struct virtio_device *dev, const struct vdpa_args *args)
{
	int rc;

	/* A device may map more than its type has, and what lies behind reads as anything: QEMU's
	 * as all ones. */
	dev->config_size =
		RTE_MIN(dev->hw.config.length, (uint32_t)virtio_type(dev->hw.type)->config_size);
	rc = vdpa_virtio_pci_check(&dev->hw);
	if (rc == 0 && !virtio_has(dev->hw_features, VIRTIO_F_VERSION_1))
		rc = vdpa_error(ENOTSUP, "%s: the device does not offer VIRTIO_F_VERSION_1",
				vdpa_pci_name(dev->hw.pci));
	if (rc == 0)
		rc = look_at_queues(dev, args);
	if (rc == 0)
		rc = choose_features(dev, args);
	if (rc == 0)
		rc = take_words(dev, args);
	return rc;
}

/* Ops. */

/* Of a driver's own functions, which are opened as ever: nothing of a function is the process'. */
static int
virtio_can_start_again(struct vdpa_device *vdev)
{
	(void)vdev;
	return 0;
}

typedef void (*op_fn)(void);

/* The service's ops, and over them the driver's, whatever version its table is of. */
static int
merge_ops(struct vdpa_config_ops *ops, const struct vdpa_virtio_kind *kind, uint64_t features,
	  bool owned, bool logged, const char *name)
{
	struct vdpa_config_ops over;
	int rc;

	*ops = *vdpa_virtio_ops();
	if (!kind->queue_enable_stops && !virtio_has(features, VIRTIO_F_SUSPEND)) {
		ops->suspend = NULL;
		ops->resume = NULL;
	}
	/* What the core is not to count on: a queue that waits for its reset would wait for ever.
	 */
	if (!kind->queue_enable_stops && !virtio_has(features, VIRTIO_F_RING_RESET))
		ops->reset_vq = NULL;
	if (!logged) {
		ops->log_start = NULL;
		ops->log_sync = NULL;
		ops->log_stop = NULL;
	}
	if (!virtio_kept_can(kind)) {
		ops->can_restart = virtio_can_start_again;
		ops->adopt = NULL;
		ops->leave = NULL;
	}
	if (!owned) {
		ops->save_state = NULL;
		ops->load_state = NULL;
	}
	if (kind->ops == NULL)
		return 0;
	rc = vdpa_ops_copy(&over, sizeof(over), kind->ops, VDPA_OPS_SIZE_MIN, name);
	if (rc < 0)
		return rc;
	for (size_t at = sizeof(over.size); at + sizeof(op_fn) <= sizeof(over);
	     at += sizeof(op_fn)) {
		op_fn op;

		memcpy(&op, (const char *)&over + at, sizeof(op));
		if (op != NULL)
			memcpy((char *)ops + at, &op, sizeof(op));
	}
	return 0;
}

/* The words `owner` and `member`. Which function owns it, and what it is there, sysfs knows of the
 * virtual functions of this machine. */
static int
find_owner(struct virtio_device *dev, const struct vdpa_args *args)
{
	const char *name = vdpa_args_str(args, "owner", NULL), *self = vdpa_pci_name(dev->hw.pci);
	bool by_system = name != NULL && strcmp(name, "sysfs") == 0;
	char pf[VDPA_PCI_NAME_MAX];
	unsigned int number = 0;

	if (name == NULL)
		return !vdpa_args_has(args, "member")
			       ? 0
			       : vdpa_error(EINVAL, "member: is a number in the group of an owner, "
						    "which is not named");
	if (vdpa_pci_owner(self, pf, &number) < 0 && by_system)
		return vdpa_error(EINVAL, "owner sysfs: %s is no virtual function of this machine",
				  self);
	dev->member = vdpa_args_u64(args, "member", number);
	if (dev->member == 0)
		return vdpa_error(EINVAL,
				  "owner %s: member N is missing, which the system does not tell "
				  "of %s",
				  name, self);
	return virtio_owner_get(by_system ? pf : name, vdpa_pci_timeout_ms(dev->hw.pci),
				&dev->owner);
}

/* Whether a kind's functions log by themselves. */
static bool
has_log(const struct vdpa_virtio_kind *kind)
{
	return kind->ops != NULL && kind->ops->size > offsetof(struct vdpa_config_ops, log_start) &&
	       kind->ops->log_start != NULL;
}

/* The device of an open function; nobody knows it yet. */
static int
create(struct virtio_device *dev, const struct vdpa_virtio_kind *kind, const char *name)
{
	struct vdpa_virtio_device *pub;
	int rc;

	if (kind->variant != NULL)
		kind = kind->variant(&dev->hw);
	/* What the device can do is said by the ops that are there, from the beginning. */
	dev->hw_features = virtio_pci_get_features(&dev->hw);
	/* Without the registers for it, it is not there. */
	if (!virtio_pci_has_vq_reset(&dev->hw))
		dev->hw_features &= ~RTE_BIT64(VIRTIO_F_RING_RESET);
	if (vdpa_pci_is_left(dev->hw.pci)) {
		rc = virtio_kept_find(dev, kind, name);
		if (rc > 0)
			rc = virtio_pci_reset(&dev->hw);
		if (rc < 0)
			return rc;
	}
	rc = merge_ops(&dev->ops, kind, dev->hw_features, dev->owner != NULL,
		       !has_log(kind) && vdpa_pci_logs_dma(dev->hw.pci), name);
	if (rc < 0)
		return rc;
	pub = (void *)vdpa_alloc_device_size(RTE_MAX(kind->size, sizeof(*pub)), name, &dev->ops);
	if (pub == NULL)
		return -errno;
	pub->kind = kind;
	pub->hw = &dev->hw;
	pub->core = dev;
	dev->pub = pub;
	dev->vdev = &pub->vdev;
	dev->vdev->dma = vdpa_pci_dma(dev->hw.pci);
	return 0;
}

static int
set_up(struct virtio_device *dev, const struct vdpa_args *args)
{
	int rc = look_at_device(dev, args);

	if (rc == 0 && dev->pub->kind->init != NULL) {
		dev->kind_init = true;
		rc = dev->pub->kind->init(dev->pub, args);
	}
	if (rc == 0)
		rc = watch(dev, VDPA_PCI_EVENT_ERROR);
	if (rc == 0)
		rc = watch(dev, VDPA_PCI_EVENT_REMOVE);
	return rc;
}

int
vdpa_virtio_add(const struct vdpa_virtio_kind *kind, struct vdpa_mgmt_dev *mdev,
		struct vdpa_pci *pci, const char *name, const struct vdpa_args *args)
{
	struct virtio_device *dev = calloc(1, sizeof(*dev));
	struct vdpa_error_saved error;
	int rc;

	if (dev == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	dev->gone[VDPA_PCI_EVENT_ERROR].fd = dev->gone[VDPA_PCI_EVENT_REMOVE].fd = -1;
	vdpa_patience_init(&dev->patience, vdpa_pci_timeout_ms(pci), vdpa_now_us());
	virtio_irq_init(dev);
	rc = virtio_pci_open(&dev->hw, pci, kind->pci, &dev->patience);
	if (rc == 0 && !vdpa_pci_is_left(pci))
		rc = virtio_pci_reset(&dev->hw);
	if (rc == 0)
		rc = find_owner(dev, args);
	if (rc == 0)
		rc = create(dev, kind, name);
	if (rc < 0) {
		vdpa_error_save(&error);
		destroy(dev);
		vdpa_error_restore(&error);
		return rc;
	}
	dev->vdev->mdev = mdev;
	rc = set_up(dev, args);
	if (rc == 0) {
		/* From here on it may go at any time, and the function with it. */
		dev->has_pci = true;
		rc = vdpa_register_device(dev->vdev);
		if (rc < 0)
			dev->has_pci = false;
	}
	/* The bus has its own reference; without one this frees the device. */
	vdpa_error_save(&error);
	vdpa_put_device(dev->vdev);
	vdpa_error_restore(&error);
	return rc;
}
