# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A front end that sends file descriptors of a kind that could confuse or hold up the daemon."""

import contextlib
import mmap
import os
import socket
import struct
import subprocess
import tempfile
import time
import unittest

import harness
import vhost_user_client as vu

# Descriptors of one device's front ends that may wait to be closed: VDPA_FD_WAITING_MAX.
WAITING_MAX = 64
# Other devices wait no longer than this for their messages.
PATIENCE_S = 4.0


def disk_folder():
    """A folder to write to that is not in memory."""
    for folder in "/var/tmp", os.getcwd(), os.path.expanduser("~"):
        if os.access(folder, os.W_OK):
            kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True)
            if kind.stdout.strip() not in ("tmpfs", "hugetlbfs", "ramfs"):
                return folder
    raise unittest.SkipTest("no folder on a disk")


class DescriptorTest(vu.HostileTest):
    def assert_healthy_is_served(self):
        """A message of the other device is answered in time, so the shared thread does not wait."""
        self.healthy.client.sock.settimeout(PATIENCE_S)
        try:
            self.healthy.client.ask_u64(vu.GET_FEATURES)
        finally:
            self.healthy.client.sock.settimeout(vu.TIMEOUT_S)


class Descriptors(DescriptorTest):
    def test_memory_in_a_file_on_disk_is_refused(self):
        # A file system may be a process of the attacker's, that lets every access wait.
        with tempfile.TemporaryFile(dir=disk_folder()) as file:
            file.truncate(1 << 20)
            client = self.connect()
            table = struct.pack("<IIQQQQ", 1, 0, 0x100000, 1 << 20, 0x7F0000000000, 0)
            self.assert_refused(client, vu.SET_MEM_TABLE, table, [file.fileno()], cause="not a shared memory file")

    def test_a_pipe_whose_lock_is_held_holds_nobody_up(self):
        """Closing the last descriptor of its reading end waits for the lock."""
        pipe = vu.HeldPipe()
        self.closers.append(pipe)
        client = self.connect()
        client.send(vu.SET_VRING_KICK, struct.pack("<Q", 0), [pipe.reader], flags=vu.VERSION | vu.NEED_REPLY)
        os.close(pipe.reader)
        client.sock.settimeout(PATIENCE_S)
        self.assertNotEqual(struct.unpack("<Q", client.recv()[2])[0], 0)
        client.ask_u64(vu.GET_FEATURES)
        self.assert_healthy_is_served()

    def test_a_socket_that_lingers_holds_nobody_up(self):
        """It is closed when its message is refused, or with the socket in which it is queued."""
        def as_kick(client, sock):
            client.send(vu.SET_VRING_KICK, struct.pack("<Q", 0), [sock.fileno()])

        def in_the_channel(client, sock):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                socket.send_fds(ours, [b"x"], [sock.fileno()])
                client.send(vu.SET_BACKEND_REQ_FD, b"", [theirs.fileno()])

        def in_the_connection(client, sock):
            client.send(vu.GET_FEATURES, b"", [sock.fileno()])

        for how in as_kick, in_the_channel, in_the_connection:
            with self.subTest(how.__name__):
                client = self.connect(protocol=vu.P_REPLY_ACK | vu.P_BACKEND_REQ)
                sock, peer = harness.lingering()
                how(client, sock)
                sock.close()
                client.close()
                time.sleep(0.1)
                self.assert_healthy_is_served()
                peer.close()

    def test_the_end_of_a_connection_is_not_kept(self):
        """Were it, nobody would hear that the front end has gone, and the device would be lost."""
        def itself(client):
            return client.sock

        def of_the_front_ends_own(client):
            path = os.path.join(self.daemon.dir, "own.sock")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()
                ours = socket.socket(socket.AF_UNIX)
                ours.connect(path)
                os.unlink(path)
                self.closers.append(ours)
                return listener.accept()[0]

        def queued(client):
            ours, theirs = socket.socketpair()
            with ours:
                socket.send_fds(ours, [b"x"], [client.sock.fileno()])
            return theirs

        def not_connected(client):
            return socket.socket(socket.AF_UNIX)

        def datagrams(client):
            return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]

        def half_a_message(client, fd):
            client.send_raw(struct.pack("<II", vu.GET_FEATURES, vu.VERSION), [fd])

        def channel(client, fd):
            client.send(vu.SET_BACKEND_REQ_FD, b"", [fd])

        def call(client, fd):
            client.u64(vu.SET_VRING_CALL, 0, [fd], ack=False)

        for what in itself, of_the_front_ends_own, queued, not_connected, datagrams:
            for how in half_a_message, channel, call:
                with self.subTest(f"{what.__name__}, {how.__name__}"):
                    self.log_start = len(self.daemon.log())
                    client = self.connect(protocol=vu.P_REPLY_ACK | vu.P_BACKEND_REQ)
                    with what(client) as sock:
                        how(client, sock.fileno())
                        self.assertTrue(client.is_closed())
                    self.assert_logged("message refused: .* half of a socket pair")

    def test_what_was_sent_for_calls_stays_empty(self):
        client = self.connect()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.assertEqual(client.u64(vu.SET_VRING_CALL, 0, [theirs.fileno()]), 0)
            self.assertRaises(BrokenPipeError, ours.send, b"x")

    def test_log_in_huge_pages_is_let_go_of(self):
        fd = os.memfd_create(vu.MEM_NAME, os.MFD_HUGETLB)
        self.addCleanup(os.close, fd)
        size = os.fstat(fd).st_blksize
        try:
            os.ftruncate(fd, size)
            mmap.mmap(fd, size).close()
        except OSError as error:
            harness.skip_unless(False, f"no huge page: {error}")
        client = self.connect(protocol=vu.P_REPLY_ACK | vu.P_LOG)
        for offset in 0, 4096, 8192:
            client.send(vu.SET_LOG_BASE, struct.pack("<QQ", 4096, offset), [fd])
            self.assertEqual(struct.unpack("<III", client.recv_exact(12))[0], vu.SET_LOG_BASE)

    def test_the_backend_channel_must_be_a_unix_stream(self):
        for kind in socket.SOCK_DGRAM, socket.SOCK_STREAM:
            with socket.socket(socket.AF_INET, kind) as sock:
                client = self.connect(protocol=vu.P_REPLY_ACK | vu.P_BACKEND_REQ)
                self.assert_refused(client, vu.SET_BACKEND_REQ_FD, b"", [sock.fileno()], cause="no socket of AF_UNIX")

    def test_a_full_eventfd_made_blocking_again_holds_nobody_up(self):
        """O_NONBLOCK is the open file's, so the front end can take it away at any time."""
        net = self.net().start()
        for ring in net.rx, net.tx:
            os.set_blocking(ring.call_fd, True)
            os.eventfd_write(ring.call_fd, 2**64 - 2)
        net.exchange()
        net.exchange()
        self.healthy.exchange()
        for ring in net.rx, net.tx:
            self.assertGreaterEqual(os.eventfd_read(ring.call_fd), 2**64 - 2)


