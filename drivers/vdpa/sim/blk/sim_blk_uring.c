/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The channel of back end `file`: one io_uring a virtqueue, whose own fd the worker waits for. An
 * I/O is a small sequence of system calls, one at a time: piece by piece of a large transfer, a way
 * round what the file system cannot do, a flush where the guest wants it durable. The kernel copies
 * cached data while it takes a system call, so each is charged to the device's turn, and waits for
 * the next one when this one is over.
 */

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <rte_branch_prediction.h>
#include <rte_common.h>

#include "sim_blk_file.h"
#include "vdpa_args.h"
#include "vdpa_log.h"

/* Times one system call is repeated after EAGAIN or EINTR. */
#define URING_RETRIES	   16
/* Bytes of the buffer that stands in for guest memory that O_DIRECT cannot use, in blocks. */
#define URING_BOUNCE_SIZE  SIM_PIECE
#define URING_BOUNCE_BLOCK (URING_BOUNCE_SIZE / 64)
/* Bytes of a system call with O_DIRECT: what it costs the worker is pages, not copies. */
#define URING_DIRECT_SIZE  SIM_TURN_BYTES
/*
 * I/Os with O_DIRECT that are given to the kernel at a time: the disk begins with the first while
 * the worker reads the next. All at once, they are done all at once, and the disk idles until the
 * driver has sent as many again.
 */
#define URING_DIRECT_GROUP 8
/* Zeroes are written from one block, repeated this many times in a system call. */
#define URING_ZERO_BLOCK   (64u << 10)
#define URING_ZERO_IOVS	   (SIM_PIECE / URING_ZERO_BLOCK)

enum uring_stage {
	STAGE_IO,    /* the operation itself */
	STAGE_ZEROS, /* WRITE_ZEROES by writing zeroes */
	STAGE_SYNC,  /* make it durable */
};

struct uring_channel {
	struct sim_blk_channel ch;
	struct io_uring ring;
	unsigned int unsubmitted;
	bool cancelling;
	bool end_logged; /* that the file ends early: once, a guest can ask for it at will */
	/* Guest memory that O_DIRECT cannot use goes through this buffer, as I/Os find room. */
	uint8_t *bounce;
	uint64_t bounce_used; /* a bit for each block */
	STAILQ_HEAD(, sim_blk_io) bounce_waiters;
	/* I/Os whose next system call waits for a turn of the device. */
	STAILQ_HEAD(, sim_blk_io) waiters;
	/* I/Os that ended without the kernel, for the next reap(). */
	STAILQ_HEAD(, sim_blk_io) done;
	struct iovec zeros[URING_ZERO_IOVS];
	uint8_t *zero_block;
};

static bool
fits_direct(const struct file_backend *file, const struct sim_blk_io *io)
{
	for (unsigned int i = 0; i < io->niov; i++)
		if (((uintptr_t)io->iov[i].iov_base & (file->mem_align - 1)) != 0 ||
		    (io->iov[i].iov_len & (file->be.granularity - 1)) != 0)
			return false;
	return true;
}

/* Room for a piece of the I/O, which keeps it until it is done. */
static bool
bounce_take(struct uring_channel *uc, struct sim_blk_io *io)
{
	uint64_t len = RTE_MIN(io->len, (uint64_t)URING_BOUNCE_SIZE);
	unsigned int n = (unsigned int)((len + URING_BOUNCE_BLOCK - 1) / URING_BOUNCE_BLOCK);
	uint64_t bits = UINT64_MAX >> (64 - n);

	for (unsigned int at = 0; at + n <= 64; at++) {
		if ((uc->bounce_used & bits << at) != 0)
			continue;
		uc->bounce_used |= bits << at;
		io->bounce_at = (uint8_t)at;
		io->bounce_blocks = (uint8_t)n;
		return true;
	}
	return false;
}

static uint8_t *
bounce_of(const struct uring_channel *uc, const struct sim_blk_io *io)
{
	return uc->bounce + (size_t)io->bounce_at * URING_BOUNCE_BLOCK;
}

