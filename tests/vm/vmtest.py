# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""What the guest tests share: a folder each, and main() that skips where no guest can run."""

import os
import shutil
import sys
import tempfile
import unittest

import daemon
import guest

BUILD = os.environ.get("UVDPA_BUILD", str(guest.ROOT / "build"))
SKIP = 77  # meson's exit code for it

MAC0 = "52:54:00:00:00:01"
MAC1 = "52:54:00:00:00:02"


class GuestTest(unittest.TestCase):
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


def main():
    why = guest.missing()
    if why is not None:
        print(f"skipped: {why}")
        sys.exit(SKIP)
    unittest.main(verbosity=2)
