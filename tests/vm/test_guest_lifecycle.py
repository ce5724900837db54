#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Drivers, guests and daemons come and go; the devices are there for the next."""

import vmtest
from vmtest import MAC0

NET = f"name net0 mgmtdev sim_net mac {MAC0} backend echo socket %s/net0.sock"
DISK = "name disk0 mgmtdev sim_blk backend file %s/disk.img serial s0 socket %s/disk0.sock"
SIZE = 128 << 20


class Lifecycle(vmtest.GuestTest):
    def setUp(self):
        super().setUp()
        with open(self.folder + "/disk.img", "wb") as image:
            image.truncate(SIZE)

    def test_driver_is_unbound_and_bound_again(self):
        d = self.daemon(NET, DISK)
        g = self.guest("reload", f"""
            disk=$(disk s0)
            blk=$(pci_of /sys/block/$disk)
            net=$(pci_of /sys/class/net/$(nic {MAC0}))
            mkfs.ext4 -q -F /dev/$disk
            mount -t ext4 /dev/$disk /mnt
            sum=$(write_random /mnt/data 4)
            umount /mnt
            for round in 1 2 3; do
                for device in $blk $net; do
                    echo $device >/sys/bus/pci/drivers/virtio-pci/unbind
                    echo $device >/sys/bus/pci/drivers/virtio-pci/bind
                done
                drop_caches
                mount -t ext4 /dev/$(disk s0) /mnt
                [ "$(sha256sum </mnt/data)" = "$sum" ] || fail "round $round: data differs"
                umount /mnt
                net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
                ping_all 3 10.0.0.2 round$round
            done
        """, self.blk("disk0"), self.net("net0", MAC0))
        g.run()
        self.assertEqual(d.stats("disk0")["io_errors"], 0)

    def test_guest_reboots(self):
        self.daemon(NET, DISK)
        boots = []

        def boot():
            boots.append(len(boots) + 1)
            return boots[-1]

        g = self.guest("reboot", f"""
            disk=$(disk s0)
            net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
            ping_all 3 10.0.0.2 ping
            if [ "$(host boot)" = 1 ]; then
                mkfs.ext4 -q -F /dev/$disk
                mount -t ext4 /dev/$disk /mnt
                write_random /mnt/data 4 >/mnt/sum
                umount /mnt
                # With the driver running: the device is reset in the middle of its work.
                dd if=/dev/$disk of=/dev/null bs=1M 2>/dev/null &
                reboot -f
                sleep 60
            fi
            mount -t ext4 /dev/$disk /mnt
            [ "$(sha256sum </mnt/data)" = "$(cat /mnt/sum)" ] || fail "data differs"
            umount /mnt
        """, self.blk("disk0"), self.net("net0", MAC0), reboot=True)
        g.run({"boot": boot})
        self.assertEqual(boots, [1, 2])

    def test_killed_qemu_leaves_the_devices_to_the_next(self):
        d = self.daemon(NET, DISK)
        first = self.guest("first", f"""
            disk=$(disk s0)
            net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
            mkfs.ext4 -q -F /dev/$disk
            mount -t ext4 /dev/$disk /mnt
            write_random /mnt/data 4 >/mnt/sum
            sync
            ping -i 0.1 10.0.0.2 >/dev/null &
            result busy 1
            while :; do write_random /mnt/more 8 >/dev/null; sync; done
        """, self.blk("disk0"), self.net("net0", MAC0))
        first.run(until="busy")
        first.kill()
        second = self.guest("second", f"""
            disk=$(disk s0)
            mount -t ext4 /dev/$disk /mnt
            [ "$(sha256sum </mnt/data)" = "$(cat /mnt/sum)" ] || fail "data differs"
            umount /mnt
            net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
            ping_all 5 10.0.0.2 ping
        """, self.blk("disk0"), self.net("net0", MAC0))
        second.run()
        second.kill()
        d.stop()

    def restart_daemon(self, end):
        """Write on while the daemon is replaced; nothing may be lost, in order or by content."""
        d = self.daemon(NET, DISK)

        def restart():
            end(d)
            d.start()

        g = self.guest("restart", f"""
            disk=$(disk s0)
            net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
            mkfs.ext4 -q -F /dev/$disk
            mount -t ext4 /dev/$disk /mnt
            (
                for i in 1 2 3 4 5 6 7 8 9 10 11 12; do write_random /mnt/f$i 2 >/mnt/s$i; sync
                done
                touch /tmp/written
            ) &
            wait_for 20 [ -e /mnt/s2 ]
            host restart
            wait_for 30 [ -e /tmp/written ]
            drop_caches
            for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
                [ "$(sha256sum </mnt/f$i)" = "$(cat /mnt/s$i)" ] || fail "f$i differs"
            done
            umount /mnt
            dmesg | grep -i "i/o error" && fail "the guest saw I/O errors"
            wait_for 20 ping -c 1 -W 1 10.0.0.2 >/dev/null
            ping_all 5 10.0.0.2 ping
        """, self.blk("disk0"), self.net("net0", MAC0))
        g.run({"restart": restart})

    def test_daemon_restarted_in_order(self):
        self.restart_daemon(lambda d: d.stop())

    def test_daemon_killed_and_restarted(self):
        self.restart_daemon(lambda d: d.kill())


if __name__ == "__main__":
    vmtest.main()
