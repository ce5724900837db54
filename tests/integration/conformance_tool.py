# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Runs test-vdpa and reads what it says."""

import json
import os
import re
import subprocess
import tempfile
import time

TOOL = os.environ.get('UVDPA_TEST_VDPA', 'test-vdpa')
# Longer than any case of a working device takes, shorter than a test may.
TIMEOUT = 110.0


class Outcome:
    """One run: process id, exit code, cases by name as (result, reason), JSON, times."""

    def __init__(self, command, launcher=()):
        start = time.monotonic()
        with tempfile.TemporaryFile() as err:
            with subprocess.Popen([*launcher, TOOL, *command], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=err) as process:
                try:
                    out, _ = process.communicate(timeout=TIMEOUT)
                except BaseException:
                    process.kill()
                    raise
            err.seek(0)
            self.err = err.read().decode(errors='replace')
        self.seconds = time.monotonic() - start
        self.pid = process.pid
        self.code = process.returncode
        self.out = out.decode(errors='replace')
        assert not re.search('Sanitizer|runtime error', self.err), self.err
        self.cases = {}
        for line in self.out.splitlines():
            match = re.match(r'(not ok|ok) (\d+) - (\S+)(?: # (SKIP )?(.*))?$', line)
            if match:
                result = 'skip' if match[4] else 'pass' if match[1] == 'ok' else 'fail'
                assert int(match[2]) == len(self.cases) + 1, line
                assert match[3] not in self.cases, line
                self.cases[match[3]] = (result, match[5] or '')

    def named(self, result):
        return {name: reason for name, (was, reason) in self.cases.items() if was == result}

    def text(self):
        return f'exit code {self.code}\n{self.out}\n{self.err}'

    def json(self):
        return json.loads(self.out)


def conformance(device, *options, launcher=(), eal=()):
    """device: {'dev': WORDS} or {'socket': PATH}. Time-outs are four times as long as test-vdpa's own, for busy
    machines, unless the options have a scale."""
    (kind, value), = device.items()
    if not any(option.startswith('--timeout-scale') for option in options):
        options = ('--timeout-scale=400', *options)
    tail = ['--', *eal] if eal else []
    return Outcome(['conformance', f'--{kind}', value, *options, *tail], launcher)


def cases(*names):
    return [f'--case={name}' for name in names]
