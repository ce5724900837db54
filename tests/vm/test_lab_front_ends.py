#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Front ends and drivers that need the kernel's vDPA bus, inside the laboratory: the front end vduse on every driver, and
the driver vhost_vdpa behind every front end, as the table of doc/front-ends.md has them. What runs there is
lab_front_ends.py.
"""

import shutil

import lab
import machine
import vmtest

TIMEOUT = 400  # seconds for boot and test


class FrontEnds(vmtest.LabTest):
    def test_table(self):
        folder = machine.fetched("vdpa")
        script = lab.python(self.folder, "lab_front_ends", str(folder / "modules"))
        m = self.lab("lab", script, [], env={
            "UVDPA_BUILD": vmtest.BUILD, "UVDPA_SOURCE": str(machine.ROOT),
            "UVDPA_APP": f"{vmtest.BUILD}/examples/vdpa-app/vdpa-app",
            "UVDPA_MODEL": f"{vmtest.BUILD}/app/vdpa-model/vdpa-model",
            "UVDPA_TEST_VDPA": f"{vmtest.BUILD}/app/test-vdpa/test-vdpa"})
        m.on_line = lambda line: print(line[:400], flush=True)
        m.run(timeout=TIMEOUT)


def missing():
    if shutil.which("vdpa") is None:
        return "no vdpa: run scripts/setup test"
    if lab.missing() is None and machine.fetched("vdpa") is None:
        return "no modules: run scripts/fetch-guest vdpa"
    return lab.missing()


if __name__ == "__main__":
    vmtest.main(missing)
