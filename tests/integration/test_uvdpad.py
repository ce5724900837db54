#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""The uvdpad protocol, by a client that writes what the Go library govdpa writes."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

import harness
from vhost_user_client import NetDriver

MAP = ("sim0 mgmtdev sim_net mac 52:54:00:00:00:31 backend loopback",
       "disk:0 mgmtdev sim_blk backend ram 16M",
       "pci max_vqp 1")
INVALID_REQUEST, PARSE, NO_METHOD, INVALID_PARAMS = -32600, -32700, -32601, -32602
DENIED, NO_OBJECT, EXISTS, INVALID_WORDS = -32001, -32002, -32003, -32006
OTHER = 65534


class Refused(Exception):
    def __init__(self, error):
        super().__init__(error["message"])
        self.code = error["code"]


class Client:
    """govdpa's: an id that counts from 0, params that are left out or an object, and its own framing."""

    def __init__(self, path, end=b"\n"):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(harness.TIMEOUT)
        self.sock.connect(path)
        self.end = end
        self.next = 0
        self.rest = ""

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def send(self, method, params=None):
        request = {"method": method}
        if params is not None:
            request["params"] = params
        request.update(jsonrpc="2.0", id=self.next)
        self.next += 1
        self.sock.sendall(json.dumps(request, separators=(",", ":")).encode() + self.end)

    def receive(self):
        """The next JSON value, wherever it ends."""
        while True:
            try:
                value, at = json.JSONDecoder().raw_decode(self.rest.lstrip())
                self.rest = self.rest.lstrip()[at:]
                return value
            except json.JSONDecodeError:
                try:
                    data = self.sock.recv(65536)
                except ConnectionResetError:
                    data = b""
                if not data:
                    raise EOFError from None
                self.rest += data.decode()

    def call(self, method, params=None):
        number = self.next
        self.send(method, params)
        reply = self.receive()
        assert reply["jsonrpc"] == "2.0" and reply["id"] == number, reply
        if "error" in reply:
            raise Refused(reply["error"])
        return reply["result"]

    def version(self):
        return self.call("version")

    def interfaces(self):
        return self.call("list-interfaces")

    def create(self, device, path, mode="server", **more):
        return self.call("create-interface", {"device-id": device, "socket-path": path, "socket-mode": mode, **more})

    def destroy(self, device):
        return self.call("destroy-interface", {"device-id": device})


class Uvdpad(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="uvdpa-test-", dir="/tmp")
        self.addCleanup(shutil.rmtree, self.dir)
        self.path = self.dir + "/uvdpad.sock"

    def daemon(self, *args, devices=(), maps=MAP):
        options = ["--uvdpad", self.path]
        for text in maps:
            options += ["--uvdpad-map", text]
        d = harness.Daemon(devices, [*options, *args], ["--no-huge", "-m", "64"])
        return self.enterContext(d)

    def client(self, **kwargs):
        c = Client(self.path, **kwargs)
        self.addCleanup(c.close)
        return c

    def refused(self, code, text, function, *args, **kwargs):
        with self.assertRaises(Refused) as caught:
            function(*args, **kwargs)
        self.assertEqual(caught.exception.code, code, caught.exception)
        self.assertIn(text, str(caught.exception))


