# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""What meson install installs is where Debian has it; systemd takes the units; the documents say how
little the service may do. The units under a running systemd: tests/vm/test_lab_service.py."""

import functools
import glob
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest

import harness
import plugin_tool
from plugin_tool import BUILD, SOURCE, run

UNITS = ['uvdpa.service', 'uvdpa@.service', 'uvdpa-metrics.service', 'uvdpa-metrics.timer',
         'uvdpa-metrics@.service', 'uvdpa-metrics@.timer', 'uvdpa-keeper.service', 'uvdpa-keeper@.service',
         'uvdpa-fence.service', 'uvdpa-fence@.service']
PROGRAMS = ['vdpa-app', 'vdpa-keeper', 'vdpa-model', 'test-vdpa', 'vdpactl']
# Below the prefix; LIB is the folder of libraries.
INSTALLED = [
    *(f'bin/{name}' for name in PROGRAMS),
    'LIB/libuvdpa.so', 'LIB/libuvdpa.so.0', 'LIB/libuvdpa.a', 'LIB/librte_vdpa_uvdpa.so',
    'LIB/pkgconfig/uvdpa.pc', 'include/uvdpa/vdpa.h', 'include/uvdpa/vdpa_control.h',
    *(f'share/man/man?/{name}.[0-9]' for name in PROGRAMS),
    'share/man/man5/uvdpa.conf.5', 'share/man/man7/uvdpa-control.7',
    'share/bash-completion/completions/vdpactl',
    *(f'lib/systemd/system/{name}' for name in UNITS),
    'lib/udev/rules.d/60-uvdpa.rules', 'lib/sysusers.d/uvdpa.conf', 'lib/tmpfiles.d/uvdpa.conf',
]
# Exposure as systemd-analyze gives it, 0 to 10.
EXPOSURE_MAX = 1.5


@functools.cache
def option(name):
    """An option of the build tree."""
    options = json.loads(run('meson', 'introspect', '--buildoptions', BUILD))
    return next(o['value'] for o in options if o['name'] == name)


class Units(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        plugin_tool.skip_unless_possible()
        harness.skip_unless(shutil.which('systemd-analyze'), 'systemd-analyze is not installed')
        cls.dir = tempfile.mkdtemp(prefix='uvdpa-test.')
        cls.addClassCleanup(shutil.rmtree, cls.dir)
        cls.root = os.path.join(cls.dir, 'root')
        plugin_tool.install(cls.root)
        cls.prefix = cls.root + option('prefix')

    def test_everything_is_where_debian_has_it(self):
        missing = [path for path in INSTALLED if not glob.glob(
            os.path.join(self.prefix, path.replace('LIB', option('libdir'))))]
        self.assertEqual(missing, [])
        config = os.path.join(self.prefix, option('sysconfdir'), 'uvdpa/uvdpa.conf')
        self.assertTrue(os.path.isfile(config))

    def test_a_configuration_that_is_there_is_left_alone(self):
        config = os.path.join(self.prefix, option('sysconfdir'), 'uvdpa/uvdpa.conf')
        with open(config, 'a') as f:
            f.write('# the administrator\n')
        plugin_tool.install(self.root)
        with open(config) as f:
            self.assertIn('# the administrator', f.read())

    def test_the_configuration_has_no_mistake(self):
        """As it is, and with the devices that it shows."""
        path = os.path.join(SOURCE, 'examples/vdpa-app/service/uvdpa.conf')
        with open(path) as f:
            devices = re.sub('(?m)^#name ', 'name ', f.read())
        shown = os.path.join(self.dir, 'shown.conf')
        with open(shown, 'w') as f:
            f.write(devices)
        self.assertIn('devices: 0', run(harness.APP, '--check-config', path))
        self.assertIn('devices: 3', run(harness.APP, '--check-config', shown))

    def copies(self):
        """The units in a folder of their own, with programs that are there; an instance for a template."""
        folder = tempfile.mkdtemp(dir=self.dir)
        for name in UNITS:
            with open(os.path.join(self.prefix, 'lib/systemd/system', name)) as f:
                text = f.read()
            with open(os.path.join(folder, name), 'w') as f:
                f.write(text.replace(f'={option("prefix")}/bin/', f'={self.prefix}/bin/'))
        return folder

    def test_systemd_takes_them(self):
        folder = self.copies()
        done = subprocess.run(
            ['systemd-analyze', 'verify', '--man=no', *('./' + n.replace('@', '@vm1') for n in UNITS)],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        # Of the system's own units, whatever is wrong with them, nothing.
        ours = [line for line in done.stdout.splitlines() if 'uvdpa' in line]
        self.assertEqual((done.returncode, ours), (0, []), done.stdout)

    def test_the_guide_states_their_exposure(self):
        folder = self.copies()
        with open(os.path.join(SOURCE, 'doc/guide-service.md')) as f:
            guide = f.read()
        for name in 'uvdpa.service', 'uvdpa@vm1.service', 'uvdpa-metrics.service', 'uvdpa-keeper.service':
            source = os.path.join(folder, re.sub('@.*[.]', '@.', name))
            path = os.path.join(folder, name)
            if not os.path.exists(path):
                shutil.copy(source, path)
            text = run('systemd-analyze', 'security', '--offline=true', '--no-pager', path)
            figure = re.search(r'Overall exposure level for \S+: ([\d.]+)', text)[1]
            print(f'{name}: {figure}', flush=True)
            self.assertLessEqual(float(figure), EXPOSURE_MAX, name)
            line = f'| `{name.replace("vm1", "NAME")}` | {figure} |'
            self.assertTrue(line in guide, f'doc/guide-service.md has no {line}')

    def test_the_user_can_be_made(self):
        root = tempfile.mkdtemp(dir=self.dir)
        os.makedirs(os.path.join(root, 'etc'))
        text = run('systemd-sysusers', '--root=' + root,
                   os.path.join(self.prefix, 'lib/sysusers.d/uvdpa.conf'))
        with open(os.path.join(root, 'etc/passwd')) as f:
            self.assertRegex(f.read(), r'(?m)^uvdpa:x:\d+:\d+:.*:/usr/sbin/nologin$', text)
        with open(os.path.join(root, 'etc/group')) as f:
            self.assertRegex(f.read(), r'(?m)^kvm:x:\d+:uvdpa$', text)


if __name__ == '__main__':
    unittest.main(verbosity=2)
