# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""vdpa-app's command line: mistakes, start, stop."""

import contextlib
import grp
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
import unittest

import harness

NET = 'name net0 mgmtdev sim_net socket {dir}/net0.sock'


class Mistakes(unittest.TestCase):
    """One line on stderr that names the mistake and what is allowed, exit code 2, at once."""

    def refuse(self, args, *expected):
        result = subprocess.run([harness.APP, *args], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=harness.TIMEOUT)
        self.assertEqual(result.returncode, 2, result)
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        self.assertEqual(result.stdout, '')
        for text in expected:
            self.assertIn(text, result.stderr)

    def refuse_words(self, words, *expected):
        self.refuse(['--dev', words], '--dev 1', *expected)

    def test_unknown_option(self):
        self.refuse(['--bogus'], '--bogus', '--help')
        self.refuse(['-x'], '-x', '--help')
        self.refuse(['stray'], 'stray', '--help')

    def test_eal_option_without_separator_gets_a_hint(self):
        self.refuse(['-l', '0'], "-l", "EAL options stand before")

    def test_eal_options_that_cannot_work_here(self):
        absent = os.sysconf('SC_NPROCESSORS_CONF') + 75
        for value in (f'-l{absent}', f'-l0,{absent}'):
            self.refuse([value, '--'], f'-l {value[2:]}', f'no CPU {absent}', 'give -l 0')
        self.refuse(['--main-lcore=x', '--'], "--main-lcore 'x'", '0 to ')
        self.refuse(['--proc-type=secondary', '--'], '--proc-type', 'primary')
        for option in ('--in-memory', '--huge-unlink', '--match-allocations', '--legacy-mem'):
            self.refuse(['--no-huge', option, '--'], f'{option} needs huge pages', '--no-huge')

    def test_eal_options_without_huge_pages(self):
        free = pathlib.Path('/sys/kernel/mm/hugepages').glob('*/free_hugepages')
        harness.skip_unless(all(int(f.read_text()) == 0 for f in free), 'huge pages are free')
        for option in ('--in-memory', '--huge-unlink', '--match-allocations', '--socket-mem=64'):
            self.refuse([option, '--'], f'{option} needs huge pages, and none is free',
                        'leave it out')

    def test_eal_with_files_of_its_own(self):
        """EAL locks its folder then, and would wait for ever for another program that has it, or for us."""
        with harness.Daemon(eal=['--proc-type=primary']) as app:
            self.addCleanup(shutil.rmtree, app.runtime_dir(), ignore_errors=True)
            result = subprocess.run([harness.APP, f'--file-prefix={app.prefix}', '--proc-type=primary', '--'],
                                    env=dict(os.environ, XDG_RUNTIME_DIR=app.dir), stdin=subprocess.DEVNULL,
                                    capture_output=True, text=True, timeout=harness.TIMEOUT)
            self.assertEqual((result.returncode, result.stdout), (2, ''), result.stderr)
            self.assertIn('in use by another program; give --file-prefix', result.stderr)
            self.assertEqual(app.stop(), 0)

    def test_eal_option_that_does_not_exist(self):
        result = subprocess.run([harness.APP, '--bogus', '--'], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=harness.TIMEOUT)
        self.assertEqual((result.returncode, result.stdout), (2, ''))
        self.assertLess(len(result.stderr.splitlines()), 4)
        self.assertIn('EAL does not start with --bogus:', result.stderr)

    def test_missing_value(self):
        self.refuse(['--dev'], '--dev', 'needs a value')

    def test_numbers(self):
        for value in ('', '-1', 'x', '1000001', '99999999999999999999', '1 ', '0x1'):
            self.refuse(['--poll-us', value], '--poll-us', '0 to 1000000')
        self.refuse(['--stats', '0'], '--stats', '1 to 86400')

    def test_poll_lcores(self):
        for value in ('', 'a', '1-', '3-1', ',', '1,,2', '99999'):
            self.refuse(['--poll-lcores', value], '--poll-lcores', 'list of CPUs')
        self.refuse(['--poll-lcores', '0,0'], 'given twice')
        absent = max(os.sched_getaffinity(0)) + 1
        self.refuse(['--poll-lcores', str(absent)], f'{absent} is not a CPU')

    def test_log_level(self):
        self.refuse(['--log-level', 'loud'], 'loud', 'debug')

    def test_words(self):
        self.refuse_words('', 'name NAME mgmtdev MGMTDEV')
        self.refuse_words('name net0', 'mgmtdev')
        self.refuse_words('name net0 mgmtdev sim_net bogus 1', 'bogus', 'mac')
        self.refuse_words('name a/b mgmtdev sim_net', 'a/b')
        self.refuse_words('name net0 mgmtdev nothing', 'nothing', 'sim_net')
        self.refuse_words('name net0 mgmtdev sim_net backend bogus', 'bogus', 'loopback')

    def test_mac(self):
        for mac in ('1', '52:54:00:00:00', '52:54:00:00:00:0g', '01:00:00:00:00:00',
                    '00:00:00:00:00:00', '52:54:00:00:00:01:02'):
            self.refuse_words(f'name net0 mgmtdev sim_net mac {mac}', mac)

    def test_size(self):
        for size in ('0', '1Q', '-1', '', '99999999999999T'):
            self.refuse_words(f'name blk0 mgmtdev sim_blk backend ram "{size}"', 'ram')

    def test_socket_path_too_long(self):
        self.refuse_words(f'name net0 mgmtdev sim_net socket /tmp/{"x" * 108}', '107')

    def test_config_file_names_the_line(self):
        with tempfile.NamedTemporaryFile('w', suffix='.conf') as f:
            f.write('# a comment\n\n  name ok mgmtdev sim_net\nname net0 mgmtdev none\n')
            f.flush()
            self.refuse(['--config', f.name], f'{f.name}:4', 'none')
        self.refuse(['--config', '/nonexistent/file'], '/nonexistent/file')

    def test_config_file_without_an_end(self):
        self.refuse(['--config', '/dev/zero'], '/dev/zero:1', 'NUL')
        with tempfile.TemporaryDirectory(prefix='uvdpa-test.') as folder:
            path = os.path.join(folder, 'a.conf')
            with open(path, 'w') as f:
                f.write('#' * 65536 + '\n' + '#' * 65537 + '\n')
            self.refuse(['--config', path], f'{path}:2', 'longer than 65536 bytes')
            with open(path, 'w') as f:
                f.write(('#' * 1023 + '\n') * (16 << 10) + '\n')
            self.refuse(['--config', path], path, 'longer than 16 MiB')


