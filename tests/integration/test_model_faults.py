#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""What each fault of vdpa-model shows to a client, and that it goes again: by option and at run time.

Every test ends with a function that works once the fault is gone, beside one that never noticed.
"""

import os
import socket
import struct
import time
import unittest

from vfio_user_client import *

RUNNING = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK


class AtRunTime(ModelTest):
    DEVICES = ('name m0 mgmtdev sim_net max_vqp 2 delay_ms 300', 'name healthy mgmtdev sim_net')

    def tearDown(self):
        self.model.fault('m0', 'none')
        super().tearDown()

    def fault(self, *names):
        self.model.fault('m0', ','.join(names))
        self.assertEqual(self.model.model_stats('m0')['fault'], ','.join(names))

    def test_every_fault_is_listed_with_help(self):
        faults = self.model.call('model.faults')['faults']
        self.assertEqual(faults, self.model.ask('/model/faults'))
        self.assertEqual(len(faults), 26)
        for name, text in faults.items():
            self.assertGreater(len(text), 10, name)

    def test_unknown_ones_are_refused(self):
        self.assertIn("fault 'x'", self.model.refusal('model.fault', name='m0', fault='x'))
        self.assertIn('no such device', self.model.refusal('model.fault', name='nobody', fault='none'))
        self.assertIn("'fault' is missing", self.model.refusal('model.fault', name='m0'))
        # By telemetry nothing is set any more.
        self.assertIn('model.fault', self.model.ask('/model/fault,m0,no_reply')['error'])
        self.assertEqual(self.model.model_stats('m0')['fault'], 'none')

    def test_queue_never_enables(self):
        self.fault('queue_never_enables')
        net = self.net()
        net.function.set_command(6)
        self.assertTrue(net.function.negotiate(F_VERSION_1))
        self.assertEqual(net.function.setup_queue(net.rx), (NO_VECTOR, 0))

    def test_reset_never_completes(self):
        net = self.net(features=F_RING_RESET).start()
        self.fault('reset_never_completes')
        net.function.set(STATUS, 0)
        self.assertEqual(net.function.status(), RUNNING)
        with self.assertRaises(TimeoutError):
            net.function.negotiate(F_VERSION_1)
        self.fault('none')
        net.function.set(STATUS, 0)
        self.assertEqual(net.function.status(), 0)

    def test_queue_reset_never_completes(self):
        net = self.net(features=F_RING_RESET).start()
        self.fault('reset_never_completes')
        net.function.set(QUEUE_SELECT, 0)
        net.function.set(QUEUE_RESET, 1)
        self.assertEqual(net.function.get(QUEUE_RESET), 1)

    def test_needs_reset_of_a_running_device(self):
        net = self.net().start()
        net.exchange()
        self.fault('needs_reset')
        self.assertTrue(wait_until(lambda: net.function.status() & NEEDS_RESET))
        self.assertEqual(net.interrupted(net.config_fd), 1)
        with self.assertRaises(AssertionError):
            net.exchange(timeout=0.1)
        self.assertEqual(self.model.show('m0')['state'], 'failed')
        self.model.err.wait('m0: fault needs_reset', self.lines)

    def test_needs_reset_of_one_that_starts(self):
        self.fault('needs_reset')
        net = self.net().start()
        self.assertTrue(net.function.status() & NEEDS_RESET)
        self.fault('none')
        net.function.set(STATUS, 0)
        net.restart()
        net.exchange()

    def test_all_ones(self):
        net = self.net().start()
        self.fault('all_ones')
        self.assertEqual(net.client.read(CONFIG_REGION, 0, 8), b'\xff' * 8)
        self.assertEqual(net.function.status(), 0xFF)
        net.function.set(STATUS, 0)
        self.fault('none')
        self.assertEqual(net.function.status(), RUNNING)

    def test_truncated_reply(self):
        client = self.client()
        self.fault('truncated_reply')
        client.send(GET_INFO, struct.pack('<IIII', 16, 0, 0, 0))
        self.assertEqual(len(client.recv()[4]), 8)
        client.send(REGION_READ, struct.pack('<QII', 0, CONFIG_REGION, 4))
        self.assertEqual(len(client.recv()[4]), 10)

    def test_delayed_reply(self):
        client = self.client()
        self.fault('delayed_reply')
        for _ in range(2):
            start = time.monotonic()
            client.info()
            self.assertGreater(time.monotonic() - start, 0.29)
            self.healthy.exchange()

    def test_client_that_goes_during_a_delay(self):
        self.fault('delayed_reply')
        with Client(self.model.socket('m0'), version=False) as client:
            client.send(VERSION, struct.pack('<HH', 0, 1))
            time.sleep(0.05)
        self.fault('none')
        # At once, not when the reply would have been due.
        self.assertTrue(wait_until(lambda: self.model.model_stats('m0')['connected'] == 'false', 0.2))

    def test_no_reply(self):
        client = self.client()
        self.fault('no_reply')
        client.sock.settimeout(0.2)
        with self.assertRaises(socket.timeout):
            client.info()
        self.fault('none')
        client.info()

    def test_wrong_used_index(self):
        for ring in SplitRing, PackedRing:
            with self.subTest(ring=ring.__name__):
                with NetDriver(self.model.socket('m0'), ring=ring) as net:
                    net.start()
                    net.exchange()
                    net.interrupted(net.tx.call_fd, 0.05)
                    self.fault('wrong_used_index')
                    # Used entries although nothing is with the device.
                    self.assertTrue(wait_until(lambda: net.tx.poll() is not None))
                    self.assertGreater(net.interrupted(net.tx.call_fd), 0)
                    self.fault('none')

    def test_spurious_interrupts(self):
        net = self.net().start()
        net.exchange()
        net.interrupted(net.rx.call_fd)
        self.fault('spurious_interrupts')
        for fd in net.rx.call_fd, net.tx.call_fd, net.config_fd:
            for _ in range(3):
                self.assertGreater(net.interrupted(fd), 0)
        net.exchange()

    def test_lost_interrupts(self):
        net = self.net().start()
        net.exchange()
        self.assertGreater(net.interrupted(net.rx.call_fd), 0)
        self.fault('lost_interrupts')
        net.exchange()
        self.assertEqual(net.interrupted(net.rx.call_fd, 0.1), 0)
        self.fault('none')
        net.exchange()
        self.assertGreater(net.interrupted(net.rx.call_fd), 0)

    def test_disconnect_at_once(self):
        net = self.net().start()
        self.fault('disconnect')
        self.assertTrue(net.client.is_closed())
        self.assertTrue(wait_until(lambda: self.model.show('m0')['state'] == 'idle'))

    def test_disconnect_at_driver_ok(self):
        self.fault('disconnect')
        net = self.net()
        try:
            net.start()
        except Closed:
            pass
        self.assertTrue(net.client.is_closed())

    def test_features_refused(self):
        self.fault('features_refused')
        f = self.net().function
        self.assertFalse(f.negotiate(F_VERSION_1))
        self.assertEqual(f.status(), ACKNOWLEDGE | DRIVER)

    def test_unstable_generation(self):
        self.fault('unstable_generation')
        f = self.net().function
        self.assertEqual(len({f.get(GENERATION) for _ in range(10)}), 10)

    def test_bad_capability(self):
        self.fault('bad_capability')
        net = self.net()
        bar, offset, length = net.function.caps[1]
        self.assertGreater(offset + length, net.client.region_info(bar)[1])

    def test_small_bar(self):
        self.fault('small_bar')
        net = self.net()
        size = net.client.region_info(4)[1]
        for kind in 2, 4:
            self.assertGreaterEqual(net.function.caps[kind][1], size)
        self.assertIsNone(net.function.map_doorbells())

    def test_no_vector(self):
        self.fault('no_vector')
        f = self.net().function
        f.set(QUEUE_VECTOR, 0)
        self.assertEqual(f.get(QUEUE_VECTOR), NO_VECTOR)
        f.set(CONFIG_VECTOR, 0)
        self.assertEqual(f.get(CONFIG_VECTOR), NO_VECTOR)

    def test_faults_come_and_go_under_load(self):
        net = self.net().start()
        for name in ('lost_interrupts', 'spurious_interrupts', 'unstable_generation', 'small_bar',
                     'bad_capability', 'no_vector', 'features_refused'):
            self.fault(name)
            net.exchange()
            self.fault('none')
            net.exchange()


class ByOption(unittest.TestCase):
    def test_fault_holds_from_the_start_until_it_is_taken_back(self):
        with Model(['name m0 mgmtdev sim_net fault features_refused,no_vector',
                    'name m1 mgmtdev sim_net fault delayed_reply delay_ms 200']) as model:
            with NetDriver(model.socket('m0')) as net:
                self.assertFalse(net.function.negotiate(F_VERSION_1))
                model.fault('m0', 'none')
                net.start()
                net.exchange()
            start = time.monotonic()
            Client(model.socket('m1')).close()
            self.assertGreater(time.monotonic() - start, 0.19)


if __name__ == '__main__':
    unittest.main()
