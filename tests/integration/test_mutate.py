#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Mutated vhost-user messages, from a fixed seed: valid ones in any order with bytes, sizes, flags,
file descriptors and fields changed. UVDPA_SEED and UVDPA_MESSAGES choose others.
"""

import os
import random
import socket
import struct
import unittest

import harness
from vhost_user_client import *

SEED = int(os.environ.get("UVDPA_SEED", "20260117"))
MESSAGES = int(os.environ.get("UVDPA_MESSAGES") or harness.count(12000, 1000000))

INTERESTING = (0, 1, 2, 3, 7, 8, 63, 64, 255, 256, 4095, 4096, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


class Mutate(HostileTest):
    """Both classes are attacked, so that every request's handler is reached."""

    DEVICES = (
        "name victim mgmtdev sim_net backend loopback",
        "name healthy mgmtdev sim_net backend loopback",
        "name victimblk mgmtdev sim_blk backend ram 4M",
    )

    def setUp(self):
        super().setUp()
        self.random = random.Random(SEED)
        self.mem = self.memory()
        # The last three are of kinds whose close may wait.
        pair = socket.socketpair()
        self.files = [
            self.mem.fd,
            os.eventfd(0, os.EFD_NONBLOCK),
            os.open("/dev/null", os.O_RDWR),
            os.open(__file__, os.O_RDONLY),
            pair[0].detach(),
            pair[1].detach(),
        ]

    def valid(self):
        """A message that is right by itself: request, payload, file descriptors."""
        rnd, mem = self.random, self.mem
        queue = rnd.randrange(2)
        ring = self.rings[queue]
        eventfd = [self.files[1]]
        return rnd.choice(
            (
                (GET_FEATURES, b"", []),
                (SET_FEATURES, struct.pack("<Q", self.features | rnd.choice((0, F_PACKED, F_LOG_ALL))), []),
                (SET_OWNER, b"", []),
                (RESET_OWNER, b"", []),
                (SET_MEM_TABLE, mem.table(), [mem.fd]),
                (SET_LOG_BASE, struct.pack("<QQ", 65536, 65536), [mem.fd]),
                (SET_LOG_FD, b"", eventfd),
                (SET_VRING_NUM, struct.pack("<II", queue, ring.num), []),
                (SET_VRING_ADDR, ring.addr_payload(flags=rnd.randrange(2)), []),
                (SET_VRING_BASE, struct.pack("<II", queue, 0), []),
                (GET_VRING_BASE, struct.pack("<II", queue, 0), []),
                (SET_VRING_KICK, struct.pack("<Q", queue), eventfd),
                (SET_VRING_KICK, struct.pack("<Q", queue | NOFD), []),
                (SET_VRING_CALL, struct.pack("<Q", queue), eventfd),
                (SET_VRING_ERR, struct.pack("<Q", queue), eventfd),
                (SET_VRING_ENABLE, struct.pack("<II", queue, 1), []),
                (SET_VRING_ENABLE, struct.pack("<II", queue, 0), []),
                (GET_PROTOCOL_FEATURES, b"", []),
                (SET_PROTOCOL_FEATURES, struct.pack("<Q", self.protocol), []),
                (GET_QUEUE_NUM, b"", []),
                (SEND_RARP, b"\x52\x54\0\0\0\1\0\0", []),
                (NET_SET_MTU, struct.pack("<Q", 1500), []),
                (GET_CONFIG, struct.pack("<III", 0, 8, 0) + bytes(8), []),
                (SET_CONFIG, struct.pack("<III", 0, 8, 0) + bytes(8), []),
                (GET_INFLIGHT_FD, struct.pack("<QQHHI", 0, 0, 1, 64, 0), []),
                (SET_INFLIGHT_FD, struct.pack("<QQHHI", 8192, 0, 1, 64, 0), [mem.fd]),
                (RESET_DEVICE, b"", []),
                (SET_STATUS, struct.pack("<Q", rnd.choice((0, 1, 3, 11, 15))), []),
                (GET_STATUS, b"", []),
                (GET_VRING_BASE_SKIP_DRAIN, struct.pack("<II", queue, 0), []),
                (SET_DEVICE_STATE_FD, struct.pack("<II", rnd.randrange(3), 0), [mem.fd]),
                (CHECK_DEVICE_STATE, b"", []),
                (rnd.randrange(64), bytes(rnd.randrange(48)), []),
            )
        )

    def mutated(self):
        rnd = self.random
        request, payload, fds = self.valid()
        payload, fds, flags, size = bytearray(payload), list(fds), VERSION, None
        kind = rnd.randrange(10)
        if kind < 3 and payload:  # bits
            for _ in range(rnd.randrange(1, 5)):
                payload[rnd.randrange(len(payload))] ^= 1 << rnd.randrange(8)
        elif kind < 5 and len(payload) >= 4:  # fields
            at = rnd.randrange(len(payload) // 4) * 4
            struct.pack_into("<I", payload, at, rnd.choice(INTERESTING))
        elif kind == 5:  # length of the payload
            payload = payload[: rnd.randrange(len(payload) + 1)] + bytes(rnd.randrange(32))
        elif kind == 6:  # file descriptors
            fds = [rnd.choice(self.files) for _ in range(rnd.randrange(9))]
        elif kind == 7:  # flags
            flags = rnd.randrange(16)
        elif kind == 8 and rnd.randrange(8) == 0:  # what the header promises
            size = rnd.choice(INTERESTING)
        if rnd.randrange(3) == 0:
            flags |= NEED_REPLY
        return request, bytes(payload), fds, flags, size

    def one_connection(self, name, messages):
        """Up to that many messages, until the daemon closes; how many were sent."""
        rnd = self.random
        client = Client(self.daemon.path(name), timeout=2.0)
        self.rings = [SplitRing(self.mem, i) for i in range(2)]
        self.mem.next = 0
        self.features = F_VERSION_1 | F_PROTOCOL
        sent = 0
        try:
            offered = client.ask_u64(GET_PROTOCOL_FEATURES)
            self.protocol = offered & (rnd.getrandbits(20) | P_REPLY_ACK)
            client.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", self.protocol))
            if rnd.randrange(2):  # from the middle of a set-up
                client.u64(SET_FEATURES, self.features)
                client.set_memory(self.mem)
                for ring in self.rings[: 1 if name.endswith("blk") else 2]:
                    ring.start(client)
            client.sock.settimeout(0.05)
            while sent < messages:
                request, payload, fds, flags, size = self.mutated()
                sent += 1
                client.send(request, payload, fds, flags, size)
                client.sock.setblocking(False)
                try:
                    while client.sock.recv(65536):
                        pass
                    break
                except BlockingIOError:
                    client.sock.settimeout(0.5)
        except (Closed, TimeoutError, ConnectionResetError):
            pass
        finally:
            client.close()
        return sent

    def test_mutated_messages(self):
        print(f"seed {SEED}, {MESSAGES} messages", flush=True)
        try:
            sent = connections = 0
            while sent < MESSAGES:
                name = self.random.choice(("victim", "victim", "victimblk"))
                sent += self.one_connection(name, self.random.randrange(1, 60))
                connections += 1
                if connections % 50 == 0:
                    self.assertIsNone(self.daemon.process.poll(), f"dead after {sent} messages")
                    self.healthy.exchange()
            print(f"{sent} messages on {connections} connections", flush=True)
            self.assertGreater(sent / connections, 3, "most messages never reached the daemon")
        finally:
            for fd in self.files[1:]:
                os.close(fd)
            self.files = []
            self.mem.close()
            self.closers.remove(self.mem)


if __name__ == "__main__":
    unittest.main()
