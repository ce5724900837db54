/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The front end "vfio-user" as the core sees it: its words, what becomes of a device that gets it,
 * and the list of its devices, by which telemetry finds them.
 *
 * Owns two loops: one for the clients, one that looks at doorbells, so that neither waits for the
 * other. The list's lock is never taken on them.
 */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <rte_bitops.h>
#include <rte_common.h>
#include <rte_lcore.h>

#include "model_fault.h"
#include "model.h"
#include "model_device.h"
#include "vdpa_log.h"

#define POLL_US_DEFAULT	 20u
#define POLL_US_MAX	 100000u
#define DELAY_MS_DEFAULT 500u
#define DELAY_MS_MAX	 60000u
#define NOTIFY_SHARED	 4u /* bytes between doorbells of one page */

static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;
static TAILQ_HEAD(, model_device) devices = TAILQ_HEAD_INITIALIZER(devices);
static struct vdpa_event_loop *server_loop;
static struct doorbell_watch watch = {.timer.fd = -1};

static bool
choice_is(const struct vdpa_args *args, const char *word, const char *value)
{
	const struct vdpa_arg *arg = vdpa_args_find(args, word);

	return arg != NULL && strcmp(arg->choice->name, value) == 0;
}

/* Two numbers of 16 bits in hexadecimal, as lspci -n shows them: "1af4:1041". */
static int
parse_ids(const struct vdpa_args *args, const char *word, uint32_t *ids)
{
	const char *text = vdpa_args_str(args, word, NULL);
	unsigned int vendor, device;
	int end = 0;

	*ids = 0;
	if (text == NULL)
		return 0;
	if (strlen(text) != 9 || strspn(text, "0123456789abcdefABCDEF") != 4 ||
	    sscanf(text, "%4x:%4x%n", &vendor, &device, &end) != 2 || end != 9)
		return vdpa_error(EINVAL, "%s '%s': expected is VENDOR:DEVICE, such as 1af4:1041",
				  word, text);
	*ids = (uint32_t)vendor << 16 | device;
	return *ids != 0 ? 0 : vdpa_error(EINVAL, "%s 0000:0000: no function has that", word);
}

static const struct vp_kind *
kind_of(const struct vdpa_args *args)
{
	static const struct vp_kind *const kinds[] = {&vp_kind_virtio, &vp_kind_ifcvf,
						      &vp_kind_octep};

	for (unsigned int i = 0; i < RTE_DIM(kinds); i++)
		if (choice_is(args, "function", kinds[i]->name))
			return kinds[i];
	return &vp_kind_virtio;
}

static enum vp_ring_state
ring_state_of(const struct vdpa_args *args)
{
	if (choice_is(args, "ring_state", "pair"))
		return VP_RING_STATE_PAIR;
	return choice_is(args, "ring_state", "queue") ? VP_RING_STATE_QUEUE : VP_RING_STATE_BY_ID;
}

/* Words that are of one kind of function only. */
static int
check_words(const struct vdpa_args *args, const struct vp_kind *kind)
{
	if (vdpa_args_has(args, "ring_state") && kind != &vp_kind_ifcvf)
		return vdpa_error(EINVAL, "ring_state is of the function ifcvf");
	if (vdpa_args_has(args, "ready_ms") && kind != &vp_kind_octep)
		return vdpa_error(EINVAL, "ready_ms is of the function octep");
	return 0;
}

static int
init_function(struct model_device *md, const struct vdpa_args *args)
{
	const struct vp_kind *kind = kind_of(args);
	uint16_t nvqs = vdpa_get_vq_count(md->vdev);
	uint32_t vectors = nvqs + 1u;
	struct vp_params params = {
		.kind = kind,
		.device_id = vdpa_get_device_id(md->vdev),
		/* DMA is to addresses that the client has mapped, not to physical ones. */
		.features = vdpa_get_device_features(md->vdev) | RTE_BIT64(VIRTIO_F_VERSION_1) |
			    RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM),
		.nvqs = nvqs,
		.queue_size_max = vdpa_get_vq_num_max(md->vdev),
		.notify_mult = VP_PAGE,
		.device_size = RTE_MIN(vdpa_get_config_size(md->vdev), (size_t)VP_DEVICE_MAX),
		.ring_state = ring_state_of(args),
		.ready_ms = (unsigned int)vdpa_args_u64(args, "ready_ms", 0),
		.fault = &md->fault,
		.delay_ms = &md->delay_ms,
		.ops = &model_vp_ops,
		.arg = md,
	};
	int rc = check_words(args, kind);

	if (kind->vectors_max != 0)
		vectors = RTE_MIN(vectors, (uint32_t)kind->vectors_max);
	params.vectors = (uint16_t)vdpa_args_u64(args, "vectors", vectors);
	if (choice_is(args, "notify", "shared"))
		params.notify_mult = RTE_MAX(NOTIFY_SHARED, kind->notify_shared);
	if (rc == 0)
		rc = parse_ids(args, "pci_id", &params.pci_id);
	if (rc == 0)
		rc = parse_ids(args, "pci_sub", &params.pci_sub);
	return rc < 0 ? rc : vp_init(&md->vp, &params);
}

