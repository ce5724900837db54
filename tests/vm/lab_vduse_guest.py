# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Runs inside the laboratory, see test_lab_vduse_guest.py: a guest in a QEMU of its own, which has a device of
vdpa-app's by the front end vduse, /dev/vhost-vdpa-N and `-netdev vhost-vdpa`. It pings the echo back end.

usage: lab_vduse_guest.py MODULES
"""

import time

import guest
import lab_inside as inside
import lab_vduse
import qmp

PINGS = 10
MAC = "52:54:00:00:00:12"
# Every instruction is emulated twice: what takes two seconds takes a minute, several on a busy host.
GUEST_TIMEOUT = 1200  # seconds


class Guest(lab_vduse.LabVduse):
    def test_pings_through_vhost_vdpa(self):
        d = self.daemon(f"name g0 mgmtdev sim_net mac {MAC} backend echo frontend vduse mode vhost")
        looks = []
        devices = ["-netdev", f"vhost-vdpa,vhostdev={self.frontend_info(d, 'g0')},id=n0",
                   "-device", f"virtio-net-pci,id=net0,netdev=n0,mac={MAC},vectors=0,romfile=",
                   # The firmware of QEMU's smallest machine: the usual one takes twenty seconds here.
                   "-bios", "qboot.rom", *qmp.arguments(f"{self.folder}/qmp"),
                   # Its time is that of its instructions: on a busy host it would handle ticks and do nothing
                   # else.
                   "-icount", "shift=6,sleep=on"]

        def look():
            with qmp.Qmp(f"{self.folder}/qmp", 60) as monitor:
                looks.append((d.show("g0"), d.refusal("dev.del", name="g0"), monitor(
                    "x-query-virtio-status", path="/machine/peripheral/net0/virtio-backend")))

        with guest.Guest(self.folder, "inner", f"""
                nic=$(nic {MAC})
                ip link set $nic up
                ip addr add 10.1.0.1/24 dev $nic
                ping -c 1 -W 20 10.1.0.2 >/dev/null || true
                host running
                ping_all {PINGS} 10.1.0.2 ping
                result kernel $(uname -r)
                """, devices, memory=128, ext4=False, cmdline="tsc_early_khz=1000000") as g:
            begun = time.monotonic()
            results = g.run({"running": look}, timeout=GUEST_TIMEOUT)
        show, refusal, theirs = looks[0]
        print(f"{self.id()}: Linux {results['kernel']} in {time.monotonic() - begun:.0f} s: "
              f"{results['ping']} ms", flush=True)
        self.assertEqual(show["state"], "running")
        self.assertIn("is open in another process", refusal)
        self.assertTrue(theirs["vhost-started"])
        self.assertIn("VIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready", theirs["status"]["statuses"])
        counts = d.stats("g0")["device"]
        for name in "rx_packets", "tx_packets":
            self.assertGreater(counts[name], PINGS)
        inside.until(lambda: d.show("g0")["state"] == "idle", "the device to stop", lab_vduse.RESTART_TIMEOUT)
        d.delete("g0")


if __name__ == "__main__":
    lab_vduse.main()
