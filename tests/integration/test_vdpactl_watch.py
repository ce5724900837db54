# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""vdpactl's verbs that watch devices: info, stats, queues, metrics, monitor, and top where it is no
terminal. A made-up control socket shows them what there is."""

import json
import os
import pathlib
import resource
import subprocess
import threading
import time
import unittest

import harness
from control_server import named
from vdpactl_tool import VDPACTL, Test, run, samples

STATS = {
    'net0': {'device': {'state': 'running', 'memory_bytes': 1 << 28, 'start_us': 412, 'starts': 1,
                        'connections': None, 'busy_cycles': 77},
             'queues': [
                 {'queue_type': 'rx', 'path': 'direct', 'packets': 10, 'bytes': 640, 'kicks': None,
                  'interrupts': 7, 'ring_size': 256, 'ring_depth': 246, 'errors': 0,
                  'received_desc': 10, 'completed_desc': 10, 'drop_filtered': 3},
                 {'queue_type': 'tx', 'path': 'shadow (inflight)', 'packets': 11, 'bytes': 700, 'kicks': 4,
                  'interrupts': 0, 'ring_size': 256, 'ring_depth': None, 'errors': 0,
                  'received_desc': 11, 'completed_desc': 11, 'path_full': 2}]},
    'a"b\\': {'device': {'start_us': None}, 'queues': []},
}
DEVICES = {
    'net0': {'type': 'network', 'mgmtdev': 'sim_net', 'vendor_id': 6900, 'max_vqs': 2, 'max_vq_size': 256,
             'state': 'running', 'driver': 'sim_net', 'frontend': 'vhost-user', 'failure': 'a: b',
             'negotiated_features_names': ['MAC', 'MTU', 'VERSION_1'] * 8, 'dma': {'mappings': 2}},
    'a"b\\': {'type': 'gpu', 'mgmtdev': None, 'state': 'idle', 'frontend': None},
}


class Inspect(Test):
    def serve_devices(self):
        self.serve({'dev.stats': named('stats', STATS), 'dev.show': named('dev', DEVICES)})

    def test_stats(self):
        self.serve_devices()
        self.assertEqual(json.loads(self.ok('-j', 'dev', 'stats')), {'stats': STATS})
        text = self.ok('dev', 'stats', 'net0')
        self.assertEqual(text, '''\
net0:
  device state running memory_bytes 268435456 start_us 412 starts 1
      connections unknown busy_cycles 77
  queue 0 queue_type rx path direct packets 10 bytes 640 kicks unknown
      interrupts 7 ring_size 256 ring_depth 246 errors 0 received_desc 10
      completed_desc 10 drop_filtered 3
  queue 1 queue_type tx path shadow (inflight) packets 11 bytes 700 kicks 4
      interrupts 0 ring_size 256 ring_depth unknown errors 0 received_desc 11
      completed_desc 11 path_full 2
''')
        self.refused('dev', 'stats', 'x', text='No such device')
        for verb in 'stats', 'queues', 'info':
            self.assertEqual(self.ok('dev', verb, 'show', 'net0'), self.ok('dev', verb, 'net0'))
            self.assertEqual(self.ok('dev', verb, 'show'), self.ok('dev', verb))

    def test_show_with_statistics(self):
        self.serve_devices()
        text = self.ok('-s', 'dev', 'show', 'net0')
        plain = self.ok('dev', 'show', 'net0')
        self.assertTrue(text.startswith(plain), text)
        self.assertEqual(text[len(plain):], self.ok('dev', 'stats', 'net0').partition('\n')[2])
        shown = json.loads(self.ok('-s', '-j', 'dev', 'show', 'net0'))['dev']['net0']
        self.assertEqual(shown.pop('stats'), STATS['net0'])
        self.assertEqual({'dev': {'net0': shown}}, json.loads(self.ok('-j', 'dev', 'show', 'net0')))

    def test_queues(self):
        self.serve_devices()
        self.assertEqual(self.ok('dev', 'queues', 'net0'), '''\
net0:
  QIDX TYPE       PATH               SIZE  DEPTH    RECEIVED   COMPLETED  ERRORS
     0 rx         direct              256    246          10          10       0
     1 tx         shadow (inflight)   256      -          11          11       0
''')
        self.assertEqual(json.loads(self.ok('-j', 'dev', 'queues')),
                         {'queues': {n: o['queues'] for n, o in STATS.items()}})

    def test_info(self):
        self.serve_devices()
        self.assertEqual(self.ok('dev', 'info', 'net0'), '''\
net0:
  type: network
  mgmtdev: sim_net
  vendor_id: 6900
  max_vqs: 2
  max_vq_size: 256
  state: running
  driver: sim_net
  frontend: vhost-user
  failure: a: b
  negotiated_features_names: MAC MTU VERSION_1 MAC MTU VERSION_1 MAC MTU
      VERSION_1 MAC MTU VERSION_1 MAC MTU VERSION_1 MAC MTU VERSION_1 MAC MTU
      VERSION_1 MAC MTU VERSION_1
  dma: mappings 2
''')
        self.assertIn('frontend: none', self.ok('dev', 'info'))
        self.assertEqual(json.loads(self.ok('-jp', 'dev', 'info')), {'dev': DEVICES})


class Metrics(Test):
    def test_samples(self):
        self.serve({'dev.stats': named('stats', STATS), 'dev.show': named('dev', DEVICES)})
        text = self.ok('metrics')
        found = samples(text)
        rx, tx = 'device="net0",queue="0",type="rx"', 'device="net0",queue="1",type="tx"'
        self.assertEqual(found['uvdpa_up'], {'daemon=""': 1})
        self.assertEqual(found['uvdpa_queue_packets_total'], {rx: 10, tx: 11})
        # What is not known has no sample.
        self.assertEqual(found['uvdpa_queue_kicks_total'], {tx: 4})
        self.assertEqual(found['uvdpa_queue_ring_depth'], {rx: 246})
        self.assertEqual(found['uvdpa_queue_info'], {rx + ',path="direct"': 1,
                                                     tx + ',path="shadow (inflight)"': 1})
        self.assertEqual(found['uvdpa_queue_vendor_value'], {rx + ',statistic="drop_filtered"': 3,
                                                             tx + ',statistic="path_full"': 2})
        self.assertEqual(found['uvdpa_device_vendor_value'], {'device="net0",statistic="busy_cycles"': 77})
        self.assertEqual(found['uvdpa_device_start_duration_seconds'], {'device="net0"': 0.000412})
        self.assertEqual(found['uvdpa_device_memory_bytes'], {'device="net0"': 1 << 28})
        self.assertEqual(found['uvdpa_device_state']['device="net0",state="running"'], 1)
        self.assertEqual(sum(found['uvdpa_device_state'].values()), 2)
        self.assertIn('device="a\\"b\\\\",class="gpu",mgmtdev="",driver="",frontend=""',
                      found['uvdpa_device_info'])
        # Prometheus' own check of names and format.
        promtool = os.path.join(harness.fetched('prom'), 'promtool')
        done = subprocess.run([promtool, 'check', 'metrics'], input=text, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ''))

    def test_file_is_the_old_one_or_the_new_one(self):
        self.serve({'dev.stats': named('stats', STATS), 'dev.show': named('dev', DEVICES)})
        path = os.path.join(self.folder, 'uvdpa.prom')
        expected = self.ok('metrics')
        readers, seen = threading.Event(), set()

        def read():
            while not readers.is_set():
                try:
                    seen.add(pathlib.Path(path).read_text())
                except FileNotFoundError:
                    pass

        thread = threading.Thread(target=read)
        thread.start()
        try:
            for _ in range(20):
                self.assertEqual(self.ok('metrics', '--output', path), '')
        finally:
            readers.set()
            thread.join()
        self.assertLessEqual(seen, {expected})
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o666 & ~self.umask())
        self.assertEqual([n for n in os.listdir(self.folder) if n.endswith('.tmp')], [])
        # One that cannot be written is left as it is, and nothing beside it.
        pathlib.Path(path).write_text('precious')
        done = subprocess.run([VDPACTL, '-S', self.server.path, 'metrics', '-o', path],
                              capture_output=True, text=True, timeout=harness.TIMEOUT,
                              restore_signals=False,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)))
        self.assertEqual((done.returncode, done.stderr),
                         (1, f'vdpactl: cannot write {path}: File too large\n'))
        self.assertEqual(pathlib.Path(path).read_text(), 'precious')
        self.assertEqual(sorted(os.listdir(self.folder)), ['control.sock', 'uvdpa.prom'])
        self.refused('metrics', '-o', '/proc/nowhere/x', text='cannot write /proc/nowhere/x')

    def umask(self):
        mask = os.umask(0)
        os.umask(mask)
        return mask

    def test_a_daemon_that_is_gone_is_a_sample(self):
        path = os.path.join(self.folder, 'uvdpa.prom')
        done = run('/nonexistent', 'metrics', '-o', path)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(samples(pathlib.Path(path).read_text()), {'uvdpa_up': {'daemon=""': 0}})


class Monitor(Test):
    EVENT = {'event': 'device.added', 'name': 'net0', 'time': '2026-11-29T10:14:41.123456Z'}

    def monitor(self, *args):
        process = subprocess.Popen([VDPACTL, '-S', self.server.path, *args], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        self.server.wait_request('events.subscribe')
        return process

    def test_events(self):
        self.serve({'events.subscribe': {'events': []}})
        process = self.monitor('monitor', 'device.added', 'device.failed')
        self.assertEqual(self.server.requests[0][1], {'events': ['device.added', 'device.failed']})
        self.server.notify(**self.EVENT)
        # Each line at once, though it is no terminal.
        self.assertEqual(process.stdout.readline(), '2026-11-29T10:14:41.123456Z net0 device.added\n')
        self.server.notify(event='device.failed', name='net0', failure='vq 1: \x1b[1m', n=3)
        self.assertEqual(process.stdout.readline(), '- net0 device.failed failure vq 1: ?[1m n 3\n')
        self.server.hang_up()
        self.assertEqual(process.wait(harness.TIMEOUT), 1)
        self.assertIn('the connection is lost', process.stderr.read())

    def test_json_and_count(self):
        self.serve({'events.subscribe': lambda params: {'events': []}})
        process = self.monitor('-j', 'monitor', '-n', '2')
        self.assertEqual(self.server.requests[0][1], {})
        for _ in range(3):
            self.server.notify(**self.EVENT)
        out, err = process.communicate(timeout=harness.TIMEOUT)
        self.assertEqual((process.returncode, err), (0, ''))
        self.assertEqual([json.loads(line) for line in out.splitlines()], [self.EVENT] * 2)

    def test_events_before_the_answer_are_not_lost(self):
        event = json.dumps({'jsonrpc': '2.0', 'method': 'event', 'params': self.EVENT})
        self.serve({'events.subscribe': f'{event}\n{{"id":1,"result":{{}}}}\n{event}\n'.encode()})
        self.assertEqual(len(self.ok('monitor', '-n', '2').splitlines()), 2)

    def test_events_before_the_answer_have_a_limit(self):
        event = json.dumps({'method': 'event', 'params': {'text': 'x' * (1 << 20)}}).encode() + b'\n'
        self.serve({'events.subscribe': event * 66})
        self.one_line('monitor', text='more than 64 MiB of events came first')

    def test_refused(self):
        self.serve({})
        self.one_line('monitor', text="method 'events.subscribe'")


class Top(Test):
    """Where it is no terminal; test_vdpactl_terminal.py has one."""

    def counting(self, per_second, **more):
        begin = time.monotonic()

        def stats(params):
            n = int((time.monotonic() - begin) * per_second)
            queue = {'queue_type': 'rx', 'path': 'direct', 'packets': n, 'bytes': 64 * n, 'kicks': None,
                     'interrupts': 0, 'ring_depth': 5, **more}
            return {'stats': {'net0': {'device': {}, 'queues': [queue, {**queue, 'queue_type': 'tx'}]}}}

        return stats

    def test_table(self):
        self.serve({'dev.show': {'dev': {'net0': {'type': 'network', 'state': 'running'}}},
                    'dev.stats': self.counting(1000000)})
        text = self.ok('top', '-d', '0.5')
        lines = text.splitlines()
        self.assertEqual(len(lines), 5)
        self.assertRegex(lines[0], r'^vdpactl top - \d\d:\d\d:\d\d  1 device: 1 running$')
        self.assertEqual(lines[1], 'DEVICE             Q TYPE  STATE|PATH  PKT|RQ/S  BYTES/S KICKS/S'
                                   '  INTR/S  DEPTH')
        for line in lines:
            self.assertLessEqual(len(line), 80)
        row = lines[3].split()
        self.assertEqual(row[:4] + row[6:], ['net0', '0', 'rx', 'direct', '-', '0', '5'])
        self.assertRegex(row[4], r'^([89]\d{2}k|1\.[01]\dM)$')
        # Both queues of the device: its depth is known, its kicks are not.
        self.assertEqual(lines[2].split()[-3:], ['-', '0', '10'])
        self.assertEqual(len(self.ok('top', '-d', '0.1', '-n', '3').splitlines()), 3 * 5 + 2)
        self.assertEqual(len(self.ok('top', '-d', '0.1', 'blk*').splitlines()), 2)

    def test_a_counter_that_goes_back_has_no_rate(self):
        numbers = iter([1000, 3])
        self.serve({'dev.show': {'dev': {'net0': {'type': 'network', 'state': 'running'}}},
                    'dev.stats': lambda params: {'stats': {'net0': {'queues': [
                        {'queue_type': 'rx', 'path': 'relay', 'packets': next(numbers)}]}}}})
        self.assertEqual(self.ok('top', '-d', '0.1').splitlines()[3].split(),
                         ['net0', '0', 'rx', 'relay', '-', '-', '-', '-', '-'])

    def test_daemon_that_answers_something_else_for_ever(self):
        """However much it sends, a call has its end: answers of no request, a line without an end."""
        def flood(piece, pause):
            def answer(params):
                end = time.monotonic() + 60
                while time.monotonic() < end:
                    self.server.clients[-1].sendall(piece)
                    time.sleep(pause)
                return {}
            return answer

        self.serve({})
        for piece, pause in (b'{"id":99,"result":{}}\n', 0), (b' ', 0.01):
            self.server.methods['dev.show'] = flood(piece, pause)
            begin = time.monotonic()
            self.refused('top', text='no answer within 5 s')
            self.assertLess(time.monotonic() - begin, 30)

    def test_daemon_that_goes(self):
        self.serve({'dev.show': {'dev': {}}, 'dev.stats': lambda params: self.server.hang_up()})
        self.assertRegex(self.refused('top', text='the connection is lost'), 'closed it\n$')

load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main()
