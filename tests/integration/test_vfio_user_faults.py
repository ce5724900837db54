# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""A function that fails costs its device, says why in time, and works again afterwards.

The daemon has two devices, each on a vdpa-model of its own. One model gets a fault; the other's
device passes frames all the while.
"""

import concurrent.futures
import contextlib
import os
import signal
import time
import unittest

import harness
import vhost_user_client as vhost
from test_vfio_user import daemon, model

TIMEOUT_MS = 300
# Of the daemon: what waits takes its time-out a few times; the rest is a busy machine's.
BOUND_S = 5.0

# At the start of a session: the fault and what the daemon says.
STARTS = {
    'queue_never_enables': 'queue 0: .*the device does not enable queue 0',
    'features_refused': 'the device refuses the features',
    'needs_reset': 'the device says that it needs a reset',
}
# In which the connection is lost, at the next register that is read.
LOSSES = {
    'all_ones': 'the device is gone',
    'truncated_reply': 'a reply with',
    'delayed_reply': f'no answer in {TIMEOUT_MS} ms',
    'no_reply': f'no answer in {TIMEOUT_MS} ms',
    'disconnect': 'the server hung up',
}
# In which no device comes of it.
OPENINGS = {
    'all_ones': 'does not answer',
    'truncated_reply': 'VERSION',
    'delayed_reply': f'VERSION: no answer in {TIMEOUT_MS} ms',
    'no_reply': f'VERSION: no answer in {TIMEOUT_MS} ms',
    'bad_capability': 'common configuration capability at 0x.. points outside of BAR 4',
    'small_bar': 'device configuration capability at 0x.. points outside of BAR 4',
}


def set_fault(other, fault):
    other.call('model.fault', name='m0', fault=fault)


class Faults(unittest.TestCase):
    def setUp(self):
        with contextlib.ExitStack() as stack:
            self.models = [stack.enter_context(model()) for _ in range(2)]
            self.app = stack.enter_context(daemon(*(m.path for m in self.models),
                                                  words=f'timeout_ms {TIMEOUT_MS}'))
            self.other = stack.enter_context(vhost.NetDriver(self.app.socket('v1')).start())
            self.other.exchange()
            self.addCleanup(stack.pop_all().close)

    def session(self):
        return vhost.NetDriver(self.app.socket('v0'))

    def wait_failed(self, began, pattern):
        """It fails within the bound, says why, and the other device never noticed."""
        while self.app.show('v0')['state'] != 'failed':
            self.assertLess(harness.running() - began, BOUND_S)
            self.other.exchange()
        self.app.err.wait(f'v0: .*{pattern}')
        self.other.exchange()
        self.assertEqual(self.app.show('v1')['state'], 'running')

    def test_a_start_that_fails_can_be_repeated(self):
        for fault, pattern in STARTS.items():
            with self.subTest(fault):
                set_fault(self.models[0], fault)
                began = harness.running()
                with contextlib.suppress(AssertionError, vhost.Closed, OSError), \
                        self.session() as net:
                    net.start()
                self.wait_failed(began, pattern)
                set_fault(self.models[0], 'none')
                with self.session().start() as net:
                    net.exchange()

    def test_a_device_that_needs_a_reset_gets_one(self):
        with self.session().start() as net:
            net.exchange()
            began = harness.running()
            set_fault(self.models[0], 'needs_reset')
            self.wait_failed(began, 'the device says that it needs a reset')
        set_fault(self.models[0], 'none')
        with self.session().start() as net:
            net.exchange()

    def test_a_device_that_does_not_reset_fails_in_time(self):
        with self.session().start() as net:
            net.exchange()
            set_fault(self.models[0], 'reset_never_completes')
            began = harness.running()
            with contextlib.suppress(vhost.Closed, OSError):
                net.stop()
            self.app.err.wait(f'does not reset queue 0 within {TIMEOUT_MS} ms')
        self.assertLess(harness.running() - began, BOUND_S)
        self.other.exchange()
        set_fault(self.models[0], 'none')
        with self.session().start() as net:
            net.exchange()

    def lose(self, fault, pattern):
        with self.session().start() as net:
            net.exchange()
            set_fault(self.models[0], fault)
            began = harness.running()
            with contextlib.suppress(vhost.Closed, OSError):
                net.stop()
            self.wait_failed(began, pattern)
        # It stays lost: nobody can connect to it any more, and the log says why.
        began = harness.running()
        for _ in range(2):
            with self.assertRaises((AssertionError, vhost.Closed, OSError)), \
                    self.session() as net:
                net.start()
        self.app.err.wait(f'v0: .*connections to .*/v0.sock are refused: .*{pattern}')
        self.wait_failed(began, pattern)
        self.assertLess(harness.running() - began, BOUND_S)

        # The function itself is well: a device made anew works.
        set_fault(self.models[0], 'none')
        self.app.stop()
        with daemon(self.models[0].path) as again, \
                vhost.NetDriver(again.socket('v0')).start() as net:
            net.exchange()

    def test_a_failed_device_that_dies_is_gone(self):
        """What it failed of first is told beside what became of it."""
        with self.session().start() as net:
            net.exchange()
            began = harness.running()
            set_fault(self.models[0], 'needs_reset')
            self.wait_failed(began, 'the device says that it needs a reset')
            self.models[0].stop()
            self.app.err.wait('v0: .*the device is gone')
        shown = self.app.show('v0')
        failure = ''.join(shown[key] for key in sorted(shown) if key.startswith('failure'))
        self.assertRegex(failure, 'hung up .*; before that: .*needs a reset')
        with self.assertRaises((AssertionError, vhost.Closed, OSError)), self.session() as net:
            net.start()
        self.app.err.wait('v0: .*connections to .*/v0.sock are refused: .*hung up')

    def test_a_server_that_is_stopped_is_shown_as_it_was(self):
        """Whoever looks asks no device: it would time out, and fail of having been looked at."""
        with self.session().start() as net:
            net.exchange()
            os.kill(self.models[0].pid, signal.SIGSTOP)
            try:
                for _ in range(20):
                    self.assertEqual(self.app.show('v0')['state'], 'running')
                    self.assertEqual(self.app.ask('/vdpa/dev/list'), ['v0', 'v1'])
                    self.app.add('name a mgmtdev sim_net')
                    self.app.delete('a')
                time.sleep(2 * TIMEOUT_MS / 1000)
                self.assertEqual(self.app.show('v0')['state'], 'running')
            finally:
                os.kill(self.models[0].pid, signal.SIGCONT)
            net.exchange()
            # What changes is shown, and nobody has to ask the device for it.
            self.assertEqual(self.app.show('v0')['link'], 'up')
            self.models[0].set('m0', 'link down')
            harness.wait_for(lambda: self.app.show('v0')['link'] == 'down', 'the link to be shown')

    def test_vectors_are_refused(self):
        set_fault(self.models[0], 'no_vector')
        with self.session().start() as net:
            net.exchange()
            self.app.err.wait('v0: no MSI-X vectors')
            self.assertEqual(self.app.stats('v0')['device']['vectors'], 0)
        set_fault(self.models[0], 'none')
        with self.session().start() as net:
            net.exchange()
            self.assertEqual(self.app.stats('v0')['device']['vectors'], 3)

    def test_spurious_interrupts_reach_only_whom_they_are_for(self):
        set_fault(self.models[0], 'spurious_interrupts')
        with self.session().start() as net:
            for _ in range(20):
                net.exchange()
                self.other.exchange()
            self.assertEqual(self.app.show('v0')['state'], 'running')


for _fault, _pattern in LOSSES.items():
    setattr(Faults, f'test_{_fault}_loses_the_function',
            lambda self, fault=_fault, pattern=_pattern: self.lose(fault, pattern))


class StandsStill(unittest.TestCase):
    # More than the daemon waits for in the test, less than it stands still.
    TIMEOUT_S, STILL_S = 3, 4

    def test_a_machine_that_stands_still_costs_no_device(self):
        """Daemon and server get no CPU for longer than an answer may take, the server a little longer."""
        with model() as other, daemon(other.path, words=f'timeout_ms {self.TIMEOUT_S * 1000}') as app, \
                vhost.NetDriver(app.socket('v0')).start() as net, concurrent.futures.ThreadPoolExecutor(1) as pool:
            net.exchange()
            try:
                os.kill(other.pid, signal.SIGSTOP)
                stop = pool.submit(net.stop)
                time.sleep(0.3)
                os.kill(app.pid, signal.SIGSTOP)
                time.sleep(self.STILL_S)
                os.kill(app.pid, signal.SIGCONT)
                time.sleep(0.3)
            finally:
                for process in app, other:
                    os.kill(process.pid, signal.SIGCONT)
            stop.result()
            self.assertNotEqual(app.show('v0')['state'], 'failed')
            self.assertNotIn('no answer', app.err.text())


class Openings(unittest.TestCase):
    """A function that is wrong from the beginning makes no device."""

    def check(self, fault, pattern):
        with model(f'fault {fault}') as other:
            app = harness.Daemon([f'name v0 mgmtdev {other.path} timeout_ms {TIMEOUT_MS} '
                                  'socket {dir}/v0.sock'])
            began = harness.running()
            with self.assertRaisesRegex(AssertionError, pattern):
                app.start()
            app.cleanup()
            self.assertLess(harness.running() - began, BOUND_S)
            # One line, and the function is free.
            self.assertEqual(len([line for line in app.err.lines if line]), 1, app.err.text())


for _fault, _pattern in OPENINGS.items():
    setattr(Openings, f'test_{_fault}',
            lambda self, fault=_fault, pattern=_pattern: self.check(fault, pattern))


if __name__ == '__main__':
    unittest.main(verbosity=2)
