#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
SeaBIOS boots from every kind of disk.

It drives a disk by polling and uses the first of its queues only. What it boots is firmware.py's.
"""

import contextlib
import struct
import sys

import machine
import model
import vmtest
from firmware import COPY, IMAGE, SECTOR, SECTORS, SIZE, Firmware

sys.path.insert(0, str(machine.ROOT / "tests" / "integration"))
import vhost_user_client as vhu  # noqa: E402

TIMEOUT_S = 30

class Disk:
    """A driver that writes to a disk, for those whose contents are nowhere else."""

    def connect(self, path):
        try:
            self.client = vhu.Client(path)
        except ConnectionRefusedError:
            return False
        return True

    def __init__(self, path):
        # Nobody listens until the daemon has seen the end of QEMU.
        assert vhu.wait_until(lambda: self.connect(path), TIMEOUT_S), "the daemon does not listen"
        self.memory = vhu.Memory()
        self.client.negotiate()
        assert self.client.set_memory(self.memory) == 0
        self.ring = vhu.SplitRing(self.memory, 0)
        self.head, self.data = self.memory.alloc(32), self.memory.alloc(SECTORS * SECTOR + SECTOR)
        assert self.ring.start(self.client) == 0

    def transfer(self, kind, sector, size, flags):
        self.memory.write(self.head, struct.pack("<IIQ", kind, 0, sector) + b"\xff")
        at = self.memory.GPA
        self.ring.set_desc(0, at + self.head, 16, vhu.DESC_NEXT, 1)
        self.ring.set_desc(1, at + self.data, size, vhu.DESC_NEXT | flags, 2)
        self.ring.set_desc(2, at + self.head + 16, 1, vhu.DESC_WRITE)
        self.ring.submit(0)
        self.ring.kick()
        assert vhu.wait_until(lambda: self.ring.poll() is not None), "the disk does not answer"
        assert self.memory.read(self.head + 16, 1) == b"\0", "the disk refuses a request"

    def write(self, sector, data):
        self.memory.write(self.data, data)
        self.transfer(1, sector, len(data), 0)

    def read(self, sector, size):
        self.transfer(0, sector, size, vhu.DESC_WRITE)
        return self.memory.read(self.data, size)

    def close(self):
        self.client.close()
        self.memory.close()


class BiosTest(model.ModelTest):
    """A test that boots from disks."""

    def boot(self, path, stats, extra=""):
        """Boot from a disk that is filled by its socket; the device's counters tell of both."""
        with contextlib.closing(Disk(path)) as disk:
            disk.write(0, IMAGE)
        before = stats()
        with Firmware(path, extra) as guest:
            self.assertEqual(guest.ends(TIMEOUT_S), IMAGE[SECTOR:])
        after = stats()
        # The BIOS reads the first sector as well, and again to look for partitions.
        self.assertGreaterEqual(after["read_bytes"] - before["read_bytes"], len(IMAGE))
        self.assertEqual(after["write_bytes"] - before["write_bytes"], SECTORS * SECTOR)
        self.assertEqual(after["io_errors"] + after["malformed"], 0)
        with contextlib.closing(Disk(path)) as disk:
            self.assertEqual(disk.read(COPY, SECTORS * SECTOR), IMAGE[SECTOR:])

    def image(self):
        path = self.folder + "/disk.img"
        with open(path, "wb") as f:
            f.truncate(SIZE)
        return path


class Boot(BiosTest):
    def simulated(self, words, extra=""):
        d = self.daemon(f"name disk0 mgmtdev sim_blk {words} socket %s/disk0.sock")
        self.boot(self.folder + "/disk0.sock", lambda: d.stats("disk0"), extra)

    def test_memory(self):
        self.simulated("backend ram 4M")

    def test_file(self):
        self.simulated(f"backend file {self.image()}")

    def test_file_without_page_cache(self):
        self.simulated(f"backend file {self.image()} direct")

    def test_one_queue_of_four(self):
        self.simulated("backend ram 4M queues 4", ",num-queues=4")

    def modelled(self, queues, **serve):
        self.serve(m0=f"mgmtdev sim_blk backend ram 4M queues {queues}", **serve)
        self.boot(self.folder + "/m0.sock", lambda: self.model.stats("m0"), f",num-queues={queues}")

    def test_function_over_vfio_user(self):
        self.modelled(1)

    def test_one_queue_of_four_of_a_function(self):
        self.modelled(4)

    def test_one_queue_of_four_of_a_function_that_resets_no_queue(self):
        self.modelled(4, ring_reset=False)


if __name__ == "__main__":
    vmtest.main()
