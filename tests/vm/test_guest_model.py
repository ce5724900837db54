#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Guests on standard virtio functions, which start with all their queues and at the beginning."""

import json
import re
import socket
import time

import guest
import machine
import model
import vmtest
from vmtest import MAC0

# Loads of the drivers in the first boot, and resets of the machine.
RELOADS, RESETS = vmtest.count(3, 20), vmtest.count(2, 20)

NET = f"mgmtdev sim_net mac {MAC0} backend echo max_vqp 4"
DISK = "mgmtdev sim_blk backend ram 64M serial s0 queues 4"


class GuestModel(model.ModelTest):
    qemu_died = 0

    def run_guest(self, g, handlers):
        """QEMU 7.2 has died of its own corrupted heap at a guest's reset, in one run twice; the cause is not known. Such a
        death ends its case without a verdict, and three are a failure."""
        try:
            g.run(handlers)
        except machine.MachineError as why:
            if not re.search(r"QEMU ended \(code -(6|11)\)", str(why)):
                raise
            GuestModel.qemu_died += 1
            if GuestModel.qemu_died > 2:
                raise
            self.skipTest(f"QEMU itself died: {why}")

    def devices(self):
        """Four pairs, four queues: what the guest does not use of them is not set up."""
        net = self.net("net0", MAC0)
        net[net.index("-netdev") + 1] += ",queues=4"
        net[-1] += ",mq=on"
        return net, guest.vhost_user_blk("disk0", f"{self.folder}/disk0.sock", ",num-queues=4")

    def drivers_come_and_go(self, ring_reset):
        self.serve(ring_reset, net0=NET, disk0=DISK)
        boots = []

        def boot():
            boots.append(len(boots) + 1)
            return boots[-1]

        g = self.guest("model", f"""
            disk=$(disk s0)
            blk=$(pci_of /sys/block/$disk)
            net=$(pci_of /sys/class/net/$(nic {MAC0}))
            again=$(host boot)
            [ $again = 2 ] || mkfs.ext4 -q -F /dev/$disk
            mount -t ext4 /dev/$disk /mnt
            [ $again = 2 ] || write_random /mnt/data 4 >/mnt/sum
            umount /mnt
            for round in 1 2; do
                net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
                ping_all 5 10.0.0.2 round$round
                drop_caches
                mount -t ext4 /dev/$(disk s0) /mnt
                [ "$(sha256sum </mnt/data)" = "$(cat /mnt/sum)" ] || fail "$round: data differs"
                umount /mnt
                for device in $blk $net; do
                    echo $device >/sys/bus/pci/drivers/virtio-pci/unbind
                    echo $device >/sys/bus/pci/drivers/virtio-pci/bind
                done
            done
            if [ $again = 1 ]; then
                # With the driver running: the device is reset in the middle of its work.
                dd if=/dev/$(disk s0) of=/dev/null bs=1M 2>/dev/null &
                reboot -f
                sleep 60
            fi
        """, *self.devices(), reboot=True)
        self.run_guest(g, {"boot": boot})
        self.assertEqual(boots, [1, 2])
        self.assertEqual(self.model.stats("disk0")["io_errors"], 0)
        g.kill()
        self.app.stop()
        # It had nothing to complain about.
        self.assertNotIn("vdpa: ", self.app.log_text())

    def maps(self):
        """Maps and unmaps of each device so far."""
        dma = [self.app.ask("/vdpa/dev/show", f"app-{name}")["dma"] for name in ("net0", "disk0")]
        return [[d["maps"], d["unmaps"]] for d in dma]

    def test_memory_is_mapped_once_for_all_boots_and_drivers(self):
        """A guest that loads its drivers anew, and one that the machine resets under their feet."""
        self.serve(net0=NET, disk0=DISK)
        path = self.folder + "/qmp"
        boots, counts = [], []

        def boot():
            boots.append(len(boots) + 1)
            return boots[-1]

        def count():
            counts.append(self.maps())
            return "counted"

        def system_reset():
            with socket.socket(socket.AF_UNIX) as qmp:
                qmp.connect(path)
                lines = qmp.makefile("rw")
                lines.readline()
                for command in ("qmp_capabilities", "system_reset"):
                    lines.write(json.dumps({"execute": command}) + "\n")
                    lines.flush()
                    while "return" not in json.loads(lines.readline()):
                        pass
            return "reset"

        g = self.guest("once", f"""
            again=$(host boot)
            net=$(pci_of /sys/class/net/$(nic {MAC0}))
            blk=$(pci_of /sys/block/$(disk s0))
            round=0 rounds=0
            [ $again = 1 ] && rounds={RELOADS}
            while :; do
                net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
                ping_all 2 10.0.0.2 round$round
                dd if=/dev/$(disk s0) of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null
                host count >/dev/null
                round=$((round + 1))
                [ $round -gt $rounds ] && break
                for device in $blk $net; do
                    echo $device >/sys/bus/pci/drivers/virtio-pci/unbind
                    echo $device >/sys/bus/pci/drivers/virtio-pci/bind
                done
            done
            if [ $again -le {RESETS} ]; then
                # In the middle of their work.
                dd if=/dev/$(disk s0) of=/dev/null bs=1M iflag=direct 2>/dev/null &
                host system_reset >/dev/null
                sleep 60
            fi
        """, *self.devices(), ["-qmp", f"unix:{path},server=on,wait=off"], reboot=True)
        self.run_guest(g, {"boot": boot, "count": count, "system_reset": system_reset})
        self.assertEqual(len(boots), RESETS + 1)
        self.assertEqual(len(counts), RESETS + 1 + RELOADS)
        print(f"maps and unmaps of net and block: first {counts[0]}, last {counts[-1]}", flush=True)
        self.assertEqual([c for c in counts if c != counts[0]], [])
        self.assertEqual([unmaps for _, unmaps in counts[0]], [0, 0])

    def test_queues_before_driver_ok_only(self):
        self.drivers_come_and_go(ring_reset=False)

    def test_queues_one_by_one(self):
        self.drivers_come_and_go(ring_reset=True)

    def test_cont_without_shadows_fails_clearly_and_a_new_driver_mends_it(self):
        self.serve(False, "migration off", net0=NET)
        path = self.folder + "/qmp"

        def stop_and_cont():
            with socket.socket(socket.AF_UNIX) as qmp:
                qmp.connect(path)
                lines = qmp.makefile("rw")
                lines.readline()
                for command in ("qmp_capabilities", "stop", "cont"):
                    lines.write(json.dumps({"execute": command}) + "\n")
                    lines.flush()
                    while "return" not in json.loads(lines.readline()):
                        pass
            deadline = time.monotonic() + 10
            while self.state("net0") != "failed" and time.monotonic() < deadline:
                time.sleep(0.05)
            return self.app.ask("/vdpa/dev/show", "app-net0").get("failure", "it runs")

        g = self.guest("cont", f"""
            net=$(pci_of /sys/class/net/$(nic {MAC0}))
            net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
            ping_all 5 10.0.0.2 before
            result failure "$(host stop)"
            echo $net >/sys/bus/pci/drivers/virtio-pci/unbind
            echo $net >/sys/bus/pci/drivers/virtio-pci/bind
            net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
            ping_all 5 10.0.0.2 after
        """, self.devices()[0], ["-qmp", f"unix:{path},server=on,wait=off"])
        results = g.run({"stop": stop_and_cont})
        self.assertRegex(results["failure"], r"start: queue \d: it (goes on in the middle of its ring|stopped with buffers in flight)")


if __name__ == "__main__":
    vmtest.main()
