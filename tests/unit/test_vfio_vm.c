/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Functions of one VM over the kernel's VFIO: which container a group comes into, what is mapped
 * there how often, and what becomes of a function that does not reset. The kernel's side is played
 * here, behind ioctl(): groups and containers with the rules of Linux' type1, over files that stand
 * for sysfs and /dev/vfio; a function's file has its configuration space.
 */

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <cmocka.h>

#include "test_util.h"

#include "vdpa.h"
#include "vdpa_log.h"
#include "vdpa_pci.h"
#include "vfio_priv.h"

#define GROUPS	    10
#define MAPPINGS    64
#define FDS	    256
#define CONFIG_SIZE 256
#define PAGE	    UINT64_C(4096)
#define MEM_SIZE    UINT64_C(0x200000)
#define IOVA_MAX    UINT64_C(0xffffffffff)

/* A group with one function, 0000:0G:00.0, and the IOVAs that its IOMMU reserves. */
struct fake_group {
	ino_t file, device;
	struct vdpa_dma_range reserved;
	uint64_t page;
	int container; /* descriptor; 0: none */
};

static struct {
	char root[64], dev[80];
	struct fake_group groups[GROUPS];
	struct fake_container {
		bool open;
		struct vdpa_dma_range mapped[MAPPINGS];
		unsigned int n, maps, unmaps, gets;
		uint32_t flags; /* of the last mapping */
	} containers[FDS];	/* by descriptor */
} kernel;

static ino_t
inode(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? st.st_ino : 0;
}

static int
fails(int err)
{
	errno = err;
	return -1;
}

/* Whether any descriptor of this process is of the device's file. */
static bool
is_open(const struct fake_group *g)
{
	for (int fd = 0; fd < FDS; fd++)
		if (inode(fd) == g->device)
			return true;
	return false;
}

static bool
overlaps(const struct vdpa_dma_range *a, const struct vdpa_dma_range *b)
{
	return a->first <= b->last && b->first <= a->last;
}

static int
set_container(struct fake_group *g, int fd)
{
	const struct fake_container *c = &kernel.containers[fd];

	assert_true(c->open);
	if (g->container != 0)
		return fails(EINVAL);
	for (unsigned int i = 0; i < c->n; i++)
		if (overlaps(&c->mapped[i], &g->reserved))
			return fails(EINVAL);
	g->container = fd;
	return 0;
}

static int
unset_container(struct fake_group *g)
{
	if (g->container == 0)
		return fails(EINVAL);
	if (is_open(g))
		return fails(EBUSY);
	g->container = 0;
	return 0;
}

static int
open_device(const struct fake_group *g, const char *address)
{
	char path[256];
	int fd;

	if (g->container == 0)
		return fails(EINVAL);
	snprintf(path, sizeof(path), "%s/device-%s", kernel.dev, address);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(inode(fd), g->device);
	return fd;
}

static int
group_ioctl(struct fake_group *g, unsigned long request, void *arg)
{
	struct vfio_group_status *status = arg;

	switch (request) {
	case VFIO_GROUP_GET_STATUS:
		status->flags = VFIO_GROUP_FLAGS_VIABLE;
		return 0;
	case VFIO_GROUP_SET_CONTAINER:
		return set_container(g, *(int *)arg);
	case VFIO_GROUP_UNSET_CONTAINER:
		return unset_container(g);
	case VFIO_GROUP_GET_DEVICE_FD:
		return open_device(g, arg);
	default:
		return fails(ENOTTY);
	}
}

