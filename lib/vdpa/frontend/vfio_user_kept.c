/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A vfio-user connection that outlives the process. Bytes and descriptors that come are the wire's
 * (kept_wire.c), what they have brought about is the record's (vfio_user_record.c), and how the
 * next process goes on is in vfio_user_resume.c. Owns a file in memory that the next process maps:
 * the last reply, with how much of it has left, and the queues' inflight areas.
 *
 * A message is carried out, its reply is noted there, and then it is done: by a record, where it
 * has changed what is recorded, else by the file's word, so that a doorbell or a register that is
 * read costs no record. What is done is only answered by the next process, what is not is carried
 * out again: all that it has changed ended with the process, but for queues that it started. Which
 * message started a queue is noted before it starts, and where that message is carried out again
 * the queue goes on where its ring is.
 *
 * The server sends no requests of its own: it reaches memory by files only, and interrupts by
 * eventfds. So none can be under way.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "clock.h"
#include "error_priv.h"
#include "restart.h"
#include "stored_fd.h"
#include "vdpa_args.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_log.h"
#include "vdpa_virtqueue.h"
#include "vfio_user_device.h"
#include "vfio_user_kept_priv.h"
#include "vfio_user_server_priv.h"
#include "vhost_user_priv.h"

#define LISTENER "listener"
#define SHARED	 "areas"

/* No message is read before the one at hand is done. */
#define WIRE_INPUT (2 * VFIO_USER_MSG_MAX)
#define WIRE_IDS   (2 * VFIO_USER_FDS_MAX)
#define ALIGN	   ((size_t)64)

const char *
vdpa_vfus_why(const struct vfu_device *dev)
{
	return vdpa_error_cause(vdpa_error_message(), dev->vdev->name, -1);
}

void
vdpa_vfus_kept_stop(struct vfu_kept *k, const char *cause)
{
	const char *name = k->dev->vdev->name;

	if (!k->on)
		return;
	k->on = false;
	/* Where it is given up already, that has been said. */
	if (!vdpa_restart_is_given_up(name))
		VDPA_LOG(WARNING, "%s: vfio-user: does not go on in the next process: %s", name,
			 cause);
	if (!vdpa_restart_holds())
		vdpa_wire_end(&k->wire);
	/* Nor is its function, which its driver keeps. */
	vdpa_restart_give_up(name, cause);
}

/* The device. */

static size_t
areas_at(void)
{
	return RTE_ALIGN_CEIL(sizeof(struct vfu_kept_shared), ALIGN);
}

static size_t
shared_size(const struct vfu_kept *k)
{
	return areas_at() + k->stride * k->dev->vp.params.nvqs;
}

static void
find_shared(struct vfu_kept *k)
{
	k->shared = (struct vfu_kept_shared *)(void *)k->shm->addr;
	k->areas = k->shm->addr + areas_at();
}

static int
make_files(struct vfu_kept *k)
{
	int rc = vdpa_wire_make(&k->wire);

	if (rc == 0)
		rc = vdpa_kept_file_make(k->dev->vdev->name, SHARED, shared_size(k), &k->shm);
	if (rc == 0)
		find_shared(k);
	if (rc == 0)
		rc = vdpa_kept_state_make(&k->state, k->dev->vdev);
	return rc;
}

static int
take_files(struct vfu_kept *k)
{
	int rc = vdpa_wire_take(&k->wire);

	if (rc == 0)
		rc = vdpa_kept_file_take(k->dev->vdev->name, SHARED, shared_size(k), &k->shm);
	if (rc == 0)
		find_shared(k);
	if (rc == 0)
		rc = vdpa_kept_state_take(&k->state, k->dev->vdev);
	return rc;
}

static void
drop_files(struct vfu_kept *k)
{
	vdpa_wire_unmap(&k->wire);
	vdpa_kept_state_drop(&k->state);
	vdpa_vhu_shm_unmap(k->shm);
	k->shm = NULL;
	k->shared = NULL;
	k->areas = NULL;
}

/* What a former process has left of the device, with the files that belong to it. */
static int
find_former(struct vfu_kept *k)
{
	int rc = vdpa_vfus_record_read(k->dev, &k->former);

	if (rc == 0)
		rc = take_files(k);
	if (rc == -ENOENT && k->former == NULL)
		return rc;
	if (rc < 0) {
		struct vdpa_error_saved error;

		vdpa_error_save(&error);
		VDPA_LOG(ERR, "%s: vfio-user: what the former process has left does not go on: %s",
			 k->dev->vdev->name, vdpa_vfus_why(k->dev));
		vdpa_vfus_record_free(k->former);
		k->former = NULL;
		drop_files(k);
		vdpa_error_restore(&error);
	}
	return rc;
}

