/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Generic netlink of the kernel's vDPA bus. */

#include <errno.h>
#include <linux/genetlink.h>
#include <linux/vdpa.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <libmnl/libmnl.h>

#include "kernel_call.h"
#include "vdpa_error.h"
#include "vdpa_netlink.h"

#define BUF_SIZE 8192
#define TEXT_MAX 256

struct call {
	uint8_t cmd;
	const char *what;
	char name[256];
	char mgmtdev[256];   /* "": none */
	char text[TEXT_MAX]; /* what the kernel said, or where it failed */
};

static int __attribute__((format(printf, 3, 4))) say(struct call *c, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->text, sizeof(c->text), fmt, ap);
	va_end(ap);
	return -err;
}

/* The kernel's own words about a request that it refuses. */
static int
take_text(const struct nlattr *attr, void *arg)
{
	struct call *c = arg;

	if (mnl_attr_get_type(attr) == NLMSGERR_ATTR_MSG &&
	    mnl_attr_validate(attr, MNL_TYPE_NUL_STRING) >= 0)
		snprintf(c->text, sizeof(c->text), "%s", mnl_attr_get_str(attr));
	return MNL_CB_OK;
}

static int
take_family(const struct nlattr *attr, void *arg)
{
	if (mnl_attr_get_type(attr) == CTRL_ATTR_FAMILY_ID &&
	    mnl_attr_validate(attr, MNL_TYPE_U16) >= 0)
		*(uint16_t *)arg = mnl_attr_get_u16(attr);
	return MNL_CB_OK;
}

/* An error message, or the acknowledgement that it is with 0. */
static int
take_error(struct call *c, const struct nlmsghdr *nlh)
{
	const struct nlmsgerr *err = mnl_nlmsg_get_payload(nlh);
	size_t at = sizeof(*err);

	if (nlh->nlmsg_len < mnl_nlmsg_size(sizeof(*err)))
		return say(c, EPROTO, "a short answer");
	if (err->error == 0 || (nlh->nlmsg_flags & NLM_F_ACK_TLVS) == 0)
		return err->error;
	if ((nlh->nlmsg_flags & NLM_F_CAPPED) == 0)
		at += err->msg.nlmsg_len - MNL_NLMSG_HDRLEN;
	if (at < nlh->nlmsg_len)
		(void)mnl_attr_parse(nlh, (unsigned int)at, take_text, c);
	return err->error;
}

/* Send a request and take its answers, up to the acknowledgement. */
static int
talk(struct call *c, struct mnl_socket *nl, struct nlmsghdr *nlh, uint16_t *family)
{
	char buf[BUF_SIZE];

	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		return say(c, errno, "netlink: %s", strerror(errno));
	for (;;) {
		ssize_t n = mnl_socket_recvfrom(nl, buf, sizeof(buf));
		int left = (int)n;

		if (n < 0)
			return say(c, errno, "netlink: %s", strerror(errno));
		for (struct nlmsghdr *h = (struct nlmsghdr *)buf; mnl_nlmsg_ok(h, left);
		     h = mnl_nlmsg_next(h, &left)) {
			if (h->nlmsg_type == NLMSG_ERROR)
				return take_error(c, h);
			if (family != NULL)
				(void)mnl_attr_parse(h, sizeof(struct genlmsghdr), take_family,
						     family);
		}
	}
}

static struct nlmsghdr *
request(char *buf, uint16_t family, uint8_t cmd, uint8_t version)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct genlmsghdr *genl;

	nlh->nlmsg_type = family;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	nlh->nlmsg_seq = (uint32_t)time(NULL);
	genl = mnl_nlmsg_put_extra_header(nlh, sizeof(*genl));
	genl->cmd = cmd;
	genl->version = version;
	return nlh;
}

static int
converse(struct call *c, struct mnl_socket *nl)
{
	char buf[BUF_SIZE];
	struct nlmsghdr *nlh;
	uint16_t family = 0;
	int rc, on = 1;

	if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0)
		return say(c, errno, "netlink: %s", strerror(errno));
	(void)mnl_socket_setsockopt(nl, NETLINK_EXT_ACK, &on, sizeof(on));
	nlh = request(buf, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
	mnl_attr_put_strz(nlh, CTRL_ATTR_FAMILY_NAME, VDPA_GENL_NAME);
	rc = talk(c, nl, nlh, &family);
	if (rc == -ENOENT || (rc == 0 && family == 0))
		return say(c, ENODEV, "the kernel has no vDPA bus: modprobe vdpa");
	if (rc < 0)
		return rc;
	nlh = request(buf, family, c->cmd, VDPA_GENL_VERSION);
	if (c->mgmtdev[0] != '\0')
		mnl_attr_put_strz(nlh, VDPA_ATTR_MGMTDEV_DEV_NAME, c->mgmtdev);
	mnl_attr_put_strz(nlh, VDPA_ATTR_DEV_NAME, c->name);
	return talk(c, nl, nlh, NULL);
}

static int
run(void *arg)
{
	struct call *c = arg;
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_GENERIC, SOCK_CLOEXEC);
	int rc = nl == NULL ? say(c, errno, "netlink: %s", strerror(errno)) : converse(c, nl);

	if (nl != NULL)
		(void)mnl_socket_close(nl);
	if (rc < 0)
		rc = vdpa_error(rc, "%s: %s: %s", c->name, c->what,
				c->text[0] != '\0' ? c->text : strerror(-rc));
	return rc;
}

static int
call(uint8_t cmd, const char *what, const char *name, const char *mgmtdev)
{
	struct call c = {.cmd = cmd, .what = what};

	snprintf(c.name, sizeof(c.name), "%s", name);
	snprintf(c.mgmtdev, sizeof(c.mgmtdev), "%s", mgmtdev);
	return vdpa_kernel_call(name, what, run, &c, sizeof(c));
}

int
vdpa_netlink_dev_add(const char *name, const char *mgmtdev)
{
	return call(VDPA_CMD_DEV_NEW, "vdpa dev add", name, mgmtdev);
}

int
vdpa_netlink_dev_del(const char *name)
{
	return call(VDPA_CMD_DEV_DEL, "vdpa dev del", name, "");
}