/* Translated by the IOMMUs of all groups in the container: at most one hole for each. */
static int
get_iommu_info(int fd, struct vfio_iommu_type1_info *info)
{
	struct vfio_iommu_type1_info_cap_iova_range *cap;
	const struct fake_group *by_first[GROUPS];
	uint32_t have = info->argsz, n = 0, need;
	uint64_t next = 0, page = PAGE;

	for (unsigned int i = 0; i < GROUPS; i++) {
		if (kernel.groups[i].container != fd)
			continue;
		if (kernel.groups[i].page > page)
			page = kernel.groups[i].page;
		by_first[n++] = &kernel.groups[i];
		for (uint32_t j = n - 1; j > 0; j--)
			if (by_first[j]->reserved.first < by_first[j - 1]->reserved.first) {
				const struct fake_group *g = by_first[j];

				by_first[j] = by_first[j - 1];
				by_first[j - 1] = g;
			}
	}
	need = (uint32_t)(sizeof(*info) + sizeof(*cap) + (n + 1) * sizeof(cap->iova_ranges[0]));
	kernel.containers[fd].gets++;
	info->flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS;
	info->iova_pgsizes = page;
	info->argsz = need;
	info->cap_offset = 0;
	if (have < need)
		return 0;
	info->cap_offset = sizeof(*info);
	cap = (void *)(info + 1);
	cap->header.id = VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE;
	cap->nr_iovas = 0;
	for (uint32_t i = 0; i < n; i++) {
		const struct vdpa_dma_range *r = &by_first[i]->reserved;

		if (r->first > next) {
			cap->iova_ranges[cap->nr_iovas].start = next;
			cap->iova_ranges[cap->nr_iovas++].end = r->first - 1;
		}
		if (r->last + 1 > next)
			next = r->last + 1;
	}
	cap->iova_ranges[cap->nr_iovas].start = next;
	cap->iova_ranges[cap->nr_iovas++].end = IOVA_MAX;
	return 0;
}

static int
map_dma(int fd, const struct vfio_iommu_type1_dma_map *m)
{
	struct fake_container *c = &kernel.containers[fd];
	struct vdpa_dma_range r = {.first = m->iova, .last = m->iova + m->size - 1};

	for (unsigned int i = 0; i < c->n; i++)
		if (overlaps(&c->mapped[i], &r))
			return fails(EEXIST);
	for (unsigned int i = 0; i < GROUPS; i++)
		if (kernel.groups[i].container == fd && overlaps(&kernel.groups[i].reserved, &r))
			return fails(EINVAL);
	assert_true(c->n < MAPPINGS);
	c->mapped[c->n++] = r;
	c->flags = m->flags;
	c->maps++;
	return 0;
}

static int
unmap_dma(int fd, const struct vfio_iommu_type1_dma_unmap *m)
{
	struct fake_container *c = &kernel.containers[fd];

	for (unsigned int i = 0; i < c->n; i++)
		if (c->mapped[i].first == m->iova) {
			c->mapped[i] = c->mapped[--c->n];
			c->unmaps++;
			return 0;
		}
	return fails(ENOENT);
}

static int
container_ioctl(int fd, unsigned long request, void *arg)
{
	switch (request) {
	case VFIO_GET_API_VERSION:
		memset(&kernel.containers[fd], 0, sizeof(kernel.containers[fd]));
		kernel.containers[fd].open = true;
		return VFIO_API_VERSION;
	case VFIO_CHECK_EXTENSION:
		return 1;
	case VFIO_SET_IOMMU:
		return 0;
	case VFIO_IOMMU_GET_INFO:
		return get_iommu_info(fd, arg);
	case VFIO_IOMMU_MAP_DMA:
		return map_dma(fd, arg);
	case VFIO_IOMMU_UNMAP_DMA:
		return unmap_dma(fd, arg);
	default:
		return fails(ENOTTY);
	}
}

static int
device_ioctl(unsigned long request, void *arg)
{
	struct vfio_device_info *info = arg;
	struct vfio_region_info *region = arg;
	struct vfio_irq_info *irq = arg;

	switch (request) {
	case VFIO_DEVICE_GET_INFO:
		info->flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
		info->num_regions = VFIO_PCI_NUM_REGIONS;
		info->num_irqs = VFIO_PCI_NUM_IRQS;
		return 0;
	case VFIO_DEVICE_GET_REGION_INFO:
		region->size = region->index == VFIO_PCI_CONFIG_REGION_INDEX ? CONFIG_SIZE : 0;
		region->flags = region->offset = 0;
		return 0;
	case VFIO_DEVICE_GET_IRQ_INFO:
		irq->flags = irq->count = 0;
		return 0;
	case VFIO_DEVICE_SET_IRQS:
		return 0;
	case VFIO_DEVICE_RESET:
		return 0;
	default:
		return fails(ENOTTY);
	}
}

