# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A vfio-user client on the raw socket, well-behaved or not, and a virtio-pci driver on it.

Classes: Client (messages), Function (registers of a virtio-pci function by the capabilities that it
shows), NetDriver (a loopback exchange through both rings of a net device), Model (vdpa-model under
test). Rings and guest memory are those of vhost_user_client.
"""

import array
import errno
import json
import mmap
import os
import select
import socket
import struct
import time
import unittest

import harness
from vhost_user_client import Memory, PackedRing, SplitRing, wait_until, F_VERSION_1

MODEL = os.environ.get('UVDPA_MODEL', 'vdpa-model')
TIMEOUT_S = 15.0

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION_INFO, GET_REGION_IO_FDS = 1, 2, 3, 4, 5, 6
GET_IRQ_INFO, SET_IRQS, REGION_READ, REGION_WRITE = 7, 8, 9, 10
DMA_READ, DMA_WRITE, RESET, WRITE_MULTI, DEVICE_FEATURE, MIG_READ, MIG_WRITE = 11, 12, 13, 15, 16, 17, 18
CMD, REPLY, NO_REPLY, ERROR = 0, 1, 1 << 4, 1 << 5

FEATURE_GET, FEATURE_SET, FEATURE_PROBE = 1 << 16, 1 << 17, 1 << 18
MIGRATION, MIG_DEVICE_STATE = 1, 2
STATE_ERROR, STATE_STOP, STATE_RUNNING, STATE_STOP_COPY, STATE_RESUMING, STATE_RUNNING_P2P = range(6)
CONFIG_REGION = 7
INTX, MSIX = 0, 2
DATA_NONE, DATA_BOOL, DATA_EVENTFD, ACTION_MASK, ACTION_UNMASK, ACTION_TRIGGER = (1 << i for i in range(6))
READ, WRITE, RW = 1, 2, 3
UNMAP_ALL = 2

# Registers of the common configuration: offset and struct format.
DEVICE_FEATURE_SELECT, DEVICE_FEATURES = (0, '<I'), (4, '<I')
DRIVER_FEATURE_SELECT, DRIVER_FEATURES = (8, '<I'), (12, '<I')
CONFIG_VECTOR, NUM_QUEUES, STATUS, GENERATION = (16, '<H'), (18, '<H'), (20, '<B'), (21, '<B')
QUEUE_SELECT, QUEUE_SIZE, QUEUE_VECTOR, QUEUE_ENABLE = (22, '<H'), (24, '<H'), (26, '<H'), (28, '<H')
QUEUE_NOTIFY_OFF, QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = (30, '<H'), (32, '<Q'), (40, '<Q'), (48, '<Q')
QUEUE_RESET = (58, '<H')
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128
NO_VECTOR = 0xFFFF
F_ACCESS_PLATFORM, F_RING_RESET, F_NOTIFICATION_DATA = 1 << 33, 1 << 40, 1 << 38


class Closed(Exception):
    """The server has closed the connection."""


class Refused(Exception):
    """An error reply; its errno is in errno."""

    def __init__(self, command, code):
        super().__init__(f'command {command}: {errno.errorcode.get(code, code)}')
        self.errno = code


class Client:
    """One connection. What it opens is closed with it."""

    def __init__(self, path, timeout=TIMEOUT_S, version=True):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.owned = []
        self.id = 0
        try:
            self.sock.connect(path)
            if version:
                self.version()
        except BaseException:
            self.close()
            raise

    def close(self):
        self.sock.close()
        for fd in self.owned:
            os.close(fd)
        self.owned = []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def own(self, fd):
        self.owned.append(fd)
        return fd

    def eventfd(self):
        return self.own(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def send_raw(self, data, fds=()):
        try:
            if fds:
                self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))])
            else:
                self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as e:
            raise Closed(str(e)) from e

    def message(self, command, payload=b'', flags=CMD, size=None, error=0):
        self.id = (self.id + 1) & 0xFFFF
        size = 16 + len(payload) if size is None else size
        return struct.pack('<HHIII', self.id, command, size, flags, error) + payload

    def send(self, command, payload=b'', fds=(), **kw):
        self.send_raw(self.message(command, payload, **kw), fds)

    def recv_exact(self, n):
        data = b''
        while len(data) < n:
            try:
                chunk, anc, _, _ = self.sock.recvmsg(n - len(data), socket.CMSG_SPACE(64 * 4))
            except ConnectionResetError as e:
                raise Closed(str(e)) from e
            for level, kind, value in anc:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    for fd in array.array('i', value[:len(value) // 4 * 4]):
                        self.fds.append(self.own(fd))
            if not chunk:
                raise Closed('end of file')
            data += chunk
        return data

    def recv(self):
        """The next message: id, command, flags, error, payload. File descriptors are in self.fds."""
        self.fds = []
        number, command, size, flags, error = struct.unpack('<HHIII', self.recv_exact(16))
        return number, command, flags, error, self.recv_exact(size - 16)

    def ask(self, command, payload=b'', fds=()):
        """A request: the payload of its reply. Raises Refused."""
        self.send(command, payload, fds)
        number, got, flags, error, data = self.recv()
        assert (number, got, flags & 15) == (self.id, command, REPLY), (number, got, flags)
        if flags & ERROR:
            assert not data
            raise Refused(command, error)
        return data

    def version(self, capabilities=True, major=0, minor=1):
        text = json.dumps({'capabilities': {'max_msg_fds': 8}}).encode() + b'\0' if capabilities else b''
        data = self.ask(VERSION, struct.pack('<HH', major, minor) + text)
        assert data[-1:] == b'\0'
        return struct.unpack_from('<HH', data), json.loads(data[4:-1])

    def info(self):
        return struct.unpack('<IIII', self.ask(GET_INFO, struct.pack('<IIII', 16, 0, 0, 0)))

    def region_info(self, index, argsz=4096):
        """flags, size, offset, sparse areas as (offset, size), file descriptor or None"""
        data = self.ask(GET_REGION_INFO, struct.pack('<IIIIQQ', argsz, 0, index, 0, 0, 0))
        _, flags, got, cap, size, offset = struct.unpack_from('<IIIIQQ', data)
        assert got == index
        areas = []
        if cap:
            kind, _, _, n = struct.unpack_from('<HHII', data, cap)
            assert kind == 1
            areas = [struct.unpack_from('<QQ', data, cap + 16 + 16 * i) for i in range(n)]
        return flags, size, offset, areas, self.fds[0] if self.fds else None

    def irq_info(self, index):
        _, flags, _, count = struct.unpack('<IIII', self.ask(GET_IRQ_INFO, struct.pack('<IIII', 16, 0, index, 0)))
        return flags, count

    def set_irqs(self, index, flags, start, count, fds=(), data=b''):
        self.ask(SET_IRQS, struct.pack('<IIIII', 20 + len(data), flags, index, start, count) + data, fds)

    def set_vectors(self, start, fds):
        self.set_irqs(MSIX, DATA_EVENTFD | ACTION_TRIGGER, start, len(fds), fds)

    def disable(self, index):
        self.set_irqs(index, DATA_NONE | ACTION_TRIGGER, 0, 0)

    def dma_map(self, address, size, fd=None, offset=0, flags=RW):
        self.ask(DMA_MAP, struct.pack('<IIQQQ', 32, flags, offset, address, size), [] if fd is None else [fd])

    def dma_unmap(self, address=0, size=0, flags=0):
        return self.ask(DMA_UNMAP, struct.pack('<IIQQ', 24, flags, address, size))

    def read(self, region, offset, count):
        data = self.ask(REGION_READ, struct.pack('<QII', offset, region, count))
        assert struct.unpack_from('<QII', data) == (offset, region, count)
        return data[16:]

    def write(self, region, offset, data, reply=True):
        payload = struct.pack('<QII', offset, region, len(data)) + data
        if not reply:
            self.send(REGION_WRITE, payload, flags=NO_REPLY)
            return
        got = self.ask(REGION_WRITE, payload)
        assert got == payload[:16]

    def reset(self):
        self.ask(RESET)

    def feature(self, flags, data=b''):
        """DEVICE_FEATURE: the data of the reply."""
        got = self.ask(DEVICE_FEATURE, struct.pack('<II', 4096, flags) + data)
        assert struct.unpack_from('<I', got, 4) == (flags,)
        return got[8:]

    def set_state(self, state):
        self.feature(FEATURE_SET | MIG_DEVICE_STATE, struct.pack('<II', state, 0xFFFFFFFF))

    def state(self):
        return struct.unpack('<II', self.feature(FEATURE_GET | MIG_DEVICE_STATE))[0]

    def read_state(self, size=4096):
        """All that is left of the stream."""
        data = b''
        while True:
            got = self.ask(MIG_READ, struct.pack('<II', 8 + size, size))
            argsz, n = struct.unpack_from('<II', got)
            assert argsz == len(got) == 8 + n, (argsz, n, len(got))
            data += got[8:]
            if n < size:
                return data

    def write_state(self, data, size=4096):
        for at in range(0, len(data), size):
            part = data[at:at + size]
            assert self.ask(MIG_WRITE, struct.pack('<II', 8 + len(part), len(part)) + part) == b''

    def save(self):
        """Stop the device; its state."""
        self.set_state(STATE_STOP_COPY)
        return self.read_state()

    def load(self, data, size=4096):
        """The device stands still with that state."""
        self.set_state(STATE_RESUMING)
        self.write_state(data, size)
        self.set_state(STATE_STOP)

    def is_closed(self, timeout=TIMEOUT_S):
        end = wait_until(lambda: select.select([self.sock], [], [], 0.05)[0] or None, timeout)
        if not end:
            return False
        try:
            return self.sock.recv(1 << 16) == b''
        except ConnectionResetError:
            return True


class Function:
    """A virtio-pci function: its capabilities, and accesses to the structures they name."""

    def __init__(self, client):
        self.client = client
        self.config = client.read(CONFIG_REGION, 0, 256)
        self.caps = {}
        self.cap_offsets = {}
        self.read_caps(self.config)

    def read_caps(self, space):
        """The capabilities in 256 bytes, and the structures that they name."""
        at = space[0x34]
        while at:
            cap, at_next = space[at], space[at + 1]
            if cap == 9:
                kind, bar = space[at + 3], space[at + 4]
                offset, length = struct.unpack_from('<II', space, at + 8)
                self.caps[kind] = bar, offset, length
                if kind == 2:
                    self.multiplier, = struct.unpack_from('<I', space, at + 16)
            self.cap_offsets.setdefault((cap, space[at + 3] if cap == 9 else 0), at)
            at = at_next

    def get(self, register):
        bar, offset, _ = self.caps[1]
        at, kind = register
        return struct.unpack(kind, self.client.read(bar, offset + at, struct.calcsize(kind)))[0]

    def set(self, register, value):
        bar, offset, _ = self.caps[1]
        at, kind = register
        if kind == '<Q':
            self.client.write(bar, offset + at, struct.pack('<I', value & 0xFFFFFFFF))
            self.client.write(bar, offset + at + 4, struct.pack('<I', value >> 32))
        else:
            self.client.write(bar, offset + at, struct.pack(kind, value))

    def isr(self):
        bar, offset, _ = self.caps[3]
        return self.client.read(bar, offset, 1)[0]

    def device_config(self, at, n):
        bar, offset, _ = self.caps[4]
        return self.client.read(bar, offset + at, n)

    def status(self):
        return self.get(STATUS)

    def device_features(self):
        value = 0
        for i in range(2):
            self.set(DEVICE_FEATURE_SELECT, i)
            value |= self.get(DEVICE_FEATURES) << 32 * i
        return value

    def negotiate(self, features):
        """Up to FEATURES_OK; whether it stays set."""
        self.set(STATUS, 0)
        if not wait_until(lambda: self.status() == 0, 1):
            raise TimeoutError('the reset does not complete')
        self.set(STATUS, ACKNOWLEDGE)
        self.set(STATUS, ACKNOWLEDGE | DRIVER)
        for i in range(2):
            self.set(DRIVER_FEATURE_SELECT, i)
            self.set(DRIVER_FEATURES, features >> 32 * i & 0xFFFFFFFF)
        self.set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        return bool(self.status() & FEATURES_OK)

    def set_command(self, value):
        self.client.write(CONFIG_REGION, 4, struct.pack('<H', value))

    def setup_queue(self, ring, vector=NO_VECTOR):
        """Everything of a queue, to enabled; what its vector and its enable read back."""
        self.set(QUEUE_SELECT, ring.index)
        self.set(QUEUE_SIZE, ring.num)
        self.set(QUEUE_VECTOR, vector)
        granted = self.get(QUEUE_VECTOR)
        gpa = ring.memory.GPA
        self.set(QUEUE_DESC, gpa + ring.desc)
        self.set(QUEUE_DRIVER, gpa + ring.driver)
        self.set(QUEUE_DEVICE, gpa + ring.device)
        self.set(QUEUE_ENABLE, 1)
        return granted, self.get(QUEUE_ENABLE)

    def doorbell(self, index):
        """BAR and offset of a queue's doorbell."""
        bar, offset, length = self.caps[2]
        self.set(QUEUE_SELECT, index)
        at = offset + self.get(QUEUE_NOTIFY_OFF) * self.multiplier
        assert at + 2 <= offset + length
        return bar, at

    def map_doorbells(self):
        """The notification area, mapped; None when it is trapped."""
        bar, offset, length = self.caps[2]
        _, _, base, areas, fd = self.client.region_info(bar)
        for at, size in areas:
            if at <= offset and offset + length <= at + size:
                return mmap.mmap(fd, length, offset=base + offset)
        return None


