#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""What goes on in an upgrade, before there is one: by `vdpactl upgrade --check`, by what is shown of a device, and by
the words of an upgrade that is refused or forced."""

import contextlib
import json
import os
import random
import subprocess
import unittest

import harness
import vhost_user_client as vu
from restarting import KeptNet, MODEL, ModelHost
from upgrading import Upgrades

VDPACTL = os.environ.get('UVDPA_VDPACTL', 'vdpactl')
NET = 'mgmtdev sim_net backend loopback'
RAM = 'mgmtdev sim_blk backend ram 8388608'
WORDS = 'its words have changed'


class ModelUpgrades(ModelHost, Upgrades):
    """A daemon that hands functions of a model over."""


def work(guest):
    before = guest.received
    harness.wait_for(lambda: guest.work(0.01) or guest.received - before > 50, 'frames')


class Check(unittest.TestCase):
    def begin(self, host):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.host = stack.enter_context(host)
        return self.host.app

    def check(self, *args):
        """Exit code and text; nothing has changed, and no process is left."""
        app, pid = self.host.app, self.host.app.pid
        done = subprocess.run([VDPACTL, *args, '-S', app.control_path, 'upgrade', '--check'], capture_output=True,
                              text=True, check=False, timeout=4 * harness.TIMEOUT)
        self.assertEqual((done.stderr, app.pid), ('', pid))
        self.assertIsNone(app.process.poll())
        for task in os.listdir(f'/proc/{pid}/task'):
            with contextlib.suppress(FileNotFoundError), \
                    open(f'/proc/{pid}/task/{task}/children', encoding='ascii') as children:
                self.assertEqual(children.read(), '')
        self.assertEqual([name for name in os.listdir(app.runtime_dir()) if ':' in name], [], 'telemetry sockets')
        self.assertNotIn('take-over', app.err.text())
        return done.returncode, done.stdout

    def shown(self, name):
        """What is said of the device's restart."""
        with self.host.app.control() as client:
            return client.show(name).get('restart')

    def test_all_go_on(self):
        app = self.begin(Upgrades({'net0': NET, 'net1': NET}))
        with KeptNet(random.Random(1)) as guest:
            guest.connect(app.socket('net0')).start()
            work(guest)
            self.assertEqual(self.shown('net0'), {'goes_on': True})
            code, text = self.check()
            self.assertEqual(code, 0)
            self.assertRegex(text, r'^all 2 devices go on, in version \S+ of /\S*vdpa-app\n$')
            code, text = self.check('-j')
            self.assertEqual((code, json.loads(text)['devices']),
                             (0, [{'name': name, 'goes_on': True} for name in ('net0', 'net1')]))
            guest.check_connection()
            work(guest)
            # It is no upgrade under way.
            self.host.upgrade(devices=2)
            work(guest)

    def test_what_does_not_go_on_is_in_a_table(self):
        """Also what only the new program knows, beside what this one does; and what --force makes of it."""
        app = self.begin(Upgrades({'net0': NET, 'net1': NET, 'ram': RAM}))
        app.add(f'name hand {RAM} socket {app.dir}/hand.sock')
        app.set('net1', 'link down')
        self.assertEqual(self.shown('ram')['goes_on'], False)
        self.assertRegex(self.shown('ram')['why'], 'backend ram')
        code, text = self.check()
        self.assertEqual(code, 1)
        self.assertRegex(text, r'(?m)^net0 +goes on$')
        self.assertRegex(text, rf'(?m)^net1 +starts anew +{WORDS}$')
        self.assertRegex(text, r'(?m)^ram +starts anew +.*backend ram')
        self.assertRegex(text, r'(?m)^hand +lost +.*backend ram')
        code, text = self.check('-j')
        said = {one.pop('name'): one for one in json.loads(text)['devices']}
        self.assertEqual((code, said['net0'], said['net1']),
                         (1, {'goes_on': True}, {'goes_on': False, 'why': WORDS, 'lost': False}))
        self.assertTrue(said['hand']['lost'])
        refusal = app.refusal('daemon.upgrade')
        self.assertRegex(refusal, r'^3 devices do not go on, and with --force \(force: true\) start anew: ram \([^;]*\), '
                                  r'net1 \(its words have changed\); is lost: hand \(')
        answer = self.host.upgrade(devices=1, force=True)
        self.assertEqual((sorted(answer['anew']), answer['lost']), (['net1', 'ram'], ['hand']))
        self.assertEqual(sorted(self.host.app.call('dev.list')['names']), ['net0', 'net1', 'ram'])

    def test_a_device_that_has_failed(self):
        """It is named, whatever a new daemon would stumble over, and --force starts it anew."""
        self.begin(ModelUpgrades({'dev0': NET}))
        with KeptNet(random.Random(2)) as guest:
            guest.connect(self.host.app.socket('dev0')).start()
            work(guest)
            self.assertEqual(self.shown('dev0'), {'goes_on': True})
            self.host.model.kill()
            harness.wait_for(lambda: self.host.app.show('dev0')['state'] == 'failed', 'the failure')
            os.unlink(f'{self.host.folder}/dev0.vfu')
            self.host.model.start()
            self.assertRegex(self.shown('dev0')['why'], '^has failed: .')
            code, text = self.check()
            self.assertEqual(code, 1)
            self.assertRegex(text, r'^dev0 +starts anew +has failed: ')
            self.assertRegex(self.host.app.refusal('daemon.upgrade'), r'^1 device does not go on.* dev0 \(has failed: ')
            self.assertEqual(self.host.upgrade(devices=0, force=True)['anew'], ['dev0'])
            self.assertTrue(guest.client.is_closed())
        with KeptNet(random.Random(2)) as guest:
            guest.connect(self.host.app.socket('dev0')).start()
            work(guest)

    def test_a_program_of_another_kind(self):
        app = self.begin(Upgrades({'net0': NET}))
        for method in 'daemon.upgrade_check', 'daemon.upgrade':
            self.assertRegex(app.refusal(method, program=MODEL),
                             'the other daemon is vdpa-app, and this one is vdpa-model')
        with vu.Client(app.socket('net0')) as client:
            self.assertTrue(client.ask_u64(vu.GET_FEATURES))

    def test_a_daemon_that_keeps_nothing(self):
        with harness.Daemon([f'name net0 {NET} socket {{dir}}/net0.sock']) as app:
            self.assertRegex(app.refusal('daemon.upgrade_check'), 'without --keep')
            with app.control() as client:
                self.assertNotIn('restart', client.show('net0'))


load_tests = harness.load_tests


if __name__ == '__main__':
    unittest.main(verbosity=2)
