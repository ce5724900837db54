/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Virtual machines and their devices: owns the registry of VMs, decides which front ends and which
 * memory tables go together. See vm.h.
 */

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "device_priv.h"
#include "mem_shared.h"
#include "tree.h"

struct vdpa_vm_member {
	TAILQ_ENTRY(vdpa_vm_member) next; /* registry and tables */
	struct vdpa_vm *vm;
	char device[VDPA_NAME_MAX];
	struct vdpa_peer peer; /* registry: its front end; unknown: none */
	/* tables: what its front end has said, with references; NULL: nothing */
	struct vdpa_iotlb *table, *proposed;
	bool leaves; /* atomic: its front end has gone, and its table goes too */
};

struct vdpa_vm {
	char name[VDPA_NAME_MAX];   /* first: the key */
	unsigned int n;		    /* registry: members */
	pthread_mutex_t table_lock; /* members' tables */
	pthread_cond_t table_gone;  /* one of them */
	/* Changed under both locks, so either lets it be read. */
	TAILQ_HEAD(, vdpa_vm_member) members;
};

_Static_assert(offsetof(struct vdpa_vm, name) == 0, "a VM begins with its key");

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;

static int
compare_names(const void *a, const void *b)
{
	return strcmp(a, b);
}

static struct vdpa_tree vms = {.compare = compare_names}; /* under the registry lock */

int
vdpa_vm_check_name(const char *vm)
{
	if (vdpa_name_is_valid(vm))
		return 0;
	return vdpa_error(EINVAL, "vm '%s': allowed are 1 to %d of A-Z a-z 0-9 . _ -", vm,
			  VDPA_NAME_MAX - 1);
}

/* The VM of that name, which may be a new one. Under the registry lock. */
static struct vdpa_vm *
vm_get(const char *name)
{
	struct vdpa_vm *vm = vdpa_tree_find(&vms, name);
	pthread_condattr_t attr;

	if (vm != NULL)
		return vm;
	vm = calloc(1, sizeof(*vm));
	if (vm == NULL)
		return NULL;
	snprintf(vm->name, sizeof(vm->name), "%s", name);
	if (vdpa_tree_add(&vms, vm) < 0) {
		free(vm);
		return NULL;
	}
	pthread_mutex_init(&vm->table_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&vm->table_gone, &attr);
	pthread_condattr_destroy(&attr);
	TAILQ_INIT(&vm->members);
	return vm;
}