static void
bounce_copy(uint8_t *p, const struct iovec *iov, unsigned int niov, uint64_t len, bool to_guest)
{
	for (unsigned int i = 0; i < niov && len > 0; i++) {
		size_t n = RTE_MIN(len, iov[i].iov_len);

		if (to_guest)
			memcpy(iov[i].iov_base, p, n);
		else
			memcpy(p, iov[i].iov_base, n);
		p += n;
		len -= n;
	}
}

/* READ or WRITE: the next piece. */
static uint64_t
prep_transfer(struct uring_channel *uc, struct sim_blk_io *io, struct io_uring_sqe *sqe)
{
	const struct file_backend *file = (const struct file_backend *)uc->ch.be;
	uint64_t at = io->offset + io->len - io->left;
	bool write = io->op == SIM_BLK_WRITE;
	const struct iovec *iov;
	unsigned int niov;
	uint64_t len;

	len = RTE_MIN(io->left,
		      (uint64_t)(file->direct && !io->bounced ? URING_DIRECT_SIZE : SIM_PIECE));
	iov = sim_blk_io_piece(io, len, &niov);
	if (io->bounced) {
		if (write) {
			bounce_copy(bounce_of(uc, io), iov, niov, len, false);
			io_uring_prep_write(sqe, file->fd, bounce_of(uc, io), (unsigned int)len,
					    at);
		} else {
			io_uring_prep_read(sqe, file->fd, bounce_of(uc, io), (unsigned int)len, at);
		}
	} else if (write) {
		io_uring_prep_writev(sqe, file->fd, iov, niov, at);
	} else {
		io_uring_prep_readv(sqe, file->fd, iov, niov, at);
	}
	/* Durable by itself where it is one system call, else by a flush at the end. */
	io->synced = io->durable && len == io->len;
	if (io->synced) {
		sqe->rw_flags = RWF_DSYNC;
		/* Some file systems would sync the page cache in the call that submits. */
		if (!file->direct)
			sqe->flags |= IOSQE_ASYNC;
	}
	return len;
}

/* Fill an entry with the system call that an I/O needs next. */
static void
uring_issue(struct uring_channel *uc, struct sim_blk_io *io)
{
	const struct file_backend *file = (const struct file_backend *)uc->ch.be;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&uc->ring);
	uint64_t at = io->offset + io->len - io->left;
	uint64_t moved = 0;
	int mode;

	/* The ring has an entry for each I/O of its depth, and each uses one at a time. */
	if (unlikely(sqe == NULL)) {
		io->result = -EAGAIN;
		STAILQ_INSERT_TAIL(&uc->done, io, next);
		return;
	}
	switch (io->stage) {
	case STAGE_SYNC:
		io_uring_prep_fsync(sqe, file->fd, IORING_FSYNC_DATASYNC);
		break;
	case STAGE_ZEROS:
		moved = RTE_MIN(io->left, (uint64_t)SIM_PIECE);
		/* A last piece under a block is written from the first, an iovec of its own. */
		if (moved >= URING_ZERO_BLOCK) {
			moved -= moved % URING_ZERO_BLOCK;
			io_uring_prep_writev(sqe, file->fd, uc->zeros,
					     (unsigned int)(moved / URING_ZERO_BLOCK), at);
		} else {
			io_uring_prep_write(sqe, file->fd, uc->zero_block, (unsigned int)moved, at);
		}
		break;
	case STAGE_IO:
		switch (io->op) {
		case SIM_BLK_READ:
		case SIM_BLK_WRITE:
			moved = prep_transfer(uc, io, sqe);
			break;
		case SIM_BLK_FLUSH:
			io_uring_prep_fsync(sqe, file->fd, IORING_FSYNC_DATASYNC);
			break;
		case SIM_BLK_DISCARD:
		case SIM_BLK_WRITE_ZEROES:
			mode = io->op == SIM_BLK_DISCARD || (io->unmap && file->can_punch)
				       ? FALLOC_FL_PUNCH_HOLE
				       : FALLOC_FL_ZERO_RANGE;
			io_uring_prep_fallocate(sqe, file->fd, mode | FALLOC_FL_KEEP_SIZE,
						(off_t)at, (off_t)io->len);
			break;
		}
		break;
	}
	io_uring_sqe_set_data(sqe, io);
	uc->unsubmitted++;
	sim_turn_charge(uc->ch.turn, moved);
	/* Most file systems let a cached write be done by a thread of the kernel only. */
	io->lent = io->op != SIM_BLK_READ && !file->direct ? moved : 0;
	uc->ch.turn->lent += io->lent;
}

