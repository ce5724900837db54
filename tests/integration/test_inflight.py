#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Requests that a stop leaves undone in the inflight area, and that another device then does."""

import os
import struct
import time
import unittest

import harness
from vhost_user_client import *

DELAY_MS = 2000
REQUESTS = 8
SECTOR = 512
PROTOCOL = P_REPLY_ACK | P_INFLIGHT


class Disk:
    """A front end of a block device that has many writes under way, each of a sector of its own."""

    def __init__(self, path, ring, protocol, memory=None, area=None):
        """memory, ring (an object) and area: of the front end that this one goes on from."""
        self.client = Client(path)
        self.memory = memory or Memory()
        self.ring = ring(self.memory, 0) if isinstance(ring, type) else ring
        self.client.negotiate(F_VERSION_1 | self.ring.FEATURE, protocol)
        assert self.client.set_memory(self.memory) == 0
        if area is None:
            self.buffers = [self.memory.alloc(2048, 16) for _ in range(REQUESTS)]
            self.fds = []
            self.area = self.client.ask(GET_INFLIGHT_FD, struct.pack("<QQHHI", 0, 0, 1, self.ring.num, 0), self.fds)
        else:
            self.area, self.fds, self.buffers = area
            assert self.client.ack(SET_INFLIGHT_FD, self.area, self.fds) == 0

    def start(self, base=None):
        assert self.ring.start(self.client, base) == 0
        return self

    def submit(self, n):
        """Write n over and over to sector n."""
        memory, ring, buffer = self.memory, self.ring, self.buffers[n]
        memory.write(buffer, struct.pack("<IIQ", 1, 0, n) + b"\xff")
        memory.write(buffer + 1024, bytes([n + 1]) * SECTOR)
        at = memory.GPA + buffer
        parts = (at, 16, 0), (at + 1024, SECTOR, 0), (at + 16, 1, DESC_WRITE)
        if isinstance(ring, SplitRing):
            for i, (addr, length, flags) in enumerate(parts):
                last = i == len(parts) - 1
                ring.set_desc(3 * n + i, addr, length, flags | (0 if last else DESC_NEXT), 3 * n + i + 1)
            ring.submit(3 * n)
        else:
            slots = []
            for i, (addr, length, flags) in enumerate(parts):
                flags |= ring.avail_flags() | (DESC_NEXT if i < 2 else 0)
                slots.append((ring.next, addr, length, n, flags))
                ring.advance()
            for slot in reversed(slots):
                ring.set_desc(*slot)
        ring.kick()

    def completed(self):
        """How many more have been used."""
        n = 0
        while self.ring.poll() is not None:
            for _ in range(2 if isinstance(self.ring, PackedRing) else 0):
                self.ring.seen += 1
                if self.ring.seen == self.ring.num:
                    self.ring.seen, self.ring.seen_wrap = 0, self.ring.seen_wrap ^ 1
            n += 1
        return n

    def statuses(self):
        return [self.memory.read(buffer + 16, 1)[0] for buffer in self.buffers]

    def inflight(self):
        """Entries of the area that say a request is under way."""
        split = isinstance(self.ring, SplitRing)
        head, size = (16, 16) if split else (32, 32)
        data = os.pread(self.fds[0], head + size * self.ring.num, 0)
        return sum(data[head + size * i] for i in range(self.ring.num))

    def stop(self, request=GET_VRING_BASE, disable=False):
        """Where it stands, and how long the answer took; disable: the ring first, as QEMU does."""
        began = time.monotonic()
        if disable:
            assert self.client.state(SET_VRING_ENABLE, 0, 0) == 0
        data = self.client.ask(request, struct.pack("<II", 0, 0))
        return struct.unpack("<II", data)[1], time.monotonic() - began

    def goes_on(self):
        return self.area, self.fds, self.buffers

    def close(self):
        self.client.close()


