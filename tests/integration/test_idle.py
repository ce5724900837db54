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
    def test_64_devices_are_as_idle_as_one(self):
        """Threads, CPU seconds and wake-ups by thread of two daemons while their devices idle."""
        def cpu():
            return [harness.cpu_seconds(daemon.pid) for daemon in daemons]

        def wake_ups():
            return [harness.wake_ups(daemon.pid) for daemon in daemons]

        with harness.Daemon(words(1)) as one, harness.Daemon(words(64)) as other:
            daemons = one, other
            time.sleep(1)
            wake_ups_before, cpu_before = wake_ups(), cpu()
            time.sleep(SECONDS)
            few_cpu, cpu = (now - then for now, then in zip(cpu(), cpu_before))
            few, many = ({name: now[name] - then.get(name, 0) for name in now}
                         for now, then in zip(wake_ups(), wake_ups_before))
            few_threads, many_threads = (harness.threads(daemon.pid) for daemon in daemons)
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
