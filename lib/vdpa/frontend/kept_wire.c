/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The wire of a connection that outlives the process. Its bytes and its descriptors are in the
 * store before they leave the socket, and whether a reply has left is known afterwards, whenever
 * the process is killed. Owns the wire's file, which the next process maps.
 *
 * What makes that certain is that the kernel carries a system call to its end before SIGKILL ends
 * the process: recvmmsg(2) and sendmmsg(2) write how many bytes went through into memory of the
 * caller's, and that memory is the wire. So
 *
 *   a message is looked at (MSG_PEEK), its descriptors are put into the store, and the wire says
 *   which message they are of; then recvmmsg() takes the bytes into the wire, and says by
 *   MSG_CTRUNC whether they had descriptors: a look may show those of the next message;
 *   the message is carried out and recorded with its reply, by the front end;
 *   the wire says for which message sendmmsg() is called, and that says that the reply has left.
 *
 * A message that was taken and not recorded is carried out again: all that it has changed ended
 * with the process. One that was recorded is not, and its reply is sent if it has not left.
 *
 * A descriptor reaches the store before its message is looked at. So only kinds of descriptors go
 * there with which no peer can make the store wait; a message with one of another kind is refused
 * by its handler. Only a pipe for a device's state is taken without being stored: a process that
 * ends between taking that message and recording it leaves a message that the next one refuses.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <rte_common.h>

#include "kept_wire.h"
#include "restart.h"
#include "stored_fd.h"
#include "vdpa_args.h"
#include "vdpa_virtqueue.h"
#include "vhost_user_priv.h"

#define WIRE	   "wire"
#define WIRE_MAGIC UINT64_C(0x6572697764707675)
/* Reads with descriptors whose messages were not carried out yet. */
#define WIRE_FDS   4
#define AREA_ALIGN ((size_t)64)

/* Descriptors that came with a read. Places are counted from the connection's beginning. */
struct wire_read {
	uint64_t message; /* that they are of */
	uint64_t read;	  /* where that read began */
	uint32_t n;
	uint32_t some_missing; /* those of a kind that may not be stored are not in the store */
};

struct vdpa_wire_file {
	uint64_t magic;
	uint64_t serial;   /* of the connection */
	uint64_t received; /* bytes that have left the socket, but for the last read's */
	uint64_t in_at;	   /* what it was before that read, or will be */
	struct mmsghdr in; /* msg_len: of that read */
	uint64_t out_for;  /* the place behind the message that out is the reply to */
	struct mmsghdr out;
	struct wire_read reads[WIRE_FDS];
	uint8_t input[]; /* by place, modulo its size */
};

static void
fd_name(char buf[VDPA_RESTART_WHAT_MAX], const struct vdpa_wire *w, vdpa_wire_id id)
{
	snprintf(buf, VDPA_RESTART_WHAT_MAX, VDPA_WIRE_FD_PREFIX "%" PRIx64 ".%" PRIx64, w->serial,
		 id);
}

int
vdpa_wire_put_fd(const struct vdpa_wire *w, vdpa_wire_id id, int fd)
{
	char what[VDPA_RESTART_WHAT_MAX];

	fd_name(what, w, id);
	return vdpa_restart_put(w->device, what, fd);
}

void
vdpa_wire_del_fd(const struct vdpa_wire *w, vdpa_wire_id id)
{
	char what[VDPA_RESTART_WHAT_MAX];

	fd_name(what, w, id);
	vdpa_restart_del(w->device, what);
}

int
vdpa_wire_take_fd(const struct vdpa_wire *w, vdpa_wire_id id)
{
	char what[VDPA_RESTART_WHAT_MAX];

	fd_name(what, w, id);
	return vdpa_restart_take(w->device, what);
}

/* Files in memory. */

int
vdpa_kept_file_make(const char *device, const char *what, size_t size, struct vhu_shm **shm)
{
	int fd = memfd_create(what, MFD_CLOEXEC | MFD_ALLOW_SEALING), rc;

	if (fd < 0)
		return vdpa_error(errno, "memfd: %m");
	rc = ftruncate(fd, (off_t)size) < 0 ||
			     fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0
		     ? vdpa_error(errno, "memfd: %m")
		     : vdpa_vhu_shm_map(shm, fd, 0, size);
	if (rc == 0) {
		rc = vdpa_restart_put(device, what, fd);
		if (rc < 0) {
			vdpa_vhu_shm_unmap(*shm);
			*shm = NULL;
		}
	}
	close(fd);
	return rc;
}

