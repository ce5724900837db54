# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""The daemon drives a virtio-pci function in another process, and sleeps while packets pass.

Three processes: testpmd's virtio-user, vdpa-app with the driver virtio on vfio-user, and vdpa-model,
whose sim_net loops back what it is sent.
"""

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time
import unittest

import harness
import vhost_user_client as vhost

MODEL = os.environ.get('UVDPA_MODEL', 'vdpa-model')
PACKETS = 10000  # at least, where packets are to do something or not


@contextlib.contextmanager
def model(words='', pairs=1, args=()):
    """vdpa-model with one net function m0; it has .path, the function's name."""
    device = f'name m0 mgmtdev sim_net max_vqp {pairs} vfio_user {{dir}}/m0.vfu {words}'
    with harness.Daemon([device], args=args, app=MODEL) as process:
        process.path = f'vfio-user/{process.dir}/m0.vfu'
        yield process


@contextlib.contextmanager
def daemon(*functions, words=''):
    """vdpa-app with a device v0, v1, ... on each function, served on sockets."""
    devices = [f'name v{i} mgmtdev {function} socket {{dir}}/v{i}.sock {words}'
               for i, function in enumerate(functions)]
    with harness.Daemon(devices) as process:
        yield process


def interrupts(ring):
    """Interrupts of a queue since the last time."""
    try:
        return os.eventfd_read(ring.call_fd)
    except BlockingIOError:
        return 0


class Order(unittest.TestCase):
    def test_the_daemon_waits_for_the_servers_socket(self):
        with tempfile.TemporaryDirectory(prefix='uvdpa-test.') as folder:
            path = f'{folder}/m0.vfu'
            app = harness.Daemon([f'name v0 mgmtdev vfio-user/{path} timeout_ms 10000'])
            server = harness.Daemon([f'name m0 mgmtdev sim_net vfio_user {path}'], app=MODEL)
            first = threading.Thread(target=app.start)
            first.start()
            try:
                # It has a thread of its own for events when it comes to its devices.
                harness.wait_for(lambda: app.process is not None and
                                 'vdpa-control' in harness.threads(app.pid), 'the daemon')
                time.sleep(0.1)
                with server:
                    first.join()
                    with contextlib.ExitStack() as stack:
                        stack.push(app.__exit__)
                        self.assertEqual(app.ask('/vdpa/dev/list'), ['v0'])
            finally:
                first.join()


class Loopback(unittest.TestCase):
    def check(self, queues=1, words='', model_words='', **vdev):
        with model(model_words, queues) as other, daemon(other.path, words=words) as app:
            port = harness.virtio_user(app.socket('v0'), queues=queues, **vdev)
            with harness.Testpmd([port], queues=queues) as pmd:
                self.assertEqual(app.show('v0')['state'], 'running')
                harness.loopback(self, pmd, queues, lambda q: other.ask(f'/vdpa/dev/stats,m0,{q}'),
                                 lambda: harness.drops(other.stats('m0')))
            harness.wait_for(lambda: app.show('v0')['state'] == 'idle', 'the device to stop')


