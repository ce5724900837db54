/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What a device is, in words and in JSON: test-vdpa info, and the head of other reports. */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <vdpa.h>

#include "report.h"
#include "session.h"

struct feature {
	uint32_t device_id; /* 0: any */
	unsigned int bit;
	const char *name;
};

/* Virtio 1.2, 5.1.3, 5.2.3 and 6; vhost-user's own bits last. */
static const struct feature features[] = {
	{TARGET_NET, 0, "CSUM"},
	{TARGET_NET, 1, "GUEST_CSUM"},
	{TARGET_NET, 2, "CTRL_GUEST_OFFLOADS"},
	{TARGET_NET, 3, "MTU"},
	{TARGET_NET, 5, "MAC"},
	{TARGET_NET, 7, "GUEST_TSO4"},
	{TARGET_NET, 8, "GUEST_TSO6"},
	{TARGET_NET, 9, "GUEST_ECN"},
	{TARGET_NET, 10, "GUEST_UFO"},
	{TARGET_NET, 11, "HOST_TSO4"},
	{TARGET_NET, 12, "HOST_TSO6"},
	{TARGET_NET, 13, "HOST_ECN"},
	{TARGET_NET, 14, "HOST_UFO"},
	{TARGET_NET, 15, "MRG_RXBUF"},
	{TARGET_NET, 16, "STATUS"},
	{TARGET_NET, 17, "CTRL_VQ"},
	{TARGET_NET, 18, "CTRL_RX"},
	{TARGET_NET, 19, "CTRL_VLAN"},
	{TARGET_NET, 20, "CTRL_RX_EXTRA"},
	{TARGET_NET, 21, "GUEST_ANNOUNCE"},
	{TARGET_NET, 22, "MQ"},
	{TARGET_NET, 23, "CTRL_MAC_ADDR"},
	{TARGET_NET, 53, "VQ_NOTF_COAL"},
	{TARGET_NET, 54, "GUEST_USO4"},
	{TARGET_NET, 55, "GUEST_USO6"},
	{TARGET_NET, 56, "HOST_USO"},
	{TARGET_NET, 57, "HASH_REPORT"},
	{TARGET_NET, 59, "GUEST_HDRLEN"},
	{TARGET_NET, 60, "RSS"},
	{TARGET_NET, 61, "RSC_EXT"},
	{TARGET_NET, 62, "STANDBY"},
	{TARGET_NET, 63, "SPEED_DUPLEX"},
	{TARGET_BLOCK, 1, "SIZE_MAX"},
	{TARGET_BLOCK, 2, "SEG_MAX"},
	{TARGET_BLOCK, 4, "GEOMETRY"},
	{TARGET_BLOCK, 5, "RO"},
	{TARGET_BLOCK, 6, "BLK_SIZE"},
	{TARGET_BLOCK, 9, "FLUSH"},
	{TARGET_BLOCK, 10, "TOPOLOGY"},
	{TARGET_BLOCK, 11, "CONFIG_WCE"},
	{TARGET_BLOCK, 12, "MQ"},
	{TARGET_BLOCK, 13, "DISCARD"},
	{TARGET_BLOCK, 14, "WRITE_ZEROES"},
	{TARGET_BLOCK, 15, "LIFETIME"},
	{TARGET_BLOCK, 16, "SECURE_ERASE"},
	{TARGET_BLOCK, 17, "ZONED"},
	{0, 24, "NOTIFY_ON_EMPTY"},
	{0, 26, "LOG_ALL"},
	{0, 27, "ANY_LAYOUT"},
	{0, 28, "INDIRECT_DESC"},
	{0, 29, "EVENT_IDX"},
	{0, 30, "PROTOCOL_FEATURES"},
	{0, 32, "VERSION_1"},
	{0, 33, "ACCESS_PLATFORM"},
	{0, 34, "RING_PACKED"},
	{0, 35, "IN_ORDER"},
	{0, 36, "ORDER_PLATFORM"},
	{0, 37, "SR_IOV"},
	{0, 38, "NOTIFICATION_DATA"},
	{0, 39, "NOTIF_CONFIG_DATA"},
	{0, 40, "RING_RESET"},
	{0, 41, "ADMIN_VQ"},
};

const char *
report_feature_name(uint32_t device_id, unsigned int bit)
{
	for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++)
		if (features[i].bit == bit &&
		    (features[i].device_id == 0 || features[i].device_id == device_id))
			return features[i].name;
	return NULL;
}

static const char *
kind_name(uint32_t device_id)
{
	static const char *const names[] = {"unknown", "net",	"block", "console", "entropy",
					    "balloon", "iomem", "rpmsg", "scsi",    "9p"};

	return device_id < sizeof(names) / sizeof(names[0]) ? names[device_id] : "other";
}

static json_t *
features_json(const struct target *t, uint64_t bits)
{
	json_t *list = json_array();

	for (unsigned int bit = 0; bit < 64; bit++) {
		const char *name = report_feature_name(t->device_id, bit);
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

/* A doorbell shows only on a queue that runs. */
static const char *
doorbell_of(struct target *t)
{
	const struct session_params params = {.n = target_lane_vqs(t)};
	struct vdpa_notification_area area;
	const char *answer = "unknown, the device does not start";
	struct session s;

	if (session_init(&s, t, &params) < 0)
		return answer;
	if (session_start(&s) == 0)
		answer = t->ops->doorbell(t, 0, &area) == 0 ? "a page of its own" : "relay";
	session_fini(&s);
	return answer;
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

int
report_info(struct target *t, const char *json)
{
	const char *doorbell = doorbell_of(t);
	uint8_t config[256] = {0};
	size_t len = t->config_size < sizeof(config) ? t->config_size : sizeof(config);
	json_t *device = report_device(t);
	char hex[2 * sizeof(config) + 1] = "";
	int rc = len > 0 ? t->ops->get_config(t, 0, config, len) : 0;

	if (rc < 0) {
		fprintf(stderr, "test-vdpa: %s\n", vdpa_error_message());
		json_decref(device);
		return rc;
	}
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
	return rc;
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
