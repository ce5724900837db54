#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""vdpa-model as a vfio-user server: every command, right and wrong, on the raw socket."""

import contextlib
import errno
import fcntl
import os
import resource
import socket
import struct
import tempfile
import time
import unittest

import harness
from vfio_user_client import *


class Version(ModelTest):
    def test_reply_names_version_and_limits(self):
        client = self.client(version=False)
        (major, minor), told = client.version()
        self.assertEqual((major, minor), (0, 1))
        self.assertEqual(told['capabilities']['max_data_xfer_size'], 4096)
        self.assertEqual(told['capabilities']['max_msg_fds'], 16)

    def test_reply_is_shorter_than_qemus_request(self):
        client = self.client(version=False)
        client.send(VERSION, struct.pack('<HH', 0, 1))
        self.assertLess(16 + len(client.recv()[4]), 214)

    def test_text_may_be_absent(self):
        self.client(version=False).version(capabilities=False)

    def test_lower_minor_is_kept(self):
        self.assertEqual(self.client(version=False).version(minor=0)[0], (0, 0))

    def test_other_major_is_refused(self):
        self.refused(errno.EINVAL, self.client(version=False).version, major=1)

    def test_text_without_its_end_is_refused(self):
        client = self.client(version=False)
        self.refused(errno.EINVAL, client.ask, VERSION, struct.pack('<HH', 0, 1) + b'{"capabilities"')

    def test_second_version_is_refused(self):
        self.refused(errno.EINVAL, self.client().version)

    def test_commands_before_it_are_refused(self):
        client = self.client(version=False)
        self.refused(errno.EINVAL, client.info)
        self.refused(errno.EINVAL, client.reset)
        client.version()
        client.info()


class Information(ModelTest):
    def test_device_is_pci_and_resets(self):
        argsz, flags, regions, irqs = self.client().info()
        self.assertEqual((argsz, regions, irqs), (16, 9, 5))
        self.assertEqual(flags, 1 | 2)

    def test_regions(self):
        client = self.client()
        sizes = [client.region_info(i)[1] for i in range(9)]
        self.assertEqual(sizes, [0, 4096, 4096, 0, 32768, 0, 0, 4096, 0])

    def test_doorbells_of_a_client_that_has_gone_are_not_the_next_ones(self):
        with NetDriver(self.model.socket('m0')) as net:
            kept = Function(net.client).map_doorbells()
        self.closers.append(kept)

        def connected():
            try:
                return Client(self.model.socket('m0'))
            except Closed:
                return None

        client = wait_until(connected)
        self.closers.append(client)
        area = Function(client).map_doorbells()
        self.closers.append(area)
        kept[0:4] = b'\x01\x00\x00\x00'
        self.assertEqual(area[0:4], b'\xff' * 4)

    def test_doorbells_alone_can_be_mapped(self):
        flags, size, offset, areas, fd = self.client().region_info(4)
        self.assertEqual(flags, 1 | 2 | 4 | 8)
        self.assertEqual(areas, [(0x3000, 5 * 4096)])
        # As the client maps it: one mmap at the offset of the region and of the area.
        mmap.mmap(fd, 5 * 4096, offset=offset + 0x3000).close()
        # Its size is sealed: nobody can take it away under the model.
        for size in 0, 4096, 1 << 20:
            with self.assertRaises(PermissionError):
                os.ftruncate(fd, size)

    def test_region_with_too_little_room_is_told_how_much(self):
        client = self.client()
        data = client.ask(GET_REGION_INFO, struct.pack('<IIIIQQ', 32, 0, 4, 0, 0, 0))
        self.assertEqual(struct.unpack_from('<I', data)[0], 64)
        self.assertEqual(client.fds, [])

    def test_bad_region_requests_are_refused(self):
        client = self.client()
        self.refused(errno.EINVAL, client.region_info, 9)
        self.refused(errno.EINVAL, client.region_info, 0xFFFFFFFF)
        self.refused(errno.EINVAL, client.region_info, 4, argsz=31)

    def test_interrupts(self):
        client = self.client()
        counts = [client.irq_info(i) for i in range(5)]
        self.assertEqual(counts, [(1 | 2 | 4, 1), (0, 0), (1, 6), (0, 0), (0, 0)])
        self.refused(errno.EINVAL, client.irq_info, 5)


