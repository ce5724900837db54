#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
A running guest moves between two QEMUs on one host, each with daemons of its own. When it has come
and before it goes on, its memory is compared with what it was: a page that a device has written and
not logged would differ.

Debian 12's QEMU without KVM loses pages that the processor has written, also of a guest without any
device; so this takes the newer one that scripts/fetch-guest fetches.
"""

import dataclasses
import mmap
import os
import pathlib
import re
import statistics
import time

import daemon
import guest
import machine
import qmp
import vmtest
from vmtest import MAC0

# Moves in one life of the guest, and moves that are given up half-way.
MOVES = vmtest.count(2, 20)
CANCELS = vmtest.count(2, 10)
NET = f"sim_net mac {MAC0} backend echo"
# What both kinds have: sim_net offers its guest RING_RESET, which a virtio function's driver keeps for itself.
NET_COMMON = f"{NET} device_features 0x4d30bf8020"
DISK = "sim_blk backend file {}/disk.img serial s0 share-rw"
# A request of a slow disk.
SLOW_MS = 1000


MEMORY = 256  # MiB
PAGE = 4096


def ram(pid):
    """A guest's memory, of its QEMU's process."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        if os.readlink(path).startswith("/memfd:memory-backend-memfd"):
            file = os.open(path, os.O_RDONLY)
            try:
                return mmap.mmap(file, MEMORY << 20, prot=mmap.PROT_READ)
            finally:
                os.close(file)
    raise AssertionError("a QEMU without memory")


def different_pages(one, other):
    """Addresses of pages in which two guests' memory differs."""
    with ram(one) as a, ram(other) as b:
        for start in range(0, MEMORY << 20, 1 << 20):
            if a[start:start + (1 << 20)] == b[start:start + (1 << 20)]:
                continue
            for at in range(start, start + (1 << 20), PAGE):
                if a[at:at + PAGE] != b[at:at + PAGE]:
                    yield hex(at)


def qemu():
    folder = machine.fetched("qemu")
    return folder and folder / machine.QEMU


def missing():
    if qemu() is None:
        return "no newer QEMU: run scripts/setup vm"
    return guest.missing()


def downtime(times):
    """Of each move in ms, for people."""
    return f"downtime median {statistics.median(times):.0f}, most {max(times)} ms of {times}"


def lost(stream):
    """What ping says of a stream: how many packets were sent, and how many did not come back."""
    sent, received = map(int, re.match(r"(\d+) packets transmitted, (\d+) packets received", stream).groups())
    return f"{sent} packets sent, {sent - received} lost"


@dataclasses.dataclass
class Net:
    """
    A device as move() has it. models: words of vdpa-model on each side, None for a simulator; drive: words of
    the daemons' devices; ring: of QEMU's.
    """

    models: tuple = (None, None)
    drive: str = ""
    ring: str = ""
    words: str = NET
    name: str = "net0"

    def __str__(self):
        return f"{self.name} of {self.models} {self.drive}{self.ring}"


@dataclasses.dataclass
class Disk(Net):
    words: str = DISK
    name: str = "disk0"


# What the guest does with them, before and after its moves.
NET_BEGINS = f"""
            net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
            ping -i 0.05 10.0.0.2 >/tmp/stream &
            stream=$!
"""
NET_ENDS = """
            kill -INT $stream
            wait $stream || true
            result stream "$(grep 'packets transmitted' /tmp/stream)"
"""
DISK_BEGINS = """
            disk=/dev/$(disk s0)
            # A block after the other, each with its number, while the guest moves.
            (
                at=0
                while [ ! -e /tmp/enough ]; do
                    printf '%-4096s' "block $at" | dd of=$disk bs=4096 seek=$((at % 8192)) oflag=direct \\
                        conv=notrunc 2>/dev/null || { echo "write $at" >/tmp/failed; break; }
                    at=$((at + 1))
                    echo $at >/tmp/at
                done
            ) &
            writer=$!
            wait_for 20 [ -e /tmp/at ]
"""
DISK_ENDS = """
            touch /tmp/enough
            wait $writer
            [ ! -e /tmp/failed ] || fail "$(cat /tmp/failed)"
            blocks=$(cat /tmp/at)
            [ $blocks -le 8192 ] || fail "the writer went round: $blocks blocks"
            drop_caches
            at=0
            while [ $at -lt $blocks ]; do
                printf '%-4096s' "block $at"
                at=$((at + 1))
            done | sha256sum >/tmp/wanted
            dd if=$disk bs=4096 count=$blocks iflag=direct 2>/dev/null | sha256sum >/tmp/got
            cmp /tmp/wanted /tmp/got || fail "what was written is not what is there"
            result blocks $blocks
"""