class Information(unittest.TestCase):
    def run_ok(self, *args):
        return subprocess.run([harness.APP, *args], stdin=subprocess.DEVNULL, check=True,
                              capture_output=True, text=True, timeout=harness.TIMEOUT).stdout

    def test_list_and_help(self):
        functions, begin, words = self.run_ok('--list').partition('Words of every device:\n')
        self.assertRegex(functions, r'^PCI functions of this machine that a driver serves:\n(  .*\n)+\n$')
        words = begin + words
        for word in ('sim_net', 'sim_blk', 'vhost-user', 'mac', 'backend', 'socket'):
            self.assertIn(word, words)
        text = self.run_ok('--help')
        self.assertIn('--poll-lcores', text)
        self.assertIn(words, text)

    def test_version(self):
        self.assertRegex(self.run_ok('--version'), r'^vdpa-app \d+\.\d+\.\d+, DPDK ')


class Life(unittest.TestCase):
    def test_signals_stop_it_cleanly(self):
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            daemon = harness.Daemon([NET]).start()
            try:
                self.assertTrue(os.path.exists(daemon.socket('net0')))
                self.assertEqual(daemon.stop(signum), 0)
                self.assertFalse(os.path.exists(daemon.socket('net0')))
                self.assertFalse(os.path.exists(daemon.runtime_dir()))
                self.assertEqual(daemon.err.text(), '')
            finally:
                daemon.cleanup()

    def test_more_signals_while_it_stops_change_nothing(self):
        daemon = harness.Daemon([NET.replace('net0', f'net{i}') for i in range(16)]).start()
        try:
            while daemon.process.poll() is None:
                daemon.process.send_signal(signal.SIGTERM)
                daemon.process.send_signal(signal.SIGINT)
                time.sleep(0.001)
            self.assertEqual(daemon.stop(), 0)
            self.assertEqual([n for n in os.listdir(daemon.dir) if n.endswith('.sock')], [])
        finally:
            daemon.cleanup()

    def test_memory_and_main_lcore_of_the_users(self):
        for eal in (['-m', '64'], ['--main-lcore=1']):
            with harness.Daemon([NET], eal=eal) as daemon:
                self.assertEqual(daemon.ask('/vdpa/dev/list'), ['net0'])

    def test_what_took_the_place_of_its_telemetry_socket_stays(self):
        daemon = harness.Daemon([NET]).start()
        try:
            path = os.path.join(daemon.runtime_dir(), 'dpdk_telemetry.v2')
            os.unlink(path)
            with open(path, 'w') as f:
                f.write('precious')
            self.assertEqual(daemon.stop(), 0)
            with open(path) as f:
                self.assertEqual(f.read(), 'precious')
            self.assertEqual(os.listdir(daemon.runtime_dir()), ['dpdk_telemetry.v2'])
        finally:
            daemon.cleanup()

    def test_start_lines(self):
        with harness.Daemon([NET + ' mac 52:54:00:00:00:01']) as daemon:
            self.assertRegex(daemon.out.lines[0],
                             rf'^net0: sim_net, mac 52:54:00:00:00:01, .*{daemon.dir}/net0.sock')

    def test_configuration_file(self):
        with tempfile.TemporaryDirectory(prefix='uvdpa-test.') as folder:
            path = os.path.join(folder, 'a.conf')
            with open(path, 'w') as f:
                f.write(f'# two\nname a mgmtdev sim_net socket {folder}/a.sock\n'
                        f'\tname b mgmtdev sim_blk backend ram 1M socket "{folder}/b c.sock"\n')
            with harness.Daemon(args=['--config', path]) as daemon:
                self.assertEqual(daemon.ask('/vdpa/dev/list'), ['a', 'b'])
                self.assertTrue(os.path.exists(f'{folder}/b c.sock'))

    def fails(self, devices, code, *expected, folder=None):
        daemon = harness.Daemon(devices, folder=folder)
        try:
            result = subprocess.run(daemon.command, stdin=subprocess.DEVNULL, capture_output=True,
                                    text=True, timeout=harness.TIMEOUT)
            self.assertEqual(result.returncode, code, result)
            for text in expected:
                self.assertIn(text, result.stderr)
            self.assertNotIn('ready', result.stdout)
        finally:
            daemon.cleanup()

    def test_socket_in_use(self):
        with harness.Daemon([NET]) as daemon:
            self.fails([f'name net1 mgmtdev sim_net socket {daemon.dir}/net0.sock'], 1,
                       'net0.sock', 'in use')
            # The one that owns it is not disturbed.
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(daemon.socket('net0'))

    def test_socket_left_by_a_killed_daemon_is_taken_over(self):
        with tempfile.TemporaryDirectory(prefix='uvdpa-test.') as folder:
            daemon = harness.Daemon([NET], folder=folder).start()
            daemon.kill()
            self.assertTrue(os.path.exists(daemon.socket('net0')))
            with harness.Daemon([NET], folder=folder) as daemon:
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(daemon.socket('net0'))

    def test_socket_path_that_is_another_file_is_left_alone(self):
        with tempfile.TemporaryDirectory(prefix='uvdpa-test.') as folder:
            path = os.path.join(folder, 'net0.sock')
            with open(path, 'w') as f:
                f.write('precious')
            self.fails([NET], 1, path, folder=folder)
            with open(path) as f:
                self.assertEqual(f.read(), 'precious')

    def test_uplink_names_what_to_give(self):
        self.fails(['name net0 mgmtdev sim_net backend uplink lo'], 1, 'interface of the kernel',
                   '--vdev net_af_packet0,iface=lo')
        self.fails(['name net0 mgmtdev sim_net backend uplink net_tap0'], 1, '--vdev net_tap0')

    def test_one_mac_twice_is_told(self):
        devices = [f'name net{i} mgmtdev sim_net mac 52:54:00:00:00:01' for i in range(2)]
        with harness.Daemon(devices) as daemon:
            daemon.err.wait('net1: has the mac of net0')
            self.assertEqual(len(daemon.err.lines), 1)

    def test_same_name_twice(self):
        self.fails([NET, 'name net0 mgmtdev sim_net'], 2, 'net0', '--dev 1')

    def test_failed_start_leaves_no_socket(self):
        with tempfile.TemporaryDirectory(prefix='uvdpa-test.') as folder:
            self.fails([NET, 'name net1 mgmtdev sim_net socket {dir}/none/net1.sock'], 1,
                       'net1', folder=folder)
            self.assertFalse(os.path.exists(os.path.join(folder, 'net0.sock')))

    def test_two_daemons_at_once(self):
        with harness.Daemon([NET]) as one, harness.Daemon([NET]) as two:
            for daemon in (one, two):
                self.assertEqual(daemon.ask('/vdpa/dev/list'), ['net0'])
                self.assertEqual(daemon.ask('/info')['pid'], daemon.pid)

    def test_periodic_statistics(self):
        with harness.Daemon([NET], args=['--stats', '1']) as daemon:
            _, at = daemon.out.wait(r'^\d\d:\d\d:\d\d net0: ')
            daemon.out.wait(r'^\d\d:\d\d:\d\d net0: ', at)

    def test_polling_lcore(self):
        cpu = min(os.sched_getaffinity(0))
        with harness.Daemon([NET], args=['--poll-lcores', str(cpu)]) as daemon:
            self.assertEqual(daemon.ask('/vdpa/dev/list'), ['net0'])


