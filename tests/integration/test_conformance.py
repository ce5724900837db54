#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""test-vdpa on devices that work: in its own process and through the daemon's sockets.

Each run also says which cases must have been skipped and no others, so that a case that never runs
does not pass for one that does.
"""

import concurrent.futures
import contextlib
import glob
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import harness
from conformance_tool import TOOL, Outcome, cases, conformance

MODEL = os.environ.get('UVDPA_MODEL', 'vdpa-model')

# By why it is skipped.
NO_DATA = {'kick_doorbell_data', 'kick_doorbell_data_packed'}  # no front end offers it
NO_DOORBELL = {'kick_doorbell'} | NO_DATA
NO_CONFIG_CHANGE = {'config_change'}
PLACES = {'split_places', 'packed_places'}
LOG = {'log_split', 'log_packed', 'log_replaced', 'log_ended', 'log_at_stop'}
# A virtio function keeps neither a queue's state nor a log.
SUSPEND = {'suspend_split', 'suspend_packed'}
NO_STATE = {'queue_disable', 'split_queue_resume', 'packed_queue_resume', 'packed_places'} | LOG | SUSPEND
# By a socket shadow virtqueues are seen to make up for it, but for packed rings.
NO_STATE_BY_SOCKET = NO_STATE - {'split_queue_resume'} - LOG
NO_ORDER = {'split_in_order', 'packed_in_order'}
ONE_LANE = {'multi_queue', 'late_queue'}
TRUSTED = {'status_transitions'}
OWN_CONTROL_QUEUE = {'net_control_queue', 'net_control_pairs', 'net_control_mac', 'net_control_split',
                     'net_control_packed'}
NOT_READ_ONLY = {'block_read_only'}


@contextlib.contextmanager
def model(*devices):
    """vdpa-model with devices m0, m1, ...: words behind mgmtdev; .paths are their sockets, .functions what drives
    them, in a time that a busy machine may take."""
    words = [f'name m{i} mgmtdev {device} vfio_user {{dir}}/m{i}.vfu'
             for i, device in enumerate(devices)]
    with harness.Daemon(words, app=MODEL) as process:
        process.paths = [f'{process.dir}/m{i}.vfu' for i in range(len(devices))]
        process.functions = [f'vfio-user/{path} timeout_ms 10000' for path in process.paths]
        yield process


@contextlib.contextmanager
def daemon(*devices, args=()):
    words = [f'name d{i} mgmtdev {device} socket {{dir}}/d{i}.sock'
             for i, device in enumerate(devices)]
    with harness.Daemon(words, args=args) as process:
        yield process


class Conformance(unittest.TestCase):
    def check(self, device, skipped, *options, minimum=50, **kw):
        outcome = conformance(device, *options, **kw)
        self.assertEqual(outcome.named('fail'), {}, outcome.text())
        self.assertEqual(set(outcome.named('skip')), skipped, outcome.text())
        self.assertEqual(outcome.code, 0, outcome.text())
        self.assertGreaterEqual(len(outcome.named('pass')), minimum)
        return outcome

    def check_socket(self, app, name, skipped, *options):
        # What is opened once, for the first front end.
        conformance({'socket': app.socket(name)}, *cases('queue_reset', 'kick_doorbell'))
        before = harness.settled(app.pid)
        self.check({'socket': app.socket(name)}, skipped | TRUSTED | NO_CONFIG_CHANGE | NO_DATA | SUSPEND,
                   *options)
        harness.nothing_left(app.pid, before)


class InProcess(Conformance):
    def test_sim_net(self):
        self.check({'dev': 'mgmtdev sim_net max_vqp 2'}, NO_DOORBELL)

    def test_sim_net_of_one_pair(self):
        self.check({'dev': 'mgmtdev sim_net'}, NO_DOORBELL | ONE_LANE | {'net_pairs', 'net_control_pairs'})

    def test_a_back_end_that_returns_no_frames_is_said(self):
        outcome = self.check({'dev': 'mgmtdev sim_net backend echo max_vqp 2'},
                             NO_DOORBELL | {'net_pairs', 'net_smallest_frames', 'net_largest_frames',
                                            'net_mergeable_split', 'net_mergeable_packed'})
        self.assertIn('does not return frames', outcome.cases['net_pairs'][1])

    def test_sim_blk(self):
        self.check({'dev': 'mgmtdev sim_blk backend ram 64M queues 2'},
                   NO_DOORBELL | NO_CONFIG_CHANGE | NOT_READ_ONLY)

    def test_sim_blk_that_is_read_only(self):
        outcome = self.check(
            {'dev': 'mgmtdev sim_blk backend ram 64M queues 2 read-only blk_size 4096'},
            NO_DOORBELL | NO_CONFIG_CHANGE | {'block_write_read', 'block_discard',
                                              'block_write_zeroes'})
        self.assertIn('read-only', outcome.cases['block_write_read'][1])

    def test_a_file_is_overwritten_on_request_only(self):
        with tempfile.NamedTemporaryFile() as disk:
            disk.truncate(16 << 20)
            dev = {'dev': f'mgmtdev sim_blk backend file {disk.name} queues 2'}
            skipped = NO_DOORBELL | NO_CONFIG_CHANGE | NOT_READ_ONLY | NO_ORDER
            kept = {'block_write_read', 'block_discard', 'block_write_zeroes'}
            outcome = self.check(dev, skipped | kept)
            self.assertIn('--overwrite', outcome.cases['block_write_read'][1])
            with open(disk.name, 'rb') as f:
                self.assertEqual(f.read().strip(b'\0'), b'')
            self.check(dev, skipped, '--overwrite')
            with open(disk.name, 'rb') as f:
                self.assertNotEqual(f.read().strip(b'\0'), b'')

    def test_features_that_are_not_offered_skip_their_cases(self):
        # VERSION_1, MAC and nothing else.
        outcome = conformance({'dev': 'mgmtdev sim_net device_features 0x100000020'})
        self.assertEqual(outcome.code, 0, outcome.text())
        for case in ('packed_wraps', 'split_indirect', 'split_event_index', 'split_in_order'):
            self.assertEqual(outcome.cases[case][0], 'skip')
            self.assertIn('does not offer', outcome.cases[case][1])

    def test_relayed_devices(self):
        """By `migration relay`, which refuses packed rings to whoever sets them up all the same."""
        for words, skipped, options in (('sim_net max_vqp 2', NO_DOORBELL, ()),
                                        ('sim_blk backend ram 64M queues 2',
                                         NO_DOORBELL | NO_CONFIG_CHANGE | NOT_READ_ONLY, ())):
            with self.subTest(words):
                outcome = conformance({'dev': f'mgmtdev {words} migration relay'}, *options)
                packed = {name for name in outcome.cases if 'packed' in name}
                self.assertEqual(set(outcome.named('skip')) - packed, skipped - packed, outcome.text())
                self.assertEqual(set(outcome.named('fail')) - packed, set(), outcome.text())
                self.assertLess({'log_split', 'log_replaced', 'log_at_stop', 'split_places'},
                                set(outcome.named('pass')))
                self.assertRegex(outcome.cases['packed_wraps'][1],
                                 'queue 0: cannot be relayed, .*its ring is packed; `migration shadow`')

    def test_model_over_vfio_user(self):
        with model('sim_net max_vqp 2', 'sim_blk backend ram 64M queues 2') as other:
            net, blk = other.functions
            self.check({'dev': f'mgmtdev {net}'}, NO_STATE | NO_CONFIG_CHANGE | OWN_CONTROL_QUEUE,
                       '--loopback=yes')
            self.check({'dev': f'mgmtdev {blk}'}, NO_STATE | NO_CONFIG_CHANGE | NOT_READ_ONLY,
                       '--overwrite')

    def test_model_whose_doorbells_share_a_page(self):
        with model('sim_net max_vqp 2 notify shared') as other:
            self.check({'dev': f'mgmtdev {other.functions[0]}'},
                       NO_STATE | NO_CONFIG_CHANGE | OWN_CONTROL_QUEUE | NO_DOORBELL,
                       '--loopback=yes')

    def test_model_without_ring_reset(self):
        # All that sim_net offers but RING_RESET and the control queue.
        with model('sim_net max_vqp 2 device_features 0x4d30bf8020') as other:
            dev = {'dev': f'mgmtdev {other.functions[0]}'}
            outcome = conformance(dev, '--loopback=yes', *cases('queue_reset', 'queue_enable_moves',
                                                                'late_queue'))
        self.assertEqual(outcome.named('fail'), {}, outcome.text())
        self.assertIn('RING_RESET, and stops as a whole', outcome.cases['queue_reset'][1])
        self.assertEqual(outcome.cases['queue_reset'][0], 'skip')

    def test_model_that_suspends(self):
        # With RING_RESET, and without it and the control queue.
        named = cases('suspend_split', 'suspend_packed', 'status_transitions', 'late_queue', 'memory_change',
                      'stop_during_traffic', 'start_stop_cycles')
        for words, options, skipped in (
                ('sim_net max_vqp 2 suspend on', '--loopback=yes', set()),
                ('sim_net max_vqp 2 suspend on device_features 0x4d30bf8020', '--loopback=yes', {'late_queue'}),
                ('sim_blk backend ram 64M queues 2 suspend on', '--overwrite', set())):
            with self.subTest(words=words), model(words) as other:
                self.check({'dev': f'mgmtdev {other.functions[0]}'}, skipped, options, *named, minimum=6)
                self.assertGreaterEqual(other.ask('/model/stats,m0')['suspensions'], 10)

    def test_model_with_few_vectors(self):
        with model('sim_blk backend ram 64M queues 4 vectors 2') as other:
            self.check({'dev': f'mgmtdev {other.functions[0]}'},
                       NO_STATE | NO_CONFIG_CHANGE | NOT_READ_ONLY, '--overwrite')

    def test_as_an_ordinary_user(self):
        harness.skip_unless(os.getuid() == 0 and shutil.which('setpriv'),
                            'needs root and setpriv to become an ordinary user')
        with tempfile.TemporaryDirectory(prefix='uvdpa-test.') as folder:
            os.chmod(folder, 0o777)
            self.check({'dev': 'mgmtdev sim_net max_vqp 2'}, NO_DOORBELL, eal=['--no-huge'],
                       launcher=['env', f'XDG_RUNTIME_DIR={folder}', 'setpriv', '--reuid=65534',
                                 '--regid=65534', '--clear-groups'])


class DmaLog(Conformance):
    def test_model_that_logs_its_dma(self):
        """A log says nothing of places: queues leave their shadows by a reset, and frames are lost."""
        with model('sim_net max_vqp 2 dma_logging on') as other:
            dev = {'dev': f'mgmtdev {other.functions[0]}'}
            for _ in range(4):
                self.check(dev, {'packed_places'}, '--loopback=yes', *cases('*_places'), minimum=2)
            self.check(dev, set(), '--loopback=yes', *cases('log_*'), minimum=5)


class BySocket(Conformance):
    def test_simulated_devices(self):
        with daemon('sim_net max_vqp 2', 'sim_blk backend ram 64M queues 2') as app:
            self.check_socket(app, 'd0', NO_DOORBELL | OWN_CONTROL_QUEUE, '--loopback=yes')
            self.check_socket(app, 'd1', NO_DOORBELL | NOT_READ_ONLY, '--overwrite')

    def test_relayed_devices(self):
        # What a front end would have in an inflight area a relay does not keep: it is not offered.
        with daemon('sim_net max_vqp 2 migration relay',
                    'sim_blk backend ram 64M queues 2 migration relay', 'sim_net max_vqp 2 no_log',
                    'sim_blk backend ram 64M queues 2 no_log') as app:
            packed = {line.split()[0] for line in Outcome(['conformance', '--list']).out.splitlines()
                      if 'packed' in line.split()[0]}
            self.check_socket(app, 'd0', NO_DOORBELL | OWN_CONTROL_QUEUE | packed, '--loopback=yes')
            blk = {name for name in packed if not name.startswith('net_')}
            self.check_socket(app, 'd1', NO_DOORBELL | NOT_READ_ONLY | blk, '--overwrite')
            # Direct, and relays or shadows while there is a log.
            self.check_socket(app, 'd2', NO_DOORBELL | OWN_CONTROL_QUEUE, '--loopback=yes')
            self.check_socket(app, 'd3', NO_DOORBELL | NOT_READ_ONLY, '--overwrite')

    def test_pairs_on_several_lcores(self):
        cpus = ','.join(map(str, sorted(os.sched_getaffinity(0))[:2]))
        harness.skip_unless(',' in cpus, 'one CPU only')
        with daemon('sim_net max_vqp 2 workers 2', args=['--poll-lcores', cpus]) as app:
            self.check_socket(app, 'd0', NO_DOORBELL | OWN_CONTROL_QUEUE, '--loopback=yes')

    def test_virtio_functions(self):
        with model('sim_net max_vqp 2', 'sim_blk backend ram 64M queues 2') as other:
            with daemon(*other.functions) as app:
                self.check_socket(app, 'd0', NO_STATE_BY_SOCKET | OWN_CONTROL_QUEUE, '--loopback=yes')
                self.check_socket(app, 'd1', NO_STATE_BY_SOCKET | NOT_READ_ONLY, '--overwrite')

    def test_another_protocol_behind_the_socket_is_named(self):
        with model('sim_net') as other, daemon('sim_net') as app:
            path = other.paths[0]
            for command in ('info', 'conformance'):
                outcome = Outcome([command, '--socket', path])
                self.assertEqual(outcome.code, 1, outcome.text())
                self.assertIn(f'vfio-user socket, which serves a PCI function: give --dev "mgmtdev '
                              f'vfio-user/{path}"', outcome.text())
                self.assertLess(outcome.seconds, 10)
            outcome = Outcome(['info', '--dev', f'mgmtdev vfio-user/{app.socket("d0")}'])
            self.assertEqual(outcome.code, 1, outcome.text())
            self.assertIn(f"test-vdpa --socket '{app.socket('d0')}' drives it", outcome.err)
            # Neither was harmed.
            for device in ({'dev': f'mgmtdev vfio-user/{path}'}, {'socket': app.socket('d0')}):
                outcome = conformance(device, '--loopback=yes', *cases('queue_enable_moves'))
                self.assertEqual(outcome.code, 0, outcome.text())

    def test_nobody_listens(self):
        outcome = conformance({'socket': '/nonexistent/socket'})
        self.assertEqual(outcome.code, 1)
        self.assertEqual(list(outcome.cases), ['open'])
        self.assertIn('No such file', outcome.cases['open'][1])


class Output(unittest.TestCase):
    DEV = {'dev': 'mgmtdev sim_net'}

    def test_tap_is_complete(self):
        outcome = conformance(self.DEV, *cases('identity', 'packed_*'))
        lines = outcome.out.splitlines()
        self.assertEqual(lines[0], 'TAP version 13')
        self.assertIn(f'1..{len(outcome.cases)}', lines)
        self.assertIn('identity', outcome.cases)
        self.assertIn('packed_wraps', outcome.cases)
        self.assertNotIn('split_wraps', outcome.cases)

    def test_json_to_a_file_and_to_standard_output(self):
        with tempfile.NamedTemporaryFile() as file:
            outcome = conformance(self.DEV, '--json', file.name, *cases('identity', 'kick_doorbell'))
            told = json.load(file)
        self.assertEqual(outcome.named('pass'), {'open': '', 'identity': ''})
        self.assertEqual([(c['name'], c['result']) for c in told['cases']],
                         [('open', 'pass'), ('identity', 'pass'), ('kick_doorbell', 'skip')])
        self.assertEqual((told['passed'], told['failed'], told['skipped']), (2, 0, 1))
        self.assertEqual(told['device']['type'], 'net')
        self.assertIn('RING_PACKED', told['device']['dev_features'])
        outcome = conformance(self.DEV, '--json', '-', *cases('identity'))
        self.assertEqual(outcome.json()['passed'], 2)
        self.assertIn('ok 2 - identity', outcome.err)

    def test_list_names_every_case(self):
        listed = {line.split()[0] for line in Outcome(['conformance', '--list']).out.splitlines()}
        run = set(conformance({'dev': 'mgmtdev sim_net'}).cases) | set(
            conformance({'dev': 'mgmtdev sim_blk backend ram 1M'}).cases)
        self.assertEqual(listed, run - {'open'})

    def test_usage_errors_say_what_is_wrong(self):
        dev = ['--dev', 'mgmtdev sim_net']
        for command, said in ((['conformance'], '--dev'), (['frobnicate', *dev], 'frobnicate'),
                              (['conformance', *dev, '--case', 'nosuch'], 'nosuch'),
                              (['conformance', *dev, '--socket', '/x'], 'one of them'),
                              (['bench', *dev, '--duration', '0'], '--duration'),
                              (['bench', *dev, '--write'], '--overwrite'),
                              (['bench', *dev, '--measure', 'speed'], '--measure'),
                              (['bench', *dev, '--rate', '1000001'], '--rate'),
                              (['bench', *dev, '--queues', '9'], '--queues'),
                              (['info', '--dev', 'mgmtdev sim_net frob 1'], 'frob')):
            outcome = Outcome(command)
            self.assertEqual((outcome.code, outcome.out), (2, ''), outcome.text())
            # EAL may have warned before.
            self.assertIn(said, outcome.err.splitlines()[-1])

    def test_help_and_version(self):
        self.assertIn('usage: test-vdpa', Outcome(['--help']).out)
        self.assertRegex(Outcome(['--version']).out, r'^test-vdpa \d+\.\d+\.\d+, DPDK')

    def test_info(self):
        outcome = Outcome(['info', '--dev', 'mgmtdev sim_blk backend ram 1M', '--json', '-'])
        told = outcome.json()
        self.assertEqual((told['type'], told['device_id'], told['max_vqs']), ('block', 2, 1))
        # The capacity, in sectors.
        self.assertEqual(bytes.fromhex(told['config'])[:8], (2048).to_bytes(8, 'little'))
        self.assertEqual(told['doorbell'], 'relay')
        text = Outcome(['info', '--dev', 'mgmtdev sim_net mac 52:54:00:00:00:01']).out
        self.assertIn('net (device id 1', text)
        self.assertIn('52 54 00 00 00 01', text)

    def test_info_of_a_device_that_does_not_start_says_why(self):
        with model('sim_net fault queue_never_enables') as other:
            for options in ([], ['--json', '-']):
                outcome = Outcome(['info', '--dev', f'mgmtdev {other.functions[0]}', *options])
                self.assertEqual(outcome.code, 1, outcome.text())
                self.assertRegex(outcome.out, 'unknown: the device does not start: .*queue 0')
                self.assertRegex(outcome.err, 'does not start: .*queue 0')
                self.assertIn('RING_PACKED', outcome.out)

    def test_bench(self):
        for device, what in (('sim_net', 'sent'), ('sim_blk backend ram 16M', 'reads')):
            outcome = Outcome(['bench', '--dev', f'mgmtdev {device}', '--duration', '0.2',
                               '--json', '-'])
            self.assertEqual(outcome.code, 0, outcome.text())
            told = outcome.json()
            self.assertGreater(told[what]['value'], 0)
            for name in ('kick_relay', 'start', 'stop', 'call_swap'):
                self.assertEqual(told[name]['unit'], 'us')
                self.assertLessEqual(told[name]['p50'], told[name]['max'])
                self.assertGreater(told[name]['samples'], 0)
            self.assertIn('no doorbell', outcome.err)

    def test_bench_of_one_thing(self):
        dev = ['--dev', 'mgmtdev sim_blk backend ram 16M', '--duration', '0.2', '--json', '-']
        for words, told in ((['--measure', 'throughput'], {'reads'}), (['--measure', 'kicks'], {'kick_relay'}),
                            (['--measure', 'life'], {'start', 'stop', 'call_swap'}),
                            (['--rate', '0'], {'rate'}), (['--rate', '500'], {'rate', 'took'})):
            outcome = Outcome(['bench', *dev, *words])
            self.assertEqual(outcome.code, 0, outcome.text())
            self.assertEqual(set(outcome.json()) - {'device', 'setup'}, told)
            if words == ['--rate', '500']:
                # No more than that, however late: what the depth leaves out is not made up for.
                self.assertLessEqual(outcome.json()['rate']['value'], 510)
                self.assertGreater(outcome.json()['took']['samples'], 0)

    def test_bench_by_socket_and_doorbell(self):
        with model('sim_net') as other, daemon(other.functions[0]) as app:
            outcome = Outcome(['bench', '--socket', app.socket('d0'), '--duration', '0.2',
                               '--packed', '--json', '-'])
            self.assertEqual(outcome.code, 0, outcome.text())
            self.assertGreater(outcome.json()['returned']['value'], 0)
            self.assertGreater(outcome.json()['kick_doorbell']['samples'], 0)

    def test_leaves_nothing_behind(self):
        outcome = conformance(self.DEV, *cases('split_wraps'))
        left = glob.glob('/var/run/dpdk/*') + glob.glob('/dev/shm/*')
        # Other tests may be running.
        self.assertEqual([p for p in left if f'test-vdpa.{outcome.pid}' in p], [])


class StandsStill(unittest.TestCase):
    def test_a_machine_that_stands_still_uses_up_no_time_of_the_device(self):
        """Both get no CPU for longer than a queue may make no progress, again and again."""
        with tempfile.TemporaryFile() as err, \
                subprocess.Popen([TOOL, 'conformance', '--dev', 'mgmtdev sim_blk backend ram 16M delay_ms 60',
                                  '--timeout-scale=30', *cases('split_wraps')], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=err, text=True) as process:
            try:
                said = iter(process.stdout.readline, '')
                self.assertTrue(any(line.startswith('ok 1 - open') for line in said))
                for _ in range(4):
                    process.send_signal(signal.SIGSTOP)
                    time.sleep(1.1)
                    process.send_signal(signal.SIGCONT)
                    time.sleep(0.1)
                rest = list(said)
            finally:
                process.kill()
        self.assertIn('ok 2 - split_wraps\n', rest)


class Dying(unittest.TestCase):
    def dying(self, command, device, process, end):
        """A command during which a device ends that is seen to run in a process."""
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            run = pool.submit(Outcome, command)
            harness.wait_for(lambda: run.done() or process.show(device)['state'] == 'running', 'a device that runs')
            end()
            return run.result()

    def test_bench_of_a_device_that_dies(self):
        """An error that says so, and no figures; long before the time of the measurement is over."""
        def started(words, **kw):
            process = harness.Daemon([words], **kw)
            self.addCleanup(process.cleanup)
            process.start()
            self.addCleanup(process.kill)
            return process

        function = 'name m0 mgmtdev sim_net vfio_user {dir}/m0.vfu'
        for measure in (['--measure', 'throughput'], ['--measure', 'kicks'], ['--rate', '10']):
            # Longer than a command of the test may take.
            bench = ['--duration', '600', *measure]
            for by in ('its own process', 'the socket', 'the socket without status', 'behind the socket'):
                with self.subTest(by, measure=measure):
                    other = started(function, app=MODEL)
                    dev = f'mgmtdev vfio-user/{other.dir}/m0.vfu'
                    if by == 'its own process':
                        outcome = self.dying(['bench', '--dev', dev, *bench], 'm0', other, other.kill)
                        said = 'the server hung up'
                    else:
                        app = started(f'name d0 {dev} socket {{dir}}/d0.sock')
                        status = ['--no-status'] if by == 'the socket without status' else []
                        outcome = self.dying(['bench', '--socket', app.socket('d0'), *status, *bench], 'd0', app,
                                             other.kill if by == 'behind the socket' else app.kill)
                        said = 'connection|NEEDS_RESET|closed'
                    self.assertEqual(outcome.code, 1, outcome.text())
                    self.assertRegex(outcome.err, rf'(?m)^test-vdpa: bench: .*({said})')
                    self.assertNotRegex(outcome.out, r'(?m)^(sent|rate|kick_relay) ')


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main()
