# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A daemon that leaves its devices to the next one, and guests whose connections outlive it."""

import contextlib
import mmap
import os
import select
import socket
import struct
import subprocess
import tempfile
import threading
import time

import harness
import vhost_user_client as vu
from numbered_guest import PROTOCOL, BlockGuest, NetGuest

KEEPER = os.environ.get('UVDPA_KEEPER', 'vdpa-keeper')
MODEL = os.environ.get('UVDPA_MODEL', 'vdpa-model')
KILL_AT = os.environ.get('UVDPA_KILL_AT_LIB', '')
IMAGE = 8 << 20
P_HOST_NOTIFIER = 1 << 11
CONFIG_CHANGE_MSG, HOST_NOTIFIER_MSG = 2, 3
AT_LEAST = 8  # requests under way at each end of a daemon


NO_KILL_AT = 'no library can be loaded before a daemon with a sanitizer'


def can_kill_at():
    return KILL_AT and 'libasan' not in subprocess.run(['ldd', harness.APP], capture_output=True, text=True, check=False).stdout


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

    def fails(self, step, arm=None):
        """The next daemon kills itself at a step: of its start; or, once it is up, of those since the
        file arm is there. Whether it did, for a step of its start."""
        harness.skip_unless(can_kill_at(), NO_KILL_AT)
        command = self.app.command
        self.app.command = ['env', f'LD_PRELOAD={KILL_AT}', f'UVDPA_KILL_AT={step}',
                            *([f'UVDPA_KILL_ARM={arm}'] if arm else []), *command]
        try:
            self.app.start()
        except AssertionError:
            return True
        finally:
            self.app.command = command
        return False

    def crash(self, taken=None):
        self.app.kill()
        self.next(taken)

    def restart(self, taken=None):
        """By SIGTERM."""
        code = self.app.stop()
        assert code == 0, code
        self.next(taken)


class ModelHost(Host):
    """devices: name -> words of the device of a vdpa-model that the daemon drives by vfio-user."""

    def __init__(self, devices, function='virtio', words='', args=('--log-level', 'info')):
        super().__init__({name: f'mgmtdev vfio-user/{{folder}}/{name}.vfu {words}' for name in devices}, args)
        self.simulated, self.function = devices, function

    def make_keeper(self):
        # The folder is there, and the daemon is not.
        self.model = self.enter_context(harness.Daemon(
            [f'name {name} {sim.format(folder=self.folder)} function {self.function} '
             f'vfio_user {self.folder}/{name}.vfu' for name, sim in self.simulated.items()], app=MODEL, args=('--log-level', 'info')))
        return super().make_keeper()


class GoesOn:
    """What a test of a function does that goes on while no daemon lives."""

    gaps, takes = (), ()

    @staticmethod
    def done(guest):
        return guest.reads + guest.writes if hasattr(guest, 'reads') else guest.received

    def next_daemon(self, host, guest, names=('dev0',), act=None):
        """It comes, by act() or by a start of its own, while the guest goes on; notes the time until it is
        ready, and the longest without a completion."""
        begun, failed = time.monotonic(), []

        def start():
            try:
                if act is None:
                    host.next(taken=len(names))
                else:
                    act()
            except BaseException as error:  # pylint: disable=broad-except
                failed.append(error)

        thread = threading.Thread(target=start)
        thread.start()
        last, done, longest, before = begun, self.done(guest), 0.0, None
        while before is None or done == before:
            guest.work(0.005)
            now, count = time.monotonic(), self.done(guest)
            longest = max(longest, now - last)
            if count != done:
                last, done = now, count
            if not thread.is_alive():
                thread.join()
                if failed:
                    raise failed[0]
                before = done if before is None else before
            self.assertLess(now - last, 3 * harness.TIMEOUT, 'nothing comes back any more')
        self.gaps = [*self.gaps, longest]
        if act is None:
            self.takes = [*self.takes, time.monotonic() - begun]
        guest.check_connection()
        # It was taken over, and not begun anew.
        self.assertNotRegex(host.app.err.text(), 'starts anew|does not go on')
        with host.app.control() as client:
            for name in names:
                self.assertEqual(client.show(name)['state'], 'running')

    def lives(self, host, guest, under_way, ends, seed):
        """Daemons end under traffic, as `ends` says, with so many requests under way at least."""
        counted = 0
        for end in ends:
            stop = time.monotonic() + 0.05 + guest.rng.random() * 0.1
            while time.monotonic() < stop or under_way() < AT_LEAST:
                guest.work()
            counted += under_way()
            getattr(host.app, end)()
            self.next_daemon(host, guest)
        guest.settle(20 * harness.TIMEOUT)
        print(f'{self.id()}: seed {seed}: {ends.count("kill")} kills and {ends.count("stop")} restarts, {counted} under way; '
              f'{guest.account()}; {self.times()}', flush=True)

    def times(self):
        return (f'longest gap {max(self.gaps):.3f} s, next daemon after {min(self.takes):.3f} to '
                f'{max(self.takes):.3f} s')


