# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Instructions of a start and a stop of a virtio function: a measurement for scripts/bench.

The function is QEMU's virtio-blk behind the laboratory's IOMMU, its front end has 256 MiB, and the
laboratory's clock counts executed instructions (QEMU's -icount), so that a busy machine changes
nothing. Counted is the CPU time of vdpa-app, the kernel's work for it included; and beside it, in the
same boot and with the same function, that of a process that has the kernel's vp_vdpa do the same.
"""

import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(os.path.join(ROOT, 'tests', 'vm'))

import harness  # noqa: E402
import lab  # noqa: E402

QUEUES = (2, 16)
ROUNDS = 10
ICOUNT = ['-icount', 'shift=0,sleep=on']
BOOT_TIMEOUT_S = 900


def kernel_modules():
    """The folder of vp_vdpa, fetched and built where needed; "none", with a line, where it cannot be had."""
    fetch = [os.path.join(ROOT, 'scripts', 'fetch-guest')]

    def version(part):
        folder = lab.machine.fetched(part)
        return folder and (folder / 'version').read_text()

    if version('vdpa') != version('lab'):
        if subprocess.run([*fetch, '--refresh', 'vdpa'], stdout=subprocess.DEVNULL).returncode != 0:
            print("bench: starts: without the kernel's vp_vdpa, which could not be had",
                  file=sys.stderr)
            return 'none'
    return str(lab.machine.fetched('vdpa') / 'modules')


def starts(options):
    why = lab.missing()
    if why is not None:
        sys.exit(f'bench: starts: {why}')
    modules = kernel_modules()
    devices, arguments = list(ICOUNT), []
    with tempfile.TemporaryDirectory(prefix='uvdpa-bench.', dir='/tmp') as folder:
        for i, queues in enumerate(QUEUES):
            slot, image = 0x10 + i, os.path.join(folder, f'{i}.img')
            with open(image, 'wb') as f:
                f.truncate(16 << 20)
            devices += lab.blk(slot, image, f',num-queues={queues}')
            arguments.append(f'{lab.pci(slot)},{queues}')
        build = os.path.realpath(os.environ.get('UVDPA_BUILD', os.path.join(ROOT, 'build')))
        script = f'python3 tests/vm/lab_starts.py {ROUNDS} {modules} {" ".join(arguments)}'
        with lab.Lab(folder, 'starts', script, devices, env={
                'UVDPA_BUILD': build, 'UVDPA_LAB_IOMMU': 'intel',
                'UVDPA_APP': os.path.join(build, 'examples/vdpa-app/vdpa-app')}) as machine:
            machine.on_line = lambda line: print(line, file=sys.stderr, flush=True)
            if machine.wait(timeout=BOOT_TIMEOUT_S) != 0:
                sys.exit('bench: starts: the laboratory has failed')
            return json.loads(machine.results['starts'])


def row(r):
    """The figures of a side, thousands of instructions."""
    return [n / 1000 for n in (
        r['starts'][0], r['map'], r['starts'][0] - r['map'], statistics.median(r['starts'][1:]),
        statistics.median(r['stops']), statistics.median(r['start_threads'][1:]),
        statistics.median(r['stop_threads']))]


def print_starts(results):
    print(f'{harness.processor()}, {datetime.date.today()}')
    print('thousands of instructions to start and stop virtio-blk, 256 MiB: vdpa-app over vfio-pci,')
    print("and the kernel's vp_vdpa by vhost-vdpa")
    print(f'{"":17}{"first":>8}{"its":>9}{"beside":>8}{"later":>8}{"":>8}{"kernel threads":>18}')
    print(f'{"queues":10}{"":7}{"start":>8}{"map":>9}{"it":>8}{"starts":>8}{"stops":>8}'
          f'{"starts":>10}{"stops":>8}')
    for r in results:
        ours = row(r['uvdpa'])
        sides = [('vdpa-app', ours)]
        if 'kernel' in r:
            sides.append(('vp_vdpa', row(r['kernel'])))
        for name, (first, maps, rest, later, stop, *threads) in sides:
            print(f'{r["queues"]:6} {name:8}{first:10.0f}{maps:9.0f}{rest:8.0f}{later:8.0f}{stop:8.0f}'
                  f'{threads[0]:10.0f}{threads[1]:8.0f}')
        if 'kernel' in r:
            ratios = [a / b for a, b in zip(ours[:5], sides[1][1])]
            print(f'{"":7}{"ratio":8}{ratios[0]:10.3f}{ratios[1]:9.3f}{ratios[2]:8.3f}{ratios[3]:8.3f}'
                  f'{ratios[4]:8.3f}')
    for r in results:
        first, last = r['uvdpa']['first'], r['uvdpa']['last']
        print(f'vdpa-app with {r["queues"]} queues: {first["maps"]} maps and {first["unmaps"]} unmaps '
              f'after the first start, {last["maps"]} and {last["unmaps"]} after the last')
