#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Devices that go on over restarts and upgrades alone: functions of vendors' drivers, rings on relays. The
daemon stops them, and the next one starts them where they stood: no request is lost, and none is done twice. Where
the daemon is killed, their connections end."""

import contextlib
import os
import random
import select
import threading
import unittest

import harness
import restarting
import test_restart_vfio_user as vfio_user
import vfio_user_client as vfu
from numbered_guest import PROTOCOL
from restarting import GoesOn, KeptBlock, KeptNet, ModelHost
from upgrading import Upgrades

RESTARTS = harness.count(2, 30)
UPGRADES = harness.count(1, 30)
STRIDE = harness.count(97, 1)  # of the steps at which a daemon dies
SEED = int(os.environ.get('UVDPA_TEST_SEED', '0')) or random.SystemRandom().randrange(1, 1 << 32)
NET = 'mgmtdev sim_net mac 52:54:00:00:00:01 backend loopback'
DISK = 'mgmtdev sim_blk backend file {folder}/dev0.disk delay_ms 5'
# The model's ifcvf has no packed rings.
FUNCTIONS = ('ifcvf', False), ('octep', False), ('octep', True)


class PatientHost(ModelHost):
    """A daemon that waits for its model for as long as a busy machine may take."""

    def __init__(self, devices, function='virtio', words=''):
        super().__init__(devices, function, f'{words} timeout_ms 10000')


class ModelUpgrades(PatientHost, Upgrades):
    """It hands functions of a model over."""


def begin(host, guest):
    """A disk's front end, which has no area of its own."""
    guest.client = restarting.patient(host.app.socket('dev0'))
    guest.client.negotiate(guest.features, PROTOCOL)
    assert guest.client.set_memory(guest.memory) == 0
    guest.start()


def has_ended(guest):
    """Whether its front end sees the end of its connection."""
    return bool(select.select([guest.client.sock], [], [], 0)[0]) and guest.client.sock.recv(1) == b''


class Planned(GoesOn, unittest.TestCase):
    @contextlib.contextmanager
    def disk(self, host, packed=False):
        with host, KeptBlock(random.Random(f'{SEED} {packed}'), packed, queues=1) as guest:
            begin(host, guest)
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

    def ends(self, host, guest):
        """Restarts and upgrades under traffic."""
        self.lives(host, guest, lambda: len(guest.pending) if hasattr(guest, 'pending') else
                   len(guest.missing) + len(guest.tx.in_flight), ['stop'] * RESTARTS, SEED)
        for _ in range(UPGRADES):
            guest.work(0.05)
            self.next_daemon(host, guest, act=lambda: host.upgrade(devices=1))

    model, host = ModelUpgrades, Upgrades
    # Of each kind a sample.
    disks, nets = (('ifcvf', False), ('octep', True)), (('ifcvf', False), ('octep', True))
    others = (('migration relay', NET),)
    standards = (('vm guest', DISK), ('vm guest', NET))
    if harness.LONG:
        disks = nets = FUNCTIONS
        others = tuple(('migration relay', device) for device in (DISK, NET))

    def guest_of(self, host, device):
        return self.disk(host) if device is DISK else self.net(host)

    def test_disks_of_functions(self):
        for function, packed in self.disks:
            with self.subTest(function=function, packed=packed):
                host = self.model({'dev0': DISK}, function)
                with self.disk(host, packed) as guest:
                    self.ends(host, guest)

    def test_frames_of_functions(self):
        for function, packed in self.nets:
            with self.subTest(function=function, packed=packed):
                host = self.model({'dev0': NET}, function)
                with self.net(host, packed) as guest:
                    self.ends(host, guest)

    def test_rings_by_way_of_others(self):
        for words, device in self.others:
            with self.subTest(words=words, device=device):
                host = self.host({'dev0': f'{device} {words}'})
                with self.guest_of(host, device) as guest:
                    self.ends(host, guest)

    def test_functions_that_are_not_left_running(self):
        """Of the driver virtio, whose functions begin at the beginning of a ring: by shadows."""
        for words, device in self.standards:
            with self.subTest(words=words, device=device):
                host = self.model({'dev0': device}, words=words)
                with self.guest_of(host, device) as guest:
                    host.app.err.wait('dev0: .*: goes on over restarts and upgrades, and where the process is killed')
                    self.ends(host, guest)

    def test_a_disk_that_others_may_write_to(self):
        host = self.host({'dev0': f'{DISK} share-rw'})
        with self.disk(host) as guest:
            self.lives(host, guest, lambda: len(guest.pending), ['stop'] * RESTARTS, SEED)


class VfioUserUpgrades(Upgrades):
    def words(self, name):
        return super().words(name).replace(' socket ', ' vfio_user ')