class Dma(ModelTest):
    def test_map_and_unmap(self):
        client, memory = self.client(), self.memory()
        client.dma_map(0, 65536, memory.fd)
        client.dma_map(1 << 40, 4096, memory.fd, offset=4096)
        got = client.dma_unmap(0, 65536)
        self.assertEqual(struct.unpack('<IIQQ', got), (24, 0, 0, 65536))
        client.dma_unmap(1 << 40, 4096)

    def test_unmap_all(self):
        client, memory = self.client(), self.memory()
        client.dma_map(0, 4096, memory.fd)
        client.dma_map(8192, 4096)
        client.dma_unmap(flags=UNMAP_ALL)
        client.dma_map(0, 1 << 20, memory.fd)

    def test_what_is_mapped_already_may_be_mapped_again(self):
        """By a process that goes on with another's connection: it so learns that it is there, and is that memory."""
        client, memory, other = self.client(), self.memory(), self.memory()
        for _ in range(2):
            client.dma_map(65536, 65536, memory.fd, 4096)
            client.dma_map(131072, 65536, memory.fd, 69632)
        # What was joined, and a part of it.
        client.dma_map(65536, 131072, memory.fd, 4096)
        client.dma_map(69632, 4096, memory.fd, 8192)
        for args in (65536, 65536, memory.fd), (65536, 65536, other.fd, 4096), (65536, 65536), (65536, 200000, memory.fd, 4096):
            with self.subTest(args=args):
                self.refused(errno.EEXIST, client.dma_map, *args)
        self.refused(errno.EEXIST, client.dma_map, 65536, 65536, memory.fd, 4096, flags=READ)
        client.dma_unmap(65536, 131072)
        self.refused(errno.ENOENT, client.dma_unmap, 65536, 131072)

    def test_range_without_file_is_remembered(self):
        client = self.client()
        client.dma_map(0xC0000, 0x20000)
        self.refused(errno.EEXIST, client.dma_map, 0xC0000, 4096)
        client.dma_unmap(0xC0000, 0x20000)
        self.refused(errno.ENOENT, client.dma_unmap, 0xC0000, 0x20000)

    def test_file_on_disk_is_refused(self):
        # A file system may be a process of the client's, that lets every access wait.
        client = self.client()
        with tempfile.TemporaryFile(dir=os.getcwd()) as file:
            file.truncate(1 << 20)
            try:
                fcntl.fcntl(file, fcntl.F_GET_SEALS)
                harness.skip_unless(False, 'this folder is in memory')
            except OSError:
                pass
            self.refused(errno.EINVAL, client.dma_map, 0, 1 << 20, file.fileno())
            # Whoever looks at the log, at its default level, sees what to do.
            self.model.err.wait('m0: vfio-user: DMA_MAP refused: .* not a shared memory file: use a memfd', self.lines)

    def test_refusals_do_not_flood_the_log(self):
        client, memory = self.client(), self.memory()
        client.dma_map(0, 4096, memory.fd)
        for _ in range(400):
            self.refused(errno.EEXIST, client.dma_map, 0, 4096, memory.fd, 4096)
        self.model.err.wait('DMA_MAP refused: .* overlaps', self.lines)
        lines = [line for line in self.model.err.lines[self.lines:] if 'DMA_MAP refused' in line]
        self.assertLess(len(lines), 300)

    def test_client_cannot_take_all_addresses(self):
        """A file without pages may be of any size; what is mapped takes addresses of all clients."""
        client, fd = self.client(), os.memfd_create('uvdpa-guest')
        client.own(fd)
        os.ftruncate(fd, 1 << 46)
        self.refused(errno.E2BIG, client.dma_map, 0, 1 << 46, fd)
        for i in range(8):
            client.dma_map(i << 40, 1 << 40, fd)
        self.refused(errno.E2BIG, client.dma_map, 8 << 40, 1 << 40, fd)

    def test_read_only_range_is_not_mapped(self):
        client, memory = self.client(), self.memory()
        fd = client.own(os.open(f'/proc/self/fd/{memory.fd}', os.O_RDONLY))
        client.dma_map(0xE0000, 4096, fd, flags=READ)

    def test_bad_ranges_are_refused(self):
        client, memory = self.client(), self.memory()
        client.dma_map(65536, 65536, memory.fd)
        for code, args in (
                (errno.EINVAL, (0, 0, memory.fd)),
                (errno.EINVAL, ((1 << 64) - 4096, 8192, memory.fd)),
                (errno.EEXIST, (65536, 4096, memory.fd, 4096)),
                (errno.EEXIST, (0, 1 << 20, memory.fd)),
                (errno.EINVAL, (1 << 30, 1 << 30, memory.fd)),
                (errno.EINVAL, (1 << 30, 4096, memory.fd, 1 << 20))):
            with self.subTest(args=args):
                self.refused(code, client.dma_map, *args)
        self.refused(errno.EINVAL, client.dma_map, 0, 4096, memory.fd, flags=8)
        self.refused(errno.EINVAL, client.dma_unmap, 65536, 8)
        self.refused(errno.EINVAL, client.dma_map, 1 << 30, 8, memory.fd)
        self.refused(errno.ENOENT, client.dma_unmap, 0, 4096)
        self.refused(errno.ENOTSUP, client.dma_unmap, 65536, 65536, flags=1)
        self.refused(errno.EINVAL, client.dma_unmap, 65536, 65536, flags=UNMAP_ALL)
        client.dma_unmap(65536, 65536)

    def test_files_that_are_no_memory_are_refused(self):
        client = self.client()
        ends = os.pipe()
        pair = [client.own(end.detach()) for end in socket.socketpair()]
        for fd in client.eventfd(), client.own(ends[0]), client.own(ends[1]), pair[0]:
            with self.assertRaises(Refused):
                client.dma_map(0, 4096, fd)

    def test_memory_that_is_cut_off_fails_its_device(self):
        with NetDriver(self.model.socket('m0')) as net:
            net.start()
            net.exchange()
            os.ftruncate(net.memory.fd, 0)
            net.doorbells[0].ring()
            net.doorbells[1].ring()
            self.assertTrue(wait_until(lambda: net.function.status() & NEEDS_RESET))
            os.ftruncate(net.memory.fd, net.memory.size)

    def test_memory_changes_while_queues_run(self):
        net, other = self.net().start(), self.memory()
        for i in range(20):
            net.client.dma_map(1 << 32, 1 << 20, other.fd)
            net.exchange()
            net.client.dma_unmap(1 << 32, 1 << 20)
            net.exchange()

    def guest_mappings(self):
        with open(f'/proc/{self.model.pid}/maps') as f:
            return sum('uvdpa-guest' in line for line in f)

    def test_memory_that_comes_page_by_page_is_one(self):
        """So does QEMU's for a guest with an IOMMU that translates: the rings are across pages too."""
        net, before = self.net(), self.guest_mappings()
        net.client.dma_unmap(flags=UNMAP_ALL)
        pages = list(range(0, net.memory.size, 4096))
        for at in pages[1::2] + pages[::2]:
            net.client.dma_map(net.memory.GPA + at, 4096, net.memory.fd, offset=at)
        net.start()
        net.exchange()
        self.assertEqual(self.guest_mappings(), before + 1)
        # While its queues run: pages that are not theirs go and come back, one by one.
        for at in pages[-4:]:
            net.client.dma_unmap(net.memory.GPA + at, 4096)
            net.exchange()
        for at in pages[-1:-5:-1]:
            net.client.dma_map(net.memory.GPA + at, 4096, net.memory.fd, offset=at)
            net.exchange()
        self.assertEqual(self.guest_mappings(), before + 1)

    def test_queues_whose_memory_goes_stand_still_until_it_is_back(self):
        net = self.net().start()
        net.exchange()
        for _ in range(3):
            net.client.dma_unmap(net.memory.GPA, net.memory.size)
            with self.assertRaises(AssertionError):
                net.exchange(timeout=0.1)
            self.assertEqual(net.function.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
            net.client.dma_map(net.memory.GPA, net.memory.size, net.memory.fd)
            # What was sent meanwhile comes now.
            self.assertTrue(wait_until(lambda: net.rx.poll() is not None))
            self.assertTrue(wait_until(lambda: net.tx.poll() is not None))
            net.exchange()


class Interrupts(ModelTest):
    def test_vectors_are_set_and_swapped_while_the_queue_runs(self):
        net = self.net().start()
        net.exchange()
        self.assertEqual(net.interrupted(net.rx.call_fd), 1)
        for _ in range(5):
            new = net.client.eventfd()
            net.client.set_vectors(1, [new])
            net.exchange()
            self.assertGreaterEqual(net.interrupted(new), 1)
            self.assertEqual(net.interrupted(net.rx.call_fd, 0), 0)

    def test_vector_that_was_without_eventfd_catches_up(self):
        net = self.net().start()
        net.client.set_irqs(MSIX, DATA_EVENTFD | ACTION_TRIGGER, 1, 1)
        net.exchange()
        self.assertEqual(net.interrupted(net.rx.call_fd, 0), 0)
        net.client.set_vectors(1, [net.rx.call_fd])
        self.assertGreaterEqual(net.interrupted(net.rx.call_fd), 1)

    def test_without_msix_the_line_is_raised_and_masked(self):
        net = self.net(msix=False).start()
        net.exchange()
        self.assertEqual(net.interrupted(net.config_fd), 1)
        net.exchange()
        # The kernel's VFIO masks the line when it signals it.
        self.assertEqual(net.interrupted(net.config_fd, 0.05), 0)
        net.client.set_irqs(INTX, DATA_NONE | ACTION_UNMASK, 0, 1)
        self.assertEqual(net.interrupted(net.config_fd), 1)
        self.assertEqual(net.function.isr(), 1)
        net.client.set_irqs(INTX, DATA_NONE | ACTION_UNMASK, 0, 1)
        self.assertEqual(net.interrupted(net.config_fd, 0.05), 0)

    def test_msix_that_ends_gives_way_to_the_line(self):
        net = self.net().start()
        line = net.client.eventfd()
        net.client.set_irqs(INTX, DATA_EVENTFD | ACTION_TRIGGER, 0, 1, [line])
        net.exchange()
        self.assertEqual(net.interrupted(line, 0.05), 0)
        net.client.disable(MSIX)
        net.exchange()
        self.assertEqual(net.interrupted(line), 1)

    def test_triggers_of_the_client_loop_back(self):
        client = self.client()
        fds = [client.eventfd() for _ in range(3)]
        client.set_vectors(2, fds)
        client.set_irqs(MSIX, DATA_NONE | ACTION_TRIGGER, 2, 1)
        client.set_irqs(MSIX, DATA_BOOL | ACTION_TRIGGER, 2, 3, data=b'\0\1\0')
        self.assertEqual([os.eventfd_read(fd) for fd in fds[:2]], [1, 1])
        with self.assertRaises(BlockingIOError):
            os.eventfd_read(fds[2])

    def test_configuration_change_interrupts(self):
        net = self.net().start()
        before = net.function.get(GENERATION)
        self.model.set('m0', 'link down')
        try:
            self.assertEqual(net.interrupted(net.config_fd), 1)
            self.assertEqual(net.function.isr(), 2)
            self.assertNotEqual(net.function.get(GENERATION), before)
            self.assertEqual(net.function.device_config(6, 2), b'\0\0')
        finally:
            self.model.set('m0', 'link up')

    def test_bad_requests_are_refused(self):
        client = self.client()
        fd = client.eventfd()
        trigger = DATA_EVENTFD | ACTION_TRIGGER
        for args in ((5, trigger, 0, 1, [fd]), (MSIX, trigger, 6, 1, [fd]), (MSIX, trigger, 0, 7, [fd] * 7),
                     (MSIX, trigger, 0xFFFFFFFF, 2, [fd] * 2), (MSIX, trigger, 0, 2, [fd]),
                     (MSIX, trigger, 0, 0, [fd]), (1, trigger, 0, 1, [fd]), (MSIX, DATA_EVENTFD, 0, 1, [fd]),
                     (MSIX, DATA_NONE | trigger, 0, 1, [fd]), (MSIX, DATA_NONE | ACTION_TRIGGER, 0, 1, [fd]),
                     (MSIX, trigger | ACTION_MASK, 0, 1, [fd]), (MSIX, trigger | 64, 0, 1, [fd]),
                     (MSIX, DATA_BOOL | ACTION_TRIGGER, 0, 3)):
            with self.subTest(args=args):
                self.refused(errno.EINVAL, client.set_irqs, *args)
        self.refused(errno.ENOTSUP, client.set_irqs, MSIX, DATA_NONE | ACTION_MASK, 0, 1)

    def test_socket_that_lingers_holds_nobody_up(self):
        """The last close() of it waits; sent as an eventfd, or in a message that never ends."""
        def as_eventfd(client, sock):
            client.send(SET_IRQS, struct.pack('<IIIII', 20, DATA_EVENTFD | ACTION_TRIGGER, MSIX, 0, 1), [sock.fileno()])

        def queued(client, sock):
            client.send_raw(client.message(GET_INFO, bytes(16)) * 100)
            client.send_raw(bytes(1), [sock.fileno()])

        for how in as_eventfd, queued:
            with self.subTest(how.__name__):
                client = self.client()
                sock, peer = harness.lingering()
                how(client, sock)
                sock.close()
                client.sock.close()
                time.sleep(0.1)
                self.healthy.client.sock.settimeout(2)
                self.healthy.client.info()
                self.healthy.client.sock.settimeout(TIMEOUT_S)
                peer.close()

    def test_what_is_no_eventfd_is_refused(self):
        client, memory = self.client(), self.memory()
        good = client.eventfd()
        ends = [client.own(fd) for fd in os.pipe()]
        for fd in ends[0], ends[1], memory.fd:
            self.refused(errno.EINVAL, client.set_vectors, 0, [good, fd])
        # None of such a request counts.
        client.set_irqs(MSIX, DATA_NONE | ACTION_TRIGGER, 0, 1)
        with self.assertRaises(BlockingIOError):
            os.eventfd_read(good)

    def test_counter_at_its_limit_stops_nobody(self):
        net = self.net().start()
        for fd in net.rx.call_fd, net.tx.call_fd, net.config_fd:
            os.eventfd_write(fd, (1 << 64) - 2)
            os.set_blocking(fd, True)
        for _ in range(3):
            net.exchange()
        self.model.set('m0', 'link down')
        self.model.set('m0', 'link up')
        net.exchange()


class Regions(ModelTest):
    def test_reads_and_writes_of_any_size_within(self):
        client = self.client()
        for count in 1, 2, 3, 4, 8, 16, 4096:
            self.assertEqual(len(client.read(CONFIG_REGION, 0, count)), count)
            client.write(1, 0, bytes(count))
        self.assertEqual(client.read(CONFIG_REGION, 0, 4), bytes.fromhex('f41a4110'))

    def test_accesses_outside_are_refused(self):
        client = self.client()
        for region, offset, count in ((CONFIG_REGION, 4096, 1), (CONFIG_REGION, 4093, 4), (4, 32768, 1),
                                      (4, (1 << 64) - 1, 2), (0, 0, 4), (9, 0, 4), (0xFFFFFFFF, 0, 4),
                                      (4, 0, 0), (4, 0, 4097), (4, 0, 0xFFFFFFFF)):
            with self.subTest(region=region, offset=offset, count=count):
                payload = struct.pack('<QII', offset, region, count)
                self.refused(errno.EINVAL, client.ask, REGION_READ, payload)
                self.refused(errno.EINVAL, client.ask, REGION_WRITE, payload + bytes(min(count, 4096)))

    def test_write_with_less_data_than_it_says_is_refused(self):
        client = self.client()
        self.refused(errno.EINVAL, client.ask, REGION_WRITE, struct.pack('<QII', 0, 1, 8) + bytes(7))

    def test_posted_write_is_not_answered(self):
        client = self.client()
        client.write(1, 16, b'\x12\x34\x56\x78', reply=False)
        self.assertEqual(client.read(1, 16, 4), b'\x12\x34\x56\x78')

    def test_reset_is_of_the_whole_function(self):
        net = self.net().start()
        net.client.reset()
        self.assertEqual(net.function.status(), 0)
        self.assertEqual(net.client.read(CONFIG_REGION, 4, 2), b'\0\0')
        net.function.set(QUEUE_SELECT, 1)
        self.assertEqual(net.function.get(QUEUE_ENABLE), 0)


class Framing(ModelTest):
    DEVICES = ModelTest.DEVICES + ('name filler mgmtdev sim_net vectors 64',)

    def test_other_commands_are_refused(self):
        client = self.client()
        for command in (0, GET_REGION_IO_FDS, DMA_READ, DMA_WRITE, 14, WRITE_MULTI, MIG_READ, MIG_WRITE, 19, 0xFFFF):
            with self.subTest(command=command):
                self.refused(errno.ENOTSUP, client.ask, command, bytes(64))
        # The command of a function that has none of the features.
        self.refused(errno.ENOTTY, client.ask, DEVICE_FEATURE, bytes(64))

    def test_short_payloads_are_refused(self):
        client = self.client()
        for command, size in ((DMA_MAP, 32), (DMA_UNMAP, 24), (GET_INFO, 16), (GET_REGION_INFO, 32),
                              (GET_IRQ_INFO, 16), (SET_IRQS, 20), (REGION_READ, 16), (REGION_WRITE, 16)):
            with self.subTest(command=command):
                self.refused(errno.EINVAL, client.ask, command, bytes(size - 1))
                self.refused(errno.EINVAL, client.ask, command)

    def test_file_descriptors_where_none_belong_are_refused(self):
        client = self.client()
        fd = client.eventfd()
        self.refused(errno.EINVAL, client.ask, GET_INFO, bytes(16), [fd])
        self.refused(errno.EINVAL, client.ask, DMA_MAP, struct.pack('<IIQQQ', 32, 3, 0, 0, 4096), [fd, fd])
        self.refused(errno.EINVAL, client.ask, RESET, fds=[fd] * 64)

    def test_too_many_file_descriptors_end_the_connection(self):
        client = self.client()
        fd = client.eventfd()
        client.send(RESET, fds=[fd] * 65)
        self.assertTrue(client.is_closed())

    def test_impossible_sizes_end_the_connection(self):
        for size in 0, 15, 8193, 0xFFFFFFFF:
            with self.subTest(size=size), Client(self.model.socket('m0')) as client:
                client.send(GET_INFO, bytes(16), size=size)
                self.assertTrue(client.is_closed())

    def test_replies_are_not_replied_to(self):
        client = self.client()
        client.send(GET_INFO, bytes(16), flags=REPLY)
        client.send(GET_INFO, bytes(16), flags=15)
        client.info()

    def test_message_in_pieces_is_put_together(self):
        client = self.client()
        memory = self.memory()
        message = client.message(DMA_MAP, struct.pack('<IIQQQ', 32, 3, 0, 0, 4096))
        for i, piece in enumerate(message):
            client.send_raw(bytes([piece]), [memory.fd] if i == 20 else [])
        self.assertEqual(client.recv()[2:4], (REPLY, 0))
        self.refused(errno.EEXIST, client.dma_map, 0, 4096)

    def test_messages_in_one_piece_are_taken_apart(self):
        client = self.client()
        client.send_raw(b''.join(client.message(GET_INFO, bytes(16)) for _ in range(100)))
        self.assertEqual([client.recv()[3] for _ in range(100)], [0] * 100)

    def test_client_that_does_not_read_stalls_only_itself(self):
        client = self.client()
        client.sock.setblocking(False)
        message = client.message(REGION_READ, struct.pack('<QII', 0, CONFIG_REGION, 4096))
        for _ in range(100000):
            try:
                client.sock.send(message)
            except BlockingIOError:
                break
        else:
            self.fail('everything was taken')
        before = harness.cpu_seconds(self.model.pid)
        start = harness.running()
        for _ in range(10):
            self.healthy.exchange()
        self.assertLess(harness.running() - start, 5)
        time.sleep(0.5)
        self.assertLess(harness.cpu_seconds(self.model.pid) - before, 0.4)

    def test_half_a_message_stalls_only_its_sender(self):
        client = self.client()
        client.send_raw(client.message(REGION_READ, bytes(16))[:20])
        self.healthy.exchange()
        client.send_raw(client.message(REGION_READ, bytes(16))[20:])
        with self.assertRaises(socket.timeout):
            client.sock.settimeout(0.2)
            client.send_raw(b'\x01')
            client.recv()
            client.recv()

    def test_second_client_is_refused(self):
        client = self.client()
        with self.assertRaises(Closed):
            Client(self.model.socket('m0'))
        client.info()

    @contextlib.contextmanager
    def no_more_files(self):
        """The model can open no file meanwhile."""
        pid = self.model.pid
        limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)

        def connected():
            try:
                return Client(self.model.socket('filler'))
            except Closed:
                return None

        # The one before may still be on its way out.
        with wait_until(connected) as filler:
            used = {int(fd) for fd in os.listdir(f'/proc/{pid}/fd')}
            filler.set_vectors(0, [filler.eventfd() for fd in range(max(used)) if fd not in used])
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(used) + 1, limit[1]))
            try:
                yield
            finally:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)

    def test_client_for_whom_there_is_no_file_descriptor_is_refused_with_the_cause(self):
        with self.no_more_files():
            for _ in range(50):
                with Client(self.model.socket('m0'), version=False) as client:
                    self.assertTrue(client.is_closed())
            self.model.err.wait('m0: vfio-user: a client is refused: .* as many files open .*ulimit -n', self.lines)
            self.healthy.exchange()
        self.assertEqual(sum('is refused' in line for line in self.model.err.lines[self.lines:]), 1)
        # The next one is served, now that it can be; and it is told again when it cannot.
        self.client().close()
        with self.no_more_files(), Client(self.model.socket('m0'), version=False) as client:
            self.assertTrue(client.is_closed())
        self.assertTrue(wait_until(
            lambda: sum('is refused' in line for line in self.model.err.lines[self.lines:]) == 2))

    def test_file_descriptor_for_which_there_is_no_room_is_named_as_the_cause(self):
        client = self.client()
        with self.no_more_files():
            client.send(RESET, fds=[client.eventfd()] * 2)
            self.assertTrue(client.is_closed())
        self.model.err.wait('m0: .*could not be received: .*ulimit -n', self.lines)

    def test_disconnect_at_every_step_leaves_nothing(self):
        memory = self.memory()
        for steps in range(6):
            with Client(self.model.socket('m0')) as client:
                function = Function(client)
                for step in (lambda: client.dma_map(memory.GPA, memory.size, memory.fd),
                             lambda: client.set_vectors(0, [client.eventfd() for _ in range(6)]),
                             lambda: function.negotiate(F_VERSION_1),
                             lambda: function.setup_queue(SplitRing(memory, 0), 1),
                             lambda: function.set(STATUS, 15))[:steps]:
                    step()
            self.serve()


