#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Stop and continue on functions that others have written: QEMU's virtio-net-pci and virtio-blk-pci, by
the kernel's vfio-pci and behind an IOMMU, inside the laboratory. What runs there is lab_stop.py.
"""

import os

import lab
import test_lab_vfio
import vmtest


class Stops(test_lab_vfio.Functions):
    script = "lab_stop"
    env = {k: os.environ[k] for k in ("UVDPA_TEST_LONG", "UVDPA_TEST_SEED") if k in os.environ}
    NEED_TAP = ["Net", "Conformance.test_net", "Conformance.test_net_on_shadows", "Refused.test_net"]

    def test_block(self):
        self.check("intel", ["Block", "Conformance.test_block", "Conformance.test_block_on_shadows",
                             "Refused.test_block"])

    def test_net(self):
        self.check("intel", self.NEED_TAP)


if __name__ == "__main__":
    vmtest.main(lab.missing)
