# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""The control socket of a real daemon: every method and each error with its schema, who may do what,
and clients that are malformed, oversized, slow or silent."""

import json
import os
import re
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import harness
import vhost_user_client as vhu

NET = 'name net0 mgmtdev sim_net max_vqp 2 mac 52:54:00:00:00:01 mtu 1500 socket {dir}/net0.sock'
BLK = 'name blk0 mgmtdev sim_blk backend ram 1M'
EVENTS = ['device.added', 'device.removed', 'device.connected', 'device.disconnected',
          'device.started', 'device.stopped', 'device.failed', 'device.link', 'device.migration',
          'config.reloaded']
# Nobody of this machine has these.
STRANGER, MEMBER_GROUP, READER_GROUP = 54321, 54322, 54323

CLIENT = '''
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(30)
try:
    s.connect(sys.argv[1])
except OSError as error:
    sys.exit(f"connect: {error.errno}")
for line in sys.argv[2:]:
    try:
        s.sendall(line.encode() + b"\\n")
    except BrokenPipeError:
        pass
try:
    s.shutdown(socket.SHUT_WR)
except OSError:
    pass
text = b""
while True:
    try:
        data = s.recv(65536)
    except ConnectionResetError:
        break
    if not data:
        break
    text += data
sys.stdout.write(text.decode())
'''


def request(method, params=None, id=1):
    line = {'jsonrpc': '2.0', 'id': id, 'method': method}
    if params is not None:
        line['params'] = params
    return json.dumps(line)


class Checked:
    """A client whose calls are checked by the schemas that the daemon itself gives."""

    def __init__(self, client):
        self.client = client
        try:
            import jsonschema
        except ImportError:
            harness.skip_unless(False, 'python3-jsonschema is not installed')
        self.schemas = {method['name']: method for method in client.call('methods')['methods']}
        self.called = set()
        self.validate = jsonschema.validate
        for method in self.schemas.values():
            for which in 'params', 'result':
                jsonschema.Draft7Validator.check_schema(method[which])

    def call(self, method, **params):
        self.validate(params, self.schemas[method]['params'])
        result = self.client.call(method, **params)
        self.validate(result, self.schemas[method]['result'])
        self.called.add(method)
        return result


class Methods(unittest.TestCase):
    def setUp(self):
        self.daemon = self.enterContext(harness.Daemon([NET, BLK]))
        self.client = self.enterContext(self.daemon.control())

    def test_every_method_does_what_its_schema_says(self):
        c = Checked(self.client)
        version = c.call('version')
        self.assertEqual((version['program'], version['protocol'], version['pid']),
                         ('vdpa-app', 1, self.daemon.pid))
        mgmtdev = c.call('mgmtdev.show')['mgmtdev']
        self.assertEqual(c.call('mgmtdev.show', name='sim_net')['mgmtdev'],
                         {'sim_net': mgmtdev['sim_net']})
        self.assertEqual(mgmtdev['sim_net']['supported_classes'], ['net'])
        self.assertIn('MAC', mgmtdev['sim_net']['dev_features'])
        self.assertEqual(c.call('dev.list'), {'names': ['blk0', 'net0'], 'more': False})
        self.assertEqual(c.call('dev.list', limit=1), {'names': ['blk0'], 'more': True})
        self.assertEqual(c.call('dev.list', after='blk0', limit=1), {'names': ['net0'], 'more': False})
        self.assertEqual(c.call('dev.list', after='zzz'), {'names': [], 'more': False})

        every = c.call('dev.show')['dev']
        self.assertEqual(sorted(every), ['blk0', 'net0'])
        net = c.call('dev.show', name='net0')['dev']['net0']
        self.assertEqual((net['type'], net['mgmtdev'], net['max_vqs'], net['state']),
                         ('network', 'sim_net', 5, 'idle'))
        self.assertIn('RING_PACKED', net['device_features_names'])
        self.assertEqual(net['negotiated_features_names'], [])
        self.assertEqual(net['migration'], {'mode': 'auto', 'logging': False, 'log': 'none'})
        config = {'mac': '52:54:00:00:00:01', 'link ': 'up', 'link_announce ': False,
                  'max_vq_pairs': 2, 'mtu': 1500}
        self.assertEqual(c.call('dev.config')['config'], {'net0': config, 'blk0': {}})
        self.assertEqual(list(c.call('dev.config', name='net0')['config']['net0']), list(config))
        with vhu.NetDriver(self.daemon.socket('net0')) as driver:
            driver.start()
            driver.exchange()
            stats = c.call('dev.vstats', name='net0', qidx=1)['vstats']['net0']
            self.assertEqual(stats, {'queue_type': 'tx', 'received_desc': 1, 'completed_desc': 1})
            self.assertEqual(c.call('dev.vstats', name='net0', qidx=0)['vstats']['net0']['queue_type'],
                             'rx')
            self.assertIn('VERSION_1',
                          c.call('dev.config', name='net0')['config']['net0']['negotiated_features'])
            self.assertIn('VERSION_1', c.call('dev.show', name='net0')['dev']['net0'][
                'negotiated_features_names'])
        self.assertEqual(sorted(c.call('dev.stats')['stats']), ['blk0', 'net0'])
        self.assertEqual(len(c.call('dev.stats', name='net0')['stats']['net0']['queues']), 5)
        self.assertIn('sim_blk', c.call('words.help')['text'])
        self.assertEqual(c.call('events.subscribe')['events'], EVENTS)
        self.assertEqual(c.call('events.subscribe', events=['device.link', 'device.added'])['events'],
                         ['device.added', 'device.link'])
        self.assertEqual(c.call('dev.add', words='name net1 mgmtdev sim_net'), {})
        self.assertEqual(c.call('dev.set', name='net1', words='link down'), {})
        self.assertEqual(self.client.show('net1')['link'], 'down')
        self.assertEqual(c.call('dev.del', name='net1'), {})
        self.assertEqual(c.call('events.unsubscribe'), {})
        self.assertEqual([event['event'] for event in self.client.events],
                         ['device.added', 'device.link'])
        # Those of the daemon's own have tests of theirs.
        library = {name for name in c.schemas if not name.startswith(('config.', 'daemon.'))}
        self.assertEqual(c.called | {'methods'}, library)
        changes = {name for name in library if c.schemas[name]['changes']}
        self.assertEqual(changes, {'dev.add', 'dev.del', 'dev.set'})

    def test_every_error_has_its_code_and_the_text_of_the_command_line(self):
        os.mkdir(os.path.join(self.daemon.dir, 'taken'))
        for method, params, code, errno, part in (
                ('dev.frobnicate', {}, -32601, 'ENOSYS', "'dev.frobnicate'"),
                ('version', {'a': 1}, -32602, 'EINVAL', "member 'a' is not known: there is none"),
                ('mgmtdev.show', {'name': 'x'}, -32002, 'ENODEV', "mgmtdev 'x'"),
                ('mgmtdev.show', {'name': ''}, -32602, 'EINVAL', 'params.name: 0 characters'),
                ('dev.list', {'limit': 0}, -32602, 'EINVAL', 'params.limit: 0, allowed are 1 to 1000'),
                ('dev.list', {'limit': '1'}, -32602, 'EINVAL', 'the type must be integer'),
                ('dev.show', {'name': 'x'}, -32002, 'ENODEV', "device 'x': there is none of that name"),
                ('dev.show', {'name': 'x' * 64}, -32602, 'EINVAL', '64 characters, allowed are 1 to 63'),
                ('dev.config', {'name': 'x'}, -32002, 'ENODEV', "device 'x'"),
                ('dev.vstats', {'name': 'x', 'qidx': 0}, -32002, 'ENODEV', "device 'x'"),
                ('dev.vstats', {'name': 'net0'}, -32602, 'EINVAL', "'qidx' is missing"),
                ('dev.vstats', {'name': 'net0', 'qidx': 0}, -32004, 'EAGAIN', 'not negotiated'),
                ('dev.vstats', {'name': 'net0', 'qidx': -1}, -32602, 'EINVAL', 'params.qidx'),
                ('dev.vstats', {'name': 'blk0', 'qidx': 0}, -32005, 'EOPNOTSUPP', 'blk0'),
                ('dev.stats', {'name': 'x'}, -32002, 'ENODEV', "device 'x'"),
                ('dev.add', {}, -32602, 'EINVAL', "'words' is missing"),
                ('dev.add', {'words': 'name net0 mgmtdev sim_net'}, -32003, 'EEXIST', "name 'net0'"),
                ('dev.add', {'words': f'name a mgmtdev sim_net socket {self.daemon.socket("net0")}'},
                 -32003, 'EEXIST', 'is in use by net0'),
                ('dev.add', {'words': f'name a mgmtdev sim_net socket {self.daemon.dir}/taken'},
                 -32003, 'EEXIST', 'no socket'),
                ('dev.add', {'words': 'name a mgmtdev sim_net socket /nowhere/a.sock'},
                 -32002, 'ENOENT', 'mkdir -p /nowhere'),
                ('dev.add', {'words': 'name a mgmtdev x'}, -32002, 'ENODEV', "mgmtdev 'x'"),
                ('dev.add', {'words': 'name a mgmtdev sim_net max_vqp 100000'}, -32006, 'EINVAL',
                 'max_vqp'),
                ('dev.add', {'words': 'name a mgmtdev sim_net frob 1'}, -32006, 'EINVAL', 'frob'),
                ('dev.add', {'words': ''}, -32006, 'EINVAL', 'name'),
                ('dev.del', {'name': 'x'}, -32002, 'ENODEV', "device 'x'"),
                ('dev.set', {'name': 'x', 'words': 'link up'}, -32002, 'ENODEV', "device 'x'"),
                ('dev.set', {'name': 'net0 link down', 'words': ''}, -32002, 'ENODEV', 'net0 link'),
                ('dev.set', {'name': 'net0', 'words': 'link sideways'}, -32006, 'EINVAL', 'link'),
                ('dev.set', {'name': 'net0', 'words': ''}, -32006, 'EINVAL', 'no attribute'),
                ('words.help', {'x': None}, -32602, 'EINVAL', "'x'"),
                ('events.subscribe', {'events': ['device.x']}, -32602, 'EINVAL',
                 "params.events[0] 'device.x': allowed are device.added"),
                ('events.subscribe', {'events': 'device.added'}, -32602, 'EINVAL', 'array'),
                ('events.unsubscribe', {'a': 1}, -32602, 'EINVAL', "'a'"),
        ):
            with self.subTest(method=method, params=params):
                with self.assertRaises(harness.ControlError) as caught:
                    self.client.call(method, **params)
                error = caught.exception
                self.assertEqual((error.code, error.errno), (code, errno), error.message)
                self.assertIn(part, error.message)
        # Nothing of them is left.
        self.assertEqual(self.client.call('dev.list')['names'], ['blk0', 'net0'])

    def test_a_device_that_somebody_works_on_is_busy(self):
        """A device whose back end does not let go for a while, deleted twice."""
        answers = []
        words = f'name slow mgmtdev sim_blk backend ram 64M socket {self.daemon.socket("slow")}'
        for _ in range(30):
            self.client.add(words)
            barrier = threading.Barrier(2)

            def delete():
                with self.daemon.control() as client:
                    barrier.wait()
                    answers.append(client.request('dev.del', {'name': 'slow'}))

            threads = [threading.Thread(target=delete) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            codes = sorted(a['error']['code'] if 'error' in a else 0 for a in answers[-2:])
            self.assertEqual(codes[1], 0, answers[-2:])
            self.assertIn(codes[0], (-32004, -32002), answers[-2:])
            if codes[0] == -32004:
                self.assertIn('is being removed', str(answers[-2:]))

    def test_events_come_in_the_order_of_what_happens(self):
        with self.daemon.control() as watcher:
            watcher.call('events.subscribe')
            before = time.time()
            self.client.add(f'name net1 mgmtdev sim_net socket {self.daemon.socket("net1")}')
            self.assertEqual(watcher.event()['event'], 'device.added')
            with vhu.NetDriver(self.daemon.socket('net1')) as driver:
                driver.start()
                driver.exchange()
                self.assertEqual(watcher.event()['event'], 'device.connected')
                event = watcher.event(event='device.started')
                self.assertEqual((sorted(event), event['name']), (['event', 'name', 'time'], 'net1'))
                self.assertRegex(event['time'], r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$')
                self.client.set('net1', 'link down')
                self.assertEqual(watcher.event(event='device.link')['link'], 'down')
                self.client.set('net1', 'link down')
            self.assertEqual(watcher.event()['event'], 'device.stopped')
            self.assertEqual(watcher.event()['event'], 'device.disconnected')
            self.client.set('net1', 'link up')
            self.assertEqual(watcher.event()['link'], 'up')
            self.client.delete('net1')
            self.assertEqual(watcher.event()['event'], 'device.removed')
            self.assertLess(time.time() - before, harness.TIMEOUT)
            watcher.call('events.unsubscribe')
            self.client.add('name net1 mgmtdev sim_net')
            watcher.call('version')
            self.assertEqual(watcher.events, [])

    def test_a_device_that_cannot_be_made_causes_no_event(self):
        with self.daemon.control() as watcher:
            watcher.call('events.subscribe')
            with self.assertRaises(harness.ControlError):
                self.client.add('name a mgmtdev sim_net socket /nowhere/a.sock')
            watcher.call('version')
            self.assertEqual(watcher.events, [])


class Document(unittest.TestCase):
    """doc/control-protocol.md has each method with its schemas, as the daemons return them.
    UVDPA_WRITE=1 writes them there."""

    FILE = os.path.join(os.environ.get('UVDPA_SOURCE', '../..'), 'doc/control-protocol.md')

    @staticmethod
    def describe(method):
        changes = ' Changes something.' if method['changes'] else ''
        return (f"### {method['name']}\n\n{method['help'][0].upper() + method['help'][1:]}.{changes}\n\n"
                f"    params {json.dumps(method['params'])}\n"
                f"    result {json.dumps(method['result'])}\n")

    def section(self, text, name, methods):
        begin, end = f'<!-- {name}: begin -->\n', f'<!-- {name}: end -->'
        before, rest = text.split(begin)
        return f'{before}{begin}\n' + '\n'.join(map(self.describe, methods)) + '\n' + end + rest.split(end)[1]

    def test_has_every_method_error_and_event(self):
        with harness.Daemon([]) as app, harness.Daemon([], app=os.environ['UVDPA_MODEL']) as model:
            own = app.call('methods')['methods']
            models = [m for m in model.call('methods')['methods'] if m['name'].startswith('model.')]
        with open(self.FILE, encoding='utf-8') as file:
            text = file.read()
        new = self.section(self.section(text, 'methods', own), 'model', models)
        if os.environ.get('UVDPA_WRITE'):
            with open(self.FILE, 'w', encoding='utf-8') as file:
                file.write(new)
        self.assertEqual(text.splitlines(), new.splitlines())
        for event in EVENTS:
            self.assertIn(f'`{event}`', text)
        for code in (*range(-32009, -32000), -32700, *range(-32603, -32599)):
            self.assertIn(f'| {code} |', text)


class Clients(unittest.TestCase):
    """Of all kinds, beside one that goes on being served."""

    def setUp(self):
        self.daemon = self.enterContext(harness.Daemon([NET]))
        self.healthy = self.enterContext(self.daemon.control())

    def tearDown(self):
        self.assertEqual(self.healthy.call('dev.list')['names'], ['net0'])
        self.assertIsNone(self.daemon.process.poll())

    def test_malformed(self):
        for line, code in (
                (b'{', -32700), (b'\x00\xff\xfe', -32700), (b'"', -32700), (b'nul', -32700),
                (b'[' * 5000, -32700), (b'{"a":' * 5000, -32700), (b'1e999', -32700),
                (b'[]', -32600), (b'null', -32600), (b'{}', -32600),
                (request('version').replace('"2.0"', '"1.0"').encode(), -32600),
                (b'[' + request('version').encode() + b']', -32600)):
            with self.subTest(line=line[:20]), self.daemon.control() as client:
                client.send(line + b'\n')
                reply = client.line()
                self.assertEqual(reply['error']['code'], code, reply)
                self.assertEqual(reply['id'], 1 if b'"1.0"' in line else None)
                # The next line is the next request.
                client.call('version')

    def test_oversized(self):
        longest = request('dev.add', {'words': 'x'})
        longest = longest.replace('"x"', '"' + 'x' * (65536 - len(longest) + 1) + '"')
        self.assertEqual(len(longest), 65536)
        with self.daemon.control() as client:
            client.send(longest + '\n')
            self.assertEqual(client.line()['error']['code'], -32006)
            client.call('version')
            try:
                client.send(longest + ' \n')
                reply = client.line()
                self.assertEqual(reply['error']['code'], -32600)
                self.assertIn('65536 bytes', reply['error']['message'])
                self.assertIsNone(client.line())
            except ConnectionResetError:
                pass

    def test_slow_and_silent(self):
        """Half a request costs its connection after 10 s, silence costs nothing."""
        with self.daemon.control() as slow, self.daemon.control() as silent:
            start = time.monotonic()
            slow.send('{"jsonrpc"')
            slow.sock.settimeout(15)
            reply = slow.line()
            self.assertEqual(reply['error']['code'], -32600)
            self.assertIn('10000 ms', reply['error']['message'])
            self.assertIsNone(slow.line())
            self.assertGreater(time.monotonic() - start, 9.9)
            silent.call('version')

    def test_more_requests_than_are_read(self):
        """Requests beyond the rate are carried out later, none is lost."""
        n = harness.count(1500, 5000)
        with self.daemon.control() as client:
            start = time.monotonic()
            threading.Thread(target=client.send, args=(
                ''.join(request('version', id=i) + '\n' for i in range(n)),), daemon=True).start()
            for i in range(n):
                self.assertEqual(client.line()['id'], i)
            self.assertGreater(time.monotonic() - start, (n - 1000) / 1000 * 0.9)

    def test_many_connections(self):
        """Root's: 32 and 4, and then no more until one ends."""
        clients = [self.daemon.control() for _ in range(35)]
        try:
            for client in clients:
                client.call('version')
            with self.daemon.control() as refused:
                reply = refused.line()
                self.assertEqual((reply['id'], reply['error']['code']), (None, -32007))
                self.assertIn('32 connections', reply['error']['message'])
                self.assertIsNone(refused.line())
            clients.pop().close()

            def served():
                with self.daemon.control() as client:
                    return 'error' not in client.request('version')
            harness.wait_for(served, 'room for one more')
        finally:
            for client in clients:
                client.close()

    def test_ends_of_all_kinds_leave_nothing(self):
        with self.daemon.control() as client:
            client.call('version')
        before = harness.settled(self.daemon.pid)
        for i in range(harness.count(100, 2000)):
            client = self.daemon.control()
            try:
                client.send(('', '{"half', request('dev.show') + '\n', request('events.subscribe') + '\n',
                             request('version'), request('version') * 3 + '\n')[i % 6])
                if i % 4 == 0:
                    client.sock.shutdown(socket.SHUT_WR)
                    while client.line():
                        pass
            except (ConnectionError, TimeoutError):
                pass
            finally:
                client.close()
        harness.nothing_left(self.daemon.pid, before)


