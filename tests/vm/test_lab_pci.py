#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
PCI access by the kernel's VFIO, inside the laboratory and behind each kind of IOMMU. What runs there
is lab_pci.c; this gives it functions, and pulls one out when it asks.
"""

import json
import os
import shutil
import socket
import sys
import tempfile
import unittest

import lab

BUILD = os.environ.get("UVDPA_BUILD", str(lab.ROOT / "build"))
SKIP = 77  # meson's exit code for it

# Functions of one slot have no access control between them and are one group.
DEVICES = """
    -device edu,addr=0x10
    -device edu,addr=0x11.0,multifunction=on -device edu,addr=0x11.1
    -device edu,addr=0x12.0,multifunction=on -device virtio-rng-pci,addr=0x12.1
    -device pcie-root-port,id=slot13,addr=0x13,chassis=1
    -device virtio-net-pci,id=pulled,bus=slot13,iommu_platform=on,romfile=
    -device pcie-root-port,id=slot14,addr=0x14,chassis=2
    -device virtio-net-pci,id=torn,bus=slot14,iommu_platform=on,romfile=
""".split()

SCRIPT = """
export EDU=0000:00:10.0 GROUP_A=0000:00:11.0 GROUP_B=0000:00:11.1
export BESIDE_KERNELS=0000:00:12.0 KERNELS=0000:00:12.1
export VIRTIO=0000:01:00.0 TORN=0000:02:00.0 TORN_PORT=0000:00:14.0
for f in $EDU $GROUP_A $GROUP_B $BESIDE_KERNELS $VIRTIO $TORN; do bind "$f"; done
# The kernel would wait a minute for what was torn out to come back from a reset.
echo >/sys/bus/pci/devices/$TORN/reset_method
[ "$(driver_of "$KERNELS")" = virtio-pci ] || bind "$KERNELS" virtio-pci
result group "$(group_of "$GROUP_A") $(group_of "$GROUP_B")"
"$UVDPA_BUILD/tests/vm/lab_pci" || fail "lab_pci"
result faults "$(dmesg | grep -c 'DMAR:.*fault addr' || true)"
"""


class Pci(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="uvdpa-lab.", dir="/tmp")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def remove(self):
        """Ask QEMU to pull the function out; the machine's kernel has to agree."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(f"{self.folder}/qmp")
            f = s.makefile("rw")
            f.readline()
            for command in ({"execute": "qmp_capabilities"},
                            {"execute": "device_del", "arguments": {"id": "pulled"}}):
                f.write(json.dumps(command) + "\n")
                f.flush()
                answer = json.loads(f.readline())
                if "error" in answer:
                    raise lab.LabError(answer["error"]["desc"])

    def check(self, iommu):
        devices = [*DEVICES, "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"]
        with lab.Lab(self.folder, iommu, SCRIPT, devices, iommu=iommu,
                     env={"UVDPA_BUILD": BUILD}) as machine:
            machine.on_line = lambda line: print(line, flush=True)
            results = machine.run({"remove": self.remove})
        self.assertEqual(*results["group"].split())
        return results

    def test_intel_iommu(self):
        # The IOMMU has seen the DMA that went outside.
        self.assertGreater(int(self.check("intel")["faults"]), 0)

    def test_virtio_iommu(self):
        self.check("virtio")


if __name__ == "__main__":
    why = lab.missing()
    if why is not None:
        print(f"SKIPPED: {why}")
        sys.exit(SKIP)
    unittest.main(verbosity=2)
