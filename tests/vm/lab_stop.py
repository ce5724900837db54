# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Runs inside the laboratory, see test_lab_stop.py: queues of QEMU's virtio functions are stopped and
continued under traffic. What they can only begin at the beginning of a ring goes on on shadows; split
rings by themselves, packed ones with the word `migration shadow`.

A stop resets the function, and QEMU's virtio-net-pci throws away then what waits for a receive buffer:
frames that the far end has sent back and that a later one has overtaken. They are counted, and
nothing else may be missing.
"""

import contextlib
import random
import re
import subprocess
import unittest

import lab_inside as inside
import lab_vfio
import vhost_user_client as vu
from lab_inside import harness, host
from lab_vfio import BLK_PACKED, BLK_SPLIT, NET_TAP
from numbered_guest import BlockGuest, NetGuest

NET_TAP_PACKED = 0x1a
STOPS = harness.count(4, 50)
SEED = int(inside.os.environ.get("UVDPA_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
CASES = ("split_queue_resume", "packed_queue_resume", "split_places", "packed_places",
         "stop_during_traffic")


class FarGuest(NetGuest):
    """Its frames come back from a far end that counts them."""

    def __init__(self, rng, packed):
        super().__init__(rng, packed, lambda: 0)  # what is overtaken is not missing any more
        self.overtaken = set()  # overtaken, and not come yet
        self.late = 0
        self.came = set()

    def is_of_another(self, n):
        """The far end keeps the order: what a test before this one has sent comes before ours."""
        return not self.came and n not in self.missing

    def account_for(self, n):
        assert n not in self.came, f"frame {n} comes twice: {self.account()}, stop {self.stops}"
        self.came.add(n)
        if n in self.overtaken:
            self.overtaken.remove(n)
            self.late += 1
            return
        super().account_for(n)
        # The far end keeps the order: what is overtaken does not come any more, or late, if QEMU
        # kept it while the function was stopped.
        gone = {m for m in self.missing if m < n}
        self.missing -= gone
        self.overtaken |= gone

    def account(self):
        return f"{super().account()}, {self.late} late"

    def waits(self):
        return len(self.tx.in_flight) or len(self.missing)

    def settle_to_the_last(self, quiet=2.0):
        """The last frames may be among the lost: then a later one says so."""
        for _ in range(10):
            try:
                return self.settle(quiet)
            except AssertionError:
                self.work()
        return self.settle()


class Stops(lab_vfio.VfioTest):
    def stops(self, slot, words, guest, settle):
        shadows = 0
        with self.serve(slot, words) as d, guest:
            guest.connect(d.socket("dev0")).start()
            for stop in range(STOPS):
                guest.work(0.05 + guest.rng.random() * 0.1)
                paths = [q["path"] for q in list(d.stats("dev0")["queues"].values())[:len(guest.queues)]]
                shadows += paths == ["shadow"] * len(paths)
                if words or stop == 1:
                    self.assertEqual(set(paths), {"shadow"}, stop)
                guest.stop()
                if guest.rng.random() < 0.5:
                    guest.feed()
                guest.start()
                if guest.rng.random() < 0.3:
                    settle()
            settle()
            yield d
            print(f"{self.id()}: {inside.IOMMU}, {words or 'auto'}: seed {SEED}: {guest.stops} stops, "
                  f"{shadows} on shadows, {guest.open} chains under way, {guest.cut} not back at the "
                  f"stop; {guest.account()}", flush=True)
            self.assertGreater(guest.open, 8 * guest.stops)
            guest.disconnect()
        self.assertEqual(self.faults(), "")


class Net(Stops):
    def check(self, slot, packed, words=""):
        far = lab_vfio.Counts(slot)
        guest = FarGuest(random.Random(f"{SEED} {packed} {words}"), packed)
        for _ in self.stops(slot, words, guest, guest.settle_to_the_last):
            (came, _), (went, _) = far()
            # None is lost on its way out, none comes twice.
            self.assertEqual((came, went), (guest.sent, guest.sent))
            self.assertEqual(guest.received + len(guest.overtaken), guest.sent, guest.account())

    def test_split(self):
        self.check(NET_TAP, False)

    def test_split_on_shadows(self):
        self.check(NET_TAP, False, "migration shadow")

    def test_packed_on_shadows(self):
        self.check(NET_TAP_PACKED, True, "migration shadow")


class Block(Stops):
    def check(self, slot, packed, words=""):
        host("clear", f"{slot:x}")
        guest = BlockGuest(random.Random(f"{SEED} {packed} {words}"), packed, queues=1)
        for _ in self.stops(slot, words, guest, guest.settle):
            guest.read_back()
            self.assertEqual(guest.sent, guest.reads + guest.writes, guest.account())

    def test_split(self):
        self.check(BLK_SPLIT, False)

    def test_split_on_shadows(self):
        self.check(BLK_SPLIT, False, "migration shadow")

    def test_packed_on_shadows(self):
        self.check(BLK_PACKED, True, "migration shadow")


class Conformance(lab_vfio.VfioTest):
    """test-vdpa's cases of queues that go on. After the others: its frames may still be on their way."""

    def conform(self, slot, words, *more):
        with self.serve(slot, words) as d:
            done = subprocess.run([lab_vfio.Conformance.PROGRAM, "conformance", "--socket", d.socket("dev0"),
                                   *(w for case in CASES for w in ("--case", case)), *more],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
                                  check=False)
            lines = done.stdout.splitlines()
            for line in lines:
                print(f"{self.id()}: {line}", flush=True)
            self.assertEqual([line for line in lines if line.startswith("not ok")], [])
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertGreater(int(re.search(r"(\d+) passed", lines[-1]).group(1)), 1)
        self.assertEqual(self.faults(), "")

    def test_net(self):
        self.conform(NET_TAP_PACKED, "", "--loopback", "yes")

    def test_net_on_shadows(self):
        self.conform(NET_TAP_PACKED, "migration shadow", "--loopback", "yes")

    def test_block(self):
        self.conform(BLK_PACKED, "", "--overwrite")

    def test_block_on_shadows(self):
        self.conform(BLK_PACKED, "migration shadow", "--overwrite")


class Refused(lab_vfio.VfioTest):
    """Last, as frames of a guest that is not continued may still be on their way."""

    def refused(self, slot, guest):
        """A packed ring does not show where it stands: on its own the device is not continued."""
        with self.serve(slot) as d, guest:
            guest.connect(d.socket("dev0")).start()
            guest.work(0.1)
            guest.stop()
            with contextlib.suppress(AssertionError, vu.Closed):
                guest.start()
            d.err.wait("queue .* in flight, and neither the device nor its ring says which.*migration shadow")
            inside.until(lambda: d.show("dev0")["state"] == "failed", "the device to fail")
            guest.disconnect()

    def test_net(self):
        self.refused(NET_TAP_PACKED, FarGuest(random.Random(SEED), True))

    def test_block(self):
        host("clear", f"{BLK_PACKED:x}")
        self.refused(BLK_PACKED, BlockGuest(random.Random(SEED), True, queues=1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
