# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A daemon that hands its devices over to another one: what a test has of both."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time

import harness
from restarting import Host

PR_SET_CHILD_SUBREAPER = 36


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


class Upgrades(Host):
    """app is the daemon that has the devices now."""

    def __enter__(self):
        # What a daemon leaves behind when it ends becomes a child of this process.
        assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        return super().__enter__()

    def __exit__(self, *exc):
        # A test that has failed may not know all daemons.
        with open(f'/proc/self/task/{os.getpid()}/children', encoding='ascii') as children:
            for pid in children.read().split():
                if int(pid) not in (self.app.pid, self.keeper.process.pid) and self.has_argument(pid, self.app.dir):
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