class Methods(Uvdpad):
    def test_a_device_s_life(self):
        self.daemon()
        c = self.client()
        self.assertRegex(c.version(), r"^\d+\.\d+")
        self.assertEqual(c.interfaces(), [])
        sock = self.dir + "/vdpa.sock"
        self.assertEqual(c.create("sim0", sock), {})
        with NetDriver(sock) as net:
            net.start()
            net.exchange()
        listed = c.interfaces()
        number = listed[0].pop("vdpa_id")
        self.assertEqual(listed, [{"device-id": "sim0", "socket-path": sock, "socket-mode": "server",
                                   "driver": "sim_net"}])
        self.assertEqual(c.destroy("sim0"), {})
        self.assertEqual(c.interfaces(), [])
        self.assertFalse(os.path.exists(sock))
        c.create("sim0", sock)
        self.assertGreater(c.interfaces()[0]["vdpa_id"], number)

    def test_a_client_s_socket_and_an_id_with_a_colon(self):
        self.daemon()
        c = self.client()
        c.create("disk:0", self.dir + "/d.sock", "client")
        self.assertEqual([(i["device-id"], i["socket-mode"], i["driver"]) for i in c.interfaces()],
                         [("disk:0", "client", "sim_blk")])
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.dir + "/d.sock")
            listener.listen(1)
            listener.settimeout(10)
            listener.accept()[0].close()

    def test_what_is_listed_may_come_back(self):
        self.daemon()
        c = self.client()
        c.create("sim0", self.dir + "/s")
        listed = c.interfaces()[0]
        c.call("destroy-interface", listed)
        c.call("create-interface", listed)
        self.assertEqual(len(c.interfaces()), 1)

    def test_a_path_with_blanks(self):
        self.daemon()
        c = self.client()
        path = self.dir + "/two words client mode 0666"
        c.create("sim0", path)
        self.assertEqual(c.interfaces()[0]["socket-path"], path)
        self.assertTrue(os.path.exists(path))

    def test_errors(self):
        self.daemon()
        c = self.client()
        path = self.dir + "/s"
        self.refused(INVALID_WORDS, "device-id 'sim1': allowed are addresses of PCI functions", c.create, "sim1", path)
        self.refused(INVALID_WORDS, "sim0, disk:0", c.create, "sim1", path)
        self.refused(INVALID_WORDS, "device-id 'pci'", c.create, "pci", path)
        self.refused(INVALID_WORDS, "an absolute path", c.create, "sim0", "s")
        self.refused(INVALID_WORDS, "an absolute path", c.create, "sim0", self.dir + '/s" client x "')
        self.refused(INVALID_PARAMS, "socket-path", c.create, "sim0", "/" + "x" * 107)
        self.refused(INVALID_PARAMS, "socket-mode", c.create, "sim0", path, "both")
        self.refused(INVALID_PARAMS, "socket-mode", c.call, "create-interface",
                     {"device-id": "sim0", "socket-path": path})
        self.refused(INVALID_PARAMS, "device-id", c.call, "destroy-interface", {})
        self.refused(INVALID_PARAMS, "more", c.create, "sim0", path, more=1)
        self.refused(NO_METHOD, "method 'dev.add'", c.call, "dev.add", {"words": "name a mgmtdev sim_net"})
        self.refused(NO_OBJECT, "device-id 'sim0': has no interface", c.destroy, "sim0")
        # A function of no machine's.
        with self.assertRaises(Refused) as caught:
            c.create("ffff:1f:00.7", path)
        self.assertIn("ffff:1f:00.7", str(caught.exception))
        with open(path, "w", encoding="ascii"):
            pass
        self.refused(EXISTS, f"socket '{path}'", c.create, "sim0", path)
        self.assertEqual(c.interfaces(), [])
        c.create("sim0", path + "2")
        self.refused(EXISTS, "device-id 'sim0': has an interface already", c.create, "sim0", path + "3")
        self.assertEqual(len(c.interfaces()), 1)

    def test_a_device_of_somebody_else_s(self):
        """One of the name of an id is the protocol's; others are not seen unless they are a function."""
        self.daemon(devices=["name uvdpad-sim0 mgmtdev sim_net socket {dir}/a", "name net0 mgmtdev sim_net socket {dir}/b"])
        c = self.client()
        self.assertEqual([i["device-id"] for i in c.interfaces()], ["sim0"])
        c.destroy("sim0")
        self.assertEqual(c.interfaces(), [])


class Wire(Uvdpad):
    def test_requests_need_no_newline(self):
        self.daemon()
        for end in (b"", b"\n", b" \r\n\t ", b"\n\n\n"):
            c = self.client(end=end)
            for _ in range(3):
                self.assertRegex(c.version(), r"^\d")

    def test_requests_together_and_in_pieces(self):
        self.daemon()
        c = self.client(end=b"")
        for _ in range(10):
            c.send("version")
        self.assertEqual([c.receive()["id"] for _ in range(10)], list(range(10)))
        text = json.dumps({"jsonrpc": "2.0", "id": 7, "method": 'no "such" {[\\ method'}).encode()
        for byte in text:
            c.sock.sendall(bytes([byte]))
        reply = c.receive()
        self.assertEqual((reply["id"], reply["error"]["code"]), (7, NO_METHOD))

    def test_blanks_are_no_request(self):
        self.daemon()
        c = self.client(end=b"")
        c.sock.sendall(b" \n" * 100)
        self.assertRegex(c.version(), r"^\d")

    def test_what_is_no_request(self):
        self.daemon()
        for text, code in ((b"hello\n", PARSE), (b"[]\n", INVALID_REQUEST), (b'{"a":}', PARSE), (b"}\n", PARSE),
                           (b'{"jsonrpc":"2.0","id":1}', INVALID_REQUEST), (b"{]", PARSE), (b"\xff\n", PARSE),
                           (b'{"jsonrpc":"2.0","id":1,"method":"version","params":[]}', INVALID_REQUEST)):
            with self.subTest(text):
                c = self.client(end=b"")
                c.sock.sendall(text)
                self.assertEqual(c.receive()["error"]["code"], code)
                # The next one is understood.
                self.assertRegex(c.version(), r"^\d")

    def test_one_that_is_too_long(self):
        self.daemon()
        c = self.client()
        c.sock.sendall(b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * 65536)
        self.assertEqual(c.receive()["error"]["code"], INVALID_REQUEST)
        self.assertRaises(EOFError, c.receive)

    def test_silent_clients_cost_nothing(self):
        """One that rests between requests stays, others are served beside it."""
        self.daemon()
        silent = self.client()
        silent.version()
        begun = self.client()
        begun.sock.sendall(b'{"jsonrpc":')
        time.sleep(1)
        self.assertRegex(self.client().version(), r"^\d")
        self.assertRegex(silent.version(), r"^\d")


