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
mount -t tmpfs -o mode=755 run /newroot/run &&
mkdir /newroot/run/lab &&
cp -r /modules /bin/busybox /script /lib.sh /environment /newroot/run/lab/ ||
	echo "FAIL: the laboratory's root could not be made"
ip link set lo up
# DPDK loads every driver that is installed, a second for each process here: it finds those that are used,
# and the linker finds all, for programs that are linked with some.
for pmds in /newroot/usr/lib/*/dpdk/pmds-*; do
	[ -d "$pmds" ] || continue
	mkdir -p /run/lab/pmds /newroot/run/lab/pmds /newroot/run/lab/pmds-used &&
	mount --bind "$pmds" /run/lab/pmds &&
	mount --bind "$pmds" /newroot/run/lab/pmds &&
	ln -s /run/lab/pmds/*.so.?? /newroot/run/lab/pmds-used/ &&
	for name in bus_vdev mempool_ring net_af_packet net_virtio; do
		ln -s "/run/lab/pmds/librte_$name.so" /newroot/run/lab/pmds-used/
	done &&
	mount --bind /newroot/run/lab/pmds-used "$pmds" ||
		echo "FAIL: DPDK's drivers could not be chosen"
done
# virtio-iommu has no interrupt remapping, which type1 wants to be told that it is known.
if grep -qw lab.iommu=virtio /proc/cmdline; then
	echo 1 >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts
fi
files="for f in environment lib.sh script; do . /run/lab/\$f; done"
run="chroot /newroot /bin/bash -eu -c '$files'"

# With systemd as the first process: units of the host's administrator and what only boots real machines
# stay away. The script is a service then, which does what init.sh does with it elsewhere.
if grep -qw lab.systemd /proc/cmdline; then
	etc=/newroot/etc/systemd/system
	# What says that the host is a container does not hold here.
	rm -rf "$etc" /newroot/etc/fstab /newroot/.dockerenv
	mkdir -p "$etc"
	for unit in binfmt firstboot journal-flush machine-id-commit pcrphase-sysinit pcrphase pstore random-seed repart \
		sysctl sysusers timesyncd tmpfiles-setup tmpfiles-setup-dev udev-trigger update-utmp; do
		ln -s /dev/null "$etc/systemd-$unit.service"
	done
	for unit in kmod-static-nodes.service dev-hugepages.mount dev-mqueue.mount proc-sys-fs-binfmt_misc.automount \
		sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount \
		sys-kernel-tracing.mount tmp.mount; do
		ln -s /dev/null "$etc/$unit"
	done
	# Programs that make units of files that are not there, again at each daemon-reload.
	generators=/newroot/etc/systemd/system-generators
	rm -rf "$generators"
	mkdir -p "$generators"
	for program in /newroot/lib/systemd/system-generators/*; do
		ln -s /dev/null "$generators/${program##*/}"
	done
	cat >"$etc/lab.target" <<-'END'
		[Unit]
		Requires=basic.target lab.service
		After=basic.target
	END
	cat >"$etc/lab.service" <<-'END'
		[Unit]
		After=basic.target systemd-udevd.service
		[Service]
		Type=oneshot
		TimeoutStartSec=infinity
		ExecStart=/bin/bash /run/lab/service
	END
	# The machine ends with the script; nothing else in it has to.
	cat >/newroot/run/lab/service <<-'END'
		exec </dev/ttyS1 >/dev/ttyS1 2>&1
		/bin/bash -eu -c 'for f in environment lib.sh script; do . /run/lab/$f; done'
		code=$?
		[ $code -eq 0 ] || journalctl -b --no-pager -o short-monotonic -n 60
		echo "@@exit $code"
		stty sane
		sleep 0.1
		echo b >/proc/sysrq-trigger
	END
	exec switch_root /newroot /lib/systemd/systemd --unit=lab.target --show-status=no
fi
