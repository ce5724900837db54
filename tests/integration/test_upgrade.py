#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A daemon that hands its devices over to another one, which it starts, under traffic: the same
connections go on, nothing is lost or done twice; and where the new one fails, the old one goes on."""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import unittest

import harness
import vhost_user_client as vu
from restarting import KeptBlock, KeptNet, begin_move
from upgrading import Upgrades, UpgradesOfService

UPGRADES = harness.count(2, 50)  # on rings of either kind
VDPACTL = os.environ.get('UVDPA_VDPACTL', 'vdpactl')
SEED = int(os.environ.get('UVDPA_TEST_SEED', '0')) or random.SystemRandom().randrange(1, 1 << 32)
NET = 'mgmtdev sim_net backend loopback'
DISK = 'mgmtdev sim_blk backend file {folder}/disk0.disk queues 2 delay_ms 10'
DEVICES = {'disk0': DISK, 'net0': NET}


def children(pid):
    """Of all threads of a process."""
    found = []
    for task in os.listdir(f'/proc/{pid}/task'):
        with contextlib.suppress(FileNotFoundError), open(f'/proc/{pid}/task/{task}/children', encoding='ascii') as file:
            found += file.read().split()
    return found


class Case(unittest.TestCase):
    """host: a daemon with a disk and a net device, whose guests work in another thread."""

    def begin(self, packed=False, devices=None, args=(), host=Upgrades):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.host = self.stack.enter_context(host(devices or DEVICES, args))
        rng = random.Random(f'{SEED} {packed}')
        self.guests = [self.stack.enter_context(KeptBlock(rng, packed)), self.stack.enter_context(KeptNet(rng, packed))]
        for guest, name in zip(self.guests, ('disk0', 'net0')):
            guest.connect(self.host.app.socket(name)).start()
            guest.check_connection()

    @contextlib.contextmanager
    def traffic(self):
        """Both guests work meanwhile."""
        failure, done = [], threading.Event()

        def work():
            try:
                while not done.is_set():
                    for guest in self.guests:
                        guest.work(0.01)
            except BaseException as error:  # pylint: disable=broad-except
                failure.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        self.assertEqual(failure, [])

    def check(self, again=False):
        """Nothing was lost, and nobody has closed a connection. again: a process was killed while it had
        the devices, so frames may have come twice; else nothing has."""
        for guest in self.guests:
            guest.work(0.05)
            guest.settle()
            guest.check_connection()
            guest.check()
            self.assertFalse(guest.has_failed())
        self.guests[0].read_back()
        if not again:
            self.assertEqual(self.guests[1].again, 0, self.guests[1].account())

    def stays(self, pid):
        """The daemon with this pid has the devices."""
        self.assertEqual(self.host.app.pid, pid)
        self.assertIsNone(self.host.app.process.poll())
        self.assertEqual(sorted(self.host.app.call('dev.list')['names']), ['disk0', 'net0'])

    def refused(self, pattern, **params):
        """The upgrade is refused or fails, under traffic, and the old daemon goes on."""
        pid = self.host.app.pid
        with self.traffic():
            self.assertRegex(self.host.app.refusal('daemon.upgrade', **params), pattern)
            self.stays(pid)
        self.no_other(pid)

    def no_other(self, pid):
        """Nothing is left of the other daemon."""
        self.assertEqual(children(pid), [])


class Upgrade(Case):
    def upgrades(self, packed):
        self.begin(packed)
        gaps = []
        for _ in range(UPGRADES):
            with self.traffic():
                time.sleep(random.random() * 0.1)
                gaps.append(self.host.upgrade(devices=2)['gap_ms'])
            for guest in self.guests:
                guest.check_connection()
        self.check()
        # A daemon that was handed the devices keeps them as any other does.
        self.host.crash(taken=2)
        self.check(again=True)
        harness.figure(f'seed {SEED}: {UPGRADES} upgrades, {min(gaps)} to {max(gaps)} ms each; '
                       + '; '.join(guest.account() for guest in self.guests))

    def test_under_traffic_on_split_rings(self):
        self.upgrades(False)

    def test_under_traffic_on_packed_rings(self):
        self.upgrades(True)

    def test_by_a_signal(self):
        self.begin()
        with self.traffic():
            os.kill(self.host.app.pid, signal.SIGUSR2)
            match, _ = self.host.app.out.wait(r'upgrade: process (\d+), version .*, has 2 devices')
            self.host.follow(int(match[1]))
        self.check()

    def test_by_vdpactl(self):
        self.begin()
        done = subprocess.run([VDPACTL, '-S', self.host.app.control_path, 'upgrade'], capture_output=True, text=True,
                              check=False, timeout=harness.TIMEOUT * 2)
        self.assertEqual((done.returncode, done.stderr), (0, ''))
        self.assertRegex(done.stdout, r'^2 devices went over to process \d+, version \S+, and stood still for \d+ ms\n$')
        self.host.follow(int(done.stdout.split()[6].rstrip(',')))
        self.check()
        done = subprocess.run([VDPACTL, '-S', self.host.app.control_path, 'upgrade', '/bin/false'],
                              capture_output=True, text=True, check=False, timeout=harness.TIMEOUT * 2)
        self.assertEqual((done.returncode, done.stdout), (1, ''))
        self.assertIn('/bin/false ended with exit code 1', done.stderr)
        self.check()

    def test_the_control_socket_stays_where_it_is(self):
        """Nobody who connects is refused, at any time."""
        self.begin()
        path, errors, done, n = self.host.app.control_path, [], threading.Event(), 0

        def ask():
            nonlocal n
            while not done.is_set():
                try:
                    with harness.Control(path) as client:
                        client.call('version')
                except ConnectionError:
                    pass  # the process that had let it in has ended
                except OSError as error:
                    errors.append(error)
                n += 1

        before, thread = os.stat(path), threading.Thread(target=ask)
        thread.start()
        try:
            for _ in range(2):
                self.host.upgrade(devices=2)
        finally:
            done.set()
            thread.join()
        self.assertEqual(errors, [])
        self.assertGreater(n, 3)
        self.assertEqual(os.stat(path).st_ino, before.st_ino)
        self.check()
        self.host.app.stop(signal.SIGINT)
        self.assertFalse(os.path.exists(path))

    def test_the_control_socket_goes_where_the_new_daemon_has_another(self):
        self.begin()
        before, after = self.host.app.control_path, f'{self.host.folder}/other.sock'
        answer = self.host.app.call('daemon.upgrade', program=self.host.program(
            'other', f'exec {harness.APP} "$@" --control {after}'))
        self.host.follow(answer['pid'])
        self.host.app.control_path = after
        harness.wait_for(lambda: os.path.exists(after), 'its socket')
        harness.wait_for(lambda: not os.path.exists(before), 'the end of the former one')

    def test_no_telemetry_socket_is_left(self):
        """Two daemons have two of them; the one that is killed leaves its own."""
        self.begin()
        folder = self.host.app.runtime_dir()
        self.host.upgrade(devices=2)
        self.assertEqual(os.listdir(folder), ['dpdk_telemetry.v2:1'])
        self.host.crash(taken=2)
        self.assertEqual(os.listdir(folder), ['dpdk_telemetry.v2'])
        self.check(again=True)

    def test_devices_that_were_added_or_changed_go_over(self):
        self.begin()
        self.host.app.add(f'name hand {NET} socket {self.host.app.dir}/hand.sock')
        with KeptNet(random.Random(3)) as guest:
            guest.connect(self.host.app.socket('hand')).start()
            guest.work(0.05)
            self.host.upgrade(devices=3)
            guest.work(0.05)
            guest.settle()
            guest.check()
            guest.check_connection()
            # Neither daemon has it afterwards.
            self.host.app.delete('hand')
            self.assertTrue(guest.client.is_closed())
        self.host.upgrade(devices=2)
        self.check()

    def test_a_daemon_that_is_stopped_meanwhile(self):
        """SIGTERM while the new daemon starts: it is ended, and devices are left as at any SIGTERM."""
        self.begin()
        hangs = self.host.program('hangs', f'touch {self.host.folder}/hangs.up; exec sleep 1000')
        errors = []

        def ask():
            try:
                self.host.app.call('daemon.upgrade', program=hangs)
            except (harness.ControlError, ConnectionError) as error:
                errors.append(error)

        with self.traffic():
            thread = threading.Thread(target=ask)
            thread.start()
            harness.wait_for(lambda: os.path.exists(f'{self.host.folder}/hangs.up'), 'the program')
            self.host.restart(taken=2)
            thread.join()
        self.assertIn('being stopped', str(errors))
        self.check()


class Service(Case):
    """With systemd's store, which hears the main process alone."""

    def test_the_new_daemon_is_the_main_process_and_has_the_store(self):
        self.begin(host=UpgradesOfService)
        systemd = self.host.keeper
        # The last messages of a start have no answer: once rings work, they were heard.
        self.check()
        names = systemd.names()
        for _ in range(2):
            before, said = self.host.app.pid, len(systemd.said)
            with self.traffic():
                answer = self.host.upgrade(devices=2)
            harness.wait_for(lambda: len(systemd.said) >= said + 2, 'its words')
            self.assertEqual(systemd.main, answer['pid'])
            self.assertNotEqual(answer['pid'], before)
            # The service is neither stopping nor starting.
            self.assertEqual(systemd.said[said], [f'MAINPID={answer["pid"]}'])
            self.assertEqual([words[0] for words in systemd.said[said + 1:]], ['READY=1'])
        self.assertEqual(systemd.names(), names)
        # Front ends bring descriptors, which the new daemon stores, and a device is added there.
        self.host.app.add(f'name hand {NET} socket {self.host.app.dir}/hand.sock')
        for guest in self.guests:
            guest.stop()
            guest.start()
        with self.traffic():
            self.host.crash(taken=3)
        self.check(again=True)
        self.host.upgrade(devices=3)
        self.check(again=True)

    def test_a_new_daemon_that_dies_leaves_the_store_as_it_was(self):
        self.begin(host=UpgradesOfService)
        systemd, lib = self.host.keeper, os.environ.get('UVDPA_KILL_AT_LIB', '')
        self.check()
        names, pid = systemd.names(), self.host.app.pid
        harness.skip_unless(lib and 'libasan' not in subprocess.run(
            ['ldd', harness.APP], capture_output=True, text=True, check=False).stdout,
            'no library can be loaded before a daemon with a sanitizer')
        for step in harness.count((28,), (14, 28)):
            self.refused('was ended by signal 9', program=self.host.program(
                'killed', f'LD_PRELOAD={lib} UVDPA_KILL_AT={step} exec {harness.APP} "$@"'))
        self.assertEqual(systemd.main, pid)
        self.assertFalse([words for words in systemd.said if words[0].startswith('MAINPID')])
        self.check(again=True)
        self.assertEqual(systemd.names(), names)
        with self.traffic():
            self.host.upgrade(devices=2)
            self.host.crash(taken=2)
        self.check(again=True)

    def test_a_full_store_refuses_it_before_devices_stand_still(self):
        self.begin(host=UpgradesOfService)
        systemd, pid = self.host.keeper, self.host.app.pid
        self.check()
        names = systemd.names()
        systemd.max = len(names)
        for method in ('daemon.upgrade_check', 'daemon.upgrade'):
            self.assertRegex(self.host.app.refusal(method), r"^systemd's store is .*; raise FileDescriptorStoreMax=")
        self.stays(pid)
        self.assertNotIn('this daemon goes on', self.host.app.err.text())
        # A restart has all that it needs.
        with self.traffic():
            self.host.crash(taken=2)
        self.check(again=True)
        systemd.max = None
        with self.traffic():
            self.host.upgrade(devices=2)


