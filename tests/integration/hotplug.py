# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""A guest whose memory grows and shrinks while frames pass: for tests, the laboratory and the bench.

Guest is a net driver of a guest with many memory slots, Dimm a memory that is plugged into it, and
Stream the frames that meanwhile go round, each of which must come back.
"""

import os
import threading
import time

import vhost_user_client as vu

MIB = 1 << 20
DIMM = 64 * MIB
SLOT = 64 * MIB
# Of the slots; vdpa-model takes 64.
FILES = 16
SLOT_NAME = 'uvdpa-hotplug'
# What the slots take of guest addresses stays below.
PLUGGED_AT = 64 << 30
PROTOCOL = vu.P_REPLY_ACK | vu.P_MQ | vu.P_CONFIG | vu.P_RESET


class Dimm(vu.Memory):
    """Memory of a file of its own, at so many bytes behind the guest's first."""

    def __init__(self, at=PLUGGED_AT, size=DIMM):
        super().__init__(size, SLOT_NAME)
        self.at = at
        self.region = (self.GPA + at, size, self.UVA + at, 0)


class Regions:
    """The memory of a guest with size bytes in so many regions, the first with the rest of the size, and
    what is plugged into it."""

    def __init__(self, size, slots):
        first = size - (slots - 1) * SLOT
        self.first = vu.Memory(first)
        self.fds = [os.memfd_create(SLOT_NAME) for _ in range(min(FILES, slots - 1))]
        for fd in self.fds:
            os.ftruncate(fd, 2 * SLOT * (slots // len(self.fds) + 1))
        gpa, uva = vu.Memory.GPA + first, vu.Memory.UVA + first
        # Neighbours are of different files, and holes lie between regions of one file: none join.
        self.others = [(self.fds[i % FILES], (gpa + i * SLOT, SLOT, uva + i * SLOT, i // FILES * 2 * SLOT))
                       for i in range(slots - 1)]
        self.plugged = []

    def all(self):
        """File, and (guest address, size, front-end address, offset), of each."""
        return [(self.first.fd, self.first.regions[0]), *self.others,
                *((d.fd, d.region) for d in self.plugged)]

    def close(self):
        self.first.close()
        for fd in self.fds:
            os.close(fd)


class Guest(vu.NetDriver):
    """A net device of such a guest, whose regions are added one by one, or as a table (slots up to 8).
    Rings and the driver's buffers are in the first."""

    def __init__(self, path, size, slots, one_by_one=True, client=None):
        self.one_by_one = one_by_one
        self.regions = Regions(size, slots)
        super().__init__(path, memory=self.regions.first, client=client,
                         protocol=PROTOCOL | (vu.P_MEM_SLOTS if one_by_one else 0))

    def set_table(self, more=()):
        """Say the whole table, with these regions too. The error, 0 for none."""
        rows = [*self.regions.all(), *more]
        return self.client.ack(vu.SET_MEM_TABLE, self.memory.table([r for _, r in rows]),
                               [fd for fd, _ in rows])

    def negotiate_memory(self):
        if not self.one_by_one:
            return self.set_table()
        return max(self.client.add_mem_reg(region, fd) for fd, region in self.regions.all())

    def plug(self, dimm):
        """One message that brings the memory. The error, 0 for none."""
        self.regions.plugged.append(dimm)
        return self.client.add_mem_reg(dimm.region, dimm.fd) if self.one_by_one else self.set_table()

    def unplug(self, dimm):
        """One message that takes it."""
        self.regions.plugged.remove(dimm)
        return self.client.rem_mem_reg(dimm.region) if self.one_by_one else self.set_table()

    def close(self):
        super().close()
        self.regions.close()


class Stream(threading.Thread):
    """Numbered frames go round a device that sends back what it is sent, DEPTH under way, until it is
    to stop. Each must come back in its turn and unchanged; else failure says which did not."""

    DEPTH = 16
    BUFFER = 2048

    def __init__(self, net):
        super().__init__(daemon=True)
        self.net = net
        self.sent = self.received = 0
        self.tx_done = 0
        self.failure = None
        self.changed = threading.Condition()
        self.running = True
        self.memory, self.at = net.memory, 0
        self.own = self.offset = net.memory.alloc(2 * self.DEPTH * self.BUFFER)
        self.wanted = None
        self.start()

    def use(self, memory, at, offset):
        """From now on, buffers lie at this offset of a memory that is at so many bytes behind the
        guest's first. Returns when none is elsewhere."""
        with self.changed:
            self.wanted = memory, at, offset
            self.changed.wait_for(lambda: self.wanted is None or self.failure)
        self.check()

    def use_own(self):
        """The driver's own memory."""
        self.use(self.net.memory, 0, self.own)

    def pass_frames(self, count=2 * DEPTH):
        """Returns when so many more have come back."""
        with self.changed:
            goal = self.received + count
            self.changed.wait_for(lambda: self.received >= goal or self.failure)
        self.check()

    def check(self):
        if self.failure is not None:
            raise self.failure

    def stop(self):
        """Ends when all that were sent are back; how many. Raises what went wrong."""
        self.running = False
        self.join()
        self.check()
        assert self.sent == self.received == self.tx_done, (self.sent, self.received, self.tx_done)
        return self.received

    def _buffer(self, number, transmit):
        slot = number % self.DEPTH + (self.DEPTH if transmit else 0)
        return self.offset + slot * self.BUFFER

    @staticmethod
    def _frame(number):
        return bytes.fromhex('525400000001525400000002') + b'\x88\xb5' + number.to_bytes(8, 'big') * 15

    def _send(self):
        receive, transmit = self._buffer(self.sent, False), self._buffer(self.sent, True)
        frame = bytes(vu.NET_HDR) + self._frame(self.sent)
        self.memory.write(receive, bytes(len(frame)))
        self.memory.write(transmit, frame)
        self.net.rx.add(self.at + receive, self.BUFFER, True)
        self.net.rx.kick()
        self.net.tx.add(self.at + transmit, len(frame), False)
        self.net.tx.kick()
        self.sent += 1

    def _receive(self):
        """Whether a frame came back."""
        if self.net.tx.poll() is not None:
            self.tx_done += 1
        length = self.net.rx.poll()
        if length is None:
            return False
        frame = self._frame(self.received)
        got = self.memory.read(self._buffer(self.received, False) + vu.NET_HDR, len(frame))
        assert (length, got) == (vu.NET_HDR + len(frame), frame), \
            f'frame {self.received}: {length} bytes, {got[:22].hex()}'
        with self.changed:
            self.received += 1
            self.changed.notify_all()
        return True

    def _turn(self):
        """Send what there is room for, take what came back; whether something did."""
        moving = self.wanted is not None
        if moving and self._all_back():
            with self.changed:
                self.memory, self.at, self.offset = self.wanted
                self.wanted = None
                self.changed.notify_all()
        elif not moving and self.running:
            while self.sent - min(self.received, self.tx_done) < self.DEPTH:
                self._send()
        return self._receive()

    def _all_back(self):
        return self.sent == self.received == self.tx_done

    def run(self):
        try:
            last = time.monotonic()
            while self.running or not self._all_back():
                if self._turn() or self._all_back():
                    last = time.monotonic()
                    continue
                if time.monotonic() - last > vu.TIMEOUT_S:
                    raise AssertionError(f'{self.sent} frames sent, {self.received} came back, '
                                         f'{self.tx_done} buffers returned')
                time.sleep(0.0005)
        except Exception as e:  # check() raises it where it is waited for
            with self.changed:
                self.failure = e
                self.changed.notify_all()
