# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""The session of doc/guide-vdpactl.md, line by line as it is printed there.

A block begins with ```console and the name of a terminal, each of which is a shell of its own. A line
that begins with "$ " is typed there; the lines below it are what must be printed. In them, "..."
stands for anything within a line, and a line of it alone for any lines, or none. A command that goes
on, as a daemon does, has printed all that stands below it when the next line is typed, in whatever
terminal, or has been silent for a while where nothing does; "$ ^C" ends it, and what it has printed
until then stands below that.

It runs as root with a /run of its own, so that the paths are those of the page."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import harness

SOURCE = pathlib.Path(os.environ.get('UVDPA_SOURCE') or pathlib.Path(__file__).parents[2])
PAGE = SOURCE / 'doc/guide-vdpactl.md'
# Seconds in which a command that has printed what it should has ended, or else goes on.
GOES_ON = 3
PROGRAMS = ('UVDPA_APP', 'UVDPA_VDPACTL')


def session(text):
    """[(terminal, command, [expected lines])] in the order of the page."""
    steps = []
    for terminal, block in re.findall(r'^```console([^\n]*)\n(.*?)^```$', text, re.M | re.S):
        for line in block.splitlines():
            if line.startswith('$ '):
                steps.append((terminal.strip(), line[2:], []))
            else:
                steps[-1][2].append(line)
    return steps


def pattern(lines, whole):
    """Of the output; whole: of a command that has ended, else of its beginning."""
    text = ''
    for line in lines:
        if line.strip() == '...':
            text += r'(?:.*\n)*?'
        else:
            text += '[^\n]*'.join(re.escape(part) for part in line.split('...')) + r'\n'
    return re.compile(text + (r'\Z' if whole else ''))


class Terminal:
    def __init__(self, folder, env):
        self.shell = subprocess.Popen(['bash', '--norc', '--noprofile'], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
                                      text=True, bufsize=1, env=env, start_new_session=True)
        self.reader = harness.Reader(self.shell.stdout)
        self.at = 0
        self.serial = 0

    def interrupt(self):
        """Of all that the terminal runs but its shell."""
        for entry in filter(str.isdigit, os.listdir('/proc')):
            try:
                fields = pathlib.Path(f'/proc/{entry}/stat').read_text().rsplit(')', 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == self.shell.pid and int(entry) != self.shell.pid:
                try:
                    os.kill(int(entry), signal.SIGINT)
                except ProcessLookupError:
                    pass

    def type(self, command, lines):
        """What does not fit, None when it does."""
        self.serial += 1
        done = f'--- done {self.serial}'
        if command == '^C':
            self.interrupt()
            done = f'--- done {self.serial - 1}'
            self.serial -= 1
        else:
            self.at = len(self.reader.lines)
            # The next line finds $? as this one has left it.
            self.shell.stdin.write(f'{command}\nstatus=$?; echo "{done}"; (exit $status)\n')
            self.shell.stdin.flush()
        end = time.monotonic() + harness.TIMEOUT
        fits = time.monotonic() if not lines else None
        while time.monotonic() < end:
            seen = self.reader.lines[self.at:]
            ended = done in seen
            text = '\n'.join(seen[:seen.index(done)] if ended else seen) + '\n'
            if text == '\n':
                text = ''
            if command == '^C':
                if ended:
                    # What it printed before stands below the command itself.
                    return None if pattern(['...'] + lines, True).match(text) else text
            elif ended:
                return None if pattern(lines, True).match(text) else text
            elif lines and fits is None and pattern(lines, False).match(text):
                fits = time.monotonic()
            elif fits is not None and time.monotonic() > fits + GOES_ON:
                return None if lines or text == '' else text
            time.sleep(0.02)
        return f'{text}(and no end of it)'

    def close(self):
        self.shell.stdin.close()
        self.interrupt()
        try:
            self.shell.wait(harness.TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(self.shell.pid, signal.SIGKILL)
            self.shell.wait()
        self.reader.join()


def run():
    """Within a /run of its own."""
    subprocess.run(['mount', '-t', 'tmpfs', 'tmpfs', '/run'], check=True)
    os.chmod('/run', 0o755)
    failed = []
    with tempfile.TemporaryDirectory(prefix='uvdpa-test.') as folder:
        programs = os.path.join(folder, 'bin')
        os.mkdir(programs)
        for variable in PROGRAMS:
            os.symlink(os.environ[variable], os.path.join(programs, os.path.basename(os.environ[variable])))
        env = {'PATH': programs + ':/usr/sbin:/usr/bin:/sbin:/bin', 'HOME': folder, 'LC_ALL': 'C.UTF-8'}
        terminals = {}
        try:
            for name, command, lines in session(PAGE.read_text()):
                if name not in terminals:
                    terminals[name] = Terminal(folder, env)
                wrong = terminals[name].type(command, lines)
                if wrong is not None:
                    failed.append(f'$ {command}\nexpected:\n' + '\n'.join(lines) + f'\nprinted:\n{wrong}')
                    break
        finally:
            for terminal in terminals.values():
                terminal.close()
    print('\n'.join(failed), end='', flush=True)
    return 1 if failed else 0


class Session(unittest.TestCase):
    def test_it_is_read_as_it_is_meant(self):
        steps = session('```console one\n$ a\nx ... y\n...\nz\n```\ntext\n```console two\n$ b\n```\n')
        self.assertEqual(steps, [('one', 'a', ['x ... y', '...', 'z']), ('two', 'b', [])])
        whole = pattern(steps[0][2], True)
        self.assertTrue(whole.match('x 1 y\nz\n'))
        self.assertTrue(whole.match('x 1 y\nq\nr\nz\n'))
        for text in ('x 1 y\n', 'x 1\n y\nz\n', 'x 1 y\nz\nq\n', 'q\nx 1 y\nz\n'):
            self.assertFalse(whole.match(text), text)
        self.assertFalse(pattern([], True).match('x\n'))

    def test_line_by_line(self):
        harness.skip_unless(os.getuid() == 0, 'the session is of root')
        harness.skip_unless(shutil.which('dpdk-testpmd'), 'dpdk-testpmd is not installed (package dpdk-dev)')
        harness.skip_unless(len(os.sched_getaffinity(0)) > 1, 'testpmd needs two CPUs')
        # All that the session has started ends with it.
        own = ['unshare', '--mount', '--pid', '--mount-proc', '--fork', '--kill-child']
        able = subprocess.run([*own, 'mount', '-t', 'tmpfs', 'tmpfs', '/run'], capture_output=True)
        harness.skip_unless(able.returncode == 0, 'no /run of its own can be had here')
        self.assertGreater(len(session(PAGE.read_text())), 20)
        done = subprocess.run([*own, sys.executable, '-B', __file__, 'session'],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=110)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


load_tests = harness.load_tests

if __name__ == '__main__':
    if sys.argv[1:] == ['session']:
        sys.exit(run())
    unittest.main()
