/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A PCI function: opened by name over a transport, what its header says, the command register,
 * reset, close. Owns struct vdpa_pci. Checks what a transport has found out before it is used.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_common.h>

#include "pci_device.h"
#include "pci_kept.h"
#include "vdpa_error.h"
#include "vdpa_log.h"

/* The function as a whole. */

const char *
vdpa_pci_name(const struct vdpa_pci *pci)
{
	return pci->name;
}

const struct vdpa_pci_id *
vdpa_pci_get_id(const struct vdpa_pci *pci)
{
	return &pci->id;
}

unsigned int
vdpa_pci_timeout_ms(const struct vdpa_pci *pci)
{
	return pci->timeout_ms;
}

int
vdpa_pci_numa_node(const struct vdpa_pci *pci)
{
	return pci->info.numa_node;
}

struct vdpa_dma_domain *
vdpa_pci_dma(struct vdpa_pci *pci)
{
	return pci->dma;
}

/* With the lock. Nobody else writes the register, so it is read once, and again after a reset or an
 * access that has failed. */
static int
change_command(struct vdpa_pci *pci, uint16_t set, uint16_t clear)
{
	uint16_t command;
	int ret;

	if (vdpa_pci_is_left_behind(pci))
		return 0;
	if (vdpa_pci_error(pci) != 0)
		return vdpa_pci_gone_error(pci);
	if (!pci->command_known) {
		ret = vdpa_pci_config_read16(pci, PCI_COMMAND, &pci->command);
		if (ret < 0)
			return ret;
		pci->command_known = true;
	}
	command = (uint16_t)((pci->command | set) & ~clear);
	if (command == pci->command)
		return 0;
	ret = vdpa_pci_config_write16(pci, PCI_COMMAND, command);
	pci->command = command;
	pci->command_known = ret == 0;
	return ret;
}

static int
set_command(struct vdpa_pci *pci, uint16_t set, uint16_t clear)
{
	int ret;

	pthread_mutex_lock(&pci->lock);
	ret = change_command(pci, set, clear);
	pthread_mutex_unlock(&pci->lock);
	return ret;
}

int
vdpa_pci_enable_memory(struct vdpa_pci *pci)
{
	return set_command(pci, PCI_COMMAND_MEMORY, PCI_COMMAND_MASTER);
}

static void
forget_command(struct vdpa_pci *pci)
{
	pthread_mutex_lock(&pci->lock);
	pci->command_known = false;
	pthread_mutex_unlock(&pci->lock);
}

int
vdpa_pci_set_bus_master(struct vdpa_pci *pci, bool on)
{
	if (on)
		return set_command(pci, PCI_COMMAND_MASTER, 0);
	return vdpa_pci_is_held(pci) ? vdpa_pci_held_error(pci)
				     : set_command(pci, 0, PCI_COMMAND_MASTER);
}

int
vdpa_pci_reset(struct vdpa_pci *pci)
{
	unsigned int errors_before = vdpa_error_count();
	int ret;

	if (!pci->info.can_reset)
		return vdpa_error(EOPNOTSUPP, "%s: the function cannot be reset", pci->name);
	if (vdpa_pci_is_held(pci))
		return vdpa_pci_held_error(pci);
	vdpa_pci_irqs_off(pci);
	ret = vdpa_pci_set_bus_master(pci, false);
	if (ret < 0)
		return ret;
	ret = vdpa_pci_ops(pci)->reset(pci->handle);
	forget_command(pci);
	if (ret < 0) {
		if (vdpa_pci_error(pci) != 0)
			return vdpa_pci_gone_error(pci);
		return vdpa_error_count() != errors_before
			       ? ret
			       : vdpa_error(ret, "%s: reset: %s", pci->name, strerror(-ret));
	}
	return vdpa_pci_enable_memory(pci);
}

int
vdpa_pci_cut_off(struct vdpa_pci *pci)
{
	int ret;

	if (vdpa_pci_is_held(pci))
		return vdpa_pci_held_error(pci);
	vdpa_pci_irqs_off(pci);
	(void)vdpa_pci_set_bus_master(pci, false);
	vdpa_pci_gone(pci, EIO,
		      "%s: does not reset, and is cut off from memory that others use; delete the "
		      "device",
		      pci->name);
	ret = vdpa_pci_cut_windows(pci);
	if (ret < 0)
		return ret;
	if (vdpa_pci_ops(pci)->cut_off == NULL)
		return vdpa_error(EOPNOTSUPP, "%s: the transport cannot cut it off", pci->name);
	return vdpa_pci_ops(pci)->cut_off(pci->handle);
}