int
vdpa_vm_join(const char *name, const char *device, struct vdpa_vm_member **out)
{
	struct vdpa_vm_member *m;
	int rc = vdpa_vm_check_name(name);

	if (rc < 0)
		return rc;
	m = calloc(1, sizeof(*m));
	if (m == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", device);
	snprintf(m->device, sizeof(m->device), "%s", device);
	pthread_mutex_lock(&registry_lock);
	m->vm = vm_get(name);
	if (m->vm != NULL) {
		pthread_mutex_lock(&m->vm->table_lock);
		TAILQ_INSERT_TAIL(&m->vm->members, m, next);
		pthread_mutex_unlock(&m->vm->table_lock);
		m->vm->n++;
	}
	pthread_mutex_unlock(&registry_lock);
	if (m->vm == NULL) {
		free(m);
		return vdpa_error(ENOMEM, "%s: out of memory", device);
	}
	*out = m;
	return 0;
}

void
vdpa_vm_leave(struct vdpa_vm_member *m)
{
	struct vdpa_vm *vm;

	if (m == NULL)
		return;
	vm = m->vm;
	pthread_mutex_lock(&registry_lock);
	pthread_mutex_lock(&vm->table_lock);
	TAILQ_REMOVE(&vm->members, m, next);
	pthread_mutex_unlock(&vm->table_lock);
	if (--vm->n == 0)
		vdpa_tree_del(&vms, vm);
	else
		vm = NULL;
	pthread_mutex_unlock(&registry_lock);
	vdpa_iotlb_put(m->table);
	vdpa_iotlb_put(m->proposed);
	free(m);
	if (vm == NULL)
		return;
	pthread_cond_destroy(&vm->table_gone);
	pthread_mutex_destroy(&vm->table_lock);
	free(vm);
}

const char *
vdpa_vm_name(const struct vdpa_vm_member *m)
{
	return m->vm->name;
}

unsigned int
vdpa_vm_devices(const struct vdpa_vm_member *m)
{
	unsigned int n;

	pthread_mutex_lock(&registry_lock);
	n = m->vm->n;
	pthread_mutex_unlock(&registry_lock);
	return n;
}

/* Front ends. */

/* Under the registry lock. */
static int
check_peer(const struct vdpa_vm_member *m, const struct vdpa_peer *peer)
{
	const struct vdpa_vm_member *other;

	/* Such a user is not even the same as itself. */
	if (!vdpa_peer_same_user(peer, peer))
		return vdpa_error(
			EACCES,
			"%s: the user of the front end is not known, and devices of one VM "
			"(%s) have front ends of one user",
			m->device, m->vm->name);
	TAILQ_FOREACH (other, &m->vm->members, next)
		if (other != m && other->peer.known && !vdpa_peer_same_user(peer, &other->peer))
			break;
	if (other == NULL)
		return 0;
	return vdpa_error(EACCES,
			  "%s: the front end has uid %u, and that of %s, of the same VM %s, "
			  "has uid %u: run both as one user, or add one of the devices with "
			  "another vm",
			  m->device, (unsigned int)peer->uid, other->device, m->vm->name,
			  (unsigned int)other->peer.uid);
}

int
vdpa_vm_admit(struct vdpa_vm_member *m, const struct vdpa_peer *peer)
{
	int rc;

	pthread_mutex_lock(&registry_lock);
	rc = check_peer(m, peer);
	pthread_mutex_unlock(&registry_lock);
	return rc;
}

int
vdpa_vm_peer_comes(struct vdpa_vm_member *m, const struct vdpa_peer *peer)
{
	int rc;

	pthread_mutex_lock(&registry_lock);
	rc = check_peer(m, peer);
	if (rc == 0)
		m->peer = *peer;
	pthread_mutex_unlock(&registry_lock);
	return rc;
}

void
vdpa_vm_peer_leaves(struct vdpa_vm_member *m)
{
	__atomic_store_n(&m->leaves, true, __ATOMIC_RELEASE);
}

void
vdpa_vm_peer_goes(struct vdpa_vm_member *m)
{
	pthread_mutex_lock(&registry_lock);
	m->peer = (struct vdpa_peer){.known = false};
	pthread_mutex_unlock(&registry_lock);
}

/* Memory tables. From here on: under the lock of the VM's tables. */

static bool
is_same_memory(const struct vdpa_mem_region *a, const struct vdpa_mem_region *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->generation == b->generation &&
	       a->offset - a->iova == b->offset - b->iova;
}

static int
contradicts(const struct vdpa_vm_member *m, const struct vdpa_mem_region *r,
	    const struct vdpa_vm_member *other, const struct vdpa_mem_region *theirs)
{
	return vdpa_error(EBUSY,
			  "memory at IOVA 0x%" PRIx64 "-0x%" PRIx64 " (file %u:%u inode %" PRIu64
			  " offset 0x%" PRIx64 ") contradicts that of %s at 0x%" PRIx64
			  "-0x%" PRIx64 " (file %u:%u inode %" PRIu64 " offset 0x%" PRIx64
			  "): both are of VM %s",
			  r->iova, r->iova + r->size - 1, major(r->dev), minor(r->dev),
			  (uint64_t)r->ino, r->offset, other->device, theirs->iova,
			  theirs->iova + theirs->size - 1, major(theirs->dev), minor(theirs->dev),
			  (uint64_t)theirs->ino, theirs->offset, m->vm->name);
}

/* Both tables are sorted by IOVA: one walk finds whatever they have at the same addresses. */
static int
check_pair(const struct vdpa_vm_member *m, const struct vdpa_iotlb *tlb,
	   const struct vdpa_vm_member *other, const struct vdpa_iotlb *theirs)
{
	uint32_t i = 0, j = 0;

	if (theirs == NULL)
		return 0;
	while (i < tlb->n && j < theirs->n) {
		const struct vdpa_mem_region *a = tlb->regions[i], *b = theirs->regions[j];

		if (a->iova + (a->size - 1) < b->iova)
			i++;
		else if (b->iova + (b->size - 1) < a->iova)
			j++;
		else if (a != b && !is_same_memory(a, b))
			return contradicts(m, a, other, b);
		else if (a->iova + a->size <= b->iova + b->size)
			i++;
		else
			j++;
	}
	return 0;
}

/* Whether another's table contradicts a new one; *leaves: those that do are about to go. */
static int
check_others(const struct vdpa_vm_member *m, const struct vdpa_iotlb *tlb, bool *leaves)
{
	const struct vdpa_vm_member *other;
	int rc = 0;

	*leaves = true;
	TAILQ_FOREACH (other, &m->vm->members, next) {
		int one = 0;

		if (other != m)
			one = check_pair(m, tlb, other, other->table);
		if (other != m && one == 0)
			one = check_pair(m, tlb, other, other->proposed);
		if (one == 0)
			continue;
		rc = one;
		*leaves = __atomic_load_n(&other->leaves, __ATOMIC_ACQUIRE);
		if (!*leaves)
			break;
	}
	return rc;
}

/*
 * A new table is the device's next one if no other's contradicts it. When a guest ends, its devices
 * leave one after the other, and the next guest may have the first of them already: it waits for
 * the rest.
 */
static int
propose(struct vdpa_vm_member *m, struct vdpa_iotlb *tlb)
{
	struct timespec until;
	bool leaves;
	int rc;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += VDPA_VM_LEAVE_MS / 1000;
	do
		rc = check_others(m, tlb, &leaves);
	while (rc < 0 && leaves &&
	       pthread_cond_timedwait(&m->vm->table_gone, &m->vm->table_lock, &until) == 0);
	if (rc < 0)
		return rc;
	vdpa_iotlb_put(m->proposed);
	m->proposed = vdpa_iotlb_get(tlb);
	return 0;
}

int
vdpa_vm_table_propose(struct vdpa_vm_member *m, struct vdpa_iotlb *tlb)
{
	int rc;

	pthread_mutex_lock(&m->vm->table_lock);
	rc = propose(m, tlb);
	pthread_mutex_unlock(&m->vm->table_lock);
	return rc;
}

/* Add a table to the list unless it has what the last one has, as tables of one VM do most often.
 */
static void
list_table(const struct vdpa_iotlb **tlbs, unsigned int *n, const struct vdpa_iotlb *tlb)
{
	const struct vdpa_iotlb *last = *n > 0 ? tlbs[*n - 1] : NULL;

	if (tlb == NULL ||
	    (last != NULL && last->n == tlb->n &&
	     memcmp(last->regions, tlb->regions, tlb->n * sizeof(tlb->regions[0])) == 0))
		return;
	tlbs[(*n)++] = tlb;
}

/* The tables of the VM's other devices, for the caller to free. NULL: no memory for the list,
 * without which regions are mapped once more. */
static const struct vdpa_iotlb **
list_others(const struct vdpa_vm_member *m, unsigned int *n)
{
	const struct vdpa_vm_member *other;
	const struct vdpa_iotlb **tlbs;
	unsigned int room = 0;

	*n = 0;
	TAILQ_FOREACH (other, &m->vm->members, next)
		room += 2;
	tlbs = calloc(room, sizeof(tlbs[0]));
	if (tlbs == NULL)
		return NULL;
	TAILQ_FOREACH (other, &m->vm->members, next) {
		if (other == m)
			continue;
		list_table(tlbs, n, other->table);
		list_table(tlbs, n, other->proposed);
	}
	return tlbs;
}

static int
create(const struct vdpa_vm_member *m, const struct vdpa_iotlb *old,
       const struct vdpa_mem_region_spec *specs, unsigned int n, struct vdpa_iotlb **out)
{
	unsigned int n_tlbs;
	const struct vdpa_iotlb **tlbs = list_others(m, &n_tlbs);
	int rc = vdpa_iotlb_create_shared(old, tlbs, n_tlbs, specs, n, out);

	free(tlbs);
	return rc;
}

static int
add(const struct vdpa_vm_member *m, const struct vdpa_iotlb *old,
    const struct vdpa_mem_region_spec *spec, struct vdpa_iotlb **out)
{
	unsigned int n_tlbs;
	const struct vdpa_iotlb **tlbs = list_others(m, &n_tlbs);
	int rc = vdpa_iotlb_add_shared(old, tlbs, n_tlbs, spec, out);

	free(tlbs);
	return rc;
}

/* One that is refused is dropped. */
static int
propose_new(struct vdpa_vm_member *m, struct vdpa_iotlb *tlb)
{
	int rc = propose(m, tlb);

	if (rc < 0)
		vdpa_iotlb_put(tlb);
	return rc;
}

int
vdpa_vm_table_create(struct vdpa_vm_member *m, const struct vdpa_iotlb *old,
		     const struct vdpa_mem_region_spec *specs, unsigned int n,
		     struct vdpa_iotlb **out)
{
	int rc;

	pthread_mutex_lock(&m->vm->table_lock);
	rc = create(m, old, specs, n, out);
	rc = rc < 0 ? rc : propose_new(m, *out);
	pthread_mutex_unlock(&m->vm->table_lock);
	return rc;
}

int
vdpa_vm_table_add(struct vdpa_vm_member *m, const struct vdpa_iotlb *old,
		  const struct vdpa_mem_region_spec *spec, struct vdpa_iotlb **out)
{
	int rc;

	pthread_mutex_lock(&m->vm->table_lock);
	rc = add(m, old, spec, out);
	rc = rc < 0 ? rc : propose_new(m, *out);
	pthread_mutex_unlock(&m->vm->table_lock);
	return rc;
}

int
vdpa_vm_table_build(struct vdpa_vm_member *m, const struct vdpa_iotlb *old,
		    const struct vdpa_mem_region_spec *specs, unsigned int n,
		    struct vdpa_iotlb **out)
{
	int rc;

	pthread_mutex_lock(&m->vm->table_lock);
	rc = create(m, old, specs, n, out);
	pthread_mutex_unlock(&m->vm->table_lock);
	return rc;
}

int
vdpa_vm_table_grow(struct vdpa_vm_member *m, const struct vdpa_iotlb *old,
		   const struct vdpa_mem_region_spec *spec, struct vdpa_iotlb **out)
{
	int rc;

	pthread_mutex_lock(&m->vm->table_lock);
	rc = add(m, old, spec, out);
	pthread_mutex_unlock(&m->vm->table_lock);
	return rc;
}

void
vdpa_vm_table_settle(struct vdpa_vm_member *m, struct vdpa_iotlb *tlb)
{
	struct vdpa_iotlb *table, *proposed;

	pthread_mutex_lock(&m->vm->table_lock);
	table = m->table;
	proposed = m->proposed;
	m->table = vdpa_iotlb_get(tlb);
	m->proposed = NULL;
	if (tlb == NULL)
		__atomic_store_n(&m->leaves, false, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&m->vm->table_gone);
	pthread_mutex_unlock(&m->vm->table_lock);
	vdpa_iotlb_put(table);
	vdpa_iotlb_put(proposed);
}
