# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
What Python tests that run inside the laboratory share: its words, what the kernel says of functions
and interrupts, and what a daemon holds.
"""

import atexit
import collections
import os
import pathlib
import re
import shlex
import subprocess
import sys

BUILD = pathlib.Path(os.environ["UVDPA_BUILD"])
IOMMU = os.environ["UVDPA_LAB_IOMMU"]
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "integration"))
os.environ.setdefault("UVDPA_APP", str(BUILD / "examples/vdpa-app/vdpa-app"))

import harness  # noqa: E402, found by the path just set

LCORES = "--lcores=0@0,1@0"  # there is one CPU


class Words:
    """The words of lab-lib.sh, in one shell that stays: a new one takes a good part of a second here."""

    LOOP = """
        . /run/lab/lib.sh
        while IFS= read -r command; do
            (set -eu; eval "$command") </dev/null 2>&1
            printf '\\0%d\\n' $?
        done
    """

    def __init__(self):
        self.shell = None

    def __call__(self, *words):
        """One of them; its output."""
        if self.shell is None:
            self.shell = subprocess.Popen(["bash", "-c", self.LOOP], stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE)
            atexit.register(self.end)
        command = shlex.join(map(str, words))
        self.shell.stdin.write(command.encode() + b"\n")
        self.shell.stdin.flush()
        output = b""
        while b"\0" not in output or not output.endswith(b"\n"):
            data = os.read(self.shell.stdout.fileno(), 4096)
            if not data:
                raise AssertionError(f"{command}: the shell has ended")
            output += data
        output, code = output.decode(errors="replace").split("\0")
        if int(code) != 0:
            raise AssertionError(f"{command}: {output}")
        return output.strip()

    def end(self):
        self.shell.stdin.close()
        self.shell.wait()
        self.shell.stdout.close()


word = Words()


def bind(address, driver="vfio-pci"):
    word("bind", address, driver)


def host(*words):
    """Ask the test on the host, and wait for its answer."""
    with open("/dev/ttyS1", "r+b", buffering=0) as line:
        # unittest may have begun a line on the same port.
        line.write(("\n@@host " + " ".join(map(str, words)) + "\n").encode())
        answer = b""
        while not answer.endswith(b"\n"):
            answer += line.read(1)
    answer = answer.decode().strip()
    if answer.startswith("error"):
        raise AssertionError(f"host {' '.join(map(str, words))}: {answer}")
    return answer


def kernel_log():
    return subprocess.run(["/run/lab/busybox", "dmesg"], capture_output=True, text=True,
                          errors="replace", check=True).stdout


def faults():
    """What the IOMMU has stopped: (how often, the last of it in words)."""
    if IOMMU == "virtio":
        # Linux logs one or two of a burst and hears of no later one: ask QEMU, which reports them.
        count, text = host("faults").split(" ", 1)
        return int(count), text
    lines = [line for line in kernel_log().splitlines() if "DMAR: [DMA" in line]
    return len(lines), lines[-1] if lines else "none"


def vectors(address):
    """Interrupts of a function that are ours: (name, count) of each."""
    with open("/proc/interrupts", encoding="ascii") as f:
        lines = [line.split() for line in f if f"({address})" in line and "vfio-" in line]
    return [(fields[-1], int(fields[1])) for fields in lines]


# What the process has for itself: telemetry's connections, pipes of EAL's, a file made once.
OWN = ("socket:", "pipe:", "/memfd:vdpa-nothing (deleted)")


class Held:
    """What a process holds of devices and guests' memory, to compare."""

    def __init__(self, pid, address):
        self.fds = [name for name in harness.fds(pid) if name not in (*OWN, f"/proc/{pid}/fd")]
        self.vectors = len(vectors(address))
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            # Pages that type1 has pinned for mappings count as locked.
            self.locked_kib = int(re.search(r"^VmLck:\s+(\d+)", f.read(), re.M).group(1))
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as f:
            maps = f.read()
        self.device_maps = maps.count("vfio-device")
        self.memory_maps = maps.count("memfd:")

    def __eq__(self, other):
        return vars(self) == vars(other)

    def differs(self, other):
        """In what, as text; empty when in nothing."""
        mine, theirs = collections.Counter(self.fds), collections.Counter(other.fds)
        words = [f"more: {name} x{n}" for name, n in (mine - theirs).items()]
        words += [f"fewer: {name} x{n}" for name, n in (theirs - mine).items()]
        words += [f"{name} {value}, not {vars(other)[name]}" for name, value in vars(self).items()
                  if name != "fds" and value != vars(other)[name]]
        return "; ".join(words)


def until(condition, what, timeout=10.0):
    """Poll until condition() is true; its value."""
    return harness.wait_for(condition, what, timeout, 0.02)
