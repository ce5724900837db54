/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The wire of a connection that outlives the process (kept_wire.c): a file in memory with the bytes
 * that have left the socket, and the descriptors that came with them in the store. Of a front end
 * whose peer sends messages on a stream.
 *
 * Nothing here is for the control loop, since the store is waited for. Errors are negative, with
 * vdpa_error_message().
 */

#ifndef KEPT_WIRE_H
#define KEPT_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

struct vdpa_device;
struct vdpa_wire_file;
struct vhu_shm;

/* The name of a descriptor of a peer in the store: where in the connection's bytes the read began
 * that it came with, times vdpa_wire.ids, and its number there, from 1. 0: none. */
typedef uint64_t vdpa_wire_id;

/* What the names of a peer's descriptors begin with in the store. */
#define VDPA_WIRE_FD_PREFIX "fd."

struct vdpa_wire {
	const char *device;
	uint64_t serial; /* of the connection: in the names of its descriptors */
	/* Names of a read; the last is for a descriptor of ours, others for those that came. */
	unsigned int ids;
	/* Bytes from the last message that was carried out on; a power of two, and twice what is
	 * read on at least. */
	size_t input;
	struct vhu_shm *shm;
	struct vdpa_wire_file *file; /* in shm; NULL: there is none */
	bool some_missing;	     /* the last look's descriptors are not all in the store */
};

/* Descriptors of a connection in the store. One that came with a read up to read_end, and that a
 * record behind it does not name, is dropped. */
struct vdpa_wire_fds {
	struct vdpa_wire_fd {
		vdpa_wire_id id;
		uint64_t read_end;
	} * live;
	unsigned int n, room;
};

/* A file in memory of that size that is called so, mapped and in the store; one of a former
 * process, -ENOENT where there is none. */
int vdpa_kept_file_make(const char *device, const char *what, size_t size, struct vhu_shm **shm);
int vdpa_kept_file_take(const char *device, const char *what, size_t size, struct vhu_shm **shm);

/* Store a field of a file that the next process reads, behind all that was stored before and ahead
 * of all that is stored after: whenever the process is killed, a field that says so has its data.
 */
#define VDPA_KEPT_SET(field, value)                                                                \
	do {                                                                                       \
		__atomic_signal_fence(__ATOMIC_SEQ_CST);                                           \
		__atomic_store_n(&(field), value, __ATOMIC_RELEASE);                               \
		__atomic_signal_fence(__ATOMIC_SEQ_CST);                                           \
	} while (0)

/* Bytes of an inflight area of ours, for either format of a ring. */
size_t vdpa_kept_area_stride(struct vdpa_device *vdev);

/* The wire's file; device, ids and input are set. */
int vdpa_wire_make(struct vdpa_wire *w);
int vdpa_wire_take(struct vdpa_wire *w);
void vdpa_wire_unmap(struct vdpa_wire *w);
/* A new connection, with the next serial. The connection is not kept any more: nobody goes on with
 * the file. Whether the file is that connection's. */
void vdpa_wire_begin(struct vdpa_wire *w);
void vdpa_wire_end(struct vdpa_wire *w);
bool vdpa_wire_is_of(const struct vdpa_wire *w, uint64_t serial);

/* Descriptors of the connection in the store. */
int vdpa_wire_put_fd(const struct vdpa_wire *w, vdpa_wire_id id, int fd);
int vdpa_wire_take_fd(const struct vdpa_wire *w, vdpa_wire_id id);
void vdpa_wire_del_fd(const struct vdpa_wire *w, vdpa_wire_id id);
/* The name of the n-th descriptor, from 0, of the read that is looked at. */
vdpa_wire_id vdpa_wire_fd_id(const struct vdpa_wire *w, unsigned int n);

/* Note one; 0 is none. 0 or -ENOMEM. */
int vdpa_wire_note(struct vdpa_wire_fds *fds, vdpa_wire_id id, uint64_t read_end);
/* Drop those of reads up to `done` that are not named. */
void vdpa_wire_drop(const struct vdpa_wire *w, struct vdpa_wire_fds *fds, uint64_t done,
		    bool (*names)(vdpa_wire_id id, void *arg), void *arg);
/* Drop what the store has under a peer's names, but for those that are noted; NULL: all. */
void vdpa_wire_prune(const struct vdpa_wire *w, const struct vdpa_wire_fds *fds);

/*
 * Look at what has come, as recvmsg(2): nothing leaves the socket, and the descriptors, max of them
 * at most, are in the store, but for those of a kind that may not be stored
 * (vdpa_fd_can_be_stored()). *rc is negative where they are not.
 */
ssize_t vdpa_wire_look(struct vdpa_wire *w, int socket, struct msghdr *hdr,
		       struct vdpa_wire_fds *fds, unsigned int max, int *rc);
/* How many came with it. */
unsigned int vdpa_wire_count_fds(struct msghdr *hdr);
/*
 * Take the n bytes of it. nfds descriptors were seen: where they came with these bytes they are of
 * the message at this place. A look that ends where a message does may show those of the next one,
 * and of the bytes that were taken the kernel says whether they had any. done: the place of the
 * first message that was not carried out. 1: they have them; 0: they have none, and those that were
 * seen are not in the store; -EPROTO: they could not be taken so.
 */
int vdpa_wire_receive(struct vdpa_wire *w, int socket, size_t n, unsigned int nfds,
		      uint64_t message, uint64_t done, struct vdpa_wire_fds *fds);
/* The same into buf, of a connection that is not kept any more. */
int vdpa_wire_receive_plainly(int socket, void *buf, size_t n, unsigned int nfds);

/* What the reply to the messages up to `done` is sent by, whose msg_len says that it has left: for
 * sendmmsg(2). Whether one was sent for that place, and how many bytes have left. */
struct mmsghdr *vdpa_wire_reply(struct vdpa_wire *w, uint64_t done);
bool vdpa_wire_replied(const struct vdpa_wire *w, uint64_t done, size_t *len);

/*
 * The next process. Bytes that were taken and not carried out, max at most, into buf: how many.
 * *received: bytes that have left the socket.
 */
ssize_t vdpa_wire_resume(struct vdpa_wire *w, uint64_t done, uint8_t *buf, size_t max,
			 uint64_t *received);
/* Their descriptors: take() gets each, as its own, with the place of its message; first those of
 * the message at `done`, then others, in the order in which they came. max: of a read. In place of
 * one that may not be stored take() gets /dev/null, which the message's handler refuses. */
int vdpa_wire_resume_fds(struct vdpa_wire *w, uint64_t done, uint64_t received, unsigned int max,
			 struct vdpa_wire_fds *fds,
			 int (*take)(void *arg, uint64_t message, vdpa_wire_id id, int fd),
			 void *arg);

#endif /* KEPT_WIRE_H */
