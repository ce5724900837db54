# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""What a request to the control socket costs, by the number of devices: a measurement for scripts/bench."""

import os
import resource
import statistics
import tempfile
import time

import harness

DEVICES = (1, 100, 1000)
TRIES = 50
TMPFS = '/dev/shm' if os.path.ismount('/dev/shm') else None
WORDS = 'name {name} mgmtdev sim_net socket {path}'


def _us(daemon, fn):
    """Microseconds that it takes, and of them the daemon's on a CPU, whatever else the machine does."""
    clock = ~daemon.pid << 3 | 2  # clock_getcpuclockid(3): all threads of a process
    start, cpu = time.monotonic(), time.clock_gettime(clock)
    fn()
    return 1e6 * (time.clock_gettime(clock) - cpu), 1e6 * (time.monotonic() - start)


def _at(daemon, client, count):
    """Microseconds of each request with so many devices, and for one of them where it is about all."""
    last, path = f'n{count - 1}', daemon.socket('next')
    steps = {
        'version': lambda: client.call('version'),
        'dev.show one': lambda: client.call('dev.show', name=last),
        'dev.stats one': lambda: client.call('dev.stats', name=last),
        'dev.add': lambda: client.add(WORDS.format(name='next', path=path)),
        'dev.set': lambda: client.set('next', 'link down'),
        'dev.del': lambda: client.delete('next'),
        'dev.list all': lambda: client.call('dev.list'),
        'dev.show all': lambda: client.call('dev.show'),
    }
    took = {name: [] for name in steps}
    # What is about all devices leaves nothing of the others in the caches: it comes by itself.
    for names in [name for name in steps if not name.endswith('all')], ['dev.list all'], ['dev.show all']:
        for _ in range(TRIES):
            for name in names:
                took[name].append(_us(daemon, steps[name]))
    median = {name: [statistics.median(us) for us in zip(*both)] for name, both in took.items()}
    for name in 'dev.list all', 'dev.show all':
        median[f'{name}, a device'] = [us / count for us in median[name]]
    return {'devices': count, **median}


def control(options):
    """Microseconds of requests with 1, 100 and 1,000 devices."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows, there = [], 0
    # Sockets are where a service has them, below /run: ext4 looks for an inode that was not freed in
    # the last seconds, longer with each socket that was.
    with tempfile.TemporaryDirectory(prefix='uvdpa-bench.', dir=TMPFS) as folder, \
            harness.Daemon([], app=options.app, folder=folder) as daemon, daemon.control() as client:
        for count in DEVICES:
            for i in range(there, count):
                client.add(WORDS.format(name=f'n{i}', path=daemon.socket(f'n{i}')))
            there = count
            rows.append(_at(daemon, client, count))
    return {'rows': rows, 'cpus': os.cpu_count()}


def print_control(result):
    rows = result['rows']
    print(f'{harness.processor()}')
    print(f'Requests to the control socket: us of a CPU in the daemon, and in all for a client in Python,'
          f' medians of {TRIES}:')
    print(f'  {"devices":<24}' + ''.join(f'{row["devices"]:10}{"":9}' for row in rows))
    for name in rows[0]:
        if name != 'devices':
            print(f'  {name:<24}' + ''.join(f'{row[name][0]:10.1f}{row[name][1]:9.0f}' for row in rows))
