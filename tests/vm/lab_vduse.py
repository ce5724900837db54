#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Inside the laboratory: the front end vduse. The kernel has a disk and netdevs of our devices, be they
simulated, functions of vdpa-model or QEMU's functions on vfio-pci; it loses nothing when the daemon is
killed; and it has /dev/vhost-vdpa-N, which a hostile user may not make anything of.

usage: lab_vduse.py MODULES PART...
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import pathlib
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import lab_inside as inside
import qmp
import qtest

MODULES = sys.argv.pop(1)
MIB = 1 << 20
WATCHDOG = int(os.environ["UVDPA_LAB_WATCHDOG"])  # seconds
DAEMONS = []
BUSYBOX = "/run/lab/busybox"
MODEL = str(inside.BUILD / "app/vdpa-model/vdpa-model")
PACKED = 1 << 34  # VIRTIO_F_RING_PACKED
# The slots that test_lab_vduse.py gives functions to, and the far end of the network.
VFIO_NET, VFIO_BLK = "0000:00:04.0", "0000:00:05.0"
GATEWAY = "10.0.2.2"
MAC = "52:54:00:00:00:12"
RESTART_TIMEOUT = 60  # seconds until what waited for a daemon goes on


def load(folder):
    subprocess.run([BUSYBOX, "ip", "link", "set", "lo", "up"], check=True)
    for source in (folder, "/run/lab/modules"):
        for path in sorted(pathlib.Path(source).glob("*.ko")):
            if not os.path.exists(f"/sys/module/{path.stem[3:]}"):
                subprocess.run([BUSYBOX, "insmod", str(path)], check=False,
                               stderr=subprocess.DEVNULL)


def run(*argv):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
    return done.stdout


def netdev(name):
    folder = pathlib.Path(f"/sys/bus/vdpa/devices/{name}")
    return next(folder.glob("virtio*/net/*")).name


def disk(name):
    folder = pathlib.Path(f"/sys/bus/vdpa/devices/{name}")
    return "/dev/" + next(folder.glob("virtio*/block/*")).name


class LabVduse(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="uvdpa-lab.", dir="/tmp")

    def process(self, d):
        DAEMONS.append(d)
        d.start()
        self.addCleanup(self.end, d)
        return d

    def daemon(self, *devices):
        return self.process(inside.harness.Daemon(devices=devices, eal=[inside.LCORES], folder=self.folder))

    def model(self, *devices):
        """The management devices of vdpa-model's functions m0, m1, ...: words behind mgmtdev."""
        words = [f"name m{i} mgmtdev {device} vfio_user {{dir}}/m{i}.vfu" for i, device in enumerate(devices)]
        model = self.process(inside.harness.Daemon(words, eal=[inside.LCORES], app=MODEL))
        # A busy machine may let the model wait.
        return [f"vfio-user/{model.dir}/m{i}.vfu timeout_ms 10000" for i in range(len(devices))]

    def end(self, d):
        if d.process.poll() is None:
            d.stop()
        if self._outcome.result.failures or self._outcome.result.errors:
            print(d.err.text(), flush=True)

    def frontend_info(self, d, name):
        return d.call("dev.show", name=name)["dev"][name]["frontend_info"]

    def words(self, name, mgmtdev, packed, more=""):
        """Words of a device whose rings can be of one kind only."""
        d = self.daemon(f"name {name} mgmtdev {mgmtdev}")
        features = int(d.show(name)["device_features"], 16)
        self.assertEqual(d.stop(), 0)
        self.assertTrue(features & PACKED, "the device has no packed rings")
        if not packed:
            more += f" device_features {features & ~PACKED:#x}"
        return f"name {name} mgmtdev {mgmtdev} {more} frontend vduse"

    def rings_are(self, d, name, packed):
        features = int(d.show(name)["negotiated_features"], 16)
        self.assertEqual(bool(features & PACKED), packed)


def serve_tcp(listener, size, digest):
    conn, _ = listener.accept()
    left = size
    with conn:
        while left > 0:
            data = conn.recv(min(left, 1 << 16))
            if not data:
                break
            digest.update(data)
            left -= len(data)
        conn.sendall(digest.digest())


