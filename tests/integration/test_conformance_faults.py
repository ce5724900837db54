#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""test-vdpa on a device that is broken: the case that names each fault, in a bounded time.

Every fault of vdpa-model, once from the start and in test-vdpa's own process, once at run time and
through the daemon. A second device next to the broken one is not touched by it, and the broken one
works again when its fault is gone.
"""

import os
import unittest

import harness
from conformance_tool import cases, conformance

MODEL = os.environ.get('UVDPA_MODEL', 'vdpa-model')

# Fault: the case that fails, and what its reason says.
NAMED = {
    'queue_never_enables': ('queue_enable', r'does not enable queue 0'),
    'reset_never_completes': ('reset_completes', r'it took \d+ ms|does not reset'),
    'needs_reset': ('needs_reset', r'needs a reset|NEEDS_RESET'),
    'all_ones': ('open', r'all ones'),
    'truncated_reply': ('open', r'do not end with a NUL|truncated|bytes'),
    'delayed_reply': ('open', r'late'),
    'no_reply': ('open', r'no answer in \d+ ms'),
    'wrong_used_index': ('split_used_ring', r'beyond what was taken'),
    'spurious_interrupts': ('spurious_interrupts', r'spurious interrupts'),
    'lost_interrupts': ('split_interrupts', r'no interrupt came'),
    'disconnect': ('queue_enable', r'hung up'),
    'features_refused': ('open', r'refuses the features'),
    'unstable_generation': ('config_stable', r'keeps changing'),
    'bad_capability': ('open', r'outside of BAR'),
    'small_bar': ('open', r'outside of BAR'),
}
# A device may refuse vectors (virtio 1.2, 4.1.4.3): it works by its interrupt line.
TOLERATED = {'no_vector'}
# Of the function octep, without effect on this one.
OF_OCTEP = {'wrong_signature', 'selector_never', 'selector_late', 'mailbox_never', 'mailbox_late', 'mailbox_error',
            'flag_stuck'}

# By the daemon, at run time. What fails a start says no more to a front end than NEEDS_RESET; the
# daemon's log has the cause: a pattern of a line about the device.
AT_RUN_TIME = {
    'queue_never_enables': ('queue_enable', r'NEEDS_RESET', r'does not enable queue 0'),
    'needs_reset': ('needs_reset', r'NEEDS_RESET|failed', r'needs a reset'),
    'all_ones': ('queue_enable_moves', r'NEEDS_RESET|closed|ended|refuses', r'all ones|answer'),
    'no_reply': ('queue_enable_moves', r'NEEDS_RESET|closed|ended|refuses|failed', r'no answer'),
    'truncated_reply': ('queue_enable_moves', r'NEEDS_RESET|closed|ended|refuses|failed', r'bytes'),
    'disconnect': ('queue_enable_moves', r'NEEDS_RESET|closed|ended|refuses|failed', r'hung up'),
    'features_refused': ('queue_enable_moves', r'NEEDS_RESET', r'refuses the features'),
    'wrong_used_index': ('split_used_ring', r'beyond what was taken', None),
    'spurious_interrupts': ('spurious_interrupts', r'spurious interrupts', None),
    'lost_interrupts': ('split_interrupts', r'no interrupt came', None),
}
# The function is gone for good: only plugging it in again helps.
GONE = {'all_ones', 'no_reply', 'truncated_reply', 'disconnect'}

# What a healthy device shows in little time.
HEALTHY = cases('identity', 'queue_enable_moves', 'split_used_ring', 'split_interrupts')
SECONDS = 60.0


class Model(harness.Daemon):
    def __init__(self, words=''):
        super().__init__([f'name m0 mgmtdev sim_net max_vqp 2 vfio_user {{dir}}/m0.vfu {words}',
                          'name m1 mgmtdev sim_net max_vqp 2 vfio_user {dir}/m1.vfu'], app=MODEL)

    def function(self, name):
        return f'vfio-user/{self.dir}/{name}.vfu'

    def dev(self, name):
        return {'dev': f'mgmtdev {self.function(name)}'}

    def fault(self, fault):
        got = self.ask(f'/model/fault,m0,{fault}')
        assert got == {'result': 'ok'}, got


class Faults(unittest.TestCase):
    def works(self, device, what):
        outcome = conformance(device, '--loopback=yes', *HEALTHY)
        self.assertEqual(outcome.code, 0, f'{what}: {outcome.text()}')

    def named(self, outcome, case, reason):
        self.assertEqual(outcome.code, 1, outcome.text())
        self.assertEqual(outcome.cases.get(case, ('none',))[0], 'fail', outcome.text())
        self.assertRegex(outcome.cases[case][1], reason)
        self.assertLess(outcome.seconds, SECONDS)


class FromTheStart(Faults):
    def test_the_table_has_every_fault(self):
        with Model() as model:
            self.assertEqual(set(model.ask('/model/faults')), set(NAMED) | TOLERATED | OF_OCTEP)

    def test_refused_vectors_are_tolerated(self):
        with Model('fault no_vector') as model:
            self.works(model.dev('m0'), 'without vectors')


def from_the_start(fault, case, reason):
    def test(self):
        with Model(f'fault {fault}') as model:
            wanted = cases('identity') if case == 'open' else cases(case)
            self.named(conformance(model.dev('m0'), '--loopback=yes', *wanted), case, reason)
            self.works(model.dev('m1'), 'the device next to it')
            model.fault('none')
            self.works(model.dev('m0'), 'the device without its fault')
    return test


class AtRunTime(Faults):
    pass


def at_run_time(fault, case, reason, logged):
    def test(self):
        with Model() as model:
            words = [f'name d{i} mgmtdev {model.function(f"m{i}")} socket {{dir}}/d{i}.sock'
                     for i in range(2)]
            with harness.Daemon(words) as app:
                self.works({'socket': app.socket('d0')}, 'before the fault')
                model.fault(fault)
                outcome = conformance({'socket': app.socket('d0')}, '--loopback=yes', *cases(case))
                if 'open' in outcome.named('fail'):
                    self.named(outcome, 'open', '.*')
                else:
                    self.named(outcome, case, reason)
                if logged is not None:
                    app.err.wait(f'd0: .*({logged})')
                self.works({'socket': app.socket('d1')}, 'the device next to it')
                self.assertNotIn('d1:', app.err.text())
                if fault in GONE:
                    self.assertEqual(app.show('d0')['state'], 'failed')
                    return
                model.fault('none')
                self.works({'socket': app.socket('d0')}, 'the device without its fault')
            # Plugged in again.
        with Model() as model, harness.Daemon(
                [f'name d0 mgmtdev {model.function("m0")} socket {{dir}}/d0.sock']) as app:
            self.works({'socket': app.socket('d0')}, 'the device plugged in again')
    return test


for name, row in NAMED.items():
    setattr(FromTheStart, f'test_{name}', from_the_start(name, *row))
for name, row in AT_RUN_TIME.items():
    setattr(AtRunTime, f'test_{name}', at_run_time(name, *row))


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main()
