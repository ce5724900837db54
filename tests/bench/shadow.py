# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""What shadows and relays cost: a measurement for scripts/bench.

Cycles a packet of what moves the buffers, beside the device's own in the same run and the device's alone
on the direct path; the same and instructions in one thread (bench_shadow.c); how long frames stand still
while a queue changes its path (bench_switch.c); the device's share of a migration's downtime; threads and
wake-ups. The device is sim_net, whose worker is the movers' worker too: with the guest's driver there are
two busy threads, which two CPUs have room for.
"""

import datetime
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import harness
import vhost_user_client as vhu

# Paths of each layout: what a device without the word is on, and what the word `migration` makes.
PATHS = {'split': ('direct', 'relay', 'shadow'), 'packed': ('direct', 'shadow')}
SECONDS = 0.5
MICRO_ROUNDS = 5000
INSTRUCTIONS = (200, 1200)
SWITCHES = 30
GIB = 1 << 30
# Pairs of queues and bytes of guest memory.
STOPS = ((1, GIB), (8, GIB), (64, GIB), (8, 4 * GIB), (8, 16 * GIB))
STOP_PATHS = {'log': '', 'relay': 'no_log', 'shadow': 'migration shadow'}
IDLE_S = 1.0
EXCHANGES = 200


def _word(path):
    return '' if path == 'direct' else f'migration {path}'


def _totals(daemon):
    """Packets, the device's busy cycles, the movers', wherever there are some."""
    stats = daemon.stats('net0')
    moved = sum(q.get('path_busy_cycles', 0) for q in stats['queues'].values())
    return stats['device']['tx_packets'], stats['device']['busy_cycles'], moved


def _cycles(options, layout, path, size):
    """One run with testpmd as the guest's driver: (Mpps, the device's cycles a packet, the movers')."""
    with tempfile.TemporaryDirectory(prefix='uvdpa-bench.') as folder:
        socket = os.path.join(folder, 'bench.sock')
        words = f'name net0 mgmtdev sim_net backend loopback {_word(path)} socket {socket}'
        with harness.Daemon([words], args=['--poll-lcores', str(options.device_cpu)]) as daemon:
            port = harness.virtio_user(socket, packed=layout == 'packed', queue_size=options.queue_size)
            with harness.Testpmd([port], lcores=options.peer_lcores, memory=options.memory) as peer:
                peer.run(f'set txpkts {size}')
                peer.run(f'start tx_first {options.bursts}')
                time.sleep(0.3)
                before, t0 = _totals(daemon), time.monotonic()
                time.sleep(SECONDS)
                after, t1 = _totals(daemon), time.monotonic()
    packets, device, moved = (b - a for a, b in zip(before, after))
    assert packets > 0, f'{layout} {path}: no packets'
    return packets / (t1 - t0) / 1e6, device / packets, moved / packets


def _all_cycles(options):
    results = []
    for layout, size in ((r, s) for r in PATHS for s in (64, 1518)):
        runs = {path: [] for path in PATHS[layout]}
        for _ in range(options.runs):
            for path, got in runs.items():
                got.append(_cycles(options, layout, path, size))
                print('.', end='', file=sys.stderr, flush=True)
        for path, got in runs.items():
            mpps, device, moved = (statistics.median(v) for v in zip(*got))
            results.append({'layout': layout, 'size': size, 'path': path, 'mpps': mpps, 'device': device,
                            'mover': moved, 'runs': got})
    return results


def _bench_shadow(options, *args, prefix=()):
    program = os.path.join(options.build, 'tests/bench/bench_shadow')
    return subprocess.run([*prefix, program, *map(str, args)], check=True, capture_output=True, text=True)


def _one_thread(options):
    """Medians over the runs: (what, bytes) -> cycles a packet of the device and of the movers."""
    runs = {}
    for _ in range(options.runs):
        for line in _bench_shadow(options, MICRO_ROUNDS).stdout.splitlines()[1:]:
            match = re.match(r'(\w[\w ]*?) +(\d+) +([\d.]+)(?: +([\d.]+) +[\d.]+)?$', line)
            what, size, device, mover = match.groups()
            runs.setdefault((what, int(size)), []).append((float(device), float(mover or 0)))
    return [{'what': what, 'size': size, 'device': statistics.median(d for d, _ in got),
             'mover': statistics.median(m for _, m in got)} for (what, size), got in runs.items()]


