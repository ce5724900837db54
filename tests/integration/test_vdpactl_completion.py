# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""bash's completion of vdpactl: every verb that its help has, names and words that the daemon has."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
import unittest

import harness
from control_server import Server, named

VDPACTL = os.environ.get('UVDPA_VDPACTL', 'vdpactl')
SOURCE = pathlib.Path(os.environ.get('UVDPA_SOURCE') or pathlib.Path(__file__).parents[2])
WORDS = '''Words of every device:
    name NAME
        the device's name
Management device sim_net: simulated network device
    backend loopback | echo
        what becomes of packets
          echo: they come back
    read_only
        no writes
'''


class Completion(unittest.TestCase):
    def setUp(self):
        harness.skip_unless(shutil.which('bash'), 'bash is not installed')
        self.folder = tempfile.mkdtemp(prefix='uvdpa-test.')
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        os.symlink(os.path.abspath(VDPACTL), f'{self.folder}/vdpactl')
        device = {'type': 'network', 'mgmtdev': 'sim_net', 'vendor_id': 1, 'max_vqs': 3, 'max_vq_size': 8}
        self.server = Server(self.folder, {
            'dev.show': named('dev', {'net0': device, 'net1': device, 'disk0': device}),
            'mgmtdev.show': {'mgmtdev': {'sim_net': {'supported_classes': ['net'], 'dev_features': []},
                                         'pci/0000:06:00.2': {'supported_classes': ['net']}}},
            'methods': {'methods': [{'name': 'dev.add', 'help': 'x', 'changes': True}]},
            'words.help': {'text': WORDS}})
        self.addCleanup(self.server.close)

    def complete(self, line, *before):
        """What is offered for the last word of a line."""
        words = ['vdpactl', *before, *line.split(' ')]
        script = (f'source {shlex.quote(str(SOURCE / "app/vdpactl/vdpactl.bash"))}\n'
                  f'COMP_WORDS=({shlex.join(words)})\nCOMP_CWORD={len(words) - 1}\n'
                  '_vdpactl\nprintf "%s\\n" "${COMPREPLY[@]}"\n')
        done = subprocess.run(['bash', '--norc', '-uc', script], capture_output=True, text=True,
                              cwd=self.folder, timeout=harness.TIMEOUT, stdin=subprocess.DEVNULL,
                              env={'PATH': f'{self.folder}:{os.environ["PATH"]}', 'HOME': self.folder})
        self.assertEqual((done.returncode, done.stderr), (0, ''), line)
        return done.stdout.split()

    def here(self, line):
        return self.complete(line, '-S', self.server.path)

    def test_every_verb(self):
        text = subprocess.run([VDPACTL, '--help'], capture_output=True, text=True, check=True).stdout
        verbs = [m.split() for m in re.findall(r'^ {7}vdpactl ((?:[a-z]+ ?)+)', text, re.M)]
        self.assertGreater(len(verbs), 15)
        for verb in verbs:
            # "dev add name NAME": words of an argument are not the verb's.
            for i, word in enumerate(verb[:3 if verb[1:2] in (['config'], ['vstats']) else
                                          2 if verb[0] in ('dev', 'mgmtdev') else 1]):
                self.assertIn(word, self.complete(' '.join([*verb[:i], ''])), verb)

    def test_names_and_words_of_the_daemon(self):
        self.assertEqual(self.here('dev show n'), ['net0', 'net1'])
        self.assertEqual(self.here('dev del '), ['net0', 'net1', 'disk0'])
        self.assertEqual(self.here('-j mgmtdev show '), ['sim_net', 'pci/0000:06:00.2'])
        self.assertEqual(self.here('dev vstats show net0 '), ['qidx'])
        self.assertEqual(self.here('dev set net0 l'), ['link'])
        self.assertEqual(self.here('dev add name x mgmtdev '), ['sim_net', 'pci/0000:06:00.2'])
        self.assertEqual(self.here('dev add name x mgmtdev sim_net '), ['backend', 'name', 'read_only'])
        self.assertEqual(self.here('top '), ['net0', 'net1', 'disk0'])
        self.assertEqual(self.here('call '), ['dev.add'])
        self.assertEqual(self.here('monitor device.f'), ['device.failed'])

    def test_options_and_files(self):
        self.assertEqual(self.complete('--pr'), ['--pretty'])
        self.assertEqual(self.complete('top --d'), ['--delay'])
        self.assertEqual(self.complete('metrics --o'), ['--output'])
        self.assertEqual(self.complete('-S contr'), ['control.sock'])
        self.assertEqual(self.complete('--contr'), ['--control'])
        self.assertEqual(self.complete('--control contr'), ['control.sock'])

    def test_without_a_daemon(self):
        self.assertEqual(self.complete('dev show ', '-S', '/nonexistent'), [])


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main()
