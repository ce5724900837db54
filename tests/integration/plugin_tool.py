# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors

"""Builds plugins out of tree, by pkg-config, against the build tree or an installed one."""

import os
import shlex
import shutil
import subprocess

import harness

SOURCE = os.environ.get('UVDPA_SOURCE', '')
BUILD = os.environ.get('UVDPA_BUILD', '')
NULL = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'plugin_null.c')


def run(*command, **kwargs):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            **kwargs)
    if result.returncode != 0:
        raise AssertionError(f'{shlex.join(command)}:\n{result.stdout}')
    return result.stdout


def skip_unless_possible():
    harness.skip_unless(SOURCE and BUILD, 'UVDPA_SOURCE and UVDPA_BUILD name no trees')
    harness.skip_unless(shutil.which('cc') and shutil.which('pkg-config'),
                        'needs cc and pkg-config')


def build(path, source=NULL, pkg_config_path=None, defines=()):
    """Compile a plugin with what uvdpa.pc says and nothing else; its path."""
    env = dict(os.environ, PKG_CONFIG_PATH=pkg_config_path or
               os.path.join(BUILD, 'meson-uninstalled'))
    flags = shlex.split(run('pkg-config', '--cflags', '--libs', 'uvdpa', env=env))
    run('cc', '-Wall', '-Werror', '-shared', '-fPIC', *defines, source, '-o', path, *flags)
    return path


def install(folder):
    """Install the build tree below folder; its pkg-config folder and its library folder."""
    run('meson', 'install', '--no-rebuild', '-C', BUILD, env=dict(os.environ, DESTDIR=folder))
    pcs = run('find', folder, '-name', 'uvdpa.pc', '-o', '-name', 'uvdpa-*.pc').split()
    assert pcs and len(set(map(os.path.dirname, pcs))) == 1, pcs
    # The files name the final prefix: let them name the one they are under now.
    for pc in pcs:
        with open(pc) as f:
            text = f.read()
        with open(pc, 'w') as f:
            f.write(text.replace('prefix=', f'prefix={folder}', 1))
    return os.path.dirname(pcs[0]), os.path.dirname(os.path.dirname(pcs[0]))
