#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Linux' virtio-pci driver on the functions of vdpa-model, which QEMU's vfio-user-pci gives the guest.

The model's registers, capabilities, MSI-X and DMA meet a driver and a client that are not ours,
with packed and split rings, with doorbells by memory and by messages. Needs a QEMU from 10.1 on.
"""

import hashlib
import json
import os

import daemon
import guest
import machine
import vmtest
from vmtest import MAC0, MAC1

PINGS = 20
DISK_MIB = 128
WRITE_MIB = 16
MIB = 1 << 20
# VERSION_1, STATUS, MRG_RXBUF and MAC: split rings, no event index.
PLAIN = 1 << 32 | 1 << 16 | 1 << 15 | 1 << 5


def vfio_user(ident, path):
    """QEMU's arguments for a function on this socket."""
    return ["-device", json.dumps({"driver": "vfio-user-pci", "id": ident,
                                   "socket": {"type": "unix", "path": str(path)}})]


def qemu():
    """A QEMU with vfio-user-pci, None where there is none."""
    folder = machine.fetched("qemu")
    return os.environ.get("UVDPA_VFIO_USER_QEMU") or (folder and folder / machine.QEMU)


class VfioUserTest(vmtest.GuestTest):
    """A test with a model whose functions QEMU gives to guests."""

    def model(self, *devices):
        m = daemon.Model(vmtest.BUILD, self.folder, devices)
        m.start()
        self.addCleanup(m.kill)
        return m


class VfioUser(VfioUserTest):
    def boot(self, name, script, *devices):
        return self.guest(name, script, *devices, qemu=qemu())

    def test_net_and_block_in_one_guest(self):
        disk = f"{self.folder}/disk.img"
        with open(disk, "wb") as image:
            image.truncate(DISK_MIB * MIB)
        m = self.model(
            f"name m0 mgmtdev sim_net mac {MAC0} backend echo vfio_user %s/m0.sock",
            f"name m1 mgmtdev sim_blk backend file {disk} serial uvdpa-m1 vfio_user %s/m1.sock",
            f"name m2 mgmtdev sim_net mac {MAC1} backend echo device_features {PLAIN} "
            "doorbell trap notify shared vfio_user %s/m2.sock")
        trims = []
        g = self.boot("guest", f"""
            nic=$(nic {MAC0})
            disk=$(disk uvdpa-m1)
            plain=$(nic {MAC1})
            for sys in /sys/class/net/$nic /sys/class/net/$plain /sys/block/$disk; do
                pci=$(pci_of $sys)
                [ "$(basename $(readlink /sys/bus/pci/devices/$pci/driver))" = virtio-pci ] ||
                    fail "$sys is not virtio-pci's"
                ls /sys/bus/pci/devices/$pci/msi_irqs >/tmp/irqs || fail "$pci: no MSI-X"
                grep -q . /tmp/irqs || fail "$pci: no MSI-X vectors"
                # The 35th of the bits: packed rings.
                result packed-$(basename $sys) \
                    $(cut -c35 /sys/bus/pci/devices/$pci/virtio*/features)
            done
            result nics $nic $plain
            net_up $plain 10.0.1.1/24 fd00:1::1/64
            ping_all {PINGS} 10.0.1.2 plain
            ip link set $plain down
            net_up $nic 10.0.0.1/24 fd00::1/64
            ping_all {PINGS} 10.0.0.2 v4
            ping_all {PINGS} fd00::2 v6
            ping -c 5 -i 0.1 -W 2 -s 1400 10.0.0.2 >/dev/null || fail "large IPv4"
            exercise_disk $disk {WRITE_MIB}
            # Known bytes at a known place, for the host to find.
            dd if=/dev/zero bs=1M count=1 2>/dev/null | tr '\\0' 'v' |
                dd of=/dev/$disk bs=1M seek=100 oflag=direct 2>/dev/null
            sync
            # Drivers let the function go and take it again: reset, and everything set up anew.
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
        """, vfio_user("m0", f"{self.folder}/m0.sock"), vfio_user("m1", f"{self.folder}/m1.sock"),
            vfio_user("m2", f"{self.folder}/m2.sock"))
        results = g.run({"trim": lambda _: trims.append(m.stats("m1")["discards"]),
               "trimmed": lambda _: trims.append(m.stats("m1")["discards"])})
        packed = [results[f"packed-{nic}"] for nic in results["nics"].split()]
        self.assertEqual(packed, ["1", "0"])
        self.assertGreaterEqual(m.stats("m2")["rx_packets"], PINGS)
        net = m.stats("m0")
        self.assertGreaterEqual(net["tx_packets"], 2 * PINGS + 10 + 2)
        self.assertGreaterEqual(net["rx_packets"], 2 * PINGS + 10 + 2)
        blk = m.stats("m1")
        self.assertGreaterEqual(blk["write_bytes"], (WRITE_MIB + 2) * MIB)
        self.assertGreaterEqual(blk["read_bytes"], 2 * WRITE_MIB * MIB)
        self.assertGreater(trims[1], trims[0])
        self.assertEqual(blk["io_errors"], 0)
        with open(disk, "rb") as image:
            image.seek(100 * MIB)
            self.assertEqual(hashlib.sha256(image.read(MIB)).digest(),
                             hashlib.sha256(b"v" * MIB).digest())
        g.kill()
        m.stop()


def missing():
    """Why there is no such guest here, None when there is."""
    if not qemu():
        return ("no QEMU with vfio-user-pci (10.1 or later): run scripts/setup vm, or name "
                "one in UVDPA_VFIO_USER_QEMU")
    return guest.missing()


if __name__ == "__main__":
    vmtest.main(missing)
