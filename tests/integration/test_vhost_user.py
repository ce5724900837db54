#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""What a well-behaved front end gets: states of queues, status, inflight area, queue numbers."""

import os
import struct
import time
import unittest

from vhost_user_client import *


class VhostUser(HostileTest):
    DEVICES = HostileTest.DEVICES + (
        "name blk mgmtdev sim_blk backend ram 4M",
        "name pairs mgmtdev sim_net backend loopback max_vqp 4",
    )

    def queue_states(self, ring_type, before, protocol):
        """Where the queues stand after three exchanges and what before() does."""
        net = self.net(ring_type, protocol=protocol).start()
        if protocol & P_STATUS:
            net.client.u64(SET_STATUS, 7)
        for _ in range(3):
            net.exchange()
        before(net.client)
        states = []
        for ring in net.rx, net.tx:
            index, state = struct.unpack("<II", net.client.ask(GET_VRING_BASE, struct.pack("<II", ring.index, 0)))
            self.assertEqual(index, ring.index)
            states.append(state)
        # And go on from there on the same connection.
        net.rx.start(net.client, base=states[0])
        net.tx.start(net.client, base=states[1])
        if protocol & P_STATUS:
            net.client.u64(SET_STATUS, 7)
        net.exchange()
        net.close()
        self.closers.remove(net)
        return states

    def test_state_after_stop(self):
        packed = 3 | 1 << 15 | 3 << 16 | 1 << 31
        self.assertEqual(self.queue_states(SplitRing, lambda c: None, P_REPLY_ACK), [3, 3])
        self.assertEqual(self.queue_states(PackedRing, lambda c: None, P_REPLY_ACK), [packed, packed])

    def test_state_after_status_0(self):
        """QEMU 7.2 resets the status before it asks where the queues stand."""
        states = self.queue_states(SplitRing, lambda c: c.u64(SET_STATUS, 0), P_REPLY_ACK | P_STATUS)
        self.assertEqual(states, [3, 3])

    def test_queue_numbers(self):
        for name, number in ("victim", 1), ("pairs", 4), ("blk", 1):
            with self.subTest(name), Client(self.daemon.path(name)) as client:
                client.negotiate(protocol=P_REPLY_ACK | P_MQ)
                self.assertEqual(client.ask_u64(GET_QUEUE_NUM), number)

    def control(self, net, ring, buffer, command):
        """The answer to a command that the front end gives on a control queue."""
        net.memory.write(buffer, command + b"\xff")
        at = net.memory.GPA + buffer
        ring.set_desc(0, at, len(command), DESC_NEXT, 1)
        ring.set_desc(1, at + len(command), 1, DESC_WRITE)
        ring.submit(0)
        ring.kick()
        self.assertTrue(wait_until(lambda: ring.poll() is not None), "the control queue does not answer")
        return net.memory.read(buffer + len(command), 1)[0]

    def test_control_queue_is_the_device_s_for_who_acknowledges_it(self):
        """User-mode Linux keeps no control queue: the device has it."""
        for name, features, index in ("victim", 0, 2), ("pairs", 0, 2), ("pairs", F_MQ, 8):
            with self.subTest(name, index=index):
                net = NetDriver(self.daemon.path(name), features=F_CTRL_VQ | F_CTRL_RX | features)
                with net:
                    net.start()
                    ring, buffer = SplitRing(net.memory, index), net.memory.alloc(4096)
                    self.assertEqual(ring.start(net.client), 0)
                    self.assertEqual(self.control(net, ring, buffer, bytes([0, 0, 1])), 0)
                    self.assertEqual(self.control(net, ring, buffer, bytes([0xEE, 0, 1])), 1)
                    if features:
                        # Eight rings are the pairs'; a driver says how many it uses.
                        self.assertEqual(self.control(net, ring, buffer, struct.pack("<BBH", 4, 0, 1)), 0)
                        self.assertEqual(self.control(net, ring, buffer, struct.pack("<BBH", 4, 0, 5)), 1)
                        self.assertEqual(net.client.ask_u64(GET_QUEUE_NUM), 4)
                    net.exchange()
                    where = net.client.ask(GET_VRING_BASE, struct.pack("<II", index, 0))
                    self.assertEqual(struct.unpack("<II", where), (index, 4 if features else 2))

    def test_control_queue_is_none_for_who_keeps_its_own(self):
        """QEMU and virtio-user acknowledge MQ and GUEST_ANNOUNCE, and no CTRL_VQ."""
        for name, index in ("victim", 2), ("pairs", 8):
            with self.subTest(name):
                features = F_GUEST_ANNOUNCE | (F_MQ if name == "pairs" else 0)
                with NetDriver(self.daemon.path(name), features=features) as net:
                    net.start()
                    with self.assertRaises(AssertionError):
                        assert SplitRing(net.memory, index).start(net.client) == 0
                    net.exchange()

    def test_what_depends_on_the_control_queue_is_offered_with_it(self):
        for name in "victim", "pairs":
            with Client(self.daemon.path(name)) as client:
                offered = client.ask_u64(GET_FEATURES)
                self.assertTrue(offered & F_CTRL_VQ and offered & F_GUEST_ANNOUNCE)
                self.assertEqual(bool(offered & F_MQ), name == "pairs")

    def test_inflight_area_outlives_the_connection(self):
        with Client(self.daemon.path("blk")) as client:
            client.negotiate(protocol=P_REPLY_ACK | P_INFLIGHT)
            fds = []
            area = client.ask(GET_INFLIGHT_FD, struct.pack("<QQHHI", 0, 0, 1, 64, 0), fds)
            size, offset, queues, entries = struct.unpack_from("<QQHH", area)
            self.assertEqual(len(fds), 1)
            self.assertGreaterEqual(os.fstat(fds[0]).st_size, size + offset)
            self.assertEqual((queues, entries), (1, 64))
        with Client(self.daemon.path("blk")) as client:
            client.negotiate(protocol=P_REPLY_ACK | P_INFLIGHT)
            self.assertEqual(client.ack(SET_INFLIGHT_FD, area, fds), 0)
            memory = self.memory()
            self.assertEqual(client.set_memory(memory), 0)
            ring = SplitRing(memory, 0)
            self.assertEqual(ring.start(client), 0)
            # GET_ID (type 8): header, 20 bytes, status.
            at = memory.alloc(4096)
            memory.write(at, struct.pack("<IIQ", 8, 0, 0))
            ring.set_desc(0, memory.GPA + at, 16, DESC_NEXT, 1)
            ring.set_desc(1, memory.GPA + at + 16, 20, DESC_NEXT | DESC_WRITE, 2)
            ring.set_desc(2, memory.GPA + at + 36, 1, DESC_WRITE)
            memory.write(at + 36, b"\xff")
            ring.submit(0)
            ring.kick()
            self.assertEqual(wait_until(ring.poll), 21)
            self.assertEqual(memory.read(at + 36, 1), b"\0")
            header = os.pread(fds[0], 16, offset)
            version, entries, _, used = struct.unpack_from("<HHHH", header, 8)
            self.assertEqual((version, entries, used), (1, 64, 1))
        os.close(fds[0])

    def test_lines_of_requests_that_fail_are_limited(self):
        """Each start of a queue has one; a guest starts it as often as it likes."""
        began, wanted = time.monotonic(), "blk: queue 0: a request failed: it has no status byte"
        with BlockDriver(self.daemon.path("blk"), 1, 1) as blk:
            ring = blk.rings[0]
            for _ in range(300):
                ring.seen = ring.avail = ring.free = 0
                for part, size in (ring.desc, 16 * ring.num), (ring.driver, 4), (ring.device, 4):
                    blk.memory.write(part, bytes(size))
                blk.start()
                ring.add(blk.buffers[0], 16, False)
                ring.kick()
                self.assertIsNotNone(wait_until(lambda: None if (used := ring.poll()) is None else used + 1))
                blk.stop()
                for _ in range(2):
                    os.close(blk.client.owned.pop())
        lines = self.new_log().count(wanted)
        self.assertGreater(lines, 0)
        self.assertLess(lines, 202 + time.monotonic() - began)


if __name__ == "__main__":
    unittest.main()
