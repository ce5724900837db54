/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_restart.h
 * Devices that outlive the process: another process goes on with them, and their front ends see no
 * end of their connections.
 *
 * A store outside of the process keeps the descriptors of each such device and a journal of its
 * state: systemd's file descriptor store, or a vdpa-keeper. A process that begins with
 * vdpa_restart_begin() keeps what it serves there from then on, and finds what a former one has
 * left, however that one ended: it calls vdpa_dev_add() with the words of each device that is to go
 * on (vdpa_restart_each()), and then vdpa_restart_settle().
 *
 * What goes on in this version: devices of sim_net and sim_blk (not its back end ram) with the
 * front end vhost-user or vfio-user, and of the driver virtio, on functions of the kernel's VFIO or
 * of a vfio-user server, with vhost-user. With `migration shadow` so does a device of any driver
 * with the op can_restart: what was under way is executed again. Those of other drivers and on
 * relays go on where the end of the process is planned (vdpa_restart_leave()); where it is killed,
 * their connections end. Others are served as ever and start anew in the next process; one line of
 * the log says why.
 *
 * The functions may be called from any thread, one at a time; none from inside a uvdpa callback.
 * Those that return an int return 0 or a negative errno with vdpa_error_message().
 */

#ifndef VDPA_RESTART_H
#define VDPA_RESTART_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Reach the store and read what a former process has left. Once, before rte_eal_init() and before
 * the process has threads, since systemd's descriptors are found by numbers and environment.
 *
 * @param where  "systemd"; "unix:PATH" of a vdpa-keeper; NULL: whichever is there.
 * @return 0; -EALREADY when it was called before; -EINVAL for another text; -ENOENT where there is
 * no store; -ENOSPC for one without room; -EBUSY for a keeper that serves another process; -EPERM
 * for one of another user; -EPROTO for one of another version; -ETIMEDOUT; -ENOMEM. A journal that
 * this version cannot read is no failure: one line says so, and nothing of a former process goes
 * on.
 */
int vdpa_restart_begin(const char *where);

/**
 * Call fn for each device that a former process has left, in the order in which they were made,
 * while it returns 0. fn may call vdpa_dev_add() and vdpa_restart_drop().
 * @return 0; what fn returned; -ENOMEM.
 */
int vdpa_restart_each(int (*fn)(const char *name, const char *words, void *arg), void *arg);

/**
 * A device of a former process does not go on: what the store has of it is dropped, so that its
 * front end sees the end of its connection. One that is not there is no failure. Not for a device
 * that this process has.
 */
void vdpa_restart_drop(const char *name);

/**
 * All devices that were to go on have been added: what the store still has of a former process is
 * dropped, with a line for each device.
 * @return how many devices this process has taken over.
 */
unsigned int vdpa_restart_settle(void);

/**
 * The process ends and another one is to go on: from now on devices that are kept stand still, and
 * vdpa_dev_del() and vdpa_cleanup() leave them in the store, with their sockets. Those that do not
 * go on over a kill are stopped there, and what they have under way is waited for. Other devices
 * end as ever.
 * @return how many devices are left to the next process; -EPIPE where nothing is kept, or the store
 * has died, -ETIMEDOUT where it does not answer: then nothing has changed.
 */
int vdpa_restart_leave(void);

/**
 * Whether what is kept of a device is there for the next process. After vdpa_restart_leave() and
 * vdpa_dev_del_all() it is not of one that could not be left, which one line has said.
 */
bool vdpa_restart_is_left(const char *name);

/**
 * The set of devices and their words stay as they are: calls of vdpa_dev_add(), vdpa_dev_set() and
 * vdpa_dev_del() by other threads are refused with -EBUSY from now on until vdpa_restart_thaw(). It
 * waits for those that are under way, 10 s at most.
 * @return 0; -EBUSY where they have not ended; -EALREADY.
 */
int vdpa_restart_freeze(void);
/** The opposite. No-op where nothing is frozen. */
void vdpa_restart_thaw(void);

/**
 * Call fn for each device that does not go on in the next process, or whose connection does not,
 * while it returns 0. Devices that an application has made without words are left out. The store is
 * asked whether it is there, and waited for some seconds at most.
 * @param why  the reason, as in the log.
 * @return 0; what fn returned; -EPIPE where nothing is kept, or the store has died; -ETIMEDOUT
 * where it does not answer, and is given up; -ENOSPC where systemd's is full: what was put last may
 * be missing there, and a process that takes over could put nothing; -ENOMEM.
 */
int vdpa_restart_check(int (*fn)(const char *name, const char *why, void *arg), void *arg);

/**
 * Hand the devices over to a process that has been started for them: after vdpa_restart_leave() and
 * vdpa_dev_del_all(). That process calls vdpa_restart_begin_handed() with the other end of sock. It
 * waits for that process, some seconds at most. Then this process ends with vdpa_cleanup() and
 * vdpa_restart_end(), or, where it fails or the other process ends first, calls
 * vdpa_restart_take_back().
 * @param sock  one of a pair of SOCK_SEQPACKET.
 * @return 0; -EPIPE where nothing is kept, or the other process is gone; -ENOSPC where systemd's
 *         store is full; -ENOMEM; what sendmsg(2) says.
 */
int vdpa_restart_hand_over(int sock);

/**
 * After vdpa_restart_leave() and vdpa_dev_del_all(): no other process goes on with the devices, be
 * it that none has begun or that one has ended before vdpa_restart_go(). This one has them again,
 * as if it had begun anew. It calls vdpa_dev_add() with the words of each, as vdpa_restart_each()
 * says them, and vdpa_restart_settle().
 * @return 0; else nothing is kept any more, which one line has said.
 */
int vdpa_restart_take_back(void);

/**
 * vdpa_restart_begin() with what a process that lives hands over by sock. Nothing of it is changed,
 * and no front end is heard, before vdpa_restart_go(): until then the other process may go on.
 * After rte_eal_init().
 * @param where  as the other process has it.
 * @return as vdpa_restart_begin(); -EPROTO for a journal that this version cannot read.
 */
int vdpa_restart_begin_handed(const char *where, int sock);

/** Of the format of what is kept: a process goes on with what one of the same format has left. */
unsigned int vdpa_restart_format(void);

/** How many devices of a former process this one goes on with. */
unsigned int vdpa_restart_count(void);
/** Whether this process goes on with a device of a former one. Any thread. */
bool vdpa_restart_is_taken(const char *device);

/**
 * The process that has handed its devices over does not come back to them: serve them. After
 * vdpa_restart_each(), before vdpa_restart_settle(). No-op after vdpa_restart_begin(). A device of
 * which the store refuses something does not go on in the next process, with a line.
 * @return 0; else nothing is kept any more, which one line has said, and the devices are served.
 */
int vdpa_restart_go(void);

/** Let go of the store, after vdpa_cleanup(). No-op when vdpa_restart_begin() was not called. */
void vdpa_restart_end(void);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_RESTART_H */
