# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""What the tests share: a folder each, and main() that skips where no machine can run."""

import os
import shutil
import sys
import tempfile
import unittest

import daemon
import guest
import lab

BUILD = os.environ.get("UVDPA_BUILD", str(guest.ROOT / "build"))
LONG = os.environ.get("UVDPA_TEST_LONG", "0") not in ("", "0")
SKIP = 77  # meson's exit code for it

MAC0 = "52:54:00:00:00:01"
MAC1 = "52:54:00:00:00:02"


def count(few, many):
    """How often something is done: few times, or many in a long run."""
    return many if LONG else few


class MachineTest(unittest.TestCase):
    """A test with a folder that is gone afterwards."""

    def setUp(self):
        # Not below TMPDIR: socket paths have at most 107 characters.
        self.folder = tempfile.mkdtemp(prefix="uvdpa-vm.", dir="/tmp")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def daemon(self, *devices):
        """A running daemon that ends with the test."""
        d = daemon.Daemon(BUILD, self.folder, devices)
        d.start()
        self.addCleanup(d.kill)
        return d


class GuestTest(MachineTest):
    """A test with guests."""

    def guest(self, name, script, *devices, **kwargs):
        """A booting guest that ends with the test. devices: lists of QEMU arguments."""
        g = guest.Guest(self.folder, name, script, [a for d in devices for a in d], **kwargs)
        g.start()
        self.addCleanup(g.kill)
        return g

    def net(self, name, mac):
        return guest.vhost_user_net(name, f"{self.folder}/{name}.sock", mac)

    def blk(self, name):
        return guest.vhost_user_blk(name, f"{self.folder}/{name}.sock")


class LabTest(MachineTest):
    """A test with laboratories."""

    def lab(self, name, script, devices, iommu="intel", env=(), **kwargs):
        """A booting laboratory that ends with the test; what its script prints is printed."""
        env = {"UVDPA_BUILD": BUILD, "UVDPA_LAB_IOMMU": iommu, **dict(env)}
        m = lab.Lab(self.folder, name, script, devices, iommu=iommu, env=env, **kwargs)
        m.on_line = lambda line: print(line, flush=True)
        m.start()
        self.addCleanup(m.kill)
        return m


def main(missing=guest.missing):
    """Run the tests, or skip where a machine of the kind cannot run."""
    why = missing()
    if why is not None:
        print(f"SKIPPED: {why}")
        sys.exit(SKIP)
    unittest.main(verbosity=2)