static int
init_doorbells(struct model_device *md, const struct vdpa_args *args)
{
	bool trap = choice_is(args, "doorbell", "trap");
	unsigned int poll_us = (unsigned int)vdpa_args_u64(args, "poll_us", POLL_US_DEFAULT);

	if (trap && vdpa_args_has(args, "poll_us"))
		return vdpa_error(EINVAL, "poll_us is of doorbells that are polled");
	return doorbells_init(&md->doorbells, &watch, md->vp.params.nvqs, md->vp.params.notify_mult,
			      vp_notify_offset(&md->vp), md->vp.notify_len, trap ? 0 : poll_us,
			      md->vp.kind->flags);
}

static int
vfio_user_probe(struct vdpa_device *vdev, const struct vdpa_args *args)
{
	const char *path = vdpa_args_str(args, "vfio_user", NULL);
	struct vfu_params server;
	struct model_device *md;
	int rc;

	if (path == NULL)
		return vdpa_error(EINVAL, "the front end vfio-user needs vfio_user PATH");
	md = calloc(1, sizeof(*md));
	if (md == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	md->vdev = vdev;
	md->loop = server_loop;
	md->delay_ms = (unsigned int)vdpa_args_u64(args, "delay_ms", DELAY_MS_DEFAULT);
	md->path = strdup(path);
	if (md->path == NULL) {
		rc = vdpa_error(ENOMEM, "out of memory");
		goto err_free;
	}
	rc = model_fault_parse(vdpa_args_str(args, "fault", "none"), &md->fault);
	if (rc < 0)
		goto err_free;
	rc = init_function(md, args);
	if (rc < 0)
		goto err_free;
	rc = init_doorbells(md, args);
	if (rc < 0)
		goto err_function;
	rc = model_device_init(md);
	if (rc < 0)
		goto err_device;
	rc = model_faults_init(md);
	if (rc < 0)
		goto err_faults;
	/* Clients may come from now on. */
	vdpa_set_drvdata(vdev, md);
	server = (struct vfu_params){.name = vdev->name,
				     .path = md->path,
				     .loop = md->loop,
				     .ops = &model_vfu_ops,
				     .arg = md,
				     .fault = &md->fault,
				     .delay_ms = &md->delay_ms};
	rc = vfu_server_create(&server, &md->server);
	if (rc < 0)
		goto err_server;
	pthread_mutex_lock(&devices_lock);
	TAILQ_INSERT_TAIL(&devices, md, next);
	pthread_mutex_unlock(&devices_lock);
	return 0;

err_server:
	vdpa_set_drvdata(vdev, NULL);
err_faults:
	model_faults_fini(md);
err_device:
	model_device_fini(md);
	doorbells_fini(&md->doorbells);
err_function:
	vp_fini(&md->vp);
err_free:
	free(md->path);
	free(md);
	return rc;
}

static void
vfio_user_remove(struct vdpa_device *vdev)
{
	struct model_device *md = vdpa_get_drvdata(vdev);

	if (md == NULL)
		return;
	pthread_mutex_lock(&devices_lock);
	TAILQ_REMOVE(&devices, md, next);
	pthread_mutex_unlock(&devices_lock);
	vfu_server_stop(md->server);
	vdpa_set_drvdata(vdev, NULL);
	model_faults_fini(md);
	/* Tasks may hang up once more. */
	model_device_fini(md);
	vfu_server_destroy(md->server);
	doorbells_fini(&md->doorbells);
	vp_fini(&md->vp);
	free(md->path);
	free(md);
}

static void
vfio_user_config_changed(struct vdpa_device *vdev)
{
	struct model_device *md = vdpa_get_drvdata(vdev);

	if (md != NULL)
		vdpa_task_post(md->loop, &md->config_task);
}

static void
vfio_user_failed(struct vdpa_device *vdev, int qidx)
{
	struct model_device *md = vdpa_get_drvdata(vdev);

	if (md != NULL)
		vdpa_task_post(md->loop, &md->failed_task);
}

static void
vfio_user_describe(struct vdpa_device *vdev, char *buf, size_t len)
{
	const struct model_device *md = vdpa_get_drvdata(vdev);

	if (md == NULL)
		snprintf(buf, len, "vfio-user");
	else
		snprintf(buf, len, "vfio-user %s %s", md->path,
			 __atomic_load_n(&md->connected, __ATOMIC_RELAXED) ? "connected"
									   : "waiting");
}

static const struct vdpa_frontend_ops vfio_user_ops = {
	.probe = vfio_user_probe,
	.remove = vfio_user_remove,
	.config_changed = vfio_user_config_changed,
	.failed = vfio_user_failed,
	.describe = vfio_user_describe,
};

static const struct vdpa_param_choice doorbell_choices[] = {
	{.name = "poll", .help = "clients map them and ring by memory, without a message"},
	{.name = "trap", .help = "clients send a message; nothing is polled"},
	{0},
};

static const struct vdpa_param_choice notify_choices[] = {
	{.name = "page", .help = "a page for each queue, which can be given to a guest"},
	{.name = "shared", .help = "one page for all, 4 bytes each"},
	{0},
};

static const struct vdpa_param_choice function_choices[] = {
	{.name = "virtio", .help = "a modern virtio-pci function"},
	{.name = "ifcvf", .help = "one like Intel's ifcvf: ring state and dirty log in BAR 4"},
	{.name = "octep", .help = "one like Marvell's Octeon DPU: virtio by firmware in BAR 4"},
	{0},
};

static const struct vdpa_param_choice ring_state_choices[] = {
	{.name = "pair", .help = "32 bits a queue, 64 bytes for a pair of queues"},
	{.name = "queue", .help = "16 bits a queue, 4 bytes apart"},
	{0},
};

static const struct vdpa_param vfio_user_params[] = {
	{.name = "vfio_user",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "PATH",
	 .min = 1,
	 .help = "UNIX socket to serve a virtio-pci function on; created"},
	{.name = "function",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = function_choices,
	 .help = "what kind of function it is (default virtio)"},
	{.name = "pci_id",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "VENDOR:DEVICE",
	 .min = 9,
	 .max = 9,
	 .help = "its PCI ids in hexadecimal, such as 1af4:1041 (default: the function's)"},
	{.name = "pci_sub",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "VENDOR:DEVICE",
	 .min = 9,
	 .max = 9,
	 .help = "its subsystem's ids in hexadecimal, such as 8086:001a (default: the function's)"},
	{.name = "ring_state",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = ring_state_choices,
	 .help = "ifcvf: layout of the ring state (default: by the device id)"},
	{.name = "ready_ms",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "N",
	 .max = DELAY_MS_MAX,
	 .help = "octep: milliseconds that the firmware takes from the first look after a reset of "
		 "the function (default 0)"},
	{.name = "doorbell",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = doorbell_choices,
	 .help = "how doorbells ring (default poll)"},
	{.name = "notify",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = notify_choices,
	 .help = "where doorbells lie (default page)"},
	{.name = "poll_us",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "N",
	 .min = 1,
	 .max = POLL_US_MAX,
	 .help = "microseconds between looks at doorbells that ring, up to 1000 while they do not "
		 "(default 20)"},
	{.name = "vectors",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "N",
	 .min = 1,
	 .max = VP_VECTORS_MAX,
	 .help = "MSI-X vectors (default: one for each queue and one for the configuration)"},
	{.name = "fault",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "NAME[,NAME...]",
	 .min = 1,
	 .max = 511,
	 .help = "what the function does wrong, see the list of faults (default none)"},
	{.name = "delay_ms",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "N",
	 .min = 1,
	 .max = DELAY_MS_MAX,
	 .help = "milliseconds that delayed_reply, selector_late and mailbox_late take (default "
		 "500)"},
	{.name = NULL},
};

static struct vdpa_frontend vfio_user_frontend = {
	.name = "vfio-user",
	.help = "serves the device as a virtio-pci function on a vfio-user socket",
	.ops = &vfio_user_ops,
	.params = vfio_user_params,
	.implied_by = "vfio_user",
};

int
model_frontend_register(void)
{
	return vdpa_register_frontend(&vfio_user_frontend);
}

int
model_frontend_start(void)
{
	const struct vdpa_event_loop_params params = {.name = "model-server",
						      .lcore_id = LCORE_ID_ANY};
	int rc;

	rc = vdpa_event_loop_create(&params, &server_loop);
	if (rc == 0)
		rc = doorbell_watch_init(&watch);
	return rc < 0 ? rc : model_telemetry_init();
}

void
model_frontend_stop(void)
{
	vdpa_unregister_frontend(&vfio_user_frontend);
	doorbell_watch_fini(&watch);
	vdpa_event_loop_destroy(server_loop);
	server_loop = NULL;
}

/* Under the list's lock. */
static struct model_device *
find(const char *name)
{
	struct model_device *md;

	TAILQ_FOREACH (md, &devices, next)
		if (strcmp(md->vdev->name, name) == 0)
			return md;
	return NULL;
}

static json_t *
dma_stats(const struct model_dma_counts *c)
{
	return json_pack(
		"{sIsIsIsI}", "maps", (json_int_t)__atomic_load_n(&c->maps, __ATOMIC_RELAXED),
		"unmaps", (json_int_t)__atomic_load_n(&c->unmaps, __ATOMIC_RELAXED), "bytes_mapped",
		(json_int_t)__atomic_load_n(&c->bytes_mapped, __ATOMIC_RELAXED), "bytes_unmapped",
		(json_int_t)__atomic_load_n(&c->bytes_unmapped, __ATOMIC_RELAXED));
}

static json_t *
device_stats(const struct model_device *md)
{
	json_t *queues = json_array();
	char faults[MODEL_FAULT_TEXT_MAX];

	for (uint16_t i = 0; i < md->doorbells.n; i++) {
		const struct doorbell_queue *q = &md->doorbells.queues[i];

		json_array_append_new(
			queues,
			json_pack("{sIsIsi}", "rings_by_memory",
				  (json_int_t)__atomic_load_n(&q->by_memory, __ATOMIC_RELAXED),
				  "rings_by_message",
				  (json_int_t)__atomic_load_n(&q->by_message, __ATOMIC_RELAXED),
				  "position",
				  (int)__atomic_load_n(&q->position, __ATOMIC_RELAXED)));
	}
	model_fault_format(__atomic_load_n(&md->fault, __ATOMIC_RELAXED), faults, sizeof(faults));
	return json_pack("{sssbsssos{sI}so}", "socket", md->path, "connected",
			 (int)__atomic_load_n(&md->connected, __ATOMIC_RELAXED), "fault", faults,
			 "dma", dma_stats(&md->dma_counts), "log", "pages_past_end",
			 (json_int_t)__atomic_load_n(&md->log.past, __ATOMIC_RELAXED), "queues",
			 queues);
}

json_t *
model_stats(const char *name)
{
	json_t *all = name == NULL ? json_object() : NULL;
	struct model_device *md;

	pthread_mutex_lock(&devices_lock);
	if (name != NULL) {
		md = find(name);
		all = md != NULL ? device_stats(md) : NULL;
	} else {
		TAILQ_FOREACH (md, &devices, next)
			json_object_set_new(all, md->vdev->name, device_stats(md));
	}
	pthread_mutex_unlock(&devices_lock);
	return all;
}

struct fault_change {
	struct model_device *md;
	uint32_t mask;
};

static int
change_fault(void *arg)
{
	struct fault_change *c = arg;

	model_faults_change(c->md, c->mask);
	return 0;
}

int
model_set_fault(const char *name, const char *faults)
{
	struct fault_change c;
	int rc = model_fault_parse(faults, &c.mask);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&devices_lock);
	c.md = find(name);
	if (c.md != NULL)
		rc = vdpa_event_loop_call(server_loop, change_fault, &c);
	else
		rc = vdpa_error(ENODEV, "%s: the front end vfio-user serves no such device", name);
	pthread_mutex_unlock(&devices_lock);
	return rc;
}

void
model_print_faults(void)
{
	puts("\nFaults:");
	for (unsigned int i = 0; i < MODEL_FAULT_COUNT; i++)
		printf("  %-22s %s\n", model_fault_name(i), model_fault_help(i));
}
