/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * PCI functions as management devices: which driver serves one, its words, and how a device comes
 * of an open function. A management device is there for its devices, and for the words that are
 * being checked; which driver serves a device is written down in the device's place on the bus.
 *
 * A driver that is asked to make a device cannot be unregistered: it is in that place before the
 * management lock is given back, and vdpa_unregister_driver() waits for it.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error_priv.h"
#include "pci_kept.h"
#include "pci_match.h"
#include "pci_name.h"
#include "pci_parent.h"
#include "registry.h"

#define TIMEOUT_MS_MAX 10000

const char vdpa_pci_parent_help[] =
	"PCI functions, of this machine or by a vfio-user server on a socket";

const struct vdpa_param vdpa_pci_parent_params[] = {
	{.name = "driver",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "NAME",
	 .max = VDPA_NAME_MAX - 1,
	 .help = "driver that serves it, whatever its ids (default: the one that matches them "
		 "best)"},
	{.name = "timeout_ms",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "MS",
	 .min = 1,
	 .max = TIMEOUT_MS_MAX,
	 .help = "longest wait for a vfio-user server's socket, an answer, a reset or a command "
		 "(default 1000)"},
	{0},
};
_Static_assert(VDPA_PCI_TIMEOUT_MS == 1000, "the help says so");

struct pci_parent {
	struct vdpa_mgmt_dev mdev;
	char name[VDPA_MGMTDEV_NAME_MAX];
};

static void
parent_dev_del(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdev)
{
	vdpa_unregister_device(vdev);
}

/* Without dev_add: vdpa_pci_parent_add() makes devices, for which args are not enough. */
static const struct vdpa_mgmt_dev_ops parent_ops = {.dev_del = parent_dev_del};

