#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""vdpa-keeper as a program: daemons that are killed, users, bounds, signals and its command line. What
it is asked is in lib/vdpa/keep/keeper_proto.h; the messages themselves: tests/unit/test_keeper*.c."""

import array
import errno
import os
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import unittest

import harness

KEEPER = os.environ.get('UVDPA_KEEPER') or os.path.join(
    os.path.dirname(__file__), '../../build/app/vdpa-keeper/vdpa-keeper')
MESSAGE = struct.Struct('=IHHIi132s')
MAGIC, VERSION = 0x706b7675, 1
HELLO, PUT, DEL, TAKE, LIST, NOOP = range(1, 7)
OTHER = 65534


class Client:
    """A daemon, as far as its keeper knows."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(harness.TIMEOUT)
        self.sock.connect(path)
        self.id = 0
        op, _, self.result, _, _ = self.receive()
        assert op == HELLO

    def receive(self):
        data, fds, _, _ = socket.recv_fds(self.sock, 65536, 4)
        magic, version, op, number, result, name = MESSAGE.unpack(data[:MESSAGE.size])
        assert (magic, version) == (MAGIC, VERSION)
        return op, number, result, data[MESSAGE.size:], fds

    def ask(self, op, name='', fds=()):
        """The result, what is behind the message, and the descriptors of the answer."""
        self.id += 1
        data = MESSAGE.pack(MAGIC, VERSION, op, self.id, 0, name.encode())
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else []
        self.sock.sendmsg([data], control)
        answer, number, result, behind, got = self.receive()
        assert (answer, number) == (op, self.id)
        return result, behind, got

    def names(self):
        _, behind, _ = self.ask(LIST)
        return behind.decode().split('\0')[:-1]

    def close(self):
        self.sock.close()


class Keeper:
    def __init__(self, path, *args, wrapper=(), start=r'listens at'):
        self.proc = subprocess.Popen([*wrapper, KEEPER, '--socket', path, *args], stdin=subprocess.DEVNULL,
                                     stderr=subprocess.PIPE, text=True)
        self.log = harness.Reader(self.proc.stderr)
        if start:
            self.log.wait(start)

    def stop(self, signum=signal.SIGTERM):
        if self.proc.poll() is None:
            self.proc.send_signal(signum)
        code = self.proc.wait(harness.TIMEOUT)
        self.log.join()
        return code


