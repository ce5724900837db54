/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A DPDK application that serves a vDPA device:
 *   cc minimal.c -o minimal $(pkg-config --cflags --libs uvdpa)
 *   ./minimal --no-huge -m 64 --no-shconf --no-pci -- /tmp/net0.sock
 */

#include <stdio.h>

#include <rte_eal.h>
#include <vdpa.h>

int
main(int argc, char **argv)
{
	char words[256];
	int ret;

	ret = rte_eal_init(argc, argv);
	if (ret < 0 || ret + 1 >= argc) {
		fprintf(stderr, "usage: %s [EAL options] -- SOCKET\n", argv[0]);
		return 2;
	}
	snprintf(words, sizeof(words), "name net0 mgmtdev sim_net backend loopback socket %s",
		 argv[ret + 1]);
	ret = vdpa_init(NULL);
	if (ret == 0)
		ret = vdpa_dev_add(words);
	if (ret < 0) {
		fprintf(stderr, "%s\n", vdpa_error_message());
	} else {
		puts("net0 is served until Enter or end of input");
		fflush(stdout);
		getchar();
	}
	vdpa_cleanup();
	rte_eal_cleanup();
	return ret < 0;
}