class Move(BaseException):
    """The guest asks to be moved, and waits for the answer; no error that run() answers by itself."""


def ask_to_move():
    raise Move


class Migration(vmtest.GuestTest):
    def setUp(self):
        super().setUp()
        self.folders = [pathlib.Path(self.folder, side) for side in ("a", "b")]
        for folder in self.folders:
            folder.mkdir()

    def start(self, cls, folder, *devices):
        d = cls(vmtest.BUILD, folder, devices)
        d.start()
        self.addCleanup(d.kill)
        return d

    def serve(self, *devices):
        """Devices on either side, by a simulator or, with words of vdpa-model, by a function of it."""
        daemons = []
        for side, folder in enumerate(self.folders):
            functions, served = [], []
            for device in devices:
                mgmtdev = device.words.format(self.folder)
                if device.models[side] is not None:
                    functions.append(f"name {device.name} mgmtdev {mgmtdev} {device.models[side]} "
                                     f"vfio_user %s/{device.name}.vfu")
                    mgmtdev = f"vfio-user/{folder}/model/{device.name}.vfu"
                served.append(f"name {device.name} mgmtdev {mgmtdev} {device.drive} socket %s/{device.name}.sock")
            if functions:
                (folder / "model").mkdir()
                daemons.append(self.start(daemon.Model, folder / "model", *functions))
            daemons.append(self.start(daemon.Daemon, folder, *served))
        return daemons

    def machine(self, folder, move, script, devices):
        """A QEMU on a side: the first boots, the others wait for the guest."""
        # Newer QEMUs have another word for it, and nothing here comes back.
        words = [word.replace(",reconnect=1", "") for word in devices(folder)]
        arguments = [*words, *qmp.arguments(folder / f"{move}.qmp"),
                     *(["-S", "-incoming", "defer"] if move > 0 else [])]
        g = guest.Guest(folder, f"guest{move}", script, arguments, memory=MEMORY, qemu=qemu())
        g.start()
        self.addCleanup(g.kill)
        return g, folder / f"{move}.qmp"

    def live(self, script, devices):
        """
        Let the guest run to its end and move it each time it asks, to a QEMU where it is compared
        before it goes on. devices: QEMU's arguments, for a folder. Returns the script's results and each
        move's downtime in ms.
        """
        downtimes = []
        here, control = self.machine(self.folders[0], 0, script, devices)
        while True:
            try:
                return here.run({"move": ask_to_move}), downtimes
            except Move:
                pass
            move = len(downtimes) + 1
            folder = self.folders[move % 2]
            there, there_control = self.machine(folder, move, script, devices)
            with qmp.Qmp(control) as source, qmp.Qmp(there_control) as destination:
                uri = f"unix:{folder}/{move}.migration"
                destination("migrate-incoming", uri=uri)
                source("migrate", uri=uri)
                downtimes.append(source.wait_migration()["downtime"])
                destination.wait_migration()
                self.assertEqual(list(different_pages(here.pid, there.pid)), [])
                destination("cont")
            here.kill()
            there.results = here.results
            here, control = there, there_control
            here.proc.stdin.write(b"moved\n")
            here.proc.stdin.flush()

    def end(self, daemons):
        """Nothing failed on either side."""
        for d in daemons:
            self.assertNotIn("the device is stopped", d.log_text())
            d.stop()

    def move(self, net, disk=None, progress=10):
        """
        A guest that uses these devices goes to and fro; its disk goes on by more than `progress` blocks each time.
        Returns the longest stop of a queue of the disk, in us.
        """
        with open(self.folder + "/disk.img", "wb") as image:
            image.truncate(32 << 20)
        devices = [device for device in (net, disk) if device is not None]
        daemons = self.serve(*devices)
        results, downtimes = self.live(
            NET_BEGINS + (DISK_BEGINS if disk else "") + f"""
            for move in $(seq {MOVES}); do
                sleep 0.5
                [ ! -e /tmp/at ] || was=$(cat /tmp/at)
                host move >/dev/null
                ping_all 5 10.0.0.2 after$move
                [ ! -e /tmp/at ] || wait_for 20 sh -c "[ \\$(cat /tmp/at) -gt $((was + {progress})) ]"
            done
            """ + NET_ENDS + (DISK_ENDS if disk else ""),
            lambda folder: [
                *guest.vhost_user_net("net0", f"{folder}/net0.sock", MAC0, net.ring),
                *(guest.vhost_user_blk("disk0", f"{folder}/disk0.sock", disk.ring) if disk else ())])
        self.assertEqual(len(downtimes), MOVES)
        print(f"{MOVES} moves of {', '.join(map(str, devices))}: {lost(results['stream'])}; {downtime(downtimes)}",
              flush=True)
        self.assert_states(daemons)
        longest = 0
        if disk:
            # The device's share of each, at the source.
            longest = max(d.ask("/vdpa/dev/stats", "disk0")["migration"]["stop_vq_max_us"] for d in daemons
                          if not isinstance(d, daemon.Model))
            print(f"{results['blocks']} blocks written and read; stops of a queue took {longest / 1000} ms at most",
                  flush=True)
        self.end(daemons)
        return longest

    def assert_states(self, daemons):
        """Each move took the device's state along, from one daemon to the other."""
        for side, d in enumerate(d for d in daemons if not isinstance(d, daemon.Model)):
            log = d.log_text()
            came = (MOVES + side) // 2
            self.assertEqual(log.count("net0: vhost-user: state loaded"), came, log[-4000:])
            self.assertEqual(log.count("net0: vhost-user: state saved"), MOVES - came, log[-4000:])

    def cancel(self, daemons, names, control):
        """A migration begins and is given up while pages are copied; the guest knows nothing of it."""
        with qmp.Qmp(control) as source:
            # So slow that it does not end by itself.
            source("migrate-set-parameters", **{"max-bandwidth": 1 << 20})
            source("migrate", uri="exec:cat >/dev/null")
            deadline = time.monotonic() + 20
            while source("query-migrate").get("status") != "active":
                self.assertLess(time.monotonic(), deadline)
            time.sleep(0.3)
            during = self.paths(daemons, names)
            source("migrate_cancel")
            while source("query-migrate").get("status") not in ("cancelled", "failed"):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.02)
            self.assertEqual(source("query-migrate")["status"], "cancelled")
            self.assertTrue(source("query-status")["running"])
        return during

    def paths(self, daemons, names):
        return {path["path"] for name in names
                for path in daemons[-1].ask("/vdpa/dev/stats", name)["queues"].values()}

    def give_up(self, model, drive, during, after):
        """Net and block at once; paths of the queues while a log is on, and when it has ended."""
        devices = {"net0": NET, "disk0": "sim_blk backend ram 32M serial s0"}
        daemons = []
        folder = self.folders[0]
        if model is not None:
            (folder / "model").mkdir()
            daemons.append(self.start(daemon.Model, folder / "model", *(
                f"name {name} mgmtdev {words} {model} vfio_user %s/{name}.vfu" for name, words in devices.items())))
            devices = {name: f"vfio-user/{folder}/model/{name}.vfu" for name in devices}
        daemons.append(self.start(daemon.Daemon, folder, *(
            f"name {name} mgmtdev {words} {drive} socket %s/{name}.sock" for name, words in devices.items())))
        here, control = self.machine(folder, 0, f"""
            net_up $(nic {MAC0}) 10.0.0.1/24 fd00::1/64
            disk=/dev/$(disk s0)
            ping -i 0.05 10.0.0.2 >/tmp/stream &
            stream=$!
            (
                at=0
                while [ ! -e /tmp/enough ]; do
                    printf '%-4096s' "block $at" | dd of=$disk bs=4096 seek=$((at % 8192)) oflag=direct \\
                        conv=notrunc 2>/dev/null || {{ echo "write $at" >/tmp/failed; break; }}
                    at=$((at + 1))
                    echo $at >/tmp/at
                done
            ) &
            writer=$!
            for cancel in $(seq {CANCELS}); do
                sleep 0.3
                host cancel >/dev/null
                was=$(cat /tmp/at)
                ping -c 1 -W 5 10.0.0.2 >/dev/null || fail "no frame after $cancel"
                wait_for 10 sh -c "[ \\$(cat /tmp/at) -gt $((was + 3)) ]"
            done
            touch /tmp/enough
            wait $writer
            [ ! -e /tmp/failed ] || fail "$(cat /tmp/failed)"
            kill -INT $stream
            wait $stream || true
            result stream "$(grep 'packets transmitted' /tmp/stream)"
            result blocks $(cat /tmp/at)
        """, lambda folder: [
            *guest.vhost_user_net("net0", f"{folder}/net0.sock", MAC0),
            *guest.vhost_user_blk("disk0", f"{folder}/disk0.sock")])
        seen = []

        def ask():
            seen.append(self.cancel(daemons, ("net0", "disk0"), control))
            if after is not None:
                self.assertEqual(self.paths(daemons, ("net0", "disk0")), {after})

        results = here.run({"cancel": ask})
        print(f"{CANCELS} moves given up, {model} {drive}: {lost(results['stream'])}, {results['blocks']} blocks written",
              flush=True)
        self.assertEqual(len(seen), CANCELS)
        self.assertEqual(seen[0], {during})
        here.kill()
        self.end(daemons)

    def test_given_up_by_a_log(self):
        self.give_up(None, "", "direct", "direct")

    def test_given_up_by_a_relay(self):
        self.give_up("function octep", "", "relay", "direct")

    def test_given_up_by_shadows(self):
        self.give_up("", "", "shadow", None)

    def test_by_a_log(self):
        self.move(Net(), Disk())

    def test_by_a_log_of_hardware(self):
        self.move(Net(models=("function ifcvf", "function ifcvf")), Disk(models=("function ifcvf", "function ifcvf")))

    def test_by_shadows(self):
        self.move(Net(models=("", "")), Disk(models=("", "")))

    def test_between_kinds(self):
        # From a simulator's log to a shadow, to the next simulator ...
        self.move(Net(models=(None, ""), words=NET_COMMON), Disk(models=("function ifcvf", "")))

    def test_by_a_log_of_dma_and_with_requests_that_move(self):
        # QEMU 11 does not wait for them at the stop: they are done at the destination.
        longest = self.move(
            Net(models=("dma_logging on", "dma_logging on")),
            Disk(ring=",num-queues=1,inflight-migration=on", words=f"{DISK} delay_ms {SLOW_MS}"), progress=1)
        self.assertLess(longest, SLOW_MS * 1000 / 2)

    def test_packed_net_by_shadows(self):
        self.move(Net(models=("", ""), drive="migration shadow", ring=",packed=on"))


if __name__ == "__main__":
    vmtest.main(missing)
