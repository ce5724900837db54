#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Devices that go on over restarts and upgrades alone: functions of vendors' drivers, rings on relays and shadows. The
daemon stops them, and the next one starts them where they stood: no request is lost, and none is done twice. Where
the daemon is killed, their connections end."""

import contextlib
import os
import random
import select
import subprocess
import unittest

import harness
import restarting
from numbered_guest import PROTOCOL
from restarting import GoesOn, Host, KeptBlock, KeptNet, ModelHost
from upgrading import Upgrades

RESTARTS = harness.count(2, 30)
UPGRADES = harness.count(1, 30)
STRIDE = harness.count(97, 1)  # of the steps at which a daemon dies
SEED = int(os.environ.get('UVDPA_TEST_SEED', '0')) or random.SystemRandom().randrange(1, 1 << 32)
NET = 'mgmtdev sim_net mac 52:54:00:00:00:01 backend loopback'
DISK = 'mgmtdev sim_blk backend file {folder}/dev0.disk delay_ms 5'
REFUSES = 'echo the program fails; exit 3'


class ModelUpgrades(ModelHost, Upgrades):
    """A daemon that hands functions of a model over."""


class Planned(GoesOn, unittest.TestCase):
    @contextlib.contextmanager
    def disk(self, host, packed=False):
        with host, KeptBlock(random.Random(f'{SEED} {packed}'), packed, queues=1) as guest:
            # No area of its own.
            guest.client = restarting.patient(host.app.socket('dev0'))
            guest.client.negotiate(guest.features, PROTOCOL)
            self.assertEqual(guest.client.set_memory(guest.memory), 0)
            guest.start()
            yield guest
            guest.settle(20 * harness.TIMEOUT)
            guest.read_back()
            guest.check()

    @contextlib.contextmanager
    def net(self, host, packed=False):
        with host, KeptNet(random.Random(f'{SEED} {packed}'), packed) as guest:
            guest.connect(host.app.socket('dev0')).start()
            yield guest
            guest.settle(20 * harness.TIMEOUT)
            guest.check()
            self.assertEqual(guest.again, 0, guest.account())

    def fails(self, host):
        """An upgrade to a program that takes the device over, and does not come to the end."""
        program = host.program('killed', f'LD_PRELOAD={restarting.KILL_AT} UVDPA_KILL_AT={self.step} exec {harness.APP} "$@"')
        try:
            answer = host.app.call('daemon.upgrade', program=program)
        except harness.ControlError as error:
            self.assertIn('was ended by signal 9', error.message)
            return True
        # It has come further, and is killed later.
        host.follow(answer['pid'])
        return False

    def ends(self, host, guest):
        """Restarts, upgrades, and upgrades that fail, under traffic."""
        under_way = guest.pending if hasattr(guest, 'pending') else guest.tx.in_flight
        self.lives(host, guest, lambda: len(under_way) if hasattr(guest, 'pending') else
                   len(guest.missing) + len(guest.tx.in_flight), ['stop'] * RESTARTS, SEED)
        for _ in range(UPGRADES):
            guest.work(0.05)
            self.next_daemon(host, guest, act=lambda: host.upgrade(devices=1))
        pid = host.app.pid
        guest.work(0.05)
        self.next_daemon(host, guest, act=lambda: self.assertIn(
            'ended with exit code 3', host.app.refusal('daemon.upgrade', program=host.program('fails', REFUSES))))
        self.assertEqual(host.app.pid, pid)

    def test_disks_of_functions(self):
        for function in 'ifcvf', 'octep':
            for packed in False, True:
                with self.subTest(function=function, packed=packed):
                    host = ModelUpgrades({'dev0': DISK}, function)
                    with self.disk(host, packed) as guest:
                        self.ends(host, guest)

    def test_frames_of_functions(self):
        for function in 'ifcvf', 'octep':
            for packed in False, True:
                with self.subTest(function=function, packed=packed):
                    host = ModelUpgrades({'dev0': NET}, function)
                    with self.net(host, packed) as guest:
                        self.ends(host, guest)

    def test_rings_by_way_of_others(self):
        for words in 'migration shadow', 'migration relay':
            for device, guests in ((DISK, self.disk), (NET, self.net)):
                with self.subTest(words=words, device=device):
                    host = type('Host', (Upgrades,), {})({'dev0': f'{device} {words}'})
                    with guests(host) as guest:
                        self.ends(host, guest)


    def test_a_disk_that_others_may_write_to(self):
        host = Host({'dev0': f'{DISK} share-rw'})
        with self.disk(host) as guest:
            self.lives(host, guest, lambda: len(guest.pending), ['stop'] * RESTARTS, SEED)


class Upgrade(Planned):
    def test_new_daemons_that_are_killed(self):
        """At any step until they have the device: the one before goes on with it, where it stood."""
        host = ModelUpgrades({'dev0': DISK}, 'ifcvf')
        with self.disk(host) as guest:
            failed, self.step = [True], 0
            while failed[-1]:
                self.step += STRIDE
                guest.work(0.02)
                self.next_daemon(host, guest, act=lambda: failed.append(self.fails(host)))
            harness.figure(f'seed {SEED}: {len(failed) - 2} new daemons killed at every {STRIDE} of {self.step} steps')
            self.assertGreater(len(failed), 2)


class Kills(unittest.TestCase):
    """A kill ends the connection, and the next daemon says so; in the midst of a planned end, too, until that has come to
    where the device stands."""

    SAYS = 'dev0: vhost-user: its connection does not go on: of devices of this driver nobody keeps'

    def ended(self, guest):
        """Whether its front end sees the end. The next daemon has begun."""
        return bool(select.select([guest.client.sock], [], [], 0)[0]) and guest.client.sock.recv(1) == b''

    def again(self, host):
        """Its front end comes back, and works."""
        with KeptNet(random.Random(SEED)) as guest:
            guest.connect(host.app.socket('dev0')).start()
            harness.wait_for(lambda: guest.work(0.01) or guest.received > 50, 'frames')

    def test_a_kill_ends_the_connection(self):
        with ModelHost({'dev0': NET}, 'ifcvf') as host, KeptNet(random.Random(SEED)) as guest:
            guest.connect(host.app.socket('dev0')).start()
            host.app.err.wait('dev0: vhost-user: goes on over restarts and upgrades, and where the process is killed')
            guest.work(0.05)
            host.restart(taken=1)
            guest.work(0.05)
            host.app.kill()
            # At once, and not with the next daemon.
            harness.wait_for(lambda: self.ended(guest), 'the end')
            host.next(taken=0)
            host.app.err.wait(self.SAYS)
            self.again(host)

    def test_a_kill_in_the_midst_of_a_planned_end(self):
        """Either the device was recorded, and goes on where it stands, or its connection ends."""
        step, went, killed = 1, 0, True
        while killed:
            with self.subTest(step=step), ModelHost({'dev0': DISK}, 'ifcvf') as host, \
                    KeptBlock(random.Random(f'{SEED} {step}'), queues=1) as guest:
                arm = f'{host.folder}/arm'
                host.app.stop()
                self.assertFalse(host.fails(step, arm))
                guest.client = restarting.patient(host.app.socket('dev0'))
                guest.client.negotiate(guest.features, PROTOCOL)
                self.assertEqual(guest.client.set_memory(guest.memory), 0)
                guest.start().work(0.05)
                with open(arm, 'wb'):
                    pass
                killed = host.app.stop() != 0
                host.next()
                if self.ended(guest):
                    host.app.err.wait('its connection does not go on')
                    self.assertTrue(killed)
                else:
                    went += 1
                    guest.work(0.05)
                    guest.settle(20 * harness.TIMEOUT)
                    guest.read_back()
                    guest.check()
            step += STRIDE // 3 + 1
        harness.figure(f'seed {SEED}: {went} of {step // (STRIDE // 3 + 1)} planned ends went on')
        self.assertGreater(step, 1)


load_tests = harness.load_tests


if __name__ == '__main__':
    unittest.main(verbosity=2)
