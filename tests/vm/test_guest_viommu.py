#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Functions of vdpa-model in a guest whose IOMMU translates.

QEMU's vfio-user client tells the model of each page that the guest maps, when it does. A guest without
iommu=pt maps pages for its rings and buffers as it uses them, and takes them back: thousands of ranges, one
page each. A ring of several pages lies at addresses that follow one another, and in the guest's memory, which
is the client's file, in the opposite order. Needs a QEMU from 10.1 on.
"""

import hashlib
import sys

import machine
import test_guest_vfio_user
import vmtest
from test_guest_vfio_user import vfio_user
from vmtest import MAC0

PINGS = 20
DISK_MIB = 128
WRITE_MIB = 16
MIB = 1 << 20


class Translated(test_guest_vfio_user.VfioUserTest):
    def boot(self, script, devices, iommu, cmdline):
        # Devices behind an IOMMU on the command line come after it.
        return self.guest("guest", script, iommu, *devices, qemu=test_guest_vfio_user.qemu(),
                          cmdline=cmdline)

    def exercise(self, iommu, cmdline):
        disk = f"{self.folder}/disk.img"
        with open(disk, "wb") as image:
            image.truncate(DISK_MIB * MIB)
        m = self.model(
            f"name m0 mgmtdev sim_net mac {MAC0} backend echo vfio_user %s/m0.sock",
            f"name m1 mgmtdev sim_blk backend file {disk} serial uvdpa-m1 queues 2 "
            "vfio_user %s/m1.sock")
        g = self.boot(f"""
            nic=$(nic {MAC0})
            disk=$(disk uvdpa-m1)
            for sys in /sys/class/net/$nic /sys/block/$disk; do
                pci=$(pci_of $sys)
                group=/sys/bus/pci/devices/$pci/iommu_group
                case "$(cat $group/type)" in
                DMA*) ;;
                *) fail "$sys is not translated: $(cat $group/type)" ;;
                esac
            done
            net_up $nic 10.0.0.1/24 fd00::1/64
            ping_all {PINGS} 10.0.0.2 v4
            ping_all {PINGS} fd00::2 v6
            ping -c 5 -i 0.1 -W 2 -s 1400 10.0.0.2 >/dev/null || fail "large IPv4"
            exercise_disk $disk {WRITE_MIB}
            dd if=/dev/zero bs=1M count=1 2>/dev/null | tr '\\0' 'v' |
                dd of=/dev/$disk bs=1M seek=100 oflag=direct 2>/dev/null
            sync
            # Both let go and taken again: everything is unmapped and mapped anew.
            for sys in /sys/class/net/$nic /sys/block/$disk; do
                pci=$(pci_of $sys)
                echo $pci >/sys/bus/pci/drivers/virtio-pci/unbind
                echo $pci >/sys/bus/pci/drivers/virtio-pci/bind
            done
            nic=$(nic {MAC0})
            net_up $nic 10.0.0.1/24 fd00::1/64
            ping_all 5 10.0.0.2 again
            [ "$(dd if=/dev/$(disk uvdpa-m1) bs=1M skip=100 count=1 iflag=direct 2>/dev/null |
                 tr -d 'v' | wc -c)" = 0 ] || fail "read back differs"
        """, [vfio_user("m0", f"{self.folder}/m0.sock"), vfio_user("m1", f"{self.folder}/m1.sock")],
            iommu, cmdline)
        try:
            g.run({"trim": lambda _: None, "trimmed": lambda _: None})
        except machine.MachineError:
            print(m.log_text(), flush=True)
            raise
        net, blk = m.stats("m0"), m.stats("m1")
        self.assertGreaterEqual(net["tx_packets"], 2 * PINGS + 10)
        self.assertGreaterEqual(net["rx_packets"], 2 * PINGS + 10)
        self.assertGreaterEqual(blk["write_bytes"], (WRITE_MIB + 2) * MIB)
        self.assertGreaterEqual(blk["read_bytes"], 2 * WRITE_MIB * MIB)
        self.assertEqual(blk["io_errors"] + blk["malformed"], 0)
        with open(disk, "rb") as image:
            image.seek(100 * MIB)
            self.assertEqual(hashlib.sha256(image.read(MIB)).digest(),
                             hashlib.sha256(b"v" * MIB).digest())
        g.kill()
        m.stop()

    def test_intel(self):
        self.exercise(["-device", "intel-iommu,caching-mode=on,intremap=off"],
                      "intel_iommu=on iommu=nopt iommu.strict=1")


if __name__ == "__main__":
    sys.exit(vmtest.main(test_guest_vfio_user.missing))
