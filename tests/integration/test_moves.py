#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A guest moves from one daemon to another while its frames and blocks move, as a front end does it.

The source logs (LOG_ALL) what it writes while the memory is copied, round by round; the queues stop and
go on at the destination, on the copy, which must be the same byte by byte. Between devices of any kind:
by the device's log or by shadows on either end, with packed rings of the guest on split ones too.
"""

import contextlib
import os
import random
import tempfile
import threading
import time
import unittest

import harness
import vhost_user_client as vu
from moving_host import IMAGE, RING_PACKED, RING_RESET, Host, without
from numbered_guest import Memory
from test_shadow import guest_of

MOVES = harness.count(2, 20)
CANCELS = harness.count(3, 10)
SEED = int(os.environ.get('UVDPA_TEST_SEED', '0')) or random.SystemRandom().randrange(1, 1 << 32)


@contextlib.contextmanager
def traffic(guest):
    """The guest goes on meanwhile."""
    enough, failure = threading.Event(), []

    def run():
        try:
            while not enough.is_set():
                guest.work()
                time.sleep(0.0005)
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
    if failure:
        raise failure[0]


SIM, PLAIN, RESETS_NONE, SHADOW, SPLIT_ONLY, IFCVF, LOGGED = (
    ('', lambda kind: '', ''),
    ('virtio', lambda kind: '', ''),
    ('virtio', lambda kind: without(kind, RING_RESET), ''),
    ('virtio', lambda kind: '', 'migration shadow'),
    ('virtio', lambda kind: without(kind, RING_PACKED | RING_RESET), 'migration shadow'),
    ('ifcvf', lambda kind: '', ''),
    ('virtio', lambda kind: 'dma_logging on', ''),
)


@contextlib.contextmanager
def image():
    """A disk that both ends have."""
    with tempfile.NamedTemporaryFile(prefix='uvdpa-test.') as disk:
        disk.truncate(IMAGE)
        yield disk.name


def host_of(kind, what, disk=None):
    function, device, app = what
    return Host({kind: (kind, device(kind), app)}, function, disk)


BOTH = 'net', 'file'


class Mover(unittest.TestCase):
    def precopy(self, guest, memory):
        """All pages, then those that were written meanwhile."""
        with traffic(guest):
            guest.log_on()
            guest.memory.own = set(range(guest.memory.size // 4096))
            for _ in range(3):
                guest.copy_pages(memory, guest.take_dirty())
                time.sleep(0.01)


class Moves(Mover):
    def move(self, guest, to, name):
        memory = Memory(guest.memory.size)
        self.precopy(guest, memory)
        guest.stop()
        last = guest.take_dirty()
        guest.copy_pages(memory, last)
        now = guest.memory.map[:]
        pages = [hex(at // 4096) for at in range(0, len(now), 4096)
                 if now[at:at + 4096] != memory.map[at:at + 4096]]
        self.assertEqual(pages, [], 'pages are missed')
        guest.disconnect()
        guest.move_to(memory)
        guest.connect(to.socket(name)).start()
        return len(last)

    def check(self, kinds, packed, one, other):
        for kind in kinds:
            with self.subTest(kind=kind, packed=packed), image() as disk, \
                    host_of(kind, one, disk) as a, host_of(kind, other, disk) as b:
                hosts, rng = [a, b], random.Random(f'{SEED} {kind} {packed}')
                with guest_of(a, kind, kind, packed, rng) as guest:
                    if kind == 'net':
                        guest.dropped = lambda: sum(h.dropped(kind) for h in (a, b))
                    guest.connect(a.socket(kind)).start()
                    last = 0
                    for move in range(MOVES):
                        guest.work(rng.random() * 0.01)
                        last += self.move(guest, hosts[1 - move % 2], kind)
                        if rng.random() < 0.5:
                            guest.settle()
                    guest.work(0.01)
                    guest.settle()
                    if kind != 'net':
                        guest.read_back()
                    both = [h.counters(kind) for h in hosts]
                    guest.check({key: both[0][key] + both[1][key] for key in both[0].keys() & both[1]})
                for h in hosts:
                    self.assertNotRegex(h.app.err.text(), 'fail|refused|error')
                print(f'{self.id()}: {kind}, {"packed" if packed else "split"}: seed {SEED}: {MOVES} moves, '
                      f'{guest.cut} chains not back at the stops, {last} pages last; {guest.account()}', flush=True)

    def test_software_and_functions(self):
        self.check(BOTH, False, SIM, PLAIN)
        self.check(BOTH, True, SIM, SHADOW)

    def test_functions_with_and_without_a_log(self):
        self.check(BOTH, False, IFCVF, RESETS_NONE)
        self.check(BOTH, False, SHADOW, IFCVF)
        self.check(BOTH, False, LOGGED, IFCVF)

    def test_packed_rings_on_a_device_without_them(self):
        self.check(BOTH, True, SPLIT_ONLY, SIM)
        self.check(BOTH, True, SPLIT_ONLY, SHADOW)


class Cancelled(Mover):
    """LOG_ALL is cleared again half-way, and the guest goes on where it was."""

    def cancel(self, kind, what, packed=False, direct=True):
        with self.subTest(kind=kind, packed=packed), host_of(kind, what) as host:
            rng = random.Random(f'{SEED} {kind} {packed}')
            with guest_of(host, kind, kind, packed, rng) as guest:
                guest.connect(host.socket(kind)).start()
                for _ in range(CANCELS):
                    self.precopy(guest, Memory(guest.memory.size))
                    with traffic(guest):
                        guest.log_off()
                        time.sleep(0.01)
                    if direct:
                        self.assertEqual(host.paths(kind), {})
                guest.settle()
                if kind != 'net':
                    guest.read_back()
                guest.check(host.counters(kind))
            self.assertNotRegex(host.app.err.text(), 'fail|refused|error')
            print(f'{self.id()}: {kind}, {"packed" if packed else "split"}: seed {SEED}: {CANCELS} times; '
                  f'{guest.account()}', flush=True)

    def test_devices_that_load_places_are_direct_again(self):
        for kind in 'net', 'ram', 'file':
            for packed in False, True:
                self.cancel(kind, SIM, packed)
            self.cancel(kind, IFCVF)
            self.cancel(kind, LOGGED)

    def test_plain_functions_go_on(self):
        for kind in 'net', 'ram', 'file':
            for what in PLAIN, RESETS_NONE, SHADOW:
                self.cancel(kind, what, direct=False)
            self.cancel(kind, SHADOW, True, direct=False)



class Broken(Mover):
    def test_a_log_too_small_for_the_memory_is_refused(self):
        for what in SIM, PLAIN, IFCVF:
            with self.subTest(what=what[0]), host_of('net', what) as host:
                with guest_of(host, 'net', 'net', False, random.Random(SEED)) as guest:
                    guest.connect(host.socket('net')).start()
                    guest.work(0.01)
                    self.assertRaises((AssertionError, vu.Closed), guest.log_on, 8)
                    host.app.err.wait('net.*log')
                # The next front end has the device.
                with guest_of(host, 'net', 'net', False, random.Random(SEED)) as guest:
                    before = host.dropped('net')
                    guest.dropped = lambda: host.dropped('net') - before
                    guest.connect(host.socket('net')).start().work(0.01)
                    guest.settle()

    def test_a_device_that_dies_within_the_change_costs_itself_alone(self):
        for what in PLAIN, RESETS_NONE, SHADOW, IFCVF:
            with self.subTest(what=what[0], words=what[2]), host_of('net', what) as host:
                with guest_of(host, 'net', 'net', False, random.Random(SEED)) as guest:
                    guest.dropped = lambda: 0
                    guest.connect(host.socket('net')).start()
                    guest.work(0.01)
                    killer = threading.Timer(random.random() * 0.004, host.model.process.kill)
                    killer.start()
                    end = time.monotonic() + harness.TIMEOUT
                    with contextlib.suppress(AssertionError, vu.Closed):
                        while time.monotonic() < end and not guest.has_failed():
                            guest.log_on()
                            guest.log_off()
                    killer.join()
                    self.assertTrue(vu.wait_until(guest.has_failed), 'the front end hears of nothing')
                    host.model.process.wait()
                    host.model.process.returncode = 0
                    host.app.err.wait('net')
                self.assertIsNone(host.app.process.poll())
                self.assertEqual(host.app.show('net')['mgmtdev'][:9], 'vfio-user')
                print(f'{self.id()}: {host.app.err.text()}', flush=True)


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main()
