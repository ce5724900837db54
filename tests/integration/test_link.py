# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""The link of a running net device, set by the administrator, as the other side sees it."""

import os
import socket
import struct
import unittest

import harness
import vhost_user_client
from upgrading import Upgrades

NET = 'name net0 mgmtdev sim_net socket {dir}/net0.sock'
STATUS_OFFSET = 6  # of struct virtio_net_config
LINK_UP = 1
CONFIG_CHANGE = 2  # message of the back end


class Link(unittest.TestCase):
    @staticmethod
    def status(driver):
        """Configuration field `status`, by GET_CONFIG."""
        payload = struct.pack('<III', 0, 12, 0) + bytes(12)
        reply = driver.client.ask(vhost_user_client.GET_CONFIG, payload)
        return struct.unpack_from('<H', reply, 12 + STATUS_OFFSET)[0]

    def set(self, daemon, state):
        daemon.set('net0', f'link {state}')
        self.assertEqual(daemon.show('net0')['link'], state)

    def test_a_front_end_that_takes_configuration_changes_is_told(self):
        v = vhost_user_client
        ours, theirs = socket.socketpair()
        ours.settimeout(harness.TIMEOUT)
        protocol = v.P_REPLY_ACK | v.P_MQ | v.P_CONFIG | v.P_BACKEND_REQ
        with ours, harness.Daemon([NET]) as daemon, \
                v.NetDriver(daemon.socket('net0'), protocol=protocol) as driver:
            with theirs:
                self.assertEqual(driver.client.ack(v.SET_BACKEND_REQ_FD, b'', [theirs.fileno()]),
                                 0)
            driver.start()
            driver.exchange()
            self.assertEqual(self.status(driver) & LINK_UP, LINK_UP)

            self.set(daemon, 'down')
            request, _, size = struct.unpack('<III', ours.recv(12))
            self.assertEqual((request, size), (CONFIG_CHANGE, 0))
            self.assertEqual(self.status(driver) & LINK_UP, 0)
            before = daemon.stats('net0')
            with self.assertRaises(AssertionError):
                driver.exchange(timeout=0.3)
            # It was taken from the driver, counted as dropped, and not delivered.
            after = daemon.stats('net0')
            self.assertEqual(harness.drops(after), harness.drops(before) + 1)
            self.assertEqual(after['device']['rx_packets'], before['device']['rx_packets'])
            self.assertEqual(daemon.show('net0')['state'], 'running')

            self.set(daemon, 'up')
            self.assertEqual(struct.unpack('<III', ours.recv(12))[0], CONFIG_CHANGE)
            self.assertEqual(self.status(driver) & LINK_UP, LINK_UP)

    def test_others_see_it_by_the_connection(self):
        v = vhost_user_client
        with harness.Daemon([NET]) as daemon:
            path = daemon.socket('net0')
            with v.NetDriver(path) as driver:
                driver.start()
                driver.exchange()
                self.set(daemon, 'down')
                self.assertTrue(driver.client.is_closed())
            self.assertFalse(os.path.exists(path))
            self.set(daemon, 'up')
            with v.NetDriver(path) as driver:
                driver.start()
                driver.exchange()

    def test_a_link_that_is_down_from_the_beginning(self):
        """As one that is set down later: with the same words a device is the same."""
        v = vhost_user_client
        with harness.Daemon([NET + ' link down']) as daemon:
            path = daemon.socket('net0')
            self.assertEqual(daemon.show('net0')['link'], 'down')
            self.assertFalse(os.path.exists(path))
            self.set(daemon, 'up')
            with v.NetDriver(path) as driver:
                driver.start()
                driver.exchange()


class Upgrade(unittest.TestCase):
    def test_a_link_that_is_down_has_no_socket(self):
        """Neither one that the new daemon has made for a moment nor one that the old one had left."""
        with Upgrades({'net0': 'mgmtdev sim_net link down'}) as host:
            path = host.app.socket('net0')
            for left in False, True:
                with self.subTest(left=left):
                    if left:
                        self.leave_socket(host.app)
                    self.assertEqual(os.path.exists(path), left)
                    host.upgrade(devices=1)
                    harness.wait_for(lambda: not os.path.exists(path), 'the end of its socket')
                    host.app.set('net0', 'link up')
                    with vhost_user_client.NetDriver(path) as driver:
                        driver.start()
                        driver.exchange()
                    host.app.set('net0', 'link down')
                    self.assertFalse(os.path.exists(path))

    def leave_socket(self, app):
        """A front end that is told of the link keeps its connection, and the device its socket behind that."""
        v = vhost_user_client
        app.set('net0', 'link up')
        ours, theirs = socket.socketpair()
        with ours, theirs, v.Client(app.socket('net0')) as client:
            client.negotiate(protocol=v.P_REPLY_ACK | v.P_CONFIG | v.P_BACKEND_REQ)
            self.assertEqual(client.ack(v.SET_BACKEND_REQ_FD, b'', [theirs.fileno()]), 0)
            app.set('net0', 'link down')
        harness.wait_for(lambda: 'listening' in app.call('dev.show', name='net0')['dev']['net0']['frontend_info'],
                         'the end of its front end')


if __name__ == '__main__':
    unittest.main(verbosity=2)
