#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""What a device has in the file system: the socket's folder, its permissions and access control
list, the device-info file, names as others choose them; and a client that waits for its server."""

import fcntl
import grp
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
import unittest
import uuid

import harness
from vhost_user_client import *

SUN_PATH_MAX = 107
OTHER_UID = 65534  # nobody


def daemon_at_run_time():
    """One without a device."""
    return harness.Daemon(eal=["--no-huge", "-m", "64"])


class FolderDaemon(Daemon):
    """Its sockets are in a folder that need not be there."""

    folder = "sockets"

    def path(self, name):
        return os.path.join(self.dir, self.folder, name + ".sock")


class Files(unittest.TestCase):
    def setUp(self):
        # Not below TMPDIR: socket paths have at most 107 characters.
        self.dir = tempfile.mkdtemp(prefix="u-", dir="/tmp")
        self.addCleanup(shutil.rmtree, self.dir)
        self.env = dict(os.environ, RUNTIME_DIRECTORY=self.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    def refused(self, *devices):
        """What the daemon says that does not start with these devices."""
        argv = [os.environ["UVDPA_APP"], "--no-huge", "-m", "64", f"--file-prefix=s{os.getpid()}",
                "--no-telemetry", "--"]
        for i, words in enumerate(devices):
            argv += ["--dev", f"name net{i} mgmtdev sim_net {words}"]
        run = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=30, check=False)
        self.assertNotEqual(run.returncode, 0)
        return run.stdout + run.stderr

    def daemon(self, *devices, kind=Daemon):
        daemon = kind([f"name net{i} mgmtdev sim_net {words}" for i, words in enumerate(devices)])
        self.addCleanup(lambda: daemon.process.poll() is None and daemon.stop())
        return daemon


class RelativePath(Files):
    def setUp(self):
        super().setUp()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.dir)
        self.here = os.getcwd()

    def test_is_of_the_folder_that_the_daemon_is_in(self):
        """Whatever front end it is a word of: shown, compared, written and removed as a whole path."""
        with harness.Daemon(["name net0 mgmtdev sim_net socket net0.sock device_info info.json",
                             "name net1 mgmtdev sim_net vfio_user net1.sock"]) as daemon:
            for name in "net0", "net1":
                self.assertTrue(stat.S_ISSOCK(os.stat(f"{name}.sock").st_mode))
                self.assertEqual(daemon.show(name)["socket"], f"{self.here}/{name}.sock")
            with open("info.json", encoding="ascii") as f:
                self.assertIn(f"{self.here}/net0.sock", f.read())
            for word, name in ("socket", "net0"), ("vfio_user", "net1"):
                with self.assertRaisesRegex(harness.ControlError, f"in use by {name}"):
                    daemon.add(f"name other mgmtdev sim_net {word} {self.here}/{name}.sock")
        self.assertEqual([name for name in os.listdir() if name.startswith(("net", "info"))], [])

    def test_that_is_too_long_from_the_root(self):
        for word in "socket", "vfio_user":
            self.assertRegex(self.refused(f"{word} {'x' * SUN_PATH_MAX}"),
                             rf"{word} 'x*': is a path of \d+ characters from the root, allowed are {SUN_PATH_MAX}")


class Folder(Files):
    def test_is_made_and_removed(self):
        for words, mode in ("folder 0750", 0o750), ("folder 0711 mode 0660", 0o711), ("folder 0700 client", 0o700):
            with self.subTest(words):
                old = os.umask(0o077)
                try:
                    daemon = self.daemon(words, kind=FolderDaemon)
                finally:
                    os.umask(old)
                folder = os.path.dirname(daemon.path("net0"))
                self.assertEqual(stat.S_IMODE(os.stat(folder).st_mode), mode)
                daemon.process.terminate()
                daemon.process.wait(20)
                self.assertFalse(os.path.exists(folder))
                daemon.stop()

    @unittest.skipUnless(os.geteuid() == 0, "a group is given away by root only")
    def test_has_the_group(self):
        for words in "folder 0770 mode 0660 group daemon", "folder 0770 client group daemon":
            with self.subTest(words):
                daemon = self.daemon(words, kind=FolderDaemon)
                folder = os.path.dirname(daemon.path("net0"))
                self.assertEqual(os.stat(folder).st_gid, grp.getgrnam("daemon").gr_gid)
                daemon.stop()

    def test_goes_with_the_last_device_in_it(self):
        with daemon_at_run_time() as daemon:
            folder = os.path.join(daemon.dir, "sockets")
            for name in "net0", "net1":
                daemon.add(f"name {name} mgmtdev sim_net folder 0750 socket {folder}/{name}.sock")
            # The first made it, and goes first.
            daemon.delete("net0")
            self.assertEqual(os.listdir(folder), ["net1.sock"])
            daemon.delete("net1")
            self.assertFalse(os.path.exists(folder))

    def test_with_a_file_of_somebody_else_is_left(self):
        daemon = self.daemon("folder 0750", kind=FolderDaemon)
        folder = os.path.dirname(daemon.path("net0"))
        with open(os.path.join(folder, "precious"), "w", encoding="ascii"):
            pass
        daemon.process.terminate()
        daemon.process.wait(20)
        self.assertEqual(os.listdir(folder), ["precious"])
        self.assertNotIn("is left", daemon.stop()[1])

    def test_that_is_there_must_be_as_the_words_say(self):
        os.mkdir(self.path("there"), 0o755)
        os.chmod(self.path("there"), 0o755)
        text = self.refused(f"folder 0750 socket {self.path('there/s')}")
        self.assertIn(f"folder '{self.path('there')}': is there with mode 0755, not 0750", text)
        os.symlink(self.path("there"), self.path("link"))
        text = self.refused(f"folder 0755 socket {self.path('link/s')}")
        self.assertIn("something that is no folder", text)
        if os.geteuid() == 0:
            os.chown(self.path("there"), OTHER_UID, 0)
            text = self.refused(f"folder 0755 socket {self.path('there/s')}")
            self.assertIn(f"is there and user {OTHER_UID}'s", text)
        self.assertTrue(os.path.isdir(self.path("there")))

    def test_that_was_there_stays(self):
        class There(FolderDaemon):
            folder = "."

        mode = 0o700  # mkdtemp's
        daemon = self.daemon(f"folder {mode:04o}", kind=There)
        daemon.process.terminate()
        daemon.process.wait(20)
        self.assertTrue(os.path.isdir(daemon.dir))
        daemon.stop()

    def test_without_one_above_it(self):
        text = self.refused(f"folder 0750 socket {self.path('no/folder/s')}")
        self.assertIn(f"folder '{self.path('no/folder')}'", text)
        self.assertIn("the folder above it must be there", text)

    def test_nothing_is_left_of_a_device_that_cannot_be_made(self):
        with open(self.path("precious"), "w", encoding="ascii") as f:
            f.write("precious")
        text = self.refused(f"folder 0750 device_info {self.path('precious')} socket {self.path('new/s')}")
        self.assertIn(f"device_info '{self.path('precious')}': a file that is no device-info file", text)
        self.assertFalse(os.path.exists(self.path("new")))
        with open(self.path("precious"), encoding="ascii") as f:
            self.assertEqual(f.read(), "precious")

    def test_words_of_what_is_not_created(self):
        for words in "mode 0660", "group daemon", "label a:b:c:s0":
            text = self.refused(f"{words} client socket {self.path('s')}")
            self.assertIn(words.split()[0], text)

    @unittest.skipIf(os.path.exists("/sys/fs/selinux/enforce"), "the machine has SELinux")
    def test_label_without_selinux_is_refused(self):
        text = self.refused(f"label system_u:object_r:container_file_t:s0 socket {self.path('s')}")
        self.assertIn("label 'system_u:object_r:container_file_t:s0': this machine runs without SELinux", text)
        self.assertFalse(os.path.exists(self.path("s")))


class Hostile(Files):
    """Somebody else may write to the folder, or lock it."""

    def swaps(self, path, victim, stop):
        """Put a symbolic link to the victim in the place of what appears at the path, as often as it does."""
        while not stop.is_set():
            try:
                os.rename(path, path + ".stolen")
                os.symlink(victim, path)
            except OSError:
                pass

    def victim_of(self, words, path, victim):
        """Devices with these words while the path is swapped; what the daemon says of those that are refused."""
        before = os.stat(victim)
        stop = threading.Event()
        said = []
        with daemon_at_run_time() as daemon:
            thief = threading.Thread(target=self.swaps, args=(path, victim, stop))
            thief.start()
            try:
                for _ in range(100):
                    try:
                        daemon.add(f"name net0 mgmtdev sim_net {words}")
                    except harness.ControlError as error:
                        said.append(error.message)
                    else:
                        daemon.delete("net0")
                    # The daemon removes no file that is not its own.
                    for name in path, path + ".stolen":
                        if os.path.isdir(name) and not os.path.islink(name):
                            shutil.rmtree(name, ignore_errors=True)
                        elif os.path.lexists(name):
                            try:
                                os.unlink(name)
                            except OSError:
                                pass
            finally:
                stop.set()
                thief.join()
        after = os.stat(victim)
        self.assertEqual((after.st_mode, after.st_gid), (before.st_mode, before.st_gid), said[-3:])
        return said

    def test_swap_of_the_socket_changes_no_other_file(self):
        with open(self.path("victim"), "w", encoding="ascii"):
            pass
        os.chmod(self.path("victim"), 0o600)
        os.mkdir(self.path("open"))
        group = " group daemon" if os.geteuid() == 0 else ""
        path = self.path("open/s")
        for text in self.victim_of(f"mode 0666{group} socket {path}", path, self.path("victim")):
            self.assertIn(f"socket '{path}': ", text)

    def test_swap_of_the_folder_changes_no_other(self):
        os.mkdir(self.path("victim"), 0o700)
        os.mkdir(self.path("open"))
        group = " group daemon" if os.geteuid() == 0 else ""
        # A link that leads to the victim is no folder of the daemon's, with slashes behind it neither.
        for i, slashes in enumerate(("/", "//")):
            path = self.path(f"open/f{i}")
            self.victim_of(f"folder 0755 mode 0666{group} socket {path}{slashes}s", path, self.path("victim"))

    def test_lock_of_the_folder_costs_a_second_once(self):
        with daemon_at_run_time() as daemon:
            lock = os.open(self.dir, os.O_RDONLY | os.O_DIRECTORY)
            self.addCleanup(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
            took = []
            for i in range(4):
                start = time.monotonic()
                daemon.add(f"name net{i} mgmtdev sim_net socket {self.path(f's{i}')}")
                took.append(time.monotonic() - start)
            self.assertGreaterEqual(took[0], 0.9, took)
            self.assertLess(sum(took[1:]), 0.9, took)
            daemon.err.wait(f"folder '{re.escape(self.dir)}': another process keeps a lock on it")
            self.assertEqual(daemon.err.text().count("keeps a lock"), 1)


class ControlFolder(Files):
    """The folder of the default control socket."""

    def said_with_mode(self, mode):
        """What the daemon says whose folder is there with that mode; and whether it has its socket."""
        harness.skip_unless(os.geteuid() == 0, "needs root to become a user")
        os.chown(self.dir, OTHER_UID, OTHER_UID)
        os.mkdir(self.path("uvdpa"))
        os.chmod(self.path("uvdpa"), mode)
        os.chown(self.path("uvdpa"), OTHER_UID, OTHER_UID)
        # The build may lie where only root can look.
        libs = subprocess.run(["ldd", harness.APP], capture_output=True, text=True, check=True)
        program = shutil.copy(harness.APP, self.dir)
        shutil.copy(re.search(r"(/\S*/libuvdpa\.so\S*)", libs.stdout).group(1), self.dir)
        user = ["env", f"LD_LIBRARY_PATH={self.dir}", "setpriv", f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}",
                "--clear-groups"]
        with harness.Daemon([], control=False, user=user, app=program, folder=self.dir,
                            eal=["--no-huge", "-m", "64", "--no-shconf"]) as daemon:
            there = os.path.exists(self.path("uvdpa/control.sock"))
            if not there:
                daemon.err.wait("no control socket")
            return daemon.err.text(), there

    def test_that_its_group_or_others_may_write_to_is_not_used(self):
        for mode in 0o775, 0o757:
            with self.subTest(oct(mode)):
                text, there = self.said_with_mode(mode)
                self.assertFalse(there)
                self.assertIn(f"'{self.path('uvdpa')}' is no folder that is this user's or root's and that nobody "
                              "else can write to", text)
                shutil.rmtree(self.path("uvdpa"))

    def test_that_only_its_user_may_write_to_is_used(self):
        text, there = self.said_with_mode(0o755)
        self.assertTrue(there, text)


class AccessControlList(Files):
    """A default list of the folder, which the operator sets, is the socket's; its mask is the word mode."""

    def setUp(self):
        super().setUp()
        harness.skip_unless(shutil.which("setfacl") is not None, "setfacl is not installed: scripts/setup test")
        harness.skip_unless(os.geteuid() == 0, "another user is played by root only")
        os.chmod(self.dir, 0o755)
        os.mkdir(self.path("sockets"), 0o711)
        os.chmod(self.path("sockets"), 0o711)
        done = subprocess.run(["setfacl", "-d", "-m", f"u:{OTHER_UID}:rw,g::-,o::-", self.path("sockets")],
                              capture_output=True, text=True, check=False)
        harness.skip_unless(done.returncode == 0, f"no access control lists here: {done.stderr.strip()}")

    def connects(self, uid, path):
        """Whether a user of that number, of no group, connects."""
        def connect():
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(path)

        answer = harness.as_user(uid, uid, connect)
        self.assertIn(answer, (None, "PermissionError"))
        return answer is None

    def socket_with(self, words):
        class There(FolderDaemon):
            folder = self.path("sockets")

        return self.daemon(words, kind=There).path("net0")

    def test_lets_its_user_in_and_nobody_else(self):
        path = self.socket_with("mode 0660")
        self.assertTrue(self.connects(OTHER_UID, path))
        self.assertFalse(self.connects(OTHER_UID - 1, path))

    def test_has_no_effect_with_mode_0600(self):
        self.assertFalse(self.connects(OTHER_UID, self.socket_with("")))


