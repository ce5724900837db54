# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A daemon that leaves its devices to the next one, and guests whose connections outlive it."""

import contextlib
import os
import select
import struct
import subprocess
import tempfile

import harness
import vhost_user_client as vu
from numbered_guest import PROTOCOL, BlockGuest, NetGuest

KEEPER = os.environ.get('UVDPA_KEEPER', 'vdpa-keeper')
IMAGE = 8 << 20


class Keeper:
    """A vdpa-keeper in a folder. Use it as a context manager."""

    def __init__(self, folder):
        self.path = f'{folder}/keeper'
        self.where = f'unix:{self.path}'

    def __enter__(self):
        self.process = subprocess.Popen([KEEPER, '--socket', self.path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, errors='replace')
        self.out = harness.Reader(self.process.stdout)
        harness.wait_for(lambda: os.path.exists(self.path), 'the keeper')
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()
        self.out.join()


class Host(contextlib.ExitStack):
    """devices: name -> words behind the name, {folder} is open. app: the daemon that lives now."""

    def __init__(self, devices, args=()):
        super().__init__()
        self.devices, self.args = devices, args
        self.starts = 0

    def __enter__(self):
        super().__enter__()
        self.folder = self.enter_context(tempfile.TemporaryDirectory(prefix='uvdpa-test.'))
        for name in self.devices:
            with open(f'{self.folder}/{name}.disk', 'wb') as disk:
                disk.truncate(IMAGE)
        self.keeper = self.enter_context(self.make_keeper())
        self.app = self.enter_context(harness.Daemon(
            [self.words(name) for name in self.devices],
            args=('--keep', self.keeper.where, *self.args)))
        return self

    def make_keeper(self):
        return Keeper(self.folder)

    def words(self, name):
        kind = self.devices[name].format(folder=self.folder)
        return f'name {name} {kind} socket {{dir}}/{name}.sock'

    def next(self, taken=None):
        """The next daemon, once this one has ended. How many devices it took over is checked."""
        self.app.start()
        self.starts += 1
        match, _ = self.app.out.wait(r'took over (\d+) device')
        assert taken is None or int(match.group(1)) == taken, \
            '\n'.join((self.app.out.text(), self.app.err.text()))

    def crash(self, taken=None):
        self.app.kill()
        self.next(taken)

    def restart(self, taken=None):
        """By SIGTERM."""
        code = self.app.stop()
        assert code == 0, code
        self.next(taken)


def patient(path):
    """A front end that waits for its answers over any number of kills."""
    return vu.Client(path, timeout=20 * harness.TIMEOUT)


class Kept:
    """A guest whose connection stays the same all the time."""

    def check_connection(self):
        """Nobody has closed it, and it has an answer for each question, and no more answers."""
        assert self.client.ask_u64(vu.GET_FEATURES)
        assert not select.select([self.client.sock], [], [], 0)[0], 'closed, or an answer without a question'


class KeptBlock(Kept, BlockGuest):
    def connect(self, path):
        self.client = patient(path)
        self.client.negotiate(self.features, PROTOCOL | vu.P_INFLIGHT)
        assert self.client.set_memory(self.memory) == 0
        return self

    def give_area(self):
        """The front end's inflight area, which it keeps over stops."""
        num, fds = max(q.num for q in self.queues), []
        area = self.client.ask(vu.GET_INFLIGHT_FD, struct.pack('<QQHHI', 0, 0, len(self.queues), num, 0), fds)
        assert len(fds) == 1, fds
        self.client.owned += fds
        assert self.client.ack(vu.SET_INFLIGHT_FD, area, fds) == 0

    def check(self):
        """Settled: each request came back once."""
        assert self.sent == self.reads + self.writes, self.account()


class KeptNet(Kept, NetGuest):
    """again: frames that came twice. A network may deliver so, where the daemon was killed between
    the sink's used ring and the source's."""

    def __init__(self, rng, packed=False):
        super().__init__(rng, packed)
        self.again = 0

    def connect(self, path):
        self.client = patient(path)
        self.client.negotiate(self.features, PROTOCOL)
        assert self.client.set_memory(self.memory) == 0
        return self

    def stop(self):
        """What sends first: frames that find no buffer are dropped, and nobody counts them over kills."""
        self.reap()
        for q in self.feed():
            q.kick()
        for q in (self.tx, self.rx):
            answer = self.client.ask(vu.GET_VRING_BASE, struct.pack('<II', q.index, 0))
            q.place = struct.unpack('<II', answer)[1]
        self.reap()

    def account_for(self, n):
        if n not in self.missing and 0 < n <= self.last:
            self.again += 1
            self.received -= 1
            return
        super().account_for(n)

    def account(self):
        return f'{super().account()}, {self.again} came twice'

    def check(self):
        assert self.sent == self.received and not self.missing, self.account()
