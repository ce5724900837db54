# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Drivers as plugins: built out of tree by pkg-config, loaded by -d, their words known at once."""

import _ctypes
import ctypes
import os
import shutil
import subprocess
import tempfile
import unittest

import harness
import plugin_tool

MODEL = os.environ.get('UVDPA_MODEL', 'vdpa-model')
TEST_VDPA = os.environ.get('UVDPA_TEST_VDPA', 'test-vdpa')

_folder = None
_plugin = None


def setUpModule():
    global _folder, _plugin
    plugin_tool.skip_unless_possible()
    _folder = tempfile.mkdtemp(prefix='uvdpa-test.')
    unittest.addModuleCleanup(shutil.rmtree, _folder)
    _plugin = plugin_tool.build(os.path.join(_folder, 'null.so'))


def run(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=harness.TIMEOUT)


class Loaded(unittest.TestCase):
    """By vdpa-app and its relatives, whose words they are then."""

    def test_help_and_list_have_its_words(self):
        for program in (harness.APP, MODEL):
            for args in (['-d', _plugin, '--help'], ['--help', '-d' + _plugin],
                         ['-d', _plugin, '--', '--list'], ['-d' + _plugin, '--', '--list']):
                done = run(program, *args)
                self.assertEqual((done.returncode, done.stderr), (0, ''), args)
                self.assertIn('Management device null_net: a network device that moves nothing\n'
                              '    depth N (1 to 9)', done.stdout)
                self.assertIn('  Driver null: functions that move nothing\n    depth N',
                              done.stdout)
            self.assertNotIn('null_net', run(program, '--help').stdout)
        self.assertIn('Driver null: ', run(TEST_VDPA, '-d', _plugin, '--help').stdout)
        self.assertIn('Driver null: ', run(TEST_VDPA, '--help', '--', '-d', _plugin).stdout)

    def test_words_are_checked_with_it(self):
        words = 'name n0 mgmtdev null_net depth 10'
        for args in (['-d', _plugin, '--dev', words], ['--dev', words, '-d', _plugin],
                     ['-d', _plugin, '--', '--dev', words]):
            done = run(harness.APP, *args)
            self.assertEqual((done.returncode, done.stderr), (
                2, "vdpa-app: --dev 1: depth '10': not a number from 1 to 9\n"), args)
        done = run(harness.APP, '--dev', words)
        self.assertEqual(done.returncode, 2)
        self.assertIn("mgmtdev 'null_net': there is none of that name", done.stderr)

    def test_it_serves(self):
        # The same file again, under another name, is nothing new.
        alias = os.path.join(_folder, 'alias.so')
        os.symlink(_plugin, alias)
        self.addCleanup(os.unlink, alias)
        words = 'name n0 mgmtdev null_net depth 7 socket {dir}/n0.sock'
        for eal, args in ((['-d', _plugin], []), (['-d', alias], ['-d', _plugin]),
                          ([], ['-d', _plugin])):
            with harness.Daemon([words], eal=eal, args=args) as daemon:
                self.assertEqual(daemon.ask('/vdpa/dev/list'), ['n0'])
                self.assertEqual(daemon.ask('/vdpa/dev/stats,n0')['device']['depth'], 7)
                daemon.delete('n0')
                daemon.add('name n1 mgmtdev null_net')
                self.assertEqual(daemon.err.text(), '')

    def test_test_vdpa_drives_it(self):
        for args in (['-d', _plugin], ['--', '-d', _plugin]):
            done = run(TEST_VDPA, 'info', '--dev', 'mgmtdev null_net', *args)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn('net', done.stdout)
        done = run(TEST_VDPA, 'info', '--socket', '/nonexistent', '-d', _plugin)
        self.assertEqual((done.returncode, done.stderr), (
            2, 'test-vdpa: -d loads drivers of this process: it goes with --dev\n'))

    def test_a_folder_of_plugins(self):
        folder = os.path.join(_folder, 'many')
        os.mkdir(folder)
        self.addCleanup(shutil.rmtree, folder)
        shutil.copy(_plugin, os.path.join(folder, 'a.so'))
        with open(os.path.join(folder, 'b.txt'), 'w') as f:
            f.write('no plugin')
        self.assertIn('Driver null', run(harness.APP, '-d', folder, '--help').stdout)

    def test_words_of_a_function_by_the_driver_that_is_named(self):
        # No server is asked for that.
        words = 'name n0 mgmtdev vfio-user//nonexistent/s driver null '
        for wrong, message in (('depth 10', "depth '10': not a number from 1 to 9"),
                               ('vectors 1', "unknown word 'vectors': allowed are ")):
            done = run(harness.APP, '-d', _plugin, '--dev', words + wrong)
            self.assertEqual(done.returncode, 2)
            self.assertIn(message, done.stderr)
        done = run(harness.APP, '--dev', words)
        self.assertEqual(done.returncode, 2)
        self.assertIn("driver 'null': there is none of that name for PCI functions, there are "
                      'virtio', done.stderr)