int
vdpa_kept_file_take(const char *device, const char *what, size_t size, struct vhu_shm **shm)
{
	int fd = vdpa_restart_take(device, what), rc;

	if (fd < 0)
		return fd;
	rc = vdpa_vhu_shm_map(shm, fd, 0, size);
	vdpa_close_stray(fd);
	return rc;
}

size_t
vdpa_kept_area_stride(struct vdpa_device *vdev)
{
	uint32_t num = vdpa_get_vq_num_max(vdev);

	return RTE_ALIGN_CEIL(
		RTE_MAX(vdpa_vq_inflight_size(false, num), vdpa_vq_inflight_size(true, num)),
		AREA_ALIGN);
}

/* The wire's life. */

static int
found(struct vdpa_wire *w, int rc)
{
	if (rc == 0)
		w->file = (struct vdpa_wire_file *)(void *)w->shm->addr;
	return rc;
}

int
vdpa_wire_make(struct vdpa_wire *w)
{
	return found(w, vdpa_kept_file_make(w->device, WIRE, sizeof(*w->file) + w->input, &w->shm));
}

int
vdpa_wire_take(struct vdpa_wire *w)
{
	return found(w, vdpa_kept_file_take(w->device, WIRE, sizeof(*w->file) + w->input, &w->shm));
}

void
vdpa_wire_unmap(struct vdpa_wire *w)
{
	vdpa_vhu_shm_unmap(w->shm);
	w->shm = NULL;
	w->file = NULL;
}

void
vdpa_wire_begin(struct vdpa_wire *w)
{
	w->serial++;
	memset(w->file, 0, sizeof(*w->file) + w->input);
	w->file->serial = w->serial;
	VDPA_KEPT_SET(w->file->magic, WIRE_MAGIC);
}

void
vdpa_wire_end(struct vdpa_wire *w)
{
	if (w->file != NULL)
		VDPA_KEPT_SET(w->file->magic, 0);
}

bool
vdpa_wire_is_of(const struct vdpa_wire *w, uint64_t serial)
{
	return w->file->magic == WIRE_MAGIC && w->file->serial == serial;
}

/* Descriptors. */

vdpa_wire_id
vdpa_wire_fd_id(const struct vdpa_wire *w, unsigned int n)
{
	return w->file->received * w->ids + n + 1;
}

int
vdpa_wire_note(struct vdpa_wire_fds *fds, vdpa_wire_id id, uint64_t read_end)
{
	if (id == 0)
		return 0;
	if (fds->n == fds->room) {
		unsigned int room = fds->room * 2 + 16;
		struct vdpa_wire_fd *live = reallocarray(fds->live, room, sizeof(*live));

		if (live == NULL)
			return vdpa_error(ENOMEM, "out of memory");
		fds->live = live;
		fds->room = room;
	}
	fds->live[fds->n++] = (struct vdpa_wire_fd){.id = id, .read_end = read_end};
	return 0;
}

void
vdpa_wire_drop(const struct vdpa_wire *w, struct vdpa_wire_fds *fds, uint64_t done,
	       bool (*names)(vdpa_wire_id id, void *arg), void *arg)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < fds->n; i++) {
		if (fds->live[i].read_end > done || names(fds->live[i].id, arg))
			fds->live[n++] = fds->live[i];
		else
			vdpa_wire_del_fd(w, fds->live[i].id);
	}
	fds->n = n;
}

struct wanted {
	const struct vdpa_wire *wire;
	const struct vdpa_wire_fds *fds;
};

static bool
is_wanted(const char *what, void *arg)
{
	const struct wanted *w = arg;
	char name[VDPA_RESTART_WHAT_MAX];

	if (strncmp(what, VDPA_WIRE_FD_PREFIX, strlen(VDPA_WIRE_FD_PREFIX)) != 0)
		return true;
	for (unsigned int i = 0; w->fds != NULL && i < w->fds->n; i++) {
		fd_name(name, w->wire, w->fds->live[i].id);
		if (strcmp(what, name) == 0)
			return true;
	}
	return false;
}

