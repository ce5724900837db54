/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * EAL's arguments: the user's, and our defaults for what the user left open. The defaults let the
 * daemon start on any machine, as any user, beside other DPDK processes, and leave nothing behind:
 *
 *   memory    huge pages that are free, in anonymous files; else ordinary memory
 *   lcores    one, not bound to a CPU, since it only waits for signals; and those that poll
 *   devices   no PCI scan: simulated devices need none
 *   names     file prefix of the program's name, so that telemetry clients find the daemon by it
 *   log       warnings of DPDK's, errors only of EAL's, notices of ours
 *
 * They stand before the user's, so that where both are given the user's is the one in force.
 */

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <rte_common.h>

#include "eal_args.h"
#include "log.h"
#include "plugins.h"
#include "program.h"
#include "runtime_dir.h"

/* Huge pages wanted before they are worth using, and ordinary memory in their stead. The latter is
 * address space: pages are allocated when they are written. */
#define HUGE_BYTES_MIN	(64ul << 20)
#define NO_HUGE_MEM_ARG "256" /* MiB */

#define HUGE_FOLDER "/sys/kernel/mm/hugepages"

/* What of EAL's options the user has settled. */
struct eal_given {
	const char *huge;	/* one that needs huge pages, as it was given */
	const char *main_lcore; /* values; NULL: not given */
	const char *list;
	const char *file_prefix;
	const char *proc_type;
	bool memory;
	bool amount;
	bool no_huge;
	bool sharing;
	bool files; /* of EAL's, in the runtime folder */
	bool private;
	bool lcores;
	bool telemetry;
	bool help;
	bool pci;
	bool iova;
};

/* The option's name, without dashes and value. "-l0" and "-l 0" are both "l". */
static size_t
option_name(const char *arg, const char **name)
{
	if (arg[0] != '-' || arg[1] == '\0')
		return 0;
	if (arg[1] != '-') {
		*name = arg + 1;
		return 1;
	}
	*name = arg + 2;
	return strcspn(*name, "=");
}

static bool
is_one_of(const char *name, size_t len, const char *const *list)
{
	for (; *list != NULL; list++)
		if (strlen(*list) == len && memcmp(*list, name, len) == 0)
			return true;
	return false;
}

static struct eal_given
look_at(const struct app_options *opts)
{
	static const char *const memory[] = {"socket-mem", "socket-limit", "huge-dir",
					     "legacy-mem", "no-huge",	   NULL};
	static const char *const amount[] = {"m", NULL};
	static const char *const no_huge[] = {"no-huge", NULL};
	static const char *const huge[] = {
		"socket-mem",  "socket-limit", "huge-dir",	    "legacy-mem",
		"huge-unlink", "in-memory",    "match-allocations", NULL};
	static const char *const sharing[] = {"in-memory",  "no-shconf",   "proc-type", "huge-dir",
					      "legacy-mem", "huge-unlink", NULL};
	static const char *const files[] = {"proc-type", "huge-dir", "legacy-mem", "huge-unlink",
					    NULL};
	static const char *const private[] = {"in-memory", "no-shconf", NULL};
	static const char *const lcores[] = {"l", "c", "lcores", "s", "S", NULL};
	static const char *const list[] = {"l", NULL};
	static const char *const main_lcore[] = {"main-lcore", NULL};
	static const char *const proc_type[] = {"proc-type", NULL};
	static const char *const pci[] = {"no-pci", "a", "allow", "b", "block", NULL};
	static const char *const prefix[] = {"file-prefix", NULL};
	static const char *const iova[] = {"iova-mode", NULL};
	static const char *const no_telemetry[] = {"no-telemetry", NULL};
	static const char *const help[] = {"h", "help", NULL};
	struct eal_given given = {.telemetry = true};
	int i;

	for (i = 0; i < opts->eal_argc; i++) {
		const char *arg = opts->eal_argv[i], *name = NULL, *value;
		size_t len = option_name(arg, &name);

		if (len == 0)
			continue;
		/* "-l0", "--main-lcore=0", or the next argument */
		value = name[len] == '=' ? name + len + 1 : name + len;
		if (*value == '\0')
			value = i + 1 < opts->eal_argc ? opts->eal_argv[i + 1] : "";
		if (is_one_of(name, len, huge))
			given.huge = arg;
		if (is_one_of(name, len, list))
			given.list = value;
		if (is_one_of(name, len, main_lcore))
			given.main_lcore = value;
		if (is_one_of(name, len, proc_type))
			given.proc_type = value;
		if (is_one_of(name, len, prefix))
			given.file_prefix = value;
		given.memory |= is_one_of(name, len, memory);
		given.amount |= is_one_of(name, len, amount);
		given.no_huge |= is_one_of(name, len, no_huge);
		given.sharing |= is_one_of(name, len, sharing);
		given.files |= is_one_of(name, len, files);
		given.private |= is_one_of(name, len, private);
		given.lcores |= is_one_of(name, len, lcores);
		given.pci |= is_one_of(name, len, pci);
		given.iova |= is_one_of(name, len, iova);
		given.telemetry &= !is_one_of(name, len, no_telemetry);
		given.help |= is_one_of(name, len, help);
	}
	return given;
}

