# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""What systemd is told: readiness, state, watchdog, and the journal's entries."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest

import harness

NET = 'name net0 mgmtdev sim_net socket {dir}/net0.sock'


def has_systemd():
    """Whether the daemon was built with systemd's library."""
    out = subprocess.run(['ldd', harness.APP], capture_output=True, text=True).stdout
    return 'libsystemd' in out


class Socket:
    """A datagram socket in the place of systemd's: what comes in, one dictionary a datagram."""

    def __init__(self, path):
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(path)
        os.chmod(path, 0o777)
        self.seen = []

    def receive(self, timeout=harness.TIMEOUT):
        """The next one; None when none comes in time."""
        self.sock.settimeout(timeout)
        try:
            message = self.parse(self.sock.recv(65536))
        except TimeoutError:
            return None
        self.seen.append(message)
        return message

    def wait(self, condition, what, timeout=harness.TIMEOUT):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            message = self.receive(max(end - time.monotonic(), 0.01))
            if message is not None and condition(message):
                return message
        raise AssertionError(f'no {what} in {self.seen}')

    def close(self):
        self.sock.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


class Notify(Socket):
    @staticmethod
    def parse(data):
        return dict(line.split('=', 1) for line in data.decode().splitlines())


class Journal(Socket):
    """The journal's native protocol: KEY=value, or KEY, a length and the value."""

    @staticmethod
    def parse(data):
        fields = {}
        while data:
            line, _, data = data.partition(b'\n')
            key, equals, value = line.partition(b'=')
            if not equals:
                length, = struct.unpack('<Q', data[:8])
                value, data = data[8:8 + length], data[9 + length:]
            fields[key.decode()] = value.decode()
        return fields


class Folder(unittest.TestCase):
    def setUp(self):
        harness.skip_unless(has_systemd(), 'vdpa-app was built without libsystemd')
        folder = tempfile.TemporaryDirectory(prefix='uvdpa-test.')
        self.addCleanup(folder.cleanup)
        self.dir = folder.name


