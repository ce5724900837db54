# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""vdpactl: its words, its output, its errors. What iproute2's `vdpa` prints of the kernel's devices
(iproute2.json, recorded by tests/vm/test_lab_vdpa.py) it prints to the byte of devices that are
alike, which a made-up control socket shows."""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time
import unicodedata
import unittest

import harness
from control_server import Refused, Server, named, no_device
from vdpactl_tool import VDPACTL, Test, run

GOLDEN = pathlib.Path(__file__).with_name('iproute2.json')


class Iproute2(Test):
    """The output of iproute2's own verbs."""

    def objects(self, runs, *verb):
        """What `vdpa -j VERB` has shown, by name; of all, or of each by itself."""
        found = {}
        for one in runs:
            if one['args'][:1 + len(verb)] == ['-j', *verb] and one['status'] == 0:
                for objects in json.loads(one['stdout']).values():
                    found.update(objects)
        return found

    def methods(self, runs):
        """A daemon with the devices that these runs have shown."""
        mgmtdevs, devices = self.objects(runs, 'mgmtdev', 'show'), self.objects(runs, 'dev', 'show')
        configs = self.objects(runs, 'dev', 'config', 'show')
        ours = {'state': 'idle', 'driver': 'sim', 'frontend': None, 'device_features_names': ['MAC']}
        vstats = {}
        for one in runs:
            if one['args'][:4] == ['-j', 'dev', 'vstats', 'show'] and '{}' not in one['stdout']:
                vstats[one['args'][4], int(one['args'][6])] = json.loads(one['stdout'])

        def show_vstats(params):
            key = params['name'], params['qidx']
            if key[0] not in devices:
                raise no_device(key[0])
            if key not in vstats:
                raise self.refusal(runs, ['dev', 'vstats', 'show', key[0], 'qidx', str(key[1])])
            return vstats[key]

        def add(params):
            words = params['words'].split()
            if words[3] not in mgmtdevs:
                raise Refused(-32002, 'there is none', 'ENODEV')
            raise Refused(-32003, 'it is there', 'EEXIST')

        gone = set()

        def delete(params):
            if params['name'] not in devices or params['name'] in gone:
                raise no_device(params['name'])
            gone.add(params['name'])

        return {
            'mgmtdev.show': named('mgmtdev', {n: {**o, 'features': '0x0', 'help': 'x'}
                                              for n, o in mgmtdevs.items()}),
            'dev.show': named('dev', {n: {'mgmtdev': None, **ours, **o} for n, o in devices.items()}),
            'dev.config': named('config', configs),
            'dev.vstats': show_vstats, 'dev.add': add, 'dev.del': delete}

    def refusal(self, runs, args):
        """What the kernel has answered, as the daemon does."""
        text = next(one['stderr'] for one in runs if one['args'] == args)
        answers = re.search('answers: (.*)', text).group(1)
        names = {**errno.errorcode, errno.EOPNOTSUPP: 'EOPNOTSUPP'}
        return Refused(-32009, 'no', next(n for e, n in names.items() if os.strerror(e) == answers))

    def test_as_iproute2_prints_it(self):
        """Everything it was run with, in text, as JSON and as pretty JSON."""
        golden = json.loads(GOLDEN.read_text())
        self.assertEqual(golden['version'], 'vdpa utility, iproute2-6.1.0')
        compared = 0
        for devices in golden['sets']:
            runs = devices['runs']
            server = Server(self.folder, self.methods(runs))
            try:
                for one in runs:
                    self.compare(server, devices['devices'], one)
                    compared += 1
            finally:
                server.close()
                os.unlink(server.path)
        print(f'{compared} runs of {golden["version"]} compared', flush=True)
        self.assertGreater(compared, 100)

    def compare(self, server, devices, theirs):
        args = theirs['args']
        ours = run(server.path, *args)
        where = f'{devices}: {" ".join(args)}'
        # It ends with 0 where a queue has no statistics; its later versions do not.
        vstats = 'vstats' in args and 'answers' in theirs['stderr']
        self.assertEqual(ours.returncode, 1 if vstats else theirs['status'], where)
        if args[-2:] == ['a', 'b']:
            # It takes no notice of one word too many.
            self.assertIn('Unknown option "b"', ours.stderr)
            return
        help_of = re.search(r'^Usage: vdpa', theirs['stderr'], re.M)
        if help_of:
            # Help is our own: iproute2's has verbs fewer, and goes to stderr.
            self.assertIn('Usage: vdpactl', ours.stdout + ours.stderr, where)
            return
        self.assertEqual(ours.stdout, theirs['stdout'], where)
        answer = re.search('^kernel answers: (.*)', theirs['stderr'], re.M)
        if answer:
            self.assertIn(f'uvdpa answers: {answer.group(1)}: ', ours.stderr, where)
        else:
            self.assertEqual(ours.stderr, theirs['stderr'], where)

    def test_what_the_kernel_has_no_devices_for(self):
        """By the rules that its output has shown."""
        self.serve({
            'mgmtdev.show': {'mgmtdev': {
                'gpu': {'supported_classes': ['gpu'], 'max_supported_vqs': 2, 'dev_features': ['EDID', 32]},
                'none': {'supported_classes': [], 'max_supported_vqs': 0, 'dev_features': []}}},
            'dev.show': {'dev': {
                'gpu0': {'mgmtdev': None, 'type': 'gpu', 'vendor_id': 1, 'max_vqs': 2, 'max_vq_size': 64,
                         'state': 'idle'},
                'net9': {'mgmtdev': 'sim_net', 'state': 'adding'}}},
            'dev.vstats': {'vstats': {'net0': {'queue_type': 'control_vq', 'received_desc': 7,
                                               'completed_desc': 18446744073709}}}})
        self.assertEqual(self.ok('-j', 'mgmtdev', 'show'),
                         '{"mgmtdev":{"gpu":{"supported_classes":["< unknown class >"],'
                         '"max_supported_vqs":2,"dev_features":["EDID","VERSION_1"]},'
                         '"none":{"supported_classes":[],"max_supported_vqs":0,"dev_features":[]}}}\n')
        self.assertEqual(self.ok('-jp', 'mgmtdev', 'show', 'x').splitlines()[-4:-2],
                         ['            "dev_features": [ ]', '        }'])
        # One that is being made is not there yet.
        self.assertEqual(self.ok('dev', 'show'), 'gpu0: type <unknown type> mgmtdev  vendor_id 1 '
                                                 'max_vqs 2 max_vq_size 64\n')
        self.assertEqual(self.ok('dev', 'vstats', 'show', 'net0', 'qidx', '2'),
                         'net0: queue_type control_vq received_desc 7 completed_desc 18446744073709 \n')
        self.assertEqual(self.server.requests[-1], ('dev.vstats', {'name': 'net0', 'qidx': 2}))


