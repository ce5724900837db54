#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Functions that go on while the daemon is killed and restarted: QEMU's virtio-net-pci and virtio-blk-pci,
by the kernel's vfio-pci and behind an IOMMU, inside the laboratory. What runs there is lab_adopt.py.
"""

import os

import lab
import test_lab_vfio
import vmtest


class Adopt(test_lab_vfio.Functions):
    script = "lab_adopt"
    env = {"UVDPA_KEEPER": os.path.join(vmtest.BUILD, "app/vdpa-keeper/vdpa-keeper"),
           **{k: os.environ[k] for k in ("UVDPA_TEST_LONG", "UVDPA_TEST_SEED") if k in os.environ}}

    def devices(self):
        return [*self.net(0x10, 1), *self.net(0x19, 1, ",page-per-vq=on"), *self.blk(0x14),
                *self.blk(0x15, ",packed=on")]

    def test_adopt(self):
        self.check("intel", [])


if __name__ == "__main__":
    vmtest.main(lab.missing)
