# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""Devices of a vdpa-model, served to guests by a vdpa-app."""

import pathlib

import daemon
import vmtest

RING_RESET = 1 << 40


class Model(daemon.Model):
    """The same, asked for its doorbells."""

    def queues(self, name):
        """Doorbells of each queue, by memory and by message."""
        return self.ask("/model/stats", name)["queues"]


class ModelTest(vmtest.GuestTest):
    """A model with devices NAME, and a daemon that drives each of them as app-NAME."""

    def serve(self, ring_reset=True, drive="", **devices):
        """devices: the words of each by its name. drive: words of the daemon's devices."""
        folder = pathlib.Path(self.folder, "model")
        folder.mkdir()
        words = {name: f"name {name} {w} vfio_user %s/{name}.vfu" for name, w in devices.items()}
        self.model = Model(vmtest.BUILD, folder, words.values())
        self.model.start()
        if not ring_reset:
            features = {name: int(self.model.ask("/vdpa/dev/show", name)["device_features"], 16)
                        for name in words}
            self.model.stop()
            self.model.devices = [
                f"{w} device_features {features[name] & ~RING_RESET:#x}".replace("%s", str(folder))
                for name, w in words.items()]
            self.model.start()
        self.addCleanup(self.model.kill)
        self.app = self.daemon(*(f"name app-{name} mgmtdev vfio-user/{folder}/{name}.vfu "
                                 f"{drive} socket %s/{name}.sock" for name in words))

    def state(self, name):
        return self.app.ask("/vdpa/dev/show", f"app-{name}")["state"]
