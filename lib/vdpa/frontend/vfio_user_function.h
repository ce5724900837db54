/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A modern virtio-pci function (virtio 1.2, 4.1) as registers: configuration space with its
 * capabilities, and the BARs. It knows what a driver may write where and what that means; what is
 * behind the registers, and how accesses and interrupts travel, is its owner's (struct vp_ops).
 *
 *   BAR 1  MSI-X table    BAR 2  pending bits
 *   BAR 4  0x0000 common configuration   0x1000 ISR status   0x2000 device configuration
 *          0x3000 notification: one page for a queue, or one for all with 4 bytes for each
 *
 * A vendor's function that is virtio with an addition is a struct vp_kind, which a program brings:
 * where it has virtio's structures, what it refuses, and registers of its own.
 *
 * One thread at a time uses a function; its owner sees to that.
 */

#ifndef VFIO_USER_FUNCTION_H
#define VFIO_USER_FUNCTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VP_PAGE		 4096u
#define VP_CONFIG_SIZE	 4096u /* PCI Express; what lies past 256 bytes is zero */
#define VP_BAR_MSIX	 1u
#define VP_BAR_PBA	 2u
#define VP_BAR_VIRTIO	 4u /* or the kind's */
#define VP_COMMON_OFFSET 0x0000u
#define VP_COMMON_LEN	 64u
#define VP_ISR_OFFSET	 0x1000u
#define VP_DEVICE_OFFSET 0x2000u
#define VP_NOTIFY_OFFSET 0x3000u
/* Device configuration that is shown, at most: a page. */
#define VP_DEVICE_MAX	 VP_PAGE
#define VP_NO_VECTOR	 0xffffu
/* PCI Local Bus 3.0, 6.8.2: MSI-X vectors of a function, at most. */
#define VP_VECTORS_MAX	 2048u

struct vp_function;
struct vdpa_vq_state;

struct vp_queue {
	uint16_t size;
	uint16_t vector;
	bool enabled;
	uint64_t desc, driver, device;
};

/* What the owner does for the function. arg is its own. */
struct vp_ops {
	/* Optional: how large a queue may be, at most queue_size_max; NULL: that. Fixed. */
	uint16_t (*queue_size_max)(void *arg, uint16_t idx);
	/* FEATURES_OK is being set: 0 when the device takes them. */
	int (*set_features)(void *arg, uint64_t features);
	/* DRIVER_OK is being set; a negative errno: the device needs a reset. */
	int (*start)(void *arg);
	/* Every queue stops when it has completed what it took, and keeps its place (virtio 1.4,
	 * VIRTIO_F_SUSPEND); they go on. A negative errno: the device needs a reset. */
	int (*suspend)(void *arg);
	int (*resume)(void *arg);
	/* Reset: everything of the driver's is forgotten, queues and routes too. */
	void (*reset)(void *arg);
	/* A queue of a running device is enabled. */
	int (*start_queue)(void *arg, uint16_t idx);
	/* A queue stops when it has completed what it took; it keeps its place. */
	void (*stop_queue)(void *arg, uint16_t idx);
	/* Where a queue begins when it is started next; NULL: at the beginning. Without effect
	 * while it runs. */
	void (*place_queue)(void *arg, uint16_t idx, const struct vdpa_vq_state *state);
	/* Where a queue stands, or begins when it is started next. */
	int (*queue_place)(void *arg, uint16_t idx, struct vdpa_vq_state *state);
	/* A queue begins where its ring was used to, when it is started next. */
	void (*place_by_ring)(void *arg, uint16_t idx);
	/* The vector of a queue has changed. */
	void (*route_queue)(void *arg, uint16_t idx);
	/* The INTx line may have changed: see vdpa_vp_intx_level(). */
	void (*intx)(void *arg);
	/* The bus master bit may have changed: see vdpa_vp_bus_master(). */
	void (*bus_master)(void *arg);
	/* A doorbell was written by a trapped access. */
	void (*notify)(void *arg, uint16_t idx, uint32_t data);
	/* Device configuration; offset + len is within device_size. */
	int (*read_device)(void *arg, size_t offset, void *buf, size_t len);
	int (*write_device)(void *arg, size_t offset, const void *buf, size_t len);

	/* Of kinds that have it. */

	/* From now on pages of buffers that queues write are marked in the bitmap at [start, end)
	 * of the client's addresses; or no longer. */
	void (*set_log)(void *arg, bool on, uint64_t start, uint64_t end);
	/* Whether that is not in effect yet: there is no such memory. */
	bool (*log_is_pending)(void *arg);
	/* The interrupt flag behind a queue's doorbell (vp_kind.flags). */
	uint32_t (*read_flag)(void *arg, uint16_t idx);
	void (*write_flag)(void *arg, uint16_t idx, uint32_t value);
};

