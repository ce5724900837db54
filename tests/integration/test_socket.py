#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""The socket itself: permissions, a path in use or too long, a stale one, removal; client mode."""

import os
import resource
import socket
import stat
import subprocess
import tempfile
import unittest

from vhost_user_client import *


class Socket(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="uvdpa-test-")
        self.addCleanup(self.dir.cleanup)
        # EAL leaves its runtime folder behind: let it be in ours.
        self.env = dict(os.environ, RUNTIME_DIRECTORY=self.dir.name)

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def refused(self, words):
        """The daemon's exit code and what it says."""
        argv = [os.environ["UVDPA_APP"], "--no-huge", "-m", "64", f"--file-prefix=s{os.getpid()}", "--no-telemetry"]
        argv += ["--", "--dev", f"name net0 mgmtdev sim_net {words}"]
        run = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=30, check=False)
        return run.returncode, run.stdout + run.stderr

    def daemon(self, words):
        daemon = Daemon([f"name net0 mgmtdev sim_net {words}"])
        self.addCleanup(lambda: daemon.process.poll() is None and daemon.stop())
        return daemon

    def test_permissions(self):
        for words, mode in ("", 0o600), ("mode 0660", 0o660), ("mode 0666", 0o666), ("mode 0400", 0o400):
            with self.subTest(words):
                old = os.umask(0)
                try:
                    daemon = self.daemon(words)
                finally:
                    os.umask(old)
                st = os.stat(daemon.path("net0"))
                self.assertTrue(stat.S_ISSOCK(st.st_mode))
                self.assertEqual(stat.S_IMODE(st.st_mode), mode)
                daemon.stop()

    @unittest.skipUnless(os.geteuid() == 0, "a group is given away by root only")
    def test_group(self):
        daemon = self.daemon("mode 0660 group daemon")
        self.assertEqual(os.stat(daemon.path("net0")).st_gid, 1)

    def test_unknown_group(self):
        code, text = self.refused(f"socket {self.path('s')} group nosuchgroup")
        self.assertEqual(code, 2, text)
        self.assertIn("group 'nosuchgroup'", text)
        self.assertFalse(os.path.exists(self.path("s")))

    def test_path_too_long(self):
        code, text = self.refused("socket /tmp/" + "x" * 103)
        self.assertEqual(code, 2, text)
        self.assertIn("107", text)

    def test_path_in_use(self):
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(self.path("s"))
        listener.listen(1)
        code, text = self.refused(f"socket {self.path('s')}")
        self.assertNotEqual(code, 0)
        self.assertIn(f"socket '{self.path('s')}': is in use", text)
        self.assertTrue(os.path.exists(self.path("s")))

    def test_path_of_a_file(self):
        with open(self.path("f"), "w", encoding="ascii") as f:
            f.write("precious")
        code, text = self.refused(f"socket {self.path('f')}")
        self.assertNotEqual(code, 0)
        self.assertIn(f"socket '{self.path('f')}': a file that is no socket", text)
        with open(self.path("f"), encoding="ascii") as f:
            self.assertEqual(f.read(), "precious")

    def test_folder_that_is_not_there(self):
        code, text = self.refused(f"socket {self.path('no/s')}")
        self.assertNotEqual(code, 0)
        self.assertIn(f"socket '{self.path('no/s')}': there is no folder {self.path('no')}: mkdir -p", text)

    def test_one_socket_for_two_devices(self):
        path = self.path("s")
        argv = [os.environ["UVDPA_APP"], "--no-huge", "-m", "64", f"--file-prefix=s{os.getpid()}", "--no-telemetry", "--"]
        for name in "net0", "net1":
            argv += ["--dev", f"name {name} mgmtdev sim_net socket {path}"]
        run = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=30, check=False)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn(f"socket '{path}': the device at --dev 1 has it already", run.stdout + run.stderr)

    def test_stale_socket_is_replaced_and_removed_at_the_end(self):
        daemon = self.daemon("backend loopback")
        path = daemon.path("net0")
        # A daemon that was killed leaves its socket; the next one takes the path over.
        daemon.process.kill()
        daemon.process.wait()
        self.assertTrue(os.path.exists(path))
        argv = [os.environ["UVDPA_APP"], "--no-huge", "-m", "64", f"--file-prefix=s{os.getpid()}", "--no-telemetry"]
        argv += ["--", "--dev", f"name net0 mgmtdev sim_net backend loopback socket {path}"]
        with subprocess.Popen(argv, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as again:
            try:
                self.assertTrue(wait_until(lambda: self.connects(path), 20))
                with NetDriver(path) as net:
                    net.start()
                    net.exchange()
            finally:
                again.terminate()
        self.assertFalse(os.path.exists(path))
        daemon.stop()

    def test_only_its_own_socket_is_removed(self):
        daemon = self.daemon("backend loopback")
        path = daemon.path("net0")
        os.unlink(path)
        with open(path, "w", encoding="ascii") as f:
            f.write("precious")
        daemon.process.terminate()
        daemon.process.wait()
        with open(path, encoding="ascii") as f:
            self.assertEqual(f.read(), "precious")
        daemon.stop()

    @staticmethod
    def connects(path):
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.connect(path)
                return True
            except OSError:
                return False

    def test_client_connects_and_comes_back(self):
        """The daemon is the client: it waits for the front end, twice."""
        daemon = self.daemon("client")
        path = daemon.path("net0")
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen(1)
                listener.settimeout(10)
                connection, _ = listener.accept()
            os.unlink(path)
            net = NetDriver(None, connection=connection)
            with net:
                net.start()
                net.exchange()

    def test_client_leaves_the_reserve_to_management(self):
        """The next descriptor is one of the reserve: a client waits, as an accept does."""
        daemon = self.daemon("client")
        pid = daemon.process.pid
        with socket.socket(socket.AF_UNIX) as listener:
            used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
            free = next(fd for fd in range(len(used) + 1) if fd not in used)
            self.assertGreaterEqual(free, 14)  # so that the reserve has two
            soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (free + 2, hard))
            listener.bind(daemon.path("net0"))
            listener.listen(1)
            self.assertTrue(wait_until(lambda: "connections wait: " in daemon.log()), daemon.log())
            self.assertIn(f"RLIMIT_NOFILE is {free + 2}", daemon.log())
            listener.settimeout(0.1)
            self.assertRaises(TimeoutError, listener.accept)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
            listener.settimeout(10)
            listener.accept()[0].close()


if __name__ == "__main__":
    unittest.main()
