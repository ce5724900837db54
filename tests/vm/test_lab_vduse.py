#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
The front end vduse in the laboratory, where the kernel has VDUSE, vhost_vdpa and virtio_vdpa. What
runs there is lab_vduse.py.
"""

import contextlib
import hashlib
import os
import shlex
import shutil
import socket
import sys
import threading

import lab
import machine
import vmtest

# What lab_vduse.py is to run in any of its boots, all by default.
PARTS = shlex.split(os.environ.get("UVDPA_LAB_PARTS", ""))
IMAGE_MIB = 16


class EchoServer:
    """Sends back what each connection brings, until that ends. On this machine only."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    @staticmethod
    def serve(connection):
        with connection, contextlib.suppress(OSError):
            while (data := connection.recv(1 << 16)):
                connection.sendall(data)

    def close(self):
        self.listener.close()


class Vduse(vmtest.LabTest):
    def inside(self, parts, timeout, devices=(), env=(), handlers=None):
        """These parts of lab_vduse.py, in a boot of their own, seconds at most."""
        parts = [p for p in PARTS if p.split(".")[0] in parts] if PARTS else parts
        if not parts:
            self.skipTest("not among UVDPA_LAB_PARTS")
        script = lab.python(self.folder, "lab_vduse", str(machine.fetched("vdpa") / "modules"), *parts) + "\n"
        env = {"UVDPA_VDPACTL": os.environ.get("UVDPA_VDPACTL", f"{vmtest.BUILD}/app/vdpactl/vdpactl"),
               "UVDPA_TEST_LONG": str(int(vmtest.LONG)), "UVDPA_LAB_WATCHDOG": str(timeout), **dict(env)}
        # What watches the parts inside says more than the end of the machine.
        self.lab("lab", script, devices, env=env).run(handlers, timeout=timeout + 60)

    def test_simulated(self):
        self.inside(["Net", "Blk", "Vhost"], vmtest.count(900, 5000))

    def test_model(self):
        self.inside(["Model"], vmtest.count(900, 5000))

    def test_vfio(self):
        image = f"{self.folder}/disk.img"
        with open(image, "wb") as f:
            f.truncate(IMAGE_MIB << 20)

        def digest(size):
            with open(image, "rb") as f:
                return hashlib.sha256(f.read(int(size))).hexdigest()

        server = EchoServer()
        self.addCleanup(server.close)
        self.inside(["Vfio"], vmtest.count(900, 5000),
                    lab.net(4, "user", vmtest.MAC0, ",packed=on") + lab.blk(5, image, ",packed=on"),
                    {"UVDPA_LAB_PORT": server.port},
                    {"blocks": lambda: f"{os.stat(image).st_blocks}", "image": digest})


def missing():
    if shutil.which("vdpa") is None:
        return "no vdpa: run scripts/setup test"
    if lab.missing() is None and machine.fetched("vdpa") is None:
        return "no modules: run scripts/fetch-guest vdpa"
    return lab.missing()


if __name__ == "__main__":
    vmtest.main(missing)
