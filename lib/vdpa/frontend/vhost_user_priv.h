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
 *   vhost_user_channel.c  what goes to the front end unasked: configuration changes
 *   vhost_user_doorbell.c and doorbells, given and taken back
 *   vhost_user_files.c    what there is beside the socket: its folder, label, device-info file
 *   vhost_user_session.c  one connection: the consumer that it is to the core, its files
 *   vhost_user_call.c     calls by a socket in place of an eventfd
 *   vhost_user_kept.c     a connection that outlives the process; its bytes and descriptors are
 *                         kept_wire.c's
 *   vhost_user_record.c   and what the front end has said
 *   vhost_user_apply.c    carried out in the next process
 *   vhost_user_planned.c  and one of a device that goes on at a planned end alone
 *   vhost_user_shm.c      files of the front end other than guest memory
 *   vhost_user_state.c    the device's state, saved and loaded
 *   vhost_user_stream.c   its bytes, through a file descriptor of the front end's
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
#include "shm_file.h"
#include "vdpa_consumer.h"
#include "vdpa_foreign_fd.h"
#include "vhost_user_conn.h"
#include "vhost_user_files.h"
#include "vhost_user_kept.h"
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
	VHU_DOORBELL_GIVEN,   /* it has the page, and no message that the page is gone */
	VHU_DOORBELL_TO_TAKE, /* the same, while the queue runs: the message is still to be sent */
	VHU_DOORBELL_TAKEN,   /* it has the message, and may not have done by it yet */
};

/* Protocol features without which no doorbell is given. */
#define VHU_DOORBELL_PROTOCOL                                                                      \
	(VHU_PROTOCOL(BACKEND_REQ) | VHU_PROTOCOL(HOST_NOTIFIER) | VHU_PROTOCOL(BACKEND_SEND_FD))

/* Doorbells on their way back while their queues run, all of a session together. */
struct vhu_taking {
	unsigned int interval_ms; /* to the look after the next */
	int64_t begun_us;	  /* when the last of them began */
	bool read;		  /* the front end has read the messages */
	bool said;		  /* that it does not was logged */
};

/* What is under way with the device's state, from SET_DEVICE_STATE_FD to CHECK_DEVICE_STATE. */
enum vhu_move {
	VHU_MOVE_NONE,
	VHU_MOVE_SAVE,
	VHU_MOVE_LOAD,
};

struct vhu_call;
struct vhu_device;
struct vhu_stream;

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

	struct vhu_kept_session *kept; /* NULL: it is not kept */
	uint16_t nrings;
	struct vhu_call **calls; /* by ring; NULL: its call descriptor is an eventfd */
	enum vhu_move move;	 /* what the device's stream is for */

	enum vhu_doorbell *doorbells; /* (S) by ring */
	bool *doorbell_changed;	      /* (S) by ring: to be asked for anew */
	struct vhu_taking taking;     /* (S) */
	struct vdpa_work doorbell_work;
	struct vdpa_timer doorbell_timer; /* posts it; started under the lock */
	bool ended;			  /* (S) it is no longer started, nor the job posted */
};

/* When INFLIGHT_SHMFD is offered. */
enum vhu_tracking {
	VHU_INFLIGHT_AUTO, /* where the device fills the area itself */
	VHU_INFLIGHT_ON,   /* always: a shadow fills it where the device does not */
	VHU_INFLIGHT_OFF,
};

/* A device with its socket. */
struct vhu_device {
	struct vdpa_device *vdev;
	char *path;
	bool client;
	mode_t mode;
	gid_t group; /* (gid_t)-1: unchanged */
	struct vhu_files files;
	uint16_t nvqs;	   /* that a front end sees, with a control queue to give */
	uint64_t features; /* offered */
	uint64_t protocol; /* offered */
	enum vhu_tracking inflight;
	enum vdpa_doorbells doorbells; /* who is given them */
	bool device_state;	       /* the word device_state: it is offered */
	struct vdpa_log_limit log;     /* for lines that a front end can cause */
	struct vdpa_fd_account *fds;   /* of all who can connect; what waits to be closed */
	struct vhu_stream *stream;     /* of the session's, or one before that has not ended yet */

	struct vhu_kept kept;
	struct vhu_socket socket;
	struct vhu_conn conn;
	pthread_mutex_t lock;
	bool serving;		     /* (S) the link is up: front ends may connect */
	struct vhu_session *session; /* (S) NULL: not connected */
};

/* vhost_user_msg.c: check and handle one message; its file descriptors are taken over. */
enum vhu_verdict vdpa_vhu_handle(struct vhu_received *req);

/* vhost_user_conn.c: send a message with a file descriptor (-1: none), at once or not at all; as
 * sendmsg(2). */
