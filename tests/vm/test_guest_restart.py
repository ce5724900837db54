#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A daemon that is killed, restarted and upgraded under a guest: QEMU keeps its connections, without a word to
come back by, the guest's kernel logs nothing, and what it wrote is there: on simulated devices, and on functions behind vfio-user."""

import os
import pathlib
import subprocess
import time

import daemon
import vmtest

MIB = 1 << 20
KILLS = vmtest.count(4, 20)
RESTARTS = vmtest.count(2, 5)
UPGRADES = vmtest.count(2, 20)
MODEL_KILLS = vmtest.count(3, 20)
MODEL_RESTARTS = vmtest.count(1, 5)
MODEL_UPGRADES = vmtest.count(1, 20)

SCRIPT = """
disk=$(disk s0)
net=$(nic %(mac)s)
net_up $net 10.0.0.1/24 fd00::1/64
# The kernel says once that the link is there, and may do so late.
wait_for 60 grep -q up /sys/class/net/$net/operstate
mkfs.ext4 -q -F /dev/$disk
mount -t ext4 /dev/$disk /mnt
dmesg >/tmp/before
(
    n=0
    while [ ! -e /tmp/stop ]; do
        n=$((n + 1))
        write_random /mnt/data$((n %% 4)) 1 >/tmp/sum$((n %% 4))
        sync
    done
    echo $n >/tmp/rounds
) &
writer=$!
( while [ ! -e /tmp/stop ]; do ping -c 1 -W 60 10.0.0.2 >/dev/null || echo lost >>/tmp/lost; done ) &
pinger=$!
for end in %(ends)s; do
    sleep 2
    host $end
done
sleep 2
touch /tmp/stop
wait $writer || fail "the writer"
wait $pinger
[ ! -e /tmp/lost ] || fail "echoes are lost: $(wc -l </tmp/lost)"
drop_caches
for n in 0 1 2 3; do
    [ ! -e /tmp/sum$n ] || [ "$(sha256sum </mnt/data$n)" = "$(cat /tmp/sum$n)" ] || fail "data$n differs"
done
umount /mnt
mount -t ext4 /dev/$disk /mnt
for n in 0 1 2 3; do
    [ ! -e /tmp/sum$n ] || [ "$(sha256sum </mnt/data$n)" = "$(cat /tmp/sum$n)" ] || fail "data$n differs after a mount"
done
# Mounts and the word to drop caches are logged, and that a busy host was late; nothing else is to be.
said() { grep -v -e "EXT4-fs (" -e drop_caches: -e "hrtimer: interrupt took" -e clocksource:; }
dmesg | said >/tmp/after
said </tmp/before >/tmp/was
cmp -s /tmp/was /tmp/after || fail "the kernel has logged: $(diff /tmp/was /tmp/after)"
result rounds "$(cat /tmp/rounds)"
"""


class Restart(vmtest.GuestTest):
    def keeper(self):
        path = f"{self.folder}/keeper"
        keeper = subprocess.Popen([pathlib.Path(vmtest.BUILD) / "app/vdpa-keeper/vdpa-keeper", "--socket", path],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(keeper.wait)
        self.addCleanup(keeper.kill)
        deadline = time.monotonic() + daemon.START_TIMEOUT
        while not os.path.exists(path):
            self.assertLess(time.monotonic(), deadline, "no keeper")
            time.sleep(0.02)
        return path

    def check(self, d, ends):
        """The guest goes on over these ends of the daemon d, which has disk0 and net0."""
        d.start()
        self.addCleanup(d.kill)
        starts = []

        def again():
            starts.append(1)
            d.start()
            deadline = time.monotonic() + daemon.START_TIMEOUT
            while d.log.read_text().count("took over 2 devices") < len(starts):
                self.assertLess(time.monotonic(), deadline, d.log_text())
                time.sleep(0.02)

        def crash():
            d.kill()
            again()

        def restart():
            d.proc.terminate()
            self.assertEqual(d.proc.wait(daemon.STOP_TIMEOUT), 0, d.log_text())
            again()

        def upgrade():
            starts.append(1)
            self.assertEqual(d.upgrade()["devices"], 2, d.log_text())

        # A connection that ended would not come back.
        devices = [arg.replace(",reconnect=1", "")
                   for arg in self.blk("disk0") + self.net("net0", vmtest.MAC0)]
        g = self.guest("restart", SCRIPT % {"mac": vmtest.MAC0, "ends": " ".join(ends)}, devices)
        results = g.run({"crash": crash, "restart": restart, "upgrade": upgrade})
        self.assertGreater(int(results["rounds"]), ends.count("crash"))
        self.assertNotIn("starts anew", d.log.read_text())

    def test_a_guest_notices_nothing(self):
        with open(f"{self.folder}/disk.img", "wb") as image:
            image.truncate(64 * MIB)
        d = daemon.Daemon(vmtest.BUILD, self.folder, [
            "name disk0 mgmtdev sim_blk backend file %s/disk.img serial s0 socket %s/disk0.sock",
            f"name net0 mgmtdev sim_net mac {vmtest.MAC0} backend echo socket %s/net0.sock",
        ], ["--keep", f"unix:{self.keeper()}"])
        self.check(d, ["crash"] * KILLS + ["restart"] * RESTARTS + ["upgrade"] * UPGRADES)
        self.assertEqual(d.stats("disk0")["io_errors"], 0)

    def test_functions_behind_vfio_user(self):
        """The model executes the rings all the time, and sees no end of the daemon's connection."""
        folder = pathlib.Path(self.folder, "model")
        folder.mkdir()
        model = daemon.Model(vmtest.BUILD, folder, [
            "name disk0 mgmtdev sim_blk backend ram 64M serial s0 vfio_user %s/disk0.vfu",
            f"name net0 mgmtdev sim_net mac {vmtest.MAC0} backend echo vfio_user %s/net0.vfu",
        ], ["--log-level", "info"])
        model.start()
        self.addCleanup(model.kill)
        d = daemon.Daemon(vmtest.BUILD, self.folder, [
            f"name {name} mgmtdev vfio-user/{folder}/{name}.vfu socket %s/{name}.sock" for name in ("disk0", "net0")
        ], ["--keep", f"unix:{self.keeper()}"])
        self.check(d, ["crash"] * MODEL_KILLS + ["restart"] * MODEL_RESTARTS + ["upgrade"] * MODEL_UPGRADES)
        log = model.log.read_text()
        self.assertEqual((log.count("vfio-user: connected"), log.count("vfio-user: disconnected")), (2, 0), log)
        self.assertEqual(model.stats("disk0")["io_errors"], 0)


if __name__ == "__main__":
    vmtest.main()
