# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Memory is plugged and unplugged while frames pass, into guests of 1 to 16 GiB of sparse memory.

Each change maps and unmaps what changed and nothing else, by the daemon's own figures and, over
vfio-user, by the requests that vdpa-model has counted; and no frame is lost. How long it takes:
scripts/bench hotplug. Over vfio-pci: tests/vm/lab_vfio.py. With QEMU: tests/vm/test_guest_hotplug.py.
"""

import contextlib
import resource
import unittest

import harness
import vhost_user_client as vu
from hotplug import DIMM, MIB, SLOT_NAME, Dimm, Guest, Stream
from test_vfio_user import daemon, model

GIB = 1 << 30
# Bytes and slots of the guest, and with the one that is plugged.
GUESTS = ((1 * GIB, 1 + 15), (4 * GIB, 1 + 63), (16 * GIB, 1 + 254))
ROUNDS = harness.count(3, 20)


def setUpModule():
    """A guest of 255 slots: the daemon and this test have a descriptor or two of each file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Simulated:
    """A simulated device: the daemon's own mappings are what the device reaches."""

    def __init__(self, app):
        self.app = app

    def mappings(self):
        """Of the guest's memory: address range, offset and file of each."""
        with open(f'/proc/{self.app.pid}/maps', encoding='utf-8', errors='replace') as f:
            return {tuple(line.split()[i] for i in (0, 2, 4)) for line in f if SLOT_NAME in line}

    def before(self):
        self.at = self.mappings()

    @staticmethod
    def size(mappings):
        ends = (m[0].split('-') for m in mappings)
        return sum(int(last, 16) - int(first, 16) for first, last in ends)

    def check(self, test, mapped, unmapped):
        """Since before(): so many bytes came and went; every other mapping is where it was."""

        def changed():
            now = self.mappings()
            return [self.size(now - self.at), self.size(self.at - now)]

        # The device's worker may hold what goes for a moment longer.
        vu.wait_until(lambda: changed() == [sum(mapped), sum(unmapped)])
        test.assertEqual(changed(), [sum(mapped), sum(unmapped)])


class Modelled:
    """A function of vdpa-model: every DMA_MAP and DMA_UNMAP is counted by the daemon and the model."""

    FIELDS = ('maps', 'unmaps', 'bytes_mapped', 'bytes_unmapped')

    def __init__(self, app, other):
        self.app, self.other = app, other

    def counts(self):
        shown, served = self.app.show('v0')['dma'], self.other.ask('/model/stats,m0')['dma']
        return ([shown['maps'], shown['unmaps'], shown['bytes_mapped'], shown['replaced'],
                 shown['bytes_retained']],
                [served[f] for f in self.FIELDS])

    def before(self):
        self.at = self.counts()

    def check(self, test, mapped, unmapped):
        """Since before(): these sizes were mapped and unmapped, each by one request; nothing that
        stayed was, and nothing that went is kept."""
        shown, served = ([n - m for n, m in zip(now, then)]
                         for now, then in zip(self.counts(), self.at))
        test.assertEqual(shown, [len(mapped), len(unmapped), sum(mapped) - sum(unmapped), 0, 0])
        test.assertEqual(served, [len(mapped), len(unmapped), sum(mapped), sum(unmapped)])


@contextlib.contextmanager
def simulated():
    words = 'name v0 mgmtdev sim_net backend loopback socket {dir}/v0.sock'
    with harness.Daemon([words]) as app:
        yield Simulated(app)


@contextlib.contextmanager
def modelled():
    with model() as other, daemon(other.path) as app:
        yield Modelled(app, other)