class Words(Test):
    """What of the command line goes to the daemon."""

    def asked(self, *args):
        self.server.requests.clear()
        self.ok(*args)
        return self.server.requests[0]

    def test_changes(self):
        self.serve({'dev.add': {}, 'dev.del': {}, 'dev.set': {}})
        add = [
            ('name net0 mgmtdev sim_net', 'name net0 mgmtdev sim_net'),
            ('mgmtdev sim_net name net0', 'mgmtdev sim_net name net0'),
            ('n net0 m sim_net', 'name net0 mgmtdev sim_net'),
            ('na a mg b max 2 mac 52:54:00:00:00:01 mtu 1400',
             'name a mgmtdev b max_vqp 2 mac 52:54:00:00:00:01 mtu 1400'),
            # Hexadecimal there, with and without 0x.
            ('name a mgmtdev b device_features 300020', 'name a mgmtdev b device_features 0x300020'),
            ('name a mgmtdev b device_features 0x30', 'name a mgmtdev b device_features 0x30'),
            # From a word of ours on nothing is touched.
            ('name a mgmtdev b backend echo n 1', 'name a mgmtdev b backend echo n 1'),
            ('backend echo name a', 'backend echo name a'),
        ]
        for line, words in add:
            self.assertEqual(self.asked('dev', 'add', *line.split()), ('dev.add', {'words': words}))
        self.assertEqual(self.asked('dev', 'add', 'name', 'a', 'mgmtdev', 'b', 'socket', '/a b', 'vm', ''),
                         ('dev.add', {'words': 'name a mgmtdev b socket "/a b" vm ""'}))
        self.assertEqual(self.asked('d', 'd', 'net0'), ('dev.del', {'name': 'net0'}))
        for line in 'set net0 link down', 'se net0 link down', 'set name net0 link down':
            self.assertEqual(self.asked('dev', *line.split()),
                             ('dev.set', {'name': 'net0', 'words': 'link down'}))
        self.assertEqual(self.asked('dev', 'set', 'name', 'name', 'link', 'up'),
                         ('dev.set', {'name': 'name', 'words': 'link up'}))
        # iproute2 ends its JSON with a line also where there is none.
        self.assertEqual(self.ok('-j', 'dev', 'del', 'net0'), '\n')

    def test_changes_refused_here(self):
        self.serve({'dev.add': {}, 'dev.del': {}, 'dev.set': {}})
        for line, text in (
                ('add', 'management device handle not set.'), ('add mgmtdev x', 'device name is not set.'),
                ('add name x', 'management device handle not set.'), ('add name', 'value is missing'),
                ('add name a mgmtdev b mac', 'mac: its value is missing'),
                ('add name a mgmtdev b x "', 'quotation mark'), ('del', 'String parameter expected'),
                ('del a b', 'Unknown option "b"'), ('set', 'Usage'), ('set net0', 'Usage'),
                ('set name net0', 'Usage'), ('set net0 x a"b', 'quotation mark'),
                ('vstats show', 'Usage'), ('vstats show a', 'queue index is not set.'),
                ('vstats show a b 1', 'Unknown option "b"'), ('vstats show a qidx -1', 'qidx'),
                ('vstats show a qidx 65536', 'qidx'), ('vstats show a qidx', 'Usage'),
                ('vsta show a qidx 1', 'Command "vsta" not found'),
                ('show a b', 'Unknown option "b"'), ('config show a b', 'Unknown option "b"'),
                ('info a b', 'Unknown option "b"'), ('stats a b', 'Unknown option "b"'),
                ('queues a b', 'Unknown option "b"'), ('', 'Command "" not found')):
            words = line.split(' ')
            # getopt takes -1 for an option.
            self.refused('--', 'dev', *words, text=text)
        self.assertEqual(self.server.requests, [])

    def test_objects_and_abbreviations(self):
        self.serve({'dev.show': {'dev': {}}, 'mgmtdev.show': {'mgmtdev': {}}, 'dev.stats': {'stats': {}},
                    'dev.config': {'config': {}}, 'version': {'program': 'p', 'version': '1'},
                    'methods': {'methods': []}})
        for line, method in (
                ('dev', 'dev.show'), ('d s', 'dev.show'), ('dev list', 'dev.show'), ('dev l', 'dev.show'),
                ('m s', 'mgmtdev.show'), ('mgmt list', 'mgmtdev.show'), ('dev config', 'dev.config'),
                ('d c s', 'dev.config'), ('dev st', 'dev.stats'), ('dev q', 'dev.stats'),
                ('dev i', 'dev.show'), ('v', 'version'), ('meth', 'methods')):
            self.assertEqual(self.asked(*line.split())[0], method, line)
        for line, text in (('x', 'Object "x" not found'), ('dev x', 'Command "x" not found'),
                           ('mgmtdev add', 'Command "add" not found'), ('reload x', 'Unknown option "x"'),
                           ('version x', 'Unknown option "x"'), ('methods x', 'Unknown option "x"'),
                           ('metrics x', 'Unknown option "x"'), ('save a b', 'Unknown option "b"'),
                           ('-x', 'Unknown option.'), ('-n 0 top', '-n'), ('-d 0 top', '-d'),
                           ('-d x top', '-d'), ('-n 1 dev', '-n is for'), ('-d 1 monitor', '-d is for'),
                           ('-o f dev', '-o is for'), ('-j top', 'top has no JSON'), ('call', 'Usage'),
                           ('call a {} b', 'Usage'), ('call a [1]', 'no JSON object'),
                           ('call a {', 'no JSON object')):
            self.refused(*line.split(), text=text)

    def test_an_option_without_its_value_is_one_line(self):
        for option in ('--timeout', '--control', '--socket', '--name', '--count', '--delay', '--output', '-S', '-n', '-d', '-o'):
            done = run('/nonexistent', 'upgrade', option)
            self.assertEqual((done.returncode, done.stdout), (1, ''), option)
            self.assertRegex(done.stderr, rf"^[^\n]*'?{option.lstrip('-')}'?[^\n]*\n$")
        self.assertRegex(run('/nonexistent', 'upgrade', '--force=1').stderr, r"^[^\n]*'--force'[^\n]*\n$")

    def test_help_of_every_object(self):
        for words in ((), ('dev',), ('mgmtdev',), ('dev', 'config'), ('dev', 'vstats'), ('dev', 'add'),
                      ('monitor',), ('top',), ('metrics',), ('reload',), ('save',), ('version',),
                      ('methods',), ('call',), ('dev', 'set'), ('dev', 'info')):
            for more in (['--help'], ['-h']) + ((['help'],) if words in ((), ('dev',)) else ()):
                done = run('/nonexistent', *words, *more)
                self.assertEqual((done.returncode, done.stderr), (0, ''), words)
                self.assertTrue(done.stdout.startswith('Usage: vdpactl'), done.stdout)
                for line in done.stdout.splitlines():
                    self.assertLessEqual(len(line), 80)
        text = run('/nonexistent', '--help').stdout
        for words in 'dev vstats show', 'dev set', 'top', 'call METHOD':
            self.assertIn('vdpactl ' + words, text)
        self.assertRegex(run('/nonexistent', '-V').stdout, r'^vdpactl utility, uvdpa-\d+\.\d+\.\d+\n$')

    def test_it_starts_fast(self):
        """No EAL: the best of several, as the machine has other things to do."""
        self.serve({'dev.show': {'dev': {}}})
        times = []
        for _ in range(10):
            begin = time.monotonic()
            self.ok('dev', 'show')
            times.append(time.monotonic() - begin)
        print(f'vdpactl dev show: {min(times) * 1000:.1f} ms', flush=True)
        self.assertLess(min(times), 0.1)
        linked = subprocess.run(['ldd', VDPACTL], capture_output=True, text=True).stdout
        self.assertNotIn('librte_', linked)


