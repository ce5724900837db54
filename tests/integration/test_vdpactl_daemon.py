# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""vdpactl against vdpa-app: every verb, and what it says where one is refused."""

import json
import os
import select
import subprocess
import unittest

import harness
from vdpactl_tool import VDPACTL, Test, run, samples


class RealDaemon(Test):
    """Every verb against vdpa-app."""

    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.folder, 'control.sock')
        self.config = os.path.join(self.folder, 'uvdpa.conf')
        with open(self.config, 'w'):
            pass
        self.daemon = harness.Daemon(args=['--config', self.config, '--control', self.path],
                                     folder=self.folder)
        self.addCleanup(self.daemon.cleanup)
        self.daemon.start()
        self.addCleanup(lambda: self.assertEqual(self.daemon.stop(), 0))

    def ctl(self, *args):
        return run(self.path, *args)

    def test_life_of_a_device(self):
        socket = f'{self.folder}/net0.sock'
        self.assertEqual(self.ok('dev', 'show'), '')
        self.assertEqual(self.ok('-j', 'dev', 'show'), '{"dev":{}}\n')
        self.assertIn('sim_net: \n  supported_classes net\n  max_supported_vqs ', self.ok('mgmtdev', 'show'))
        self.assertEqual(self.ok('dev', 'add', 'name', 'net0', 'mgmtdev', 'sim_net', 'mac',
                                 '52:54:00:00:00:01', 'mtu', '1400', 'socket', socket), '')
        self.assertTrue(os.path.exists(socket))
        self.assertRegex(self.ok('dev', 'show', 'net0'), r'^net0: type network mgmtdev sim_net '
                         r'vendor_id \d+ max_vqs \d+ max_vq_size \d+\n$')
        self.assertRegex(self.ok('dev', 'config', 'show', 'net0'),
                         '^net0: mac 52:54:00:00:00:01 link up link_announce false .*mtu 1400 \n$')
        self.assertEqual(self.ok('dev', 'set', 'net0', 'link', 'down'), '')
        self.assertIn('link down ', self.ok('dev', 'config', 'show', 'net0'))
        self.ok('dev', 'add', 'name', 'blk0', 'mgmtdev', 'sim_blk', 'backend', 'ram', '1M', 'socket',
                f'{self.folder}/blk0.sock')
        self.assertEqual(self.ok('-j', 'dev', 'config', 'show', 'blk0'), '{"config":{"blk0":{}}}\n')
        self.assertIn('state: idle', self.ok('dev', 'info', 'net0'))
        self.assertRegex(self.ok('dev', 'stats', 'net0'), r'(?s)^net0:\n  device .*\n  queue 0 .*path direct')
        self.assertEqual(len(self.ok('dev', 'queues', 'net0').splitlines()), 2 + 3)
        self.assertIn(' 2 devices: 2 idle\n', self.ok('top', '-d', '0.1'))
        found = samples(self.ok('metrics'))
        self.assertEqual(sum(found['uvdpa_device_state'].values()), 2)
        self.assertEqual(self.ok('dev', 'del', 'net0'), '')
        self.assertFalse(os.path.exists(socket))

    def test_errors(self):
        self.refused('dev', 'show', 'x', text='uvdpa answers: No such device: ')
        self.refused('-j', 'dev', 'config', 'show', 'x', text='No such device', stdout='{"config":{}}\n')
        self.refused('mgmtdev', 'show', 'x', text='No such device')
        self.refused('dev', 'del', 'x', text='No such device')
        self.refused('dev', 'set', 'x', 'link', 'up', text='No such device')
        self.refused('dev', 'info', 'x', text='No such device')
        self.refused('dev', 'stats', 'x', text='No such device')
        self.refused('dev', 'queues', 'x', text='No such device')
        self.refused('dev', 'add', 'name', 'a', 'mgmtdev', 'x', text='No such device')
        self.refused('dev', 'add', 'name', 'a', 'mgmtdev', 'sim_net', 'bogus', '1',
                     text="Invalid argument: ")
        self.ok('dev', 'add', 'name', 'a', 'mgmtdev', 'sim_net', 'socket', f'{self.folder}/a')
        self.refused('dev', 'add', 'name', 'a', 'mgmtdev', 'sim_net', text='File exists')
        self.refused('dev', 'vstats', 'show', 'a', 'qidx', '0',
                     text='Resource temporarily unavailable: ', stdout='')
        self.refused('monitor', 'bogus', text="Invalid argument: params.events[0] 'bogus': allowed are ")
        self.refused('call', 'bogus', text="method 'bogus'")
        self.refused('call', 'dev.show', '{"x":1}', text='Invalid argument: params')

    def test_monitor(self):
        process = subprocess.Popen([VDPACTL, '-S', self.path, 'monitor', '-n', '2'],
                                   stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        line = ''
        # Subscribed when the first of these is seen.
        for i in range(1000):
            self.ok('dev', 'add', 'name', f'net{i}', 'mgmtdev', 'sim_net', 'socket', f'{self.folder}/{i}')
            if select.select([process.stdout], [], [], 0.2)[0]:
                line = process.stdout.readline()
                break
        self.assertRegex(line, r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z net\d+ device\.added')

    def test_reload_and_save(self):
        with open(self.config, 'w') as f:
            f.write(f'name net0 mgmtdev sim_net socket {self.folder}/net0\n')
        self.assertEqual(self.ok('reload'), 'added: net0\nunchanged: 0\n')
        self.assertIn(f'\nname net0 mgmtdev sim_net socket {self.folder}/net0', self.ok('save'))
        with open(self.config, 'a') as f:
            f.write('name net1 mgmtdev nobody\n')
        self.one_line('reload', text=f'uvdpa answers: Invalid argument: {self.config}:2: ')
        with open(self.config, 'w') as f:
            f.write(f'name net1 mgmtdev sim_net socket {self.folder}/nowhere/net1\n')
        self.refused('reload', text='uvdpa answers: net1: ', stdout='removed: net0\nunchanged: 0\n')

    def test_version_and_methods(self):
        self.assertRegex(self.ok('version'), r'\nvdpa-app \S+, protocol 1, pid %d, ' % self.daemon.pid)
        names = [line.split()[0] for line in self.ok('methods').splitlines()]
        for name in ('version', 'dev.add', 'events.subscribe'):
            self.assertIn(name, names)
        self.assertIn('sim_net', self.ok('dev', 'add', 'help'))
        words = self.ok('dev', 'set', 'help')
        self.assertRegex(words, r'(?m)^Management device sim_net: .*\n(    .*\n)*    link ')
        self.assertRegex(words, r'(?m)^Management device sim_blk: .*\n(    .*\n)*    resize\n')
        self.assertNotIn('socket', words)
        self.assertEqual(json.loads(self.ok('call', 'dev.list')), {'names': [], 'more': False})

load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main()