class DeviceInfo(Files):
    def info(self, name="info.json"):
        with open(self.path(name), encoding="utf-8") as f:
            return json.load(f)

    def test_says_what_the_application_is_to_the_socket(self):
        """The specification's mode is the application's: client where the host makes the socket."""
        for words, mode in ("", "client"), ("client", "server"):
            with self.subTest(words):
                daemon = self.daemon(f"{words} device_info {self.path('info.json')}")
                self.assertEqual(self.info(), {"type": "vhost-user", "version": "1.1.0",
                                               "vhost-user": {"mode": mode, "path": daemon.path("net0")}})
                self.assertEqual(stat.S_IMODE(os.stat(self.path("info.json")).st_mode), 0o644)
                daemon.stop()
                self.assertFalse(os.path.exists(self.path("info.json")))

    def test_is_replaced_whole(self):
        """A reader sees an old file or a new one, never half of one, and no other file is left."""
        with daemon_at_run_time() as daemon:
            with open(self.path("info.json"), "w", encoding="ascii") as f:
                f.write('{"type": "vhost-user"}')
            with open(self.path("info.json"), encoding="ascii") as old:
                daemon.add(f"name net0 mgmtdev sim_net socket {self.path('s')} device_info {self.path('info.json')}")
                self.assertEqual(json.load(old), {"type": "vhost-user"})
            self.assertEqual(self.info()["vhost-user"]["path"], self.path("s"))
            self.assertEqual(sorted(os.listdir(self.dir)), ["info.json", "s"])
            daemon.delete("net0")
            self.assertEqual(os.listdir(self.dir), [])

    def test_of_a_daemon_that_was_killed_is_replaced(self):
        daemon = self.daemon(f"device_info {self.path('info.json')}")
        daemon.process.kill()
        daemon.process.wait()
        self.assertTrue(os.path.exists(self.path("info.json")))
        again = self.daemon(f"device_info {self.path('info.json')}")
        self.assertEqual(self.info()["vhost-user"]["path"], again.path("net0"))
        again.stop()
        self.assertFalse(os.path.exists(self.path("info.json")))
        daemon.stop()

    def test_is_replaced_up_to_the_size_of_one(self):
        """What is longer than 65536 bytes is no device-info file, whatever it says."""
        text = '{"type": "vhost-user"}'
        with open(self.path("info.json"), "w", encoding="ascii") as f:
            f.write(text.ljust(65537))
        said = self.refused(f"socket {self.path('s')} device_info {self.path('info.json')}")
        self.assertIn(f"device_info '{self.path('info.json')}': a file that is no device-info file", said)
        self.assertEqual(os.path.getsize(self.path("info.json")), 65537)
        self.assertFalse(os.path.exists(self.path("s")))
        os.truncate(self.path("info.json"), 65536)
        daemon = self.daemon(f"device_info {self.path('info.json')}")
        self.assertEqual(self.info()["vhost-user"]["path"], daemon.path("net0"))
        daemon.stop()

    def test_that_somebody_else_has_put_there_stays(self):
        daemon = self.daemon(f"device_info {self.path('info.json')}")
        os.unlink(self.path("info.json"))
        with open(self.path("info.json"), "w", encoding="ascii") as f:
            f.write("precious")
        daemon.stop()
        self.assertTrue(os.path.exists(self.path("info.json")))

    def test_is_of_one_device(self):
        text = self.refused(f"socket {self.path('a')} device_info {self.path('i')}",
                            f"socket {self.path('b')} device_info {self.path('i')}")
        self.assertIn(f"device_info '{self.path('i')}': is in use by net0", text)
        self.assertEqual([f for f in os.listdir(self.dir) if f in ("a", "b", "i")], [])

    def test_where_it_cannot_be_written(self):
        text = self.refused(f"socket {self.path('s')} device_info {self.path('no/i')}")
        self.assertIn(f"device_info '{self.path('no/i')}': No such file", text)
        self.assertFalse(os.path.exists(self.path("s")))