class Errors(Test):
    def test_answers(self):
        """The daemon's text, behind the words of its errno: one line, exit code 1."""
        def refuse(code, message, errno=None):
            def answer(params):
                raise Refused(code, message, errno)
            return answer

        self.serve({'dev.add': refuse(-32006, "unknown word 'x': allowed are a, b", 'EINVAL'),
                    'dev.del': refuse(-32004, 'device is busy', 'EBUSY'),
                    'dev.set': refuse(-32005, 'there is no link', 'EOPNOTSUPP'),
                    'dev.show': refuse(-32001, 'permission denied', 'EACCES'),
                    'dev.stats': refuse(-32603, 'internal'),
                    'config.reload': refuse(-32006, '/etc/uvdpa.conf:3: no', 'EINVAL'),
                    'mgmtdev.show': refuse(-32009, 'bell \x07\x1b[31m here', 'E?')})
        self.one_line('dev', 'add', 'name', 'a', 'mgmtdev', 'b', 'x',
                      text="uvdpa answers: Invalid argument: unknown word 'x': allowed are a, b\n")
        self.one_line('dev', 'del', 'a', text='uvdpa answers: Device or resource busy: device is busy')
        self.one_line('dev', 'set', 'a', 'link', 'up',
                      text='uvdpa answers: Operation not supported: there is no link')
        self.one_line('dev', 'info', text='uvdpa answers: Permission denied: permission denied')
        self.one_line('dev', 'stats', text='uvdpa answers: error -32603: internal')
        self.one_line('reload', text='uvdpa answers: Invalid argument: /etc/uvdpa.conf:3: no')
        self.one_line('call', 'nothing', text="uvdpa answers: error -32601: method 'nothing'")
        # Nothing of the daemon's can drive a terminal.
        self.one_line('mgmtdev', 'show', text='error -32009: bell ??[31m here')
        # As iproute2: what was begun is ended.
        self.refused('-j', 'dev', 'show', text='Permission denied', stdout='{"dev":{}}\n')

    def test_no_daemon(self):
        path = os.path.join(self.folder, 'none')
        for args in ('dev', 'show'), ('-j', 'mgmtdev', 'show'), ('monitor',), ('top',), ('metrics',):
            done = run(path, *args)
            self.assertEqual((done.returncode, done.stdout), (1, ''))
            self.assertEqual(done.stderr, f'Failed to connect to {path}: No such file or directory: '
                                          'no daemon listens there\n')
        self.serve({}).close()
        self.assertEqual(run(self.server.path, 'dev').stderr, f'Failed to connect to {self.server.path}: '
                         'Connection refused: no daemon listens there\n')
        done = run('x' * 200, 'dev')
        self.assertIn('too long', done.stderr)

    def test_default_path(self):
        """A user's, with and without a name; a name that is none is refused."""
        setpriv = ['setpriv', '--reuid=65534', '--clear-groups'] if os.getuid() == 0 else []
        # Where another user may go.
        os.chmod(self.folder, 0o755)
        program = shutil.copy(shutil.which(VDPACTL), self.folder)

        def error(*args, **env):
            done = subprocess.run([*setpriv, program, *args, 'dev'], capture_output=True, text=True,
                                  env={'PATH': os.environ['PATH'], **env}, timeout=harness.TIMEOUT)
            self.assertEqual(done.returncode, 1)
            return done.stderr

        self.assertIn('/nowhere/uvdpa/control.sock: ', error(XDG_RUNTIME_DIR='/nowhere'))
        self.assertIn('/nowhere/uvdpa/vm1/control.sock: ', error('--name', 'vm1', XDG_RUNTIME_DIR='/nowhere'))
        self.assertIn('XDG_RUNTIME_DIR', error())
        self.assertIn("--name '../x'", error('--name', '../x', XDG_RUNTIME_DIR='/nowhere'))
        self.assertIn('too long', error(XDG_RUNTIME_DIR='/' + 'x' * 100))
        for option in '-S', '--socket', '--control':
            self.assertIn('/nowhere/c.sock: ', error(option, '/nowhere/c.sock'))
        self.serve({})
        os.chmod(self.server.path, 0)
        self.assertIn("Permission denied: root and the daemon's --control-group may connect\n",
                      error('-S', self.server.path))

    def test_daemon_that_takes_no_connections(self):
        path = os.path.join(self.folder, 'full')
        with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as waiting:
            listener.bind(path)
            listener.listen(0)
            with self.assertRaises(BlockingIOError):
                while True:
                    client = waiting.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)
                    client.connect(path)
            begin = time.monotonic()
            done = run(path, 'dev')
            self.assertLess(time.monotonic() - begin, 30)
            # A process that was stopped meanwhile goes on waiting.
            with subprocess.Popen([VDPACTL, '-S', path, 'dev'], stderr=subprocess.PIPE, text=True) as stopped:
                for sent in signal.SIGSTOP, signal.SIGCONT:
                    time.sleep(0.5)
                    stopped.send_signal(sent)
                _, said = stopped.communicate(timeout=harness.TIMEOUT)
        self.assertEqual((done.returncode, done.stderr),
                         (1, f'Failed to connect to {path}: Connection timed out\n'))
        self.assertEqual((stopped.returncode, said), (done.returncode, done.stderr))

    def test_answers_that_are_none(self):
        answers = {b'nonsense\n': 'no JSON object', b'[1]\n': 'no JSON object', b'': 'closed it',
                   b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"too long"}}\n':
                       'error -32600: too long',
                   b'{"jsonrpc":"2.0","id":1,"error":{"code":"x"}}\n': 'no message'}

        def answer(params):
            if not what:
                self.server.hang_up()
            return what

        self.serve({'dev.stats': answer})
        for what, text in answers.items():
            self.one_line('dev', 'stats', text=text)
        # What is of another request is passed over; members of another type are no reason to fall.
        what = b'{"jsonrpc":"2.0","id":9,"result":1}\n{"jsonrpc":"2.0","id":1,"result":{"stats":[3]}}\n'
        self.assertEqual(self.ok('dev', 'stats'), '')
        what = b'{"id":1,"result":{"stats":{"a":{"device":[1],"queues":{"x":1}},"b":null}}}\n'
        self.assertEqual(self.ok('dev', 'stats'), 'a:\nb:\n')

    def test_answer_in_pieces_and_a_large_one(self):
        def slow(params):
            return json.dumps({'id': 1, 'result': {'dev': {
                f'net{i}': {'type': 'network', 'mgmtdev': 'sim_net', 'text': 'x' * 2000}
                for i in range(2000)}}}).encode() + b'\n'

        self.serve({'dev.show': slow})
        self.assertEqual(len(self.ok('dev', 'show').splitlines()), 2000)

    def test_output_that_cannot_be_written(self):
        self.serve({'dev.show': {'dev': {'a': {'type': 'network', 'mgmtdev': 'm'}}}})
        with open('/dev/full', 'w') as full:
            done = subprocess.run([VDPACTL, '-S', self.server.path, 'dev', 'show'], stdout=full,
                                  stderr=subprocess.PIPE, text=True, timeout=harness.TIMEOUT)
        self.assertEqual((done.returncode, done.stderr),
                         (1, 'vdpactl: cannot write: No space left on device\n'))


