# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""testpmd's virtio-user passes traffic through sim_net's loopback, and both sides count the same."""

import contextlib
import fcntl
import os
import re
import unittest

import harness


class Loopback(unittest.TestCase):
    def test_polling_cpu(self):
        self.check(daemon_args=['--poll-lcores', str(min(os.sched_getaffinity(0)))])

    def test_several_lcores_share_the_pairs(self):
        cpus = sorted(os.sched_getaffinity(0))[:2]
        harness.skip_unless(len(cpus) == 2, 'one CPU only')
        for packed in (False, True):
            with self.subTest(packed=packed):
                self.check(queues=4, words='workers 2', packed=packed,
                           daemon_args=['--poll-lcores', ','.join(map(str, cpus))])

    def check(self, queues=1, memory=('--no-huge', '-m', '256'), daemon_args=(), eal=(), words='',
              **vdev):
        device = f'name net0 mgmtdev sim_net max_vqp {queues} {words} socket {{dir}}/net0.sock'
        with harness.Daemon([device], args=daemon_args, eal=eal) as daemon:
            port = harness.virtio_user(daemon.socket('net0'), queues=queues, **vdev)
            with harness.Testpmd([port], queues=queues, memory=memory) as pmd:
                self.assertEqual(daemon.show('net0')['state'], 'running')
                features = int(daemon.show('net0')['negotiated_features'], 16)
                self.assertEqual(bool(features >> 34 & 1), vdev.get('packed', False))
                self.assertEqual(bool(features >> 35 & 1), vdev.get('in_order', False))
                self.assertEqual(bool(features >> 15 & 1), vdev.get('mrg_rxbuf', True))
                theirs, stats = harness.loopback(
                    self, pmd, queues, lambda q: daemon.ask(f'/vdpa/dev/stats,net0,{q}'),
                    lambda: harness.drops(daemon.stats('net0')))
                self.assertEqual(theirs['RX-errors'] + theirs['TX-errors'], 0)
                self.assertEqual(sum(q['bytes'] for q in stats[1::2]), 64 * theirs['TX-packets'])
            harness.wait_for(lambda: daemon.show('net0')['state'] == 'idle', 'the device to stop')


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

    PAGES = 192  # 128 for testpmd, 32 for the daemon

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
    with open(path) as lock, contextlib.ExitStack() as stack:
        # Another run of the tests on this machine would take the pages, or give them back.
        fcntl.flock(lock, fcntl.LOCK_EX)

        def free():
            with open('/proc/meminfo') as f:
                return int(re.search(r'HugePages_Free:\s+(\d+)', f.read()).group(1))

        def number():
            with open(path) as f:
                return int(f.read())

        def reserve(n):
            with open(path, 'w') as f:
                f.write(str(n))

        stack.callback(reserve, number())
        # Again for pages in use that the number did not count before.
        for _ in range(2):
            if free() < pages:
                reserve(number() + pages - free())
        harness.skip_unless(free() >= pages, f'{pages} huge pages cannot be had, only {free()}')
        yield


load_tests = harness.load_tests

if __name__ == '__main__':
    unittest.main(verbosity=2)
