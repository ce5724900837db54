# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
#
# Words for the scripts that run in a guest (busybox sh, -eu), beside those of words.sh.

# is FILE VALUE: the (sysfs) file reads VALUE.
is()
{
	[ "$(cat "$1" 2>/dev/null)" = "$2" ]
}

# The network interface with this MAC address.
nic()
{
	for sys in /sys/class/net/*; do
		if is "$sys/address" "$1"; then
			basename "$sys"
			return
		fi
	done
	fail "no interface with address $1"
}

# The virtio disk with this serial number.
disk()
{
	for sys in /sys/block/vd*; do
		if is "$sys/serial" "$1"; then
			basename "$sys"
			return
		fi
	done
	fail "no disk with serial $1"
}

# The PCI address of a network interface or disk: pci_of /sys/class/net/eth0
pci_of()
{
	basename "$(readlink -f "$1/device/..")"
}

# ping_all COUNT ADDRESS NAME: COUNT echo requests, all of which must be answered.
ping_all()
{
	program=ping
	case "$2" in *:*) program=ping6 ;; esac
	$program -c "$1" -i 0.1 -W 2 "$2" >/tmp/ping || { cat /tmp/ping; fail "ping $2"; }
	grep -q " $1 packets received, 0% packet loss" /tmp/ping ||
		{ cat /tmp/ping; fail "ping $2 lost packets"; }
	result "$3" "$1 $(sed -n 's|^round-trip min/avg/max = [^/]*/\([^/]*\)/.*|\1|p' /tmp/ping)"
}

# net_up INTERFACE IPV4/LEN IPV6/LEN: addresses usable at once.
net_up()
{
	echo 0 >/proc/sys/net/ipv6/conf/"$1"/accept_dad
	ip link set "$1" up
	ip addr add "$2" dev "$1"
	ip addr add "$3" dev "$1"
}

# Write FILE with COUNT MiB that no disk holds by chance; prints its checksum.
write_random()
{
	dd if=/dev/urandom of="$1" bs=1M count="$2" 2>/dev/null
	sha256sum <"$1"
}

drop_caches()
{
	sync
	echo 3 >/proc/sys/vm/drop_caches
}

# exercise_disk DISK MIB: format, write, read back from the device, remount, read back again, trim.
# The file system is left unmounted, with the file "data" gone and "kept" (1 MiB) in it.
exercise_disk()
{
	mkfs.ext4 -q -F "/dev/$1"
	mount -t ext4 "/dev/$1" /mnt
	sum=$(write_random /mnt/data "$2")
	kept=$(write_random /mnt/kept 1)
	drop_caches
	[ "$(sha256sum </mnt/data)" = "$sum" ] || fail "$1: read back differs"
	umount /mnt
	mount -t ext4 "/dev/$1" /mnt
	[ "$(sha256sum </mnt/data)" = "$sum" ] || fail "$1: read back after remount differs"
	rm /mnt/data
	drop_caches
	host trim "$1" >/dev/null
	fstrim /mnt
	host trimmed "$1" >/dev/null
	[ "$(sha256sum </mnt/kept)" = "$kept" ] || fail "$1: trim took more than free blocks"
	umount /mnt
	result "written-$1" $(($2 + 1))
	result "verified-$1" $(($2 * 2 + 1))
}