class Daemon(Test):
    """The verbs about the daemon."""

    def test_reload(self):
        answer = {'added': ['a', 'b'], 'removed': [], 'changed': ['c'], 'kept': 3}
        self.serve({'config.reload': lambda params: answer})
        self.assertEqual(self.ok('reload'), 'added: a b\nchanged: c\nunchanged: 3\n')
        self.assertEqual(json.loads(self.ok('-j', 'reload')), answer)
        answer['failed'] = [{'name': 'd', 'error': 'no\n'}]
        answer['next_start'] = ['log-level']
        self.refused('reload', text='uvdpa answers: d: no?\n',
                     stdout='added: a b\nchanged: c\nunchanged: 3\nfrom the next start on: log-level\n')

    def test_save(self):
        self.serve({'config.save': {'text': 'name a mgmtdev b\n'}})
        self.assertEqual(self.ok('save'), 'name a mgmtdev b\n')
        path = os.path.join(self.folder, 'conf')
        self.assertEqual(self.ok('save', path), '')
        self.assertEqual(pathlib.Path(path).read_text(), 'name a mgmtdev b\n')
        self.refused('save', '/proc/nowhere/x', text='cannot write')

    def test_version_methods_call_words(self):
        self.serve({'version': {'program': 'vdpa-app', 'version': '0.1.0', 'protocol': 1, 'pid': 7},
                    'methods': {'methods': [{'name': 'dev.add', 'help': 'make', 'changes': True},
                                            {'name': 'dev.show', 'help': 'show', 'changes': False}]},
                    'echo': lambda params: params, 'words.help': {'text': 'Words\n'}})
        self.assertRegex(self.ok('version'), r'^vdpactl \d.*\nvdpa-app 0\.1\.0, protocol 1, pid 7\n$')
        self.assertEqual(self.ok('methods'), 'dev.add              changes  make\n'
                                             'dev.show             reads    show\n')
        self.assertEqual(self.ok('call', 'echo', '{"a":[1,true,null,1.5,"ü"],"b":{}}'),
                         '{"a":[1,true,null,1.5,"ü"],"b":{}}\n')
        self.assertEqual(self.ok('-jp', 'call', 'echo', '{"a":[{"b":1},{}]}'),
                         '{\n    "a": [ {\n            "b": 1\n        },{} ]\n}\n')
        self.assertEqual(self.ok('dev', 'add', 'help'), 'Words\n')
        self.assertEqual(self.ok('dev', 'set', 'help'),
                         'link up|down: network devices\n'
                         'resize: block devices, whose file has another size now\n')

    def test_words_of_dev_set(self):
        text = ('Words of every device:\n    name NAME\n        its name\n\n'
                'Management device sim_net: a network device\n    mtu MTU\n        of packets\n'
                '  While it exists (dev set):\n    link {up|down}\n        the link\n\n'
                'Management device vduse: the kernel\n    vqs N\n        virtqueues\n')
        self.serve({'words.help': {'text': text}})
        self.assertEqual(self.ok('dev', 'set', 'help'), 'Management device sim_net: a network device\n'
                                                        '    link {up|down}\n        the link\n')
        self.assertEqual(json.loads(self.ok('-j', 'dev', 'set', 'help')), {'text': text})
        self.assertIn('link up|down', run('/nonexistent', 'dev', 'set', 'help').stdout)