class State(Folder):
    def setUp(self):
        super().setUp()
        self.notify = Notify(os.path.join(self.dir, 'notify'))
        self.addCleanup(self.notify.close)

    def daemon(self, *args, period_ms=None, devices=(NET,)):
        env = ['env', f'NOTIFY_SOCKET={self.notify.path}']
        if period_ms is not None:
            env.append(f'WATCHDOG_USEC={period_ms * 1000}')
        return harness.Daemon(devices, args=args, launcher=env)

    def test_ready_and_stopping(self):
        with self.daemon():
            message = self.notify.receive()
            self.assertEqual(message, {'READY': '1', 'STATUS': '1 device: 1 idle'})
            # Without a watchdog nothing more is sent.
            self.assertIsNone(self.notify.receive(0.5))
        self.assertEqual(self.notify.receive(), {'STOPPING': '1', 'STATUS': 'stopping'})

    def test_nothing_is_ready_that_does_not_start(self):
        daemon = self.daemon('--dev', 'name blk0 mgmtdev sim_blk backend file /nonexistent/image')
        result = subprocess.run(daemon.command, stdin=subprocess.DEVNULL, capture_output=True,
                                timeout=harness.TIMEOUT)
        daemon.cleanup()
        self.assertEqual(result.returncode, 1)
        self.assertIsNone(self.notify.receive(0.2))

    def test_a_reload_is_told_from_its_begin_to_its_end(self):
        path = os.path.join(self.dir, 'uvdpa.conf')
        with open(path, 'w', encoding='utf-8') as f:
            f.write('name a mgmtdev sim_net\n')
        with self.daemon('--config', path, devices=()) as daemon:
            self.notify.wait(lambda m: 'READY' in m, 'READY')
            for text, status in (('name b mgmtdev sim_net\nname c mgmtdev sim_net\n',
                                  '2 devices: 2 idle'),
                                 # Mistakes too: the daemon goes on as it is.
                                 ('bogus\n', '2 devices: 2 idle')):
                with open(path, 'w', encoding='utf-8') as f:
                    f.write(text)
                before = time.clock_gettime(time.CLOCK_MONOTONIC)
                daemon.process.send_signal(signal.SIGHUP)
                message = self.notify.receive()
                self.assertEqual(message['RELOADING'], '1')
                self.assertEqual(message['STATUS'], 'reloading')
                sent = int(message['MONOTONIC_USEC']) / 1e6
                self.assertLessEqual(before, sent)
                self.assertLessEqual(sent, time.clock_gettime(time.CLOCK_MONOTONIC))
                self.assertEqual(self.notify.receive(), {'READY': '1', 'STATUS': status})

    def test_the_watchdog_is_fed(self):
        with self.daemon(period_ms=400) as daemon:
            self.notify.wait(lambda m: 'READY' in m, 'READY')
            for _ in range(10):
                self.notify.wait(lambda m: m == {'WATCHDOG': '1'}, 'WATCHDOG')
            # What the devices do is told with it, when it changes.
            daemon.delete('net0')
            message = self.notify.wait(lambda m: 'STATUS' in m, 'STATUS')
            self.assertEqual(message, {'WATCHDOG': '1', 'STATUS': '0 devices'})

    def test_a_control_loop_that_hangs_is_not_alive(self):
        """That thread alone is held by a tracer: the process and its main thread go on."""
        with self.daemon(period_ms=2000) as daemon:
            self.notify.wait(lambda m: 'WATCHDOG' in m, 'WATCHDOG')
            with held_thread(daemon.pid, 'vdpa-control'):
                before = len(daemon.err.lines)
                daemon.err.wait("the control loop has not turned for .* s: systemd's watchdog is "
                                'not fed', before)
                # Those that were sent before.
                while self.notify.receive(0.05) is not None:
                    pass
                self.assertIsNone(self.notify.receive(2))
                self.assertEqual(len(daemon.err.lines), before + 1)
            self.notify.wait(lambda m: 'WATCHDOG' in m, 'WATCHDOG')
            daemon.out.wait('the control loop turns again')


PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17


@contextlib.contextmanager
def held_thread(pid, name):
    """One thread of a process, stopped."""
    tids = [int(tid) for tid, other in harness.thread_switches(pid) if other == name]
    if len(tids) != 1:
        raise AssertionError(f'{len(tids)} threads are called {name}: {harness.threads_now(pid)}')
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    harness.skip_unless(libc.ptrace(PTRACE_SEIZE, tids[0], None, None) == 0,
                        f'no tracing here: {os.strerror(ctypes.get_errno())}')
    libc.ptrace(PTRACE_INTERRUPT, tids[0], None, None)
    os.waitpid(tids[0], 0x40000000)  # __WALL
    try:
        yield
    finally:
        libc.ptrace(PTRACE_DETACH, tids[0], None, None)


