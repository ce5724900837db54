# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""The laboratory: a virtual machine that stands in for one with hardware.

Its root is the host's, read-only, with an overlay in memory: programs, libraries, sources and the
build tree are where they are on the host, and whatever a script writes is gone afterwards. It has
an IOMMU and vfio-pci, so that QEMU's PCI devices serve as hardware that others have written. See
doc/testing.md; `tests/vm/lab` runs a command in it from a shell.
"""

import importlib.util
import modulefinder
import os
import py_compile
import shlex
import sys

import machine
from machine import HERE, ROOT

LabError = machine.MachineError

CACHE = ("UVDPA_CACHE", "XDG_CACHE_HOME")  # for guests inside; see scripts/fetch-guest
# A device's DMA goes through the IOMMU only with iommu_platform=on.
MODERN = ",disable-legacy=on,iommu_platform=on,romfile="
IOMMUS = {
    # Interrupt remapping needs the split irqchip; without caching-mode QEMU's devices behind
    # another VM's vfio-pci are not seen.
    "intel": (["-device", "intel-iommu,intremap=on,caching-mode=on"], "intel_iommu=on"),
    "virtio": (["-device", "virtio-iommu-pci"], ""),
    "none": ([], "intel_iommu=off"),
}


def missing():
    """Why no laboratory can run here, None when one can."""
    return machine.missing("lab")


def pci(slot):
    """The address inside the laboratory of a device given with addr=SLOT."""
    return f"0000:00:{slot:02x}.0"


def net(slot, netdev, mac, extra=""):
    """QEMU's arguments for a virtio-net function; netdev: its back end, without the id."""
    return ["-netdev", f"{netdev},id=net{slot:x}",
            "-device", f"virtio-net-pci,id=dev{slot:x},addr={slot:#x},netdev=net{slot:x},mac={mac}"
                       f"{MODERN}{extra}"]


def blk(slot, image, extra=""):
    """The same for a virtio-blk function on a raw image of the host's, which loses what is discarded."""
    return ["-blockdev", f"driver=file,filename={image},node-name=blk{slot:x},cache.direct=off,discard=unmap",
            "-device", f"virtio-blk-pci,id=dev{slot:x},addr={slot:#x},drive=blk{slot:x}"
                       f"{MODERN}{extra}"]


def python(folder, module, *words):
    """
    The command that runs a module of this folder in a laboratory. To compile takes ten times longer there:
    the bytecode of what it imports of ours is made here and found below folder; site-packages are not
    searched.
    """
    path = [str(HERE), str(HERE.parent / "integration")]
    finder = modulefinder.ModuleFinder(path)
    finder.run_script(str(HERE / f"{module}.py"))
    cache, before = f"{folder}/bytecode", sys.pycache_prefix
    sys.pycache_prefix = cache
    try:
        # What the interpreter has within has no file.
        for source in {found.__file__ for found in finder.modules.values()} - {None}:
            py_compile.compile(source, importlib.util.cache_from_source(source), doraise=True)
    finally:
        sys.pycache_prefix = before
    return shlex.join(["env", f"PYTHONPATH={path[0]}", f"PYTHONPYCACHEPREFIX={cache}", sys.executable,
                       "-S", "-B", "-m", module, *words])


class Lab(machine.Machine):
    """A laboratory in which bash runs script. Use it in a with statement."""

    def __init__(self, folder, name, script, devices=(), iommu="intel", memory=2048, env=(),
                 pass_fds=(), systemd=False):
        """
        folder: for its files, on the host; devices: QEMU arguments, see net() and blk(); iommu:
        intel, virtio or none; memory: MiB; env: a dictionary of further variables for the script;
        pass_fds: QEMU inherits them; systemd: it is the first process, and the script a service.
        """
        arguments, cmdline = IOMMUS[iommu]
        environment = {"PATH": os.environ.get("PATH", "/bin") + ":/usr/sbin:/sbin",
                       "HOME": os.environ.get("HOME", "/"), "LC_ALL": "C.UTF-8",
                       "PYTHONDONTWRITEBYTECODE": "1",
                       **{k: os.environ[k] for k in CACHE if k in os.environ}, **dict(env)}
        files = {
            "prepare.sh": (HERE / "lab-prepare.sh").read_bytes(),
            "lib.sh": machine.words("lab-lib.sh"),
            "environment": "".join(f"export {k}={shlex.quote(str(v))}\n"
                                   for k, v in environment.items()).encode() +
                           f"cd {shlex.quote(str(ROOT))}\n".encode(),
        }
        super().__init__(folder, name, "lab", script, files, [
            "-no-reboot", "-machine", "q35,kernel-irqchip=split", *arguments,
            "-fsdev", "local,id=hostroot,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=hostroot,mount_tag=hostroot", *devices], memory,
            cmdline=f"apparmor=0 {cmdline} lab.iommu={iommu}{' lab.systemd' if systemd else ''}",
            pass_fds=pass_fds)
