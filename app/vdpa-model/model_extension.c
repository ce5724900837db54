/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What the model adds to the front end "vfio-user": words for vendors' functions, faults and
 * administration queues, and what becomes of them. Owns the queue of all functions' jobs: an
 * administration queue's commands reach into other functions.
 */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "error_priv.h"
#include "model.h"
#include "model_admin.h"
#include "model_device.h"
#include "vdpa_log.h"
#include "virtio_compat.h"

#define DELAY_MS_DEFAULT 500u
#define DELAY_MS_MAX	 60000u

static struct vdpa_work_queue jobs;

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
	static const struct vp_kind *const kinds[] = {&vdpa_vp_kind_virtio, &vp_kind_ifcvf,
						      &vp_kind_octep};

	for (unsigned int i = 0; i < RTE_DIM(kinds); i++)
		if (choice_is(args, "function", kinds[i]->name))
			return kinds[i];
	return &vdpa_vp_kind_virtio;
}

static enum model_ring_state
ring_state_of(const struct vdpa_args *args)
{
	if (choice_is(args, "ring_state", "pair"))
		return MODEL_RING_STATE_PAIR;
	return choice_is(args, "ring_state", "queue") ? MODEL_RING_STATE_QUEUE
						      : MODEL_RING_STATE_BY_ID;
}

/* Words that are of one kind of function only. */
static int
check_words(const struct vdpa_args *args, const struct vp_kind *kind)
{
	if (vdpa_args_has(args, "ring_state") && kind != &vp_kind_ifcvf)
		return vdpa_error(EINVAL, "ring_state is of the function ifcvf");
	if (vdpa_args_has(args, "ready_ms") && kind != &vp_kind_octep)
		return vdpa_error(EINVAL, "ready_ms is of the function octep");
	if (choice_is(args, "dma_logging", "on") && kind == &vp_kind_ifcvf)
		return vdpa_error(EINVAL,
				  "dma_logging on is not of the function ifcvf, which logs itself");
	if (choice_is(args, "suspend", "on") && kind != &vdpa_vp_kind_virtio)
		return vdpa_error(EINVAL, "suspend on is of the function virtio");
	if ((choice_is(args, "admin", "on") || vdpa_args_has(args, "member")) &&
	    kind != &vdpa_vp_kind_virtio)
		return vdpa_error(EINVAL, "admin on and member are of the function virtio");
	if (choice_is(args, "admin", "on") && vdpa_args_has(args, "member"))
		return vdpa_error(EINVAL, "admin on: an owner is no member of its group");
	return 0;
}

static int
parse(struct vfu_device *dev, const struct vdpa_args *args, struct vp_params *params)
{
	struct model_device *m = model_of(dev);
	const struct vp_kind *kind = kind_of(args);
	int rc = check_words(args, kind);

	params->kind = kind;
	m->function.delay_ms = (unsigned int)vdpa_args_u64(args, "delay_ms", DELAY_MS_DEFAULT);
	m->function.ready_ms = (unsigned int)vdpa_args_u64(args, "ready_ms", 0);
	m->function.ring_state = ring_state_of(args);
	params->ask = model_ask;
	params->own = &m->function;
	params->admin = choice_is(args, "admin", "on");
	if (params->admin)
		params->features |= RTE_BIT64(VIRTIO_F_ADMIN_VQ);
	if (rc == 0)
		rc = parse_ids(args, "pci_id", &params->pci_id);
	if (rc == 0)
		rc = parse_ids(args, "pci_sub", &params->pci_sub);
	if (rc == 0)
		rc = model_fault_parse(vdpa_args_str(args, "fault", "none"), &m->function.fault);
	return rc;
}

static int
init(struct vfu_device *dev, const struct vdpa_args *args)
{
	int rc = model_faults_init(dev);

	if (rc == 0 && dev->vp.params.admin)
		rc = model_admin_init(dev);
	if (rc == 0 && vdpa_args_has(args, "member"))
		rc = model_member_add(dev, (unsigned int)vdpa_args_u64(args, "member", 0));
	return rc;
}

