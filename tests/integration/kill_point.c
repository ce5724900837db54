/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Loaded before a daemon (LD_PRELOAD): it kills itself right before one of its acts that others
 * see. An act has a label, such as "store put net0:wire, message 4" (behind the front end's message
 * 4), and which one it is to die at is in the file UVDPA_KILL_ARM: a line with a number and a
 * label, "2 store put net0:wire" for the second act of that label since the file is there. A file
 * that is replaced begins anew; none, and nothing is counted; a daemon that dies renames it first,
 * to UVDPA_KILL_ARM.claimed. Each act that is reached meanwhile is
 * a line of UVDPA_KILL_ARM.log, and the last one is where it died.
 *
 * Acts are calls of libc (requests to the store, writes of the journal, VFIO's ioctls, messages,
 * sockets, event loops) and, one by one, stores to memory that others see: the wire of a
 * connection, the state that a device's driver has said, and the registers of a function. That
 * memory is mapped read-only, and a store that faults is carried out by a single step of the
 * processor.
 */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/vfio.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/un.h>
#include <ucontext.h>
#include <unistd.h>

#define LABEL_MAX  160
#define RANGES_MAX 64
#define PAGE	   4096ul
#define TRAP_FLAG  0x100	/* of EFLAGS */
#define WIRE_INPUT 0x108	/* behind it, the wire has bytes of messages */
#define REGION(at) ((at) >> 40) /* of an offset in a file of vfio-pci */
#define INSIDE(at) ((at)&0xfffffffffful)

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int lock;

/* What the file says. */
static struct timespec armed_by;
static char wanted[LABEL_MAX];
static unsigned long left;
/* The front end's last message that was taken: 0 for none. */
static uint32_t last_message;

static void
take_lock(void)
{
	while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE) != 0)
		;
}

static void
drop_lock(void)
{
	__atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
}

/* By system calls: what is called here is not to be counted. */
static size_t
read_file(const char *path, char *buf, size_t size)
{
	long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC), n;

	if (fd < 0)
		return 0;
	n = syscall(SYS_read, fd, buf, size - 1);
	syscall(SYS_close, fd);
	buf[n > 0 ? n : 0] = '\0';
	return n > 0 ? (size_t)n : 0;
}

static void
append(const char *path, const char *label)
{
	char name[PATH_MAX], line[LABEL_MAX + 1];
	long fd;
	int n = snprintf(line, sizeof(line), "%s\n", label);

	snprintf(name, sizeof(name), "%s.log", path);
	fd = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	(void)syscall(SYS_write, fd, line, (size_t)n);
	syscall(SYS_close, fd);
}

static bool
is_armed(const char *path)
{
	char text[LABEL_MAX + 32], *label;
	struct stat st;

	if (stat(path, &st) < 0) {
		armed_by = (struct timespec){0};
		return false;
	}
	if (st.st_ctim.tv_sec == armed_by.tv_sec && st.st_ctim.tv_nsec == armed_by.tv_nsec)
		return true;
	if (read_file(path, text, sizeof(text)) == 0)
		return false;
	armed_by = st.st_ctim;
	left = strtoul(text, &label, 10);
	label += *label == ' ';
	label[strcspn(label, "\n")] = '\0';
	snprintf(wanted, sizeof(wanted), "%s", label);
	return true;
}

/* Either the daemon dies here, or whoever takes the file away first lets it live. */
static bool
claim(const char *path)
{
	char name[PATH_MAX];

	snprintf(name, sizeof(name), "%s.claimed", path);
	return syscall(SYS_rename, path, name) == 0;
}

static void
reach(const char *path, const char *label)
{
	int saved = errno;

	take_lock();
	if (is_armed(path)) {
		append(path, label);
		if (strcmp(label, wanted) == 0 && --left == 0 && claim(path)) {
			syscall(SYS_kill, getpid(), SIGKILL);
			for (;;)
				pause();
		}
	}
	drop_lock();
	errno = saved;
}

/* Of threads that have nothing to do with messages, too. */
__attribute__((format(printf, 1, 2))) static void
act_of_any(const char *format, ...)
{
	const char *path = getenv("UVDPA_KILL_ARM");
	char label[LABEL_MAX];
	va_list args;

	if (path == NULL)
		return;
	va_start(args, format);
	vsnprintf(label, sizeof(label), format, args);
	va_end(args);
	reach(path, label);
}

