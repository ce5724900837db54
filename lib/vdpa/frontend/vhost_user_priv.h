/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The vhost-user front end, by file.
 *
 *   vhost_user.c          devices and their connections; what rte_vhost and the core call
 *   vhost_user_socket.c   the socket itself: path, permissions, time-outs
 *   vhost_user_msg.c      one message: its file descriptors, its checks, its refusal
 *   vhost_user_requests.c the table of requests, their handlers
 *   vhost_user_channel.c  what the front end is told unasked: configuration changes, doorbells
 *   vhost_user_session.c  one connection's device: rings, memory, log; when the device starts
 *   vhost_user_shm.c      files of the front end other than guest memory
 *
 * rte_vhost carries the messages and nothing else: it owns the sockets, reads a message with its
 * file descriptors and sends the reply. Every message is answered in our pre-handler, so
 * rte_vhost's own idea of the device stays empty: it maps no guest memory, reads no ring, and never
 * believes a device to be ready. One set of checks then guards all that a front end can say, and
 * there is one owner of each file descriptor.
 *
 * Threads: a session belongs to rte_vhost's thread, which serves one message of one socket at a
 * time. Fields marked (S) are shared with the core's loops and guarded by vhu_device.lock, which
 * nobody holds while calling into the core.
 */

#ifndef VHOST_USER_PRIV_H
#define VHOST_USER_PRIV_H

#include <pthread.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "vdpa_foreign_fd.h"
#include "vdpa_frontend.h"
#include "vhost_user_proto.h"

/* A connection that has been refused this many messages is closed. */
#define VHU_REFUSALS_MAX 16

/* A file of the front end, mapped and guarded against being shrunk. */
struct vhu_shm {
	uint8_t *addr;
	size_t len; /* bytes from addr on */
	void *map;
	size_t map_len;
	bool faulted;		     /* written by the fault handler */
	struct vdpa_dirty_log dirty; /* the same as a dirty log: lives as long as the mapping */
};

/* A virtqueue as the front end has described it. */
struct vhu_ring {
	uint32_t num; /* 0: not set */
	bool addr_set;
	bool log; /* used ring at log_addr of the log */
	bool base_set;
	bool kicked;   /* SET_VRING_KICK was seen: with an fd or to say that we shall poll */
	bool enabled;  /* SET_VRING_ENABLE */
	bool started;  /* the front end may believe it running: until GET_VRING_BASE or a reset */
	bool known;    /* the front end has spoken of it, so it has such a queue */
	bool unused;   /* it was enabled without being set up, after another was */
	bool late;     /* the running device did not take it: until GET_VRING_BASE or a reset */
	uint32_t base; /* as SET_VRING_BASE has it */
	uint64_t desc_user, driver_user, device_user;
	uint64_t log_addr;
	uint64_t desc, driver, device; /* IOVAs, from the start on */
	int kick_fd;
	int call_fd;
	int err_fd;	     /* (S) */
	bool doorbell;	     /* (S) the front end was told of it, and not that it is gone */
	bool doorbell_asked; /* whether there is one was asked since the ring started */
};

struct vhu_device;

struct vhu_session {
	struct vhu_device *dev;
	int vid;
	int fd;	      /* our duplicate of the connection */
	bool dead;    /* replaced by a newer connection; rte_vhost has not noticed the end yet */
	bool refused; /* the connection ends because of a message that was logged */
	unsigned int refusals;

	uint64_t features; /* SET_FEATURES */
	uint64_t protocol; /* SET_PROTOCOL_FEATURES */
	bool features_set;
	bool status_used;
	uint8_t status;

	bool running; /* vdpa_device_start() succeeded and no stop since */
	bool failed;  /* the device failed; no start until the front end has stopped its rings */
	bool logging;
	struct vdpa_iotlb *iotlb;
	struct vhu_shm *log;
	struct vhu_shm *inflight;
	uint16_t inflight_queues;
	size_t inflight_stride;
	int backend_fd; /* (S) SET_BACKEND_REQ_FD; -1: none */
	bool deaf;	/* (S) the last that it was to be told there was lost */

	TAILQ_ENTRY(vhu_session) next; /* of its device; vhost_user.c's */
	uint16_t nrings;
	struct vhu_ring rings[];
};

/* A device with its socket. */
struct vhu_device {
	struct vdpa_device *vdev;
	char *path;
	bool client;
	mode_t mode;
	gid_t group; /* (gid_t)-1: unchanged */
	bool is_net;
	uint16_t nvqs;		     /* that a front end sees: of a net device, the queue pairs */
	uint64_t features;	     /* offered */
	uint64_t protocol;	     /* offered */
	bool serving;		     /* registered with rte_vhost; management's */
	bool no_doorbells;	     /* they are not given away */
	struct vdpa_fd_account *fds; /* of its front ends, that wait to be closed */

