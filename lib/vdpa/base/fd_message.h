/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A message on a UNIX socket that brings one descriptor, sent and received. Owns nothing. */

#ifndef FD_MESSAGE_H
#define FD_MESSAGE_H

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* sendmsg(2) without SIGPIPE, begun again after a signal, of n pieces with fd, or without one where
 * fd is -1. What it returns; errno is its. From any thread. */
static inline ssize_t
vdpa_send_fd(int sock, struct iovec *iov, size_t n, int fd, int flags)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control = {.buf = {0}};
	struct msghdr mh = {.msg_iov = iov, .msg_iovlen = n};
	struct cmsghdr *cmsg;
	ssize_t sent;

	if (fd >= 0) {
		mh.msg_control = control.buf;
		mh.msg_controllen = sizeof(control.buf);
		cmsg = CMSG_FIRSTHDR(&mh);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
	}
	do {
		sent = sendmsg(sock, &mh, flags | MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	return sent;
}

/*
 * recvmsg(2), begun again after a signal, of n pieces and one descriptor, for which alone there is
 * room: *fd, which is the caller's and closes on exec, or -1 where none came. *msg_flags: what
 * recvmsg() says of the message, MSG_CTRUNC where a descriptor did not come that was sent. What it
 * returns; errno is its. From any thread.
 */
static inline ssize_t
vdpa_receive_fd(int sock, struct iovec *iov, size_t n, int flags, int *fd, int *msg_flags)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr mh;
	struct cmsghdr *cmsg;
	ssize_t received;

	*fd = -1;
	do {
		mh = (struct msghdr){
			.msg_iov = iov,
			.msg_iovlen = n,
			.msg_control = control.buf,
			.msg_controllen = CMSG_LEN(sizeof(int)),
		};
		received = recvmsg(sock, &mh, flags | MSG_CMSG_CLOEXEC);
	} while (received < 0 && errno == EINTR);
	cmsg = received > 0 ? CMSG_FIRSTHDR(&mh) : NULL;
	if (cmsg != NULL && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS &&
	    cmsg->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(fd, CMSG_DATA(cmsg), sizeof(int));
	*msg_flags = mh.msg_flags;
	return received;
}

#endif /* FD_MESSAGE_H */