class Program(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix='uvdpa-test.')
        self.addCleanup(subprocess.run, ['rm', '-rf', self.dir], check=True)
        self.path = os.path.join(self.dir, 'keeper.sock')

    def keeper(self, *args, **options):
        keeper = Keeper(self.path, *args, **options)
        self.addCleanup(keeper.stop)
        return keeper

    def client(self):
        """The daemon that is served: one that has just ended may not have been noticed."""
        def served():
            client = Client(self.path)
            if client.result == 0:
                return client
            client.close()
            return None
        client = harness.wait_for(served, 'the keeper to serve another daemon')
        self.addCleanup(client.close)
        return client

    def greeting(self):
        client = Client(self.path)
        client.close()
        return client.result

    def killed_daemon(self, death=signal.SIGKILL):
        """A process that gives both ends of a stream and a memory file, and is killed; the other end."""
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            ours.close()
            client = Client(self.path)
            memory = os.memfd_create('guest')
            os.write(memory, b'guest')
            results = [client.ask(PUT, 'net0:conn:0', [theirs.fileno()])[0],
                       client.ask(PUT, 'net0:mem:0', [memory])[0],
                       client.ask(PUT, 'net0:mem:1', [memory])[0]]
            theirs.send(bytes(-r for r in results))
            os.kill(os.getpid(), death)
            os._exit(0)
        theirs.close()
        self.addCleanup(ours.close)
        os.waitpid(child, 0)
        self.assertEqual(ours.recv(16), bytes(3))
        return ours

    def test_what_a_killed_daemon_gave_is_there_for_the_next(self):
        self.keeper()
        for _ in range(20):
            front_end = self.killed_daemon()
            client = self.client()
            self.assertEqual(client.names(), ['net0:conn:0', 'net0:mem:0', 'net0:mem:1'])
            result, _, (conn,) = client.ask(TAKE, 'net0:conn:0')
            self.assertEqual(result, 0)
            os.write(conn, b'still there')
            os.close(conn)
            self.assertEqual(front_end.recv(16), b'still there')
            _, _, (memory,) = client.ask(TAKE, 'net0:mem:1')
            self.assertEqual(os.pread(memory, 16, 0), b'guest')
            os.close(memory)
            client.close()
            front_end.setblocking(False)
            self.assertRaises(BlockingIOError, front_end.recv, 16)

    def test_a_keeper_that_ends_lets_go_of_all(self):
        for signum in signal.SIGTERM, signal.SIGINT:
            keeper = self.keeper()
            front_end = self.killed_daemon()
            self.assertEqual(keeper.stop(signum), 0)
            self.assertEqual(front_end.recv(16), b'')
            self.assertIn('ends: 3 descriptors are dropped', keeper.log.text())
        # What it leaves at the path is replaced, also after a kill.
        keeper = self.keeper()
        keeper.stop(signal.SIGKILL)
        self.keeper()
        self.assertEqual(self.client().names(), [])

    def test_all_is_dropped_when_no_daemon_comes(self):
        keeper = self.keeper('--hold', '1')
        front_end = self.killed_daemon()
        self.assertEqual(front_end.recv(16), b'')
        keeper.log.wait('no daemon has come within 1 s: 3 descriptors are dropped')
        self.assertEqual(self.client().names(), [])

    def fence(self, *args, wrapper=()):
        return subprocess.run([*wrapper, KEEPER, '--fence', '--socket', self.path, *args], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=harness.TIMEOUT)

    def test_an_operator_asks_for_a_fence(self):
        """What is done to functions: tests/unit/test_fence.c, tests/vm/test_lab_fence.py."""
        done = self.fence()
        self.assertEqual((done.returncode, done.stdout), (1, ''))
        self.assertIn('no vdpa-keeper listens there', done.stderr)
        keeper = self.keeper()
        # Nothing is a function by its name; groups and containers are dropped with the functions.
        front_end = self.killed_daemon()
        client = self.client()
        null = os.open('/dev/null', os.O_RDONLY)
        self.addCleanup(os.close, null)
        for name in 'vfio-device', 'vfio-group', 'vfio-container':
            self.assertEqual(client.ask(PUT, f'net0:{name}', [null])[0], 0)
        done = self.fence()
        self.assertEqual((done.returncode, done.stdout), (1, ''))
        self.assertIn('--force fences all the same', done.stderr)
        keeper.log.wait(f'process \\d+ is refused a fence: process {os.getpid()} is served')
        self.assertEqual(len(client.names()), 6)
        for args in ['--force'], []:
            done = self.fence(*args)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, 'no function is held\n', ''))
            self.assertEqual(self.client().names() if args == [] else client.names(),
                             ['net0:conn:0', 'net0:mem:0', 'net0:mem:1'])
            client.close()
        front_end.setblocking(False)
        self.assertRaises(BlockingIOError, front_end.recv, 16)

    @unittest.skipUnless(os.geteuid() == 0, 'another user is what root alone can be')
    def test_another_user_gets_no_fence(self):
        os.chmod(self.dir, 0o711)
        keeper = self.keeper()
        os.chmod(self.path, 0o666)
        done = self.fence(wrapper=['setpriv', f'--reuid={OTHER - 1}', '--clear-groups', '--'])
        self.assertEqual((done.returncode, done.stdout), (1, ''))
        self.assertIn('does not serve this user', done.stderr)
        keeper.log.wait(f'user {OTHER - 1} is refused')
        self.assertNotIn('asks for a fence', keeper.log.text())

    def test_no_more_than_it_may_hold(self):
        self.keeper('--max', '2')
        client = self.client()
        null = os.open('/dev/null', os.O_RDONLY)
        self.addCleanup(os.close, null)
        self.assertEqual([client.ask(PUT, name, [null])[0] for name in 'abcb'],
                         [0, 0, -errno.ENOSPC, 0])

    def test_a_low_limit_of_descriptors_bounds_it(self):
        self.keeper(wrapper=['prlimit', '--nofile=310:310', '--'], start='holds 10 descriptors at most')
        client = self.client()
        null = os.open('/dev/null', os.O_RDONLY)
        self.addCleanup(os.close, null)
        results = [client.ask(PUT, f'a{i}', [null])[0] for i in range(12)]
        self.assertEqual(results, [0] * 10 + [-errno.ENOSPC] * 2)
        self.assertEqual(client.ask(NOOP)[0], 0)

    def test_its_socket_is_its_users_alone(self):
        self.keeper()
        st = os.stat(self.path)
        self.assertEqual((stat.S_IMODE(st.st_mode), st.st_uid), (0o600, os.geteuid()))

    def test_it_is_confined(self):
        keeper = self.keeper()
        with open(f'/proc/{keeper.proc.pid}/status', encoding='ascii') as file:
            status = dict(line.split(':', 1) for line in file)
        self.assertEqual((status['Seccomp'].strip(), status['NoNewPrivs'].strip()), ('2', '1'))

    @unittest.skipUnless(os.geteuid() == 0, 'another user is what root alone can be')
    def test_another_user_is_refused(self):
        os.chmod(self.dir, 0o711)
        keeper = self.keeper()
        os.chmod(self.path, 0o666)
        self.assertEqual(harness.as_user(OTHER - 1, OTHER, self.greeting),
                         -errno.EPERM)
        keeper.log.wait(f'user {OTHER - 1} is refused')
        # A keeper of another user serves root, and the user that it is.
        keeper.stop()
        os.unlink(self.path)
        os.chmod(self.dir, 0o777)
        keeper = self.keeper(wrapper=['setpriv', f'--reuid={OTHER - 1}', '--clear-groups', '--'])
        self.assertEqual(self.greeting(), 0)
        harness.wait_for(lambda: harness.as_user(OTHER - 1, OTHER, self.greeting) == 0, 'the keeper')

    def test_the_path_in_use_is_refused(self):
        self.keeper()
        self.client()
        second = Keeper(self.path, start=None)
        self.assertEqual(second.proc.wait(harness.TIMEOUT), 1)
        second.log.join()
        self.assertIn('is in use by another process', second.log.text())

    def run_it(self, *args, env=None):
        return subprocess.run([KEEPER, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=harness.TIMEOUT, env=env)

    def test_its_command_line(self):
        for args in (['--hold', '0'], ['--hold', 'x'], ['--hold', '86401'], ['--max', '-1'], ['--max', ''],
                     ['--fence-after', '-1'], ['--fence-after', '86401'], ['--force'],
                     ['--nothing'], ['path'], ['--socket', 'x' * 200]):
            done = self.run_it(*args)
            self.assertEqual((done.returncode, done.stdout), (2, ''), args)
            self.assertNotEqual(done.stderr, '', args)
        done = self.run_it('--help')
        self.assertEqual(done.returncode, 0)
        for word in '--socket', '--hold', '--max', '--fence-after', '--fence', '--force':
            self.assertIn(word, done.stdout)
        self.assertRegex(self.run_it('--version').stdout, r'^vdpa-keeper \d+\.\d+\.\d+\n$')
        done = self.run_it('--socket', os.path.join(self.dir, 'none/keeper.sock'))
        self.assertEqual(done.returncode, 1)
        self.assertIn('mkdir -p', done.stderr)

    @unittest.skipIf(os.geteuid() == 0, 'root has a default path')
    def test_a_user_needs_a_runtime_folder_for_the_default(self):
        env = {name: value for name, value in os.environ.items() if name != 'XDG_RUNTIME_DIR'}
        done = self.run_it(env=env)
        self.assertEqual(done.returncode, 2)
        self.assertIn('--socket PATH', done.stderr)


if __name__ == '__main__':
    unittest.main(verbosity=2)
