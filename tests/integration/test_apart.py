# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Devices and front ends that do not wait for each other: functions that do not answer, many front
ends, and a process that is out of file descriptors."""

import os
import re
import resource
import select
import signal
import socket
import struct
import time
import unittest

import harness
import vhost_user_client as vhu

STUCK = 32
HEALTHY = 'name healthy mgmtdev sim_net backend loopback socket {dir}/healthy.sock'


class Stuck(unittest.TestCase):
    def test_a_healthy_device_starts_while_32_functions_do_not_answer(self):
        model_words = [f'name m{i} mgmtdev sim_net vfio_user {{dir}}/m{i}.vfu' for i in range(STUCK)]
        with harness.Daemon(model_words, app=os.environ['UVDPA_MODEL']) as model:
            words = [f'name v{i} mgmtdev vfio-user/{model.dir}/m{i}.vfu timeout_ms 10000 socket {{dir}}/v{i}.sock'
                     for i in range(STUCK)]
            with harness.Daemon([HEALTHY, *words]) as daemon:
                nets = [vhu.NetDriver(daemon.socket(f'v{i}')) for i in range(STUCK)]
                for net in nets:
                    assert net.tx.start(net.client) == 0
                os.kill(model.pid, signal.SIGSTOP)
                try:
                    for net in nets:
                        # Its answer needs the function, which is given up after ten seconds.
                        net.client.send(vhu.GET_VRING_BASE, struct.pack('<II', net.tx.index, 0))
                    with vhu.NetDriver(daemon.socket('healthy')) as net:
                        net.start()
                        net.exchange()
                        names = harness.threads_now(daemon.pid)
                        answered, _, _ = select.select([n.client.sock for n in nets], [], [], 0)
                    print(f'{len(answered)} of {STUCK} answered before the healthy device ran; '
                          f'{names.count("vdpa-work")} threads for device work', flush=True)
                    self.assertEqual(answered, [])
                    self.assertGreaterEqual(names.count('vdpa-work'), STUCK)
                    self.assertLessEqual(names.count('vdpa-work'), STUCK + 3)
                finally:
                    os.kill(model.pid, signal.SIGCONT)
                for net in nets:
                    net.close()
                # Threads are there as long as there is work.
                self.assertNotIn('vdpa-work', harness.threads(daemon.pid))


class Many(unittest.TestCase):
    def test_connected_front_ends_cost_no_thread_and_no_wake_up(self):
        count = harness.count(300, 2000)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        need = min(hard, 4 * count + 200)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, need), hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        words = [f'name n{i} mgmtdev sim_net backend loopback socket {{dir}}/n{i}.sock'
                 for i in range(count)]
        with harness.Daemon(words[:1]) as daemon:
            few = len(harness.threads(daemon.pid))
        with harness.Daemon(words) as daemon:
            clients = [vhu.Client(daemon.socket(f'n{i}')) for i in range(count - 1)]
            try:
                for client in clients:
                    client.negotiate()
                self.assertEqual(len(harness.threads(daemon.pid)), few)
                before = harness.wake_ups(daemon.pid)
                time.sleep(2)
                after = harness.wake_ups(daemon.pid)
                for name, switches in after.items():
                    if name.startswith('vdpa-'):
                        self.assertEqual(switches, before.get(name, 0), name)
                # A message to one wakes the loop once, whatever the others do.
                with vhu.NetDriver(daemon.socket(f'n{count - 1}')) as net:
                    net.start()
                    net.exchange()
            finally:
                for client in clients:
                    client.close()


class Descriptors(unittest.TestCase):
    def test_a_connection_waits_while_there_is_no_file_descriptor(self):
        with harness.Daemon([HEALTHY]) as daemon:
            used = len(os.listdir(f'/proc/{daemon.pid}/fd'))
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (used, 4096))
            waiting = vhu.Client(daemon.socket('healthy'))
            try:
                _, at = daemon.err.wait(
                    rf'healthy: vhost-user: connections wait: .*RLIMIT_NOFILE is {used}')
                # One line, not one for each try.
                time.sleep(1)
                self.assertEqual(len(re.findall('RLIMIT_NOFILE', daemon.err.text())), 1)
                resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (1024, 4096))
                waiting.negotiate()
            finally:
                waiting.close()

    def test_descriptors_that_come_when_there_is_no_room_end_their_connection(self):
        with harness.Daemon([HEALTHY]) as daemon, vhu.Client(daemon.socket('healthy')) as client:
            client.negotiate()
            used = len(os.listdir(f'/proc/{daemon.pid}/fd'))
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (used, 4096))
            client.send(vhu.SET_VRING_CALL, struct.pack('<Q', 0), [client.eventfd()])
            self.assertTrue(client.is_closed())
            daemon.err.wait('message refused: .*no room for them')
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (1024, 4096))
            with vhu.NetDriver(daemon.socket('healthy')) as net:
                net.start()
                net.exchange()


if __name__ == '__main__':
    unittest.main()
