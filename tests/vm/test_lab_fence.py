#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
A keeper that fences virtio functions whose doorbell page somebody has mapped, inside the laboratory.
What runs there is lab_fence.c; this gives it two functions, of which one has a reset.
"""

import os
import shutil
import sys
import tempfile
import unittest

import lab

BUILD = os.environ.get("UVDPA_BUILD", str(lab.ROOT / "build"))
SKIP = 77  # meson's exit code for it

# On the root bus QEMU's functions have no reset of their own.
DEVICES = ["-device", f"virtio-rng-pci,addr=0x10{lab.MODERN}",
           "-device", "pcie-root-port,id=slot13,addr=0x13,chassis=1",
           "-device", f"virtio-rng-pci,bus=slot13{lab.MODERN}"]

SCRIPT = """
export NO_RESET=0000:00:10.0 RESET=0000:01:00.0 KEEPER=$UVDPA_BUILD/app/vdpa-keeper/vdpa-keeper
for f in $NO_RESET $RESET; do bind "$f"; done
"$UVDPA_BUILD/tests/vm/lab_fence" || fail "lab_fence"
result faults "$(dmesg | grep -c 'DMAR:.*fault addr' || true)"
"""


class Fence(unittest.TestCase):
    def test_no_dma_after_the_fence(self):
        folder = tempfile.mkdtemp(prefix="uvdpa-lab.", dir="/tmp")
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        lines = []
        with lab.Lab(folder, "lab", SCRIPT, DEVICES, env={"UVDPA_BUILD": BUILD}) as machine:
            def on_line(line):
                print(line, flush=True)
                lines.append(line)
            machine.on_line = on_line
            results = machine.run({})
        text = "\n".join(lines)
        for how in "fenced: reset; bus master is off", "fenced: bus master cleared, as it has no reset":
            self.assertIn(f"vdpa-keeper: rng0:vfio-device: {how}", text)
        self.assertNotIn("not fenced", text)
        self.assertEqual(int(results["faults"]), 0)


if __name__ == "__main__":
    why = lab.missing()
    if why is not None:
        print(f"SKIPPED: {why}")
        sys.exit(SKIP)
    unittest.main(verbosity=2)
