# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""DPDK's own examples/vdpa, compiled unmodified, lists and serves our devices by the EAL plugin."""

import contextlib
import os
import re
import select
import shlex
import shutil
import struct
import subprocess
import tempfile
import time
import unittest

import harness
import plugin_tool
import vhost_user_client as vhu

BUILD = os.environ.get('UVDPA_BUILD', '')
MODEL = os.environ.get('UVDPA_MODEL', 'vdpa-model')
PLUGIN = 'librte_vdpa_uvdpa.so'
SOURCES = ('/usr/share/dpdk/examples/vdpa', '/usr/share/doc/dpdk/examples/vdpa')

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
    _program = compile_dpdk(os.path.join(source, 'main.c'), 'vdpa')


def compile_dpdk(source, name):
    """A program of DPDK's public interface, with the flags of the example's Makefile."""
    def flags(what):
        text = subprocess.run(['pkg-config', what, 'libdpdk'], check=True, text=True,
                              stdout=subprocess.PIPE).stdout
        return shlex.split(text)

    program = os.path.join(_folder, name)
    subprocess.run(['cc', '-O2', '-DALLOW_EXPERIMENTAL_API', *flags('--cflags'), source, '-o',
                    program, *flags('--libs')], check=True)
    return program


class Process:
    """A DPDK application with the plugin."""

    _count = 0

    def __init__(self, program, vdevs=(), args=(), env=None, plugins=(PLUGIN,)):
        Process._count += 1
        self.dir = tempfile.mkdtemp(prefix='uvdpa-test.')
        self.prefix = f'uvdpa-vdpa.{os.getpid()}.{Process._count}'
        # EAL refuses a plugin by a path that others may write to (a file in the current folder is
        # one), and takes one by name.
        command = ['stdbuf', '-oL', program, '-l0', '--no-huge', '-m', '128', '--no-shconf',
                   '--no-pci', f'--file-prefix={self.prefix}', '--log-level=lib.vhost.*:warning']
        for plugin in plugins:
            command += ['-d', plugin]
        for vdev in vdevs:
            command += ['--vdev', vdev]
        self.process = subprocess.Popen(
            command + ['--', *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors='replace', bufsize=1, cwd=self.dir,
            env={**os.environ, 'LD_LIBRARY_PATH': f'{BUILD}:{_folder}', 'XDG_RUNTIME_DIR': self.dir,
                 'RUNTIME_DIRECTORY': self.dir, **(env or {})})
        self.out = harness.Reader(self.process.stdout)

    def command(self, text, done):
        """Give it a line, and wait for one that matches; the match and the lines until then."""
        start = len(self.out.lines)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(text + '\n')
            self.process.stdin.flush()
        match, end = self.out.wait(done, start)
        return match, '\n'.join(self.out.lines[start:end])

    def telemetry(self, command):
        path = os.path.join(self.dir, 'dpdk', self.prefix, 'dpdk_telemetry.v2')
        if not os.path.exists(path):
            path = os.path.join(self.dir, 'dpdk_telemetry.v2')
        with contextlib.closing(harness.Telemetry(path)) as client:
            return client.ask(command)

    def guest_maps(self):
        with open(f'/proc/{self.process.pid}/maps') as f:
            return sum(vhu.MEM_NAME in line for line in f)

    def end(self, last=''):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(last)
            self.process.stdin.close()
        try:
            code = self.process.wait(harness.TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.out.join()
        shutil.rmtree(self.dir, ignore_errors=True)
        return code

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        code = self.end()
        if kind is not None or code != 0:
            print(self.out.text(), flush=True)
        if kind is None and code != 0:
            raise AssertionError(f'{self.process.args[2]} ended with {code}')


class Example(Process):
    """examples/vdpa at its prompt, with the devices of some --vdev arguments."""

    def __init__(self, vdevs, env=None, plugins=(PLUGIN,)):
        super().__init__(_program, vdevs, ['--interactive'], env, plugins)

    def run(self, command):
        """Run a command; the lines that it printed."""
        return self.command(f'{command}\nhelp', 'exit vdpa sample app')[1]

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
        """A queue's statistics by the names that it shows, each once."""
        rows = re.findall(r'^\t\t(\S+)\s+(\d+)', self.run(f'stats {name} {queue}'), re.M)
        stats = {key: int(value) for key, value in rows}
        assert len(stats) == len(rows), rows
        return stats

    def end(self):
        return super().end('quit\n')


class Attach(Process):
    """dpdk_attach.c."""

    program = None

    def __init__(self):
        if Attach.program is None:
            Attach.program = compile_dpdk(
                os.path.join(os.path.dirname(os.path.abspath(__file__)), 'dpdk_attach.c'), 'attach')
        super().__init__(Attach.program)

    def run(self, command):
        return int(self.command(command, r'^= (-?\d+)$')[0].group(1))


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


    def test_a_driver_that_is_a_plugin(self):
        plugin_tool.build(os.path.join(_folder, 'null.so'))
        vdevs = ['uvdpa0,mgmtdev=null_net,depth=7', 'uvdpa1,mgmtdev=null_net,depth=10']
        for plugins in ((PLUGIN, 'null.so'), ('null.so', PLUGIN)):
            with Example(vdevs, plugins=plugins) as example:
                self.assertEqual(list(example.list()), ['uvdpa0'])
            self.assertIn("uvdpa1: depth '10': not a number from 1 to 9", example.out.text())
            self.assertNotIn("driver 'null'", example.out.text())

    def test_unknown_dpdk_gets_no_device(self):
        built = subprocess.run(['pkg-config', '--modversion', 'libdpdk'], text=True, check=True,
                               stdout=subprocess.PIPE).stdout
        # A release with another ABI than that.
        other = (23, 3) if built >= '23.11' else (25, 7)
        for year, month, why in (
                (26, 3, 'DPDK 26.03: its interface for vDPA drivers is not known'),
                (*other, f'DPDK {other[0]}.{other[1]:02}: uvdpa was built for .*build uvdpa again')):
            code = (f'unsigned rte_version_year(void) {{ return {year}; }}\n'
                    f'unsigned rte_version_month(void) {{ return {month}; }}\n')
            library = os.path.join(_folder, 'version.so')
            subprocess.run(['cc', '-shared', '-fPIC', '-x', 'c', '-', '-o', library], input=code,
                           text=True, check=True)
            example = Example(['uvdpa0,mgmtdev=sim_net'], env={'LD_PRELOAD': library})
            self.assertNotEqual(example.end(), 0)
            self.assertRegex(example.out.text(), why)


class RunTime(unittest.TestCase):
    def test_devices_come_and_go(self):
        with Attach() as app:
            pid = app.process.pid
            for i in range(10):
                self.assertEqual(app.run('probe vdev:uvdpa1,mgmtdev=sim_net,max_vqp=8'), 0)
                self.assertEqual(app.run('probe vdev:uvdpa2,mgmtdev=sim_blk,backend=ram 1M'), 0)
                self.assertEqual(app.run('remove uvdpa1'), 0)
                self.assertEqual(app.run('remove uvdpa2'), 0)
                held = harness.fds(pid), harness.threads(pid)
                if i == 0:
                    first = held
            self.assertEqual(held, first)
            self.assertNotIn('uvdpa', ' '.join(harness.threads(pid)))

    def test_a_device_asks_for_the_control_socket(self):
        with Attach() as app:
            path = os.path.join(app.dir, 'control')
            for _ in range(2):
                self.assertEqual(app.run(f'probe vdev:uvdpa1,mgmtdev=sim_net,control={path}'), 0)
                # One for all devices.
                self.assertEqual(app.run(f'probe vdev:uvdpa2,control={path},mgmtdev=sim_net'), 0)
                self.assertLess(app.run(f'probe vdev:uvdpa3,mgmtdev=sim_net,control={path}.2'), 0)
                with harness.Control(path) as client:
                    self.assertEqual(client.call('version')['program'], 'rte_vdpa')
                    self.assertEqual(client.call('dev.list')['names'], ['uvdpa1', 'uvdpa2'])
                    self.assertEqual(client.show('uvdpa1')['frontend'], 'rte_vdpa')
                    client.add('name own mgmtdev sim_blk backend ram 1M')
                    client.delete('own')
                self.assertEqual(app.run('remove uvdpa1'), 0)
                self.assertTrue(os.path.exists(path))
                self.assertEqual(app.run('remove uvdpa2'), 0)
                self.assertFalse(os.path.exists(path))

    def test_device_in_use_is_not_removed(self):
        with Attach() as app:
            path = os.path.join(app.dir, 'uvdpa1.sock')
            self.assertEqual(app.run('probe vdev:uvdpa1,mgmtdev=sim_net'), 0)
            self.assertEqual(app.run(f'serve uvdpa1 {path}'), 0)
            with vhu.NetDriver(path) as net:
                net.start()
                net.exchange()
                self.assertLess(app.run('remove uvdpa1'), 0)
                net.exchange()
                self.assertGreater(app.run('stats uvdpa1 0'), 0)
                self.assertEqual(app.run('reset uvdpa1 0'), 0)
                self.assertEqual(app.run('stats uvdpa1 0'), 0)
                self.assertEqual(app.run(f'unserve {path}'), 0)
                self.assertEqual(app.run('remove uvdpa1'), 0)
            self.assertEqual(app.run('remove uvdpa1'), -19)


class Traffic(unittest.TestCase):
    """testpmd's virtio-user passes frames through the example."""

    def check(self, read, path, queues=1, **vdev):
        """read(q): the statistics of a queue, as whoever executes it counts them."""
        before = [read(q) for q in range(2 * queues)]
        port = harness.virtio_user(path, queues=queues, **vdev)
        with harness.Testpmd([port], queues=queues) as pmd:
            harness.loopback(self, pmd, queues, lambda q: {
                key: value - before[q].get(key, 0) for key, value in read(q).items()
                if isinstance(value, int)}, packets=1000)

    def serve(self, queues=1, **vdev):
        with Example([f'uvdpa0,mgmtdev=sim_net,max_vqp={queues}']) as example:
            self.check_twice(example, lambda q: example.stats('uvdpa0', q), queues, **vdev)

    def check_twice(self, example, read, queues, **vdev):
        """The second front end finds the device as the first one did."""
        path = example.create('uvdpa0')
        for _ in range(2):
            self.check(read, path, queues, **vdev)
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


def swap_call_eventfds(test, net):
    """Each new one gets a signal when it is in force, and then the interrupts."""
    net.exchange()
    for _ in range(20):
        fd = net.client.eventfd()
        test.assertEqual(net.client.u64(vhu.SET_VRING_CALL, 0, [fd]), 0)
        for _ in range(2):
            test.assertTrue(select.select([fd], [], [], vhu.TIMEOUT_S)[0])
            os.eventfd_read(fd)
            net.exchange()


class VfioUser(Traffic):
    """The same on a virtio-pci function in another process."""

    def serve(self, queues=1, **vdev):
        words = f'name m0 mgmtdev sim_net max_vqp {queues} vfio_user {{dir}}/m0.vfu'
        with harness.Daemon([words], app=MODEL) as model, \
                Example([f'uvdpa0,mgmtdev=vfio-user/{model.dir}/m0.vfu']) as example:
            self.assertEqual(example.list()['uvdpa0'][0], queues)
            self.check_twice(example, lambda q: model.ask(f'/vdpa/dev/stats,m0,{q}'), queues,
                             **vdev)


    def test_swapped_call_eventfd_gets_the_interrupts(self):
        with harness.Daemon(['name m0 mgmtdev sim_net vfio_user {dir}/m0.vfu'], app=MODEL) as m, \
                Example([f'uvdpa0,mgmtdev=vfio-user/{m.dir}/m0.vfu']) as example, \
                vhu.NetDriver(example.create('uvdpa0')) as net:
            net.start()
            swap_call_eventfds(self, net)


class Block(unittest.TestCase):
    CAPACITY = 1 << 20
    def test_simulated(self):
        with Example(['uvdpa0,mgmtdev=sim_blk,backend=ram 1M']) as example:
            self.check(example.create('uvdpa0'))

    def test_vfio_user(self):
        words = 'name m0 mgmtdev sim_blk backend ram 1M vfio_user {dir}/m0.vfu'
        with harness.Daemon([words], app=MODEL) as model, \
                Example([f'uvdpa0,mgmtdev=vfio-user/{model.dir}/m0.vfu']) as example:
            self.check(example.create('uvdpa0'))

    def check(self, path):
        with vhu.Client(path) as client:
            # It starts by its rings.
            self.assertEqual(client.ask_u64(vhu.GET_PROTOCOL_FEATURES) & vhu.P_STATUS, 0)
            client.negotiate()
            config = client.ask(vhu.GET_CONFIG, struct.pack('<III', 0, 60, 0) + bytes(60))
            self.assertEqual(struct.unpack_from('<Q', config, 12)[0], self.CAPACITY // 512)
        with vhu.BlockDriver(path, 1, 1) as blk:
            blk.start().exchange()
            self.assertTrue(select.select([blk.rings[0].call_fd], [], [], vhu.TIMEOUT_S)[0])


class Conformance(unittest.TestCase):
    """test-vdpa through rte_vhost; what doc/guide-dpdk.md says that it cannot do may fail."""

    # A standard virtio device is stopped for a changed memory table, and cannot go on elsewhere; nor
    # does it know of a queue that is disabled.
    # rte_vhost ignores the offset of a read of the configuration; there is no status that a reset
    # could be seen by.
    BLOCK = {'config_readable', 'reset_completes'}
    FROM_THE_START = {'split_queue_resume', 'packed_queue_resume', 'memory_change', 'queue_disable',
                      'split_places', 'packed_places'}
    # rte_vhost says only the available half of where a packed ring stands.
    HALF_A_PLACE = {'packed_places'}

    def test_simulated(self):
        with Example(['uvdpa0,mgmtdev=sim_net,max_vqp=2']) as example:
            self.check(example.create('uvdpa0'), self.HALF_A_PLACE)

    def test_vfio_user(self):
        words = 'name m0 mgmtdev sim_net max_vqp 2 vfio_user {dir}/m0.vfu'
        with harness.Daemon([words], app=MODEL) as model, \
                Example([f'uvdpa0,mgmtdev=vfio-user/{model.dir}/m0.vfu']) as example:
            self.check(example.create('uvdpa0'), self.FROM_THE_START)

    def test_block(self):
        with Example(['uvdpa0,mgmtdev=sim_blk,backend=ram 1M,queues=2']) as example:
            self.check(example.create('uvdpa0'), self.BLOCK,
                       ['--type', 'block', '--overwrite'])

    def check(self, path, may_fail, args=('--loopback', 'yes')):
        program = os.environ.get('UVDPA_TEST_VDPA', os.path.join(BUILD, 'app/test-vdpa/test-vdpa'))
        out = subprocess.run([program, 'conformance', '--socket', path, *args],
                             text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
        failed = set(re.findall(r'^not ok \d+ - (\S+)', out, re.M))
        passed = re.findall(r'^ok \d+ - \S+(?! # SKIP)$', out, re.M)
        self.assertLessEqual(failed, may_fail, out)
        self.assertGreater(len(passed), 30, out)
        print(f'{self.id()}: {len(passed)} cases passed, failed as they must: {sorted(failed)}',
              flush=True)


class Memory(unittest.TestCase):
    """Memory of a function stays mapped while rte_vhost closes and configures the device."""

    def test_vfio_user(self):
        words = 'name m0 mgmtdev sim_net vfio_user {dir}/m0.vfu'
        with harness.Daemon([words], app=MODEL) as model, \
                Example([f'uvdpa0,mgmtdev=vfio-user/{model.dir}/m0.vfu']) as example:
            def dma():
                return example.telemetry('/vdpa/dev/show,uvdpa0')['dma']

            more = vhu.Memory()
            self.addCleanup(more.close)
            with vhu.NetDriver(example.create('uvdpa0')) as net:
                net.start()
                net.exchange()
                first = dma()
                self.assertEqual(first['unmaps'], 0)
                for _ in range(10):
                    net.stop()
                    self.assertEqual(net.client.set_memory(net.memory), 0)
                    net.rx, net.tx = vhu.SplitRing(net.memory, 0), vhu.SplitRing(net.memory, 1)
                    net.start()
                    net.exchange()
                self.assertEqual(dma(), first)
                # What the front end takes back from a device that stands still.
                net.stop()
                regions = net.memory.regions + [(0x40000000, more.size, 0x20000000, 0)]
                self.assertEqual(net.client.ack(vhu.SET_MEM_TABLE, net.memory.table(regions),
                                                [net.memory.fd, more.fd]), 0)
                self.assertEqual(dma()['mappings'], first['mappings'] + 1)
                self.assertEqual(net.client.set_memory(net.memory), 0)
                self.assertEqual(dma()['mappings'], first['mappings'])
                self.assertEqual(dma()['unmaps'], 1)
            harness.wait_for(lambda: dma()['bytes_mapped'] == 0, 'the memory to be unmapped')


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
        """What the example has open when nobody is connected."""
        harness.wait_for(lambda: cls.state() == 'idle', 'the device to stop')
        # Telemetry closes its end when it gets round to it.
        time.sleep(0.02)
        pid = cls.example.process.pid
        # opened once, when the first descriptor is asked what it is
        return [name for name in harness.fds(pid) if name != f'/proc/{pid}/fd']

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
        self.assertTrue(vhu.wait_until(lambda: self.settled() == self.held),
                        f'{self.settled()} instead of {self.held}')
        self.assertEqual(self.example.guest_maps(), 0)

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
            swap_call_eventfds(self, net)

    def test_pipe_for_a_call_eventfd_holds_nobody_up(self):
        """A signal on a full one would wait, and with it whoever stops the device."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        with vhu.NetDriver(self.path) as net:
            net.start()
            net.exchange()
            os.set_blocking(writer, True)
            net.client.u64(vhu.SET_VRING_CALL, 1, [writer])
            with contextlib.suppress(AssertionError, OSError, vhu.Closed):
                net.exchange(timeout=1)

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

    def test_disabled_queue_stays_so_when_another_begins_anew(self):
        with vhu.NetDriver(self.path) as net:
            net.start()
            net.exchange()
            self.assertEqual(net.client.state(vhu.SET_VRING_ENABLE, 1, 0), 0)
            net.client.ask(vhu.GET_VRING_BASE, struct.pack('<II', 0, 0))
            net.rx = vhu.SplitRing(net.memory, 0)
            self.assertEqual(net.rx.start(net.client), 0)
            with self.assertRaises(AssertionError):
                net.exchange(timeout=0.3)
            self.assertEqual(net.tx.seen, 1)
            self.assertIsNone(net.tx.poll())

    def test_memory_added_while_it_runs(self):
        with vhu.NetDriver(self.path) as net, contextlib.closing(vhu.Memory()) as more:
            net.start()
            net.exchange()
            regions = net.memory.regions + [(0x10000000, more.size, 0x7f1000000000, 0)]
            table = net.memory.table(regions)
            fds = [net.memory.fd, more.fd]
            self.assertEqual(net.client.ack(vhu.SET_MEM_TABLE, table, fds), 0)
            net.exchange()

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

    def test_connection_that_waits_gets_the_device(self):
        """rte_vhost says once that a ring is ready, whoever has the device then."""
        for before in ('', 'rx', 'rx tx'):
            with self.subTest(set_up_while_it_waits=before), vhu.NetDriver(self.path) as other:
                with vhu.NetDriver(self.path) as net:
                    net.start()
                    net.exchange()
                    for ring in before.split():
                        self.assertEqual(getattr(other, ring).start(other.client), 0)
                    net.exchange()
                    config = other.client.ask(vhu.GET_CONFIG, struct.pack('<III', 0, 6, 0) + bytes(6))
                    self.assertEqual(config[12:18].hex(), '525400000007')
                if before != 'rx tx':
                    harness.wait_for(lambda: self.state() == 'idle', 'the device to stop')
                for ring in ('rx', 'tx')[len(before.split()):]:
                    self.assertEqual(getattr(other, ring).start(other.client), 0)
                other.exchange()

    def test_waiting_connection_that_stops_does_not_get_the_device(self):
        with vhu.NetDriver(self.path) as other:
            with vhu.NetDriver(self.path) as net:
                net.start()
                other.start()
                net.exchange()
                other.stop()
            self.reconnect()

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


class FailedMemoryTable(unittest.TestCase):
    def test_no_table_is_left_and_none_is_used(self):
        """rte_vhost keeps the table's last file open then, so this one counts no descriptors."""
        with Example(['uvdpa0,mgmtdev=sim_net']) as example:
            path = example.create('uvdpa0')
            self.fail_table(path)
            with vhu.NetDriver(path) as net:
                net.start()
                net.exchange()

    def fail_table(self, path):
        with vhu.NetDriver(path) as net:
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


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main(verbosity=2)
