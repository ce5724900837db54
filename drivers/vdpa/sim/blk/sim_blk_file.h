/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Back end `file`, internally: what opening an image found out (sim_blk_file.c) and its I/O relies
 * on (sim_blk_uring.c).
 */

#ifndef SIM_BLK_FILE_H
#define SIM_BLK_FILE_H

#include "sim_blk_backend.h"
#include "vdpa.h"

struct file_backend {
	struct sim_blk_backend be;
	int fd;
	bool direct;
	bool is_bdev;
	bool can_punch;	    /**< FALLOC_FL_PUNCH_HOLE works here */
	uint32_t mem_align; /**< O_DIRECT: bytes that memory is aligned to */
	uint32_t blk_size;  /**< in the guest's configuration */
	char device[VDPA_NAME_MAX];
	char *path;
};

extern const struct sim_blk_backend_ops sim_blk_file_ops;

void sim_blk_file_close(struct sim_blk_backend *be);
int sim_blk_file_resize(struct sim_blk_backend *be);

/** The readable message for an io_uring that cannot be had. Returns err. */
int sim_blk_uring_error(const char *device, int err);

#endif /* SIM_BLK_FILE_H */
