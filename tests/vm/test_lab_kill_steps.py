#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
A daemon that is killed before each of its acts on functions of QEMU's behind the kernel's vfio-pci,
inside the laboratory. What runs there is lab_kill_steps.py.
"""

import os

import lab
import test_lab_vfio
import vmtest


class KillSteps(test_lab_vfio.Functions):
    script = "lab_kill_steps"
    # Each of a thousand kills costs some seconds of an emulated processor.
    timeout = vmtest.count(test_lab_vfio.TIMEOUT, 6 * 3600)
    env = {"UVDPA_KEEPER": os.path.join(vmtest.BUILD, "app/vdpa-keeper/vdpa-keeper"),
           "UVDPA_KILL_POINT_LIB": os.path.join(vmtest.BUILD, "tests/integration/libkill_point.so"),
           **{k: os.environ[k] for k in ("UVDPA_TEST_LONG", "UVDPA_TEST_SEED", "UVDPA_KILL_STRIDE", "UVDPA_KILL_VERBOSE", "UVDPA_KILL_ONLY")
              if k in os.environ}}

    def devices(self):
        return [*self.net(0x10, 1), *(self.blk(0x14) if vmtest.LONG else [])]

    def test_kill_steps(self):
        self.check("intel", os.environ.get("UVDPA_LAB_PARTS", "").split())


if __name__ == "__main__":
    vmtest.main(lab.missing)
