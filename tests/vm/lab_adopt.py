# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Runs inside the laboratory, see test_lab_adopt.py: a daemon with --keep on QEMU's virtio functions over
vfio-pci is killed and restarted under traffic. The functions go on meanwhile, and the next daemon takes
them over: the guests, whose front ends are here, number what they send and write, and nothing is lost
and nothing comes twice.

Kicks go by the daemon, so a function that has done all that it knows of waits for the next one. With a
host notifier they go to the function itself.
"""

import contextlib
import os
import random
import unittest

import lab_inside as inside
import lab_vfio
import restarting
from lab_inside import harness, host, until
from lab_vfio import BLK_PACKED, BLK_SPLIT, NET_PAGES, NET_SPLIT, address
from numbered_guest import PROTOCOL
from restarting import GoesOn, Host, KeptBlock, KeptNet, PagesNet

restarting.KEEPER = os.environ["UVDPA_KEEPER"]

KILLS = harness.count(3, 100)
KILLS_MORE = harness.count(2, 100)  # where it is much the same
RESTARTS = harness.count(1, 10)
SEED = int(os.environ.get("UVDPA_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)


class Adopted(GoesOn, lab_vfio.VfioTest):
    """One function, whose guest goes on while daemons come and go."""

    @contextlib.contextmanager
    def kept(self, slot, words=""):
        addr = address(slot)
        inside.bind(addr)
        with Host({"dev0": f"mgmtdev pci/{addr} {words}"}, args=("--log-level", "info")) as h:
            yield h
        self.assertEqual(self.faults(), "")

    def tear_down(self, h, guest, slot):
        """Deleted, the function is stopped, and the kernel's driver finds one that works."""
        guest.disconnect()
        h.app.delete("dev0")
        h.app.stop()
        inside.bind(address(slot), "virtio-pci")
        until(lambda: self.kernel_drives(address(slot)), "the kernel's driver to start the device")
        inside.bind(address(slot), lab_vfio.UNBOUND)


class Block(Adopted):
    def check(self, slot, packed, kills, words=""):
        host("clear", f"{slot:x}")
        rng = random.Random(f"{SEED} {packed}")
        with self.kept(slot, words) as h, KeptBlock(rng, packed, queues=1) as guest:
            # The disk of a function has no area that its front end could give.
            guest.client = restarting.patient(h.app.socket("dev0"))
            guest.client.negotiate(guest.features, PROTOCOL)
            self.assertEqual(guest.client.set_memory(guest.memory), 0)
            guest.start()
            self.lives(h, guest, lambda: len(guest.pending), ["kill"] * kills + ["stop"] * RESTARTS, SEED)
            guest.read_back()
            guest.check()
            # A stop is one as ever.
            guest.stop()
            self.tear_down(h, guest, slot)

    def test_split(self):
        self.check(BLK_SPLIT, False, KILLS)

    def test_packed(self):
        self.check(BLK_PACKED, True, KILLS_MORE)


class Net(Adopted):
    def check(self, slot, packed, kills, words=""):
        far = lab_vfio.Counts(slot)
        rng = random.Random(f"{SEED} {packed}")
        with self.kept(slot, words) as h, KeptNet(rng, packed) as guest:
            guest.connect(h.app.socket("dev0")).start()
            self.lives(h, guest, lambda: len(guest.missing) + len(guest.tx.in_flight),
                       ["kill"] * kills + ["stop"] * RESTARTS, SEED)
            guest.check()
            self.assertEqual(guest.again, 0)
            # The far end had each frame once, and each came back.
            (came, _), (went, _) = far()
            self.assertEqual((came, went), (guest.sent, guest.sent))
            self.tear_down(h, guest, slot)

    def test_split(self):
        self.check(NET_SPLIT, False, KILLS_MORE)

    def test_by_pages(self):
        # The guest sends and receives while no daemon is there.
        far = lab_vfio.Counts(NET_PAGES)
        alone = 0
        with self.kept(NET_PAGES) as h, PagesNet(random.Random(SEED)) as guest:
            guest.connect(h.app.socket("dev0")).start()
            self.assertEqual({guest.take_page(), guest.take_page()}, {0, 1})
            for end in ["kill"] * KILLS_MORE + ["stop"] * RESTARTS:
                guest.work(0.1)
                getattr(h.app, end)()
                before = guest.received
                until(lambda: guest.work(0.01) or guest.received - before > 100,
                      "frames while no daemon lives", 3 * harness.TIMEOUT)
                alone += guest.received - before
                self.next_daemon(h, guest)
                # It is given them once more.
                self.assertEqual({guest.take_page(), guest.take_page()}, {0, 1})
            guest.settle(20 * harness.TIMEOUT)
            guest.check()
            self.assertEqual(guest.again, 0)
            (came, _), (went, _) = far()
            self.assertEqual((came, went), (guest.sent, guest.sent))
            print(f"{self.id()}: seed {SEED}: {KILLS_MORE} kills and {RESTARTS} restarts, {alone} frames without a "
                  f"daemon; {guest.account()}; {self.times()}", flush=True)
            self.tear_down(h, guest, NET_PAGES)


if __name__ == "__main__":
    unittest.main(verbosity=2)
