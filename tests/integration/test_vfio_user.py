# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""The daemon drives a virtio-pci function in another process, and sleeps while packets pass.

Three processes: testpmd's virtio-user, vdpa-app with the driver virtio on vfio-user, and vdpa-model,
whose sim_net loops back what it is sent.
"""

import contextlib
import os
import time
import unittest

import harness

MODEL = os.environ.get('UVDPA_MODEL', 'vdpa-model')
BURSTS = 4  # of 32 packets, sent on each queue to begin with; then they go round
SECONDS = 1.0


@contextlib.contextmanager
def model(words='', pairs=1, name='m0'):
    """vdpa-model with one net function; it has .path, the function's name."""
    device = f'name {name} mgmtdev sim_net max_vqp {pairs} vfio_user {{dir}}/{name}.vfu {words}'
    with harness.Daemon([device], app=MODEL) as process:
        process.path = f'vfio-user/{process.dir}/{name}.vfu'
        yield process


@contextlib.contextmanager
def daemon(function, words=''):
    """vdpa-app with one device v0 on that function, served on a socket."""
    device = f'name v0 mgmtdev {function} socket {{dir}}/v0.sock {words}'
    with harness.Daemon([device]) as process:
        yield process


class Loopback(unittest.TestCase):
    def check(self, queues=1, words='', model_words='', **vdev):
        with model(model_words, queues) as other, daemon(other.path, words) as app:
            port = harness.virtio_user(app.socket('v0'), queues=queues, **vdev)
            with harness.Testpmd([port], queues=queues) as pmd:
                self.assertEqual(app.show('v0')['state'], 'running')
                pmd.run(f'start tx_first {BURSTS}')
                time.sleep(SECONDS)
                pmd.run('stop')
                time.sleep(0.1)
                self.compare(other, pmd, queues)
            harness.wait_for(lambda: app.show('v0')['state'] == 'idle', 'the device to stop')

    def compare(self, other, pmd, queues):
        theirs = pmd.port_stats()
        stats = [other.ask(f'/vdpa/dev/stats,m0,{i}') for i in range(2 * queues)]
        rx, tx = stats[0::2], stats[1::2]
        sent = sum(q['tx_packets'] for q in tx)
        delivered = sum(q['rx_packets'] for q in rx)
        dropped = harness.drops(other.stats('m0'))
        print(f'{self.id()}: testpmd sent {theirs["TX-packets"]}, device took {sent}, '
              f'dropped {dropped}, delivered {delivered}, testpmd received '
              f'{theirs["RX-packets"]}', flush=True)
        self.assertGreater(theirs['RX-packets'], 10000)
        self.assertEqual(sent, theirs['TX-packets'])
        self.assertEqual(sent, delivered + dropped)
        self.assertGreaterEqual(delivered, theirs['RX-packets'])
        self.assertLessEqual(delivered - theirs['RX-packets'], 32 * BURSTS * queues)
        for queue in rx:
            self.assertGreater(queue['rx_packets'], 0)
        for queue in tx:
            self.assertGreater(queue['tx_packets'], 0)


class Sleep(unittest.TestCase):
    """Doorbells that are relayed wake the daemon; the packets between them do not."""

    SECONDS = 2.0

    def packets(self, other):
        stats = other.stats('m0')['device']
        return stats['rx_packets'] + stats['tx_packets']

    def wakeups(self, app):
        counts = harness.context_switches(app.pid)
        return sum(n for name, n in counts.items() if name.startswith('vdpa-'))

    def test_packets_do_not_wake_the_daemon(self):
        with model() as other, daemon(other.path) as app:
            port = harness.virtio_user(app.socket('v0'))
            with harness.Testpmd([port]) as pmd:
                pmd.run(f'start tx_first {BURSTS}')
                time.sleep(0.2)
                before = self.packets(other), self.wakeups(app), harness.cpu_seconds(app.pid)
                kicks = app.stats('v0')['device']['kicks_relayed']
                time.sleep(self.SECONDS)
                packets = self.packets(other) - before[0]
                wakeups = self.wakeups(app) - before[1]
                cpu = harness.cpu_seconds(app.pid) - before[2]
                kicks = app.stats('v0')['device']['kicks_relayed'] - kicks
                pmd.run('stop')
        print(f'{packets} packets in {self.SECONDS:g} s: {kicks} kicks relayed, {wakeups} wake-ups '
              f'of the daemon, CPU {100 * cpu / self.SECONDS:.1f} %', flush=True)
        self.assertGreater(packets, 10000)
        # One for a kick, and none for a packet or an interrupt.
        self.assertLessEqual(wakeups, 2 * kicks + 5)


def case(**kwargs):
    return lambda self: self.check(**kwargs)


for _layout, _args in (('split', {}), ('packed', {'packed': True})):
    for _queues in (1, 4):
        setattr(Loopback, f'test_{_layout}_{_queues}_queue_pairs', case(queues=_queues, **_args))


if __name__ == '__main__':
    unittest.main(verbosity=2)
