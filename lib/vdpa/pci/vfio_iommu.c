/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * VFIO groups, each shared by its functions and in a container (vfio_container.c). Owns the
 * registry of open groups, its lock, and the files of groups. DPDK's own VFIO is not used: its
 * containers are few, its calls internal to DPDK, and it maps memory by its own rules.
 *
 * A device's file that was given away (with a doorbell page) cannot be taken back, and Linux lets
 * nobody open a group anew while one of its devices is open anywhere. So a group whose devices we
 * have closed is kept, with its domain and the account of who may hold them (page_holders.h), for
 * as long as Linux says that it is in use: by refusing to take it out of its container. That is
 * asked before the group is used again, and from time to time.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/queue.h>
#include <unistd.h>

#include "page_holders.h"
#include "restart.h"
#include "vdpa_error.h"
#include "vdpa_log.h"
#include "vdpa_timer.h"
#include "vdpa_work.h"
#include "vfio_container.h"

/* A group whose device was just closed may be in use for a moment. */
#define CUT_OFF_TRIES	 5
#define CUT_OFF_PAUSE_US 2000

/* How often it is asked whether a kept group is still in use. */
#define KEPT_ASK_MS 2000

/* A group in its container. Kept: it has no users. */
struct vfio_group {
	TAILQ_ENTRY(vfio_group) next;
	int id;
	int fd;
	char *name; /* of the function that opened it, for messages */
	struct vfio_container *container;
	unsigned int users;
	char *kept; /* the device that its only function is kept for; NULL: none */
	bool busy;  /* one thread asks about it or closes it, without the lock */
};

/* Why a function is not kept: the next process would take both by one file, or neither. */
#define SHARED_GROUP "functions that share an IOMMU group are not left running"

struct vfio_attachment {
	TAILQ_ENTRY(vfio_attachment) next;
	char address[VDPA_PCI_ADDRESS_MAX];
	struct vfio_group *group;
	bool held; /* others may have had a file of a device of the group when it was attached */
};

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t not_busy = PTHREAD_COND_INITIALIZER;
static TAILQ_HEAD(, vfio_group) groups = TAILQ_HEAD_INITIALIZER(groups);
static TAILQ_HEAD(, vfio_attachment) attachments = TAILQ_HEAD_INITIALIZER(attachments);

/* Kept groups are asked about by a job: Linux may be resetting a function at that moment. */
static void ask_expired(struct vdpa_timer *timer);
static void ask_run(struct vdpa_work *work);
static struct vdpa_timer ask_timer = {.expired = ask_expired};
static struct vdpa_work ask_work = {.run = ask_run};
static struct vdpa_work_queue ask_queue = {.jobs = STAILQ_HEAD_INITIALIZER(ask_queue.jobs)};
static bool ask_ended; /* at vdpa_cleanup() */

static int
open_group(const struct vfio_function *fn)
{
	struct vfio_group_status status = {.argsz = sizeof(status)};
	char path[VFIO_PATH_MAX];
	int fd, ret;

	snprintf(path, sizeof(path), "%s/%d", vdpa_vfio_dev_root(), fn->group);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return vdpa_vfio_open_error(fn, path, errno);
	if (ioctl(fd, VFIO_GROUP_GET_STATUS, &status) < 0)
		ret = vdpa_error(errno, "%s: %s: VFIO_GROUP_GET_STATUS: %m", fn->name, path);
	else if ((status.flags & VFIO_GROUP_FLAGS_VIABLE) == 0)
		ret = vdpa_vfio_not_viable(fn);
	else
		return fd;
	close(fd);
	return ret;
}

/* That of a former process: the function's, and in a container still. */
static int
take_group(const struct vfio_function *fn)
{
	struct vfio_group_status status = {.argsz = sizeof(status)};
	const uint32_t flags = VFIO_GROUP_FLAGS_VIABLE | VFIO_GROUP_FLAGS_CONTAINER_SET;
	int fd = fcntl(fn->left->group, F_DUPFD_CLOEXEC, 0);
	char name[16];

	if (fd < 0)
		return vdpa_error(errno, "%s: group: %m", fn->name);
	snprintf(name, sizeof(name), "%d", fn->group);
	if (!vfio_is_file(fd, name) || ioctl(fd, VFIO_GROUP_GET_STATUS, &status) < 0 ||
	    (status.flags & flags) != flags) {
		close(fd);
		return vdpa_error(EPROTO, "%s: what was kept is not IOMMU group %d in use",
				  fn->name, fn->group);
	}
	return fd;
}