static void
quiesce(struct vfu_device *dev)
{
	model_member_remove(dev);
	model_faults_quiesce(dev);
	model_admin_quiesce(dev);
}

static void
fini(struct vfu_device *dev)
{
	model_faults_fini(dev);
	model_admin_fini(dev);
}

/* A reply as the faults have it. */
static size_t
reply(struct vfu_device *dev, uint8_t *msg, size_t len, unsigned int *delay_ms)
{
	const struct model_function *f = &model_of(dev)->function;
	struct vfio_user_header *hdr = (void *)msg;

	if (model_has_fault(f, MODEL_FAULT_BIT(NO_REPLY)))
		return 0;
	if (model_has_fault(f, MODEL_FAULT_BIT(TRUNCATED_REPLY)) && len > sizeof(*hdr)) {
		len = sizeof(*hdr) + (len - sizeof(*hdr)) / 2;
		hdr->size = (uint32_t)len;
	}
	if (model_has_fault(f, MODEL_FAULT_BIT(DELAYED_REPLY)))
		*delay_ms = __atomic_load_n(&f->delay_ms, __ATOMIC_RELAXED);
	return len;
}

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

static const struct vdpa_param_choice admin_choices[] = {
	{.name = "on", .help = "the function owns those that are members"},
	{.name = "off"},
	{0},
};