class OctepFunction(Function):
    """One like octep: capabilities in BAR 4, selectors that are acknowledged, a mailbox, flags."""

    BAR, SELECTORS, MAILBOX = 4, (DEVICE_FEATURE_SELECT, DRIVER_FEATURE_SELECT, QUEUE_SELECT), 64

    def __init__(self, client):
        super().__init__(client)
        assert not self.caps
        self.read_caps(client.read(self.BAR, 0, 256))

    def set(self, register, value):
        if register not in self.SELECTORS:
            super().set(register, 0x80 if register == STATUS and value == 0 else value)
            return
        super().set(register, value | 0x8000)
        if not wait_until(lambda: self.get(register) == value, 2):
            raise TimeoutError('a selector is not acknowledged')

    def mailbox(self, number, queue, state=None):
        """A request, and the state in its answer. Raises OSError with the mailbox's error."""
        bar, offset, _ = self.caps[4]
        at = offset + self.MAILBOX

        def status():
            return struct.unpack('<I', self.client.read(bar, at + 8, 4))[0]

        assert status() & 1
        self.client.write(bar, at + 24, struct.pack('<I', queue))
        if state is not None:
            self.client.write(bar, at + 28, struct.pack('<Q', state))
        self.client.write(bar, at + 8, bytes(4))
        self.client.write(bar, at + 2, struct.pack('<H', number))
        self.client.write(bar, at + 6, struct.pack('<H', 0xDEAD))
        if not wait_until(lambda: status() & 1, 2):
            raise TimeoutError('the mailbox does not answer')
        assert self.client.read(bar, at + 6, 2) == struct.pack('<H', 0xBEEF)
        code = (status() & 0xFFFE) >> 1
        if code:
            raise OSError(code, os.strerror(code))
        return struct.unpack('<Q', self.client.read(bar, at + 28, 8))[0]

    def place(self, queue, state):
        self.mailbox(1, queue, state)

    def where(self, queue):
        return self.mailbox(2, queue)

    def flag(self, queue):
        bar, at = self.doorbell(queue)
        return struct.unpack('<I', self.client.read(bar, at + 4, 4))[0]

    def clear_flag(self, queue):
        bar, at = self.doorbell(queue)
        self.client.write(bar, at + 4, bytes(4))


