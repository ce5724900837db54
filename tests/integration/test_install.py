# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""The application in doc/examples builds by pkg-config, from the build tree and from an installed one,
shared and static, and serves a device."""

import os
import shlex
import shutil
import subprocess
import tempfile
import unittest

import harness
import plugin_tool
import vhost_user_client
from plugin_tool import BUILD, SOURCE, run


class Example(unittest.TestCase):
    def setUp(self):
        plugin_tool.skip_unless_possible()
        self.dir = tempfile.mkdtemp(prefix='uvdpa-test.')
        self.addCleanup(shutil.rmtree, self.dir)

    def build(self, pkg_config_path, static=False):
        env = dict(os.environ, PKG_CONFIG_PATH=pkg_config_path)

        def ask(*args):
            return shlex.split(run('pkg-config', *args, env=env))

        flags = ask('--cflags', '--libs', 'uvdpa')
        if static:
            # uvdpa alone, with what its file says that it needs; DPDK stays shared, since linking
            # all of DPDK statically takes development packages that Debian's does not ask for.
            private = [word for word in ask('--print-requires-private', 'uvdpa')
                       if word[0].isalpha()]
            flags = [flag.replace('-luvdpa', '-l:libuvdpa.a') for flag in flags]
            flags += ask('--libs', *private)
        program = os.path.join(self.dir, 'minimal')
        run('cc', '-Wall', '-Werror', os.path.join(SOURCE, 'doc/examples/minimal.c'), '-o',
            program, *flags)
        return program

    def serve(self, program, library_path):
        """Run it and pass traffic through its device."""
        path = os.path.join(self.dir, 'net0.sock')
        process = subprocess.Popen(
            [program, '--no-huge', '-m', '64', '--no-shconf', '--no-pci', '--no-telemetry', '--',
             path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env=dict(os.environ, LD_LIBRARY_PATH=library_path))
        out = harness.Reader(process.stdout)
        try:
            out.wait('^net0 is served')
            with vhost_user_client.NetDriver(path) as driver:
                driver.start()
                driver.exchange()
                driver.exchange()
        finally:
            process.stdin.close()
            try:
                code = process.wait(harness.TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            out.join()
        self.assertEqual(code, 0, out.text())
        self.assertFalse(os.path.exists(path))

    def uses_shared_library(self, program, library_path):
        text = run('ldd', program, env=dict(os.environ, LD_LIBRARY_PATH=library_path))
        return 'libuvdpa' in text

    def test_against_the_build_tree(self):
        program = self.build(os.path.join(BUILD, 'meson-uninstalled'))
        self.assertTrue(self.uses_shared_library(program, BUILD))
        self.serve(program, BUILD)

    def test_against_an_installed_tree(self):
        prefix = os.path.join(self.dir, 'root')
        folder, library_path = plugin_tool.install(prefix)
        self.assertTrue(os.path.isfile(os.path.join(library_path, 'libuvdpa.a')))

        # The programs find the library without ldconfig and LD_LIBRARY_PATH.
        bare = {key: value for key, value in os.environ.items() if key != 'LD_LIBRARY_PATH'}
        for name in ('vdpa-app', 'test-vdpa'):
            path = run('find', prefix, '-name', name, '-perm', '-1').strip()
            self.assertIn(prefix, run('ldd', path, env=bare).split('libuvdpa.so.0 => ')[1])
            run(path, '--version', env=bare)
        # It has the library in it.
        path = run('find', prefix, '-name', 'vdpa-model', '-perm', '-1').strip()
        self.assertNotIn('libuvdpa', run('ldd', path, env=bare))
        run(path, '--version', env=bare)
        # It needs none, and has its manual page and its completion.
        path = run('find', prefix, '-name', 'vdpactl', '-perm', '-1').strip()
        self.assertNotIn('libuvdpa', run('ldd', path, env=bare))
        run(path, '--version', env=bare)
        for name in ('share/man/man8/vdpactl.8', 'share/bash-completion/completions/vdpactl'):
            self.assertNotEqual(run('find', prefix, '-path', f'*/{name}', '-type', 'f'), '', name)

        program = self.build(folder)
        self.assertTrue(self.uses_shared_library(program, library_path))
        self.serve(program, library_path)

        program = self.build(folder, static=True)
        self.assertFalse(self.uses_shared_library(program, library_path))
        self.serve(program, library_path)

        # Every installed header stands on its own, in C and in C++.
        headers = run('find', prefix, '-path', '*/uvdpa/*.h').split()
        self.assertIn('vdpa.h', [os.path.basename(h) for h in headers])
        flags = shlex.split(run('pkg-config', '--cflags', 'uvdpa',
                                env=dict(os.environ, PKG_CONFIG_PATH=folder)))
        for header in headers:
            for language in ('c', 'c++'):
                if language == 'c++' and not shutil.which('c++'):
                    continue
                run('c++' if language == 'c++' else 'cc', '-fsyntax-only', '-x', language,
                    '-include', header, '/dev/null', *flags)


if __name__ == '__main__':
    unittest.main(verbosity=2)
