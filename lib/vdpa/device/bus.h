/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The bus: every device by its name, and what goes on with it. A name is taken before its device is
 * made and given back when the device is gone, so nobody holds a lock while a device is added,
 * changed or removed: a call that wants the same name meanwhile is refused with the reason.
 *
 *   (reserve) -> ADDING -> PRESENT <-> CHANGING
 *                  |          |
 *                  v          v
 *               (free)  <- REMOVING
 *
 * A device that an application or a driver registers by itself comes and goes as PRESENT.
 *
 * The bus lock is innermost but for what vdpa_frontend_ops.describe takes: no op of a driver that
 * may wait and no other call of a front end is made with it held.
 */

#ifndef VDPA_BUS_H
#define VDPA_BUS_H

#include "vdpa_driver.h"
#include "vdpa_frontend.h"

enum vdpa_bus_state {
	VDPA_BUS_ADDING,   /* its management device makes it, its front end begins to serve it */
	VDPA_BUS_PRESENT,  /* nobody works on it */
	VDPA_BUS_CHANGING, /* an attribute is set */
	VDPA_BUS_REMOVING, /* it is stopped and closed */
};

/* A name. Fields are guarded by the bus lock; those marked (fixed) stay as they are. */
struct vdpa_bus_entry {
	char name[VDPA_NAME_MAX];   /* (fixed) */
	uint64_t id;		    /* (fixed) from 1, in the order of the entries */
	struct vdpa_mgmt_dev *mdev; /* (fixed) NULL: an application made the device */
	struct vdpa_frontend *fe;   /* (fixed) the one to serve it; NULL: none */
	struct vdpa_driver *drv;    /* of a PCI function: which makes it, or made it */
	char *words;		    /* that it is made of, as text; NULL: an application made it */
	enum vdpa_bus_state state;
	bool announced;		  /* its addition was noticed: its removal will be */
	struct vdpa_device *vdev; /* NULL: not registered yet, or no longer */
	TAILQ_ENTRY(vdpa_bus_entry) next;
};

/*
 * Take a name for a device that is to be made: ADDING. -EEXIST when a device has it, -EBUSY when
 * one is being added, changed or removed. The device that mdev registers by that name is its.
 */
int vdpa_bus_reserve(const char *name, struct vdpa_mgmt_dev *mdev, struct vdpa_frontend *fe,
		     struct vdpa_bus_entry **out);
/*
 * Have a device for oneself, CHANGING or REMOVING, with a reference to it. -ENODEV when there is
 * none; -EBUSY when somebody else has it, and the message says for what.
 */
int vdpa_bus_claim(const char *name, enum vdpa_bus_state state, struct vdpa_bus_entry **out,
		   struct vdpa_device **vdev);
/*
 * Claim, for REMOVING, the first device for which matches() says so, waiting for those that others
 * have: until they are done, which every op does in a bounded time. False: there is none.
 */
bool vdpa_bus_claim_next(bool (*matches)(const struct vdpa_bus_entry *e, const void *arg),
			 const void *arg, struct vdpa_bus_entry **out, struct vdpa_device **vdev);
/* Which driver is asked to make the device of a reservation: it is waited for from now on by whom
 * claims the driver's devices. */
void vdpa_bus_set_driver(struct vdpa_bus_entry *e, struct vdpa_driver *drv);
/* The words of a device that is reserved or claimed, for as long as it has its place: they are
 * freed with it. NULL keeps those that it has. */
void vdpa_bus_set_words(struct vdpa_bus_entry *e, char *words);
/* The end of a reservation or a claim: PRESENT while there is a device, else the name is free. */
void vdpa_bus_release(struct vdpa_bus_entry *e);

/* Of vdpa_register_device() and vdpa_unregister_device(). */
int vdpa_bus_add(struct vdpa_device *vdev);
void vdpa_bus_del(struct vdpa_device *vdev);

/* Whether a name belongs to that management device. */
bool vdpa_bus_uses(const struct vdpa_mgmt_dev *mdev);

/* Look at one entry, under the bus lock. -ENODEV when there is none. */
int vdpa_bus_look(const char *name, void (*fn)(const struct vdpa_bus_entry *e, void *arg),
		  void *arg);
/* Look at each in order, under the bus lock, while fn returns true. */
void vdpa_bus_for_each(bool (*fn)(const struct vdpa_bus_entry *e, void *arg), void *arg);

/* Whether a name is taken. From anywhere, with any lock held: also where a line of the log is
 * written. */
bool vdpa_bus_has(const char *name);

#endif /* VDPA_BUS_H */