/* Whether a function of this kind can go on at any end. */
static int
check_function(const struct vfu_device *dev)
{
	if (dev->passes)
		return vdpa_error(EOPNOTSUPP, "with `doorbell pass` its client rings at the device "
					      "itself, which ends with the process");
	if (dev->vp.kind != &vdpa_vp_kind_virtio || dev->vp.params.admin || dev->flags != NULL)
		return vdpa_error(EOPNOTSUPP,
				  "functions with registers of their own start anew in this "
				  "version");
	return 0;
}

static int
alloc(struct vfu_kept *k)
{
	k->vectors = calloc(k->dev->vp.params.vectors, sizeof(*k->vectors));
	k->taken_again = calloc(k->dev->vp.params.nvqs, sizeof(*k->taken_again));
	return k->vectors == NULL || k->taken_again == NULL ? vdpa_error(ENOMEM, "out of memory")
							    : 0;
}

int
vdpa_vfus_kept_init(struct vfu_device *dev)
{
	struct vfu_kept *k = &dev->kept;
	const char *name = dev->vdev->name;
	bool is_new;
	int rc;

	k->dev = dev;
	if (!vdpa_restart_is_on())
		return 0;
	k->stride = vdpa_kept_area_stride(dev->vdev);
	k->wire = (struct vdpa_wire){.device = name, .ids = WIRE_IDS, .input = WIRE_INPUT};
	rc = alloc(k);
	if (rc < 0)
		return rc;
	rc = find_former(k);
	/* The other process has it as it was. */
	if (rc < 0 && rc != -ENOENT && vdpa_restart_holds())
		return rc;
	is_new = rc < 0;
	if (is_new)
		vdpa_restart_forget(name);
	rc = check_function(dev);
	if (rc == 0)
		rc = vdpa_vfus_planned_choose(dev);
	if (rc == 0 && is_new)
		rc = make_files(k);
	if (rc < 0) {
		VDPA_LOG(NOTICE, "%s: vfio-user: starts anew in the next process: %s", name,
			 vdpa_vfus_why(dev));
		vdpa_restart_says(name, vdpa_vfus_why(dev));
		vdpa_restart_forget(name);
		drop_files(k);
		vdpa_vfus_record_free(k->former);
		k->former = NULL;
		return 0;
	}
	k->on = true;
	return 0;
}

void
vdpa_vfus_kept_fini(struct vfu_device *dev)
{
	struct vfu_kept *k = &dev->kept;

	drop_files(k);
	vdpa_vfus_record_free(k->former);
	free(k->vectors);
	free(k->taken_again);
	free(k->last);
	free(k->live.live);
	*k = (struct vfu_kept){.dev = dev};
}

bool
vdpa_vfus_kept_leaves(const struct vfu_kept *k)
{
	return k->on && vdpa_restart_leaves() && !vdpa_restart_is_given_up(k->dev->vdev->name);
}

bool
vdpa_vfus_kept_is_others(const struct vfu_kept *k)
{
	return vdpa_vfus_kept_leaves(k) || vdpa_restart_holds();
}

void
vdpa_vfus_kept_end(struct vfu_device *dev)
{
	if (dev->kept.on && !vdpa_vfus_kept_leaves(&dev->kept))
		vdpa_restart_forget(dev->vdev->name);
}

/* The listening socket. */

int
vdpa_vfus_kept_listener(struct vfu_kept *k, struct vdpa_listen *l, const char *path, mode_t mode,
			gid_t group)
{
	const struct vfu_record *former = k->former;
	int fd, rc;

	if (!k->on || former == NULL || !former->has_listener)
		return -ENOENT;
	fd = vdpa_restart_take(k->dev->vdev->name, LISTENER);
	rc = fd < 0 ? fd
		    : vdpa_listen_adopt(l, fd, former->listener.dev, former->listener.ino, path,
					mode, group);
	if (rc == 0)
		return 0;
	VDPA_LOG(WARNING, "%s: vfio-user: the former process' socket is made anew: %s",
		 k->dev->vdev->name, vdpa_vfus_why(k->dev));
	vdpa_restart_del(k->dev->vdev->name, LISTENER);
	/* What closes it need not have done so when its path is looked at. */
	if (fd >= 0 && !vdpa_restart_holds())
		(void)shutdown(fd, SHUT_RDWR);
	if (fd >= 0)
		vdpa_close_stray(fd);
	return -ENOENT;
}

