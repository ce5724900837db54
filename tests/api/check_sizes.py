#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""The size of test files: check_sizes.py SOURCE_ROOT

Fails, naming the file, where a file of tests/, app/test-vdpa/ or app/testkit/ has more than 800 lines: it is
about several subjects then, and each of them wants a file. First it checks itself, on made-up files.
"""

import os
import sys
import tempfile

LIMIT = 800
FOLDERS = ('tests', 'app/test-vdpa', 'app/testkit')


def files(root):
    """Paths of all files; what an interpreter or an editor leaves is no test."""
    for folder in FOLDERS:
        top = os.path.join(root, folder)
        assert os.path.isdir(top), f'{top} is not there'
        for where, folders, names in os.walk(top):
            folders[:] = [name for name in folders if name != '__pycache__']
            for name in names:
                if not name.startswith('.') and not name.endswith(('~', '.orig', '.rej')):
                    yield os.path.join(where, name)


def check(root):
    """Errors, and the number of files looked at."""
    errors = []
    count = 0
    for path in sorted(files(root)):
        count += 1
        with open(path, 'rb') as file:
            lines = sum(1 for _ in file)
        if lines > LIMIT:
            errors.append(f'{os.path.relpath(path, root)} has {lines} lines; '
                          f'a test file has {LIMIT} at most: split it by subject')
    return errors, count


def check_itself():
    with tempfile.TemporaryDirectory() as root:
        for name, lines in (('tests/unit/test_short.c', LIMIT), ('tests/vm/lab_long.py', LIMIT + 1),
                            ('app/test-vdpa/cases_long.c', LIMIT + 2), ('app/testkit/fake.c', LIMIT),
                            ('lib/no_test.c', LIMIT * 2),
                            ('tests/vm/__pycache__/lab_long.pyc', LIMIT * 2)):
            path = os.path.join(root, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'w', encoding='utf-8') as file:
                file.write('x\n' * lines)
        errors, count = check(root)
        assert count == 4, count
        assert [error.split(' lines')[0] for error in errors] == [
            f'app/test-vdpa/cases_long.c has {LIMIT + 2}', f'tests/vm/lab_long.py has {LIMIT + 1}'], errors


def main():
    check_itself()
    errors, count = check(sys.argv[1])
    for error in errors:
        print(error)
    print(f'{count} files, {len(errors)} of them too long')
    return 1 if errors else 0


if __name__ == '__main__':
    sys.exit(main())
