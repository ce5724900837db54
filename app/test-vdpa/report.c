/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What a device is, in words and in JSON: test-vdpa info, and the head of other reports. */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <vdpa.h>

#include "feature_names.h"
#include "report.h"
#include "session.h"
#include "virtio_type.h"

/* Of a configuration, bytes that are shown: vhost-user carries no more. */
#define CONFIG_MAX 256

/* Where a type is not known, its configuration is as long as the device has room for, and what lies
 * behind reads as all ones. */
static bool
type_is_known(uint32_t device_id)
{
	return strcmp(virtio_type(device_id)->name, virtio_type(UINT32_MAX)->name) != 0;
}

/* By the name of management, where it has one. */
static const char *
kind_name(uint32_t device_id)
{
	const struct virtio_type *type = virtio_type(device_id);

	return type->class != NULL ? type->class : type->name;
}

static json_t *
features_json(const struct target *t, uint64_t bits)
{
	json_t *list = json_array();

	for (unsigned int bit = 0; bit < 64; bit++) {
		const char *name = feature_name(t->device_id, bit);
		char number[16];

		if (!((bits >> bit) & 1))
			continue;
		snprintf(number, sizeof(number), "bit%u", bit);
		json_array_append_new(list, json_string(name != NULL ? name : number));
	}
	return list;
}

/* vhost-user's protocol features. */
static const char *
protocol_name(unsigned int bit)
{
	static const char *const names[] = {
		"MQ",
		"LOG_SHMFD",
		"RARP",
		"REPLY_ACK",
		"NET_MTU",
		"BACKEND_REQ",
		"CROSS_ENDIAN",
		"CRYPTO_SESSION",
		"PAGEFAULT",
		"CONFIG",
		"BACKEND_SEND_FD",
		"HOST_NOTIFIER",
		"INFLIGHT_SHMFD",
		"RESET_DEVICE",
		"INBAND_NOTIFICATIONS",
		"CONFIGURE_MEM_SLOTS",
		"STATUS",
		"XEN_MMAP",
		"SHARED_OBJECT",
		"DEVICE_STATE",
	};

	return bit < sizeof(names) / sizeof(names[0]) ? names[bit] : NULL;
}

static json_t *
protocol_json(uint64_t bits)
{
	json_t *list = json_array();

	for (unsigned int bit = 0; bit < 64; bit++) {
		char number[16];

		if (!((bits >> bit) & 1))
			continue;
		snprintf(number, sizeof(number), "bit%u", bit);
		json_array_append_new(
			list,
			json_string(protocol_name(bit) != NULL ? protocol_name(bit) : number));
	}
	return list;
}

static json_t *
capabilities_json(const struct vdpa_capabilities *can)
{
	const struct {
		bool there;
		const char *name;
	} all[] = {
		{can->late_vqs, "late_vqs"},
		{can->suspend, "suspend"},
		{can->vq_enable, "vq_enable"},
		{can->vq_reset, "vq_reset"},
		{can->log, "log"},
		{can->inflight, "inflight"},
		{can->doorbells, "doorbells"},
	};
	json_t *list = json_array();

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (all[i].there)
			json_array_append_new(list, json_string(all[i].name));
	return list;
}

/*
 * In words, what queue 0 has for a doorbell, which shows only while it runs. A negative errno where
 * that cannot be found out, with the reason in the words: the device does not start, or breaks.
 */
static int
find_doorbell(struct target *t, char *words, size_t len)
{
	const struct session_params params = {.n = target_lane_vqs(t)};
	struct vdpa_notification_area area;
	struct session s;
	int rc = session_init(&s, t, &params), stopped;

	if (rc < 0) {
		snprintf(words, len, "unknown: %s", vdpa_error_message());
		return rc;
	}
	rc = session_start(&s);
	if (rc < 0) {
		snprintf(words, len, "unknown: the device does not start: %s",
			 vdpa_error_message());
	} else {
		rc = t->ops->doorbell(t, 0, &area);
		if (rc == 0)
			snprintf(words, len, "a page of its own");
		else if (rc == -EOPNOTSUPP)
			snprintf(words, len, "relay");
		else
			snprintf(words, len, "unknown: %s", vdpa_error_message());
	}
	if (rc == -EOPNOTSUPP)
		rc = 0;
	if (rc == 0) {
		rc = target_check_alive(t);
		if (rc < 0)
			snprintf(words, len, "unknown: %s", vdpa_error_message());
	}
	stopped = session_fini(&s);
	if (rc == 0 && stopped < 0) {
		snprintf(words, len, "unknown: the device does not stop: %s", vdpa_error_message());
		rc = stopped;
	}
	return rc;
}

