# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Instructions of a start and a stop of a virtio function: a measurement for scripts/bench.

The function is QEMU's virtio-blk behind the laboratory's IOMMU, its front end has 256 MiB, and the
laboratory's clock counts executed instructions (QEMU's -icount), so that a busy machine changes
nothing. Counted is the CPU time of vdpa-app, the kernel's work for it included.
"""

import json
import os
import statistics
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(os.path.join(ROOT, 'tests', 'vm'))

import lab  # noqa: E402

QUEUES = (2, 16)
ROUNDS = 10
ICOUNT = ['-icount', 'shift=0,sleep=on']
BOOT_TIMEOUT_S = 900


def starts(options):
    why = lab.missing()
    if why is not None:
        sys.exit(f'bench: starts: {why}')
    devices, arguments = list(ICOUNT), []
    with tempfile.TemporaryDirectory(prefix='uvdpa-bench.', dir='/tmp') as folder:
        for i, queues in enumerate(QUEUES):
            slot, image = 0x10 + i, os.path.join(folder, f'{i}.img')
            with open(image, 'wb') as f:
                f.truncate(16 << 20)
            devices += lab.blk(slot, image, f',num-queues={queues}')
            arguments.append(f'{lab.pci(slot)},{queues}')
        build = os.path.realpath(os.environ.get('UVDPA_BUILD', os.path.join(ROOT, 'build')))
        script = f'python3 tests/vm/lab_starts.py {ROUNDS} {" ".join(arguments)}'
        with lab.Lab(folder, 'starts', script, devices, env={
                'UVDPA_BUILD': build, 'UVDPA_LAB_IOMMU': 'intel',
                'UVDPA_APP': os.path.join(build, 'examples/vdpa-app/vdpa-app')}) as machine:
            machine.on_line = lambda line: print(line, file=sys.stderr, flush=True)
            if machine.wait(timeout=BOOT_TIMEOUT_S) != 0:
                sys.exit('bench: starts: the laboratory has failed')
            return json.loads(machine.results['starts'])


def print_starts(results):
    print('thousands of instructions of vdpa-app, 256 MiB, virtio-blk over vfio-pci')
    print(f'{"queues":>6}{"first start":>13}{"later starts":>14}{"stops":>9}'
          f'{"maps, unmaps of":>18}')
    print(f'{"":42}{"the first":>11}{"all":>9}')
    for r in results:
        later, stops = statistics.median(r['starts'][1:]), statistics.median(r['stops'])
        print(f'{r["queues"]:6}{r["starts"][0] / 1000:13.0f}{later / 1000:14.0f}{stops / 1000:9.0f}'
              f'{r["first"]["maps"]:8}{r["first"]["unmaps"]:3}{r["last"]["maps"]:6}'
              f'{r["last"]["unmaps"]:3}')
