/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The record of a PCI function that outlives the process, and how the next one begins with it.
 * Owns the part "function" of a device's record: what the function is, its vectors, what its domain
 * has mapped, who may hold a page of it, and the driver's own bytes. It is written before each act
 * that it tells of, and after each that takes something away: what stands in it may be there, and
 * nothing else is. What is read is checked for its form here, and compared with the function by
 * whoever takes it over.
 *
 * Descriptors are the transport's (struct vdpa_pci_transport.keep). Without a record that checks
 * none of them is taken: nobody would know what is mapped.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_common.h>

#include "dma_kept.h"
#include "page_holders.h"
#include "pci_device.h"
#include "pci_kept.h"
#include "restart.h"
#include "tlv.h"
#include "vdpa_error.h"
#include "vdpa_log.h"

#define PART	   "function"
/* Characters of a device's name, with its NUL. */
#define DEVICE_MAX 64

enum {
	PART_FUNCTION = 1, /* struct part_function */
	PART_MAPPINGS,	   /* struct vdpa_dma_kept, by ascending IOVA */
	PART_HOLDERS,	   /* struct part_holders */
	PART_DRIVER,	   /* the driver's */
	PART_TRANSPORT,	   /* the transport's */
	PART_LAST = PART_TRANSPORT,
};

struct part_function {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint32_t vectors;
	char name[260]; /* "pci/0000:06:00.2" */
};

struct part_holders {
	uint8_t several, known;
	uint16_t padding;
	uint32_t uid;
	int32_t pid;
	uint32_t padding2;
	uint64_t started;
};

_Static_assert(sizeof(struct part_function) == 272, "PART_FUNCTION");
_Static_assert(sizeof(struct part_holders) == 24, "PART_HOLDERS");
_Static_assert(sizeof(struct vdpa_dma_kept) == 48, "PART_MAPPINGS");

/* What others than this file understand. */
struct bytes {
	uint8_t *data; /* malloc; NULL: none */
	size_t len;
};

/* The record, in parts. */
struct record {
	struct part_function function;
	struct vdpa_dma_kept *mappings; /* malloc */
	size_t n_mappings, room;
	bool has_holders;
	struct part_holders holders;
	struct bytes driver, transport;
};

struct vdpa_pci_kept {
	struct vdpa_pci *pci;
	char device[DEVICE_MAX];
	pthread_mutex_t lock; /* inside of the domain's */
	bool on;	      /* written from now on */
	bool hears;	      /* what changes of its domain */
	bool is_left;	      /* opened as it was left, and not settled */
	struct record former; /* until it is settled */
	struct record now;
};

static void
record_free(struct record *r)
{
	free(r->mappings);
	free(r->driver.data);
	free(r->transport.data);
	*r = (struct record){0};
}

/* Write. Under the lock. */

