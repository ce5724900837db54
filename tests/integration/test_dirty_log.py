#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""The dirty log against what the device wrote, by the log of hardware and of software: no page is missed.

The hardware is functions like ifcvf of vdpa-model. Each run is a migration as a front end does it:
traffic into random buffers, the log started, taken and replaced while frames and reads move, memory
added, the queues stopped at a random moment, and perhaps started again. A second memory gets all pages
once and then those of the log alone, and must be the same, byte by byte, when the queues have stopped.
"""

import contextlib
import os
import random
import struct
import tempfile
import time
import unittest

import harness
import vhost_user_client as vu
from vhost_user_client import DESC_INDIRECT, DESC_NEXT, DESC_WRITE

MODEL = os.environ.get('UVDPA_MODEL', 'vdpa-model')
PAGE = 4096
MIB = 1 << 20
F_LOG = 1  # of a ring's address
P_LOG_SHMFD = 1 << 1
PROTOCOL = vu.P_REPLY_ACK | vu.P_MQ | vu.P_CONFIG | vu.P_RESET | P_LOG_SHMFD
RUNS = harness.count(40, 1000)
SHADOW_RUNS = harness.count(12, 100)
SEED = int(os.environ.get('UVDPA_TEST_SEED', '0')) or random.SystemRandom().randrange(1, 1 << 32)
IMAGE = 8 * MIB


class Memory(vu.Memory):
    """What the driver writes from 0, what the device writes in buffers, and a second region of such,
    which comes later; its addresses are far behind."""

    DRIVER, LOW, HIGH = 1 * MIB, 2 * MIB, 1 * MIB
    HIGH_GPA, HIGH_UVA = 1 << 30, 0x7F8000000000

    def __init__(self, rng):
        super().__init__(self.DRIVER + self.LOW + self.HIGH)
        self.write(self.DRIVER, rng.randbytes(self.LOW + self.HIGH))
        low = self.DRIVER + self.LOW
        self.high = (self.HIGH_GPA, self.HIGH, self.HIGH_UVA, low)
        self.regions = [(self.GPA, low, self.UVA, 0)]
        self.rings = set()  # pages of used rings, by offset

    def offset(self, page):
        """Of a page of guest addresses, None where there is no memory."""
        for gpa, size, _, at in self.regions:
            if 0 <= page * PAGE - gpa < size:
                return page * PAGE - gpa + at
        return None

    def address(self, offset):
        for gpa, size, _, at in self.regions:
            if 0 <= offset - at < size:
                return offset - at + gpa
        raise AssertionError(f'{offset:#x} is in no region')

    def buffer(self, rng, length):
        """Anywhere in what the device writes to."""
        _, size, _, at = rng.choice(self.regions)
        first = max(at, self.DRIVER)
        return rng.randrange(first, at + size - length)

    def pages(self, offset, length):
        first = self.address(offset)
        return range(first // PAGE, (first + length - 1) // PAGE + 1) if length else ()


class Log(vu.Log):
    def __init__(self):
        super().__init__((Memory.HIGH_GPA + Memory.HIGH) // PAGE // 8)


class Queue(vu.SplitRing):
    """Chains of several buffers, one for each slot of descriptors, direct or not."""

    PARTS = 6

    def __init__(self, memory, index, num, place):
        super().__init__(memory, index, num)
        slots = num // self.PARTS
        self.tables = memory.alloc(16 * num)
        self.buffers = [memory.alloc(2048, 16) for _ in range(slots)]
        memory.next = (memory.next + PAGE - 1) // PAGE * PAGE
        self.slots = list(range(slots))
        self.writable = {}
        self.avail = self.seen = place
        memory.set_u16(self.driver + 2, place)
        memory.set_u16(self.device + 2, place)
        memory.rings |= set(memory.pages(self.device, 6 + 8 * num))

    def add_chain(self, parts, indirect):
        """parts: offset, length, flags. The device takes it with the next kick, or before."""
        slot = self.slots.pop()
        at = self.tables + 16 * self.PARTS * slot if indirect else self.desc + 16 * self.PARTS * slot
        first = 0 if indirect else self.PARTS * slot
        for i, (offset, length, flags) in enumerate(parts):
            more = DESC_NEXT if i < len(parts) - 1 else 0
            self.memory.write(at + 16 * i, struct.pack('<QIHH', self.memory.address(offset), length,
                                                       flags | more, first + i + 1))
        if indirect:
            self.set_desc(self.PARTS * slot, self.memory.address(at), 16 * len(parts), DESC_INDIRECT)
        self.writable[slot] = [(offset, length) for offset, length, flags in parts if flags]
        self.submit(self.PARTS * slot)

    def reap(self):
        """Chains that the device has returned; the pages that it wrote of them."""
        written = set()
        while self.memory.u16(self.device + 2) != self.seen:
            at = self.device + 4 + 8 * (self.seen % self.num)
            head, left = struct.unpack('<II', self.memory.read(at, 8))
            self.seen = (self.seen + 1) & 0xFFFF
            for offset, length in self.writable.pop(head // self.PARTS):
                written |= set(self.memory.pages(offset, min(left, length)))
                left -= min(left, length)
            self.slots.append(head // self.PARTS)
        return written


class Migration:
    """A front end with a device, and the memory that its guest would have at the other end."""

    FEATURES = vu.F_VERSION_1 | vu.F_INDIRECT

    def __init__(self, path, rng, features=0):
        self.rng, self.client, self.memory = rng, vu.Client(path), Memory(rng)
        self.log, self.old_logs = None, []
        self.features = self.FEATURES | features
        self.copy = bytearray(self.memory.size)
        self.written, self.marked = set(), set()
        self.taken = self.cut = 0
        self.queues = []
        self.client.negotiate(self.features, PROTOCOL)
        assert self.client.set_memory(self.memory) == 0

    def close(self):
        self.client.close()
        for log in self.old_logs + [self.log] * (self.log is not None):
            log.close()
        self.memory.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def add_queues(self, n):
        for i in range(n):
            self.queues.append(Queue(self.memory, i, self.rng.choice((64, 128, 256)),
                                     self.rng.choice((0, self.rng.randrange(1 << 16), 65530))))

    def start(self):
        for q in self.queues:
            assert self.addresses(q, self.client.state(vu.SET_VRING_NUM, q.index, q.num)) == 0
            q.kick_fd, q.call_fd = self.client.eventfd(), self.client.eventfd()
            assert self.client.state(vu.SET_VRING_BASE, q.index, q.seen) == 0
            assert self.client.u64(vu.SET_VRING_CALL, q.index, [q.call_fd]) == 0
            assert self.client.u64(vu.SET_VRING_KICK, q.index, [q.kick_fd]) == 0
            assert self.client.state(vu.SET_VRING_ENABLE, q.index, 1) == 0

    def addresses(self, q, error=0):
        on = self.log is not None
        payload = q.addr_payload(flags=F_LOG if on else 0,
                                 log=self.memory.address(q.device) if on else 0)
        return error | self.client.ack(vu.SET_VRING_ADDR, payload)

    # The log.

    def give_log(self):
        log = Log()
        log.give(self.client)
        if self.log is not None:
            self.old_logs.append(self.log)
        self.log = log

    def log_on(self):
        if self.log is not None:
            return
        self.reap()
        self.written = set()
        self.give_log()
        assert self.client.u64(vu.SET_FEATURES, self.features | vu.F_PROTOCOL | vu.F_LOG_ALL) == 0
        for q in self.queues:
            assert self.addresses(q) == 0
        # All pages once.
        self.marked = set()
        self.copy[:] = self.memory.map[:]

    def log_off(self):
        if self.log is None:
            return
        assert self.client.u64(vu.SET_FEATURES, self.features | vu.F_PROTOCOL) == 0
        for log in [*self.old_logs, self.log]:
            log.close()
        self.log, self.old_logs = None, []
        for q in self.queues:
            assert self.addresses(q) == 0

    def take(self):
        """A round: what the log has comes over."""
        if self.log is None:
            return
        marked = self.log.take()
        # One that was replaced is complete.
        for log in self.old_logs:
            marked |= log.take()
            log.close()
        self.old_logs = []
        for page in marked:
            at = self.memory.offset(page)
            assert at is not None, f'page {page:#x} is marked, and is no memory'
            self.copy[at:at + PAGE] = self.memory.map[at:at + PAGE]
        self.marked |= marked
        self.taken += 1

    def replace(self):
        if self.log is not None:
            self.give_log()

    def grow(self):
        """Memory behind all that there was, which the function's own bitmap does not reach."""
        if len(self.memory.regions) == 1:
            self.memory.regions.append(self.memory.high)
            assert self.client.set_memory(self.memory) == 0

    # Traffic.

    def reap(self):
        for q in self.queues:
            self.written |= q.reap()

    def traffic(self):
        self.reap()
        self.feed()
        for q in self.queues:
            q.kick()

    def pause(self):
        time.sleep(self.rng.random() * 0.002)

    def stop(self):
        """At any moment, in any order; then nothing is written any more."""
        for q in self.rng.sample(self.queues, len(self.queues)):
            answer = self.client.ask(vu.GET_VRING_BASE, struct.pack('<II', q.index, 0))
            q.base_at_stop = struct.unpack('<II', answer)[1]
        for q in self.queues:
            assert q.base_at_stop == self.memory.u16(q.device + 2), f'queue {q.index}'
        self.reap()
        self.cut += any(q.avail != q.base_at_stop for q in self.queues if q.index % 2 or not self.is_net)

    def check(self):
        """The other memory is the same, and no more was marked than the device wrote."""
        self.take()
        time.sleep(0.001)
        now = self.memory.map[:]
        for at in range(0, len(now), PAGE):
            page = self.memory.address(at) // PAGE if self.has(at) else None
            # The driver's own are marked by whoever runs it.
            if page is None or at < self.memory.DRIVER and page not in self.memory.rings:
                continue
            assert now[at:at + PAGE] == self.copy[at:at + PAGE], \
                f'page {page:#x} is missed; used ring: {page in self.memory.rings}'
        more = self.marked - self.written - self.memory.rings
        assert not more or not self.exact, f'marked and not written: {sorted(map(hex, more))[:8]}'

    def has(self, offset):
        return any(at <= offset < at + size for _, size, _, at in self.memory.regions)

    ACTIONS = ('traffic', 'traffic', 'traffic', 'pause', 'pause', 'take', 'take', 'log_on', 'replace')
    SELDOM = ('grow', 'log_off')

    def run(self):
        rng = self.rng
        for _ in range(rng.choice((1, 1, 2))):
            self.start()
            for _ in range(rng.randrange(4, 16)):
                getattr(self, rng.choice(self.SELDOM if rng.random() < 0.1 else self.ACTIONS))()
            self.log_on()
            self.traffic()
            if rng.random() < 0.5:
                self.pause()
            if rng.random() < 0.3:
                self.replace()
            self.stop()
            self.check()


