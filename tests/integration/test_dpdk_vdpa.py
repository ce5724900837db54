# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""DPDK's own examples/vdpa, compiled unmodified, lists and serves our devices by the EAL plugin."""

import contextlib
import os
import re
import shlex
import shutil
import struct
import subprocess
import tempfile
import time
import unittest

import harness
import vhost_user_client as vhu

BUILD = os.environ.get('UVDPA_BUILD', '')
PLUGIN = 'librte_vdpa_uvdpa.so'
SOURCES = ('/usr/share/dpdk/examples/vdpa', '/usr/share/doc/dpdk/examples/vdpa')
BURSTS = 4
SECONDS = 0.5

_folder = None
_program = None


def setUpModule():
    global _folder, _program
    source = next((s for s in SOURCES if os.path.exists(os.path.join(s, 'main.c'))), None)
    harness.skip_unless(source, "DPDK's examples/vdpa is not installed (package dpdk-doc)")
    harness.skip_unless(os.path.exists(os.path.join(BUILD, PLUGIN)),
                        f'UVDPA_BUILD names no folder with {PLUGIN}')
    harness.skip_unless(shutil.which('cc') and shutil.which('pkg-config'),
                        'needs cc and pkg-config')
    _folder = tempfile.mkdtemp(prefix='uvdpa-test.')
    unittest.addModuleCleanup(shutil.rmtree, _folder)
    _program = os.path.join(_folder, 'vdpa')

    def flags(what):
        text = subprocess.run(['pkg-config', what, 'libdpdk'], check=True, text=True,
                              stdout=subprocess.PIPE).stdout
        return shlex.split(text)

    # As its Makefile does.
    subprocess.run(['cc', '-O2', '-DALLOW_EXPERIMENTAL_API', *flags('--cflags'),
                    os.path.join(source, 'main.c'), '-o', _program, *flags('--libs')], check=True)


