/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What a device has in the file system beside its socket: the socket's folder, its SELinux label,
 * and the device-info file that Kubernetes' network plugins read. */

#ifndef VHOST_USER_FILES_H
#define VHOST_USER_FILES_H

#include <stdbool.h>
#include <sys/types.h>

struct vhu_device;
struct vhu_folder;

struct vhu_files {
	bool with_folder;	   /* the word folder */
	struct vhu_folder *folder; /* NULL: not taken */
	bool folder_was_made;	   /* by a former process, as the device's record says */
	mode_t folder_mode;
	char *label;	 /* SELinux context of what is created; NULL: the policy's */
	char *info;	 /* path of the device-info file; NULL: none */
	char *info_text; /* what that file says; NULL: it was not written */
};

/* All return 0 or a negative errno with vdpa_error_message(). */

/* Whether the word label can be done here: -EOPNOTSUPP without SELinux. */
int vdpa_vhu_label_check(const char *label);
/* What the calling thread creates until vdpa_vhu_label_end() gets this label. NULL: no-op. */
int vdpa_vhu_label_begin(const char *label);
void vdpa_vhu_label_end(const char *label);

/* The socket's folder, before the socket. One that is there is accepted only as the words want it.
 */
int vdpa_vhu_folder_make(struct vhu_device *dev);
/* Whether this process or a former one has made the folder that the device has: then the last
 * device removes it. */
bool vdpa_vhu_folder_is_made(const struct vhu_device *dev);
/* After the socket: the device has the folder no more. Of those that had one that was made, the
 * last removes it, unless another process has, or may have again, one of them. */
void vdpa_vhu_folder_remove(struct vhu_device *dev);

/* Write the device-info file, whole or not at all, once the socket is there; remove it. */
int vdpa_vhu_info_write(struct vhu_device *dev);
void vdpa_vhu_info_remove(struct vhu_device *dev);

void vdpa_vhu_files_free(struct vhu_files *files);

#endif /* VHOST_USER_FILES_H */
