#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Functions that go on while the daemon is killed, restarted and upgraded: QEMU's virtio-net-pci and
virtio-blk-pci, by the kernel's vfio-pci and behind an IOMMU, inside the laboratory. What runs there is
lab_adopt.py; how many requests a disk has under way its own QEMU says.
"""

import os

import lab
import qmp
import test_lab_vfio
import vmtest

# What a disk lets through: all, 20 requests a second, or next to none.
LIMITS = {"all": {}, "few": {"iops": 20}, "none": {"bps": 64}}


class Adopt(test_lab_vfio.Functions):
    script = "lab_adopt"
    timeout = 7200 if vmtest.LONG else test_lab_vfio.TIMEOUT
    env = {"UVDPA_KEEPER": os.path.join(vmtest.BUILD, "app/vdpa-keeper/vdpa-keeper"),
           "UVDPA_KILL_AT_LIB": os.path.join(vmtest.BUILD, "tests/integration/libkill_at.so"),
           **{k: os.environ[k] for k in ("UVDPA_TEST_LONG", "UVDPA_TEST_SEED") if k in os.environ}}

    def devices(self):
        return [*self.net(0x10, 1), *self.net(0x19, 1, ",page-per-vq=on"), *self.blk(0x14),
                *self.blk(0x15, ",packed=on"), *qmp.arguments(f"{self.folder}/qmp")]

    def monitor(self):
        return qmp.Qmp(f"{self.folder}/qmp")

    def limit(self, slot, what):
        none = {f"{kind}{way}": 0 for kind in ("bps", "iops") for way in ("", "_rd", "_wr")}
        with self.monitor() as monitor:
            monitor("block_set_io_throttle", id=f"/machine/peripheral/dev{slot}/virtio-backend",
                    **{**none, **LIMITS[what]})

    def in_use(self, slot):
        """Of a disk's queue."""
        with self.monitor() as monitor:
            queue = monitor("x-query-virtio-queue-status", queue=0,
                            path=f"/machine/peripheral/dev{slot}/virtio-backend")
        return str(queue["inuse"])

    def handlers(self):
        return {"limit": self.limit, "inuse": self.in_use}

    def test_adopt(self):
        self.check("intel", [])


if __name__ == "__main__":
    vmtest.main(lab.missing)
