#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Inside the laboratory, whose clock counts instructions: what vdpa-app executes, in its own code and in
the kernel for it, to start and stop a virtio function; and what the kernel's vp_vdpa takes for the
same one. See tests/bench/start_instructions.py.

usage: lab_starts.py ROUNDS MODULES ADDRESS,QUEUES... MODULES is the folder of vp_vdpa and the modules
that it needs, or "none": then it is not measured.
"""

import array
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

import harness  # noqa: E402
import vhost_user_client as vhu  # noqa: E402

import lab_inside as inside  # noqa: E402

NS_PER_INSTRUCTION = 1  # of QEMU's -icount shift=0
MEMORY = 256 << 20
DRIVER_OK = 0xF


class Instructions:
    """Those of a process, of threads that have ended too."""

    def __init__(self, pid):
        self.clock = ~pid << 3 | 2  # clock_getcpuclockid(3)
        self.last = self.now()

    def now(self):
        return time.clock_gettime_ns(self.clock) // NS_PER_INSTRUCTION

    def lap(self):
        before, self.last = self.last, self.now()
        return self.last - before


def kernel_threads():
    """Instructions of all of them so far."""
    total = 0
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            # Parent 2 is kthreadd.
            if (folder / "stat").read_text().rpartition(")")[2].split()[1] == "2":
                total += int((folder / "schedstat").read_text().split()[0])
        except FileNotFoundError:
            pass
    return total // NS_PER_INSTRUCTION


def quiet():
    """The daemon has done what comes after its answer, too."""
    time.sleep(0.05)


def start_messages(memory, rings):
    """What a front end sends to start a device, but for the last one: (bytes, descriptors) each."""
    recorder = Recorder()
    recorder.set_memory(memory, ack=False)
    for ring in rings:
        recorder.state(vhu.SET_VRING_NUM, ring.index, ring.num, ack=False)
        recorder.state(vhu.SET_VRING_BASE, ring.index, 0, ack=False)
        recorder.send(vhu.SET_VRING_ADDR, ring.addr_payload())
        recorder.u64(vhu.SET_VRING_CALL, ring.index, [recorder.eventfd()], ack=False)
        recorder.u64(vhu.SET_VRING_KICK, ring.index, [recorder.eventfd()], ack=False)
        recorder.state(vhu.SET_VRING_ENABLE, ring.index, 1, ack=False)
    return recorder


class Recorder(vhu.Client):
    """A front end that keeps what it is to send."""

    def __init__(self):
        super().__init__(None, connection=socket.socket(socket.AF_UNIX))
        self.messages = []

    def send_raw(self, data, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.messages.append(([data], rights))


def start(client, recorder):
    """As a front end starts a device: one answer at the end."""
    for data, rights in recorder.messages:
        client.sock.sendmsg(data, rights)
    assert client.u64(vhu.SET_STATUS, DRIVER_OK) == 0
    quiet()


def stop(client, rings):
    for ring in rings:
        client.ask(vhu.GET_VRING_BASE, struct.pack("<II", ring.index, 0))
    assert client.u64(vhu.SET_STATUS, 0) == 0
    quiet()


class Figures:
    """Instructions of each start and each stop, and of the kernel's threads meanwhile."""

    def __init__(self):
        self.values = {"starts": [], "stops": [], "start_threads": [], "stop_threads": []}

    def add(self, kind, step):
        """kind: start or stop; step() returns its instructions."""
        before = kernel_threads()
        self.values[f"{kind}s"].append(step())
        self.values[f"{kind}_threads"].append(kernel_threads() - before)


def counted(pid, step):
    count = Instructions(pid)
    step()
    return count.lap()