class VfioUserModelUpgrades(ModelUpgrades):
    def words(self, name):
        return super().words(name).replace(' socket ', ' vfio_user ')


class VfioUser(Planned):
    """The same devices behind the front end vfio-user."""

    model, host = VfioUserModelUpgrades, VfioUserUpgrades
    if not harness.LONG:
        disks, nets = (('octep', True),), (('ifcvf', False),)
        others, standards = (('migration relay', DISK),), (('vm guest', NET),)

    @contextlib.contextmanager
    def guest(self, host, cls, packed, **kw):
        with host, cls(random.Random(f'{SEED} {packed}'), packed, **kw) as guest:
            guest.trap = packed
            guest.connect(host.app.socket('dev0')).start()
            yield guest
            guest.settle(20 * harness.TIMEOUT)
            guest.check()

    @contextlib.contextmanager
    def disk(self, host, packed=False):
        with self.guest(host, vfio_user.KeptBlock, packed, queues=1) as guest:
            yield guest
            guest.settle(20 * harness.TIMEOUT)
            guest.read_back()

    @contextlib.contextmanager
    def net(self, host, packed=False):
        with self.guest(host, vfio_user.KeptNet, packed) as guest:
            yield guest
            guest.settle(20 * harness.TIMEOUT)
            self.assertEqual(guest.again, 0, guest.account())


class Upgrade(unittest.TestCase):
    def fails(self, host, step):
        """The new daemon is killed at that step: the one before goes on. False: it has come further."""
        program = host.program('killed', f'LD_PRELOAD={restarting.KILL_AT} UVDPA_KILL_AT={step} exec {harness.APP} "$@"')
        try:
            answer = host.app.call('daemon.upgrade', program=program)
        except harness.ControlError as error:
            self.assertIn('was ended by signal 9', error.message)
            return True
        host.follow(answer['pid'])
        return False

    def traffic(self, guest, act):
        """What act() returns, while the guest works."""
        result = []
        thread = threading.Thread(target=lambda: result.append(act()))
        thread.start()
        while thread.is_alive():
            guest.work(0.005)
        thread.join()
        return result[0]

    def test_new_daemons_that_are_killed(self):
        """At any step until they have the device: the one before goes on with it, where it stood."""
        harness.skip_unless(restarting.can_kill_at(), restarting.NO_KILL_AT)
        with ModelUpgrades({'dev0': DISK}, 'ifcvf') as host, KeptBlock(random.Random(SEED), queues=1) as guest:
            begin(host, guest)
            step, failed = STRIDE, 0
            while self.traffic(guest, lambda: self.fails(host, step)):
                step, failed = step + STRIDE, failed + 1
                # What was under way, and what comes.
                guest.work(0.02)
                guest.settle(20 * harness.TIMEOUT)
                guest.check_connection()
                guest.read_back()
                guest.check()
            back = host.app.out.text().count('upgrade: this daemon goes on, with 1 device')
            # That one is killed, too, behind the end of its upgrade: a kill as any.
            host.crash(taken=0)
            self.assertTrue(has_ended(guest))
            harness.figure(f'seed {SEED}: {failed} new daemons killed at every {STRIDE} of {step} steps, {back} with the device; '
                           f'{guest.account()}')
            self.assertGreater(back, 0)


    def test_a_device_that_does_not_stop_starts_anew_alone(self):
        """With requests that take longer than is waited for: nobody knows which of a packed ring are done."""
        host = ModelUpgrades({'dev0': DISK.replace('delay_ms 5', 'delay_ms 10000'), 'dev1': NET})
        host.devices = {name: f'{words} vm {name}' for name, words in host.devices.items()}
        with host, KeptBlock(random.Random(SEED), True, queues=1) as disk, KeptNet(random.Random(SEED)) as net:
            begin(host, disk)
            net.connect(host.app.socket('dev1')).start()
            disk.work()
            net.work(0.05)
            said = host.app.err
            answer = self.traffic(net, lambda: host.upgrade(devices=1))
            self.assertRegex(said.text(), 'dev0: vhost-user: does not go on in the next process: .*requests under way')
            self.assertEqual((answer['anew'], answer['lost']), (['dev0'], []))
            self.assertTrue(has_ended(disk))
            net.check_connection()
            net.work(0.05)
            net.settle(20 * harness.TIMEOUT)
            net.check()
            # The store has it no more: a kill ends it at once.
            host.app.kill()
            harness.wait_for(lambda: has_ended(net), 'the end of its connection')
            # Its other device had no connection.
            host.next(taken=1)

    def test_a_device_behind_vfio_user_that_does_not_stop_starts_anew_alone(self):
        host = VfioUserModelUpgrades({'dev0': DISK.replace('delay_ms 5', 'delay_ms 10000'), 'dev1': NET})
        with host, vfio_user.KeptBlock(random.Random(SEED), True, queues=1) as disk, \
                vfio_user.KeptNet(random.Random(SEED)) as net:
            disk.trap = net.trap = True
            disk.connect(host.app.socket('dev0')).start()
            net.connect(host.app.socket('dev1')).start()
            disk.work()
            net.work(0.05)
            said = host.app.err
            answer = self.traffic(net, lambda: host.upgrade(devices=1))
            self.assertRegex(said.text(), 'dev0: vfio-user: does not go on in the next process: .*requests under way')
            self.assertEqual((answer['anew'], answer['lost']), (['dev0'], []))
            harness.wait_for(lambda: has_ended(disk), 'the end of its connection')
            with vfu.Client(host.app.socket('dev0')) as client:
                client.region_info(0)
            net.check_connection()
            net.settle(20 * harness.TIMEOUT)
            net.check()


