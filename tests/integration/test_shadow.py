#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Stop and continue under traffic, on every kind of device: nothing is lost, nothing comes twice.

A front end asks where each queue stands (GET_VRING_BASE), in any order, with buffers in flight, and
starts it there again (SET_VRING_BASE). What can begin at the beginning of a ring only goes on on
shadow virtqueues. The counters of the device that executes the rings must agree with the guest's.
"""

import os
import random
import unittest

import harness
import vhost_user_client as vu
from moving_host import RING_PACKED, RING_RESET, Host, without
from numbered_guest import BlockGuest, NetGuest
from restarting import KeptBlock

STOPS = harness.count(4, 50)
SEED = int(os.environ.get('UVDPA_TEST_SEED', '0')) or random.SystemRandom().randrange(1, 1 << 32)


def guest_of(host, name, kind, packed, rng):
    """A guest for a host's device."""
    if kind == 'net':
        return NetGuest(rng, packed, lambda: host.dropped(name))
    return BlockGuest(rng, packed)


class Stops(unittest.TestCase):
    def stops(self, host, name, packed, on_shadows):
        """on_shadows: whether the queues run on shadows from the start, after the first stop
        ('later'), or never."""
        kind = host.devices[name][0]
        rng = random.Random(f'{SEED} {name} {packed}')
        with guest_of(host, name, kind, packed, rng) as guest:
            guest.connect(host.socket(name)).start()
            for stop in range(STOPS):
                guest.work(rng.random() * 0.02)
                self.assertEqual(bool(host.paths(name)),
                                 on_shadows is True or on_shadows == 'later' and stop > 0)
                guest.stop()
                if rng.random() < 0.5:
                    # What the guest does meanwhile is seen without a kick.
                    guest.feed()
                guest.start()
                if rng.random() < 0.5:
                    guest.settle()
            guest.settle()
            if kind != 'net':
                guest.read_back()
            guest.check(host.counters(name))
            self.assertGreater(guest.open, guest.stops)
        print(f'{self.id()}: {name}, {"packed" if packed else "split"}: seed {SEED}: {guest.stops} stops, '
              f'{guest.open} chains under way, {guest.cut} not back at the stop; {guest.account()}',
              flush=True)
        return guest

    def check(self, devices, model, *, packed, on_shadows):
        """devices: words of the simulated device and of the daemon's for each, by name."""
        for kind in 'net', 'ram', 'file':
            for p in packed:
                with self.subTest(kind=kind, packed=p), \
                        Host({kind: (kind, devices(kind), self.app_words)}, model) as host:
                    self.stops(host, kind, p, on_shadows)
                    self.assertNotRegex(host.app.err.text(), 'fail|refused|error|ERR')
                    if not on_shadows:
                        self.assertNotIn('shadow', host.app.err.text())

    app_words = ''

    def test_software_that_loads_places(self):
        self.check(lambda kind: '', '', packed=(False, True), on_shadows=False)

    def test_plain_function(self):
        self.check(lambda kind: '', 'virtio', packed=(False,), on_shadows='later')

    def test_plain_function_without_ring_reset(self):
        self.check(lambda kind: without(kind, RING_RESET), 'virtio', packed=(False,), on_shadows='later')

    def test_function_that_loads_places(self):
        self.check(lambda kind: '', 'ifcvf', packed=(False,), on_shadows=False)
        self.check(lambda kind: '', 'octep', packed=(False, True), on_shadows=False)


class StopsOnShadows(Stops):
    """The word `migration shadow`."""

    app_words = 'migration shadow'

    def test_software_that_loads_places(self):
        self.check(lambda kind: '', '', packed=(False, True), on_shadows=True)

    def test_plain_function(self):
        self.check(lambda kind: '', 'virtio', packed=(False, True), on_shadows=True)

    def test_plain_function_without_ring_reset(self):
        self.check(lambda kind: without(kind, RING_RESET), 'virtio', packed=(False, True), on_shadows=True)

    def test_function_that_loads_places(self):
        self.check(lambda kind: '', 'ifcvf', packed=(False, True), on_shadows=True)

    def test_function_without_packed_rings(self):
        self.check(lambda kind: without(kind, RING_PACKED | RING_RESET), 'virtio', packed=(True,), on_shadows=True)


class PackedDisk(unittest.TestCase):
    """A packed ring says nothing of requests under way, nor does a plain function: somebody else has to."""

    def serve(self, words):
        return Host({'file': ('file', 'delay_ms 20', words)}, 'virtio')

    def cut(self, guest):
        """Stop it with requests under way."""
        while not guest.cut:
            guest.work(0.05)
            guest.stop()
            if not guest.cut:
                guest.start()

    def test_without_account_it_begins_anew_only(self):
        rng = random.Random(SEED)
        with self.serve('') as host, BlockGuest(rng, True) as guest, BlockGuest(rng, True) as again:
            guest.connect(host.socket('file')).start()
            self.cut(guest)
            guest.start()
            harness.wait_for(guest.has_failed, 'the error eventfd')
            harness.wait_for(lambda: host.app.show('file')['state'] == 'failed', 'the failure')
            with host.app.control() as client:
                shown = client.show('file')
            # What has happened, and what helps, in the log too.
            for what in 'stopped with buffers in flight', 'begin anew only', '`migration shadow`', '`inflight on`':
                self.assertIn(what, shown['failure'])
            host.app.err.wait('begin anew only.*`inflight on`')
            # The guest's driver resets it, and it works. What was under way is nobody's any more.
            again.disk, again.busy = guest.disk, set(guest.busy)
            again.client, guest.client = guest.client, None
            self.assertEqual(again.client.ack(vu.RESET_DEVICE), 0)
            again.start()
            again.work(0.2)
            again.settle()
            self.assertGreater(again.writes, 0)
            self.assertEqual(host.app.show('file')['state'], 'running')

    def test_with_an_inflight_area_it_goes_on(self):
        with self.serve('inflight on') as host, KeptBlock(random.Random(SEED), True) as guest:
            guest.connect(host.socket('file'))
            guest.give_area()
            guest.start()
            for _ in range(2):
                guest.cut = 0
                self.cut(guest)
                guest.start()
            guest.settle()
            guest.read_back()
            guest.check()


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main()
