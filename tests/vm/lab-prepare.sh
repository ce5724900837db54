# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
#
# Makes the laboratory's root out of the host's: read-only over 9p, and an overlay in memory takes
# what is written. The host's /run is hidden, its sockets mean nothing here. /run/lab has our files.

mkdir /host /over /newroot
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro hostroot /host &&
mount -t tmpfs -o size=60% over /over &&
mkdir /over/upper /over/work &&
mount -t overlay -o lowerdir=/host,upperdir=/over/upper,workdir=/over/work overlay /newroot &&
mount -t proc proc /newroot/proc &&
mount -t sysfs sysfs /newroot/sys &&
mount -t devtmpfs dev /newroot/dev &&
mkdir -p /newroot/dev/shm /newroot/dev/pts &&
mount -t tmpfs shm /newroot/dev/shm &&
mount -t devpts devpts /newroot/dev/pts &&
mount -t tmpfs run /newroot/run &&
mkdir /newroot/run/lab &&
cp -r /modules /bin/busybox /script /lib.sh /environment /newroot/run/lab/ ||
	echo "FAIL: the laboratory's root could not be made"
ip link set lo up
# virtio-iommu has no interrupt remapping, which type1 wants to be told that it is known.
if grep -qw lab.iommu=virtio /proc/cmdline; then
	echo 1 >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts
fi
files="for f in environment lib.sh script; do . /run/lab/\$f; done"
run="chroot /newroot /bin/bash -eu -c '$files'"