json_t *
report_device(struct target *t)
{
	json_t *device = json_pack(
		"{s:s, s:s, s:I, s:s, s:I, s:i, s:i, s:i, s:o}", "where", t->where, "how", t->how,
		"device_id", (json_int_t)t->device_id, "type", kind_name(t->device_id), "vendor_id",
		(json_int_t)t->vendor_id, "max_vqs", (int)t->nvqs, "max_vq_size", (int)t->num_max,
		"config_size", (int)t->config_size, "dev_features", features_json(t, t->features));

	if (t->can != NULL)
		json_object_set_new(device, "capabilities", capabilities_json(t->can));
	if (t->protocol != 0)
		json_object_set_new(device, "protocol_features", protocol_json(t->protocol));
	if (t->dma != NULL)
		json_object_set_new(device, "dma", json_string(t->dma));
	return device;
}

static void
print_list(const char *title, const json_t *list)
{
	size_t i;
	json_t *item;

	printf("%s", title);
	json_array_foreach(list, i, item)
	{
		printf(" %s", json_string_value(item));
	}
	putchar('\n');
}

static void
print_config(const uint8_t *config, size_t len)
{
	for (size_t i = 0; i < len; i++)
		printf("%s%02x", i % 16 == 0 ? (i == 0 ? "config     " : "\n           ") : " ",
		       config[i]);
	if (len > 0)
		putchar('\n');
}

/* Bytes of the configuration that say something. */
static size_t
config_len(const struct target *t, const uint8_t *config, size_t len)
{
	while (!type_is_known(t->device_id) && len > 0 && config[len - 1] == 0xff)
		len--;
	return len;
}

int
report_info(struct target *t, const char *json)
{
	char doorbell[512], hex[2 * CONFIG_MAX + 1] = "";
	uint8_t config[CONFIG_MAX] = {0};
	size_t len = t->config_size < sizeof(config) ? t->config_size : sizeof(config);
	int started = find_doorbell(t, doorbell, sizeof(doorbell));
	json_t *device = report_device(t);
	int rc = len > 0 ? t->ops->get_config(t, 0, config, len) : 0;

	if (started < 0)
		fprintf(stderr, "test-vdpa: doorbell %s\n", doorbell);
	if (rc < 0) {
		fprintf(stderr, "test-vdpa: %s\n", vdpa_error_message());
		json_decref(device);
		return rc;
	}
	len = config_len(t, config, len);
	for (size_t i = 0; i < len; i++)
		snprintf(hex + 2 * i, 3, "%02x", config[i]);
	json_object_set_new(device, "config", json_string(hex));
	json_object_set_new(device, "doorbell", json_string(doorbell));
	if (json != NULL) {
		rc = report_write_json(device, json);
	} else {
		printf("device     %s, %s\n", t->where, t->how);
		printf("type       %s (device id %u, vendor id 0x%x)\n", kind_name(t->device_id),
		       t->device_id, t->vendor_id);
		printf("virtqueues %u, of up to %u descriptors\n", t->nvqs, t->num_max);
		print_list("features  ", json_object_get(device, "dev_features"));
		if (t->can != NULL)
			print_list("can       ", json_object_get(device, "capabilities"));
		if (t->protocol != 0)
			print_list("protocol  ", json_object_get(device, "protocol_features"));
		printf("DMA        %s\n", t->dma != NULL ? t->dma : "unknown");
		printf("doorbell   %s\n", doorbell);
		print_config(config, len);
	}
	json_decref(device);
	return rc < 0 ? rc : started;
}

int
report_write_json(json_t *value, const char *path)
{
	FILE *out = strcmp(path, "-") == 0 ? stdout : fopen(path, "we");
	int rc = 0;

	if (out == NULL) {
		rc = -errno;
	} else {
		errno = EIO;
		if (json_dumpf(value, out, JSON_INDENT(2)) < 0 || putc('\n', out) == EOF ||
		    (out == stdout ? fflush(out) : fclose(out)) != 0)
			rc = -errno;
	}
	if (rc < 0)
		fprintf(stderr, "test-vdpa: --json %s: %s\n", path, strerror(-rc));
	return rc;
}
