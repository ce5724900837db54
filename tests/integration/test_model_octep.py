#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""vdpa-model as a function like octep: selectors, mailbox, flags and vectors on queues that run, and its faults."""

import random
import struct
import time
import unittest

from vfio_user_client import *

RUNNING = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
F_RING_PACKED = 1 << 34
DELAY_S = 0.2


def packed_state(index, wrap):
    """Nothing in flight: both positions are the same."""
    position = index << 1 | wrap
    return position | position << 16


class Octep(ModelTest):
    DEVICES = ('name m0 mgmtdev sim_net max_vqp 2', 'name healthy mgmtdev sim_net',
               f'name net mgmtdev sim_net max_vqp 2 function octep delay_ms {int(DELAY_S * 1000)}',
               'name trap mgmtdev sim_net function octep doorbell trap',
               'name shared mgmtdev sim_net function octep notify shared',
               'name many mgmtdev sim_net max_vqp 8 function octep pci_id 177d:b900',
               'name slow mgmtdev sim_net function octep ready_ms 300',
               'name lacking mgmtdev sim_net function octep device_features 0x100030020',
               'name blk mgmtdev sim_blk backend ram 1M function octep')

    def tearDown(self):
        self.model.fault('net', 'none')
        super().tearDown()

    def octep(self, device='net', **kw):
        return self.net(device, function=OctepFunction, **kw)

    def stop(self, net, queue):
        net.function.set(QUEUE_SELECT, queue)
        net.function.set(QUEUE_ENABLE, 0)
        self.assertEqual(net.function.get(QUEUE_ENABLE), 0)

    def test_identity(self):
        for device, kind, pci in (('net', 1, 0xB903), ('blk', 2, 0xB903), ('many', 1, 0xB900)):
            with self.subTest(device=device), Client(self.model.socket(device)) as client:
                f = OctepFunction(client)
                self.assertEqual(struct.unpack_from('<HH', f.config), (0x177D, pci))
                self.assertEqual({f.caps[i][0] for i in (1, 2, 3, 4)}, {4})
                vendor = client.read(4, f.cap_offsets[9, 9], 16)
                self.assertEqual((vendor[6], struct.unpack_from('<Q', vendor, 8)[0]), (0, kind))

    def test_features_that_a_driver_needs_are_offered(self):
        needed = F_VERSION_1 | F_NOTIFICATION_DATA | F_RING_PACKED
        self.assertEqual(self.octep().function.device_features() & needed, needed)
        self.assertNotEqual(self.octep('lacking').function.device_features() & needed, needed)

    def test_firmware_is_ready_after_a_while(self):
        client = Client(self.model.socket('slow'))
        self.closers.append(client)
        first = time.monotonic()
        self.assertEqual(client.read(4, 0, 8), struct.pack('<II', 0xFEEDFEED, 0))
        self.assertTrue(wait_until(lambda: client.read(4, 4, 4) == struct.pack('<I', 0x3355FFAA)))
        self.assertGreaterEqual(time.monotonic() - first, 0.25)

    def test_frames_come_back_over_both_rings_by_every_doorbell(self):
        for device in 'net', 'trap', 'shared':
            for ring in SplitRing, PackedRing:
                with self.subTest(device=device, ring=ring.__name__):
                    with self.octep(device, ring=ring) as net:
                        self.assertEqual(net.function.map_doorbells() is None, device == 'trap')
                        net.start()
                        for _ in range(100):
                            net.exchange()
                    self.closers.pop()

    def test_interrupt_comes_with_its_flag(self):
        for device in 'net', 'trap', 'shared':
            with self.subTest(device=device):
                net = self.octep(device).start()
                f = net.function
                for _ in range(20):
                    net.exchange()
                    for ring in net.rx, net.tx:
                        self.assertGreater(net.interrupted(ring.call_fd), 0)
                        self.assertEqual(f.flag(ring.index), 1)
                        f.clear_flag(ring.index)
                        self.assertEqual(f.flag(ring.index), 0)

    def test_flags_are_in_the_memory_of_the_doorbells(self):
        net = self.octep().start()
        net.exchange()
        self.assertGreater(net.interrupted(net.rx.call_fd), 0)
        at = net.doorbells[0].at - net.function.caps[2][1] + 4
        self.assertEqual(net.area[at:at + 4], b'\x01\0\0\0')
        net.area[at:at + 4] = bytes(4)
        self.assertEqual(net.function.flag(0), 0)
        # A reset clears what is left.
        net.exchange()
        self.assertEqual(net.function.flag(1), 1)
        net.function.set(STATUS, 0)
        self.assertEqual(net.function.flag(1), 0)

    def test_interrupt_line_sets_flags_too(self):
        net = self.octep(msix=False).start()
        net.exchange()
        self.assertGreater(net.interrupted(net.config_fd), 0)
        self.assertTrue(net.function.isr() & 1)
        self.assertEqual(net.function.flag(0), 1)

    def test_queues_share_vectors_and_are_told_apart_by_flags(self):
        net = self.octep('many', pair=5)
        self.assertEqual(net.client.irq_info(MSIX)[1], 8)
        net.start()
        for ring in net.rx, net.tx:
            net.function.set(QUEUE_SELECT, ring.index)
            net.function.set(QUEUE_VECTOR, 1)
            self.assertEqual(net.function.get(QUEUE_VECTOR), 1)
            net.function.set(QUEUE_VECTOR, 8)
            self.assertEqual(net.function.get(QUEUE_VECTOR), NO_VECTOR)
            net.function.set(QUEUE_VECTOR, 1)
        net.exchange()
        self.assertGreater(net.interrupted(net.rx.call_fd), 0)
        self.assertTrue(wait_until(lambda: net.function.flag(10) and net.function.flag(11)))
        self.assertEqual([net.function.flag(q) for q in (0, 1, 9, 12)], [0] * 4)

    def test_notification_data_rings(self):
        net = self.octep(features=F_NOTIFICATION_DATA, trap=True).start()
        for doorbell in net.doorbells:
            def ring(reply=True, d=doorbell):
                net.client.write(d.bar, d.at, struct.pack('<I', d.index | 5 << 16), reply)
            doorbell.ring = ring
        net.exchange()

    def test_split_queue_starts_at_any_place_and_says_where_it_stopped(self):
        for index in 0, 1, 77, 0x7FFF, 65530, 65535:
            with self.subTest(index=index), self.octep() as net:
                for ring in net.rx, net.tx:
                    net.memory.set_u16(ring.driver + 2, index)
                    net.memory.set_u16(ring.device + 2, index)
                    ring.avail = ring.seen = index
                net.start(lambda: [net.function.place(q, index) for q in range(2)])
                for _ in range(10):
                    net.exchange()
                end = (index + 10) & 0xFFFF
                self.assertEqual([net.function.where(q) for q in range(2)], [end] * 2)
                for queue in range(2):
                    self.stop(net, queue)
                    self.assertEqual(net.function.where(queue), end)
            self.closers.pop()

    def test_packed_queue_starts_at_any_place_and_says_where_it_stopped(self):
        for index, wrap in (0, 1), (0, 0), (1, 1), (63, 0), (60, 1), (31, 0):
            with self.subTest(index=index, wrap=wrap), self.octep(ring=PackedRing) as net:
                for ring in net.rx, net.tx:
                    ring.next = ring.seen = index
                    ring.wrap = ring.seen_wrap = wrap
                    # What the lap before has left: neither available nor used in this one.
                    for i in range(ring.num):
                        used = wrap if i < index else wrap ^ 1
                        ring.set_desc(i, 0, 0, 0, (1 << 7 | 1 << 15) if used else 0)
                net.start(lambda: [net.function.place(q, packed_state(index, wrap)) for q in range(2)])
                for n in range(1, 11):
                    net.exchange()
                    # While it runs too, and it goes on.
                    end = packed_state((index + n) % 64, wrap ^ (index + n >= 64))
                    self.assertEqual([net.function.where(q) for q in range(2)], [end] * 2)
                for queue in range(2):
                    self.stop(net, queue)
                    self.assertEqual(net.function.where(queue), end)
                net.function.set(QUEUE_SELECT, 1)
                net.function.set(QUEUE_ENABLE, 1)
                net.tx.add(net.tx_buf, 80, False)
                net.doorbells[1].ring()
                self.assertTrue(wait_until(lambda: net.tx.poll() is not None))
            self.closers.pop()

    def test_running_queue_is_asked_within_traffic(self):
        for ring in SplitRing, PackedRing:
            with self.subTest(ring=ring.__name__), self.octep(ring=ring) as net:
                net.start()
                for _ in range(200):
                    net.rx.add(net.rx_buf, 4096, True)
                    net.tx.add(net.tx_buf, 80, False)
                    net.doorbells[1].ring()
                    net.function.where(1)
                    net.function.where(0)
                    self.assertTrue(wait_until(lambda: net.tx.poll() is not None))
                    self.assertTrue(wait_until(lambda: net.rx.poll() is not None))
            self.closers.pop()

    def test_place_of_a_running_queue_is_refused(self):
        net = self.octep().start()
        net.exchange()
        with self.assertRaises(OSError) as caught:
            net.function.place(0, 5)
        self.assertEqual(caught.exception.errno, errno.EBUSY)
        net.exchange()

    def test_wrong_place_needs_a_reset(self):
        net = self.octep(ring=PackedRing)
        net.start(lambda: net.function.place(0, 200 << 1))
        self.assertTrue(net.function.status() & NEEDS_RESET)
        net.function.set(STATUS, 0)
        net.restart()
        net.exchange()

    # Faults.

    def works(self):
        self.model.fault('net', 'none')
        with self.octep() as net:
            net.start()
            net.exchange()
        self.closers.pop()

    def test_wrong_signature(self):
        self.model.fault('net', 'wrong_signature')
        with Client(self.model.socket('net')) as client:
            self.assertNotEqual(client.read(4, 0, 4), struct.pack('<I', 0xFEEDFEED))
        self.works()

    def test_selector_is_never_acknowledged(self):
        net = self.octep()
        self.model.fault('net', 'selector_never')
        with self.assertRaises(TimeoutError):
            net.function.set(QUEUE_SELECT, 1)
        self.model.fault('net', 'none')
        self.assertTrue(wait_until(lambda: net.function.get(QUEUE_SELECT) == 1))
        net.client.close()
        self.works()

    def test_selector_is_late(self):
        net = self.octep()
        self.model.fault('net', 'selector_late')
        first = time.monotonic()
        net.function.set(QUEUE_SELECT, 1)
        self.assertGreaterEqual(time.monotonic() - first, DELAY_S - 0.01)
        net.client.close()
        self.works()

    def test_mailbox_never_answers(self):
        net = self.octep()
        self.model.fault('net', 'mailbox_never')
        with self.assertRaises(TimeoutError):
            net.function.where(0)
        net.client.close()
        self.works()

    def test_mailbox_is_late(self):
        net = self.octep()
        self.model.fault('net', 'mailbox_late')
        first = time.monotonic()
        net.function.where(0)
        self.assertGreaterEqual(time.monotonic() - first, DELAY_S - 0.01)
        net.client.close()
        self.works()

    def test_mailbox_answers_errors(self):
        net = self.octep()
        self.model.fault('net', 'mailbox_error')
        with self.assertRaises(OSError) as caught:
            net.function.where(0)
        self.assertEqual(caught.exception.errno, errno.EIO)
        net.client.close()
        self.works()

    def test_flag_is_stuck(self):
        for device in 'net', 'trap':
            net = self.octep(device).start()
            net.exchange()
            self.assertTrue(wait_until(lambda: net.function.flag(0)))
            self.model.fault(device, 'flag_stuck')
            net.function.clear_flag(0)
            self.assertTrue(wait_until(lambda: net.function.flag(0)))
            self.model.fault(device, 'none')
            net.function.clear_flag(0)
            self.assertEqual(net.function.flag(0), 0)


class Words(unittest.TestCase):
    def test_words_that_do_not_fit_are_refused(self):
        for words, cause in (('function octep vectors 9', 'vectors 9: octep has at most 8'),
                             ('ring_state pair', 'ring_state is of the function ifcvf'),
                             ('function octep ring_state pair', 'ring_state is of the function ifcvf'),
                             ('function ifcvf ready_ms 5', 'ready_ms is of the function octep'),
                             ('function ifcvf queue_size 32', 'queue_size 32: queues of ifcvf have at least 64'),
                             ('function other', "function 'other'"),
                             ('pci_id 1af41041x', "pci_id '1af41041x': expected is VENDOR:DEVICE"),
                             ('pci_id 1af4:104g', "pci_id '1af4:104g': expected is VENDOR:DEVICE"),
                             ('pci_sub 0000:0000', 'pci_sub 0000:0000: no function has that')):
            with self.subTest(words=words):
                model = Model([f'name m0 mgmtdev sim_net {words}'])
                try:
                    with self.assertRaisesRegex(AssertionError, cause):
                        model.start()
                finally:
                    model.stop()
                    model.cleanup()


if __name__ == '__main__':
    unittest.main()
