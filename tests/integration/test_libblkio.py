# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""libblkio's virtio-blk-vhost-user driver on disks of vdpa-app: the library itself, and QEMU's programs.

The library demands the protocol features CONFIG, REPLY_ACK and CONFIGURE_MEM_SLOTS, gives memory region by
region, and its regions of descriptors end in the middle of a page. It has one region for its rings, and a
queue a thread; QEMU's block driver uses one queue of those that a disk has.
"""

import contextlib
import ctypes
import hashlib
import os
import subprocess
import unittest

import harness

MODEL = os.environ.get('UVDPA_MODEL', 'vdpa-model')
MIB = 1 << 20
SIZE = 16 * MIB
TIMEOUT_S = 10

_folder = None
_lib = None


class MemRegion(ctypes.Structure):
    _fields_ = [('addr', ctypes.c_void_p), ('len', ctypes.c_size_t), ('iova', ctypes.c_uint64),
                ('fd_offset', ctypes.c_int64), ('fd', ctypes.c_int), ('flags', ctypes.c_uint32)]


class Completion(ctypes.Structure):
    _fields_ = [('user_data', ctypes.c_void_p), ('error_msg', ctypes.c_char_p),
                ('ret', ctypes.c_int), ('reserved', ctypes.c_uint8 * 12)]


class Timespec(ctypes.Structure):
    _fields_ = [('tv_sec', ctypes.c_long), ('tv_nsec', ctypes.c_long)]


def setUpModule():
    global _folder, _lib
    _folder = harness.fetched('blkio')
    _lib = ctypes.CDLL(os.path.join(_folder, 'lib', 'libblkio.so.1'))
    _lib.blkio_get_error_msg.restype = ctypes.c_char_p
    _lib.blkio_get_queue.restype = ctypes.c_void_p
    for name in 'read', 'write':
        getattr(_lib, f'blkioq_{name}').argtypes = [
            ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p,
            ctypes.c_uint32]
    _lib.blkioq_flush.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32]
    _lib.blkioq_do_io.argtypes = [
        ctypes.c_void_p, ctypes.POINTER(Completion), ctypes.c_int, ctypes.c_int,
        ctypes.POINTER(Timespec)]
    _lib.blkioq_get_completion_fd.argtypes = [ctypes.c_void_p]


class Blkio:
    """One instance of the library on a socket, connected and started."""

    def __init__(self, path, queues=1):
        self.handle = ctypes.c_void_p()
        self.check(_lib.blkio_create(b'virtio-blk-vhost-user', ctypes.byref(self.handle)))
        try:
            self.check(_lib.blkio_set_str(self.handle, b'path', path.encode()))
            self.check(_lib.blkio_connect(self.handle))
            self.check(_lib.blkio_set_int(self.handle, b'num-queues', queues))
            self.check(_lib.blkio_start(self.handle))
        except BaseException:
            self.close()
            raise
        self.queues = [_lib.blkio_get_queue(self.handle, i) for i in range(queues)]

    @staticmethod
    def check(code):
        if code < 0:
            raise AssertionError(f'{_lib.blkio_get_error_msg().decode()} ({os.strerror(-code)})')

    def property(self, name):
        value = ctypes.c_uint64()
        self.check(_lib.blkio_get_uint64(self.handle, name.encode(), ctypes.byref(value)))
        return value.value

    def integer(self, name):
        value = ctypes.c_int()
        self.check(_lib.blkio_get_int(self.handle, name.encode(), ctypes.byref(value)))
        return value.value

    def alloc(self, size):
        """Memory that the device sees, by its own region."""
        region = MemRegion()
        self.check(_lib.blkio_alloc_mem_region(self.handle, ctypes.byref(region), size))
        self.check(_lib.blkio_map_mem_region(self.handle, ctypes.byref(region)))
        return region

    def free(self, region):
        _lib.blkio_unmap_mem_region(self.handle, ctypes.byref(region))
        _lib.blkio_free_mem_region(self.handle, ctypes.byref(region))

    def complete(self, queue, count=1):
        """Submit what was queued and wait for so many requests, all of which must succeed."""
        done = (Completion * count)()
        left = Timespec(TIMEOUT_S, 0)
        self.check(_lib.blkioq_do_io(queue, done, count, count, ctypes.byref(left)))
        for completion in done:
            if completion.ret != 0:
                raise AssertionError(f'a request failed: {os.strerror(-completion.ret)}')

    def write(self, start, region, queue=0):
        _lib.blkioq_write(self.queues[queue], start, region.addr, region.len, None, 0)
        self.complete(self.queues[queue])

    def read(self, start, region, queue=0):
        _lib.blkioq_read(self.queues[queue], start, region.addr, region.len, None, 0)
        self.complete(self.queues[queue])

    def flush(self, queue=0):
        _lib.blkioq_flush(self.queues[queue], None, 0)
        self.complete(self.queues[queue])

    def close(self):
        _lib.blkio_destroy(ctypes.byref(self.handle))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def pattern(seed, size):
    """Bytes that no disk holds by chance."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


