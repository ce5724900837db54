#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""vdpa-model as a function like ifcvf: ring state, stopped queues, and the log against what was written."""

import random
import struct
import unittest

from vfio_user_client import *
from vhost_user_client import DESC_NEXT, DESC_WRITE

RUNNING = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
LM, CONTROL, LM_STATUS, LOG_START, LOG_END, RING_STATE = 4, 0x00, 0x08, 0x10, 0x18, 0x20
LOG_IOVA = 0x100000000000
PAGE = 4096
F_RING_PACKED = 1 << 34


class IfcvfDriver(NetDriver):
    """A driver of the live-migration block; pairs: its layout of the ring state."""

    def __init__(self, path, pairs=True, **kw):
        super().__init__(path, features=F_ACCESS_PLATFORM, **kw)
        self.pairs = pairs
        self.log = Memory(PAGE * 4)
        self.base = self.memory.next

    def state_at(self, queue):
        return RING_STATE + (queue // 2 * 0x40 + queue % 2 * 4 if self.pairs else queue * 4)

    def place(self, queue, index):
        value = struct.pack('<I', index | index << 16) if self.pairs else struct.pack('<H', index)
        self.client.write(LM, self.state_at(queue), value)

    def where(self, queue):
        """Where a queue stands: in the wide layout both halves say the same."""
        if not self.pairs:
            return struct.unpack('<H', self.client.read(LM, self.state_at(queue), 2))[0]
        low, high = struct.unpack('<HH', self.client.read(LM, self.state_at(queue), 4))
        assert low == high, (low, high)
        return low

    def start(self, index=0, log=False, fill=None):
        """With rings that have come to this place, from which the queues start. fill: before they do."""
        f = self.function
        f.set_command(6)
        assert f.negotiate(self.features), 'features refused'
        self.put_rings(index)
        self.config_fd = self.client.eventfd()
        self.rx.call_fd, self.tx.call_fd = self.client.eventfd(), self.client.eventfd()
        self.client.set_vectors(0, [self.config_fd, self.rx.call_fd, self.tx.call_fd])
        for ring in self.rx, self.tx:
            assert f.setup_queue(ring, ring.index + 1) == (ring.index + 1, 1)
        if self.area is None:
            self.area = f.map_doorbells()
        self.doorbells = [Doorbell(f, ring.index, self.area) for ring in (self.rx, self.tx)]
        if fill is not None:
            fill()
        if log:
            self.log_on()
        f.set(STATUS, RUNNING)
        return self

    def put_rings(self, index):
        """Fresh rings of which both indexes have come to this place."""
        self.memory.next = self.base
        for name in 'rx', 'tx':
            old = getattr(self, name)
            ring = SplitRing(self.memory, old.index)
            self.memory.write(ring.driver, bytes(4))
            self.memory.write(ring.device, bytes(4))
            self.memory.set_u16(ring.driver + 2, index)
            self.memory.set_u16(ring.device + 2, index)
            ring.avail = ring.seen = index
            setattr(self, name, ring)
            self.place(ring.index, index)

    def enable(self, queue, on):
        self.function.set(QUEUE_SELECT, queue)
        self.function.set(QUEUE_ENABLE, on)
        return self.function.get(QUEUE_ENABLE)

    def map_log(self, **kw):
        self.client.dma_map(LOG_IOVA, self.log.size, self.log.fd, **kw)

    def log_on(self, size=None):
        end = LOG_IOVA + (self.log.size if size is None else size)
        for at, value in (LOG_START, LOG_IOVA), (LOG_END, end):
            self.client.write(LM, at, struct.pack('<I', value & 0xFFFFFFFF))
            self.client.write(LM, at + 4, struct.pack('<I', value >> 32))
        self.client.write(LM, CONTROL, struct.pack('<I', 1))

    def log_off(self):
        self.client.write(LM, CONTROL, b'\0')

    def log_status(self):
        return struct.unpack('<I', self.client.read(LM, LM_STATUS, 4))[0]

    def logged(self):
        """Pages that are marked, which is taken back."""
        bits = self.log.read(0, self.log.size)
        self.log.write(0, bytes(self.log.size))
        return {8 * i + b for i, byte in enumerate(bits) if byte for b in range(8) if byte >> b & 1}

    def close(self):
        super().close()
        self.log.close()


def pages(address, length):
    return set(range(address // PAGE, (address + length - 1) // PAGE + 1)) if length else set()


class Ifcvf(ModelTest):
    DEVICES = ('name m0 mgmtdev sim_net max_vqp 2', 'name healthy mgmtdev sim_net',
               'name net mgmtdev sim_net max_vqp 2 function ifcvf',
               'name old mgmtdev sim_net max_vqp 2 function ifcvf pci_id 1af4:1000 pci_sub 8086:0001',
               'name odd mgmtdev sim_net function ifcvf ring_state queue pci_id abcd:0123 pci_sub 4567:89ef',
               'name blk mgmtdev sim_blk backend ram 1M function ifcvf', 'name renamed mgmtdev sim_net pci_id 1234:5678')

    def driver(self, device='net', **kw):
        driver = IfcvfDriver(self.model.socket(device), pairs=device == 'net', **kw)
        self.closers.append(driver)
        return driver

    def test_ids_are_those_of_the_kind_or_as_asked_for(self):
        for device, ids in (('net', (0x1AF4, 0x1041, 0x8086, 0x1A)), ('old', (0x1AF4, 0x1000, 0x8086, 1)),
                            ('odd', (0xABCD, 0x123, 0x4567, 0x89EF)), ('blk', (0x1AF4, 0x1001, 0x8086, 2)),
                            ('renamed', (0x1234, 0x5678, 0x1AF4, 0x1100)), ('m0', (0x1AF4, 0x1041, 0x1AF4, 0x1100))):
            with self.subTest(device=device), Client(self.model.socket(device)) as client:
                config = client.read(CONFIG_REGION, 0, 0x30)
                self.assertEqual(struct.unpack_from('<HH', config) + struct.unpack_from('<HH', config, 0x2C), ids)

    def test_structures_lie_in_another_bar_than_the_block(self):
        driver = self.driver()
        self.assertEqual({bar for kind, (bar, _, _) in driver.function.caps.items() if kind != 5}, {0})
        self.assertEqual(driver.client.region_info(LM)[1], PAGE)
        self.assertEqual(driver.client.region_info(LM)[3], [])
        self.assertIsNotNone(driver.function.map_doorbells())

    def test_platform_access_is_needed_and_packed_rings_are_not_offered(self):
        f = self.driver().function
        self.assertFalse(f.device_features() & (F_RING_PACKED | F_RING_RESET))
        self.assertFalse(f.negotiate(F_VERSION_1))
        self.assertTrue(f.negotiate(F_VERSION_1 | F_ACCESS_PLATFORM))

    def test_small_queue_is_not_enabled(self):
        driver = self.driver()
        f = driver.function
        self.assertTrue(f.negotiate(F_VERSION_1 | F_ACCESS_PLATFORM))
        for num, enabled in (32, 0), (64, 1):
            ring = SplitRing(driver.memory, 0, num)
            self.assertEqual(f.setup_queue(ring), (NO_VECTOR, enabled))

    def test_queue_starts_at_any_place_and_says_where_it_stopped(self):
        for device in 'net', 'old':
            for index in 0, 1, 77, 0x7FFF, 65530, 65535:
                with self.subTest(device=device, index=index), \
                        IfcvfDriver(self.model.socket(device), pairs=device == 'net') as driver:
                    driver.start(index)
                    for _ in range(10):
                        driver.exchange()
                    # While it runs too, as nothing is in flight.
                    self.assertEqual([driver.where(q) for q in range(2)], [(index + 10) & 0xFFFF] * 2)
                    self.assertEqual([driver.enable(q, 0) for q in range(2)], [0, 0])
                    self.assertEqual([driver.where(q) for q in range(2)], [(index + 10) & 0xFFFF] * 2)
                    self.assertGreater(driver.interrupted(driver.rx.call_fd), 0)

    def test_stopped_queue_stands_still_and_goes_on_where_it_was(self):
        driver = self.driver().start()
        driver.exchange()
        for _ in range(20):
            self.assertEqual(driver.enable(1, 0), 0)
            before = driver.memory.u16(driver.tx.device + 2)
            self.assertEqual(driver.where(1), before)
            with self.assertRaises(AssertionError):
                driver.exchange(timeout=0.02)
            self.assertEqual(driver.memory.u16(driver.tx.device + 2), before)
            self.assertEqual(driver.where(1), before)
            self.assertEqual(driver.enable(1, 1), 1)
            self.assertTrue(wait_until(lambda: driver.rx.poll() is not None))
            self.assertTrue(wait_until(lambda: driver.tx.poll() is not None))
        driver.exchange()

    def test_stop_within_traffic_says_where(self):
        driver = self.driver()
        for _ in range(50):
            index = random.randrange(1 << 16)
            driver.start(index)
            n = random.randrange(1, 60)
            for i in range(n):
                driver.rx.add(driver.rx_buf, PAGE, True)
                driver.tx.add(driver.tx_buf, 80, False)
            driver.doorbells[1].ring()
            driver.enable(1, 0)
            stopped = driver.where(1)
            self.assertEqual(stopped, driver.memory.u16(driver.tx.device + 2))
            self.assertLessEqual((stopped - index) & 0xFFFF, n)
            # Set up anew from there, the rest comes.
            driver.place(1, stopped)
            driver.enable(1, 1)
            self.assertTrue(wait_until(
                lambda: driver.memory.u16(driver.tx.device + 2) == (index + n) & 0xFFFF))

    def test_place_of_a_running_queue_is_not_written(self):
        driver = self.driver().start()
        driver.exchange()
        driver.place(0, 500)
        self.assertEqual(driver.where(0), 1)
        driver.exchange()

    def test_reset_begins_anew(self):
        driver = self.driver()
        driver.place(0, 40)
        self.assertEqual(driver.where(0), 40)
        driver.function.set(STATUS, 0)
        self.assertEqual(driver.where(0), 0)

    def test_log_has_what_was_written_to_buffers_and_nothing_else(self):
        rng = random.Random(9)
        driver = self.driver()
        driver.map_log()
        area = range(0x40000, driver.memory.size - 3 * PAGE)
        for run in range(100):
            with self.subTest(run=run):
                self.one_logged_run(driver, rng, area)

    def one_logged_run(self, driver, rng, area):
        n, start, early = rng.randrange(1, 20), rng.randrange(1 << 16), rng.random() < 0.5
        chains = []

        def fill():
            for i in range(n):
                # Of one to three parts; the last one has room for the largest frame.
                parts = [(rng.choice(area), rng.randrange(12, 600)) for _ in range(rng.randrange(3))]
                parts.append((rng.choice(area), 2 * PAGE))
                for j, (at, length) in enumerate(parts):
                    flags, after = (0, 0) if j == len(parts) - 1 else (DESC_NEXT, 3 * i + j + 1)
                    driver.rx.set_desc(3 * i + j, driver.memory.GPA + at, length, DESC_WRITE | flags, after)
                chains.append(parts)
                driver.rx.submit(3 * i)
                driver.tx.add(driver.tx_buf, NET_HDR + rng.randrange(60, 1500), False)

        if early:
            driver.start(start, log=True, fill=fill)
        else:
            driver.start(start)
            driver.log_on()
            fill()
        self.assertEqual(driver.log_status(), 0)
        for doorbell in driver.doorbells:
            doorbell.ring()
        end = (start + n) & 0xFFFF
        self.assertTrue(wait_until(lambda: driver.memory.u16(driver.rx.device + 2) == end))
        for queue in range(2):
            self.assertEqual(driver.enable(queue, 0), 0)
        written = set()
        for parts in chains:
            left = driver.rx.poll()
            for at, length in parts:
                written |= pages(driver.memory.GPA + at, min(left, length))
                left -= min(left, length)
        self.assertEqual(driver.logged(), written)
        driver.log_off()

    def test_nothing_is_logged_before_it_is_on_and_after_it_is_off(self):
        driver = self.driver()
        driver.map_log()
        driver.start()
        driver.exchange()
        self.assertEqual(driver.logged(), set())
        driver.log_on()
        driver.exchange()
        self.assertEqual(driver.logged(), pages(driver.memory.GPA + driver.rx_buf, 1))
        driver.log_off()
        driver.exchange()
        self.assertEqual(driver.logged(), set())

    def test_pages_past_the_end_are_not_logged(self):
        driver = self.driver()
        driver.map_log()
        driver.start()
        at = driver.rx_buf
        last = (driver.memory.GPA + at) // PAGE
        before = self.model.model_stats('net')['log']['pages_past_end']
        driver.log_on(size=last // 8)
        driver.exchange()
        self.assertEqual(driver.logged(), set())
        self.assertEqual(self.model.model_stats('net')['log']['pages_past_end'], before + 1)
        driver.log_on(size=last // 8 + 1)
        driver.exchange()
        self.assertEqual(driver.logged(), {last})

    def test_log_without_memory_is_pending_until_there_is_some(self):
        driver = self.driver()
        driver.start()
        driver.log_on()
        self.assertEqual(driver.log_status(), 1)
        self.model.err.wait('net: vfio-user: dirty log: 0x100000000000', self.lines)
        driver.exchange()
        driver.map_log()
        self.assertEqual(driver.log_status(), 0)
        driver.exchange()
        self.assertEqual(len(driver.logged()), 1)
        # Taken away, it is not written any more.
        driver.client.dma_unmap(LOG_IOVA, driver.log.size)
        self.assertEqual(driver.log_status(), 1)
        driver.exchange()
        self.assertEqual(driver.logged(), set())
        driver.log_off()
        self.assertEqual(driver.log_status(), 0)
        # The device must not write there.
        driver.map_log(flags=READ)
        driver.log_on()
        self.assertEqual(driver.log_status(), 1)
        driver.exchange()
        self.assertEqual(driver.logged(), set())

    def test_reset_ends_the_log(self):
        driver = self.driver()
        driver.map_log()
        driver.start(log=True)
        driver.exchange()
        self.assertEqual(len(driver.logged()), 1)
        driver.start()
        driver.exchange()
        self.assertEqual(driver.logged(), set())

    def test_log_is_the_next_clients_no_more(self):
        driver = self.driver()
        driver.map_log()
        driver.start(log=True)
        driver.exchange()
        driver.logged()
        driver.client.close()
        with wait_until(lambda: self.connect()) as other:
            other.start()
            other.exchange()
            self.assertEqual(driver.logged(), set())

    def connect(self):
        try:
            return IfcvfDriver(self.model.socket('net'))
        except Closed:
            return None

    def test_odd_bounds_of_the_log_are_pending(self):
        driver = self.driver()
        driver.map_log()
        driver.start()
        for start, end in (0, 0), (LOG_IOVA, LOG_IOVA), (LOG_IOVA + 1, LOG_IOVA), (0, (1 << 64) - 1), \
                ((1 << 64) - 1, 0), (LOG_IOVA, LOG_IOVA + driver.log.size + 1):
            driver.client.write(LM, LOG_START, struct.pack('<QQ', start, end))
            driver.client.write(LM, CONTROL, struct.pack('<I', 1))
            self.assertEqual(driver.log_status(), 1, (start, end))
            driver.exchange()
        self.assertEqual(driver.logged(), set())


if __name__ == '__main__':
    unittest.main()