class Sleep(unittest.TestCase):
    """A kick that is relayed wakes the daemon; packets and interrupts do not."""

    SECONDS = 2.0  # at least

    def packets(self, other):
        stats = other.stats('m0')['device']
        return stats['rx_packets'] + stats['tx_packets']

    def wakeups(self, app):
        counts = harness.wake_ups(app.pid)
        return sum(n for name, n in counts.items() if name.startswith('vdpa-'))

    def wait_for_packets(self, other, before):
        """So many packets and so long, whichever takes longer; the seconds that it took."""
        start = time.monotonic()
        time.sleep(self.SECONDS)
        harness.wait_for(lambda: self.packets(other) > before + PACKETS, 'packets')
        return time.monotonic() - start

    def measure(self, model_args=()):
        """Packets, relayed kicks and wake-ups of a while under load."""
        with model(args=model_args) as other, daemon(other.path) as app:
            port = harness.virtio_user(app.socket('v0'))
            with harness.Testpmd([port]) as pmd:
                pmd.run(f'start tx_first {harness.BURSTS}')
                time.sleep(0.2)
                # The kicks of a little more than the time that wake-ups are counted in.
                kicks = app.stats('v0')['device']['kicks_relayed']
                before = self.packets(other), self.wakeups(app), harness.cpu_seconds(app.pid)
                seconds = self.wait_for_packets(other, before[0])
                packets = self.packets(other) - before[0]
                wakeups = self.wakeups(app) - before[1]
                cpu = harness.cpu_seconds(app.pid) - before[2]
                kicks = app.stats('v0')['device']['kicks_relayed'] - kicks
                pmd.run('stop')
        print(f'{self.id()}: {packets} packets in {seconds:.1f} s: {kicks} kicks relayed, '
              f'{wakeups} wake-ups of the daemon, CPU {100 * cpu / seconds:.1f} %', flush=True)
        return kicks, wakeups, cpu / seconds

    def test_packets_do_not_wake_the_daemon(self):
        kicks, wakeups, _ = self.measure()
        # A wake-up for each packet would be thousands of times more.
        self.assertLessEqual(wakeups, 1.1 * kicks + 20)

    def test_a_device_that_polls_lets_the_daemon_sleep(self):
        """It asks for no kicks, so that there is nothing left to do."""
        kicks, wakeups, cpu = self.measure(
            ['--poll-lcores', str(min(os.sched_getaffinity(0)))])
        self.assertEqual(kicks, 0)
        self.assertLessEqual(wakeups, 20)
        self.assertLess(cpu, 0.05)

    def test_packets_make_no_system_calls(self):
        """All threads of the daemon, DPDK's too."""
        harness.skip_unless(shutil.which('strace'), 'strace is not installed: run scripts/setup test')
        polling = ['--poll-lcores', str(min(os.sched_getaffinity(0)))]
        with model(args=polling) as other, daemon(other.path) as app:
            port = harness.virtio_user(app.socket('v0'))
            with harness.Testpmd([port]) as pmd:
                pmd.run(f'start tx_first {harness.BURSTS}')
                time.sleep(0.2)
                before = self.packets(other)
                table = f'{app.dir}/strace'
                tracer = subprocess.Popen(['strace', '-f', '-c', '-o', table, '-p', str(app.pid)],
                                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                          stderr=subprocess.PIPE, text=True)
                seconds = self.wait_for_packets(other, before)
                tracer.send_signal(signal.SIGINT)
                said = tracer.communicate(timeout=10)[1]
                harness.skip_unless('not permitted' not in said, f'strace may not attach: {said}')
                packets = self.packets(other) - before
                with open(table, encoding='ascii') as file:
                    rows = [line.split() for line in file if line.strip()]
                pmd.run('stop')
        # % time, seconds, usecs/call, calls, errors where there are some, name
        calls = {row[-1]: int(row[3]) for row in rows if row[0][0].isdigit() and row[-1] != 'total'}
        print(f'{self.id()}: {packets} packets in {seconds:.1f} s: '
              f'{sum(calls.values())} system calls of the daemon {calls}', flush=True)
        self.assertLessEqual(sum(calls.values()), 100)

    def test_interrupts_do_not_wake_the_daemon(self):
        exchanges = 200
        with model() as other, daemon(other.path) as app, \
                vhost.NetDriver(app.socket('v0')).start() as net:
            net.exchange()
            before = self.wakeups(app), app.stats('v0')['device']['kicks_relayed']
            for ring in net.rx, net.tx:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(ring.call_fd)
            for _ in range(exchanges):
                net.exchange()
            kicks = app.stats('v0')['device']['kicks_relayed'] - before[1]
            wakeups = self.wakeups(app) - before[0]
            interrupts = sum(os.eventfd_read(ring.call_fd) for ring in (net.rx, net.tx))
            stats = app.stats('v0')['device']
        print(f'{self.id()}: {interrupts} interrupts, {kicks} kicks relayed, {wakeups} wake-ups of '
              f'the daemon', flush=True)
        self.assertGreaterEqual(interrupts, exchanges)
        self.assertLessEqual(wakeups, 1.1 * kicks + 20)
        self.assertEqual(stats['interrupts_relayed'], 0)
        self.assertEqual(stats['vectors'], 3)