void
vdpa_wire_prune(const struct vdpa_wire *w, const struct vdpa_wire_fds *fds)
{
	struct wanted wanted = {.wire = w, .fds = fds};

	vdpa_restart_prune(w->device, is_wanted, &wanted);
}

/* Bytes that come. */

/* Put the descriptors that a look at the socket has brought, but for those that may not be
 * stored. */
static int
put_fds(struct vdpa_wire *w, struct msghdr *hdr, uint64_t read_end, struct vdpa_wire_fds *fds,
	unsigned int max)
{
	unsigned int count = 0;
	int rc = 0;

	w->some_missing = false;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(hdr); c != NULL; c = CMSG_NXTHDR(hdr, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n && rc == 0 && count < max; i++) {
			vdpa_wire_id id = vdpa_wire_fd_id(w, count++);
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (!vdpa_fd_can_be_stored(fd)) {
				w->some_missing = true;
				continue;
			}
			rc = vdpa_wire_put_fd(w, id, fd);
			if (rc == 0)
				rc = vdpa_wire_note(fds, id, read_end);
		}
	}
	return rc;
}

ssize_t
vdpa_wire_look(struct vdpa_wire *w, int socket, struct msghdr *hdr, struct vdpa_wire_fds *fds,
	       unsigned int max, int *rc)
{
	ssize_t n = recvmsg(socket, hdr, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_PEEK);

	*rc = n > 0 ? put_fds(w, hdr, w->file->received + (uint64_t)n, fds, max) : 0;
	return n;
}

/* Where the wire says which message the descriptors of a read are of. */
static struct wire_read *
free_read(struct vdpa_wire_file *file, uint64_t done)
{
	for (unsigned int i = 0; i < WIRE_FDS; i++)
		if (file->reads[i].n == 0 || file->reads[i].read >= file->received ||
		    file->reads[i].message < done)
			return &file->reads[i];
	return NULL;
}

unsigned int
vdpa_wire_count_fds(struct msghdr *hdr)
{
	unsigned int count = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(hdr); c != NULL; c = CMSG_NXTHDR(hdr, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			count += (unsigned int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
	return count;
}

/* Drop what a look has put for the read that begins and ends here. */
static void
drop_read(struct vdpa_wire *w, struct vdpa_wire_fds *fds, uint64_t read, uint64_t end)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < fds->n; i++) {
		if ((fds->live[i].id - 1) / w->ids == read && fds->live[i].read_end == end)
			vdpa_wire_del_fd(w, fds->live[i].id);
		else
			fds->live[n++] = fds->live[i];
	}
	fds->n = n;
}

/* What the kernel says of bytes that were read without room for descriptors. */
static bool
had_fds(const struct msghdr *hdr)
{
	return (hdr->msg_flags & MSG_CTRUNC) != 0;
}

int
vdpa_wire_receive_plainly(int socket, void *buf, size_t n, unsigned int nfds)
{
	struct iovec iov = {.iov_base = buf, .iov_len = n};
	struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};

	if (recvmsg(socket, &hdr, MSG_DONTWAIT) != (ssize_t)n || (had_fds(&hdr) && nfds == 0))
		return -EPROTO;
	return had_fds(&hdr);
}

int
vdpa_wire_receive(struct vdpa_wire *w, int socket, size_t n, unsigned int nfds, uint64_t message,
		  uint64_t done, struct vdpa_wire_fds *fds)
{
	struct wire_read *read = NULL;
	struct vdpa_wire_file *file = w->file;
	size_t at = file->received & (w->input - 1), first = RTE_MIN(n, w->input - at);
	struct iovec iov[2] = {{.iov_base = file->input + at, .iov_len = first},
			       {.iov_base = file->input, .iov_len = n - first}};

	if (nfds > 0) {
		read = free_read(file, done);
		if (read == NULL)
			return -EPROTO;
		VDPA_KEPT_SET(read->n, 0);
		read->message = message;
		read->read = file->received;
		read->some_missing = w->some_missing;
		VDPA_KEPT_SET(read->n, nfds);
	}
	VDPA_KEPT_SET(file->in_at, file->received);
	file->in.msg_hdr =
		(struct msghdr){.msg_iov = iov, .msg_iovlen = iov[1].iov_len > 0 ? 2 : 1};
	if (recvmmsg(socket, &file->in, 1, MSG_DONTWAIT, NULL) != 1 || file->in.msg_len != n ||
	    (had_fds(&file->in.msg_hdr) && nfds == 0))
		return -EPROTO;
	/* They are of what comes next, and a look at that shows them again. */
	if (read != NULL && !had_fds(&file->in.msg_hdr)) {
		VDPA_KEPT_SET(read->n, 0);
		drop_read(w, fds, file->received, file->received + n);
		read = NULL;
	}
	VDPA_KEPT_SET(file->received, file->in_at + n);
	VDPA_KEPT_SET(file->in.msg_len, 0);
	return read != NULL;
}