def _instructions(options, whats):
    """Executed instructions a packet, all parties': of the difference between two numbers of rounds, so
    that what happens once is in none. None where valgrind is not installed."""
    if not shutil.which('valgrind'):
        return None
    counts = {}
    for what in whats:
        totals = []
        for rounds in INSTRUCTIONS:
            with tempfile.NamedTemporaryFile(prefix='uvdpa-bench.') as out:
                err = _bench_shadow(options, rounds, what, prefix=(
                    'valgrind', '--tool=callgrind', f'--callgrind-out-file={out.name}')).stderr
            totals.append(int(re.search(r'Collected : (\d+)', err).group(1)))
        counts[what] = (totals[1] - totals[0]) / (INSTRUCTIONS[1] - INSTRUCTIONS[0]) / 32
    return counts


def _switches(options, layout):
    """Microseconds of each change, and the longest gap between two frames about it."""
    program = os.path.join(options.build, 'tests/bench/bench_switch')
    lines = subprocess.run([program, layout, str(SWITCHES), str(options.device_cpu), str(options.peer_cpu)],
                           check=True, capture_output=True, text=True).stdout.splitlines()
    times = {}
    for what, call, gap in map(str.split, lines):
        times.setdefault(what, []).append((float(call), float(gap)))
    return {'layout': layout, **{what: {
        'call': statistics.median(c for c, _ in got), 'gap': statistics.median(g for _, g in got),
        'longest': max(g for _, g in got)} for what, got in times.items()}}


