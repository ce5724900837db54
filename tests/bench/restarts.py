# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""How long a daemon with --keep is away when it is killed: a measurement for scripts/bench.

Simulated net devices of one vdpa-app, each with a front end that has started it and asks something
at the moment of the kill. The next daemon begins at once; what it needs without any device is
measured beside it, in turn.
"""

import contextlib
import os
import select
import statistics
import time

import harness
import restarting
import vhost_user_client as vhu

DEVICES = (1, 10, 100)
WORDS = 'mgmtdev sim_net backend loopback'


def _ms(since):
    return 1000 * (time.monotonic() - since)


def _alone(options):
    """From the start of a daemon to its readiness, with a device that nobody uses."""
    with harness.Daemon(['name n mgmtdev sim_net socket {dir}/n.sock'], app=options.app) as daemon:
        daemon.kill()
        start = time.monotonic()
        daemon.start()
        return _ms(start)


def _away(host, nets):
    """A kill: milliseconds until the next daemon has taken over, until the first and the last
    answer, and until a frame of each device has come back."""
    waiting = {net.client.sock: net for net in nets}
    host.app.kill()
    start = time.monotonic()
    for net in nets:
        net.client.send(vhu.GET_FEATURES)
    host.next(taken=len(nets))
    took_over, answers = _ms(start), []
    while waiting:
        for sock in select.select(list(waiting), [], [], harness.TIMEOUT)[0]:
            waiting.pop(sock).client.recv()
            answers.append(_ms(start))
    for net in nets:
        net.exchange()
    return {'taken': took_over, 'first': answers[0], 'last': answers[-1], 'frames': _ms(start)}


def restarts(options):
    """Milliseconds by number of devices."""
    results = []
    restarting.KEEPER = os.path.join(options.build, 'app/vdpa-keeper/vdpa-keeper')
    for count in DEVICES:
        with restarting.Host({f'n{i}': WORDS for i in range(count)}) as host, contextlib.ExitStack() as stack:
            nets = [stack.enter_context(contextlib.closing(vhu.NetDriver(
                host.app.socket(f'n{i}'), client=restarting.patient(host.app.socket(f'n{i}')))))
                for i in range(count)]
            for net in nets:
                net.start()
                net.exchange()
            runs = [{'alone': _alone(options), **_away(host, nets)} for _ in range(options.runs)]
        results.append({'devices': count, 'runs': runs,
                        **{step: statistics.median(run[step] for run in runs) for step in runs[0]}})
    return results


def print_restarts(results):
    print('A daemon that is killed, and the next one: milliseconds from the kill, medians')
    print(f'  {"devices":>8}{"no devices":>12}{"taken over":>12}{"first answer":>14}{"last answer":>13}{"all frames":>12}'
          f'{"beyond a start":>16}')
    for r in results:
        print(f'  {r["devices"]:8}{r["alone"]:12.0f}{r["taken"]:12.0f}{r["first"]:14.0f}{r["last"]:13.0f}'
              f'{r["frames"]:12.0f}{r["last"] - r["alone"]:16.0f}')
