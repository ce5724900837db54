#!/bin/busybox sh
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
#
# A machine's first process: mounts, loads modules, runs /script with the second serial port as its
# input and output, and says on it how that ended. The first one is the kernel's console.
#
# /prepare.sh, where there is one, does what else the machine needs and may set $run.

export PATH=/bin:/usr/sbin:/sbin
/bin/busybox mkdir -p /proc /sys /dev /tmp /mnt /sbin /etc
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in /modules/*.ko; do
	insmod "$module" || echo "insmod $module failed" >/dev/ttyS1
done
stty -F /dev/ttyS1 raw -echo
run="sh -eu -c '. /lib.sh; . /script'"
[ ! -f /prepare.sh ] || . /prepare.sh >/dev/ttyS1 2>&1
eval "$run" </dev/ttyS1 >/dev/ttyS1 2>&1
code=$?
# Warnings and worse.
[ "$code" -eq 0 ] || dmesg -r | grep '^<[0-4]>' | tail -n 30 >/dev/ttyS1
echo "@@exit $code" >/dev/ttyS1
# The test may yet ask devices what they did for this machine, and ends it (machine.py). Where somebody else
# waits for its end, it has the file /ends: bytes in the UART would be lost with it.
stty -F /dev/ttyS1 sane
if [ -e /ends ]; then sleep 0.1; else sleep 60; fi
reboot -f
