/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A device of the front end "vfio-user", between the files that make one of it. */

#ifndef MODEL_DEVICE_H
#define MODEL_DEVICE_H

#include <sys/queue.h>

#include "dma_table.h"
#include "doorbell.h"
#include "interrupt.h"
#include "log_limit.h"
#include "vdpa_frontend.h"
#include "vfio_user_server.h"
#include "virtio_pci.h"

/* What the core has of a queue. */
struct model_queue {
	bool started;
	bool parked; /* it ran, and goes on when its memory is back */
	bool placed; /* it starts at state, where it stopped or the driver put it */
	int call_fd; /* what the device was given */
	struct vdpa_vq_state state;
};

/* A queue's interrupts on their way to its flag. */
struct model_flag {
	struct vdpa_event ev;
	struct model_device *md;
	uint16_t idx;
};

/* The dirty log that the function writes by DMA (page_log.c). */
struct model_log {
	bool asked;
	bool on; /* the device writes logs[at] */
	uint64_t start, end;
	struct vdpa_dirty_log logs[2];
	unsigned int at;
	struct vdpa_iotlb *tlb; /* in which its memory is */
	uint64_t past;		/* pages past its end that were written; atomic */
	struct vdpa_log_limit lines;
};

/*
 * What DMA_MAP and DMA_UNMAP requests did since the function was made, whoever its clients were.
 * Refused requests are not counted; bytes are those of ranges with a file. Atomic.
 */
struct model_dma_counts {
	uint64_t maps, unmaps; /* requests */
	uint64_t bytes_mapped, bytes_unmapped;
};

/* On `loop`, but for what is said to be atomic. */
struct model_device {
	struct vdpa_device *vdev;
	char *path;
	struct vdpa_event_loop *loop;
	struct vp_function vp;
	struct doorbells doorbells;
	struct model_interrupts irqs;
	struct dma_table dma;
	struct model_dma_counts dma_counts;
	struct vfu_server *server;
	struct model_queue *queues;
	bool running;	/* the core runs it */
	bool connected; /* atomic */

	struct model_log log;
	struct model_flag *flags; /* of a function with flags; NULL: none */
	uint16_t n_flags;

	struct vdpa_event relay; /* an eventfd for queue interrupts that must show in the ISR */
	struct vdpa_task config_task, failed_task, disconnect_task;

	uint32_t fault;		  /* mask of MODEL_FAULT_*; atomic */
	unsigned int delay_ms;	  /* of delayed replies; atomic */
	struct vdpa_event tick;	  /* of faults that happen by themselves */
	unsigned int fault_round; /* of corrupted packed rings */

	TAILQ_ENTRY(model_device) next; /* the front end's */
};

extern const struct vp_ops model_vp_ops;
extern const struct vfu_ops model_vfu_ops;

/* vp, doorbells, vdev and loop are set up. Fini after a failure too. */
int model_device_init(struct model_device *md);
void model_device_fini(struct model_device *md);
/* The route of a queue's interrupts, or of all queues', anew: what decides it has changed. */
void model_device_route_queue(struct model_device *md, uint16_t idx);
void model_device_route(struct model_device *md);
/* The INTx line as the registers have it. */
void model_device_update_intx(struct model_device *md);

/*
 * Use the memory of the table as it is now. Queues whose rings are not in it stand still until they
 * are again. A negative errno: the device goes on using what it used, as far as it does.
 */
int model_device_update_memory(struct model_device *md);
/* The device does not let go of memory: nothing but a stop helps, and the driver is told. */
void model_device_give_up(struct model_device *md, int err);

/* The log on or off; the memory that it lies in is tlb from now on, or the device has started. */
void model_log_set(struct model_device *md, bool on, uint64_t start, uint64_t end);
void model_log_update(struct model_device *md, struct vdpa_iotlb *tlb);
/* The device was stopped, and uses it no more. */
void model_log_forget(struct model_device *md);
bool model_log_is_pending(const struct model_device *md);

/* Flags of queues (queue_flag.c); fini after a failure too. */
int model_flags_init(struct model_device *md);
void model_flags_fini(struct model_device *md);
/* A trapped write of the driver's; stuck: the flag stays set. */
void model_flags_write(struct model_device *md, uint16_t idx, uint32_t value, bool stuck);
void model_flags_set_all(struct model_device *md);

/* Faults that act by themselves (fault_actions.c). */
int model_faults_init(struct model_device *md);
void model_faults_fini(struct model_device *md);
/* Begin or end them, as the mask and the device's state say. */
void model_faults_update(struct model_device *md);
/* A new mask, on the loop: those that act at once do. */
void model_faults_change(struct model_device *md, uint32_t mask);

#endif /* MODEL_DEVICE_H */