/* PCI ids of a function. */
struct vp_ids {
	uint16_t vendor, device, sub_vendor, sub_device;
};

/* What a vendor's function has otherwise than virtio. NULL, 0, false: as virtio has it. */
struct vp_kind {
	const char *name;
	void (*ids)(uint32_t device_id, struct vp_ids *ids);
	unsigned int bar; /* of virtio's structures */
	uint32_t base;	  /* where they begin in it, whole pages */
	/* Configuration space names none of them; a list of vdpa_vp_add_virtio_caps() in the BAR
	 * does.
	 */
	bool caps_in_bar;
	uint32_t device_len; /* of the structure of device configuration, at least */
	uint64_t features_off, features_on;
	uint64_t features_needed; /* FEATURES_OK is not kept without them */
	uint16_t queue_size_min;  /* a smaller queue is not enabled */
	/* A 0 in queue_enable stops a queue, which keeps its place and goes on by a 1. */
	bool enable_stops;
	uint8_t reset_status;	/* written to the status resets, and nothing else does; 0: 0 does */
	bool flags;		/* 32 bits behind each doorbell: see read_flag */
	uint32_t notify_shared; /* bytes between doorbells of one page, at least */
	uint16_t vectors_max;	/* 0: VP_VECTORS_MAX */

	/* A BAR of the kind's own, from which own_read() and own_write() have registers. */
	unsigned int own_bar;
	uint64_t (*own_bar_size)(const struct vp_function *vp);
	size_t own_size; /* bytes of vp_function.own, zeroed */
	/* After ids, BARs and configuration space are laid out. 0, or a negative errno with
	 * vdpa_error(). */
	int (*init)(struct vp_function *vp);
	/* The device is reset, or with it the whole function. */
	void (*reset)(struct vp_function *vp, bool function);
	/* Before any access to a BAR: what took its time may be over. */
	void (*settle)(struct vp_function *vp);
	/* Put over what was read of a BAR what is the kind's there. */
	void (*own_read)(struct vp_function *vp, unsigned int bar, uint64_t offset, uint8_t *buf,
			 size_t len);
	/* true: the write was to a register of the kind's. */
	bool (*own_write)(struct vp_function *vp, unsigned int bar, uint64_t offset,
			  const uint8_t *buf, size_t len);
};

/*
 * Steps at which a program that plays broken functions may have one do otherwise; a function in
 * earnest is asked nothing.
 */
enum vfu_step {
	VFU_STEP_ANSWER,      /* registers are there; skipped: they read all ones */
	VFU_STEP_SHOW_ENABLE, /* queue_enable reads as it is; skipped: 0 */
	VFU_STEP_FEATURES,    /* FEATURES_OK is kept */
	VFU_STEP_RESET,	      /* a reset completes, of the device and of a queue */
	VFU_STEP_SUSPEND,     /* it suspends; failed: it needs a reset instead */
	VFU_STEP_RESUME,
	VFU_STEP_VECTOR,     /* an MSI-X vector is granted */
	VFU_STEP_GENERATION, /* the generation stays while nothing changes */
	VFU_STEP_CAPABILITY, /* the common configuration's capability is right */
	VFU_STEP_BAR,	     /* the BAR of virtio's structures is as long as they are */
	VFU_STEP_QUEUE,	     /* a queue runs when it is enabled */
	VFU_STEP_START,	     /* the device starts; failed: it needs a reset */
	VFU_STEP_STARTED,    /* it goes on then; skipped: the client is hung up on */
	VFU_STEP_INTERRUPT,  /* queues interrupt */
	VFU_STEP_CLEAR_FLAG, /* a queue's flag is cleared */
};

enum vfu_verdict {
	VFU_DO,
	VFU_SKIP,
	VFU_FAIL,
};

struct vp_params {
	const struct vp_kind *kind; /* NULL: plain virtio */
	uint32_t device_id;	    /* virtio's: 1 net, 2 block, ... */
	uint32_t pci_id, pci_sub;   /* vendor << 16 | device; 0: the kind's */
	uint64_t features;
	uint16_t nvqs; /* without the administration queue, */
	bool admin;    /* which lies behind them, where there is one */
	uint16_t queue_size_max;
	uint16_t vectors;     /* MSI-X, 1 .. VP_VECTORS_MAX */
	uint32_t notify_mult; /* bytes between doorbells: VP_PAGE or less */
	size_t device_size;   /* bytes of device configuration */
	/* Of a program that plays functions; ask NULL: every step is done. own is for ask and the
	 * kind. */
	enum vfu_verdict (*ask)(const void *own, enum vfu_step step);
	const void *own;
	const struct vp_ops *ops;
	void *arg;
};

