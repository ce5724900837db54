#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A daemon that is killed or restarted under clients of the front end vfio-user: the next one goes on, on the
same connections. The guests number what they send and write, as in test_restart."""

import contextlib
import fcntl
import os
import random
import select
import signal
import struct
import termios
import threading
import time
import unittest

import harness
import restarting
import test_upgrade
import vfio_user_client as vfu
from upgrading import Upgrades
from vfio_user_client import ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK

KILLS = harness.count(4, 100)
RESTARTS = harness.count(2, 5)
AT_LEAST = 8  # requests under way at a kill that counts
SEED = int(os.environ.get('UVDPA_TEST_SEED', '0')) or random.SystemRandom().randrange(1, 1 << 32)
DISK = 'mgmtdev sim_blk backend file {folder}/disk0.disk queues 2 delay_ms 10'
NET = 'mgmtdev sim_net backend loopback'
ROM = 1 << 40  # an address where the client has memory that nobody can reach


class Host(restarting.Host):
    def words(self, name):
        return f'name {name} {self.devices[name].format(folder=self.folder)} vfio_user {{dir}}/{name}.sock'


class Driven:
    """A guest whose driver writes registers, and whose client waits over any number of kills. trap: its doorbells
    are messages."""

    trap = False

    def connect(self, path):
        self.client = vfu.Client(path, timeout=20 * harness.TIMEOUT)
        self.function = vfu.Function(self.client)
        half = self.memory.size // 2
        for at in half, 0:
            self.client.dma_map(self.memory.GPA + at, half, self.memory.fd, at)
        self.client.dma_map(ROM, 4096)
        return self

    def start(self):
        f = self.function
        f.set_command(6)
        assert f.negotiate(self.features), 'features refused'
        self.config_fd = self.client.eventfd()
        self.client.set_vectors(0, [self.config_fd, *self.call_fds])
        f.set(vfu.CONFIG_VECTOR, 0)
        for i, q in enumerate(self.queues):
            assert f.setup_queue(q, i + 1) == (i + 1, 1)
        area = None if self.trap else f.map_doorbells()
        assert self.trap or area is not None
        for q in self.queues:
            q.kick = vfu.Doorbell(f, q.index, area).ring
        f.set(vfu.STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        return self

    def stand_still(self):
        self.function.set_command(2)

    def go_on(self):
        self.function.set_command(6)

    def check_connection(self):
        """Nobody has closed it; it has an answer for each question, and no more answers."""
        assert self.function.status() == ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, self.function.status()
        assert not select.select([self.client.sock], [], [], 0)[0], 'closed, or an answer without a question'

    def has_failed(self):
        return bool(self.function.status() & vfu.NEEDS_RESET)


class KeptBlock(Driven, restarting.KeptBlock):
    pass


class KeptNet(Driven, restarting.KeptNet):
    pass


class Crash(unittest.TestCase):
    def blocks(self, packed, end, times):
        rng = random.Random(f'{SEED} {packed} {end}')
        under_way = 0
        with Host({'disk0': DISK}) as host, KeptBlock(rng, packed) as guest:
            # One by memory, the other by messages.
            guest.trap = packed
            guest.connect(host.app.socket('disk0')).start()
            for _ in range(times):
                stop = time.monotonic() + rng.random() * 0.1
                while time.monotonic() < stop or len(guest.pending) < AT_LEAST:
                    guest.work()
                under_way += len(guest.pending)
                getattr(host, end)(taken=1)
                guest.check_connection()
            guest.settle()
            guest.read_back()
            guest.check()
            self.assertFalse(guest.has_failed())
            harness.figure(f'seed {SEED}: {times} times {end}, {under_way} requests under way; {guest.account()}')

    def frames(self, packed, end, times):
        rng = random.Random(f'{SEED} {packed} {end}')
        with Host({'net0': NET}) as host, KeptNet(rng, packed) as guest:
            guest.trap = not packed
            guest.connect(host.app.socket('net0')).start()
            for _ in range(times):
                guest.work(rng.random() * 0.1)
                getattr(host, end)(taken=1)
                guest.check_connection()
            guest.work(0.1)
            guest.settle()
            guest.check()
            self.assertFalse(guest.has_failed())
            if end == 'restart':
                self.assertEqual(guest.again, 0, guest.account())
            harness.figure(f'seed {SEED}: {times} times {end}: {guest.account()}')

    def test_a_disk_outlives_kills(self):
        for packed in False, True:
            with self.subTest(packed=packed):
                self.blocks(packed, 'crash', KILLS)

    def test_frames_outlive_kills(self):
        for packed in False, True:
            with self.subTest(packed=packed):
                self.frames(packed, 'crash', KILLS)

    def test_both_outlive_restarts(self):
        for packed in False, True:
            with self.subTest(packed=packed):
                self.blocks(packed, 'restart', RESTARTS)
                self.frames(packed, 'restart', RESTARTS)


class Messages(unittest.TestCase):
    """Kills while the client talks: its driver stands still and starts, memory and interrupts come and go. Each
    request is answered, and once: whatever comes out of step fails the guest."""

    def talk(self, guest):
        client, memory = guest.client, guest.memory
        guest.work()
        guest.stand_still()
        self.assertFalse(guest.has_failed())
        guest.go_on()
        # All of the rings' memory goes, and comes back.
        half = memory.size // 2
        client.dma_unmap(memory.GPA, memory.size)
        for at in 0, half:
            client.dma_map(memory.GPA + at, half, memory.fd, at)
        client.set_vectors(1, guest.call_fds[:1])
        client.set_vectors(2, guest.call_fds[1:])
        guest.check_connection()
        guest.work()

    def under(self, end, times):
        rng = random.Random(f'{SEED} talk {end}')
        for packed in False, True:
            with self.subTest(packed=packed), Host({'disk0': DISK}) as host, KeptBlock(rng, packed) as guest:
                guest.trap = packed
                guest.connect(host.app.socket('disk0')).start()
                failure, done = [], threading.Event()

                def kill():
                    try:
                        for _ in range(times):
                            time.sleep(rng.random() * 0.1)
                            getattr(host, end)(taken=1)
                    except BaseException as error:  # pylint: disable=broad-except
                        failure.append(error)
                    done.set()

                killer = threading.Thread(target=kill)
                killer.start()
                rounds = 0
                try:
                    while not done.is_set():
                        self.talk(guest)
                        rounds += 1
                finally:
                    killer.join()
                self.assertEqual(failure, [])
                guest.settle()
                guest.read_back()
                guest.check()
                harness.figure(f'seed {SEED}: {times} times {end} in {rounds} rounds; {guest.account()}')

    def test_under_kills(self):
        self.under('crash', KILLS)

    def test_under_restarts(self):
        """A message that was begun is carried out before the devices are stopped, or by the next daemon."""
        self.under('restart', KILLS)

    def test_at_each_step(self):
        """Killed before each system call of a round, so that requests are read and not carried out, carried out
        and not recorded, recorded and not answered."""
        with Host({'net0': NET}) as host:
            guest = host.enter_context(KeptNet(random.Random(f'{SEED} steps')))
            guest.connect(host.app.socket('net0')).start()
            arm, kills = f'{host.folder}/arm', 0
            for step in range(1, 90, harness.count(17, 1)):
                host.app.kill()
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(arm)
                self.assertFalse(host.fails(step, arm))
                talk = threading.Thread(target=self.talk, args=(guest,))
                with open(arm, 'wb'):
                    talk.start()
                while talk.is_alive() and host.app.process.poll() is None:
                    talk.join(0.05)
                if host.app.process.poll() is not None:
                    kills += 1
                    host.crash(taken=1)
                talk.join()
            self.assertGreater(kills, 3)
            host.crash(taken=1)
            guest.work(0.05)
            guest.settle()
            guest.check()
            harness.figure(f'{kills} kills at steps of messages')

    def test_at_steps_of_a_start(self):
        """With buffers that were there before DRIVER_OK, which a queue takes before its start is recorded."""
        with Host({'net0': NET}) as host:
            arm, kills = f'{host.folder}/arm', 0
            for step in range(1, 280, harness.count(63, 3)):
                host.app.kill()
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(arm)
                self.assertFalse(host.fails(step, arm))
                with KeptNet(random.Random(step), packed=step % 2 == 0) as guest:
                    guest.trap = True
                    guest.connect(host.app.socket('net0'))
                    guest.feed()
                    talk = threading.Thread(target=guest.start)
                    with open(arm, 'wb'):
                        talk.start()
                    while talk.is_alive() and host.app.process.poll() is None:
                        talk.join(0.05)
                    kills += host.app.process.poll() is not None
                    host.crash(taken=1)
                    talk.join()
                    for q in guest.queues:
                        q.kick()
                    guest.work(0.05)
                    guest.settle()
                    guest.check()
                harness.wait_for(lambda: host.app.show('net0')['frontend_info'].endswith(' waiting'), 'the end of a client')
            self.assertGreater(kills, 2)

    def test_what_stands_still_goes_on_later(self):
        """A driver that is in the midst of its set-up; one whose queues stand still, by bus master or for want of
        their memory."""
        for packed in False, True:
            with self.subTest(packed=packed), Host({'net0': NET}) as host, \
                    KeptNet(random.Random(f'{SEED} still'), packed) as guest:
                guest.connect(host.app.socket('net0'))
                guest.function.negotiate(guest.features)
                host.crash(taken=1)
                self.assertEqual(guest.function.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK)
                guest.start().work(0.02)
                guest.stand_still()
                host.crash(taken=1)
                guest.work()
                guest.go_on()
                guest.work(0.02)
                guest.client.dma_unmap(guest.memory.GPA, guest.memory.size)
                host.crash(taken=1)
                guest.work()
                guest.check_connection()
                guest.client.dma_map(guest.memory.GPA, guest.memory.size, guest.memory.fd)
                guest.work(0.02)
                guest.settle()
                guest.check()

    def test_the_interrupt_line(self):
        with Host({'net0': NET}) as host, \
                vfu.NetDriver(host.app.socket('net0'), msix=False, timeout=20 * harness.TIMEOUT) as net:
            net.start().exchange()
            host.crash(taken=1)
            net.exchange()
            self.assertTrue(net.interrupted(net.config_fd))
            self.assertTrue(net.function.isr() & 1)
            net.client.set_irqs(vfu.INTX, vfu.DATA_NONE | vfu.ACTION_UNMASK, 0, 1)
            host.crash(taken=1)
            net.exchange()
            self.assertTrue(net.interrupted(net.config_fd))

    def test_half_a_request_is_read_on(self):
        with Host({'net0': NET}) as host, KeptNet(random.Random(1)) as guest:
            guest.connect(host.app.socket('net0')).start()
            client, fds = guest.client, [guest.client.eventfd() for _ in range(3)]
            whole = client.message(vfu.SET_IRQS, struct.pack('<IIIII', 20, vfu.DATA_EVENTFD | vfu.ACTION_TRIGGER, vfu.MSIX, 0, 3))
            # A part of the header, of what is behind it, and between the two; with what comes with it.
            for cut in 5, 16, 27:
                client.send_raw(whole[:cut], fds)
                harness.wait_for(lambda: not self.unread(client), 'the half to be read')
                host.crash(taken=1)
                self.assertEqual(select.select([client.sock], [], [], 0)[0], [])
                client.send_raw(whole[cut:])
                self.assertEqual(client.recv()[2], vfu.REPLY)
            for fd in fds:
                client.set_irqs(vfu.MSIX, vfu.DATA_NONE | vfu.ACTION_TRIGGER, fds.index(fd), 1)
                self.assertGreaterEqual(os.eventfd_read(fd), 1)
            guest.check_connection()

    @staticmethod
    def unread(client):
        """Bytes that the other end has not read."""
        siocoutq = 0x5411
        import fcntl  # pylint: disable=import-outside-toplevel
        return struct.unpack('i', fcntl.ioctl(client.sock, siocoutq, b'\0' * 4))[0]

    def test_answers_that_nobody_read_are_there(self):
        with Host({'net0': NET}) as host, KeptNet(random.Random(1)) as guest:
            guest.connect(host.app.socket('net0')).start()
            client, sent = guest.client, []
            # More than fits the socket: some are carried out and not answered, others not read.
            for _ in range(60):
                client.send(vfu.REGION_READ, struct.pack('<QII', 0, vfu.CONFIG_REGION, 4096))
                sent.append(client.id)
                if len(sent) % 20 == 0:
                    host.crash(taken=1)
            for number in sent:
                got, command, flags, error, data = client.recv()
                self.assertEqual((got, command, flags, error, len(data)), (number, vfu.REGION_READ, vfu.REPLY, 0, 16 + 4096))
                self.assertEqual(data[16:16 + 4], guest.function.config[:4])
            guest.check_connection()


class Handing(Upgrades):
    words = Host.words


class Upgrade(test_upgrade.Case):
    """The same connections while both daemons live."""

    def begin(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.host = self.stack.enter_context(Handing({'disk0': DISK, 'net0': NET}))
        rng = random.Random(f'{SEED} upgrade')
        self.guests = [self.stack.enter_context(KeptBlock(rng)), self.stack.enter_context(KeptNet(rng, packed=True))]
        for guest, name in zip(self.guests, ('disk0', 'net0')):
            guest.connect(self.host.app.socket(name)).start()

    def test_under_traffic(self):
        self.begin()
        for _ in range(harness.count(2, 20)):
            with self.traffic():
                self.host.upgrade(devices=2)
        self.check()

    test_a_new_daemon_that_dies_with_the_devices = test_upgrade.Failures.test_a_new_daemon_that_dies_with_the_devices


class Words(unittest.TestCase):
    """What is said of those that do not go on, and what is left of those that do."""

    def test_what_cannot_go_on_says_so_and_starts_anew(self):
        with Host({'ram': 'mgmtdev sim_blk backend ram 8388608', 'net0': NET, 'moves': f'{NET} device_state on'}) as host:
            host.app.err.wait('ram: vfio-user: starts anew in the next process: the disk of backend ram ends')
            with KeptNet(random.Random(1)) as guest, KeptNet(random.Random(2)) as moving, \
                    vfu.Client(host.app.socket('ram')) as client:
                guest.connect(host.app.socket('net0')).start()
                moving.connect(host.app.socket('moves')).start()
                moving.client.set_state(vfu.STATE_STOP)
                host.app.err.wait('moves: vfio-user: this connection ends with the process: its device.s state is being moved')
                host.crash(taken=1)
                self.assertTrue(client.is_closed())
                self.assertTrue(moving.client.is_closed())
                guest.work(0.05)
                guest.settle()
                guest.check()
            with KeptNet(random.Random(2)) as moving:
                moving.connect(host.app.socket('moves')).start()
                moving.client.set_state(vfu.STATE_STOP)
                moving.client.set_state(vfu.STATE_RUNNING)
                host.crash(taken=2)
                moving.check_connection()

    def test_a_client_with_too_many_ranges_ends(self):
        with Host({'net0': NET}) as host, KeptNet(random.Random(1)) as guest:
            guest.connect(host.app.socket('net0')).start()
            for i in range(3200):
                guest.client.send(vfu.DMA_MAP, struct.pack('<IIQQQ', 32, vfu.RW, 0, ROM + 8192 * (i + 1), 4096), flags=vfu.NO_REPLY)
            host.app.err.wait('net0: vfio-user: does not go on in the next process: its (state is too long|client has mapped)')
            guest.work(0.02)
            guest.settle()
            guest.check_connection()
            host.crash(taken=0)
            self.assertTrue(guest.client.is_closed())

    def test_clients_come_and_go_and_nothing_piles_up(self):
        with Host({'net0': NET}) as host:
            path, first = f'/proc/{host.keeper.process.pid}/fd', None
            inode = os.stat(host.app.socket('net0')).st_ino
            for i in range(5):
                with KeptNet(random.Random(i)) as guest:
                    guest.connect(host.app.socket('net0')).start()
                    Messages.talk(self, guest)
                    host.crash(taken=1)
                    guest.work(0.01)
                    guest.settle()
                    guest.check()
                harness.wait_for(lambda: host.app.show('net0')['frontend_info'].endswith(' waiting'), 'the end of a client')
                host.crash(taken=1)
                first = first or len(os.listdir(path))
                # What is dropped is closed by and by.
                harness.wait_for(lambda: len(os.listdir(path)) <= first + 2, 'the keeper to have no more than at first')
            self.assertEqual(os.stat(host.app.socket('net0')).st_ino, inode)

    def queued(self, host, client, *parts):
        """The daemon finds all of them at once: errors of their replies."""
        harness.stand_still(host.app.pid)
        for data, fds in parts:
            client.send_raw(data, fds)
        host.app.process.send_signal(signal.SIGCONT)
        return [client.recv()[3] for _ in parts]

    def test_descriptors_are_those_of_their_message(self):
        """A look at a message that ends where the next one begins shows descriptors of that."""
        def mapping(address, size=65536, offset=0):
            return client.message(vfu.DMA_MAP, struct.pack('<IIQQQ', 32, vfu.RW, offset, address, size))

        with Host({'net0': NET}) as host, vfu.Client(host.app.socket('net0'), timeout=20 * harness.TIMEOUT) as client:
            fd = client.own(os.memfd_create('memory', os.MFD_ALLOW_SEALING))
            os.ftruncate(fd, 1 << 20)
            info = client.message(vfu.GET_INFO, struct.pack('<IIII', 16, 0, 0, 0))
            unmapping = client.message(vfu.DMA_UNMAP, struct.pack('<IIQQ', 24, 0, 0, 65536))
            self.assertEqual(self.queued(host, client, (info, ()), (mapping(0), [fd])), [0, 0])
            self.assertEqual(self.queued(host, client, (unmapping, ()), (mapping(1 << 20), [fd])), [0, 0])
            self.assertEqual(self.queued(host, client, (mapping(1 << 21), [fd]), (mapping(1 << 22, offset=65536), [fd])), [0, 0])
            # Of a message that was begun, too: what has no file stays without.
            begun, other = mapping(1 << 40), mapping(1 << 23)
            client.send_raw(begun[:16])
            harness.wait_for(lambda: fcntl.ioctl(client.sock, termios.TIOCOUTQ, bytes(4)) == bytes(4), 'the header to be read')
            harness.stand_still(host.app.pid)
            client.send_raw(begun[16:])
            client.send_raw(other, [fd])
            host.app.process.send_signal(signal.SIGCONT)
            self.assertEqual([client.recv()[3] for _ in range(2)], [0, 0])
            # A range with a file is cut between pages alone.
            client.dma_unmap((1 << 40) + 100, 65536 - 100)
            # Neither the daemon nor its successor has anything else.
            host.crash(taken=1)
            self.assertRaises(vfu.Refused, client.dma_unmap, (1 << 23) + 100, 65536 - 100)
            client.dma_unmap(1 << 23, 65536)

    def test_descriptors_that_nobody_wants_do_not_pile_up(self):
        with Host({'net0': NET}) as host, vfu.Client(host.app.socket('net0')) as client:
            before = len(os.listdir(f'/proc/{host.keeper.process.pid}/fd'))
            fds = [client.eventfd() for _ in range(16)]
            for _ in range(20):
                self.assertRaises(vfu.Refused, client.ask, vfu.REGION_READ, struct.pack('<QII', 0, vfu.CONFIG_REGION, 4), fds)
            client.read(vfu.CONFIG_REGION, 0, 4)
            harness.wait_for(lambda: len(os.listdir(f'/proc/{host.keeper.process.pid}/fd')) <= before + 16, 'the keeper to have no more')

    def test_shutdown_ends_all(self):
        with Host({'net0': NET}) as host, KeptNet(random.Random(1)) as guest:
            guest.connect(host.app.socket('net0')).start()
            host.app.call('daemon.shutdown')
            self.assertEqual(host.app.process.wait(harness.TIMEOUT), 0)
            self.assertTrue(guest.client.is_closed())
            self.assertFalse(os.path.exists(host.app.socket('net0')))
            host.app.kill()
            host.next(taken=0)


load_tests = harness.load_tests


if __name__ == '__main__':
    unittest.main(verbosity=2)