def ping(count, far="10.1.0.2"):
    """Until so many are answered: a busy machine may let some wait longer than the next."""
    run("ping", "-c", str(count), "-i", "0.05", "-w", str(RESTART_TIMEOUT), far)


class Echo:
    """A connection to an echo server: blocks that are numbered, until end(), and what comes back."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, RESTART_TIMEOUT)
        self.socket.settimeout(RESTART_TIMEOUT)
        self.sent = self.back = 0
        self.failures, self.ends = [], threading.Event()
        self.threads = [threading.Thread(target=self.guard, args=(work,))
                        for work in (self.send, self.receive)]
        for thread in self.threads:
            thread.start()

    def guard(self, work):
        try:
            work()
        except (OSError, AssertionError) as error:
            self.failures.append(f"{work.__name__}: {error}")

    def send(self):
        while not self.ends.is_set():
            self.socket.sendall(block(self.sent, 0))
            self.sent += 1
        self.socket.shutdown(socket.SHUT_WR)

    def receive(self):
        with self.socket.makefile("rb") as stream:
            while (data := stream.read(4096)):
                assert data == block(self.back, 0), f"block {self.back} came back otherwise"
                self.back += 1

    def end(self):
        """The number of blocks, all of which came back."""
        self.ends.set()
        for thread in self.threads:
            thread.join(2 * RESTART_TIMEOUT)
        self.socket.close()
        assert self.failures == [], self.failures
        assert self.sent == self.back, f"{self.sent} blocks sent, {self.back} came back"
        return self.sent


class Netdevs(LabVduse):
    """What is done with a netdev of any device."""

    def up(self, name, address):
        dev = netdev(name)
        run("ip", "addr", "add", address, "dev", dev)
        run("ip", "link", "set", dev, "up")
        return dev

    def outlives_a_kill(self, d, words, name, far="10.1.0.2"):
        """The daemon is killed; the netdev stays, and goes on with the next one."""
        dev = netdev(name)
        d.kill()
        d = self.daemon(words)
        self.assertEqual(netdev(name), dev)
        ping(2, far)
        return d

    def pings_and_outlives_a_kill(self, mgmtdev, packed, more=""):
        words = self.words("n0", mgmtdev, packed, more)
        d = self.daemon(words)
        dev = self.up("n0", "10.1.0.1/24")
        self.assertEqual(self.frontend_info(d, "n0"), f"netdev {dev}")
        ping(5)
        self.rings_are(d, "n0", packed)
        d = self.outlives_a_kill(d, words, "n0")
        self.rings_are(d, "n0", packed)
        d.delete("n0")

    def passes_tcp(self, mine, theirs):
        """Two netdevs of these management devices, each the other's wire, in network namespaces."""
        d = self.daemon(f"name a mgmtdev {mine} frontend vduse", f"name b mgmtdev {theirs} frontend vduse")
        theirs = netdev("b")
        run("ip", "netns", "add", "other")
        run("ip", "link", "set", theirs, "netns", "other")
        self.up("a", "10.2.0.1/24")
        run("ip", "-n", "other", "addr", "add", "10.2.0.2/24", "dev", theirs)
        run("ip", "-n", "other", "link", "set", theirs, "up")
        size = 8 * MIB
        data = random.Random(1).randbytes(MIB)
        server = socket.socket()
        server.bind(("10.2.0.1", 5001))
        server.listen(1)
        digest = hashlib.sha256()
        thread = threading.Thread(target=serve_tcp, args=(server, size, digest))
        thread.start()
        client = f"""
import socket, random
data = random.Random(1).randbytes({MIB})
s = socket.create_connection(("10.2.0.1", 5001), 60)
for i in range({size // MIB}): s.sendall(data)
print(s.recv(32).hex())
"""
        out = run("ip", "netns", "exec", "other", sys.executable, "-c", client)
        thread.join(60)
        server.close()
        self.assertEqual(out.strip(), hashlib.sha256(data * (size // MIB)).hexdigest())
        for name in "a", "b":
            d.delete(name)
        run("ip", "netns", "del", "other")


class Net(Netdevs):
    def test_pings_the_echo_back_end(self):
        words = "name n0 mgmtdev sim_net backend echo frontend vduse"
        d = self.daemon(words)
        dev = self.up("n0", "10.1.0.1/24")
        self.assertEqual(self.frontend_info(d, "n0"), f"netdev {dev}")
        ping(5)
        # What made the device shows it as iproute2 does.
        theirs = json.loads(run("vdpa", "-j", "dev", "show", "n0"))["dev"]["n0"]
        ours = json.loads(run(os.environ["UVDPA_VDPACTL"], "-S", d.control_path, "-j", "dev", "show",
                              "n0"))["dev"]["n0"]
        self.assertEqual(theirs["type"], "network")
        self.assertEqual(theirs["mgmtdev"], "vduse")
        self.assertEqual(ours["type"], "network")
        self.assertEqual(theirs["max_vq_size"], ours["max_vq_size"])
        self.assertIn("n0", json.loads(run("vdpa", "-j", "dev", "config", "show"))["config"])
        d = self.outlives_a_kill(d, words, "n0")
        d.delete("n0")
        self.assertFalse(os.path.exists("/sys/bus/vdpa/devices/n0"))
        self.assertFalse(os.path.exists("/dev/vduse/n0"))

    def test_passes_tcp_to_its_peer(self):
        self.passes_tcp("sim_net backend peer b", "sim_net backend peer a")


class Direct:
    """A disk without the page cache, block by block."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.buf = mmap.mmap(-1, 4096)

    def write(self, block, data):
        self.buf[:] = data
        assert os.pwritev(self.fd, [self.buf], block * 4096) == 4096

    def read(self, block):
        assert os.preadv(self.fd, [self.buf], block * 4096) == 4096
        return self.buf[:]

    def close(self):
        os.close(self.fd)


def block(number, round_):
    return struct.pack("<QQ", number, round_) * 256


class Writers:
    """Two threads that write blocks of a disk, and know what they wrote."""

    BLOCKS = 256

    def __init__(self, path):
        self.path = path
        self.written, self.failures, self.ends = {}, [], threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(part,)) for part in range(2)]
        for thread in self.threads:
            thread.start()

    def work(self, part):
        rng = random.Random(part)
        try:
            dev = Direct(self.path)
            while not self.ends.is_set():
                number = rng.randrange(self.BLOCKS // 2) * 2 + part
                count = self.written.get(number, 0) + 1
                dev.write(number, block(number, count))
                self.written[number] = count
                if rng.random() < 0.3:
                    other = rng.choice(list(self.written))
                    if other % 2 == part and dev.read(other) != block(other, self.written[other]):
                        self.failures.append(other)
            dev.close()
        except OSError as error:
            self.failures.append(error)

    def count(self):
        return sum(self.written.values())

    def go_on(self):
        before = self.count()
        inside.until(lambda: self.count() > before + 50 or self.failures, "writes", RESTART_TIMEOUT)

    def end(self):
        self.ends.set()
        for thread in self.threads:
            thread.join(RESTART_TIMEOUT)


class Disks(LabVduse):
    """What is done with a disk of any device."""

    def holds_files(self, words, used):
        """words: of d0; used(): blocks that its image occupies."""
        d = self.daemon(words)
        path = disk("d0")
        self.assertEqual(self.frontend_info(d, "d0"), path)
        # The laboratory's kernel has no ext4: e2fsprogs reads what it wrote.
        data = random.Random(2).randbytes(4 * MIB)
        os.mkdir(f"{self.folder}/root")
        pathlib.Path(f"{self.folder}/root/file").write_bytes(data)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-d", f"{self.folder}/root", path)
        run("e2fsck", "-fn", path)
        run("blockdev", "--flushbufs", path)
        run("debugfs", "-R", f"dump /file {self.folder}/copy", path)
        self.assertEqual(pathlib.Path(f"{self.folder}/copy").read_bytes(), data)
        held = os.open(path, os.O_RDWR | os.O_EXCL)
        self.assertIn("is in use", d.refusal("dev.del", name="d0"))
        os.close(held)
        before = used()
        self.assertGreaterEqual(before, 4 * MIB // 512)
        run("blkdiscard", "-f", path)
        self.assertLess(used(), before // 2)
        d.delete("d0")
        self.assertFalse(os.path.exists(path))

    def killed_under_io(self, words, packed, digest=None):
        """Nothing is lost, whatever happens to the daemon meanwhile. digest(): of the blocks as the image
        has them."""
        d = self.daemon(words)
        path, kills = disk("d0"), inside.harness.count(2, 40)
        writers = Writers(path)
        for _ in range(kills):
            writers.go_on()
            self.rings_are(d, "d0", packed)
            d.kill()
            d = self.daemon(words)
        writers.go_on()
        self.rings_are(d, "d0", packed)
        writers.end()
        self.assertEqual(writers.failures, [])
        dev = Direct(path)
        for number, count in writers.written.items():
            self.assertEqual(dev.read(number), block(number, count))
        if digest is not None:
            have = hashlib.sha256(b"".join(dev.read(n) for n in range(writers.BLOCKS))).hexdigest()
            self.assertEqual(have, digest(writers.BLOCKS * 4096))
        dev.close()
        self.assertEqual(d.stats("d0")["device"]["failures"], 0)
        print(f"{self.id()}: {writers.count()} writes, {kills} kills", flush=True)
        d.delete("d0")


class Blk(Disks):
    MGMTDEV = "sim_blk backend file {dir}/d0.img"
    WORDS = f"name d0 mgmtdev {MGMTDEV} frontend vduse"

    def setUp(self):
        super().setUp()
        self.image = f"{self.folder}/d0.img"
        with open(self.image, "wb") as f:
            f.truncate(64 * MIB)

    def test_has_a_disk(self):
        self.holds_files(self.WORDS, lambda: os.stat(self.image).st_blocks)

    def test_loses_nothing_when_killed_split(self):
        self.killed_under_io(self.words("d0", self.MGMTDEV, False), False)

    def test_loses_nothing_when_killed_packed(self):
        self.killed_under_io(self.words("d0", self.MGMTDEV, True), True)

    def test_outlives_a_daemon_that_ends(self):
        """One that ends leaves a disk that is mounted, to whom comes after it."""
        d = self.daemon(self.WORDS)
        path = disk("d0")
        held = os.open(path, os.O_RDWR | os.O_EXCL)
        dev = Direct(path)
        dev.write(1, block(1, 1))
        self.assertEqual(d.stop(), 0)
        d = self.daemon(self.WORDS)
        self.assertEqual(dev.read(1), block(1, 1))
        dev.write(2, block(2, 1))
        self.assertEqual(dev.read(2), block(2, 1))
        dev.close()
        os.close(held)
        d.delete("d0")


class Model(Netdevs, Disks):
    """The same by the driver virtio, on functions of vdpa-model."""

    def test_pings_split(self):
        self.pings_and_outlives_a_kill(self.model("sim_net backend echo")[0], False)

    def test_pings_packed(self):
        self.pings_and_outlives_a_kill(self.model("sim_net backend echo")[0], True, "inflight on")

    def test_passes_tcp_to_its_peer(self):
        self.passes_tcp(*self.model("sim_net backend peer m1", "sim_net backend peer m0"))

    def disk(self):
        image = f"{self.folder}/m0.img"
        with open(image, "wb") as f:
            f.truncate(64 * MIB)
        return self.model(f"sim_blk backend file {image}")[0], lambda: os.stat(image).st_blocks

    def test_has_a_disk(self):
        function, used = self.disk()
        self.holds_files(f"name d0 mgmtdev {function} frontend vduse", used)

    def test_loses_nothing_when_killed_split(self):
        self.killed_under_io(self.words("d0", self.disk()[0], False), False)

    def test_loses_nothing_when_killed_packed(self):
        self.killed_under_io(self.words("d0", self.disk()[0], True), True)


class Vfio(Netdevs, Disks):
    """The same on QEMU's functions, behind an IOMMU; their far ends are the test's on the host."""

    def setUp(self):
        super().setUp()
        self.faults = inside.faults()[0]

    def tearDown(self):
        self.assertEqual(inside.faults()[0], self.faults, inside.faults()[1])

    def check_netdev(self, packed, more=""):
        inside.bind(VFIO_NET)
        words = self.words("n0", f"pci/{VFIO_NET}", packed, more)
        d = self.daemon(words)
        dev = self.up("n0", "10.0.2.15/24")
        self.assertEqual(self.frontend_info(d, "n0"), f"netdev {dev}")
        ping(5, GATEWAY)
        self.rings_are(d, "n0", packed)
        echo, kills = Echo((GATEWAY, int(os.environ["UVDPA_LAB_PORT"]))), inside.harness.count(2, 20)
        for _ in range(kills):
            before = echo.back
            inside.until(lambda: echo.back > before + 256 or echo.failures, "data", RESTART_TIMEOUT)
            d = self.outlives_a_kill(d, words, "n0", GATEWAY)
        before = echo.back
        inside.until(lambda: echo.back > before + 256 or echo.failures, "data", RESTART_TIMEOUT)
        print(f"{self.id()}: {echo.end()} blocks there and back, {kills} kills", flush=True)
        self.rings_are(d, "n0", packed)
        d.delete("n0")

    def test_netdev_split(self):
        self.check_netdev(False)

    def test_netdev_packed(self):
        self.check_netdev(True, "inflight on")

    def test_has_a_disk(self):
        inside.bind(VFIO_BLK)
        self.holds_files(f"name d0 mgmtdev pci/{VFIO_BLK} frontend vduse",
                         lambda: int(inside.host("blocks")))

    def check_disk(self, packed):
        inside.bind(VFIO_BLK)
        self.killed_under_io(self.words("d0", f"pci/{VFIO_BLK}", packed), packed,
                             lambda size: inside.host("image", size))

    def test_loses_nothing_when_killed_split(self):
        self.check_disk(False)

    def test_loses_nothing_when_killed_packed(self):
        self.check_disk(True)


def ioc(direction, number, size):
    """_IO(), _IOW() (1) and _IOR() (2) of linux/vhost.h."""
    return direction << 30 | size << 16 | 0xaf << 8 | number


GET_FEATURES, SET_FEATURES = ioc(2, 0x00, 8), ioc(1, 0x00, 8)
SET_OWNER = ioc(0, 0x01, 0)
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE = ioc(1, 0x10, 8), ioc(1, 0x11, 40), ioc(1, 0x12, 8)
GET_VRING_BASE = ioc(3, 0x12, 8)
SET_VRING_KICK, SET_VRING_CALL = ioc(1, 0x20, 8), ioc(1, 0x21, 8)
SET_BACKEND_FEATURES, GET_BACKEND_FEATURES = ioc(1, 0x25, 8), ioc(2, 0x26, 8)
SET_STATUS, SET_VRING_ENABLE = ioc(1, 0x72, 1), ioc(1, 0x75, 8)
IOTLB_MSG_V2, UPDATE, INVALIDATE, BATCH_BEGIN, BATCH_END = 2, 2, 3, 5, 6


class VhostVdpa:
    """A user of /dev/vhost-vdpa-N, good or bad."""

    def __init__(self, path, size=4 * MIB):
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(self.fd, SET_OWNER)
        backend = self.get(GET_BACKEND_FEATURES)
        fcntl.ioctl(self.fd, SET_BACKEND_FEATURES, struct.pack("<Q", backend & 6))
        self.file = os.memfd_create("user", 0)
        os.ftruncate(self.file, size)
        self.mem = mmap.mmap(self.file, size)
        self.addr = ctypes.addressof(ctypes.c_char.from_buffer(self.mem))
        self.kicks = [os.eventfd(0) for _ in range(2)]

    def get(self, request):
        return struct.unpack("<Q", fcntl.ioctl(self.fd, request, bytes(8)))[0]

    def iotlb(self, type_, iova=0, size=0, uaddr=0, perm=3):
        os.write(self.fd, struct.pack("<IIQQQBB6x32x", IOTLB_MSG_V2, 0, iova, size, uaddr, perm, type_))

    def map(self, iova, offset, size):
        self.iotlb(BATCH_BEGIN)
        self.iotlb(UPDATE, iova, size, self.addr + offset)
        self.iotlb(BATCH_END)

    def unmap(self, iova, size):
        self.iotlb(BATCH_BEGIN)
        self.iotlb(INVALIDATE, iova, size)
        self.iotlb(BATCH_END)

    def status(self, value):
        fcntl.ioctl(self.fd, SET_STATUS, bytes([value]))

    def features(self, drop=0):
        self.status(3)
        fcntl.ioctl(self.fd, SET_FEATURES, struct.pack("<Q", self.get(GET_FEATURES) & ~drop))
        self.status(11)

    def ring(self, index, num, desc, avail, used, base=0):
        fcntl.ioctl(self.fd, SET_VRING_NUM, struct.pack("<II", index, num))
        fcntl.ioctl(self.fd, SET_VRING_BASE, struct.pack("<II", index, base))
        fcntl.ioctl(self.fd, SET_VRING_ADDR, struct.pack("<IIQQQQ", index, 0, desc, used, avail, 0))
        fcntl.ioctl(self.fd, SET_VRING_KICK, struct.pack("<Ii", index, self.kicks[index]))

    def enable(self, index, on=1):
        fcntl.ioctl(self.fd, SET_VRING_ENABLE, struct.pack("<II", index, on))

    def kick(self, index):
        os.eventfd_write(self.kicks[index], 1)

    def close(self):
        os.close(self.fd)
        for fd in self.kicks:
            os.close(fd)


class Vhost(LabVduse):
    WORDS = "name v0 mgmtdev sim_net backend echo frontend vduse mode vhost"

    def test_is_a_device_of_vhost_vdpa(self):
        """A transmit queue takes buffers out of memory of a process."""
        d = self.daemon(self.WORDS)
        path = self.frontend_info(d, "v0")
        self.assertRegex(path, "^/dev/vhost-vdpa-[0-9]+$")
        self.assertEqual(json.loads(run("vdpa", "-j", "dev", "show", "v0"))["dev"]["v0"]["mgmtdev"],
                         "vduse")
        user = VhostVdpa(path)
        user.map(0x100000, 0, MIB)
        user.features(drop=PACKED)
        for i in range(2):
            base = 0x100000 + i * 0x10000
            user.ring(i, 8, base, base + 0x1000, base + 0x2000)
            user.enable(i)
        user.status(15)
        inside.until(lambda: d.call("dev.show", name="v0")["dev"]["v0"]["state"] == "running",
                     "the device to run")
        self.assertRegex(d.refusal("dev.del", name="v0"),
                         "/dev/vhost-vdpa-[0-9]+ is open in process [0-9]+")
        # One packet: a header and 60 bytes.
        struct.pack_into("<QIHH", user.mem, 0x10000, 0x100000 + 0x30000, 12 + 60, 0, 0)
        struct.pack_into("<HHH", user.mem, 0x11000, 0, 1, 0)
        user.kick(1)
        inside.until(lambda: struct.unpack_from("<H", user.mem, 0x12002)[0] == 1, "the used buffer")
        user.close()
        inside.until(lambda: d.call("dev.show", name="v0")["dev"]["v0"]["state"] == "idle",
                     "the device to stop")
        d.delete("v0")

    def test_a_qemu_has_it(self):
        """An unmodified QEMU with -netdev vhost-vdpa. It has no guest, as that takes minutes here
        (lab_vduse_guest): what drives its function is its qtest socket."""
        d = self.daemon(self.WORDS)
        netdev = f"vhost-vdpa,vhostdev={self.frontend_info(d, 'v0')}"
        ours, theirs, requests = bytes([10, 1, 0, 1]), bytes([10, 1, 0, 2]), 3 * qtest.NUM
        mac = bytes.fromhex(MAC.replace(":", ""))
        with qtest.Qtest(self.folder, netdev, MAC, qmp.arguments(f"{self.folder}/qmp")) as qemu:
            driver = qtest.NetDriver(qemu)
            driver.start()
            inside.until(lambda: d.show("v0")["state"] == "running", "the device to run", RESTART_TIMEOUT)
            self.assertRegex(d.refusal("dev.del", name="v0"), r"is open in process \d+ \(qemu-system")
            with qmp.Qmp(f"{self.folder}/qmp", 60) as monitor:
                status = monitor("x-query-virtio-status", path="/machine/peripheral/net0/virtio-backend")
            self.assertTrue(status["vhost-started"])
            for _ in range(requests):
                driver.send(qtest.arp_request(mac, ours, theirs))
                frame = inside.until(driver.receive, "an answer", RESTART_TIMEOUT)
                # To us, ARP, an answer, of the address that was asked for.
                self.assertEqual((frame[:6], frame[12:14], frame[20:22], frame[28:32]),
                                 (mac, b"\x08\x06", b"\0\2", theirs))
            self.assertEqual(driver.used(1), requests)
            counts = d.stats("v0")["device"]
            self.assertEqual((counts["rx_packets"], counts["tx_packets"]), (requests, requests))
        inside.until(lambda: d.show("v0")["state"] == "idle", "the device to stop", RESTART_TIMEOUT)
        d.delete("v0")

    def nonsense(self, rng, user):
        """One thing that no driver does. The kernel may refuse it."""
        index = rng.randrange(2)
        iova = rng.choice((0, 0x1000, 0x100000, 0x110000, 1 << 40, (1 << 64) - 4096))
        size = rng.choice((4096, 8192, MIB, 1 << 40))

        def address():
            return rng.choice((0, 7, 0x100000, 0x100fff, 0x110000, 0x1ff000, 1 << 63, (1 << 64) - 16))

        rng.choice((
            lambda: user.map(iova, rng.choice((0, 4096, MIB)), size),
            lambda: user.unmap(iova, size),
            lambda: user.map(0x100000, rng.choice((0, MIB)), MIB),
            lambda: user.unmap(0x100000, MIB),
            lambda: user.features(drop=rng.choice((0, PACKED))),
            lambda: user.ring(index, rng.choice((0, 1, 3, 8, 256, 1024, 1 << 31)), address(), address(),
                              address(), rng.choice((0, 5, 0xffff, 0x80008000))),
            lambda: user.ring(index, 8, 0x100000, 0x101000, 0x102000),
            lambda: user.enable(index, rng.randrange(2)),
            lambda: user.status(rng.choice((0, 1, 3, 11, 15, 15, 15, 128, 255))),
            lambda: user.kick(index),
            lambda: fcntl.ioctl(user.fd, GET_VRING_BASE, struct.pack("<II", index, 0)),
            lambda: user.mem.__setitem__(slice(0, 8192), rng.randbytes(8192)),
        ))()

    def test_stands_a_hostile_user(self):
        d = self.daemon(self.WORDS, "name n1 mgmtdev sim_net backend echo frontend vduse")
        dev = netdev("n1")
        run("ip", "addr", "add", "10.1.0.1/24", "dev", dev)
        run("ip", "link", "set", dev, "up")
        path = self.frontend_info(d, "v0")
        rng, refused, count = random.Random(3), 0, inside.harness.count(1500, 100000)
        user = VhostVdpa(path)
        for i in range(count):
            try:
                self.nonsense(rng, user)
            except OSError:
                refused += 1
            if i % 100 == 99:
                user.close()
                user = VhostVdpa(path)
        # A thousand ranges, as many as the kernel takes.
        with contextlib.suppress(OSError):
            for i in range(inside.harness.count(300, 2000)):
                user.iotlb(UPDATE, (1 << 32) + i * 8192, 4096, user.addr)
        user.close()
        self.assertLess(refused, count)
        self.assertIsNone(d.process.poll())
        ping(3)
        print(f"{count} calls, {refused} refused", flush=True)
        for name in "v0", "n1":
            d.delete(name)
        self.assertFalse(os.path.exists("/dev/vduse/v0"))


def watchdog(seconds):
    """What everybody waits for, if the tests do not end."""
    import faulthandler
    time.sleep(seconds)
    print("not ended:", flush=True)
    faulthandler.dump_traceback(file=sys.stdout)
    for task in pathlib.Path("/proc").glob("[0-9]*/task/*"):
        with contextlib.suppress(OSError):
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            if state == "D":
                print((task / "comm").read_text(), (task / "stack").read_text(), flush=True)
    for d in DAEMONS:
        print(d.err.text(), flush=True)
        if d.process.poll() is None:
            for task in pathlib.Path(f"/proc/{d.pid}/task").iterdir():
                print((task / "comm").read_text(), (task / "stack").read_text(), flush=True)
    os._exit(1)


def main():
    load(MODULES)
    threading.Thread(target=watchdog, args=(WATCHDOG,), daemon=True).start()
    unittest.main(verbosity=2)


if __name__ == "__main__":
    main()
