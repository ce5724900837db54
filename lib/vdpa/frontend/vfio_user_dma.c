/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The table of DMA ranges of a client. A range without a file, or of one that we may not map for
 * reading and writing, is remembered and cannot be reached: QEMU maps its ROMs so.
 *
 * The ranges are the nodes of a balanced tree (tsearch(3)) in which two that overlap are equal, so
 * that one search finds whether anything lies in a range of addresses.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vfio_user_dma.h"
#include "vdpa_args.h"
#include "vdpa_fd.h"
#include "vdpa_foreign_fd.h"

struct vfu_dma_range {
	uint64_t first, last; /* addresses */
	uint64_t offset;
	uint64_t generation; /* of memory in a kernel's file; else 0 */
	bool readonly;
	struct vfu_dma_file *file; /* NULL: cannot be reached */
	struct vfu_dma *table;	   /* whose searches are counted */
};

static int
compare(const void *a, const void *b)
{
	const struct vfu_dma_range *x = a, *y = b;

	x->table->steps++;
	return x->last < y->first ? -1 : x->first > y->last;
}

/* Some range that has an address of these. */
static struct vfu_dma_range *
find(struct vfu_dma *t, uint64_t first, uint64_t last)
{
	const struct vfu_dma_range key = {.first = first, .last = last, .table = t};
	void *node = tfind(&key, &t->ranges, compare);

	return node != NULL ? *(struct vfu_dma_range **)node : NULL;
}

static void
count(struct vfu_dma *t, const struct vfu_dma_range *r, int ranges, uint64_t size)
{
	t->n += (unsigned int)ranges;
	if (r->file == NULL)
		return;
	r->file->ranges += (unsigned int)ranges;
	t->n_mapped += (unsigned int)ranges;
	t->mapped_size += size;
	if (r->file->ranges == 0)
		close(r->file->fd);
}

/* The iotlb follows the ranges region by region; where it cannot, it is made anew when it is asked
 * for, which says why. */
static void
follow(struct vfu_dma *t, int rc, struct vdpa_iotlb *now)
{
	t->follows = rc == 0;
	if (rc < 0)
		return;
	vdpa_iotlb_put(t->iotlb);
	t->iotlb = now;
	if (now->n > 0)
		return;
	vdpa_iotlb_put(now);
	t->iotlb = NULL;
}

/* Before a range changes or goes. */
static void
remove_region(struct vfu_dma *t, const struct vfu_dma_range *r)
{
	struct vdpa_iotlb *now = NULL;
	int rc;

	if (!t->follows || r->file == NULL)
		return;
	rc = vdpa_iotlb_remove(t->iotlb, r->first, r->first, r->last - r->first + 1, &now);
	follow(t, rc, now);
}

/* A client behind an IOMMU that translates has buffers across ranges, which keep their order; in a
 * VM the devices have one memory and share its ranges. */
static struct vdpa_mem_region_spec
spec_of(const struct vfu_dma_range *r)
{
	return (struct vdpa_mem_region_spec){
		.iova = r->first,
		.uaddr = r->first,
		.size = r->last - r->first + 1,
		.offset = r->offset,
		.fd = r->file->fd,
		.in_order = !r->file->kernel && !vdpa_consumer_shares_memory(r->table->consumer),
		.readonly = r->readonly,
		.kernel_file = r->file->kernel,
		.generation = r->generation,
	};
}

/* After it has changed or come. */
static void
add_region(struct vfu_dma *t, const struct vfu_dma_range *r)
{
	struct vdpa_mem_region_spec spec;
	struct vdpa_iotlb *now = NULL;
	int rc;

	if (!t->follows || r->file == NULL)
		return;
	spec = spec_of(r);
	rc = vdpa_consumer_grow_table(t->consumer, t->iotlb, &spec, &now);
	follow(t, rc, now);
}