/* The I/O's next system call, when it is its turn. */
static void
uring_queue(struct uring_channel *uc, struct sim_blk_io *io)
{
	STAILQ_INSERT_TAIL(&uc->waiters, io, next);
	uc->ch.waiting++;
}

/* Issue what waits, as far as the device's turn reaches. */
static void
uring_continue(struct uring_channel *uc)
{
	struct sim_blk_io *io;

	while ((io = STAILQ_FIRST(&uc->waiters)) != NULL && sim_turn_left(uc->ch.turn)) {
		STAILQ_REMOVE_HEAD(&uc->waiters, next);
		uc->ch.waiting--;
		uring_issue(uc, io);
	}
}

/* The I/O is done: hand its room in the bounce buffer on, first come first served. */
static void
bounce_release(struct uring_channel *uc, struct sim_blk_io *io)
{
	struct sim_blk_io *next;

	if (io->bounce_blocks == 0)
		return;
	uc->bounce_used &= ~(UINT64_MAX >> (64 - io->bounce_blocks) << io->bounce_at);
	io->bounce_blocks = 0;
	while ((next = STAILQ_FIRST(&uc->bounce_waiters)) != NULL && bounce_take(uc, next)) {
		STAILQ_REMOVE_HEAD(&uc->bounce_waiters, next);
		uring_queue(uc, next);
	}
}

static bool
uring_submit(struct sim_blk_channel *ch, struct sim_blk_io *io)
{
	struct uring_channel *uc = (struct uring_channel *)ch;
	const struct file_backend *file = (const struct file_backend *)ch->be;

	io->stage = STAGE_IO;
	io->retries = 0;
	sim_blk_io_begin(io);
	io->bounced = file->direct && (io->op == SIM_BLK_READ || io->op == SIM_BLK_WRITE) &&
		      !fits_direct(file, io);
	if (ch->inflight++ == 0)
		uc->cancelling = false;
	io->bounce_blocks = 0;
	if (io->bounced && (!STAILQ_EMPTY(&uc->bounce_waiters) || !bounce_take(uc, io))) {
		STAILQ_INSERT_TAIL(&uc->bounce_waiters, io, next);
		return false;
	}
	uring_queue(uc, io);
	uring_continue(uc);
	return false;
}

static int
uring_kick(struct sim_blk_channel *ch)
{
	struct uring_channel *uc = (struct uring_channel *)ch;
	int n;

	if (uc->unsubmitted == 0)
		return 0;
	n = io_uring_submit(&uc->ring);
	if (n < 0)
		return n == -EBUSY || n == -EINTR || n == -ENOMEM ? -EAGAIN : n;
	uc->unsubmitted -= RTE_MIN((unsigned int)n, uc->unsubmitted);
	return uc->unsubmitted == 0 ? 0 : -EAGAIN;
}

/* Whether the operation moves `left` bytes rather than acting on a range at once. */
static bool
is_transfer(const struct sim_blk_io *io)
{
	return io->stage == STAGE_ZEROS ||
	       (io->stage == STAGE_IO && (io->op == SIM_BLK_READ || io->op == SIM_BLK_WRITE));
}

