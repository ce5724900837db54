#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""SET_VRING_*: queues, sizes, addresses and file descriptors that cannot be, and wrong moments."""

import os
import struct
import unittest

from vhost_user_client import *

NO_QUEUE = 200


class Vring(HostileTest):
    def prepared(self):
        client = self.connect()
        memory = self.memory()
        self.assertEqual(client.set_memory(memory), 0)
        return client, SplitRing(memory, 0)

    def test_queue_the_device_does_not_have(self):
        state, file = struct.pack("<II", NO_QUEUE, 1), struct.pack("<Q", NO_QUEUE | NOFD)
        for request, payload in (
            (SET_VRING_NUM, state),
            (SET_VRING_BASE, state),
            (GET_VRING_BASE, state),
            (SET_VRING_ENABLE, state),
            (SET_VRING_ADDR, struct.pack("<IIQQQQ", NO_QUEUE, 0, 0, 0, 0, 0)),
            (SET_VRING_KICK, file),
            (SET_VRING_CALL, file),
            (SET_VRING_ERR, file),
        ):
            with self.subTest(NAMES[request]):
                client = self.connect()
                self.assert_refused(client, request, payload, queue=NO_QUEUE, cause="queues")
                client.close()

    def test_queue_past_every_limit_ends_the_connection(self):
        client = self.connect()
        client.send(SET_VRING_NUM, struct.pack("<II", 0x80000000, 64))
        self.assertTrue(client.is_closed())
        self.assert_logged("vhost-user", "refused")

    def test_sizes(self):
        for num in 0, 3, 300, 32769, 65536, 1 << 31, 0xFFFFFFFF:
            with self.subTest(num):
                client = self.connect()
                self.assert_refused(client, SET_VRING_NUM, struct.pack("<II", 1, num), queue=1, cause=str(num))
                client.close()

    def test_size_larger_than_the_device_takes(self):
        client, ring = self.prepared()
        ring = SplitRing(self.memory(4 << 20), 0, 32768)
        ring.memory.regions = [(ring.memory.GPA, 4 << 20, ring.memory.UVA, 0)]
        self.assertEqual(client.set_memory(ring.memory), 0)
        ring.start(client)
        self.assert_logged("queue 0", "32768")

    def test_addresses_outside_memory(self):
        client, ring = self.prepared()
        self.assertEqual(client.state(SET_VRING_NUM, 0, 64), 0)
        end = ring.memory.UVA + ring.memory.size
        for what in "desc", "avail", "used":
            for addr in 0, end, end - 16, ring.memory.UVA - 8, (1 << 64) - 16:
                with self.subTest(what, addr=hex(addr)):
                    c = self.connect()
                    c.set_memory(ring.memory)
                    c.state(SET_VRING_NUM, 0, 64)
                    payload = ring.addr_payload(**{what: addr})
                    self.assert_refused(c, SET_VRING_ADDR, payload, queue=0, cause="lie in one memory region")
                    c.close()

    def test_unaligned_addresses(self):
        for what, offset in ("desc", 8), ("avail", 1), ("used", 2):
            with self.subTest(what):
                client, ring = self.prepared()
                client.state(SET_VRING_NUM, 0, 64)
                at = {"desc": ring.desc, "avail": ring.driver, "used": ring.device}[what]
                client.ack(SET_VRING_ADDR, ring.addr_payload(**{what: ring.memory.UVA + at + offset}))
                client.u64(SET_VRING_KICK, 0, [client.eventfd()])
                client.state(SET_VRING_ENABLE, 0, 1)
                self.assert_logged("queue 0", "align")
                client.close()
                self.log_start = len(self.daemon.log())

    def test_addresses_before_size_or_memory(self):
        client = self.connect()
        ring = SplitRing(self.memory(), 0)
        self.assert_refused(client, SET_VRING_ADDR, ring.addr_payload(), queue=0, cause="size is not set")
        client.state(SET_VRING_NUM, 0, 64)
        self.assert_refused(client, SET_VRING_ADDR, ring.addr_payload(), queue=0, cause="no memory table")

    def test_unknown_address_flags(self):
        client, ring = self.prepared()
        client.state(SET_VRING_NUM, 0, 64)
        self.assert_refused(client, SET_VRING_ADDR, ring.addr_payload(flags=0x80), queue=0, cause="flags 0x80")

    def test_changes_of_a_running_queue(self):
        net = self.net().start()
        net.exchange()
        state = struct.pack("<II", 1, 128)
        moved = net.tx.addr_payload(desc=net.memory.UVA + 0x80000)
        for request, payload in (SET_VRING_NUM, state), (SET_VRING_BASE, state), (SET_VRING_ADDR, moved):
            self.assert_refused(net.client, request, payload, queue=1, cause="runs")
        self.assert_refused(net.client, SET_FEATURES, struct.pack("<Q", F_PROTOCOL), cause="runs")
        net.exchange()

    def test_eventfds_that_are_none(self):
        for request in SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR:
            with self.subTest(NAMES[request]):
                client = self.connect()
                fd = os.open("/dev/zero", os.O_RDWR)
                try:
                    self.assert_refused(client, request, struct.pack("<Q", 1), [fd], queue=1, cause="no eventfd")
                finally:
                    os.close(fd)
                client.close()

    def test_too_many_and_too_few_file_descriptors(self):
        for request in SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR:
            for value, count in (1, 0), (1, 2), (1 | NOFD, 1), (1, 8):
                with self.subTest(NAMES[request], value=value, count=count):
                    client = self.connect()
                    fds = [client.eventfd() for _ in range(count)]
                    self.assert_refused(client, request, struct.pack("<Q", value), fds, cause="file descriptors")
                    client.close()

    def test_full_call_eventfd_holds_nobody_up(self):
        net = self.net().start()
        for ring in net.rx, net.tx:
            fd = os.eventfd(0)
            net.client.owned.append(fd)
            os.eventfd_write(fd, (1 << 64) - 2)
            self.assertEqual(net.client.u64(SET_VRING_CALL, ring.index, [fd]), 0)
        net.exchange()
        net.exchange()
        self.healthy.exchange()

    def test_enable_that_is_neither_0_nor_1(self):
        client = self.connect()
        self.assert_refused(client, SET_VRING_ENABLE, struct.pack("<II", 1, 2), queue=1, cause="enable 2")

    def test_base_out_of_the_ring(self):
        memory = self.memory()
        client = self.connect(F_VERSION_1 | F_PACKED)
        self.assertEqual(client.set_memory(memory), 0)
        PackedRing(memory, 0).start(client, base=0x7FFF7FFF)
        self.assert_logged("queue 0")

    def test_failed_start_signals_the_error_eventfd_and_needs_reset(self):
        memory = self.memory()
        protocol = P_REPLY_ACK | P_STATUS
        client = self.connect(F_VERSION_1 | F_PACKED, protocol)
        self.assertEqual(client.set_memory(memory), 0)
        err = client.eventfd()
        self.assertEqual(client.u64(SET_VRING_ERR, 0, [err]), 0)
        PackedRing(memory, 0).start(client, base=0x7FFF7FFF)
        self.assertFalse(self.readable(err), "it started before DRIVER_OK")
        self.assertEqual(client.u64(SET_STATUS, 0xF), 0)
        self.assertTrue(wait_until(lambda: self.readable(err)), "the error eventfd is silent")
        self.assertTrue(client.ask_u64(GET_STATUS) & 0x40, "NEEDS_RESET is not shown")
        # The same connection works again after a reset.
        self.assertEqual(client.u64(SET_STATUS, 0), 0)
        self.assertFalse(client.ask_u64(GET_STATUS) & 0x40)

    @staticmethod
    def readable(fd):
        try:
            return os.eventfd_read(fd) > 0
        except BlockingIOError:
            return False


if __name__ == "__main__":
    unittest.main()
