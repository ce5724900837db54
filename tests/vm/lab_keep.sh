# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
#
# Runs inside the laboratory, see test_lab_keep.py, under systemd: a service whose main process is, in
# turn, each life of a daemon of tests/unit/test_keep_systemd.c. systemd starts the next one when the
# one before has ended, killed or not, and says how it ended. The limits on system calls are those of
# uvdpa.service.

PROGRAM=$1
SERVICE=$2
shift 2
mkdir -p /run/keep
printf '%s\n' "$@" > /run/keep/lives

cat > /run/keep/next <<'END'
#!/bin/sh
life=$(head -n 1 /run/keep/lives)
sed -i 1d /run/keep/lives
echo "${life:-end}" > /run/keep/life
[ -n "$life" ] || exec sleep infinity
exec "$0.program" "$life" 0
END
ln -s "$PROGRAM" /run/keep/next.program
cat > /run/keep/ended <<'END'
#!/bin/sh
echo "$(cat /run/keep/life): $EXIT_CODE $EXIT_STATUS" >> /run/keep/results
END
chmod +x /run/keep/next /run/keep/ended

{
	printf '[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=exec\nNotifyAccess=main\nUser=nobody\n'
	printf 'ExecStart=/run/keep/next\nExecStopPost=+/run/keep/ended\nRestart=always\nRestartSec=0\n'
	grep -E '^(FileDescriptorStoreMax|SystemCall[A-Za-z]*|NoNewPrivileges|MemoryDenyWriteExecute)=' "$SERVICE"
} > /run/systemd/system/keep.service
chmod 0777 /run/keep
chmod 0666 /run/keep/lives
systemctl daemon-reload
systemctl start keep
tries=0
until [ ! -s /run/keep/lives ] && pgrep -x sleep > /dev/null; do
	tries=$((tries + 1))
	if [ "$tries" = 600 ]; then
		journalctl -b --no-pager -u keep | tail -30
		exit 1
	fi
	sleep 0.2
done
echo "stored: $(systemctl show -P NFileDescriptorStore keep)"
systemctl stop keep
echo "stored after stop: $(systemctl show -P NFileDescriptorStore keep)"
cat /run/keep/results
journalctl -b --no-pager -o cat -u keep | grep 'line [0-9]' || :
