# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A vdpa-app or vdpa-model of our own in a folder of our own: start, ask, stop."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "integration"))

import harness  # noqa: E402
import upgrading  # noqa: E402

START_TIMEOUT = 60  # seconds until every socket is there
STOP_TIMEOUT = 30


class DaemonError(Exception):
    """The daemon did not start, answered with an error, or did not stop cleanly."""


class Daemon:
    """
    One vdpa-app process, or another of its kind. devices: the words of each --dev, where a %s
    stands for the folder, in which all files are. Use it in a with statement.
    """

    SOCKETS = "socket", "vfio_user"  # the words before a socket's path

    def __init__(self, build, folder, devices, options=(), program="examples/vdpa-app/vdpa-app"):
        self.program = pathlib.Path(build) / program
        self.folder = pathlib.Path(folder)
        self.devices = [d.replace("%s", str(folder)) for d in devices]
        self.options = list(options)
        self.log = self.folder / "daemon.log"
        self.proc = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.kill()

    def socket_paths(self):
        words = [d.split() for d in self.devices]
        return [pathlib.Path(w[w.index(word) + 1]) for w in words if "client" not in w
                for word in self.SOCKETS if word in w]

    def start(self):
        argv = [str(self.program), "--control", str(self.folder / "control"), *self.options]
        for words in self.devices:
            argv += ["--dev", words]
        # Telemetry's socket goes below this folder, so that daemons do not meet.
        env = dict(os.environ, RUNTIME_DIRECTORY=str(self.folder))
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         env=env, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._ready():
            if self.proc.poll() is not None:
                raise DaemonError(f"{self.program.name} ended with code {self.proc.returncode}\n"
                                  f"{self.log_text()}")
            if time.monotonic() > deadline:
                self.kill()
                raise DaemonError(f"{self.program.name} did not start\n{self.log_text()}")
            time.sleep(0.02)

    def _ready(self):
        try:
            names = self.ask("/vdpa/dev/list")
        except (OSError, ValueError, KeyError, DaemonError):
            return False
        # Telemetry answers null to what is not registered yet.
        paths = [*self.socket_paths(), self.folder / "control"]
        return len(names or ()) >= len(self.devices) and all(p.exists() for p in paths)

    def log_text(self):
        return self.log.read_text(errors="replace")[-4000:]

    @property
    def pid(self):
        return self.proc.pid

    def ask(self, command, args=""):
        """The answer to a telemetry command."""
        found = sorted(self.folder.glob("dpdk/*/dpdk_telemetry.v2*"))
        if not found:
            raise DaemonError("no telemetry socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.settimeout(5)
            s.connect(str(found[0]))
            limit = json.loads(s.recv(1024)).get("max_output_len", 16384)
            s.send((f"{command},{args}" if args else command).encode())
            answer = json.loads(s.recv(limit + 1024))[command]
        if isinstance(answer, dict) and "error" in answer:
            raise DaemonError(f"{command},{args}: {answer['error']}")
        return answer

    def stats(self, name):
        """A device's counters by name."""
        answer = self.ask("/vdpa/dev/stats", name)
        return answer.get("device", answer)

    def add(self, words):
        self._change("dev.add", words=words)

    def delete(self, name):
        self._change("dev.del", name=name)

    def set(self, name, words):
        self._change("dev.set", name=name, words=words)

    def _change(self, method, **params):
        try:
            with harness.Control(str(self.folder / "control")) as client:
                client.call(method, **params)
        except (OSError, harness.ControlError) as error:
            raise DaemonError(f"{method} {params}: {error}") from None

    def upgrade(self):
        """The daemon hands over to another one of its program, which is this one from then on."""
        upgrading.adopt_orphans()
        with harness.Control(str(self.folder / "control"), timeout=START_TIMEOUT) as client:
            answer = client.call("daemon.upgrade")
        code = self.proc.wait(STOP_TIMEOUT)
        if code != 0:
            raise DaemonError(f"{self.program.name} handed over and ended with code {code}\n{self.log_text()}")
        self.proc = upgrading.Successor(answer["pid"], self.proc)
        return answer

    def stop(self):
        """SIGTERM: it must end with 0 and leave no socket."""
        self.proc.send_signal(signal.SIGTERM)
        try:
            code = self.proc.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DaemonError(f"{self.program.name} did not stop on SIGTERM\n"
                              f"{self.log_text()}") from None
        self.proc = None
        left = [str(p) for p in self.socket_paths() if p.exists()]
        if code != 0 or left:
            raise DaemonError(f"{self.program.name} stopped with code {code}, "
                              f"sockets left: {left}\n"
                              f"{self.log_text()}")

    def kill(self):
        if self.proc is not None:
            if self.proc.poll() is None:
                self.proc.kill()
            self.proc.wait()
            self.proc = None


class Model(Daemon):
    """A vdpa-model, whose devices are served over vfio-user."""

    def __init__(self, build, folder, devices, options=()):
        super().__init__(build, folder, devices, options, "app/vdpa-model/vdpa-model")