class Sessions(unittest.TestCase):
    """One after the other, on one function."""

    CYCLES = 30

    def stop(self, net):
        """The queues' places in their rings."""
        return [struct.unpack('<II', net.client.ask(vhost.GET_VRING_BASE,
                                                    struct.pack('<II', ring.index, 0)))[1]
                for ring in (net.rx, net.tx)]

    def test_nothing_is_left_of_a_session(self):
        with model() as other, daemon(other.path) as app, app.telemetry() as client:
            def is_idle():
                return client.ask('/vdpa/dev/show,v0')['state'] == 'idle'

            for i in range(self.CYCLES):
                ring = vhost.PackedRing if i % 2 else vhost.SplitRing
                with vhost.NetDriver(app.socket('v0'), ring).start() as net:
                    net.exchange()
                    if i % 3 == 0:
                        self.stop(net)
                harness.wait_for(is_idle, 'the device to be idle')
                if i == 4:
                    before = harness.settled(app.pid)
            harness.nothing_left(app.pid, before)
            self.assertEqual(app.err.text(), '')

    def test_interrupts_come_with_fewer_vectors_too(self):
        for vectors in 3, 2, 1:
            for ring in vhost.SplitRing, vhost.PackedRing:
                with self.subTest(vectors=vectors, ring=ring.__name__), model() as other, \
                        daemon(other.path, words=f'vectors {vectors}') as app, \
                        vhost.NetDriver(app.socket('v0'), ring).start() as net:
                    net.exchange()
                    for queue in net.rx, net.tx:
                        harness.wait_for(lambda: interrupts(queue), 'an interrupt')
                    self.assertEqual(app.stats('v0')['device']['vectors'], vectors)

    def test_a_driver_that_begins_anew_starts_again(self):
        """A guest that reloads its driver: the rings begin at 0."""
        for ring in vhost.SplitRing, vhost.PackedRing:
            with self.subTest(ring.__name__), model() as other, daemon(other.path) as app, \
                    vhost.NetDriver(app.socket('v0'), ring).start() as net:
                net.exchange()
                self.stop(net)
                net.rx, net.tx = ring(net.memory, 0), ring(net.memory, 1)
                net.start()
                net.exchange()

    def test_lines_of_a_queue_that_does_not_start_are_limited(self):
        """A front end can have it refused as often as it likes: 200 lines, and one a second."""
        features = vhost.F_VERSION_1 | vhost.F_MQ | vhost.F_CTRL_VQ
        with model(f'device_features {features:#x}', pairs=2) as other, daemon(other.path, words='migration off') as app, \
                vhost.NetDriver(app.socket('v0'), features=vhost.F_MQ) as net:
            late = vhost.SplitRing(net.memory, 3)
            net.start()
            net.exchange()
            began = time.monotonic()
            for _ in range(300):
                self.assertEqual(late.start(net.client), 0)
                net.client.ask(vhost.GET_VRING_BASE, struct.pack('<II', late.index, 0))
                for _ in range(2):
                    os.close(net.client.owned.pop())
            net.exchange()
            app.err.wait('v0: queue 3: does not start: queue [01] has been used, and the device does not say')
            self.assertLess(app.err.text().count('does not start'), 202 + time.monotonic() - began)

    def test_a_queue_that_goes_on_is_refused(self):
        """QEMU's stop and cont without shadow virtqueues: no device can be told where the queues stand."""
        for ring in vhost.SplitRing, vhost.PackedRing:
            with self.subTest(ring.__name__), model() as other, daemon(other.path, words='migration off') as app, \
                    vhost.NetDriver(app.socket('v0'), ring).start() as net:
                net.exchange()
                bases = self.stop(net)
                with contextlib.suppress(AssertionError, vhost.Closed, OSError):
                    for queue, base in zip((net.rx, net.tx), bases):
                        queue.start(net.client, base=base)
                harness.wait_for(lambda: app.show('v0')['state'] == 'failed', 'it to be refused')
                app.err.wait('allows no shadow|it stopped with buffers in flight')


class Gone(unittest.TestCase):
    def test_a_device_process_that_dies_costs_its_device_only(self):
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(model()) for _ in range(2)]
            app = stack.enter_context(daemon(*(other.path for other in others)))
            nets = [stack.enter_context(vhost.NetDriver(app.socket(f'v{i}')).start())
                    for i in range(2)]
            for net in nets:
                net.exchange()
            began = harness.running()
            self.end(others[0])
            harness.wait_for(lambda: app.show('v0')['state'] == 'failed', 'the device to fail')
            self.assertLess(harness.running() - began, 5)
            app.err.wait('v0: .*' + os.path.basename(others[0].dir))
            nets[1].exchange()
            self.assertEqual(app.show('v1')['state'], 'running')

    def end(self, other):
        os.kill(other.pid, signal.SIGKILL)
        other.process.wait()
        # It was meant to, and could not tidy up.
        other.process.returncode = 0
        shutil.rmtree(other.runtime_dir(), ignore_errors=True)


def case(**kwargs):
    return lambda self: self.check(**kwargs)


for _layout, _args in (('split', {}), ('packed', {'packed': True})):
    for _queues in (1, 4):
        setattr(Loopback, f'test_{_layout}_{_queues}_queue_pairs', case(queues=_queues, **_args))


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main(verbosity=2)
