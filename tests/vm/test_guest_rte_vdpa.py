#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Guests that use fewer queues than the disk of DPDK's examples/vdpa offers them.

QEMU gives every queue of the disk a call eventfd, whichever the guest will use, and the front end of rte_vhost
has no status that says when a driver is ready: a Linux guest with one CPU uses the first of several queues, as
SeaBIOS does.
"""

import os
import re
import sys

import guest
import machine
import test_guest_seabios
import vmtest

sys.path.insert(0, str(machine.ROOT / "tests" / "integration"))
os.environ.setdefault("UVDPA_BUILD", vmtest.BUILD)
os.environ.setdefault("UVDPA_MODEL", f"{vmtest.BUILD}/app/vdpa-model/vdpa-model")
import test_dpdk_vdpa as dpdk  # noqa: E402

WRITE_MIB = 8
MIB = 1 << 20


def setUpModule():
    dpdk.setUpModule()


class FewerQueues(test_guest_seabios.BiosTest):
    def example(self, words):
        """examples/vdpa with a disk, and the disk's socket."""
        e = dpdk.Example([f"uvdpa0,{words}"])
        self.addCleanup(e.end)
        return e, e.create("uvdpa0")

    def stats(self, e):
        return e.telemetry("/vdpa/dev/stats,uvdpa0")["device"]

    def linux(self, queues):
        e, path = self.example(
            f"mgmtdev=sim_blk,backend=ram 64M,serial=uvdpa-d0,queues={queues}")
        # rte_vhost takes discard away from what the disk offers, so there is no file system to trim.
        g = self.guest("blk", f"""
            disk=$(disk uvdpa-d0)
            result queues $(ls /sys/block/$disk/mq | wc -l)
            sum=$(write_random /tmp/data {WRITE_MIB})
            dd if=/tmp/data of=/dev/$disk bs=1M seek=8 oflag=direct 2>/dev/null
            [ "$(dd if=/dev/$disk bs=1M skip=8 count={WRITE_MIB} iflag=direct 2>/dev/null |
                 sha256sum)" = "$sum" ] || fail "read back differs"
        """, guest.vhost_user_blk("d0", path, f",num-queues={queues}"))
        results = g.run()
        self.assertEqual(results["queues"], "1")
        stats = self.stats(e)
        self.assertGreaterEqual(stats["write_bytes"], WRITE_MIB * MIB)
        self.assertGreaterEqual(stats["read_bytes"], WRITE_MIB * MIB)
        self.assertEqual(stats["io_errors"] + stats["malformed"], 0)
        g.kill()

    def test_linux_one_of_two(self):
        self.linux(2)

    def test_linux_one_of_sixteen(self):
        self.linux(16)

    def test_bios_one_of_two(self):
        e, path = self.example("mgmtdev=sim_blk,backend=ram 4M,queues=2")
        self.boot(path, lambda: self.stats(e), ",num-queues=2")

    def test_bios_one_of_two_of_a_function(self):
        self.serve_model(2, True)

    def test_bios_one_of_two_of_a_function_that_resets_no_queue(self):
        self.serve_model(2, False)

    def serve_model(self, queues, ring_reset):
        self.serve(ring_reset, m0=f"mgmtdev sim_blk backend ram 4M queues {queues}")
        # The daemon beside the model would have its device.
        path = re.search(r"vfio-user/(\S+)", self.app.devices[0]).group(1)
        self.app.stop()
        e, socket = self.example(f"mgmtdev=vfio-user/{path}")
        self.boot(socket, lambda: self.model.stats("m0"), f",num-queues={queues}")


if __name__ == "__main__":
    vmtest.main()