static int __attribute__((format(printf, 1, 2))) refuse(const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	app_log(LOG_ERR, NULL, "%s", text);
	return -EINVAL;
}

/* Free huge pages of any size. */
static bool
any_huge_page(void)
{
	char path[sizeof(HUGE_FOLDER) + NAME_MAX + sizeof("/free_hugepages")];
	DIR *dir = opendir(HUGE_FOLDER);
	struct dirent *entry;
	bool any = false;
	int c;
	FILE *f;

	while (dir != NULL && !any && (entry = readdir(dir)) != NULL) {
		snprintf(path, sizeof(path), HUGE_FOLDER "/%s/free_hugepages", entry->d_name);
		f = fopen(path, "re");
		if (f == NULL)
			continue;
		c = getc(f);
		any = c > '0' && c <= '9';
		fclose(f);
	}
	if (dir != NULL)
		closedir(dir);
	return any;
}

static bool
cpu_exists(unsigned long cpu)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%lu", cpu);
	return cpu < RTE_MAX_LCORE && access(path, F_OK) == 0;
}

/* -l: the first CPU of the list that there is not. Another mistake in it is EAL's to find. */
static int
check_list(const char *list)
{
	unsigned long first, last;
	const char *pos = list;
	char *end;

	while (*pos >= '0' && *pos <= '9') {
		first = last = strtoul(pos, &end, 10);
		if (*end == '-')
			last = strtoul(end + 1, &end, 10);
		for (; first <= last; first++)
			if (!cpu_exists(first))
				return refuse("-l %s: this machine has no CPU %lu; its CPUs are 0 "
					      "to %ld: give -l 0, or leave -l out",
					      list, first, sysconf(_SC_NPROCESSORS_CONF) - 1);
		pos = end + (*end == ',');
	}
	return 0;
}

/* What EAL answers with a page of usage, or by waiting for another process. */
static int
check_given(const struct eal_given *given)
{
	if (given->huge != NULL && given->no_huge)
		return refuse("%s needs huge pages, which --no-huge forgoes: leave one of them out",
			      given->huge);
	if (given->huge != NULL && !any_huge_page())
		return refuse("%s needs huge pages, and none is free: leave it out for ordinary "
			      "memory, or reserve some: sysctl vm.nr_hugepages=128",
			      given->huge);
	if (given->proc_type != NULL && strcmp(given->proc_type, "primary") != 0)
		return refuse("--proc-type %s: this is a primary process; leave it out",
			      given->proc_type);
	return given->list != NULL ? check_list(given->list) : 0;
}

/* Whether enough huge pages of the default size are free for us: the kernel reserves them at mmap
 * and refuses otherwise, for an ordinary user as for root, mounted or not. */
