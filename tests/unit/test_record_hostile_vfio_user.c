/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Records of a vfio-user connection that anybody may have made, and descriptors beside them that
 * are others: a function is brought to what they say, or refused, and the device is mapped no
 * memory but that of the files. The store is played by the test.
 *
 * UVDPA_TEST_LONG=1: 100,000 of them; UVDPA_TEST_SEED: others.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <linux/virtio_pci.h>

#include "mutate.h"
#include "restart.h"
#include "test_util.h"
#include "vdpa_error.h"
#include "vfio_user_device.h"
#include "vfio_user_server_priv.h"
#include "vhost_user_test.h"

#define IOVA	0x100000u
#define FILES	2
#define VECTORS (FAKE_VQS + 1)
#define AREA	0x1000u
#define RING	0x4000u
#define RUNNING                                                                                    \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |      \
	 VIRTIO_CONFIG_S_DRIVER_OK)

/* Places of descriptors in the store, which are their names. */
enum { NONE, MEMORY, VECTOR = MEMORY + FILES, INTX = VECTOR + VECTORS, FILE_OF_NO_KIND, PLACES };

static struct {
	int fd[PLACES];
	uint8_t record[VDPA_RESTART_RECORD_MAX];
	size_t len;
	bool swapped;		      /* descriptors are found under each other's names */
	const struct vfu_dma *memory; /* the function's */
	unsigned int ranges;	      /* that it had when the store dropped its descriptors */
} store;

int __wrap_vdpa_restart_take(const char *device, const char *what);
int __wrap_vdpa_restart_read(const char *device, void *buf, size_t size);
int __wrap_vdpa_restart_write(const char *device, const void *record, size_t len);
void __wrap_vdpa_restart_prune(const char *device, bool (*wanted)(const char *what, void *arg),
			       void *arg);

int
__wrap_vdpa_restart_take(const char *device, const char *what)
{
	unsigned int serial, id;

	if (sscanf(what, "fd.%x.%x", &serial, &id) != 2 || id == NONE || id >= PLACES)
		return vdpa_error(ENOENT, "%s: %s is not kept", device, what);
	if (store.swapped && mutate_below(8) == 0)
		id = 1 + (unsigned int)mutate_below(PLACES - 1);
	return fcntl(store.fd[id], F_DUPFD_CLOEXEC, 0);
}

int
__wrap_vdpa_restart_read(const char *device, void *buf, size_t size)
{
	assert_string_equal(device, "fake0");
	assert_in_range(store.len, 0, size);
	memcpy(buf, store.record, store.len);
	return (int)store.len;
}

int
__wrap_vdpa_restart_write(const char *device, const void *record, size_t len)
{
	assert_string_equal(device, "fake0");
	assert_in_range(len, 0, sizeof(store.record));
	memcpy(store.record, record, len);
	store.len = len;
	return 0;
}

void
__wrap_vdpa_restart_prune(const char *device, bool (*wanted)(const char *what, void *arg),
			  void *arg)
{
	assert_string_equal(device, "fake0");
	store.ranges = store.memory->n;
}

static struct {
	uint64_t bytes, most;
	unsigned int maps;
} mapped;

/* What is mapped is there, to its last byte. */
static int
map_files(void *arg, const struct vdpa_dma_mapping *m)
{
	const volatile uint8_t *p = m->va;

	mapped.bytes += m->size;
	mapped.most = RTE_MAX(mapped.most, mapped.bytes);
	mapped.maps++;
	assert_in_range(m->size, 1, 2 * MEM_SIZE);
	(void)p[0];
	(void)p[m->size - 1];
	return 0;
}

static int
unmap_files(void *arg, const struct vdpa_dma_mapping *m)
{
	mapped.bytes -= m->size;
	return 0;
}

static int
set_config(struct vdpa_device *vdev, size_t offset, const void *buf, size_t len)
{
	struct fake_device *fake = RTE_PTR_SUB(vdev, offsetof(struct fake_device, vdev));

	assert_in_range(offset, 0, sizeof(fake->config));
	assert_in_range(len, 0, sizeof(fake->config) - offset);
	memcpy(fake->config + offset, buf, len);
	return 0;
}

struct function {
	struct vdpa_dma_domain *dma;
	struct fake_device *fake;
	struct vfu_device dev;
	struct vfu_server server;
	unsigned int freed;
};

