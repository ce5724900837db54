/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What DPDK renamed or moved between 22.11 and 25.11, under one name. Private: the only place that
 * asks which DPDK this is.
 */

#ifndef VDPA_COMPAT_H
#define VDPA_COMPAT_H

#include <stddef.h>

#include <rte_version.h>
#include <rte_vhost.h>

/* 23.03 says backend where 22.11 says slave. */
#ifndef VHOST_USER_PROTOCOL_F_BACKEND_REQ
#define VHOST_USER_PROTOCOL_F_BACKEND_REQ     5
#define VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD 10
#endif
/* Never named in rte_vhost.h up to 25.11. */
#ifndef VHOST_USER_PROTOCOL_F_RESET_DEVICE
#define VHOST_USER_PROTOCOL_F_RESET_DEVICE 13
#endif

/* The largest payload that rte_vhost lets through is no less than this in every version. */
#define VDPA_COMPAT_VHOST_PAYLOAD_MAX 268

/*
 * An extern message handler of rte_vhost gets the message and, behind the room for its largest
 * payload, the file descriptors and their number. That room grew with the crypto payload in 25.03,
 * under the same ABI version as 24.11: so the DPDK that runs is asked, not the one compiled with.
 */
static inline size_t
vdpa_compat_vhost_fds_offset(void)
{
	unsigned int year = rte_version_year(), month = rte_version_month();

	return year < 25 || (year == 25 && month < 3) ? 644 : 1084;
}

#endif /* VDPA_COMPAT_H */