class Floods(DescriptorTest):
    """Apart from the rest: they use up the lines that the victim may cause."""

    DEVICES = DescriptorTest.DEVICES + ("name other mgmtdev sim_net backend loopback",)

    def test_floods_leave_none(self):
        """Every connection brings as many as fit into a message, and none that is wanted."""
        def connected():
            try:
                return vu.Client(self.daemon.path("victim"))
            except BlockingIOError:  # the backlog is full
                return None

        with open("/dev/null", "rb") as null, open(__file__, "rb") as file, socket.socket(socket.AF_UNIX) as sock:
            for fd in null.fileno(), file.fileno(), sock.fileno():
                for _ in range(1000):
                    with contextlib.suppress(vu.Closed), vu.wait_until(connected) as client:
                        client.send(vu.GET_FEATURES, b"", [fd] * 8)
                self.assert_healthy_is_served()

    def test_a_sender_whose_sockets_linger_waits_and_holds_nobody_up(self):
        """Each of its sockets keeps its close waiting for longer than the test takes."""
        peers = []
        for _ in range(WAITING_MAX // 8 + 1):
            with vu.Client(self.daemon.path("victim")) as client:
                socks = []
                for _ in range(8):
                    sock, peer = harness.lingering(600)
                    # The peer goes first: then no close waits any more.
                    self.addCleanup(sock.close)
                    self.addCleanup(peer.close)
                    socks.append(sock)
                    peers.append(peer)
                # By the time that the daemon has the whole message, it alone has the sockets.
                message = struct.pack("<III", vu.GET_FEATURES, vu.VERSION, 0)
                client.send_raw(message[:1], [sock.fileno() for sock in socks])
                for sock in socks:
                    sock.close()
                client.send_raw(message[1:])
                self.assertTrue(client.is_closed())
        with vu.Client(self.daemon.path("victim")) as client:
            self.assert_logged("connections to .* wait: 7[0-9] file descriptors .* do not close")
            # What others send is closed, and they are served.
            for _ in range(3):
                ours, theirs = socket.socketpair()
                with ours, vu.Client(self.daemon.path("other")) as other:
                    other.send(vu.GET_FEATURES, b"", [theirs.fileno()])
                    theirs.close()
                    ours.settimeout(vu.TIMEOUT_S)
                    self.assertEqual(ours.recv(1), b"")
            self.assert_healthy_is_served()
            for peer in peers:
                peer.close()
            client.ask_u64(vu.GET_FEATURES)

    def test_sockets_for_calls_that_were_replaced_are_counted(self):
        """One close waits, and each message replaces a socket that waits behind it."""
        client = self.connect(protocol=vu.P_REPLY_ACK | vu.P_LOG)
        sock, peer = harness.lingering(600)
        self.addCleanup(peer.close)
        with sock:
            client.send_raw(struct.pack("<II", vu.SET_LOG_FD, vu.VERSION), [sock.fileno()])
        client.send_raw(struct.pack("<I", 0))
        replaced = 0
        with contextlib.suppress(vu.Closed):
            while replaced <= 2 * WAITING_MAX:
                ours, theirs = socket.socketpair()
                with ours, theirs:
                    client.u64(vu.SET_VRING_CALL, 0, [theirs.fileno()])
                replaced += 1
        self.assertLessEqual(replaced, WAITING_MAX + 1)
        peer.close()


if __name__ == "__main__":
    unittest.main()
