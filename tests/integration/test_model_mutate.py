#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Mutated vfio-user messages against vdpa-model, from a fixed seed: valid ones of a client that sets
a function up, in any order, with bytes, sizes, flags, file descriptors and guest memory changed.
UVDPA_SEED and UVDPA_MESSAGES choose others. test_mutate_vfio_user.py does it to vdpa-app.
"""

import collections
import os
import random
import select
import socket
import struct
import unittest

from vfio_user_client import *

SEED = int(os.environ.get('UVDPA_SEED', '20260117'))
MESSAGES = int(os.environ.get('UVDPA_MESSAGES', '30000'))
# Messages of one connection, at most.
SESSION = 80

INTERESTING = (0, 1, 2, 3, 4, 7, 8, 63, 64, 255, 4095, 4096, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF,
               0x80000000, 0xFFFFFFFF)


# Kinds of functions: BAR of virtio's structures, where they begin, queue size, bits of a selector, upper halves
# of the features to accept.
Kind = collections.namedtuple('Kind', 'bar base num select features')
VIRTIO, IFCVF = Kind(4, 0, 16, 0, (1, 5, 0x101)), Kind(0, 0, 64, 0, (3,))
OCTEP = Kind(4, 0x1000, 16, 0x8000, (1, 5, 0x101))
KINDS = {'ifcvf': IFCVF, 'octep': OCTEP}
LM_BAR, MAILBOX = 4, 0x3040


class Mutate(ModelTest):
    DEVICES = ('name m0 mgmtdev sim_net max_vqp 2', 'name healthy mgmtdev sim_net',
               'name blk mgmtdev sim_blk backend ram 1M', 'name ifcvf mgmtdev sim_net max_vqp 2 function ifcvf',
               'name octep mgmtdev sim_net max_vqp 2 function octep')
    kind = VIRTIO
    # Which devices sessions are with, and which of them must have run.
    CHOICE, MUST_RUN = ('m0', 'm0', 'blk', 'ifcvf', 'octep'), ('ifcvf', 'octep', 'm0')

    def setUp(self):
        super().setUp()
        self.random = random.Random(SEED)
        self.mem = self.memory()
        # The last three are of kinds whose close may wait, 64 in a message more than may wait at once.
        pair = socket.socketpair()
        self.files = [self.mem.fd, os.eventfd(0, os.EFD_NONBLOCK), os.open('/dev/null', os.O_RDWR),
                      os.open(__file__, os.O_RDONLY), pair[0].detach(), pair[1].detach()]
        self.new_rings()
        self.counts = collections.Counter()

    def tearDown(self):
        for fd in self.files[1:]:
            os.close(fd)
        super().tearDown()

    def new_rings(self):
        self.mem.next = 0
        self.rings = [SplitRing(self.mem, i, self.kind.num) for i in range(2)]
        self.mem.write(0, bytes(self.mem.next))

    def register(self, register, value):
        at, kind = register
        if register in (DEVICE_FEATURE_SELECT, DRIVER_FEATURE_SELECT, QUEUE_SELECT):
            value |= self.kind.select
        elif register == STATUS and value == 0 and self.kind is OCTEP:
            value = 0x80
        return self.store(self.kind.bar, self.kind.base + at, struct.pack(kind, value))

    def store(self, region, offset, data):
        return REGION_WRITE, struct.pack('<QII', offset, region, len(data)) + data, []

    def load(self, region, offset, count):
        return REGION_READ, struct.pack('<QII', offset, region, count), []

    def extra(self):
        """Messages about what a kind has beside virtio."""
        rnd, gpa = self.random, self.mem.GPA
        if self.kind is IFCVF:
            log = gpa + 4096 * rnd.randrange(256)
            return rnd.choice((
                self.store(LM_BAR, 0x20 + rnd.choice((0, 4, 0x40, 0x44)), struct.pack('<I', rnd.choice(
                    (0, 0, 0, rnd.choice(INTERESTING))))),
                self.load(LM_BAR, rnd.choice((0, 8, 0x10, 0x20, 0x24, 0x60)), rnd.choice((1, 4, 64))),
                self.store(LM_BAR, 0x10, struct.pack('<QQ', log, log + rnd.choice((1, 64, 4096, 1 << 20)))),
                self.store(LM_BAR, 0, struct.pack('<I', rnd.randrange(4))),
                self.register(QUEUE_ENABLE, rnd.randrange(2))))
        if self.kind is OCTEP:
            return rnd.choice((
                self.store(4, MAILBOX + 24, struct.pack('<IQ', rnd.randrange(7), rnd.choice((0, 0, 0, rnd.choice(INTERESTING))))),
                self.store(4, MAILBOX + 8, struct.pack('<I', rnd.randrange(2))),
                self.store(4, MAILBOX + 2, struct.pack('<HHH', rnd.randrange(4), 0, 0xDEAD)),
                self.load(4, MAILBOX, 36),
                self.load(4, 0x1000, 64),
                self.store(4, 0x4004 + 4096 * rnd.randrange(5), struct.pack('<I', rnd.randrange(2))),
                self.load(4, 0x4004 + 4096 * rnd.randrange(5), 4),
                self.register(QUEUE_ENABLE, rnd.randrange(2))))
        return self.ring_bell()

    def ring_bell(self):
        queue = self.random.randrange(3)
        return self.store(self.kind.bar, self.kind.base + 0x3000 + 4096 * queue, struct.pack('<H', queue))

    def select(self, register, value):
        """A selector, and looks at it, which an acknowledgement takes."""
        yield self.register(register, value)
        for _ in range(2 if self.kind.select else 0):
            yield self.load(self.kind.bar, self.kind.base + register[0], struct.calcsize(register[1]))

    def setup(self):
        """The messages of a driver's way to a running queue."""
        ring, gpa = self.random.choice(self.rings), self.mem.GPA
        yield DMA_MAP, struct.pack('<IIQQQ', 32, RW, 0, gpa, self.mem.size), [self.mem.fd]
        yield SET_IRQS, struct.pack('<IIIII', 20, DATA_EVENTFD | ACTION_TRIGGER, MSIX, 0, 2), [self.files[1]] * 2
        yield REGION_WRITE, struct.pack('<QIIH', 4, CONFIG_REGION, 2, 6), []
        for status in 0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER:
            yield self.register(STATUS, status)
        yield from self.select(DRIVER_FEATURE_SELECT, 1)
        yield self.register(DRIVER_FEATURES, self.random.choice(self.kind.features))
        yield self.register(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        yield from self.select(QUEUE_SELECT, ring.index)
        yield self.register(QUEUE_SIZE, self.kind.num)
        yield self.register(QUEUE_VECTOR, 1)
        for register, part in (QUEUE_DESC, ring.desc), (QUEUE_DRIVER, ring.driver), (QUEUE_DEVICE, ring.device):
            yield self.register(register, gpa + part)
        yield self.register(QUEUE_ENABLE, 1)
        for _ in range(self.random.choice((0, 0, 1, 3)) if self.kind is not VIRTIO else 0):
            yield self.extra()
        yield self.register(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

    def valid(self):
        """A message that is right by itself: command, payload, file descriptors."""
        rnd = self.random
        region = rnd.choice((1, 2, 4, 4, 4, CONFIG_REGION))
        offset = rnd.choice((0, 16, 0x14, 0x34, 0x1000, 0x2000, 0x3000 + 4096 * rnd.randrange(5), rnd.randrange(256)))
        count = rnd.choice((1, 2, 4, 8, 64))
        base = self.mem.GPA + 4096 * rnd.randrange(512)
        return rnd.choice((
            (VERSION, struct.pack('<HH', 0, 1) + b'{}\0', []),
            (DMA_MAP, struct.pack('<IIQQQ', 32, RW, 0, base, 4096 * rnd.randrange(1, 8)), [self.mem.fd]),
            (DMA_MAP, struct.pack('<IIQQQ', 32, READ, 0, base, 4096), []),
            (DMA_UNMAP, struct.pack('<IIQQ', 24, 0, self.mem.GPA, self.mem.size), []),
            (DMA_UNMAP, struct.pack('<IIQQ', 24, UNMAP_ALL, 0, 0), []),
            (GET_INFO, struct.pack('<IIII', 16, 0, 0, 0), []),
            (GET_REGION_INFO, struct.pack('<IIIIQQ', rnd.choice((32, 4096)), 0, rnd.randrange(9), 0, 0, 0), []),
            (GET_IRQ_INFO, struct.pack('<IIII', 16, 0, rnd.randrange(5), 0), []),
            (SET_IRQS, struct.pack('<IIIII', 20, DATA_EVENTFD | ACTION_TRIGGER, MSIX, 1, 2), [self.files[1]] * 2),
            (SET_IRQS, struct.pack('<IIIII', 20, DATA_EVENTFD | ACTION_TRIGGER, INTX, 0, 1), [self.files[1]]),
            (SET_IRQS, struct.pack('<IIIII', 20, DATA_NONE | ACTION_UNMASK, INTX, 0, 1), []),
            (SET_IRQS, struct.pack('<IIIII', 20, DATA_NONE | ACTION_TRIGGER, MSIX, 0, 0), []),
            (SET_IRQS, struct.pack('<IIIII', 24, DATA_BOOL | ACTION_TRIGGER, MSIX, 0, 4) + b'\1\0\1\1', []),
            (REGION_READ, struct.pack('<QII', offset, region, count), []),
            (REGION_WRITE, struct.pack('<QII', offset, region, count) + rnd.randbytes(count), []),
            self.register(rnd.choice((QUEUE_SELECT, QUEUE_SIZE, QUEUE_VECTOR, QUEUE_ENABLE, QUEUE_RESET)),
                          rnd.choice((0, 1, 2, 16, 0xFFFF))),
            self.ring_bell(),
            self.extra(),
            (RESET, b'', []),
            (rnd.randrange(20), rnd.randbytes(32), []),
        ))

    def mutate(self, command, payload, fds):
        """The message, with 0 to 2 things changed."""
        rnd = self.random
        size, flags, payload = None, CMD, bytearray(payload)
        for _ in range(rnd.choice((0, 0, 1, 1, 1, 2))):
            what = rnd.randrange(9)
            if what == 0 and payload:
                payload[rnd.randrange(len(payload))] ^= 1 << rnd.randrange(8)
            elif what in (1, 2) and len(payload) >= 4:
                at = rnd.randrange(len(payload) - 3) & ~3
                struct.pack_into('<I', payload, at, rnd.choice(INTERESTING))
            elif what == 3 and len(payload) >= 8:
                at = rnd.randrange(len(payload) - 7) & ~7
                struct.pack_into('<Q', payload, at, rnd.choice(INTERESTING) << rnd.choice((0, 12, 32)) & (1 << 64) - 1)
            elif what == 4:
                payload = payload[:rnd.randrange(len(payload) + 1)]
            elif what == 5:
                payload += rnd.randbytes(rnd.choice((1, 8, 4096)))
            elif what == 6:
                flags = rnd.choice((NO_REPLY, REPLY, ERROR, 15, 0xFFFFFFFF, 0x80))
            elif what == 7:
                # Of all kinds, or a message full of one.
                kinds = rnd.choice((self.files, self.files[:2], [rnd.choice(self.files)]))
                fds = [rnd.choice(kinds) for _ in range(rnd.choice((0, 1, 2, 3, 64, 70)))]
            elif what == 8 and rnd.randrange(8) == 0:
                size = rnd.choice(INTERESTING)
        return command, bytes(payload), fds, flags, size

    def scribble(self):
        """What a driver shares with the function: rings, buffers, doorbells."""
        rnd, ring = self.random, self.random.choice(self.rings)
        what = rnd.randrange(12)
        if what == 0:
            ring.set_desc(rnd.randrange(16), self.mem.GPA + rnd.choice((0, 65536, 1 << 30)),
                          rnd.choice(INTERESTING), rnd.randrange(8), rnd.randrange(20))
        elif what == 1:
            ring.submit(rnd.choice((0, 1, 15, 16, 0xFFFF)))
        elif what == 2:
            self.mem.set_u16(ring.driver + 2, rnd.randrange(65536))
        else:
            ring.add(65536, 256, bool(rnd.randrange(2)))

    def drain(self, client):
        """Take what replies there are, counted."""
        while select.select([client.sock], [], [], 0)[0]:
            _, command, flags, _, _ = client.recv()
            self.counts[command, 'refused' if flags & ERROR else 'done'] += 1
            for fd in client.owned:
                os.close(fd)
            client.owned = []

    def session(self, device, most):
        """One connection of at most so many messages; how many were sent."""
        rnd, sent = self.random, 0
        self.kind = KINDS.get(device, VIRTIO)
        self.new_rings()
        with Client(self.model.socket(device), version=rnd.randrange(10) != 0) as client:
            # A part of the way right, so that every state is met.
            script = list(self.setup())[:rnd.choice((0, 5, 12, 99, 99, 99))]
            if self.kind is not VIRTIO:
                script += [rnd.choice((self.extra, self.ring_bell))() for _ in range(rnd.randrange(30))]
            try:
                while sent < most:
                    if script and rnd.randrange(24) != 0:
                        command, payload, fds = script.pop(0)
                        client.send(command, payload, fds)
                    elif rnd.randrange(3) == 0:
                        # Let a queue run, if there is one, on what is in its ring by now.
                        for ring in self.rings:
                            ring.add(65536, 256, ring.index == 0)
                        command, payload, fds = self.ring_bell()
                        client.send(command, payload, fds)
                        self.drain(client)
                    else:
                        command, payload, fds, flags, size = self.mutate(*self.valid())
                        client.send(command, payload, fds, flags=flags, size=size)
                    sent += 1
                    if rnd.randrange(4) == 0:
                        self.scribble()
                    if rnd.randrange(4) == 0:
                        self.drain(client)
                # A message that is believed to go on swallows the next ones: no more than this.
                client.sock.shutdown(1)
                client.sock.settimeout(TIMEOUT_S)
                while True:
                    _, command, flags, _, _ = client.recv()
                    self.counts[command, 'refused' if flags & ERROR else 'done'] += 1
            except (Closed, OSError):
                self.counts['ended'] += 1
        return sent

    def queue(self, device):
        """Statistics of its second queue, which transmits."""
        return self.model.stats(device)['queues'].get('1', {})

    def lacking(self):
        """What the messages so far have not reached yet: kinds of functions, and commands with an outcome."""
        least = MESSAGES // 2000
        commands = [(command, outcome)
                    for command in (DMA_MAP, DMA_UNMAP, GET_REGION_INFO, GET_IRQ_INFO, SET_IRQS, REGION_READ, REGION_WRITE)
                    for outcome in ('done', 'refused') if self.counts[command, outcome] <= least]
        if not self.counts[RESET, 'done']:
            commands.append((RESET, 'done'))
        devices = []
        for device in self.MUST_RUN:
            queue = self.queue(device)
            if queue.get('kicks', 0) <= 10 or queue.get('received_desc', 0) <= 10:
                devices.append(device)
        return devices, commands

    def test_mutated_messages(self):
        """Each command was understood, and refused, many times: the mutations reach behind the door. Queues ran, on
        rings and descriptors that were as good and as bad. How many of a session's messages a queue runs for is
        chance and timing: sessions go on, with the devices that lack something, until nothing does."""
        sent, devices, commands = 0, [], []
        while sent < MESSAGES or devices or commands:
            self.assertLess(sent, 4 * MESSAGES + 10000, (devices, commands))
            device = self.random.choice(devices or self.CHOICE)
            wait_until(lambda: not self.model.is_connected(device))
            sent += self.session(device, self.random.randrange(1, SESSION))
            self.assertIsNone(self.model.process.poll(), self.model.err.text()[-8000:])
            if sent >= MESSAGES:
                devices, commands = self.lacking()
        self.assertIn('queue 1: ', self.model.err.text())
        print(f'seed {SEED}: {sent} messages, {sum(self.counts.values())} replies', flush=True)


if __name__ == '__main__':
    unittest.main()