void
vdpa_vfus_kept_listens(struct vfu_kept *k, const struct vdpa_listen *l)
{
	int rc;

	if (!k->on)
		return;
	rc = vdpa_restart_put(k->dev->vdev->name, LISTENER, l->fd);
	if (rc == 0 && k->dev->consumer == NULL)
		rc = vdpa_vfus_record_write(k->dev);
	if (rc < 0)
		vdpa_vfus_kept_stop(k, vdpa_vfus_why(k->dev));
}

/* The connection. */

void
vdpa_vfus_kept_forget(struct vfu_kept *k)
{
	k->done = 0;
	k->intx = 0;
	memset(k->vectors, 0, k->dev->vp.params.vectors * sizeof(*k->vectors));
	memset(k->taken_again, 0, k->dev->vp.params.nvqs * sizeof(*k->taken_again));
	memset(k->files, 0, sizeof(k->files));
	k->n_configs = 0;
	k->lost = false;
	k->live.n = 0;
}

void
vdpa_vfus_kept_connected(struct vfu_server *s)
{
	struct vfu_kept *k = s->params.kept;
	const char *name = s->params.name;
	int rc = 0;

	if (k == NULL || !k->on)
		return;
	vdpa_vfus_kept_forget(k);
	vdpa_wire_begin(&k->wire);
	memset(k->shm->addr, 0, k->shm->len);
	vdpa_kept_state_clear(&k->state);
	k->shared->reply_for = VFU_NOWHERE;
	/* What its client is going to map: those of the client before are others. */
	if (k->dev->doorbells.poll)
		rc = vdpa_restart_put(name, VFU_KEPT_DOORBELLS, k->dev->doorbells.fd);
	if (rc == 0 && !vdpa_vfus_planned_is(k))
		rc = vdpa_restart_put(name, VFU_KEPT_CONNECTION, s->client.fd);
	if (rc == 0)
		rc = vdpa_vfus_record_write(k->dev);
	if (rc < 0)
		vdpa_vfus_kept_stop(k, vdpa_vfus_why(k->dev));
}

void
vdpa_vfus_kept_disconnected(struct vfu_kept *k)
{
	const char *name;

	if (!k->on || vdpa_restart_leaves())
		return;
	name = k->dev->vdev->name;
	if (vdpa_vfus_record_write(k->dev) < 0) {
		vdpa_vfus_kept_stop(k, vdpa_vfus_why(k->dev));
		return;
	}
	vdpa_restart_del(name, VFU_KEPT_CONNECTION);
	vdpa_restart_del(name, VFU_KEPT_DOORBELLS);
	for (unsigned int i = 0; i < k->live.n; i++)
		vdpa_wire_del_fd(&k->wire, k->live.live[i].id);
	/* Those of a former process, too. */
	vdpa_wire_prune(&k->wire, NULL);
	vdpa_vfus_kept_forget(k);
}

ssize_t
vdpa_vfus_kept_look(struct vfu_server *s, struct msghdr *msg)
{
	struct vfu_kept *k = s->params.kept;
	unsigned int room = RTE_DIM(s->fds) - s->n_fds;
	ssize_t n;
	int rc;

	n = vdpa_wire_look(&k->wire, s->client.fd, msg, &k->live, room, &rc);
	if (rc < 0)
		vdpa_vfus_kept_stop(k, vdpa_vfus_why(k->dev));
	return n;
}

int
vdpa_vfus_kept_take(struct vfu_server *s, size_t n, struct msghdr *msg)
{
	unsigned int nfds = vdpa_wire_count_fds(msg);
	struct vfu_kept *k = s->params.kept;

	if (!k->on)
		return vdpa_wire_receive_plainly(s->client.fd, s->in + s->in_len, n, nfds);
	for (unsigned int i = 0; i < nfds && s->n_fds + i < RTE_DIM(s->ids); i++)
		s->ids[s->n_fds + i] = vdpa_wire_fd_id(&k->wire, i);
	return vdpa_wire_receive(&k->wire, s->client.fd, n, nfds, k->done, k->done, &k->live);
}

/* Messages. */

/* Whether the message is one that rings a doorbell, of which nothing remains but the kick. */
static bool
is_doorbell(const struct vfu_server *s, const struct vfio_user_header *hdr)
{
	const struct vfio_user_region_access *a = (const void *)(hdr + 1);
	const struct vp_function *vp = &s->params.kept->dev->vp;

	return hdr->command == VFIO_USER_REGION_WRITE && hdr->size >= sizeof(*hdr) + sizeof(*a) &&
	       a->region == vp->bar && a->offset >= vp_notify_offset(vp);
}

