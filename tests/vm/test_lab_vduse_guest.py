#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
A guest inside the laboratory, whose QEMU has a device of ours by VDUSE and /dev/vhost-vdpa-N, as it has
any vendor's. In a long run only: a guest in an emulated machine takes many minutes on a busy host, and lab_vduse
has a QEMU without one. What runs there is lab_vduse_guest.py.
"""

import guest
import lab
import machine
import vmtest

TIMEOUT = 1300


class Guest(vmtest.LabTest):
    def test_guest_pings_through_vhost_vdpa(self):
        script = lab.python(self.folder, "lab_vduse_guest", str(machine.fetched("vdpa") / "modules"))
        # What watches the test inside says more than the end of the machine.
        self.lab("lab", script, [], env={"UVDPA_LAB_WATCHDOG": TIMEOUT}).run(timeout=TIMEOUT + 60)


def missing():
    if not vmtest.LONG:
        return "UVDPA_TEST_LONG=1 is not set"
    if lab.missing() is None and machine.fetched("vdpa") is None:
        return "no modules: run scripts/fetch-guest vdpa"
    return lab.missing() or guest.missing()


if __name__ == "__main__":
    vmtest.main(missing)
