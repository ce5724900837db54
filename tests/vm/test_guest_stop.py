#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
QEMU's stop and cont, while frames and blocks move: QEMU asks where each queue stands, and starts it
there again: functions of vendors by themselves, plain virtio on shadow virtqueues.
"""

import random
import re
import time

import guest
import model
import qmp
import vmtest
from vmtest import MAC0

STOPS = vmtest.count(6, 50)


class Stop(model.ModelTest):
    def pause(self):
        """In the midst of whatever the guest does."""
        time.sleep(random.random() * 0.05)
        self.qmp("stop")
        states = [self.state(name) for name in ("net0", "disk0")]
        self.assertEqual(states, ["idle", "idle"])
        time.sleep(random.random() * 0.05)
        self.qmp("cont")

    def check(self, function, packed, drive="", ring_reset=True, path=None):
        self.serve(ring_reset, drive, net0=f"mgmtdev sim_net mac {MAC0} backend echo {function}",
                   disk0=f"mgmtdev sim_blk backend ram 64M serial s0 {function}")
        ring = f",packed={packed}"
        control = f"{self.folder}/qmp"
        g = self.guest("guest", f"""
            net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
            disk=/dev/$(disk s0)
            ping -i 0.02 10.0.0.2 >/tmp/stream &
            stream=$!
            # A block after the other, each with its number.
            (
                at=0
                while [ ! -e /tmp/enough ]; do
                    printf '%-4096s' "block $at" | dd of=$disk bs=4096 seek=$at oflag=direct conv=notrunc \\
                        2>/dev/null || {{ echo "write $at" >/tmp/failed; break; }}
                    at=$((at + 1))
                    echo $at >/tmp/at.new
                    mv /tmp/at.new /tmp/at
                done
            ) &
            writer=$!
            wait_for 10 [ -e /tmp/at ]
            for stop in $(seq {STOPS}); do
                was=$(cat /tmp/at)
                host pause >/dev/null
                ping -c 1 -W 5 10.0.0.2 >/dev/null || fail "no frame after stop $stop"
                wait_for 20 sh -c "[ \\$(cat /tmp/at) -gt $((was + 3)) ]"
            done
            touch /tmp/enough
            wait $writer
            [ ! -e /tmp/failed ] || fail "$(cat /tmp/failed)"
            sleep 0.2
            kill -INT $stream
            wait $stream || true
            result stream "$(grep 'packets transmitted' /tmp/stream)"
            result last "$(sed -n 's/.*seq=\\([0-9]*\\).*/\\1/p' /tmp/stream | sort -n | tail -n 1)"
            result missing "$(sed -n 's/.*seq=\\([0-9]*\\).*/\\1/p' /tmp/stream | sort -n | awk \
                '{{ while (at < $1) printf "%d ", at++; at = $1 + 1 }}')"
            blocks=$(cat /tmp/at)
            at=0
            while [ $at -lt $blocks ]; do
                printf '%-4096s' "block $at"
                at=$((at + 1))
            done | sha256sum >/tmp/wanted
            dd if=$disk bs=4096 count=$blocks iflag=direct 2>/dev/null | sha256sum >/tmp/got
            cmp /tmp/wanted /tmp/got || fail "what was written is not what is there"
            dmesg | grep -i "i/o error" && fail "the guest saw I/O errors"
            result blocks $blocks
        """, guest.vhost_user_net("net0", f"{self.folder}/net0.sock", MAC0, ring),
            guest.vhost_user_blk("disk0", f"{self.folder}/disk0.sock", f",num-queues=1{ring}"),
            qmp.arguments(control))
        with qmp.Qmp(control) as self.qmp:
            results = g.run({"pause": self.pause})
        stream = results["stream"]
        print(f"{function} {drive}, packed={packed}, RING_RESET={ring_reset}: {STOPS} stops: {stream}; {results['blocks']} blocks "
              "written and read", flush=True)
        received = int(re.search(r"(\d+) packets received", stream)[1])
        # The last ones may be on their way; and queues stop one after another: an answer that comes between
        # finds the other one stopped.
        counts = self.model.stats("net0")
        dropped = counts["tx_drops"] + counts["rx_drops"] + sum(
            self.model.ask("/vdpa/dev/stats", f"net0,{q}")["drop_no_buffer"] for q in (0, 1))
        self.assertLessEqual(int(results["last"]) + 1 - received, dropped,
                             f"without an answer: {results['missing']}; {self.model.stats('net0')}")
        self.assertNotIn("duplicates", stream)
        if path is not None:
            self.assertEqual({self.app.ask("/vdpa/dev/stats", f"app-{vq}")["path"]
                              for vq in ("net0,0", "net0,1", "disk0,0")}, {path})
        net, disk = self.model.stats("net0"), self.model.stats("disk0")
        # Nothing twice: each frame was answered by one.
        self.assertLessEqual(net["rx_packets"], net["tx_packets"])
        self.assertEqual(disk["io_errors"], 0)
        self.assertNotRegex(self.app.log_text(), "the device is stopped|does not|refused")
        g.kill()
        self.app.stop()
        self.model.stop()

    def test_ifcvf(self):
        self.check("function ifcvf", "off")

    def test_octep_with_packed_rings(self):
        self.check("function octep", "on")

    def test_virtio(self):
        self.check("", "off", path="shadow")

    def test_virtio_without_ring_reset(self):
        self.check("", "off", ring_reset=False, path="shadow")

    def test_virtio_with_packed_rings(self):
        # Such a function does not say where a packed ring stands.
        self.check("", "on", "migration shadow", path="shadow")


if __name__ == "__main__":
    vmtest.main()
