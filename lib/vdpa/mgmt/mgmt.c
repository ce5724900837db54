/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Management: the calls that create, change and delete devices by words (add_words.c) with what is
 * registered (registry.c).
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "add_words.h"
#include "device_priv.h"
#include "kept_words.h"
#include "pci_parent.h"
#include "registry.h"
#include "restart.h"
#include "snapshot.h"
#include "vdpa_fd.h"

/* Descriptors that a device and its front end take before anybody connects, at most. */
#define DEVICE_FDS 8

/* Parse the words and take the name, which keeps the words. */
static int
reserve(const char *words, struct vdpa_add_request *req)
{
	char *kept = NULL;
	int rc;

	vdpa_registry_lock();
	if (vdpa_event_loop_control() == NULL)
		rc = vdpa_error(EPROTO, "uvdpa is not initialised");
	else if (vdpa_registry.closing)
		rc = vdpa_error(ESHUTDOWN, "uvdpa is being cleaned up");
	else
		rc = vdpa_words_parse_add(words, req);
	if (rc == 0) {
		kept = vdpa_kept_words_text(&req->args);
		rc = kept != NULL ? vdpa_bus_reserve(req->name, req->mdev, req->fe, &req->entry)
				  : -ENOMEM;
		if (rc < 0) {
			free(kept);
			vdpa_registry_put(req->mdev);
			vdpa_words_free(&req->words);
		} else {
			vdpa_bus_set_words(req->entry, kept);
			/* The words are described in the driver's tables, which may be a plugin's.
			 */
			if (req->drv != NULL)
				vdpa_bus_set_driver(req->entry, req->drv);
		}
	}
	vdpa_registry_unlock();
	return rc;
}

/* The link, where words say what it is: a front end may show it in its own way. */
static int
show_link(struct vdpa_device *vdev, const struct vdpa_frontend *fe, const struct vdpa_args *args)
{
	const struct vdpa_arg *link = vdpa_args_find(args, "link");

	if (link == NULL || link->choice == NULL || fe == NULL || fe->ops->set_link == NULL)
		return 0;
	return fe->ops->set_link(vdev, strcmp(link->choice->name, "up") == 0);
}

static int
bind_frontend(struct vdpa_device *vdev, struct vdpa_frontend *fe, const struct vdpa_args *args)
{
	int rc;

	if (fe->ops->match != NULL && !fe->ops->match(vdev))
		return vdpa_error(ENOTSUP, "%s: the front end %s cannot serve this device",
				  vdev->name, fe->name);
	rc = fe->ops->probe(vdev, args);
	if (rc == 0)
		vdpa_device_set_frontend(vdev, fe);
	return rc == 0 ? show_link(vdev, fe, args) : rc;
}

/* What the words ask of a device that is there now. */
static int
check_migration(struct vdpa_device *vdev)
{
	if (vdev->core->migration != VDPA_MIGRATION_LOG || vdev->core->can.log)
		return 0;
	return vdpa_error(
		EOPNOTSUPP,
		"%s: migration log: the device has no dirty log; `migration auto` has its "
		"queues logged by relays or shadows, `migration off` offers no log",
		vdev->name);
}

/* What a named parent makes is known when it has made one. */
static void
describe_parent(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdev)
{
	vdpa_registry_lock();
	if (mdev->named && mdev->device_id == 0) {
		mdev->device_id = vdpa_get_device_id(vdev);
		mdev->supported_features = vdpa_get_device_features(vdev);
		mdev->max_supported_vqs = vdpa_get_vq_count(vdev);
	}
	vdpa_registry_unlock();
}

/* The device, with a reference, as a member of the VM that was named. */
static int
create_device(struct vdpa_add_request *req, struct vdpa_device **out)
{
	const char *vm = vdpa_args_str(&req->args, "vm", NULL);
	struct vdpa_vm_member *member = NULL;
	struct vdpa_device *vdev;
	int rc;

	rc = vdpa_fd_room(DEVICE_FDS, req->name);
	if (rc == 0 && vm != NULL)
		rc = vdpa_vm_join(vm, req->name, &member);
	if (rc == 0)
		rc = vdpa_pci_parent_is(req->mdev)
			     ? vdpa_pci_parent_add(req)
			     : req->mdev->ops->dev_add(req->mdev, req->name, &req->args);
	if (rc < 0)
		goto err_vm;
	vdev = vdpa_find_device(req->name);
	if (vdev == NULL) {
		rc = vdpa_error(ENODEV, "%s: %s did not register it", req->name, req->mdev->name);
		goto err_vm;
	}
	/* Before anybody gives it memory. */
	__atomic_store_n(&vdev->core->vm, member, __ATOMIC_RELEASE);
	vdpa_device_set_migration(vdev, vdpa_words_migration(&req->args));
	*out = vdev;
	return 0;

err_vm:
	vdpa_vm_leave(member);
	return rc;
}

