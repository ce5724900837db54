#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A daemon with simulated devices is killed before each act of a start, a take-over, a change of memory, a
migration and a stop (kill_points.py): the next one works, and nothing is leaked."""

import os
import random
import unittest

import harness
import kill_points
from restarting import IMAGE, Host

SEED = int(os.environ.get('UVDPA_TEST_SEED', '0')) or random.SystemRandom().randrange(1, 1 << 32)
STRIDE = int(os.environ.get('UVDPA_KILL_STRIDE', '0')) or harness.count(61, 1)


class Points(unittest.TestCase):
    def setUp(self):
        kill_points.skip_without()
        self.rng = random.Random(f'{SEED} {self.id()}')
        print(f'seed {SEED}', flush=True)

    def steps(self, name, words, guest_class, packed):
        host = self.enterContext(Host({name: words}))
        made = []

        def make():
            # The next guest's disk is as its first one was.
            with open(f'{host.folder}/{name}.disk', 'r+b') as disk:
                disk.truncate(0)
                disk.truncate(IMAGE)
            guest = guest_class(self.rng, packed)
            made.append(guest)
            return guest.connect(host.app.socket(name)).start()

        self.addCleanup(lambda: [guest.close() for guest in made[-1:]])
        steps = kill_points.Steps(self, host, name, make, STRIDE, self.rng.randrange(STRIDE))
        steps.begin()
        return steps

    def all(self, steps):
        steps.goes_on = ('stop and start', 'log', 'memory', 'reset', 'SIGTERM', 'take-over', 'take-over of take-overs')
        steps.at_each('stop and start', kill_points.stop_and_start)
        steps.at_each('log', kill_points.log_on_and_off)
        steps.at_each('memory', kill_points.other_memory)
        steps.at_each('reset', kill_points.reset, within=['stop and start'])
        steps.at_each('state', kill_points.save_state, within=['stop and start'])
        steps.at_each('connection', kill_points.connect_again, within=['stop and start'])
        steps.at_each('dev del and add', kill_points.delete_and_add, may_close=True)
        steps.at_each('SIGTERM', kill_points.terminate)
        steps.at_each('SIGINT', kill_points.interrupt, may_close=True)
        steps.at_each_of_a_start()
        steps.at_each_of_a_start('take-over of take-overs', in_a_row=4)
        self.assertGreater(steps.kills, 5)

    def test_net(self):
        self.all(self.steps('net0', 'mgmtdev sim_net backend loopback', kill_points.Net, packed=False))

    def test_block(self):
        self.all(self.steps('disk0', 'mgmtdev sim_blk backend file {folder}/disk0.disk queues 2 device_state on', kill_points.Block,
                            packed=True))

    def shadows(self, steps):
        """What differs from the acts above: rings of ours, which end with the daemon."""
        steps.goes_on = ('stop and start', 'memory', 'reset', 'SIGTERM', 'take-over', 'take-over of take-overs')
        steps.at_each('stop and start', kill_points.stop_and_start)
        steps.at_each('memory', kill_points.other_memory)
        steps.at_each('reset', kill_points.reset, within=['stop and start'])
        steps.at_each('SIGTERM', kill_points.terminate)
        steps.at_each_of_a_start()
        steps.at_each_of_a_start('take-over of take-overs', in_a_row=4)

    def test_net_on_shadows(self):
        self.shadows(self.steps('net0', 'mgmtdev sim_net backend loopback migration shadow', kill_points.ShadowNet, packed=True))

    def test_block_on_shadows(self):
        self.shadows(self.steps('disk0', 'mgmtdev sim_blk backend file {folder}/disk0.disk queues 2 migration shadow',
                                kill_points.Block, packed=False))


if __name__ == '__main__':
    unittest.main(verbosity=2)