ssize_t vdpa_vhu_send(int socket, const struct vhu_msg *msg, int fd);

/* The same; note->msg_len says, in memory that may outlive the process, how much was sent. */
ssize_t vdpa_vhu_send_noted(int socket, const struct vhu_msg *msg, int fd, struct mmsghdr *note);

/* vhost_user_requests.c: what a message brings that another process has taken. The descriptor of
 * the channel is taken over, that of an inflight area is the caller's. */
int vdpa_vhu_set_channel(struct vhu_session *s, int fd);
int vdpa_vhu_set_inflight(struct vhu_session *s, int fd, const struct vhu_inflight *inflight);

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

/* Whether there is a channel, and these protocol features. */
bool vdpa_vhu_has_channel(const struct vhu_session *s, uint64_t features);
/*
 * Under the device's lock: send a message, at once or not at all. fd -1: none goes with it. False:
 * the message was lost, which is logged once until one is not.
 */
bool vdpa_vhu_tell(struct vhu_session *s, const struct vhu_msg *msg, int fd, const char *what);
/* Under the device's lock: whether the front end has read all that was sent to it. */
bool vdpa_vhu_all_is_read(const struct vhu_session *s);
/* Whether the front end reads configuration changes. Under the device's lock. */
bool vdpa_vhu_wants_config(const struct vhu_session *s);
void vdpa_vhu_tell_config(struct vhu_device *dev);

/* vhost_user_doorbell.c */

/* Once s->dev and s->nrings are set. 0 or -ENOMEM; its arrays are the session's to free. */
int vdpa_vhu_doorbells_init(struct vhu_session *s);
/* From now on changes are not looked at: on return the job does not run and will not. With no lock
 * held that it takes, such as the device's or the consumer's. */
void vdpa_vhu_doorbells_stop(struct vhu_session *s);
/* Nobody finds the session any more: take all of them back, and the same. */
void vdpa_vhu_doorbells_end(struct vhu_session *s);
/* Tell the front end of the doorbells of queues that have started since. */
void vdpa_vhu_give_doorbells(struct vhu_session *s);
/* The queue has stopped: its doorbell is to be forgotten. */
void vdpa_vhu_take_doorbell(struct vhu_session *s, uint16_t idx);
/* They stay given: the process ends, and the device goes on. */
void vdpa_vhu_leave_doorbells(struct vhu_session *s);
/* The device has. From a job of its own. */
void vdpa_vhu_take_doorbells(struct vhu_device *dev);
/* While the queue runs: whether it has a doorbell may be different from before. Never waits. */
void vdpa_vhu_doorbell_changed(struct vhu_device *dev, uint16_t idx);
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

/* vhost_user_state.c: requests. */
int vdpa_vhu_set_device_state_fd(struct vhu_received *req);
int vdpa_vhu_check_device_state(struct vhu_received *req);

/* vhost_user_stream.c */

/* Read fd, a pipe or a file in memory, up to its end, or write len bytes of buf to it, on a thread
 * of its own; then it is closed. fd is taken over on success, buf always. 0, or -EINVAL for another
 * kind of file, -ENOMEM or -EAGAIN, with a message. */
int vdpa_vhu_stream_read(int fd, struct vhu_stream **stream);
int vdpa_vhu_stream_write(int fd, uint8_t *buf, size_t len, struct vhu_stream **stream);
/* Wait until it has ended, ms at most: 0, or a negative errno with a message. -EINPROGRESS: it has
 * not ended. */
int vdpa_vhu_stream_wait(struct vhu_stream *stream, unsigned int ms);
bool vdpa_vhu_stream_has_ended(struct vhu_stream *stream);
/* What went through, of one that has ended. Valid until it is closed. */
const uint8_t *vdpa_vhu_stream_bytes(const struct vhu_stream *stream, size_t *len);
/* Give it up: it ends as soon as the front end's file lets it. */
void vdpa_vhu_stream_abandon(struct vhu_stream *stream);
/* No more of it, whether it has ended or not. Never waits. NULL: no-op. */
void vdpa_vhu_stream_close(struct vhu_stream *stream);

/* vhost_user_shm.c */

/* Map len bytes at offset of fd's file; the caller keeps fd. */
int vdpa_vhu_shm_map(struct vhu_shm **out, int fd, uint64_t offset, uint64_t len);
/* NULL: no-op. */
void vdpa_vhu_shm_unmap(struct vhu_shm *shm);
/* Bytes of one queue's inflight area. */
size_t vdpa_vhu_inflight_stride(bool packed, uint16_t queue_size);

#endif /* VHOST_USER_PRIV_H */