class _Guest:
    """Queues of a net device, as many as asked for, in sparse memory of that size."""

    FEATURES = vhu.F_VERSION_1

    def __init__(self, pairs, size, packed):
        self.memory = vhu.Memory(size)
        ring = vhu.PackedRing if packed else vhu.SplitRing
        self.rings = [ring(self.memory, i, 256) for i in range(2 * pairs)]
        self.buffers = self.memory.alloc(4096)
        self.features = self.FEATURES | ring.FEATURE
        self.log = vhu.Log((self.memory.GPA + size) // 4096 // 8)

    def close(self):
        self.log.close()
        self.memory.close()

    def connect(self, path):
        client = vhu.Client(path)
        client.negotiate(self.features, vhu.P_REPLY_ACK | vhu.P_MQ | vhu.P_LOG)
        return client

    def start(self, client, places):
        """As a front end does when a guest goes on: features, memory, each queue."""
        assert client.u64(vhu.SET_FEATURES, self.features | vhu.F_PROTOCOL) == 0
        assert client.set_memory(self.memory) == 0
        for ring, place in zip(self.rings, places):
            assert ring.start(client, base=place) == 0

    def log_on(self, client):
        self.log.give(client)
        assert client.u64(vhu.SET_FEATURES, self.features | vhu.F_PROTOCOL | vhu.F_LOG_ALL) == 0

    def fill(self):
        """Receive buffers that are not back at the stop, as there always are."""
        for ring in self.rings[::2]:
            for _ in range(8):
                ring.add(self.buffers, 2048, True)
            ring.kick()

    def stop(self, client):
        return [struct.unpack('<II', client.ask(vhu.GET_VRING_BASE, struct.pack('<II', ring.index, 0)))[1]
                for ring in self.rings]


def _ms(call, *args):
    start = time.monotonic()
    value = call(*args)
    return value, 1000 * (time.monotonic() - start)


def _move(options, pairs, size, path):
    """One guest from a daemon to another: milliseconds of the stop and of the start."""
    packed = path == 'shadow'
    words = f'name net0 mgmtdev sim_net max_vqp {pairs} backend loopback {STOP_PATHS[path]} socket {{dir}}/net0.sock'
    guest = _Guest(pairs, size, packed)
    try:
        with harness.Daemon([words], app=options.app) as source, \
                harness.Daemon([words], app=options.app) as destination, \
                guest.connect(source.socket('net0')) as old, guest.connect(destination.socket('net0')) as new:
            guest.start(old, [ring.base() for ring in guest.rings])
            guest.log_on(old)
            guest.fill()
            time.sleep(0.05)
            places, stop = _ms(guest.stop, old)
            _, start = _ms(guest.start, new, places)
    finally:
        guest.close()
    return stop, start


def _moves(options):
    results = []
    for path in STOP_PATHS:
        for pairs, size in STOPS:
            got = [_move(options, pairs, size, path) for _ in range(options.runs)]
            results.append({'path': path, 'pairs': pairs, 'gib': size // GIB,
                            'stop': statistics.median(s for s, _ in got),
                            'start': statistics.median(s for _, s in got)})
            print('.', end='', file=sys.stderr, flush=True)
    return results


def _switched(pid):
    return sum(n for name, n in harness.context_switches(pid).items() if name.startswith('vdpa-'))


def _threads(options, path):
    """Of a daemon with one running pair: threads, wake-ups when idle, and for frames one by one."""
    words = f'name net0 mgmtdev sim_net backend loopback {_word(path)} socket {{dir}}/net0.sock'
    with harness.Daemon([words], app=options.app) as daemon, vhu.NetDriver(daemon.socket('net0')) as net:
        net.start()
        net.exchange()
        threads = len(harness.threads(daemon.pid))
        time.sleep(0.2)
        before = _switched(daemon.pid)
        time.sleep(IDLE_S)
        idle = _switched(daemon.pid) - before
        before = _switched(daemon.pid)
        for _ in range(EXCHANGES):
            net.exchange()
            # Longer than a worker polls.
            time.sleep(0.001)
        return {'path': path, 'threads': threads, 'idle': idle,
                'frame': (_switched(daemon.pid) - before) / EXCHANGES}


def shadow(options):
    one = _one_thread(options)
    result = {'one_thread': one, 'instructions': _instructions(options, dict.fromkeys(r['what'] for r in one)),
              'cycles': _all_cycles(options), 'switches': [_switches(options, layout) for layout in PATHS],
              'moves': _moves(options), 'threads': [_threads(options, path) for path in PATHS['split']]}
    print(file=sys.stderr)
    return result


def _print_cycles(results):
    print('Cycles a packet (TSC): the device\'s own, and the movers\' beside it; driven by testpmd from another CPU.')
    print(f'  {"ring":8}{"bytes":>6} {"path":8}{"Mpps":>7}{"device":>8}{"mover":>8}{"of direct":>11}{"spread":>11}')
    for r in results:
        direct = next(d['device'] for d in results if (d['layout'], d['size'], d['path']) ==
                      (r['layout'], r['size'], 'direct'))
        moved = [m for _, _, m in r['runs']]
        print(f'  {r["layout"]:8}{r["size"]:6} {r["path"]:8}{r["mpps"]:7.2f}{r["device"]:8.0f}' +
              (f'{r["mover"]:8.0f}{r["mover"] / direct:11.2f}{f"{min(moved):.0f}-{max(moved):.0f}":>11}'
               if r['path'] != 'direct' else ''))


def _print_one_thread(results, instructions):
    print('The same in one thread, in bursts of 32, with a device that calls the library as sim_net does; the guest\'s\n'
          'ring, the path, the device\'s ring where it is another; and instructions of all parties, the driver\'s too.')
    print(f'  {"":22}{"bytes":>6}{"device":>8}{"mover":>8}{"of direct":>11}{"instructions":>14}{"more":>7}')
    for r in results:
        kind = r['what'].split()[0]
        direct = next(d['device'] for d in results if (d['what'], d['size']) == (kind, r['size']))
        line = f'  {r["what"]:22}{r["size"]:6}{r["device"]:8.0f}'
        line += f'{r["mover"]:8.0f}{r["mover"] / direct:11.2f}' if r['mover'] else ' ' * 19
        if instructions and r['size'] == 64:
            line += f'{instructions[r["what"]]:14.0f}'
            line += f'{instructions[r["what"]] - instructions[kind]:7.0f}' if r['mover'] else ''
        print(line.rstrip())
    if not instructions:
        print('  instructions: valgrind is not installed')


def print_shadow(result):
    print(f'{harness.processor()}, {datetime.date.today()}')
    _print_cycles(result['cycles'])
    _print_one_thread(result['one_thread'], result['instructions'])
    print(f'A change of path under traffic, medians of {SWITCHES}, us: split to relays and packed to shadows.')
    print(f'  {"ring":8}{"":14}{"call":>8}{"longest gap":>13}{"of all":>9}')
    for r in result['switches']:
        for what, name in (('none', 'no change'), ('on', 'log begins'), ('off', 'log ends')):
            print(f'  {r["layout"]:8}{name:14}{r[what]["call"]:8.0f}{r[what]["gap"]:13.0f}{r[what]["longest"]:9.0f}')
    print('The device\'s share of downtime, ms: GET_VRING_BASE of all queues, and the start on another daemon.')
    print(f'  {"source":8}{"pairs":>6}{"GiB":>5}{"stop":>8}{"start":>8}{"both":>8}')
    for r in result['moves']:
        print(f'  {r["path"]:8}{r["pairs"]:6}{r["gib"]:5}{r["stop"]:8.1f}{r["start"]:8.1f}{r["stop"] + r["start"]:8.1f}')
    print(f'  {"path":8}{"threads":>8}{f"wake-ups in {IDLE_S:.0f} s idle":>24}{"a frame":>9}')
    for r in result['threads']:
        print(f'  {r["path"]:8}{r["threads"]:8}{r["idle"]:24}{r["frame"]:9.1f}')