/* An area is looked at again after so long, and a queue given up after so long. */
#define SETTLE_LOOK_US 500
#define SETTLE_US      10000000

static unsigned int
under_way(struct vfu_kept *k, uint16_t idx, uint64_t below, uint64_t *next)
{
	const struct vdpa_vq_inflight area = {.addr = k->areas + idx * k->stride,
					      .size = k->stride};
	bool packed = (k->dev->vp.driver_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;

	return vdpa_vq_inflight_count(&area, packed, k->dev->vp.queues[idx].size, below, next);
}

static void
settle_queue(struct vfu_kept *k, uint16_t idx, int64_t until_us)
{
	uint64_t below = k->taken_again[idx];

	k->taken_again[idx] = 0;
	while (below > 0 && under_way(k, idx, below, NULL) > 0 &&
	       vdpa_consumer_has_vq(k->dev->consumer, idx)) {
		if (vdpa_now_us() > until_us) {
			VDPA_LOG(ERR, "%s: vfio-user: queue %u: requests do not end within %d s",
				 k->dev->vdev->name, idx, SETTLE_US / 1000000);
			return;
		}
		usleep(SETTLE_LOOK_US);
	}
}

void
vdpa_vfus_kept_settle(struct vfu_server *s)
{
	const struct vfio_user_header *hdr = (const void *)s->in;
	struct vfu_kept *k = s->params.kept;
	int64_t until_us;

	if (k == NULL || !k->on || vdpa_device_puts_back(k->dev->vdev) || is_doorbell(s, hdr) ||
	    (hdr->command != VFIO_USER_REGION_WRITE && hdr->command != VFIO_USER_DMA_UNMAP &&
	     hdr->command != VFIO_USER_DEVICE_RESET && hdr->command != VFIO_USER_DEVICE_FEATURE))
		return;
	/* Of all queues together. */
	until_us = vdpa_now_us() + SETTLE_US;
	for (uint16_t i = 0; i < k->dev->vp.params.nvqs; i++)
		settle_queue(k, i, until_us);
}

/* A SET_IRQS that was carried out: whose eventfds there are now. */
static void
note_interrupts(struct vfu_server *s, const struct vfio_user_irq_set *set)
{
	struct vfu_kept *k = s->params.kept;
	const struct vfu_irqs *irqs = &k->dev->irqs;

	for (uint32_t i = 0; i < s->n_fds && set->index == VFIO_PCI_MSIX_IRQ_INDEX; i++)
		if (s->fds[i] < 0 && set->start + i < irqs->n_vectors)
			k->vectors[set->start + i] = s->ids[i];
	if (set->index == VFIO_PCI_INTX_IRQ_INDEX && s->n_fds == 1 && s->fds[0] < 0)
		k->intx = s->ids[0];
}

/* What the message at hand brought, if it was carried out; what is gone has no name. */
static void
note(struct vfu_server *s, const struct vfio_user_header *hdr)
{
	struct vfu_kept *k = s->params.kept;
	const struct vfu_irqs *irqs = &k->dev->irqs;

	if (hdr->command == VFIO_USER_DEVICE_SET_IRQS)
		note_interrupts(s, (const void *)(hdr + 1));
	for (uint16_t i = 0; i < irqs->n_vectors; i++)
		if (irqs->vector_fds[i] < 0)
			k->vectors[i] = 0;
	if (irqs->intx_fd < 0)
		k->intx = 0;
	for (unsigned int i = 0; i < VFU_DMA_FILES_MAX; i++) {
		if (k->dev->dma.files[i].ranges == 0)
			k->files[i] = 0;
		else if (k->files[i] == 0 && s->n_fds > 0)
			k->files[i] = s->ids[0];
	}
}

static bool
is_named(vdpa_wire_id id, void *arg)
{
	const struct vfu_kept *k = arg;

	if (id == k->intx)
		return true;
	for (unsigned int i = 0; i < VFU_DMA_FILES_MAX; i++)
		if (id == k->files[i])
			return true;
	for (uint16_t i = 0; i < k->dev->irqs.n_vectors; i++)
		if (id == k->vectors[i])
			return true;
	return false;
}

/* The reply to what is done up to here; that to what was done before has left. */
static void
note_reply(struct vfu_kept *k, const struct vfu_server *s)
{
	struct vfu_kept_shared *shared = k->shared;

	VDPA_KEPT_SET(shared->reply_for, VFU_NOWHERE);
	VDPA_KEPT_SET(shared->sent, 0);
	VDPA_KEPT_SET(shared->out.msg_len, 0);
	memcpy(shared->reply, s->out, s->out_len);
	shared->reply_len = (uint32_t)s->out_len;
	shared->reply_fd = s->out_fd >= 0;
	VDPA_KEPT_SET(shared->reply_for, k->done);
}

void
vdpa_vfus_kept_commit(struct vfu_server *s)
{
	const struct vfio_user_header *hdr = (const void *)s->in;
	bool access =
		hdr->command == VFIO_USER_REGION_READ || hdr->command == VFIO_USER_REGION_WRITE;
	struct vfu_kept *k = s->params.kept;
	int rc = 0;

	/* A device may have hung up on its client. */
	if (k == NULL || !k->on || k->dev->consumer == NULL)
		return;
	k->done += hdr->size;
	note_reply(k, s);
	if (!access)
		note(s, hdr);
	if (!is_doorbell(s, hdr) && (!access || vdpa_vfus_record_is_old(k->dev)))
		rc = vdpa_vfus_record_write(k->dev);
	if (rc < 0) {
		vdpa_vfus_kept_stop(k, vdpa_vfus_why(k->dev));
		return;
	}
	VDPA_KEPT_SET(k->shared->done, k->done);
	/* One that takes none may have brought some. */
	if (!access || s->n_fds > 0)
		vdpa_wire_drop(&k->wire, &k->live, k->done, is_named, k);
}

ssize_t
vdpa_vfus_kept_send(struct vfu_server *s, const struct msghdr *msg)
{
	struct vfu_kept *k = s->params.kept;
	struct vfu_kept_shared *shared;
	ssize_t n = -1;

	if (k == NULL || !k->on)
		return sendmsg(s->client.fd, msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	shared = k->shared;
	VDPA_KEPT_SET(shared->out_at, s->out_sent);
	shared->out.msg_hdr = *msg;
	if (sendmmsg(s->client.fd, &shared->out, 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1)
		n = shared->out.msg_len;
	VDPA_KEPT_SET(shared->sent, s->out_sent + (n > 0 ? (size_t)n : 0));
	VDPA_KEPT_SET(shared->out.msg_len, 0);
	return n;
}

/* Queues. */

void
vdpa_vfus_kept_note_config(struct vfu_kept *k, size_t offset, const void *buf, size_t len)
{
	unsigned int i = 0;

	if (!k->on)
		return;
	/* The last word for each place counts. */
	while (i < k->n_configs && (k->configs[i].offset != offset || k->configs[i].len != len))
		i++;
	if (i == VFU_KEPT_CONFIGS || len > VFU_KEPT_CONFIG_MAX) {
		k->lost = true;
		return;
	}
	k->configs[i] = (struct vfu_kept_config){.offset = (uint32_t)offset, .len = (uint32_t)len};
	memcpy(k->configs[i].data, buf, len);
	k->n_configs = RTE_MAX(k->n_configs, i + 1);
}

/* One of a former process, by its record. */
static int
resume_queue(struct vfu_kept *k, uint16_t idx)
{
	const struct vfu_record_queue *q = &k->resumed[idx];
	uint64_t next;
	int rc = 0;

	if (q->has_base)
		rc = vdpa_consumer_set_vq_base(k->dev->consumer, idx, q->base);
	if (rc < 0 || !q->runs)
		return rc;
	if (under_way(k, idx, UINT64_MAX, &next) > 0)
		k->taken_again[idx] = next;
	return vdpa_consumer_resume_vq(k->dev->consumer, idx, q->base, false);
}

int
vdpa_vfus_kept_start_queue(struct vfu_device *dev, uint16_t idx)
{
	struct vfu_kept *k = &dev->kept;
	struct vdpa_consumer_vq_facts f;

	if (!k->on)
		return 0;
	if (k->resumed != NULL && k->resumed[idx].told)
		return resume_queue(k, idx);
	/* A former process has carried out this message, and did not come to say so. */
	if (k->shared->began[idx] == k->done + 1) {
		vdpa_consumer_get_vq_facts(dev->consumer, idx, &f);
		return vdpa_consumer_resume_vq(dev->consumer, idx, f.has_base ? f.base : 0, false);
	}
	memset(k->areas + idx * k->stride, 0, k->stride);
	VDPA_KEPT_SET(k->shared->began[idx], k->done + 1);
	return 0;
}
