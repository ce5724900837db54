# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""What one device more costs, and one front end more: a measurement for scripts/bench.

Simulated net devices of one vdpa-app, each with a front end that has started it.
"""

import contextlib
import os
import resource
import statistics
import time

import harness
import vhost_user_client as vhu

CONNECTED = (0, 100, 500, 1000)
MANY = 2000
TRIES = 20
WORDS = 'name {name} mgmtdev sim_net backend loopback socket {path}'


def _ms(fn):
    start = time.monotonic()
    value = fn()
    return value, 1000 * (time.monotonic() - start)


def _next_device(daemon):
    """One device more, and its first front end: milliseconds of each step."""
    path = daemon.socket('next')
    _, add = _ms(lambda: daemon.add(WORDS.format(name="next", path=path)))
    client, connect = _ms(lambda: _answered(path))
    client.close()
    with contextlib.closing(vhu.NetDriver(path)) as net:
        _, start = _ms(net.start)
        net.exchange()
    daemon.delete('next')
    return {'add': add, 'connect': connect, 'start': start}


def _answered(path):
    client = vhu.Client(path)
    client.ask_u64(vhu.GET_FEATURES)
    return client


def _connected(options, count):
    words = [f'name n{i} mgmtdev sim_net backend loopback socket {{dir}}/n{i}.sock' for i in range(count)]
    with harness.Daemon(words or ['name n mgmtdev sim_net socket {dir}/n.sock'],
                        app=options.app) as daemon, contextlib.ExitStack() as stack:
        for i in range(count):
            stack.enter_context(contextlib.closing(vhu.NetDriver(daemon.socket(f'n{i}')))).start()
        tries = [_next_device(daemon) for _ in range(TRIES)]
        return {'connected': count, 'threads': len(harness.threads(daemon.pid)),
                **{step: statistics.median(t[step] for t in tries) for step in tries[0]}}


def _many(options):
    """Bring-up and tear-down of MANY devices, what each holds, and the wake-ups when idle."""
    with harness.Daemon(['name n mgmtdev sim_net socket {dir}/n.sock'], app=options.app) as daemon:
        few = len(os.listdir(f'/proc/{daemon.pid}/fd')), harness.rss_kib(daemon.pid)
        threads = harness.threads(daemon.pid)

        def add():
            with daemon.control() as client:
                for i in range(MANY):
                    words = WORDS.format(name=f'm{i}', path=daemon.socket(f'm{i}'))
                    client.add(words)

        def delete():
            with daemon.control() as client:
                for i in range(MANY):
                    client.delete(f'm{i}')

        _, up = _ms(add)
        fds = len(os.listdir(f'/proc/{daemon.pid}/fd')) - few[0]
        rss = harness.rss_kib(daemon.pid) - few[1]
        same = harness.threads(daemon.pid) == threads
        before = harness.context_switches(daemon.pid)
        time.sleep(5)
        after = harness.context_switches(daemon.pid)
        _, down = _ms(delete)
        return {'devices': MANY, 'up_ms': up / MANY, 'down_ms': down / MANY, 'fds': fds / MANY,
                'rss_kib': rss / MANY, 'same_threads': same,
                'wakeups': {n: c - before.get(n, 0) for n, c in after.items() if c != before.get(n, 0)}}


def scale(options):
    """Milliseconds of the next device by number of front ends, and what 2,000 devices are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return {'next': [_connected(options, count) for count in CONNECTED], 'many': _many(options)}


def print_scale(result):
    print(f'One device more in a process, medians of {TRIES}:')
    print(f'  {"front ends":>12}{"dev add ms":>12}{"connect ms":>12}{"start ms":>10}{"threads":>9}')
    for r in result['next']:
        print(f'  {r["connected"]:12}{r["add"]:12.2f}{r["connect"]:12.2f}{r["start"]:10.2f}{r["threads"]:9}')
    many = result['many']
    print(f'{many["devices"]} devices without a front end: {many["up_ms"]:.2f} ms to add and '
          f'{many["down_ms"]:.2f} ms to delete each, {many["fds"]:.1f} descriptors and '
          f'{many["rss_kib"]:.1f} KiB a device,\n'
          f'  {"the same threads as with one" if many["same_threads"] else "MORE THREADS"}; '
          f'context switches in 5 s idle, by thread: {many["wakeups"] or "none"}')
