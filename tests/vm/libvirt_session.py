# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
libvirt of our own: an unprivileged session whose files are all in one folder, and guests of it.

Nothing of the system's libvirt is used, started or changed. Root plays an ordinary user for it, as a
session of root's would be the system's instance.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
import xml.etree.ElementTree as ET

import guest
import machine

PROGRAMS = ("libvirtd", "virsh", "virt-xml-validate")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
USER, GROUP = "nobody", "nogroup"  # whom root plays
START_TIMEOUT = 60
DOC = machine.ROOT / "doc"
QEMU_NS = "http://libvirt.org/schemas/domain/qemu/1.0"


class LibvirtError(Exception):
    """libvirt did not do what it was to do."""


def missing():
    """Why no guest of libvirt's can run here, None when one can."""
    for program in PROGRAMS:
        if shutil.which(program, path=PATH) is None:
            return f"{program} is not installed: run scripts/setup vm"
    return guest.missing()


def documented(page):
    """The domains in a page of the documents, as they are printed."""
    return re.findall(r"^```xml\n(<domain.*?)^```$", (DOC / page).read_text(), re.M | re.S)


def documented_words(page):
    """The words of dev add in a page."""
    blocks = re.findall(r"^```words\n(.*?)^```$", (DOC / page).read_text(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


def emulated(root):
    """A domain (its root element) that needs no KVM, which the user may not have."""
    root.set("type", "qemu")
    cpu = root.find("cpu")
    if cpu is not None:
        cpu.set("mode", "maximum")
        # Neither page tables of five levels nor rep movsb, which TCG does byte by byte.
        for feature in "la57", "erms", "fsrm":
            ET.SubElement(cpu, "feature", policy="disable", name=feature)
    return root


def parse(xml):
    ET.register_namespace("qemu", QEMU_NS)
    return ET.fromstring(xml)


class Session:
    """A libvirtd with its files in a folder. A with statement ends it and its guests."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.home = self.folder / "v"  # its sockets' paths are long
        self.as_user = []
        self.proc = None
        self.env = dict(os.environ, HOME=str(self.home), PATH=PATH, LC_ALL="C",
                        **{f"XDG_{name}": str(self.home / name.lower()[0])
                           for name in ("RUNTIME_DIR", "CONFIG_HOME", "CACHE_HOME", "DATA_HOME")})
        self.socket = self.home / "r" / "libvirt" / "libvirt-sock"

    def __enter__(self):
        for folder in (self.home, *(self.home / name for name in "rcd")):
            folder.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            self.as_user = ["setpriv", "--reuid", USER, "--regid", GROUP, "--clear-groups"]
            for path in (self.home, *self.home.iterdir()):
                shutil.chown(path, USER, GROUP)
        with open(self.folder / "libvirtd.log", "wb") as log:
            self.proc = subprocess.Popen(
                # It must not outlive a test that is killed.
                [*self.as_user, "setpriv", "--pdeathsig", "KILL", shutil.which("libvirtd", path=PATH)],
                env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT
        while not self.socket.exists():
            if self.proc.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise LibvirtError(f"libvirtd does not start:\n{self.log()}")
            time.sleep(0.05)
        return self

    def log(self):
        return (self.folder / "libvirtd.log").read_text(errors="replace")[-4000:]

    def virsh(self, *words):
        """A command of virsh; what it prints."""
        done = subprocess.run(
            [*self.as_user, shutil.which("virsh", path=PATH), "-q", "-c",
             f"qemu:///session?socket={self.socket}", *words],
            env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise LibvirtError(f"virsh {' '.join(words)}: {done.stderr.strip()}\n{self.log()}")
        return done.stdout

    def define(self, xml):
        """Define a domain that libvirt's schema allows; its name."""
        path = self.home / "domain.xml"
        path.write_text(xml)
        path.chmod(0o644)
        self.virsh("define", "--validate", str(path))
        return ET.fromstring(xml).findtext("name")

    def qemu_pids(self):
        """Guests that run."""
        for path in (self.home / "r").glob("libvirt/qemu/run/*.pid"):
            with contextlib.suppress(ValueError, OSError):
                pid = int(path.read_text())
                # A number that has gone to another process is not ours.
                if str(self.home).encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                    yield pid

    def __exit__(self, *exc):
        pids = list(self.qemu_pids())
        if self.proc is not None:
            self.proc.terminate()
            try:
                self.proc.wait(20)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
            self.proc = None
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Guest:
    """
    A small guest from a domain of the documents: Debian's cloud kernel and a script, as in guest.py,
    whose output goes to a file.
    """

    def __init__(self, session, domain, script, memory=256):
        """domain: XML with its devices; kernel, processor and ports are put in. script: runs in the
        guest, and cannot ask the host for anything."""
        self.session = session
        self.out = session.home / "script.out"
        self.console = session.home / "console.out"
        self.results = {}
        files = {path: pathlib.Path(path).read_bytes() for path in guest.libraries(guest.mkfs())}
        files["usr/sbin/mkfs.ext4"] = pathlib.Path(guest.mkfs()).read_bytes()
        files["lib.sh"] = machine.words("guest-lib.sh")
        files["ends"] = b""  # libvirt sees its end
        ramdisk = session.home / "ramdisk"
        ramdisk.write_bytes(machine.initramfs("guest", script, files))
        # The cache may be closed to the user that QEMU runs as.
        kernel = session.home / "vmlinux"
        shutil.copyfile(machine.fetched("guest") / "vmlinux", kernel)
        for path in ramdisk, kernel:
            path.chmod(0o644)
        self.name = session.define(self.small(domain, kernel, ramdisk, memory))

    def small(self, domain, kernel, ramdisk, memory):
        """The domain, with what is this guest's own."""
        root = emulated(parse(domain))
        root.find("memory").text = str(memory)
        root.find("vcpu").text = "1"
        for name, text in (("kernel", kernel), ("initrd", ramdisk),
                           ("cmdline", "console=ttyS0 panic=-1 nokaslr quiet loglevel=4 mitigations=off "
                                       "tsc=reliable no_timer_check audit=0 8250.nr_uarts=2 "
                                       "random.trust_cpu=on net.ifnames=0")):
            ET.SubElement(root.find("os"), name).text = str(text)
        # It ends as the other guests do, by a reboot.
        root.find("on_reboot").text = "destroy"
        devices = root.find("devices")
        for port, path in enumerate((self.console, self.out)):
            serial = ET.SubElement(devices, "serial", type="file")
            ET.SubElement(serial, "source", path=str(path))
            ET.SubElement(serial, "target", port=str(port))
        ET.SubElement(devices, "memballoon", model="none")
        return ET.tostring(root, encoding="unicode")

    def start(self):
        self.session.virsh("start", self.name)

    def lines(self):
        return self.out.read_text(errors="replace").splitlines() if self.out.exists() else []

    def run(self, timeout=machine.BOOT_TIMEOUT):
        """Let the script run to its end; its results."""
        deadline = time.monotonic() + timeout
        while True:
            lines = self.lines()
            ends = [line for line in lines if re.fullmatch(r"@@exit \d+", line.strip())]
            if ends or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        if not ends or ends[0].split()[1] != "0":
            console = self.console.read_text(errors="replace") if self.console.exists() else ""
            raise machine.MachineError("the guest's script failed:\n" + "\n".join(lines[-40:]) +
                                       "\n--- kernel ---\n" + "\n".join(console.splitlines()[-25:]) +
                                       "\n--- libvirt ---\n" + self.session.log())
        for line in lines:
            if line.startswith("@@result "):
                _, name, value = (line.strip().split(" ", 2) + [""])[:3]
                self.results[name] = value
        return self.results

    def state(self):
        return self.session.virsh("domstate", self.name).strip()
