#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A guest's kicks reach a device's doorbell page, and the daemon sleeps."""

import time

import model  # and where harness is
import harness
import qmp
import vmtest
from vmtest import MAC0

PINGS = 50


class Notifier(model.ModelTest):
    def start(self, end=None, begin=None, **qemu):
        self.serve(net0=f"mgmtdev sim_net mac {MAC0} backend echo")
        # A stretch of pings in the midst of others.
        script = f"""
            net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
            ping_all 5 10.0.0.2 before
            host begin
            ping_all {PINGS} 10.0.0.2 counted
            echo "device: $(host end)"
        """
        args = self.net("net0", MAC0)
        args[-1] += "".join(f",{k.replace('_', '-')}={v}" for k, v in qemu.items())
        self.counts = {}
        guest = self.guest("net", script, args, qmp.arguments(f"{self.folder}/qmp"))
        guest.run({"begin": begin or (lambda: self.note("begin")), "end": end or (lambda: self.note("end"))})
        return guest

    def note(self, when):
        self.info = self.app.ask("/vdpa/dev/show", "app-net0")["frontend_info"]
        # The guest's own timers may still kick; asking wakes the main and the telemetry thread.
        self.counts[when] = (
            self.model.queues("net0"), harness.context_switches(self.app.pid),
            [self.app.ask("/vdpa/dev/stats", f"app-net0,{q}")["kicks_relayed"] for q in (0, 1)])

    def between(self):
        """Doorbells of the transmit queue, wake-ups of the control thread, kicks relayed."""
        (model0, threads0, relayed0), (model1, threads1, relayed1) = (
            self.counts["begin"], self.counts["end"])
        return (int(model1["1"]["rings_by_memory"]) - int(model0["1"]["rings_by_memory"]),
                threads1["vdpa-control"] - threads0["vdpa-control"],
                sum(relayed1) - sum(relayed0))

    def test_kicks_of_the_guest_ring_the_device(self):
        self.start(page_per_vq="on")
        self.assertIn("2 doorbells given", self.info)
        rings, wakeups, relayed = self.between()
        print(f"{PINGS} pings: {rings} doorbells by memory, {wakeups} wake-ups of the daemon, "
              f"{relayed} kicks relayed", flush=True)
        self.assertGreaterEqual(rings, PINGS)
        self.assertEqual(relayed, 0)
        self.assertEqual(wakeups, 0)

    def test_without_a_page_for_each_queue_the_daemon_relays(self):
        self.start()
        rings, wakeups, relayed = self.between()
        print(f"{PINGS} pings: {rings} doorbells by memory, {wakeups} wake-ups of the daemon, "
              f"{relayed} kicks relayed", flush=True)
        self.assertGreaterEqual(relayed, PINGS)

    def test_the_page_is_taken_back_for_a_migration(self):
        """A migration that comes to no end, and is cancelled: on a shadow, kicks are the daemon's."""
        def log_on():
            with qmp.Qmp(f"{self.folder}/qmp") as monitor:
                monitor("migrate-set-parameters", **{"max-bandwidth": 1 << 18})
                monitor("migrate", uri="exec:cat >/dev/null")
                # While QEMU's main thread is busy with it.
                deadline = time.monotonic() + 20
                while self.paths() != ["shadow", "shadow"] and time.monotonic() < deadline:
                    time.sleep(0.01)
                self.assertEqual(self.paths(), ["shadow", "shadow"])
            self.note("begin")

        def cancel():
            self.note("end")
            with qmp.Qmp(f"{self.folder}/qmp") as monitor:
                self.assertEqual(monitor("query-migrate")["status"], "active")
                monitor("migrate_cancel")
            return self.state("net0")

        guest = self.start(cancel, log_on, page_per_vq="on")
        self.assertIn("device: running", guest.lines)
        self.assertNotIn("doorbell", self.info)
        _, wakeups, _ = self.between()
        print(f"{PINGS} pings on a shadow: {wakeups} wake-ups of the control thread", flush=True)

    def paths(self):
        return [self.app.ask("/vdpa/dev/stats", "app-net0")["queues"][i]["path"] for i in ("0", "1")]

    def test_the_page_is_taken_back_from_a_device_that_fails(self):
        def fail():
            """While the guest waits."""
            self.model.kill()
            deadline = time.monotonic() + 10
            while self.state("net0") != "failed" and time.monotonic() < deadline:
                time.sleep(0.05)
            self.info = self.app.ask("/vdpa/dev/show", "app-net0")["frontend_info"]
            return self.state("net0")

        guest = self.start(fail, page_per_vq="on")
        self.assertIn("device: failed", guest.lines)
        self.assertNotIn("doorbell", self.info)
        self.app.stop()


if __name__ == "__main__":
    vmtest.main()