	pthread_mutex_t lock;
	struct vhu_session *session;	    /* (S) NULL: not connected */
	TAILQ_HEAD(, vhu_session) sessions; /* that one and dead ones; vhost_user.c's */
	TAILQ_ENTRY(vhu_device) next;
};

/* vhost_user_msg.c */

/* Result for rte_vhost (enum rte_vhost_msg_result). fds: where rte_vhost keeps the message's. */
int vdpa_vhu_handle(struct vhu_session *s, struct vhu_msg *msg, int *fds, int *nfds);

/* vhost_user_session.c: 0 or a negative errno with vdpa_error_message(). */

/* The thread's error message without the device's name and "queue IDX: " in front (-1: no queue),
 * for lines that begin with them. */
const char *vdpa_vhu_why(const struct vhu_device *dev, int64_t idx);

struct vhu_session *vdpa_vhu_session_new(struct vhu_device *dev, int vid);
/* Stops the device. Nobody else may use the session any more. */
void vdpa_vhu_session_free(struct vhu_session *s);
/* Stop the device and forget what the front end said of its rings; but where they stopped, on
 * request. */
void vdpa_vhu_session_reset(struct vhu_session *s, bool keep_bases);
/* Start what has become ready. */
void vdpa_vhu_session_advance(struct vhu_session *s);
/* Note that the device failed meanwhile. */
void vdpa_vhu_session_poll_failure(struct vhu_session *s);
/* Log to where and whether SET_FEATURES, SET_LOG_BASE and SET_VRING_ADDR want it. */
int vdpa_vhu_session_update_log(struct vhu_session *s);
int vdpa_vhu_session_set_memory(struct vhu_session *s, const struct vdpa_mem_region_spec *specs,
				unsigned int n);
/* Where the ring's three parts lie; -EFAULT when not in memory. */
int vdpa_vhu_ring_translate(struct vhu_session *s, struct vhu_ring *ring);
/* GET_VRING_BASE: stop it, say where. */
void vdpa_vhu_ring_stop(struct vhu_session *s, uint16_t idx, uint32_t *base);
int vdpa_vhu_ring_enable(struct vhu_session *s, uint16_t idx, bool enable);
/* The front end has such a queue. */
void vdpa_vhu_ring_note(struct vhu_session *s, uint16_t idx);
/* Take over fd (-1: none). */
int vdpa_vhu_ring_set_kick(struct vhu_session *s, uint16_t idx, int fd);
int vdpa_vhu_ring_set_call(struct vhu_session *s, uint16_t idx, int fd);
void vdpa_vhu_ring_set_err(struct vhu_session *s, uint16_t idx, int fd);

/* vhost_user_channel.c */

/* Whether the front end reads configuration changes. Under the device's lock. */
bool vdpa_vhu_wants_config(const struct vhu_session *s);
void vdpa_vhu_tell_config(struct vhu_device *dev);
/* Tell the front end of the doorbells of queues that have started since. */
void vdpa_vhu_give_doorbells(struct vhu_session *s);
/* The queue has stopped: its doorbell is to be forgotten. */
void vdpa_vhu_take_doorbell(struct vhu_session *s, uint16_t idx);
/* The device has. From the failures' loop. */
void vdpa_vhu_take_doorbells(struct vhu_device *dev);
/* How many the front end has. Under the device's lock. */
unsigned int vdpa_vhu_count_doorbells(const struct vhu_session *s);

/* vhost_user_socket.c */

/* Remove what an earlier process left at the path; refuse everything else. */
int vdpa_vhu_socket_clear(const char *path);
/* Bind or connect the socket that is registered with rte_vhost, with the device's permissions. On
 * failure it may have been bound. */
int vdpa_vhu_socket_start(const struct vhu_device *dev);
/*
 * rte_vhost does not tell a new connection's file descriptor: look for the one that is_known() does
 * not know. Returns a duplicate of it with the time-outs set, -1 when it is not to be found.
 */
int vdpa_vhu_socket_claim(const struct vhu_device *dev,
			  bool (*is_known)(const struct vhu_device *dev, int fd));

/* vhost_user_shm.c */

/*
 * Whether fd is a file in memory: memfd, tmpfs, hugetlbfs. Asks the file system nothing. Any other,
 * above all one served by a process (FUSE) or over a network, could keep each access waiting.
 */
bool vdpa_vhu_is_shm(int fd);
/* Map len bytes at offset of fd's file; the caller keeps fd. */
int vdpa_vhu_shm_map(struct vhu_shm **out, int fd, uint64_t offset, uint64_t len);
/* NULL: no-op. */
void vdpa_vhu_shm_unmap(struct vhu_shm *shm);
/* Bytes of one queue's inflight area. */
size_t vdpa_vhu_inflight_stride(bool packed, uint16_t queue_size);

#endif /* VHOST_USER_PRIV_H */