class Kills(unittest.TestCase):
    """A kill ends the connection, and the next daemon says so; in the midst of a planned end, too, until that has come to
    where the device stands."""

    SAYS = 'dev0: vhost-user: its connection does not go on: devices of this driver execute their rings without an account'

    def again(self, host):
        """Its front end comes back, and works."""
        with KeptNet(random.Random(SEED)) as guest:
            guest.connect(host.app.socket('dev0')).start()
            harness.wait_for(lambda: guest.work(0.01) or guest.received > 50, 'frames')

    def goes_on(self, host, guest):
        """Whether the next daemon has the device: then nothing was lost, or done twice."""
        host.next()
        if has_ended(guest):
            host.app.err.wait('its connection does not go on')
            return False
        guest.work(0.02)
        guest.settle(20 * harness.TIMEOUT)
        guest.read_back()
        guest.check()
        return True

    def test_a_kill_ends_the_connection(self):
        with PatientHost({'dev0': NET}, 'ifcvf') as host, KeptNet(random.Random(SEED)) as guest:
            guest.connect(host.app.socket('dev0')).start()
            host.app.err.wait('dev0: vhost-user: goes on over restarts and upgrades, and where the process is killed')
            guest.work(0.05)
            host.restart(taken=1)
            guest.work(0.05)
            shown = host.app.show('dev0')['restart']
            self.assertTrue(shown['goes_on'])
            self.assertIn('execute their rings without an account', shown['ends_by_kill'])
            host.app.kill()
            # At once, and not with the next daemon.
            harness.wait_for(lambda: has_ended(guest), 'the end')
            host.next(taken=0)
            host.app.err.wait(self.SAYS)
            self.again(host)

    def test_a_kill_in_the_midst_of_a_start_behind_a_planned_end(self):
        """Either the device was not started yet, and goes on where it stands, or its connection ends."""
        step, went, failed = STRIDE, 0, True
        while failed:
            failed = False
            with self.subTest(step=step), PatientHost({'dev0': DISK}, 'ifcvf') as host, \
                    KeptBlock(random.Random(f'{SEED} {step}'), queues=1) as guest:
                begin(host, guest)
                guest.work(0.02)
                self.assertEqual(host.app.stop(), 0)
                # What the next daemon finds to do.
                guest.work()
                failed = host.fails(step)
                # What came further is killed now.
                host.app.kill()
                went += self.goes_on(host, guest)
            step += STRIDE
        harness.figure(f'seed {SEED}: {went} of {step // STRIDE - 1} starts that were killed left the device to the next daemon')

    def test_a_kill_in_the_midst_of_a_planned_end(self):
        """Either the device was recorded, and goes on where it stands, or its connection ends."""
        step, went, killed = 1, 0, True
        while killed:
            killed = False
            with self.subTest(step=step), PatientHost({'dev0': DISK}, 'ifcvf') as host, \
                    KeptBlock(random.Random(f'{SEED} {step}'), queues=1) as guest:
                arm = f'{host.folder}/arm'
                host.app.stop()
                self.assertFalse(host.fails(step, arm))
                begin(host, guest)
                guest.work(0.05)
                with open(arm, 'wb'):
                    pass
                killed = host.app.stop() != 0
                went_on = self.goes_on(host, guest)
                self.assertTrue(went_on or killed)
                went += went_on
            step += STRIDE // 3 + 1
        harness.figure(f'seed {SEED}: {went} of {step // (STRIDE // 3 + 1)} planned ends went on')
        self.assertGreater(step, 1)


load_tests = harness.load_tests


if __name__ == '__main__':
    unittest.main(verbosity=2)
