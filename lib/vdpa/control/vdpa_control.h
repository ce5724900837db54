/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_control.h
 * The control socket: JSON-RPC 2.0 on a UNIX stream socket, one JSON text a line in both
 * directions. Devices are shown, added, changed and deleted by it, and clients subscribe to events.
 * doc/control-protocol.md describes methods, errors and limits; vdpactl is a client.
 *
 * A process has one control socket at most. Its clients are told apart by the credentials that the
 * kernel vouches for: root, the process's own user and the members of a group may change devices,
 * those of another group may look, and nobody else may do anything.
 *
 * Requests of one connection are carried out in order, those of different connections at once, on
 * threads of the library (vdpa_work.h): a device that takes its time delays its own client only.
 */

#ifndef VDPA_CONTROL_H
#define VDPA_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "vdpa_error.h"

#ifdef __cplusplus
extern "C" {
#endif

/** What a client speaks, and the method `version` returns: it grows when a method or a member that
 * exists changes its meaning, not when one is added. */
#define VDPA_CONTROL_PROTOCOL 1

/** Longest request, in bytes without its newline. */
#define VDPA_CONTROL_REQUEST_MAX 65536

/** Methods that vdpa_control_add_method() takes, at most. */
#define VDPA_CONTROL_METHODS_MAX 64

/** How vdpa_control_start() sets the socket up. Zero-initialise it; a zero field is the default. */
struct vdpa_control_params {
	/** Where the socket is made, in a folder that exists. NULL: at
	 * vdpa_control_default_path(), whose own folders are made, and removed when they are empty
	 * at the end. */
	const char *path;
	/** The instance's name, for the default path. NULL: the only one. */
	const char *name;
	/** What `version` returns. NULL: "uvdpa" and the library's version. */
	const char *program, *version;
	/**
	 * Permissions of the socket. 0: 0600; with `group` 0660; with `read_group` beside the owner
	 * or another group 0666, since a file has one group: who may do what is then decided from
	 * the credentials of whoever connects, as it always is.
	 */
	mode_t mode;
	/** Group whose members may do everything, by name or number; the socket's. NULL: none. */
	const char *group;
	/** Group whose members may call the methods that change nothing. NULL: none. */
	const char *read_group;
	/** Connections at once; 4 more for root and the process's own user. Default 32. */
	unsigned int max_connections;
	/** Connections at once of one user other than those. Default 8. */
	unsigned int max_per_user;
	/** Requests a second of one connection; what is more is read later. Default 1000. */
	unsigned int rate;
	/** Milliseconds in which a request that was begun must be complete. Default 10000. */
	unsigned int request_ms;
	/** Bytes that may wait for a client to read them; a reply that is longer is replaced by an
	 * error, and a client that does not read its events loses its connection. Default 4 MiB. */
	size_t max_output;
	/**
	 * The socket of another process, made at the same path, instead of one of this process's:
	 * it is not served before vdpa_control_take_back(), and its file remains at the end until
	 * then. The descriptor is the library's where vdpa_control_start() returns 0. NULL: none.
	 */
	const struct vdpa_control_listener *handed;
};

/**
 * Open the control socket, after vdpa_init(). A socket that a dead process has left at the path is
 * replaced; one that somebody listens on is not. Nobody can connect before its permissions are set.
 *
 * @param params  NULL for the defaults. Copied.
 * @return 0; -EALREADY when there is one; -EPROTO before vdpa_init(); -EINVAL for a group that
 *         there is not or a path that is too long; -EADDRINUSE when a process listens there;
 *         -EEXIST for a file that is no socket; -ENOENT, -EACCES and what else bind(2), chmod(2)
 *         and chown(2) say, the message names the path and what mends it. On failure nothing is
 *         left. From any thread but the library's.
 */
int vdpa_control_start(const struct vdpa_control_params *params);

/**
 * Close it: no request runs or will on return. One that is being carried out is waited for, for as
 * long as its device takes, which is bounded. No-op where there is none; vdpa_cleanup() calls it.
 * Not from a method.
 */
void vdpa_control_stop(void);

/**
 * Where a process's control socket is when nobody says otherwise: /run/uvdpa/control.sock for root,
 * else $XDG_RUNTIME_DIR/uvdpa/control.sock; with a name /run/uvdpa/NAME/control.sock and so on.
 * Pure: it looks at the effective user and the environment only. Works before vdpa_init(); for
 * clients too.
 *
 * @param name  the instance's, as device names are: A-Z a-z 0-9 . _ -; NULL: the only one.
 * @param size  bytes of buf; 108 are enough, and more is of no use to a socket.
 * @return 0; -EINVAL for a name that is not allowed; -ENOENT where XDG_RUNTIME_DIR is not set;
 *         -ENAMETOOLONG for what does not fit, in buf or in a socket's address.
 */
int vdpa_control_default_path(const char *name, char *buf, size_t size);

/** The control socket of a process that goes on in another one: for SCM_RIGHTS, and for
 * vdpa_control_params.handed. */
struct vdpa_control_listener {
	int fd;		   /**< it listens */
	uint64_t dev, ino; /**< its file */
};

/**
 * Let nobody in any more: another process goes on with the socket. Who is connected stays so, and
 * who connects meanwhile waits. vdpa_control_stop() leaves the file where it is then.
 * @param l  its descriptor stays the library's.
 * @return 0; -ENOENT where there is no control socket.
 */
int vdpa_control_hand_over(struct vdpa_control_listener *l);

/** Let people in: again after vdpa_control_hand_over(), or for the first time after
 * vdpa_control_start() with a socket that was handed over. No-op elsewhere.
 * @return 0; -ENOMEM. */
int vdpa_control_take_back(void);

/** A method of an application's own. Texts and tables are the caller's, for as long as it is
 * registered. */
struct vdpa_control_method {
	/** `AREA.VERB`: 3 to 63 characters of a-z 0-9 . _ */
	const char *name;
	/** One line. */
	const char *help;
	/**
	 * JSON Schema of the params, an object with "type": "object", which is what a call is
	 * checked by. Known are type, properties, required, additionalProperties, items, enum,
	 * minimum, maximum, minLength, maxLength, minItems, maxItems, description, title.
	 * NULL: it takes none.
	 */
	const char *params;
	/** JSON Schema of the result, for whoever reads it. NULL: an empty object. */
	const char *result;
	/** It changes something: readers may not call it. */
	bool changes;
	/**
	 * Carry it out; on a thread of the library, several at once. It may wait, for a bounded
	 * time.
	 * @param params  JSON text of an object that the schema allows.
	 * @param result  set to JSON text of an object from malloc(3); left NULL: {}.
	 * @return 0, or a negative errno with vdpa_error(): doc/control-protocol.md says which code
	 *         becomes of it.
	 */
	int (*call)(const char *params, char **result, void *arg);
	void *arg; /**< for call */
};

/**
 * Add a method, before or after vdpa_control_start(): those that a client is to find from the
 * beginning, before. It stays when the socket is closed. From any thread.
 * @return 0; -EINVAL for a name that is not allowed or a schema that is no JSON or has a word that
 *         is not known; -EEXIST for a name in use; -ENOSPC beyond VDPA_CONTROL_METHODS_MAX;
 *         -ENOMEM.
 */
int vdpa_control_add_method(const struct vdpa_control_method *method);

/** Take it away: on return it neither runs nor will. No-op for one that there is not. From any
 * thread but its own call. */
void vdpa_control_remove_method(const char *name);

/**
 * Report an event to those who have subscribed. Never waits; no-op where there is no control
 * socket. From any thread.
 *
 * @param event    "config.reloaded"; device events are the library's.
 * @param members  what else it says: JSON text of an object, whose members stand beside event and
 *                 time; NULL: nothing.
 * @return 0; -EINVAL for another event, and for members that are no JSON object.
 */
int vdpa_control_emit(const char *event, const char *members);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_CONTROL_H */