class Descriptors(unittest.TestCase):
    def test_management_outlives_the_last_free_descriptor(self):
        limit = 128
        with harness.Daemon([], launcher=['prlimit', f'--nofile={limit}']) as daemon, \
                daemon.control() as client:
            with self.assertRaises(harness.ControlError) as caught:
                for i in range(limit):
                    client.add(f'name net{i} mgmtdev sim_net socket {daemon.dir}/net{i}.sock')
            self.assertEqual((caught.exception.code, caught.exception.errno), (-32007, 'EMFILE'))
            self.assertIn(f'RLIMIT_NOFILE is {limit}', caught.exception.message)
            with contextlib.ExitStack() as stack:
                # telemetry serves ten clients at once
                for _ in range(9):
                    stack.enter_context(daemon.telemetry())
            # until it has noticed that they left, it refuses more and holds their descriptors
            harness.settled(daemon.pid)
            daemon.delete('net0')
            client.add(f'name net0 mgmtdev sim_net socket {daemon.dir}/net0.sock')


class Access(unittest.TestCase):
    def mode(self, path):
        return stat.S_IMODE(os.stat(path).st_mode)

    def test_sockets_are_the_owners_alone(self):
        old = os.umask(0)
        try:
            with harness.Daemon([NET]) as daemon:
                self.assertEqual(self.mode(daemon.socket('net0')), 0o600)
        finally:
            os.umask(old)

    def test_mode_and_group(self):
        harness.skip_unless(os.getuid() == 0, 'only root can give a socket to any group')
        group = grp.getgrgid(pwd.getpwnam('nobody').pw_gid).gr_name
        with harness.Daemon([NET + f' mode 0660 group {group}']) as daemon:
            path = daemon.socket('net0')
            self.assertEqual(self.mode(path), 0o660)
            self.assertEqual(grp.getgrgid(os.stat(path).st_gid).gr_name, group)

    @contextlib.contextmanager
    def ordinary_user(self):
        """A folder of nobody's with the daemon in it, and the command that becomes nobody."""
        harness.skip_unless(os.getuid() == 0 and shutil.which('setpriv'),
                            'needs root and setpriv to become an ordinary user')
        nobody = pwd.getpwnam('nobody')
        folder = tempfile.mkdtemp(prefix='uvdpa-test.')
        try:
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            # The build may lie where only root can look, such as root's home: take it out of there.
            libs = subprocess.run(['ldd', harness.APP], capture_output=True, text=True, check=True)
            for file in (harness.APP, re.search(r'(/\S*/libuvdpa\.so\S*)', libs.stdout).group(1)):
                shutil.copy(file, folder)
            user = ['env', f'LD_LIBRARY_PATH={folder}',
                    'setpriv', f'--reuid={nobody.pw_uid}', f'--regid={nobody.pw_gid}',
                    '--clear-groups', '--no-new-privs', '--inh-caps=-all']
            yield {'folder': folder, 'user': user, 'app': os.path.join(folder, 'vdpa-app')}, nobody
        finally:
            shutil.rmtree(folder)

    def test_ordinary_user(self):
        with self.ordinary_user() as (user, nobody):
            with harness.Daemon([NET, 'name blk0 mgmtdev sim_blk backend ram 1M socket '
                                      '{dir}/blk0.sock'], **user) as daemon:
                self.assertEqual(os.stat(daemon.socket('net0')).st_uid, nobody.pw_uid)
                self.assertEqual(daemon.ask('/vdpa/dev/list'), ['net0', 'blk0'])

    def serves_without_management(self, user, reason):
        daemon = harness.Daemon([NET], **user)
        process = subprocess.Popen(daemon.command, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   env=dict(os.environ, XDG_RUNTIME_DIR=daemon.dir))
        out = harness.Reader(process.stdout)
        try:
            out.wait('^ready, without management: .*' + reason)
            self.assertNotIn('EAL', out.text())
            self.assertTrue(os.path.exists(daemon.socket('net0')))
        finally:
            process.terminate()
            process.wait(harness.TIMEOUT)
            out.join()

    def test_a_runtime_folder_that_others_can_change_is_not_used(self):
        with self.ordinary_user() as (user, nobody):
            path = os.path.join(user['folder'], 'dpdk')
            os.mkdir(path)
            for uid, mode, reason in ((1, 0o777, 'belongs to user 1'),
                                      (0, 0o777, 'others may write'),
                                      (nobody.pw_uid, 0o770, 'others may write')):
                os.chown(path, uid, -1)
                os.chmod(path, mode)
                self.serves_without_management(user, reason)
                self.assertEqual(os.listdir(path), [])
            os.rmdir(path)
            os.symlink('/tmp', path)
            self.serves_without_management(user, 'no folder')


