#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Inside the laboratory: what iproute2's `vdpa` prints of the kernel's own devices, VDUSE's and
vdpa_sim's, and what vdpactl prints of devices of ours that have the same attributes.

usage: lab_vdpa.py MODULES PART. MODULES is the folder of the kernel's modules; PART is golden (the
runs of `vdpa` alone, for tests/integration/iproute2.json) or alike (both programs' runs on devices that
are alike). The result is their output, as JSON.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import threading
import time

MAC, MTU = "52:54:00:00:00:01", 1400
NET, BLOCK = 1, 2
STATUS_DRIVER, STATUS_FEATURES_OK = 1 | 2, 1 | 2 | 8
MODES = [], ["-j"], ["-jp"]


def ioc(direction, kind, number, size):
    """_IO(), _IOR() (2) and _IOW() (1) of <asm-generic/ioctl.h>."""
    return direction << 30 | size << 16 | kind << 8 | number


VHOST_GET_FEATURES = ioc(2, 0xaf, 0x00, 8)
VHOST_SET_FEATURES = ioc(1, 0xaf, 0x00, 8)
VHOST_SET_OWNER = ioc(0, 0xaf, 0x01, 0)
VHOST_VDPA_SET_STATUS = ioc(1, 0xaf, 0x72, 1)
VDUSE_SET_API_VERSION = ioc(1, 0x81, 0x01, 8)
VDUSE_CREATE_DEV = ioc(1, 0x81, 0x02, 336)
VDUSE_VQ_SETUP = ioc(1, 0x81, 0x14, 32)


def load(folder):
    for path in sorted(pathlib.Path(folder).glob("*.ko")):
        if not os.path.exists(f"/sys/module/{path.stem[3:]}"):
            subprocess.run(["/run/lab/busybox", "insmod", str(path)], check=True)


def vdpa(*args):
    return subprocess.run(["vdpa", *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)


class Vduse:
    """A device of a process of user space: this one, which answers what the kernel asks of it."""

    def __init__(self, name, device_id, features, config, queues, vendor=0x1af4):
        self.control = os.open("/dev/vduse/control", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(self.control, VDUSE_SET_API_VERSION, struct.pack("<Q", 0))
        head = struct.pack("<256sIIQII52xI", name.encode(), vendor, device_id, features, queues, 4096,
                           len(config))
        assert len(head) == 336
        fcntl.ioctl(self.control, VDUSE_CREATE_DEV, head + config)
        path = f"/dev/vduse/{name}"
        end = time.monotonic() + 10
        while not os.path.exists(path) and time.monotonic() < end:
            time.sleep(0.05)
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        for i in range(queues):
            fcntl.ioctl(self.fd, VDUSE_VQ_SETUP, struct.pack("<IH26x", i, 256))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            request = os.read(self.fd, 152)
            number = struct.unpack_from("<I", request, 4)[0]
            os.write(self.fd, struct.pack("<II144x", number, 0))


def net_config(mac, status, pairs, mtu):
    """struct virtio_net_config"""
    return bytes.fromhex(mac.replace(":", "")) + struct.pack("<HHHIBBHI", status, pairs, mtu, 0, 0, 0,
                                                             0, 0)


@contextlib.contextmanager
def negotiated(name, drop=0):
    """A driver of the device that has come as far as FEATURES_OK, with all but some features."""
    link = next(pathlib.Path(f"/sys/bus/vdpa/devices/{name}").glob("vhost-vdpa-*"))
    path = f"/dev/{link.name}"
    end = time.monotonic() + 10
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.05)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, VHOST_SET_OWNER)
        fcntl.ioctl(fd, VHOST_VDPA_SET_STATUS, bytes([STATUS_DRIVER]))
        features = struct.unpack("<Q", fcntl.ioctl(fd, VHOST_GET_FEATURES, bytes(8)))[0]
        fcntl.ioctl(fd, VHOST_SET_FEATURES, struct.pack("<Q", features & ~drop))
        fcntl.ioctl(fd, VHOST_VDPA_SET_STATUS, bytes([STATUS_FEATURES_OK]))
        yield
    finally:
        os.close(fd)


class Runs:
    """What a program printed, run by run, and the devices that were there."""

    def __init__(self):
        self.sets = []

    def begin(self, title):
        self.sets.append({"devices": title, "runs": []})

    def add(self, *args):
        for mode in MODES:
            done = vdpa(*mode, *args)
            self.sets[-1]["runs"].append({"args": [*mode, *args], "status": done.returncode,
                                          "stdout": done.stdout, "stderr": done.stderr})

    def show(self, *names):
        """Every verb that shows something, of all devices and of each."""
        for verb in ("mgmtdev", "show"), ("dev", "show"), ("dev", "config", "show"):
            self.add(*verb)
        for name in names:
            self.add("dev", "show", name)
            self.add("dev", "config", "show", name)


