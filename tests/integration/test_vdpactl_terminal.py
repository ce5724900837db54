# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""vdpactl's top and monitor in a terminal, tmux's, of 80 columns and 24 lines: what stands on it, what
keys do, and that it is given back as it was."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import harness
from control_server import Server

VDPACTL = os.environ.get('UVDPA_VDPACTL', 'vdpactl')
NAMES = [f'net{i}' for i in range(63)] + ['a-device-with-a-very-long-name']
STATES = {'net3': 'failed', 'net4': 'suspended'}


class Tmux:
    """A terminal in which one program runs, after a line of a shell's, and that shell's next line."""

    def __init__(self, folder, command, width=80, height=24):
        self.socket = os.path.join(folder, 'tmux')
        env = {**os.environ, 'TERM': 'xterm', 'LC_ALL': 'C.UTF-8'}
        env.pop('TMUX', None)
        shell = f'trap : INT; echo before; {command}; echo "status $?"; exec sleep 1000'
        subprocess.run([*self.tmux(), '-f', '/dev/null', 'new-session', '-d', '-x', str(width), '-y',
                        str(height), shell], check=True, env=env, timeout=harness.TIMEOUT)

    def tmux(self):
        return ['tmux', '-S', self.socket]

    def run(self, *args):
        return subprocess.run([*self.tmux(), *args], check=True, capture_output=True, text=True,
                              timeout=harness.TIMEOUT).stdout

    def screen(self):
        return self.run('capture-pane', '-p').splitlines()

    def keys(self, *keys):
        self.run('send-keys', *keys)

    def until(self, condition, what):
        """The screen once condition(screen) is true."""
        last = []

        def look():
            last[:] = self.screen()
            return condition(last)

        try:
            harness.wait_for(look, what, interval=0.05)
        except AssertionError as error:
            raise AssertionError(f'{error}\n' + '\n'.join(last))
        return last

    def close(self):
        subprocess.run([*self.tmux(), 'kill-server'], stderr=subprocess.DEVNULL, check=False)


