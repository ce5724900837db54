# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Runs inside the laboratory, see test_lab_vfio.py: vdpa-app on QEMU's virtio functions over vfio-pci.

The far end of the net functions is a reflector on the host, of the block functions an image; the
counts of the one and the bytes of the other are compared with what the front end saw here.
"""

import contextlib
import hashlib
import os
import re
import select
import struct
import subprocess
import time
import unittest

import lab_inside as inside
import lab_attack
from lab_inside import Held, harness, host, until
import test_mem_slots as slots
import vhost_user_client as vu

# The slots that test_lab_vfio.py gives functions to.
NET_SPLIT, NET_PACKED, NET4_SPLIT, NET4_PACKED, BLK_SPLIT, BLK_PACKED = range(0x10, 0x16)
GROUP = "0000:00:16.0", "0000:00:16.1"  # two functions that no IOMMU can keep apart
LEGACY = "0000:00:17.0"
NET_TAP = 0x18
NET_PAGES = 0x19  # each doorbell in a page of its own
ALICE, BOB = 1001, 1002  # users

TRAFFIC_SECONDS = 1.0
DRAIN_SECONDS = 0.5
BURSTS = 2  # of 32 packets, sent on each queue to begin with; then they go round
FRAMES_MIN = 500
SECTOR = 512
PAGE = 4096
OUTSIDE = 0x7654_3000  # a guest address where there is no memory
UNBOUND = "none"


def address(slot):
    return f"0000:00:{slot:02x}.0"


class Counts:
    """Frames and bytes at the far end of a net function, since this was made."""

    def __init__(self, slot):
        self.slot = slot
        self.first = self._ask()

    def _ask(self):
        return [int(n) for n in host("counts", f"{self.slot:x}").split()]

    def __call__(self):
        """Into the far end and out of it: (frames, bytes), (frames, bytes)."""
        a, b, c, d = (n - m for n, m in zip(self._ask(), self.first))
        return (a, b), (c, d)


def submit_chain(ring, parts):
    """Make a chain of (address, size, flags) available at once, on a split or packed ring."""
    last = len(parts) - 1
    if isinstance(ring, vu.SplitRing):
        head = ring.free
        for i, (addr, size, flags) in enumerate(parts):
            more = vu.DESC_NEXT if i < last else 0
            ring.set_desc(head + i, addr, size, flags | more, head + i + 1)
        ring.free = (head + len(parts)) % (ring.num - len(parts))
        ring.submit(head)
        return
    head, entries = ring.next, []
    for i, (addr, size, flags) in enumerate(parts):
        flags |= ring.avail_flags() | (vu.DESC_NEXT if i < last else 0)
        entries.append((ring.next, addr, size, head, flags))
        ring.advance()
    for entry in reversed(entries):  # the head last, which makes it available
        ring.set_desc(*entry)


def chain_is_used(ring, length):
    """Whether the device has returned the next chain, which has length descriptors."""
    if ring.poll() is None:
        return False
    if isinstance(ring, vu.PackedRing):
        # One entry says that all are used; the next one follows where the chain ended.
        for _ in range(length - 1):
            ring.seen += 1
            if ring.seen == ring.num:
                ring.seen, ring.seen_wrap = 0, ring.seen_wrap ^ 1
    return True


class VfioTest(unittest.TestCase):
    def setUp(self):
        self.faults_before = inside.faults()[0]

    def faults(self):
        """The last thing the IOMMU has stopped in this test, "" when there is none."""
        count, text = inside.faults()
        return text if count > self.faults_before else ""

    def settles_at(self, held, pid, addr, when):
        """What the process holds becomes equal to held, soon: threads need a moment to let go."""
        with contextlib.suppress(AssertionError):
            until(lambda: Held(pid, addr) == held, when, 3.0)
        self.assertEqual(Held(pid, addr).differs(held), "", when)

    @contextlib.contextmanager
    def serve(self, slot, words=""):
        """A daemon that serves this function as dev0, and what it is checked for when the front end
        has gone, when the device is deleted, and when the daemon has ended."""
        addr = address(slot)
        inside.bind(addr)
        with harness.Daemon() as d:
            without = Held(d.pid, addr)
            d.add(f"name dev0 mgmtdev pci/{addr} {words} socket {d.socket('dev0')}")
            idle = Held(d.pid, addr)
            self.assertEqual((idle.vectors, idle.locked_kib), (0, 0))
            yield d
            until(lambda: d.show("dev0")["state"] in ("idle", "failed"), "the device to stop")
            self.settles_at(idle, d.pid, addr, "the front end has gone")
            d.delete("dev0")
            self.settles_at(without, d.pid, addr, "the device is deleted")
        # Nobody holds it any more: the kernel's driver takes it, and finds a device that works.
        inside.bind(addr, "virtio-pci")
        until(lambda: self.kernel_drives(addr), "the kernel's driver to start the device")
        inside.bind(addr, UNBOUND)

    @staticmethod
    def kernel_drives(addr):
        base = f"/sys/bus/pci/devices/{addr}"
        for name in os.listdir(base):
            if re.fullmatch(r"virtio\d+", name):
                with open(f"{base}/{name}/status", encoding="ascii") as f:
                    return int(f.read(), 16) & 0xCF == 0x0F  # DRIVER_OK and before, nothing failed
        return False


class Net(VfioTest):
    """testpmd's virtio-user through vdpa-app to the function; every frame comes back."""

    def check(self, slot, packed, pairs, vectors, words="", line=None):
        addr = address(slot)
        with self.serve(slot, words) as d:
            if line is not None:
                d.err.wait(line)
            counts = Counts(slot)
            port = harness.virtio_user(d.socket("dev0"), queues=pairs, packed=packed)
            with harness.Testpmd([port], queues=pairs, lcores=inside.LCORES,
                                 args=["--txonly-multi-flow"]) as pmd:
                show = d.show("dev0")
                self.assertEqual(show["state"], "running")
                features = int(show["negotiated_features"], 16)
                self.assertEqual(bool(features >> 34 & 1), packed)
                held = Held(d.pid, addr)
                self.assertGreater(held.locked_kib, 0, "no memory of the front end is mapped")
                self.assertEqual(held.vectors, vectors)
                pmd.run(f"start tx_first {BURSTS}")
                time.sleep(TRAFFIC_SECONDS)
                pmd.run("stop")
                # What is under way is let come in, and nothing new sent.
                pmd.run("set fwd rxonly")
                pmd.run("start")
                until(lambda: pmd.port_stats()["RX-packets"] == counts()[1][0] ==
                      pmd.port_stats()["TX-packets"], "the last frames", 5)
                pmd.run("stop")
                ours = pmd.port_stats()
                far_in, far_out = counts()
            print(f"{self.id()}: {inside.IOMMU}: testpmd sent {ours['TX-packets']} "
                  f"({ours['TX-bytes']} bytes), the far end took {far_in} and sent {far_out}, "
                  f"testpmd received {ours['RX-packets']} ({ours['RX-bytes']})", flush=True)
            self.assertGreater(ours["RX-packets"], FRAMES_MIN)
            self.assertEqual((ours["TX-packets"], ours["TX-bytes"]), far_in)
            self.assertEqual((ours["RX-packets"], ours["RX-bytes"]), far_out)
            self.assertEqual(ours["RX-errors"] + ours["TX-errors"] + ours["RX-nombuf"], 0)
        self.assertEqual(self.faults(), "")

    # A vector a queue, one for the configuration; the control queue is polled.

    def test_split_1_pair(self):
        self.check(NET_SPLIT, False, 1, 3)

    def test_packed_1_pair(self):
        self.check(NET_PACKED, True, 1, 3)

    def test_split_4_pairs(self):
        self.check(NET4_SPLIT, False, 4, 9)

    def test_packed_4_pairs(self):
        self.check(NET4_PACKED, True, 4, 9)

    # Another driver's code on a function that is not its own, by the word `driver`: what is ifcvf's
    # block elsewhere has virtio's structures in it here.

    IFCVF = "driver ifcvf"
    NO_BLOCK = ("BAR 4 is no live-migration block: it has structures of virtio or MSI-X; the device "
                "runs without ring state and dirty log")

    def test_ifcvf_without_its_block(self):
        self.check(NET_SPLIT, False, 1, 3, self.IFCVF, self.NO_BLOCK)
        self.check(NET_PACKED, True, 1, 3, self.IFCVF, self.NO_BLOCK)

    def test_ifcvf_starts_and_stops_without_its_block(self):
        with self.serve(NET_SPLIT, self.IFCVF) as d:
            for _ in range(5):
                with vu.NetDriver(d.socket("dev0")) as net:
                    # The core logs where the device cannot.
                    self.assertNotEqual(net.client.ask_u64(vu.GET_FEATURES) & vu.F_LOG_ALL, 0)
                    net.start()
                    for _ in range(10):
                        net.exchange()
                    net.stop()
                until(lambda: d.show("dev0")["state"] == "idle", "the device to stop")
            # It has no place for a queue that goes on: that one is on a shadow.
            with vu.NetDriver(d.socket("dev0")) as net:
                for ring in net.rx, net.tx:
                    ring.avail = ring.seen = 1
                    for at in ring.driver, ring.device:
                        net.memory.set_u16(at + 2, 1)
                net.start()
                net.exchange()
                self.assertEqual([d.stats("dev0")["queues"][i]["path"] for i in ("0", "1")],
                                 ["shadow", "shadow"])
                net.stop()
        self.assertEqual(self.faults(), "")

    # Where a buffer of a frame begins, by its distance to the end of a page.
    EDGES = (0, 2, 12, 13, 64, 700)
    # QEMU's virtio-iommu translates the last byte of a page wrongly: see doc/testing.md.
    LAST_BYTE = () if inside.IOMMU == "virtio" else (1,)

    def check_content(self, slot, ring_class):
        """Every byte of frames whose buffers begin, and cross, at and near the end of a page."""
        edges = self.EDGES + self.LAST_BYTE
        with self.serve(slot) as d:
            with vu.NetDriver(d.socket("dev0"), ring_class) as net:
                tx, rx = net.memory.alloc(2 * PAGE), net.memory.alloc(2 * PAGE)
                net.start()
                for cut, at in ((cut, at) for cut in edges for at in edges):
                    # The second of its buffers begins `cut` bytes before the end of a page.
                    first = 300 + at
                    frame = hashlib.shake_128(f"{cut} {at}".encode()).digest(1500)
                    got = self.send_and_receive(net, frame, first, tx + PAGE - cut - first,
                                                rx + PAGE - at)
                    wrong = [i for i, (a, b) in enumerate(zip(got, frame)) if a != b]
                    self.assertEqual((len(got), wrong[:8]), (len(frame), []), (cut, at))
                net.stop()
        self.assertEqual(self.faults(), "")

    @staticmethod
    def send_and_receive(net, frame, first, tx, rx):
        """A frame at tx, whose second buffer begins after `first` bytes; what came back, at rx."""
        memory, gpa, room = net.memory, net.memory.GPA, vu.NET_HDR + len(frame)
        memory.write(net.tx_buf, bytes(vu.NET_HDR))
        memory.write(tx, frame)
        memory.write(rx, bytes(room))
        submit_chain(net.rx, [(gpa + rx, room, vu.DESC_WRITE)])
        net.rx.kick()
        submit_chain(net.tx, [(gpa + net.tx_buf, vu.NET_HDR, 0), (gpa + tx, first, 0),
                              (gpa + tx + first, len(frame) - first, 0)])
        net.tx.kick()
        until(lambda: chain_is_used(net.tx, 3), "the frame to be sent")
        length = until(net.rx.poll, "the frame to come back")
        return memory.read(rx + vu.NET_HDR, length - vu.NET_HDR)

    def test_every_byte_at_the_ends_of_pages_split(self):
        self.check_content(NET_SPLIT, vu.SplitRing)

    def test_every_byte_at_the_ends_of_pages_packed(self):
        self.check_content(NET_PACKED, vu.PackedRing)

    def test_memory_slots(self):
        """509 regions come, carry a frame each, and go; the IOMMU sees each come and go."""
        with self.serve(NET_SPLIT) as d:
            with slots.SlotDriver(d.socket("dev0")) as net:
                net.start()
                net.exchange()
                counted = slots.domain_counts(self, lambda: d.show("dev0")["dma"])
                slots.add_use_and_remove(self, net, 2, counted)
                net.stop()
        self.assertEqual(self.faults(), "")

    def test_memory_that_ends_within_a_page(self):
        """30,240 bytes, as libblkio has: the device reads a frame from the last of them."""
        size, at, frame = 30240, 1 << 24, bytes(range(100))
        with self.serve(NET_SPLIT) as d:
            with vu.NetDriver(d.socket("dev0")) as net:
                odd = vu.Memory(size)
                self.addCleanup(odd.close)
                table = net.memory.table([*net.memory.regions,
                                          (net.memory.GPA + at, size, net.memory.UVA + at, 0)])
                self.assertEqual(
                    net.client.ack(vu.SET_MEM_TABLE, table, [net.memory.fd, odd.fd]), 0)
                net.start()
                length = vu.NET_HDR + len(frame)
                odd.write(size - length, bytes(vu.NET_HDR) + frame)
                net.rx.add(net.rx_buf, 4096, True)
                net.rx.kick()
                net.tx.add(at + size - length, length, False)
                net.tx.kick()
                self.assertEqual(until(net.rx.poll, "the frame to come back"), length)
                self.assertEqual(net.memory.read(net.rx_buf + vu.NET_HDR, len(frame)), frame)
                until(lambda: net.tx.poll() is not None, "the buffer to come back")
                net.stop()
        self.assertEqual(self.faults(), "")

    def test_interrupts_at_every_step_of_the_vector_ladder(self):
        """Frames come back and the front end is interrupted, whatever vectors there are."""
        for vectors, ring in ((3, vu.SplitRing), (2, vu.SplitRing), (1, vu.SplitRing),
                              (0, vu.SplitRing)):
            with self.subTest(vectors=vectors):
                with self.serve(NET_SPLIT, f"vectors {vectors}") as d:
                    with vu.NetDriver(d.socket("dev0"), ring) as net:
                        net.start()
                        for _ in range(3):
                            net.exchange()
                            self.interrupted(net.rx, net.tx)
                        net.stop()
                self.assertEqual(self.faults(), "")

    def interrupted(self, *rings):
        for ring in rings:
            ready = select.select([ring.call_fd], [], [], 5.0)[0]
            self.assertTrue(ready, f"no interrupt for queue {ring.index}")
            os.eventfd_read(ring.call_fd)


