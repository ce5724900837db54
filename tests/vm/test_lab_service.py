#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
The service under a systemd that is the first process of its machine: the laboratory, with what meson
install puts onto it. What runs there is lab_service.py; this is the far end of a function, which
sends every frame back.
"""

import os
import shutil
import subprocess

import firmware
import lab
import reflector
import vmtest
from vmtest import MAC0

SCRIPT = """
cp -a "$UVDPA_LAB_INSTALLED"/. /
systemd-sysusers uvdpa.conf
systemd-tmpfiles --create uvdpa.conf
udevadm control --reload
systemctl daemon-reload
"""


class Service(vmtest.LabTest):
    def test_under_systemd(self):
        far = reflector.Datagrams()
        self.addCleanup(far.close)
        installed = os.path.join(self.folder, "installed")
        subprocess.run(["meson", "install", "--no-rebuild", "--strip", "--quiet", "-C", vmtest.BUILD],
                       check=True, env=dict(os.environ, DESTDIR=installed), stdin=subprocess.DEVNULL)
        disk = os.path.join(self.folder, "web.img")
        with open(disk, "wb") as f:
            f.write(firmware.IMAGE.ljust(firmware.SIZE, b"\0"))
        self.lab("lab", SCRIPT + lab.python(self.folder, "lab_service", "-v"),
                 lab.net(0x10, far.netdev, MAC0) + lab.blk(0x11, disk), systemd=True,
                 env={"UVDPA_LAB_INSTALLED": installed}, pass_fds=far.pass_fds).run(timeout=900)


def missing():
    for program in "/lib/systemd/systemd", "/lib/systemd/systemd-udevd", "meson":
        if shutil.which(program) is None:
            return f"no {program}"
    return lab.missing()


if __name__ == "__main__":
    vmtest.main(missing)