def golden():
    runs = Runs()
    runs.begin("none")
    runs.show()
    for verb in ("mgmtdev", "show"), ("dev", "show"), ("dev", "config", "show"), ("dev", "del"):
        runs.add(*verb, "nobody")
    runs.add("dev", "vstats", "show", "nobody", "qidx", "0")
    for words in (["dev"], ["mgmtdev"], ["dev", "config"], ["dev", "vstats"], ["nothing"],
                  ["dev", "nothing"], ["mgmtdev", "nothing"], ["dev", "show", "a", "b"],
                  ["dev", "add"], ["dev", "add", "name", "x"], ["dev", "add", "mgmtdev", "vduse"],
                  ["dev", "del"], ["dev", "add", "name", "x", "mgmtdev", "nobody"],
                  ["d", "s"], ["m", "l"], ["d", "c", "s"], ["dev", "vst"]):
        runs.add(*words)

    for words in (["net0", "vdpasim_net", "mac", MAC, "mtu", str(MTU)], ["blk0", "vdpasim_blk"]):
        done = vdpa("dev", "add", "name", words[0], "mgmtdev", *words[1:])
        assert done.returncode == 0, done
    runs.begin("vdpa_sim, not negotiated")
    runs.show("net0", "blk0")
    runs.add("dev", "add", "name", "net0", "mgmtdev", "vdpasim_net")
    runs.add("dev", "vstats", "show", "net0", "qidx", "0")
    with negotiated("net0"):
        runs.begin("vdpa_sim, negotiated")
        runs.show("net0")
        for qidx in range(4):
            runs.add("dev", "vstats", "show", "net0", "qidx", str(qidx))
        runs.add("dev", "vstats", "show", "blk0", "qidx", "0")
    with negotiated("net0", drop=1 << 5 | 1 << 3):
        runs.begin("vdpa_sim, some features negotiated")
        runs.show("net0")
    for name in "net0", "blk0":
        runs.add("dev", "del", name)

    # Offers what iproute2 knows of net devices and what it does not, and queues with a control queue's.
    features = (1 << 64) - 1 & ~(1 << 17)
    net = Vduse("vnet0", NET, features, net_config(MAC, 3, 2, 9000), 4)
    plain = Vduse("vnet1", NET, 1 << 33 | 1 << 32, net_config(MAC, 1, 1, 1500), 2)
    disk = Vduse("vblk0", BLOCK, 1 << 33 | 1 << 32 | 1 << 6 | 1 << 9, bytes(64), 1)
    for name in "vnet0", "vnet1", "vblk0":
        done = vdpa("dev", "add", "name", name, "mgmtdev", "vduse")
        assert done.returncode == 0, done
    runs.begin("VDUSE, not negotiated")
    runs.show("vnet0", "vnet1", "vblk0")
    with negotiated("vnet0"):
        runs.begin("VDUSE, negotiated")
        runs.show("vnet0")
        runs.add("dev", "vstats", "show", "vnet0", "qidx", "0")
    for name in "vnet0", "vnet1", "vblk0":
        vdpa("dev", "del", name)
    del net, plain, disk
    return {"version": vdpa("-V").stdout.strip(), "kernel": os.uname().release, "sets": runs.sets}


# What both kinds of devices can have.
FEATURES = sum(1 << bit for bit in (3, 5, 16, 17, 23, 32))
PLAIN = sum(1 << bit for bit in (3, 5, 16, 32))
ACCESS_PLATFORM, ANY_LAYOUT = 1 << 33, 1 << 27  # the kernel's devices must have the first


class Pairs:
    """The same verbs of `vdpa` and of vdpactl, on devices of the same names and attributes."""

    def __init__(self, control):
        self.control = control
        self.runs = []

    def ctl(self, *args, check=True):
        done = subprocess.run([os.environ["UVDPA_VDPACTL"], "-S", self.control, *args],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, done
        return done

    def show(self, *names):
        for verb in (("dev", "show"), ("dev", "config", "show")):
            for more in [[]] + [[name] for name in names]:
                for mode in MODES:
                    args = [*mode, *verb, *more]
                    self.runs.append({"args": args, "theirs": vdpa(*args).stdout,
                                      "ours": self.ctl(*args).stdout})


def alike():
    import lab_inside as inside
    import vhost_user_client

    with tempfile.TemporaryDirectory(prefix="uvdpa-lab.", dir="/tmp") as folder:
        pairs = Pairs(f"{folder}/control.sock")
        with inside.harness.Daemon(args=["--control", pairs.control], eal=[inside.LCORES], folder=folder):
            common = ["mac", MAC, "mtu", str(MTU)]
            for name, features in ("net0", FEATURES), ("net1", PLAIN):
                pairs.ctl("dev", "add", "name", name, "mgmtdev", "sim_net", *common, "device_features",
                          f"{features:x}", "queue_size", "256", "socket", f"{folder}/{name}")
            pairs.ctl("dev", "add", "name", "blk0", "mgmtdev", "sim_blk", "backend", "ram", "1M",
                      "queue_size", "256", "socket", f"{folder}/blk0")
            queues = json.loads(pairs.ctl("-j", "dev", "show", "net1").stdout)["dev"]["net1"]["max_vqs"]
            net = Vduse("net1", NET, PLAIN | ACCESS_PLATFORM, net_config(MAC, 1, 1, MTU), queues, vendor=0)
            for words in (["net0", "vdpasim_net", *common], ["net1", "vduse"], ["blk0", "vdpasim_blk"]):
                done = vdpa("dev", "add", "name", words[0], "mgmtdev", *words[1:])
                assert done.returncode == 0, done
            pairs.show("net0", "net1", "blk0")
            with negotiated("net0", drop=ANY_LAYOUT), negotiated("net1"), \
                    vhost_user_client.NetDriver(f"{folder}/net0", features=FEATURES) as first, \
                    vhost_user_client.NetDriver(f"{folder}/net1", features=PLAIN) as second:
                first.start()
                second.start()
                pairs.show("net0", "net1", "blk0")
            del net
    return pairs.runs


def main():
    load(sys.argv[1])
    result = {"golden": golden, "alike": alike}[sys.argv[2]]()
    print("@@result runs " + json.dumps(result), flush=True)
    # Threads wait for requests of devices that are gone.
    os._exit(0)


if __name__ == "__main__":
    main()