class Socket(unittest.TestCase):
    def start(self, *args, **kw):
        return self.enterContext(harness.Daemon([], args=list(args), **kw))

    def test_outlives_telemetry_and_waits_for_descriptors(self):
        """DPDK's telemetry thread ends for good when it is given no descriptor once."""
        daemon = self.start()
        daemon.add('name net0 mgmtdev sim_net')
        limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        highest = max(int(fd) for fd in os.listdir(f'/proc/{daemon.pid}/fd'))
        free = set(range(highest)) - {int(fd) for fd in os.listdir(f'/proc/{daemon.pid}/fd')}
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (min(free, default=highest + 1), limits[1]))
        try:
            path = os.path.join(daemon.runtime_dir(), 'dpdk_telemetry.v2')
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as telemetry:
                telemetry.connect(path)
                self.connect_in_vain(daemon)
                daemon.err.wait('control: connections wait: .*RLIMIT_NOFILE')
        finally:
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)
        self.assertEqual(daemon.call('dev.list')['names'], ['net0'])
        daemon.delete('net0')
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as telemetry:
            telemetry.settimeout(0.5)
            telemetry.connect(path)
            with self.assertRaises(TimeoutError):
                telemetry.recv(1024)

    def connect_in_vain(self, daemon):
        """A client that waits until there is a descriptor for it."""
        client = self.enterContext(daemon.control())
        client.sock.settimeout(0.5)
        client.send(request('version') + '\n')
        with self.assertRaises(TimeoutError):
            client.line()

    def test_is_the_users_alone(self):
        daemon = self.start()
        self.assertEqual(stat.S_IMODE(os.stat(daemon.control_path).st_mode), 0o600)

    def test_off_is_none(self):
        daemon = self.start('--control', 'off')
        self.assertFalse(os.path.exists(daemon.control_path))
        self.assertFalse([path for path in harness.fds(daemon.pid) if 'control' in path])

    def test_of_a_daemon_that_was_killed_is_replaced_and_a_live_one_is_not(self):
        first = harness.Daemon([]).start()
        self.addCleanup(first.cleanup)
        first.kill()
        self.assertTrue(os.path.exists(first.control_path))
        second = self.start('--control', first.control_path)
        with harness.Control(first.control_path) as client:
            self.assertEqual(client.call('version')['pid'], second.pid)
        third = harness.Daemon([], args=['--control', first.control_path])
        with self.assertRaises(AssertionError) as caught:
            third.start()
        self.assertIn('is in use by another process', str(caught.exception))
        self.assertEqual(third.process.returncode, 1)
        third.cleanup()
        with harness.Control(first.control_path) as client:
            client.call('version')

    def test_has_a_default_path_by_user_and_name(self):
        harness.skip_unless(os.getuid() == 0, 'needs root to become a user')
        with tempfile.TemporaryDirectory(prefix='uvdpa-test.') as folder:
            os.chown(folder, STRANGER, STRANGER)
            # The build may lie where only root can look.
            libs = subprocess.run(['ldd', harness.APP], capture_output=True, text=True, check=True)
            program = shutil.copy(harness.APP, folder)
            shutil.copy(re.search(r'(/\S*/libuvdpa\.so\S*)', libs.stdout).group(1), folder)
            user = ['env', f'LD_LIBRARY_PATH={folder}', 'setpriv', f'--reuid={STRANGER}',
                    f'--regid={STRANGER}', '--clear-groups']
            kw = {'control': False, 'user': user, 'app': program, 'folder': folder,
                  'eal': ['--no-huge', '-m', '64', '--no-shconf']}
            for args, path in (([], 'uvdpa/control.sock'), (['--name', 'blue'], 'uvdpa/blue/control.sock')):
                path = os.path.join(folder, path)
                with harness.Daemon([], args=args, **kw) as daemon:
                    with harness.Control(path) as client:
                        self.assertEqual(client.call('version')['pid'], daemon.pid)
                    self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
                self.assertFalse(os.path.exists(os.path.join(folder, 'uvdpa')))

    def test_of_the_default_path_that_another_daemon_has_is_done_without(self):
        harness.skip_unless(os.getuid() == 0, 'the default path of root is tried')
        with harness.Daemon([], control=False) as one, harness.Daemon([], control=False) as two:
            del one
            two.err.wait('no control socket, see --control: socket .* is in use by another process')
            self.assertEqual(len(two.err.lines), 1)

    def test_a_name_or_group_that_is_not_allowed_is_a_wrong_usage(self):
        for args, part in ((['--control-group', 'no-such-group'], "group 'no-such-group'"),
                           (['--control-read-group', 'no-such-group'], "group 'no-such-group'"),
                           (['--control', '/nowhere/c.sock'], 'mkdir -p /nowhere'),
                           (['--control', '/' + 'x' * 200], 'allowed are')):
            daemon = harness.Daemon([], args=args, control='--control' not in args)
            with self.assertRaises(AssertionError) as caught:
                daemon.start()
            self.assertIn(part, str(caught.exception))
            self.assertIn(daemon.process.returncode, (1, 2))
            daemon.cleanup()