class Entries(Folder):
    """The journal's socket has one place. A mount namespace has another there."""

    def setUp(self):
        super().setUp()
        harness.skip_unless(os.getuid() == 0 and shutil.which('unshare') and
                            subprocess.run(['unshare', '-m', 'true']).returncode == 0,
                            'needs root and a mount namespace of its own')
        self.journal = Journal(os.path.join(self.dir, 'socket'))
        self.addCleanup(self.journal.close)

    @contextlib.contextmanager
    def daemon(self, *args, redirected=False):
        """vdpa-app with its output where systemd would have it: stderr is the journal's stream, as
        JOURNAL_STREAM says, unless it has been redirected since."""
        inside = ('mount -t tmpfs tmpfs /run && mkdir /run/systemd && '
                  f'ln -s {self.dir} /run/systemd/journal && exec "$@"')
        ours, theirs = socket.socketpair()
        stat = os.fstat(theirs.fileno())
        env = dict(os.environ, XDG_RUNTIME_DIR=self.dir, JOURNAL_STREAM=f'{stat.st_dev}:{stat.st_ino}')
        with ours, theirs:
            process = subprocess.Popen(
                ['unshare', '-m', 'sh', '-c', inside, 'sh', harness.APP,
                 f'--file-prefix={os.path.basename(self.dir)}', '--', *args],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if redirected else theirs, text=True, env=env)
            self.text = ours
            try:
                yield process
            finally:
                process.terminate()
                process.communicate(timeout=harness.TIMEOUT)

    def wait(self, text):
        return self.journal.wait(lambda m: text in m['MESSAGE'], text)

    def test_lines_have_level_device_and_place_as_fields(self):
        devices = [f'name net{i} mgmtdev sim_net mac 52:54:00:00:00:01 socket {self.dir}/net{i}.sock'
                   for i in range(2)]
        with self.daemon('--dev', devices[0], '--dev', devices[1], '--log-level', 'info') as process:
            # The library's own, by DPDK's log.
            entry = self.wait('has the mac of net0')
            self.assertTrue(entry['MESSAGE'].startswith('net1: has the mac of net0'), entry)
            self.assertEqual(entry['PRIORITY'], '4')
            self.assertEqual(entry['UVDPA_DEVICE'], 'net1')
            self.assertEqual(entry['SYSLOG_IDENTIFIER'], 'vdpa-app')
            self.assertEqual(entry['CODE_FILE'], 'drivers/vdpa/sim/net/net.c')
            self.assertGreater(int(entry['CODE_LINE']), 0)
            self.assertRegex(entry['CODE_FUNC'], r'^\w+$')
            # The daemon's.
            entry = self.wait('net0: sim_net')
            self.assertEqual((entry['PRIORITY'], entry['UVDPA_DEVICE']), ('6', 'net0'))
            self.assertEqual(entry['CODE_FILE'], 'examples/vdpa-app/report.c')
            entry = self.wait('ready')
            self.assertNotIn('UVDPA_DEVICE', entry)
            # A front end that breaks the protocol: with a queue where there is one.
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(f'{self.dir}/net1.sock')
                # SET_VRING_BASE of queue 1 with a descriptor index out of range, then rubbish.
                peer.send(struct.pack('<IIIII', 10, 1, 8, 1, 0x10000000))
                peer.send(b'\xff' * 64)
                entry = self.wait('refused')
                self.assertEqual((entry['PRIORITY'], entry['UVDPA_DEVICE']), ('3', 'net1'))
            # All has gone that way, and nothing twice.
            self.text.settimeout(0.2)
            with self.assertRaises(TimeoutError):
                self.text.recv(1)
            self.assertIsNone(process.poll())
        messages = [m['MESSAGE'] for m in self.journal.seen]
        self.assertEqual(sum('has the mac of' in m for m in messages), 1, messages)

    def test_a_mistake_is_an_error_there_too(self):
        with self.daemon('--poll-us', 'x') as process:
            entry = self.wait('--poll-us')
            self.assertEqual(entry['PRIORITY'], '3')
            self.assertEqual(process.wait(harness.TIMEOUT), 2)

    def test_a_journal_that_is_hidden_has_text(self):
        self.journal.close()
        with self.daemon('--poll-us', 'x') as process:
            self.assertEqual(process.wait(harness.TIMEOUT), 2)
            self.assertIn(b"vdpa-app: --poll-us: 'x' is not a number", self.text.recv(4096))

    def test_a_stderr_that_is_not_the_journal_has_text(self):
        with self.daemon('--poll-us', 'x', redirected=True) as process:
            self.assertEqual(process.wait(harness.TIMEOUT), 2)
            self.assertIn("vdpa-app: --poll-us: 'x' is not a number", process.stderr.read())
            self.assertIsNone(self.journal.receive(0.2))


if __name__ == '__main__':
    unittest.main(verbosity=2)
