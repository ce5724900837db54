# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""What a function can reach follows the front end's memory table, region by region."""

import select
import struct
import unittest

import harness
import vhost_user_client as vhost
from test_vfio_user import daemon, model

REGION = 1 << 20
# VERSION_1 only: a queue stops with the device.
NO_RING_RESET = 'device_features 0x100000000'
# Starts on one connection.
STARTS = harness.count(20, 50)


def table(*regions):
    """SET_MEM_TABLE's payload: (guest address, size, front-end address, offset) each."""
    return struct.pack('<II', len(regions), 0) + b''.join(struct.pack('<QQQQ', *r) for r in regions)


def renew(net):
    """A driver that begins anew: new rings."""
    net.rx, net.tx = type(net.rx)(net.memory, 0), type(net.tx)(net.memory, 1)
    net.start()


def wait_unmapped(app):
    harness.wait_for(lambda: app.show('v0')['dma']['bytes_mapped'] == 0,
                     'the memory to be unmapped')


def other_memory(server):
    """Memory files of others that a vfio-user server has mapped."""
    with open(f'/proc/{server.pid}/maps', encoding='utf-8', errors='replace') as f:
        return sum(f'memfd:{vhost.MEM_NAME}' in line for line in f)


class Domain(unittest.TestCase):
    def set_table(self, net, *memories):
        """The first memory is the driver's; others lie behind it."""
        regions = [(m.GPA + i * 16 * REGION, m.size, m.UVA + i * 16 * REGION, 0)
                   for i, m in enumerate(memories)]
        return net.client.ack(vhost.SET_MEM_TABLE, table(*regions), [m.fd for m in memories])

    def test_hotplug_touches_only_what_changes(self):
        more = [vhost.Memory(REGION) for _ in range(3)]
        for m in more:
            self.addCleanup(m.close)
        with model() as other, daemon(other.path) as app, \
                vhost.NetDriver(app.socket('v0')).start() as net:
            net.exchange()
            # The control queue's ring is the driver's own.
            before = app.show('v0')['dma']

            def changed():
                now = app.show('v0')['dma']
                return tuple(now[k] - before[k] for k in
                             ('mappings', 'bytes_mapped', 'maps', 'unmaps'))

            self.assertEqual(self.set_table(net, net.memory, *more), 0)
            self.assertEqual(changed(), (3, 3 * REGION, 3, 0))
            net.exchange()
            self.assertEqual(self.set_table(net, net.memory, more[0]), 0)
            self.assertEqual(changed(), (1, REGION, 3, 2))
            net.exchange()

    def test_a_table_that_moves_the_rings_stops_their_queues(self):
        """What the front end has taken back is out of reach, whatever it says of the rings."""
        moved = table((vhost.Memory.GPA + 64 * REGION, REGION, vhost.Memory.UVA, 0))
        for words, state in ('', 'running'), (NO_RING_RESET, 'failed'):
            with self.subTest(words), model(words) as other, daemon(other.path) as app, \
                    vhost.NetDriver(app.socket('v0')).start() as net:
                net.exchange()
                errors = net.client.eventfd(), net.client.eventfd()
                for ring, fd in zip((net.rx, net.tx), errors):
                    self.assertEqual(net.client.u64(vhost.SET_VRING_ERR, ring.index, [fd]), 0)
                self.assertEqual(net.client.ack(vhost.SET_MEM_TABLE, moved, [net.memory.fd]), 0)
                self.assertEqual(app.show('v0')['state'], state)
                app.err.wait('v0: queue 0: .*a change of memory moves its rings')
                # A device that fails tells of the queue that it failed of.
                for fd in errors if state == 'running' else errors[:1]:
                    self.assertTrue(select.select([fd], [], [], vhost.TIMEOUT_S)[0])
                # A driver that begins anew works, in memory that is there again.
                net.stop()
                self.assertEqual(net.client.set_memory(net.memory), 0)
                renew(net)
                net.exchange()

    def test_starts_of_one_connection_map_nothing_again(self):
        """A guest that reboots or loads its driver again: by GET_VRING_BASE, or by RESET_DEVICE.
        QEMU says the same table at each start."""
        ends = {'stop': lambda net: net.stop(),
                'reset': lambda net: net.client.ack(vhost.RESET_DEVICE)}
        for end, stop in ends.items():
            with self.subTest(end), model(pairs=2) as other, daemon(other.path) as app, \
                    vhost.NetDriver(app.socket('v0')) as net:
                net.start()
                net.exchange()
                first = app.show('v0')['dma']
                # The front end's, and the control queue's ring.
                self.assertEqual((first['maps'], first['unmaps']), (2, 0))
                for _ in range(STARTS):
                    stop(net)
                    self.assertEqual(net.client.set_memory(net.memory), 0)
                    renew(net)
                    net.exchange()
                self.assertEqual(app.show('v0')['dma'], first)

    def test_the_next_front_end_finds_nothing_of_the_last_one(self):
        with model() as other, daemon(other.path) as app:
            for n in range(1, 4):
                with vhost.NetDriver(app.socket('v0')).start() as net:
                    net.exchange()
                    net.stop()
                    self.assertEqual(app.show('v0')['dma']['maps'], 2 * n)
                wait_unmapped(app)
                self.assertEqual(app.show('v0')['dma']['unmaps'], 2 * n)
                self.assertEqual(other_memory(other), 0)

    def test_memory_taken_back_from_a_device_that_stands_still(self):
        more = vhost.Memory(REGION)
        self.addCleanup(more.close)
        with model() as other, daemon(other.path) as app, \
                vhost.NetDriver(app.socket('v0')) as net:
            self.assertEqual(self.set_table(net, net.memory, more), 0)
            net.start()
            net.exchange()
            net.stop()
            before = app.show('v0')['dma']
            self.assertEqual(self.set_table(net, net.memory), 0)
            now = app.show('v0')['dma']
            self.assertEqual((before['mappings'] - now['mappings'], now['unmaps']), (1, 1))
            renew(net)
            net.exchange()

    def test_a_region_cut_anew_stays_mapped(self):
        page = 4096
        memory = vhost.Memory(2 * REGION)
        self.addCleanup(memory.close)
        with model() as other, daemon(other.path) as app, \
                vhost.NetDriver(app.socket('v0')).start() as net:
            net.exchange()
            before = app.show('v0')['dma']

            def changed(*regions):
                """Set the driver's memory, whole, and these: what was mapped and unmapped for it."""
                fds = [net.memory.fd] + [memory.fd] * len(regions)
                rows = [(net.memory.GPA, net.memory.size, net.memory.UVA, 0)] + [
                    (net.memory.GPA + 16 * REGION + at, size, net.memory.UVA + 16 * REGION + at, at)
                    for at, size in regions]
                self.assertEqual(net.client.ack(vhost.SET_MEM_TABLE, table(*rows), fds), 0)
                net.exchange()
                now = app.show('v0')['dma']
                return tuple(now[k] - before[k] for k in ('maps', 'unmaps', 'bytes_retained'))

            self.assertEqual(changed((0, REGION)), (1, 0, 0))
            # Split, with a hole in the middle, merged, grown, shrunk.
            self.assertEqual(changed((0, page), (page, REGION - page)), (1, 0, 0))
            self.assertEqual(changed((0, page), (2 * page, REGION - 2 * page)), (1, 0, page))
            self.assertEqual(changed((0, REGION)), (1, 0, 0))
            self.assertEqual(changed((0, 2 * REGION)), (2, 0, 0))
            self.assertEqual(changed((0, REGION)), (2, 1, 0))
            self.assertEqual(changed(), (2, 2, 0))
            self.assertEqual(app.show('v0')['dma']['replaced'], 0)
            self.assertLess(app.show('v0')['dma']['last_change_us'], 1 << 40)
            # The driver's own, of which rings and buffers lie in the first half.
            half = net.memory.size // 2
            rows = [(net.memory.GPA + at, half, net.memory.UVA + at, at) for at in (0, half)]
            self.assertEqual(
                net.client.ack(vhost.SET_MEM_TABLE, table(*rows), [net.memory.fd] * 2), 0)
            net.exchange()
            self.assertEqual(app.show('v0')['dma']['maps'], before['maps'] + 2)
            self.assertEqual(app.show('v0')['dma']['unmaps'], before['unmaps'] + 2)

    def test_memory_out_of_reach_is_refused_and_the_device_goes_on(self):
        far = vhost.Memory(REGION)
        self.addCleanup(far.close)
        with model() as other, daemon(other.path) as app, \
                vhost.NetDriver(app.socket('v0')).start() as net:
            net.exchange()
            before = app.show('v0')['dma']
            # Where the driver's own memory is, at the end of all.
            regions = table((net.memory.GPA, net.memory.size, net.memory.UVA, 0),
                            ((1 << 64) - REGION, REGION, net.memory.UVA + 16 * REGION, 0))
            self.assertNotEqual(
                net.client.ack(vhost.SET_MEM_TABLE, regions, [net.memory.fd, far.fd]), 0)
            self.assertEqual(app.show('v0')['dma']['mappings'], before['mappings'])
            self.assertEqual(app.show('v0')['state'], 'running')
            net.exchange()

    def test_memory_that_ends_within_a_page(self):
        """libblkio registers memory of 30,240 bytes, and no more is in the file."""
        size = 30240
        odd = vhost.Memory(size)
        self.addCleanup(odd.close)
        with model() as other, daemon(other.path) as app, \
                vhost.NetDriver(app.socket('v0')).start() as net:
            before = app.show('v0')['dma']['bytes_mapped']
            self.assertEqual(self.set_table(net, net.memory, odd), 0)
            self.assertEqual(app.show('v0')['dma']['bytes_mapped'] - before, 32768)
            # A frame from its last bytes.
            frame = bytes(vhost.NET_HDR) + bytes(range(100))
            odd.write(size - len(frame), frame)
            net.rx.add(net.rx_buf, 4096, True)
            net.rx.kick()
            net.tx.add(16 * REGION + size - len(frame), len(frame), False)
            net.tx.kick()
            self.assertEqual(vhost.wait_until(net.rx.poll), len(frame))
            self.assertEqual(net.memory.read(net.rx_buf + vhost.NET_HDR, 100), bytes(range(100)))
            self.assertTrue(vhost.wait_until(lambda: net.tx.poll() is not None))
            # No other region can lie in that page, nor one begin within a page.
            regions = table((net.memory.GPA, net.memory.size, net.memory.UVA, 0),
                            (net.memory.GPA + 16 * REGION, 4104, net.memory.UVA + 16 * REGION, 0),
                            (net.memory.GPA + 16 * REGION + 4104, 80, net.memory.UVA + 17 * REGION, 4104))
            fds = [net.memory.fd, odd.fd, odd.fd]
            self.assertNotEqual(net.client.ack(vhost.SET_MEM_TABLE, regions, fds), 0)
            app.err.wait("does not begin with one of the IOMMU's pages of 0x1000")
            net.exchange()
            self.assertEqual(self.set_table(net, net.memory), 0)
            self.assertEqual(app.show('v0')['dma']['bytes_mapped'], before)

    def test_nothing_is_mapped_after_the_end(self):
        for end in 'stop', 'disconnect', 'reset':
            with self.subTest(end), model() as other, daemon(other.path) as app:
                with vhost.NetDriver(app.socket('v0')).start() as net:
                    net.exchange()
                    self.assertGreaterEqual(app.show('v0')['dma']['mappings'], 1)
                    if end == 'stop':
                        net.stop()
                    elif end == 'reset':
                        self.assertEqual(net.client.ack(vhost.RESET_DEVICE), 0)
                wait_unmapped(app)

    def test_a_function_that_is_lost_reaches_nothing(self):
        with model() as other, daemon(other.path) as app, \
                vhost.NetDriver(app.socket('v0')).start() as net:
            net.exchange()
            other.stop()
            harness.wait_for(lambda: app.show('v0')['state'] == 'failed', 'the device to fail')
            # But for the control queue's ring, which is nobody else's.
            self.assertLessEqual(app.show('v0')['dma']['mappings'], 1)
            # Nor is what the front end says afterwards mapped for it.
            self.set_table(net, net.memory, net.memory)
            self.assertLessEqual(app.show('v0')['dma']['mappings'], 1)


if __name__ == '__main__':
    unittest.main(verbosity=2)