static const struct vdpa_param params[] = {
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
	{.name = "admin",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = admin_choices,
	 .help = "virtio: whether it has an administration queue, for its members (default off)"},
	{.name = "member",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "N",
	 .min = 1,
	 .max = MODEL_MEMBERS_MAX,
	 .help = "virtio: it is this member of the group of the functions with admin on (default: "
		 "none)"},
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

static const struct vfu_extension extension = {
	.params = params,
	.own_size = sizeof(struct model_device),
	.queue = &jobs,
	.parse = parse,
	.init = init,
	.quiesce = quiesce,
	.fini = fini,
	.moved = model_faults_update,
	.reply = reply,
	.admin_start = model_admin_start,
	.admin_stop = model_admin_stop,
	.admin_resume = model_admin_resume,
	.admin_update_memory = model_admin_update_memory,
	.admin_route = model_admin_route,
	.admin_reset = model_admin_reset,
};

int
model_extend(void)
{
	vdpa_work_queue_init(&jobs);
	return vdpa_vfus_extend(&extension);
}

int
model_start(void)
{
	int rc = model_control_init();

	return rc < 0 ? rc : model_telemetry_init();
}

void
model_stop(void)
{
	model_control_fini();
}

/* A job that somebody waits for. */
struct call {
	struct vdpa_work work;
	int (*fn)(void *arg);
	void *arg;
	pthread_mutex_t lock;
	pthread_cond_t done;
	bool over;
	int rc;
	struct vdpa_error_saved error;
};

static void
run_call(struct vdpa_work *work)
{
	struct call *c = work->arg;
	int rc = c->fn(c->arg);

	pthread_mutex_lock(&c->lock);
	c->rc = rc;
	if (rc < 0)
		vdpa_error_save(&c->error);
	c->over = true;
	pthread_cond_signal(&c->done);
	pthread_mutex_unlock(&c->lock);
}

int
model_call(int (*fn)(void *arg), void *arg)
{
	struct call c = {.work.run = run_call,
			 .fn = fn,
			 .arg = arg,
			 .lock = PTHREAD_MUTEX_INITIALIZER,
			 .done = PTHREAD_COND_INITIALIZER};

	c.work.arg = &c;
	vdpa_work_post(&jobs, &c.work);
	pthread_mutex_lock(&c.lock);
	while (!c.over)
		pthread_cond_wait(&c.done, &c.lock);
	pthread_mutex_unlock(&c.lock);
	/* Until its thread has left it. */
	vdpa_work_cancel(&c.work);
	if (c.rc < 0)
		vdpa_error_restore(&c.error);
	return c.rc;
}

/* What can be told of functions, and done to them. */

static json_t *
dma_stats(const struct vfu_dma_counts *c)
{
	return json_pack(
		"{sIsIsIsI}", "maps", (json_int_t)__atomic_load_n(&c->maps, __ATOMIC_RELAXED),
		"unmaps", (json_int_t)__atomic_load_n(&c->unmaps, __ATOMIC_RELAXED), "bytes_mapped",
		(json_int_t)__atomic_load_n(&c->bytes_mapped, __ATOMIC_RELAXED), "bytes_unmapped",
		(json_int_t)__atomic_load_n(&c->bytes_unmapped, __ATOMIC_RELAXED));
}

static json_t *
device_stats(const struct vfu_device *dev)
{
	json_t *queues = json_array();
	char faults[MODEL_FAULT_TEXT_MAX];

	for (uint16_t i = 0; i < dev->doorbells.n; i++) {
		const struct vfu_bell *q = &dev->doorbells.queues[i];

		json_array_append_new(
			queues,
			json_pack("{sIsIsi}", "rings_by_memory",
				  (json_int_t)__atomic_load_n(&q->by_memory, __ATOMIC_RELAXED),
				  "rings_by_message",
				  (json_int_t)__atomic_load_n(&q->by_message, __ATOMIC_RELAXED),
				  "position",
				  (int)__atomic_load_n(&q->position, __ATOMIC_RELAXED)));
	}
	model_fault_format(__atomic_load_n(&model_of(dev)->function.fault, __ATOMIC_RELAXED),
			   faults, sizeof(faults));
	return json_pack(
		"{sssbsssosIsIs{sI}so}", "socket", dev->path, "connected",
		(int)__atomic_load_n(&dev->connected, __ATOMIC_RELAXED), "fault", faults, "dma",
		dma_stats(&dev->dma_counts), "suspensions",
		(json_int_t)__atomic_load_n(&dev->suspensions, __ATOMIC_RELAXED), "admin_commands",
		(json_int_t)model_admin_commands(dev), "log", "pages_past_end",
		(json_int_t)__atomic_load_n(&dev->log.past, __ATOMIC_RELAXED), "queues", queues);
}

static void
add_stats(struct vfu_device *dev, void *arg)
{
	json_object_set_new(arg, dev->vdev->name, device_stats(dev));
}

json_t *
model_stats(const char *name)
{
	json_t *all = json_object(), *one;

	vdpa_vfus_for_each(name, add_stats, all);
	if (name == NULL)
		return all;
	one = json_incref(json_object_get(all, name));
	json_decref(all);
	return one;
}

struct fault_change {
	const char *name;
	uint32_t mask;
	unsigned int found;
};

static void
change_fault_of(struct vfu_device *dev, void *arg)
{
	const struct fault_change *c = arg;

	model_faults_change(dev, c->mask);
}

/* In a job: the functions' own do not run meanwhile. */
static int
change_fault(void *arg)
{
	struct fault_change *c = arg;

	c->found = vdpa_vfus_for_each(c->name, change_fault_of, c);
	return 0;
}

int
model_set_fault(const char *name, const char *faults)
{
	struct fault_change c = {.name = name};
	int rc = model_fault_parse(faults, &c.mask);

	if (rc == 0)
		rc = model_call(change_fault, &c);
	if (rc == 0 && c.found == 0)
		rc = vdpa_error(ENODEV, "%s: the front end vfio-user serves no such device", name);
	return rc;
}

void
model_print_faults(void)
{
	puts("\nFaults:");
	for (unsigned int i = 0; i < MODEL_FAULT_COUNT; i++)
		printf("  %-22s %s\n", model_fault_name(i), model_fault_help(i));
}
