#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""The front end vfio-user in vdpa-app: its words by every way that takes them, beside vhost-user
devices; its sockets; devices that fail, go, and are hardware behind the daemon.
"""

import errno
import os
import re
import select
import socket
import struct
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
                ('', {'suspend': 'off', 'dma_logging': 'off', 'device_state': 'off', 'doorbell': 'poll', 'notify': 'page', 'poll_us': '20'}),
                ('suspend on dma_logging on device_state on doorbell trap notify shared',
                 {'suspend': 'on', 'dma_logging': 'on', 'device_state': 'on', 'doorbell': 'trap', 'notify': 'shared'}),
                ('poll_us 50', {'suspend': 'off', 'dma_logging': 'off', 'device_state': 'off', 'doorbell': 'poll', 'notify': 'page', 'poll_us': '50'})):
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


class Moves(ModelTest):
    """The state of a function, by MIG_DEVICE_STATE and MIG_DATA_*, from one device to another."""

    SERVER = Server
    STATE = 'frontend vfio-user device_state on'
    DEVICES = (f'name m0 mgmtdev sim_net max_vqp 2 mac 52:54:00:00:00:01 {STATE}', f'name healthy {NET}',
               f'name to mgmtdev sim_net max_vqp 2 mac 52:54:00:00:00:01 {STATE} suspend off doorbell trap',
               f'name other mgmtdev sim_net max_vqp 2 mac 52:54:00:00:00:02 {STATE}',
               f'name one mgmtdev sim_net mac 52:54:00:00:00:01 {STATE}',
               f'name blk mgmtdev sim_blk backend ram 1M {STATE}')

    def client(self, device='m0', **kw):
        """The client before may still be on its way out."""
        wait_until(lambda: not self.model.is_connected(device), TIMEOUT_S)
        return super().client(device=device, **kw)

    def net(self, device='m0', **kw):
        wait_until(lambda: not self.model.is_connected(device), TIMEOUT_S)
        return super().net(device=device, **kw)

    def lone(self):
        """A driver of m0 that the test closes."""
        wait_until(lambda: not self.model.is_connected('m0'), TIMEOUT_S)
        return NetDriver(self.model.socket('m0'))

    def arrive(self, net, state, name='to', size=4096):
        """The guest of net goes on with another device."""
        client = self.client(device=name)
        function = Function(client)
        client.dma_map(net.memory.GPA, net.memory.size, net.memory.fd)
        client.set_vectors(0, [net.config_fd, net.rx.call_fd, net.tx.call_fd])
        client.load(state, size)
        net.arrived_by, net.client, net.function, net.area = net.client, client, function, None
        net.doorbells = [Doorbell(function, ring.index, None) for ring in (net.rx, net.tx)]
        self.closers.append(net.arrived_by)
        return client

    def test_a_guest_goes_on_with_another_device(self):
        for ring in SplitRing, PackedRing:
            for size in 4096, 100:
                with self.subTest(ring=ring.__name__, size=size):
                    net = self.net(ring=ring)
                    net.start()
                    for _ in range(300):
                        net.exchange()
                    registers = [net.client.read(4, at, 2) for at in range(8, 56, 2)]
                    table, config = net.client.read(1, 0, 48), net.client.read(CONFIG_REGION, 0, 256)
                    state = net.client.save()
                    self.assertEqual(net.client.state(), STATE_STOP_COPY)
                    client = self.arrive(net, state, size=size)
                    self.assertEqual(client.state(), STATE_STOP)
                    self.assertEqual([client.read(4, at, 2) for at in range(8, 56, 2)], registers)
                    self.assertEqual(client.read(1, 0, 48), table)
                    self.assertEqual(client.read(CONFIG_REGION, 0, 256), config)
                    # It can be taken on before it has run.
                    self.assertEqual(client.save(), state)
                    client.set_state(STATE_RUNNING)
                    for _ in range(300):
                        net.exchange()
                    self.assertEqual(self.model.show('to')['state'], 'running')
                    client.close()
                    net.arrived_by.close()

    def test_no_queue_moves_while_it_stands_still(self):
        net = self.net().start()
        net.exchange()
        net.client.set_state(STATE_STOP)
        net.count += 1
        net.rx.add(net.rx_buf, 4096, True)
        net.tx.add(net.tx_buf, NET_HDR + 64, False)
        for doorbell in net.doorbells:
            doorbell.ring()
        # The driver's bits do not let them go on.
        net.function.set_command(2)
        net.function.set_command(6)
        time.sleep(0.3)
        self.assertIsNone(net.tx.poll())
        # Its registers answer.
        self.assertEqual(net.function.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        net.client.set_state(STATE_RUNNING)
        self.assertTrue(wait_until(lambda: net.tx.poll() is not None, TIMEOUT_S))
        self.assertTrue(wait_until(net.rx.poll, TIMEOUT_S))
        net.exchange()

    def test_what_was_made_available_before_is_used_after(self):
        net = self.net().start()
        net.exchange()
        net.client.set_state(STATE_STOP)
        frame = bytes(12) + b'\x88\xb5' + bytes(50)
        net.memory.write(net.tx_buf, bytes(NET_HDR) + frame)
        net.rx.add(net.rx_buf, 4096, True)
        net.tx.add(net.tx_buf, NET_HDR + len(frame), False)
        self.arrive(net, net.client.save()).set_state(STATE_RUNNING)
        # Nobody rings a doorbell.
        self.assertEqual(wait_until(net.rx.poll, TIMEOUT_S), NET_HDR + len(frame))
        self.assertTrue(net.interrupted(net.rx.call_fd))

    def test_each_queue_interrupts_once_on_arrival(self):
        net = self.net().start()
        net.exchange()
        state = net.client.save()
        client = self.arrive(net, state)
        for ring in net.rx, net.tx:
            while net.interrupted(ring.call_fd, 0):
                pass
        # Nothing is used: an interrupt may have been lost with the device before.
        client.set_state(STATE_RUNNING)
        for ring in net.rx, net.tx:
            self.assertTrue(net.interrupted(ring.call_fd))

    def test_states(self):
        client = self.client()
        self.assertEqual(client.feature(FEATURE_GET | MIGRATION), struct.pack('<Q', 1))
        for flags in FEATURE_GET | MIGRATION, (FEATURE_GET | FEATURE_SET) | MIG_DEVICE_STATE:
            self.assertEqual(client.feature(FEATURE_PROBE | flags), b'')
        self.refused(errno.ENOTTY, client.feature, FEATURE_PROBE | FEATURE_SET | MIGRATION)
        self.refused(errno.EINVAL, client.feature, FEATURE_GET | FEATURE_SET | MIG_DEVICE_STATE, bytes(8))
        self.refused(errno.EINVAL, client.feature, FEATURE_SET | MIG_DEVICE_STATE, bytes(4))
        self.assertEqual(client.state(), STATE_RUNNING)
        states = STATE_RUNNING, STATE_STOP, STATE_STOP_COPY
        for a in states:
            for b in states:
                client.set_state(a)
                client.set_state(b)
                self.assertEqual(client.state(), b)
        for state in STATE_ERROR, STATE_RUNNING_P2P, 6, 7, 1 << 31:
            self.refused(errno.EINVAL, client.set_state, state)
        client.set_state(STATE_STOP)
        self.refused(errno.EINVAL, client.read_state)
        self.refused(errno.EINVAL, client.write_state, b'x')
        client.set_state(STATE_STOP_COPY)
        self.refused(errno.EINVAL, client.read_state, 4097)
        self.refused(errno.EINVAL, client.write_state, b'x')
        state = client.read_state(1 << 8)
        self.assertEqual(client.read_state(), b'')
        client.set_state(STATE_STOP)
        self.assertEqual(client.save(), state)

    def test_nothing_of_a_state_that_is_wrong_is_taken(self):
        with self.lone() as net:
            net.start()
            net.exchange()
            state = net.client.save()
        client = self.client(device='to')
        wrong = [state[:n] for n in range(0, len(state), 7)] + [state + b'x', bytes(len(state))]
        wrong += [state[:at] + bytes([state[at] ^ 0xFF]) + state[at + 1:] for at in range(0, 16)]
        for data in wrong:
            client.set_state(STATE_RESUMING)
            client.write_state(data)
            with self.assertRaises(Refused):
                client.set_state(STATE_STOP)
            self.assertEqual(client.state(), STATE_ERROR)
            self.refused(errno.EINVAL, client.set_state, STATE_RUNNING)
            client.reset()
            self.assertEqual((client.state(), Function(client).status()), (STATE_RUNNING, 0))
        # Whatever byte of it differs: taken, or refused.
        for at in range(len(state)):
            client.set_state(STATE_RESUMING)
            client.write_state(state[:at] + bytes([state[at] ^ 1 << at % 8]) + state[at + 1:])
            try:
                client.set_state(STATE_RUNNING)
            except Refused:
                self.assertEqual(client.state(), STATE_ERROR)
            client.reset()
        self.healthy.exchange()

    def test_a_state_of_another_device_is_refused_with_what_differs(self):
        with self.lone() as net:
            net.start()
            state = net.client.save()
        for name, line in (('other', 'MAC: 52:54:00:00:00:01 in the state, 52:54:00:00:00:02 here'), ('one', 'is of another function'),
                           ('blk', 'is of another function')):
            with self.client(device=name) as client:
                with self.assertRaises(Refused):
                    client.load(state)
                harness.wait_for(lambda pattern=f'{name}: vfio-user: state .*{line}':
                                 re.search(pattern, self.model.err.text()), f'{name}: {line}')

    def test_a_state_is_bounded(self):
        client = self.client()
        client.set_state(STATE_RESUMING)
        with self.assertRaises(Refused) as refused:
            for _ in range(1024):
                client.write_state(bytes(4096))
        self.assertEqual(refused.exception.errno, errno.E2BIG)
        client.reset()
        self.assertEqual(client.state(), STATE_RUNNING)

    def test_a_client_that_goes_leaves_nothing_of_it(self):
        with self.lone() as net:
            net.start()
            state = net.client.save()
        with self.client() as client:
            client.set_state(STATE_RESUMING)
            client.write_state(state)
        wait_until(lambda: not self.model.is_connected('m0'))
        with self.lone() as net:
            self.assertEqual(net.client.state(), STATE_RUNNING)
            net.start()
            net.exchange()

    def test_without_the_word_there_is_none(self):
        client = self.healthy.client
        self.refused(errno.ENOTTY, client.feature, FEATURE_GET | MIGRATION)
        self.refused(errno.ENOTTY, client.set_state, STATE_STOP)
        self.refused(errno.ENOTSUP, client.read_state)
        self.refused(errno.ENOTSUP, client.write_state, b'x')


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
