#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""SET_MEM_TABLE: tables and files that cannot be, while the device is stopped and while it runs."""

import fcntl
import os
import struct
import tempfile
import unittest

from vhost_user_client import *

MB = 1 << 20


class MemoryTable(HostileTest):
    def refuse(self, regions, cause, fds=None, table=None):
        memory = self.memory()
        client = self.connect()
        fds = [memory.fd] * len(regions) if fds is None else fds
        payload = memory.table(regions) if table is None else table
        self.assert_refused(client, SET_MEM_TABLE, payload, fds, cause=cause)

    def test_file_smaller_than_the_region(self):
        self.refuse([(0, 2 * MB, 0x10000000, 0)], "file")

    def test_offset_past_the_end_of_the_file(self):
        self.refuse([(0, 4096, 0x10000000, MB)], "file")

    def test_offset_and_size_that_wrap(self):
        self.refuse([(0, 4096, 0x10000000, (1 << 64) - 4096)], "")

    def test_size_zero(self):
        self.refuse([(0, 0, 0x10000000, 0)], "size")

    def test_guest_address_that_wraps(self):
        self.refuse([((1 << 64) - 4096, 8192, 0x10000000, 0)], "")

    def test_user_address_that_wraps(self):
        self.refuse([(0, 8192, (1 << 64) - 4096, 0)], "")

    def test_unaligned_region(self):
        self.refuse([(1, 4096, 0x10000000, 0)], "aligned")

    def test_overlapping_guest_addresses(self):
        self.refuse([(0, 8192, 0x10000000, 0), (4096, 8192, 0x20000000, 8192)], "overlap")

    def test_overlapping_user_addresses(self):
        self.refuse([(0, 8192, 0x10000000, 0), (0x100000, 8192, 0x10001000, 8192)], "overlap")

    def test_no_region(self):
        self.refuse([], "", table=struct.pack("<II", 0, 0))

    def test_nine_regions_in_the_count_only(self):
        self.refuse([(0, 4096, 0x10000000, 0)], "9 memory regions", table=struct.pack("<II", 9, 0) + bytes(32))

    def test_more_regions_than_file_descriptors(self):
        memory = self.memory()
        regions = [(0, 4096, 0x10000000, 0), (0x100000, 4096, 0x20000000, 4096)]
        self.refuse(regions, "1 file descriptors for 2", fds=[memory.fd])

    def test_fewer_regions_than_file_descriptors(self):
        memory = self.memory()
        self.refuse([(0, 4096, 0x10000000, 0)], "3 file descriptors", fds=[memory.fd] * 3)

    def test_descriptors_that_are_no_memory(self):
        for make in (lambda: os.open("/dev/null", os.O_RDWR), lambda: os.eventfd(0), lambda: os.pipe()[0]):
            fd = make()
            try:
                self.refuse([(0, 4096, 0x10000000, 0)], "not a shared memory file", fds=[fd])
            finally:
                os.close(fd)

    def test_plain_file_is_told_what_to_be(self):
        """libvirt's file-backed memory is a file on a disk."""
        with tempfile.NamedTemporaryFile(dir=os.environ.get("UVDPA_BUILD", ".")) as file:
            file.truncate(MB)
            try:
                fcntl.fcntl(file.fileno(), fcntl.F_GET_SEALS)
                self.skipTest("the build lies in memory")
            except OSError:
                pass
            self.refuse([(0, MB, 0x10000000, 0)], "memory-backend-memfd.*<source type='memfd'/>", fds=[file.fileno()])

    def test_front_end_behind_an_iommu_is_told_so(self):
        client = self.connect(negotiate=False)
        client.send(SET_OWNER)
        client.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", P_REPLY_ACK))
        features = struct.pack("<Q", F_VERSION_1 | F_PROTOCOL | F_ACCESS_PLATFORM)
        self.assert_refused(client, SET_FEATURES, features, cause="iommu_platform=off.*<driver iommu='off'/>")
        client = self.connect()
        # An update of the IOTLB: IOVA, size, user address, permission, type.
        client.send(IOTLB_MSG, struct.pack("<QQQBBxxxxxx", 0, 4096, 0x10000000, 3, 2))
        self.assert_logged(f"request {IOTLB_MSG} refused", "iommu_platform=off")

    def test_read_only_file(self):
        memory = self.memory()
        fd = os.open(f"/proc/self/fd/{memory.fd}", os.O_RDONLY)
        try:
            self.refuse([(0, 4096, 0x10000000, 0)], "", fds=[fd])
        finally:
            os.close(fd)

    def test_running_device_survives_a_bad_table(self):
        net = self.net().start()
        net.exchange()
        bad = net.memory.table([(0, 2 * MB, 0x10000000, 0)])
        self.assert_refused(net.client, SET_MEM_TABLE, bad, [net.memory.fd], cause="file")
        net.exchange()

    def test_table_that_takes_away_the_rings_of_a_running_device(self):
        net = self.net().start()
        other = self.memory()
        moved = other.table([(0x40000000, MB, 0x20000000, 0)])
        self.assertEqual(net.client.ack(SET_MEM_TABLE, moved, [other.fd]), 0)
        # What the front end has taken back is not used any more; the queues may begin anew.
        for queue in 0, 1:
            self.assert_logged(f"queue {queue}: stopped, the others go on: .*not lie in one memory region")
        net.stop()
        self.assertEqual(net.client.set_memory(net.memory), 0)
        net.rx, net.tx = SplitRing(net.memory, 0), SplitRing(net.memory, 1)
        net.start()
        net.exchange()

    def test_more_memory_while_running(self):
        net = self.net().start()
        net.exchange()
        regions = net.memory.regions + [(0x40000000, MB, 0x20000000, 0)]
        more = self.memory()
        self.assertEqual(net.client.ack(SET_MEM_TABLE, net.memory.table(regions), [net.memory.fd, more.fd]), 0)
        net.exchange()
        self.assertEqual(net.client.set_memory(net.memory), 0)
        net.exchange()

    def test_file_shrunk_under_a_running_device(self):
        net = self.net().start()
        net.exchange()
        os.ftruncate(net.memory.fd, 0)
        net.tx.kick()
        self.assert_logged("memory|fault|region")


if __name__ == "__main__":
    unittest.main()
