/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Records of a vhost-user connection that anybody may have made, and descriptors beside them that
 * are others: a session is brought to what they say, or refused, and the device is mapped no memory
 * but that of the files. The store is played by the test.
 *
 * UVDPA_TEST_LONG=1: 100,000 of them; UVDPA_TEST_SEED: others.
 */

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "mutate.h"
#include "restart.h"
#include "test_util.h"
#include "tlv.h"
#include "vdpa_error.h"
#include "vhost_user_test.h"

#define LOAD(field)	__atomic_load_n(&(field), __ATOMIC_SEQ_CST)
#define STORE(field, v) __atomic_store_n(&(field), v, __ATOMIC_SEQ_CST)

#define REGIONS	 2
#define LOG_SIZE 0x4000u
#define AREA	 0x1000u

/* Places of descriptors in the store, which are their names. */
enum {
	NONE,
	MEMORY,
	LOG = MEMORY + REGIONS,
	INFLIGHT,
	CHANNEL,
	KICK,
	CALL = KICK + FAKE_VQS,
	ERR = CALL + FAKE_VQS,
	FILE_OF_NO_KIND = ERR + FAKE_VQS,
	PLACES
};

static struct {
	int fd[PLACES];
	uint8_t record[VDPA_RESTART_RECORD_MAX];
	size_t len;
	bool swapped; /* descriptors are found under each other's names */
	bool holds;   /* another process may have all of it back */
	bool full;    /* nothing more is put there */
	bool forgot;  /* the record; atomic */
} store;

/* What another thread does than the test's. */
static struct {
	pthread_t others;
	bool look;   /* at the device, atomic */
	bool passed; /* atomic */
	struct vdpa_work work;
} job;

static bool
is_in_job(void)
{
	return job.work.run != NULL && !pthread_equal(pthread_self(), job.others);
}

int __wrap_vdpa_restart_take(const char *device, const char *what);
int __wrap_vdpa_restart_read(const char *device, void *buf, size_t size);
int __wrap_vdpa_restart_write(const char *device, const void *record, size_t len);
void __wrap_vdpa_restart_del(const char *device, const char *what);
int __wrap_vdpa_restart_put(const char *device, const char *what, int fd);
void __wrap_vdpa_restart_forget(const char *device);
bool __wrap_vdpa_restart_holds(void);
bool __real_vdpa_consumer_has_features(struct vdpa_consumer *c, uint64_t *features);
bool __wrap_vdpa_consumer_has_features(struct vdpa_consumer *c, uint64_t *features);
bool __real_vdpa_consumer_has_requests(struct vdpa_consumer *c);
bool __wrap_vdpa_consumer_has_requests(struct vdpa_consumer *c);

int
__wrap_vdpa_restart_take(const char *device, const char *what)
{
	unsigned int serial, id;

	(void)device;
	if (sscanf(what, "fd.%x.%x", &serial, &id) != 2 || id == NONE || id >= PLACES)
		return vdpa_error(ENOENT, "%s is not kept", what);
	if (store.swapped && mutate_below(8) == 0)
		id = 1 + (unsigned int)mutate_below(PLACES - 1);
	return fcntl(store.fd[id], F_DUPFD_CLOEXEC, 0);
}

int
__wrap_vdpa_restart_read(const char *device, void *buf, size_t size)
{
	(void)device;
	assert_in_range(store.len, 0, size);
	memcpy(buf, store.record, store.len);
	return (int)store.len;
}

int
__wrap_vdpa_restart_write(const char *device, const void *record, size_t len)
{
	(void)device;
	assert_in_range(len, 0, sizeof(store.record));
	for (unsigned int i = 0; is_in_job() && !LOAD(store.forgot) && i < 30000; i++)
		usleep(1000);
	memcpy(store.record, record, len);
	store.len = len;
	return 0;
}

void
__wrap_vdpa_restart_del(const char *device, const char *what)
{
	(void)device;
	(void)what;
}

int
__wrap_vdpa_restart_put(const char *device, const char *what, int fd)
{
	(void)device;
	(void)fd;
	assert_string_equal(what, VHU_KEPT_CONNECTION);
	return store.full ? vdpa_error(ENOSPC, "the store is full") : 0;
}

