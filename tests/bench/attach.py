# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""What it costs to attach many guests at once, and beside a large one: a measurement for scripts/bench.

Each device has a front end with 1 GiB of sparse memory; simulated, and by vdpa-app on vdpa-model over
vfio-user. One by one each start is waited for; at once all front ends send what they have to say, and
then the answers are waited for. What a guest takes from others is told by their starts while it attaches:
all of its messages are sent, and until they are answered others start, one after the other. Its front end
only waits meanwhile. The same starts without it are what they are compared with.
"""

import contextlib
import datetime
import resource
import select
import statistics
import struct
import time

import harness
import vhost_user_client as vhu

DEVICES = 200
GUEST = 1 << 30  # bytes, sparse
LARGE = 512 << 30
ROUNDS, OTHERS = 25, 5
NAMES = [*(f'n{i}' for i in range(OTHERS)), 'guest']
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
def _devices(options, kind, names):
    """A daemon with net devices of these names; with a model behind them, where kind says so."""
    with contextlib.ExitStack() as stack:
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
    with _devices(options, kind, names) as daemon, contextlib.ExitStack() as stack:
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


def _has_answer(end):
    return bool(select.select([end.client.sock], [], [], 0)[0])


def _starts(daemon, size):
    """Milliseconds of each start that began while a guest of that size attached (0: there is none), and
    of the attachment."""
    took, attached = [], None
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(contextlib.closing(FrontEnd(daemon.socket(f'n{i}'), GUEST)))
                  for i in range(OTHERS)]
        if size > 0:
            guest = stack.enter_context(contextlib.closing(FrontEnd(daemon.socket('guest'), size)))
            begun = time.monotonic()
            guest.send()
        for end in others:
            # The first one in any case: it was attaching when that was decided.
            if size > 0 and took and _has_answer(guest):
                break
            start = time.monotonic()
            end.send()
            end.answered()
            took.append(1000 * (time.monotonic() - start))
        if size > 0:
            guest.answered()
            attached = 1000 * (time.monotonic() - begun)
            harness.wait_for(lambda: daemon.show('guest')['state'] == 'running', 'it to run')
    harness.wait_for(lambda: all(d['state'] == 'idle' for d in _states(daemon)), 'all to stop')
    return took, attached


def _states(daemon):
    return [daemon.show(name) for name in NAMES]


def _beside(options, kind):
    """By the size of the guest that attaches meanwhile: how many starts there were, median milliseconds
    of those, of the same ones without it, and of its own. The three take turns."""
    pairs = {size: [] for size in (GUEST, LARGE)}
    own = {size: [] for size in pairs}
    with _devices(options, kind, NAMES) as daemon:
        for _ in range(ROUNDS):
            alone, _ = _starts(daemon, 0)
            for size in pairs:
                took, attached = _starts(daemon, size)
                pairs[size] += zip(took, alone)
                own[size].append(attached)
    return {size: {'starts': len(rows), 'beside_ms': statistics.median(a for a, _ in rows),
                   'alone_ms': statistics.median(b for _, b in rows),
                   'guest_ms': statistics.median(own[size])} for size, rows in pairs.items()}


def attach(options):
    """Seconds for DEVICES guests one by one and at once, and starts beside a guest of 512 GiB."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return {kind: {'one_by_one_s': _attach(options, kind, False),
                   'at_once_s': _attach(options, kind, True), 'beside': _beside(options, kind)}
            for kind in KINDS}


def print_attach(result):
    print(f'{harness.processor()}, {datetime.date.today()}')
    print(f'{DEVICES} devices, each for a guest with {GUEST >> 30} GiB of sparse memory, until all run:')
    for kind, r in result.items():
        print(f'  {kind:8} one by one {r["one_by_one_s"]:6.2f} s   at once {r["at_once_s"]:6.2f} s')
    print('Starts that begin while a guest attaches, ms (medians):')
    print(f'  {"":8}{"guest":>8}{"attaches":>10}{"starts":>8}{"alone":>8}{"beside":>8}{"ratio":>7}')
    for kind, r in result.items():
        for size, b in r['beside'].items():
            print(f'  {kind:8}{size >> 30:4} GiB{b["guest_ms"]:10.2f}{b["starts"]:8}{b["alone_ms"]:8.2f}'
                  f'{b["beside_ms"]:8.2f}{b["beside_ms"] / b["alone_ms"]:7.2f}')
