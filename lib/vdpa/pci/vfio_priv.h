/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The kernel's VFIO in three parts: vfio_sysfs.c finds a function and says what is in its way,
 * vfio_iommu.c has it confined and gives a file of the device and a DMA domain (by group and
 * container; iommufd would be a second way to the same two), vfio.c drives the device by its file.
 */

#ifndef VFIO_PRIV_H
#define VFIO_PRIV_H

#include <stdbool.h>
#include <stdint.h>

#include <linux/vfio.h>

#include "pci_priv.h"

#define VFIO_PATH_MAX 256

/* For tests: where sysfs and /dev/vfio are; NULL: where the kernel puts them. */
void vdpa_vfio_set_roots(const char *sysfs, const char *dev);
const char *vdpa_vfio_dev_root(void);

/* What sysfs says of a function. */
struct vfio_function {
	const char *name; /* pci/0000:06:00.2, for messages */
	char address[VDPA_PCI_ADDRESS_MAX];
	const char *vm; /* that the device serves; NULL: none was named */
	int group;	/* of the IOMMU */
	int numa_node;	/* -1: unknown */
	/* What a former process has left of it, by which it is attached; NULL: nothing. */
	const struct vfio_left *left;
};

/* Files of a function that a former process had attached; the caller's. */
struct vfio_left {
	int container, group;
};

/*
 * A function that is there, bound to a VFIO driver and in an IOMMU group that an IOMMU
 * translates for. -ENODEV, -EBUSY, -ENOTSUP or -EACCES with a message that says how to mend it.
 */
int vdpa_vfio_find(const char *name, const char *address, struct vfio_function *fn);
/* What sysfs says that a function is. -ENODEV with the message of vdpa_vfio_find(). */
int vdpa_vfio_identify(const char *address, struct vdpa_pci_id *id);
/* The last part of where a link of a function leads; "" when it has none. */
void vdpa_vfio_read_link(const char *address, const char *link, char *out, size_t size);
/* A number that a file of a function holds, decimal or 0x...; dflt where it holds none. */
long vdpa_vfio_read_number(const char *address, const char *file, long dflt);
/* The folder of all functions. */
void vdpa_vfio_functions_path(char path[static VFIO_PATH_MAX]);
/* Whether a function in the group is bound to a driver that keeps the group from being used: -EBUSY
 * with the message, else 0. */
int vdpa_vfio_check_group(const struct vfio_function *fn);
/* The message for a group that is not viable: which function is in the way, and its driver.
 * -EBUSY. */
int vdpa_vfio_not_viable(const struct vfio_function *fn);
/* The message for a file of /dev/vfio that does not open; negative errno of vdpa_pci_open(). */
int vdpa_vfio_open_error(const struct vfio_function *fn, const char *path, int err);
/* Whether so many bytes more can be locked by RLIMIT_MEMLOCK: 0 or -ENOMEM with the message. */
int vdpa_vfio_check_locked(const char *name, uint64_t bytes);
/* The message for memory that cannot be mapped; -err. */
int vdpa_vfio_map_error(const char *name, const struct vdpa_dma_mapping *m, int err);

/* A function in its IOMMU group. */
struct vfio_attachment;

/*
 * Have the function confined. *device_fd is the caller's to close before it detaches; *dma is
 * shared by the functions of a group, and by those of all groups of fn->vm that Linux takes into
 * one container; it lives until the last of them is detached.
 */
int vdpa_vfio_attach(const struct vfio_function *fn, struct vfio_attachment **out, int *device_fd,
		     struct vdpa_dma_domain **dma);
void vdpa_vfio_detach(struct vfio_attachment *at);
/*
 * Take the function's group, of which it is the only one in use, out of its container, so that the
 * IOMMU keeps it from what others have mapped there. Its file is closed before, and it can only be
 * detached afterwards. 0; -EBUSY where somebody has a file of the device, or other functions of the
 * group are in use; the kernel's errno. It waits until Linux has reset a function that it closes.
 */
int vdpa_vfio_cut_off(struct vfio_attachment *at);
/* Its group's and its container's files, for the next process: -EOPNOTSUPP with a message where
 * others share them. They remain the attachment's. Where another function comes to share them, the
 * device of this name is given up (vdpa_restart_give_up()). */
int vdpa_vfio_keep(struct vfio_attachment *at, const char *device, struct vfio_left *files);
/* Of a function that a former process has left, and that does not run: unmap whatever is mapped by
 * its container. */
void vdpa_vfio_unmap_all(struct vfio_attachment *at);
/* The next process has the function: nothing is unmapped any more, and detaching leaves it. */
void vdpa_vfio_leave(struct vfio_attachment *at);
/* struct vdpa_pci_transport.adopt: vfio_container.c. */
int vdpa_vfio_adopt(void *arg, const struct vdpa_dma_mapping *m);
/* Whether others may have had the function open when it was attached. */
bool vdpa_vfio_is_held(const struct vfio_attachment *at);
/* Close the groups that are kept (vfio_iommu.c) and watch them no longer. At vdpa_cleanup(). */
void vdpa_vfio_fini(void);

/* vfio_dma_buf.c: a file of this part of a region alone, which reaches it from offset 0;
 * -EOPNOTSUPP where the kernel makes none. */
int vdpa_vfio_export_part(int device_fd, unsigned int region, uint64_t offset, uint64_t size);

/* vfio_dma_log.c: as in struct vdpa_pci_transport; negative errnos are the kernel's. */
bool vdpa_vfio_dma_log_probe(int device_fd);
int vdpa_vfio_dma_log_start(int device_fd, const struct vdpa_dma_range *ranges, unsigned int n);
int vdpa_vfio_dma_log_report(int device_fd, uint64_t iova, uint64_t size, uint64_t *bitmap);
int vdpa_vfio_dma_log_stop(int device_fd);

/*
 * Find a capability in the chain of an answer of VFIO: info has size bytes, the chain begins at
 * first (0: none). NULL when there is none of the id with at least len bytes.
 */
const void *vdpa_vfio_find_cap(const void *info, uint32_t size, uint32_t first, uint16_t id,
			       uint32_t len);

#endif /* VFIO_PRIV_H */
