# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""A client of QEMU's monitor protocol on a UNIX socket."""

import json
import socket
import time


class QmpError(Exception):
    """QEMU refused a command, or a migration failed."""


def arguments(path):
    """QEMU's arguments for it."""
    return ["-qmp", f"unix:{path},server=on,wait=off"]


class Qmp:
    """One connection; a with statement closes it."""

    def __init__(self, path, timeout=10):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.sock.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                # QEMU is on its way.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self.lines = self.sock.makefile("rw")
        self.lines.readline()
        self("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.lines.close()
        self.sock.close()

    def __call__(self, command, **args):
        """Execute a command; its answer. Events that come before it are dropped."""
        request = {"execute": command}
        if args:
            request["arguments"] = args
        self.lines.write(json.dumps(request) + "\n")
        self.lines.flush()
        while True:
            line = self.lines.readline()
            if not line:
                raise QmpError(f"{command}: QEMU hung up")
            answer = json.loads(line)
            if "error" in answer:
                raise QmpError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def wait_migration(self, timeout=120):
        """Until a migration has ended as it should; what query-migrate says."""
        deadline = time.monotonic() + timeout
        while True:
            info = self("query-migrate")
            if info.get("status") == "completed":
                return info
            if info.get("status") in ("failed", "cancelled"):
                raise QmpError(f"migration {info['status']}: {info.get('error-desc', 'no reason given')}")
            if time.monotonic() > deadline:
                raise QmpError(f"migration not done within {timeout} s: {info}")
            time.sleep(0.02)