int __wrap_ioctl(int fd, unsigned long request, ...);

int
__wrap_ioctl(int fd, unsigned long request, ...)
{
	ino_t ino = inode(fd);
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	assert_in_range(fd, 0, FDS - 1);
	for (unsigned int i = 0; i < GROUPS; i++) {
		if (ino == kernel.groups[i].file)
			return group_ioctl(&kernel.groups[i], request, arg);
		if (ino == kernel.groups[i].device)
			return device_ioctl(request, arg);
	}
	return container_ioctl(fd, request, arg);
}

/* Files. */

static void
make_folder(const char *path)
{
	char at[512];

	for (const char *p = path; p != NULL;) {
		p = strchr(p + 1, '/');
		snprintf(at, sizeof(at), "%s/%.*s", kernel.root,
			 (int)(p != NULL ? p - path : (ptrdiff_t)strlen(path)), path);
		assert_true(mkdir(at, 0755) == 0 || errno == EEXIST);
	}
}

static ino_t
make_file(const char *name, const void *data, size_t size)
{
	char path[512];
	ino_t ino;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", kernel.dev, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, size), size);
	ino = inode(fd);
	close(fd);
	return ino;
}

static void
function_name(unsigned int group, char name[static 32])
{
	snprintf(name, 32, "pci/0000:%02x:00.0", group);
}

static void
make_function(unsigned int group)
{
	static const uint8_t config[CONFIG_SIZE] = {
		[PCI_VENDOR_ID] = 0xf4, 0x1a, 0x41, 0x10, [PCI_CLASS_REVISION + 3] = 2};
	char name[32], path[256], to[256];
	struct fake_group *g = &kernel.groups[group];

	function_name(group, name);
	snprintf(path, sizeof(path), "bus/pci/devices/%s", name + strlen("pci/"));
	make_folder(path);
	snprintf(path, sizeof(path), "%s/bus/pci/devices/%s/driver", kernel.root,
		 name + strlen("pci/"));
	assert_int_equal(symlink("../../../bus/pci/drivers/vfio-pci", path), 0);
	snprintf(path, sizeof(path), "%s/bus/pci/devices/%s/iommu_group", kernel.root,
		 name + strlen("pci/"));
	snprintf(to, sizeof(to), "../../../kernel/iommu_groups/%u", group);
	assert_int_equal(symlink(to, path), 0);
	snprintf(path, sizeof(path), "%u", group);
	g->file = make_file(path, "", 0);
	snprintf(path, sizeof(path), "device-%s", name + strlen("pci/"));
	g->device = make_file(path, config, sizeof(config));
	g->page = PAGE;
	g->reserved = (struct vdpa_dma_range){0xfee00000, 0xfeefffff};
}

