#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A guest keeps a file system on sim_blk."""

import os

import vmtest

MIB = 1 << 20
SIZE = 128 * MIB
WRITTEN = 24  # MiB


class Block(vmtest.GuestTest):
    def exercise(self, backend):
        d = self.daemon(f"name disk0 mgmtdev sim_blk backend {backend} serial uvdpa-disk0 "
                        "socket %s/disk0.sock")
        before = {}

        def trim(_):
            before.update(d.stats("disk0"))
            before["blocks"] = self.blocks()

        def trimmed(_):
            now = d.stats("disk0")
            self.assertGreater(now["discards"], before["discards"])
            self.assertEqual(now["io_errors"], 0)

        g = self.guest("blk", f"exercise_disk $(disk uvdpa-disk0) {WRITTEN}", self.blk("disk0"))
        results = g.run({"trim": trim, "trimmed": trimmed})
        stats = d.stats("disk0")
        # The guest's page cache was dropped: what it verified came from the device.
        self.assertGreaterEqual(stats["write_bytes"], (WRITTEN + 1) * MIB)
        self.assertGreaterEqual(stats["read_bytes"], 2 * WRITTEN * MIB)
        self.assertGreater(stats["flushes"], 0)
        self.assertEqual(stats["malformed"], 0)
        self.assertEqual(results["verified-vda"], str(2 * WRITTEN + 1))
        g.kill()
        d.stop()
        return before

    def blocks(self):
        path = self.folder + "/disk.img"
        return os.stat(path).st_blocks * 512 if os.path.exists(path) else 0

    def test_disk_in_memory(self):
        self.exercise("ram 128M")

    def test_disk_in_a_file(self):
        with open(self.folder + "/disk.img", "wb") as image:
            image.truncate(SIZE)
        before = self.exercise("file %s/disk.img")
        # TRIM gave the deleted file's blocks back to the host's file system.
        self.assertLess(self.blocks(), before["blocks"] - WRITTEN // 2 * MIB)

    def test_fsync_reaches_the_device_as_a_flush(self):
        d = self.daemon("name disk0 mgmtdev sim_blk backend ram 64M serial s0 "
                        "socket %s/disk0.sock")
        counts = []

        def flushes():
            counts.append(d.stats("disk0")["flushes"])

        g = self.guest("blk", """
            disk=$(disk s0)
            [ "$(cat /sys/block/$disk/queue/write_cache)" = "write back" ] || fail "no write cache"
            mkfs.ext4 -q -F /dev/$disk
            mount -t ext4 /dev/$disk /mnt
            sync
            host flushes
            for i in 1 2 3 4 5; do dd if=/dev/zero of=/mnt/f$i bs=4k count=1 conv=fsync 2>/dev/null
            done
            host flushes
        """, self.blk("disk0"))
        g.run({"flushes": flushes})
        self.assertGreaterEqual(counts[1] - counts[0], 5)

    def test_read_only_disk_refuses_writes(self):
        self.daemon("name disk0 mgmtdev sim_blk backend ram 64M serial s0 read-only "
                    "socket %s/disk0.sock")
        g = self.guest("blk", """
            disk=$(disk s0)
            is /sys/block/$disk/ro 1 || fail "the guest may write"
            if dd if=/dev/zero of=/dev/$disk bs=4k count=1 conv=fsync 2>/dev/null; then
                fail "a write went through"
            fi
            dd if=/dev/$disk of=/dev/null bs=1M count=4 2>/dev/null || fail "cannot read"
        """, self.blk("disk0"))
        g.run()


if __name__ == "__main__":
    vmtest.main()