class Names(Files):
    """Paths as those who hand a socket out choose them."""

    def names(self):
        port = str(uuid.UUID(int=0x0123456789abcdef0123456789abcdef))
        pod = "8f5a0c0e-7c1a-4f0e-9d53-6d1b8a6f9b2c"
        return {
            # os-vif and nova: vhu and the first 11 characters of the port, below neutron's
            # vhostuser_socket_dir; nova asks for 14 characters at most.
            "os-vif": f"run/openvswitch/{('vhu' + port)[:14]}",
            # libvirt: any path; one below the domain's folder, as virt-manager's users have it.
            "libvirt": "run/libvirt/qemu/vhost-user/guest-1.net0.sock",
            # Kata: below vhost_user_store_path, named as the device node in block/devices.
            "kata": "run/kata-containers/vhost-user/block/sockets/vhostblk0",
            # userspace-cni: the sandbox's first 12 characters and the interface, in its folder.
            "userspace-cni": "var/lib/cni/usrspcni/4ed69c306ac1-net1",
            # KubeVirt: a pod's emptyDir on the node.
            "kubevirt": f"pods/{pod}/volumes/kubernetes.io~empty-dir/net/net1.sock",
            # The device plugin that speaks to uvdpad.
            "uvdpad": "run/uvdpa/0000__06__00_2/vdpa.sock",
        }

    def test_are_served(self):
        names = self.names()
        self.assertEqual(os.path.basename(names["os-vif"]), "vhu01234567-89")
        with daemon_at_run_time() as daemon:
            for i, name in enumerate(names.values()):
                path = self.path(name)
                self.assertLessEqual(len(path), SUN_PATH_MAX, path)
                os.makedirs(os.path.dirname(path))
                daemon.add(f"name net{i} mgmtdev sim_net backend loopback socket {path}")
                with NetDriver(path) as net:
                    net.start()
                    net.exchange()

    def test_to_the_limit_of_a_socket_address(self):
        path = self.path("")
        path += "x" * (SUN_PATH_MAX - len(path))
        with daemon_at_run_time() as daemon:
            daemon.add(f"name net0 mgmtdev sim_net backend loopback socket {path}")
            with NetDriver(path) as net:
                net.start()
                net.exchange()
        text = self.refused(f"socket {path}x")
        self.assertIn("108 characters, allowed are 1 to 107", text)
        # The way out: a shorter path of the same folder.
        link = self.path("l")
        os.makedirs(self.path("y" * 100))
        os.symlink(self.path("y" * 100), link)
        with daemon_at_run_time() as daemon:
            daemon.add(f"name net0 mgmtdev sim_net backend loopback socket {link}/s")
            with NetDriver(f"{link}/s") as net:
                net.start()
                net.exchange()


