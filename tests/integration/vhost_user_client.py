# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A vhost-user front end on the raw socket, well-behaved or not, with rings in a memfd.

Classes: Client (messages), Memory (guest memory), SplitRing and PackedRing (virtqueues as a driver
has them), Log (the dirty bitmap), NetDriver (a loopback exchange through both rings of a net device), Daemon (vdpa-app
under test) and HostileTest (what must hold after every attack).
"""

import array
import ctypes
import fcntl
import mmap
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import harness

GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE = 1, 2, 3, 4, 5
SET_LOG_BASE, SET_LOG_FD, SET_VRING_NUM, SET_VRING_ADDR = 6, 7, 8, 9
SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL = 10, 11, 12, 13
SET_VRING_ERR, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES = 14, 15, 16
GET_QUEUE_NUM, SET_VRING_ENABLE, SEND_RARP, NET_SET_MTU = 17, 18, 19, 20
SET_BACKEND_REQ_FD, IOTLB_MSG, GET_CONFIG, SET_CONFIG = 21, 22, 24, 25
GET_INFLIGHT_FD, SET_INFLIGHT_FD, RESET_DEVICE = 31, 32, 34
GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG, SET_STATUS, GET_STATUS = 36, 37, 38, 39, 40
SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE, GET_VRING_BASE_SKIP_DRAIN = 42, 43, 45

NAMES = {v: k for k, v in list(globals().items()) if k.isupper() and isinstance(v, int)}

VERSION, REPLY, NEED_REPLY = 1, 4, 8
NOFD = 0x100
F_VERSION_1, F_PACKED, F_INDIRECT, F_EVENT_IDX = 1 << 32, 1 << 34, 1 << 28, 1 << 29
F_CTRL_VQ, F_CTRL_RX, F_GUEST_ANNOUNCE, F_MQ = 1 << 17, 1 << 18, 1 << 21, 1 << 22
F_CTRL_MAC_ADDR = 1 << 23
F_PROTOCOL, F_LOG_ALL, F_MRG_RXBUF = 1 << 30, 1 << 26, 1 << 15
F_ACCESS_PLATFORM = 1 << 33
P_MQ, P_LOG, P_RARP, P_REPLY_ACK, P_MTU, P_BACKEND_REQ = 1, 2, 4, 8, 16, 32
P_CONFIG, P_SEND_FD, P_INFLIGHT, P_RESET, P_STATUS = 1 << 9, 1 << 10, 1 << 12, 1 << 13, 1 << 16
P_MEM_SLOTS = 1 << 15
P_DEVICE_STATE, P_BASE_INFLIGHT, P_SKIP_DRAIN = 1 << 19, 1 << 20, 1 << 23
STATE_SAVE, STATE_LOAD = 0, 1

TIMEOUT_S = 15.0
MEM_NAME = "uvdpa-guest"


def wait_until(condition, timeout=TIMEOUT_S):
    """Poll condition until it is true; its last value."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.005)


class Closed(Exception):
    """The daemon has closed the connection."""