def patient(path):
    """A front end that waits for its answers over any number of kills."""
    return vu.Client(path, timeout=20 * harness.TIMEOUT)


@contextlib.contextmanager
def same_file(path):
    """What is at a path stays there; its number is nobody else's as long as it is open."""
    fd = os.open(path, os.O_PATH)
    try:
        yield
        assert os.path.samestat(os.stat(path), os.fstat(fd)), f'{path}: another one is there'
    finally:
        os.close(fd)


def begin_move(client):
    """It loads a device's state, which is not there yet: its connection ends with the process."""
    reader, writer = os.pipe()
    client.owned.append(writer)
    client.negotiate(vu.F_VERSION_1, PROTOCOL | vu.P_DEVICE_STATE)
    assert client.set_device_state_fd(vu.STATE_LOAD, reader) == 0
    os.close(reader)


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


class ShadowNet(KeptNet):
    """Frames that the device had received and the guest had not end with the device, as at any reset."""

    def __init__(self, rng, packed=False):
        super().__init__(rng, packed)
        self.dropped = lambda: sum(n < self.last for n in self.missing)

    def waits(self):
        """Frames come in their order: those before one that has come do not come any more."""
        return len(self.tx.in_flight) or any(n > self.last for n in self.missing)

    def check(self):
        assert self.sent == self.received + len(self.missing) and max(self.missing, default=0) < self.last, self.account()


class PagesNet(KeptNet):
    """Its kicks go to the function itself, by pages that it was given."""

    PROTOCOL = PROTOCOL | vu.P_BACKEND_REQ | vu.P_SEND_FD | P_HOST_NOTIFIER

    def connect(self, path):
        self.client = patient(path)
        self.client.negotiate(self.features, self.PROTOCOL)
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(harness.TIMEOUT)
        with theirs:
            assert self.client.ack(vu.SET_BACKEND_REQ_FD, bytes(8), [theirs.fileno()]) == 0
        assert self.client.set_memory(self.memory) == 0
        self.pages = {}
        return self

    def take_page(self):
        """The next that is given: of which queue it is."""
        head, fds, _, _ = socket.recv_fds(self.channel, 12, 1)
        if struct.unpack('<III', head)[0] == CONFIG_CHANGE_MSG:
            # The next daemon says so once, as nobody knows.
            return self.take_page()
        assert struct.unpack('<III', head) == (HOST_NOTIFIER_MSG, 1, 24), head
        where, size, offset = struct.unpack('<QQQ', self.channel.recv(24, socket.MSG_WAITALL))
        assert (size, len(fds)) == (mmap.PAGESIZE, 1), (size, fds)
        page = mmap.mmap(fds[0], mmap.PAGESIZE, offset=offset)
        os.close(fds[0])
        queue = where & 0xff
        # As QEMU does: the new one first.
        old, self.pages[queue] = self.pages.get(queue), page
        if old is not None:
            old.close()
        self.queues[queue].kick = lambda: page.__setitem__(slice(0, 2), struct.pack('<H', queue))
        return queue

    def disconnect(self):
        for page in getattr(self, 'pages', {}).values():
            page.close()
        self.pages = {}
        if self.client is not None:
            self.channel.close()
        super().disconnect()
