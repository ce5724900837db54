/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The DMA log of a vfio-user server: DEVICE_FEATURE with the features of linux/vfio.h, but that
 * ranges and bitmaps stand in the message. A server that has none answers with an error.
 */

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <rte_common.h>

#include "vdpa_error.h"
#include "vfio_user_priv.h"

/* IOVAs of one report, whose bitmap is no longer than a read of a region. */
#define REPORT_MAX ((uint64_t)VFIO_USER_XFER_MAX * 8 * VDPA_PCI_DMA_LOG_PAGE)

static int
call_feature(struct vfu_conn *conn, uint32_t flags, const void *data, size_t len)
{
	const struct vfio_user_device_feature feature = {.argsz = (uint32_t)(sizeof(feature) + len),
							 .flags = flags};
	uint8_t reply[VFIO_USER_MSG_MAX];
	struct vfu_call call = {
		.command = VFIO_USER_DEVICE_FEATURE,
		.arg = &feature,
		.arg_len = sizeof(feature),
		.data = data,
		.data_len = len,
		/* What was asked may be repeated. */
		.reply = reply,
		.reply_min = 0,
		.reply_max = sizeof(feature) + len,
	};

	return vdpa_vfu_call(conn, &call);
}

bool
vdpa_vfu_dma_log_probe(struct vfu_conn *conn)
{
	static const uint32_t needed[] = {
		VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
		VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
		VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
	};

	for (unsigned int i = 0; i < RTE_DIM(needed); i++)
		if (call_feature(conn, VFIO_DEVICE_FEATURE_PROBE | needed[i], NULL, 0) < 0)
			return false;
	return true;
}

int
vdpa_vfu_dma_log_start(struct vfu_conn *conn, const struct vdpa_dma_range *ranges, unsigned int n)
{
	struct {
		struct vfio_user_dma_log_control control;
		struct vfio_user_dma_log_range ranges[VDPA_PCI_DMA_LOG_RANGES];
	} data = {.control = {.page_size = VDPA_PCI_DMA_LOG_PAGE, .num_ranges = n}};

	for (unsigned int i = 0; i < n; i++)
		data.ranges[i] = (struct vfio_user_dma_log_range){
			.iova = ranges[i].first, .length = ranges[i].last - ranges[i].first + 1};
	return call_feature(conn, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
			    &data, sizeof(data.control) + n * sizeof(data.ranges[0]));
}

/* Of as many pages as one message has. */
static int
report(struct vfu_conn *conn, uint64_t iova, uint64_t size, uint64_t *bitmap)
{
	size_t bytes = RTE_ALIGN_CEIL(size / VDPA_PCI_DMA_LOG_PAGE, UINT64_C(64)) / 8;
	const struct {
		struct vfio_user_device_feature feature;
		struct vfio_user_dma_log_report report;
	} ask = {
		.feature = {.argsz = (uint32_t)(sizeof(ask) + bytes),
			    .flags = VFIO_DEVICE_FEATURE_GET |
				     VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT},
		.report = {.iova = iova, .length = size, .page_size = VDPA_PCI_DMA_LOG_PAGE},
	};
	struct {
		struct vfio_user_device_feature feature;
		struct vfio_user_dma_log_report report;
		uint8_t bitmap[VFIO_USER_XFER_MAX];
	} reply;
	struct vfu_call call = {
		.command = VFIO_USER_DEVICE_FEATURE,
		.arg = &ask,
		.arg_len = sizeof(ask),
		.reply = &reply,
		.reply_min = sizeof(ask) + bytes,
		.reply_max = sizeof(ask) + bytes,
	};
	int rc = vdpa_vfu_call(conn, &call);

	if (rc < 0)
		return rc;
	if (memcmp(&reply.report, &ask.report, sizeof(ask.report)) != 0)
		return vdpa_vfu_violation(conn, call.command,
					  "the log of 0x%" PRIx64 " bytes at 0x%" PRIx64
					  " is answered, asked is 0x%" PRIx64 " at 0x%" PRIx64,
					  reply.report.length, reply.report.iova, size, iova);
	memcpy(bitmap, reply.bitmap, bytes);
	return 0;
}

int
vdpa_vfu_dma_log_report(struct vfu_conn *conn, uint64_t iova, uint64_t size, uint64_t *bitmap)
{
	int rc = 0;

	while (rc == 0 && size > 0) {
		uint64_t part = RTE_MIN(size, REPORT_MAX);

		rc = report(conn, iova, part, bitmap);
		iova += part;
		size -= part;
		bitmap += part / VDPA_PCI_DMA_LOG_PAGE / 64;
	}
	return rc;
}

int
vdpa_vfu_dma_log_stop(struct vfu_conn *conn)
{
	return call_feature(conn, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
			    NULL, 0);
}
