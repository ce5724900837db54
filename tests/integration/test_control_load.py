# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Four clients of the control socket at once: devices are added, deleted, changed, connected to and
left by front ends that are killed, in a random order and under each other's hands, beside a device
whose traffic loses no packet. Nothing is left of it, and the events tell the same story.

UVDPA_SEED chooses another order.
"""

import collections
import json
import os
import random
import signal
import subprocess
import sys
import threading
import unittest

import harness
import vhost_user_client as vhu

SEED = int(os.environ.get('UVDPA_SEED', '20261129'))
CLIENTS = 4
SEQUENCES = harness.count(60, 1000)
# Fewer than there is to do with: clients get in each other's way.
NAMES = [f'net{i}' for i in range(6)] + [f'blk{i}' for i in range(3)]
# What another client has done first, or is doing.
EXPECTED = {-32002: 'no such device', -32003: 'exists', -32004: 'busy'}
STEADY = 'name steady mgmtdev sim_net socket {dir}/steady.sock'


class Client:
    """One of the four, in a process of its own."""

    def __init__(self, folder, number):
        self.folder = folder
        self.random = random.Random(f'{SEED}.{number}')
        self.counts = collections.Counter()
        self.control = harness.Control(os.path.join(folder, 'control'))

    def socket(self, name):
        return os.path.join(self.folder, name + '.sock')

    def call(self, what, method, **params):
        try:
            self.control.call(method, **params)
            self.counts[what] += 1
        except harness.ControlError as error:
            if error.code not in EXPECTED:
                raise
            self.counts[f'{what}: {EXPECTED[error.code]}'] += 1

    def add(self, name):
        if name.startswith('net'):
            words = f'mgmtdev sim_net socket {self.socket(name)}'
        else:
            words = f'mgmtdev sim_blk backend ram {self.random.choice((1, 2))}M'
        self.call('add', 'dev.add', words=f'name {name} {words}')

    def delete(self, name):
        self.call('del', 'dev.del', name=name)

    def set(self, name):
        name = name.replace('blk', 'net')
        self.call('set', 'dev.set', name=name, words=self.random.choice(('link down', 'link up')))

    def show(self, name):
        method = self.random.choice(('dev.show', 'dev.stats', 'dev.config'))
        self.call('show', method, **({'name': name} if self.random.randrange(2) else {}))

    def connect(self):
        """A front end that starts a device and leaves, by itself or by SIGKILL."""
        names = [name for name in self.control.call('dev.list')['names'] if name.startswith('net')]
        if not names:
            return
        name, kill = self.random.choice(names), self.random.randrange(2)
        pid = os.fork()
        if pid == 0:
            try:
                with vhu.NetDriver(self.socket(name)) as driver:
                    driver.start()
                    driver.exchange(timeout=2)
                    if kill:
                        os.kill(os.getpid(), signal.SIGKILL)
                os._exit(0)
            except BaseException:
                # There is none, another has it, or it was deleted.
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        self.counts['killed' if status == signal.SIGKILL else
                    'connected' if status == 0 else 'not connected'] += 1

    def drop(self, name):
        """Hang up while a request is carried out, and come back."""
        words = f'name {name} mgmtdev sim_net'
        self.control.send(json.dumps({'jsonrpc': '2.0', 'id': 1, 'method': 'dev.add',
                                      'params': {'words': words}}) + '\n{"jsonrpc"')
        self.control.close()
        self.control = harness.Control(os.path.join(self.folder, 'control'))
        self.counts['hung up'] += 1

    def run(self, sequences):
        for _ in range(sequences):
            for _ in range(self.random.randrange(2, 6)):
                name = self.random.choice(NAMES)
                what = self.random.choices(
                    (self.add, self.delete, self.set, self.show, self.drop), (6, 4, 2, 2, 1))[0]
                what(name)
            if self.random.randrange(2):
                self.connect()
        self.control.close()
        print(json.dumps(self.counts))


class Traffic(threading.Thread):
    """Frames round and round through a device; each must come back unchanged."""

    def __init__(self, driver):
        super().__init__(daemon=True)
        self.driver, self.frames, self.error = driver, 0, None
        self.stop = threading.Event()

    def run(self):
        try:
            while not self.stop.is_set():
                self.driver.exchange(timeout=harness.TIMEOUT)
                self.frames += 1
        except BaseException as error:
            self.error = error


class Load(unittest.TestCase):
    def clients(self, daemon, sequences):
        """The counts of all four."""
        each = [sequences // CLIENTS + (i < sequences % CLIENTS) for i in range(CLIENTS)]
        children = [subprocess.Popen([sys.executable, '-B', os.path.abspath(__file__), '--client',
                                      daemon.dir, str(i), str(n)], stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE, text=True)
                    for i, n in enumerate(each)]
        counts = collections.Counter()
        for child in children:
            out, err = child.communicate()
            self.assertEqual(child.returncode, 0, err)
            counts.update(json.loads(out))
        return counts

    def tidy_up(self, daemon):
        """All that they have left, once nobody works on it any more."""
        with daemon.control() as client:
            for name in client.call('dev.list')['names']:
                if name == 'steady':
                    continue

                def gone():
                    reply = client.request('dev.del', {'name': name})
                    return 'error' not in reply or reply['error']['code'] == -32002
                harness.wait_for(gone, f'{name} to go')
            self.assertEqual(client.call('dev.list')['names'], ['steady'])

    def check_events(self, watcher):
        """Of each device: added, then whatever, then removed, again and again."""
        watcher.call('version')
        there, counts = set(), collections.Counter()
        for event in watcher.events:
            name, what = event['name'], event['event']
            counts[what] += 1
            if name == 'steady':
                self.fail(f'an event of the device beside: {event}')
            if what == 'device.added':
                self.assertNotIn(name, there)
                there.add(name)
            elif what == 'device.removed':
                self.assertIn(name, there)
                there.remove(name)
        self.assertEqual(there, set())
        for one, other in (('added', 'removed'), ('connected', 'disconnected'), ('started', 'stopped')):
            self.assertEqual(counts[f'device.{one}'], counts[f'device.{other}'], counts)
        return counts

    def test_four_clients_at_once(self):
        with harness.Daemon([STEADY]) as daemon, \
                vhu.NetDriver(daemon.socket('steady')) as driver, daemon.control() as watcher:
            driver.start()
            driver.exchange()
            # What is made once, when it is first needed.
            self.clients(daemon, CLIENTS)
            self.tidy_up(daemon)
            before = harness.settled(daemon.pid)
            watcher.call('events.subscribe', events=[
                f'device.{what}' for what in ('added', 'removed', 'connected', 'disconnected',
                                              'started', 'stopped', 'failed')])
            traffic = Traffic(driver)
            traffic.start()
            counts = self.clients(daemon, SEQUENCES)
            self.tidy_up(daemon)
            traffic.stop.set()
            traffic.join()
            if traffic.error:
                raise traffic.error
            device = daemon.stats('steady')['device']
            self.assertEqual((device['tx_packets'], device['rx_packets'], device['rx_drops'],
                              device['tx_drops']), (driver.count, driver.count, 0, 0))
            events = self.check_events(watcher)
            usage = harness.nothing_left(daemon.pid, before)
            harness.figure(f'{SEQUENCES} sequences of {CLIENTS} clients at once, seed {SEED}: {dict(counts)}; '
                           f'{sum(events.values())} events, {traffic.frames} frames beside, none lost; {usage}')
            # A front end that comes second is refused with a line.
            self.assertEqual([line for line in daemon.err.lines
                              if 'refused: the device has a front end' not in line], [])
        for what in ('add', 'del', 'set', 'show', 'connected', 'killed', 'hung up', 'add: exists',
                     'del: no such device'):
            self.assertGreater(counts[what], 0, counts)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--client']:
        Client(sys.argv[2], sys.argv[3]).run(int(sys.argv[4]))
    else:
        unittest.main(verbosity=2)
