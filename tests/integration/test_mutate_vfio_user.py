#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Mutated vfio-user messages against the front end vfio-user of vdpa-app, as test_model_mutate.py has
them: simulated devices, and a function of vdpa-model behind the daemon. A vhost-user device of the
same daemon goes on meanwhile. One device is told to save and load its state, whole or mutated.
"""

import struct
import unittest

import test_model_mutate
import vhost_user_client
from vfio_user_client import *


class App(Server):
    """vdpa-app, with a function of a model of its own, which lives as long."""

    def __init__(self, devices, **kw):
        self.behind = Model(['name n mgmtdev sim_net max_vqp 2'])
        super().__init__([words.replace('BEHIND', f'vfio-user/{self.behind.socket("n")}') for words in devices], **kw)

    def start(self):
        self.behind.start()
        return super().start()

    def stop(self):
        code = super().stop()
        return self.behind.stop() or code

    def cleanup(self):
        super().cleanup()
        self.behind.cleanup()


class MutateVfioUser(test_model_mutate.Mutate):
    SERVER = App
    DEVICES = ('name m0 mgmtdev sim_net max_vqp 2 frontend vfio-user', 'name healthy mgmtdev sim_net frontend vfio-user',
               'name blk mgmtdev sim_blk backend ram 1M', 'name trap mgmtdev sim_net doorbell trap notify shared',
               'name moves mgmtdev sim_net max_vqp 2 frontend vfio-user device_state on dma_logging on suspend on',
               'name behind mgmtdev BEHIND', 'name vhu mgmtdev sim_net socket {dir}/vhu.sock')
    CHOICE, MUST_RUN = ('m0', 'blk', 'trap', 'moves', 'behind'), ('m0', 'moves', 'behind')

    def queue(self, device):
        # Kicks go by a doorbell that nobody counts but the function.
        return self.model.behind.stats('n')['queues'].get('1', {}) if device == 'behind' else super().queue(device)

    def session(self, device, most):
        self.device = device
        return super().session(device, most)

    def state_to(self, state):
        return DEVICE_FEATURE, struct.pack('<IIII', 16, FEATURE_SET | MIG_DEVICE_STATE, state, 0xFFFFFFFF), []

    def state_data(self, mutate):
        data = bytearray(self.state)
        for _ in range(self.random.randrange(1, 4) if mutate else 0):
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
        if mutate and self.random.randrange(4) == 0:
            del data[self.random.randrange(len(data)):]
        return MIG_WRITE, struct.pack('<II', 8 + len(data), len(data)) + data, []

    def setup(self):
        """Some drivers come with a guest from elsewhere."""
        if self.device != 'moves' or self.random.randrange(2):
            yield from super().setup()
        if self.device == 'moves':
            mutate = self.random.randrange(2)
            yield self.state_to(STATE_RESUMING)
            yield self.state_data(mutate)
            yield DMA_MAP, struct.pack('<IIQQQ', 32, RW, 0, self.mem.GPA, self.mem.size), [self.mem.fd]
            yield self.state_to(self.random.choice((STATE_STOP, STATE_RUNNING, STATE_RUNNING, STATE_STOP_COPY)))
            yield self.state_to(STATE_RUNNING)

    def valid(self):
        if self.device != 'moves' or self.random.randrange(2):
            return super().valid()
        size = self.random.choice((0, 1, 64, 4096))
        return self.random.choice((
            self.state_to(self.random.randrange(7)), self.state_to(STATE_STOP_COPY), self.state_to(STATE_RUNNING),
            (DEVICE_FEATURE, struct.pack('<II', 16, FEATURE_GET | self.random.choice((1, 2, 6, 7, 8))), []),
            (MIG_READ, struct.pack('<II', 8 + size, size), []),
            (MIG_READ, struct.pack('<II', 8 + size, size), []),
            self.state_data(self.random.randrange(2)),
            (RESET, b'', [])))

    def lacking(self):
        devices, commands = super().lacking()
        commands += [(command, outcome) for command in (DEVICE_FEATURE, MIG_READ, MIG_WRITE)
                     for outcome in ('done', 'refused') if self.counts[command, outcome] <= 2]
        if any(command in (DEVICE_FEATURE, MIG_READ, MIG_WRITE) for command, _ in commands):
            devices.append('moves')
        return devices, commands

    def test_mutated_messages(self):
        with NetDriver(self.model.socket('moves')) as net:
            net.start()
            self.state = net.client.save()
        with vhost_user_client.NetDriver(self.model.socket('vhu')) as net:
            net.start().exchange()
            super().test_mutated_messages()
            net.exchange()


if __name__ == '__main__':
    unittest.main()
