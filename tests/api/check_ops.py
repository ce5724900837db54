#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""The guide's table of ops: check_ops.py SOURCE_ROOT

Fails, naming the op, where an op of struct vdpa_config_ops is in no row or in several of the table of
doc/driver-guide.md, where the table has one that there is not, and where the two do not agree which are
mandatory. First it checks itself, on a made-up table.
"""

import os
import re
import sys

HEADING = '## Which ops there must be'


def ops_of(header):
    body = re.search(r'^struct vdpa_config_ops \{$(.*?)^\};$', header, re.M | re.S).group(1)
    return re.findall(r'\(\*(\w+)\)\(', body)


def mandatory_of(source):
    return set(re.findall(r'^\tMANDATORY\((\w+)\);$', source, re.M))


def rows_of(guide):
    """(ops, what there must be) of each row of the table under the heading."""
    table = guide[guide.index(HEADING):].split('| op |', 1)[1].split('\n\n', 1)[0]
    for line in table.split('\n')[2:]:
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        yield re.findall(r'`(\w+)`', cells[0]), cells[1]


def check(ops, mandatory, rows):
    errors = []
    rows = list(rows)
    named = [op for row, _ in rows for op in row]
    for op in ops:
        if named.count(op) != 1:
            errors.append(f'{op} is in {named.count(op)} rows of the table, not in one')
    for row, must in rows:
        for op in row:
            if op not in ops:
                errors.append(f'{op} is in the table, and no op')
            elif (op in mandatory) != (must == 'mandatory'):
                errors.append(f"{op} is {'' if op in mandatory else 'not '}mandatory, the table says '{must}'")
    return errors


def check_itself():
    rows = rows_of(HEADING + '\n\n| op | must | else |\n| --- | --- | --- |\n| `a`, `b` | mandatory | |\n'
                   '| `c`, `d` | optional | x |\n| `c` | optional | |\n\ntext `e`')
    assert check(['a', 'b', 'c', 'e'], {'a'}, rows) == [
        'c is in 2 rows of the table, not in one', 'e is in 0 rows of the table, not in one',
        "b is not mandatory, the table says 'mandatory'", 'd is in the table, and no op']


def main():
    def read(*path):
        with open(os.path.join(sys.argv[1], *path), encoding='utf-8') as file:
            return file.read()

    check_itself()
    ops = ops_of(read('lib', 'vdpa', 'device', 'vdpa_driver.h'))
    mandatory = mandatory_of(read('lib', 'vdpa', 'device', 'device.c'))
    assert mandatory and mandatory <= set(ops), mandatory - set(ops)
    errors = check(ops, mandatory, rows_of(read('doc', 'driver-guide.md')))
    for error in errors:
        print(error)
    print(f'{len(ops)} ops, {len(mandatory)} of them mandatory, {len(errors)} errors')
    return 1 if errors else 0


if __name__ == '__main__':
    sys.exit(main())
