#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""test-vdpa on functions of vendors, as vdpa-model has them, in its own process and by a socket.

Most of a run is waiting: those of one test go on side by side.
"""

import concurrent.futures
import contextlib
import unittest

import harness
import test_conformance as tc
from conformance_tool import Outcome, cases, conformance
from test_conformance import LOG, NOT_READ_ONLY, OWN_CONTROL_QUEUE, PLACES

NET, BLOCK = 'sim_net max_vqp 2', 'sim_blk backend ram 64M queues 2'
OPTIONS = {NET: ['--loopback=yes'], BLOCK: ['--overwrite']}
BY_SOCKET = tc.TRUSTED | tc.NO_DATA | tc.SUSPEND
# What a function with ring state must have shown, whatever else was skipped.
RING_STATE = {'queue_disable', 'split_queue_resume', 'split_places'}
HEALTHY = cases('identity', 'queue_enable_moves', 'split_used_ring', 'split_interrupts')
SECONDS = 30.0


class Vendors(tc.Conformance):
    def check_all(self, functions, skipped, shown, driver='', in_process=frozenset()):
        """functions: what each simulates, and its words; driver: words of what drives them; in_process: skipped
        there alone."""
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(4))
            runs = []
            for sim, words in functions:
                own = skipped | tc.NO_CONFIG_CHANGE | (OWN_CONTROL_QUEUE if sim == NET else NOT_READ_ONLY)
                if sim == BLOCK:
                    own = {name for name in own if not name.startswith('net_')}
                # A process for each: what it holds is compared.
                device = stack.enter_context(tc.model(f'{sim} {words}'))
                behind = stack.enter_context(tc.model(f'{sim} {words}'))
                app = stack.enter_context(tc.daemon(f'{behind.functions[0]} {driver}'))
                for device, more, how in (({'dev': f'mgmtdev {device.functions[0]} {driver}'}, set(in_process),
                                           'in process'),
                                          ({'socket': app.socket('d0')}, BY_SOCKET, 'by socket')):
                    runs.append((pool.submit(conformance, device, *OPTIONS[sim]), own | more,
                                 f'{sim} {words} {how}'))
            self.compare(runs, shown)

    def compare(self, runs, shown):
        for future, skipped, what in runs:
            outcome = future.result()
            with self.subTest(what):
                self.assertEqual(outcome.named('fail'), {}, outcome.text())
                self.assertEqual(set(outcome.named('skip')), skipped, outcome.text())
                self.assertEqual(outcome.code, 0, outcome.text())
                passed = set(outcome.named('pass'))
                self.assertEqual(shown - passed, set())
                self.assertGreaterEqual(len(passed), 45)
                print(f'{what}: {len(passed)} passed, 0 failed, {len(skipped)} skipped', flush=True)


class Ifcvf(Vendors):
    def test_conformance(self):
        listed = [line.split()[0] for line in Outcome(['conformance', '--list']).out.splitlines()]
        packed = {name for name in listed if 'packed' in name}
        # Both layouts of the ring state; the block function has the narrow one.
        self.check_all([(NET, 'function ifcvf'),
                        (NET, 'function ifcvf pci_id 1af4:1000 pci_sub 8086:0001'),
                        (BLOCK, 'function ifcvf')],
                       packed, RING_STATE | LOG - packed)

    def test_conformance_relayed(self):
        listed = [line.split()[0] for line in Outcome(['conformance', '--list']).out.splitlines()]
        packed = {name for name in listed if 'packed' in name}
        self.check_all([(NET, 'function ifcvf'), (BLOCK, 'function ifcvf')], packed | tc.NO_DOORBELL,
                       RING_STATE | LOG - packed, 'migration relay')


class Octep(Vendors):
    def test_conformance(self):
        # The doorbells are not given away.
        self.check_all([(NET, 'function octep'), (BLOCK, 'function octep')],
                       tc.NO_DOORBELL, RING_STATE | PLACES | {'packed_queue_resume'}, in_process=LOG)


class OctepFaults(unittest.TestCase):
    """Each fault of the model: named in bounded time by what meets it, or no more than slow."""

    # Fault: the case that fails, and the reason.
    NAMED = {
        'wrong_signature': ('open', 'BAR 4 has no signature of an Octeon function'),
        'selector_never': ('open', 'did not take a selector in time'),
        'mailbox_never': ('queue_enable_moves', r'queue 0: .*the mailbox does not answer within \d+ ms'),
        'mailbox_error': ('queue_enable_moves', 'queue 0: .*the mailbox refuses request 1 with error 5'),
    }
    WORKS = ('selector_late', 'mailbox_late', 'flag_stuck')

    def works(self, device):
        outcome = conformance(device, '--loopback=yes', *HEALTHY)
        self.assertEqual(outcome.code, 0, outcome.text())
        return outcome

    def test_named_from_the_start(self):
        for fault, (case, reason) in self.NAMED.items():
            with self.subTest(fault), tc.model(f'{NET} function octep fault {fault}') as other:
                device = {'dev': f'mgmtdev {other.functions[0]}'}
                outcome = conformance(device, '--loopback=yes', *cases('queue_enable_moves'))
                self.assertEqual(list(outcome.named('fail')), [case], outcome.text())
                self.assertRegex(outcome.cases[case][1], reason)
                self.assertLess(outcome.seconds, SECONDS)
                other.call('model.fault', name='m0', fault='none')
                self.works(device)

    def test_works_slowly(self):
        for fault in self.WORKS:
            with self.subTest(fault), tc.model(f'{NET} function octep delay_ms 5 fault {fault}') as other:
                self.works({'dev': f'mgmtdev {other.functions[0]}'})

    def test_slower_than_the_time_out(self):
        for fault, (case, reason) in (('selector_late', self.NAMED['selector_never']),
                                      ('mailbox_late', self.NAMED['mailbox_never'])):
            with self.subTest(fault), tc.model(f'{NET} function octep delay_ms 5000 fault {fault}') as other:
                outcome = conformance({'dev': f'mgmtdev vfio-user/{other.paths[0]} timeout_ms 300'},
                                      '--loopback=yes', *cases('queue_enable_moves'))
                self.assertEqual(list(outcome.named('fail')), [case], outcome.text())
                self.assertRegex(outcome.cases[case][1], reason)
                self.assertLess(outcome.seconds, SECONDS)

    def test_at_run_time(self):
        """The daemon names it; the device next to it goes on, and this one once the fault is gone."""
        with tc.model(f'{NET} function octep', f'{NET} function octep') as other, \
                tc.daemon(*other.functions) as app:
            devices = [{'socket': app.socket(name)} for name in ('d0', 'd1')]
            for fault in ('selector_never', 'mailbox_never', 'mailbox_error'):
                with self.subTest(fault):
                    start = len(app.err.lines)
                    other.call('model.fault', name='m0', fault=fault)
                    outcome = conformance(devices[0], '--loopback=yes', *cases('queue_enable_moves'))
                    self.assertEqual(len(outcome.named('fail')), 1, outcome.text())
                    self.assertLess(outcome.seconds, SECONDS)
                    app.err.wait(f'd0: .*{self.NAMED[fault][1]}', start)
                    self.works(devices[1])
                    other.call('model.fault', name='m0', fault='none')
                    self.works(devices[0])
            self.assertNotIn('d1:', app.err.text())


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main()