class Block(VfioTest):
    """Bytes through vdpa-app to the function, compared with those of the image."""

    @staticmethod
    def request(ring, memory, kind, sector, data, length=0):
        """Submit one and wait for it: OUT (1) writes data, IN (0) reads length bytes, FLUSH (4).
        Returns what was read."""
        head = memory.alloc(16, 16)
        status = memory.alloc(1, 16)
        buf = memory.alloc(max(len(data), length, 1))
        memory.write(head, struct.pack("<IIQ", kind, 0, sector))
        memory.write(status, b"\xff")
        memory.write(buf, data)
        parts = [(head, 16, 0)]
        if kind != 4:
            parts.append((buf, length or len(data), vu.DESC_WRITE if kind == 0 else 0))
        parts.append((status, 1, vu.DESC_WRITE))
        submit_chain(ring, [(memory.GPA + at, size, flags) for at, size, flags in parts])
        ring.kick()
        if not vu.wait_until(lambda: chain_is_used(ring, len(parts))):
            raise AssertionError(f"request {kind} at sector {sector} does not end")
        if memory.read(status, 1) != b"\0":
            raise AssertionError(f"request {kind} at sector {sector}: "
                                 f"status {memory.read(status, 1)}")
        return memory.read(buf, length)

    def check(self, slot, ring_class):
        data = hashlib.shake_128(ring_class.__name__.encode()).digest(64 * SECTOR)
        with self.serve(slot) as d:
            with vu.Client(d.socket("dev0")) as client:
                memory = vu.Memory()
                ring = ring_class(memory, 0)
                client.negotiate(vu.F_VERSION_1 | ring.FEATURE)
                self.assertEqual(client.set_memory(memory), 0)
                self.assertEqual(ring.start(client), 0)
                self.request(ring, memory, 1, 128, data)
                self.request(ring, memory, 4, 0, b"")
                self.assertEqual(host("image", f"{slot:x}", 128 * SECTOR, len(data)),
                                 hashlib.sha256(data).hexdigest())
                self.assertEqual(self.request(ring, memory, 0, 128, b"", len(data)), data)
                self.assertNotEqual(self.request(ring, memory, 0, 8, b"", len(data)), data)
                select.select([ring.call_fd], [], [], 5.0)
                self.assertGreater(os.eventfd_read(ring.call_fd), 0)
            memory.close()
        self.assertEqual(self.faults(), "")

    def test_split(self):
        self.check(BLK_SPLIT, vu.SplitRing)

    def test_packed(self):
        self.check(BLK_PACKED, vu.PackedRing)


