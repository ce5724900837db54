# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Runs inside the laboratory, see test_lab_service.py: uvdpa.service and uvdpa@.service under systemd,
with a simulated device and a function of VFIO.
"""

import contextlib
import functools
import grp
import json
import os
import pathlib
import pwd
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import unittest

import firmware
import lab_inside as inside
from lab_inside import harness
import vhost_user_client as vu

UNIT = "uvdpa.service"
RUN = pathlib.Path("/run/uvdpa")
ADDRESS = "0000:00:10.0"
NET = "name {0} mgmtdev sim_net backend loopback socket {1}/{0}.sock\n"
PCI = f"name pci0 mgmtdev pci/{ADDRESS} socket {RUN}/pci0.sock\n"
DROP_INS = pathlib.Path(f"/run/systemd/system/{UNIT}.d")
DEFAULTS = pathlib.Path("/etc/default/uvdpa")
GUIDE = pathlib.Path(__file__).resolve().parent.parent.parent / "doc" / "guide-service.md"
# What a virtual machine's QEMU is: a user of no rights in the group kvm.
AS_QEMU = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--groups=kvm"]
METRICS = pathlib.Path("/var/lib/prometheus/node-exporter")
# Every instruction is emulated.
TIMEOUT = 60.0
# There is one CPU: who waits, and traffic, leave it to what they wait for.
PAUSE = 0.1
WATCHDOG = 6  # seconds


def until(condition, what, timeout):
    """Poll until condition() is true, which often starts a systemctl; its value."""
    return harness.wait_for(condition, what, timeout, PAUSE)


def run(*words):
    return subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)


def systemctl(*words):
    done = run("systemctl", *words)
    if done.returncode != 0:
        log = run("journalctl", "-b", "--no-pager", "-n", "40", "-u", "uvdpa*").stdout
        raise AssertionError(f"systemctl {' '.join(words)}: {done.stdout}\n{log}")


def show(prop, unit=UNIT):
    return run("systemctl", "show", "-P", prop, unit).stdout.strip()


@functools.cache
def program(name):
    """The installed program, as the unit has it."""
    return str(pathlib.Path(re.search(r"path=(\S+)", show("ExecStart"))[1]).parent / name)


def vdpactl(*words, check=True):
    done = run(program("vdpactl"), *words)
    if check and done.returncode != 0:
        raise AssertionError(f"vdpactl {' '.join(words)}: {done.stdout}")
    return done


def config(unit=UNIT):
    return pathlib.Path(re.search(r"--config (\S+)", show("ExecStart", unit))[1])


def locked_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return int(re.search(r"^VmLck:\s+(\d+)", f.read(), re.M)[1])


def journal(unit=UNIT):
    return run("journalctl", "-b", "-u", unit, "--no-pager").stdout


def drop_ins():
    """The guide's, by the words that stand over them."""
    text = GUIDE.read_text(encoding="utf-8").partition("Drop-ins for devices")[2].partition("\n## ")[0]
    found, name = {}, None
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("# "):
            name = line[2:]
            found[name] = ""
        elif line.startswith("[") or "=" in line and name:
            found[name] += line + "\n"
    return found


def disk_file(path, contents, size=firmware.SIZE):
    """A disk of the service's."""
    path.write_bytes(contents.ljust(size, b"\0"))
    os.chown(path, pwd.getpwnam("uvdpa").pw_uid, -1)
    path.chmod(0o600)
    return path