class Disk(unittest.TestCase):
    def exercise(self, path, stats, queues):
        """Every queue writes and reads memory of odd sizes, in regions that come and go."""
        before = stats()
        written = 0
        with Blkio(path, queues) as blkio:
            self.assertEqual(blkio.property('capacity'), SIZE)
            self.assertEqual(blkio.integer('max-queues'), queues)
            regions = []
            for queue in range(queues):
                for size in 512, 4096, 65536, 1 * MIB:
                    region = blkio.alloc(size)
                    regions.append(region)
                    data = pattern((queue, size), size)
                    ctypes.memmove(region.addr, data, size)
                    blkio.write(written, region, queue)
                    ctypes.memset(region.addr, 0, size)
                    blkio.read(written, region, queue)
                    self.assertEqual(ctypes.string_at(region.addr, size), data)
                    written += size
                blkio.flush(queue)
            for region in regions:
                blkio.free(region)
            # What others have is still there.
            region = blkio.alloc(4096)
            blkio.read(512, region)
            self.assertEqual(ctypes.string_at(region.addr, 4096), pattern((0, 4096), 4096))
        after = stats()
        self.assertEqual(after['write_bytes'] - before['write_bytes'], written)
        self.assertEqual(after['read_bytes'] - before['read_bytes'], written + 4096)
        self.assertEqual(after['flushes'] - before['flushes'], queues)
        self.assertEqual(after['malformed'] + after['io_errors'], 0)

    def simulated(self, queues):
        words = f'name b mgmtdev sim_blk backend ram 16M queues {queues} socket {{dir}}/b.sock'
        with harness.Daemon([words]) as daemon:
            # The second time in a process that has had one.
            for _ in range(2):
                self.exercise(daemon.socket('b'), lambda: daemon.stats('b')['device'], queues)
            harness.wait_for(lambda: daemon.show('b')['state'] == 'idle', 'the disk to stop')

    def test_one_queue(self):
        self.simulated(1)

    def test_four_queues(self):
        self.simulated(4)

    def test_function_over_vfio_user(self):
        """Its DMA domain maps whole pages of files that end in the middle of one."""
        words = 'name m mgmtdev sim_blk backend ram 16M queues 2 vfio_user {dir}/m.vfu'
        with harness.Daemon([words], app=MODEL) as model:
            words = f'name b mgmtdev vfio-user/{model.dir}/m.vfu socket {{dir}}/b.sock'
            with harness.Daemon([words]) as daemon:
                self.exercise(daemon.socket('b'), lambda: model.stats('m')['device'], 2)

    def test_hundred_regions(self):
        words = 'name b mgmtdev sim_blk backend ram 16M socket {dir}/b.sock'
        with harness.Daemon([words]) as daemon, Blkio(daemon.socket('b')) as blkio:
            regions = [blkio.alloc(4096) for _ in range(100)]
            for i, region in enumerate(regions):
                ctypes.memmove(region.addr, pattern(i, 4096), 4096)
                blkio.write(i * 4096, region)
            for region in regions[::2]:
                blkio.free(region)
            for i, region in enumerate(regions):
                if i % 2:
                    blkio.read((i ^ 1) * 4096, region)
                    self.assertEqual(ctypes.string_at(region.addr, 4096), pattern(i ^ 1, 4096))
            for region in regions[1::2]:
                blkio.free(region)


class Qemu(unittest.TestCase):
    """QEMU's block driver of the same name."""

    def run_program(self, program, *words):
        done = subprocess.run([os.path.join(_folder, program), *words], capture_output=True,
                              text=True, timeout=harness.TIMEOUT * 2)
        self.assertEqual(done.returncode, 0, f'{program} {words}: {done.stdout}{done.stderr}')
        return done.stdout

    def test_image_is_copied_and_compared(self):
        words = 'name b mgmtdev sim_blk backend file {dir}/disk queues 2 socket {dir}/b.sock'
        with contextlib.ExitStack() as stack:
            daemon = harness.Daemon([words])
            with open(os.path.join(daemon.dir, 'disk'), 'wb') as disk:
                disk.truncate(SIZE)
            stack.enter_context(daemon)
            image = os.path.join(daemon.dir, 'image')
            with open(image, 'wb') as f:
                f.write(pattern('image', SIZE))
            target = f'driver=virtio-blk-vhost-user,path={daemon.socket("b")},cache.direct=on'
            self.assertIn('Images are identical', (
                self.run_program('qemu-img', 'convert', '-n', '-f', 'raw', '--target-image-opts',
                                 image, target) +
                self.run_program('qemu-img', 'compare', '--image-opts', target,
                                 f'driver=file,filename={image}')))
            stats = daemon.stats('b')['device']
            self.assertGreaterEqual(stats['write_bytes'], SIZE)
            self.assertGreaterEqual(stats['read_bytes'], SIZE)
            self.assertEqual(stats['io_errors'] + stats['malformed'], 0)
            with open(os.path.join(daemon.dir, 'disk'), 'rb') as disk:
                self.assertEqual(disk.read(), pattern('image', SIZE))

    def test_patterns_of_qemu_io(self):
        words = 'name b mgmtdev sim_blk backend ram 16M socket {dir}/b.sock'
        with harness.Daemon([words]) as daemon:
            target = f'driver=virtio-blk-vhost-user,path={daemon.socket("b")},cache.direct=on'
            out = self.run_program('qemu-io', '--image-opts', target,
                                   '-c', 'write -P 0x5a 0 1M', '-c', 'write -z 64k 64k',
                                   '-c', 'discard 1M 1M', '-c', 'flush',
                                   '-c', 'read -P 0x5a 0 64k', '-c', 'read -P 0 64k 64k',
                                   '-c', 'read -P 0x5a 128k 896k')
            self.assertNotIn('verification failed', out)
            stats = daemon.stats('b')['device']
            self.assertEqual(stats['write_bytes'], MIB)
            self.assertEqual(stats['read_bytes'], MIB)
            self.assertEqual((stats['write_zeroes'], stats['discards']), (1, 1))


if __name__ == '__main__':
    unittest.main(verbosity=2)
