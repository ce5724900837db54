# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Whatever a front end does at its end, nothing of it is left in the daemon."""

import os
import signal
import subprocess
import sys
import time
import unittest

import harness
import vhost_user_client

NET = 'name net0 mgmtdev sim_net socket {dir}/net0.sock'
CYCLES = 200
# Memory may grow a little while allocators settle: one page a cycle would be 800 KiB.
RSS_SLACK_KIB = 400

# A front end in a process of its own, so that it can be killed: it exchanges a frame, says so, waits.
FRONT_END = '''
import sys
sys.path.insert(0, sys.argv[1])
import vhost_user_client as v
driver = v.NetDriver(sys.argv[2], v.PackedRing if sys.argv[3] == "packed" else v.SplitRing)
driver.start()
for line in sys.stdin:
    driver.exchange()
    print("exchanged", flush=True)
'''


class Usage:
    """What a process holds."""

    def __init__(self, daemon):
        self.fds = harness.fds(daemon.pid)
        self.threads = harness.threads(daemon.pid)
        self.mappings = harness.mappings(daemon.pid)
        self.rss = harness.rss_kib(daemon.pid)

    def same_handles(self, other):
        return (self.fds, self.threads, self.mappings) == (other.fds, other.threads,
                                                           other.mappings)

    def __repr__(self):
        return (f'{len(self.fds)} fds, {len(self.threads)} threads, {self.mappings} mappings, '
                f'{self.rss} KiB')


class Cycles(unittest.TestCase):
    def check(self, cycle, cycles=CYCLES, warm_up=10):
        # One telemetry client for all: each has a thread of DPDK's.
        with harness.Daemon([NET]) as daemon, daemon.telemetry() as self.client:
            for i in range(warm_up):
                cycle(daemon, i)
            self.settle()
            before = Usage(daemon)
            for i in range(cycles):
                cycle(daemon, i)
            self.settle()
            end = time.monotonic() + 5
            while True:
                after = Usage(daemon)
                if after.same_handles(before) or time.monotonic() > end:
                    break
                time.sleep(0.05)
            print(f'{self.id()}: before {before}; after {cycles} cycles {after}', flush=True)
            self.assertEqual(after.fds, before.fds)
            self.assertEqual(after.threads, before.threads)
            self.assertEqual(after.mappings, before.mappings)
            self.assertLess(after.rss, before.rss + RSS_SLACK_KIB)
            self.assertEqual(daemon.err.text(), '')

    def settle(self):
        """Until the device has noticed that its last front end is gone."""
        harness.wait_for(lambda: self.client.ask('/vdpa/dev/show,net0')['state'] == 'idle',
                         'the device to be idle')
        time.sleep(0.2)

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
        process = subprocess.Popen(
            [sys.executable, '-B', '-c', FRONT_END, os.path.dirname(os.path.abspath(__file__)),
             daemon.socket('net0'), 'packed' if i % 2 else 'split'],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            process.stdin.write('go\n')
            process.stdin.flush()
            self.assertEqual(process.stdout.readline(), 'exchanged\n')
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdin.close()
            process.stdout.close()

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
            self.assertEqual(self.client.ask(f'/vdpa/dev/add,{words}'), {'result': 'ok'})
            if i % 4 == 0:
                driver = vhost_user_client.NetDriver(daemon.socket('net1'), self.ring(i // 4))
                driver.start().exchange()
            self.assertEqual(self.client.ask('/vdpa/dev/del,net1'), {'result': 'ok'})
            if i % 4 == 0:
                driver.close()
        # The removal of a socket waits for rte_vhost: some tenths of a second each.
        self.check(cycle, cycles=40, warm_up=4)


if __name__ == '__main__':
    unittest.main(verbosity=2)
