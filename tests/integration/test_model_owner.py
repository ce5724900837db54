#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""vdpa-model's functions suspended by their status (virtio 1.4, 3.4), and saved and loaded by an owner's
administration queue (2.12 to 2.14); and the virtio driver with such an owner."""

import errno
import os
import struct
import unittest

import harness
from conformance_tool import cases, conformance
from vfio_user_client import *
from vhost_user_client import DESC_NEXT, DESC_WRITE

F_ADMIN_VQ, F_SUSPEND = 1 << 41, 1 << 43
SUSPEND = 16
RUNNING = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
STANDING = ACKNOWLEDGE | DRIVER | FEATURES_OK | SUSPEND
ADMIN_INDEX, ADMIN_NUM = (60, '<H'), (62, '<H')

LIST_QUERY, LIST_USE, CAP_LIST, CAP_GET, CAP_SET = 0, 1, 7, 8, 9
OBJ_CREATE, OBJ_DESTROY, METADATA_GET, PARTS_GET, PARTS_SET, MODE_SET = 0xa, 0xd, 0xe, 0xf, 0x10, 0x11
SELF, SRIOV = 0, 1
STOPPED = 1
STATUS_PART, VQ_PART = 0x103, 0x104


class Owner:
    """A driver of an owner: its administration queue, and commands by it."""

    def __init__(self, path):
        self.client, self.memory = Client(path), Memory()
        try:
            self.function = f = Function(self.client)
            self.client.dma_map(self.memory.GPA, self.memory.size, self.memory.fd)
            f.set_command(6)
            assert f.negotiate(F_VERSION_1 | F_ADMIN_VQ), 'features refused'
            self.index = f.get(ADMIN_INDEX)
            assert f.get(ADMIN_NUM) == 1
            assert self.index >= f.get(NUM_QUEUES)
            self.ring = SplitRing(self.memory, self.index, 16)
            self.out, self.in_ = self.memory.alloc(16384), self.memory.alloc(16384)
            assert f.setup_queue(self.ring) == (NO_VECTOR, 1)
            self.doorbell = Doorbell(f, self.index, None)
            f.set(STATUS, RUNNING)
        except BaseException:
            self.close()
            raise

    def ask(self, group, member, opcode, data=b''):
        """Status and result of a command."""
        request = struct.pack('<HH12xQ', opcode, group, member) + data
        request += bytes(-len(request) % 8)
        self.memory.write(self.out, request)
        gpa = self.memory.GPA
        self.ring.set_desc(0, gpa + self.out, len(request), DESC_NEXT, 1)
        self.ring.set_desc(1, gpa + self.in_, 16384, DESC_WRITE)
        self.ring.submit(0)
        self.doorbell.ring()
        length = wait_until(lambda: self.ring.poll())
        assert length >= 8, 'no answer'
        answer = self.memory.read(self.in_, length)
        return struct.unpack_from('<H', answer)[0], answer[8:]

    def give(self, member, opcode, data=b'', group=SRIOV):
        status, result = self.ask(group, member, opcode, data)
        assert status == 0, f'command {opcode:#x}: status {status}'
        return result

    def begin(self):
        """As a driver does, with one object to get parts with (0), and one to set them (1)."""
        for group in SELF, SRIOV:
            self.give(0, LIST_USE, self.give(0, LIST_QUERY, group=group), group=group)
        assert self.give(0, CAP_LIST, group=SELF) == struct.pack('<Q', 1)
        limits = self.give(0, CAP_GET, struct.pack('<H6x', 0), group=SELF)
        self.give(0, CAP_SET, struct.pack('<H6x', 0) + limits, group=SELF)
        return self

    def create(self, member, number, kind):
        self.give(member, OBJ_CREATE, struct.pack('<H2xIQB7x', 0, number, 0, kind))

    def parts(self, member, number=0):
        size, = struct.unpack_from('<I', self.give(member, METADATA_GET, struct.pack('<H2xIB7x', 0, number, 0)))
        got = self.give(member, PARTS_GET, struct.pack('<H2xIB7x', 0, number, 1))
        assert len(got) == size
        return got

    def set_parts(self, member, parts, number=1):
        return self.ask(SRIOV, member, PARTS_SET, struct.pack('<H2xI', 0, number) + parts)[0]

    def mode(self, member, flags):
        self.give(member, MODE_SET, bytes([flags]))

    def close(self):
        self.client.close()
        self.memory.close()


def split_parts(data):
    """Types, selectors and values."""
    parts, at = [], 0
    while at < len(data):
        kind, flags, selector, length = struct.unpack_from('<HBxQI', data, at)
        parts.append((kind, selector, data[at + 16:at + 16 + length]))
        at += 16 + length
    return parts


class Owners(ModelTest):
    DEVICES = ('name m0 mgmtdev sim_net member 1 suspend on', 'name m1 mgmtdev sim_net member 2 suspend on',
               'name pf mgmtdev sim_net admin on', 'name healthy mgmtdev sim_net')

    def owner(self):
        owner = Owner(self.model.socket('pf'))
        self.closers.append(owner)
        return owner.begin()

    def test_a_suspended_function_stands_still_and_goes_on(self):
        for ring in SplitRing, PackedRing:
            with self.subTest(ring=ring.__name__), self.net(ring=ring, features=F_SUSPEND) as net:
                f = net.start().function
                for _ in range(10):
                    net.exchange()
                    f.set(STATUS, RUNNING | SUSPEND)
                    self.assertEqual(f.status(), STANDING)
                    with self.assertRaises(AssertionError):
                        net.exchange(timeout=0.05)
                    f.set(STATUS, STANDING | DRIVER_OK)
                    self.assertEqual(f.status(), RUNNING)
                    # The frame that waited.
                    self.assertTrue(wait_until(lambda: net.rx.poll()))
                    self.assertTrue(wait_until(lambda: net.tx.poll() is not None))
            self.closers.pop()

    def test_faults_of_suspension(self):
        for fault, status in (('suspend_never_completes', RUNNING | SUSPEND),
                              ('suspend_fails', RUNNING | SUSPEND | NEEDS_RESET)):
            with self.subTest(fault=fault), self.net(features=F_SUSPEND) as net:
                net.start()
                self.model.fault('m0', fault)
                net.function.set(STATUS, RUNNING | SUSPEND)
                self.assertEqual(net.function.status(), status)
                self.model.fault('m0', 'none')
            self.closers.pop()

    def test_what_is_offered(self):
        for device, bit, offered in (('m0', F_SUSPEND, True), ('pf', F_SUSPEND, False), ('m0', F_ADMIN_VQ, False),
                                     ('pf', F_ADMIN_VQ, True)):
            with Client(self.model.socket(device)) as client:
                self.assertEqual(bool(Function(client).device_features() & bit), offered)

    def test_a_member_that_its_owner_stops_stands_still(self):
        owner, net = self.owner(), self.net().start()
        net.exchange()
        owner.mode(1, STOPPED)
        with self.assertRaises(AssertionError):
            net.exchange(timeout=0.05)
        self.assertEqual(net.function.status(), RUNNING)
        owner.mode(1, 0)
        self.assertTrue(wait_until(lambda: net.rx.poll()))
        self.assertTrue(wait_until(lambda: net.tx.poll() is not None))
        net.exchange()
        # Nor does one that its owner leaves stay so.
        owner.mode(1, STOPPED)
        owner.close()
        self.closers.remove(owner)
        net.exchange()

    def test_another_member_goes_on_as_the_first(self):
        """Saved from m0 and loaded into m1, which the same guest drives from then on."""
        owner, net = self.owner(), self.net().start()
        for _ in range(7):
            net.exchange()
        owner.create(1, 0, 0)
        owner.create(2, 1, 1)
        owner.mode(1, STOPPED)
        saved = owner.parts(1)
        parts = split_parts(saved)
        self.assertEqual([v for k, _, v in parts if k == STATUS_PART], [bytes([RUNNING])])
        rings = [struct.unpack('<HHHHQQQ', v) for k, _, v in parts if k == VQ_PART]
        for q, ring in zip((net.rx, net.tx), rings):
            gpa = net.memory.GPA
            self.assertEqual(ring, (q.num, q.index + 1, 1, 0, gpa + q.desc, gpa + q.driver, gpa + q.device))
        other = Client(self.model.socket('m1'))
        self.closers.append(other)
        f = Function(other)
        other.dma_map(net.memory.GPA, net.memory.size, net.memory.fd)
        f.set_command(6)
        self.assertEqual(owner.set_parts(2, saved), errno.EBUSY)
        owner.mode(2, STOPPED)
        self.assertEqual(owner.set_parts(2, saved[:-12]), errno.EINVAL)
        self.assertEqual(owner.set_parts(2, saved), 0)
        other.set_vectors(0, [net.config_fd, net.rx.call_fd, net.tx.call_fd])
        owner.mode(2, 0)
        self.assertEqual(f.status(), RUNNING)
        self.assertEqual(owner.parts(1), saved)
        # m0 is stopped still: who moves the frames is m1, from where the rings were used to.
        net.area.close()
        net.area = f.map_doorbells()
        net.doorbells = [Doorbell(f, ring.index, net.area) for ring in (net.rx, net.tx)]
        for _ in range(20):
            net.exchange()
        self.assertGreater(net.interrupted(net.rx.call_fd), 0)

    def test_any_command_is_answered(self):
        owner = Owner(self.model.socket('pf'))
        self.closers.append(owner)
        random = __import__('random').Random(1)
        for _ in range(2000):
            owner.ask(random.randrange(3), random.randrange(4), random.randrange(0x14),
                      random.randbytes(random.randrange(40)))
        # Among them may be lists of commands without those that ask for it.
        owner.function.set(STATUS, 0)
        self.closers.pop().close()
        owner = self.owner()
        owner.create(1, 7, 0)
        self.assertEqual(len(split_parts(owner.parts(1, 7))), 8 + 2 * 3)


class Words(unittest.TestCase):
    def test_words_that_do_not_go_together(self):
        for words, text in (('admin on member 1', 'an owner is no member'),
                            ('function ifcvf suspend on', 'suspend on is of the function virtio'),
                            ('function octep member 1', 'are of the function virtio')):
            model = Model([f'name m0 mgmtdev sim_net {words}'])
            with self.subTest(words=words):
                with self.assertRaises(AssertionError) as refused:
                    model.start()
                self.assertIn(text, str(refused.exception))
            model.cleanup()


class Driver(unittest.TestCase):
    """vdpa-app and test-vdpa on a function that has an owner."""

    def test_an_owner_is_opened_once(self):
        names = 'm0', 'm1'
        with Model([f'name {n} mgmtdev sim_net member {i + 1}' for i, n in enumerate(names)] +
                   ['name pf mgmtdev sim_net admin on']) as model:
            pf = 'vfio-user/' + model.socket('pf')
            words = [f'name {n} mgmtdev vfio-user/{model.socket(n)} owner {pf} member {i + 1} '
                     f'socket {{dir}}/{n}.sock' for i, n in enumerate(names)]
            with harness.Daemon(words):
                # Lists of commands of both groups, and what the owner has for parts: once.
                self.assertEqual(model.model_stats('pf')['admin_commands'], 7)
            # And nobody else has it then.
            daemon = harness.Daemon(words[:1] + [f'name p0 mgmtdev {pf} socket {{dir}}/p0.sock'])
            with self.assertRaises(AssertionError) as refused:
                daemon.start()
            daemon.cleanup()
            self.assertIn('one client at a time', str(refused.exception))

    def test_conformance_of_a_member(self):
        with Model(['name m0 mgmtdev sim_net max_vqp 2 member 5 suspend on',
                    'name pf mgmtdev sim_net admin on']) as model:
            device = (f"mgmtdev vfio-user/{model.socket('m0')} owner vfio-user/{model.socket('pf')} member 5")
            outcome = conformance({'dev': device}, '--loopback=yes', *cases('suspend_split', 'start_stop_cycles'))
            self.assertEqual(outcome.named('fail'), {}, outcome.text())
            self.assertEqual(outcome.named('skip'), {}, outcome.text())


if __name__ == '__main__':
    unittest.main()