/* What the function says that it is; it must answer, and be one that a driver can drive. */
static int
read_header(struct vdpa_pci *pci)
{
	struct vdpa_pci_id *id = &pci->id;
	uint32_t word;
	uint8_t type;
	int ret;

	ret = vdpa_pci_config_read32(pci, PCI_VENDOR_ID, &word);
	if (ret < 0)
		return ret;
	id->vendor = (uint16_t)word;
	id->device = (uint16_t)(word >> 16);
	ret = vdpa_pci_config_read32(pci, PCI_CLASS_REVISION, &word);
	if (ret < 0)
		return ret;
	if (word == UINT32_MAX || id->vendor == UINT16_MAX)
		return vdpa_error(ENODEV,
				  "%s: the device does not answer, its configuration space reads "
				  "all ones; see that it has power and is plugged in",
				  pci->name);
	id->class_code = word >> 8;
	id->revision = (uint8_t)word;
	ret = vdpa_pci_config_read(pci, PCI_HEADER_TYPE, &type, sizeof(type));
	if (ret < 0)
		return ret;
	if ((type & PCI_HEADER_TYPE_MASK) != 0)
		return vdpa_error(ENOTSUP, "%s: is a bridge (header type %d), not a device",
				  pci->name, type & PCI_HEADER_TYPE_MASK);
	ret = vdpa_pci_config_read32(pci, PCI_SUBSYSTEM_VENDOR_ID, &word);
	if (ret < 0)
		return ret;
	id->subsystem_vendor = (uint16_t)word;
	id->subsystem = (uint16_t)(word >> 16);
	return 0;
}

/* Believe of the regions what can be. */
static int
check_bars(struct vdpa_pci *pci)
{
	bool upper = false; /* half of the BAR before */
	uint32_t word;
	int ret;

	for (unsigned int i = 0; i < VDPA_PCI_BARS; i++) {
		struct vdpa_pci_region *r = &pci->info.regions[i];

		if (upper) {
			upper = false;
			r->size = 0;
			continue;
		}
		if (r->size == 0)
			continue;
		ret = vdpa_pci_config_read32(pci, PCI_BASE_ADDRESS_0 + 4 * i, &word);
		if (ret < 0)
			return ret;
		if ((word & PCI_BASE_ADDRESS_SPACE_IO) != 0) {
			r->size = 0;
			continue;
		}
		upper = (word & PCI_BASE_ADDRESS_MEM_TYPE_MASK) == PCI_BASE_ADDRESS_MEM_TYPE_64;
		if ((r->size & (r->size - 1)) != 0)
			return vdpa_error(
				EPROTO,
				"%s: BAR %u has 0x%" PRIx64
				" bytes, which is no power of two; the device is at fault",
				pci->name, i, r->size);
		if (r->fd_offset > INT64_MAX || r->size > INT64_MAX - r->fd_offset)
			return vdpa_error(EPROTO, "%s: BAR %u of 0x%" PRIx64 " bytes wraps around",
					  pci->name, i, r->size);
		if (r->n_parts > VDPA_PCI_SPARSE_MAX)
			return vdpa_error(EPROTO, "%s: BAR %u has %u mappable parts, at most %d",
					  pci->name, i, r->n_parts, VDPA_PCI_SPARSE_MAX);
		for (unsigned int j = 0; j < r->n_parts; j++) {
			const struct vdpa_pci_mmap_part *p = &r->parts[j];

			if (p->offset > r->size || p->size > r->size - p->offset)
				return vdpa_error(EPROTO,
						  "%s: BAR %u: mappable part at 0x%" PRIx64
						  " of 0x%" PRIx64
						  " bytes ends outside its 0x%" PRIx64
						  "; the device is at fault",
						  pci->name, i, p->offset, p->size, r->size);
		}
	}
	return 0;
}

static void
pci_free(struct vdpa_pci *pci)
{
	vdpa_restart_waits_no_more(&pci->waiter);
	pthread_mutex_destroy(&pci->held_lock);
	pthread_mutex_destroy(&pci->gone_lock);
	pthread_mutex_destroy(&pci->lock);
	vdpa_pci_kept_free(pci);
	free(pci->left_ops);
	free(pci->name);
	free(pci);
}

static int
open_transport(struct vdpa_pci *pci, const struct vdpa_pci_params *params)
{
	int ret;

	pci->info = (struct vdpa_pci_info){.numa_node = -1};
	for (unsigned int i = 0; i < VDPA_PCI_REGIONS; i++)
		pci->info.regions[i].fd = -1;
	ret = pci->ops->open(pci, pci->name + strlen(pci->ops->prefix), params, &pci->info,
			     &pci->dma, &pci->handle);
	pci->config_size = RTE_MIN(pci->info.regions[VDPA_PCI_REGION_CONFIG].size,
				   (uint64_t)PCI_CFG_SPACE_EXP_SIZE);
	return ret;
}

