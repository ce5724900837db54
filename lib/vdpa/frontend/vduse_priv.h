/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The VDUSE front end inside: a device of ours as one of the kernel's (linux/vduse.h).
 *
 *   vduse.c           words, what is offered, what the core calls
 *   vduse_dev.c       the kernel's device: made, taken up again, destroyed
 *   vduse_bus.c       its place on the kernel's vDPA bus, and whether somebody uses it there
 *   vduse_msg.c       control messages
 *   vduse_session.c   what the consumer is told: features, rings, status
 *   vduse_memory.c    the domain's ranges as a memory table; the bounce pages
 *   vduse_irq.c       kicks and interrupts
 *   vduse_record.c    what outlives this process: status and requests under way
 *
 * Messages and first kicks are handled by jobs of the device's work queue, one at a time: what has
 * no other comment is theirs, and probe's and remove's while no job runs.
 */

#ifndef VDUSE_PRIV_H
#define VDUSE_PRIV_H

#include <linux/vduse.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include "log_limit.h"
#include "vdpa_consumer.h"
#include "vdpa_event.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_timer.h"
#include "vdpa_work.h"

/* Ranges that are taken of a domain, and files that they may lie in: who has /dev/vhost-vdpa-N maps
 * what it likes, up to the kernel's own bound (vhost's max_iotlb_entries, 2048 by default). */
#define VDUSE_REGIONS_MAX 4096
#define VDUSE_FILES_MAX	  64

enum vduse_mode {
	VDUSE_MODE_VIRTIO, /* the kernel's own drivers have it: a disk, a netdev */
	VDUSE_MODE_VHOST,  /* /dev/vhost-vdpa-N */
	VDUSE_MODE_NONE,   /* the operator adds it to the bus */
};

/* In the order of the word's choices. */
enum vduse_tracking { VDUSE_INFLIGHT_AUTO, VDUSE_INFLIGHT_ON, VDUSE_INFLIGHT_OFF };

/* The kernel, or what stands for it in a test. ioctl: 0 or more, or -1 with errno. */
struct vduse_kernel {
	int (*open)(const char *path, int flags);
	int (*ioctl)(int fd, unsigned long request, void *arg);
	bool (*is_domain)(int fd); /* whether a file is a VDUSE domain's own */
	const char *run_dir;	   /* NULL: where the control socket is */
};

extern const struct vduse_kernel *vdpa_vduse_kernel;

struct vduse_device;

struct vduse_vq {
	struct vduse_device *dev;
	uint16_t idx;
	int kick_fd; /* the kernel signals; -1: none now */
	int call_fd; /* the device signals, the control loop injects; -1: none now */
	struct vdpa_event kick_ev, call_ev;
	bool joined; /* the consumer has it */
	bool owed;   /* an interrupt that the kernel did not take yet; atomic */
};

struct vduse_memory {
	uint64_t generation; /* of the domain's own pages, not 0 */
	/* Whoever has the device now has named memory. Until then the kernel may have files of its
	 * last user. */
	bool named;
	uint64_t bounce; /* bytes of bounce pages; 0: not known yet */
	int bounce_fd;	 /* ours, registered; -1: the kernel's */
	void *bounce_va;
};

/* What outlives the process, in a file. */
struct vduse_record {
	struct vduse_record_head *head; /* NULL: none */
	size_t size;
	int fd;
	char path[256];
};

struct vduse_device {
	struct vdpa_device *vdev;
	struct vdpa_log_limit log;
	enum vduse_mode mode;
	enum vduse_tracking tracking;
	uint64_t bounce_size; /* as asked for; 0: the kernel's default */
	uint64_t features;    /* offered */
	uint16_t nvqs;
	int fd;		/* of /dev/vduse/NAME */
	bool resumed;	/* the rings were begun by another process */
	bool resumes;	/* to go on there is the first thing to do */
	bool broken;	/* the kernel has given it up; atomic */
	bool tracks;	/* the record has an inflight area */
	uint8_t status; /* the kernel's */
	unsigned int retries;
	struct vdpa_consumer *consumer;
	struct vdpa_fd_account *fds;
	struct vdpa_event event;
	struct vdpa_work messages, kicked, config;
	struct vdpa_timer retry; /* interrupts that are owed */
	struct vduse_memory memory;
	struct vduse_record record;
	struct vduse_vq vqs[];
};

static inline bool
vdpa_vduse_is_broken(const struct vduse_device *dev)
{
	return __atomic_load_n(&dev->broken, __ATOMIC_ACQUIRE);
}

