#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Functions in another process (vfio-user) that go on while the daemon is killed and restarted: the model executes
the rings meanwhile, sees no end of its client, and the next daemon opens the function as it is."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import unittest

import harness
import restarting
from numbered_guest import PROTOCOL
from restarting import GoesOn, KeptBlock, KeptNet, ModelHost, PagesNet
from upgrading import Upgrades

KILLS = harness.count(6, 100)
RESTARTS = harness.count(2, 10)
UPGRADES = harness.count(3, 100)
STRIDE = harness.count(29, 1)  # of the steps at which a new daemon dies
SEED = int(os.environ.get('UVDPA_TEST_SEED', '0')) or random.SystemRandom().randrange(1, 1 << 32)
ENDS = ['kill'] * KILLS + ['stop'] * RESTARTS
NET = 'mgmtdev sim_net mac 52:54:00:00:00:01 backend loopback'
DISK = 'mgmtdev sim_blk backend file {folder}/dev0.disk delay_ms 5'


class ModelUpgrades(ModelHost, Upgrades):
    """A daemon that hands functions of a model over."""


class Functions(GoesOn, unittest.TestCase):
    def check_model(self, host):
        """Its client has never gone, and the function was never reset."""
        text = host.model.err.text()
        self.assertEqual(text.count('vfio-user: connected'), 1, text)
        self.assertNotIn('vfio-user: disconnected', text)

    def connect_block(self, host, guest):
        # The disk of a function has no area that its front end could give.
        guest.client = restarting.patient(host.app.socket('dev0'))
        guest.client.negotiate(guest.features, PROTOCOL)
        self.assertEqual(guest.client.set_memory(guest.memory), 0)
        guest.start()

    def blocks(self, packed, function='virtio'):
        with ModelHost({'dev0': DISK}, function) as host, KeptBlock(random.Random(f'{SEED} {packed}'), packed, queues=1) as guest:
            self.connect_block(host, guest)
            self.lives(host, guest, lambda: len(guest.pending), ENDS, SEED)
            guest.read_back()
            guest.check()
            self.check_model(host)
            guest.stop()

    def frames(self, packed, function='virtio'):
        with ModelHost({'dev0': NET}, function) as host, KeptNet(random.Random(f'{SEED} {packed}'), packed) as guest:
            guest.connect(host.app.socket('dev0')).start()
            self.lives(host, guest, lambda: len(guest.missing) + len(guest.tx.in_flight), ENDS, SEED)
            guest.check()
            self.assertEqual(guest.again, 0, guest.account())
            self.check_model(host)

    def test_a_disk_with_split_rings(self):
        self.blocks(False)

    def test_a_disk_with_packed_rings(self):
        self.blocks(True)

    def test_frames_of_split_rings(self):
        self.frames(False)

    def test_frames_of_packed_rings(self):
        self.frames(True)

    def test_frames_without_a_daemon(self):
        """The guest kicks by pages of the function's own, and sends and receives while no daemon is there."""
        alone = 0
        with ModelHost({'dev0': NET}) as host, PagesNet(random.Random(SEED)) as guest:
            guest.connect(host.app.socket('dev0')).start()
            self.assertEqual({guest.take_page(), guest.take_page()}, {0, 1})
            for end in 'kill', 'stop', 'kill':
                guest.work(0.05)
                getattr(host.app, end)()
                before = guest.received
                harness.wait_for(lambda: guest.work(0.01) or guest.received - before > 100, 'frames while no daemon lives')
                alone += guest.received - before
                self.next_daemon(host, guest)
                # It is given them once more.
                self.assertEqual({guest.take_page(), guest.take_page()}, {0, 1})
            guest.settle(20 * harness.TIMEOUT)
            guest.check()
            self.assertEqual(guest.again, 0, guest.account())
            self.check_model(host)
            harness.figure(f'seed {SEED}: {alone} frames without a daemon; {guest.account()}; {self.times()}')


    def upgrade_fails(self, host, step):
        """The new daemon is killed at that step: the one before goes on. False: it has come further."""
        try:
            answer = host.app.call('daemon.upgrade', program=host.program(
                'killed', f'LD_PRELOAD={restarting.KILL_AT} UVDPA_KILL_AT={step} exec {harness.APP} "$@"'))
        except harness.ControlError as error:
            self.assertIn('was ended by signal 9', error.message)
            return True
        host.follow(answer['pid'])
        host.crash(taken=1)
        return False

    def test_upgrades(self):
        """The new daemon has the same connection, and gives it back when it fails."""
        with ModelUpgrades({'dev0': DISK}) as host, KeptBlock(random.Random(SEED), False, queues=1) as guest:
            self.connect_block(host, guest)
            failed, steps = [True], 0
            while failed[-1]:
                steps += STRIDE
                self.next_daemon(host, guest, act=lambda: failed.append(self.upgrade_fails(host, steps)))
            for _ in range(UPGRADES):
                guest.work(0.1)
                self.next_daemon(host, guest, act=lambda: host.upgrade(devices=1))
            guest.settle(20 * harness.TIMEOUT)
            guest.read_back()
            guest.check()
            self.check_model(host)
            harness.figure(f'seed {SEED}: {len(failed) - 2} new daemons killed at every {STRIDE} of {steps} steps, '
                           f'{UPGRADES} upgrades; {guest.account()}; longest gap {max(self.gaps):.3f} s')
            self.assertGreater(len(failed), 2)


    def test_a_server_that_does_not_answer_loses_no_device(self):
        """The new daemon cannot take it over, and the one before cannot take it back at once."""
        with ModelUpgrades({'dev0': NET}) as host, KeptNet(random.Random(SEED)) as guest:
            guest.connect(host.app.socket('dev0')).start()
            guest.work(0.1)
            host.model.process.send_signal(signal.SIGSTOP)
            refused = []

            def ask():
                try:
                    host.app.call('daemon.upgrade')
                except (harness.ControlError, ConnectionError) as error:
                    refused.append(str(error))

            thread = threading.Thread(target=ask)
            thread.start()
            try:
                host.app.err.wait('upgrade: dev0: cannot be made again yet')
            finally:
                host.model.process.send_signal(signal.SIGCONT)
            thread.join()
            self.assertIn('dev0 does not go on', str(refused))
            host.app.out.wait('upgrade: this daemon goes on')
            # By a new connection: its front end comes back, and works.
            guest.disconnect()
            with KeptNet(random.Random(SEED)) as again:
                again.connect(host.app.socket('dev0')).start()
                harness.wait_for(lambda: again.work(0.01) or again.received > 50, 'frames')