void
__wrap_vdpa_restart_forget(const char *device)
{
	(void)device;
	store.len = 0;
	STORE(store.forgot, true);
}

bool
__wrap_vdpa_consumer_has_features(struct vdpa_consumer *c, uint64_t *features)
{
	if (is_in_job())
		STORE(job.look, true);
	return __real_vdpa_consumer_has_features(c, features);
}

/* A queue that has stopped has requests under way. */
bool
__wrap_vdpa_consumer_has_requests(struct vdpa_consumer *c)
{
	return is_in_job() || __real_vdpa_consumer_has_requests(c);
}

bool
__wrap_vdpa_restart_holds(void)
{
	return store.holds;
}

static int
file_of(size_t size)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
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

	(void)arg;
	mapped.bytes += m->size;
	mapped.most = RTE_MAX(mapped.most, mapped.bytes);
	mapped.maps++;
	assert_in_range(m->size, 1, MEM_SIZE);
	(void)p[0];
	(void)p[m->size - 1];
	return 0;
}

static int
unmap_files(void *arg, const struct vdpa_dma_mapping *m)
{
	(void)arg;
	mapped.bytes -= m->size;
	return 0;
}

static struct vhu_kept_region
region_of(unsigned int i)
{
	return (struct vhu_kept_region){
		.region = {.guest_addr = 0x10000 + i * 2 * (uint64_t)MEM_SIZE,
			   .user_addr = UADDR + i * 2 * (uint64_t)MEM_SIZE,
			   .size = MEM_SIZE},
		.id = MEMORY + i,
	};
}

static void
open_session(struct fixture *f)
{
	struct vdpa_peer peer;

	vdpa_peer_self(&peer);
	f->s = vdpa_vhu_session_new(&f->dev, &peer);
	assert_non_null(f->s);
	f->dev.session = f->s;
}

static void
close_session(struct fixture *f)
{
	f->dev.session = NULL;
	vdpa_vhu_session_free(f->s);
	f->s = NULL;
}

/* A record of a connection that has said all there is to say. */
static void
write_record(struct fixture *f)
{
	const struct vhu_msg reply = {
		.request = VHU_GET_FEATURES, .flags = 5, .size = 8, .payload.u64 = V1};
	struct vdpa_mem_region_spec specs[REGIONS];
	struct vhu_kept_session *k;

	open_session(f);
	k = f->s->kept;
	f->s->protocol = f->dev.protocol;
	assert_int_equal(vdpa_consumer_set_features(f->s->consumer, f->dev.features), 0);
	for (unsigned int i = 0; i < REGIONS; i++) {
		k->regions[i] = region_of(i);
		specs[i] = (struct vdpa_mem_region_spec){.iova = k->regions[i].region.guest_addr,
							 .uaddr = k->regions[i].region.user_addr,
							 .size = MEM_SIZE,
							 .fd = store.fd[MEMORY + i]};
	}
	k->nregions = REGIONS;
	assert_int_equal(vdpa_consumer_set_memory(f->s->consumer, specs, REGIONS), 0);
	k->log = LOG;
	k->log_area = (struct vhu_log){.mmap_size = LOG_SIZE};
	k->inflight = INFLIGHT;
	k->inflight_area = (struct vhu_inflight){
		.mmap_size = (uint64_t)AREA * FAKE_VQS, .num_queues = FAKE_VQS, .queue_size = 64};
	k->configs[0] = (struct vhu_config){.offset = 2, .size = 4};
	k->nconfigs = 1;
	for (uint16_t i = 0; i < FAKE_VQS; i++)
		vdpa_consumer_announce_vq(f->s->consumer, i);
	for (uint16_t i = 0; i < FAKE_VQS; i++) {
		k->rings[i].kick = KICK + i;
		k->rings[i].call = CALL + i;
		k->rings[i].err = ERR + i;
		set_up_ring(f, i);
		enable_ring(f, i);
	}
	k->done = 0x1000;
	assert_int_equal(vdpa_vhu_record_write(&f->dev, &reply, 0), 0);
	assert_true(store.len > 0);
	close_session(f);
}