/* A range that overlaps none. */
static int
insert(struct vfu_dma *t, const struct vfu_dma_range *range)
{
	struct vfu_dma_range *r;

	if (t->n == VFU_DMA_RANGES_MAX)
		return vdpa_error(ENOSPC, "more than %u DMA ranges that do not join",
				  VFU_DMA_RANGES_MAX);
	r = malloc(sizeof(*r));
	if (r == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	*r = *range;
	/* The kernel may have put other pages where some were: they are mapped anew. */
	if (r->file != NULL && r->file->kernel)
		r->generation = vdpa_mem_generation_new();
	if (tsearch(r, &t->ranges, compare) == NULL) {
		free(r);
		return vdpa_error(ENOMEM, "out of memory");
	}
	count(t, r, 1, r->last - r->first + 1);
	add_region(t, r);
	return 0;
}

static void delete (struct vfu_dma *t, struct vfu_dma_range *r)
{
	remove_region(t, r);
	tdelete(r, &t->ranges, compare);
	count(t, r, -1, -(r->last - r->first + 1));
	free(r);
}

static int
check_bounds(uint64_t address, uint64_t size)
{
	return size == 0 || address + (size - 1) < address
		       ? vdpa_error(EINVAL, "DMA range 0x%" PRIx64 " of 0x%" PRIx64 " bytes",
				    address, size)
		       : 0;
}

/* Whether the core will be able to map it: nothing of that is found out only when it does. */
static int
check_file(const struct vfu_dma *t, const struct vfu_dma_range *r, int fd, struct stat *st,
	   bool *kernel)
{
	uint64_t size = r->last - r->first + 1, page = (uint64_t)sysconf(_SC_PAGESIZE), end;
	/* An access to a file of another kind waits for whoever serves it. Only memory files have
	 * seals. */
	int seals = fcntl(fd, F_GET_SEALS), flags = fcntl(fd, F_GETFL);

	/* The rings of a kernel's driver; the kernel itself serves accesses. */
	*kernel = seals < 0 && vdpa_fd_is_vduse_domain(fd);
	if (seals < 0 && !*kernel)
		return vdpa_error(EINVAL,
				  "DMA range 0x%" PRIx64
				  ": the file is not a shared memory file: use a memfd, or a "
				  "file in /dev/shm or of huge pages (QEMU: "
				  "memory-backend-memfd,share=on)",
				  r->first);
	if ((flags & O_ACCMODE) != O_RDWR ||
	    (!*kernel && (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0))
		return vdpa_error(EACCES,
				  "DMA range 0x%" PRIx64 ": the file cannot be read and written",
				  r->first);
	if (((r->first | size | r->offset) & (VFU_DMA_ALIGN - 1)) != 0)
		return vdpa_error(EINVAL,
				  "DMA range 0x%" PRIx64 " of 0x%" PRIx64 " bytes at 0x%" PRIx64
				  " of its file: not aligned to %u",
				  r->first, size, r->offset, VFU_DMA_ALIGN);
	if (r->last == UINT64_MAX)
		return vdpa_error(EINVAL, "DMA range 0x%" PRIx64 ": ends at 2^64", r->first);
	if (size > VDPA_MEM_SIZE_MAX - t->mapped_size)
		return vdpa_error(E2BIG, "DMA ranges of more than %" PRIu64 " TiB",
				  VDPA_MEM_SIZE_MAX >> 40);
	if (fstat(fd, st) < 0)
		return vdpa_error(errno, "DMA range 0x%" PRIx64 ": %m", r->first);
	if (*kernel)
		return 0;
	/* Its last page is there as a whole, and clients map whole pages. */
	end = ((uint64_t)st->st_size + page - 1) & ~(page - 1);
	if (r->offset > end || size > end - r->offset)
		return vdpa_error(EINVAL,
				  "DMA range 0x%" PRIx64 ": 0x%" PRIx64 " bytes at 0x%" PRIx64
				  " do not lie in a file of 0x%" PRIx64,
				  r->first, size, r->offset, (uint64_t)st->st_size);
	return 0;
}

/* The table's entry of the file, perhaps one without ranges yet. All VDUSE domains have one inode,
 * and a client's function serves one. */
static int
find_file(struct vfu_dma *t, int fd, const struct stat *st, bool kernel, struct vfu_dma_file **out)
{
	struct vfu_dma_file *room = NULL;

	for (unsigned int i = 0; i < VFU_DMA_FILES_MAX; i++) {
		struct vfu_dma_file *f = &t->files[i];

		if (f->ranges == 0) {
			room = room == NULL ? f : room;
		} else if (f->dev == st->st_dev && f->ino == st->st_ino) {
			*out = f;
			return 0;
		}
	}
	if (room == NULL)
		return vdpa_error(ENOSPC, "DMA ranges in more than %u files", VFU_DMA_FILES_MAX);
	*room = (struct vfu_dma_file){.fd = vdpa_fd_dup(fd, "a DMA range"),
				      .dev = st->st_dev,
				      .ino = st->st_ino,
				      .kernel = kernel};
	if (room->fd < 0)
		return room->fd;
	*out = room;
	return 0;
}

/* Whether memory keeps its order beside other memory: see VDPA_MEM_WINDOW. */
static bool
in_window(const struct vfu_dma_range *r)
{
	return r->first / VDPA_MEM_WINDOW == r->last / VDPA_MEM_WINDOW;
}

/* Whether b, of the addresses behind a's, goes on where a ends; two that keep their order beside
 * others go on doing so. */
static bool
joins(const struct vfu_dma_range *a, const struct vfu_dma_range *b)
{
	if (a != NULL && b != NULL && a->file != NULL && b->first % VDPA_MEM_WINDOW == 0 &&
	    in_window(a) && in_window(b))
		return false;
	if (a != NULL && a->file != NULL && a->file->kernel)
		return false;
	return a != NULL && b != NULL && (a->first != 0 || b->last != UINT64_MAX) &&
	       a->file == b->file && a->readonly == b->readonly &&
	       (a->file == NULL || a->offset + (a->last - a->first + 1) == b->offset);
}

/* A new range becomes part of those beside it, or one of its own. */
static int
join(struct vfu_dma *t, const struct vfu_dma_range *range)
{
	struct vfu_dma_range *before = NULL, *after = NULL;
	uint64_t size = range->last - range->first + 1;

	if (range->first > 0)
		before = find(t, range->first - 1, range->first - 1);
	if (range->last < UINT64_MAX)
		after = find(t, range->last + 1, range->last + 1);
	if (!joins(before, range))
		before = NULL;
	if (!joins(range, after))
		after = NULL;
	/* No range has 2^64 addresses: its size has no number. */
	if (before != NULL && after != NULL && before->first == 0 && after->last == UINT64_MAX)
		after = NULL;
	if (before == NULL && after == NULL)
		return insert(t, range);
	if (before == NULL) {
		remove_region(t, after);
		after->first = range->first;
		after->offset = range->offset;
		count(t, after, 0, size);
		add_region(t, after);
		return 0;
	}
	if (after != NULL) {
		size += after->last - after->first + 1;
		delete (t, after);
	}
	remove_region(t, before);
	before->last += size;
	count(t, before, 0, size);
	add_region(t, before);
	return 0;
}

static int
map_range(struct vfu_dma *t, uint64_t address, uint64_t size, uint64_t offset, int fd,
	  bool readonly)
{
	struct vfu_dma_range range = {.first = address,
				      .last = address + (size - 1),
				      .offset = offset,
				      .readonly = fd >= 0 && readonly,
				      .table = t};
	const struct vfu_dma_range *other;
	struct stat st;
	bool kernel;
	int rc;

	rc = check_bounds(address, size);
	if (rc < 0)
		return rc;
	other = find(t, range.first, range.last);
	if (other != NULL)
		return vdpa_error(EEXIST,
				  "DMA range 0x%" PRIx64 " of 0x%" PRIx64
				  " bytes overlaps 0x%" PRIx64,
				  address, size, other->first);
	if (fd < 0)
		return join(t, &range);
	rc = check_file(t, &range, fd, &st, &kernel);
	if (rc == 0)
		rc = find_file(t, fd, &st, kernel, &range.file);
	if (rc < 0)
		return rc;
	rc = join(t, &range);
	if (rc < 0 && range.file->ranges == 0)
		close(range.file->fd);
	return rc;
}

int
vdpa_vfus_dma_map(struct vfu_dma *t, uint64_t address, uint64_t size, uint64_t offset, int fd)
{
	return map_range(t, address, size, offset, fd, false);
}

int
vdpa_vfus_dma_map_readonly(struct vfu_dma *t, uint64_t address, uint64_t size, uint64_t offset,
			   int fd)
{
	return map_range(t, address, size, offset, fd, true);
}

bool
vdpa_vfus_dma_has(struct vfu_dma *t, uint64_t address, uint64_t size, uint64_t offset, int fd,
		  bool readonly)
{
	uint64_t last = address + (size - 1);
	const struct vfu_dma_range *r;
	struct stat st;

	if (fd < 0 || size == 0 || last < address)
		return false;
	r = find(t, address, address);
	/* Of a kernel's file the pages may be others by now. */
	return r != NULL && r->last >= last && r->file != NULL && !r->file->kernel &&
	       r->readonly == readonly && offset - r->offset == address - r->first &&
	       fstat(fd, &st) == 0 && st.st_dev == r->file->dev && st.st_ino == r->file->ino;
}

/* Whether the range with this address may be cut before it. */
static int
check_cut(struct vfu_dma *t, uint64_t address)
{
	const struct vfu_dma_range *r = find(t, address, address);

	if (r == NULL || r->first == address || r->file == NULL || address % VFU_DMA_ALIGN == 0)
		return 0;
	return vdpa_error(EINVAL, "the DMA range at 0x%" PRIx64 " is cut at 0x%" PRIx64, r->first,
			  address);
}

/* Cut a range in two, without the addresses between. */
static int
split(struct vfu_dma *t, struct vfu_dma_range *r, uint64_t first, uint64_t last)
{
	struct vfu_dma_range tail = *r;
	int rc;

	remove_region(t, r);

	tail.first = last + 1;
	tail.offset += tail.first - r->first;
	r->last = first - 1;
	rc = insert(t, &tail);
	if (rc < 0)
		r->last = tail.last;
	else
		count(t, r, 0, -(tail.last - first + 1));
	add_region(t, r);
	return rc;
}

/* Take the addresses, one at least, out of a range that goes on at one side of them at most. */
static void
cut(struct vfu_dma *t, struct vfu_dma_range *r, uint64_t first, uint64_t last)
{
	uint64_t size;

	if (r->first >= first && r->last <= last) {
		delete (t, r);
		return;
	}
	remove_region(t, r);
	if (r->first < first) {
		size = r->last - first + 1;
		r->last = first - 1;
	} else {
		size = last + 1 - r->first;
		r->first += size;
		r->offset += size;
	}
	count(t, r, 0, -size);
	add_region(t, r);
}

int
vdpa_vfus_dma_unmap(struct vfu_dma *t, uint64_t address, uint64_t size)
{
	uint64_t first = address, last = address + (size - 1);
	struct vfu_dma_range *r;
	int rc;

	rc = check_bounds(address, size);
	if (rc == 0)
		rc = check_cut(t, first);
	if (rc == 0 && last < UINT64_MAX)
		rc = check_cut(t, last + 1);
	if (rc < 0)
		return rc;
	r = find(t, first, last);
	if (r == NULL)
		return vdpa_error(ENOENT, "no DMA range in 0x%" PRIx64 " of 0x%" PRIx64 " bytes",
				  address, size);
	if (r->first < first && r->last > last)
		return split(t, r, first, last);
	for (; r != NULL; r = find(t, first, last))
		cut(t, r, first, last);
	return 0;
}

struct specs {
	struct vdpa_mem_region_spec *at;
	unsigned int n;
};

static void
add_spec(const void *node, VISIT visit, void *closure)
{
	const struct vfu_dma_range *r = *(struct vfu_dma_range *const *)node;
	struct specs *specs = closure;

	/* Each range is seen once so, by ascending address. */
	if ((visit == postorder || visit == leaf) && r->file != NULL)
		specs->at[specs->n++] = spec_of(r);
}

struct visit {
	void (*fn)(const struct vfu_dma_view *v, void *arg);
	void *arg;
};

static void
show_range(const void *node, VISIT order, void *closure)
{
	const struct vfu_dma_range *r = *(struct vfu_dma_range *const *)node;
	const struct visit *visit = closure;
	const struct vfu_dma_view view = {
		.first = r->first,
		.last = r->last,
		.offset = r->offset,
		.file = r->file != NULL ? (int)(r->file - r->table->files) : -1,
		.readonly = r->readonly,
	};

	if (order == postorder || order == leaf)
		visit->fn(&view, visit->arg);
}

void
vdpa_vfus_dma_for_each(const struct vfu_dma *t, void (*fn)(const struct vfu_dma_view *v, void *arg),
		       void *arg)
{
	struct visit visit = {.fn = fn, .arg = arg};

	twalk_r(t->ranges, show_range, &visit);
}

int
vdpa_vfus_dma_iotlb(struct vfu_dma *t, struct vdpa_iotlb **iotlb)
{
	struct vdpa_iotlb *now = NULL;
	struct specs specs = {.n = 0};
	int rc = 0;

	*iotlb = t->iotlb;
	if (t->follows)
		return 0;
	t->builds++;
	if (t->n_mapped > 0) {
		specs.at = calloc(t->n_mapped, sizeof(*specs.at));
		if (specs.at == NULL)
			return vdpa_error(ENOMEM, "out of memory");
		twalk_r(t->ranges, add_spec, &specs);
		rc = vdpa_consumer_build_table(t->consumer, t->iotlb, specs.at, specs.n, &now);
		free(specs.at);
	}
	if (rc < 0)
		return rc;
	vdpa_iotlb_put(t->iotlb);
	*iotlb = t->iotlb = now;
	t->follows = true;
	return 0;
}

void
vdpa_vfus_dma_drop_iotlb(struct vfu_dma *t)
{
	vdpa_iotlb_put(t->iotlb);
	t->iotlb = NULL;
	t->follows = false;
}

void
vdpa_vfus_dma_unmap_all(struct vfu_dma *t)
{
	tdestroy(t->ranges, free);
	for (unsigned int i = 0; i < VFU_DMA_FILES_MAX; i++)
		if (t->files[i].ranges > 0)
			close(t->files[i].fd);
	*t = (struct vfu_dma){
		.consumer = t->consumer, .iotlb = t->iotlb, .steps = t->steps, .builds = t->builds};
}

void
vdpa_vfus_dma_clear(struct vfu_dma *t)
{
	vdpa_vfus_dma_unmap_all(t);
	vdpa_vfus_dma_drop_iotlb(t);
}
