# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""sim_blk on a file beside qemu-storage-daemon's vhost-user-blk export on another: measurements for
scripts/bench.

Both use io_uring, offer FLUSH and have the device's CPU; test-vdpa as the driver has the peer's.
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time

import harness

IMAGE_SIZE = 128 << 20
DEPTH = 32
RATES = (0, 100, 1000, 10000, 50000)
# What a run's beginning and end cost is left out of its processor time.
MARGIN_S = 0.2

UVDPA, NO_POLLING, QEMU = 'uvdpa', 'uvdpa --poll-us 0', 'qemu-storage-daemon'


def _image(path):
    with open(path, 'wb') as f:
        for _ in range(IMAGE_SIZE >> 20):
            f.write(os.urandom(1 << 20))
        f.flush()
        os.fsync(f.fileno())


def _read_into_cache(path):
    with open(path, 'rb') as f:
        while f.read(1 << 20):
            pass


def _uvdpa(stack, options, image, direct, queues, args=()):
    """pid and socket of a vdpa-app with a disk."""
    words = f'name b0 mgmtdev sim_blk backend file {image} queues {queues} socket {{dir}}/b0.sock'
    app = stack.enter_context(harness.Daemon(
        [words + (' direct' if direct else '')], args=list(args), app=options.app,
        launcher=['taskset', '-c', str(options.device_cpu)]))
    return app.pid, app.socket('b0')


def _qemu(stack, options, image, direct, queues):
    """The same of qemu-storage-daemon."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix='uvdpa-bench.'))
    path = os.path.join(folder, 'b0.sock')
    process = subprocess.Popen(
        ['taskset', '-c', str(options.device_cpu), 'qemu-storage-daemon', '--blockdev',
         f'driver=file,node-name=d,filename={image},aio=io_uring,'
         f'cache.direct={"on" if direct else "off"}', '--export',
         f'type=vhost-user-blk,id=e,node-name=d,writable=on,num-queues={queues},'
         f'addr.type=unix,addr.path={path}'], stdin=subprocess.DEVNULL)
    stack.callback(lambda: (process.terminate(), process.wait()))
    harness.wait_for(lambda: os.path.exists(path), path)
    return process.pid, path


@contextlib.contextmanager
def _images(options, n):
    """One image for each side, which locks it."""
    with tempfile.TemporaryDirectory(prefix='uvdpa-bench.', dir=options.folder) as folder:
        images = [os.path.join(folder, f'{i}.img') for i in range(n)]
        for image in images:
            _image(image)
        yield images


def _sides(stack, options, images, direct, queues):
    sides = {UVDPA: _uvdpa(stack, options, images[0], direct, queues)}
    if shutil.which('qemu-storage-daemon'):
        sides[QEMU] = _qemu(stack, options, images[1], direct, queues)
    return sides


def _processor_seconds(pid):
    """Of all threads of a process, of those that have ended too, in nanosecond steps."""
    return time.clock_gettime(~pid << 3 | 2)


def _run(options, side, *args):
    """One run of test-vdpa: its results, and the device's share of a CPU meanwhile."""
    pid, path = side
    driver = subprocess.Popen(
        ['taskset', '-c', str(options.peer_cpu), options.test_vdpa, 'bench', '--socket', path,
         '--type', 'block', '--duration', str(options.seconds), '--depth', str(DEPTH),
         '--json', '-', *args], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    # What it is about to measure.
    while not driver.stderr.readline().startswith('#'):
        if driver.poll() is not None:
            raise RuntimeError(f'test-vdpa bench {args}: exit code {driver.returncode}')
    time.sleep(MARGIN_S)
    cpu, start = _processor_seconds(pid), time.monotonic()
    time.sleep(max(options.seconds - 2 * MARGIN_S, 0.1))
    share = (_processor_seconds(pid) - cpu) / (time.monotonic() - start)
    out, errors = driver.communicate()
    if driver.returncode != 0:
        raise RuntimeError(f'test-vdpa bench {args}: {errors}')
    return json.loads(out), share


def block(options):
    """kIOPS and microseconds of processor time a request, by mode and side, in turn."""
    results = []
    with _images(options, 2) as images:
        for direct in False, True:
            for write in False, True:
                for queues in 1, 4:
                    with contextlib.ExitStack() as stack:
                        sides = _sides(stack, options, images, direct, queues)
                        results.append(_block_mode(options, sides, images, direct, write, queues))
    return results


def _block_mode(options, sides, images, direct, write, queues):
    runs = {side: [] for side in sides}
    if not direct:
        for image in images:
            _read_into_cache(image)
    args = ['--measure', 'throughput', '--queues', str(queues)]
    args += ['--write', '--overwrite'] if write else []
    for _ in range(options.runs):
        for side in sides:
            result, share = _run(options, sides[side], *args)
            kiops = result['writes' if write else 'reads']['value']
            runs[side].append({'kiops': kiops, 'us': share * 1000 / kiops})
    return {'direct': direct, 'write': write, 'queues': queues, 'runs': runs,
            **{side: {what: statistics.median(r[what] for r in runs[side]) for what in ('kiops', 'us')}
               for side in runs}}


def print_block(results):
    print('Requests of 4 KiB, 32 under way a queue, one CPU for the device: kIOPS, and microseconds of\n'
          'processor time a request; in brackets the least and the most kIOPS of the runs:')
    print(f'  {"":16}{"queues":>7}{UVDPA:>27}{QEMU:>27}{"ratio":>7}')
    for r in results:
        name = f'{"O_DIRECT" if r["direct"] else "cached"} {"writes" if r["write"] else "reads"}'
        row = f'  {name:16}{r["queues"]:7}'
        for side in r['runs']:
            kiops = [run['kiops'] for run in r['runs'][side]]
            spread = f'({min(kiops):.0f}-{max(kiops):.0f})'
            row += f'{r[side]["kiops"]:9.1f}{spread:>11}{r[side]["us"]:7.2f}'
        if QEMU in r:
            row += f'{r[UVDPA]["kiops"] / r[QEMU]["kiops"]:7.2f}'
        print(row)


def idle(options):
    """Share of a CPU and latency, by rate and side, in turn."""
    with _images(options, 3) as images, contextlib.ExitStack() as stack:
        sides = _sides(stack, options, images, False, 1)
        sides[NO_POLLING] = _uvdpa(stack, options, images[2], False, 1, ['--poll-us', '0'])
        for image in images:
            _read_into_cache(image)
        runs = {rate: {side: [] for side in sides} for rate in RATES}
        for _ in range(options.runs):
            for rate in RATES:
                for side in sides:
                    result, share = _run(options, sides[side], '--rate', str(rate))
                    runs[rate][side].append({'cpu': share * 100,
                                             'us': result.get('took', {}).get('p50')})
    return [{'rate': rate, 'runs': by_side,
             **{side: {'cpu': statistics.median(r['cpu'] for r in by_side[side]),
                       'us': statistics.median(r['us'] for r in by_side[side]) if rate else None}
                for side in by_side}} for rate, by_side in runs.items()]


def print_idle(results):
    sides = list(results[0]['runs'])
    print('Cached reads of 4 KiB at a rate: per cent of a CPU, and microseconds until one was seen done:')
    print(f'  {"a second":>9}' + ''.join(f'{side:>24}' for side in sides))
    for r in results:
        row = f'  {r["rate"]:9}'
        for side in sides:
            us = '' if r[side]['us'] is None else f'{r[side]["us"]:.1f} us'
            row += f'{r[side]["cpu"]:12.1f} %{us:>10}'
        print(row)
