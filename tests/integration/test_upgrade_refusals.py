#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Upgrades to other versions, and what refuses an upgrade or fails it for a device: each is said with its reason, and
the daemon goes on with its devices."""

import os
import random
import signal
import subprocess
import threading
import unittest

import harness
import vhost_user_client as vu
from restarting import KeptBlock, begin_move
from test_upgrade import Case, DEVICES, DISK, NET, VDPACTL

NEXT = os.environ.get('UVDPA_APP_NEXT', '')
LATER = os.environ.get('UVDPA_APP_LATER', '')


class Versions(Case):
    """The next version's records have a part that this one does not know."""

    def test_there_and_back(self):
        self.begin()
        with self.traffic():
            answer = self.host.upgrade(devices=2, program=NEXT)
            self.assertRegex(answer['version'], '-next$')
            self.assertRegex(self.host.app.call('version')['version'], '-next$')
            # It writes the part, and reads it; what it starts by itself is its own program.
            self.host.upgrade(devices=2)
            self.host.app.err.wait("the next version's field is there")
            # This version skips it.
            answer = self.host.upgrade(devices=2, program=harness.APP)
            self.assertNotRegex(answer['version'], '-next$')
        self.check()

    def test_what_must_be_known_is_refused_and_the_newer_one_goes_on(self):
        self.begin()
        with self.traffic():
            self.host.upgrade(devices=2, program=LATER)
        self.refused('0 does not go on: record .* is of a later version and must be known', program=harness.APP)
        self.check()
        with self.traffic():
            self.host.upgrade(devices=2)
        self.check()

    def test_a_version_without_upgrades_is_refused(self):
        """What such a daemon says of an option that it does not know."""
        self.begin()
        old = self.host.program('old', f'case "$*" in *take-over*) set -- --no-such-option;; esac\n'
                                f'exec {harness.APP} "$@"')
        self.refused('ended with exit code 2 before it had checked everything', program=old)
        self.check()


