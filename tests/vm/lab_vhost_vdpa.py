#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Runs inside the laboratory, see test_lab_vhost_vdpa.py: devices of the kernel's vDPA bus by the driver
vhost_vdpa. The parents are the kernel's simulators and VDUSE's of qemu-storage-daemon, which others have
written.

usage: lab_vhost_vdpa.py MODULES, the folder of the kernel's modules
"""

import contextlib
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import lab_inside as inside
import vhost_user_client as vu
from lab_inside import harness

TEST_VDPA = str(inside.BUILD / "app/test-vdpa/test-vdpa")
EAL = ["--", "--no-huge", "-m", "128", inside.LCORES, "--no-pci", "--no-telemetry"]
LONG = harness.count(0, 1)
CASES_A_RUN = 30
GPA_DIMM = 0x40000000
MAC = "52:54:00:00:00:77"
# What the kernel's simulated disk does of its own: it holds a lock for ever when a request is out of its
# range, rounds a request of half a sector, and calls an unknown one an I/O error.
SIM_BLK_LACKS = "block_out_of_range", "block_unaligned", "block_unknown", "block_read_only"
CASES = ("identity", "config_stable", "start_stop_cycles", "queue_enable_moves", "queue_disable", "split_wraps",
         "kick_swap", "call_swap", "split_queue_resume", "memory_change", "stop_during_traffic",
         "suspend_split", "split_places", "bad_address", "bad_loop")


def load(folder):
    for path in sorted(pathlib.Path(folder).glob("*.ko")):
        if not os.path.exists(f"/sys/module/{path.stem[3:]}"):
            subprocess.run(["/run/lab/busybox", "insmod", str(path)], check=True)


def vdpa(*words, timeout=20):
    done = subprocess.run(["vdpa", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=timeout, check=False)
    assert done.returncode == 0, done
    return done.stdout


@contextlib.contextmanager
def parent(name, mgmtdev, *words):
    vdpa("dev", "add", "name", name, "mgmtdev", mgmtdev, *words)
    try:
        yield
    finally:
        vdpa("dev", "del", name)


@contextlib.contextmanager
def storage_daemon(name):
    """qemu-storage-daemon with a disk, as a VDUSE device of that name that is on the bus."""
    with tempfile.TemporaryDirectory(prefix="uvdpa-lab.", dir="/tmp") as folder:
        image = f"{folder}/disk.img"
        with open(image, "wb") as f:
            f.truncate(8 << 20)
        process = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", f"file,node-name=f,filename={image}", "--export",
             f"type=vduse-blk,id=e0,name={name},node-name=f,writable=on,num-queues=2,queue-size=256"],
            stdin=subprocess.DEVNULL)
        try:
            inside.until(lambda: os.path.exists(f"/dev/vduse/{name}"), "the VDUSE device")
            with parent(name, "vduse"):
                yield image
        finally:
            process.terminate()
            process.wait(20)


def write_from(disk, address, sector):
    """A sector written from memory anywhere."""
    memory, ring, buffer = disk.memory, disk.rings[0], disk.buffers[0]
    memory.write(buffer, struct.pack("<IIQ", disk.WRITE, 0, sector) + b"\xff")
    ring.set_desc(0, memory.GPA + buffer, 16, vu.DESC_NEXT, 1)
    ring.set_desc(1, address, disk.SECTOR, vu.DESC_NEXT, 2)
    ring.set_desc(2, memory.GPA + buffer + 16, 1, vu.DESC_WRITE)
    ring.submit(0)
    ring.kick()
    inside.until(lambda: ring.poll() is not None, "the request")
    assert memory.read(buffer + 16, 1) == b"\0", "the request failed"


class Parents(unittest.TestCase):
    def conform(self, words, cases, *more, needs=()):
        """test-vdpa's cases, of which none fails and `needs` are not skipped."""
        begun, passed = time.monotonic(), set()
        # It takes a number of names; and a run of all lasts long here.
        for i in range(0, len(cases), CASES_A_RUN):
            passed |= self.conform_some(words, cases[i:i + CASES_A_RUN], more)
        print(f"{self.id()}: {words}: {len(passed)} cases passed in {time.monotonic() - begun:.0f} s", flush=True)
        self.assertEqual(set(needs) - passed, set())

    def conform_some(self, words, cases, more):
        done = subprocess.run([TEST_VDPA, "conformance", "--dev", words, "--overwrite", "--timeout-scale", "300",
                               *(w for case in cases for w in ("--case", case)), *more, *EAL],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
        lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
        self.assertEqual([line for line in lines if line.startswith(("not ok", "Bail"))], [], done.stdout)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return {line.split(" - ")[1] for line in lines if line.startswith("ok") and "# SKIP" not in line}

    def all_cases(self, *but):
        listed = subprocess.run([TEST_VDPA, "conformance", "--list"], capture_output=True, text=True, check=True)
        return [line.split()[0] for line in listed.stdout.splitlines() if line.split()[0] not in but]

    def test_sim_net(self):
        with parent("net0", "vdpasim_net"):
            cases = self.all_cases() if LONG else CASES
            # CASES but what only a disk has, or one pair lacks.
            self.conform("mgmtdev vhost-vdpa/net0", cases,
                         needs={"queue_disable", "suspend_split", "split_places", "memory_change"})

    def test_sim_blk(self):
        with parent("blk0", "vdpasim_blk"):
            cases = self.all_cases(*SIM_BLK_LACKS) if LONG else (*CASES, "block_write_read", "block_flush")
            self.conform("mgmtdev vhost-vdpa/blk0", cases,
                         needs={"suspend_split", "split_queue_resume", "memory_change", "block_write_read"})
            # The kernel has no dirty log: a migration is by shadow rings.
            self.conform("mgmtdev vhost-vdpa/blk0 migration shadow",
                         ["split_wraps", "split_queue_resume", "block_write_read"],
                         needs={"split_wraps", "split_queue_resume", "block_write_read"})

    def test_storage_daemon(self):
        """Not memory_change: the daemon (7.2) unmaps memory that its requests under way still use."""
        with storage_daemon("vdu0"):
            needs = {"start_stop_cycles", "multi_queue", "block_write_read"}
            self.conform("mgmtdev vhost-vdpa/vdu0",
                         ["identity", "config_stable", "split_wraps", "split_indirect", "split_event_index",
                          "kick_swap", "call_swap", *needs, "block_flush", "block_discard"], needs=needs)

    def test_memory_comes_and_goes(self):
        """Memory that is plugged into a guest, whose disk qemu-storage-daemon has: data goes there."""
        with tempfile.TemporaryDirectory(prefix="uvdpa-lab.", dir="/tmp") as folder, \
                storage_daemon("vdu0") as image, harness.Daemon(eal=[inside.LCORES], folder=folder) as d:
            d.add(f"name dev0 mgmtdev vhost-vdpa/vdu0 socket {folder}/dev0")
            with vu.BlockDriver(f"{folder}/dev0", 2, 2) as disk, contextlib.closing(vu.Memory(2 << 20)) as dimm:
                disk.start().exchange()
                whole = disk.memory.regions + [(GPA_DIMM, dimm.size, vu.Memory.UVA + GPA_DIMM, 0)]
                fds = [disk.memory.fd, dimm.fd]
                for n in 2, 1, 2:
                    self.assertEqual(disk.client.ack(vu.SET_MEM_TABLE, disk.memory.table(whole[:n]), fds[:n]), 0)
                    disk.exchange()
                data = os.urandom(512)
                dimm.write(4096, data)
                write_from(disk, GPA_DIMM + 4096, 5)
                self.assertEqual(d.show("dev0")["state"], "running")
                disk.stop()
            with open(image, "rb") as f:
                f.seek(5 * 512)
                self.assertEqual(f.read(512), data)

    def test_control_queue_and_removal(self):
        """The control queue in its own address space; and `vdpa dev del` of a device that runs, which waits
        in the kernel until its file is closed."""
        vdpa("dev", "add", "name", "net0", "mgmtdev", "vdpasim_net")
        with tempfile.TemporaryDirectory(prefix="uvdpa-lab.", dir="/tmp") as folder, \
                harness.Daemon(eal=[inside.LCORES], folder=folder) as d:
            d.add(f"name dev0 mgmtdev vhost-vdpa/net0 mac {MAC} socket {folder}/dev0")
            with vu.NetDriver(f"{folder}/dev0") as driver:
                driver.start()
                # One a start: the address.
                self.assertGreaterEqual(d.stats("dev0")["device"]["ctrl_commands"], 1)
                self.assertIn(MAC, vdpa("dev", "config", "show", "net0"))
                # Nobody else has it meanwhile.
                refused = d.refusal("dev.add", words="name dev1 mgmtdev vhost-vdpa/net0")
                self.assertIn("has /dev/vhost-vdpa-", refused)
                begun = time.monotonic()
                vdpa("dev", "del", "net0")
                print(f"{self.id()}: deleted in {time.monotonic() - begun:.2f} s", flush=True)
                inside.until(lambda: d.show("dev0")["state"] == "failed", "the device to fail")
                self.assertIn("is deleted or unbound", str(d.show("dev0")))
            d.delete("dev0")

    def test_over_our_own_vduse(self):
        """sim_net in one daemon, VDUSE and /dev/vhost-vdpa-N, and another daemon with testpmd for a guest."""
        with tempfile.TemporaryDirectory(prefix="uvdpa-lab.", dir="/tmp") as folder, \
                harness.Daemon(devices=["name vs0 mgmtdev sim_net backend loopback frontend vduse mode vhost"],
                               eal=[inside.LCORES]) as maker:
            needs = {"start_stop_cycles", "split_wraps", "packed_wraps", "memory_change"}
            self.conform("mgmtdev vhost-vdpa/vs0",
                         ["identity", "config_stable", "split_indirect", "packed_indirect", "split_event_index",
                          "packed_event_index", "kick_swap", "call_swap", "bad_address", "bad_loop",
                          "net_smallest_frames", *needs], needs=needs)
            with harness.Daemon(eal=[inside.LCORES], folder=folder) as d:
                for packed in False, True:
                    d.add(f"name dev0 mgmtdev vhost-vdpa/vs0 socket {folder}/dev0")
                    port = harness.virtio_user(f"{folder}/dev0", packed=packed)
                    with harness.Testpmd([port], lcores=inside.LCORES) as pmd:
                        self.assertEqual(bool(int(d.show("dev0")["negotiated_features"], 16) >> 34 & 1), packed)
                        pmd.run("start tx_first 2")
                        inside.until(lambda p=pmd: p.port_stats()["RX-packets"] > 1000, "frames", 30)
                        pmd.run("stop")
                        print(f"{self.id()}: packed {packed}: {pmd.port_stats()}", flush=True)
                    self.assertEqual(d.show("dev0")["state"], "idle")
                    d.delete("dev0")
            self.assertEqual(maker.show("vs0")["state"], "idle")

    def test_rebind(self):
        if not os.path.exists("/sys/bus/vdpa/drivers/virtio_vdpa"):
            self.skipTest("no virtio_vdpa: run scripts/fetch-guest --refresh vdpa")
        driver = pathlib.Path("/sys/bus/vdpa/devices/blk0/driver")
        with parent("blk0", "vdpasim_blk"):
            (driver / "unbind").write_text("blk0")
            pathlib.Path("/sys/bus/vdpa/drivers/virtio_vdpa/bind").write_text("blk0")
            inside.until(lambda: any(n.startswith("vd") for n in os.listdir("/sys/block")), "the kernel's disk")
            done = subprocess.run([TEST_VDPA, "info", "--dev", "mgmtdev vhost-vdpa/blk0", *EAL],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            self.assertIn("bound to virtio_vdpa; the word `rebind`", done.stderr)
            self.conform("mgmtdev vhost-vdpa/blk0 rebind", ["block_write_read"], needs={"block_write_read"})
            self.assertEqual(driver.resolve().name, "vhost_vdpa")


if __name__ == "__main__":
    load(sys.argv.pop(1))
    unittest.main(verbosity=2)