/* Make the device and have it served. The name is ours; no lock is held. */
static int
make_device(struct vdpa_add_request *req)
{
	struct vdpa_device *vdev = NULL;
	int rc;

	rc = create_device(req, &vdev);
	if (rc < 0)
		return rc;
	describe_parent(req->mdev, vdev);
	rc = check_migration(vdev);
	if (rc == 0 && req->fe != NULL)
		rc = bind_frontend(vdev, req->fe, &req->args);
	if (rc < 0) {
		struct vdpa_error_saved error;

		vdpa_error_save(&error);
		req->mdev->ops->dev_del(req->mdev, vdev);
		vdpa_error_restore(&error);
	}
	vdpa_put_device(vdev);
	return rc;
}

static int
add_device(const char *words)
{
	struct vdpa_add_request req;
	int rc;

	rc = reserve(words, &req);
	if (rc < 0)
		return rc;
	vdpa_restart_set_words(req.name, req.entry->words);
	rc = make_device(&req);
	if (rc < 0)
		vdpa_restart_forget_words(req.name);
	vdpa_registry_release(req.entry);
	vdpa_words_free(&req.words);
	return rc;
}

static int
delete_device(const char *name)
{
	struct vdpa_bus_entry *e;
	struct vdpa_device *vdev;
	int rc;

	rc = vdpa_bus_claim(name, VDPA_BUS_REMOVING, &e, &vdev);
	if (rc < 0)
		return rc;
	rc = vdpa_registry_withdraw(vdev, false);
	if (rc == 0) {
		vdpa_registry_remove(e, vdev);
	} else {
		vdpa_put_device(vdev);
		vdpa_registry_release(e);
	}
	return rc;
}

/* By whoever has claimed e, vdev's place. */
static int
set_attr(struct vdpa_bus_entry *e, struct vdpa_device *vdev, const struct vdpa_words *words)
{
	struct vdpa_mgmt_dev *mdev = vdev->mdev;
	struct vdpa_param_table table = {.params = mdev != NULL ? mdev->attr_params : NULL};
	struct vdpa_args args;
	char *kept;
	int rc;

	if (table.params == NULL || mdev->ops->dev_set_attr == NULL)
		return vdpa_error(EOPNOTSUPP, "%s: has no attributes to set", vdev->name);
	rc = vdpa_args_parse(words, 1, &table, 1, &args);
	if (rc < 0)
		return rc;
	if (args.n == 0)
		return vdpa_error(EINVAL, "%s: no attribute is given", vdev->name);
	rc = vdpa_kept_words_merge(e, &args, &kept);
	if (rc < 0)
		return rc;
	vdpa_device_lock(vdev);
	rc = mdev->ops->dev_set_attr(mdev, vdev, &args);
	vdpa_device_unlock(vdev);
	if (rc == 0) {
		if (kept != NULL)
			vdpa_restart_set_words(vdev->name, kept);
		vdpa_bus_set_words(e, kept);
		vdpa_snapshot_refresh(vdev);
	} else {
		free(kept);
	}
	return rc == 0 ? show_link(vdev, vdev->core->fe, &args) : rc;
}

static int
set_device(const char *text)
{
	struct vdpa_bus_entry *e;
	struct vdpa_device *vdev;
	struct vdpa_words words;
	int rc;

	rc = vdpa_words_split(text, &words);
	if (rc < 0)
		return rc;
	rc = vdpa_bus_claim(words.n > 0 ? words.word[0] : "", VDPA_BUS_CHANGING, &e, &vdev);
	if (rc == 0) {
		rc = set_attr(e, vdev, &words);
		vdpa_put_device(vdev);
		vdpa_registry_release(e);
	}
	vdpa_words_free(&words);
	return rc;
}

/* Devices that are being handed over stay as they are: what is changed now would be lost. */
static int
change(int (*fn)(const char *text), const char *text)
{
	int rc = vdpa_restart_change_begins();

	if (rc < 0)
		return rc;
	rc = fn(text);
	vdpa_restart_change_ends();
	return rc;
}

int
vdpa_dev_add(const char *words)
{
	return change(add_device, words);
}

int
vdpa_dev_del(const char *name)
{
	return change(delete_device, name);
}

int
vdpa_dev_set(const char *text)
{
	return change(set_device, text);
}
