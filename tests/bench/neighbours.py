# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""What a healthy device loses while front ends and guests of others attack the process: a measurement
for scripts/bench.

An attacker is a process of its own, niced and on the second CPU, so that what is measured is what the
daemon lets it take and not what the attacker's own loops do. The daemon runs on both CPUs; the front end
that measures, on the first.
"""

import concurrent.futures
import contextlib
import os
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

if __name__ == '__main__':
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '../integration'))

import harness  # noqa: E402
import vhost_user_client as vhu  # noqa: E402

HALVES = 8
STUCK = 32
LINGERING, LINGER_S = 32, 1
STUCK_MS = 10000
SETUPS = 15
# Of a frame: then it is lost.
LOST_S = 10
GAP_FACTOR, GAP_MS = 2, 5
SETUP_FACTOR, SETUP_MS = 1.2, 10

SEGMENTS, SEGMENT, REQUESTS = 126, 256 << 10, 128
DISK_MIB = 64


# Attackers: each runs in its own process until its standard input ends.

def over():
    """Whether standard input has ended."""
    return bool(select.select([0], [], [], 0)[0])


def half_messages(paths):
    """A message that never ends, on eight connections."""
    clients = [vhu.Client(path) for path in paths]
    for client in clients:
        client.send_raw(struct.pack('<III', vhu.SET_FEATURES, vhu.VERSION, 8) + b'\0' * 3)
    yield
    while not over():
        select.select([0], [], [])
    for client in clients:
        assert not client.is_closed(0.01), 'hung up'


def descriptors():
    """One of each kind, whose last holder the daemon becomes; a socket has another one in its queue."""
    pair = socket.socketpair()
    socket.send_fds(pair[0], [b'x'], [pair[1].fileno()])
    read, write = os.pipe()
    os.close(write)
    return [os.eventfd(0), os.open('/dev/null', os.O_RDWR), os.memfd_create('flood'), read,
            pair[1].detach(), pair[0].detach()]


def slow_closes(paths):
    """The same, with a TCP socket in each of the first messages whose last close() takes a second, for its
    peer does not read what is left."""
    with concurrent.futures.ThreadPoolExecutor(LINGERING) as pool:
        return floods(paths, list(pool.map(lambda _: harness.lingering(LINGER_S), range(LINGERING))))


def floods(paths, lingering=()):
    """Messages with 1 to 64 descriptors of every kind, which no message has, again and again."""
    lingering, peers = [ours for ours, _ in lingering], [peer for _, peer in lingering]
    # Whoever closes such a socket last waits: that may be us.
    closers = concurrent.futures.ThreadPoolExecutor(LINGERING)
    n = messages = sent = 0
    yield
    while not over():
        for path in paths:
            n += 1
            kinds = descriptors()
            slow = [lingering.pop().detach()] if lingering else []
            fds = (slow + kinds)[:1] + [kinds[i % len(kinds)] for i in range((0, 7, 63)[n % 3])]
            request = (vhu.GET_FEATURES, vhu.SET_VRING_CALL, vhu.SET_MEM_TABLE, 99)[n % 4]
            with contextlib.suppress(vhu.Closed, OSError), vhu.Client(path, timeout=1) as client:
                client.send(request, bytes((0, 8, 40)[n // 4 % 3]), fds)
                sent += len(fds)
                messages += 1
            for fd in slow:
                closers.submit(os.close, fd)
            for fd in kinds:
                os.close(fd)
    print(f'{sent} descriptors in {messages} messages', flush=True)
    closers.shutdown()
    for peer in peers:
        peer.close()


def slow_readers(paths):
    """Questions without end; the answers are not read."""
    clients = {path: None for path in paths}
    sent = 0
    yield
    while not over():
        for path, client in clients.items():
            try:
                if client is None:
                    clients[path] = client = vhu.Client(path, timeout=0.05)
                for _ in range(100):
                    client.send(vhu.GET_FEATURES)
                    sent += 1
            except (vhu.Closed, OSError):
                if client:
                    client.close()
                clients[path] = None
    print(f'{sent} questions', flush=True)


def stuck(paths):
    """Devices of a model that is stopped are asked where their queues stand."""
    pid, paths = int(paths[0]), paths[1:]
    nets = [vhu.NetDriver(path) for path in paths]
    for net in nets:
        assert net.tx.start(net.client) == 0
    os.kill(pid, signal.SIGSTOP)
    try:
        for net in nets:
            net.client.send(vhu.GET_VRING_BASE, struct.pack('<II', net.tx.index, 0))
        yield
        while not over():
            select.select([0], [], [])
        answered = select.select([net.client.sock for net in nets], [], [], 0)[0]
        print(f'{len(nets) - len(answered)} still stuck', flush=True)
    finally:
        os.kill(pid, signal.SIGCONT)


class Reader:
    """A block guest with 128 reads of 31.5 MiB under way in each of its queues, all into the same memory."""

    def __init__(self, path, queues):
        self.client = vhu.Client(path)
        self.memory = vhu.Memory((SEGMENTS + 8) * SEGMENT)
        self.rings = [vhu.SplitRing(self.memory, i, 128) for i in range(queues)]
        header, table = self.memory.alloc(4096), self.memory.alloc(16 * (SEGMENTS + 2))
        data, gpa = self.memory.alloc(SEGMENTS * SEGMENT), self.memory.GPA
        chain = [(gpa + header, 16, vhu.DESC_NEXT)]
        chain += [(gpa + data + i * SEGMENT, SEGMENT, vhu.DESC_NEXT | vhu.DESC_WRITE) for i in range(SEGMENTS)]
        chain.append((gpa + header + 32, 1, vhu.DESC_WRITE))
        self.memory.write(table, b''.join(
            struct.pack('<QIHH', at, size, flags, i + 1) for i, (at, size, flags) in enumerate(chain)))
        self.client.negotiate(vhu.F_VERSION_1 | 1 << 28)
        assert self.client.set_memory(self.memory) == 0
        for ring in self.rings:
            assert ring.start(self.client) == 0
            for i in range(REQUESTS):
                ring.set_desc(i, gpa + table, 16 * len(chain), vhu.DESC_INDIRECT)
                ring.submit(i)
        self.read = 0

    def again(self):
        """Kick, and put back what has been read."""
        for ring in self.rings:
            while ring.poll() is not None:
                ring.submit(self.read % REQUESTS)
                self.read += 1
            ring.kick()


def reads(paths):
    reader = Reader(paths[0], int(paths[1]))
    reader.again()
    harness.wait_for(lambda: reader.again() or reader.read, 'the first read')
    yield
    before, since = reader.read, time.monotonic()
    while not over():
        reader.again()
        select.select([0], [], [], 0.001)
    rate = (reader.read - before) * SEGMENTS * SEGMENT / (time.monotonic() - since) / (1 << 30)
    print(f'{reader.read - before} reads, {rate:.1f} GiB/s', flush=True)


ATTACKS = {
    'half': (half_messages, f'half messages, {HALVES} connections'),
    'floods': (floods, 'descriptors of every kind'),
    'closes': (slow_closes, f'the same, {LINGERING} close slowly'),
    'slow': (slow_readers, f'{HALVES} slow readers'),
    'stuck': (stuck, f'{STUCK} functions in their time-outs'),
    'read1': (reads, '128 reads of 31.5 MiB, 1 queue'),
    'read8': (reads, '1024 reads of 31.5 MiB, 8 queues'),
}


class Attacker:
    def __init__(self, name, words, cpu):
        self.process = subprocess.Popen(
            [sys.executable, '-B', os.path.abspath(__file__), name, str(cpu), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        assert self.process.stdout.readline() == 'attacks\n', 'the attacker does not start'
        return self

    def __exit__(self, *exc):
        self.process.stdin.close()
        self.said = self.process.stdout.read().strip()
        self.process.stdout.close()
        code = self.process.wait()
        assert code == 0 or exc[0] is not None, f'the attacker ended with {code}'


# What is measured.

class Net(vhu.NetDriver):
    """A front end that sleeps until its frame is back."""

    def round(self):
        """Whether a frame went out and came back."""
        self.rx.add(self.rx_buf, 4096, True)
        self.tx.add(self.tx_buf, vhu.NET_HDR + 64, False)
        self.rx.kick()
        self.tx.kick()
        end = time.monotonic() + LOST_S
        while self.rx.poll() is None:
            left = end - time.monotonic()
            if left <= 0:
                return False
            select.select([self.rx.call_fd], [], [], left)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.rx.call_fd)
        while self.tx.poll() is not None:
            pass
        return True


def traffic(net, seconds):
    """Frames one after the other: how many, how many were lost, and milliseconds of the longest gap."""
    frames = lost = 0
    gap, last = 0, time.monotonic()
    end = last + seconds
    while last < end:
        lost += not net.round()
        frames += 1
        now = time.monotonic()
        gap, last = max(gap, now - last), now
        time.sleep(0.0001)
    return {'frames': frames, 'lost': lost, 'gap_ms': 1000 * gap}


def setup_ms(path):
    """From connect to the first frame back."""
    start = time.monotonic()
    with Net(path) as net:
        net.start()
        assert net.round(), 'no frame'
        return 1000 * (time.monotonic() - start)


def sample(net, path, seconds):
    result = traffic(net, seconds)
    result['setup_ms'] = statistics.median(setup_ms(path) for _ in range(SETUPS))
    return result


@contextlib.contextmanager
def victims(options, name, stack):
    """A daemon with two healthy devices and those that are attacked: (daemon, words of the attacker)."""
    words = [f'name {n} mgmtdev sim_net backend loopback socket {{dir}}/{n}.sock' for n in ('traffic', 'healthy')]
    if name.startswith('read'):
        queues = name.removeprefix('read')
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix='uvdpa-bench.'))
        disk = os.path.join(folder, 'disk.img')
        with open(disk, 'wb') as f:
            f.write(os.urandom(1 << 20) * DISK_MIB)
        attacked = [f'name v0 mgmtdev sim_blk backend file {disk} queues {queues} socket {{dir}}/v0.sock']
    elif name == 'stuck':
        model = stack.enter_context(harness.Daemon(
            [f'name m{i} mgmtdev sim_net vfio_user {{dir}}/m{i}.vfu' for i in range(STUCK)], app=options.model))
        attacked = [f'name v{i} mgmtdev vfio-user/{model.dir}/m{i}.vfu timeout_ms {STUCK_MS} '
                    f'socket {{dir}}/v{i}.sock' for i in range(STUCK)]
    else:
        attacked = [f'name v{i} mgmtdev sim_net backend loopback socket {{dir}}/v{i}.sock' for i in range(HALVES)]
    with harness.Daemon(words + attacked, app=options.app) as daemon:
        paths = [daemon.socket(f'v{i}') for i in range(len(attacked))]
        if name.startswith('read'):
            paths.append(queues)
        elif name == 'stuck':
            paths.insert(0, str(model.pid))
        yield daemon, paths


def neighbours(options):
    """Alone and attacked in turn."""
    everyone = os.sched_getaffinity(0)
    results = []
    for name in options.attacks.split(','):
        with contextlib.ExitStack() as stack:
            daemon, words = stack.enter_context(victims(options, name, stack))
            net = stack.enter_context(Net(daemon.socket('traffic')).start())
            net.round()
            runs = []
            os.sched_setaffinity(0, {options.device_cpu})
            try:
                for _ in range(options.runs):
                    alone = sample(net, daemon.socket('healthy'), options.seconds)
                    with Attacker(name, words, options.peer_cpu) as attacker:
                        attacked = sample(net, daemon.socket('healthy'), options.seconds)
                    runs.append({'alone': alone, 'attacked': attacked, 'attacker': attacker.said})
                    # What the attack has left is closed and settled before the next run.
                    harness.settled(daemon.pid)
                    print('.', end='', file=sys.stderr, flush=True)
            finally:
                os.sched_setaffinity(0, everyone)
            results.append({'attack': name, 'runs': runs, **verdict(runs)})
    print(file=sys.stderr)
    return results


def verdict(runs):
    def median(side, what):
        return statistics.median(run[side][what] for run in runs)

    lost = sum(run[side]['lost'] for run in runs for side in ('alone', 'attacked'))
    gap, gap_attacked = median('alone', 'gap_ms'), median('attacked', 'gap_ms')
    setup, setup_attacked = median('alone', 'setup_ms'), median('attacked', 'setup_ms')
    return {'lost': lost, 'frames': sum(run['attacked']['frames'] for run in runs),
            'gap_ms': [gap, gap_attacked], 'gap_holds': gap_attacked <= GAP_FACTOR * gap + GAP_MS,
            'setup_ms': [setup, setup_attacked],
            'setup_holds': setup_attacked <= SETUP_FACTOR * setup + SETUP_MS}


def print_neighbours(results):
    print('Beside an attack, medians of the runs: frames of a neighbour, and set-up of a healthy device, ms')
    print(f'  {"":36}{"frames":>8}{"lost":>6}{"longest gap":>18}{"":>8}{"set-up":>18}{"":>8}  one attack made')
    print(f'  {"":36}{"":>8}{"":>6}{"alone":>9}{"beside":>9}{"":>8}{"alone":>9}{"beside":>9}')
    for r in results:
        holds = ['holds' if r[key] else 'MISSED' for key in ('gap_holds', 'setup_holds')]
        print(f'  {ATTACKS[r["attack"]][1]:36}{r["frames"]:8}{r["lost"]:6}'
              f'{r["gap_ms"][0]:9.1f}{r["gap_ms"][1]:9.1f}{holds[0]:>8}'
              f'{r["setup_ms"][0]:9.1f}{r["setup_ms"][1]:9.1f}{holds[1]:>8}'
              f'  {r["runs"][-1]["attacker"]}')
    print(f'  holds: a gap of at most {GAP_FACTOR} x alone + {GAP_MS} ms, '
          f'a set-up of at most {SETUP_FACTOR} x alone + {SETUP_MS} ms')


def attack(name, cpu, words):
    os.sched_setaffinity(0, {int(cpu)})
    os.nice(19)
    running = ATTACKS[name][0](words)
    next(running)
    print('attacks', flush=True)
    for _ in running:
        pass


if __name__ == '__main__':
    attack(sys.argv[1], sys.argv[2], sys.argv[3:])
