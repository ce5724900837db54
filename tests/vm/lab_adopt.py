# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Runs inside the laboratory, see test_lab_adopt.py: a daemon with --keep on QEMU's virtio functions over
vfio-pci is killed, restarted and upgraded under traffic. The functions go on meanwhile, and the next
daemon takes them over: the guests, whose front ends are here, number what they send and write, and nothing
is lost and nothing comes twice. Nor is it where the next daemon of an upgrade fails, and the former one
goes on.

Kicks go by the daemon, so a function that has done all that it knows of waits for the next one. With a
host notifier they go to the function itself.
"""

import contextlib
import os
import random
import subprocess
import time
import unittest

import lab_inside as inside
import lab_vfio
import restarting
from lab_inside import harness, host, until
from lab_vfio import BLK_PACKED, BLK_SPLIT, NET_PAGES, NET_SPLIT, address
from numbered_guest import PROTOCOL
from restarting import AT_LEAST, GoesOn, KeptBlock, KeptNet, PagesNet
from upgrading import Upgrades

restarting.KEEPER = os.environ["UVDPA_KEEPER"]

KILLS = harness.count(2, 100)  # and as many upgrades
KILLS_MORE = harness.count(1, 100)  # where it is much the same
RESTARTS = harness.count(1, 10)
STRIDE = harness.count(13, 1)  # of the steps at which a new daemon dies
IDLE_FROM = harness.count(32, 1)  # the first of those at which one does, of a device that is not started
SETTLED = 0.5  # seconds in which none comes back, where the disk lets none through
WITH_DEVICES = 25  # a step behind that in which it has got them
KILL_AT = os.environ.get("UVDPA_KILL_AT_LIB", "")
SEED = int(os.environ.get("UVDPA_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)


class Adopted(GoesOn, lab_vfio.VfioTest):
    """One function, whose guest goes on while daemons come and go."""

    @contextlib.contextmanager
    def kept(self, slot, words=""):
        addr = address(slot)
        inside.bind(addr)
        with Upgrades({"dev0": f"mgmtdev pci/{addr} {words}"}, args=("--log-level", "info")) as h:
            self.gaps, self.takes, self.still = [], [], []
            yield h
        self.assertEqual(self.faults(), "")

    def turn(self, h, guest, end):
        """The daemon ends, and the next one is there."""
        if end == "upgrade":
            self.next_daemon(h, guest, act=lambda: self.still.append(h.upgrade(devices=1)["gap_ms"]))
        else:
            getattr(h.app, end)()
            self.has_ended()
            self.next_daemon(h, guest)
        self.goes_on()

    def is_to_end(self, guest, end):
        """The daemon is: until at least so many are under way; how many."""
        until(lambda: guest.work() or self.has_enough(guest, end), "requests to be under way", 3 * harness.TIMEOUT)
        return self.under_way(guest)

    def has_enough(self, guest, end):
        """So many are under way, and will be when the daemon has ended."""
        return self.under_way(guest) >= AT_LEAST

    def has_ended(self):
        """The daemon has, a moment ago."""

    def goes_on(self):
        """The next one is there."""

    def figures(self):
        return f"{self.times()}; handed over for {min(self.still)} to {max(self.still)} ms"

    def turns(self, h, guest, kills, restarts=0):
        counted = []
        for end in ["kill", "upgrade"] * kills + ["stop"] * restarts:
            guest.work(0.05 + guest.rng.random() * 0.1)
            counted.append(self.is_to_end(guest, end))
            self.turn(h, guest, end)
        guest.settle(20 * harness.TIMEOUT)
        print(f"{self.id()}: seed {SEED}: {kills} kills, {kills} upgrades and {restarts} restarts, "
              f"{min(counted)} to {max(counted)} under way; {guest.account()}; {self.figures()}", flush=True)

    def tear_down(self, h, guest, slot):
        """Deleted, the function is stopped, and the kernel's driver finds one that works."""
        guest.disconnect()
        h.app.delete("dev0")
        h.app.stop()
        inside.bind(address(slot), "virtio-pci")
        until(lambda: self.kernel_drives(address(slot)), "the kernel's driver to start the device")
        inside.bind(address(slot), lab_vfio.UNBOUND)


