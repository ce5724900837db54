#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Inside the laboratory, whose clock counts instructions: what vdpa-app executes, in its own code and in
the kernel for it, to start and stop a virtio function. See tests/bench/start_instructions.py.
"""

import json
import os
import struct
import sys
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


def quiet(client):
    """The device has done what it was told: an answer comes after it."""
    client.ask_u64(vhu.GET_FEATURES)
    time.sleep(0.05)


def start(client, memory, rings):
    """As a front end starts a device: one answer at the end."""
    client.set_memory(memory, ack=False)
    for ring in rings:
        client.state(vhu.SET_VRING_NUM, ring.index, ring.num, ack=False)
        client.state(vhu.SET_VRING_BASE, ring.index, 0, ack=False)
        client.send(vhu.SET_VRING_ADDR, ring.addr_payload())
        client.u64(vhu.SET_VRING_CALL, ring.index, [client.eventfd()], ack=False)
        client.u64(vhu.SET_VRING_KICK, ring.index, [client.eventfd()], ack=False)
        client.state(vhu.SET_VRING_ENABLE, ring.index, 1, ack=False)
    assert client.u64(vhu.SET_STATUS, DRIVER_OK) == 0
    quiet(client)


def stop(client, rings):
    for ring in rings:
        client.ask(vhu.GET_VRING_BASE, struct.pack("<II", ring.index, 0))
    assert client.u64(vhu.SET_STATUS, 0) == 0
    quiet(client)


def measure(address, queues, rounds):
    """Of one connection: instructions of each start and each stop, maps of the first and of all."""
    inside.bind(address)
    figures = {"queues": queues, "starts": [], "stops": []}
    with harness.Daemon() as d:
        answer = d.ask(f"/vdpa/dev/add,name dev0 mgmtdev pci/{address} socket {d.socket('dev0')}")
        assert "error" not in answer, answer
        with vhu.Client(d.socket("dev0"), timeout=60) as client:
            memory = vhu.Memory(MEMORY)
            # As a guest that has used all of it.
            for at in range(0, MEMORY, 4096):
                memory.map[at] = 1
            client.negotiate(protocol=vhu.P_REPLY_ACK | vhu.P_MQ | vhu.P_CONFIG | vhu.P_STATUS)
            quiet(client)
            for _ in range(rounds):
                rings = [vhu.SplitRing(memory, i) for i in range(queues)]
                for ring in rings:
                    memory.write(ring.desc, bytes(ring.device + 6 + 8 * ring.num - ring.desc))
                count = Instructions(d.pid)
                start(client, memory, rings)
                figures["starts"].append(count.lap())
                shown = d.show("dev0")
                assert shown["state"] == "running", shown
                count.lap()
                stop(client, rings)
                figures["stops"].append(count.lap())
                figures.setdefault("first", shown["dma"])
                figures["last"] = shown["dma"]
            memory.close()
    return figures


def main():
    rounds = int(sys.argv[1])
    results = []
    for argument in sys.argv[2:]:
        address, queues = argument.split(",")
        results.append(measure(address, int(queues), rounds))
    print("@@result starts " + json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
