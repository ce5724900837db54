#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""The statistics' names: check_stats.py SOURCE_ROOT

Fails, naming the statistic, where a row of lib/vdpa/api/vdpa_stats.h is not in doc/statistics.md with the same kind,
unit and Prometheus' name, or the page has one that there is not; and where a name of Prometheus' breaks the
conventions of that project: counters end in _total, others do not, and base units are spelled out. First it
checks itself, on made-up rows.
"""

import os
import re
import sys

UNITS = {'microseconds': 'µs'}  # as the page writes them


def rows_of_header(text):
    """(name, kind, unit, Prometheus' name) of each X()."""
    text = re.sub(r'\\\n', ' ', text)
    names = dict(re.findall(r'^#define (VDPA_[QD]STAT_\w+)\s+"(\w+)"$', text, re.M))
    found = re.findall(r'\bX\((\w+), (\w+), (COUNTER|GAUGE),\s+"(\w+)",\s+"(\w+)",\s+(\d+),\s+"[^"]+\."\)', text)
    return [(names[macro], kind.lower(), unit, metric) for _, macro, kind, unit, metric, _ in found]


def rows_of_page(text):
    """The same of each row of a table whose second column is a kind and a unit."""
    for line in text.split('\n'):
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        kind = re.match(r'(counter|gauge), (.+)$', cells[1]) if len(cells) == 5 else None
        if kind:
            yield (cells[0].strip('`'), kind.group(1), kind.group(2), re.match(r'`(\w+)`', cells[4]).group(1))


def check(header, page):
    errors = []
    for row in header:
        name, kind, unit, metric = row
        if list(page).count((name, kind, UNITS.get(unit, unit), metric)) != 1:
            errors.append(f'{row} is not in the page as it is in the header')
        if metric.endswith('_total') != (kind == 'counter'):
            errors.append(f'{metric}: a {kind}')
        if not re.fullmatch(r'uvdpa_(queue|device)_[a-z]+(_[a-z]+)*', metric):
            errors.append(f'{metric}: no name of a metric')
    named = {name for name, *_ in header}
    errors += [f'{name} is in the page, and no statistic' for name, *_ in page if name not in named]
    for values in zip(*[(name, metric) for name, _, _, metric in header]):
        errors += [f'{value} is there more than once' for value in set(values) if values.count(value) > 1]
    return errors


def check_itself():
    header = rows_of_header('#define VDPA_QSTAT_A "a"\n#define VDPA_DSTAT_B\t"b"\n#define ALL(X) \\\n'
                            '\tX(A, VDPA_QSTAT_A, COUNTER, "as", "uvdpa_queue_as_total", 1, \\\n\t  "As.") \\\n'
                            '\tX(B, VDPA_DSTAT_B, GAUGE, "microseconds", "uvdpa_device_b", 1, "B.")\n')
    assert header == [('a', 'counter', 'as', 'uvdpa_queue_as_total'),
                      ('b', 'gauge', 'microseconds', 'uvdpa_device_b')], header
    page = list(rows_of_page('| `a` | counter, as | x | never | `uvdpa_queue_as_total` |\n'
                             '| `b` | gauge, µs | x | never | `uvdpa_device_b` (y) |\n| `c` | text | x | | |'))
    assert not check(header, page), check(header, page)
    assert check(header, page[:1]) and check(header[:1], page)
    assert check([('a', 'gauge', 'as', 'uvdpa_queue_as_total')], [('a', 'gauge', 'as', 'uvdpa_queue_as_total')])


def main():
    def read(*path):
        with open(os.path.join(sys.argv[1], *path), encoding='utf-8') as f:
            return f.read()

    check_itself()
    header = rows_of_header(read('lib', 'vdpa', 'api', 'vdpa_stats.h'))
    errors = check(header, list(rows_of_page(read('doc', 'statistics.md'))))
    if len(header) < 19:
        errors.append(f'only {len(header)} statistics are found in the header')
    for error in errors:
        print(error)
    sys.exit(bool(errors))


if __name__ == '__main__':
    main()
