/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A device for tests of the core: it records what it is told, and fails the op it is asked to. */

#ifndef FAKE_DEVICE_H
#define FAKE_DEVICE_H

#include "vdpa_driver.h"
#include "virtio_compat.h"

#define FAKE_VQS 4

struct fake_vq {
	uint32_t num;
	uint64_t desc, driver, device;
	struct vdpa_vq_state state;
	int call_fd, kick_fd;
	bool ready, disabled;
	unsigned int kicks;
	unsigned int stopped; /* the fallible op that stopped it last */
};

struct fake_device {
	struct vdpa_device vdev;
	struct fake_vq vq[FAKE_VQS];
	uint64_t features;
	uint64_t more_features; /* offered beside those that it always has */
	uint64_t backend_features;
	uint8_t status;
	int config_fd;
	struct vdpa_iotlb *tlb;
	unsigned int set_maps;
	uint8_t config[64];
	bool suspended;
	bool sticky_status;	/* never shows FEATURES_OK */
	bool keeps_changing;	/* the configuration */
	unsigned int config_us; /* that reading it takes */
	unsigned int config_reads;
	uint32_t generation;
	unsigned int calls;   /* fallible ops called */
	unsigned int fail_at; /* fail the n-th of them from 1; 0: none */
	bool fail_reset;
	bool sets_message;			/* a failing op sets one */
	bool resets_vqs;			/* hardware: one by one */
	bool stops_vqs;				/* hardware: set_vq_ready(false) works */
	bool tells_places;			/* hardware: it reports and loads them */
	bool fails_as_it_stops;			/* a queue does stop, and it reports a failure */
	struct vdpa_notification_area doorbell; /* of queue 0, the others behind it; size 0: none */
	unsigned int resets;
	unsigned int cuts;	     /* calls of cut_off */
	void (*on_reset)(void *arg); /* before it stops */
	void *on_reset_arg;
	const char *failed_op; /* which one that was */
	unsigned int *freed;   /* counts frees */
	unsigned int dma_releases;
	const struct vdpa_stat *vq_stats; /* that each queue reports, n_vq_stats of them */
	unsigned int n_vq_stats;

	/* Its dirty log: a bit for each page from IOVA 0 on, as hardware would write it. */
	uint64_t hw_log[8];
	const struct vdpa_dirty_log *log; /* which it logs to; NULL: none */
	unsigned int log_starts, log_syncs, log_stops;
	unsigned int early_page; /* written when it starts; 0: none */
	unsigned int late_page;	 /* written by whatever stops it, before it stops; 0: none */
	void (*on_log_stop)(void *arg);
	void *on_log_stop_arg;
	bool fail_log_sync, fail_log_start, no_suspend;
};

/* Allocate; caller registers. own_kick: the device takes kick fds itself. */
struct fake_device *fake_device_new(const char *name, bool own_kick);

/*
 * One like a standard virtio function: its memory is in a DMA domain, it cannot suspend, and can
 * neither report nor load where a queue stands. enables: it has set_vq_enable.
 */
struct fake_device *fake_hardware_new(const char *name, struct vdpa_dma_domain *dma, bool enables);

/* As fake_device_new() or, with a domain, fake_hardware_new(), with a dirty log that it keeps by
 * itself. */
struct fake_device *fake_logging_new(const char *name, struct vdpa_dma_domain *dma);

/* The device writes to a page of the guest's memory. */
void fake_write(struct fake_device *fake, unsigned int page);

#endif /* FAKE_DEVICE_H */