/* Read by the owner; written by vfio_user_function.c and vfio_user_config.c only. */
struct vp_function {
	struct vp_params params;
	const struct vp_kind *kind; /* never NULL */
	struct vp_ids ids;
	void *own;	     /* the kind's */
	unsigned int bar;    /* of virtio's structures, */
	uint32_t base;	     /* which begin there */
	uint32_t device_len; /* of the structure of device configuration */
	uint64_t notify_len; /* bytes, whole pages */
	uint64_t bar_size[6];

	uint8_t config[256], wmask[256];
	uint8_t msix_cap, pcie_cap, access_cap, common_cap; /* offsets */
	uint8_t *msix_table; /* storage only: see vdpa_vp_bar_read() */

	uint32_t device_feature_select, driver_feature_select;
	uint64_t driver_features;
	uint16_t config_vector, queue_select;
	uint8_t status, generation, isr;
	bool suspended;			      /* no queue moves, and no configuration changes */
	bool stopped;			      /* nor here, by the owner (vp_set_stopped()); */
	bool loaded;			      /* with parts that are not in force yet */
	bool queue_reset_stuck;		      /* a reset that never completes */
	uint8_t device_config[VP_DEVICE_MAX]; /* as it was seen last */
	struct vp_queue *queues;
};

/* All queues that there are. */
static inline uint16_t
vp_all_queues(const struct vp_params *params)
{
	return (uint16_t)(params->nvqs + params->admin);
}

/* How large a queue may be. */
static inline uint16_t
vp_queue_size_max(const struct vp_function *vp, uint16_t idx)
{
	const struct vp_params *p = &vp->params;

	return idx < p->nvqs && p->ops != NULL && p->ops->queue_size_max != NULL
		       ? p->ops->queue_size_max(p->arg, idx)
		       : p->queue_size_max;
}

/* 0; -EINVAL for parameters that no function has; -ENOMEM. */
int vdpa_vp_init(struct vp_function *vp, const struct vp_params *params);
void vdpa_vp_fini(struct vp_function *vp);

/* Accesses of any length within the region; what is past it reads all ones. */
void vdpa_vp_config_read(struct vp_function *vp, uint64_t offset, void *buf, size_t len);
void vdpa_vp_config_write(struct vp_function *vp, uint64_t offset, const void *buf, size_t len);
void vdpa_vp_bar_read(struct vp_function *vp, unsigned int bar, uint64_t offset, void *buf,
		      size_t len);
void vdpa_vp_bar_write(struct vp_function *vp, unsigned int bar, uint64_t offset, const void *buf,
		       size_t len);

/* As power-on: of the function (PCI reset, FLR), of the virtio device in it. */
void vdpa_vp_function_reset(struct vp_function *vp);
void vdpa_vp_device_reset(struct vp_function *vp);

/* The device cannot go on: DEVICE_NEEDS_RESET. True when the driver is to be told. */
bool vdpa_vp_needs_reset(struct vp_function *vp);
/* Queue and configuration interrupts, as the ISR status shows them. */
void vdpa_vp_raise_isr(struct vp_function *vp, uint8_t bits);
/* Whether the INTx line is up: something in the ISR status and not disabled. */
bool vdpa_vp_intx_level(const struct vp_function *vp);
/* Whether the function may do DMA (PCI command, bit 2). */
bool vdpa_vp_bus_master(const struct vp_function *vp);
/* Size of a BAR as it is shown: VFU_STEP_BAR may make it small. */
uint64_t vdpa_vp_bar_shown(const struct vp_function *vp, unsigned int bar);

/* Where doorbells begin in vp->bar. */
static inline uint32_t
vp_notify_offset(const struct vp_function *vp)
{
	return vp->base + VP_NOTIFY_OFFSET;
}

/* Virtio itself. */
extern const struct vp_kind vdpa_vp_kind_virtio;

static inline enum vfu_verdict
vp_ask(const struct vp_function *vp, enum vfu_step step)
{
	return vp->params.ask != NULL ? vp->params.ask(vp->params.own, step) : VFU_DO;
}

static inline bool
vp_does(const struct vp_function *vp, enum vfu_step step)
{
	return vp_ask(vp, step) == VFU_DO;
}

#endif /* VFIO_USER_FUNCTION_H */
