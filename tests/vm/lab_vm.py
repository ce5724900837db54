# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Runs inside the laboratory, see test_lab_vm.py: eight functions that serve one VM, over vfio-pci.

What is pinned is the kernel's own account (VmLck) of the daemon that drives them.
"""

import contextlib
import random
import threading
import unittest

import lab_inside as inside
from lab_inside import Held, harness, until
import vhost_user_client as vu

SLOTS = range(0x10, 0x18)
GUEST = 64 << 20  # bytes of the guest's memory
ROUNDS = 5  # frames that each device passes at least, with all the others at it


def address(slot):
    return f"0000:00:{slot:02x}.0"


class Traffic(threading.Thread):
    """Frames go out and come back by one device until it is to stop."""

    def __init__(self, net):
        super().__init__(daemon=True)
        self.net, self.failure, self.running = net, None, True
        self.frames = 0
        self.start()

    def run(self):
        try:
            while self.running:
                self.net.exchange()
                self.frames += 1
        except Exception as e:  # the main thread reports it
            self.failure = e

    def stop(self):
        self.running = False
        self.join()
        if self.failure is not None:
            raise self.failure


class OneVm(unittest.TestCase):
    @contextlib.contextmanager
    def daemon(self, slots, words):
        """A daemon that serves these functions, and leaves nothing of them."""
        for slot in slots:
            inside.bind(address(slot))
        with harness.Daemon() as d:
            before = Held(d.pid, address(slots[0]))
            for slot in slots:
                d.add(f"name dev{slot:x} mgmtdev pci/{address(slot)} {words} "
                      f"socket {d.socket(f'dev{slot:x}')}")
            yield d
            for name in d.call("dev.list")["names"]:
                d.delete(name)
            with contextlib.suppress(AssertionError):
                until(lambda: Held(d.pid, address(slots[0])) == before, "the end", 3.0)
            self.assertEqual(Held(d.pid, address(slots[0])).differs(before), "")
        for slot in slots:
            inside.bind(address(slot), "none")

    def pinned(self, d):
        """Bytes that the kernel has pinned for the daemon's functions."""
        return Held(d.pid, address(SLOTS[0])).locked_kib << 10

    def start(self, d, slot, memory):
        net = vu.NetDriver(d.socket(f"dev{slot:x}"), memory=memory)
        self.addCleanup(net.client.close)
        net.start()
        net.exchange()
        return net

    def test_eight_devices(self):
        memory = vu.Memory(GUEST)
        self.addCleanup(memory.close)
        faults = inside.faults()[0]
        with self.daemon(SLOTS, "vm guest0") as d:
            nets = {SLOTS[0]: self.start(d, SLOTS[0], memory)}
            one, maps = self.pinned(d), d.show(f"dev{SLOTS[0]:x}")["dma"]
            own = one - GUEST  # control queue of the driver's
            self.assertGreaterEqual(own, 0)
            self.assertEqual(maps["bytes_mapped"], one)
            for slot in SLOTS[1:]:
                nets[slot] = self.start(d, slot, memory)
            traffic = {slot: Traffic(net) for slot, net in nets.items()}
            until(lambda: all(t.frames >= ROUNDS or t.failure for t in traffic.values()),
                  "frames by all devices", 60)
            all_pinned = self.pinned(d)
            for slot in SLOTS:
                show = d.show(f"dev{slot:x}")
                self.assertEqual((show["state"], show["vm"], show["vm_devices"]),
                                 ("running", "guest0", len(SLOTS)))
                self.assertEqual(show["dma"]["bytes_mapped"], all_pinned)
                self.assertEqual(show["dma"]["unmaps"], 0)
            self.assertEqual(show["dma"]["maps"], len(SLOTS) * maps["maps"] - (len(SLOTS) - 1))
            for t in traffic.values():
                t.stop()
            print(f"{self.id()}: {inside.IOMMU}: pinned with one device {one} bytes, with "
                  f"{len(SLOTS)} {all_pinned}, while they passed "
                  f"{[t.frames for t in traffic.values()]} frames", flush=True)
            self.assertEqual(all_pinned, GUEST + len(SLOTS) * own)
            self.leave(d, nets)
            self.assertEqual(inside.faults()[0], faults, inside.faults()[1])

    def leave(self, d, nets):
        """Seven leave, in one way or the other; frames of the others go on."""
        seed = random.randrange(1 << 32)
        rng = random.Random(seed)
        order = rng.sample(sorted(nets), len(nets))
        print(f"{self.id()}: seed {seed}: leaving in the order {[hex(s) for s in order]}", flush=True)
        for slot in order[:-1]:
            traffic = Traffic(nets[order[-1]])
            if rng.random() < 0.5:
                d.delete(f"dev{slot:x}")
                nets[slot].client.close()
            else:
                nets[slot].client.close()
                until(lambda at=slot: d.show(f"dev{at:x}")["state"] == "idle", "the device to stop")
            del nets[slot]
            for net in nets.values():
                if net is not traffic.net:
                    net.exchange()
            seen = traffic.frames
            until(lambda t=traffic, n=seen: t.frames > n or t.failure, "the last one's frames", 30)
            traffic.stop()
        last = d.show(f"dev{order[-1]:x}")
        self.assertGreaterEqual(last["dma"]["bytes_mapped"], GUEST)
        nets[order[-1]].exchange()
        nets[order[-1]].client.close()
        until(lambda: d.show(f"dev{order[-1]:x}")["state"] == "idle", "the last device to stop")

    def test_without_the_word(self):
        """Two devices of which nobody said that they serve one VM: each pins the memory."""
        memory = vu.Memory(GUEST)
        self.addCleanup(memory.close)
        with self.daemon(SLOTS[:2], "") as d:
            first = self.start(d, SLOTS[0], memory)
            one = self.pinned(d)
            second = self.start(d, SLOTS[1], memory)
            print(f"{self.id()}: {inside.IOMMU}: pinned with one device {one} bytes, with two "
                  f"{self.pinned(d)}", flush=True)
            self.assertEqual(self.pinned(d), 2 * one)
            for net in first, second:
                net.exchange()
                net.client.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
