# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""testpmd's virtio-user passes traffic through sim_net's loopback, and both sides count the same."""

import contextlib
import os
import re
import time
import unittest

import harness

BURSTS = 4  # of 32 packets, sent on each queue to begin with; then they go round
SECONDS = 1.0


class Loopback(unittest.TestCase):
    def test_polling_cpu(self):
        self.check(daemon_args=['--poll-lcores', str(min(os.sched_getaffinity(0)))])

    def check(self, queues=1, memory=('--no-huge', '-m', '256'), daemon_args=(), eal=(), **vdev):
        device = f'name net0 mgmtdev sim_net max_vqp {queues} socket {{dir}}/net0.sock'
        with harness.Daemon([device], args=daemon_args, eal=eal) as daemon:
            port = harness.virtio_user(daemon.socket('net0'), queues=queues, **vdev)
            with harness.Testpmd([port], queues=queues, memory=memory) as pmd:
                self.assertEqual(daemon.show('net0')['state'], 'running')
                features = int(daemon.show('net0')['negotiated_features'], 16)
                self.assertEqual(bool(features >> 34 & 1), vdev.get('packed', False))
                self.assertEqual(bool(features >> 35 & 1), vdev.get('in_order', False))
                self.assertEqual(bool(features >> 15 & 1), vdev.get('mrg_rxbuf', True))
                pmd.run(f'start tx_first {BURSTS}')
                time.sleep(SECONDS)
                pmd.run('stop')
                # What was sent last is still being looped back.
                time.sleep(0.1)
                self.compare(daemon, pmd, queues)
            harness.wait_for(lambda: daemon.show('net0')['state'] == 'idle', 'the device to stop')

    def compare(self, daemon, pmd, queues):
        theirs = pmd.port_stats()
        in_flight = 32 * BURSTS * queues
        stats = [daemon.ask(f'/vdpa/dev/stats,net0,{i}') for i in range(2 * queues)]
        rx, tx = stats[0::2], stats[1::2]
        sent = sum(q['tx_packets'] for q in tx)
        delivered = sum(q['rx_packets'] for q in rx)
        dropped = harness.drops(daemon.stats('net0'))
        print(f'{self.id()}: testpmd sent {theirs["TX-packets"]}, device took {sent}, '
              f'dropped {dropped}, delivered {delivered}, testpmd received '
              f'{theirs["RX-packets"]}', flush=True)
        self.assertGreater(theirs['RX-packets'], 10000)
        self.assertEqual(theirs['RX-errors'] + theirs['TX-errors'], 0)
        # Every packet that testpmd queued reached the device, and left it again.
        self.assertEqual(sent, theirs['TX-packets'])
        self.assertEqual(sent, delivered + dropped)
        # What testpmd has not fetched yet is in flight, and no more than that.
        self.assertGreaterEqual(delivered, theirs['RX-packets'])
        self.assertLessEqual(delivered - theirs['RX-packets'], in_flight)
        self.assertEqual(sum(q['tx_bytes'] for q in tx), 64 * sent)
        # Each queue pair had its share.
        for queue in rx:
            self.assertGreater(queue['rx_packets'], 0)
        for queue in tx:
            self.assertGreater(queue['tx_packets'], 0)


def case(**kwargs):
    return lambda self: self.check(**kwargs)


for _layout, _layout_args in (('split', {}), ('packed', {'packed': True})):
    for _order, _order_args in (('', {}), ('_in_order', {'in_order': True})):
        for _mrg in (True, False):
            for _queues in (1, 2, 4):
                # Two and four queue pairs: once each way of ring is enough.
                if _queues > 1 and (_order or not _mrg):
                    continue
                setattr(Loopback, f'test_{_layout}{_order}_{"" if _mrg else "not_"}mergeable_'
                                  f'{_queues}_queue_pairs',
                        case(queues=_queues, mrg_rxbuf=_mrg, **_layout_args, **_order_args))


class LoopbackHugePages(Loopback):
    """The same with the memory of both in huge pages, for the two layouts."""

    PAGES = 256

    @classmethod
    def setUpClass(cls):
        cls._stack = contextlib.ExitStack()
        cls._stack.enter_context(huge_pages(cls.PAGES))

    @classmethod
    def tearDownClass(cls):
        cls._stack.close()

    def check(self, **kwargs):
        super().check(memory=('-m', '256', '--single-file-segments'),
                      eal=('-m', '64', '--in-memory'), **kwargs)


# Inherit the checks, not all the cases.
for _name in [name for name in dir(Loopback) if name.startswith('test_')]:
    if not re.fullmatch(r'test_(split|packed)_mergeable_[14]_queue_pairs', _name):
        setattr(LoopbackHugePages, _name, None)


@contextlib.contextmanager
def huge_pages(pages):
    """Reserve huge pages for a while, where we may."""
    path = '/proc/sys/vm/nr_hugepages'
    harness.skip_unless(os.getuid() == 0 and os.access(path, os.W_OK),
                        'huge pages can only be reserved by root')
    with open('/proc/meminfo') as f:
        free = int(re.search(r'HugePages_Free:\s+(\d+)', f.read()).group(1))
    with open(path) as f:
        before = int(f.read())
    try:
        if free < pages:
            with open(path, 'w') as f:
                f.write(str(before + pages - free))
        with open('/proc/meminfo') as f:
            free = int(re.search(r'HugePages_Free:\s+(\d+)', f.read()).group(1))
        harness.skip_unless(free >= pages, f'{pages} huge pages cannot be had, only {free}')
        yield
    finally:
        with open(path, 'w') as f:
            f.write(str(before))


if __name__ == '__main__':
    unittest.main(verbosity=2)
