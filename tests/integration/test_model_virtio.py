#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""vdpa-model as a virtio-pci function: rings, doorbells, queues, block, many queues, options."""

import contextlib
import json
import os
import pwd
import shutil
import struct
import subprocess
import tempfile
import time
import unittest

import harness
from vfio_user_client import *

F_EVENT_IDX, F_IN_ORDER, F_CTRL_VQ, F_MQ, F_RING_PACKED = 1 << 29, 1 << 35, 1 << 17, 1 << 22, 1 << 34
RUNNING = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK


class Rings(ModelTest):
    DEVICES = ('name m0 mgmtdev sim_net max_vqp 2', 'name healthy mgmtdev sim_net',
               'name trap mgmtdev sim_net doorbell trap', 'name shared mgmtdev sim_net notify shared')

    def rings_of(self, device):
        queues = self.model.model_stats(device)['queues']
        return [(q['rings_by_memory'], q['rings_by_message']) for q in queues.values()]

    def test_frames_come_back_over_split_and_packed_rings(self):
        for ring in SplitRing, PackedRing:
            for features in 0, F_EVENT_IDX, F_IN_ORDER, F_EVENT_IDX | F_IN_ORDER | F_ACCESS_PLATFORM:
                with self.subTest(ring=ring.__name__, features=hex(features)):
                    with self.net(ring=ring, features=features) as net:
                        net.start()
                        for _ in range(200):
                            net.exchange()
                        if not features & F_EVENT_IDX:
                            self.assertGreater(net.interrupted(net.rx.call_fd), 0)
                        self.assertEqual(net.interrupted(net.config_fd, 0), 0)
                        self.assertEqual(net.function.isr(), 0)
                    self.closers.pop()

    def test_doorbells_ring_by_memory_without_a_message(self):
        for device in 'm0', 'shared':
            with self.subTest(device=device):
                before = self.rings_of(device)
                net = self.net(device).start()
                net.exchange()
                after = self.rings_of(device)
                self.assertGreater(after[0][0], before[0][0])
                self.assertGreater(after[1][0], before[1][0])
                self.assertEqual([q[1] for q in after], [q[1] for q in before])

    def test_multiplier_is_as_asked_for(self):
        for device, multiplier in ('m0', 4096), ('shared', 4), ('trap', 4096):
            self.assertEqual(self.net(device).function.multiplier, multiplier)

    def test_trapped_doorbells_ring_by_message(self):
        self.assertIsNone(self.net('trap').function.map_doorbells())
        self.closers.pop().close()
        before = self.rings_of('trap')
        net = self.net('trap').start()
        net.exchange()
        net.exchange(reply=False)
        for queue in range(2):
            self.assertEqual(self.rings_of('trap')[queue], (0, before[queue][1] + 2))

    def test_idle_function_with_trapped_doorbells_does_nothing(self):
        net = self.net('trap').start()
        net.exchange()
        self.healthy.client.reset()
        try:
            time.sleep(0.3)
            before = harness.wake_ups(self.model.pid)
            time.sleep(0.5)
            after = harness.wake_ups(self.model.pid)
            for name in 'vdpa-control', 'vdpa-doorbell':
                self.assertLessEqual(after[name] - before[name], 1, name)
        finally:
            self.healthy.restart()

    def test_rings_before_driver_ok_are_not_lost(self):
        net = self.net()
        f = net.function
        f.set_command(6)
        f.negotiate(F_VERSION_1)
        net.client.set_vectors(0, [net.client.eventfd() for _ in range(3)])
        for ring in net.rx, net.tx:
            f.setup_queue(ring, ring.index + 1)
        net.area = f.map_doorbells()
        net.doorbells = [Doorbell(f, i, net.area) for i in range(2)]
        net.rx.add(net.rx_buf, 4096, True)
        net.tx.add(net.tx_buf, 100, False)
        for doorbell in net.doorbells:
            doorbell.ring()
        f.set(STATUS, RUNNING)
        self.assertTrue(wait_until(lambda: net.rx.poll() is not None))

    def test_notification_data_rings(self):
        net = self.net(features=F_NOTIFICATION_DATA).start()
        for doorbell in net.doorbells:
            def ring(reply=True, d=doorbell):
                words = memoryview(d.area).cast('I')
                words[(d.at - d.function.caps[2][1]) // 4] = d.index | 5 << 16
                words.release()
            doorbell.ring = ring
        net.exchange()

    def test_queue_is_reset_and_enabled_again(self):
        net = self.net(features=F_RING_RESET).start()
        net.exchange()
        f = net.function
        for old in net.rx, net.tx:
            f.set(QUEUE_SELECT, old.index)
            f.set(QUEUE_RESET, 1)
            self.assertEqual((f.get(QUEUE_RESET), f.get(QUEUE_ENABLE)), (0, 0))
        with self.assertRaises(AssertionError):
            net.exchange(timeout=0.1)
        for name in 'rx', 'tx':
            old = getattr(net, name)
            new = SplitRing(net.memory, old.index)
            new.call_fd = old.call_fd
            setattr(net, name, new)
            self.assertEqual(f.setup_queue(new, old.index + 1), (old.index + 1, 1))
        net.exchange()
        self.assertGreater(net.interrupted(net.rx.call_fd), 0)

    def test_device_is_reset_and_started_again(self):
        with self.net() as net:
            net.start()
            for _ in range(5):
                net.exchange()
                net.function.set(STATUS, 0)
                self.assertEqual(net.function.status(), 0)
                net.restart()
        self.closers.pop()

    def test_both_pairs_and_the_control_queue(self):
        net = self.net(features=F_CTRL_VQ | F_MQ, pair=1).start()
        f = net.function
        control = SplitRing(net.memory, 4)
        # A queue that comes after DRIVER_OK joins.
        self.assertEqual(f.setup_queue(control, NO_VECTOR), (NO_VECTOR, 1))
        buf = net.memory.alloc(4096)
        net.memory.write(buf, bytes([4, 0]) + struct.pack('<H', 2))
        gpa = net.memory.GPA + buf
        control.set_desc(0, gpa, 4, 1, 1)
        control.set_desc(1, gpa + 16, 1, 2)
        net.memory.write(buf + 16, b'\xff')
        control.submit(0)
        Doorbell(f, 4, net.area).ring()
        self.assertTrue(wait_until(lambda: control.poll() is not None))
        self.assertEqual(net.memory.read(buf + 16, 1), b'\0')
        net.exchange()

    def test_without_bus_master_queues_stand_still(self):
        for ring in SplitRing, PackedRing:
            with self.subTest(ring=ring.__name__), NetDriver(self.model.socket('m0'), ring=ring) as net:
                f = net.function
                f.set_command, set_command = lambda value: set_command(2), f.set_command
                net.start()
                with self.assertRaises(AssertionError):
                    net.exchange(timeout=0.1)
                set_command(6)
                # What was sent meanwhile, and what comes now.
                self.assertTrue(wait_until(lambda: net.rx.poll() is not None))
                self.assertTrue(wait_until(lambda: net.tx.poll() is not None))
                net.exchange()
                set_command(2)
                with self.assertRaises(AssertionError):
                    net.exchange(timeout=0.1)
                set_command(6)
                self.assertTrue(wait_until(lambda: net.rx.poll() is not None))

    def test_vector_of_none_does_not_interrupt(self):
        net = self.net().start()
        net.function.set(QUEUE_SELECT, 0)
        net.function.set(QUEUE_VECTOR, NO_VECTOR)
        net.exchange()
        self.assertEqual(net.interrupted(net.rx.call_fd, 0.05), 0)
        net.function.set(QUEUE_VECTOR, 1)
        self.assertGreater(net.interrupted(net.rx.call_fd), 0)

    def test_one_vector_may_serve_all(self):
        net = self.net().start()
        for i in range(2):
            net.function.set(QUEUE_SELECT, i)
            net.function.set(QUEUE_VECTOR, 0)
        net.exchange()
        self.assertGreater(net.interrupted(net.config_fd), 0)

    def test_rings_outside_memory_need_a_reset(self):
        net = self.net()
        net.client.dma_unmap(flags=UNMAP_ALL)
        net.start()
        self.assertTrue(net.function.status() & NEEDS_RESET)
        net.function.set(STATUS, 0)
        self.assertEqual(net.function.status(), 0)

    def test_broken_ring_needs_a_reset_and_says_so(self):
        net = self.net().start()
        net.exchange()
        net.tx.set_desc(0, 0xDEAD0000, 100)
        net.tx.submit(0)
        net.doorbells[1].ring()
        self.assertTrue(wait_until(lambda: net.function.status() & NEEDS_RESET))
        self.assertGreater(net.interrupted(net.config_fd), 0)
        self.model.err.wait('m0: queue 1: ', self.lines)

    def test_features_are_checked_by_the_device(self):
        f = self.net().function
        self.assertEqual(f.device_features() & (F_VERSION_1 | F_ACCESS_PLATFORM), F_VERSION_1 | F_ACCESS_PLATFORM)
        self.assertFalse(f.negotiate(F_VERSION_1 | 1 << 63))
        self.assertFalse(f.negotiate(0))
        self.assertTrue(f.negotiate(f.device_features()))


class Block(ModelTest):
    DEVICES = ('name m0 mgmtdev sim_net', 'name healthy mgmtdev sim_net',
               'name b0 mgmtdev sim_blk backend ram 1M')

    def test_sector_is_written_and_read_back(self):
        net = self.net('b0')
        f = net.function
        self.assertEqual(f.config[2:4], b'\x42\x10')
        self.assertEqual(struct.unpack('<Q', f.device_config(0, 8))[0], 2048)
        f.set_command(6)
        self.assertTrue(f.negotiate(F_VERSION_1))
        ring, fd = net.rx, net.client.eventfd()
        net.client.set_vectors(0, [fd])
        self.assertEqual(f.setup_queue(ring, 0), (0, 1))
        f.set(STATUS, RUNNING)
        net.area = f.map_doorbells()
        doorbell = Doorbell(f, 0, net.area)
        buf = net.memory.alloc(4096)
        for kind in 1, 0:
            if kind == 1:
                net.memory.write(buf + 512, bytes(range(256)) * 2)
            else:
                net.memory.write(buf + 512, bytes(512))
            net.memory.write(buf, struct.pack('<IIQ', kind, 0, 7) + b'\xff')
            gpa = net.memory.GPA + buf
            ring.set_desc(0, gpa, 16, 1, 1)
            ring.set_desc(1, gpa + 512, 512, 1 | (2 if kind == 0 else 0), 2)
            ring.set_desc(2, gpa + 16, 1, 2)
            ring.submit(0)
            doorbell.ring()
            self.assertTrue(wait_until(lambda: ring.poll() is not None))
            self.assertEqual(net.memory.read(buf + 16, 1), b'\0')
        self.assertEqual(net.memory.read(buf + 512, 512), bytes(range(256)) * 2)
        self.assertGreater(net.interrupted(fd), 0)


class Large(unittest.TestCase):
    def test_64_queues(self):
        with Model(['name m0 mgmtdev sim_net max_vqp 32']) as model:
            for pair in 0, 31:
                with NetDriver(model.socket('m0'), pair=pair, features=F_CTRL_VQ | F_MQ) as net:
                    self.assertEqual(net.function.get(NUM_QUEUES), 65)
                    self.assertEqual(net.client.irq_info(MSIX)[1], 66)
                    fds = [net.client.eventfd() for _ in range(64)]
                    net.client.set_vectors(0, fds)
                    net.client.set_vectors(2, fds)
                    net.start()
                    # Without the control queue only the first pair may be used.
                    if pair == 0:
                        net.exchange()

    def test_fewer_vectors_than_queues(self):
        with Model(['name m0 mgmtdev sim_net max_vqp 4 vectors 2']) as model:
            with NetDriver(model.socket('m0')) as net:
                f = net.function
                self.assertEqual(net.client.irq_info(MSIX)[1], 2)
                f.set(QUEUE_VECTOR, 1)
                self.assertEqual(f.get(QUEUE_VECTOR), 1)
                f.set(QUEUE_VECTOR, 2)
                self.assertEqual(f.get(QUEUE_VECTOR), NO_VECTOR)


class Many(unittest.TestCase):
    def test_idle_functions_share_wakeups(self):
        with contextlib.ExitStack() as stack:
            model = stack.enter_context(Model([f'name m{i} mgmtdev sim_net' for i in range(8)]))
            for i in range(8):
                stack.enter_context(NetDriver(model.socket(f'm{i}'))).start()
            # Doorbells that have rung lately are looked at more often.
            time.sleep(0.5)
            start = time.monotonic()
            before = harness.wake_ups(model.pid)['vdpa-doorbell']
            time.sleep(1)
            count = harness.wake_ups(model.pid)['vdpa-doorbell'] - before
            # Each by itself would be a thousand.
            self.assertLess(count / (time.monotonic() - start), 2500)
            self.assertGreater(count, 0)

    def test_ordinary_user_without_huge_pages(self):
        harness.skip_unless(os.getuid() == 0 and shutil.which('setpriv'),
                            'needs root and setpriv to become an ordinary user')
        nobody = pwd.getpwnam('nobody')
        with tempfile.TemporaryDirectory() as folder:
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            # The build may lie where only root can look.
            program = shutil.copy(MODEL, folder)
            user = ['setpriv', f'--reuid={nobody.pw_uid}',
                    f'--regid={nobody.pw_gid}', '--clear-groups', '--no-new-privs', '--inh-caps=-all']
            words = f'name m0 mgmtdev sim_net vfio_user {folder}/m0.sock'
            with harness.Daemon([words], eal=['--no-huge', '-m', '64', '--no-shconf'], folder=folder, user=user,
                                app=program):
                with NetDriver(f'{folder}/m0.sock') as net:
                    net.start()
                    net.exchange()


class CommandLine(unittest.TestCase):
    def run_model(self, *args):
        return subprocess.run([MODEL, *args], capture_output=True, text=True, timeout=30)

    def test_help_lists_words_and_faults(self):
        got = self.run_model('--help')
        self.assertEqual(got.returncode, 0)
        for text in 'usage: vdpa-model', 'vfio_user PATH', 'doorbell poll | trap', 'wrong_used_index', '--json':
            self.assertIn(text, got.stdout)

    def test_version(self):
        got = self.run_model('--version')
        self.assertEqual(got.returncode, 0)
        self.assertRegex(got.stdout, r'^vdpa-model \d+\.\d+\.\d+, DPDK ')

    def test_mistakes_cost_one_line(self):
        base = 'name m0 mgmtdev sim_net '
        for words, text in ((base + 'vfio_user /nowhere/m0.sock doorbell maybe', 'allowed are poll, trap'),
                            (base + 'doorbell poll', 'which needs vfio_user'),
                            (base + 'vfio_user /nowhere/s vectors 0', 'vectors'),
                            (base + 'vfio_user /nowhere/s socket /nowhere/t', '')):
            with self.subTest(words=words):
                got = self.run_model('--dev', words)
                self.assertEqual(got.returncode, 2, got.stderr)
                self.assertEqual(len(got.stderr.splitlines()), 1, got.stderr)
                self.assertIn('vdpa-model: --dev 1: ', got.stderr)
                self.assertIn(text, got.stderr)

    def test_bad_fault_and_socket_are_told(self):
        base = ['--no-huge', '-m', '64', '--no-shconf', '--no-telemetry', '--', '--dev']
        for words, text in (('fault no_such', "fault 'no_such': allowed are none, "),
                            ('doorbell trap poll_us 5', 'poll_us is of doorbells that are polled'),
                            ('', 'there is no folder /nowhere')):
            with self.subTest(words=words):
                got = self.run_model(*base, f'name m0 mgmtdev sim_net vfio_user /nowhere/m0.sock {words}')
                self.assertIn(got.returncode, (1, 2))
                self.assertIn(text, got.stderr)

    def test_json_statistics_at_the_end(self):
        model = Model(args=['--json'])
        with model:
            with NetDriver(model.socket('m0')) as net:
                net.start()
                net.exchange()
            self.assertEqual(model.stop(), 0)
            stats = json.loads(model.out.lines[-1])['m0']
        self.assertGreater(stats['vfio_user']['queues'][0]['rings_by_memory'], 0)
        self.assertEqual(stats['vfio_user']['queues'][0]['rings_by_message'], 0)
        self.assertEqual(stats['vfio_user']['fault'], 'none')


if __name__ == '__main__':
    unittest.main()
