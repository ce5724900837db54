# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""What the control path and the notifications cost: measurements for scripts/bench.

The device is vdpa-model over vfio-user, driven by vdpa-app with the driver virtio; for the life of
a device also sim_blk in vdpa-app itself.
"""

import contextlib
import json
import mmap
import os
import select
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import tempfile
import time

import harness
import vhost_user_client as vhu

SET_BACKEND_REQ_FD_PROTOCOL = vhu.P_BACKEND_REQ | vhu.P_SEND_FD | 1 << 11  # HOST_NOTIFIER
HOST_NOTIFIER_MSG = 3
LIFE_QUEUES = (1, 16, 64)


@contextlib.contextmanager
def function(options, words):
    """vdpa-model with one function m0, and vdpa-app with v0 on it, on one CPU each."""
    with harness.Daemon([f'name m0 {words} vfio_user {{dir}}/m0.vfu'], app=options.model) as model, \
            harness.Daemon([f'name v0 mgmtdev vfio-user/{model.dir}/m0.vfu socket {{dir}}/v0.sock'],
                           launcher=['taskset', '-c', str(options.device_cpu)]) as app:
        yield model, app


class Driver(vhu.NetDriver):
    """A front end that takes host notifiers: the doorbell pages, by queue."""

    def __init__(self, path):
        super().__init__(path, protocol=vhu.P_REPLY_ACK | vhu.P_MQ | SET_BACKEND_REQ_FD_PROTOCOL)
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(vhu.TIMEOUT_S)
        assert self.client.ack(vhu.SET_BACKEND_REQ_FD, b'', [theirs.fileno()]) == 0
        theirs.close()
        self.pages = {}

    def start(self):
        super().start()
        while len(self.pages) < 2:
            data, fds, _, _ = socket.recv_fds(self.channel, 36, 1)
            request, _, size, idx, _, offset = struct.unpack('<IIIQQQ', data)
            assert request == HOST_NOTIFIER_MSG and size == 24, data
            if fds:
                self.pages[idx & 0xff] = fds[0], offset
        return self

    def close(self):
        for fd, _ in self.pages.values():
            os.close(fd)
        self.pages = {}
        self.channel.close()
        super().close()


def kicks(options):
    """Nanoseconds from a kick to the doorbell: medians of the rounds, by way."""
    with function(options, 'mgmtdev sim_net') as (model, app), Driver(app.socket('v0')) as net:
        net.start()
        net.exchange()
        fd, offset = net.pages[1]
        # What rings is to be seen by us, not taken away by a device that looks.
        os.kill(model.pid, signal.SIGSTOP)
        try:
            out = subprocess.run(
                [options.bench_kick, str(net.tx.kick_fd), str(fd), str(offset),
                 str(options.peer_cpu), str(options.device_cpu), str(options.runs), '1000'],
                pass_fds=[net.tx.kick_fd, fd], check=True, text=True, stdout=subprocess.PIPE).stdout
        finally:
            os.kill(model.pid, signal.SIGCONT)
    rounds = [json.loads(line) for line in out.splitlines()]
    ways = {way: statistics.median(r['p50_ns'] for r in rounds if r['way'] == way)
            for way in ('bare', 'relay', 'doorbell')}
    ratios = [relay['p50_ns'] / bare['p50_ns'] for bare, relay in
              ((a, b) for a in rounds for b in rounds
               if a['round'] == b['round'] and a['way'] == 'bare' and b['way'] == 'relay')]
    return {'p50_ns': ways, 'relay_to_bare': statistics.median(ratios), 'rounds': rounds}


def print_kicks(result):
    ways = result['p50_ns']
    print('From a kick to the doorbell of the device, median:')
    print(f'  bare eventfd-epoll-write loop  {ways["bare"] / 1000:8.2f} us')
    print(f'  kick eventfd, relayed          {ways["relay"] / 1000:8.2f} us   '
          f'{result["relay_to_bare"]:.2f} of the bare loop')
    print(f'  doorbell page (host notifier)  {ways["doorbell"] / 1000:8.2f} us')


def _uvdpa(stack, app, model):
    """Sockets of a build's block devices, simulated and over vfio-user, by name."""
    blk = 'mgmtdev sim_blk backend ram 1M queues'
    model = stack.enter_context(harness.Daemon(
        [f'name m{n} {blk} {n} vfio_user {{dir}}/m{n}.vfu' for n in LIFE_QUEUES], app=model))
    app = stack.enter_context(harness.Daemon(
        [f'name sim{n} {blk} {n} socket {{dir}}/sim{n}.sock' for n in LIFE_QUEUES] +
        [f'name vfu{n} mgmtdev vfio-user/{model.dir}/m{n}.vfu socket {{dir}}/vfu{n}.sock'
         for n in LIFE_QUEUES], app=app))
    return {f'{kind}{n}': app.socket(f'{kind}{n}') for n in LIFE_QUEUES for kind in ('sim', 'vfu')}