class LongQueue(random.Random):
    """Of the sizes that a queue may have, the last one."""

    def choice(self, seq):
        return seq[-1] if isinstance(seq, tuple) else super().choice(seq)


class Block(Adopted):
    """When a daemon is to end, the disk lets few requests through, so that others are under way; how many the
    device's own counter says, of a daemon that has ended once it has."""

    def limit(self, what):
        host("limit", f"{self.slot:x}", what)

    def under_way(self, guest=None):
        return int(host("inuse", f"{self.slot:x}"))

    def is_to_end(self, guest, end):
        # An upgrade goes on meanwhile.
        self.limit("few" if end == "upgrade" else "none")
        return super().is_to_end(guest, end)

    def has_enough(self, guest, end):
        counted = self.under_way()
        if counted < AT_LEAST or end == "upgrade":
            return counted >= AT_LEAST
        # Requests that the disk had let through before come back still, on a busy machine late.
        time.sleep(SETTLED)
        return self.under_way() == counted

    def has_ended(self):
        self.counted.append(self.under_way())
        self.limit("all")

    def goes_on(self):
        self.limit("all")

    @contextlib.contextmanager
    def served(self, slot, packed, words=""):
        self.slot, self.counted = slot, []
        host("clear", f"{slot:x}")
        rng = LongQueue(f"{SEED} {packed}")
        with self.kept(slot, words) as h, KeptBlock(rng, packed, queues=1) as guest:
            # The disk of a function has no area that its front end could give.
            guest.client = restarting.patient(h.app.socket("dev0"))
            guest.client.negotiate(guest.features, PROTOCOL)
            self.assertEqual(guest.client.set_memory(guest.memory), 0)
            yield h, guest
            guest.read_back()
            guest.check()
            # A stop is one as ever.
            guest.stop()
            self.tear_down(h, guest, slot)

    def check(self, slot, packed, kills, restarts=0):
        with self.served(slot, packed) as (h, guest):
            guest.start()
            self.turns(h, guest, kills, restarts)
            print(f"{self.id()}: {min(self.counted)} to {max(self.counted)} requests under way by the device's "
                  f"counter when a daemon had ended", flush=True)
            self.assertGreaterEqual(min(self.counted), AT_LEAST)

    def test_split(self):
        self.check(BLK_SPLIT, False, KILLS, RESTARTS)

    def test_packed(self):
        self.check(BLK_PACKED, True, KILLS_MORE)

    def fails_under_traffic(self, h, guest, pattern, **params):
        """The upgrade fails, with at least as many requests under way, and the former daemon goes on with
        them. False: it did not fail."""
        failed = []
        self.is_to_end(guest, "upgrade")
        self.next_daemon(h, guest, act=lambda: failed.append(self.fails(h, pattern, **params)))
        self.goes_on()
        return failed[0]

    def fails(self, h, pattern, **params):
        """The same, of a device whose guest does nothing."""
        pid = h.app.pid
        try:
            answer = h.app.call("daemon.upgrade", **params)
        except harness.ControlError as error:
            self.assertRegex(error.message, pattern)
        else:
            # This one has come further, and dies later, as one that crashes.
            h.follow(answer["pid"])
            h.crash(taken=1)
            return False
        self.assertEqual(h.app.pid, pid)
        self.assertIsNone(h.app.process.poll())
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
            self.assertEqual(children.read(), "")
        return True

    @staticmethod
    def killed(h, step, by="KILL"):
        return h.program("killed", f"LD_PRELOAD={KILL_AT} UVDPA_KILL_AT={step} UVDPA_KILL_BY={by} "
                                   f"exec {harness.APP} \"$@\"")

    def test_upgrades_that_fail(self):
        harness.skip_unless("libasan" not in subprocess.run(
            ["ldd", harness.APP], capture_output=True, text=True, check=False).stdout,
            "no library can be loaded before a daemon with a sanitizer")
        with self.served(BLK_SPLIT, False) as (h, guest):
            # A front end that has given memory, and has not started its device yet: up to the last step, when
            # that is mapped.
            idle, step = 0, IDLE_FROM
            while self.fails(h, "was ended by signal 9", program=self.killed(h, step)):
                idle, step = idle + 1, step + 1
            self.assertGreater(idle, 0)
            guest.start()
            self.assertTrue(self.fails_under_traffic(h, guest, "false ended with exit code 1", program="/bin/false"))
            self.assertTrue(self.fails_under_traffic(h, guest, "has not taken the devices over within",
                                       program=self.killed(h, WITH_DEVICES, "STOP"), timeout_s=20))
            failed, step = 0, STRIDE
            while self.fails_under_traffic(h, guest, "was ended by signal 9", program=self.killed(h, step)):
                failed, step = failed + 1, step + STRIDE
            self.assertGreater(failed, 0)
            guest.settle(20 * harness.TIMEOUT)
            print(f"{self.id()}: seed {SEED}: {idle} new daemons killed with an idle function, {failed} at every "
                  f"{STRIDE} of {step} steps with one that works; longest gap {max(self.gaps):.3f} s", flush=True)