static int
group_open(const struct vfio_function *fn, struct vfio_group **out)
{
	struct vfio_group *g;
	int ret;

	g = calloc(1, sizeof(*g));
	if (g == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", fn->name);
	g->id = fn->group;
	g->name = strdup(fn->name);
	if (g->name == NULL) {
		ret = vdpa_error(ENOMEM, "%s: out of memory", fn->name);
		goto err_free;
	}
	ret = g->fd = fn->left != NULL ? take_group(fn) : open_group(fn);
	if (ret < 0)
		goto err_free;
	ret = vfio_container_get(fn, g->fd, &g->container);
	if (ret < 0)
		goto err_group;
	g->container->groups++;
	TAILQ_INSERT_TAIL(&groups, g, next);
	*out = g;
	return 0;

err_group:
	close(g->fd);
err_free:
	free(g->name);
	free(g);
	return ret;
}

/* It has no users and is not busy. */
static void
group_close(struct vfio_group *g)
{
	TAILQ_REMOVE(&groups, g, next);
	if (g->container->groups == 1)
		vdpa_dma_domain_destroy(g->container->dma);
	if (!g->container->is_left)
		(void)ioctl(g->fd, VFIO_GROUP_UNSET_CONTAINER);
	close(g->fd);
	vfio_container_put(g->container);
	free(g->name);
	free(g->kept);
	free(g);
}

/*
 * Whether nobody has a device of the group open, of which we have none open ourselves; then it is
 * out of its container and must be closed. Gives up the lock meanwhile: Linux answers when the
 * function that somebody else is closing has been reset.
 */
static bool
group_is_free(struct vfio_group *g)
{
	bool is_free;

	g->busy = true;
	pthread_mutex_unlock(&registry_lock);
	is_free = ioctl(g->fd, VFIO_GROUP_UNSET_CONTAINER) == 0 || errno != EBUSY;
	pthread_mutex_lock(&registry_lock);
	g->busy = false;
	pthread_cond_broadcast(&not_busy);
	return is_free;
}

/* Whether its account is needed: somebody may hold a device, and nothing is in reach of it. */
static bool
is_to_be_kept(const struct vfio_group *g)
{
	struct vdpa_dma_stats stats;

	vdpa_dma_get_stats(g->container->dma, &stats);
	/* In a container of several groups it is memory of the same VM. */
	return (stats.mappings == 0 || g->container->groups > 1) &&
	       vdpa_page_holders_look(vdpa_dma_page_holders(g->container->dma)).any;
}

static void
ask_later(void)
{
	if (!ask_ended)
		vdpa_timer_start(&ask_timer, KEPT_ASK_MS);
}

static void
group_put(struct vfio_group *g)
{
	struct vdpa_page_holders held;

	if (--g->users > 0)
		return;
	free(g->kept);
	g->kept = NULL;
	/* Its files are in the store, too. */
	if (g->container->is_left || !is_to_be_kept(g) || group_is_free(g)) {
		group_close(g);
		return;
	}
	held = vdpa_page_holders_look(vdpa_dma_page_holders(g->container->dma));
	VDPA_LOG(NOTICE,
		 "%s: closed, but uid %u (pid %d)%s was given a doorbell page and still has the "
		 "function open: it serves that uid only, and no other driver gets it until then",
		 g->name, (unsigned int)held.first.uid, (int)held.first.pid,
		 held.several ? " or another process" : "");
	ask_later();
}

static void
ask_expired(struct vdpa_timer *timer)
{
	vdpa_work_post(&ask_queue, &ask_work);
}

/* The first kept group behind this one (NULL: of all) that no other thread has. */
static struct vfio_group *
next_kept(struct vfio_group *after)
{
	struct vfio_group *g = after == NULL ? TAILQ_FIRST(&groups) : TAILQ_NEXT(after, next);

	while (g != NULL && (g->users > 0 || g->busy))
		g = TAILQ_NEXT(g, next);
	return g;
}

static void
ask_run(struct vdpa_work *work)
{
	struct vfio_group *g, *next;
	bool any = false;

	pthread_mutex_lock(&registry_lock);
	for (g = next_kept(NULL); g != NULL; g = next) {
		/* A busy group stays in the list, whatever others do. */
		bool is_free = group_is_free(g);

		next = next_kept(g);
		if (is_free) {
			VDPA_LOG(NOTICE, "%s: nobody has the function open any more", g->name);
			group_close(g);
		}
		any |= !is_free;
	}
	if (any)
		ask_later();
	pthread_mutex_unlock(&registry_lock);
}

void
vdpa_vfio_fini(void)
{
	struct vfio_group *g, *next;

	pthread_mutex_lock(&registry_lock);
	ask_ended = true;
	pthread_mutex_unlock(&registry_lock);
	vdpa_timer_stop(&ask_timer);
	vdpa_work_cancel(&ask_work);
	pthread_mutex_lock(&registry_lock);
	ask_ended = false;
	for (g = next_kept(NULL); g != NULL; g = next) {
		next = next_kept(g);
		group_close(g);
	}
	pthread_mutex_unlock(&registry_lock);
}

static struct vfio_group *
group_find(int id)
{
	struct vfio_group *g;

	TAILQ_FOREACH (g, &groups, next) {
		if (g->id == id)
			break;
	}
	return g;
}

/* Devices of one group serve one VM, or none of them names one. */
static int
check_vm(const struct vfio_group *g, const struct vfio_function *fn)
{
	const char *vm = g->container->vm;

	if (vm == NULL ? fn->vm == NULL : fn->vm != NULL && strcmp(vm, fn->vm) == 0)
		return 0;
	return vdpa_error(EBUSY,
			  "%s: IOMMU group %d is used by %s for %s%s: functions of one group serve "
			  "one guest; add it with %s%s",
			  fn->name, g->id, g->name, vm != NULL ? "vm " : "a guest of its own",
			  vm != NULL ? vm : "", vm != NULL ? "vm " : "the same vm as that one",
			  vm != NULL ? vm : "");
}

/*
 * The group of the function, open. A kept one is opened anew if it is free: by that Linux says that
 * nobody holds a device of it.
 */
static int
group_get(const struct vfio_function *fn, struct vfio_group **out)
{
	struct vfio_group *g;
	int ret = 0;

	while ((g = group_find(fn->group)) != NULL && g->busy)
		pthread_cond_wait(&not_busy, &registry_lock);
	if (g != NULL && g->users == 0 && group_is_free(g)) {
		group_close(g);
		g = NULL;
	}
	if (g != NULL && fn->left != NULL)
		ret = vdpa_error(EBUSY, "%s: IOMMU group %d is in use in this process already",
				 fn->name, fn->group);
	else
		ret = g == NULL ? group_open(fn, &g) : check_vm(g, fn);
	if (ret == 0 && g->users++ > 0 && g->kept != NULL) {
		vdpa_restart_give_up(g->kept, SHARED_GROUP);
		free(g->kept);
		g->kept = NULL;
	}
	*out = g;
	return ret;
}

/* Register the function as open, and have its group. */
static int
take(const struct vfio_function *fn, struct vfio_attachment **out)
{
	struct vfio_attachment *at = calloc(1, sizeof(*at)), *other;
	int ret;

	if (at == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", fn->name);
	memcpy(at->address, fn->address, sizeof(at->address));
	pthread_mutex_lock(&registry_lock);
	ret = group_get(fn, &at->group);
	if (ret < 0)
		goto out;
	at->held = vdpa_page_holders_look(vdpa_dma_page_holders(at->group->container->dma)).any;
	TAILQ_FOREACH (other, &attachments, next) {
		if (strcmp(other->address, fn->address) == 0) {
			group_put(at->group);
			ret = vdpa_error(EBUSY, "%s: is open in this process already", fn->name);
			goto out;
		}
	}
	TAILQ_INSERT_TAIL(&attachments, at, next);
	*out = at;
out:
	pthread_mutex_unlock(&registry_lock);
	if (ret < 0)
		free(at);
	return ret;
}

int
vdpa_vfio_attach(const struct vfio_function *fn, struct vfio_attachment **out, int *device_fd,
		 struct vdpa_dma_domain **dma)
{
	struct vfio_attachment *at = NULL;
	int ret;

	ret = take(fn, &at);
	if (ret < 0)
		return ret;
	/* Without the lock: the kernel resets the function, for which it may wait for a minute. */
	ret = ioctl(at->group->fd, VFIO_GROUP_GET_DEVICE_FD, fn->address);
	if (ret < 0) {
		ret = vdpa_error(errno, "%s: VFIO does not open the device: %m; dmesg says why",
				 fn->name);
		vdpa_vfio_detach(at);
		return ret;
	}
	*device_fd = ret;
	*dma = at->group->container->dma;
	*out = at;
	return 0;
}

void
vdpa_vfio_detach(struct vfio_attachment *at)
{
	pthread_mutex_lock(&registry_lock);
	TAILQ_REMOVE(&attachments, at, next);
	group_put(at->group);
	pthread_mutex_unlock(&registry_lock);
	free(at);
}

int
vdpa_vfio_cut_off(struct vfio_attachment *at)
{
	struct vfio_group *g = at->group;
	bool is_free = false;
	int ret = 0;

	pthread_mutex_lock(&registry_lock);
	for (unsigned int i = 0; ret == 0 && !is_free; i++) {
		if (g->users > 1) {
			ret = vdpa_error(EBUSY, "%s: other functions of IOMMU group %d are in use",
					 g->name, g->id);
		} else if (group_is_free(g)) {
			is_free = true;
		} else if (i == CUT_OFF_TRIES) {
			ret = vdpa_error(
				EBUSY,
				"%s: somebody has the function open: IOMMU group %d is not "
				"taken out of the container of %s",
				g->name, g->id, g->container->name);
		} else {
			/* Whoever is inside a call for the device has its file until that ends. */
			pthread_mutex_unlock(&registry_lock);
			usleep(CUT_OFF_PAUSE_US);
			pthread_mutex_lock(&registry_lock);
		}
	}
	pthread_mutex_unlock(&registry_lock);
	return ret;
}

bool
vdpa_vfio_is_held(const struct vfio_attachment *at)
{
	return at->held;
}

int
vdpa_vfio_keep(struct vfio_attachment *at, const char *device, struct vfio_left *files)
{
	struct vfio_group *g = at->group;
	const char *why = NULL;
	char *kept = strdup(device);

	pthread_mutex_lock(&registry_lock);
	if (g->container->vm != NULL)
		why = "functions of a `vm` are not left running";
	else if (g->users > 1)
		why = SHARED_GROUP;
	*files = (struct vfio_left){.container = g->container->fd, .group = g->fd};
	if (why == NULL && kept != NULL) {
		free(g->kept);
		g->kept = kept;
	} else {
		free(kept);
	}
	pthread_mutex_unlock(&registry_lock);
	if (why != NULL)
		return vdpa_error(EOPNOTSUPP, "%s: %s", g->name, why);
	return kept != NULL ? 0 : vdpa_error(ENOMEM, "%s: out of memory", g->name);
}

void
vdpa_vfio_unmap_all(struct vfio_attachment *at)
{
	struct vfio_iommu_type1_dma_unmap all = {.argsz = sizeof(all),
						 .flags = VFIO_DMA_UNMAP_FLAG_ALL};

	/* Where the kernel does not know the flag, what is there is found when it is in the way. */
	(void)ioctl(at->group->container->fd, VFIO_IOMMU_UNMAP_DMA, &all);
}

void
vdpa_vfio_leave(struct vfio_attachment *at)
{
	pthread_mutex_lock(&registry_lock);
	at->group->container->is_left = true;
	pthread_mutex_unlock(&registry_lock);
}
