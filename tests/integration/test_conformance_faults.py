#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""test-vdpa on a device that is broken: the case that names each fault, in a bounded time.

Every fault of vdpa-model, once from the start and in test-vdpa's own process, once at run time and
through the daemon. A second device next to the broken one is not touched by it, and the broken one
works again when its fault is gone.

A virtio function has neither ring places nor a dirty log, and keeps its control queue: the cases of
those are shown on simulated devices that are broken by the word `broken`.
"""

import os
import re
import subprocess
import unittest

import harness
from conformance_tool import Outcome, cases, conformance

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
    'wrong_used_index': ('split_used_ring', r'beyond what was taken|uses what it was not given'),
    'spurious_interrupts': ('spurious_interrupts', r'spurious interrupts'),
    'lost_interrupts': ('split_interrupts', r'no interrupt came'),
    'disconnect': ('queue_enable', r'hung up'),
    'features_refused': ('open', r'refuses the features'),
    'unstable_generation': ('config_stable', r'keeps changing'),
    'bad_capability': ('open', r'outside of BAR'),
    'small_bar': ('open', r'outside of BAR'),
    'suspend_never_completes': ('suspend_split', r'does not suspend within'),
    'suspend_fails': ('suspend_split', r'does not suspend: it needs a reset'),
    'resume_never_completes': ('suspend_split', r'does not resume within'),
}
# A device may refuse vectors (virtio 1.2, 4.1.4.3): it works by its interrupt line.
TOLERATED = {'no_vector'}
# Of the function octep, without effect on this one.
OF_OCTEP = {'wrong_signature', 'selector_never', 'selector_late', 'mailbox_never', 'mailbox_late', 'mailbox_error',
            'flag_stuck'}

# What a front end sees in its own ring: no line of the daemon's says more.
IN_RING = 'beyond what was taken'
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
    # A start that a control queue is used in may be the first to see it.
    'wrong_used_index': ('split_used_ring', rf'{IN_RING}|NEEDS_RESET', r'uses what it was not given'),
    'spurious_interrupts': ('spurious_interrupts', r'spurious interrupts', None),
    'lost_interrupts': ('split_interrupts', r'no interrupt came', None),
}
# The function is gone for good: only plugging it in again helps.
GONE = {'all_ones', 'no_reply', 'truncated_reply', 'disconnect'}

# The word `broken` of simulated devices: the cases that must fail, and what their reasons say.
LOG = ('log_split', 'log_packed', 'log_replaced', 'log_ended', 'log_at_stop')
BROKEN = {
    'place_forgotten': (('split_places', 'packed_places'),
                        r'too far from used index|no progress|not in flight|the device failed'),
    'place_wrong': (('split_places', 'packed_places'), r'it says that it stopped at'),
    'log_misses_buffers': (LOG, r'wrote to its buffers, page 0x[0-9a-f]+, which is not in'),
    'log_misses_rings': (LOG, r'wrote to its ring, page 0x[0-9a-f]+, which is not in'),
    'log_beyond': (LOG, r'is no guest memory'),
    'log_not_replaced': (('log_replaced',), r'which is not in the dirty log, nor comes there'),
    'log_goes_on': (('log_ended',), r'set in the dirty log after its end'),
    'ctrl_ok_always': (('net_control_queue', 'net_control_pairs', 'net_control_mac',
                        'net_control_split', 'net_control_packed'),
                       r'the answer is 0, it must be 1|configuration has the MAC address'),
}

# What a healthy device shows in little time.
HEALTHY = cases('identity', 'queue_enable_moves', 'split_used_ring', 'split_interrupts')
SECONDS = 60.0
# Where a fault shows when what is missing has been waited for.
WAITS = '--timeout-scale=100'


class Model(harness.Daemon):
    def __init__(self, words=''):
        super().__init__([f'name m0 mgmtdev sim_net max_vqp 2 suspend on vfio_user {{dir}}/m0.vfu {words}',
                          'name m1 mgmtdev sim_net max_vqp 2 vfio_user {dir}/m1.vfu'], app=MODEL)

    def function(self, name):
        # Waits that end, but not because a busy machine gives the model no CPU.
        return f'vfio-user/{self.dir}/{name}.vfu timeout_ms 3000'

    def dev(self, name):
        return {'dev': f'mgmtdev {self.function(name)}'}

    def fault(self, fault):
        self.call('model.fault', name='m0', fault=fault)


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
            self.named(conformance(model.dev('m0'), WAITS, '--loopback=yes', *wanted), case, reason)
            self.works(model.dev('m1'), 'the device next to it')
            model.fault('none')
            self.works(model.dev('m0'), 'the device without its fault')
    return test


class Broken(Faults):
    """Simulated devices, in test-vdpa's own process and behind a socket."""

    def fails(self, device, wanted, reason, *options):
        # Most faults show only when what is missing has been waited for.
        outcome = conformance(device, '--timeout-scale=30', *options, *cases(*wanted))
        self.assertEqual(set(outcome.named('fail')), set(wanted), outcome.text())
        for said in outcome.named('fail').values():
            self.assertRegex(said, reason)
        self.assertLess(outcome.seconds, SECONDS)

    def test_the_table_has_every_fault_and_every_such_case(self):
        listed = subprocess.run([harness.APP, '--list'], text=True, capture_output=True,
                                check=True).stdout
        self.assertEqual(set(re.search(r'^ +broken (.*)$', listed, re.M)[1].split(' | ')), set(BROKEN))
        named = {case for wanted, _ in BROKEN.values() for case in wanted}
        every = Outcome(['conformance', '--list']).out
        self.assertEqual(named, set(re.findall(r'^(?:\w+_places|log_\w+|net_control_\w+)', every, re.M)))

    def test_a_device_that_is_not_broken(self):
        named = {case for wanted, _ in BROKEN.values() for case in wanted}
        outcome = conformance({'dev': 'mgmtdev sim_net max_vqp 2'}, '--loopback=yes', *cases(*named))
        self.assertEqual(set(outcome.named('pass')), named | {'open'}, outcome.text())

    def test_behind_a_socket(self):
        for fault in ('place_wrong', 'log_misses_buffers', 'log_misses_rings', 'log_not_replaced'):
            words = [f'name d0 mgmtdev sim_net broken {fault} socket {{dir}}/d0.sock',
                     f'name d1 mgmtdev sim_blk backend ram 16M broken {fault} socket {{dir}}/d1.sock']
            with harness.Daemon(words) as app:
                self.fails({'socket': app.socket('d0')}, *BROKEN[fault], '--loopback=yes')
                self.fails({'socket': app.socket('d1')}, *BROKEN[fault])


def broken(fault, wanted, reason):
    def test(self):
        self.fails({'dev': f'mgmtdev sim_net max_vqp 2 broken {fault}'}, wanted, reason)
        if not fault.startswith('ctrl'):
            self.fails({'dev': f'mgmtdev sim_blk backend ram 16M broken {fault}'}, wanted, reason)
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
                outcome = conformance({'socket': app.socket('d0')}, WAITS, '--loopback=yes', *cases(case))
                if 'open' in outcome.named('fail'):
                    self.named(outcome, 'open', '.*')
                else:
                    self.named(outcome, case, reason)
                if logged is not None and not re.search(IN_RING, outcome.named('fail').get(case, '')):
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
for name, row in BROKEN.items():
    setattr(Broken, f'test_{name}', broken(name, *row))
for name, row in AT_RUN_TIME.items():
    setattr(AtRunTime, f'test_{name}', at_run_time(name, *row))


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main()
