# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Front ends that are killed at random points of their sessions leave nothing behind: on a simulated
net device, on a disk, and on a virtio function in another process.

A session is a process that sets a device up, uses it, and sets it up again. Every other one kills
itself before a message of a number drawn from a fixed seed (UVDPA_SEED chooses another), the rest are
killed at a time. A long run has 10,000 sessions.
"""

import contextlib
import os
import random
import signal
import struct
import time
import unittest

import harness
import vhost_user_client as vhu

MODEL = os.environ.get('UVDPA_MODEL', 'vdpa-model')
SEED = int(os.environ.get('UVDPA_SEED', '20260117'))
SESSIONS = harness.count(60, 10000)
# Memory may grow a little while allocators settle: one page a session would be 40 MB in a long run.
RSS_SLACK_KIB = 2000
# A sanitizer keeps what was freed.
SANITIZER_KIB = 1 << 32

DEVICES = ('net0', 'blk0', 'vio0')


class Messages(vhu.Client):
    """A client that dies before its message of a number; left is how many it may still send."""

    left = None

    def send_raw(self, data, fds=()):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        super().send_raw(data, fds)


def connected(path, left):
    """A client whom the device serves: its predecessor's end may not have been noticed yet."""
    while True:
        client = Messages(path)
        try:
            client.ask_u64(vhu.GET_FEATURES)
        except vhu.Closed:
            client.close()
            time.sleep(0.001)
            continue
        client.left = left
        return client


def net_session(client, ring):
    with vhu.NetDriver(None, ring, client=client) as net:
        for _ in range(3):
            net.start()
            net.exchange()
            net.exchange()
            net.stop()
            net.rx, net.tx = (ring(net.memory, i) for i in range(2))


def block_session(client, ring):
    """GET_ID, again and again."""
    client.negotiate(vhu.F_VERSION_1 | ring.FEATURE)
    memory = vhu.Memory()
    assert client.set_memory(memory) == 0
    at = memory.alloc(4096)
    for _ in range(3):
        queue = vhu.SplitRing(memory, 0)
        assert queue.start(client) == 0
        memory.write(at, struct.pack('<IIQ', 8, 0, 0))
        queue.set_desc(0, memory.GPA + at, 16, vhu.DESC_NEXT, 1)
        queue.set_desc(1, memory.GPA + at + 16, 20, vhu.DESC_NEXT | vhu.DESC_WRITE, 2)
        queue.set_desc(2, memory.GPA + at + 36, 1, vhu.DESC_WRITE)
        queue.submit(0)
        queue.kick()
        assert vhu.wait_until(queue.poll) == 21
        client.ask(vhu.GET_VRING_BASE, struct.pack('<II', 0, 0))


class Sessions(unittest.TestCase):
    def session(self, path, name, rnd, most):
        """One session in a process of its own; whether it was killed before its end."""
        ring = vhu.SplitRing if name == 'blk0' else rnd.choice((vhu.SplitRing, vhu.PackedRing))
        left = rnd.randrange(self.messages[name]) if rnd.randrange(2) else None
        seconds = rnd.random() * most
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                client = connected(path, left)
                os.write(told, b'.')
                (block_session if name == 'blk0' else net_session)(client, ring)
                code = 0
            finally:
                os._exit(code)
        os.close(told)
        try:
            self.assertEqual(os.read(ready, 1), b'.', f'{name} does not serve a front end')
            if left is None:
                time.sleep(seconds)
                os.kill(pid, signal.SIGKILL)
        finally:
            os.close(ready)
            _, status = os.waitpid(pid, 0)
        self.assertIn(status, (0, signal.SIGKILL), f'{name}: a session that was not killed failed')
        return status != 0

    def measure(self, path, name):
        """Messages and seconds of a whole session."""
        client = connected(path, 1 << 20)
        start = time.monotonic()
        (block_session if name == 'blk0' else net_session)(client, vhu.SplitRing)
        client.close()
        return (1 << 20) - client.left, time.monotonic() - start

    def idle(self, telemetry):
        for name in DEVICES:
            harness.wait_for(lambda: telemetry.ask(f'/vdpa/dev/show,{name}')['state'] == 'idle',
                             f'{name} to be idle')

    def test_killed_at_random_points(self):
        rnd = random.Random(SEED)
        model_words = 'name m0 mgmtdev sim_net backend loopback vfio_user {dir}/m0.vfu'
        with contextlib.ExitStack() as stack:
            model = stack.enter_context(harness.Daemon([model_words], app=MODEL))
            app = stack.enter_context(harness.Daemon([
                'name net0 mgmtdev sim_net backend loopback socket {dir}/net0.sock',
                'name blk0 mgmtdev sim_blk backend ram 4M socket {dir}/blk0.sock',
                f'name vio0 mgmtdev vfio-user/{model.dir}/m0.vfu socket {{dir}}/vio0.sock']))
            telemetry = stack.enter_context(app.telemetry())
            self.messages, seconds = {}, {}
            for _ in range(3):
                for name in DEVICES:
                    self.messages[name], seconds[name] = self.measure(app.socket(name), name)
            self.idle(telemetry)
            before = harness.settled(app.pid), harness.settled(model.pid)
            killed = 0
            for i in range(SESSIONS):
                name = DEVICES[i % len(DEVICES)]
                killed += self.session(app.socket(name), name, rnd, seconds[name])
            self.idle(telemetry)
            harness.figure(f'{SESSIONS} sessions, {killed} killed before their end')
            for process, then in (app, before[0]), (model, before[1]):
                after = harness.nothing_left(process.pid, then)
                harness.figure(f'{os.path.basename(process.command[0])}: before {then}, after {after}')
                if then.virtual < SANITIZER_KIB:
                    self.assertLess(after.rss, then.rss + RSS_SLACK_KIB)
            # All of them still work.
            for name in DEVICES:
                self.measure(app.socket(name), name)
            self.assertGreater(killed, SESSIONS // 2)


if __name__ == '__main__':
    unittest.main(verbosity=2)
