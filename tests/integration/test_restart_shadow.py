#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Devices on shadow rings (`migration shadow`) over kills, restarts and upgrades of the daemon: the function ends with the
daemon, and the next one executes again what the account of each ring has under way."""

import os
import random
import unittest

import harness
import test_restart_model as models
import test_restart_vfio_user as clients
from numbered_guest import PROTOCOL
from restarting import AT_LEAST, GoesOn, Host, KeptBlock, KeptNet, ModelHost, ShadowNet, patient
from upgrading import Upgrades

KILLS = harness.count(2, 50)
RESTARTS = harness.count(1, 10)
STRIDE = harness.count(71, 7)  # of the steps at which a new daemon dies
SEED = int(os.environ.get('UVDPA_TEST_SEED', '0')) or random.SystemRandom().randrange(1, 1 << 32)
ENDS = ['kill'] * KILLS + ['stop'] * RESTARTS
WORDS = 'migration shadow'
NET = 'mgmtdev sim_net backend loopback'
DISK = 'mgmtdev sim_blk backend file {folder}/dev0.disk delay_ms 5'


class ShadowUpgrades(ModelHost, Upgrades):
    """A daemon that hands functions on shadows over."""


class ClientHost(ModelHost):
    """Its front end is a client of vfio-user, as its device is a function behind vfio-user."""

    words = clients.Host.words


class Shadows(GoesOn, unittest.TestCase):
    def block(self, host, packed, queues=1):
        guest = self.enterContext(KeptBlock(random.Random(f'{SEED} {packed}'), packed, queues))
        # Without an area of the front end's.
        guest.client = patient(host.app.socket('dev0'))
        guest.client.negotiate(guest.features, PROTOCOL)
        self.assertEqual(guest.client.set_memory(guest.memory), 0)
        guest.start()
        return guest

    def net(self, host, packed):
        guest = self.enterContext(ShadowNet(random.Random(f'{SEED} {packed}'), packed))
        guest.connect(host.app.socket('dev0')).start()
        return guest

    def model(self, device, function):
        return self.enterContext(ModelHost({'dev0': device}, function, words=WORDS))

    def check_paths(self, host, guest):
        """It is what is shown here, and no other way of going on."""
        queues = host.app.stats('dev0')['queues']
        paths = {queues[str(q.index)]['path'] for q in guest.queues}
        self.assertTrue(all(path.startswith('shadow') for path in paths), paths)

    def check_model(self, host, n):
        """The function ends with each daemon."""
        harness.wait_for(lambda: host.model.err.text().count('vfio-user: connected') == n, f'{n} daemons at the model')

    def blocks(self, host, packed, queues=1):
        guest = self.block(host, packed, queues)
        self.check_paths(host, guest)
        self.lives(host, guest, lambda: len(guest.pending), ENDS, SEED)
        guest.read_back()
        guest.check()
        self.assertFalse(guest.has_failed())
        guest.stop()
        return guest

    def frames(self, host, packed):
        guest = self.net(host, packed)
        self.check_paths(host, guest)
        self.lives(host, guest, lambda: len(guest.missing) + len(guest.tx.in_flight), ENDS, SEED)
        guest.check()
        self.assertFalse(guest.has_failed())
        # At each end as many as both rings of the device have.
        self.assertLessEqual(len(guest.missing), len(ENDS) * (guest.rx.num + guest.tx.num), guest.account())
        # What sends and what receives go back to the ring, and go on from there.
        guest.stop()
        guest.start()
        guest.work(0.05)
        guest.settle(20 * harness.TIMEOUT)
        guest.check()
        return guest

    def functions(self, function, kinds=((NET, False), (NET, True), (DISK, False), (DISK, True))):
        for device, packed in kinds:
            with self.subTest(function=function, packed=packed, device=device):
                host = self.model(device, function)
                (self.frames if device == NET else self.blocks)(host, packed)
                self.check_model(host, len(ENDS) + 1)

    def test_functions_of_the_driver_virtio(self):
        self.functions('virtio')

    def test_functions_of_the_driver_ifcvf(self):
        self.functions('ifcvf', ((NET, False), (DISK, True)))

    def test_functions_of_the_driver_octep(self):
        self.functions('octep', ((NET, True), (DISK, False)))

    def test_simulated_devices(self):
        for packed in False, True:
            with self.subTest(packed=packed):
                self.frames(self.enterContext(Host({'dev0': f'{NET} {WORDS}'}, args=('--log-level', 'info'))), packed)
                self.blocks(self.enterContext(Host({'dev0': f'{DISK} queues 2 {WORDS}'}, args=('--log-level', 'info'))), packed,
                            queues=2)

    def test_upgrades(self):
        host = self.enterContext(ShadowUpgrades({'dev0': DISK}, words=WORDS))
        guest = self.block(host, True)
        failed, steps = [True], 0
        # Until a new daemon comes further than to the step at which it dies; the one before goes on.
        while failed[-1]:
            guest.work(0.05)
            steps += STRIDE
            failed.append(models.Functions.upgrade_fails(self, host, steps))
            guest.check_connection()
        guest.work(0.1)
        self.next_daemon(host, guest, act=lambda: host.upgrade(devices=1))
        guest.settle(20 * harness.TIMEOUT)
        guest.read_back()
        guest.check()
        harness.figure(f'seed {SEED}: {len(failed) - 2} new daemons killed at every {STRIDE} of {steps} steps; {guest.account()}')
        self.assertGreater(len(failed), 2)

    def test_stops_and_starts_behind_kills(self):
        """A queue that stops puts what is under way back into its ring: the next process has that alone."""
        for make, device in ((self.block, DISK), (self.net, NET)):
            for packed in False, True:
                with self.subTest(packed=packed, device=device):
                    host = self.model(device, 'virtio')
                    guest = make(host, packed)
                    for _ in range(KILLS):
                        guest.work(0.02)
                        host.crash(taken=1)
                        guest.stop()
                        host.crash(taken=1)
                        guest.check_connection()
                        guest.start()
                    guest.work(0.02)
                    guest.settle(20 * harness.TIMEOUT)
                    guest.check()
                    self.assertFalse(guest.has_failed())

    def test_a_client_of_vfio_user(self):
        """Its driver stands still behind kills, and its memory goes and comes back."""
        for packed in False, True:
            with self.subTest(packed=packed):
                host = self.enterContext(ClientHost({'dev0': DISK}, words=WORDS))
                guest = self.enterContext(clients.KeptBlock(random.Random(f'{SEED} {packed}'), packed, queues=1))
                guest.connect(host.app.socket('dev0')).start()
                self.check_paths(host, guest)
                for end in ENDS:
                    while len(guest.pending) < AT_LEAST:
                        guest.work()
                    getattr(host.app, end)()
                    host.next(taken=1)
                    guest.check_connection()
                    guest.stand_still()
                    guest.go_on()
                    # All of the ring's memory goes, and comes back.
                    guest.client.dma_unmap(guest.memory.GPA, guest.memory.size)
                    for at in 0, guest.memory.size // 2:
                        guest.client.dma_map(guest.memory.GPA + at, guest.memory.size // 2, guest.memory.fd, at)
                guest.settle(20 * harness.TIMEOUT)
                guest.read_back()
                guest.check()
                self.assertFalse(guest.has_failed())

    def test_functions_by_the_front_ends_area(self):
        """`migration auto`: the area puts all queues on shadows. The store has the function, which is stopped."""
        for packed in False, True:
            with self.subTest(packed=packed):
                host = self.enterContext(ShadowUpgrades({'dev0': DISK}, words='inflight on'))
                guest = self.enterContext(KeptBlock(random.Random(f'{SEED} {packed}'), packed, queues=1))
                guest.connect(host.app.socket('dev0'))
                guest.give_area()
                guest.start()
                self.check_paths(host, guest)
                for end in ENDS:
                    while len(guest.pending) < AT_LEAST:
                        guest.work()
                    getattr(host.app, end)()
                    host.next(taken=1)
                    guest.check_connection()
                    self.check_paths(host, guest)
                    guest.work(0.05)
                host.upgrade(devices=1)
                guest.check_connection()
                guest.work(0.05)
                guest.settle(20 * harness.TIMEOUT)
                guest.read_back()
                guest.check()
                self.assertFalse(guest.has_failed())

    def test_what_has_no_account_says_so(self):
        for words, why in (('', 'with `migration shadow` there is one'), ('migration relay', 'with `migration relay`')):
            host = self.enterContext(ModelHost({'dev0': NET}, 'ifcvf', words))
            host.app.err.wait(f'dev0: vhost-user: goes on over restarts and upgrades, and where the process is killed, .*{why}')

    def test_what_allows_no_shadow_and_needs_one_says_so(self):
        """A function that begins at the beginning of its rings only, at a planned end in the middle of one."""
        host = self.enterContext(ModelHost({'dev0': NET}, words='migration off vm guest'))
        guest = self.enterContext(KeptNet(random.Random(SEED)))
        guest.connect(host.app.socket('dev0')).start()
        guest.work(0.05)
        said = host.app.err
        host.restart(taken=0)
        self.assertTrue(guest.client.is_closed())
        self.assertRegex(said.text(), 'dev0: .*does not go on in the next process: .*(allows no shadow|requests under way)')


load_tests = harness.load_tests


if __name__ == '__main__':
    unittest.main(verbosity=2)
