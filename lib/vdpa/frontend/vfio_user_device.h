/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The front end "vfio-user", by file.
 *
 *   vfio_user_frontend.c   its words, its devices, what the core calls
 *   vfio_user_device.c     what a driver writes into registers is reported to the consumer
 *   vfio_user_client.c     what a client asks for: accesses, interrupts, memory
 *   vfio_user_kept.c       a connection that outlives the process
 *   vfio_user_record.c     the record of it
 *   vfio_user_resume.c     how the next process goes on
 *   vfio_user_log.c        dirty logs
 *   vfio_user_migration.c  its state for another host, by messages
 *   vfio_user_saved.c      the registers in it
 *   vfio_user_flag.c       interrupts of functions that have flags for them
 *   vfio_user_server.c     the socket and its messages
 *   vfio_user_commands.c   what each message means
 *   vfio_user_function.c   the function's BARs, as registers
 *   vfio_user_config.c     its configuration space
 *   vfio_user_doorbell.c   doorbells by memory and by message
 *   vfio_user_interrupt.c  eventfds of vectors and of the INTx line
 *   vfio_user_dma.c        DMA_MAP and DMA_UNMAP as a table
 *
 * Threads: the control loop watches sockets and eventfds and waits for nothing. A device belongs to
 * the jobs of its work queue, which run one at a time, or to the one who removes it once no job can
 * run any more. Doorbells that are polled have a thread of their own, one for all devices.
 *
 * This header has a function's device, and what a program may add to functions: vdpa-model its
 * vendors' functions, faults and administration queues.
 */

#ifndef VFIO_USER_DEVICE_H
#define VFIO_USER_DEVICE_H

#include <sys/queue.h>

#include "vfio_user_dma.h"
#include "vfio_user_doorbell.h"
#include "vfio_user_interrupt.h"
#include "vfio_user_kept.h"
#include "log_limit.h"
#include "vdpa_consumer.h"
#include "vdpa_event.h"
#include "vfio_user_server.h"
#include "vfio_user_function.h"

/* What the consumer was told of a queue. */
struct vfu_queue {
	bool told;
	int call_fd; /* whose duplicate it has */
};

/* A queue's interrupts on their way to its flag. */
struct vfu_flag {
	struct vdpa_event ev;
	struct vdpa_work work;
	struct vfu_device *dev;
	uint16_t idx;
};

/* Ranges of a log of the function's DMA. */
#define VFU_DMA_LOG_RANGES 256

/* The dirty log (vfio_user_log.c): one that the function writes by DMA, or one of its DMA, which
 * the client asks for by messages. */
struct vfu_log {
	uint8_t *own; /* of the latter, a bit a page from IOVA 0 on; NULL: none */
	struct vfio_user_dma_log_range ranges[VFU_DMA_LOG_RANGES];
	unsigned int n_ranges;
	bool asked;
	bool on; /* the device writes dirty */
	uint64_t start, end;
	struct vdpa_dirty_log dirty;
	struct vdpa_iotlb *tlb; /* in which its memory is */
	uint64_t past;		/* pages past its end that were written; atomic */
	struct vdpa_log_limit lines;
};

/*
 * What DMA_MAP and DMA_UNMAP requests did since the function was made, whoever its clients were.
 * Refused requests are not counted; bytes are those of ranges with a file. Atomic.
 */
struct vfu_dma_counts {
	uint64_t maps, unmaps; /* requests */
	uint64_t bytes_mapped, bytes_unmapped;
};

/* The state on its way to another host, or from there. */
struct vfu_migration {
	uint32_t state; /* enum vfio_device_mig_state */
	bool loaded;	/* the registers came from elsewhere, and have not run since */
	uint8_t *buf;	/* the stream; NULL: none */
	size_t len, room;
	size_t at; /* how far it was read */
};

struct vfu_device;

/*
 * What a program adds to the functions of its process. All of it is optional; unless it says
 * otherwise, it is called in a job of the device's, or where none can run.
 */
