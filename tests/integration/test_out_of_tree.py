# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Drivers as their authors build them: by pkg-config, against an installed prefix and nothing else.

The skeleton of doc/examples with its unit test and the test kit, the driver of the guide, and copies of
the built-in drivers ifcvf and octep; each is loaded by -d into the installed programs.
"""

import concurrent.futures
import os
import re
import shlex
import shutil
import struct
import subprocess
import tempfile
import unittest

import conformance_tool
import harness
import plugin_tool
import test_conformance as known
import test_dpdk_vdpa as dpdk
import vhost_user_client as vhu
from conformance_tool import cases, conformance
from plugin_tool import SOURCE, run

# What the skeleton's functions are; see doc/examples/skeleton/skeleton.c.
NET = 'pci_id 1af4:1041 pci_sub 1234:0001'
BLOCK = 'pci_id 1af4:1042 pci_sub 1234:0002'
STATE = 'function ifcvf ring_state queue'

_programs = None
_pkg_config = None
_libraries = None
_skeleton = None
_env = None


def program(name):
    return os.path.join(_programs, name)


def setUpModule():
    global _programs, _pkg_config, _libraries, _skeleton, _env
    plugin_tool.skip_unless_possible()
    folder = tempfile.mkdtemp(prefix='uvdpa-test.')
    unittest.addModuleCleanup(shutil.rmtree, folder)
    prefix = os.path.join(folder, 'root')
    _pkg_config, _libraries = plugin_tool.install(prefix)
    _programs = os.path.dirname(run('find', prefix, '-name', 'vdpa-app', '-perm', '-1').strip())
    _env = dict(os.environ, PKG_CONFIG_PATH=_pkg_config, LD_LIBRARY_PATH=_libraries)
    conformance_tool.TOOL = program('test-vdpa')
    _skeleton = copy_skeleton(os.path.join(folder, 'skeleton'))
    run('make', '-C', _skeleton, env=_env)


def copy_skeleton(to):
    return shutil.copytree(os.path.join(SOURCE, 'doc/examples/skeleton'), to)


def plugin():
    return os.path.join(_skeleton, 'skeleton.so')


def model(*devices):
    """The installed vdpa-model with functions {dir}/m0.sock and so on."""
    return harness.Daemon([f'name m{i} mgmtdev {words} vfio_user {{dir}}/m{i}.sock'
                           for i, words in enumerate(devices)], app=program('vdpa-model'))


def result(command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=harness.TIMEOUT)


class Kit(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix='uvdpa-test.')
        self.addCleanup(shutil.rmtree, self.dir)

    def test_it_is_made_of_the_public_interface(self):
        """Its own sources need no header that is not installed."""
        kit = os.path.join(SOURCE, 'app/testkit')
        for name in os.listdir(kit):
            if name.endswith('.c'):
                shutil.copy(os.path.join(kit, name), self.dir)
        flags = shlex.split(run('pkg-config', '--cflags', 'uvdpa-testkit', env=_env))
        self.assertNotIn(SOURCE, ' '.join(flags))
        run('cc', '-Wall', '-Werror', '-D_GNU_SOURCE', '-fsyntax-only', *flags,
            *(os.path.join(self.dir, name) for name in os.listdir(self.dir)))

    def test_the_skeletons_unit_test_by_make(self):
        text = run('make', '-C', _skeleton, 'check', env=_env)
        self.assertRegex(text, r'PASSED  \] [6-9] test')

    def test_the_skeletons_unit_test_by_meson(self):
        source = copy_skeleton(os.path.join(self.dir, 'skeleton'))
        build = os.path.join(self.dir, 'build')
        run('meson', 'setup', '--werror', build, source, env=_env)
        run('meson', 'compile', '-C', build, env=_env)
        run('meson', 'test', '-C', build, env=_env)
        self.assertTrue(os.path.exists(os.path.join(build, 'skeleton.so')))

    def test_the_unit_test_sees_a_wrong_driver(self):
        for i, (right, wrong) in enumerate((
                ('STATE_STEP  4u', 'STATE_STEP  8u'),
                ('if (is_packed(vdev))\n\t\treturn vdpa_error(', 'if (0)\n\t\treturn vdpa_error('),
                ('off ? &plain : &with_ring_state', '&with_ring_state'),
                ('& 1u << STATE_BAR) != 0', '& 0) != 0'))):
            source = copy_skeleton(os.path.join(self.dir, str(i)))
            path = os.path.join(source, 'skeleton.c')
            with open(path) as f:
                text = f.read()
            self.assertEqual(text.count(right), 1, right)
            with open(path, 'w') as f:
                f.write(text.replace(right, wrong))
            with self.subTest(wrong), self.assertRaisesRegex(AssertionError, r'FAILED  \] '):
                run('make', '-C', source, 'CFLAGS=-w', 'check', env=_env)


class Skeleton(unittest.TestCase):
    def test_it_knows_the_installed_tree_only(self):
        text = run('readelf', '-d', plugin())
        self.assertIn('libuvdpa.so.0', text)
        self.assertNotIn(SOURCE, text)

    def test_its_words_are_in_help(self):
        for name in ('vdpa-app', 'test-vdpa', 'vdpa-model'):
            done = result([program(name), '-d', plugin(), '--help'])
            self.assertEqual((done.returncode, done.stderr), (0, ''))
            self.assertIn('  Driver skeleton: example function (net or block), with ring state\n',
                          done.stdout)
            self.assertIn('    ring_state on | off\n        the function\'s ring state', done.stdout)
            self.assertNotIn('skeleton', result([program(name), '--help']).stdout)

    def test_its_words_are_checked(self):
        function = 'name n0 mgmtdev vfio-user//nonexistent/m0.sock '
        for words, message in (
                ('ring_state maybe', "--dev 1: ring_state 'maybe': allowed are on, off"),
                ('driver skeleton colour red', "--dev 1: unknown word 'colour': allowed are "),
                ('driver virtio ring_state off', "--dev 1: unknown word 'ring_state': allowed are ")):
            done = result([program('vdpa-app'), '-d', plugin(), '--dev', function + words])
            self.assertEqual(done.returncode, 2, done)
            self.assertIn('vdpa-app: ' + message, done.stderr)
        done = result([program('vdpa-app'), '--dev', function + 'ring_state off'])
        self.assertEqual(done.returncode, 2)
        self.assertIn("unknown word 'ring_state'", done.stderr)

    def test_it_refuses_a_function_without_ring_state(self):
        with model(f'sim_net {NET}') as other:
            words = f'name n0 mgmtdev vfio-user/{other.dir}/m0.sock'
            daemon = harness.Daemon([words], args=['-d', plugin()], app=program('vdpa-app'))
            self.addCleanup(daemon.cleanup)
            done = result(daemon.command)
            self.assertEqual(done.returncode, 1, done)
            self.assertIn('m0.sock: BAR 4 has structures of virtio or MSI-X, and no ring state: '
                          'give ring_state off', done.stderr)
            with harness.Daemon([words + ' ring_state off'], args=['-d', plugin()],
                                app=program('vdpa-app')) as daemon:
                self.assertEqual(daemon.show('n0')['driver'], 'skeleton')

    def test_it_serves(self):
        """Chosen by ids, the more specific ones, and driven by vhost-user."""
        with model(f'sim_net {STATE} {NET}', f'sim_blk backend ram 8M {STATE} {BLOCK}') as other, \
                harness.Daemon([f'name n{i} mgmtdev vfio-user/{other.dir}/m{i}.sock '
                                f'socket {{dir}}/n{i}.sock' for i in range(2)],
                               args=['-d', plugin()], app=program('vdpa-app')) as daemon:
            for name in ('n0', 'n1'):
                self.assertEqual(daemon.show(name)['driver'], 'skeleton')
            with vhu.NetDriver(daemon.socket('n0')) as net:
                net.start()
                for _ in range(70):  # once round the ring, and on from there twice
                    net.exchange()
                for _ in range(2):
                    for ring in (net.rx, net.tx):
                        base = struct.unpack('<II', net.client.ask(
                            vhu.GET_VRING_BASE, struct.pack('<II', ring.index, 0)))[1]
                        self.assertEqual(base, ring.base())
                        self.assertEqual(ring.start(net.client, base=base), 0)
                    net.exchange()
            outcome = conformance({'socket': daemon.socket('n0')}, '--loopback=yes',
                                  *cases('split_places', 'split_queue_resume', 'split_wraps',
                                         'stop_during_traffic', 'queue_disable'))
            self.assertEqual(outcome.named('fail'), {}, outcome.text())
            self.assertEqual(outcome.named('skip'), {}, outcome.text())
            self.assertGreater(daemon.stats('n0')['device']['places'], 0)

    def test_conformance(self):
        with model(f'sim_net max_vqp 2 {STATE} {NET}',
                   f'sim_blk backend ram 64M queues 2 {STATE} {BLOCK}') as other:
            for i, option in enumerate(('--loopback=yes', '--overwrite')):
                outcome = conformance({'dev': f'mgmtdev vfio-user/{other.dir}/m{i}.sock'}, '-d',
                                      plugin(), option)
                self.assertEqual(outcome.code, 0, outcome.text())
                self.assertEqual(outcome.named('fail'), {}, outcome.text())
                packed = {name for name in outcome.cases if 'packed' in name}
                self.assertEqual(
                    set(outcome.named('skip')),
                    (packed | known.LOG | known.NO_CONFIG_CHANGE | known.OWN_CONTROL_QUEUE |
                     known.NOT_READ_ONLY) & set(outcome.cases), outcome.text())
                self.assertEqual(outcome.cases['split_places'][0], 'pass')


class Dpdk(unittest.TestCase):
    """DPDK's examples/vdpa, to which EAL brings both plugins."""

    @classmethod
    def setUpClass(cls):
        dpdk.setUpModule()

    def test_either_order(self):
        with model(f'sim_net {STATE} {NET}') as other:
            words = f'mgmtdev=vfio-user/{other.dir}/m0.sock'
            vdevs = [f'uvdpa0,{words},ring_state=on', f'uvdpa1,{words},ring_state=maybe']
            for plugins in ((dpdk.PLUGIN, 'skeleton.so'), ('skeleton.so', dpdk.PLUGIN)):
                with self.subTest(plugins), dpdk.Example(
                        vdevs, plugins=plugins,
                        env={'LD_LIBRARY_PATH': f'{_libraries}:{_skeleton}'}) as example:
                    self.assertEqual(list(example.list()), ['uvdpa0'])
                    self.assertEqual(example.telemetry('/vdpa/dev/show,uvdpa0')['driver'],
                                     'skeleton')
                    with vhu.NetDriver(example.create('uvdpa0')) as net:
                        net.start()
                        net.exchange()
                        net.exchange()
                self.assertIn("uvdpa1: ring_state 'maybe': allowed are on, off",
                              example.out.text())