class Anew(unittest.TestCase):
    """What does not go on: the function starts anew by a connection of its own, and works."""

    @contextlib.contextmanager
    def one(self, words=''):
        """A daemon, and a guest whose frames come back."""
        with ModelHost({'dev0': NET}, words=words) as host, KeptNet(random.Random(SEED)) as guest:
            guest.connect(host.app.socket('dev0')).start()
            self.work(guest)
            yield host, guest

    def work(self, guest):
        before = guest.received
        harness.wait_for(lambda: guest.work(0.01) or guest.received - before > 50, 'frames')

    def again(self, host, guest):
        """Its front end has seen the end, comes back, and works."""
        self.assertEqual(guest.client.sock.recv(1), b'')
        guest.disconnect()
        fresh = KeptNet(random.Random(SEED))
        with fresh:
            fresh.connect(host.app.socket('dev0')).start()
            self.work(fresh)

    def test_a_model_that_was_started_again(self):
        with self.one() as (host, guest):
            host.app.kill()
            host.model.kill()
            os.unlink(f'{host.folder}/dev0.vfu')
            host.model.start()
            host.next(taken=0)
            host.app.err.wait('dev0: vfio-user/.*: starts anew: .*hung up')
            self.again(host, guest)

    def test_a_function_whose_words_have_changed(self):
        with self.one() as (host, guest):
            host.app.kill()
            command = host.app.command
            at = next(i for i, word in enumerate(command) if word.startswith('name dev0'))
            command[at] = command[at].replace(' socket', ' queue_size 128 socket')
            host.next(taken=0)
            host.app.err.wait('its words have changed')
            # The server had ended the old connection before it took the new one.
            self.assertEqual(host.model.err.text().count('vfio-user: connected'), 2)
            self.again(host, guest)

    def test_a_device_that_is_deleted_leaves_its_server(self):
        with self.one() as (host, guest):
            host.crash(taken=1)
            self.work(guest)
            host.app.delete('dev0')
            host.model.err.wait('dev0: vfio-user: disconnected')

    def test_a_fence_ends_the_connection(self):
        with self.one() as (host, guest):
            host.app.kill()
            said = subprocess.run([restarting.KEEPER, '--fence', '--socket', host.keeper.path], capture_output=True, text=True,
                                  check=False, timeout=harness.TIMEOUT)
            self.assertEqual((said.returncode, said.stderr), (0, ''), said.stdout)
            self.assertIn('dev0:vfio-user: closed', said.stdout)
            host.keeper.out.wait('dev0:vfio-user: closed: a vfio-user server stops')
            host.model.err.wait('dev0: vfio-user: disconnected')
            host.next(taken=0)
            host.app.err.wait('dev0: vfio-user/.*: starts anew: .*its connection is not in the store')
            self.again(host, guest)


load_tests = harness.load_tests


if __name__ == '__main__':
    unittest.main(verbosity=2)
