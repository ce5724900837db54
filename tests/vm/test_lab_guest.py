#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
A guest inside the laboratory, on a VFIO function: the whole way from a guest's driver to a device
that others have written. Once, since a guest in an emulated machine takes its time.
"""

import socket

import guest
import lab
import vmtest
from vmtest import MAC0, MAC1

TIMEOUT = 600


class Guest(vmtest.LabTest):
    def test_guest_pings_through_a_vfio_function(self):
        # A wire between the function that is served and one that the laboratory's kernel drives.
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in ends:
            self.addCleanup(end.close)
        netdevs = [f"dgram,local.type=fd,local.str={end.fileno()}" for end in ends]
        script = lab.python(self.folder, "lab_guest")
        # A page for each doorbell, so that it can be given to the guest.
        devices = [*lab.net(0x10, netdevs[0], MAC0, ",page-per-vq=on"),
                   *lab.net(0x11, netdevs[1], MAC1)]
        machine = self.lab("lab", script, devices,
                           env={"UVDPA_LAB_MAC": MAC0, "UVDPA_LAB_FAR_MAC": MAC1},
                           pass_fds=[end.fileno() for end in ends])
        machine.run(timeout=TIMEOUT)


def missing():
    # lab_vfio has the same function under our own front end in every run.
    if not vmtest.LONG:
        return "takes minutes of a CPU: UVDPA_TEST_LONG=1"
    return lab.missing() or guest.missing()


if __name__ == "__main__":
    vmtest.main(missing)