class Example:
    """examples/vdpa at its prompt, with the devices of some --vdev arguments."""

    _count = 0

    def __init__(self, vdevs):
        Example._count += 1
        self.dir = tempfile.mkdtemp(prefix='uvdpa-test.')
        self.prefix = f'uvdpa-vdpa.{os.getpid()}.{Example._count}'
        # EAL refuses a plugin by a path that others may write to, and takes one by name.
        command = ['stdbuf', '-oL', _program, '-l0', '--no-huge', '-m', '128', '--no-shconf',
                   '--no-pci', f'--file-prefix={self.prefix}', '-d', PLUGIN,
                   '--log-level=lib.vhost.*:warning']
        for vdev in vdevs:
            command += ['--vdev', vdev]
        self.process = subprocess.Popen(
            command + ['--', '--interactive'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors='replace', bufsize=1,
            env=dict(os.environ, LD_LIBRARY_PATH=BUILD, XDG_RUNTIME_DIR=self.dir,
                     RUNTIME_DIRECTORY=self.dir))
        self.out = harness.Reader(self.process.stdout)

    def run(self, command):
        """Run a command; the lines that it printed."""
        start = len(self.out.lines)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f'{command}\nhelp\n')
            self.process.stdin.flush()
        _, end = self.out.wait('exit vdpa sample app', start)
        return '\n'.join(self.out.lines[start:end])

    def list(self):
        """Queues and features by device."""
        return {name: (int(queues), int(features, 16)) for name, queues, features in
                re.findall(r'^(uvdpa\S*)\s+(\d+)\s+(0x[0-9a-f]+)$', self.run('list'), re.M)}

    def create(self, name):
        """Serve a device on a socket, the path of which is returned."""
        path = os.path.join(self.dir, name + '.sock')
        self.run(f'create {path} {name}')
        harness.wait_for(lambda: os.path.exists(path), f'{path}: {self.out.text()}')
        return path

    def stats(self, name, queue):
        text = self.run(f'stats {name} {queue}')
        return {key: int(value) for key, value in re.findall(r'^\t\t(\S+)\s+(\d+)', text, re.M)}

    def telemetry(self, command):
        path = os.path.join(self.dir, 'dpdk', self.prefix, 'dpdk_telemetry.v2')
        if not os.path.exists(path):
            path = os.path.join(self.dir, 'dpdk_telemetry.v2')
        with contextlib.closing(harness.Telemetry(path)) as client:
            return client.ask(command)

    def guest_maps(self):
        with open(f'/proc/{self.process.pid}/maps') as f:
            return sum(vhu.MEM_NAME in line for line in f)

    def quit(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write('quit\n')
            self.process.stdin.close()
        try:
            code = self.process.wait(harness.TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.out.join()
        return code

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        code = self.quit()
        shutil.rmtree(self.dir, ignore_errors=True)
        if kind is not None or code != 0:
            print(self.out.text(), flush=True)
        if kind is None and code != 0:
            raise AssertionError(f'examples/vdpa ended with {code}')


def bit(features, n):
    return bool(features >> n & 1)


class Listing(unittest.TestCase):
    def test_devices_with_their_queues_and_features(self):
        with Example(['uvdpa0,mgmtdev=sim_net,max_vqp=4',
                      'uvdpa_blk,mgmtdev=sim_blk,backend=ram 1M,queues=3']) as example:
            devices = example.list()
        self.assertEqual(devices['uvdpa0'][0], 4)  # pairs
        self.assertEqual(devices['uvdpa_blk'][0], 3)
        for _, features in devices.values():
            self.assertTrue(bit(features, 30))  # protocol features
            self.assertTrue(bit(features, 32))  # virtio 1
        self.assertTrue(bit(devices['uvdpa0'][1], 22))  # several queue pairs
        self.assertFalse(bit(devices['uvdpa0'][1], 17))  # no control queue

    def refused(self, vdev, pattern):
        # EAL goes on without a virtual device that it cannot have.
        with Example([vdev, 'uvdpa9,mgmtdev=sim_net']) as example:
            self.assertEqual(list(example.list()), ['uvdpa9'])
        self.assertRegex(example.out.text(), pattern)

    def test_bad_words_are_named(self):
        self.refused('uvdpa0,mgmtdev=sim_net,colour=red',
                     "vdpa: uvdpa0: unknown word 'colour': allowed are .*max_vqp")
        self.refused('uvdpa0', 'vdpa: uvdpa0: .*mgmtdev')
        self.refused('uvdpa0,mgmtdev=,max_vqp=2', 'a value is missing')
        self.refused('uvdpa0,mgmtdev=sim_net,frontend=vhost-user', 'frontend is given twice')


class Traffic(unittest.TestCase):
    """testpmd's virtio-user passes frames through the example."""

    def check(self, example, path, name, queues=1, **vdev):
        before = [example.stats(name, q) for q in range(2 * queues)]
        port = harness.virtio_user(path, queues=queues, **vdev)
        with harness.Testpmd([port], queues=queues) as pmd:
            pmd.run(f'start tx_first {BURSTS}')
            time.sleep(SECONDS)
            pmd.run('stop')
            time.sleep(0.1)
            theirs = pmd.port_stats()
            stats = [{key: value - before[q].get(key, 0)
                      for key, value in example.stats(name, q).items()}
                     for q in range(2 * queues)]
        rx, tx = stats[0::2], stats[1::2]
        sent = sum(q['tx_packets'] for q in tx)
        delivered = sum(q['rx_packets'] for q in rx)
        print(f'{self.id()}: testpmd sent {theirs["TX-packets"]}, device took {sent}, delivered '
              f'{delivered}, testpmd received {theirs["RX-packets"]}', flush=True)
        self.assertGreater(theirs['RX-packets'], 1000)
        self.assertEqual(sent, theirs['TX-packets'])
        self.assertGreaterEqual(delivered, theirs['RX-packets'])
        self.assertLessEqual(delivered - theirs['RX-packets'], 32 * BURSTS * queues)
        for queue in range(queues):
            self.assertGreater(rx[queue]['rx_packets'], 0)
            self.assertGreater(tx[queue]['tx_packets'], 0)

    def serve(self, queues=1, **vdev):
        with Example([f'uvdpa0,mgmtdev=sim_net,max_vqp={queues}']) as example:
            path = example.create('uvdpa0')
            # The second front end finds the device as the first one did.
            for _ in range(2):
                self.check(example, path, 'uvdpa0', queues, **vdev)
                harness.wait_for(
                    lambda: example.telemetry('/vdpa/dev/show,uvdpa0')['state'] == 'idle',
                    'the device to stop')

    def test_split(self):
        self.serve()

    def test_packed(self):
        self.serve(packed=True)

    def test_split_four_queue_pairs(self):
        self.serve(queues=4)

    def test_packed_four_queue_pairs(self):
        self.serve(queues=4, packed=True)


class Session(unittest.TestCase):
    """A front end on the raw socket: what changes while the device runs, and what it does badly.

    After every test the example lives, serves a new connection, and holds what it held.
    """

    @classmethod
    def setUpClass(cls):
        cls.example = Example(['uvdpa0,mgmtdev=sim_net,mac=52:54:00:00:00:07'])
        cls.addClassCleanup(cls.example.__exit__, None, None, None)
        cls.path = cls.example.create('uvdpa0')
        cls.reconnect()
        cls.held = cls.settled()

    @classmethod
    def settled(cls):
        harness.wait_for(lambda: cls.state() == 'idle', 'the device to stop')
        return len(harness.fds(cls.example.process.pid)), cls.example.guest_maps()

    @classmethod
    def state(cls):
        return cls.example.telemetry('/vdpa/dev/show,uvdpa0')['state']

    @classmethod
    def reconnect(cls, ring=vhu.SplitRing):
        with vhu.NetDriver(cls.path, ring) as net:
            net.start()
            net.exchange()

    def tearDown(self):
        self.assertIsNone(self.example.process.poll(), self.example.out.text())
        self.reconnect()
        harness.wait_for(lambda: self.settled() == self.held,
                         f'{self.held} to be held again, not {self.settled()}')

    def test_stop_tells_where_and_start_goes_on(self):
        for ring in vhu.SplitRing, vhu.PackedRing:
            with vhu.NetDriver(self.path, ring) as net:
                net.start()
                for _ in range(70):  # once round the ring
                    net.exchange()
                for r in net.rx, net.tx:
                    payload = struct.pack('<II', r.index, 0)
                    _, base = struct.unpack('<II', net.client.ask(vhu.GET_VRING_BASE, payload))
                    self.assertEqual(base, r.base() & 0xffff)
                self.assertEqual(self.state(), 'idle')
                net.start()
                net.exchange()

    def test_swapped_call_eventfd_gets_the_interrupts(self):
        with vhu.NetDriver(self.path) as net:
            net.start()
            net.exchange()
            for _ in range(20):
                fd = net.client.eventfd()
                self.assertEqual(net.client.u64(vhu.SET_VRING_CALL, 0, [fd]), 0)
                net.exchange()
                self.assertGreater(os.eventfd_read(fd), 0)

    def test_swapped_kick_eventfd_is_listened_to(self):
        with vhu.NetDriver(self.path) as net:
            net.start()
            net.exchange()
            net.tx.kick_fd = net.client.eventfd()
            self.assertEqual(net.client.u64(vhu.SET_VRING_KICK, 1, [net.tx.kick_fd]), 0)
            net.exchange()
            # The other queue's kick would wake the device as well.
            net.rx.kick = lambda: None
            time.sleep(0.05)
            net.exchange()

    def test_disabled_queue_pauses_and_goes_on(self):
        with vhu.NetDriver(self.path) as net:
            net.start()
            net.exchange()
            self.assertEqual(net.client.state(vhu.SET_VRING_ENABLE, 1, 0), 0)
            time.sleep(0.2)
            with self.assertRaises(AssertionError):
                net.exchange(timeout=0.3)
            self.assertEqual(net.client.state(vhu.SET_VRING_ENABLE, 1, 1), 0)
            self.assertTrue(vhu.wait_until(lambda: net.tx.poll() is not None))

    def test_memory_added_while_it_runs(self):
        with vhu.NetDriver(self.path) as net, contextlib.closing(vhu.Memory()) as more:
            net.start()
            net.exchange()
            regions = net.memory.regions + [(0x10000000, more.size, 0x7f1000000000, 0)]
            table = net.memory.table(regions)
            fds = [net.memory.fd, more.fd]
            self.assertEqual(net.client.ack(vhu.SET_MEM_TABLE, table, fds), 0)
            net.exchange()

    def test_memory_table_that_fails_half_way(self):
        with vhu.NetDriver(self.path) as net:
            net.start()
            net.exchange()
            fd = net.client.eventfd()  # not a file to be mapped
            regions = [net.memory.regions[0], (0x10000000, 4096, 0x7f1000000000, 0)]
            with contextlib.suppress(vhu.Closed):
                error = net.client.ack(vhu.SET_MEM_TABLE, net.memory.table(regions),
                                       [net.memory.fd, fd])
                self.assertNotEqual(error, 0)
                # Whatever it says next finds no memory.
                net.client.state(vhu.SET_VRING_ENABLE, 0, 1)

    def test_dirty_log(self):
        with vhu.NetDriver(self.path, protocol=vhu.P_REPLY_ACK | vhu.P_MQ | vhu.P_LOG) as net:
            net.start()
            net.exchange()
            self.set_log(net, log := self.log())
            features = vhu.F_VERSION_1 | vhu.F_PROTOCOL
            self.assertEqual(net.client.u64(vhu.SET_FEATURES, features | vhu.F_LOG_ALL), 0)
            net.exchange()
            dirty = self.dirty(log)
            for offset in net.rx_buf, net.rx.device, net.tx.device:
                self.assertIn((net.memory.GPA + offset) >> 12, dirty)
            self.assertNotIn((net.memory.GPA + net.tx_buf) >> 12, dirty)
            # rte_vhost unmaps the first log when it gets another.
            self.set_log(net, self.log())
            net.exchange()
            self.assertEqual(net.client.u64(vhu.SET_FEATURES, features), 0)
            os.pwrite(log, bytes(4096), 0)
            net.exchange()
            self.assertEqual(self.dirty(log), set())

    def log(self):
        fd = os.memfd_create('uvdpa-log')
        self.addCleanup(os.close, fd)
        os.ftruncate(fd, 4096)
        return fd

    def set_log(self, net, fd):
        net.client.send(vhu.SET_LOG_BASE, struct.pack('<QQ', 4096, 0), [fd])
        net.client.recv()

    def dirty(self, fd):
        data = os.pread(fd, 4096, 0)
        return {8 * i + bit for i, byte in enumerate(data) for bit in range(8) if byte >> bit & 1}

    def test_second_connection_does_not_disturb_the_first(self):
        with vhu.NetDriver(self.path) as net:
            net.start()
            net.exchange()
            with vhu.NetDriver(self.path) as other:
                other.start()
                with self.assertRaises(AssertionError):
                    other.exchange(timeout=0.2)
            net.exchange()

    def test_configuration(self):
        with vhu.Client(self.path) as client:
            client.negotiate()
            for size, expected in (6, '525400000007'), (8, '525400000007'):
                reply = client.ask(vhu.GET_CONFIG, struct.pack('<III', 0, size, 0) + bytes(size))
                self.assertEqual(reply[12:12 + 6].hex(), expected)

    def test_disconnect_at_any_message(self):
        for messages in range(1, 14):
            with vhu.NetDriver(self.path) as net:
                sent = 0
                for r in net.rx, net.tx:
                    kick, call = net.client.eventfd(), net.client.eventfd()
                    for request, payload, fds in (
                            (vhu.SET_VRING_NUM, struct.pack('<II', r.index, r.num), []),
                            (vhu.SET_VRING_BASE, struct.pack('<II', r.index, 0), []),
                            (vhu.SET_VRING_ADDR, r.addr_payload(), []),
                            (vhu.SET_VRING_CALL, struct.pack('<Q', r.index), [call]),
                            (vhu.SET_VRING_KICK, struct.pack('<Q', r.index), [kick]),
                            (vhu.SET_VRING_ENABLE, struct.pack('<II', r.index, 1), [])):
                        if sent < messages:
                            net.client.send(request, payload, fds)
                            sent += 1


if __name__ == '__main__':
    unittest.main(verbosity=2)
