# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Runs inside the laboratory, see test_lab_hotplug.py: 64 MiB come into and go from a guest of 1 GiB whose
function is on vfio-pci, while frames pass.

Counted are the ioctls of the daemon, as strace sees them, and the kernel's own account of what is pinned.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import re
import statistics
import struct
import tempfile
import time
import unittest

import lab_inside as inside
from lab_inside import Held, harness, until
from hotplug import DIMM, Dimm, Guest, Stream
import vhost_user_client as vu

FUNCTION, OTHER = "0000:00:10.0", "0000:00:11.0"
SIZE, SLOTS = 1 << 30, 15
ROUNDS = 5
PIN_TIMEOUT = 120.0  # seconds: the pages are made when they are pinned, on an emulated processor
SHMEM_HUGE = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
# linux/vfio.h
VFIO_SET_IOMMU, VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA = 0x3B66, 0x3B71, 0x3B72
VFIO_GROUP_SET_CONTAINER, VFIO_TYPE1_IOMMU, READ_WRITE = 0x3B68, 1, 3
STRACE = ("strace", "-D", "-f", "--seccomp-bpf", "-X", "raw", "-e", "trace=ioctl", "-o")


class Trace:
    """The ioctls of a daemon. strace writes a line before the caller goes on."""

    def __init__(self, path):
        self.path = path

    def counts(self):
        """VFIO's maps and unmaps so far."""
        with open(self.path, encoding="ascii", errors="replace") as f:
            calls = re.findall(r"ioctl\(\w+, (0x3b7[12]),", f.read())
        return [calls.count(f"{number:#x}") for number in (VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA)]


class Container:
    """A container of our own, with a function's group, in which a table is mapped as a whole."""

    def __init__(self, function, regions):
        self.regions, self.mapped = regions, []
        self.fd = os.open("/dev/vfio/vfio", os.O_RDWR)
        self.group = os.open(f"/dev/vfio/{inside.word('group_of', function)}", os.O_RDWR)
        fcntl.ioctl(self.group, VFIO_GROUP_SET_CONTAINER, struct.pack("i", self.fd))
        fcntl.ioctl(self.fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU)

    def remap(self, views):
        """Unmap all, map all; views: where each region is mapped in this process, by guest address."""
        for gpa, size in self.mapped:
            fcntl.ioctl(self.fd, VFIO_IOMMU_UNMAP_DMA, bytearray(struct.pack("=IIQQ", 24, 0, gpa, size)))
        self.mapped = []
        for _, (gpa, size, _, _) in self.regions.all():
            fcntl.ioctl(self.fd, VFIO_IOMMU_MAP_DMA,
                        struct.pack("=IIQQQ", 32, READ_WRITE, views[gpa], gpa, size))
            self.mapped.append((gpa, size))

    def close(self):
        os.close(self.group)
        os.close(self.fd)


class Hotplug(unittest.TestCase):
    @contextlib.contextmanager
    def serve(self):
        inside.bind(FUNCTION)
        with tempfile.TemporaryDirectory() as folder:
            trace = Trace(folder + "/ioctls")
            with harness.Daemon([f"name dev0 mgmtdev pci/{FUNCTION} socket {{dir}}/dev0.sock"],
                                launcher=[*STRACE, trace.path]) as d:
                yield d, trace
        inside.bind(FUNCTION, "none")

    def state(self, d, trace):
        """Maps, unmaps, KiB pinned by the kernel; and the daemon's maps, unmaps and bytes."""
        dma = d.show("dev0")["dma"]
        return [*trace.counts(), Held(d.pid, FUNCTION).locked_kib, dma["maps"], dma["unmaps"],
                dma["bytes_mapped"], dma["replaced"]]

    def change(self, d, trace, call, dimm, expected):
        """Milliseconds of the message."""
        before, start = self.state(d, trace), time.monotonic()
        self.assertEqual(call(dimm), 0)
        took = 1e3 * (time.monotonic() - start)
        self.assertEqual([n - m for n, m in zip(self.state(d, trace), before)], expected)
        return took

    def test_memory_comes_and_goes_while_frames_pass(self):
        # As guests of a size have it; 1 GiB of small pages takes an emulated processor a minute.
        with open(SHMEM_HUGE, "w", encoding="ascii") as f:
            f.write("always")
        faults, dimm = inside.faults()[0], Dimm()
        self.addCleanup(dimm.close)
        kib, plug, unplug = DIMM >> 10, [], []
        with self.serve() as (d, trace), Guest(
                d.socket("dev0"), SIZE, SLOTS,
                client=vu.Client(d.socket("dev0"), timeout=PIN_TIMEOUT)) as guest:
            guest.start()
            stream = Stream(guest)
            for _ in range(ROUNDS):
                stream.pass_frames()
                plug.append(self.change(d, trace, guest.plug, dimm, [1, 0, kib, 1, 0, DIMM, 0]))
                for at in 0, DIMM - 2 * Stream.DEPTH * Stream.BUFFER:
                    stream.use(dimm, dimm.at, at)
                    stream.pass_frames()
                stream.use_own()
                unplug.append(self.change(d, trace, guest.unplug, dimm, [0, 1, -kib, 0, 1, -DIMM, 0]))
            stream.pass_frames()
            frames = stream.stop()
            remap = self.remap(guest.regions, dimm)
            guest.stop()
            until(lambda: d.show("dev0")["state"] == "idle", "the device to stop")
        print(f"{self.id()}: {inside.IOMMU}: {ROUNDS} times 64 MiB into 1 GiB of {SLOTS} slots: an ioctl "
              f"each, {frames} frames, 0 lost; plug {statistics.median(plug):.1f} ms, unplug "
              f"{statistics.median(unplug):.1f} ms, under traffic and traced; a remap of all, with neither, "
              f"{remap:.0f} ms", flush=True)
        self.assertEqual(inside.faults()[0], faults, inside.faults()[1])

    def remap(self, regions, dimm):
        """Milliseconds of what a driver does that unmaps and maps all, for the same change."""
        inside.bind(OTHER)
        with contextlib.closing(Container(OTHER, regions)) as container, contextlib.ExitStack() as stack:
            views = {region[0]: stack.enter_context(view(fd, region[1], region[3]))
                     for fd, region in (*regions.all(), (dimm.fd, dimm.region))}
            container.remap(views)
            times = []
            for _ in range(ROUNDS):
                regions.plugged = [dimm]
                start = time.monotonic()
                container.remap(views)
                times.append(1e3 * (time.monotonic() - start))
                regions.plugged = []
                container.remap(views)
        inside.bind(OTHER, "none")
        return statistics.median(times)


@contextlib.contextmanager
def view(fd, size, offset):
    """The address of a mapping of so many bytes of a file."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                          ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    at = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, offset)
    if at == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        yield at
    finally:
        libc.munmap(at, size)


if __name__ == "__main__":
    unittest.main(verbosity=2)