int
vdpa_pci_parent_new(const char *name, struct vdpa_mgmt_dev **out)
{
	struct pci_parent *parent = calloc(1, sizeof(*parent));
	int rc;

	if (parent == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	snprintf(parent->name, sizeof(parent->name), "%s", name);
	parent->mdev = (struct vdpa_mgmt_dev){
		.name = parent->name,
		.help = vdpa_pci_parent_help,
		.ops = &parent_ops,
		.params = vdpa_pci_parent_params,
		.priv = parent,
	};
	rc = vdpa_mgmtdev_register(&parent->mdev);
	if (rc < 0) {
		free(parent);
		return rc;
	}
	*out = &parent->mdev;
	return 0;
}

void
vdpa_pci_parent_free(struct vdpa_mgmt_dev *mdev)
{
	vdpa_mgmtdev_unregister(mdev);
	free(mdev->priv);
}

bool
vdpa_pci_parent_is(const struct vdpa_mgmt_dev *mdev)
{
	return mdev->ops == &parent_ops;
}

/* The words, as one driver takes them. */
static int
parse_for(struct vdpa_add_request *req, struct vdpa_driver *drv)
{
	req->drv = drv;
	return vdpa_words_parse(req, &drv->params, 1);
}

/* The words, each as the first driver takes it that knows it: for the word `driver`, and for a
 * message that lists the words of all. */
static int
parse_for_all(struct vdpa_add_request *req)
{
	const struct vdpa_param **params;
	const struct vdpa_driver *drv;
	unsigned int n = 0;
	int rc;

	TAILQ_FOREACH (drv, &vdpa_registry.drivers, next)
		n++;
	params = calloc(n + 1, sizeof(*params));
	if (params == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	n = 0;
	TAILQ_FOREACH (drv, &vdpa_registry.drivers, next)
		if (drv->pci_ids != NULL)
			params[n++] = drv->params;
	rc = vdpa_words_parse(req, params, n);
	free(params);
	return rc;
}

/* The words where nobody knows yet which driver it will be: as one of them takes them. */
static int
parse_for_any(struct vdpa_add_request *req)
{
	struct vdpa_driver *drv, *first = NULL;
	int rc;

	TAILQ_FOREACH (drv, &vdpa_registry.drivers, next) {
		if (drv->pci_ids == NULL)
			continue;
		if (parse_for(req, drv) == 0)
			return 0;
		if (first == NULL)
			first = drv;
	}
	rc = parse_for_all(req);
	/* Words of several drivers, which nobody takes together. */
	return rc == 0 && first != NULL ? parse_for(req, first) : rc;
}

int
vdpa_pci_parent_parse(struct vdpa_add_request *req)
{
	struct vdpa_pci_place place = {.rank = 0};
	struct vdpa_driver *drv = NULL;
	struct vdpa_pci_id id;
	const char *named;

	(void)parse_for_all(req);
	named = vdpa_args_str(&req->args, "driver", NULL);
	if (named != NULL) {
		drv = vdpa_pci_match_named(named);
		return drv != NULL ? parse_for(req, drv) : -EINVAL;
	}
	/* One that is not there, or that nobody serves, is refused when it is to be opened. */
	if (vdpa_pci_look_up(req->mdev->name, &id) == 0)
		drv = vdpa_pci_match_next(&id, &place);
	return drv != NULL ? parse_for(req, drv) : parse_for_any(req);
}

/*
 * The driver to ask next, named or behind *place, and the words as it takes them; NULL: there is no
 * further one. With it in the device's place on the bus it stays until that is given back.
 */
static struct vdpa_driver *
take_driver(struct vdpa_add_request *req, const struct vdpa_pci_id *id, const char *named,
	    struct vdpa_pci_place *place, int *rc)
{
	const struct vdpa_frontend *fe = req->fe;
	struct vdpa_driver *drv;

	*rc = 0;
	vdpa_registry_lock();
	drv = named != NULL ? vdpa_pci_match_named(named) : vdpa_pci_match_next(id, place);
	if (drv != NULL) {
		vdpa_bus_set_driver(req->entry, drv);
		*rc = parse_for(req, drv);
	}
	/* It is in the device's place too. */
	if (drv != NULL && *rc == 0 && req->fe != fe)
		*rc = vdpa_error(
			EINVAL,
			"%s: the driver %s has words of a front end: name the front end by "
			"frontend NAME",
			req->name, drv->name);
	vdpa_registry_unlock();
	return drv;
}

static int
ask(struct vdpa_driver *drv, const struct vdpa_add_request *req, struct vdpa_pci *pci)
{
	unsigned int errors = vdpa_error_count();
	struct vdpa_error_saved error;
	int rc;

	rc = drv->pci_add(drv, req->mdev, pci, req->name, &req->args);
	if (rc == 0)
		return 0;
	if (vdpa_error_count() == errors)
		vdpa_error(rc, "%s: the driver %s: %s", vdpa_pci_name(pci), drv->name,
			   strerror(-rc));
	/* What it has left behind does not reach the next one. */
	vdpa_error_save(&error);
	(void)vdpa_pci_event_set(pci, VDPA_PCI_EVENT_ERROR, -1);
	(void)vdpa_pci_event_set(pci, VDPA_PCI_EVENT_REMOVE, -1);
	vdpa_pci_msix_disable(pci);
	(void)vdpa_pci_intx_set(pci, -1);
	(void)vdpa_pci_set_bus_master(pci, false);
	vdpa_error_restore(&error);
	return rc;
}

/* Until one of the drivers makes the device, or says why it cannot. */
static int
ask_drivers(struct vdpa_add_request *req, struct vdpa_pci *pci, const char *named)
{
	const struct vdpa_pci_id *id = vdpa_pci_get_id(pci);
	struct vdpa_pci_place place = {.rank = 0};
	struct vdpa_error_saved error;
	struct vdpa_driver *drv;
	char asked[256] = "";
	size_t used = 0;
	int rc;

	for (;;) {
		drv = take_driver(req, id, named, &place, &rc);
		if (drv == NULL)
			break;
		if (used < sizeof(asked))
			used += (size_t)snprintf(asked + used, sizeof(asked) - used, "%s%s",
						 used > 0 ? ", " : "", drv->name);
		if (rc == 0)
			rc = ask(drv, req, pci);
		/* One that is gone is not another driver's. */
		if (rc != -ENODEV || named != NULL || vdpa_pci_error(pci) < 0)
			return rc;
		vdpa_error_save(&error);
	}
	if (used > 0)
		return vdpa_error(ENODEV,
				  "%s; every driver that matches was asked: %s; driver NAME has "
				  "another one try",
				  error.text, asked);
	return named != NULL ? -EINVAL : vdpa_pci_match_none(vdpa_pci_name(pci), id);
}

/* Before it is opened, which may take something from another driver's hands: there is a driver for
 * it, as far as one can tell. */
static int
check_served(const char *name)
{
	struct vdpa_pci_place place = {.rank = 0};
	struct vdpa_pci_id id;
	int rc = 0;

	if (vdpa_pci_look_up(name, &id) < 0)
		return 0;
	vdpa_registry_lock();
	if (vdpa_pci_match_next(&id, &place) == NULL)
		rc = vdpa_pci_match_none(name, &id);
	vdpa_registry_unlock();
	return rc;
}

int
vdpa_pci_parent_add(struct vdpa_add_request *req)
{
	const struct vdpa_pci_params params = {
		.vm = vdpa_args_str(&req->args, "vm", NULL),
		.timeout_ms = (unsigned int)vdpa_args_u64(&req->args, "timeout_ms", 0),
	};
	const char *named = vdpa_args_str(&req->args, "driver", NULL);
	struct vdpa_error_saved error;
	struct vdpa_pci *pci;
	int rc;

	rc = named == NULL ? check_served(req->mdev->name) : 0;
	if (rc == 0)
		rc = vdpa_pci_open_for(req->mdev->name, &params, req->name, &pci);
	if (rc < 0)
		return rc;
	rc = ask_drivers(req, pci, named);
	if (rc == 0)
		return 0;
	vdpa_error_save(&error);
	vdpa_pci_close(pci);
	vdpa_error_restore(&error);
	return rc;
}
