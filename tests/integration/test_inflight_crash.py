#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""`inflight on`: block requests on a virtio function survive kill -9 of the daemon.

The model goes on, the daemon is started anew on the same sockets, and each guest's front end comes
back with the inflight area, as QEMU does: it says of a split ring where the used ring stands, and of a
packed one nothing new. Every request comes back once, in order where that was negotiated, and what was
written is read back. Without the word, a function has its queues and its doorbells to itself.
"""

import collections
import os
import random
import select
import struct
import time
import unittest

import harness
import test_doorbell
import vhost_user_client as vu
from moving_host import Host
from numbered_guest import PROTOCOL, BlockGuest

KILLS = harness.count(5, 100)
AT_LEAST = 8  # requests in flight at a kill that counts
SEED = int(os.environ.get('UVDPA_TEST_SEED', '0')) or random.SystemRandom().randrange(1, 1 << 32)
F_IN_ORDER = 1 << 35


class Survivor(BlockGuest):
    """A guest whose front end has an inflight area."""

    def __init__(self, rng, packed, in_order):
        super().__init__(rng, packed)
        self.features |= F_IN_ORDER if in_order else 0
        self.order = {q.index: collections.deque() for q in self.queues} if in_order else None
        self.area, self.fds = None, []
        self.kills = self.survived = 0

    def close(self):
        super().close()
        for fd in self.fds:
            os.close(fd)

    def connect(self, path):
        self.client = vu.Client(path)
        self.client.negotiate(self.features, PROTOCOL | vu.P_INFLIGHT)
        if self.area is None:
            num = max(q.num for q in self.queues)
            self.area = self.client.ask(
                vu.GET_INFLIGHT_FD, struct.pack('<QQHHI', 0, 0, len(self.queues), num, 0), self.fds)
        assert self.client.ack(vu.SET_INFLIGHT_FD, self.area, self.fds) == 0
        return self

    def under_way(self):
        """Requests that the area has in flight."""
        size, offset, n, _ = struct.unpack_from('<QQHH', self.area)
        data = os.pread(self.fds[0], size, offset)
        head, entry = (32, 32) if self.packed else (16, 16)
        stride = size // n
        return sum(data[stride * q.index + head + entry * i] for q in self.queues for i in range(q.num))

    def killed(self):
        """The daemon is no more: where the rings stand."""
        self.disconnect()
        if not self.packed:
            for q in self.queues:
                q.place = self.memory.u16(q.device + 2)
        under_way = self.under_way()
        self.kills += under_way >= AT_LEAST
        self.survived += under_way

    def request(self, q, kind, region):
        if self.order:
            self.order[q.index].append(q.slots[0])
        super().request(q, kind, region)

    def reap(self):
        if not self.order:
            return super().reap()
        # A slot that comes back goes to the end.
        before = {q.index: len(q.slots) for q in self.queues}
        super().reap()
        for q in self.queues:
            for slot in list(q.slots)[before[q.index]:]:
                first = self.order[q.index].popleft()
                assert slot == first, f'queue {q.index}: slot {slot} comes back before {first}'
        return None

    def check(self, counters):
        """Settled: the device had each request, some more than once."""
        assert self.sent == self.reads + self.writes, self.account()
        assert counters['reads'] >= self.reads and counters['writes'] >= self.writes, counters
        assert self.under_way() == 0


class Crash(unittest.TestCase):
    def crashes(self, **kinds):
        """kinds: name -> kind of device, its words, the daemon's, packed, in order."""
        devices = {name: (kind, sim, f'inflight on {app}') for name, (kind, sim, app, _, _) in kinds.items()}
        rng = random.Random(f'{SEED} {sorted(kinds)}')
        with Host(devices, 'virtio') as host:
            guests = {name: host.enter_context(Survivor(random.Random(rng.random()), packed, in_order))
                      for name, (_, _, _, packed, in_order) in kinds.items()}
            kills = 0
            while min(guest.kills for guest in guests.values()) < KILLS:
                self.assertLess(kills, 3 * KILLS, 'requests are not in flight when the daemon is killed')
                for name, guest in guests.items():
                    guest.connect(host.socket(name)).start()
                    self.assertEqual({path['path'] for path in host.app.stats(name)['queues'].values()},
                                     {'shadow (inflight)'})
                end = time.monotonic() + 0.05 + rng.random() * 0.2
                while time.monotonic() < end:
                    for guest in guests.values():
                        guest.work()
                for guest in guests.values():
                    while guest.under_way() < AT_LEAST and time.monotonic() < end + 1:
                        guest.work()
                host.app.kill()
                kills += 1
                for guest in guests.values():
                    guest.killed()
                host.app.start()
            for name, guest in guests.items():
                guest.connect(host.socket(name)).start().settle()
                guest.read_back()
                guest.check(host.counters(name))
                harness.figure(f'{name}: seed {SEED}: {kills} kills of the daemon, {guest.kills} of them with '
                               f'{AT_LEAST} requests in flight or more, {guest.survived} survived; '
                               f'{guest.account()}')

    def test_requests_survive(self):
        self.crashes(ram_split=('ram', 'delay_ms 15', '', False, False),
                     ram_packed_in_order=('ram', 'delay_ms 15', '', True, True),
                     file_split=('file', 'delay_ms 15', '', False, False))

    def test_requests_survive_in_other_rings(self):
        self.crashes(ram_split_in_order=('ram', 'delay_ms 15', '', False, True),
                     ram_packed=('ram', 'delay_ms 15', '', True, False),
                     file_packed_in_order=('file', 'delay_ms 15', 'migration shadow', True, True))

    def test_a_call_that_dies_with_the_daemon_comes_again(self):
        """It was killed between the used ring and the signal: nothing else will wake the guest."""
        for packed in False, True:
            with self.subTest(packed=packed), Host({'disk': ('ram', '', 'inflight on')}, 'virtio') as host, \
                    Survivor(random.Random(SEED), packed, False) as guest:
                guest.connect(host.socket('disk')).start()
                for q in guest.feed():
                    q.kick()
                harness.wait_for(lambda: host.counters('disk')['reads'] + host.counters('disk')['writes'] ==
                                 guest.sent and guest.under_way() == 0, 'the requests')
                host.app.kill()
                for fd in guest.call_fds:
                    os.eventfd_read(fd)
                guest.killed()
                host.app.start()
                guest.connect(host.socket('disk')).start()
                for fd in guest.call_fds:
                    self.assertTrue(select.select([fd], [], [], harness.TIMEOUT)[0], 'no call')
                guest.reap()
                self.assertEqual(guest.waits(), 0)


