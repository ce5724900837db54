# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
#
# Words that scripts in guests and in the laboratory share (any sh, -eu).

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
	tries=$(($1 * 10))
	shift
	while ! "$@"; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || fail "waited in vain for: $*"
		sleep 0.1
	done
}
