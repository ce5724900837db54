#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""What a guest's driver has set by the control queue of a device goes on over kills and restarts of the daemon: its
address, receive modes, MAC tables, VLANs and pairs. Behind vhost-user, where the front end leaves the control queue
to the device, and behind vfio-user. What is in force is seen by which frames come back from a loopback."""

import contextlib
import itertools
import os
import random
import struct
import threading
import time
import unittest

import harness
import kill_points
import restarting
import test_restart_vfio_user as over_vfio_user
import vhost_user_client as vu
from numbered_guest import PROTOCOL, Guest, Packed, Split
from upgrading import Upgrades
from vhost_user_client import DESC_WRITE

NET = 'mgmtdev sim_net mac 52:54:00:00:00:01 max_vqp 2 backend loopback'
F_CTRL_VLAN, F_CTRL_RX_EXTRA = 1 << 19, 1 << 20
RX, MAC, VLAN, MQ = 0, 1, 2, 4  # classes of commands
OWN = bytes.fromhex('525400000001')
OTHER = bytes.fromhex('5254000000ee')
LISTED = bytes.fromhex('5254000000aa')
GROUP = bytes.fromhex('01005e000001')
ALL = b'\xff' * 6
EARLIER = os.environ.get('UVDPA_APP_EARLIER', '')
SEED = int(os.environ.get('UVDPA_TEST_SEED', '0')) or random.SystemRandom().randrange(1, 1 << 32)


def tables(*addresses):
    """The unicast table of a MAC_TABLE_SET, and none of groups."""
    return struct.pack('<I', len(addresses)) + b''.join(addresses) + struct.pack('<I', 0)


class ControlGuest(Guest):
    """Two pairs and the control queue behind them. sent: commands; acks: of those that came back."""

    FEATURES = (Guest.FEATURES | vu.F_CTRL_VQ | vu.F_CTRL_RX | vu.F_MQ | vu.F_CTRL_MAC_ADDR | F_CTRL_VLAN | F_CTRL_RX_EXTRA)

    def __init__(self, rng, packed=False):
        super().__init__(rng, packed, queues=5)
        self.ctrl = self.queues[4]
        self.places = {q: [self.memory.alloc(2048, 2048) for _ in range(q.n_slots)] for q in self.queues}
        self.pending = {}  # slots of commands
        self.sent, self.acks = 0, []
        self.frames = 0

    # The control queue.

    def send(self, cls, command, data):
        """A command, whose answer is waited for by answers()."""
        slot = self.ctrl.slots[0]
        at = self.places[self.ctrl][slot]
        self.memory.write(at, bytes([cls, command]) + data + b'\xee')
        length = 2 + len(data)
        self.ctrl.add_chain([(at, 2, 0), (at + 2, len(data), 0), (at + length, 1, DESC_WRITE)], False)
        self.pending[slot] = at + length
        self.sent += 1
        self.ctrl.kick()

    def reap_answers(self):
        for slot, length in self.ctrl.reap():  # fails for one that comes back twice
            assert length == 1, length
            self.acks += self.memory.read(self.pending.pop(slot), 1)
        return not self.pending

    def command(self, cls, command, data):
        self.send(cls, command, data)
        harness.wait_for(self.reap_answers, 'the answer to a command', 4 * harness.TIMEOUT)
        assert self.acks[-1] == 0, self.acks[-1]

    # Frames.

    def give_buffers(self):
        for q in self.queues[0], self.queues[2]:
            while q.slots:
                q.add_chain([(self.places[q][q.slots[0]], 2048, DESC_WRITE)], False)
            q.kick()

    def put_frame(self, pair, dst, vlan):
        q = self.queues[2 * pair + 1]
        self.frames += 1
        tag = b'' if vlan is None else struct.pack('>HH', 0x8100, vlan)
        frame = bytes(vu.NET_HDR) + dst + OTHER + tag + b'\x88\xb5' + struct.pack('<Q', self.frames) + bytes(60)
        at = self.places[q][q.slots[0]]
        self.memory.write(at, frame)
        q.add_chain([(at, len(frame), 0)], False)
        return self.frames

    def reap(self):
        """Pair and number of each frame that has come."""
        got = []
        for pair in 0, 1:
            for slot, length in self.queues[2 * pair].reap():
                frame = self.memory.read(self.places[self.queues[2 * pair]][slot], length)[vu.NET_HDR:]
                at = 14 + (4 if frame[12:14] == b'\x81\0' else 0)
                got.append((pair, struct.unpack_from('<Q', frame, at)[0]))
            self.queues[2 * pair + 1].reap()
        return got

    def passes(self, *frames):
        """Which of these frames, (pair, address, VLAN or None), come back, and by which pair; None for one that does
        not. Of each pair the last one is a broadcast, which nothing filters."""
        numbers, got = [], {}
        self.give_buffers()
        for pair, dst, vlan in (*frames, (0, ALL, None), (1, ALL, None)):
            numbers.append(self.put_frame(pair, dst, vlan))
        for q in self.queues[1], self.queues[3]:
            q.kick()

        def all_came():
            got.update({number: pair for pair, number in self.reap()})
            return got.keys() >= set(numbers[-2:])

        harness.wait_for(all_came, 'the broadcasts', 4 * harness.TIMEOUT)
        return [got.get(n) for n in numbers[:-2]]


class OverVhostUser(ControlGuest):
    Host = Upgrades

    def connect(self, path):
        self.client = restarting.patient(path)
        self.client.negotiate(self.features, PROTOCOL)
        return self

    def reset(self):
        """Every queue is stopped, which stops the device; the next start begins it anew."""
        for q in reversed(self.queues):
            answer = self.client.ask(vu.GET_VRING_BASE, struct.pack('<II', q.index, 0))
            q.place = struct.unpack('<II', answer)[1]


class OverVfioUser(over_vfio_user.Driven, ControlGuest):
    Host = over_vfio_user.Handing

    def reset(self):
        self.function.set(over_vfio_user.vfu.STATUS, 0)
        self.reap()
        # In the memory of those before, which nobody uses any more.
        self.memory.next = self.end = getattr(self, 'end', self.memory.next)
        self.memory.write(self.end, bytes(self.memory.size - self.end))
        ring = Packed if self.packed else Split
        self.queues = [ring(self.memory, q.index, q.num) for q in self.queues]
        self.ctrl = self.queues[4]
        self.places = {q: self.places[old] for q, old in zip(self.queues, self.places)}


class Sets(unittest.TestCase):
    Guest = OverVhostUser

    @contextlib.contextmanager
    def guest(self, packed, words=NET):
        with self.Guest.Host({'net0': words}) as host, self.Guest(random.Random(SEED), packed) as guest:
            guest.connect(host.app.socket('net0')).start()
            yield host, guest

    def set_all(self, guest, own):
        guest.command(RX, 0, b'\0')
        guest.command(MAC, 1, own)
        guest.command(MAC, 0, tables(LISTED))
        guest.command(VLAN, 0, struct.pack('<H', 5))
        guest.command(MQ, 0, struct.pack('<H', 2))

    def check_set(self, guest, own):
        got = guest.passes((0, own, None), (0, OTHER, None), (0, LISTED, None), (0, GROUP, None), (0, own, 5), (0, own, 6),
                           (1, LISTED, None), (1, OTHER, None), (0, OWN, None))
        self.assertEqual(got, [0, None, 0, None, 0, None, 1, None, 0 if own == OWN else None])

    def check_unset(self, guest):
        """As a device that was reset: of one pair, without a filter but for VLANs."""
        got = guest.passes((0, OWN, None), (0, OTHER, None), (0, GROUP, None), (0, OWN, 5), (1, OTHER, None))
        self.assertEqual(got, [0, 0, 0, None, 0])

    def test_what_was_set_holds_and_a_reset_forgets_it(self):
        own = bytes.fromhex('525400000042')
        for packed in False, True:
            with self.subTest(packed=packed), self.guest(packed) as (host, guest):
                self.check_unset(guest)
                self.set_all(guest, own)
                self.check_set(guest, own)
                for end in host.crash, host.restart:
                    end(taken=1)
                    self.check_set(guest, own)
                host.upgrade(devices=1)
                self.check_set(guest, own)
                host.crash(taken=1)
                self.check_set(guest, own)
                self.assertNotIn('this connection ends', host.app.err.text())
                # Before the driver has started it once more.
                guest.reset()
                host.crash(taken=1)
                guest.start()
                self.check_unset(guest)
                guest.command(RX, 0, b'\0')
                host.crash(taken=1)
                self.assertEqual(guest.passes((0, OWN, None), (0, OTHER, None), (1, OTHER, None)), [0, None, None])
                guest.reset()
                guest.start()
                host.restart(taken=1)
                self.check_unset(guest)
                self.assertEqual(guest.acks, [0] * guest.sent)

    def test_another_connection_finds_nothing_of_it(self):
        with self.guest(False) as (host, guest):
            self.set_all(guest, OWN)
            guest.disconnect()
            harness.wait_for(lambda: host.app.show('net0')['state'] == 'idle', 'the end of a client')
            host.crash(taken=1)
            with self.Guest(random.Random(SEED)) as other:
                other.connect(host.app.socket('net0')).start()
                self.check_unset(other)
                host.crash(taken=1)
                self.check_unset(other)

    def test_a_version_that_does_not_know_of_it_is_refused(self):
        """Its devices would have nothing of what the driver has set, and not say so."""
        with self.guest(False) as (host, guest):
            self.set_all(guest, OWN)
            with self.assertRaisesRegex(harness.ControlError, 'record .* is of a later version and must be known'):
                host.upgrade(devices=1, program=EARLIER)
            self.check_set(guest, OWN)
            host.upgrade(devices=1)
            self.check_set(guest, OWN)

    def kills_at(self, host, stride, act, check):
        """act() once, and once more for each of its acts, before which the daemon is killed; check() of what it
        gives, behind it, and behind one kill more at last. What is done first is reached, and how many kills there were."""
        kill_points.skip_without()
        stride = int(os.environ.get('UVDPA_KILL_STRIDE', '0')) or stride
        points, plan, kills = kill_points.Points(host.folder), kill_points.Plan(stride, random.Random(SEED).randrange(stride)), 0
        host.app.command = [*points.launcher, *host.app.command]
        host.crash(taken=1)
        points.arm()
        check(act())
        plan.saw(points.disarm())
        for label, nth in plan:
            with self.subTest(f'{nth}. {label}'):
                points.arm(label, nth)
                done = []
                thread = threading.Thread(target=lambda done=done: done.append(act()))
                thread.start()
                while thread.is_alive() and host.app.process.poll() is None:
                    thread.join(0.01)
                plan.saw(points.disarm(host.app.process))
                killed = host.app.process.poll() is not None
                if killed:
                    kills += 1
                    host.crash(taken=1)
                thread.join()
                self.assertEqual(len(done), 1)
                check(done[0])
        host.crash(taken=1)
        check(done[-1])
        self.assertGreater(kills, 0)
        harness.figure(f'seed {SEED}: {kills} kills of {len(plan.order)} points')
        return plan.seen

    def test_kills_at_each_step_of_a_command(self):
        """Killed before each store of what the driver has set, and each call of the system around it: the command
        comes back, once, and counts."""
        with self.guest(False) as (host, guest):
            rounds = itertools.count(1)

            def change():
                """An address and a table that no command has set before."""
                at = next(rounds)
                mac, listed = (struct.pack('>HI', 0x5254, at << 8 | n) for n in (0, 1))
                guest.command(MAC, 1, mac)
                guest.command(MAC, 0, tables(*(b'\x52\x54\0\1\0' + bytes([n]) for n in range(60)), listed))
                return mac, listed

            def holds(what):
                mac, listed = what
                self.assertEqual(guest.passes((0, mac, None), (0, listed, None), (0, OTHER, None), (0, OWN, None)), [0, 0, None, None])
                self.assertEqual(guest.acks, [0] * guest.sent)

            guest.command(RX, 0, b'\0')
            self.assertIn('write state 0x0', self.kills_at(host, harness.count(13, 1), change, holds))

    def test_kills_at_each_step_of_a_reset(self):
        """And of the start behind it: what was set before is forgotten in any case."""
        with self.guest(False) as (host, guest):
            def begin_anew():
                self.set_all(guest, OWN)
                guest.reset()
                guest.start()

            self.kills_at(host, harness.count(301, 7), begin_anew, lambda _: self.check_unset(guest))

    def test_commands_under_kills(self):
        """At any moment, from several kills in a row on; commands are under way."""
        rng = random.Random(f'{SEED} kills')
        for packed in False, True:
            with self.subTest(packed=packed), self.guest(packed) as (host, guest):
                guest.command(RX, 0, b'\0')
                for n in range(harness.count(1, 60)):
                    macs = [struct.pack('>HI', 0x5254, n << 8 | i) for i in range(10)]
                    for mac in macs:
                        guest.send(MAC, 1, mac)
                        time.sleep(rng.random() * 0.001)
                    host.crash(taken=1)
                    harness.wait_for(guest.reap_answers, 'the answers', 4 * harness.TIMEOUT)
                    self.assertEqual(guest.passes(*((0, mac, None) for mac in macs)), [None] * (len(macs) - 1) + [0])
                self.assertEqual(guest.acks, [0] * guest.sent)


class SetsOverVfioUser(Sets):
    Guest = OverVfioUser
    # Acts have numbers of messages in their names, and each round has others.
    test_kills_at_each_step_of_a_reset = None


load_tests = harness.load_tests


if __name__ == '__main__':
    unittest.main(verbosity=2)