class Conformance(VfioTest):
    """test-vdpa's cases on the functions: in its own process, and through the daemon's socket."""

    PROGRAM = str(inside.BUILD / "app/test-vdpa/test-vdpa")

    def conform(self, *words):
        done = subprocess.run([self.PROGRAM, "conformance", "--timeout-scale=400", *words], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=400, check=False)
        lines = done.stdout.splitlines()
        print(f"{self.id()}: {inside.IOMMU}: {lines[-1] if lines else 'nothing'}", flush=True)
        failed = [line for line in lines if line.startswith("not ok")]
        self.assertEqual(failed, [])
        self.assertEqual(done.returncode, 0, done.stderr)
        passed = re.search(r"(\d+) passed", lines[-1])
        self.assertGreater(int(passed.group(1)), 30)

    def in_process(self, slot, *words):
        inside.bind(address(slot))
        self.conform("--dev", f"mgmtdev pci/{address(slot)}", *words)
        inside.bind(address(slot), UNBOUND)

    def by_socket(self, slot, *words):
        with self.serve(slot) as d:
            self.conform("--socket", d.socket("dev0"), *words)

    def test_block_in_process(self):
        self.in_process(BLK_SPLIT, "--overwrite")

    def test_block_by_socket(self):
        self.by_socket(BLK_PACKED, "--overwrite")

    def test_net_in_process(self):
        self.in_process(NET_TAP, "--loopback", "yes")

    def test_net_4_pairs_by_socket(self):
        # The host's kernel chooses the pair by which a frame comes back: let none come back.
        host("sink", f"{NET4_PACKED:x}", 1)
        try:
            self.by_socket(NET4_PACKED, "--loopback", "no")
        finally:
            host("sink", f"{NET4_PACKED:x}", 0)


