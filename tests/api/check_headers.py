#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""The public interface as a user meets it: check_headers.py LIBRARY HEADER...

Copies the installed headers to one folder, as an installation has them, and checks that
- each compiles by itself, in C11 and in C++17, without the library's own include paths and defines;
- the shared library exports what they declare and nothing else.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

COMPILERS = (
    ('c', shlex.split(os.environ.get('CC', 'cc')) + ['-x', 'c', '-std=c11']),
    ('c++', shlex.split(os.environ.get('CXX', 'c++')) + ['-x', 'c++', '-std=c++17']),
)
WARNINGS = ['-Wall', '-Wextra', '-Werror', '-fsyntax-only']


def dpdk_cflags():
    """DPDK's headers as system headers: their warnings are not ours."""
    flags = subprocess.run(['pkg-config', '--cflags', 'libdpdk'], check=True, text=True,
                           stdout=subprocess.PIPE).stdout
    return shlex.split(re.sub(r'(^|\s)-I\s*', r'\1-isystem ', flags))


def declared(text):
    """Functions and variables that a header declares for the linker."""
    text = re.sub(r'/\*.*?\*/', ' ', text, flags=re.S)
    text = re.sub(r'^[ \t]*#(\\\n|.)*$', ' ', text, flags=re.M)
    text = text.replace('extern "C" {', '')
    # What stands in braces declares nothing; a closing one ends an inline function.
    outer, depth = '', 0
    for char in text:
        if char == '{':
            depth += 1
        elif char == '}':
            depth -= 1
            outer += ' @' if depth == 0 else ''
        elif depth <= 0:
            outer += char
    names = set()
    for statement in re.split(r'[;@]', outer):
        statement = ' '.join(statement.split())
        if re.match(r'(static|typedef)\b', statement):
            continue
        match = re.search(r'(\w+) ?\(', statement) or re.match(r'extern .*?(\w+)$', statement)
        if match:
            names.add(match.group(1))
    return names


def exported(library):
    listing = subprocess.run(['nm', '-D', '--defined-only', library], check=True, text=True,
                             stdout=subprocess.PIPE).stdout
    symbols = [line.split() for line in listing.splitlines()]
    # 'A' is the version node itself.
    return {symbol[2].split('@')[0] for symbol in symbols if symbol[1] != 'A'}


def main():
    library, headers = sys.argv[1], sys.argv[2:]
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        for header in headers:
            shutil.copy(header, folder)
        for header in map(os.path.basename, headers):
            for language, command in COMPILERS:
                source = os.path.join(folder, 'use.' + language)
                with open(source, 'w', encoding='ascii') as out:
                    out.write(f'#include <{header}>\nint main(void) {{ return 0; }}\n')
                run = subprocess.run(command + WARNINGS + dpdk_cflags() + ['-I', folder, source],
                                     text=True, stderr=subprocess.PIPE, check=False)
                if run.returncode != 0:
                    failures.append(f'{header} does not compile by itself in {language}:\n'
                                    + run.stderr)
    names = set()
    for header in headers:
        with open(header, encoding='utf-8') as text:
            names |= declared(text.read())
    symbols = exported(library)
    failures += [f'{name}: declared, not exported' for name in sorted(names - symbols)]
    failures += [f'{name}: exported, in no installed header' for name in sorted(symbols - names)]
    if failures:
        sys.exit('\n'.join(failures))
    print(f'{len(headers)} headers, {len(names)} symbols')


if __name__ == '__main__':
    main()
