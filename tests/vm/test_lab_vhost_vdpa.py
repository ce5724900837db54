#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Devices of the kernel's vDPA bus, by /dev/vhost-vdpa-N and the driver vhost_vdpa, inside the laboratory:
the kernel's simulators, a disk of qemu-storage-daemon by VDUSE, one that is taken away while it runs, and
one that is taken from virtio_vdpa. What runs there is lab_vhost_vdpa.py.
"""

import os
import shutil

import lab
import machine
import vmtest

TIMEOUT = 800 if not vmtest.LONG else 1800  # seconds for boot and test


class VhostVdpa(vmtest.LabTest):
    def test_parents(self):
        folder = machine.fetched("vdpa")
        names = os.environ.get("UVDPA_LAB_TESTS", "").split()
        script = lab.python(self.folder, "lab_vhost_vdpa", str(folder / "modules"), *names)
        env = {k: os.environ[k] for k in ("UVDPA_TEST_LONG",) if k in os.environ}
        self.lab("lab", script, [], env=env).run(timeout=TIMEOUT)


def missing():
    for program in "vdpa", "qemu-storage-daemon":
        if shutil.which(program) is None:
            return f"no {program}: run scripts/setup"
    if lab.missing() is None and machine.fetched("vdpa") is None:
        return "no modules: run scripts/fetch-guest vdpa"
    return lab.missing()


if __name__ == "__main__":
    vmtest.main(missing)