class Default(unittest.TestCase):
    def test_a_function_has_its_queues_and_doorbells_to_itself(self):
        for words in '', 'inflight auto', 'inflight off':
            with self.subTest(words), test_doorbell.model() as other, \
                    test_doorbell.daemon(other.path, words=words) as app, \
                    test_doorbell.Driver(app.socket('v0')) as net:
                self.assertFalse(net.client.ask_u64(vu.GET_PROTOCOL_FEATURES) &
                                 (vu.P_INFLIGHT | vu.P_BASE_INFLIGHT | vu.P_SKIP_DRAIN))
                net.start().map_doorbells()
                net.exchange()
                self.assertEqual(test_doorbell.paths(app), ['direct', 'direct'])
                self.assertIn('2 doorbells given', app.show('v0')['frontend_info'])

    def test_a_block_function_offers_no_area_unless_asked(self):
        for words, offered in ('', 0), ('inflight on', vu.P_INFLIGHT):
            with self.subTest(words), Host({'disk': ('ram', '', words)}, 'virtio') as host, \
                    vu.Client(host.socket('disk')) as client:
                self.assertEqual(client.ask_u64(vu.GET_PROTOCOL_FEATURES) & vu.P_INFLIGHT, offered)


if __name__ == '__main__':
    unittest.main(verbosity=2)
