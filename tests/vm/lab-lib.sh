# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
#
# Words for the scripts that run in the laboratory (bash -eu on the host's root), beside those of
# words.sh.

# load MODULE, unload MODULE: kernel modules; the host may have no modprobe.
load()
{
	/run/lab/busybox insmod /run/lab/modules/??-"$1".ko
}

unload()
{
	/run/lab/busybox rmmod "$1"
}

# The driver of a function (ADDR is DDDD:BB:DD.F), or "none".
driver_of()
{
	if [ -e "/sys/bus/pci/devices/$1/driver" ]; then
		basename "$(readlink "/sys/bus/pci/devices/$1/driver")"
	else
		echo none
	fi
}

# The number of a function's IOMMU group.
group_of()
{
	basename "$(readlink "/sys/bus/pci/devices/$1/iommu_group")"
}

# bind ADDR [DRIVER]: give a function to a driver (vfio-pci), whatever has it; DRIVER none: to none.
bind()
{
	local driver=${2:-vfio-pci} sys=/sys/bus/pci/devices/$1
	[ -d "$sys" ] || fail "no function $1"
	[ ! -e "$sys/driver" ] || echo "$1" >"$sys/driver/unbind"
	[ "$driver" != none ] || return 0
	echo "$driver" >"$sys/driver_override"
	echo "$1" >/sys/bus/pci/drivers_probe
	# No process of its own where it went well.
	[ -e "/sys/bus/pci/drivers/$driver/$1" ] || fail "$1 is bound to $(driver_of "$1"), not $driver"
}