static int
write_record(struct vdpa_pci_kept *k)
{
	struct record *r = &k->now;
	struct vdpa_tlv_buf buf = {.size = VDPA_RESTART_RECORD_MAX};
	size_t len = r->n_mappings * sizeof(r->mappings[0]);
	int rc;

	buf.data = malloc(buf.size);
	if (buf.data == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	r->function.vectors = k->is_left ? k->former.function.vectors : k->pci->msix_enabled;
	(void)vdpa_tlv_put(&buf, PART_FUNCTION, VDPA_TLV_CRITICAL, &r->function,
			   sizeof(r->function));
	(void)vdpa_tlv_put(&buf, PART_MAPPINGS, VDPA_TLV_CRITICAL, r->mappings,
			   (uint32_t)RTE_MIN(len, (size_t)UINT32_MAX));
	if (r->has_holders)
		(void)vdpa_tlv_put(&buf, PART_HOLDERS, VDPA_TLV_CRITICAL, &r->holders,
				   sizeof(r->holders));
	if (r->driver.data != NULL)
		(void)vdpa_tlv_put(&buf, PART_DRIVER, VDPA_TLV_CRITICAL, r->driver.data,
				   (uint32_t)r->driver.len);
	if (r->transport.data != NULL)
		(void)vdpa_tlv_put(&buf, PART_TRANSPORT, VDPA_TLV_CRITICAL, r->transport.data,
				   (uint32_t)r->transport.len);
	rc = buf.overflow
		     ? vdpa_error(EMSGSIZE, "%zu mappings are more than are kept", r->n_mappings)
		     : vdpa_restart_write_part(k->device, PART, buf.data, buf.len);
	free(buf.data);
	return rc;
}

/* For the cause in vdpa_error_message(). The front end hears of it when it records the next
 * message; the record that it has written is dropped here. */
static void
end_keeping(struct vdpa_pci_kept *k)
{
	char why[VDPA_ERROR_MAX];

	k->on = false;
	snprintf(why, sizeof(why), "%s: %s", k->pci->name, vdpa_error_message());
	/* Where the device is given up already, its front end has said why. */
	if (!vdpa_restart_is_given_up(k->device)) {
		VDPA_LOG(WARNING, "%s: does not go on in the next process: %s", k->device, why);
		vdpa_restart_give_up(k->device, why);
	}
	(void)k->pci->ops->keep(k->pci->handle, k->device, false);
}

static void
rewrite(struct vdpa_pci_kept *k)
{
	if (k->on && write_record(k) < 0)
		end_keeping(k);
}

static int
note_mapping(const struct vdpa_dma_kept *m, void *arg)
{
	struct record *r = arg;

	if (r->n_mappings == r->room) {
		size_t room = r->room * 2 + 16;
		void *grown = reallocarray(r->mappings, room, sizeof(*m));

		if (grown == NULL)
			return vdpa_error(ENOMEM, "out of memory");
		r->mappings = grown;
		r->room = room;
	}
	r->mappings[r->n_mappings++] = *m;
	return 0;
}

/* With the domain's lock. */
static void
mappings_changed(void *arg)
{
	struct vdpa_pci_kept *k = arg;
	int rc;

	pthread_mutex_lock(&k->lock);
	if (k->on) {
		k->now.n_mappings = 0;
		rc = vdpa_dma_kept_each(k->pci->dma, note_mapping, &k->now);
		if (rc < 0)
			end_keeping(k);
		else
			rewrite(k);
	}
	pthread_mutex_unlock(&k->lock);
}

static void
holders_changed(void *arg)
{
	struct vdpa_pci_kept *k = arg;
	struct vdpa_page_holders h = vdpa_page_holders_look(vdpa_dma_page_holders(k->pci->dma));

	pthread_mutex_lock(&k->lock);
	k->now.has_holders = h.any;
	k->now.holders = (struct part_holders){.several = h.several,
					       .known = h.first.known,
					       .uid = h.first.uid,
					       .pid = h.first.pid,
					       .started = h.first.started};
	rewrite(k);
	pthread_mutex_unlock(&k->lock);
}

static int
copy_bytes(struct bytes *to, const void *data, size_t len)
{
	uint8_t *copy = malloc(len);

	if (copy == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	memcpy(copy, data, len);
	free(to->data);
	*to = (struct bytes){copy, len};
	return 0;
}

int
vdpa_pci_keep_transport(struct vdpa_pci *pci, const void *record, size_t len)
{
	struct vdpa_pci_kept *k = pci->kept;
	int rc;

	pthread_mutex_lock(&k->lock);
	rc = copy_bytes(&k->now.transport, record, len);
	pthread_mutex_unlock(&k->lock);
	return rc;
}

int
vdpa_pci_keep(struct vdpa_pci *pci)
{
	struct vdpa_pci_kept *k = pci->kept;
	int rc;

	if (k == NULL || pci->ops->keep == NULL)
		return vdpa_error(EOPNOTSUPP,
				  "%s: functions of this transport are not left running",
				  pci->name);
	rc = pci->ops->keep(pci->handle, k->device, true);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&k->lock);
	k->now.function = (struct part_function){.vendor = pci->id.vendor,
						 .device = pci->id.device,
						 .subsystem_vendor = pci->id.subsystem_vendor,
						 .subsystem = pci->id.subsystem};
	snprintf(k->now.function.name, sizeof(k->now.function.name), "%s", pci->name);
	/* What the former driver said holds until this one has taken over. */
	rc = k->is_left && k->former.driver.data != NULL
		     ? copy_bytes(&k->now.driver, k->former.driver.data, k->former.driver.len)
		     : 0;
	k->on = rc == 0;
	pthread_mutex_unlock(&k->lock);
	if (rc < 0)
		return rc;
	k->hears = true;
	vdpa_dma_keep(pci->dma, mappings_changed, k);
	vdpa_page_holders_note(vdpa_dma_page_holders(pci->dma), holders_changed, k);
	holders_changed(k);
	return 0;
}

void
vdpa_pci_keep_record(struct vdpa_pci *pci, const void *record, size_t len)
{
	struct vdpa_pci_kept *k = pci->kept;

	if (k == NULL)
		return;
	pthread_mutex_lock(&k->lock);
	if (k->on && copy_bytes(&k->now.driver, record, len) < 0)
		end_keeping(k);
	rewrite(k);
	pthread_mutex_unlock(&k->lock);
}

void
vdpa_pci_keep_file(struct vdpa_pci *pci, const char *what, int fd)
{
	struct vdpa_pci_kept *k = pci->kept;

	if (k == NULL)
		return;
	pthread_mutex_lock(&k->lock);
	if (k->on && vdpa_restart_put(k->device, what, fd) < 0)
		end_keeping(k);
	pthread_mutex_unlock(&k->lock);
}

/* Read. */

static bool
read_bytes(struct bytes *to, const struct vdpa_tlv *tlv)
{
	return to->data == NULL && tlv->len > 0 && copy_bytes(to, tlv->data, tlv->len) == 0;
}

static bool
read_part(struct record *r, const struct vdpa_tlv *tlv)
{
	switch (tlv->type) {
	case PART_FUNCTION:
		if (tlv->len != sizeof(r->function) || r->function.name[0] != '\0')
			return false;
		memcpy(&r->function, tlv->data, sizeof(r->function));
		return r->function.name[0] != '\0' &&
		       memchr(r->function.name, '\0', sizeof(r->function.name)) != NULL;
	case PART_MAPPINGS:
		if (r->mappings != NULL || tlv->len % sizeof(r->mappings[0]) != 0)
			return false;
		r->mappings = malloc(tlv->len + 1);
		if (r->mappings == NULL)
			return false;
		memcpy(r->mappings, tlv->data, tlv->len);
		r->n_mappings = tlv->len / sizeof(r->mappings[0]);
		return true;
	case PART_HOLDERS:
		if (r->has_holders || tlv->len != sizeof(r->holders))
			return false;
		memcpy(&r->holders, tlv->data, sizeof(r->holders));
		r->has_holders = true;
		return true;
	case PART_DRIVER:
		return read_bytes(&r->driver, tlv);
	default:
		return read_bytes(&r->transport, tlv);
	}
}

static int
read_parts(struct record *r, const uint8_t *bytes, size_t len)
{
	struct vdpa_tlv_reader reader = {
		.data = bytes, .left = len, .what = "the function's record"};
	struct vdpa_tlv tlv;
	int rc;

	while ((rc = vdpa_tlv_next(&reader, &tlv)) == 1) {
		rc = 0;
		if (tlv.type < PART_FUNCTION || tlv.type > PART_LAST)
			rc = vdpa_tlv_unknown(&reader, &tlv, PART_LAST);
		else if (!read_part(r, &tlv))
			rc = vdpa_error(EPROTO, "part %u of the function's record is not one",
					tlv.type);
		if (rc < 0)
			return rc;
	}
	if (rc == 0 && (r->function.name[0] == '\0' || r->mappings == NULL))
		rc = vdpa_error(EPROTO, "the function's record is not whole");
	return rc;
}

/* What a former process has recorded of the function of this name. */
static int
read_former(const struct vdpa_pci *pci, const char *device, struct record *r)
{
	uint8_t *bytes = malloc(VDPA_RESTART_RECORD_MAX);
	int rc = bytes == NULL
			 ? vdpa_error(ENOMEM, "out of memory")
			 : vdpa_restart_read_part(device, PART, bytes, VDPA_RESTART_RECORD_MAX);

	if (rc >= 0)
		rc = read_parts(r, bytes, (size_t)rc);
	/* Smaller pages than 4 KiB no IOMMU has; the domain checks it by its own. */
	if (rc == 0)
		rc = vdpa_dma_kept_check(pci->name, 4096, r->mappings, r->n_mappings);
	if (rc == 0 && strcmp(r->function.name, pci->name) != 0)
		rc = vdpa_error(EPROTO, "its record is of another function");
	free(bytes);
	if (rc < 0)
		record_free(r);
	return rc;
}

/* Around vdpa_pci_open(). */

int
vdpa_pci_kept_begin(struct vdpa_pci *pci, const char *device)
{
	struct vdpa_pci_kept *k;
	int rc;

	if (device == NULL || !vdpa_restart_is_on() || pci->ops->keep == NULL)
		return 0;
	k = calloc(1, sizeof(*k));
	if (k == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", pci->name);
	k->pci = pci;
	snprintf(k->device, sizeof(k->device), "%s", device);
	(void)pthread_mutex_init(&k->lock, NULL);
	pci->kept = k;
	rc = read_former(pci, device, &k->former);
	if (rc == 0) {
		k->is_left = true;
		return vdpa_pci_hold(pci);
	}
	/* The process that has handed it over goes on with it. */
	if (rc != -ENOENT && vdpa_restart_holds())
		return rc;
	if (rc != -ENOENT)
		VDPA_LOG(WARNING, "%s: %s: starts anew: %s", device, pci->name,
			 vdpa_error_message());
	/* Whatever is there: the function is opened as any. */
	(void)pci->ops->keep(NULL, device, false);
	vdpa_restart_remove_part(device, PART);
	return 0;
}

const char *
vdpa_pci_left_device(const struct vdpa_pci *pci)
{
	return vdpa_pci_is_left(pci) ? pci->kept->device : NULL;
}

bool
vdpa_pci_left_unmapped(const struct vdpa_pci *pci)
{
	return vdpa_pci_is_left(pci) && pci->kept->former.n_mappings == 0;
}

int
vdpa_pci_kept_opened(struct vdpa_pci *pci, bool is_left)
{
	struct vdpa_pci_kept *k = pci->kept;
	const struct part_holders *h;
	int rc;

	if (k == NULL || !k->is_left)
		return 0;
	k->is_left = is_left;
	if (!is_left) {
		record_free(&k->former);
		return 0;
	}
	rc = vdpa_dma_kept_restore(pci->dma, k->former.mappings, k->former.n_mappings,
				   pci->info.maps_are_more, pci->ops->adopt);
	if (rc < 0)
		return rc;
	if (!vdpa_dma_kept_is_domain(pci->dma)) {
		rc = vdpa_error(EPROTO,
				"%s: nothing that was recorded is mapped by the files that were "
				"kept",
				pci->name);
		if (vdpa_pci_waits(pci))
			return rc;
		VDPA_LOG(WARNING, "%s: starts anew: %s", k->device, vdpa_error_message());
		/* Nothing of them is used: not even the files. */
		vdpa_pci_settle(pci, false);
		vdpa_restart_remove_part(k->device, PART);
		return -ESTALE;
	}
	h = &k->former.holders;
	if (k->former.has_holders) {
		const struct vdpa_peer first = {.known = h->known != 0,
						.uid = h->uid,
						.pid = h->pid,
						.started = h->started};

		vdpa_page_holders_restore(vdpa_dma_page_holders(pci->dma), &first, h->several != 0);
	}
	return 0;
}

int
vdpa_pci_kept_identified(struct vdpa_pci *pci)
{
	struct vdpa_pci_kept *k = pci->kept;
	const struct part_function *f;
	int rc;

	if (!vdpa_pci_is_left(pci))
		return 0;
	f = &k->former.function;
	/* As if they were parked: whoever enables as many has them as they are. */
	pci->msix_parked = f->vectors;
	if (f->vendor == pci->id.vendor && f->device == pci->id.device &&
	    f->subsystem_vendor == pci->id.subsystem_vendor && f->subsystem == pci->id.subsystem &&
	    f->vectors <= pci->nr_vectors)
		return 0;
	rc = vdpa_error(EPROTO, "%s: it is not the function that was recorded", pci->name);
	if (vdpa_pci_waits(pci))
		return rc;
	VDPA_LOG(WARNING, "%s: starts anew: %s", k->device, vdpa_error_message());
	vdpa_pci_settle(pci, false);
	return 0;
}

void
vdpa_pci_kept_end(struct vdpa_pci *pci)
{
	struct vdpa_pci_kept *k = pci->kept;

	if (k == NULL)
		return;
	if (k->hears) {
		vdpa_dma_keep(pci->dma, NULL, NULL);
		vdpa_page_holders_note(vdpa_dma_page_holders(pci->dma), NULL, NULL);
	}
	/* The next process has nothing to do with it; or opens it by its files all the same, as the
	 * kernel lets nobody else while the store has them. */
	if (k->on && !pci->is_left_behind && vdpa_restart_leaves() &&
	    !vdpa_restart_is_given_up(k->device)) {
		pci->ops->leave(pci->handle);
	} else if (k->on && !pci->is_left_behind) {
		k->on = false;
		vdpa_restart_remove_part(k->device, PART);
		(void)pci->ops->keep(pci->handle, k->device, false);
	}
}

void
vdpa_pci_kept_free(struct vdpa_pci *pci)
{
	struct vdpa_pci_kept *k = pci->kept;

	if (k == NULL)
		return;
	record_free(&k->former);
	record_free(&k->now);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

/* The next process. */

bool
vdpa_pci_is_left(const struct vdpa_pci *pci)
{
	return pci->kept != NULL && pci->kept->is_left;
}

const void *
vdpa_pci_left_record(const struct vdpa_pci *pci, size_t *len)
{
	*len = pci->kept->former.driver.len;
	return pci->kept->former.driver.data;
}

const void *
vdpa_pci_left_transport(const struct vdpa_pci *pci, size_t *len)
{
	*len = pci->kept->former.transport.len;
	return pci->kept->former.transport.data;
}

unsigned int
vdpa_pci_left_vectors(const struct vdpa_pci *pci)
{
	return pci->kept->former.function.vectors;
}

bool
vdpa_pci_left_is_master(struct vdpa_pci *pci)
{
	uint16_t command;

	return vdpa_pci_config_read16(pci, PCI_COMMAND, &command) == 0 &&
	       (command & (PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY)) ==
		       (PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
}

int
vdpa_pci_left_file(struct vdpa_pci *pci, const char *what)
{
	return vdpa_restart_take(pci->kept->device, what);
}

/* As it is after it was opened: what fails here is found out by the function's answers. */
static void
begin_anew(struct vdpa_pci *pci)
{
	pci->msix_parked = 0;
	/* It fails where there is none. */
	if (pci->ops->dma_log_stop != NULL)
		(void)pci->ops->dma_log_stop(pci->handle);
	for (unsigned int i = 0; i < VFIO_PCI_NUM_IRQS; i++)
		if (pci->info.nr_irqs[i] > 0)
			(void)pci->ops->set_irqs(pci->handle, i, 0, 0, NULL);
	(void)vdpa_pci_set_bus_master(pci, false);
	if (pci->info.can_reset)
		(void)pci->ops->reset(pci->handle);
	pthread_mutex_lock(&pci->lock);
	pci->command_known = false;
	pthread_mutex_unlock(&pci->lock);
	(void)vdpa_pci_enable_memory(pci);
}

void
vdpa_pci_settle(struct vdpa_pci *pci, bool taken_over)
{
	struct vdpa_pci_kept *k = pci->kept;

	if (!vdpa_pci_is_left(pci))
		return;
	k->is_left = false;
	if (!taken_over) {
		if (vdpa_pci_let_be(pci))
			return;
		begin_anew(pci);
	}
	if (!vdpa_pci_waits(pci))
		vdpa_pci_kept_goes(pci);
}

void
vdpa_pci_left_idle(struct vdpa_pci *pci)
{
	pci->is_idle = true;
}

void
vdpa_pci_kept_goes(struct vdpa_pci *pci)
{
	struct vdpa_pci_kept *k = pci->kept;

	if (k->is_left)
		return;
	(void)vdpa_dma_kept_drop(pci->dma);
	record_free(&k->former);
}

/* The end. */

static int
left_read(void *handle, unsigned int region, uint64_t offset, void *buf, size_t len)
{
	memset(buf, 0, len);
	return 0;
}

static int
left_write(void *handle, unsigned int region, uint64_t offset, const void *buf, size_t len)
{
	return 0;
}

static int
left_set_irqs(void *handle, unsigned int index, unsigned int start, unsigned int count,
	      const int *fds)
{
	return 0;
}

static int
left_call(void *handle)
{
	return 0;
}

static int
left_log_start(void *handle, const struct vdpa_dma_range *ranges, unsigned int n)
{
	return 0;
}

static int
left_log_report(void *handle, uint64_t iova, uint64_t size, uint64_t *bitmap)
{
	return 0;
}

static int
left_unmask(void *handle, unsigned int index)
{
	return 0;
}

int
vdpa_pci_kept_leave(struct vdpa_pci *pci)
{
	struct vdpa_pci_kept *k = pci->kept;
	struct vdpa_pci_transport *ops = pci->left_ops;

	if (ops == NULL)
		ops = malloc(sizeof(*ops));
	if (ops == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", pci->name);
	/* What follows is this process' own end. */
	pthread_mutex_lock(&k->lock);
	k->on = k->is_left = false;
	pthread_mutex_unlock(&k->lock);
	if (vdpa_pci_waits(pci))
		vdpa_restart_lost(k->device);
	pci->ops->leave(pci->handle);
	*ops = *pci->ops;
	ops->read = left_read;
	ops->write = ops->post = left_write;
	ops->set_irqs = left_set_irqs;
	ops->unmask_irq = left_unmask;
	ops->reset = left_call;
	ops->cut_off = left_call;
	ops->dma_log_probe = NULL;
	ops->dma_log_start = left_log_start;
	ops->dma_log_report = left_log_report;
	ops->dma_log_stop = left_call;
	pthread_mutex_lock(&pci->lock);
	pci->left_ops = ops;
	pci->own_ops = pci->ops;
	__atomic_store_n(&pci->ops, ops, __ATOMIC_RELEASE);
	__atomic_store_n(&pci->is_left_behind, true, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&pci->lock);
	return 0;
}

int
vdpa_pci_leave(struct vdpa_pci *pci)
{
	struct vdpa_pci_kept *k = pci->kept;
	bool on;

	if (k == NULL)
		return vdpa_error(EOPNOTSUPP, "%s: is not kept", pci->name);
	pthread_mutex_lock(&k->lock);
	on = k->on && !vdpa_restart_is_given_up(k->device);
	k->on = false;
	pthread_mutex_unlock(&k->lock);
	return on ? vdpa_pci_kept_leave(pci) : vdpa_error(EOPNOTSUPP, "%s: is not kept", pci->name);
}
