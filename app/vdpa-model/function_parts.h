/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The parts of a function as a group's owner gets and sets them (virtio 1.4, 2.14): what the
 * registers hold. A function is stopped before they are set, and takes them when it goes on.
 */

#ifndef MODEL_FUNCTION_PARTS_H
#define MODEL_FUNCTION_PARTS_H

#include "virtio_admin.h"
#include "vfio_user_function.h"

/* Bytes that all parts take, and how many there are. */
size_t vp_parts_size(const struct vp_function *vp);
uint32_t vp_parts_count(const struct vp_function *vp);
/* Write all of them in their order; buf has room for vp_parts_size(). Bytes written. */
size_t vp_parts_get(const struct vp_function *vp, uint8_t *buf);
/* The header of part i, and its value; false: there are not so many. value: PARTS_VALUE_MAX bytes.
 */
#define PARTS_VALUE_MAX 32u
bool vp_part_at(const struct vp_function *vp, uint32_t i, struct part_hdr *hdr, uint8_t *value);

/*
 * Set the parts in a list. 0; -EBUSY for a function that is not stopped; -EINVAL for a list that is
 * cut, a part that the function does not have, or a value that it cannot have: then nothing is set.
 */
int vp_parts_set(struct vp_function *vp, const uint8_t *list, size_t len);

/* The function stops: no queue moves, nothing interrupts. Or it goes on, with the parts that were
 * set meanwhile. A second time: no effect. */
void vp_set_stopped(struct vp_function *vp, bool stopped);

#endif /* MODEL_FUNCTION_PARTS_H */
