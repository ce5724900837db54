# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Whatever a front end does at its end, nothing of it is left in the daemon."""

import os
import signal
import unittest

import harness
import vhost_user_client

NET = 'name net0 mgmtdev sim_net socket {dir}/net0.sock'
CYCLES = harness.count(200, 2000)
# Memory may grow a little while allocators settle: one page a cycle would be twice as much.
RSS_SLACK_KIB = 400
# Two mappings for each arena that malloc() may have, of which threads that come and go make some more.
ARENAS_SLACK = 2 * 8 * os.cpu_count()


class Cycles(unittest.TestCase):
    def check(self, cycle, cycles=CYCLES, warm_up=10):
        with harness.Daemon([NET]) as daemon, daemon.control() as self.client:
            for i in range(warm_up):
                cycle(daemon, i)
            self.idle()
            before = harness.settled(daemon.pid)
            for i in range(cycles):
                cycle(daemon, i)
            self.idle()
            after = harness.nothing_left(daemon.pid, before)
            harness.figure(f'{self._testMethodName[5:]}: {cycles} cycles, before {before}, after {after}')
            self.assertLessEqual(after.mappings, before.mappings + ARENAS_SLACK)
            self.assertLess(after.rss, before.rss + RSS_SLACK_KIB)
            self.assertEqual(daemon.err.text(), '')

    def idle(self):
        """Until the device has noticed that its last front end is gone."""
        harness.wait_for(lambda: self.client.show('net0')['state'] == 'idle',
                         'the device to be idle')

    @staticmethod
    def ring(i):
        return vhost_user_client.PackedRing if i % 2 else vhost_user_client.SplitRing

    def orderly(self, daemon, i):
        with vhost_user_client.NetDriver(daemon.socket('net0'), self.ring(i)) as driver:
            driver.start()
            driver.exchange()
            driver.stop()

    def disconnect(self, daemon, i):
        with vhost_user_client.NetDriver(daemon.socket('net0'), self.ring(i)) as driver:
            driver.start()
            driver.exchange()

    def killed(self, daemon, i):
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                driver = vhost_user_client.NetDriver(daemon.socket('net0'), self.ring(i)).start()
                driver.exchange()
                os.write(told, b'.')
                signal.pause()
            finally:
                os._exit(1)
        os.close(told)
        try:
            self.assertEqual(os.read(ready, 1), b'.', 'no frame came back')
        finally:
            os.close(ready)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def run_testpmd(self, daemon, i):
        port = harness.virtio_user(daemon.socket('net0'), packed=bool(i % 2))
        with harness.Testpmd([port]) as pmd:
            pmd.run('start tx_first')
            if i % 4 < 2:
                pmd.kill()

    def test_orderly_close(self):
        self.check(self.orderly)

    def test_disconnect_while_running(self):
        self.check(self.disconnect)

    def test_sigkill(self):
        self.check(self.killed)

    def test_testpmd_closed_and_killed(self):
        self.check(self.run_testpmd, cycles=4, warm_up=2)

    def test_devices_added_and_removed(self):
        def cycle(daemon, i):
            words = NET.replace('net0', 'net1').format(dir=daemon.dir)
            self.client.add(words)
            if i % 4 == 0:
                driver = vhost_user_client.NetDriver(daemon.socket('net1'), self.ring(i // 4))
                driver.start().exchange()
            self.client.delete('net1')
            if i % 4 == 0:
                driver.close()
        self.check(cycle)


if __name__ == '__main__':
    unittest.main(verbosity=2)
