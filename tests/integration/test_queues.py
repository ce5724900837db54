#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""A block guest uses fewer queues than its device has, and its front end reports no status: the device
starts, over each front end, whether it takes late queues or not; and says where they stopped."""

import os
import unittest

import harness
import test_dpdk_vdpa as dpdk
import vhost_user_client as vhu

# VERSION_1 and MQ only: no RING_RESET, so a virtio function takes no queue while it runs.
NO_RING_RESET = 'device_features 0x100001000'


def setUpModule():
    dpdk.setUpModule()


class Queues(unittest.TestCase):
    def check(self, path, announced, used, resumes):
        with vhu.BlockDriver(path, announced, used) as blk:
            blk.start()
            blk.exchange()
            self.assertEqual(blk.stop(), [2] * used)
            if not resumes:
                return
            for ring in blk.rings:
                self.assertEqual(ring.start(blk.client), 0)
            blk.exchange()
            self.assertEqual(blk.stop(), [4] * used)

    def check_all(self, path, resumes):
        for announced, used in (2, 1), (16, 16), (16, 1):
            with self.subTest(announced=announced, used=used):
                self.check(path, announced, used, resumes)

    def model(self):
        return harness.Daemon(
            ['name m0 mgmtdev sim_blk backend ram 1M queues 16 ' + NO_RING_RESET +
             ' vfio_user {dir}/m0.vfu'], app=dpdk.MODEL)


class VhostUser(Queues):
    def test_simulated(self):
        words = 'name b0 mgmtdev sim_blk backend ram 1M queues 16 socket {dir}/b0.sock'
        with harness.Daemon([words]) as daemon:
            self.check_all(daemon.dir + '/b0.sock', True)

    def test_model_without_queue_reset(self):
        with self.model() as model:
            words = f'name b0 mgmtdev vfio-user/{model.dir}/m0.vfu socket {{dir}}/b0.sock'
            with harness.Daemon([words]) as daemon:
                self.check_all(daemon.dir + '/b0.sock', False)


    def test_model_that_suspends(self):
        """The first queue that stops suspends the device; where the others stand is known, too."""
        words = ('name m0 mgmtdev sim_blk backend ram 1M queues 4 suspend on ' + NO_RING_RESET +
                 ' vfio_user {dir}/m0.vfu')
        with harness.Daemon([words], app=dpdk.MODEL) as model:
            words = f'name b0 mgmtdev vfio-user/{model.dir}/m0.vfu socket {{dir}}/b0.sock'
            with harness.Daemon([words]) as daemon, \
                    vhu.BlockDriver(daemon.dir + '/b0.sock', 4, 4) as blk:
                blk.start()
                for lap in 1, 2, 3:
                    blk.exchange()
                    before = model.ask('/model/stats,m0')['suspensions']
                    self.assertEqual(blk.stop(), [2 * lap] * 4)
                    self.assertEqual(model.ask('/model/stats,m0')['suspensions'], before + 1)
                    for ring in blk.rings:
                        self.assertEqual(ring.start(blk.client), 0)


class RteVdpa(Queues):
    def test_simulated(self):
        with dpdk.Example(['uvdpa0,mgmtdev=sim_blk,backend=ram 1M,queues=16']) as example:
            path = example.create('uvdpa0')
            self.check_all(path, True)

    def test_model_without_queue_reset(self):
        with self.model() as model, \
                dpdk.Example([f'uvdpa0,mgmtdev=vfio-user/{model.dir}/m0.vfu']) as example:
            path = example.create('uvdpa0')
            self.check_all(path, False)


if __name__ == '__main__':
    unittest.main()