struct vfu_extension {
	const struct vdpa_param *params; /* words more, ended by a NULL name */
	size_t own_size;		 /* bytes of vfu_device.own, zeroed */
	/* One queue for the jobs of all functions, for a program whose functions reach into each
	 * other. NULL: each device's own. */
	struct vdpa_work_queue *queue;
	/* Read the words, before the function is made: its kind, and what else is different. 0 or a
	 * negative errno with vdpa_error(). */
	int (*parse)(struct vfu_device *dev, const struct vdpa_args *args,
		     struct vp_params *params);
	/* The device is there, and no client yet. As above; fini() follows in any case. */
	int (*init)(struct vfu_device *dev, const struct vdpa_args *args);
	/* No client's job runs any more: nor does one of the extension's on return. */
	void (*quiesce)(struct vfu_device *dev);
	void (*fini)(struct vfu_device *dev);
	/* It began to run, or does no longer. */
	void (*moved)(struct vfu_device *dev);
	/* As vfu_ops.reply. */
	size_t (*reply)(struct vfu_device *dev, uint8_t *msg, size_t len, unsigned int *delay_ms);

	/* The administration queue, behind the device's own (vp_params.admin): it starts, where it
	 * is set up and may; stops; goes on after a suspension; uses other memory; has its
	 * interrupts elsewhere; is reset. */
	int (*admin_start)(struct vfu_device *dev);
	void (*admin_stop)(struct vfu_device *dev);
	void (*admin_resume)(struct vfu_device *dev);
	void (*admin_update_memory)(struct vfu_device *dev, struct vdpa_iotlb *tlb);
	void (*admin_route)(struct vfu_device *dev);
	void (*admin_reset)(struct vfu_device *dev);
};

/* Of a device's jobs, but for what is said to be atomic. */
struct vfu_device {
	struct vdpa_device *vdev;
	char *path;
	struct vdpa_work_queue *jobs;
	const struct vfu_extension *ext; /* never NULL */
	void *own;			 /* the extension's */
	struct vdpa_peer peer;		 /* who is connected, */
	struct vdpa_consumer *consumer;	 /* and what he has said; NULL: nobody is */
	struct vp_function vp;
	struct vfu_bells doorbells;
	struct vfu_irqs irqs;
	struct vfu_dma dma;
	struct vfu_dma_counts dma_counts;
	uint64_t suspensions; /* completed; atomic */
	struct vfu_server *server;
	struct vfu_queue *queues; /* without the administration queue */
	bool dma_logging;	  /* by word: its DMA can be logged */
	bool moves;		  /* by word: its state can be saved and loaded */
	bool passes;		  /* by word: clients map the device's own doorbells */
	bool config_held;	  /* the configuration changed while it was suspended */
	bool connected;		  /* atomic */

	struct vfu_migration migration;
	struct vfu_kept kept;
	struct vfu_log log;
	struct vfu_flag *flags; /* of a function with flags; NULL: none */
	uint16_t n_flags;

	struct vdpa_event relay; /* an eventfd for queue interrupts that must show in the ISR */
	struct vdpa_work relay_work, config_work, failed_work, disconnect_work;

	TAILQ_ENTRY(vfu_device) next; /* the front end's */
};

extern const struct vp_ops vdpa_vfus_vp_ops;
extern const struct vfu_ops vdpa_vfus_client_ops;

/* Words more, and what else a program adds. Before anything is registered, once. 0 or -ENOMEM. */
int vdpa_vfus_extend(const struct vfu_extension *ext);
/* Call fn for each device, or for the one of that name, under the list's lock: it posts no job and
 * waits for none. How many there were. From any thread. */
unsigned int vdpa_vfus_for_each(const char *name, void (*fn)(struct vfu_device *dev, void *arg),
				void *arg);

/* vp, doorbells, vdev and jobs are set up. Quiesce: no job of the device's runs or will any more.
 * Both ends after a failure too. */