class Failures(Case):
    def test_a_new_daemon_that_fails_at_any_time(self):
        self.begin()
        host = self.host
        self.refused(r'false ended with exit code 1 before it had checked everything', program='/bin/false')
        self.refused('Permission denied', program=host.program('no', 'exit 0') and self.unusable('no'))
        self.refused('No such file', program='/nowhere/vdpa-app')
        self.refused(r'has not checked everything within 1 s', program=host.program('hangs', 'exec sleep 1000'),
                     timeout_s=1)
        self.refused('was ended by signal 9 before it had checked everything',
                     program=host.program('dies', 'kill -KILL $$'))
        self.check()

    def unusable(self, name):
        path = f'{self.host.folder}/{name}'
        os.chmod(path, 0o644)
        return path

    def test_a_new_daemon_that_dies_with_the_devices(self):
        """Before each system call of the take-over that changes something."""
        self.begin()
        lib = os.environ.get('UVDPA_KILL_AT_LIB', '')
        harness.skip_unless(lib and 'libasan' not in subprocess.run(
            ['ldd', harness.APP], capture_output=True, text=True, check=False).stdout,
            'no library can be loaded before a daemon with a sanitizer')
        failed, stride, step = 0, harness.count(29, 1), 1
        while True:
            program = self.host.program('killed', f'LD_PRELOAD={lib} UVDPA_KILL_AT={step} exec {harness.APP} "$@"')
            pid = self.host.app.pid
            with self.traffic():
                try:
                    answer = self.host.app.call('daemon.upgrade', program=program)
                except harness.ControlError as error:
                    self.assertRegex(error.message, 'was ended by signal 9')
                    self.stays(pid)
                    failed += 1
                else:
                    break
            step += stride
        # This one has come further; it dies later, as one that crashes.
        self.host.follow(answer['pid'])
        self.assertGreater(failed, 1)
        self.host.crash(taken=2)
        self.check(again=True)
        harness.figure(f'{failed} new daemons killed at every {stride} of {step} steps')

    def test_a_forced_new_daemon_that_dies_with_the_devices(self):
        """It cannot make one of them, which goes back with the others, and its connection."""
        self.begin(devices={**DEVICES, 'disk1': DISK.replace('disk0', 'disk1')})
        lib = os.environ.get('UVDPA_KILL_AT_LIB', '')
        harness.skip_unless(lib and 'libasan' not in subprocess.run(
            ['ldd', harness.APP], capture_output=True, text=True, check=False).stdout,
            'no library can be loaded before a daemon with a sanitizer')
        app, path, pid = self.host.app, f'{self.host.folder}/disk1.disk', self.host.app.pid
        failed, stride, step = 0, harness.count(29, 1), 1

        def give_back(done):
            """The old daemon tries for a while."""
            while not done.is_set() and not os.path.exists(f'{path}.away'):
                time.sleep(0.01)
            while not done.is_set() and children(pid):
                time.sleep(0.01)
            with contextlib.suppress(FileNotFoundError):
                os.rename(f'{path}.away', path)

        with vu.Client(app.socket('disk1')) as client:
            while True:
                program = self.host.program('killed', f'mv {path} {path}.away\nLD_PRELOAD={lib} UVDPA_KILL_AT={step} '
                                            f'exec {harness.APP} "$@"')
                done = threading.Event()
                thread = threading.Thread(target=give_back, args=(done,))
                thread.start()
                try:
                    answer = app.call('daemon.upgrade', program=program, force=True)
                except harness.ControlError as error:
                    self.assertRegex(error.message, 'was ended by signal 9')
                    failed += 1
                else:
                    break
                finally:
                    done.set()
                    thread.join()
                self.assertEqual(sorted(app.call('dev.list')['names']), ['disk0', 'disk1', 'net0'])
                self.assertTrue(client.ask_u64(vu.GET_FEATURES))
                step += stride
        # This one has come further; it dies later, as one that crashes.
        self.host.follow(answer['pid'])
        self.assertEqual((answer['devices'], answer['anew']), (2, ['disk1']))
        self.host.crash()
        self.assertGreater(failed, 1)
        self.check(again=True)
        harness.figure(f'{failed} new daemons killed at every {stride} of {step} steps')

    def test_one_that_hangs_with_the_devices(self):
        self.begin()
        lib = os.environ.get('UVDPA_KILL_AT_LIB', '')
        harness.skip_unless(lib and 'libasan' not in subprocess.run(
            ['ldd', harness.APP], capture_output=True, text=True, check=False).stdout,
            'no library can be loaded before a daemon with a sanitizer')
        program = self.host.program('stopped', f'LD_PRELOAD={lib} UVDPA_KILL_AT=25 UVDPA_KILL_BY=STOP '
                                    f'exec {harness.APP} "$@"')
        self.refused('has not taken the devices over within 4 s', program=program, timeout_s=4)
        self.check(again=True)
        # And it can be done all the same.
        with self.traffic():
            self.host.upgrade(devices=2)
        self.check(again=True)

    def test_a_keeper_that_has_died_or_does_not_answer(self):
        for signum in signal.SIGKILL, signal.SIGSTOP:
            with self.subTest(signal=signum.name):
                self.begin()
                pid = self.host.app.pid
                os.kill(self.host.keeper.process.pid, signum)
                with self.traffic():
                    done = subprocess.run([VDPACTL, '-S', self.host.app.control_path, 'upgrade', '--force'],
                                          capture_output=True, text=True, check=False, timeout=harness.TIMEOUT * 2)
                    self.assertEqual((done.returncode, done.stdout), (1, ''))
                    self.assertIn('start the daemon anew', done.stderr)
                    self.stays(pid)
                self.no_other(pid)
                self.check()
                self.stack.close()

    def test_a_keeper_that_dies_while_the_new_daemon_starts(self):
        """Nothing ends, also of what would start anew."""
        self.begin(devices={**DEVICES, 'ram': 'mgmtdev sim_blk backend ram 8388608'})
        pid = self.host.app.pid
        with KeptBlock(random.Random(5), queues=1) as disk, self.traffic():
            disk.connect(self.host.app.socket('ram')).start()
            with self.slow_upgrade(force=True) as answer:
                self.host.keeper.process.kill()
            self.assertRegex(answer['error'], 'start the daemon anew')
            self.assertEqual(self.host.app.pid, pid)
            self.assertEqual(sorted(self.host.app.call('dev.list')['names']), ['disk0', 'net0', 'ram'])
            disk.check_connection()
        self.no_other(pid)
        self.check()

    @contextlib.contextmanager
    def slow_upgrade(self, how='', **params):
        """An upgrade whose new daemon begins behind the block. Yields a dictionary, which has the answer or
        the error afterwards."""
        folder, answer = self.host.folder, {}
        for name in 'slow.up', 'slow.go':
            with contextlib.suppress(FileNotFoundError):
                os.remove(f'{folder}/{name}')
        program = self.host.program('slow', f'touch {folder}/slow.up\nwhile [ ! -e {folder}/slow.go ]; do sleep 0.02; '
                                    f'done\n{how} exec {harness.APP} "$@"')

        def ask():
            try:
                answer.update(self.host.app.call('daemon.upgrade', program=program, **params))
            except harness.ControlError as error:
                answer['error'] = error.message

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            harness.wait_for(lambda: os.path.exists(f'{folder}/slow.up'), 'the program')
            yield answer
        finally:
            with open(f'{folder}/slow.go', 'w', encoding='ascii'):
                pass
            thread.join()

    def test_what_changes_while_the_new_daemon_starts(self):
        """A device that is added meanwhile goes over, or back; one that cannot go on any more is named."""
        self.begin(devices={**DEVICES, 'net1': NET})
        pid = self.host.app.pid
        with self.slow_upgrade() as answer, vu.Client(self.host.app.socket('net1')) as client:
            begin_move(client)
            client.ask_u64(vu.GET_FEATURES)
            with open(f'{self.host.folder}/slow.go', 'w', encoding='ascii'):
                pass
            harness.wait_for(lambda: answer, 'the answer')
            self.assertRegex(answer['error'], r'net1 \(its device.s state is being moved')
            self.assertTrue(client.ask_u64(vu.GET_FEATURES))
        self.assertEqual(self.host.app.pid, pid)
        self.check()
        self.host.app.delete('net1')
        with KeptNet(random.Random(3)) as guest:
            with self.slow_upgrade() as answer:
                self.host.app.add(f'name hand {NET} socket {self.host.app.dir}/hand.sock')
                guest.connect(self.host.app.socket('hand')).start()
                guest.work(0.05)
            self.assertNotIn('error', answer)
            self.host.follow(answer['pid'])
            guest.work(0.05)
            guest.settle()
            guest.check()
            guest.check_connection()

    def test_a_device_that_is_added_meanwhile_comes_back(self):
        self.begin()
        pid = self.host.app.pid
        with KeptNet(random.Random(3)) as guest:
            # It takes the devices, and then finds no place for its control socket.
            with self.slow_upgrade(f'set -- "$@" --control {self.host.folder}/none/control.sock;') as answer:
                self.host.app.add(f'name hand {NET} socket {self.host.app.dir}/hand.sock')
                guest.connect(self.host.app.socket('hand')).start()
                guest.work(0.05)
            self.assertIn('none/control.sock', answer['error'])
            self.assertEqual(sorted(self.host.app.call('dev.list')['names']), ['disk0', 'hand', 'net0'])
            guest.work(0.05)
            guest.settle()
            guest.check()
            guest.check_connection()
        self.no_other(pid)
        self.check()

    def test_a_keeper_without_room_for_a_new_device(self):
        self.begin()
        # Numbers for three more descriptors; one of a new device has four.
        keeper = self.host.keeper.process.pid
        used = {int(fd) for fd in os.listdir(f'/proc/{keeper}/fd')}
        limit = [fd for fd in range(1024) if fd not in used][2] + 1
        resource.prlimit(keeper, resource.RLIMIT_NOFILE, (limit, limit))
        with self.traffic():
            self.host.upgrade(devices=2, program=self.host.program(
                'more', f'exec {harness.APP} "$@" --dev "name more {NET} socket {self.host.app.dir}/more.sock"'))
        self.assertEqual(sorted(self.host.app.call('dev.list')['names']), ['disk0', 'more', 'net0'])
        self.host.app.err.wait('more: restart: does not go on in the next process: .*')
        with self.host.app.control() as client:
            for name, goes_on in (('disk0', True), ('net0', True), ('more', False)):
                self.assertEqual(client.show(name)['restart']['goes_on'], goes_on, name)
        self.check()
        with self.traffic():
            self.host.crash(taken=2)
        self.check(again=True)

    def test_a_new_daemon_that_dies_behind_its_last_word(self):
        """It has said that it has all devices, and is dead before the old one lets go: nobody else would be
        left. The old one stands still until it is."""
        self.begin()
        pid, folder = self.host.app.pid, self.host.folder
        path = f'{folder}/dies'
        with open(path, 'w', encoding='ascii') as file:
            file.write(f'''#!{sys.executable}
import json, os, signal, socket
sock = socket.socket(fileno=3)
def hear(step):
    while json.loads(sock.recv(65536))['step'] != step:
        pass
hear('begin')
sock.send(json.dumps({{'step': 'checked', 'version': '0', 'anew': []}}).encode())
hear('take')
os.kill(os.getppid(), signal.SIGSTOP)
tasks = f'/proc/{{os.getppid()}}/task'
while any(open(f'{{tasks}}/{{task}}/stat').read().rsplit(')', 1)[1].split()[0] != 'T' for task in os.listdir(tasks)):
    pass
sock.send(json.dumps({{'step': 'taken', 'devices': 2}}).encode())
''')
        os.chmod(path, 0o755)

        def wake():
            def is_dead():
                for child in children(pid):
                    with open(f'/proc/{child}/stat', encoding='ascii') as stat:
                        return stat.read().rsplit(')', 1)[1].split()[0] == 'Z'
                return False
            try:
                harness.wait_for(is_dead, 'its end')
            finally:
                os.kill(pid, signal.SIGCONT)

        thread = threading.Thread(target=wake)
        thread.start()
        try:
            self.refused('with the devices', program=path)
        finally:
            thread.join()
        self.check()

    def test_a_script_that_stays_between_both_daemons(self):
        """Nobody could end the new daemon, so it does not begin."""
        self.begin()
        self.refused('and not the other daemon.* by `exec`', program=self.host.program(
            'between', f'{harness.APP} "$@"\nexit $?'))
        self.check()


load_tests = harness.load_tests


if __name__ == '__main__':
    unittest.main(verbosity=2)
