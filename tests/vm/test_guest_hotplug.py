#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A guest into which QEMU plugs memory, and from which it takes it, while it pings.

QEMU's device_add of a pc-dimm and device_del, the guest's ACPI and its kernel, which brings the memory
online as movable, so that it can give it back.
"""

import json
import re
import socket
import time

import machine
import model
import vmtest
from vmtest import MAC0

MIB = 1 << 20
# The least that Linux on x86 brings online.
DIMM = 128 * MIB
DIMMS = 2
FILL = 288 * MIB
WAIT = 60  # seconds for the guest to give memory back
NET = f"mgmtdev sim_net mac {MAC0} backend echo"


class Qmp:
    """QEMU's monitor."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT)
        self.sock.connect(path)
        self.lines = self.sock.makefile("rw")
        self.events = []
        self._answer("QMP")
        self.execute("qmp_capabilities")

    def _answer(self, *keys):
        """The next message with one of these keys; events on the way are kept."""
        while True:
            message = json.loads(self.lines.readline())
            if "event" in message:
                self.events.append(message)
            for key in keys:
                if key in message:
                    return key, message[key]

    def execute(self, command, **arguments):
        self.lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.lines.flush()
        key, value = self._answer("return", "error")
        if key == "error":
            raise machine.MachineError(f"{command}: {value['desc']}")
        return value

    def plug(self, name, size):
        self.execute("object-add", **{"qom-type": "memory-backend-memfd", "id": f"mem-{name}",
                                      "size": size, "share": True})
        self.execute("device_add", driver="pc-dimm", id=name, memdev=f"mem-{name}")

    def unplug(self, name):
        """Asks the guest, and waits until it has given the memory back."""
        self.events.clear()
        self.execute("device_del", id=name)
        while not any(e["event"] == "DEVICE_DELETED" and e["data"].get("device") == name
                      for e in self.events):
            refused = [e for e in self.events if e["event"].endswith("UNPLUG_ERROR") or
                       e["event"] == "DEVICE_UNPLUG_GUEST_ERROR"]
            if refused:
                raise machine.MachineError(f"{name}: {refused}")
            self._answer("event")
        self.execute("object-del", id=f"mem-{name}")

    def close(self):
        self.lines.close()
        self.sock.close()


class Hotplug(model.ModelTest):
    def counts(self):
        """What the daemon has mapped, and the DMA requests that the model has carried out."""
        return (self.app.ask("/vdpa/dev/show", "app-net0")["dma"],
                self.model.ask("/model/stats", "net0")["dma"])

    def changed(self):
        """Since the last time: the daemon's maps, unmaps, bytes; the model's maps, unmaps, bytes."""
        before, self.at = self.at, self.counts()
        ours, theirs = ({k: now[k] - then[k] for k in now} for now, then in zip(self.at, before))
        return ([ours["maps"], ours["unmaps"], ours["bytes_mapped"]],
                [theirs["maps"], theirs["unmaps"], theirs["bytes_mapped"], theirs["bytes_unmapped"]])

    def settles(self, expected):
        """changed() becomes this: QEMU tells the back end after it has told us."""
        before, end = self.at, time.monotonic() + WAIT
        while True:
            self.at = before
            seen = self.changed()
            if seen == expected or time.monotonic() > end:
                self.assertEqual(seen, expected)
                return
            time.sleep(0.02)

    def plug(self, i):
        self.qmp.plug(f"dimm{i}", DIMM)
        self.settles(([1, 0, DIMM], [1, 0, DIMM, 0]))
        self.times.append(self.at[0]["last_change_us"])

    def unplug(self, i):
        self.qmp.unplug(f"dimm{i}")
        self.settles(([0, 1, -DIMM], [0, 1, 0, DIMM]))
        self.times.append(self.at[0]["last_change_us"])

    def begin(self):
        self.qmp = Qmp(self.folder + "/qmp")
        self.addCleanup(self.qmp.close)
        self.at, self.times = self.counts(), []

    def test_dimms_come_and_go_while_the_guest_pings(self):
        self.serve(net0=NET)
        g = self.guest("hotplug", f"""
            mib()
            {{
                echo $(($(sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo) >> 10))
            }}
            has()
            {{
                [ $(mib) -ge $1 ] && [ $(mib) -lt $(($1 + {DIMM // MIB})) ]
            }}
            net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
            ping_all 3 10.0.0.2 before
            echo online_movable >/sys/devices/system/memory/auto_online_blocks
            ping -i 0.02 -W 2 10.0.0.2 >/tmp/stream &
            stream=$!
            first=$(mib)
            host begin >/dev/null
            for i in $(seq {DIMMS}); do
                host plug $i >/dev/null
                wait_for 30 has $((first + i * {DIMM // MIB}))
                ping_all 3 10.0.0.2 plugged$i
            done
            # More than fits into the memory that was there before.
            mount -o remount,size=90% /tmp
            dd if=/dev/zero of=/tmp/fill bs=1M count={FILL // MIB} 2>/dev/null
            ping_all 3 10.0.0.2 filled
            rm /tmp/fill
            for i in $(seq {DIMMS}); do
                host unplug $i >/dev/null
                wait_for 30 has $((first + ({DIMMS} - i) * {DIMM // MIB}))
                ping_all 3 10.0.0.2 unplugged$i
            done
            kill -INT $stream
            wait $stream || true
            result stream "$(grep 'packets transmitted' /tmp/stream)"
            result last "$(sed -n 's/.*seq=\\([0-9]*\\).*/\\1/p' /tmp/stream | sort -n | tail -n 1)"
        """, self.net("net0", MAC0),
                       ["-m", f"256,slots={DIMMS},maxmem=2048M",
                        "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"])
        results = g.run({"begin": self.begin, "plug": self.plug, "unplug": self.unplug})
        sent, received = map(int, re.match(r"(\d+) packets transmitted, (\d+)",
                                           results["stream"]).groups())
        print(f"{self.id()}: {DIMMS} x {DIMM // MIB} MiB came and went, {sent} echoes, "
              f"{sent - received} lost; each change in microseconds {self.times}", flush=True)
        self.assertGreater(sent, 50)
        # Answers to the last ones may be on their way; none before is missing.
        self.assertEqual(received, int(results["last"]) + 1)
        self.assertEqual(self.state("net0"), "running")


if __name__ == "__main__":
    vmtest.main()
