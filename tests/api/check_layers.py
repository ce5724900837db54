#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""The rooms of the library: check_layers.py SOURCE_ROOT LIBRARY.a

Fails where a room includes a header or uses a function of a room that lib/vdpa/rooms.txt does not
allow it, where the table, the includes or the calls go in a circle, and where doc/design.md does
not name a room. First it checks itself: on made-up trees with one fault each it must find that one.
"""

import os
import re
import subprocess
import sys
import tempfile

TABLE = 'lib/vdpa/rooms.txt'
DOCUMENT = 'doc/design.md'


def read_table(text):
    """{room: the rooms it may use}, in the order of the table."""
    rooms = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith('#'):
            room, uses = line.split(':')
            rooms[room] = set(uses.split())
    return rooms


def room_folder(root, room):
    return os.path.join(root, 'drivers/vdpa' if room == 'drivers' else f'lib/vdpa/{room}')


def room_files(root, room):
    for folder, _, names in os.walk(room_folder(root, room)):
        for name in sorted(names):
            if name.endswith(('.c', '.h')):
                yield os.path.join(folder, name)


def circle(arrows):
    """One circle of a graph {from: {to}}, as a list; None where there is none."""
    done = set()

    def visit(node, path):
        if node in path:
            return path[path.index(node):] + [node]
        if node in done:
            return None
        for other in sorted(arrows.get(node, ())):
            found = visit(other, path + [node])
            if found:
                return found
        done.add(node)
        return None

    for start in sorted(arrows):
        found = visit(start, [])
        if found:
            return found
    return None


def check_arrows(kind, rooms, uses):
    """Errors of arrows {(from, to): what is used}."""
    errors = [f'{kind}: {a} uses {b}, which {TABLE} does not allow: {what}'
              for (a, b), what in sorted(uses.items()) if b not in rooms[a]]
    arrows = {}
    for a, b in uses:
        arrows.setdefault(a, set()).add(b)
    found = circle(arrows)
    if found:
        errors.append(f'{kind}: a circle: ' + ' -> '.join(found))
    return errors


def includes(root, rooms):
    """Arrows by includes."""
    owner = {}
    for room in rooms:
        for path in room_files(root, room):
            if path.endswith('.h'):
                owner.setdefault(os.path.basename(path), room)
    for name in sorted(os.listdir(os.path.join(root, 'lib/vdpa'))):
        if name.endswith('.h'):
            owner.setdefault(name, 'the folder itself')
    uses = {}
    for room in rooms:
        for path in room_files(root, room):
            with open(path, encoding='utf-8') as file:
                for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', file.read(), flags=re.M):
                    other = owner.get(os.path.basename(name), room)
                    if other != room:
                        uses.setdefault((room, other), f'{os.path.relpath(path, root)}: {name}')
    return uses


def calls(root, listing, rooms):
    """Arrows by functions, of `nm -A` lines; the build names a member after folder and file.

    Data is no call: builtin.c fills lists that management declares.
    """
    owner = {}
    for room in rooms:
        base = os.path.join(root, 'drivers/vdpa' if room == 'drivers' else 'lib/vdpa')
        for path in room_files(root, room):
            owner[os.path.relpath(path, base).replace('/', '_') + '.o'] = room
    defined, used = {}, []
    for line in listing.splitlines():
        match = re.match(r'.*?:([^:]+\.c\.o):\s*([0-9a-f]+)?\s+(\w)\s+(\S+)$', line)
        if not match:
            continue
        member, _, kind, symbol = match.groups()
        room = owner.get(member, 'the folder itself')
        if kind == 'U':
            used.append((room, member, symbol))
        elif kind in 'TW':
            defined[symbol] = room
    uses = {}
    for room, member, symbol in used:
        other = defined.get(symbol, room)
        if room in rooms and other != room:
            uses.setdefault((room, other), f'{member}: {symbol}')
    return uses, set(defined.values())


def check(root, listing):
    with open(os.path.join(root, TABLE), encoding='utf-8') as file:
        rooms = read_table(file.read())
    errors = []
    found = circle(rooms)
    if found:
        errors.append('table: a circle: ' + ' -> '.join(found))
    errors += check_arrows('includes', rooms, includes(root, rooms))
    uses, seen = calls(root, listing, rooms)
    errors += check_arrows('calls', rooms, uses)
    # A name of members that the build has changed must not look like a library without calls.
    errors += [f'calls: the library has no symbol of {room}'
               for room in rooms if room not in seen and room != 'api']
    with open(os.path.join(root, DOCUMENT), encoding='utf-8') as file:
        text = file.read()
    named = set(re.findall(r'^\| `(\w+)/` \|', text, flags=re.M))
    expected = set(rooms) - {'drivers'}
    errors += [f'{DOCUMENT}: its table of rooms lacks {room}/' for room in sorted(expected - named)]
    errors += [f'{DOCUMENT}: names {room}/, which is not in {TABLE}'
               for room in sorted(named - expected)]
    return errors


def check_itself():
    """Each made-up tree has one fault, and what is found must name it."""
    good = {TABLE: 'low:\nhigh: low\n', DOCUMENT: '| `low/` | x |\n| `high/` | x |\n',
            'lib/vdpa/low/low.h': '', 'lib/vdpa/low/low.c': '#include "low.h"\n',
            'lib/vdpa/high/high.h': '', 'lib/vdpa/high/high.c': '#include "low.h"\n'}
    down = ('x.a:low_low.c.o:0000000000000000 T low\nx.a:high_high.c.o:0000000000000000 T high\n'
            'x.a:high_high.c.o:                 U low\n')
    up = down + 'x.a:low_low.c.o:                 U high\n'
    cases = (
        ({}, down, []),
        ({'lib/vdpa/low/low.c': '#include "high.h"\n'}, down,
         ['includes: low uses high', 'includes: a circle']),
        ({'lib/vdpa/low/low.c': '#include "above.h"\n', 'lib/vdpa/above.h': ''}, down,
         ['includes: low uses the folder itself']),
        ({}, up, ['calls: low uses high', 'calls: a circle']),
        ({TABLE: 'low: high\nhigh: low\n'}, down, ['table: a circle']),
        ({DOCUMENT: '| `low/` | x |\n'}, down, [f'{DOCUMENT}: its table of rooms lacks high/']),
    )
    for change, listing, expected in cases:
        with tempfile.TemporaryDirectory() as root:
            for name, text in {**good, **change}.items():
                path = os.path.join(root, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, 'w', encoding='utf-8') as file:
                    file.write(text)
            errors = check(root, listing)
        if len(errors) != len(expected) or \
                not all(e.startswith(x) for e, x in zip(errors, expected)):
            sys.exit(f'check_layers.py fails its own check: expected {expected}, found {errors}')


def main():
    root, library = sys.argv[1:]
    check_itself()
    listing = subprocess.run(['nm', '-A', library], check=True, text=True,
                             stdout=subprocess.PIPE).stdout
    errors = check(root, listing)
    for error in errors:
        print(error)
    sys.exit(1 if errors else 0)


if __name__ == '__main__':
    main()