int
vdpa_pci_open_for(const char *name, const struct vdpa_pci_params *params, const char *device,
		  struct vdpa_pci **out)
{
	static const struct vdpa_pci_params defaults = {.timeout_ms = 0};
	struct vdpa_pci *pci;
	int ret;

	pci = calloc(1, sizeof(*pci));
	if (pci == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", name);
	/* With default attributes neither can fail. */
	(void)pthread_mutex_init(&pci->lock, NULL);
	(void)pthread_mutex_init(&pci->gone_lock, NULL);
	(void)pthread_mutex_init(&pci->held_lock, NULL);
	for (unsigned int i = 0; i < RTE_DIM(pci->event_fd); i++)
		pci->event_fd[i] = -1;

	ret = vdpa_pci_resolve(name, &pci->ops, &pci->name);
	if (ret < 0)
		goto err_free;
	if (params == NULL)
		params = &defaults;
	pci->timeout_ms = params->timeout_ms != 0 ? params->timeout_ms : VDPA_PCI_TIMEOUT_MS;
	ret = vdpa_pci_kept_begin(pci, device);
	if (ret < 0)
		goto err_free;
	ret = open_transport(pci, params);
	if (ret < 0)
		goto err_free;
	ret = vdpa_pci_kept_opened(pci, pci->info.is_left);
	if (ret == -ESTALE) {
		(void)pci->ops->keep(NULL, device, false);
		pci->ops->close(pci->handle);
		ret = open_transport(pci, params);
		if (ret < 0)
			goto err_free;
	}
	if (ret < 0)
		goto err_close;
	if (pci->config_size < PCI_CFG_SPACE_SIZE) {
		ret = vdpa_error(EPROTO, "%s: configuration space of %u bytes, at least %d",
				 pci->name, pci->config_size, PCI_CFG_SPACE_SIZE);
		goto err_close;
	}
	ret = read_header(pci);
	if (ret < 0)
		goto err_close;
	ret = check_bars(pci);
	if (ret < 0)
		goto err_close;
	ret = vdpa_pci_msix_init(pci);
	if (ret < 0)
		goto err_close;
	ret = vdpa_pci_kept_identified(pci);
	if (ret < 0)
		goto err_close;
	ret = vdpa_pci_is_left(pci) ? 0 : vdpa_pci_enable_memory(pci);
	if (ret < 0)
		goto err_close;
	/* From here on a failure is logged; one before is the result. */
	pthread_mutex_lock(&pci->gone_lock);
	pci->opened = pci->error == 0;
	pthread_mutex_unlock(&pci->gone_lock);
	if (!pci->opened) {
		ret = vdpa_pci_gone_error(pci);
		goto err_close;
	}
	VDPA_LOG(INFO, "%s: %04x:%04x opened, %u MSI-X vectors", pci->name, pci->id.vendor,
		 pci->id.device, pci->nr_vectors);
	*out = pci;
	return 0;

err_close:
	/* It may be running. */
	vdpa_pci_hold_ends(pci);
	vdpa_pci_settle(pci, false);
	if (pci->kept != NULL && !vdpa_pci_is_left_behind(pci))
		(void)pci->ops->keep(NULL, device, false);
	pci->ops->close(pci->handle);
err_free:
	pci_free(pci);
	return ret;
}

int
vdpa_pci_open(const char *name, const struct vdpa_pci_params *params, struct vdpa_pci **out)
{
	return vdpa_pci_open_for(name, params, NULL, out);
}

void
vdpa_pci_close(struct vdpa_pci *pci)
{
	if (pci == NULL)
		return;
	vdpa_pci_hold_ends(pci);
	vdpa_pci_settle(pci, false);
	vdpa_pci_kept_end(pci);
	/* The caller's eventfds are not signalled any more. */
	(void)vdpa_pci_event_set(pci, VDPA_PCI_EVENT_ERROR, -1);
	(void)vdpa_pci_event_set(pci, VDPA_PCI_EVENT_REMOVE, -1);
	vdpa_pci_irqs_off(pci);
	if (vdpa_pci_error(pci) == 0 && vdpa_pci_set_bus_master(pci, false) == 0 &&
	    pci->info.can_reset && !pci->info.close_resets &&
	    vdpa_pci_ops(pci)->reset(pci->handle) < 0)
		VDPA_LOG(WARNING, "%s; closed without a reset", vdpa_error_message());
	vdpa_pci_unmap_windows(pci);
	vdpa_pci_ops(pci)->close(pci->handle);
	VDPA_LOG(INFO, "%s: %s", pci->name,
		 vdpa_pci_is_left_behind(pci) ? "left to the next process" : "closed");
	pci_free(pci);
}
