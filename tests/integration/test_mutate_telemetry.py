# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Mutated commands of DPDK's telemetry beside mutated requests to the control socket, from a fixed
seed: what is read of devices whose lives go on in any order, with bytes, words and lengths changed.
UVDPA_SEED and UVDPA_MESSAGES choose others.
"""

import collections
import contextlib
import json
import os
import random
import re
import unittest

import harness
import vhost_user_client as vhu

SEED = int(os.environ.get('UVDPA_SEED', '20260117'))
MESSAGES = int(os.environ.get('UVDPA_MESSAGES') or harness.count(5000, 1000000))
# What a connection sends, at most; the kind of socket has one message a command.
SESSION = 500
LONGEST = 1023  # bytes that DPDK reads of a command
REPLY = 1 << 16

HEALTHY = 'name healthy mgmtdev sim_net backend loopback socket {dir}/healthy.sock'
# Where a mutation must lead to no file but the test's own, its folder comes last, and no other slash.
FOLDER = '@'
WORDS = ('name', 'mgmtdev', 'sim_net', 'sim_blk', 'backend', 'loopback', 'echo', 'ram', 'peer', 'mac',
         '52:54:00:00:00:01', 'mtu', 'max_vqp', 'socket', 'mode', '0600', 'frontend', 'vhost-user',
         'device_features', '0x100000020', 'link', 'up', 'down', 'resize', '4M', 'queues', 'blk_size',
         '4096', 'read-only', 'net0', 'blk0', '0', '1', '64', '65536', '-1', '18446744073709551616',
         '"', '\\', '=', ',', '\x01', '\x7f', '\xff', '')


class Telemetry(unittest.TestCase):
    def change(self):
        """A request that changes a device and may be right: its method, and its params."""
        rnd = self.random
        net, blk = f'net{rnd.randrange(4)}', f'blk{rnd.randrange(4)}'
        name = rnd.choice((net, blk, 'none'))
        backend = rnd.choice(('backend loopback', 'backend echo', f'backend peer net{rnd.randrange(4)}', ''))
        return rnd.choice((
            ('dev.add', {'words': f'name {net} mgmtdev sim_net max_vqp {rnd.randrange(6)} {backend}'}),
            ('dev.add', {'words': f'name {net} mgmtdev sim_net mac 52:54:00:00:00:0{rnd.randrange(9)} '
                                  f'mtu {rnd.choice((68, 1500, 9000))} socket {FOLDER}{net}.sock'}),
            ('dev.add', {'words': f'name {blk} mgmtdev sim_blk backend ram {rnd.choice("14")}M queues '
                                  f'{rnd.randrange(5)} blk_size {rnd.choice((512, 4096))}'}),
            ('dev.del', {'name': name}),
            ('dev.del', {'name': name}),
            ('dev.set', {'name': net, 'words': f'link {rnd.choice(("up", "down"))}'}),
            ('dev.set', {'name': blk, 'words': f'resize {rnd.choice((1, 2, 8))}M'}),
        ))

    def valid(self):
        """A command that may be right: its name, and its parameters or None."""
        rnd = self.random
        name = rnd.choice((f'net{rnd.randrange(4)}', f'blk{rnd.randrange(4)}', 'none'))
        return rnd.choice((
            ('/vdpa/dev/show', name),
            ('/vdpa/dev/list', None),
            ('/vdpa/dev/stats', name),
            ('/vdpa/dev/stats', f'{name},{rnd.randrange(4)}'),
            ('/vdpa/dev/add', f'name {name} mgmtdev sim_net'),
            ('/vdpa/dev/del', name),
            ('/vdpa/mgmtdev/list', None),
            ('/vdpa/mgmtdev/show', rnd.choice(('sim_net', 'sim_blk', 'none'))),
            ('/help', f'/vdpa/dev/{rnd.choice(("add", "show", "none"))}'),
        ))

    def mutated(self, params):
        """The parameters with 0 to 3 things changed."""
        rnd = self.random
        for _ in range(rnd.choice((0, 1, 1, 2, 3))):
            words = params.split(' ')
            at = rnd.randrange(len(words))
            what = rnd.randrange(9)
            if what == 0 and params:
                i = rnd.randrange(len(params))
                params = params[:i] + chr(ord(params[i]) & 255 ^ 1 << rnd.randrange(8)) + params[i + 1:]
            elif what == 1:
                i = rnd.randrange(len(params) + 1)
                params = params[:i] + chr(rnd.randrange(1, 256)) + params[i:]
            elif what == 2:
                params = params[:rnd.randrange(len(params) + 1)]
            elif what == 3:
                params += rnd.choice((' ', ',', 'x' * 200, ' x' * 100, 'x' * 2000))
            elif what == 4:
                words[at] = rnd.choice(WORDS)
            elif what == 5:
                words.insert(at, rnd.choice(WORDS))
            elif what == 6:
                del words[at]
            elif what == 7:
                words += rnd.sample(words, rnd.randrange(len(words) + 1))
            if what >= 4:
                params = ' '.join(words)
        return params

    def command(self):
        name, params = self.valid()
        if self.random.randrange(20) == 0:
            # An empty message would be the end of the connection.
            return self.mutated(name.replace('/', ' ')).replace(' ', '/') or '/'
        if params is None:
            return name
        params = self.mutated(params)
        if name != '/help':
            params = params.replace('/', '_')
        return f'{name},{params}'.replace(FOLDER, self.daemon.dir + '/')

    def request(self, control):
        """A change with its words mutated, over the control socket."""
        method, params = self.change()
        for key, value in params.items():
            # No file but the test's own; what JSON escapes, and what it does not have.
            params[key] = self.mutated(value).replace('/', '_').replace(FOLDER, self.daemon.dir + '/')
        reply = control.request(method, params)
        self.counts[method, 'refused' if 'error' in reply else 'done'] += 1

    def tidy_up(self, control):
        """Every device but one goes; how many there were."""
        names = set(control.call('dev.list')['names']) - {'healthy'}
        for name in names:
            control.delete(name)
        return len(names)

    def session(self, commands):
        """One connection; how many devices there were at its end."""
        with self.daemon.telemetry() as client, self.daemon.control() as control:
            for _ in range(commands):
                if self.random.randrange(2):
                    self.request(control)
                    continue
                command = self.command().encode('latin-1')
                client.sock.send(command)
                reply = client.sock.recv(REPLY)
                name = command.split(b',')[0].decode('latin-1')
                self.assertTrue(reply, f'{command} ends the connection')
                # A command that is none of ours is DPDK's to answer.
                if not re.fullmatch('/vdpa/(dev|mgmtdev)/[a-z]+', name):
                    continue
                try:
                    reply = json.loads(reply)
                except ValueError as error:
                    self.fail(f'{command}: {error}: {reply}')
                answer = reply.get(name)
                refused = isinstance(answer, dict) and 'error' in answer
                # DPDK answers null for a command that is not there.
                if answer is not None:
                    self.counts[name, 'refused' if refused else 'done'] += 1
            return self.tidy_up(control)

    def test_mutated_commands(self):
        print(f'seed {SEED}, {MESSAGES} commands', flush=True)
        self.random = random.Random(SEED)
        self.counts = collections.Counter()
        with harness.Daemon([HEALTHY]) as self.daemon, \
                vhu.NetDriver(self.daemon.socket('healthy')).start() as healthy:
            healthy.exchange()
            self.session(SESSION)
            before = harness.settled(self.daemon.pid)
            sent = devices = 0
            while sent < MESSAGES:
                commands = min(self.random.randrange(1, SESSION), MESSAGES - sent)
                devices += self.session(commands)
                sent += commands
                self.assertIsNone(self.daemon.process.poll(), f'dead after {sent} commands')
                healthy.exchange()
            print(f'{sent} commands, {devices} devices removed at the ends of connections: '
                  f'{dict(self.counts)}; {harness.nothing_left(self.daemon.pid, before)}', flush=True)
        for command in 'dev.add', 'dev.del', 'dev.set', '/vdpa/dev/show', '/vdpa/dev/stats':
            for outcome in 'done', 'refused':
                self.assertGreater(self.counts[command, outcome], MESSAGES // 1000, (command, outcome))
        for command in 'add', 'del':
            self.assertEqual(self.counts[f'/vdpa/dev/{command}', 'done'], 0)


if __name__ == '__main__':
    unittest.main(verbosity=2)
