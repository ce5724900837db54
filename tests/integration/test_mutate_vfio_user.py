#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Mutated vfio-user messages against the front end vfio-user of vdpa-app, as test_model_mutate.py has
them: simulated devices, and a function of vdpa-model behind the daemon. A vhost-user device of the
same daemon goes on meanwhile.
"""

import unittest

import test_model_mutate
import vhost_user_client
from vfio_user_client import Model, Server


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
               'name behind mgmtdev BEHIND', 'name vhu mgmtdev sim_net socket {dir}/vhu.sock')
    CHOICE, MUST_RUN = ('m0', 'blk', 'trap', 'behind'), ('m0', 'behind')

    def queue(self, device):
        # Kicks go by a doorbell that nobody counts but the function.
        return self.model.behind.stats('n')['queues'].get('1', {}) if device == 'behind' else super().queue(device)

    def test_mutated_messages(self):
        with vhost_user_client.NetDriver(self.model.socket('vhu')) as net:
            net.start().exchange()
            super().test_mutated_messages()
            net.exchange()


if __name__ == '__main__':
    unittest.main()