/* A transfer's system call moved n bytes. */
static void
transferred(struct uring_channel *uc, struct sim_blk_io *io, uint64_t n)
{
	const struct iovec *iov;
	unsigned int niov;

	n = RTE_MIN(n, io->left);
	io->retries = 0;
	if (io->stage == STAGE_ZEROS) {
		io->left -= n;
		return;
	}
	if (io->bounced && io->op == SIM_BLK_READ) {
		iov = sim_blk_io_piece(io, n, &niov);
		bounce_copy(bounce_of(uc, io), iov, niov, n, true);
		sim_turn_charge(uc->ch.turn, n);
	}
	sim_blk_io_advance(io, n);
}

/* Whether what has been done still needs a flush. */
static bool
needs_sync(const struct sim_blk_io *io)
{
	return io->durable && io->stage != STAGE_SYNC && !(io->op == SIM_BLK_WRITE && io->synced);
}

/* A system call ended with res: 1 when the I/O is done with it, 0 when it goes on. */
static int
uring_complete(struct uring_channel *uc, struct sim_blk_io *io, int res)
{
	const struct file_backend *file = (const struct file_backend *)uc->ch.be;
	bool more;

	if ((res == -EAGAIN || res == -EINTR) && !uc->cancelling && io->retries < URING_RETRIES) {
		io->retries++;
		uring_queue(uc, io);
		return 0;
	}
	/* How a thread of the kernel ends what it was interrupted in. */
	if ((res == -EAGAIN || res == -EINTR) && uc->cancelling)
		res = -ECANCELED;
	if (res == -EOPNOTSUPP && io->stage == STAGE_IO) {
		/* A discard is a hint; zeroes are not. */
		if (io->op == SIM_BLK_DISCARD)
			res = 0;
		if (io->op == SIM_BLK_WRITE_ZEROES) {
			io->stage = STAGE_ZEROS;
			uring_queue(uc, io);
			return 0;
		}
	}
	if (res < 0) {
		io->result = res;
		return 1;
	}
	if (is_transfer(io)) {
		if (unlikely(res == 0 && io->left > 0)) {
			/* The end of the file where there was none: what the guest wrote is gone.
			 */
			if (!uc->end_logged)
				VDPA_LOG(ERR, "%s: %s ends before its size of %" PRIu64 " bytes",
					 file->device, file->path, file->be.size);
			uc->end_logged = true;
			io->result = -EIO;
			return 1;
		}
		transferred(uc, io, (uint64_t)res);
	}
	more = is_transfer(io) && io->left > 0;
	if (!more && !needs_sync(io)) {
		io->result = 0;
		return 1;
	}
	/* The kernel cancelled what it had: none of the rest is given to it. */
	if (uc->cancelling) {
		io->result = -ECANCELED;
		return 1;
	}
	if (!more)
		io->stage = STAGE_SYNC;
	uring_queue(uc, io);
	return 0;
}

static unsigned int
uring_reap(struct sim_blk_channel *ch, struct sim_blk_io **ios, unsigned int n)
{
	struct uring_channel *uc = (struct uring_channel *)ch;
	struct io_uring_cqe *cqe;
	struct sim_blk_io *io;
	unsigned int done = 0;
	int res;

	while (done < n && io_uring_peek_cqe(&uc->ring, &cqe) == 0) {
		io = io_uring_cqe_get_data(cqe);
		res = cqe->res;
		io_uring_cqe_seen(&uc->ring, cqe);
		if (io == NULL) /* the cancellation's own */
			continue;
		uc->ch.turn->lent -= io->lent;
		if (uring_complete(uc, io, res) == 1) {
			ios[done++] = io;
			bounce_release(uc, io);
		}
	}
	while (done < n && (io = STAILQ_FIRST(&uc->done)) != NULL) {
		STAILQ_REMOVE_HEAD(&uc->done, next);
		ios[done++] = io;
		bounce_release(uc, io);
	}
	ch->inflight -= done;
	uring_continue(uc);
	return done;
}