class Rights(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        harness.skip_unless(os.getuid() == 0, 'needs root to be other users')
        cls.daemon = harness.Daemon([NET], args=['--control-group', str(MEMBER_GROUP),
                                                 '--control-read-group', str(READER_GROUP)]).start()
        # Others find the socket.
        os.chmod(cls.daemon.dir, 0o711)

    @classmethod
    def tearDownClass(cls):
        cls.daemon.__exit__(None, None, None)

    def ask(self, gid, groups, *lines):
        """What a user of these groups reads, parsed."""
        done = subprocess.run(
            ['setpriv', f'--reuid={STRANGER}', f'--regid={gid}',
             f'--groups={groups}' if groups else '--clear-groups', sys.executable, '-c', CLIENT,
             self.daemon.control_path, *lines], capture_output=True, text=True, timeout=harness.TIMEOUT)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    ADD = request('dev.add', {'words': 'name a mgmtdev sim_net'})
    DEL = request('dev.del', {'name': 'a'})

    def test_another_user_is_refused_and_hung_up(self):
        for groups in None, '0', '54999':
            replies = self.ask(STRANGER, groups, request('version'), self.ADD)
            self.assertEqual(len(replies), 1)
            self.assertEqual((replies[0]['id'], replies[0]['error']['code']), (None, -32001))
        self.assertEqual(self.daemon.call('dev.list')['names'], ['net0'])

    def test_a_member_of_the_group_may_do_everything(self):
        for gid, groups in (MEMBER_GROUP, None), (STRANGER, f'54999,{MEMBER_GROUP}'):
            replies = self.ask(gid, groups, request('dev.show'), self.ADD, self.DEL)
            self.assertEqual([reply.get('error') for reply in replies], [None] * 3)

    def test_a_reader_may_look_and_change_nothing(self):
        for gid, groups in (READER_GROUP, None), (STRANGER, f'54999,{READER_GROUP}'):
            replies = self.ask(gid, groups, request('dev.show'), self.ADD, self.DEL,
                               request('dev.set', {'name': 'net0', 'words': 'link down'}),
                               request('events.subscribe'), request('dev.stats'),
                               # Drivers would look at the parents that the text names.
                               request('config.check', {'text': 'name a mgmtdev sim_net'}))
            codes = [reply['error']['code'] if 'error' in reply else 0 for reply in replies]
            self.assertEqual(codes, [0, -32001, -32001, -32001, 0, 0, -32001])
            self.assertIn(f'user {STRANGER} may only look', replies[1]['error']['message'])
        self.assertEqual(self.daemon.call('dev.list')['names'], ['net0'])
        self.assertEqual(self.daemon.call('dev.show', name='net0')['dev']['net0']['link'], 'up')

    def test_the_socket_has_the_group_and_lets_readers_connect(self):
        st = os.stat(self.daemon.control_path)
        self.assertEqual((stat.S_IMODE(st.st_mode), st.st_gid), (0o666, MEMBER_GROUP))
        daemon = harness.Daemon([], args=['--control-group', str(MEMBER_GROUP)]).start()
        try:
            st = os.stat(daemon.control_path)
            self.assertEqual((stat.S_IMODE(st.st_mode), st.st_gid), (0o660, MEMBER_GROUP))
        finally:
            daemon.__exit__(None, None, None)


if __name__ == '__main__':
    unittest.main(verbosity=2)
