# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
A QEMU without a guest: its qtest protocol reaches memory and registers as a guest's CPU would, without the
time that an emulated CPU takes. With a driver of a virtio-net function, split rings.
"""

import struct
import subprocess
import socket
import time

MEMORY_MIB = 64
SLOT = 0x10
BAR = 0xE0000000
NUM = 8  # descriptors
BUFFER = 2048
HEADER = 12
VERSION_1, ACCESS_PLATFORM = 1 << 32, 1 << 33
# linux/virtio_pci.h: offsets in the common configuration
DFSELECT, DF, GFSELECT, GF, STATUS, Q_SELECT, Q_SIZE, Q_ENABLE, Q_NOFF, Q_DESC, Q_AVAIL, Q_USED = \
    0, 4, 8, 12, 20, 22, 24, 28, 30, 32, 40, 48
COMMON, NOTIFY = 1, 2


class Qtest:
    """One QEMU process with a virtio-net function. Use it in a with statement."""

    def __init__(self, folder, netdev, mac, more=()):
        """netdev: QEMU's words behind -netdev, without the id."""
        self.path, self.bios = f"{folder}/qtest", f"{folder}/halt.bin"
        # Debian's QEMU has no accelerator for it: the CPU halts where it begins.
        with open(self.bios, "wb") as f:
            f.write(bytes(0xFFF0) + b"\xfa\xf4\xeb\xfd".ljust(16, b"\0"))  # cli; 1: hlt; jmp 1b
        self.argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
                     "-machine", "pc,memory-backend=mem", "-accel", "tcg", "-m", str(MEMORY_MIB),
                     "-bios", self.bios,
                     "-object", f"memory-backend-memfd,id=mem,size={MEMORY_MIB}M,share=on",
                     "-qtest", f"unix:{self.path},server=on,wait=off", "-qtest-log", "/dev/null",
                     "-netdev", f"{netdev},id=n0",
                     # QEMU 7.2 ends itself where a function with vectors has a vhost back end and no KVM.
                     "-device", f"virtio-net-pci,id=net0,addr={SLOT:#x},netdev=n0,mac={mac},vectors=0,"
                                "disable-legacy=on,romfile=", *more]

    def __enter__(self):
        self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self.argv],
                                        stdin=subprocess.DEVNULL)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.socket.connect(self.path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None, "QEMU has ended"
                assert time.monotonic() < deadline, "QEMU does not listen"
                time.sleep(0.05)
        self.lines = self.socket.makefile("rw")
        return self

    def __exit__(self, *exc):
        self.lines.close()
        self.socket.close()
        self.process.kill()
        self.process.wait()

    def __call__(self, *words):
        """A command; what is behind its OK."""
        self.lines.write(" ".join(w if isinstance(w, str) else f"{w:#x}" for w in words) + "\n")
        self.lines.flush()
        answer = self.lines.readline().split()
        assert answer[:1] == ["OK"], f"{words}: {answer}"
        return answer[1] if len(answer) > 1 else ""

    def value(self, *words):
        return int(self(*words), 16)

    def config(self, offset):
        """32 bits of the function's configuration space."""
        self("outl", 0xCF8, 1 << 31 | SLOT << 11 | offset & ~3)
        return self.value("inl", 0xCFC)

    def set_config(self, offset, value):
        self("outl", 0xCF8, 1 << 31 | SLOT << 11 | offset & ~3)
        self("outl", 0xCFC, value)

    def write(self, address, data):
        self("write", address, len(data), "0x" + data.hex())

    def read(self, address, size):
        return bytes.fromhex(self("read", address, size)[2:])


class NetDriver:
    """Drives the function of a Qtest: queue 0 receives, queue 1 sends."""

    def __init__(self, qemu):
        self.qemu = qemu
        self.places, self.multiplier = {}, 0
        self.rings = [0x100000, 0x110000]
        self.sent = self.received = 0

    def find(self):
        """The capabilities, whose structures lie in one BAR, and that BAR."""
        at = self.qemu.config(0x34) & 0xFF
        while at:
            head = self.qemu.config(at)
            if head & 0xFF == 0x09:
                kind, bar = head >> 24, self.qemu.config(at + 4) & 0xFF
                self.places.setdefault(kind, BAR + self.qemu.config(at + 8))
                if kind == NOTIFY:
                    self.multiplier, index = self.qemu.config(at + 16), bar
            at = head >> 8 & 0xFF
        self.qemu.set_config(0x10 + 4 * index, BAR)
        self.qemu.set_config(0x14 + 4 * index, 0)
        self.qemu.set_config(0x04, 0x6)  # memory, bus master

    def common(self, size, offset, value=None):
        """Read or write a register of 1, 2 or 4 bytes."""
        letter, address = {1: "b", 2: "w", 4: "l"}[size], self.places[COMMON] + offset
        if value is None:
            return self.qemu.value("read" + letter, address)
        return self.qemu("write" + letter, address, value)

    def start(self):
        """Up to DRIVER_OK, with buffers to receive into."""
        self.find()
        for status in 0, 1, 3:
            self.common(1, STATUS, status)
        offered = 0
        for half in 0, 1:
            self.common(4, DFSELECT, half)
            offered |= self.common(4, DF) << 32 * half
        wanted = offered & (VERSION_1 | ACCESS_PLATFORM)
        for half in 0, 1:
            self.common(4, GFSELECT, half)
            self.common(4, GF, wanted >> 32 * half & 0xFFFFFFFF)
        self.common(1, STATUS, 11)
        assert self.common(1, STATUS) == 11, "the features are refused"
        self.doorbells = []
        for index, base in enumerate(self.rings):
            self.qemu.write(base, bytes(0x3000))
            self.common(2, Q_SELECT, index)
            self.common(2, Q_SIZE, NUM)
            for place, offset in ((Q_DESC, 0), (Q_AVAIL, 0x1000), (Q_USED, 0x2000)):
                self.common(4, place, base + offset)
                self.common(4, place + 4, 0)
            self.doorbells.append(self.places[NOTIFY] + self.common(2, Q_NOFF) * self.multiplier)
            self.common(2, Q_ENABLE, 1)
        self.common(1, STATUS, 15)
        for i in range(NUM):
            self.describe(0, i, BUFFER, 2)
            self.qemu.write(self.rings[0] + 0x1004 + 2 * i, struct.pack("<H", i))
        self.avail(0, NUM)

    def buffer(self, index, slot):
        return 0x200000 + (index * NUM + slot) * BUFFER

    def describe(self, index, slot, size, flags):
        self.qemu.write(self.rings[index] + 16 * slot,
                        struct.pack("<QIHH", self.buffer(index, slot), size, flags, 0))

    def avail(self, index, count):
        self.qemu("writew", self.rings[index] + 0x1002, count & 0xFFFF)
        self.qemu("writew", self.doorbells[index], index)

    def used(self, index):
        return self.qemu.value("readw", self.rings[index] + 0x2002)

    def send(self, frame):
        """One frame, once the one before it is sent."""
        slot = self.sent % NUM
        self.qemu.write(self.buffer(1, slot), bytes(HEADER) + frame)
        self.describe(1, slot, HEADER + len(frame), 0)
        self.qemu.write(self.rings[1] + 0x1004 + 2 * slot, struct.pack("<H", slot))
        self.sent += 1
        self.avail(1, self.sent)

    def receive(self):
        """The next frame, or None."""
        if self.used(0) == self.received & 0xFFFF:
            return None
        slot, size = struct.unpack(
            "<II", self.qemu.read(self.rings[0] + 0x2004 + 8 * (self.received % NUM), 8))
        frame = self.qemu.read(self.buffer(0, slot), size)[HEADER:]
        self.qemu.write(self.rings[0] + 0x1004 + 2 * (self.received % NUM), struct.pack("<H", slot))
        self.received += 1
        self.avail(0, NUM + self.received)
        return frame


def arp_request(mac, ours, theirs):
    """A frame that asks for an address; mac and addresses as bytes."""
    return (b"\xff" * 6 + mac + struct.pack(">HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1) +
            mac + ours + bytes(6) + theirs).ljust(60, b"\0")
