# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""sim_net's back ends that lead elsewhere: another device, the kernel."""

import contextlib
import os
import re
import shutil
import subprocess
import unittest

import harness
import vhost_user_client

PACKETS = 10000  # received, at least


class Peer(unittest.TestCase):
    """Two testpmds, each at one end of a pair of devices."""

    def check(self, a_layout, b_layout, queues=1):
        devices = [f'name a mgmtdev sim_net max_vqp {queues} backend peer b socket {{dir}}/a.sock',
                   f'name b mgmtdev sim_net max_vqp {queues} backend peer a socket {{dir}}/b.sock']
        with harness.Daemon(devices) as daemon:
            port_a = harness.virtio_user(daemon.socket('a'), queues=queues, **a_layout)
            port_b = harness.virtio_user(daemon.socket('b'), queues=queues, **b_layout)
            with harness.Testpmd([port_a], queues=queues) as a, \
                    harness.Testpmd([port_b], queues=queues) as b:
                self.one_way(daemon, a, b, 'a', 'b')
                self.one_way(daemon, b, a, 'b', 'a')

    def test_a_peer_that_does_not_exist_is_told(self):
        with harness.Daemon(['name a mgmtdev sim_net backend peer c socket {dir}/a.sock']) as daemon:
            with vhost_user_client.NetDriver(daemon.socket('a')) as driver:
                driver.start()
                daemon.err.wait("a: backend peer 'c': no device of that name has backend peer a")

    def one_way(self, daemon, sender, receiver, source, target):
        receiver.run('clear port stats all')
        sender.run('clear port stats all')
        before = self.counts(daemon, source), self.counts(daemon, target)
        receiver.run('set fwd rxonly')
        receiver.run('start')
        sender.run('set fwd txonly')

        def received():
            return receiver.port_stats()['RX-packets']

        def since():
            """What the source took, both dropped, and the target delivered."""
            after = self.counts(daemon, source), self.counts(daemon, target)
            return (after[0]['tx'] - before[0]['tx'],
                    sum(after[i]['drops'] - before[i]['drops'] for i in (0, 1)),
                    after[1]['rx'] - before[1]['rx'])

        self.assertTrue(sender.forward(lambda: received() > PACKETS), 'nothing is received')
        sent = sender.port_stats()['TX-packets']
        # What is on its way arrives, sooner or later.
        with contextlib.suppress(AssertionError):
            harness.wait_for(lambda: since()[0] == sent == sum(since()[1:])
                             and received() == since()[2], 'the last packets', interval=0.1)
        receiver.run('stop')
        taken, dropped, delivered = since()
        print(f'{self.id()}: {source} sent {sent}, device took {taken}, dropped {dropped}, '
              f'delivered {delivered}, {target} received {received()}', flush=True)
        self.assertEqual(taken, sent)
        self.assertEqual(taken, delivered + dropped)
        self.assertEqual(delivered, received())

    @staticmethod
    def counts(daemon, name):
        stats = daemon.stats(name)
        return {'rx': stats['device']['rx_packets'], 'tx': stats['device']['tx_packets'],
                'drops': harness.drops(stats)}

    def test_split_to_split(self):
        self.check({}, {})

    def test_packed_to_packed(self):
        self.check({'packed': True}, {'packed': True})

    def test_split_to_packed(self):
        self.check({}, {'packed': True})

    def test_mergeable_to_not(self):
        self.check({'mrg_rxbuf': True}, {'mrg_rxbuf': False})

    def test_two_queue_pairs(self):
        self.check({}, {}, queues=2)


class Uplink(unittest.TestCase):
    """A testpmd that reaches the kernel through net_tap."""

    def test_packets_reach_the_kernel(self):
        harness.skip_unless(os.getuid() == 0 and os.path.exists('/dev/net/tun'),
                            'a tap device needs root and /dev/net/tun')
        harness.skip_unless(shutil.which('unshare') and shutil.which('nsenter')
                            and shutil.which('ip'), 'needs unshare, nsenter and ip')
        netns = ['unshare', '--net', '--']
        works = subprocess.run([*netns, 'true'], capture_output=True).returncode == 0
        harness.skip_unless(works, 'no network namespace can be had')
        device = 'name net0 mgmtdev sim_net backend uplink net_tap0 socket {dir}/net0.sock'
        # unshare executes the daemon, so its process id is the daemon's.
        with harness.Daemon([device], eal=['--vdev=net_tap0,iface=uvtap0'],
                            launcher=netns) as daemon:
            enter = ['nsenter', f'--net=/proc/{daemon.pid}/ns/net', '--']

            def tap():
                text = subprocess.run([*enter, 'ip', '-s', 'link', 'show', 'uvtap0'],
                                      capture_output=True, text=True, check=True).stdout
                # RX: bytes packets ...
                return int(re.search(r'RX:.*\n\s*\d+\s+(\d+)', text).group(1))

            subprocess.run([*enter, 'ip', 'link', 'set', 'uvtap0', 'up'], check=True)
            port = harness.virtio_user(daemon.socket('net0'))
            with harness.Testpmd([port]) as pmd:
                before = tap()
                pmd.run('set fwd txonly')
                self.assertTrue(pmd.forward(lambda: pmd.port_stats()['TX-packets'] > 100))
                sent = pmd.port_stats()['TX-packets']
                received = harness.wait_for(lambda: tap() - before, 'packets on the tap')
                print(f'{self.id()}: sent {sent}, the kernel received {received}', flush=True)
                # From the kernel: its own multicast and an ARP request of ours.
                pmd.run('clear port stats all')
                pmd.run('set fwd rxonly')
                pmd.run('start')
                subprocess.run([*enter, 'ip', 'addr', 'add', '192.0.2.1/24', 'dev', 'uvtap0'],
                               check=True)
                subprocess.run([*enter, 'ping', '-c1', '-W1', '192.0.2.2'],
                               capture_output=True)
                harness.wait_for(lambda: pmd.port_stats()['RX-packets'] > 0,
                                 'packets from the kernel')
                pmd.run('stop')
            # One device a port, and the next one when that has gone.
            other = f'name net1 mgmtdev sim_net backend uplink net_tap0 socket {daemon.dir}/net1.sock'
            self.assertIn('the port is in use', daemon.refusal('dev.add', words=other))
            daemon.delete('net0')
            daemon.add(other)


if __name__ == '__main__':
    unittest.main(verbosity=2)
