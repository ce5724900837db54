/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A message on a UNIX socket that brings one descriptor. Owns nothing. */

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

#endif /* FD_MESSAGE_H */