class Doorbell:
    """Kicks of a queue, by memory where it can be mapped."""

    def __init__(self, function, index, area):
        self.function, self.index, self.area = function, index, area
        self.bar, self.at = function.doorbell(index)

    def ring(self, reply=True):
        if self.area is None:
            self.function.client.write(self.bar, self.at, struct.pack('<H', self.index), reply)
            return
        words = memoryview(self.area).cast('H')
        words[(self.at - self.function.caps[2][1]) // 2] = self.index
        words.release()


NET_HDR = 12


def next_client(path, timeout=TIMEOUT_S):
    """A client of a server that may not have seen the end of the last one yet, and hangs up on a second."""
    end = time.monotonic() + timeout
    while True:
        try:
            return Client(path, timeout)
        except (Closed, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


class NetDriver:
    """A net function driven over one queue pair: what is sent comes back (back end loopback)."""

    def __init__(self, path, ring=SplitRing, features=0, trap=False, msix=True, pair=0, timeout=TIMEOUT_S,
                 function=Function, memory=None):
        """memory: the caller's, of a guest with several devices; else its own."""
        self.client = next_client(path, timeout)
        self.own_memory = memory is None
        self.memory = Memory() if memory is None else memory
        self.area = None
        self.msix = msix
        self.trap = trap
        self.features = F_VERSION_1 | ring.FEATURE | features
        self.rx, self.tx = ring(self.memory, 2 * pair), ring(self.memory, 2 * pair + 1)
        self.rx_buf, self.tx_buf = self.memory.alloc(4096), self.memory.alloc(4096)
        self.count = 0
        try:
            self.function = function(self.client)
            self.client.dma_map(self.memory.GPA, self.memory.size, self.memory.fd)
        except BaseException:
            self.close()
            raise

    def start(self, before=None):
        """before: called when all is set up, and does not run yet."""
        f = self.function
        f.set_command(6)
        assert f.negotiate(self.features), 'features refused'
        self.config_fd = self.client.eventfd()
        self.rx.call_fd, self.tx.call_fd = self.client.eventfd(), self.client.eventfd()
        if self.msix:
            self.client.set_vectors(0, [self.config_fd, self.rx.call_fd, self.tx.call_fd])
            f.set(CONFIG_VECTOR, 0)
        else:
            self.client.set_irqs(INTX, DATA_EVENTFD | ACTION_TRIGGER, 0, 1, [self.config_fd])
        for i, ring in enumerate((self.rx, self.tx)):
            vector = i + 1 if self.msix else NO_VECTOR
            assert f.setup_queue(ring, vector) == (vector, 1)
        self.area = None if self.trap else f.map_doorbells()
        self.doorbells = [Doorbell(f, ring.index, self.area) for ring in (self.rx, self.tx)]
        if before is not None:
            before()
        f.set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        return self

    def restart(self):
        """After a reset: rings are new then."""
        self.rx, self.tx = (type(ring)(self.memory, ring.index) for ring in (self.rx, self.tx))
        if self.area is not None:
            self.area.close()
        return self.start()

    def exchange(self, timeout=TIMEOUT_S, reply=True):
        """One frame out and back; raises when it does not come or is not the same."""
        self.count += 1
        frame = bytes.fromhex('525400000001525400000002') + b'\x88\xb5' + self.count.to_bytes(4, 'big') * 25
        self.memory.write(self.tx_buf, bytes(NET_HDR) + frame)
        self.memory.write(self.rx_buf, bytes(4096))
        self.rx.add(self.rx_buf, 4096, True)
        self.doorbells[0].ring(reply)
        self.tx.add(self.tx_buf, NET_HDR + len(frame), False)
        self.doorbells[1].ring(reply)
        length = wait_until(self.rx.poll, timeout)
        assert length == NET_HDR + len(frame), f'received {length}'
        assert self.memory.read(self.rx_buf + NET_HDR, len(frame)) == frame, 'frame changed'
        assert wait_until(lambda: self.tx.poll() is not None, timeout), 'transmit buffer not returned'

    def interrupted(self, fd, timeout=TIMEOUT_S):
        """How often fd was signalled, having waited for the first; 0: never."""
        if not select.select([fd], [], [], timeout)[0]:
            return 0
        return os.eventfd_read(fd)

    def close(self):
        if self.area is not None:
            self.area.close()
        self.client.close()
        if self.own_memory:
            self.memory.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Server(harness.Daemon):
    """A daemon whose devices are on vfio-user sockets, in a folder of its own; words of devices without their
    sockets, unless they have one."""

    PROGRAM = None

    def __init__(self, devices=('name m0 mgmtdev sim_net',), **kw):
        words = [words if ' socket ' in words else f'{words} vfio_user {{dir}}/{words.split()[1]}.sock'
                 for words in devices]
        super().__init__(words, app=self.PROGRAM, **kw)

    def is_connected(self, name):
        return self.show(name)['frontend_info'].endswith(' connected')


class Model(Server):
    """vdpa-model."""

    PROGRAM = MODEL

    def model_stats(self, name):
        return self.ask(f'/model/stats,{name}')

    def fault(self, name, faults):
        self.call('model.fault', name=name, fault=faults)


class ModelTest(unittest.TestCase):
    """A model with a device under test, "m0", and one that must not notice, "healthy".

    After every test: the model lives, the healthy device's client has gone on working, m0 serves a
    new client, and file descriptors, mappings and threads are back to where they were.
    """

    DEVICES = ('name m0 mgmtdev sim_net max_vqp 2', 'name healthy mgmtdev sim_net')
    SERVER = Model  # a program whose front end vfio-user is tested

    @classmethod
    def setUpClass(cls):
        cls.model = cls.SERVER(cls.DEVICES)
        cls.model.start()
        try:
            cls.healthy = NetDriver(cls.model.socket('healthy')).start()
            cls.healthy.exchange()
            cls.serve()
            cls.baseline = harness.settled(cls.model.pid)
        except BaseException:
            cls.model.stop()
            print(cls.model.err.text())
            cls.model.cleanup()
            raise

    @classmethod
    def tearDownClass(cls):
        cls.healthy.close()
        code = cls.model.stop()
        text = cls.model.err.text()
        cls.model.cleanup()
        if code != 0 or 'Sanitizer' in text or 'runtime error' in text:
            raise AssertionError(f'the model ended with {code}:\n{text[-8000:]}')

    @classmethod
    def serve(cls):
        """m0 serves a new client; the one before may still be on its way out."""
        def connected():
            try:
                return NetDriver(cls.model.socket('m0'))
            except Closed:
                return None

        with wait_until(connected) as net:
            net.start()
            net.exchange()

    def setUp(self):
        self.closers = []
        self.lines = len(self.model.err.lines)

    def tearDown(self):
        for thing in self.closers:
            thing.close()
        self.assertIsNone(self.model.process.poll(), 'the model died:\n' + self.model.err.text()[-8000:])
        self.healthy.exchange()
        self.serve()
        harness.nothing_left(self.model.pid, self.baseline)

    def client(self, device='m0', **kw):
        """A client that is closed at the end."""
        client = Client(self.model.socket(device), **kw)
        self.closers.append(client)
        return client

    def net(self, device='m0', **kw):
        net = NetDriver(self.model.socket(device), **kw)
        self.closers.append(net)
        return net

    def memory(self):
        memory = Memory()
        self.closers.append(memory)
        return memory

    def refused(self, code, call, *args, **kw):
        with self.assertRaises(Refused) as caught:
            call(*args, **kw)
        self.assertEqual(errno.errorcode[caught.exception.errno], errno.errorcode[code])
