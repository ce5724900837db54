# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
A guest that is SeaBIOS and a boot sector of ours on a vhost-user disk: small enough to be emulated
twice. The boot sector asks for the sectors behind it, gives those out on QEMU's debug port and has
them written to another place. One that waits then reads a sector again and again until its first
byte is no longer zero. Then it ends QEMU.
"""

import hashlib
import os
import struct
import subprocess

import machine

SECTOR = 512
SECTORS = 64  # what the boot sector loads
SIZE = 4 << 20
LOAD, COPY = 1, 200  # where they are and where they are written to
WAIT = 400  # the sector that one that waits looks at
OK = 0x10


def boot_sector(waits):
    """16-bit code at 0x7c00; DL is the drive."""
    def packet(lba, count):  # "disk address packet" of INT 13h, AH=42h and 43h
        return struct.pack("<BBHHHQ", 16, 0, count, 0x8000, 0, lba)

    def code(read, write, wait):
        loop = (f"be{struct.pack('<H', wait).hex()} b442 cd13 720b"       # read or fail
                "803e008000 74f0") if waits else ""                       # until it is not zero
        more = len(bytes.fromhex(loop))
        return bytes.fromhex(
            "31c0 8ed8 8ec0 8ed0 bc007c"                  # segments 0, stack below
            f"be{struct.pack('<H', read).hex()} b442 cd13 72{28 + more:02x}"    # read or fail
            "be0080" f"b9{struct.pack('<H', SECTORS * SECTOR).hex()}"
            "52 bae900 fc f36e 5a"                        # out to the debug port
            f"be{struct.pack('<H', write).hex()} b80043 cd13 72{4 + more:02x}"  # write or fail
            f"{loop} b0{OK:02x} eb02 b0{OK + 1:02x}"      # the exit's word
            "baf400 ee f4 ebfd")

    behind = 0x7c00 + len(code(0, 0, 0))
    program = code(behind, behind + 16, behind + 32)
    program += packet(LOAD, SECTORS) + packet(COPY, SECTORS) + packet(WAIT, 1)
    return program.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


DATA = hashlib.shake_128(b"what is booted").digest(SECTORS * SECTOR)
IMAGE = boot_sector(False) + DATA
WAITING = boot_sector(True) + DATA


class Firmware:
    """QEMU on a disk that has one of the images. Use it in a with statement."""

    def __init__(self, path, extra="", launcher=()):
        """path: the disk's socket; extra: more properties of its device; launcher: a command that
        executes QEMU."""
        self.proc = subprocess.Popen([
            *launcher, machine.QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-accel",
            os.environ.get("UVDPA_ACCEL", "tcg"), "-m", "64", "-no-reboot",
            "-machine", "q35,memory-backend=mem",
            "-object", "memory-backend-memfd,id=mem,size=64M,share=on",
            "-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
            "-chardev", f"socket,id=c,path={path},reconnect=1",
            "-device", f"vhost-user-blk-pci,chardev=c,bootindex=0{extra}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ends(self, timeout):
        """Wait for its end, which must be a good one; what it read. timeout: seconds."""
        out, errors = self.proc.communicate(timeout=timeout)
        if self.proc.returncode != OK << 1 | 1:
            raise AssertionError(f"SeaBIOS ended with {self.proc.returncode}: {errors.decode()}")
        return out

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        self.proc.stdout.close()
        self.proc.stderr.close()
