# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
#
# Completion of vdpactl for bash. Names of devices and management devices are the daemon's, if it
# answers; words of `dev add` are those that it knows.

# _vdpactl_names VERB...: the names that a verb shows, by the options given so far.
_vdpactl_names()
{
	timeout 2 vdpactl "${options[@]}" -jp "$@" 2>/dev/null </dev/null |
		sed -n 's/^        "\([^"]*\)": .*/\1/p'
}

# _vdpactl_words: words of `dev add`, each on a line of its own in the daemon's help.
_vdpactl_words()
{
	timeout 2 vdpactl "${options[@]}" dev add help 2>/dev/null </dev/null |
		sed -n 's/^    \([a-z_]\{1,\}\)\( .*\)\{0,1\}$/\1/p' | sort -u
}

_vdpactl()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} i word
	local -a words=() options=()
	COMPREPLY=()

	# What stands before the cursor, options apart.
	for ((i = 1; i < COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		case $word in
		-S | --socket | --control | --name)
			options+=("$word" "${COMP_WORDS[i + 1]}")
			i=$((i + 1))
			;;
		-n | --count | -d | --delay | -o | --output | --timeout) i=$((i + 1)) ;;
		-*) ;;
		*) words+=("$word") ;;
		esac
	done

	case $prev in
	-S | --socket | --control | -o | --output)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	--name | -n | --count | -d | --delay | --timeout) return ;;
	esac
	if [[ $cur == -* ]]; then
		local all='--json --pretty --statistics --socket --control --name --help --Version'
		case ${words[0]-} in
		top) all+=' --count --delay' ;;
		monitor) all+=' --count' ;;
		metrics) all+=' --output' ;;
		upgrade) all+=' --check --force --timeout' ;;
		esac
		mapfile -t COMPREPLY < <(compgen -W "$all" -- "$cur")
		return
	fi

	local reply=
	case "${words[*]}" in
	'') reply='mgmtdev dev monitor top metrics reload save shutdown upgrade version methods call help' ;;
	mgmtdev) reply='show list help' ;;
	dev) reply='show list add del config vstats set info stats queues help' ;;
	'dev config' | 'dev vstats') reply='show help' ;;
	'mgmtdev show' | 'mgmtdev list') reply=$(_vdpactl_names mgmtdev show) ;;
	'dev show' | 'dev list' | 'dev del' | 'dev info' | 'dev stats' | 'dev queues' | 'dev set' | \
		'dev config show' | 'dev vstats show' | top*)
		reply=$(_vdpactl_names dev show)
		;;
	'dev vstats show '*) [[ ${#words[@]} -eq 4 ]] && reply=qidx ;;
	'dev set '*) [[ ${#words[@]} -eq 3 ]] && reply='link mac mtu' ;;
	'dev add') reply='name mgmtdev help' ;;
	'dev add '*)
		case $prev in
		name) ;;
		mgmtdev) reply=$(_vdpactl_names mgmtdev show) ;;
		socket)
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return
			;;
		*) reply=$(_vdpactl_words) ;;
		esac
		;;
	monitor*)
		reply='device.added device.removed device.connected device.disconnected device.started
			device.stopped device.failed device.link device.migration config.reloaded'
		;;
	call) reply=$(timeout 2 vdpactl "${options[@]}" methods 2>/dev/null </dev/null | cut -d' ' -f1) ;;
	save | upgrade)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$reply" -- "$cur")
}

complete -F _vdpactl vdpactl
