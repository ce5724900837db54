#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
User-mode Linux on devices of vdpa-app, by its virtio_uml driver.

It is a vhost-user front end without a VMM: the guest's kernel speaks the protocol and is virtio's driver.
It asks for a reply to every message, takes no other descriptor for interrupts than a socket, and starts
packed rings without saying so.
"""

import os
import signal
import sys

import daemon
import guest
import machine
import vmtest
from vmtest import MAC0

PINGS = 20
WRITE_MIB = 8
MIB = 1 << 20
NET, BLOCK = 1, 2  # virtio device types
RING_PACKED = 1 << 34


def device(path, kind):
    return f"virtio_uml.device={path}:{kind}"


class Uml(machine.Machine):
    """A kernel as a process; its second serial port is its standard input and output."""

    def __init__(self, folder, name, script, devices):
        program = guest.mkfs()
        with open(program, "rb") as f:
            files = {"usr/sbin/mkfs.ext4": f.read()}
        for path in guest.libraries(program):
            with open(path, "rb") as f:
                files[path] = f.read()
        files["lib.sh"] = machine.words("guest-lib.sh")
        super().__init__(folder, name, "uml", script, files, [f"uml_dir={folder}", *devices], 128)

    def command(self, part, ramdisk, arguments, memory, qemu, cmdline):
        return [str(machine.fetched(part) / "linux.uml"), f"mem={memory}M", f"initrd={ramdisk}",
                f"umid={self.name}", "con=null", "con0=null,fd:2", "ssl1=fd:0,fd:1", "quiet",
                "panic=-1", "net.ifnames=0", *arguments]

    def kill(self, sig=signal.SIGKILL):
        """It has processes of its own, and takes no other signal."""
        if self.proc is not None and self.proc.poll() is None:
            os.killpg(self.proc.pid, sig)
        super().kill(sig)


class UserModeLinux(vmtest.MachineTest):
    def uml(self, script, *devices):
        m = Uml(self.folder, "uml", script, devices)
        m.start()
        self.addCleanup(m.kill)
        return m

    NET_SCRIPT = f"""
        nic=$(nic {MAC0})
        result features $(cat /sys/class/net/$nic/device/features)
        net_up $nic 10.0.0.1/24 fd00::1/64
        ping_all {PINGS} 10.0.0.2 v4
        ping_all {PINGS} fd00::2 v6
        ping -c 5 -i 0.1 -W 2 -s 1400 10.0.0.2 >/dev/null || fail "large IPv4"
    """

    def check_net(self, words=""):
        d = self.daemon(f"name n0 mgmtdev sim_net mac {MAC0} backend echo {words} "
                        "socket %s/n0.sock")
        m = self.uml(self.NET_SCRIPT, device(f"{self.folder}/n0.sock", NET))
        results = m.run()
        m.kill()
        stats, queues = d.stats("n0"), d.ask("/vdpa/dev/stats", "n0")["queues"]
        self.assertGreaterEqual(stats["tx_packets"], 2 * PINGS + 5)
        self.assertGreaterEqual(stats["rx_packets"], 2 * PINGS + 5)
        for queue in queues.values():
            # The host that answers has no answer to the kernel's own multicast; and the guest, which has the
            # device's control queue, says which groups it listens to.
            drops = {k: n for k, n in queue.items() if k.startswith("drop_") and n != 0}
            self.assertLessEqual(set(drops), {"drop_unanswered", "drop_filtered"})
        control = list(queues.values())[-1] if words.startswith("max_vqp") else queues["2"]
        self.assertGreater(control["received_desc"], 0)
        d.stop()
        return results["features"]

    def test_net(self):
        """The 35th of the bits: packed rings, which it prefers."""
        self.assertEqual(self.check_net()[34], "1")

    def test_net_with_split_rings(self):
        features = int(self.features("sim_net"), 16) & ~RING_PACKED
        self.assertEqual(self.check_net(f"device_features {features:#x}")[34], "0")

    def test_net_with_queue_pairs(self):
        """One processor uses one pair of them, and says so on the control queue behind all."""
        self.check_net("max_vqp 4")

    def test_block(self):
        d = self.daemon("name b0 mgmtdev sim_blk backend ram 64M serial uvdpa-b0 queues 2 "
                        "socket %s/b0.sock")
        self.exercise("uvdpa-b0", f"{self.folder}/b0.sock", lambda: d.stats("b0"))
        d.stop()

    def exercise(self, serial, path, stats):
        m = self.uml(f"exercise_disk $(disk {serial}) {WRITE_MIB}\n", device(path, BLOCK))
        m.run({"trim": lambda _: None, "trimmed": lambda _: None})
        m.kill()
        now = stats()
        self.assertGreaterEqual(now["write_bytes"], (WRITE_MIB + 1) * MIB)
        self.assertGreaterEqual(now["read_bytes"], 2 * WRITE_MIB * MIB)
        self.assertGreater(now["discards"], 0)
        self.assertEqual(now["io_errors"] + now["malformed"], 0)

    def test_block_function_over_vfio_user(self):
        """Interrupts that a device signals by itself reach a socket as well."""
        folder = self.folder + "/model"
        os.mkdir(folder)
        model = daemon.Model(vmtest.BUILD, folder, [
            "name m0 mgmtdev sim_blk backend ram 64M serial uvdpa-m0 vfio_user %s/m0.sock"])
        model.start()
        self.addCleanup(model.kill)
        self.daemon(f"name a0 mgmtdev vfio-user/{folder}/m0.sock socket %s/a0.sock")
        self.exercise("uvdpa-m0", f"{self.folder}/a0.sock", lambda: model.stats("m0"))

    def features(self, mgmtdev):
        """What its devices offer when nothing is left out."""
        d = self.daemon(f"name f0 mgmtdev {mgmtdev} socket %s/f0.sock")
        features = d.ask("/vdpa/dev/show", "f0")["device_features"]
        d.stop()
        return features


def missing():
    if guest.mkfs() is None:
        return "mkfs.ext4 is not installed: run scripts/setup vm"
    return None if machine.fetched("uml") else "no User-mode Linux: run scripts/setup vm"


if __name__ == "__main__":
    sys.exit(vmtest.main(missing))
