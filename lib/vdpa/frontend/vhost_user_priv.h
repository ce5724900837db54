/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The vhost-user front end, by file.
 *
 *   vhost_user.c          devices: what is offered, what the core calls
 *   vhost_user_socket.c   the socket: path, permissions, who connects
 *   vhost_user_conn.c     a connection: bytes to messages and back, on which thread
 *   vhost_user_msg.c      one message: its file descriptors, its checks, its refusal
 *   vhost_user_requests.c the table of requests, their handlers
 *   vhost_user_channel.c  what goes to the front end unasked: configuration changes, doorbells
 *   vhost_user_session.c  one connection: the consumer that it is to the core, its files
 *   vhost_user_call.c     calls by a socket in place of an eventfd
 *   vhost_user_shm.c      files of the front end other than guest memory
 *
 * Threads: sockets and bytes are the control loop's, which waits for nothing. A session belongs to
 * the job of its connection on the device's work queue, which handles one message at a time, or to
 * whoever ends the connection once that job can no longer run. Fields marked (S) are shared with
 * other threads and guarded by vhu_device.lock, under which nobody calls what takes a device's or a
 * consumer's lock, or waits.
 */

#ifndef VHOST_USER_PRIV_H
#define VHOST_USER_PRIV_H

#include <pthread.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "log_limit.h"
#include "vdpa_consumer.h"
#include "vdpa_foreign_fd.h"
#include "vhost_user_conn.h"
#include "vhost_user_request.h"

/* A connection that has been refused this many messages is closed. */
#define VHU_REFUSALS_MAX 16

/* A file of the front end, mapped and guarded against being shrunk. */
struct vhu_shm {
	uint8_t *addr;
	size_t len; /* bytes from addr on */
	void *map;
	size_t map_len;
	bool faulted; /* written by the fault handler */
	/* The same as a dirty log: lives as long as the mapping; its fd is ours. */
	struct vdpa_dirty_log dirty;
};

/* What the front end knows of a queue's doorbell. */
enum vhu_doorbell {
	VHU_DOORBELL_NOT_ASKED, /* whether there is one, since the queue started */
	VHU_DOORBELL_NONE,
	VHU_DOORBELL_GIVEN, /* it has the page, and no message that the page is gone */
};

struct vhu_call;
struct vhu_device;

struct vhu_session {
	struct vhu_device *dev;
	unsigned int refusals;

	struct vdpa_consumer *consumer;
	struct vdpa_peer peer; /* who is connected */
	uint64_t protocol;     /* SET_PROTOCOL_FEATURES */
	struct vhu_shm *log;
	struct vhu_shm *inflight;
	int backend_fd;		  /* (S) SET_BACKEND_REQ_FD; -1: none */
	struct vdpa_peer channel; /* (S) who made it */
	bool message_lost;	  /* (S) the last message on it was lost */

	uint16_t nrings;
	struct vhu_call **calls;       /* by ring; NULL: its call descriptor is an eventfd */
	enum vhu_doorbell doorbells[]; /* (S) */
};

/* A device with its socket. */
struct vhu_device {
	struct vdpa_device *vdev;
	char *path;
	bool client;
	mode_t mode;
	gid_t group;		       /* (gid_t)-1: unchanged */
	uint16_t nvqs;		       /* that a front end sees, with a control queue to give */
	uint64_t features;	       /* offered */
	uint64_t protocol;	       /* offered */
	enum vdpa_doorbells doorbells; /* who is given them */
	struct vdpa_log_limit log;     /* for lines that a front end can cause */
	struct vdpa_fd_account *fds;   /* of all who can connect; what waits to be closed */

	struct vhu_socket socket;
	struct vhu_conn conn;
	pthread_mutex_t lock;
	bool serving;		     /* (S) the link is up: front ends may connect */
	struct vhu_session *session; /* (S) NULL: not connected */
	TAILQ_ENTRY(vhu_device) next;
};

/* vhost_user_msg.c: check and handle one message; its file descriptors are taken over. */
enum vhu_verdict vdpa_vhu_handle(struct vhu_received *req);

/* vhost_user_conn.c: send a message with a file descriptor (-1: none), at once or not at all; as
 * sendmsg(2). */
ssize_t vdpa_vhu_send(int socket, const struct vhu_msg *msg, int fd);

/* vhost_user_session.c: 0 or a negative errno with vdpa_error_message(). */

/* The thread's error message without the device's name and "queue IDX: " in front (-1: no queue),
 * for lines that begin with them. */
const char *vdpa_vhu_why(const struct vhu_device *dev, int64_t idx);

/* A connection of this process. NULL with vdpa_error_message(): out of memory, or the process may
 * not be served. */
struct vhu_session *vdpa_vhu_session_new(struct vhu_device *dev, const struct vdpa_peer *peer);
/* Stops the device. Nobody else may use the session any more. */
void vdpa_vhu_session_free(struct vhu_session *s);
/* Start what has become ready, and give its doorbells. */
void vdpa_vhu_session_advance(struct vhu_session *s);

/* vhost_user_channel.c */

/* Whether the front end reads configuration changes. Under the device's lock. */
bool vdpa_vhu_wants_config(const struct vhu_session *s);
void vdpa_vhu_tell_config(struct vhu_device *dev);
/* Tell the front end of the doorbells of queues that have started since. */
void vdpa_vhu_give_doorbells(struct vhu_session *s);
/* The queue has stopped: its doorbell is to be forgotten. */
void vdpa_vhu_take_doorbell(struct vhu_session *s, uint16_t idx);
/* The device has. From a job of its own. */
void vdpa_vhu_take_doorbells(struct vhu_device *dev);
/* How many the front end has. Under the device's lock. */
unsigned int vdpa_vhu_count_doorbells(const struct vhu_session *s);

/* vhost_user_call.c */

/* Whether fd is a socket of AF_UNIX and SOCK_STREAM. */
bool vdpa_vhu_is_stream(int fd);
/* Calls by the socket, which is taken over, also on failure; its sender's account outlives the
 * call. fd: an eventfd that makes one, the caller's to close. */
int vdpa_vhu_call_new(struct vdpa_fd_account *fds, int socket, struct vhu_call **call, int *fd);
/* NULL: no-op. */
void vdpa_vhu_call_free(struct vhu_call *call);

/* vhost_user_shm.c */

/*
 * Whether fd is a file in memory: memfd, tmpfs, hugetlbfs. Asks the file system nothing. Any other,
 * above all one served by a process (FUSE) or over a network, could keep each access waiting.
 */
bool vdpa_vhu_is_shm(int fd);
/* What to say of another, and how to change it. */
#define VHU_NOT_SHM                                                                                \
	"the file is not a shared memory file (memfd, tmpfs, hugetlbfs), and another can make an " \
	"access wait; QEMU: memory-backend-memfd, or mem-path=/dev/shm; libvirt: <source "         \
	"type='memfd'/> in <memoryBacking>"
/* Map len bytes at offset of fd's file; the caller keeps fd. */
int vdpa_vhu_shm_map(struct vhu_shm **out, int fd, uint64_t offset, uint64_t len);
/* NULL: no-op. */
void vdpa_vhu_shm_unmap(struct vhu_shm *shm);
/* Bytes of one queue's inflight area. */
size_t vdpa_vhu_inflight_stride(bool packed, uint16_t queue_size);

#endif /* VHOST_USER_PRIV_H */