static int
setup(void **state)
{
	memset(&kernel, 0, sizeof(kernel));
	snprintf(kernel.root, sizeof(kernel.root), "/tmp/uvdpa-test-vfio-vm.XXXXXX");
	assert_non_null(mkdtemp(kernel.root));
	snprintf(kernel.dev, sizeof(kernel.dev), "%s/dev", kernel.root);
	make_folder("dev");
	(void)make_file("vfio", "", 0);
	for (unsigned int i = 0; i < GROUPS; i++)
		make_function(i);
	vdpa_vfio_set_roots(kernel.root, kernel.dev);
	return 0;
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int
teardown(void **state)
{
	vdpa_vfio_set_roots(NULL, NULL);
	for (unsigned int i = 0; i < GROUPS; i++)
		assert_int_equal(kernel.groups[i].container, 0);
	return nftw(kernel.root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Tests. */

/* A function, and the user of its domain that its device is. */
struct function {
	struct vdpa_pci *pci;
	struct vdpa_dma_user *user;
};

static struct function *
open_function(unsigned int group, const char *vm)
{
	const struct vdpa_pci_params params = {.vm = vm};
	struct function *f = calloc(1, sizeof(*f));
	char name[32];

	function_name(group, name);
	if (vdpa_pci_open(name, &params, &f->pci) < 0)
		fail_msg("%s", vdpa_error_message());
	assert_int_equal(vdpa_dma_join(vdpa_pci_dma(f->pci), name, &f->user), 0);
	return f;
}

static void
close_function(struct function *f)
{
	vdpa_dma_leave(f->user);
	vdpa_pci_close(f->pci);
	free(f);
}

static struct vdpa_iotlb *
make_memory(uint64_t iova)
{
	struct vdpa_mem_region_spec spec = {.iova = iova, .uaddr = iova, .size = MEM_SIZE};
	struct vdpa_iotlb *tlb;

	spec.fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(spec.fd, MEM_SIZE), 0);
	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &tlb), 0);
	close(spec.fd);
	return tlb;
}

static int
map(struct function *f, struct vdpa_iotlb *tlb)
{
	return vdpa_dma_set(f->user, tlb);
}

static void
unmap(struct function *f)
{
	assert_int_equal(vdpa_dma_set(f->user, NULL), 0);
}

static const struct fake_container *
in_container(unsigned int group)
{
	assert_int_not_equal(kernel.groups[group].container, 0);
	return &kernel.containers[kernel.groups[group].container];
}

static void
eight_groups_of_a_vm_have_one_container_and_its_memory_pinned_once(void **state)
{
	static const unsigned int order[] = {6, 0, 3, 7, 1, 4, 2};
	struct vdpa_iotlb *tlb = make_memory(0);
	unsigned int fds = count_fds();
	struct function *pci[8];

	for (unsigned int i = 0; i < 8; i++) {
		pci[i] = open_function(i, "guest0");
		assert_ptr_equal(vdpa_pci_dma(pci[i]->pci), vdpa_pci_dma(pci[0]->pci));
		assert_int_equal(kernel.groups[i].container, kernel.groups[0].container);
		assert_int_equal(map(pci[i], tlb), 0);
	}
	assert_int_equal(in_container(0)->maps, 1);
	assert_int_equal(in_container(0)->n, 1);
	/* Seven leave, and the last has all its memory. */
	for (unsigned int i = 0; i < 7; i++) {
		unmap(pci[order[i]]);
		close_function(pci[order[i]]);
		assert_int_equal(kernel.groups[order[i]].container, 0);
		assert_int_equal(in_container(5)->unmaps, 0);
	}
	assert_int_equal(in_container(5)->n, 1);
	unmap(pci[5]);
	assert_int_equal(in_container(5)->n, 0);
	close_function(pci[5]);
	assert_int_equal(count_fds(), fds);
	vdpa_iotlb_put(tlb);
}

static void
other_vms_and_devices_of_none_have_containers_of_their_own(void **state)
{
	static const char *const vms[] = {"guest0", "guest1", NULL, NULL};
	struct vdpa_iotlb *tlb = make_memory(0);
	struct function *pci[4];

	for (unsigned int i = 0; i < 4; i++) {
		pci[i] = open_function(i, vms[i]);
		assert_int_equal(map(pci[i], tlb), 0);
		for (unsigned int j = 0; j < i; j++)
			assert_int_not_equal(kernel.groups[i].container,
					     kernel.groups[j].container);
		assert_int_equal(in_container(i)->maps, 1);
	}
	for (unsigned int i = 0; i < 4; i++) {
		unmap(pci[i]);
		close_function(pci[i]);
	}
	vdpa_iotlb_put(tlb);
}