class Iommu(VfioTest):
    LOG_INTERVAL = 5.5  # seconds; Linux logs ten faults, and no more in the next five seconds
    seen_at = float("-inf")

    def setUp(self):
        super().setUp()
        if inside.IOMMU == "intel":
            time.sleep(max(0.0, Iommu.seen_at + self.LOG_INTERVAL - time.monotonic()))

    def wait_fault(self, addr):
        text = until(self.faults, "the IOMMU to stop it")
        Iommu.seen_at = time.monotonic()
        print(f"{self.id()}: {text}", flush=True)
        self.assertRegex(text, f"0x{OUTSIDE >> 12:x}[0-9a-f]{{3}}")
        # Intel's names the function, virtio-iommu's its number on the bus.
        device = int(addr[8:10], 16)
        name = addr.removeprefix("0000:") if inside.IOMMU == "intel" else f"endpoint={device << 3} "
        self.assertIn(name, text)

    def test_a_read_outside_the_memory_is_stopped_and_seen(self):
        addr = address(NET_SPLIT)
        with self.serve(NET_SPLIT) as d:
            with vu.NetDriver(d.socket("dev0")) as net:
                net.start()
                net.exchange()
                ring = net.tx
                ring.set_desc(ring.free, OUTSIDE, 64)
                ring.submit(ring.free)
                ring.kick()
                self.wait_fault(addr)
                # QEMU's device reads zeros then, and sends them.
                until(lambda: host("zeros", f"{NET_SPLIT:x}") == "True", "zeros to come")
            until(lambda: d.show("dev0")["state"] in ("idle", "failed"), "the device to stop")
            # And it works again for the next front end.
            with vu.NetDriver(d.socket("dev0")) as net:
                net.start()
                net.exchange()
                net.stop()

    def test_a_write_outside_the_memory_is_stopped_and_seen(self):
        with self.serve(BLK_SPLIT) as d:
            with vu.Client(d.socket("dev0")) as client:
                memory = vu.Memory()
                ring = vu.SplitRing(memory, 0)
                client.negotiate(vu.F_VERSION_1)
                self.assertEqual(client.set_memory(memory), 0)
                self.assertEqual(ring.start(client), 0)
                head, status = memory.alloc(16), memory.alloc(16)
                memory.write(head, struct.pack("<IIQ", 0, 0, 0))
                submit_chain(ring, [(memory.GPA + head, 16, 0),
                                    (OUTSIDE, SECTOR, vu.DESC_WRITE),
                                    (memory.GPA + status, 1, vu.DESC_WRITE)])
                ring.kick()
                self.wait_fault(address(BLK_SPLIT))
            memory.close()