class Guide(unittest.TestCase):
    """The driver of doc/driver-guide.md is as it says, with ids and with ring state."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix='uvdpa-test.')
        self.addCleanup(shutil.rmtree, self.dir)
        with open(os.path.join(SOURCE, 'doc/driver-guide.md')) as f:
            self.guide = f.read()
        self.first, self.more = re.findall('^```c\n(.*?)^```$', self.guide, re.M | re.S)[:2]

    def drive(self, text, can):
        source = os.path.join(self.dir, 'my.c')
        with open(source, 'w') as f:
            f.write(text)
        path = plugin_tool.build(os.path.join(self.dir, 'my.so'), source,
                                 pkg_config_path=_pkg_config)
        self.assertIn(can, self.guide)
        with model('sim_net max_vqp 2 function ifcvf') as other:
            words = f'mgmtdev vfio-user/{other.dir}/m0.sock driver my'
            info = run(program('test-vdpa'), 'info', '-d', path, '--dev', words)
            self.assertRegex(info, f'(?m)^can +{can}$')
            outcome = conformance({'dev': words}, '--loopback=yes', '-d', path)
        self.assertEqual(outcome.named('fail'), {}, outcome.text())
        self.assertEqual(outcome.code, 0)
        return outcome

    def test_its_steps(self):
        later = {'queue_disable', 'late_queue', 'split_queue_resume', 'queue_reset', 'split_places'}
        outcome = self.drive(self.first, 'vq_enable doorbells')
        # A late queue and places in a ring are shadow virtqueues' doing.
        first = later - {'late_queue', 'split_places'}
        self.assertLess(first | known.LOG, set(outcome.named('skip')), outcome.text())
        own = '\tstatic const struct vdpa_virtio_kind kind;\n\n'
        self.assertIn(own, self.first)
        before, add = self.first.replace(own, '').split('static int\nmy_add', 1)
        outcome = self.drive(f'{before}{self.more}\nstatic int\nmy_add{add}',
                             'late_vqs suspend vq_enable vq_reset doorbells')
        self.assertLess(later, set(outcome.named('pass')), outcome.text())
        self.assertLess(known.LOG, set(outcome.named('skip')), outcome.text())


class Copies(unittest.TestCase):
    """A built-in driver, copied out and given another name, is one like it."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix='uvdpa-test.')
        self.addCleanup(shutil.rmtree, self.dir)

    def build(self, driver):
        with open(os.path.join(SOURCE, 'drivers/vdpa', driver, driver + '.c')) as f:
            text = f.read()
        name = f'.name = "{driver}"'
        self.assertEqual(text.count(name), 1)
        text = text.replace(name, f'.name = "{driver}-oot"')
        text += f'VDPA_REGISTER_DRIVER(vdpa_{driver}_driver);\n'
        source = os.path.join(self.dir, driver + '.c')
        with open(source, 'w') as f:
            f.write(text)
        flags = run('pkg-config', '--cflags', '--libs', 'uvdpa', env=_env)
        self.assertNotIn(SOURCE, flags)
        return plugin_tool.build(os.path.join(self.dir, driver + '.so'), source,
                                 pkg_config_path=_pkg_config)

    def check(self, driver, minimum, *functions):
        """functions: (what vdpa-model serves, option of test-vdpa). In-process the copy does what the
        built-in driver does, case by case; and it passes by socket."""
        path = self.build(driver)
        served = [words for words, _ in functions for _ in range(2)]
        with model(*served) as other, \
                concurrent.futures.ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(conformance, {
                'dev': f'mgmtdev vfio-user/{other.dir}/m{i}.sock driver {name}'}, '-d', path,
                functions[i // 2][1])
                for i in range(len(served)) for name in [driver + ('-oot' if i % 2 else '')]]
            for i in range(0, len(runs), 2):
                own, copy = (r.result() for r in runs[i:i + 2])
                self.assertEqual(copy.named('fail'), {}, copy.text())
                self.assertEqual(copy.code, 0)
                self.assertIn(f'driver {driver}-oot', copy.out)
                self.assertGreaterEqual(len(copy.named('pass')), minimum)
                self.assertEqual({name: case[0] for name, case in copy.cases.items()},
                                 {name: case[0] for name, case in own.cases.items()})
            words = [f'name n{i} mgmtdev vfio-user/{other.dir}/m{i}.sock driver {driver}-oot '
                     f'socket {{dir}}/n{i}.sock' for i in range(1, len(served), 2)]
            with harness.Daemon(words, args=['-d', path], app=program('vdpa-app')) as daemon:
                for i, (_, option) in enumerate(functions):
                    outcome = conformance({'socket': daemon.socket(f'n{2 * i + 1}')}, option)
                    self.assertEqual(outcome.named('fail'), {}, outcome.text())
                    self.assertEqual(outcome.code, 0)
                    self.assertGreaterEqual(len(outcome.named('pass')), minimum - 5)

    def test_ifcvf(self):
        self.check('ifcvf', 50, ('sim_net max_vqp 2 function ifcvf', '--loopback=yes'),
                   ('sim_blk backend ram 64M function ifcvf', '--overwrite'))

    def test_octep(self):
        self.check('octep', 60, ('sim_net max_vqp 2 function octep', '--loopback=yes'))


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main(verbosity=2)
