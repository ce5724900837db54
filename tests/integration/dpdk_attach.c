/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A DPDK application that attaches vDPA devices by name while it runs, driven by lines on its
 * standard input; each is answered with one line "= NUMBER". Uses nothing of uvdpa.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_common.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_vdpa.h>
#include <rte_vhost.h>

#define STATS_MAX 64

static int
new_device(int vid)
{
	return 0;
}

static void
destroy_device(int vid)
{
}

static const struct rte_vhost_device_ops vhost_ops = {
	.new_device = new_device,
	.destroy_device = destroy_device,
};

static int
probe(char *devargs)
{
	return rte_dev_probe(devargs);
}

static int
remove_device(char *name)
{
	struct rte_vdpa_device *dev = rte_vdpa_find_device_by_name(name);

	return dev == NULL ? -ENODEV : rte_dev_remove(rte_vdpa_get_rte_device(dev));
}

/* "NAME PATH" */
static int
serve(char *args)
{
	const char *name = strsep(&args, " "), *path = args;
	struct rte_vdpa_device *dev = rte_vdpa_find_device_by_name(name);

	if (dev == NULL)
		return -ENODEV;
	if (rte_vhost_driver_register(path, 0) < 0 ||
	    rte_vhost_driver_callback_register(path, &vhost_ops) < 0 ||
	    rte_vhost_driver_attach_vdpa_device(path, dev) < 0 || rte_vhost_driver_start(path) < 0)
		return -1;
	return 0;
}

static int
unserve(char *path)
{
	return rte_vhost_driver_unregister(path);
}

/* "NAME QUEUE": the sum of all its statistics. */
static int
stats(char *args)
{
	struct rte_vdpa_device *dev = rte_vdpa_find_device_by_name(strsep(&args, " "));
	struct rte_vdpa_stat_name names[STATS_MAX];
	struct rte_vdpa_stat values[STATS_MAX];
	int n, sum = 0;

	if (dev == NULL)
		return -ENODEV;
	n = rte_vdpa_get_stats_names(dev, names, STATS_MAX);
	if (n <= 0 || n > STATS_MAX)
		return -1;
	n = rte_vdpa_get_stats(dev, (uint16_t)atoi(args), values, (unsigned int)n);
	for (int i = 0; i < n; i++)
		sum += (int)values[i].value;
	return n < 0 ? n : sum;
}

static int
reset(char *args)
{
	struct rte_vdpa_device *dev = rte_vdpa_find_device_by_name(strsep(&args, " "));

	return dev == NULL ? -ENODEV : rte_vdpa_reset_stats(dev, (uint16_t)atoi(args));
}

static const struct {
	const char *name;
	int (*run)(char *args);
} commands[] = {
	{"probe", probe},     {"remove", remove_device}, {"serve", serve},
	{"unserve", unserve}, {"stats", stats},		 {"reset", reset},
};

int
main(int argc, char **argv)
{
	char line[1024], *args, *name;

	if (rte_eal_init(argc, argv) < 0)
		return 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin) != NULL) {
		int result = -ENOSYS;

		line[strcspn(line, "\n")] = '\0';
		args = line;
		name = strsep(&args, " ");
		for (unsigned int i = 0; args != NULL && i < RTE_DIM(commands); i++)
			if (strcmp(commands[i].name, name) == 0)
				result = commands[i].run(args);
		printf("= %d\n", result);
	}
	return rte_eal_cleanup() == 0 ? 0 : 1;
}