class Descriptors(ModelTest):
    """What a client sends and nobody wants is closed, whatever its close waits for."""

    # As VDPA_FD_WAITING_MAX has it.
    WAITING_MAX = 64

    def send(self, client, fds):
        """A message that no file descriptor may come with."""
        client.send(GET_INFO, struct.pack('<IIII', 16, 0, 0, 0), fds)

    def give(self, client, sockets):
        """The same with sockets that only the model has by the time it has the whole message."""
        message = client.message(GET_INFO, struct.pack('<IIII', 16, 0, 0, 0))
        client.send_raw(message[:1], [sock.fileno() for sock in sockets])
        for sock in sockets:
            sock.close()
        client.send_raw(message[1:])

    def lingering(self):
        """A socket whose close waits for longer than the test, and what ends that."""
        sock, peer = harness.lingering(600)
        self.addCleanup(sock.close)
        self.addCleanup(peer.close)
        return sock, peer

    def test_floods_leave_none(self):
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(file).fileno() for file in (
                open('/dev/null', 'rb'), socket.socket(socket.AF_UNIX), socket.socket(), open(__file__, 'rb'))]
            for fd in files:
                sent = 0
                while sent < 500:
                    try:
                        with self.client() as client:
                            while sent < 500:
                                self.send(client, [fd] * 64)
                                sent += 1
                                client.recv()
                    except Closed:
                        pass
                self.healthy.exchange()

    def test_the_end_of_a_connection_is_not_kept(self):
        """In half a message: were it, nobody would hear that the client has gone."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for queued in False, True:
                with self.subTest(queued=queued), self.client() as client:
                    if queued:
                        socket.send_fds(ours, [b'x'], [client.sock.fileno()])
                    client.send_raw(client.message(GET_INFO)[:8], [(theirs if queued else client.sock).fileno()])
                    self.assertTrue(client.is_closed())
        self.model.err.wait('m0: .*no empty half of a socket pair', self.lines)

    def test_files_that_each_wait_a_little_are_all_closed(self):
        """Every one is the last descriptor of its file, so its close is the one that works."""
        sent = 0
        while sent < 3000:
            try:
                with self.client() as client:
                    while sent < 3000:
                        sent += 1
                        self.give(client, [end for _ in range(4) for end in socket.socketpair()])
                        client.recv()
            except Closed:
                pass

    def test_sender_whose_sockets_linger_is_hung_up_and_holds_nobody_up(self):
        client, linger = self.client(), [self.lingering() for _ in range(self.WAITING_MAX + 2)]
        for i in range(0, len(linger), 22):
            self.give(client, [sock for sock, _ in linger[i:i + 22]])
        with self.assertRaises(Closed):
            while True:
                client.recv()
        self.model.err.wait('m0: .*too many of its file descriptors do not close', self.lines)
        # Who comes back waits; others are served, and what they send is closed.
        client = self.client(version=False)
        self.model.err.wait('m0: .*cannot be accepted: 66 file descriptors .* do not close', self.lines)
        for _ in range(3):
            ours, theirs = socket.socketpair()
            with ours:
                self.give(self.healthy.client, [theirs])
                self.assertEqual(self.healthy.client.recv()[2] & ERROR, ERROR)
                ours.settimeout(TIMEOUT_S)
                self.assertEqual(ours.recv(1), b'')
        self.healthy.exchange()
        harness.wait_for(lambda: harness.threads(self.model.pid).count('vdpa-closer') == 1,
                         'the closers to end but for the one that cannot')
        for _, peer in linger:
            peer.close()
        client.version()
        client.close()

    def test_device_whose_clients_descriptors_do_not_close_can_be_deleted(self):
        path = self.model.socket('m1')
        self.model.add(f'name m1 mgmtdev sim_net vfio_user {path}')
        sock, peer = self.lingering()
        with Client(path) as client:
            self.give(client, [sock])
            client.recv()
            self.model.delete('m1')
            self.assertTrue(client.is_closed())
        self.healthy.exchange()
        peer.close()


class Socket(ModelTest):
    def test_is_its_owners(self):
        self.assertEqual(os.stat(self.model.socket('m0')).st_mode & 0o777, 0o600)

    def test_stale_one_is_replaced_and_a_live_one_is_not(self):
        words = 'name m1 mgmtdev sim_net vfio_user '
        stale = self.model.socket('stale')
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(stale)
        self.model.add(words + stale)
        self.model.delete('m1')
        self.assertFalse(os.path.exists(stale))
        got = self.model.refusal('dev.add', words=words + self.model.socket('m0'))
        self.assertIn('is in use by m0', got)
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(stale)
            s.listen()
            self.assertIn('is in use by another process', self.model.refusal('dev.add', words=words + stale))
        plain = os.path.join(self.model.dir, 'file')
        with open(plain, 'w'):
            pass
        self.assertIn('a file that is no socket is there', self.model.refusal('dev.add', words=words + plain))
        self.assertTrue(os.path.exists(plain))
        self.assertIn('allowed are 1 to 107', self.model.refusal('dev.add', words=f'{words}/{"x" * 200}'))

    def test_what_lies_at_its_path_by_then_stays(self):
        path = self.model.socket('m1')
        for what in 'file', 'socket', 'nothing':
            with self.subTest(what):
                self.model.add(f'name m1 mgmtdev sim_net vfio_user {path}')
                os.unlink(path)
                if what == 'file':
                    with open(path, 'w'):
                        pass
                elif what == 'socket':
                    with socket.socket(socket.AF_UNIX) as s:
                        s.bind(path)
                self.model.delete('m1')
                self.assertEqual(os.path.exists(path), what != 'nothing')
                if what != 'nothing':
                    os.unlink(path)

    def test_device_is_deleted_under_its_client(self):
        path = self.model.socket('m1')
        self.model.add(f'name m1 mgmtdev sim_net vfio_user {path}')
        with NetDriver(path) as net:
            net.start()
            net.exchange()
            self.assertEqual(self.model.show('m1')['frontend_info'], f'vfio-user {path} connected')
            self.model.delete('m1')
            self.assertTrue(net.client.is_closed())
        self.assertFalse(os.path.exists(path))


if __name__ == '__main__':
    unittest.main()
