#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Devices of one VM, as vdpa-app serves them: the guest's memory is mapped once in the daemon, a front
end of another user and memory that contradicts another's are refused with a line, and whoever leaves
disturbs nobody.
"""

import contextlib
import os
import random
import resource
import subprocess
import sys
import threading
import unittest

import harness
import vfio_user_client as vfio
import vhost_user_client as vu

DEVICES = 8
GUEST = 16 << 20
MANY = 200
MANY_GUEST = 1 << 30  # bytes, sparse
LARGE = 512 << 30
OTHER_UID = 65533  # the one above stands for users who have none here
# Connects to the socket, asks for the features, and says what came of it.
CONNECT = '''
import socket, struct, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.connect(sys.argv[1])
try:
    s.sendall(struct.pack("<III", 1, 1, 0))
    print("served" if s.recv(64) else "refused")
except ConnectionError:
    print("refused")
'''
# The same by vfio-user: its first message is VERSION.
CONNECT_FUNCTION = '''
import socket, struct, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.connect(sys.argv[1])
try:
    s.sendall(struct.pack("<HHIII", 1, 1, 20, 0, 0) + struct.pack("<HH", 0, 1))
    print("served" if s.recv(64) else "refused")
except ConnectionError:
    print("refused")
'''


def maps(daemon):
    """Mappings of guest memory in the daemon: (how many, bytes)."""
    with open(f"/proc/{daemon.pid}/maps", encoding="utf-8", errors="replace") as f:
        lines = [line for line in f if vu.MEM_NAME in line]
    sizes = [int(b, 16) - int(a, 16) for a, b in (line.split()[0].split("-") for line in lines)]
    return len(sizes), sum(sizes)


def function_words(i, more="", vm="vm guest0"):
    return f"name n{i} mgmtdev sim_net backend loopback {vm} {more} vfio_user {{dir}}/n{i}.sock"


def words(i, vm="vm guest0"):
    return f"name n{i} mgmtdev sim_net backend loopback {vm} mode 0666 socket {{dir}}/n{i}.sock"


class Vm(unittest.TestCase):
    def start(self, daemon, i, memory):
        net = vu.NetDriver(daemon.socket(f"n{i}"), memory=memory)
        self.addCleanup(net.client.close)
        net.start()
        net.exchange()
        return net

    def guest(self, size=GUEST):
        memory = vu.Memory(size)
        self.addCleanup(memory.close)
        return memory

    def test_eight_devices_map_the_memory_once(self):
        memory = self.guest()
        with harness.Daemon([words(i) for i in range(DEVICES)]) as d:
            nets = {i: self.start(d, i, memory) for i in range(DEVICES)}
            self.assertEqual(maps(d), (1, GUEST))
            shown = d.show("n3")
            self.assertEqual((shown["vm"], shown["vm_devices"]), ("guest0", DEVICES))
            order = random.sample(range(DEVICES), DEVICES)
            print(f"{self.id()}: leaving in the order {order}", flush=True)
            for n, i in enumerate(order[:-1]):
                if n % 2 == 0:
                    d.delete(f"n{i}")
                nets.pop(i).client.close()
                for net in nets.values():
                    net.exchange()
            self.assertEqual(maps(d), (1, GUEST))
            nets[order[-1]].exchange()
            nets[order[-1]].client.close()
            harness.wait_for(lambda: maps(d) == (0, 0), "the memory to be unmapped")

    def test_devices_of_which_nobody_said_so_do_not_share(self):
        memory = self.guest()
        with harness.Daemon([words(0, ""), words(1, ""), words(2, "vm a"), words(3, "vm b")]) as d:
            for i in range(4):
                self.start(d, i, memory)
            self.assertEqual(maps(d), (4, 4 * GUEST))
            self.assertNotIn("vm", d.show("n0"))

    def test_memory_that_contradicts_is_refused(self):
        memory, other = self.guest(), self.guest()
        with harness.Daemon([words(0), words(1)]) as d:
            net = self.start(d, 0, memory)
            with vu.Client(d.socket("n1")) as client:
                client.negotiate()
                self.assertNotEqual(client.set_memory(other), 0)
                harness.wait_for(lambda: "n1: vhost-user: " in d.err.text() and
                                 "contradicts that of n0" in d.err.text() and "of VM guest0" in d.err.text(),
                                 "the line")
                # The guest's own memory is taken from the same connection.
                self.assertEqual(client.set_memory(memory), 0)
            net.exchange()

    @unittest.skipUnless(os.getuid() == 0, "changes the user")
    def test_a_front_end_of_another_user_is_refused(self):
        def connect(uid):
            return subprocess.run(
                ["setpriv", f"--reuid={uid}", "--clear-groups", sys.executable, "-c", CONNECT,
                 d.socket("n1")], capture_output=True, text=True, check=True).stdout.strip()

        with harness.Daemon([words(0), words(1)]) as d:
            os.chmod(d.dir, 0o755)
            net = self.start(d, 0, self.guest())
            self.assertEqual(connect(OTHER_UID), "refused")
            line = (f"the front end has uid {OTHER_UID}, and that of n0, of the same VM guest0, has "
                    "uid 0")
            harness.wait_for(lambda: line in d.err.text(), "the line")
            self.assertEqual(connect(0), "served")
            net.exchange()
            # When the guest has gone, the devices are for another.
            net.client.close()
            harness.wait_for(lambda: d.show("n0")["state"] == "idle", "the device to stop")
            harness.wait_for(lambda: connect(OTHER_UID) == "served", "the other user's turn")

    def test_names(self):
        with harness.Daemon([words(0)]) as d:
            answer = d.refusal("dev.add", words="name x mgmtdev sim_net vm a/b socket /tmp/x.sock")
            self.assertIn("vm 'a/b': allowed are", answer)


class Functions(unittest.TestCase):
    """Devices of one VM behind vfio-user."""

    def guest(self, size=GUEST):
        memory = vu.Memory(size)
        self.addCleanup(memory.close)
        return memory

    def attach(self, daemon, i, memory, start=True):
        net = vfio.NetDriver(daemon.socket(f"n{i}"), memory=memory)
        self.addCleanup(net.close)
        if start:
            net.start()
            net.exchange()
        return net

    def test_the_memory_is_mapped_once(self):
        memory = self.guest()
        with harness.Daemon([function_words(i) for i in range(DEVICES)]) as d:
            nets = [self.attach(d, i, memory) for i in range(DEVICES)]
            self.assertEqual(maps(d), (1, GUEST))
            shown = d.show("n3")
            self.assertEqual((shown["vm"], shown["vm_devices"]), ("guest0", DEVICES))
            nets[0].close()
            # The ranges change under all of them, one after the other.
            for net in nets[1:]:
                net.client.dma_unmap(memory.GPA + memory.size - 4096, 4096)
                net.exchange()
            self.assertEqual(maps(d), (1, GUEST - 4096))
            for net in nets[1:]:
                net.exchange()
                net.close()
            harness.wait_for(lambda: maps(d) == (0, 0), "the memory to be unmapped")

    def test_devices_of_which_nobody_said_so_do_not_share(self):
        memory = self.guest()
        with harness.Daemon([function_words(0), function_words(1, vm="vm b"),
                             function_words(2, vm=""), function_words(3, vm="")]) as d:
            nets = [self.attach(d, i, memory) for i in range(4)]
            self.assertGreaterEqual(maps(d)[0], 4)
            for net in nets:
                net.exchange()

    def test_one_front_end_beside_the_other(self):
        memory = self.guest()
        with harness.Daemon([words(0), function_words(1)]) as d:
            net = vu.NetDriver(d.socket("n0"), memory=memory)
            self.addCleanup(net.client.close)
            net.start()
            net.exchange()
            function = self.attach(d, 1, memory)
            net.exchange()
            function.exchange()
            self.assertEqual(d.show("n1")["vm_devices"], 2)

    def test_memory_that_contradicts_fails_a_start_and_a_map(self):
        memory, other = self.guest(), self.guest()
        with harness.Daemon([function_words(0), function_words(1)]) as d:
            net = self.attach(d, 0, memory)
            # Nothing is in the device's reach before DRIVER_OK, and nothing contradicts.
            wrong = self.attach(d, 1, other, start=False)
            wrong.start()
            self.assertTrue(wrong.function.status() & vfio.NEEDS_RESET)
            harness.wait_for(lambda: "contradicts that of n0" in d.err.text() and
                             "of VM guest0" in d.err.text(), "the line")
            wrong.close()
            right = self.attach(d, 1, memory)
            with self.assertRaises(vfio.Refused):
                right.client.dma_map(memory.GPA + (1 << 30), GUEST, memory.fd) or \
                    net.client.dma_map(memory.GPA + (1 << 30), GUEST, other.fd)
            right.exchange()
            net.exchange()

    @unittest.skipUnless(os.getuid() == 0, "changes the user")
    def test_a_client_of_another_user_is_refused(self):
        def connect(uid):
            return subprocess.run(
                ["setpriv", f"--reuid={uid}", "--clear-groups", sys.executable, "-c", CONNECT_FUNCTION,
                 d.socket("n1")], capture_output=True, text=True, check=True).stdout.strip()

        with harness.Daemon([function_words(i, "mode 0666") for i in range(2)]) as d:
            os.chmod(d.dir, 0o755)
            net = self.attach(d, 0, self.guest())
            self.assertEqual(connect(OTHER_UID), "refused")
            line = (f"the front end has uid {OTHER_UID}, and that of n0, of the same VM guest0, has "
                    "uid 0")
            harness.wait_for(lambda: line in d.err.text(), "the line")
            self.assertEqual(connect(0), "served")
            net.exchange()
            net.close()
            harness.wait_for(lambda: connect(OTHER_UID) == "served", "the other user's turn")


class Many(unittest.TestCase):
    """200 guests at once, and one of 512 GiB: what is counted; scripts/bench attach has the times."""

    def serve(self, kind, count):
        names = [f"n{i}" for i in range(count)]
        if kind == "sim":
            lines = [f"name {n} mgmtdev sim_net backend loopback socket {{dir}}/{n}.sock"
                     for n in names]
        else:
            model = harness.Daemon([f"name {n} mgmtdev sim_net backend loopback "
                                    f"vfio_user {{dir}}/{n}.vfu" for n in names],
                                   app=os.environ["UVDPA_MODEL"])
            self.enterContext(model)
            lines = [f"name {n} mgmtdev vfio-user/{model.dir}/{n}.vfu socket {{dir}}/{n}.sock"
                     for n in names]
        return harness.Daemon(lines)

    def check(self, kind):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        count = MANY
        with self.serve(kind, count) as d, contextlib.ExitStack() as stack:
            nets, failures = [None] * count, []

            def attach(first):
                for i in range(first, count, 8):
                    try:
                        nets[i] = vu.NetDriver(d.socket(f"n{i}"), memory=vu.Memory(MANY_GUEST))
                        nets[i].start()
                    except Exception as e:
                        failures.append((i, e))

            threads = [threading.Thread(target=attach, args=(n,)) for n in range(8)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            for net in filter(None, nets):
                stack.callback(net.memory.close)
                stack.callback(net.client.close)
            self.assertEqual(failures, [])
            for i in range(count):
                harness.wait_for(lambda n=i: d.show(f"n{n}")["state"] == "running", f"n{i} to run")
            self.assertEqual(maps(d), (count, count * MANY_GUEST))
            if kind != "sim":
                for i in range(count):
                    dma = d.show(f"n{i}")["dma"]
                    self.assertEqual(dma["unmaps"], 0)
                    self.assertGreaterEqual(dma["bytes_mapped"], MANY_GUEST)
            for net in nets[:: count // 10]:
                net.exchange()

    def test_many_simulated(self):
        self.check("sim")

    def test_many_on_the_model(self):
        self.check("model")

    def test_a_large_one_on_the_model_holds_nobody_up(self):
        with self.serve("model", 2) as d:
            large = vu.NetDriver(d.socket("n0"), memory=vu.Memory(LARGE))
            self.addCleanup(large.memory.close)
            self.addCleanup(large.client.close)
            large.start()
            large.exchange()
            self.assertGreaterEqual(d.show("n0")["dma"]["bytes_mapped"], LARGE)
            self.start_beside(d)
            large.exchange()

    def start_beside(self, d):
        with vu.NetDriver(d.socket("n1")) as net:
            net.start()
            net.exchange()
            net.stop()


if __name__ == "__main__":
    unittest.main()