/* What a function in the container reserves binds those that were there; until it leaves. */
static void
reserved_ranges_of_one_are_those_of_all(void **state)
{
	struct vdpa_iotlb *tlb = make_memory(0x80000000);
	struct function *a, *b;

	kernel.groups[1].reserved = (struct vdpa_dma_range){0x80100000, 0x801fffff};
	a = open_function(0, "guest0");
	b = open_function(1, "guest0");
	assert_int_equal(kernel.groups[1].container, kernel.groups[0].container);
	assert_int_equal(map(a, tlb), -EINVAL);
	assert_string_equal(vdpa_error_message(),
			    "vm guest0: memory at IOVA 0x80000000-0x801fffff overlaps "
			    "0x80100000-0x801fffff, which the IOMMU reserves");
	close_function(b);
	assert_int_equal(map(a, tlb), 0);
	unmap(a);
	close_function(a);
	vdpa_iotlb_put(tlb);
}

static char log_file[128];

static void
log_to_file(FILE **log)
{
	snprintf(log_file, sizeof(log_file), "%s/log", kernel.root);
	*log = fopen(log_file, "w+e");
	assert_non_null(*log);
	assert_int_equal(rte_openlog_stream(*log), 0);
}

static bool
was_logged(FILE *log, const char *text)
{
	char line[1024];
	bool found = false;

	rewind(log);
	while (!found && fgets(line, sizeof(line), log) != NULL)
		found = strstr(line, text) != NULL;
	return found;
}

static void
a_group_that_reserves_what_is_mapped_has_its_own_container_and_a_line(void **state)
{
	struct vdpa_iotlb *tlb = make_memory(0x80000000), *low = make_memory(0);
	struct function *a, *b, *c;
	FILE *log;

	log_to_file(&log);
	kernel.groups[1].reserved = (struct vdpa_dma_range){0x80100000, 0x801fffff};
	kernel.groups[2].reserved = kernel.groups[1].reserved;
	a = open_function(0, "guest0");
	assert_int_equal(map(a, tlb), 0);
	b = open_function(1, "guest0");
	assert_int_not_equal(kernel.groups[1].container, kernel.groups[0].container);
	assert_true(was_logged(log,
			       "pci/0000:01:00.0: IOMMU group 1 gets a container of its own: "
			       "memory of vm guest0 is mapped where its IOMMU cannot translate"));
	/* The next of that kind shares with it. */
	c = open_function(2, "guest0");
	assert_int_equal(kernel.groups[2].container, kernel.groups[1].container);
	assert_int_equal(map(b, low), 0);
	assert_int_equal(map(c, low), 0);
	assert_int_equal(in_container(1)->maps, 1);
	assert_int_equal(in_container(0)->maps, 1);
	unmap(b);
	unmap(c);
	unmap(a);
	close_function(a);
	close_function(b);
	close_function(c);
	rte_openlog_stream(NULL);
	fclose(log);
	vdpa_iotlb_put(tlb);
	vdpa_iotlb_put(low);
}

static void
a_group_whose_iommu_has_larger_pages_has_its_own_container(void **state)
{
	struct function *a, *b;

	kernel.groups[1].page = 0x10000;
	a = open_function(0, "guest0");
	b = open_function(1, "guest0");
	assert_int_not_equal(kernel.groups[1].container, kernel.groups[0].container);
	close_function(a);
	close_function(b);
}

