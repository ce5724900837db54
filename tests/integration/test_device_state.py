#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A device's state goes to another daemon (DEVICE_STATE): what is taken there, and what is refused."""

import contextlib
import os
import socket
import struct
import tempfile
import unittest

import harness
from vfio_user_client import Model
from vhost_user_client import *

MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"
NET = P_REPLY_ACK | P_MQ | P_DEVICE_STATE
MIB = 1 << 20
HEADER = 16


def record(type_, payload, needed=1):
    return struct.pack("<HHI", type_, needed, len(payload)) + payload


def with_record(state, type_, payload, needed=1):
    """A state with one record more."""
    records = state[HEADER:] + record(type_, payload, needed)
    return state[:12] + struct.pack("<I", len(records)) + records


class DeviceState(HostileTest):
    """The victim is where states are loaded; states are made by another daemon, the source."""

    DEVICES = (f"name victim mgmtdev sim_net mac {MAC}", "name healthy mgmtdev sim_net",
               f"name other_mac mgmtdev sim_net mac {OTHER_MAC}",
               f"name mtu mgmtdev sim_net mac {MAC} mtu 9000",
               f"name pairs mgmtdev sim_net mac {MAC} max_vqp 4",
               f"name small mgmtdev sim_net mac {MAC} queue_size 32",
               f"name poor mgmtdev sim_net mac {MAC} device_features 0x100000020",
               f"name without mgmtdev sim_net mac {MAC} device_state off",
               "name disk mgmtdev sim_blk backend ram 4M device_state on",
               "name disk_larger mgmtdev sim_blk backend ram 8M device_state on",
               "name disk_4k mgmtdev sim_blk backend ram 4M blk_size 4096 device_state on",
               "name disk_default mgmtdev sim_blk backend ram 4M")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.source = Daemon((f"name net mgmtdev sim_net mac {MAC}",
                             f"name mtu mgmtdev sim_net mac {MAC} mtu 1500",
                             f"name pairs mgmtdev sim_net mac {MAC} max_vqp 2",
                             "name disk mgmtdev sim_blk backend ram 4M device_state on"))

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        code, log = cls.source.stop()
        if code != 0 or "Sanitizer" in log or "runtime error" in log:
            raise AssertionError(f"the source ended with {code}:\n{log[-8000:]}")

    def at(self, name, features=F_VERSION_1, protocol=NET):
        client = Client(self.daemon.path(name))
        self.closers.append(client)
        client.negotiate(features, protocol)
        return client

    def saved(self, name="net", ring=SplitRing, exchanges=3, features=0):
        """The state of a net device after some exchanges, and the guest that it is of."""
        net = NetDriver(self.source.path(name), ring, protocol=NET, features=features).start()
        self.closers.append(net)
        for _ in range(exchanges):
            net.exchange()
        net.stop()
        state = net.client.save_state()
        self.assertIsNotNone(state)
        net.client.close()
        return state, net

    def assert_load_refused(self, name, state, *causes):
        """With an error in the reply and one line that says why; the connection goes on."""
        client = self.at(name)
        before = self.daemon.log().count("failed:")
        self.assertNotEqual(client.load_state(state), 0)
        log = self.new_log()
        lines = [line for line in log.splitlines() if f"{name}: " in line and all(re.search(c, line) for c in causes)]
        self.assertEqual(len(lines), 1, f"{causes} is not one line of:\n{log}")
        self.assertEqual(self.daemon.log().count("failed:"), before + 1)
        self.assertEqual(client.u64(SET_FEATURES, F_VERSION_1 | F_PROTOCOL), 0)
        client.close()

    def goes_on(self, ring):
        """A guest moves and finds its queues where they were, without a word about them of its own."""
        state, source = self.saved(ring=ring)
        target = NetDriver(self.daemon.path("victim"), ring, protocol=NET, memory=source.memory)
        self.closers.append(target)
        self.assertEqual(target.client.load_state(state), 0)
        target.rx, target.tx, target.count = source.rx, source.tx, source.count
        target.rx_buf, target.tx_buf = source.rx_buf, source.tx_buf
        for r in target.rx, target.tx:
            self.assertEqual(r.set_up(target.client), 0)
        target.exchange()
        target.stop()
        self.assert_logged("state loaded")
        self.assertIn("state saved", self.source.log())
        target.close()

    def test_a_guest_goes_on_where_it_was(self):
        self.goes_on(SplitRing)

    def test_a_guest_with_packed_rings_goes_on_where_it_was(self):
        self.goes_on(PackedRing)

    def test_a_state_may_be_loaded_twice_and_saved_again(self):
        state, _ = self.saved()
        client = self.at("victim")
        self.assertEqual([client.load_state(state), client.load_state(state)], [0, 0])
        self.assertEqual(client.save_state(), state)

    def test_a_state_of_a_device_that_never_ran(self):
        with Client(self.source.path("net")) as client:
            client.negotiate(protocol=NET)
            self.assertEqual(self.at("victim").load_state(client.save_state()), 0)

    def control(self, net, index, command):
        """The answer to a command on the control queue, 0 for none wrong."""
        if not hasattr(net, "ctrl"):
            net.ctrl, net.ctrl_buf = SplitRing(net.memory, index), net.memory.alloc(4096)
            self.assertEqual(net.ctrl.start(net.client), 0)
        ring, at = net.ctrl, net.memory.GPA + net.ctrl_buf
        net.memory.write(net.ctrl_buf, command + b"\xff")
        ring.set_desc(0, at, len(command), DESC_NEXT, 1)
        ring.set_desc(1, at + len(command), 1, DESC_WRITE)
        ring.submit(0)
        ring.kick()
        self.assertTrue(wait_until(lambda: ring.poll() is not None))
        return net.memory.read(net.ctrl_buf + len(command), 1)[0]

    def mac_of(self, client):
        return client.ask(GET_CONFIG, struct.pack("<III", 0, 6, 0) + bytes(6))[12:].hex(":")

    def test_what_a_guest_has_set_by_the_control_queue_goes_along(self):
        features = F_CTRL_VQ | F_CTRL_RX | F_CTRL_MAC_ADDR
        own = "52:54:00:00:00:77"
        net = NetDriver(self.source.path("net"), protocol=NET | P_CONFIG, features=features)
        self.closers.append(net)
        net.start()
        self.assertEqual(self.control(net, 2, b"\x01\x01" + bytes.fromhex(own.replace(":", ""))), 0)
        # Not promiscuous: frames to others are not for it.
        self.assertEqual(self.control(net, 2, b"\0\0\0"), 0)
        net.stop()
        net.client.ask(GET_VRING_BASE, struct.pack("<II", 2, 0))
        state = net.client.save_state()
        self.assertEqual(self.mac_of(net.client), MAC)
        # A device that is not started shows nothing of it, and one that is all.
        target = self.net(protocol=NET | P_CONFIG | P_RESET, features=features)
        self.assertEqual(target.client.load_state(state), 0)
        self.assertEqual(self.mac_of(target.client), MAC)
        target.start()
        self.assertEqual(self.mac_of(target.client), own)
        with self.assertRaises(AssertionError):
            target.exchange(0.3)
        # It moves on as it is, and is gone with a reset.
        target.stop()
        self.assertEqual(target.client.save_state()[-528:], state[-528:])
        target.client.ack(RESET_DEVICE)
        self.assertEqual(self.mac_of(target.client), MAC)
        target.client.close()
        # Damaged: refused, before anything is started.
        head = state.index(bytes.fromhex(own.replace(":", ""))) - 4
        for at, value, cause in (0, 9, "version 9"), (2, 3, "3 queue pairs in use"), (4, 1, "an address"):
            bad = state[:head + at] + bytes([value]) + state[head + at + 1:]
            self.assert_load_refused("victim", bad, cause)

    def test_the_mode_of_a_disk_s_write_cache_goes_along(self):
        with Client(self.source.path("disk")) as source, Client(self.daemon.path("disk")) as target:
            for client in source, target:
                client.negotiate(F_VERSION_1 | 1 << 11, P_REPLY_ACK | P_CONFIG | P_DEVICE_STATE)
            memory = self.memory()
            self.assertEqual(source.set_memory(memory), 0)
            self.assertEqual(SplitRing(memory, 0).start(source), 0)
            self.assertEqual(source.ack(SET_CONFIG, struct.pack("<III", 32, 1, 0) + b"\0"), 0)
            source.ask(GET_VRING_BASE, struct.pack("<II", 0, 0))
            state = source.save_state()
            self.assertEqual(source.ack(SET_CONFIG, struct.pack("<III", 32, 1, 0) + b"\1"), 0)
            ask = struct.pack("<III", 32, 1, 0) + b"\0"
            self.assertEqual(target.ask(GET_CONFIG, ask)[12:], b"\1")
            self.assertEqual(target.load_state(state), 0)
            self.assertEqual(target.ask(GET_CONFIG, ask)[12:], b"\0")
            self.assertEqual(target.ack(SET_CONFIG, struct.pack("<III", 32, 1, 0) + b"\1"), 0)

    def test_a_disk_by_word(self):
        with BlockDriver(self.source.path("disk"), 1, 1) as blk:
            blk.client.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", P_REPLY_ACK | P_DEVICE_STATE))
            blk.start()
            blk.exchange()
            self.assertEqual(blk.stop(), [2])
            state = blk.client.save_state()
        self.assertEqual(self.at("disk").load_state(state), 0)
        self.assert_load_refused("disk_larger", state, "sectors: 8192 in the state, 16384 here")
        self.assert_load_refused("disk_4k", state, "block size: 512 in the state, 4096 here")
        self.assert_load_refused("victim", state, r"class: block \(2\) in the state, network \(1\) here")

    def test_it_is_offered_for_net_or_by_word(self):
        for name, offered in ("victim", True), ("without", False), ("disk", True), ("disk_default", False):
            with Client(self.daemon.path(name)) as client:
                self.assertEqual(bool(client.ask_u64(GET_PROTOCOL_FEATURES) & P_DEVICE_STATE), offered, name)

    def test_another_device_refuses_it(self):
        state, _ = self.saved()
        self.assert_load_refused("other_mac", state, f"MAC: {MAC} in the state, {OTHER_MAC} here")
        self.assert_load_refused("small", state, "queue 0: size 64, allowed are 1 to 32")
        self.assert_load_refused("disk", state, r"class: network \(1\) in the state, block \(2\) here")
        self.assert_load_refused("pairs", state, "queues: 2 in the state, 8 here")
        self.assert_load_refused("pairs", self.saved("pairs")[0], "queue pairs: 2 in the state, 4 here")
        self.assert_load_refused("mtu", self.saved("mtu")[0], "MTU: 1500 in the state, 9000 here")
        self.assert_load_refused("poor", self.saved(features=F_MRG_RXBUF)[0],
                                 r"features: 0x100008000 in the state, of 0x\w+ here, which lack 0x8000")
        self.at("victim").load_state(state)

    def test_a_stream_that_is_cut_anywhere_is_refused(self):
        state, _ = self.saved()
        client = self.at("victim")
        for at in range(len(state)):
            self.assertEqual(client.load_state(state[:at]), 1, at)
        self.assert_logged("the state ends after 0 bytes, its header has 16")
        self.assert_logged(f"the state ends after 16 bytes, it was written with {len(state)}")
        # None of them is in the way of the whole one.
        self.assertEqual(client.load_state(state), 0)

    def test_bytes_that_are_no_state_are_refused(self):
        state, _ = self.saved()
        for bad, cause in (
            (state[:8] + struct.pack("<I", 2) + state[12:], "the state has version 2, this build reads version 1"),
            (b"x" + state[1:], "none of this framework's"),
            (state + b"\0", "ends after"),
            (bytes(MIB + 1), "longer than 1048576 bytes"),
            (with_record(state, 99, b"later"), "record 99"),
            (with_record(state, 3, bytes(6)), "'MAC' of the state comes twice"),
            (with_record(state, 9, b"parts"), "a state of 5 bytes, its head has 16"),
        ):
            self.assert_load_refused("victim", bad, cause)
        self.assertEqual(self.at("victim").load_state(with_record(state, 99, b"later", 0)), 0)

    def test_a_device_that_runs_refuses_both(self):
        state, _ = self.saved()
        net = self.net(protocol=NET).start()
        net.exchange()
        self.assertIsNone(net.client.save_state())
        self.assertEqual(net.client.load_state(state), 1)
        self.assert_logged("SET_DEVICE_STATE_FD", "the device runs")
        net.exchange()
        # One that starts in between, too.
        net.stop()
        reader, writer = os.pipe()
        self.assertEqual(net.client.set_device_state_fd(STATE_LOAD, reader), 0)
        os.close(reader)
        os.write(writer, state)
        os.close(writer)
        net.start()
        self.assertEqual(net.client.ask_u64(CHECK_DEVICE_STATE), 1)
        net.exchange()

    def test_only_what_is_known_is_done(self):
        client = self.at("victim")
        with tempfile.TemporaryFile() as f:
            for direction, phase in (2, 0), (0, 1), (0xFFFFFFFF, 0):
                self.assertEqual(client.set_device_state_fd(direction, f.fileno(), phase), 1)
        self.assert_logged("direction 2, phase 0")
        self.assertEqual(client.ask_u64(CHECK_DEVICE_STATE), 1)
        self.assert_logged("CHECK_DEVICE_STATE", "no SET_DEVICE_STATE_FD")

    def test_requests_need_their_protocol_feature(self):
        for name, protocol in ("without", NET), ("victim", P_REPLY_ACK):
            client = self.at(name, protocol=protocol)
            client.send(CHECK_DEVICE_STATE)
            self.assertTrue(client.is_closed())

    def test_files_that_could_make_us_wait_are_refused(self):
        state, _ = self.saved()
        client = self.at("victim")
        a, b = socket.socketpair()
        with a, b, open("/dev/null", "rb") as null, tempfile.NamedTemporaryFile(dir=os.getcwd()) as file:
            for fd in a.fileno(), null.fileno(), file.fileno():
                for direction in STATE_SAVE, STATE_LOAD:
                    self.assertEqual(client.set_device_state_fd(direction, fd), 1)
            os.mkfifo(fifo := os.path.join(self.daemon.dir, "fifo"))
            fd = os.open(fifo, os.O_RDWR)
            self.assertEqual(client.set_device_state_fd(STATE_LOAD, fd), 1)
            os.close(fd)
        self.assert_logged("neither a pipe nor a file in memory")
        # A file in memory is taken, from where it stands on.
        fd = os.memfd_create("state")
        self.assertEqual(client.set_device_state_fd(STATE_SAVE, fd), 0)
        self.assertEqual(client.ask_u64(CHECK_DEVICE_STATE), 0)
        os.lseek(fd, 0, os.SEEK_SET)
        self.assertEqual(client.set_device_state_fd(STATE_LOAD, fd), 0)
        self.assertEqual(client.ask_u64(CHECK_DEVICE_STATE), 0)
        os.close(fd)
        self.assertEqual(client.load_state(state), 0)

    def test_a_front_end_that_never_ends_its_state(self):
        """CHECK_DEVICE_STATE waits 5 s, and other devices go on meanwhile."""
        client = self.at("victim")
        reader, writer = os.pipe()
        self.assertEqual(client.set_device_state_fd(STATE_LOAD, reader), 0)
        self.assertEqual(client.set_device_state_fd(STATE_LOAD, reader), 1)
        self.assert_logged("still being moved")
        began = harness.running()
        client.send(CHECK_DEVICE_STATE)
        self.healthy.exchange()
        self.assertLess(harness.running() - began, 4)
        self.assertEqual(client.recv()[2], struct.pack("<Q", 1))
        self.assertLess(harness.running() - began, 8)
        self.assert_logged("not through 5000 ms after")
        # Given up, and no longer in the way.
        self.assertTrue(wait_until(lambda: client.set_device_state_fd(STATE_LOAD, reader) == 0, 2))
        os.close(reader)
        os.close(writer)

    def test_a_front_end_that_does_not_read(self):
        client = self.at("victim")
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        try:
            while True:
                os.write(writer, bytes(65536))
        except BlockingIOError:
            pass
        self.assertEqual(client.set_device_state_fd(STATE_SAVE, writer), 0)
        os.set_blocking(writer, True)
        # It goes away instead: the thread ends, and the next front end is served (tearDown).
        client.close()
        os.close(reader)
        os.close(writer)

    def test_a_pipe_on_which_every_call_waits_for_ever(self):
        pipe = HeldPipe()
        self.closers.append(pipe)
        client = self.at("victim")
        self.assertEqual(client.set_device_state_fd(STATE_LOAD, pipe.reader), 0)
        os.close(pipe.reader)
        began = harness.running()
        self.assertEqual(client.ask_u64(CHECK_DEVICE_STATE), 1)
        self.assertLess(harness.running() - began, 8)
        # Its thread stays, and there is no second one.
        with tempfile.TemporaryFile() as f:
            self.assertEqual(client.set_device_state_fd(STATE_LOAD, f.fileno()), 1)
        self.assert_logged("still being moved")
        client.close()
        with Client(self.daemon.path("victim")) as client:
            client.negotiate()

    def test_a_reader_that_is_gone(self):
        client = self.at("victim")
        reader, writer = os.pipe()
        os.close(reader)
        self.assertEqual(client.set_device_state_fd(STATE_SAVE, writer), 0)
        os.close(writer)
        self.assertEqual(client.ask_u64(CHECK_DEVICE_STATE), 1)
        self.assert_logged("cannot be written: Broken pipe")

    def test_a_state_is_no_other_front_end_s(self):
        state, _ = self.saved()
        client = self.at("victim")
        reader, writer = os.pipe()
        self.assertEqual(client.set_device_state_fd(STATE_LOAD, reader), 0)
        os.close(reader)
        os.write(writer, state)
        os.close(writer)
        client.close()
        self.assertEqual(self.at("victim").ask_u64(CHECK_DEVICE_STATE), 1)