class Attack(VfioTest):
    """A front end keeps the file that came with a doorbell page. It reaches the whole function with it,
    as long as it likes, and nobody else's memory."""

    WORDS = "mode 0666"

    def add(self, d, words):
        d.add(f"name dev0 mgmtdev pci/{address(NET_PAGES)} {words} socket {d.socket('dev0')}")

    def front_end(self, uid, d):
        other = lab_attack.FrontEnd(uid, d.socket("dev0"))
        self.addCleanup(other.exit)
        return other

    def is_served(self, uid, d):
        with self.front_end(uid, d) as other:
            if other.connect() != "served":
                return False
            other.exchange()
            other.leave()
        until(lambda: d.show("dev0")["state"] == "idle", "the device to stop")
        return True

    def refused(self, d, uid, holder):
        """uid is, and the line says who is in the way and which word changes it."""
        start = len(d.err.lines)
        self.assertFalse(self.is_served(uid, d))
        line, _ = d.err.wait("refused", start)
        print(f"{self.id()}: {line.string}", flush=True)
        for fact in (f"uid {holder.uid} \\(pid {holder.pid}[ )]", f"uid {uid} ", "no_doorbells"):
            self.assertRegex(line.string, fact)

    @contextlib.contextmanager
    def attacker(self, d):
        """It has connected, taken both pages, and gone."""
        os.chmod(d.dir, 0o755)
        with self.front_end(ALICE, d) as attacker:
            attacker.uid = ALICE
            self.assertEqual(attacker.connect(), "served")
            self.assertEqual(attacker.keep_pages(), "2")
            attacker.exchange()
            attacker.leave()
            until(lambda: d.show("dev0")["state"] == "idle", "the device to stop")
            self.assertEqual(d.show("dev0")["page_holder"],
                             {"uid": ALICE, "pid": attacker.pid, "others": "false"})
            # The connection is over, and the file still is the function's.
            self.assertEqual(attacker.reach(), "True")
            yield attacker

    def test_a_holder_writes_to_the_memory_of_the_next_guest(self):
        """What others are kept from, shown with one who is not: another process of the same user."""
        with self.serve(NET_PAGES, self.WORDS) as d, self.attacker(d) as attacker:
            with self.front_end(ALICE, d) as victim:
                self.assertEqual(victim.connect(), "served")
                victim.exchange()
                page = victim.free_page()
                self.assertEqual(victim.page_is_untouched(), "True")
                attacker.write_to(page)
                until(lambda: victim.page_is_untouched() == "False", "the function to write there")
                victim.leave()

    def test_another_user_is_refused_until_the_page_is_closed(self):
        with self.serve(NET_PAGES, self.WORDS) as d:
            without = None
            with self.attacker(d) as attacker:
                self.refused(d, BOB, attacker)
                self.assertTrue(self.is_served(ALICE, d))
                # Nor does it help to delete the device, or to give no page from now on.
                for words in "", "no_doorbells":
                    d.delete("dev0")
                    without = Held(d.pid, address(NET_PAGES))
                    self.assertEqual(attacker.reach(), "True")
                    self.add(d, f"{self.WORDS} {words}")
                    os.chmod(d.dir, 0o755)
                    self.refused(d, BOB, attacker)
                    self.assertTrue(self.is_served(ALICE, d))
                d.delete("dev0")
            # The group is kept no longer than somebody else has it, whatever is done here.
            until(lambda: Held(d.pid, address(NET_PAGES)) != without, "the group to be closed")
            self.add(d, self.WORDS)
            self.assertNotIn("page_holder", d.show("dev0"))
            self.assertTrue(self.is_served(BOB, d))
        self.assertEqual(self.faults(), "")

    def test_a_device_that_is_added_at_once_finds_the_page_closed(self):
        with self.serve(NET_PAGES, self.WORDS) as d:
            with self.attacker(d):
                d.delete("dev0")
            self.add(d, self.WORDS)
            self.assertTrue(self.is_served(BOB, d))

    def test_a_page_that_nobody_keeps_needs_no_more_than_a_new_device(self):
        with self.serve(NET_PAGES, self.WORDS) as d:
            os.chmod(d.dir, 0o755)
            self.assertTrue(self.is_served(ALICE, d))
            self.assertFalse(self.is_served(BOB, d))
            d.delete("dev0")
            self.add(d, self.WORDS)
            self.assertTrue(self.is_served(BOB, d))

    def test_no_doorbells_serves_whoever_comes(self):
        with self.serve(NET_PAGES, f"{self.WORDS} no_doorbells") as d:
            os.chmod(d.dir, 0o755)
            for uid in ALICE, BOB:
                with self.front_end(uid, d) as other:
                    self.assertEqual(other.connect(), "served")
                    self.assertEqual(other.keep_pages(), "0")
                    other.exchange()
                    other.leave()
                until(lambda: d.show("dev0")["state"] == "idle", "the device to stop")

    def test_once_serves_the_first_process_alone(self):
        with self.serve(NET_PAGES, f"{self.WORDS} doorbells once") as d:
            with self.attacker(d) as first:
                self.refused(d, ALICE, first)
                self.assertEqual(first.connect(), "served")
                first.exchange()
                first.leave()
                until(lambda: d.show("dev0")["state"] == "idle", "the device to stop")
            d.delete("dev0")
            self.add(d, f"{self.WORDS} doorbells once")
            self.assertTrue(self.is_served(ALICE, d))


