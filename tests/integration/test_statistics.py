#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Statistics against somebody else's: packets and bytes to the last one against testpmd's, queue by queue; kicks, interrupts
and buffers against what a front end of the test has done; and what telemetry makes of them.
"""

import json
import os
import re
import shutil
import subprocess
import unittest

import harness
import vhost_user_client as vhost

DEVICE_STATS = ('state', 'memory_bytes', 'memory_regions', 'start_us', 'starts', 'stops', 'failures', 'connections')
NET_STATS = ('queue_type', 'path', 'packets', 'bytes', 'kicks', 'kicks_relayed', 'interrupts', 'ring_size',
             'ring_depth', 'errors', 'dropped', 'received_desc', 'completed_desc')


def queue_counters(pmd, queues):
    """What testpmd's port has counted, by the index of the device's queue: (packets, bytes)."""
    text = pmd.run('show port xstats 0')
    value = {key: int(n) for key, n in re.findall(r'^(\w+): (\d+)$', text, re.M)}
    return [(value[f'{way}_q{pair}_good_packets'] if f'{way}_q{pair}_good_packets' in value
             else value[f'{way}_q{pair}_packets'],
             value[f'{way}_q{pair}_good_bytes'] if f'{way}_q{pair}_good_bytes' in value
             else value[f'{way}_q{pair}_bytes'])
            for pair in range(queues) for way in ('rx', 'tx')]


class Testpmd(unittest.TestCase):
    """Packets go round, then the driver takes what is left in its rings: both sides have counted the same."""

    def queues(self, daemon, n):
        return [daemon.ask(f'/vdpa/dev/stats,net0,{q}') for q in range(n)]

    def check(self, queues=1, size=64, **vdev):
        words = f'name net0 mgmtdev sim_net max_vqp {queues} socket {{dir}}/net0.sock'
        with harness.Daemon([words]) as daemon:
            port = harness.virtio_user(daemon.socket('net0'), queues=queues, **vdev)
            with harness.Testpmd([port], queues=queues) as pmd:
                pmd.run(f'set txpkts {size}')
                self.assertTrue(pmd.forward(
                    lambda: all(q['packets'] > 2000 for q in self.queues(daemon, 2 * queues)), 'start tx_first 4'))
                # The rest of them, which the device has delivered or is about to.
                pmd.run('set fwd rxonly')
                self.assertTrue(pmd.forward(
                    lambda: pmd.port_stats()['RX-packets'] ==
                    sum(q['packets'] for q in self.queues(daemon, 2 * queues)[0::2]) and
                    pmd.port_stats()['TX-packets'] ==
                    sum(q['packets'] + q['dropped'] + q['errors'] for q in self.queues(daemon, 2 * queues)[1::2])))
                theirs, by_queue = pmd.port_stats(), queue_counters(pmd, queues)
                ours = self.queues(daemon, 2 * queues)
            harness.wait_for(lambda: daemon.show('net0')['state'] == 'idle', 'the device to stop')
            after = self.queues(daemon, 2 * queues)
            device = daemon.stats('net0')['device']
        self.compare(theirs, by_queue, ours)
        # A stop takes nothing away.
        self.compare(theirs, by_queue, after)
        for q in after:
            self.assertEqual((q['ring_size'], q['ring_depth']), (0, 0))
            self.assertEqual(q['received_desc'], q['completed_desc'] if q['queue_type'] == 'tx' else q['received_desc'])
        self.assertEqual((device['starts'], device['stops'], device['failures'], device['connections']), (1, 1, 0, 1))
        self.assertEqual(device['tx_packets'] + device['tx_drops'], theirs['TX-packets'])

    def compare(self, theirs, by_queue, ours):
        rx, tx = ours[0::2], ours[1::2]
        self.assertEqual(sum(q['packets'] for q in rx), theirs['RX-packets'])
        self.assertEqual(sum(q['bytes'] for q in rx), theirs['RX-bytes'])
        self.assertEqual(sum(q['packets'] + q['dropped'] for q in tx), theirs['TX-packets'])
        if not any(q['dropped'] for q in tx):
            self.assertEqual(sum(q['bytes'] for q in tx), theirs['TX-bytes'])
        self.assertEqual(sum(q['errors'] for q in ours), 0)
        for q, (packets, size) in zip(ours, by_queue):
            self.assertEqual(q['packets'] + (q['dropped'] if q['queue_type'] == 'tx' else 0), packets)
            if not q['dropped']:
                self.assertEqual(q['bytes'], size)

    def test_split(self):
        self.check()

    def test_packed_large_frames(self):
        self.check(size=1400, packed=True)

    def test_two_pairs(self):
        self.check(queues=2)

    def test_on_a_shadow(self):
        """The same by rings of our own between the two, which have their part in kicks and interrupts."""
        words = 'name net0 mgmtdev sim_net migration shadow socket {dir}/net0.sock'
        with harness.Daemon([words]) as daemon:
            with harness.Testpmd([harness.virtio_user(daemon.socket('net0'))]) as pmd:
                self.assertTrue(pmd.forward(
                    lambda: all(q['packets'] > 500 for q in self.queues(daemon, 2)), 'start tx_first 4'))
                pmd.run('set fwd rxonly')
                self.assertTrue(pmd.forward(
                    lambda: pmd.port_stats()['RX-packets'] == self.queues(daemon, 1)[0]['packets']))
                theirs, by_queue, ours = pmd.port_stats(), queue_counters(pmd, 1), self.queues(daemon, 2)
        self.assertEqual([q['path'] for q in ours], ['shadow', 'shadow'])
        self.compare(theirs, by_queue, ours)


class FrontEnd(unittest.TestCase):
    """Signals and buffers, against a front end that counts its own."""

    def test_kicks_interrupts_and_buffers(self):
        for words, path, relayed in (('', 'direct', False), ('migration shadow', 'shadow', True)):
            for ring in vhost.SplitRing, vhost.PackedRing:
                with self.subTest(path, ring=ring.__name__), \
                        harness.Daemon([f'name net0 mgmtdev sim_net {words} socket {{dir}}/net0.sock'],
                                       args=['--poll-us', '0']) as daemon, \
                        vhost.NetDriver(daemon.socket('net0'), ring=ring).start() as net:
                    self.signals(daemon, net, path, relayed)
                    self.depth(daemon, net, ring)

    def signals(self, daemon, net, path, relayed):
        def queues():
            stats = daemon.stats('net0')['queues']
            return stats['0'], stats['1']
        before = queues()
        for _ in range(20):
            net.exchange()
        after = queues()
        for q, was in zip(after, before):
            self.assertEqual(tuple(q)[:len(NET_STATS)], NET_STATS)
            self.assertEqual(q['path'], path)
            self.assertEqual(q['packets'] - was['packets'], 20)
            self.assertEqual(q['bytes'] - was['bytes'], 20 * 114)
            for stat in 'received_desc', 'completed_desc':
                self.assertEqual(q[stat] - was[stat], 20)
            # Two that come close to each other are one.
            self.assertGreater(q['kicks'] - was['kicks'], 0)
            self.assertLessEqual(q['kicks'] - was['kicks'], 20)
            self.assertEqual(q['kicks_relayed'], q['kicks'] if relayed else 0)
            self.assertGreater(q['interrupts'] - was['interrupts'], 0)
            self.assertLessEqual(q['interrupts'] - was['interrupts'], 20)
            self.assertEqual((q['errors'], q['dropped']), (0, 0))
        kicks = after[1]['kicks']
        for n in range(1, 6):
            net.tx.kick()
            harness.wait_for(lambda n=n: queues()[1]['kicks'] == kicks + n, 'one kick more')

    def depth(self, daemon, net, ring):
        for n in range(1, 6):
            net.rx.add(net.rx_buf, 4096, True)
            q = daemon.ask('/vdpa/dev/stats,net0,0')
            self.assertEqual(q['ring_size'], 64)
            self.assertEqual(q['ring_depth'], n if ring is vhost.SplitRing else 'unknown')

    def test_a_block_device_counts_requests(self):
        with harness.Daemon(['name blk0 mgmtdev sim_blk backend ram 16M socket {dir}/blk0.sock']) as daemon:
            q = daemon.ask('/vdpa/dev/stats,blk0,0')
            self.assertEqual(q['queue_type'], 'request')
            self.assertEqual((q['requests'], q['bytes'], q['errors']), (0, 0, 0))
            self.assertNotIn('packets', q)
            self.assertNotIn('dropped', q)
            self.assertEqual(daemon.stats('blk0')['device']['start_us'], 'unknown')


class Telemetry(unittest.TestCase):
    def test_dpdk_telemetry_py_reads_every_command(self):
        tool = shutil.which('dpdk-telemetry.py')
        harness.skip_unless(tool, 'dpdk-telemetry.py is not installed (package dpdk)')
        with harness.Daemon(['name net0 mgmtdev sim_net max_vqp 4 socket {dir}/net0.sock',
                             'name blk0 mgmtdev sim_blk backend ram 1M socket {dir}/blk0.sock']) as daemon:
            commands = [c for c in daemon.ask('/') if c.startswith('/vdpa/')]
            parameter = {'/vdpa/mgmtdev/show': ['sim_net', 'sim_blk'], '/vdpa/dev/show': ['net0', 'blk0'],
                         '/vdpa/dev/stats': ['net0', 'net0,8', 'blk0', 'blk0,0']}
            asked = [f'{c},{p}' if p else c for c in commands for p in parameter.get(c, [''])]
            run_dir = os.path.dirname(os.path.dirname(daemon.runtime_dir()))
            got = subprocess.run([tool, '-f', daemon.prefix], input='\n'.join([*asked, 'quit']) + '\n', text=True,
                                 stdout=subprocess.PIPE, timeout=harness.TIMEOUT, check=True,
                                 env={**os.environ, 'RUNTIME_DIRECTORY': run_dir}).stdout
        answers, decoder, at = [], json.JSONDecoder(), 0
        while (at := got.find('{', at)) >= 0:
            answer, at = decoder.raw_decode(got, at)
            answers += [(key, value) for key, value in answer.items() if key in commands]
        self.assertGreaterEqual(len(commands), 5)
        self.assertEqual([key for key, _ in answers], [command.split(',')[0] for command in asked], got)
        for command, (_, answer) in zip(asked, answers):
            if ',' in command:
                self.assertNotIn('error', answer, command)

    def test_what_is_unknown_has_that_word(self):
        with harness.Daemon(['name net0 mgmtdev sim_net socket {dir}/net0.sock']) as daemon:
            stats = daemon.stats('net0')
            self.assertEqual(tuple(stats['device'])[:len(DEVICE_STATS)], DEVICE_STATS)
            self.assertEqual(stats['device']['start_us'], 'unknown')
            self.assertNotIn(None, stats['device'].values())
            self.assertEqual([stats['queues'][str(q)]['queue_type'] for q in range(3)], ['rx', 'tx', 'control_vq'])


if __name__ == '__main__':
    unittest.main(verbosity=2)
