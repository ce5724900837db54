#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
The front end vduse in the laboratory, where the kernel has VDUSE, vhost_vdpa and virtio_vdpa. What
runs there is lab_vduse.py.
"""

import os
import shlex
import shutil
import sys

import lab
import machine
import vmtest

TIMEOUT = 500  # seconds for boot and test
# What lab_vduse.py is to run, all by default.
PARTS = shlex.split(os.environ.get("UVDPA_LAB_PARTS", ""))


class Vduse(vmtest.LabTest):
    def test_inside(self):
        """All of it in one boot."""
        script = shlex.join([sys.executable, "-B", "tests/vm/lab_vduse.py",
                             str(machine.fetched("vdpa") / "modules"), *PARTS]) + "\n"
        vdpactl = os.environ.get("UVDPA_VDPACTL", f"{vmtest.BUILD}/app/vdpactl/vdpactl")
        image = f"{self.folder}/disk.img"
        with open(image, "wb") as f:
            f.truncate(16 << 20)
        devices = lab.net(4, "user", vmtest.MAC0) + lab.blk(5, image)
        self.lab("lab", script, devices, env={"UVDPA_VDPACTL": vdpactl}).run(timeout=TIMEOUT)


def missing():
    if shutil.which("vdpa") is None:
        return "no vdpa: run scripts/setup test"
    if lab.missing() is None and machine.fetched("vdpa") is None:
        return "no modules: run scripts/fetch-guest vdpa"
    return lab.missing()


if __name__ == "__main__":
    vmtest.main(missing)