@unittest.skipUnless(os.geteuid() == 0, "other users are played by root only")
class Rights(Uvdpad):
    def asks(self, uid, gid, method, params=None):
        """The reply to another user; its error's code."""
        def ask():
            try:
                with Client(self.path) as c:
                    return c.call(method, params)
            except Refused as refused:
                return refused.code

        return harness.as_user(uid, gid, ask)

    def test_of_groups(self):
        os.chmod(self.dir, 0o755)
        self.daemon("--control-group", "4242", "--control-read-group", "4343")
        create = {"device-id": "sim0", "socket-path": self.dir + "/s", "socket-mode": "server"}
        self.assertEqual(self.asks(OTHER, 4343, "list-interfaces"), [])
        self.assertEqual(self.asks(OTHER, 4343, "create-interface", create), DENIED)
        self.assertEqual(self.asks(OTHER, 4242, "create-interface", create), {})
        self.assertEqual(self.asks(OTHER, 4343, "destroy-interface", {"device-id": "sim0"}), DENIED)
        self.assertEqual(self.asks(OTHER, 4242, "destroy-interface", {"device-id": "sim0"}), {})

    def test_of_nobody(self):
        os.chmod(self.dir, 0o755)
        self.daemon()
        self.assertEqual(self.asks(OTHER, OTHER, "version"), "PermissionError")


class Options(Uvdpad):
    def fails(self, *options):
        run = subprocess.run([harness.APP, "--no-huge", "-m", "64", f"--file-prefix=u{os.getpid()}", "--no-telemetry",
                              "--", "--control", "off", *options], capture_output=True, text=True, timeout=60,
                             env=dict(os.environ, RUNTIME_DIRECTORY=self.dir, XDG_RUNTIME_DIR=self.dir), check=False)
        self.assertNotEqual(run.returncode, 0)
        return run.stderr

    def test_map(self):
        for text, why in (("sim0", "is not an ID and words"),
                          ("sim0 backend echo", "is no address of a PCI function"),
                          ("sim0 mgmtdev nosuch", "nosuch"),
                          ("sim0 mgmtdev sim_net nosuch 1", "unknown word 'nosuch'"),
                          ("sim0 mgmtdev sim_net socket /a", "socket is given twice"),
                          ("si/m0 mgmtdev sim_net", "allowed are 1 to 48"),
                          ("x" * 49 + " mgmtdev sim_net", "allowed are 1 to 48"),
                          ("pci mgmtdev sim_net", "mgmtdev is not one"),
                          ("", "is not an ID and words")):
            with self.subTest(text):
                self.assertIn(why, self.fails("--uvdpad", self.path, "--uvdpad-map", text))
        twice = ("--uvdpad-map", "a:b mgmtdev sim_net", "--uvdpad-map", "a-b mgmtdev sim_blk backend ram 1M")
        self.assertIn("device-id 'a-b': is there twice", self.fails("--uvdpad", self.path, *twice))
        self.assertIn("needs uvdpad", self.fails("--uvdpad-map", MAP[0]))
        self.assertFalse(os.path.exists(self.path))

    def test_off_unless_asked_for(self):
        with harness.Daemon([], [], ["--no-huge", "-m", "64"]) as d:
            self.assertNotIn("uvdpad", "".join(harness.fds(d.pid)))
            listening = subprocess.run(["ss", "-xlpH"], capture_output=True, text=True, check=False).stdout
            self.assertNotIn("uvdpad", listening)

    def test_socket_is_removed_at_the_end(self):
        with harness.Daemon([], ["--uvdpad", self.path], ["--no-huge", "-m", "64"]):
            self.assertTrue(os.path.exists(self.path))
        self.assertFalse(os.path.exists(self.path))


class Real(Uvdpad):
    """govdpa's own uvdpa-cli, where somebody has built it: it knows /var/run/uvdpa/uvdpad.sock only."""

    def test_its_commands(self):
        program = os.environ.get("UVDPA_GOVDPA_CLI")
        harness.skip_unless(program, "UVDPA_GOVDPA_CLI names no uvdpa-cli of govdpa")
        harness.skip_unless(os.geteuid() == 0, "a mount namespace is made by root only")
        self.daemon()

        def cli(*words):
            script = ('mount -t tmpfs run /run && mkdir /run/uvdpa && mount --bind "$1" /run/uvdpa && shift && '
                      'exec "$@"')
            done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", self.dir, program, *words],
                                  capture_output=True, text=True, check=False, timeout=60)
            return done.stdout + done.stderr

        self.assertRegex(cli("version"), r"^Version: \d")
        self.assertEqual(cli("list"), "Empty\n")
        self.assertEqual(cli("create", "sim0", self.dir + "/s", "server"), "Success\n")
        self.assertRegex(cli("list"), rf"device: sim0 \t socket: {self.dir}/s \t mode: server \t driver: sim_net")
        self.assertIn("[Code = -32003]", cli("create", "sim0", self.dir + "/s", "server"))
        self.assertEqual(cli("destroy", "sim0"), "Success\n")
        self.assertIn("[Code = -32002]", cli("destroy", "sim0"))
        self.assertEqual(cli("list"), "Empty\n")


if __name__ == "__main__":
    unittest.main()
