#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
A guest on the front end vfio-user of vdpa-app: simulated devices and functions on other vfio-user
sockets (vdpa-model's, behind the daemon), beside a vhost-user device of the same daemon. Needs a
QEMU from 10.1 on.
"""

import pathlib

import daemon
import vmtest
from test_guest_vfio_user import VfioUserTest, missing, qemu, vfio_user
from vmtest import MAC0, MAC1

PINGS = 10
MAC2 = "52:54:00:00:00:03"
WRITE_MIB = 8
MIB = 1 << 20


class Frontend(VfioUserTest):
    def test_sim_devices_and_functions_behind_the_daemon(self):
        folder = pathlib.Path(self.folder, "model")
        folder.mkdir()
        model = daemon.Model(vmtest.BUILD, folder,
                             (f"name n mgmtdev sim_net mac {MAC1} backend echo vfio_user %s/n.vfu",
                              "name b mgmtdev sim_blk backend ram 64M serial behind vfio_user %s/b.vfu"))
        model.start()
        self.addCleanup(model.kill)
        app = self.daemon(
            f"name net mgmtdev sim_net mac {MAC0} backend echo frontend vfio-user vfio_user %s/net.vfu mode 0660",
            "name blk mgmtdev sim_blk backend ram 64M serial front frontend vfio-user vfio_user %s/blk.vfu",
            f"name net2 mgmtdev vfio-user/{folder}/n.vfu frontend vfio-user vfio_user %s/net2.vfu "
            "doorbell pass migration off",
            f"name vhu mgmtdev sim_net mac {MAC2} backend echo frontend vhost-user socket %s/vhu.sock")
        # One at run time, over the control socket.
        app.add(f"name blk2 mgmtdev vfio-user/{folder}/b.vfu frontend vfio-user vfio_user {self.folder}/blk2.vfu")
        g = self.guest("guest", f"""
            for round in 1 2; do
                for nic in "{MAC0} 10.0.0" "{MAC1} 10.0.1" "{MAC2} 10.0.2"; do
                    set -- $nic
                    net_up $(nic $1) $2.1/24 fd00:$round::1/64
                    ping_all {PINGS} $2.2 $1-$round
                    ip link set $(nic $1) down
                    ip addr flush dev $(nic $1)
                done
                for serial in front behind; do
                    disk=$(disk $serial)
                    if [ $round = 1 ]; then
                        mkfs.ext4 -q -F /dev/$disk
                        mount -t ext4 /dev/$disk /mnt
                        write_random /mnt/data {WRITE_MIB} >/tmp/sum-$serial
                    else
                        drop_caches
                        mount -t ext4 /dev/$disk /mnt
                        [ "$(sha256sum </mnt/data)" = "$(cat /tmp/sum-$serial)" ] || fail "$serial: data differs"
                    fi
                    umount /mnt
                done
                [ $round = 2 ] && break
                # Reset, and everything set up anew.
                for sys in /sys/class/net/$(nic {MAC0}) /sys/class/net/$(nic {MAC1}) \\
                           /sys/block/$(disk front) /sys/block/$(disk behind); do
                    pci=$(pci_of $sys)
                    grep -q . /sys/bus/pci/devices/$pci/class || fail "$sys: no PCI function"
                    ls /sys/bus/pci/devices/$pci/msi_irqs | grep -q . || fail "$pci: no MSI-X vectors"
                    echo $pci >/sys/bus/pci/drivers/virtio-pci/unbind
                    echo $pci >/sys/bus/pci/drivers/virtio-pci/bind
                done
            done
            result connected "$(host connected)"
        """, *(vfio_user(name, f"{self.folder}/{name}.vfu") for name in ("net", "blk", "net2", "blk2")),
            # Newer QEMUs have the interval in milliseconds.
            [arg.replace("reconnect=1", "reconnect-ms=1000") for arg in self.net("vhu", MAC2)], qemu=qemu())
        results = g.run({"connected": lambda: sum(app.ask("/vdpa/dev/show", name)["frontend_info"].endswith("connected")
                                                  for name in ("net", "blk", "net2", "blk2", "vhu"))})
        self.assertEqual(results["connected"], "5")
        self.assertGreaterEqual(app.stats("net")["rx_packets"], 2 * PINGS)
        self.assertGreaterEqual(model.stats("n")["rx_packets"], 2 * PINGS)
        # Rung by the guest itself, through QEMU's and no mapping of the daemon's.
        self.assertGreater(model.ask("/model/stats", "n")["queues"]["1"]["rings_by_memory"], PINGS)
        for stats in app.stats("blk"), model.stats("b"):
            self.assertGreaterEqual(stats["write_bytes"], WRITE_MIB * MIB)
            self.assertGreaterEqual(stats["read_bytes"], WRITE_MIB * MIB)
            self.assertEqual(stats["io_errors"], 0)
        g.kill()
        app.delete("blk2")
        app.stop()
        model.stop()
        # Neither had anything to complain about.
        self.assertNotIn("ERR", app.log_text())


if __name__ == "__main__":
    vmtest.main(missing)
