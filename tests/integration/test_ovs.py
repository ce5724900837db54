# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Open vSwitch with DPDK drives devices of vdpa-app, as a user who has one for a port would have it.

A port of type dpdk is a virtio-user port on the device's socket (options:dpdk-devargs): the switch is the
front end. Its own vhost-user ports are back ends, as vdpa-app is, and take no socket of ours.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

import harness
import vhost_user_client as vhu

FRAMES = 100
A, B = bytes.fromhex('525400000a01'), bytes.fromhex('525400000b01')

_folder = None


def setUpModule():
    global _folder
    _folder = harness.fetched('ovs')
    works = subprocess.run([*namespace(), 'true'], capture_output=True).returncode == 0
    harness.skip_unless(works, 'no network namespace can be had, in which a bridge is a tap device')


def namespace():
    """A network of its own: a bridge has an interface, and nobody else's may be touched."""
    return ['unshare', '--net', *([] if os.getuid() == 0 else ['--map-root-user']), '--']


class Switch:
    """A switch with the bridge br0, in a folder of its own."""

    _count = 0

    def __init__(self):
        Switch._count += 1
        self.prefix = f'uvdpa-ovs.{os.getpid()}.{Switch._count}'
        self.dir = tempfile.mkdtemp(prefix='uvdpa-test.')
        self.log = os.path.join(self.dir, 'vswitchd.log')
        self.env = dict(os.environ, LD_LIBRARY_PATH=os.path.join(_folder, 'lib'),
                        OVS_PKGDATADIR=_folder, RUNTIME_DIRECTORY=self.dir,
                        XDG_RUNTIME_DIR=self.dir)
        for name in 'OVS_RUNDIR', 'OVS_DBDIR', 'OVS_LOGDIR', 'OVS_SYSCONFDIR':
            self.env[name] = self.dir
        self.db = f'unix:{self.dir}/db.sock'
        self.server = self.switch = None

    def program(self, name):
        return os.path.join(_folder, 'bin', name)

    def spawn(self, argv):
        with open(os.path.join(self.dir, 'output'), 'ab') as output:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                    env=self.env, cwd=self.dir)

    def call(self, name, *words):
        done = subprocess.run([self.program(name), *words], env=self.env, capture_output=True,
                              text=True)
        if done.returncode != 0:
            raise AssertionError(f'{name} {words}: {done.stderr}\n{self.tail()}')
        return done.stdout.strip()

    def vsctl(self, *words):
        return self.call('ovs-vsctl', f'--db={self.db}', f'--timeout={harness.TIMEOUT:g}', *words)

    def start_switch(self):
        self.switch = self.spawn([*namespace(), self.program('ovs-vswitchd'), self.db,
                                  f'--log-file={self.log}', '--no-chdir'])

    def tail(self):
        text = ''
        for path in self.log, os.path.join(self.dir, 'output'):
            if os.path.exists(path):
                with open(path, errors='replace') as f:
                    text += '\n'.join(f.read().splitlines()[-40:]) + '\n'
        return text

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def start(self):
        database = os.path.join(self.dir, 'conf.db')
        self.call('ovsdb-tool', 'create', database, os.path.join(_folder, 'vswitch.ovsschema'))
        self.server = self.spawn([self.program('ovsdb-server'), database, '--no-chdir',
                                  f'--remote=p{self.db}'])
        harness.wait_for(lambda: os.path.exists(f'{self.dir}/db.sock'), 'ovsdb-server')
        # --legacy-mem keeps OVS from --in-memory, which does not go with --no-huge.
        extra = ('--legacy-mem --no-huge -m 1024 --no-pci --no-telemetry '
                 f'--file-prefix={self.prefix}')
        self.vsctl('--no-wait', 'set', 'Open_vSwitch', '.', 'other_config:dpdk-init=true',
                   f'other_config:dpdk-extra="{extra}"', 'other_config:pmd-maxsleep=500')
        self.start_switch()
        self.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev')
        return self

    def add_port(self, name, path):
        """A port that uses the device on the socket."""
        self.vsctl('add-port', 'br0', name, '--', 'set', 'Interface', name, 'type=dpdk',
                   f'options:dpdk-devargs="net_virtio_user_{name},path={path}"')
        error = self.vsctl('get', 'Interface', name, 'error')
        if error != '[]':
            raise AssertionError(f'{name}: {error}\n{self.tail()}')

    def counts(self, name):
        """Frames that the port received and sent."""
        text = self.vsctl('--no-wait', 'get', 'Interface', name, 'statistics')
        found = dict(re.findall(r'(\w+)=(\d+)', text))
        return int(found['rx_packets']), int(found['tx_packets'])

    def crash_and_restart(self):
        """It has its ports from its database; a change of that waits until it has done so."""
        self.switch.send_signal(signal.SIGKILL)
        self.switch.wait()
        self.start_switch()
        self.vsctl('set', 'Open_vSwitch', '.', 'external_ids:crashed=yes')

    def __exit__(self, kind=None, *exc):
        if kind is not None:
            print(self.tail(), flush=True)
        for process in self.switch, self.server:
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(harness.TIMEOUT)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
        shutil.rmtree(f'/var/run/dpdk/{self.prefix}', ignore_errors=True)


