#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""The frame of a message: truncated, oversize, unknown, wrong flags; negotiation; configuration;
log and inflight files; a front end that stalls or does not read."""

import os
import socket
import struct
import unittest

import harness
from vhost_user_client import *

# The pause that one front end makes for the others; without a bound it would last until that one goes on.
BOUND_S = 5.0


class Protocol(HostileTest):
    def test_payload_shorter_and_longer_than_the_request_has(self):
        for request, size in (
            (GET_FEATURES, 8),
            (SET_FEATURES, 4),
            (SET_FEATURES, 16),
            (SET_OWNER, 8),
            (SET_MEM_TABLE, 8),
            (SET_VRING_NUM, 4),
            (SET_VRING_ADDR, 39),
            (GET_VRING_BASE, 16),
            (SET_VRING_KICK, 0),
            (SET_PROTOCOL_FEATURES, 12),
            (GET_CONFIG, 4),
            (SET_STATUS, 4),
        ):
            with self.subTest(NAMES[request], size=size):
                client = self.connect(protocol=P_REPLY_ACK | P_CONFIG | P_STATUS)
                self.assert_refused(client, request, bytes(size), cause=f"payload of {size} bytes")
                self.assertTrue(client.is_closed())
                client.close()

    def test_truncated_message_then_close(self):
        for data in b"\x01", struct.pack("<III", SET_FEATURES, 1, 8), struct.pack("<IIII", SET_FEATURES, 1, 8, 1):
            client = self.connect()
            client.send_raw(data)
            client.close()

    def test_header_that_promises_more_than_any_message_has(self):
        for size in 4096, 0x7FFFFFFF, 0xFFFFFFFF:
            client = self.connect()
            client.send(SET_FEATURES, bytes(64), size=size)
            self.assertTrue(client.is_closed())
            self.assert_logged("refused", "larger than any")
            client.close()
            self.log_start = len(self.daemon.log())

    def test_unknown_requests(self):
        for request in 0, 23, 33, 41, 99, 0x7FFFFFFF, 0xFFFFFFFF:
            with self.subTest(request):
                client = self.connect()
                self.assert_refused(client, request, bytes(8), cause="unknown")
                self.assertTrue(client.is_closed())
                client.close()

    def test_wrong_flags(self):
        for flags in 0, 2, 3, VERSION | REPLY, VERSION | 0x80000000:
            with self.subTest(flags):
                client = self.connect()
                client.send(SET_OWNER, flags=flags)
                self.assertTrue(client.is_closed())
                self.assert_logged("SET_OWNER refused", f"flags {flags:#x}")
                client.close()
                self.log_start = len(self.daemon.log())

    def test_file_descriptors_where_none_belong(self):
        for request, payload in (GET_FEATURES, b""), (SET_OWNER, b""), (SET_VRING_NUM, struct.pack("<II", 0, 64)):
            with self.subTest(NAMES[request]):
                client = self.connect()
                fds = [client.eventfd() for _ in range(8)]
                self.assert_refused(client, request, payload, fds, cause="8 file descriptors")
                client.close()

    def test_more_file_descriptors_than_a_message_can_have(self):
        client = self.connect()
        client.send(SET_OWNER, fds=[client.eventfd() for _ in range(32)])
        self.assertTrue(client.is_closed())

    def test_features_that_were_not_offered(self):
        client = self.connect()
        self.assert_refused(client, SET_FEATURES, struct.pack("<Q", F_PROTOCOL | 1 << 60), cause="not offered")
        self.assert_refused(client, SET_PROTOCOL_FEATURES, struct.pack("<Q", 1 << 40), cause="not offered")

    def test_requests_whose_feature_was_not_negotiated(self):
        for request, payload in (
            (GET_CONFIG, struct.pack("<III", 0, 4, 0) + bytes(4)),
            (GET_STATUS, b""),
            (SEND_RARP, bytes(8)),
            (NET_SET_MTU, bytes(8)),
            (GET_INFLIGHT_FD, bytes(24)),
            (RESET_DEVICE, b""),
        ):
            with self.subTest(NAMES[request]):
                client = self.connect(protocol=P_REPLY_ACK)
                self.assert_refused(client, request, payload, cause="not negotiated")
                client.close()

    def test_configuration_out_of_bounds(self):
        for offset, size in (0, 257), (256, 1), (0xFFFFFFFF, 8), (0xFFFFFF00, 0x100), (8, 0xFFFFFFF8):
            with self.subTest(offset, size=size):
                client = self.connect()
                payload = struct.pack("<III", offset, size, 0) + bytes(16)
                self.assert_refused(client, GET_CONFIG, payload, cause="at offset")
                client.close()
                client = self.connect()
                self.assert_refused(client, SET_CONFIG, payload, cause="at offset")
                client.close()

    def test_status_and_mtu_out_of_range(self):
        client = self.connect(protocol=P_REPLY_ACK | P_STATUS | P_MTU)
        self.assert_refused(client, SET_STATUS, struct.pack("<Q", 0x100), cause="8 bits")
        self.assert_refused(client, NET_SET_MTU, struct.pack("<Q", 10), cause="MTU 10")
        self.assert_refused(client, NET_SET_MTU, struct.pack("<Q", 1 << 40), cause="MTU")

    def test_log_that_is_not_in_its_file(self):
        if not Client.ask_u64(self.connect(), GET_FEATURES) & F_LOG_ALL:
            self.skipTest("the device has no dirty log")
        self.closers.pop().close()
        memory = self.memory()
        for size, offset in (2 << 20, 0), (4096, 1 << 20), (0, 0), ((1 << 64) - 1, 4096), (4096, (1 << 64) - 4096):
            with self.subTest(size, offset=offset):
                client = self.connect(protocol=P_REPLY_ACK | P_LOG)
                payload = struct.pack("<QQ", size, offset)
                self.assert_refused(client, SET_LOG_BASE, payload, [memory.fd], cause="do not lie in a file")
                client.close()

    def test_backend_channel_that_is_no_socket(self):
        client = self.connect(protocol=P_REPLY_ACK | P_BACKEND_REQ)
        self.assert_refused(client, SET_BACKEND_REQ_FD, b"", [client.eventfd()], cause="no socket")

    def test_second_connection_is_refused_and_the_first_goes_on(self):
        net = self.net().start()
        second = Client(self.daemon.path("victim"))
        self.closers.append(second)
        self.assertTrue(second.is_closed())
        self.assert_logged("second connection", "refused")
        net.exchange()

    def test_a_message_that_stalls_costs_its_own_connection_only(self):
        """The others are served meanwhile, and its rest is taken whenever it comes."""
        message = struct.pack("<III", GET_QUEUE_NUM, VERSION, 0)
        client = self.connect(protocol=P_REPLY_ACK | P_MQ)
        for byte in message:
            client.send_raw(bytes([byte]))
            self.healthy.client.ask_u64(GET_FEATURES)
        self.assertEqual(struct.unpack("<IIIQ", client.recv_exact(20))[0], GET_QUEUE_NUM)
        client.send_raw(struct.pack("<III", SET_FEATURES, VERSION, 8))
        self.healthy.exchange()
        self.assertFalse(client.is_closed(0.2))
        self.assertNotIn("refused", self.new_log())
        client.close()
        self.assert_logged("message refused: it is cut")

    def test_others_are_served_while_one_reads_no_replies(self):
        client = self.connect()
        client.sock.settimeout(0.2)
        try:
            for _ in range(100000):
                client.send(GET_FEATURES)
        except (Closed, TimeoutError):
            pass
        began = harness.running()
        self.healthy.client.ask_u64(GET_FEATURES)
        self.assertLess(harness.running() - began, BOUND_S)
        self.assertTrue(client.is_closed())
        self.assert_logged("does not read its replies")

    def test_endless_offences_end_the_connection(self):
        client = self.connect()
        with self.assertRaises(Closed):
            for _ in range(1000):
                self.assertNotEqual(client.state(SET_VRING_NUM, 0, 3), 0)
        self.assert_logged("messages refused, closing")
        self.assertLess(self.new_log().count("vdpa: victim"), 40)


if __name__ == "__main__":
    unittest.main()