class Terminal(unittest.TestCase):
    def setUp(self):
        harness.skip_unless(shutil.which('tmux'), 'tmux is not installed: see scripts/setup')
        self.folder = tempfile.mkdtemp(prefix='uvdpa-test.')
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.begin = time.monotonic()

    def queue(self, number, kind, seconds):
        """Of device number i: i thousand packets a second."""
        n = int(number * 1000 * seconds)
        return {'queue_type': kind, 'path': ['direct', 'relay', 'shadow (inflight)'][number % 3],
                'packets': n, 'bytes': n * 64, 'kicks': None if number % 3 == 0 else n // 2,
                'interrupts': n // 4, 'ring_size': 256, 'ring_depth': number, 'errors': 0}

    def stats(self, params):
        seconds = time.monotonic() - self.begin
        return {'stats': {name: {'device': {}, 'queues': [self.queue(i, 'rx', seconds),
                                                          self.queue(0, 'tx', seconds)]}
                          for i, name in enumerate(NAMES)}}

    def serve(self):
        devices = {name: {'type': 'network', 'mgmtdev': 'sim_net', 'state': STATES.get(name, 'running')}
                   for name in NAMES}
        self.server = Server(self.folder, {
            'dev.show': {'dev': devices}, 'dev.stats': self.stats, 'events.subscribe': {'events': []}})
        self.addCleanup(self.server.close)

    def terminal(self, *args, **size):
        self.serve()
        tmux = Tmux(self.folder, shlex.join([VDPACTL, '-S', self.server.path, *args]), **size)
        self.addCleanup(tmux.close)
        return tmux

    def rates(self, screen):
        """Rows between titles and keys: (device, queue, packets a second)."""
        rows = []
        for line in screen[3:-1]:
            fields = line.split()
            if len(fields) >= 8:
                queue = fields[1] if fields[1].isdigit() else ''
                rows.append((fields[0], queue, fields[-5]))
        return rows

    def first_rates(self, tmux):
        return tmux.until(lambda s: any(r[2] not in ('-', '0') for r in self.rates(s)), 'rates')

    def gone(self, tmux):
        """The program is over, and the terminal as it was."""
        screen = tmux.until(lambda s: any(l.startswith('status ') for l in s), 'the end of it')
        self.assertEqual(screen[0], 'before')
        return screen[1]

    def test_top_is_a_page(self):
        tmux = self.terminal('top', '-d', '0.5')
        screen = self.first_rates(tmux)
        print('\n'.join(screen), flush=True)
        self.assertRegex(screen[0], r'^vdpactl top - \d\d:\d\d:\d\d  64 devices: 62 running, 1 failed, '
                                    r'1 suspended$')
        self.assertEqual(screen[1], 'sorted by name, rows 1 to 20 of 192')
        self.assertRegex(screen[2], '^DEVICE .* DEPTH$')
        self.assertEqual(len(screen[2]), 80 - 1)
        self.assertTrue(screen[23].startswith('q quit'), screen[23])
        rows = self.rates(screen)
        self.assertEqual(len(rows), 20)
        # Names as people count, a device before its queues; a long name is cut.
        self.assertEqual([r[:2] for r in rows[:4]], [('a-device-with-a~', ''), ('a-device-with-a~', '0'),
                                                     ('a-device-with-a~', '1'), ('net0', '')])
        self.assertEqual([r[0] for r in rows if r[1] == ''][1:], [f'net{i}' for i in range(6)])
        for line in screen:
            self.assertLessEqual(len(line), 80)
        tmux.keys('q')
        self.assertEqual(self.gone(tmux), 'status 0')

    def test_top_sorts_and_scrolls(self):
        tmux = self.terminal('top', '-d', '0.3')
        self.first_rates(tmux)
        tmux.keys('p')
        screen = tmux.until(lambda s: s[1].startswith('sorted by packets') and
                            self.rates(s)[0][0] == 'a-device-with-a~' and self.rates(s)[3][0] == 'net62',
                            'the busiest first')
        tmux.keys('r')
        tmux.until(lambda s: 'reversed' in s[1] and self.rates(s)[0][0] == 'net0', 'the idlest first')
        tmux.keys('r', 't')
        tmux.until(lambda s: s[1].endswith('of 64') and all(r[1] == '' for r in self.rates(s)),
                   'devices alone')
        tmux.keys('t')
        screen = tmux.until(lambda s: s[1].endswith('of 128') and
                            all(r[1] == '0' for r in self.rates(s)), 'queues alone, the idle ones last')
        self.assertIn('PATH', screen[2])
        tmux.keys('t', 'd')
        tmux.until(lambda s: s[1].startswith('sorted by depth'), 'depth')
        for key, word in ('b', 'bytes'), ('k', 'kicks'), ('i', 'interrupts'), ('n', 'name'):
            tmux.keys(key)
            tmux.until(lambda s: s[1].startswith(f'sorted by {word}'), word)
        for key, rows in (('Down', '2 to 21'), ('NPage', '22 to 41'), ('PPage', '2 to 21'), ('Up', '1 to 20'),
                          ('Up', '1 to 20'), ('End', '173 to 192'), ('NPage', '173 to 192'),
                          ('Home', '1 to 20')):
            tmux.keys(key)
            tmux.until(lambda s: f'rows {rows} of 192' in s[1], f'{key}: rows {rows}')
        tmux.keys('x', 'Escape')
        tmux.keys('C-c')
        self.assertEqual(self.gone(tmux), 'status 0')

    def test_top_takes_another_size(self):
        tmux = self.terminal('top', '-d', '10')
        self.first_rates(tmux)
        tmux.run('resize-window', '-x', '100', '-y', '30')
        screen = tmux.until(lambda s: len(s) >= 30 and s[29].startswith('q quit') and
                            len(s[2]) == 99, 'a larger page')
        self.assertEqual(screen[1], 'sorted by name, rows 1 to 26 of 192')
        # The names have the room.
        self.assertTrue(screen[3].startswith('a-device-with-a-very-long-name '))
        tmux.run('resize-window', '-x', '40', '-y', '10')
        tmux.until(lambda s: s[9:10] and s[9].startswith('q quit') and 'to 6 of' in s[1], 'a small page')
        tmux.keys('q')
        self.gone(tmux)

    def test_top_waits_for_a_daemon_that_goes(self):
        tmux = self.terminal('top', '-d', '0.3')
        self.first_rates(tmux)
        self.server.close()
        tmux.until(lambda s: 'control.sock: ' in s[0], 'word of it')
        os.unlink(self.server.path)
        tmux.until(lambda s: 'No such file' in s[0], 'a reason')
        self.serve()
        self.first_rates(tmux)
        tmux.keys('q')
        self.gone(tmux)

    def test_top_gives_the_terminal_back_when_it_is_stopped_or_ended(self):
        tmux = self.terminal('top', '-d', '0.3')
        self.first_rates(tmux)
        shell = int(tmux.run('display-message', '-p', '#{pane_pid}'))
        pid = harness.wait_for(lambda: self.child(shell), 'the process')
        os.kill(pid, signal.SIGTSTP)
        tmux.until(lambda s: s[0] == 'before' and s[2] == '', 'the terminal as it was')
        os.kill(pid, signal.SIGCONT)
        self.first_rates(tmux)
        os.kill(pid, signal.SIGTERM)
        self.gone(tmux)

    def child(self, shell):
        done = subprocess.run(['ps', '--ppid', str(shell), '-o', 'pid='], capture_output=True, text=True)
        return int(done.stdout) if done.stdout.strip() else None

    def test_top_ends_by_itself(self):
        tmux = self.terminal('top', '-d', '0.2', '-n', '2', 'net1*')
        self.assertEqual(self.gone(tmux), 'status 0')

    def test_monitor(self):
        tmux = self.terminal('monitor')
        self.server.wait_request('events.subscribe')
        for i in range(3):
            self.server.notify(event='device.started', name=f'net{i}', time='2026-11-29T10:14:41.123456Z')
        self.server.notify(event='device.failed', name='net1', time='2026-11-29T10:14:41.223456Z',
                           failure='virtqueue 1: descriptor 7 is outside guest memory')
        screen = tmux.until(lambda s: any('device.failed' in l for l in s), 'the events')
        print('\n'.join(screen[:8]), flush=True)
        self.assertEqual(screen[1:4], [f'2026-11-29T10:14:41.123456Z net{i} device.started'
                                       for i in range(3)])
        self.assertTrue(re.match(r'2026-11-29T10:14:41\.223456Z net1 device\.failed failure virtqueue 1',
                                 screen[4]))
        tmux.keys('C-c')
        tmux.until(lambda s: any('status 130' in l for l in s), 'the end of it')


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main()