class End(vhu.NetDriver):
    """A driver of a device, from which frames are sent and by which they are received."""

    def send(self, frame):
        self.memory.write(self.tx_buf, bytes(vhu.NET_HDR) + frame)
        self.tx.add(self.tx_buf, vhu.NET_HDR + len(frame), False)
        self.tx.kick()
        if not vhu.wait_until(lambda: self.tx.poll() is not None):
            raise AssertionError('the frame is not taken')

    def listen(self):
        self.memory.write(self.rx_buf, bytes(4096))
        self.rx.add(self.rx_buf, 4096, True)
        self.rx.kick()

    def received(self):
        """The frame that came after listen()."""
        length = vhu.wait_until(self.rx.poll)
        if length is None:
            raise AssertionError('no frame comes')
        return self.memory.read(self.rx_buf + vhu.NET_HDR, length - vhu.NET_HDR)


def frame(source, target, serial):
    """Every length from the shortest to one near the longest, bytes that tell their place."""
    length = 60 + serial * 14
    return target + source + b'\x88\xb5' + bytes((serial + i) & 0xff for i in range(length - 14))


class Ovs(unittest.TestCase):
    def exchange(self, a, b, frames=FRAMES):
        """Frames both ways between two ends, every byte compared."""
        for serial in range(frames):
            for sender, receiver, data in (a, b, frame(A, B, serial)), (b, a, frame(B, A, serial)):
                receiver.listen()
                sender.send(data)
                self.assertEqual(receiver.received(), data)

    def check_counts(self, switch, ports, frames):
        for port in ports:
            harness.wait_for(lambda: switch.counts(port) == (frames, frames),
                             f'{port}: {frames} frames each way, not {switch.counts(port)}')

    def test_switch_drives_two_devices(self):
        """a and b are what is beyond the two devices' wires, p0 and p1 the switch's ports."""
        words = [f'name {name} mgmtdev sim_net backend peer {peer} socket {{dir}}/{name}.sock'
                 for name, peer in (('p0', 'a'), ('a', 'p0'), ('p1', 'b'), ('b', 'p1'))]
        with harness.Daemon(words) as daemon, Switch() as switch:
            for port in 'p0', 'p1':
                switch.add_port(port, daemon.socket(port))
                self.running(daemon, port)
            with End(daemon.socket('a')).start() as a, End(daemon.socket('b')).start() as b:
                self.exchange(a, b)
                self.check_counts(switch, ('p0', 'p1'), FRAMES)
                for port in 'p0', 'p1':
                    device = daemon.stats(port)['device']
                    self.assertEqual((device['rx_packets'], device['tx_packets']),
                                     (FRAMES, FRAMES))
                    self.assertEqual(harness.drops(daemon.stats(port)), 0)
                switch.crash_and_restart()
                for port in 'p0', 'p1':
                    self.running(daemon, port)
                self.exchange(a, b, 10)
                for port in 'p0', 'p1':
                    self.assertEqual(daemon.stats(port)['device']['tx_packets'], FRAMES + 10)

    def running(self, daemon, name):
        harness.wait_for(lambda: daemon.show(name)['state'] == 'running', f'{name} to start')


if __name__ == '__main__':
    unittest.main(verbosity=2)
