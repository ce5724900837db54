# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A daemon that hands its devices over to another one: what a test has of both."""

import array
import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import threading
import time

import harness
from restarting import Host

PR_SET_CHILD_SUBREAPER = 36
KCMP = 312 if os.uname().machine == 'x86_64' else 272


class Successor:
    """A daemon that another one has started, as subprocess.Popen has a process. It is a child of this
    process' once the other one has ended."""

    def __init__(self, pid, before):
        self.pid, self.returncode = pid, None
        self.stdout, self.stderr = before.stdout, before.stderr

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout=None):
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired('the successor', timeout)
            time.sleep(0.002)
        return self.returncode

    def send_signal(self, signum):
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self):
        self.send_signal(signal.SIGKILL)


LAUNCHER = """
import os, sys
fds, names, command = eval(sys.argv[1]), sys.argv[2], sys.argv[3:]
high = [os.dup(fd) if fd < 1000 else fd for fd in fds]
for i, fd in enumerate(high):
    os.dup2(fd, 2000 + i)
for i in range(len(high)):
    os.dup2(2000 + i, 3 + i)
os.closerange(3 + len(fds), 3000)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
os.execvp(command[0], command)
"""


class Systemd:
    """systemd's part for a service with a store: it hears the main process alone, and what that says is
    the main one. Use it as a context manager."""

    where = 'systemd'

    def __init__(self, folder):
        self.path = f'{folder}/notify'
        self.store, self.said, self.main, self.ignored = [], [], None, 0
        self.max = None  # FileDescriptorStoreMax=
        self.lock = threading.Lock()

    def __enter__(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.sock.bind(self.path)
        self.before = os.environ.get('NOTIFY_SOCKET')
        os.environ['NOTIFY_SOCKET'] = self.path
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def __exit__(self, *exc):
        if self.before is None:
            del os.environ['NOTIFY_SOCKET']
        else:
            os.environ['NOTIFY_SOCKET'] = self.before
        self.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.sock.close()
        for _, fd in self.store:
            os.close(fd)

    def _run(self):
        while True:
            words, ancillary, _, _ = self.sock.recvmsg(65536, 4096, socket.MSG_CMSG_CLOEXEC)
            if not words:
                return
            fds, pid = [], 0
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds = list(array.array('i', data[:len(data) // 4 * 4]))
                elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    pid = struct.unpack('iii', data)[0]
            with self.lock:
                fds = self._hear(pid, words.decode().splitlines(), fds)
            for fd in fds:
                os.close(fd)

    def _hear(self, pid, words, fds):
        """The descriptors that are to be closed."""
        if self.main is None:
            self.main = pid
        if pid != self.main:
            self.ignored += 1
            return fds
        word = dict(line.partition('=')[::2] for line in words)
        name = word.get('FDNAME')
        if 'FDSTORE' in word:
            if len(self.store) == self.max or any(self.same(fds[0], fd) for _, fd in self.store):
                return fds
            self.store.append((name, fds[0]))
            return []
        if 'FDSTOREREMOVE' in word:
            fds += [fd for stored, fd in self.store if stored == name]
            self.store = [pair for pair in self.store if pair[0] != name]
        elif 'BARRIER' not in word:
            self.said.append(words)
        if 'MAINPID' in word:
            self.main = int(word['MAINPID'])
        return fds

    @staticmethod
    def same(a, b):
        self_pid = os.getpid()
        return ctypes.CDLL(None).syscall(KCMP, self_pid, self_pid, 0, a, b) == 0

    def names(self):
        """Of what is stored, by the device's names: numbers left out."""
        with self.lock:
            return sorted(name.split('-', 2)[-1] for name, _ in self.store)

    def next(self, app):
        """The service is to begin anew: app has what the store has."""
        with self.lock:
            self.main = None
            pairs = list(reversed(self.store))
        command = app.command
        app.pass_fds = [fd for _, fd in pairs]
        app.command = ['python3', '-c', LAUNCHER, repr(app.pass_fds), ':'.join(name for name, _ in pairs), *command]
        try:
            app.start()
        finally:
            app.command, app.pass_fds = command, ()


def adopt_orphans():
    """What a daemon leaves behind when it ends becomes a child of this process."""
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


class Upgrades(Host):
    """app is the daemon that has the devices now."""

    def __enter__(self):
        adopt_orphans()
        return super().__enter__()

    def __exit__(self, *exc):
        # A test that has failed may not know all daemons.
        with open(f'/proc/self/task/{os.getpid()}/children', encoding='ascii') as children:
            for pid in children.read().split():
                if int(pid) != self.app.pid and self.has_argument(pid, self.app.dir):
                    os.kill(int(pid), signal.SIGKILL)
        return super().__exit__(*exc)

    @staticmethod
    def has_argument(pid, text):
        with contextlib.suppress(FileNotFoundError), open(f'/proc/{pid}/cmdline', 'rb') as words:
            return text.encode() in words.read()
        return False

    def follow(self, pid):
        """The daemon with this pid has the devices; the one before ends, and well."""
        before = self.app.process
        code = before.wait(harness.TIMEOUT)
        assert code == 0, f'{code}\n{self.app.err.text()}'
        self.app.process = Successor(pid, before)

    def upgrade(self, devices=None, **params):
        """What daemon.upgrade answers."""
        answer = self.app.call('daemon.upgrade', **params)
        self.follow(answer['pid'])
        if devices is not None:
            assert answer['devices'] == devices, answer
        # The one that has the devices answers.
        self.app.call('version')
        return answer

    def program(self, name, text):
        """A program of the test's own: what it does."""
        path = f'{self.folder}/{name}'
        with open(path, 'w', encoding='ascii') as file:
            file.write(f'#!/bin/sh\n{text}\n')
        os.chmod(path, 0o755)
        return path


class UpgradesOfService(Upgrades):
    """With systemd's store."""

    def make_keeper(self):
        return Systemd(self.folder)

    def next(self, taken=None):
        self.keeper.next(self.app)
        self.starts += 1
        match, _ = self.app.out.wait(r'took over (\d+) device')
        assert taken is None or int(match.group(1)) == taken, '\n'.join((self.app.out.text(), self.app.err.text()))