class Escapes(Test):
    """Nothing that a daemon sends can drive a terminal: control characters, C1's among them, end as a
    '?', in JSON as an escape."""

    BAD = 'grün\x1b]0;x\x07\x7f\x9b31m\r\t'

    def setUp(self):
        super().setUp()
        bad = self.BAD
        queue = {'queue_type': bad, 'path': bad, 'packets': 1, 'ring_size': bad, bad: 7}
        self.devices = {bad: {'type': bad, 'mgmtdev': bad, 'vendor_id': bad, 'state': bad, 'driver': bad,
                              bad: [bad, {bad: bad}], 'frontend': None}}
        self.stats = {bad: {'device': {bad: 3, 'state': bad}, 'queues': [queue, queue]}}
        self.text = f'a {bad} line\nand a second one\n'
        words = f'Management device {bad}:\n  While it exists (dev set):\n    link {bad}\n        {bad}\n'
        self.serve({
            'dev.show': {'dev': self.devices}, 'dev.stats': {'stats': self.stats},
            'dev.config': {'config': {bad: {'mac': bad, 'negotiated_features': [bad]}}},
            'dev.vstats': {'vstats': {bad: {bad: bad}}},
            'mgmtdev.show': {'mgmtdev': {bad: {'supported_classes': [bad], 'dev_features': [bad]}}},
            'words.help': {'text': words}, 'config.save': {'text': self.text},
            'config.reload': {'added': [bad], 'removed': [], 'changed': [], 'kept': 0,
                              'failed': [{'name': bad, 'error': bad}]},
            'version': {'program': bad, 'version': bad, bad: bad},
            'methods': {'methods': [{'name': bad, 'help': bad}]},
            'events.subscribe': lambda params: b'{"id":1,"result":{}}\n' + json.dumps(
                {'method': 'event', 'params': {'name': bad, 'event': bad, bad: bad}}).encode() + b'\n'})

    def safe(self, *args):
        """What is printed, as bytes: text=True would make '\\r' a line's end."""
        done = subprocess.run([VDPACTL, '-S', self.server.path, *args], stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=harness.TIMEOUT)
        shown = (done.stdout + done.stderr).decode()
        found = [c for c in shown if unicodedata.category(c) == 'Cc' and c not in '\n\t']
        self.assertEqual(found, [], (args, shown))
        return done.stdout.decode() + done.stderr.decode()

    def test_text(self):
        for verb in (('dev', 'show'), ('-s', 'dev', 'show'), ('dev', 'config', 'show'), ('dev', 'info'),
                     ('dev', 'stats'), ('dev', 'queues'), ('metrics',), ('monitor', '-n', '1'),
                     ('mgmtdev', 'show'), ('dev', 'vstats', 'show', 'a', 'qidx', '0'), ('version',),
                     ('methods',), ('reload',), ('save',), ('dev', 'add', 'help'), ('dev', 'set', 'help')):
            text = self.safe(*verb)
            self.assertIn('?', text, verb)
            if verb[0] != 'mgmtdev':
                self.assertIn('grün?]0;x???31m?', text, verb)
        self.assertEqual(len(self.safe('save').splitlines()), 2)
        path = os.path.join(self.folder, 'conf')
        self.assertEqual(self.safe('save', path), '')
        self.assertEqual(pathlib.Path(path).read_bytes(), self.text.encode())

    def test_top(self):
        lines = self.safe('top', '-d', '0.1').splitlines()
        self.assertIn('1 device: 1 grün?]0;x???31m??', lines[0])
        self.assertEqual(len(lines), 2 + 3)
        for line in lines[2:]:
            self.assertEqual(len(line), len(lines[1]))
        self.assertTrue(lines[2].startswith('grün?]0;x???31m~'), lines[2])
        self.assertIn(' 0 grün~ grün?]0;x?~ ', lines[3])

        def refuse(params):
            raise Refused(-32603, self.BAD)

        self.server.methods['dev.stats'] = refuse
        self.assertIn(': grün?]0;x???31m??\n', self.safe('top'))

    def test_json(self):
        for flags in ('-j',), ('-j', '-p'):
            shown = json.loads(self.safe(*flags, 'dev', 'stats'))
            self.assertEqual(shown, {'stats': self.stats})
            self.assertEqual(json.loads(self.safe(*flags, 'dev', 'info')), {'dev': self.devices})
            self.assertEqual(json.loads(self.safe(*flags, 'save')), {'text': self.text})
        self.assertIn('\\u001b]0;x\\u0007\\u007f\\u009b31m\\r', self.safe('-j', 'monitor', '-n', '1'))
        self.assertIn('\\u009b', self.safe('call', 'version'))


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main()