class Net(Migration):
    is_net = True
    HEAD = bytes.fromhex('525400000001525400000002') + b'\x88\xb5'

    def __init__(self, path, rng):
        self.mergeable, self.pairs = rng.random() < 0.5, rng.choice((1, 2))
        super().__init__(path, rng, (vu.F_MRG_RXBUF if self.mergeable else 0) |
                         (vu.F_MQ if self.pairs > 1 else 0))
        self.add_queues(2 * self.pairs)

    def feed(self):
        rng = self.rng
        for rx, tx in zip(self.queues[0::2], self.queues[1::2]):
            while rx.slots:
                lengths = [rng.randrange(64, 700) for _ in range(rng.randrange(3))]
                lengths.append(rng.randrange(64, 2048) if self.mergeable else 2048)
                rx.add_chain([(self.memory.buffer(rng, n), n, DESC_WRITE) for n in lengths],
                             rng.random() < 0.3)
            for _ in range(rng.randrange(len(tx.slots) + 1)):
                frame = bytes(vu.NET_HDR) + self.HEAD + rng.randbytes(rng.randrange(46, 1500))
                at = tx.buffers[tx.slots[-1]]
                self.memory.write(at, frame)
                first = rng.randrange(vu.NET_HDR, len(frame))
                tx.add_chain([(at, first, 0), (at + first, len(frame) - first, 0)],
                             rng.random() < 0.3)


