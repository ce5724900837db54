#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""The figures of a migration in the statistics: what was logged and moved, and how long each phase took.

They are counted where it happens, so they must agree with what the guest did.
"""

import random
import time
import unittest

import harness
from moving_host import Host
from numbered_guest import Memory
from test_moves import IFCVF, PLAIN, SIM, Mover, host_of
from test_shadow import guest_of

PHASES = ('start', 'log_on', 'switch', 'log_sync', 'log_off', 'drain', 'suspend', 'reset', 'stop_vq', 'save', 'load')


class Figures(Mover):
    def figures(self, host, name):
        return host.app.stats(name)['migration']

    def follow(self, kind, what, by):
        """A log that comes and goes; by: what moves its buffers meanwhile, None: the device's own log."""
        with self.subTest(kind=kind, what=what[0], by=by), host_of(kind, what) as host:
            with guest_of(host, kind, kind, False, random.Random(1)) as guest:
                guest.connect(host.socket(kind)).start()
                guest.work(0.01)
                before = self.figures(host, kind)
                self.assertEqual(host.app.show(kind)['migration']['mode'], 'auto')
                self.assertEqual(host.app.show(kind)['migration']['log'], 'none')
                self.assertEqual(before['start_count'], 1)
                self.assertEqual((before['log_on_count'], before['log_pages']), (0, 0))
                self.precopy(guest, Memory(guest.memory.size))
                time.sleep(0.15)
                during = self.figures(host, kind)
                self.assertEqual(host.app.show(kind)['migration']['log'], 'queues' if by else 'device')
                self.assertEqual(during['log_on_count'], 1)
                self.assertGreater(during['log_pages'], 0)
                moved = [m for m in ('relay', 'shadow') if during[f'{m}_completed'] > 0]
                self.assertEqual(moved, [by] if by else [])
                if by:
                    self.assertGreater(during['switch_count'], 0)
                    self.assertLessEqual(during['switch_us'], during['log_on_max_us'])
                    self.assertGreater(during[f'{by}_rate'], 0)
                guest.log_off()
                guest.work(0.01)
                guest.settle()
                after = self.figures(host, kind)
                self.assertEqual(after['log_off_count'], 1)
                for figure in (f'{m}_{what}' for m in ('relay', 'shadow') for what in ('forwarded', 'completed')):
                    self.assertGreaterEqual(after[figure], during[figure])
                self.assertEqual(host.app.show(kind)['migration']['log'], 'none')
                guest.stop()
                last = self.figures(host, kind)
                # A queue, or two.
                self.assertEqual(last['stop_vq_count'], len(guest.queues))
                self.assertEqual(last['in_flight'], 0)
                for phase in PHASES:
                    count, us, most = (last[f'{phase}{x}'] for x in ('_count', '_us', '_max_us'))
                    self.assertLessEqual(us, most)
                    self.assertEqual(most > 0 and count == 0, False, phase)
                    self.assertLess(most, 5_000_000, phase)
            print(f'{self.id()}: {kind}, {what[0] or "sim"}: {last}', flush=True)

    def test_a_log_of_the_device(self):
        for kind in 'net', 'ram':
            self.follow(kind, SIM, None)
            self.follow(kind, IFCVF, None)

    def test_a_relay(self):
        for kind in 'net', 'ram':
            self.follow(kind, ('', lambda kind: 'no_log', ''), 'relay')

    def test_shadows(self):
        self.follow('ram', PLAIN, 'shadow')


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main()
