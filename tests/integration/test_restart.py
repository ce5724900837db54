#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A daemon that is killed or restarted under traffic: the next one goes on, on the same connections.

The guests number what they send and write. Their front ends never connect a second time, and every
request of a disk comes back once; what was written is read back.
"""

import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time
import unittest

import harness
import vhost_user_client as vu
from restarting import Host, KeptBlock, KeptNet, begin_move, same_file
from upgrading import Upgrades

KILLS = harness.count(6, 100)
RESTARTS = harness.count(3, 5)
AT_LEAST = 8  # requests under way at a kill that counts
SEED = int(os.environ.get('UVDPA_TEST_SEED', '0')) or random.SystemRandom().randrange(1, 1 << 32)
DISK = 'mgmtdev sim_blk backend file {folder}/disk0.disk queues 2 delay_ms 10'


class Crash(unittest.TestCase):
    def blocks(self, packed, end, times, words=DISK):
        rng = random.Random(f'{SEED} {packed} {end}')
        counted = under_way = 0
        with Host({'disk0': words}) as host, KeptBlock(rng, packed) as guest:
            guest.connect(host.app.socket('disk0')).start()
            for _ in range(times):
                stop = time.monotonic() + rng.random() * 0.1
                while time.monotonic() < stop or len(guest.pending) < AT_LEAST:
                    guest.work()
                counted += len(guest.pending) >= AT_LEAST
                under_way += len(guest.pending)
                getattr(host, end)(taken=1)
                guest.check_connection()
            guest.settle()
            guest.read_back()
            guest.check()
            self.assertFalse(guest.has_failed())
            harness.figure(f'seed {SEED}: {times} times {end}, {under_way} requests under way; {guest.account()}')

    def frames(self, packed, end, times):
        rng = random.Random(f'{SEED} {packed} {end}')
        with Host({'net0': 'mgmtdev sim_net backend loopback'}) as host, KeptNet(rng, packed) as guest:
            guest.connect(host.app.socket('net0')).start()
            for _ in range(times):
                guest.work(rng.random() * 0.1)
                getattr(host, end)(taken=1)
                guest.check_connection()
            guest.work(0.1)
            guest.settle()
            guest.check()
            self.assertFalse(guest.has_failed())
            if end == 'restart':
                self.assertEqual(guest.again, 0, guest.account())
            harness.figure(f'seed {SEED}: {times} times {end}: {guest.account()}')

    def test_a_disk_with_split_rings_outlives_kills(self):
        self.blocks(False, 'crash', KILLS)

    def test_a_disk_with_packed_rings_outlives_kills(self):
        self.blocks(True, 'crash', KILLS)

    def test_frames_of_split_rings_outlive_kills(self):
        self.frames(False, 'crash', KILLS)

    def test_frames_of_packed_rings_outlive_kills(self):
        self.frames(True, 'crash', KILLS)

    def test_a_disk_outlives_restarts(self):
        for packed in False, True:
            with self.subTest(packed=packed):
                self.blocks(packed, 'restart', RESTARTS)

    def test_frames_outlive_restarts(self):
        for packed in False, True:
            with self.subTest(packed=packed):
                self.frames(packed, 'restart', RESTARTS)


class Messages(unittest.TestCase):
    """Kills while the front end talks: stops, starts, a migration's log, other memory. Each request is
    answered, and once: whatever comes out of step fails the guest."""

    def talks(self, guest_class, packed, words, name, inflight=False):
        rng = random.Random(f'{SEED} {packed} {words}')
        with Host({name: words}) as host, guest_class(rng, packed) as guest:
            guest.connect(host.app.socket(name))
            if inflight:
                guest.give_area()
            guest.start()
            failure, done = [], threading.Event()

            def kill():
                try:
                    for _ in range(KILLS):
                        time.sleep(rng.random() * 0.05)
                        host.crash(taken=1)
                except BaseException as error:  # pylint: disable=broad-except
                    failure.append(error)
                done.set()

            killer = threading.Thread(target=kill)
            killer.start()
            rounds = 0
            try:
                while not done.is_set():
                    guest.work(rng.random() * 0.01)
                    if rng.random() < 0.3:
                        guest.log_on()
                        guest.work()
                        guest.log_off()
                    guest.stop()
                    guest.check_connection()
                    guest.start()
                    rounds += 1
            finally:
                killer.join()
            self.assertEqual(failure, [])
            guest.settle()
            if hasattr(guest, 'read_back'):
                guest.read_back()
            guest.check()
            self.assertFalse(guest.has_failed())
            harness.figure(f'seed {SEED}: {KILLS} kills in {rounds} stops and starts; {guest.account()}')

    def test_of_a_disk(self):
        for packed in False, True:
            with self.subTest(packed=packed):
                self.talks(KeptBlock, packed, DISK, 'disk0')

    def test_of_a_net_device(self):
        for packed in False, True:
            with self.subTest(packed=packed):
                self.talks(KeptNet, packed, 'mgmtdev sim_net backend loopback', 'net0')

    def test_of_a_front_end_with_an_inflight_area(self):
        for packed in False, True:
            with self.subTest(packed=packed):
                self.talks(KeptBlock, packed, DISK, 'disk0', inflight=True)


class Words(unittest.TestCase):
    """Which devices go on, and what is said of those that do not."""

    NET = 'mgmtdev sim_net backend loopback'

    def stays(self, guest):
        guest.work(0.05)
        guest.settle()
        guest.check_connection()
        guest.check()

    def ends(self, guest):
        self.assertTrue(guest.client.is_closed())

    def said(self, host, pattern):
        host.app.err.wait(pattern)

    def guests(self, host, *names):
        return [host.enter_context(KeptNet(random.Random(name))).connect(host.app.socket(name)).start()
                for name in names]

    def test_descriptors_are_those_of_their_message(self):
        """As many bytes as a read takes, behind which a message has a descriptor."""
        with Host({'net0': self.NET}) as host, vu.Client(host.app.socket('net0')) as client:
            client.negotiate(1 << 32)
            features = struct.pack('<IIIQ', vu.SET_FEATURES, vu.VERSION, 8, 1 << 32 | 1 << 30)
            question = struct.pack('<III', vu.GET_FEATURES, vu.VERSION, 0)
            call = os.eventfd(0)
            harness.stand_still(host.app.pid)
            client.send_raw(10 * features + 26 * question)
            client.send(vu.SET_VRING_CALL, struct.pack('<Q', 0), [call], flags=vu.VERSION | vu.NEED_REPLY)
            host.app.process.send_signal(signal.SIGCONT)
            os.close(call)
            self.assertEqual([client.recv()[0] for _ in range(26)], 26 * [vu.GET_FEATURES])
            self.assertEqual(client.recv()[2], bytes(8))
            client.ask_u64(vu.GET_FEATURES)

    def test_a_socket_that_somebody_has_for_a_moment(self):
        """As the store, which closes what nobody goes on with: the next daemon waits for that."""
        with Host({'net0': self.NET}) as host, socket.socket(socket.AF_UNIX) as other:
            host.app.stop(signal.SIGINT)
            other.bind(host.app.socket('net0'))
            other.listen()
            closing = threading.Timer(1, other.close)
            closing.start()
            try:
                host.next(taken=0)
            finally:
                closing.join()
            with vu.Client(host.app.socket('net0')) as client:
                self.assertTrue(client.ask_u64(vu.GET_FEATURES))

    def test_several_devices_and_one_added_by_hand_go_on(self):
        with Host({f'net{i}': self.NET for i in range(4)}) as host:
            host.app.add(f'name hand {self.NET} socket {host.app.dir}/hand.sock')
            guests = self.guests(host, 'net0', 'net1', 'net3', 'hand')
            # One that was deleted is not made again, and one that nobody is connected to is.
            host.app.delete('net3')
            self.ends(guests[2])
            host.crash(taken=4)
            for guest in (guests[0], guests[1], guests[3]):
                self.stays(guest)
            # What was in the configuration is made as ever.
            self.guests(host, 'net2', 'net3')
            host.restart(taken=5)
            self.stays(guests[3])

    def test_a_word_that_was_set_goes_on(self):
        with Host({'net0': self.NET}) as host:
            host.app.set('net0', 'link down')
            guest, = self.guests(host, 'net0') if os.path.exists(host.app.socket('net0')) else (None,)
            self.assertIsNone(guest)
            host.app.add(f'name hand {self.NET} socket {host.app.dir}/hand.sock')
            host.app.set('hand', 'link down')
            host.crash()
            self.assertEqual(host.app.show('hand')['link'], 'down')

    def test_a_device_whose_words_have_changed_starts_anew(self):
        with Host({'net0': self.NET, 'net1': self.NET}) as host:
            one, other = self.guests(host, 'net0', 'net1')
            for i, word in enumerate(host.app.command):
                if word.startswith('name net0'):
                    host.app.command[i] = word + ' mtu 2000'
            host.crash(taken=1)
            self.said(host, 'net0: does not go on: its words have changed')
            self.ends(one)
            self.stays(other)
            self.guests(host, 'net0')

    def test_what_cannot_go_on_says_so_and_starts_anew(self):
        with Host({'ram': 'mgmtdev sim_blk backend ram 8388608', 'net0': self.NET,
                   'relay': f'{self.NET} migration relay'}) as host:
            self.said(host, 'ram: vhost-user: starts anew in the next process: the disk of backend ram ends')
            self.said(host, 'relay: vhost-user: goes on over restarts and upgrades, and where the process is killed, '
                      'its connection ends: with `migration')
            with KeptBlock(random.Random(1), queues=1) as disk:
                disk.connect(host.app.socket('ram'))
                guest, relay = self.guests(host, 'net0', 'relay')
                host.crash(taken=1)
                self.ends(disk)
                self.ends(relay)
                self.said(host, 'relay: vhost-user: its connection does not go on: with `migration')
                self.stays(guest)

    def test_a_front_end_that_takes_a_state_to_another_host_ends(self):
        with Host({'net0': self.NET}) as host, vu.Client(host.app.socket('net0')) as client:
            begin_move(client)
            self.said(host, "net0: vhost-user: this connection ends with the process: its device's state is being moved")
            host.crash(taken=0)
            self.said(host, "net0: vhost-user: its connection does not go on: its device's state is being moved")
            self.assertTrue(client.is_closed())
            # The device does.
            self.stays(*self.guests(host, 'net0'))

    def test_shutdown_and_sigint_end_all(self):
        for end in 'shutdown', 'SIGINT':
            with self.subTest(end), Host({'net0': self.NET}) as host:
                guest, = self.guests(host, 'net0')
                if end == 'shutdown':
                    host.app.call('daemon.shutdown')
                    self.assertEqual(host.app.process.wait(harness.TIMEOUT), 0)
                    host.app.kill()
                else:
                    self.assertEqual(host.app.stop(signal.SIGINT), 0)
                self.ends(guest)
                self.assertFalse(os.path.exists(host.app.socket('net0')))
                host.next(taken=0)
                self.stays(*self.guests(host, 'net0'))

    def test_a_keeper_that_dies_takes_no_traffic_with_it(self):
        with Host({'net0': self.NET}) as host:
            guest, = self.guests(host, 'net0')
            host.keeper.process.kill()
            host.keeper.process.wait()
            guest.stop()
            guest.start()
            self.stays(guest)
            self.said(host, 'restart: nothing is kept for the next process any more')
            self.assertEqual(host.app.stop(), 0)
            self.ends(guest)
            self.assertFalse(os.path.exists(host.app.socket('net0')))

    def test_a_daemon_whose_keeper_has_died_leaves_nothing(self):
        with Host({'net0': self.NET}) as host:
            host.keeper.process.kill()
            host.keeper.process.wait()
            self.assertEqual(host.app.stop(), 0)
            self.said(host, 'restart: nothing is kept for the next process any more')
            self.assertNotIn('leaves 1', host.app.out.text())

    def test_a_daemon_without_its_store_does_not_start(self):
        for where, code, why in (('unix:/nowhere', 1, 'no vdpa-keeper listens there'), ('systemd', 1, 'NOTIFY_SOCKET'),
                                 ('elsewhere', 2, 'allowed are systemd, or unix:'),
                                 ('unix:', 2, 'allowed are systemd, or unix:')):
            done = subprocess.run([harness.APP, '--', '--keep', where], capture_output=True, text=True, check=False,
                                  timeout=harness.TIMEOUT, env={**os.environ, 'NOTIFY_SOCKET': ''})
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn(why, done.stderr)

    def test_relative_paths_are_of_the_folder_that_the_daemon_was_started_in(self):
        with Host({'net0': self.NET}) as host, contextlib.chdir(host.folder):
            host.app.kill()
            command = host.app.command
            command[command.index('--keep') + 1] = 'unix:keeper'
            command[command.index('--control') + 1] = os.path.relpath(host.app.control_path)
            host.next(taken=1)
            self.assertEqual(host.app.call('dev.list')['names'], ['net0'])
            with open(f'/proc/{host.app.pid}/cmdline', 'rb') as words:
                self.assertIn(b'unix:keeper', words.read())

    def test_front_ends_that_left_meanwhile_and_come_anew(self):
        with Host({'net0': self.NET, 'net1': self.NET}) as host:
            one, _ = self.guests(host, 'net0', 'net1')
            host.app.kill()
            one.disconnect()
            # Nobody takes it up, and the listening socket is there all the same.
            client = vu.Client(host.app.socket('net0'))
            host.next(taken=2)
            self.assertTrue(client.ask_u64(vu.GET_FEATURES))
            client.close()

    def test_descriptors_do_not_pile_up(self):
        with Host({'net0': self.NET}) as host:
            guest, = self.guests(host, 'net0')
            path, first = f'/proc/{host.keeper.process.pid}/fd', None
            for _ in range(6):
                for _ in range(3):
                    guest.work()
                    guest.stop()
                    guest.start()
                guest.disconnect()
                guest.connect(host.app.socket('net0')).start()
                host.crash(taken=1)
                first = first or len(os.listdir(path))
                # The keeper's own come and go, and it closes by and by; each of these rounds has brought a dozen.
                harness.wait_for(lambda: len(os.listdir(path)) <= first + 2, 'the keeper to have no more than at first')
            self.stays(guest)


class Folders(unittest.TestCase):
    """Of sockets (the word folder). Whoever has one mounted sees a front end's socket in it at any time."""

    def add(self, host, name, folder, client):
        host.app.add(f'name {name} {Words.NET} {client}folder 0700 socket {folder}/{name}.sock')

    def goes_with_its_devices(self, host, folder, *names):
        for name in names:
            self.assertTrue(os.path.exists(folder))
            host.app.delete(name)
        self.assertFalse(os.path.exists(folder))

    def test_stays_over_restarts_and_goes_with_its_last_device(self):
        for client in '', 'client ':
            with self.subTest(client=client), Host({'net0': Words.NET}) as host:
                folder = f'{host.app.dir}/pod'
                for name in 'pod0', 'pod1':
                    self.add(host, name, folder, client)
                for end in host.crash, host.restart:
                    with same_file(folder):
                        end(taken=3)
                self.goes_with_its_devices(host, folder, 'pod0', 'pod1')

    def test_stays_where_it_was_there_before(self):
        with Host({'net0': Words.NET}) as host:
            folder = f'{host.folder}/pod'
            os.mkdir(folder, 0o700)
            self.add(host, 'pod0', folder, 'client ')
            host.restart(taken=2)
            host.app.delete('pod0')
            self.assertTrue(os.path.exists(folder))

    def test_stays_over_upgrades_that_fail_and_others(self):
        with Upgrades({'net0': Words.NET}) as host, contextlib.closing(vu.Memory()) as memory:
            folder = f'{host.app.dir}/pod'
            self.add(host, 'pod0', folder, 'client ')
            with vu.Client(host.app.socket('net0')) as client, same_file(folder):
                client.negotiate(vu.F_VERSION_1)
                self.assertEqual(client.set_memory(memory), 0)
                # No other process maps it.
                os.ftruncate(memory.fd, 4096)
                self.assertRegex(host.app.refusal('daemon.upgrade'), '1 of 2 devices went over, and no more, not net0:')
            host.app.delete('net0')
            with same_file(folder):
                host.upgrade(devices=1)
            self.goes_with_its_devices(host, folder, 'pod0')


load_tests = harness.load_tests


if __name__ == '__main__':
    unittest.main(verbosity=2)