class AcrossKinds(unittest.TestCase):
    """From a simulated device to a virtio function and back: what a guest sees of them is the same."""

    @classmethod
    def setUpClass(cls):
        words = {"net": f"sim_net mac {MAC}", "disk": "sim_blk backend ram 4M"}
        cls.model = Model([f"name {name} mgmtdev {device}" for name, device in words.items()])
        cls.model.start()
        cls.addClassCleanup(cls.model.cleanup)
        cls.addClassCleanup(cls.model.stop)
        state = "device_state on"
        cls.function = Daemon([f"name {name} mgmtdev vfio-user/{cls.model.socket(name)} {state}" for name in words])
        cls.addClassCleanup(cls.function.stop)
        cls.sim = Daemon([f"name {name} mgmtdev {device} {state}" for name, device in words.items()])
        cls.addClassCleanup(cls.sim.stop)

    def test_net(self):
        for ring in SplitRing, PackedRing:
            here, there = self.sim, self.function
            memory, rings = None, None
            for _ in range(3):
                with self.subTest(ring=ring.__name__, to="a function" if here is self.sim else "the simulator"):
                    with contextlib.ExitStack() as stack:
                        source = NetDriver(here.path("net"), ring, protocol=NET, memory=memory)
                        stack.callback(source.client.close)
                        if rings is not None:
                            self.go_on(source, rings)
                        else:
                            source.start()
                        for _ in range(3):
                            source.exchange()
                        source.stop()
                        rings = source, source.client.save_state()
                        self.assertIsNotNone(rings[1])
                        memory = source.memory
                here, there = there, here
            memory.close()

    def go_on(self, net, rings):
        before, state = rings
        self.assertEqual(net.client.load_state(state), 0)
        net.rx, net.tx, net.count = before.rx, before.tx, before.count
        net.rx_buf, net.tx_buf = before.rx_buf, before.tx_buf
        for r in net.rx, net.tx:
            self.assertEqual(r.set_up(net.client), 0)

    def test_block(self):
        for here, there in (self.sim, self.function), (self.function, self.sim):
            with Client(here.path("disk")) as source, Client(there.path("disk")) as target:
                for client in source, target:
                    client.negotiate(protocol=P_REPLY_ACK | P_DEVICE_STATE)
                self.assertEqual(target.load_state(source.save_state()), 0)


