# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Debian's packages. Always: what meson installs is in one of them each. In a long run they are built,
lintian finds no error, they are installed into a fresh system of Debian's, the line of the service
starts there as its user, and a testpmd of that system passes packets; then they are purged."""

import fnmatch
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import unittest

import harness
import plugin_tool
from plugin_tool import BUILD, SOURCE, run

PACKAGES = ['uvdpa', 'libuvdpa0', 'libuvdpa-dev']
DEVICE = 'name net0 mgmtdev sim_net backend loopback socket /run/uvdpa/net0.sock'
BUILD_TIMEOUT = 1800
START_TIMEOUT = 60


def patterns(package):
    with open(os.path.join(SOURCE, 'debian', package + '.install')) as f:
        return [line.strip() for line in f if line.strip()]


class Contents(unittest.TestCase):
    """The lists of debian/ beside what meson installs, without a build of packages."""

    def test_each_installed_file_is_in_one_package(self):
        plugin_tool.skip_unless_possible()
        folder = tempfile.mkdtemp(prefix='uvdpa-test.')
        self.addCleanup(shutil.rmtree, folder)
        plugin_tool.install(folder)
        files = []
        for base, _, names in os.walk(folder):
            for name in names:
                path = os.path.relpath(os.path.join(base, name), folder)
                # As with the prefix of a package.
                path = re.sub('^usr/local/', 'usr/', path)
                path = re.sub('^usr/etc/', 'etc/', path)
                files.append(re.sub('^usr/lib/systemd/', 'lib/systemd/', path))
        self.assertGreater(len(files), 20)
        where = {package: patterns(package) for package in PACKAGES}
        used = set()
        for path in files:
            found = []
            for package, globs in where.items():
                for pattern in globs:
                    # A folder stands for what is in it.
                    if fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, pattern + '/*'):
                        found.append(package)
                        used.add((package, pattern))
            self.assertEqual(len(found), 1, f'{path} is in {found}')
        self.assertEqual(used, {(p, g) for p, globs in where.items() for g in globs},
                         'a list names what is not installed')

    def test_versions_are_one(self):
        with open(os.path.join(SOURCE, 'meson.build')) as f:
            version = re.search(r"^\tversion: '([\d.]+)',$", f.read(), re.M)[1]
        with open(os.path.join(SOURCE, 'debian/changelog')) as f:
            self.assertEqual(re.match(r'uvdpa \(([\d.]+)-\d+\)', f.read())[1], version)
        with open(os.path.join(SOURCE, 'CHANGELOG.md')) as f:
            self.assertIn(f'## [{version}]', f.read())


class System:
    """A fresh system of Debian's in a folder, in namespaces of its own: what is mounted in it and
    what runs in it ends with it."""

    def __init__(self, folder, archive):
        self.root = os.path.join(folder, 'system')
        os.mkdir(self.root)
        run('tar', '-C', self.root, '-xf', archive)

    def command(self, *words, user=None, env=()):
        inside = ['env', '-i', 'PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'LC_ALL=C.UTF-8', *env]
        if user:
            inside += ['setpriv', '--reuid', user, '--regid', user, '--init-groups']
        mounts = ('mount -t proc proc "$0/proc" && mount -t sysfs -o ro sysfs "$0/sys" && '
                  'mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"')
        return ['unshare', '--mount', '--pid', '--fork', '--kill-child', 'sh', '-ec', mounts, self.root,
                *inside, *words]

    def run(self, *words, **kwargs):
        return run(*self.command(*words, **kwargs), stdin=subprocess.DEVNULL)

    def path(self, name):
        return os.path.join(self.root, name.lstrip('/'))


@unittest.skipUnless(harness.count(0, 1), 'packages are built in a long run: UVDPA_TEST_LONG=1')
class Packages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.packages = os.environ.get('UVDPA_PACKAGES')  # a folder of scripts/package's: none is built
        cls.dir = tempfile.mkdtemp(prefix='uvdpa-pkg.', dir='/tmp')
        cls.addClassCleanup(shutil.rmtree, cls.dir, ignore_errors=True)
        if cls.packages:
            return
        for program in 'dpkg-buildpackage', 'dh', 'lintian':
            harness.skip_unless(shutil.which(program), f'{program} is not installed: scripts/setup package')
        cls.packages = os.path.join(cls.dir, 'packages')
        # Fails where lintian finds an error.
        print(run(os.path.join(SOURCE, 'scripts/package'), '--no-setup', '--output', cls.packages,
                  timeout=BUILD_TIMEOUT), flush=True)

    def debs(self):
        names = sorted(n for n in os.listdir(self.packages) if n.endswith('.deb') and '-dbgsym_' not in n)
        self.assertEqual([n.split('_')[0] for n in names], sorted(PACKAGES))
        return [os.path.join(self.packages, n) for n in names]

    def test_serve_in_a_fresh_system(self):
        harness.skip_unless(os.getuid() == 0, 'a chroot needs root')
        done = subprocess.run([os.path.join(SOURCE, 'scripts/fetch-guest'), 'chroot'], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        harness.skip_unless(done.returncode == 0, f'no fresh system: {done.stderr.strip()}')
        system = System(self.dir, os.path.join(done.stdout.strip(), 'root.tar'))
        for deb in self.debs():
            shutil.copy(deb, system.path('/tmp'))
        # Fails where one depends on what is not there.
        print(system.run('sh', '-c', 'dpkg --install /tmp/*.deb', env=['DEBIAN_FRONTEND=noninteractive']), flush=True)

        # What the package does not do here, since no systemd runs: folders, and the start.
        system.run('systemd-tmpfiles', '--create', 'uvdpa.conf')
        with open(system.path('/etc/uvdpa/uvdpa.conf'), 'a') as f:
            f.write(DEVICE + '\n')
        with open(system.path('/lib/systemd/system/uvdpa.service')) as f:
            line = re.search(r'^ExecStart=(.*)$', f.read(), re.M)[1]
        words = [w for w in shlex.split(line) if not w.startswith('$')]
        daemon = subprocess.Popen(
            system.command(*words, user='uvdpa', env=['RUNTIME_DIRECTORY=/run/uvdpa',
                                                      'NOTIFY_SOCKET=/run/uvdpa/notify']),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.kill)
        out = harness.Reader(daemon.stdout)
        harness.wait_for(lambda: daemon.poll() is not None or os.path.exists(
            system.path('/run/uvdpa/net0.sock')), 'the device', START_TIMEOUT)
        self.assertIsNone(daemon.poll(), out.text())
        show = system.run('vdpactl', '-j', 'dev', 'show')
        self.assertIn('net0', show)

        # A testpmd of that system.
        script = 'show port summary all\nstart tx_first\nstop\nstart tx_first\n'
        pmd = subprocess.Popen(
            system.command('dpdk-testpmd', '-l', '0,1', '--no-huge', '-m', '256', '--no-shconf', '--no-pci',
                           '--no-telemetry', '--file-prefix=pmd', '--vdev',
                           'net_virtio_user0,path=/run/uvdpa/net0.sock,queues=1', '--', '-i',
                           '--total-num-mbufs=8192', '--nb-cores=1', '--no-lsc-interrupt'),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
        self.addCleanup(pmd.kill)
        text, _ = pmd.communicate(script + 'show port stats 0\n' * 20 + 'stop\nquit\n', timeout=120)
        received = [int(n) for n in re.findall(r'RX-packets: (\d+)', text)]
        self.assertGreater(received[-1], 0, text)
        harness.figure(f'{received[-1]} packets back in the fresh system')

        # unshare's child has become the daemon.
        with open(f'/proc/{daemon.pid}/task/{daemon.pid}/children') as f:
            os.kill(int(f.read()), signal.SIGTERM)
        self.assertEqual(daemon.wait(START_TIMEOUT), 0, out.text())
        out.join()
        self.assertFalse(os.path.exists(system.path('/run/uvdpa/net0.sock')))

        system.run('dpkg', '--purge', *PACKAGES, env=['DEBIAN_FRONTEND=noninteractive'])
        left = run('find', system.root, '-xdev', '-name', '*uvdpa*', '-not', '-path', '*/tmp/*').split()
        self.assertEqual([p for p in left if '/var/log' not in p and '/run/' not in p], [])


if __name__ == '__main__':
    unittest.main(verbosity=2)