/* Bring a session to the record, as the next process does. */
static int
go_on(struct fixture *f)
{
	struct vhu_record *r;
	int rc;

	mapped.most = mapped.bytes;
	open_session(f);
	rc = vdpa_vhu_record_read(&f->dev, &r);
	if (rc == 0) {
		rc = vdpa_vhu_record_apply(&f->dev, f->s, r);
		if (rc == 0)
			rc = vdpa_vhu_record_start(&f->dev, f->s);
		free(r);
	}
	if (rc < 0)
		assert_string_not_equal(vdpa_error_message(), "");
	return rc;
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

static int
setup_record(void **state)
{
	static struct vdpa_config_ops config_ops;
	static const struct vdpa_dma_ops ops = {.map = map_files, .unmap = unmap_files};
	static struct vhu_shm areas;
	struct vdpa_dma_limits limits = {.page_size = 4096};
	struct fixture *f = calloc(1, sizeof(*f));
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
	f->dev = (struct vhu_device){.vdev = &f->fake->vdev,
				     .nvqs = FAKE_VQS,
				     .features = V1 | RTE_BIT64(VHOST_USER_F_PROTOCOL_FEATURES),
				     .protocol = VHU_PROTOCOL(REPLY_ACK) | VHU_PROTOCOL(MQ)};
	f->dev.fds = vdpa_fd_account_create();
	pthread_mutex_init(&f->dev.lock, NULL);
	f->dev.kept.on = true;
	f->dev.kept.wire = (struct vdpa_wire){.device = f->fake->vdev.name, .serial = 1};
	f->dev.kept.stride = AREA;
	areas.addr = calloc(FAKE_VQS, AREA);
	assert_non_null(areas.addr);
	f->dev.kept.areas = &areas;

	for (unsigned int i = 0; i < REGIONS; i++)
		store.fd[MEMORY + i] = file_of(MEM_SIZE);
	store.fd[LOG] = file_of(LOG_SIZE);
	store.fd[INFLIGHT] = file_of((size_t)AREA * FAKE_VQS);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	store.fd[CHANNEL] = pair[0];
	store.fd[FILE_OF_NO_KIND] = pair[1];
	for (unsigned int i = KICK; i < FILE_OF_NO_KIND; i++)
		store.fd[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	write_record(f);
	*state = f;
	return 0;
}

static int
teardown_record(void **state)
{
	struct fixture *f = *state;

	vdpa_unregister_device(&f->fake->vdev);
	free(f->dev.kept.areas->addr);
	vdpa_fd_account_destroy(f->dev.fds);
	vdpa_put_device(&f->fake->vdev);
	assert_int_equal(f->freed, 1);
	assert_int_equal(mapped.bytes, 0);
	vdpa_dma_domain_destroy(f->dma);
	pthread_mutex_destroy(&f->dev.lock);
	for (unsigned int i = NONE + 1; i < PLACES; i++)
		close(store.fd[i]);
	free(f);
	return group_teardown(NULL);
}

static void
what_was_written_goes_on(void **state)
{
	struct fixture *f = *state;

	if (go_on(f) < 0)
		fail_msg("%s", vdpa_error_message());
	assert_true(vdpa_consumer_is_running(f->s->consumer));
	assert_int_equal(mapped.most, REGIONS * MEM_SIZE + LOG_SIZE);
	for (unsigned int i = 0; i < FAKE_VQS; i++)
		assert_true(f->fake->vq[i].ready);
	close_session(f);
}

static struct vhu_record *
read_record(struct fixture *f)
{
	struct vhu_record *r;

	assert_int_equal(vdpa_vhu_record_read(&f->dev, &r), 0);
	return r;
}

/* The types of the record's parts, each as a bit, of which the reader must know those. */
static uint64_t
critical_parts(uint64_t *types)
{
	struct vdpa_tlv_reader reader = {
		.data = store.record, .left = store.len, .what = "the record"};
	uint64_t critical = 0;
	struct vdpa_tlv tlv;

	*types = 0;
	while (vdpa_tlv_next(&reader, &tlv) == 1) {
		assert_in_range(tlv.type, 0, 63);
		*types |= RTE_BIT64(tlv.type);
		if ((tlv.flags & VDPA_TLV_CRITICAL) != 0)
			critical |= RTE_BIT64(tlv.type);
	}
	return critical;
}

/* The next process removes the folder that this one has made. One of a version that does not know
 * of that leaves it, and goes on with the device. */
static void
that_the_folder_was_made_is_known_and_need_not_be(void **state)
{
	char dir[] = "/tmp/uvdpa-test.XXXXXX", path[64], folder[32];
	uint64_t types[2], critical[2];
	struct fixture *f = *state;
	struct vhu_record *r;

	assert_non_null(mkdtemp(dir));
	snprintf(folder, sizeof(folder), "%s/f", dir);
	snprintf(path, sizeof(path), "%s/s", folder);
	f->dev.path = path;
	f->dev.group = (gid_t)-1;
	f->dev.files = (struct vhu_files){.with_folder = true, .folder_mode = 0700};
	for (unsigned int was_made = 0; was_made < 2; was_made++) {
		/* One that is there is somebody else's, unless a former process has made it. */
		assert_int_equal(mkdir(folder, 0700), 0);
		f->dev.files.folder_was_made = was_made;
		assert_int_equal(vdpa_vhu_folder_make(&f->dev), 0);
		write_record(f);
		r = read_record(f);
		assert_int_equal(r->folder_made, was_made);
		free(r);
		critical[was_made] = critical_parts(&types[was_made]);
		vdpa_vhu_folder_remove(&f->dev);
		assert_int_equal(rmdir(folder), was_made ? -1 : 0);
	}
	/* A process that lives may go on with the device, in the same folder. */
	store.holds = true;
	assert_int_equal(mkdir(folder, 0700), 0);
	assert_int_equal(vdpa_vhu_folder_make(&f->dev), 0);
	vdpa_vhu_folder_remove(&f->dev);
	assert_int_equal(rmdir(folder), 0);
	store.holds = false;
	assert_int_equal(types[0] & ~types[1], 0);
	assert_int_equal(__builtin_popcountll(types[1] & ~types[0]), 1);
	assert_int_equal(critical[0], critical[1]);
	assert_int_equal(rmdir(dir), 0);
	f->dev.files = (struct vhu_files){0};
	write_record(f);
}

/* A ring that the device did not take has its kick eventfd in the record, for the next one. */
static void
a_refused_ring_leaves_no_descriptor_open(void **state)
{
	struct fixture *f = *state;
	struct vhu_record *r = read_record(f);
	unsigned int fds;

	/* What a session leaves open for good is there. */
	assert_int_equal(go_on(f), 0);
	close_session(f);
	fds = count_fds();
	r->rings[0].facts.runs = false;
	r->rings[0].facts.refused = true;
	assert_true(r->rings[0].facts.has_kick && r->rings[0].kick != 0);
	r->rings[1].facts.runs = false;
	r->rings[1].facts.has_kick = false;
	assert_true(r->rings[1].kick != 0);
	open_session(f);
	assert_int_equal(vdpa_vhu_record_apply(&f->dev, f->s, r), 0);
	assert_int_equal(f->s->kept->rings[0].kick, r->rings[0].kick);
	close_session(f);
	assert_int_equal(count_fds(), fds);
	free(r);
}

/* What a front end has said of a ring may not hold any more: its memory is gone, its size was for
 * the other format. Of one that does not run it says so again before a start. */
static void
what_does_not_hold_of_a_stopped_ring_is_left_out(void **state)
{
	struct fixture *f = *state;

	for (unsigned int bad_num = 0; bad_num < 2; bad_num++) {
		struct vhu_record *r = read_record(f);
		struct vhu_record_ring *ring = &r->rings[1];
		struct vdpa_consumer_vq_facts facts;

		if (bad_num)
			ring->facts.num = 100;
		else
			ring->facts.addr.driver = UADDR - MEM_SIZE;
		open_session(f);
		assert_int_equal(vdpa_vhu_record_apply(&f->dev, f->s, r),
				 bad_num ? -EINVAL : -EFAULT);
		/* Where it lies in the front end's process is nobody else's to know. */
		if (!bad_num)
			assert_string_equal(vdpa_error_message(),
					    "queue 1: the avail ring (134 bytes) does not lie in "
					    "one memory region");
		close_session(f);

		ring->facts.runs = ring->facts.has_kick = false;
		ring->kick = 0;
		open_session(f);
		assert_int_equal(vdpa_vhu_record_apply(&f->dev, f->s, r), 0);
		vdpa_consumer_get_vq_facts(f->s->consumer, 1, &facts);
		assert_int_equal(facts.num, bad_num ? 0 : 64);
		assert_false(facts.has_addr);
		assert_int_equal(vdpa_vhu_record_start(&f->dev, f->s), 0);
		/* The device starts its queues together. */
		assert_false(vdpa_consumer_is_running(f->s->consumer));
		set_up_ring(f, 1);
		for (unsigned int i = 0; i < FAKE_VQS; i++)
			assert_true(f->fake->vq[i].ready);
		close_session(f);
		free(r);
	}
}

#define DRIVER_STATUS 0xf

/* A planned end of a device that goes on at no other: it starts where it stands, once the process
 * that has stopped it does not come back, and its record says before that a kill ends it. */
static void
what_was_stopped_starts_once_nobody_has_it_back(void **state)
{
	struct fixture *f = *state;
	struct vhu_record *r;

	snprintf(f->dev.kept.planned.crash, sizeof(f->dev.kept.planned.crash), "a kill ends it");
	for (uint16_t i = 0; i < FAKE_VQS; i++) {
		const uint16_t idx = 7 + i;

		/* All that was made available is used. */
		assert_int_equal(pwrite(store.fd[MEMORY], &idx, 2, i * 0x4000 + 0x1002), 2);
		assert_int_equal(pwrite(store.fd[MEMORY], &idx, 2, i * 0x4000 + 0x2002), 2);
	}
	if (go_on(f) < 0)
		fail_msg("%s", vdpa_error_message());
	vdpa_consumer_set_status(f->s->consumer, DRIVER_STATUS);
	assert_int_equal(vdpa_vhu_planned_leave(&f->dev), 0);
	assert_int_equal(f->fake->status, 0);
	close_session(f);

	r = read_record(f);
	assert_string_equal(r->cold, "");
	assert_true(vdpa_vhu_planned_has_stopped(r));
	for (unsigned int i = 0; i < FAKE_VQS; i++) {
		assert_true(r->rings[i].facts.runs && r->rings[i].kick != 0);
		assert_int_equal(r->rings[i].facts.base, 7 + i);
	}
	open_session(f);
	assert_int_equal(vdpa_vhu_planned_check(&f->dev, r), 0);
	assert_int_equal(vdpa_vhu_record_apply(&f->dev, f->s, r), 0);
	assert_int_equal(vdpa_vhu_record_write(&f->dev, NULL, 0), 0);
	/* The front end does not say it again, whenever the device starts. */
	free(r);
	r = read_record(f);
	assert_int_equal(r->connection.status, DRIVER_STATUS);
	store.holds = true;
	assert_int_equal(vdpa_vhu_planned_go_on(&f->dev, f->s), 0);
	assert_false(vdpa_consumer_is_running(f->s->consumer));
	free(r);
	store.holds = false;
	assert_true(vdpa_vhu_planned_start_late(&f->dev));
	assert_true(vdpa_consumer_is_running(f->s->consumer));
	for (uint16_t i = 0; i < FAKE_VQS; i++)
		assert_int_equal(vdpa_consumer_get_vq_base(f->s->consumer, i, false), 7 + i);
	close_session(f);

	/* Killed now, it is not where the record says. */
	r = read_record(f);
	assert_string_equal(r->cold, "a kill ends it");
	assert_int_equal(vdpa_vhu_planned_check(&f->dev, r), -EOPNOTSUPP);
	free(r);
}

static void
pass(struct vdpa_work *work)
{
	(void)work;
	STORE(job.passed, true);
}

/* While the device is being stopped, a queue changes its path, and what the front end is to hear of
 * that is looked at, if it is. */
static void
change_path(void *arg)
{
	struct fixture *f = arg;

	vdpa_vhu_doorbell_changed(&f->dev, 0);
	vdpa_work_post(vdpa_get_work_queue(f->dev.vdev), &job.work);
	EVENTUALLY(LOAD(job.look) || LOAD(job.passed));
}

/* Nobody writes its record behind that. */
static void
what_could_not_be_left_is_not(void **state)
{
	struct fixture *f = *state;

	snprintf(f->dev.kept.planned.crash, sizeof(f->dev.kept.planned.crash), "a kill ends it");
	if (go_on(f) < 0)
		fail_msg("%s", vdpa_error_message());
	assert_int_equal(vdpa_vhu_record_write(&f->dev, NULL, 0), 0);
	f->dev.conn.fd = -1;
	f->dev.conn.session = f->s;
	f->fake->on_reset = change_path;
	f->fake->on_reset_arg = f;
	store.full = true;
	job.others = pthread_self();
	job.work.run = pass;
	vdpa_vhu_conn_leave(&f->dev);
	vdpa_work_cancel(&f->s->doorbell_work);
	vdpa_work_cancel(&job.work);
	assert_true(LOAD(job.look) || LOAD(job.passed));
	assert_false(f->dev.kept.on);
	assert_true(LOAD(store.forgot));
	/* No record is there. */
	assert_int_equal(store.len, 0);
	job.work.run = NULL;
	f->fake->on_reset = NULL;
	close_session(f);
}

static struct {
	pthread_t caller;
	sem_t returned;
} start;

/* The device's own job is slow. */
static void
wait_for_caller(void *arg)
{
	struct timespec end;

	(void)arg;
	if (pthread_equal(pthread_self(), start.caller))
		return;
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_nsec += 200000000;
	end.tv_sec += end.tv_nsec / 1000000000;
	end.tv_nsec %= 1000000000;
	if (sem_timedwait(&start.returned, &end) == 0)
		sem_post(&start.returned); /* for the next reset */
}

/* Its start fails at each op in turn: the caller hears of it at once, not when the device's own job
 * has stopped it. */
static void
a_device_that_does_not_start_does_not_go_on(void **state)
{
	struct fixture *f = *state;
	unsigned int refused = 0;
	const char *failed;
	bool runs;
	int rc;

	start.caller = pthread_self();
	f->fake->on_reset = wait_for_caller;
	for (unsigned int at = 1;; at++) {
		sem_init(&start.returned, 0, 0);
		f->fake->failed_op = NULL;
		f->fake->fail_at = f->fake->calls + at;
		rc = go_on(f);
		f->fake->fail_at = 0;
		failed = f->fake->failed_op;
		runs = vdpa_consumer_is_running(f->s->consumer);
		sem_post(&start.returned);
		close_session(f);
		if (runs != (rc == 0))
			fail_msg("%s fails: %d, and the device %s", failed, rc,
				 runs ? "runs" : "does not run");
		if (failed == NULL)
			break;
		refused += rc < 0;
	}
	f->fake->on_reset = NULL;
	assert_int_equal(rc, 0);
	assert_in_range(refused, 3, 100);
}

static void
what_others_wrote_is_refused_or_goes_on(void **state)
{
	struct fixture *f = *state;
	const char *other = getenv("UVDPA_TEST_SEED");
	unsigned int count = getenv("UVDPA_TEST_LONG") != NULL ? 100000 : 1000;
	unsigned int went_on = 0, refused = 0;
	static uint8_t good[sizeof(store.record)];
	size_t len = store.len;

	mutate_seed(other != NULL ? strtoull(other, NULL, 0) : 1);
	memcpy(good, store.record, len);
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
		/* No more than each region of each table that a file has memory for. */
		assert_in_range(f->s->kept->nregions, 0, VHU_MEM_SLOTS_MAX);
		close_session(f);
		assert_int_equal(f->fake->vdev.config->get_status(&f->fake->vdev), 0);
	}
	store.swapped = false;
	memcpy(store.record, good, len);
	store.len = len;
	print_message("%u records: %u went on, %u were refused, %u mappings\n", count, went_on,
		      refused, mapped.maps);
	assert_true(went_on > count / 20);
	assert_true(refused > count / 20);
	/* And nothing of them is left. */
	what_was_written_goes_on(state);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_written_goes_on),
		cmocka_unit_test(that_the_folder_was_made_is_known_and_need_not_be),
		cmocka_unit_test(a_refused_ring_leaves_no_descriptor_open),
		cmocka_unit_test(what_does_not_hold_of_a_stopped_ring_is_left_out),
		cmocka_unit_test(a_device_that_does_not_start_does_not_go_on),
		cmocka_unit_test(what_others_wrote_is_refused_or_goes_on),
		/* Leave another record, and none. */
		cmocka_unit_test(what_was_stopped_starts_once_nobody_has_it_back),
		cmocka_unit_test(what_could_not_be_left_is_not),
	};

	return cmocka_run_group_tests(tests, setup_record, teardown_record);
}