class Refusals(Case):
    def test_a_daemon_that_keeps_nothing(self):
        with harness.Daemon([f'name net0 {NET} socket {{dir}}/net0.sock']) as app:
            self.assertRegex(app.refusal('daemon.upgrade'), 'without --keep.*start it with --keep once')
            os.kill(app.pid, signal.SIGUSR2)
            app.err.wait('upgrade: .*without --keep')
            self.assertEqual(app.call('dev.list')['names'], ['net0'])
            done = subprocess.run([VDPACTL, '-S', app.control_path, 'upgrade'], capture_output=True, text=True,
                                  check=False, timeout=harness.TIMEOUT)
            self.assertEqual(done.returncode, 1)
            self.assertIn('start it with --keep once', done.stderr)

    def test_devices_that_cannot_go_on_are_named(self):
        self.begin(devices={**DEVICES, 'ram': 'mgmtdev sim_blk backend ram 8388608'})
        pid = self.host.app.pid
        with KeptBlock(random.Random(5), queues=1) as disk:
            disk.connect(self.host.app.socket('ram')).start()
            self.assertRegex(self.host.app.refusal('daemon.upgrade'),
                             r'^1 device does not go on, and with --force \(force: true\) starts anew: ram \(.*backend ram')
            disk.check_connection()
            self.assertEqual(self.host.app.pid, pid)
            with self.traffic():
                answer = self.host.upgrade(devices=2, force=True)
            self.assertEqual(answer['anew'], ['ram'])
            self.assertTrue(disk.client.is_closed())
        with KeptBlock(random.Random(5), queues=1) as disk:
            disk.connect(self.host.app.socket('ram')).start()
        self.check()

    def test_a_device_whose_record_does_not_read_is_named(self):
        """It costs nobody else anything."""
        self.begin(devices={'disk0': DISK, 'net0': NET, 'net1': NET})
        with vu.Client(self.host.app.socket('net1')) as client:
            client.ask_u64(vu.GET_FEATURES)
            # Nothing of it is written from here on.
            client.ask_u64(vu.GET_PROTOCOL_FEATURES)
            self.spoil_records('net1')
            self.assertRegex(self.host.app.refusal('daemon.upgrade'),
                             r'^1 device does not go on.*net1 \(its record in the journal cannot be read\)')
            self.assertTrue(client.ask_u64(vu.GET_FEATURES))
            self.spoil_records('net1')
            with self.traffic():
                answer = self.host.upgrade(devices=2, force=True)
            self.assertEqual(answer['anew'], ['net1'])
            self.assertTrue(client.is_closed())
        with vu.Client(self.host.app.socket('net1')) as client:
            self.assertTrue(client.ask_u64(vu.GET_FEATURES))
        self.check()

    def spoil_records(self, name):
        """Somebody else writes into the daemon's journal: no record of the device checks any more."""
        folder = f'/proc/{self.host.app.pid}/fd'
        journal = next(f'{folder}/{fd}' for fd in os.listdir(folder)
                       if 'memfd:uvdpa-journal' in os.readlink(f'{folder}/{fd}'))
        with open(journal, 'r+b', buffering=0) as file:
            head = file.read(8 << 20)
            at = head.find(name.encode() + b'\0')
            while at >= 0:
                os.pwrite(file.fileno(), b'\xff', at + len(name) + 1)
                at = head.find(name.encode() + b'\0', at + 1)

    def test_devices_whose_words_have_changed_are_named(self):
        self.begin(devices={'disk0': DISK, 'net0': NET, 'net1': NET})
        self.host.app.set('net1', 'link down')
        self.assertRegex(self.host.app.refusal('daemon.upgrade'),
                         r'^1 device does not go on.*net1 \(its words have changed\)')
        self.check()
        with self.traffic():
            answer = self.host.upgrade(devices=2, force=True)
        self.assertEqual(answer['anew'], ['net1'])
        self.check()

    def test_a_device_with_two_reasons_is_named_once(self):
        self.begin(devices={'disk0': DISK, 'net0': NET, 'net1': NET})
        other = self.host.program('other', 'for a; do shift; case "$a" in "name net1 "*) a="$a mac 02:00:00:00:00:77";; '
                                  f'esac; set -- "$@" "$a"; done\nexec {harness.APP} "$@"')
        with vu.Client(self.host.app.socket('net1')) as client:
            begin_move(client)
            client.ask_u64(vu.GET_FEATURES)
            answer = self.host.upgrade(devices=2, force=True, program=other)
        self.assertEqual(answer['anew'], ['net1'])
        self.check()

    def test_a_connection_that_cannot_go_on(self):
        self.begin(devices={**DEVICES, 'net1': NET})
        with vu.Client(self.host.app.socket('net1')) as client:
            begin_move(client)
            client.ask_u64(vu.GET_FEATURES)
            self.assertRegex(self.host.app.refusal('daemon.upgrade'), r'net1 \(its device.s state is being moved')
            self.assertTrue(client.ask_u64(vu.GET_FEATURES))
        # Its end may not have been noticed yet.
        with self.traffic():
            harness.wait_for(self.is_upgraded, 'the end of the connection')
        self.check()

    def cut_memory(self, client):
        """A front end whose guest memory is shorter than it has said: no other process maps it."""
        memory = vu.Memory()
        self.addCleanup(memory.close)
        client.negotiate(vu.F_VERSION_1)
        self.assertEqual(client.set_memory(memory), 0)
        os.ftruncate(memory.fd, 4096)

    def test_a_front_end_that_no_process_can_go_on_with(self):
        """It does not keep an upgrade with --force from happening, and costs no other device anything."""
        self.begin(devices={**DEVICES, 'net1': NET})
        app = self.host.app
        with vu.Client(app.socket('net1')) as client:
            self.cut_memory(client)
            with self.traffic():
                self.assertRegex(app.refusal('daemon.upgrade'), r'2 of 3 devices went over, and no more, not net1:')
            self.assertEqual(self.host.app.pid, app.pid)
            self.assertEqual(sorted(app.call('dev.list')['names']), ['disk0', 'net0', 'net1'])
        self.check()
        at = len(app.out.lines)
        with vu.Client(app.socket('net1')) as client:
            self.cut_memory(client)
            with self.traffic():
                answer = self.host.upgrade(devices=2, force=True)
            self.assertEqual((answer['anew'], answer['lost']), (['net1'], []))
            self.assertTrue(client.is_closed())
        # It has been made by then.
        app.out.wait('took over 2 devices', at)
        with vu.Client(self.host.app.socket('net1')) as client:
            self.assertTrue(client.ask_u64(vu.GET_FEATURES))
        self.check()
        # It is one of the configuration's, as it was before.
        self.host.upgrade(devices=3)
        self.check()

    def test_a_device_that_the_new_daemon_cannot_make(self):
        """Its disk has gone; with --force it starts anew where it can, and costs no other device anything."""
        self.begin(devices={**DEVICES, 'disk1': DISK.replace('disk0', 'disk1')})
        app, path = self.host.app, f'{self.host.folder}/disk1.disk'
        away = self.host.program('away', f'mv {path} {path}.away\nexec {harness.APP} "$@"')
        with vu.Client(app.socket('disk1')) as client:
            self.assertTrue(client.ask_u64(vu.GET_FEATURES))
            at = len(app.out.lines)
            with self.traffic():
                answer = self.host.upgrade(devices=2, force=True, program=away)
            self.assertEqual(answer['anew'], ['disk1'])
            self.assertTrue(client.is_closed())
        app.out.wait('took over 2 devices', at)
        app.err.wait('disk1: cannot start anew, and is lost')
        os.rename(f'{path}.away', path)
        app.add(f'name disk1 {DISK.replace("disk0", "disk1").format(folder=self.host.folder)} socket {app.dir}/disk1.sock')
        with vu.Client(app.socket('disk1')) as client:
            self.assertTrue(client.ask_u64(vu.GET_FEATURES))
        self.check()

    def test_a_device_that_nobody_can_make_any_more(self):
        """Its disk has gone: the upgrade fails, and the daemon goes on with the others."""
        self.begin(devices={**DEVICES, 'disk1': DISK.replace('disk0', 'disk1')})
        app, path = self.host.app, f'{self.host.folder}/disk1.disk'
        away = self.host.program('away', f'mv {path} {path}.away\nexec {harness.APP} "$@"')
        self.refused('disk1: cannot open', program=away)
        app.err.wait('upgrade: disk1: cannot be made again yet')
        app.err.wait('upgrade: disk1: cannot be made again, and is lost')
        app.out.wait('upgrade: this daemon goes on, with 2 devices')
        self.check()

    def is_upgraded(self):
        try:
            self.host.upgrade(devices=3)
        except harness.ControlError:
            return False
        return True

    def test_programs_that_others_can_change(self):
        self.begin()
        self.refused('allowed is an absolute path', program='vdpa-app')
        path = self.host.program('open', 'exit 0')
        os.chmod(path, 0o777)
        self.refused('users other than root', program=path)
        os.chmod(path, 0o755)
        folder = f'{self.host.folder}/open.d'
        os.mkdir(folder)
        os.chmod(folder, 0o777)
        os.rename(path, f'{folder}/open')
        self.refused('users other than root', program=f'{folder}/open')
        self.refused('is no file', program=self.host.folder)
        os.chmod(self.host.program('setuid', 'exit 0'), 0o4755)
        self.refused('setuid', program=f'{self.host.folder}/setuid')
        self.check()

    def test_several_at_once(self):
        self.begin()
        hangs = self.host.program('hangs', f'cd {self.host.folder}; echo $$ >hangs.pid; mv hangs.pid hangs.up; exec sleep 1000')
        thread = threading.Thread(target=self.host.app.refusal, args=('daemon.upgrade',), kwargs={'program': hangs})
        thread.start()
        harness.wait_for(lambda: os.path.exists(f'{self.host.folder}/hangs.up'), 'the program')
        self.assertIn('an upgrade is at work', self.host.app.refusal('daemon.upgrade'))
        os.kill(self.host.app.pid, signal.SIGUSR2)
        self.host.app.err.wait('upgrade: an upgrade is at work')
        with open(f'{self.host.folder}/hangs.up', encoding='ascii') as f:
            os.kill(int(f.read()), signal.SIGTERM)
        thread.join()
        self.check()


load_tests = harness.load_tests


if __name__ == '__main__':
    unittest.main(verbosity=2)