__attribute__((format(printf, 1, 2))) static void
act(const char *format, ...)
{
	uint32_t message = __atomic_load_n(&last_message, __ATOMIC_RELAXED);
	const char *path = getenv("UVDPA_KILL_ARM");
	char label[LABEL_MAX];
	va_list args;
	size_t n;

	if (path == NULL)
		return;
	va_start(args, format);
	vsnprintf(label, sizeof(label) - 32, format, args);
	va_end(args);
	n = strlen(label);
	if (message > 0)
		snprintf(label + n, sizeof(label) - n, ", message %u", message);
	reach(path, label);
}

/* What a descriptor is of, as the kernel names it. */
static const char *
name_of(int fd, char buf[PATH_MAX])
{
	char path[64];
	int saved = errno;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, buf, PATH_MAX - 1);
	buf[n > 0 ? n : 0] = '\0';
	errno = saved;
	return buf;
}

static const char *
last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash != NULL ? slash + 1 : path;
}

static bool
is_vfio_device(const char *name)
{
	return strstr(name, "[vfio-device]") != NULL;
}

/* Stores. */

struct range {
	uint8_t *begin, *end; /* NULL: none */
	uint64_t at;	      /* of begin in its file */
	const char *file;     /* in memory; NULL: a function's registers */
};

static struct range ranges[RANGES_MAX];

static struct range *
range_of(const void *addr)
{
	for (unsigned int i = 0; i < RANGES_MAX; i++)
		if ((const uint8_t *)addr >= ranges[i].begin &&
		    (const uint8_t *)addr < ranges[i].end)
			return &ranges[i];
	return NULL;
}

static __thread __attribute__((tls_model("initial-exec"))) uint8_t *open_page;
static __thread __attribute__((tls_model("initial-exec"))) uint64_t last_ip;

static void
set_page(uint8_t *page, bool writable)
{
	(void)syscall(SYS_mprotect, page, PAGE, PROT_READ | (writable ? PROT_WRITE : 0));
}

static void
on_fault(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	uint8_t *addr = info->si_addr;
	const struct range *r = range_of(addr);
	uint64_t at;

	if (r == NULL) {
		signal(sig, SIG_DFL);
		return;
	}
	at = r->at + (uint64_t)(addr - r->begin);
	/* A string instruction is one act. */
	if ((uint64_t)regs[REG_RIP] != last_ip) {
		if (r->file == NULL)
			act("write register 0x%llx of region %u", (unsigned long long)INSIDE(at),
			    (unsigned int)REGION(at));
		else if (strcmp(r->file, "wire") != 0 || at < WIRE_INPUT)
			act("write %s 0x%llx", r->file, (unsigned long long)at);
		else
			act("write wire's input");
	}
	last_ip = (uint64_t)regs[REG_RIP];
	open_page = (uint8_t *)((uintptr_t)addr & ~(PAGE - 1));
	set_page(open_page, true);
	regs[REG_EFL] |= TRAP_FLAG;
}

static void
on_step(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)sig;
	(void)info;
	regs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
	if ((uint64_t)regs[REG_RIP] != last_ip)
		last_ip = 0;
	if (open_page != NULL && range_of(open_page) != NULL)
		set_page(open_page, false);
	open_page = NULL;
}

static void
forget(uint8_t *begin, uint8_t *end)
{
	take_lock();
	for (unsigned int i = 0; i < RANGES_MAX; i++)
		if (ranges[i].begin < end && ranges[i].end > begin)
			ranges[i] = (struct range){0};
	drop_lock();
}