class Net(Adopted):
    @staticmethod
    def under_way(guest):
        return len(guest.missing) + len(guest.tx.in_flight)

    def check(self, slot, packed, kills, words=""):
        far = lab_vfio.Counts(slot)
        rng = random.Random(f"{SEED} {packed}")
        with self.kept(slot, words) as h, KeptNet(rng, packed) as guest:
            guest.connect(h.app.socket("dev0")).start()
            self.turns(h, guest, kills)
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
        frames = []
        with self.kept(NET_PAGES) as h, PagesNet(random.Random(SEED)) as guest:
            guest.connect(h.app.socket("dev0")).start()
            self.assertEqual({guest.take_page(), guest.take_page()}, {0, 1})
            def alone():
                before = guest.received
                until(lambda: guest.work(0.01) or guest.received - before > 100,
                      "frames while no daemon lives", 3 * harness.TIMEOUT)
                frames.append(guest.received - before)

            self.has_ended = alone
            for end in ["kill", "upgrade"] * KILLS_MORE:
                guest.work(0.1)
                self.turn(h, guest, end)
                # It is given them once more.
                self.assertEqual({guest.take_page(), guest.take_page()}, {0, 1})
            guest.settle(20 * harness.TIMEOUT)
            guest.check()
            self.assertEqual(guest.again, 0)
            (came, _), (went, _) = far()
            self.assertEqual((came, went), (guest.sent, guest.sent))
            print(f"{self.id()}: seed {SEED}: {KILLS_MORE} kills and {KILLS_MORE} upgrades, {sum(frames)} frames "
                  f"without a daemon; {guest.account()}; {self.figures()}", flush=True)
            self.tear_down(h, guest, NET_PAGES)


class Planned(Adopted):
    """Disks that the daemon resets and the next one starts anew, where their rings stand: with a word that binds
    them to other devices, and on shadows. A kill ends the connection of the former, and not of the latter. (Frames
    that come from the far end meanwhile find no device, so that a network says nothing of rings.)"""

    def check(self, slot, words, packed, ends):
        host("clear", f"{slot:x}")
        with self.kept(slot, words) as h, KeptBlock(random.Random(f"{SEED} {words}"), packed, queues=1) as guest:
            guest.client = restarting.patient(h.app.socket("dev0"))
            guest.client.negotiate(guest.features, PROTOCOL)
            self.assertEqual(guest.client.set_memory(guest.memory), 0)
            guest.start()
            for end in ends:
                guest.work(0.05 + guest.rng.random() * 0.1)
                self.turn(h, guest, end)
            guest.settle(20 * harness.TIMEOUT)
            guest.check()
            print(f"{self.id()}: {words}: seed {SEED}: {', '.join(ends)}; {guest.account()}; {self.figures()}", flush=True)
            guest.stop()
            self.tear_down(h, guest, slot)

    ENDS = ["stop", "upgrade"] * harness.count(1, 20)

    def test_with_a_word_of_a_vm(self):
        self.check(BLK_SPLIT, "vm guest", False, self.ENDS)

    def test_on_shadows(self):
        self.check(BLK_PACKED, "migration shadow", True, ["kill", *self.ENDS])


if __name__ == "__main__":
    unittest.main(verbosity=2)
