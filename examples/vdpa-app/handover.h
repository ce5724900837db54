/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What two daemons say to each other while the one hands its devices over to the other: JSON
 * objects on a pair of sockets of sequenced packets, each with a descriptor at most. Members may be
 * added.
 *
 *   from the daemon that runs                   from the one that was started
 *   begin  protocol, format, keep, version,
 *          program: its name,
 *          pid: whose child it is;
 *          descriptor: a file with devices'
 *          names and words
 *                                               checked  version, program,
 *                                                        anew: names of devices whose words
 *                                                        are others now,
 *                                                        absent: of those that its
 *                                                        configuration does not have
 *   take   devices: how many are expected,
 *          force: whether those that cannot
 *          go on start anew,
 *          dev, ino: of the control socket,
 *          whose descriptor comes with it;
 *          then the library's own messages
 *                                               taken    devices, anew: names of those that
 *                                                        are handed over and start anew
 *   go     from here on there is no way back
 *                                               serving
 *
 * A program of another name is refused by both; one of a version that does not say `program` is
 * not, and where it does not say `absent`, the one that runs goes by its own configuration. Before
 * `take` the one that was started knows nothing that it could go on with, and may be ended at any
 * time.
 *
 * The one that was started may say `failed` with an error instead, and ends. The other one says
 * `stop` when it gives up, and closes its end; then it ends the process, and only then goes on by
 * itself. So the end of the socket behind `taken`, without `stop`, is that process' end.
 */

#ifndef APP_HANDOVER_H
#define APP_HANDOVER_H

#include <jansson.h>

/* Grows when a message that exists changes its meaning. */
#define APP_HANDOVER_PROTOCOL 1

/* Takes the object. fd: -1 for none; it stays the caller's. 0, or a negative errno with
 * vdpa_error(). */
int app_handover_send(int sock, json_t *message, int fd);

/* The next message, or NULL with errno set and vdpa_error(): ETIMEDOUT, EPIPE at the end, EPROTO.
 * *fd: its descriptor, the caller's; -1: none. timeout_ms: -1 for ever. */
json_t *app_handover_receive(int sock, int timeout_ms, int *fd);

/* Whether a message is of this step. */
int app_handover_is(const json_t *message, const char *step);

#endif /* APP_HANDOVER_H */
