# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A host of the guests in numbered_guest.py: a daemon with devices of any kind, perhaps of a model."""

import contextlib
import os
import tempfile

import harness

MODEL = os.environ.get('UVDPA_MODEL', 'vdpa-model')
RING_PACKED, RING_RESET = 1 << 34, 1 << 40
# All that sim_net and sim_blk have.
FEATURES = {'net': 0x14d30bf8020, 'ram': 0x14d30007e46, 'file': 0x14530007e46}
IMAGE = 8 << 20


def without(kind, features):
    """The words of a simulated device without some features."""
    return f'device_features {FEATURES[kind] & ~features:#x}'


def words(kind, more):
    """A device of the kind net, ram (requests end in order) or file (in any order); {folder} is open."""
    return {'net': 'mgmtdev sim_net backend loopback ', 'ram': f'mgmtdev sim_blk backend ram {IMAGE} queues 2 ',
            'file': 'mgmtdev sim_blk backend file {folder}/disk queues 2 share-rw '}[kind] + more


class Host(contextlib.ExitStack):
    """devices: name -> (kind, words of the simulated device, words of the daemon's); model: whether the
    simulated devices are in a process of their own, as functions of that kind ('' for none)."""

    def __init__(self, devices, model='', disk=None):
        """disk: the file of devices of the kind file, which others may share; None: one of its own."""
        super().__init__()
        self.disk = disk
        self.devices, self.function = devices, model
        self.model = None

    def __enter__(self):
        super().__enter__()
        folder = self.enter_context(tempfile.TemporaryDirectory(prefix='uvdpa-test.'))
        if self.disk:
            os.link(self.disk, f'{folder}/disk')
        else:
            with open(f'{folder}/disk', 'wb') as disk:
                disk.truncate(IMAGE)
        if self.function:
            self.model = self.enter_context(harness.Daemon(
                [f'name {name} {words(kind, sim).format(folder=folder)} function {self.function} '
                 f'vfio_user {folder}/{name}.vfu'
                 for name, (kind, sim, _) in self.devices.items()], app=MODEL))
            lines = [f'name {name} mgmtdev vfio-user/{folder}/{name}.vfu {app} socket {{dir}}/{name}.sock'
                     for name, (_, _, app) in self.devices.items()]
        else:
            lines = [f'name {name} {words(kind, sim).format(folder=folder)} {app} socket {{dir}}/{name}.sock'
                     for name, (kind, sim, app) in self.devices.items()]
        self.app = self.enter_context(harness.Daemon(lines))
        return self

    def socket(self, name):
        return self.app.socket(name)

    def counters(self, name):
        """Of the device that executes the rings."""
        counted = (self.model or self.app).stats(name)['device']
        return {key: value for key, value in counted.items() if isinstance(value, int)}

    def dropped(self, name):
        stats = self.counters(name)
        return stats['rx_drops'] + stats['tx_drops']

    def paths(self, name):
        """The queues that are not on the direct path, with their statistics, by number."""
        queues = self.app.stats(name)['queues']
        return {q: stats for q, stats in queues.items() if stats['path'] != 'direct'}