int vdpa_vfus_device_init(struct vfu_device *dev);
void vdpa_vfus_device_quiesce(struct vfu_device *dev);
void vdpa_vfus_device_fini(struct vfu_device *dev);
/* The route of a queue's interrupts, or of all queues', anew: what decides it has changed. */
void vdpa_vfus_device_route_queue(struct vfu_device *dev, uint16_t idx);
void vdpa_vfus_device_route(struct vfu_device *dev);
/* The INTx line as the registers have it. */
void vdpa_vfus_device_update_intx(struct vfu_device *dev);

/* The table has changed: the consumer has its memory. A negative errno: the device goes on using
 * what it used, as far as it does. */
int vdpa_vfus_device_update_memory(struct vfu_device *dev);
/* The device does not let go of memory, or of a descriptor: it is stopped, and its driver is to
 * reset it. what: what was under way. */
void vdpa_vfus_device_give_up(struct vfu_device *dev, int err, const char *what);
/* What was made available, and what was used, may not have been said elsewhere: kick each queue,
 * and interrupt for each. */
void vdpa_vfus_device_signal_queues(struct vfu_device *dev);
/* The configuration's interrupt. */
void vdpa_vfus_config_interrupt(struct vfu_device *dev);

/* Whether the device runs. */
static inline bool
vfu_runs(const struct vfu_device *dev)
{
	return dev->consumer != NULL && vdpa_consumer_is_running(dev->consumer);
}

/* Whether the device stands still: no queue moves, and no configuration changes. */
static inline bool
vfu_is_still(const struct vfu_device *dev)
{
	return dev->vp.suspended || dev->vp.stopped ||
	       dev->migration.state != VFIO_DEVICE_STATE_RUNNING;
}

/* Whether queues may move at all. */
static inline bool
vfu_may_move(const struct vfu_device *dev)
{
	return vdpa_vp_bus_master(&dev->vp) && !vfu_is_still(dev);
}

/* The device stands still from now on, or goes on where vfu_is_still() does not hold it up. 0;
 * -EIO: it has failed. */
int vdpa_vfus_device_stand_still(struct vfu_device *dev);
int vdpa_vfus_device_go_on(struct vfu_device *dev);

/* The state of a function that moves: another; as it is without a client. */
int vdpa_vfus_migration_set(struct vfu_device *dev, uint32_t state);
void vdpa_vfus_migration_reset(struct vfu_device *dev);
/* The stream: up to size bytes of it, *n of them; more of it. */
int vdpa_vfus_migration_read(struct vfu_device *dev, void *buf, uint32_t size, uint32_t *n);
int vdpa_vfus_migration_write(struct vfu_device *dev, const void *buf, uint32_t size);

/* The log on or off; of a device that runs, or is about to: the memory that it lies in is tlb from
 * now on. */
void vdpa_vfus_log_set(struct vfu_device *dev, bool on, uint64_t start, uint64_t end);
void vdpa_vfus_log_update(struct vfu_device *dev, struct vdpa_iotlb *tlb);
/* The device was stopped, and uses it no more. */
void vdpa_vfus_log_forget(struct vfu_device *dev);
bool vdpa_vfus_log_is_pending(const struct vfu_device *dev);
/* The log of the function's DMA, as struct vfu_ops has it. */
int vdpa_vfus_dma_log_start(struct vfu_device *dev, const struct vfio_user_dma_log_range *ranges,
			    unsigned int n);
int vdpa_vfus_dma_log_report(struct vfu_device *dev, const struct vfio_user_dma_log_report *report,
			     uint64_t *bitmap);
int vdpa_vfus_dma_log_stop(struct vfu_device *dev);

/* Flags of queues; fini after a failure too. */
int vdpa_vfus_flags_init(struct vfu_device *dev);
void vdpa_vfus_flags_fini(struct vfu_device *dev);
void vdpa_vfus_flags_quiesce(struct vfu_device *dev);
void vdpa_vfus_flags_set_all(struct vfu_device *dev);

#endif /* VFIO_USER_DEVICE_H */
