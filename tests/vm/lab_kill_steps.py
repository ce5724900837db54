# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Runs inside the laboratory, see test_lab_kill_steps.py: a daemon with --keep on QEMU's virtio functions
over vfio-pci is killed before each of its acts (kill_points.py): VFIO's ioctls, stores to registers,
writes of the configuration, requests to the keeper, writes of the journal, messages. The next daemon
goes on with the function, or resets it and says so; frames go round, or requests are done.

What is pinned is compared with the journal while no daemon lives, and with the daemon's own account
while one does: the kernel counts pages that are pinned.
"""

import contextlib
import os
import random
import struct
import unittest

import lab_adopt
import lab_inside as inside
import lab_vfio
import kill_points
import test_keeper
import vhost_user_client as vu
from lab_inside import harness, host, until
from lab_vfio import BLK_SPLIT, NET_SPLIT, address

SEED = lab_adopt.SEED
STRIDE = int(os.environ.get("UVDPA_KILL_STRIDE", "0")) or harness.count(97, 1)
PAGE = 4096
# keep/journal.c, pci/pci_kept.c, memory/dma_kept.h
HEADER, SLOT_HEADER, ALIGN, REMOVED = 4096, 160, 64, 1
PART_MAPPINGS, MAPPING = 2, 48
KEPT = {"journal", "wire", "areas", "listener", "connection", "fd", "vfio-container", "vfio-group", "vfio-device",
        "control-queue"}


def pinned():
    """Bytes that the kernel has pinned for anybody."""
    with open("/proc/sys/vm/stat_refresh", encoding="ascii") as f:
        f.read()
    with open("/proc/vmstat", encoding="ascii") as f:
        counts = dict(line.split() for line in f)
    return PAGE * (int(counts["nr_foll_pin_acquired"]) - int(counts["nr_foll_pin_released"]))


def recorded(fd, device):
    """Bytes that the function's record in the journal says may be mapped; None: there is no record."""
    head = os.pread(fd, 128, 0)
    _, _, n, size = struct.unpack_from("<IIII", head, 8)
    stride = (SLOT_HEADER + size + ALIGN - 1) // ALIGN * ALIGN
    newest = None
    for i in range(2 * n):
        slot = os.pread(fd, SLOT_HEADER, HEADER + i * stride)
        _, length, seq, flags = struct.unpack_from("<IIQH", slot)
        if slot[24:].split(b"\0")[0].decode() == f"{device}/function" and (newest is None or seq > newest[0]):
            newest = seq, flags, os.pread(fd, length, HEADER + i * stride + SLOT_HEADER)
        if i % 2 and not any(slot):
            break
    if newest is None or newest[1] & REMOVED:
        return None
    at, record = 0, newest[2]
    while at < len(record):
        kind, _, length = struct.unpack_from("<HHI", record, at)
        if kind == PART_MAPPINGS:
            return sum(struct.unpack_from("<QQ", record, at + 8 + k)[1] for k in range(0, length, MAPPING))
        at += 8 + length
    raise AssertionError("the function's record has no mappings")


class Net(kill_points.Net):
    def stop(self):
        """QEMU drops frames that are on their way while the function is reset."""
        self.settle(20 * harness.TIMEOUT)
        for q in (self.tx, self.rx):
            answer = self.client.ask(vu.GET_VRING_BASE, struct.pack("<II", q.index, 0))
            q.place = struct.unpack("<II", answer)[1]
        self.reap()


class Steps(kill_points.Steps):
    """With what the kernel has pinned."""

    def __init__(self, test, h, addr, make_guest):
        super().__init__(test, h, "dev0", make_guest, STRIDE, random.Random(SEED).randrange(STRIDE))
        self.addr, self.pinned = addr, test.pinned
        self.vectors = 0  # of the function while it runs

    def between(self):
        client = self.keeper()
        try:
            names = client.names()
            for name in names:
                what = name.split(":", 1)[-1]
                assert what.split(".")[0] in KEPT and name.split(":")[0] in ("dev0", "journal"), names
            _, _, fds = client.ask(test_keeper.TAKE, "journal")
            mapped = None
            if fds:
                mapped = recorded(fds[0], "dev0")
                os.close(fds[0])
        finally:
            client.close()
        now = pinned() - self.pinned
        # A device that is deleted has its record dropped first, and then its files one by one.
        assert mapped is None or now <= mapped, f"{now} bytes are pinned, and {mapped} are listed"
        if now:
            assert "dev0:vfio-container" in names, f"{now} bytes are pinned, and the store has {names}"

    def keeper(self):
        """Once it has seen the daemon's end."""
        def served():
            client = test_keeper.Client(self.host.keeper.path)
            if client.result == 0:
                return client
            client.close()
            return None

        return until(served, "the keeper to see the daemon's end")

    def verify(self):
        super().verify()
        shown = self.host.app.show("dev0")
        self.test.assertEqual(shown["state"], "running")
        until(lambda: pinned() - self.pinned == self.host.app.show("dev0")["dma"]["bytes_mapped"],
              f"what is pinned, {pinned() - self.pinned}, to be {shown['dma']['bytes_mapped']} as it is mapped")
        vectors = len(inside.vectors(self.addr))
        self.vectors = self.vectors or vectors
        self.test.assertEqual(vectors, self.vectors)


class KillSteps(lab_adopt.Adopted):
    @contextlib.contextmanager
    def steps(self, slot, guest_class, packed=False, queues=2):
        addr, rng = address(slot), random.Random(f"{SEED} {slot}")
        self.pinned = pinned()
        former = []
        with self.kept(slot) as h:
            def make():
                if slot == BLK_SPLIT:
                    host("clear", f"{slot:x}")
                guest = guest_class(rng, packed, **({"queues": 1} if queues == 1 else {}))
                if former and hasattr(guest, "missing"):
                    # Frames of the former one may yet come back.
                    guest.sent = guest.received = guest.last = former[-1].sent
                former.append(guest)
                return guest.connect(h.app.socket("dev0")).start()

            steps = Steps(self, h, addr, make)
            steps.begin()
            yield steps
            self.tear_down(h, steps.guest, slot)
            until(lambda: pinned() == self.pinned, "nothing to be pinned any more")
            steps.guest.close()

    def setUp(self):
        super().setUp()
        kill_points.skip_without()

    def test_net(self):
        with self.steps(NET_SPLIT, Net) as steps:
            steps.at_each_of_a_start()
            steps.at_each_of_a_start("take-over of take-overs", in_a_row=4)
            steps.at_each("memory", kill_points.other_memory)
            steps.at_each("stop and start", kill_points.stop_and_start)
            steps.at_each("connection", kill_points.connect_again, within=["stop and start"])
            steps.at_each("reset", kill_points.reset, within=["stop and start"])
            steps.at_each("log", kill_points.log_on_and_off)
            steps.at_each("SIGTERM", kill_points.terminate)
            steps.at_each("dev del and add", kill_points.delete_and_add, may_close=True)
            steps.at_each("SIGINT", kill_points.interrupt, may_close=True)
            self.assertGreater(steps.kills, 5)

    @unittest.skipUnless(harness.count(0, 1), "UVDPA_TEST_LONG is not set")
    def test_disk(self):
        with self.steps(BLK_SPLIT, kill_points.Block, queues=1) as steps:
            steps.at_each_of_a_start()
            steps.at_each("stop and start", kill_points.stop_and_start)
            steps.at_each("log", kill_points.log_on_and_off)


if __name__ == "__main__":
    unittest.main(verbosity=2)
