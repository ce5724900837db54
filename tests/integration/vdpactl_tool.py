# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""What the tests of vdpactl share: the program, a run of it, and a made-up daemon to run it against."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest

import harness
from control_server import Server

VDPACTL = os.environ.get('UVDPA_VDPACTL', 'vdpactl')


def run(path, *args, env=None):
    return subprocess.run([VDPACTL, '-S', path, *args], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=harness.TIMEOUT, env=env)


class Test(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='uvdpa-test.')
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def serve(self, methods):
        server = Server(self.folder, methods)
        self.addCleanup(server.close)
        self.server = server
        return server

    def ctl(self, *args):
        return run(self.server.path, *args)

    def ok(self, *args):
        done = self.ctl(*args)
        self.assertEqual((done.returncode, done.stderr), (0, ''), args)
        return done.stdout

    def refused(self, *args, text, stdout=''):
        done = self.ctl(*args)
        self.assertEqual((done.returncode, done.stdout), (1, stdout), args)
        self.assertIn(text, done.stderr)
        return done.stderr

    def one_line(self, *args, text):
        """An error of the daemon's: one line."""
        self.assertEqual(len(self.refused(*args, text=text).splitlines()), 1)


def samples(text):
    """{name: {labels: value}} of Prometheus' text format, whose form is checked."""
    found, kinds, order = {}, {}, []
    label = r'[a-z_]+="(?:[^"\\\n]|\\["\\n])*"'
    for line in text.splitlines():
        head = re.fullmatch(r'# (HELP|TYPE) ([a-z_:]+) (.+)', line)
        if head:
            if head.group(1) == 'TYPE':
                assert head.group(3) in ('counter', 'gauge'), line
                assert head.group(2) not in kinds, line
                kinds[head.group(2)] = head.group(3)
            continue
        match = re.fullmatch(rf'([a-z_]+)(?:\{{({label}(?:,{label})*)\}})? (-?[0-9.e+-]+)', line)
        assert match, line
        name, labels, value = match.groups()
        assert name in kinds and name.endswith('_total') == (kinds[name] == 'counter'), line
        # All of a metric stand together.
        assert name not in order[:-1], line
        order += [name] if order[-1:] != [name] else []
        assert labels not in found.setdefault(name, {}), line
        found[name][labels] = float(value)
    return found