static bool
have_huge_pages(void)
{
	void *p = mmap(NULL, HUGE_BYTES_MIN, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (p == MAP_FAILED)
		return false;
	munmap(p, HUGE_BYTES_MIN);
	return true;
}

static int __attribute__((format(printf, 2, 3)))
add_arg(struct app_eal_args *args, const char *fmt, ...)
{
	char **strings, *arg;
	va_list ap;
	int ret;

	strings = reallocarray(args->strings, (size_t)args->argc + 1, sizeof(*strings));
	if (strings == NULL)
		return -ENOMEM;
	args->strings = strings;
	va_start(ap, fmt);
	ret = vasprintf(&arg, fmt, ap);
	va_end(ap);
	if (ret < 0)
		return -ENOMEM;
	strings[args->argc++] = arg;
	return 0;
}

static int
add_memory(struct app_eal_args *args, const struct eal_given *given)
{
	bool no_huge = given->no_huge;
	int ret = 0;

	if (!given->memory && given->huge == NULL && !have_huge_pages()) {
		no_huge = true;
		ret = add_arg(args, "--no-huge");
		if (ret == 0 && !given->amount)
			ret = add_arg(args, "-m");
		if (ret == 0 && !given->amount)
			ret = add_arg(args, NO_HUGE_MEM_ARG);
	}
	/* EAL refuses --in-memory with --no-huge, which keeps no file anyway. */
	if (ret == 0 && !given->sharing)
		ret = add_arg(args, no_huge ? "--no-shconf" : "--in-memory");
	return ret;
}

static bool
is_poll_lcore(const struct app_options *opts, unsigned int cpu)
{
	unsigned int i;

	for (i = 0; i < opts->n_poll_lcores; i++)
		if (opts->poll_lcores[i] == cpu)
			return true;
	return false;
}

/* CPUs of the set that do not poll, as "0,2,3"; all of them if every one polls. NULL: no memory. */
static char *
main_cpus(const cpu_set_t *cpus, const struct app_options *opts)
{
	char *text = NULL;
	size_t size = 0;
	unsigned int pass, cpu, n = 0;
	FILE *f;

	f = open_memstream(&text, &size);
	if (f == NULL)
		return NULL;
	for (pass = 0; pass < 2 && n == 0; pass++)
		for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
			if (CPU_ISSET(cpu, cpus) && (pass == 1 || !is_poll_lcore(opts, cpu)))
				fprintf(f, "%s%u", n++ == 0 ? "" : ",", cpu);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

/* The id of the main lcore: the user's, else the first that no CPU polls under. */
static int
choose_main_lcore(const char *given, const struct app_options *opts, unsigned int *id)
{
	unsigned long value;
	char *end;

	for (*id = 0; is_poll_lcore(opts, *id);)
		++*id;
	if (*id >= RTE_MAX_LCORE)
		return refuse("--poll-lcores: at most %u CPUs can poll", RTE_MAX_LCORE - 1);
	if (given == NULL)
		return 0;
	value = strtoul(given, &end, 10);
	if (*given < '0' || *given > '9' || *end != '\0' || value >= RTE_MAX_LCORE)
		return refuse("--main-lcore '%s': not a number from 0 to %u", given,
			      RTE_MAX_LCORE - 1);
	if (is_poll_lcore(opts, (unsigned int)value))
		return refuse("--main-lcore %s: --poll-lcores has it too; give another, or leave "
			      "--main-lcore out",
			      given);
	*id = (unsigned int)value;
	return 0;
}

/* --lcores=0@(0,2,3),1@1 --main-lcore=0 */
static int
add_lcores(struct app_eal_args *args, const struct app_options *opts, const char *given_main)
{
	unsigned int main_lcore, i;
	char *cpus, *map = NULL;
	size_t size = 0;
	cpu_set_t allowed;
	FILE *f;
	int ret;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0) {
		/* More CPUs than a cpu_set_t holds: EAL knows no better either. */
		CPU_ZERO(&allowed);
		for (i = 0; i < CPU_SETSIZE; i++)
			CPU_SET(i, &allowed);
	}
	for (i = 0; i < opts->n_poll_lcores; i++) {
		if (CPU_ISSET(opts->poll_lcores[i], &allowed))
			continue;
		cpus = main_cpus(&allowed, &(const struct app_options){0});
		ret = refuse("--poll-lcores: %u is not a CPU that this process may run on: %s",
			     opts->poll_lcores[i], cpus != NULL ? cpus : "");
		free(cpus);
		return ret;
	}
	ret = choose_main_lcore(given_main, opts, &main_lcore);
	if (ret < 0)
		return ret;
	cpus = main_cpus(&allowed, opts);
	f = open_memstream(&map, &size);
	if (f == NULL || cpus == NULL) {
		if (f != NULL)
			fclose(f);
		free(map);
		free(cpus);
		return -ENOMEM;
	}
	fprintf(f, "%u@(%s)", main_lcore, cpus);
	for (i = 0; i < opts->n_poll_lcores; i++)
		fprintf(f, ",%u@%u", opts->poll_lcores[i], opts->poll_lcores[i]);
	ret = fclose(f) == 0 ? add_arg(args, "--lcores=%s", map) : -ENOMEM;
	if (ret == 0)
		ret = add_arg(args, "--main-lcore=%u", main_lcore);
	free(map);
	free(cpus);
	return ret;
}

static int
add_log_levels(struct app_eal_args *args, const struct app_options *opts)
{
	const char *level = opts->log_level;
	int ret;

	/* Telemetry warns of having no commands of an obsolete kind. Its log type is registered
	 * late; for such a one the first option counts, not the last. */
	ret = add_arg(args, "--log-level=lib.telemetry:error");
	if (ret == 0)
		ret = add_arg(args, "--log-level=*:warning");
	/* EAL warns of each size of huge pages that the machine knows and nobody has reserved. */
	if (ret == 0)
		ret = add_arg(args, "--log-level=lib.eal:error");
	if (ret < 0)
		return ret;
	if (level == NULL)
		return add_arg(args, "--log-level=lib.uvdpa:notice");
	return strchr(level, ':') == NULL ? add_arg(args, "--log-level=lib.uvdpa:%s", level)
					  : add_arg(args, "--log-level=%s", level);
}

/* Without a folder that can be trusted, nothing may be put into one. */
static int
add_runtime_dir(struct app_eal_args *args, const struct eal_given *given)
{
	const char *prefix = given->file_prefix;
	bool files = given->files && !given->private;
	int ret;

	if (app_runtime_prepare(prefix != NULL ? prefix : app_program.name, files) == 0)
		return 0;
	if (files)
		return refuse("no folder for EAL's files: %s", app_runtime_missing());
	ret = add_arg(args, "--no-telemetry");
	/* It would tell of the folder as an error; "ready" says what that means. */
	return ret == 0 ? add_arg(args, "--log-level=lib.eal:critical") : ret;
}

int
app_eal_args_build(struct app_eal_args *args, const struct app_options *opts)
{
	struct eal_given given = look_at(opts);
	const char *plugin;
	int n, ret;

	memset(args, 0, sizeof(*args));
	args->help = given.help;
	args->telemetry = given.telemetry;
	ret = check_given(&given);
	if (ret < 0)
		return ret;
	ret = add_arg(args, "%s", app_program.name);
	if (ret == 0)
		ret = add_memory(args, &given);
	if (ret == 0 && !given.lcores)
		ret = add_lcores(args, opts, given.main_lcore);
	if (ret == 0 && !given.pci)
		ret = add_arg(args, "--no-pci");
	/* Without PCI devices nobody needs physical addresses, nor the rights to see them. */
	if (ret == 0 && !given.pci && !given.iova)
		ret = add_arg(args, "--iova-mode=va");
	if (ret == 0 && given.file_prefix == NULL)
		ret = add_arg(args, "--file-prefix=%s", app_program.name);
	if (ret == 0)
		ret = add_log_levels(args, opts);
	if (ret == 0)
		ret = add_runtime_dir(args, &given);
	for (int i = 0; ret == 0 && i < opts->eal_argc; i += RTE_MAX(n, 1)) {
		/* They are loaded. */
		n = app_plugin_option(opts->eal_argc - i, opts->eal_argv + i, &plugin);
		if (n == 0)
			ret = add_arg(args, "%s", opts->eal_argv[i]);
	}
	if (ret == 0) {
		args->argv = calloc((size_t)args->argc + 1, sizeof(*args->argv));
		if (args->argv == NULL)
			ret = -ENOMEM;
		else
			memcpy(args->argv, args->strings, (size_t)args->argc * sizeof(*args->argv));
	}
	if (ret < 0)
		app_eal_args_free(args);
	return ret;
}

void
app_eal_args_free(struct app_eal_args *args)
{
	int i;

	for (i = 0; i < args->argc; i++)
		free(args->strings[i]);
	free(args->strings);
	free(args->argv);
	memset(args, 0, sizeof(*args));
}
