#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""What a driver can write into its rings: the device stops with queue and cause in the log, tells
its front end by the error eventfd, and can be started again."""

import os
import struct
import unittest

from vhost_user_client import *

GPA = Memory.GPA


class Rings(HostileTest):
    def victim(self, ring, features=0):
        net = NetDriver.__new__(NetDriver)
        net.client, net.memory, net.count = Client(self.daemon.path("victim")), Memory(), 0
        self.closers.append(net)
        net.rx, net.tx = ring(net.memory, 0), ring(net.memory, 1)
        net.rx_buf, net.tx_buf = net.memory.alloc(4096), net.memory.alloc(4096)
        net.table = net.memory.alloc(4096)
        net.client.negotiate(F_VERSION_1 | ring.FEATURE | features)
        self.assertEqual(net.client.set_memory(net.memory), 0)
        net.errors = [net.client.eventfd(), net.client.eventfd()]
        for i, fd in enumerate(net.errors):
            self.assertEqual(net.client.u64(SET_VRING_ERR, i, [fd]), 0)
        net.start()
        net.exchange()
        # A buffer to receive into, so that the transmit queue is looked at.
        net.rx.add(net.rx_buf, 4096, True)
        net.rx.kick()
        return net

    def assert_stops(self, net, queue, cause):
        self.assert_logged(f"queue {queue}: .*({cause})", "stopped")
        self.assertTrue(wait_until(lambda: self.signalled(net.errors[queue])), "the error eventfd is silent")
        # Queues are stopped in the ordinary way.
        for i in 0, 1:
            net.client.ask(GET_VRING_BASE, struct.pack("<II", i, 0))
        net.client.close()

    @staticmethod
    def signalled(fd):
        try:
            return os.eventfd_read(fd) > 0
        except BlockingIOError:
            return False

    # Split.

    def split(self, cause, attack, features=0, queue=1):
        net = self.victim(SplitRing, features)
        attack(net, net.tx if queue == 1 else net.rx)
        (net.tx if queue == 1 else net.rx).kick()
        net.tx.kick()
        self.assert_stops(net, queue, cause)

    def test_split_descriptor_loop(self):
        def attack(net, ring):
            ring.set_desc(10, GPA + net.tx_buf, 16, DESC_NEXT, 11)
            ring.set_desc(11, GPA + net.tx_buf, 16, DESC_NEXT, 10)
            ring.submit(10)

        self.split("loop|long|chain", attack)

    def test_split_descriptor_that_is_its_own_next(self):
        def attack(net, ring):
            ring.set_desc(10, GPA + net.tx_buf, 16, DESC_NEXT, 10)
            ring.submit(10)

        self.split("loop|long|chain", attack)

    def test_split_next_out_of_the_table(self):
        def attack(net, ring):
            ring.set_desc(10, GPA + net.tx_buf, 16, DESC_NEXT, 64)
            ring.submit(10)

        self.split("next|index|descriptor", attack)

    def test_split_head_out_of_the_table(self):
        self.split("head|index|descriptor", lambda net, ring: ring.submit(64))
        self.split("head|index|descriptor", lambda net, ring: ring.submit(0xFFFF))

    def test_split_avail_index_jumps(self):
        def attack(net, ring):
            ring.memory.set_u16(ring.driver + 2, ring.avail + ring.num + 1)

        self.split("avail|index", attack)

    def test_split_avail_index_goes_back(self):
        def attack(net, ring):
            ring.memory.set_u16(ring.driver + 2, ring.avail - 1)

        self.split("avail|index", attack)

    def test_split_buffer_outside_memory(self):
        for addr in 0, GPA - 8, GPA + (1 << 20), (1 << 64) - 8:
            def attack(net, ring, addr=addr):
                ring.set_desc(10, addr, 64)
                ring.submit(10)

            self.split("memory|address|region", attack)

    def test_split_length_past_the_region(self):
        for length in (1 << 20) + 1, 0xFFFFFFFF:
            def attack(net, ring, length=length):
                ring.set_desc(10, GPA, length)
                ring.submit(10)

            self.split("memory|length|region|address", attack)

    def test_split_receive_buffer_outside_memory(self):
        def attack(net, ring):
            # The buffer that was posted is taken first.
            for _ in range(2):
                ring.set_desc(10, GPA + (1 << 20) - 8, 4096, DESC_WRITE)
                ring.submit(10)
            for _ in range(3):
                net.tx.add(net.tx_buf, 76, False)

        self.split("memory|length|region|address", attack, queue=0)

    def test_split_indirect_in_indirect(self):
        def attack(net, ring):
            net.memory.write(net.table, struct.pack("<QIHH", GPA + net.table, 16, DESC_INDIRECT, 0))
            ring.set_desc(10, GPA + net.table, 16, DESC_INDIRECT)
            ring.submit(10)

        self.split("indirect", attack, F_INDIRECT)

    def test_split_indirect_table_of_a_bad_length(self):
        for length in 0, 8, 17:
            def attack(net, ring, length=length):
                ring.set_desc(10, GPA + net.table, length, DESC_INDIRECT)
                ring.submit(10)

            self.split("indirect", attack, F_INDIRECT)

    def test_split_indirect_table_outside_memory(self):
        def attack(net, ring):
            first = struct.pack("<QIHH", GPA + net.tx_buf, 16, DESC_NEXT, 1)
            net.memory.write((1 << 20) - 16, first)
            ring.set_desc(10, GPA + (1 << 20) - 16, 64, DESC_INDIRECT)
            ring.submit(10)

        self.split("indirect|memory|region", attack, F_INDIRECT)

    def test_split_indirect_loop(self):
        def attack(net, ring):
            net.memory.write(net.table, struct.pack("<QIHH", GPA + net.tx_buf, 16, DESC_NEXT, 0))
            ring.set_desc(10, GPA + net.table, 16, DESC_INDIRECT)
            ring.submit(10)

        self.split("loop|long|chain|next", attack, F_INDIRECT)

    def test_split_indirect_not_negotiated(self):
        def attack(net, ring):
            ring.set_desc(10, GPA + net.table, 16, DESC_INDIRECT)
            ring.submit(10)

        self.split("indirect", attack)

    # Packed.

    def packed(self, cause, attack, features=0):
        net = self.victim(PackedRing, features)
        attack(net, net.tx)
        net.tx.kick()
        self.assert_stops(net, 1, cause)

    def test_packed_chain_that_goes_around_the_ring(self):
        def attack(net, ring):
            chain = []
            for _ in range(ring.num):
                chain.append((ring.next, ring.avail_flags() | DESC_NEXT))
                ring.advance()
            # The head makes all of it available, so it is written last.
            for i, flags in reversed(chain):
                ring.set_desc(i, GPA + net.tx_buf, 16, 0, flags)

        self.packed("loop|long|chain", attack)

    def test_packed_buffer_outside_memory(self):
        for addr in 0, GPA + (1 << 20), (1 << 64) - 8:
            def attack(net, ring, addr=addr):
                ring.set_desc(ring.next, addr, 64, 0, ring.avail_flags())

            self.packed("memory|address|region", attack)

    def test_packed_length_past_the_region(self):
        def attack(net, ring):
            ring.set_desc(ring.next, GPA, 0xFFFFFFFF, 0, ring.avail_flags())

        self.packed("memory|length|region|address", attack)

    def test_packed_indirect_table_of_a_bad_length(self):
        def attack(net, ring):
            ring.set_desc(ring.next, GPA + net.table, 8, 0, ring.avail_flags() | DESC_INDIRECT)

        self.packed("indirect", attack, F_INDIRECT)

    def test_packed_indirect_table_outside_memory(self):
        def attack(net, ring):
            ring.set_desc(ring.next, GPA + (1 << 20) - 16, 64, 0, ring.avail_flags() | DESC_INDIRECT)

        self.packed("indirect|memory|region", attack, F_INDIRECT)


if __name__ == "__main__":
    unittest.main()