class Client(Files):
    """The daemon connects: to QEMU as server, as KubeVirt, nova and OVS have it."""

    def listener(self, path):
        s = socket.socket(socket.AF_UNIX)
        self.addCleanup(s.close)
        s.bind(path)
        s.listen(1)
        s.settimeout(10)
        return s

    def test_waits_without_end_and_without_a_line(self):
        daemon = self.daemon("client folder 0700", kind=FolderDaemon)
        lines = daemon.log().count("\n")
        busy = harness.cpu_seconds(daemon.process.pid)
        time.sleep(3)
        self.assertEqual(daemon.log().count("\n"), lines, daemon.log())
        # One attempt a second costs nothing that can be measured.
        self.assertLessEqual(harness.cpu_seconds(daemon.process.pid) - busy, 0.1)
        listener = self.listener(daemon.path("net0"))
        start = harness.running()
        connection, _ = listener.accept()
        self.assertLess(harness.running() - start, 2)
        with NetDriver(None, connection=connection) as net:
            net.start()

    def test_comes_back_at_once_when_the_server_does(self):
        daemon = self.daemon("client", kind=Daemon)
        path = daemon.path("net0")
        for _ in range(5):
            listener = self.listener(path)
            connection, _ = listener.accept()
            with NetDriver(None, connection=connection) as net:
                net.start()
            listener.close()
            os.unlink(path)
        lines = daemon.log()
        self.assertNotIn("connections wait", lines)

    def test_of_a_server_that_hangs_up_at_once_is_patient(self):
        """Each attempt fails: no more than ten a second, and the log stays bounded."""
        daemon = self.daemon("client")
        listener = self.listener(daemon.path("net0"))
        before = daemon.log().count("\n")
        end = time.monotonic() + 3
        n = 0
        while time.monotonic() < end:
            listener.accept()[0].close()
            n += 1
        self.assertLessEqual(n, 35)
        self.assertLessEqual(daemon.log().count("\n") - before, 12, daemon.log())

    def test_says_once_what_keeps_it_out(self):
        harness.skip_unless(os.geteuid() == 0, "another user is played by root only")
        folder = self.path("closed")
        os.mkdir(folder)
        os.chown(folder, OTHER_UID, OTHER_UID)
        os.chmod(folder, 0o700)
        os.chmod(self.dir, 0o711)
        listener = self.listener(os.path.join(folder, "s"))
        # A folder is closed to root too, without CAP_DAC_OVERRIDE.
        argv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search",
                os.environ["UVDPA_APP"], "--no-huge", "-m", "64", f"--file-prefix=s{os.getpid()}", "--no-telemetry",
                "--", "--dev", f"name net0 mgmtdev sim_net client socket {folder}/s"]
        with open(self.path("log"), "wb") as log:
            proc = subprocess.Popen(argv, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.addCleanup(proc.wait)
        self.addCleanup(proc.kill)

        def said():
            with open(self.path("log"), encoding="utf-8", errors="replace") as f:
                return f.read().count("connections wait: ")

        self.assertTrue(wait_until(said), "no line")
        time.sleep(2.5)
        self.assertEqual(said(), 1)
        os.chown(folder, 0, 0)
        listener.accept()[0].close()


if __name__ == "__main__":
    unittest.main()
