#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Every front end on every driver, as the table of doc/front-ends.md has them.

The table is read: a cell that names this test is run here, one that names lab_front_ends in the laboratory, whose kernel
has a vDPA bus. test-vdpa is the front end's client each time: by vhost-user's socket, by the virtio driver on a function
that the front end vfio-user makes, or by the driver vhost_vdpa on what VDUSE makes of a device.
"""

import concurrent.futures
import contextlib
import itertools
import os
import re
import subprocess
import unittest

import harness
import test_conformance as tc
import test_dpdk_vdpa as dpdk
from conformance_tool import cases, conformance

SOURCE = os.environ['UVDPA_SOURCE']
TABLE = os.path.join(SOURCE, 'doc', 'front-ends.md')
BUILD = os.environ['UVDPA_BUILD']

NET, BLOCK = 'sim_net max_vqp 2', 'sim_blk backend ram 16M queues 2'
OPTIONS = {NET: ['--type=net', '--loopback=yes'], BLOCK: ['--type=block', '--overwrite']}
# Data that go round the ring, an interrupt, a stop under way, and memory that comes and goes.
CASES = ('identity', 'queue_enable_moves', 'split_wraps', 'packed_wraps', 'split_interrupts', 'one_at_a_time',
         'multi_queue', 'stop_during_traffic', 'memory_change')
SHOWN = {'identity', 'queue_enable_moves', 'split_interrupts', 'one_at_a_time', 'stop_during_traffic'}
# Words of the model whose function a driver has.
FUNCTIONS = {'virtio': '', 'ifcvf': 'function ifcvf', 'octep': 'function octep'}
# The kernel's own simulator; its networks return no frame but to their own address.
KERNEL = {BLOCK: 'vdpasim_blk'}
_kernel_devices = itertools.count()


def setUpModule():
    dpdk.setUpModule()


def table():
    """{(driver, front end): names of the tests in the cell}"""
    with open(TABLE, encoding='utf-8') as f:
        rows = [[cell.strip() for cell in line.strip().strip('|').split('|')] for line in f if line.startswith('|')]
    names = [re.sub('`', '', name) for name in rows[0][1:]]
    return {(re.sub('`', '', row[0]), names[i]): re.findall(r'`([a-z0-9_]+)`', cell)
            for row in rows[2:] for i, cell in enumerate(row[1:])}


@contextlib.contextmanager
def mgmtdev(driver, sim):
    """Words behind mgmtdev of a device that the driver drives."""
    if driver == 'vhost_vdpa':
        name = f'sim{next(_kernel_devices)}'
        subprocess.run(['vdpa', 'dev', 'add', 'name', name, 'mgmtdev', KERNEL[sim]], check=True)
        try:
            yield f'vhost-vdpa/{name}'
        finally:
            subprocess.run(['vdpa', 'dev', 'del', name], check=True)
    elif driver in FUNCTIONS:
        with tc.model(f'{sim} {FUNCTIONS[driver]}') as model:
            yield model.functions[0]
    else:
        yield sim


class Cells(unittest.TestCase):
    def device(self, words, front_end, stack):
        """What test-vdpa is to be run on."""
        if front_end == 'vhost-user':
            return {'socket': stack.enter_context(tc.daemon(words)).socket('d0')}
        if front_end == 'vfio-user':
            app = stack.enter_context(harness.Daemon([f'name d0 mgmtdev {words} frontend vfio-user '
                                                      'vfio_user {dir}/d0.vfu']))
            return {'dev': f'mgmtdev vfio-user/{app.dir}/d0.vfu'}
        if front_end == 'vduse':
            name = f'd{next(_kernel_devices)}'
            stack.enter_context(harness.Daemon([f'name {name} mgmtdev {words} frontend vduse mode vhost']))
            return {'dev': f'mgmtdev vhost-vdpa/{name}'}
        name, *rest = words.split(' ', 1)
        pairs = rest[0].split() if rest else []
        # "backend ram 16M queues 2": a word and its values, up to the next word.
        if pairs[:1] == ['backend']:
            pairs = ['backend=ram 16M', *[f'{k}={v}' for k, v in zip(pairs[3::2], pairs[4::2])]]
        else:
            pairs = [f'{k}={v}' for k, v in zip(pairs[::2], pairs[1::2])]
        example = stack.enter_context(dpdk.Example([','.join(['uvdpa0', f'mgmtdev={name}', *pairs])]))
        return {'socket': example.create('uvdpa0')}

    test = 'front_ends'
    at_once = 2
    least = 12

    def cell(self, driver, front_end, sim):
        with contextlib.ExitStack() as stack:
            words = stack.enter_context(mgmtdev(driver, sim))
            return conformance(self.device(words, front_end, stack), *OPTIONS[sim], *cases(*CASES))

    def test_each(self):
        mine = [cell for cell, tests in table().items() if self.test in tests]
        self.assertGreaterEqual(len(mine), self.least)
        # octep's functions are networks.
        runs = [(*cell, sim) for cell in mine for sim in (NET, BLOCK)
                if not (cell[0].startswith('sim') and not sim.startswith(cell[0])) and
                (cell[0], sim) not in (('octep', BLOCK), ('vhost_vdpa', NET))]
        # Most of a run is waiting.
        with concurrent.futures.ThreadPoolExecutor(self.at_once) as pool:
            outcomes = list(pool.map(lambda run: self.cell(*run), runs))
        for (driver, front_end, sim), outcome in zip(runs, outcomes):
            with self.subTest(driver=driver, front_end=front_end, sim=sim):
                self.assertEqual(outcome.named('fail'), {}, outcome.text())
                passed = set(outcome.named('pass'))
                self.assertEqual(SHOWN - passed, set(), outcome.text())
                print(f'{driver} ({sim.split()[0]}) by {front_end}: {len(passed)} passed, '
                      f'{len(outcome.named("skip"))} skipped', flush=True)


class Table(unittest.TestCase):
    """The documentation's table against what there is."""

    def test_tests_exist(self):
        out = subprocess.run(['meson', 'test', '-C', BUILD, '--list', '--no-rebuild'], text=True, check=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        known = {line.split(' / ')[-1].strip() for line in out.splitlines() if ' / ' in line}
        for cell, tests in table().items():
            self.assertTrue(tests, f'{cell} names no test')
            self.assertLessEqual(set(tests), known, cell)

    def test_front_ends_and_drivers_are_those_of_the_library(self):
        with open(os.path.join(SOURCE, 'lib', 'vdpa', 'builtin.c'), encoding='utf-8') as f:
            text = f.read()
        drivers = set(re.findall(r'&vdpa_(\w+)_driver\b', text))
        front_ends = set(re.findall(r'&vdpa_(\w+)_frontend\b', text)) | {'rte_vdpa'}  # of the plugin
        cells = table()
        self.assertEqual({front_end.replace('-', '_') for _, front_end in cells}, front_ends)
        self.assertEqual({'sim' if driver.startswith('sim_') else driver for driver, _ in cells}, drivers)


if __name__ == '__main__':
    unittest.main()