static const struct vfu_extension nothing;

static void
set(struct function *f, unsigned int at, uint64_t value, size_t len)
{
	vdpa_vp_bar_write(&f->dev.vp, f->dev.vp.bar, at, &value, len);
}

static uint8_t
status(struct function *f)
{
	uint8_t value;

	vdpa_vp_bar_read(&f->dev.vp, f->dev.vp.bar, VIRTIO_PCI_COMMON_STATUS, &value, 1);
	return value;
}

static void
open_client(struct function *f)
{
	struct vdpa_peer peer;

	vdpa_peer_self(&peer);
	assert_int_equal(vdpa_vfus_client_ops.connected(&f->dev, &peer), 0);
}

static void
close_client(struct function *f)
{
	/* The end is none of the record's here. */
	f->dev.kept.on = false;
	vdpa_vfus_client_ops.disconnected(&f->dev);
	f->dev.kept.on = true;
	memset(f->dev.kept.vectors, 0, VECTORS * sizeof(uint64_t));
	memset(f->dev.kept.files, 0, sizeof(f->dev.kept.files));
	f->dev.kept.n_configs = 0;
	f->dev.kept.lost = false;
	f->dev.kept.intx = 0;
}

static void
set_up_queue(struct function *f, uint16_t idx)
{
	uint64_t at = IOVA + (idx % FILES) * (uint64_t)MEM_SIZE + idx * RING;

	set(f, VIRTIO_PCI_COMMON_Q_SELECT, idx, 2);
	set(f, VIRTIO_PCI_COMMON_Q_SIZE, 64, 2);
	set(f, VIRTIO_PCI_COMMON_Q_MSIX, idx + 1u, 2);
	set(f, VIRTIO_PCI_COMMON_Q_DESCLO, at, 8);
	set(f, VIRTIO_PCI_COMMON_Q_AVAILLO, at + 0x1000, 8);
	set(f, VIRTIO_PCI_COMMON_Q_USEDLO, at + 0x2000, 8);
	set(f, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
}

/* A record of a client that has asked for all there is, and a driver that runs. */
static void
write_record(struct function *f)
{
	const uint16_t command = 6;
	const uint8_t mac[2] = {1, 2};

	open_client(f);
	for (unsigned int i = 0; i < FILES; i++) {
		assert_int_equal(vdpa_vfus_dma_map(&f->dev.dma, IOVA + i * (uint64_t)MEM_SIZE,
						   MEM_SIZE, 0, store.fd[MEMORY + i]),
				 0);
		f->dev.kept.files[i] = MEMORY + i;
	}
	/* A ROM's, which nobody can reach. */
	assert_int_equal(vdpa_vfus_dma_map(&f->dev.dma, 16 * (uint64_t)MEM_SIZE, 4096, 0, -1), 0);
	for (unsigned int i = 0; i < VECTORS; i++) {
		f->dev.irqs.vector_fds[i] = fcntl(store.fd[VECTOR + i], F_DUPFD_CLOEXEC, 0);
		f->dev.kept.vectors[i] = VECTOR + i;
	}
	f->dev.irqs.msix_on = true;
	f->dev.irqs.intx_fd = fcntl(store.fd[INTX], F_DUPFD_CLOEXEC, 0);
	f->dev.kept.intx = INTX;
	vdpa_vp_config_write(&f->dev.vp, 4, &command, 2);
	set(f, VIRTIO_PCI_COMMON_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER, 1);
	set(f, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
	set(f, VIRTIO_PCI_COMMON_GF, V1 >> 32, 4);
	set(f, VIRTIO_PCI_COMMON_STATUS, RUNNING & ~VIRTIO_CONFIG_S_DRIVER_OK, 1);
	for (uint16_t i = 0; i < FAKE_VQS; i++)
		set_up_queue(f, i);
	vdpa_vp_bar_write(&f->dev.vp, f->dev.vp.bar, VP_DEVICE_OFFSET, mac, sizeof(mac));
	set(f, VIRTIO_PCI_COMMON_STATUS, RUNNING, 1);
	assert_int_equal(status(f), RUNNING);
	assert_int_equal(f->dev.kept.n_configs, 1);
	assert_int_equal(vdpa_vfus_record_write(&f->dev), 0);
	assert_true(store.len > 0);
	close_client(f);
}

/* Bring the function to the record, as the next process does. */
static int
go_on(struct function *f)
{
	struct vfu_record *r;
	int rc;

	mapped.most = mapped.bytes;
	open_client(f);
	rc = vdpa_vfus_record_read(&f->dev, &r);
	if (rc < 0)
		return rc;
	rc = r->has_connection ? vdpa_vfus_record_apply(&f->dev, r)
			       : vdpa_error(ENOENT, "no connection was kept");
	f->dev.kept.resumed = r->queues;
	if (rc == 0)
		rc = vdpa_vfus_record_start(&f->dev);
	f->dev.kept.resumed = NULL;
	vdpa_vfus_record_free(r);
	if (rc < 0)
		assert_string_not_equal(vdpa_error_message(), "");
	return rc;
}

static void
make_function(struct function *f)
{
	static struct vhu_shm areas;
	struct vp_params params = {
		.kind = &vdpa_vp_kind_virtio,
		.device_id = 1,
		.features = V1,
		.nvqs = FAKE_VQS,
		.queue_size_max = 256,
		.notify_mult = VP_PAGE,
		.vectors = VECTORS,
		.device_size = 8,
		.ops = &vdpa_vfus_vp_ops,
		.arg = &f->dev,
	};
	struct vfu_kept *k = &f->dev.kept;

	f->dev.vdev = &f->fake->vdev;
	f->dev.ext = &nothing;
	f->dev.jobs = vdpa_get_work_queue(f->dev.vdev);
	f->dev.migration.state = VFIO_DEVICE_STATE_RUNNING;
	f->dev.server = &f->server;
	store.memory = &f->dev.dma;
	f->server.account = vdpa_fd_account_create();
	assert_int_equal(vdpa_vp_init(&f->dev.vp, &params), 0);
	assert_int_equal(vdpa_vfus_bells_init(&f->dev.doorbells, NULL, FAKE_VQS, VP_PAGE,
					      vp_notify_offset(&f->dev.vp), f->dev.vp.notify_len, 0,
					      false),
			 0);
	assert_int_equal(vdpa_vfus_device_init(&f->dev), 0);
	areas.len = (size_t)AREA * FAKE_VQS + 0x10000;
	areas.addr = calloc(1, areas.len);
	*k = (struct vfu_kept){.dev = &f->dev,
			       .on = true,
			       .wire = {.device = "fake0", .serial = 1},
			       .shm = &areas,
			       .shared = (void *)areas.addr,
			       .areas = areas.addr + 0x10000,
			       .stride = AREA,
			       .vectors = calloc(VECTORS, sizeof(uint64_t)),
			       .taken_again = calloc(FAKE_VQS, sizeof(uint64_t))};
	assert_true(areas.addr != NULL && k->vectors != NULL && k->taken_again != NULL);
}

static int
setup_function(void **state)
{
	static struct vdpa_config_ops config_ops;
	static const struct vdpa_dma_ops ops = {.map = map_files, .unmap = unmap_files};
	struct vdpa_dma_limits limits = {.page_size = 4096};
	struct function *f = calloc(1, sizeof(*f));
	int pair[2];

	assert_non_null(f);
	assert_int_equal(group_setup(NULL), 0);
	assert_int_equal(vdpa_dma_domain_create("iommu", &ops, NULL, &limits, &f->dma), 0);
	f->fake = fake_hardware_new("fake0", f->dma, true);
	f->fake->freed = &f->freed;
	f->fake->tells_places = true;
	f->fake->resets_vqs = true;
	config_ops = *f->fake->vdev.config;
	config_ops.set_config = set_config;
	f->fake->vdev.config = &config_ops;
	assert_int_equal(vdpa_register_device(&f->fake->vdev), 0);
	make_function(f);
	for (unsigned int i = 0; i < FILES; i++) {
		store.fd[MEMORY + i] = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		assert_int_equal(ftruncate(store.fd[MEMORY + i], MEM_SIZE), 0);
	}
	for (unsigned int i = VECTOR; i <= INTX; i++)
		store.fd[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	store.fd[FILE_OF_NO_KIND] = pair[0];
	close(pair[1]);
	write_record(f);
	*state = f;
	return 0;
}

static int
teardown_function(void **state)
{
	struct function *f = *state;
	uint8_t *areas = f->dev.kept.shm->addr;

	vdpa_vfus_device_fini(&f->dev);
	vdpa_vfus_bells_fini(&f->dev.doorbells);
	vdpa_vp_fini(&f->dev.vp);
	free(areas);
	free(f->dev.kept.vectors);
	free(f->dev.kept.taken_again);
	free(f->dev.kept.last);
	vdpa_unregister_device(&f->fake->vdev);
	vdpa_fd_account_destroy(f->server.account);
	vdpa_put_device(&f->fake->vdev);
	assert_int_equal(f->freed, 1);
	assert_int_equal(mapped.bytes, 0);
	vdpa_dma_domain_destroy(f->dma);
	for (unsigned int i = NONE + 1; i < PLACES; i++)
		close(store.fd[i]);
	free(f);
	return group_teardown(NULL);
}

static void
what_was_written_goes_on(void **state)
{
	struct function *f = *state;

	if (go_on(f) < 0)
		fail_msg("%s", vdpa_error_message());
	assert_int_equal(status(f), RUNNING);
	assert_true(vdpa_consumer_is_running(f->dev.consumer));
	/* And pages of the device's own. */
	assert_in_range(mapped.most, FILES * MEM_SIZE, FILES * MEM_SIZE + FAKE_VQS * 0x1000);
	assert_int_equal(f->dev.dma.n, FILES + 1);
	assert_true(f->dev.irqs.msix_on);
	for (unsigned int i = 0; i < FAKE_VQS; i++) {
		assert_true(f->fake->vq[i].ready);
		assert_int_equal(f->dev.kept.vectors[i + 1], VECTOR + i + 1);
		assert_true(f->dev.queues[i].call_fd >= 0);
	}
	assert_int_equal(f->fake->config[0], 1);
	assert_int_equal(f->fake->config[1], 2);
	close_client(f);
}

static void
what_others_wrote_is_refused_or_goes_on(void **state)
{
	struct function *f = *state;
	const char *other = getenv("UVDPA_TEST_SEED");
	unsigned int count = getenv("UVDPA_TEST_LONG") != NULL ? 100000 : 1000;
	unsigned int went_on = 0, refused = 0, fds;
	static uint8_t good[sizeof(store.record)];
	size_t len = store.len;

	mutate_seed(other != NULL ? strtoull(other, NULL, 0) : 1);
	memcpy(good, store.record, len);
	fds = count_fds();
	for (unsigned int i = 0; i < count; i++) {
		memcpy(store.record, good, len);
		store.len = len;
		store.swapped = mutate_below(4) == 0;
		for (uint64_t n = 1 + mutate_below(4); n > 0; n--)
			store.len = mutate(store.record, store.len, sizeof(store.record));
		if (go_on(f) == 0)
			went_on++;
		else
			refused++;
		close_client(f);
		assert_int_equal(f->fake->vdev.config->get_status(&f->fake->vdev), 0);
		/* A device that has failed is left it until its next start. */
		assert_in_range(mapped.bytes, 0, FILES * MEM_SIZE);
	}
	store.swapped = false;
	memcpy(store.record, good, len);
	store.len = len;
	print_message("%u records: %u went on, %u were refused, %u mappings\n", count, went_on,
		      refused, mapped.maps);
	assert_true(went_on > count / 20);
	assert_true(refused > count / 20);
	EVENTUALLY(count_fds() <= fds);
	/* And nothing of them is left. */
	what_was_written_goes_on(state);
}

/* The last descriptor of a client's memory frees it, for which the store serves nobody else. */
static void
the_store_drops_memory_before_it_is_unmapped(void **state)
{
	struct function *f = *state;
	struct vfu_record *r;

	assert_int_equal(go_on(f), 0);
	store.ranges = 0;
	vdpa_vfus_client_ops.disconnected(&f->dev);
	assert_int_equal(store.ranges, FILES + 1);
	assert_int_equal(f->dev.dma.n, 0);
	/* Nor does the record name it. */
	assert_int_equal(vdpa_vfus_record_read(&f->dev, &r), 0);
	assert_false(r->has_connection);
	vdpa_vfus_record_free(r);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_written_goes_on),
		cmocka_unit_test(what_others_wrote_is_refused_or_goes_on),
		cmocka_unit_test(the_store_drops_memory_before_it_is_unmapped),
	};

	return cmocka_run_group_tests(tests, setup_function, teardown_function);
}