/* Replies. */

struct mmsghdr *
vdpa_wire_reply(struct vdpa_wire *w, uint64_t done)
{
	VDPA_KEPT_SET(w->file->out.msg_len, 0);
	VDPA_KEPT_SET(w->file->out_for, done);
	return &w->file->out;
}

bool
vdpa_wire_replied(const struct vdpa_wire *w, uint64_t done, size_t *len)
{
	*len = w->file->out.msg_len;
	return w->file->out_for == done && *len != 0;
}

/* The next process. What the wire says is read once: whoever else has it may change it meanwhile.
 */

ssize_t
vdpa_wire_resume(struct vdpa_wire *w, uint64_t done, uint8_t *buf, size_t max, uint64_t *received)
{
	struct vdpa_wire_file *file = w->file;
	uint32_t last = __atomic_load_n(&file->in.msg_len, __ATOMIC_ACQUIRE);
	uint64_t in_at = __atomic_load_n(&file->in_at, __ATOMIC_ACQUIRE);
	uint64_t got = __atomic_load_n(&file->received, __ATOMIC_ACQUIRE);

	if (last > 0)
		got = in_at + last;
	for (unsigned int i = 0; last > 0 && i < WIRE_FDS && !had_fds(&file->in.msg_hdr); i++)
		if (file->reads[i].read == in_at)
			VDPA_KEPT_SET(file->reads[i].n, 0);
	if (last > max || got < done || got - done > max)
		return vdpa_error(EPROTO, "the bytes of its connection are not what was kept");
	VDPA_KEPT_SET(file->received, got);
	VDPA_KEPT_SET(file->in.msg_len, 0);
	for (uint64_t i = done; i < got; i++)
		buf[i - done] = file->input[i & (w->input - 1)];
	*received = got;
	return (ssize_t)(got - done);
}

static int
compare_reads(const void *a, const void *b)
{
	const struct wire_read *x = a, *y = b;

	return x->read < y->read ? -1 : x->read > y->read;
}

/* What came with a read: a descriptor of the caller's, or a negative errno. *stored: it is in the
 * store. */
static int
take_of_read(const struct vdpa_wire *w, const struct wire_read *r, vdpa_wire_id id, bool *stored)
{
	int fd = vdpa_wire_take_fd(w, id);

	*stored = fd != -ENOENT || r->some_missing == 0;
	if (*stored)
		return fd;
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return fd < 0 ? vdpa_error(errno, "/dev/null: %m") : fd;
}

int
vdpa_wire_resume_fds(struct vdpa_wire *w, uint64_t done, uint64_t received, unsigned int max,
		     struct vdpa_wire_fds *fds,
		     int (*take)(void *arg, uint64_t message, vdpa_wire_id id, int fd), void *arg)
{
	struct wire_read reads[WIRE_FDS];
	int rc = 0;

	memcpy(reads, w->file->reads, sizeof(reads));
	qsort(reads, WIRE_FDS, sizeof(reads[0]), compare_reads);
	for (unsigned int pass = 0; pass < 2; pass++)
		for (unsigned int i = 0; i < WIRE_FDS; i++) {
			const struct wire_read *f = &reads[i];

			if (f->n == 0 || f->read >= received || f->message < done ||
			    (f->message == done) != (pass == 0))
				continue;
			if (f->n > max || f->message >= received)
				return vdpa_error(EPROTO, "the descriptors of its messages are not "
							  "what was kept");
			for (uint32_t j = 0; j < f->n; j++) {
				vdpa_wire_id id = f->read * w->ids + j + 1;
				bool stored;
				int fd = take_of_read(w, f, id, &stored);

				rc = fd < 0 ? fd : take(arg, f->message, id, fd);
				if (rc == 0 && stored)
					rc = vdpa_wire_note(fds, id, received);
				if (rc < 0)
					return rc;
			}
		}
	return 0;
}