/* All that return an int: 0 or a negative errno with vdpa_error(). */

/* vduse_dev.c: make the kernel's device, or take up the one that a predecessor left (resumed). */
int vdpa_vduse_dev_open(struct vduse_device *dev);
/* Close it; destroy it, unless the kernel uses it. */
void vdpa_vduse_dev_close(struct vduse_device *dev, bool destroy);
/* The configuration as the device has it now. */
int vdpa_vduse_dev_set_config(struct vduse_device *dev);

/* vduse_bus.c: whether the device is on the kernel's bus; have it there, by the mode; take it away,
 * -EBUSY where somebody uses it. */
bool vdpa_vduse_bus_has(const struct vduse_device *dev);
/* Whether its user is one of /dev/vhost-vdpa-N: by the mode, or by the driver that it has. */
bool vdpa_vduse_bus_is_vhost(const struct vduse_device *dev);
int vdpa_vduse_bus_add(struct vduse_device *dev);
int vdpa_vduse_bus_del(struct vduse_device *dev);
/* Whether nobody uses it there; -EBUSY with a message that says who uses what, after some tries.
 * up: a netdev that is up counts too. */
int vdpa_vduse_bus_check_unused(const struct vduse_device *dev, bool up);
/* Where it is seen: "/dev/vda", "netdev eth0", "/dev/vhost-vdpa-0", "not on the vDPA bus". */
void vdpa_vduse_bus_describe(const struct vdpa_device *vdev, char *buf, size_t len);

/* vduse_msg.c: the answer to a request. */
void vdpa_vduse_handle(struct vduse_device *dev, const struct vduse_dev_request *req,
		       struct vduse_dev_response *resp);
/* The job: read what has come and answer it. */
void vdpa_vduse_messages_run(struct vdpa_work *work);
/* On the control loop: there is something to read. */
void vdpa_vduse_readable(struct vdpa_event *ev, uint32_t revents);

/* vduse_session.c */
int vdpa_vduse_set_status(struct vduse_device *dev, uint8_t status);
/* DRIVER_OK has been answered, or a queue was kicked: start what is ready, once its memory is. */
void vdpa_vduse_try_start(struct vduse_device *dev);
/* Go on where a predecessor was. */
void vdpa_vduse_resume(struct vduse_device *dev);
void vdpa_vduse_stop(struct vduse_device *dev);
void vdpa_vduse_kicked_run(struct vdpa_work *work);

/* vduse_memory.c: what lies in the domain's own file from now on is other memory than before. */
void vdpa_vduse_memory_renew(struct vduse_device *dev);
/* Tell the consumer of the domain's ranges; *complete: whether all of it is there,
 * which a kernel's driver does not say before it uses a ring. */
int vdpa_vduse_memory_load(struct vduse_device *dev, bool *complete);
/* Nothing of it is in the device's reach any more: its owner may have taken it back. */
void vdpa_vduse_memory_forget(struct vduse_device *dev);
void vdpa_vduse_memory_free(struct vduse_device *dev);

/* vduse_irq.c: eventfds for a queue, its kick watched by the control loop; the loop's watch ends,
 * and what it has seen is kicked again; no eventfds. */
int vdpa_vduse_vq_arm(struct vduse_vq *vq);
void vdpa_vduse_vq_join(struct vduse_vq *vq);
void vdpa_vduse_vq_disarm(struct vduse_vq *vq);
void vdpa_vduse_retry(struct vdpa_timer *timer);

/* vduse_record.c: open the file of a device, anew or as it is, -ENOENT where there is none or one
 * of another device, -EIO where the kernel has given that up. */
int vdpa_vduse_record_open(struct vduse_device *dev, bool anew);
void vdpa_vduse_record_close(struct vduse_device *dev, bool keep);
void vdpa_vduse_record_status(struct vduse_device *dev, uint8_t status);
/* The kernel has given the device up: nobody can take it up. From any thread. */
void vdpa_vduse_record_break(struct vduse_device *dev);
uint8_t vdpa_vduse_record_get_status(const struct vduse_device *dev);
/* The rings begin anew: no request is under way. */
void vdpa_vduse_record_reset(struct vduse_device *dev);
/* The inflight areas, stride bytes each; NULL: none. */
uint8_t *vdpa_vduse_record_areas(const struct vduse_device *dev, size_t *stride);

#endif /* VDUSE_PRIV_H */
