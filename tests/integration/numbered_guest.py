# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A guest that numbers what it sends and writes, and keeps account of it over stops and moves.

Memory knows which pages the guest itself wrote. Split and Packed are rings with chains in flight, of
which each must come back once. NetGuest (back end loopback) and BlockGuest have the traffic; their front
end stops, continues, logs and moves them as QEMU does. Kicks are sent once for what was added, and what
is used is waited for by its call: a notification that is lost shows.
"""

import collections
import os
import select
import struct
import time

import vhost_user_client as vu
from vhost_user_client import DESC_AVAIL, DESC_INDIRECT, DESC_NEXT, DESC_USED, DESC_WRITE

PAGE = 4096
P_LOG_SHMFD = 1 << 1
PROTOCOL = vu.P_REPLY_ACK | vu.P_MQ | vu.P_CONFIG | vu.P_RESET | P_LOG_SHMFD
F_LOG = 1  # of a ring's address


def pattern(n, length):
    """What has the number n throughout."""
    return (struct.pack('<Q', n) * (length // 8 + 1))[:length]


class Memory(vu.Memory):
    """own: pages of the file that the guest wrote since somebody emptied it, as KVM's log has them."""

    def __init__(self, size=2 << 20):
        super().__init__(size)
        self.own = set()

    def wrote(self, offset, n):
        self.own.update(range(offset // PAGE, (offset + n - 1) // PAGE + 1))

    def write(self, offset, data):
        super().write(offset, data)
        self.wrote(offset, len(data))

    def set_u16(self, offset, value):
        super().set_u16(offset, value)
        self.wrote(offset, 2)

    def gpa(self, offset):
        return self.GPA + offset


class Chains:
    """What split and packed rings have in common: slots of PARTS buffers, with a table each."""

    PARTS = 5

    def set_up(self):
        self.tables = self.memory.alloc(16 * self.num)
        self.slots = collections.deque(range(self.num // self.PARTS))
        self.n_slots, self.in_flight = len(self.slots), set()
        self.place = self.base()

    def table(self, slot, parts):
        at = self.tables + 16 * self.PARTS * slot
        for i, (offset, length, flags) in enumerate(parts):
            last = i == len(parts) - 1 or self.FEATURE
            self.memory.write(at + 16 * i, self.entry(offset, length, flags, 0 if last else i + 1))
        return at

    def add_chain(self, parts, indirect):
        """parts: offset, length and flags of each buffer. Its slot."""
        slot = self.slots.popleft()
        self.in_flight.add(slot)
        if indirect:
            parts = [(self.table(slot, parts), 16 * len(parts), DESC_INDIRECT)]
        self.put(slot, parts)
        return slot

    def reap(self):
        """Slots that came back, with their lengths."""
        done = []
        while (used := self.next_used()) is not None:
            slot = used[0]
            assert slot in self.in_flight, f'queue {self.index}: slot {slot} comes back twice'
            self.in_flight.remove(slot)
            self.slots.append(slot)
            done.append(used)
        return done


class Split(Chains, vu.SplitRing):
    def __init__(self, memory, index, num):
        super().__init__(memory, index, num)
        self.set_up()

    def entry(self, offset, length, flags, more):
        return struct.pack('<QIHH', self.memory.gpa(offset), length, flags | (DESC_NEXT if more else 0), more)

    def put(self, slot, parts):
        first = self.PARTS * slot
        for i, (offset, length, flags) in enumerate(parts):
            more = i < len(parts) - 1
            self.set_desc(first + i, self.memory.gpa(offset), length, flags | (DESC_NEXT if more else 0),
                          first + i + 1 if more else 0)
        self.submit(first)

    def next_used(self):
        if self.memory.u16(self.device + 2) == self.seen:
            return None
        at = self.device + 4 + 8 * (self.seen % self.num)
        self.seen = (self.seen + 1) & 0xFFFF
        head, length = struct.unpack('<II', self.memory.read(at, 8))
        return head // self.PARTS, length

    def written_by_device(self):
        return [(self.device, 6 + 8 * self.num)]


class Packed(Chains, vu.PackedRing):
    def __init__(self, memory, index, num):
        super().__init__(memory, index, num)
        self.taken = {}
        self.set_up()

    def entry(self, offset, length, flags, _):
        return struct.pack('<QIHH', self.memory.gpa(offset), length, 0, flags)

    def put(self, slot, parts):
        self.taken[slot] = len(parts)
        later = []
        for i, (offset, length, flags) in enumerate(parts):
            flags |= self.avail_flags() | (DESC_NEXT if i < len(parts) - 1 else 0)
            at = self.desc + 16 * self.next
            self.memory.write(at, struct.pack('<QIH', self.memory.gpa(offset), length, slot))
            later.append((at + 14, flags))
            self.advance()
        # The first one last: the device may take the chain at once.
        for at, flags in reversed(later):
            self.memory.set_u16(at, flags)

    def next_used(self):
        at = self.desc + 16 * self.seen
        flags = self.memory.u16(at + 14)
        if not bool(flags & DESC_AVAIL) == bool(flags & DESC_USED) == bool(self.seen_wrap):
            return None
        length, slot = struct.unpack('<IH', self.memory.read(at + 8, 6))
        assert slot in self.in_flight, f'queue {self.index}: id {slot} comes back, which was not given'
        self.seen += self.taken.pop(slot)
        if self.seen >= self.num:
            self.seen, self.seen_wrap = self.seen - self.num, self.seen_wrap ^ 1
        return slot, length

    def written_by_device(self):
        return [(self.device, 4), (self.desc, 16 * self.num)]


class Guest:
    """What net and block have in common: the front end's part."""

    FEATURES = vu.F_VERSION_1 | vu.F_INDIRECT

    def __init__(self, rng, packed=False, queues=2):
        self.rng, self.packed = rng, packed
        self.memory = Memory()
        ring = Packed if packed else Split
        self.queues = [ring(self.memory, i, rng.choice((64, 128))) for i in range(queues)]
        self.features = self.FEATURES | ring.FEATURE
        self.call_fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in self.queues]
        self.err_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.client, self.log = None, None
        # Chains that were given when stops were asked for, and that had not come back then.
        self.stops = self.open = self.cut = 0

    def close(self):
        self.disconnect()
        for fd in (*self.call_fds, self.err_fd):
            os.close(fd)
        self.memory.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # The front end.

    def connect(self, path):
        self.client = vu.Client(path)
        self.client.negotiate(self.features, PROTOCOL)
        assert self.client.set_memory(self.memory) == 0
        return self

    def disconnect(self):
        if self.client is not None:
            self.client.close()
        if self.log is not None:
            self.log.close()
        self.client = self.log = None

    def set_features(self):
        assert self.client.u64(vu.SET_FEATURES, self.features | vu.F_PROTOCOL |
                               (vu.F_LOG_ALL if self.log else 0)) == 0

    def set_address(self, q):
        on = self.log is not None
        return self.client.ack(vu.SET_VRING_ADDR, q.addr_payload(
            flags=F_LOG if on else 0, log=self.memory.gpa(q.device) if on else 0))

    def start(self):
        """As QEMU does when the guest is to go on, here or elsewhere."""
        self.set_features()
        assert self.client.set_memory(self.memory) == 0
        for q, call_fd in zip(self.queues, self.call_fds):
            q.kick_fd, q.call_fd = self.client.eventfd(), call_fd
            assert self.client.state(vu.SET_VRING_NUM, q.index, q.num) == 0
            assert self.client.state(vu.SET_VRING_BASE, q.index, q.place) == 0
            assert self.set_address(q) == 0
            assert self.client.u64(vu.SET_VRING_CALL, q.index, [call_fd]) == 0
            assert self.client.u64(vu.SET_VRING_ERR, q.index, [self.err_fd]) == 0
            assert self.client.u64(vu.SET_VRING_KICK, q.index, [q.kick_fd]) == 0
            assert self.client.state(vu.SET_VRING_ENABLE, q.index, 1) == 0
        return self

    def stop(self):
        """In the midst of as much as there is room for, which the device may know of or not."""
        self.reap()
        added = self.feed()
        if self.rng.random() < 0.7:
            for q in added:
                q.kick()
        self.open += sum(len(q.in_flight) for q in self.queues)
        for q in self.rng.sample(self.queues, len(self.queues)):
            answer = self.client.ask(vu.GET_VRING_BASE, struct.pack('<II', q.index, 0))
            q.place = struct.unpack('<II', answer)[1]
        self.reap()
        self.stops += 1
        self.cut += sum(len(q.in_flight) for q in self.queues)

    def log_on(self, size=None):
        """LOG_ALL while the queues run. size: of the log, in bytes; None: what the memory needs."""
        self.log = vu.Log(size or (self.memory.GPA + self.memory.size) // PAGE // 8)
        self.log.give(self.client)
        self.set_features()
        for q in self.queues:
            assert self.set_address(q) == 0

    def log_off(self):
        assert self.client.u64(vu.SET_FEATURES, self.features | vu.F_PROTOCOL) == 0
        self.log.close()
        self.log = None
        for q in self.queues:
            assert self.set_address(q) == 0

    def take_dirty(self):
        """Pages of the memory file that were written since the last time, by whomever."""
        marked = {page - self.memory.GPA // PAGE for page in self.log.take()}
        end = self.memory.size // PAGE
        assert all(0 <= page < end for page in marked), 'a page is marked that is no memory'
        own, self.memory.own = self.memory.own, set()
        return marked | own

    def copy_pages(self, to, pages):
        for page in pages:
            at = page * PAGE
            to.map[at:at + PAGE] = self.memory.map[at:at + PAGE]

    def move_to(self, memory):
        """The guest goes on in that memory."""
        for q in self.queues:
            q.memory = memory
        old, self.memory = self.memory, memory
        memory.next, memory.own = old.next, set()
        old.close()

    def has_failed(self):
        """Whether the daemon said so by the error eventfd."""
        return bool(select.select([self.err_fd], [], [], 0)[0])

    # Traffic.

    def work(self, seconds=0.0):
        """As much as there is room for, once at least, and for so long."""
        end = time.monotonic() + seconds
        while True:
            self.reap()
            for q in self.feed():
                q.kick()
            if time.monotonic() >= end:
                return
            time.sleep(0.0005)

    def settle(self, timeout=vu.TIMEOUT_S):
        """Wait until all came back that comes back by itself. Nothing is kicked."""
        end = time.monotonic() + timeout
        self.reap()
        while self.waits():
            left = end - time.monotonic()
            ready, _, _ = select.select(self.call_fds, [], [], min(0.2, max(left, 0)))
            for fd in ready:
                os.eventfd_read(fd)
            assert left > 0, f'{self.waits()} do not come back: {self.account()}'
            # Without a call there is nothing to see, but for what was seen before it.
            if ready:
                self.reap()


class NetGuest(Guest):
    HEAD = bytes.fromhex('525400000001525400000002') + b'\x88\xb5'
    LEAST, MOST = 60, 1500

    def __init__(self, rng, packed=False, dropped=lambda: 0):
        """dropped(): frames that the device has dropped so far."""
        super().__init__(rng, packed)
        self.rx, self.tx = self.queues
        self.buffers = {q: [self.memory.alloc(2048, 2048) for _ in range(q.n_slots)] for q in self.queues}
        self.dropped = dropped
        self.sent = self.received = self.last = 0
        self.lost = 0  # of what is missing, as far as it is known
        self.missing = set()  # numbers of frames that were sent and are not received

    def length(self, n):
        return self.LEAST + n * 37 % (self.MOST - self.LEAST)

    def feed(self):
        rx, tx, memory, rng = self.rx, self.tx, self.memory, self.rng
        added = []
        while rx.slots:
            at = self.buffers[rx][rx.slots[0]]
            cut = rng.randrange(vu.NET_HDR, 2048)
            rx.add_chain([(at, cut, DESC_WRITE), (at + cut, 2048 - cut, DESC_WRITE)], rng.random() < 0.3)
            added = [rx]
        # No more than there are buffers for: so nothing is dropped for want of them.
        room = max(len(rx.in_flight) // 2, 1) - len(self.missing) + self.lost
        if room <= 0 and not tx.in_flight:
            room, self.lost = room - self.lost, self.dropped()
            room += self.lost
        while tx.slots and room > 0:
            self.sent += 1
            frame = bytes(vu.NET_HDR) + self.HEAD + pattern(self.sent, self.length(self.sent))
            at = self.buffers[tx][tx.slots[0]]
            memory.write(at, frame)
            cut = rng.randrange(vu.NET_HDR, len(frame))
            tx.add_chain([(at, cut, 0), (at + cut, len(frame) - cut, 0)], rng.random() < 0.3)
            self.missing.add(self.sent)
            added.append(tx)
            room -= 1
        return set(added)

    def reap(self):
        for slot, _ in self.tx.reap():
            del slot
        for slot, length in self.rx.reap():
            at = self.buffers[self.rx][slot]
            frame = self.memory.read(at + vu.NET_HDR, length - vu.NET_HDR)
            n = struct.unpack_from('<Q', frame, len(self.HEAD))[0]
            if self.is_of_another(n):
                continue
            self.account_for(n)
            assert frame == self.HEAD + pattern(n, self.length(n)), f'frame {n} is another'
            self.received += 1

    def is_of_another(self, n):
        """Frame n was sent by another guest."""
        return False

    def account_for(self, n):
        """Frame n has come."""
        assert n in self.missing, f'frame {n} comes twice, or was never sent'
        assert n > self.last, f'frame {n} comes after {self.last}'
        self.missing.remove(n)
        self.last = n

    def waits(self):
        sent = len(self.tx.in_flight)
        return sent or max(len(self.missing) - self.dropped(), 0)

    def account(self):
        return f'{self.sent} sent, {self.received} received, {self.dropped()} dropped'

    def check(self, counters):
        """Settled: frames are received, or dropped and counted; the device had each once."""
        assert self.sent == self.received + self.dropped(), f'{self.account()}, missing {sorted(self.missing)[:8]}'
        taken = counters['tx_packets'] + counters['tx_drops']
        assert taken == self.sent and counters['rx_drops'] == 0, f'{self.account()}: {counters}'
        assert counters['rx_packets'] == self.received, f'{self.account()}: {counters}'


class BlockGuest(Guest):
    READ, WRITE, SECTOR = 0, 1, 512
    REGION, REGIONS = 4096, 256

    def __init__(self, rng, packed=False, queues=2):
        super().__init__(rng, packed, queues)
        self.heads = {q: [self.memory.alloc(16, 16) for _ in range(q.n_slots)] for q in self.queues}
        self.states = {q: self.memory.alloc(q.n_slots, 16) for q in self.queues}
        self.buffers = {q: [self.memory.alloc(self.REGION, 512) for _ in range(q.n_slots)] for q in self.queues}
        self.disk = [bytes(self.REGION) for _ in range(self.REGIONS)]
        self.pending = {}  # (queue's index, slot): kind, region, data
        self.busy = set()
        self.sent, self.reads, self.writes = 0, 0, 0

    def request(self, q, kind, region):
        slot, rng = q.slots[0], self.rng
        size = self.SECTOR * rng.randrange(1, self.REGION // self.SECTOR + 1) if kind == self.WRITE else self.REGION
        self.sent += 1
        at, head, state = self.buffers[q][slot], self.heads[q][slot], self.states[q] + slot
        self.memory.write(head, struct.pack('<IIQ', kind, 0, region * self.REGION // self.SECTOR))
        self.memory.write(state, b'\xee')
        data = pattern(self.sent, size)
        # What is read into has something else before.
        self.memory.write(at, data)
        cuts = sorted({0, size, *(rng.randrange(1, size) for _ in range(2))})
        flags = DESC_WRITE if kind == self.READ else 0
        q.add_chain([(head, 16, 0), *((at + a, b - a, flags) for a, b in zip(cuts, cuts[1:])),
                     (state, 1, DESC_WRITE)], rng.random() < 0.3)
        self.pending[q.index, slot] = kind, region, data
        self.busy.add(region)

    def feed(self):
        added = set()
        for q in self.queues:
            while q.slots:
                region = self.rng.randrange(self.REGIONS)
                if region in self.busy:
                    continue
                self.request(q, self.READ if self.rng.random() < 0.3 else self.WRITE, region)
                added.add(q)
        return added

    def reap(self):
        for q in self.queues:
            for slot, length in q.reap():
                kind, region, data = self.pending.pop((q.index, slot))
                state = self.memory.read(self.states[q] + slot, 1)
                assert state == b'\0', f'request for region {region}: status {state.hex()}'
                self.busy.remove(region)
                if kind == self.WRITE:
                    self.writes += 1
                    self.disk[region] = data + self.disk[region][len(data):]
                else:
                    self.reads += 1
                    got = self.memory.read(self.buffers[q][slot], self.REGION)
                    assert got == self.disk[region], f'region {region} is not as it was written'

    def waits(self):
        return len(self.pending)

    def account(self):
        return f'{self.sent} requests, {self.reads} read, {self.writes} written'

    def read_back(self):
        """All that was written, once settled."""
        q = self.queues[0]
        for region in range(self.REGIONS):
            if not q.slots:
                q.kick()
                self.settle()
            self.request(q, self.READ, region)
        q.kick()
        self.settle()

    def check(self, counters):
        """Settled: the device had each request once."""
        assert self.sent == self.reads + self.writes, self.account()
        got = counters['reads'], counters['writes']
        assert got == (self.reads, self.writes), f'{self.account()}: the device has {got}'
