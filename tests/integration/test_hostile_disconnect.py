#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A front end that goes away: after each message of a set-up, in a message, while traffic runs, by
SIGKILL; and one that comes back before its end was noticed."""

import os
import signal
import socket
import struct
import unittest

import harness
from vhost_user_client import *


class Disconnect(HostileTest):
    def steps(self, ring_type):
        """The set-up of a net device and its end, a step a message."""
        net = NetDriver.__new__(NetDriver)
        client = net.client = Client(self.daemon.path("victim"))
        net.memory = Memory()
        net.rx, net.tx = ring_type(net.memory, 0), ring_type(net.memory, 1)
        net.rx_buf, net.tx_buf, net.count = net.memory.alloc(4096), net.memory.alloc(4096), 0
        log = net.memory.alloc(65536)
        channel = socket.socketpair()
        self.closers += channel
        yield net
        yield client.ask_u64(GET_FEATURES)
        yield client.send(SET_OWNER)
        offered = client.ask_u64(GET_PROTOCOL_FEATURES)
        wanted = offered & (P_REPLY_ACK | P_MQ | P_CONFIG | P_BACKEND_REQ | P_LOG)
        yield client.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", wanted))
        yield client.ack(SET_BACKEND_REQ_FD, b"", [channel[1].fileno()])
        features = F_VERSION_1 | F_PROTOCOL | ring_type.FEATURE
        yield client.u64(SET_FEATURES, features)
        yield client.set_memory(net.memory)
        for ring in net.rx, net.tx:
            ring.kick_fd, ring.call_fd = client.eventfd(), client.eventfd()
            yield client.u64(SET_VRING_ERR, ring.index, [client.eventfd()])
            yield client.state(SET_VRING_NUM, ring.index, ring.num)
            yield client.state(SET_VRING_BASE, ring.index, ring.base())
            yield client.ack(SET_VRING_ADDR, ring.addr_payload())
            yield client.u64(SET_VRING_CALL, ring.index, [ring.call_fd])
            yield client.u64(SET_VRING_KICK, ring.index, [ring.kick_fd])
            yield client.state(SET_VRING_ENABLE, ring.index, 1)
        yield net.exchange()
        yield client.u64(SET_VRING_CALL, 0, [net.rx.call_fd])
        yield client.u64(SET_VRING_KICK, 1, [net.tx.kick_fd])
        yield net.exchange()
        if wanted & P_LOG:
            client.send(SET_LOG_BASE, struct.pack("<QQ", 65536, log), [net.memory.fd])
            yield client.recv()
            yield client.u64(SET_FEATURES, features | F_LOG_ALL)
            yield client.ack(SET_VRING_ADDR, net.rx.addr_payload(flags=1, log=net.memory.GPA + net.rx.device))
            yield net.exchange()
            dirty = net.memory.read(log, 65536)
            page = (net.memory.GPA + net.rx_buf) >> 12
            self.assertTrue(dirty[page // 8] & 1 << page % 8, "a written page is not in the log")
            # What the device writes of a ring: the used ring, or the descriptors of a packed one.
            page = (net.memory.GPA + (net.rx.desc if ring_type is PackedRing else net.rx.device)) >> 12
            self.assertTrue(dirty[page // 8] & 1 << page % 8, "the used ring is not in the log")
        yield client.state(SET_VRING_ENABLE, 1, 0)
        yield client.ask(GET_VRING_BASE, struct.pack("<II", 0, 0))
        yield client.ask(GET_VRING_BASE, struct.pack("<II", 1, 0))

    def run_steps(self, ring_type, count):
        """Take that many steps and vanish; whether there were so many."""
        steps = self.steps(ring_type)
        net = next(steps)
        try:
            for _ in range(count):
                next(steps)
        except StopIteration:
            return False
        finally:
            steps.close()
            net.close()
        self.assertTrue(wait_until(lambda: self.daemon.guest_maps() <= self.guest_maps))
        return True

    def after_each_step(self, ring_type):
        count = 0
        while self.run_steps(ring_type, count):
            count += 1
        self.assertGreater(count, 20)

    def test_after_each_message_split(self):
        self.after_each_step(SplitRing)

    def test_after_each_message_packed(self):
        self.after_each_step(PackedRing)

    def test_comes_back_at_once(self):
        """The end of the old connection and the new one may be noticed in either order."""
        for _ in range(harness.count(50, 5000)):
            with NetDriver(self.daemon.path("victim")) as net:
                net.start()
        with NetDriver(self.daemon.path("victim")) as net:
            net.start()
            net.exchange()

    def test_killed_in_the_middle_of_traffic(self):
        for _ in range(harness.count(10, 1000)):
            pid = os.fork()
            if pid == 0:
                try:
                    net = NetDriver(self.daemon.path("victim")).start()
                    while True:
                        net.exchange()
                finally:
                    os._exit(1)
            wait_until(lambda: self.daemon.guest_maps() > self.guest_maps)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            harness.nothing_left(self.daemon.process.pid, self.baseline)

    def test_half_closed(self):
        net = self.net().start()
        net.exchange()
        net.client.sock.shutdown(socket.SHUT_WR)
        self.assertTrue(net.client.is_closed())


if __name__ == "__main__":
    unittest.main()
