# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Front ends of other users for lab_vfio.py, each in a process of its own: they take a function's
doorbell pages, and keep what came with them.
"""

import contextlib
import fcntl
import os
import socket
import struct
import traceback

from lab_inside import harness  # noqa: F401, it sets the path
import test_doorbell
import vhost_user_client as vu

# linux/vfio.h: the device's own calls, which only a file of the device answers.
VFIO_DEVICE_GET_INFO = ord(";") << 8 | 107
VFIO_DEVICE_GET_REGION_INFO = ord(";") << 8 | 108
CONFIG_REGION = 7
PCI_COMMAND, PCI_COMMAND_MASTER = 4, 4
# virtio 1.2, 4.1.4.3: offsets in the common configuration; behind it QEMU's doorbells, a page each.
DRIVER_FEATURE_SELECT, DRIVER_FEATURE, DEVICE_STATUS = 0x08, 0x0c, 0x14
QUEUE_SELECT, QUEUE_SIZE, QUEUE_ENABLE = 0x16, 0x18, 0x1c
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x20, 0x28, 0x30
NOTIFY, PAGE = 0x3000, 0x1000


class FrontEnd:
    """
    A process of another user that connects to a device. Commands are methods of Inside; what one
    returns is what the call returns, and what it raises is an AssertionError here.
    """

    def __init__(self, uid, path):
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            code = 1
            with contextlib.suppress(BaseException):
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                Inside(path).serve(theirs)
                code = 0
            os._exit(code)
        theirs.close()
        self.line = ours.makefile("rw", buffering=1, encoding="utf-8")
        ours.close()

    def __getattr__(self, command):
        def call(*words):
            self.line.write(" ".join((command, *words)) + "\n")
            kind, _, value = self.line.readline().rstrip("\n").partition(" ")
            if kind != "ok":
                raise AssertionError(f"{command}: {value}")
            return value
        return call

    def exit(self):
        """It ends, and with it all that it has kept."""
        if self.pid > 0:
            self.line.close()
            os.waitpid(self.pid, 0)
            self.pid = 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.exit()


class Inside:
    """What the other process does."""

    def __init__(self, path):
        self.path = path
        self.net = None
        self.kept = []

    def serve(self, sock):
        with sock.makefile("rw", buffering=1, encoding="utf-8") as line:
            for command in line:
                try:
                    name, *words = command.split()
                    answer = f"ok {getattr(self, name)(*words)}"
                except BaseException as e:  # to be said on the other side
                    answer = f"failed {e!r} {traceback.format_exc()!r}"
                line.write(answer + "\n")

    def connect(self):
        """Whether we are served."""
        try:
            self.net = test_doorbell.Driver(self.path)
        except (vu.Closed, BrokenPipeError, ConnectionError):
            return "refused"
        self.net.start()
        return "served"

    def exchange(self):
        """A frame out and back."""
        self.net.exchange()

    def keep_pages(self):
        """Take the doorbell pages; how many are given."""
        self.net.channel.settimeout(2.0)
        with contextlib.suppress(TimeoutError):
            while len(self.kept) < 2:
                *_, fd = self.net.message()
                self.kept.append(fd)
        return len(self.kept)

    def leave(self):
        self.net.close()
        self.net = None

    def free_page(self):
        """The guest address of a page of our memory that nothing uses."""
        self.page = self.net.memory.alloc(4096, 4096)
        return self.net.memory.GPA + self.page

    def page_is_untouched(self):
        return self.net.memory.read(self.page, 4096) == bytes(4096)

    def region(self, index):
        """Where a region begins in the file that we have kept."""
        info = bytearray(struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0))
        fcntl.ioctl(self.kept[0], VFIO_DEVICE_GET_REGION_INFO, info)
        return struct.unpack("<Q", info[24:32])[0]

    def reach(self):
        """What we still have reaches the whole function: make it a bus master, and say so."""
        fd = self.kept[0]
        fcntl.ioctl(fd, VFIO_DEVICE_GET_INFO, bytearray(struct.pack("<IIIIII", 24, 0, 0, 0, 0, 0)))
        command = self.region(CONFIG_REGION) + PCI_COMMAND
        value, = struct.unpack("<H", os.pread(fd, 2, command))
        os.pwrite(fd, struct.pack("<H", value | PCI_COMMAND_MASTER), command)
        return bool(os.pread(fd, 1, command)[0] & PCI_COMMAND_MASTER)

    def write_to(self, address):
        """Have the function write to a guest address: it does the other guest's work once more, with
        the used ring there (virtio 1.2, 4.1.4.3; QEMU has these structures in BAR 4)."""
        fd, bar = self.kept[0], self.region(4)

        def read(form, at):
            return struct.unpack(form, os.pread(fd, struct.calcsize(form), bar + at))[0]

        def write(form, at, value):
            os.pwrite(fd, struct.pack(form, value), bar + at)

        def read64(at):
            return read("<I", at) | read("<I", at + 4) << 32

        def write64(at, value):
            write("<I", at, value & 0xffffffff)
            write("<I", at + 4, value >> 32)

        write("<H", QUEUE_SELECT, 1)
        size, desc, avail = read("<H", QUEUE_SIZE), read64(QUEUE_DESC), read64(QUEUE_DRIVER)
        write("B", DEVICE_STATUS, 0)
        self.reach()
        write("B", DEVICE_STATUS, 3)  # ACKNOWLEDGE, DRIVER
        for select, features in (0, 0), (1, 3):  # VERSION_1, ACCESS_PLATFORM
            write("<I", DRIVER_FEATURE_SELECT, select)
            write("<I", DRIVER_FEATURE, features)
        write("B", DEVICE_STATUS, 11)  # FEATURES_OK
        write("<H", QUEUE_SELECT, 1)
        write("<H", QUEUE_SIZE, size)
        write64(QUEUE_DESC, desc)
        write64(QUEUE_DRIVER, avail)
        write64(QUEUE_DEVICE, int(address))
        write("<H", QUEUE_ENABLE, 1)
        write("B", DEVICE_STATUS, 15)  # DRIVER_OK
        write("<H", NOTIFY + PAGE, 1)
