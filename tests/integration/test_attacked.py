# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Traffic and set-up of healthy devices while front ends of others attack the process together."""

import os
import random
import socket
import struct
import threading
import time
import unittest

import harness
import vhost_user_client as vhu

HALVES = 8
SECONDS = harness.count(4, 120)


def half_message(path, stop):
    """A message that never ends, on a connection that stays."""
    with vhu.Client(path) as client:
        client.send_raw(struct.pack('<III', vhu.SET_FEATURES, vhu.VERSION, 8) + b'\0' * 3)
        stop.wait()


def no_reader(path, stop):
    """Asks and does not read the answers."""
    while not stop.is_set():
        with vhu.Client(path) as client:
            client.sock.settimeout(0.05)
            try:
                while not stop.is_set():
                    client.send(vhu.GET_FEATURES)
            except (vhu.Closed, TimeoutError):
                pass


def _descriptors():
    """One of each kind that could be sent, to be closed by the caller."""
    pair = socket.socketpair()
    # A socket in whose queue another one lies.
    socket.send_fds(pair[0], [b'x'], [pair[1].fileno()])
    lingering, peer = harness.lingering()
    read, write = os.pipe()
    kinds = [os.eventfd(0), os.open('/dev/null', os.O_RDWR), os.memfd_create('flood'), read,
             pair[1].detach(), lingering.detach()]
    return kinds, [write, pair[0].detach(), peer.detach()]


def flood(path, stop):
    """Descriptors of every kind with messages that have none, too many or the wrong ones."""
    while not stop.is_set():
        kinds, kept = _descriptors()
        try:
            with vhu.Client(path) as client:
                client.sock.settimeout(1)
                client.send(random.choice((vhu.GET_FEATURES, vhu.SET_VRING_CALL, vhu.SET_MEM_TABLE, 99)),
                            os.urandom(random.choice((0, 8, 40))), random.choices(kinds, k=random.choice((1, 8, 64))))
                client.is_closed(0.2)
        except (vhu.Closed, TimeoutError, ConnectionError, OSError):
            pass
        finally:
            for fd in kinds + kept:
                os.close(fd)


def reconnect(path, stop):
    """Starts a device and is gone in the middle of its life."""
    while not stop.is_set():
        try:
            with vhu.NetDriver(path) as net:
                net.start()
                net.exchange()
        except (vhu.Closed, ConnectionError, AssertionError):
            # The one before has not been served to its end yet.
            time.sleep(0.01)


class Attacked(unittest.TestCase):
    def test_healthy_devices_pass_traffic_and_start(self):
        attacks = [(f'half{i}', half_message) for i in range(HALVES)]
        attacks += [('slow', no_reader), ('flood', flood), ('again', reconnect)]
        words = [f'name {name} mgmtdev sim_net backend loopback socket {{dir}}/{name}.sock'
                 for name in ['traffic', 'healthy', *(name for name, _ in attacks)]]
        with harness.Daemon(words) as daemon, vhu.NetDriver(daemon.socket('traffic')) as net:
            net.start()
            net.exchange()
            before = harness.settled(daemon.pid)
            stop = threading.Event()
            threads = [threading.Thread(target=attack, args=(daemon.socket(name), stop))
                       for name, attack in attacks]
            for thread in threads:
                thread.start()
            exchanges = starts = 0
            longest = 0.0
            end = time.monotonic() + SECONDS
            try:
                while time.monotonic() < end:
                    with vhu.NetDriver(daemon.socket('healthy')) as other:
                        other.start()
                        other.exchange()
                        starts += 1
                    for _ in range(20):
                        began = time.monotonic()
                        # Fails when the frame does not come back.
                        net.exchange()
                        longest = max(longest, time.monotonic() - began)
                        exchanges += 1
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            print(f'{exchanges} frames back, {starts} starts of another device; longest exchange '
                  f'{1000 * longest:.1f} ms', flush=True)
            self.assertGreater(exchanges, 0)
            # A front end may use the victims afterwards.
            for name, _ in attacks:
                harness.wait_for(lambda name=name: self.works(daemon.socket(name)), f'{name} to be free')
            usage = harness.nothing_left(daemon.pid, before)
            print(usage, flush=True)

    @staticmethod
    def works(path):
        try:
            with vhu.NetDriver(path) as net:
                net.start()
                net.exchange()
            return True
        except (vhu.Closed, ConnectionError):
            return False


if __name__ == '__main__':
    unittest.main()