class Telemetry(unittest.TestCase):
    def test_devices_come_and_go_at_run_time(self):
        with harness.Daemon() as daemon, daemon.telemetry() as client:
            self.assertEqual(client.ask('/vdpa/dev/list'), [])
            self.assertIn('sim_net', client.ask('/vdpa/mgmtdev/list'))
            self.assertIn('help', client.ask('/vdpa/mgmtdev/show,sim_net'))
            words = NET.format(dir=daemon.dir)
            daemon.add(words)
            self.assertIn('net0', daemon.refusal('dev.add', words=words))
            self.assertEqual(client.ask('/vdpa/dev/show,net0')['mgmtdev'], 'sim_net')
            self.assertIn('device', client.ask('/vdpa/dev/stats,net0'))
            self.assertIn('packets', str(client.ask('/vdpa/dev/stats,net0,0')))
            self.assertIn('below', client.ask('/vdpa/dev/stats,net0,99')['error'])
            daemon.set('net0', 'link down')
            self.assertEqual(client.ask('/vdpa/dev/show,net0')['link'], 'down')
            self.assertIn('link', daemon.refusal('dev.set', name='net0', words='link sideways'))
            # Whoever asks telemetry to change something is not obeyed, and reads what to use.
            for command, params in (('add', 'name net1 mgmtdev sim_net'), ('del', 'net0'), ('set', 'net0 link up')):
                self.assertEqual(client.ask(f'/vdpa/dev/{command},{params}'), {
                    'error': f'telemetry only reads: use vdpactl dev {command}, or the method '
                             f'dev.{command} of the control socket'})
            self.assertEqual(client.ask('/vdpa/dev/list'), ['net0'])
            self.assertEqual(client.ask('/vdpa/dev/show,net0')['link'], 'down')
            daemon.delete('net0')
            self.assertIn('none', daemon.refusal('dev.del', name='net0'))
            self.assertEqual(client.ask('/vdpa/dev/list'), [])
            self.assertFalse(os.path.exists(daemon.socket('net0')))

    def test_bad_parameters_are_answered(self):
        with harness.Daemon() as daemon, daemon.telemetry() as client:
            for command in ('show', 'stats', 'del', 'set', 'add'):
                for params in ('', ',', ', ', ',none', ',' + 'x' * 900, ',\x01\x7f', ',"'):
                    reply = client.ask(f'/vdpa/dev/{command}{params}')
                    # One longer than a string of telemetry's goes on in error_2, ...
                    self.assertEqual([name.split('_')[0] for name in reply],
                                     ['error'] * len(reply), (command, params, reply))
                    self.assertIn('error', reply)

    def test_long_lists_come_in_pages(self):
        """1,200 devices with long names: nothing is left out without a word."""
        names = [f'{i:04}.{"n" * 50}' for i in range(1200)]
        with harness.Daemon() as daemon, daemon.telemetry() as client, daemon.control() as control:
            for name in names:
                control.add(f'name {name} mgmtdev sim_blk backend ram 1M')
            # At a glance: as many as fit, and what to type for more.
            reply = client.ask('/vdpa/dev/list')
            found, more = reply[:-1], reply[-1]
            self.assertEqual(found, names[:len(found)])
            count, command = re.fullmatch(r'\.\.\. and (\d+) more: (\S+)', more).groups()
            self.assertEqual(len(found) + int(count), len(names))
            # Page by page, while others come and go.
            found += client.ask(command)['names']
            self.assertEqual(found, names[:len(found)])
            control.delete(names[0])
            found, page = [], '0'
            while page is not None:
                reply = client.ask(f'/vdpa/dev/list,{page}')
                self.assertEqual(reply['count'], len(names) - 1)
                found += reply['names']
                page = reply.get('next')
                control.delete(found[-1])
                control.add(f'name {found[-1]} mgmtdev sim_blk backend ram 1M')
            for name in names[1:]:
                self.assertIn(name, found)
            for page in ('x', '-1', '1 2', '1,2'):
                self.assertEqual(list(client.ask(f'/vdpa/dev/list,{page}')), ['error'])
            # A list that fits is the plain array, and one page.
            self.assertEqual(client.ask('/vdpa/mgmtdev/list'), ['sim_net', 'sim_blk'])
            self.assertEqual(client.ask('/vdpa/mgmtdev/list,0'),
                             {'count': 2, 'names': ['sim_net', 'sim_blk']})

    def test_long_errors_are_whole(self):
        with harness.Daemon() as daemon:
            path = '/nonexistent/' + 'long/' * 60
            self.assertEqual(daemon.refusal('dev.add', words=f'name b mgmtdev sim_blk backend file {path}'),
                             f'b: cannot open {path}: No such file or directory')

    def test_a_device_with_many_queues_fits_a_reply(self):
        words = 'name net0 mgmtdev sim_net max_vqp 64 socket {dir}/net0.sock'
        with harness.Daemon([words]) as daemon, daemon.telemetry() as client:
            stats = client.ask('/vdpa/dev/stats,net0')
            self.assertIn('device', stats)
            self.assertIn('packets', str(client.ask('/vdpa/dev/stats,net0,127')))


if __name__ == '__main__':
    unittest.main(verbosity=2)
