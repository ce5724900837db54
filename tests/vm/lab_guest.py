# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Runs inside the laboratory, see test_lab_guest.py: a guest in a QEMU of its own, on a vhost-user
socket of vdpa-app's, on a function over vfio-pci. It pings the laboratory's kernel through it.
"""

import os
import subprocess
import tempfile
import unittest

import daemon
import guest
import lab_inside as inside
import vmtest

PINGS = 10
# Every instruction is emulated twice: what takes two seconds takes a minute, several on a busy host.
BOOT_TIMEOUT = 500
DEVICE = "0000:00:10.0"  # the function served; its far end is the other one, the kernel's
MAC = os.environ["UVDPA_LAB_MAC"]
FAR_MAC = os.environ["UVDPA_LAB_FAR_MAC"]


def interface(mac):
    """The network interface with this address."""
    for name in os.listdir("/sys/class/net"):
        with open(f"/sys/class/net/{name}/address", encoding="ascii") as f:
            if f.read().strip() == mac:
                return name
    raise AssertionError(f"no interface has the address {mac}")


def ip(*words):
    subprocess.run(["/run/lab/busybox", "ip", *words], check=True)


class Guest(unittest.TestCase):
    def test_pings_through_the_function(self):
        inside.bind(DEVICE)
        far = interface(FAR_MAC)
        ip("addr", "add", "10.0.0.2/24", "dev", far)
        ip("link", "set", far, "up")
        with tempfile.TemporaryDirectory(prefix="lab-guest.", dir="/tmp") as folder, \
                daemon.Daemon(vmtest.BUILD, folder,
                              [f"name dev0 mgmtdev pci/{DEVICE} socket %s/dev0.sock"]) as d:
            pages = []
            # The firmware of QEMU's smallest machine: the usual one takes twenty seconds here.
            devices = [*guest.vhost_user_net("net0", f"{folder}/dev0.sock", MAC, ",page-per-vq=on"),
                       "-bios", "qboot.rom"]
            with guest.Guest(folder, "inner", f"""
                    nic=$(nic {MAC})
                    ip link set $nic up
                    ip addr add 10.0.0.1/24 dev $nic
                    ping -c 1 -W 20 10.0.0.2 >/dev/null || true
                    host running
                    ping_all {PINGS} 10.0.0.2 ping
                    result kernel $(uname -r)
                    """, devices, memory=128, ext4=False) as g:
                results = g.run({"running": lambda: pages.append(
                    (d.ask("/vdpa/dev/show", "dev0")["frontend_info"], inside.vectors(DEVICE)))},
                                timeout=BOOT_TIMEOUT)
            info, vectors = pages[0]
            print(f"{self.id()}: Linux {results['kernel']}: {results['ping']} ms; {info}; "
                  f"interrupts {inside.vectors(DEVICE) or vectors}", flush=True)
            # The guest's kicks go to the function's doorbells, its interrupts to the function's
            # vectors; of both the daemon sees nothing.
            self.assertIn("2 doorbells given", info)
            self.assertEqual(len(vectors), 3)
            self.assertGreater(sum(count for _, count in vectors), 0)
            d.stop()
        self.assertEqual(inside.faults()[0], 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