static void
uring_cancel(struct sim_blk_channel *ch)
{
	struct uring_channel *uc = (struct uring_channel *)ch;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&uc->ring);
	struct sim_blk_io *io;

	uc->cancelling = true;
	STAILQ_CONCAT(&uc->waiters, &uc->bounce_waiters);
	while ((io = STAILQ_FIRST(&uc->waiters)) != NULL) {
		STAILQ_REMOVE_HEAD(&uc->waiters, next);
		io->result = -ECANCELED;
		STAILQ_INSERT_TAIL(&uc->done, io, next);
	}
	ch->waiting = 0;
	if (sqe != NULL) {
		io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
		io_uring_sqe_set_data(sqe, NULL);
		uc->unsubmitted++;
		uring_kick(ch);
	}
}

static void
uring_channel_close(struct sim_blk_channel *ch)
{
	struct uring_channel *uc = (struct uring_channel *)ch;

	io_uring_queue_exit(&uc->ring);
	free(uc->bounce);
	if (uc->zero_block != NULL)
		munmap(uc->zero_block, URING_ZERO_BLOCK);
	free(uc);
}

int
sim_blk_uring_error(const char *device, int err)
{
	switch (-err) {
	case ENOSYS:
	case EPERM:
	case EACCES:
		return vdpa_error(err,
				  "%s: io_uring is not permitted here (%s): allow it by sysctl "
				  "kernel.io_uring_disabled=0 and in the container's seccomp "
				  "profile, or use backend ram",
				  device, strerror(-err));
	default:
		return vdpa_error(err, "%s: cannot create an io_uring: %s", device, strerror(-err));
	}
}

/*
 * The worker asks for completions when it polls and sleeps otherwise: none has to interrupt it,
 * which costs a system call's worth each and keeps them from being taken together. Kernels before
 * 5.19 know no ring without.
 */
static int
ring_init(struct io_uring *ring, unsigned int entries)
{
	int err;

	err = io_uring_queue_init(entries, ring,
				  IORING_SETUP_CLAMP | IORING_SETUP_COOP_TASKRUN |
					  IORING_SETUP_TASKRUN_FLAG);
	return err == -EINVAL ? io_uring_queue_init(entries, ring, IORING_SETUP_CLAMP) : err;
}

static int
uring_channel_open(struct sim_blk_backend *be, unsigned int depth, struct sim_blk_channel **out)
{
	const struct file_backend *file = (const struct file_backend *)be;
	struct uring_channel *uc = calloc(1, sizeof(*uc));
	void *mem;
	int err;

	if (uc == NULL)
		return vdpa_error(ENOMEM, "%s: no memory for a channel", file->device);
	STAILQ_INIT(&uc->bounce_waiters);
	STAILQ_INIT(&uc->waiters);
	STAILQ_INIT(&uc->done);
	/* One entry for each I/O, one for a cancellation. */
	err = ring_init(&uc->ring, depth + 1);
	if (err < 0) {
		free(uc);
		return sim_blk_uring_error(file->device, err);
	}
	/* Only ever read, so that all of it is the kernel's zero page; aligned for O_DIRECT. */
	mem = mmap(NULL, URING_ZERO_BLOCK, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		goto nomem;
	uc->zero_block = mem;
	for (unsigned int i = 0; i < URING_ZERO_IOVS; i++)
		uc->zeros[i] = (struct iovec){uc->zero_block, URING_ZERO_BLOCK};
	if (file->direct) {
		if (posix_memalign(&mem, 4096, URING_BOUNCE_SIZE) != 0)
			goto nomem;
		uc->bounce = mem;
	}
	uc->ch.be = be;
	uc->ch.group = file->direct ? URING_DIRECT_GROUP : 0;
	uc->ch.fd = uc->ring.ring_fd;
	*out = &uc->ch;
	return 0;

nomem:
	uring_channel_close(&uc->ch);
	return vdpa_error(ENOMEM, "%s: no memory for a channel", file->device);
}

const struct sim_blk_backend_ops sim_blk_file_ops = {
	.name = "file",
	.close = sim_blk_file_close,
	.channel_open = uring_channel_open,
	.channel_close = uring_channel_close,
	.submit = uring_submit,
	.kick = uring_kick,
	.reap = uring_reap,
	.cancel = uring_cancel,
	.resize = sim_blk_file_resize,
};
