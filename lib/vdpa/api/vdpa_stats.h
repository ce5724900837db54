/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_stats.h
 * The names of statistics, in one place: what a device and its virtqueues count whatever they are,
 * with unit, kind, and the name that `vdpactl metrics` gives to Prometheus. doc/statistics.md tells
 * more of each.
 *
 * A driver reports those that its device counts, under these names, by get_vendor_vq_stats
 * (VDPA_QSTAT_*); the core adds what it knows itself, and says of the others that they are unknown:
 * null in JSON, "unknown" where a transport has no null, no sample in Prometheus. Never 0: that
 * nothing has happened is a statement. Names that are not here are the driver's own ("vendor"
 * statistics) and stand beside these.
 *
 * Counters begin when the device is added and never go back, whatever starts, stops and connections
 * there are.
 */

#ifndef VDPA_STATS_H
#define VDPA_STATS_H

#ifdef __cplusplus
extern "C" {
#endif

/* What a driver may report of a virtqueue. */

/** Packets that the device took from a transmit queue, or delivered into a receive queue. */
#define VDPA_QSTAT_PACKETS	  "packets"
/** Requests of a queue of requests (block) that the device completed, be it with an error. */
#define VDPA_QSTAT_REQUESTS	  "requests"
/** Bytes of these packets, without the virtio header; of a block device, data read or written. */
#define VDPA_QSTAT_BYTES	  "bytes"
/** Kicks of the driver in the guest that the device noticed. */
#define VDPA_QSTAT_KICKS	  "kicks"
/** Interrupts that the device sent for used buffers. */
#define VDPA_QSTAT_INTERRUPTS	  "interrupts"
/** Buffers that the device could not execute: malformed chains, bad descriptors, failed requests.
 * A virtqueue that fails the device is counted by the core. */
#define VDPA_QSTAT_ERRORS	  "errors"
/** Packets that the device took and did not deliver, for whatever reason. */
#define VDPA_QSTAT_DROPPED	  "dropped"
/** Descriptor chains that the device took from the ring, as the kernel's drivers count them. */
#define VDPA_QSTAT_RECEIVED_DESC  "received_desc"
/** Descriptor chains that it put into the ring as used. */
#define VDPA_QSTAT_COMPLETED_DESC "completed_desc"

/* What the core knows of a virtqueue. */

/** Kicks of the guest that this process passed on to the device, or took for it. */
#define VDPA_QSTAT_KICKS_RELAYED "kicks_relayed"
/** Entries of the ring. */
#define VDPA_QSTAT_RING_SIZE	 "ring_size"
/** Buffers (chains) in the ring that the guest has made available and the device has not used. */
#define VDPA_QSTAT_RING_DEPTH	 "ring_depth"

/* What the core knows of a device. */

/** Bytes of guest memory that the device reaches. */
#define VDPA_DSTAT_MEMORY_BYTES	  "memory_bytes"
/** Ranges of guest memory that these are. */
#define VDPA_DSTAT_MEMORY_REGIONS "memory_regions"
/** Duration of the last start, microseconds: from the front end's order until the device runs. */
#define VDPA_DSTAT_START_US	  "start_us"
/** Starts that have succeeded, and stops of a device that ran, those for one queue among them. */
#define VDPA_DSTAT_STARTS	  "starts"
#define VDPA_DSTAT_STOPS	  "stops"
/** Failures that stopped the device. */
#define VDPA_DSTAT_FAILURES	  "failures"
/** Connections of front ends. */
#define VDPA_DSTAT_CONNECTIONS	  "connections"

/** The kind of a statistic, as Prometheus has it. */
enum vdpa_stat_kind {
	VDPA_STAT_COUNTER, /**< grows from the addition of the device on */
	VDPA_STAT_GAUGE,   /**< a value now */
};

/**
 * Every statistic of a virtqueue, in the order in which it is shown:
 * X(ID, name, kind, unit, Prometheus' name, units per Prometheus' unit, help).
 */
#define VDPA_QUEUE_STATS(X)                                                                        \
	X(PACKETS, VDPA_QSTAT_PACKETS, COUNTER, "packets", "uvdpa_queue_packets_total", 1,         \
	  "Packets that the device took from the queue or delivered into it.")                     \
	X(REQUESTS, VDPA_QSTAT_REQUESTS, COUNTER, "requests", "uvdpa_queue_requests_total", 1,     \
	  "Requests that the device completed.")                                                   \
	X(BYTES, VDPA_QSTAT_BYTES, COUNTER, "bytes", "uvdpa_queue_bytes_total", 1,                 \
	  "Bytes of packets without virtio headers, or of data read and written.")                 \
	X(KICKS, VDPA_QSTAT_KICKS, COUNTER, "kicks", "uvdpa_queue_kicks_total", 1,                 \
	  "Kicks of the guest.")                                                                   \
	X(KICKS_RELAYED, VDPA_QSTAT_KICKS_RELAYED, COUNTER, "kicks",                               \
	  "uvdpa_queue_kicks_relayed_total", 1, "Kicks of the guest that this process took.")      \
	X(INTERRUPTS, VDPA_QSTAT_INTERRUPTS, COUNTER, "interrupts",                                \
	  "uvdpa_queue_interrupts_total", 1, "Interrupts sent to the guest for used buffers.")     \
	X(RING_SIZE, VDPA_QSTAT_RING_SIZE, GAUGE, "entries", "uvdpa_queue_ring_size", 1,           \
	  "Entries of the ring.")                                                                  \
	X(RING_DEPTH, VDPA_QSTAT_RING_DEPTH, GAUGE, "buffers", "uvdpa_queue_ring_depth", 1,        \
	  "Buffers that are available and not yet used.")                                          \
	X(ERRORS, VDPA_QSTAT_ERRORS, COUNTER, "buffers", "uvdpa_queue_errors_total", 1,            \
	  "Malformed chains, bad descriptors and failed requests.")                                \
	X(DROPPED, VDPA_QSTAT_DROPPED, COUNTER, "packets", "uvdpa_queue_dropped_packets_total", 1, \
	  "Packets that the device did not deliver.")                                              \
	X(RECEIVED_DESC, VDPA_QSTAT_RECEIVED_DESC, COUNTER, "chains",                              \
	  "uvdpa_queue_received_descriptors_total", 1,                                             \
	  "Descriptor chains that the device took from the ring.")                                 \
	X(COMPLETED_DESC, VDPA_QSTAT_COMPLETED_DESC, COUNTER, "chains",                            \
	  "uvdpa_queue_completed_descriptors_total", 1,                                            \
	  "Descriptor chains that the device has used.")

/** Every statistic of a device that is a number, likewise. */
#define VDPA_DEVICE_STATS(X)                                                                       \
	X(MEMORY_BYTES, VDPA_DSTAT_MEMORY_BYTES, GAUGE, "bytes", "uvdpa_device_memory_bytes", 1,   \
	  "Guest memory that the device reaches.")                                                 \
	X(MEMORY_REGIONS, VDPA_DSTAT_MEMORY_REGIONS, GAUGE, "regions",                             \
	  "uvdpa_device_memory_regions", 1, "Ranges of guest memory that the device reaches.")     \
	X(START_US, VDPA_DSTAT_START_US, GAUGE, "microseconds",                                    \
	  "uvdpa_device_start_duration_seconds", 1000000, "Duration of the last start.")           \
	X(STARTS, VDPA_DSTAT_STARTS, COUNTER, "starts", "uvdpa_device_starts_total", 1,            \
	  "Starts of the device.")                                                                 \
	X(STOPS, VDPA_DSTAT_STOPS, COUNTER, "stops", "uvdpa_device_stops_total", 1,                \
	  "Stops of the device.")                                                                  \
	X(FAILURES, VDPA_DSTAT_FAILURES, COUNTER, "failures", "uvdpa_device_failures_total", 1,    \
	  "Failures that stopped the device.")                                                     \
	X(CONNECTIONS, VDPA_DSTAT_CONNECTIONS, COUNTER, "connections",                             \
	  "uvdpa_device_connections_total", 1, "Connections of front ends to the device.")

/** Indexes: VDPA_QUEUE_STAT_PACKETS, ... and VDPA_DEVICE_STAT_MEMORY_BYTES, ... */
#define VDPA_STATS_QUEUE_ID(id, ...)  VDPA_QUEUE_STAT_##id,
#define VDPA_STATS_DEVICE_ID(id, ...) VDPA_DEVICE_STAT_##id,
enum vdpa_queue_stat_id { VDPA_QUEUE_STATS(VDPA_STATS_QUEUE_ID) VDPA_QUEUE_STAT_COUNT };
enum vdpa_device_stat_id { VDPA_DEVICE_STATS(VDPA_STATS_DEVICE_ID) VDPA_DEVICE_STAT_COUNT };
#undef VDPA_STATS_QUEUE_ID
#undef VDPA_STATS_DEVICE_ID

#ifdef __cplusplus
}
#endif

#endif /* VDPA_STATS_H */
