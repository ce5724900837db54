#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Memory slots: regions that come and go one by one, 509 of them, each used by the device."""

import mmap
import os
import random
import resource
import socket
import unittest

import harness
from test_vfio_user import daemon, model
from vhost_user_client import *

SLOTS = 509
SLOT_NAME = "uvdpa-slot"
PAGE = 4096
PROTOCOL = P_REPLY_ACK | P_MQ | P_CONFIG | P_RESET | P_MEM_SLOTS


class Slot:
    """A page of a file as a region: received is its first half, sent its second."""

    def __init__(self, index, fd, offset):
        self.fd = fd
        self.region = (0x10000000 + index * 4 * PAGE, PAGE, 0x600000000000 - index * 4 * PAGE, offset)
        self.map = mmap.mmap(fd, PAGE, offset=offset)


class SlotDriver(NetDriver):
    """A net device driven by memory slots; the first has its rings and buffers of their own."""

    def __init__(self, path):
        super().__init__(path, protocol=PROTOCOL)
        self.slots = []
        self.fds = []

    def negotiate_memory(self):
        return self.client.add_mem_reg(self.memory.regions[0], self.memory.fd)

    def make_slots(self, n, files):
        """n regions, dealt out to so many files; holes keep the kernel from joining their maps."""
        self.fds = [os.memfd_create(SLOT_NAME) for _ in range(files)]
        for fd in self.fds:
            os.ftruncate(fd, 2 * PAGE * (n // files + 1))
        self.slots = [Slot(i, self.fds[i % files], i // files * 2 * PAGE) for i in range(n)]

    def exchange_in(self, slot, number):
        """One frame out of a slot and back into it."""
        frame = bytes.fromhex("525400000001525400000002") + b"\x88\xb5" + number.to_bytes(4, "big") * 25
        slot.map[:] = bytes(PAGE // 2 + NET_HDR) + frame + bytes(PAGE // 2 - NET_HDR - len(frame))
        at = slot.region[0] - self.memory.GPA
        self.rx.add(at, PAGE // 2, True)
        self.rx.kick()
        self.tx.add(at + PAGE // 2, NET_HDR + len(frame), False)
        self.tx.kick()
        length = wait_until(self.rx.poll)
        assert length == NET_HDR + len(frame), f"slot {number}: received {length}"
        assert slot.map[NET_HDR:length] == frame, f"slot {number}: frame changed"
        assert wait_until(lambda: self.tx.poll() is not None), "transmit buffer not returned"

    def close(self):
        for slot in getattr(self, "slots", []):
            slot.map.close()
        for fd in getattr(self, "fds", []):
            os.close(fd)
        super().close()


def domain_counts(test, ask):
    """For add_use_and_remove(): in a DMA domain each slot is one map and one unmap. ask() is what
    the daemon shows of it."""
    before = ask()

    def counted(n, added):
        now = ask()
        test.assertEqual([now[k] - before[k] for k in ("mappings", "bytes_mapped", "maps", "unmaps")],
                         [n, n * PAGE, added, added - n])

    return counted


def add_use_and_remove(test, net, files, counted):
    """All slots but one come, carry a frame and go again, each message changing one region.
    counted(n, added) checks that the device has n regions beside the first, after so many came."""
    net.make_slots(SLOTS - 1, files)
    for i, slot in enumerate(net.slots):
        test.assertEqual(net.client.add_mem_reg(slot.region, slot.fd), 0, i)
    counted(SLOTS - 1, SLOTS - 1)
    for i, slot in enumerate(net.slots):
        net.exchange_in(slot, i)
    order = list(range(SLOTS - 1))
    random.Random(7).shuffle(order)
    for i in order[:200]:
        test.assertEqual(net.client.rem_mem_reg(net.slots[i].region), 0, i)
    counted(SLOTS - 1 - 200, SLOTS - 1)
    for i in order[200:]:
        net.exchange_in(net.slots[i], 0x10000 + i)
    # Place is made for others.
    for i in order[:200]:
        test.assertEqual(net.client.add_mem_reg(net.slots[i].region, net.slots[i].fd), 0, i)
        net.exchange_in(net.slots[i], 0x20000 + i)
    counted(SLOTS - 1, SLOTS - 1 + 200)
    for slot in net.slots:
        test.assertEqual(net.client.rem_mem_reg(slot.region), 0)
    counted(0, SLOTS - 1 + 200)
    net.exchange()


class Simulated(HostileTest):
    def slot_driver(self):
        net = SlotDriver(self.daemon.path("victim"))
        self.closers.append(net)
        return net

    def check(self, files):
        net = self.slot_driver().start()
        net.exchange()
        self.assertGreaterEqual(net.client.get_max_mem_slots(), SLOTS)
        name = f"/memfd:{SLOT_NAME} (deleted)"

        def held():
            usage = harness.Usage(self.daemon.process.pid).held
            return usage[f"mapping of {name}"], usage[name]

        def counted(n, added):
            # A file is one descriptor, however many regions lie in it.
            self.assertTrue(wait_until(lambda: held() == (n, min(files, n))),
                            f"{held()} mappings and descriptors of {n} regions in {files} files")

        add_use_and_remove(self, net, files, counted)

    def test_509_regions_of_one_file(self):
        self.check(1)

    def test_509_regions_of_as_many_files(self):
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2 * SLOTS:
            self.skipTest("too few file descriptors")
        self.check(SLOTS - 1)

    def test_one_region_too_many(self):
        net = self.slot_driver().start()
        most = net.client.get_max_mem_slots()
        net.make_slots(most, 1)
        for slot in net.slots[: most - 1]:
            self.assertEqual(net.client.add_mem_reg(slot.region, slot.fd), 0)
        last = net.slots[-1]
        self.assertNotEqual(net.client.add_mem_reg(last.region, last.fd), 0)
        self.assert_logged("ADD_MEM_REG refused", "memory regions")
        # QEMU before 8.0 says each once for each queue pair.
        again = net.slots[most - 2]
        self.assertEqual(net.client.add_mem_reg(again.region, again.fd), 0)
        net.exchange_in(net.slots[most - 2], 1)
        self.assertEqual(net.client.rem_mem_reg(net.slots[0].region), 0)
        self.assertEqual(net.client.add_mem_reg(last.region, last.fd), 0)
        net.exchange_in(last, 2)

    def test_what_cannot_be_added_or_removed_changes_nothing(self):
        net = self.slot_driver().start()
        net.make_slots(2, 1)
        slot, other = net.slots
        gpa, size, uva, offset = slot.region
        self.assertEqual(net.client.add_mem_reg(slot.region, slot.fd), 0)
        # QEMU before 8.0 says so once for each queue pair.
        self.assertEqual(net.client.add_mem_reg(slot.region, slot.fd), 0)
        self.assertEqual(net.client.rem_mem_reg(other.region), 0)
        for region, cause in (((gpa, size, uva, offset + 4096), "overlap"),
                              ((gpa, size // 2, uva, offset), "overlap"),
                              ((gpa - 8, 16, uva + 0x100000, offset), "overlap"),
                              ((gpa + 0x100000, size, uva + 8, offset), "overlap"),
                              ((gpa + 0x100000, 0, uva + 0x100000, offset), "size"),
                              ((gpa + 0x100000, 1 << 30, uva + 0x40000000, offset), "file")):
            self.assertNotEqual(net.client.add_mem_reg(region, slot.fd), 0, region)
            self.assert_logged("ADD_MEM_REG refused", cause)
        for region in ((gpa, size // 2, uva, offset), (gpa, size, uva + 8, offset)):
            self.assertNotEqual(net.client.rem_mem_reg(region), 0, region)
        self.assert_logged("REM_MEM_REG refused", "no memory region")
        net.exchange_in(slot, 3)
        # The offset says nothing, and older front ends send a descriptor.
        self.assertEqual(net.client.rem_mem_reg((gpa, size, uva, 12345), [slot.fd]), 0)
        net.exchange()
        # Queues whose rings are taken back stop.
        self.assertEqual(net.client.rem_mem_reg(net.memory.regions[0]), 0)
        for queue in 0, 1:
            self.assert_logged(f"queue {queue}: stopped, the others go on: .* not lie in one memory region")

    def test_connection_that_ends_with_all_slots_in_use(self):
        net = self.slot_driver().start()
        net.make_slots(SLOTS - 1, 2)
        for slot in net.slots:
            self.assertEqual(net.client.add_mem_reg(slot.region, slot.fd), 0)
        net.exchange_in(net.slots[0], 4)
        # Maps, descriptors and threads: tearDown().


class Function(unittest.TestCase):
    """Over vfio-user. Over vfio-pci: tests/vm/lab_vfio.py."""

    def test_509_regions_of_a_function(self):
        with model() as other, daemon(other.path) as app, SlotDriver(app.socket("v0")).start() as net:
            net.exchange()
            add_use_and_remove(self, net, 1, domain_counts(self, lambda: app.show("v0")["dma"]))
            net.stop()
            net.client.sock.shutdown(socket.SHUT_RDWR)
            harness.wait_for(lambda: app.show("v0")["dma"]["bytes_mapped"] == 0, "the memory to be unmapped")


if __name__ == "__main__":
    unittest.main()
