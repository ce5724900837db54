# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
#
# Words for the scripts that run in the laboratory (bash -eu on the host's root).

# Fail with a reason.
fail()
{
	echo "FAIL: $*"
	exit 1
}

# A figure for the host: result NAME VALUE.
result()
{
	echo "@@result $*"
}

# Ask the host to do something and wait until it has; prints its one-line answer.
host()
{
	local answer
	echo "@@host $*" >/dev/ttyS1
	read -r answer </dev/ttyS1
	case "$answer" in
	error*) fail "host $*: $answer" ;;
	esac
	echo "$answer"
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for()
{
	local tries=$(($1 * 20))
	shift
	until "$@"; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || fail "waited in vain for: $*"
		sleep 0.05
	done
}

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
	[ "$(driver_of "$1")" = "$driver" ] || fail "$1 is bound to $(driver_of "$1"), not $driver"
}
