#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""What a vendor's driver may cost, and where vendors may be named: check_drivers.py [--count] SOURCE_ROOT

Fails where a driver has more code lines than its limit (lines that hold code: neither blank nor
comment alone), where lib/vdpa/virtio names a vendor, and where a PCI vendor id stands outside of
drivers/. vdpa-model, the test kit and the front end vfio-user play functions, so they have ids too.
--count prints the numbers. First it checks itself, on made-up files.
"""

import os
import re
import sys
import tempfile

LIMITS = {'ifcvf': 350, 'octep': 500, 'virtio': 700}
NAMES = re.compile(r'intel|ifcvf|marvell|octeon|octep|cavium|red ?hat|qumranet|nvidia|mellanox|pensando|alibaba', re.I)
# Virtio's own vendor id among them, but for the decimal or hexadecimal numbers that they are part of.
IDS = re.compile(r'\b0x(1af4|8086|177d|15b3|1dd8|1ded|1ae0)\b', re.I)
# What plays functions has ids of its own.
PLAYED = ('app/vdpa-model/', 'app/testkit/', 'lib/vdpa/frontend/vfio_user_config.c')
STRING = re.compile(r'"(?:\\.|[^"\\])*"')


def code_lines(text):
    """Lines of C that hold more than comment or blank."""
    text = STRING.sub('""', text)
    text = re.sub(r'/\*.*?\*/', lambda m: '\n' * m.group().count('\n'), text, flags=re.S)
    text = re.sub(r'//[^\n]*', '', text)
    return sum(1 for line in text.splitlines() if line.strip())


def sources(top):
    for where, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            if name.endswith(('.c', '.h')):
                path = os.path.join(where, name)
                with open(path, encoding='utf-8') as file:
                    yield path, file.read()


def count(root, driver):
    return sum(code_lines(text) for _, text in sources(os.path.join(root, 'drivers/vdpa', driver)))


def check(root):
    errors = []
    for driver, limit in LIMITS.items():
        lines = count(root, driver)
        if lines == 0:
            errors.append(f'drivers/vdpa/{driver} has no code')
        elif lines > limit:
            errors.append(f'drivers/vdpa/{driver} has {lines} code lines, more than {limit}: what others '
                          'need too belongs in lib/vdpa/virtio')
    for folder in ('lib', 'examples', 'app'):
        for path, text in sources(os.path.join(root, folder)):
            name = os.path.relpath(path, root)
            if name.startswith('lib/vdpa/virtio/') and (found := NAMES.search(text)):
                errors.append(f'{name} names a vendor: {found.group()}')
            if not name.startswith(PLAYED) and (found := IDS.search(text)):
                errors.append(f'{name} has a vendor id: {found.group()}')
    return errors


def check_itself():
    assert code_lines('/* a\n b */\nint x; /* c */\n\n// d\n"/*";\n}\n') == 3
    with tempfile.TemporaryDirectory() as root:
        for name, text in (('drivers/vdpa/ifcvf/a.c', 'x;\n' * 351), ('drivers/vdpa/octep/a.c', 'x;\n/* y */\n'),
                           ('drivers/vdpa/virtio/a.c', 'ID 0x1af4;\n'), ('lib/vdpa/virtio/a.c', '/* Intel */\n'),
                           ('lib/vdpa/pci/a.c', 'if (vendor == 0x8086)\n'), ('app/vdpa-model/a.c', '0x177d\n'),
                           ('examples/a.c', 'x\n')):
            path = os.path.join(root, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'w', encoding='utf-8') as file:
                file.write(text)
        errors = check(root)
        assert [error.split(':')[0] for error in errors] == [
            'drivers/vdpa/ifcvf has 351 code lines, more than 350', 'lib/vdpa/pci/a.c has a vendor id',
            'lib/vdpa/virtio/a.c names a vendor'], errors


def main():
    check_itself()
    root = sys.argv[-1]
    if '--count' in sys.argv:
        for driver, limit in LIMITS.items():
            print(f'drivers/vdpa/{driver}: {count(root, driver)} code lines, at most {limit}')
        lines = sum(code_lines(text) for _, text in sources(os.path.join(root, 'lib/vdpa/virtio')))
        print(f'lib/vdpa/virtio: {lines} code lines')
    errors = check(root)
    for error in errors:
        print(error, file=sys.stderr)
    return 1 if errors else 0


if __name__ == '__main__':
    sys.exit(main())
