/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The record of a connection in the journal: what the front end has said, as of the last message
 * that was carried out, with that message's reply. vhost_user_record.c.
 */

#ifndef VHOST_USER_RECORD_H
#define VHOST_USER_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kept_wire.h"
#include "vdpa_consumer.h"
#include "vhost_user_proto.h"

struct vhu_device;
struct vhu_received;
struct vhu_session;

/* The name of a descriptor of a front end in the store. 0: none. */
typedef vdpa_wire_id vhu_kept_id;

/* SET_CONFIG of different places that are remembered. */
#define VHU_KEPT_CONFIGS 4

struct vhu_kept_region {
	struct vhu_mem_region region;
	vhu_kept_id id;
};

struct vhu_kept_ring {
	vhu_kept_id kick, call, err;
	bool ran; /* by the last record: its inflight area is in use */
	/* The process ends, and has stopped it: what was known before, and where it stands. */
	bool stopped;
	struct vdpa_consumer_vq_facts facts;
	/* Requests of a former process with numbers below this may not have been taken again. */
	uint64_t taken_again;
};

/* What is remembered of a connection beside what its consumer knows. */
struct vhu_kept_session {
	uint64_t
		done; /* bytes of messages that were carried out, from the connection's beginning */
	unsigned int nregions;
	struct vhu_kept_region regions[VHU_MEM_SLOTS_MAX];
	vhu_kept_id log, inflight, channel;
	struct vhu_log log_area;
	struct vhu_inflight inflight_area;
	struct vhu_config configs[VHU_KEPT_CONFIGS];
	unsigned int nconfigs;
	bool lost; /* something was said that is not remembered */
	/* Of the record that was written last. */
	bool has_reply;
	struct vhu_msg reply;
	vhu_kept_id reply_fd;
	struct vdpa_wire_fds live;
	uint16_t nrings;
	struct vhu_kept_ring rings[];
};

/* A ring in a record. */
struct vhu_record_ring {
	uint16_t idx;
	struct vdpa_consumer_vq_facts facts; /* without descriptors */
	bool stopped; /* it stands at facts.base: nobody has executed it since */
	vhu_kept_id kick, call, err;
};

/* A record, as it was read: checked for its form. */
struct vhu_record {
	bool has_listener, has_connection, has_reply, has_features;
	bool folder_made; /* the socket's folder, by a process */
	struct {
		uint64_t dev, ino;
	} listener;
	char cold[256]; /* why the connection does not go on; "": it does */
	struct {
		uint64_t serial, done, protocol, features;
		uint32_t refusals;
		uint8_t status;
	} connection;
	struct vhu_msg reply;
	vhu_kept_id reply_fd;
	vhu_kept_id log, inflight, channel;
	struct vhu_log log_area;
	struct vhu_inflight inflight_area;
	struct vhu_config configs[VHU_KEPT_CONFIGS];
	unsigned int nconfigs;
	unsigned int nregions;
	struct vhu_kept_region regions[VHU_MEM_SLOTS_MAX];
	unsigned int nrings;
	struct vhu_record_ring rings[VDPA_VQ_MAX];
};

/* Errors are negative, with vdpa_error_message(). NULL: out of memory. */
struct vhu_kept_session *vdpa_vhu_kept_session_new(uint16_t nrings);
void vdpa_vhu_kept_session_free(struct vhu_kept_session *k);

/* A message was carried out: remember what it brought. */
void vdpa_vhu_record_note(struct vhu_received *req);

/*
 * Write what was said until now, with the reply to the last message (NULL: it has none) and the
 * descriptor that goes with that. Before the device acts on it and before the reply leaves.
 */
int vdpa_vhu_record_write(struct vhu_device *dev, const struct vhu_msg *reply, vhu_kept_id fd);

/* What of a device that runs alone ends with the process may have changed by itself: say so in the
 * record. On the device's work queue. */
void vdpa_vhu_record_look(struct vhu_device *dev);

/* What a former process has written: *record is to be freed. -ENOENT: nothing. */
int vdpa_vhu_record_read(struct vhu_device *dev, struct vhu_record **record);
/* vhost_user_apply.c: bring a new session to what a record says; then start what ran. */
int vdpa_vhu_record_apply(struct vhu_device *dev, struct vhu_session *s,
			  const struct vhu_record *record);
int vdpa_vhu_record_start(struct vhu_device *dev, struct vhu_session *s);
#endif /* VHOST_USER_RECORD_H */
