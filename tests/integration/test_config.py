# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""The configuration file: settings, devices, and all mistakes at once."""

import os
import subprocess
import tempfile
import unittest

import harness


class File(unittest.TestCase):
    """Each test has a folder, and a file in it."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix='uvdpa-test.')
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        self.path = os.path.join(self.dir, 'uvdpa.conf')

    def write(self, text):
        with open(self.path, 'w', encoding='utf-8') as f:
            f.write(text)

    def run_app(self, *args):
        return subprocess.run([harness.APP, *args], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=harness.TIMEOUT,
                              env=dict(os.environ, XDG_RUNTIME_DIR=self.dir))


class Mistakes(File):
    TEXT = '''# a comment
poll-us many
name ok mgmtdev sim_net
   name net1 mgmtdev sim_net colour red

bogus 1
name ok mgmtdev sim_blk backend ram 1M
poll-us 20
poll-us 30
stats
stats 1 2
name "net2 mgmtdev sim_net
log-level loud
control-group nobody-has-this-group
eal -l 0 -- --stats 1
name other
poll-lcores 1,1
uvdpad-map sim0 mgmtdev sim_nt
control ''' + 'x' * 108 + '''
name net3 mgmtdev sim_net socket /run/net3.sock group nobody-has-this-group
'''
    # By line, in order.
    EXPECTED = (
        (2, "poll-us: 'many' is not a number from 0 to 1000000"),
        (4, "unknown word 'colour': allowed are name, mgmtdev"),
        (6, "unknown word 'bogus': a line is a device, name NAME mgmtdev MGMTDEV ..., or one of "
            'poll-lcores, poll-us'),
        (7, "name 'ok': the device at {path}:3 has it already"),
        (9, 'poll-us: is given at {path}:8 already'),
        (10, 'stats: one value is expected, there are 0'),
        (11, 'stats: one value is expected, there are 2'),
        (12, 'a quotation mark is not closed'),
        (13, "log-level: 'loud' is not"),
        (14, "control-group: group 'nobody-has-this-group': there is none of that name"),
        (15, "eal: '--' ends EAL's arguments"),
        (16, "device 'name other': must begin with name NAME mgmtdev MGMTDEV"),
        (17, 'poll-lcores: 1 is given twice'),
        (18, 'uvdpad-map: needs uvdpad PATH'),
        (18, "uvdpad: device-id 'sim0': "),
        (19, f"control: '{'x' * 108}': 108 characters, allowed are a path of 1 to 107, or off"),
        (20, "group 'nobody-has-this-group': there is none of that name"),
    )

    def check_lines(self, lines, prefix):
        self.assertEqual(len(lines), len(self.EXPECTED), lines)
        for text, (line, expected) in zip(lines, self.EXPECTED):
            expected = f'{prefix}{self.path}:{line}: {expected.format(path=self.path)}'
            self.assertEqual(text[:len(expected)], expected)

    def test_all_are_told_with_their_lines(self):
        self.write(self.TEXT)
        for args in (['--check-config', self.path], [f'--check-config={self.path}'],
                     ['--config', self.path, '--check-config']):
            result = self.run_app(*args)
            self.assertEqual((result.returncode, result.stdout), (2, ''), result)
            self.check_lines(result.stderr.splitlines(), '')

    def test_a_daemon_does_not_start_with_any(self):
        self.write(self.TEXT)
        result = self.run_app('--config', self.path)
        self.assertEqual((result.returncode, result.stdout), (2, ''), result)
        self.check_lines(result.stderr.splitlines(), 'vdpa-app: ')

    def test_more_than_anybody_reads_are_counted(self):
        self.write('bogus\n' * 250)
        result = self.run_app('--check-config', self.path)
        lines = result.stderr.splitlines()
        self.assertEqual(result.returncode, 2)
        self.assertEqual(len(lines), 101)
        self.assertEqual(lines[-1], 'and 150 mistakes more')

    def test_a_name_of_the_command_line_and_of_a_file(self):
        self.write('name net0 mgmtdev sim_net\n')
        result = self.run_app('--dev', 'name net0 mgmtdev sim_blk backend ram 1M',
                              '--config', self.path)
        self.assertEqual(result.returncode, 2)
        self.assertIn(f"{self.path}:1: name 'net0': the device at --dev 1 has it already",
                      result.stderr)

    def test_a_socket_that_two_devices_are_to_have(self):
        self.write('name a mgmtdev sim_net socket /run/a.sock\n'
                   'name b mgmtdev sim_net mode 0660 socket "/run/a.sock"\n'
                   'name c mgmtdev sim_net socket /run/c.sock\n')
        result = self.run_app('--check-config', self.path)
        self.assertEqual(result.returncode, 2)
        self.assertEqual(result.stderr, f"{self.path}:2: socket '/run/a.sock': the device at "
                                        f"{self.path}:1 has it already\n")

    def test_what_is_no_file(self):
        for path, reason in ((self.path, 'cannot be opened: No such file or directory'),
                             (self.dir, 'cannot be read: Is a directory')):
            result = self.run_app('--check-config', path)
            self.assertEqual(result.returncode, 2)
            self.assertEqual(result.stderr, f'{path}: {reason}\n')

    def test_the_usual_file_is_checked_when_none_is_named(self):
        path = '/etc/uvdpa/uvdpa.conf'
        harness.skip_unless(not os.path.exists(path), f'there is a {path} here')
        result = self.run_app('--check-config')
        self.assertEqual(result.returncode, 2)
        self.assertIn(f'{path}: cannot be opened', result.stderr)

    def test_a_setting_of_the_command_line_only(self):
        self.write('name\n')
        result = self.run_app('--check-config', self.path)
        self.assertIn('must begin with name NAME mgmtdev MGMTDEV', result.stderr)

    def test_a_plugin_that_is_not_there(self):
        self.write(f'plugin {self.dir}/none.so\n')
        result = self.run_app('--check-config', self.path)
        self.assertEqual(result.returncode, 2)
        self.assertIn('none.so', result.stderr)


class Good(File):
    def test_a_check_makes_nothing(self):
        self.write('poll-us 0\n\n  # two\n'
                   f'name net0 mgmtdev sim_net socket {self.dir}/net0.sock\n'
                   'name blk0 mgmtdev sim_blk backend ram 1M\r\n'
                   'eal -m 64 --no-telemetry\n'
                   f'control {self.dir}/control.sock\ncontrol-group 0\ncontrol-read-group root\n'
                   'log-level lib.uvdpa:debug\n')
        result = self.run_app('--check-config', self.path)
        self.assertEqual((result.returncode, result.stderr), (0, ''))
        self.assertEqual(result.stdout, 'no mistake, devices: 2\n')
        self.assertEqual(os.listdir(self.dir), ['uvdpa.conf'])

    def test_settings_are_in_force(self):
        self.write('stats 1\nlog-level debug\neal --vdev net_null7\n'
                   'name net0 mgmtdev sim_net backend uplink net_null7\n')
        with harness.Daemon(args=['--config', self.path]) as daemon:
            daemon.out.wait(r'^\d\d:\d\d:\d\d net0: ')
            # With its port, which EAL has been given.
            self.assertEqual(daemon.ask('/vdpa/dev/list'), ['net0'])

    def test_the_command_line_overrules_a_file(self):
        self.write('stats 1\nlog-level debug\n')
        with harness.Daemon(['name net0 mgmtdev sim_net socket {dir}/net0.sock'],
                            args=['--config', self.path, '--log-level', 'error',
                                  '--stats', '86400']) as daemon:
            harness.settled(daemon.pid)
            with harness.contextlib.suppress(AssertionError):
                daemon.out.wait(r'^\d\d:\d\d:\d\d net0: ', timeout=2)
                self.fail('statistics by the file')
            self.assertEqual(daemon.err.text(), '')

    def test_several_files_and_devices_in_their_order(self):
        self.write('name b mgmtdev sim_net\nname a mgmtdev sim_net\n')
        other = os.path.join(self.dir, 'other.conf')
        with open(other, 'w', encoding='utf-8') as f:
            f.write('poll-us 7\nname c mgmtdev sim_net\n')
        with harness.Daemon(args=['--dev', 'name d mgmtdev sim_net', '--config', self.path,
                                  '--dev', 'name e mgmtdev sim_net', '--config', other]) as daemon:
            self.assertEqual(daemon.ask('/vdpa/dev/list'), ['d', 'b', 'a', 'e', 'c'])
        # One setting has one place.
        with open(self.path, 'a', encoding='utf-8') as f:
            f.write('poll-us 8\n')
        result = self.run_app('--config', self.path, '--config', other)
        self.assertEqual(result.returncode, 2)
        self.assertIn(f'{other}:1: poll-us: is given at {self.path}:3 already', result.stderr)

    def test_a_device_that_cannot_be_made_names_its_line(self):
        self.write('\nname blk0 mgmtdev sim_blk backend file /nonexistent/image\n')
        daemon = harness.Daemon(args=['--config', self.path])
        result = subprocess.run(daemon.command, stdin=subprocess.DEVNULL, capture_output=True,
                                text=True, timeout=harness.TIMEOUT)
        daemon.cleanup()
        self.assertEqual(result.returncode, 1)
        self.assertIn(f'{self.path}:2: blk0: cannot open /nonexistent/image', result.stderr)


if __name__ == '__main__':
    unittest.main(verbosity=2)
