#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""The front end vfio-user in vdpa-app: its words by every way that takes them, beside vhost-user
devices; its sockets; devices that fail, go, and are hardware behind the daemon.
"""

import os
import select
import socket
import subprocess
import time
import unittest

import harness
import vhost_user_client
from vfio_user_client import *

NET = 'mgmtdev sim_net frontend vfio-user'


class Frontend(ModelTest):
    SERVER = Server
    DEVICES = (f'name m0 {NET} max_vqp 2', f'name healthy {NET}', 'name vhu mgmtdev sim_net socket {dir}/vhu.sock')

    def test_devices_beside_vhost_user_come_and_go_over_the_control_socket(self):
        path = self.model.socket('new')
        with vhost_user_client.NetDriver(self.model.socket('vhu')) as vhu:
            vhu.start().exchange()
            self.model.add(f'name new {NET} vfio_user {path} mode 0660 doorbell trap')
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o660)
            self.assertEqual(self.model.show('new')['frontend_info'], f'vfio-user {path} waiting')
            with NetDriver(path) as net:
                net.start()
                net.exchange()
                vhu.exchange()
                self.assertTrue(self.model.is_connected('new'))
                # Under its client.
                self.model.delete('new')
                self.assertTrue(net.client.is_closed())
            self.assertFalse(os.path.exists(path))
            vhu.exchange()

    def test_words_of_two_front_ends_are_those_of_the_one_that_is_named(self):
        refusal = lambda words: self.model.refusal('dev.add', words=f'name new mgmtdev sim_net {words}')
        self.assertIn('is a word of the front end vhost-user', refusal('vfio_user {0}/n.sock socket {0}/s.sock'.format(self.model.dir)))
        self.assertIn('needs vfio_user PATH', refusal('frontend vfio-user'))
        self.assertIn('is a word of the front end vfio-user', refusal(f'socket {self.model.dir}/s.sock doorbell trap'))
        self.assertRegex(refusal('frontend vfio_user'), 'allowed are .*vfio-user')
        self.assertIn('fault', refusal(f'vfio_user {self.model.dir}/n.sock fault needs_reset'))
        self.assertIn('is in use by m0', refusal(f'vfio_user {self.model.socket("m0")}'))
        for mode in 'mode 0606', 'mode 0640':
            path = self.model.socket('new')
            for word in f'vfio_user {path}', f'socket {path}':
                self.model.add(f'name new mgmtdev sim_net {word} {mode}')
                self.assertEqual(os.stat(path).st_mode & 0o777, int(mode[5:], 8))
                self.model.delete('new')

    def test_words_in_force_are_shown(self):
        for words, shown in (
                ('', {'suspend': 'off', 'dma_logging': 'off', 'doorbell': 'poll', 'notify': 'page', 'poll_us': '20'}),
                ('suspend on dma_logging on doorbell trap notify shared',
                 {'suspend': 'on', 'dma_logging': 'on', 'doorbell': 'trap', 'notify': 'shared'}),
                ('poll_us 50', {'suspend': 'off', 'dma_logging': 'off', 'doorbell': 'poll', 'notify': 'page', 'poll_us': '50'})):
            with self.subTest(words):
                self.model.add(f'name new {NET} vfio_user {self.model.socket("new")} {words}')
                self.assertEqual(self.model.show('new')['frontend_words'], shown)
                with self.model.control() as client:
                    self.assertEqual(client.show('new')['frontend_words'], shown)
                self.model.delete('new')
        self.assertNotIn('frontend_words', self.model.show('vhu'))

    def test_second_client_is_refused_and_the_first_goes_on(self):
        net = self.net().start()
        with Client(self.model.socket('m0'), version=False) as second:
            self.assertTrue(second.is_closed())
        net.exchange()

    def test_half_a_message_holds_up_nobody(self):
        client = self.client()
        client.send_raw(client.message(GET_INFO, bytes(16))[:9])
        with vhost_user_client.NetDriver(self.model.socket('vhu')) as vhu:
            vhu.start().exchange()
        self.healthy.exchange()

    def test_clients_that_come_and_go_cost_no_lines_without_end(self):
        for _ in range(400):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(self.model.socket('m0'))
                s.sendall(b'\xff' * 16)
        self.assertLess(len(self.model.err.lines) - self.lines, 900)

    def test_help_names_the_front_ends(self):
        for option in '--help', '--list':
            got = subprocess.run([harness.APP, option], capture_output=True, text=True, check=True).stdout
            self.assertIn('Front end vhost-user: ', got)
            self.assertIn('Front end vfio-user: serves the device as a virtio-pci function', got)
            self.assertIn('vfio_user PATH', got)
            # The model's own.
            self.assertNotIn('  fault ', got)


class ConfigFile(unittest.TestCase):
    def test_device_of_a_configuration_file(self):
        app = harness.Daemon()
        path = os.path.join(app.dir, 'uvdpa.conf')
        with open(path, 'w', encoding='utf-8') as f:
            f.write(f'name net0 mgmtdev sim_net frontend vfio-user vfio_user {app.socket("net0")} mode 0600\n'
                    f'name net1 mgmtdev sim_net socket {app.socket("net1")}\n')
        app.command += ['--config', path]
        app.start()
        try:
            with NetDriver(app.socket('net0')) as net:
                net.start()
                net.exchange()
                self.assertIn('connected', app.show('net0')['frontend_info'])
        finally:
            self.assertEqual(app.stop(), 0, app.err.text())
            app.cleanup()


class Behind(unittest.TestCase):
    """A function on another vfio-user socket, as a device of the daemon, on a socket of the daemon's."""

    def setUp(self):
        self.model = Model(['name n mgmtdev sim_net max_vqp 2', 'name other mgmtdev sim_net'])
        self.model.start()
        self.addCleanup(self.model.cleanup)
        self.addCleanup(self.model.kill)
        self.app = Server([f'name n mgmtdev vfio-user/{self.model.socket("n")}',
                           f'name other mgmtdev vfio-user/{self.model.socket("other")}'])
        self.app.start()
        self.addCleanup(self.app.cleanup)
        self.addCleanup(self.app.kill)

    def test_frames_and_interrupts_go_through_both(self):
        for ring in SplitRing, PackedRing:
            with NetDriver(self.app.socket('n'), ring=ring) as net:
                net.start()
                for _ in range(20):
                    net.exchange()
                net.restart()
                net.exchange()
        self.assertEqual(self.app.stop(), 0, self.app.err.text())

    def test_doorbells_of_the_function_itself_are_passed_through(self):
        """The client's write is the one that the model sees: the daemon has no part in it."""
        self.app.delete('n')
        words = f'name n mgmtdev vfio-user/{self.model.socket("n")} vfio_user {self.app.socket("n")} doorbell pass'
        self.assertIn('migration off, or log', self.app.refusal('dev.add', words=words))
        self.assertIn('has no doorbell to give away', self.app.refusal(
            'dev.add', words=f'name s mgmtdev sim_net vfio_user {self.app.dir}/s doorbell pass migration off'))
        self.app.add(words + ' migration off')
        rings = lambda: int(self.model.model_stats('n')['queues']['1']['rings_by_memory'])
        with NetDriver(self.app.socket('n')) as net:
            net.start()
            before = rings()
            for _ in range(5):
                net.exchange()
                time.sleep(0.05)
            self.assertGreater(rings(), before)
            self.assertIsNotNone(net.area)
        # By messages they ring too.
        with NetDriver(self.app.socket('n'), trap=True) as net:
            net.start()
            net.exchange()

    def test_a_function_that_dies_needs_a_reset_and_costs_that_device_only(self):
        with NetDriver(self.app.socket('n')) as net, NetDriver(self.app.socket('other')) as other:
            net.start()
            net.exchange()
            other.start()
            other.exchange()
            self.model.fault('n', 'needs_reset')
            wait_until(lambda: net.function.status() & NEEDS_RESET)
            self.assertEqual(self.app.show('n')['state'], 'failed')
            other.exchange()
            self.model.fault('n', 'none')
            net.restart()
            net.exchange()

    def test_a_function_in_its_time_out_keeps_no_other_client_waiting(self):
        with NetDriver(self.app.socket('n')) as net, NetDriver(self.app.socket('other')) as other:
            other.start()
            net.start()
            self.model.fault('n', 'no_reply')
            net.client.send(RESET)
            began = time.monotonic()
            # Messages of the other's client, not only its rings.
            for _ in range(5):
                other.restart()
                other.exchange()
            self.assertEqual(select.select([net.client.sock], [], [], 0)[0], [])
            print(f'five restarts beside a function that does not answer: {time.monotonic() - began:.2f} s')


if __name__ == '__main__':
    unittest.main()
