#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""test-vdpa as a front end of back ends that do not keep to vhost-user: it ends with an error, in a
bounded time, and never by a signal."""

import array
import os
import socket
import struct
import tempfile
import threading
import unittest

import vhost_user_client as vu
from conformance_tool import Outcome, cases, conformance

SECONDS = 40.0
HOST_NOTIFIER_MSG = 3
P_HOST_NOTIFIER = 1 << 11
OFFERED = {
    vu.GET_FEATURES: vu.F_VERSION_1 | vu.F_PROTOCOL,
    vu.GET_PROTOCOL_FEATURES: vu.P_MQ | vu.P_REPLY_ACK | vu.P_MTU | vu.P_BACKEND_REQ | vu.P_CONFIG |
    vu.P_SEND_FD | P_HOST_NOTIFIER | vu.P_STATUS,
    vu.GET_QUEUE_NUM: 1,
    vu.GET_STATUS: 0xF,
}


class BackEnd:
    """Answers every message as a back end would that does nothing, but for what spoil() says.

    spoil(server, request, payload): bytes to send instead of the answer, None for the usual one.
    """

    def __init__(self, spoil):
        self.spoil = spoil
        self.folder = tempfile.TemporaryDirectory(prefix='uvdpa-test.')
        self.path = os.path.join(self.folder.name, 'socket')
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.backend = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                try:
                    self.serve(connection)
                except (OSError, vu.Closed):
                    pass

    def serve(self, connection):
        client = vu.Client(None, timeout=SECONDS, connection=connection)
        while True:
            fds = []
            request, flags, payload = client.recv(fds)
            if request == vu.SET_BACKEND_REQ_FD and fds:
                if self.backend:
                    self.backend.close()
                self.backend = socket.socket(fileno=os.dup(fds[0]))
            for fd in fds:
                os.close(fd)
            answer = self.spoil(self, request, payload)
            if answer is not None:
                connection.sendall(answer)
            elif request in OFFERED:
                client.send(request, struct.pack('<Q', OFFERED[request]), flags=vu.VERSION | vu.REPLY)
            elif request in (vu.GET_VRING_BASE, vu.GET_CONFIG):
                client.send(request, payload, flags=vu.VERSION | vu.REPLY)
            elif flags & vu.NEED_REPLY:
                client.send(request, struct.pack('<Q', 0), flags=vu.VERSION | vu.REPLY)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        if self.backend:
            self.backend.close()
        self.folder.cleanup()


def reply(request, payload, size=None, flags=vu.VERSION | vu.REPLY):
    return struct.pack('<III', request, flags, len(payload) if size is None else size) + payload


class HostileBackEnd(unittest.TestCase):
    def check(self, spoil, said, *names):
        server = BackEnd(spoil)
        self.addCleanup(server.close)
        outcome = conformance({'socket': server.path}, '--loopback=no', '--timeout-scale=20',
                              *cases(*(names or ('identity',))))
        self.assertIn(outcome.code, (1, 2), outcome.text())
        self.assertLess(outcome.seconds, SECONDS)
        self.assertRegex(outcome.out + outcome.err, said)
        return outcome

    def test_back_end_that_never_uses_a_buffer(self):
        self.check(lambda *_: None, 'no progress for', 'queue_enable_moves')

    def test_back_end_whose_device_fails_once_it_runs(self):
        """info starts the device to see its doorbell: that it fails then is an error too."""
        asked = []

        def spoil(server, request, payload):
            if request == vu.SET_VRING_ENABLE:
                asked.clear()
            elif request == vu.GET_STATUS:
                asked.append(request)
                # The first is of the start.
                return reply(request, struct.pack('<Q', 0x4F)) if len(asked) > 1 else None
            return None

        server = BackEnd(spoil)
        self.addCleanup(server.close)
        outcome = Outcome(['info', '--socket', server.path])
        self.assertEqual(outcome.code, 1, outcome.text())
        self.assertRegex(outcome.err, 'test-vdpa: doorbell unknown: .*DEVICE_NEEDS_RESET')

    def test_silence(self):
        self.check(lambda s, request, p: b'' if request == vu.GET_FEATURES else None, 'timed out')

    def test_half_a_reply(self):
        self.check(lambda s, request, p: reply(request, b'\0' * 3, 8)
                   if request == vu.GET_QUEUE_NUM else None, 'GET_QUEUE_NUM.*timed out')

    def test_reply_longer_than_any_message(self):
        self.check(lambda s, request, p: reply(request, b'\0' * 64, 0xFFFFFFF0)
                   if request == vu.GET_FEATURES else None, 'GET_FEATURES.*too long')

    def test_reply_of_another_size(self):
        self.check(lambda s, request, p: reply(request, b'\0' * 4)
                   if request == vu.GET_FEATURES else None, 'a reply of 4 bytes instead of 8')

    def test_reply_to_another_request(self):
        self.check(lambda s, request, p: reply(99, b'\0' * 8)
                   if request == vu.GET_FEATURES else None, 'GET_FEATURES')

    def test_configuration_of_another_size(self):
        self.check(lambda s, request, p: reply(request, p + b'\0' * 16)
                   if request == vu.GET_CONFIG else None, 'GET_CONFIG.*bytes instead of',
                   'config_readable')

    def test_too_many_queues(self):
        for n in (0, 129, 1 << 40):
            self.check(lambda s, request, p, n=n: reply(request, struct.pack('<Q', n))
                       if request == vu.GET_QUEUE_NUM else None, 'virtqueues')

    def test_all_ones(self):
        self.check(lambda s, request, p: reply(request, b'\xff' * 8)
                   if request == vu.GET_FEATURES else None, 'all ones')

    def test_hang_up_in_the_middle(self):
        def spoil(server, request, payload):
            if request == vu.SET_MEM_TABLE:
                raise vu.Closed('on purpose')
        self.check(spoil, 'connection was closed', 'queue_enable')

    def doorbell(self, offset, size):
        def spoil(server, request, payload):
            if request == vu.SET_VRING_ENABLE and server.backend:
                area = struct.pack('<QQQ', struct.unpack('<II', payload)[0], size, offset)
                fd = os.memfd_create('doorbell')
                os.ftruncate(fd, 4096)
                server.backend.sendmsg(
                    [struct.pack('<III', HOST_NOTIFIER_MSG, vu.VERSION, len(area)) + area],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))])
                os.close(fd)
        self.check(spoil, 'not ok 2 - kick_doorbell # the doorbell: queue 0: a doorbell of',
                   'kick_doorbell')

    def test_doorbells_out_of_bounds(self):
        for offset, size in ((0, 0), (0, 1 << 60), ((1 << 64) - 4096, 8192), (3, 8), (4096, 4096)):
            with self.subTest(offset=offset, size=size):
                self.doorbell(offset, size)

    def test_noise_on_the_back_end_channel(self):
        def spoil(server, request, payload):
            if server.backend:
                try:
                    server.backend.send(b'\xff' * 100)
                except OSError:
                    pass
        self.check(spoil, 'no progress for', 'queue_enable_moves')


if __name__ == '__main__':
    unittest.main()
