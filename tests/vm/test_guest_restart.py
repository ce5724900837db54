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
import machine
import test_guest_vfio_user as vfio_user
import vmtest

MIB = 1 << 20
KILLS = vmtest.count(4, 20)
RESTARTS = vmtest.count(2, 5)
UPGRADES = vmtest.count(2, 20)
MODEL_KILLS = vmtest.count(3, 20)
MODEL_RESTARTS = vmtest.count(1, 5)
MODEL_UPGRADES = vmtest.count(1, 20)
# What the guest sets by the control queue of a device that has it.
SET_MAC = "52:54:00:00:0a:bc"

SCRIPT = """
n=0
for mac in %(macs)s; do
    net=$(nic $mac)
    net_up $net 10.0.$n.1/24 fd00:$n::1/64
    # The kernel says once that the link is there, and may do so late.
    wait_for 60 grep -q up /sys/class/net/$net/operstate
    n=$((n + 1))
done
# The last one's control queue is the device's, where there are two.
[ $n = 1 ] || ip link set dev $net address %(set_mac)s
for d in %(disks)s; do
    mkdir /mnt/$d
    mkfs.ext4 -q -F /dev/$(disk $d)
    mount -t ext4 /dev/$(disk $d) /mnt/$d
done
dmesg >/tmp/before
work() {
    for d in %(disks)s; do
        (
            n=0
            while [ ! -e /tmp/stop ]; do
                n=$((n + 1))
                write_random /mnt/$d/data$((n %% 4)) 1 >/tmp/sum-$d$((n %% 4))
                sync
            done
            echo $n >/tmp/rounds-$d
        ) &
    done
    n=0
    for mac in %(macs)s; do
        ( while [ ! -e /tmp/stop ]; do ping -c 1 -W 60 10.0.$n.2 >/dev/null || echo lost >>/tmp/lost; done ) &
        n=$((n + 1))
    done
    wait
}
verify() {
    for d in %(disks)s; do
        for n in 0 1 2 3; do
            [ ! -e /tmp/sum-$d$n ] || [ "$(sha256sum </mnt/$d/data$n)" = "$(cat /tmp/sum-$d$n)" ] || fail "$d: data$n differs $1"
        done
    done
}
work &
worker=$!
for end in %(ends)s; do
    sleep 2
    host $end
done
sleep 2
touch /tmp/stop
wait $worker || fail "the writer"
[ ! -e /tmp/lost ] || fail "echoes are lost: $(wc -l </tmp/lost)"
drop_caches
verify
for d in %(disks)s; do
    umount /mnt/$d
    mount -t ext4 /dev/$(disk $d) /mnt/$d
done
verify "after a mount"
# Mounts and the word to drop caches are logged, and that a busy host was late; nothing else is to be.
said() { grep -v -e "EXT4-fs (" -e drop_caches: -e "hrtimer: interrupt took" -e clocksource:; }
dmesg | said >/tmp/after
said </tmp/before >/tmp/was
cmp -s /tmp/was /tmp/after || fail "the kernel has logged: $(diff /tmp/was /tmp/after)"
for d in %(disks)s; do result rounds-$d "$(cat /tmp/rounds-$d)"; done
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

    def check(self, d, ends, others=(), qemu=None):
        """The guest goes on over these ends of the daemon d, which has disk0 and net0, and where there are
        `others` (QEMU arguments), disk1 and net1, too."""
        d.start()
        self.addCleanup(d.kill)
        disks, macs = (["s0", "s1"], [vmtest.MAC0, vmtest.MAC1]) if others else (["s0"], [vmtest.MAC0])
        count, starts = 2 * len(disks), []

        def again():
            starts.append(1)
            d.start()
            deadline = time.monotonic() + daemon.START_TIMEOUT
            while d.log.read_text().count(f"took over {count} devices") < len(starts):
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
            self.assertEqual(d.upgrade()["devices"], count, d.log_text())

        # A connection that ended would not come back.
        devices = [arg.replace(",reconnect=1", "")
                   for arg in self.blk("disk0") + self.net("net0", vmtest.MAC0)]
        g = self.guest("restart", SCRIPT % {"disks": " ".join(disks), "macs": " ".join(macs), "ends": " ".join(ends), "set_mac": SET_MAC},
                       [*devices, *others], qemu=qemu or machine.QEMU)
        results = g.run({"crash": crash, "restart": restart, "upgrade": upgrade})
        for disk in disks:
            self.assertGreater(int(results[f"rounds-{disk}"]), ends.count("crash"))
        self.assertNotRegex(d.log.read_text(), "starts anew|ends with the process")

    def test_a_guest_notices_nothing(self):
        for name in "disk", "disk1":
            with open(f"{self.folder}/{name}.img", "wb") as image:
                image.truncate(64 * MIB)
        words = ["name disk0 mgmtdev sim_blk backend file %s/disk.img serial s0 socket %s/disk0.sock",
                 f"name net0 mgmtdev sim_net mac {vmtest.MAC0} backend echo socket %s/net0.sock"]
        others, qemu = [], vfio_user.qemu()
        # One more of each kind, as functions, where there is a QEMU for them.
        if qemu:
            words += ["name disk1 mgmtdev sim_blk backend file %s/disk1.img serial s1 vfio_user %s/disk1.sock",
                      f"name net1 mgmtdev sim_net mac {vmtest.MAC1} backend echo vfio_user %s/net1.sock"]
            others = vfio_user.vfio_user("disk1", f"{self.folder}/disk1.sock") + vfio_user.vfio_user("net1", f"{self.folder}/net1.sock")
        d = daemon.Daemon(vmtest.BUILD, self.folder, words, ["--keep", f"unix:{self.keeper()}"])
        self.check(d, ["crash"] * KILLS + ["restart"] * RESTARTS + ["upgrade"] * UPGRADES, others, qemu)
        if others:
            self.assertEqual(d.ask("/vdpa/dev/show", "net1")["mac"], SET_MAC)
        for disk in range(len(words) // 2):
            self.assertEqual(d.stats(f"disk{disk}")["io_errors"], 0)

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