class Inflight(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.images = os.memfd_create("image")
        os.ftruncate(cls.images, 1 << 20)
        os.set_inheritable(cls.images, True)
        image = f"backend file /proc/{os.getpid()}/fd/{cls.images} share-rw"
        cls.daemon = Daemon((
            f"name slow mgmtdev sim_blk {image} delay_ms {DELAY_MS}",
            f"name fast mgmtdev sim_blk {image}",
            f"name slow_ram mgmtdev sim_blk backend ram 1M delay_ms {DELAY_MS}",
        ))

    @classmethod
    def tearDownClass(cls):
        code, log = cls.daemon.stop()
        os.close(cls.images)
        if code != 0 or "Sanitizer" in log or "runtime error" in log:
            raise AssertionError(f"the daemon ended with {code}:\n{log[-8000:]}")

    def setUp(self):
        self.closers = []
        os.pwrite(self.images, bytes(REQUESTS * SECTOR), 0)

    def tearDown(self):
        for thing in self.closers:
            thing.close()

    def disk(self, name, ring, protocol, **kw):
        disk = Disk(self.daemon.path(name), ring, protocol, **kw)
        self.closers.append(disk)
        return disk

    def sectors(self):
        return [os.pread(self.images, SECTOR, SECTOR * n) for n in range(REQUESTS)]

    def leave_undone(self, ring, protocol, request=GET_VRING_BASE, disable=False):
        """All requests are under way when the queue stops; nothing is waited for, nothing is done."""
        disk = self.disk("slow", ring, protocol).start()
        for n in range(REQUESTS):
            disk.submit(n)
        self.assertTrue(wait_until(lambda: disk.inflight() == REQUESTS))
        base, took = disk.stop(request, disable)
        self.assertLess(took, DELAY_MS / 4000)
        self.assertEqual(disk.completed(), 0)
        self.assertEqual(disk.statuses(), [0xFF] * REQUESTS)
        self.assertEqual(disk.inflight(), REQUESTS)
        self.assertEqual(self.sectors(), [bytes(SECTOR)] * REQUESTS)
        return disk, base

    def do_all_once(self, disk):
        done = 0

        def all_done():
            nonlocal done
            done += disk.completed()
            return done >= REQUESTS

        self.assertTrue(wait_until(all_done))
        time.sleep(0.05)
        self.assertEqual(done + disk.completed(), REQUESTS)
        self.assertEqual(disk.statuses(), [0] * REQUESTS)
        self.assertEqual(disk.inflight(), 0)
        self.assertEqual(self.sectors(), [bytes([n + 1]) * SECTOR for n in range(REQUESTS)])

    def test_another_device_does_what_a_stop_left_undone(self):
        """As QEMU moves a guest with inflight-migration=on: the area goes with its memory."""
        for ring in SplitRing, PackedRing:
            with self.subTest(ring.__name__):
                os.pwrite(self.images, bytes(REQUESTS * SECTOR), 0)
                source, base = self.leave_undone(ring, PROTOCOL | P_BASE_INFLIGHT)
                target = self.disk("fast", source.ring, PROTOCOL | P_BASE_INFLIGHT, memory=source.memory,
                                   area=source.goes_on()).start(base)
                self.do_all_once(target)
                target.close()
                source.close()

    def test_a_queue_that_was_disabled_before_leaves_them_undone_too(self):
        for ring in SplitRing, PackedRing:
            with self.subTest(ring.__name__):
                os.pwrite(self.images, bytes(REQUESTS * SECTOR), 0)
                disk, base = self.leave_undone(ring, PROTOCOL | P_BASE_INFLIGHT, disable=True)
                disk.start(base)
                self.do_all_once(disk)
                disk.close()

    def test_a_queue_that_is_disabled_and_enabled_again_does_them(self):
        disk = self.disk("slow", SplitRing, PROTOCOL | P_BASE_INFLIGHT).start()
        for n in range(REQUESTS):
            disk.submit(n)
        self.assertTrue(wait_until(lambda: disk.inflight() == REQUESTS))
        began = harness.running()
        self.assertEqual(disk.client.state(SET_VRING_ENABLE, 0, 0), 0)
        self.assertLess(harness.running() - began, DELAY_MS / 4000)
        self.assertEqual(disk.client.state(SET_VRING_ENABLE, 0, 1), 0)
        self.do_all_once(disk)

    def test_the_same_device_goes_on(self):
        """Stop and cont of a guest."""
        disk, base = self.leave_undone(SplitRing, PROTOCOL | P_BASE_INFLIGHT)
        disk.start(base)
        self.do_all_once(disk)

    def test_what_was_carried_out_is_not_left_undone(self):
        disk = self.disk("slow_ram", SplitRing, PROTOCOL | P_BASE_INFLIGHT).start()
        disk.submit(0)
        time.sleep(DELAY_MS / 2000)
        disk.submit(1)
        self.assertTrue(wait_until(lambda: disk.completed() == 1))
        base, took = disk.stop()
        self.assertLess(took, DELAY_MS / 4000)
        self.assertEqual(base, 2)
        self.assertEqual(disk.statuses()[:2], [0, 0xFF])
        self.assertEqual(disk.inflight(), 1)

    def test_a_stop_waits_without_the_protocol_feature(self):
        disk = self.disk("slow", SplitRing, PROTOCOL).start()
        disk.submit(0)
        self.assertTrue(wait_until(lambda: disk.inflight() == 1))
        base, took = disk.stop()
        self.assertGreater(took, DELAY_MS / 2000)
        self.assertEqual((base, disk.completed(), disk.inflight()), (1, 1, 0))

    def test_a_stop_waits_without_an_area(self):
        with Client(self.daemon.path("slow_ram")) as client:
            client.negotiate(protocol=PROTOCOL | P_BASE_INFLIGHT)
            memory = Memory()
            self.closers.append(memory)
            self.assertEqual(client.set_memory(memory), 0)
            ring, at = SplitRing(memory, 0), memory.alloc(4096)
            self.assertEqual(ring.start(client), 0)
            memory.write(at, struct.pack("<IIQ", 0, 0, 0))
            for i, part in enumerate(((16, DESC_NEXT), (SECTOR, DESC_NEXT | DESC_WRITE), (1, DESC_WRITE))):
                ring.set_desc(i, memory.GPA + at + 1024 * i, *part, i + 1)
            ring.submit(0)
            ring.kick()
            time.sleep(0.2)
            client.ask(GET_VRING_BASE, struct.pack("<II", 0, 0))
            self.assertIsNotNone(ring.poll())

    def test_with_skip_drain_each_stop_says_whether_it_waits(self):
        protocol = PROTOCOL | P_BASE_INFLIGHT | P_SKIP_DRAIN
        disk, base = self.leave_undone(SplitRing, protocol, GET_VRING_BASE_SKIP_DRAIN)
        disk.start(base)
        self.assertTrue(wait_until(lambda: disk.inflight() == REQUESTS))
        _, took = disk.stop()
        self.assertGreater(took, DELAY_MS / 4000)
        self.do_all_once(disk)

    def test_protocol_features_need_those_that_they_build_on(self):
        for protocol in P_BASE_INFLIGHT, P_INFLIGHT | P_SKIP_DRAIN:
            with Client(self.daemon.path("fast")) as client:
                client.negotiate(protocol=P_REPLY_ACK)
                self.assertNotEqual(client.u64(SET_PROTOCOL_FEATURES, P_REPLY_ACK | protocol), 0)

    def test_the_request_needs_its_protocol_feature(self):
        with Client(self.daemon.path("fast")) as client:
            client.negotiate(protocol=PROTOCOL | P_BASE_INFLIGHT)
            client.send(GET_VRING_BASE_SKIP_DRAIN, struct.pack("<II", 0, 0))
            self.assertTrue(client.is_closed())


if __name__ == "__main__":
    unittest.main()