def _qemu(stack):
    """Sockets of qemu-storage-daemon's block devices, which stand beside the simulated ones."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix='uvdpa-bench.'))
    sockets = {f'sim{n}': os.path.join(folder, f'{n}.sock') for n in LIFE_QUEUES}
    argv = ['qemu-storage-daemon']
    for n in LIFE_QUEUES:
        argv += ['--blockdev', f'driver=null-co,node-name=d{n},size=1048576,read-zeroes=on',
                 '--export', f'type=vhost-user-blk,id=e{n},node-name=d{n},writable=on,num-queues={n},'
                             f'addr.type=unix,addr.path={sockets[f"sim{n}"]}']
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    stack.callback(lambda: (process.terminate(), process.wait()))
    for path in sockets.values():
        harness.wait_for(lambda path=path: os.path.exists(path), path)
    return sockets


def life(options):
    """Microseconds of start, stop and a changed call eventfd, by side, device and number of queues.
    The sides take turns within each round."""
    with contextlib.ExitStack() as stack:
        sides = {'this build': _uvdpa(stack, options.app, options.model)}
        if options.beside:
            sides['beside'] = _uvdpa(stack, os.path.join(options.beside, 'examples/vdpa-app/vdpa-app'),
                                     os.path.join(options.beside, 'app/vdpa-model/vdpa-model'))
        if shutil.which('qemu-storage-daemon'):
            # It has no STATUS; without it a start is the same messages for both.
            sides['without STATUS'] = {name: path for name, path in sides['this build'].items()
                                       if name.startswith('sim')}
            sides['qemu-storage-daemon'] = _qemu(stack)
        sides_options = {'without STATUS': ('--no-status',)}
        runs = {side: {name: [] for name in sockets} for side, sockets in sides.items()}
        for _ in range(options.runs):
            for name in sides['this build']:
                for side, sockets in sides.items():
                    if name not in sockets:
                        continue
                    out = subprocess.run(
                        [options.test_vdpa, 'bench', '--socket', sockets[name], '--type', 'block',
                         '--duration', '0.1', '--json', '-', *sides_options.get(side, ())],
                        check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
                    result = json.loads(out)
                    runs[side][name].append({what: result[what]['p50']
                                             for what in ('start', 'stop', 'call_swap')})
    return {side: {name: {what: statistics.median(r[what] for r in results) for what in results[0]}
                   for name, results in devices.items()} for side, devices in runs.items()}


def print_life(result):
    sides = list(result)
    print('Block devices by a vhost-user front end, median of the runs\' medians, microseconds of')
    print('start, stop and another call eventfd:')
    print(f'  {"":22}{"queues":>8}' + ''.join(f'{side:>26}' for side in sides))
    for kind, name in (('sim', 'simulated'), ('vfu', 'virtio over vfio-user')):
        for n in LIFE_QUEUES:
            row = f'  {name:22}{n:8}'
            for side in sides:
                values = result[side].get(f'{kind}{n}')
                row += '' if values is None else f'{values["start"]:12.0f}{values["stop"]:8.0f}{values["call_swap"]:6.0f}'
            print(row)


def _count(options, app, net, by_doorbell):
    """Exchange frames; what the driver and the daemon counted meanwhile."""
    def wakeups(before):
        # Thread by thread: one that had something to do before may end meanwhile, with its count.
        return sum(n - before.get(thread, 0)
                   for thread, n in harness.thread_switches(app.pid).items()
                   if thread[1].startswith('vdpa-'))

    def relayed():
        return app.stats('v0')['device']['kicks_relayed']

    interrupts = 0
    net.exchange()
    before, kicks_before = harness.thread_switches(app.pid), relayed()
    for _ in range(options.exchanges):
        net.exchange()
        for ring in net.rx, net.tx:
            if select.select([ring.call_fd], [], [], vhu.TIMEOUT_S)[0]:
                interrupts += os.eventfd_read(ring.call_fd)
    woken = wakeups(before)
    return {'kicks': 2 * options.exchanges, 'by': 'doorbell' if by_doorbell else 'eventfd',
            'interrupts': interrupts, 'kicks_relayed': relayed() - kicks_before,
            'daemon_wakeups': woken}


def interrupts(options):
    """Counts: interrupts that the driver got, and how often the daemon woke up meanwhile."""
    results = []
    for by_doorbell in False, True:
        with function(options, 'mgmtdev sim_net') as (_, app), Driver(app.socket('v0')) as net, \
                contextlib.ExitStack() as stack:
            net.start()
            if by_doorbell:
                for ring in net.rx, net.tx:
                    fd, offset = net.pages[ring.index]
                    page = stack.enter_context(mmap.mmap(fd, mmap.PAGESIZE, offset=offset))
                    words = stack.enter_context(memoryview(page).cast('H'))
                    ring.kick = lambda words=words, ring=ring: words.__setitem__(0, ring.index)
            time.sleep(0.1)
            results.append(_count(options, app, net, by_doorbell))
            # A view keeps its mapping from being closed.
            for ring in net.rx, net.tx:
                ring.__dict__.pop('kick', None)
    return results


def print_interrupts(results):
    print('Interrupts straight from the device to the driver\'s eventfd, counts:')
    print(f'  {"kicks by":12}{"kicks":>8}{"interrupts":>12}{"kicks relayed":>15}'
          f'{"wake-ups of the daemon":>24}')
    for r in results:
        print(f'  {r["by"]:12}{r["kicks"]:8}{r["interrupts"]:12}{r["kicks_relayed"]:15}'
              f'{r["daemon_wakeups"]:24}')
