#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Memory that comes and goes in a guest of a VFIO function, inside the laboratory. What runs there is
lab_hotplug.py; this is the far end, which sends every frame back.
"""

import shutil

import lab
import reflector
import vmtest
from vmtest import MAC0, MAC1

TIMEOUT = 900  # seconds for boot and test
MEMORY = 3072  # MiB: 1 GiB of it is the guest's, and pinned


class Hotplug(vmtest.LabTest):
    def check(self, iommu):
        far = reflector.Datagrams()
        self.addCleanup(far.close)
        # The second function is only a group of its own.
        devices = [*lab.net(0x10, far.netdev, MAC0), *lab.net(0x11, "user", MAC1)]
        script = lab.python(self.folder, "lab_hotplug", "-v")
        self.lab("lab", script, devices, iommu=iommu, memory=MEMORY,
                 pass_fds=far.pass_fds).run(timeout=TIMEOUT)

    def test_intel_iommu(self):
        self.check("intel")


def missing():
    return lab.missing() or (None if shutil.which("strace") else "strace is not installed")


if __name__ == "__main__":
    vmtest.main(missing)