static void
watch(uint8_t *begin, size_t len, uint64_t at, const char *file)
{
	static bool has_handlers;
	struct sigaction sa = {.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
	unsigned int i = 0;

	take_lock();
	if (!has_handlers) {
		sa.sa_sigaction = on_fault;
		sigaction(SIGSEGV, &sa, NULL);
		sa.sa_sigaction = on_step;
		sigaction(SIGTRAP, &sa, NULL);
		has_handlers = true;
	}
	while (i < RANGES_MAX && ranges[i].begin != NULL)
		i++;
	if (i == RANGES_MAX)
		abort();
	ranges[i] = (struct range){begin, begin + len, at, file};
	drop_lock();
	(void)syscall(SYS_mprotect, begin, len, PROT_READ);
}

/* Of a file in memory whose stores are acts; NULL: it is none. */
static const char *
watched_file(const char *name)
{
	static const char *const files[] = {"wire", "state"};

	for (unsigned int i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		if (strncmp(name, "/memfd:", 7) == 0 &&
		    strncmp(name + 7, files[i], strlen(files[i])) == 0)
			return files[i];
	return NULL;
}

void *
mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t offset)
{
	char buf[PATH_MAX];
	const char *name = fd >= 0 ? name_of(fd, buf) : "";
	uint8_t *p = NEXT(mmap64)(addr, len, prot, flags, fd, offset);
	const char *file = watched_file(name);

	if (p == MAP_FAILED)
		return p;
	len = (len + PAGE - 1) & ~(PAGE - 1);
	forget(p, p + len);
	if (getenv("UVDPA_KILL_ARM") != NULL && (prot & PROT_WRITE) != 0 &&
	    (flags & MAP_SHARED) != 0 && (file != NULL || is_vfio_device(name)))
		watch(p, len, (uint64_t)offset, file);
	return p;
}

int
munmap(void *addr, size_t len)
{
	forget(addr, (uint8_t *)addr + len);
	return NEXT(munmap)(addr, len);
}

/* The two signals come from the processor, and cannot wait. */
int
sigfillset(sigset_t *set)
{
	int rc = NEXT(sigfillset)(set);

	sigdelset(set, SIGSEGV);
	sigdelset(set, SIGTRAP);
	return rc;
}

/* The store, and front ends. */

struct keeper_msg {
	uint32_t magic;
	uint16_t version, op;
	uint32_t id;
	int32_t result;
	char name[132];
};

#define KEEPER_MAGIC 0x706b7675u

static char last_request[LABEL_MAX];

/* Numbers of a connection and its messages are others each time. */
static void
label_name(char *buf, size_t size, const char *name)
{
	const char *fd = strstr(name, ":fd.");

	if (fd != NULL)
		snprintf(buf, size, "%.*s:fd", (int)(fd - name), name);
	else
		snprintf(buf, size, "%.*s", (int)size - 1, name);
}

static bool
is_request(const struct msghdr *msg, struct keeper_msg *m)
{
	if (msg->msg_iovlen != 1 || msg->msg_iov[0].iov_len != sizeof(*m))
		return false;
	memcpy(m, msg->msg_iov[0].iov_base, sizeof(*m));
	m->name[sizeof(m->name) - 1] = '\0';
	return m->magic == KEEPER_MAGIC && m->op < 8;
}

ssize_t
sendmsg(int fd, const struct msghdr *msg, int flags)
{
	static const char *const ops[8] = {"?",	   "hello", "put",  "del",
					   "take", "list",  "noop", "fence"};
	char name[LABEL_MAX / 2];
	struct keeper_msg m;

	if (is_request(msg, &m)) {
		label_name(name, sizeof(name), m.name);
		snprintf(last_request, sizeof(last_request), "%s %s", ops[m.op], name);
		act("store %s", last_request);
	} else {
		act_of_any("sendmsg");
	}
	return NEXT(sendmsg)(fd, msg, flags);
}

ssize_t
recvmsg(int fd, struct msghdr *msg, int flags)
{
	if (msg->msg_iovlen > 0 && msg->msg_iov[0].iov_len == sizeof(struct keeper_msg))
		act("store has answered %s", last_request);
	else
		act_of_any((flags & MSG_PEEK) != 0 ? "look at messages" : "recvmsg");
	return NEXT(recvmsg)(fd, msg, flags);
}

/* The kernel writes to the wire by itself. */
static void
open_wire(const void *p, bool open)
{
	const struct range *r = range_of(p);

	if (r != NULL)
		(void)syscall(SYS_mprotect, r->begin, (size_t)(r->end - r->begin),
			      PROT_READ | (open ? PROT_WRITE : 0));
}

int
sendmmsg(int fd, struct mmsghdr *msgs, unsigned int n, int flags)
{
	uint32_t request = 0;
	int rc;

	if (msgs->msg_hdr.msg_iovlen > 0 && msgs->msg_hdr.msg_iov[0].iov_len >= sizeof(request))
		memcpy(&request, msgs->msg_hdr.msg_iov[0].iov_base, sizeof(request));
	act("reply to request %u", request);
	open_wire(msgs, true);
	rc = NEXT(sendmmsg)(fd, msgs, n, flags);
	open_wire(msgs, false);
	return rc;
}

int
recvmmsg(int fd, struct mmsghdr *msgs, unsigned int n, int flags, struct timespec *timeout)
{
	int rc;

	act("take messages");
	open_wire(msgs, true);
	rc = NEXT(recvmmsg)(fd, msgs, n, flags, timeout);
	open_wire(msgs, false);
	if (rc == 1 && msgs->msg_hdr.msg_iov[0].iov_len >= sizeof(last_message))
		memcpy(&last_message, msgs->msg_hdr.msg_iov[0].iov_base, sizeof(last_message));
	return rc;
}

/* The journal, and a function's configuration. */

ssize_t
pwrite64(int fd, const void *buf, size_t len, off64_t at)
{
	char link[PATH_MAX], name[LABEL_MAX / 2] = "its header";

	name_of(fd, link);
	if (strncmp(link, "/memfd:uvdpa-journal", strlen("/memfd:uvdpa-journal")) == 0) {
		/* A slot has its name behind 24 bytes. */
		if (at > 0 && len > 24)
			label_name(name, sizeof(name), (const char *)buf + 24);
		act("journal %s", name);
	} else if (is_vfio_device(link)) {
		act("write 0x%llx of region %u", (unsigned long long)INSIDE((uint64_t)at),
		    (unsigned int)REGION((uint64_t)at));
	}
	return NEXT(pwrite64)(fd, buf, len, at);
}

int
ioctl(int fd, unsigned long request, ...)
{
	uint32_t *words;
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	words = arg;
	switch (request) {
	case VFIO_SET_IOMMU:
		act("VFIO_SET_IOMMU");
		break;
	case VFIO_GROUP_SET_CONTAINER:
		act("VFIO_GROUP_SET_CONTAINER");
		break;
	case VFIO_GROUP_UNSET_CONTAINER:
		act("VFIO_GROUP_UNSET_CONTAINER");
		break;
	case VFIO_GROUP_GET_DEVICE_FD:
		act("VFIO_GROUP_GET_DEVICE_FD");
		break;
	case VFIO_DEVICE_SET_IRQS: /* argsz, flags, index, start, count */
		act("VFIO_DEVICE_SET_IRQS flags 0x%x index %u start %u count %u", words[1],
		    words[2], words[3], words[4]);
		break;
	case VFIO_DEVICE_RESET:
		act("VFIO_DEVICE_RESET");
		break;
	case VFIO_IOMMU_MAP_DMA: /* argsz, flags */
		act("VFIO_IOMMU_MAP_DMA flags 0x%x", words[1]);
		break;
	case VFIO_IOMMU_UNMAP_DMA:
		act("VFIO_IOMMU_UNMAP_DMA flags 0x%x", words[1]);
		break;
	default:
		/* The others of VFIO's ask, but for those of a feature. */
		if (request == VFIO_DEVICE_FEATURE)
			act("VFIO_DEVICE_FEATURE flags 0x%x", words[1]);
		break;
	}
	return NEXT(ioctl)(fd, request, arg);
}

int
close(int fd)
{
	char link[PATH_MAX];

	name_of(fd, link);
	if (is_vfio_device(link))
		act("close vfio-device");
	else if (strncmp(link, "/dev/vfio/", strlen("/dev/vfio/")) == 0)
		act("close %s", link);
	return NEXT(close)(fd);
}

/* Sockets and loops. */

int
bind(int fd, const struct sockaddr *addr, socklen_t len)
{
	const struct sockaddr_un *un = (const void *)addr;

	if (addr->sa_family == AF_UNIX && len > offsetof(struct sockaddr_un, sun_path) &&
	    strstr(un->sun_path, ".sock") != NULL)
		act("bind %s", last_part(un->sun_path));
	return NEXT(bind)(fd, addr, len);
}

int
listen(int fd, int n)
{
	act("listen");
	return NEXT(listen)(fd, n);
}

int
unlink(const char *path)
{
	if (strstr(path, ".sock") != NULL)
		act("unlink %s", last_part(path));
	return NEXT(unlink)(path);
}

int
accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	act("accept");
	return NEXT(accept4)(fd, addr, len, flags);
}

int
shutdown(int fd, int how)
{
	act("shutdown");
	return NEXT(shutdown)(fd, how);
}

int
epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	static const char *const ops[] = {"?", "add", "del", "mod"};

	act_of_any("epoll %s", ops[op >= 1 && op <= 3 ? op : 0]);
	return NEXT(epoll_ctl)(epfd, op, fd, event);
}