class Hotplug(unittest.TestCase):
    def plug_and_unplug(self, kind, size, slots, one_by_one=True):
        dimm = Dimm()
        self.addCleanup(dimm.close)
        with kind() as device, Guest(device.app.socket('v0'), size, slots, one_by_one) as guest:
            guest.start()
            stream = Stream(guest)
            for _ in range(ROUNDS):
                stream.pass_frames()
                device.before()
                self.assertEqual(guest.plug(dimm), 0)
                device.check(self, [DIMM], [])
                # Its first and its last bytes are the guest's to use.
                for at in 0, DIMM - 2 * Stream.DEPTH * Stream.BUFFER:
                    stream.use(dimm, dimm.at, at)
                    stream.pass_frames()
                stream.use_own()
                device.before()
                self.assertEqual(guest.unplug(dimm), 0)
                device.check(self, [], [DIMM])
            stream.pass_frames()
            frames = stream.stop()
            self.assertEqual(device.app.show('v0')['state'], 'running')
        harness.figure(f'{self.id()}: {DIMM // MIB} MiB into {size // GIB} GiB of {slots} slots, '
                       f'{ROUNDS} times: {frames} frames, 0 lost')

    def check_all(self, kind):
        for size, slots in GUESTS:
            with self.subTest(gib=size // GIB, slots=slots):
                self.plug_and_unplug(kind, size, slots)

    def test_slots_of_a_simulated_device(self):
        self.check_all(simulated)

    def test_slots_of_a_function(self):
        self.check_all(modelled)

    def test_tables_of_a_simulated_device(self):
        """A front end without slots says the whole table each time."""
        self.plug_and_unplug(simulated, GIB, 7, one_by_one=False)

    def test_tables_of_a_function(self):
        self.plug_and_unplug(modelled, GIB, 7, one_by_one=False)


class CutAnew(unittest.TestCase):
    """A region that is split, merged, grown and shrunk, with buffers in what stays."""

    # Where the buffers are, and what the region is cut into: offset and size of each part. Then what
    # is mapped and what is unmapped for it. What a cut takes out of the middle of one mapping is kept
    # mapped (design.md), so that nothing that stays is unmapped: see test_dma.
    BUFFERS = 8 * MIB
    SIZE = 32 * MIB
    STEPS = (
        ('split', [(0, 4 * MIB), (4 * MIB, 28 * MIB)], [], []),
        ('split once more', [(0, 4 * MIB), (4 * MIB, 12 * MIB), (16 * MIB, 16 * MIB)], [], []),
        ('merged', [(0, 32 * MIB)], [], []),
        ('grown', [(0, 64 * MIB)], [32 * MIB], []),
        ('split elsewhere', [(0, 16 * MIB), (16 * MIB, 48 * MIB)], [], []),
        ('shrunk', [(0, 16 * MIB), (16 * MIB, 16 * MIB)], [], [32 * MIB]),
        ('merged again', [(0, 32 * MIB)], [], []),
    )

    def steps(self, kind, check):
        dimm = Dimm(size=2 * self.SIZE)
        self.addCleanup(dimm.close)
        gpa, _, uva, _ = dimm.region

        def table(parts):
            return [(dimm.fd, (gpa + at, size, uva + at, at)) for at, size in parts]

        with kind() as device, Guest(device.app.socket('v0'), GIB, 2, one_by_one=False) as guest:
            self.assertEqual(guest.set_table(table([(0, self.SIZE)])), 0)
            guest.start()
            stream = Stream(guest)
            stream.use(dimm, dimm.at, self.BUFFERS)
            for _ in range(ROUNDS):
                for name, parts, mapped, unmapped in self.STEPS:
                    stream.pass_frames()
                    device.before()
                    self.assertEqual(guest.set_table(table(parts)), 0, name)
                    if check:
                        with self.subTest(name):
                            device.check(self, mapped, unmapped)
                    stream.pass_frames()
            self.assertEqual(device.app.show('v0')['state'], 'running')
            harness.figure(f'{self.id()}: {ROUNDS * len(self.STEPS)} changes: {stream.stop()} frames, '
                           '0 lost')

    def test_of_a_function(self):
        self.steps(modelled, True)

    def test_of_a_simulated_device(self):
        """Frames only: the daemon maps whole regions, so one that is cut is mapped anew beside itself."""
        self.steps(simulated, False)


if __name__ == '__main__':
    unittest.main(verbosity=2)
