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


if __name__ == '__main__':
    unittest.main(verbosity=2)