class BadInput(VfioTest):
    """One line that names the function, the fact and what mends it; nothing is left open."""

    @classmethod
    def setUpClass(cls):
        cls.daemon = harness.Daemon(["name sim mgmtdev sim_net socket {dir}/sim.sock"]).start()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()
        cls.daemon.cleanup()

    def refused(self, addr, *facts):
        """vdpa-app refuses the function, with one line in which each of facts (patterns) is."""
        words = f"name bad mgmtdev pci/{addr}"
        before = Held(self.daemon.pid, addr)
        self.daemon.refusal("dev.add", words=words)
        self.settles_at(before, self.daemon.pid, addr, "a device is refused")
        done = subprocess.run([harness.APP, "--file-prefix=bad", "--", "--dev", words],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                              check=False)
        self.assertNotEqual(done.returncode, 0)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        print(f"{self.id()}: {lines}", flush=True)
        self.assertEqual(len(lines), 1, done.stderr)
        for fact in (re.escape(addr), *facts):
            self.assertRegex(lines[0], fact)

    def test_no_such_function(self):
        self.refused("0000:00:1e.7", "no such")

    def test_bound_to_another_driver(self):
        addr = address(NET_SPLIT)
        inside.bind(addr, "virtio-pci")
        self.refused(addr, "virtio-pci", "vfio-pci")
        self.assertEqual(inside.word("driver_of", addr), "virtio-pci")
        inside.bind(addr, UNBOUND)

    def test_bound_to_none(self):
        addr = address(NET_SPLIT)
        inside.bind(addr, UNBOUND)
        self.refused(addr, "driver", "vfio-pci")

    def test_group_that_is_not_viable(self):
        if inside.IOMMU == "virtio":
            raise unittest.SkipTest("virtio-iommu gives each function a group")
        ours, other = GROUP
        self.assertEqual(inside.word("group_of", ours), inside.word("group_of", other))
        inside.bind(ours)
        inside.bind(other, "virtio-pci")
        self.refused(ours, re.escape(other), "virtio-pci")
        inside.bind(other, UNBOUND)
        inside.bind(ours, UNBOUND)

    def test_legacy_only(self):
        inside.bind(LEGACY)
        self.refused(LEGACY, "(?i)legacy|modern")
        inside.bind(LEGACY, UNBOUND)

    def test_open_in_another_process(self):
        addr = address(NET_SPLIT)
        inside.bind(addr)
        with harness.Daemon([f"name dev0 mgmtdev pci/{addr}"]):
            self.refused(addr, "(?i)in use|busy|another process|open")
        inside.bind(addr, UNBOUND)

    def test_without_interrupt_remapping(self):
        if inside.IOMMU != "virtio":
            raise unittest.SkipTest("this IOMMU remaps interrupts")
        addr = address(NET_SPLIT)
        path = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
        inside.bind(addr)
        with open(path, "w", encoding="ascii") as f:
            f.write("0")
        try:
            self.refused(addr, "(?i)interrupt", "allow_unsafe_interrupts")
        finally:
            with open(path, "w", encoding="ascii") as f:
                f.write("1")
        inside.bind(addr, UNBOUND)

    def test_without_the_vfio_pci_module(self):
        addr = address(NET_SPLIT)
        inside.bind(addr, UNBOUND)
        inside.word("unload", "vfio_pci")
        try:
            self.refused(addr, "modprobe vfio-pci")
        finally:
            inside.word("load", "vfio_pci")

    def test_without_an_iommu(self):
        if inside.IOMMU != "none":
            raise unittest.SkipTest("there is one here")
        self.refused(address(NET_SPLIT), "(?i)iommu")


if __name__ == "__main__":
    unittest.main(verbosity=2)