class Block(Migration):
    is_net = False
    READ, WRITE, SECTOR = 0, 1, 512

    def __init__(self, path, rng):
        super().__init__(path, rng)
        self.add_queues(rng.choice((1, 2)))

    def feed(self):
        rng = self.rng
        for q in self.queues:
            for _ in range(rng.randrange(len(q.slots) + 1)):
                size = self.SECTOR * rng.randrange(1, 65)
                cuts = sorted({0, size, *(rng.randrange(1, size) for _ in range(rng.randrange(3)))})
                kind = self.WRITE if rng.random() < 0.2 else self.READ
                flags = DESC_WRITE if kind == self.READ else 0
                head = q.buffers[q.slots[-1]]
                self.memory.write(head, struct.pack('<IIQ', kind, 0,
                                                    rng.randrange((IMAGE - size) // self.SECTOR)))
                q.add_chain([(head, 16, 0), *((self.memory.buffer(rng, b - a), b - a, flags)
                                              for a, b in zip(cuts, cuts[1:])),
                             (self.memory.buffer(rng, 1), 1, DESC_WRITE)], rng.random() < 0.3)


class DirtyLog(unittest.TestCase):
    def check(self, by, words, model=None, more='', exact=True, runs=RUNS):
        """words: NAME, kind of front end and words of each device; model: of a function that has it;
        more: words of what drives it; by: what keeps the log; exact: what was not written is not
        marked."""
        pages = rounds = cut = 0
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix='uvdpa-test.'))
            with open(f'{folder}/disk', 'wb') as disk:
                disk.write(random.Random(SEED).randbytes(IMAGE))
            devices = [(name, device.format(folder)) for name, _, device in words]
            if model:
                stack.enter_context(harness.Daemon(
                    [f'name {name} mgmtdev {device} {model} vfio_user {folder}/{name}.vfu'
                     for name, device in devices], app=MODEL))
                # Time is not the subject here, and a busy machine may have none.
                devices = [(name, f'vfio-user/{folder}/{name}.vfu timeout_ms 10000') for name, _ in devices]
            app = stack.enter_context(harness.Daemon(
                [f'name {name} mgmtdev {device} {more} socket {{dir}}/{name}.sock'
                 for name, device in devices]))
            for run in range(runs):
                name, kind, _ = words[run % len(words)]
                with self.subTest(device=name, seed=SEED, run=run), \
                        kind(app.socket(name), random.Random(f'{SEED} {run}')) as migration:
                    migration.exact = exact
                    migration.run()
                    pages += len(migration.marked)
                    rounds += migration.taken
                    cut += migration.cut
            self.assertGreater(pages, 10 * runs)
            self.assertNotRegex(app.err.text(), 'fail|refused|error')
        print(f'{self.id()}: seed {SEED}: {runs} runs, {rounds} rounds, {pages} pages marked and '
              f'copied, 0 missed; {cut} stops within traffic', flush=True)
        harness.figure(f'{runs:,} migrations by {by}, {pages:,} pages, '
                       '0 missed')

    SOFTWARE = (('net', Net, 'sim_net max_vqp 2'),
                ('file', Block, 'sim_blk backend file {}/disk queues 2'),
                ('ram', Block, 'sim_blk backend ram 8M queues 2'))
    # Both layouts of the ring state.
    HARDWARE = (('wide', Net, 'sim_net max_vqp 2'),
                ('narrow', Net, 'sim_net max_vqp 2 pci_id 1af4:1000 pci_sub 8086:0001'), *SOFTWARE[1:])

    def test_hardware(self):
        self.check('the log of hardware', self.HARDWARE, 'function ifcvf')

    def test_software(self):
        self.check('the log of software', self.SOFTWARE)

    def test_dma_that_is_logged(self):
        # Memory that comes within a migration has all of it marked.
        self.check('a log of DMA', self.SOFTWARE, 'function virtio dma_logging on', exact=False)

    def test_relay_of_hardware(self):
        self.check('a relay of hardware', self.HARDWARE, 'function ifcvf', 'migration relay')

    def test_relay_of_software(self):
        self.check('a relay of software', self.SOFTWARE, more='migration relay')

    def test_relay_for_as_long_as_the_log(self):
        self.check('a relay that comes and goes', self.SOFTWARE, more='no_log')

    def test_shadows_of_software(self):
        self.check('shadows of software', self.SOFTWARE, more='migration shadow',
                   runs=SHADOW_RUNS)

    def test_shadows_of_hardware(self):
        self.check('shadows of hardware', self.SOFTWARE, 'function virtio', 'migration shadow',
                   runs=SHADOW_RUNS)

    def test_shadows_for_as_long_as_the_log(self):
        # While not every queue has changed all memory is marked.
        self.check('shadows that come and go', self.SOFTWARE, 'function virtio', exact=False,
                   runs=SHADOW_RUNS)


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main()