def measure(address, queues, rounds):
    """
    Of one connection: figures, instructions of the first start's map, and how often the daemon has
    mapped and unmapped after the first and after all.
    """
    inside.bind(address)
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        cost = pathlib.Path(folder) / "map"
        preload = inside.BUILD / "tests/vm/liblab_map_cost.so"
        launcher = ["env", f"LD_PRELOAD={preload}", f"UVDPA_MAP_COST={cost}"]
        with harness.Daemon(launcher=launcher) as d:
            words = f"name dev0 mgmtdev pci/{address} socket {d.socket('dev0')}"
            d.add(words)
            before = cost.read_bytes()
            memory = vhu.Memory(MEMORY)
            # As a guest that has used all of it.
            for at in range(0, MEMORY, 4096):
                memory.map[at] = 1
            with vhu.Client(d.socket("dev0"), timeout=60) as client:
                client.negotiate(protocol=vhu.P_REPLY_ACK | vhu.P_MQ | vhu.P_CONFIG | vhu.P_STATUS)
                quiet()
                for _ in range(rounds):
                    rings = [vhu.SplitRing(memory, i) for i in range(queues)]
                    for ring in rings:
                        memory.write(ring.desc, bytes(ring.device + 6 + 8 * ring.num - ring.desc))
                    with start_messages(memory, rings) as recorder:
                        figures.add("start",
                                    lambda: counted(d.pid, lambda: start(client, recorder)))
                    shown = d.show("dev0")
                    assert shown["state"] == "running", shown
                    figures.values.setdefault("first", shown["dma"])
                    figures.values.setdefault("map", instructions(before, cost.read_bytes()))
                    figures.add("stop", lambda: counted(d.pid, lambda: stop(client, rings)))
                figures.values["last"] = shown["dma"]
            memory.close()
    return figures.values


def instructions(before, after):
    """Between two contents of the file of lab_map_cost.c."""
    return (int.from_bytes(after, "little") - int.from_bytes(before, "little")) // NS_PER_INSTRUCTION


def load(folder):
    """vp_vdpa and what it needs, beside the laboratory's own modules."""
    for path in sorted(pathlib.Path(folder).glob("*.ko")):
        if not os.path.exists(f"/sys/module/{path.stem[3:]}"):
            subprocess.run(["/run/lab/busybox", "insmod", str(path)], check=True)


def measure_kernel(address, queues, rounds):
    """The same of the kernel's vp_vdpa, by a vhost-vdpa front end."""
    inside.bind(address, "vp-vdpa")
    subprocess.run(["vdpa", "dev", "add", "name", "vp0", "mgmtdev", f"pci/{address}"], check=True)
    found = harness.wait_for(lambda: list(pathlib.Path("/dev").glob("vhost-vdpa-*")), "vhost-vdpa")
    program = inside.BUILD / "tests/vm/lab_vdpa_starts"
    figures = Figures()
    with subprocess.Popen([program, found[0], str(queues), str(MEMORY)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True, bufsize=1) as front_end:
        assert front_end.stdout.readline() == "ready\n"

        def step(word):
            front_end.stdin.write(word + "\n")
            took, maps = map(int, front_end.stdout.readline().split())
            time.sleep(0.05)
            figures.values.setdefault("map", maps // NS_PER_INSTRUCTION)
            return took // NS_PER_INSTRUCTION

        for _ in range(rounds):
            figures.add("start", lambda: step("start"))
            figures.add("stop", lambda: step("stop"))
        front_end.stdin.close()
        assert front_end.wait() == 0
    subprocess.run(["vdpa", "dev", "del", "vp0"], check=True)
    inside.bind(address, "none")
    return figures.values


def main():
    rounds, modules = int(sys.argv[1]), sys.argv[2]
    if modules != "none":
        load(modules)
    results = []
    for argument in sys.argv[3:]:
        address, queues = argument.split(",")
        result = {"queues": int(queues), "uvdpa": measure(address, int(queues), rounds)}
        if modules != "none":
            result["kernel"] = measure_kernel(address, int(queues), rounds)
        results.append(result)
    print("@@result starts " + json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