static void
one_that_is_cut_off_leaves_the_container(void **state)
{
	struct vdpa_iotlb *tlb = make_memory(0);
	struct function *a = open_function(0, "guest0"), *b = open_function(1, "guest0");

	assert_int_equal(map(a, tlb), 0);
	assert_int_equal(map(b, tlb), 0);
	assert_int_equal(vdpa_pci_cut_off(a->pci), 0);
	assert_int_equal(kernel.groups[0].container, 0);
	assert_false(is_open(&kernel.groups[0]));
	assert_int_equal(vdpa_pci_error(a->pci), -EIO);
	assert_non_null(strstr(vdpa_pci_error_text(a->pci), "does not reset, and is cut off"));
	/* The other is not disturbed, and the memory still counted. */
	assert_int_equal(in_container(1)->n, 1);
	unmap(a);
	assert_int_equal(in_container(1)->n, 1);
	close_function(a);
	assert_int_equal(in_container(1)->n, 1);
	/* It may come back. */
	a = open_function(0, "guest0");
	assert_int_equal(kernel.groups[0].container, kernel.groups[1].container);
	close_function(a);
	unmap(b);
	close_function(b);
	vdpa_iotlb_put(tlb);
}

static void
one_whose_file_somebody_has_cannot_be_taken_out(void **state)
{
	struct function *a = open_function(0, "guest0"), *b = open_function(1, "guest0");
	char path[256];
	int held;

	snprintf(path, sizeof(path), "%s/device-0000:00:00.0", kernel.dev);
	held = open(path, O_RDWR | O_CLOEXEC);
	assert_true(held >= 0);
	assert_int_equal(vdpa_pci_cut_off(a->pci), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), "somebody has the function open"));
	assert_int_equal(vdpa_pci_error(a->pci), -EIO);
	close(held);
	close_function(a);
	close_function(b);
}

static void
functions_of_one_group_serve_one_vm(void **state)
{
	const struct vdpa_pci_params none = {.vm = NULL}, other = {.vm = "guest1"};
	struct function *a;
	struct vdpa_pci *b;
	char path[256];

	/* A second function in group 0. */
	snprintf(path, sizeof(path), "%s/bus/pci/devices/0000:01:00.0/iommu_group", kernel.root);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("../../../kernel/iommu_groups/0", path), 0);
	a = open_function(0, "guest0");
	assert_int_equal(vdpa_pci_open("pci/0000:01:00.0", &none, &b), -EBUSY);
	assert_string_equal(
		vdpa_error_message(),
		"pci/0000:01:00.0: IOMMU group 0 is used by pci/0000:00:00.0 for vm "
		"guest0: functions of one group serve one guest; add it with vm guest0");
	assert_int_equal(vdpa_pci_open("pci/0000:01:00.0", &other, &b), -EBUSY);
	close_function(a);
}

static void
memory_that_is_read_only_is_so_to_the_iommu(void **state)
{
	const uint32_t readonly = VFIO_DMA_MAP_FLAG_READ;
	struct vdpa_mem_region_spec spec = {.size = MEM_SIZE, .readonly = true};
	struct function *pci = open_function(0, "guest0");
	struct vdpa_iotlb *tlb, *writable;

	spec.fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(spec.fd, MEM_SIZE), 0);
	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &tlb), 0);
	spec.readonly = false;
	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &writable), 0);
	close(spec.fd);
	assert_int_equal(map(pci, tlb), 0);
	assert_int_equal(in_container(0)->flags, readonly);
	/* The same pages with another permission. */
	assert_int_equal(map(pci, writable), 0);
	assert_int_equal(in_container(0)->flags, readonly | VFIO_DMA_MAP_FLAG_WRITE);
	assert_int_equal(in_container(0)->n, 1);
	unmap(pci);
	close_function(pci);
	vdpa_iotlb_put(writable);
	vdpa_iotlb_put(tlb);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(eight_groups_of_a_vm_have_one_container_and_its_memory_pinned_once),
		test(other_vms_and_devices_of_none_have_containers_of_their_own),
		test(reserved_ranges_of_one_are_those_of_all),
		test(a_group_that_reserves_what_is_mapped_has_its_own_container_and_a_line),
		test(a_group_whose_iommu_has_larger_pages_has_its_own_container),
		test(one_that_is_cut_off_leaves_the_container),
		test(one_whose_file_somebody_has_cannot_be_taken_out),
		test(functions_of_one_group_serve_one_vm),
		test(memory_that_is_read_only_is_so_to_the_iommu),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