class Function(unittest.TestCase):
    """A function of vdpa-model, whose ids are only known when it is open."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix='uvdpa-test.')
        self.addCleanup(shutil.rmtree, self.dir)
        self.path = os.path.join(self.dir, 'm0.sock')
        self.model = harness.Daemon([f'name m0 mgmtdev sim_net vfio_user {self.path}'],
                                    app=MODEL)
        self.model.start()
        self.addCleanup(self.model.cleanup)
        self.addCleanup(self.model.stop)

    def fails(self, words, code, message):
        daemon = harness.Daemon([f'name n0 mgmtdev vfio-user/{self.path} {words}'],
                                args=['-d', _plugin])
        try:
            done = run(*daemon.command)
            self.assertEqual(done.returncode, code, done)
            self.assertIn(message, done.stderr)
        finally:
            daemon.cleanup()

    def test_words_are_checked_again_when_its_driver_is_known(self):
        self.fails('depth 3', 2, "--dev 1: unknown word 'depth': allowed are ")
        self.fails('depth 3 driver virtio', 2, "--dev 1: unknown word 'depth': allowed are ")

    def test_a_driver_that_is_named_is_asked_alone(self):
        self.fails('depth 3 driver null', 1, 'depth 3 is not for this function')

    def test_its_own_driver_serves_it(self):
        with harness.Daemon([f'name n0 mgmtdev vfio-user/{self.path}'],
                            args=['-d', _plugin]) as daemon:
            self.assertEqual(daemon.ask('/vdpa/dev/show,n0')['driver'], 'virtio')


class Refused(unittest.TestCase):
    def refuse(self, path, *expected, where=None):
        for args in (['-d', path], ['-d', path, '--']):
            done = run(harness.APP, *args)
            self.assertEqual(done.returncode, 2, done)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            for text in ('vdpa-app: -d: ', *expected):
                self.assertIn(text, done.stderr)

    def path(self, name):
        path = os.path.join(_folder, name)
        self.addCleanup(lambda: os.path.exists(path) and os.unlink(path))
        return path

    def test_what_is_not_there(self):
        self.refuse('/nonexistent/null.so', '/nonexistent/null.so', 'No such file')
        self.refuse('nonexistent.so', 'nonexistent.so', 'cannot open shared object file')

    def test_what_is_no_plugin(self):
        path = self.path('text.so')
        with open(path, 'w') as f:
            f.write('text')
        self.refuse(path, path, 'file too short')

    def test_what_lacks_a_symbol(self):
        source = self.path('lacks.c')
        with open(source, 'w') as f:
            f.write('int nowhere(void);\nint here(void);\n'
                    'int here(void) { return nowhere(); }\n')
        self.refuse(plugin_tool.build(self.path('lacks.so'), source), 'undefined symbol: nowhere')

    def test_what_everybody_may_write_to(self):
        folder = os.path.join(_folder, 'open')
        os.mkdir(folder)
        self.addCleanup(shutil.rmtree, folder)
        path = os.path.join(folder, 'null.so')
        shutil.copy(_plugin, path)
        os.chmod(folder, 0o777)
        self.refuse(path, f"everybody may write to '{folder}'", f'chmod o-w {folder}')
        os.chmod(folder, 0o755)
        os.chmod(path, 0o757)
        self.refuse(path, f"everybody may write to '{path}'", f'chmod o-w {path}')

    @unittest.skipUnless(os.geteuid() == 0, 'gives files to another user')
    def test_what_another_user_has_put_into_a_folder_for_all(self):
        folder = os.path.join(_folder, 'shared')
        path, link = os.path.join(folder, 'null.so'), os.path.join(folder, 'link.so')
        os.mkdir(folder)
        self.addCleanup(shutil.rmtree, folder)
        os.chmod(folder, 0o1777)
        shutil.copy(_plugin, path)
        for name in (path, folder):
            self.assertIn('Driver null', run(harness.APP, '-d', name, '--help').stdout)
        os.chown(path, 65534, 65534)
        for name in (path, folder, os.path.join(folder, '.', 'null.so'), folder + '//null.so'):
            self.refuse(name, f"everybody may put something into '{folder}", "user 65534's")
        # A link leads anywhere, and so does a folder.
        os.unlink(path)
        os.symlink(_plugin, link)
        os.chown(link, 65534, 65534, follow_symlinks=False)
        for name in (link, folder):
            self.refuse(name, f"everybody may put something into '{folder}", "user 65534's")
        os.unlink(link)
        os.symlink(_folder, link)
        os.chown(link, 65534, 65534, follow_symlinks=False)
        self.refuse(os.path.join(link, os.path.basename(_plugin)), "user 65534's")

    def test_two_of_one_name(self):
        copy = self.path('copy.so')
        shutil.copy(_plugin, copy)
        done = run(harness.APP, '-d', _plugin, '-d', copy)
        self.assertEqual((done.returncode, done.stderr), (
            2, f"vdpa-app: -d: plugin {copy}: driver 'null': another of that name is registered\n"))


class Unloaded(unittest.TestCase):
    """A program that loads and unloads it by itself."""

    def test_its_driver_goes_with_it(self):
        lib = ctypes.CDLL(os.path.join(plugin_tool.BUILD, 'libuvdpa.so'))
        lib.vdpa_words_help.restype = ctypes.c_void_p
        libc = ctypes.CDLL(None)
        libc.free.argtypes = [ctypes.c_void_p]

        def words():
            text = lib.vdpa_words_help()
            try:
                return ctypes.string_at(text).decode()
            finally:
                libc.free(text)

        for _ in range(2):
            self.assertNotIn('null', words())
            handle = _ctypes.dlopen(_plugin, os.RTLD_NOW)
            self.assertIn('Driver null', words())
            self.assertIn('device null_net', words())
            _ctypes.dlclose(handle)
        self.assertNotIn('null', words())


class Installed(unittest.TestCase):
    def test_against_installed_headers(self):
        folder = os.path.join(_folder, 'root')
        pkg_config, libraries = plugin_tool.install(folder)
        self.addCleanup(shutil.rmtree, folder)
        plugin = plugin_tool.build(os.path.join(_folder, 'installed.so'),
                                   pkg_config_path=pkg_config)
        self.assertNotIn(plugin_tool.SOURCE, plugin_tool.run('readelf', '-d', plugin))
        program = plugin_tool.run('find', folder, '-name', 'vdpa-app', '-perm', '-1').strip()
        self.assertIn('Driver null', run(program, '-d', plugin, '--help').stdout)


if __name__ == '__main__':
    unittest.main(verbosity=2)