class Client:
    """One connection. Requests that fail raise Closed or return the error of REPLY_ACK."""

    def __init__(self, path, timeout=TIMEOUT_S, connection=None):
        self.sock = connection or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if connection is None:
            # A front end waits where the daemon has not accepted others yet; a socket with Python's time-out
            # would not.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(timeout), 0))
            self.sock.connect(path)
        self.sock.settimeout(timeout)
        self.owned = []

    def close(self):
        self.sock.close()
        for fd in self.owned:
            os.close(fd)
        self.owned = []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def eventfd(self):
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.owned.append(fd)
        return fd

    def send_raw(self, data, fds=()):
        try:
            if fds:
                self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
            else:
                self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as e:
            raise Closed(str(e)) from e

    def send(self, request, payload=b"", fds=(), flags=VERSION, size=None):
        header = struct.pack("<III", request, flags, len(payload) if size is None else size)
        self.send_raw(header + payload, fds)

    def recv_exact(self, n, fds=None):
        data = b""
        while len(data) < n:
            try:
                if fds is None:
                    chunk = self.sock.recv(n - len(data))
                else:
                    chunk, anc, _, _ = self.sock.recvmsg(n - len(data), socket.CMSG_SPACE(32))
                    for level, kind, value in anc:
                        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                            fds.extend(array.array("i", value[: len(value) // 4 * 4]))
            except ConnectionResetError as e:
                raise Closed(str(e)) from e
            if not chunk:
                raise Closed("end of file")
            data += chunk
        return data

    def recv(self, fds=None):
        request, flags, size = struct.unpack("<III", self.recv_exact(12, fds))
        return request, flags, self.recv_exact(size)

    def ask(self, request, payload=b"", fds=None):
        """A request with a reply of its own: the payload of the reply."""
        self.send(request, payload)
        got, flags, data = self.recv(fds)
        assert got == request and flags & REPLY, (got, flags)
        return data

    def ask_u64(self, request):
        return struct.unpack("<Q", self.ask(request))[0]

    def ack(self, request, payload=b"", fds=()):
        """A request under REPLY_ACK: the error it is answered with, 0 for none."""
        self.send(request, payload, fds, flags=VERSION | NEED_REPLY)
        got, _, data = self.recv()
        assert got == request, (got, request)
        return struct.unpack("<Q", data)[0]

    def u64(self, request, value, fds=(), ack=True):
        payload = struct.pack("<Q", value & (1 << 64) - 1)
        return self.ack(request, payload, fds) if ack else self.send(request, payload, fds)

    def state(self, request, index, num, ack=True):
        payload = struct.pack("<II", index, num)
        return self.ack(request, payload) if ack else self.send(request, payload)

    def negotiate(self, features=F_VERSION_1, protocol=P_REPLY_ACK | P_MQ | P_CONFIG | P_RESET):
        """Owner and features; returns what was offered."""
        offered = self.ask_u64(GET_FEATURES)
        self.send(SET_OWNER)
        assert features & ~offered == 0, f"{features:#x} of {offered:#x}"
        protocol &= self.ask_u64(GET_PROTOCOL_FEATURES)
        self.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", protocol))
        assert self.u64(SET_FEATURES, features | F_PROTOCOL) == 0
        return offered

    def set_memory(self, memory, ack=True):
        payload = memory.table()
        fds = [memory.fd] * len(memory.regions)
        if ack:
            return self.ack(SET_MEM_TABLE, payload, fds)
        return self.send(SET_MEM_TABLE, payload, fds)

    def get_max_mem_slots(self):
        return self.ask_u64(GET_MAX_MEM_SLOTS)

    def add_mem_reg(self, region, fd):
        """region: guest address, size, front-end address, offset in the file. The error, 0 for none."""
        return self.ack(ADD_MEM_REG, struct.pack("<QQQQQ", 0, *region), [fd])

    def rem_mem_reg(self, region, fds=()):
        return self.ack(REM_MEM_REG, struct.pack("<QQQQQ", 0, *region), fds)

    def set_device_state_fd(self, direction, fd, phase=0):
        """The error of the answer, 0 for none. There is never a file descriptor with it."""
        fds = []
        self.send(SET_DEVICE_STATE_FD, struct.pack("<II", direction, phase), [fd])
        got, flags, data = self.recv(fds)
        assert got == SET_DEVICE_STATE_FD and flags & REPLY and not fds, (got, flags, fds)
        value = struct.unpack("<Q", data)[0]
        assert value & NOFD, f"{value:#x}"
        return value & 0xFF

    def save_state(self):
        """The device's state, or None where that is refused."""
        reader, writer = os.pipe()
        with open(reader, "rb") as f:
            error = self.set_device_state_fd(STATE_SAVE, writer)
            os.close(writer)
            data = f.read()
        return data if not error and self.ask_u64(CHECK_DEVICE_STATE) == 0 else None

    def load_state(self, data):
        """The error that it is answered with, 0 for none."""
        reader, writer = os.pipe()
        error = self.set_device_state_fd(STATE_LOAD, reader)
        os.close(reader)
        try:
            with open(writer, "wb", buffering=0) as f:
                while data:
                    data = data[f.write(data):]
        except BrokenPipeError:
            pass
        return error or self.ask_u64(CHECK_DEVICE_STATE)

    def is_closed(self, timeout=TIMEOUT_S):
        """Whether the daemon closes the connection in time; what it says before is dropped."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            self.sock.settimeout(left)
            try:
                if not self.sock.recv(4096):
                    return True
            except ConnectionResetError:
                return True
            except TimeoutError:
                break
        return False


class Memory:
    """Guest memory in a memfd, guest address 0x100000, front-end address 0x7f0000000000."""

    GPA, UVA = 0x100000, 0x7F0000000000

    def __init__(self, size=1 << 20, name=MEM_NAME):
        self.size = size
        self.fd = os.memfd_create(name)
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        # Indexes and flags must be written in one piece: struct.pack_into() writes zeroes first.
        self.words = memoryview(self.map).cast("H")
        self.regions = [(self.GPA, size, self.UVA, 0)]
        self.next = 0

    def close(self):
        self.words.release()
        self.map.close()
        os.close(self.fd)

    def table(self, regions=None):
        regions = self.regions if regions is None else regions
        return struct.pack("<II", len(regions), 0) + b"".join(struct.pack("<QQQQ", *r) for r in regions)

    def alloc(self, size, align=4096):
        self.next = (self.next + align - 1) // align * align
        offset, self.next = self.next, self.next + size
        assert self.next <= self.size
        return offset

    def write(self, offset, data):
        self.map[offset : offset + len(data)] = data

    def read(self, offset, n):
        return self.map[offset : offset + n]

    def u16(self, offset):
        return self.words[offset // 2]

    def set_u16(self, offset, value):
        self.words[offset // 2] = value & 0xFFFF


DESC_NEXT, DESC_WRITE, DESC_INDIRECT, DESC_AVAIL, DESC_USED = 1, 2, 4, 1 << 7, 1 << 15


class Ring:
    """What split and packed have in common: the set-up messages."""

    def __init__(self, memory, index, num=64):
        self.memory, self.index, self.num = memory, index, num
        self.kick_fd = self.call_fd = -1

    def addr_payload(self, desc=None, used=None, avail=None, flags=0, log=0):
        uva = self.memory.UVA
        return struct.pack(
            "<IIQQQQ",
            self.index,
            flags,
            uva + self.desc if desc is None else desc,
            uva + self.device if used is None else used,
            uva + self.driver if avail is None else avail,
            log,
        )

    def start(self, client, base=None, enable=True):
        """Every message of a ring's set-up, acknowledged; returns their errors, or'ed."""
        return self.set_up(client, self.base() if base is None else base, enable)

    def set_up(self, client, base=None, enable=True):
        """The same, without a word about where it stands unless there is one."""
        self.kick_fd, self.call_fd = client.eventfd(), client.eventfd()
        error = client.state(SET_VRING_NUM, self.index, self.num)
        if base is not None:
            error |= client.state(SET_VRING_BASE, self.index, base)
        error |= client.ack(SET_VRING_ADDR, self.addr_payload())
        error |= client.u64(SET_VRING_CALL, self.index, [self.call_fd])
        error |= client.u64(SET_VRING_KICK, self.index, [self.kick_fd])
        if enable:
            error |= client.state(SET_VRING_ENABLE, self.index, 1)
        return error

    def kick(self):
        os.eventfd_write(self.kick_fd, 1)


class SplitRing(Ring):
    FEATURE = 0

    def __init__(self, memory, index, num=64):
        super().__init__(memory, index, num)
        self.desc = memory.alloc(16 * num)
        self.driver = memory.alloc(6 + 2 * num)
        self.device = memory.alloc(6 + 8 * num)
        self.avail = self.seen = self.free = 0

    def base(self):
        return self.seen

    def set_desc(self, i, addr, length, flags=0, next_=0):
        self.memory.write(self.desc + 16 * i, struct.pack("<QIHH", addr, length, flags, next_))

    def submit(self, head):
        self.memory.set_u16(self.driver + 4 + 2 * (self.avail % self.num), head)
        self.avail = (self.avail + 1) & 0xFFFF
        self.memory.set_u16(self.driver + 2, self.avail)

    def add(self, offset, length, write):
        i, self.free = self.free, (self.free + 1) % self.num
        self.set_desc(i, self.memory.GPA + offset, length, DESC_WRITE if write else 0)
        self.submit(i)

    def poll(self):
        """Length of the next used chain, None when there is none."""
        if self.memory.u16(self.device + 2) == self.seen:
            return None
        at = self.device + 4 + 8 * (self.seen % self.num)
        self.seen = (self.seen + 1) & 0xFFFF
        return struct.unpack("<II", self.memory.read(at, 8))[1]


class PackedRing(Ring):
    FEATURE = F_PACKED

    def __init__(self, memory, index, num=64):
        super().__init__(memory, index, num)
        self.desc = memory.alloc(16 * num)
        self.driver = memory.alloc(4)
        self.device = memory.alloc(4)
        self.next, self.wrap, self.seen, self.seen_wrap = 0, 1, 0, 1

    def base(self):
        low = self.seen | self.seen_wrap << 15
        return low | low << 16

    def set_desc(self, i, addr, length, id_, flags):
        at = self.desc + 16 * i
        self.memory.write(at, struct.pack("<QIH", addr, length, id_))
        self.memory.set_u16(at + 14, flags)

    def avail_flags(self):
        return DESC_AVAIL if self.wrap else DESC_USED

    def advance(self):
        self.next += 1
        if self.next == self.num:
            self.next, self.wrap = 0, self.wrap ^ 1

    def add(self, offset, length, write):
        flags = self.avail_flags() | (DESC_WRITE if write else 0)
        self.set_desc(self.next, self.memory.GPA + offset, length, self.next, flags)
        self.advance()

    def poll(self):
        at = self.desc + 16 * self.seen
        flags = self.memory.u16(at + 14)
        if bool(flags & DESC_AVAIL) != bool(self.seen_wrap) or bool(flags & DESC_USED) != bool(self.seen_wrap):
            return None
        length = struct.unpack("<I", self.memory.read(at + 8, 4))[0]
        self.seen += 1
        if self.seen == self.num:
            self.seen, self.seen_wrap = 0, self.seen_wrap ^ 1
        return length


class Log:
    """A bitmap in a memory file; taken as front ends do, a word at a time with an atomic exchange."""

    EXCHANGE = ctypes.CDLL("libatomic.so.1")["__atomic_exchange_8"]
    EXCHANGE.restype, EXCHANGE.argtypes = ctypes.c_uint64, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int]

    def __init__(self, size):
        """size: bytes, with a bit for each page of 4 KiB from guest address 0 on."""
        self.size = (size + 7) // 8 * 8
        self.fd = os.memfd_create("log")
        os.ftruncate(self.fd, self.size)
        self.map = mmap.mmap(self.fd, self.size)
        self.words = (ctypes.c_uint64 * (self.size // 8)).from_buffer(self.map)

    def give(self, client):
        client.send(SET_LOG_BASE, struct.pack("<QQ", self.size, 0), [self.fd])
        request, _, _ = client.recv()
        assert request == SET_LOG_BASE

    def take(self):
        """The pages that are marked, by number; they are no longer."""
        marked = set()
        # Where there is something, in one look; what comes later is there the next time.
        for i, word in enumerate(memoryview(self.map[:]).cast("Q")):
            if word:
                bits = self.EXCHANGE(ctypes.addressof(self.words) + 8 * i, 0, 5)
                marked |= {64 * i + b for b in range(64) if bits >> b & 1}
        return marked

    def close(self):
        del self.words
        self.map.close()
        os.close(self.fd)


NET_HDR = 12


class NetDriver:
    """A net device driven over one queue pair: what is sent comes back (back end loopback)."""

    own_memory = True

    def __init__(self, path, ring=SplitRing, protocol=P_REPLY_ACK | P_MQ | P_CONFIG | P_RESET, connection=None,
                 client=None, features=0, memory=None):
        """memory: of a guest that others drive too, who closes it; None: one of its own."""
        self.client = client or Client(path, connection=connection)
        self.own_memory = memory is None
        self.memory = memory or Memory()
        self.rx, self.tx = ring(self.memory, 0), ring(self.memory, 1)
        self.rx_buf, self.tx_buf = self.memory.alloc(4096), self.memory.alloc(4096)
        try:
            self.client.negotiate(F_VERSION_1 | ring.FEATURE | features, protocol)
            assert self.negotiate_memory() == 0
        except BaseException:
            self.close()
            raise
        self.count = 0

    def negotiate_memory(self):
        return self.client.set_memory(self.memory)

    def start(self):
        assert self.rx.start(self.client) == 0
        assert self.tx.start(self.client) == 0
        return self

    def exchange(self, timeout=TIMEOUT_S):
        """One frame out and back; raises when it does not come or is not the same."""
        self.count += 1
        frame = bytes.fromhex("525400000001525400000002") + b"\x88\xb5" + self.count.to_bytes(4, "big") * 25
        self.memory.write(self.tx_buf, bytes(NET_HDR) + frame)
        self.memory.write(self.rx_buf, bytes(4096))
        self.rx.add(self.rx_buf, 4096, True)
        self.rx.kick()
        self.tx.add(self.tx_buf, NET_HDR + len(frame), False)
        self.tx.kick()
        length = wait_until(self.rx.poll, timeout)
        assert length == NET_HDR + len(frame), f"received {length}"
        assert self.memory.read(self.rx_buf + NET_HDR, len(frame)) == frame, "frame changed"
        assert wait_until(lambda: self.tx.poll() is not None, timeout), "transmit buffer not returned"

    def stop(self):
        for ring in self.rx, self.tx:
            self.client.ask(GET_VRING_BASE, struct.pack("<II", ring.index, 0))

    def close(self):
        self.client.close()
        if self.own_memory:
            self.memory.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class HeldPipe:
    """A pipe whose lock somebody holds: by a write from memory that faults, and whose fault nobody ends."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.uffd = self.libc.syscall(323, os.O_CLOEXEC)  # userfaultfd, x86-64
        if self.uffd < 0:
            raise unittest.SkipTest("userfaultfd is not permitted")
        self.memory = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.at = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        fcntl.ioctl(self.uffd, 0xC018AA3F, struct.pack("<QQQ", 0xAA, 0, 0))  # UFFDIO_API
        fcntl.ioctl(self.uffd, 0xC020AA00, struct.pack("<QQQQ", self.at, 4096, 1, 0))  # UFFDIO_REGISTER
        self.reader, self.writer = os.pipe()
        os.write(self.writer, b"x")
        self.thread = threading.Thread(target=self.libc.write, args=(self.writer, ctypes.c_void_p(self.at), 4096))
        self.thread.start()
        # It sleeps in the fault.
        assert select.select([self.uffd], [], [], TIMEOUT_S)[0]

    def close(self):
        fcntl.ioctl(self.uffd, 0xC020AA04, struct.pack("<QQQq", self.at, 4096, 0, 0))  # UFFDIO_ZEROPAGE
        self.thread.join()
        os.close(self.uffd)
        os.close(self.writer)


class BlockDriver:
    """A block device whose front end has some queues, of which the guest uses the first few."""

    READ, WRITE = 0, 1
    SECTOR = 512

    def __init__(self, path, announced, used):
        self.client, self.memory = Client(path), Memory()
        self.rings = [SplitRing(self.memory, i) for i in range(used)]
        self.buffers = [self.memory.alloc(4096) for _ in range(used)]
        try:
            self.client.negotiate()
            assert self.client.set_memory(self.memory) == 0
            # As QEMU does: a call eventfd for each that it has.
            for i in range(announced):
                assert self.client.u64(SET_VRING_CALL, i, [self.client.eventfd()]) == 0
        except BaseException:
            self.close()
            raise

    def start(self):
        for ring in self.rings:
            assert ring.start(self.client) == 0
        return self

    def request(self, q, kind, sector, timeout=TIMEOUT_S):
        """Header, one sector of data at the buffer's 1024, status."""
        memory, ring, buffer = self.memory, self.rings[q], self.buffers[q]
        memory.write(buffer, struct.pack("<IIQ", kind, 0, sector))
        memory.write(buffer + 16, b"\xff")
        at = memory.GPA + buffer
        ring.set_desc(0, at, 16, DESC_NEXT, 1)
        ring.set_desc(1, at + 1024, self.SECTOR, DESC_NEXT | (DESC_WRITE if kind == self.READ else 0), 2)
        ring.set_desc(2, at + 16, 1, DESC_WRITE)
        ring.submit(0)
        ring.kick()
        assert wait_until(lambda: ring.poll() is not None or None, timeout), f"queue {q} does not answer"
        assert memory.read(buffer + 16, 1) == b"\0", "the request failed"

    def exchange(self):
        """A sector written and read by each queue."""
        for q, buffer in enumerate(self.buffers):
            data = bytes([q]) * self.SECTOR
            self.memory.write(buffer + 1024, data)
            self.request(q, self.WRITE, q)
            self.memory.write(buffer + 1024, bytes([0xEE]) * self.SECTOR)
            self.request(q, self.READ, q)
            assert self.memory.read(buffer + 1024, self.SECTOR) == data, "the sector changed"

    def stop(self):
        """Where the queues stand."""
        return [struct.unpack("<II", self.client.ask(GET_VRING_BASE, struct.pack("<II", r.index, 0)))[1]
                for r in self.rings]

    def close(self):
        self.client.close()
        self.memory.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Daemon:
    """vdpa-app with its log."""

    def __init__(self, devices, extra=()):
        program = os.environ.get("UVDPA_APP")
        if not program:
            raise unittest.SkipTest("UVDPA_APP names no daemon")
        self.dir = tempfile.mkdtemp(prefix="uvdpa-test-")
        self.log_path = os.path.join(self.dir, "log")
        argv = [program, "--no-huge", "-m", "128", f"--file-prefix=t{os.getpid()}", "--no-telemetry", "--", "--control", "off"]
        self.names = []
        for words in devices:
            name = words.split()[1]
            self.names.append(name)
            argv += ["--dev", f"{words} socket {self.path(name)}"]
        with open(self.log_path, "wb") as log:
            # EAL leaves its runtime folder behind: let it be in ours.
            self.process = subprocess.Popen(argv + list(extra), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=dict(os.environ, RUNTIME_DIRECTORY=self.dir))
        if not wait_until(lambda: self.process.poll() is not None or "\nready" in "\n" + self.log(), 30):
            self.stop()
        if self.process.poll() is not None:
            raise AssertionError("the daemon does not start:\n" + self.log())

    def path(self, name):
        return os.path.join(self.dir, name + ".sock")

    def log(self):
        with open(self.log_path, "r", encoding="utf-8", errors="replace") as f:
            return f.read()

    def proc(self, what):
        return f"/proc/{self.process.pid}/{what}"

    def guest_maps(self):
        """How often memory of a front end of ours is mapped."""
        with open(self.proc("maps"), encoding="utf-8", errors="replace") as f:
            return sum(MEM_NAME in line for line in f)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        code = self.process.returncode
        log = self.log()
        shutil.rmtree(self.dir)
        return code, log


class HostileTest(unittest.TestCase):
    """A daemon with a device to attack, "victim", and one that must not notice, "healthy".

    After every test: the daemon lives, the healthy device's connection has gone on working, the
    victim serves a new connection, and file descriptors, mappings of guest memory and threads are
    back to where they were.
    """

    DEVICES = ("name victim mgmtdev sim_net backend loopback", "name healthy mgmtdev sim_net backend loopback")

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(cls.DEVICES)
        try:
            cls.healthy = NetDriver(cls.daemon.path("healthy")).start()
            cls.healthy.exchange()
            cls.reconnect_victim()
            cls.baseline = harness.settled(cls.daemon.process.pid)
            cls.guest_maps = cls.daemon.guest_maps()
        except BaseException:
            code, log = cls.daemon.stop()
            sys.stderr.write(log)
            raise

    @classmethod
    def tearDownClass(cls):
        cls.healthy.close()
        code, log = cls.daemon.stop()
        if code != 0 or "Sanitizer" in log or "runtime error" in log:
            raise AssertionError(f"the daemon ended with {code}:\n{log[-8000:]}")

    @classmethod
    def reconnect_victim(cls):
        with NetDriver(cls.daemon.path("victim")) as net:
            net.start()
            net.exchange()
            net.stop()

    def setUp(self):
        self.log_start = len(self.daemon.log())
        self.closers = []

    def tearDown(self):
        for thing in self.closers:
            thing.close()
        self.assertIsNone(self.daemon.process.poll(), "the daemon died:\n" + self.daemon.log()[-8000:])
        self.healthy.exchange()
        self.reconnect_victim()
        harness.nothing_left(self.daemon.process.pid, self.baseline)

    def new_log(self):
        return self.daemon.log()[self.log_start :]

    def assert_logged(self, *patterns):
        """One line about the victim that matches all patterns."""
        def found():
            return [
                line
                for line in self.new_log().splitlines()
                if "victim" in line and all(re.search(p, line) for p in patterns)
            ]

        self.assertTrue(wait_until(found), f"no line with {patterns}:\n{self.new_log()}")

    def connect(self, features=F_VERSION_1, protocol=P_REPLY_ACK | P_MQ | P_CONFIG | P_RESET, negotiate=True):
        """A new connection to the victim, instead of the one before."""
        for thing in self.closers:
            if isinstance(thing, Client):
                thing.close()
        client = Client(self.daemon.path("victim"))
        self.closers.append(client)
        if negotiate:
            client.negotiate(features, protocol)
        return client

    def memory(self, size=1 << 20):
        memory = Memory(size)
        self.closers.append(memory)
        return memory

    def net(self, ring=SplitRing, **kw):
        net = NetDriver(self.daemon.path("victim"), ring, **kw)
        self.closers.append(net)
        return net

    def assert_refused(self, client, request, payload=b"", fds=(), queue=None, cause=None):
        """Refused with an error in the reply, or by the end of the connection; and logged."""
        try:
            error = client.ack(request, payload, fds)
        except Closed:
            error = 1
        self.assertNotEqual(error, 0, f"{NAMES.get(request, request)} was accepted")
        patterns = [NAMES[request] if request in NAMES else str(request), "refused"]
        if queue is not None:
            patterns.append(f"queue {queue}\\b")
        if cause is not None:
            patterns.append(cause)
        self.assert_logged(*patterns)