class Traffic:
    """Frames that go out and back on a device, one after the other, for as long as this is open."""

    def __init__(self, path):
        self.driver = vu.NetDriver(str(path)).start()
        self.driver.exchange()
        self.ending, self.error = False, None
        self.under_way = threading.Lock()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            while not self.ending:
                with self.under_way:
                    self.driver.exchange(TIMEOUT)
                time.sleep(PAUSE / 2)
        except Exception as e:  # for the test's thread
            self.error = e

    def passes(self, frames=3):
        """Until so many more have come back."""
        first = self.driver.count
        until(lambda: self.error or self.driver.count > first + frames, "frames to pass", TIMEOUT)
        if self.error:
            raise AssertionError(f"frames do not pass: {self.error!r}")

    def kill(self, pid):
        """Between two frames: one that a killed simulator was moving comes twice, and there is one buffer."""
        with self.under_way:
            os.kill(pid, signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.ending = True
        self.thread.join()
        self.driver.close()


class Service(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        inside.bind(ADDRESS)
        run("udevadm", "settle")
        cls.config = config()

    def setUp(self):
        self.addCleanup(self.end)

    def end(self):
        run("systemctl", "stop", UNIT, "uvdpa@vm1.service")
        run("systemctl", "reset-failed")

    def configure(self, *devices, path=None, folder=RUN):
        (path or self.config).write_text("".join(
            d if d.endswith("\n") else NET.format(d, folder) for d in devices))

    def start(self, *devices):
        self.configure(*devices)
        systemctl("start", UNIT)
        # Ready means that all is there.
        for words in devices:
            name = words.split()[1] if " " in words else words
            self.assertTrue((RUN / f"{name}.sock").is_socket(), name)
        return int(show("MainPID"))

    def test_runs_unprivileged_and_serves(self):
        pid = self.start("net0", PCI)
        user, group = pwd.getpwnam("uvdpa"), grp.getgrnam("uvdpa")
        self.assertNotEqual(user.pw_uid, 0)
        fields = dict(line.split(":\t", 1) for line in
                      pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        self.assertEqual(fields["Uid"].split(), [str(user.pw_uid)] * 4)
        for name in "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
            self.assertEqual(int(fields[name], 16), 0, name)
        self.assertEqual(fields["NoNewPrivs"], "1")
        self.assertEqual(fields["Seccomp"], "2", "no filter of system calls")
        limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
        self.assertRegex(limits, r"Max locked memory +unlimited +unlimited")
        # The rule of udev.
        device = os.stat(f"/dev/vfio/{inside.word('group_of', ADDRESS)}")
        self.assertEqual((device.st_uid, device.st_gid, stat.S_IMODE(device.st_mode)),
                         (0, group.gr_gid, 0o660))
        # A simulated device, and hardware that reads and writes memory through the IOMMU.
        before = inside.faults()[0]
        with Traffic(RUN / "net0.sock") as simulated, Traffic(RUN / "pci0.sock") as function:
            simulated.passes()
            function.passes()
            self.assertGreater(locked_kib(pid), 0, "no memory is pinned")
        self.assertEqual(inside.faults()[0], before)
        self.assertNotEqual(show("StatusText"), "")

    def test_what_it_does_not_need_is_out_of_reach(self):
        self.start("net0")
        os.chmod("/root", 0o755)
        # Whoever is not confined may write to all of them.
        for path, error in (("/etc/open", "Read-only file system"), ("/tmp/open", "No such file"),
                            ("/root/open", "Permission denied|No such file"),
                            ("/dev/ttyS0", "Operation not permitted"), ("/var/lib/uvdpa/open", None)):
            file = pathlib.Path(path)
            if not file.is_char_device():
                file.write_bytes(bytes(1 << 20))
            file.chmod(0o666)
            done = vdpactl("dev", "add", "name", "disk0", "mgmtdev", "sim_blk", "backend", "file", path,
                           "socket", f"{RUN}/disk0.sock", check=False)
            if error is None:
                self.assertEqual((done.returncode, done.stdout), (0, ""), path)
            else:
                self.assertNotEqual(done.returncode, 0, path)
                self.assertRegex(done.stdout, error)
        with Traffic(RUN / "net0.sock") as traffic:
            traffic.passes()

    def test_reload_changes_the_difference_only(self):
        pid = self.start("net0", "net1", PCI)
        with Traffic(RUN / "net0.sock") as simulated, Traffic(RUN / "pci0.sock") as function:
            self.configure("net0", PCI, "net2")
            systemctl("reload", UNIT)
            self.assertTrue((RUN / "net2.sock").is_socket())
            self.assertFalse((RUN / "net1.sock").exists())
            simulated.passes()
            function.passes()
            # A mistake changes nothing, and the administrator hears of it.
            self.configure("net0", "name net3 mgmtdev sim_nt\n")
            self.assertNotEqual(run("systemctl", "reload", UNIT).returncode, 0)
            self.assertEqual(show("ActiveState"), "active")
            self.assertTrue((RUN / "net2.sock").is_socket())
            simulated.passes()
            function.passes()
        self.assertEqual(int(show("MainPID")), pid)
        self.assertEqual(show("NRestarts"), "0")
        with Traffic(RUN / "net2.sock") as added:
            added.passes()

    def drop_in(self, text):
        """Until the end of the test."""
        file = DROP_INS / "test.conf"
        file.parent.mkdir(parents=True, exist_ok=True)
        self.addCleanup(run, "systemctl", "daemon-reload")
        self.addCleanup(file.unlink, missing_ok=True)
        file.write_text(text)
        systemctl("daemon-reload")

    def add(self, *words):
        """vdpactl dev add: what it has to say, nothing where it has added the device."""
        return vdpactl("dev", "add", *words, check=False).stdout

    def with_drop_in(self, name):
        """The service anew with a drop-in of the guide's."""
        guide = drop_ins()
        self.assertIn(name, guide)
        systemctl("stop", UNIT)
        self.drop_in(guide[name])
        self.start("net0")

    def test_drop_in_for_a_block_device(self):
        node = pathlib.Path("/dev/vg0/web")
        node.parent.mkdir()
        node.symlink_to("/dev/vda")
        os.chown("/dev/vda", 0, grp.getgrnam("disk").gr_gid)
        os.chmod("/dev/vda", 0o660)
        words = ("name", "disk0", "mgmtdev", "sim_blk", "backend", "file", str(node),
                 "socket", f"{RUN}/disk0.sock", "mode", "0660", "group", "kvm")
        self.start("net0")
        self.assertNotEqual(self.add(*words), "")
        self.with_drop_in("A disk on a block device")
        self.assertEqual(self.add(*words), "")
        with firmware.Firmware(RUN / "disk0.sock", launcher=AS_QEMU) as guest:
            self.assertEqual(guest.ends(TIMEOUT), firmware.DATA)

    def test_drop_in_for_disks_in_another_folder(self):
        folder = pathlib.Path("/srv/disks")
        folder.mkdir(parents=True)
        os.chown(folder, pwd.getpwnam("uvdpa").pw_uid, -1)
        image = disk_file(folder / "web.img", firmware.IMAGE)
        words = ("name", "disk0", "mgmtdev", "sim_blk", "backend", "file", str(image),
                 "socket", f"{RUN}/disk0.sock")
        self.start("net0")
        self.assertRegex(self.add(*words), "Read-only file system")
        self.with_drop_in("Disks' files in another folder, which belong to uvdpa")
        self.assertEqual(self.add(*words), "")

    def test_drop_in_for_uplinks(self):
        # The packet socket; a tap interface where the laboratory's kernel has a module for it.
        vdevs = "--vdev net_af_packet0,iface=lo"
        if pathlib.Path("/dev/net/tun").exists():
            vdevs += " --vdev net_tap0"
        DEFAULTS.write_text(f'UVDPA_EAL_OPTIONS="{vdevs}"\n')
        self.addCleanup(DEFAULTS.unlink)
        words = ("name", "up0", "mgmtdev", "sim_net", "backend", "uplink", "net_af_packet0",
                 "socket", f"{RUN}/up0.sock")
        self.start("net0")
        self.assertRegex(self.add(*words), "net_af_packet0")
        self.with_drop_in("sim_net's uplink by a tap interface or a packet socket")
        self.assertEqual(self.add(*words), "")
        if "net_tap0" in vdevs:
            self.assertEqual(self.add("name", "up1", "mgmtdev", "sim_net", "backend", "uplink",
                                      "net_tap0", "socket", f"{RUN}/up1.sock"), "")
        # Everything that is sent to lo comes back from it.
        with Traffic(RUN / "up0.sock") as traffic:
            traffic.passes()

    def test_drop_in_for_sockets_below_tmp(self):
        path = "/tmp/front-end.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            os.chmod(path, 0o777)
            listener.listen()
            words = ("name", "net1", "mgmtdev", "sim_net", "socket", path, "client")
            self.start("net0")
            self.assertEqual(self.add(*words), "")
            listener.settimeout(2)
            self.assertRaises(TimeoutError, listener.accept)
            self.with_drop_in("A vfio-user server's or a front end's socket below /tmp")
            self.assertEqual(self.add(*words), "")
            listener.settimeout(TIMEOUT)
            listener.accept()[0].close()

    def test_a_process_that_hangs_is_replaced(self):
        self.drop_in(f"[Service]\nWatchdogSec={WATCHDOG}\n")
        pid = self.start("net0")
        with Traffic(RUN / "net0.sock") as traffic:
            # One that works is let be, longer than it may hang.
            with contextlib.suppress(AssertionError):
                until(lambda: show("NRestarts") != "0", "longer than the watchdog", 1.5 * WATCHDOG)
            traffic.passes()
        self.assertEqual((int(show("MainPID")), show("NRestarts")), (pid, "0"))
        os.kill(pid, signal.SIGSTOP)
        until(lambda: show("NRestarts") == "1" and show("ActiveState") == "active",
              "another process", TIMEOUT)
        self.assertNotEqual(int(show("MainPID")), pid)
        with Traffic(RUN / "net0.sock") as traffic:
            traffic.passes()
        self.assertIn("Watchdog timeout", journal())

    def test_devices_outlive_a_restart_and_a_crash(self):
        DEFAULTS.write_text('UVDPA_OPTIONS="--keep systemd"\n')
        self.addCleanup(DEFAULTS.unlink)
        before = journal().count("took over 2 devices")
        # The function goes on meanwhile; its kicks wait for the next process.
        pids = [self.start("net0", PCI)]
        with Traffic(RUN / "net0.sock") as traffic, Traffic(RUN / "pci0.sock") as function:
            traffic.passes()
            function.passes()
            systemctl("restart", UNIT)
            pids.append(int(show("MainPID")))
            traffic.passes()
            function.passes()
            traffic.kill(pids[-1])
            until(lambda: show("NRestarts") == "1" and show("ActiveState") == "active", "another process", TIMEOUT)
            pids.append(int(show("MainPID")))
            traffic.passes()
            function.passes()
            # Whoever comes anew finds the socket.
            self.assertTrue((RUN / "net0.sock").is_socket())
        self.assertEqual(len(set(pids)), 3)
        self.assertEqual(journal().count("took over 2 devices"), before + 2)
        self.assertNotIn("starts anew", journal())
        # Stopped for good, it leaves nothing to the next.
        systemctl("stop", UNIT)
        self.assertIn(show("NFileDescriptorStore"), ("0", ""))
        self.start("net0", PCI)
        self.assertIn("took over 0 devices", journal())
        for name in "net0", "pci0":
            with Traffic(RUN / f"{name}.sock") as traffic:
                traffic.passes()

    def test_devices_outlive_an_upgrade(self):
        DEFAULTS.write_text('UVDPA_OPTIONS="--keep systemd"\n')
        self.addCleanup(DEFAULTS.unlink)
        before = journal().count("took over 1 device")
        pids = [self.start("net0")]
        restarts = int(show("NRestarts"))
        with Traffic(RUN / "net0.sock") as traffic:
            traffic.passes()
            # Handed over while it lives: another process of a unit that stays as it is.
            self.assertRegex(vdpactl("upgrade").stdout, "^1 device went over to process")
            until(lambda: int(show("MainPID")) not in pids, "another main process", TIMEOUT)
            pids.append(int(show("MainPID")))
            self.assertEqual((show("ActiveState"), show("SubState"), int(show("NRestarts"))), ("active", "running", restarts))
            traffic.passes()
            until(lambda: not pathlib.Path(f"/proc/{pids[-2]}").exists(), "the end of the old one", TIMEOUT)
            traffic.kill(pids[-1])
            until(lambda: int(show("NRestarts")) == restarts + 1 and show("ActiveState") == "active", "another process", TIMEOUT)
            pids.append(int(show("MainPID")))
            traffic.passes()
        self.assertEqual(len(set(pids)), 3)
        self.assertEqual(journal().count("took over 1 device"), before + 2)

    def test_a_keeper_holds_what_a_failed_service_leaves_and_fences(self):
        keeper, sock = "uvdpa-keeper.service", "/run/uvdpa-keeper/keeper.sock"
        systemctl("start", keeper)
        # What it leaves is a keeper to uvdpa-fence.service.
        self.addCleanup(lambda: pathlib.Path(sock).unlink(missing_ok=True))
        self.addCleanup(run, "systemctl", "stop", keeper)
        DEFAULTS.write_text(f'UVDPA_OPTIONS="--keep unix:{sock}"\n')
        self.addCleanup(DEFAULTS.unlink)
        self.drop_in("[Service]\nRestartSec=5\n")
        before = journal().count("took over 1 device")
        pid = self.start("net0")
        with Traffic(RUN / "net0.sock") as traffic:
            traffic.passes()
            traffic.kill(pid)
            # As a systemd from 254 on does it.
            until(lambda: show("ActiveState") == "activating", "a restart that is due", TIMEOUT)
            systemctl("start", "uvdpa-fence.service")
            until(lambda: show("NRestarts") == "1" and show("ActiveState") == "active", "another process", TIMEOUT)
            traffic.passes()
        self.assertEqual(journal().count("took over 1 device"), before + 1)
        # A crash from which it is started again is none that is fenced; nor does anybody fence a living one.
        self.assertNotIn("asks for a fence", journal(keeper))
        self.assertNotEqual(run(program("vdpa-keeper"), "--fence", "--socket", sock).returncode, 0)
        until(lambda: "is refused a fence" in journal(keeper), "the keeper's line", TIMEOUT)
        # One that cannot start is.
        self.configure("name net0 mgmtdev sim_nt\n")
        self.assertNotEqual(run("systemctl", "restart", UNIT).returncode, 0)
        until(lambda: "asks for a fence" in journal(keeper), "the fence", TIMEOUT)
        until(lambda: show("Result", "uvdpa-fence.service") == "success", "its end", TIMEOUT)
        # The keeper itself ends well, and has not died of its bounds.
        systemctl("stop", keeper)
        self.assertEqual((show("Result", keeper), show("NRestarts", keeper)), ("success", "0"))
        self.assertRegex(journal(keeper), r"ends: \d+ descriptors? (is|are) dropped")

    def test_an_instance_is_a_process_of_its_own(self):
        unit, folder = "uvdpa@vm1.service", RUN / "vm1"
        pid = self.start("net0")
        self.configure("net0", path=config(unit), folder=folder)
        self.addCleanup(config(unit).unlink)
        systemctl("start", unit)
        self.assertNotEqual(int(show("MainPID", unit)), pid)
        self.assertTrue((folder / "control.sock").is_socket())
        with Traffic(folder / "net0.sock") as theirs:
            with Traffic(RUN / "net0.sock") as ours:
                ours.passes()
            systemctl("stop", UNIT)
            theirs.passes()
            self.assertTrue((folder / "control.sock").is_socket())
        systemctl("stop", unit)
        self.assertFalse(folder.exists())

    def test_stops_and_leaves_nothing(self):
        self.start("net0", PCI)
        with Traffic(RUN / "net0.sock") as traffic:
            traffic.passes()
        systemctl("stop", UNIT)
        # systemd forgets a unit that has ended well.
        self.assertIn("Deactivated successfully", "".join(journal().splitlines()[-3:]))
        self.assertEqual([p for p in RUN.rglob("*") if not p.is_dir()], [])

    def test_a_wrong_configuration_fails_once(self):
        self.configure("name net0 mgmtdev sim_nt\n")
        self.assertNotEqual(run("systemctl", "start", UNIT).returncode, 0)
        self.assertEqual((show("Result"), show("ExecMainStatus"), show("NRestarts")),
                         ("exit-code", "2", "0"))
        self.assertIn("sim_nt", journal())

    def test_lines_of_the_log_have_level_and_device(self):
        self.start("net0")
        with Traffic(RUN / "net0.sock"):
            pass
        def lines():
            text = run("journalctl", "-b", "-o", "json", f"_SYSTEMD_UNIT={UNIT}").stdout
            return [json.loads(line) for line in text.splitlines()]
        until(lambda: any(line.get("UVDPA_DEVICE") == "net0" and "PRIORITY" in line
                          for line in lines()), f"a line of the device in {lines()[-3:]}", TIMEOUT)

    def test_metrics_for_the_node_exporter(self):
        # Nothing happens without a node exporter.
        systemctl("start", "uvdpa-metrics.service")
        METRICS.mkdir(parents=True)
        self.start("net0")
        systemctl("start", "uvdpa-metrics.service")
        self.assertEqual([p.name for p in METRICS.iterdir()], ["uvdpa.prom"])
        file = METRICS / "uvdpa.prom"
        self.assertRegex(file.read_text(), r'(?m)^uvdpa_\S*\{.*"net0"')
        self.assertEqual(stat.S_IMODE(file.stat().st_mode) & 0o444, 0o444)
        # A daemon that is gone shows, and its counters are not kept.
        systemctl("stop", UNIT)
        systemctl("start", "uvdpa-metrics.service")
        self.assertIn('uvdpa_up{daemon=""} 0', file.read_text())
        self.assertNotIn('net0', file.read_text())


if __name__ == "__main__":
    unittest.main(verbosity=2)
