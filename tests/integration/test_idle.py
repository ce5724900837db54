# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Idle devices cost neither threads, nor time, nor wake-ups."""

import os
import time
import unittest

import harness

SECONDS = 5.0


def words(n):
    half = [f'name net{i} mgmtdev sim_net socket {{dir}}/net{i}.sock' for i in range(n)]
    return [w if i % 2 == 0 else
            f'name blk{i} mgmtdev sim_blk backend ram 1M socket {{dir}}/blk{i}.sock'
            for i, w in enumerate(half)]


class Idle(unittest.TestCase):
    def measure(self, n):
        """Threads, CPU seconds and wake-ups by thread while n devices idle."""
        with harness.Daemon(words(n)) as daemon:
            time.sleep(1)
            switches = harness.context_switches(daemon.pid)
            cpu = harness.cpu_seconds(daemon.pid)
            time.sleep(SECONDS)
            cpu = harness.cpu_seconds(daemon.pid) - cpu
            after = harness.context_switches(daemon.pid)
            return (harness.threads(daemon.pid), cpu,
                    {name: after[name] - switches.get(name, 0) for name in after})

    def test_64_devices_are_as_idle_as_one(self):
        few_threads, few_cpu, few = self.measure(1)
        many_threads, cpu, many = self.measure(64)
        print(f'wake-ups in {SECONDS:g} s, by thread: 1 device {few}; 64 devices {many}; '
              f'CPU with 64: {100 * cpu / SECONDS:.1f} %', flush=True)
        self.assertEqual(many_threads, few_threads)
        # A tick of the clock that processes are accounted by is 0.2 % here, and one may fall on a
        # process that hardly runs; 64 devices that woke 10 times a second would cost more.
        self.assertLessEqual(cpu, few_cpu + 3.5 / os.sysconf('SC_CLK_TCK'))
        for name, count in many.items():
            self.assertEqual(count, 0, name)


if __name__ == '__main__':
    unittest.main(verbosity=2)
