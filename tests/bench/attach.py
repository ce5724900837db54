# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""What it costs to attach many guests at once, and beside a large one: a measurement for scripts/bench.

Each device has a front end with 1 GiB of sparse memory; simulated, and by vdpa-app on vdpa-model over
vfio-user. One by one each start is waited for; at once all front ends send what they have to say, and
then the answers are waited for. What the size of a guest takes from others is told by starts of one beside
another that attaches again and again, which takes processor time whatever its size: of 1 and of 512 GiB.
"""

import contextlib
import multiprocessing
import resource
import statistics
import struct
import time

import harness
import vhost_user_client as vhu

DEVICES = 200
GUEST = 1 << 30  # bytes, sparse
LARGE = 512 << 30
ROUNDS, STARTS = 5, 10
KINDS = ('sim', 'model')


class FrontEnd:
    """A front end of a device with a guest of so many bytes; its start in one burst of messages."""

    def __init__(self, path, size):
        self.client = vhu.Client(path)
        self.client.negotiate()
        self.memory = vhu.Memory(size)
        self.rings = [vhu.SplitRing(self.memory, i) for i in range(2)]

    def send(self):
        """Memory and rings; the last message is answered when all have been served."""
        client = self.client
        client.set_memory(self.memory, ack=False)
        for ring in self.rings:
            ring.kick_fd, ring.call_fd = client.eventfd(), client.eventfd()
            client.state(vhu.SET_VRING_NUM, ring.index, ring.num, ack=False)
            client.state(vhu.SET_VRING_BASE, ring.index, ring.base(), ack=False)
            client.send(vhu.SET_VRING_ADDR, ring.addr_payload())
            client.u64(vhu.SET_VRING_CALL, ring.index, [ring.call_fd], ack=False)
            client.u64(vhu.SET_VRING_KICK, ring.index, [ring.kick_fd], ack=False)
            client.state(vhu.SET_VRING_ENABLE, ring.index, 1, ack=False)
        client.send(vhu.GET_QUEUE_NUM)

    def answered(self):
        request, _, data = self.client.recv()
        assert request == vhu.GET_QUEUE_NUM and struct.unpack('<Q', data)[0] > 0

    def close(self):
        self.client.close()
        self.memory.close()


@contextlib.contextmanager
def _devices(options, kind, count):
    """A daemon with count net devices n0, n1, ...; with a model behind them, where kind says so."""
    with contextlib.ExitStack() as stack:
        names = [f'n{i}' for i in range(count)]
        if kind == 'model':
            model = stack.enter_context(harness.Daemon(
                [f'name {n} mgmtdev sim_net vfio_user {{dir}}/{n}.vfu' for n in names],
                app=options.model))
            words = [f'name {n} mgmtdev vfio-user/{model.dir}/{n}.vfu socket {{dir}}/{n}.sock'
                     for n in names]
        else:
            words = [f'name {n} mgmtdev sim_net socket {{dir}}/{n}.sock' for n in names]
        yield stack.enter_context(harness.Daemon(words, app=options.app))


def _running(daemon, names):
    states = {n: daemon.show(n)['state'] for n in names}
    return all(state == 'running' for state in states.values())


def _attach(options, kind, at_once):
    """Seconds until all devices run."""
    names = [f'n{i}' for i in range(DEVICES)]
    with _devices(options, kind, DEVICES) as daemon, contextlib.ExitStack() as stack:
        ends = [stack.enter_context(contextlib.closing(FrontEnd(daemon.socket(n), GUEST)))
                for n in names]
        start = time.monotonic()
        if at_once:
            for end in ends:
                end.send()
            for end in ends:
                end.answered()
        else:
            for end in ends:
                end.send()
                end.answered()
        seconds = time.monotonic() - start
        harness.wait_for(lambda: _running(daemon, names), 'all devices to run', 60)
        return seconds


def _start(daemon, name):
    """Milliseconds of a start, up to the answer behind it."""
    with contextlib.closing(FrontEnd(daemon.socket(name), GUEST)) as end:
        start = time.monotonic()
        end.send()
        end.answered()
        took = 1000 * (time.monotonic() - start)
        harness.wait_for(lambda: daemon.show(name)['state'] == 'running', 'it to run')
    harness.wait_for(lambda: daemon.show(name)['state'] == 'idle', 'it to stop')
    return took


def _attach_again(path, size, pipe):
    """A process: a guest of so many bytes comes and goes until somebody says stop; tells how long each
    took, in milliseconds."""
    times = []
    while not pipe.poll():
        with contextlib.closing(FrontEnd(path, size)) as end:
            start = time.monotonic()
            end.send()
            end.answered()
            times.append(1000 * (time.monotonic() - start))
    pipe.send(times)


@contextlib.contextmanager
def _neighbour(path, size, times):
    """Meanwhile a guest of that size attaches again and again; how long each time took is added."""
    if size == 0:
        yield
        return
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_attach_again, args=(path, size, theirs), daemon=True)
    process.start()
    try:
        yield
    finally:
        ours.send('stop')
        times += ours.recv()
        process.join()


def _beside(options, kind):
    """Median milliseconds of a start by the size of the neighbour (0: there is none), and of the
    neighbour's own, which take turns."""
    starts = {size: [] for size in (0, GUEST, LARGE)}
    own = {size: [] for size in starts}
    with _devices(options, kind, 2) as daemon:
        for _ in range(ROUNDS):
            for size, took in starts.items():
                with _neighbour(daemon.socket('n1'), size, own[size]):
                    took += [_start(daemon, 'n0') for _ in range(STARTS)]
    return {'start_ms': {size: statistics.median(took) for size, took in starts.items()},
            'neighbour_ms': {size: statistics.median(took) for size, took in own.items() if took}}


def attach(options):
    """Seconds for DEVICES guests one by one and at once, and starts beside a guest of 512 GiB."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return {kind: {'one_by_one_s': _attach(options, kind, False),
                   'at_once_s': _attach(options, kind, True), **_beside(options, kind)}
            for kind in KINDS}


def print_attach(result):
    print(f'{DEVICES} devices, each for a guest with {GUEST >> 30} GiB of sparse memory, until all run:')
    for kind, r in result.items():
        print(f'  {kind:8} one by one {r["one_by_one_s"]:6.2f} s   at once {r["at_once_s"]:6.2f} s')
    print('A start, in ms, beside a guest that attaches again and again (medians):')
    print(f'  {"":8}{"alone":>8}{"1 GiB":>8}{"512 GiB":>9}{"ratio":>7}   the other guest itself')
    for kind, r in result.items():
        alone, small, large = r['start_ms'].values()
        print(f'  {kind:8}{alone:8.2f}{small:8.2f}{large:9.2f}{large / small:7.2f}   '
              f'{r["neighbour_ms"][GUEST]:.2f} and {r["neighbour_ms"][LARGE]:.2f}')
