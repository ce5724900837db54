/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A modern virtio-pci function in memory, on fake_pci: the register file of virtio 1.2, 4.1.4, and
 * a control queue that answers, or does what it should not, and an administration queue of the
 * test's. Data queues are only registers. Include it after cmocka.h.
 */

#ifndef FAKE_VIRTIO_H
#define FAKE_VIRTIO_H

#include "fake_pci.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FAKE_VIRTIO_VQS	      12
#define FAKE_VIRTIO_BAR	      4
#define FAKE_VIRTIO_BAR_SIZE  0x10000
#define FAKE_VIRTIO_ISR	      0x1000
#define FAKE_VIRTIO_CONFIG    0x2000
#define FAKE_VIRTIO_NOTIFY    0x4000
#define FAKE_VIRTIO_NO_VECTOR 0xffff

/* How the control queue behaves. */
enum fake_virtio_ctrl {
	FAKE_CTRL_ANSWERS,
	FAKE_CTRL_SILENT,      /* never uses the command */
	FAKE_CTRL_REFUSES,     /* answers that it failed */
	FAKE_CTRL_JUMPS,       /* the used index goes further than what was given */
	FAKE_CTRL_WRONG_ID,    /* uses a descriptor that it was not given */
	FAKE_CTRL_NO_ACK,      /* uses the command without writing an answer */
	FAKE_CTRL_NEEDS_RESET, /* answers that it failed, and needs a reset */
};

struct fake_virtio_vq {
	uint16_t size_max, size, vector, enable, notify_off, reset;
	uint64_t desc, driver, device;
	uint16_t position;  /* of the last one, where it carried data */
	unsigned int kicks; /* doorbells that came as accesses, not by memory */
};

struct fake_virtio {
	struct fake_pci pci;
	unsigned int bar; /* has the structures; 0 has MSI-X */
	bool is_net;	  /* which queues there are depends on VIRTIO_NET_F_MQ */
	uint64_t features, driver_features;
	uint32_t device_select, driver_select;
	uint16_t config_vector, num_queues, queue_select;
	uint8_t status, generation, isr;
	uint32_t multiplier;
	struct fake_virtio_vq vq[FAKE_VIRTIO_VQS];
	struct fake_virtio_vq none; /* what a queue that is not there reads as */

	/* Faults. */
	bool never_resets;	 /* the status stays */
	bool resets_by_function; /* but for a reset of the function */
	bool refuses_features;
	bool hold_status;    /* reading the status waits until this is false; __atomic */
	bool holding_status; /* somebody waits for it; __atomic */
	bool never_enables;
	bool never_resets_vq;
	bool was_suspended; /* since it was made */
	bool never_suspends, never_resumes, fails_to_suspend;
	unsigned int vectors_granted; /* others read back as not granted */

	/* The control queue. */
	enum fake_virtio_ctrl ctrl;
	uint16_t ctrl_idx, ctrl_at; /* ctrl_at: avail index, or slot */
	bool ctrl_wrap;
	unsigned int commands;
	uint16_t pairs;
	bool promisc;
	uint8_t mac[6];

	/* The administration queue (virtio 1.4, 2.13), of split rings. */
	uint16_t admin_idx, admin_num; /* admin_num 0: none */
	uint16_t admin_at;	       /* avail index */
	/* Execute a command: bytes written of the answer. More than room: it is what the device
	 * says that it has written; negative: it never uses the command. */
	int (*on_admin)(void *arg, const uint8_t *in, size_t in_len, uint8_t *out, size_t room);
	void *admin_arg;
};

/* A net function "fake/NAME" of pairs queue pairs and a control queue behind them, doorbells four
 * bytes apart and not to be mapped, vectors for all. */
void fake_virtio_init(struct fake_virtio *v, const char *name, uint16_t pairs);
/* The same with doorbells multiplier bytes apart, mappable or not. */
void fake_virtio_init_doorbells(struct fake_virtio *v, const char *name, uint16_t pairs,
				uint32_t multiplier, bool mappable);
/* The same with the structures in another BAR than FAKE_VIRTIO_BAR: 2. */
void fake_virtio_init_bar(struct fake_virtio *v, const char *name, uint16_t pairs,
			  unsigned int bar);
/* A function of one pair with an administration queue behind its control queue, whose commands
 * on_admin executes. */
void fake_virtio_init_owner(struct fake_virtio *v, const char *name,
			    int (*on_admin)(void *arg, const uint8_t *in, size_t in_len,
					    uint8_t *out, size_t room),
			    void *arg);
void fake_virtio_fini(struct fake_virtio *v);
/* The configuration space has changed: raise its vector, or the line. */
void fake_virtio_change_config(struct fake_virtio *v, uint8_t status);
/* A queue has used buffers. Whether anybody was told. */
bool fake_virtio_interrupt(struct fake_virtio *v, uint16_t idx);
/* The capability of that kind in configuration space, to change what it says. */
uint8_t *fake_virtio_cap(struct fake_virtio *v, uint8_t type);

#ifdef __cplusplus
}
#endif

#endif /* FAKE_VIRTIO_H */
