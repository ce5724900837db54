#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Eight functions of QEMU's that serve one VM, over the kernel's vfio-pci behind an IOMMU, inside the
laboratory: its memory is pinned once. What runs there is lab_vm.py; this is the far end, which sends
every frame back.
"""


import lab
import reflector
import vmtest

SLOTS = range(0x10, 0x18)
MAC = "52:54:00:00:01:{:02x}"
TIMEOUT = 300  # seconds for boot and test


class OneVm(vmtest.LabTest):
    def check(self, iommu):
        devices, fds = [], []
        for slot in SLOTS:
            far = reflector.Datagrams()
            self.addCleanup(far.close)
            devices += lab.net(slot, far.netdev, MAC.format(slot))
            fds += far.pass_fds
        script = lab.python(self.folder, "lab_vm", "-v")
        self.lab("lab", script, devices, iommu=iommu, pass_fds=fds).run(timeout=TIMEOUT)

    def test_intel_iommu(self):
        self.check("intel")


if __name__ == "__main__":
    vmtest.main(lab.missing)