class Arrival(unittest.TestCase):
    """The network hears that a guest has come; its other end is another device."""

    RARP = b"\x80\x35"

    def setUp(self):
        self.daemon = Daemon((f"name moved mgmtdev sim_net mac {MAC} backend peer lan",
                              "name lan mgmtdev sim_net backend peer moved"))
        self.addCleanup(self.daemon.stop)
        self.lan = NetDriver(self.daemon.path("lan")).start()
        self.addCleanup(self.lan.close)
        self.buffers = [self.lan.memory.alloc(2048) for _ in range(8)]
        for buffer in self.buffers:
            self.lan.rx.add(buffer, 2048, True)
        self.lan.rx.kick()

    def announced(self, timeout=TIMEOUT_S):
        """The address by which the guest was announced since; None: it was not."""
        if wait_until(self.lan.rx.poll, timeout) is None:
            return None
        frame = self.lan.memory.read(self.buffers.pop(0) + NET_HDR, 60)
        self.assertEqual((frame[:6], frame[12:14]), (b"\xff" * 6, self.RARP))
        return frame[6:12].hex(":")

    def guest(self, **kw):
        net = NetDriver(self.daemon.path("moved"), protocol=NET | P_RARP | P_CONFIG, **kw)
        self.addCleanup(net.close)
        return net

    @staticmethod
    def send_rarp(client, mac):
        return client.ack(SEND_RARP, bytes.fromhex(mac.replace(":", "")) + b"\0\0")

    def test_by_the_front_end_s_word_also_before_the_device_runs(self):
        net = self.guest()
        self.assertEqual(self.send_rarp(net.client, OTHER_MAC), 0)
        self.assertIsNone(self.announced(0.2))
        net.start()
        self.assertEqual(self.announced(), OTHER_MAC)
        self.assertEqual(self.send_rarp(net.client, MAC), 0)
        self.assertEqual(self.announced(), MAC)
        net.stop()
        net.start()
        self.assertIsNone(self.announced(0.2))

    def test_a_guest_whose_control_queue_is_the_device_s_is_asked_to(self):
        net = self.guest(features=F_CTRL_VQ | F_GUEST_ANNOUNCE)
        state = net.client.save_state()
        self.assertEqual(net.client.load_state(state), 0)
        net.start()
        self.assertEqual(self.announced(), MAC)
        config = net.client.ask(GET_CONFIG, struct.pack("<III", 0, 8, 0) + bytes(8))[12:]
        self.assertEqual(struct.unpack("<H", config[6:])[0] & 2, 2)

    def test_one_that_has_not_moved_is_not(self):
        for features in 0, F_CTRL_VQ | F_GUEST_ANNOUNCE:
            net = self.guest(features=features).start()
            self.assertIsNone(self.announced(0.2))
            net.client.close()


if __name__ == "__main__":
    unittest.main()
