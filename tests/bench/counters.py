# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""What counting costs: a measurement for scripts/bench.

Instructions, not times, which a busy machine does not change: bench_counters has a simulated device execute
bursts, and callgrind counts what is executed there and nowhere else; once as the device is, once built without
its statistics.
"""

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

import harness

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = 'tests/bench/bench_counters'
ROUNDS = 200
# What, how its ring is laid out, bytes of a frame or a read.
CASES = [(kind, ring, size) for kind, sizes in (('net', (64, 1518)), ('block', (4096,)))
         for ring in ('split', 'packed') for size in sizes]


def build_without(beside, folder):
    """A build as `beside` is, but that it counts nothing."""
    options = json.loads(subprocess.run(['meson', 'introspect', '--buildoptions', beside], check=True,
                                        stdout=subprocess.PIPE).stdout)
    value = {o['name']: o['value'] for o in options}
    print('bench: counters: building without them', file=sys.stderr, flush=True)
    for command in (['meson', 'setup', folder, ROOT, f'-Dbuildtype={value["buildtype"]}',
                     f'-Db_lto={str(value["b_lto"]).lower()}',
                     f'-Dc_args={" ".join(value["c_args"] + ["-DVDPA_NO_COUNTERS"])}'],
                    ['ninja', '-C', folder, PROGRAM]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def instructions(build, case):
    """Of one packet or read."""
    with tempfile.TemporaryDirectory(prefix='uvdpa-bench.') as folder:
        got = subprocess.run(
            ['valgrind', '--tool=callgrind', '--collect-atstart=no', '--toggle-collect=execute',
             f'--callgrind-out-file={folder}/out', os.path.join(build, PROGRAM),
             *map(str, case), str(ROUNDS)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if got.returncode != 0:
            sys.exit(f'bench: counters: {got.stderr}')
        collected = int(re.search(r'Collected : (\d+)', got.stderr).group(1))
        return collected / int(got.stdout)


def counters(options):
    if shutil.which('valgrind') is None:
        sys.exit('bench: counters: valgrind is not installed')
    with tempfile.TemporaryDirectory(prefix='uvdpa-bench.', dir='/var/tmp') as folder:
        without = options.beside or build_without(options.build, os.path.join(folder, 'build'))
        return [{'case': case, 'with': instructions(options.build, case),
                 'without': instructions(without, case)} for case in CASES]


def print_counters(results):
    print(f'{harness.processor()}, {datetime.date.today()}')
    print('instructions of the device for a packet or read, with its statistics and without')
    print(f'{"":7}{"ring":8}{"bytes":>6}{"with":>10}{"without":>10}{"cost":>8}')
    for r in results:
        kind, ring, size = r['case']
        print(f'{kind:7}{ring:8}{size:6}{r["with"]:10.2f}{r["without"]:10.2f}'
              f'{100 * (r["with"] / r["without"] - 1):7.2f}%')
